/* Keys and slots whose follower copy may differ, and the copies that make them equal again (compare-and-set, in-band). */
#include "proxy/engine_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "backfill/fault.h"
#include "backfill/large.h"
#include "proxy/journals.h"
#include "proxy/log.h"
#include "resp/write.h"

#define BACKOFF_MIN_US 20000
#define BACKOFF_MAX_US 5000000

bool key_is_synced(const struct engine *e, keyhash h, uint16_t slot)
{
	uint8_t flags = e->slots[slot].flags;

	return (flags & SLOT_SYNCED && !(flags & SLOT_DIRTY)) || known_has(&e->known, h);
}

/* The follower will have this key as the authority has it: in a slot that is not synced that is worth remembering. */
void key_is_whole(struct engine *e, keyhash h, uint16_t slot)
{
	uint8_t flags = e->slots[slot].flags;

	if (e->mirroring && (!(flags & SLOT_SYNCED) || flags & SLOT_DIRTY))
		known_add(&e->known, h);
}

struct dirty_key *key_dirty(const struct engine *e, keyhash h)
{
	return dirty_find(&e->dirty, h);
}

/* May something be queued for the follower now? Else it becomes dirty: memory stays bounded (invariant 6). */
bool follower_takes(const struct engine *e, enum side follower, uint16_t slot)
{
	return !e->finished && e->queued_bytes < e->opt.queue_max && e->io.is_up(e->io.ctx, follower, slot);
}

/* A key that neither side has when the slot is listed is not looked at: an effect that was under way could still make it on one side only. So the walk of a
 * dirty slot begins behind everything that was under way when it became dirty. */
static void walk_step(struct engine *e, uint16_t slot, uint32_t *awaited)
{
	struct slot_state *s = &e->slots[slot];

	if (!(s->flags & SLOT_WALK_DUE) || (awaited && (!*awaited || --*awaited)))
		return;
	if (awaited == &s->await_replies)
		crowd_first(e, slot);
	if (awaited == &s->await_replies)
		s->await_acks = s->unacked;
	if (s->await_replies || s->await_acks)
		return;
	s->flags &= ~SLOT_WALK_DUE;
	e->io.rescan(e->io.ctx, slot);
}

void follower_queued(struct engine *e, uint16_t slot, size_t bytes)
{
	assert(!e->slots[slot].unsettled || e->crowd_now || fault("crowd-order")); /* invariant 2 */
	e->queued++;
	e->queued_bytes += bytes;
	e->slots[slot].unacked++;
}

void follower_acked(struct engine *e, uint16_t slot, size_t bytes)
{
	assert(e->queued > 0 && e->queued_bytes >= bytes && e->slots[slot].unacked > 0);
	e->queued--;
	e->queued_bytes -= bytes;
	e->slots[slot].unacked--;
	walk_step(e, slot, &e->slots[slot].await_acks);
}

void authority_replied(struct engine *e, uint16_t slot)
{
	struct slot_state *s = &e->slots[slot];

	if (__builtin_expect(s->await_synced, 0) && !--s->await_synced)
		s->flags |= SLOT_SYNCED;
	walk_step(e, slot, &s->await_replies);
}

/* --- marks --- */

/* Both: what is read while the authority's connection is lost may be older than what that still brings (race 7). */
static bool both_up(struct engine *e, uint16_t slot)
{
	return e->io.is_up(e->io.ctx, SIDE_SOURCE, slot) && e->io.is_up(e->io.ctx, SIDE_TARGET, slot);
}

static void slot_mark(struct engine *e, uint16_t slot)
{
	struct slot_state *s = &e->slots[slot];

	crowd_first(e, slot);
	s->marks++;
	if (!(s->flags & SLOT_DIRTY)) {
		s->flags |= SLOT_DIRTY;
		e->dirty_slots++;
		if (e->opt.journal)
			journal_slot(e->opt.journal, slot, true);
	}
	if (s->flags & SLOT_RESCANNING)
		return; /* the marks tell at its end that it has to be walked again */
	s->flags |= SLOT_RESCANNING;
	if (!both_up(e, slot) && !fault("race-7-watch")) { /* what others write behind the walk, and before the watch is on, nobody would tell of */
		e->unwatched += !(s->flags & SLOT_UNWATCHED);
		s->flags |= SLOT_UNWATCHED;
		return;
	}
	s->rescan_marks = s->marks;
	s->await_replies = s->inflight;
	s->await_acks = s->inflight || fault("race-2-early") ? 0 : s->unacked;
	if (fault("race-2-early"))
		s->await_replies = 0;
	s->flags |= SLOT_WALK_DUE;
	walk_step(e, slot, NULL);
}

void engine_slots_dirty(struct engine *e, const struct slot_set *slots, const char *why)
{
	unsigned n = 0;

	park_wake_all(e);
	if (!e->mirroring)
		return;
	if (!fault("race-5-versions"))
		version_mark_all(&e->versions); /* races 4 and 5 */
	changes_unknown(&e->changes);
	known_clear(&e->known);         /* exact knowledge of their keys is gone, and cannot be told from others' */
	for (unsigned i = 0; i < SLOTS; i++) {
		if (!(e->slots[i].flags & SLOT_MINE) || (slots && !slot_set_has(slots, i)))
			continue;
		slot_mark(e, (uint16_t)i);
		n++;
	}
	for (struct dirty_key *k = e->dirty.table; k; k = k->hh.next)
		k->marks++; /* a copy that is on its way is older than this (race 4) */
	atomic_store_explicit(&e->stats->dirty_slots, e->dirty_slots, memory_order_release); /* at once: who asked for this may look before the turn ends */
	if (n)
		log_notice("%u slots may differ and are compared again: %s", n, why);
}

void engine_slot_clean(struct engine *e, uint16_t slot)
{
	if (slot == SLOTS) {
		for (uint16_t i = 0; i < SLOTS; i++)
			engine_slot_clean(e, i);
		return;
	}
	struct slot_state *s = &e->slots[slot];
	if (!(s->flags & SLOT_MINE) || !(s->flags & SLOT_RESCANNING))
		return;
	s->flags &= ~SLOT_RESCANNING;
	if (s->marks != s->rescan_marks && !fault("race-4-slot")) { /* marked again meanwhile (race 4) */
		slot_mark(e, slot);
		return;
	}
	if (s->flags & SLOT_DIRTY) {
		s->flags &= ~SLOT_DIRTY;
		e->dirty_slots--;
		if (e->opt.journal)
			journal_slot(e->opt.journal, slot, false);
	}
}

/* What was in flight may have removed a key before the slot was listed: the follower never had it, and would answer the effect differently. */
static void synced_soon(struct engine *e, uint16_t slot)
{
	struct slot_state *s = &e->slots[slot];

	if (s->flags & SLOT_SYNCED)
		return;
	s->await_synced = s->inflight;
	if (!s->await_synced)
		s->flags |= SLOT_SYNCED;
}

void engine_slot_done(struct engine *e, uint16_t slot)
{
	if (!e->mirroring)
		return; /* late: of a migration that was aborted */
	for (uint16_t i = slot == SLOTS ? 0 : slot; i < SLOTS; i++) {
		if (e->slots[i].flags & SLOT_MINE)
			synced_soon(e, (uint16_t)i);
		if (slot != SLOTS)
			break;
	}
}

/* A dirty key is not quiet: verify waits until it is copied. NULL: the table is full. */
static struct dirty_key *remember_dirty(struct engine *e, uint16_t db, struct slice key, keyhash h, uint16_t slot)
{
	struct dirty_key *k = dirty_add(&e->dirty, db, key, h, slot);

	if (!k)
		return NULL;
	k->since_us = e->io.now_us(e->io.ctx);
	e->slots[slot].dirty++;
	if (!fault("journal-off"))
		k->entry = note_owed(e, db, key, slot);
	version_pend(&e->versions, stripe_of(h.low64));
	return k;
}

static void mark(struct engine *e, uint16_t db, struct slice key, keyhash h, uint16_t slot, const char *why, bool hint);

/* What was lately computed from a key that turns out to differ may differ, too (race 12). */
static void mark_derived(struct engine *e, keyhash h, bool hint)
{
	struct derived_command c;

	while (e->derived.used && derived_take(&e->derived, h, &c)) {
		for (unsigned i = 0; i < c.n; i++)
			if (c.keys[i].key && !keyhash_eq(c.keys[i].hash, h))
				mark(e, c.keys[i].db, slice(c.keys[i].key, sdslen(c.keys[i].key)), c.keys[i].hash, c.keys[i].slot, "it was computed from a key that differs", hint);
		derived_command_release(&c);
	}
}

/* The follower's copy of this key may differ from now on. hint: a server said so, and not something of our own. */
static void mark(struct engine *e, uint16_t db, struct slice key, keyhash h, uint16_t slot, const char *why, bool hint)
{
	struct dirty_key *k;

	if (!e->mirroring)
		return;
	crowd_first(e, slot);
	known_remove(&e->known, h);
	if (why)
		log_limited(LOG_VERBOSE, "slot %u: a key is copied again: %s", slot, why);
	k = dirty_find(&e->dirty, h);
	if (!k && (k = remember_dirty(e, db, key, h, slot)))
		k->hint = true;
	if (!fault("race-4-version"))
		version_mark(&e->versions, stripe_of(h.low64)); /* race 4 */
	if (k) {
		k->marks++;
		k->hint &= hint;
		fence_owes(e, k, hint);
	} else {
		slot_mark(e, slot); /* dirty keys fall back to dirty slots (invariant 6) */
	}
	mark_derived(e, h, hint);
}

void mark_key(struct engine *e, uint16_t db, struct slice key, keyhash h, uint16_t slot, const char *why)
{
	mark(e, db, key, h, slot, why, false);
}

void engine_recover(struct engine *e, const struct owed *owed)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		if (!(e->slots[i].flags & SLOT_MINE) || !(owed->everything || slot_set_has(&owed->slots, i)))
			continue;
		e->slots[i].flags |= SLOT_UNWATCHED | SLOT_RESCANNING;
		e->unwatched++;
	}
	engine_slots_dirty(e, owed->everything ? NULL : &owed->slots, owed->everything ? owed->why : "the follower lacked something of them when the last process ended");
	for (const struct owed_key *k = owed->keys; k; k = k->next)
		if (e->slots[k->slot].flags & SLOT_MINE)
			engine_mark(e, k->db, slice(k->key, k->len), k->slot);
}

void engine_node_up(struct engine *e)
{
	for (uint16_t i = 0; e->unwatched && i < SLOTS; i++) {
		if (!(e->slots[i].flags & SLOT_UNWATCHED) || !both_up(e, i))
			continue;
		e->slots[i].flags &= ~(SLOT_UNWATCHED | SLOT_RESCANNING);
		e->unwatched--;
		slot_mark(e, i);
	}
}

void engine_mark(struct engine *e, uint16_t db, struct slice key, uint16_t slot)
{
	mark_key(e, db, key, keyhash_of(db, key), slot, NULL);
}

void engine_foreign(struct engine *e, enum side side, bool home, uint16_t db, struct slice key, uint16_t slot)
{
	keyhash h = keyhash_of(db, key);

	if (!e->mirroring || (e->gate.echoes && gate_echo(e, side, h)))
		return;
	if (side == slot_authority(e, slot) && changes_about(&e->changes, h))
		changes_unknown(&e->changes);
	stat_add(&e->stats->foreign, 1);
	/* A key of which our own script or copy is under way is reported, too: only a key that was at rest has a writer of its own. */
	if (home && side == slot_authority(e, slot) && !dirty_find(&e->dirty, h))
		known_add(&e->foreign, h);
	mark(e, db, key, h, slot, NULL, true);
}

static void forget_dirty(struct engine *e, struct dirty_key *k)
{
	assert(e->slots[k->slot].dirty > 0);
	fence_settled(e, k);
	e->slots[k->slot].dirty--;
	note_paid(e, &k->entry, k->slot);
	version_unpend(&e->versions, stripe_of(k->hash.low64));
	dirty_remove(&e->dirty, k);
}

void dirty_clear(struct engine *e)
{
	for (struct dirty_key *k = e->dirty.table; k; k = k->hh.next) {
		note_paid(e, &k->entry, k->slot);
		version_unpend(&e->versions, stripe_of(k->hash.low64));
	}
	dirty_release(&e->dirty);
	for (unsigned i = 0; i < SLOTS; i++)
		e->slots[i].dirty = 0;
	e->repairs = 0;
	e->fence.owed = 0;
}

/* --- a copy, or an effect that sets the whole value, on its way to the follower --- */

void dirty_applying(struct engine *e, struct dirty_key *k)
{
	k->applying++;
	k->applied = k->marks;
	dirty_set_state(&e->dirty, k, DIRTY_APPLYING, 0);
}

/* The follower's answer: a mark is cleared only if none is newer than what was applied (race 4). */
void dirty_applied(struct engine *e, struct dirty_key *k, bool ok)
{
	int64_t now = e->io.now_us(e->io.ctx);

	if (k->applying)
		k->applying--;
	if (k->applying)
		return;
	if (ok && (k->marks == k->applied || fault("race-4-clear"))) {
		key_is_whole(e, k->hash, k->slot);
		forget_dirty(e, k);
		return;
	}
	if (ok) { /* a copy, but an older one: as good as lost, or a key that is marked by every write to it would never be clean (race 11) */
		if (k->applied >= k->owed)
			fence_settled(e, k);
		if (k->losses < UINT8_MAX)
			k->losses++;
		k->failures = 0;
		dirty_set_state(&e->dirty, k, DIRTY_IDLE, 0);
		return;
	}
	unsigned shift = k->failures < 8 ? k->failures : 8;
	int64_t wait = (int64_t)BACKOFF_MIN_US << shift;
	k->failures++;
	dirty_set_state(&e->dirty, k, DIRTY_IDLE, now + (wait < BACKOFF_MAX_US ? wait : BACKOFF_MAX_US));
}

/* Asks the backfill worker for copies of the keys that are due. */
void dirty_pump(struct engine *e)
{
	int64_t now = e->io.now_us(e->io.ctx);
	struct dirty_key *k;

	if (alone_is_on(e))
		return;
	while (e->repairs < ENGINE_REPAIRS_MAX && (k = dirty_due(&e->dirty, now))) {
		if (fence_postpones(e, k)) {
			dirty_set_state(&e->dirty, k, DIRTY_IDLE, now + BACKOFF_MIN_US);
			continue;
		}
		if (!both_up(e, k->slot)) {
			dirty_set_state(&e->dirty, k, DIRTY_IDLE, now + 200000);
			if (e->dirty.ready.head == NULL || ++e->down_skipped % 256 == 0)
				break; /* the rest next turn: a follower that is gone must not cost the loop */
			continue;
		}
		if (k->hint && glance(e, k))
			continue;
		dirty_set_state(&e->dirty, k, DIRTY_COPYING, 0);
		e->repairs++;
		e->io.repair(e->io.ctx, k->db, slice(k->key, k->len), k->slot, k->losses);
	}
}

/* --- copies --- */

static void cw_free(struct cwrite *w)
{
	for (unsigned i = 0; i < w->reads; i++)
		free(w->read[i].p);
	free(w->read);
	free(w->why);
	free(w);
}

static void on_temporary_gone(void *arg, const struct reply *r)
{
	(void)arg;
	(void)r; /* if it was lost, its TTL removes it */
}

/* A large value that nobody will swap in. */
static void remove_temporary(struct engine *e, const struct copy *c)
{
	enum side follower = SIDE_OTHER(c->from);
	sds key, s;

	if (!c->tmp || e->finished || !e->io.is_up(e->io.ctx, follower, c->slot))
		return;
	key = large_tmp_key(c->slot, c->tmp);
	s = resp_cat_words(sdsempty(), "UNLINK", key, NULL);
	e->io.send(e->io.ctx, follower, c->db, c->slot, NODE_NONE, s, sdslen(s), NULL, 1, on_temporary_gone, e);
	sdsfree(s);
	sdsfree(key);
}

static void on_undone(void *arg, const struct reply *r)
{
	(void)arg;
	(void)r; /* if it did not work, the temporary key's TTL does it */
}

static void undo(struct engine *e, const struct copy *c)
{
	e->io.send(e->io.ctx, SIDE_OTHER(c->from), c->db, c->slot, NODE_NONE, c->undo, sdslen(c->undo), NULL, 1, on_undone, NULL);
}

/* A repair's account is the dirty key's, a scan copy goes back to the backfill worker. */
static void copy_end(struct engine *e, struct copy *c, enum copy_result result, const char *why)
{
	struct dirty_key *k;

	c->result = result;
	if ((why || c->why) && result != COPY_APPLIED && result != COPY_STALE)
		e->io.failing(e->io.ctx, c->from, c->slot, why ? why : c->why);
	if (!c->repair) {
		if (why && !c->why)
			c->why = strdup(why);
		e->io.copied(e->io.ctx, c);
		return;
	}
	if (result != COPY_APPLIED)
		remove_temporary(e, c);
	if (c->undo && result != COPY_APPLIED && !e->finished)
		undo(e, c);
	if (e->repairs)
		e->repairs--;
	k = dirty_find(&e->dirty, c->hash);
	if (k && (k->state == DIRTY_COPYING || k->state == DIRTY_READING)) {
		if (result == COPY_STALE || result == COPY_TOO_BIG) {
			if (k->losses < UINT8_MAX)
				k->losses++;
			if (result == COPY_TOO_BIG)
				k->losses = UINT8_MAX;
			dirty_set_state(&e->dirty, k, DIRTY_IDLE, 0);
		} else {
			k->applying = 1;
			dirty_applied(e, k, false);
		}
	}
	if (result != COPY_STALE && result != COPY_APPLIED)
		log_limited(LOG_VERBOSE, "slot %u: a copy failed: %s", c->slot, why ? why : c->why ? c->why : "the follower does not take it now");
	copy_free(c);
}

/* The authority has no such key: recipe.h composes that as one UNLINK. */
static bool deletes(const struct copy *c)
{
	static const char unlink[] = "*2\r\n$6\r\nUNLINK\r\n";

	return c->ncommands == 1 && sdslen(c->block) > sizeof unlink - 1 && memcmp(c->block, unlink, sizeof unlink - 1) == 0;
}

static void on_copy_reply(void *arg, const struct reply *r)
{
	struct cwrite *w = arg;
	struct engine *e = w->engine;
	struct copy *c = w->copy;
	struct slice key = slice(c->key, c->key_len);
	keyhash h = c->hash;

	w->replies_left--;
	if (fault("skip-if-exists") && r->p && memmem(r->p, r->n, "BUSYKEY", 7)) {
		/* a mutant: what is there is taken to be newer */
	} else if (!r->p || engine_reply_is_error(r)) {
		if (r->p)
			engine_follower_refused(e, w->follower, r);
		if (!w->why)
			w->why = r->p ? strndup(r->p, r->n > 200 ? 200 : r->n - 2) : strdup(r->why);
		w->failed = true;
	} else if (w->replies_left == 0 && c->ncommands > 1 &&
		   !(c->tmp ? large_swapped(slice(r->p, r->n)) : r->p[0] == '*' && !memmem(r->p, r->n, "\r\n-", 3))) {
		if (!w->why)
			w->why = strndup(r->p, r->n > 200 ? 200 : r->n);
		w->failed = true;
	}
	if (w->replies_left)
		return;
	follower_acked(e, c->slot, w->queued);
	version_unpend(&e->versions, stripe_of(h.low64));
	struct dirty_key *k = dirty_find(&e->dirty, h);
	if (w->failed)
		mark_key(e, c->db, key, h, c->slot, w->why);
	else if (!k && !c->brief && w->slot_marks == e->slots[c->slot].marks)
		key_is_whole(e, h, c->slot);
	if (w->applies && k)
		dirty_applied(e, k, !w->failed);
	copy_end(e, c, w->failed ? COPY_ERROR : COPY_APPLIED, w->why);
	cw_free(w);
}

const struct cwrite *copy_write_of(reply_fn *fn, const void *arg)
{
	return fn == on_copy_reply ? arg : NULL;
}

/* Queues the block behind all effects so far: where it stands in the follower's order is exact, by the token or in-band. */
static void apply(struct engine *e, struct cwrite *w)
{
	struct copy *c = w->copy;
	keyhash h = c->hash;
	struct dirty_key *k = dirty_find(&e->dirty, h);

	w->follower = slot_follower(e, c->slot);
	w->replies_left = c->ncommands;
	w->queued = sdslen(c->block);
	w->slot_marks = e->slots[c->slot].marks;
	if (c->uncarried) /* no effect may make a part of it: its writes are copies, too, which tell when it can be carried */
		known_add(&e->foreign, h);
	else if (deletes(c)) /* it expired or was deleted: whoever makes it anew may be a client of ours */
		known_remove(&e->foreign, h);
	w->applies = k != NULL;
	if (k)
		dirty_applying(e, k);
	if (k && c->kind == COPY_INBAND && !fault("race-4-inband"))
		k->applied = w->marks; /* a push between two of its replies (race 4) */
	follower_queued(e, c->slot, w->queued);
	version_pend(&e->versions, stripe_of(h.low64));
	e->io.send(e->io.ctx, w->follower, c->db, c->slot, NODE_NONE, c->block, sdslen(c->block), NULL, c->ncommands, on_copy_reply, w);
	sdsfree(c->block);
	c->block = NULL;
}

static void on_inband_reply(void *arg, const struct reply *r);

static void read_inband(struct engine *e, struct cwrite *w)
{
	struct copy *c = w->copy;

	w->nreads = c->ncommands;
	w->reads = 0;
	w->read_bytes = 0;
	w->too_big = w->failed = false;
	w->read = calloc(w->nreads, sizeof *w->read);
	slot_sent(e, c->slot, 1);
	e->slots[c->slot].own++;
	e->io.send(e->io.ctx, slot_authority(e, c->slot), c->db, c->slot, NODE_NONE, c->block, sdslen(c->block), NULL, c->ncommands, on_inband_reply, w);
	sdsfree(c->block);
	c->block = NULL;
}

static void inband_failed(struct engine *e, struct cwrite *w, enum copy_result result, const char *why)
{
	struct copy *c = w->copy;
	struct dirty_key *k = dirty_find(&e->dirty, c->hash);

	if (!c->repair && k && k->state == DIRTY_READING)
		dirty_set_state(&e->dirty, k, DIRTY_IDLE, 0);
	copy_end(e, c, result, why);
	cw_free(w);
}

/* The value as it was at one point of the data connection's order: composed and queued at that very point of the follower's. */
static void inband_compose(struct engine *e, struct cwrite *w)
{
	struct copy *c = w->copy;
	struct slice key = slice(c->key, c->key_len);
	struct slice *replies = calloc(w->nreads, sizeof *replies);
	struct receiver to;
	enum recipe next = c->recipe;
	const char *why = NULL;

	for (unsigned i = 0; i < w->nreads; i++)
		replies[i] = slice(w->read[i].p, w->read[i].n);
	e->io.receiver(e->io.ctx, slot_follower(e, c->slot), &to);
	c->block = sdsempty();
	enum recipe_result res = recipe_compose(c->recipe, &to, key, replies, w->nreads,
		e->io.clock_ms(e->io.ctx, slot_authority(e, c->slot), c->slot), &c->block, &c->ncommands, &next, &why);
	free(replies);
	for (unsigned i = 0; i < w->nreads; i++)
		free(w->read[i].p);
	free(w->read);
	w->read = NULL;
	w->reads = 0;
	switch (res) {
	case RECIPE_OK:
	case RECIPE_GONE:
		if (follower_takes(e, slot_follower(e, c->slot), c->slot))
			apply(e, w);
		else
			inband_failed(e, w, COPY_REFUSED, NULL);
		break;
	case RECIPE_RETYPE: {
		struct receiver from;
		e->io.receiver(e->io.ctx, slot_authority(e, c->slot), &from);
		c->recipe = next;
		sdsclear(c->block);
		c->ncommands = recipe_read(next, &from, key, &c->block);
		read_inband(e, w);
		break;
	}
	case RECIPE_CANNOT:
		inband_failed(e, w, COPY_TOO_BIG, why);
		break;
	case RECIPE_ERROR:
		inband_failed(e, w, COPY_ERROR, why);
	}
}

static void on_inband_reply(void *arg, const struct reply *r)
{
	struct cwrite *w = arg;
	struct engine *e = w->engine;
	struct copy *c = w->copy;
	uint16_t slot = c->slot;

	crowd_first(e, slot);
	if (w->reads == 0) {
		struct dirty_key *k = dirty_find(&e->dirty, c->hash);
		w->marks = k ? k->marks : 0;
	}
	if (r->p && !w->too_big) {
		w->read_bytes += r->n;
		w->too_big = w->read_bytes > e->opt.inband_max;
		w->failed |= engine_reply_is_error(r);
		w->read[w->reads].p = malloc(r->n);
		memcpy(w->read[w->reads].p, r->p, r->n);
		w->read[w->reads].n = r->n;
	}
	if (!r->p)
		w->failed = true;
	if (++w->reads < w->nreads)
		return;
	slot_replied(e, slot);
	e->slots[slot].own--;
	if (w->failed)
		inband_failed(e, w, COPY_REFUSED, "the authority could not be read");
	else if (w->too_big)
		inband_failed(e, w, COPY_TOO_BIG, NULL);
	else
		inband_compose(e, w);
	authority_replied(e, slot);
	engine_wait_lift(e, slot, 0);
	gate_turn(e);
}

/* Makes the dirty entry a reader of the data connection: effects up to its reply are in the value, later ones follow it. */
static bool begin_inband(struct engine *e, struct copy *c, keyhash h)
{
	struct slice key = slice(c->key, c->key_len);
	struct dirty_key *k = dirty_find(&e->dirty, h);

	if (!k && (k = remember_dirty(e, c->db, key, h, c->slot))) {
		k->marks++;
		known_remove(&e->known, h);
	}
	if (!k || k->state == DIRTY_READING || k->state == DIRTY_APPLYING || (!c->repair && k->state == DIRTY_COPYING))
		return false;
	dirty_set_state(&e->dirty, k, DIRTY_READING, 0);
	return true;
}

static void equal(struct engine *e, struct copy *c, keyhash h)
{
	struct dirty_key *k = dirty_find(&e->dirty, h);

	if (k && !k->applying) /* the token holds, so no mark came since it was read */
		forget_dirty(e, k);
	copy_end(e, c, COPY_APPLIED, NULL);
}

static bool may_copy(struct engine *e, const struct copy *c)
{
	enum side from = slot_authority(e, c->slot);

	crowd_first(e, c->slot);
	if (c->kind == COPY_FAILED || !e->mirroring || alone_is_on(e) || c->from != from || (e->slots[c->slot].flags & SLOT_FENCED && fence_is_proven(e)))
		return false;
	return e->queued_bytes < e->opt.queue_max && both_up(e, c->slot);
}

static bool token_holds(const struct engine *e, const struct copy *c, keyhash h)
{
	uint32_t stripe = stripe_of(h.low64);

	return version_holds(&e->versions, stripe, c->token) || (fault("cas-busy") && c->token == version_token(&e->versions, stripe, false));
}

void engine_copy(struct engine *e, struct copy *c)
{
	keyhash h = c->hash;
	struct slot_state *s = &e->slots[c->slot];

	assert(s->flags & SLOT_MINE);
	if (!may_copy(e, c)) {
		copy_end(e, c, COPY_REFUSED, c->why);
		return;
	}
	if (c->kind != COPY_INBAND && !fault("cas-off") && !fault("skip-if-exists") &&
	    (!token_holds(e, c, h) ||
	     (c->generation != e->io.generation(e->io.ctx, c->from) && !fault("race-8-generation")))) { /* invariant 3, race 8 */
		copy_end(e, c, COPY_STALE, NULL);
		return;
	}
	if (c->kind == COPY_EQUAL) {
		equal(e, c, h);
		return;
	}
	bool moving = s->wait && s->wait->why & WAIT_RESEND; /* the read must not overtake what is sent again */
	if (c->kind == COPY_INBAND && (moving || e->gate.holder || !begin_inband(e, c, h))) { /* a closed gate opens at once: no failure that is waited after */
		copy_end(e, c, moving ? COPY_REFUSED : COPY_STALE, NULL);
		return;
	}
	struct cwrite *w = calloc(1, sizeof *w);
	w->engine = e;
	w->copy = c;
	w->hash = c->hash;
	if (c->kind == COPY_INBAND)
		read_inband(e, w);
	else
		apply(e, w);
}
