/* gather.h - while requests come fast, a worker's loop waits a moment before it asks what has come: what came meanwhile is handled in one turn, so that one
 * write to a server carries several requests, and neither it nor we are woken for each.
 *
 * The wait is no longer than what the servers take to answer, than GATHER_MAX_S, and than GATHER_EACH_S for each client that sends: with few of them all would soon
 * wait for us, and nothing come any more. Of servers that are slow, mostly since much waits there, it may take GATHER_SHARE, up to GATHER_SLOW_MAX_S: nobody notices, and fewer
 * wake-ups is what they need. Of several workers each takes its own clients, and what they send, for its share of all. There is none where it would bring nothing: when no client but one sends, or when fewer than GATHER_LEAST clients
 * would be waited for. It is counted from one look to the next, so that a loop that is busy anyway does not wait at all.
 * While it waits long, the replies of a pipeline wait for those behind them, too (client.c), and effects for more of them (worker.c).
 * Looked after every GATHER_WINDOW_S at most, so that a turn costs one comparison. Thread: the worker's. */
#ifndef CROSSFADE_GATHER_H
#define CROSSFADE_GATHER_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

#include "proxy/latency.h"

#define GATHER_WINDOW_S 0.005
#define GATHER_MAX_S 0.0003
#define GATHER_EACH_S 0.000005
#define GATHER_SHARE 0.2
#define GATHER_SLOW_MAX_S 0.001
#define GATHER_LEAST 3
#define GATHER_LONG_S 0.0001

struct gather {
	const void *last;   /* who sent last; only compared */
	uint64_t others;    /* reads in this window that were of somebody else than the read before */
	unsigned clients;   /* of whom they were, all reads */
	ev_tstamp since;    /* the window's begin */
	ev_tstamp wait;     /* by what the last window had */
	ev_tstamp set;      /* what the loop does */
	uint64_t requests, us; /* what was known of the servers' latency */
	ev_tstamp latency;  /* of those that were looked at last */
};

/* seen: when it was read from before. */
static inline void gather_read(struct gather *g, const void *from, ev_tstamp seen)
{
	g->others += g->last != from;
	g->last = from;
	g->clients += seen <= g->since;
}

void gather_thread(void); /* of the calling thread: waits end when they are to */
ev_tstamp gather_wait(uint64_t others, unsigned clients, ev_tstamp seconds, ev_tstamp latency); /* what to wait, after as many reads in as many seconds; clients: of all workers */
void gather_window(struct gather *g, struct ev_loop *loop, unsigned workers, const struct latency *sides, unsigned n);

/* So long that replies, too, may wait a turn for others: so many send that nobody waits for those of one. */
static inline bool gather_is_long(const struct gather *g)
{
	return g->wait >= GATHER_LONG_S;
}

/* Once a turn, before what it brought is written. hurry: each turn is waited for, by requests that are held. */
static inline void gather_turn(struct gather *g, struct ev_loop *loop, unsigned workers, const struct latency *sides, unsigned n, bool hurry)
{
	ev_tstamp open = ev_now(loop) - g->since;

	if (open >= GATHER_WINDOW_S || open < 0) /* the clock may have been set back */
		gather_window(g, loop, workers, sides, n);
	ev_tstamp wait = hurry ? 0 : g->wait;
	if (wait != g->set)
		ev_set_io_collect_interval(loop, g->set = wait);
}

#endif
