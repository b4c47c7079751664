/* What is noted of the writes to a key that is copied in chunks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <hiredis/sds.h>

#include "proxy/changes.h"
#include "resp/write.h"

/* The names noted of one command, with blanks between; "?" for unknown. */
static void check(const char *line, const char *names)
{
	struct changes c = { .on = false };
	struct resp_item item;
	unsigned writes;
	int argc = 0;
	sds elements = NULL, text = sdsempty(), *words = sdssplitlen(line, (ssize_t)strlen(line), " ", 1, &argc);
	struct slice argv[32];

	assert_true(argc <= 32);
	for (int i = 0; i < argc; i++)
		argv[i] = slice(words[i], sdslen(words[i]));
	sds request = resp_cat_request(sdsempty(), argc, argv);
	changes_begin(&c, keyhash_of(0, slice("k", 1)));
	assert_true(changes_about(&c, keyhash_of(0, slice("k", 1))));
	assert_false(changes_about(&c, keyhash_of(0, slice("l", 1))));
	changes_note(&c, slice(request, sdslen(request)));
	if (changes_take(&c, &elements, &writes)) {
		assert_int_equal(writes, 1);
		for (const char *p = elements; p < elements + sdslen(elements);) {
			p += resp_item(p, elements + sdslen(elements), &item);
			text = sdscatlen(sdslen(text) ? sdscat(text, " ") : text, item.text.p, item.text.n);
		}
	} else {
		text = sdscat(text, "?");
	}
	assert_string_equal(text, names);
	changes_end(&c);
	assert_false(changes_about(&c, keyhash_of(0, slice("k", 1))));
	sdsfreesplitres(words, argc);
	sdsfree(elements);
	sdsfree(request);
	sdsfree(text);
}

static void names(void **state)
{
	(void)state;
	check("HSET k a 1 b 2", "a b");
	check("hset k NX 1 XX NX", "NX XX");
	check("HDEL k a b c", "a b c");
	check("HINCRBY k a 5", "a");
	check("HSETNX k a b", "a");
	check("SADD k a", "a");
	check("SREM k a b", "a b");
	check("ZADD k 1 a 2 b", "a b");
	check("ZADD k XX CH 1 a 2 NX", "a NX");
	check("ZADD k GT INCR 1 a", "a");
	check("ZINCRBY k 2 a", "a");
	check("ZREM k a", "a");
	check("PEXPIREAT k 12345", "");
	check("PERSIST k", "");
	check("DEL k", "?");
	check("RENAME k l", "?");
	check("ZREMRANGEBYRANK k 0 1", "?");
	check("HPEXPIREAT k 1 FIELDS 1 a", "?");
}

static void bounded(void **state)
{
	struct changes c = { .on = false };
	sds name = sdsgrowzero(sdsempty(), 1 << 20), elements = NULL;
	struct slice argv[] = { SLICE_LIT("SADD"), SLICE_LIT("k"), slice(name, sdslen(name)) };
	sds request = resp_cat_request(sdsempty(), 3, argv);
	unsigned writes;

	(void)state;
	changes_begin(&c, keyhash_of(0, slice("k", 1)));
	for (int i = 0; i < 3; i++)
		changes_note(&c, slice(request, sdslen(request)));
	assert_true(changes_take(&c, &elements, &writes));
	assert_int_equal(writes, 3);
	sdsfree(elements);
	for (int i = 0; i < 5; i++)
		changes_note(&c, slice(request, sdslen(request)));
	assert_false(changes_take(&c, &elements, &writes));
	changes_end(&c);
	sdsfree(request);
	sdsfree(name);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(names), cmocka_unit_test(bounded) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
