/* test_parse.c - requests and replies: known cases, every split, and differences from a plain reference parser. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <hiredis/sds.h>

#include "resp/parse.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* --- What a parser said, as text that can be compared. --- */

/* A copy of exactly len bytes: a look behind it is seen by ASan, and the buffer moves from call to call. */
static char *exact_copy(const char *p, size_t len)
{
	char *copy = malloc(len ? len : 1);

	assert_non_null(copy);
	memcpy(copy, p, len);
	return copy;
}

static sds describe_request(const struct resp_request *r, enum resp_status status, const char *buf)
{
	sds s = sdsempty();

	if (status == RESP_MORE)
		return sdscat(s, "more");
	if (status == RESP_BAD)
		return sdscatfmt(s, "bad %s", r->error);
	s = sdscatfmt(s, "ok %U", (unsigned long long)r->used);
	for (uint32_t i = 0; i < r->argc; i++) {
		struct slice word = resp_request_arg(r, buf, i);
		s = sdscatrepr(sdscat(s, " "), word.p, word.n);
	}
	return s;
}

/* Feeds growing prefixes: up to `first`, then `step` bytes more each time. */
static sds run_request(const struct resp_limits *limits, const char *p, size_t len, size_t first, size_t step)
{
	struct resp_request r;
	enum resp_status status = RESP_MORE;
	sds said = NULL;

	resp_request_init(&r, limits);
	for (size_t have = first; status == RESP_MORE; have = have + step < len ? have + step : len) {
		char *buf = exact_copy(p, have);
		status = resp_request_parse(&r, buf, have);
		if (status == RESP_MORE)
			assert_true(r.need > have);
		if (status != RESP_MORE || have == len)
			said = describe_request(&r, status, buf);
		free(buf);
		if (have == len)
			break;
	}
	resp_request_release(&r);
	return said;
}

static sds run_reply(const struct resp_limits *limits, const char *p, size_t len, size_t first, size_t step)
{
	struct resp_reply r;
	enum resp_status status = RESP_MORE;
	sds said = sdsempty();

	resp_reply_init(&r, limits);
	for (size_t have = first;; have = have + step < len ? have + step : len) {
		char *buf = exact_copy(p, have);
		status = resp_reply_parse(&r, buf, have);
		free(buf);
		if (status == RESP_MORE)
			assert_true(r.need > have);
		if (status != RESP_MORE || have == len)
			break;
	}
	if (status == RESP_OK)
		return sdscatfmt(said, "ok %U %s", (unsigned long long)r.used, (char[]){ r.type, 0 });
	return sdscat(said, status == RESP_BAD ? "bad" : "more");
}

typedef sds run_fn(const struct resp_limits *limits, const char *p, size_t len, size_t first, size_t step);

/* Every split in two, and byte by byte, says what the whole says. The last byte that matters may come early. */
static void check_splits(run_fn *run, const struct resp_limits *limits, const char *p, size_t len, const char *want)
{
	for (size_t first = 0; first <= len; first++) {
		sds said = run(limits, p, len, first, len ? len : 1);
		if (strcmp(said, want) != 0)
			fail_msg("split at %zu of %s: %s, not %s", first, sdscatrepr(sdsempty(), p, len), said, want);
		sdsfree(said);
	}
	sds said = run(limits, p, len, 0, 1);
	if (strcmp(said, want) != 0)
		fail_msg("byte by byte %s: %s, not %s", sdscatrepr(sdsempty(), p, len), said, want);
	sdsfree(said);
}

#define INVALID_BULK "bad Protocol error: invalid bulk length"
#define INVALID_COUNT "bad Protocol error: invalid multibulk length"
#define INVALID_CRLF "bad Protocol error: invalid CRLF in request"
#define UNBALANCED "bad Protocol error: unbalanced quotes in request"

/* --- The reference: the servers' code, as plainly as can be. --- */

/* string2ll over a copy: a canonical number prints as it was written. */
static int naive_number(const char *p, size_t len, long long *n)
{
	char text[32], again[32];

	if (len == 0 || len > 20)
		return 0;
	memcpy(text, p, len);
	text[len] = '\0';
	*n = strtoll(text, NULL, 10);
	snprintf(again, sizeof(again), "%lld", *n);
	return strlen(again) == len && memcmp(text, again, len) == 0;
}

/* Where c is in text that ends at len, or len. */
static size_t naive_find(const char *p, size_t from, size_t len, char c)
{
	for (size_t i = from; i < len; i++)
		if (p[i] == c)
			return i;
	return len;
}

static sds naive_inline(const struct resp_limits *limits, const char *p, size_t len)
{
	size_t end = naive_find(p, 0, len, '\n');
	int argc;

	if (end < len && memchr(p, 0, end))
		end = len; /* strchr stops at a NUL */
	if (end > limits->max_inline)
		return sdsnew("bad Protocol error: too big inline request");
	if (end == len)
		return sdsnew("more");
	sds line = sdsnewlen(p, end > 0 && p[end - 1] == '\r' ? end - 1 : end);
	sds *words = sdssplitargs(line, &argc);
	sdsfree(line);
	if (!words)
		return sdsnew("bad Protocol error: unbalanced quotes in request");
	sds s = sdscatfmt(sdsempty(), "ok %U", (unsigned long long)end + 1);
	for (int i = 0; i < argc; i++)
		s = sdscatrepr(sdscat(s, " "), words[i], sdslen(words[i]));
	sdsfreesplitres(words, argc);
	return s;
}

static sds naive_request(const struct resp_limits *limits, const char *p, size_t len)
{
	size_t at = 0;
	long long count, n;

	if (len == 0)
		return sdsnew("more");
	if (*p != '*')
		return naive_inline(limits, p, len);
	size_t end = naive_find(p, at, len, '\r');
	if (end - at > limits->max_inline)
		return sdsnew("bad Protocol error: too big mbulk count string");
	if (end + 1 >= len)
		return sdsnew("more");
	if (p[end + 1] != '\n')
		return sdsnew(INVALID_CRLF);
	if (!naive_number(p + 1, end - 1, &count) || count > limits->max_args)
		return sdsnew("bad Protocol error: invalid multibulk length");
	sds words = sdsempty();
	for (at = end + 2; count > 0; count--) {
		end = naive_find(p, at, len, '\r');
		if (end - at > limits->max_inline)
			return sdsfree(words), sdsnew("bad Protocol error: too big bulk count string");
		if (end + 1 >= len)
			return sdsfree(words), sdsnew("more");
		if (p[at] != '$') {
			sdsfree(words);
			return sdscatprintf(sdsempty(), "bad Protocol error: expected '$', got '%c'", p[at]);
		}
		if (p[end + 1] != '\n')
			return sdsfree(words), sdsnew(INVALID_CRLF);
		if (!naive_number(p + at + 1, end - at - 1, &n) || n < 0 || (uint64_t)n > limits->max_bulk)
			return sdsfree(words), sdsnew("bad Protocol error: invalid bulk length");
		if (len - end - 2 < (size_t)n + 2)
			return sdsfree(words), sdsnew("more");
		if (memcmp(p + end + 2 + n, "\r\n", 2) != 0)
			return sdsfree(words), sdsnew(INVALID_CRLF);
		words = sdscatrepr(sdscat(words, " "), p + end + 2, (size_t)n);
		at = end + 2 + (size_t)n + 2;
	}
	sds s = sdscatfmt(sdsempty(), "ok %U", (unsigned long long)at);
	s = sdscatsds(s, words);
	sdsfree(words);
	return s;
}

enum { NAIVE_MORE = -1, NAIVE_BAD = -2 };

static long naive_line(const char *p, size_t at, size_t len)
{
	for (size_t i = at; i + 1 < len; i++)
		if (p[i] == '\r' && p[i + 1] == '\n')
			return (long)i;
	return NAIVE_MORE;
}

/* Where the value at `at` ends. Recursive, and it wants whole lines: that it refuses later than the parser does is evened out by the caller. */
static long naive_reply(const char *p, size_t at, size_t len, unsigned depth)
{
	if (at >= len)
		return NAIVE_MORE;
	char type = p[at];
	if (!strchr("+-:$*_,#!=(%~>|", type) || !type)
		return NAIVE_BAD;
	long end = naive_line(p, at + 1, len);
	if (end < 0)
		return end;
	const char *text = p + at + 1;
	size_t size = (size_t)end - at - 1;
	long long n;
	if (strchr("+-,(", type))
		return end + 2;
	if (type == '_')
		return size == 0 ? end + 2 : NAIVE_BAD;
	if (type == '#')
		return size == 1 && (*text == 't' || *text == 'f') ? end + 2 : NAIVE_BAD;
	if (!naive_number(text, size, &n))
		return NAIVE_BAD;
	if (type == ':' || (n == -1 && (type == '$' || type == '*')))
		return end + 2;
	if (n < 0 || n > (strchr("$!=", type) ? 1000 : UINT32_MAX))
		return NAIVE_BAD;
	size_t next = (size_t)end + 2;
	if (strchr("$!=", type)) {
		if (len - next < (size_t)n + 2)
			return NAIVE_MORE;
		if (memcmp(p + next + n, "\r\n", 2) != 0 || (type == '=' && (n < 4 || p[next + 3] != ':')))
			return NAIVE_BAD;
		return (long)next + n + 2;
	}
	if (n > 0 && depth >= 4)
		return NAIVE_BAD;
	long long children = type == '%' || type == '|' ? 2 * n : n;
	for (long long i = 0; i < children; i++) {
		long got = naive_reply(p, next, len, depth + 1);
		if (got < 0)
			return got;
		next = (size_t)got;
	}
	return type == '|' ? naive_reply(p, next, len, depth) : (long)next;
}

/* --- Known cases. --- */

struct known {
	const char *in;
	size_t len;
	const char *want;
};
#define KNOWN(in, want) { in, sizeof(in) - 1, want }
static const struct known requests[] = {
	KNOWN("*1\r\n$4\r\nPING\r\n", "ok 14 \"PING\""),
	KNOWN("*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n", "ok 20 \"GET\" \"k\""),
	KNOWN("*2\r\n$3\r\nGET\r\n$12\r\nabcdefghijkl\r\n", "ok 32 \"GET\" \"abcdefghijkl\""),
	KNOWN("*1\r\n$0\r\n\r\n", "ok 10 \"\""),
	KNOWN("*1\r\n$3\r\na\r\n\r\n", "ok 13 \"a\\r\\n\""),
	KNOWN("*0\r\n", "ok 4"),
	KNOWN("*-1\r\n", "ok 5"),
	KNOWN("*-12345\r\nx", "ok 9"),
	/* As Valkey 9.1 says it; older servers do not look. */
	KNOWN("*1\rx$4\r\nPING\r\n", INVALID_CRLF),
	KNOWN("*1\r\n$4\rxPING\r\n", INVALID_CRLF),
	KNOWN("*1\r\n$4\r\r\nPING\r\n", INVALID_CRLF),
	KNOWN("*1\r\n$4\r\nPINGxy*0\r\n", INVALID_CRLF),
	KNOWN("*1\r\n$4\r\nPINGx\n", INVALID_CRLF),
	KNOWN("*1\r\n$4\r\nPING\rx", INVALID_CRLF),
	KNOWN("*1\r\n$12\r\n0123456789ab\rx", INVALID_CRLF),
	KNOWN("*0\rx", INVALID_CRLF),
	KNOWN("*-1\rx", INVALID_CRLF),
	KNOWN("*1x\rx", INVALID_CRLF),
	KNOWN("*1\r\n$-1\rx", INVALID_CRLF),
	KNOWN("*1\r\n$\rx", INVALID_CRLF),
	KNOWN("*1\r\n:\rx", "bad Protocol error: expected '$', got ':'"),
	KNOWN("*1\r\n\n$4\r\nPING\r\n", "bad Protocol error: expected '$', got '\n'"),
	KNOWN("*1\n$4\r\n", INVALID_COUNT),
	KNOWN("*1\r\n$4\nPING\r\n", INVALID_BULK),
	KNOWN("*\r\n", INVALID_COUNT),
	KNOWN("*-\r\n", INVALID_COUNT),
	KNOWN("*-0\r\n", INVALID_COUNT),
	KNOWN("*+1\r\n", INVALID_COUNT),
	KNOWN("*01\r\n", INVALID_COUNT),
	KNOWN("* 1\r\n", INVALID_COUNT),
	KNOWN("*1 \r\n", INVALID_COUNT),
	KNOWN("*1048577\r\n", INVALID_COUNT),
	KNOWN("*4294967297\r\n", INVALID_COUNT),
	KNOWN("*18446744073709551617\r\n", INVALID_COUNT),
	KNOWN("*9223372036854775807\r\n", INVALID_COUNT),
	KNOWN("*9223372036854775808\r\n", INVALID_COUNT),
	KNOWN("*-9223372036854775808\r\n", "ok 23"),
	KNOWN("*-9223372036854775809\r\n", INVALID_COUNT),
	KNOWN("*1048576\r\n$1\r\n", "more"),
	KNOWN("*1\r\n$-1\r\n", INVALID_BULK),
	KNOWN("*1\r\n$\r\n", INVALID_BULK),
	KNOWN("*1\r\n$01\r\n", INVALID_BULK),
	KNOWN("*1\r\n$1a\r\n", INVALID_BULK),
	KNOWN("*1\r\n$536870913\r\n", INVALID_BULK),
	KNOWN("*1\r\n$536870912\r\n", "more"),
	KNOWN("*1\r\n$99999999999\r\n", INVALID_BULK),
	KNOWN("*1\r\n$9223372036854775807\r\n", INVALID_BULK),
	KNOWN("*1\r\n$18446744073709551615\r\n", INVALID_BULK),
	KNOWN("*1\r\n:5\r\n", "bad Protocol error: expected '$', got ':'"),
	KNOWN("*1\r\n\r\n", "bad Protocol error: expected '$', got '\r'"),
	KNOWN("*2\r\n$1\r\na\r\nbcd", "more"),
	KNOWN("PING\r\n", "ok 6 \"PING\""),
	KNOWN("PING\n", "ok 5 \"PING\""),
	KNOWN("  SET\tk  v\v \r\nGET", "ok 14 \"SET\" \"k\" \"v\\x0b\""),
	KNOWN("\r\n", "ok 2"),
	KNOWN("\n", "ok 1"),
	KNOWN(" \t \r\n", "ok 5"),
	KNOWN("\r\r\n", "ok 3"),
	KNOWN("a\rb\n", "ok 4 \"a\" \"b\""),
	KNOWN("SET k \"a b\\n\\x41\\\"\" 'c\\'d\\n' \"\"\r\n", "ok 33 \"SET\" \"k\" \"a b\\nA\\\"\" \"c'd\\\\n\" \"\""),
	KNOWN("a\"b c\"\n", "ok 7 \"ab c\""),
	KNOWN("SET \"k\r\n", UNBALANCED),
	KNOWN("SET 'k\r\n", UNBALANCED),
	KNOWN("SET \"k\"x\r\n", UNBALANCED),
	KNOWN("GET\0 k\r\n", "more"), /* strchr stops at the NUL: the line never ends */
	KNOWN("*1\0\r\n", INVALID_COUNT),
	KNOWN("$4\r\n", "ok 4 \"$4\""),
};

static void test_known_requests(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(requests); i++) {
		const struct known *k = &requests[i];
		check_splits(run_request, NULL, k->in, k->len, k->want);
		sds naive = naive_request(&resp_default_limits, k->in, k->len);
		assert_string_equal(naive, k->want);
		sdsfree(naive);
	}
}

/* Lines of the limit's length pass, one byte more does not, whether or not it ends. */
static void test_request_line_limits(void **state)
{
	struct resp_limits limits = resp_default_limits;
	char in[64];

	(void)state;
	limits.max_inline = 20;
	for (unsigned n = 15; n < 25; n++) {
		bool over = n > 20;
		memset(in, 'a', sizeof(in));
		in[n] = '\n';
		check_splits(run_request, &limits, in, n, over ? "bad Protocol error: too big inline request" : "more");
		sds want = sdscatfmt(sdsempty(), "ok %u \"", n + 1);
		want = sdscatlen(sdscatlen(want, in, n), "\"", 1);
		check_splits(run_request, &limits, in, n + 1, over ? "bad Protocol error: too big inline request" : want);
		sdsfree(want);
		memset(in, '1', sizeof(in));
		in[0] = '*';
		in[n] = '\r';
		in[n + 1] = '\n';
		check_splits(run_request, &limits, in, n + 2, over ? "bad Protocol error: too big mbulk count string" : INVALID_COUNT);
		memcpy(in, "*1\r\n$", 5);
		in[n] = '1';
		in[n + 4] = '\r';
		in[n + 5] = '\n';
		check_splits(run_request, &limits, in, n + 6, over ? "bad Protocol error: too big bulk count string" : INVALID_BULK);
	}
}

static void test_unauthenticated(void **state)
{
	struct resp_limits limits = resp_default_limits;

	(void)state;
	limits.unauthenticated = true;
	check_splits(run_request, &limits, "*11\r\n", 5, "bad Protocol error: unauthenticated multibulk length");
	check_splits(run_request, &limits, "*10\r\n", 5, "more");
	check_splits(run_request, &limits, "*1\r\n$16385\r\n", 12, "bad Protocol error: unauthenticated bulk length");
	check_splits(run_request, &limits, "*1\r\n$16384\r\n", 12, "more");
	check_splits(run_request, &limits, "*x\r\n", 4, INVALID_COUNT);
}

/* More words than argv has room for, through one parser that is used again, and memory that follows what arrived. */
static void test_many_words(void **state)
{
	struct resp_request r;

	(void)state;
	resp_request_init(&r, NULL);
	for (unsigned n = 1; n <= 5000; n = n * 3 / 2 + 1) {
		sds in = sdscatfmt(sdsempty(), "*%u\r\n", n);
		for (unsigned i = 0; i < n; i++)
			in = sdscatprintf(in, "$5\r\n%05u\r\n", i);
		assert_int_equal(resp_request_parse(&r, in, sdslen(in)), RESP_OK);
		assert_int_equal(r.used, sdslen(in));
		assert_int_equal(r.argc, n);
		for (unsigned i = 0; i < n; i++)
			assert_int_equal(atoi(resp_request_arg(&r, in, i).p), i);
		resp_request_reset(&r);
		assert_true(r.argv_cap <= 1024);
		sdsfree(in);
	}
	assert_int_equal(resp_request_parse(&r, "*1000000\r\n$1\r\na\r\n", 17), RESP_MORE);
	assert_true(r.argv_cap <= 1024);
	resp_request_release(&r);
}

/* The first `head` bytes are parsed, then the rest is skipped in steps. */
static sds skip_request(const struct resp_limits *limits, const char *p, size_t len, size_t head, size_t step)
{
	struct resp_request r;
	struct resp_skip skip;
	size_t used = 0;

	resp_request_init(&r, limits);
	char *buf = exact_copy(p, head);
	enum resp_status status = resp_request_parse(&r, buf, head);
	free(buf);
	if (status != RESP_MORE || r.multibulk <= 0) {
		resp_request_release(&r);
		return NULL;
	}
	size_t at = (size_t)resp_skip_init(&skip, &r);
	while (status == RESP_MORE && at < len) {
		size_t n = len - at < step ? len - at : step;
		buf = exact_copy(p + at, n);
		status = resp_skip(&skip, buf, n, &used);
		free(buf);
		at += status == RESP_BAD ? 0 : used;
	}
	sds said = status == RESP_MORE ? sdsnew("more") : status == RESP_BAD ? sdscatfmt(sdsempty(), "bad %s", skip.error) : sdscatfmt(sdsempty(), "ok %U", (unsigned long long)at);
	resp_request_release(&r);
	return said;
}

/* What skipping says at every head and with every step is what parsing says of the whole. */
static void test_skip(void **state)
{
	static const char *const requests[] = {
		"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\nrest", "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n", "*2\r\n$3\r\nGET\r\n$1\r\nkX\n",
		"*2\r\n$3\r\nGET\r\n$1\r\nk\rX", "*3\r\n$3\r\nSET\r\n:1\r\nk\r\n", "*3\r\n$1\r\na\r\n$-1\r\n", "*3\r\n$1\r\na\r\n$x\r\n", "*3\r\n$1\r\na\r\n\r\n",
		"*3\r\n$1\r\na\r\n$1\rX", "*3\r\n$1\r\na\r\n$01\r\n", "*3\r\n$1\r\na\r\n$1001\r\n", "*3\r\n$1\r\na\r\n$000000000000000000000000000000000000001\r\n",
		"*3\r\n$1\r\na\r\n$0000000000000000000000000000000000000000000000000000000000000000001", "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n*1\r\n", "*4\r\n$1\r\na\r\n$1\r\nb\r\n",
	};
	struct resp_limits limits = resp_default_limits;
	unsigned skipped = 0;

	(void)state;
	limits.max_inline = 60;
	limits.max_bulk = 1000;
	for (size_t i = 0; i < COUNT(requests); i++) {
		size_t len = strlen(requests[i]);
		sds whole = run_request(&limits, requests[i], len, len, 1);
		size_t n = strncmp(whole, "ok ", 3) == 0 ? strcspn(whole + 3, " ") + 3 : sdslen(whole);
		for (size_t head = 1; head < len; head++)
			for (size_t step = 1; step <= len; step++) {
				sds said = skip_request(&limits, requests[i], len, head, step);
				if (!said)
					continue;
				assert_int_equal(sdslen(said), n);
				assert_memory_equal(said, whole, n);
				sdsfree(said);
				skipped++;
			}
		sdsfree(whole);
	}
	assert_true(skipped > 1000);
}

static void test_need(void **state)
{
	struct resp_request r;
	struct resp_reply reply;

	(void)state;
	resp_request_init(&r, NULL);
	assert_int_equal(resp_request_parse(&r, "*2\r\n$1000\r\nab", 13), RESP_MORE);
	assert_int_equal(r.need, 11 + 1002);
	resp_request_release(&r);
	resp_reply_init(&reply, NULL);
	assert_int_equal(resp_reply_parse(&reply, "*2\r\n$1000\r\nab", 13), RESP_MORE);
	assert_int_equal(reply.need, 11 + 1002);
}

static const struct known replies[] = {
	KNOWN("+OK\r\n", "ok 5 +"),
	KNOWN("+\r\n", "ok 3 +"),
	KNOWN("-ERR a\rb\r\n+x", "ok 10 -"),
	KNOWN(":0\r\n", "ok 4 :"),
	KNOWN(":-9223372036854775808\r\n", "ok 23 :"),
	KNOWN(":9223372036854775808\r\n", "bad"),
	KNOWN(":+1\r\n", "bad"),
	KNOWN(":\r\n", "bad"),
	KNOWN(":1\rx", "bad"),
	KNOWN("$3\r\na\r\n\r\n", "ok 9 $"),
	KNOWN("$3\r\nabcd\r\n", "bad"),
	KNOWN("$-1\r\n", "ok 5 $"),
	KNOWN("$-2\r\n", "bad"),
	KNOWN("$?\r\n", "bad"),
	KNOWN("*?\r\n", "bad"),
	KNOWN("*-1\r\n", "ok 5 *"),
	KNOWN("*0\r\n", "ok 4 *"),
	KNOWN("*4294967296\r\n", "bad"),
	KNOWN("%9223372036854775807\r\n", "bad"),
	KNOWN("*2\r\n*1\r\n:1\r\n$1\r\na\r\n", "ok 19 *"),
	KNOWN("%1\r\n+a\r\n*1\r\n:1\r\n", "ok 16 %"),
	KNOWN("%-1\r\n", "bad"),
	KNOWN("~-1\r\n", "bad"),
	KNOWN("~1\r\n_\r\n", "ok 7 ~"),
	KNOWN(">2\r\n+a\r\n,1.5\r\n", "ok 14 >"),
	KNOWN("#t\r\n", "ok 4 #"),
	KNOWN("#x\r\n", "bad"),
	KNOWN("_\r\n", "ok 3 _"),
	KNOWN("_x", "bad"),
	KNOWN("_\rx", "bad"),
	KNOWN(",nan\r\n", "ok 6 ,"),
	KNOWN("(123456789012345678901234567890\r\n", "ok 33 ("),
	KNOWN("!5\r\nERR x\r\n", "ok 11 !"),
	KNOWN("!-1\r\n", "bad"),
	KNOWN("=5\r\ntxt:a\r\n", "ok 11 ="),
	KNOWN("=4\r\ntxta\r\n", "bad"),
	KNOWN("=3\r\ntxt\r\n", "bad"),
	KNOWN("|1\r\n+k\r\n+v\r\n:1\r\n", "ok 16 :"),
	KNOWN("|1\r\n+k\r\n+v\r\n", "more"),
	KNOWN("|0\r\n|0\r\n_\r\n", "ok 11 _"),
	KNOWN("*2\r\n|1\r\n+k\r\n+v\r\n:1\r\n:2\r\n", "ok 24 *"),
	KNOWN("*1\r\n|1\r\n+k\r\n*1\r\n:5\r\n~0\r\n", "ok 24 *"),
	KNOWN("hello\r\n", "bad"),
	KNOWN("\r\n", "bad"),
	KNOWN(".\r\n", "bad"),
};

static void test_known_replies(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(replies); i++)
		check_splits(run_reply, NULL, replies[i].in, replies[i].len, replies[i].want);
}

static void test_reply_depth(void **state)
{
	(void)state;
	for (unsigned depth = RESP_MAX_DEPTH - 1; depth <= RESP_MAX_DEPTH + 1; depth++) {
		sds in = sdsempty();
		for (unsigned i = 0; i < depth; i++)
			in = sdscat(in, "*1\r\n");
		in = sdscat(in, "*0\r\n");
		sds want = depth > RESP_MAX_DEPTH ? sdsnew("bad") : sdscatfmt(sdsempty(), "ok %u *", depth * 4 + 4);
		check_splits(run_reply, NULL, in, sdslen(in), want);
		sdsfree(in);
		sdsfree(want);
	}
}

static void test_items(void **state)
{
	static const char in[] = "%1\r\n=5\r\ntxt:a\r\n|1\r\n+k\r\n#t\r\n$-1\r\n*-1\r\n";
	const char *p = in, *end = in + sizeof(in) - 1;
	struct resp_item item;

	(void)state;
	assert_int_equal(resp_value_len(p, end), sizeof(in) - 1 - 5);
	assert_int_equal(resp_value_len(p, end - 6), 0);
	p += resp_item(p, end, &item);
	assert_true(item.type == '%' && item.n == 2);
	p += resp_item(p, end, &item);
	assert_true(item.type == '=' && slice_eq(item.text, SLICE_LIT("a")));
	p += resp_item(p, end, &item);
	assert_true(item.type == '|' && item.n == 2);
	p += resp_item(p, end, &item);
	assert_true(item.type == '+' && slice_eq(item.text, SLICE_LIT("k")));
	p += resp_item(p, end, &item);
	assert_true(item.type == '#' && item.n == 1);
	p += resp_item(p, end, &item);
	assert_true(item.type == '_');
	p += resp_item(p, end, &item);
	assert_true(item.type == '_' && p == end);
	assert_int_equal(resp_item(p, end, &item), 0);
}

/* --- Random input. --- */

static uint64_t seed = 0x9e3779b97f4a7c15;

static unsigned chance(unsigned n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (unsigned)(seed >> 33) % n;
}

static const char *const request_bits[] = { "*1\r\n", "*2\r\n", "*3\r\n", "$1\r\n", "$4\r\n", "$10\r\n", "a\r\n", "PING\r\n", "0123456789\r\n",
	"GET k", "\r", "\n", "\"", "'", " ", "\\", "\\x4", "$", "*", "-1", "0", "12", "99999999999", "9223372036854775808", "\t" };
static const char *const reply_bits[] = { "*1\r\n", "*2\r\n", "*3\r\n", "%1\r\n", "~2\r\n", ">1\r\n", "|1\r\n", "|0\r\n", "$1\r\na\r\n", "$3\r\nabc\r\n",
	"+OK\r\n", "-ERR x\r\n", ":1\r\n", ":-12\r\n", "_\r\n", "#t\r\n", "#f\r\n", ",1.5\r\n", "(12\r\n", "=5\r\ntxt:a\r\n", "!3\r\nERR\r\n",
	"$-1\r\n", "*-1\r\n", "*0\r\n", "\r", "\n", "1", "-", "$", "x", "%2\r\n" };

/* Mostly well-formed pieces in any order; now and then a byte is changed, doubled or lost. */
static sds random_input(const char *const *bits, size_t count)
{
	sds s = sdsempty();

	for (unsigned n = 1 + chance(8); n > 0; n--)
		s = sdscat(s, bits[chance((unsigned)count)]);
	if (chance(3) == 0)
		s[chance((unsigned)sdslen(s))] = (char)chance(256);
	if (chance(6) == 0)
		sdsrange(s, 0, chance((unsigned)sdslen(s)));
	return s;
}

static void test_requests_differ_from_naive(void **state)
{
	struct resp_limits limits = resp_default_limits;

	(void)state;
	for (unsigned i = 0; i < 30000; i++) {
		limits.max_inline = chance(2) ? 12 : 1000;
		limits.max_bulk = chance(2) ? 4 : 1000;
		sds in = random_input(request_bits, COUNT(request_bits));
		sds want = naive_request(&limits, in, sdslen(in));
		check_splits(run_request, &limits, in, sdslen(in), want);
		sdsfree(in);
		sdsfree(want);
	}
}

static void test_replies_differ_from_naive(void **state)
{
	struct resp_limits limits = resp_default_limits;

	(void)state;
	limits.max_depth = 4;
	limits.max_bulk = 1000;
	for (unsigned i = 0; i < 30000; i++) {
		sds in = random_input(reply_bits, COUNT(reply_bits));
		sds said = run_reply(&limits, in, sdslen(in), sdslen(in), 1);
		long naive = naive_reply(in, 0, sdslen(in), 0);
		/* What is wrong in a line that has not ended yet is known to the parser only. */
		if (naive >= 0) {
			sds want = sdscatfmt(sdsempty(), "ok %I", (long long)naive);
			assert_memory_equal(said, want, sdslen(want));
			sdsfree(want);
			assert_int_equal(resp_value_len(in, in + sdslen(in)), naive);
		} else if (naive == NAIVE_BAD) {
			assert_string_equal(said, "bad");
		} else {
			assert_true(strncmp(said, "ok", 2) != 0);
		}
		check_splits(run_reply, &limits, in, sdslen(in), said);
		sdsfree(in);
		sdsfree(said);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_known_requests),
		cmocka_unit_test(test_request_line_limits),
		cmocka_unit_test(test_unauthenticated),
		cmocka_unit_test(test_many_words),
		cmocka_unit_test(test_skip),
		cmocka_unit_test(test_need),
		cmocka_unit_test(test_known_replies),
		cmocka_unit_test(test_reply_depth),
		cmocka_unit_test(test_items),
		cmocka_unit_test(test_requests_differ_from_naive),
		cmocka_unit_test(test_replies_differ_from_naive),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
