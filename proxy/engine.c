#include "proxy/engine_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "proxy/txn.h"
#include "proxy/watch.h"
#include "resp/words.h"

struct engine *engine_new(const struct engine_io *io, const struct engine_options *o, const uint8_t *authority, const bool *synced,
			  const uint8_t *mine, struct worker_stats *stats)
{
	struct engine *e = aligned_alloc(CACHE_LINE, sizeof *e);

	if (!e)
		abort();
	memset(e, 0, sizeof *e);
	e->io = *io;
	e->opt = *o;
	e->stats = stats;
	e->mirroring = o->mirror;
	for (unsigned i = 0; i < SLOTS; i++) {
		e->authority[i] = authority[i];
		e->slots[i].flags = (mine[i] ? SLOT_MINE : 0) | (synced[i] ? SLOT_SYNCED : 0);
	}
	known_init(&e->known, o->known_max);
	known_init(&e->foreign, o->known_max);
	dirty_init(&e->dirty, o->dirty_max);
	return e;
}

void engine_free(struct engine *e)
{
	known_release(&e->known);
	known_release(&e->foreign);
	dirty_release(&e->dirty);
	derived_release(&e->derived);
	changes_release(e);
	gate_release(e);
	park_release(&e->park);
	crowd_release_all(e);
	mirror_release_pool(e);
	while (e->waits) {
		struct slot_wait *w = e->waits;
		e->waits = w->next;
		free(w);
	}
	free(e->argv);
	free(e->keys);
	free(e);
}

enum side engine_authority(const struct engine *e, uint16_t slot)
{
	return slot_authority(e, slot);
}

const struct versions *engine_versions(const struct engine *e)
{
	return &e->versions;
}

bool engine_is_mirroring(const struct engine *e)
{
	return e->mirroring;
}

void engine_mirror(struct engine *e, bool on)
{
	if (e->mirroring == on)
		return;
	crowd_settle_all(e);
	e->mirroring = on;
	version_mark_all(&e->versions); /* writes between off and on move no version: older tokens are worth nothing (invariant 3) */
	dirty_clear(e);
	derived_release(&e->derived);
	known_clear(&e->known);
	known_clear(&e->foreign);
	for (unsigned i = 0; i < SLOTS; i++) {
		if (e->opt.journal && e->slots[i].flags & SLOT_DIRTY)
			journal_slot(e->opt.journal, (uint16_t)i, false);
		e->slots[i].flags &= SLOT_MINE;
		e->slots[i].await_synced = 0;
	}
	e->dirty_slots = e->unwatched = 0;
	engine_unseen(e);
}

void engine_finish(struct engine *e, enum side authority)
{
	engine_mirror(e, false);
	e->finished = true;
	for (unsigned i = 0; i < SLOTS; i++)
		atomic_store(&e->authority[i], authority);
	engine_unseen(e);
}

/* Splits a whole request (an array of bulks) into e->argv; returns the number of words. */
uint32_t engine_words(struct engine *e, const char *bytes, size_t len)
{
	return resp_words(bytes, len, &e->argv, &e->argv_cap); /* it was parsed before, or is of our own making */
}

int engine_keys(struct engine *e, const struct command *cmd, uint32_t argc)
{
	int n = command_keys(cmd, argc, e->argv, e->keys, (int)e->keys_cap);

	if (n <= (int)e->keys_cap)
		return n;
	e->keys_cap = (size_t)n;
	e->keys = realloc(e->keys, e->keys_cap * sizeof *e->keys);
	if (!e->keys)
		abort();
	return command_keys(cmd, argc, e->argv, e->keys, (int)e->keys_cap);
}

/* --- slots that wait --- */

struct slot_wait *engine_wait(struct engine *e, uint16_t slot, uint8_t why)
{
	struct slot_wait *w = e->slots[slot].wait;

	if (!w) {
		w = calloc(1, sizeof *w);
		if (!w)
			abort();
		w->slot = slot;
		w->next = e->waits;
		if (w->next)
			w->next->prev = w;
		e->waits = w;
		e->slots[slot].wait = w;
	}
	w->why |= why;
	return w;
}

static void wait_free(struct engine *e, struct slot_wait *w)
{
	assert(!w->resend.head && !w->rest.head && !w->queue.head && !w->why);
	*(w->prev ? &w->prev->next : &e->waits) = w->next;
	if (w->next)
		w->next->prev = w->prev;
	e->slots[w->slot].wait = NULL;
	free(w);
}

/* Must this command wait for what the slot waits for? */
bool engine_must_wait(const struct engine *e, uint16_t slot, const struct req *r)
{
	const struct slot_state *s = &e->slots[slot];
	const struct slot_wait *w = s->wait;

	return s->flags & SLOT_FENCED || (w && (w->queue.head || w->why & (WAIT_RESEND | WAIT_PART) || (w->why & WAIT_HOLD && r->write)));
}

static void start_watch(struct engine *e, struct req *r)
{
	if (!r->watch->armed)
		r->watch->flips = e->gate.flips;
	if (!e->io.watch_send(e->io.ctx, r->watch, slot_authority(e, r->slot), r->db, r->slot, r->bytes, r->len, r->block, engine_on_reply, r)) {
		struct block *b = block_copy("+OK\r\n", 5);
		r->reply_block = b;
		r->reply = b->data;
		r->reply_len = b->used;
		e->io.answer(e->io.ctx, r);
		return;
	}
	r->engine = e;
	e->slots[r->slot].inflight++; /* not in the engine's sum: the gate need not wait for another connection */
	e->slots[r->slot].reads++;
}

void engine_start(struct engine *e, struct req *r)
{
	if (r->spans && e->io.is_cluster(e->io.ctx, slot_authority(e, r->slot))) {
		line_give_back(e, r);
		return;
	}
	if (r->watch) {
		(r->txn ? gate_close : start_watch)(e, r);
		return;
	}
	if (e->mirroring && r->write && !r->mw)
		mirror_prepare(e, r);
	engine_transmit(e, r);
}

/* What waited goes on, in order, as far as nothing stands in its way. */
static void wait_resume(struct engine *e, struct slot_wait *w)
{
	struct req *r;

	if (gate_is_shut(e))
		return; /* the gate's end comes back to it */
	if (w->why & WAIT_RESEND && !order_resumes(e, w))
		return;
	while ((r = w->queue.head) && !gate_is_shut(e) && !(e->slots[w->slot].flags & SLOT_FENCED) && !(w->why & WAIT_PART) && !(w->why & WAIT_HOLD && r->write)) {
		req_list_pop(&w->queue);
		engine_start(e, r);
	}
	if (!w->why && !w->queue.head)
		wait_free(e, w);
}

void engine_wait_lift(struct engine *e, uint16_t slot, uint8_t why)
{
	struct slot_wait *w = e->slots[slot].wait;

	if (!w)
		return;
	w->why &= ~why;
	wait_resume(e, w);
}

/* At once, or behind what its slot waits for. */
void engine_begin(struct engine *e, struct req *r)
{
	if (engine_must_wait(e, r->slot, r))
		req_list_push(&engine_wait(e, r->slot, 0)->queue, r);
	else
		engine_start(e, r);
}

/* Something waits, or has several slots. */
static void submit_in_line(struct engine *e, struct req *r)
{
	r->since_us = e->io.now_us(e->io.ctx);
	if (r->ahead)
		line_part(e, r);
	else if (!line_takes(e, r))
		engine_begin(e, r);
}

void engine_submit(struct engine *e, struct req *r)
{
	struct slot_state *s = &e->slots[r->slot];

	assert(s->flags & SLOT_MINE); /* invariant 1 */
	if (r->waits) { /* at once, so that its end from outside finds it; its tries wait */
		park_arrive(e, r);
		park_after(e);
		return;
	}
	if (gate_is_shut(e)) {
		req_list_push(&e->gate.queue, r);
		return;
	}
	if (!s->wait && !(s->flags & SLOT_FENCED) && !s->lined && !r->wide)
		engine_start(e, r);
	else
		submit_in_line(e, r);
	park_after(e);
}

/* Another node serves the slot from now on: what is in flight at the former one ends first, so that order is kept. */
void engine_route_changed(struct engine *e, uint16_t slot)
{
	if (e->slots[slot].inflight)
		engine_wait(e, slot, WAIT_RESEND);
	engine_unseen(e);
}

/* --- to the authority and back --- */

void engine_answer_error(struct engine *e, struct req *r, const char *text)
{
	struct block *b = block_new(strlen(text) + 8);

	b->used = (size_t)snprintf(b->data, b->cap, "-%s\r\n", text);
	r->reply_block = b;
	r->reply = b->data;
	r->reply_len = b->used;
	engine_answer(e, r);
}

bool engine_reply_is_error(const struct reply *r)
{
	return r->n && (r->p[0] == '-' || r->p[0] == '!');
}

/* Error replies that are about the cluster's state, not about the command: the command is sent again. */
static const struct retry_error {
	const char *word;
	enum { RETRY_MOVED, RETRY_ASK, RETRY_LATER } how;
} retry_errors[] = {
	{ "-MOVED ", RETRY_MOVED },     { "-ASK ", RETRY_ASK },         { "-TRYAGAIN ", RETRY_LATER },
	{ "-CLUSTERDOWN ", RETRY_LATER }, { "-LOADING ", RETRY_LATER }, { "-MASTERDOWN ", RETRY_LATER },
	{ "-READONLY ", RETRY_LATER },
};

static const struct retry_error *retry_error(const struct reply *r)
{
	if (r->n < 5 || r->p[0] != '-')
		return NULL;
	for (size_t i = 0; i < sizeof retry_errors / sizeof *retry_errors; i++) {
		size_t n = strlen(retry_errors[i].word);
		if (r->n >= n && memcmp(r->p, retry_errors[i].word, n) == 0)
			return &retry_errors[i];
	}
	return NULL;
}

bool engine_is_redirect(const struct reply *r)
{
	return retry_error(r) != NULL;
}

bool engine_reply_is_passing(const struct reply *r)
{
	return retry_error(r) != NULL;
}

/* The follower's slots have moved, or it does not serve them now: the topology is looked at again, the key is copied when that is known. */
void engine_follower_refused(struct engine *e, enum side side, const struct reply *r)
{
	if (retry_error(r))
		e->io.refresh(e->io.ctx, side, "a node refused what was mirrored to it");
}

/* The reply says that the command has to go elsewhere or come later. True: it is taken care of. */
static bool redirected(struct engine *e, struct req *r, const struct reply *reply)
{
	const struct retry_error *how = retry_error(reply);
	enum side side = slot_authority(e, r->slot);
	struct slice text = slice(reply->p + 1, reply->n - 3);

	if (!how)
		return false;
	if (how->how == RETRY_LATER) {
		/* a standalone server that is read-only or loads says so to the client */
		if (!e->io.is_cluster(e->io.ctx, side))
			return false;
		e->io.refresh(e->io.ctx, side, "a node answered that it cannot serve its slots");
		return order_resend(e, r, 20000);
	}
	uint16_t node = e->io.redirect(e->io.ctx, side, r->slot, text, how->how == RETRY_MOVED);
	if (how->how == RETRY_MOVED && e->slots[r->slot].inflight && !fault("order-route"))
		engine_wait(e, r->slot, WAIT_RESEND); /* at the former node, also if this one was tried long enough */
	if (how->how == RETRY_ASK)
		r->ask_node = node;
	return order_resend(e, r, node == NODE_NONE ? 20000 : 0);
}

static void on_script_loaded(void *arg, const struct reply *r)
{
	(void)arg;
	(void)r; /* if it failed, the script's call says NOSCRIPT once more, to the client */
}

/* The node has not got the script: it is loaded there, and the call sent again behind it, unless something of the slot is behind the call already: that must
 * not overtake it, so the client gets the server's NOSCRIPT, as it would without us. */
static bool script_loaded(struct engine *e, struct req *r, const struct reply *reply)
{
	bool behind = r->wide ? e->inflight > 0 : e->slots[r->slot].inflight > 0;
	sds load;

	if (!(r->cmd->flags & CMD_SHA) || r->loaded || behind || reply->n < 10 || memcmp(reply->p, "-NOSCRIPT ", 10) != 0)
		return false;
	engine_words(e, r->bytes, r->len);
	load = e->io.script(e->io.ctx, e->argv[1]);
	if (!load)
		return false;
	r->loaded = true;
	e->io.send(e->io.ctx, slot_authority(e, r->slot), r->db, r->slot, NODE_NONE, load, sdslen(load), NULL, 1, on_script_loaded, NULL);
	sdsfree(load);
	return order_resend(e, r, 0);
}

/* The connection broke. Reads and what was never sent are tried again; a write that may have been executed is answered with what is known. */
static void lost(struct engine *e, struct req *r, const struct reply *reply)
{
	char text[400];
	bool repeatable = !r->write && !r->once;

	stat_add(&e->stats->errors_upstream, 1);
	if ((repeatable || !reply->sent) && order_resend(e, r, 20000))
		return;
	if (!repeatable && reply->sent) {
		stat_add(&e->stats->unknown_outcome, 1);
		snprintf(text, sizeof text, "UNKNOWN the connection to %s before the reply came: whether the command was executed is unknown", reply->why);
		order_executed(e, r); /* it may have been */
		mirror_unknown(e, r, reply->why);
	} else {
		snprintf(text, sizeof text, "CLUSTERDOWN %s", reply->why);
		mirror_unknown(e, r, reply->why);
	}
	engine_answer_error(e, r, text);
}

/* MULTI, the queued commands, EXEC: the last answer counts. A command that was refused says why EXEC is: it moved (then all of it is sent again), or
 * something that home could not foresee. */
static void on_block_reply(void *arg, const struct reply *reply)
{
	struct req *r = arg;
	struct txn *t = r->txn;

	assert(t->awaited > 0);
	if (--t->awaited) {
		if (reply->p && engine_reply_is_error(reply) && !t->refused)
			t->refused = sdsnewlen(reply->p, reply->n);
		return;
	}
	if (!reply->p || !t->refused || !engine_reply_is_error(reply)) {
		engine_on_reply(r, reply);
		return;
	}
	struct reply first = { .p = t->refused, .n = sdslen(t->refused) };
	sds text = retry_error(&first) ? sdsdup(t->refused) : sdscatprintf(sdsempty(), "-EXECABORT Transaction discarded because of: %s", t->refused + 1);
	struct reply why = { .n = sdslen(text), .block = block_copy(text, sdslen(text)) };
	sdsfree(text);
	why.p = why.block->data;
	engine_on_reply(r, &why);
	block_unref(why.block);
}

static void on_script_loaded(void *arg, const struct reply *r);

/* Scripts that it calls go before it: they are no change that a watch would see. */
static void transmit_watched(struct engine *e, struct req *r, const char *bytes, size_t len)
{
	struct txn *t = r->txn;

	for (uint32_t i = 0; i < t->n; i++) {
		if (!(t->commands[i].cmd->flags & CMD_SHA) || t->commands[i].local)
			continue;
		engine_words(e, r->bytes + t->commands[i].at, t->commands[i].len);
		sds load = e->io.script(e->io.ctx, e->argv[1]);
		if (load)
			e->io.watch_exec(e->io.ctx, r->watch, r->db, load, sdslen(load), NULL, 1, on_script_loaded, NULL);
		sdsfree(load);
	}
	e->io.watch_exec(e->io.ctx, r->watch, r->db, bytes, len, r->mw ? r->mw->block : r->block, t->awaited, on_block_reply, r);
}

static void transmit_block(struct engine *e, struct req *r, uint16_t node, const char *bytes, size_t len)
{
	struct txn *t = r->txn;

	sdsfree(t->refused);
	t->refused = NULL;
	t->awaited = multi_replies(r);
	if (r->watch) {
		transmit_watched(e, r, bytes, len);
		return;
	}
	for (uint32_t i = 0; i < t->n; i++)
		if (t->commands[i].cmd->flags & CMD_SHA && !t->commands[i].local) {
			engine_words(e, r->bytes + t->commands[i].at, t->commands[i].len);
			e->io.preload(e->io.ctx, slot_authority(e, r->slot), r->slot, node, e->argv[1]);
		}
	e->io.send(e->io.ctx, slot_authority(e, r->slot), r->db, r->slot, node, bytes, len, r->mw ? r->mw->block : r->block, t->awaited, on_block_reply, r);
}

void engine_transmit(struct engine *e, struct req *r)
{
	enum side side = slot_authority(e, r->slot);
	uint16_t node = r->ask_node;
	const char *bytes = r->mw ? r->mw->bytes : r->bytes;
	size_t len = r->mw ? r->mw->len : r->len;

	slot_sent(e, r->slot, 1);
	e->slots[r->slot].reads += !r->write;
	r->engine = e;
	r->ask_node = NODE_NONE;
	if (r->txn)
		transmit_block(e, r, node, bytes, len);
	else
		e->io.send(e->io.ctx, side, r->db, r->slot, node, bytes, len, r->mw ? r->mw->block : r->block, 1, engine_on_reply, r);
	if (r->mw)
		mirror_transmitted(e, r, node);
	if (r->write && !park_is_empty(&e->park) && !r->waiter)
		park_touched(e, r);
}

void engine_on_reply(void *arg, const struct reply *reply)
{
	struct req *r = arg;
	struct engine *e = r->engine;
	struct slot_state *s = &e->slots[r->slot];
	uint16_t slot = r->slot;

	assert(s->inflight > 0);
	s->inflight--;
	e->inflight -= !r->watch || r->txn;
	s->reads -= !r->write;
	if (r->watch && r->txn) {
		gate_replied(e, r, reply);
	} else if (!reply->p) {
		lost(e, r, reply);
	} else if (reply->p[0] != '-' || !(redirected(e, r, reply) || script_loaded(e, r, reply))) {
		if (__builtin_expect(e->waits || e->turned.head, 0))
			order_executed(e, r);
		r->reply = reply->p;
		r->reply_len = reply->n;
		r->reply_block = reply->block ? block_ref(reply->block) : NULL;
		if (r->mw)
			mirror_replied(e, r, reply);
		else
			engine_answer(e, r);
	}
	authority_replied(e, slot);
	if (s->wait && s->inflight == 0)
		wait_resume(e, e->slots[slot].wait);
	if (e->gate.holder)
		gate_turn(e);
	park_after(e);
}

struct req *engine_req_of(reply_fn *fn, void *arg)
{
	return fn == engine_on_reply || fn == on_block_reply ? arg : NULL;
}

/* --- turns --- */

static void holds_turn(struct engine *e, struct slot_wait *w, int64_t now)
{
	struct slot_state *s = &e->slots[w->slot];

	if (!w->hold_told && s->inflight == s->reads && !s->unacked && !s->unsettled) { /* a slot that is read all the time comes to rest, too */
		w->hold_told = true;
		e->io.held(e->io.ctx, w->slot, true);
	}
	if (now >= w->hold_until_us) {
		if (!w->hold_told)
			e->io.held(e->io.ctx, w->slot, false);
		engine_wait_lift(e, w->slot, WAIT_HOLD);
	}
}

static void tell_lag(struct engine *e)
{
	int64_t us = 0;

	if (e->queued && !e->acked_us)
		return; /* as it was */
	if (e->queued) {
		us = e->io.coarse_us(e->io.ctx) - e->acked_us;
		us = us > 0 ? us : 1; /* 0 is said of an empty queue */
	}
	atomic_store_explicit(&e->stats->lag_us, us, memory_order_relaxed);
	e->acked_us = 0;
}

void engine_turn(struct engine *e)
{
	bool busy = engine_wants_turns(e), was_busy = e->was_busy;
	struct slot_wait *w, *next;

	if (!park_is_empty(&e->park))
		park_turn(e);
	e->was_busy = busy;
	if (!busy && !was_busy) { /* once more after the last thing ended: the counters say so then */
		e->acked_us = 0;
		return;
	}
	int64_t now = e->io.now_us(e->io.ctx);
	for (w = e->waits; w; w = next) {
		next = w->next;
		if (w->why & WAIT_HOLD)
			holds_turn(e, w, now);
	}
	for (w = e->waits; w; w = next) {
		next = w->next;
		if (w->why & WAIT_RESEND && !e->slots[w->slot].inflight)
			wait_resume(e, w);
	}
	line_turn(e);
	crowd_turn(e);
	fence_turn(e);
	alone_turn(e);
	dirty_pump(e);
	atomic_store_explicit(&e->stats->queued, e->queued, memory_order_relaxed);
	atomic_store_explicit(&e->stats->queued_bytes, e->queued_bytes, memory_order_relaxed);
	atomic_store_explicit(&e->stats->dirty_keys, dirty_count(&e->dirty), memory_order_relaxed);
	atomic_store_explicit(&e->stats->dirty_slots, e->dirty_slots, memory_order_relaxed);
	atomic_store_explicit(&e->stats->dirty_age_us, dirty_age_us(&e->dirty, now), memory_order_relaxed);
	tell_lag(e);
}

void engine_hold(struct engine *e, uint16_t slot, unsigned max_ms)
{
	struct slot_wait *w = engine_wait(e, slot, WAIT_HOLD);

	w->hold_until_us = e->io.now_us(e->io.ctx) + (int64_t)max_ms * 1000;
	w->hold_told = false;
}

void engine_release(struct engine *e, uint16_t slot)
{
	engine_wait_lift(e, slot, WAIT_HOLD);
}

bool engine_wants_turns(const struct engine *e)
{
	return e->waits || e->line.head || e->turned.head || e->crowds || e->fence.stage != FENCE_NONE || e->alone.stage != ALONE_NONE || e->dirty.table || e->dirty_slots || e->queued;
}

bool engine_is_unfinished(const struct engine *e)
{
	return e->crowds != NULL;
}

void engine_set_limits(struct engine *e, size_t queue_max, size_t dirty_max, size_t request_max)
{
	e->opt.queue_max = queue_max;
	e->opt.request_max = request_max;
	e->dirty.max = dirty_max;
}

bool engine_settled(const struct engine *e)
{
	return !e->dirty.table && !e->dirty_slots && engine_idle(e);
}

bool engine_idle(const struct engine *e)
{
	if (e->queued || e->waits || e->line.head || e->turned.head || e->crowds || e->gate.holder || e->alone.stage != ALONE_NONE)
		return false;
	for (unsigned i = 0; i < SLOTS; i++)
		if (e->slots[i].inflight)
			return false;
	return true;
}
