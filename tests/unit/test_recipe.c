/* Recipes with canned replies: what is read, what is composed, what is refused; digests; slot tags. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backfill/block.h"
#include "backfill/compare.h"
#include "backfill/recipe.h"
#include "backfill/slot_tag.h"
#include "resp/parse.h"

#define NOW 1000000

static const struct receiver redis_7_0 = { PRODUCT_REDIS, 0x07000f }, redis_8_0 = { PRODUCT_REDIS, 0x080002 },
			     valkey_9_1 = { PRODUCT_VALKEY, 0x090102 };
static const struct slice key = { "k", 1 };

/* A block as text: commands by lines, words by blanks. Checks that it is RESP and has that many commands. */
static char *spell(sds block, unsigned ncommands)
{
	static char text[8192];
	struct resp_request r;
	size_t pos = 0, n = 0;
	unsigned count = 0;

	resp_request_init(&r, &resp_default_limits);
	text[0] = '\0';
	while (pos < sdslen(block)) {
		assert_int_equal(resp_request_parse(&r, block + pos, sdslen(block) - pos), RESP_OK);
		for (uint32_t i = 0; i < r.argc; i++) {
			struct slice a = resp_request_arg(&r, block + pos, i);
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%.*s", i ? " " : "", (int)a.n, a.p);
		}
		n += (size_t)snprintf(text + n, sizeof(text) - n, "\n");
		count++;
		pos += r.used;
		resp_request_reset(&r);
	}
	resp_request_release(&r);
	assert_int_equal(count, ncommands);
	return text;
}

static enum recipe_result composed_for(enum recipe r, const struct receiver *to, struct slice value, const char *expiry, const char *want,
				       enum recipe *next, const char **why)
{
	struct slice replies[] = { value, slice(expiry, strlen(expiry)) };
	sds block = sdsnew("*1\r\n$4\r\nPING\r\n"); /* what was there stays */
	unsigned n = 99;
	enum recipe_result result = recipe_compose(r, to, key, replies, 2, NOW, &block, &n, next, why);

	assert_memory_equal(block, "*1\r\n$4\r\nPING\r\n", 14);
	assert_string_equal(spell(block, n + 1) + 5, want);
	sdsfree(block);
	return result;
}

static enum recipe_result composed(enum recipe r, const char *value, const char *expiry, const char *want)
{
	enum recipe next;
	const char *why;
	return composed_for(r, &redis_7_0, slice(value, strlen(value)), expiry, want, &next, &why);
}

static void reads(void **state)
{
	(void)state;
	static const char *const want[] = {
		[RECIPE_DUMP] = "DUMP k\nPEXPIRETIME k\n",
		[RECIPE_STRING] = "GET k\nPEXPIRETIME k\n",
		[RECIPE_LIST] = "LRANGE k 0 -1\nPEXPIRETIME k\n",
		[RECIPE_SET] = "SMEMBERS k\nPEXPIRETIME k\n",
		[RECIPE_ZSET] = "ZRANGE k 0 -1 WITHSCORES\nPEXPIRETIME k\n",
		[RECIPE_HASH] = "HGETALL k\nPEXPIRETIME k\n",
		[RECIPE_STREAM] = "XINFO STREAM k FULL COUNT 0\nPEXPIRETIME k\n",
		[RECIPE_SHORT] = "GETRANGE k 0 4095\nPEXPIRETIME k\n",
	};
	for (enum recipe r = RECIPE_DUMP; r < RECIPES; r++) {
		sds out = sdsempty();
		unsigned n = recipe_read(r, &redis_7_0, key, &out);
		assert_string_equal(spell(out, n), want[r]);
		sdsfree(out);
	}
	/* Where fields may have an expiry, only DUMP tells them all at once. */
	sds out = sdsempty();
	assert_int_equal(recipe_read(RECIPE_HASH, &valkey_9_1, key, &out), 2);
	assert_string_equal(spell(out, 2), "DUMP k\nPEXPIRETIME k\n");
	sdsfree(out);
}

static void simple_types(void **state)
{
	(void)state;
	assert_int_equal(composed(RECIPE_STRING, "$1\r\nv\r\n", ":-1\r\n", "SET k v\n"), RECIPE_OK);
	assert_int_equal(composed(RECIPE_STRING, "$0\r\n\r\n", ":2000000\r\n", "SET k  PXAT 2000000\n"), RECIPE_OK);
	assert_int_equal(composed(RECIPE_LIST, "*2\r\n$1\r\na\r\n$0\r\n\r\n", ":-1\r\n", "MULTI\nUNLINK k\nRPUSH k a \nEXEC\n"), RECIPE_OK);
	assert_int_equal(composed(RECIPE_SET, "~2\r\n$1\r\na\r\n$1\r\nb\r\n", ":1000001\r\n",
				  "MULTI\nUNLINK k\nSADD k a b\nPEXPIREAT k 1000001\nEXEC\n"), RECIPE_OK);
	assert_int_equal(composed(RECIPE_ZSET, "*2\r\n*2\r\n$1\r\na\r\n,0.7\r\n*2\r\n$1\r\nb\r\n,-inf\r\n", ":-1\r\n",
				  "MULTI\nUNLINK k\nZADD k 0.7 a -inf b\nEXEC\n"), RECIPE_OK);
	assert_int_equal(composed(RECIPE_HASH, "%1\r\n$1\r\nf\r\n$1\r\nv\r\n", ":-1\r\n", "MULTI\nUNLINK k\nHSET k f v\nEXEC\n"), RECIPE_OK);
}

/* A reply of n bytes. */
static sds short_reply(size_t n)
{
	sds s = sdscatprintf(sdsempty(), "$%zu\r\n", n);

	s = sdsgrowzero(s, sdslen(s) + n);
	return sdscat(s, "\r\n");
}

/* Read without knowing what it is: whatever is not a string, whole, is read another way. */
static void short_strings(void **state)
{
	enum recipe next = RECIPE_SHORT;
	struct slice replies[] = { { NULL, 0 }, SLICE_LIT(":-1\r\n") };
	struct digest d;
	int64_t expiry;
	const char *why;

	(void)state;
	assert_int_equal(composed(RECIPE_SHORT, "$1\r\nv\r\n", ":2000000\r\n", "SET k v PXAT 2000000\n"), RECIPE_OK);
	assert_int_equal(composed(RECIPE_SHORT, "$0\r\n\r\n", ":-1\r\n", "SET k \n"), RECIPE_OK);
	assert_int_equal(composed(RECIPE_SHORT, "$0\r\n\r\n", ":-2\r\n", "UNLINK k\n"), RECIPE_GONE);
	assert_int_equal(composed_for(RECIPE_SHORT, &redis_7_0, SLICE_LIT("-WRONGTYPE Operation\r\n"), ":-1\r\n", "", &next, &why), RECIPE_RETYPE);
	assert_int_equal(next, RECIPE_DUMP);
	for (size_t n = SHORT_STRING - 1; n <= SHORT_STRING; n++) {
		enum recipe_result want = n < SHORT_STRING ? RECIPE_OK : RECIPE_RETYPE;
		sds reply = short_reply(n), block = sdsempty();
		unsigned ncommands;
		replies[0] = slice(reply, sdslen(reply));
		assert_int_equal(recipe_compose(RECIPE_SHORT, &redis_7_0, key, replies, 2, NOW, &block, &ncommands, &next, &why), want);
		assert_int_equal(ncommands, want == RECIPE_OK);
		assert_int_equal(value_digest(RECIPE_SHORT, replies, 2, NOW, &d, &expiry, &why), want);
		sdsfree(block);
		sdsfree(reply);
	}
	assert_int_equal(next, RECIPE_DUMP);
}

static void gone_and_past(void **state)
{
	(void)state;
	assert_int_equal(composed(RECIPE_DUMP, "_\r\n", ":-2\r\n", "UNLINK k\n"), RECIPE_GONE);
	assert_int_equal(composed(RECIPE_STRING, "$-1\r\n", ":-2\r\n", "UNLINK k\n"), RECIPE_GONE);
	assert_int_equal(composed(RECIPE_LIST, "*0\r\n", ":-2\r\n", "UNLINK k\n"), RECIPE_GONE);
	assert_int_equal(composed(RECIPE_LIST, "*0\r\n", ":-1\r\n", "UNLINK k\n"), RECIPE_GONE);
	assert_int_equal(composed(RECIPE_STREAM, "-ERR no such key\r\n", ":-2\r\n", "UNLINK k\n"), RECIPE_GONE);
	/* It went between the two reads, or its time is over while the server still holds it. */
	assert_int_equal(composed(RECIPE_STRING, "$1\r\nv\r\n", ":-2\r\n", "UNLINK k\n"), RECIPE_GONE);
	assert_int_equal(composed(RECIPE_STRING, "$1\r\nv\r\n", ":999999\r\n", "UNLINK k\n"), RECIPE_GONE);
	assert_int_equal(composed(RECIPE_STRING, "$1\r\nv\r\n", ":1000000\r\n", "SET k v PXAT 1000000\n"), RECIPE_OK);
}

static void errors(void **state)
{
	(void)state;
	enum recipe next;
	const char *why;
	struct slice moved = SLICE_LIT("-MOVED 5 10.0.0.1:7000\r\n"), wrong = SLICE_LIT("-WRONGTYPE Operation against …\r\n");

	assert_int_equal(composed_for(RECIPE_DUMP, &redis_7_0, moved, ":-1\r\n", "", &next, &why), RECIPE_ERROR);
	assert_string_equal(why, "MOVED 5 10.0.0.1:7000");
	assert_int_equal(composed_for(RECIPE_SET, &redis_7_0, wrong, ":-1\r\n", "", &next, &why), RECIPE_RETYPE);
	assert_int_equal(next, RECIPE_DUMP);
	assert_int_equal(composed(RECIPE_LIST, "*2\r\n$1\r\na\r\n_\r\n", ":-1\r\n", ""), RECIPE_ERROR);
	assert_int_equal(composed(RECIPE_HASH, "%1\r\n$1\r\na\r\n_\r\n", ":-1\r\n", ""), RECIPE_ERROR);
	assert_int_equal(composed(RECIPE_STREAM, "%1\r\n$1\r\na\r\n_\r\n", ":-1\r\n", ""), RECIPE_ERROR);
	assert_int_equal(composed(RECIPE_STRING, "$1\r\na\r\n", "+OK\r\n", ""), RECIPE_ERROR);
}

/* As a server would answer DUMP. */
static sds dump_reply(unsigned char type, const char *body, size_t n, unsigned version)
{
	sds p = sdscatlen(sdsnewlen(&type, 1), body, n);
	unsigned char footer[8] = { version & 0xff, version >> 8 };
	p = sdscatlen(p, footer, 2);
	uint64_t crc = crc64_jones(0, p, sdslen(p));
	for (int i = 0; i < 8; i++)
		footer[i] = (unsigned char)(crc >> (8 * i));
	p = sdscatlen(p, footer, 8);
	sds reply = sdscatprintf(sdsempty(), "$%zu\r\n", sdslen(p));
	reply = sdscat(sdscatlen(reply, p, sdslen(p)), "\r\n");
	sdsfree(p);
	return reply;
}

static void dumps(void **state)
{
	(void)state;
	enum recipe next;
	const char *why;
	sds set = dump_reply(20, "body", 4, 11), module = dump_reply(7, "\x05", 1, 12), text = dump_reply(0, "\x01x", 2, 10);

	assert_int_equal(composed_for(RECIPE_DUMP, &redis_7_0, slice(set, sdslen(set)), ":-1\r\n", "", &next, &why), RECIPE_RETYPE);
	assert_int_equal(next, RECIPE_SET);
	assert_int_equal(composed_for(RECIPE_DUMP, &redis_7_0, slice(module, sdslen(module)), ":-1\r\n", "", &next, &why), RECIPE_CANNOT);
	assert_non_null(strstr(why, "module"));

	struct slice replies[] = { slice(text, sdslen(text)), SLICE_LIT(":5000000\r\n") };
	sds block = sdsempty();
	unsigned n;
	assert_int_equal(recipe_compose(RECIPE_DUMP, &redis_7_0, key, replies, 2, NOW, &block, &n, &next, &why), RECIPE_OK);
	assert_int_equal(n, 1);
	assert_memory_equal(block, "*6\r\n$7\r\nRESTORE\r\n$1\r\nk\r\n$7\r\n5000000\r\n$13\r\n", 43);
	assert_string_equal(block + sdslen(block) - 25, "$7\r\nREPLACE\r\n$6\r\nABSTTL\r\n");
	sdsfree(block);
	sdsfree(set);
	sdsfree(module);
	sdsfree(text);
}

static void field_expiry(void **state)
{
	(void)state;
	enum recipe next;
	const char *why;
	/* Valkey's: a without, b in the future, c in the past. */
	static const char body[] = "\x03\x01" "a\x01" "1\xff\xff\xff\xff\xff\xff\xff\xff\x01" "b\x01" "2\x80\x84\x1e\0\0\0\0\0"
				   "\x01" "c\x01" "3\x01\0\0\0\0\0\0\0";
	static const char past[] = "\x02\x01" "a\x01" "1\xff\xff\xff\xff\xff\xff\xff\xff\x01" "c\x01" "3\x01\0\0\0\0\0\0\0";
	sds hash = dump_reply(22, body, sizeof(body) - 1, 80), old = dump_reply(22, past, sizeof(past) - 1, 80);
	struct slice reply = slice(hash, sdslen(hash));
	const char *want = "MULTI\nUNLINK k\nHSET k a 1 b 2\nHPEXPIREAT k 2000000 FIELDS 1 b\nEXEC\n";

	for (enum recipe r = RECIPE_DUMP; r <= RECIPE_HASH; r += RECIPE_HASH - RECIPE_DUMP) {
		assert_int_equal(composed_for(r, &redis_8_0, reply, ":-1\r\n", want, &next, &why), RECIPE_OK);
		assert_int_equal(composed_for(r, &redis_7_0, reply, ":-1\r\n", "", &next, &why), RECIPE_CANNOT);
		assert_non_null(strstr(why, "field expiry"));
		/* What is past needs no receiver that knows of it. */
		assert_int_equal(composed_for(r, &redis_7_0, slice(old, sdslen(old)), ":-1\r\n", "MULTI\nUNLINK k\nHSET k a 1\nEXEC\n",
					      &next, &why), RECIPE_OK);
	}
	sdsfree(hash);
	sdsfree(old);
}

#define STREAM(entries, last, maxdel, added, groups)                                                                                  \
	"%6\r\n$6\r\nlength\r\n:2\r\n$17\r\nlast-generated-id\r\n" last "$20\r\nmax-deleted-entry-id\r\n" maxdel                       \
	"$13\r\nentries-added\r\n:" added "\r\n$7\r\nentries\r\n" entries "$6\r\ngroups\r\n" groups
#define ID(s) "$3\r\n" s "\r\n"

static void streams(void **state)
{
	(void)state;
	/* Pending: 1-1 trimmed away, 2-2 there, 3-3 deleted, by two consumers; a third one idle. */
	static const char full[] =
		STREAM("*2\r\n*2\r\n" ID("2-2") "*2\r\n$1\r\nf\r\n$1\r\nv\r\n*2\r\n" ID("4-4") "*2\r\n$1\r\nf\r\n$1\r\nw\r\n", ID("5-5"),
		       ID("3-3"), "7",
		       "*1\r\n%6\r\n$4\r\nname\r\n$1\r\ng\r\n$17\r\nlast-delivered-id\r\n" ID("4-4") "$12\r\nentries-read\r\n:4\r\n"
		       "$9\r\npel-count\r\n:3\r\n$7\r\npending\r\n*3\r\n"
		       "*4\r\n" ID("1-1") "$1\r\na\r\n:900\r\n:2\r\n*4\r\n" ID("2-2") "$1\r\na\r\n:900\r\n:2\r\n*4\r\n" ID("3-3")
		       "$1\r\nb\r\n:901\r\n:1\r\n$9\r\nconsumers\r\n*1\r\n%1\r\n$4\r\nname\r\n$1\r\nc\r\n");
	assert_int_equal(composed(RECIPE_STREAM, full, ":-1\r\n",
				  "MULTI\nUNLINK k\nXADD k 1-1 x x\nXADD k 2-2 f v\nXADD k 3-3 x x\nXADD k 4-4 f w\n"
				  "XSETID k 5-5 ENTRIESADDED 7 MAXDELETEDID 3-3\nXGROUP CREATE k g 4-4 ENTRIESREAD 4\nXGROUP CREATECONSUMER k g c\n"
				  "XCLAIM k g a 0 1-1 2-2 TIME 900 RETRYCOUNT 2 FORCE JUSTID\nXCLAIM k g b 0 3-3 TIME 901 RETRYCOUNT 1 FORCE JUSTID\n"
				  "XTRIM k MINID 2-2\nXDEL k 3-3\nXSETID k 5-5 ENTRIESADDED 7 MAXDELETEDID 3-3\nEXEC\n"), RECIPE_OK);
	/* Empty, without groups. */
	assert_int_equal(composed(RECIPE_STREAM, STREAM("*0\r\n", ID("5-5"), ID("0-0"), "1", "*0\r\n"), ":-1\r\n",
				  "MULTI\nUNLINK k\nXGROUP CREATE k x 0 MKSTREAM\nXGROUP DESTROY k x\nXSETID k 5-5 ENTRIESADDED 1 MAXDELETEDID 0-0\nEXEC\n"),
			 RECIPE_OK);
}

/* Commands end at BLOCK_ELEMENTS or BLOCK_BYTES, whichever comes first. */
static void bounds(void **state)
{
	(void)state;
	struct block b;
	char wide[100000];
	struct resp_request r;
	size_t pos = 0;
	uint32_t elements = 0, commands = 0;

	memset(wide, 'w', sizeof(wide));
	block_init(&b, sdsempty(), key);
	block_open(&b, "RPUSH", NULL);
	for (int i = 0; i < 3000; i++) {
		struct slice s = slice(wide, i < 10 ? sizeof(wide) : 3);
		block_element(&b, 1, &s);
	}
	block_close(&b);
	resp_request_init(&r, &resp_default_limits);
	for (; pos < sdslen(b.out); commands++) {
		assert_int_equal(resp_request_parse(&r, b.out + pos, sdslen(b.out) - pos), RESP_OK);
		assert_true(r.used <= BLOCK_BYTES + 100 && r.argc <= BLOCK_ELEMENTS + 2);
		elements += r.argc - 2;
		pos += r.used;
		resp_request_reset(&r);
	}
	assert_int_equal(elements, 3000);
	assert_int_equal(commands, b.ncommands);
	resp_request_release(&r);
	sdsfree(b.out);
	block_release(&b);
}

/* ---- digests ---- */

static struct digest digest_of_value(enum recipe r, const char *value)
{
	struct slice replies[] = { slice(value, strlen(value)), SLICE_LIT(":-1\r\n") };
	struct digest d;
	int64_t expiry;
	const char *why;

	assert_int_equal(value_digest(r, replies, 2, NOW, &d, &expiry, &why), RECIPE_OK);
	assert_int_equal(expiry, -1);
	return d;
}

static bool same(enum recipe r, const char *a, const char *b)
{
	return digest_eq(digest_of_value(r, a), digest_of_value(r, b));
}

static void digests(void **state)
{
	(void)state;
	assert_true(same(RECIPE_SET, "~2\r\n$1\r\na\r\n$1\r\nb\r\n", "*2\r\n$1\r\nb\r\n$1\r\na\r\n"));
	assert_false(same(RECIPE_LIST, "*2\r\n$1\r\na\r\n$1\r\nb\r\n", "*2\r\n$1\r\nb\r\n$1\r\na\r\n"));
	assert_false(same(RECIPE_SET, "~1\r\n$2\r\nab\r\n", "~2\r\n$1\r\na\r\n$1\r\nb\r\n"));
	assert_true(same(RECIPE_HASH, "%2\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$1\r\n2\r\n", "%2\r\n$1\r\nb\r\n$1\r\n2\r\n$1\r\na\r\n$1\r\n1\r\n"));
	assert_false(same(RECIPE_HASH, "%2\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$1\r\n2\r\n", "%2\r\n$1\r\na\r\n$1\r\n2\r\n$1\r\nb\r\n$1\r\n1\r\n"));
	assert_true(same(RECIPE_ZSET, "*1\r\n*2\r\n$1\r\na\r\n,0.69999999999999996\r\n", "*1\r\n*2\r\n$1\r\na\r\n,0.7\r\n"));
	assert_true(same(RECIPE_ZSET, "*1\r\n*2\r\n$1\r\na\r\n,-0\r\n", "*1\r\n*2\r\n$1\r\na\r\n,0\r\n"));
	assert_false(same(RECIPE_ZSET, "*1\r\n*2\r\n$1\r\na\r\n,0.7\r\n", "*1\r\n*2\r\n$1\r\na\r\n,0.70000000000000007\r\n"));
	assert_true(same(RECIPE_STRING, "$18\r\nHYLLxxxx12345678ab\r\n", "$18\r\nHYLLxxxx87654321ab\r\n"));
	assert_false(same(RECIPE_STRING, "$18\r\nHYLLxxxx12345678ab\r\n", "$18\r\nHYLLxxxx12345678ac\r\n"));
	assert_false(same(RECIPE_STRING, "$18\r\nHELLxxxx12345678ab\r\n", "$18\r\nHELLxxxx87654321ab\r\n"));
	/* A hash told by payload and by HGETALL is the same hash. */
	sds dump = dump_reply(4, "\x01\x01" "a\x01" "1", 5, 12);
	struct slice replies[] = { slice(dump, sdslen(dump)), SLICE_LIT(":-1\r\n") };
	struct digest d;
	int64_t expiry;
	const char *why;
	assert_int_equal(value_digest(RECIPE_HASH, replies, 2, NOW, &d, &expiry, &why), RECIPE_OK);
	assert_true(digest_eq(d, digest_of_value(RECIPE_HASH, "%1\r\n$1\r\na\r\n$1\r\n1\r\n")));
	sdsfree(dump);
}

static void slot_tags(void **state)
{
	(void)state;
	for (unsigned slot = 0; slot < SLOTS; slot++) {
		char text[64];
		int n = snprintf(text, sizeof(text), "crossfade:tmp:{%s}:7", slot_tag((uint16_t)slot));
		assert_true(strlen(slot_tag((uint16_t)slot)) <= SLOT_TAG_MAX);
		assert_int_equal(slot_of(slice(text, (size_t)n)), slot);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads),  cmocka_unit_test(simple_types), cmocka_unit_test(gone_and_past), cmocka_unit_test(errors),
		cmocka_unit_test(dumps),  cmocka_unit_test(field_expiry), cmocka_unit_test(streams),	   cmocka_unit_test(bounds),
		cmocka_unit_test(digests), cmocka_unit_test(slot_tags),   cmocka_unit_test(short_strings),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
