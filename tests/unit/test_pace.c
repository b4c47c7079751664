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

/* Clients whose requests take `calm` us, and more in proportion to what is copied: `per_1000` us for a thousand keys/s. */
struct world {
	struct pace p;
	double now, per_s, calm, per_1000, rate;
	uint64_t requests, us;
	unsigned worst; /* keys started in one turn */
};

/* Keys that start in `seconds`, in turns of 5 ms. */
static double lives(struct world *w, double seconds)
{
	double n = 0, due = 0;

	for (double end = w->now + seconds; w->now < end; w->now += 0.005) {
		pace_adapt(&w->p, w->now, w->requests, w->us);
		unsigned k = pace_allowed(&w->p, w->now, 1024);
		pace_spend(&w->p, k, 0);
		n += k;
		w->worst = k > w->worst ? k : w->worst;
		w->rate = 0.7 * w->rate + 0.3 * (k / 0.005);
		for (due += w->per_s * 0.005; due >= 1; due--) {
			w->requests++;
			w->us += (uint64_t)(w->calm + w->per_1000 * w->rate / 1000);
		}
	}
	return n / seconds;
}

/* Without clients nothing holds it. With them it begins small, and grows to what they do not notice, wherever that is; when they have gone, nothing holds it. */
static void adaptive(void **state)
{
	struct world w = { .per_s = 0, .calm = 500, .per_1000 = 10, .now = 100, .requests = 12345, .us = 99999999 };

	(void)state;
	pace_set(&w.p, 0, 0, true, w.now);
	assert_true(lives(&w, 1) > 200000);
	assert_int_equal(pace_held_by(&w.p), HELD_NOTHING);
	w.per_s = 2000;
	lives(&w, 0.1);
	w.worst = 0;
	assert_in_range(lives(&w, 1), 500, 2000);
	assert_int_equal(pace_held_by(&w.p), HELD_ADAPTIVE);
	lives(&w, 30);
	/* A twentieth of 500 us and 20 us more is 4,500 keys/s. */
	assert_in_range(lives(&w, 30), 2000, 6000);
	assert_in_range(w.worst, 1, 200);
	w.per_s = 0;
	lives(&w, 1);
	assert_true(lives(&w, 1) > 200000);
	/* Turned off, it holds nothing. */
	pace_set(&w.p, 0, 0, false, w.now);
	assert_int_equal(pace_allowed(&w.p, w.now, 1024), 1024);
}

/* Clients that wait longer for reasons of their own do not stop it; those that wait for it make it go down at once, but never to nothing. */
static void adaptive_answers_for_itself(void **state)
{
	struct world w = { .per_s = 2000, .calm = 500, .per_1000 = 1, .now = 100 };

	(void)state;
	pace_set(&w.p, 0, 0, true, w.now);
	lives(&w, 30);
	w.calm = 5000;
	lives(&w, 10);
	assert_true(lives(&w, 10) > 10000);
	w.per_1000 = 10000;
	lives(&w, 3);
	assert_in_range(lives(&w, 20), 400, 2000);
	w.per_1000 = 0;
	lives(&w, 60);
	assert_true(lives(&w, 10) > 20000);
}

/* Checks of verify are held by it, too, and by no other limit. */
static void checks(void **state)
{
	struct world w = { .per_s = 2000, .calm = 500, .per_1000 = 10000, .now = 100 };
	unsigned n = 0;

	(void)state;
	pace_set(&w.p, 10, 0, false, w.now);
	assert_int_equal(pace_checks(&w.p, w.now, 1024), 1024);
	pace_set(&w.p, 0, 0, true, w.now);
	lives(&w, 20);
	for (int i = 0; i < 400; i++) {
		lives(&w, 0.005);
		n += pace_checks(&w.p, w.now, 1024);
	}
	assert_in_range(n, 100, 4000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_limit),
		cmocka_unit_test(keys_limit),
		cmocka_unit_test(bytes_limit),
		cmocka_unit_test(adaptive),
		cmocka_unit_test(adaptive_answers_for_itself),
		cmocka_unit_test(checks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
