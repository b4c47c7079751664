#include "proxy/control.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/advice.h"
#include "proxy/control_handover.h"
#include "proxy/control_internal.h"
#include "proxy/handover_client.h"
#include "proxy/log.h"
#include "proxy/pump.h"

#define SEEK_FIRST_S 10.0  /* a first start, or a take-over: without the source it ends */
#define SEEK_AGAIN_S 2.0   /* with a record it serves what it can */
#define SEEK_MARKER_S 5.0  /* …in all, where a target that is not known to be down has not told of its marker yet */
#define TICK_S 0.1
#define TICK_URGENT_S 0.005
#define BACKLOG 4096
#define VERSION_MIN 0x070000

/* Reachable to the end: messages that were under way when the threads ended are nobody's any more. */
static struct mailboxes *the_mail;

/* ---- life ---- */

static void control_set_state(struct control *c, enum control_state state)
{
	assert(state > c->run);
	c->run = state;
}

void control_end_with(struct control *c, int exit_code)
{
	if (c->run == CONTROL_ENDING)
		return;
	c->exit_code = exit_code;
	control_set_state(c, CONTROL_ENDING);
	ev_break(c->loop, EVBREAK_ALL);
}

static unsigned worker_count(const struct config *config)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	return config->workers > 0 ? (unsigned)config->workers : cores > 0 ? (unsigned)cores : 1;
}

static bool has_target(const struct control *c)
{
	return c->config->side[SIDE_TARGET].nnodes > 0;
}

/* Whose identity clients see until this process ends. */
static enum side shown_side(const struct control *c)
{
	return c->record.phase == PHASE_FINISHED ? SIDE_TARGET : SIDE_SOURCE;
}

/* Is the side that the proxy serves for a standalone server? As seen, else as recorded. */
static bool is_standalone(const struct control *c)
{
	enum side side = shown_side(c);
	const struct topology *t = c->discovery[side] ? discovery_topology(c->discovery[side]) : NULL;

	return t ? !t->cluster : c->record.sides[side].known && !c->record.sides[side].cluster;
}

/* What was owed by the last process, and what nobody can have seen while none ran. False: the journal cannot be made. */
static bool wants_journals(const struct control *c)
{
	return has_target(c) && c->record.phase != PHASE_FINISHED;
}

bool control_reserve(const struct control *c, char *err, size_t errlen)
{
	return !wants_journals(c) || journals_reserve(c->config->state_dir, worker_count(c->config), c->config->journal_size, err, errlen);
}

static bool begin_journals(struct control *c, struct owed *owed)
{
	bool mirroring = phase_mirrors(c->record.phase), clean = !mirroring || state_was_clean(c->state);
	char err[5000];

	memset(owed, 0, sizeof(*owed));
	if (!wants_journals(c))
		return true;
	c->journals = journals_open(c->config->state_dir, worker_count(c->config), c->config->journal_size, (enum journal_fsync)c->config->journal_fsync, clean,
				    err, sizeof(err));
	if (!c->journals) {
		log_warning("%s", err);
		control_end_with(c, STATE_EXIT_LOCKED);
		return false;
	}
	*owed = *journals_owed(c->journals);
	if (owed->everything)
		log_warning("%s: everything is compared again, and a verify is due", owed->why);
	else if (owed->nkeys)
		log_notice("%llu keys were owed to the follower when the last process ended: they are copied again", (unsigned long long)owed->nkeys);
	if (mirroring && c->assumed) {
		owed->everything = true;
		snprintf(owed->why, sizeof(owed->why), "the authority is the one that --assume-authority named");
	} else if (mirroring && !owed->everything && c->config->bypassing_writers) {
		owed->everything = true;
		snprintf(owed->why, sizeof(owed->why), "nobody watched them while no process ran");
	}
	return true;
}

static void begin_fleet(struct control *c, struct owed *owed)
{
	struct fleet_start *s = calloc(1, sizeof(*s));

	c->workers = worker_count(c->config);
	c->mail = the_mail = mailboxes_new(c->workers + 2);
	mailbox_attach(c->mail, THREAD_CONTROL(c->workers), c->loop);
	if (wants_journals(c))
		c->backfill = backfill_thread_new(c->config, c->mail, c, c->workers);
	*s = (struct fleet_start){ .config = c->config, .mail = c->mail, .control = c, .backfill = c->backfill, .workers = c->workers,
				   .shown = shown_side(c), .one_owner = is_standalone(c), .mirror = phase_mirrors(c->record.phase) };
	memcpy(s->authority, c->record.authority, sizeof(s->authority));
	memset(s->synced, c->record.backfill_done, sizeof(s->synced));
	owed->everything &= c->record.backfill_done; /* else all is walked when the copying ends */
	s->next_client_id = c->took.state.next_client_id;
	s->journals = c->journals;
	s->owed = s->mirror ? owed : NULL;
	c->fleet = fleet_new(s);
	if (c->journals)
		journals_taken(c->journals);
	free(s);
	if (c->backfill)
		backfill_thread_begin(c->backfill, c->fleet);
}

static void publish(struct control *c, struct topology *t)
{
	fleet_topology(c->fleet, topology_ref(t));
	if (c->backfill)
		backfill_thread_topology(c->backfill, topology_ref(t));
}

/* So that the next start is not a first one: it goes on without the source, too. */
static void first_record(struct control *c)
{
	char err[512];

	if (c->has_record)
		return;
	c->record.epoch = 1;
	if (state_write(c->state, &c->record, err, sizeof(err)) != STATE_DURABLE)
		log_warning("phase record: %s", err);
}

/* Clients that were handed over go before new ones. */
static void begin_clients(struct control *c)
{
	const struct throttle *t = &c->throttle;
	struct order_args args = { .keys_per_s = t->keys_per_s, .bytes_per_s = t->bytes_per_s, .adaptive = t->adaptive };

	if (!c->took.yes) {
		fleet_serve(c->fleet, c->listen_fds, c->nlisten_fds);
		return;
	}
	control_phase_io.backfill(c, BACKFILL_THROTTLE, &args, NULL);
	fleet_adopt(c->fleet, c->took.clients, c->took.n, &c->took.state);
	free(c->took.clients);
	c->took.clients = NULL;
}

void control_adopted(struct control *c)
{
	if (++c->took.acks != c->workers)
		return;
	log_notice("took over: %u clients go on here", c->took.n);
	fleet_go_on(c->fleet);
	fleet_serve(c->fleet, c->listen_fds, c->nlisten_fds);
}

static void serve(struct control *c)
{
	struct owed owed;
	const char *why_void = NULL;

	ev_timer_stop(c->loop, &c->seek);
	first_record(c);
	if (!begin_journals(c, &owed))
		return;
	bool unwatched = owed.everything;
	if (phase_mirrors(c->record.phase) && (!state_was_clean(c->state) || c->assumed))
		why_void = c->assumed ? owed.why : journals_owed(c->journals)->everything ? owed.why : "the last process did not end in order";
	control_set_state(c, CONTROL_SERVING);
	c->phases = phases_new(&control_phase_io, c, worker_count(c->config), &c->record);
	begin_fleet(c, &owed);
	for (int s = 0; s < SIDES; s++) {
		if (c->seen[s].known)
			phases_identify(c->phases, (enum side)s, &c->seen[s]);
		if (c->discovery[s] && discovery_topology(c->discovery[s]))
			publish(c, discovery_topology(c->discovery[s]));
	}
	for (unsigned i = 0; i < c->nlisten_fds; i++)
		if (listen(c->listen_fds[i].fd, BACKLOG) < 0) {
			log_warning("cannot listen: %s", strerror(errno));
			control_end_with(c, 71);
			return;
		}
	begin_clients(c);
	phases_begin(c->phases, why_void, unwatched, control_now(c));
	ev_timer_again(c->loop, &c->tick);
	successor_listen(c);
	log_notice("ready on port %d, TLS port %d, %s%s, phase %s, %u workers", c->config->port, c->config->tls_port,
		   c->config->unixsocket ? "socket " : "no socket", c->config->unixsocket ? c->config->unixsocket : "", phase_names[c->record.phase],
		   c->workers);
}

/* Every side that answers clients was seen. */
static bool seen_enough(const struct control *c)
{
	for (unsigned slot = 0; slot < SLOTS; slot++) {
		const struct discovery *d = c->discovery[c->record.authority[slot]];
		if (!d || !discovery_topology(d))
			return false;
	}
	return true;
}

void control_try_serve(struct control *c)
{
	if (c->run != CONTROL_SEEKING || !c->marker.settled || !seen_enough(c))
		return;
	if (!c->took.seeking) {
		serve(c);
		return;
	}
	c->took.found = true;
	ev_timer_stop(c->loop, &c->seek);
	ev_break(c->loop, EVBREAK_ALL);
}

bool control_found(const struct control *c)
{
	return c->took.found && c->run == CONTROL_SEEKING;
}

/* What the record says now is what the other process ended with. */
void control_take(struct control *c, struct handed **clients, unsigned n, const struct handed_state *st)
{
	assert(c->took.found);
	c->has_record = state_has_record(c->state);
	c->record = *state_loaded(c->state);
	c->took.seeking = false;
	c->took.yes = true;
	c->took.clients = malloc((n + 1) * sizeof(struct handed *));
	if (!c->took.clients)
		abort();
	if (n)
		memcpy(c->took.clients, clients, n * sizeof(struct handed *));
	c->took.n = n;
	c->took.state = *st;
	c->throttle = (struct throttle){ st->keys_per_s, st->bytes_per_s, st->adaptive };
	serve(c);
}

bool control_handed_over(const struct control *c)
{
	return c->handed_over;
}

/* The first start without a source, or without word of the target. */
static void seek_failed(struct control *c)
{
	const char *down = discovery_facts(c->discovery[SIDE_SOURCE])->down;

	if (!discovery_topology(c->discovery[SIDE_SOURCE])) {
		log_warning("the source was not reached within %g s: %s; %s", SEEK_FIRST_S, down, advice_unreachable(SIDE_SOURCE, down));
	} else {
		down = discovery_facts(c->discovery[SIDE_TARGET])->down;
		log_warning("the target was not reached within %g s: %s; %s has no phase record, so the target may have the newer data already, and only the target can "
			    "tell: start it, or, if no migration has begun, take target-nodes out or start with --assume-authority source",
			    SEEK_FIRST_S, *down ? down : c->marker.why, c->config->state_dir);
	}
	control_end_with(c, EXIT_UNREACHABLE);
}

static void on_seek(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct control *c = w->data;

	(void)revents;
	if (c->run != CONTROL_SEEKING)
		return;
	if (c->took.seeking) {
		log_warning("not every side in charge answers within %g s: nothing is taken over from the process that runs", SEEK_FIRST_S);
		control_end_with(c, EXIT_UNREACHABLE);
		return;
	}
	if (c->has_record && !c->marker.settled && !c->marker.waited) {
		c->marker.waited = true;
		ev_timer_set(w, SEEK_MARKER_S - SEEK_AGAIN_S, 0.);
		ev_timer_start(loop, w);
		return;
	}
	if (!c->has_record && !discovery_topology(c->discovery[SIDE_SOURCE])) {
		seek_failed(c);
	} else if (!control_marker_unknown(c)) {
		if (c->run == CONTROL_SEEKING)
			seek_failed(c);
	} else if (c->run == CONTROL_SEEKING) {
		log_warning("not every side in charge answers: serving what can be served, and trying on");
		serve(c);
	}
}

/* ---- discovery's events ---- */

static bool same_servers(const struct state_side *a, const struct state_side *b)
{
	if (a->cluster != b->cluster)
		return false;
	for (unsigned i = 0; i < a->nnodes; i++)
		for (unsigned j = 0; j < b->nnodes; j++)
			if ((*a->nodes[i].id && strcmp(a->nodes[i].id, b->nodes[j].id) == 0) ||
			    (!a->cluster && *a->nodes[i].name && strcmp(a->nodes[i].name, b->nodes[j].name) == 0))
				return true;
	return false;
}

static const struct state_record *record_now(const struct control *c)
{
	return c->phases ? phases_record(c->phases) : &c->record;
}

/* While a node is down its identity is not whole: the last one stays. */
static void remember(struct control *c, enum side side, const struct topology *t, const struct state_side *who)
{
	for (unsigned i = 0; i < t->nnodes; i++)
		if (!t->nodes[i].up)
			return;
	c->seen[side] = *who;
	if (c->phases)
		phases_identify(c->phases, side, who);
}

static enum discovery_verdict on_look(void *ctx, enum side side, const struct topology *t, const struct state_side *who, char *why, size_t n)
{
	struct control *c = ctx;
	const struct state_record *r = record_now(c);
	bool starting = c->run == CONTROL_SEEKING;

	if (side == SIDE_SOURCE && t->product == PRODUCT_REDIS && t->version < VERSION_MIN) {
		snprintf(why, n, "it is Redis %u.%u.%u, and Crossfade needs 7.0 or later: upgrade it first", t->version >> 16,
			 t->version >> 8 & 255, t->version & 255);
		if (starting)
			control_end_with(c, EXIT_UNREACHABLE);
		return DISCOVERY_IGNORE;
	}
	if (r->phase == PHASE_PROXY || !r->sides[side].known || same_servers(&r->sides[side], who)) {
		remember(c, side, t, who);
		return DISCOVERY_TAKE;
	}
	snprintf(why, n, "these are not the servers of the migration that state-dir %s is about: give another state-dir, or the right %s-nodes",
		 c->config->state_dir, side_name(side));
	if (starting)
		control_end_with(c, STATE_EXIT_CORRUPT);
	return DISCOVERY_IGNORE;
}

static void log_topology(const struct topology *t)
{
	log_verbose("%s: topology %llu: %s, %u nodes, %s %u.%u.%u", side_name(t->side), (unsigned long long)t->generation,
		    t->cluster ? "cluster" : "standalone", t->nnodes, t->product == PRODUCT_VALKEY ? "valkey" : "redis", t->version >> 16,
		    t->version >> 8 & 255, t->version & 255);
	for (unsigned i = 0; i < t->nnodes; i++)
		log_debug("%s: node %s %s, %s, %u replicas, clock %+lld us", side_name(t->side), t->nodes[i].name, t->nodes[i].id,
			  t->nodes[i].up ? "up" : "down", t->nodes[i].replicas, (long long)t->nodes[i].clock_offset_us);
}

static void on_changed(void *ctx, enum side side, struct topology *t)
{
	struct control *c = ctx;

	log_topology(t);
	if (side == SIDE_TARGET)
		marker_io_topology(c->marker.io, t);
	if (c->run != CONTROL_SERVING) {
		control_try_serve(c);
		return;
	}
	publish(c, t);
	control_lookout(c, side);
}

static void on_replaced(void *ctx, enum side side, const struct node *now, const char *what, const uint8_t *flags)
{
	struct control *c = ctx;
	struct slot_set *slots = calloc(1, sizeof(*slots));
	char why[512];
	unsigned n = 0;

	for (unsigned slot = 0; slot < SLOTS; slot++)
		if (flags[slot]) {
			slot_set_add(slots, slot);
			n++;
		}
	snprintf(why, sizeof(why), "%s %s: %s", side_name(side), now->name, what);
	if (!c->phases || !phase_mirrors(record_now(c)->phase)) {
		log_notice("%s", why);
	} else {
		log_warning("%s: its %u slots are compared again, writes may be lost there", why, n);
		phases_verify_void(c->phases, why);
		fleet_slots_dirty(c->fleet, slots); /* the owners ask for the rescan, when their versions have moved */
	}
	free(slots);
}

void control_looked(struct control *c, unsigned bit)
{
	if (!(c->looking & bit))
		return;
	c->looking &= ~bit;
	if (c->looking == 0 && c->phases)
		phases_looked(c->phases, control_now(c));
	control_pace(c);
}

static void on_done(void *ctx, enum side side)
{
	struct control *c = ctx;

	if (side == SIDE_TARGET && !(c->looking & 1u << side))
		control_marker_pulse(c);
	else if (side == SIDE_TARGET)
		control_marker_look(c);
	control_looked(c, 1u << side);
	control_lookout(c, side);
}

/* ---- what workers tell ---- */

void control_topology_wanted(struct control *c, enum side side, const char *why)
{
	if (c->discovery[side])
		discovery_wanted(c->discovery[side], why);
}

void control_watched(struct control *c, unsigned worker, uint64_t flip, bool ok, const char *why)
{
	phases_watched(c->phases, worker, flip, ok, why, control_now(c));
	control_pace(c);
}

void control_fenced(struct control *c, unsigned worker, uint64_t flip, bool ok, const char *why)
{
	phases_fenced(c->phases, worker, flip, ok, why, control_now(c));
	control_pace(c);
}

void control_settled(struct control *c, unsigned worker, uint64_t flip, bool ok, const char *why)
{
	if (flip == HANDOVER_FLIP)
		successor_settled(c, worker);
	else
		phases_settled(c->phases, worker, flip, ok, why, control_now(c));
	control_pace(c);
}

void control_flipped(struct control *c, unsigned worker, uint64_t flip, uint64_t held, int64_t pause_max_us, const uint32_t *histogram)
{
	phases_flipped(c->phases, worker, flip, held, pause_max_us, histogram, control_now(c));
	control_pace(c);
}

void control_mirror_ready(struct control *c, unsigned worker, bool ok, const char *why)
{
	phases_mirror_ready(c->phases, worker, ok, why, control_now(c));
	control_pace(c);
}

void control_walking(struct control *c)
{
	phases_walking(c->phases);
	control_pace(c);
}

void control_verify_void(struct control *c, const char *why)
{
	phases_verify_void(c->phases, why);
}

/* Every worker has answered its clients and brought the follower up to date; while they did, copying went on. */
void control_drained(struct control *c, unsigned worker, bool clean)
{
	if (!clean)
		log_warning("worker %u ends without having brought the follower up to date: verify again after the next start", worker);
	c->drained_clean = (c->drained == 0 || c->drained_clean) && clean;
	if (++c->drained == c->workers)
		control_end_with(c, 0);
}

void control_backfill_event(void *control)
{
	struct control *c = control;

	if (c->run == CONTROL_SERVING && !successor_stops_clients(c))
		phases_tick(c->phases, control_now(c));
	control_pace(c);
}

/* ---- the tick ---- */

void control_pace(struct control *c)
{
	double want;

	if (c->run != CONTROL_SERVING)
		return;
	want = phases_urgent(c->phases) ? TICK_URGENT_S : TICK_S;
	if (c->tick.repeat != want) {
		c->tick.repeat = want;
		ev_timer_again(c->loop, &c->tick);
	}
	for (int s = 0; s < SIDES; s++)
		if (c->discovery[s])
			discovery_hold(c->discovery[s], phases_fencing(c->phases));
}

static void settle_record(struct control *c)
{
	char err[512];
	bool ok = state_settle(c->state, err, sizeof(err));

	if (!ok && !c->unsettled)
		log_warning("phase record: %s; it is in force all the same, and this is tried again", err);
	c->unsettled = !ok;
}

static void on_tick(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct control *c = w->data;

	(void)loop;
	(void)revents;
	if (c->run != CONTROL_SERVING || successor_stops_clients(c))
		return;
	phases_tick(c->phases, control_now(c));
	control_pace(c);
	if (!phases_urgent(c->phases))
		settle_record(c);
}

/* ---- orders, configuration ---- */

bool control_serving(const struct control *c)
{
	return c->run == CONTROL_SERVING;
}

void control_order(struct control *c, enum order order, const struct order_args *args, struct answer answer)
{
	if (c->run != CONTROL_SERVING) {
		answer.fn(answer.arg, ANSWER_UNREACHABLE, "crossfade is starting or ending: try again in a moment");
		return;
	}
	if (successor_is_there(c)) {
		answer.fn(answer.arg, ANSWER_UNREACHABLE, "another process is taking over: try again in a moment");
		return;
	}
	if (control_check_first(c, order, args, answer))
		return;
	phases_order(c->phases, order, args, answer, control_now(c));
	if (order == ORDER_FINISH || order == ORDER_ABORT)
		control_marker_pulse(c);
	control_pace(c);
}

static void apply_config(struct control *c)
{
	log_set_level((enum log_level)c->config->loglevel);
	if (strcmp(c->logfile, c->config->logfile) != 0) {
		if (!log_open(c->config->logfile))
			log_warning("logfile %s cannot be opened: %s", c->config->logfile, strerror(errno));
		snprintf(c->logfile, sizeof(c->logfile), "%s", c->config->logfile);
	}
	if (c->fleet)
		fleet_set_limits(c->fleet);
}

void control_reload(struct control *c)
{
	const char *before[SIDES] = { c->config->side[0].password, c->config->side[1].password };
	char err[1024];

	if (successor_is_there(c)) {
		log_warning("reload: nothing was changed: another process is taking over, with a configuration of its own");
		return;
	}
	if (!config_reload(c->config, err, sizeof(err))) {
		log_warning("reload: %s: nothing was changed", err);
		return;
	}
	apply_config(c);
	if (c->fleet)
		fleet_acl(c->fleet, c->config->acl);
	for (int s = 0; s < SIDES; s++) {
		const char *now = c->config->side[s].password;
		if (now == before[s])
			continue;
		if (c->fleet)
			fleet_set_password(c->fleet, (enum side)s, now);
		if (c->backfill)
			backfill_thread_password(c->backfill, (enum side)s, now);
		if (c->discovery[s])
			discovery_reconnect(c->discovery[s]);
		if (s == SIDE_TARGET && c->marker.io)
			marker_io_password(c->marker.io);
	}
	log_notice("reload: done");
}

void control_reopen(struct control *c)
{
	if (!log_open(c->config->logfile))
		log_warning("logfile %s cannot be reopened: %s", c->config->logfile, strerror(errno));
	else
		log_notice("log reopened");
}

bool control_config_set(struct control *c, const char *name, const char *value, char *err, size_t errlen)
{
	if (!config_set(c->config, name, value, err, errlen))
		return false;
	apply_config(c);
	log_notice("config: %s was set to '%s' on the admin socket", name, value);
	return true;
}

char *control_config_get(struct control *c, const char *name)
{
	return config_get(c->config, name);
}

/* ---- beginning and end ---- */

static void begin_discovery(struct control *c)
{
	struct discovery_events events = { c, on_look, on_changed, on_replaced, on_done };

	for (int s = 0; s < SIDES; s++) {
		if (c->config->side[s].nnodes == 0 || (s == SIDE_SOURCE && c->record.phase == PHASE_FINISHED))
			continue;
		c->discovery[s] = discovery_new(c->loop, c->config, (enum side)s, &events);
		discovery_refresh(c->discovery[s]);
	}
}

struct control *control_new(const struct control_options *o)
{
	struct control *c = calloc(1, sizeof(*c));

	c->loop = o->loop;
	c->config = o->config;
	c->state = o->state;
	memcpy(c->listen_fds, o->listen_fds, o->nlisten_fds * sizeof(*o->listen_fds));
	c->nlisten_fds = o->nlisten_fds;
	snprintf(c->logfile, sizeof(c->logfile), "%s", c->config->logfile);
	c->assume = o->assume;
	c->took.seeking = o->take_over;
	c->pumps = o->pumps;
	c->has_record = state_has_record(c->state);
	if (c->has_record)
		c->record = *state_loaded(c->state);
	c->throttle = (struct throttle){ c->config->backfill_keys_per_s, c->config->backfill_bytes_per_s, c->config->backfill_adaptive };
	ev_init(&c->tick, on_tick);
	c->tick.repeat = TICK_S;
	ev_timer_init(&c->seek, on_seek, c->has_record && !c->took.seeking ? SEEK_AGAIN_S : SEEK_FIRST_S, 0.);
	c->tick.data = c->seek.data = c;
	ev_timer_start(c->loop, &c->seek);
	begin_discovery(c);
	control_marker_begin(c);
	return c;
}

void control_stop(struct control *c)
{
	if (c->run != CONTROL_SERVING) { /* nothing to drain; or the second order to end */
		control_end_with(c, c->run == CONTROL_DRAINING ? 1 : 0);
		return;
	}
	successor_abort(c, "it is ending: start the new one when it has");
	log_notice("ending: no new clients, what is in flight is answered and mirrored");
	phases_end(c->phases); /* an unfinished flip is undone: it holds requests */
	control_set_state(c, CONTROL_DRAINING);
	fleet_drain(c->fleet);
}

/* The threads have ended, and nothing is lost of what the journals hold. */
static void leave(struct control *c)
{
	c->drained_clean = journals_hold(c->journals) == 0;
	for (unsigned i = 0; i < c->workers; i++) {
		const struct handing *g = fleet_handing(c->fleet, i);
		for (unsigned k = 0; g && k < g->ntls; k++)
			if (g->tls[k].tls)
				pumps_add(c->pumps, g->tls[k].tls, g->tls[k].fd, g->tls[k].plain);
	}
}

/* An unfinished flip is undone first, then copying ends, then the workers: each may still need the next one. */
static void end_threads(struct control *c)
{
	if (c->phases)
		phases_end(c->phases);
	if (!c->fleet)
		return;
	mailbox_flush_all(c->mail, THREAD_CONTROL(c->workers));
	backfill_thread_end(c->backfill);
	fleet_end(c->fleet);
	mailbox_flush_all(c->mail, THREAD_CONTROL(c->workers));
	fleet_join(c->fleet);
	if (c->handed_over)
		leave(c);
	fleet_free(c->fleet);
	journals_free(c->journals);
	backfill_thread_free(c->backfill);
	mailbox_detach(c->mail, THREAD_CONTROL(c->workers));
}

void control_free(struct control *c)
{
	successor_unlisten(c);
	ev_timer_stop(c->loop, &c->tick);
	ev_timer_stop(c->loop, &c->seek);
	preflight_free(c->checkup.running); /* answers who waits for it */
	marker_io_free(c->marker.io); /* likewise */
	for (int s = 0; s < SIDES; s++)
		discovery_free(c->discovery[s]);
	end_threads(c);
	bool clean = c->fleet ? c->drained_clean : state_was_clean(c->state); /* nothing ran: as the last process left it */
	phases_free(c->phases);
	for (unsigned i = 0; i < c->nlisten_fds; i++)
		close(c->listen_fds[i].fd);
	if (c->exit_code == 0 && clean)
		state_mark_clean(c->state);
	log_notice("ended");
	free(c);
}

int control_exit_code(const struct control *c)
{
	return c->exit_code;
}
