/* test_effect.c - every rule of proxy/effect.h with canned replies. test_effects.py (tests/e2e) proves the same rules on real servers.
 *
 * Words are separated by blanks, commands of a block by " | "; a reply's "\r\n" is written ";". */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "proxy/effect.h"
#include "resp/convert.h"
#include "resp/parse.h"
#include "resp/write.h"

#define NOW 1000000
#define WORDS_MAX 64

static uint32_t split(char *line, struct slice *argv)
{
	uint32_t argc = 0;

	for (char *word = strtok(line, " "); word; word = strtok(NULL, " ")) {
		assert_true(argc < WORDS_MAX);
		argv[argc++] = slice(word, strlen(word));
	}
	return argc;
}

static const struct command *row_of(uint32_t argc, const struct slice *argv)
{
	const struct command *cmd = command_find(argv[0]);
	const struct command *sub = cmd && argc > 1 ? command_find_sub(cmd, argv[1]) : NULL;

	assert_non_null(cmd);
	return sub ? sub : cmd;
}

/* The reply as a server sends it; owned by the caller. */
static sds wire(const char *text)
{
	sds s = sdsempty();

	for (; *text; text++)
		s = *text == ';' ? sdscat(s, "\r\n") : sdscatlen(s, text, 1);
	return s;
}

/* Requests as words again: "A b | C d". */
static sds readable(sds block)
{
	struct resp_request r;
	sds text = sdsempty();
	size_t at = 0;

	resp_request_init(&r, &resp_default_limits);
	while (at < sdslen(block)) {
		resp_request_reset(&r);
		assert_int_equal(resp_request_parse(&r, block + at, sdslen(block) - at), RESP_OK);
		if (at > 0)
			text = sdscat(text, " | ");
		for (uint32_t i = 0; i < r.argc; i++) {
			struct slice word = resp_request_arg(&r, block + at, i);
			text = sdscatlen(i ? sdscat(text, " ") : text, word.p, word.n);
		}
		at += r.used;
	}
	resp_request_release(&r);
	return text;
}

/* --- canonical ---------------------------------------------------------------------------------------------------- */

static const struct canonical_case {
	const char *words, *becomes; /* NULL: left alone */
	uint8_t authority;
} canonical_cases[] = {
	{ "SET k v", NULL, 0 },
	{ "SET k v NX", NULL, 0 },
	{ "SET k v EX 10", "SET k v PXAT 1010000", 0 },
	{ "set k v nx px 5 get", "set k v nx PXAT 1000005 get", 0 },
	{ "SET k v EX 10 KEEPTTL", NULL, 0 },
	{ "SET k v EX 10 EX 20", NULL, 0 },
	{ "SET k v NX XX EX 10", NULL, 0 },
	{ "SET k v EX 10 LATER", NULL, 0 },
	{ "SET k v EX", NULL, 0 },
	{ "SET k v EX 0", NULL, 0 },
	{ "SET k v EX -1", NULL, 0 },
	{ "SET k v EX +1", NULL, 0 },
	{ "SET k v EX 01", NULL, 0 },
	{ "SET k v EX 1.5", NULL, 0 },
	{ "SET k v EX 9223372036854776", NULL, 0 },
	{ "SET k v PX 9223372036854775807", NULL, 0 },
	{ "SET k v PX 9223372036853775807", "SET k v PXAT 9223372036854775807", 0 },
	{ "SET k v EXAT 10", NULL, 0 },
	{ "SET k v PXAT 10", NULL, 0 },
	{ "SET k v IFEQ EX EX 10", "SET k v IFEQ EX PXAT 1010000", 0 },
	{ "SET k EX PX 10", "SET k EX PXAT 1000010", 0 },
	{ "SETEX k 10 v", "SET k v PXAT 1010000", 0 },
	{ "PSETEX k 10 v", "SET k v PXAT 1000010", 0 },
	{ "SETEX k 0 v", NULL, 0 },
	{ "PSETEX k 9223372036854775807 v", NULL, 0 },
	{ "GETEX k", NULL, 0 },
	{ "GETEX k PERSIST", NULL, 0 },
	{ "GETEX k EX 1", "GETEX k PXAT 1001000", 0 },
	{ "GETEX k EX 1 PERSIST", NULL, 0 },
	{ "EXPIRE k 10", "PEXPIREAT k 1010000", 0 },
	{ "EXPIRE k 10 nx", "PEXPIREAT k 1010000 nx", 0 },
	{ "PEXPIRE k 10 XX GT", "PEXPIREAT k 1000010 XX GT", 0 },
	{ "EXPIREAT k 2000", "PEXPIREAT k 2000000", 0 },
	{ "EXPIRE k 10 NX GT", NULL, 0 },
	{ "EXPIRE k 10 GT LT", NULL, 0 },
	{ "EXPIRE k 10 OTHER", NULL, 0 },
	{ "EXPIRE k 0", NULL, 0 },
	{ "EXPIRE k -5", NULL, 0 },
	{ "EXPIRE k 9223372036854775", NULL, 0 },
	{ "PEXPIREAT k 5", NULL, 0 },
	{ "RESTORE k 0 p", NULL, 0 },
	{ "RESTORE k 10 p REPLACE", "RESTORE k 1000010 p ABSTTL REPLACE", 0 },
	{ "RESTORE k 10 p absttl", NULL, 0 },
	{ "RESTORE k -1 p", NULL, 0 },
	{ "HEXPIRE k 10 FIELDS 2 a b", "HPEXPIREAT k 1010000 FIELDS 2 a b", 0 },
	{ "HPEXPIRE k 10 GT FIELDS 1 a", "HPEXPIREAT k 1000010 GT FIELDS 1 a", 0 },
	{ "HEXPIREAT k 2000 FIELDS 1 a", "HPEXPIREAT k 2000000 FIELDS 1 a", 0 },
	{ "HEXPIRE k 10 FIELDS 2 a", NULL, 0 },
	{ "HEXPIRE k 10 FIELDS 1 a b", NULL, 0 },
	{ "HPEXPIRE k 281474976710655 FIELDS 1 a", NULL, 0 },
	{ "HEXPIRE k 10 FIELDS 1 a", NULL, SERVER_REDIS_7_0 },
	{ "HEXPIRE k 10 FIELDS 1 a", "HPEXPIREAT k 1010000 FIELDS 1 a", SERVER_REDIS_8_0 },
	{ "HSETEX k FNX EX 10 FIELDS 1 EX PX", "HSETEX k FNX PXAT 1010000 FIELDS 1 EX PX", 0 },
	{ "HSETEX k FIELDS 1 EX 10", NULL, 0 },
	{ "HGETEX k PX 10 FIELDS 1 a", "HGETEX k PXAT 1000010 FIELDS 1 a", 0 },
	{ "HGETEX k PERSIST FIELDS 1 a", NULL, 0 },
	{ "MSETEX 2 EX 10 PX 20 EX 30", "MSETEX 2 EX 10 PX 20 PXAT 1030000", 0 },
	{ "MSETEX 2 EX 10", NULL, 0 },
};

static void canonical(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(canonical_cases) / sizeof(canonical_cases[0]); i++) {
		const struct canonical_case *c = &canonical_cases[i];
		struct slice argv[WORDS_MAX];
		char *line = strdup(c->words);
		uint32_t argc = split(line, argv);
		struct effect_call call = { .cmd = row_of(argc, argv), .argc = argc, .argv = argv, .now_ms = NOW, .authority = c->authority };
		const struct command *cmd = NULL;
		sds out = sdsempty();

		if (effect_canonical(&call, &out, &cmd) != (c->becomes != NULL))
			fail_msg("%s: %s", c->words, c->becomes ? "left alone" : out);
		if (c->becomes) {
			sds text = readable(out);
			assert_string_equal(text, c->becomes);
			assert_non_null(cmd);
			assert_ptr_equal(cmd, command_find(slice(text, strcspn(text, " "))));
			sdsfree(text);
		} else {
			assert_int_equal(sdslen(out), 0);
		}
		sdsfree(out);
		free(line);
	}
}

/* --- effects ------------------------------------------------------------------------------------------------------ */

enum { WHOLE = 1, UNPROVEN = 2, TO_7_0 = 4, TO_9_1 = 8 };
#define NOTHING "nothing"
#define SAME "same"
#define SNAPSHOT "snapshot"

static const struct effect_case {
	const char *words, *reply;
	const char *becomes; /* NOTHING, SAME, SNAPSHOT or a block */
	const char *expect;  /* NULL: any; the reply that the (last) command must get */
	int flags;
	const char *probe;
} effect_cases[] = {
	{ "GET k", "$1;v;", NOTHING, NULL, 0, NULL },
	{ "SET k v", "+OK;", SAME, "+OK;", WHOLE, NULL },
	{ "SET k v", "-OOM no;", NOTHING, NULL, 0, NULL },
	{ "SET k v PXAT 1500000", "+OK;", SAME, "+OK;", WHOLE, NULL },
	{ "SET k v KEEPTTL", "+OK;", SAME, "+OK;", UNPROVEN, NULL },
	{ "SET k v NX", "_;", NOTHING, NULL, 0, NULL },
	{ "SET k v NX", "+OK;", "SET k v", "+OK;", WHOLE, NULL },
	{ "SET k v NX GET", "_;", "SET k v", "+OK;", WHOLE, NULL },
	{ "SET k v NX GET", "$1;o;", NOTHING, NULL, 0, NULL },
	{ "SET k v XX GET PXAT 1500000", "$1;o;", "SET k v PXAT 1500000", "+OK;", WHOLE, NULL },
	{ "SET k v XX GET", "_;", NOTHING, NULL, 0, NULL },
	{ "SET k v GET", "_;", "SET k v", "+OK;", WHOLE, NULL },
	{ "SET k v GET KEEPTTL", "$1;o;", "SET k v KEEPTTL", "+OK;", UNPROVEN, NULL },
	{ "SET k v IFEQ o", "+OK;", "SET k v", "+OK;", WHOLE, NULL },
	{ "SET k v IFEQ o", "_;", NOTHING, NULL, 0, NULL },
	{ "SET k v IFEQ o GET", "$1;o;", "SET k v", "+OK;", WHOLE, NULL },
	{ "SET k v IFEQ o GET", "$1;p;", NOTHING, NULL, 0, NULL },
	{ "SET k v EX 10 EX 20", "+OK;", SNAPSHOT, NULL, 0, NULL },
	{ "SET k v LATER", "+OK;", SNAPSHOT, NULL, 0, NULL },
	{ "SETNX k v", ":1;", "SET k v", "+OK;", WHOLE, NULL },
	{ "SETNX k v", ":0;", NOTHING, NULL, 0, NULL },
	{ "GETSET k v", "_;", "SET k v", "+OK;", WHOLE, NULL },
	{ "MSETNX a 1 b 2", ":1;", "MSET a 1 b 2", "+OK;", WHOLE, NULL },
	{ "MSETEX 1 a 1 NX PXAT 1500000", ":1;", "SET a 1 PXAT 1500000", "+OK;", WHOLE, NULL },
	{ "MSETEX 2 a 1 b 2", ":1;", "MULTI | SET a 1 | SET b 2 | EXEC", "*2;+OK;+OK;", WHOLE, NULL },
	{ "MSETEX 1 a 1 KEEPTTL", ":1;", "SET a 1 KEEPTTL", "+OK;", UNPROVEN, NULL },
	{ "GETDEL k", "$1;v;", "DEL k", ":1;", WHOLE, NULL },
	{ "GETDEL k", "_;", NOTHING, NULL, 0, NULL },
	{ "DELIFEQ k v", ":1;", "DEL k", ":1;", WHOLE, NULL },
	{ "DEL a b", ":1;", SAME, ":1;", WHOLE, NULL },
	{ "DEL a b", ":0;", NOTHING, NULL, 0, NULL },
	{ "GETEX k", "$1;v;", NOTHING, NULL, 0, NULL },
	{ "GETEX k PERSIST", "$1;v;", SAME, "$1;v;", 0, NULL },
	{ "GETEX k PXAT 1500000", "$1;v;", "PEXPIREAT k 1500000", ":1;", 0, NULL },
	{ "GETEX k EXAT 999", "$1;v;", "DEL k", ":1;", WHOLE, NULL },
	{ "GETEX k PXAT 1500000", "_;", NOTHING, NULL, 0, NULL },
	{ "INCRBYFLOAT k 0.1", "$3;0.3;", "SET k 0.3 KEEPTTL", "+OK;", UNPROVEN, NULL },
	{ "INCR k", ":5;", SAME, ":5;", 0, NULL },
	{ "INCR k", ":1;", SAME, ":1;", UNPROVEN, NULL },
	{ "DECR k", ":-1;", SAME, ":-1;", UNPROVEN, NULL },
	{ "DECRBY k 7", ":-7;", SAME, ":-7;", UNPROVEN, NULL },
	{ "INCRBY k 7", ":8;", SAME, ":8;", 0, NULL },
	{ "APPEND k abc", ":3;", SAME, ":3;", UNPROVEN, NULL },
	{ "APPEND k abc", ":4;", SAME, ":4;", 0, NULL },
	{ "HSET k f v", ":1;", SAME, ":1;", UNPROVEN, NULL },
	{ "PEXPIREAT k 1500000", ":1;", "PEXPIREAT k 1500000", ":1;", 0, NULL },
	{ "PEXPIREAT k 1500000 NX", ":1;", "PEXPIREAT k 1500000", ":1;", 0, NULL },
	{ "PEXPIREAT k 1500000 NX", ":0;", NOTHING, NULL, 0, NULL },
	{ "PEXPIREAT k 1000000", ":1;", "DEL k", ":1;", WHOLE, NULL },
	{ "EXPIREAT k 1500", ":1;", "PEXPIREAT k 1500000", ":1;", 0, NULL },
	{ "EXPIRE k -1", ":1;", "DEL k", ":1;", WHOLE, NULL },
	{ "EXPIRE k 0 XX", ":1;", "DEL k", ":1;", WHOLE, NULL },
	{ "EXPIRE k 10", ":1;", SNAPSHOT, NULL, 0, NULL },
	{ "RESTORE k 0 short", "+OK;", SNAPSHOT, NULL, 0, NULL },
	{ "RESTORE k 10 0123456789", "+OK;", SNAPSHOT, NULL, 0, NULL },
	{ "RESTORE k 10 0123456789 ABSTTL REPLACE", "+OK;", "DEL k", NULL, WHOLE, NULL },
	{ "RESTORE k 0 0123456789", "+OK;", SNAPSHOT, NULL, 0, NULL }, /* version 0x3130 */
	{ "RESTORE k 0 0123456789", "-BUSYKEY x;", NOTHING, NULL, 0, NULL },
	{ "SPOP k", "$1;a;", "SREM k a", ":1;", 0, NULL },
	{ "SPOP k", "_;", NOTHING, NULL, 0, NULL },
	{ "SPOP k 2", "~2;$1;a;$1;b;", "SREM k a b", ":2;", 0, NULL },
	{ "SPOP k 2", "*2;$1;a;$1;b;", "SREM k a b", ":2;", 0, NULL },
	{ "SPOP k 2", "~0;", NOTHING, NULL, 0, NULL },
	{ "LPOP k 2", "*1;$1;a;", SAME, "*1;$1;a;", 0, NULL },
	{ "LMPOP 2 a b RIGHT COUNT 9", "*2;$1;b;*2;$1;x;$1;y;", "RPOP b 2", "*2;$1;x;$1;y;", 0, NULL },
	{ "LMPOP 1 a LEFT", "*2;$1;a;*1;$1;x;", "LPOP a 1", "*1;$1;x;", 0, NULL },
	{ "LMPOP 1 a LEFT", "_;", NOTHING, NULL, 0, NULL },
	{ "BLMPOP 0 1 a LEFT", "*2;$1;a;*1;$1;x;", "LPOP a 1", "*1;$1;x;", 0, NULL },
	{ "ZMPOP 2 a b MIN", "*2;$1;b;*1;*2;$1;m;,1.5;", "ZREM b m", ":1;", 0, NULL },
	{ "ZPOPMIN k", "*2;$1;m;,1;", "ZREM k m", ":1;", 0, NULL },
	{ "ZPOPMAX k 2", "*2;*2;$1;m;,1;*2;$1;n;,2;", "ZREM k m n", ":2;", 0, NULL },
	{ "ZPOPMIN k", "*0;", NOTHING, NULL, 0, NULL },
	{ "ZADD k 1 m", ":1;", SAME, ":1;", UNPROVEN, NULL },
	{ "BITFIELD k GET u8 0", "*1;:0;", NOTHING, NULL, 0, NULL },
	{ "BITFIELD k SET u8 0 1", "*1;:0;", SAME, "*1;:0;", UNPROVEN, NULL },
	{ "SORT k", "*0;", NOTHING, NULL, 0, NULL },
	{ "SORT k STORE d", ":1;", SNAPSHOT, NULL, 0, NULL },
	{ "SUNIONSTORE d a b", ":2;", SAME, ":2;", WHOLE, NULL },
	{ "ZUNIONSTORE d 1 a", ":2;", SAME, ":2;", WHOLE | UNPROVEN, NULL },
	{ "EVAL x 1 k", "-ERR after a write;", SNAPSHOT, NULL, 0, NULL },
	{ "EVAL x 0", "_;", SNAPSHOT, NULL, 0, NULL },
	{ "EVAL_RO x 1 k", "_;", NOTHING, NULL, 0, NULL },
	{ "HINCRBYFLOAT k f 1", "$1;3;", SAME, "$1;3;", UNPROVEN, NULL },
	{ "HINCRBYFLOAT k f 1", "$1;3;", "HSET k f 3", NULL, UNPROVEN | TO_7_0, NULL },
	{ "HINCRBYFLOAT k f 1", "$1;3;", "HSETEX k KEEPTTL FIELDS 1 f 3", ":1;", UNPROVEN | TO_9_1, NULL },
	{ "HPEXPIREAT k 1500000 NX FIELDS 3 a b c", "*3;:1;:0;:1;", "HPEXPIREAT k 1500000 FIELDS 2 a c", "*2;:1;:1;", 0, NULL },
	{ "HPEXPIREAT k 5 FIELDS 2 a b", "*2;:2;:-2;", "HDEL k a", ":1;", 0, NULL },
	{ "HPEXPIREAT k 1500000 FIELDS 1 a", "*1;:1;", SNAPSHOT, NULL, TO_7_0, NULL },
	{ "HPEXPIREAT k 1500000 FIELDS 1 a", "*1;:-2;", NOTHING, NULL, 0, NULL },
	{ "HEXPIRE k 0 FIELDS 1 a", "*1;:2;", "HDEL k a", ":1;", 0, NULL },
	{ "HPERSIST k FIELDS 1 a", "*1;:1;", SNAPSHOT, NULL, TO_7_0, NULL },
	{ "HSETEX k FNX PXAT 1500000 FIELDS 1 a 1", ":1;", "HSETEX k PXAT 1500000 FIELDS 1 a 1", ":1;", UNPROVEN, NULL },
	{ "HSETEX k FNX FIELDS 1 a 1", ":0;", NOTHING, NULL, 0, NULL },
	{ "HSETEX k FIELDS 1 a 1", ":1;", "HSET k a 1", NULL, UNPROVEN | TO_7_0, NULL },
	{ "HSETEX k PXAT 1500000 FIELDS 1 a 1", ":1;", SNAPSHOT, NULL, TO_7_0, NULL },
	{ "HGETEX k FIELDS 1 a", "*1;$1;v;", NOTHING, NULL, 0, NULL },
	{ "HGETEX k PXAT 1500000 FIELDS 2 a b", "*2;_;$1;v;", "HPEXPIREAT k 1500000 FIELDS 1 b", "*1;:1;", 0, NULL },
	{ "HGETEX k PXAT 5 FIELDS 2 a b", "*2;_;$1;v;", "HDEL k b", ":1;", 0, NULL },
	{ "HGETEX k PERSIST FIELDS 1 a", "*1;$1;v;", SAME, "*1;$1;v;", 0, NULL },
	{ "PFCOUNT k", ":0;", SAME, ":0;", 0, NULL },
	{ "PFCOUNT k", ":3;", SAME, ":3;", 0, NULL },
	{ "PFCOUNT k l", ":3;", NOTHING, NULL, 0, NULL },
	{ "HGETDEL k FIELDS 2 a b", "*2;$1;v;_;", "HDEL k a", ":1;", 0, NULL },
	{ "HGETDEL k FIELDS 1 a", "*1;_;", NOTHING, NULL, 0, NULL },
	{ "XADD k * f v", "$3;7-0;", "XADD k 7-0 f v", "$3;7-0;", UNPROVEN, NULL },
	{ "XADD k MAXLEN 5 7-* f v", "$3;7-0;", "XADD k MAXLEN 5 7-0 f v", "$3;7-0;", UNPROVEN, NULL },
	{ "XADD k MAXLEN = 5 7-0 f v", "$3;7-0;", SAME, "$3;7-0;", UNPROVEN, NULL },
	{ "XADD k NOMKSTREAM * f v", "_;", NOTHING, NULL, 0, NULL },
	{ "XADD k MAXLEN ~ 5 * f v", "$3;7-0;", SNAPSHOT, NULL, 0, NULL },
	{ "XADD k NOMKSTREAM MAXLEN ~ 5 LIMIT 9 * f v", "$3;7-0;", "XADD k NOMKSTREAM MINID 3-0 7-0 f v", "$3;7-0;", UNPROVEN,
	  "*1;*2;$3;3-0;*2;$1;f;$1;v;" },
	{ "XADD k MINID ~ 9 * f v", "$3;7-0;", "XADD k MAXLEN 0 7-0 f v", "$3;7-0;", UNPROVEN, "*0;" },
	{ "XTRIM k MAXLEN 5", ":2;", SAME, ":2;", 0, NULL },
	{ "XTRIM k MAXLEN ~ 5", ":0;", NOTHING, NULL, 0, NULL },
	{ "XTRIM k MAXLEN ~ 5", ":2;", SNAPSHOT, NULL, 0, NULL },
	{ "XTRIM k MAXLEN ~ 5", ":2;", "XTRIM k MINID 3-0", ":2;", 0, "*1;*2;$3;3-0;*0;" },
	{ "XREADGROUP GROUP g c STREAMS k >", "_;", NOTHING, NULL, 0, NULL },
	{ "XREADGROUP GROUP g c STREAMS k 0", "%1;$1;k;*0;", NOTHING, NULL, 0, NULL },
	{ "XREADGROUP GROUP g c BLOCK 5 STREAMS k >", "%1;$1;k;*2;*2;$3;1-1;*0;*2;$3;2-0;*0;",
	  "MULTI | XREADGROUP GROUP g c COUNT 2 STREAMS k > | "
	  "XCLAIM k g c 0 1-1 2-0 TIME 1000000 JUSTID RETRYCOUNT 1 FORCE LASTID 2-0 | EXEC",
	  "*2;%1;$1;k;*2;*2;$3;1-1;*0;*2;$3;2-0;*0;*2;$3;1-1;$3;2-0;", 0, NULL },
	{ "XREADGROUP GROUP g c NOACK STREAMS j k > >", "%1;$1;k;*1;*2;$3;1-1;*0;", "XREADGROUP GROUP g c COUNT 1 NOACK STREAMS k >",
	  "%1;$1;k;*1;*2;$3;1-1;*0;", 0, NULL },
	{ "XREADGROUP GROUP g c STREAMS k 0", "%1;$1;k;*2;*2;$3;1-1;_;*2;$3;2-0;*0;",
	  "MULTI | XREADGROUP GROUP g c COUNT 2 STREAMS k 0 | XCLAIM k g c 0 2-0 TIME 1000000 JUSTID | EXEC",
	  "*2;%1;$1;k;*2;*2;$3;1-1;_;*2;$3;2-0;*0;*1;$3;2-0;", 0, NULL },
	{ "XREADGROUP GROUP g c STREAMS k k > 0", "%1;$1;k;*1;*2;$3;1-1;*0;", SNAPSHOT, NULL, 0, NULL },
	{ "XCLAIM k g c 0 1-1", "*1;*2;$3;1-1;*0;", "XCLAIM k g c 0 1-1 TIME 1000000", "*1;*2;$3;1-1;*0;", 0, NULL },
	{ "XCLAIM k g c 5 1-1 IDLE 500 FORCE RETRYCOUNT 3 JUSTID LASTID 9", "*1;$3;1-1;",
	  "XCLAIM k g c 0 1-1 TIME 999500 FORCE JUSTID RETRYCOUNT 3 LASTID 9", "*1;$3;1-1;", 0, NULL },
	{ "XCLAIM k g c 5 1-1 2-0 TIME 77", "*1;*2;$3;2-0;*0;",
	  "MULTI | XCLAIM k g c 0 2-0 TIME 77 | XCLAIM k g c 9223372036854775807 1-1 JUSTID | EXEC", "*2;*1;*2;$3;2-0;*0;*0;", 0, NULL },
	{ "XCLAIM k g c 5 1-1", "*0;", "XCLAIM k g c 9223372036854775807 1-1 JUSTID", "*0;", 0, NULL },
	{ "XAUTOCLAIM k g c 5 0", "*3;$3;0-0;*0;*0;", NOTHING, NULL, 0, NULL },
	{ "XAUTOCLAIM k g c 5 0 COUNT 9 JUSTID", "*3;$3;0-0;*1;$3;1-1;*1;$3;2-0;",
	  "MULTI | XCLAIM k g c 0 1-1 TIME 1000000 JUSTID | XCLAIM k g c 9223372036854775807 2-0 JUSTID | EXEC", "*2;*1;$3;1-1;*0;", 0,
	  NULL },
};

static const char *kind_name(enum effect_kind kind)
{
	static const char *const names[] = { NOTHING, SAME, "block", SNAPSHOT, "broadcast" };

	return names[kind];
}

/* What the effect expects, as a digest. */
static void check_expect(const struct effect_case *c, const struct effect *e, sds reply)
{
	sds want = c->expect ? wire(c->expect) : NULL;
	uint64_t digest = want ? resp_reply_digest(slice(want, sdslen(want))) : 0, got = 0;
	struct resp_item item;

	if (!want) {
		assert_int_equal(e->expect, EXPECT_ANY);
		return;
	}
	if (e->expect == EXPECT_SAME)
		got = resp_reply_digest(slice(reply, sdslen(reply)));
	else if (e->expect == EXPECT_DIGEST)
		got = e->expect_digest;
	else if (e->expect == EXPECT_OK)
		got = resp_reply_digest(SLICE_LIT("+OK\r\n"));
	else if (e->expect == EXPECT_INT && resp_item(want, want + sdslen(want), &item) && item.type == ':' && item.n == e->expect_n)
		got = digest;
	if (got != digest)
		fail_msg("%s: expects (%d, %lld) something else than %s", c->words, e->expect, (long long)e->expect_n, c->expect);
	sdsfree(want);
}

static void check_effect(const struct effect_case *c)
{
	struct slice argv[WORDS_MAX];
	char *line = strdup(c->words);
	uint32_t argc = split(line, argv);
	sds reply = wire(c->reply), probe = wire(c->probe ? c->probe : ""), request = sdsempty();
	struct effect_call call = { .cmd = row_of(argc, argv), .argc = argc, .argv = argv, .now_ms = NOW, .probe = slice(probe, sdslen(probe)),
				    .follower = c->flags & TO_7_0 ? SERVER_REDIS_7_0 : c->flags & TO_9_1 ? SERVER_VALKEY_9_1 : 0 };
	struct effect e;

	effect_of(&call, slice(reply, sdslen(reply)), &e);
	sds text = e.kind == EFFECT_IS_BLOCK ? readable(e.block) : sdsnew(kind_name(e.kind));
	if (strcmp(text, c->becomes) != 0)
		fail_msg("%s, %s: %s\nnot %s", c->words, c->reply, text, c->becomes);
	if (e.kind == EFFECT_IS_SAME || e.kind == EFFECT_IS_BLOCK)
		check_expect(c, &e, reply);
	if (e.whole != !!(c->flags & WHOLE) || e.unproven != !!(c->flags & UNPROVEN))
		fail_msg("%s, %s: whole %d, unproven %d", c->words, c->reply, e.whole, e.unproven);
	if (c->probe)
		assert_true(effect_probe(&call, &request));
	unsigned commands = e.kind == EFFECT_IS_BLOCK;
	for (const char *p = text; (p = strstr(p, " | ")); p++)
		commands++;
	assert_int_equal(e.ncommands, commands);
	sdsfree(e.block);
	sdsfree(text);
	sdsfree(reply);
	sdsfree(probe);
	sdsfree(request);
	free(line);
}

static void effects(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(effect_cases) / sizeof(effect_cases[0]); i++)
		check_effect(&effect_cases[i]);
}

/* RESTORE carries binary words: by the payload's version to who can read it. */
static void restore(void **state)
{
	static const struct {
		const char *footer;
		uint8_t follower;
		enum effect_kind kind;
	} cases[] = {
		{ "\x0a\0", 0, EFFECT_IS_BLOCK }, { "\x0b\0", 0, EFFECT_IS_SNAPSHOT }, { "\x0b\0", SERVER_VALKEY_8_0, EFFECT_IS_BLOCK },
		{ "\x0c\0", SERVER_REDIS_8_0, EFFECT_IS_BLOCK }, { "\x0c\0", SERVER_VALKEY_9_1, EFFECT_IS_SNAPSHOT },
		{ "\x50\0", SERVER_VALKEY_9_1, EFFECT_IS_BLOCK }, { "\x50\0", SERVER_REDIS_8_0, EFFECT_IS_SNAPSHOT },
		{ "\x0b\0", SERVER_REDIS_7_0, EFFECT_IS_SNAPSHOT },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char payload[12] = { 0, 1 };
		struct effect e;

		memcpy(payload + 2, cases[i].footer, 2);
		struct slice argv[] = { SLICE_LIT("RESTORE"), SLICE_LIT("k"), SLICE_LIT("0"), slice(payload, sizeof(payload)) };
		struct effect_call call = { .cmd = row_of(4, argv), .argc = 4, .argv = argv, .now_ms = NOW, .follower = cases[i].follower };
		effect_of(&call, SLICE_LIT("+OK\r\n"), &e);
		assert_int_equal(e.kind, cases[i].kind);
		assert_int_equal(e.whole, e.kind == EFFECT_IS_BLOCK);
		sdsfree(e.block);
	}
}

/* A rule reads replies that no server of ours sends: a snapshot or nothing, never a crash. */
static void odd_replies(void **state)
{
	static const char *const replies[] = { "*0;", "*1;_;", "*2;$1;a;$1;b;", "*3;$1;a;*1;_;*1;:1;", "%1;$1;k;_;", "%1;:1;*1;*1;_;", "_;", ":1;", "$1;a;",
					       "+OK;", "~1;*1;:1;", "#t;", ",1.5;", "|1;+a;+b;:1;", "*1;*0;", "*2;$1;k;*1;*0;", "%0;" };

	(void)state;
	for (size_t i = 0; i < sizeof(effect_cases) / sizeof(effect_cases[0]); i++) {
		char *line = strdup(effect_cases[i].words);
		struct slice argv[WORDS_MAX];
		uint32_t argc = split(line, argv);

		for (size_t j = 0; j < sizeof(replies) / sizeof(replies[0]); j++) {
			sds reply = wire(replies[j]);
			struct effect_call call = { .cmd = row_of(argc, argv), .argc = argc, .argv = argv, .now_ms = NOW,
						    .probe = slice(reply, sdslen(reply)) };
			struct effect e;
			effect_of(&call, slice(reply, sdslen(reply)), &e);
			if (e.kind == EFFECT_IS_BLOCK)
				sdsfree(readable(e.block));
			sdsfree(e.block);
			sdsfree(reply);
		}
		free(line);
	}
}

/* Every row whose effect is rewritten has a rule: none falls through to a snapshot for want of one. */
static void rows(void **state)
{
	(void)state;
	for (unsigned i = 0; i < command_count; i++) {
		const struct command *cmd = &command_table[i];
		bool relative = cmd->canonical != CANON_NONE;

		if (cmd->effect == EFFECT_REWRITTEN && cmd->rewrite == REWRITE_NONE)
			fail_msg("%s is rewritten by no rule", cmd->name);
		if (cmd->effect != EFFECT_REWRITTEN && cmd->rewrite != REWRITE_NONE && !(cmd->effect == EFFECT_VERBATIM && cmd->rewrite >= REWRITE_SPREAD_KEYS))
			fail_msg("%s has a rule that is never used", cmd->name);
		if (relative && cmd->effect != EFFECT_REWRITTEN && cmd->canonical != CANON_SETEX)
			fail_msg("%s is made absolute but not rewritten", cmd->name);
	}
}

/* What is called plain can do without its words and without the time, whatever it is answered. */
static void plain(void **state)
{
	static const char *const replies[] = { "+OK\r\n", ":0\r\n", ":1\r\n", "_\r\n", "$1\r\nx\r\n", "*1\r\n$1\r\nx\r\n", "-ERR no\r\n" };
	struct slice argv[8];
	unsigned found = 0;

	(void)state;
	for (unsigned i = 0; i < sizeof argv / sizeof *argv; i++)
		argv[i] = SLICE_LIT("7");
	for (unsigned i = 0; i < command_count * 8; i++) {
		const struct command *cmd = &command_table[i / 8];
		uint32_t argc = 1 + i % 8;
		if (!effect_is_plain(cmd, argc) || !command_arity_ok(cmd, argc))
			continue;
		found++;
		for (unsigned k = 0; k < sizeof replies / sizeof *replies; k++) {
			struct slice reply = slice(replies[k], strlen(replies[k]));
			struct effect_call bare = { .cmd = cmd, .argc = argc }, whole = { .cmd = cmd, .argc = argc, .argv = argv, .now_ms = NOW };
			struct effect a, b;
			effect_of(&bare, reply, &a);
			effect_of(&whole, reply, &b);
			assert_int_equal(a.kind, b.kind);
			assert_true(a.kind == EFFECT_IS_SAME || a.kind == EFFECT_IS_NOTHING);
			assert_int_equal(a.whole, b.whole);
			assert_int_equal(a.unproven, b.unproven);
			assert_false(effect_may_probe(cmd));
		}
	}
	assert_true(found > 100);
	assert_true(effect_is_plain(command_find(SLICE_LIT("set")), 3));
	assert_false(effect_is_plain(command_find(SLICE_LIT("set")), 5));
	assert_false(effect_is_plain(command_find(SLICE_LIT("incr")), 2));
	assert_false(effect_is_plain(command_find(SLICE_LIT("setex")), 4));
}

static uint32_t traits_of(const char *words)
{
	char *line = strdup(words);
	struct slice argv[WORDS_MAX];
	uint32_t argc = split(line, argv);
	struct effect_call call = { .cmd = row_of(argc, argv), .argc = argc, .argv = argv, .now_ms = NOW };
	uint32_t traits = effect_traits(&call);

	free(line);
	return traits;
}

static void traits(void **state)
{
	(void)state;
	assert_int_equal(traits_of("GET k"), 0);
	assert_int_equal(traits_of("SET k v"), 0);
	assert_int_equal(traits_of("SET k v NX PXAT 5"), 0);
	assert_int_equal(traits_of("SET k v KEEPTTL"), CMD_BUILDS | CMD_UNPROVEN);
	assert_int_equal(traits_of("GETEX k"), 0);
	assert_int_equal(traits_of("GETEX k PERSIST"), CMD_BUILDS);
	assert_int_equal(traits_of("HGETEX k FIELDS 1 a"), 0);
	assert_int_equal(traits_of("HSET k f v"), CMD_BUILDS | CMD_UNPROVEN);
	assert_int_equal(traits_of("BITFIELD k GET u8 0"), 0);
	assert_int_equal(traits_of("SORT k"), 0);
	assert_int_equal(traits_of("SORT k STORE d"), CMD_READS_OTHERS);
	assert_int_equal(traits_of("EVAL x 1 k"), CMD_SCRIPT);
	assert_int_equal(traits_of("MSETEX 1 a 1 KEEPTTL"), CMD_BUILDS | CMD_UNPROVEN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(canonical), cmocka_unit_test(effects), cmocka_unit_test(restore),
		cmocka_unit_test(odd_replies), cmocka_unit_test(rows), cmocka_unit_test(plain), cmocka_unit_test(traits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
