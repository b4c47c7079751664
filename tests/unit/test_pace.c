/* The pace of the backfill: limits hold over time, and the adaptive one gives way and comes back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backfill/internal.h"

/* Keys that start in `seconds`, asked for every 5 ms. */
static unsigned run(struct pace *p, double *now, double seconds, uint64_t bytes_each)
{
	unsigned n = 0;

	for (double end = *now + seconds; *now < end; *now += 0.005) {
		unsigned k = pace_allowed(p, *now, 1024);
		pace_spend(p, k, k * bytes_each);
		n += k;
	}
	return n;
}

static void no_limit(void **state)
{
	struct pace p = { 0 };

	(void)state;
	pace_set(&p, 0, 0, false, 0);
	assert_int_equal(pace_allowed(&p, 1, 1024), 1024);
	assert_int_equal(pace_held_by(&p), HELD_NOTHING);
}

static void keys_limit(void **state)
{
	struct pace p = { 0 };
	double now = 0;

	(void)state;
	pace_set(&p, 100, 0, false, 0);
	assert_in_range(run(&p, &now, 10, 0), 900, 1100);
	assert_int_equal(pace_held_by(&p), HELD_KEYS_LIMIT);
	pace_set(&p, 50000, 0, false, now);
	assert_in_range(run(&p, &now, 2, 0), 90000, 110000);
}

static void bytes_limit(void **state)
{
	struct pace p = { 0 };
	double now = 0;

	(void)state;
	pace_set(&p, 0, 1000000, false, 0);
	/* 10 s of 1 MB/s at 1000 bytes a key. Each burst may overshoot, and is waited for. */
	assert_in_range(run(&p, &now, 10, 1000), 9000, 12000);
	assert_int_equal(pace_held_by(&p), HELD_BYTES_LIMIT);
}

static void adaptive(void **state)
{
	struct pace p = { 0 };
	double now = 0;

	(void)state;
	pace_set(&p, 0, 0, true, 0);
	for (int i = 0; i < 30; i++, now += 0.2)
		pace_adapt(&p, now, 1.0, 100000);
	assert_true(p.cap > 0 && p.cap < 1000);
	assert_true(run(&p, &now, 1, 0) < 2000);
	assert_int_equal(pace_held_by(&p), HELD_ADAPTIVE);
	for (int i = 0; i < 200; i++, now += 0.2)
		pace_adapt(&p, now, 0.0, p.cap);
	assert_true(p.cap > 100000 || p.cap == 0);
	/* Turned off, it holds nothing. */
	pace_set(&p, 0, 0, false, now);
	assert_int_equal(pace_allowed(&p, now, 1024), 1024);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_limit),
		cmocka_unit_test(keys_limit),
		cmocka_unit_test(bytes_limit),
		cmocka_unit_test(adaptive),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
