/* EXEC of a client that watches keys: it runs on that client's own connection, so everything else of this owner is held back, and what is in flight ends before
 * (race 14): at any time commands go over one connection only, and the effects' order is that of the replies.
 *
 *   open ── EXEC whose watch still holds ──► closed ── nothing in flight ──► running ── its reply ──► open
 *
 * While the gate is closed what comes is queued, in order. A command that runs alone (engine_alone.c) shuts it in the same way, and has no holder. The keys that the transaction wrote are reported on the data connection, since NOLOOP knows that
 * connection only: one report of each such key is an echo, until a PING behind the reply has come back; one more, or one of a key that was not written, is
 * somebody else's. The PING counts as in flight, so no flip happens before. */
#include "proxy/engine_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "backfill/fault.h"
#include "proxy/txn.h"
#include "proxy/watch.h"

struct echo {
	sds key;
	keyhash hash;
	uint16_t slot, db;
	bool seen, written;
};

struct echoes { /* of one EXEC */
	struct echoes *next;
	struct engine *engine;
	uint16_t slot, db;
	enum side side;
	uint32_t n;
	struct echo at[];
};

/* --- echoes --- */

static struct echo *find_echo(struct echoes *s, keyhash h)
{
	for (uint32_t i = 0; i < s->n; i++)
		if (s->at[i].hash.low64 == h.low64 && s->at[i].hash.high64 == h.high64)
			return &s->at[i];
	return NULL;
}

static void expect_echoes(struct engine *e, const struct req *r)
{
	const struct mwrite *mw = r->mw;
	struct echoes **end = &e->gate.echoes, *s;

	if (!mw)
		return;
	s = calloc(1, sizeof *s + mw->nkeys * sizeof *s->at);
	if (!s)
		abort();
	s->engine = e;
	s->slot = r->slot;
	s->db = r->db;
	s->side = slot_authority(e, r->slot);
	for (uint32_t i = 0; i < mw->nkeys; i++) {
		const struct wkey *k = &mw->keys[i];
		if (k->writes && !find_echo(s, k->hash))
			s->at[s->n++] = (struct echo){ .key = sdsnewlen(k->key.p, k->key.n), .hash = k->hash, .slot = k->slot, .db = k->db };
	}
	while (*end)
		end = &(*end)->next;
	*end = e->gate.now = s;
}

bool gate_echo(struct engine *e, enum side side, keyhash h)
{
	struct echo *o;

	for (struct echoes *s = e->gate.echoes; s; s = s->next)
		if (s->side == side && (o = find_echo(s, h)) && !o->seen) {
			o->seen = true;
			return true;
		}
	return false;
}

void gate_wrote(struct engine *e, const struct wkey *keys, uint32_t n)
{
	struct echo *o;

	for (uint32_t i = 0; i < n; i++)
		if (keys[i].writes && (o = find_echo(e->gate.now, keys[i].hash)))
			o->written = true;
}

static void echoes_free(struct echoes *s)
{
	for (uint32_t i = 0; i < s->n; i++)
		sdsfree(s->at[i].key);
	free(s);
}

static void on_echoes_end(void *arg, const struct reply *reply)
{
	struct echoes *s = arg, **at = &s->engine->gate.echoes;
	struct engine *e = s->engine;
	uint16_t slot = s->slot;

	(void)reply; /* lost: the node's slots are compared again anyway */
	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	for (uint32_t i = 0; i < s->n; i++)
		if (s->at[i].seen && !s->at[i].written)
			engine_foreign(e, s->side, true, s->at[i].db, slice(s->at[i].key, sdslen(s->at[i].key)), s->at[i].slot);
	echoes_free(s);
	slot_replied(e, slot);
	authority_replied(e, slot);
	engine_wait_lift(e, slot, 0);
	gate_turn(e);
}

/* Reports are written behind the replies of their cycle: a PING sent now comes back behind them. */
static void end_echoes(struct engine *e)
{
	static const char ping[] = "*1\r\n$4\r\nPING\r\n";
	struct echoes *s = e->gate.now;

	e->gate.now = NULL;
	if (!s)
		return;
	slot_sent(e, s->slot, 1);
	e->io.send(e->io.ctx, s->side, s->db, s->slot, NODE_NONE, ping, sizeof ping - 1, NULL, 1, on_echoes_end, s);
}

/* --- the gate --- */

/* A command that is to run alone goes first: what waits here waits for it, too. */
void gate_open(struct engine *e)
{
	struct slot_wait *w, *next;
	struct req *r;

	e->gate.holder = NULL;
	e->gate.running = false;
	alone_turn(e);
	while (!gate_is_shut(e) && (r = req_list_pop(&e->gate.queue)))
		engine_submit(e, r);
	for (w = e->waits; w && !gate_is_shut(e); w = next) {
		next = w->next;
		engine_wait_lift(e, w->slot, 0);
	}
	line_turn(e);
	changes_gate_opened(e);
}

/* Null is what EXEC answers when something watched has changed. */
static void answer_null(struct engine *e, struct req *r)
{
	struct block *b = block_copy("_\r\n", 3);
	struct reply reply = { .p = b->data, .n = 3, .block = b };

	r->reply = b->data;
	r->reply_len = 3;
	r->reply_block = block_ref(b);
	if (r->mw)
		mirror_replied(e, r, &reply);
	else
		e->io.answer(e->io.ctx, r);
	block_unref(b);
}

/* False: answered null, and nothing is watched any more. */
static bool still_watches(struct engine *e, struct req *r)
{
	if ((r->watch->flips == e->gate.flips || fault("race-14-flip")) && e->io.watch_holds(e->io.ctx, r->watch, slot_authority(e, r->slot), r->slot))
		return true;
	e->io.watch_disarm(r->watch);
	answer_null(e, r);
	return false;
}

void gate_close(struct engine *e, struct req *r)
{
	assert(!e->gate.holder);
	if (!still_watches(e, r))
		return;
	e->gate.holder = r;
	gate_turn(e);
}

void gate_turn(struct engine *e)
{
	struct req *r = e->gate.holder;

	if (!r || e->gate.running || (e->inflight && !fault("race-14-gate")))
		return;
	if (!still_watches(e, r)) {
		gate_open(e);
		return;
	}
	e->gate.running = true;
	if (e->mirroring && r->write)
		mirror_prepare(e, r);
	expect_echoes(e, r);
	engine_transmit(e, r);
}

static void unknown(struct engine *e, struct req *r)
{
	char text[400];

	snprintf(text, sizeof text, "UNKNOWN the connection to %s before the reply came: whether the transaction was executed is unknown", e->gate.why);
	stat_add(&e->stats->unknown_outcome, 1);
	mirror_unknown(e, r, "a transaction's connection was lost");
	engine_answer_error(e, r, text);
	end_echoes(e);
	gate_open(e);
}

static void on_killed(void *arg, const struct reply *reply)
{
	struct req *r = arg;
	struct engine *e = r->engine;
	uint16_t slot = r->slot;

	(void)reply; /* lost: that connection's slots are compared again when it is back */
	slot_replied(e, slot);
	authority_replied(e, slot);
	unknown(e, r);
}

/* Whether it was executed is not known, and it must not be later: until that is sure the keys stay in flight (race 7). */
static void lost(struct engine *e, struct req *r, const struct reply *reply)
{
	stat_add(&e->stats->errors_upstream, 1);
	if (!reply->sent || !r->write) {
		answer_null(e, r);
		end_echoes(e);
		gate_open(e);
		return;
	}
	snprintf(e->gate.why, sizeof e->gate.why, "%s", reply->why);
	if (e->io.watch_kill(e->io.ctx, r->watch, slot_authority(e, r->slot), r->slot, on_killed, r))
		slot_sent(e, r->slot, 1);
	else
		unknown(e, r);
}

void gate_replied(struct engine *e, struct req *r, const struct reply *reply)
{
	assert(e->gate.holder == r && e->gate.running);
	if (!reply->p) {
		lost(e, r, reply);
		return;
	}
	if (engine_is_redirect(reply) && e->io.is_cluster(e->io.ctx, slot_authority(e, r->slot))) {
		e->io.refresh(e->io.ctx, slot_authority(e, r->slot), "a node refused a transaction");
		answer_null(e, r); /* the slot has moved: what was watched there is gone */
	} else {
		r->reply = reply->p;
		r->reply_len = reply->n;
		r->reply_block = reply->block ? block_ref(reply->block) : NULL;
		if (r->mw)
			mirror_replied(e, r, reply);
		else
			e->io.answer(e->io.ctx, r);
	}
	end_echoes(e);
	gate_open(e);
}

void gate_release(struct engine *e)
{
	for (struct echoes *s = e->gate.echoes, *next; s; s = next) {
		next = s->next;
		echoes_free(s);
	}
}
