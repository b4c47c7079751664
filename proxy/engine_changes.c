/* A large key that is written to while it is copied: what writes touch is noted, and reads of it are made on the data connection, where
 * the order alone tells which of the noted writes they have seen (race 11). */
#include "proxy/engine_internal.h"

#include <assert.h>
#include <stdlib.h>

void engine_follow(struct engine *e, uint16_t db, struct slice key)
{
	if (key.n)
		changes_begin(&e->changes, db, keyhash_of(db, key));
	else
		changes_end(&e->changes);
}

/* Tells who copies a large key in chunks what was written of it. */
void mirror_note_changes(struct engine *e, const struct mwrite *mw)
{
	const struct effect *f = &mw->effect;

	if (f->kind == EFFECT_IS_BROADCAST)
		changes_unknown(&e->changes);
	for (uint32_t i = 0; i < mw->nkeys; i++) {
		const struct wkey *k = &mw->keys[i];
		if (!k->writes || !changes_about(&e->changes, k->hash))
			continue;
		if (f->kind == EFFECT_IS_SNAPSHOT)
			changes_unknown(&e->changes);
		else
			changes_note(&e->changes, k->key, f->kind == EFFECT_IS_SAME ? slice(mw->bytes, mw->len) : slice(f->block, sdslen(f->block)),
				     slice(mw->reply, mw->reply_len));
		return; /* a key that stands there twice was written once */
	}
}

static void tell(struct engine *e, uint16_t slot, bool read_failed, sds replies)
{
	unsigned writes = 0;
	sds elements = NULL;
	bool known = changes_take(&e->changes, &elements, &writes) && !read_failed;

	if (!known) {
		sdsfree(elements);
		elements = NULL;
	}
	e->io.changed(e->io.ctx, slot, elements, writes, known, replies);
}

void engine_changes(struct engine *e, uint16_t slot)
{
	tell(e, slot, false, NULL);
}

/* Reads of the followed key, under way or behind the gate. */
struct reading {
	struct engine *e;
	uint16_t slot;
	unsigned left;
	bool failed;
	sds replies;
	sds request; /* until it is sent */
};

static void reading_end(struct reading *g)
{
	if (g->failed) {
		sdsfree(g->replies);
		g->replies = NULL;
	}
	tell(g->e, g->slot, g->failed, g->replies);
	sdsfree(g->request);
	free(g);
}

static void on_reading(void *arg, const struct reply *r)
{
	struct reading *g = arg;
	struct engine *e = g->e;
	uint16_t slot = g->slot;

	if (!r->p || sdslen(g->replies) + r->n > CHANGES_READ_MAX)
		g->failed = true;
	else
		g->replies = sdscatlen(g->replies, r->p, r->n);
	if (--g->left)
		return;
	assert(e->slots[slot].inflight > 0);
	slot_replied(e, slot);
	reading_end(g);
	authority_replied(e, slot);
	if (!e->slots[slot].inflight)
		engine_wait_lift(e, slot, 0);
	gate_turn(e);
}

static void reading_send(struct engine *e, struct reading *g)
{
	const struct slot_state *s = &e->slots[g->slot];

	/* It must not overtake what is sent again, and not delay a flip. */
	if (!e->changes.on || e->changes.unknown || (s->wait && s->wait->why & WAIT_RESEND) || s->flags & SLOT_FENCED) {
		g->failed = true;
		reading_end(g);
		return;
	}
	slot_sent(e, g->slot, 1);
	e->io.send(e->io.ctx, slot_authority(e, g->slot), e->changes.db, g->slot, NODE_NONE, g->request, sdslen(g->request), NULL, g->left, on_reading, g);
}

void engine_read_followed(struct engine *e, uint16_t slot, struct slice request, unsigned replies)
{
	struct reading *g = malloc(sizeof *g);

	if (!g)
		abort();
	*g = (struct reading){ .e = e, .slot = slot, .left = replies, .replies = sdsempty(), .request = sdsnewlen(request.p, request.n) };
	if (!gate_is_shut(e)) {
		reading_send(e, g);
		return;
	}
	assert(!e->gate.reading); /* one is asked for at a time */
	e->gate.reading = g;
}

void changes_gate_opened(struct engine *e)
{
	struct reading *g = e->gate.reading;

	if (!g || gate_is_shut(e))
		return;
	e->gate.reading = NULL;
	reading_send(e, g);
}

void changes_release(struct engine *e)
{
	struct reading *g = e->gate.reading;

	changes_end(&e->changes);
	if (g) {
		sdsfree(g->replies);
		sdsfree(g->request);
		free(g);
	}
}
