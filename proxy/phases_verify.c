/* A verify from order to answer: it runs on the backfill thread; here is who waits for it and what its outcome means. */
#include <stdlib.h>

#include "proxy/log.h"
#include "proxy/phases_internal.h"

void verify_order(struct phases *p, const struct order_args *args, struct answer answer)
{
	struct phase_facts f;

	if (p->verify.running && p->verify.repair != args->repair) {
		phases_answer(&answer, ANSWER_REFUSED, "a verify %s repair is running: wait for it", p->verify.repair ? "with" : "without");
		return;
	}
	if (p->verify.nwaiters == VERIFY_WAITERS) {
		phases_answer(&answer, ANSWER_REFUSED, "%d others wait for the running verify already", VERIFY_WAITERS);
		return;
	}
	p->verify.waiters[p->verify.nwaiters++] = answer;
	if (p->verify.running)
		return;
	p->io->facts(p->ctx, &f);
	p->verify.running = true;
	p->verify.repair = args->repair;
	p->verify.runs_before = f.verify_runs;
	p->verify.voids_before = p->voids;
	p->io->backfill(p->ctx, BACKFILL_VERIFY, args, p->rec.migration);
}

static void answer_all(struct phases *p, enum answer_code code, const char *text)
{
	unsigned n = p->verify.nwaiters;

	p->verify.running = false;
	p->verify.nwaiters = 0;
	for (unsigned i = 0; i < n; i++)
		phases_answer_text(&p->verify.waiters[i], code, text);
}

/* Clean is what a cutover may rely on: nothing differed, and nothing happened meanwhile that the verify may have missed. */
void verify_tick(struct phases *p, const struct phase_facts *f)
{
	char err[512];

	if (!p->verify.running)
		return;
	if (f->verify_runs == p->verify.runs_before) {
		if (!f->verifying)
			answer_all(p, ANSWER_UNREACHABLE, "the verify was broken off, the log says why: look at the nodes, then verify again");
		return;
	}
	struct state_record *next = malloc(sizeof(*next));
	*next = p->rec;
	next->verify_clean = f->verify_differences == 0 && p->voids == p->verify.voids_before;
	next->verify_at_ms = f->verified_at_ms;
	next->verify_checked = f->verify_checked;
	if (next->verify_clean)
		p->void_why[0] = '\0';
	if (!phases_commit(p, next, err, sizeof(err)))
		log_warning("the outcome of the verify could not be recorded: verify again before a cutover");
	free(next);
	char *json = p->io->verify_json(p->ctx);
	answer_all(p, ANSWER_JSON, json);
	free(json);
}

void verify_end(struct phases *p)
{
	if (p->verify.running)
		answer_all(p, ANSWER_REFUSED, "the verify was broken off: the phase changed or crossfade is ending");
}
