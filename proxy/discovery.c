#include "proxy/discovery.h"

#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backfill/bulk.h"
#include "proxy/address.h"
#include "proxy/discovery_internal.h"
#include "proxy/log.h"

#define WANTED_EVERY_S 0.05
#define REPLY_TIMEOUT_MIN_S 2.0

static void ask_next(struct discovery *d);

static int64_t clock_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static void set_why(struct discovery *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void set_why(struct discovery *d, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(d->why, sizeof(d->why), fmt, ap);
	va_end(ap);
}

/* ---- connections, one per name ---- */

static struct bulk *peer_open(struct discovery *d, struct peer *p)
{
	const struct side_config *s = &d->config->side[d->side];
	struct bulk_options o = { .addr = p->addr, .addr_len = p->addr_len, .user = s->user, .password = s->password, .tls = s->tls };
	double connect_s = CONFIG_NOW(d->config->connect_timeout_ms) / 1000.0;

	snprintf(o.name, sizeof(o.name), "%s %s", side_name(d->side), p->name);
	memcpy(o.node, p->name, sizeof(o.node));
	o.connect_timeout_s = connect_s;
	o.reply_timeout_s = connect_s > REPLY_TIMEOUT_MIN_S ? connect_s : REPLY_TIMEOUT_MIN_S;
	return bulk_new(d->loop, &o);
}

static int peer_place(const struct peer *p)
{
	for (unsigned i = 0; i < p->found.n; i++)
		if (p->found.at[i].len == p->addr_len && memcmp(&p->found.at[i].addr, &p->addr, p->addr_len) == 0)
			return (int)i;
	return -1;
}

static void peer_use(struct discovery *d, struct peer *p, unsigned place)
{
	if (p->bulk)
		bulk_free(p->bulk);
	p->addr = p->found.at[place].addr;
	p->addr_len = p->found.at[place].len;
	p->lost = false;
	p->bulk = peer_open(d, p);
}

/* It did not answer: the name's next address that was not tried in this round. False: there is none. What is awaited from it is lost. */
static bool peer_next(struct discovery *d, struct peer *p)
{
	if (d->closing || !p->lost || p->tried >= p->found.n)
		return false;
	p->tried++;
	log_limited(LOG_VERBOSE, "%s %s does not answer at this address: its next one is tried", side_name(d->side), p->name);
	peer_use(d, p, (unsigned)(peer_place(p) + 1) % p->found.n);
	return true;
}

/* Once in a round. The address in use stays while it answers, in whatever order they come. */
static bool peer_resolve(struct discovery *d, struct peer *p, const struct host_port *at)
{
	const char *why;
	int place;

	if (!address_resolve(at, &p->found, &why)) {
		set_why(d, "%s does not resolve: %s", p->name, why);
		return false;
	}
	p->tried = 1;
	place = peer_place(p);
	if (p->bulk && place < 0)
		log_notice("%s %s resolves to another address now", side_name(d->side), p->name);
	if (!p->bulk || place < 0)
		peer_use(d, p, 0);
	return true;
}

/* The connection to this name; NULL: it does not resolve, d->why says so. */
static struct peer *peer_get(struct discovery *d, const struct host_port *at)
{
	char name[ADDRESS_NAME_MAX];
	struct peer *p;

	address_name(name, sizeof(name), at->host, at->port);
	for (p = d->peers; p && strcmp(p->name, name) != 0;)
		p = p->next;
	if (p && p->round == d->round && p->found.n)
		return p;
	if (!p) {
		p = calloc(1, sizeof(*p));
		snprintf(p->name, sizeof(p->name), "%s", name);
		p->next = d->peers;
		d->peers = p;
	}
	p->round = d->round;
	return peer_resolve(d, p, at) ? p : NULL;
}

/* Those that no refresh has used for a while go. */
static void peers_sweep(struct discovery *d, uint64_t before)
{
	for (struct peer **at = &d->peers; *at;) {
		struct peer *p = *at;
		if (p->round >= before) {
			at = &p->next;
			continue;
		}
		*at = p->next;
		if (p->bulk)
			bulk_free(p->bulk);
		free(p);
	}
}

/* ---- the end of a refresh ---- */

static void refresh_end(struct discovery *d)
{
	double interval = CONFIG_NOW(d->config->topology_interval_ms) / 1000.0;

	free(d->probes);
	d->probes = NULL;
	cluster_slots_release(&d->slots);
	d->running = false;
	peers_sweep(d, d->round > 10 ? d->round - 10 : 0);
	ev_timer_stop(d->loop, &d->timer);
	ev_timer_set(&d->timer, d->again ? 0. : interval, 0.);
	ev_timer_start(d->loop, &d->timer);
	if (!d->again)
		d->events.done(d->events.ctx, d->side);
}

static void say_state(struct discovery *d, bool up, const char *why)
{
	if (up && !d->facts.up && d->said)
		log_notice("%s: every node answers", side_name(d->side));
	if (!up && (d->facts.up || !d->said || strcmp(why, d->facts.down) != 0))
		log_limited(LOG_WARNING, "%s: %s", side_name(d->side), why);
	d->said = true;
	d->facts.up = up;
	snprintf(d->facts.down, sizeof(d->facts.down), "%s", up ? "" : why);
}

/* Nobody could be asked: the last picture, with every node down. */
static void refresh_failed(struct discovery *d)
{
	struct topology *old = d->topology;
	bool was_up = false;

	for (unsigned i = 0; old && i < old->nnodes; i++)
		was_up |= old->nodes[i].up;
	say_state(d, false, *d->why ? d->why : "no node could be asked");
	if (was_up) {
		struct topology *t = topology_new(d->side, old->nnodes);
		topology_copy(t, old);
		for (unsigned i = 0; i < t->nnodes; i++)
			t->nodes[i].up = false;
		t->generation = old->generation + 1;
		d->topology = t;
		d->events.changed(d->events.ctx, d->side, t);
		topology_unref(old);
	}
	refresh_end(d);
}

static void tell_replaced(struct discovery *d, const struct topology *old, const struct topology *t)
{
	uint8_t slots[SLOTS];

	for (unsigned i = 0; i < t->nnodes; i++) {
		const char *what = topology_replaced(old, t, i, slots);
		if (what)
			d->events.replaced(d->events.ctx, d->side, &t->nodes[i], what, slots);
	}
}

static void refresh_done(struct discovery *d)
{
	struct topology *old = d->topology, *t = discovery_build(d);
	struct state_side who;
	char why[320] = "", down[320] = "";

	discovery_identity(d, t, &who);
	if (d->events.look(d->events.ctx, d->side, t, &who, why, sizeof(why)) == DISCOVERY_IGNORE) {
		say_state(d, false, why);
		topology_unref(t);
		refresh_end(d);
		return;
	}
	bool up = discovery_measure(d, t, down, sizeof(down));
	say_state(d, up, down);
	if (old && topology_same(old, t)) {
		topology_unref(t);
	} else {
		t->generation = old ? old->generation + 1 : 1;
		d->topology = t;
		d->events.changed(d->events.ctx, d->side, t);
		if (old)
			tell_replaced(d, old, t);
		topology_unref(old);
	}
	refresh_end(d);
}

/* ---- every primary ---- */

void probe_part_done(struct probe *p)
{
	struct discovery *d = p->d;

	assert(p->left > 0 && d->probes_left > 0);
	if (--p->left > 0)
		return;
	if (--d->probes_left == 0 && !d->closing)
		refresh_done(d);
}

void probe_lost(struct probe *p, const char *why)
{
	p->ok = false;
	if (!*p->why)
		snprintf(p->why, sizeof(p->why), "%s", why);
}

static void on_time(void *arg, struct slice reply, const char *why)
{
	struct probe *p = arg;
	int64_t now = clock_us(), there = reply.p ? time_parse(reply) : 0;

	if (!reply.p)
		probe_lost(p, why);
	if (there) {
		p->clock_offset_us = there - (p->time_sent_us + now) / 2;
		p->round_trip_us = now - p->time_sent_us;
	}
	probe_part_done(p);
}

static void on_probe_nodes(void *arg, struct slice reply, const char *why)
{
	struct probe *p = arg;

	(void)why; /* INFO was lost, too */
	p->migrating = reply.p && cluster_nodes_migrating(reply);
	probe_part_done(p);
}

static void probe_ask(struct discovery *d, struct probe *p);

static void on_probe_info(void *arg, struct slice reply, const char *why)
{
	struct probe *p = arg;

	p->peer->lost = !reply.p;
	if (!reply.p) {
		probe_lost(p, why);
		if (peer_next(p->d, p->peer))
			probe_ask(p->d, p);
	} else if (!info_parse(reply, &p->info)) {
		struct resp_item item;
		size_t n = resp_item(reply.p, reply.p + reply.n, &item);
		snprintf(p->why, sizeof(p->why), "%s refused INFO: %.*s", p->peer->name, n ? (int)item.text.n : 0, n ? item.text.p : "");
	} else if (p->info.loading) {
		snprintf(p->why, sizeof(p->why), "%s is loading its data", p->peer->name);
	} else {
		p->ok = true;
		p->left++;
		p->time_sent_us = clock_us();
		bulk_command(p->peer->bulk, BULK_ANY_DB, on_time, p, "TIME", NULL);
		probe_databases(p);
	}
	probe_part_done(p);
}

static void probe_ask(struct discovery *d, struct probe *p)
{
	p->left += d->cluster ? 2 : 1;
	bulk_command(p->peer->bulk, BULK_ANY_DB, on_probe_info, p, "INFO", NULL);
	if (d->cluster)
		bulk_command(p->peer->bulk, BULK_ANY_DB, on_probe_nodes, p, "CLUSTER", "NODES", NULL);
}

static void probe_begin(struct discovery *d, struct probe *p)
{
	p->left = 1;
	p->peer = peer_get(d, &p->at);
	if (!p->peer) {
		snprintf(p->why, sizeof(p->why), "%s", d->why);
		return;
	}
	probe_ask(d, p);
}

static void probe_all(struct discovery *d)
{
	const struct address_map *map = &d->config->side[d->side].map;

	d->nprobes = d->probes_left = d->slots.nnodes;
	d->probes = calloc(d->nprobes, sizeof(*d->probes));
	for (unsigned i = 0; i < d->nprobes; i++) {
		struct probe *p = &d->probes[i];
		p->d = d;
		p->at = d->slots.nodes[i].at;
		if (d->cluster)
			address_map(map, &p->at); /* a configured address is reachable as it is */
		probe_begin(d, p);
	}
	/* The part that each began with: so that none ends before all have begun. */
	for (unsigned i = 0, n = d->nprobes; i < n && !d->closing; i++)
		probe_part_done(&d->probes[i]);
}

/* ---- one node that knows ---- */

static bool asked_cluster(struct discovery *d)
{
	if (d->slots.nnodes > 0)
		return true;
	set_why(d, "%s knows no primary of its cluster", d->asked->name);
	return false;
}

static bool asked_standalone(struct discovery *d, const struct host_port *at)
{
	if (d->asked_info.replica) {
		set_why(d, "%s is a replica: name its primary in %s-nodes", d->asked->name, side_name(d->side));
		return false;
	}
	cluster_slots_release(&d->slots);
	d->slots.nodes = calloc(1, sizeof(*d->slots.nodes));
	d->slots.nodes[0].at = *at;
	d->slots.nnodes = d->slots.cap = 1; /* slot_node is all zero: the one node */
	return true;
}

static void ask(struct discovery *d);

static void on_asked(struct discovery *d)
{
	if (!d->asked_ok) {
		if (peer_next(d, d->asked))
			ask(d);
		else
			ask_next(d);
		return;
	}
	d->cluster = d->asked_info.cluster;
	if (d->cluster ? asked_cluster(d) : asked_standalone(d, &d->asked_at)) {
		probe_all(d);
		return;
	}
	ask_next(d);
}

static void ask_part_done(struct discovery *d)
{
	assert(d->ask_left > 0);
	if (--d->ask_left == 0 && !d->closing)
		on_asked(d);
}

static void on_ask_info(void *arg, struct slice reply, const char *why)
{
	struct discovery *d = arg;
	struct resp_item item;

	d->asked_ok = false;
	d->asked->lost = !reply.p;
	if (!reply.p) {
		set_why(d, "%s", why);
	} else if (!info_parse(reply, &d->asked_info)) {
		size_t n = resp_item(reply.p, reply.p + reply.n, &item);
		set_why(d, "%s refused INFO: %.*s", d->asked->name, n ? (int)item.text.n : 0, n ? item.text.p : "");
	} else if (d->asked_info.loading) {
		set_why(d, "%s is loading its data", d->asked->name);
	} else {
		d->asked_ok = true;
	}
	ask_part_done(d);
}

/* A standalone server answers CLUSTER with an error: the parsers take that for "nothing". */
static void on_ask_slots(void *arg, struct slice reply, const char *why)
{
	struct discovery *d = arg;

	(void)why;
	cluster_slots_release(&d->slots);
	if (!reply.p || !cluster_slots_parse(reply, d->asked_at.host, &d->slots)) {
		cluster_slots_release(&d->slots);
		memset(d->slots.slot_node, 0xff, sizeof(d->slots.slot_node)); /* NODE_NONE */
	}
	ask_part_done(d);
}

static void on_ask_nodes(void *arg, struct slice reply, const char *why)
{
	struct discovery *d = arg;

	(void)why;
	if (reply.p && d->asked_ok && d->asked_info.cluster)
		cluster_nodes_parse(reply, d->asked_at.host, &d->slots);
	ask_part_done(d);
}

/* Known nodes that answered first, then the configured ones, then known ones that did not. */
static bool next_candidate(struct discovery *d, struct host_port *at)
{
	const struct side_config *s = &d->config->side[d->side];
	const struct topology *t = d->topology;
	unsigned known = t ? t->nnodes : 0;

	for (; d->candidate < 2 * known + s->nnodes; d->candidate++) {
		unsigned i = d->candidate;
		bool first = i < known, last = i >= known + s->nnodes;
		if (!first && !last) {
			*at = s->nodes[i - known];
		} else {
			const struct node *n = &t->nodes[last ? i - known - s->nnodes : i];
			if (n->up != first || !address_split(n->name, strlen(n->name), at))
				continue;
		}
		d->candidate++;
		return true;
	}
	return false;
}

static void ask(struct discovery *d)
{
	d->ask_left = 3;
	bulk_command(d->asked->bulk, BULK_ANY_DB, on_ask_info, d, "INFO", NULL);
	bulk_command(d->asked->bulk, BULK_ANY_DB, on_ask_slots, d, "CLUSTER", "SLOTS", NULL);
	bulk_command(d->asked->bulk, BULK_ANY_DB, on_ask_nodes, d, "CLUSTER", "NODES", NULL);
}

static void ask_next(struct discovery *d)
{
	struct host_port at;

	while (next_candidate(d, &at)) {
		d->asked_at = at;
		d->asked = peer_get(d, &at);
		if (!d->asked)
			continue;
		ask(d);
		return;
	}
	refresh_failed(d);
}

/* ---- when ---- */

static void on_timer(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct discovery *d = w->data;

	(void)revents;
	if (d->held) {
		ev_timer_set(w, WANTED_EVERY_S, 0.);
		ev_timer_start(loop, w);
		return;
	}
	assert(!d->running);
	d->running = true;
	d->again = false;
	d->began_at = ev_now(loop);
	d->round++;
	d->candidate = 0;
	d->why[0] = '\0';
	if (d->reconnect) {
		d->reconnect = false;
		peers_sweep(d, d->round);
	}
	ask_next(d);
}

static void schedule(struct discovery *d, double after)
{
	if (d->running) {
		d->again = true;
		return;
	}
	if (ev_is_active(&d->timer) && ev_timer_remaining(d->loop, &d->timer) <= after)
		return;
	ev_timer_stop(d->loop, &d->timer);
	ev_timer_set(&d->timer, after, 0.);
	ev_timer_start(d->loop, &d->timer);
}

void discovery_refresh(struct discovery *d)
{
	schedule(d, 0.);
}

void discovery_wanted(struct discovery *d, const char *why)
{
	double since = ev_now(d->loop) - d->began_at;

	log_limited(LOG_VERBOSE, "%s: topology wanted: %s", side_name(d->side), why ? why : "");
	schedule(d, since > WANTED_EVERY_S ? 0. : WANTED_EVERY_S - since);
}

void discovery_hold(struct discovery *d, bool hold)
{
	d->held = hold;
}

void discovery_reconnect(struct discovery *d)
{
	d->reconnect = true;
	schedule(d, 0.);
}

struct discovery *discovery_new(struct ev_loop *loop, const struct config *config, enum side side, const struct discovery_events *events)
{
	struct discovery *d = calloc(1, sizeof(*d));

	d->loop = loop;
	d->config = config;
	d->side = side;
	d->events = *events;
	snprintf(d->facts.down, sizeof(d->facts.down), "it has not been reached yet");
	ev_init(&d->timer, on_timer);
	d->timer.data = d;
	return d;
}

void discovery_free(struct discovery *d)
{
	if (!d)
		return;
	d->closing = true;
	ev_timer_stop(d->loop, &d->timer);
	d->round++;
	peers_sweep(d, d->round + 1); /* answers what is awaited with "closed" */
	free(d->probes);
	cluster_slots_release(&d->slots);
	topology_unref(d->topology);
	free(d);
}

const struct side_facts *discovery_facts(const struct discovery *d)
{
	return &d->facts;
}

struct topology *discovery_topology(const struct discovery *d)
{
	return d->topology;
}
