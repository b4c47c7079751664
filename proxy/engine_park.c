/* Clients that wait (BLPOP, XREAD BLOCK …): the command that does not wait is tried, and tried again when a key may have got what it waits for.
 *
 *   arrives ──nobody else waits there──► try of all keys ──nothing──► PARKED ◄──nothing──┐
 *      │                                     │                          │ woken          │
 *      └─somebody does: a look, then PARKED  └─something─► answered ◄───┴─► try of one key
 *
 * First come, first served: of those who wait for a list or a sorted set only the first is tried, and the next when he was served; a newcomer does not pop past
 * them, he looks whether the type is right and takes his place. Of a stream all are tried, since reading takes nothing away; in their order, for groups do share.
 * A key is woken when a write is sent to it, so that the try stands right behind the write on the connection, as the server would serve it; by the watch of
 * other writers; and where anything may have been missed: after a flip, a lost connection, a flush.
 *
 * A waiter that is parked is not in flight: no fence waits for it. Its tries are ordinary requests: fenced, mirrored, sent again like any. */
#include "proxy/engine_internal.h"

#include <assert.h>
#include <stdlib.h>

#include "resp/digits.h"
#include "resp/slot.h"
#include "resp/write.h"

#define RETRY_US 500000                      /* what failed for want of a node */
#define TIMEOUT_MAX_MS (INT64_MAX / 1000 / 2) /* longer is for ever */

static const char wrong_type[] = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";

/* --- waking --- */

static void wake(struct engine *e, struct pkey *k)
{
	if (k->kind == PARK_STREAM)
		for (struct place *p = k->head; p; p = p->next)
			p->again = true;
	if (k->trying)
		k->wanted = true;
	else
		park_ready(&e->park, k);
}

static void wake_name(struct engine *e, keyhash h)
{
	for (enum park_kind kind = PARK_LIST; kind < PARK_KINDS; kind++) {
		struct pkey *k = park_key(&e->park, kind, h);
		if (k)
			wake(e, k);
	}
}

void park_wake_all(struct engine *e)
{
	struct pkey *k, *next;

	for (enum park_kind kind = PARK_LIST; kind < PARK_KINDS; kind++)
		HASH_ITER(hh, e->park.keys[kind], k, next)
			wake(e, k);
}

static void forget_watches(struct engine *e)
{
	struct pkey *k, *next;

	for (enum park_kind kind = PARK_LIST; kind < PARK_KINDS; kind++)
		HASH_ITER(hh, e->park.keys[kind], k, next)
			k->watch = WATCH_NONE;
}

/* What the watch would have told is unknown. */
void engine_unseen(struct engine *e)
{
	forget_watches(e);
	park_wake_all(e);
}

/* Not at once: if the server went, a try sent before that shows on the data connection, too, would end in an error. */
void engine_watch_lost(struct engine *e)
{
	forget_watches(e);
	if (!park_is_empty(&e->park))
		park_retry(e);
}

/* A group's own reads (KEY_GROUP) bring nobody anything. */
void park_touched(struct engine *e, const struct req *r)
{
	if (park_is_empty(&e->park) || (!r->txn && command_sole_key(r->cmd) && !e->park.in_slot[r->slot]))
		return;
	if (r->txn) { /* its keys are many, and who is woken for nothing keeps its place */
		park_wake_all(e);
		return;
	}
	uint32_t argc = engine_words(e, r->bytes, r->len), word = command_other_db(r->cmd, argc, e->argv);
	int n = engine_keys(e, r->cmd, argc);
	int64_t db;
	if (!word || !resp_string_to_int(e->argv[word].p, e->argv[word].n, &db) || db < 0 || db >= (int64_t)DBS_MAX)
		db = r->db;
	for (int i = 0; i < n; i++) {
		if (!(e->keys[i].flags & KEY_WRITES & ~KEY_GROUP))
			continue;
		wake_name(e, keyhash_of(r->db, e->argv[e->keys[i].index]));
		if (db != r->db)
			wake_name(e, keyhash_of((uint16_t)db, e->argv[e->keys[i].index]));
	}
	if (!r->cmd->nspecs && r->cmd->flags & CMD_WRITE)
		park_wake_all(e);
}

/* --- the watch of those who write past the proxy --- */

struct watch_ask {
	struct engine *engine;
	enum park_kind kind;
	keyhash hash;
	uint64_t number;
};

static void on_watched(void *arg, const struct reply *r)
{
	struct watch_ask *ask = arg;
	struct engine *e = ask->engine;
	struct pkey *k = park_key(&e->park, ask->kind, ask->hash);
	bool old = !k || k->watch != WATCH_ASKED || k->asked != ask->number; /* of a side or a connection that was left since */

	free(ask);
	if (old)
		return;
	if (!r->p || engine_reply_is_error(r)) {
		k->watch = WATCH_NONE;
		park_retry(e);
		return;
	}
	k->watch = WATCH_ON;
	if (k->kind == PARK_STREAM || r->p[1] != '0') /* EXISTS: what came before the watch was on */
		wake(e, k);
}

static void ask_watch(struct engine *e, struct pkey *k)
{
	if (k->watch != WATCH_NONE || !e->io.watch)
		return;
	struct watch_ask *ask = malloc(sizeof *ask);
	if (!ask)
		abort();
	k->asked = ++e->park.asks;
	*ask = (struct watch_ask){ e, k->kind, k->hash, k->asked };
	k->watch = WATCH_ASKED;
	if (!e->io.watch(e->io.ctx, slot_authority(e, k->slot), k->db, k->slot, slice(k->name, k->len), on_watched, ask)) {
		free(ask);
		k->watch = WATCH_NONE;
	}
}

static void key_changed(struct engine *e, struct pkey *k)
{
	switch (k->watch) {
	case WATCH_ON: /* it was good for one change: it is renewed, and what the key holds then wakes */
		k->watch = WATCH_NONE;
		ask_watch(e, k);
		break;
	case WATCH_ASKED: /* the answer will tell */
		break;
	case WATCH_NONE: /* the watch of everything told */
		wake(e, k);
		break;
	}
}

void engine_key_changed(struct engine *e, enum side side, struct slice key, uint16_t slot)
{
	if (park_is_empty(&e->park) || !e->park.in_slot[slot] || side != slot_authority(e, slot))
		return;
	for (unsigned db = 0; db < e->park.dbs; db++) {
		keyhash h = keyhash_of((uint16_t)db, key);
		for (enum park_kind kind = PARK_LIST; kind < PARK_KINDS; kind++) {
			struct pkey *k = park_key(&e->park, kind, h);
			if (k)
				key_changed(e, k);
		}
	}
}

/* --- the end of waiting --- */

static void give_back(struct engine *e, struct waiter *w)
{
	struct req *r = w->req;

	for (uint32_t i = 0; i < w->nplaces; i++)
		if (w->places[i].key->wanted)
			park_ready(&e->park, w->places[i].key);
	stat_add(&e->stats->blocked, w->parked ? UINT64_MAX : 0);
	park_remove(&e->park, w);
	e->io.answer(e->io.ctx, r);
}

static void set_reply(struct req *r, const char *p, size_t n)
{
	r->reply_block = block_copy(p, n);
	r->reply = r->reply_block->data;
	r->reply_len = n;
}

static void settle(struct engine *e, struct waiter *w, enum unpark how)
{
	static const char unblocked[] = "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n";

	assert(!w->trying);
	if (how == UNPARK_NULL)
		set_reply(w->req, "_\r\n", 3);
	else if (how == UNPARK_ERROR)
		set_reply(w->req, unblocked, sizeof unblocked - 1);
	give_back(e, w);
}

/* A try that is under way ends first: what it brings is the client's. */
static void unpark(struct engine *e, struct waiter *w, enum unpark how)
{
	park_no_deadline(&e->park, w);
	if (w->trying)
		w->unpark = how > w->unpark ? how : w->unpark;
	else
		settle(e, w, how);
}

bool engine_unpark(struct engine *e, uint64_t ticket, enum unpark how)
{
	struct waiter *w = park_find(&e->park, ticket);

	if (!w)
		return false;
	unpark(e, w, how);
	return true;
}

/* --- tries --- */

static void prepare(struct req *r, struct waiter *w, const struct command *cmd, uint16_t slot, sds bytes)
{
	block_unref(r->block);
	*r = (struct req){ .cmd = cmd, .waiter = w, .db = w->req->db, .slot = slot, .ask_node = NODE_NONE, .write = cmd->flags & CMD_WRITE };
	r->block = block_copy(bytes, sdslen(bytes));
	r->bytes = r->block->data;
	r->len = sdslen(bytes);
	sdsfree(bytes);
}

/* k NULL: of all keys at once. */
static void try(struct engine *e, struct waiter *w, struct pkey *k)
{
	uint32_t argc = engine_words(e, w->req->bytes, w->req->len);
	uint32_t at = k ? w->call.first + park_place(w, k)->index : w->call.first;

	assert(!w->trying && !(k && k->trying));
	w->trying = true;
	w->on = k;
	if (k && k->kind != PARK_STREAM)
		k->trying = w;
	prepare(&w->try, w, w->call.plain, k ? k->slot : w->req->slot,
		blocking_cat_try(sdsempty(), &w->call, argc, e->argv, at, k ? 1 : w->call.nkeys, w->ids));
	engine_submit(e, &w->try);
}

/* Keys of several slots, as only a standalone server takes them in one command: tried one by one. */
static bool spans(struct engine *e, const struct waiter *w)
{
	for (uint32_t i = 1; i < w->nplaces; i++)
		if (w->places[i].key->slot != w->places[0].key->slot)
			return e->io.is_cluster(e->io.ctx, slot_authority(e, w->places[0].key->slot));
	return false;
}

static void parked(struct engine *e, struct waiter *w)
{
	stat_add(&e->stats->blocked, !w->parked);
	w->parked = true;
	if (w->unpark) {
		settle(e, w, w->unpark);
		return;
	}
	for (uint32_t i = 0; i < w->nplaces; i++) {
		struct pkey *k = w->places[i].key;
		if (k->wanted || w->places[i].again)
			park_ready(&e->park, k);
		ask_watch(e, k);
	}
}

static void first_try(struct engine *e, struct waiter *w)
{
	if (!spans(e, w)) {
		try(e, w, NULL);
		return;
	}
	for (uint32_t i = 0; i < w->nplaces; i++)
		wake(e, w->places[i].key);
	parked(e, w);
}

static void deliver(struct engine *e, struct waiter *w, struct req *r)
{
	sds s = r->reply[0] == '-' || r->reply[0] == '!' ? NULL : blocking_reply(&w->call, slice(r->reply, r->reply_len));

	if (s) {
		set_reply(w->req, s, sdslen(s));
		sdsfree(s);
	} else {
		set_reply(w->req, r->reply, r->reply_len);
	}
	give_back(e, w);
}

/* --- looks: newcomers, and $ --- */

static void look(struct engine *e, struct waiter *w, bool last_ids)
{
	uint32_t first = w->call.first;

	engine_words(e, w->req->bytes, w->req->len);
	w->trying = true;
	w->looks = calloc(w->call.nkeys, sizeof *w->looks);
	if (last_ids)
		w->ids = calloc(w->call.nkeys, sizeof *w->ids);
	if (!w->looks || (last_ids && !w->ids))
		abort();
	for (uint32_t i = 0; i < w->call.nkeys; i++) {
		const struct command *cmd;
		if (last_ids && !blocking_id_is_last(&w->call, e->argv, i))
			continue;
		sds s = blocking_cat_look(sdsempty(), &w->call, e->argv[first + i], &cmd);
		prepare(&w->looks[i], w, cmd, w->call.nkeys == 1 ? w->req->slot : slot_of(e->argv[first + i]), s);
		w->left++;
	}
	for (uint32_t i = 0; i < w->call.nkeys; i++)
		if (w->looks[i].block)
			engine_submit(e, &w->looks[i]);
}

/* In the order of the keys, as the server looks at them. False: it has been answered. */
static bool judge_looks(struct engine *e, struct waiter *w)
{
	struct resp_item item = { 0 };

	for (uint32_t i = 0; i < w->call.nkeys; i++) {
		struct req *r = &w->looks[i];
		if (!r->block)
			continue;
		resp_item(r->reply, r->reply + r->reply_len, &item);
		if (item.type == '-' || item.type == '!') {
			deliver(e, w, r);
			return false;
		}
		if (w->ids)
			w->ids[i] = blocking_last_id(slice(r->reply, r->reply_len));
		for (uint32_t p = 0; !w->ids && item.n && p < w->nplaces; p++)
			if (w->places[p].index == i) { /* who was first there is tried first */
				wake(e, w->places[p].key);
				return true;
			}
	}
	return true;
}

/* A move that was woken met a wrong type: if its source is a list now, it is the destination's, and the client's error. */
static void judge_doubt(struct engine *e, struct waiter *w)
{
	struct resp_item item = { 0 };

	w->doubt = false;
	resp_item(w->looks[0].reply, w->looks[0].reply + w->looks[0].reply_len, &item);
	park_forget_looks(w);
	if (item.type != ':' || item.n == 0) {
		parked(e, w);
		return;
	}
	set_reply(w->req, wrong_type, sizeof wrong_type - 1);
	give_back(e, w);
}

/* What is to be sent for it is sent by park_run. */
static void due(struct engine *e, struct waiter *w)
{
	w->trying = true;
	w->due_next = e->park.due;
	e->park.due = w;
}

static void looked(struct engine *e, struct waiter *w)
{
	assert(w->left > 0);
	if (--w->left)
		return;
	w->trying = false;
	if (w->doubt) {
		judge_doubt(e, w);
		return;
	}
	if (!judge_looks(e, w))
		return;
	park_forget_looks(w);
	if (w->ids)
		due(e, w);
	else
		parked(e, w);
}

static void try_due(struct engine *e)
{
	struct waiter *w;

	while ((w = e->park.due)) {
		e->park.due = w->due_next;
		w->trying = false;
		if (w->doubt)
			look(e, w, false);
		else if (w->unpark)
			settle(e, w, w->unpark);
		else
			first_try(e, w);
	}
}

/* --- answers --- */

void park_retry(struct engine *e)
{
	if (!e->park.retry_us)
		e->park.retry_us = e->io.now_us(e->io.ctx) + RETRY_US;
}

static bool is_wrong_type(const struct req *r)
{
	return r->reply_len > 11 && memcmp(r->reply, wrong_type, 11) == 0;
}

/* Has the try, that was woken, brought nothing that ends the waiting? */
static bool is_nothing(struct engine *e, const struct waiter *w, const struct req *r)
{
	const struct reply reply = { .p = r->reply, .n = r->reply_len };

	if (r->reply[0] == '_')
		return w->call.nkeys > 0;
	if (!w->parked || !engine_reply_is_error(&reply))
		return false;
	if (engine_reply_is_passing(&reply)) {
		park_retry(e);
		return true;
	}
	return !blocking_error_ends(&w->call, slice(r->reply, r->reply_len));
}

static void tried(struct engine *e, struct waiter *w)
{
	struct req *r = &w->try;
	struct block *reply_block = r->reply_block;

	w->trying = false;
	if (w->on && w->on->trying == w)
		w->on->trying = NULL;
	w->on = NULL;
	if (w->parked && blocking_moves(&w->call) && is_wrong_type(r)) {
		w->doubt = true;
		due(e, w);
	} else if (is_nothing(e, w, r)) {
		parked(e, w);
	} else {
		if (r->write && r->reply[0] != '-')
			park_touched(e, r); /* where it moved something to, and what it left for the next */
		deliver(e, w, r);
	}
	block_unref(reply_block);
}

/* An answer from the authority: the client's, or a waiter's. Nothing is sent from here: whoever called is in the middle of something. */
void engine_answer(struct engine *e, struct req *r)
{
	if (!r->waiter)
		e->io.answer(e->io.ctx, r);
	else if (r == &r->waiter->try)
		tried(e, r->waiter);
	else {
		if (!r->reply_block)
			set_reply(r, r->reply, r->reply_len); /* it is judged when the last one has come */
		looked(e, r->waiter);
	}
}

/* --- arrival, turns --- */

static bool is_alone(const struct waiter *w)
{
	for (uint32_t i = 0; i < w->nplaces; i++)
		if (w->places[i].key->head != &w->places[i])
			return false;
	return true;
}

void park_arrive(struct engine *e, struct req *r)
{
	uint32_t argc = engine_words(e, r->bytes, r->len);
	struct blocking b = blocking_read(r->cmd, argc, e->argv, 0);
	uint16_t *slots = malloc((b.nkeys + 1) * sizeof *slots);
	bool last_ids = false;

	assert(b.blocks && !b.error && e->slots[r->slot].flags & SLOT_MINE);
	if (!slots)
		abort();
	for (uint32_t i = 0; i < b.nkeys; i++) {
		slots[i] = b.nkeys == 1 ? r->slot : slot_of(e->argv[b.first + i]);
		last_ids |= blocking_id_is_last(&b, e->argv, i);
	}
	int64_t deadline = b.timeout_ms && b.timeout_ms < TIMEOUT_MAX_MS ? e->io.now_us(e->io.ctx) + b.timeout_ms * 1000 : 0;
	r->until_us = deadline = r->until_us ? r->until_us : deadline;
	struct waiter *w = park_add(&e->park, r, &b, e->argv + b.first, slots, deadline);
	free(slots);
	if (last_ids || (b.kind != PARK_STREAM && !is_alone(w)))
		look(e, w, last_ids);
	else
		first_try(e, w);
}

static void try_stream(struct engine *e, struct pkey *k)
{
	for (struct place *p = k->head, *next; p; p = next) {
		next = p->next;
		if (!p->again || p->waiter->trying)
			continue;
		p->again = false;
		try(e, p->waiter, k);
	}
}

/* Everything that is ready is tried. Called at the end of whatever came to the engine. */
void park_run(struct engine *e)
{
	struct pkey *k;

	if (e->park.running)
		return;
	e->park.running = true;
	try_due(e);
	while ((k = park_next_ready(&e->park))) {
		if (k->kind == PARK_STREAM) {
			try_stream(e, k);
			continue;
		}
		k->wanted = k->trying || k->head->waiter->trying; /* then when that has ended */
		if (!k->wanted)
			try(e, k->head->waiter, k);
	}
	e->park.running = false;
}

void park_turn(struct engine *e)
{
	int64_t now = e->io.now_us(e->io.ctx);
	struct waiter *w;

	while ((w = park_expired(&e->park, now)))
		unpark(e, w, UNPARK_NULL);
	if (e->park.retry_us && now >= e->park.retry_us) {
		e->park.retry_us = 0;
		park_wake_all(e);
	}
	park_run(e);
}

int64_t engine_due_us(const struct engine *e)
{
	int64_t due = park_due_us(&e->park), retry = park_is_empty(&e->park) ? 0 : e->park.retry_us;

	return due && retry ? (due < retry ? due : retry) : due ? due : retry;
}
