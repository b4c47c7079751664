/* What effects hold while the follower is silent (engine_kept.c): no more than queue_max, and not the blocks in which clients' bytes stand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proxy/engine.h"
#include "resp/slot.h"
#include "resp/write.h"

#define WRITES 1000
#define QUEUE_MAX (256 * 1024)

struct world {
	struct engine *engine;
	struct worker_stats stats;
	struct { enum side side; reply_fn *fn; void *arg; } sent[2 * WRITES];
	unsigned n, answered;
	unsigned repaired[WRITES]; /* by the number in the key's name */
	struct block *read;        /* as a worker reads: the bytes of many clients, one behind the other */
};

static void io_send(void *ctx, enum side side, uint16_t db, uint16_t slot, uint16_t node, const char *p, size_t n, struct block *holder, unsigned replies, reply_fn *fn, void *arg)
{
	struct world *w = ctx;

	(void)db, (void)slot, (void)node, (void)p, (void)n, (void)holder;
	assert_true(w->n < 2 * WRITES && replies == 1);
	w->sent[w->n].side = side;
	w->sent[w->n].fn = fn;
	w->sent[w->n++].arg = arg;
}

static void io_answer(void *ctx, struct req *r)
{
	((struct world *)ctx)->answered++;
	block_unref(r->block);
	block_unref(r->reply_block);
	free(r);
}

static bool io_is_up(void *ctx, enum side side, uint16_t slot)
{
	(void)ctx, (void)side, (void)slot;
	return true;
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
	(void)ctx, (void)side;
	return true;
}

static void io_repair(void *ctx, uint16_t db, struct slice key, uint16_t slot, uint8_t losses)
{
	char text[32];
	unsigned at;

	(void)db, (void)slot, (void)losses;
	assert_true(key.n < sizeof text);
	memcpy(text, key.p, key.n);
	text[key.n] = 0;
	assert_int_equal(sscanf(text, "key:%u", &at), 1);
	assert_true(at < WRITES);
	((struct world *)ctx)->repaired[at]++;
}

static int64_t io_now_us(void *ctx)
{
	(void)ctx;
	return 0;
}

static int64_t io_clock_ms(void *ctx, enum side side, uint16_t slot)
{
	(void)ctx, (void)side, (void)slot;
	return 1700000000000;
}

static int begin(void **state)
{
	struct world *w = calloc(1, sizeof *w);
	struct engine_io io = { .ctx = w, .send = io_send, .answer = io_answer, .is_up = io_is_up, .has_expires = io_has_expires, .receiver = io_receiver, .is_cluster = io_is_cluster,
		.repair = io_repair, .now_us = io_now_us, .coarse_us = io_now_us, .clock_ms = io_clock_ms };
	struct engine_options o = { .mirror = true, .queue_max = QUEUE_MAX, .dirty_max = 2 * WRITES, .known_max = 100, .request_max = 1 << 20, .inband_max = 1 << 20, .resend_us = 1000000 };
	static uint8_t authority[SLOTS], mine[SLOTS];
	static bool synced[SLOTS];

	memset(mine, 1, sizeof mine);
	memset(synced, 1, sizeof synced);
	w->read = block_new(BLOCK_LARGE);
	w->engine = engine_new(&io, &o, authority, synced, mine, &w->stats);
	*state = w;
	return 0;
}

static void answer(struct world *w, unsigned at, const char *text)
{
	reply_fn *fn = w->sent[at].fn;

	w->sent[at].fn = NULL;
	fn(w->sent[at].arg, &(struct reply){ .p = text, .n = text ? strlen(text) : 0, .why = "lost" });
}

static int end(void **state)
{
	struct world *w = *state;

	for (unsigned i = 0; i < w->n; i++)
		if (w->sent[i].fn)
			answer(w, i, NULL);
	engine_free(w->engine);
	block_unref(w->read);
	block_pool_release();
	free(w);
	return 0;
}

/* An INCR of a client, answered by the authority: a write that cannot be mirrored as a whole value. */
static void write_one(struct world *w, unsigned i)
{
	struct req *r = calloc(1, sizeof *r);
	char key[32];

	snprintf(key, sizeof key, "key:%u", i);
	sds s = resp_cat_words(sdsempty(), "INCR", key, NULL);
	assert_true(w->read->cap - w->read->used >= sdslen(s));
	r->block = block_ref(w->read);
	r->bytes = memcpy(w->read->data + w->read->used, s, sdslen(s));
	w->read->used += r->len = sdslen(s);
	r->cmd = command_find(SLICE_LIT("INCR"));
	r->slot = slot_of(slice(key, strlen(key)));
	r->ask_node = NODE_NONE;
	r->write = true;
	sdsfree(s);
	engine_submit(w->engine, r);
	assert_int_equal(w->sent[w->n - 1].side, SIDE_SOURCE);
	answer(w, w->n - 1, ":1\r\n");
}

static void test_a_silent_follower(void **state)
{
	struct world *w = *state;
	unsigned effects = 0, held_back;

	for (unsigned i = 0; i < WRITES; i++)
		write_one(w, i);
	assert_int_equal(w->answered, WRITES);
	engine_turn(w->engine);
	for (unsigned i = 0; i < w->n; i++)
		effects += w->sent[i].side == SIDE_TARGET;
	/* each holds some hundred bytes beside its forty: of these alone the queue would take all */
	assert_in_range(effects, 300, 600);
	assert_int_equal(atomic_load(&w->stats.queued), effects);
	assert_in_range(atomic_load(&w->stats.queued_bytes), QUEUE_MAX, QUEUE_MAX + 1024);
	held_back = atomic_load(&w->read->refs) - 1;
	assert_in_range(held_back, 1, effects / 64);
}

/* Only their names are left, and those are enough. */
static void test_a_follower_that_is_lost(void **state)
{
	struct world *w = *state;
	unsigned first = 0;

	for (unsigned i = 0; i < 300; i++)
		write_one(w, i);
	memset(w->read->data, 0, w->read->used); /* nobody looks there any more, but for the first */
	while (first < 300 && atomic_load(&w->read->refs) > 1)
		for (bool one = false; !one && first < w->n; first++)
			if (w->sent[first].side == SIDE_TARGET) { /* the authority's were answered */
				answer(w, first, ":1\r\n");
				one = true;
			}
	assert_in_range(first, 1, 60);
	for (; first < w->n; first++)
		if (w->sent[first].side == SIDE_TARGET)
			answer(w, first, NULL);
	engine_turn(w->engine);
	for (unsigned i = 60; i < 300; i++)
		assert_int_equal(w->repaired[i], 1);
	assert_int_equal(atomic_load(&w->stats.queued_bytes), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_a_silent_follower, begin, end),
		cmocka_unit_test_setup_teardown(test_a_follower_that_is_lost, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
