/* test_slot.c - hash slots: the CRC16 against its definition, and values that servers gave (CLUSTER KEYSLOT). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "resp/slot.h"

/* The polynomial, bit by bit. */
static uint16_t naive_crc16(const char *p, size_t n)
{
	uint16_t crc = 0;

	while (n-- > 0) {
		crc ^= (uint16_t)((unsigned char)*p++ << 8);
		for (int bit = 0; bit < 8; bit++)
			crc = (uint16_t)(crc << 1) ^ (crc & 0x8000 ? 0x1021 : 0);
	}
	return crc;
}

static void test_known_slots(void **state)
{
	static const struct {
		const char *key;
		uint16_t slot;
	} known[] = {
		{ "", 0 }, { "foo", 12182 }, { "bar", 5061 }, { "hello", 866 }, { "123456789", 0x31c3 },
		{ "key:000000000001", 8924 }, { "{user1000}.following", 3443 }, { "foo{}{bar}", 8363 }, { "foo{{bar}}zap", 4015 },
		{ "foo{bar}{zap}", 5061 }, { "a}b{c}", 7365 }, { "{}", 15257 }, { "{a", 10276 },
		{ "mykey", 14687 }, { "somekey", 11058 }, { "Iñtërnâtiôn", 10072 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
		assert_int_equal(slot_of(slice(known[i].key, strlen(known[i].key))), known[i].slot);
}

static void test_hash_tags(void **state)
{
	static const struct {
		const char *key, *hashed;
	} tags[] = {
		{ "{user1000}.following", "user1000" },
		{ "{user1000}.followers", "user1000" },
		{ "foo{}{bar}", "foo{}{bar}" },
		{ "foo{{bar}}zap", "{bar" },
		{ "foo{bar}{zap}", "bar" },
		{ "{}", "{}" },
		{ "{", "{" },
		{ "}", "}" },
		{ "a}b{c", "a}b{c" },
		{ "a}b{c}", "c" },
		{ "abc{", "abc{" },
		{ "{a", "{a" },
		{ "{a}", "a" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(tags) / sizeof(*tags); i++)
		assert_int_equal(slot_of(slice(tags[i].key, strlen(tags[i].key))), naive_crc16(tags[i].hashed, strlen(tags[i].hashed)) % SLOTS);
}

/* Every byte value, NUL included, at every small length. */
static void test_bytes(void **state)
{
	char key[256 + 32];

	(void)state;
	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = i % 256 == '{' ? 'x' : (char)i;
	for (size_t at = 0; at < 256; at++)
		for (size_t n = 0; n < 32; n++)
			assert_int_equal(slot_of(slice(key + at, n)), naive_crc16(key + at, n) % SLOTS);
	assert_int_equal(slot_of(slice("a\0{b}", 5)), slot_of(slice("b", 1)));
	assert_int_equal(slot_of(slice(NULL, 0)), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_known_slots),
		cmocka_unit_test(test_hash_tags),
		cmocka_unit_test(test_bytes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
