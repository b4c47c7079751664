/* effect_string.c - effects of what sets, deletes or expires a whole key, and of PFCOUNT. */
#include "proxy/effect_rules.h"
#include "resp/digits.h"

static void effect_del(const struct effect_call *call, struct effect *out)
{
	struct slice words[] = { SLICE_LIT("DEL"), call->argv[1] };

	effect_block(out, words, 2, EXPECT_INT, 1);
	out->whole = true;
}

/* Did SET write? By the reply, whose meaning GET and the conditions change (Redis 7.0 and later). */
static bool set_done(const struct effect_call *call, const struct options *o, const struct resp_item *reply)
{
	if (!(o->given & OPT_GET))
		return reply->type == '+';
	if (o->given & OPT_NX)
		return reply->type == '_';
	if (o->given & OPT_XX)
		return reply->type != '_';
	if (o->given & OPT_IFEQ)
		return reply->type == '$' && slice_eq(reply->text, call->argv[o->ifeq_at]);
	return true;
}

/* SET k v …: once the authority took it, without its condition and without GET. */
void effect_set(const struct effect_call *call, struct slice reply, struct effect *out)
{
	struct resp_item first;
	struct options o = { 0 };

	if (call->argc == 3) { /* plain (effect.h): no word may be looked at */
		effect_same(out);
		return;
	}
	first = reply_first(reply);
	if (!options_parse(call, &o)) {
		effect_snapshot(out);
		return;
	}
	if (!set_done(call, &o, &first))
		return;
	if ((o.given & OPT_EXPIRY) && o.form.relative) {
		effect_snapshot(out);
		return;
	}
	if (!(o.given & (OPT_NX | OPT_XX | OPT_GET | OPT_IFEQ))) {
		effect_same(out);
		return;
	}
	struct slice words[5] = { SLICE_LIT("SET"), call->argv[1], call->argv[2] };
	uint32_t n = 3;
	if (o.given & OPT_EXPIRY) {
		words[n++] = call->argv[o.expiry_at];
		words[n++] = call->argv[o.expiry_at + 1];
	} else if (o.given & OPT_KEEPTTL) {
		words[n++] = SLICE_LIT("KEEPTTL");
	}
	effect_block(out, words, n, EXPECT_OK, 0);
	out->whole = !(o.given & OPT_KEEPTTL);
}

/* SETNX, GETSET */
void effect_to_set(const struct effect_call *call, struct slice reply, struct effect *out)
{
	struct slice words[] = { SLICE_LIT("SET"), call->argv[1], call->argv[2] };

	(void)reply;
	effect_block(out, words, 3, EXPECT_OK, 0);
	out->whole = true;
}

void effect_msetnx(const struct effect_call *call, struct slice reply, struct effect *out)
{
	struct builder b = { 0 };

	(void)reply;
	build_command(&b, call->argc);
	build_text(&b, "MSET");
	build_words(&b, call->argv + 1, call->argc - 1);
	build_finish(&b, out);
	out->expect = EXPECT_OK;
	out->whole = true;
}

/* MSETEX numkeys k v … [NX|XX] [PXAT ms|KEEPTTL]: SET of each key, which every follower knows. */
void effect_msetex(const struct effect_call *call, struct slice reply, struct effect *out)
{
	struct builder b = { 0 };
	struct options o;
	int64_t n = 0;

	(void)reply;
	if (!options_parse(call, &o) || ((o.given & OPT_EXPIRY) && o.form.relative) ||
	    !resp_string_to_int(call->argv[1].p, call->argv[1].n, &n)) {
		effect_snapshot(out);
		return;
	}
	for (uint32_t i = 0; i < n; i++) {
		build_command(&b, 3 + (o.given & OPT_EXPIRY ? 2 : 0) + (o.given & OPT_KEEPTTL ? 1 : 0));
		build_text(&b, "SET");
		build_words(&b, call->argv + 2 + 2 * i, 2);
		if (o.given & OPT_EXPIRY)
			build_words(&b, call->argv + o.expiry_at, 2);
		if (o.given & OPT_KEEPTTL)
			build_text(&b, "KEEPTTL");
		build_want(&b, SLICE_LIT("+OK\r\n"));
	}
	build_finish(&b, out);
	out->whole = !(o.given & OPT_KEEPTTL);
}

/* GETDEL, DELIFEQ */
void effect_to_del(const struct effect_call *call, struct slice reply, struct effect *out)
{
	(void)reply;
	effect_del(call, out);
}

/* The key lives until `ms`: a follower that is told of a time already past might still keep it for the difference of the clocks. */
static void expire_at(const struct effect_call *call, int64_t ms, struct effect *out)
{
	struct int_word number;
	struct slice words[] = { SLICE_LIT("PEXPIREAT"), call->argv[1], int_word(&number, ms) };

	if (ms <= call->now_ms)
		effect_del(call, out);
	else
		effect_block(out, words, 3, EXPECT_INT, 1);
}

void effect_getex(const struct effect_call *call, struct slice reply, struct effect *out)
{
	struct options o;
	int64_t ms;

	(void)reply;
	if (!options_parse(call, &o)) {
		effect_snapshot(out);
	} else if (o.given & OPT_PERSIST) {
		effect_same(out); /* the reply proves that the value was there, as PERSIST's would not */
	} else if (o.given & OPT_EXPIRY) {
		if (o.form.relative || !time_ms(o.form, call->argv[o.expiry_at + 1], call->now_ms, &ms))
			effect_snapshot(out);
		else
			expire_at(call, ms, out);
	}
}

/* The sum is a long double: its bits need not be the follower's, so the result is sent. */
void effect_incrbyfloat(const struct effect_call *call, struct slice reply, struct effect *out)
{
	struct resp_item first = reply_first(reply);
	struct slice words[] = { SLICE_LIT("SET"), call->argv[1], first.text, SLICE_LIT("KEEPTTL") };

	if (first.type != '$')
		effect_snapshot(out);
	else
		effect_block(out, words, 4, EXPECT_OK, 0);
}

/* EXPIRE, PEXPIRE, EXPIREAT, PEXPIREAT: the authority judged the condition. A relative time comes here only if it is not positive
 * (the key is gone) or was not made absolute for another reason (then we cannot know the time). */
void effect_expire(const struct effect_call *call, struct slice reply, struct effect *out)
{
	struct time_form form = time_form_of(call->cmd);
	int64_t ms;

	(void)reply;
	if (!time_ms(form, call->argv[2], call->now_ms, &ms) || (form.relative && ms > call->now_ms))
		effect_snapshot(out);
	else
		expire_at(call, ms, out);
}

/* The newest payload version that the follower reads; every server we know of reads those of Redis 7.0. */
static unsigned payload_version_max(uint8_t follower)
{
	return follower == SERVER_REDIS_8_0                           ? 12
	       : follower & (SERVER_VALKEY_8_0 | SERVER_VALKEY_8_1)   ? 11
	       : follower == SERVER_VALKEY_9_1                        ? 11 /* and 80; 12 to 79 are foreign to it */
	                                                              : 10;
}

/* RESTORE k ttl payload [ABSTTL] …: a payload that the follower may not read is copied as the key's snapshot. */
void effect_restore(const struct effect_call *call, struct slice reply, struct effect *out)
{
	struct slice payload = call->argv[3];
	bool absttl = false;
	unsigned version;
	int64_t ttl;

	(void)reply;
	for (uint32_t i = 4; i < call->argc; i++)
		absttl |= slice_is(call->argv[i], "absttl");
	if (!resp_string_to_int(call->argv[2].p, call->argv[2].n, &ttl) || (ttl > 0 && !absttl) || payload.n < 10) {
		effect_snapshot(out);
		return;
	}
	if (ttl > 0 && ttl <= call->now_ms) {
		effect_del(call, out);
		out->expect = EXPECT_ANY; /* there need not have been a key */
		return;
	}
	version = (unsigned char)payload.p[payload.n - 10] | (unsigned)(unsigned char)payload.p[payload.n - 9] << 8;
	if (version > payload_version_max(call->follower) && !(version == 80 && call->follower == SERVER_VALKEY_9_1)) {
		effect_snapshot(out);
		return;
	}
	struct slice words[] = { SLICE_LIT("RESTORE"), call->argv[1], call->argv[2], payload, SLICE_LIT("REPLACE"),
		                 SLICE_LIT("ABSTTL") };
	effect_block(out, words, 6, EXPECT_OK, 0);
	out->whole = true;
}

/* PFCOUNT of one key writes what it counted into the value, where BITOP, SETRANGE and their like make data of it. Of several keys it
 * counts a union and writes nothing. */
void effect_pfcount(const struct effect_call *call, struct slice reply, struct effect *out)
{
	(void)reply;
	if (call->argc == 2)
		effect_same(out);
}
