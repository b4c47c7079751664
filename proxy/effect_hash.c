/* effect_hash.c - effects of what sets or expires single fields of a hash. */
#include "proxy/effect_rules.h"
#include "resp/digits.h"
#include "resp/write.h"

/* HSET would clear a field's expiry. Where the follower has such and knows HSETEX, that keeps it; where it has none HSET does; where we do
 * not know, the command itself goes, and its reply tells if the follower came to another sum. */
void effect_hincrbyfloat(const struct effect_call *call, struct slice reply, struct effect *out)
{
	struct resp_item sum = reply_first(reply);
	struct slice keep[] = { SLICE_LIT("HSETEX"), call->argv[1], SLICE_LIT("KEEPTTL"), SLICE_LIT("FIELDS"), SLICE_LIT("1"),
		                call->argv[2], sum.text };
	struct slice plain[] = { SLICE_LIT("HSET"), call->argv[1], call->argv[2], sum.text };

	if (sum.type != '$')
		effect_snapshot(out);
	else if (call->follower == 0)
		effect_same(out);
	else if (follower_knows(call, SERVERS_WITH_FIELD_TTL))
		effect_block(out, keep, 7, EXPECT_INT, 1);
	else
		effect_block(out, plain, 4, EXPECT_ANY, 0);
}

/* Which of a reply's values, one per field, choose their field. */
typedef bool field_test(const struct resp_item *item);

static bool is_one(const struct resp_item *item)
{
	return item->type == ':' && item->n == 1;
}

static bool is_two(const struct resp_item *item)
{
	return item->type == ':' && item->n == 2;
}

static bool is_value(const struct resp_item *item)
{
	return item->type == '$';
}

/* How many of the n values of the reply the test chooses; 0 if there are not n (no key, on some servers). */
static uint32_t chosen(struct slice reply, uint32_t n, field_test *test)
{
	struct reply_walk w = reply_walk(reply);
	struct resp_item item;
	uint32_t count = 0;

	if (!reply_next(&w, &item) || item.type != '*' || item.n != n)
		return 0;
	for (uint32_t i = 0; i < n && reply_next(&w, &item); i++)
		count += test(&item);
	return count;
}

/* Fields of the request whose value the test chooses. */
static void build_chosen(struct builder *b, const struct slice *fields, struct slice reply, uint32_t n, field_test *test)
{
	struct reply_walk w = reply_walk(reply);
	struct resp_item item;

	reply_next(&w, &item);
	for (uint32_t i = 0; i < n && reply_next(&w, &item); i++)
		if (test(&item))
			build_word(b, fields[i]);
}

/* HDEL of the chosen fields; one named twice was there once. */
static void hdel_chosen(const struct effect_call *call, const struct slice *fields, uint32_t n, struct slice reply, field_test *test,
			struct effect *out)
{
	uint32_t count = chosen(reply, n, test);
	struct builder b = { 0 };

	if (count == 0)
		return;
	build_command(&b, count + 2);
	build_text(&b, "HDEL");
	build_word(&b, call->argv[1]);
	build_chosen(&b, fields, reply, n, test);
	build_finish(&b, out);
	out->expect = EXPECT_INT;
	out->expect_n = count;
}

/* HPEXPIREAT of the chosen fields, whose reply must be 1 for each. */
static void hpexpireat_chosen(const struct effect_call *call, int64_t ms, const struct slice *fields, uint32_t n, struct slice reply,
			      field_test *test, struct effect *out)
{
	uint32_t count = chosen(reply, n, test);
	struct builder b = { 0 };

	if (count == 0)
		return;
	if (!follower_knows(call, SERVERS_WITH_FIELD_TTL)) {
		effect_snapshot(out);
		return;
	}
	build_command(&b, count + 5);
	build_text(&b, "HPEXPIREAT");
	build_word(&b, call->argv[1]);
	build_int(&b, ms);
	build_text(&b, "FIELDS");
	build_int(&b, count);
	build_chosen(&b, fields, reply, n, test);
	sds want = resp_cat_len(sdsempty(), '*', count);
	for (uint32_t i = 0; i < count; i++)
		want = resp_cat_len(want, ':', 1);
	build_want(&b, slice(want, sdslen(want)));
	sdsfree(want);
	build_finish(&b, out);
}

/* HEXPIRE and its like, k time [cond] FIELDS n f …: per field 1 set, 2 deleted (the time is past), 0 or -2 nothing. */
void effect_hexpire(const struct effect_call *call, struct slice reply, struct effect *out)
{
	struct time_form form = time_form_of(call->cmd);
	uint32_t first = 0, n = 0;
	int64_t ms;

	if (call->argc < 6 || (!fields_parse(call, 3, 1, &first, &n) && !fields_parse(call, 4, 1, &first, &n)) ||
	    !time_ms(form, call->argv[2], call->now_ms, &ms)) {
		effect_snapshot(out);
		return;
	}
	hdel_chosen(call, call->argv + first, n, reply, is_two, out);
	if (chosen(reply, n, is_one) == 0)
		return;
	if (out->kind != EFFECT_IS_NOTHING || form.relative) {
		sdsfree(out->block); /* both at once, or a time that we cannot know */
		*out = (struct effect){ .kind = EFFECT_IS_SNAPSHOT };
		return;
	}
	hpexpireat_chosen(call, ms, call->argv + first, n, reply, is_one, out);
}

/* HSETEX k [cond] [PXAT ms|KEEPTTL] FIELDS n f v …: without its condition. Without expiry it is what HSET is. */
void effect_hsetex(const struct effect_call *call, struct slice reply, struct effect *out)
{
	bool known = follower_knows(call, SERVERS_WITH_FIELD_TTL);
	struct builder b = { 0 };
	struct options o;

	(void)reply;
	if (!options_parse(call, &o) || ((o.given & OPT_EXPIRY) && (o.form.relative || !known))) {
		effect_snapshot(out);
		return;
	}
	uint32_t time_words = o.given & OPT_EXPIRY ? 2 : o.given & OPT_KEEPTTL ? 1 : 0;
	if (known) {
		build_command(&b, 4 + time_words + 2 * o.nfields);
		build_text(&b, "HSETEX");
		build_word(&b, call->argv[1]);
		if (o.given & OPT_EXPIRY)
			build_words(&b, call->argv + o.expiry_at, 2);
		if (o.given & OPT_KEEPTTL)
			build_text(&b, "KEEPTTL");
		build_text(&b, "FIELDS");
		build_int(&b, o.nfields);
	} else {
		build_command(&b, 2 + 2 * o.nfields);
		build_text(&b, "HSET");
		build_word(&b, call->argv[1]);
	}
	build_words(&b, call->argv + o.fields_at, 2 * o.nfields);
	if (known)
		build_want(&b, SLICE_LIT(":1\r\n"));
	build_finish(&b, out);
}

/* HGETEX k [PXAT ms|PERSIST] FIELDS n f …: fields that had a value. */
void effect_hgetex(const struct effect_call *call, struct slice reply, struct effect *out)
{
	struct options o;
	int64_t ms;

	if (!options_parse(call, &o)) {
		effect_snapshot(out);
	} else if (o.given & OPT_PERSIST) {
		effect_same(out);
	} else if (o.given & OPT_EXPIRY) {
		const struct slice *fields = call->argv + o.fields_at;

		if (o.form.relative || !time_ms(o.form, call->argv[o.expiry_at + 1], call->now_ms, &ms))
			effect_snapshot(out);
		else if (ms <= call->now_ms)
			hdel_chosen(call, fields, o.nfields, reply, is_value, out);
		else
			hpexpireat_chosen(call, ms, fields, o.nfields, reply, is_value, out);
	}
}

/* HGETDEL k FIELDS n f … */
void effect_hgetdel(const struct effect_call *call, struct slice reply, struct effect *out)
{
	uint32_t first, n;

	if (!fields_parse(call, 2, 1, &first, &n))
		effect_snapshot(out);
	else
		hdel_chosen(call, call->argv + first, n, reply, is_value, out);
}
