/* scan.c - the copy of everything: which slots there are to do, what their keys are, and when a slot is done.
 *
 *   TODO ──list asked──► OPEN ──every key listed, every copy acknowledged, same owner──► DONE
 *    ▲                    │
 *    └──── misrouted key, lost connection, moved slot, migrating ◄┘   (after a pause)
 *
 * Race 8: the list of a slot stands between two probes of the same connection. A node that does not own the slot answers the probe with MOVED, one that
 * is giving it away with ASK; a list between two integers was made by the owner, and is whole. */
#include "backfill/internal.h"

#include <math.h>
#include <string.h>

#include "backfill/slot_tag.h"
#include "resp/parse.h"
#include "resp/write.h"

#define LIST_SLACK 32
#define AGAIN_S 0.25       /* a slot put back waits this long */
#define COUNT_AT_ONCE 256
#define RETRY_S 0.5
#define FUNCTIONS_TRIED 5
#define RATE_SMOOTH 0.3

/* ---- small helpers of every enumeration ---- */

sds cat_probe(sds out, uint16_t slot)
{
	char key[64];
	int n = snprintf(key, sizeof(key), "crossfade:probe:{%s}", slot_tag(slot));
	struct slice words[2] = { SLICE_LIT("EXISTS"), slice(key, (size_t)n) };

	return resp_cat_request(out, 2, words);
}

bool reply_each(struct slice reply, void (*fn)(void *arg, struct slice key), void *arg)
{
	const char *p = reply.p, *end = reply.p + reply.n;
	struct resp_item item;
	size_t used = resp_item(p, end, &item);

	if (!used || (item.type != '*' && item.type != '~'))
		return false;
	for (int64_t left = item.n; left > 0; left--) {
		p += used;
		used = resp_item(p, end, &item);
		if (!used)
			return false;
		if (item.type == '$')
			fn(arg, item.text);
	}
	return true;
}

bool reply_scan(struct slice reply, uint64_t *cursor, struct slice *keys)
{
	const char *p = reply.p, *end = reply.p + reply.n;
	struct resp_item item;
	size_t used = resp_item(p, end, &item);
	char digits[24];

	if (!used || item.type != '*' || item.n != 2)
		return false;
	p += used;
	used = resp_item(p, end, &item);
	if (!used || item.type != '$' || item.text.n >= sizeof(digits))
		return false;
	memcpy(digits, item.text.p, item.text.n);
	digits[item.text.n] = '\0';
	*cursor = strtoull(digits, NULL, 10);
	p += used;
	*keys = slice(p, (size_t)(end - p));
	return true;
}

bool scan_has_room(const struct backfill *b, uint64_t more)
{
	return b->scan.alive + b->scan.expected + more <= COPIES_MAX;
}

/* ---- units ---- */

struct unit *unit_new(struct backfill *b, enum unit_kind kind)
{
	struct unit *u = must(calloc(1, sizeof(*u)));

	u->b = b;
	u->kind = kind;
	u->next = b->scan.units;
	if (u->next)
		u->next->prev = u;
	b->scan.units = u;
	return u;
}

void unit_free(struct backfill *b, struct unit *u)
{
	assert(u->left == 0 && !u->conn);
	if (u->prev)
		u->prev->next = u->next;
	else
		b->scan.units = u->next;
	if (u->next)
		u->next->prev = u->prev;
	free(u->slots);
	free(u);
}

/* ---- slots ---- */

void scan_slot_state(struct backfill *b, uint16_t slot, enum slot_state state)
{
	struct scan *s = &b->scan;
	enum slot_state before = s->state[slot];
	struct conn *c = conn_of(b, s->from, slot);

	if (before == state)
		return;
	assert(before != SLOT_DONE); /* done is done: what comes later is the mirror's or a rescan's */
	if (before == SLOT_TODO) {
		s->todo--;
		if (c)
			c->scan_todo--;
	}
	if (state == SLOT_TODO) {
		s->todo++;
		if (c)
			c->scan_todo++;
	}
	s->state[slot] = (uint8_t)state;
	if (state == SLOT_DONE) {
		stat_add(&b->stats->slots_done, 1);
		checkpoint_touch(b);
		b->host->slot_done(b->host->ctx, slot);
	}
}

void scan_slot_again(struct backfill *b, uint16_t slot, double after)
{
	b->scan.due[slot] = bf_now(b) + after;
	scan_slot_state(b, slot, SLOT_TODO);
	bf_wake(b);
}

void scan_recount_todo(struct backfill *b)
{
	struct scan *s = &b->scan;
	struct conns *cs = &b->conns[s->from];

	for (unsigned i = 0; i < cs->n; i++)
		if (cs->list[i])
			cs->list[i]->scan_todo = 0;
	s->todo = 0;
	for (unsigned i = 0; i < SLOTS; i++) {
		if (s->state[i] != SLOT_TODO)
			continue;
		struct conn *c = conn_of(b, s->from, (uint16_t)i);
		s->todo++;
		if (c)
			c->scan_todo++;
	}
}

static void unit_account(struct backfill *b, struct unit *u)
{
	if (u->broken)
		stat_add(&b->stats->keys_copied, -(uint64_t)u->copied);
	else
		b->scan.safe_keys += u->keys;
}

static void slot_unit_end(struct backfill *b, struct unit *u)
{
	uint16_t slot = u->slot;

	unit_account(b, u);
	if (u->broken)
		scan_slot_again(b, slot, AGAIN_S);
	else
		scan_slot_state(b, slot, SLOT_DONE);
	unit_free(b, u);
	scan_finish_if_done(b);
}

static void pass_unit_end(struct backfill *b, struct unit *u)
{
	unit_account(b, u);
	for (unsigned i = 0; i < u->nslots; i++) {
		if (u->broken)
			scan_slot_again(b, u->slots[i], AGAIN_S);
		else if (b->scan.state[u->slots[i]] == SLOT_OPEN)
			scan_slot_state(b, u->slots[i], SLOT_DONE);
	}
	unit_free(b, u);
	scan_finish_if_done(b);
}

void scan_settle(struct backfill *b, struct unit *u)
{
	if (u->left > 0 || u->conn)
		return;
	if (u->dead)
		unit_free(b, u);
	else if (u->kind == UNIT_WINDOW)
		cursor_settle(b);
	else if (!u->listed && !u->broken)
		return; /* the enumeration goes on */
	else if (u->kind == UNIT_SLOT)
		slot_unit_end(b, u);
	else
		pass_unit_end(b, u);
}

/* ---- listing a slot ---- */

static void take_key(void *arg, struct slice key)
{
	struct unit *u = arg;

	u->keys++;
	if (!is_own_key(key))
		item_queue(u->b, item_new(u->b, (uint16_t)u->db, key, u->slot, u));
}

/* More keys than were asked for: ask for more. */
static void list_larger(struct backfill *b, struct unit *u)
{
	b->scan.count[u->slot] = u->asked * 2;
	b->scan.big[u->slot] = u->asked * 2 > SLOT_SCAN_OVER;
	if (u->left || u->keys) { /* of another database: they end first */
		u->broken = true;
		scan_settle(b, u);
		return;
	}
	scan_slot_again(b, u->slot, 0);
	unit_free(b, u);
}

static void slot_list(struct backfill *b, struct conn *c, struct unit *u);

/* Probe, list, probe. */
static void on_list(void *arg, struct slice reply, const char *why)
{
	struct unit *u = arg;
	struct backfill *b = u->b;
	struct slice replies[3];
	struct resp_item item;
	struct conn *c = u->conn;
	int64_t n;

	if (!reply.p)
		conn_was_lost(c, why);
	else if (!conn_gather(c, reply, 3, replies))
		return;
	c->listing--;
	u->conn = NULL;
	if (!u->dead)
		b->scan.expected -= u->asked;
	if (u->dead || !reply.p) {
		u->broken = true;
		scan_settle(b, u);
		return;
	}
	if (!reply_int(replies[0], &n) || !reply_int(replies[2], &n) ||
	    !resp_item(replies[1].p, replies[1].p + replies[1].n, &item) || item.type != '*') {
		list_failing(b, b->scan.from, u->slot, replies);
		u->broken = true;
		scan_settle(b, u);
		return;
	}
	if ((uint64_t)item.n >= u->asked) {
		list_larger(b, u);
		return;
	}
	u->left++; /* items that end at once must not settle it before all are there */
	reply_each(replies[1], take_key, u);
	u->left--;
	u->db = db_set_next(&b->scan.dbs, u->db + 1);
	if (u->db < DBS_MAX && !u->broken)
		slot_list(b, c, u);
	else
		u->listed = true;
	scan_settle(b, u);
}

/* In the unit's database; one after another. */
static void slot_list(struct backfill *b, struct conn *c, struct unit *u)
{
	char number[16], count[16];

	u->conn = c;
	b->scan.expected += u->asked;
	c->listing++;
	snprintf(number, sizeof(number), "%u", u->slot);
	snprintf(count, sizeof(count), "%u", u->asked);
	sdsclear(b->scratch);
	b->scratch = cat_probe(b->scratch, u->slot);
	b->scratch = resp_cat_words(b->scratch, "CLUSTER", "GETKEYSINSLOT", number, count, NULL);
	b->scratch = cat_probe(b->scratch, u->slot);
	bulk_send(c->bulk, (int)u->db, b->scratch, sdslen(b->scratch), 3, on_list, u);
}

static void slot_open(struct backfill *b, struct conn *c, uint16_t slot)
{
	struct unit *u = unit_new(b, UNIT_SLOT);

	u->slot = slot;
	u->asked = b->scan.count[slot] + b->scan.count[slot] / 8 + LIST_SLACK;
	scan_slot_state(b, slot, SLOT_OPEN);
	slot_list(b, c, u);
}

/* Opens slots of this node while there is room. */
static void conn_open_slots(struct backfill *b, struct conn *c, double now)
{
	struct scan *s = &b->scan;
	unsigned looked = 0, big = 0, lists = NODE_LISTS, ahead = pace_ahead(&b->pace);

	/* Held back, one list at a time: many at once would be a lump, and their slots would stay open for long. */
	if (c->work.n >= ahead)
		return;
	if (ahead != UINT_MAX)
		lists = 1;
	while (c->scan_todo > 0 && c->listing < lists && looked < SLOTS) {
		uint16_t slot = (uint16_t)c->scan_next;
		c->scan_next = (c->scan_next + 1) % SLOTS;
		looked++;
		if (s->state[slot] != SLOT_TODO || s->due[slot] > now || conn_of(b, s->from, slot) != c)
			continue;
		if (s->big[slot]) {
			big++;
			continue;
		}
		if (!scan_has_room(b, s->count[slot] + LIST_SLACK)) {
			c->scan_next = slot;
			return;
		}
		slot_open(b, c, slot);
	}
	/* Big slots wait until the small ones of the node are listed: one pass over the node serves them all. */
	if (looked == SLOTS && big > 0 && !c->pass && c->listing == 0)
		pass_open(b, c);
}

/* ---- counting ---- */

/* The slots of one node, a few at a time: all at once would keep the server, and its clients, for as long as some ten thousand commands take. */
struct counting {
	struct backfill *b;
	struct conn *c;
	unsigned run;       /* of the scan that asks */
	unsigned db;
	unsigned from;      /* the next slot to ask for */
	unsigned next, n;   /* replies come in the order of the slots */
	uint16_t slots[COUNT_AT_ONCE];
};

static void counting_end(struct counting *k)
{
	struct backfill *b = k->b;

	free(k);
	if (--b->scan.counting > 0 || b->scan.stage != SCAN_COUNT || b->scan.asking)
		return;
	scan_counts(b);
}

static void on_count(void *arg, struct slice reply, const char *why);

/* False: every slot was asked for. */
static bool count_some(struct counting *k)
{
	struct backfill *b = k->b;
	char number[16];

	k->n = k->next = 0;
	sdsclear(b->scratch);
	for (; k->from < SLOTS && k->n < COUNT_AT_ONCE; k->from++) {
		if (b->scan.state[k->from] == SLOT_DONE || conn_of(b, b->scan.from, (uint16_t)k->from) != k->c)
			continue;
		k->slots[k->n++] = (uint16_t)k->from;
		snprintf(number, sizeof(number), "%u", k->from);
		b->scratch = resp_cat_words(b->scratch, "CLUSTER", "COUNTKEYSINSLOT", number, NULL);
	}
	if (!k->n)
		return false;
	bulk_send(k->c->bulk, (int)k->db, b->scratch, sdslen(b->scratch), k->n, on_count, k);
	return true;
}

static void on_count(void *arg, struct slice reply, const char *why)
{
	struct counting *k = arg;
	struct backfill *b = k->b;
	int64_t n = 0;

	if (!reply.p) {
		conn_was_lost(k->c, why);
		k->c->counted = false;
		counting_end(k);
		return;
	}
	if (k->run == b->scan.run && reply_int(reply, &n) && n > 0) {
		b->scan.count[k->slots[k->next]] += (uint32_t)n; /* of each database */
		b->scan.big[k->slots[k->next]] = b->scan.count[k->slots[k->next]] > SLOT_SCAN_OVER;
	}
	if (++k->next < k->n)
		return;
	if (b->scan.stage != SCAN_COUNT || k->run != b->scan.run || !count_some(k))
		counting_end(k);
}

static void count_node(struct backfill *b, struct conn *c)
{
	c->counted = true;
	for (unsigned db = db_set_next(&b->scan.dbs, 0); db < DBS_MAX; db = db_set_next(&b->scan.dbs, db + 1)) {
		struct counting *k = must(calloc(1, sizeof(*k)));
		*k = (struct counting){ .b = b, .c = c, .run = b->scan.run, .db = db };
		if (count_some(k))
			b->scan.counting++;
		else
			free(k);
	}
}

static void count_all(struct backfill *b)
{
	struct conns *cs = &b->conns[b->scan.from];

	b->scan.stage = SCAN_COUNT;
	memset(b->scan.count, 0, sizeof(b->scan.count));
	for (unsigned i = 0; i < cs->n; i++)
		if (cs->list[i])
			count_node(b, cs->list[i]);
	if (b->scan.counting == 0)
		scan_counts(b);
}

/* Every node has answered, or was lost: then it is asked again, since an unknown slot might be a huge one. */
void scan_counts(struct backfill *b)
{
	struct conns *cs = &b->conns[b->scan.from];
	uint64_t total = stat_get(&b->stats->keys_copied);

	for (unsigned i = 0; i < cs->n; i++) {
		if (cs->list[i] && !cs->list[i]->counted) {
			b->scan.stage = SCAN_WAIT;
			b->scan.retry_at = bf_now(b) + RETRY_S;
			return;
		}
	}
	for (unsigned i = 0; i < SLOTS; i++)
		total += b->scan.count[i];
	stat_set(&b->stats->keys_total, total);
	b->scan.stage = SCAN_COPY;
	b->scan.started = b->scan.sampled = bf_now(b);
	b->scan.sampled_copied = stat_get(&b->stats->keys_copied);
	bf_wake(b);
}

/* ---- beginning and end ---- */

void scan_init(struct backfill *b)
{
	struct scan *s = &b->scan;
	bool paused = s->paused;
	unsigned alive = s->alive, counting = s->counting, run = s->run + 1;
	struct unit *units = s->units;

	memset(s, 0, sizeof(*s));
	s->paused = paused;
	s->alive = alive; /* copies of a stopped scan come back later */
	s->counting = counting;
	s->run = run;
	s->units = units;
	s->windows_tail = &s->windows;
	s->todo = SLOTS;
}

void scan_start(struct backfill *b)
{
	if (b->scan.stage != SCAN_OFF)
		return;
	scan_init(b);
	b->scan.stage = SCAN_WAIT;
	b->scan.paused = false;
	stat_set(&b->stats->keys_copied, 0);
	stat_set(&b->stats->bytes, 0);
	stat_set(&b->stats->slots_done, 0);
	stat_set(&b->stats->keys_total, 0);
	stat_set(&b->stats->state, BF_RUNNING);
	bf_wake(b);
}

static void scan_done_told(struct backfill *b)
{
	struct scan *s = &b->scan;

	for (unsigned i = 0; i < SLOTS && s->todo > 0; i++)
		if (s->state[i] == SLOT_DONE)
			b->host->slot_done(b->host->ctx, (uint16_t)i);
	if (s->todo == 0)
		b->host->slot_done(b->host->ctx, SLOTS);
	stat_set(&b->stats->slots_done, SLOTS - s->todo);
}

static void scan_begin_copy(struct backfill *b, bool ok)
{
	if (b->scan.stage != SCAN_FUNCTIONS)
		return;
	/* A service may forbid FUNCTION: after a few tries the keys go on; verify counts functions that differ. */
	if (!ok && ++b->scan.functions_tried < FUNCTIONS_TRIED) {
		b->scan.stage = SCAN_WAIT;
		b->scan.retry_at = bf_now(b) + RETRY_S;
		return;
	}
	scan_ask_keyspace(b);
}

static void on_scan_keyspace(void *arg, const struct keyspace *k)
{
	struct backfill *b = arg;
	struct scan *s = &b->scan;

	s->asking = NULL;
	if (!k) {
		s->stage = SCAN_WAIT;
		s->retry_at = bf_now(b) + RETRY_S;
		return;
	}
	s->dbs = k->dbs;
	if (k->beyond[s->from])
		b->host->log(b->host->ctx, BF_LOG_WARNING, "%llu keys are in databases that the %s does not have: they are not copied",
			     (unsigned long long)k->beyond[s->from], side_name(SIDE_OTHER(s->from)));
	uncarried_beyond(b, k->beyond[s->from]);
	/* What is left behind a cursor from a checkpoint cannot be known: the total is that of the server. */
	uint64_t copied = stat_get(&b->stats->keys_copied);
	stat_set(&b->stats->keys_total, k->keys[s->from] > copied ? k->keys[s->from] : copied);
	if (s->cluster)
		count_all(b);
	else
		cursor_begin(b);
}

/* Which databases there are to copy. One that comes into use later is the mirror's. */
void scan_ask_keyspace(struct backfill *b)
{
	if (!conns_any(b, b->scan.from)) {
		b->scan.stage = SCAN_WAIT;
		b->scan.retry_at = bf_now(b) + RETRY_S;
		return;
	}
	b->scan.stage = SCAN_COUNT;
	b->scan.asking = keyspace_ask(b, false, on_scan_keyspace, b);
}

/* Both sides are known: the checkpoint is read once, then functions, then keys. */
static void scan_try_begin(struct backfill *b)
{
	struct scan *s = &b->scan;
	bool loaded;

	s->from = bf_authority(b, 0);
	if (!b->topology[s->from] || !b->topology[SIDE_OTHER(s->from)] || !conns_any(b, s->from) || !conns_any(b, SIDE_OTHER(s->from)))
		return;
	s->cluster = b->topology[s->from]->cluster;
	if (!s->cluster)
		snprintf(s->run_id, sizeof(s->run_id), "%s", b->topology[s->from]->nodes[0].run_id);
	loaded = s->safe_cursor == 0 && s->safe_db == 0 && s->todo == SLOTS && checkpoint_load(b);
	scan_recount_todo(b);
	if (loaded) {
		b->host->log(b->host->ctx, BF_LOG_NOTICE, "backfill goes on from its checkpoint: %u of %u slots, %llu keys are copied",
			     SLOTS - s->todo, SLOTS, (unsigned long long)stat_get(&b->stats->keys_copied));
		scan_done_told(b);
	}
	if (s->stage == SCAN_DONE) {
		stat_set(&b->stats->state, BF_DONE);
		b->host->event(b->host->ctx, "backfill finished");
		return;
	}
	s->stage = SCAN_FUNCTIONS;
	functions_copy(b, s->from, scan_begin_copy);
}

void scan_finish_if_done(struct backfill *b)
{
	struct scan *s = &b->scan;

	if (s->stage != SCAN_COPY || s->todo > 0 || (!s->cluster && !(s->cursor_end && !s->windows)))
		return;
	for (unsigned i = 0; i < SLOTS && s->cluster; i++)
		if (s->state[i] != SLOT_DONE)
			return;
	s->stage = SCAN_DONE;
	/* keys_total was an estimate: keys came, went and expired meanwhile. */
	stat_set(&b->stats->keys_total, stat_get(&b->stats->keys_copied));
	stat_set(&b->stats->state, BF_DONE);
	stat_set(&b->stats->eta_s, 0);
	checkpoint_touch(b);
	checkpoint_tick(b, bf_now(b), true);
	b->host->event(b->host->ctx, "backfill finished");
}

void scan_stop(struct backfill *b)
{
	struct unit *u, *next;

	for (u = b->scan.units; u; u = next) {
		next = u->next;
		u->dead = true;
		if (u->kind == UNIT_PASS)
			pass_abandon(u);
		else
			scan_settle(b, u);
	}
	biglane_drop(b->biglane);
	keyspace_forget(b->scan.asking);
	scan_init(b);
	stat_set(&b->stats->state, BF_IDLE);
	checkpoint_remove(b);
	uncarried_clear(b);
}

void scan_feed(struct backfill *b, double now)
{
	struct scan *s = &b->scan;
	struct conns *cs = &b->conns[s->from];

	if (s->stage == SCAN_WAIT && now >= s->retry_at) {
		s->retry_at = now + RETRY_S;
		scan_try_begin(b);
	}
	if (s->stage != SCAN_COPY || s->paused)
		return;
	if (!s->cluster) {
		cursor_feed(b, now);
		return;
	}
	pass_feed(b);
	for (unsigned i = 0; i < cs->n; i++)
		if (cs->list[i] && cs->list[i]->scan_todo > 0 && conn_ready(cs->list[i], now) && cs->list[i]->work.n < 2 * NODE_WINDOW)
			conn_open_slots(b, cs->list[i], now);
}

/* ---- changes of the topology ---- */

static const struct node *node_of(const struct topology *t, uint16_t slot)
{
	uint16_t n = t ? (t->cluster ? t->slot_node[slot] : 0) : NODE_NONE;

	return n == NODE_NONE ? NULL : &t->nodes[n];
}

/* Race 8: a slot whose owner changed while it was open is enumerated again, whatever was acknowledged of it. */
void scan_topology(struct backfill *b, enum side side, const struct topology *before)
{
	struct scan *s = &b->scan;

	if (side != s->from || s->stage < SCAN_COUNT || s->stage == SCAN_DONE)
		return;
	if (!s->cluster) {
		cursor_topology(b);
		return;
	}
	for (struct unit *u = s->units; u; u = u->next) {
		unsigned n = u->kind == UNIT_SLOT ? 1 : u->nslots;
		for (unsigned i = 0; i < n && !u->broken; i++) {
			uint16_t slot = u->kind == UNIT_SLOT ? u->slot : u->slots[i];
			const struct node *was = node_of(before, slot), *is = node_of(b->topology[side], slot);
			if (!was || !is || !node_same(was, is))
				u->broken = true;
		}
	}
	scan_recount_todo(b);
}

/* ---- figures ---- */

void scan_sample(struct backfill *b, double now)
{
	struct scan *s = &b->scan;
	uint64_t copied = stat_get(&b->stats->keys_copied), total = stat_get(&b->stats->keys_total);
	double dt = now - s->sampled;

	if (s->stage != SCAN_COPY) {
		stat_set(&b->stats->keys_per_s, 0);
		stat_set(&b->stats->eta_s, s->stage == SCAN_DONE ? 0 : -1);
		return;
	}
	if (dt < 0.2)
		return;
	double rate = (double)(copied - s->sampled_copied) / dt;
	s->rate = s->rate > 0 ? s->rate * (1 - RATE_SMOOTH) + rate * RATE_SMOOTH : rate;
	s->sampled = now;
	s->sampled_copied = copied;
	stat_set(&b->stats->keys_per_s, (uint64_t)lround(s->rate));
	stat_set(&b->stats->eta_s, s->rate < 1 ? -1 : total > copied ? (int64_t)((double)(total - copied) / s->rate) + 1 : 0);
}
