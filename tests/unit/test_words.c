/* test_words.c - the words of a parsed request: what resp_request_parse() says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "resp/parse.h"
#include "resp/words.h"

static void same(const char *bytes, size_t len, struct slice **argv, size_t *cap)
{
	struct resp_request r;

	resp_request_init(&r, NULL);
	assert_int_equal(resp_request_parse(&r, bytes, len), RESP_OK);
	assert_int_equal(r.used, len);
	uint32_t n = resp_words(bytes, len, argv, cap);
	assert_int_equal(n, r.argc);
	for (uint32_t i = 0; i < n; i++) {
		struct slice word = resp_request_arg(&r, bytes, i);
		assert_ptr_equal((*argv)[i].p, word.p);
		assert_int_equal((*argv)[i].n, word.n);
	}
	resp_request_release(&r);
}

static void test_words(void **state)
{
	static const char *const texts[] = {
		"*1\r\n$4\r\nPING\r\n", "*2\r\n$3\r\nGET\r\n$0\r\n\r\n", "*3\r\n$3\r\nSET\r\n$2\r\n\r\n\r\n$12\r\n$5\r\nhello\r\n*\r\n",
	};
	struct slice *argv = NULL;
	size_t cap = 0;

	(void)state;
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		same(texts[i], strlen(texts[i]), &argv, &cap);
	free(argv);
}

static void test_many(void **state)
{
	enum { WORDS = 5000 };
	char *text = malloc(WORDS * 16), *p = text + sprintf(text, "*%d\r\n", WORDS);
	struct slice *argv = NULL;
	size_t cap = 0;

	(void)state;
	for (int i = 0; i < WORDS; i++) {
		int n = snprintf(NULL, 0, "%d", i * i);
		p += sprintf(p, "$%d\r\n%d\r\n", n, i * i);
	}
	same(text, (size_t)(p - text), &argv, &cap);
	assert_true(cap >= WORDS);
	free(argv);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_words),
		cmocka_unit_test(test_many),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
