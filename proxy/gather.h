/* gather.h - while requests come fast, a worker's loop waits a moment before it asks what has come: what came meanwhile is handled in one turn, so that one
 * write to a server carries several requests, and neither it nor we are woken for each.
 *
 * The wait is a share of what the servers take to answer, at most GATHER_MAX_S, and none where it would bring nothing: when no client but one sends, or
 * when fewer than GATHER_LEAST clients would be waited for. It is counted from one look to the next, so that a loop that is busy anyway does not wait at all.
 * Looked after every GATHER_WINDOW_S at most, so that a turn costs one comparison. Thread: the worker's. */
#ifndef CROSSFADE_GATHER_H
#define CROSSFADE_GATHER_H

#include <ev.h>
#include <stdint.h>

#include "proxy/latency.h"

#define GATHER_WINDOW_S 0.005
#define GATHER_MAX_S 0.0001
#define GATHER_SHARE 0.25 /* of the servers' latency */
#define GATHER_LEAST 1.5

struct gather {
	const void *last;   /* who sent last; only compared */
	uint64_t others;    /* reads since then that were of somebody else than the read before */
	ev_tstamp since;    /* the window's begin */
	ev_tstamp wait;     /* in force */
	uint64_t requests, us; /* what was known of the servers' latency */
	ev_tstamp latency;  /* of those that were looked at last */
};

static inline void gather_read(struct gather *g, const void *from)
{
	g->others += g->last != from;
	g->last = from;
}

void gather_thread(void); /* of the calling thread: waits end when they are to */
ev_tstamp gather_wait(uint64_t others, ev_tstamp seconds, ev_tstamp latency); /* what to wait, after as many reads in as many seconds */
void gather_window(struct gather *g, struct ev_loop *loop, const struct latency *sides, unsigned n);

/* At the end of a turn. */
static inline void gather_turn(struct gather *g, struct ev_loop *loop, const struct latency *sides, unsigned n)
{
	ev_tstamp open = ev_now(loop) - g->since;

	if (open >= GATHER_WINDOW_S || open < 0) /* the clock may have been set back */
		gather_window(g, loop, sides, n);
}

#endif
