#include "proxy/worker.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "backfill/fault.h"
#include "proxy/alone.h"
#include "proxy/aside.h"
#include "proxy/bulk.h"
#include "proxy/client.h"
#include "proxy/cut.h"
#include "proxy/handover_client.h"
#include "proxy/journals.h"
#include "proxy/lines.h"
#include "proxy/log.h"
#include "proxy/watch.h"
#include "proxy/monitor.h"
#include "proxy/pause.h"
#include "proxy/stream.h"
#include "proxy/tracking.h"
#include "proxy/waitaof.h"
#include "resp/parse.h"
#include "resp/write.h"

#define TICK_S 0.01
#define LATE_TURNS 2 /* with four, flips were held 0.2 ms longer */
#define LATE_BYTES 65536
#define DRAIN_LIMIT_S 5.0
#define PRELOADED_MAX 16384
#define NODES_MAX 2048 /* of one side */

/* --- requests --- */

struct req *req_new(struct worker *w)
{
	struct req *r = w->req_pool;

	if (r) {
		w->req_pool = r->next;
		if (--w->reqs_pooled < w->reqs_least)
			w->reqs_least = w->reqs_pooled;
		fetch_lines(r->next, sizeof *r); /* the next one's turn comes soon */
	} else {
		if (!(r = aligned_alloc(CACHE_LINE, LINES_OF(*r))))
			abort();
		r->made_next = w->reqs_made;
		r->made_at = &w->reqs_made;
		if (r->made_next)
			r->made_next->made_at = &r->made_next;
		w->reqs_made = r;
	}
	clear_lines((char *)r + REQ_KEPT, sizeof *r - REQ_KEPT);
	r->home = (uint16_t)w->id;
	r->ask_node = NODE_NONE;
	return r;
}

void req_free(struct worker *w, struct req *r)
{
	assert(r->home == w->id && !r->mw);
	block_unref(r->block);
	block_unref(r->reply_block);
	free(r->wide);
	if (__builtin_expect(r->stream != NULL, 0))
		stream_abandon(r->stream);
	if (__builtin_expect(r->written != NULL, 0))
		tracking_write_ended(w, r->written);
	r->written = NULL;
	r->wide = NULL;
	txn_free(r->txn);
	watch_unref(r->watch);
	r->block = r->reply_block = NULL;
	r->split = NULL;
	r->txn = NULL;
	r->watch = NULL;
	r->next = w->req_pool;
	w->req_pool = r;
	w->reqs_pooled++;
}

static void arrived_home(void *arg)
{
	struct req *r = arg;
	struct worker *w = r->worker;

	if (r->again && r->txn)
		txn_crosses(r);
	if (r->again)
		split_again(w, r);
	else if (r->split)
		split_part_done(w, r);
	else
		client_done(w, r);
}

void worker_answer(struct worker *w, struct req *r)
{
	struct worker *home = &w->fleet->workers[r->home];

	r->worker = home;
	if (home == w)
		arrived_home(r);
	else
		mailbox_post(w->fleet->mail, home->id, w->id, arrived_home, r);
}

static void arrived_at_owner(void *arg)
{
	struct req *r = arg;

	engine_submit(r->worker->engine, r);
}

void worker_submit(struct worker *w, struct req *r)
{
	struct worker *owner = &w->fleet->workers[w->fleet->owner[r->slot]];

	r->worker = owner;
	if (owner == w)
		batch_submit(w, r);
	else
		mailbox_post_about(w->fleet->mail, owner->id, w->id, arrived_at_owner, r, engine_slot_at(owner->engine, r->slot));
}

/* --- data connections --- */

static const char *owner_user(void *ctx, enum side side)
{
	struct worker *w = ctx;

	return w->fleet->config->side[side].user;
}

static const char *owner_password(void *ctx, enum side side)
{
	struct worker *w = ctx;

	return w->password[side];
}

void worker_set_password(struct worker *w, enum side side, const char *password)
{
	w->password[side] = password;
}

static void owner_flush_soon(void *ctx, struct upstream *u)
{
	struct worker *w = ctx;

	u->flushing = true;
	tidy_later(&w->tidy);
	u->flush_next = w->flush_upstreams;
	w->flush_upstreams = u;
}

/* With journal-fsync always: what is owed is on the disk before its command leaves (race 6). */
static void owner_before_write(void *ctx)
{
	struct worker *w = ctx;
	struct journal *j = journals_of(w->fleet->start.journals, w->id);

	if (journal_was_touched(j) && !journal_sync(j))
		log_limited(LOG_WARNING, "the journal cannot be synced: %s", strerror(errno));
}

static unsigned owner_formers(void *ctx, struct slice list, sds *kills)
{
	struct worker *w = ctx;

	return journals_kill_formers(w->fleet->start.journals, list, kills);
}

static void on_script(void *arg, const struct reply *r)
{
	(void)arg;
	(void)r; /* a node that did not take it says NOSCRIPT when it is called */
}

/* EVALSHA must find its scripts on a node that comes up, whichever side it is of: after a flip nobody loads them again. */
static void load_scripts(struct worker *w, struct upstream *u)
{
	unsigned n;
	sds all = scripts_load_all(w->fleet->scripts, &n);

	if (all)
		upstream_send(u, UPSTREAM_ANY_DB, all, sdslen(all), NULL, n, on_script, NULL);
	sdsfree(all);
}

void worker_new_script(struct worker *w, struct slice body)
{
	struct slice words[3] = { SLICE_LIT("SCRIPT"), SLICE_LIT("LOAD"), body };
	unsigned sent = 0;

	if (!engine_is_mirroring(w->engine))
		return;
	sds load = resp_cat_request(sdsempty(), 3, words);
	worker_send_all_nodes(w, SIDE_OTHER(fleet_authority(w->fleet, 0)), load, sdslen(load), on_script, NULL, &sent);
	sdsfree(load);
}

/* Only now is the predecessor gone for sure and the watch on: what was read meanwhile is worth nothing (race 7). */
static void owner_up(void *ctx, struct upstream *u)
{
	struct worker *w = ctx;

	lookout_up(w, u);
	alone_doubt_ends(w, u);
	engine_unseen(w->engine);

	fleet_note_process(w->fleet, u->side, u->name, u->run_id);
	log_verbose("%s %s is connected", side_name(u->side), u->name);
	fleet_note_state(w->fleet, w->id, u->side, u->name, NODE_UP);
	engine_node_up(w->engine);
	load_scripts(w, u);
}

static void owner_lost(void *ctx, struct upstream *u, const char *why, bool was_up)
{
	struct worker *w = ctx;

	fleet_note_state(w->fleet, w->id, u->side, u->name, NODE_DOWN);
	fleet_tell_refresh(w, u->side, why);
	if (!was_up || !engine_is_mirroring(w->engine))
		return;
	fleet_tell_void(w, why);
	lookout_lost(w, u, why);
}

static uint16_t upstream_add(struct worker *w, enum side side, const char *name)
{
	if (w->nupstreams == w->upstreams_cap) {
		w->upstreams_cap = w->upstreams_cap ? 2 * w->upstreams_cap : 16;
		w->upstreams = realloc(w->upstreams, w->upstreams_cap * sizeof *w->upstreams);
		if (!w->upstreams)
			abort();
	}
	w->upstreams[w->nupstreams] = upstream_new(&w->owner, side, name);
	return w->nupstreams++;
}

uint16_t worker_upstream(struct worker *w, enum side side, const char *name)
{
	for (uint16_t i = 0; i < w->nupstreams; i++)
		if (w->upstreams[i]->side == side && strcmp(w->upstreams[i]->name, name) == 0)
			return i;
	return upstream_add(w, side, name);
}

/* To every node of both sides, whether or not slots of this worker are there: some commands go to all. */
static void connect_all(struct worker *w)
{
	for (enum side s = SIDE_SOURCE; s < SIDES; s++) {
		struct topology *t = w->topology[s];
		for (uint16_t i = 0; t && i < t->nnodes; i++)
			upstream_open(w->upstreams[worker_upstream(w, s, t->nodes[i].name)]);
	}
}

void worker_route(struct worker *w, enum side side, uint16_t slot, uint16_t node)
{
	w->route[side][slot] = node;
	lookout_routed(w, side, slot);
	pubsub_look(w->pubsub);
	tracking_look(w);
}

unsigned worker_answering(const struct worker *w, uint16_t *nodes)
{
	bool *seen = calloc(w->nupstreams, sizeof *seen);
	unsigned n = 0;

	if (!seen)
		abort();
	for (unsigned slot = 0; slot < SLOTS; slot++) {
		enum side side = fleet_authority(w->fleet, (uint16_t)slot);
		uint16_t node = w->route[side][slot];
		if (node == w->nowhere[side] || seen[node])
			continue;
		seen[node] = true;
		nodes[n++] = node;
	}
	free(seen);
	return n;
}

unsigned worker_databases(const struct worker *w)
{
	enum side authority = fleet_authority(w->fleet, 0);
	const struct topology *a = w->topology[authority], *f = w->finished ? NULL : w->topology[SIDE_OTHER(authority)];
	unsigned n = a ? a->databases : 1;

	return f && f->databases < n ? f->databases : n;
}

/* What others wrote to a database before it was known to be in use was not looked for there. */
static void databases_seen(struct worker *w, const struct topology *t)
{
	if (db_set_join(&w->used, &t->used) && w->topology[t->side] && engine_is_mirroring(w->engine) && w->fleet->config->mirror_tracking)
		engine_slots_dirty(w->engine, NULL, "a database came into use");
}

void worker_topology(struct worker *w, struct topology *t)
{
	enum side side = t->side;
	uint16_t index[NODES_MAX];

	assert(t->nnodes <= NODES_MAX);
	for (uint16_t i = 0; i < w->nupstreams; i++) /* who is no primary any more stays connected for a while, and must not be asked to WAIT */
		if (w->upstreams[i]->side == side)
			w->upstreams[i]->replicas = 0;
	for (uint16_t i = 0; i < t->nnodes; i++) {
		index[i] = worker_upstream(w, side, t->nodes[i].name);
		upstream_set_addr(w->upstreams[index[i]], &t->nodes[i].addr, t->nodes[i].addr_len);
		w->upstreams[index[i]]->replicas = t->nodes[i].replicas;
	}
	for (unsigned slot = 0; slot < SLOTS; slot++) {
		uint16_t node = t->slot_node[slot] == NODE_NONE ? w->nowhere[side] : index[t->slot_node[slot]];
		if (node == w->route[side][slot])
			continue;
		worker_route(w, side, (uint16_t)slot, node);
		if (w->fleet->owner[slot] == w->id && fleet_authority(w->fleet, (uint16_t)slot) == side)
			engine_route_changed(w->engine, (uint16_t)slot);
	}
	databases_seen(w, t);
	topology_unref(w->topology[side]);
	w->topology[side] = t;
	lookout_topology(w, side);
	pubsub_look(w->pubsub);
	tracking_look(w);
	engine_node_up(w->engine);
	if (engine_is_mirroring(w->engine))
		connect_all(w);
}

void worker_send_all_nodes(struct worker *w, enum side side, const char *p, size_t n, reply_fn *fn, void *arg, unsigned *count)
{
	struct topology *t = w->topology[side];

	for (uint16_t i = 0; t && i < t->nnodes; i++) {
		upstream_send(w->upstreams[worker_upstream(w, side, t->nodes[i].name)], UPSTREAM_ANY_DB, p, n, NULL, 1, fn, arg);
		++*count;
	}
}

/* --- mirroring begins --- */

static void on_mirror_proof(void *arg, const struct reply *r)
{
	struct worker *w = arg;

	assert(w->mirror_answers > 0);
	w->mirror_answers--;
	if (!r->p)
		w->mirror_proving = false; /* once more when it is back */
}

/* Ready when the watch is on at every node of the authority and what was in flight before has ended: a PING behind both tells. */
static void mirror_turn(struct worker *w)
{
	static const char ping[] = "*1\r\n$4\r\nPING\r\n";

	if (!w->mirror_wanted || w->mirror_answers || asides_busy(w) || bulks_busy(w))
		return;
	enum side side = fleet_authority(w->fleet, 0);
	struct topology *t = w->topology[side];
	if (w->mirror_proving) {
		w->mirror_wanted = w->mirror_proving = false;
		fleet_tell_mirror_ready(w, true, NULL);
		return;
	}
	for (uint16_t i = 0; t && i < t->nnodes; i++) {
		struct upstream *u = w->upstreams[worker_upstream(w, side, t->nodes[i].name)];
		upstream_open(u);
		if (!upstream_is_up(u))
			return;
	}
	w->mirror_proving = true;
	worker_send_all_nodes(w, side, ping, sizeof ping - 1, on_mirror_proof, w, &w->mirror_answers);
}

void worker_mirror(struct worker *w, bool on)
{
	engine_mirror(w->engine, on);
	pubsub_look(w->pubsub);
	tracking_look(w);
	lookout_begin(w, on);
	w->mirror_wanted = on;
	w->mirror_proving = false;
	if (on)
		connect_all(w);
}

/* The migration is finished: the side left is not spoken to any more. */
void worker_finish(struct worker *w, enum side authority)
{
	engine_finish(w->engine, authority);
	w->finished = true;
	pubsub_look(w->pubsub);
	tracking_look(w);
	w->mirror_wanted = false;
	lookout_begin(w, false);
	for (uint16_t i = 0; i < w->nupstreams; i++)
		if (w->upstreams[i]->side != authority)
			upstream_close(w->upstreams[i]);
}

/* --- the loop --- */

static bool has_work(const struct worker *w)
{
	return w->flush_upstreams || w->flush_clients || w->again_clients;
}

bool worker_lingers(const struct worker *w)
{
	return (gather_is_long(&w->gather) || fault("linger")) && !w->handing && !w->draining;
}

/* Effects that wait for more of them go by fewer writes, which wake the follower less often; not while something waits for their end. */
static bool is_late(const struct worker *w, const struct upstream *u)
{
	return u->patient && u->waited < LATE_TURNS && u->out.bytes < LATE_BYTES && worker_lingers(w) && !engine_awaits_follower(w->engine);
}

static void flush_upstreams(struct worker *w)
{
	struct upstream *u;

	while ((u = w->flush_upstreams)) {
		w->flush_upstreams = u->flush_next;
		if (is_late(w, u)) {
			u->waited++;
			u->flush_next = w->late_upstreams;
			w->late_upstreams = u;
			continue;
		}
		if (u->waited)
			u->sample_at = 0; /* what waited here says nothing of the server */
		u->flushing = u->patient = false;
		u->waited = 0;
		upstream_flush(u);
	}
}

/* All of them, or those that were given something since that cannot wait. */
static void late_are_due(struct worker *w, bool all)
{
	struct upstream **at = &w->late_upstreams, *u;

	while ((u = *at)) {
		if (!all && u->patient) {
			at = &u->flush_next;
			continue;
		}
		*at = u->flush_next;
		u->flush_next = w->flush_upstreams;
		w->flush_upstreams = u;
	}
}

static void drain_turn(struct worker *w)
{
	clients_close_idle(w);
	clients_flush(w);
	if (!w->drained && !w->clients && engine_settled(w->engine)) {
		w->drained = true;
		fleet_tell_drained(w, true);
	}
}

/* The next end of a client's waiting. */
static void set_due(struct worker *w)
{
	int64_t due = engine_due_us(w->engine);
	struct timespec ts;

	if (due == w->due_us)
		return;
	w->due_us = due;
	ev_timer_stop(w->loop, &w->due);
	if (!due)
		return;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	double after = (double)(due - ts.tv_sec * INT64_C(1000000) - ts.tv_nsec / 1000) / 1e6;
	ev_now_update(w->loop);
	ev_timer_set(&w->due, after > 0 ? after + 0.0002 : 0.0002, 0.); /* not a moment too soon: the turn would find nothing */
	ev_timer_start(w->loop, &w->due);
}

static void on_due(struct ev_loop *loop, ev_timer *t, int revents)
{
	struct worker *w = t->data;

	(void)loop;
	(void)revents;
	w->due_us = 0; /* the turn does the rest, and sets the next */
}

static void on_unfinished(struct ev_loop *loop, ev_idle *i, int revents)
{
	(void)loop;
	(void)i;
	(void)revents; /* not sleeping is all */
}

static void set_unfinished(struct worker *w)
{
	bool wanted = w->cuts || w->later_clients || engine_is_unfinished(w->engine);

	if (__builtin_expect(wanted == ev_is_active(&w->unfinished), 1))
		return;
	if (wanted)
		ev_idle_start(w->loop, &w->unfinished);
	else
		ev_idle_stop(w->loop, &w->unfinished);
}

/* All that this turn brought goes out: one write per upstream, one per client. */
static void on_before_sleep(struct ev_loop *loop, ev_prepare *p, int revents)
{
	struct worker *w = p->data;

	(void)revents;
	if (w->handing && handover_stopped(w))
		return;
	lookout_turn(w);
	engine_turn(w->engine);
	cuts_turn(w);
	clients_turn(w);
	mirror_turn(w);
	if (w->asides)
		asides_turn(w);
	if (w->bulks)
		bulks_turn(w);
	pubsub_turn(w->pubsub);
	tracking_turn(w);
	late_are_due(w, true);
	gather_turn(&w->gather, loop, w->fleet->nworkers, w->stats->latency, SIDES, engine_is_fencing(w->engine)); /* first: what lingers does so no longer when nobody sends any more */
	while (has_work(w)) {
		flush_upstreams(w);
		clients_flush(w);
		late_are_due(w, false);
	}
	if (w->draining)
		drain_turn(w);
	if (w->handing)
		handover_turn(w);
	set_due(w);
	tidy_turn(&w->tidy, loop);
	set_unfinished(w);
	if (engine_wants_turns(w->engine) || w->lingering || w->late_upstreams || w->mirror_wanted || w->draining || w->handing) {
		if (!ev_is_active(&w->tick))
			ev_timer_again(loop, &w->tick);
	} else if (ev_is_active(&w->tick)) {
		ev_timer_stop(loop, &w->tick);
	}
}

/* Waking is nearly all: on_before_sleep does the rest. A slot that waits to be watched wants its nodes connected, though nobody sends them anything. */
static void on_tick(struct ev_loop *loop, ev_timer *t, int revents)
{
	struct worker *w = t->data;

	(void)loop;
	(void)revents;
	engine_node_up(w->engine);
}

static void on_drain_limit(struct ev_loop *loop, ev_timer *t, int revents)
{
	struct worker *w = t->data;

	(void)revents;
	(void)loop;
	if (w->drained)
		return;
	log_warning("clients, effects or dirty keys were still there %.0f s after the order to end: given up", DRAIN_LIMIT_S);
	clients_close_all(w);
	w->drained = true;
	fleet_tell_drained(w, false);
}

void worker_drain(struct worker *w)
{
	w->draining = true;
	pause_end(w);
	clients_close_listeners(w);
	ev_timer_init(&w->drain_limit, on_drain_limit, DRAIN_LIMIT_S, 0.);
	w->drain_limit.data = w;
	ev_timer_start(w->loop, &w->drain_limit);
}

void worker_end(struct worker *w)
{
	ev_break(w->loop, EVBREAK_ALL);
}

static void make_engine(struct worker *w)
{
	const struct config *c = w->fleet->config;
	const struct fleet_start *s = &w->fleet->start;
	struct engine_options o = {
		.mirror = s->mirror, .ack_both = c->mirror_ack_both,
		.queue_max = (size_t)c->mirror_queue_max, .dirty_max = (size_t)c->dirty_keys_max, .known_max = (size_t)c->known_keys_max,
		.request_max = (size_t)c->request_max, .inband_max = (size_t)c->large_value, .resend_us = 5000000,
		.journal = journals_of(s->journals, w->id), .script_us = &w->fleet->script_us,
	};
	struct engine_io io;
	uint8_t mine[SLOTS];

	for (unsigned i = 0; i < SLOTS; i++)
		mine[i] = w->fleet->owner[i] == w->id;
	worker_engine_io(w, &io);
	db_set_add(&w->used, 0);
	w->engine = engine_new(&io, &o, s->authority, s->synced, mine, w->stats);
	if (s->owed)
		engine_recover(w->engine, s->owed);
	if (o.journal && journals_owed(s->journals)->nformers)
		w->owner.formers = owner_formers;
	if (o.journal && c->journal_fsync == JOURNAL_ALWAYS)
		w->owner.before_write = owner_before_write;
}

void worker_init(struct worker *w)
{
	const struct config *c = w->fleet->config;

	const struct journals *js = w->fleet->start.journals;

	snprintf(w->name, sizeof w->name, JOURNALS_CLIENT, js ? journals_process(js) : "proxy", w->id);
	w->loop = ev_loop_new(EVFLAG_AUTO);
	if (!w->loop)
		abort();
	w->owner = (struct upstream_owner){
		.ctx = w, .loop = w->loop, .client_name = w->name, .connect_timeout_s = c->connect_timeout_ms / 1e3,
		.reply_timeout_s = c->upstream_timeout_ms / 1e3, .user = owner_user, .password = owner_password,
		.flush_soon = owner_flush_soon, .fetch_far = engine_fetch_far, .fetch_near = worker_fetch_near, .pushed = lookout_pushed, .up = owner_up, .lost = owner_lost,
		.large_least = STREAM_LEAST, .large = stream_begins, .piece = stream_piece, .large_over = stream_over,
		.latency = w->stats->latency,
	};
	resp_request_init(&w->parser, &resp_default_limits);
	w->acl = acl_ref(c->acl);
	make_engine(w);
	known_init(&w->preloaded, PRELOADED_MAX);
	for (enum side s = SIDE_SOURCE; s < SIDES; s++) {
		w->password[s] = c->side[s].password;
		w->owner.tls[s] = c->side[s].tls;
		w->nowhere[s] = upstream_add(w, s, "(no node serves the slot)");
		for (unsigned i = 0; i < SLOTS; i++)
			w->route[s][i] = w->nowhere[s];
	}
	w->pubsub = pubsub_new(w);
	ev_init(&w->tick, on_tick);
	w->tick.repeat = TICK_S;
	w->tick.data = w;
	ev_init(&w->due, on_due);
	ev_idle_init(&w->unfinished, on_unfinished);
	tidy_init(w);
	pause_init(w);
	w->due.data = w;
	ev_prepare_init(&w->before_sleep, on_before_sleep);
	w->before_sleep.data = w;
	ev_prepare_start(w->loop, &w->before_sleep);
	mailbox_attach(w->fleet->mail, w->id, w->loop);
}

void *worker_main(void *arg)
{
	struct worker *w = arg;
	char name[16];

	snprintf(name, sizeof name, "worker-%u", w->id);
	log_thread_name(name);
	gather_thread();
	ev_run(w->loop, 0);
	handover_leave(w);
	clients_close_listeners(w);
	clients_close_all(w);
	mailbox_flush_all(w->fleet->mail, w->id);
	cuts_free(w);
	block_unref(w->read_block);
	w->read_block = NULL;
	keywatch_free(w);
	waitaof_free_all(w);
	killers_free(w);
	tracking_free(w);
	pubsub_close(w->pubsub);
	for (uint16_t i = 0; i < w->nupstreams; i++) /* all first: an answer that is lost may look at another one */
		upstream_close(w->upstreams[i]);
	watch_connections_free(w);
	asides_free(w);
	bulks_close(w);
	for (uint16_t i = 0; i < w->nupstreams; i++)
		upstream_free(w->upstreams[i]);
	outq_pool_release();
	block_pool_release();
	return NULL;
}

/* By the control thread, when every thread has ended. */
void worker_release(struct worker *w)
{
	for (struct req *r = w->reqs_made, *next; r; r = next) { /* some may have been under way when the threads ended */
		next = r->made_next;
		block_unref(r->block);
		block_unref(r->reply_block);
		txn_free(r->txn);
		if (r->split && r->part == 0)
			split_free(r->split);
		free(r);
	}
	streams_free(w);
	bulks_free(w);
	engine_free(w->engine);
	alone_free(w);
	watches_free(w);
	known_release(&w->preloaded);
	pubsub_free(w->pubsub);
	handover_free(w);
	acl_unref(w->acl);
	monitor_release(w);
	free(w->upstreams);
	for (enum side s = SIDE_SOURCE; s < SIDES; s++)
		topology_unref(w->topology[s]);
	resp_request_release(&w->parser);
	free(w->argv);
	free(w->keys);
	free(w->parts);
	ev_loop_destroy(w->loop);
	block_pool_release();
	outq_pool_release();
}
