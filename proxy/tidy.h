/* tidy.h - what work has left in a worker goes back to the system: pools of blocks and requests, buffers of data connections.
 *
 * Every quarter of a second, while there is work, what the pools did not need since the last look is freed; after a quarter without any work that is all, so
 * that connections which have worked cost no more than those which have not. Nothing is looked at while a worker rests. Thread: the worker's. */
#ifndef CROSSFADE_TIDY_H
#define CROSSFADE_TIDY_H

#include <ev.h>
#include <stddef.h>
#include <stdint.h>

struct worker;

struct tidy {
	ev_timer timer;
	uint64_t work, seen; /* sockets that were written to; …at the last look */
	size_t freed;      /* bytes that malloc has, and the system has not yet */
	ev_tstamp trimmed;
};

void tidy_init(struct worker *w);

static inline void tidy_later(struct tidy *t)
{
	t->work++;
}

/* At the end of a turn. */
static inline void tidy_turn(struct tidy *t, struct ev_loop *loop)
{
	if (t->work != t->seen && !ev_is_active(&t->timer))
		ev_timer_again(loop, &t->timer);
}

#endif
