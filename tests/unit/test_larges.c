/* Which keys are known for large replies, and for how long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "proxy/larges.h"

static void test_known_for_a_while(void **state)
{
	struct larges l = { .until = 0 };

	(void)state;
	assert_false(larges_may_be_in(&l, 5));
	assert_false(larges_has(&l, 77, 1000));
	larges_add(&l, 5, 77, 1000);
	assert_true(larges_may_be_in(&l, 5));
	assert_false(larges_may_be_in(&l, 6));
	assert_true(larges_has(&l, 77, 1000 + LARGE_KNOWN_S / 2));
	assert_false(larges_has(&l, 77 + LARGES, 1000));
	assert_false(larges_has(&l, 77, 1000 + LARGE_KNOWN_S));
	assert_false(larges_has(&l, 0, 1000)); /* an empty place is no key */
}

static void test_the_newer_of_one_place_stays(void **state)
{
	struct larges l = { .until = 0 };

	(void)state;
	larges_add(&l, 5, 77, 1000);
	larges_add(&l, 16383, 77 + LARGES, 1010);
	assert_false(larges_has(&l, 77, 1010));
	assert_true(larges_has(&l, 77 + LARGES, 1010));
	assert_true(larges_may_be_in(&l, 5)); /* nobody counts a slot's keys */
	larges_add(&l, 6, 8, 1010 + LARGE_KNOWN_S); /* all others are forgotten */
	assert_false(larges_may_be_in(&l, 5));
	assert_false(larges_may_be_in(&l, 16383));
	assert_true(larges_may_be_in(&l, 6));
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_known_for_a_while), cmocka_unit_test(test_the_newer_of_one_place_stays) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
