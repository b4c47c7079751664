/* cursor.c - enumeration by SCAN: the keyspace of a standalone server in windows, or one pass over a cluster node for its slots that are too big to
 * be listed in one blocking call.
 *
 * Windows: each reply of SCAN is one. The checkpoint may say "cursor c" once every key of all windows before c is acknowledged, so windows
 * end in their order whatever the order of their keys. One database after another. A cursor is good for one server process: with another run_id it begins again. */
#include "backfill/internal.h"

#include <string.h>

#include "resp/write.h"

#define SCAN_COUNT_ARG "1000"
#define SCAN_KEYS 1200   /* what one reply may hold: room is made for it beforehand */
#define WINDOWS_MAX 64
#define PASS_SLOTS_MAX SLOTS

/* ---- a standalone authority ---- */

static void window_key(void *arg, struct slice key)
{
	struct unit *u = arg;

	u->keys++;
	if (!is_own_key(key))
		item_queue(u->b, item_new(u->b, (uint16_t)u->db, key, slot_of(key), u));
}

static void windows_forget(struct backfill *b)
{
	struct unit *u = b->scan.windows, *behind;

	b->scan.windows = NULL;
	b->scan.windows_tail = &b->scan.windows;
	b->scan.nwindows = 0;
	b->scan.scanning = false;
	for (; u; u = behind) {
		behind = u->behind;
		u->dead = true;
		scan_settle(b, u);
	}
}

/* The databases are known: from the place of the checkpoint, if there was one. */
void cursor_begin(struct backfill *b)
{
	struct scan *s = &b->scan;

	s->stage = SCAN_COPY;
	s->started = s->sampled = bf_now(b);
	s->sampled_copied = stat_get(&b->stats->keys_copied);
	s->db = db_set_next(&s->dbs, s->safe_db);
	s->cursor = s->db == s->safe_db ? s->safe_cursor : 0;
	s->cursor_end = s->db == DBS_MAX;
	bf_wake(b);
	cursor_settle(b);
}

/* A cursor is good for one process of the server. */
void cursor_topology(struct backfill *b)
{
	struct scan *s = &b->scan;
	const char *run_id = b->topology[s->from] ? b->topology[s->from]->nodes[0].run_id : "";

	if (s->stage != SCAN_COPY)
		return;
	if (!s->run_id[0])
		snprintf(s->run_id, sizeof(s->run_id), "%s", run_id); /* it only became known */
	if (!run_id[0] || strcmp(run_id, s->run_id) == 0)
		return;
	b->host->log(b->host->ctx, BF_LOG_WARNING, "the %s was restarted: its SCAN cursor is void, the copy begins again", side_name(s->from));
	snprintf(s->run_id, sizeof(s->run_id), "%s", run_id);
	windows_forget(b);
	s->cursor = s->safe_cursor = s->safe_keys = 0;
	s->db = s->safe_db = 0;
	s->cursor_end = false;
	stat_set(&b->stats->keys_copied, 0);
	checkpoint_touch(b);
	scan_ask_keyspace(b);
}

static void on_window(void *arg, struct slice reply, const char *why)
{
	struct unit *u = arg;
	struct backfill *b = u->b;
	struct scan *s = &b->scan;
	struct conn *c = u->conn;
	struct slice keys;

	c->listing--;
	u->conn = NULL;
	if (!reply.p)
		conn_was_lost(c, why);
	if (u->dead) {
		scan_settle(b, u);
		return;
	}
	s->scanning = false;
	s->expected -= u->asked;
	if (!reply.p || !reply_scan(reply, &u->cursor, &keys)) {
		if (reply.p)
			scan_failing(b, s->from, reply);
		c->down_until = bf_now(b) + 0.25;
		unit_free(b, u);
		return; /* the same cursor is asked again */
	}
	c->lost = false;
	u->next_db = u->cursor ? u->db : db_set_next(&s->dbs, u->db + 1);
	s->cursor = u->cursor;
	s->db = u->next_db;
	s->cursor_end = s->db == DBS_MAX;
	*s->windows_tail = u;
	s->windows_tail = &u->behind;
	s->nwindows++;
	u->left++;
	reply_each(keys, window_key, u);
	u->left--;
	u->listed = true;
	cursor_settle(b);
}

/* Windows that are wholly acknowledged end from the front: what lies before is safe. */
void cursor_settle(struct backfill *b)
{
	struct scan *s = &b->scan;
	struct unit *u;

	while ((u = s->windows) && u->listed && u->left == 0) {
		s->windows = u->behind;
		if (!s->windows)
			s->windows_tail = &s->windows;
		s->nwindows--;
		s->safe_cursor = u->cursor;
		s->safe_db = u->next_db;
		s->safe_keys += u->keys;
		unit_free(b, u);
		checkpoint_touch(b);
	}
	if (s->stage != SCAN_COPY || !s->cursor_end || s->windows || s->scanning)
		return;
	for (unsigned i = 0; i < SLOTS; i++)
		s->state[i] = SLOT_DONE;
	s->todo = 0;
	stat_set(&b->stats->slots_done, SLOTS);
	b->host->slot_done(b->host->ctx, SLOTS);
	scan_finish_if_done(b);
}

void cursor_feed(struct backfill *b, double now)
{
	struct scan *s = &b->scan;
	struct conn *c = conn_of(b, s->from, 0);
	char cursor[24];

	if (!c || !conn_ready(c, now) || s->scanning || s->cursor_end || s->nwindows >= WINDOWS_MAX || !scan_has_room(b, SCAN_KEYS) ||
	    c->work.n >= pace_ahead(&b->pace))
		return;
	struct unit *u = unit_new(b, UNIT_WINDOW);
	u->conn = c;
	u->db = s->db;
	u->asked = SCAN_KEYS;
	s->expected += u->asked;
	s->scanning = true;
	c->listing++;
	snprintf(cursor, sizeof(cursor), "%llu", (unsigned long long)s->cursor);
	bulk_command(c->bulk, (int)u->db, on_window, u, "SCAN", cursor, "COUNT", SCAN_COUNT_ARG, NULL);
}

/* ---- a pass over a node for its big slots ---- */

static void pass_key(void *arg, struct slice key)
{
	struct unit *u = arg;
	uint16_t slot = slot_of(key);

	/* Only big slots are open without being listed one by one; others of the node belong to their own units. */
	if (!u->b->scan.big[slot] || u->b->scan.state[slot] != SLOT_OPEN || is_own_key(key))
		return;
	u->keys++;
	item_queue(u->b, item_new(u->b, (uint16_t)u->db, key, slot, u));
}

/* It waits for its connection no longer. */
static void pass_leave(struct unit *u)
{
	if (u->conn && u->conn->pass == u)
		u->conn->pass = NULL;
	u->conn = NULL;
}

static void pass_give_up(struct unit *u)
{
	u->broken = true;
	pass_leave(u);
	scan_settle(u->b, u);
}

void pass_abandon(struct unit *u)
{
	if (u->conn && (u->asked || u->probes))
		return; /* a reply, or its loss, comes and ends it */
	pass_give_up(u);
}

static void pass_scan(struct unit *u);

static void on_pass_probe(void *arg, struct slice reply, const char *why)
{
	struct unit *u = arg;
	int64_t n;

	if (!reply.p) {
		u->probes = 0;
		u->conn->listing--;
		conn_was_lost(u->conn, why);
		pass_give_up(u);
		return;
	}
	if (!reply_int(reply, &n))
		u->broken = true;
	if (--u->probes > 0)
		return;
	u->conn->listing--;
	if (!u->scanned && !u->broken && !u->dead) {
		pass_scan(u);
		return;
	}
	u->listed = true;
	pass_leave(u);
	scan_settle(u->b, u);
}

/* Before and behind the scan: who answers both owned the slots throughout. */
static void pass_probe(struct unit *u)
{
	struct backfill *b = u->b;

	sdsclear(b->scratch);
	for (unsigned i = 0; i < u->nslots; i++)
		b->scratch = cat_probe(b->scratch, u->slots[i]);
	u->probes = u->nslots;
	u->conn->listing++;
	bulk_send(u->conn->bulk, BULK_ANY_DB, b->scratch, sdslen(b->scratch), u->nslots, on_pass_probe, u);
}

static void on_pass(void *arg, struct slice reply, const char *why)
{
	struct unit *u = arg;
	struct backfill *b = u->b;
	struct slice keys;

	u->conn->listing--;
	if (!u->dead)
		b->scan.expected -= u->asked;
	u->asked = 0;
	if (!reply.p)
		conn_was_lost(u->conn, why);
	if (u->dead || !reply.p || !reply_scan(reply, &u->cursor, &keys)) {
		pass_give_up(u);
		return;
	}
	reply_each(keys, pass_key, u);
	if (u->cursor == 0) {
		unsigned next = db_set_next(&b->scan.dbs, u->db + 1);
		u->scanned = next == DBS_MAX;
		u->db = u->scanned ? u->db : next;
	}
	if (u->scanned)
		pass_probe(u);
	else if (scan_has_room(b, SCAN_KEYS) && u->conn->work.n < pace_ahead(&b->pace))
		pass_scan(u);
	/* else pass_feed goes on with it when there is room */
}

static void pass_scan(struct unit *u)
{
	struct backfill *b = u->b;
	char cursor[24];

	u->asked = SCAN_KEYS;
	b->scan.expected += u->asked;
	u->conn->listing++;
	snprintf(cursor, sizeof(cursor), "%llu", (unsigned long long)u->cursor);
	bulk_command(u->conn->bulk, (int)u->db, on_pass, u, "SCAN", cursor, "COUNT", SCAN_COUNT_ARG, NULL);
}

void pass_feed(struct backfill *b)
{
	const struct conns *cs = &b->conns[b->scan.from];

	for (unsigned i = 0; i < cs->n; i++) {
		struct unit *u = cs->list[i] ? cs->list[i]->pass : NULL;
		if (u && !u->dead && u->conn && !u->asked && !u->probes && !u->scanned && scan_has_room(b, SCAN_KEYS) &&
		    u->conn->work.n < pace_ahead(&b->pace))
			pass_scan(u);
	}
}

void pass_open(struct backfill *b, struct conn *c)
{
	struct scan *s = &b->scan;
	double now = bf_now(b);

	if (!scan_has_room(b, SCAN_KEYS))
		return;
	struct unit *u = unit_new(b, UNIT_PASS);
	u->slots = must(malloc(PASS_SLOTS_MAX * sizeof(*u->slots)));
	for (unsigned i = 0; i < SLOTS; i++) {
		if (s->state[i] != SLOT_TODO || !s->big[i] || s->due[i] > now || conn_of(b, s->from, (uint16_t)i) != c)
			continue;
		u->slots[u->nslots++] = (uint16_t)i;
		scan_slot_state(b, (uint16_t)i, SLOT_OPEN);
	}
	assert(u->nslots > 0);
	u->conn = c;
	c->pass = u;
	pass_probe(u);
}
