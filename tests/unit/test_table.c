/* test_table.c - the command table: look-ups, keys, and that every row is consistent in itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <ctype.h>

#include <cmocka.h>

#include "resp/table.h"

#define MAX_ARGS 64

/* Words of a line, separated by single blanks; "" stands for an empty argument. */
static uint32_t split(char *line, struct slice *argv)
{
	uint32_t argc = 0;

	for (char *word = strtok(line, " "); word; word = strtok(NULL, " ")) {
		assert_true(argc < MAX_ARGS);
		argv[argc++] = strcmp(word, "\"\"") == 0 ? slice(word, 0) : slice(word, strlen(word));
	}
	return argc;
}

static const struct command *row_of(uint32_t argc, const struct slice *argv)
{
	const struct command *c = command_find(argv[0]);

	if (c && c->flags & CMD_CONTAINER && argc > 1 && command_find_sub(c, argv[1]))
		c = command_find_sub(c, argv[1]);
	return c;
}

/* The keys of a line as text: "1:RW 2:RO", "" for none, "wrong" for -1. */
static const char *keys_of(const char *line)
{
	static char text[512];
	char copy[512];
	struct slice argv[MAX_ARGS];
	struct key_ref keys[MAX_ARGS];
	size_t at = 0;

	snprintf(copy, sizeof copy, "%s", line);
	uint32_t argc = split(copy, argv);
	const struct command *c = row_of(argc, argv);
	assert_non_null(c);
	int n = command_keys(c, argc, argv, keys, MAX_ARGS);
	if (n < 0)
		return "wrong";
	text[0] = 0;
	for (int i = 0; i < n; i++) {
		const char *use = keys[i].flags & KEY_OW ? "OW" : keys[i].flags & KEY_RW ? "RW" : keys[i].flags & KEY_RM ? "RM" :
				  keys[i].flags & KEY_GROUP ? "GROUP" : keys[i].flags & KEY_RO ? "RO" : "?";
		at += (size_t)snprintf(text + at, sizeof text - at, "%s%u:%s", i ? " " : "", keys[i].index, use);
	}
	return text;
}

static const struct {
	const char *line, *keys;
} key_cases[] = {
	{ "GET k", "1:RO" },
	{ "get k", "1:RO" },
	{ "PING", "" },
	{ "DBSIZE", "" },
	{ "DEL a b c", "1:RM 2:RM 3:RM" },
	{ "MGET a b", "1:RO 2:RO" },
	{ "MSET a 1 b 2", "1:OW 3:OW" },
	{ "MSET a 1 b", "1:OW 3:OW" },
	{ "MSETNX a 1 b 2", "1:OW 3:OW" },
	{ "MSETEX 2 a 1 b 2 EX 10", "2:OW 4:OW" },
	{ "MSETEX 3 a 1 b 2", "wrong" },
	{ "SET k v", "1:OW" },
	{ "SET k v GET", "1:RW" },
	{ "SET k v EX 10 nx get", "1:RW" },
	{ "SET k get", "1:OW" },
	{ "SET k v IFEQ x", "1:OW" },
	{ "GETEX k", "1:RW" },
	{ "BITFIELD k GET u8 0", "1:RO" },
	{ "BITFIELD k GET u8 0 SET u8 0 1", "1:RW" },
	{ "BITFIELD k OVERFLOW SAT INCRBY u8 0 1", "1:RW" },
	{ "BITOP AND d a b", "2:OW 3:RO 4:RO" },
	{ "COPY a b REPLACE", "1:RO 2:OW" },
	{ "RENAME a b", "1:RW 2:OW" },
	{ "LMOVE a b LEFT RIGHT", "1:RW 2:RW" },
	{ "SMOVE a b m", "1:RW 2:RW" },
	{ "BLPOP a b 0", "1:RW 2:RW" },
	{ "LMPOP 2 a b LEFT COUNT 3", "2:RW 3:RW" },
	{ "LMPOP 0 a LEFT", "wrong" },
	{ "BLMPOP 0 2 a b LEFT", "3:RW 4:RW" },
	{ "ZMPOP 1 a MIN", "2:RW" },
	{ "SINTERCARD 2 a b LIMIT 3", "2:RO 3:RO" },
	{ "SINTERCARD -1 a b", "wrong" },
	{ "SINTERCARD 99999999999999999999 a b", "wrong" },
	{ "SINTERCARD 02 a b", "wrong" },
	{ "SINTERCARD +2 a b", "wrong" },
	{ "SINTERCARD 3 a b", "wrong" },
	{ "SINTERCARD 2147483648 a b", "wrong" },
	{ "SINTERSTORE d a b", "1:OW 2:RO 3:RO" },
	{ "ZUNIONSTORE d 2 a b WEIGHTS 1 2", "1:OW 3:RO 4:RO" },
	{ "ZUNIONSTORE d x a b", "wrong" },
	{ "ZUNIONSTORE d 9 a b", "wrong" },
	{ "ZDIFF 2 a b WITHSCORES", "2:RO 3:RO" },
	{ "ZRANGESTORE d s 0 -1", "1:OW 2:RO" },
	{ "SORT k", "1:RO" },
	{ "SORT k BY store GET store LIMIT 0 store", "1:RO" },
	{ "SORT k STORE a STORE b", "1:RO 5:OW" },
	{ "SORT k STORE", "1:RO" },
	{ "SORT_RO k BY w_*", "1:RO" },
	{ "GEORADIUS k 0 0 1 m", "1:RO" },
	{ "GEORADIUS k 0 0 1 m STORE d", "1:RO 7:OW" },
	{ "GEORADIUS k 0 0 1 m STORE a STOREDIST b", "1:RO 9:OW" },
	{ "GEORADIUSBYMEMBER k x 1 m ASC STOREDIST d", "1:RO 7:OW" },
	{ "GEOSEARCHSTORE d s FROMLONLAT 0 0 BYRADIUS 1 m", "1:OW 2:RO" },
	{ "XREAD COUNT 2 STREAMS a b 0 0", "4:RO 5:RO" },
	{ "XREAD STREAMS a 0", "2:RO" },
	{ "XREAD COUNT 2", "" },
	{ "XREAD COUNT 2 STREAMS", "" },
	{ "XREAD STREAMS a", "wrong" },
	{ "XREADGROUP GROUP g c COUNT 1 STREAMS a b > >", "7:GROUP 8:GROUP" },
	{ "XREADGROUP GROUP streams c STREAMS a >", "5:GROUP" },
	{ "XGROUP CREATE s g $ MKSTREAM", "2:RW" },
	{ "XINFO STREAM s FULL", "2:RO" },
	{ "XINFO HELP", "" },
	{ "XADD s * f v", "1:RW" },
	{ "OBJECT ENCODING k", "2:RO" },
	{ "MEMORY USAGE k", "2:RO" },
	{ "EVAL s 2 a b c", "3:RW 4:RW" },
	{ "EVAL s 0", "" },
	{ "EVAL s 0 a", "" },
	{ "EVAL s -1 a", "wrong" },
	{ "EVAL s 3 a b", "wrong" },
	{ "EVAL s", "wrong" },
	{ "EVAL_RO s 1 a", "3:RO" },
	{ "FCALL f 1 a", "3:RW" },
	{ "MIGRATE h 1 k 0 5", "3:RW" },
	{ "MIGRATE h 1 \"\" 0 5 AUTH keys KEYS a b", "9:RW 10:RW" },
	{ "MIGRATE h 1 k 0 5 KEYS a", "wrong" },
	{ "SPUBLISH ch m", "" },
	{ "SSUBSCRIBE ch", "" },
	{ "VCARD k", "1:RO" },
	{ "VCARD", "wrong" },
	{ "PFCOUNT a b", "1:RW 2:RW" },
	{ "PFMERGE d", "1:RW" },
	{ "PFMERGE d a", "1:RW 2:RO" },
	{ "GET", "wrong" },
};

static void test_keys(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof key_cases / sizeof key_cases[0]; i++) {
		const char *got = keys_of(key_cases[i].line);
		if (strcmp(got, key_cases[i].keys) != 0)
			fail_msg("%s: keys are '%s', expected '%s'", key_cases[i].line, got, key_cases[i].keys);
	}
}

static void test_keys_cap(void **state)
{
	struct slice argv[] = { SLICE_LIT("DEL"), SLICE_LIT("a"), SLICE_LIT("b"), SLICE_LIT("c") };
	struct key_ref keys[2] = { { 0, 0 }, { 77, 77 } };

	(void)state;
	assert_int_equal(command_keys(command_find(argv[0]), 4, argv, keys, 1), 3);
	assert_int_equal(keys[0].index, 1);
	assert_int_equal(keys[1].index, 77);
	assert_int_equal(command_keys(command_find(argv[0]), 4, argv, NULL, 0), 3);
}

static bool is_unrouted(const char *words)
{
	struct slice argv[16];
	uint32_t argc = 0;

	for (const char *p = words; *p; argc++) {
		argv[argc] = slice(p, strcspn(p, " "));
		p += argv[argc].n;
		p += strspn(p, " ");
	}
	return command_is_unrouted(command_find(argv[0]), argc, argv);
}

static void test_unrouted(void **state)
{
	(void)state;
	assert_false(is_unrouted("XREAD STREAMS a 1"));
	assert_false(is_unrouted("XREAD COUNT 2 BLOCK streams Streams a b 1 2"));
	assert_false(is_unrouted("XREADGROUP GROUP streams streams NOACK STREAMS streams >"));
	assert_true(is_unrouted("XREAD STREAMS a b 1"));
	assert_true(is_unrouted("XREAD STREAMS a"));
	assert_true(is_unrouted("XREAD COUNT 2 STREAMS"));
	assert_true(is_unrouted("XREAD FOO STREAMS a 1"));
	assert_true(is_unrouted("XREAD COUNT STREAMS a 1"));
	assert_false(is_unrouted("GET a b"));
	assert_false(is_unrouted("ZUNION 3 a"));
}

static void test_first_key(void **state)
{
	(void)state;
	assert_int_equal(command_first_key(command_find(SLICE_LIT("get"))), 1);
	assert_int_equal(command_first_key(command_find(SLICE_LIT("bitop"))), 2);
	assert_int_equal(command_first_key(command_find(SLICE_LIT("eval"))), 0);
	assert_int_equal(command_first_key(command_find(SLICE_LIT("xread"))), 0);
	assert_int_equal(command_first_key(command_find(SLICE_LIT("spublish"))), 0);
	assert_int_equal(command_first_key(command_find(SLICE_LIT("ping"))), 0);
	/* Where it says something, it is what command_keys says. */
	for (unsigned i = 0; i < command_count; i++) {
		struct slice argv[32];
		struct key_ref key = { 0, 0 };
		for (int j = 0; j < 32; j++)
			argv[j] = SLICE_LIT("1");
		if (command_first_key(&command_table[i]) && command_table[i].keys != KEYS_MIGRATE &&
		    command_keys(&command_table[i], 32, argv, &key, 1) > 0)
			assert_int_equal(key.index, command_first_key(&command_table[i]));
	}
}

static void test_find_all(void **state)
{
	(void)state;
	for (unsigned i = 0; i < command_count; i++) {
		const struct command *c = &command_table[i];
		const char *bar = strchr(c->name, '|');
		const struct command *container = NULL;
		char upper[64];
		size_t n = 0;

		assert_int_equal(c->id, i);
		if (bar) {
			container = command_find(slice(c->name, (size_t)(bar - c->name)));
			assert_non_null(container);
			assert_true(container->flags & CMD_CONTAINER);
		}
		for (const char *p = bar ? bar + 1 : c->name; *p; p++)
			upper[n++] = (char)toupper((unsigned char)*p);
		struct slice s = slice(upper, n);
		assert_ptr_equal(container ? command_find_sub(container, s) : command_find(s), c);
		upper[n / 2] = (char)tolower((unsigned char)upper[n / 2]);
		assert_ptr_equal(container ? command_find_sub(container, s) : command_find(s), c);
		upper[n / 2] ^= 0x40; /* no letter, digit or sign of a name any more, or another one */
		assert_ptr_not_equal(container ? command_find_sub(container, s) : command_find(s), c);
	}
}

static void test_find_unknown(void **state)
{
	static const char *const names[] = { "", "g", "ge", "gett", "getrang", "eval\x7fro", "restore\rasking", "client|id", "config|get",
					     "georadiusbymember_rw", "georadiusbymembes_ro", "no-such-command-at-all-of-a-great-length" };
	char big[5000];

	(void)state;
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		assert_null(command_find(slice(names[i], strlen(names[i]))));
	memset(big, 'g', sizeof big);
	assert_null(command_find(slice(big, sizeof big)));
	assert_null(command_find(slice("get\0", 4)));
	assert_null(command_find_sub(command_find(SLICE_LIT("client")), SLICE_LIT("get")));
	assert_null(command_find_sub(command_find(SLICE_LIT("config")), SLICE_LIT("setname")));
	assert_null(command_find_sub(command_find(SLICE_LIT("get")), SLICE_LIT("id")));
}

static void test_arity(void **state)
{
	(void)state;
	assert_true(command_arity_ok(command_find(SLICE_LIT("get")), 2));
	assert_false(command_arity_ok(command_find(SLICE_LIT("get")), 3));
	assert_true(command_arity_ok(command_find(SLICE_LIT("del")), 200));
	assert_false(command_arity_ok(command_find(SLICE_LIT("del")), 1));
}

static bool writes_keys(const struct command *c)
{
	for (unsigned i = 0; i < c->nspecs; i++)
		if (c->specs[i].flags & KEY_WRITES)
			return true;
	return false;
}

static void check_flags(const struct command *c)
{
	if (c->flags & CMD_WRITE && c->policy != POLICY_REFUSE)
		assert_int_not_equal(c->effect, EFFECT_NONE);
	if (c->flags & CMD_READONLY && !(c->flags & CMD_MAY_REPLICATE)) /* PFCOUNT writes what it counted */
		assert_int_equal(c->effect, EFFECT_NONE);
	if (c->flags & (CMD_BUILDS | CMD_READS_OTHERS | CMD_UNPROVEN)) {
		assert_int_not_equal(c->effect, EFFECT_NONE);
		assert_true(writes_keys(c));
	}
	if (c->flags & CMD_UNPROVEN)
		assert_true(c->flags & (CMD_BUILDS | CMD_READS_OTHERS));
	if (c->flags & CMD_PROVEN_UNLESS_FRESH)
		assert_true(c->flags & CMD_UNPROVEN);
	/* Whatever may block a connection must not be sent on one that others share. */
	if (c->flags & CMD_BLOCKING)
		assert_true(c->policy == POLICY_BLOCK || c->policy == POLICY_LOCAL || c->policy == POLICY_REFUSE);
}

static void check_row(const struct command *c)
{
	bool has_why = c->policy == POLICY_REFUSE || c->policy == POLICY_LATER || c->policy == POLICY_ALONE;

	assert_int_not_equal(c->arity, 0);
	assert_int_equal(c->why != NULL, has_why);
	assert_int_equal(c->local != LOCAL_NONE, c->policy == POLICY_LOCAL || c->policy == POLICY_BLOCK);
	if (c->effect == EFFECT_VERBATIM)
		assert_true(c->rewrite == REWRITE_NONE || c->rewrite >= REWRITE_SPREAD_KEYS);
	else
		assert_int_equal(c->effect == EFFECT_REWRITTEN, c->rewrite != REWRITE_NONE);
	if (c->policy == POLICY_SPLIT || c->policy == POLICY_FANOUT)
		assert_int_not_equal(c->merge, MERGE_NONE);
	if (c->policy == POLICY_SPLIT) {
		assert_int_equal(c->nspecs, 1);
		assert_int_not_equal(command_first_key(c), 0);
		assert_true(c->specs[0].a == -1);
	}
	if (c->policy == POLICY_FANOUT || c->policy == POLICY_PUBLISH) /* shard channels have slots, but are no keys */
		assert_true(c->nspecs == 0 || c->specs[0].flags & KEY_NOT_KEY);
	if (c->effect == EFFECT_BROADCAST)
		assert_int_equal(c->nspecs, 0);
	if (c->effect == EFFECT_VERBATIM || c->effect == EFFECT_REWRITTEN)
		assert_true(writes_keys(c));
	if (c->canonical != CANON_NONE)
		assert_true(c->effect == EFFECT_VERBATIM || c->effect == EFFECT_REWRITTEN);
	if (c->unchanged == UNCHANGED_RULE)
		assert_int_equal(c->effect, EFFECT_REWRITTEN);
	if (c->unchanged != UNCHANGED_NEVER)
		assert_int_not_equal(c->effect, EFFECT_NONE);
	/* A written key that gets no effect is a value lost. */
	if ((c->policy == POLICY_FORWARD || c->policy == POLICY_BLOCK) && writes_keys(c))
		assert_int_not_equal(c->effect, EFFECT_NONE);
	assert_true(c->servers != 0 && c->servers < 32);
	assert_true(strncmp(c->since, "redis ", 6) == 0 || strncmp(c->since, "valkey ", 7) == 0);
	check_flags(c);
}

static void test_rows(void **state)
{
	(void)state;
	assert_true(command_count > 400);
	for (unsigned i = 0; i < command_count; i++) {
		const struct command *c = &command_table[i];
		if (i)
			assert_true(strcmp(command_table[i - 1].name, c->name) < 0);
		for (unsigned s = 0; s < c->nspecs; s++) {
			const struct key_spec *k = &c->specs[s];
			bool unknown = k->find == KEY_FIND_UNKNOWN || k->begin == KEY_BEGIN_UNKNOWN;
			assert_true(unknown || (k->find == KEY_FIND_RANGE ? k->b : k->c) > 0);
			assert_int_equal(k->keyword != NULL, k->begin == KEY_BEGIN_KEYWORD);
			/* What a specification cannot say needs a function. */
			if (unknown || k->flags & (KEY_INCOMPLETE | KEY_VARIABLE_FLAGS))
				assert_int_not_equal(c->keys, KEYS_SPECS);
		}
		check_row(c);
	}
}

static void test_decisions(void **state)
{
	const struct command *c;

	(void)state;
	c = command_find(SLICE_LIT("set"));
	assert_int_equal(c->rewrite, REWRITE_SET);
	assert_false(c->flags & CMD_BUILDS);
	c = command_find(SLICE_LIT("incr"));
	assert_true(c->flags & CMD_BUILDS);
	c = command_find(SLICE_LIT("hset"));
	assert_int_equal(c->flags & (CMD_BUILDS | CMD_UNPROVEN), CMD_BUILDS | CMD_UNPROVEN);
	assert_int_equal(c->unchanged, UNCHANGED_NEVER);
	c = command_find(SLICE_LIT("sunionstore"));
	assert_int_equal(c->flags & (CMD_BUILDS | CMD_READS_OTHERS), CMD_READS_OTHERS);
	c = command_find(SLICE_LIT("eval_ro"));
	assert_int_equal(c->effect, EFFECT_NONE);
	assert_false(c->flags & CMD_SCRIPT);
	assert_string_equal(command_find(SLICE_LIT("hexpire"))->since, "redis 7.4.0");
	assert_int_equal(command_find(SLICE_LIT("hexpire"))->servers, SERVER_REDIS_8_0 | SERVER_VALKEY_9_1);
	assert_string_equal(cmd_category_names[0], "keyspace");
	assert_true(command_find(SLICE_LIT("get"))->categories & 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_keys),      cmocka_unit_test(test_keys_cap), cmocka_unit_test(test_unrouted),
		cmocka_unit_test(test_first_key),
		cmocka_unit_test(test_find_all),  cmocka_unit_test(test_find_unknown), cmocka_unit_test(test_arity),
		cmocka_unit_test(test_rows),      cmocka_unit_test(test_decisions),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
