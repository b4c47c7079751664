/* The phase machine against a fake fleet: what each order does in each phase, and that a flip loses nothing whatever fails (invariant 7). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/log.h"
#include "proxy/phases.h"

#define WORKERS 3

/* ---- the fake ---- */

struct fake {
	struct phase_facts facts;
	struct state_record disk;   /* what a restart would read */
	enum state_result next_write;
	bool unknown_reached;       /* of an unknown outcome: the record did reach the disk */
	bool prepare_fails;
	int writes, mirrors_on, mirrors_off, fences, unfences, flips, finishes, looks, starts, stops, verifies, throttles, walks;
	uint64_t flip;
	unsigned fenced_slots;
	int64_t now;
	struct phases *p;
	/* the last answer */
	int answers;
	enum answer_code code;
	char text[4096];
};

static void fake_facts(void *ctx, struct phase_facts *f) { *f = ((struct fake *)ctx)->facts; }
static void fake_look(void *ctx) { ((struct fake *)ctx)->looks++; }

static bool fake_prepare(void *ctx, const struct state_record *r, char *err, size_t n)
{
	(void)r;
	snprintf(err, n, "disk full");
	return !((struct fake *)ctx)->prepare_fails;
}

static enum state_result fake_write(void *ctx, const struct state_record *r, char *err, size_t n)
{
	struct fake *f = ctx;

	snprintf(err, n, "input/output error");
	f->writes++;
	if (f->next_write == STATE_DURABLE || (f->next_write == STATE_UNKNOWN && f->unknown_reached)) {
		assert_true(r->epoch > f->disk.epoch); /* epochs never go back */
		f->disk = *r;
	}
	return f->next_write;
}

static void fake_mirror(void *ctx, bool on)
{
	struct fake *f = ctx;

	f->mirrors_on += on;
	f->mirrors_off += !on;
}

static void fake_fence(void *ctx, uint64_t flip, const struct slot_set *slots, enum side to, unsigned max_pause_ms)
{
	struct fake *f = ctx;

	(void)to, (void)max_pause_ms;
	assert_int_equal(f->fences, f->unfences + f->flips); /* never two at once */
	f->fences++;
	f->flip = flip;
	f->fenced_slots = 0;
	for (unsigned i = 0; i < SLOTS; i++)
		f->fenced_slots += slot_set_has(slots, i);
}

static void fake_flip(void *ctx, uint64_t flip)
{
	struct fake *f = ctx;

	assert_int_equal(flip, f->flip);
	/* Invariant 7: the record is durable before any worker learns of the new authority. */
	assert_memory_equal(f->disk.authority, phases_record(f->p)->authority, SLOTS);
	f->flips++;
}

static void fake_settle(void *ctx, uint64_t flip)
{
	struct fake *f = ctx;

	for (unsigned i = 0; i < WORKERS; i++)
		phases_settled(f->p, i, flip, true, NULL, f->now);
}

static void fake_unfence(void *ctx, uint64_t flip) { assert_int_equal(flip, ((struct fake *)ctx)->flip); ((struct fake *)ctx)->unfences++; }

static void fake_finish(void *ctx, enum side authority) { assert_int_equal(authority, SIDE_TARGET); ((struct fake *)ctx)->finishes++; }

static void fake_backfill(void *ctx, enum backfill_order what, const struct order_args *args, const char *migration)
{
	struct fake *f = ctx;

	(void)args, (void)migration;
	f->starts += what == BACKFILL_START;
	f->stops += what == BACKFILL_STOP;
	f->verifies += what == BACKFILL_VERIFY;
	f->throttles += what == BACKFILL_THROTTLE;
	if (what == BACKFILL_VERIFY)
		f->facts.verifying = true;
}

static void fake_mark(void *ctx, uint64_t flip, const char *m, uint64_t e) { (void)m, (void)e, phases_marked(((struct fake *)ctx)->p, flip, ANSWER_OK, "", ((struct fake *)ctx)->now); }
static void fake_watch(void *ctx, uint64_t flip, bool force) { for (unsigned i = 0; !force && i < WORKERS; i++) phases_watched(((struct fake *)ctx)->p, i, flip, true, NULL, ((struct fake *)ctx)->now); }
static void fake_walk(void *ctx) { ((struct fake *)ctx)->walks++; }
static char *fake_verify_json(void *ctx) { (void)ctx; return strdup("{}"); }

static const struct phase_io fake_io = { fake_facts, fake_look, fake_mark, fake_watch, fake_prepare, fake_write, fake_mirror, fake_walk, fake_fence, fake_settle, fake_flip,
					 fake_unfence, fake_finish, fake_backfill, fake_verify_json };

static void on_answer(void *arg, enum answer_code code, const char *text)
{
	struct fake *f = arg;

	f->answers++;
	f->code = code;
	snprintf(f->text, sizeof(f->text), "%s", text);
}

static struct fake *fake_new(const struct state_record *from)
{
	static const struct state_record empty;
	struct fake *f = calloc(1, sizeof(*f));

	f->disk = from ? *from : empty;
	f->facts.target_configured = true;
	for (int s = 0; s < SIDES; s++)
		f->facts.up[s] = f->facts.covered[s] = f->facts.cluster[s] = true;
	f->facts.max_lag_ms = 100;
	f->facts.max_pause_ms = 1000;
	f->p = phases_new(&fake_io, f, WORKERS, &f->disk);
	phases_begin(f->p, NULL, false, 0);
	return f;
}

static void fake_free(struct fake *f)
{
	phases_free(f->p);
	free(f);
}

static struct order_args args_of(void)
{
	return (struct order_args){ .wait_s = 30, .keys_per_s = -1, .bytes_per_s = -1, .adaptive = -1 };
}

static void order(struct fake *f, enum order order, const struct order_args *a)
{
	struct order_args plain = args_of();

	f->text[0] = '\0';
	phases_order(f->p, order, a ? a : &plain, (struct answer){ on_answer, f }, f->now);
}

static void tick(struct fake *f, int64_t ms)
{
	f->now += ms;
	phases_tick(f->p, f->now);
}

static void all_ready(struct fake *f)
{
	for (unsigned i = 0; i < WORKERS; i++)
		phases_mirror_ready(f->p, i, true, NULL, f->now);
}

static void all_fenced(struct fake *f)
{
	for (unsigned i = 0; i < WORKERS; i++)
		phases_fenced(f->p, i, f->flip, true, NULL, f->now);
}

static void all_flipped(struct fake *f)
{
	uint32_t histogram[FLIP_BUCKETS] = { [3] = 99, [40] = 1 };

	for (unsigned i = 0; i < WORKERS; i++)
		phases_flipped(f->p, i, f->flip, 100, 4100, histogram, f->now);
}

static enum phase phase(struct fake *f)
{
	assert_int_equal(f->disk.phase, phases_record(f->p)->phase);
	return phases_record(f->p)->phase;
}

static void expect(struct fake *f, int answers, enum answer_code code, const char *part)
{
	assert_int_equal(f->answers, answers);
	assert_int_equal(f->code, code);
	if (!strstr(f->text, part))
		fail_msg("'%s' lacks '%s'", f->text, part);
}

static void verify(struct fake *f, uint64_t differences)
{
	order(f, ORDER_VERIFY, NULL);
	f->facts.verify_runs++;
	f->facts.verifying = false;
	f->facts.verify_differences = differences;
	f->facts.verified_at_ms = 1;
	tick(f, 100);
	assert_int_equal(f->code, ANSWER_JSON);
}

/* Up to phase synced, with a clean verify. */
static struct fake *synced(void)
{
	struct fake *f = fake_new(NULL);

	order(f, ORDER_START, NULL);
	phases_looked(f->p, f->now);
	all_ready(f);
	f->facts.backfill = BF_DONE;
	tick(f, 100);
	assert_int_equal(phase(f), PHASE_SYNCED);
	verify(f, 0);
	f->answers = 0;
	return f;
}

static struct fake *cut_over(void)
{
	struct fake *f = synced();

	order(f, ORDER_CUTOVER, NULL);
	all_fenced(f);
	all_flipped(f);
	assert_int_equal(phase(f), PHASE_CUTOVER);
	f->answers = 0;
	return f;
}

/* ---- start ---- */

static void test_start(void **state)
{
	struct fake *f = fake_new(NULL);

	(void)state;
	order(f, ORDER_START, NULL);
	assert_int_equal(f->looks, 1);
	assert_int_equal(f->mirrors_on, 0);
	order(f, ORDER_START, NULL);
	expect(f, 1, ANSWER_REFUSED, "starting");
	phases_looked(f->p, f->now);
	assert_int_equal(f->mirrors_on, 1);
	assert_int_equal(phase(f), PHASE_MIRROR);
	assert_int_equal(f->starts, 0);
	phases_mirror_ready(f->p, 0, true, NULL, f->now);
	phases_mirror_ready(f->p, 0, true, NULL, f->now); /* twice the same worker */
	phases_mirror_ready(f->p, 1, true, NULL, f->now);
	assert_int_equal(phase(f), PHASE_MIRROR);
	phases_mirror_ready(f->p, 2, true, NULL, f->now);
	expect(f, 2, ANSWER_OK, "mirroring is on");
	assert_int_equal(phase(f), PHASE_BACKFILL);
	assert_int_equal(f->starts, 1);
	assert_int_equal(strlen(f->disk.migration), MIGRATION_ID_LEN);
	fake_free(f);
}

static void test_start_is_refused(void **state)
{
	struct fake *f = fake_new(NULL);
	int n = 0;

	(void)state;
	f->facts.target_configured = false;
	order(f, ORDER_START, NULL);
	expect(f, ++n, ANSWER_REFUSED, "target-nodes");
	f->facts.target_configured = true;
	f->facts.up[SIDE_TARGET] = false;
	order(f, ORDER_START, NULL);
	phases_looked(f->p, f->now);
	expect(f, ++n, ANSWER_UNREACHABLE, "target");
	f->facts.up[SIDE_TARGET] = true;
	f->facts.covered[SIDE_TARGET] = false;
	order(f, ORDER_START, NULL);
	phases_looked(f->p, f->now);
	expect(f, ++n, ANSWER_REFUSED, "slot");
	f->facts.covered[SIDE_TARGET] = true;
	f->facts.keys[SIDE_TARGET] = 5;
	order(f, ORDER_START, NULL);
	phases_looked(f->p, f->now);
	expect(f, ++n, ANSWER_REFUSED, "5 keys");
	assert_int_equal(f->mirrors_on + f->writes, 0);
	f->facts.target_may_hold_keys = true;
	order(f, ORDER_START, NULL);
	phases_looked(f->p, f->now);
	assert_int_equal(f->mirrors_on, 1);
	fake_free(f);
}

static void test_start_is_undone(void **state)
{
	struct fake *f = fake_new(NULL);

	(void)state;
	order(f, ORDER_START, NULL);
	phases_looked(f->p, f->now);
	phases_mirror_ready(f->p, 1, false, "no tracking", f->now);
	expect(f, 1, ANSWER_REFUSED, "no tracking");
	assert_int_equal(phase(f), PHASE_PROXY);
	assert_int_equal(f->mirrors_off, 1);
	order(f, ORDER_START, NULL);
	phases_looked(f->p, f->now);
	tick(f, 60000);
	expect(f, 2, ANSWER_TIMEDOUT, "undone");
	assert_int_equal(phase(f), PHASE_PROXY);
	fake_free(f);
}

static void test_start_needs_its_record(void **state)
{
	struct fake *f = fake_new(NULL);

	(void)state;
	f->next_write = STATE_UNCHANGED;
	order(f, ORDER_START, NULL);
	phases_looked(f->p, f->now);
	expect(f, 1, ANSWER_REFUSED, "could not be recorded");
	assert_int_equal(f->mirrors_on, 0);
	assert_int_equal(phase(f), PHASE_PROXY);
	fake_free(f);
}

/* ---- refusals by the table ---- */

static void test_refusals(void **state)
{
	static const struct { enum order order; const char *part; } in_proxy[] = {
		{ ORDER_PAUSE, "start" }, { ORDER_RESUME, "start" }, { ORDER_VERIFY, "start" }, { ORDER_CUTOVER, "start" },
		{ ORDER_ROLLBACK, "start" }, { ORDER_FINISH, "start" }, { ORDER_ABORT, "start" },
	};
	struct fake *f = fake_new(NULL);

	(void)state;
	for (unsigned i = 0; i < sizeof(in_proxy) / sizeof(in_proxy[0]); i++) {
		order(f, in_proxy[i].order, NULL);
		expect(f, (int)i + 1, ANSWER_REFUSED, in_proxy[i].part);
	}
	fake_free(f);
	f = synced();
	order(f, ORDER_START, NULL);
	expect(f, 1, ANSWER_REFUSED, "already");
	order(f, ORDER_FINISH, NULL);
	expect(f, 2, ANSWER_REFUSED, "cutover");
	order(f, ORDER_ROLLBACK, NULL);
	expect(f, 3, ANSWER_REFUSED, "no slot");
	fake_free(f);
	f = cut_over();
	order(f, ORDER_ABORT, NULL);
	expect(f, 1, ANSWER_REFUSED, "rollback");
	order(f, ORDER_CUTOVER, NULL);
	expect(f, 2, ANSWER_REFUSED, "already");
	order(f, ORDER_FINISH, NULL);
	expect(f, 3, ANSWER_OK, "finished");
	assert_int_equal(phase(f), PHASE_FINISHED);
	assert_int_equal(f->finishes, 1);
	for (int o = 0; o < ORDERS; o++) {
		order(f, (enum order)o, NULL);
		expect(f, 4 + o, ANSWER_REFUSED, "finished");
	}
	fake_free(f);
}

static void test_abort(void **state)
{
	struct fake *f = synced();

	(void)state;
	order(f, ORDER_ABORT, NULL);
	expect(f, 1, ANSWER_OK, "aborted");
	assert_int_equal(phase(f), PHASE_PROXY);
	assert_int_equal(f->mirrors_off, 1);
	assert_int_equal(f->stops, 1);
	assert_false(f->disk.verify_clean);
	fake_free(f);
}

/* ---- backfill to synced ---- */

static void test_synced_needs_nothing_dirty(void **state)
{
	struct fake *f = fake_new(NULL);

	(void)state;
	order(f, ORDER_START, NULL);
	phases_looked(f->p, f->now);
	all_ready(f);
	f->facts.dirty_keys = 3;
	f->facts.dirty_age_ms = 5000;
	f->facts.backfill = BF_RUNNING;
	tick(f, 100);
	assert_false(f->disk.backfill_done);
	order(f, ORDER_VERIFY, NULL);
	expect(f, 2, ANSWER_REFUSED, "not complete");
	f->facts.backfill = BF_DONE;
	tick(f, 100);
	assert_true(f->disk.backfill_done);
	assert_int_equal(phase(f), PHASE_BACKFILL);
	f->facts.dirty_keys = 0;
	tick(f, 100);
	assert_int_equal(phase(f), PHASE_SYNCED);
	fake_free(f);
}

/* ---- verify ---- */

static void test_verify_gate(void **state)
{
	struct fake *f = synced();

	(void)state;
	phases_verify_void(f->p, "a connection was lost");
	order(f, ORDER_CUTOVER, NULL);
	expect(f, 1, ANSWER_REFUSED, "verify");
	verify(f, 7);
	order(f, ORDER_CUTOVER, NULL);
	expect(f, 3, ANSWER_REFUSED, "verify");
	/* voided while it runs: clean counts are not enough */
	order(f, ORDER_VERIFY, NULL);
	phases_verify_void(f->p, "failover");
	f->facts.verify_runs++;
	f->facts.verifying = false;
	f->facts.verify_differences = 0;
	tick(f, 100);
	assert_false(f->disk.verify_clean);
	verify(f, 0);
	assert_true(f->disk.verify_clean);
	assert_int_equal(f->fences, 0);
	order(f, ORDER_CUTOVER, NULL);
	assert_int_equal(f->fences, 1);
	fake_free(f);
}

static void test_verify_is_shared_or_broken_off(void **state)
{
	struct fake *f = synced();
	struct order_args repair = args_of();

	(void)state;
	repair.repair = true;
	order(f, ORDER_VERIFY, NULL);
	order(f, ORDER_VERIFY, NULL);
	assert_int_equal(f->verifies, 2); /* one of synced(), one for both */
	order(f, ORDER_VERIFY, &repair);
	expect(f, 1, ANSWER_REFUSED, "running");
	order(f, ORDER_CUTOVER, NULL);
	expect(f, 2, ANSWER_REFUSED, "running");
	f->facts.verifying = false; /* and no run was completed */
	tick(f, 100);
	expect(f, 4, ANSWER_UNREACHABLE, "broken off");
	fake_free(f);
}

static void test_unclean_end_voids(void **state)
{
	struct fake *f = synced();
	struct state_record disk = f->disk;

	(void)state;
	fake_free(f);
	f = fake_new(&disk);
	assert_true(phases_record(f->p)->verify_clean);
	assert_int_equal(f->starts, 1);
	fake_free(f);
	f = calloc(1, sizeof(*f));
	f->disk = disk;
	f->p = phases_new(&fake_io, f, WORKERS, &disk);
	phases_begin(f->p, "the last process did not end in order", false, 0);
	assert_false(f->disk.verify_clean);
	fake_free(f);
}

/* ---- flips ---- */

static void test_cutover_and_back(void **state)
{
	struct fake *f = synced();

	(void)state;
	order(f, ORDER_CUTOVER, NULL);
	assert_int_equal(f->fenced_slots, SLOTS);
	assert_int_equal(f->answers, 0);
	phases_fenced(f->p, 0, f->flip, true, NULL, f->now);
	phases_fenced(f->p, 0, f->flip, true, NULL, f->now);
	phases_fenced(f->p, 1, f->flip, true, NULL, f->now);
	assert_int_equal(f->flips, 0); /* one worker is not drained */
	order(f, ORDER_CUTOVER, NULL);
	expect(f, 1, ANSWER_REFUSED, "flipping");
	phases_fenced(f->p, 2, f->flip, true, NULL, f->now);
	assert_int_equal(f->flips, 1);
	all_flipped(f);
	expect(f, 2, ANSWER_JSON, "\"slots\":16384");
	assert_non_null(strstr(f->text, "\"pause_max_ms\":4.1"));
	assert_non_null(strstr(f->text, "\"pause_p99_ms\":0.4"));
	assert_int_equal(phase(f), PHASE_CUTOVER);
	order(f, ORDER_ROLLBACK, NULL); /* no gate of a verify */
	all_fenced(f);
	all_flipped(f);
	expect(f, 3, ANSWER_JSON, "\"direction\":\"source\"");
	assert_int_equal(phase(f), PHASE_SYNCED);
	fake_free(f);
}

static void test_dirty_and_lag_are_waited_for(void **state)
{
	struct fake *f = synced();

	(void)state;
	f->facts.dirty_keys = 1;
	f->facts.dirty_age_ms = 5000;
	order(f, ORDER_CUTOVER, NULL);
	tick(f, 29000);
	assert_int_equal(f->answers + f->fences, 0);
	tick(f, 2000);
	expect(f, 1, ANSWER_REFUSED, "dirty");
	f->facts.dirty_keys = 20; /* young ones: keys that expire all the time */
	f->facts.dirty_age_ms = 5;
	f->facts.lag_ms = 5000;
	order(f, ORDER_CUTOVER, NULL);
	tick(f, 1000);
	assert_int_equal(f->fences, 0);
	f->facts.lag_ms = 3;
	tick(f, 5);
	assert_int_equal(f->fences, 1);
	fake_free(f);
}

static void test_force_names_what_it_skips(void **state)
{
	struct fake *f = synced();
	struct order_args a = args_of();

	(void)state;
	a.force = true;
	a.wait_s = 1;
	phases_verify_void(f->p, "x");
	f->facts.dirty_keys = 1;
	f->facts.dirty_age_ms = 5000;
	order(f, ORDER_CUTOVER, &a);
	tick(f, 500);
	assert_int_equal(f->fences, 0); /* what may come right by itself is waited for first */
	tick(f, 600);
	assert_int_equal(f->fences, 1);
	all_fenced(f);
	all_flipped(f);
	expect(f, 1, ANSWER_JSON, "\"skipped\":[\"verify\",\"dirty\"]");
	fake_free(f);
}

static void test_force_does_not_skip_the_backfill(void **state)
{
	struct fake *f = fake_new(NULL);
	struct order_args a = args_of();

	(void)state;
	a.force = true;
	order(f, ORDER_START, NULL);
	phases_looked(f->p, f->now);
	all_ready(f);
	order(f, ORDER_CUTOVER, &a);
	expect(f, 2, ANSWER_REFUSED, "backfill");
	assert_int_equal(f->fences, 0);
	fake_free(f);
}

static void test_dry_run_holds_nothing(void **state)
{
	struct fake *f = synced();
	struct order_args a = args_of();

	(void)state;
	a.dry_run = true;
	f->facts.dirty_keys = 4;
	f->facts.dirty_age_ms = 5000;
	order(f, ORDER_CUTOVER, &a);
	expect(f, 1, ANSWER_JSON, "{\"gate\":\"dirty\",\"ok\":false");
	assert_non_null(strstr(f->text, "{\"gate\":\"verify\",\"ok\":true"));
	assert_int_equal(f->fences, 0);
	fake_free(f);
}

static void test_partial(void **state)
{
	struct fake *f = synced();
	struct order_args a = args_of();

	(void)state;
	a.by_percent = true;
	a.percent = 10;
	f->facts.cluster[SIDE_SOURCE] = false;
	order(f, ORDER_CUTOVER, &a);
	expect(f, 1, ANSWER_REFUSED, "clusters");
	f->facts.cluster[SIDE_SOURCE] = true;
	order(f, ORDER_CUTOVER, &a);
	assert_int_equal(f->fenced_slots, 1639);
	all_fenced(f);
	all_flipped(f);
	assert_int_equal(phase(f), PHASE_CUTOVER);
	order(f, ORDER_FINISH, NULL);
	expect(f, 3, ANSWER_REFUSED, "14745 slots");
	a.percent = 50; /* counts what is there already */
	order(f, ORDER_CUTOVER, &a);
	assert_int_equal(f->fenced_slots, SLOTS / 2 - 1639);
	all_fenced(f);
	all_flipped(f);
	a.by_percent = false;
	a.by_slots = true;
	a.first = 0;
	a.last = 8191;
	order(f, ORDER_ROLLBACK, &a);
	assert_int_equal(f->fenced_slots, SLOTS / 2);
	all_fenced(f);
	all_flipped(f);
	assert_int_equal(phase(f), PHASE_SYNCED); /* the last one is back */
	fake_free(f);
}

/* The deadline aborts and undoes; what comes late belongs to nobody. */
static void test_deadline_undoes(void **state)
{
	struct fake *f = synced();
	struct order_args a = args_of();

	(void)state;
	a.max_pause_ms = 50;
	order(f, ORDER_CUTOVER, &a);
	phases_fenced(f->p, 0, f->flip, true, NULL, f->now);
	tick(f, 49);
	assert_int_equal(f->unfences, 0);
	tick(f, 2);
	expect(f, 1, ANSWER_TIMEDOUT, "undone");
	assert_int_equal(f->unfences, 1);
	all_fenced(f);
	assert_int_equal(f->flips, 0);
	assert_int_equal(phase(f), PHASE_SYNCED);
	/* the last worker comes when the time is over, before the tick */
	order(f, ORDER_CUTOVER, &a);
	f->now += 51;
	all_fenced(f);
	expect(f, 2, ANSWER_TIMEDOUT, "undone");
	assert_int_equal(f->flips, 0);
	fake_free(f);
}

static void test_worker_cannot_drain(void **state)
{
	struct fake *f = synced();

	(void)state;
	order(f, ORDER_CUTOVER, NULL);
	phases_fenced(f->p, 1, f->flip, false, "1 key became dirty", f->now);
	assert_int_equal(f->unfences, 1);
	assert_int_equal(f->answers, 0); /* it is tried again */
	tick(f, 150);
	assert_int_equal(f->fences, 2);
	for (int i = 0; i < 20 && f->answers == 0; i++) {
		phases_fenced(f->p, 1, f->flip, false, "1 key became dirty", f->now);
		tick(f, 150);
	}
	expect(f, 1, ANSWER_REFUSED, "1 key became dirty");
	assert_int_equal(f->fences, f->unfences);
	fake_free(f);
}

static void test_verify_voided_under_the_fence(void **state)
{
	struct fake *f = synced();

	(void)state;
	order(f, ORDER_CUTOVER, NULL);
	int writes = f->writes;
	phases_verify_void(f->p, "failover");
	assert_int_equal(f->writes, writes); /* nothing slow while requests are held */
	all_fenced(f);
	assert_int_equal(f->flips, 0);
	assert_int_equal(f->unfences, 1);
	tick(f, 150);
	expect(f, 1, ANSWER_REFUSED, "verify");
	tick(f, 300);
	assert_false(f->disk.verify_clean);
	fake_free(f);
}

static void test_record_failed_before_its_issue(void **state)
{
	struct fake *f = synced();

	(void)state;
	f->prepare_fails = true;
	order(f, ORDER_CUTOVER, NULL);
	expect(f, 1, ANSWER_REFUSED, "disk full");
	assert_int_equal(f->fences, 0);
	f->prepare_fails = false;
	f->next_write = STATE_UNCHANGED;
	order(f, ORDER_CUTOVER, NULL);
	all_fenced(f);
	expect(f, 2, ANSWER_REFUSED, "could not be written");
	assert_int_equal(f->unfences, 1);
	assert_int_equal(f->flips, 0);
	assert_int_equal(phase(f), PHASE_SYNCED);
	fake_free(f);
}

/* Race 9: an unknown outcome holds, past every deadline, until a record of a higher epoch is durable. */
static void unknown(bool reached)
{
	struct fake *f = synced();

	f->next_write = STATE_UNKNOWN;
	f->unknown_reached = reached;
	order(f, ORDER_CUTOVER, NULL);
	uint64_t before = f->disk.epoch;
	all_fenced(f);
	for (int i = 0; i < 50; i++)
		tick(f, 100);
	assert_int_equal(f->unfences + f->flips + f->answers, 0);
	f->next_write = STATE_UNCHANGED; /* says nothing about the first one */
	tick(f, 100);
	assert_int_equal(f->unfences + f->flips + f->answers, 0);
	f->next_write = STATE_DURABLE;
	tick(f, 100);
	assert_int_equal(f->flips, 1);
	assert_true(f->disk.epoch > before + 1);
	all_flipped(f);
	expect(f, 1, ANSWER_JSON, "target");
	assert_int_equal(phase(f), PHASE_CUTOVER);
	fake_free(f);
}

static void test_record_unknown(void **state)
{
	(void)state;
	unknown(false);
	unknown(true);
}

static void test_end_in_the_middle(void **state)
{
	struct fake *f = synced();

	(void)state;
	order(f, ORDER_CUTOVER, NULL);
	phases_end(f->p);
	assert_int_equal(f->unfences, 1);
	expect(f, 1, ANSWER_TIMEDOUT, "nothing was flipped");
	fake_free(f);
	f = synced();
	order(f, ORDER_CUTOVER, NULL);
	all_fenced(f);
	phases_end(f->p);
	assert_int_equal(f->unfences, 0); /* only forward */
	expect(f, 1, ANSWER_TIMEDOUT, "record");
	assert_int_equal(f->disk.phase, PHASE_CUTOVER);
	fake_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_start),
		cmocka_unit_test(test_start_is_refused),
		cmocka_unit_test(test_start_is_undone),
		cmocka_unit_test(test_start_needs_its_record),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_abort),
		cmocka_unit_test(test_synced_needs_nothing_dirty),
		cmocka_unit_test(test_verify_gate),
		cmocka_unit_test(test_verify_is_shared_or_broken_off),
		cmocka_unit_test(test_unclean_end_voids),
		cmocka_unit_test(test_cutover_and_back),
		cmocka_unit_test(test_dirty_and_lag_are_waited_for),
		cmocka_unit_test(test_force_names_what_it_skips),
		cmocka_unit_test(test_force_does_not_skip_the_backfill),
		cmocka_unit_test(test_dry_run_holds_nothing),
		cmocka_unit_test(test_partial),
		cmocka_unit_test(test_deadline_undoes),
		cmocka_unit_test(test_worker_cannot_drain),
		cmocka_unit_test(test_verify_voided_under_the_fence),
		cmocka_unit_test(test_record_failed_before_its_issue),
		cmocka_unit_test(test_record_unknown),
		cmocka_unit_test(test_end_in_the_middle),
	};

	log_set_level(LOG_WARNING + 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
