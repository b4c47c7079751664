/* The journal: what was owed when a process ended is told by its file, whatever its end was; what cannot be trusted says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <xxhash.h>

#include "proxy/journal.h"

#define ENTRIES 64
#define BOOT_AT 24   /* in the file: when the machine was started */
#define CHECK_AT 88  /* the checksum of all before it */

static char path[64];

static int make_path(void **state)
{
	(void)state;
	snprintf(path, sizeof path, "/tmp/test_journal.%d", (int)getpid());
	return 0;
}

static int remove_path(void **state)
{
	(void)state;
	unlink(path);
	return 0;
}

struct owed {
	unsigned keys, nslots;
	bool key[1000], slots[SLOTS];
};

static void on_key(void *ctx, struct slice key, uint16_t db, uint16_t slot)
{
	struct owed *o = ctx;
	char text[JOURNAL_KEY_MAX + 1] = "";

	memcpy(text, key.p, key.n);
	unsigned n = (unsigned)atoi(text + 1);
	assert_int_equal(slot, n % 7);
	assert_int_equal(db, n % 3);
	assert_false(o->key[n]);
	o->key[n] = true;
	o->keys++;
}

static void on_slot(void *ctx, uint16_t slot)
{
	struct owed *o = ctx;

	o->slots[slot] = true;
	o->nslots++;
}

static void on_process(void *ctx, const char *name)
{
	(void)ctx;
	assert_string_equal(name, "a process");
}

static enum journal_trust reads(struct owed *o)
{
	struct journal_reader r = { .ctx = o, .process = on_process, .key = on_key, .slot = on_slot };
	char err[200] = "";

	memset(o, 0, sizeof *o);
	return journal_read(path, &r, err, sizeof err);
}

static struct journal *makes(void)
{
	char err[300];
	struct journal *j = journal_new(path, ENTRIES, "a process", false, err, sizeof err);

	assert_non_null(j);
	return j;
}

static journal_ref add(struct journal *j, unsigned n)
{
	char key[16];
	int len = snprintf(key, sizeof key, "k%u", n);

	return journal_add(j, slice(key, (size_t)len), (uint16_t)(n % 3), (uint16_t)(n % 7));
}

static void survives_a_kill(void **state)
{
	struct owed o;
	int status;

	(void)state;
	pid_t pid = fork();
	if (pid == 0) {
		struct journal *j = makes();
		journal_ref first = add(j, 1);
		add(j, 2);
		add(j, 3);
		journal_slot(j, 500, true);
		journal_remove(j, first, 1);
		kill(getpid(), SIGKILL);
	}
	waitpid(pid, &status, 0);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(reads(&o), JOURNAL_TRUSTED);
	assert_int_equal(o.keys, 2);
	assert_true(o.key[2] && o.key[3]);
	assert_int_equal(o.nslots, 1);
	assert_true(o.slots[500]);
}

/* Against a plain model, until nothing is owed: keys that find no room are in their slot's bit. */
static void holds_what_it_has_no_room_for(void **state)
{
	struct journal *j = makes();
	journal_ref refs[200];
	struct owed o;

	(void)state;
	for (unsigned i = 0; i < 200; i++)
		assert_int_not_equal(refs[i] = add(j, i), 0);
	assert_int_equal(journal_owed(j), 200);
	assert_int_equal(reads(&o), JOURNAL_TRUSTED);
	assert_int_equal(o.keys, ENTRIES);
	assert_int_equal(o.nslots, 7);
	for (unsigned i = ENTRIES; i < 200; i++)
		journal_remove(j, refs[i], (uint16_t)(i % 7));
	assert_int_equal(reads(&o), JOURNAL_TRUSTED);
	assert_int_equal(o.nslots, 0);
	for (unsigned i = 0; i < ENTRIES; i++)
		journal_remove(j, refs[i], (uint16_t)(i % 7));
	assert_int_equal(journal_owed(j), 0);
	assert_int_equal(reads(&o), JOURNAL_TRUSTED);
	assert_int_equal(o.keys, 0);
	journal_free(j);
}

static void holds_long_keys_by_their_slot(void **state)
{
	struct journal *j = makes();
	char key[JOURNAL_KEY_MAX + 1] = "k8";
	struct owed o;

	(void)state;
	memset(key + 2, 0, sizeof key - 2);
	journal_ref fits = journal_add(j, slice(key, JOURNAL_KEY_MAX), 2, 1);
	journal_ref longer = journal_add(j, slice(key, JOURNAL_KEY_MAX + 1), 2, 1);
	assert_int_equal(reads(&o), JOURNAL_TRUSTED);
	assert_int_equal(o.keys, 1);
	assert_true(o.slots[1]);
	journal_slot(j, 1, true);
	journal_remove(j, longer, 1);
	assert_int_equal(reads(&o), JOURNAL_TRUSTED);
	assert_true(o.slots[1]);
	journal_slot(j, 1, false);
	journal_remove(j, fits, 1);
	assert_int_equal(journal_owed(j), 0);
	assert_int_equal(reads(&o), JOURNAL_TRUSTED);
	assert_int_equal(o.keys + o.nslots, 0);
	journal_free(j);
}

/* Overwrites one byte of the file. */
static void damage(long at, char byte)
{
	FILE *f = fopen(path, "r+b");

	assert_non_null(f);
	fseek(f, at, SEEK_SET);
	fputc(byte, f);
	fclose(f);
}

static void says_what_cannot_be_trusted(void **state)
{
	struct journal *j = makes();
	struct owed o;
	struct journal_reader r = { .ctx = &o, .key = on_key, .slot = on_slot };
	char err[200];

	(void)state;
	add(j, 5);
	journal_free(j);
	assert_int_equal(reads(&o), JOURNAL_TRUSTED);
	assert_int_equal(journal_read("/tmp/there-is-no-such-file", &r, err, sizeof err), JOURNAL_BAD);
	damage(8192 + 16, 'x'); /* the key of the first entry */
	assert_int_equal(reads(&o), JOURNAL_BAD);
	damage(8, 9); /* the version */
	assert_int_equal(reads(&o), JOURNAL_BAD);
	assert_int_equal(truncate(path, 100), 0);
	assert_int_equal(reads(&o), JOURNAL_BAD);
}

/* As if the machine had been started anew since it was written. */
static void starts_the_machine(void)
{
	FILE *f = fopen(path, "r+b");
	char head[CHECK_AT];

	assert_non_null(f);
	assert_int_equal(fread(head, sizeof head, 1, f), 1);
	assert_true(head[BOOT_AT] && head[BOOT_AT] != 'X');
	head[BOOT_AT] = 'X';
	uint64_t check = XXH3_64bits(head, sizeof head);
	rewind(f);
	assert_int_equal(fwrite(head, sizeof head, 1, f), 1);
	assert_int_equal(fwrite(&check, sizeof check, 1, f), 1);
	fclose(f);
}

/* A power loss: what was not synced is not known to have reached the disk. */
static void says_what_a_power_loss_leaves(void **state)
{
	char err[300];
	struct owed o;

	(void)state;
	for (int synced = 0; synced < 2; synced++) {
		struct journal *j = journal_new(path, ENTRIES, "a process", synced, err, sizeof err);
		assert_non_null(j);
		add(j, 5);
		journal_free(j);
		starts_the_machine();
		assert_int_equal(reads(&o), synced ? JOURNAL_TRUSTED : JOURNAL_REBOOTED);
		assert_int_equal(o.keys, synced);
	}
}

static void syncs_what_was_touched(void **state)
{
	struct journal *j = makes();

	(void)state;
	assert_false(journal_was_touched(j));
	journal_ref ref = add(j, 1);
	assert_true(journal_was_touched(j));
	assert_true(journal_sync(j));
	assert_false(journal_was_touched(j));
	journal_remove(j, ref, 1);
	assert_true(journal_was_touched(j));
	journal_free(j);
}

static void tells_a_full_disk(void **state)
{
	char err[300] = "";

	(void)state;
	assert_null(journal_new("/proc/no-journal", ENTRIES, "a process", false, err, sizeof err));
	assert_non_null(strstr(err, "/proc/no-journal"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(survives_a_kill, make_path, remove_path),
		cmocka_unit_test_setup_teardown(holds_what_it_has_no_room_for, make_path, remove_path),
		cmocka_unit_test_setup_teardown(holds_long_keys_by_their_slot, make_path, remove_path),
		cmocka_unit_test_setup_teardown(says_what_cannot_be_trusted, make_path, remove_path),
		cmocka_unit_test_setup_teardown(says_what_a_power_loss_leaves, make_path, remove_path),
		cmocka_unit_test_setup_teardown(syncs_what_was_touched, make_path, remove_path),
		cmocka_unit_test_setup_teardown(tells_a_full_disk, make_path, remove_path),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
