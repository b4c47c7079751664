#include "proxy/handover_client.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/bulk.h"
#include "proxy/client.h"
#include "proxy/handover.h"
#include "proxy/log.h"
#include "proxy/monitor.h"
#include "proxy/pause.h"
#include "proxy/tracking.h"
#include "proxy/watch.h"

#define FOLLOWER_LIMIT_S 0.5      /* what it has not acknowledged by then stays in the journal, and is copied again */
#define SUBSCRIPTIONS_LIMIT_S 2.0 /* a node that does not answer holds nobody longer */

/* ---- stages ---- */

static void begin_stage(struct worker *w, enum handing_stage stage)
{
	if (!w->handing && !(w->handing = calloc(1, sizeof *w->handing)))
		abort();
	w->handing->stage = stage;
	w->handing->told = false;
	w->handing->since = ev_now(w->loop);
	ev_timer_again(w->loop, &w->tick);
}

static void accept_clients(struct worker *w, bool on)
{
	ev_timer_stop(w->loop, &w->accept_again);
	for (unsigned i = 0; i < w->nlisteners; i++)
		(on ? ev_io_start : ev_io_stop)(w->loop, &w->listeners[i].io);
}

void handover_still(struct worker *w)
{
	begin_stage(w, HANDING_STILL);
	accept_clients(w, false);
	pause_handover(w, true);
}

void handover_empty(struct worker *w)
{
	assert(w->handing && w->handing->stage == HANDING_STILL);
	begin_stage(w, HANDING_EMPTY);
}

bool handover_stopped(const struct worker *w)
{
	return w->handing->stage == HANDING_PACKED;
}

/* Blocking commands are taken back; what is in flight is waited for, and so is what was taken from a client and is still being cut, whether the client lives or not. */
static bool all_between_requests(struct worker *w)
{
	bool all = true;

	for (struct client *c = w->clients; c; c = c->next) {
		if (c->parked && !c->parked->leaves)
			blocked_leave(w, c, UNPARK_END);
		if (c->streaming) /* all of it moves into its queue */
			client_flush_soon(w, c);
		all &= client_is_dead(c) || !c->head;
	}
	return all && !bulks_busy(w) && !w->cuts && !w->later_clients && !w->flush_clients && !w->again_clients;
}

static bool is_over(struct worker *w)
{
	double waited = ev_now(w->loop) - w->handing->since;

	switch (w->handing->stage) {
	case HANDING_STILL:
		return all_between_requests(w);
	case HANDING_EMPTY:
		return engine_settled(w->engine) || waited > FOLLOWER_LIMIT_S;
	case HANDING_ADOPTED:
		return pubsub_stands(w->pubsub) || waited > SUBSCRIPTIONS_LIMIT_S;
	case HANDING_PACKED:
		break;
	}
	return false;
}

void handover_turn(struct worker *w)
{
	if (w->handing->told || !is_over(w))
		return;
	w->handing->told = true;
	fleet_tell_handing(w, w->handing->stage);
}

void handover_keep_waiting(struct client *c, const struct req *r)
{
	struct session *s = session_of(c);

	client_put_back(c, r->bytes, r->len);
	s->waits = r->waits;
	s->wait_slot = r->slot;
	s->until_us = r->until_us;
}

/* ---- a client as a record ---- */

static sds copy(const sds s)
{
	return s ? sdsdup(s) : NULL;
}

static void hand_session(const struct client *c, struct handed *h)
{
	const struct session *s = c->session;

	h->waits = s->waits && c->in;
	if (h->waits) {
		h->wait_since_us = (int64_t)(s->wait_since * 1e6);
		h->wait_slot = s->wait_slot;
		h->until_us = s->until_us;
	}
	h->capa_redirect = s->capa_redirect;
	if (s->watching) {
		h->watching = s->watched;
		h->watch_slot = s->watch->slot;
	}
	h->multi = s->txn != NULL;
	h->multi_failed = s->txn && s->txn->failed;
	for (uint32_t i = 0; s->txn && i < s->txn->n; i++) {
		const struct txn_command *q = &s->txn->commands[i];
		if (q->own) /* asked anew where it is queued again */
			continue;
		handed_add(&h->queued, q->local, (q->local ? s->txn->own : s->txn->bytes) + q->at, q->len);
	}
	tracking_hand(c, h);
}

static void hand(const struct client *c, struct handed *h)
{
	*h = (struct handed){
		.fd = -1, .id = (int64_t)c->id, .db = c->db, .proto = c->proto, .since_ms = c->since_ms, .seen_us = (int64_t)(c->seen * 1e6),
		.quiet = c->quiet, .no_evict = c->no_evict, .no_touch = c->no_touch, .monitor = c->is_monitor, .closing = c->closing,
		.logged_in = c->user != NULL, .user = c->user ? sdsdup(c->user->name) : NULL, .name = copy(c->name), .lib_name = copy(c->lib_name),
		.lib_ver = copy(c->lib_ver), .last = c->last ? sdsnew(c->last->name) : NULL,
	};
	if (!outq_empty(&c->out))
		h->out = sdsempty();
	for (const struct outq_chunk *o = c->out.head; o; o = o->next)
		h->out = sdscatlen(h->out, o->p, o->n);
	if (c->in)
		h->in = sdsnewlen(c->in->data + c->in_off, c->in->used - c->in_off);
	if (c->session)
		hand_session(c, h);
	pubsub_hand(c, h);
}

/* TLS cannot be handed over: its keys and sequence numbers are in this process. */
static int plain_end(struct handing *g, struct client *c)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0) {
		log_warning("a pair of sockets for a TLS client: %s", strerror(errno));
		g->failed = true;
		return -1;
	}
	g->tls = realloc(g->tls, (g->ntls + 1) * sizeof *g->tls);
	if (!g->tls)
		abort();
	g->tls[g->ntls++] = (struct left_tls){ .client = c, .plain = pair[0], .given = pair[1] };
	return pair[1];
}

static void pack(struct worker *w, struct client *c)
{
	struct handing *g = w->handing;
	struct handed h;

	assert(!c->head);
	ev_io_stop(w->loop, &c->reader);
	ev_io_stop(w->loop, &c->writer);
	hand(c, &h);
	g->parcels[g->nparcels++] = (struct parcel){ handed_cat(sdsempty(), &h), c->tls ? plain_end(g, c) : c->reader.fd };
	handed_release(&h);
}

void handover_pack(struct worker *w)
{
	struct handing *g = w->handing;
	unsigned n = 0;

	assert(g && g->stage == HANDING_EMPTY);
	for (struct client *c = w->clients; c; c = c->next)
		n += !client_is_dead(c);
	g->parcels = calloc(n + 1, sizeof *g->parcels);
	if (!g->parcels)
		abort();
	g->nparcels = 0;
	for (struct client *c = w->clients; c; c = c->next)
		if (!client_is_dead(c))
			pack(w, c);
	begin_stage(w, HANDING_PACKED);
	g->told = true;
	fleet_tell_handing(w, HANDING_PACKED);
}

static void forget_parcels(struct handing *g)
{
	for (unsigned i = 0; i < g->nparcels; i++)
		sdsfree(g->parcels[i].record);
	free(g->parcels);
	g->parcels = NULL;
	g->nparcels = 0;
}

/* The pair's end that was given away becomes the client's own: it is closed with it. Who has gone meanwhile has no TLS any more. */
void handover_leave(struct worker *w)
{
	struct handing *g = w->handing;

	if (!g || g->stage != HANDING_PACKED)
		return;
	for (unsigned i = 0; i < g->ntls; i++) {
		struct left_tls *l = &g->tls[i];
		if (!client_is_dead(l->client)) {
			l->tls = client_leave_tls(l->client, l->given, &l->fd);
			continue;
		}
		close(l->plain);
		close(l->given);
	}
}

void handover_free(struct worker *w)
{
	if (!w->handing)
		return;
	forget_parcels(w->handing);
	free(w->handing->tls);
	free(w->handing);
	w->handing = NULL;
}

/* ---- going on: here after all, or in the process that came ---- */

static int by_age(const void *a, const void *b)
{
	double x = (*(struct client *const *)a)->session->wait_since, y = (*(struct client *const *)b)->session->wait_since;

	return (x < y) - (x > y);
}

/* Those that waited go first, in the order in which they came: who is looked at again last is looked at first. */
static void look_at_waiting(struct worker *w)
{
	unsigned n = 0, cap = 0;
	struct client **waiting = NULL;

	for (struct client *c = w->clients; c; c = c->next) {
		if (client_is_dead(c) || !c->session || !c->session->waits)
			continue;
		if (n == cap && !(waiting = realloc(waiting, (cap = cap ? 2 * cap : 64) * sizeof(struct client *))))
			abort();
		waiting[n++] = c;
	}
	if (n)
		qsort(waiting, n, sizeof(struct client *), by_age);
	for (unsigned i = 0; i < n; i++)
		client_again_soon(w, waiting[i]);
	free(waiting);
}

void handover_go_on(struct worker *w)
{
	struct handing *g = w->handing;

	if (!g)
		return;
	for (unsigned i = 0; i < g->ntls; i++) {
		close(g->tls[i].plain);
		close(g->tls[i].given);
	}
	handover_free(w);
	pause_handover(w, false);
	for (struct client *c = w->clients; c; c = c->next) {
		c->held = false;
		if (!client_is_dead(c) && !(c->session && c->session->waits))
			client_again_soon(w, c);
		if (!client_is_dead(c) && !outq_empty(&c->out))
			client_flush_soon(w, c);
	}
	look_at_waiting(w);
	accept_clients(w, true);
}

/* ---- adopting ---- */

static const struct command *command_named(const sds name)
{
	const char *bar = strchr(name, '|');
	size_t n = sdslen(name);
	const struct command *cmd = command_find(slice(name, bar ? (size_t)(bar - name) : n));

	return bar && cmd && cmd->flags & CMD_CONTAINER ? command_find_sub(cmd, slice(bar + 1, n - (size_t)(bar + 1 - name))) : cmd;
}

/* As when the users are read anew: who is not there any more has to go. */
static bool adopt_user(struct worker *w, struct client *c, const struct handed *h)
{
	const struct acl_user *u = h->logged_in && h->user ? acl_find(w->acl, slice(h->user, sdslen(h->user))) : NULL;

	client_become(c, u);
	return u || !h->logged_in;
}

static void adopt_session(struct worker *w, struct client *c, const struct handed *h)
{
	if (h->waits) {
		struct session *s = session_of(c);
		s->waits = true;
		s->wait_since = (double)h->wait_since_us / 1e6;
		s->wait_slot = (uint16_t)h->wait_slot;
		s->until_us = h->until_us;
	}
	if (h->capa_redirect)
		session_of(c)->capa_redirect = true;
	if (h->watching)
		watch_restore(w, c, (uint16_t)h->watch_slot, (uint32_t)h->watching);
	if (h->multi)
		txn_restore(w, c, false, NULL, 0);
	for (uint32_t i = 0; i < h->queued.n; i++)
		txn_restore(w, c, h->queued.at[i].kind, h->queued.at[i].text, sdslen(h->queued.at[i].text));
	if (h->multi_failed)
		txn_failed(c);
	for (uint32_t i = 0; i < h->topics.n; i++)
		pubsub_restore(w->pubsub, c, h->topics.at[i].kind, slice(h->topics.at[i].text, sdslen(h->topics.at[i].text)));
	tracking_restore(w, c, h);
	if (h->monitor)
		monitor_join(w, c);
}

static void adopt(struct worker *w, struct handed *h)
{
	atomic_fetch_add(&w->fleet->nclients, 1); /* beyond maxclients, too: it is there */
	struct client *c = client_new(w, h->fd, false);

	h->fd = -1;
	c->id = (uint64_t)h->id;
	c->db = (uint16_t)h->db;
	c->proto = (uint8_t)h->proto;
	c->since_ms = h->since_ms;
	c->seen = (double)h->seen_us / 1e6;
	c->quiet = (uint8_t)h->quiet;
	c->no_evict = h->no_evict;
	c->no_touch = h->no_touch;
	c->name = copy(h->name);
	c->lib_name = copy(h->lib_name);
	c->lib_ver = copy(h->lib_ver);
	c->last = h->last ? command_named(h->last) : NULL;
	c->paused = true;
	ev_io_stop(w->loop, &c->reader);
	if (h->in)
		client_put_back(c, h->in, sdslen(h->in));
	if (h->out)
		outq_add(&c->out, h->out, sdslen(h->out), NULL);
	if (h->closing)
		client_close_after_replies(w, c);
	if (!adopt_user(w, c, h)) {
		client_end(c);
		return;
	}
	adopt_session(w, c, h);
}

void handover_adopt(struct worker *w, struct handed **clients, unsigned n)
{
	pause_handover(w, true);
	for (unsigned i = 0; i < n; i++) {
		adopt(w, clients[i]);
		handed_release(clients[i]);
		free(clients[i]);
	}
	free(clients);
	begin_stage(w, HANDING_ADOPTED);
}
