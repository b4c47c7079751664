/* The line: requests with keys of several slots (which a standalone server takes as one command) that have to wait, and everything that came behind one of them
 * and has a slot in common with something in the line. So the order in which requests arrived holds in each of their slots.
 *
 *   a request of one slot    its slot waits: in the slot's queue. Its slot is lined: here
 *   a request of several     one of its slots waits, or is lined: here
 *
 * The head goes when none of its slots waits; one of a single slot goes on to the slot's queue, so that only wide ones hold the line up. Holding and fencing are the
 * slots' own matter: a fence of a standalone side is about all slots at once.
 *
 * A wide request that meets a cluster (a flip came between) is given back and comes again in parts, one for each slot. Its slots wait for their part (WAIT_PART).
 * A transaction is given back, too, and refused. */
#include "proxy/engine_internal.h"

uint32_t line_slots(const struct req *r, const uint16_t **slots)
{
	*slots = r->wide ? r->wide->slot : &r->slot;
	return r->wide ? r->wide->n : 1;
}

void line_count(struct engine *e, const struct req *r, int by)
{
	const uint16_t *slots;
	uint32_t n = line_slots(r, &slots);

	for (uint32_t i = 0; i < n; i++)
		e->slots[slots[i]].lined += (uint32_t)by;
}

static bool any_lined(const struct engine *e, const struct req *r)
{
	const uint16_t *slots;
	uint32_t n = line_slots(r, &slots);

	for (uint32_t i = 0; i < n; i++)
		if (e->slots[slots[i]].lined)
			return true;
	return false;
}

bool line_waits(const struct engine *e, const struct req *r)
{
	for (uint32_t i = 0; r->wide && i < r->wide->n; i++)
		if (engine_must_wait(e, r->wide->slot[i], r))
			return true;
	return false;
}

bool line_takes(struct engine *e, struct req *r)
{
	if (!any_lined(e, r) && !line_waits(e, r))
		return false;
	req_list_push(&e->line, r);
	line_count(e, r, 1);
	return true;
}

void line_turn(struct engine *e)
{
	struct req *r;

	while (!gate_is_shut(e) && (!e->turned.head || wide_turn(e)) && (r = e->line.head) && !line_waits(e, r)) {
		req_list_pop(&e->line);
		line_count(e, r, -1);
		engine_begin(e, r);
	}
}

void line_give_back(struct engine *e, struct req *r)
{
	for (uint32_t i = 0; !r->txn && i < r->wide->n; i++)
		if (e->slots[r->wide->slot[i]].flags & SLOT_MINE) /* all, unless the source was not known yet when it came */
			engine_wait(e, r->wide->slot[i], WAIT_PART);
	r->again = true;
	engine_answer(e, r);
}

/* In front of what its slot holds back: it came earlier. */
void line_part(struct engine *e, struct req *part)
{
	struct slot_wait *w = e->slots[part->slot].wait;

	if (w && w->why & WAIT_PART) {
		req_list_push_front(&w->queue, part);
		engine_wait_lift(e, part->slot, WAIT_PART);
	} else if (!line_takes(e, part)) {
		engine_begin(e, part);
	}
}
