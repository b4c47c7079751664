/* The seam of the phases, filled with the real fleet, backfill thread, discovery and state directory. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backfill/own_keys.h"
#include "proxy/control_internal.h"
#include "proxy/log.h"

#define GET(counter) atomic_load_explicit(&(counter), memory_order_relaxed)

void control_sums(const struct control *c, struct fleet_sums *sums)
{
	memset(sums, 0, sizeof(*sums));
	for (unsigned i = 0; c->fleet && i < fleet_workers(c->fleet); i++) {
		const struct worker_stats *w = fleet_stats(c->fleet, i);
		int64_t lag = GET(w->lag_us);
		sums->clients += GET(w->clients);
		sums->commands += GET(w->commands);
		sums->effects += GET(w->effects);
		sums->queued += GET(w->queued);
		sums->queued_bytes += GET(w->queued_bytes);
		sums->mismatches += GET(w->mismatches);
		sums->snapshots += GET(w->snapshots);
		sums->foreign += GET(w->foreign);
		sums->strays += GET(w->strays);
		sums->dirty_keys += GET(w->dirty_keys);
		sums->dirty_slots += GET(w->dirty_slots);
		sums->unknown_outcome += GET(w->unknown_outcome);
		int64_t age = GET(w->dirty_age_us);
		sums->dirty_age_us = age > sums->dirty_age_us ? age : sums->dirty_age_us;
		sums->lag_us = lag > sums->lag_us ? lag : sums->lag_us;
	}
	sums->dirty_slots += c->fleet ? fleet_marking(c->fleet) : 0;
}

static void backfill_facts(const struct control *c, struct phase_facts *f)
{
	const struct bf_stats *s = backfill_thread_stats(c->backfill);
	bool behind = backfill_thread_behind(c->backfill);

	/* What was ordered and not begun yet does not show in the stats: neither an end of the last run nor that none runs. */
	f->backfill = behind ? BF_RUNNING : (enum bf_state)GET(s->state);
	f->verifying = behind || GET(s->verifying);
	f->verify_runs = GET(s->verify_runs);
	f->verify_checked = GET(s->checked);
	f->verify_differences = GET(s->missing) + GET(s->type) + GET(s->value) + GET(s->expiry) + GET(s->extra);
	f->verified_at_ms = GET(s->verified_at_ms);
}

static void io_facts(void *ctx, struct phase_facts *f)
{
	struct control *c = ctx;
	struct fleet_sums sums;

	memset(f, 0, sizeof(*f));
	control_sums(c, &sums);
	f->dirty_keys = sums.dirty_keys;
	f->dirty_slots = sums.dirty_slots;
	f->strays = sums.strays;
	f->dirty_age_ms = sums.dirty_age_us / 1000;
	f->queued = sums.queued;
	f->lag_ms = (sums.lag_us + 999) / 1000;
	f->max_lag_ms = CONFIG_NOW(c->config->cutover_max_lag_ms);
	f->max_pause_ms = CONFIG_NOW(c->config->cutover_max_pause_ms);
	f->target_configured = c->config->side[SIDE_TARGET].nnodes > 0;
	f->target_may_hold_keys = c->config->target_may_hold_keys;
	for (int s = 0; s < SIDES; s++) {
		if (!c->discovery[s])
			continue;
		const struct side_facts *facts = discovery_facts(c->discovery[s]);
		f->up[s] = facts->up;
		f->covered[s] = facts->covered;
		f->cluster[s] = facts->cluster;
		f->keys[s] = facts->keys;
		snprintf(f->down[s], sizeof(f->down[s]), "%s", facts->down);
	}
	if (*c->marker.foreign)
		snprintf(f->foreign, sizeof(f->foreign), "%s: two migrations to one target spoil it; if that one is over, remove its key " MARKER_KEY " there", c->marker.foreign);
	else if (!c->marker.known)
		snprintf(f->foreign, sizeof(f->foreign), "the key " MARKER_KEY " of the target could not be read: %s", c->marker.why);
	f->checked = c->checkup.made;
	f->check_errors = c->checkup.errors;
	snprintf(f->check_error, sizeof(f->check_error), "%s", c->checkup.first_error);
	if (c->backfill)
		backfill_facts(c, f);
}

static void io_look(void *ctx)
{
	struct control *c = ctx;

	c->looking = c->discovery[SIDE_TARGET] ? LOOKING_MARKER : 0;
	for (int s = 0; s < SIDES; s++)
		if (c->discovery[s]) {
			c->looking |= 1u << s;
			discovery_refresh(c->discovery[s]);
		}
}

static void io_mark(void *ctx, uint64_t flip, const char *migration, uint64_t epoch)
{
	control_marker_put(ctx, flip, migration, epoch);
}

static void io_watch(void *ctx, uint64_t flip, bool force)
{
	fleet_watch(((struct control *)ctx)->fleet, flip, force);
}

static bool io_prepare(void *ctx, const struct state_record *r, char *err, size_t errlen)
{
	return state_prepare(((struct control *)ctx)->state, r, err, errlen);
}

static enum state_result io_write(void *ctx, const struct state_record *r, char *err, size_t errlen)
{
	return state_write(((struct control *)ctx)->state, r, err, errlen);
}

static void io_mirror(void *ctx, bool on)
{
	fleet_mirror(((struct control *)ctx)->fleet, on);
}

static void io_walk(void *ctx)
{
	fleet_walk(((struct control *)ctx)->fleet);
}

static void io_fence(void *ctx, uint64_t flip, const struct slot_set *slots, enum side to, unsigned max_pause_ms)
{
	fleet_fence(((struct control *)ctx)->fleet, flip, slots, to, max_pause_ms);
}

static void io_settle(void *ctx, uint64_t flip)
{
	fleet_settle(((struct control *)ctx)->fleet, flip);
}

static void io_flip(void *ctx, uint64_t flip)
{
	fleet_flip(((struct control *)ctx)->fleet, flip);
}

static void io_unfence(void *ctx, uint64_t flip)
{
	fleet_unfence(((struct control *)ctx)->fleet, flip);
}

static void io_finish(void *ctx, enum side authority)
{
	struct control *c = ctx;
	enum side gone = SIDE_OTHER(authority);

	fleet_finish(c->fleet, authority);
	discovery_free(c->discovery[gone]);
	c->discovery[gone] = NULL;
}

static void merge_throttle(struct control *c, struct order_args *a)
{
	if (a->keys_per_s >= 0)
		c->throttle.keys_per_s = a->keys_per_s;
	if (a->bytes_per_s >= 0)
		c->throttle.bytes_per_s = a->bytes_per_s;
	if (a->adaptive >= 0)
		c->throttle.adaptive = a->adaptive != 0;
	a->keys_per_s = c->throttle.keys_per_s;
	a->bytes_per_s = c->throttle.bytes_per_s;
	a->adaptive = c->throttle.adaptive;
	log_notice("backfill: %lld keys/s, %lld bytes/s (0: no limit), adaptive %s", (long long)a->keys_per_s, (long long)a->bytes_per_s,
		   a->adaptive ? "yes" : "no");
}

static void io_backfill(void *ctx, enum backfill_order what, const struct order_args *args, const char *migration)
{
	struct control *c = ctx;
	struct order_args copy = { 0 };

	if (args)
		copy = *args;
	if (what == BACKFILL_THROTTLE)
		merge_throttle(c, &copy);
	if (c->backfill)
		backfill_thread_order(c->backfill, what, &copy, migration);
}

char *control_verify_json(const struct control *c)
{
	const struct state_record *r = c->phases ? phases_record(c->phases) : &c->record;
	json_t *o = json_object();
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	if (c->backfill && GET(backfill_thread_stats(c->backfill)->verify_runs) > 0) {
		const struct bf_stats *s = backfill_thread_stats(c->backfill);
		const struct { const char *name; uint64_t n; } counts[] = {
			{ "checked", GET(s->checked) }, { "missing", GET(s->missing) }, { "type", GET(s->type) }, { "value", GET(s->value) },
			{ "expiry", GET(s->expiry) }, { "extra", GET(s->extra) }, { "repaired", GET(s->repaired) },
		};
		for (unsigned i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
			json_object_set_new(o, counts[i].name, json_integer((json_int_t)counts[i].n));
	} else { /* before the last restart: only clean outcomes are kept */
		static const char *const names[] = { "missing", "type", "value", "expiry", "extra", "repaired" };
		json_object_set_new(o, "checked", json_integer((json_int_t)r->verify_checked));
		for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
			json_object_set_new(o, names[i], json_integer(0));
	}
	json_object_set_new(o, "age_s", json_integer((ts.tv_sec * 1000 + ts.tv_nsec / 1000000 - r->verify_at_ms) / 1000));
	json_object_set_new(o, "valid", json_boolean(r->verify_clean));
	char *text = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	return text;
}

static char *io_verify_json(void *ctx)
{
	return control_verify_json(ctx);
}

const struct phase_io control_phase_io = {
	.facts = io_facts,
	.look = io_look,
	.mark = io_mark,
	.watch = io_watch,
	.prepare = io_prepare,
	.write = io_write,
	.mirror = io_mirror,
	.walk = io_walk,
	.fence = io_fence,
	.settle = io_settle,
	.flip = io_flip,
	.unfence = io_unfence,
	.finish = io_finish,
	.backfill = io_backfill,
	.verify_json = io_verify_json,
};
