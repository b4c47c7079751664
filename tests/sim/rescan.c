/* Dirty slots: both sides are walked, and what differs is marked (race 2). The slot is clean only if neither side's topology changed meanwhile (race 8). */
#include "sim.h"

#include <string.h>

#include "resp/keyhash.h"

#define LOOKS 4

void rescan_want(struct world *w, uint16_t slot)
{
	w->backfill.walk[tag_index(w, slot)].wanted = true;
}

void rescan_topology_changed(struct world *w, enum side side)
{
	(void)side;
	for (int tag = 0; tag < TAGS; tag++) {
		struct walk *k = &w->backfill.walk[tag];
		k->wanted |= k->open;
		k->open = false;
	}
}

static void walk_open(struct world *w, int tag)
{
	struct walk *k = &w->backfill.walk[tag];
	enum side from = authority_of(w, tag);
	uint32_t keys = 0;
	struct value a, b;

	for (enum side s = SIDE_SOURCE; s < SIDES; s++)
		bulk_refresh(w, s, w->side[s].worker.generation);
	for (int i = 0; i < KEYS_PER_TAG; i++) {
		if (!bulk_read(w, from, tag * KEYS_PER_TAG + i, &a) || !bulk_read(w, SIDE_OTHER(from), tag * KEYS_PER_TAG + i, &b))
			return;
		if (fault("race-2-one-side"))
			b.type = TYPE_NONE;
		keys |= (uint32_t)(a.type || b.type) << i;
	}
	w->count.walks++;
	*k = (struct walk){ .open = true, .keys = keys, .key = -1 };
}

static void key_done(struct walk *k)
{
	k->keys &= ~(1u << k->key);
	k->key = -1;
}

/* One look: token, authority, follower, the same token. */
static void key_step(struct world *w, int tag, struct walk *k)
{
	int key = tag * KEYS_PER_TAG + k->key;
	uint64_t token = version_token(engine_versions(w->engine), stripe_of(keyhash_of(0, key_name(w, key)).low64), true);
	struct value other;

	if (k->stage == 0) {
		k->token = token;
		k->from = authority_of(w, tag);
		k->stage = token == VERSION_BUSY ? 2 : 1;
		if (k->stage == 1 && !bulk_read(w, k->from, key, &k->view))
			k->stage = 2;
		return;
	}
	if (k->stage == 1 && bulk_read(w, SIDE_OTHER(k->from), key, &other) && token == k->token && k->from == authority_of(w, tag)) {
		if (!value_equal(&k->view, &other))
			engine_mark(w->engine, 0, key_name(w, key), w->slot[tag]);
		key_done(k);
		return;
	}
	k->stage = 0;
	if (++k->tries < LOOKS)
		return;
	engine_mark(w->engine, 0, key_name(w, key), w->slot[tag]); /* one copy too many does no harm */
	key_done(k);
}

void rescan_step(struct world *w)
{
	int tag = (int)rnd(w, TAGS);
	struct walk *k = &w->backfill.walk[tag];

	if (!k->open) {
		if (k->wanted && (!w->profile.deaf || one_in(w, 40))) /* its thread may be busy */
			walk_open(w, tag);
	} else if (k->key >= 0) {
		key_step(w, tag, k);
	} else if (k->keys) {
		k->key = __builtin_ctz(k->keys);
		k->stage = k->tries = 0;
	} else {
		k->open = false;
		if (!k->wanted)
			engine_slot_clean(w->engine, w->slot[tag]);
	}
}
