/* The connections on which a worker hears of changed keys for the clients that track: who is listened to, what is missed, flips. */
#include <assert.h>
#include <stdlib.h>

#include "backfill/own_keys.h"
#include "proxy/tracking_internal.h"
#include "resp/slot.h"

#define AGAIN_S 0.05
#define SETTLE_S 0.1 /* the workers flip one behind the other: one null invalidation for all of it */

/* --- pushes --- */

/* During a flip both count: what was written before it may be told late by the side left. */
static bool counts(const struct tracking *x, enum side side, uint16_t slot)
{
	return x->authority[slot] == side || fleet_authority(x->worker->fleet, slot) == side;
}

static bool on_push(void *ctx, struct upstream *u, struct slice push)
{
	struct tracking *x = ((struct worker *)ctx)->tracking;
	const char *p = push.p, *end = push.p + push.n;
	struct resp_item head, kind, keys, key;
	uint32_t n = 0;

	p += resp_item(p, end, &head);
	p += resp_item(p, end, &kind);
	if (head.n != 2 || !slice_is(kind.text, "invalidate"))
		return false;
	p += resp_item(p, end, &keys);
	if (keys.type == '_' && (counts(x, u->side, 0) || counts(x, u->side, SLOTS - 1)))
		tracking_forget_all(x);
	if (keys.type != '*' || keys.n <= 0)
		return false;
	struct slice *found = malloc((size_t)keys.n * sizeof *found);
	if (!found)
		abort();
	for (int64_t i = 0; i < keys.n; i++) {
		p += resp_item(p, end, &key);
		if (!is_own_key(key.text) && counts(x, u->side, slot_of(key.text)))
			found[n++] = key.text;
	}
	tracking_changed(x, found, n);
	free(found);
	return false;
}

static void on_up(void *ctx, struct upstream *u)
{
	(void)u;
	tracking_look(ctx);
}

/* The turn sees what it means. */
static void on_lost(void *ctx, struct upstream *u, const char *why, bool was_up)
{
	(void)u;
	(void)why;
	(void)was_up;
	tracking_look(ctx);
}

/* --- life --- */

static void on_again(struct ev_loop *loop, ev_timer *t, int revents)
{
	(void)loop;
	(void)revents;
	tracking_look(t->data);
}

static void take_authority(struct tracking *x)
{
	for (unsigned slot = 0; slot < SLOTS; slot++)
		x->authority[slot] = (uint8_t)fleet_authority(x->worker->fleet, (uint16_t)slot);
}

static void on_settled(struct ev_loop *loop, ev_timer *t, int revents)
{
	struct worker *w = t->data;

	(void)loop;
	(void)revents;
	take_authority(w->tracking);
	tracking_forget_all(w->tracking);
}

struct tracking *tracking_of(struct worker *w)
{
	struct tracking *x = w->tracking;

	if (x)
		return x;
	x = w->tracking = calloc(1, sizeof *x);
	if (!x)
		abort();
	x->worker = w;
	side_init(&x->side, w, "tracking");
	x->side.owner.pushed = on_push;
	x->side.owner.up = on_up;
	x->side.owner.lost = on_lost;
	ev_timer_init(&x->again, on_again, AGAIN_S, 0.);
	ev_timer_init(&x->settle, on_settled, SETTLE_S, 0.);
	x->again.data = x->settle.data = w;
	x->epoch = atomic_load(&w->fleet->epoch);
	take_authority(x);
	return x;
}

void tracking_free(struct worker *w)
{
	struct tracking *x = w->tracking;

	if (!x)
		return;
	assert(!x->trackers && !x->told);
	ev_timer_stop(w->loop, &x->again);
	ev_timer_stop(w->loop, &x->settle);
	side_release(&x->side);
	tracking_own_release(x);
	tracking_forget_all(x);
	free(x->waiting);
	free(x);
	w->tracking = NULL;
}

/* --- who is listened to --- */

/* True: it is listened to. */
static bool listen_to(struct tracking *x, uint16_t node)
{
	bool made;
	struct upstream *u = side_to(&x->side, x->worker->upstreams[node], &made);

	if (made)
		upstream_watch(u, true);
	upstream_open(u);
	return upstream_is_up(u);
}

static void listen_to_follower(struct tracking *x)
{
	struct worker *w = x->worker;
	uint16_t last = w->nowhere[SIDE_SOURCE];

	for (unsigned slot = 0; slot < SLOTS; slot++) {
		enum side side = SIDE_OTHER(fleet_authority(w->fleet, (uint16_t)slot));
		uint16_t node = w->route[side][slot];
		if (node != last && node != w->nowhere[side])
			listen_to(x, node);
		last = node;
	}
}

static bool listen_to_all(struct tracking *x)
{
	struct worker *w = x->worker;
	uint16_t *nodes = malloc(w->nupstreams * sizeof *nodes);
	bool all = true;

	if (!nodes)
		abort();
	unsigned n = worker_answering(w, nodes);
	for (unsigned i = 0; i < n; i++)
		all &= listen_to(x, nodes[i]);
	free(nodes);
	if (engine_is_mirroring(w->engine))
		listen_to_follower(x); /* so that nothing is missed behind a flip */
	return all && n;
}

static void close_all(struct tracking *x)
{
	for (unsigned i = 0; i < x->side.n; i++)
		upstream_close(x->side.nodes[i]);
	x->covered = false;
	tracking_forget_all(x);
}

static void answer_waiting(struct tracking *x)
{
	struct req **waiting = x->waiting;
	unsigned n = x->nwaiting;

	x->waiting = NULL;
	x->nwaiting = 0;
	for (unsigned i = 0; i < n; i++) {
		struct req *r = waiting[i];
		struct client *c = req_client(r);
		if (c && c->session && c->session->tracker)
			c->session->tracker->armed = true;
		r->reply_block = block_copy("+OK\r\n", 5);
		r->reply = r->reply_block->data;
		r->reply_len = 5;
		client_done(x->worker, r);
	}
	free(waiting);
}

void tracking_wait(struct tracking *x, struct req *r)
{
	x->waiting = realloc(x->waiting, (x->nwaiting + 1) * sizeof *x->waiting);
	if (!x->waiting)
		abort();
	x->waiting[x->nwaiting++] = r;
	x->look = true;
}

static void see_flips(struct tracking *x)
{
	for (unsigned slot = 0; slot < SLOTS; slot++) {
		if (x->authority[slot] == fleet_authority(x->worker->fleet, (uint16_t)slot))
			continue;
		if (!ev_is_active(&x->settle)) {
			ev_timer_set(&x->settle, SETTLE_S, 0.);
			ev_timer_start(x->worker->loop, &x->settle);
		}
		return;
	}
}

void tracking_look(struct worker *w)
{
	if (w->tracking)
		w->tracking->look = true;
}

void tracking_turn(struct worker *w)
{
	struct tracking *x = w->tracking;
	uint32_t epoch;

	if (!x || (!x->look && x->epoch == atomic_load_explicit(&w->fleet->epoch, memory_order_relaxed)))
		return;
	epoch = atomic_load(&w->fleet->epoch);
	x->look = false;
	x->epoch = epoch;
	ev_timer_stop(w->loop, &x->again);
	if (!x->trackers && !x->nwaiting) {
		close_all(x);
		return;
	}
	see_flips(x);
	bool covered = listen_to_all(x);
	if (covered != x->covered)
		tracking_forget_all(x); /* what is missed, or was, is unknown */
	x->covered = covered;
	if (covered) {
		answer_waiting(x);
	} else {
		ev_timer_set(&x->again, AGAIN_S, 0.);
		ev_timer_start(w->loop, &x->again);
	}
}
