/* hold.c - writes of one slot held back at a time: whoever needs it waits in line, so that a hold never adds up to a pause of many slots. */
#include "backfill/internal.h"

#define ANSWER_S 5. /* the owner answers earlier; a worker that ended does not */

static void hold_next(struct backfill *b)
{
	struct hold *h = b->holds;

	if (!h || h->state != HOLD_QUEUED)
		return;
	h->state = HOLD_ASKED;
	h->asked_at = bf_now(b);
	b->host->hold(b->host->ctx, h->slot, h->max_ms);
	bf_wake(b);
}

void hold_ask(struct backfill *b, struct hold *h, uint16_t slot, unsigned max_ms, void (*fn)(void *, bool), void *arg)
{
	struct hold **at = &b->holds;

	assert(h->state == HOLD_NONE);
	*h = (struct hold){ .slot = slot, .max_ms = max_ms, .fn = fn, .arg = arg, .state = HOLD_QUEUED };
	while (*at)
		at = &(*at)->next;
	*at = h;
	hold_next(b);
}

void hold_release(struct backfill *b, struct hold *h)
{
	struct hold **at = &b->holds;

	if (h->state == HOLD_NONE)
		return;
	while (*at && *at != h)
		at = &(*at)->next;
	assert(*at == h);
	*at = h->next;
	h->next = NULL;
	if (h->state != HOLD_QUEUED)
		b->host->release(b->host->ctx, h->slot);
	h->state = HOLD_NONE;
	hold_next(b);
}

void backfill_held(struct backfill *b, uint16_t slot, bool ok)
{
	struct hold *h = b->holds;

	if (!h || h->state != HOLD_ASKED || h->slot != slot)
		return; /* late: it was given up */
	h->state = HOLD_ANSWERED;
	h->fn(h->arg, ok);
}

void hold_tick(struct backfill *b, double now)
{
	struct hold *h = b->holds;

	if (h && h->state == HOLD_ASKED && now - h->asked_at > ANSWER_S + h->max_ms / 1000.)
		backfill_held(b, h->slot, false);
}
