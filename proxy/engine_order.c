/* Commands that were turned away and go again (redirects, lost connections), and what is behind them in their slot: order is kept.
 *
 *   sent ── turned away ──► resend ── nothing of the slot in flight ──► rest ── sent again, one node at a time ──► …
 *                              ▲                                                              │
 *                              └────────────────────── turned away again ◄────────────────────┘
 *
 * From the first one that is turned away until all are served nothing new of the slot is sent. They go in the order in which they came, to one node at a time:
 * two connections keep no order between them. What is turned away again goes before what is left. A node that did not serve the slot is asked with one command first: one
 * that begins to serve in the middle of a batch would execute its end before its beginning.
 *
 * It may do that with the batch that was in flight the first time. Between clients that is no order broken, for all of it is under way; a client's own is: so a command
 * that was turned away is not sent again once the same node has executed a later one of its client on one of its keys, and its client is told. (ASK never comes to that:
 * the key is gone from that node. Nor TRYAGAIN, once we know that slots move: its client has nothing behind it, knot.h.)
 *
 * Requests of several slots are turned away by standalone servers only, when the connection breaks: engine_wide.c. */
#include "proxy/engine_internal.h"

#include <stdio.h>

#include "proxy/txn.h"

#define KEYS_NONE UINT64_MAX

/* What it may be overtaken on: its key; 0: several; KEYS_NONE: none. */
static uint64_t one_key(struct engine *e, const struct req *r)
{
	int n;

	if (r->txn)
		return 0;
	n = engine_keys(e, r->cmd, engine_words(e, r->bytes, r->len));
	if (n <= 0)
		return KEYS_NONE;
	return n > 1 ? 0 : keyhash_of(r->db, e->argv[e->keys[0].index]).low64;
}

static bool words_touch(struct engine *e, const struct command *cmd, uint16_t db, const char *bytes, size_t len, uint64_t key)
{
	int n = engine_keys(e, cmd, engine_words(e, bytes, len));

	for (int i = 0; i < n; i++)
		if (keyhash_of(db, e->argv[e->keys[i].index]).low64 == key)
			return true;
	return n > 0 && key == 0;
}

static bool touches(struct engine *e, const struct req *r, uint64_t key)
{
	if (!r->txn)
		return words_touch(e, r->cmd, r->db, r->bytes, r->len, key);
	for (uint32_t i = 0; i < r->txn->n; i++) {
		const struct txn_command *q = &r->txn->commands[i];
		if (!q->local && words_touch(e, q->cmd, r->db, r->bytes + q->at, q->len, key))
			return true;
	}
	return false;
}

bool order_resend(struct engine *e, struct req *r, int64_t delay_us)
{
	int64_t now = e->io.now_us(e->io.ctx);
	struct slot_wait *w;
	bool again = r->resent;

	if (r->wide && e->io.is_cluster(e->io.ctx, slot_authority(e, r->slot)))
		return false; /* a flip came between: a cluster will not have it, and its nodes keep no order between its slots */
	if (!again) {
		r->resent = true;
		r->since_us = now;
		r->turned = one_key(e, r);
	} else if (now - r->since_us > e->opt.resend_us) {
		return false;
	}
	if (r->mw)
		mirror_redirected(r->mw);
	if (wide_resend(e, r, again, now + delay_us))
		return true;
	w = engine_wait(e, r->slot, WAIT_RESEND);
	req_list_push(&w->resend, r);
	w->one_first |= delay_us > 0;
	if (w->resume_us < now + delay_us)
		w->resume_us = now + delay_us;
	return true;
}

bool order_overtakes(struct engine *e, const struct req *r, const struct req *turned)
{
	return turned->from == r->from && turned->turned != KEYS_NONE && touches(e, r, turned->turned);
}

void order_tell_overtaken(struct engine *e, struct req *r)
{
	mirror_unknown(e, r, "it was overtaken");
	engine_answer_error(e, r, "TRYAGAIN crossfade: the node refused this command and then executed a later one of this client; it was not executed");
}

static void executed_in(struct engine *e, const struct req *r, uint16_t slot)
{
	struct slot_wait *w = e->slots[slot].wait;
	struct req_list all, over = { NULL, NULL };
	struct req *q;

	if (!w || !w->resend.head)
		return;
	all = w->resend;
	w->resend = (struct req_list){ NULL, NULL };
	while ((q = req_list_pop(&all)))
		req_list_push(order_overtakes(e, r, q) ? &over : &w->resend, q);
	while ((q = req_list_pop(&over)))
		order_tell_overtaken(e, q);
}

void order_executed(struct engine *e, const struct req *r)
{
	if (!r->from || fault("order"))
		return;
	if (!r->wide)
		executed_in(e, r, r->slot);
	for (uint32_t i = 0; r->wide && i < r->wide->n; i++)
		executed_in(e, r, r->wide->slot[i]);
	if (e->turned.head)
		wide_executed(e, r);
}

bool order_resumes(struct engine *e, struct slot_wait *w)
{
	const struct slot_state *s = &e->slots[w->slot];
	struct req *r;

	if (s->inflight || e->io.now_us(e->io.ctx) < w->resume_us)
		return false;
	while ((r = req_list_pop(&w->rest)))
		req_list_push(&w->resend, r);
	w->rest = w->resend;
	w->resend = (struct req_list){ NULL, NULL };
	while ((r = w->rest.head)) {
		if (s->inflight && r->ask_node != w->node)
			return false;
		req_list_pop(&w->rest);
		w->node = r->ask_node;
		engine_start(e, r);
		if (w->one_first) {
			w->one_first = false;
			return false;
		}
	}
	if (s->inflight && w->node != NODE_NONE)
		return false;
	w->why &= ~WAIT_RESEND;
	return true;
}
