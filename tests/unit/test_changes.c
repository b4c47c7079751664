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
	changes_begin(&c, 0, keyhash_of(0, slice("k", 1)));
	assert_true(changes_about(&c, keyhash_of(0, slice("k", 1))));
	assert_false(changes_about(&c, keyhash_of(0, slice("l", 1))));
	changes_note(&c, slice("k", 1), slice(request, sdslen(request)), slice(NULL, 0));
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
	check("XADD k 1-1 f v", "");
	check("XACK k g 1-1", "");
	check("XSETID k 5-5", "?");
	check("DEL k", "?");
	check("RENAME k l", "?");
	check("ZREMRANGEBYRANK k 0 1", "?");
	check("HPEXPIREAT k 1 NX FIELDS 2 fields b", "fields b");
	check("HSETEX k KEEPTTL FIELDS 2 a 1 fields 2", "a fields");
	check("HPERSIST k FIELDS 1 a", "a");
	check("HPEXPIREAT l 1 FIELDS 1 a", "");
}

static sds request_of(const char *line)
{
	int argc = 0;
	sds *words = sdssplitlen(line, (ssize_t)strlen(line), " ", 1, &argc), request = resp_cat_len(sdsempty(), '*', argc);

	for (int i = 0; i < argc; i++)
		request = resp_cat_bulk(request, slice(words[i], sdslen(words[i])));
	sdsfreesplitres(words, argc);
	return request;
}

static void note(struct changes *c, const char *line)
{
	sds request = request_of(line);

	changes_note(c, slice("k", 1), slice(request, sdslen(request)), slice(NULL, 0));
	sdsfree(request);
}

/* Lists, strings and streams: the commands themselves, in their order; with names of elements they do not mix. */
static void commands(void **state)
{
	static const char *const lines[] = { "RPUSH k a b", "lpop k 3", "LSET k 0 x", "SETRANGE k 5 abc", "XDEL k 1-1" };
	struct changes c = { .on = false };
	sds all = sdsempty(), elements = NULL;
	unsigned writes;

	(void)state;
	changes_begin(&c, 0, keyhash_of(0, slice("k", 1)));
	for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++) {
		sds request = request_of(lines[i]);
		note(&c, lines[i]);
		note(&c, "PEXPIREAT k 5");
		all = sdscatsds(all, request);
		sdsfree(request);
	}
	assert_true(changes_take(&c, &elements, &writes));
	assert_int_equal(writes, 10);
	assert_string_equal(elements, all);
	sdsfree(elements);
	sdsfree(all);
	note(&c, "HSET k f v");
	assert_false(changes_take(&c, &elements, &writes));
	changes_begin(&c, 0, keyhash_of(0, slice("k", 1)));
	note(&c, "HDEL k f");
	note(&c, "RPUSH k a");
	assert_false(changes_take(&c, &elements, &writes));
	changes_end(&c);
}

/* Of a write to several keys only what concerns this one; a move is the pop or the push that it is to it. */
static void several_keys(void **state)
{
	static const struct {
		const char *line, *reply, *commands;
	} moves[] = {
		{ "LMOVE k l LEFT RIGHT", "$3\r\nabc\r\n", "LPOP k" },
		{ "LMOVE l k LEFT RIGHT", "$3\r\nabc\r\n", "RPUSH k abc" },
		{ "LMOVE l k RIGHT LEFT", "$3\r\nabc\r\n", "LPUSH k abc" },
		{ "RPOPLPUSH k l", "$3\r\nabc\r\n", "RPOP k" },
		{ "RPOPLPUSH l k", "$3\r\nabc\r\n", "LPUSH k abc" },
		{ "LPOP l 3", "*1\r\n$1\r\na\r\n", NULL },
		{ "RENAME l k", "+OK\r\n", "?" },
		{ "LMOVE k l LEFT RIGHT", "-ERR\r\n", "?" },
	};

	(void)state;
	check("HSET l a 1", "");
	check("SMOVE k l a", "a");
	check("SMOVE l k a", "a");
	for (size_t i = 0; i < sizeof(moves) / sizeof(*moves); i++) {
		struct changes c = { .on = false };
		sds request = request_of(moves[i].line), elements = NULL, want = sdsempty();
		unsigned writes;
		if (moves[i].commands && *moves[i].commands != '?') {
			sdsfree(want);
			want = request_of(moves[i].commands);
		}
		changes_begin(&c, 0, keyhash_of(0, slice("k", 1)));
		changes_note(&c, slice("k", 1), slice(request, sdslen(request)), slice(moves[i].reply, strlen(moves[i].reply)));
		bool known = changes_take(&c, &elements, &writes);
		assert_int_equal(known, !moves[i].commands || *moves[i].commands != '?');
		if (known)
			assert_string_equal(elements, want);
		changes_end(&c);
		sdsfree(request);
		sdsfree(elements);
		sdsfree(want);
	}
}

static void bounded(void **state)
{
	struct changes c = { .on = false };
	sds name = sdsgrowzero(sdsempty(), 1 << 20), elements = NULL;
	struct slice argv[] = { SLICE_LIT("SADD"), SLICE_LIT("k"), slice(name, sdslen(name)) };
	sds request = resp_cat_request(sdsempty(), 3, argv);
	unsigned writes;

	(void)state;
	changes_begin(&c, 0, keyhash_of(0, slice("k", 1)));
	for (int i = 0; i < 3; i++)
		changes_note(&c, slice("k", 1), slice(request, sdslen(request)), slice(NULL, 0));
	assert_true(changes_take(&c, &elements, &writes));
	assert_int_equal(writes, 3);
	sdsfree(elements);
	for (int i = 0; i < 5; i++)
		changes_note(&c, slice("k", 1), slice(request, sdslen(request)), slice(NULL, 0));
	assert_false(changes_take(&c, &elements, &writes));
	changes_end(&c);
	sdsfree(request);
	sdsfree(name);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(names), cmocka_unit_test(commands), cmocka_unit_test(several_keys), cmocka_unit_test(bounded) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
