/* The data connections: bytes wait, are executed in order, and are answered in order; a lost connection loses answers, not always commands. Here too: what
 * the proxy believes of the topology, and the engine's seam. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "resp/write.h"

static unsigned waiting(const struct conn *k)
{
	return k->in_tail - k->in_head;
}

static struct wire *queue_wire(struct world *w, struct server *n, const char *p, size_t len, unsigned replies, reply_fn *fn, void *arg)
{
	struct conn *k = &n->conn;
	struct wire *x = &k->in[k->in_tail++ % WIRE_MAX];

	if (waiting(k) >= WIRE_MAX)
		sim_fail(w, "more is under way than the model has room for");
	*x = (struct wire){ .bytes = memcpy(malloc(len), p, len), .n = len, .replies = replies, .fn = fn, .arg = arg };
	return x;
}

void net_send(struct world *w, enum side side, struct server *n, const char *p, size_t len, unsigned replies, reply_fn *fn, void *arg)
{
	(void)side;
	queue_wire(w, n, p, len, replies, fn, arg);
}

void net_send_part(struct world *w, enum side side, int tag)
{
	struct cluster *c = &w->side[side];
	struct conn *k = &c->node[c->worker.route[tag]].conn;

	k->in_request = k->up;
}

static struct server *node_of(struct world *w, enum side side, uint16_t slot)
{
	int tag = tag_index(w, slot);

	return &w->side[side].node[tag < 0 ? 0 : w->side[side].worker.route[tag]];
}

/* --- answers --- */

static void give_reply(struct answer_out *a)
{
	struct block *b = block_copy(a->reply, sdslen(a->reply));
	struct reply r = { .p = b->data, .n = b->used, .block = b };

	a->fn(a->arg, &r);
	block_unref(b);
	sdsfree(a->reply);
}

void deliver_step(struct world *w, enum side side, struct server *n)
{
	struct conn *k = &n->conn;

	if (k->out_head == k->out_tail || w->now_us < k->stalled_us)
		return;
	if (w->load && w->profile.stalls && one_in(w, k->out[k->out_head % WIRE_MAX].kind == ANSWER_PUSH ? 4 : 60)) {
		k->stalled_us = w->now_us + (int64_t)rnd(w, 40000);
		return;
	}
	struct answer_out a = k->out[k->out_head++ % WIRE_MAX];
	switch (a.kind) {
	case ANSWER_REPLY:
		give_reply(&a);
		break;
	case ANSWER_PUSH:
		trace(w, "push of the %s: %s", side_name(side), w->key[a.key]);
		engine_foreign(w->engine, side, node_of(w, side, slot_of_key(w, a.key)) == n, 0, key_name(w, a.key), slot_of_key(w, a.key));
		break;
	case ANSWER_NULL_PUSH:
		engine_slots_dirty(w->engine, NULL, "a FLUSHALL was seen");
		break;
	}
}

/* --- loss --- */

static void fail(reply_fn *fn, void *arg, unsigned n, bool sent)
{
	struct reply r = { .why = "the node was lost", .sent = sent };

	while (n--)
		fn(arg, &r);
}

struct lost { /* taken off the connection before anybody is told: whoever is may send anew */
	struct answer_out *out;
	struct wire *in;
	unsigned nout, nin;
};

static struct lost detach(struct conn *k)
{
	struct lost l = { .nout = k->out_tail - k->out_head, .nin = waiting(k) };

	k->in_request = false;
	l.out = calloc(l.nout + 1, sizeof *l.out);
	l.in = calloc(l.nin + 1, sizeof *l.in);
	for (unsigned i = 0; i < l.nout; i++)
		l.out[i] = k->out[k->out_head++ % WIRE_MAX];
	for (unsigned i = 0; i < l.nin; i++)
		l.in[i] = k->in[k->in_head++ % WIRE_MAX];
	return l;
}

/* Of what was written some will arrive in spite of all, in order. */
static unsigned keep_zombies(struct world *w, struct conn *k, struct lost *l)
{
	unsigned written = (unsigned)rnd(w, l->nin + 1), arrive = (unsigned)rnd(w, written + 1);

	if (l->nin && l->in[0].at && !written)
		written = 1;
	for (unsigned i = 0; i < arrive && k->nzombies < 64; i++) {
		struct wire *z = &k->zombie[k->nzombies++];
		*z = l->in[i];
		z->from = 0;
		z->bytes = memcpy(malloc(z->n), z->bytes, z->n);
	}
	return written;
}

static void tell_lost(struct lost *l, unsigned written)
{
	for (unsigned i = 0; i < l->nout; i++) {
		if (l->out[i].kind == ANSWER_REPLY)
			fail(l->out[i].fn, l->out[i].arg, 1, true);
		sdsfree(l->out[i].reply);
	}
	for (unsigned i = 0; i < l->nin; i++) {
		fail(l->in[i].fn, l->in[i].arg, l->in[i].replies, i < written);
		free(l->in[i].bytes);
	}
	free(l->out);
	free(l->in);
}

static void routed_slots(struct world *w, enum side side, const struct server *n, struct slot_set *slots)
{
	memset(slots, 0, sizeof *slots);
	for (int tag = 0; tag < TAGS; tag++)
		if (&w->side[side].node[w->side[side].worker.route[tag]] == n || &w->side[side].node[w->side[side].known[tag]] == n)
			slot_set_add(slots, w->slot[tag]);
}

/* What worker.c does when an upstream is given up: the waiting are told, then the slots are compared again, since the watch was blind. */
void conn_lose(struct world *w, enum side side, struct server *n)
{
	struct conn *k = &n->conn;
	struct slot_set slots;

	if (!k->up)
		return;
	trace(w, "%s/%u: the connection is lost", side_name(side), (unsigned)(n - w->side[side].node));
	k->up = false;
	k->missed = true;
	k->woff = 0;
	k->retry_us = w->now_us + (int64_t)rnd(w, w->profile.zombies ? 2000 : 30000);
	w->count.losses++;
	struct lost l = detach(k);
	tell_lost(&l, keep_zombies(w, k, &l));
	routed_slots(w, side, n, &slots);
	if (!fault("race-3-failover"))
		engine_slots_dirty(w->engine, &slots, "the connection was lost");
}

/* While it is down what is sent fails at the next turn. Its successor is up only when the server has confirmed that the former is gone (race 7). */
void reconnect_step(struct world *w, enum side side, struct server *n)
{
	struct conn *k = &n->conn;
	struct slot_set slots;

	if (k->up)
		return;
	if (w->now_us < k->retry_us || n->replaced) { /* who took over is known only when the topology is looked at again */
		struct lost l = detach(k);
		tell_lost(&l, 0);
		return;
	}
	while (k->nzombies && !fault("race-7-zombie"))
		free(k->zombie[--k->nzombies].bytes);
	watcher_zombies_go(w, n);
	trace(w, "%s/%u: connected", side_name(side), (unsigned)(n - w->side[side].node));
	k->up = true;
	n->cut = false;
	routed_slots(w, side, n, &slots);
	if (k->missed && !fault("race-7-rescan") && !fault("race-3-failover"))
		engine_slots_dirty(w->engine, &slots, "a node was not watched for a while");
	k->missed = false;
	engine_node_up(w->engine);
}

void net_zombies_go(struct world *w)
{
	for (enum side s = SIDE_SOURCE; s < SIDES; s++)
		for (unsigned i = 0; i < NODES; i++) {
			struct conn *k = &w->side[s].node[i].conn;
			while (k->nzombies)
				free(k->zombie[--k->nzombies].bytes);
		}
}

void net_break_all(struct world *w)
{
	bool any = true;

	while (any) {
		any = false;
		for (enum side s = SIDE_SOURCE; s < SIDES; s++)
			for (unsigned i = 0; i < w->side[s].nnodes; i++) {
				struct conn *k = &w->side[s].node[i].conn;
				any |= waiting(k) || k->out_tail != k->out_head;
				struct lost l = detach(k);
				tell_lost(&l, k->up ? keep_zombies(w, k, &l) : 0);
				k->up = k->missed = false;
				k->woff = 0;
				k->retry_us = 0;
			}
		any |= w->watcher.up;
		watcher_lose(w, false);
	}
}

bool net_quiet(const struct world *w)
{
	if (!watcher_quiet(w))
		return false;
	for (enum side s = SIDE_SOURCE; s < SIDES; s++) {
		if (w->side[s].changes != w->side[s].seen || w->side[s].bulk.generation != w->side[s].worker.generation)
			return false;
		for (unsigned i = 0; i < w->side[s].nnodes; i++) {
			const struct conn *k = &w->side[s].node[i].conn;
			if (!k->up || waiting(k) || k->out_tail != k->out_head || k->nzombies)
				return false;
		}
	}
	return true;
}

/* --- the topology as the proxy knows it --- */

static void see(struct world *w, enum side side)
{
	struct cluster *c = &w->side[side];
	struct slot_set slots;

	c->seen = c->changes;
	c->worker.generation++;
	for (int tag = 0; tag < TAGS; tag++) {
		c->known[tag] = c->owner[tag];
		if (c->worker.route[tag] == c->owner[tag])
			continue;
		c->worker.route[tag] = c->owner[tag];
		if (authority_of(w, tag) == side)
			engine_route_changed(w->engine, w->slot[tag]);
	}
	for (unsigned i = 0; i < c->nnodes; i++) {
		struct server *n = &c->node[i];
		if (!n->replaced)
			continue;
		n->replaced = false;
		n->replaced_us = w->now_us;
		n->deposed_before = c->worker.generation;
		if (n->cut)
			conn_lose(w, side, n); /* the slots are another node's now: their connection is another one */
		if (fault("race-3-failover"))
			continue;
		routed_slots(w, side, n, &slots);
		engine_slots_dirty(w->engine, &slots, "a node failed over");
	}
	engine_node_up(w->engine);
}

/* Its mailbox brings the topology before whatever an owner asks for because of it; until then it reads tokens of today and nodes of yesterday (race 8). */
void bulk_refresh(struct world *w, enum side side, uint64_t generation)
{
	struct cluster *c = &w->side[side];

	if (c->bulk.generation >= generation)
		return;
	c->bulk.generation = c->worker.generation;
	memcpy(c->bulk.route, c->known, sizeof c->known);
	rescan_topology_changed(w, side);
}

void refresh_step(struct world *w, enum side side)
{
	struct cluster *c = &w->side[side];

	if (c->changes != c->seen)
		see(w, side);
	else if (!w->profile.deaf || one_in(w, 60))
		bulk_refresh(w, side, c->worker.generation);
}

/* --- the engine's seam --- */

static void io_send(void *ctx, enum side side, uint16_t db, uint16_t slot, uint16_t node, const char *p, size_t n, struct block *holder, unsigned replies, reply_fn *fn, void *arg)
{
	struct world *w = ctx;
	struct server *to = node == NODE_NONE ? node_of(w, side, slot) : &w->side[side].node[node];
	struct wire *x = queue_wire(w, to, p, n, replies, fn, arg);

	assert(db == 0); /* the model has one */
	(void)db;
	x->asking = node != NODE_NONE;
	x->client = holder && side == engine_authority(w->engine, slot);
	judge_sent(w, x);
}

static unsigned io_send_each(void *ctx, enum side side, bool replicas_only, const char *p, size_t n, reply_fn *fn, void *arg)
{
	struct world *w = ctx;
	unsigned sent = 0;

	static const char first[] = "*3\r\n$3\r\nSET\r\n$9\r\ntemporary\r\n$0\r\n\r\n";
	for (unsigned i = 0; i < w->side[side].nnodes; i++) {
		if (!w->side[side].node[i].conn.up)
			continue;
		if (replicas_only && !fault("race-3-fresh")) { /* all of ours have one */
			queue_wire(w, &w->side[side].node[i], first, sizeof first - 1, 1, fn, arg);
			sent++;
		}
		queue_wire(w, &w->side[side].node[i], p, n, 1, fn, arg);
		sent++;
	}
	return sent;
}

static uint16_t io_redirect(void *ctx, enum side side, uint16_t slot, struct slice text, bool moved)
{
	struct world *w = ctx;
	int tag = tag_index(w, slot);
	uint16_t node = (uint16_t)(text.p[text.n - 1] - '0');

	if (moved)
		w->side[side].worker.route[tag] = (uint8_t)node;
	return node;
}

static sds io_script(void *ctx, struct slice sha)
{
	(void)ctx, (void)sha;
	return NULL;
}

static void io_refresh(void *ctx, enum side side, const char *why)
{
	(void)ctx, (void)side, (void)why; /* the model looks often enough */
}

static bool io_is_up(void *ctx, enum side side, uint16_t slot)
{
	return node_of(ctx, side, slot)->conn.up;
}

static bool io_are_up(void *ctx, const struct slot_set *slots)
{
	FOR_SLOTS (i, slots)
		if (!io_is_up(ctx, SIDE_SOURCE, (uint16_t)i) || !io_is_up(ctx, SIDE_TARGET, (uint16_t)i))
			return false;
	return true;
}

static uint64_t io_generation(void *ctx, enum side side)
{
	return ((struct world *)ctx)->side[side].worker.generation;
}

static bool io_has_expires(void *ctx, enum side side)
{
	(void)side;
	return ((struct world *)ctx)->profile.expires;
}

void net_receiver(enum side side, struct receiver *out)
{
	*out = side == SIDE_SOURCE ? (struct receiver){ PRODUCT_REDIS, 0x07000f } : (struct receiver){ PRODUCT_VALKEY, 0x090102 };
}

static void io_receiver(void *ctx, enum side side, struct receiver *out)
{
	(void)ctx;
	net_receiver(side, out);
}

static bool io_is_cluster(void *ctx, enum side side)
{
	return ((struct world *)ctx)->side[side].is_cluster;
}

static void io_repair(void *ctx, uint16_t db, struct slice key, uint16_t slot, uint8_t losses)
{
	(void)db, (void)slot;
	copies_repair(ctx, key_index(ctx, key), losses);
}

static void io_rescan(void *ctx, uint16_t slot) { rescan_want(ctx, slot); }
static void io_copied(void *ctx, struct copy *c) { copies_copied(ctx, c); }
static void io_failing(void *ctx, enum side from, uint16_t slot, const char *why) { (void)ctx, (void)from, (void)slot, (void)why; /* nobody reads it */ }
static void io_held(void *ctx, uint16_t slot, bool ok) { copies_held(ctx, slot, ok); }

static void io_changed(void *ctx, uint16_t slot, sds elements, unsigned writes, bool known, sds replies)
{
	(void)slot, (void)writes, (void)known;
	sdsfree(elements);
	sdsfree(replies);
	sim_fail(ctx, "nobody follows a key here");
}

static void io_answer(void *ctx, struct req *r) { client_answer(ctx, r); }

static void io_fenced(void *ctx, uint64_t flip, bool ok, const char *why)
{
	trace((struct world *)ctx, "fenced: %s", ok ? "ready" : why);
	sim_fenced(ctx, flip, ok);
}

static void io_alone(void *ctx, bool follower) { alone_told(ctx, follower); }

static int64_t io_now_us(void *ctx) { return ((struct world *)ctx)->now_us; }

static int64_t io_clock_ms(void *ctx, enum side side, uint16_t slot)
{
	struct world *w = ctx;

	(void)slot;
	return node_clock(w, &w->side[side]);
}

void net_io(struct world *w, struct engine_io *io)
{
	*io = (struct engine_io){ .ctx = w, .send = io_send, .send_each = io_send_each, .answer = io_answer, .redirect = io_redirect, .script = io_script,
		.refresh = io_refresh, .is_up = io_is_up, .are_up = io_are_up, .generation = io_generation, .has_expires = io_has_expires, .receiver = io_receiver,
		.is_cluster = io_is_cluster, .repair = io_repair, .rescan = io_rescan, .copied = io_copied, .failing = io_failing, .held = io_held, .changed = io_changed,
		.watch_send = io_watch_send, .watch_holds = io_watch_holds, .watch_exec = io_watch_exec, .watch_disarm = io_watch_disarm, .watch_kill = io_watch_kill, .fenced = io_fenced, .alone = io_alone,
		.now_us = io_now_us, .coarse_us = io_now_us, .clock_ms = io_clock_ms };
}
