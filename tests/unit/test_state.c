/* The state directory: what was written is read back, what is damaged is refused, and only one process holds it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proxy/state.h"

static char parent[] = "/tmp/crossfade-test-state-XXXXXX";
static char dir[64];

static int setup(void **state)
{
	(void)state;
	assert_non_null(mkdtemp(parent));
	return 0;
}

static void remove_dir(void)
{
	const char *names[] = { "phase", "phase.tmp", "phase.next", "phase.commit", "lock", "clean" };
	char path[128];

	for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	rmdir(dir);
}

static int each(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "%s/state", parent);
	remove_dir();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	remove_dir();
	return rmdir(parent);
}

static struct state *open_ok(void)
{
	char err[512] = "";
	int code = -1;
	struct state *s = state_open(dir, err, sizeof(err), &code);

	if (!s)
		fail_msg("%s", err);
	assert_int_equal(code, 0);
	return s;
}

static struct state_record *sample(void)
{
	struct state_record *r = calloc(1, sizeof(*r));

	r->phase = PHASE_CUTOVER;
	r->epoch = 41;
	r->authority[0] = r->authority[5] = r->authority[6] = r->authority[SLOTS - 1] = SIDE_TARGET;
	state_random_id(r->migration);
	state_random_id(r->given_up);
	r->backfill_done = r->verify_clean = true;
	r->verify_at_ms = 1234567890123;
	r->verify_checked = UINT64_C(5000000000);
	r->sides[SIDE_SOURCE].known = r->sides[SIDE_SOURCE].cluster = true;
	r->sides[SIDE_SOURCE].nnodes = 2;
	strcpy(r->sides[SIDE_SOURCE].nodes[0].id, "aaaa");
	strcpy(r->sides[SIDE_SOURCE].nodes[1].name, "[::1]:7000");
	return r;
}

static void test_first_start(void **state)
{
	struct stat st;
	struct state *s = open_ok();

	(void)state;
	assert_false(state_has_record(s));
	assert_int_equal(stat(dir, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	state_close(s);
}

static void test_round_trip(void **state)
{
	struct state_record *r = sample();
	struct state *s = open_ok();
	char err[256];

	(void)state;
	assert_int_equal(state_write(s, r, err, sizeof(err)), STATE_DURABLE);
	state_close(s);
	s = open_ok();
	assert_true(state_has_record(s));
	assert_memory_equal(state_loaded(s), r, sizeof(*r));
	state_close(s);
	free(r);
}

/* What was prepared is not in force, and what is written after it wins over it. */
static void test_prepared_is_not_written(void **state)
{
	struct state_record *r = sample();
	struct state *s = open_ok();
	char err[256];

	(void)state;
	assert_int_equal(state_write(s, r, err, sizeof(err)), STATE_DURABLE);
	r->epoch = 42;
	assert_true(state_prepare(s, r, err, sizeof(err)));
	state_close(s);
	s = open_ok();
	assert_int_equal(state_loaded(s)->epoch, 41);
	assert_true(state_prepare(s, r, err, sizeof(err)));
	r->epoch = 43;
	assert_int_equal(state_write(s, r, err, sizeof(err)), STATE_DURABLE);
	state_close(s);
	s = open_ok();
	assert_int_equal(state_loaded(s)->epoch, 43);
	state_close(s);
	free(r);
}

static void name_in(char path[128], const char *name)
{
	snprintf(path, 128, "%s/%s", dir, name);
}

static bool is_there(const char *name)
{
	char path[128];

	name_in(path, name);
	return access(path, F_OK) == 0;
}

static void flip_byte(const char *name, long at)
{
	char path[128];

	name_in(path, name);
	FILE *f = fopen(path, "r+");
	assert_non_null(f);
	fseek(f, at, SEEK_SET);
	int was = fgetc(f);
	fseek(f, at, SEEK_SET);
	fputc(was ^ 1, f);
	fclose(f);
}

/* A directory as a kill right after the commit leaves it: phase has epoch 41, phase.next 42, and that is in force. */
static void leave_unsettled(void)
{
	struct state_record *r = sample();
	struct state *s = open_ok();
	char err[256];

	assert_int_equal(state_write(s, r, err, sizeof(err)), STATE_DURABLE);
	r->epoch = 42;
	assert_true(state_prepare(s, r, err, sizeof(err)));
	assert_int_equal(state_write(s, r, err, sizeof(err)), STATE_DURABLE);
	state_close(s);
	free(r);
}

static void expect_epoch(uint64_t epoch)
{
	struct state *s = open_ok();

	assert_true(state_has_record(s));
	assert_int_equal(state_loaded(s)->epoch, epoch);
	state_close(s);
}

static void test_committed_is_in_force(void **state)
{
	char err[256];

	(void)state;
	leave_unsettled();
	assert_true(is_there("phase.next"));
	expect_epoch(42);
	struct state *s = open_ok();
	assert_true(state_settle(s, err, sizeof(err)));
	assert_false(is_there("phase.next"));
	state_close(s);
	expect_epoch(42);
}

/* Whatever is written next must not be written over by the renaming, nor lose what is in force if it is only prepared. */
static void test_what_comes_after_an_unsettled_one(void **state)
{
	struct state_record *r = sample();
	char err[256];

	(void)state;
	leave_unsettled();
	struct state *s = open_ok();
	r->epoch = 43;
	assert_true(state_prepare(s, r, err, sizeof(err)));
	state_close(s);
	expect_epoch(42);
	remove_dir();
	leave_unsettled();
	s = open_ok();
	assert_int_equal(state_write(s, r, err, sizeof(err)), STATE_DURABLE);
	assert_true(state_settle(s, err, sizeof(err)));
	state_close(s);
	expect_epoch(43);
	free(r);
}

/* The outcome of the commit was not known, and a record of a higher epoch was written: that one counts, whatever became of the commit. */
static void test_higher_epoch_ends_an_unknown_commit(void **state)
{
	struct state_record *r = sample();
	char err[256];

	(void)state;
	struct state *s = open_ok();
	r->epoch = 43;
	assert_int_equal(state_write(s, r, err, sizeof(err)), STATE_DURABLE);
	free(r);
	state_close(s);
	char from[128], to[128];
	name_in(from, "phase");
	snprintf(to, sizeof(to), "%s/phase.43", parent);
	assert_int_equal(rename(from, to), 0);
	leave_unsettled();
	assert_int_equal(rename(to, from), 0);
	expect_epoch(43);
}

static void expect_corrupt(void)
{
	char err[512];
	int code;

	assert_null(state_open(dir, err, sizeof(err), &code));
	assert_int_equal(code, STATE_EXIT_CORRUPT);
	assert_non_null(strstr(err, "do not fit each other"));
}

static void test_damaged_commit_stops(void **state)
{
	char path[128];

	(void)state;
	leave_unsettled();
	for (unsigned file = 0; file < 2; file++)
		for (long i = 0; i < 512; i++) {
			const char *name = file ? "phase.next" : "phase.commit";
			if (file && i == 400)
				break;
			flip_byte(name, i);
			expect_corrupt();
			flip_byte(name, i);
		}
	expect_epoch(42);
	name_in(path, "phase.next");
	assert_int_equal(truncate(path, 100), 0);
	expect_corrupt();
	name_in(path, "phase"); /* to start anew, as the message says */
	assert_int_equal(unlink(path), 0);
	struct state *s = open_ok();
	assert_false(state_has_record(s));
	assert_false(is_there("phase.next") || is_there("phase.commit"));
	state_close(s);
}

/* A commit that failed before it reached the disk: nothing changes, and the next flip goes its way. */
static void test_made_but_never_written(void **state)
{
	struct state_record *r = sample();
	struct state *s = open_ok();
	char err[256], path[128];

	(void)state;
	assert_int_equal(state_write(s, r, err, sizeof(err)), STATE_DURABLE);
	r->epoch = 42;
	assert_true(state_prepare(s, r, err, sizeof(err)));
	state_close(s);
	name_in(path, "phase.commit");
	assert_int_equal(truncate(path, 0), 0);
	expect_epoch(41);
	s = open_ok();
	assert_true(state_prepare(s, r, err, sizeof(err)));
	assert_int_equal(state_write(s, r, err, sizeof(err)), STATE_DURABLE);
	state_close(s);
	expect_epoch(42);
	free(r);
}

/* Every single damaged byte, and every truncation, is noticed, or changes nothing (white space). */
static void test_damage_is_noticed(void **state)
{
	struct state_record *r = sample(), *back = calloc(1, sizeof(*back));
	char err[256], *text = state_render(r);
	size_t n = strlen(text);

	(void)state;
	assert_true(state_parse(text, n, back, err, sizeof(err)));
	assert_memory_equal(back, r, sizeof(*r));
	for (size_t i = 0; i < n; i++) {
		char was = text[i];
		text[i] = (char)(was ^ 1);
		if (state_parse(text, n, back, err, sizeof(err)))
			assert_memory_equal(back, r, sizeof(*r));
		text[i] = was;
		if (i < n - 2)
			assert_false(state_parse(text, i, back, err, sizeof(err)));
	}
	free(text);
	free(r);
	free(back);
}

static void test_contradiction_is_refused(void **state)
{
	struct state_record *r = sample(), *back = calloc(1, sizeof(*back));
	char err[256];

	(void)state;
	r->phase = PHASE_SYNCED; /* and yet slots on the target */
	char *text = state_render(r);
	assert_false(state_parse(text, strlen(text), back, err, sizeof(err)));
	assert_non_null(strstr(err, "contradict"));
	free(text);
	free(r);
	free(back);
}

static void test_corrupt_file_stops(void **state)
{
	char path[128], err[512];
	int code = 0;
	struct state *s = open_ok();

	(void)state;
	state_close(s);
	snprintf(path, sizeof(path), "%s/phase", dir);
	FILE *f = fopen(path, "w");
	fputs("{\"crossfade\":1", f);
	fclose(f);
	assert_null(state_open(dir, err, sizeof(err), &code));
	assert_int_equal(code, STATE_EXIT_CORRUPT);
	assert_non_null(strstr(err, path));
}

static void test_newer_format_stops(void **state)
{
	struct state_record back;
	char err[256];
	const char *text = "{\"crossfade\":2,\"checksum\":\"0\",\"record\":{}}";

	(void)state;
	assert_false(state_parse(text, strlen(text), &back, err, sizeof(err)));
	assert_non_null(strstr(err, "format 2"));
}

static void test_lock_names_the_holder(void **state)
{
	struct state *s = open_ok();
	char err[512], pid[64];
	int code = 0;

	(void)state;
	snprintf(pid, sizeof(pid), "process %d:", (int)getpid());
	assert_null(state_open(dir, err, sizeof(err), &code)); /* another open file: the lock is not per process */
	assert_int_equal(code, STATE_EXIT_LOCKED);
	assert_non_null(strstr(err, pid));
	state_close(s);
	s = open_ok();
	state_close(s);
}

static void test_unusable_dir(void **state)
{
	char err[512];
	int code = 0;

	(void)state;
	assert_null(state_open("/proc/nonexistent/x", err, sizeof(err), &code));
	assert_int_equal(code, STATE_EXIT_LOCKED);
	assert_non_null(strstr(err, "/proc/nonexistent/x"));
}

static void test_clean_end(void **state)
{
	struct state *s = open_ok();

	(void)state;
	assert_false(state_was_clean(s));
	state_mark_clean(s);
	state_close(s);
	s = open_ok();
	assert_true(state_was_clean(s));
	state_close(s); /* as a crash would */
	s = open_ok();
	assert_false(state_was_clean(s));
	state_close(s);
}

#define CASE(f) cmocka_unit_test_setup(f, each)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_first_start),
		CASE(test_round_trip),
		CASE(test_prepared_is_not_written),
		CASE(test_committed_is_in_force),
		CASE(test_what_comes_after_an_unsettled_one),
		CASE(test_higher_epoch_ends_an_unknown_commit),
		CASE(test_damaged_commit_stops),
		CASE(test_made_but_never_written),
		CASE(test_damage_is_noticed),
		CASE(test_contradiction_is_refused),
		CASE(test_corrupt_file_stops),
		CASE(test_newer_format_stops),
		CASE(test_lock_names_the_holder),
		CASE(test_unusable_dir),
		CASE(test_clean_end),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
