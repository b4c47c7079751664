/* A flip, and what every worker has to say before: that what others write is watched everywhere; and that what was published has been heard, before the record is written and only until the deadline. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/phases.h"

#define WORKERS 2

struct fake {
	struct phases *p;
	uint64_t flip, watch;
	bool by_hand, forced;
	int watches, fences, settles, flips, unfences, writes;
	int64_t now;
	enum answer_code code;
};

static void io_facts(void *ctx, struct phase_facts *f)
{
	(void)ctx;
	*f = (struct phase_facts){ .target_configured = true, .backfill = BF_DONE, .max_lag_ms = 100, .max_pause_ms = 50 };
	for (int s = 0; s < SIDES; s++)
		f->up[s] = f->covered[s] = f->cluster[s] = true;
}

static bool io_prepare(void *ctx, const struct state_record *r, char *err, size_t n)
{
	(void)ctx, (void)r, (void)err, (void)n;
	return true;
}

static enum state_result io_write(void *ctx, const struct state_record *r, char *err, size_t n)
{
	(void)r, (void)err, (void)n;
	((struct fake *)ctx)->writes++;
	return STATE_DURABLE;
}

static void io_fence(void *ctx, uint64_t flip, const struct slot_set *slots, enum side to, unsigned max_pause_ms)
{
	struct fake *f = ctx;

	(void)slots, (void)to, (void)max_pause_ms;
	f->flip = flip;
	f->fences++;
}

static void watched(struct fake *f, unsigned worker, bool ok)
{
	phases_watched(f->p, worker, f->watch, ok, ok ? NULL : "slot 5 is being moved", f->now);
}

static void io_watch(void *ctx, uint64_t flip, bool force)
{
	struct fake *f = ctx;

	f->watches++;
	f->watch = flip;
	f->forced = force;
	for (unsigned i = 0; !f->by_hand && i < WORKERS; i++)
		watched(f, i, true);
}

static void io_settle(void *ctx, uint64_t flip) { (void)flip, ((struct fake *)ctx)->settles++; }
static void io_flip(void *ctx, uint64_t flip) { (void)flip, ((struct fake *)ctx)->flips++; }
static void io_unfence(void *ctx, uint64_t flip) { (void)flip, ((struct fake *)ctx)->unfences++; }

static void io_mark(void *ctx, uint64_t flip, const char *migration, uint64_t epoch)
{
	struct fake *f = ctx;

	(void)migration, (void)epoch;
	phases_marked(f->p, flip, ANSWER_OK, "", f->now);
}

static const struct phase_io io = { .facts = io_facts, .mark = io_mark, .watch = io_watch, .prepare = io_prepare, .write = io_write, .fence = io_fence, .settle = io_settle,
				    .flip = io_flip, .unfence = io_unfence };

static void on_answer(void *arg, enum answer_code code, const char *text)
{
	(void)text;
	((struct fake *)arg)->code = code;
}

static void fenced(struct fake *f)
{
	for (unsigned i = 0; i < WORKERS; i++)
		phases_fenced(f->p, i, f->flip, true, NULL, f->now);
}

static void settled(struct fake *f, unsigned worker, bool ok)
{
	phases_settled(f->p, worker, f->flip, ok, ok ? NULL : "a subscription is not confirmed", f->now);
}

/* Synced and verified, and the order to flip is given. */
static void order(struct fake *f, bool force, bool by_hand)
{
	struct state_record record = { .phase = PHASE_SYNCED, .backfill_done = true, .verify_clean = true };
	struct order_args args = { .wait_s = 30, .force = force, .keys_per_s = -1, .bytes_per_s = -1, .adaptive = -1 };

	*f = (struct fake){ .code = ANSWER_OK, .by_hand = by_hand };
	f->p = phases_new(&io, f, WORKERS, &record);
	phases_order(f->p, ORDER_CUTOVER, &args, (struct answer){ on_answer, f }, f->now);
}

static void cutover(struct fake *f)
{
	order(f, true, false);
	assert_int_equal(f->fences, 1);
	fenced(f);
	assert_int_equal(f->settles, 1);
	assert_true(phases_fencing(f->p));
	assert_int_equal(f->writes, 0);
}

static void test_every_worker_has_to_have_heard(void **state)
{
	struct fake f;

	(void)state;
	cutover(&f);
	settled(&f, 0, true);
	settled(&f, 0, true);
	assert_int_equal(f.writes + f.flips, 0);
	settled(&f, 1, true);
	assert_int_equal(f.writes, 1);
	assert_int_equal(f.flips, 1);
	phases_free(f.p);
}

static void test_the_deadline_undoes(void **state)
{
	struct fake f;

	(void)state;
	cutover(&f);
	settled(&f, 0, true);
	f.now += 51;
	phases_tick(f.p, f.now);
	assert_int_equal(f.code, ANSWER_TIMEDOUT);
	settled(&f, 1, true);
	assert_int_equal(f.writes + f.flips, 0);
	assert_int_equal(f.unfences, 1);
	phases_free(f.p);
}

static void test_a_refusal_is_tried_again(void **state)
{
	struct fake f;

	(void)state;
	cutover(&f);
	settled(&f, 1, false);
	assert_int_equal(f.unfences, 1);
	f.now += 150;
	phases_tick(f.p, f.now);
	assert_int_equal(f.fences, 2);
	fenced(&f);
	settled(&f, 0, true);
	settled(&f, 1, true);
	assert_int_equal(f.flips, 1);
	phases_free(f.p);
}

static void test_the_end_undoes(void **state)
{
	struct fake f;

	(void)state;
	cutover(&f);
	phases_end(f.p);
	assert_int_equal(f.unfences, 1);
	assert_int_equal(f.writes, 0);
	phases_free(f.p);
}

static void test_every_worker_has_to_watch(void **state)
{
	struct fake f;

	(void)state;
	order(&f, false, true);
	assert_int_equal(f.watches, 1);
	assert_false(f.forced);
	watched(&f, 0, true);
	watched(&f, 0, true);
	assert_int_equal(f.fences, 0);
	watched(&f, 1, true);
	assert_int_equal(f.fences, 1);
	phases_free(f.p);
}

/* For as long as the order waits; each time all are asked anew, and words that come late are no words. */
static void test_the_watch_is_tried_again(void **state)
{
	struct fake f;

	(void)state;
	order(&f, false, true);
	watched(&f, 0, false);
	watched(&f, 1, true);
	f.now += 50;
	phases_tick(f.p, f.now);
	assert_int_equal(f.watches, 1);
	f.now += 100;
	phases_tick(f.p, f.now);
	assert_int_equal(f.watches, 2);
	phases_watched(f.p, 0, f.watch - 1, true, NULL, f.now);
	watched(&f, 1, true);
	assert_int_equal(f.fences, 0);
	f.now += 31000; /* worker 0 never answers */
	phases_tick(f.p, f.now);
	assert_int_equal(f.code, ANSWER_REFUSED);
	watched(&f, 0, true);
	assert_int_equal(f.fences, 0);
	phases_free(f.p);
}

static void test_force_goes_on_without_the_watch(void **state)
{
	struct fake f;

	(void)state;
	order(&f, true, true);
	watched(&f, 0, false);
	assert_false(f.forced);
	f.now += 30001;
	phases_tick(f.p, f.now);
	assert_int_equal(f.watches, 2);
	watched(&f, 1, false);
	assert_int_equal(f.watches, 3);
	assert_true(f.forced);
	watched(&f, 0, true);
	watched(&f, 1, true);
	assert_int_equal(f.fences, 1);
	phases_free(f.p);
}

/* A node may have been lost since. */
static void test_a_fence_that_failed_watches_again(void **state)
{
	struct fake f;

	(void)state;
	order(&f, false, false);
	assert_int_equal(f.watches, 1);
	phases_fenced(f.p, 0, f.flip, false, "not every node is watched any more", f.now);
	f.by_hand = true;
	f.now += 150;
	phases_tick(f.p, f.now);
	assert_int_equal(f.watches, 2);
	assert_int_equal(f.fences, 1);
	watched(&f, 1, true);
	watched(&f, 0, true);
	assert_int_equal(f.fences, 2);
	phases_free(f.p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_worker_has_to_have_heard),
		cmocka_unit_test(test_the_deadline_undoes),
		cmocka_unit_test(test_a_refusal_is_tried_again),
		cmocka_unit_test(test_the_end_undoes),
		cmocka_unit_test(test_every_worker_has_to_watch),
		cmocka_unit_test(test_the_watch_is_tried_again),
		cmocka_unit_test(test_force_goes_on_without_the_watch),
		cmocka_unit_test(test_a_fence_that_failed_watches_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
