/* What must hold before slots change authority. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backfill/fault.h"
#include "proxy/advice.h"
#include "proxy/phases_internal.h"

#define DIRTY_YOUNG_MAX 1000
#define DIRTY_YOUNG_MS 250

typedef unsigned long long ull;

static void say(struct gate *g, const char *name, bool ok) { *g = (struct gate){ .name = name, .ok = ok }; }

static void gate_reachable(const struct phase_facts *f, struct gate *g)
{
	say(g, "reachable", f->up[SIDE_SOURCE] && f->up[SIDE_TARGET]);
	g->unreachable = true;
	enum side down = f->up[SIDE_SOURCE] ? SIDE_TARGET : SIDE_SOURCE;
	if (g->ok)
		snprintf(g->text, sizeof(g->text), "every primary of both sides answers");
	else
		snprintf(g->text, sizeof(g->text), "the %s does not answer as a whole: %s; %s", side_name(down), f->down[down],
			 advice_unreachable(down, f->down[down]));
}

static void gate_slots(const struct phase_facts *f, enum side to, struct gate *g)
{
	say(g, "slots", f->covered[to]);
	snprintf(g->text, sizeof(g->text), g->ok ? "every slot has a node on the %s" : "not every slot has a node on the %s: repair that cluster first",
		 side_name(to));
}

static void gate_partial(const struct phase_facts *f, bool partial, struct gate *g)
{
	bool clusters = f->cluster[SIDE_SOURCE] && f->cluster[SIDE_TARGET];

	say(g, "partial", !partial || (clusters && (!f->strays || fault("race-13-scripts"))));
	snprintf(g->text, sizeof(g->text), "%s", !partial ? "all slots at once"
					: g->ok ? "both sides are clusters, a part of the slots may flip"
					: clusters ? "scripts were seen to write keys of other slots that they do not declare (or somebody wrote past the proxy at that moment): flip all at once"
						: "a part of the slots can flip only if both sides are clusters: flip all at once");
}

static void gate_backfill(const struct phases *p, struct gate *g)
{
	say(g, "backfill", p->rec.backfill_done);
	snprintf(g->text, sizeof(g->text), "%s",
		 g->ok ? "the backfill is complete"
		       : "the backfill is not complete, keys would be missing: wait for it (force does not skip this)");
}

/* Keys that expire all the time are dirty for a moment each, so that hardly ever none is. What has been settled so far tells that these will be, too; the fence settles
 * what is dirty when it is raised, whatever this says. */
bool gates_settled(const struct phase_facts *f)
{
	return f->dirty_slots == 0 && (f->dirty_keys == 0 || (f->dirty_keys <= DIRTY_YOUNG_MAX && f->dirty_age_ms <= DIRTY_YOUNG_MS));
}

static void gate_dirty(const struct phase_facts *f, struct gate *g)
{
	say(g, "dirty", gates_settled(f));
	g->waits = g->skippable = true;
	if (g->ok && f->dirty_keys)
		snprintf(g->text, sizeof(g->text), "%llu keys are dirty, none for longer than %d ms: keys that expire", (ull)f->dirty_keys, DIRTY_YOUNG_MS);
	else if (g->ok)
		snprintf(g->text, sizeof(g->text), "nothing is dirty");
	else
		snprintf(g->text, sizeof(g->text), "%llu keys and %llu slots are dirty: wait, or look for writers that bypass the proxy",
			 (ull)f->dirty_keys, (ull)f->dirty_slots);
}

static void gate_lag(const struct phase_facts *f, struct gate *g)
{
	say(g, "lag", f->lag_ms <= f->max_lag_ms);
	g->waits = g->skippable = true;
	snprintf(g->text, sizeof(g->text), g->ok ? "the mirror is %lld ms behind, %d ms are allowed"
						 : "the mirror is %lld ms behind, %d ms are allowed: wait, or give the follower more room",
		 (long long)f->lag_ms, f->max_lag_ms);
}

static void gate_verify(const struct phases *p, enum side to, struct gate *g)
{
	bool needed = to == SIDE_TARGET; /* the way back needs none */

	say(g, "verify", !needed || (p->rec.verify_clean && !p->verify.running));
	g->skippable = true;
	const char *text = !needed ? "a rollback needs no verify"
			 : g->ok ? "the last verify was clean and is still valid"
			 : p->verify.running ? "a verify is running: wait for it"
			 : p->rec.verify_at_ms == 0 ? "nothing has been verified: proxyctl verify"
					       : "the last verify found differences or is no longer valid: proxyctl verify again";
	snprintf(g->text, sizeof(g->text), "%s", text);
}

/* For the way back nothing is asked: it must stay open. */
static void gate_preflight(const struct phase_facts *f, enum side to, struct gate *g)
{
	say(g, "preflight", to == SIDE_SOURCE || f->check_errors == 0);
	g->skippable = true;
	if (to == SIDE_SOURCE)
		snprintf(g->text, sizeof(g->text), "a rollback needs no check");
	else if (g->ok)
		snprintf(g->text, sizeof(g->text), "%s", f->checked ? "proxyctl check finds no error" : "no check was made: force does not wait for one");
	else
		snprintf(g->text, sizeof(g->text), "proxyctl check finds %u errors; the first: %s", f->check_errors, f->check_error);
}

unsigned gates_check(const struct phases *p, const struct phase_facts *f, enum side to, bool partial, struct gate *gates)
{
	gate_reachable(f, &gates[0]);
	gate_slots(f, to, &gates[1]);
	gate_partial(f, partial, &gates[2]);
	gate_backfill(p, &gates[3]);
	gate_preflight(f, to, &gates[4]);
	gate_verify(p, to, &gates[5]);
	gate_dirty(f, &gates[6]);
	gate_lag(f, &gates[7]);
	return GATES;
}

char *gates_json(const struct gate *gates, unsigned n)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < n; i++)
		json_array_append_new(list, json_pack("{sssbss}", "gate", gates[i].name, "ok", gates[i].ok, "text", gates[i].text));
	char *text = json_dumps(list, JSON_COMPACT);
	json_decref(list);
	return text;
}
