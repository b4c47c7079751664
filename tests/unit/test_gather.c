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
	near(gather_wait(0, 0.005, 0.001), 0);         /* nobody, or one client alone */
	near(gather_wait(10, 0.005, 0.0004), 0);       /* 2,000/s: a fifth of a client in 100 µs */
	near(gather_wait(150, 0.005, 0.00024), 6e-5);  /* 30,000/s: a share of what the servers take */
	near(gather_wait(150, 0.005, 0.00004), 0);     /* servers are quick: nobody would come meanwhile */
	near(gather_wait(1000, 0.005, 0.00004), 1e-5);
	near(gather_wait(500, 0.005, 0.02), GATHER_MAX_S);
	near(gather_wait(500, 5, 0.02), 0);            /* the same after a rest */
}

/* A client alone is never waited with, however fast it sends. */
static void test_reads(void **state)
{
	struct gather g = { .last = NULL };
	int a, b;

	(void)state;
	for (int i = 0; i < 1000; i++)
		gather_read(&g, &a);
	assert_int_equal(g.others, 1);
	for (int i = 0; i < 100; i++) {
		gather_read(&g, &b);
		gather_read(&g, &a);
	}
	assert_int_equal(g.others, 201);
}

/* A window that is not over changes nothing; one that is begins the next. */
static void test_windows(void **state)
{
	struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
	struct gather g = { .since = ev_now(loop), .others = 1000000 };
	struct latency sides[2] = { { 0, 0 }, { 10, 10000 } };

	(void)state;
	gather_turn(&g, loop, sides, 2);
	assert_int_equal(g.others, 1000000);
	near(g.wait, 0);
	g.since -= 0.01;
	gather_turn(&g, loop, sides, 2);
	assert_int_equal(g.others, 0);
	near(g.wait, GATHER_MAX_S);
	near(g.since, ev_now(loop));
	near(g.latency, 0.001);
	sides[0].requests = 5; /* those since the last window count; without any, what was known does */
	sides[0].us = 500;
	g.since -= 0.01;
	gather_turn(&g, loop, sides, 2);
	near(g.latency, 0.0001);
	g.since -= 0.01;
	gather_turn(&g, loop, sides, 2);
	near(g.latency, 0.0001);
	g.since += 3600; /* the clock was set back */
	g.others = 1000;
	gather_turn(&g, loop, sides, 2);
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
