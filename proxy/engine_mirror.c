/* The way of a write: begun before it is sent, its effect queued in the order of the authority's replies, compared and forgotten when the follower
 * has acknowledged it, or its keys made dirty. */
#include "proxy/engine_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "backfill/fault.h"
#include "proxy/log.h"
#include "proxy/txn.h"
#include "resp/convert.h"
#include "resp/digits.h"
#include "resp/write.h"

void mirror_discard(struct mwrite *mw)
{
	free(mw->spread); /* its parts have gone with their connections */
	mirror_free(mw);
}

/* --- before the authority --- */

/* MOVE, COPY … DB n: what is written is in another database. A number that is none gets the server's error. */
static void other_database(struct engine *e, struct mwrite *mw, uint32_t argc)
{
	uint32_t word = command_other_db(mw->cmd, argc, e->argv);
	struct wkey *k = &mw->keys[1];
	int64_t db;

	_Static_assert(ENGINE_KEYS_INLINE >= 2, "MOVE has one key in two places");
	if (!word || !mw->nkeys || !resp_string_to_int(e->argv[word].p, e->argv[word].n, &db) || db < 0 || db >= (int64_t)DBS_MAX)
		return;
	if (mw->nkeys == 1)
		mw->keys[mw->nkeys++] = mw->keys[0];
	k->db = (uint16_t)db;
	k->hash = keyhash_of(k->db, k->key);
	k->writes = true;
}

/* Of an only key home has told it, perhaps. */
static keyhash hash_of(const struct mwrite *mw, struct slice key)
{
	return mw->nkeys == 1 && mw->req && mw->req->hashed ? mw->req->hash : keyhash_of(mw->db, key);
}

void mirror_collect_keys(struct engine *e, struct mwrite *mw, uint32_t argc)
{
	int n = engine_keys(e, mw->cmd, argc);

	mw->nkeys = n > 0 ? (uint32_t)n : 0;
	mw->keys = mw->inline_keys;
	if (mw->nkeys > ENGINE_KEYS_INLINE && !(mw->keys = calloc(mw->nkeys, sizeof *mw->keys)))
		abort();
	for (uint32_t i = 0; i < mw->nkeys; i++) {
		struct slice key = e->argv[e->keys[i].index];
		mw->keys[i] = (struct wkey){ .key = key, .hash = hash_of(mw, key),
			.db = mw->db, .slot = mw->nkeys == 1 ? mw->slot : slot_of(key), .writes = e->keys[i].flags & KEY_WRITES };
	}
	if (mw->cmd->keys >= KEYS_COPY)
		other_database(e, mw, argc);
}

/* The oldest server whose commands this side certainly knows. */
static uint8_t generation_of(struct engine *e, enum side side)
{
	struct receiver r;

	e->io.receiver(e->io.ctx, side, &r);
	if (!r.version)
		return 0;
	if (r.product == PRODUCT_REDIS)
		return r.version >= 0x080000 ? SERVER_REDIS_8_0 : SERVER_REDIS_7_0;
	return r.version >= 0x090100 ? SERVER_VALKEY_9_1 : r.version >= 0x080100 ? SERVER_VALKEY_8_1 : SERVER_VALKEY_8_0;
}

struct effect_call mirror_call(struct engine *e, const struct mwrite *mw, uint32_t argc)
{
	return (struct effect_call){ .cmd = mw->cmd, .argc = argc, .argv = e->argv,
		.now_ms = mw->sent_ms, .follower = generation_of(e, slot_follower(e, mw->slot)) };
}

bool mirror_canonical(struct engine *e, const struct mwrite *mw, uint32_t argc, sds *out, const struct command **cmd)
{
	struct effect_call call = { .cmd = mw->cmd, .argc = argc, .argv = e->argv, .now_ms = mw->sent_ms, .authority = generation_of(e, slot_authority(e, mw->slot)) };

	return effect_canonical(&call, out, cmd);
}

/* By the number of words, so that a plain SET needs no second look. */
bool mirror_may_set_expiry(const struct command *cmd, uint32_t argc)
{
	return cmd->flags & CMD_SCRIPT || cmd->rewrite == REWRITE_EXPIRE || (cmd->canonical != CANON_NONE && argc > 3);
}

/* Relative expiry becomes absolute: the canonical request takes the place of the client's. */
static uint32_t canonicalise(struct engine *e, struct mwrite *mw, uint32_t argc)
{
	if (mw->cmd->canonical == CANON_NONE || !mirror_may_set_expiry(mw->cmd, argc))
		return argc;
	sds out = sdsempty();
	if (mirror_canonical(e, mw, argc, &out, &mw->cmd)) {
		block_unref(mw->block);
		mw->block = block_copy(out, sdslen(out));
		mw->bytes = mw->block->data;
		mw->len = sdslen(out);
		argc = engine_words(e, mw->bytes, mw->len);
	}
	sdsfree(out);
	return argc;
}

static bool may_expire(struct engine *e, const struct mwrite *mw)
{
	return e->expiring || e->io.has_expires(e->io.ctx, SIDE_SOURCE) || e->io.has_expires(e->io.ctx, slot_follower(e, mw->slot)) ||
	       e->io.has_expires(e->io.ctx, slot_authority(e, mw->slot));
}

/* Will the follower have the keys, so that an effect that builds on them can be sent? Then race 1 has to be excluded: how many keys to check. */
uint8_t mirror_checks_needed(struct engine *e, const struct mwrite *mw)
{
	if (fault("race-1-expiry") || !(mw->traits & CMD_UNPROVEN) || mw->nkeys == 0 || mw->nkeys > ENGINE_CHECKS_MAX || !may_expire(e, mw))
		return 0;
	for (uint32_t i = 0; i < mw->nkeys; i++) {
		const struct wkey *k = &mw->keys[i];
		const struct dirty_key *d = key_dirty(e, k->hash);
		if (k->db != mw->db) /* the checks behind it look in its own */
			return 0;
		if (d ? d->state < DIRTY_READING : !key_is_synced(e, k->hash, k->slot))
			return 0;
	}
	return (uint8_t)mw->nkeys;
}

static int64_t clock_of(struct engine *e, const struct mwrite *mw)
{
	return e->io.clock_ms(e->io.ctx, slot_authority(e, mw->slot), mw->slot);
}

/* A plain command with one key, which home has found: nothing else that it says matters. */
static void prepare_plain(struct engine *e, struct mwrite *mw, const struct req *r)
{
	struct slice key = req_key(r);
	struct effect_call call = { .cmd = mw->cmd, .argc = r->argc };

	mw->plain = true;
	mw->argc = r->argc;
	mw->nkeys = 1;
	mw->keys = mw->inline_keys;
	mw->keys[0] = (struct wkey){ .key = key, .hash = hash_of(mw, key), .db = mw->db, .slot = mw->slot,
		.writes = mw->cmd->specs[0].flags & KEY_WRITES };
	mw->traits = effect_traits(&call);
	mw->checks = mirror_checks_needed(e, mw);
}

static void prepare_one(struct engine *e, struct mwrite *mw)
{
	if (mw->cmd->rewrite == REWRITE_SPREAD_KEYS && crowd_collect_plain(e, mw))
		return;
	uint32_t argc = engine_words(e, mw->bytes, mw->len);

	mw->plain = effect_is_plain(mw->cmd, argc);
	if (!mw->plain) {
		mw->sent_ms = clock_of(e, mw);
		argc = canonicalise(e, mw, argc);
	}
	mw->argc = argc;
	e->expiring |= mirror_may_set_expiry(mw->cmd, argc);
	if (!crowd_collect(e, mw, argc))
		mirror_collect_keys(e, mw, argc);
	struct effect_call call = { .cmd = mw->cmd, .argc = argc, .argv = e->argv }; /* traits are of the words alone */
	mw->traits = effect_traits(&call);
	mw->plain &= mw->nkeys < 2; /* of several keys each slot may get another effect */
	mw->checks = mirror_checks_needed(e, mw);
}

static bool calls_script(const struct req *r)
{
	bool script = r->cmd->flags & CMD_SCRIPT;

	for (uint32_t i = 0; r->txn && i < r->txn->n; i++)
		script |= (r->txn->commands[i].cmd->flags & CMD_SCRIPT) != 0;
	return script;
}

void mirror_prepare(struct engine *e, struct req *r)
{
	struct mwrite *mw = mirror_new(e);

	mw->req = r;
	mw->cmd = r->cmd;
	mw->slot = r->slot;
	mw->db = r->db;
	mw->block = block_ref(r->block);
	mw->bytes = r->bytes;
	mw->len = r->len;
	if (r->txn) {
		mw->sent_ms = clock_of(e, mw);
		multi_prepare(e, mw, r);
	} else if (r->key_n && effect_is_plain(r->cmd, r->argc)) {
		prepare_plain(e, mw, r);
	} else {
		prepare_one(e, mw);
	}
	for (uint32_t i = 0; i < mw->nkeys; i++) {
		struct wkey *k = &mw->keys[i];
		if (!k->writes)
			continue;
		if (!fault("journal-off"))
			k->entry = note_owed(e, k->db, k->key, k->slot); /* race 6: before it is sent */
		version_begin(&e->versions, stripe_of(k->hash.low64));
	}
	if (mw->crowd)
		crowd_begin(e, mw->crowd);
	mw->begun = true;
	mw->script = calls_script(r);
	if (mw->script)
		strays_script(e, mw->slot);
	r->mw = mw;
}

sds mirror_cat_check(sds s, const struct wkey *k)
{
	struct slice words[2] = { SLICE_LIT("PEXPIRETIME"), k->key };

	return resp_cat_request(s, 2, words);
}

static sds cat_checks(sds s, const struct mwrite *mw)
{
	for (uint32_t i = 0; i < mw->checks; i++)
		s = mirror_cat_check(s, &mw->keys[i]);
	return s;
}

static void on_tail(void *arg, const struct reply *reply);

static void tail_send(struct engine *e, struct mwrite *mw, uint16_t node, sds s, unsigned n)
{
	e->io.send(e->io.ctx, slot_authority(e, mw->slot), mw->db, mw->slot, node, s, sdslen(s), NULL, n, on_tail, mw);
}

/* Behind a write that was sent to a node that has to be asked: an ASKING is good for one command, so each goes by itself. */
static void tail_ask(struct engine *e, struct mwrite *mw, uint16_t node, sds probe)
{
	if (mw->probe)
		tail_send(e, mw, node, probe, 1);
	for (uint32_t i = 0; i < mw->checks; i++) {
		sds s = mirror_cat_check(sdsempty(), &mw->keys[i]);
		tail_send(e, mw, node, s, 1);
		sdsfree(s);
	}
}

/* The tail must go the write's own way: over another connection its answers could come before the write's. */
void mirror_transmitted(struct engine *e, struct req *r, uint16_t node)
{
	struct mwrite *mw = r->mw;

	if (mw->multi)
		return; /* what is asked stands in the block */
	mw->probe = false;
	mw->tail_left = 0;
	if (!mw->checks && !effect_may_probe(mw->cmd))
		return;
	sds s = sdsempty();
	/* the words are parsed again because a redirect may lie between */
	struct effect_call call = mirror_call(e, mw, engine_words(e, mw->bytes, mw->len));
	mw->probe = effect_probe(&call, &s);
	mw->tail_left = mw->checks + (mw->probe ? 1u : 0u);
	slot_sent(e, r->slot, mw->tail_left); /* the slot is not drained before its tails are */
	if (node != NODE_NONE) {
		tail_ask(e, mw, node, s);
	} else if (mw->tail_left) {
		s = cat_checks(s, mw);
		tail_send(e, mw, node, s, mw->tail_left);
	}
	sdsfree(s);
}

void mirror_redirected(struct mwrite *mw)
{
	mw->tail_skip += mw->tail_left;
	mw->tail_left = 0;
}

/* --- the end of a write --- */

static void complete(struct engine *e, struct mwrite *mw)
{
	if (!mw->begun)
		return;
	mw->begun = false;
	if (mw->crowd)
		crowd_complete(e, mw->crowd);
	for (uint32_t i = 0; i < mw->nkeys; i++)
		if (mw->keys[i].writes)
			version_complete(&e->versions, stripe_of(mw->keys[i].hash.low64));
}

void mirror_release(struct mwrite *mw)
{
	struct engine *e = mw->engine;

	complete(e, mw);
	if (mw->answer_held)
		engine_answer(e, mw->req);
	if (mw->spread)
		spread_released(e, mw->spread);
	mw->spread = NULL;
	mw->req = NULL;
	mw->answer_held = false;
	mw->released = true;
	if (!mw->tail_skip) /* else the last answer that is still to come frees it */
		mirror_free(mw);
}

void mirror_mark_written(struct engine *e, struct mwrite *mw, const char *why)
{
	for (uint32_t i = 0; i < mw->nkeys; i++)
		if (mw->keys[i].writes)
			mark_key(e, mw->keys[i].db, mw->keys[i].key, mw->keys[i].hash, mw->keys[i].slot, why);
}

void mirror_unknown(struct engine *e, struct req *r, const char *why)
{
	struct mwrite *mw = r->mw;

	if (!mw)
		return;
	r->mw = NULL;
	mw->req = NULL;
	mirror_mark_written(e, mw, why);
	changes_unknown(&e->changes);
	mirror_redirected(mw); /* its tail is lost, too: the answers are only counted */
	if (mw->crowd)
		crowd_unknown(e, mw, why);
	else
		mirror_release(mw);
}

/* --- the follower's answers --- */

static bool as_expected(const struct mwrite *mw, const struct reply *r)
{
	struct resp_item item;

	if (mw->multi)
		return multi_as_expected(mw, r);
	switch (mw->effect.expect) {
	case EXPECT_ANY:
		return true;
	case EXPECT_OK:
		return r->n >= 3 && memcmp(r->p, "+OK", 3) == 0;
	case EXPECT_INT:
		return resp_item(r->p, r->p + r->n, &item) && item.type == ':' && item.n == mw->effect.expect_n;
	case EXPECT_SAME:
		return resp_reply_digest(slice(r->p, r->n)) == mw->digest;
	case EXPECT_DIGEST:
		return resp_reply_digest(slice(r->p, r->n)) == mw->effect.expect_digest;
	}
	return false;
}

/* An EXEC's array with an error in it. */
static bool holds_error(const struct reply *r)
{
	const char *p = r->p, *end = r->p + r->n;
	struct resp_item item;
	size_t n;

	if (r->p[0] != '*')
		return r->p[0] == '_';
	for (n = resp_item(p, end, &item); n && p < end; p += n) {
		n = resp_item(p, end, &item);
		if (item.type == '-' || item.type == '!')
			return true;
	}
	return false;
}

static void fail(struct mwrite *mw, const char *why)
{
	if (!mw->failed)
		mw->why = why;
	mw->failed = true;
}

static void judge(struct engine *e, struct mwrite *mw, const struct reply *r)
{
	if (!r->p) {
		fail(mw, "the follower's connection was lost");
	} else if (engine_reply_is_error(r)) {
		log_limited(LOG_VERBOSE, "slot %u: the %s refused an effect of %s: %.*s", mw->slot, side_name(mw->follower),
			    mw->cmd->name, (int)(r->n > 100 ? 100 : r->n - 2), r->p);
		engine_follower_refused(e, mw->follower, r);
		fail(mw, "the follower answered an error");
	} else if (mw->replies_left == 0 && mw->effect.ncommands > 1 && holds_error(r)) {
		fail(mw, "the follower's transaction failed");
	} else if (mw->replies_left == 0 && mw->compare && !as_expected(mw, r) && !fault("replies-off")) {
		stat_add(&e->stats->mismatches, 1);
		log_limited(LOG_WARNING, "slot %u: the %s answered %s differently: its key is copied again", mw->slot,
			    side_name(mw->follower), mw->cmd->name);
		fail(mw, "the replies differ");
	}
}

static void acknowledged(struct engine *e, struct mwrite *mw)
{
	follower_acked(e, mw->slot, mw->queued);
	e->acked_us = mw->sent_us;
	for (uint32_t i = 0; i < mw->nkeys; i++) {
		struct wkey *k = &mw->keys[i];
		if (!k->writes)
			continue;
		version_unpend(&e->versions, stripe_of(k->hash.low64));
		struct dirty_key *d = k->applies ? key_dirty(e, k->hash) : NULL;
		if (mw->failed)
			mark_key(e, k->db, k->key, k->hash, k->slot, mw->why);
		if (d)
			dirty_applied(e, d, !mw->failed);
	}
	mirror_release(mw);
}

static void on_effect_reply(void *arg, const struct reply *r)
{
	struct mwrite *mw = arg;
	struct engine *e = mw->engine;

	assert(mw->replies_left > 0);
	mw->replies_left--;
	judge(e, mw, r);
	if (mw->replies_left == 0 && !mw->checks)
		acknowledged(e, mw);
}

const struct mwrite *mirror_write_of(reply_fn *fn, const void *arg)
{
	return fn == on_effect_reply ? arg : NULL;
}

#define EXPIRE_UNKNOWN (UINT64_C(1) << 63) /* equals no answer that can be right */

uint64_t mirror_expire_of(const char *p, size_t n)
{
	struct resp_item item;

	return p && resp_item(p, p + n, &item) && item.type == ':' ? (uint64_t)item.n : EXPIRE_UNKNOWN;
}

/* Race 1: both sides must tell the same expiry behind a write whose reply proves nothing. */
static void on_follower_check(void *arg, const struct reply *r)
{
	struct mwrite *mw = arg;
	struct engine *e = mw->engine;

	if (!r->p)
		fail(mw, "the follower's connection was lost");
	uint64_t expire = mirror_expire_of(r->p, r->n);
	if (expire != mw->expires[mw->checked] || expire == EXPIRE_UNKNOWN)
		mw->expires_differ = true;
	if (++mw->checked < mw->checks)
		return;
	if (mw->expires_differ && !mw->failed) {
		stat_add(&e->stats->mismatches, 1);
		fail(mw, "the expiries differ");
	}
	acknowledged(e, mw);
}

/* --- what the follower gets --- */

void mirror_effect_send(struct engine *e, struct mwrite *mw)
{
	bool same = mw->effect.kind == EFFECT_IS_SAME;
	const char *bytes = same ? mw->bytes : mw->effect.block;
	size_t len = same ? mw->len : sdslen(mw->effect.block);
	bool alone = kept_alone(e);
	sds checks = mw->checks ? cat_checks(sdsempty(), mw) : NULL;

	mw->follower = slot_follower(e, mw->slot);
	mw->replies_left = same ? 1 : mw->effect.ncommands;
	mw->queued = kept_size(mw, len + (checks ? sdslen(checks) : 0));
	mw->sent_us = e->io.coarse_us(e->io.ctx);
	if (same) {
		mw->effect.expect = EXPECT_SAME;
		mw->effect.ncommands = 1;
	}
	follower_queued(e, mw->slot, mw->queued);
	for (uint32_t i = 0; i < mw->nkeys; i++)
		if (mw->keys[i].writes)
			version_pend(&e->versions, stripe_of(mw->keys[i].hash.low64));
	stat_add(&e->stats->effects, 1);
	e->io.send(e->io.ctx, mw->follower, mw->db, mw->slot, NODE_NONE, bytes, len, same && (!alone || len >= BLOCK_SIZE) ? mw->block : NULL, mw->replies_left, on_effect_reply,
		   mw);
	if (checks)
		e->io.send(e->io.ctx, mw->follower, mw->db, mw->slot, NODE_NONE, checks, sdslen(checks), NULL, mw->checks, on_follower_check, mw);
	sdsfree(checks);
	complete(e, mw);
	kept_trim(mw, alone);
}

/* A copy that holds all marks so far is on its way: effects behind it find the key whole. */
static bool is_applying(const struct dirty_key *d)
{
	return d->state == DIRTY_APPLYING && d->marks == d->applied;
}

/* One written key: may the effect be sent, is it already held by a copy to come, or must the key be copied? */
static enum verdict judge_key(struct engine *e, const struct mwrite *mw, const struct wkey *k)
{
	const struct dirty_key *d = key_dirty(e, k->hash);

	if (known_has(&e->foreign, k->hash))
		return SNAPSHOT;
	if (mw->effect.whole || k->whole)
		return SEND;
	if (d)
		return is_applying(d) ? SEND : DROP;
	return !(mw->traits & CMD_BUILDS) || key_is_synced(e, k->hash, k->slot) ? SEND : SNAPSHOT;
}

static bool inputs_synced(struct engine *e, const struct mwrite *mw)
{
	for (uint32_t i = 0; i < mw->nkeys; i++)
		if (!mw->keys[i].whole && (key_dirty(e, mw->keys[i].hash) || !key_is_synced(e, mw->keys[i].hash, mw->keys[i].slot)))
			return false;
	return true;
}

bool mirror_spans_slots(struct engine *e, const struct mwrite *mw)
{
	if (mw->nkeys < 2 || !e->io.is_cluster(e->io.ctx, slot_follower(e, mw->slot)))
		return false;
	for (uint32_t i = 1; i < mw->nkeys; i++)
		if (mw->keys[i].slot != mw->keys[0].slot)
			return true;
	return false;
}

/* The verdict over all keys: the worst of them counts. */
static enum verdict decide(struct engine *e, struct mwrite *mw)
{
	enum verdict worst = SEND;
	uint32_t written = 0;

	if (mw->effect.kind == EFFECT_IS_SNAPSHOT || mw->len > e->opt.request_max || mw->inputs_left_out || mirror_spans_slots(e, mw))
		return SNAPSHOT;
	if (!follower_takes(e, slot_follower(e, mw->slot), mw->slot))
		return SNAPSHOT;
	if (mw->traits & CMD_READS_OTHERS && !fault("race-12-inputs") && (!inputs_synced(e, mw) || mw->nkeys > DERIVED_KEYS))
		return SNAPSHOT;
	for (uint32_t i = 0; i < mw->nkeys; i++) {
		if (!mw->keys[i].writes)
			continue;
		written++;
		enum verdict v = judge_key(e, mw, &mw->keys[i]);
		if (v > worst)
			worst = v;
	}
	/* race 1 with more keys than are checked, or with keys that were not synced when it was sent */
	if (worst == SEND && !fault("race-1-expiry") && mw->effect.unproven && !mw->checks && may_expire(e, mw))
		return SNAPSHOT;
	/* of several keys all are copied if one cannot be mirrored; a single dropped one is in the copy to come */
	return worst == DROP && written > 1 ? SNAPSHOT : worst;
}

/* What the effect says about whether the follower will have these keys. */
void mirror_before_send(struct engine *e, struct mwrite *mw)
{
	mw->compare = true;
	for (uint32_t i = 0; i < mw->nkeys; i++) {
		struct wkey *k = &mw->keys[i];
		if (!k->writes)
			continue;
		struct dirty_key *d = key_dirty(e, k->hash);
		/* behind a copy that is on its way the follower has the key; what sets the whole value may find anything */
		bool there = d ? !mw->effect.whole && is_applying(d) : key_is_synced(e, k->hash, k->slot);
		if (!there)
			mw->compare = false;
		if (!mw->effect.whole)
			continue;
		k->applies = d && !is_applying(d); /* one that covers all marks is enough: a key set all the time must not stay dirty for ever */
		if (k->applies)
			dirty_applying(e, d);
		else if (!d)
			key_is_whole(e, k->hash, k->slot);
	}
}

/* Race 12, when it becomes known only later that an input differs. False: too many of these are remembered. */
static bool remember_derived(struct engine *e, const struct mwrite *mw)
{
	struct derived_command *c;

	if (!(mw->traits & CMD_READS_OTHERS) || fault("race-12-late"))
		return true;
	if (!(c = derived_add(&e->derived, e->io.now_us(e->io.ctx))))
		return false;
	for (c->n = 0; c->n < mw->nkeys; c->n++) {
		const struct wkey *k = &mw->keys[c->n];
		c->keys[c->n] = (struct derived_key){ .hash = k->hash, .key = k->writes ? sdsnewlen(k->key.p, k->key.n) : NULL,
			.slot = k->slot, .db = k->db };
	}
	return true;
}

enum verdict mirror_decide(struct engine *e, struct mwrite *mw)
{
	enum verdict v = decide(e, mw);

	return v == SEND && !remember_derived(e, mw) ? SNAPSHOT : v;
}

void mirror_crowds_first(struct engine *e, const struct mwrite *mw)
{
	for (uint32_t i = 0; __builtin_expect(e->crowds != NULL, 0) && i < mw->nkeys; i++)
		crowd_first(e, mw->keys[i].slot);
}

/* In the order of the authority's replies: the effect is queued, or its keys are dirty, before the version completes. */
void mirror_effect(struct engine *e, struct mwrite *mw)
{
	if (e->changes.on && mw->effect.kind != EFFECT_IS_NOTHING)
		mirror_note_changes(e, mw);
	if (mw->effect.kind == EFFECT_IS_NOTHING || mw->effect.kind == EFFECT_IS_BROADCAST || !e->mirroring) {
		mirror_release(mw);
		return;
	}
	mirror_crowds_first(e, mw);
	switch (mirror_decide(e, mw)) {
	case SNAPSHOT:
		stat_add(&e->stats->snapshots, 1);
		mirror_mark_written(e, mw, NULL);
		mirror_release(mw);
		return;
	case DROP:
		mirror_release(mw);
		return;
	case SEND:
		break;
	}
	mirror_before_send(e, mw);
	if (!mw->effect.unproven)
		mw->checks = 0;
	mirror_effect_send(e, mw);
}

/* The authority's reply and its tail are complete: what does the follower get? */
static void finish(struct engine *e, struct mwrite *mw)
{
	if (mw->multi || mw->crowd) {
		(mw->multi ? multi_replied : crowd_replied)(e, mw);
		return;
	}
	struct effect_call call = mirror_call(e, mw, mw->plain ? mw->argc : engine_words(e, mw->bytes, mw->len));
	struct slice reply = slice(mw->reply, mw->reply_len);

	if (mw->plain)
		call.argv = NULL;
	if (mw->probe_reply)
		call.probe = slice(mw->probe_reply, sdslen(mw->probe_reply));
	effect_of(&call, reply, &mw->effect);
	if (mw->effect.kind == EFFECT_IS_SAME || mw->effect.expect == EXPECT_SAME)
		mw->digest = resp_reply_digest(reply);
	if (!mirror_spread(e, mw, &call, reply))
		mirror_effect(e, mw);
}

static void tail_reply(struct mwrite *mw, const struct reply *r)
{
	assert(mw->tail_left > 0 && mw->reply);
	mw->tail_left--;
	if (mw->probe && mw->tail_left == mw->checks)
		mw->probe_reply = r->p ? sdsnewlen(r->p, r->n) : sdsempty();
	else
		mw->expires[mw->checks - mw->tail_left - 1] = mirror_expire_of(r->p, r->n);
	if (mw->tail_left == 0)
		finish(mw->engine, mw);
}

static void on_tail(void *arg, const struct reply *r)
{
	struct mwrite *mw = arg;
	struct engine *e = mw->engine;
	uint16_t slot = mw->slot;

	assert(e->slots[slot].inflight > 0);
	slot_replied(e, slot);
	if (!mw->tail_skip)
		tail_reply(mw, r);
	else if (--mw->tail_skip == 0 && mw->released)
		mirror_free(mw);
	authority_replied(e, slot);
	if (!e->slots[slot].inflight)
		engine_wait_lift(e, slot, 0);
	gate_turn(e);
}

/* The authority has answered: the client gets its reply; the effect follows at once, or behind the tail. */
void mirror_replied(struct engine *e, struct req *r, const struct reply *reply)
{
	struct mwrite *mw = r->mw;

	r->mw = NULL;
	if (mw->script)
		strays_script(e, mw->slot);
	mw->reply = reply->p;
	mw->reply_len = reply->n;
	if (mw->tail_left)
		mw->reply_block = reply->block ? block_ref(reply->block) : NULL;
	mw->answer_held = e->opt.ack_both;
	if (!mw->answer_held) {
		mw->req = NULL;
		engine_answer(e, r);
	}
	if (!mw->tail_left)
		finish(e, mw);
}
