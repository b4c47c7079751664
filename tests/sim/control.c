/* The control thread: the real phase machine over a model of the fleet and of the state directory, orders drawn by lot, and the process killed. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t now_ms(const struct world *w)
{
	return w->now_us / 1000;
}

/* --- the seam of the phases --- */

static void io_facts(void *ctx, struct phase_facts *f)
{
	struct world *w = ctx;

	memset(f, 0, sizeof *f);
	f->target_configured = f->target_may_hold_keys = true;
	for (enum side s = SIDE_SOURCE; s < SIDES; s++) {
		f->up[s] = f->covered[s] = true;
		f->cluster[s] = w->side[s].is_cluster;
		for (unsigned i = 0; i < w->side[s].nnodes; i++)
			f->up[s] &= w->side[s].node[i].conn.up;
	}
	f->dirty_keys = atomic_load(&w->stats->dirty_keys);
	f->dirty_slots = atomic_load(&w->stats->dirty_slots);
	f->strays = atomic_load(&w->stats->strays);
	f->dirty_age_ms = atomic_load(&w->stats->dirty_age_us) / 1000;
	f->queued = atomic_load(&w->stats->queued);
	f->lag_ms = (atomic_load(&w->stats->lag_us) + 999) / 1000;
	f->max_lag_ms = 1000;
	f->max_pause_ms = 150;
	f->backfill = !w->backfill.running ? BF_IDLE : copies_done(w) ? BF_DONE : BF_RUNNING;
}

/* It travels; the process may be killed before it arrives, and before its answer does. */
static void io_mark(void *ctx, uint64_t flip, const char *migration, uint64_t epoch)
{
	struct world *w = ctx;

	if (strcmp(migration, w->disk->migration) != 0 || epoch > w->disk->epoch)
		sim_fail(w, "a marker that no record on the disk knows of");
	w->marking = flip;
}

static void io_look(void *ctx) { ((struct world *)ctx)->looking = true; }

static bool io_prepare(void *ctx, const struct state_record *r, char *err, size_t n)
{
	(void)ctx, (void)r, (void)err, (void)n;
	return true;
}

/* Unknown: an error came back, and only a restart can tell which record is on the disk. Killed at that moment it is the same. */
static enum state_result io_write(void *ctx, const struct state_record *r, char *err, size_t n)
{
	struct world *w = ctx;
	enum state_result result = STATE_DURABLE;
	bool reached = true;

	snprintf(err, n, "input/output error");
	if (w->load && w->profile.records_fail && one_in(w, 3)) {
		result = one_in(w, 2) ? STATE_UNCHANGED : STATE_UNKNOWN;
		reached = result == STATE_UNKNOWN && one_in(w, 2);
	}
	if (w->load && w->profile.kills && one_in(w, 8)) {
		w->kill_now = true;
		result = STATE_UNKNOWN;
		reached = one_in(w, 2);
	}
	trace(w, "record %llu, phase %s: %s%s", (unsigned long long)r->epoch, phase_names[r->phase],
	      result == STATE_DURABLE ? "durable" : result == STATE_UNCHANGED ? "unchanged" : reached ? "unknown, on the disk" : "unknown, not on the disk", w->kill_now ? ", killed" : "");
	if (reached && r->epoch <= w->disk->epoch)
		sim_fail(w, "a record of epoch %llu follows one of %llu", (unsigned long long)r->epoch, (unsigned long long)w->disk->epoch);
	if (reached)
		*w->disk = *r;
	return result;
}

static void io_mirror(void *ctx, bool on)
{
	struct world *w = ctx;

	trace(w, "mirroring %s", on ? "on" : "off");
	engine_mirror(w->engine, on);
	w->mirror_wanted = on;
	w->mirror_pinged = false;
}

/* The one engine of the simulation hears of everything. */
static void io_watch(void *ctx, uint64_t flip, bool force)
{
	struct world *w = ctx;

	(void)force;
	phases_watched(w->phases, 0, flip, true, NULL, now_ms(w));
}

static void io_fence(void *ctx, uint64_t flip, const struct slot_set *slots, enum side to, unsigned max_pause_ms)
{
	struct world *w = ctx;

	trace(w, "fence %llu", (unsigned long long)flip);
	w->flip = flip;
	w->fencing = *slots;
	w->fencing_to = to;
	w->fenced = w->flipped = false;
	w->fenced_since_us = w->now_us;
	engine_fence(w->engine, flip, slots, to, max_pause_ms);
}

/* Subscribers are no part of the simulation: everybody has heard everything a moment later. */
static void io_settle(void *ctx, uint64_t flip)
{
	struct world *w = ctx;

	(void)flip;
	w->settling = true;
}

static void io_flip(void *ctx, uint64_t flip)
{
	struct world *w = ctx;

	for (int tag = 0; tag < TAGS; tag++)
		if (slot_set_has(&w->fencing, w->slot[tag]) && w->disk->authority[w->slot[tag]] != w->fencing_to)
			sim_fail(w, "a flip without a durable record");
	trace(w, "flip %llu to the %s", (unsigned long long)flip, side_name(w->fencing_to));
	judge_flip(w, &w->fencing, w->fencing_to);
	engine_flip(w->engine, flip, &w->flip_result);
	w->flipped = true;
	w->flips++;
}

static void io_unfence(void *ctx, uint64_t flip)
{
	struct world *w = ctx;

	trace(w, "unfence %llu", (unsigned long long)flip);
	engine_unfence(w->engine, flip);
}

static void io_finish(void *ctx, enum side authority)
{
	(void)authority;
	sim_fail(ctx, "nobody ordered to finish");
}

static void io_backfill(void *ctx, enum backfill_order what, const struct order_args *args, const char *migration)
{
	(void)args, (void)migration;
	if (what == BACKFILL_START)
		copies_start(ctx);
}

static void io_walk(void *ctx)
{
	struct world *w = ctx;

	engine_slots_dirty(w->engine, NULL, "what was copied before the start may have been changed");
	phases_walking(w->phases);
}

static char *io_verify_json(void *ctx)
{
	(void)ctx;
	return strdup("{}");
}

static const struct phase_io phase_io = { io_facts, io_look, io_mark, io_watch, io_prepare, io_write, io_mirror, io_walk, io_fence, io_settle, io_flip, io_unfence, io_finish, io_backfill, io_verify_json };

/* --- orders --- */

static void on_answer(void *arg, enum answer_code code, const char *text)
{
	struct world *w = arg;

	trace(w, "control answers %d: %s", code, text);
	w->ordered--;
}

static void order(struct world *w, enum order what, struct order_args *a)
{
	a->keys_per_s = a->bytes_per_s = a->adaptive = -1;
	w->ordered++;
	phases_order(w->phases, what, a, (struct answer){ on_answer, w }, now_ms(w));
}

/* Of a start that was undone: the operator empties it. */
static void empty_target(struct world *w)
{
	for (unsigned i = 0; i < w->side[SIDE_TARGET].nnodes; i++) {
		struct server *n = &w->side[SIDE_TARGET].node[i];
		for (int key = 0; key < KEYS; key++)
			n->data[key] = n->replica[key] = (struct value){ .expire_ms = -1 };
		n->deposed_before = 0;
	}
}

/* Of scripts that nobody has seen yet nobody can know. */
static bool strays_known(const struct world *w)
{
	return !w->profile.strays || atomic_load(&w->stats->strays);
}

void sim_control_order(struct world *w)
{
	struct order_args a = { .force = true, .wait_s = (unsigned)rnd(w, 2) };
	bool clusters = w->side[SIDE_SOURCE].is_cluster && w->side[SIDE_TARGET].is_cluster;
	uint16_t first = w->slot[rnd(w, TAGS)], last = w->slot[rnd(w, TAGS)];

	if (w->ordered || (phases_record(w->phases)->phase == PHASE_PROXY && !net_quiet(w)))
		return;
	if (clusters && one_in(w, 2) && strays_known(w)) {
		a.by_slots = true;
		a.first = first < last ? first : last;
		a.last = first < last ? last : first;
	}
	switch (phases_record(w->phases)->phase) {
	case PHASE_PROXY:
		empty_target(w);
		order(w, ORDER_START, &a);
		break;
	case PHASE_BACKFILL:
	case PHASE_SYNCED:
		if (phases_record(w->phases)->backfill_done && one_in(w, 3))
			order(w, ORDER_CUTOVER, &a);
		break;
	case PHASE_CUTOVER:
		if (one_in(w, 3))
			order(w, one_in(w, 2) ? ORDER_CUTOVER : ORDER_ROLLBACK, &a);
		break;
	default:
		break;
	}
}

/* --- answers of the fleet, which travel --- */

void sim_fenced(struct world *w, uint64_t flip, bool ok)
{
	if (flip != w->flip)
		sim_fail(w, "a fence nobody asked for is told");
	w->fenced = true;
	w->fence_ok = ok;
}

static void on_ping(void *arg, const struct reply *r)
{
	struct world *w = arg;

	w->pings_left--;
	if (!r->p)
		w->mirror_pinged = false; /* once more */
}

/* As worker.c: ready when a PING has come back from every node of the authority. */
static void mirror_step(struct world *w)
{
	static const char ping[] = "*1\r\n$4\r\nPING\r\n";
	enum side side = authority_of(w, 0);

	if (!w->mirror_wanted || w->pings_left)
		return;
	if (w->mirror_pinged) {
		w->mirror_wanted = w->mirror_pinged = false;
		phases_mirror_ready(w->phases, 0, true, NULL, now_ms(w));
		return;
	}
	for (unsigned i = 0; i < w->side[side].nnodes; i++)
		if (!w->side[side].node[i].conn.up)
			return;
	w->mirror_pinged = true;
	for (unsigned i = 0; i < w->side[side].nnodes; i++) {
		w->pings_left++;
		net_send(w, side, &w->side[side].node[i], ping, sizeof ping - 1, 1, on_ping, w);
	}
}

/* As marker_io.c puts it, and control_marker.c: written again while slots are on the target, removed when it is over. */
static void marker_step(struct world *w)
{
	const struct state_record *r = phases_record(w->phases);
	struct marker ours = { .there = true, .epoch = phases_durable_epoch(w->phases) };
	uint64_t flip = w->marking;
	char why[320];

	strcpy(ours.migration, r->migration);
	if ((flip || r->phase == PHASE_CUTOVER) && !w->marker.there && *r->migration)
		w->marker = ours;
	else if (r->phase == PHASE_CUTOVER && strcmp(w->marker.migration, ours.migration) == 0 && w->marker.epoch < ours.epoch)
		w->marker = ours;
	if (marker_is_over(r, &w->marker))
		w->marker.there = false;
	if (!flip || one_in(w, 3))
		return; /* its answer is on its way */
	w->marking = 0;
	phases_marked(w->phases, flip, w->marker.there && marker_allows(r, &w->marker, why, sizeof why) ? ANSWER_OK : ANSWER_REFUSED, "it is not ours", now_ms(w));
}

void sim_control_step(struct world *w)
{
	marker_step(w);
	if (w->looking) {
		w->looking = false;
		phases_looked(w->phases, now_ms(w));
	}
	mirror_step(w);
	if (w->fenced) {
		w->fenced = false;
		phases_fenced(w->phases, 0, w->flip, w->fence_ok, "it could not be proven", now_ms(w));
	}
	if (w->settling) {
		w->settling = false;
		phases_settled(w->phases, 0, w->flip, true, NULL, now_ms(w));
	}
	if (w->flipped) {
		w->flipped = false;
		phases_flipped(w->phases, 0, w->flip, w->flip_result.held, w->flip_result.pause_max_us, w->flip_result.histogram, now_ms(w));
	}
	phases_tick(w->phases, now_ms(w));
	if (w->kill_now)
		sim_kill(w);
}

bool sim_control_quiet(const struct world *w)
{
	return !w->ordered && !w->looking && !w->marking && !w->mirror_wanted && !phases_fencing(w->phases) && !w->fenced && !w->settling && !w->flipped && !phases_urgent(w->phases);
}

/* --- the process --- */

void sim_control_new(struct world *w)
{
	w->phases = phases_new(&phase_io, w, 1, w->disk);
	phases_begin(w->phases, "the last process did not end in order", w->unwatched, now_ms(w));
}

void sim_control_free(struct world *w)
{
	phases_free(w->phases);
	w->phases = NULL;
}

static void on_owed_key(void *ctx, struct slice key, uint16_t db, uint16_t slot)
{
	struct owed *o = ctx;
	struct owed_key *k = malloc(sizeof *k + key.n);

	*k = (struct owed_key){ .next = o->keys, .db = db, .slot = slot, .len = key.n };
	memcpy(k->key, key.p, key.n);
	o->keys = k;
}

static void on_owed_slot(void *ctx, uint16_t slot)
{
	slot_set_add(&((struct owed *)ctx)->slots, slot);
}

/* What the next process reads in the journal. */
static void read_journal(struct world *w, struct owed *owed)
{
	memset(owed, 0, sizeof *owed);
	journal_read_memory(w->journal, &(struct journal_reader){ .ctx = owed, .key = on_owed_key, .slot = on_owed_slot });
}

/* Does the journal know all that the follower may lack? Else every slot is dirty after a start (bypassing-writers yes). */
static bool journal_suffices(const struct profile *p)
{
	return !p->foreign && !p->scripts && !p->failovers && !p->losses && !p->moves;
}

static void restart(struct world *w, struct owed *owed)
{
	bool mirroring = w->disk->phase >= PHASE_MIRROR;

	owed->everything = w->unwatched && w->disk->backfill_done; /* else all is walked when the copying ends */
	journal_free(w->journal);
	w->journal = journal_new_in_memory(w->profile.narrow ? 2 : 256);
	world_engine(w, w->disk->authority, mirroring);
	if (mirroring)
		engine_recover(w->engine, owed);
	for (struct owed_key *k = owed->keys, *next; k; k = next) {
		next = k->next;
		free(k);
	}
}

/* The state directory goes with the process, and another process begins without one (race 15): what it does is what control_marker.c does, and the
 * operator, if asked, knows which side has the newer data. While it is mixed nobody can say that in one word. */
static void forget_disk(struct world *w)
{
	enum side truth = (enum side)w->disk->authority[w->slot[0]];
	char why[320];

	for (int tag = 1; tag < TAGS; tag++)
		if (w->disk->authority[w->slot[tag]] != truth)
			return;
	if (w->disk->phase == PHASE_PROXY || !one_in(w, 2))
		return;
	trace(w, "the state directory is lost; the %s is the authority, the marker is %s", side_name(truth), w->marker.there ? "there" : "not there");
	memset(w->disk, 0, sizeof *w->disk);
	if (!marker_allows(NULL, &w->marker, why, sizeof why))
		marker_assume(truth, &w->marker, w->disk);
	else
		w->disk->epoch = 1;
	for (int tag = 0; tag < TAGS; tag++) /* checkpoints went, too; after the cutover everything counts as copied, and is compared */
		w->backfill.unit[tag].state = w->disk->backfill_done ? UNIT_DONE : UNIT_TODO;
	if (w->disk->authority[w->slot[0]] != truth)
		sim_fail(w, "a state directory was lost, and the %s serves although the %s was the authority", side_name(SIDE_OTHER(truth)), side_name(truth));
	w->unwatched = true;
}

/* kill -9: nothing leaves the process from here on; those who wait for it are told until none is left, then everything it knew is gone. */
void sim_kill(struct world *w)
{
	static struct owed owed;

	trace(w, "killed");
	read_journal(w, &owed); /* as it is at this very moment */
	w->marking = 0;
	w->dying = true;
	w->kills++;
	net_break_all(w);
	sim_control_free(w);
	engine_unfence(w->engine, w->flip);
	for (int tag = 0; tag < TAGS; tag++)
		engine_release(w->engine, w->slot[tag]);
	for (int i = 0; i < 1000 && (w->reqs || !net_quiet(w)) && (w->answered < w->submitted); i++) {
		w->now_us += 20000;
		engine_turn(w->engine);
		alone_break(w);
		net_break_all(w);
	}
	if (w->reqs)
		sim_fail(w, "%u requests were never answered by a process that ends", w->submitted - w->answered);
	net_break_all(w);
	memset(&w->alone, 0, sizeof w->alone);
	copies_forget(w);
	engine_free(w->engine);
	watcher_forget(w);
	w->kill_now = w->looking = w->mirror_wanted = w->mirror_pinged = w->fenced = w->settling = w->flipped = w->dying = false;
	w->ordered = 0;
	w->unwatched = !journal_suffices(&w->profile) && !fault("race-6-restart");
	if (w->profile.forgets)
		forget_disk(w);
	restart(w, &owed);
	sim_control_new(w);
}
