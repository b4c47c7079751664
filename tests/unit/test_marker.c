/* The marker: who may serve having found it, and what the operator's word makes of it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/marker.h"

#define OURS "0123456789abcdef0123456789abcdef"
#define THEIRS "ffffffffffffffffffffffffffffffff"

static struct marker of(const char *migration, uint64_t epoch)
{
	struct marker m = { .there = true, .epoch = epoch };

	strcpy(m.migration, migration);
	return m;
}

static struct state_record *record(enum phase phase, const char *migration, uint64_t epoch)
{
	struct state_record *r = calloc(1, sizeof(*r));

	r->phase = phase;
	r->epoch = epoch;
	strcpy(r->migration, migration);
	if (phase == PHASE_CUTOVER || phase == PHASE_FINISHED)
		memset(r->authority, SIDE_TARGET, SLOTS);
	return r;
}

static void test_text(void **state)
{
	static const char *const others[] = { "", "{}", "7", "{\"crossfade\":2,\"migration\":\"" OURS "\",\"epoch\":1}", "{\"crossfade\":1,\"migration\":\"" OURS "\"}",
					      "{\"crossfade\":1,\"migration\":\"short\",\"epoch\":1}" };
	sds text = marker_render(OURS, 42);
	struct marker m;

	(void)state;
	marker_parse(slice(text, sdslen(text)), &m);
	assert_true(m.there);
	assert_string_equal(m.migration, OURS);
	assert_int_equal(m.epoch, 42);
	sdsfree(text);
	for (unsigned i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		marker_parse(slice(others[i], strlen(others[i])), &m);
		assert_true(m.there);
		assert_string_equal(m.migration, "");
	}
}

static void allows(const struct state_record *r, struct marker m, bool allowed, const char *part, bool over)
{
	char why[320];

	assert_int_equal(marker_allows(r, &m, why, sizeof(why)), allowed);
	assert_int_equal(!*why, allowed);
	if (part && !strstr(why, part))
		fail_msg("'%s' lacks '%s'", why, part);
	if (r)
		assert_int_equal(marker_is_over(r, &m), over);
}

static void test_who_may_serve(void **state)
{
	const struct marker none = { 0 };
	struct state_record *r;

	(void)state;
	allows(NULL, none, true, NULL, false);
	allows(NULL, of(OURS, 1), false, "no record", false);
	allows(NULL, of("", 0), false, "another version", false);
	r = record(PHASE_PROXY, "", 5);
	allows(r, none, true, NULL, false);
	allows(r, of(THEIRS, 1), false, THEIRS, false);
	strcpy(r->given_up, OURS);
	allows(r, of(OURS, 9), true, NULL, true);
	allows(r, of(THEIRS, 1), false, THEIRS, false);
	strcpy(r->given_up, "*");
	allows(r, of("", 0), true, NULL, true);
	allows(r, none, true, NULL, false);
	free(r);
	r = record(PHASE_SYNCED, OURS, 5);
	allows(r, none, true, NULL, false);
	allows(r, of(OURS, 5), true, NULL, false);
	allows(r, of(OURS, 6), false, "older", false);
	allows(r, of(THEIRS, 5), false, THEIRS, false);
	allows(r, of("", 0), false, "another version", false);
	free(r);
	r = record(PHASE_FINISHED, OURS, 5);
	allows(r, of(OURS, 4), true, NULL, true);
	allows(r, of(THEIRS, 4), true, NULL, false); /* the target is what it serves */
	free(r);
}

static void test_the_operators_word(void **state)
{
	struct marker m = of(OURS, 7), none = { 0 };
	struct state_record *r = calloc(1, sizeof(*r));
	char why[320];

	(void)state;
	marker_assume(SIDE_TARGET, &m, r);
	assert_int_equal(r->phase, PHASE_CUTOVER);
	assert_int_equal(r->epoch, 8);
	assert_string_equal(r->migration, OURS);
	assert_null(memchr(r->authority, SIDE_SOURCE, SLOTS));
	assert_true(r->backfill_done && !r->verify_clean);
	assert_true(marker_allows(r, &m, why, sizeof(why)));
	r->epoch = 20;
	marker_assume(SIDE_SOURCE, &m, r);
	assert_int_equal(r->phase, PHASE_PROXY);
	assert_int_equal(r->epoch, 21);
	assert_string_equal(r->migration, "");
	assert_null(memchr(r->authority, SIDE_TARGET, SLOTS));
	assert_true(marker_allows(r, &m, why, sizeof(why)) && marker_is_over(r, &m));
	marker_assume(SIDE_SOURCE, &none, r); /* what is found later is given up then */
	assert_true(marker_allows(r, &m, why, sizeof(why)) && marker_is_over(r, &m));
	marker_assume(SIDE_TARGET, &none, r);
	assert_int_equal(strlen(r->migration), MIGRATION_ID_LEN);
	free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_text),
		cmocka_unit_test(test_who_may_serve),
		cmocka_unit_test(test_the_operators_word),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
