/* Writes of many keys, settled part by part (engine_crowd.c): here three are many, and a turn makes one part. Each answer comes when the test says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proxy/engine.h"
#include "resp/keyhash.h"
#include "resp/slot.h"
#include "resp/words.h"
#include "resp/write.h"

#define SENT_MAX 64

struct world {
	struct engine *engine;
	struct journal *journal;
	struct worker_stats stats;
	struct sent { enum side side; reply_fn *fn; void *arg; sds words; } sent[SENT_MAX]; /* words: of the request, a space behind each */
	unsigned n, answered, repairs;
	bool fenced, cluster;
	int64_t now_us;
};

static void io_send(void *ctx, enum side side, uint16_t db, uint16_t slot, uint16_t node, const char *p, size_t n, struct block *holder, unsigned replies, reply_fn *fn, void *arg)
{
	struct world *w = ctx;
	struct slice *argv = NULL;
	size_t cap = 0;
	sds words = sdsempty();

	(void)db, (void)slot, (void)node, (void)holder;
	assert_true(w->n < SENT_MAX && replies == 1);
	for (uint32_t i = 0, argc = resp_words(p, n, &argv, &cap); i < argc; i++)
		words = sdscatlen(sdscatlen(words, argv[i].p, argv[i].n), " ", 1);
	free(argv);
	w->sent[w->n++] = (struct sent){ side, fn, arg, words };
}

static unsigned io_send_each(void *ctx, enum side side, bool replicas_only, const char *p, size_t n, reply_fn *fn, void *arg)
{
	if (replicas_only)
		return 0;
	io_send(ctx, side, 0, 0, NODE_NONE, p, n, NULL, 1, fn, arg);
	return 1;
}

static void io_answer(void *ctx, struct req *r)
{
	((struct world *)ctx)->answered++;
	block_unref(r->block);
	block_unref(r->reply_block);
	free(r->wide);
	free(r);
}

static bool io_is_up(void *ctx, enum side side, uint16_t slot)
{
	(void)ctx, (void)side, (void)slot;
	return true;
}

static bool io_are_up(void *ctx, const struct slot_set *slots)
{
	(void)slots;
	return io_is_up(ctx, SIDE_SOURCE, 0) && io_is_up(ctx, SIDE_TARGET, 0);
}

static bool io_has_expires(void *ctx, enum side side)
{
	(void)ctx, (void)side;
	return false;
}

static void io_receiver(void *ctx, enum side side, struct receiver *out)
{
	(void)ctx, (void)side;
	*out = (struct receiver){ PRODUCT_VALKEY, 0x090102 };
}

static bool io_is_cluster(void *ctx, enum side side)
{
	return side == SIDE_TARGET && ((struct world *)ctx)->cluster;
}

static void io_repair(void *ctx, uint16_t db, struct slice key, uint16_t slot, uint8_t losses)
{
	(void)db, (void)key, (void)slot, (void)losses;
	((struct world *)ctx)->repairs++;
}

static void io_fenced(void *ctx, uint64_t flip, bool ok, const char *why)
{
	(void)flip, (void)why;
	assert_true(ok);
	((struct world *)ctx)->fenced = true;
}

static int64_t io_now_us(void *ctx)
{
	return ((struct world *)ctx)->now_us;
}

static int64_t io_clock_ms(void *ctx, enum side side, uint16_t slot)
{
	(void)ctx, (void)side, (void)slot;
	return 1700000000000;
}

static void make(struct world *w, bool ack_both)
{
	struct engine_io io = { .ctx = w, .send = io_send, .send_each = io_send_each, .answer = io_answer, .is_up = io_is_up, .are_up = io_are_up, .has_expires = io_has_expires,
		.receiver = io_receiver, .is_cluster = io_is_cluster, .repair = io_repair, .fenced = io_fenced, .now_us = io_now_us, .coarse_us = io_now_us, .clock_ms = io_clock_ms };
	struct engine_options o = { .mirror = true, .ack_both = ack_both, .queue_max = 1 << 20, .dirty_max = 100, .known_max = 100, .request_max = 1 << 20,
		.inband_max = 1 << 20, .resend_us = 1000000, .crowd_least = 3 };
	static uint8_t authority[SLOTS], mine[SLOTS];
	static bool synced[SLOTS];

	memset(mine, 1, sizeof mine);
	memset(synced, 1, sizeof synced);
	o.journal = w->journal = journal_new_in_memory(16);
	w->engine = engine_new(&io, &o, authority, synced, mine, &w->stats);
}

static int begin(void **state)
{
	struct world *w = calloc(1, sizeof *w);

	make(w, false);
	*state = w;
	return 0;
}

static int begin_both(void **state)
{
	struct world *w = calloc(1, sizeof *w);

	make(w, true);
	w->cluster = true;
	*state = w;
	return 0;
}

static int end(void **state)
{
	struct world *w = *state;

	for (unsigned i = 0; i < w->n; i++) {
		if (w->sent[i].fn)
			w->sent[i].fn(w->sent[i].arg, &(struct reply){ .why = "the test is over" });
		sdsfree(w->sent[i].words);
	}
	engine_free(w->engine);
	journal_free(w->journal);
	free(w);
	return 0;
}

/* words: with a space behind each. The keys are at first, first + step, … */
static void submit(struct world *w, const char *words, unsigned first, unsigned step, unsigned nkeys)
{
	struct req *r = calloc(1, sizeof *r);
	int n;
	sds *word = sdssplitlen(words, (ssize_t)strlen(words) - 1, " ", 1, &n);
	sds s = resp_cat_len(sdsempty(), '*', n);

	r->wide = calloc(1, sizeof *r->wide + nkeys * sizeof r->wide->slot[0]);
	for (int i = 0; i < n; i++)
		s = resp_cat_bulk(s, slice(word[i], sdslen(word[i])));
	for (unsigned i = 0; i < nkeys; i++)
		r->wide->slot[r->wide->n++] = slot_of(slice(word[first + i * step], sdslen(word[first + i * step])));
	r->slot = r->wide->slot[0];
	r->block = block_copy(s, sdslen(s));
	r->bytes = r->block->data;
	r->len = sdslen(s);
	r->cmd = command_find(slice(word[0], sdslen(word[0])));
	r->ask_node = NODE_NONE;
	r->write = true;
	sdsfree(s);
	sdsfreesplitres(word, n);
	engine_submit(w->engine, r);
}

static void submit_set(struct world *w, const char *key)
{
	sds words = sdscatprintf(sdsempty(), "SET %s own ", key);

	submit(w, words, 1, 1, 1);
	sdsfree(words);
}

static void answer(struct world *w, unsigned at, const char *text)
{
	struct reply r = { .why = "a node was lost", .sent = true };
	reply_fn *fn = w->sent[at].fn;

	if (text) {
		r.block = block_copy(text, strlen(text));
		r.p = r.block->data;
		r.n = strlen(text);
	}
	w->sent[at].fn = NULL;
	fn(w->sent[at].arg, &r);
	block_unref(r.block);
}

static bool was_sent(const struct world *w, unsigned at, enum side side, const char *words)
{
	return at < w->n && w->sent[at].side == side && strcmp(w->sent[at].words, words) == 0;
}

static void turn(struct world *w)
{
	w->now_us += 1000;
	engine_turn(w->engine);
}

static uint64_t token(const struct world *w, const char *key)
{
	return version_token(engine_versions(w->engine), stripe_of(keyhash_of(0, slice(key, strlen(key))).low64), true);
}

static bool quiet(const struct world *w)
{
	return token(w, "a") != VERSION_BUSY && token(w, "b") != VERSION_BUSY && token(w, "c") != VERSION_BUSY;
}

/* Keys of slots 3300 (b), 7365 (c) and 15495 (a): in this order its turns come. */
static void test_part_by_part(void **state)
{
	struct world *w = *state;

	submit(w, "MSET a 1 b 2 c 3 a 4 ", 1, 2, 4);
	assert_true(journal_owed(w->journal) == 3 && !quiet(w) && engine_is_unfinished(w->engine) == false);
	answer(w, 0, "+OK\r\n");
	assert_true(w->answered == 1 && w->n == 1 && engine_is_unfinished(w->engine));
	turn(w);
	assert_true(w->n == 2 && was_sent(w, 1, SIDE_TARGET, "MSET b 2 "));
	turn(w);
	turn(w);
	assert_true(w->n == 4 && was_sent(w, 2, SIDE_TARGET, "MSET c 3 ") && was_sent(w, 3, SIDE_TARGET, "MSET a 1 a 4 "));
	assert_true(!engine_is_unfinished(w->engine) && !engine_settled(w->engine) && !quiet(w) && journal_owed(w->journal) == 3);
	for (unsigned i = 1; i < 4; i++)
		answer(w, i, "+OK\r\n");
	turn(w);
	assert_true(engine_settled(w->engine) && quiet(w) && journal_owed(w->journal) == 0);
}

/* Invariant 2: what is behind it in a slot has that slot's part before it, and waits for no other. */
static void test_later_writes_come_behind_their_part(void **state)
{
	struct world *w = *state;

	submit(w, "DEL a b c ", 1, 1, 3);
	submit_set(w, "a");
	submit(w, "UNLINK c d e ", 1, 1, 3);
	answer(w, 0, ":3\r\n");
	answer(w, 1, "+OK\r\n");
	assert_true(w->n == 5 && was_sent(w, 3, SIDE_TARGET, "DEL a ") && was_sent(w, 4, SIDE_TARGET, "SET a own "));
	answer(w, 2, ":3\r\n");
	engine_mark(w->engine, 0, SLICE_LIT("c"), slot_of(SLICE_LIT("c"))); /* a mark is newer than both: neither may clear it */
	assert_true(w->n == 7 && was_sent(w, 5, SIDE_TARGET, "DEL c ") && was_sent(w, 6, SIDE_TARGET, "UNLINK c "));
	for (unsigned i = 0; i < 3; i++)
		turn(w);
	assert_true(w->n == 10 && !engine_is_unfinished(w->engine));
	for (unsigned i = 3; i < 10; i++)
		answer(w, i, i == 4 ? "+OK\r\n" : ":1\r\n");
	turn(w);
	assert_true(!engine_settled(w->engine) && w->repairs == 1 && w->stats.mismatches == 0);
}

/* Invariant 7: no fence passes while a part is still to be made. */
static void test_fence_waits(void **state)
{
	struct world *w = *state;
	struct slot_set all;
	struct fence_result out;

	memset(&all, 0xff, sizeof all);
	submit(w, "MSET a 1 b 2 c 3 ", 1, 2, 3);
	answer(w, 0, "+OK\r\n");
	engine_fence(w->engine, 1, &all, SIDE_TARGET, 1000);
	assert_true(w->n == 3); /* a PING to each side */
	answer(w, 1, "+PONG\r\n");
	answer(w, 2, "+PONG\r\n");
	turn(w);
	assert_true(w->n == 4);
	answer(w, 3, "+OK\r\n");
	turn(w);
	assert_true(w->n == 5 && !w->fenced);
	answer(w, 4, "+OK\r\n"); /* nothing is unacknowledged now, and one slot has still no part */
	turn(w);
	assert_true(w->n == 6 && !w->fenced);
	answer(w, 5, "+OK\r\n");
	turn(w);
	assert_true(w->fenced);
	engine_flip(w->engine, 1, &out);
	assert_int_equal(engine_authority(w->engine, 0), SIDE_TARGET);
}

static void test_what_cannot_be_restated_is_marked(void **state)
{
	struct world *w = *state;

	submit(w, "EVAL x 3 a b c ", 3, 1, 3);
	answer(w, 0, "-ERR it failed after what it wrote\r\n");
	turn(w);
	assert_int_equal(w->repairs, 1);
	turn(w);
	turn(w);
	assert_true(w->repairs == 3 && w->n == 1 && !engine_is_unfinished(w->engine) && journal_owed(w->journal) == 3);
}

static void test_lost_reply_marks_all(void **state)
{
	struct world *w = *state;

	submit(w, "MSET a 1 b 2 c 3 ", 1, 2, 3);
	answer(w, 0, NULL);
	assert_true(w->answered == 1 && journal_owed(w->journal) == 3);
	for (unsigned i = 0; i < 3; i++)
		turn(w);
	assert_true(w->repairs == 3 && w->n == 1 && !engine_is_unfinished(w->engine));
}

static void test_restated(void **state)
{
	struct world *w = *state;

	submit(w, "MSETNX a 1 b 2 c 3 ", 1, 2, 3);
	answer(w, 0, ":1\r\n");
	turn(w);
	assert_true(w->n == 2 && was_sent(w, 1, SIDE_TARGET, "MSET b 2 "));
	turn(w);
	turn(w);
	assert_int_equal(w->n, 4);
	submit(w, "LMPOP 3 a b c LEFT ", 2, 1, 3);
	answer(w, 4, "*2\r\n$1\r\nc\r\n*1\r\n$1\r\nx\r\n");
	assert_true(w->n == 6 && was_sent(w, 5, SIDE_TARGET, "LPOP c 1 ")); /* nothing else was touched */
	for (unsigned i = 1; i < 6; i++)
		if (i != 4)
			answer(w, i, i == 5 ? "*1\r\n$1\r\nx\r\n" : "+OK\r\n");
	turn(w);
	assert_true(engine_settled(w->engine) && quiet(w) && journal_owed(w->journal) == 0 && w->stats.mismatches == 0);
}

static void test_nothing_was_there(void **state)
{
	struct world *w = *state;

	submit(w, "DEL a b c ", 1, 1, 3);
	answer(w, 0, ":0\r\n");
	turn(w);
	assert_true(w->n == 1 && engine_settled(w->engine) && quiet(w) && journal_owed(w->journal) == 0);
}

/* mirror-ack both: the client hears when the follower has all of it. */
static void test_answer_waits_for_the_last_part(void **state)
{
	struct world *w = *state;

	submit(w, "DEL a b c ", 1, 1, 3);
	answer(w, 0, ":3\r\n");
	for (unsigned i = 0; i < 3; i++)
		turn(w);
	for (unsigned i = 1; i < 4; i++) {
		assert_int_equal(w->answered, 0);
		answer(w, i, ":1\r\n");
	}
	assert_int_equal(w->answered, 1);
	assert_true(engine_settled(w->engine));
}

/* Invariant 5: a process that ends in between leaves the slots in the journal. */
static void test_end_in_between(void **state)
{
	struct world *w = *state;

	submit(w, "DEL a b c ", 1, 1, 3);
	answer(w, 0, ":3\r\n");
	turn(w);
	answer(w, 1, ":1\r\n");
	assert_int_equal(journal_owed(w->journal), 3); /* slots are let go together */
}

/* A new migration begins with nothing of the former one. */
static void test_mirroring_ends(void **state)
{
	struct world *w = *state;

	submit(w, "MSET a 1 b 2 c 3 ", 1, 2, 3);
	answer(w, 0, "+OK\r\n");
	engine_mirror(w->engine, false);
	assert_true(w->n == 4 && !engine_is_unfinished(w->engine));
	for (unsigned i = 1; i < 4; i++)
		answer(w, i, "+OK\r\n");
	assert_true(engine_idle(w->engine) && journal_owed(w->journal) == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_part_by_part, begin, end),
		cmocka_unit_test_setup_teardown(test_later_writes_come_behind_their_part, begin, end),
		cmocka_unit_test_setup_teardown(test_fence_waits, begin, end),
		cmocka_unit_test_setup_teardown(test_what_cannot_be_restated_is_marked, begin, end),
		cmocka_unit_test_setup_teardown(test_lost_reply_marks_all, begin, end),
		cmocka_unit_test_setup_teardown(test_restated, begin, end),
		cmocka_unit_test_setup_teardown(test_nothing_was_there, begin, end),
		cmocka_unit_test_setup_teardown(test_answer_waits_for_the_last_part, begin_both, end),
		cmocka_unit_test_setup_teardown(test_end_in_between, begin, end),
		cmocka_unit_test_setup_teardown(test_mirroring_ends, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
