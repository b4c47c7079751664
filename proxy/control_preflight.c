/* `proxyctl check`, and the check that precedes every cutover: one at a time, on behalf of all who wait for it. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/control_internal.h"
#include "proxy/log.h"

#define LIMIT_S 8.0
#define GET(counter) atomic_load_explicit(&(counter), memory_order_relaxed)

static void answer_waiter(struct control *c, struct check_waiter *w, const struct preflight_result *r)
{
	if (!r || c->run != CONTROL_SERVING) {
		w->answer.fn(w->answer.arg, ANSWER_REFUSED, "crossfade is ending");
	} else if (w->cutover) {
		phases_order(c->phases, ORDER_CUTOVER, &w->args, w->answer, control_now(c));
		control_pace(c);
	} else {
		w->answer.fn(w->answer.arg, ANSWER_JSON, r->json);
	}
}

static void on_result(void *arg, const struct preflight_result *r)
{
	struct control *c = arg;
	struct checkup *k = &c->checkup;
	struct check_waiter waiters[CHECK_WAITERS];
	unsigned n = k->nwaiters;

	memcpy(waiters, k->waiters, sizeof(waiters));
	k->nwaiters = 0;
	if (r) {
		k->made = true;
		k->errors = r->errors;
		snprintf(k->first_error, sizeof(k->first_error), "%s", r->first_error);
		log_notice("check: %u errors, %u warnings", r->errors, r->warnings);
	}
	for (unsigned i = 0; i < n; i++)
		answer_waiter(c, &waiters[i], r);
	if (!r)
		return; /* preflight_free is what called */
	preflight_free(k->running);
	k->running = NULL;
}

static void begin(struct control *c)
{
	struct preflight_input in = { .loop = c->loop, .config = c->config, .phase = phases_record(c->phases)->phase, .fleet = c->fleet,
				      .limit_s = LIMIT_S };

	for (int s = 0; s < SIDES; s++) {
		if (!c->discovery[s])
			continue;
		in.sides[s].configured = true;
		in.sides[s].topology = discovery_topology(c->discovery[s]);
		in.sides[s].facts = *discovery_facts(c->discovery[s]);
	}
	in.uncarried = c->backfill ? GET(backfill_thread_stats(c->backfill)->uncarried) : 0;
	c->checkup.running = preflight_new(&in, on_result, c);
}

static void wait_for_result(struct control *c, const struct check_waiter *w)
{
	struct checkup *k = &c->checkup;

	if (k->nwaiters == CHECK_WAITERS) {
		w->answer.fn(w->answer.arg, ANSWER_REFUSED, "too many wait for the running check already");
		return;
	}
	k->waiters[k->nwaiters++] = *w;
	if (!k->running)
		begin(c);
}

void control_check(struct control *c, struct answer answer)
{
	struct check_waiter w = { .answer = answer };

	if (c->run != CONTROL_SERVING)
		answer.fn(answer.arg, ANSWER_UNREACHABLE, "crossfade is starting or ending: try again in a moment");
	else if (phases_fencing(c->phases))
		answer.fn(answer.arg, ANSWER_REFUSED, "requests are held for a flip: try again in a moment");
	else
		wait_for_result(c, &w);
}

bool control_check_first(struct control *c, enum order order, const struct order_args *args, struct answer answer)
{
	struct check_waiter w = { .answer = answer, .cutover = true, .args = *args };
	enum phase phase = phases_record(c->phases)->phase;

	/* Where it cannot flip anyway, or a side is known to be down, the order itself is told so at once. */
	if (order != ORDER_CUTOVER || (args->force && !args->dry_run))
		return false; /* who forces it does not wait: the last check counts, and what it found is named */
	if (*phases_activity(c->phases) || (phase != PHASE_BACKFILL && phase != PHASE_SYNCED && phase != PHASE_CUTOVER))
		return false;
	for (int s = 0; s < SIDES; s++)
		if (!c->discovery[s] || !discovery_facts(c->discovery[s])->up)
			return false;
	wait_for_result(c, &w);
	return true;
}
