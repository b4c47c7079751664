/* effect_stream.c - effects on streams and their consumer groups.
 *
 * XADD:       * becomes the id of the reply.
 * ~ trims:    how much goes depends on how the nodes were filled, which differs between the sides. The probe tells the first entry
 *             that is left, and the follower trims exactly up to it; without the probe: a snapshot.
 * XREADGROUP: what was delivered is known, so the follower reads as many entries itself: this moves the group, counts entries read by the
 *             server's own rule and proves by its reply that both delivered the same; an XCLAIM behind it sets the authority's time of
 *             delivery (and would force the entries on the consumer all the same). The servers' own replicas get the XCLAIM alone and
 *             so lose what a re-read of pending entries counts. A read that delivers nothing has no effect, as with the servers' replicas; the
 *             consumer that it may create appears on the follower with its first entry.
 * XCLAIM:     ids that the reply names are claimed, whatever their idle time; ids that it does not name are claimed with an idle time that
 *             none has, which only drops those whose entry was deleted. */
#include <stdlib.h>

#include "proxy/effect_rules.h"
#include "resp/digits.h"
#include "resp/write.h"

/* --- XADD, XTRIM -------------------------------------------------------------------------------------------------- */

struct trim_words {
	bool approximate;
	bool nomkstream;
	bool unknown;      /* an option of servers later than ours */
	uint32_t trim_at;  /* MAXLEN or MINID; 0: none */
	uint32_t end;      /* XADD: index of the id */
};

/* The options of XADD (in front of the id) or XTRIM (to the end), from argv[2]. */
static struct trim_words trim_words(const struct effect_call *call)
{
	struct trim_words t = { 0 };
	uint32_t i = 2;

	for (; i < call->argc; i++) {
		struct slice word = call->argv[i];

		if (slice_is(word, "nomkstream")) {
			t.nomkstream = true;
		} else if (slice_is(word, "maxlen") || slice_is(word, "minid")) {
			t.trim_at = i++;
			if (i < call->argc && (slice_is(call->argv[i], "~") || slice_is(call->argv[i], "="))) {
				t.approximate = *call->argv[i].p == '~';
				i++;
			}
		} else if (slice_is(word, "limit")) {
			i++;
		} else {
			t.unknown = slice_is(word, "keepref") || slice_is(word, "delref") || slice_is(word, "acked");
			break;
		}
	}
	t.end = i;
	return t;
}

static bool probe_first_entry(const struct effect_call *call, sds *out)
{
	struct trim_words t = trim_words(call);

	if (!t.approximate)
		return false;
	*out = resp_cat_len(*out, '*', 6);
	*out = resp_cat_bulk(*out, SLICE_LIT("XRANGE"));
	*out = resp_cat_bulk(*out, call->argv[1]);
	*out = resp_cat_bulk(*out, SLICE_LIT("-"));
	*out = resp_cat_bulk(*out, SLICE_LIT("+"));
	*out = resp_cat_bulk(*out, SLICE_LIT("COUNT"));
	*out = resp_cat_bulk(*out, SLICE_LIT("1"));
	return true;
}

bool probe_xadd(const struct effect_call *call, sds *out)
{
	return probe_first_entry(call, out);
}

bool probe_xtrim(const struct effect_call *call, sds *out)
{
	return probe_first_entry(call, out);
}

/* "MINID id" of the first entry that is left, "MAXLEN 0" if none is; false: there was no probe. */
static bool exact_trim(const struct effect_call *call, struct slice words[2])
{
	struct reply_walk w = reply_walk(call->probe);
	struct resp_item item;

	if (call->probe.n == 0 || !reply_next(&w, &item) || item.type != '*')
		return false;
	words[0] = SLICE_LIT("MAXLEN");
	words[1] = SLICE_LIT("0");
	if (item.n == 0)
		return true;
	if (!reply_next(&w, &item) || item.type != '*' || !reply_next(&w, &item) || item.type != '$')
		return false;
	words[0] = SLICE_LIT("MINID");
	words[1] = item.text;
	return true;
}

void effect_xadd(const struct effect_call *call, struct slice reply, struct effect *out)
{
	struct trim_words t = trim_words(call);
	struct resp_item id = reply_first(reply);
	struct slice trim[2];
	struct builder b = { 0 };

	if (id.type != '$' || t.unknown || t.end >= call->argc || (t.approximate && !exact_trim(call, trim))) {
		effect_snapshot(out);
		return;
	}
	if (!t.approximate && slice_eq(call->argv[t.end], id.text)) {
		effect_same(out);
		return;
	}
	if (t.approximate) {
		build_command(&b, 2 + t.nomkstream + 2 + call->argc - t.end);
		build_words(&b, call->argv, 2);
		if (t.nomkstream)
			build_text(&b, "NOMKSTREAM");
		build_words(&b, trim, 2);
	} else {
		build_command(&b, call->argc);
		build_words(&b, call->argv, t.end);
	}
	build_word(&b, id.text);
	build_words(&b, call->argv + t.end + 1, call->argc - t.end - 1);
	build_finish(&b, out);
	out->expect = EXPECT_SAME; /* the id */
}

void effect_xtrim(const struct effect_call *call, struct slice reply, struct effect *out)
{
	struct trim_words t = trim_words(call);
	struct slice words[4] = { SLICE_LIT("XTRIM"), call->argv[1] };

	(void)reply;
	if (t.unknown || (t.approximate && !exact_trim(call, words + 2)))
		effect_snapshot(out);
	else if (!t.approximate)
		effect_same(out);
	else
		effect_block(out, words, 4, EXPECT_SAME, 0); /* the number of entries that went */
}

/* --- XREADGROUP --------------------------------------------------------------------------------------------------- */

/* A bulk in a reply that is written as expected. */
static void want_ids(struct builder *b, const struct slice *ids, uint32_t n)
{
	sds want = resp_cat_len(sdsempty(), '*', n);

	for (uint32_t i = 0; i < n; i++)
		want = resp_cat_bulk(want, ids[i]);
	build_want(b, slice(want, sdslen(want)));
	sdsfree(want);
}

struct read_words {
	bool noack;
	uint32_t keys_at; /* first stream; its id is nkeys further */
	uint32_t nkeys;
};

/* XREADGROUP GROUP g c [COUNT n] [BLOCK ms] [NOACK] STREAMS k … id … */
static bool read_words(const struct effect_call *call, struct read_words *r)
{
	*r = (struct read_words){ 0 };
	for (uint32_t i = 4; i < call->argc; i++) {
		struct slice word = call->argv[i];

		if (slice_is(word, "noack")) {
			r->noack = true;
		} else if (slice_is(word, "streams")) {
			r->keys_at = i + 1;
			r->nkeys = (call->argc - i - 1) / 2;
			return r->nkeys > 0 && (call->argc - i - 1) % 2 == 0 && slice_is(call->argv[1], "group");
		} else if (slice_is(word, "count") || slice_is(word, "block")) {
			i++;
		} else {
			return false;
		}
	}
	return false;
}

/* Ids of [[id, fields or null], …], those of deleted entries (null) left out if `living`; NULL if the reply is not of this shape or
 * memory is out. The caller frees. */
static struct slice *entry_ids(struct slice entries, bool living, uint32_t *n)
{
	struct reply_walk w = reply_walk(entries);
	struct resp_item list, item, id;
	struct slice *ids;

	*n = 0;
	if (!reply_next(&w, &list) || list.type != '*' || list.n > UINT32_MAX / 2)
		return NULL;
	ids = malloc(sizeof(*ids) * (size_t)(list.n + 1));
	for (int64_t i = 0; ids && i < list.n; i++) {
		struct reply_walk one = reply_walk(reply_value(&w));
		bool alive = true;

		if (!reply_next(&one, &id) || (item_is_list(&id) && !reply_next(&one, &id)) || id.type != '$') {
			free(ids);
			return NULL;
		}
		if (living && one.p < one.end && reply_next(&one, &item))
			alive = item.type != '_';
		if (alive)
			ids[(*n)++] = id.text;
	}
	return ids;
}

/* The read of one stream again, of as many entries as came, and their time of delivery. */
static bool build_read(struct builder *b, const struct effect_call *call, const struct read_words *r, uint32_t i, struct slice entries)
{
	struct slice key = call->argv[r->keys_at + i], from = call->argv[r->keys_at + r->nkeys + i];
	int64_t count = reply_first(entries).n;
	bool fresh = slice_is(from, ">");
	uint32_t n;
	struct slice *ids = entry_ids(entries, true, &n);

	if (!ids)
		return false;
	build_command(b, 9 + r->noack);
	build_words(b, call->argv, 4);
	build_text(b, "COUNT");
	build_int(b, count);
	if (r->noack)
		build_text(b, "NOACK");
	build_text(b, "STREAMS");
	build_word(b, key);
	build_word(b, from);
	sds want = resp_cat_bulk(resp_cat_len(sdsempty(), '%', 1), key);
	want = sdscatlen(want, entries.p, entries.n);
	build_want(b, slice(want, sdslen(want)));
	sdsfree(want);

	if (n > 0 && !(fresh && r->noack)) {
		build_command(b, 5 + n + 3 + (fresh ? 5 : 0));
		build_text(b, "XCLAIM");
		build_word(b, key);
		build_words(b, call->argv + 2, 2);
		build_int(b, 0);
		build_words(b, ids, n);
		build_text(b, "TIME");
		build_int(b, call->now_ms);
		build_text(b, "JUSTID");
		if (fresh) {
			build_text(b, "RETRYCOUNT");
			build_int(b, 1);
			build_text(b, "FORCE");
			build_text(b, "LASTID");
			build_word(b, ids[n - 1]);
		}
		want_ids(b, ids, n);
	}
	free(ids);
	return true;
}

/* The stream of that name, from index `at` on; nkeys if there is none, or if it is read twice: the reply does not tell which it answers. */
static uint32_t read_index(const struct effect_call *call, const struct read_words *r, uint32_t at, struct slice key)
{
	uint32_t found = r->nkeys;

	for (uint32_t i = 0; i < r->nkeys; i++) {
		if (!slice_eq(call->argv[r->keys_at + i], key))
			continue;
		if (found < r->nkeys || i < at)
			return r->nkeys;
		found = i;
	}
	return found;
}

/* {stream: [[id, [field, value …]], …], …}, streams in the order of the request, those without news left out. */
void effect_xreadgroup(const struct effect_call *call, struct slice reply, struct effect *out)
{
	struct reply_walk w = reply_walk(reply);
	struct resp_item map, key;
	struct builder b = { 0 };
	struct read_words r;
	uint32_t at = 0;
	bool ok;

	if (!reply_next(&w, &map) || map.type != '%')
		return;
	ok = read_words(call, &r);
	for (int64_t i = 0; ok && i < map.n; i += 2) {
		ok = reply_next(&w, &key) && key.type == '$';
		if (ok)
			at = read_index(call, &r, at, key.text);
		struct slice entries = reply_value(&w);
		ok = ok && at < r.nkeys && reply_first(entries).type == '*';
		if (ok && reply_first(entries).n > 0)
			ok = build_read(&b, call, &r, at, entries);
		at++;
	}
	if (!ok) {
		sdsfree(b.body);
		sdsfree(b.want);
		effect_snapshot(out);
	} else if (b.n > 0) {
		build_finish(&b, out);
	}
}

/* --- XCLAIM, XAUTOCLAIM ------------------------------------------------------------------------------------------- */

struct claim_words {
	const struct slice *ids; /* of the request; NULL for XAUTOCLAIM */
	uint32_t nids;
	int64_t time_ms;         /* of delivery */
	bool force, justid;
	uint32_t retrycount_at, lastid_at; /* of the number, of the id; 0: not given */
};

static const struct claim_option {
	const char *word;
	bool has_argument;
} claim_options[] = {
	{ "idle", true }, { "time", true }, { "retrycount", true }, { "force", false }, { "justid", false }, { "lastid", true },
	{ "count", true },
};

enum { CLAIM_IDLE, CLAIM_TIME, CLAIM_RETRYCOUNT, CLAIM_FORCE, CLAIM_JUSTID, CLAIM_LASTID, CLAIM_COUNT, CLAIM_OPTIONS };

static unsigned claim_option(struct slice word)
{
	unsigned i = 0;

	while (i < CLAIM_OPTIONS && !slice_is(word, claim_options[i].word))
		i++;
	return i;
}

/* The options from argv[i]; false: one is unknown. */
static bool claim_words(const struct effect_call *call, uint32_t i, struct claim_words *c)
{
	int64_t v = 0;

	c->time_ms = call->now_ms;
	for (; i < call->argc; i++) {
		unsigned option = claim_option(call->argv[i]);

		if (option == CLAIM_OPTIONS || (claim_options[option].has_argument && ++i >= call->argc))
			return false;
		if ((option == CLAIM_IDLE || option == CLAIM_TIME) && !resp_string_to_int(call->argv[i].p, call->argv[i].n, &v))
			return false;
		if (option == CLAIM_IDLE && __builtin_sub_overflow(call->now_ms, v, &c->time_ms))
			return false;
		if (option == CLAIM_TIME)
			c->time_ms = v;
		c->force |= option == CLAIM_FORCE;
		c->justid |= option == CLAIM_JUSTID;
		if (option == CLAIM_RETRYCOUNT)
			c->retrycount_at = i;
		if (option == CLAIM_LASTID)
			c->lastid_at = i;
	}
	return true;
}

/* XCLAIM k g c 0 id …, replied to as the authority replied. */
static void build_claim(struct builder *b, const struct effect_call *call, const struct claim_words *c, const struct slice *ids, uint32_t n,
			struct slice want)
{
	/* Servers take a time before the epoch, or beyond now, for now. */
	build_command(b, 5 + n + 2 + c->force + c->justid + (c->retrycount_at ? 2 : 0) + (c->lastid_at ? 2 : 0));
	build_text(b, "XCLAIM");
	build_words(b, call->argv + 1, 3);
	build_int(b, 0);
	build_words(b, ids, n);
	build_text(b, "TIME");
	build_int(b, c->time_ms);
	if (c->force)
		build_text(b, "FORCE");
	if (c->justid)
		build_text(b, "JUSTID");
	if (c->retrycount_at)
		build_words(b, call->argv + c->retrycount_at - 1, 2);
	if (c->lastid_at)
		build_words(b, call->argv + c->lastid_at - 1, 2);
	build_want(b, want);
}

/* XCLAIM k g c <longest> id … JUSTID: claims none, and drops from the group those whose entry is gone. */
static void build_drop(struct builder *b, const struct effect_call *call, const struct claim_words *c, const struct slice *ids, uint32_t n)
{
	build_command(b, 5 + n + 1 + (c->lastid_at ? 2 : 0));
	build_text(b, "XCLAIM");
	build_words(b, call->argv + 1, 3);
	build_int(b, INT64_MAX);
	build_words(b, ids, n);
	build_text(b, "JUSTID");
	if (c->lastid_at)
		build_words(b, call->argv + c->lastid_at - 1, 2);
	build_want(b, SLICE_LIT("*0\r\n"));
}

/* Those of `ids` that are not in `claimed`, both in the order of the request; into `ids` itself. Returns how many. */
static uint32_t not_claimed(const struct slice *claimed, uint32_t nclaimed, struct slice *ids, uint32_t n)
{
	uint32_t at = 0, left = 0;

	for (uint32_t i = 0; i < n; i++) {
		if (at < nclaimed && slice_eq(ids[i], claimed[at]))
			at++;
		else
			ids[left++] = ids[i];
	}
	return left;
}

/* The entries claimed and the ids dropped: of XAUTOCLAIM both are in the reply, [cursor, entries, deleted ids]; an XCLAIM's is the
 * entries alone, and what it does not name may have been dropped. */
static bool claim_reply(const struct effect_call *call, struct slice reply, struct claim_words *c, struct slice *entries, struct slice *dropped)
{
	struct reply_walk w = reply_walk(reply), inner;
	struct resp_item list = { 0 }, first = { 0 }, second = { 0 };
	uint32_t i = 5;

	*entries = reply;
	*dropped = SLICE_LIT("*0\r\n");
	if (!reply_next(&w, &list) || list.type != '*')
		return false;
	inner = w;
	if (list.n >= 2 && reply_next(&inner, &first) && first.type == '$' && reply_next(&inner, &second) && second.type == '*') {
		reply_value(&w);
		*entries = reply_value(&w);
		if (list.n >= 3)
			*dropped = reply_value(&w);
		return claim_words(call, 6, c);
	}
	while (i < call->argc && claim_option(call->argv[i]) == CLAIM_OPTIONS)
		i++;
	c->ids = call->argv + 5;
	c->nids = i - 5;
	return claim_words(call, i, c);
}

void effect_xclaim(const struct effect_call *call, struct slice reply, struct effect *out)
{
	struct slice entries, dropped, *claimed = NULL, *gone = NULL;
	struct claim_words c = { 0 };
	struct builder b = { 0 };
	uint32_t nclaimed = 0, ngone = 0;
	bool ok = call->argc > 5 && claim_reply(call, reply, &c, &entries, &dropped);

	if (ok) {
		claimed = entry_ids(entries, false, &nclaimed);
		gone = c.ids ? malloc(sizeof(*gone) * c.nids) : entry_ids(dropped, false, &ngone);
		ok = claimed && gone;
	}
	if (ok && c.ids) {
		memcpy(gone, c.ids, sizeof(*gone) * c.nids);
		ngone = not_claimed(claimed, nclaimed, gone, c.nids);
	}
	if (ok && nclaimed > 0)
		build_claim(&b, call, &c, claimed, nclaimed, entries);
	if (ok && ngone > 0)
		build_drop(&b, call, &c, gone, ngone);
	free(claimed);
	free(gone);
	if (!ok)
		effect_snapshot(out);
	else if (b.n > 0)
		build_finish(&b, out);
}
