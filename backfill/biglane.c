/* biglane.c - large values go through large.c one at a time, beside the pipeline, so that they never stand in the way of small ones.
 *
 * A large key that lost its token too often is copied while its slot's writes are held back, for a bounded time (race 11). The hold is
 * let go once the block was handed to the owner: behind it in the same mailbox, so that later writes follow the copy.
 *
 * Hashes, sets and sorted sets seldom come to that. Their owner notes which elements writes touch while they are copied (BEGIN: it was asked to; OPEN:
 * it is asked again and again what there is). At the end (LAST_LOOK) a key that nobody touched is offered under the token of its
 * beginning. Else writes are held for the moment it takes to read again what changed since the look before (SETTLING, LAST). Lists, strings and
 * streams go the same way, but begin again with the first write that is seen: from then on they are read on the data connection. */
#include "backfill/internal.h"

#include "resp/write.h"

#define LARGE_HOLD_MS 10000
#define HOLD_SHARE 6        /* of seven seconds, six in which nobody is held for keys that take too long */
#define SETTLE_HOLD_MS 2000 /* to read again what changed since the last look: milliseconds of work; of streams all pending entries */
#define CHANGES_S 0.05      /* how often the owner is asked what changed */

struct biglane {
	struct backfill *b;
	struct queue urgent, waiting; /* repairs; scan copies */
	bool repaired;          /* the last that went was a repair */
	struct item *current;   /* being copied, or waiting for its hold */
	struct large *job;
	struct hold hold;
	uint64_t serial;
	/* The owner notes what writes touch of the current key. */
	bool following, touched; /* touched: it was written to since the copy began */
	unsigned asked;          /* answers of its owner still to come: changes, or reads on the data connection */
	bool tokenless; /* LAST: the stripe is busy with another key, the token is still to be read */
	enum { BEGIN, OPEN, LAST_LOOK, SETTLING, LAST } stage;
	double asked_at;
	double held_at, no_hold_until; /* a hold that was too short is not tried again at once */
};

struct biglane *biglane_new(struct backfill *b)
{
	struct biglane *l = must(calloc(1, sizeof(*l)));

	l->b = b;
	queue_init(&l->urgent);
	queue_init(&l->waiting);
	/* Not used twice within the TTL of a temporary key, also not by the next process. */
	l->serial = (uint64_t)(ev_time() * 1000.) << 16;
	return l;
}

static void follow_end(struct biglane *l, struct item *i)
{
	if (l->following)
		l->b->host->follow(l->b->host->ctx, 0, slice(NULL, 0), item_copy(i)->slot);
	l->following = false;
}

static void job_end(struct biglane *l)
{
	if (l->current)
		follow_end(l, l->current);
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
	while ((i = queue_pop(l->urgent.n ? &l->urgent : &l->waiting)))
		item_end(l->b, i, false);
	l->b->biglane = NULL;
	free(l);
}

void biglane_push(struct biglane *l, struct item *i)
{
	queue_push(i->unit ? &l->waiting : &l->urgent, i);
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
		bulk_send(to->bulk, c->db, s, sdslen(s), 1, NULL, NULL); /* else its TTL does it */
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

/* The chunks so far are of no use: which of the writes they have seen is not known. From now on its reads are ordered with its writes. */
static void again_ordered(struct biglane *l, struct item *i)
{
	biglane_discard(l, i);
	i->ordered = 1;
	i->followed = 0; /* only now it is */
	queue_push_front(i->unit ? &l->waiting : &l->urgent, i);
	bf_wake(l->b);
}

/* A write of the stripe was in flight when the copy began, and nothing made up for that: no list, string or stream is settled that is not read in order,
 * and nothing that is gone. */
static void again_untokened(struct biglane *l, struct item *i, bool made)
{
	if (made && !i->ordered)
		again_ordered(l, i);
	else
		item_lost(l->b, i, false);
}

static void on_large(void *arg, enum recipe_result result, sds block, unsigned ncommands, uint64_t bytes, const char *why)
{
	struct biglane *l = arg;
	struct backfill *b = l->b;
	struct item *i = l->current;
	struct copy *c = item_copy(i);

	if (i->unit)
		pace_spend(&b->pace, 0, large_bytes_taken(l->job));
	follow_end(l, i);
	l->job = NULL;
	l->current = NULL;
	i->size = bytes > i->size ? bytes : i->size;
	bf_wake(b);
	if (c->token == TOKEN_BUSY && (result == RECIPE_OK || result == RECIPE_GONE)) {
		sdsfree(block);
		again_untokened(l, i, result == RECIPE_OK);
		return;
	}
	switch (result) {
	case RECIPE_OK:
	case RECIPE_GONE:
		sdsfree(c->block);
		c->block = block;
		c->ncommands = ncommands;
		uncarried_gone(b, c);
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
		bf_failing(b, LOGK_LARGE, "a large key of slot %u could not be copied, again later: %s", c->slot, why);
		biglane_discard(l, i); /* again: the connection that should have removed it may be the one that broke */
		item_fail(b, i, why);
		return;
	}
}

/* ---- a key that is written to meanwhile ---- */

static void ask_changes(struct biglane *l)
{
	l->asked++;
	l->asked_at = bf_now(l->b);
	l->b->host->changes(l->b->host->ctx, item_copy(l->current)->slot);
}

/* Its changes cannot be told: what was copied is of no use. */
static void changes_lost(struct biglane *l)
{
	struct item *i = l->current;

	job_end(l);
	if (i->serial)
		biglane_discard(l, i);
	item_lost(l->b, i, true);
}

static void lane_copy(struct biglane *l);

static void on_settle(void *arg)
{
	struct biglane *l = arg;

	l->stage = LAST_LOOK;
	if (!l->asked)
		ask_changes(l);
}

static void settle(struct biglane *l)
{
	struct copy *c = item_copy(l->current);

	c->token = l->b->host->token(l->b->host->ctx, c->hash, c->slot, false);
	l->tokenless = c->token == TOKEN_BUSY;
	if (!l->tokenless)
		ask_changes(l);
}

/* Nothing is in flight any more: what changed up to now is all there is, and the token is that of this moment. */
static void on_settle_hold(void *arg, bool ok)
{
	struct biglane *l = arg;

	assert(l->current && l->job);
	l->current->held = 1;
	if (!ok) {
		changes_lost(l);
		return;
	}
	l->stage = LAST;
	settle(l);
}

static void begin_ordered(struct biglane *l)
{
	struct item *i = l->current;

	job_end(l);
	again_ordered(l, i);
}

void backfill_changed(struct backfill *b, uint16_t slot, sds elements, unsigned writes, bool known, sds replies)
{
	struct biglane *l = b->biglane;

	if (l)
		l->asked--;
	if (!l || !l->following) {
		sdsfree(elements);
		sdsfree(replies);
		return;
	}
	assert(l->current && item_copy(l->current)->slot == slot);
	if (l->stage == BEGIN && known) {
		sdsfree(elements);
		l->stage = OPEN;
		lane_copy(l);
		return;
	}
	l->touched |= writes > 0;
	if (known && l->job && l->touched && large_is_ordered(l->job) && !l->current->ordered) {
		sdsfree(elements);
		begin_ordered(l);
		return;
	}
	if (!known || !l->job || !large_changed(l->job, elements)) {
		if (!l->job)
			sdsfree(elements);
		sdsfree(replies);
		changes_lost(l);
		return;
	}
	if (replies)
		large_told(l->job, replies);
	else if (l->stage == LAST || (l->stage == LAST_LOOK && !l->touched)) {
		large_settled(l->job);
	} else if (l->stage == LAST_LOOK) {
		l->stage = SETTLING;
		hold_ask(b, &l->hold, slot, large_is_ordered(l->job) ? LARGE_HOLD_MS : SETTLE_HOLD_MS, on_settle_hold, l);
	}
}

static void on_ask(void *arg, sds request, unsigned nrequests)
{
	struct biglane *l = arg;

	l->asked++;
	l->b->host->read_followed(l->b->host->ctx, item_copy(l->current)->slot, request, nrequests);
}

/* The current key is read from now on. */
static void lane_copy(struct biglane *l)
{
	struct backfill *b = l->b;
	struct item *i = l->current;
	struct copy *c = item_copy(i);
	struct conn *from = conn_of(b, c->from, c->slot), *to = conn_of(b, SIDE_OTHER(c->from), c->slot);

	if (c->from != bf_authority(b, c->slot) || !from) {
		job_end(l);
		item_lost(b, i, true);
		return;
	}
	if (!to) {
		job_end(l);
		item_fail(b, i, "no node of the follower has its slot");
		return;
	}
	c->kind = COPY_APPLY;
	c->generation = b->topology[c->from]->generation;
	c->token = b->host->token(b->host->ctx, c->hash, c->slot, false);
	if (c->token == TOKEN_BUSY && !l->following) {
		job_end(l);
		item_lost(b, i, false);
		return;
	}
	l->touched = c->token == TOKEN_BUSY; /* then one is read at the end */
	i->serial = c->tmp = ++l->serial;
	struct large_options o = { .from = from->bulk, .to = to->bulk, .from_kind = receiver_of(b, c->from),
				   .to_kind = receiver_of(b, SIDE_OTHER(c->from)), .key = copy_key(c), .db = c->db, .slot = c->slot, .serial = i->serial,
				   .now_ms = b->host->now_ms(b->host->ctx, c->from), .settle = l->following ? on_settle : NULL,
				   .ask = l->following && i->ordered ? on_ask : NULL };
	l->job = large_start(&o, on_large, l);
}

/* What changes is noted before the first element is read. */
static void lane_start(struct biglane *l)
{
	struct item *i = l->current;

	l->following = l->b->host->follow && !i->held;
	i->followed |= l->following;
	l->tokenless = false;
	l->stage = BEGIN;
	if (!l->following) {
		lane_copy(l);
		return;
	}
	l->b->host->follow(l->b->host->ctx, item_copy(i)->db, copy_key(item_copy(i)), item_copy(i)->slot);
	ask_changes(l);
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
	l->held_at = bf_now(l->b);
	l->b->host->log(l->b->host->ctx, BF_LOG_NOTICE, "a large key of slot %u is copied while its writes are held", item_copy(i)->slot);
	lane_start(l);
}

/* Only if it could not be followed. */
static bool needs_hold(struct biglane *l, struct item *i)
{
	return (i->followed || !l->b->host->follow) && (i->hot || item_copy(i)->losses >= COPY_LOSSES_BEFORE_INBAND);
}

/* Its writes go on, so the copy would be stale. Nobody's writes are held more than a share of the time. */
static void hold_lapsed(struct biglane *l, double now)
{
	struct item *i = l->current;

	l->no_hold_until = now + HOLD_SHARE * (now - l->held_at);
	l->b->host->log(l->b->host->ctx, BF_LOG_WARNING, "a large key of slot %u could not be copied in the %d s for which its writes are held: "
			"again later; it needs a quieter time", item_copy(i)->slot, LARGE_HOLD_MS / 1000);
	changes_lost(l);
}

static void lane_tick(struct biglane *l, double now)
{
	if (l->current->unit)
		pace_spend(&l->b->pace, 0, large_bytes_taken(l->job));
	if (l->current->held && !l->following && now - l->held_at > LARGE_HOLD_MS / 1000.)
		hold_lapsed(l, now);
	else if (l->following && l->stage == OPEN && !l->asked && now - l->asked_at > CHANGES_S)
		ask_changes(l);
	else if (l->following && l->stage == LAST && l->tokenless)
		settle(l);
}

/* How many of a line may go: of the scan's copies as the pace allows, but what is dropped goes at once. */
static size_t lane_open(const struct biglane *l, const struct queue *line, double now)
{
	bool dropped = line->n && item_dropped(line->head);

	return line == &l->urgent || dropped || (!l->b->scan.paused && pace_allowed(&l->b->pace, now, 1)) ? line->n : 0;
}

/* The line whose first key may be copied now: by turns, for keys that are written all the time need repairs all the time. */
static struct queue *lane_queue(struct biglane *l, double now)
{
	struct queue *lines[] = { l->repaired ? &l->waiting : &l->urgent, l->repaired ? &l->urgent : &l->waiting };

	for (int k = 0; k < 2; k++)
		for (size_t n = lane_open(l, lines[k], now); n > 0; n--) {
			if (!needs_hold(l, lines[k]->head) || now >= l->no_hold_until || item_dropped(lines[k]->head))
				return lines[k];
			queue_push(lines[k], queue_pop(lines[k]));
		}
	return NULL;
}

void biglane_feed(struct biglane *l, double now)
{
	struct backfill *b = l->b;
	struct queue *q;
	struct item *i;

	if (l->job)
		lane_tick(l, now);
	if (l->current || l->asked || l->hold.state != HOLD_NONE || !(q = lane_queue(l, now)))
		return;
	l->repaired = q == &l->urgent;
	l->current = i = queue_pop(q);
	if (i->unit)
		pace_spend(&b->pace, 1, 0);
	if (item_dropped(i)) {
		l->current = NULL;
		item_end(b, i, false);
	} else if (needs_hold(l, i)) {
		hold_ask(b, &l->hold, item_copy(i)->slot, LARGE_HOLD_MS, on_hold, l);
	} else {
		lane_start(l);
	}
}
