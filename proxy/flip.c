/* How slots change authority:
 *
 *   order ─► WAITING ─gates hold─► FENCING ─all drained─► SETTLING ─all heard─► record ─durable─► RELEASING ─all flipped─► answer
 *            │  ▲ ▲                  │ deadline, or a         │                   │ unknown
 *            │  │ └── tried again ◄──┴─ worker could not ─────┘                   └─► RECORDING (held until a higher epoch is durable)
 *            ├► MARKING: once in each flip to the target, before it is fenced (marker.h, race 15)
 *            └► WATCHING: each time before it is fenced, so that what others wrote is known (lookout.h)
 *
 * Up to the record every failure undoes; from then on only forward (invariant 7, race 9). */
#include <assert.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backfill/fault.h"
#include "proxy/log.h"
#include "proxy/phases_internal.h"

#define FENCE_ATTEMPTS 10
#define FENCE_RETRY_MS 100
#define RECORD_RETRY_MS 50
#define BUCKET_US 100
#define MARK_LIMIT_MS 5000
#define WATCH_LIMIT_MS 5000

unsigned slots_on(const struct state_record *r, enum side side)
{
	unsigned n = 0;

	for (unsigned i = 0; i < SLOTS; i++)
		n += r->authority[i] == side;
	return n;
}

static void flip_set_state(struct flip *f, enum flip_state state)
{
	f->state = state;
	if (state == FLIP_WATCHING || state == FLIP_FENCING || state == FLIP_SETTLING || state == FLIP_RELEASING)
		f->nacked = 0;
}

static void acked_clear(struct phases *p)
{
	memset(p->flip.acked, 0, p->workers * sizeof(bool));
}

/* Is a worker's word its first one in this state, and about this flip? */
static bool is_awaited(const struct phases *p, enum flip_state state, unsigned worker, uint64_t id)
{
	const struct flip *f = &p->flip;

	return f->state == state && id == f->id && worker < p->workers && !f->acked[worker];
}

/* True: it was the last one. */
static bool count_word(struct phases *p, unsigned worker)
{
	p->flip.acked[worker] = true;
	return ++p->flip.nacked == p->workers;
}

static void flip_refuse(struct phases *p, enum answer_code code, const char *text)
{
	flip_set_state(&p->flip, FLIP_IDLE);
	log_notice("flip to %s: not done: %s", side_name(p->flip.to), text);
	phases_answer(&p->flip.answer, code, "%s", text);
}

/* ---- the order ---- */

/* --percent counts what is on that side already: cutover --percent 10, then 50, then 100. */
static void choose_slots(const struct state_record *r, struct flip *f, const struct order_args *a)
{
	unsigned first = a->by_slots ? a->first : 0, last = a->by_slots ? a->last : SLOTS - 1, limit = SLOTS;

	if (a->by_percent) {
		unsigned want = (a->percent * SLOTS + 99) / 100, have = slots_on(r, f->to);
		limit = want > have ? want - have : 0;
	}
	memset(&f->slots, 0, sizeof(f->slots));
	f->nslots = 0;
	for (unsigned slot = first; slot <= last && f->nslots < limit; slot++)
		if (r->authority[slot] != f->to) {
			slot_set_add(&f->slots, slot);
			f->nslots++;
		}
	f->partial = f->nslots < slots_on(r, SIDE_OTHER(f->to));
}

static void skip_gate(struct flip *f, const struct gate *g)
{
	if (strstr(f->skipped, g->name))
		return;
	log_warning("flip to %s: gate %s skipped by force: %s", side_name(f->to), g->name, g->text);
	size_t n = strlen(f->skipped);
	snprintf(f->skipped + n, sizeof(f->skipped) - n, "%s%s", n ? "," : "", g->name);
}

/* The first gate that stands in the way, NULL if none does. Those that may come right by themselves count only if `waiting`, and force skips
 * them only when the time for that is over. */
static const struct gate *obstacle(struct flip *f, const struct gate *gates, unsigned n, bool waiting, bool over)
{
	for (unsigned i = 0; i < n; i++) {
		if (gates[i].ok || (gates[i].waits && !waiting))
			continue;
		if (!f->force || !gates[i].skippable || (gates[i].waits && !over))
			return &gates[i];
		skip_gate(f, &gates[i]);
	}
	return NULL;
}

void flip_order(struct phases *p, enum side to, const struct order_args *a, struct answer answer, int64_t now)
{
	struct flip *f = &p->flip;
	struct phase_facts facts;
	struct gate gates[GATES];

	assert(f->state == FLIP_IDLE);
	f->to = to;
	f->force = a->force;
	f->skipped[0] = '\0';
	choose_slots(&p->rec, f, a);
	p->io->facts(p->ctx, &facts);
	unsigned n = gates_check(p, &facts, to, f->partial, gates);
	if (a->dry_run) {
		char *json = gates_json(gates, n);
		phases_answer_text(&answer, ANSWER_JSON, json);
		free(json);
		return;
	}
	f->answer = answer;
	if (f->nslots == 0) {
		flip_refuse(p, ANSWER_REFUSED, to == SIDE_TARGET ? "all of these slots are on the target already" : "all of these slots are on the source already");
		return;
	}
	const struct gate *bad = obstacle(f, gates, n, false, false);
	if (bad) {
		flip_refuse(p, bad->unreachable ? ANSWER_UNREACHABLE : ANSWER_REFUSED, bad->text);
		return;
	}
	f->max_pause_ms = a->max_pause_ms ? a->max_pause_ms : (unsigned)facts.max_pause_ms;
	f->wait_until = now + (int64_t)a->wait_s * 1000;
	f->retry_at = now;
	f->attempts = 0;
	f->marked = to == SIDE_SOURCE || fault("race-15-marker");
	f->watched = f->unwatched = false;
	flip_set_state(f, FLIP_WAITING);
	flip_tick(p, &facts, now);
}

/* ---- waiting, watching, fencing ---- */

static void make_next(struct phases *p)
{
	struct flip *f = &p->flip;

	f->next = p->rec;
	f->next.epoch = p->rec.epoch + 1;
	FOR_SLOTS (slot, &f->slots)
		f->next.authority[slot] = (uint8_t)f->to;
	f->next.phase = slots_on(&f->next, SIDE_TARGET) > 0 ? PHASE_CUTOVER : PHASE_SYNCED;
}

static void flip_fence(struct phases *p, int64_t now)
{
	struct flip *f = &p->flip;
	char err[512], text[700];

	make_next(p);
	if (!p->io->prepare(p->ctx, &f->next, err, sizeof(err))) {
		snprintf(text, sizeof(text), "the record could not be prepared: %s; nothing was held", err);
		flip_refuse(p, ANSWER_REFUSED, text);
		return;
	}
	f->id++;
	f->attempts++;
	f->fenced_at = now;
	f->deadline = now + f->max_pause_ms;
	memset(f->histogram, 0, sizeof(f->histogram));
	f->result = (struct last_flip){ .any = true, .to = f->to, .slots = f->nslots };
	acked_clear(p);
	flip_set_state(f, FLIP_FENCING);
	log_notice("flip %llu: fencing %u slots, to %s, at most %u ms", (unsigned long long)f->id, f->nslots, side_name(f->to), f->max_pause_ms);
	p->io->fence(p->ctx, f->id, &f->slots, f->to, f->max_pause_ms);
	crash_point("flip-fencing");
}

static void flip_mark(struct phases *p, int64_t now)
{
	struct flip *f = &p->flip;

	f->id++;
	f->deadline = now + MARK_LIMIT_MS;
	flip_set_state(f, FLIP_MARKING);
	p->io->mark(p->ctx, f->id, p->rec.migration, p->durable_epoch);
}

static void flip_watch(struct phases *p, int64_t now)
{
	struct flip *f = &p->flip;

	f->id++;
	f->deadline = now + WATCH_LIMIT_MS;
	acked_clear(p);
	flip_set_state(f, FLIP_WATCHING);
	p->io->watch(p->ctx, f->id, f->unwatched);
}

/* Nothing is held: it is tried again for as long as the order waits, then refused, or done without. */
static void watch_failed(struct phases *p, const char *why, int64_t now)
{
	struct flip *f = &p->flip;
	struct gate g = { .name = "watched" };

	snprintf(g.text, sizeof(g.text), "what others write past the proxy may be missed: %s", why);
	log_limited(LOG_VERBOSE, "flip to %s: %s", side_name(f->to), g.text);
	if (now < f->wait_until) {
		f->retry_at = now + FENCE_RETRY_MS;
		flip_set_state(f, FLIP_WAITING);
	} else if (f->force && !f->unwatched) {
		skip_gate(f, &g);
		f->unwatched = true;
		flip_watch(p, now);
	} else {
		flip_refuse(p, ANSWER_REFUSED, g.text);
	}
}

static void waiting_tick(struct phases *p, const struct phase_facts *facts, int64_t now)
{
	struct flip *f = &p->flip;
	struct gate gates[GATES];

	if (now < f->retry_at)
		return;
	unsigned n = gates_check(p, facts, f->to, f->partial, gates);
	const struct gate *bad = obstacle(f, gates, n, true, now >= f->wait_until);
	if (bad)
		f->watched = false; /* by the time it has come right that may be no longer so */
	if (!bad && !f->marked)
		flip_mark(p, now);
	else if (!bad && !f->watched)
		flip_watch(p, now);
	else if (!bad)
		flip_fence(p, now);
	else if (!bad->waits || now >= f->wait_until)
		flip_refuse(p, bad->unreachable ? ANSWER_UNREACHABLE : ANSWER_REFUSED, bad->text);
}

void phases_marked(struct phases *p, uint64_t id, enum answer_code outcome, const char *why, int64_t now)
{
	struct flip *f = &p->flip;
	struct phase_facts facts;
	char text[700];

	if (f->state != FLIP_MARKING || id != f->id)
		return;
	if (outcome != ANSWER_OK) {
		snprintf(text, sizeof(text), "the marker could not be put on the target: %s; nothing was held", why);
		flip_refuse(p, outcome, text);
		return;
	}
	crash_point("flip-after-marker");
	f->marked = true;
	flip_set_state(f, FLIP_WAITING);
	p->io->facts(p->ctx, &facts);
	waiting_tick(p, &facts, now); /* the gates once more: it took a while */
}

void phases_watched(struct phases *p, unsigned worker, uint64_t id, bool ok, const char *why, int64_t now)
{
	struct flip *f = &p->flip;
	struct phase_facts facts;

	if (!is_awaited(p, FLIP_WATCHING, worker, id))
		return;
	if (!ok) {
		watch_failed(p, why, now);
		return;
	}
	if (!count_word(p, worker))
		return;
	f->watched = true;
	flip_set_state(f, FLIP_WAITING);
	p->io->facts(p->ctx, &facts);
	waiting_tick(p, &facts, now); /* the gates once more: slots may have been marked */
}

/* The old authority stays. */
static void flip_undo(struct phases *p, const char *why, int64_t now)
{
	struct flip *f = &p->flip;
	char text[700];

	assert(f->state == FLIP_FENCING || f->state == FLIP_SETTLING);
	p->io->unfence(p->ctx, f->id);
	f->watched = false;
	if (now >= f->deadline) {
		snprintf(text, sizeof(text), "not drained within %u ms (%s): undone, the %s answers as before", f->max_pause_ms, why,
			 side_name(SIDE_OTHER(f->to)));
		flip_refuse(p, ANSWER_TIMEDOUT, text);
	} else if (f->attempts < FENCE_ATTEMPTS && now + FENCE_RETRY_MS < f->wait_until) {
		log_notice("flip %llu: undone: %s; trying again", (unsigned long long)f->id, why);
		f->retry_at = now + FENCE_RETRY_MS;
		flip_set_state(f, FLIP_WAITING);
	} else {
		snprintf(text, sizeof(text), "could not be drained: %s: undone, the %s answers as before", why, side_name(SIDE_OTHER(f->to)));
		flip_refuse(p, ANSWER_REFUSED, text);
	}
}

/* ---- the record ---- */

static void flip_release(struct phases *p)
{
	struct flip *f = &p->flip;

	log_notice("flip %llu: %u slots are on the %s now (epoch %llu)", (unsigned long long)f->id, f->nslots, side_name(f->to),
		   (unsigned long long)f->next.epoch);
	if (p->rec.phase != f->next.phase)
		log_notice("phase %s -> %s", phase_names[p->rec.phase], phase_names[f->next.phase]);
	p->rec = f->next;
	p->durable_epoch = f->next.epoch;
	p->rewrite = false;
	acked_clear(p);
	flip_set_state(f, FLIP_RELEASING);
	p->io->flip(p->ctx, f->id);
	crash_point("flip-releasing");
}

static void flip_record(struct phases *p, int64_t now)
{
	struct flip *f = &p->flip;
	bool first = f->state == FLIP_SETTLING;
	char err[512], text[700];

	/* Only a record that is newer than any that may have reached the disk ends an unknown outcome. */
	if (!first)
		f->next.epoch++;
	crash_point("flip-before-record");
	enum state_result r = p->io->write(p->ctx, &f->next, err, sizeof(err));
	if (r == STATE_DURABLE) {
		crash_point("flip-after-record");
		flip_release(p);
	} else if (first && (r == STATE_UNCHANGED || fault("race-9-unknown"))) {
		p->io->unfence(p->ctx, f->id);
		snprintf(text, sizeof(text), "the record could not be written: %s: undone, the %s answers as before", err,
			 side_name(SIDE_OTHER(f->to)));
		flip_refuse(p, ANSWER_REFUSED, text);
	} else {
		if (first)
			log_warning("flip %llu: the outcome of its record is unknown: %s; its slots stay held until a record is durable",
				    (unsigned long long)f->id, err);
		flip_set_state(f, FLIP_RECORDING);
		f->retry_at = now + RECORD_RETRY_MS;
	}
}

/* One worker's word in this state. True: it was the last one, in time. */
static bool all_agree(struct phases *p, enum flip_state state, unsigned worker, uint64_t id, bool ok, const char *why, int64_t now)
{
	if (!is_awaited(p, state, worker, id))
		return false;
	if (!ok) {
		flip_undo(p, why ? why : "unknown reason", now);
		return false;
	}
	if (!count_word(p, worker))
		return false;
	if (now >= p->flip.deadline) {
		flip_undo(p, "the last worker was too late", now);
		return false;
	}
	return true;
}

/* Only when nothing is in flight anywhere is it known what has been published so far. */
void phases_fenced(struct phases *p, unsigned worker, uint64_t id, bool ok, const char *why, int64_t now)
{
	if (!all_agree(p, FLIP_FENCING, worker, id, ok, why, now))
		return;
	acked_clear(p);
	flip_set_state(&p->flip, FLIP_SETTLING);
	p->io->settle(p->ctx, id);
	crash_point("flip-settling");
}

void phases_settled(struct phases *p, unsigned worker, uint64_t id, bool ok, const char *why, int64_t now)
{
	if (!all_agree(p, FLIP_SETTLING, worker, id, ok, why, now))
		return;
	if (p->flip.to == SIDE_TARGET && !p->rec.verify_clean && !p->flip.force)
		flip_undo(p, "the last verify became invalid meanwhile", now);
	else
		flip_record(p, now);
}

/* ---- released ---- */

static int64_t percentile_us(const struct flip *f, int64_t max_us)
{
	uint64_t total = 0, seen = 0;

	for (unsigned i = 0; i < FLIP_BUCKETS; i++)
		total += f->histogram[i];
	for (unsigned i = 0; total && i < FLIP_BUCKETS - 1; i++) {
		seen += f->histogram[i];
		if (seen * 100 >= total * 99) {
			int64_t upper = (int64_t)(i + 1) * BUCKET_US;
			return upper < max_us ? upper : max_us;
		}
	}
	return max_us;
}

static json_t *skipped_json(const char *skipped)
{
	json_t *list = json_array();
	char copy[128], *at = copy, *name;

	snprintf(copy, sizeof(copy), "%s", skipped);
	while ((name = strsep(&at, ",")))
		if (*name)
			json_array_append_new(list, json_string(name));
	return list;
}

static void flip_done(struct phases *p, int64_t now)
{
	struct flip *f = &p->flip;
	struct last_flip *l = &f->result;

	l->fence_us = (now - f->fenced_at) * 1000;
	l->pause_p99_us = percentile_us(f, l->pause_max_us);
	p->last_flip = *l;
	flip_set_state(f, FLIP_IDLE);
	log_notice("flip %llu: released; %llu requests were held, at most %.1f ms (p99 %.1f ms)", (unsigned long long)f->id,
		   (unsigned long long)l->held, (double)l->pause_max_us / 1000, (double)l->pause_p99_us / 1000);
	json_t *o = json_pack("{sssfsfsisIso}", "direction", side_name(l->to), "pause_max_ms", (double)l->pause_max_us / 1000, "pause_p99_ms",
			      (double)l->pause_p99_us / 1000, "slots", (int)l->slots, "held", (json_int_t)l->held, "skipped",
			      skipped_json(f->skipped));
	char *json = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(6));
	json_decref(o);
	phases_answer_text(&f->answer, ANSWER_JSON, json);
	free(json);
}

void phases_flipped(struct phases *p, unsigned worker, uint64_t id, uint64_t held, int64_t pause_max_us, const uint32_t *histogram, int64_t now)
{
	struct flip *f = &p->flip;

	if (!is_awaited(p, FLIP_RELEASING, worker, id))
		return;
	f->result.held += held;
	if (pause_max_us > f->result.pause_max_us)
		f->result.pause_max_us = pause_max_us;
	for (unsigned i = 0; histogram && i < FLIP_BUCKETS; i++)
		f->histogram[i] += histogram[i];
	if (count_word(p, worker)) {
		flip_done(p, now);
		crash_point("flip-done");
	}
}

void flip_tick(struct phases *p, const struct phase_facts *facts, int64_t now)
{
	struct flip *f = &p->flip;

	if (f->state == FLIP_WAITING)
		waiting_tick(p, facts, now);
	else if (f->state == FLIP_WATCHING && now >= f->deadline)
		watch_failed(p, "not every worker has answered", now);
	else if (f->state == FLIP_MARKING && now >= f->deadline)
		flip_refuse(p, ANSWER_TIMEDOUT, "the marker could not be put on the target in time; nothing was held");
	else if (f->state == FLIP_FENCING && now >= f->deadline)
		flip_undo(p, "not every worker was drained", now);
	else if (f->state == FLIP_SETTLING && now >= f->deadline)
		flip_undo(p, "not every subscriber has got what was published", now);
	else if (f->state == FLIP_RECORDING && now >= f->retry_at)
		flip_record(p, now);
}

void flip_end(struct phases *p)
{
	struct flip *f = &p->flip;

	if (f->state == FLIP_FENCING || f->state == FLIP_SETTLING)
		p->io->unfence(p->ctx, f->id);
	if (f->state == FLIP_IDLE)
		return;
	const char *text = f->state == FLIP_RECORDING || f->state == FLIP_RELEASING
				   ? "crossfade is ending in the middle of the flip; the next start goes by the record"
				   : "crossfade is ending; nothing was flipped";
	flip_refuse(p, ANSWER_TIMEDOUT, text);
}
