/* The fence: slots change their authority when nothing of them is in flight, queued or dirty, and that is proven (invariant 7, race 9).
 *
 *   DRAIN ── clients' commands answered ──► PROVE ── a PING came back on every data connection ──► SETTLE ── nothing owed ──► REPLICATE ── WAIT ──► READY ── flip
 *     ▲                                                                                              │                       (new authority)
 *     └─────────────────────────────────── a node was lost ──────────────────────────────────────────┘
 *
 * Between PROVE and SETTLE is the line of race 9: what our writes did has been told by then. What is dirty at that moment is owed, and copied before the flip. A server's later
 * hint is not waited for (keys expire all the time), and not acted on before the flip: the new authority settles it. Every other mark that comes later is owed, too.
 *
 * unfence undoes every stage; the deadline is control's, which knows whether the record was issued. */
#include "proxy/engine_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "backfill/fault.h"
#include "resp/write.h"

static bool is_fenced(const struct engine *e, unsigned slot)
{
	return e->slots[slot].flags & SLOT_FENCED;
}

void engine_fence(struct engine *e, uint64_t flip, const struct slot_set *slots, enum side to, unsigned max_pause_ms)
{
	struct fence *f = &e->fence;

	assert(f->stage == FENCE_NONE);
	*f = (struct fence){ .stage = FENCE_DRAIN, .flip = flip, .to = to, .since_us = e->io.now_us(e->io.ctx), .answers_left = f->answers_left };
	f->deadline_us = f->since_us + (int64_t)max_pause_ms * 1000;
	FOR_SLOTS (i, slots) {
		if (!(e->slots[i].flags & SLOT_MINE) || slot_authority(e, (uint16_t)i) == to)
			continue;
		e->slots[i].flags |= SLOT_FENCED;
		slot_set_add(&f->slots, i);
	}
	fence_turn(e);
}

/* From here on nothing is copied any more: what was marked up to the proof is, later hints are the new authority's (race 9). */
bool fence_is_proven(const struct engine *e)
{
	return e->fence.stage == FENCE_REPLICATE || e->fence.stage == FENCE_READY;
}

/* --- what is owed --- */

static bool is_beyond_line(const struct engine *e, uint16_t slot)
{
	return e->fence.stage >= FENCE_SETTLE && is_fenced(e, slot);
}

static void owe(struct engine *e, struct dirty_key *k)
{
	e->fence.owed += k->owed == 0;
	k->owed = k->marks;
}

/* A mark was added. */
void fence_owes(struct engine *e, struct dirty_key *k, bool hint)
{
	if (!hint && is_beyond_line(e, k->slot))
		owe(e, k);
}

void fence_settled(struct engine *e, struct dirty_key *k)
{
	if (!k->owed)
		return;
	assert(e->fence.owed > 0);
	k->owed = 0;
	e->fence.owed--;
}

/* A copy begun now would be in the way of the flip, and is not owed. */
bool fence_postpones(const struct engine *e, const struct dirty_key *k)
{
	return is_beyond_line(e, k->slot) && (!k->owed || fence_is_proven(e));
}

static void line_draw(struct engine *e)
{
	for (struct dirty_key *k = e->dirty.table; k; k = k->hh.next)
		if (is_fenced(e, k->slot) && !fault("race-9-line"))
			owe(e, k);
}

static void line_erase(struct engine *e)
{
	for (struct dirty_key *k = e->fence.owed ? e->dirty.table : NULL; k; k = k->hh.next)
		fence_settled(e, k);
	assert(e->fence.owed == 0);
}

/* Clients' commands are on their way, or a node is not connected: it could not be asked for a proof, and what it would have told is missed. */
static bool is_draining(const struct engine *e)
{
	if (e->gate.holder || alone_is_on(e)) /* the servers' part of what runs alone is in no slot's account */
		return true;
	FOR_SLOTS (i, &e->fence.slots) {
		const struct slot_state *s = &e->slots[i];
		assert(s->inflight >= s->own);
		if (s->inflight > s->own || (s->wait && s->wait->why & WAIT_RESEND))
			return true;
	}
	return !e->io.are_up(e->io.ctx, &e->fence.slots);
}

static bool is_settled(const struct engine *e)
{
	FOR_SLOTS (i, &e->fence.slots) {
		const struct slot_state *s = &e->slots[i];
		if (s->inflight || s->unacked || s->unsettled || s->flags & SLOT_DIRTY)
			return false;
	}
	return e->fence.owed == 0;
}

static void on_proof(void *arg, const struct reply *r)
{
	struct engine *e = arg;
	struct fence *f = &e->fence;

	/* a fence that was undone meanwhile: the stage is another, the answer is only counted */
	assert(f->answers_left > 0);
	f->answers_left--;
	if (!r->p) {
		f->failed = true;
		snprintf(f->why, sizeof f->why, "%s", r->why);
	} else if (engine_reply_is_error(r)) {
		f->failed = true;
		snprintf(f->why, sizeof f->why, "a node answered %.*s", (int)(r->n > 120 ? 120 : r->n - 2), r->p);
	} else if (f->stage == FENCE_REPLICATE && r->n >= 2 && r->p[0] == ':' && r->p[1] == '0') {
		f->failed = true;
		snprintf(f->why, sizeof f->why, "no replica of the new authority acknowledged within the pause");
	}
}

static void prove(struct engine *e)
{
	static const char ping[] = "*1\r\n$4\r\nPING\r\n";
	struct fence *f = &e->fence;

	f->stage = FENCE_PROVE;
	for (enum side s = SIDE_SOURCE; s < SIDES && !fault("race-9-ping"); s++)
		f->answers_left += e->io.send_each(e->io.ctx, s, false, ping, sizeof ping - 1, on_proof, e);
}

static void replicate(struct engine *e)
{
	struct fence *f = &e->fence;
	int64_t left_ms = (f->deadline_us - e->io.now_us(e->io.ctx)) / 1000;
	char ms[24];

	f->stage = FENCE_REPLICATE;
	snprintf(ms, sizeof ms, "%lld", (long long)(left_ms > 1 ? left_ms : 1));
	if (fault("race-3-wait"))
		return;
	sds s = resp_cat_words(sdsempty(), "WAIT", "1", ms, NULL);
	f->answers_left += e->io.send_each(e->io.ctx, f->to, true, s, sdslen(s), on_proof, e);
	sdsfree(s);
}

void fence_turn(struct engine *e)
{
	struct fence *f = &e->fence;

	if (f->stage == FENCE_NONE || f->stage == FENCE_READY || f->answers_left)
		return;
	if (f->failed || fault("fence-drain")) {
		f->stage = FENCE_READY;
		e->io.fenced(e->io.ctx, f->flip, !f->failed, f->why);
		return;
	}
	if (is_draining(e)) {
		line_erase(e);
		f->stage = FENCE_DRAIN;
		return;
	}
	if (f->stage == FENCE_PROVE) {
		f->stage = FENCE_SETTLE;
		line_draw(e);
	}
	if (f->stage >= FENCE_SETTLE && !is_settled(e)) {
		f->stage = FENCE_SETTLE;
		return;
	}
	if (f->stage == FENCE_DRAIN) {
		prove(e);
		if (!f->answers_left)
			fence_turn(e); /* nobody had to be asked */
		return;
	}
	if (f->stage == FENCE_SETTLE)
		replicate(e);
	if (f->answers_left)
		return;
	f->stage = FENCE_READY;
	e->io.fenced(e->io.ctx, f->flip, true, NULL);
}

bool engine_is_fencing(const struct engine *e)
{
	return e->fence.stage != FENCE_NONE;
}

static void count_held(const struct engine *e, const struct req *r, int64_t now, struct fence_result *out)
{
	int64_t held = now - (r->since_us > e->fence.since_us ? r->since_us : e->fence.since_us), bucket = held / 100;

	out->held++;
	out->histogram[bucket < FLIP_BUCKETS ? bucket : FLIP_BUCKETS - 1]++;
	if (held > out->pause_max_us)
		out->pause_max_us = held;
}

static void lift(struct engine *e, struct fence_result *out)
{
	int64_t now = e->io.now_us(e->io.ctx);
	struct slot_wait *w, *next;

	if (out)
		*out = (struct fence_result){ .held = 0 };
	for (w = e->waits; w && out; w = w->next) {
		if (!is_fenced(e, w->slot))
			continue;
		for (struct req *r = w->queue.head; r; r = r->link)
			count_held(e, r, now, out);
	}
	for (struct req *r = out ? e->line.head : NULL; r; r = r->link)
		count_held(e, r, now, out);
	for (struct req *r = out ? e->turned.head : NULL; r; r = r->link)
		count_held(e, r, now, out);
	FOR_SLOTS (i, &e->fence.slots)
		e->slots[i].flags &= ~SLOT_FENCED;
	for (w = e->waits; w; w = next) {
		next = w->next;
		engine_wait_lift(e, w->slot, 0);
	}
	line_turn(e);
	line_erase(e);
	/* answers still to come are counted down by on_proof; a next fence waits for them */
	e->fence.stage = FENCE_NONE;
	e->fence.failed = false;
}

void engine_flip(struct engine *e, uint64_t flip, struct fence_result *out)
{
	struct fence *f = &e->fence;

	assert(f->stage == FENCE_READY && f->flip == flip);
	(void)flip;
	FOR_SLOTS (i, &f->slots)
		atomic_store(&e->authority[i], f->to);
	e->gate.flips++;
	known_clear(&e->foreign); /* it was about the former authority's other writers */
	lift(e, out);
	engine_unseen(e); /* who waits asks the new authority, and is told by its watch from now on */
}

void engine_unfence(struct engine *e, uint64_t flip)
{
	if (e->fence.stage != FENCE_NONE && e->fence.flip == flip)
		lift(e, NULL);
}
