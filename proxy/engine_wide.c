/* Requests of several slots that were turned away (a standalone server's connection broke, or a script was missing there): they go again in the order of all their slots.
 *
 *   resend of a slot ──►  turned  ──►  the line (engine_line.c)
 *   turned away before    these, and all     came later, and was never sent:
 *   the first of these    that was after     its slots are lined, or it was
 *                         the first          in the queue of one of them
 *
 * There is one connection (a cluster's answer to such requests is an error, and final), so whatever is turned away after the first of them came after it. They are sent again all at once, in order, when none of their slots
 * has anything in flight or before them. So none is left when one is turned away a second time, and `turned` is in order, always.
 *
 * A client's own order: what it is known to have executed later on the same keys is not followed by what it sent earlier (engine_order.c). */
#include "proxy/engine_internal.h"

static void append(struct req_list *to, struct req_list *more)
{
	if (!more->head)
		return;
	*(to->tail ? &to->tail->link : &to->head) = more->head;
	to->tail = more->tail;
	*more = (struct req_list){ NULL, NULL };
}

/* What its slots hold back came after it: behind it, in front of the line. */
static void queues_to_line(struct engine *e, const struct req *r)
{
	const uint16_t *slots;
	uint32_t n = line_slots(r, &slots);
	struct req_list all = { NULL, NULL };

	for (uint32_t i = 0; i < n; i++) {
		struct slot_wait *w = e->slots[slots[i]].wait;
		if (!w || !w->queue.head)
			continue;
		for (const struct req *q = w->queue.head; q; q = q->link)
			line_count(e, q, 1);
		append(&all, &w->queue);
		engine_wait_lift(e, slots[i], 0); /* nothing may be left of it */
	}
	append(&all, &e->line);
	e->line = all;
}

/* What is in flight came after those of several slots that wait; not if it was turned away before them, and sent again since. */
static bool came_after(const struct req *r, bool again)
{
	return !again || r->behind_wide;
}

static bool belongs(const struct engine *e, const struct req *r, bool again)
{
	if (fault("order-wide"))
		return false;
	return r->wide || (e->turned.head && came_after(r, again) && !e->io.is_cluster(e->io.ctx, slot_authority(e, r->slot)));
}

bool wide_resend(struct engine *e, struct req *r, bool again, int64_t resume_us)
{
	r->behind_wide = belongs(e, r, again);
	if (!r->behind_wide)
		return false;
	req_list_push(&e->turned, r);
	line_count(e, r, 1);
	queues_to_line(e, r);
	if (e->turned_resume_us < resume_us)
		e->turned_resume_us = resume_us;
	return true;
}

static bool has_slot(const struct req *r, uint16_t slot)
{
	const uint16_t *slots;
	uint32_t n = line_slots(r, &slots);

	for (uint32_t i = 0; i < n; i++)
		if (slots[i] == slot)
			return true;
	return false;
}

static bool share_slot(const struct req *a, const struct req *b)
{
	const uint16_t *slots;
	uint32_t n = line_slots(a, &slots);

	for (uint32_t i = 0; i < n; i++)
		if (has_slot(b, slots[i]))
			return true;
	return false;
}

void wide_executed(struct engine *e, const struct req *r)
{
	struct req_list all = e->turned, over = { NULL, NULL };
	struct req *q;

	if (!came_after(r, r->resent))
		return;
	e->turned = (struct req_list){ NULL, NULL };
	while ((q = req_list_pop(&all)))
		req_list_push(share_slot(q, r) && order_overtakes(e, r, q) ? &over : &e->turned, q);
	while ((q = req_list_pop(&over))) {
		line_count(e, q, -1);
		order_tell_overtaken(e, q);
	}
}

static bool may_go(const struct engine *e)
{
	const uint16_t *slots;

	if (e->io.now_us(e->io.ctx) < e->turned_resume_us)
		return false;
	for (const struct req *r = e->turned.head; r; r = r->link) {
		uint32_t n = line_slots(r, &slots);
		for (uint32_t i = 0; i < n; i++)
			if (e->slots[slots[i]].inflight || engine_must_wait(e, slots[i], r))
				return false;
	}
	return true;
}

/* The rest stays if the connection is lost at once, or if the side is a cluster by now, and a slot has to wait for its part of the one before. */
bool wide_turn(struct engine *e)
{
	struct req_list all = e->turned;
	struct req *r;

	if (!may_go(e))
		return false;
	e->turned = (struct req_list){ NULL, NULL };
	while ((r = all.head) && !e->turned.head && !line_waits(e, r)) {
		req_list_pop(&all);
		line_count(e, r, -1);
		engine_begin(e, r);
	}
	append(&e->turned, &all);
	return !e->turned.head;
}
