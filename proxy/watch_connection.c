/* The connections that clients watch on, at the owner: one is lent to one client at a time; who gives one back leaves nothing watched on it. */
#include "proxy/watch.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "proxy/worker.h"
#include "resp/write.h"

static void on_ignored(void *arg, const struct reply *r)
{
	(void)arg;
	(void)r;
}

/* --- lending --- */

static struct upstream *node_of(struct worker *w, enum side side, uint16_t slot)
{
	return w->upstreams[w->route[side][slot]];
}

static bool side_pushed(void *ctx, struct upstream *u, struct slice push)
{
	(void)ctx;
	(void)u;
	(void)push;
	return false;
}

static void side_up(void *ctx, struct upstream *u)
{
	(void)ctx;
	u->missed = false; /* nothing is mirrored from what it would tell */
}

static void side_lost(void *ctx, struct upstream *u, const char *why, bool was_up)
{
	struct worker *w = ctx;

	(void)was_up;
	fleet_tell_refresh(w, u->side, why);
	for (unsigned i = 0; i < w->nlent; i++)
		if (w->lent[i].u == u && w->lent[i].to)
			w->lent[i].to->broken |= w->lent[i].to->armed;
}

static void owner_init(struct worker *w)
{
	w->watch_owner = w->owner;
	w->watch_owner.pushed = side_pushed;
	w->watch_owner.up = side_up;
	w->watch_owner.lost = side_lost;
	w->watch_owner.latency = NULL;
}

/* One that nobody has, or a new one. */
static struct upstream *lend(struct worker *w, struct watch *v, const struct upstream *node)
{
	unsigned i = 0;

	if (!w->nlent)
		owner_init(w);
	while (i < w->nlent && (w->lent[i].to || w->lent[i].u->side != node->side || strcmp(w->lent[i].u->name, node->name) != 0))
		i++;
	if (i == w->nlent) {
		w->lent = realloc(w->lent, (w->nlent + 1) * sizeof *w->lent);
		if (!w->lent)
			abort();
		w->lent[w->nlent++].u = upstream_new(&w->watch_owner, node->side, node->name);
	}
	w->lent[i].to = v;
	upstream_set_addr(w->lent[i].u, &node->addr, node->addr_len);
	return w->lent[i].u;
}

void watch_disarm(struct watch *v)
{
	static const char unwatch[] = "*1\r\n$7\r\nUNWATCH\r\n";

	if (v->armed && v->u && upstream_is_up(v->u))
		upstream_send(v->u, UPSTREAM_ANY_DB, unwatch, sizeof unwatch - 1, NULL, 1, on_ignored, NULL);
	v->armed = v->broken = false;
}

void watch_give_back(struct worker *w, struct watch *v)
{
	watch_disarm(v);
	for (unsigned i = 0; v->u && i < w->nlent; i++)
		if (w->lent[i].to == v)
			w->lent[i].to = NULL;
	v->u = NULL;
}

void watch_connections_free(struct worker *w)
{
	for (unsigned i = 0; i < w->nlent; i++)
		upstream_free(w->lent[i].u);
	free(w->lent);
	w->lent = NULL;
	w->nlent = 0;
}

/* --- the engine's I/O --- */

static bool is_node_of(struct worker *w, const struct watch *v, enum side side, uint16_t slot)
{
	return v->u && v->u->side == side && strcmp(v->u->name, node_of(w, side, slot)->name) == 0;
}

bool watch_send(void *ctx, struct watch *v, enum side side, uint16_t db, uint16_t slot, const char *p, size_t n, struct block *holder, reply_fn *fn, void *arg)
{
	struct worker *w = ctx;
	bool here = is_node_of(w, v, side, slot);

	if (v->armed && (!here || !upstream_is_up(v->u)))
		v->broken = true;
	if (v->broken)
		return false;
	if (!here) {
		watch_give_back(w, v);
		v->u = lend(w, v, node_of(w, side, slot));
	}
	v->armed = true;
	upstream_send(v->u, db, p, n, holder, 1, fn, arg);
	return true;
}

bool watch_holds(void *ctx, const struct watch *v, enum side side, uint16_t slot)
{
	return v->armed && !v->broken && is_node_of(ctx, v, side, slot) && upstream_is_up(v->u);
}

void watch_exec(void *ctx, struct watch *v, uint16_t db, const char *p, size_t n, struct block *holder, unsigned replies, reply_fn *fn, void *arg)
{
	(void)ctx;
	v->armed = false; /* EXEC ends it */
	upstream_send(v->u, db, p, n, holder, replies, fn, arg);
}

bool watch_kill(void *ctx, struct watch *v, enum side side, uint16_t slot, reply_fn *fn, void *arg)
{
	struct upstream *data = node_of(ctx, side, slot);
	char id[24];

	if (!v->u || !v->u->zombie_id || !upstream_is_up(data) || strcmp(data->run_id, v->u->zombie_run_id) != 0)
		return false;
	snprintf(id, sizeof id, "%lld", (long long)v->u->zombie_id);
	sds s = resp_cat_words(sdsempty(), "CLIENT", "KILL", "ID", id, NULL);
	upstream_send(data, UPSTREAM_ANY_DB, s, sdslen(s), NULL, 1, fn, arg);
	sdsfree(s);
	return true;
}
