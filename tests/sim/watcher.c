/* Transactions: one client that watches a key, reads it, and executes a block on a connection of its own (race 14); and blocks without a watch, of anybody. What the
 * owner's gate must see to is that such a block meets nothing of the data connection on the way, and what the watch promises is that nobody changed the key
 * between its reading and EXEC: the server's own account of that is modelled, and a flip between must not go unnoticed. */
#include "sim.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "resp/write.h"

static struct server *node_of(struct world *w, enum side side, uint16_t slot)
{
	int tag = tag_index(w, slot);

	return &w->side[side].node[tag < 0 ? 0 : w->side[side].worker.route[tag]];
}

/* --- the server's side of the connection --- */

void watcher_changed(struct world *w, const struct server *n, int key)
{
	struct watcher *x = &w->watcher;

	if (x->node == n && x->keys >> key & 1)
		x->touched = true;
}

sds watcher_command(struct world *w, const struct slice *argv)
{
	struct watcher *x = &w->watcher;

	if (slice_is(argv[0], "unwatch")) {
		x->keys = 0;
		x->touched = false;
	} else {
		x->keys |= 1u << key_index(w, argv[1]);
	}
	return sdsnew("+OK\r\n");
}

/* EXEC: false, something watched has changed. What the client read is what is there, or the watch was worth nothing. */
bool watcher_may_run(struct world *w, struct cluster *c, struct server *n)
{
	struct watcher *x = &w->watcher;
	struct slice get[2] = { SLICE_LIT("GET"), key_name(w, x->exec_key) };

	for (int key = 0; key < KEYS; key++)
		if (x->keys >> key & 1)
			node_expire(w, c, n, key);
	bool run = !x->touched;
	x->keys = 0;
	x->touched = false;
	if (!run || !x->exec_seen)
		return run;
	sds now = command_execute(w, c, n, get, 2);
	if (sdscmp(now, x->exec_seen) != 0)
		sim_fail(w, "a transaction runs although %s, which it watches, is not what its client has read", w->key[x->exec_key]);
	sdsfree(now);
	return true;
}

void watcher_zombies_go(struct world *w, const struct server *n)
{
	struct watcher *x = &w->watcher;

	while (x->node == n && x->nzombies)
		free(x->zombie[--x->nzombies].bytes);
}

/* The next command on it, of a connection given up first. */
void watcher_server_step(struct world *w, struct cluster *c, struct server *n)
{
	struct watcher *x = &w->watcher;
	bool last;

	if (x->node != n || w->now_us < x->stalled_us)
		return;
	if (x->nzombies) {
		sdsfree(server_execute(w, c, n, &x->zombie[0], true, &last));
		if (last) {
			free(x->zombie[0].bytes);
			memmove(x->zombie, x->zombie + 1, --x->nzombies * sizeof *x->zombie);
		}
	} else if (x->up && x->nin) {
		if (x->nout == WATCHER_WIRES)
			sim_fail(w, "more answers are under way to the watching client than the model has room for");
		struct wire *first = &x->in[0];
		x->out[x->nout++] = (struct answer_out){ ANSWER_REPLY, server_execute(w, c, n, first, false, &last), first->fn, first->arg, 0 };
		if (last) {
			free(first->bytes);
			memmove(x->in, x->in + 1, --x->nin * sizeof *x->in);
		}
	}
}

void watcher_deliver(struct world *w)
{
	struct watcher *x = &w->watcher;
	struct answer_out a;

	if (!x->nout || w->now_us < x->stalled_us)
		return;
	if (w->load && one_in(w, 4)) {
		x->stalled_us = w->now_us + (int64_t)rnd(w, 20000);
		return;
	}
	a = x->out[0];
	memmove(x->out, x->out + 1, --x->nout * sizeof *x->out);
	struct block *b = block_copy(a.reply, sdslen(a.reply));
	struct reply r = { .p = b->data, .n = b->used, .block = b };
	sdsfree(a.reply);
	a.fn(a.arg, &r);
	block_unref(b);
}

/* Lost: some of what was written arrives in spite of it, unless the server itself has gone. */
void watcher_lose(struct world *w, bool server_gone)
{
	struct watcher *x = &w->watcher, was = *x;

	if (!x->up)
		return;
	trace(w, "the watching client's connection is lost");
	x->up = false;
	x->nin = x->nout = 0;
	x->v.broken |= x->v.armed;
	unsigned written = (unsigned)rnd(w, was.nin + 1);
	if (was.nin && was.in[0].at && !written)
		written = 1;
	for (unsigned i = 0; i < written && !server_gone && one_in(w, 2); i++) {
		struct wire *z = &x->zombie[x->nzombies++];
		*z = was.in[i];
		z->bytes = memcpy(malloc(z->n), z->bytes, z->n);
	}
	for (unsigned i = 0; i < was.nout; i++) {
		was.out[i].fn(was.out[i].arg, &(struct reply){ .why = "its connection was lost", .sent = true });
		sdsfree(was.out[i].reply);
	}
	for (unsigned i = 0; i < was.nin; i++) {
		for (unsigned k = was.in[i].replies; k > 0; k--)
			was.in[i].fn(was.in[i].arg, &(struct reply){ .why = "its connection was lost", .sent = i < written });
		free(was.in[i].bytes);
	}
}

bool watcher_quiet(const struct world *w)
{
	return !w->watcher.nin && !w->watcher.nout && !w->watcher.nzombies;
}

/* --- the engine's seam --- */

static void send_wire(struct watcher *x, const char *p, size_t n, unsigned replies, bool client, reply_fn *fn, void *arg)
{
	assert(x->nin < WATCHER_WIRES);
	x->in[x->nin++] = (struct wire){ .bytes = memcpy(malloc(n), p, n), .n = n, .replies = replies, .fn = fn, .arg = arg, .client = client, .own = true };
}

bool io_watch_send(void *ctx, struct watch *v, enum side side, uint16_t db, uint16_t slot, const char *p, size_t n, struct block *holder, reply_fn *fn, void *arg)
{
	struct world *w = ctx;
	struct watcher *x = &w->watcher;
	struct server *to = node_of(w, side, slot);

	(void)db, (void)holder;
	assert(v == &x->v);
	v->broken |= (v->armed && (!x->up || x->node != to)) || x->nzombies || !to->conn.up;
	v->armed = true;
	if (v->broken)
		return false;
	if (!x->up || x->node != to) {
		x->node = to;
		x->up = true;
		x->keys = 0;
		x->touched = false;
	}
	send_wire(x, p, n, 1, false, fn, arg);
	return true;
}

bool io_watch_holds(void *ctx, const struct watch *v, enum side side, uint16_t slot)
{
	struct world *w = ctx;

	return v->armed && !v->broken && w->watcher.up && (w->watcher.node == node_of(w, side, slot) || fault("race-14-flip"));
}

void io_watch_exec(void *ctx, struct watch *v, uint16_t db, const char *p, size_t n, struct block *holder, unsigned replies, reply_fn *fn, void *arg)
{
	struct world *w = ctx;

	(void)db, (void)holder;
	v->armed = false;
	send_wire(&w->watcher, p, n, replies, true, fn, arg);
}

static void on_ignored(void *arg, const struct reply *r)
{
	(void)arg;
	(void)r;
}

void io_watch_disarm(struct watch *v)
{
	static const char unwatch[] = "*1\r\n$7\r\nUNWATCH\r\n";
	struct watcher *x = (struct watcher *)(void *)v;

	if (v->armed && x->up)
		send_wire(x, unwatch, sizeof unwatch - 1, 1, false, on_ignored, NULL);
	v->armed = v->broken = false;
}

bool io_watch_kill(void *ctx, struct watch *v, enum side side, uint16_t slot, reply_fn *fn, void *arg)
{
	static const char ping[] = "*1\r\n$4\r\nPING\r\n";
	struct world *w = ctx;
	struct server *n = node_of(w, side, slot);

	(void)v;
	if (n != w->watcher.node || !n->conn.up || n->replaced || n->cut)
		return false;
	net_send(w, side, n, ping, sizeof ping - 1, 1, fn, arg);
	n->conn.in[(n->conn.in_tail - 1) % WIRE_MAX].kills = true;
	return true;
}

/* --- the client --- */

static sds some_write(struct world *w, int key)
{
	char text[24];

	snprintf(text, sizeof text, "%u", (unsigned)rnd(w, MEMBERS));
	switch (key % KEYS_PER_TAG) {
	case 0:
		return one_in(w, 2) ? resp_cat_words(sdsempty(), "INCR", w->key[key], NULL) : resp_cat_words(sdsempty(), "APPEND", w->key[key], text, NULL);
	case 1:
		return resp_cat_words(sdsempty(), "HSET", w->key[key], "f", text, NULL);
	default:
		return one_in(w, 3) ? resp_cat_words(sdsempty(), "SPOP", w->key[key], NULL) : resp_cat_words(sdsempty(), "SADD", w->key[key], text, NULL);
	}
}

/* MULTI, one to three writes to keys of one slot, EXEC. */
static struct req *block_req(struct world *w, int first_key)
{
	static const char multi[] = "*1\r\n$5\r\nMULTI\r\n", exec[] = "*1\r\n$4\r\nEXEC\r\n";
	struct txn *t = calloc(1, sizeof *t);
	sds s = sdsnewlen(multi, sizeof multi - 1);
	int tag = tag_of(first_key);

	t->n = t->sent = 1 + (uint32_t)rnd(w, 3);
	t->commands = calloc(t->n, sizeof *t->commands);
	t->slot = w->slot[tag];
	t->write = true;
	for (uint32_t i = 0; i < t->n; i++) {
		sds one = some_write(w, i ? tag * KEYS_PER_TAG + (int)rnd(w, KEYS_PER_TAG) : first_key);
		const char *name = strchr(one, '$');
		name = strchr(name, '\n') + 1;
		t->commands[i] = (struct txn_command){ .cmd = command_find(slice(name, strcspn(name, "\r"))), .at = sdslen(s), .len = sdslen(one) };
		s = sdscatsds(s, one);
		sdsfree(one);
	}
	struct req *r = client_req(w, sdscatlen(s, exec, sizeof exec - 1), "EXEC", first_key);
	r->txn = t;
	r->write = true;
	return r;
}

void client_block(struct world *w, int key)
{
	client_submit(w, block_req(w, key));
}

void txn_free(struct txn *t)
{
	if (!t)
		return;
	sdsfree(t->refused);
	free(t->commands);
	free(t);
}

void watcher_step(struct world *w)
{
	struct watcher *x = &w->watcher;
	struct req *r;

	switch (x->stage) {
	case WATCHER_RESTS:
		x->key = (int)rnd(w, TAGS) * KEYS_PER_TAG;
		r = client_req(w, resp_cat_words(sdsempty(), "WATCH", w->key[x->key], NULL), "WATCH", x->key);
		r->watch = &x->v;
		x->stage = WATCHER_ASKS;
		client_submit(w, r);
		break;
	case WATCHER_WATCHES:
		x->stage = WATCHER_READS;
		x->reading = r = client_req(w, resp_cat_words(sdsempty(), "GET", w->key[x->key], NULL), "GET", x->key);
		client_submit(w, r);
		break;
	case WATCHER_HAS_READ:
		x->stage = WATCHER_EXECUTES;
		for (unsigned i = (unsigned)rnd(w, 4); i > 0; i--) /* of somebody else, to a key that the block may write, too: no reply tells in which order */
			client_submit(w, client_req(w, some_write(w, x->key + 1), "HSET", x->key + 1));
		r = block_req(w, x->key);
		r->watch = &x->v;
		x->exec_key = x->key;
		sdsfree(x->exec_seen);
		x->exec_seen = x->seen;
		x->seen = NULL;
		client_submit(w, r);
		break;
	default:
		break; /* an answer is awaited */
	}
}

void watcher_answered(struct world *w, const struct req *r)
{
	struct watcher *x = &w->watcher;

	if (r->watch && !r->txn) {
		x->stage = r->reply[0] == '+' ? WATCHER_WATCHES : WATCHER_RESTS;
	} else if (r->watch) {
		if (r->reply[0] == '*')
			w->count.executed++;
		x->stage = WATCHER_RESTS;
	} else if (x->reading == r) {
		x->stage = WATCHER_HAS_READ;
		sdsfree(x->seen);
		x->seen = r->reply[0] == '-' ? NULL : sdsnewlen(r->reply, r->reply_len); /* another type: it knows nothing */
		x->reading = NULL;
	}
}

/* The process has been killed, and its clients with it. */
void watcher_forget(struct world *w)
{
	struct watcher *x = &w->watcher;

	assert(!x->up && !x->nin && !x->nout);
	x->v = (struct watch){ 0 };
	x->stage = WATCHER_RESTS;
	x->reading = NULL;
	sdsfree(x->seen);
	sdsfree(x->exec_seen);
	x->seen = x->exec_seen = NULL;
}
