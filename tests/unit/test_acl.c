/* Users at the endpoint: what an ACL file says, where it is wrong, and who may do what. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "proxy/acl.h"
#include "resp/glob.h"

static struct acl *users(const char *text)
{
	char err[256] = "";
	struct acl *a = acl_parse("f", slice(text, strlen(text)), err, sizeof err);

	if (!a)
		fail_msg("'%s' was refused: %s", text, err);
	return a;
}

static void expect_error(const char *text, const char *message)
{
	char err[256] = "";

	assert_null(acl_parse("f", slice(text, strlen(text)), err, sizeof err));
	if (strncmp(err, message, strlen(message)) != 0)
		fail_msg("'%s': '%s', not '%s'", text, err, message);
}

static void test_errors(void **state)
{
	(void)state;
	expect_error("users a on\n", "f:1:1: expected a line of the form");
	expect_error("\n# c\nuser\n", "f:3:5: expected the user's name");
	expect_error("user a on\nuser a off\n", "f:2:6: expected each user once");
	expect_error("user a on nonsense\n", "f:1:11: expected a rule");
	expect_error("user a +nonsense\n", "f:1:8: expected a command");
	expect_error("user a +@nonsense\n", "f:1:8: expected a category");
	expect_error("user a +config|nonsense\n", "f:1:8: expected a subcommand");
	expect_error("user a -select|0\n", "f:1:8: expected no word");
	expect_error("user a #12\n", "f:1:8: expected 64 hexadecimal");
	expect_error("user a <x\n", "f:1:8: expected a password that the user has");
	expect_error("user a ~* ~x\n", "f:1:11: expected no pattern behind ~*");
	expect_error("user a &* &x\n", "f:1:11: expected no pattern behind &*");
	expect_error("user a %X~x\n", "f:1:8: expected %R~pattern");
	expect_error("user a %RR~x\n", "f:1:8: expected %R~pattern");
	expect_error("user a on (+get ~a\n", "f:1:11: expected a closing bracket");
	expect_error("user a on (+get nonsense)\n", "f:1:17: expected a rule");
	expect_error("user a on (on)\n", "f:1:12: expected a rule");
}

static void test_text(void **state)
{
	struct acl *a = users("user a on >x ~k* %R~r %RW~rw %W~w &c* +@read -get +set +config|get +config +select|0 (~w* +@write)\r\n"
			      "user b off nopass allkeys allchannels allcommands -@dangerous -get +GET\n");
	sds s = acl_cat_user(sdsempty(), acl_user_at(a, 0), false);

	(void)state;
	assert_string_equal(s, "user a on #2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 ~k* %R~r ~rw %W~w resetchannels &c* "
			    "-@all +@read -get +set +config +select|0 (~w* resetchannels -@all +@write)");
	sdsclear(s);
	s = acl_cat_user(s, acl_user_at(a, 1), true);
	assert_string_equal(s, "user b off nopass sanitize-payload ~* &* +@all -@dangerous +get");
	sdsclear(s);
	s = acl_cat_user(s, acl_default(a), false);
	assert_string_equal(s, "user default on nopass ~* &* +@all");
	assert_true(acl_default(a)->unrestricted && acl_is_open(acl_default(a)) && !acl_user_at(a, 1)->unrestricted);
	sdsfree(s);
	acl_unref(a);
}

static void test_passwords(void **state)
{
	struct acl *a = users("user a on >one >two\nuser b off >one\nuser c on nopass\nuser d on >x <x\n"), *p = acl_of_password("secret"),
		   *n = acl_of_password(NULL);

	(void)state;
	assert_true(acl_authenticate(acl_find(a, SLICE_LIT("a")), SLICE_LIT("two")));
	assert_false(acl_authenticate(acl_find(a, SLICE_LIT("a")), SLICE_LIT("three")));
	assert_false(acl_authenticate(acl_find(a, SLICE_LIT("b")), SLICE_LIT("one")));
	assert_true(acl_authenticate(acl_find(a, SLICE_LIT("c")), SLICE_LIT("")));
	assert_false(acl_authenticate(acl_find(a, SLICE_LIT("d")), SLICE_LIT("x")));
	assert_null(acl_find(a, SLICE_LIT("A")));
	assert_true(acl_authenticate(acl_default(p), SLICE_LIT("secret")) && !acl_is_open(acl_default(p)) && acl_default(p)->unrestricted);
	assert_true(acl_is_open(acl_default(n)));
	acl_unref(a);
	acl_unref(p);
	acl_unref(n);
}

/* A command line of words with blanks between them. */
static enum acl_verdict may(const struct acl *a, const char *line)
{
	struct slice argv[8];
	struct key_ref keys[8];
	uint32_t argc = 0, at;

	for (const char *p = line; *p && argc < 8; argc++) {
		size_t n = strcspn(p, " ");
		argv[argc] = slice(p, n);
		p += n + (p[n] == ' ');
	}
	const struct command *cmd = command_find(argv[0]), *sub = argc > 1 ? command_find_sub(cmd, argv[1]) : NULL;
	cmd = sub ? sub : cmd;
	return acl_check(acl_user_at(a, 0), cmd, argc, argv, keys, command_keys(cmd, argc, argv, keys, 8), &at);
}

static void test_commands(void **state)
{
	struct acl *a = users("user a allkeys allchannels +@read +set -strlen +config -config|set +client|id +select|1\n");

	(void)state;
	assert_int_equal(may(a, "get x"), ACL_ALLOWED);
	assert_int_equal(may(a, "set x 1"), ACL_ALLOWED);
	assert_int_equal(may(a, "strlen x"), ACL_DENIED_COMMAND);
	assert_int_equal(may(a, "del x"), ACL_DENIED_COMMAND);
	assert_int_equal(may(a, "config get x"), ACL_ALLOWED);
	assert_int_equal(may(a, "config set x 1"), ACL_DENIED_COMMAND);
	assert_int_equal(may(a, "client id"), ACL_ALLOWED);
	assert_int_equal(may(a, "client list"), ACL_DENIED_COMMAND);
	assert_int_equal(may(a, "select 1"), ACL_ALLOWED);
	assert_int_equal(may(a, "select 2"), ACL_DENIED_COMMAND);
	assert_int_equal(may(a, "auth x"), ACL_ALLOWED); /* or nobody could ever leave a user */
	acl_unref(a);
	a = users("user a allkeys +@all -@all +get\n");
	assert_int_equal(may(a, "get x"), ACL_ALLOWED);
	assert_int_equal(may(a, "set x 1"), ACL_DENIED_COMMAND);
	acl_unref(a);
	a = users("user a allkeys +select|1 -@connection\n");
	assert_int_equal(may(a, "select 1"), ACL_DENIED_COMMAND);
	acl_unref(a);
}

static void test_keys_and_channels(void **state)
{
	struct acl *a = users("user a +@all -@dangerous ~k:* %R~r:* %W~w:* &c:* (+del ~d:*) (+getdel ~g:*)\n");

	(void)state;
	assert_int_equal(may(a, "get k:1"), ACL_ALLOWED);
	assert_int_equal(may(a, "get r:1"), ACL_ALLOWED);
	assert_int_equal(may(a, "get w:1"), ACL_DENIED_KEY);
	assert_int_equal(may(a, "set w:1 1"), ACL_ALLOWED);
	assert_int_equal(may(a, "set w:1 1 get"), ACL_DENIED_KEY); /* it reads, too */
	assert_int_equal(may(a, "set r:1 1"), ACL_DENIED_KEY);
	assert_int_equal(may(a, "exists w:1"), ACL_ALLOWED);
	assert_int_equal(may(a, "exists z:1"), ACL_DENIED_KEY);
	assert_int_equal(may(a, "copy r:1 w:1"), ACL_ALLOWED);
	assert_int_equal(may(a, "copy w:1 r:1"), ACL_DENIED_KEY);
	assert_int_equal(may(a, "mget k:1 r:1 w:1"), ACL_DENIED_KEY);
	assert_int_equal(may(a, "del d:1"), ACL_ALLOWED);
	assert_int_equal(may(a, "del d:1 k:1"), ACL_DENIED_KEY); /* no one selector allows both */
	assert_int_equal(may(a, "get d:1"), ACL_DENIED_KEY);
	assert_int_equal(may(a, "eval x 1 z:1"), ACL_DENIED_KEY);
	assert_int_equal(may(a, "publish c:1 x"), ACL_ALLOWED);
	assert_int_equal(may(a, "publish z x"), ACL_DENIED_CHANNEL);
	assert_int_equal(may(a, "subscribe c:1 z"), ACL_DENIED_CHANNEL);
	assert_int_equal(may(a, "psubscribe c:*"), ACL_ALLOWED);
	assert_int_equal(may(a, "psubscribe c:1*"), ACL_DENIED_CHANNEL); /* only literally */
	assert_int_equal(may(a, "unsubscribe z"), ACL_ALLOWED);
	assert_int_equal(may(a, "flushall"), ACL_DENIED_COMMAND);
	acl_unref(a);
}

static void test_globs(void **state)
{
	static const struct { const char *pattern, *text; bool hit; } rows[] = {
		{ "*", "", true }, { "a*b*c", "axxbyyc", true }, { "a*b*c", "axxbyy", false }, { "a?c", "abc", true }, { "a?c", "ac", false },
		{ "[a-c]x", "bx", true }, { "[^a-c]x", "bx", false }, { "\\*", "*", true }, { "\\*", "a", false }, { "[c-a]", "b", true },
		{ "A", "a", false }, { "", "", true }, { "", "a", false }, { "[a", "a", true }, { "a\\", "a\\", true },
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		if (glob_match(slice(rows[i].pattern, strlen(rows[i].pattern)), slice(rows[i].text, strlen(rows[i].text)), false) != rows[i].hit)
			fail_msg("'%s' and '%s'", rows[i].pattern, rows[i].text);
	assert_true(glob_match(SLICE_LIT("A[B-C]"), SLICE_LIT("ac"), true));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_errors), cmocka_unit_test(test_text), cmocka_unit_test(test_passwords), cmocka_unit_test(test_commands),
		cmocka_unit_test(test_keys_and_channels), cmocka_unit_test(test_globs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
