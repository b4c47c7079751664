#include "proxy/lookout.h"

#include <stdlib.h>
#include <string.h>

#include "backfill/own_keys.h"
#include "proxy/tracking.h"
#include "proxy/worker.h"
#include "resp/parse.h"
#include "resp/slot.h"

static bool is_watchful(const struct worker *w)
{
	return engine_is_mirroring(w->engine) && w->fleet->config->mirror_tracking;
}

/* --- what is unknown --- */

/* A MOVED that came late may have turned the route to a node that had the slot before: the topology is asked, too. */
static bool topology_has(const struct topology *t, uint16_t slot, const char *name)
{
	return t && t->slot_node[slot] != NODE_NONE && strcmp(t->nodes[t->slot_node[slot]].name, name) == 0;
}

/* What the watch would have told is unknown (design, section 6): the node's slots are compared again. Without a watch the versions move at least. */
static void node_unseen(struct worker *w, const struct upstream *u, const char *why)
{
	struct slot_set slots = { { 0 } };

	for (unsigned i = 0; u->watch && i < SLOTS; i++)
		if (w->upstreams[w->route[u->side][i]] == u || topology_has(w->topology[u->side], (uint16_t)i, u->name))
			slot_set_add(&slots, i);
	engine_slots_dirty(w->engine, &slots, why);
}

void lookout_up(struct worker *w, struct upstream *u)
{
	if (u->missed && engine_is_mirroring(w->engine))
		node_unseen(w, u, "a node was not watched for a while");
	u->missed = false;
}

void lookout_lost(struct worker *w, struct upstream *u, const char *why)
{
	node_unseen(w, u, why);
}

void lookout_flushed(struct worker *w)
{
	static const char why[] = "a FLUSHALL or FLUSHDB was seen";

	fleet_tell_void(w, why);
	engine_slots_dirty(w->engine, NULL, why);
}

/* --- who is watched --- */

/* Behind CLIENT TRACKING on the same connection: it is on. If the connection is lost, lookout_up() comes when it is back. */
static void on_watched(void *arg, const struct reply *r)
{
	struct upstream *u = arg;

	if (r->p)
		lookout_up(u->owner->ctx, u);
}

/* late: slots may have been on their way there already. */
static void watch_node(struct upstream *u, bool late)
{
	static const char ping[] = "*1\r\n$4\r\nPING\r\n";

	u->late = late;
	upstream_watch(u, true);
	if (!upstream_is_up(u))
		return;
	u->late = u->missed = true;
	upstream_send(u, UPSTREAM_ANY_DB, ping, sizeof ping - 1, NULL, 1, on_watched, u);
}

void lookout_begin(struct worker *w, bool on)
{
	bool watch = on && is_watchful(w);

	for (uint16_t i = 0; i < w->nupstreams; i++) {
		struct upstream *u = w->upstreams[i];
		u->missed = u->late = false;
		if (!watch)
			upstream_watch(u, false);
	}
	for (unsigned slot = 0; watch && slot < SLOTS; slot++)
		for (enum side s = SIDE_SOURCE; w->fleet->owner[slot] == w->id && s < SIDES; s++)
			if (w->route[s][slot] != w->nowhere[s])
				upstream_watch(w->upstreams[w->route[s][slot]], true);
}

/* A node that is not up is looked after when it is (u->missed). */
static void slot_comes(struct worker *w, struct upstream *u, uint16_t slot, bool moved)
{
	if (!u->watch) {
		watch_node(u, moved);
	} else if (u->late && !u->missed) {
		slot_set_add(&w->lookout.came, slot);
		w->lookout.any = true;
	}
}

void lookout_route(struct worker *w, enum side side, uint16_t slot, uint16_t node)
{
	struct upstream *u = w->upstreams[node];
	bool moved = w->route[side][slot] != w->nowhere[side];

	if (moved && !upstream_is_up(u))
		u->missed = true;
	w->route[side][slot] = node;
	if (w->fleet->owner[slot] == w->id && node != w->nowhere[side] && is_watchful(w))
		slot_comes(w, u, slot, moved);
	pubsub_look(w->pubsub);
	tracking_look(w);
}

/* Where slots of its own are; everywhere while slots are being moved, so that what others write where one goes to is told before its route names that node. */
void lookout_topology(struct worker *w, const struct topology *t)
{
	bool *home = calloc(w->nupstreams, sizeof *home);

	if (!home)
		abort();
	for (unsigned slot = 0; slot < SLOTS; slot++)
		home[w->route[t->side][slot]] |= w->fleet->owner[slot] == w->id;
	for (uint16_t i = 0; is_watchful(w) && i < t->nnodes; i++) {
		uint16_t node = worker_upstream(w, t->side, t->nodes[i].name);
		struct upstream *u = w->upstreams[node];
		if (t->migrating && !u->watch)
			watch_node(u, true);
		else if (!t->migrating && !home[node])
			upstream_watch(u, false);
	}
	free(home);
}

/* What was written there before is unknown; the slot is marked at once, and cannot be compared before it has moved. */
void lookout_redirected(struct worker *w, struct upstream *u, uint16_t slot)
{
	if (u->watch || !is_watchful(w))
		return;
	watch_node(u, true);
	slot_set_add(&w->lookout.came, slot);
	w->lookout.any = true;
}

void lookout_turn(struct worker *w)
{
	if (!w->lookout.any)
		return;
	engine_slots_dirty(w->engine, &w->lookout.came, "they came to a node that was not watched from the beginning");
	w->lookout = (struct lookout){ 0 };
}

/* --- what is told --- */

/* Keys that somebody else changed; null: everything was flushed. */
bool lookout_pushed(void *ctx, struct upstream *u, struct slice push)
{
	struct worker *w = ctx;
	const char *p = push.p, *end = push.p + push.n;
	struct resp_item head, kind, keys, key;

	p += resp_item(p, end, &head);
	p += resp_item(p, end, &kind);
	if (head.n != 2 || !slice_is(kind.text, "invalidate"))
		return false;
	p += resp_item(p, end, &keys);
	if (keys.type == '_') {
		if (!upstream_take_flush(u))
			lookout_flushed(w);
		return false;
	}
	for (int64_t i = 0; i < keys.n; i++) {
		p += resp_item(p, end, &key);
		uint16_t slot = slot_of(key.text);
		if (w->fleet->owner[slot] != w->id || is_own_key(key.text))
			continue;
		engine_key_changed(w->engine, u->side, key.text, slot);
		for (unsigned db = db_set_next(&w->used, 0); db < DBS_MAX; db = db_set_next(&w->used, db + 1)) /* it names none */
			engine_foreign(w->engine, u->side, w->upstreams[w->route[u->side][slot]] == u, (uint16_t)db, key.text, slot);
	}
	return false;
}
