/* The backfill worker, as far as the engine can tell: scan copies until every slot is done, repairs when asked, in-band after losses, with writes held after
 * more. It reads a token, some time later the value, and hands both over some time after that. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "resp/keyhash.h"
#include "resp/write.h"

#define HOLD_MS 200

bool bulk_read(struct world *w, enum side side, int key, struct value *out)
{
	struct cluster *c = &w->side[side];
	struct server *n = &c->node[c->bulk.route[tag_of(key)]];

	if (c->bulk.generation < n->deposed_before) {
		if (!n->deposed_owns[tag_of(key)])
			return false;
		*out = n->deposed[key]; /* the former primary still answers */
	} else {
		if (&c->node[c->owner[tag_of(key)]] != n || c->moving_to[tag_of(key)] < NODES)
			return false; /* MOVED, ASK */
		node_expire(w, c, n, key);
		*out = n->data[key];
	}
	return true;
}

static struct item *add(struct world *w, int key, bool repair, uint8_t losses)
{
	struct backfill_model *b = &w->backfill;

	if (b->nitems == ITEMS_MAX)
		sim_fail(w, "more copies are under way than the model has room for");
	b->item[b->nitems] = (struct item){ .key = key, .repair = repair, .losses = losses };
	for (enum side s = SIDE_SOURCE; repair && s < SIDES; s++)
		b->item[b->nitems].asked[s] = w->side[s].worker.generation;
	if (w->profile.deaf && w->load) /* it keeps a pace */
		b->item[b->nitems].due_us = w->now_us + (int64_t)rnd(w, 90000);
	return &b->item[b->nitems++];
}

void copies_repair(struct world *w, int key, uint8_t losses)
{
	w->count.repairs++;
	add(w, key, true, losses);
}

/* --- the scan --- */

static void unit_settle(struct world *w, int tag)
{
	struct backfill_model *b = &w->backfill;
	struct unit *u = &b->unit[tag];

	if (u->state != UNIT_OPEN || u->left)
		return;
	u->state = u->broken ? UNIT_TODO : UNIT_DONE;
	if (u->state != UNIT_DONE)
		return;
	trace(w, "the slot of %s is copied", w->key[tag * KEYS_PER_TAG]);
	if (w->side[authority_of(w, tag)].is_cluster)
		engine_slot_done(w->engine, w->slot[tag]);
	else if (copies_done(w))
		engine_slot_done(w->engine, SLOTS);
}

static void unit_step(struct world *w)
{
	struct backfill_model *b = &w->backfill;
	int tag = (int)rnd(w, TAGS);
	struct unit *u = &b->unit[tag];
	enum side from = authority_of(w, tag);
	struct value v;

	if (!b->running || u->state != UNIT_TODO)
		return;
	for (int i = 0; i < KEYS_PER_TAG; i++)
		if (!bulk_read(w, from, tag * KEYS_PER_TAG + i, &v))
			return; /* the probe says that the slot is not here */
	*u = (struct unit){ .state = UNIT_OPEN };
	for (int i = 0; i < KEYS_PER_TAG; i++) {
		bulk_read(w, from, tag * KEYS_PER_TAG + i, &v);
		if (!v.type)
			continue;
		add(w, tag * KEYS_PER_TAG + i, false, 0);
		u->left++;
	}
	unit_settle(w, tag);
}

static void scan_item_end(struct world *w, int key, bool acknowledged)
{
	struct unit *u = &w->backfill.unit[tag_of(key)];

	u->left--;
	u->broken |= !acknowledged;
	unit_settle(w, tag_of(key));
}

void copies_start(struct world *w)
{
	w->backfill.running = true;
	for (int tag = 0; tag < TAGS; tag++)
		if (w->backfill.unit[tag].state != UNIT_DONE)
			w->backfill.unit[tag] = (struct unit){ .state = UNIT_TODO };
}

void copies_forget(struct world *w)
{
	struct backfill_model *b = &w->backfill;

	b->running = false;
	b->nitems = 0;
	b->held_tag = -1;
	memset(b->walk, 0, sizeof b->walk);
}

bool copies_done(const struct world *w)
{
	for (int tag = 0; tag < TAGS; tag++)
		if (w->backfill.unit[tag].state != UNIT_DONE)
			return false;
	return true;
}

bool copies_quiet(const struct world *w)
{
	const struct backfill_model *b = &w->backfill;

	for (int tag = 0; tag < TAGS; tag++)
		if (b->walk[tag].wanted || b->walk[tag].open)
			return false;
	return !b->nitems && (!b->running || copies_done(w));
}

/* --- one copy --- */

static struct copy *copy_of(struct world *w, const struct item *i)
{
	struct copy *c = copy_new(0, key_name(w, i->key), slot_of_key(w, i->key));

	c->repair = i->repair;
	c->losses = i->losses;
	c->from = i->from;
	c->generation = i->generation;
	c->token = i->token;
	c->block = sdsempty();
	w->count.copies++;
	return c;
}

static void item_gone(struct world *w, unsigned at)
{
	struct backfill_model *b = &w->backfill;

	b->item[at] = b->item[--b->nitems];
}

static void offer_inband(struct world *w, unsigned at)
{
	struct item i = w->backfill.item[at];
	struct receiver from;

	i.from = authority_of(w, tag_of(i.key));
	i.generation = w->side[i.from].bulk.generation;
	item_gone(w, at);
	struct copy *c = copy_of(w, &i);
	net_receiver(i.from, &from);
	c->kind = COPY_INBAND;
	c->recipe = RECIPE_DUMP;
	c->ncommands = recipe_read(RECIPE_DUMP, &from, key_name(w, i.key), &c->block);
	w->count.inband++;
	engine_copy(w->engine, c);
}

static void offer_failed(struct world *w, unsigned at)
{
	struct item i = w->backfill.item[at];

	item_gone(w, at);
	if (!i.repair) {
		scan_item_end(w, i.key, false);
		return;
	}
	struct copy *c = copy_of(w, &i);
	c->kind = COPY_FAILED;
	c->why = strdup("its slot is not on the node that was asked");
	engine_copy(w->engine, c);
}

static void let_go(struct world *w, const struct item *i)
{
	if (!i->held)
		return;
	w->backfill.held_tag = -1;
	engine_release(w->engine, slot_of_key(w, i->key));
}

static void compose(struct world *w, const struct item *i, struct copy *c)
{
	struct receiver to;
	enum recipe next;
	const char *why;
	sds payload = value_dump(&i->value), dump = sdsempty(), ttl;

	dump = i->value.type ? resp_cat_bulk(dump, slice(payload, sdslen(payload))) : sdscat(dump, "_\r\n");
	ttl = resp_cat_len(sdsempty(), ':', i->value.type ? i->value.expire_ms : -2);
	struct slice replies[2] = { slice(dump, sdslen(dump)), slice(ttl, sdslen(ttl)) };
	net_receiver(SIDE_OTHER(i->from), &to);
	enum recipe_result r = recipe_compose(RECIPE_DUMP, &to, key_name(w, i->key), replies, 2, node_clock(w, &w->side[i->from]), &c->block,
					      &c->ncommands, &next, &why);
	if (r != RECIPE_OK && r != RECIPE_GONE)
		sim_fail(w, "a value could not be composed: %s", why);
	sdsfree(payload);
	sdsfree(dump);
	sdsfree(ttl);
}

static void offer(struct world *w, unsigned at)
{
	struct item i = w->backfill.item[at];
	struct copy *c = copy_of(w, &i);

	item_gone(w, at);
	c->kind = COPY_APPLY;
	trace(w, "a copy of %s is offered, a %s's", w->key[i.key], i.repair ? "repair" : "scan");
	compose(w, &i, c);
	engine_copy(w->engine, c);
	let_go(w, &i);
}

static void begin(struct world *w, unsigned at)
{
	struct item *i = &w->backfill.item[at];
	keyhash h = keyhash_of(0, key_name(w, i->key));

	i->from = authority_of(w, tag_of(i->key));
	bulk_refresh(w, i->from, i->asked[i->from]);
	i->generation = w->side[i->from].bulk.generation;
	i->token = version_token(engine_versions(w->engine), stripe_of(h.low64), false);
	if (i->token != VERSION_BUSY || w->profile.careless || one_in(w, 8)) { /* no token: the owner refuses what comes of it */
		i->stage = ITEM_READ;
		return;
	}
	i->losses += i->losses < UINT8_MAX;
	i->due_us = w->now_us + 3000;
}

static void hold(struct world *w, struct item *i)
{
	struct backfill_model *b = &w->backfill;

	if (b->held_tag >= 0)
		return;
	b->held_tag = tag_of(i->key);
	b->held_told = false;
	i->stage = ITEM_HOLD;
	engine_hold(w->engine, slot_of_key(w, i->key), HOLD_MS);
}

void copies_held(struct world *w, uint16_t slot, bool ok)
{
	if (tag_index(w, slot) != w->backfill.held_tag)
		return;
	w->backfill.held_told = true;
	w->backfill.held_ok = ok;
}

static void held(struct world *w, struct item *i, unsigned at)
{
	struct backfill_model *b = &w->backfill;

	if (!b->held_told)
		return;
	if (!b->held_ok) {
		b->held_tag = -1;
		i->stage = ITEM_WAIT;
		i->due_us = w->now_us + 5000;
		return;
	}
	i->held = true;
	begin(w, at);
}

void copies_step(struct world *w)
{
	struct backfill_model *b = &w->backfill;

	if (!b->nitems || one_in(w, 4)) {
		unit_step(w);
		return;
	}
	unsigned at = (unsigned)rnd(w, b->nitems);
	while (b->held_tag >= 0 && one_in(w, 2) && b->item[at].stage != ITEM_HOLD && !b->item[at].held)
		at = (unsigned)rnd(w, b->nitems); /* nobody waits longer than for a held slot */
	struct item *i = &b->item[at];
	if (w->now_us < i->due_us)
		return;
	switch (i->stage) {
	case ITEM_WAIT:
		if (fault("race-11-inband"))
			begin(w, at);
		else if (i->losses >= COPY_LOSSES_HELD)
			hold(w, i);
		else if (i->losses >= COPY_LOSSES_BEFORE_INBAND || w->profile.eager)
			offer_inband(w, at);
		else
			begin(w, at);
		break;
	case ITEM_HOLD:
		held(w, i, at);
		break;
	case ITEM_READ:
		if (!bulk_read(w, i->from, i->key, &i->value)) {
			let_go(w, i);
			offer_failed(w, at);
			break;
		}
		i->stage = ITEM_OFFER;
		if (w->profile.slow && (w->profile.late || one_in(w, 4)) && !i->held)
			i->due_us = w->now_us + (int64_t)rnd(w, w->profile.late ? 60000 : 200000); /* a slow connection */
		break;
	case ITEM_OFFER:
		if (w->load && w->profile.late && (atomic_load(&w->stats->dirty_slots) || b->walk[tag_of(i->key)].wanted || b->walk[tag_of(i->key)].open))
			break; /* the worst moment is right behind the walk that made the slot clean */
		offer(w, at);
		break;
	}
}

/* A scan copy came back. */
void copies_copied(struct world *w, struct copy *c)
{
	int key = key_index(w, slice(c->key, c->key_len));

	if (!w->backfill.running) {
		/* the process is being killed */
	} else if (c->result == COPY_APPLIED) {
		scan_item_end(w, key, true);
	} else {
		uint8_t losses = c->losses + (c->result == COPY_STALE && c->losses < UINT8_MAX);
		struct item *i = add(w, key, false, c->result == COPY_TOO_BIG ? COPY_LOSSES_HELD : losses);
		if (c->result != COPY_STALE)
			i->due_us = w->now_us + 10000;
		w->count.stale += c->result == COPY_STALE;
	}
	copy_free(c);
}
