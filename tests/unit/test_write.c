/* test_write.c - the RESP writers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "resp/parse.h"
#include "resp/write.h"

/* Appended behind what was there, ended as sds are, and no more than it says. */
#define CHECK(call, want) do { \
	sds s = sdsnew("before "); \
	s = (call); \
	assert_int_equal(sdslen(s), 7 + sizeof(want) - 1); \
	assert_memory_equal(s, "before " want, 7 + sizeof(want)); \
	sdsfree(s); \
} while (0)

static void test_headers(void **state)
{
	static const int64_t numbers[] = { 0, 1, 9, 10, 11, 99, 100, 101, 999, 1000, 65535, 1048576, 4294967296, INT64_MAX, -1, -9, -10, -99, -100,
		-12345, INT64_MIN, INT64_MIN + 1 };
	char got[RESP_HEADER_MAX], want[32];

	(void)state;
	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
		int len = snprintf(want, sizeof(want), "%%%lld\r\n", (long long)numbers[i]);
		assert_int_equal(resp_put_len(got, '%', numbers[i]), len);
		assert_memory_equal(got, want, (size_t)len);
		assert_true(len <= RESP_HEADER_MAX);
	}
}

static void test_replies(void **state)
{
	(void)state;
	CHECK(resp_cat_len(s, '*', 12), "*12\r\n");
	CHECK(resp_cat_bulk(s, SLICE_LIT("a\0b")), "$3\r\na\0b\r\n");
	CHECK(resp_cat_bulk(s, slice(NULL, 0)), "$0\r\n\r\n");
	CHECK(resp_cat_int_bulk(s, -120), "$4\r\n-120\r\n");
	CHECK(resp_cat_int_bulk(s, INT64_MIN), "$20\r\n-9223372036854775808\r\n");
	CHECK(resp_cat_simple(s, "OK"), "+OK\r\n");
	CHECK(resp_cat_error(s, "ERR a\r\nb"), "-ERR a  b\r\n");
	CHECK(resp_cat_null(s, 2), "$-1\r\n");
	CHECK(resp_cat_null(s, 3), "_\r\n");
	CHECK(resp_cat_null_array(s, 2), "*-1\r\n");
	CHECK(resp_cat_null_array(s, 3), "_\r\n");
}

static void test_requests(void **state)
{
	const struct slice argv[] = { SLICE_LIT("SET"), SLICE_LIT("k"), slice(NULL, 0) };

	(void)state;
	CHECK(resp_cat_request(s, 3, argv), "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n");
	CHECK(resp_cat_words(s, "GET", "k", NULL), "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
}

/* What is written is read back, across every growth of the buffer. */
static void test_round_trip(void **state)
{
	static char big[70000];
	struct resp_request r;

	(void)state;
	memset(big, 'x', sizeof(big));
	resp_request_init(&r, NULL);
	for (size_t n = 0; n < sizeof(big); n = n * 5 / 4 + 1) {
		struct slice argv[3] = { SLICE_LIT("SET"), slice(big, n), slice(big, n / 3) };
		sds s = resp_cat_request(sdsempty(), 3, argv);
		assert_int_equal(resp_request_parse(&r, s, sdslen(s)), RESP_OK);
		assert_int_equal(r.used, sdslen(s));
		assert_int_equal(r.argc, 3);
		for (uint32_t i = 0; i < 3; i++)
			assert_true(slice_eq(resp_request_arg(&r, s, i), argv[i]));
		resp_request_reset(&r);
		sdsfree(s);
	}
	resp_request_release(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_headers),
		cmocka_unit_test(test_replies),
		cmocka_unit_test(test_requests),
		cmocka_unit_test(test_round_trip),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
