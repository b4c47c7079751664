/* Single races of the engine, each played by hand through its seam: what it sends is kept in order, and the test says when which answer comes. What
 * a seeded schedule would meet once in a million runs is here the whole test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proxy/engine.h"
#include "resp/keyhash.h"
#include "resp/slot.h"
#include "resp/write.h"

#define SENT_MAX 64
#define OTHER_NODE 7

struct sent {
	enum side side;
	uint16_t node;
	unsigned replies;
	reply_fn *fn;
	void *arg;
	sds bytes;
};

struct world {
	struct engine *engine;
	struct journal *journal;
	struct worker_stats stats;
	struct sent sent[SENT_MAX];
	unsigned first, n;         /* sent[first … n) are not answered */
	unsigned answered, repairs, asked_anew;
	sds answer, changed;                /* the last one */
	bool up[SIDES], expires, standalone; /* the source */
	bool fenced, fence_ok, held, held_ok, alone, alone_follower;
	enum copy_result copied;
	int64_t now_us;
};

static void io_send(void *ctx, enum side side, uint16_t db, uint16_t slot, uint16_t node, const char *p, size_t n, struct block *holder, unsigned replies, reply_fn *fn, void *arg)
{
	struct world *w = ctx;

	(void)db;
	(void)slot;
	(void)holder;
	assert_true(w->n < SENT_MAX);
	w->sent[w->n++] = (struct sent){ side, node, replies, fn, arg, sdsnewlen(p, n) };
}

static unsigned io_send_each(void *ctx, enum side side, bool replicas_only, const char *p, size_t n, reply_fn *fn, void *arg)
{
	(void)replicas_only;
	io_send(ctx, side, 0, 0, NODE_NONE, p, n, NULL, 1, fn, arg);
	return 1;
}

static void io_answer(void *ctx, struct req *r)
{
	struct world *w = ctx;

	w->answered++;
	sdsfree(w->answer);
	w->answer = sdsnewlen(r->reply, r->reply_len);
	block_unref(r->block);
	block_unref(r->reply_block);
	free(r->wide);
	free(r);
}

static uint16_t io_redirect(void *ctx, enum side side, uint16_t slot, struct slice error, bool moved)
{
	(void)ctx, (void)side, (void)slot, (void)error, (void)moved;
	return OTHER_NODE;
}

static void io_refresh(void *ctx, enum side side, const char *why) { (void)side, (void)why, ((struct world *)ctx)->asked_anew++; }

static bool io_is_up(void *ctx, enum side side, uint16_t slot) { return (void)slot, ((struct world *)ctx)->up[side]; }

static bool io_are_up(void *ctx, const struct slot_set *slots) { (void)slots; return io_is_up(ctx, SIDE_SOURCE, 0) && io_is_up(ctx, SIDE_TARGET, 0); }

static uint64_t io_generation(void *ctx, enum side side)
{
	(void)ctx, (void)side;
	return 1;
}

static bool io_has_expires(void *ctx, enum side side)
{
	(void)side;
	return ((struct world *)ctx)->expires;
}

static void io_receiver(void *ctx, enum side side, struct receiver *out)
{
	(void)ctx;
	*out = side == SIDE_SOURCE ? (struct receiver){ PRODUCT_REDIS, 0x07000f } : (struct receiver){ PRODUCT_VALKEY, 0x090102 };
}

static bool io_is_cluster(void *ctx, enum side side)
{
	return side == SIDE_TARGET || !((struct world *)ctx)->standalone;
}

static void io_repair(void *ctx, uint16_t db, struct slice key, uint16_t slot, uint8_t losses)
{
	(void)db, (void)key, (void)slot, (void)losses;
	((struct world *)ctx)->repairs++;
}

static void io_rescan(void *ctx, uint16_t slot)
{
	(void)ctx, (void)slot;
}

static void io_copied(void *ctx, struct copy *c)
{
	((struct world *)ctx)->copied = c->result;
	copy_free(c);
}

static void io_changed(void *ctx, uint16_t slot, sds elements, unsigned writes, bool known, sds replies)
{
	struct world *w = ctx;

	(void)slot, (void)writes, (void)known;
	assert_null(replies);
	sdsfree(w->changed);
	w->changed = elements;
}

static void io_failing(void *ctx, enum side from, uint16_t slot, const char *why) { (void)ctx, (void)from, (void)slot, (void)why; }
static void io_held(void *ctx, uint16_t slot, bool ok)
{
	struct world *w = ctx;

	(void)slot;
	w->held = true;
	w->held_ok = ok;
}

static void io_fenced(void *ctx, uint64_t flip, bool ok, const char *why)
{
	struct world *w = ctx;

	(void)flip, (void)why;
	w->fenced = true;
	w->fence_ok = ok;
}

static void io_alone(void *ctx, bool follower)
{
	struct world *w = ctx;

	w->alone = true;
	w->alone_follower = follower;
}

static int64_t io_now_us(void *ctx)
{
	return ((struct world *)ctx)->now_us;
}

static int64_t io_clock_ms(void *ctx, enum side side, uint16_t slot)
{
	(void)side, (void)slot;
	return 1700000000000 + ((struct world *)ctx)->now_us / 1000;
}

static int begin(void **state)
{
	struct world *w = calloc(1, sizeof *w);
	struct engine_io io = { .ctx = w, .send = io_send, .send_each = io_send_each, .answer = io_answer, .redirect = io_redirect, .refresh = io_refresh,
		.is_up = io_is_up, .are_up = io_are_up, .generation = io_generation, .has_expires = io_has_expires, .receiver = io_receiver, .is_cluster = io_is_cluster,
		.repair = io_repair, .rescan = io_rescan, .copied = io_copied, .failing = io_failing, .changed = io_changed, .held = io_held, .fenced = io_fenced, .alone = io_alone, .now_us = io_now_us, .coarse_us = io_now_us, .clock_ms = io_clock_ms };
	struct engine_options o = { .mirror = true, .queue_max = 1 << 20, .dirty_max = 100, .known_max = 100, .request_max = 1 << 20,
		.inband_max = 1 << 20, .resend_us = 1000000 };
	static uint8_t authority[SLOTS], mine[SLOTS];
	static bool synced[SLOTS];

	memset(mine, 1, sizeof mine);
	o.journal = w->journal = journal_new_in_memory(16);
	w->up[SIDE_SOURCE] = w->up[SIDE_TARGET] = true;
	w->engine = engine_new(&io, &o, authority, synced, mine, &w->stats);
	*state = w;
	return 0;
}

static int end(void **state)
{
	struct world *w = *state;

	for (unsigned i = 0; i < w->n; i++) {
		while (w->sent[i].replies) {
			w->sent[i].replies--;
			w->sent[i].fn(w->sent[i].arg, &(struct reply){ .why = "the test is over" });
		}
		sdsfree(w->sent[i].bytes);
	}
	engine_free(w->engine);
	journal_free(w->journal);
	sdsfree(w->answer);
	sdsfree(w->changed);
	free(w);
	return 0;
}

static uint16_t slot_k(void)
{
	return slot_of(SLICE_LIT("k"));
}

static void submit(struct world *w, const char *name, const char *a, const char *b, const char *c)
{
	struct req *r = calloc(1, sizeof *r);
	sds s = resp_cat_words(sdsempty(), name, a, b, c, NULL);

	r->block = block_copy(s, sdslen(s));
	r->bytes = r->block->data;
	r->len = sdslen(s);
	r->cmd = command_find(slice(name, strlen(name)));
	r->slot = slot_k();
	r->ask_node = NODE_NONE;
	r->write = r->cmd->effect != EFFECT_NONE;
	sdsfree(s);
	engine_submit(w->engine, r);
}

static void submit_wide(struct world *w, const char *name, const char *a, const char *b)
{
	struct req *r = calloc(1, sizeof *r);
	sds s = resp_cat_words(sdsempty(), name, a, "1", b, "2", NULL);

	r->block = block_copy(s, sdslen(s));
	r->bytes = r->block->data;
	r->len = sdslen(s);
	r->cmd = command_find(slice(name, strlen(name)));
	r->ask_node = NODE_NONE;
	r->write = true;
	r->wide = calloc(1, sizeof *r->wide + 2 * sizeof r->wide->slot[0]);
	r->wide->n = 2;
	r->wide->slot[0] = r->slot = slot_of(slice(a, strlen(a)));
	r->wide->slot[1] = slot_of(slice(b, strlen(b)));
	sdsfree(s);
	engine_submit(w->engine, r);
}

/* One answer to what stands at `at`; NULL: the connection was lost. */
static void answer_at(struct world *w, unsigned at, const char *text)
{
	struct sent *s = &w->sent[at];
	struct reply r = { .why = "source 1 was lost" };

	assert_true(at < w->n && s->replies > 0);
	s->replies--;
	r.sent = true;
	if (text) {
		r.block = block_copy(text, strlen(text));
		r.p = r.block->data;
		r.n = strlen(text);
	}
	s->fn(s->arg, &r);
	block_unref(r.block);
}

static void answer(struct world *w, const char *text)
{
	while (w->first < w->n && !w->sent[w->first].replies)
		w->first++;
	answer_at(w, w->first, text);
}

static bool was_sent(const struct world *w, unsigned at, enum side side, const char *word)
{
	return at < w->n && w->sent[at].side == side && strstr(w->sent[at].bytes, word);
}

static struct copy *copy_of_k(struct world *w, enum copy_kind kind, const char *block)
{
	struct copy *c = copy_new(0, SLICE_LIT("k"), slot_k());

	c->kind = kind;
	c->from = engine_authority(w->engine, slot_k());
	c->generation = 1;
	c->token = version_token(engine_versions(w->engine), stripe_of(keyhash_of(0, SLICE_LIT("k")).low64), false);
	c->recipe = RECIPE_DUMP;
	c->ncommands = kind == COPY_INBAND ? 2 : 1;
	c->block = sdsnew(block);
	return c;
}

#define READ_K "*2\r\n$4\r\nDUMP\r\n$1\r\nk\r\n*2\r\n$11\r\nPEXPIRETIME\r\n$1\r\nk\r\n"
#define DELETE_K "*2\r\n$6\r\nUNLINK\r\n$1\r\nk\r\n"

/* A write that is asked of another node takes its tail along: over the slot's own connection the tail's answer could come first. */
static void test_tail_goes_with_the_write(void **state)
{
	struct world *w = *state;

	w->expires = true;
	engine_slot_done(w->engine, SLOTS);
	submit(w, "SETBIT", "k", "1", "1");
	assert_true(was_sent(w, 0, SIDE_SOURCE, "SETBIT") && was_sent(w, 1, SIDE_SOURCE, "PEXPIRETIME"));
	answer(w, "-ASK 7629 127.0.0.1:1\r\n");
	answer(w, ":-2\r\n");
	assert_true(was_sent(w, 2, SIDE_SOURCE, "SETBIT") && was_sent(w, 3, SIDE_SOURCE, "PEXPIRETIME"));
	assert_int_equal(w->sent[2].node, OTHER_NODE);
	assert_int_equal(w->sent[3].node, OTHER_NODE);
	answer(w, ":0\r\n");
	answer(w, ":-1\r\n");
	assert_int_equal(w->answered, 1);
	assert_true(was_sent(w, 4, SIDE_TARGET, "SETBIT"));
}

static void fence(struct world *w, uint64_t flip)
{
	struct slot_set all;

	memset(&all, 0xff, sizeof all);
	engine_fence(w->engine, flip, &all, SIDE_TARGET, 1000);
}

/* A request of several slots waits for each of them; what comes behind it and shares one with it stays behind it. */
static void test_wide_request_keeps_its_place(void **state)
{
	struct world *w = *state;
	uint16_t other = slot_of(SLICE_LIT("o"));

	w->standalone = true;
	engine_slot_done(w->engine, SLOTS);
	engine_hold(w->engine, other, 1000);
	submit_wide(w, "MSET", "k", "o");
	submit(w, "SET", "k", "v", NULL);
	assert_int_equal(w->n, 0);
	engine_release(w->engine, other);
	engine_turn(w->engine);
	assert_true(was_sent(w, 0, SIDE_SOURCE, "MSET") && was_sent(w, 1, SIDE_SOURCE, "SET"));
	answer(w, "+OK\r\n"); /* each slot gets its part, in a write of its own */
	assert_true(was_sent(w, 2, SIDE_TARGET, "MSET") && was_sent(w, 3, SIDE_TARGET, "MSET"));
	answer(w, "+OK\r\n");
	answer(w, "-OOM\r\n");
	answer(w, "+OK\r\n");
	answer(w, "+OK\r\n");
	engine_turn(w->engine);
	assert_int_equal(atomic_load(&w->stats.dirty_keys), 1);
	assert_int_equal(w->repairs, 1);
	engine_copy(w->engine, copy_of_k(w, COPY_FAILED, ""));
}

/* Between the proof and the flip nothing is read or copied any more: the read would be of the former authority. */
static void test_no_copy_behind_the_proof(void **state)
{
	struct world *w = *state;
	struct fence_result result;

	engine_slot_done(w->engine, SLOTS);
	fence(w, 1);
	answer(w, "+PONG\r\n");
	answer(w, "+PONG\r\n");
	engine_turn(w->engine);
	answer(w, ":1\r\n");
	engine_turn(w->engine);
	assert_true(w->fenced && w->fence_ok);
	unsigned before = w->n;
	engine_copy(w->engine, copy_of_k(w, COPY_INBAND, READ_K));
	assert_int_equal(w->n, before);
	assert_int_equal(w->copied, COPY_REFUSED);
	engine_flip(w->engine, 1, &result);
	submit(w, "SET", "k", "new", NULL);
	assert_true(was_sent(w, before, SIDE_TARGET, "SET"));
	answer(w, "+OK\r\n");
	assert_true(was_sent(w, before + 1, SIDE_SOURCE, "SET"));
	answer(w, "+OK\r\n");
}

/* Race 9: a hint that comes behind the proof does not postpone the flip; one that comes before does, until the key is settled, whatever is said of it later. */
static void test_hints_behind_the_proof(void **state)
{
	struct world *w = *state;

	engine_slot_done(w->engine, SLOTS);
	fence(w, 1);
	answer(w, "+PONG\r\n");
	answer(w, "+PONG\r\n");
	engine_turn(w->engine);
	engine_foreign(w->engine, SIDE_SOURCE, true, 0, SLICE_LIT("k"), slot_k());
	answer(w, ":1\r\n");
	engine_turn(w->engine);
	assert_true(w->fenced && w->fence_ok);
	engine_unfence(w->engine, 1);
	w->fenced = false;
	fence(w, 2);
	answer(w, "+PONG\r\n");
	answer(w, "+PONG\r\n");
	w->now_us += 20000;
	engine_turn(w->engine);
	assert_false(w->fenced);
	assert_true(was_sent(w, w->n - 1, SIDE_SOURCE, "PEXPIRETIME"));
	answer(w, ":-2\r\n");
	assert_true(was_sent(w, w->n - 1, SIDE_TARGET, "UNLINK"));
	engine_foreign(w->engine, SIDE_TARGET, true, 0, SLICE_LIT("k"), slot_k());
	answer(w, ":1\r\n");
	engine_turn(w->engine);
	assert_true(was_sent(w, w->n - 1, SIDE_TARGET, "WAIT"));
	answer(w, ":1\r\n");
	engine_turn(w->engine);
	assert_true(w->fenced && w->fence_ok);
	engine_unfence(w->engine, 2);
}

/* A key of which a server told and that is gone: removed at the point of the authority's answer, and effects behind it find it so. */
static void test_glance_at_a_key_that_is_gone(void **state)
{
	struct world *w = *state;

	engine_slot_done(w->engine, SLOTS);
	engine_foreign(w->engine, SIDE_SOURCE, true, 0, SLICE_LIT("k"), slot_k());
	engine_turn(w->engine);
	assert_true(was_sent(w, 0, SIDE_SOURCE, "PEXPIRETIME"));
	submit(w, "HSET", "k", "f", "1");
	answer(w, ":-2\r\n");
	assert_true(was_sent(w, 2, SIDE_TARGET, "UNLINK"));
	answer(w, ":1\r\n");
	assert_true(was_sent(w, 3, SIDE_TARGET, "HSET"));
	answer(w, ":0\r\n");
	answer(w, ":1\r\n");
	engine_turn(w->engine);
	assert_int_equal(atomic_load(&w->stats.dirty_keys), 0);
	assert_int_equal(atomic_load(&w->stats.mismatches), 0);
}

static bool is_ours_alone(struct world *w, bool home, const char *glance)
{
	engine_foreign(w->engine, SIDE_SOURCE, home, 0, SLICE_LIT("k"), slot_k());
	engine_turn(w->engine);
	answer(w, glance);
	engine_copy(w->engine, copy_of_k(w, COPY_APPLY, READ_K));
	answer(w, ":1\r\n");
	submit(w, "APPEND", "k", "x", NULL);
	answer(w, ":2\r\n");
	return was_sent(w, w->n - 1, SIDE_TARGET, "APPEND");
}

/* A slot that moves takes its keys along: the node it comes to tells of them, and the one that it has left; nobody need be writing. */
static void test_told_of_by_nodes(void **state)
{
	engine_slot_done(((struct world *)*state)->engine, SLOTS);
	assert_true(is_ours_alone(*state, false, ":-1\r\n"));
	answer(*state, ":2\r\n");
	assert_true(is_ours_alone(*state, true, "-MOVED 7629 127.0.0.1:7\r\n"));
	answer(*state, ":2\r\n");
	assert_false(is_ours_alone(*state, true, ":-1\r\n"));
}

/* One that is there is copied as any other; so is one whose glance got no answer. */
static void test_glance_at_a_key_that_is_there(void **state)
{
	struct world *w = *state;

	engine_foreign(w->engine, SIDE_SOURCE, true, 0, SLICE_LIT("k"), slot_k());
	engine_turn(w->engine);
	assert_int_equal(w->repairs, 0);
	answer(w, ":-1\r\n");
	engine_turn(w->engine);
	assert_int_equal(w->repairs, 1);
	assert_int_equal(w->n, 1);
	engine_copy(w->engine, copy_of_k(w, COPY_FAILED, ""));
}

/* Off and on again: what was read before is older than what was written between, which moved no version. */
static void test_copy_from_before_an_abort(void **state)
{
	struct world *w = *state;
	struct copy *c = copy_of_k(w, COPY_APPLY, DELETE_K);

	engine_mirror(w->engine, false);
	submit(w, "SET", "k", "v", NULL);
	answer(w, "+OK\r\n");
	engine_mirror(w->engine, true);
	unsigned before = w->n;
	engine_copy(w->engine, c);
	assert_int_equal(w->n, before);
	assert_int_equal(w->copied, COPY_STALE);
}

/* What the backfill worker told when it had not yet heard of the abort must not count for the next migration. */
static void test_slot_done_behind_an_abort(void **state)
{
	struct world *w = *state;

	engine_mirror(w->engine, false);
	engine_slot_done(w->engine, slot_k());
	engine_mirror(w->engine, true);
	submit(w, "APPEND", "k", "x", NULL);
	answer(w, ":5\r\n");
	engine_turn(w->engine);
	assert_int_equal(w->repairs, 1); /* a snapshot, no APPEND onto what the follower may not have */
	assert_int_equal(w->n, 1);
}

/* Race 1: the key was not synced when the write was sent, so its expiry was not asked; that its SET made it synced meanwhile does not help. */
static void test_unproven_behind_its_set(void **state)
{
	struct world *w = *state;

	w->expires = true;
	submit(w, "PSETEX", "k", "50", "v");
	submit(w, "SETBIT", "k", "1", "1");
	answer(w, "+OK\r\n");
	assert_true(was_sent(w, 2, SIDE_TARGET, "PXAT"));
	answer(w, ":0\r\n");
	engine_turn(w->engine);
	assert_int_equal(w->n, 3); /* no SETBIT that the expired copy could turn into a fragment */
	answer(w, "+OK\r\n");
}

/* Race 4: a copy that was on its way when the whole slot became doubtful does not make its key known. */
static void test_copy_older_than_a_doubt(void **state)
{
	struct world *w = *state;

	engine_copy(w->engine, copy_of_k(w, COPY_APPLY, DELETE_K));
	engine_slots_dirty(w->engine, NULL, "test");
	answer(w, ":0\r\n");
	assert_int_equal(w->copied, COPY_APPLIED);
	submit(w, "APPEND", "k", "x", NULL);
	answer(w, ":1\r\n");
	engine_turn(w->engine);
	assert_int_equal(w->n, 2);
	assert_int_equal(w->repairs, 1);
}

/* Race 4: the answer of a scan's copy that was on its way before the mark is not the answer of the repair behind it; the mark stays, and its journal entry. */
static void test_answer_of_an_older_copy(void **state)
{
	struct world *w = *state;
	struct copy *repair;

	engine_copy(w->engine, copy_of_k(w, COPY_APPLY, DELETE_K));
	engine_mark(w->engine, 0, SLICE_LIT("k"), slot_k());
	repair = copy_of_k(w, COPY_APPLY, DELETE_K);
	repair->repair = true;
	engine_turn(w->engine);
	engine_copy(w->engine, repair);
	assert_int_equal(w->n, 2);
	answer(w, ":0\r\n");
	engine_turn(w->engine);
	assert_int_equal(w->stats.dirty_keys, 1);
	answer(w, ":0\r\n");
	engine_turn(w->engine);
	assert_int_equal(w->stats.dirty_keys, 0);
}

/* Race 7: while the authority's connection is lost nothing is read for the follower, and what was read is refused. */
static void test_authority_is_down(void **state)
{
	struct world *w = *state;

	submit(w, "SET", "k", "v", NULL);
	w->up[SIDE_SOURCE] = false;
	answer(w, NULL);
	assert_non_null(strstr(w->answer, "UNKNOWN"));
	engine_turn(w->engine);
	assert_int_equal(w->repairs, 0);
	engine_copy(w->engine, copy_of_k(w, COPY_APPLY, DELETE_K));
	assert_int_equal(w->copied, COPY_REFUSED);
	w->up[SIDE_SOURCE] = true;
	w->now_us += 1000000;
	engine_turn(w->engine);
	assert_int_equal(w->repairs, 1);
}

/* A follower that redirects is looked at again at once. */
static void test_follower_redirects(void **state)
{
	struct world *w = *state;

	submit(w, "SET", "k", "v", NULL);
	answer(w, "+OK\r\n");
	answer(w, "-MOVED 7629 127.0.0.1:1\r\n");
	assert_int_equal(w->asked_anew, 1);
	engine_turn(w->engine);
	assert_int_equal(w->repairs, 1);
}

/* Writes are held back for a copy: that the slot is read all the time must not keep it from coming to rest. */
static void test_hold_while_it_is_read(void **state)
{
	struct world *w = *state;

	submit(w, "GET", "k", NULL, NULL);
	submit(w, "SET", "k", "v", NULL);
	engine_hold(w->engine, slot_k(), 1000);
	engine_turn(w->engine);
	assert_false(w->held);
	submit(w, "GET", "k", NULL, NULL);
	answer(w, "_\r\n");
	answer(w, "+OK\r\n");
	engine_turn(w->engine);
	assert_false(w->held); /* the SET's effect */
	answer_at(w, 3, "+OK\r\n");
	engine_turn(w->engine);
	assert_true(w->held && w->held_ok);
	answer_at(w, 2, "_\r\n");
	engine_release(w->engine, slot_k());
}

/* Race 5: a flush goes behind all that was sent, everything else waits; what was read before it, or in its middle, is worth nothing. Keys that are dirty are looked at again. */
static void test_flush(void **state)
{
	struct world *w = *state;
	uint16_t m = slot_of(SLICE_LIT("m"));

	engine_slot_done(w->engine, SLOTS);
	engine_mark(w->engine, 0, SLICE_LIT("m"), m);
	submit(w, "SET", "k", "1", NULL);
	engine_alone_begin(w->engine, 1000);
	submit(w, "GET", "k", NULL, NULL);
	assert_int_equal(w->n, 1);
	engine_copy(w->engine, copy_of_k(w, COPY_APPLY, DELETE_K));
	assert_int_equal(w->copied, COPY_REFUSED);
	answer(w, "+OK\r\n");
	engine_turn(w->engine);
	assert_true(was_sent(w, 1, SIDE_TARGET, "SET") && !w->alone);
	answer(w, "+OK\r\n");
	engine_turn(w->engine);
	assert_true(w->alone && w->alone_follower && w->n == 2 && w->repairs == 0);
	assert_true(version_token(engine_versions(w->engine), stripe_of(keyhash_of(0, SLICE_LIT("other")).low64), false) == VERSION_BUSY);
	fence(w, 1);
	assert_int_equal(w->n, 2); /* a flip waits, too */
	engine_unfence(w->engine, 1);
	engine_alone_end(w->engine, ALONE_EMPTIED, NULL);
	assert_true(was_sent(w, 2, SIDE_SOURCE, "GET"));
	answer(w, "$1\r\n1\r\n");
	engine_turn(w->engine);
	assert_int_equal(w->repairs, 1);
	assert_int_equal(atomic_load(&w->stats.dirty_slots), 0);
}

static void test_copy_from_before_a_flush(void **state)
{
	struct world *w = *state;
	struct copy *before = copy_of_k(w, COPY_APPLY, DELETE_K);

	engine_alone_begin(w->engine, 1000);
	assert_true(w->alone);
	engine_alone_end(w->engine, ALONE_EMPTIED, NULL);
	engine_copy(w->engine, before);
	assert_int_equal(w->copied, COPY_STALE);
	assert_int_equal(w->n, 0);
}

/* Some nodes did it, or databases were swapped: all slots are walked. None did: nothing has happened. */
static void test_flush_that_failed(void **state)
{
	struct world *w = *state;

	engine_alone_begin(w->engine, 1000);
	assert_true(w->alone);
	engine_alone_end(w->engine, ALONE_NOTHING, NULL);
	assert_true(engine_settled(w->engine));
	engine_alone_begin(w->engine, 1000);
	engine_alone_end(w->engine, ALONE_UNSURE, "test");
	engine_turn(w->engine);
	assert_int_equal(atomic_load(&w->stats.dirty_slots), SLOTS);
}

/* A follower that does not answer holds nobody up for long: it is left out. */
static void test_flush_beside_a_silent_follower(void **state)
{
	struct world *w = *state;

	engine_slot_done(w->engine, SLOTS);
	submit(w, "SET", "k", "1", NULL);
	answer(w, "+OK\r\n");
	engine_alone_begin(w->engine, 1000);
	engine_turn(w->engine);
	assert_false(w->alone);
	w->now_us += 1000000;
	engine_turn(w->engine);
	assert_true(w->alone && !w->alone_follower);
	engine_alone_end(w->engine, ALONE_UNSURE, "test");
	answer(w, "+OK\r\n");
	engine_turn(w->engine);
	assert_int_equal(atomic_load(&w->stats.dirty_slots), SLOTS);
}

/* A flip that is under way ends first. */
static void test_flush_behind_a_flip(void **state)
{
	struct world *w = *state;

	fence(w, 1);
	engine_alone_begin(w->engine, 1000);
	engine_turn(w->engine);
	assert_false(w->alone);
	engine_unfence(w->engine, 1);
	engine_turn(w->engine);
	assert_true(w->alone);
	engine_alone_end(w->engine, ALONE_NOTHING, NULL);
}

static void count_slot(void *ctx, uint16_t slot)
{
	(void)slot;
	++*(unsigned *)ctx;
}

static unsigned slots_owed(const struct journal *j)
{
	unsigned n = 0;

	journal_read_memory(j, &(struct journal_reader){ .ctx = &n, .slot = count_slot });
	return n;
}

/* Killed between the two sides: the journal owes every slot from before the first is asked until both have answered. */
static void test_flush_is_owed(void **state)
{
	struct world *w = *state;

	engine_slot_done(w->engine, SLOTS);
	engine_alone_begin(w->engine, 1000);
	assert_true(w->alone);
	assert_int_equal(slots_owed(w->journal), SLOTS);
	engine_alone_end(w->engine, ALONE_EMPTIED, NULL);
	assert_int_equal(journal_owed(w->journal), 0);
}

/* Read while one write was in flight and offered while another one is: that both times there was no token makes it no token (invariant 3). */
static void test_copy_without_a_token(void **state)
{
	struct world *w = *state;

	engine_slot_done(w->engine, SLOTS);
	submit(w, "SET", "k", "1", NULL);
	struct copy *c = copy_of_k(w, COPY_APPLY, DELETE_K);
	assert_true(c->token == VERSION_BUSY);
	engine_copy(w->engine, c);
	assert_int_equal(w->copied, COPY_STALE);
	assert_int_equal(w->n, 1);
	answer(w, "+OK\r\n");
}

/* A list that is copied while it is written to: what a write over several slots did to it is done again once. */
static void test_changes_of_a_spread_write(void **state)
{
	struct world *w = *state;

	w->standalone = true;
	engine_slot_done(w->engine, SLOTS);
	engine_follow(w->engine, 0, SLICE_LIT("k"));
	submit(w, "RPOPLPUSH", "k", "other", NULL);
	answer(w, "$1\r\nx\r\n");
	engine_changes(w->engine, slot_k());
	assert_string_equal(w->changed, "*2\r\n$4\r\nRPOP\r\n$1\r\nk\r\n");
	submit(w, "RPOPLPUSH", "other", "k", NULL);
	answer_at(w, w->n - 1, "$1\r\nx\r\n");
	engine_changes(w->engine, slot_k());
	assert_string_equal(w->changed, "*3\r\n$5\r\nLPUSH\r\n$1\r\nk\r\n$1\r\nx\r\n");
	engine_follow(w->engine, 0, slice(NULL, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_tail_goes_with_the_write, begin, end),
		cmocka_unit_test_setup_teardown(test_wide_request_keeps_its_place, begin, end),
		cmocka_unit_test_setup_teardown(test_no_copy_behind_the_proof, begin, end),
		cmocka_unit_test_setup_teardown(test_hints_behind_the_proof, begin, end),
		cmocka_unit_test_setup_teardown(test_glance_at_a_key_that_is_gone, begin, end),
		cmocka_unit_test_setup_teardown(test_glance_at_a_key_that_is_there, begin, end),
		cmocka_unit_test_setup_teardown(test_told_of_by_nodes, begin, end),
		cmocka_unit_test_setup_teardown(test_copy_from_before_an_abort, begin, end),
		cmocka_unit_test_setup_teardown(test_slot_done_behind_an_abort, begin, end),
		cmocka_unit_test_setup_teardown(test_unproven_behind_its_set, begin, end),
		cmocka_unit_test_setup_teardown(test_copy_older_than_a_doubt, begin, end),
		cmocka_unit_test_setup_teardown(test_answer_of_an_older_copy, begin, end),
		cmocka_unit_test_setup_teardown(test_authority_is_down, begin, end),
		cmocka_unit_test_setup_teardown(test_follower_redirects, begin, end),
		cmocka_unit_test_setup_teardown(test_hold_while_it_is_read, begin, end),
		cmocka_unit_test_setup_teardown(test_flush, begin, end),
		cmocka_unit_test_setup_teardown(test_copy_from_before_a_flush, begin, end),
		cmocka_unit_test_setup_teardown(test_flush_that_failed, begin, end),
		cmocka_unit_test_setup_teardown(test_flush_beside_a_silent_follower, begin, end),
		cmocka_unit_test_setup_teardown(test_flush_behind_a_flip, begin, end),
		cmocka_unit_test_setup_teardown(test_flush_is_owed, begin, end),
		cmocka_unit_test_setup_teardown(test_copy_without_a_token, begin, end),
		cmocka_unit_test_setup_teardown(test_changes_of_a_spread_write, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
