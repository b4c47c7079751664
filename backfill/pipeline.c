/* pipeline.c - how one key becomes a copy: queued → size → token → read → composed → offered → answered.
 *
 * Keys move one by one, but up to NODE_WINDOW of them per node are on their way at once and their requests leave in one write per loop turn. The
 * token is read right before the read commands are queued, not before the size is asked: the shorter the window, the fewer losses.
 * Where the node's last keys were short strings, the next one is read as one at once, without asking for its size (RECIPE_SHORT, conn_tries_short): one round trip, and
 * the two cheapest commands there are. */
#include "backfill/internal.h"

#include <string.h>

#include "resp/parse.h"
#include "resp/write.h"

#define REFUSED_PAUSE_S 0.3
#define REFUSED_WINDOW 8  /* scan copies tried per node while owners refuse */
#define RECIPES_TRIED 6   /* a type that changes under us this often waits a little */
#define CHARGE_UNKNOWN 512
#define CHARGE_SHORT (SHORT_STRING / 2) /* what all that is under way may turn out to be is at most twice as much */

static const double delay_s[DELAYS] = { [DELAY_BUSY] = 0.003, [DELAY_SHORT] = 0.05, [DELAY_MEDIUM] = 0.25, [DELAY_LONG] = 1. };

/* ---- queues and the copy object ---- */

void queue_init(struct queue *q)
{
	q->head = NULL;
	q->tail = &q->head;
	q->n = 0;
}

void queue_push(struct queue *q, struct item *i)
{
	i->next = NULL;
	*q->tail = i;
	q->tail = &i->next;
	q->n++;
}

void queue_push_front(struct queue *q, struct item *i)
{
	i->next = q->head;
	q->head = i;
	if (!i->next)
		q->tail = &i->next;
	q->n++;
}

struct item *queue_pop(struct queue *q)
{
	struct item *i = q->head;

	if (!i)
		return NULL;
	q->head = i->next;
	if (!q->head)
		q->tail = &q->head;
	q->n--;
	i->next = NULL;
	return i;
}

struct copy *copy_new(uint16_t db, struct slice key, uint16_t slot)
{
	struct item *i = must(malloc(sizeof(*i) + sizeof(struct copy) + key.n + 1));
	struct copy *c = item_copy(i);

	memset(i, 0, sizeof(*i) + sizeof(*c));
	c->slot = slot;
	c->db = db;
	c->hash = keyhash_of(db, key);
	c->key_len = key.n;
	memcpy(c->key, key.p, key.n);
	c->key[key.n] = '\0';
	return c;
}

void copy_free(struct copy *c)
{
	if (!c)
		return;
	sdsfree(c->block);
	sdsfree(c->undo);
	free(c->why);
	free(copy_item(c));
}

struct item *item_new(struct backfill *b, uint16_t db, struct slice key, uint16_t slot, struct unit *u)
{
	struct copy *c = copy_new(db, key, slot);
	struct item *i = copy_item(c);

	i->b = b;
	i->unit = u;
	i->recipe = RECIPE_DUMP;
	c->repair = !u;
	bf_fetch_token(b, c->hash, slot);
	if (u) {
		c->brief = u->kind == UNIT_SLOT;
		u->left++;
		b->scan.alive++;
	} else {
		b->repairs++;
	}
	return i;
}

bool item_dropped(const struct item *i)
{
	return i->unit && i->unit->dead;
}

static void item_uncharge(struct backfill *b, struct item *i)
{
	assert(b->bytes >= i->charged);
	b->bytes -= i->charged;
	i->charged = 0;
}

static void item_charge(struct backfill *b, struct item *i, uint64_t bytes)
{
	item_uncharge(b, i);
	i->charged = bytes + ITEM_OVERHEAD;
	b->bytes += i->charged;
}

static void item_clear_block(struct item *i)
{
	struct copy *c = item_copy(i);

	sdsfree(c->block);
	c->block = NULL;
	c->ncommands = 0;
}

static void item_release_hold(struct backfill *b, struct item *i)
{
	if (i->held)
		biglane_let_go(b->biglane, i);
}

void item_end(struct backfill *b, struct item *i, bool acknowledged)
{
	struct unit *u = i->unit;

	assert(!i->conn);
	item_release_hold(b, i);
	item_uncharge(b, i);
	copy_free(item_copy(i));
	if (!u) {
		b->repairs--;
		return;
	}
	assert(u->left > 0 && b->scan.alive > 0);
	u->left--;
	b->scan.alive--;
	if (!acknowledged)
		u->broken = true;
	scan_settle(b, u);
}

/* ---- waiting ---- */

void item_delay(struct backfill *b, struct item *i, enum delay_class d)
{
	assert(!i->conn);
	item_release_hold(b, i);
	item_uncharge(b, i);
	item_clear_block(i);
	i->due = bf_now(b) + delay_s[d];
	queue_push(&b->delayed[d], i);
	bf_wake(b);
}

void item_retry_later(struct backfill *b, struct item *i)
{
	if (item_dropped(i)) {
		item_end(b, i, false);
		return;
	}
	if (i->errors < UINT8_MAX)
		i->errors++;
	item_delay(b, i, i->errors < 3 ? DELAY_SHORT : i->errors < 8 ? DELAY_MEDIUM : DELAY_LONG);
}

void item_fail(struct backfill *b, struct item *i, const char *why)
{
	struct copy *c = item_copy(i);

	if (i->unit) {
		item_retry_later(b, i);
		return;
	}
	item_clear_block(i);
	c->kind = COPY_FAILED;
	free(c->why);
	c->why = must(strdup(why ? why : "unknown"));
	item_offer(b, i);
}

void item_misrouted(struct backfill *b, struct item *i)
{
	if (!i->unit)
		item_fail(b, i, "its slot is not on the node that was asked");
	else if (i->unit->kind == UNIT_WINDOW)
		item_retry_later(b, i); /* a window cannot be read again, so the key itself is */
	else
		item_end(b, i, false);  /* the slot is enumerated again */
}

void item_lost(struct backfill *b, struct item *i, bool at_once)
{
	struct copy *c = item_copy(i);

	if (c->losses < UINT8_MAX)
		c->losses++;
	stat_add(&b->stats->keys_retried, 1);
	if (!at_once) {
		item_delay(b, i, DELAY_BUSY);
		return;
	}
	item_release_hold(b, i);
	item_uncharge(b, i);
	item_clear_block(i);
	item_queue(b, i);
}

/* The follower is left without it, which is better than with an older value; before that it is named for good (uncarried.c). */
void item_uncarried(struct backfill *b, struct item *i, const char *why)
{
	struct copy *c = item_copy(i);
	struct slice words[2] = { SLICE_LIT("UNLINK"), copy_key(c) };

	if (i->serial)
		biglane_discard(b->biglane, i);
	if (item_dropped(i)) {
		item_end(b, i, false);
		return;
	}
	if (!uncarried_add(b, c, why)) {
		item_delay(b, i, DELAY_MEDIUM);
		return;
	}
	if (c->token == TOKEN_BUSY) {
		item_lost(b, i, false);
		return;
	}
	item_clear_block(i);
	c->block = must(resp_cat_request(sdsempty(), 2, words));
	c->ncommands = 1;
	c->tmp = 0;
	c->uncarried = true;
	item_offer(b, i);
}

/* ---- towards a node ---- */

void item_queue(struct backfill *b, struct item *i)
{
	struct copy *c = item_copy(i);
	struct conn *n;

	assert(!i->conn);
	if (item_dropped(i)) {
		item_end(b, i, false);
		return;
	}
	c->kind = COPY_APPLY;
	c->uncarried = false;
	c->from = bf_authority(b, c->slot);
	n = conn_of(b, c->from, c->slot);
	if (!n && i->unit)
		item_misrouted(b, i);
	else if (!n)
		item_fail(b, i, "no node has its slot");
	else
		queue_push(i->unit ? &n->work : &n->urgent, i);
	bf_wake(b);
}

/* The queue is emptied first, so that items which land in it again are not seen twice. */
void pipeline_requeue(struct backfill *b, struct queue *q)
{
	struct queue all = *q;
	struct item *i;

	if (!all.n)
		return;
	queue_init(q);
	while ((i = queue_pop(&all)))
		item_queue(b, i);
}

/* It waits for this node no longer. */
static void item_leave(struct item *i)
{
	assert(i->conn && i->conn->reading > 0);
	i->conn->reading--;
	i->conn = NULL;
}

/* Would a payload of this side surely be understood by the other? Else the recipe for in-band reads is chosen by type. */
static bool dump_is_safe(struct backfill *b, enum side from)
{
	struct receiver a = receiver_of(b, from), t = receiver_of(b, SIDE_OTHER(from));
	unsigned av = rdb_version(&a), tv = rdb_version(&t);

	return tv >= av && (a.product == t.product || av <= 11);
}

static void item_read(struct backfill *b, struct item *i);

static void on_type(void *arg, struct slice reply, const char *why)
{
	static const char *const names[] = { [RECIPE_STRING] = "string", [RECIPE_LIST] = "list", [RECIPE_SET] = "set",
						    [RECIPE_ZSET] = "zset", [RECIPE_HASH] = "hash", [RECIPE_STREAM] = "stream" };
	struct item *i = arg;
	struct resp_item item;

	(void)why;
	/* A loss is told to on_size, too, which follows. */
	if (!reply.p || !resp_item(reply.p, reply.p + reply.n, &item) || item.type != '+')
		return;
	for (int r = RECIPE_STRING; r <= RECIPE_STREAM; r++)
		if (slice_is(item.text, names[r]))
			i->recipe = (uint8_t)r;
}

static void on_size(void *arg, struct slice reply, const char *why)
{
	struct item *i = arg;
	struct backfill *b = i->b;
	int64_t n;

	if (!reply.p || item_dropped(i)) {
		if (!reply.p)
			conn_was_lost(i->conn, why);
		item_leave(i);
		item_fail(b, i, why);
		return;
	}
	i->conn->lost = false;
	if (reply_error(reply) == REPLY_ELSEWHERE) {
		item_leave(i);
		item_misrouted(b, i);
		return;
	}
	/* Any other error (a service may forbid MEMORY): the size stays unknown, the read is tried. */
	i->sized = 1;
	i->size = reply_int(reply, &n) && n > 0 ? (uint64_t)n : 0;
	if (i->size > b->config.large_bytes) {
		item_leave(i);
		biglane_push(b->biglane, i);
		return;
	}
	item_read(b, i);
}

static void item_measure(struct backfill *b, struct item *i)
{
	struct copy *c = item_copy(i);

	sdsclear(b->scratch);
	b->scratch = sdscatlen(b->scratch, MEMORY_USAGE, sizeof(MEMORY_USAGE) - 1);
	b->scratch = resp_cat_bulk(b->scratch, copy_key(c));
	bulk_send(i->conn->bulk, c->db, b->scratch, sdslen(b->scratch), 1, on_size, i);
}

/* Nothing is known of it but that its neighbours are short strings. */
static bool item_tries_short(const struct item *i, const struct conn *n)
{
	return conn_tries_short(n) && !i->sized && !i->want_type && !i->errors && item_copy((struct item *)i)->losses < COPY_LOSSES_BEFORE_INBAND;
}

static void item_start(struct backfill *b, struct conn *n, struct item *i)
{
	struct copy *c = item_copy(i);

	if (item_dropped(i) || c->from != bf_authority(b, c->slot) || conn_of(b, c->from, c->slot) != n) {
		item_queue(b, i);
		return;
	}
	if (i->sized && i->size > b->config.large_bytes) {
		biglane_push(b->biglane, i);
		return;
	}
	i->conn = n;
	n->reading++;
	i->tries = 0;
	if (i->recipe == RECIPE_SHORT)
		i->recipe = RECIPE_DUMP;
	if (item_tries_short(i, n)) {
		i->recipe = RECIPE_SHORT;
		item_read(b, i);
		return;
	}
	item_charge(b, i, i->size ? i->size : CHARGE_UNKNOWN);
	if ((i->want_type || c->losses >= COPY_LOSSES_BEFORE_INBAND) && i->recipe == RECIPE_DUMP && !dump_is_safe(b, c->from)) {
		struct slice words[2] = { SLICE_LIT("TYPE"), copy_key(c) };
		sdsclear(b->scratch);
		b->scratch = resp_cat_request(b->scratch, 2, words);
		bulk_send(n->bulk, c->db, b->scratch, sdslen(b->scratch), 1, on_type, i);
		i->sized = 0;
	}
	if (i->sized) {
		item_read(b, i);
		return;
	}
	item_measure(b, i);
}

/* ---- reading ---- */

static void on_read(void *arg, struct slice reply, const char *why);

/* Between two writes of the data connection: order alone makes it exact, so a key that keeps changing cannot starve (invariant 3). */
static void item_inband(struct backfill *b, struct item *i)
{
	struct copy *c = item_copy(i);
	struct receiver from = receiver_of(b, c->from);

	item_leave(i);
	item_clear_block(i);
	c->kind = COPY_INBAND;
	c->recipe = i->recipe;
	c->block = sdsempty();
	c->ncommands = recipe_read(c->recipe, &from, copy_key(c), &c->block);
	item_offer(b, i);
}

static void item_read(struct backfill *b, struct item *i)
{
	struct copy *c = item_copy(i);
	struct receiver from = receiver_of(b, c->from);

	assert(i->conn);
	item_charge(b, i, i->size ? i->size : i->recipe == RECIPE_SHORT ? CHARGE_SHORT : CHARGE_UNKNOWN);
	c->generation = b->topology[c->from]->generation;
	c->token = b->host->token(b->host->ctx, c->hash, c->slot, false);
	if (c->losses >= COPY_LOSSES_HELD || (c->losses >= COPY_LOSSES_BEFORE_INBAND && i->hot)) {
		item_leave(i);
		biglane_push(b->biglane, i); /* small, but in-band did not do */
		return;
	}
	if (c->losses >= COPY_LOSSES_BEFORE_INBAND) {
		item_inband(b, i);
		return;
	}
	if (c->token == TOKEN_BUSY) {
		item_leave(i);
		item_lost(b, i, false);
		return;
	}
	sdsclear(b->scratch);
	i->want = (uint8_t)recipe_read(i->recipe, &from, copy_key(c), &b->scratch);
	bulk_send(i->conn->bulk, c->db, b->scratch, sdslen(b->scratch), i->want, on_read, i);
}

static enum recipe_result item_compose(struct backfill *b, struct item *i, const struct slice *replies, enum recipe *next, const char **why)
{
	struct copy *c = item_copy(i);
	struct receiver to = receiver_of(b, SIDE_OTHER(c->from));
	size_t bytes = 0;

	for (unsigned k = 0; k < i->want; k++)
		bytes += replies[k].n;
	item_clear_block(i);
	/* Given its size at once: one allocation per key. */
	c->block = must(sdsnewlen(NULL, bytes + 2 * c->key_len + 160));
	sdsclear(c->block);
	enum recipe_result r = recipe_compose(i->recipe, &to, copy_key(c), replies, i->want, b->host->now_ms(b->host->ctx, c->from), &c->block,
					      &c->ncommands, next, why);
	if (i->unit)
		pace_spend(&b->pace, 0, bytes);
	item_charge(b, i, bytes > sdslen(c->block) ? bytes : sdslen(c->block));
	return r;
}

/* A reply was an error: by its kind. */
static void item_read_error(struct backfill *b, struct item *i, const struct slice *replies, const char *why)
{
	for (unsigned k = 0; k < i->want; k++) {
		if (reply_error(replies[k]) == REPLY_ELSEWHERE) {
			item_misrouted(b, i);
			return;
		}
	}
	bf_failing(b, LOGK_ERROR, "cannot read a key of slot %u from the %s: %.160s", item_copy(i)->slot, side_name(item_copy(i)->from), why ? why : "error");
	item_fail(b, i, why);
}

static void on_read(void *arg, struct slice reply, const char *why)
{
	struct item *i = arg;
	struct backfill *b = i->b;
	struct slice replies[REPLIES_MAX];
	enum recipe next = RECIPE_DUMP;

	if (!reply.p) {
		conn_was_lost(i->conn, why);
		item_leave(i);
		item_fail(b, i, why);
		return;
	}
	if (!conn_gather(i->conn, reply, i->want, replies))
		return;
	why = NULL;
	enum recipe_result r = item_compose(b, i, replies, &next, &why);
	conn_saw(i->conn, i->recipe, r, replies[0]);
	if (r == RECIPE_RETYPE && i->recipe == RECIPE_SHORT) {
		i->recipe = RECIPE_DUMP;
		item_charge(b, i, CHARGE_UNKNOWN);
		item_measure(b, i);
		return;
	}
	if (r == RECIPE_RETYPE && ++i->tries < RECIPES_TRIED) {
		i->recipe = (uint8_t)next;
		item_read(b, i);
		return;
	}
	item_leave(i);
	switch (r) {
	case RECIPE_OK:
	case RECIPE_GONE:
		uncarried_gone(b, item_copy(i));
		item_offer(b, i);
		break;
	case RECIPE_RETYPE:
		item_lost(b, i, false);
		break;
	case RECIPE_CANNOT:
		item_uncarried(b, i, why);
		break;
	case RECIPE_ERROR:
		item_read_error(b, i, replies, why);
		break;
	}
}

/* ---- to the owner and back ---- */

/* True: the owner has it; a repair is no longer ours and may be gone already. */
static bool item_hand_over(struct backfill *b, struct item *i)
{
	struct copy *c = item_copy(i);
	bool repair = !i->unit, held = i->held;
	uint64_t charged = i->charged;

	i->held = 0;
	if (repair && i->serial && !c->undo)
		c->undo = biglane_undo(i);
	if (!b->host->offer(b->host->ctx, c)) {
		i->held = held;
		return false;
	}
	if (repair) {
		b->bytes -= charged;
		b->repairs--;
	}
	/* Behind the offer in the owner's mailbox: writes held back go on only after the copy stands in the follower's queue. */
	if (held)
		biglane_let_go(b->biglane, NULL);
	return true;
}

void item_offer(struct backfill *b, struct item *i)
{
	assert(!i->conn);
	if (item_dropped(i)) {
		if (i->serial)
			biglane_discard(b->biglane, i);
		item_end(b, i, false);
		return;
	}
	if (b->unoffered.n > 0 || !item_hand_over(b, i)) {
		queue_push(&b->unoffered, i);
		bf_wake(b);
	}
}

static void offer_again(struct backfill *b)
{
	while (b->unoffered.head) {
		struct item *i = b->unoffered.head;
		if (item_dropped(i)) {
			item_end(b, queue_pop(&b->unoffered), false);
			continue;
		}
		/* Taken out first: once it is handed over, its `next` is the owner's business. */
		queue_pop(&b->unoffered);
		if (item_hand_over(b, i))
			continue;
		queue_push_front(&b->unoffered, i);
		return;
	}
}

static void copied_error(struct backfill *b, struct item *i)
{
	struct copy *c = item_copy(i);

	bf_failing(b, LOGK_ERROR, "the %s refused a key of slot %u: %.160s", side_name(SIDE_OTHER(c->from)), c->slot, c->why ? c->why : "error");
	free(c->why);
	c->why = NULL;
	i->want_type = 1;
	i->errors = i->errors < 3 ? 3 : i->errors;
	item_retry_later(b, i);
}

void backfill_copied(struct backfill *b, struct copy *c)
{
	struct item *i = copy_item(c);

	assert(i->unit && i->b == b && !i->conn);
	bf_wake(b);
	if (i->serial && c->result != COPY_APPLIED)
		biglane_discard(b->biglane, i);
	if (item_dropped(i)) {
		item_end(b, i, false);
		return;
	}
	switch (c->result) {
	case COPY_APPLIED:
		b->refused_until = 0;
		if (!c->uncarried) {
			stat_add(&b->stats->keys_copied, 1);
			i->unit->copied++;
		}
		stat_add(&b->stats->bytes, i->charged > ITEM_OVERHEAD ? i->charged - ITEM_OVERHEAD : 0);
		item_end(b, i, true);
		break;
	case COPY_STALE:
		item_lost(b, i, true);
		break;
	case COPY_REFUSED:
		b->refused_until = bf_now(b) + REFUSED_PAUSE_S;
		item_retry_later(b, i);
		break;
	case COPY_ERROR:
		copied_error(b, i);
		break;
	case COPY_TOO_BIG:
		/* In-band did not do: measure it again, and choose the recipe by type. */
		c->losses = 0;
		i->sized = 0;
		i->hot = i->want_type = 1;
		item_lost(b, i, true);
		break;
	}
}

void backfill_repair(struct backfill *b, uint16_t db, struct slice key, uint16_t slot, uint8_t losses)
{
	struct item *i = item_new(b, db, key, slot, NULL);

	item_copy(i)->losses = losses;
	item_queue(b, i);
}

/* ---- the loop turn ---- */

static void conn_feed(struct backfill *b, struct conn *n, double now)
{
	unsigned window = NODE_WINDOW, want;

	if (!conn_ready(n, now))
		return;
	while (n->urgent.n && n->reading < window && b->bytes < BYTES_MAX)
		item_start(b, n, queue_pop(&n->urgent));
	if (b->scan.paused || b->unoffered.n > NODE_WINDOW)
		return;
	if (now < b->refused_until)
		window = REFUSED_WINDOW;
	want = n->reading < window ? window - n->reading : 0;
	want = want < n->work.n ? want : (unsigned)n->work.n;
	if (!want)
		return;
	want = pace_allowed(&b->pace, now, want);
	for (; want > 0 && n->work.n && b->bytes < BYTES_MAX; want--) {
		item_start(b, n, queue_pop(&n->work));
		pace_spend(&b->pace, 1, 0);
	}
}

void pipeline_feed(struct backfill *b, double now)
{
	offer_again(b);
	for (int s = 0; s < SIDES; s++)
		for (unsigned k = 0; k < b->conns[s].n; k++)
			if (b->conns[s].list[k] && (b->conns[s].list[k]->urgent.n || b->conns[s].list[k]->work.n))
				conn_feed(b, b->conns[s].list[k], now);
}

void pipeline_tick(struct backfill *b, double now)
{
	for (int d = 0; d < DELAYS; d++)
		while (b->delayed[d].head && b->delayed[d].head->due <= now)
			item_queue(b, queue_pop(&b->delayed[d]));
}

static void queue_drop(struct backfill *b, struct queue *q)
{
	struct item *i;

	while ((i = queue_pop(q)))
		item_end(b, i, false);
}

void pipeline_free(struct backfill *b)
{
	for (int d = 0; d < DELAYS; d++)
		queue_drop(b, &b->delayed[d]);
	queue_drop(b, &b->unoffered);
}
