#include "proxy/gather.h"

#include <sys/prctl.h>

/* The kernel lets a sleep last 50 µs longer, unless it is told: as long as the sleep itself. */
void gather_thread(void)
{
	prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
}

static ev_tstamp less(ev_tstamp a, ev_tstamp b)
{
	return a < b ? a : b;
}

static ev_tstamp more(ev_tstamp a, ev_tstamp b)
{
	return a > b ? a : b;
}

ev_tstamp gather_wait(uint64_t others, unsigned clients, ev_tstamp seconds, ev_tstamp latency)
{
	ev_tstamp quick = less(less(latency, GATHER_MAX_S), clients * GATHER_EACH_S), wait = more(quick, less(latency * GATHER_SHARE, GATHER_SLOW_MAX_S));

	return (ev_tstamp)others * wait >= GATHER_LEAST * seconds ? wait : 0;
}

static void look_at_latency(struct gather *g, const struct latency *sides, unsigned n)
{
	uint64_t requests = 0, us = 0;

	for (unsigned i = 0; i < n; i++) {
		requests += atomic_load_explicit(&sides[i].requests, memory_order_relaxed);
		us += atomic_load_explicit(&sides[i].us, memory_order_relaxed);
	}
	if (requests != g->requests)
		g->latency = (ev_tstamp)(us - g->us) / (ev_tstamp)(requests - g->requests) / 1e6;
	g->requests = requests;
	g->us = us;
}

void gather_window(struct gather *g, struct ev_loop *loop, unsigned workers, const struct latency *sides, unsigned n)
{
	look_at_latency(g, sides, n);
	ev_tstamp now = ev_now(loop), seconds = now - g->since;
	ev_tstamp wait = seconds > 0 ? gather_wait(g->others * workers, g->clients * workers, seconds, g->latency) : 0;

	g->wait = wait;
	g->others = 0;
	g->clients = 0;
	g->since = now;
}
