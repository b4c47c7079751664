/* The marker on the target (marker.h): asked for before anything is served, kept there while slots are on the target, removed when the migration is over.
 *
 * Start, with `known` meaning that the target said what is there:
 *
 *   record   known: allowed          serve
 *            known: contradicted     end (65), or --assume-authority
 *            not known in 5 s        serve by the record: a target that is away must not keep clients from a source in charge
 *   none     known: no marker        serve, phase proxy
 *            known: there            end (65), or --assume-authority
 *            not known               end (69), or --assume-authority source: the target might have the newer data
 *
 * While it serves, a marker that contradicts the record is told (log, status) and bars start and cutover; clients are served on. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/control_internal.h"
#include "proxy/log.h"

#define WHAT_TO_DO \
	"find out which side has the newer data (its clients, its keys, the log of the last run), restore the state directory if there is a copy of it, or start with " \
	"--assume-authority target or --assume-authority source"

/* ---- the start ---- */

static bool assume(struct control *c, const struct marker *m)
{
	enum side side = (enum side)c->assume;
	char err[512];

	marker_assume(side, m, &c->record);
	if (state_write(c->state, &c->record, err, sizeof(err)) != STATE_DURABLE) {
		log_warning("phase record: %s", err);
		control_end_with(c, STATE_EXIT_LOCKED);
		return false;
	}
	c->has_record = c->assumed = true;
	log_warning("the %s is taken to be the authority, as --assume-authority says: phase %s (epoch %llu)", side_name(side), phase_names[c->record.phase],
		    (unsigned long long)c->record.epoch);
	return true;
}

/* What the target said, or that it says nothing (known is false). */
static void settle(struct control *c, bool known, const struct marker *m)
{
	const struct state_record *r = c->has_record ? &c->record : NULL;
	bool allowed = marker_allows(r, m, c->marker.foreign, sizeof(c->marker.foreign));

	c->marker.known = known;
	c->marker.seen = *m;
	if (!allowed && c->assume < 0) {
		log_warning("not serving: %s: %s", c->marker.foreign, WHAT_TO_DO);
		control_end_with(c, STATE_EXIT_CORRUPT);
		return;
	}
	if (c->assume >= 0 && (!r || !allowed)) {
		if (!assume(c, m))
			return;
		c->marker.foreign[0] = '\0';
	} else if (c->assume >= 0) {
		log_notice("--assume-authority is not needed: the phase record in %s goes before it", c->config->state_dir);
	}
	c->marker.settled = true;
	control_try_serve(c);
}

static void on_first_look(void *arg, const struct marker *m, const char *why)
{
	struct control *c = arg;

	if (c->run != CONTROL_SEEKING || c->marker.settled)
		return;
	if (m)
		settle(c, true, m);
	else
		snprintf(c->marker.why, sizeof(c->marker.why), "%s", why); /* the next refresh asks again */
}

bool control_marker_unknown(struct control *c)
{
	static const struct marker none;

	if (c->marker.settled)
		return true;
	if (!c->has_record && c->assume != SIDE_SOURCE)
		return false;
	settle(c, false, &none);
	return c->run != CONTROL_ENDING;
}

static void start_pulse(struct control *c)
{
	if (discovery_topology(c->discovery[SIDE_TARGET]))
		marker_io_look(c->marker.io, on_first_look, c);
	else
		control_marker_unknown(c);
}

void control_marker_begin(struct control *c)
{
	c->marker.settled = !c->discovery[SIDE_TARGET];
	if (c->discovery[SIDE_TARGET])
		c->marker.io = marker_io_new(c->loop, c->config);
}

/* ---- while it serves ---- */

static void on_told(void *arg, const struct marker *m, const char *why)
{
	struct control *c = arg;

	c->marker.known = m != NULL;
	snprintf(c->marker.why, sizeof(c->marker.why), "%s", why);
	if (!m || c->run != CONTROL_SERVING)
		return;
	const struct state_record *r = phases_record(c->phases);
	c->marker.seen = *m;
	if (!marker_allows(r, m, c->marker.foreign, sizeof(c->marker.foreign)))
		log_limited(LOG_WARNING, "the target's marker is not ours: %s: %s", c->marker.foreign, WHAT_TO_DO);
	if (marker_is_over(r, m))
		marker_io_remove(c->marker.io, on_told, c);
}

void control_marker_pulse(struct control *c)
{
	if (!c->marker.io)
		return;
	if (c->run == CONTROL_SEEKING && !c->marker.settled)
		start_pulse(c);
	if (c->run != CONTROL_SERVING || phases_fencing(c->phases))
		return;
	const struct state_record *r = phases_record(c->phases);
	if (r->phase == PHASE_CUTOVER)
		marker_io_put(c->marker.io, r->migration, phases_durable_epoch(c->phases), on_told, c);
	else
		marker_io_look(c->marker.io, on_told, c);
}

static void on_looked(void *arg, const struct marker *m, const char *why)
{
	struct control *c = arg;

	on_told(c, m, why);
	control_looked(c, LOOKING_MARKER);
}

void control_marker_look(struct control *c)
{
	if (c->marker.io)
		marker_io_look(c->marker.io, on_looked, c);
	else
		control_looked(c, LOOKING_MARKER);
}

/* ---- a flip ---- */

struct marking {
	struct control *c;
	uint64_t flip;
};

static void on_put(void *arg, const struct marker *m, const char *why)
{
	struct marking k = *(struct marking *)arg;
	struct control *c = k.c;

	free(arg);
	on_told(c, m, why);
	if (c->run != CONTROL_SERVING)
		return;
	enum answer_code outcome = !m ? ANSWER_UNREACHABLE : *c->marker.foreign ? ANSWER_REFUSED : ANSWER_OK;
	phases_marked(c->phases, k.flip, outcome, !m ? why : c->marker.foreign, control_now(c));
	control_pace(c);
}

void control_marker_put(struct control *c, uint64_t flip, const char *migration, uint64_t epoch)
{
	struct marking *k = malloc(sizeof(*k));

	if (!k)
		abort();
	*k = (struct marking){ c, flip };
	marker_io_put(c->marker.io, migration, epoch, on_put, k);
}
