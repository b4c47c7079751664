/* What of the preflight needs no server: its gate, the counters of use, the advice about nodes that do not serve us. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "proxy/advice.h"
#include "proxy/phases_internal.h"
#include "proxy/usage.h"

static const struct gate *gate_named(const struct gate *gates, unsigned n, const char *name)
{
	for (unsigned i = 0; i < n; i++)
		if (strcmp(gates[i].name, name) == 0)
			return &gates[i];
	fail_msg("no gate %s", name);
	return NULL;
}

static void test_gate(void **state)
{
	static struct phases p;
	struct phase_facts f = { .checked = true };
	struct gate gates[GATES];

	(void)state;
	const struct gate *g = gate_named(gates, gates_check(&p, &f, SIDE_TARGET, false, gates), "preflight");
	assert_true(g->ok);
	f.check_errors = 2;
	snprintf(f.check_error, sizeof(f.check_error), "%s", "the clocks are far apart; set them");
	gates_check(&p, &f, SIDE_TARGET, false, gates);
	assert_false(g->ok);
	assert_true(g->skippable); /* by --force */
	assert_false(g->waits);    /* it does not come right by itself */
	assert_non_null(strstr(g->text, "finds 2 errors; the first: the clocks are far apart; set them"));
	gates_check(&p, &f, SIDE_SOURCE, false, gates);
	assert_true(g->ok); /* the way back is open whatever a check finds */
}

static void unknown(struct usage *u, const char *name)
{
	usage_unknown(u, slice(name, strlen(name)));
}

static void test_unknown_names(void **state)
{
	struct usage *u = usage_new();
	char name[16];

	(void)state;
	unknown(u, "JSON.SET");
	unknown(u, "json.set");
	assert_string_equal(u->unknown[0].name, "json.set");
	assert_int_equal(u->unknown[0].calls, 2);
	/* what may be anything, a secret among it, is counted and not kept */
	unknown(u, "");
	unknown(u, "x");
	unknown(u, "with blank");
	unknown(u, "\xff\x01");
	unknown(u, "0123456789abcdef");
	unknown(u, "a-name-that-is-much-too-long-for-any-command");
	assert_int_equal(u->unknown_others, 6);
	assert_int_equal(u->unknown[1].calls, 0);
	for (unsigned i = 0; i < 2 * USAGE_NAMES; i++) {
		snprintf(name, sizeof(name), "name-%u", i);
		unknown(u, name);
	}
	assert_int_equal(u->unknown[USAGE_NAMES - 1].calls, 1);
	assert_int_equal(u->unknown_others, 6 + USAGE_NAMES + 1);
	usage_free(u);
}

static void test_rows(void **state)
{
	struct usage *u = usage_new();
	const struct command *get = command_find(SLICE_LIT("get")), *last = &command_table[command_count - 1];

	(void)state;
	usage_seen(u, get);
	usage_seen(u, last);
	usage_cross_slot(u, last);
	usage_in_multi(u, get);
	assert_int_equal(u->rows[get->id].calls, 1);
	assert_int_equal(u->rows[get->id].cross_slot, 0);
	assert_int_equal(u->rows[last->id].cross_slot, 1);
	assert_int_equal(u->rows[get->id].in_multi, 1);
	assert_int_equal(u->rows[last->id].in_multi, 0);
	usage_free(u);
}

static void test_advice(void **state)
{
	(void)state;
	assert_non_null(strstr(advice_unreachable(SIDE_SOURCE, "source a:1: HELLO was refused: WRONGPASS invalid"), "source-auth-file"));
	assert_non_null(strstr(advice_unreachable(SIDE_TARGET, "target a:1: HELLO was refused: NOAUTH HELLO must be"), "target-auth-file"));
	assert_non_null(strstr(advice_unreachable(SIDE_TARGET, "HELLO was refused: DENIED Redis is running in protected mode"), "protected"));
	assert_non_null(strstr(advice_unreachable(SIDE_SOURCE, "cannot connect: Connection refused"), "source-nodes"));
	assert_non_null(strstr(advice_unreachable(SIDE_TARGET, "something new"), "target-nodes"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_gate),
		cmocka_unit_test(test_unknown_names),
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_advice),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
