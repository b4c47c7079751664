/* A flip and the marker: it is on the target before anything is fenced, and no flip goes without it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/phases.h"

struct fake {
	struct phases *p;
	struct state_record disk;
	struct phase_facts facts;
	uint64_t marking, flip;
	int marks, fences, flips, looks, backfills;
	bool write_fails;
	int64_t now;
	int answers;
	enum answer_code code;
	char text[1024];
};

static void io_facts(void *ctx, struct phase_facts *f) { *f = ((struct fake *)ctx)->facts; }
static void io_look(void *ctx) { ((struct fake *)ctx)->looks++; }

static void io_mark(void *ctx, uint64_t flip, const char *migration, uint64_t epoch)
{
	struct fake *f = ctx;

	assert_string_equal(migration, f->disk.migration);
	assert_int_equal(epoch, f->disk.epoch); /* never more than what a restart would read */
	f->marks++;
	f->marking = flip;
}

static bool io_prepare(void *ctx, const struct state_record *r, char *err, size_t n)
{
	(void)ctx, (void)r, (void)err, (void)n;
	return true;
}

static enum state_result io_write(void *ctx, const struct state_record *r, char *err, size_t n)
{
	struct fake *f = ctx;

	snprintf(err, n, "input/output error");
	if (f->write_fails)
		return STATE_UNCHANGED;
	assert_true(r->epoch > f->disk.epoch);
	f->disk = *r;
	return STATE_DURABLE;
}

static void io_fence(void *ctx, uint64_t flip, const struct slot_set *slots, enum side to, unsigned max_pause_ms)
{
	struct fake *f = ctx;

	(void)slots, (void)to, (void)max_pause_ms;
	f->flip = flip;
	f->fences++;
}

static void io_watch(void *ctx, uint64_t flip, bool force) { (void)force, phases_watched(((struct fake *)ctx)->p, 0, flip, true, NULL, ((struct fake *)ctx)->now); }
static void io_settle(void *ctx, uint64_t flip) { phases_settled(((struct fake *)ctx)->p, 0, flip, true, NULL, ((struct fake *)ctx)->now); }
static void io_flip(void *ctx, uint64_t flip) { (void)flip, ((struct fake *)ctx)->flips++; }
static void io_unfence(void *ctx, uint64_t flip) { (void)ctx, (void)flip; }
static void io_mirror(void *ctx, bool on) { (void)ctx, (void)on; }

static void io_backfill(void *ctx, enum backfill_order what, const struct order_args *args, const char *migration)
{
	(void)what, (void)args, (void)migration;
	((struct fake *)ctx)->backfills++;
}

static const struct phase_io io = { .facts = io_facts, .look = io_look, .mark = io_mark, .watch = io_watch, .prepare = io_prepare, .write = io_write, .mirror = io_mirror, .fence = io_fence,
				    .settle = io_settle, .flip = io_flip, .unfence = io_unfence, .backfill = io_backfill };

static void on_answer(void *arg, enum answer_code code, const char *text)
{
	struct fake *f = arg;

	f->answers++;
	f->code = code;
	snprintf(f->text, sizeof(f->text), "%s", text);
}

static void order(struct fake *f, enum order what)
{
	struct order_args args = { .wait_s = 30, .keys_per_s = -1, .bytes_per_s = -1, .adaptive = -1 };

	phases_order(f->p, what, &args, (struct answer){ on_answer, f }, f->now);
}

static void expect(struct fake *f, int answers, enum answer_code code, const char *part)
{
	assert_int_equal(f->answers, answers);
	assert_int_equal(f->code, code);
	if (!strstr(f->text, part))
		fail_msg("'%s' lacks '%s'", f->text, part);
}

/* Every worker (there is one) has fenced, settled and flipped. */
static void flips(struct fake *f)
{
	phases_fenced(f->p, 0, f->flip, true, NULL, f->now);
	phases_flipped(f->p, 0, f->flip, 0, 0, NULL, f->now);
}

static struct fake *begin(enum phase phase)
{
	struct fake *f = calloc(1, sizeof(*f));

	f->facts = (struct phase_facts){ .target_configured = true, .backfill = BF_DONE, .max_lag_ms = 100, .max_pause_ms = 1000 };
	for (int s = 0; s < SIDES; s++)
		f->facts.up[s] = f->facts.covered[s] = f->facts.cluster[s] = true;
	f->disk = (struct state_record){ .phase = phase, .epoch = 3 };
	if (phase == PHASE_SYNCED) {
		f->disk.backfill_done = f->disk.verify_clean = true;
		state_random_id(f->disk.migration);
	}
	f->p = phases_new(&io, f, 1, &f->disk);
	return f;
}

static void end(struct fake *f)
{
	phases_free(f->p);
	free(f);
}

static void test_it_comes_before_the_fence(void **state)
{
	struct fake *f = begin(PHASE_SYNCED);

	(void)state;
	order(f, ORDER_CUTOVER);
	assert_int_equal(f->marks, 1);
	assert_int_equal(f->fences + f->answers, 0);
	order(f, ORDER_ABORT);
	expect(f, 1, ANSWER_REFUSED, "flipping");
	phases_marked(f->p, f->marking + 1, ANSWER_OK, "", f->now); /* of another flip */
	assert_int_equal(f->fences, 0);
	phases_marked(f->p, f->marking, ANSWER_OK, "", f->now);
	assert_int_equal(f->fences, 1);
	phases_marked(f->p, f->marking, ANSWER_OK, "", f->now);
	flips(f);
	assert_int_equal(phases_record(f->p)->phase, PHASE_CUTOVER);
	order(f, ORDER_ROLLBACK);
	assert_int_equal(f->marks, 1); /* the way back needs none */
	flips(f);
	assert_int_equal(phases_record(f->p)->phase, PHASE_SYNCED);
	assert_int_equal(f->flips, 2);
	order(f, ORDER_ABORT);
	assert_int_equal(f->code, ANSWER_OK);
	assert_int_equal(strlen(f->disk.given_up), MIGRATION_ID_LEN); /* its marker is to be removed */
	assert_string_equal(f->disk.migration, "");
	end(f);
}

/* It took a while. */
static void test_the_gates_are_asked_again(void **state)
{
	struct fake *f = begin(PHASE_SYNCED);

	(void)state;
	order(f, ORDER_CUTOVER);
	f->facts.up[SIDE_TARGET] = false;
	phases_marked(f->p, f->marking, ANSWER_OK, "", f->now);
	expect(f, 1, ANSWER_UNREACHABLE, "target");
	assert_int_equal(f->fences, 0);
	end(f);
}

static void test_no_flip_without_it(void **state)
{
	struct fake *f = begin(PHASE_SYNCED);

	(void)state;
	order(f, ORDER_CUTOVER);
	phases_marked(f->p, f->marking, ANSWER_REFUSED, "it is another's", f->now);
	expect(f, 1, ANSWER_REFUSED, "it is another's");
	order(f, ORDER_CUTOVER);
	phases_marked(f->p, f->marking, ANSWER_UNREACHABLE, "no reply", f->now);
	expect(f, 2, ANSWER_UNREACHABLE, "no reply");
	order(f, ORDER_CUTOVER);
	f->now += 10000;
	phases_tick(f->p, f->now);
	expect(f, 3, ANSWER_TIMEDOUT, "in time");
	phases_marked(f->p, f->marking, ANSWER_OK, "", f->now); /* too late */
	assert_int_equal(f->fences, 0);
	assert_int_equal(phases_record(f->p)->phase, PHASE_SYNCED);
	end(f);
}

/* A record that could not be written has an epoch that no restart would read: the marker must not have it. */
static void test_its_epoch_is_durable(void **state)
{
	struct fake *f = begin(PHASE_SYNCED);

	(void)state;
	f->write_fails = true;
	phases_verify_void(f->p, "a node failed over");
	assert_true(phases_record(f->p)->epoch > f->disk.epoch);
	assert_int_equal(phases_durable_epoch(f->p), f->disk.epoch);
	end(f);
}

static void test_another_bars_the_start(void **state)
{
	struct fake *f = begin(PHASE_PROXY);

	(void)state;
	strcpy(f->facts.foreign, "another's marker");
	order(f, ORDER_START);
	phases_looked(f->p, f->now);
	expect(f, 1, ANSWER_REFUSED, "another's marker");
	strcpy(f->disk.given_up, "*");
	f->facts.foreign[0] = '\0';
	order(f, ORDER_START);
	phases_looked(f->p, f->now);
	assert_int_equal(f->disk.phase, PHASE_MIRROR);
	assert_string_equal(f->disk.given_up, "");
	end(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_it_comes_before_the_fence), cmocka_unit_test(test_the_gates_are_asked_again),
		cmocka_unit_test(test_no_flip_without_it),        cmocka_unit_test(test_its_epoch_is_durable),
		cmocka_unit_test(test_another_bars_the_start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
