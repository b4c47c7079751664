/* large_changed.c - elements of a hash, set or sorted set that writes touched while it was copied: read again, set or removed. In which order they
 * changed does not matter, since each is read as it is now, and later if it changes again. */
#include "backfill/large_parts.h"
#include "resp/write.h"

static const struct large_again {
	const char *type, *read, *put, *drop;
} agains[] = {
	{ "hash", "HMGET", "HSET", "HDEL" },
	{ "set", "SMISMEMBER", "SADD", "SREM" },
	{ "zset", "ZMSCORE", "ZADD", "ZREM" },
};

const struct large_again *large_again_of(struct slice type)
{
	for (size_t i = 0; i < sizeof(agains) / sizeof(*agains); i++)
		if (slice_is(type, agains[i].type))
			return &agains[i];
	return NULL;
}

/* Elements that are there (put), or those that are not, in one multi-element command each. */
static bool build(struct large *l, struct slice reply, bool put)
{
	struct values names = values_over(slice(l->asked, sdslen(l->asked))), w = values_over(reply);
	const struct large_again *a = l->again;
	struct block *b = large_block(l);
	struct resp_item item;
	bool set = a == &agains[1], zset = a == &agains[2];

	block_open(b, put ? a->put : a->drop, NULL);
	for (int64_t n = values_children(&w); n > 0; n--) {
		struct slice name = values_text(&names), pair[2];
		if (!values_item(&w, &item) || !name.p)
			return false;
		if ((set ? item.n != 0 : item.type != '_') != put)
			continue;
		pair[zset] = name;
		pair[!zset] = item.n == 0 && item.text.n == 0 ? slice("", 0) : item.text;
		block_element(b, put && !set ? 2 : 1, put ? pair : &name);
		if (put && l->held && a == &agains[0]) {
			l->held = resp_cat_bulk(l->held, pair[0]);
			l->held = resp_cat_bulk(l->held, pair[1]);
		}
	}
	block_close(b);
	return names.p == names.end;
}

static void take_changed(struct large *l, struct slice reply)
{
	bool expiry = l->again == &agains[0] && large_hold_fields(l);

	if (!build(l, reply, true) || !build(l, reply, false))
		large_fail(l, RECIPE_ERROR, "%s was not answered as expected", l->again->read);
	else if (expiry && sdslen(l->held) > 0)
		large_ask_expiry(l);
}

void large_read_changed(struct large *l)
{
	struct values w = { l->changed + l->changed_at, l->changed + sdslen(l->changed) };
	unsigned n = 0;
	const char *first = w.p;

	while (w.p < w.end && n < l->want && w.p - first < BLOCK_BYTES) {
		values_text(&w);
		n++;
	}
	if (!l->asked)
		l->asked = sdsempty();
	l->asked = sdscpylen(l->asked, first, (size_t)(w.p - first));
	l->changed_at += (size_t)(w.p - first);
	l->request = resp_cat_len(l->request, '*', 2 + (int64_t)n);
	l->request = resp_cat_bulk(l->request, slice(l->again->read, strlen(l->again->read)));
	l->request = resp_cat_bulk(l->request, l->o.key);
	l->request = sdscatsds(l->request, l->asked);
	l->nrequests++;
	large_ask(l, take_changed);
}
