/* uncarried.c - the keys whose values the follower cannot hold at all: named, counted once, kept in state_dir/uncarried.
 *
 *   read, cannot be carried ──named in the list──► waits until the list is on disk ──read again──► its copy is an UNLINK on the follower: settled
 *
 * Such a key is neither applied nor dirty: the list is where it is accounted for (invariant 4), which is why the list has to be durable before the key is
 * let go. It leaves the list when a copy of it is made after all, or is found to be gone; and the authority is asked now and then what became of it, since
 * a key that expired, or that the mirror carried by itself, comes by here no more.
 *
 * The list is bounded: what is beyond is not named, and the list says so until a verify finds nothing missing. */
#include "backfill/internal.h"

#include <string.h>
#include <uthash.h>
#include <xxhash.h>

#include "resp/parse.h"
#include "resp/slot.h"
#include "resp/write.h"

#define NAME "uncarried"
#define MAGIC "XFUC"
#define FORMAT 1
#define KEYS_MAX 10000
#define BYTES_OF_KEYS_MAX (1u << 20)
#define WHY_MAX 160
#define TEXT_MAX 256      /* of a key, where it is shown */
#define FILE_MAX (4u << 20)
#define SAVE_EVERY_S 0.1
#define LOOKS 100         /* keys asked for at once… */
#define LOOK_EVERY_S 1.
#define LOOK_AGAIN_S 5.   /* …and each not more often than this */
#define COPY_AGAIN_S 60.  /* one of a type that could be carried: read anew, twice as late each time */
#define COPY_AGAIN_MAX_S 3600.

struct entry {
	UT_hash_handle hh;
	uint64_t serial;  /* on disk if it is not above `saved` */
	double look_at, copy_at, copy_after;
	enum side from;
	uint16_t db, slot;
	char why[WHY_MAX];
	size_t n;         /* of id */
	char id[];        /* database (2 bytes), key */
};

struct uncarried {
	struct backfill *b;
	struct entry *table; /* in the order in which they were found */
	size_t bytes;
	uint64_t serial, saved, more_serial;
	uint64_t beyond;     /* keys of databases that the follower does not have: counted, not named */
	bool on;             /* a migration is under way: else nothing is listed */
	bool more;           /* there are some that are not in the table */
	bool told;           /* the host has the list as it is */
	double look_at;
	ev_timer tick;
};

static struct slice entry_key(const struct entry *e)
{
	return slice(e->id + 2, e->n - 2);
}

sds uncarried_text(struct slice key)
{
	sds s = must(sdsempty());

	for (size_t i = 0; i < key.n; i++) {
		unsigned char c = (unsigned char)key.p[i];
		if (sdslen(s) >= TEXT_MAX)
			return must(sdscat(s, "..."));
		s = must(c < ' ' || c > '~' || c == '\\' ? sdscatprintf(s, "\\x%02x", c) : sdscatlen(s, &c, 1));
	}
	return s;
}

/* ---- what is told ---- */

void uncarried_report_free(struct uncarried_report *r)
{
	if (!r)
		return;
	for (unsigned i = 0; i < r->n; i++) {
		sdsfree(r->at[i].key);
		sdsfree(r->at[i].why);
	}
	free(r);
}

static struct uncarried_report *report_new(const struct uncarried *u)
{
	unsigned keys = HASH_COUNT(u->table), n = keys < UNCARRIED_NAMED ? keys : UNCARRIED_NAMED;
	struct uncarried_report *r = must(calloc(1, sizeof(*r) + n * sizeof(*r->at)));

	r->complete = !u->more && u->beyond == 0 && n == keys;
	for (const struct entry *e = u->table; e && r->n < n; e = e->hh.next)
		r->at[r->n++] = (struct uncarried_key){ e->db, SIDE_OTHER(e->from), uncarried_text(entry_key(e)), uncarried_text(slice(e->why, strlen(e->why))) };
	return r;
}

static void changed(struct uncarried *u)
{
	u->serial++;
	u->told = false;
	stat_set(&u->b->stats->uncarried, HASH_COUNT(u->table) + u->beyond + u->more);
	if (!ev_is_active(&u->tick))
		ev_timer_again(u->b->loop, &u->tick);
}

static void tell(struct uncarried *u)
{
	if (u->told)
		return;
	u->told = true;
	if (u->b->host->uncarried)
		u->b->host->uncarried(u->b->host->ctx, report_new(u));
}

/* ---- the file: a header, the keys, XXH3 of all before it ---- */

struct header {
	char magic[4];
	uint32_t format;
	uint32_t keys;
	uint32_t more;
	char migration[128];
};

struct stored { /* the id and the reason follow */
	uint32_t from, n, why_len;
};

bool uncarried_save(struct backfill *b)
{
	struct uncarried *u = b->uncarried;
	struct header h;
	uint64_t sum;

	if (u->saved == u->serial)
		return true;
	memset(&h, 0, sizeof(h));
	memcpy(h.magic, MAGIC, 4);
	h.format = FORMAT;
	h.keys = HASH_COUNT(u->table);
	h.more = u->more;
	snprintf(h.migration, sizeof(h.migration), "%s", b->config.migration_id ? b->config.migration_id : "");
	sds text = must(sdsnewlen(&h, sizeof(h)));
	for (const struct entry *e = u->table; e; e = e->hh.next) {
		struct stored s = { .from = e->from, .n = (uint32_t)e->n, .why_len = (uint32_t)strlen(e->why) };
		text = must(sdscatlen(text, &s, sizeof(s)));
		text = must(sdscatlen(text, e->id, e->n));
		text = must(sdscatlen(text, e->why, s.why_len));
	}
	sum = XXH3_64bits(text, sdslen(text));
	text = must(sdscatlen(text, &sum, sizeof(sum)));
	bool ok = file_store(b, NAME, text, sdslen(text));
	sdsfree(text);
	if (ok)
		u->saved = u->serial;
	return ok;
}

static struct entry *entry_add(struct uncarried *u, uint16_t db, struct slice key, uint16_t slot)
{
	struct entry *e;

	if (HASH_COUNT(u->table) >= KEYS_MAX || u->bytes + key.n > BYTES_OF_KEYS_MAX)
		return NULL;
	e = must(calloc(1, sizeof(*e) + key.n + 2));
	e->db = db;
	e->slot = slot;
	e->copy_after = COPY_AGAIN_S;
	e->n = key.n + 2;
	memcpy(e->id, &db, 2);
	memcpy(e->id + 2, key.p, key.n);
	u->bytes += key.n;
	HASH_ADD_KEYPTR(hh, u->table, e->id, e->n, e);
	return e;
}

/* One key of the file; bytes used, 0: it is damaged. */
static size_t load_one(struct uncarried *u, const char *p, size_t left)
{
	struct stored s;
	uint16_t db;

	if (left < sizeof(s))
		return 0;
	memcpy(&s, p, sizeof(s));
	if (s.from >= SIDES || s.n < 2 || s.why_len >= WHY_MAX || left - sizeof(s) < (size_t)s.n + s.why_len)
		return 0;
	p += sizeof(s);
	memcpy(&db, p, 2);
	struct slice key = slice(p + 2, s.n - 2);
	struct entry *e = entry_add(u, db, key, slot_of(key));
	if (!e)
		return 0;
	e->from = (enum side)s.from;
	memcpy(e->why, p + s.n, s.why_len);
	return sizeof(s) + s.n + s.why_len;
}

static const char *load_text(struct uncarried *u, const char *text, size_t n)
{
	struct header h;
	uint64_t sum;
	size_t at = sizeof(h), used = 1;

	if (n < sizeof(h) + sizeof(sum) || memcmp(text, MAGIC, 4) != 0)
		return "it is of another format or cut short";
	memcpy(&h, text, sizeof(h));
	memcpy(&sum, text + n - sizeof(sum), sizeof(sum));
	n -= sizeof(sum);
	if (h.format != FORMAT || sum != XXH3_64bits(text, n))
		return "its checksum or its format is wrong";
	if (strncmp(h.migration, u->b->config.migration_id ? u->b->config.migration_id : "", sizeof(h.migration) - 1) != 0)
		return NULL; /* of a migration that is over */
	for (uint32_t i = 0; i < h.keys && used; i++)
		at += used = load_one(u, text + at, n - at);
	if (!used || at != n)
		return "it is damaged";
	u->more = h.more;
	return NULL;
}

void uncarried_load(struct backfill *b)
{
	struct uncarried *u = b->uncarried;
	sds text = file_read(b, NAME, FILE_MAX);

	u->on = true;
	if (text && !u->table) {
		const char *why = load_text(u, text, sdslen(text));
		if (why) {
			b->host->log(b->host->ctx, BF_LOG_WARNING, "'%s/%s', the list of keys that cannot be carried, is not used: %s; a verify counts them as missing",
				     b->config.state_dir, NAME, why);
			u->more = true;
		}
		changed(u);
	}
	sdsfree(text);
}

/* ---- coming and going ---- */

static struct entry *entry_find(struct uncarried *u, uint16_t db, struct slice key)
{
	char small[256], *id = small;
	struct entry *e;

	if (!u->table)
		return NULL;
	if (key.n + 2 > sizeof(small))
		id = must(malloc(key.n + 2));
	memcpy(id, &db, 2);
	memcpy(id + 2, key.p, key.n);
	HASH_FIND(hh, u->table, id, key.n + 2, e);
	if (id != small)
		free(id);
	return e;
}

static void entry_remove(struct uncarried *u, struct entry *e)
{
	HASH_DEL(u->table, e);
	u->bytes -= e->n - 2;
	free(e);
	changed(u);
}

static void log_found(struct backfill *b, const struct copy *c, const char *why)
{
	if (!bf_may_log(b, LOGK_UNCARRIED))
		return;
	sds key = uncarried_text(copy_key(c));
	b->host->log(b->host->ctx, BF_LOG_WARNING, "key '%s' of database %u cannot be carried to the %s: %s", key, c->db,
		     side_name(SIDE_OTHER(c->from)), why);
	sdsfree(key);
}

bool uncarried_add(struct backfill *b, const struct copy *c, const char *why)
{
	struct uncarried *u = b->uncarried;
	struct entry *e = entry_find(u, c->db, copy_key(c));
	bool is_new = !e;

	if (!u->on)
		return true;
	if (is_new)
		e = entry_add(u, c->db, copy_key(c), c->slot);
	if (!e) {
		if (!u->more) {
			u->more = true;
			changed(u);
			u->more_serial = u->serial;
			log_found(b, c, why);
		}
		return u->more_serial <= u->saved;
	}
	e->look_at = bf_now(b) + LOOK_AGAIN_S;
	if (is_new || e->from != c->from || strncmp(e->why, why, WHY_MAX - 1) != 0) {
		e->from = c->from;
		snprintf(e->why, sizeof(e->why), "%s", why);
		changed(u);
		e->serial = u->serial;
		log_found(b, c, why);
	}
	return e->serial <= u->saved;
}

void uncarried_gone(struct backfill *b, const struct copy *c)
{
	struct entry *e = entry_find(b->uncarried, c->db, copy_key(c));

	if (e)
		entry_remove(b->uncarried, e);
}

bool uncarried_left_behind(struct backfill *b, uint16_t db, struct slice key, uint16_t slot)
{
	const struct entry *e = entry_find(b->uncarried, db, key);

	return e && e->from != bf_authority(b, slot);
}

void uncarried_beyond(struct backfill *b, uint64_t keys)
{
	if (b->uncarried->beyond == keys)
		return;
	b->uncarried->beyond = keys;
	changed(b->uncarried);
}

void uncarried_none_missing(struct backfill *b)
{
	struct uncarried *u = b->uncarried;

	if (!u->more)
		return;
	u->more = false;
	changed(u);
}

static void table_clear(struct uncarried *u)
{
	struct entry *e, *next;

	HASH_ITER(hh, u->table, e, next) {
		HASH_DEL(u->table, e);
		free(e);
	}
	u->bytes = 0;
	u->more = false;
	u->beyond = 0;
}

void uncarried_clear(struct backfill *b)
{
	b->uncarried->on = false;
	table_clear(b->uncarried);
	changed(b->uncarried);
	b->uncarried->saved = b->uncarried->serial;
	tell(b->uncarried);
	file_remove(b, NAME);
}

/* ---- what became of them ---- */

struct look {
	struct uncarried *u;
	struct conn *conn;
	enum side from;
	uint16_t db;
	double asked_at;
	size_t n;
	char key[];
};

/* Of a type that could be carried: by the mirror, or by nobody yet. It is copied anew, which tells. */
static void look_copied(struct uncarried *u, struct entry *e, double now)
{
	/* From the other side, after a flip, it is what was left behind: a copy would remove it. */
	if (now < e->copy_at || e->from != bf_authority(u->b, e->slot) || !u->b->host->mark(u->b->host->ctx, e->db, entry_key(e), e->slot))
		return;
	e->copy_at = now + e->copy_after;
	e->copy_after = e->copy_after * 2 < COPY_AGAIN_MAX_S ? e->copy_after * 2 : COPY_AGAIN_MAX_S;
}

static void on_look(void *arg, struct slice reply, const char *why)
{
	static const char *const types[] = { "string", "list", "set", "zset", "hash", "stream" };
	struct look *l = arg;
	struct uncarried *u = l->u;
	struct resp_item item;

	l->conn->checking--;
	if (!reply.p)
		conn_was_lost(l->conn, why);
	struct entry *e = entry_find(u, l->db, slice(l->key, l->n));
	/* Found again meanwhile: then the answer may be older. */
	if (reply.p && e && e->from == l->from && e->look_at <= l->asked_at + LOOK_AGAIN_S && resp_item(reply.p, reply.p + reply.n, &item) && item.type == '+') {
		if (slice_is(item.text, "none"))
			entry_remove(u, e);
		else
			for (unsigned i = 0; i < sizeof(types) / sizeof(*types); i++)
				if (slice_is(item.text, types[i]))
					look_copied(u, e, bf_now(u->b));
	}
	free(l);
}

static void look_send(struct uncarried *u, struct conn *n, const struct entry *e, double now)
{
	struct slice key = entry_key(e), words[2] = { SLICE_LIT("TYPE"), key };
	struct look *l = must(malloc(sizeof(*l) + key.n));

	*l = (struct look){ .u = u, .conn = n, .from = e->from, .db = e->db, .asked_at = now, .n = key.n };
	memcpy(l->key, key.p, key.n);
	n->checking++;
	sdsclear(u->b->scratch);
	u->b->scratch = resp_cat_request(u->b->scratch, 2, words);
	bulk_send(n->bulk, e->db, u->b->scratch, sdslen(u->b->scratch), 1, on_look, l);
}

static void look_around(struct uncarried *u, double now)
{
	unsigned sent = 0;

	for (struct entry *e = u->table; e && sent < LOOKS; e = e->hh.next) {
		struct conn *n = now >= e->look_at ? conn_of(u->b, e->from, e->slot) : NULL;
		if (!n || !conn_ready(n, now))
			continue;
		e->look_at = now + LOOK_AGAIN_S;
		look_send(u, n, e, now);
		sent++;
	}
}

static void on_tick(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct uncarried *u = w->data;
	double now = ev_now(loop);

	(void)revents;
	uncarried_save(u->b);
	tell(u);
	if (now >= u->look_at) {
		u->look_at = now + LOOK_EVERY_S;
		look_around(u, now);
	}
	if (!u->table && u->saved == u->serial && u->told)
		ev_timer_stop(loop, w);
}

/* ---- life ---- */

struct uncarried *uncarried_new(struct backfill *b)
{
	struct uncarried *u = must(calloc(1, sizeof(*u)));

	u->b = b;
	u->told = true;
	ev_init(&u->tick, on_tick);
	u->tick.repeat = SAVE_EVERY_S;
	u->tick.data = u;
	return u;
}

void uncarried_free(struct uncarried *u)
{
	ev_timer_stop(u->b->loop, &u->tick);
	table_clear(u);
	free(u);
}
