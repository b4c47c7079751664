/* Records of a take-over: what was written is read back the same, what is not understood is refused. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/handover.h"
#include "resp/write.h"

static bool parse(const char *p, size_t n, struct handed *h, char *why, size_t whylen)
{
	struct resp_request r;

	resp_request_init(&r, &handover_limits);
	assert_int_equal(resp_request_parse(&r, p, n), RESP_OK);
	assert_int_equal(r.used, n);
	bool ok = handed_parse(&r, p, h, why, whylen);
	resp_request_release(&r);
	return ok;
}

static void round_trip(void **state)
{
	static const char ping[] = "*1\r\n$4\r\nPING\r\n";
	struct handed h = { .fd = -1, .id = 77, .db = 3, .proto = 3, .since_ms = 5, .multi = 1, .watching = 2, .watch_slot = 16383, .logged_in = 1, .tracks = 1,
		.redirect = 9, .user = sdsnew("someone"), .name = sdsempty(), .in = sdsnewlen("*1\r\n$4\r\nPI\0", 11) };
	struct handed back;
	char why[200];

	(void)state;
	handed_add(&h.queued, 0, ping, sizeof ping - 1);
	handed_add(&h.queued, 1, ping, sizeof ping - 1);
	handed_add(&h.queued, 0, ping, sizeof ping - 1);
	handed_add(&h.topics, TOPIC_PATTERN, "a\0b", 3);
	handed_add(&h.topics, TOPIC_CHANNEL, "", 0);
	sds once = handed_cat(sdsempty(), &h);
	assert_true(parse(once, sdslen(once), &back, why, sizeof why));
	assert_int_equal(back.id, 77);
	assert_int_equal(back.watch_slot, 16383);
	assert_int_equal(back.queued.n, 3);
	assert_int_equal(back.queued.at[1].kind, 1);
	assert_int_equal(back.queued.at[2].kind, 0);
	assert_int_equal(back.topics.n, 2);
	assert_int_equal(sdslen(back.in), 11);
	assert_non_null(back.name);
	assert_null(back.lib_name);
	sds twice = handed_cat(sdsempty(), &back);
	assert_string_equal(once, twice);
	sdsfree(once);
	sdsfree(twice);
	handed_release(&h);
	handed_release(&back);
}

static void refused(void **state)
{
	static const struct {
		const char *words[8];
		const char *why;
	} cases[] = {
		{ { "client", "id", "1" }, "id or protocol" },
		{ { "client", "id", "1", "proto" }, "without a value" },
		{ { "client", "id", "-1", "proto", "2" }, "not a number" },
		{ { "client", "id", "1", "proto", "4" }, "not a number" },
		{ { "client", "id", "1", "proto", "2", "colour", "red" }, "unknown field" },
		{ { "client", "id", "1", "proto", "2", "waits", "1" }, "waits for nothing" },
		{ { "client", "id", "1", "proto", "2", "queued", "PING" }, "no row of commands" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct slice words[8];
		struct handed h;
		char why[200] = "";
		int n = 0;
		for (; n < 8 && cases[i].words[n]; n++)
			words[n] = slice(cases[i].words[n], strlen(cases[i].words[n]));
		sds s = resp_cat_request(sdsempty(), n, words);
		assert_false(parse(s, sdslen(s), &h, why, sizeof why));
		if (!strstr(why, cases[i].why))
			fail_msg("case %zu: %s", i, why);
		sdsfree(s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(round_trip), cmocka_unit_test(refused) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
