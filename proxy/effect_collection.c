/* effect_collection.c - effects of pops: what left is named, so that nothing is left to chance or order. */
#include "proxy/effect_rules.h"
#include "resp/digits.h"
#include "resp/write.h"

/* Words that one command may have on every server. */
#define WORDS_MAX (1024 * 1024)

/* "NAME key member …" of the members of a list reply; `stride` values each, of which the first is the member; the list may be one of
 * pairs (then each value is an array whose first is the member). */
static void remove_members(const char *name, struct slice key, struct reply_walk members, int64_t n, bool pairs, struct effect *out)
{
	struct builder b = { 0 };
	struct resp_item item;

	if (n < 1 || n > WORDS_MAX - 2) {
		effect_snapshot(out);
		return;
	}
	build_command(&b, (uint32_t)n + 2);
	build_text(&b, name);
	build_word(&b, key);
	for (int64_t i = 0; i < n; i++) {
		struct reply_walk one = reply_walk(reply_value(&members));

		if (!reply_next(&one, &item) || (pairs && (!item_is_list(&item) || !reply_next(&one, &item))) || item.type != '$') {
			sdsfree(b.body);
			effect_snapshot(out);
			return;
		}
		build_word(&b, item.text);
	}
	build_finish(&b, out);
	out->expect = EXPECT_INT;
	out->expect_n = n;
}

/* SPOP k [n]: a member, or a set of them. */
void effect_spop(const struct effect_call *call, struct slice reply, struct effect *out)
{
	struct reply_walk w = reply_walk(reply);
	struct resp_item item = { 0 };

	if (reply_next(&w, &item) && item_is_list(&item))
		remove_members("SREM", call->argv[1], w, item.n, false, out);
	else
		remove_members("SREM", call->argv[1], reply_walk(reply), 1, false, out);
}

/* [key, [element, …]]: into the key and a walk before the second value; false: not of this shape. */
static bool popped(struct slice reply, struct resp_item *key, struct reply_walk *w)
{
	struct resp_item item;

	*w = reply_walk(reply);
	return reply_next(w, &item) && item_is_list(&item) && item.n == 2 && reply_next(w, key) && key->type == '$';
}

/* [B]LMPOP [timeout] numkeys k … LEFT|RIGHT [COUNT n]: LPOP or RPOP of as many as came, from the key that had them. */
void effect_lmpop(const struct effect_call *call, struct slice reply, struct effect *out)
{
	uint32_t numkeys_at = call->cmd->flags & CMD_BLOCKING ? 2 : 1;
	struct resp_item key, list;
	struct reply_walk w, elements;
	struct int_word count;
	int64_t numkeys;

	if (call->argc <= numkeys_at || !resp_string_to_int(call->argv[numkeys_at].p, call->argv[numkeys_at].n, &numkeys) ||
	    numkeys < 1 || numkeys + numkeys_at + 1 >= call->argc || !popped(reply, &key, &w)) {
		effect_snapshot(out);
		return;
	}
	elements = w;
	if (!reply_next(&elements, &list) || list.type != '*' || list.n < 1) {
		effect_snapshot(out);
		return;
	}
	bool left = slice_is(call->argv[numkeys_at + 1 + numkeys], "left");
	struct slice words[] = { left ? SLICE_LIT("LPOP") : SLICE_LIT("RPOP"), key.text, int_word(&count, list.n) };
	struct builder b = { 0 };
	build_command(&b, 3);
	build_words(&b, words, 3);
	build_want(&b, reply_value(&w));
	build_finish(&b, out);
}

/* [B]ZMPOP: [key, [[member, score], …]] */
void effect_zmpop(const struct effect_call *call, struct slice reply, struct effect *out)
{
	struct resp_item key, list;
	struct reply_walk w;

	(void)call;
	if (!popped(reply, &key, &w) || !reply_next(&w, &list) || list.type != '*')
		effect_snapshot(out);
	else
		remove_members("ZREM", key.text, w, list.n, true, out);
}

/* ZPOPMIN, ZPOPMAX: [member, score], with a count [[member, score], …]. */
void effect_zpop(const struct effect_call *call, struct slice reply, struct effect *out)
{
	struct reply_walk w = reply_walk(reply), inner;
	struct resp_item list = { 0 }, item = { 0 };

	if (!reply_next(&w, &list) || list.type != '*' || list.n < 1) {
		effect_snapshot(out);
		return;
	}
	inner = w;
	if (reply_next(&inner, &item) && item_is_list(&item))
		remove_members("ZREM", call->argv[1], w, list.n, true, out);
	else
		remove_members("ZREM", call->argv[1], w, 1, false, out);
}
