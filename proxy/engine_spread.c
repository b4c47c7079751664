/* A write with keys of several slots, which a standalone authority has executed as one, towards a follower that is a cluster: each slot gets its part (effect_spread), as a
 * write of its own from here on: judged, queued, compared, acknowledged by itself. Written keys without a part are dirty. Of a transaction each command is such a
 * part, and may be spread in turn. With mirror-ack both the client's answer waits for the last part. */
#include "proxy/engine_internal.h"

#include <assert.h>
#include <stdlib.h>

struct spread_answer {
	struct req *req;
	uint32_t left; /* parts, and the write that is spread */
};

void spread_released(struct engine *e, struct spread_answer *a)
{
	if (--a->left)
		return;
	engine_answer(e, a->req);
	free(a);
}

void spread_begin(struct mwrite *mw)
{
	if (!mw->answer_held)
		return;
	assert(!mw->spread);
	if (!(mw->spread = malloc(sizeof *mw->spread)))
		abort();
	*mw->spread = (struct spread_answer){ .req = mw->req, .left = 1 };
	mw->answer_held = false;
}

struct mwrite *spread_part(struct engine *e, const struct mwrite *mw, uint16_t slot, uint32_t nkeys, uint32_t traits, const struct effect *effect)
{
	struct mwrite *part = mirror_new(e);

	part->block = block_ref(mw->block);
	part->bytes = mw->bytes;
	part->len = mw->len;
	part->cmd = mw->cmd;
	part->slot = slot;
	part->db = mw->db;
	part->traits = traits;
	part->effect = *effect;
	part->sent_ms = mw->sent_ms;
	part->begun = true;
	part->keys = nkeys > ENGINE_KEYS_INLINE ? calloc(nkeys, sizeof *part->keys) : part->inline_keys;
	if (!part->keys)
		abort();
	part->spread = mw->spread;
	if (part->spread)
		part->spread->left++;
	return part;
}

/* The version that was begun for the key, and its entry in the journal, go over with it. */
void spread_key(struct mwrite *part, struct wkey *k)
{
	part->keys[part->nkeys++] = *k;
	k->writes = false;
	k->entry = 0;
}

/* The keys' places in the write, by slot and in their order: found once, since each may be of a part of its own. */
struct placed {
	uint32_t slot, at;
};

static int by_slot(const void *a, const void *b)
{
	const struct placed *x = a, *y = b;

	if (x->slot != y->slot)
		return x->slot < y->slot ? -1 : 1;
	return x->at < y->at ? -1 : x->at > y->at;
}

static struct placed *place_keys(const struct mwrite *mw)
{
	struct placed *p = malloc(mw->nkeys * sizeof *p);

	if (!p)
		abort();
	for (uint32_t i = 0; i < mw->nkeys; i++)
		p[i] = (struct placed){ mw->keys[i].slot, i };
	qsort(p, mw->nkeys, sizeof *p, by_slot);
	return p;
}

static uint32_t first_of(const struct placed *p, uint32_t n, uint16_t slot)
{
	uint32_t low = 0;

	while (low < n) {
		uint32_t middle = low + (n - low) / 2;
		if (p[middle].slot < slot)
			low = middle + 1;
		else
			n = middle;
	}
	return low;
}

static struct mwrite *part_of_slot(struct engine *e, struct mwrite *mw, const struct placed *placed, const struct effect_part *p)
{
	uint32_t first = first_of(placed, mw->nkeys, p->slot), n = 0;

	while (first + n < mw->nkeys && placed[first + n].slot == p->slot)
		n++;
	struct mwrite *part = spread_part(e, mw, p->slot, n, p->traits, &p->effect);
	part->checks = mw->checks ? (uint8_t)n : 0;
	for (uint32_t i = first; i < first + n; i++) {
		if (mw->checks)
			part->expires[part->nkeys] = mw->expires[placed[i].at];
		spread_key(part, &mw->keys[placed[i].at]);
	}
	return part;
}

static void mark_rest(struct engine *e, const struct mwrite *mw)
{
	for (uint32_t i = 0; i < mw->nkeys; i++) {
		if (!mw->keys[i].writes)
			continue;
		stat_add(&e->stats->snapshots, 1);
		mark_key(e, mw->keys[i].db, mw->keys[i].key, mw->keys[i].hash, mw->keys[i].slot, NULL);
	}
}

bool mirror_spread(struct engine *e, struct mwrite *mw, const struct effect_call *call, struct slice reply)
{
	struct effect_part *parts;
	uint32_t n;
	bool rest;

	if ((mw->effect.kind != EFFECT_IS_SAME && mw->effect.kind != EFFECT_IS_BLOCK) || !e->mirroring || mw->len > e->opt.request_max || !mirror_spans_slots(e, mw))
		return false;
	parts = effect_spread(call, reply, &mw->effect, &n, &rest);
	if (!parts)
		return false; /* its keys are copied */
	spread_begin(mw);
	struct placed *placed = place_keys(mw);
	for (uint32_t i = 0; i < n; i++)
		mirror_effect(e, part_of_slot(e, mw, placed, &parts[i])); /* which notes its changes */
	free(placed);
	free(parts);
	if (e->changes.on)
		mirror_note_changes(e, mw);
	if (rest)
		mark_rest(e, mw);
	mirror_release(mw);
	return true;
}
