/* The engine driven through its seam by a seeded schedule: two model servers, delayed replies, clients, a writer that bypasses, copies whose
 * token is read early, and flips. At the end both sides must hold the same and every acknowledged INCR must count. Replay a failing seed
 * with CROSSFADE_SEED. The simulation proper (tests/sim) grows out of this. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backfill/recipe.h"
#include "proxy/engine.h"
#include "proxy/keyhash.h"
#include "resp/parse.h"
#include "resp/slot.h"
#include "resp/write.h"

#define KEYS 6
#define WIRE_MAX 8192

struct command_on_wire {
	char *bytes;
	size_t n;
	unsigned replies;
	reply_fn *fn;
	void *arg;
};

struct answer_on_wire {
	sds reply; /* or a foreign key's invalidation: fn == NULL */
	reply_fn *fn;
	void *arg;
	int foreign;
};

struct server {
	int64_t value[KEYS];
	bool there[KEYS];
	struct command_on_wire in[WIRE_MAX];
	unsigned in_head, in_tail;
	struct answer_on_wire out[WIRE_MAX];
	unsigned out_head, out_tail;
	bool multi;
};

struct bulk_copy { /* a copy in the backfill worker's hands */
	int key;
	bool repair, tokened, read, there;
	int64_t value;
	uint8_t losses;
	enum side from;
	uint64_t token;
};

struct world {
	struct engine *engine;
	struct server server[SIDES];
	struct worker_stats stats;
	int64_t now_us;
	uint64_t random;
	struct bulk_copy bulk[1024];
	unsigned nbulk;
	char key[KEYS][16];
	uint16_t slot[KEYS];
	bool done[KEYS];         /* scan copies that were acknowledged */
	int64_t acknowledged[KEYS]; /* INCRs since the last SET or DEL, -1: a foreign writer was there */
	unsigned submitted, answered;
	bool overwrites; /* no INCR: its reply would show what a bad copy did */
	bool fenced, fence_ok, flipping;
	uint64_t flip;
	unsigned flips;
};

static uint64_t rnd(struct world *w, uint64_t n)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random % n;
}

static int key_of(struct world *w, struct slice k)
{
	for (int i = 0; i < KEYS; i++)
		if (slice_is(k, w->key[i]))
			return i;
	fail_msg("a key that nobody has: %.*s", (int)k.n, k.p);
	return 0;
}

/* --- the model server --- */

static sds dump(bool there, int64_t value)
{
	char payload[64];
	int n;

	if (!there)
		return sdsnew("_\r\n");
	n = snprintf(payload + 2, 30, "%lld", (long long)value);
	payload[0] = 0;
	payload[1] = (char)n;
	payload[2 + n] = 10;
	payload[3 + n] = 0;
	uint64_t crc = crc64_jones(0, payload, (size_t)n + 4);
	for (int i = 0; i < 8; i++)
		payload[4 + n + i] = (char)(crc >> (8 * i));
	return resp_cat_bulk(sdsempty(), slice(payload, (size_t)n + 12));
}

static sds execute_one(struct world *w, struct server *s, const struct slice *a)
{
	int k = slice_is(a[0], "PING") || slice_is(a[0], "WAIT") || slice_is(a[0], "MULTI") || slice_is(a[0], "EXEC") ? -1 : key_of(w, a[1]);

	if (slice_is(a[0], "SET")) {
		s->value[k] = atoll(a[2].p);
		s->there[k] = true;
		return sdsnew("+OK\r\n");
	}
	if (slice_is(a[0], "GET"))
		return s->there[k] ? sdscatprintf(sdsempty(), "$1\r\n%lld\r\n", (long long)s->value[k] % 10) : sdsnew("_\r\n");
	if (slice_is(a[0], "INCR")) {
		s->value[k] = s->there[k] ? s->value[k] + 1 : 1;
		s->there[k] = true;
		return sdscatprintf(sdsempty(), ":%lld\r\n", (long long)s->value[k]);
	}
	if (slice_is(a[0], "DEL") || slice_is(a[0], "UNLINK")) {
		bool was = s->there[k];
		s->there[k] = false;
		return sdscatprintf(sdsempty(), ":%d\r\n", was);
	}
	if (slice_is(a[0], "DUMP"))
		return dump(s->there[k], s->value[k]);
	if (slice_is(a[0], "PEXPIRETIME"))
		return sdscatprintf(sdsempty(), ":%d\r\n", s->there[k] ? -1 : -2);
	if (slice_is(a[0], "RESTORE")) {
		char digits[32] = { 0 };
		memcpy(digits, a[3].p + 2, (size_t)a[3].p[1]);
		s->value[k] = atoll(digits);
		s->there[k] = true;
		return sdsnew("+OK\r\n");
	}
	if (slice_is(a[0], "WAIT"))
		return sdsnew(":1\r\n");
	assert_true(slice_is(a[0], "PING"));
	return sdsnew("+PONG\r\n");
}

static void server_step(struct world *w, struct server *s)
{
	struct command_on_wire *c = &s->in[s->in_head % WIRE_MAX];
	struct resp_request p;
	size_t off = 0;

	if (s->in_head == s->in_tail)
		return;
	resp_request_init(&p, &resp_default_limits);
	for (unsigned i = 0; i < c->replies; i++) {
		struct slice a[8];
		resp_request_reset(&p);
		assert_int_equal(resp_request_parse(&p, c->bytes + off, c->n - off), RESP_OK);
		for (uint32_t k = 0; k < p.argc && k < 8; k++)
			a[k] = resp_request_arg(&p, c->bytes + off, k);
		s->out[s->out_tail++ % WIRE_MAX] = (struct answer_on_wire){ execute_one(w, s, a), c->fn, c->arg, 0 };
		off += p.used;
	}
	resp_request_release(&p);
	free(c->bytes);
	s->in_head++;
}

static void answer_step(struct world *w, enum side side)
{
	struct server *s = &w->server[side];
	struct answer_on_wire a = s->out[s->out_head % WIRE_MAX];

	if (s->out_head == s->out_tail)
		return;
	s->out_head++;
	if (!a.fn) {
		engine_foreign(w->engine, side, slice(w->key[a.foreign], strlen(w->key[a.foreign])), w->slot[a.foreign]);
		return;
	}
	struct block *b = block_copy(a.reply, sdslen(a.reply));
	struct reply r = { .p = b->data, .n = b->used, .block = b };
	a.fn(a.arg, &r);
	block_unref(b);
	sdsfree(a.reply);
}

/* --- the seam --- */

static void io_send(void *ctx, enum side side, uint16_t slot, uint16_t node, const char *p, size_t n, struct block *holder, unsigned replies, reply_fn *fn, void *arg)
{
	struct world *w = ctx;
	struct server *s = &w->server[side];

	(void)slot;
	(void)node;
	(void)holder;
	assert_true(s->in_tail - s->in_head < WIRE_MAX);
	s->in[s->in_tail++ % WIRE_MAX] = (struct command_on_wire){ memcpy(malloc(n), p, n), n, replies, fn, arg };
}

static unsigned io_send_each(void *ctx, enum side side, bool replicas_only, const char *p, size_t n, reply_fn *fn, void *arg)
{
	(void)replicas_only;
	io_send(ctx, side, 0, NODE_NONE, p, n, NULL, 1, fn, arg);
	return 1;
}

static void io_answer(void *ctx, struct req *r)
{
	struct world *w = ctx;

	assert_true(r->reply[0] == ':' || r->reply[0] == '+' || r->reply[0] == '_' || r->reply[0] == '$');
	w->answered++;
	block_unref(r->block);
	block_unref(r->reply_block);
	free(r);
}

static uint16_t io_redirect(void *ctx, enum side side, uint16_t slot, struct slice error, bool moved)
{
	(void)ctx, (void)side, (void)slot, (void)error, (void)moved;
	return NODE_NONE;
}

static void io_refresh(void *ctx, enum side side, const char *why)
{
	(void)ctx, (void)side, (void)why;
}

static bool io_is_up(void *ctx, enum side side, uint16_t slot)
{
	(void)ctx, (void)side, (void)slot;
	return true;
}

static uint64_t io_generation(void *ctx, enum side side)
{
	(void)ctx, (void)side;
	return 1;
}

static bool io_has_expires(void *ctx, enum side side)
{
	struct world *w = ctx;

	(void)side;
	return w->random % 5 == 0;
}

static void io_receiver(void *ctx, enum side side, struct receiver *out)
{
	(void)ctx;
	*out = side == SIDE_SOURCE ? (struct receiver){ PRODUCT_REDIS, 0x07000f } : (struct receiver){ PRODUCT_VALKEY, 0x090102 };
}

static bool io_is_cluster(void *ctx, enum side side)
{
	(void)ctx, (void)side;
	return true;
}

static void add_bulk(struct world *w, int key, bool repair, uint8_t losses)
{
	assert_true(w->nbulk < 1024);
	w->bulk[w->nbulk++] = (struct bulk_copy){ .key = key, .repair = repair, .losses = losses };
}

static void io_repair(void *ctx, struct slice key, uint16_t slot, uint8_t losses)
{
	(void)slot;
	add_bulk(ctx, key_of(ctx, key), true, losses);
}

static void io_rescan(void *ctx, uint16_t slot)
{
	(void)ctx, (void)slot;
	fail_msg("no slot becomes dirty here");
}

static void io_copied(void *ctx, struct copy *c)
{
	struct world *w = ctx;
	int k = key_of(w, slice(c->key, c->key_len));

	if (c->result == COPY_APPLIED)
		w->done[k] = true;
	else
		add_bulk(w, k, false, c->losses + 1);
	copy_free(c);
}

static void io_held(void *ctx, uint16_t slot, bool ok)
{
	(void)ctx, (void)slot, (void)ok;
}

static void io_fenced(void *ctx, uint64_t flip, bool ok, const char *why)
{
	struct world *w = ctx;

	(void)why;
	assert_true(flip == w->flip);
	w->fenced = true;
	w->fence_ok = ok;
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

/* --- what happens --- */

static void client_step(struct world *w)
{
	static const char *const names[] = { "INCR", "INCR", "INCR", "SET", "DEL", "GET" };
	int k = (int)rnd(w, KEYS);
	const char *name = names[w->overwrites ? 3 + rnd(w, 3) : rnd(w, 6)];
	struct req *r = calloc(1, sizeof *r);
	char value[24];

	snprintf(value, sizeof value, "%d", (int)rnd(w, 100000));
	sds s = !strcmp(name, "SET") ? resp_cat_words(sdsempty(), name, w->key[k], value, NULL) : resp_cat_words(sdsempty(), name, w->key[k], NULL);

	r->block = block_copy(s, sdslen(s));
	r->bytes = r->block->data;
	r->len = sdslen(s);
	r->cmd = command_find(slice(name, strlen(name)));
	r->slot = w->slot[k];
	r->ask_node = NODE_NONE;
	r->write = r->cmd->effect != EFFECT_NONE;
	sdsfree(s);
	w->submitted++;
	engine_submit(w->engine, r);
}

/* Somebody changes a key straight on the authority; the push comes behind the replies that are already on their way. */
static void foreign_step(struct world *w)
{
	int k = (int)rnd(w, KEYS);
	enum side side = engine_authority(w->engine, w->slot[k]);
	struct server *s = &w->server[side];

	s->there[k] = rnd(w, 4) != 0;
	s->value[k] = (int64_t)rnd(w, 1000);
	s->out[s->out_tail++ % WIRE_MAX] = (struct answer_on_wire){ .fn = NULL, .foreign = k };
}

/* The backfill worker: reads a token, some time later the value straight from the authority, and hands both over. */
static void bulk_step(struct world *w)
{
	if (!w->nbulk)
		return;
	unsigned i = (unsigned)rnd(w, w->nbulk);
	struct bulk_copy *b = &w->bulk[i];
	struct slice key = slice(w->key[b->key], strlen(w->key[b->key]));
	enum side from = engine_authority(w->engine, w->slot[b->key]);

	if (!b->tokened) {
		b->token = version_token(engine_versions(w->engine), stripe_of(keyhash_of(key).low64), false);
		b->tokened = b->token != VERSION_BUSY || b->losses >= COPY_LOSSES_BEFORE_INBAND;
		b->losses += !b->tokened;
		return;
	}
	if (!b->read) {
		b->read = true;
		b->from = from;
		b->there = w->server[from].there[b->key];
		b->value = w->server[from].value[b->key];
		return;
	}
	struct copy *c = copy_new(key, w->slot[b->key]);
	struct receiver to;
	enum recipe next;
	const char *why;
	c->repair = b->repair;
	c->losses = b->losses;
	c->from = b->from;
	c->generation = 1;
	c->token = b->token;
	c->block = sdsempty();
	io_receiver(w, SIDE_OTHER(b->from), &to);
	if (b->losses >= COPY_LOSSES_BEFORE_INBAND) {
		c->kind = COPY_INBAND;
		c->recipe = RECIPE_DUMP;
		c->ncommands = recipe_read(RECIPE_DUMP, &to, key, &c->block);
	} else {
		sds payload = dump(b->there, b->value);
		sds ttl = sdsnew(b->there ? ":-1\r\n" : ":-2\r\n");
		struct slice replies[2] = { slice(payload, sdslen(payload)), slice(ttl, sdslen(ttl)) };
		c->kind = COPY_APPLY;
		enum recipe_result r = recipe_compose(RECIPE_DUMP, &to, key, replies, 2, io_clock_ms(w, b->from, 0), &c->block, &c->ncommands, &next, &why);
		assert_true(r == RECIPE_OK || r == RECIPE_GONE);
		sdsfree(payload);
		sdsfree(ttl);
	}
	w->bulk[i] = w->bulk[--w->nbulk];
	engine_copy(w->engine, c);
}

static void flip_step(struct world *w)
{
	if (!w->flipping) {
		struct slot_set all;
		memset(&all, 0xff, sizeof all);
		w->flipping = true;
		w->fenced = false;
		engine_fence(w->engine, ++w->flip, &all, SIDE_OTHER(engine_authority(w->engine, w->slot[0])), 1000);
		return;
	}
	if (!w->fenced)
		return;
	struct fence_result result;
	if (w->fence_ok && rnd(w, 4)) {
		engine_flip(w->engine, w->flip, &result);
		w->flips++;
	} else {
		engine_unfence(w->engine, w->flip);
	}
	w->flipping = false;
}

static bool all_done(const struct world *w)
{
	for (int i = 0; i < KEYS; i++)
		if (!w->done[i])
			return false;
	return true;
}

static void step(struct world *w, bool load, bool foreign)
{
	w->now_us += (int64_t)rnd(w, 500);
	switch (rnd(w, 12)) {
	case 0: case 1: if (load) client_step(w); break;
	case 2: case 3: server_step(w, &w->server[SIDE_SOURCE]); break;
	case 4: case 5: server_step(w, &w->server[SIDE_TARGET]); break;
	case 6: case 7: answer_step(w, SIDE_SOURCE); break;
	case 8: case 9: answer_step(w, SIDE_TARGET); break;
	case 10: bulk_step(w); break;
	case 11:
		if (foreign && rnd(w, 6) == 0)
			foreign_step(w);
		if (all_done(w) && (w->flipping || (load && rnd(w, 20) == 0)))
			flip_step(w);
		engine_turn(w->engine);
		break;
	}
}

static bool at_rest(const struct world *w)
{
	for (enum side s = SIDE_SOURCE; s < SIDES; s++)
		if (w->server[s].in_head != w->server[s].in_tail || w->server[s].out_head != w->server[s].out_tail)
			return false;
	return !w->nbulk && !w->flipping && w->answered == w->submitted && !atomic_load(&w->stats.dirty_keys) && engine_idle(w->engine);
}

static void run(uint64_t seed, bool foreign)
{
	struct engine_io io = { .send = io_send, .send_each = io_send_each, .answer = io_answer, .redirect = io_redirect, .refresh = io_refresh,
		.is_up = io_is_up, .generation = io_generation, .has_expires = io_has_expires, .receiver = io_receiver, .is_cluster = io_is_cluster,
		.repair = io_repair, .rescan = io_rescan, .copied = io_copied, .held = io_held, .fenced = io_fenced, .now_us = io_now_us, .clock_ms = io_clock_ms };
	struct engine_options o = { .mirror = true, .tracking = true, .queue_max = 1 << 20, .dirty_max = 100, .known_max = 100, .request_max = 1 << 20,
		.inband_max = 1 << 20, .resend_us = 1000000 };
	struct world *w = calloc(1, sizeof *w);
	static uint8_t authority[SLOTS], mine[SLOTS];
	static bool synced[SLOTS];

	memset(mine, 1, sizeof mine);
	io.ctx = w;
	w->overwrites = seed % 2;
	w->random = seed * 0x9e3779b97f4a7c15u + 1;
	for (int i = 0; i < KEYS; i++) {
		snprintf(w->key[i], sizeof w->key[i], "k%d", i);
		w->slot[i] = slot_of(slice(w->key[i], strlen(w->key[i])));
		w->server[SIDE_SOURCE].there[i] = i % 2;
		w->server[SIDE_SOURCE].value[i] = 10 * i;
		add_bulk(w, i, false, 0);
	}
	w->engine = engine_new(&io, &o, authority, synced, mine, &w->stats);
	for (int i = 0; i < 4000; i++) {
		step(w, true, foreign);
		if (all_done(w))
			engine_slot_done(w->engine, SLOTS);
	}
	for (int i = 0; i < 2000000 && !at_rest(w); i++)
		step(w, false, false);
	if (!at_rest(w))
		fail_msg("seed %llu: it does not come to rest: %llu dirty, %u of %u answered", (unsigned long long)seed,
			 (unsigned long long)w->stats.dirty_keys, w->answered, w->submitted);
	for (int i = 0; i < KEYS; i++) {
		const struct server *a = &w->server[SIDE_SOURCE], *b = &w->server[SIDE_TARGET];
		if (a->there[i] != b->there[i] || (a->there[i] && a->value[i] != b->value[i]))
			fail_msg("seed %llu: key %d differs: %d %lld, %d %lld (%u flips)", (unsigned long long)seed, i, a->there[i],
				 (long long)a->value[i], b->there[i], (long long)b->value[i], w->flips);
	}
	engine_free(w->engine);
	free(w);
}

static void seeds(bool foreign)
{
	const char *one = getenv("CROSSFADE_SEED");

	for (uint64_t seed = one ? strtoull(one, NULL, 10) : 1; seed <= (one ? strtoull(one, NULL, 10) : 60); seed++)
		run(seed, foreign);
}

static void test_writes_copies_flips(void **state)
{
	(void)state;
	seeds(false);
}

static void test_with_foreign_writers(void **state)
{
	(void)state;
	seeds(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_writes_copies_flips), cmocka_unit_test(test_with_foreign_writers) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
