/* tour.c - walks both sides, both ways, in fixed memory: verify, and the rescan of dirty slots.
 *
 * Both sides clusters: slot by slot, a leg each; the keys of the slot are listed on both sides (between probes, race 8) and their union is checked.
 * A standalone side, or slots too big for a list: SCAN of the authority's nodes, every key checked; then SCAN of the follower's nodes,
 * where a key that the authority lacks is checked (race 2: what was deleted meanwhile must go). */
#include "backfill/tour.h"

#include <string.h>
#include <time.h>

#include "resp/parse.h"
#include "resp/write.h"

#define ORDER 5461u       /* odd: slot = k * ORDER mod SLOTS visits all, and neighbours lie on different nodes */
#define GUESS_SLACK 32
#define SCAN_COUNT_ARG "500"
#define SCAN_KEYS 700
#define RETRY_S 0.25
#define TOUR_HOLD_MS 200
#define FUNCTIONS_TRIED 40 /* a service may forbid FUNCTION: then it is told, not waited for */

static enum side tour_side(const struct tour *t, uint16_t slot, unsigned which)
{
	enum side a = bf_authority(t->b, slot);

	return which == 0 ? a : SIDE_OTHER(a);
}

struct tour *tour_new(struct backfill *b, bool verify)
{
	struct tour *t = must(calloc(1, sizeof(*t)));

	t->b = b;
	t->verify = verify;
	checks_init(&t->ready);
	checks_init(&t->delayed);
	checks_init(&t->heldup);
	checks_init(&t->unmarked);
	t->bigcheck = bigcheck_new(t);
	return t;
}

bool tour_active(const struct tour *t)
{
	return t->stage != TOUR_OFF || t->wanted > 0;
}

/* ---- legs ---- */

static struct leg *leg_new(struct tour *t, uint16_t slot)
{
	struct leg *l = must(calloc(1, sizeof(*l)));

	l->t = t;
	l->slot = slot;
	l->next = t->legs;
	if (l->next)
		l->next->prev = l;
	t->legs = l;
	t->nlegs++;
	return l;
}

static void leg_free(struct leg *l)
{
	struct tour *t = l->t;

	if (l->prev)
		l->prev->next = l->next;
	else
		t->legs = l->next;
	if (l->next)
		l->next->prev = l->prev;
	t->nlegs--;
	sdsfree(l->list[0]);
	sdsfree(l->list[1]);
	free(l);
}

/* It is walked again, so what it counted is taken back. */
static void tally_take_back(struct tour *t, struct tally *y)
{
	struct bf_stats *s = t->b->stats;

	stat_add(&s->checked, -y->checked);
	stat_add(&s->repaired, -y->repaired);
	stat_add(&s->missing, -y->diffs[DIFF_MISSING]);
	stat_add(&s->type, -y->diffs[DIFF_TYPE]);
	stat_add(&s->value, -y->diffs[DIFF_VALUE]);
	stat_add(&s->expiry, -y->diffs[DIFF_EXPIRY]);
	stat_add(&s->extra, -y->diffs[DIFF_EXTRA]);
	memset(y, 0, sizeof(*y));
}

static void slot_again(struct tour *t, uint16_t slot)
{
	t->state[slot] = TSLOT_TODO;
	t->todo++;
	t->retry_at = bf_now(t->b) + RETRY_S;
	bf_wake(t->b);
}

static void slot_walked(struct tour *t, uint16_t slot)
{
	t->state[slot] = TSLOT_DONE;
	/* Asked for again meanwhile: that request is answered by its own walk. */
	if (!t->verify && !t->want[slot])
		t->b->host->slot_clean(t->b->host->ctx, slot);
}

static void pass_ended(struct tour *t);

void leg_settle(struct leg *l)
{
	struct tour *t = l->t;

	if (l->left > 0 || l->awaited > 0)
		return;
	if (l->dead) {
		leg_free(l);
		return;
	}
	if (l == t->pass) {
		pass_ended(t);
		return;
	}
	if (l->big) {
		t->big[l->slot] = 1;
		t->nbig++;
		t->state[l->slot] = TSLOT_OPEN; /* until the pass */
	} else if (l->broken) {
		tally_take_back(t, &l->tally);
		slot_again(t, l->slot);
	} else {
		slot_walked(t, l->slot);
	}
	leg_free(l);
	bf_wake(t->b);
}

struct keys {
	struct slice *at;
	size_t n, cap;
};

static void keys_add(void *arg, struct slice key)
{
	struct keys *k = arg;

	if (k->n < k->cap && !is_own_key(key))
		k->at[k->n++] = key;
}

static int slice_order(const void *a, const void *b)
{
	const struct slice *x = a, *y = b;
	int c = memcmp(x->p, y->p, x->n < y->n ? x->n : y->n);

	return c ? c : (x->n > y->n) - (x->n < y->n);
}

/* The union of both lists becomes checks. */
static void leg_listed(struct leg *l)
{
	struct keys a = { must(malloc(l->asked * sizeof(struct slice))), 0, l->asked };
	struct keys f = { must(malloc(l->asked * sizeof(struct slice))), 0, l->asked };

	reply_each(slice(l->list[0], sdslen(l->list[0])), keys_add, &a);
	reply_each(slice(l->list[1], sdslen(l->list[1])), keys_add, &f);
	qsort(a.at, a.n, sizeof(*a.at), slice_order);
	for (size_t i = 0; i < a.n; i++)
		check_new(l, (uint16_t)l->db, l->slot, a.at[i], false);
	for (size_t i = 0; i < f.n; i++)
		if (!bsearch(&f.at[i], a.at, a.n, sizeof(*a.at), slice_order))
			check_new(l, (uint16_t)l->db, l->slot, f.at[i], false);
	free(a.at);
	free(f.at);
	sdsfree(l->list[0]);
	sdsfree(l->list[1]);
	l->list[0] = l->list[1] = NULL;
}

/* More keys than were asked for. */
static void leg_larger(struct leg *l)
{
	struct tour *t = l->t;

	t->ask[l->slot] = (uint16_t)(l->asked * 2);
	if (l->left) { /* of another database: they end first */
		l->broken = true;
		return;
	}
	tally_take_back(t, &l->tally);
	slot_again(t, l->slot);
	t->retry_at = 0;
	leg_free(l);
}

static void leg_list(struct leg *l);

static void leg_answered(struct leg *l)
{
	struct tour *t = l->t;
	struct resp_item item;
	bool more = false;

	if (--l->awaited > 0)
		return;
	if (!l->dead)
		t->expected -= 2 * (uint64_t)l->asked;
	for (int k = 0; k < 2 && !l->broken; k++)
		if (resp_item(l->list[k], l->list[k] + sdslen(l->list[k]), &item) && (uint64_t)item.n >= l->asked)
			more = true;
	if (l->dead || l->broken) {
		leg_settle(l);
	} else if (more && l->asked * 2 > SLOT_SCAN_OVER) {
		l->big = true;
		leg_settle(l);
	} else if (more) {
		leg_larger(l);
	} else {
		l->awaited = 1; /* not settled while keys are added */
		leg_listed(l);
		l->awaited = 0;
		l->db = db_set_next(&t->dbs, l->db + 1);
		if (l->db < DBS_MAX)
			leg_list(l);
		else
			leg_settle(l);
	}
}

static void leg_reply(struct leg *l, int k, struct slice reply, const char *why)
{
	struct slice replies[3];
	struct conn *c = l->conn[k];
	struct resp_item item;
	int64_t n;

	if (!reply.p)
		conn_was_lost(c, why);
	else if (!conn_gather(c, reply, 3, replies))
		return;
	c->checking--;
	if (!reply.p || !reply_int(replies[0], &n) || !reply_int(replies[2], &n) ||
	    !resp_item(replies[1].p, replies[1].p + replies[1].n, &item) || item.type != '*') {
		if (reply.p)
			list_failing(c->b, c->side, l->slot, replies);
		l->broken = true;
	} else {
		l->list[k] = must(sdsnewlen(replies[1].p, replies[1].n));
	}
	leg_answered(l);
}

static void on_authority_list(void *arg, struct slice reply, const char *why)
{
	leg_reply(arg, 0, reply, why);
}

static void on_follower_list(void *arg, struct slice reply, const char *why)
{
	leg_reply(arg, 1, reply, why);
}

static void leg_list(struct leg *l)
{
	struct backfill *b = l->t->b;
	char number[16], count[16];

	l->awaited = 2;
	l->t->expected += 2 * (uint64_t)l->asked;
	snprintf(number, sizeof(number), "%u", l->slot);
	snprintf(count, sizeof(count), "%u", l->asked);
	sdsclear(b->scratch);
	b->scratch = cat_probe(b->scratch, l->slot);
	b->scratch = resp_cat_words(b->scratch, "CLUSTER", "GETKEYSINSLOT", number, count, NULL);
	b->scratch = cat_probe(b->scratch, l->slot);
	for (int k = 0; k < 2; k++) {
		l->conn[k]->checking++;
		bulk_send(l->conn[k]->bulk, (int)l->db, b->scratch, sdslen(b->scratch), 3, k == 0 ? on_authority_list : on_follower_list, l);
	}
}

static bool leg_open(struct tour *t, uint16_t slot, double now)
{
	struct backfill *b = t->b;
	struct conn *conn[2];

	for (unsigned k = 0; k < 2; k++) {
		conn[k] = conn_of(b, tour_side(t, slot, k), slot);
		if (!conn[k] || !conn_ready(conn[k], now))
			return false;
	}
	struct leg *l = leg_new(t, slot);
	l->asked = t->ask[slot] ? t->ask[slot] : t->guess;
	l->conn[0] = conn[0];
	l->conn[1] = conn[1];
	t->state[slot] = TSLOT_OPEN;
	t->todo--;
	leg_list(l);
	return true;
}

static void open_legs(struct tour *t, double now)
{
	for (unsigned looked = 0; looked < SLOTS && t->todo > 0; looked++) {
		uint16_t slot = (uint16_t)(t->next * ORDER % SLOTS);
		uint32_t ask = t->ask[slot] ? t->ask[slot] : t->guess;
		/* A slot larger than the bound is walked alone. */
		bool room = t->nlegs == 0 || (t->nlegs < TOUR_LEGS && t->alive + t->expected + 2 * ask <= CHECKS_MAX);
		if (t->state[slot] == TSLOT_TODO && (!room || !leg_open(t, slot, now)))
			return;
		t->next = (t->next + 1) % SLOTS;
	}
}

/* ---- passes ---- */

static void pass_key(void *arg, struct slice key)
{
	struct tour *t = arg;
	uint16_t slot = slot_of(key);

	if ((t->pass_all || t->big[slot]) && t->state[slot] == TSLOT_OPEN && !is_own_key(key))
		check_new(t->pass, (uint16_t)t->pass_db, slot, key, t->pass_side == 1);
}

static struct conn *pass_conn(struct tour *t)
{
	struct conns *cs = &t->b->conns[tour_side(t, 0, t->pass_side)];

	return t->pass_node < cs->n ? cs->list[t->pass_node] : NULL;
}

static void on_pass(void *arg, struct slice reply, const char *why)
{
	struct leg *l = arg;
	struct tour *t = l->t;
	struct conn *c = l->conn[0];
	struct slice keys;

	c->checking--;
	l->awaited--;
	if (!reply.p)
		conn_was_lost(c, why);
	if (l->dead) {
		leg_settle(l);
		return;
	}
	t->scanning = false;
	t->expected -= SCAN_KEYS;
	if (!reply.p || !reply_scan(reply, &t->cursor, &keys)) {
		if (reply.p)
			scan_failing(t->b, c->side, reply);
		/* The cursor may be void with the process that gave it: from the beginning. */
		l->broken = true;
		t->retry_at = bf_now(t->b) + RETRY_S;
		leg_settle(l);
		return;
	}
	l->awaited++;
	reply_each(keys, pass_key, t);
	l->awaited--;
	if (t->cursor == 0 && (t->pass_db = db_set_next(&t->dbs, t->pass_db + 1)) == DBS_MAX) {
		t->pass_db = 0;
		t->pass_node++;
	}
	leg_settle(l);
}

/* One reply at a time; goes on to the next node, then to the other side. */
static void pass_feed_tour(struct tour *t, double now)
{
	enum side s = tour_side(t, 0, t->pass_side);
	struct leg *l = t->pass;
	struct conn *c;
	char cursor[24];

	if (l->broken) {
		leg_settle(l);
		return;
	}
	if (t->scanning || t->alive + t->expected + SCAN_KEYS > CHECKS_MAX)
		return;
	if (t->pass_node >= t->b->conns[s].n) {
		if (t->pass_side == 0) {
			t->pass_side = 1;
			t->pass_node = 0;
		} else {
			leg_settle(l);
		}
		return;
	}
	c = pass_conn(t);
	if (!c || !conn_ready(c, now))
		return;
	snprintf(cursor, sizeof(cursor), "%llu", (unsigned long long)t->cursor);
	t->scanning = true;
	t->expected += SCAN_KEYS;
	l->conn[0] = c;
	l->awaited++;
	c->checking++;
	bulk_command(c->bulk, (int)t->pass_db, on_pass, l, "SCAN", cursor, "COUNT", SCAN_COUNT_ARG, NULL);
}

static void pass_begin(struct tour *t)
{
	t->stage = TOUR_PASS;
	t->pass = leg_new(t, SLOTS);
	t->pass_side = t->pass_node = t->pass_db = 0;
	t->cursor = 0;
	t->scanning = false;
}

static void tour_functions(struct tour *t);

/* Every check of the pass so far has ended: is the pass at its end? */
static void pass_ended(struct tour *t)
{
	struct leg *l = t->pass;
	bool whole = true;

	if (l->broken) {
		tally_take_back(t, &l->tally);
		leg_free(l);
		t->pass = NULL;
		pass_begin(t);
		return;
	}
	if (t->pass_side == 0 || t->scanning || t->pass_node < t->b->conns[tour_side(t, 0, 1)].n)
		return;
	t->pass = NULL;
	leg_free(l);
	for (unsigned i = 0; i < SLOTS; i++)
		whole = whole && t->state[i] == TSLOT_OPEN && !t->want[i];
	if (whole && !t->verify)
		t->b->host->slot_clean(t->b->host->ctx, SLOTS);
	for (unsigned i = 0; i < SLOTS; i++) {
		if (t->state[i] != TSLOT_OPEN || (!t->pass_all && !t->big[i]))
			continue;
		if (whole)
			t->state[i] = TSLOT_DONE;
		else
			slot_walked(t, (uint16_t)i);
	}
	tour_functions(t);
}

/* ---- beginning and end ---- */

static void tour_end(struct tour *t)
{
	struct bf_stats *s = t->b->stats;
	struct timespec ts;

	t->stage = TOUR_OFF;
	if (!t->verify)
		return;
	clock_gettime(CLOCK_REALTIME, &ts);
	stat_set(&s->verified_at_ms, (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000);
	stat_set(&s->verify_total, stat_get(&s->checked));
	stat_set(&s->verifying, false);
	if (stat_get(&s->missing) == 0)
		uncarried_none_missing(t->b);
	stat_add(&s->verify_runs, 1);
	t->b->host->event(t->b->host->ctx, "verify finished");
}

static void functions_again(struct backfill *b, bool ok)
{
	if (!ok)
		b->host->log(b->host->ctx, BF_LOG_WARNING, "functions still differ");
}

static void on_functions(void *arg, int equal)
{
	struct tour *t = arg;

	if (t->stage != TOUR_FUNCTIONS)
		return; /* cancelled */
	t->comparing = false;
	if (equal < 0 && t->functions_tried < FUNCTIONS_TRIED) {
		t->retry_at = bf_now(t->b) + RETRY_S;
		return; /* tour_feed asks again */
	}
	if (equal < 0)
		t->b->host->log(t->b->host->ctx, BF_LOG_WARNING, "functions could not be compared");
	if (!equal) {
		stat_add(&t->b->stats->value, 1);
		t->b->host->log(t->b->host->ctx, BF_LOG_NOTICE, "functions differ between the sides");
		if (t->repair) {
			stat_add(&t->b->stats->repaired, 1);
			functions_copy(t->b, tour_side(t, 0, 0), functions_again);
		}
	}
	tour_end(t);
}

static void tour_functions(struct tour *t)
{
	t->stage = TOUR_FUNCTIONS;
	t->comparing = false;
	t->functions_tried = 0;
	t->retry_at = 0;
	if (!t->verify)
		tour_end(t);
	bf_wake(t->b);
}

static bool both_clusters(const struct tour *t)
{
	return t->b->topology[0] && t->b->topology[1] && t->b->topology[0]->cluster && t->b->topology[1]->cluster;
}

static void keyspace_known(struct tour *t, uint64_t keys)
{
	t->guess = (uint32_t)(keys / SLOTS * 3 / 2) + GUESS_SLACK;
	if (t->guess > SLOT_SCAN_OVER)
		t->guess = SLOT_SCAN_OVER;
	t->pass_all = !both_clusters(t);
	t->stage = TOUR_SLOTS;
	if (t->pass_all) {
		for (unsigned i = 0; i < SLOTS; i++)
			if (t->state[i] == TSLOT_TODO)
				t->state[i] = TSLOT_OPEN;
		t->todo = 0;
		pass_begin(t);
	}
	bf_wake(t->b);
}

static void tour_begin(struct tour *t)
{
	memset(t->big, 0, sizeof(t->big));
	memset(t->ask, 0, sizeof(t->ask));
	t->nbig = t->todo = t->next = 0;
	for (unsigned i = 0; i < SLOTS; i++) {
		t->state[i] = t->verify || t->want[i] ? TSLOT_TODO : TSLOT_NO;
		t->todo += t->state[i] == TSLOT_TODO;
		t->want[i] = 0;
	}
	t->wanted = 0;
}

/* Which databases to walk, the total to show, and how many keys a slot may have. Keys in databases that one side does not have are missing or extra. */
static void on_tour_keyspace(void *arg, const struct keyspace *k)
{
	struct tour *t = arg;
	struct bf_stats *s = t->b->stats;
	enum side a = tour_side(t, 0, 0);

	t->asking = NULL;
	if (!k) {
		t->stage = TOUR_WAIT;
		t->retry_at = bf_now(t->b) + RETRY_S;
		return;
	}
	t->dbs = k->dbs;
	if (t->verify) {
		stat_set(&s->verify_total, k->keys[a]);
		stat_add(&s->missing, k->beyond[a]);
		stat_add(&s->extra, k->beyond[SIDE_OTHER(a)]);
	}
	tour_begin(t);
	keyspace_known(t, k->keys[a]);
}

static void tour_try_begin(struct tour *t)
{
	struct backfill *b = t->b;

	if (!b->topology[0] || !b->topology[1] || !conns_any(b, 0) || !conns_any(b, 1))
		return;
	t->stage = TOUR_SIZE;
	t->asking = keyspace_ask(b, true, on_tour_keyspace, t);
}

void tour_want(struct tour *t, uint16_t slot)
{
	for (unsigned i = slot < SLOTS ? slot : 0; i < (slot < SLOTS ? slot + 1u : SLOTS); i++) {
		t->wanted += !t->want[i];
		t->want[i] = 1;
	}
}

void tour_verify(struct tour *t, bool repair)
{
	struct bf_stats *s = t->b->stats;

	tour_cancel(t); /* one at a time: a new one replaces the old */
	t->repair = repair;
	t->stage = TOUR_WAIT;
	t->retry_at = 0;
	stat_set(&s->checked, 0);
	stat_set(&s->missing, 0);
	stat_set(&s->type, 0);
	stat_set(&s->value, 0);
	stat_set(&s->expiry, 0);
	stat_set(&s->extra, 0);
	stat_set(&s->repaired, 0);
	stat_set(&s->verify_total, 0);
	stat_set(&s->verifying, true);
}

static void checks_drop(struct checks *q)
{
	struct check *c;

	while ((c = checks_pop(q)))
		check_drop(c);
}

void tour_cancel(struct tour *t)
{
	struct leg *l, *next;

	keyspace_forget(t->asking);
	t->asking = NULL;
	for (l = t->legs; l; l = l->next)
		l->dead = true;
	t->pass = NULL;
	hold_release(t->b, &t->hold);
	t->held_left = 0;
	checks_drop(&t->ready);
	checks_drop(&t->delayed);
	checks_drop(&t->heldup);
	checks_drop(&t->unmarked);
	bigcheck_cancel(t->bigcheck);
	for (l = t->legs; l; l = next) {
		next = l->next;
		leg_settle(l);
	}
	t->expected = 0;
	t->scanning = false;
	t->stage = TOUR_OFF;
	memset(t->want, 0, sizeof(t->want));
	t->wanted = 0;
	if (t->verify)
		stat_set(&t->b->stats->verifying, false);
}

/* After tour_cancel and after every connection has answered: then no leg and no check is left. */
void tour_free(struct tour *t)
{
	assert(!t->legs && t->alive == 0);
	bigcheck_free(t->bigcheck);
	free(t);
}

/* ---- writes held back ---- */

void tour_hold_done(struct tour *t)
{
	if (t->held_left == 0 || --t->held_left > 0)
		return;
	hold_release(t->b, &t->hold);
	bf_wake(t->b);
}

/* All that wait for this slot run under one hold. */
static void on_tour_hold(void *arg, bool ok)
{
	struct tour *t = arg;
	uint16_t slot = t->hold.slot;
	struct checks all = t->heldup;
	struct check *c;

	if (!ok) {
		if (bf_may_log(t->b, LOGK_HOLD))
			t->b->host->log(t->b->host->ctx, BF_LOG_NOTICE, "writes of slot %u could not be held back for comparing, again later", slot);
		hold_release(t->b, &t->hold);
		t->retry_hold_at = bf_now(t->b) + RETRY_S;
		return;
	}
	if (!all.n) {
		hold_release(t->b, &t->hold);
		return;
	}
	checks_init(&t->heldup);
	t->held_left = 1; /* not released while they are being started */
	while ((c = checks_pop(&all))) {
		if (c->slot != slot) {
			checks_push(&t->heldup, c);
			continue;
		}
		c->held = true;
		t->held_left++;
		check_start(c);
	}
	tour_hold_done(t);
}

/* ---- the turn ---- */

static void start_checks(struct tour *t)
{
	size_t room = t->inflight < CHECK_WINDOW ? CHECK_WINDOW - t->inflight : 0;
	unsigned n = (unsigned)(room < t->ready.n ? room : t->ready.n);

	if (n)
		n = pace_checks(&t->b->pace, bf_now(t->b), n); /* gives way as the copy does */
	for (; n > 0 && t->ready.n; n--)
		check_start(checks_pop(&t->ready));
}

static void feed_slots(struct tour *t, double now)
{
	if (t->todo > 0 && now >= t->retry_at)
		open_legs(t, now);
	if (t->todo > 0 || t->nlegs > 0)
		return;
	if (t->nbig > 0)
		pass_begin(t);
	else
		tour_functions(t);
}

void tour_feed(struct tour *t, double now)
{
	if (t->stage == TOUR_OFF && t->wanted > 0)
		t->stage = TOUR_WAIT;
	if (t->stage == TOUR_OFF)
		return;
	check_feed_marks(t);
	if (t->stage == TOUR_WAIT && now >= t->retry_at) {
		t->retry_at = now + RETRY_S;
		tour_try_begin(t);
	}
	if (t->stage == TOUR_SLOTS)
		feed_slots(t, now);
	if (t->stage == TOUR_PASS && now >= t->retry_at)
		pass_feed_tour(t, now);
	if (t->stage == TOUR_FUNCTIONS && !t->comparing && now >= t->retry_at) {
		t->comparing = true;
		t->functions_tried++;
		functions_compare(t->b, tour_side(t, 0, 0), on_functions, t);
	}
	start_checks(t);
	if (t->heldup.n && t->hold.state == HOLD_NONE && now >= t->retry_hold_at)
		hold_ask(t->b, &t->hold, t->heldup.head->slot, TOUR_HOLD_MS, on_tour_hold, t);
}

/* Delays differ by how often a key was looked at, so the list is not in order; it is short. */
void tour_tick(struct tour *t, double now)
{
	struct checks all = t->delayed;
	struct check *c;

	if (!all.n)
		return;
	checks_init(&t->delayed);
	while ((c = checks_pop(&all))) {
		if (check_dropped(c))
			check_drop(c);
		else
			checks_push(c->due <= now ? &t->ready : &t->delayed, c);
	}
}

static bool same_layout(const struct topology *a, const struct topology *b)
{
	if (!a || !b || a->cluster != b->cluster || a->nnodes != b->nnodes)
		return false;
	for (unsigned i = 0; i < a->nnodes; i++)
		if (!node_same(&a->nodes[i], &b->nodes[i]))
			return false;
	return !a->cluster || memcmp(a->slot_node, b->slot_node, sizeof(a->slot_node)) == 0;
}

/* Race 8: what was listed by a node that is no longer the owner is listed again. */
void tour_topology(struct tour *t, enum side side, const struct topology *before)
{
	for (struct leg *l = t->legs; l; l = l->next)
		for (unsigned k = 0; k < 2 && l->slot < SLOTS; k++)
			if (conn_of(t->b, tour_side(t, l->slot, k), l->slot) != l->conn[k])
				l->broken = true;
	if (t->pass && !same_layout(before, t->b->topology[side]))
		t->pass->broken = true;
	bf_wake(t->b);
}
