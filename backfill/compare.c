#include "backfill/compare.h"

#include <assert.h>
#include <stdlib.h>
#include <xxhash.h>

#include "backfill/payload.h"
#include "backfill/recipe_parts.h"
#include "backfill/values.h"

#define HLL_HEADER 16 /* "HYLL", encoding, 3 unused bytes, 8 bytes of cached cardinality */

bool payload_equal(struct slice a, struct slice b)
{
	return a.n == b.n && a.n > PAYLOAD_FOOTER && memcmp(a.p, b.p, a.n - PAYLOAD_FOOTER) == 0;
}

enum recipe payload_type_recipe(struct slice payload)
{
	struct payload p;
	return payload_split(payload, &p) ? payload_recipe(&p) : RECIPE_DUMP;
}

/* ---- digests: of a part by XXH3, of a whole by a sum (order does not count) or by hashing on (it does) ---- */

static struct digest digest_of(const void *p, size_t n)
{
	XXH128_hash_t h = XXH3_128bits(p, n);
	return (struct digest){ h.low64, h.high64 };
}

static struct digest digest_slice(struct slice s)
{
	return digest_of(s.p, s.n);
}

static void digest_add(struct digest *sum, struct digest part)
{
	sum->lo += part.lo;
	sum->hi += part.hi;
}

static struct digest digest_chain(struct digest a, struct digest b)
{
	struct digest both[] = { a, b };
	return digest_of(both, sizeof(both));
}

static struct digest digest_int(int64_t v)
{
	return digest_of(&v, sizeof(v));
}

static struct digest digest_string(struct slice s)
{
	char header[HLL_HEADER];

	if (s.n < HLL_HEADER || memcmp(s.p, "HYLL", 4) != 0)
		return digest_slice(s);
	memcpy(header, s.p, 8);
	memset(header + 8, 0, 8);
	return digest_chain(digest_of(header, sizeof(header)), digest_slice(slice(s.p + HLL_HEADER, s.n - HLL_HEADER)));
}

/* 7.0 writes 0.69999999999999996 where 9.1 writes 0.7; and -0 equals 0. */
static bool digest_score(struct slice text, struct digest *d)
{
	char copy[64], *end;

	if (text.n == 0 || text.n >= sizeof(copy))
		return false;
	memcpy(copy, text.p, text.n);
	copy[text.n] = '\0';
	double v = strtod(copy, &end);
	if (*end)
		return false;
	if (v == 0)
		v = 0;
	*d = digest_of(&v, sizeof(v));
	return true;
}

/* ---- the types ---- */

static bool digest_list(struct values *w, int64_t n, struct digest *d)
{
	for (; n > 0; n--) {
		struct slice s = values_text(w);
		if (!s.p)
			return false;
		*d = digest_chain(*d, digest_slice(s));
	}
	return true;
}

static bool digest_set(struct values *w, int64_t n, struct digest *d)
{
	for (; n > 0; n--) {
		struct slice s = values_text(w);
		if (!s.p)
			return false;
		digest_add(d, digest_slice(s));
	}
	return true;
}

static bool digest_zset(struct values *w, int64_t n, struct digest *d)
{
	for (; n > 0; n--) {
		struct digest score;
		if (values_children(w) != 2)
			return false;
		struct slice member = values_text(w);
		if (!member.p || !digest_score(values_text(w), &score))
			return false;
		digest_add(d, digest_chain(digest_slice(member), score));
	}
	return true;
}

struct hash_digest {
	struct digest sum;
	int64_t now_ms;
	uint64_t live;
};

static void digest_field(void *arg, struct slice field, struct slice value, int64_t expires_at_ms)
{
	struct hash_digest *h = arg;

	if (expires_at_ms >= 0 && expires_at_ms < h->now_ms)
		return;
	struct digest d = digest_chain(digest_slice(field), digest_slice(value));
	digest_add(&h->sum, digest_chain(d, digest_int(expires_at_ms)));
	h->live++;
}

static enum recipe_result digest_hash(struct slice reply, int64_t now_ms, struct digest *d, const char **why)
{
	struct hash_digest h = { .now_ms = now_ms };
	struct values w = values_over(reply);
	struct resp_item item;
	struct payload p;

	values_item(&w, &item);
	if (item.type == '$') {
		if (!payload_split(item.text, &p))
			return RECIPE_ERROR;
		if (payload_recipe(&p) != RECIPE_HASH)
			return RECIPE_RETYPE;
		*why = "hash payload is not understood";
		if (!payload_hash(&p, digest_field, &h))
			return RECIPE_CANNOT;
	} else if (item.type == '%' || item.type == '*') {
		for (int64_t n = item.n; n > 1; n -= 2) {
			struct slice field = values_text(&w);
			struct slice value = values_text(&w);
			if (!field.p || !value.p)
				return RECIPE_ERROR;
			digest_field(&h, field, value, -1);
		}
	} else {
		return RECIPE_ERROR;
	}
	*d = h.sum;
	return h.live ? RECIPE_OK : RECIPE_GONE;
}

static bool digest_group(struct values *groups, struct digest *d)
{
	struct stream_group g;
	struct stream_pending p;

	if (!stream_group_next(groups, &g))
		return false;
	*d = digest_chain(digest_slice(g.name), digest_slice(g.last_delivered_id));
	struct values w = values_over(g.pending);
	for (int64_t n = values_children(&w); n > 0; n--) {
		if (!stream_pending_next(&w, &p))
			return false;
		*d = digest_chain(*d, digest_slice(p.id));
		*d = digest_chain(*d, digest_slice(p.consumer));
		*d = digest_chain(*d, digest_int(p.count));
	}
	return true;
}

static bool digest_stream(struct slice reply, struct digest *d)
{
	struct stream_info info;
	struct digest groups = { 0, 0 }, group;

	if (!stream_info_read(reply, &info) || !info.entries.p)
		return false;
	*d = digest_chain(digest_slice(info.last_id), digest_slice(info.max_deleted_id));
	*d = digest_chain(*d, digest_int(info.entries_added));
	struct values w = values_over(info.entries);
	for (int64_t n = values_children(&w); n > 0; n--) {
		/* Ids, fields and values are bulks in both protocols: the raw bytes are canonical. */
		*d = digest_chain(*d, digest_slice(values_whole(&w)));
	}
	w = values_over(info.groups);
	for (int64_t n = values_children(&w); n > 0; n--) {
		if (!digest_group(&w, &group))
			return false;
		digest_add(&groups, group);
	}
	*d = digest_chain(*d, groups);
	return true;
}

static enum recipe_result digest_elements(enum recipe r, struct slice reply, struct digest *d)
{
	struct values w = values_over(reply);
	int64_t n = values_children(&w);

	if (n <= 0)
		return n == 0 ? RECIPE_GONE : RECIPE_ERROR;
	bool ok = r == RECIPE_LIST ? digest_list(&w, n, d) : r == RECIPE_SET ? digest_set(&w, n, d) : digest_zset(&w, n, d);
	return ok ? RECIPE_OK : RECIPE_ERROR;
}

static enum recipe_result digest_value(enum recipe r, struct slice reply, int64_t now_ms, struct digest *d, const char **why)
{
	struct values w = values_over(reply);

	switch (r) {
	case RECIPE_DUMP:
	case RECIPE_SHORT:
	case RECIPE_STRING: {
		struct slice s = values_text(&w);
		if (!s.p || (r == RECIPE_DUMP && s.n <= PAYLOAD_FOOTER))
			return RECIPE_ERROR;
		if (r == RECIPE_SHORT && s.n >= SHORT_STRING)
			return RECIPE_RETYPE;
		*d = r == RECIPE_DUMP ? digest_of(s.p, s.n - PAYLOAD_FOOTER) : digest_string(s);
		return RECIPE_OK;
	}
	case RECIPE_HASH:
		return digest_hash(reply, now_ms, d, why);
	case RECIPE_STREAM:
		return digest_stream(reply, d) ? RECIPE_OK : RECIPE_ERROR;
	default:
		return digest_elements(r, reply, d);
	}
}

enum recipe_result value_digest(enum recipe r, const struct slice *replies, unsigned nreplies, int64_t now_ms, struct digest *digest,
				int64_t *expires_at_ms, const char **why)
{
	enum recipe next;

	assert(r < RECIPES && nreplies == RECIPE_REPLIES);
	(void)nreplies;
	*digest = (struct digest){ 0, 0 };
	*expires_at_ms = -1;
	enum recipe_result result = recipe_examine(replies, now_ms, expires_at_ms, &next, why);
	if (result != RECIPE_OK)
		return result;
	*why = "the value was not answered as expected";
	result = digest_value(r, replies[0], now_ms, digest, why);
	if (result != RECIPE_OK)
		*digest = (struct digest){ 0, 0 };
	else /* a list is not the set of the same elements; all encodings of a type share the recipe */
		*digest = digest_chain(*digest, digest_int(r));
	return result;
}
