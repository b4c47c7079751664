/* The watch of single keys, where that of everything is not on: a side connection to each node that serves a key somebody waits for, with CLIENT TRACKING of the
 * keys that it reads. EXISTS reads one; the server then tells of its next change, once. Hidden from it are changes that no tracking tells of (consumer groups). */
#include <assert.h>
#include <stdlib.h>

#include "proxy/worker.h"
#include "resp/slot.h"
#include "resp/write.h"

struct keywatch {
	struct upstream_owner owner;
	_Atomic int64_t latency_us; /* nobody looks at it */
	char name[80];
	struct upstream **nodes;
	unsigned n;
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

static void on_up(void *ctx, struct upstream *u)
{
	(void)ctx;
	(void)u; /* what waits in its queue goes out now */
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
	k->owner = w->owner;
	snprintf(k->name, sizeof k->name, "%s-keys", w->name);
	k->owner.client_name = k->name;
	k->owner.by_key = true;
	k->owner.before_write = NULL; /* it reads only */
	k->owner.formers = NULL;
	k->owner.pushed = on_changed;
	k->owner.up = on_up;
	k->owner.lost = on_lost;
	k->owner.latency_us = &k->latency_us;
	return k;
}

static struct upstream *node_get(struct worker *w, const struct upstream *data)
{
	struct keywatch *k = w->keywatch ? w->keywatch : (w->keywatch = keywatch_new(w));
	struct upstream *u;

	for (unsigned i = 0; i < k->n; i++) {
		u = k->nodes[i];
		if (u->side == data->side && strcmp(u->name, data->name) == 0) {
			upstream_set_addr(u, &data->addr, data->addr_len);
			return u;
		}
	}
	k->nodes = realloc(k->nodes, (k->n + 1) * sizeof *k->nodes);
	if (!k->nodes)
		abort();
	u = k->nodes[k->n++] = upstream_new(&k->owner, data->side, data->name);
	upstream_set_addr(u, &data->addr, data->addr_len);
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
	struct keywatch *k = w->keywatch;

	for (unsigned i = 0; k && i < k->n; i++)
		upstream_close(k->nodes[i]);
	for (unsigned i = 0; k && i < k->n; i++)
		upstream_free(k->nodes[i]);
	if (k)
		free(k->nodes);
	free(k);
	w->keywatch = NULL;
}
