#include "proxy/lookout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backfill/fault.h"
#include "backfill/own_keys.h"
#include "proxy/discovery_parse.h"
#include "proxy/tracking.h"
#include "proxy/worker.h"
#include "resp/parse.h"
#include "resp/slot.h"

static bool is_watchful(const struct worker *w)
{
	return engine_is_mirroring(w->engine) && w->fleet->config->mirror_tracking;
}

static bool is_everywhere(const struct worker *w, enum side side)
{
	return w->lookout.side[side].everywhere || w->fleet->nworkers == 1;
}

static bool is_own(const struct worker *w, unsigned slot)
{
	return w->fleet->owner[slot] == w->id;
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

void lookout_flushed(struct worker *w)
{
	static const char why[] = "a FLUSHALL or FLUSHDB was seen";

	fleet_tell_void(w, why);
	engine_slots_dirty(w->engine, NULL, why);
}

void lookout_turn(struct worker *w)
{
	if (!w->lookout.any_came)
		return;
	engine_slots_dirty(w->engine, &w->lookout.came, "they were moved, or were to be, and not every node was watched");
	memset(&w->lookout.came, 0, sizeof w->lookout.came);
	w->lookout.any_came = false;
}

/* --- is a side whole? --- */

static bool is_proving(const struct worker *w, enum side side)
{
	for (uint16_t i = 0; i < w->nupstreams; i++)
		if (w->upstreams[i]->side == side && w->upstreams[i]->watch && w->upstreams[i]->proofs)
			return true;
	return false;
}

/* By force what others write may be missed, but not what is known to have been. */
bool lookout_is_ready(const struct worker *w)
{
	for (enum side s = SIDE_SOURCE; is_watchful(w) && s < SIDES; s++)
		if (!w->lookout.side[s].whole && (!w->lookout.forced || is_proving(w, s)))
			return false;
	return true;
}

static void not_whole(struct worker *w, enum side side)
{
	w->lookout.side[side].whole = false;
	w->lookout.side[side].spoiled = true;
}

/* Why a side cannot be whole now; "": it may be in a moment. */
static void what_lacks(const struct worker *w, enum side side, char *why, size_t n)
{
	const struct lookout_side *s = &w->lookout.side[side];
	bool coming = s->asked || is_proving(w, side);

	snprintf(why, n, "%s", "");
	for (uint16_t i = 0; i < w->nupstreams; i++) {
		const struct upstream *u = w->upstreams[i];
		if (u->side != side || !u->watch)
			continue;
		coming |= u->state == UPSTREAM_CONNECTING || u->state == UPSTREAM_GREETING;
		if (u->state == UPSTREAM_IDLE || u->state == UPSTREAM_DOWN)
			snprintf(why, n, "%s %s: a data connection is not up", side_name(side), u->name);
	}
	if (!*why && !coming)
		snprintf(why, n, "%s", *s->differs ? s->differs : "a node was lost, or came, or could not turn CLIENT TRACKING on, meanwhile");
}

/* The flip that waits is told, unless it is only a matter of answers that are on their way. */
static void answer_flip(struct worker *w)
{
	char why[480] = "";

	if (!w->lookout.flip)
		return;
	lookout_turn(w); /* what is marked has to show in the gates before the flip goes on */
	bool ready = lookout_is_ready(w);
	for (enum side s = SIDE_SOURCE; !ready && !w->lookout.forced && !*why && s < SIDES; s++)
		if (!w->lookout.side[s].whole)
			what_lacks(w, s, why, sizeof why);
	if (!ready && !*why)
		return;
	fleet_tell_watched(w, w->lookout.flip, ready, why);
	w->lookout.flip = 0;
}

/* Does the node have other slots of this worker than those whose route names it? */
static void compare(struct worker *w, const struct upstream *u, struct slice reply)
{
	struct lookout_side *s = &w->lookout.side[u->side];
	struct slot_set has, moving;

	if (!cluster_nodes_claims(reply, &has, &moving)) {
		size_t n = reply.n > 2 && reply.n < 100 ? reply.n - 2 : 0;
		snprintf(s->differs, sizeof s->differs, "%s %s does not tell its slots (CLUSTER NODES): %.*s", side_name(u->side), u->name, (int)n, reply.p);
		s->silent = true;
		return;
	}
	for (unsigned i = 0; i < SLOTS; i++) {
		bool routed = w->upstreams[w->route[u->side][i]] == u, moves = slot_set_has(&moving, i);
		if (!is_own(w, i) || (!moves && slot_set_has(&has, i) == routed))
			continue;
		if (moves)
			slot_set_add(&s->moving, i);
		if (!*s->differs)
			snprintf(s->differs, sizeof s->differs, moves ? "slot %u of the %s is being moved, %s says: let that end" : "slot %u of the %s: %s and the topology differ about who has it", i,
				 side_name(u->side), u->name);
	}
}

/* One that was not moved in the end, but taken back, may have been written where it did not go. In the middle of its move it cannot be compared, so it is marked behind that. */
static void mark_rested(struct worker *w, struct lookout_side *s)
{
	for (unsigned i = 0; i < SLOTS / 64; i++) {
		uint64_t rested = s->spoiled || s->silent ? 0 : s->on_way.bits[i] & ~s->moving.bits[i]; /* else not all have told theirs */
		w->lookout.came.bits[i] |= rested;
		w->lookout.any_came |= rested != 0;
		s->on_way.bits[i] = (s->on_way.bits[i] | s->moving.bits[i]) & ~rested;
	}
}

static void ask(struct worker *w, enum side side);

static void on_claims(void *arg, const struct reply *r)
{
	struct upstream *u = arg;
	struct worker *w = u->owner->ctx;
	struct lookout_side *s = &w->lookout.side[u->side];

	s->asked--;
	if (r->p)
		compare(w, u, slice(r->p, r->n));
	else
		s->spoiled = true;
	if (s->asked)
		return;
	s->whole = !s->spoiled && (!*s->differs || fault("lookout-claims"));
	mark_rested(w, s);
	if (*s->differs && !s->wished)
		fleet_tell_refresh(w, u->side, s->differs);
	s->wished |= *s->differs != '\0';
	if (s->spoiled)
		ask(w, u->side);
	answer_flip(w);
}

/* Only when all are watched: else a slot may go, unseen, from one that was not asked yet to one that was. */
static void ask(struct worker *w, enum side side)
{
	static const char nodes[] = "*2\r\n$7\r\nCLUSTER\r\n$5\r\nNODES\r\n";
	struct lookout_side *s = &w->lookout.side[side];

	if (!is_watchful(w) || !is_everywhere(w, side) || s->whole || s->asked || !w->topology[side])
		return;
	for (uint16_t i = 0; i < w->nupstreams; i++) {
		const struct upstream *u = w->upstreams[i];
		if (u->side == side && u->watch && (!upstream_is_up(u) || u->proofs || u->missed))
			return;
	}
	s->spoiled = s->silent = false;
	memset(&s->moving, 0, sizeof s->moving);
	s->differs[0] = '\0';
	s->whole = !w->topology[side]->cluster; /* a standalone server has all slots, always */
	for (uint16_t i = 0; !s->whole && i < w->nupstreams; i++) {
		struct upstream *u = w->upstreams[i];
		if (u->side != side || !u->watch)
			continue;
		s->asked++;
		upstream_send(u, UPSTREAM_ANY_DB, nodes, sizeof nodes - 1, NULL, 1, on_claims, u);
	}
}

/* --- who is watched --- */

/* Behind CLIENT TRACKING, on the same connection, whatever the answer is: it is on, or was refused. If the connection is lost, it is proven when it is back; if the server was busy, choose() tries again. */
static void on_proof(void *arg, const struct reply *r)
{
	struct upstream *u = arg;
	struct worker *w = u->owner->ctx;

	u->proofs--;
	if (!r->p || u->proofs || !u->watch || !engine_is_mirroring(w->engine))
		return;
	if (u->missed && !u->watch_busy && !fault("lookout-missed"))
		node_unseen(w, u, "a node was not watched for a while");
	u->missed = u->watch_busy;
	ask(w, u->side);
	answer_flip(w);
}

static void prove(struct upstream *u)
{
	static const char ping[] = "*1\r\n$4\r\nPING\r\n";

	u->proofs++;
	upstream_send(u, UPSTREAM_ANY_DB, ping, sizeof ping - 1, NULL, 1, on_proof, u);
}

/* missed: slots may have been on their way there already. */
static void watch(struct worker *w, struct upstream *u, bool missed)
{
	not_whole(w, u->side);
	upstream_watch(u, true);
	u->missed |= missed;
	if (upstream_is_up(u))
		prove(u);
}

static void unwatch(struct worker *w, struct upstream *u)
{
	not_whole(w, u->side);
	upstream_watch(u, false);
	u->missed = false;
}

/* Where slots of its own are; everywhere, if that is so, at all nodes of the topology, but for those without slots of its own that do not answer: nobody could move one there. */
static bool *wanted_nodes(struct worker *w, enum side side)
{
	const struct topology *t = w->topology[side];
	bool *wanted;

	for (uint16_t i = 0; t && i < t->nnodes; i++)
		worker_upstream(w, side, t->nodes[i].name); /* so that each has its place */
	wanted = calloc(w->nupstreams, sizeof *wanted);
	if (!wanted)
		abort();
	for (unsigned i = 0; i < SLOTS; i++)
		wanted[w->route[side][i]] |= is_own(w, i);
	for (uint16_t i = 0; t && is_everywhere(w, side) && i < t->nnodes; i++)
		wanted[worker_upstream(w, side, t->nodes[i].name)] |= t->nodes[i].up;
	wanted[w->nowhere[side]] = false;
	return wanted;
}

/* One that was busy when the watch was to begin is asked again. */
static void choose(struct worker *w, enum side side, bool missed)
{
	bool *wanted = wanted_nodes(w, side);

	for (uint16_t i = 0, n = w->nupstreams; i < n; i++) {
		struct upstream *u = w->upstreams[i];
		if (u->side != side || (!wanted[i] && !u->watch))
			continue;
		if (!wanted[i])
			unwatch(w, u);
		else if (!u->watch || (upstream_is_up(u) && u->missed && !u->proofs))
			watch(w, u, missed);
		if (wanted[i] && !upstream_is_up(u))
			upstream_open(u);
	}
	free(wanted);
	if (!is_everywhere(w, side))
		not_whole(w, side);
	ask(w, side);
	answer_flip(w);
}

void lookout_begin(struct worker *w, bool on)
{
	for (uint16_t i = 0; i < w->nupstreams; i++)
		unwatch(w, w->upstreams[i]);
	memset(&w->lookout.came, 0, sizeof w->lookout.came);
	w->lookout.any_came = false;
	for (enum side s = SIDE_SOURCE; s < SIDES; s++) {
		memset(&w->lookout.side[s].on_way, 0, sizeof w->lookout.side[s].on_way);
		if (on && is_watchful(w))
			choose(w, s, false);
	}
}

void lookout_everywhere(struct worker *w, enum side side, bool on)
{
	w->lookout.side[side].everywhere = on;
	if (is_watchful(w))
		choose(w, side, true);
}

void lookout_flip(struct worker *w, uint64_t flip, bool force)
{
	w->lookout.flip = 0; /* not before both sides have begun */
	w->lookout.forced = force;
	for (enum side s = SIDE_SOURCE; s < SIDES; s++) {
		w->lookout.side[s].everywhere = true;
		w->lookout.side[s].wished = false;
		if (is_watchful(w))
			choose(w, s, true);
	}
	w->lookout.flip = flip;
	answer_flip(w);
}

static void slot_comes(struct worker *w, struct upstream *u, uint16_t slot, bool moved)
{
	if (!u->watch) {
		watch(w, u, moved || upstream_is_up(u));
	} else if (moved && (u->proofs || !upstream_is_up(u))) {
		u->missed = true;
	} else if (moved && !w->lookout.side[u->side].whole) {
		slot_set_add(&w->lookout.came, slot);
		w->lookout.any_came = !fault("lookout-came");
	}
}

/* What others write there before it is watched will be unknown. */
void lookout_routed(struct worker *w, enum side side, uint16_t slot)
{
	uint16_t node = w->route[side][slot];
	struct upstream *u = w->upstreams[node];
	bool moved = w->topology[side] != NULL; /* else it is the first that is known of it */

	if (moved && !upstream_is_up(u))
		u->missed = true;
	if (is_own(w, slot) && node != w->nowhere[side] && is_watchful(w))
		slot_comes(w, u, slot, moved);
}

void lookout_topology(struct worker *w, enum side side)
{
	w->lookout.side[side].wished = false;
	if (is_watchful(w))
		choose(w, side, true);
}

/* Only now is the predecessor gone for sure: what was read meanwhile is worth nothing (race 7). What was missed is marked when the watch is on: with the greeting, or when that is proven. */
void lookout_up(struct worker *w, struct upstream *u)
{
	static const struct slot_set none;
	bool on = u->greeted_watch || !u->watch, missed = u->missed && engine_is_mirroring(w->engine);

	if (missed && on)
		node_unseen(w, u, "a node was not watched for a while");
	else if (missed)
		engine_slots_dirty(w->engine, &none, "");
	u->missed &= !on;
	if (u->watch)
		prove(u);
}

void lookout_lost(struct worker *w, struct upstream *u, const char *why)
{
	if (u->watch)
		not_whole(w, u->side);
	node_unseen(w, u, why);
	answer_flip(w);
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
		if (!is_own(w, slot) || is_own_key(key.text))
			continue;
		engine_key_changed(w->engine, u->side, key.text, slot);
		for (unsigned db = db_set_next(&w->used, 0); db < DBS_MAX; db = db_set_next(&w->used, db + 1)) /* it names none */
			engine_foreign(w->engine, u->side, w->upstreams[w->route[u->side][slot]] == u, (uint16_t)db, key.text, slot);
	}
	return false;
}
