#include "proxy/phases.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/advice.h"
#include "proxy/log.h"
#include "proxy/phases_internal.h"

#define REWRITE_EVERY_MS 200

void phases_answer_text(struct answer *a, enum answer_code code, const char *text)
{
	answer_fn *fn = a->fn;

	a->fn = NULL; /* once */
	if (fn)
		fn(a->arg, code, text);
}

void phases_answer(struct answer *a, enum answer_code code, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	phases_answer_text(a, code, text);
}

bool phases_commit(struct phases *p, const struct state_record *next, char *err, size_t errlen)
{
	struct state_record *r = malloc(sizeof(*r));

	*r = *next;
	r->epoch = p->rec.epoch + 1;
	enum state_result result = p->io->write(p->ctx, r, err, errlen);
	if (result == STATE_DURABLE) {
		if (p->rec.phase != r->phase)
			log_notice("phase %s -> %s (epoch %llu)", phase_names[p->rec.phase], phase_names[r->phase],
				   (unsigned long long)r->epoch);
		p->rec = *r;
		p->durable_epoch = r->epoch;
	} else {
		log_warning("phase record: %s", err);
		/* The failed record must not come to light later: what is in force gets a higher epoch still. */
		p->rec.epoch++;
		p->rewrite = true;
		p->rewrite_at = 0;
	}
	free(r);
	return result == STATE_DURABLE;
}

static void rewrite_tick(struct phases *p, int64_t now)
{
	char err[512];

	if (!p->rewrite || now < p->rewrite_at)
		return;
	p->rewrite = false;
	if (!phases_commit(p, &p->rec, err, sizeof(err)))
		p->rewrite_at = now + REWRITE_EVERY_MS;
}

/* ---- start ---- */

static void start_set_state(struct phases *p, enum start_state state)
{
	p->start.state = state;
	if (state == START_MIRRORING) {
		memset(p->start.ready, 0, p->workers * sizeof(bool));
		p->start.nready = 0;
	}
}

static void start_order(struct phases *p, const struct order_args *args, struct answer answer, int64_t now)
{
	struct phase_facts f;

	(void)args;
	p->io->facts(p->ctx, &f);
	if (!f.target_configured) {
		phases_answer(&answer, ANSWER_REFUSED, "there is no target: set target-nodes in the configuration and start crossfade again");
		return;
	}
	p->start.answer = answer;
	p->start.deadline = now + START_LIMIT_MS;
	start_set_state(p, START_LOOKING);
	p->io->look(p->ctx);
}

/* NULL: nothing stands in the way. */
static const char *start_obstacle(const struct phase_facts *f, char *text, size_t n, enum answer_code *code)
{
	*code = ANSWER_REFUSED;
	for (int s = 0; s < SIDES; s++)
		if (!f->up[s]) {
			*code = ANSWER_UNREACHABLE;
			snprintf(text, n, "the %s is not reachable: %s; %s", side_name((enum side)s), f->down[s],
				 advice_unreachable((enum side)s, f->down[s]));
			return text;
		}
	for (int s = 0; s < SIDES; s++)
		if (!f->covered[s]) {
			snprintf(text, n, "not every slot of the %s has a node: repair that cluster first (proxyctl check tells which)",
				 side_name((enum side)s));
			return text;
		}
	if (*f->foreign) {
		snprintf(text, n, "%s", f->foreign);
		return text;
	}
	if (f->keys[SIDE_TARGET] > 0 && !f->target_may_hold_keys) {
		snprintf(text, n, "the target already holds %llu keys: empty it, or set target-not-empty allow and start crossfade again",
			 (unsigned long long)f->keys[SIDE_TARGET]);
		return text;
	}
	return NULL;
}

void phases_looked(struct phases *p, int64_t now)
{
	struct phase_facts f;
	enum answer_code code;
	char text[1400];

	if (p->start.state != START_LOOKING)
		return;
	start_set_state(p, START_IDLE);
	p->io->facts(p->ctx, &f);
	const char *obstacle = start_obstacle(&f, text, sizeof(text), &code);
	if (obstacle) {
		phases_answer(&p->start.answer, code, "%s", obstacle);
		return;
	}
	struct state_record *next = malloc(sizeof(*next));
	*next = p->rec;
	next->phase = PHASE_MIRROR;
	next->given_up[0] = '\0';
	state_random_id(next->migration);
	next->backfill_done = next->verify_clean = false;
	next->verify_at_ms = 0;
	next->verify_checked = 0;
	memcpy(next->sides, p->sides, sizeof(next->sides));
	bool ok = phases_commit(p, next, text, sizeof(text));
	free(next);
	if (!ok) {
		phases_answer(&p->start.answer, ANSWER_REFUSED, "the phase could not be recorded: %s; nothing was begun", text);
		return;
	}
	p->walk_due = f.target_may_hold_keys;
	p->start.deadline = now + START_LIMIT_MS;
	start_set_state(p, START_MIRRORING);
	p->io->mirror(p->ctx, true);
}

static void mirror_undo(struct phases *p, enum answer_code code, const char *why)
{
	struct state_record *next = malloc(sizeof(*next));
	char err[512];

	start_set_state(p, START_IDLE);
	p->io->mirror(p->ctx, false);
	*next = p->rec;
	next->phase = PHASE_PROXY;
	next->migration[0] = '\0';
	if (!phases_commit(p, next, err, sizeof(err)))
		log_warning("the phase stays mirror in the record until it can be written; nothing is mirrored");
	/* In memory it is so at once: a restart that finds the older record only mirrors anew. */
	p->rec.phase = PHASE_PROXY;
	p->rec.migration[0] = '\0';
	free(next);
	phases_answer(&p->start.answer, code, "mirroring could not be turned on: %s; it was undone", why);
}

static void mirror_done(struct phases *p)
{
	struct state_record *next = malloc(sizeof(*next));
	char err[512];

	*next = p->rec;
	next->phase = PHASE_BACKFILL;
	bool ok = phases_commit(p, next, err, sizeof(err));
	free(next);
	if (!ok) {
		mirror_undo(p, ANSWER_REFUSED, err);
		return;
	}
	start_set_state(p, START_IDLE);
	p->io->backfill(p->ctx, BACKFILL_START, NULL, p->rec.migration);
	phases_answer(&p->start.answer, ANSWER_OK, "mirroring is on, the backfill has begun");
}

void phases_mirror_ready(struct phases *p, unsigned worker, bool ok, const char *why, int64_t now)
{
	if (p->start.state != START_MIRRORING || worker >= p->workers)
		return;
	if (!ok && p->start.answer.fn) {
		mirror_undo(p, ANSWER_REFUSED, why ? why : "unknown reason");
		return;
	}
	if (!ok) { /* after a restart: the target may come back */
		log_limited(LOG_WARNING, "mirroring is not on yet: %s; trying again", why ? why : "unknown reason");
		p->start.deadline = now + 1000;
		return;
	}
	if (!p->start.ready[worker]) {
		p->start.ready[worker] = true;
		p->start.nready++;
	}
	if (p->start.nready == p->workers)
		mirror_done(p);
}

static void start_tick(struct phases *p, int64_t now)
{
	if (p->start.state == START_IDLE || now < p->start.deadline)
		return;
	if (p->start.state == START_LOOKING) {
		start_set_state(p, START_IDLE);
		phases_answer(&p->start.answer, ANSWER_UNREACHABLE, "no side answered within %d s", START_LIMIT_MS / 1000);
	} else if (p->start.answer.fn) {
		mirror_undo(p, ANSWER_TIMEDOUT, "not every worker was ready in time");
	} else {
		p->start.deadline = now + START_LIMIT_MS;
		start_set_state(p, START_MIRRORING);
		p->io->mirror(p->ctx, true);
	}
}

/* ---- the shorter orders ---- */

static void pause_order(struct phases *p, const struct order_args *args, struct answer answer, int64_t now)
{
	(void)now;
	p->io->backfill(p->ctx, BACKFILL_PAUSE, args, p->rec.migration);
	phases_answer(&answer, ANSWER_OK, "the backfill is paused; mirroring goes on");
}

static void resume_order(struct phases *p, const struct order_args *args, struct answer answer, int64_t now)
{
	(void)now;
	p->io->backfill(p->ctx, BACKFILL_RESUME, args, p->rec.migration);
	phases_answer(&answer, ANSWER_OK, "the backfill goes on");
}

static void throttle_order(struct phases *p, const struct order_args *args, struct answer answer, int64_t now)
{
	(void)now;
	p->io->backfill(p->ctx, BACKFILL_THROTTLE, args, p->rec.migration);
	phases_answer(&answer, ANSWER_OK, "the limits are set until crossfade ends; the configuration holds those of the next start");
}

static void check_order(struct phases *p, const struct order_args *args, struct answer answer, int64_t now)
{
	(void)now;
	if (p->rec.backfill_done)
		verify_order(p, args, answer);
	else
		phases_answer(&answer, ANSWER_REFUSED, "the backfill is not complete, what is not copied yet would count as missing: wait for it");
}

static void cutover_order(struct phases *p, const struct order_args *args, struct answer answer, int64_t now)
{
	flip_order(p, SIDE_TARGET, args, answer, now);
}

static void rollback_order(struct phases *p, const struct order_args *args, struct answer answer, int64_t now)
{
	flip_order(p, SIDE_SOURCE, args, answer, now);
}

/* The record comes first: killed in between, the next start does what it says. */
static void finish_order(struct phases *p, const struct order_args *args, struct answer answer, int64_t now)
{
	struct state_record *next = malloc(sizeof(*next));
	char err[512];
	unsigned left = slots_on(&p->rec, SIDE_SOURCE);

	(void)args;
	(void)now;
	*next = p->rec;
	next->phase = PHASE_FINISHED;
	if (left > 0) {
		phases_answer(&answer, ANSWER_REFUSED, "%u slots are still on the source: cut them over first", left);
	} else if (!phases_commit(p, next, err, sizeof(err))) {
		phases_answer(&answer, ANSWER_REFUSED, "the phase could not be recorded: %s; try again", err);
	} else {
		verify_end(p);
		p->io->backfill(p->ctx, BACKFILL_STOP, NULL, p->rec.migration);
		p->io->finish(p->ctx, SIDE_TARGET);
		phases_answer(&answer, ANSWER_OK, "finished: the target serves alone, the source gets nothing any more");
	}
	free(next);
}

static void abort_order(struct phases *p, const struct order_args *args, struct answer answer, int64_t now)
{
	struct state_record *next = malloc(sizeof(*next));
	char err[512];

	(void)args;
	(void)now;
	assert(slots_on(&p->rec, SIDE_TARGET) == 0);
	*next = p->rec;
	next->phase = PHASE_PROXY;
	strcpy(next->given_up, next->migration);
	next->migration[0] = '\0';
	next->backfill_done = next->verify_clean = false;
	next->verify_at_ms = 0;
	if (!phases_commit(p, next, err, sizeof(err))) {
		phases_answer(&answer, ANSWER_REFUSED, "the phase could not be recorded: %s; try again", err);
	} else {
		start_set_state(p, START_IDLE);
		verify_end(p);
		p->io->backfill(p->ctx, BACKFILL_STOP, NULL, next->migration);
		p->io->mirror(p->ctx, false);
		phases_answer(&answer, ANSWER_OK, "aborted: the source serves alone; what was copied is still on the target");
	}
	free(next);
}

/* ---- (phase, order) ---- */

struct rule {
	void (*run)(struct phases *p, const struct order_args *args, struct answer answer, int64_t now);
	const char *refusal; /* if run is NULL */
};

#define NOT_STARTED "no migration is under way: proxyctl start begins one"
#define STARTED "a migration is under way already: proxyctl status shows it"
#define STARTING "mirroring is being turned on: wait a moment"
#define COMPLETE "the backfill is complete: there is nothing to pause or resume"
#define NOTHING_BACK "no slot is on the target: there is nothing to roll back"
#define OVER "the migration is finished"
#define NOT_CUT "not every slot is on the target: proxyctl cutover comes first"

static const struct rule rules[PHASES][ORDERS] = {
	[PHASE_PROXY] = {
		[ORDER_START] = { start_order, NULL },     [ORDER_PAUSE] = { NULL, NOT_STARTED },
		[ORDER_RESUME] = { NULL, NOT_STARTED },    [ORDER_THROTTLE] = { throttle_order, NULL },
		[ORDER_VERIFY] = { NULL, NOT_STARTED },    [ORDER_CUTOVER] = { NULL, NOT_STARTED },
		[ORDER_ROLLBACK] = { NULL, NOT_STARTED },  [ORDER_FINISH] = { NULL, NOT_STARTED },
		[ORDER_ABORT] = { NULL, NOT_STARTED },
	},
	[PHASE_MIRROR] = {
		[ORDER_START] = { NULL, STARTED },         [ORDER_PAUSE] = { NULL, STARTING },
		[ORDER_RESUME] = { NULL, STARTING },       [ORDER_THROTTLE] = { throttle_order, NULL },
		[ORDER_VERIFY] = { NULL, STARTING },       [ORDER_CUTOVER] = { NULL, STARTING },
		[ORDER_ROLLBACK] = { NULL, NOTHING_BACK }, [ORDER_FINISH] = { NULL, NOT_CUT },
		[ORDER_ABORT] = { abort_order, NULL },
	},
	[PHASE_BACKFILL] = {
		[ORDER_START] = { NULL, STARTED },         [ORDER_PAUSE] = { pause_order, NULL },
		[ORDER_RESUME] = { resume_order, NULL },   [ORDER_THROTTLE] = { throttle_order, NULL },
		[ORDER_VERIFY] = { check_order, NULL },    [ORDER_CUTOVER] = { cutover_order, NULL },
		[ORDER_ROLLBACK] = { NULL, NOTHING_BACK }, [ORDER_FINISH] = { NULL, NOT_CUT },
		[ORDER_ABORT] = { abort_order, NULL },
	},
	[PHASE_SYNCED] = {
		[ORDER_START] = { NULL, STARTED },         [ORDER_PAUSE] = { NULL, COMPLETE },
		[ORDER_RESUME] = { NULL, COMPLETE },       [ORDER_THROTTLE] = { throttle_order, NULL },
		[ORDER_VERIFY] = { check_order, NULL },    [ORDER_CUTOVER] = { cutover_order, NULL },
		[ORDER_ROLLBACK] = { NULL, NOTHING_BACK }, [ORDER_FINISH] = { NULL, NOT_CUT },
		[ORDER_ABORT] = { abort_order, NULL },
	},
	[PHASE_CUTOVER] = {
		[ORDER_START] = { NULL, STARTED },         [ORDER_PAUSE] = { NULL, COMPLETE },
		[ORDER_RESUME] = { NULL, COMPLETE },       [ORDER_THROTTLE] = { throttle_order, NULL },
		[ORDER_VERIFY] = { check_order, NULL },    [ORDER_CUTOVER] = { cutover_order, NULL },
		[ORDER_ROLLBACK] = { rollback_order, NULL }, [ORDER_FINISH] = { finish_order, NULL },
		[ORDER_ABORT] = { NULL, "slots are on the target, which has newer data: proxyctl rollback comes first" },
	},
	[PHASE_FINISHED] = {
		[ORDER_START] = { NULL, OVER },    [ORDER_PAUSE] = { NULL, OVER },  [ORDER_RESUME] = { NULL, OVER },
		[ORDER_THROTTLE] = { NULL, OVER }, [ORDER_VERIFY] = { NULL, OVER }, [ORDER_CUTOVER] = { NULL, OVER },
		[ORDER_ROLLBACK] = { NULL, "the migration is finished: the source gets nothing any more and is out of date" },
		[ORDER_FINISH] = { NULL, OVER },   [ORDER_ABORT] = { NULL, OVER },
	},
};

/* Orders that change the phase exclude each other; the others may come at any time. */
static bool excluded(const struct phases *p, enum order order)
{
	if (order == ORDER_ABORT)
		return p->flip.state != FLIP_IDLE || p->start.state == START_LOOKING;
	if (order == ORDER_START || order == ORDER_CUTOVER || order == ORDER_ROLLBACK || order == ORDER_FINISH)
		return phases_flipping(p) || p->start.state != START_IDLE;
	return false;
}

void phases_order(struct phases *p, enum order order, const struct order_args *args, struct answer answer, int64_t now)
{
	const struct rule *rule = &rules[p->rec.phase][order];

	assert(answer.fn);
	if (!rule->run)
		phases_answer(&answer, ANSWER_REFUSED, "%s", rule->refusal);
	else if (excluded(p, order))
		phases_answer(&answer, ANSWER_REFUSED, "crossfade is %s: wait for it", phases_activity(p));
	else
		rule->run(p, args, answer, now);
}

/* ---- what happens by itself ---- */

static void backfill_tick(struct phases *p, const struct phase_facts *f)
{
	struct state_record *next;
	char err[512];
	bool clean = gates_settled(f);

	if (p->rec.phase != PHASE_BACKFILL || f->backfill != BF_DONE || p->rewrite || (p->rec.backfill_done && !clean))
		return;
	if (p->walk_awaited)
		return;
	if (p->walk_due) {
		p->walk_due = false;
		p->walk_awaited = p->workers;
		p->io->walk(p->ctx);
		return;
	}
	next = malloc(sizeof(*next));
	*next = p->rec;
	next->backfill_done = true;
	if (clean)
		next->phase = PHASE_SYNCED;
	phases_commit(p, next, err, sizeof(err)); /* a failure is tried again at the next tick */
	free(next);
}

void phases_tick(struct phases *p, int64_t now)
{
	struct phase_facts f;

	p->io->facts(p->ctx, &f);
	start_tick(p, now);
	flip_tick(p, &f, now);
	if (phases_fencing(p))
		return;
	rewrite_tick(p, now);
	backfill_tick(p, &f);
	verify_tick(p, &f);
}

bool phases_urgent(const struct phases *p)
{
	return phases_flipping(p) || p->start.state != START_IDLE;
}

void phases_begin(struct phases *p, const char *why_void, bool unwatched, int64_t now)
{
	struct phase_facts f;

	p->io->facts(p->ctx, &f);
	if (why_void && p->rec.phase != PHASE_PROXY)
		phases_verify_void(p, why_void);
	p->walk_due = (unwatched || f.target_may_hold_keys) && p->rec.phase == PHASE_BACKFILL && !p->rec.backfill_done;
	switch (p->rec.phase) {
	case PHASE_PROXY:
	case PHASE_FINISHED:
		break;
	case PHASE_MIRROR:
		p->start.deadline = now + START_LIMIT_MS;
		start_set_state(p, START_MIRRORING);
		p->io->mirror(p->ctx, true);
		break;
	case PHASE_CUTOVER: /* everything was copied before; what differs since is dirty, and repaired without a scan */
		p->io->backfill(p->ctx, BACKFILL_ADOPT, NULL, p->rec.migration);
		break;
	case PHASE_BACKFILL:
	case PHASE_SYNCED:
		p->io->backfill(p->ctx, BACKFILL_START, NULL, p->rec.migration);
		break;
	}
}

void phases_walking(struct phases *p)
{
	assert(p->walk_awaited > 0);
	p->walk_awaited--;
}

const char *phases_verify_due(const struct phases *p)
{
	return p->rec.verify_clean ? "" : p->void_why;
}

void phases_verify_void(struct phases *p, const char *why)
{
	char err[512];

	p->voids++;
	snprintf(p->void_why, sizeof(p->void_why), "%s", why);
	if (!p->rec.verify_clean)
		return;
	log_notice("the last verify is no longer valid: %s", why);
	p->rec.verify_clean = false; /* in memory at once; while requests are held the record waits */
	p->flip.next.verify_clean = false;
	if (phases_fencing(p))
		p->rewrite = true;
	else
		phases_commit(p, &p->rec, err, sizeof(err));
}

void phases_identify(struct phases *p, enum side side, const struct state_side *who)
{
	char err[512];

	if (memcmp(&p->sides[side], who, sizeof(*who)) == 0)
		return;
	p->sides[side] = *who;
	if (p->rec.phase == PHASE_PROXY || memcmp(&p->rec.sides[side], who, sizeof(*who)) == 0)
		return;
	p->rec.sides[side] = *who;
	p->flip.next.sides[side] = *who;
	if (phases_fencing(p))
		p->rewrite = true;
	else
		phases_commit(p, &p->rec, err, sizeof(err));
}

struct phases *phases_new(const struct phase_io *io, void *ctx, unsigned workers, const struct state_record *record)
{
	struct phases *p = calloc(1, sizeof(*p));

	p->io = io;
	p->ctx = ctx;
	p->workers = workers;
	p->rec = *record;
	p->durable_epoch = record->epoch;
	memcpy(p->sides, record->sides, sizeof(p->sides));
	p->start.ready = calloc(workers, sizeof(bool));
	p->flip.acked = calloc(workers, sizeof(bool));
	return p;
}

void phases_end(struct phases *p)
{
	flip_end(p);
	verify_end(p);
	phases_answer(&p->start.answer, ANSWER_REFUSED, "crossfade is ending; the next start goes on with it");
	start_set_state(p, START_IDLE);
}

void phases_free(struct phases *p)
{
	if (!p)
		return;
	phases_end(p);
	free(p->start.ready);
	free(p->flip.acked);
	free(p);
}

const struct state_record *phases_record(const struct phases *p)
{
	return &p->rec;
}

uint64_t phases_durable_epoch(const struct phases *p)
{
	return p->durable_epoch;
}

const struct last_flip *phases_last_flip(const struct phases *p)
{
	return &p->last_flip;
}

bool phases_verifying(const struct phases *p)
{
	return p->verify.running;
}

bool phases_flipping(const struct phases *p)
{
	return p->flip.state != FLIP_IDLE;
}

bool phases_fencing(const struct phases *p)
{
	return p->flip.state == FLIP_FENCING || p->flip.state == FLIP_SETTLING || p->flip.state == FLIP_RECORDING;
}

const char *phases_activity(const struct phases *p)
{
	if (p->start.state != START_IDLE)
		return "starting";
	if (p->flip.state == FLIP_WAITING || p->flip.state == FLIP_WATCHING)
		return "waiting to flip";
	return phases_flipping(p) ? "flipping" : "";
}
