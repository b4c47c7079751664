/* The connections on which a worker listens: which topic is heard on which node, confirmed, sent again when one comes back, and judged when a
 * message comes. pubsub.h says what is heard where. */
#include "proxy/pubsub_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "proxy/log.h"
#include "resp/slot.h"
#include "resp/write.h"

#define TICK_S 0.1
#define IDLE_TICKS 50  /* a connection on which nothing is heard is closed after so many */
#define PROBE_S 1.0    /* silence after which a node is asked whether it is still there */

struct op { /* a (UN)SUBSCRIBE whose answer is awaited; NULL as argument: a PING */
	struct ear *ear;
	enum topic_kind kind;
	bool subscribe;
	uint64_t number;
	sds name;
};

static const struct { /* by kind */
	const char *subscribe, *unsubscribe, *message;
} words[TOPIC_KINDS] = {
	[TOPIC_CHANNEL] = { "subscribe", "unsubscribe", "message" },
	[TOPIC_PATTERN] = { "psubscribe", "punsubscribe", "pmessage" },
	[TOPIC_SHARD] = { "ssubscribe", "sunsubscribe", "smessage" },
};

/* --- one topic at one ear --- */

static struct hearing *hearing_of(const struct topic *t, const struct ear *ear)
{
	for (unsigned i = 0; i < t->nhearings; i++)
		if (t->hearings[i].ear == ear)
			return &t->hearings[i];
	return NULL;
}

static void op_free(struct op *o)
{
	sdsfree(o->name);
	free(o);
}

static enum side authority_of(const struct topic *t)
{
	return fleet_authority(t->pubsub->worker->fleet, t->kind == TOPIC_SHARD ? t->slot : 0);
}

/* Errors that a new look at the cluster, or a little time, mends. */
static bool passes_by(struct slice error)
{
	static const char *const words[] = { "-MOVED ", "-ASK ", "-TRYAGAIN ", "-CLUSTERDOWN ", "-LOADING ", "-MASTERDOWN " };

	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		if (error.n > strlen(words[i]) && memcmp(error.p, words[i], strlen(words[i])) == 0)
			return true;
	return false;
}

/* The node said no: asked again later. If it is for good, and the authority's word, the clients who wait are told. */
static void refused(struct topic *t, struct hearing *h, struct slice error)
{
	const struct upstream *u = h->ear->upstream;

	h->state = HEARING_WAITS;
	t->pubsub->retry = true;
	fleet_tell_refresh(t->pubsub->worker, u->side, "a node refused a subscription");
	if (passes_by(error))
		return;
	log_limited(LOG_WARNING, "%s %s refuses to %s: %.*s", side_name(u->side), u->name, words[t->kind].subscribe, (int)error.n - 3, error.p + 1);
	if (u->side == authority_of(t))
		topic_failed(t, error);
	else if (ears_confirmed(t))
		topic_ready(t);
}

static void on_answer(void *arg, const struct reply *r)
{
	struct op *o = arg;
	struct topic *t = topic_find(o->ear->pubsub, o->kind, slice(o->name, sdslen(o->name)));
	struct hearing *h = t ? hearing_of(t, o->ear) : NULL;

	if (r->p && o->subscribe && h && h->op == o->number && h->state == HEARING_SENT) {
		h->state = HEARING_CONFIRMED;
		if (r->p[0] == '-')
			refused(t, h, slice(r->p, r->n));
		else if (ears_confirmed(t))
			topic_ready(t);
	}
	op_free(o);
}

static void send_op(struct ear *ear, const struct topic *t, bool subscribe, uint64_t number)
{
	struct slice argv[2];
	const char *word = subscribe ? words[t->kind].subscribe : words[t->kind].unsubscribe;
	struct op *o = malloc(sizeof *o);

	if (!o)
		abort();
	*o = (struct op){ .ear = ear, .kind = t->kind, .subscribe = subscribe, .number = number, .name = sdsdup(t->name) };
	argv[0] = slice(word, strlen(word));
	argv[1] = slice(t->name, sdslen(t->name));
	sds s = resp_cat_request(sdsempty(), 2, argv);
	upstream_send(ear->upstream, UPSTREAM_ANY_DB, s, sdslen(s), NULL, 1, on_answer, o);
	sdsfree(s);
}

static void hear(struct topic *t, struct hearing *h)
{
	if (!upstream_is_up(h->ear->upstream)) {
		h->state = HEARING_WAITS;
		upstream_open(h->ear->upstream);
		return;
	}
	h->state = HEARING_SENT;
	h->op = ++t->pubsub->ops;
	send_op(h->ear, t, true, h->op);
}

static void hearing_end(struct topic *t, unsigned i)
{
	struct hearing *h = &t->hearings[i];

	if (h->state != HEARING_WAITS && upstream_is_up(h->ear->upstream))
		send_op(h->ear, t, false, 0);
	h->ear->topics--;
	t->hearings[i] = t->hearings[--t->nhearings];
}

void ears_forget(struct topic *t)
{
	while (t->nhearings)
		hearing_end(t, t->nhearings - 1);
}

/* --- ears --- */

static const char *ear_user(void *ctx, enum side side)
{
	struct worker *w = ((struct ear *)ctx)->pubsub->worker;

	return w->owner.user(w->owner.ctx, side);
}

static const char *ear_password(void *ctx, enum side side)
{
	struct worker *w = ((struct ear *)ctx)->pubsub->worker;

	return w->owner.password(w->owner.ctx, side);
}

static void ear_flush_soon(void *ctx, struct upstream *u)
{
	struct worker *w = ((struct ear *)ctx)->pubsub->worker;

	w->owner.flush_soon(w->owner.ctx, u);
}

static void each_topic(struct pubsub *p, void (*fn)(struct topic *t, struct ear *ear), struct ear *ear)
{
	struct topic *t, *next;

	for (unsigned kind = 0; kind < TOPIC_KINDS; kind++)
		HASH_ITER(hh, p->topics[kind], t, next)
			fn(t, ear);
}

static void hear_again(struct topic *t, struct ear *ear)
{
	struct hearing *h = hearing_of(t, ear);

	if (h)
		hear(t, h);
}

static void ear_up(void *ctx, struct upstream *u)
{
	struct ear *ear = ctx;

	log_verbose("%s %s is listened to", side_name(u->side), u->name);
	each_topic(ear->pubsub, hear_again, ear);
}

/* What is not heard any more is not waited for, if it is the follower's. */
static void unheard(struct topic *t, struct ear *ear)
{
	struct hearing *h = hearing_of(t, ear);

	if (!h)
		return;
	h->state = HEARING_WAITS;
	if (ears_confirmed(t))
		topic_ready(t);
}

static void ear_lost(void *ctx, struct upstream *u, const char *why, bool was_up)
{
	struct ear *ear = ctx;

	(void)was_up;
	each_topic(ear->pubsub, unheard, ear);
	if (ear->topics)
		fleet_tell_refresh(ear->pubsub->worker, u->side, why);
}

/* --- what comes --- */

/* The node tells that it has the slot no more: the new one is asked as soon as it is known. */
static void let_go(struct ear *ear, enum topic_kind kind, struct slice name)
{
	struct topic *t = topic_find(ear->pubsub, kind, name);
	struct hearing *h = t ? hearing_of(t, ear) : NULL;

	if (!h)
		return;
	h->state = HEARING_WAITS;
	ear->pubsub->retry = true;
	fleet_tell_refresh(ear->pubsub->worker, ear->upstream->side, "a slot with subscribers has moved");
}

/* The answer that is awaited first, or the server's own word? */
static bool is_awaited(const struct upstream *u, enum topic_kind kind, bool subscribe, struct slice name)
{
	const struct op *o = u->fifo_n && u->fifo[u->fifo_head].fn == on_answer ? u->fifo[u->fifo_head].arg : NULL;

	return o && o->kind == kind && o->subscribe == subscribe && slice_eq(slice(o->name, sdslen(o->name)), name);
}

/* The slot of the key that a keyspace notification is about; SLOTS: it is an ordinary message. */
static uint16_t notified_slot(struct slice channel, struct slice payload)
{
	const char *at;

	if (channel.n < 12 || (memcmp(channel.p, "__keyspace@", 11) != 0 && memcmp(channel.p, "__keyevent@", 11) != 0))
		return SLOTS;
	at = memmem(channel.p, channel.n, "__:", 3);
	if (!at)
		return SLOTS;
	return slot_of(channel.p[5] == 's' ? slice(at + 3, (size_t)(channel.p + channel.n - at - 3)) : payload);
}

static bool is_given_on(const struct ear *ear, enum topic_kind kind, struct slice channel, struct slice payload)
{
	const struct pubsub *p = ear->pubsub;
	enum side side = ear->upstream->side;
	uint16_t slot;

	if (kind == TOPIC_SHARD)
		return true;
	slot = notified_slot(channel, payload);
	if (slot == SLOTS)
		return ear->node == p->main[side];
	return fleet_authority(p->worker->fleet, slot) == side;
}

static void message(struct ear *ear, enum topic_kind kind, struct slice push, const char *p)
{
	const char *end = push.p + push.n;
	struct resp_item name, channel, payload;
	struct topic *t;

	p += resp_item(p, end, &name);
	channel = name;
	if (kind == TOPIC_PATTERN)
		p += resp_item(p, end, &channel);
	resp_item(p, end, &payload);
	t = topic_find(ear->pubsub, kind, name.text);
	if (t && hearing_of(t, ear) && is_given_on(ear, kind, channel.text, payload.text))
		topic_give(t, push, ear->upstream->in);
}

static bool ear_pushed(void *ctx, struct upstream *u, struct slice push)
{
	struct ear *ear = ctx;
	const char *p = push.p, *end = push.p + push.n;
	struct resp_item head, word, name;

	p += resp_item(p, end, &head);
	p += resp_item(p, end, &word);
	for (enum topic_kind kind = 0; kind < TOPIC_KINDS; kind++) {
		if (slice_is(word.text, words[kind].message)) {
			message(ear, kind, push, p);
			return false;
		}
		bool subscribe = slice_is(word.text, words[kind].subscribe);
		if (!subscribe && !slice_is(word.text, words[kind].unsubscribe))
			continue;
		resp_item(p, end, &name);
		if (is_awaited(u, kind, subscribe, name.text))
			return true;
		if (!subscribe)
			let_go(ear, kind, name.text);
		return false;
	}
	return false;
}

static struct ear *ear_new(struct pubsub *p, uint16_t node)
{
	struct worker *w = p->worker;
	struct ear *ear = calloc(1, sizeof *ear);

	if (!ear)
		abort();
	ear->pubsub = p;
	ear->node = node;
	ear->owner = w->owner;
	ear->owner.ctx = ear;
	ear->owner.user = ear_user;
	ear->owner.password = ear_password;
	ear->owner.flush_soon = ear_flush_soon;
	ear->owner.fetch_far = NULL;
	ear->owner.fetch_near = NULL;
	ear->owner.pushed = ear_pushed;
	ear->owner.before_write = NULL; /* it changes nothing */
	ear->owner.formers = NULL;
	ear->owner.up = ear_up;
	ear->owner.lost = ear_lost;
	ear->owner.latency = NULL;
	ear->upstream = upstream_new(&ear->owner, w->upstreams[node]->side, w->upstreams[node]->name);
	return ear;
}

static struct ear *ear_of(struct pubsub *p, uint16_t node)
{
	const struct upstream *data = p->worker->upstreams[node];

	if (node >= p->ears_cap) {
		unsigned cap = 2u * node + 8;
		p->ears = realloc(p->ears, cap * sizeof *p->ears);
		if (!p->ears)
			abort();
		memset(p->ears + p->ears_cap, 0, (cap - p->ears_cap) * sizeof *p->ears);
		p->ears_cap = cap;
	}
	if (!p->ears[node])
		p->ears[node] = ear_new(p, node);
	upstream_set_addr(p->ears[node]->upstream, &data->addr, data->addr_len);
	if (!ev_is_active(&p->tick))
		ev_timer_again(p->worker->loop, &p->tick);
	return p->ears[node];
}

/* --- which topic is heard where --- */

static bool is_listened_to(const struct worker *w, enum side side)
{
	return w->topology[side] && (engine_is_mirroring(w->engine) || fleet_authority(w->fleet, 0) == side);
}

static void want(struct topic *t, uint16_t node)
{
	struct worker *w = t->pubsub->worker;
	struct ear *ear;
	struct hearing *h;

	if (node == w->nowhere[w->upstreams[node]->side])
		return;
	ear = ear_of(t->pubsub, node);
	h = hearing_of(t, ear);
	if (!h) {
		t->hearings = realloc(t->hearings, (t->nhearings + 1) * sizeof *t->hearings);
		if (!t->hearings)
			abort();
		h = &t->hearings[t->nhearings++];
		*h = (struct hearing){ .ear = ear };
		ear->topics++;
	}
	h->wanted = true;
	if (h->state == HEARING_WAITS)
		hear(t, h);
}

static void want_side(struct topic *t, enum side side)
{
	struct pubsub *p = t->pubsub;
	struct worker *w = p->worker;
	const struct topology *topology = w->topology[side];

	if (t->kind == TOPIC_SHARD) {
		want(t, w->route[side][t->slot]);
		return;
	}
	want(t, p->main[side]);
	want(t, w->route[side][0]);
	for (uint16_t i = 0; t->everywhere && i < topology->nnodes; i++)
		want(t, worker_upstream(w, side, topology->nodes[i].name));
}

void ears_sync(struct topic *t)
{
	struct pubsub *p = t->pubsub;

	for (unsigned i = 0; i < t->nhearings; i++)
		t->hearings[i].wanted = false;
	for (enum side s = SIDE_SOURCE; s < SIDES; s++) {
		if (p->main[s] == p->worker->nowhere[s])
			p->main[s] = p->worker->route[s][0];
		if (is_listened_to(p->worker, s))
			want_side(t, s);
	}
	for (unsigned i = 0; i < t->nhearings;)
		if (t->hearings[i].wanted)
			i++;
		else
			hearing_end(t, i);
}

/* Every node that was asked has confirmed, and one of the authority's is among them. What the follower's does not confirm keeps a flip back, not the client. */
bool ears_confirmed(const struct topic *t)
{
	enum side authority = authority_of(t);
	bool heard = false;

	for (unsigned i = 0; i < t->nhearings; i++) {
		const struct hearing *h = &t->hearings[i];
		bool decides = h->ear->upstream->side == authority;
		if (h->state == HEARING_SENT || (decides && h->state != HEARING_CONFIRMED))
			return false;
		heard |= decides;
	}
	return heard;
}

/* --- another node for the ordinary channels: heard there first, then no more at the former one --- */

static bool all_heard(const struct pubsub *p, uint16_t node)
{
	for (unsigned kind = TOPIC_CHANNEL; kind <= TOPIC_PATTERN; kind++)
		for (const struct topic *t = p->topics[kind]; t; t = t->hh.next) {
			const struct hearing *h = p->ears[node] ? hearing_of(t, p->ears[node]) : NULL;
			if (!h || h->state != HEARING_CONFIRMED)
				return false;
		}
	return true;
}

static void main_turn(struct pubsub *p, enum side side)
{
	uint16_t next = p->worker->route[side][0], now = p->main[side];
	bool gone;

	if (next == now || next == p->worker->nowhere[side] || !is_listened_to(p->worker, side))
		return;
	gone = now >= p->ears_cap || !p->ears[now] || !upstream_is_up(p->ears[now]->upstream);
	if (!gone && (next >= p->ears_cap || !all_heard(p, next)))
		return;
	p->main[side] = next;
	p->look = true;
}

static void sync_one(struct topic *t, struct ear *ear)
{
	(void)ear;
	ears_sync(t);
	if (t->nwaiting && ears_confirmed(t))
		topic_ready(t);
}

void pubsub_look(struct pubsub *p)
{
	p->look = true;
}

void pubsub_turn(struct pubsub *p)
{
	bool any = p->topics[TOPIC_CHANNEL] || p->topics[TOPIC_PATTERN] || p->topics[TOPIC_SHARD];

	for (enum side s = SIDE_SOURCE; s < SIDES; s++)
		if (any)
			main_turn(p, s);
		else
			p->main[s] = p->worker->route[s][0];
	if (!p->look)
		return;
	p->look = false;
	each_topic(p, sync_one, NULL);
}

static void on_probe(void *arg, const struct reply *r)
{
	(void)arg;
	(void)r; /* that something came is all; upstream.c gives up who does not answer */
}

static bool ear_tick(struct ear *ear, ev_tstamp now)
{
	static const char ping[] = "*1\r\n$4\r\nPING\r\n";
	struct upstream *u = ear->upstream;

	if (ear->topics)
		ear->idle_ticks = 0;
	else if (u->state == UPSTREAM_IDLE || u->state == UPSTREAM_DOWN)
		return false;
	else if (++ear->idle_ticks >= IDLE_TICKS)
		upstream_close(u);
	if (!ear->topics)
		return true;
	if (!upstream_is_up(u))
		upstream_open(u);
	else if (!u->fifo_n && now - u->progress > PROBE_S)
		upstream_send(u, UPSTREAM_ANY_DB, ping, sizeof ping - 1, NULL, 1, on_probe, NULL);
	return true;
}

/* Nodes that are not there are tried again, those that refused are asked again, idle ones are let go. */
static void on_tick(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct pubsub *p = timer->data;
	bool busy = false;

	(void)revents;
	for (unsigned i = 0; i < p->ears_cap; i++)
		if (p->ears[i])
			busy |= ear_tick(p->ears[i], ev_now(loop));
	p->look |= p->retry;
	p->retry = false;
	if (!busy)
		ev_timer_stop(loop, timer);
}

/* --- before a flip --- */

static void settled(struct pubsub *p, const char *why)
{
	fleet_tell_settled(p->worker, p->settle.flip, !why, why);
}

static const char *unconfirmed(const struct pubsub *p)
{
	for (unsigned kind = 0; kind < TOPIC_KINDS; kind++)
		for (const struct topic *t = p->topics[kind]; t; t = t->hh.next)
			for (unsigned i = 0; i < t->nhearings; i++)
				if (t->hearings[i].state != HEARING_CONFIRMED)
					return "a subscription is not confirmed on both sides";
	return NULL;
}

static void on_settled(void *arg, const struct reply *r)
{
	struct pubsub *p = arg;

	assert(p->settle.left > 0);
	p->settle.lost |= !r->p;
	if (--p->settle.left == 0)
		settled(p, p->settle.lost ? "a node that is listened to was lost" : unconfirmed(p));
}

/* Their PINGs come behind everything that was published to them and subscribed at them before. */
void pubsub_settle(struct pubsub *p, uint64_t flip)
{
	static const char ping[] = "*1\r\n$4\r\nPING\r\n";

	p->settle.flip = flip;
	if (p->settle.left) { /* of a flip that was undone: its answers are the newer ones' as well, but were asked for too early */
		settled(p, "the last attempt has not ended yet");
		return;
	}
	p->settle.lost = false;
	for (unsigned i = 0; i < p->ears_cap; i++) {
		if (!p->ears[i] || !p->ears[i]->topics)
			continue;
		if (!upstream_is_up(p->ears[i]->upstream)) {
			p->settle.lost = true;
			continue;
		}
		p->settle.left++;
		upstream_send(p->ears[i]->upstream, UPSTREAM_ANY_DB, ping, sizeof ping - 1, NULL, 1, on_settled, p);
	}
	if (!p->settle.left)
		settled(p, p->settle.lost ? "a node with subscribers is not connected" : NULL);
}

/* --- life --- */

struct pubsub *pubsub_new(struct worker *w)
{
	struct pubsub *p = calloc(1, sizeof *p);

	if (!p)
		abort();
	p->worker = w;
	for (enum side s = SIDE_SOURCE; s < SIDES; s++)
		p->main[s] = w->nowhere[s];
	ev_init(&p->tick, on_tick);
	p->tick.repeat = TICK_S;
	p->tick.data = p;
	return p;
}

void pubsub_close(struct pubsub *p)
{
	ev_timer_stop(p->worker->loop, &p->tick);
	for (unsigned i = 0; i < p->ears_cap; i++)
		if (p->ears[i]) {
			upstream_free(p->ears[i]->upstream);
			free(p->ears[i]);
			p->ears[i] = NULL;
		}
}

void pubsub_free(struct pubsub *p)
{
	free(p->ears);
	free(p);
}
