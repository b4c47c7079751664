/* Commands of one slot that are turned away and sent again: who goes when, and to which node (engine_order.c). Each answer comes when the test says so. And what is read together (batch.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proxy/engine.h"
#include "proxy/worker.h"
#include "resp/slot.h"
#include "resp/write.h"

#define SENT_MAX 64
#define OTHER_NODE 7
#define ASK "-ASK 7629 127.0.0.1:1\r\n"
#define DOWN "-CLUSTERDOWN Hash slot not served\r\n"
#define OK "+OK\r\n"

struct world {
	struct engine *engine;
	struct worker_stats stats;
	struct { uint16_t node; reply_fn *fn; void *arg; sds bytes; } sent[SENT_MAX];
	unsigned first, n; /* sent[first … n) are not answered */
	sds answers;       /* a word each */
	bool alone;        /* the side is a standalone server */
	int64_t now_us;
};

static void io_send(void *ctx, enum side side, uint16_t db, uint16_t slot, uint16_t node, const char *p, size_t n, struct block *holder, unsigned replies, reply_fn *fn, void *arg)
{
	struct world *w = ctx;

	(void)side, (void)db, (void)slot, (void)holder, (void)replies;
	assert_true(w->n < SENT_MAX);
	w->sent[w->n].node = node;
	w->sent[w->n].fn = fn;
	w->sent[w->n].arg = arg;
	w->sent[w->n++].bytes = sdsnewlen(p, n);
}

static void io_answer(void *ctx, struct req *r)
{
	struct world *w = ctx;

	w->answers = sdscatprintf(w->answers, "%u:%.*s ", r->from, (int)strcspn(r->reply, " \r"), r->reply);
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

static void io_refresh(void *ctx, enum side side, const char *why)
{
	(void)ctx, (void)side, (void)why;
}

static bool io_is_cluster(void *ctx, enum side side)
{
	(void)side;
	return !((struct world *)ctx)->alone;
}

static void io_held(void *ctx, uint16_t slot, bool ok)
{
	(void)ctx, (void)slot, (void)ok;
}

static int64_t io_now_us(void *ctx)
{
	return ((struct world *)ctx)->now_us;
}

static int begin(void **state)
{
	struct world *w = calloc(1, sizeof *w);
	struct engine_io io = { .ctx = w, .send = io_send, .answer = io_answer, .redirect = io_redirect, .refresh = io_refresh, .is_cluster = io_is_cluster, .held = io_held, .now_us = io_now_us };
	struct engine_options o = { .queue_max = 1 << 20, .dirty_max = 100, .known_max = 100, .request_max = 1 << 20, .inband_max = 1 << 20, .resend_us = 1000000 };
	static uint8_t authority[SLOTS], mine[SLOTS];
	static bool synced[SLOTS];

	memset(mine, 1, sizeof mine);
	w->engine = engine_new(&io, &o, authority, synced, mine, &w->stats);
	w->answers = sdsempty();
	*state = w;
	return 0;
}

static void later(struct world *w)
{
	w->now_us += 30000;
	engine_turn(w->engine);
}

static int end(void **state)
{
	struct world *w = *state;

	assert_int_equal(w->first, w->n);
	later(w);
	assert_true(engine_idle(w->engine));
	engine_free(w->engine);
	for (unsigned i = 0; i < w->n; i++)
		sdsfree(w->sent[i].bytes);
	sdsfree(w->answers);
	free(w);
	return 0;
}

/* SET of one key, MSET of two. */
static struct req *make(uint32_t from, const char *a, const char *b)
{
	struct req *r = calloc(1, sizeof *r);
	sds s = b ? resp_cat_words(sdsempty(), "MSET", a, "1", b, "2", NULL) : resp_cat_words(sdsempty(), "SET", a, "1", NULL);

	r->block = block_copy(s, sdslen(s));
	r->bytes = r->block->data;
	r->len = sdslen(s);
	r->cmd = command_find(b ? SLICE_LIT("mset") : SLICE_LIT("set"));
	r->slot = slot_of(SLICE_LIT("{t}"));
	r->ask_node = NODE_NONE;
	r->write = true;
	r->from = from;
	sdsfree(s);
	return r;
}

static void submit(struct world *w, uint32_t from, const char *a, const char *b)
{
	engine_submit(w->engine, make(from, a, b));
}

static const char *const tags[] = { "{t}", "{u}", "{v}" };
#define TAGS (sizeof tags / sizeof *tags)

/* A command about one key of each of the slots that `which` names by their letters. */
static void submit_alone(struct world *w, uint32_t from, const char *name, const char *which)
{
	struct req *r = calloc(1, sizeof *r);
	sds s = resp_cat_len(sdsempty(), '*', (int64_t)strlen(which) + 1);

	r->wide = calloc(1, sizeof *r->wide + TAGS * sizeof r->wide->slot[0]);
	s = resp_cat_bulk(s, slice(name, strlen(name)));
	for (unsigned i = 0; i < TAGS; i++)
		if (strchr(which, tags[i][1])) {
			s = resp_cat_bulk(s, slice(tags[i], 3));
			r->wide->slot[r->wide->n++] = slot_of(slice(tags[i], 3));
		}
	r->block = block_copy(s, sdslen(s));
	r->bytes = r->block->data;
	r->len = sdslen(s);
	r->cmd = command_find(slice(name, strlen(name)));
	r->slot = r->wide->slot[0];
	r->ask_node = NODE_NONE;
	r->write = r->cmd->effect != EFFECT_NONE;
	r->from = from;
	if (r->wide->n == 1) {
		free(r->wide);
		r->wide = NULL;
	}
	sdsfree(s);
	engine_submit(w->engine, r);
}

static void answer(struct world *w, const char *text)
{
	struct reply r = { .why = "a node was lost", .sent = true };

	assert_true(w->first < w->n);
	if (text) {
		r.block = block_copy(text, strlen(text));
		r.p = r.block->data;
		r.n = strlen(text);
	}
	w->first++;
	w->sent[w->first - 1].fn(w->sent[w->first - 1].arg, &r);
	block_unref(r.block);
}

static void assert_sent(const struct world *w, unsigned at, const char *key, uint16_t node)
{
	assert_true(at < w->n);
	assert_non_null(strstr(w->sent[at].bytes, key));
	assert_int_equal(w->sent[at].node, node);
}

/* What is asked of another node goes when nothing is under way at the slot's own, and the other way round; those of one node go together. */
static void test_one_node_at_a_time(void **state)
{
	struct world *w = *state;

	submit(w, 1, "{t}a", NULL);
	submit(w, 1, "{t}b", NULL);
	submit(w, 1, "{t}c", NULL);
	answer(w, ASK);
	submit(w, 1, "{t}d", NULL);
	answer(w, ASK);
	assert_int_equal(w->n, 3);
	answer(w, OK);
	assert_int_equal(w->n, 5);
	assert_sent(w, 3, "{t}a", OTHER_NODE);
	assert_sent(w, 4, "{t}b", OTHER_NODE);
	answer(w, OK);
	assert_int_equal(w->n, 5);
	answer(w, OK);
	assert_int_equal(w->n, 6);
	assert_sent(w, 5, "{t}d", NODE_NONE);
	answer(w, OK);
	assert_string_equal(w->answers, "1:+OK 1:+OK 1:+OK 1:+OK ");
}

/* What is turned away a second time goes before what has not been sent again. */
static void test_turned_away_again(void **state)
{
	struct world *w = *state;

	submit(w, 1, "{t}a", "{t}b");
	submit(w, 2, "{t}a", NULL);
	answer(w, "-TRYAGAIN Multiple keys request during rehashing of slot\r\n");
	answer(w, ASK);
	submit(w, 3, "{t}b", NULL);
	assert_int_equal(w->n, 2);
	later(w);
	assert_int_equal(w->n, 3);
	assert_sent(w, 2, "MSET", NODE_NONE);
	answer(w, "-TRYAGAIN Multiple keys request during rehashing of slot\r\n");
	later(w);
	assert_int_equal(w->n, 4);
	assert_sent(w, 3, "MSET", NODE_NONE);
	answer(w, OK);
	assert_int_equal(w->n, 5);
	assert_sent(w, 4, "{t}a", OTHER_NODE);
	answer(w, OK);
	assert_int_equal(w->n, 6);
	assert_sent(w, 5, "{t}b", NODE_NONE);
	answer(w, OK);
}

/* A node that begins to serve in the middle of a batch: what it did of the end may not be followed by the beginning, for the same client and key. */
static void test_overtaken(void **state)
{
	struct world *w = *state;

	submit(w, 1, "{t}a", NULL);
	submit(w, 1, "{t}b", NULL);
	submit(w, 2, "{t}a", NULL);
	submit(w, 1, "{t}a", NULL);
	answer(w, DOWN);
	answer(w, DOWN);
	answer(w, OK);
	assert_string_equal(w->answers, "2:+OK ");
	answer(w, OK);
	assert_string_equal(w->answers, "2:+OK 1:-TRYAGAIN 1:+OK ");
	later(w);
	assert_int_equal(w->n, 5);
	assert_sent(w, 4, "{t}b", NODE_NONE);
	answer(w, OK);
}

/* …nor what may have been executed when the connection broke. */
static void test_overtaken_perhaps(void **state)
{
	struct world *w = *state;

	submit(w, 1, "{t}a", "{t}b");
	submit(w, 1, "{t}a", NULL);
	answer(w, DOWN);
	answer(w, NULL);
	assert_string_equal(w->answers, "1:-TRYAGAIN 1:-UNKNOWN ");
}

/* A read of several slots that was lost goes again before what came behind it in any of them, sent or not. */
static void test_wide_lost(void **state)
{
	struct world *w = *state;

	w->alone = true;
	submit_alone(w, 1, "GET", "u");
	submit_alone(w, 1, "MGET", "tu");
	submit_alone(w, 1, "GET", "v");
	submit_alone(w, 1, "GET", "u");
	for (int i = 0; i < 4; i++)
		answer(w, NULL);
	submit_alone(w, 1, "INCR", "u");
	submit_alone(w, 1, "INCR", "v");
	submit_alone(w, 1, "MGET", "tv");
	assert_int_equal(w->n, 4);
	later(w); /* the one before it, in a slot of its */
	assert_int_equal(w->n, 5);
	assert_sent(w, 4, "{u}", NODE_NONE);
	answer(w, OK);
	later(w);
	static const char *const order[] = { "MGET", "{v}", "{u}", "INCR", "INCR", "MGET" };
	assert_int_equal(w->n, 11);
	for (unsigned i = 0; i < 6; i++)
		assert_sent(w, 5 + i, order[i], NODE_NONE);
	answer(w, NULL); /* and again: the writes behind it may have been executed, so it is told */
	answer(w, NULL);
	answer(w, NULL);
	assert_string_equal(w->answers, "1:+OK ");
	answer(w, NULL);
	assert_string_equal(w->answers, "1:+OK 1:-TRYAGAIN 1:-TRYAGAIN 1:-UNKNOWN ");
	answer(w, NULL);
	assert_string_equal(w->answers, "1:+OK 1:-TRYAGAIN 1:-TRYAGAIN 1:-UNKNOWN 1:-TRYAGAIN 1:-UNKNOWN ");
	answer(w, NULL);
	later(w);
	assert_int_equal(w->n, 12);
	assert_sent(w, 11, "MGET", NODE_NONE);
	answer(w, OK);
}

/* What its slots hold back when it is lost came behind it. */
static void test_wide_lost_before_a_queue(void **state)
{
	struct world *w = *state;

	w->alone = true;
	submit_alone(w, 1, "MGET", "tu");
	engine_hold(w->engine, slot_of(SLICE_LIT("{u}")), 1000);
	submit_alone(w, 1, "INCR", "u");
	submit_alone(w, 2, "GET", "u");
	assert_int_equal(w->n, 1);
	answer(w, NULL);
	later(w);
	assert_int_equal(w->n, 2);
	assert_sent(w, 1, "MGET", NODE_NONE);
	answer(w, OK);
	engine_release(w->engine, slot_of(SLICE_LIT("{u}")));
	later(w);
	assert_int_equal(w->n, 4);
	assert_sent(w, 2, "INCR", NODE_NONE);
	assert_sent(w, 3, "GET", NODE_NONE);
	answer(w, OK);
	answer(w, OK);
}

/* It is tried for as long as any other. */
static void test_wide_lost_too_long(void **state)
{
	struct world *w = *state;

	w->alone = true;
	submit_alone(w, 1, "MGET", "tu");
	for (int i = 0; i < 34; i++) {
		answer(w, NULL);
		later(w);
	}
	answer(w, NULL);
	assert_string_equal(w->answers, "1:-CLUSTERDOWN ");
}

/* The requests of one read go together; a part of a split command finds those before it sent, and is itself before those behind it. */
static void test_batch(void **state)
{
	struct world *w = *state;
	struct worker *home = calloc(1, sizeof *home);
	struct req *part = make(2, "{t}b", "{t}c");

	home->engine = w->engine;
	batch_open(home);
	batch_submit(home, make(1, "{t}a", NULL));
	assert_int_equal(w->n, 0);
	part->split = (struct split *)home; /* only compared */
	batch_submit(home, part);
	assert_int_equal(w->n, 2);
	assert_sent(w, 0, "{t}a", NODE_NONE);
	assert_sent(w, 1, "{t}c", NODE_NONE);
	for (uint32_t i = 0; i < BATCH_MAX; i++)
		batch_submit(home, make(3 + i, "{t}d", NULL));
	assert_int_equal(w->n, 2 + BATCH_MAX); /* it was full */
	batch_submit(home, make(99, "{t}e", NULL));
	assert_int_equal(w->n, 2 + BATCH_MAX);
	batch_close(home);
	assert_sent(w, 2 + BATCH_MAX, "{t}e", NODE_NONE);
	batch_submit(home, make(100, "{t}f", NULL)); /* not of a read */
	assert_sent(w, 3 + BATCH_MAX, "{t}f", NODE_NONE);
	for (uint32_t i = 0; i < 4 + BATCH_MAX; i++)
		answer(w, OK);
	assert_memory_equal(w->answers, "1:+OK 2:+OK 3:+OK 4:+OK ", 24);
	free(home);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_one_node_at_a_time, begin, end),
		cmocka_unit_test_setup_teardown(test_turned_away_again, begin, end),
		cmocka_unit_test_setup_teardown(test_overtaken, begin, end),
		cmocka_unit_test_setup_teardown(test_overtaken_perhaps, begin, end),
		cmocka_unit_test_setup_teardown(test_wide_lost, begin, end),
		cmocka_unit_test_setup_teardown(test_wide_lost_before_a_queue, begin, end),
		cmocka_unit_test_setup_teardown(test_wide_lost_too_long, begin, end),
		cmocka_unit_test_setup_teardown(test_batch, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
