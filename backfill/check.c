/* check.c - one key on both sides: sizes → token → DUMP of both → token. Equal payloads settle it; else both are read by type and compared canonically.
 *
 * A difference counts only if the token was quiet and the same before and after (nothing of the key's stripe was in flight, queued or
 * unacknowledged), and only if it is still there after a few looks and, at last, with the slot's writes held back, when equality counts without a token (is_proven).
 * A rescan marks at once: a mark too many costs one copy. */
#include "backfill/tour.h"

#include <string.h>

#include "resp/parse.h"
#include "resp/write.h"

#define LOOKS 4       /* before writes are held back */
#define LOOKS_HELD 8
#define LOOKS_ALL 80     /* then it counts: a key that stays dirty */
#define PAUSE_HELD_S 0.005

static const double look_delay_s[] = { 0.02, 0.05, 0.1, 0.2, 0.5, 1. };

void checks_init(struct checks *q)
{
	q->head = NULL;
	q->tail = &q->head;
	q->n = 0;
}

void checks_push(struct checks *q, struct check *c)
{
	c->next = NULL;
	*q->tail = c;
	q->tail = &c->next;
	q->n++;
}

struct check *checks_pop(struct checks *q)
{
	struct check *c = q->head;

	if (!c)
		return NULL;
	q->head = c->next;
	if (!q->head)
		q->tail = &q->head;
	q->n--;
	return c;
}

void check_new(struct leg *l, uint16_t db, uint16_t slot, struct slice key, bool only_extra)
{
	struct tour *t = l->t;
	struct check *c = must(malloc(sizeof(*c) + key.n + 1));

	memset(c, 0, sizeof(*c));
	c->t = t;
	c->leg = l;
	c->slot = slot;
	c->db = db;
	c->only_extra = only_extra;
	c->hash = keyhash_of(db, key);
	bf_fetch_token(t->b, c->hash, slot);
	c->stage = only_extra ? CHECK_EXISTS : CHECK_SIZE;
	c->view[0].c = c->view[1].c = c;
	c->key_len = key.n;
	memcpy(c->key, key.p, key.n);
	c->key[key.n] = '\0';
	l->left++;
	t->alive++;
	checks_push(&t->ready, c);
}

bool check_dropped(const struct check *c)
{
	return c->leg->dead;
}

void check_stand(struct check *c)
{
	assert(c->awaited == 0);
	if (!c->running)
		return;
	assert(c->t->inflight > 0);
	c->t->inflight--;
	c->running = false;
}

static void check_rest(struct check *c)
{
	check_stand(c);
	if (c->held) {
		c->held = false;
		tour_hold_done(c->t);
	}
}

void check_drop(struct check *c)
{
	struct leg *l = c->leg;

	check_rest(c);
	l->left--;
	l->t->alive--;
	free(c);
	leg_settle(l);
}

/* ---- how it ends ---- */

static _Atomic uint64_t *stat_of(struct bf_stats *s, enum difference d)
{
	switch (d) {
	case DIFF_MISSING:
		return &s->missing;
	case DIFF_TYPE:
		return &s->type;
	case DIFF_VALUE:
		return &s->value;
	case DIFF_EXPIRY:
		return &s->expiry;
	default:
		return &s->extra;
	}
}

static bool try_mark(struct check *c)
{
	struct tour *t = c->t;

	if (!t->b->host->mark(t->b->host->ctx, c->db, check_key(c), c->slot))
		return false;
	if (t->verify) {
		stat_add(&t->b->stats->repaired, 1);
		c->leg->tally.repaired++;
	}
	return true;
}

/* Marks that found the owner's ring full. */
void check_feed_marks(struct tour *t)
{
	while (t->unmarked.head) {
		struct check *c = t->unmarked.head;
		if (!check_dropped(c) && !try_mark(c))
			return;
		check_drop(checks_pop(&t->unmarked));
	}
}

static void check_count(struct check *c, enum difference d)
{
	static const char *const names[DIFFS] = { "none", "missing", "type", "value", "expiry", "extra" };
	struct tour *t = c->t;
	struct backfill *b = t->b;

	if (t->verify) {
		stat_add(stat_of(b->stats, d), 1);
		c->leg->tally.diffs[d]++;
		stat_add(&b->stats->checked, 1);
		c->leg->tally.checked++;
		if (bf_may_log(b, LOGK_CHECK))
			b->host->log(b->host->ctx, BF_LOG_NOTICE, "a key of slot %u differs between the sides: %s", c->slot, names[d]);
	}
	check_rest(c);
	/* What a cutover left behind is the only copy there is: the way back needs it. */
	bool left_behind = d == DIFF_EXTRA && uncarried_left_behind(b, c->db, check_key(c), c->slot);
	if ((t->repair || !t->verify) && !left_behind && (t->unmarked.n || !try_mark(c)))
		checks_push(&t->unmarked, c);
	else
		check_drop(c);
}

static void check_delay(struct check *c, unsigned n)
{
	unsigned last = sizeof(look_delay_s) / sizeof(*look_delay_s) - 1;

	check_rest(c);
	c->stage = CHECK_SIZE;
	c->due = bf_now(c->t->b) + look_delay_s[n < last ? n : last];
	checks_push(&c->t->delayed, c);
	bf_wake(c->t->b);
}

/* Writes stay held back meanwhile: what is queued or dirty arrives. */
static void check_pause(struct check *c)
{
	check_stand(c);
	c->stage = CHECK_SIZE;
	c->due = bf_now(c->t->b) + PAUSE_HELD_S;
	checks_push(&c->t->delayed, c);
	bf_wake(c->t->b);
}

/* Looks again: after a pause, then with writes held back. A rescan does not need to know exactly. */
void check_again(struct check *c, bool failed)
{
	struct tour *t = c->t;

	if (check_dropped(c)) {
		check_drop(c);
		return;
	}
	if (failed) {
		if (c->fails < UINT8_MAX)
			c->fails++;
		check_delay(c, c->fails);
		return;
	}
	c->tries++;
	if (c->tries < LOOKS) {
		check_delay(c, c->tries);
	} else if (!t->verify) {
		check_count(c, DIFF_VALUE);
	} else if (c->tries == LOOKS_ALL) {
		check_count(c, DIFF_VALUE); /* it stays dirty: what it should be does not arrive */
	} else if (c->held && c->tries % LOOKS_HELD) {
		check_pause(c);
	} else {
		check_rest(c);
		c->stage = CHECK_SIZE;
		checks_push(&t->heldup, c);
		bf_wake(t->b);
	}
}

void check_elsewhere(struct check *c)
{
	/* A leg is listed again; in a pass the key itself is looked at again, on the node that has its slot then. */
	if (c->leg->slot < SLOTS) {
		c->leg->broken = true;
		check_drop(c);
	} else {
		check_again(c, true);
	}
}

void check_decide(struct check *c, enum difference d)
{
	struct tour *t = c->t;

	if (check_dropped(c)) {
		check_drop(c);
		return;
	}
	if (d != DIFF_NONE) {
		if (t->verify && !c->held)
			check_again(c, false);
		else
			check_count(c, d);
		return;
	}
	if (t->verify) {
		stat_add(&t->b->stats->checked, 1);
		c->leg->tally.checked++;
	}
	check_drop(c);
}

/* ---- asking both sides ---- */

static void check_compare(struct check *c);
static void check_measure(struct check *c);
static void check_read(struct check *c, enum check_stage stage, enum recipe r);

/* Both answered, or one (CHECK_EXISTS). */
static void check_answered(struct check *c)
{
	struct view *a = &c->view[0], *f = &c->view[1];

	if (check_dropped(c)) {
		check_drop(c);
	} else if (a->elsewhere || f->elsewhere) {
		check_elsewhere(c);
	} else if (a->lost || f->lost) {
		check_again(c, true);
	} else if (c->stage == CHECK_EXISTS) {
		c->stage = CHECK_SIZE;
		if (a->number != 0) {
			check_drop(c); /* the authority's pass looks at it */
			return;
		}
		check_start(c);
	} else if (c->stage == CHECK_SIZE) {
		if (a->number > (int64_t)c->t->b->config.large_bytes || f->number > (int64_t)c->t->b->config.large_bytes) {
			c->stage = CHECK_BIG;
			bigcheck_push(c->t->bigcheck, c);
		} else {
			check_read(c, CHECK_DUMP, RECIPE_DUMP);
		}
	} else if (c->stage == CHECK_SHORT && (a->result == RECIPE_RETYPE || f->result == RECIPE_RETYPE)) {
		check_measure(c);
	} else {
		check_compare(c);
	}
}

static void view_answered(struct view *v)
{
	struct check *c = v->c;

	v->conn->checking--;
	v->conn = NULL;
	if (--c->awaited == 0)
		check_answered(c);
}

static bool view_lost(struct view *v, struct slice reply, const char *why)
{
	if (reply.p)
		return false;
	v->lost = true;
	conn_was_lost(v->conn, why);
	view_answered(v);
	return true;
}

static void on_number(void *arg, struct slice reply, const char *why)
{
	struct view *v = arg;

	if (view_lost(v, reply, why))
		return;
	v->conn->lost = false;
	v->number = 0;
	if (!reply_int(reply, &v->number))
		v->elsewhere = reply_error(reply) == REPLY_ELSEWHERE;
	view_answered(v);
}

/* What has ended by one side's clock and not by the other's is no difference: both hold the same millisecond (docs/operations.md, clocks). */
int64_t later_clock_ms(struct backfill *b)
{
	int64_t source = b->host->now_ms(b->host->ctx, SIDE_SOURCE), target = b->host->now_ms(b->host->ctx, SIDE_TARGET);

	return source > target ? source : target;
}

static void view_digest(struct view *v, struct slice *replies)
{
	struct check *c = v->c;
	struct backfill *b = c->t->b;
	enum side side = v == &c->view[0] ? (enum side)c->from : SIDE_OTHER(c->from);
	const char *why = NULL;
	struct resp_item item;
	char text[200];

	for (int k = 0; k < 2; k++)
		if (reply_error(replies[k]) == REPLY_ELSEWHERE)
			v->elsewhere = true;
	v->recipe = c->stage == CHECK_SHORT ? RECIPE_STRING : RECIPE_DUMP;
	if (c->stage == CHECK_DUMP && resp_item(replies[0].p, replies[0].p + replies[0].n, &item) && item.type == '$')
		v->recipe = (uint8_t)payload_type_recipe(item.text);
	v->result = value_digest((enum recipe)c->recipe, replies, 2, later_clock_ms(b), &v->digest, &v->expires_at_ms, &why);
	conn_saw(v->conn, (enum recipe)c->recipe, v->result, replies[0]);
	if (v->result == RECIPE_ERROR) {
		v->lost = true;
		if (!v->elsewhere)
			bf_failing(b, LOGK_CHECK, "cannot read a key of slot %u of the %s for comparing: %s", c->slot, side_name(side), why ? why : reply_text(replies[0], text, sizeof(text)));
	}
}

static void on_value(void *arg, struct slice reply, const char *why)
{
	struct view *v = arg;
	struct slice replies[REPLIES_MAX];

	if (view_lost(v, reply, why))
		return;
	if (!conn_gather(v->conn, reply, 2, replies))
		return;
	view_digest(v, replies);
	view_answered(v);
}

/* Both sides' connections, or the look is put off. */
static bool check_route(struct check *c, struct conn **conn)
{
	struct backfill *b = c->t->b;
	double now = bf_now(b);

	c->from = (uint8_t)bf_authority(b, c->slot);
	for (int k = 0; k < 2; k++) {
		conn[k] = conn_of(b, k == 0 ? (enum side)c->from : SIDE_OTHER(c->from), c->slot);
		if (!conn[k] || !conn_ready(conn[k], now))
			return false;
		c->view[k].lost = c->view[k].elsewhere = false;
	}
	return true;
}

static void check_ask(struct check *c, struct conn **conn, int sides, bulk_fn *fn, unsigned replies)
{
	struct backfill *b = c->t->b;

	c->awaited = (uint8_t)sides;
	for (int k = 0; k < sides; k++) {
		c->view[k].conn = conn[k];
		conn[k]->checking++;
		bulk_send(conn[k]->bulk, c->db, b->scratch, sdslen(b->scratch), replies, fn, &c->view[k]);
	}
}

static void check_read(struct check *c, enum check_stage stage, enum recipe r)
{
	struct backfill *b = c->t->b;
	struct conn *conn[2];

	c->stage = stage;
	c->recipe = (uint8_t)r;
	if (!check_route(c, conn)) {
		check_again(c, true);
		return;
	}
	c->token = b->host->token(b->host->ctx, c->hash, c->slot, true);
	if (c->token == TOKEN_BUSY && !c->held) {
		check_again(c, false);
		return;
	}
	/* The recipe's reads may depend on what the server knows, so each side gets its own. */
	c->awaited = 2;
	for (int k = 0; k < 2; k++) {
		struct receiver kind = receiver_of(b, conn[k]->side);
		sdsclear(b->scratch);
		unsigned n = recipe_read(r, &kind, check_key(c), &b->scratch);
		assert(n == 2);
		c->view[k].conn = conn[k];
		conn[k]->checking++;
		bulk_send(conn[k]->bulk, c->db, b->scratch, sdslen(b->scratch), n, on_value, &c->view[k]);
	}
}

/* EXISTS of one side, or the size on both. */
static void check_number(struct check *c, struct conn **conn)
{
	struct backfill *b = c->t->b;

	sdsclear(b->scratch);
	if (c->stage == CHECK_EXISTS)
		b->scratch = sdscatlen(b->scratch, EXISTS_ONE, sizeof(EXISTS_ONE) - 1);
	else
		b->scratch = sdscatlen(b->scratch, MEMORY_USAGE, sizeof(MEMORY_USAGE) - 1);
	b->scratch = resp_cat_bulk(b->scratch, check_key(c));
	check_ask(c, conn, c->stage == CHECK_EXISTS ? 1 : 2, on_number, 1);
}

/* It is no short string. */
static void check_measure(struct check *c)
{
	struct conn *conn[2];

	c->stage = CHECK_SIZE;
	if (check_route(c, conn))
		check_number(c, conn);
	else
		check_again(c, true);
}

void check_start(struct check *c)
{
	struct conn *conn[2];

	if (!c->running)
		c->t->inflight++;
	c->running = true;
	if (!check_route(c, conn))
		check_again(c, true);
	else if (c->stage == CHECK_SIZE && conn_tries_short(conn[0]))
		check_read(c, CHECK_SHORT, RECIPE_SHORT);
	else
		check_number(c, conn);
}

/* ---- comparing ---- */

static bool expiry_equal(const struct view *a, const struct view *f)
{
	int64_t d = a->expires_at_ms - f->expires_at_ms;

	if ((a->expires_at_ms < 0) != (f->expires_at_ms < 0))
		return false;
	return d >= -EXPIRY_TOLERANCE_MS && d <= EXPIRY_TOLERANCE_MS;
}

/* It ends in a moment on both sides, by clocks that are not known to the millisecond. */
static bool ends_soon(struct check *c, const struct view *there)
{
	return there->expires_at_ms >= 0 && there->expires_at_ms < later_clock_ms(c->t->b) + EXPIRES_SOON_MS;
}

static void compare_one_sided(struct check *c)
{
	const struct view *a = &c->view[0], *there = a->result == RECIPE_GONE ? &c->view[1] : a;

	if (c->view[1].result == RECIPE_GONE && a->result == RECIPE_GONE)
		check_drop(c); /* deleted or expired meanwhile: not a key any more */
	else if (ends_soon(c, there))
		check_again(c, true);
	else
		check_decide(c, a->result == RECIPE_GONE ? DIFF_EXTRA : DIFF_MISSING);
}

static bool are_equal(const struct view *a, const struct view *f)
{
	if (a->result == RECIPE_GONE)
		return f->result == RECIPE_GONE;
	return a->result == RECIPE_OK && f->result == RECIPE_OK && digest_eq(a->digest, f->digest) && expiry_equal(a, f);
}

/* Payloads of one type that differ may be the same value, stored in another way: read again, as values. */
static bool is_by_type(const struct check *c)
{
	const struct view *a = &c->view[0], *f = &c->view[1];

	return c->stage == CHECK_DUMP && a->result == RECIPE_OK && f->result == RECIPE_OK && a->recipe == f->recipe && a->recipe != RECIPE_DUMP;
}

/* Nothing that may have changed the key was under way from before the reads until now. Also under a hold: a mark by a foreign write moves the version. A key
 * written all the time that shares the stripe, of another slot, moves it, too, and for ever: under a hold what is equal needs no proof. */
static bool is_proven(const struct check *c)
{
	const struct backfill_host *host = c->t->b->host;

	return c->token != TOKEN_BUSY && host->token(host->ctx, c->hash, c->slot, true) == c->token;
}

static void check_compare(struct check *c)
{
	struct backfill *b = c->t->b;
	struct view *a = &c->view[0], *f = &c->view[1];

	if (bf_authority(b, c->slot) != c->from || (!is_proven(c) && !(c->held && (are_equal(a, f) || is_by_type(c))))) {
		check_again(c, false);
		return;
	}
	if (a->result == RECIPE_GONE || f->result == RECIPE_GONE) {
		compare_one_sided(c);
	} else if (a->result == RECIPE_RETYPE || f->result == RECIPE_RETYPE) {
		/* The type of one changed since the payload told it; where it stays so, it is a difference. */
		check_decide(c, DIFF_TYPE);
	} else if (a->result == RECIPE_OK && f->result == RECIPE_OK && digest_eq(a->digest, f->digest)) {
		check_decide(c, expiry_equal(a, f) ? DIFF_NONE : DIFF_EXPIRY);
	} else if (c->stage == CHECK_DUMP && a->recipe != f->recipe) {
		check_decide(c, DIFF_TYPE);
	} else if (is_by_type(c)) {
		check_read(c, CHECK_TYPED, (enum recipe)a->recipe);
	} else {
		check_decide(c, DIFF_VALUE);
	}
}
