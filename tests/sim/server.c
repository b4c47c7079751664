/* A node: it takes commands off its connections in cycles, and tells at a cycle's end which keys somebody else changed (CLIENT TRACKING BCAST NOLOOP). */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "resp/parse.h"
#include "resp/write.h"

int64_t node_clock(struct world *w, const struct cluster *c)
{
	return EPOCH_MS + w->now_us / 1000 + c->clock_ms;
}

static enum side side_of(struct world *w, const struct cluster *c)
{
	return c == &w->side[SIDE_SOURCE] ? SIDE_SOURCE : SIDE_TARGET;
}

static unsigned index_of(const struct cluster *c, const struct server *n)
{
	return (unsigned)(n - c->node);
}

void node_changed(struct world *w, struct server *n, int key, enum changed by)
{
	n->changed[key] = by;
	n->foreign[key] |= n->by_foreigner;
	n->offset++;
	if (n->by_us)
		n->own[key] = n->offset;
	watcher_changed(w, n, key);
}

/* The push about it is the proxy's own: it is not told (upstream.h). */
void node_empty(struct world *w, struct server *n)
{
	n->offset++;
	for (int key = 0; key < KEYS; key++)
		if (n->data[key].type) {
			n->data[key] = (struct value){ .type = TYPE_NONE, .expire_ms = -1 };
			n->own[key] = n->offset;
			watcher_changed(w, n, key);
		}
}

void node_expire(struct world *w, struct cluster *c, struct server *n, int key)
{
	struct value *v = &n->data[key];

	if (!v->type || v->expire_ms < 0 || v->expire_ms > node_clock(w, c))
		return;
	trace(w, "%s/%u: %s expires", side_name(side_of(w, c)), index_of(c, n), w->key[key]);
	*v = (struct value){ .type = TYPE_NONE, .expire_ms = -1 };
	w->count.expired++;
	node_changed(w, n, key, CHANGED_BY_OTHERS);
}

struct server *node_with(struct cluster *c, int key)
{
	int tag = tag_of(key);

	if (c->moving_to[tag] < NODES && c->node[c->moving_to[tag]].data[key].type)
		return &c->node[c->moving_to[tag]];
	return &c->node[c->owner[tag]];
}

/* --- whose key is it? --- */

struct place {
	int tag;            /* -1: no key */
	bool crosses;
	unsigned keys, missing;
};

static struct place place_of(struct world *w, const struct server *n, const struct slice *argv, uint32_t argc)
{
	struct place p = { .tag = -1 };

	for (uint32_t i = 1; i < argc; i++) {
		int key = key_index(w, argv[i]);
		if (key < 0)
			continue;
		p.crosses |= p.tag >= 0 && tag_of(key) != p.tag;
		p.tag = p.tag < 0 ? tag_of(key) : p.tag;
		p.keys++;
		p.missing += !n->data[key].type;
	}
	return p;
}

static sds redirect(struct world *w, const char *word, int tag, unsigned node)
{
	return sdscatprintf(sdsempty(), "-%s %u node:%u\r\n", word, w->slot[tag], node);
}

/* The error of a cluster for keys that are not here; NULL: go ahead. */
static sds elsewhere(struct world *w, struct cluster *c, struct server *n, const struct slice *argv, uint32_t argc, bool asking)
{
	struct place p = place_of(w, n, argv, argc);
	unsigned here = index_of(c, n), script = slice_is(argv[0], "eval");

	if (!c->is_cluster || p.tag < 0)
		return NULL;
	if (p.crosses)
		return sdsnew("-CROSSSLOT Keys in request don't hash to the same slot\r\n");
	if (c->owner[p.tag] == here) {
		if (c->moving_to[p.tag] == NODES || (!p.missing && !script))
			return NULL;
		if (p.missing == p.keys && !script)
			return redirect(w, "ASK", p.tag, c->moving_to[p.tag]);
		return sdsnew("-TRYAGAIN Multiple keys request during rehashing of slot\r\n");
	}
	if (c->moving_to[p.tag] != here || !asking)
		return redirect(w, "MOVED", p.tag, c->owner[p.tag]);
	return (p.keys > 1 && p.missing) || script ? sdsnew("-TRYAGAIN Multiple keys request during rehashing of slot\r\n") : NULL;
}

/* For short times that begin and end in the middle of what is on its way, in some seeds. */
static bool is_unserved(const struct world *w, int tag)
{
	return w->profile.unserved && w->load && (w->now_us / 2000 + tag) % 7 == 0;
}

/* --- commands --- */

static sds wait(struct world *w, struct server *n)
{
	if (n->replica_offset < n->conn.woff) {
		if (one_in(w, 8))
			return sdsnew(":0\r\n");
		memcpy(n->replica, n->data, sizeof n->data);
		n->replica_offset = n->offset;
	}
	return sdsnew(":1\r\n");
}

static sds in_block(struct world *w, struct cluster *c, struct server *n, struct wire *x, const struct slice *argv, uint32_t argc);

static sds execute(struct world *w, struct cluster *c, struct server *n, struct wire *x, const struct slice *argv, uint32_t argc)
{
	struct place p = place_of(w, n, argv, argc);
	uint64_t before = n->offset;
	sds reply;

	if (x->multi)
		return in_block(w, c, n, x, argv, argc);
	if (slice_is(argv[0], "multi")) {
		x->multi = true;
		x->multi_at = x->at;
		return sdsnew("+OK\r\n");
	}
	if (x->kills)
		watcher_zombies_go(w, n);
	if (slice_is(argv[0], "ping"))
		return sdsnew("+PONG\r\n");
	if (slice_is(argv[0], "unwatch"))
		return watcher_command(w, argv);
	if (slice_is(argv[0], "wait"))
		return wait(w, n);
	if (slice_is(argv[0], "flushall")) {
		node_empty(w, n);
		n->conn.woff = n->offset;
		return sdsnew("+OK\r\n");
	}
	reply = elsewhere(w, c, n, argv, argc, x->asking);
	if (!reply && x->client && !x->own && c->is_cluster && p.tag >= 0 && is_unserved(w, p.tag))
		reply = sdsnew("-CLUSTERDOWN Hash slot not served\r\n");
	if (reply)
		return reply;
	if (slice_is(argv[0], "watch"))
		return watcher_command(w, argv);
	if (x->client)
		judge_execution(w, side_of(w, c), p.tag, x);
	if (x->from && !x->own)
		judge_order(w, x, argv, argc);
	n->by_us = !x->own; /* NOLOOP knows the data connection */
	reply = command_execute(w, c, n, argv, argc);
	n->by_us = false;
	if (x->own)
		n->own[key_index(w, argv[1])] = n->offset;
	else if (n->offset != before)
		n->conn.woff = n->offset;
	return reply;
}

/* A node that is given a slot executes nothing about several keys of which it has not got all yet. */
static bool lacks_some(struct world *w, struct cluster *c, struct server *n, const struct wire *x)
{
	unsigned seen = 0, missing = 0;
	int tag = -1;

	for (size_t at = x->multi_at; at < x->at;) {
		struct resp_request p;
		resp_request_init(&p, &resp_default_limits);
		if (resp_request_parse(&p, x->bytes + at, x->n - at) != RESP_OK)
			sim_fail(w, "the engine sent something that is no request");
		for (uint32_t i = 1; i < p.argc; i++) {
			int key = key_index(w, resp_request_arg(&p, x->bytes + at, i));
			if (key < 0)
				continue;
			seen |= 1u << key;
			missing += !n->data[key].type;
			tag = tag_of(key);
		}
		at += p.used;
		resp_request_release(&p);
	}
	return c->is_cluster && tag >= 0 && c->moving_to[tag] == index_of(c, n) && __builtin_popcount(seen) > 1 && missing;
}

/* All that is queued, at once. */
static sds execute_block(struct world *w, struct cluster *c, struct server *n, struct wire *x)
{
	sds replies = sdsempty();
	unsigned count = 0;

	for (size_t at = x->multi_at; at < x->at;) {
		struct resp_request p;
		struct slice argv[12];
		resp_request_init(&p, &resp_default_limits);
		if (resp_request_parse(&p, x->bytes + at, x->n - at) != RESP_OK)
			sim_fail(w, "the engine sent something that is no request");
		for (uint32_t i = 0; i < p.argc && i < 12; i++)
			argv[i] = resp_request_arg(&p, x->bytes + at, i);
		if (at > x->multi_at) {
			sds one = execute(w, c, n, x, argv, p.argc);
			replies = sdscatsds(replies, one);
			sdsfree(one);
			count++;
		}
		at += p.used;
		resp_request_release(&p);
	}
	sds reply = sdscatsds(resp_cat_len(sdsempty(), '*', count), replies);
	sdsfree(replies);
	return reply;
}

static sds in_block(struct world *w, struct cluster *c, struct server *n, struct wire *x, const struct slice *argv, uint32_t argc)
{
	if (!slice_is(argv[0], "exec")) {
		sds refused = elsewhere(w, c, n, argv, argc, x->asking);
		x->refused |= refused != NULL;
		return refused ? refused : sdsnew("+QUEUED\r\n");
	}
	x->multi = false;
	if (x->refused)
		return sdsnew("-EXECABORT Transaction discarded because of previous errors.\r\n");
	if (lacks_some(w, c, n, x))
		return sdsnew("-TRYAGAIN Multiple keys request during rehashing of slot\r\n");
	return x->own && !watcher_may_run(w, c, n) ? sdsnew("_\r\n") : execute_block(w, c, n, x);
}

sds server_execute(struct world *w, struct cluster *c, struct server *n, struct wire *x, bool zombie, bool *last)
{
	struct resp_request p;
	struct slice argv[12];
	char text[80];
	sds reply;

	resp_request_init(&p, &resp_default_limits);
	if (resp_request_parse(&p, x->bytes + x->at, x->n - x->at) != RESP_OK)
		sim_fail(w, "the engine sent something that is no request");
	for (uint32_t i = 0; i < p.argc && i < 12; i++)
		argv[i] = resp_request_arg(&p, x->bytes + x->at, i);
	reply = execute(w, c, n, x, argv, p.argc);
	if (w->trace) {
		int key = p.argc > 1 ? key_index(w, argv[1]) : -1;
		bool payload = p.argc > 3 && argv[3].n > 40;
		sim_trace(w, "%s/%u%s: %.*s %.*s %.*s %.*s -> %.*s now %s", side_name(side_of(w, c)), index_of(c, n), zombie ? " (zombie)" : x->own ? " (the watching client)" : "", (int)argv[0].n, argv[0].p,
			p.argc > 1 ? (int)argv[1].n : 0, argv[1].p, p.argc > 2 ? (int)argv[2].n : 0, argv[2].p, p.argc > 3 && !payload ? (int)argv[3].n : 0, argv[3].p,
			  (int)(sdslen(reply) < 40 ? sdslen(reply) - 2 : 6), reply, key < 0 ? "" : value_show(&n->data[key], text, sizeof text));
	}
	x->at += p.used;
	resp_request_release(&p);
	*last = --x->replies == 0;
	return reply;
}

/* The next command of these bytes; true: it was the last. */
static bool execute_next(struct world *w, struct cluster *c, struct server *n, struct wire *x, bool answer)
{
	bool last;
	sds reply = server_execute(w, c, n, x, !answer, &last);

	if (!answer) {
		sdsfree(reply);
	} else {
		struct conn *k = &n->conn;
		k->out[k->out_tail++ % WIRE_MAX] = (struct answer_out){ ANSWER_REPLY, reply, x->fn, x->arg, 0 };
		if (k->out_tail - k->out_head >= WIRE_MAX)
			sim_fail(w, "more answers are under way than the model has room for");
	}
	return last;
}

static void connection_step(struct world *w, struct cluster *c, struct server *n)
{
	struct conn *k = &n->conn;

	if (!k->up || k->in_head == k->in_tail || k->in_request)
		return;
	struct wire *x = &k->in[k->in_head % WIRE_MAX];
	if (n->cut && !memmem(x->bytes, x->n, "PING", 4)) {
		conn_lose(w, side_of(w, c), n);
		return;
	}
	if (execute_next(w, c, n, x, true)) {
		free(x->bytes);
		k->in_head++;
	}
}

/* Bytes of a connection given up arrive: there is nobody to answer. */
static void zombie_step(struct world *w, struct cluster *c, struct server *n)
{
	struct conn *k = &n->conn;

	if (!k->nzombies)
		return;
	struct wire *x = &k->zombie[0];
	if (execute_next(w, c, n, x, false)) {
		free(x->bytes);
		memmove(k->zombie, k->zombie + 1, --k->nzombies * sizeof *x);
	}
}

static void push(struct server *n, enum answer_kind kind, int key)
{
	struct conn *k = &n->conn;

	if (k->up && !n->cut)
		k->out[k->out_tail++ % WIRE_MAX] = (struct answer_out){ .kind = kind, .key = key };
}

static void end_cycle(struct world *w, struct server *n)
{
	for (int key = 0; key < KEYS; key++) {
		if (n->changed[key] == CHANGED_BY_OTHERS)
			push(n, ANSWER_PUSH, key);
		if (n->changed[key] == CHANGED_BY_US && n->foreign[key])
			w->hidden[key] = true; /* NOLOOP: our write came later in the cycle, and so nothing is said */
		n->changed[key] = UNCHANGED;
		n->foreign[key] = false;
	}
	for (int key = 0; key < KEYS; n->inputs[key++] = 0)
		for (int input = 0; input < KEYS; input++)
			w->hidden[key] |= n->inputs[key] >> input & w->hidden[input];
	if (n->flushed)
		push(n, ANSWER_NULL_PUSH, 0);
	n->flushed = false;
}

/* One cycle of its event loop. */
void server_step(struct world *w, struct cluster *c, struct server *n)
{
	const struct profile *p = &w->profile;
	bool foreign = w->load && p->foreign && !late_hush(w) && one_in(w, p->eager ? 4 : 12);

	if (foreign && !p->cycles_mixed) {
		foreign_write(w, c, n);
		end_cycle(w, n);
		return;
	}
	for (unsigned i = 1 + (unsigned)rnd(w, 4); i > 0; i--) {
		if (foreign && one_in(w, 2)) {
			foreign_write(w, c, n);
			foreign = false;
		}
		if (!p->zombies || !w->load || one_in(w, 30))
			zombie_step(w, c, n);
		connection_step(w, c, n);
		if (one_in(w, 2))
			watcher_server_step(w, c, n);
		if (p->expires && one_in(w, 3))
			node_expire(w, c, n, (int)rnd(w, KEYS));
	}
	if (w->load && p->flush && (p->late ? c == &w->side[SIDE_SOURCE] && late_is_due(w) : one_in(w, p->lag ? 250 : 600) && (!p->lag || (c == &w->side[SIDE_SOURCE] && w->count.flushes < 2))))
		foreign_flush(w, c, n);
	end_cycle(w, n);
}

/* --- slots move --- */

static void move_key(struct world *w, struct cluster *c, int key)
{
	struct server *from = &c->node[c->owner[tag_of(key)]], *to = &c->node[c->moving_to[tag_of(key)]];

	node_expire(w, c, from, key);
	if (!from->data[key].type)
		return;
	to->data[key] = from->data[key];
	from->data[key] = (struct value){ .expire_ms = -1 };
	node_changed(w, from, key, CHANGED_BY_OTHERS);
	node_changed(w, to, key, CHANGED_BY_OTHERS);
}

static void move_end(struct world *w, struct cluster *c, int tag)
{
	for (int i = 0; i < KEYS_PER_TAG; i++)
		move_key(w, c, tag * KEYS_PER_TAG + i);
	c->owner[tag] = c->moving_to[tag];
	c->moving_to[tag] = NODES;
	c->changes++;
	trace(w, "%s: slot of %s is on node %u now", side_name(side_of(w, c)), w->key[tag * KEYS_PER_TAG], c->owner[tag]);
}

void move_step(struct world *w, struct cluster *c)
{
	int tag = (int)rnd(w, TAGS);

	if (!c->is_cluster || c->nnodes < 2)
		return;
	if (c->moving_to[tag] < NODES && one_in(w, 4)) {
		move_end(w, c, tag);
	} else if (c->moving_to[tag] < NODES) {
		move_key(w, c, tag * KEYS_PER_TAG + (int)rnd(w, KEYS_PER_TAG));
	} else if (one_in(w, 10)) {
		c->moving_to[tag] = (uint8_t)(1 - c->owner[tag]);
		w->count.moves++;
		trace(w, "%s: slot of %s begins to move to node %u", side_name(side_of(w, c)), w->key[tag * KEYS_PER_TAG], c->moving_to[tag]);
	}
}

void server_finish_moves(struct world *w)
{
	for (enum side s = SIDE_SOURCE; s < SIDES; s++)
		for (int tag = 0; tag < TAGS; tag++)
			if (w->side[s].moving_to[tag] < NODES)
				move_end(w, &w->side[s], tag);
}

/* --- replicas, failover --- */

void replicate_step(struct world *w, struct cluster *c)
{
	struct server *n = &c->node[rnd(w, c->nnodes)];

	memcpy(n->replica, n->data, sizeof n->data);
	n->replica_offset = n->offset;
}

/* The replica takes over with what it has. Readers who have not heard of it still see the former primary. */
void failover_step(struct world *w, struct cluster *c)
{
	struct server *n = &c->node[rnd(w, c->nnodes)];

	for (int tag = 0; tag < TAGS; tag++)
		if (c->moving_to[tag] < NODES)
			move_end(w, c, tag); /* what a failover in the middle of a move does is the cluster's affair */
	judge_failover(w, n);
	trace(w, "%s/%u: fails over, %llu writes are lost", side_name(side_of(w, c)), index_of(c, n), (unsigned long long)(n->offset - n->replica_offset));
	memcpy(n->deposed, n->data, sizeof n->data);
	n->deposed_before = UINT64_MAX;
	memcpy(n->data, n->replica, sizeof n->data);
	for (int key = 0; key < KEYS; key++) {
		n->deposed_owns[tag_of(key)] = &c->node[c->owner[tag_of(key)]] == n;
		if (!n->deposed_owns[tag_of(key)]) /* of a slot that left before: the cluster's affair, too */
			n->data[key] = (struct value){ .expire_ms = -1 };
	}
	n->replica_offset = ++n->offset;
	n->replaced = n->cut = true;
	n->replaced_us = w->now_us;
	c->changes++;
	w->count.failovers++;
	if (w->watcher.node == n) {
		watcher_lose(w, true);
		watcher_zombies_go(w, n);
	}
	if (one_in(w, 2))
		conn_lose(w, side_of(w, c), n);
}
