/* The watch of single keys, where that of everything is not on: a side connection to each node that serves a key somebody waits for, with CLIENT TRACKING of the
 * keys that it reads. EXISTS reads one; the server then tells of its next change, once. Hidden from it are changes that no tracking tells of (consumer groups). */
#include <assert.h>
#include <stdlib.h>

#include "proxy/side.h"
#include "resp/slot.h"
#include "resp/write.h"

struct keywatch {
	struct side_connections side;
};

static bool on_changed(void *ctx, struct upstream *u, struct slice push)
{
	struct worker *w = ctx;
	const char *p = push.p, *end = push.p + push.n;
	struct resp_item head, kind, keys, key;

	p += resp_item(p, end, &head);
	p += resp_item(p, end, &kind);
	if (head.n != 2 || !slice_is(kind.text, "invalidate"))
		return false;
	p += resp_item(p, end, &keys);
	if (keys.type == '_')
		engine_unseen(w->engine);
	for (int64_t i = 0; keys.type == '*' && i < keys.n; i++) {
		p += resp_item(p, end, &key);
		engine_key_changed(w->engine, u->side, key.text, slot_of(key.text));
	}
	return false;
}

static void on_lost(void *ctx, struct upstream *u, const char *why, bool was_up)
{
	struct worker *w = ctx;

	(void)u;
	(void)why;
	if (was_up)
		engine_watch_lost(w->engine);
}

static struct keywatch *keywatch_new(struct worker *w)
{
	struct keywatch *k = calloc(1, sizeof *k);

	if (!k)
		abort();
	side_init(&k->side, w, "keys");
	k->side.owner.by_key = true;
	k->side.owner.pushed = on_changed;
	k->side.owner.lost = on_lost;
	return k;
}

static struct upstream *node_get(struct worker *w, const struct upstream *data)
{
	bool made;

	if (!w->keywatch)
		w->keywatch = keywatch_new(w);
	struct upstream *u = side_to(&w->keywatch->side, data, &made);
	if (made)
		upstream_watch(u, true);
	return u;
}

void keywatch_ask(struct worker *w, enum side side, uint16_t db, uint16_t slot, struct slice key, reply_fn *fn, void *arg)
{
	struct slice words[] = { SLICE_LIT("EXISTS"), key };
	sds s = resp_cat_request(sdsempty(), 2, words);

	upstream_send(node_get(w, w->upstreams[w->route[side][slot]]), db, s, sdslen(s), NULL, 1, fn, arg);
	sdsfree(s);
}

void keywatch_info(struct worker *w, uint16_t node, reply_fn *fn, void *arg)
{
	static const char info[] = "*2\r\n$4\r\nINFO\r\n$11\r\nreplication\r\n";

	upstream_send(node_get(w, w->upstreams[node]), UPSTREAM_ANY_DB, info, sizeof info - 1, NULL, 1, fn, arg);
}

void keywatch_free(struct worker *w)
{
	if (!w->keywatch)
		return;
	side_release(&w->keywatch->side);
	free(w->keywatch);
	w->keywatch = NULL;
}
