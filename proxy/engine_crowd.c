/* A write of so many keys that what is to be done for each of them would hold the loop: it is done in slices, one a turn, while others are served.
 *
 *   its keys are sorted by slot ──► sent ── the authority's reply ──► settling: part by part, each of one slot ──► gone
 *
 * Until the reply four bytes a key are kept. The journal holds its slots as a whole: only a process that is killed just then has more to compare than these keys. A part is what
 * the follower gets of some keys of a slot, and a write like any other from then on (engine_spread.c), for a standalone follower, too, which so is not held by it
 * either; or the keys are marked, where the effect cannot be restated.
 *
 * Same order (invariant 2): the parts of a slot belong at the reply's place in the slot's order, though most are made later. So whatever else is judged, marked, read in-band or
 * queued in a slot has the parts of that slot made before (crowd_first), of the older write first. A slot's keys are at hand: that takes no search.
 * Accounting (invariant 4): until its last part is made the write is live. Its stripes are in flight, so that no copy that was read before is taken and nobody finds a key quiet;
 * its slots are `unsettled`, so that no fence passes and nothing comes to rest.
 *
 * What the parts of a DEL are answered is not compared: afterwards the keys are gone on both sides, whatever the follower had. */
#include "proxy/engine_internal.h"

#include <assert.h>
#include <stdlib.h>

#include "proxy/log.h"
#include "resp/slot.h"
#include "resp/words.h"
#include "resp/write.h"

#define CROWD_LEAST 1024              /* written keys, towards a cluster: each of its slots gets a part anyway */
#define CROWD_LEAST_STANDALONE 16384  /* fewer go as one command, which is cheaper and holds the loop some milliseconds */
#define CROWD_PART 512                /* keys */
#define CROWD_SLICE 8192              /* keys of one turn … */
#define CROWD_PART_COST 8             /* … of which a part costs as much as so many */
#define CROWD_SHARE 128               /* … and this part of all that wait, so that they never become more than what comes in so many turns (invariant 6) */

struct crowd_slot {
	uint16_t slot;
	uint32_t next, end; /* of crowd->at: what is not settled yet */
};

struct crowd {
	struct crowd *next;       /* engine->crowds, by the order of the replies */
	struct mwrite *mw;
	uint32_t *at;             /* where the written keys' words begin in the request, by slot, in their order */
	uint32_t n;
	struct crowd_slot *slots; /* by number */
	uint32_t nslots, now, left; /* the turns are at `now`; not settled */
	bool parts;               /* else the keys are marked */
	uint32_t step;            /* words of a key and what belongs to it */
	struct slice name;        /* of the parts, with its header */
	bool every;               /* stripe: there are more keys than stripes */
	uint64_t stripes[STRIPES / 64];
};

/* --- before it is sent --- */

static void crowd_free(struct crowd *c)
{
	free(c->at);
	free(c->slots);
	free(c);
}

static bool writes(const struct key_ref *k)
{
	return k->flags & KEY_WRITES;
}

static uint32_t least_of(struct engine *e, const struct mwrite *mw)
{
	if (e->opt.crowd_least)
		return e->opt.crowd_least;
	return e->io.is_cluster(e->io.ctx, slot_follower(e, mw->slot)) ? CROWD_LEAST : CROWD_LEAST_STANDALONE;
}

/* Of each slot where its keys end, in crowd->at. */
static void list_slots(struct crowd *c, const uint32_t *end)
{
	for (uint32_t i = 0, from = 0; i < SLOTS; from = end[i++])
		c->nslots += end[i] > from;
	if (!(c->slots = malloc(c->nslots * sizeof *c->slots)))
		abort();
	c->left = c->nslots;
	for (uint32_t i = 0, from = 0, n = 0; i < SLOTS; from = end[i++])
		if (end[i] > from)
			c->slots[n++] = (struct crowd_slot){ (uint16_t)i, from, end[i] };
}

/* The keys while they are collected, in their order. */
struct found {
	struct crowd *crowd;
	uint32_t *word; /* where it begins */
	uint16_t *slot;
	uint32_t n;
};

static struct found found_new(struct mwrite *mw, uint32_t n)
{
	struct crowd *c = calloc(1, sizeof *c);
	struct found f = { .crowd = c, .word = malloc(n * sizeof *f.word), .slot = malloc(n * sizeof *f.slot) };

	if (!c || !f.word || !f.slot)
		abort();
	c->mw = mw;
	c->n = n;
	c->every = n >= STRIPES;
	return f;
}

static inline void found_add(struct found *f, struct slice key, const char *word)
{
	struct crowd *c = f->crowd;

	f->word[f->n] = (uint32_t)(word - c->mw->bytes);
	f->slot[f->n++] = slot_of(key);
	if (c->every)
		return;
	uint32_t stripe = stripe_of(keyhash_of(c->mw->db, key).low64);
	c->stripes[stripe / 64] |= UINT64_C(1) << (stripe % 64);
}

/* A counting sort, so that keys of a slot stay in their order. */
static void found_all(struct found *f)
{
	struct crowd *c = f->crowd;
	uint32_t *at = calloc(SLOTS + 1, sizeof *at);

	assert(f->n == c->n);
	if (!at || !(c->at = malloc(c->n * sizeof *c->at)))
		abort();
	for (uint32_t i = 0; i < f->n; i++)
		at[1 + f->slot[i]]++;
	for (uint32_t i = 1; i <= SLOTS; i++)
		at[i] += at[i - 1];
	for (uint32_t i = 0; i < f->n; i++)
		c->at[at[f->slot[i]]++] = f->word[i];
	list_slots(c, at);
	free(at);
	free(f->word);
	free(f->slot);
	c->mw->crowd = c;
	c->mw->keys = c->mw->inline_keys;
}

/* Behind the array's header: the first word's. */
static const char *name_of(const char *request)
{
	return (const char *)memchr(request, '\n', 32) + 1;
}

bool crowd_collect_plain(struct engine *e, struct mwrite *mw)
{
	const struct command *cmd = mw->cmd;
	const char *p = mw->bytes + 1, *next;
	uint32_t words = 0, first = command_first_key(cmd), step;

	if (mw->len > UINT32_MAX)
		return false;
	assert(first && cmd->nspecs == 1 && cmd->specs[0].flags & KEY_WRITES && cmd->canonical == CANON_NONE);
	for (; *p != '\r'; p++)
		words = words * 10 + (uint32_t)(*p - '0');
	step = (uint32_t)cmd->specs[0].b;
	if (words <= first || (words - first) / step < least_of(e, mw))
		return false;
	struct found f = found_new(mw, (words - first) / step);
	p = name_of(mw->bytes);
	for (uint32_t i = 0; i < first; i++)
		resp_word(p, &p);
	while (f.n < f.crowd->n) {
		found_add(&f, resp_word(p, &next), p);
		for (uint32_t i = 1; i < step; i++)
			resp_word(next, &next);
		p = next;
	}
	found_all(&f);
	return true;
}

/* Rows of which more is to be known than what they write keep their keys the other way. */
static bool can_be_one(const struct engine *e, const struct mwrite *mw, uint32_t argc)
{
	return argc > (e->opt.crowd_least ? e->opt.crowd_least : CROWD_LEAST) && mw->len <= UINT32_MAX && mw->cmd->canonical == CANON_NONE &&
	       !(mw->cmd->flags & CMD_READS_OTHERS) && mw->cmd->keys < KEYS_COPY;
}

/* Written keys that are computed from very many others are copied: those are not kept. False: they are not so many. */
static bool leave_inputs_out(struct engine *e, struct mwrite *mw, uint32_t argc)
{
	int nkeys = argc > CROWD_LEAST && mw->cmd->flags & CMD_READS_OTHERS ? engine_keys(e, mw->cmd, argc) : 0;
	uint32_t n = 0;

	for (int i = 0; i < nkeys; i++)
		n += writes(&e->keys[i]);
	if (nkeys <= CROWD_LEAST || n > ENGINE_KEYS_INLINE)
		return false;
	mw->keys = mw->inline_keys;
	for (int i = 0; i < nkeys; i++) {
		struct slice key = e->argv[e->keys[i].index];
		if (writes(&e->keys[i]))
			mw->keys[mw->nkeys++] = (struct wkey){ .key = key, .hash = keyhash_of(mw->db, key), .slot = slot_of(key), .db = mw->db, .writes = true };
	}
	mw->inputs_left_out = true;
	return true;
}

bool crowd_collect(struct engine *e, struct mwrite *mw, uint32_t argc)
{
	uint32_t n = 0;
	int nkeys;

	if (__builtin_expect(!can_be_one(e, mw, argc), 1))
		return leave_inputs_out(e, mw, argc);
	if ((nkeys = engine_keys(e, mw->cmd, argc)) <= 0)
		return false;
	for (int i = 0; i < nkeys; i++)
		n += writes(&e->keys[i]);
	if (n < least_of(e, mw))
		return false;
	struct found f = found_new(mw, n);
	for (int i = 0; i < nkeys; i++) {
		uint32_t at = e->keys[i].index;
		if (writes(&e->keys[i]))
			found_add(&f, e->argv[at], e->argv[at - 1].p + e->argv[at - 1].n + 2);
	}
	found_all(&f);
	return true;
}

static void move_versions(struct engine *e, const struct crowd *c, void (*move)(struct versions *v, uint32_t stripe))
{
	for (uint32_t i = 0; i < STRIPES / 64; i++)
		for (uint64_t bits = c->every ? UINT64_MAX : c->stripes[i]; bits; bits &= bits - 1)
			move(&e->versions, i * 64 + (uint32_t)__builtin_ctzll(bits));
}

void crowd_begin(struct engine *e, const struct crowd *c)
{
	for (uint32_t i = 0; e->opt.journal && !fault("journal-off") && i < c->nslots; i++)
		journal_hold(e->opt.journal, c->slots[i].slot);
	move_versions(e, c, version_begin);
}

void crowd_complete(struct engine *e, const struct crowd *c)
{
	move_versions(e, c, version_complete);
}

void crowd_paid(struct engine *e, struct crowd *c)
{
	for (uint32_t i = 0; e->opt.journal && !fault("journal-off") && i < c->nslots; i++)
		journal_let_go(e->opt.journal, c->slots[i].slot);
	crowd_free(c);
}

/* --- parts --- */

static struct slice key_at(const struct crowd *c, uint32_t i)
{
	const char *behind;

	return resp_word(c->mw->bytes + c->at[i], &behind);
}

/* The part holds its slot in the journal for all its keys. */
static void add_key(struct engine *e, struct mwrite *part, struct slice key)
{
	struct wkey *k = &part->keys[part->nkeys++];

	*k = (struct wkey){ .key = key, .hash = keyhash_of(part->db, key), .slot = part->slot, .db = part->db, .writes = true };
	version_begin(&e->versions, stripe_of(k->hash.low64));
	if (part->nkeys == 1 && e->opt.journal && !fault("journal-off"))
		k->entry = journal_hold(e->opt.journal, k->slot);
}

static void send_part(struct engine *e, struct crowd *c, uint16_t slot, uint32_t from, uint32_t to)
{
	struct effect f = { .kind = EFFECT_IS_BLOCK, .ncommands = 1, .expect = EXPECT_ANY, .whole = true };
	const char *end;

	f.block = resp_cat_len(sdsempty(), '*', 1 + (int64_t)(to - from) * c->step);
	f.block = sdscatlen(f.block, c->name.p, c->name.n);
	struct mwrite *part = spread_part(e, c->mw, slot, to - from, 0, &f);
	for (uint32_t i = from; i < to; i++) {
		const char *begin = c->mw->bytes + c->at[i];
		add_key(e, part, resp_word(begin, &end));
		for (uint32_t word = 1; word < c->step; word++)
			resp_word(end, &end);
		part->effect.block = sdscatlen(part->effect.block, begin, (size_t)(end - begin));
	}
	mirror_effect(e, part);
}

static void mark_keys(struct engine *e, struct crowd *c, uint16_t slot, uint32_t from, uint32_t to)
{
	for (uint32_t i = from; i < to; i++) {
		struct slice key = key_at(c, i);
		mark_key(e, c->mw->db, key, keyhash_of(c->mw->db, key), slot, NULL);
	}
}

static void settled(struct engine *e, struct crowd *c)
{
	struct crowd **at = &e->crowds;

	assert(c != e->crowds || c->next || !e->crowd_keys);
	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	mirror_release(c->mw);
}

/* False: that was the last part, and the crowd has gone. */
static bool settle_part(struct engine *e, struct crowd *c, struct crowd_slot *s)
{
	struct crowd *outer = e->crowd_now;
	uint32_t from = s->next, to = s->end - from > CROWD_PART ? from + CROWD_PART : s->end;

	assert(from < to);
	s->next = to;
	e->crowd_keys -= to - from;
	e->crowd_now = c;
	(c->parts ? send_part : mark_keys)(e, c, s->slot, from, to);
	e->crowd_now = outer;
	if (s->next < s->end)
		return true;
	e->slots[s->slot].unsettled--;
	if (--c->left)
		return true;
	settled(e, c);
	return false;
}

/* --- settling --- */

static struct crowd_slot *find_slot(const struct crowd *c, uint16_t slot)
{
	uint32_t low = 0, high = c->nslots;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (c->slots[middle].slot < slot)
			low = middle + 1;
		else
			high = middle;
	}
	return low < c->nslots && c->slots[low].slot == slot ? &c->slots[low] : NULL;
}

void crowd_settle_slot(struct engine *e, uint16_t slot)
{
	struct crowd_slot *s;

	if (e->crowd_now || fault("crowd-order"))
		return;
	for (struct crowd *c = e->crowds, *next; c; c = next) {
		next = c->next;
		if (!(s = find_slot(c, slot)))
			continue;
		while (s->next < s->end && settle_part(e, c, s))
			;
	}
}

static bool settle_next(struct engine *e)
{
	struct crowd *c = e->crowds;

	while (c->slots[c->now].next == c->slots[c->now].end)
		c->now++;
	return settle_part(e, c, &c->slots[c->now]);
}

void crowd_settle_all(struct engine *e)
{
	while (e->crowds)
		settle_next(e);
}

void crowd_turn(struct engine *e)
{
	int64_t left = e->opt.crowd_least ? 1 : CROWD_SLICE + (int64_t)(e->crowd_keys / CROWD_SHARE);

	while (e->crowds && left > 0) {
		struct crowd *c = e->crowds;
		uint32_t at = c->now;
		left -= CROWD_PART_COST + (c->slots[at].end - c->slots[at].next < CROWD_PART ? c->slots[at].end - c->slots[at].next : CROWD_PART);
		settle_next(e);
	}
}

static void settle_later(struct engine *e, struct crowd *c)
{
	struct crowd **end = &e->crowds;

	while (*end)
		end = &(*end)->next;
	*end = c;
	e->crowd_keys += c->n;
	for (uint32_t i = 0; i < c->nslots; i++)
		e->slots[c->slots[i].slot].unsettled++;
}

/* --- the authority's reply --- */

/* The parts are the request's own command, or its words are restated behind another name (MSETNX: MSET). False: neither. */
static bool find_name(struct crowd *c)
{
	const struct mwrite *mw = c->mw;
	const char *own = name_of(mw->bytes), *name = own, *behind_own, *behind;
	const struct command *cmd = mw->cmd;

	resp_word(own, &behind_own);
	behind = behind_own;
	if (mw->effect.kind == EFFECT_IS_BLOCK) {
		const char *block = mw->effect.block, *end = block + sdslen(mw->effect.block), *tail = mw->bytes + mw->len;
		name = name_of(block);
		cmd = command_find(resp_word(name, &behind));
		if (mw->effect.ncommands != 1 || !cmd || name - block != own - mw->bytes || memcmp(block, mw->bytes, (size_t)(name - block)) != 0 || end - behind != tail - behind_own ||
		    memcmp(behind, behind_own, (size_t)(end - behind)) != 0)
			return false;
	} else if (mw->effect.kind != EFFECT_IS_SAME) {
		return false;
	}
	c->name = slice(name, (size_t)(behind - name));
	c->step = cmd->nspecs ? (uint32_t)cmd->specs[0].b : 0;
	return cmd->rewrite == REWRITE_SPREAD_KEYS;
}

/* Of one key (LMPOP: the LPOP of the list that was served): that one has a part, the others were not touched. False: it is not of that kind. */
static bool settle_served(struct engine *e, struct crowd *c, const struct effect_call *call, struct slice reply)
{
	struct crowd_slot *s;
	bool rest;
	uint32_t n;
	struct effect_part *p = c->mw->effect.kind == EFFECT_IS_BLOCK ? effect_spread(call, reply, &c->mw->effect, &n, &rest) : NULL;

	if (!p)
		return false;
	assert(n == 1 && !rest);
	uint32_t argc = engine_words(e, p->effect.block, sdslen(p->effect.block));
	int nkeys = engine_keys(e, command_find(e->argv[0]), argc);
	assert(nkeys == 1);
	(void)nkeys;
	struct slice served = e->argv[e->keys[0].index];
	crowd_first(e, p->slot);
	spread_begin(c->mw);
	s = find_slot(c, p->slot);
	struct mwrite *part = spread_part(e, c->mw, p->slot, 1, p->traits, &p->effect);
	for (uint32_t i = s->next; i < s->end && !part->nkeys; i++)
		if (slice_eq(key_at(c, i), served))
			add_key(e, part, key_at(c, i));
	assert(part->nkeys == 1);
	mirror_effect(e, part);
	free(p);
	return true;
}

/* A large key that is being copied, if it is one of these: nothing says what became of it. */
static void note_changes(struct engine *e, const struct crowd *c)
{
	for (uint32_t i = 0; i < c->n; i++)
		if (changes_about(&e->changes, keyhash_of(c->mw->db, key_at(c, i))))
			changes_unknown(&e->changes);
}

void crowd_replied(struct engine *e, struct mwrite *mw)
{
	bool by_words = mw->cmd->effect == EFFECT_REWRITTEN; /* else the row says what it does */
	struct effect_call call = mirror_call(e, mw, by_words ? engine_words(e, mw->bytes, mw->len) : 0);
	struct slice reply = slice(mw->reply, mw->reply_len);
	struct crowd *c = mw->crowd;

	effect_of(&call, reply, &mw->effect);
	mw->reply = NULL; /* its block is not kept */
	if (e->changes.on && mw->effect.kind != EFFECT_IS_NOTHING)
		note_changes(e, c);
	if (mw->effect.kind == EFFECT_IS_NOTHING || mw->effect.kind == EFFECT_IS_BROADCAST || !e->mirroring) {
		mirror_release(mw);
		return;
	}
	c->parts = find_name(c) && mw->len <= e->opt.request_max;
	if (c->parts) {
		spread_begin(mw);
	} else if (settle_served(e, c, &call, reply)) {
		mirror_release(mw);
		return;
	} else {
		stat_add(&e->stats->snapshots, 1);
	}
	settle_later(e, c);
}

/* Whether it was executed is not known: all its keys are copied. */
void crowd_unknown(struct engine *e, struct mwrite *mw, const char *why)
{
	log_limited(LOG_VERBOSE, "slot %u and %u more: %u keys are copied again: %s", mw->slot, mw->crowd->nslots - 1, mw->crowd->n, why);
	settle_later(e, mw->crowd);
}

void crowd_release_all(struct engine *e)
{
	for (struct crowd *c = e->crowds, *next; c; c = next) {
		struct mwrite *mw = c->mw;
		next = c->next;
		crowd_free(c); /* the journal goes on holding its slots */
		mw->crowd = NULL;
		mirror_discard(mw);
	}
	e->crowds = NULL;
}
