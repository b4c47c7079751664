#include "proxy/fleet.h"

#include <assert.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proxy/log.h"
#include "proxy/usage.h"
#include "proxy/worker.h"

#define SCRIPTS_MAX_BYTES (64u << 20)

/* --- life --- */

/* A standalone source has one server thread and allows commands over several slots: there one worker owns every slot. */
static void share_slots(struct fleet *f, bool one_owner)
{
	for (unsigned i = 0; i < SLOTS; i++)
		f->owner[i] = one_owner ? 0 : (uint8_t)(i * f->nworkers / SLOTS);
}

struct fleet *fleet_new(const struct fleet_start *s)
{
	struct fleet *f = calloc(1, sizeof *f);
	struct timespec ts;

	if (!f || !(f->workers = calloc(s->workers, sizeof *f->workers)) ||
	    !(f->stats = aligned_alloc(64, (s->workers * sizeof *f->stats + 63) / 64 * 64)))
		abort();
	memset(f->stats, 0, s->workers * sizeof *f->stats);
	clock_gettime(CLOCK_REALTIME, &ts);
	atomic_init(&f->epoch, (uint32_t)ts.tv_nsec); /* cursors of the process before mean nothing here */
	f->started_ms = ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
	f->start = *s;
	f->config = s->config;
	f->mail = s->mail;
	f->control = s->control;
	f->nworkers = s->workers;
	f->maxclients = s->config->maxclients;
	f->next_client_id = (uint64_t)s->next_client_id;
	f->scripts = scripts_new(SCRIPTS_MAX_BYTES);
	f->receivers = receivers_new();
	f->acl_log = acl_log_new((unsigned)s->config->acllog_max_len);
	pthread_mutex_init(&f->nodes_lock, NULL);
	f->shown = s->shown;
	share_slots(f, s->one_owner);
	for (unsigned i = 0; i < f->nworkers; i++) {
		f->workers[i].id = i;
		f->workers[i].fleet = f;
		f->workers[i].stats = &f->stats[i];
		f->stats[i].usage = usage_new();
		worker_init(&f->workers[i]);
	}
	malloc_trim(0); /* the first call of glibc's malloc makes it ready, without a lock: under a sanitizer's malloc that would be two workers' at once (tidy.c) */
	for (unsigned i = 0; i < f->nworkers; i++)
		if (pthread_create(&f->workers[i].thread, NULL, worker_main, &f->workers[i]))
			abort();
	return f;
}

void fleet_join(struct fleet *f)
{
	for (unsigned i = 0; i < f->nworkers; i++)
		pthread_join(f->workers[i].thread, NULL);
}

void fleet_free(struct fleet *f)
{
	for (unsigned i = 0; i < f->nworkers; i++)
		worker_release(&f->workers[i]);
	for (unsigned i = 0; i < f->nnotes; i++)
		free(f->notes[i].state);
	free(f->notes);
	pthread_mutex_destroy(&f->nodes_lock);
	scripts_free(f->scripts);
	receivers_free(f->receivers);
	acl_log_free(f->acl_log);
	for (unsigned i = 0; i < f->nworkers; i++)
		usage_free(f->stats[i].usage);
	free(f->stats);
	free(f->workers);
	free(f);
}

unsigned fleet_owner(const struct fleet *f, uint16_t slot)
{
	return f->owner[slot];
}

unsigned fleet_workers(const struct fleet *f)
{
	return f->nworkers;
}

const struct worker_stats *fleet_stats(const struct fleet *f, unsigned worker)
{
	return &f->stats[worker];
}

/* --- control → workers: one message each --- */

struct order {
	struct worker *w;
	mail_fn *run;
	struct topology *topology;
	uint64_t flip;
	struct slot_set slots;
	enum side side;
	unsigned max_pause_ms;
	bool on, force;
	const char *password;
	struct acl *acl;
	const struct listen_fd *fds;
	unsigned n;
	size_t queue_max, dirty_max, request_max;
};

static void run_order(void *arg)
{
	struct order *o = arg;

	o->run(o);
	free(o);
}

static void to_all_from(struct fleet *f, unsigned from, mail_fn *run, const struct order *what)
{
	for (unsigned i = 0; i < f->nworkers; i++) {
		struct order *o = malloc(sizeof *o);
		if (!o)
			abort();
		*o = *what;
		o->w = &f->workers[i];
		o->run = run;
		if (o->topology)
			topology_ref(o->topology);
		if (o->acl)
			acl_ref(o->acl);
		mailbox_post(f->mail, i, from, run_order, o);
	}
	mailbox_flush_all(f->mail, from);
}

static void to_all(struct fleet *f, mail_fn *run, const struct order *what)
{
	to_all_from(f, THREAD_CONTROL(f->nworkers), run, what);
}

static void do_listen(void *arg)
{
	struct order *o = arg;

	if (!o->w->draining)
		clients_listen(o->w, o->fds, o->n);
}

/* Each has taken what was told before, topologies among it; the last one lets all of them listen. Else one might ask another, by their own
 * mailbox, before that one has routes. */
static void do_serve(void *arg)
{
	struct order *o = arg;
	struct fleet *f = o->w->fleet;

	if (atomic_fetch_sub(&f->unready, 1) == 1)
		to_all_from(f, o->w->id, do_listen, o);
}

void fleet_serve(struct fleet *f, const struct listen_fd *fds, unsigned n)
{
	atomic_store(&f->unready, f->nworkers);
	to_all(f, do_serve, &(struct order){ .fds = fds, .n = n });
}

static void do_topology(void *arg)
{
	struct order *o = arg;

	worker_topology(o->w, o->topology);
}

static void is_restless_now(struct fleet *f, enum side side, double now)
{
	atomic_store_explicit(&f->restless[side], now, memory_order_relaxed);
}

bool fleet_restless(const struct fleet *f, enum side side, double now)
{
	return now - atomic_load_explicit(&f->restless[side], memory_order_relaxed) < RESTLESS_S;
}

void fleet_topology(struct fleet *f, struct topology *t)
{
	if (t->side == f->shown && !f->identity[0]) { /* what clients are told does not change with a flip */
		snprintf(f->identity, sizeof f->identity, "%s %u.%u.%u", t->product == PRODUCT_REDIS ? "redis" : "valkey", t->version >> 16,
			 t->version >> 8 & 0xff, t->version & 0xff);
		atomic_store(&f->identity_cluster, t->cluster);
	}
	bool moved = atomic_exchange(&f->layout[t->side], t->layout) != t->layout;
	if (moved)
		atomic_fetch_add(&f->epoch, 1);
	if (moved || t->migrating) /* a picture is new for less, too: a clock, whether there are expiries */
		is_restless_now(f, t->side, ev_time());
	to_all(f, do_topology, &(struct order){ .topology = t });
	topology_unref(t);
}

static void do_lookout(void *arg)
{
	struct order *o = arg;

	lookout_everywhere(o->w, o->side, o->on);
}

void fleet_lookout(struct fleet *f, enum side side, bool everywhere)
{
	to_all(f, do_lookout, &(struct order){ .side = side, .on = everywhere });
}

static void do_watch(void *arg)
{
	struct order *o = arg;

	lookout_flip(o->w, o->flip, o->force);
}

void fleet_watch(struct fleet *f, uint64_t flip, bool force)
{
	to_all(f, do_watch, &(struct order){ .flip = flip, .force = force });
}

static void do_acl(void *arg)
{
	struct order *o = arg;

	clients_take_acl(o->w, o->acl);
}

void fleet_acl(struct fleet *f, struct acl *acl)
{
	to_all(f, do_acl, &(struct order){ .acl = acl });
}

static void do_mirror(void *arg)
{
	struct order *o = arg;

	worker_mirror(o->w, o->on);
}

void fleet_mirror(struct fleet *f, bool on)
{
	to_all(f, do_mirror, &(struct order){ .on = on });
}

static void do_fence(void *arg)
{
	struct order *o = arg;

	engine_fence(o->w->engine, o->flip, &o->slots, o->side, o->max_pause_ms);
}

void fleet_fence(struct fleet *f, uint64_t flip, const struct slot_set *slots, enum side to, unsigned max_pause_ms)
{
	to_all(f, do_fence, &(struct order){ .flip = flip, .slots = *slots, .side = to, .max_pause_ms = max_pause_ms });
}

static void do_settle(void *arg)
{
	struct order *o = arg;

	pubsub_settle(o->w->pubsub, o->flip);
}

void fleet_settle(struct fleet *f, uint64_t flip)
{
	to_all(f, do_settle, &(struct order){ .flip = flip });
}

static void do_unfence(void *arg)
{
	struct order *o = arg;

	engine_unfence(o->w->engine, o->flip);
}

void fleet_unfence(struct fleet *f, uint64_t flip)
{
	to_all(f, do_unfence, &(struct order){ .flip = flip });
}

static void do_slots_dirty(void *arg)
{
	struct order *o = arg;

	engine_slots_dirty(o->w->engine, o->on ? NULL : &o->slots, "a node failed over or restarted");
	atomic_fetch_sub(&o->w->fleet->marking, 1);
}

void fleet_slots_dirty(struct fleet *f, const struct slot_set *slots)
{
	struct order o = { .on = slots == NULL };

	if (slots)
		o.slots = *slots;
	atomic_fetch_add(&f->marking, f->nworkers);
	to_all(f, do_slots_dirty, &o);
}

unsigned fleet_marking(const struct fleet *f)
{
	return atomic_load(&f->marking);
}

static void do_finish(void *arg)
{
	struct order *o = arg;

	worker_finish(o->w, o->side);
}

void fleet_finish(struct fleet *f, enum side authority)
{
	to_all(f, do_finish, &(struct order){ .side = authority });
}

static void do_drain(void *arg)
{
	struct order *o = arg;

	worker_drain(o->w);
}

void fleet_drain(struct fleet *f)
{
	to_all(f, do_drain, &(struct order){ .on = true });
}

static void do_end(void *arg)
{
	struct order *o = arg;

	worker_end(o->w);
}

void fleet_end(struct fleet *f)
{
	to_all(f, do_end, &(struct order){ .on = true });
}

static void do_password(void *arg)
{
	struct order *o = arg;

	worker_set_password(o->w, o->side, o->password);
}

void fleet_set_password(struct fleet *f, enum side side, const char *password)
{
	to_all(f, do_password, &(struct order){ .side = side, .password = password });
}

static void do_limits(void *arg)
{
	struct order *o = arg;

	engine_set_limits(o->w->engine, o->queue_max, o->dirty_max, o->request_max);
}

void fleet_set_limits(struct fleet *f)
{
	const struct config *c = f->config;

	atomic_store(&f->maxclients, c->maxclients);
	acl_log_limit(f->acl_log, (unsigned)c->acllog_max_len);
	to_all(f, do_limits, &(struct order){ .queue_max = (size_t)c->mirror_queue_max, .dirty_max = (size_t)c->dirty_keys_max,
		.request_max = (size_t)c->request_max });
}

/* --- workers → control --- */

/* What a worker has to say of a flip: control_watched, control_fenced, control_settled. */
typedef void flip_word_fn(struct control *c, unsigned worker, uint64_t flip, bool ok, const char *why);

struct note {
	struct control *control;
	unsigned worker;
	enum side side;
	flip_word_fn *flip_word;
	uint64_t flip;
	bool ok;
	char why[400];
	struct fence_result result;
};

static struct note *note_new(struct worker *w, const char *why)
{
	struct note *n = calloc(1, sizeof *n);

	if (!n)
		abort();
	n->control = w->fleet->control;
	n->worker = w->id;
	snprintf(n->why, sizeof n->why, "%s", why ? why : "");
	return n;
}

static void tell(struct worker *w, mail_fn *fn, struct note *n)
{
	mailbox_post(w->fleet->mail, THREAD_CONTROL(w->fleet->nworkers), w->id, fn, n);
}

static void refresh_told(void *arg)
{
	struct note *n = arg;

	control_topology_wanted(n->control, n->side, n->why);
	free(n);
}

void fleet_tell_refresh(struct worker *w, enum side side, const char *why)
{
	ev_tstamp now = ev_now(w->loop);

	if (now - w->refresh_told[side] < 0.02)
		return; /* a storm of redirects is one message */
	w->refresh_told[side] = now;
	is_restless_now(w->fleet, side, now);
	struct note *n = note_new(w, why);
	n->side = side;
	tell(w, refresh_told, n);
}

static void drained_told(void *arg)
{
	struct note *n = arg;

	control_drained(n->control, n->worker, n->ok);
	free(n);
}

void fleet_tell_drained(struct worker *w, bool clean)
{
	struct note *n = note_new(w, NULL);

	n->ok = clean;
	tell(w, drained_told, n);
}

static void walking_told(void *arg)
{
	struct note *n = arg;

	control_walking(n->control);
	free(n);
}

static void do_walk(void *arg)
{
	struct order *o = arg;

	engine_slots_dirty(o->w->engine, NULL, "what was copied before the start may have been changed past the proxy");
	tell(o->w, walking_told, note_new(o->w, NULL));
}

void fleet_walk(struct fleet *f)
{
	to_all(f, do_walk, &(struct order){ 0 });
}

static void void_told(void *arg)
{
	struct note *n = arg;

	control_verify_void(n->control, n->why);
	free(n);
}

void fleet_tell_void(struct worker *w, const char *why)
{
	tell(w, void_told, note_new(w, why));
}

static void ready_told(void *arg)
{
	struct note *n = arg;

	control_mirror_ready(n->control, n->worker, n->ok, n->why);
	free(n);
}

void fleet_tell_mirror_ready(struct worker *w, bool ok, const char *why)
{
	struct note *n = note_new(w, why);

	n->ok = ok;
	tell(w, ready_told, n);
}

static void flip_word_told(void *arg)
{
	struct note *n = arg;

	n->flip_word(n->control, n->worker, n->flip, n->ok, n->why);
	free(n);
}

static void tell_flip_word(struct worker *w, flip_word_fn *word, uint64_t flip, bool ok, const char *why)
{
	struct note *n = note_new(w, why);

	n->flip_word = word;
	n->flip = flip;
	n->ok = ok;
	tell(w, flip_word_told, n);
}

void fleet_tell_watched(struct worker *w, uint64_t flip, bool ok, const char *why)
{
	tell_flip_word(w, control_watched, flip, ok, why);
}

void fleet_tell_fenced(struct worker *w, uint64_t flip, bool ok, const char *why)
{
	tell_flip_word(w, control_fenced, flip, ok, why);
}

void fleet_tell_settled(struct worker *w, uint64_t flip, bool ok, const char *why)
{
	tell_flip_word(w, control_settled, flip, ok, why);
}

static void flipped_told(void *arg)
{
	struct note *n = arg;

	control_flipped(n->control, n->worker, n->flip, n->result.held, n->result.pause_max_us, n->result.histogram);
	free(n);
}

static void do_flip(void *arg)
{
	struct order *o = arg;
	struct note *n = note_new(o->w, NULL);

	n->flip = o->flip;
	atomic_fetch_add(&o->w->fleet->epoch, 1); /* before and after: who looks in between sees neither */
	engine_flip(o->w->engine, o->flip, &n->result);
	atomic_fetch_add(&o->w->fleet->epoch, 1);
	tell(o->w, flipped_told, n);
}

void fleet_flip(struct fleet *f, uint64_t flip)
{
	to_all(f, do_flip, &(struct order){ .flip = flip });
}

/* --- states of nodes, for status --- */

/* The note of a node, made if need be; under the lock. */
static struct node_note *note_of(struct fleet *f, enum side side, const char *name)
{
	struct node_note *n;

	for (unsigned i = 0; i < f->nnotes; i++)
		if (f->notes[i].side == side && strcmp(f->notes[i].name, name) == 0)
			return &f->notes[i];
	f->notes = realloc(f->notes, (f->nnotes + 1) * sizeof *f->notes);
	if (!f->notes)
		abort();
	n = &f->notes[f->nnotes++];
	memset(n, 0, sizeof *n);
	n->side = side;
	snprintf(n->name, sizeof n->name, "%s", name);
	n->state = calloc(f->nworkers, 1);
	return n;
}

void fleet_note_process(struct fleet *f, enum side side, const char *name, const char *run_id)
{
	pthread_mutex_lock(&f->nodes_lock);
	struct node_note *n = note_of(f, side, name);
	if (!*run_id || strcmp(n->run_id, run_id) != 0) { /* unknown: it may be another one */
		snprintf(n->run_id, sizeof n->run_id, "%s", run_id);
		atomic_fetch_add(&f->epoch, 1);
	}
	pthread_mutex_unlock(&f->nodes_lock);
}

void fleet_note_state(struct fleet *f, unsigned worker, enum side side, const char *name, enum node_state state)
{
	pthread_mutex_lock(&f->nodes_lock);
	struct node_note *n = note_of(f, side, name);
	n->state[worker] = (uint8_t)state;
	pthread_mutex_unlock(&f->nodes_lock);
}

enum node_state fleet_node_state(const struct fleet *f, enum side side, const char *name)
{
	struct fleet *g = (struct fleet *)f; /* the lock is no part of what is looked at */
	enum node_state worst = NODE_IDLE;

	pthread_mutex_lock(&g->nodes_lock);
	for (unsigned i = 0; i < f->nnotes; i++)
		for (unsigned k = 0; f->notes[i].side == side && !strcmp(f->notes[i].name, name) && k < f->nworkers; k++)
			if (f->notes[i].state[k] > worst)
				worst = f->notes[i].state[k];
	pthread_mutex_unlock(&g->nodes_lock);
	return worst;
}
