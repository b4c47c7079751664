/* A transaction as the mirror sees it: one write with the keys of all its commands. Nothing of it can come between two of its commands on either side, so
 * what has to be known about each write is asked inside: the probe of its effect, and PEXPIRETIME of its keys (race 1), stand right behind it in the block. The
 * client does not get those answers (txn.h, `hidden`). The follower gets one MULTI … EXEC with the effects of all commands, the same questions behind them;
 * where one of the effects cannot be sent, what the transaction wrote is copied. */
#include "proxy/engine_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "proxy/txn.h"
#include "resp/convert.h"
#include "resp/slot.h"
#include "resp/write.h"

#define WHOLE_SEARCH_MAX 256 /* keys of a block in which is looked for one that was set before */

static const char multi[] = "*1\r\n$5\r\nMULTI\r\n", exec[] = "*1\r\n$4\r\nEXEC\r\n";

struct block_call {
	const struct command *cmd; /* of the canonical form */
	size_t at, len;            /* in the write's bytes */
	uint32_t first_key, nkeys;
	uint32_t traits;
	uint8_t checks;            /* PEXPIRETIMEs behind it */
	bool probe;
	struct effect effect;
	struct slice reply;        /* while EXEC's reply is looked at */
	struct slice asked;        /* the answers of its checks, one behind the other */
};

struct block_want { /* what one effect, or the questions behind it, must be answered by the follower */
	uint32_t elements;
	enum effect_expect how;
	int64_t n;
	uint64_t digest;
	bool compare;
};

struct mblock {
	struct block_call *calls;
	uint32_t n;
	struct block_want *wants;
	uint32_t nwants;
};

void multi_trim(struct mblock *b)
{
	if (!b)
		return;
	for (uint32_t i = 0; i < b->n; i++)
		sdsfree(b->calls[i].effect.block);
	free(b->calls);
	b->calls = NULL;
	b->n = 0;
}

size_t multi_kept(const struct mblock *b)
{
	return b ? sizeof *b + b->nwants * sizeof *b->wants : 0;
}

void multi_release(struct mblock *b)
{
	if (!b)
		return;
	multi_trim(b);
	free(b->wants);
	free(b);
}

/* --- before the authority --- */

/* One command of the block, looked at as a write of its own. */
static struct mwrite part_of(const struct mwrite *mw, const struct block_call *c)
{
	return (struct mwrite){ .engine = mw->engine, .cmd = c->cmd, .slot = mw->slot, .db = mw->db, .sent_ms = mw->sent_ms, .bytes = mw->bytes + c->at, .len = c->len,
		.keys = mw->keys + c->first_key, .nkeys = c->nkeys, .traits = c->traits, .checks = c->checks, .effect = c->effect };
}

/* The commands one behind the other, relative expiry made absolute; where each begins is noted. */
static sds canonical(struct engine *e, struct mwrite *mw, const struct req *r)
{
	sds out = sdsempty();

	for (uint32_t i = 0, n = 0; i < r->txn->n; i++) {
		const struct txn_command *q = &r->txn->commands[i];
		if (q->local)
			continue;
		struct block_call *c = &mw->multi->calls[n++];
		struct mwrite part = { .engine = e, .cmd = q->cmd, .slot = mw->slot, .db = mw->db, .sent_ms = mw->sent_ms };
		c->cmd = q->cmd;
		c->at = sdslen(out);
		if (q->cmd->canonical == CANON_NONE || !mirror_canonical(e, &part, engine_words(e, r->bytes + q->at, q->len), &out, &c->cmd))
			out = sdscatlen(out, r->bytes + q->at, q->len);
		c->len = sdslen(out) - c->at;
	}
	return out;
}

static void add_keys(struct engine *e, struct mwrite *mw, struct block_call *c, uint32_t argc, uint32_t *cap)
{
	struct mwrite part = { .engine = e, .cmd = c->cmd, .slot = mw->slot, .db = mw->db };

	mirror_collect_keys(e, &part, argc);
	c->first_key = mw->nkeys;
	c->nkeys = part.nkeys;
	if (mw->nkeys + part.nkeys > *cap) {
		*cap = 2 * (mw->nkeys + part.nkeys);
		mw->keys = realloc(mw->keys, *cap * sizeof *mw->keys);
		if (!mw->keys)
			abort();
	}
	for (uint32_t i = 0; i < part.nkeys; i++) /* the block's slot is that of its first key */
		part.keys[i].slot = slot_of(part.keys[i].key);
	if (part.nkeys)
		memcpy(mw->keys + mw->nkeys, part.keys, part.nkeys * sizeof *part.keys);
	mw->nkeys += part.nkeys;
	if (part.keys != part.inline_keys)
		free(part.keys);
}

/* Appends the command and what is asked behind it. Its keys pointed into `from`, and point into `out` as an offset until that is complete. */
static sds compose(struct engine *e, struct mwrite *mw, struct block_call *c, uint32_t argc, sds from, sds out, uint32_t *cap)
{
	add_keys(e, mw, c, argc, cap);
	struct mwrite part = part_of(mw, c);
	struct effect_call call = mirror_call(e, &part, argc);
	c->traits = part.traits = effect_traits(&call);
	c->checks = mirror_checks_needed(e, &part);
	size_t at = sdslen(out);
	out = sdscatlen(out, from + c->at, c->len);
	c->probe = effect_probe(&call, &out);
	for (uint32_t i = 0; i < c->checks; i++)
		out = mirror_cat_check(out, &part.keys[i]);
	for (uint32_t i = 0; i < c->nkeys; i++)
		part.keys[i].key.p = (const char *)(uintptr_t)(at + (size_t)(part.keys[i].key.p - (from + c->at)));
	c->at = at;
	return out;
}

void multi_prepare(struct engine *e, struct mwrite *mw, struct req *r)
{
	struct mblock *b = calloc(1, sizeof *b);
	uint32_t cap = 0;

	if (!b || !(b->calls = calloc(r->txn->sent, sizeof *b->calls)))
		abort();
	b->n = r->txn->sent;
	mw->multi = b;
	mw->keys = NULL;
	sds from = canonical(e, mw, r), out = sdsnewlen(multi, sizeof multi - 1);
	for (uint32_t i = 0; i < b->n; i++) {
		struct block_call *c = &b->calls[i];
		uint32_t argc = engine_words(e, from + c->at, c->len);
		e->expiring |= mirror_may_set_expiry(c->cmd, argc);
		out = compose(e, mw, c, argc, from, out, &cap);
	}
	out = sdscatlen(out, exec, sizeof exec - 1);
	sdsfree(from);
	block_unref(mw->block);
	mw->block = block_copy(out, sdslen(out));
	mw->bytes = mw->block->data;
	mw->len = sdslen(out);
	sdsfree(out);
	for (uint32_t i = 0; i < mw->nkeys; i++)
		mw->keys[i].key.p = mw->bytes + (uintptr_t)mw->keys[i].key.p;
	for (uint32_t i = 0, n = 0; i < r->txn->n; i++)
		if (!r->txn->commands[i].local) {
			r->txn->commands[i].hidden = b->calls[n].checks + (b->calls[n].probe ? 1u : 0u);
			n++;
		}
}

/* How many answers MULTI, the commands, what is asked behind them, and EXEC get. */
uint32_t multi_replies(const struct req *r)
{
	uint32_t n = 2 + r->txn->sent;

	for (uint32_t i = 0; i < r->txn->n; i++)
		n += r->txn->commands[i].hidden;
	return n;
}

/* --- what the follower gets --- */

/* Each command's reply and what was asked behind it. False: not an array of as many. */
static bool take_replies(struct mwrite *mw)
{
	struct mblock *b = mw->multi;
	const char *p = mw->reply, *end = mw->reply + mw->reply_len;
	struct resp_item head;
	uint64_t want = 0;

	p += resp_item(p, end, &head);
	for (uint32_t i = 0; i < b->n; i++)
		want += 1u + b->calls[i].probe + b->calls[i].checks;
	if (head.type != '*' || (uint64_t)head.n != want)
		return false;
	for (uint32_t i = 0; i < b->n; i++) {
		struct block_call *c = &b->calls[i];
		c->reply = slice(p, resp_value_len(p, end));
		p += c->reply.n;
		c->asked = slice(p, 0);
		for (uint32_t k = 0; k < c->checks + (c->probe ? 1u : 0u); k++)
			p += resp_value_len(p, end);
		c->asked.n = (size_t)(p - c->asked.p);
	}
	return true;
}

/* Keys that something before in the block sets whole: the follower has them by then. */
static void note_whole(struct mwrite *mw, uint32_t call)
{
	struct mblock *b = mw->multi;
	struct block_call *c = &b->calls[call];

	if (mw->nkeys > WHOLE_SEARCH_MAX)
		return;
	for (uint32_t i = 0; i < c->nkeys; i++) {
		struct wkey *k = &mw->keys[c->first_key + i];
		for (uint32_t j = 0; j < call && !k->whole; j++) {
			const struct block_call *before = &b->calls[j];
			for (uint32_t m = 0; before->effect.whole && m < before->nkeys; m++) {
				const struct wkey *o = &mw->keys[before->first_key + m];
				k->whole |= o->writes && o->hash.low64 == k->hash.low64 && o->hash.high64 == k->hash.high64;
			}
		}
	}
}

static bool has_effect(const struct block_call *c)
{
	return c->effect.kind == EFFECT_IS_SAME || c->effect.kind == EFFECT_IS_BLOCK || c->effect.kind == EFFECT_IS_SNAPSHOT;
}

/* The effect of each command; how many keys have one. */
static uint32_t restate_calls(struct engine *e, struct mwrite *mw)
{
	struct mblock *b = mw->multi;
	uint32_t writes = 0;

	for (uint32_t i = 0; i < b->n; i++) {
		struct block_call *c = &b->calls[i];
		struct mwrite part = part_of(mw, c);
		struct effect_call call = mirror_call(e, &part, engine_words(e, part.bytes, part.len));
		if (c->probe)
			call.probe = slice(c->asked.p, resp_value_len(c->asked.p, c->asked.p + c->asked.n));
		effect_of(&call, c->reply, &c->effect);
		if (!has_effect(c))
			continue;
		if (e->gate.now)
			gate_wrote(e, part.keys, part.nkeys);
		note_whole(mw, i);
		for (uint32_t k = 0; k < part.nkeys; k++)
			writes += part.keys[k].writes;
	}
	return writes;
}

static enum verdict judge_calls(struct engine *e, struct mwrite *mw)
{
	struct mblock *b = mw->multi;
	enum verdict worst = mw->len > e->opt.request_max ? SNAPSHOT : SEND;

	for (uint32_t i = 0; i < b->n; i++) {
		struct mwrite part = part_of(mw, &b->calls[i]);
		if (!has_effect(&b->calls[i]))
			continue;
		part.reply = b->calls[i].reply.p;
		part.reply_len = b->calls[i].reply.n;
		if (e->changes.on)
			mirror_note_changes(e, &part);
		enum verdict v = mirror_decide(e, &part);
		if (v > worst)
			worst = v;
	}
	return worst;
}

static void want_add(struct mblock *b, struct block_want want)
{
	b->wants[b->nwants++] = want;
}

/* The effect's commands without their own MULTI and EXEC. */
static sds cat_effect(struct mblock *b, const struct mwrite *part, const struct block_call *c, sds out, unsigned *ncommands)
{
	const struct effect *f = &c->effect;
	struct block_want want = { .elements = 1, .how = f->expect, .n = f->expect_n, .digest = f->expect_digest, .compare = part->compare };

	if (f->kind == EFFECT_IS_SAME) {
		out = sdscatlen(out, part->bytes, part->len);
	} else if (f->ncommands == 1) {
		out = sdscatlen(out, f->block, sdslen(f->block));
	} else {
		assert(f->ncommands > 2 && memcmp(f->block, multi, sizeof multi - 1) == 0);
		out = sdscatlen(out, f->block + sizeof multi - 1, sdslen(f->block) - (sizeof multi - 1) - (sizeof exec - 1));
		want.elements = f->ncommands - 2;
	}
	if (want.how == EXPECT_SAME) {
		want.how = EXPECT_DIGEST;
		want.digest = resp_reply_digest(c->reply);
	}
	*ncommands += want.elements;
	want_add(b, want);
	return out;
}

static uint64_t digest_of(const char *p, size_t n, uint32_t elements)
{
	if (elements == 1)
		return resp_reply_digest(slice(p, n));
	sds all = resp_cat_len(sdsempty(), '*', elements);

	all = sdscatlen(all, p, n);
	uint64_t digest = resp_reply_digest(slice(all, sdslen(all)));
	sdsfree(all);
	return digest;
}

static sds cat_checks(struct mblock *b, const struct mwrite *part, const struct block_call *c, sds out, unsigned *ncommands)
{
	const char *p = c->asked.p, *end = c->asked.p + c->asked.n;

	if (!c->effect.unproven || !c->checks)
		return out;
	if (c->probe)
		p += resp_value_len(p, end);
	for (uint32_t i = 0; i < c->checks; i++)
		out = mirror_cat_check(out, &part->keys[i]);
	*ncommands += c->checks;
	want_add(b, (struct block_want){ .elements = c->checks, .how = EXPECT_DIGEST, .digest = digest_of(p, (size_t)(end - p), c->checks), .compare = true });
	return out;
}

/* One transaction with all effects, and what each of them must be answered. */
static void restate(struct engine *e, struct mwrite *mw)
{
	struct mblock *b = mw->multi;
	sds out = sdsnewlen(multi, sizeof multi - 1);
	unsigned ncommands = 2;

	if (!(b->wants = calloc(2 * (size_t)b->n, sizeof *b->wants)))
		abort();
	for (uint32_t i = 0; i < b->n; i++) {
		struct block_call *c = &b->calls[i];
		if (!has_effect(c))
			continue;
		struct mwrite part = part_of(mw, c);
		mirror_before_send(e, &part);
		out = cat_effect(b, &part, c, out, &ncommands);
		out = cat_checks(b, &part, c, out, &ncommands);
	}
	mw->effect = (struct effect){ .kind = EFFECT_IS_BLOCK, .block = sdscatlen(out, exec, sizeof exec - 1), .ncommands = ncommands, .expect = EXPECT_ANY };
	mw->compare = true;
}

/* Keys of several slots, towards a cluster: no transaction there can have them all. Each command is mirrored as if it had come by itself, in their order. */
static void spread(struct engine *e, struct mwrite *mw)
{
	struct mblock *b = mw->multi;

	spread_begin(mw);
	for (uint32_t i = 0; i < b->n; i++) {
		struct block_call *c = &b->calls[i];
		if (!has_effect(c) || !c->nkeys)
			continue;
		struct mwrite *part = spread_part(e, mw, mw->keys[c->first_key].slot, c->nkeys, c->traits, &c->effect);
		c->effect.block = NULL;
		part->cmd = c->cmd;
		part->bytes += c->at;
		part->len = c->len;
		part->digest = resp_reply_digest(c->reply);
		part->checks = c->checks;
		const char *p = c->asked.p, *end = p + c->asked.n;
		for (uint32_t k = 0, n; k < c->checks + (c->probe ? 1u : 0u); k++, p += n) {
			n = (uint32_t)resp_value_len(p, end);
			if (!c->probe || k)
				part->expires[k - c->probe] = mirror_expire_of(p, n);
		}
		for (uint32_t k = 0; k < c->nkeys; k++) {
			mw->keys[c->first_key + k].whole = false; /* what is before in the transaction is judged by itself */
			spread_key(part, &mw->keys[c->first_key + k]);
		}
		struct effect_call call = mirror_call(e, part, engine_words(e, part->bytes, part->len));
		if (!mirror_spread(e, part, &call, c->reply))
			mirror_effect(e, part);
	}
	mirror_release(mw);
}

/* What failed wrote nothing: its keys may even be of a database that no server has. */
static void mark_written(struct engine *e, struct mwrite *mw)
{
	for (uint32_t i = 0; i < mw->multi->n; i++) {
		struct mwrite part = part_of(mw, &mw->multi->calls[i]);
		if (has_effect(&mw->multi->calls[i]))
			mirror_mark_written(e, &part, NULL);
	}
}

/* EXEC's reply is there. */
void multi_replied(struct engine *e, struct mwrite *mw)
{
	uint32_t writes = take_replies(mw) ? restate_calls(e, mw) : 0; /* or it was aborted: nothing happened */

	if (!writes || !e->mirroring) {
		mirror_release(mw);
		return;
	}
	mirror_crowds_first(e, mw);
	if (mw->len <= e->opt.request_max && mirror_spans_slots(e, mw)) {
		spread(e, mw);
		return;
	}
	enum verdict v = judge_calls(e, mw);
	if (v == SEND) {
		restate(e, mw);
		mirror_effect_send(e, mw);
		return;
	}
	if (v == SNAPSHOT || writes > 1) { /* a single key that is dirty is in the copy to come */
		stat_add(&e->stats->snapshots, 1);
		mark_written(e, mw);
	}
	mirror_release(mw);
}

static bool is_wanted(const struct block_want *want, const char *p, size_t n)
{
	struct resp_item item;

	switch (want->how) {
	case EXPECT_ANY:
	case EXPECT_SAME:
		return true;
	case EXPECT_OK:
		return n >= 3 && memcmp(p, "+OK", 3) == 0;
	case EXPECT_INT:
		return resp_item(p, p + n, &item) && item.type == ':' && item.n == want->n;
	case EXPECT_DIGEST:
		return want->digest == digest_of(p, n, want->elements);
	}
	return false;
}

/* Did the follower answer its EXEC as the authority's answers let expect? */
bool multi_as_expected(const struct mwrite *mw, const struct reply *r)
{
	const char *p = r->p, *end = r->p + r->n;
	struct resp_item head;
	uint64_t elements = mw->effect.ncommands - 2;

	p += resp_item(p, end, &head);
	if (head.type != '*' || (uint64_t)head.n != elements)
		return false;
	for (uint32_t i = 0; i < mw->multi->nwants; i++) {
		const struct block_want *want = &mw->multi->wants[i];
		const char *from = p;
		for (uint32_t k = 0; k < want->elements; k++)
			p += resp_value_len(p, end);
		if (want->compare && !is_wanted(want, from, (size_t)(p - from)))
			return false;
	}
	return p == end;
}
