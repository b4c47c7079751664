/* test_convert.c - RESP3 replies as RESP2 clients see them, and digests. The rules: the servers' sources, facts/resp-shapes.md. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "resp/convert.h"
#include "resp/parse.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* A reply of exactly n bytes, so that ASan sees a look behind it. */
static struct slice exact(const char *text, size_t n)
{
	char *copy = malloc(n);

	assert_non_null(copy);
	memcpy(copy, text, n);
	return slice(copy, n);
}

struct known {
	uint8_t shape;
	const char *args; /* split at spaces */
	const char *in, *want;
};

static const struct known conversions[] = {
	/* generic */
	{ SHAPE_GENERIC, "X", "+OK\r\n", "+OK\r\n" },
	{ SHAPE_GENERIC, "X", "*2\r\n$1\r\na\r\n:1\r\n", "*2\r\n$1\r\na\r\n:1\r\n" },
	{ SHAPE_GENERIC, "X", "_\r\n", "$-1\r\n" },
	{ SHAPE_GENERIC, "X", "#t\r\n", ":1\r\n" },
	{ SHAPE_GENERIC, "X", "*2\r\n#f\r\n#t\r\n", "*2\r\n:0\r\n:1\r\n" },
	{ SHAPE_GENERIC, "X", ",inf\r\n", "$3\r\ninf\r\n" },
	{ SHAPE_GENERIC, "X", ",0.69999999999999996\r\n", "$19\r\n0.69999999999999996\r\n" },
	{ SHAPE_GENERIC, "X", "(123456789012345678901\r\n", "$21\r\n123456789012345678901\r\n" },
	{ SHAPE_GENERIC, "X", "=8\r\ntxt:a\r\nb\r\n", "$4\r\na\r\nb\r\n" },
	{ SHAPE_GENERIC, "X", "=4\r\ntxt:\r\n", "$0\r\n\r\n" },
	{ SHAPE_GENERIC, "X", "!8\r\nERR a\r\nb\r\n", "-ERR a  b\r\n" },
	{ SHAPE_GENERIC, "X", "%2\r\n+a\r\n:1\r\n+b\r\n%0\r\n", "*4\r\n+a\r\n:1\r\n+b\r\n*0\r\n" },
	{ SHAPE_GENERIC, "X", "~2\r\n_\r\n+b\r\n", "*2\r\n$-1\r\n+b\r\n" },
	{ SHAPE_GENERIC, "X", ">2\r\n+message\r\n%1\r\n+a\r\n_\r\n", "*2\r\n+message\r\n*2\r\n+a\r\n$-1\r\n" },
	{ SHAPE_GENERIC, "X", "|1\r\n+ttl\r\n*1\r\n,1\r\n$1\r\nv\r\n", "$1\r\nv\r\n" },
	{ SHAPE_GENERIC, "X", "*3\r\n:1\r\n|1\r\n+a\r\n|1\r\n+b\r\n+c\r\n+d\r\n|0\r\n:2\r\n:3\r\n", "*3\r\n:1\r\n:2\r\n:3\r\n" },
	/* pairs stay pairs without a rule: ZMPOP, GEORADIUS */
	{ SHAPE_GENERIC, "X", "*1\r\n*2\r\n$1\r\nm\r\n,1\r\n", "*1\r\n*2\r\n$1\r\nm\r\n$1\r\n1\r\n" },
	/* null arrays */
	{ SHAPE_NULL_ARRAY, "LMPOP", "_\r\n", "*-1\r\n" },
	{ SHAPE_NULL_ARRAY, "LMPOP", "*1\r\n_\r\n", "*1\r\n$-1\r\n" },
	{ SHAPE_NULL_ARRAY_COUNT, "LPOP k", "_\r\n", "$-1\r\n" },
	{ SHAPE_NULL_ARRAY_COUNT, "LPOP k 1", "_\r\n", "*-1\r\n" },
	{ SHAPE_NULL_ARRAY_WITHSCORE, "ZRANK k m", "_\r\n", "$-1\r\n" },
	{ SHAPE_NULL_ARRAY_WITHSCORE, "ZRANK k m withScore", "_\r\n", "*-1\r\n" },
	{ SHAPE_NULL_ARRAY_WITHSCORE, "ZRANK k m WITHSCORE", "*2\r\n:0\r\n,1.5\r\n", "*2\r\n:0\r\n$3\r\n1.5\r\n" },
	{ SHAPE_NULL_ARRAY_NESTED, "GEOPOS k a b", "*2\r\n_\r\n*2\r\n,1\r\n,2\r\n", "*2\r\n*-1\r\n*2\r\n$1\r\n1\r\n$1\r\n2\r\n" },
	{ SHAPE_EXEC, "EXEC", "_\r\n", "*-1\r\n" },
	{ SHAPE_EXEC, "EXEC", "*1\r\n_\r\n", "*1\r\n$-1\r\n" },
	/* pairs become flat */
	{ SHAPE_FLAT_WITHSCORES, "ZRANGE k 0 -1 WITHSCORES", "*2\r\n*2\r\n$1\r\na\r\n,1\r\n*2\r\n$1\r\nb\r\n,2\r\n",
		"*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$1\r\n2\r\n" },
	{ SHAPE_FLAT_WITHSCORES, "ZRANGE k 0 -1 WITHSCORES", "*0\r\n", "*0\r\n" },
	{ SHAPE_FLAT_WITHSCORES, "ZUNION 1 WITHSCORES", "*2\r\n$1\r\na\r\n$1\r\nb\r\n", "*2\r\n$1\r\na\r\n$1\r\nb\r\n" },
	{ SHAPE_FLAT_WITHVALUES, "HRANDFIELD k 2 WITHVALUES", "*1\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n", "*2\r\n$1\r\na\r\n$1\r\nb\r\n" },
	{ SHAPE_FLAT_WITHVALUES, "HRANDFIELD k", "_\r\n", "$-1\r\n" },
	{ SHAPE_FLAT_COUNT, "ZPOPMIN k", "*2\r\n$1\r\na\r\n,1\r\n", "*2\r\n$1\r\na\r\n$1\r\n1\r\n" },
	{ SHAPE_FLAT_COUNT, "ZPOPMIN k 1", "*1\r\n*2\r\n$1\r\na\r\n,1\r\n", "*2\r\n$1\r\na\r\n$1\r\n1\r\n" },
	{ SHAPE_FLAT_COUNT, "ZPOPMIN k 1", "*1\r\n|1\r\n+x\r\n+y\r\n*2\r\n$1\r\na\r\n|0\r\n,1\r\n", "*2\r\n$1\r\na\r\n$1\r\n1\r\n" },
	/* streams */
	{ SHAPE_STREAMS, "XREAD STREAMS a 0", "_\r\n", "*-1\r\n" },
	{ SHAPE_STREAMS, "XREAD STREAMS a 0", "%2\r\n$1\r\na\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n+f\r\n+v\r\n$1\r\nb\r\n*0\r\n",
		"*2\r\n*2\r\n$1\r\na\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n+f\r\n+v\r\n*2\r\n$1\r\nb\r\n*0\r\n" },
	{ SHAPE_STREAMS, "XREADGROUP GROUP g c STREAMS a 0", "%1\r\n$1\r\na\r\n*1\r\n*2\r\n$3\r\n1-1\r\n_\r\n",
		"*1\r\n*2\r\n$1\r\na\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*-1\r\n" },
};

static void test_conversions(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(conversions); i++) {
		const struct known *k = &conversions[i];
		struct command cmd = { .shape = k->shape };
		struct slice argv[8], reply = exact(k->in, strlen(k->in));
		int argc;
		sds *words = sdssplitargs(k->args, &argc);
		for (int w = 0; w < argc; w++)
			argv[w] = slice(words[w], sdslen(words[w]));
		sds out = resp2_convert(sdsnew("before "), &cmd, (uint32_t)argc, argv, reply);
		assert_int_equal(sdslen(out), strlen(out));
		assert_string_equal(out + 7, k->want);
		/* What is said not to differ must come out as it went in. */
		if (!resp2_differs(&cmd, reply))
			assert_string_equal(k->in, k->want);
		else
			assert_true(strcmp(k->in, k->want) != 0 || (k->shape >= SHAPE_FLAT_WITHSCORES && k->shape <= SHAPE_FLAT_COUNT));
		sdsfree(out);
		sdsfreesplitres(words, argc);
		free((char *)reply.p);
	}
}

static void test_no_command(void **state)
{
	struct slice reply = SLICE_LIT("*1\r\n*2\r\n_\r\n,1\r\n");

	(void)state;
	assert_true(resp2_differs(NULL, reply));
	assert_false(resp2_differs(NULL, SLICE_LIT("*1\r\n*2\r\n:1\r\n$1\r\n_\r\n")));
	sds out = resp2_convert(sdsempty(), NULL, 0, NULL, reply);
	assert_string_equal(out, "*1\r\n*2\r\n$-1\r\n$1\r\n1\r\n");
	sdsfree(out);
}

/* Large enough for the output to move while it is written. */
static void test_large(void **state)
{
	sds in = sdsnew("%10000\r\n"), want = sdsnew("*20000\r\n");

	(void)state;
	for (int i = 0; i < 10000; i++) {
		in = sdscatprintf(in, "$5\r\n%05d\r\n,%d\r\n", i, i % 10);
		want = sdscatprintf(want, "$5\r\n%05d\r\n$1\r\n%d\r\n", i, i % 10);
	}
	sds out = resp2_convert(sdsempty(), NULL, 0, NULL, slice(in, sdslen(in)));
	assert_int_equal(sdscmp(out, want), 0);
	sdsfree(in);
	sdsfree(out);
	sdsfree(want);
}

static uint64_t digest(const char *text)
{
	struct slice reply = exact(text, strlen(text));
	uint64_t d = resp_reply_digest(reply);

	free((char *)reply.p);
	return d;
}

static void test_equal_digests(void **state)
{
	static const char *const equal[][2] = {
		{ ",0.7\r\n", ",0.69999999999999996\r\n" },
		{ ",1e3\r\n", ",1000\r\n" },
		{ ",0\r\n", ",-0\r\n" },
		{ ",nan\r\n", ",-nan\r\n" },
		{ "~2\r\n+a\r\n+b\r\n", "~2\r\n+b\r\n+a\r\n" },
		{ "%2\r\n+a\r\n:1\r\n+b\r\n:2\r\n", "%2\r\n+b\r\n:2\r\n+a\r\n:1\r\n" },
		{ "*1\r\n~2\r\n,0.7\r\n+b\r\n", "*1\r\n~2\r\n+b\r\n,0.69999999999999996\r\n" },
		{ "-WRONGTYPE a b\r\n", "-WRONGTYPE c\r\n" },
		{ "-ERR\r\n", "-ERR x\r\n" },
		{ "|1\r\n+a\r\n+b\r\n:1\r\n", ":1\r\n" },
		{ "_\r\n", "*-1\r\n" },
		{ "_\r\n", "$-1\r\n" },
	};

	(void)state;
	for (size_t i = 0; i < COUNT(equal); i++)
		assert_true(digest(equal[i][0]) == digest(equal[i][1]));
}

static void test_unequal_digests(void **state)
{
	static const char *const all[] = {
		"+OK\r\n", "+QUEUED\r\n", "-ERR a\r\n", "-OOM a\r\n", ":0\r\n", ":1\r\n", ":-1\r\n", "$0\r\n\r\n", "$2\r\nOK\r\n", "_\r\n", "#t\r\n",
		"#f\r\n", ",1\r\n", ",0.7\r\n", ",0.70000000000000007\r\n", ",inf\r\n", ",-inf\r\n", ",nan\r\n", ",\r\n", ",x\r\n", "(1\r\n",
		"*0\r\n", "*1\r\n*0\r\n", "*2\r\n*0\r\n*0\r\n", "*1\r\n:1\r\n", "*2\r\n:1\r\n:2\r\n", "*2\r\n:2\r\n:1\r\n",
		"*2\r\n*1\r\n:1\r\n:2\r\n", "*2\r\n:1\r\n*1\r\n:2\r\n", "~0\r\n", "~1\r\n:1\r\n", "~2\r\n:1\r\n:2\r\n", "~2\r\n:1\r\n:1\r\n",
		"%0\r\n", "%1\r\n:1\r\n:2\r\n", "%1\r\n:2\r\n:1\r\n", "%2\r\n:1\r\n:2\r\n:3\r\n:4\r\n", "%2\r\n:1\r\n:4\r\n:3\r\n:2\r\n",
		"%2\r\n:1\r\n:3\r\n:2\r\n:4\r\n", ">1\r\n:1\r\n", "=5\r\ntxt:a\r\n", "$1\r\na\r\n", "+a\r\n",
	};

	(void)state;
	for (size_t i = 0; i < COUNT(all); i++)
		for (size_t j = 0; j < i; j++)
			if (digest(all[i]) == digest(all[j]))
				fail_msg("%s and %s have one digest", all[i], all[j]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_conversions),
		cmocka_unit_test(test_no_command),
		cmocka_unit_test(test_large),
		cmocka_unit_test(test_equal_digests),
		cmocka_unit_test(test_unequal_digests),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
