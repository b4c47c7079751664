/* biglane.c - large values go through large.c one at a time, beside the pipeline, so that they never stand in the way of small ones.
 *
 * A large key that lost its token too often is copied while its slot's writes are held back, for a bounded time (race 11). The hold is
 * let go once the block was handed to the owner: behind it in the same mailbox, so that later writes follow the copy. */
#include "backfill/internal.h"

#include "resp/write.h"

#define LARGE_HOLD_MS 10000

struct biglane {
	struct backfill *b;
	struct queue waiting;
	struct item *current;   /* being copied, or waiting for its hold */
	struct large *job;
	struct hold hold;
	uint64_t serial;
};

struct biglane *biglane_new(struct backfill *b)
{
	struct biglane *l = must(calloc(1, sizeof(*l)));

	l->b = b;
	queue_init(&l->waiting);
	/* Not used twice within the TTL of a temporary key, also not by the next process. */
	l->serial = (uint64_t)(ev_time() * 1000.) << 16;
	return l;
}

static void job_end(struct biglane *l)
{
	if (l->job)
		large_cancel(l->job);
	l->job = NULL;
	l->current = NULL;
}

void biglane_free(struct biglane *l)
{
	struct item *i = l->current;

	job_end(l);
	hold_release(l->b, &l->hold);
	if (i) {
		i->held = 0;
		item_end(l->b, i, false);
	}
	while ((i = queue_pop(&l->waiting)))
		item_end(l->b, i, false);
	l->b->biglane = NULL;
	free(l);
}

void biglane_push(struct biglane *l, struct item *i)
{
	queue_push(&l->waiting, i);
	bf_wake(l->b);
}

void biglane_let_go(struct biglane *l, struct item *i)
{
	if (i)
		i->held = 0;
	hold_release(l->b, &l->hold);
}

sds biglane_undo(struct item *i)
{
	sds key = large_tmp_key(item_copy(i)->slot, i->serial);
	struct slice words[2] = { SLICE_LIT("UNLINK"), slice(key, sdslen(key)) };
	sds s = resp_cat_request(sdsempty(), 2, words);

	sdsfree(key);
	return s;
}

void biglane_discard(struct biglane *l, struct item *i)
{
	struct copy *c = item_copy(i);
	struct conn *to = conn_of(l->b, SIDE_OTHER(c->from), c->slot);
	sds s = biglane_undo(i);

	i->serial = 0;
	if (to)
		bulk_send(to->bulk, s, sdslen(s), 1, NULL, NULL); /* else its TTL does it */
	sdsfree(s);
}

void biglane_drop(struct biglane *l)
{
	struct queue all = l->waiting;
	struct item *i;

	if (l->current && item_dropped(l->current)) {
		i = l->current;
		job_end(l);
		i->held = 0;
		hold_release(l->b, &l->hold);
		item_end(l->b, i, false);
	}
	if (!all.n)
		return;
	queue_init(&l->waiting);
	while ((i = queue_pop(&all))) {
		if (item_dropped(i))
			item_end(l->b, i, false);
		else
			queue_push(&l->waiting, i);
	}
}

static void on_large(void *arg, enum recipe_result result, sds block, unsigned ncommands, uint64_t bytes, const char *why)
{
	struct biglane *l = arg;
	struct backfill *b = l->b;
	struct item *i = l->current;
	struct copy *c = item_copy(i);

	if (i->unit)
		pace_spend(&b->pace, 0, large_bytes_taken(l->job));
	l->job = NULL;
	l->current = NULL;
	i->size = bytes > i->size ? bytes : i->size;
	bf_wake(b);
	switch (result) {
	case RECIPE_OK:
	case RECIPE_GONE:
		sdsfree(c->block);
		c->block = block;
		c->ncommands = ncommands;
		if (i->unit)
			stat_add(&b->stats->bytes, bytes);
		item_offer(b, i);
		return;
	case RECIPE_RETYPE:
		i->sized = 0;
		item_lost(b, i, true);
		return;
	case RECIPE_CANNOT:
		item_uncarried(b, i, why);
		return;
	case RECIPE_ERROR:
		if (bf_may_log(b, LOGK_LARGE))
			b->host->log(b->host->ctx, BF_LOG_WARNING, "a large key of slot %u could not be copied, again later: %s", c->slot, why);
		biglane_discard(l, i); /* again: the connection that should have removed it may be the one that broke */
		item_fail(b, i, why);
		return;
	}
}

static void lane_start(struct biglane *l)
{
	struct backfill *b = l->b;
	struct item *i = l->current;
	struct copy *c = item_copy(i);
	struct conn *from = conn_of(b, c->from, c->slot), *to = conn_of(b, SIDE_OTHER(c->from), c->slot);

	if (c->from != bf_authority(b, c->slot) || !from) {
		l->current = NULL;
		item_lost(b, i, true);
		return;
	}
	if (!to) {
		l->current = NULL;
		item_fail(b, i, "no node of the follower has its slot");
		return;
	}
	c->kind = COPY_APPLY;
	c->generation = b->topology[c->from]->generation;
	c->token = b->host->token(b->host->ctx, copy_key(c), c->slot, false);
	if (c->token == TOKEN_BUSY) {
		l->current = NULL;
		item_lost(b, i, false);
		return;
	}
	i->serial = c->tmp = ++l->serial;
	struct large_options o = { .from = from->bulk, .to = to->bulk, .from_kind = receiver_of(b, c->from),
				   .to_kind = receiver_of(b, SIDE_OTHER(c->from)), .key = copy_key(c), .slot = c->slot, .serial = i->serial,
				   .now_ms = b->host->now_ms(b->host->ctx, c->from) };
	l->job = large_start(&o, on_large, l);
}

static void on_hold(void *arg, bool ok)
{
	struct biglane *l = arg;
	struct item *i = l->current;

	assert(i);
	if (!ok) {
		hold_release(l->b, &l->hold);
		l->current = NULL;
		item_fail(l->b, i, "its writes could not be held back");
		return;
	}
	i->held = 1;
	lane_start(l);
}

void biglane_feed(struct biglane *l, double now)
{
	struct backfill *b = l->b;
	struct item *i;

	if (l->job && l->current->unit)
		pace_spend(&b->pace, 0, large_bytes_taken(l->job));
	if (l->current || l->hold.state != HOLD_NONE || !l->waiting.n)
		return;
	i = l->waiting.head;
	if (i->unit && !item_dropped(i) && (b->scan.paused || !pace_allowed(&b->pace, now, 1)))
		return;
	l->current = queue_pop(&l->waiting);
	if (i->unit)
		pace_spend(&b->pace, 1, 0);
	if (item_dropped(i)) {
		l->current = NULL;
		item_end(b, i, false);
	} else if (i->hot || item_copy(i)->losses >= COPY_LOSSES_BEFORE_INBAND) {
		hold_ask(b, &l->hold, item_copy(i)->slot, LARGE_HOLD_MS, on_hold, l);
	} else {
		lane_start(l);
	}
}
