/* The owner's part of a command that runs alone (FLUSHALL, FLUSHDB, SWAPDB: race 5). It shuts the gate (engine_gate.c), so that nothing is sent, and waits
 * until everything has been answered; then whoever asked has the servers do it, and tells what became of that.
 *
 *   begin ──► WANTED ── no flip, no transaction ──► SHUT ── nothing in flight or queued ──► QUIET ── end ──► NONE, the gate is open
 *
 * To the mirror it is a write to every key: from QUIET to the end every version is in flight, so that what was read before, or meanwhile, is worth nothing, and
 * the journal owes every slot: a process that is killed between the two sides leaves them to be compared (invariant 5). A follower that does not answer is
 * waited for a while only: it is left out then, and all slots are compared instead. */
#include "proxy/engine_internal.h"

#include <assert.h>

#include "backfill/fault.h"

static void write_of_everything(struct engine *e, bool begins)
{
	bool versions = !fault("race-5-versions"), journals = e->opt.journal && !fault("race-5-journal");

	for (uint32_t i = 0; versions && i < STRIPES; i++)
		(begins ? version_begin : version_complete)(&e->versions, i);
	for (uint16_t i = 0; journals && i < SLOTS; i++) {
		if (!(e->slots[i].flags & SLOT_MINE))
			continue;
		if (begins)
			journal_hold(e->opt.journal, i);
		else
			journal_let_go(e->opt.journal, i);
	}
}

void alone_turn(struct engine *e)
{
	struct alone_fence *a = &e->alone;

	if (a->stage == ALONE_WANTED && e->fence.stage == FENCE_NONE && !e->gate.holder) { /* a flip ends first, or is undone in time */
		a->stage = ALONE_SHUT;
		a->follower_until_us = e->io.now_us(e->io.ctx) + a->follower_us;
	}
	if (a->stage != ALONE_SHUT)
		return;
	if (!fault("race-5-fence") && (e->inflight || ((e->queued || e->crowds) && e->io.now_us(e->io.ctx) < a->follower_until_us)))
		return;
	a->stage = ALONE_QUIET;
	a->mirrored = e->mirroring;
	if (a->mirrored)
		write_of_everything(e, true);
	e->io.alone(e->io.ctx, !e->queued && !e->crowds);
}

void engine_alone_begin(struct engine *e, unsigned follower_ms)
{
	assert(e->alone.stage == ALONE_NONE);
	e->alone = (struct alone_fence){ .stage = ALONE_WANTED, .follower_us = (int64_t)follower_ms * 1000 };
	alone_turn(e);
}

void engine_alone_end(struct engine *e, enum alone_result result, const char *why)
{
	assert(e->alone.stage == ALONE_QUIET);
	if (e->mirroring && result == ALONE_UNSURE)
		engine_slots_dirty(e, NULL, why);
	if (result == ALONE_EMPTIED)
		changes_unknown(&e->changes); /* keys that are dirty stay so: somebody else may have made them meanwhile, or a slot that moves may have brought them */
	if (e->alone.mirrored)
		write_of_everything(e, false);
	if (result != ALONE_NOTHING)
		park_wake_all(e); /* keys are there that were not, or streams have gone */
	e->alone.stage = ALONE_NONE;
	gate_open(e);
	park_after(e);
}
