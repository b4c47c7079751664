/* When a worker waits for more to come, and how long. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "proxy/gather.h"

static void near(ev_tstamp got, ev_tstamp expected)
{
	assert_true(fabs(got - expected) < 1e-9);
}

static void test_wait(void **state)
{
	(void)state;
	near(gather_wait(0, 1, 0.005, 0.001), 0);          /* nobody, or one client alone */
	near(gather_wait(10, 10, 0.005, 0.0004), 0);       /* 2,000/s: less than a client in 100 µs */
	near(gather_wait(150, 45, 0.005, 0.00012), 0.00012); /* 30,000/s: what the servers take */
	near(gather_wait(150, 45, 0.005, 0.00004), 0);     /* servers are quick: hardly anybody would come meanwhile */
	near(gather_wait(1000, 200, 0.005, 0.00004), 0.00004);
	near(gather_wait(500, 400, 0.005, 0.001), GATHER_MAX_S);
	near(gather_wait(50, 50, 0.005, 0.003), 0.0006);   /* slow: a fifth, … */
	near(gather_wait(500, 400, 0.005, 0.02), GATHER_SLOW_MAX_S); /* … but no more than this */
	near(gather_wait(10, 8, 0.005, 0.005), 0);         /* … and if somebody comes */
	near(gather_wait(250, 8, 0.005, 0.0002), 0);       /* eight that are fast: in 40 µs only two of them come */
	near(gather_wait(500, 16, 0.005, 0.0002), 16 * GATHER_EACH_S);
	near(gather_wait(500, 400, 5, 0.02), 0);           /* the same after a rest */
}

/* A client alone is never waited with, however fast it sends. */
static void test_reads(void **state)
{
	struct gather g = { .last = NULL, .since = 4.9 };
	int a, b;

	(void)state;
	gather_read(&g, &a, 0);
	for (int i = 1; i < 1000; i++)
		gather_read(&g, &a, 5);
	assert_int_equal(g.others, 1);
	assert_int_equal(g.clients, 1);
	gather_read(&g, &b, 4.9); /* before the window */
	for (int i = 0; i < 100; i++) {
		gather_read(&g, &a, 5.1);
		gather_read(&g, &b, 5.1);
	}
	assert_int_equal(g.others, 202);
	assert_int_equal(g.clients, 2);
}

/* A window that is not over changes nothing; one that is begins the next. */
static void test_windows(void **state)
{
	struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
	struct gather g = { .since = ev_now(loop), .others = 1000000, .clients = 1000 };
	struct latency sides[2] = { { 0, 0 }, { 10, 10000 } };

	(void)state;
	gather_turn(&g, loop, 1, sides, 2, false);
	assert_int_equal(g.others, 1000000);
	near(g.wait, 0);
	g.since -= 0.01;
	gather_turn(&g, loop, 1, sides, 2, false);
	assert_int_equal(g.others, 0);
	assert_int_equal(g.clients, 0);
	near(g.wait, GATHER_MAX_S);
	near(g.set, GATHER_MAX_S);
	gather_turn(&g, loop, 1, sides, 2, true); /* a flip holds requests */
	near(g.set, 0);
	gather_turn(&g, loop, 1, sides, 2, false);
	near(g.set, GATHER_MAX_S);
	near(g.since, ev_now(loop));
	near(g.latency, 0.001);
	sides[0].requests = 5; /* those since the last window count; without any, what was known does */
	sides[0].us = 500;
	g.since -= 0.01;
	gather_turn(&g, loop, 1, sides, 2, false);
	near(g.latency, 0.0001);
	g.since -= 0.01;
	gather_turn(&g, loop, 1, sides, 2, false);
	near(g.latency, 0.0001);
	g.others = 500; /* sixteen clients of this worker, as many of another one */
	g.clients = 16;
	g.since -= 0.01;
	gather_turn(&g, loop, 2, sides, 2, false);
	near(g.wait, 0.0001);
	sides[0].requests += 5;
	sides[0].us += 2500;
	g.others = 500;
	g.clients = 16;
	g.since -= 0.01;
	gather_turn(&g, loop, 2, sides, 2, false);
	near(g.wait, 32 * GATHER_EACH_S);
	g.since += 3600; /* the clock was set back */
	g.others = 1000;
	g.clients = 1000;
	gather_turn(&g, loop, 1, sides, 2, false);
	near(g.wait, 0);
	near(g.since, ev_now(loop));
	ev_loop_destroy(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_wait), cmocka_unit_test(test_reads), cmocka_unit_test(test_windows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
