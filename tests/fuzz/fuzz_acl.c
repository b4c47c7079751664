/* fuzz_acl.c - an ACL file: what is taken, written as text, is taken again as the same users; who may do what is answered without a fault. */
#include <hiredis/sds.h>
#include <stdlib.h>

#include "proxy/acl.h"

#define CHECK(cond) do { if (!(cond)) abort(); } while (0)

static sds all_users(const struct acl *a)
{
	sds s = sdsempty();

	for (unsigned i = 0; i < acl_count(a); i++)
		s = sdscat(acl_cat_user(s, acl_user_at(a, i), false), "\n");
	return s;
}

static void ask(const struct acl_user *u, struct slice word)
{
	struct slice argv[3] = { SLICE_LIT("set"), word, SLICE_LIT("v") };
	struct key_ref keys[4];
	uint32_t at;
	const struct command *cmd = command_find(argv[0]);
	int n = command_keys(cmd, 3, argv, keys, 4);
	enum acl_verdict v = acl_check(u, cmd, 3, argv, keys, n, &at);

	CHECK(at < 3 && (!u->unrestricted || v == ACL_ALLOWED));
	acl_check(u, command_find(SLICE_LIT("publish")), 3, argv, NULL, 0, &at);
	acl_authenticate(u, word);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char err[256];
	struct acl *a = acl_parse("f", slice((const char *)data, size), err, sizeof err), *again;

	if (!a)
		return 0;
	sds text = all_users(a);
	for (unsigned i = 0; i < acl_count(a); i++)
		ask(acl_user_at(a, i), slice((const char *)data, size < 40 ? size : 40));
	/* A name or pattern with what separates lines or words cannot come from a file of lines and words; NUL ends C's printing. */
	if (!memchr(data, 0, size)) {
		again = acl_parse("g", slice(text, sdslen(text)), err, sizeof err);
		CHECK(again);
		sds once_more = all_users(again);
		CHECK(sdscmp(text, once_more) == 0);
		sdsfree(once_more);
		acl_unref(again);
	}
	sdsfree(text);
	acl_unref(a);
	return 0;
}
