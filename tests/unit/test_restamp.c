/* Checksum, RDB versions, and which payloads are restamped for whom. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backfill/compare.h"
#include "backfill/payload.h"
#include "backfill/recipe.h"

static const struct receiver redis_7_0 = { PRODUCT_REDIS, 0x07000f }, redis_7_2 = { PRODUCT_REDIS, 0x070204 },
			     redis_8_0 = { PRODUCT_REDIS, 0x080002 }, valkey_8_0 = { PRODUCT_VALKEY, 0x080001 },
			     valkey_9_1 = { PRODUCT_VALKEY, 0x090102 };

/* A payload as a server of that RDB version stamps it. */
static sds payload(unsigned char type, const char *body, size_t n, unsigned version)
{
	sds s = sdscatlen(sdsnewlen(&type, 1), body, n);
	unsigned char footer[10] = { version & 0xff, version >> 8 };
	s = sdscatlen(s, footer, 2);
	uint64_t crc = crc64_jones(0, s, sdslen(s));
	for (int i = 0; i < 8; i++)
		footer[2 + i] = (unsigned char)(crc >> (8 * i));
	return sdscatlen(s, footer + 2, 8);
}

static struct slice as_slice(sds s)
{
	return slice(s, sdslen(s));
}

static void checksum(void **state)
{
	(void)state;
	assert_true(crc64_jones(0, "123456789", 9) == 0xe9c6d914c4b8d9caull);
	/* Every split and every alignment of a longer text gives the same. */
	char text[100];
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)(i * 37);
	uint64_t whole = crc64_jones(0, text, sizeof(text));
	for (size_t i = 0; i <= sizeof(text); i++)
		assert_true(crc64_jones(crc64_jones(0, text, i), text + i, sizeof(text) - i) == whole);
}

static void versions(void **state)
{
	(void)state;
	assert_int_equal(rdb_version(&redis_7_0), 10);
	assert_int_equal(rdb_version(&redis_7_2), 11);
	assert_int_equal(rdb_version(&redis_8_0), 12);
	assert_int_equal(rdb_version(&valkey_8_0), 11);
	assert_int_equal(rdb_version(&valkey_9_1), 80);
}

/* -1: refused; else the RDB version of the result. */
static int restamped(unsigned char type, unsigned version, const struct receiver *to)
{
	sds p = payload(type, "body", 4, version), r = restamp(as_slice(p), to);
	struct payload parts;
	int result = -1;

	if (r) {
		assert_true(payload_split(as_slice(r), &parts));
		assert_true(crc64_jones(0, r, sdslen(r) - 8) == parts.crc);
		assert_true(payload_equal(as_slice(p), as_slice(r)));
		result = (int)parts.version;
	}
	sdsfree(p);
	sdsfree(r);
	return result;
}

static void who_takes_what(void **state)
{
	(void)state;
	/* Ordinary types, every direction: as they are where the receiver takes them, else with its own version. */
	assert_int_equal(restamped(0, 10, &valkey_9_1), 10);
	assert_int_equal(restamped(0, 12, &valkey_9_1), 80);
	assert_int_equal(restamped(0, 12, &valkey_8_0), 11);
	assert_int_equal(restamped(0, 80, &redis_7_0), 10);
	assert_int_equal(restamped(18, 80, &redis_7_2), 11);
	assert_int_equal(restamped(18, 11, &redis_8_0), 11);
	assert_int_equal(restamped(0, 81, &valkey_9_1), 80);
	/* Set listpacks and streams of 7.2 on are unknown to 7.0. */
	assert_int_equal(restamped(20, 80, &redis_7_0), -1);
	assert_int_equal(restamped(21, 11, &redis_7_0), -1);
	assert_int_equal(restamped(21, 80, &redis_7_2), 11);
	assert_int_equal(restamped(19, 10, &redis_7_0), 10);
	/* From 22 on the lines number by themselves. */
	assert_int_equal(restamped(22, 80, &valkey_9_1), 80);
	assert_int_equal(restamped(22, 80, &redis_8_0), -1);
	assert_int_equal(restamped(22, 80, &valkey_8_0), -1);
	assert_int_equal(restamped(22, 12, &valkey_9_1), -1);
	assert_int_equal(restamped(24, 12, &redis_8_0), 12);
	assert_int_equal(restamped(25, 12, &redis_7_2), -1);
	assert_int_equal(restamped(24, 12, &valkey_9_1), -1);
	assert_int_equal(restamped(24, 80, &redis_8_0), -1);
	/* Modules. */
	assert_int_equal(restamped(6, 12, &redis_8_0), -1);
	assert_int_equal(restamped(7, 80, &valkey_9_1), -1);
}

static void damage_is_not_hidden(void **state)
{
	(void)state;
	sds p = payload(0, "\x05hello", 6, 80);
	p[3] ^= 1;
	assert_null(restamp(as_slice(p), &redis_7_0));
	assert_null(restamp(slice(p, 10), &redis_7_0));
	assert_null(restamp(slice(p, 0), &redis_7_0));
	sdsfree(p);
}

static void modules_have_names(void **state)
{
	(void)state;
	static const char charset[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	unsigned char body[9] = { 0x81 };
	uint64_t id = 0;
	for (const char *c = "vectorset"; *c; c++)
		id = id << 6 | (uint64_t)(strchr(charset, *c) - charset);
	id <<= 10;
	for (int i = 0; i < 8; i++)
		body[1 + i] = (unsigned char)(id >> (8 * (7 - i)));
	sds p = payload(7, (char *)body, 9, 12);
	struct payload parts;
	assert_true(payload_split(as_slice(p), &parts));
	assert_string_equal(payload_module(&parts).text, "vectorset");
	assert_int_equal(payload_recipe(&parts), RECIPE_DUMP);
	sdsfree(p);
}

/* ---- hash payloads ---- */

struct seen {
	char text[400];
};

static void see(void *arg, struct slice field, struct slice value, int64_t ms)
{
	struct seen *s = arg;
	size_t n = strlen(s->text);
	snprintf(s->text + n, sizeof(s->text) - n, "%.*s=%.*s@%lld ", (int)field.n, field.p, (int)value.n, value.p, (long long)ms);
}

static void expect_hash(unsigned char type, const char *body, size_t n, const char *want)
{
	struct seen s = { "" };
	struct payload p = { .type = type, .version = 12, .body = slice(body, n) };
	assert_true(payload_hash(&p, see, &s));
	assert_string_equal(s.text, want);
	/* Whatever is cut off, it is refused or told only in part, and nothing is read beyond. */
	for (size_t i = 0; i < n; i++) {
		char *cut = test_malloc(i + 1);
		memcpy(cut, body, i);
		p.body = slice(cut, i);
		struct seen part = { "" };
		assert_false(payload_hash(&p, see, &part));
		test_free(cut);
	}
}
#define EXPECT_HASH(type, body, want) expect_hash(type, body, sizeof(body) - 1, want)

static void hash_payloads(void **state)
{
	(void)state;
	EXPECT_HASH(4, "\x02\x01" "a\x01" "b\xc0\xfe\xc1\x00\x10", "a=b@-1 -2=4096@-1 ");
	EXPECT_HASH(22, "\x02\x01" "a\x01" "b\xff\xff\xff\xff\xff\xff\xff\xff\x01" "c\x01" "d\x10\x27\0\0\0\0\0\0", "a=b@-1 c=d@10000 ");
	EXPECT_HASH(24, "\x10\x27\0\0\0\0\0\0\x03" "\x00\x01" "a\x01" "b" "\x01\x01" "c\x01" "d" "\x06\x01" "e\x01" "f",
		    "a=b@-1 c=d@10000 e=f@10005 ");
	/* Listpack: "a", 5, expiry 0; "b", -1 (13 bits), expiry 10000 (16 bits). */
	EXPECT_HASH(25, "\x10\x27\0\0\0\0\0\0" "\x18" "\x18\0\0\0\x06\0" "\x81" "a\x02" "\x05\x01" "\x00\x01" "\x81" "b\x02" "\xdf\xff\x02"
			"\xf1\x10\x27\x03" "\xff", "a=5@-1 b=-1@10000 ");
	/* LZF: "aaaaaaaaaa". */
	EXPECT_HASH(4, "\x01\x01" "a\xc3\x05\x0a\x00" "a\xe0\x00\x00", "a=aaaaaaaaaa@-1 ");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(checksum),	   cmocka_unit_test(versions),		 cmocka_unit_test(who_takes_what),
		cmocka_unit_test(damage_is_not_hidden), cmocka_unit_test(modules_have_names), cmocka_unit_test(hash_payloads),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
