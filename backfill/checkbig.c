/* checkbig.c - compares one large value on both sides chunk by chunk, so that neither DUMPs it nor we hold it.
 *
 * Strings, lists and streams have an order: the same ranges are read of both and must be the same bytes. Sets, hashes and sorted sets have none, and
 * their scans may tell an element twice: both must have the same number of elements, and every element that a scan of the authority tells must
 * be on the follower with the same value. That is equality, without a digest and whatever is told twice.
 *
 *   head (TYPE, PEXPIRETIME, then length of both) → chunks: read of the authority → question to the follower → … → token still the same → decided */
#include "backfill/tour.h"

#include <string.h>

#include "resp/convert.h"
#include "resp/parse.h"
#include "resp/write.h"

#define CHUNK_ELEMENTS 500
#define CHUNK_BYTES 262144

struct head {
	struct bigcheck *g;
	struct conn *conn;
	char type[16];
	int64_t length, expires_at_ms;
	uint64_t groups; /* digest of what XINFO STREAM and GROUPS say, but for what the mirror does not carry */
	unsigned got, want;
	bool lost, elsewhere;
};

struct kind {
	const char *type, *length;
	/* chunk of the authority; NULL: SCAN-like */
	const char *scan;
};

static const struct kind kinds[] = {
	{ "string", "STRLEN", NULL }, { "list", "LLEN", NULL },     { "stream", "XLEN", NULL },
	{ "set", "SCARD", "SSCAN" },  { "hash", "HLEN", "HSCAN" }, { "zset", "ZCARD", "ZSCAN" },
};
#define KINDS (sizeof(kinds) / sizeof(*kinds))

struct bigcheck {
	struct tour *t;
	struct checks waiting;
	struct check *current;
	struct conn *conn[2];
	struct head head[2];
	unsigned awaited;
	const struct kind *kind;
	uint64_t cursor;      /* of the scan, or the offset */
	char last_id[64];     /* streams: read behind it */
	sds mine;             /* the authority's chunk */
	bool last;            /* the chunk under way is the last one */
};

struct bigcheck *bigcheck_new(struct tour *t)
{
	struct bigcheck *g = must(calloc(1, sizeof(*g)));

	g->t = t;
	g->mine = must(sdsempty());
	checks_init(&g->waiting);
	return g;
}

void bigcheck_free(struct bigcheck *g)
{
	assert(!g->current && !g->waiting.n);
	sdsfree(g->mine);
	free(g);
}

static void big_next(struct bigcheck *g);

/* The current one is done here; what becomes of it is said by fn's caller. */
static struct check *big_take(struct bigcheck *g)
{
	struct check *c = g->current;

	g->current = NULL;
	sdsclear(g->mine);
	return c;
}

static void big_failed(struct bigcheck *g, bool elsewhere)
{
	struct check *c = big_take(g);

	if (check_dropped(c))
		check_drop(c);
	else if (elsewhere)
		check_elsewhere(c);
	else
		check_again(c, true);
	big_next(g);
}

/* Conclusive only if nothing moved since the token was read. */
static void big_decide(struct bigcheck *g, enum difference d)
{
	struct backfill *b = g->t->b;
	struct check *c = big_take(g);

	if (check_dropped(c))
		check_drop(c);
	else if (b->host->token(b->host->ctx, c->hash, c->slot, true) != c->token || bf_authority(b, c->slot) != c->from)
		check_again(c, false);
	else
		check_decide(c, d);
	big_next(g);
}

static void big_ask(struct bigcheck *g, int k, sds request, bulk_fn *fn, unsigned replies, void *arg)
{
	g->conn[k]->checking++;
	bulk_send(g->conn[k]->bulk, g->current->db, request, sdslen(request), replies, fn, arg);
}

/* ---- chunks ---- */

static void big_chunk(struct bigcheck *g);

static bool big_lost(struct bigcheck *g, int k, struct slice reply, const char *why)
{
	g->conn[k]->checking--;
	if (!reply.p) {
		conn_was_lost(g->conn[k], why);
		big_failed(g, false);
		return true;
	}
	if (check_dropped(g->current) || reply_error(reply) != REPLY_FINE) {
		char text[200];
		if (reply_error(reply) > REPLY_ELSEWHERE)
			bf_failing(g->conn[k]->b, LOGK_CHECK, "cannot read a large key of slot %u of the %s for comparing: %s", g->current->slot, side_name(g->conn[k]->side),
				   reply_text(reply, text, sizeof(text)));
		big_failed(g, reply_error(reply) == REPLY_ELSEWHERE);
		return true;
	}
	return false;
}

/* Ranges: the follower's bytes against the authority's. */
static void on_follower_range(void *arg, struct slice reply, const char *why)
{
	struct bigcheck *g = arg;

	if (big_lost(g, 1, reply, why))
		return;
	if (!slice_eq(reply, slice(g->mine, sdslen(g->mine))))
		big_decide(g, DIFF_VALUE);
	else if (g->last)
		big_decide(g, DIFF_NONE);
	else
		big_chunk(g);
}

static bool next_item(const char **p, const char *end, struct resp_item *item)
{
	size_t n = resp_item(*p, end, item);

	*p += n;
	return n > 0;
}

/* The next score or value of the authority's scan chunk, behind its member. */
static bool same_value(const struct bigcheck *g, struct slice a, const struct resp_item *f)
{
	char x[64], y[64];

	if (f->type == '_')
		return false;
	if (strcmp(g->kind->type, "hash") == 0)
		return slice_eq(a, f->text);
	if (a.n >= sizeof(x) || f->text.n >= sizeof(y))
		return false;
	snprintf(x, sizeof(x), "%.*s", (int)a.n, a.p);
	snprintf(y, sizeof(y), "%.*s", (int)f->text.n, f->text.p);
	return strtod(x, NULL) == strtod(y, NULL); /* 0.69999999999999996 is 0.7 */
}

/* SMISMEMBER, HMGET, ZMSCORE: one answer for each member of the chunk. */
static void on_follower_members(void *arg, struct slice reply, const char *why)
{
	struct bigcheck *g = arg;
	struct slice keys;
	struct resp_item a, v, f;
	bool set = strcmp(g->kind->type, "set") == 0, same = true;
	uint64_t cursor;

	if (big_lost(g, 1, reply, why))
		return;
	if (!reply_scan(slice(g->mine, sdslen(g->mine)), &cursor, &keys)) {
		big_failed(g, false);
		return;
	}
	const char *p = keys.p, *pend = keys.p + keys.n, *q = reply.p, *qend = reply.p + reply.n;
	next_item(&p, pend, &a);
	next_item(&q, qend, &f);
	for (int64_t left = a.n; left > 0 && same; left -= set ? 1 : 2) {
		if (!next_item(&p, pend, &a) || (!set && !next_item(&p, pend, &v)) || !next_item(&q, qend, &f))
			same = false;
		else
			same = set ? f.type == ':' && f.n == 1 : same_value(g, v.text, &f);
	}
	if (!same)
		big_decide(g, DIFF_VALUE);
	else if (g->last)
		big_decide(g, DIFF_NONE);
	else
		big_chunk(g);
}

static void ask_members(struct bigcheck *g)
{
	static const char *const verbs[KINDS] = { [3] = "SMISMEMBER", [4] = "HMGET", [5] = "ZMSCORE" };
	const char *verb = verbs[g->kind - kinds];
	bool set = g->kind == &kinds[3];
	struct slice keys;
	struct resp_item a, skip;

	if (!reply_scan(slice(g->mine, sdslen(g->mine)), &g->cursor, &keys)) {
		big_failed(g, false);
		return;
	}
	g->last = g->cursor == 0;
	const char *p = keys.p, *end = keys.p + keys.n;
	next_item(&p, end, &a);
	int64_t members = set ? a.n : a.n / 2;
	if (members == 0) {
		if (g->last)
			big_decide(g, DIFF_NONE);
		else
			big_chunk(g);
		return;
	}
	sds s = resp_cat_len(sdsempty(), '*', members + 2);
	s = resp_cat_bulk(s, slice(verb, strlen(verb)));
	s = resp_cat_bulk(s, check_key(g->current));
	for (int64_t left = members; left > 0; left--) {
		if (!next_item(&p, end, &a) || (!set && !next_item(&p, end, &skip)))
			break;
		s = resp_cat_bulk(s, a.text);
	}
	big_ask(g, 1, s, on_follower_members, 1, g);
	sdsfree(s);
}

static sds range_request(const struct bigcheck *g)
{
	struct slice key = check_key(g->current);
	char from[24], to[24], n[24];
	bool string = g->kind == &kinds[0];

	snprintf(from, sizeof(from), "%llu", (unsigned long long)g->cursor);
	snprintf(to, sizeof(to), "%llu", (unsigned long long)(g->cursor + (string ? CHUNK_BYTES : CHUNK_ELEMENTS) - 1));
	snprintf(n, sizeof(n), "%d", CHUNK_ELEMENTS);
	if (g->kind == &kinds[2]) {
		struct slice words[6] = { SLICE_LIT("XRANGE"), key, slice(g->last_id, strlen(g->last_id)), SLICE_LIT("+"), SLICE_LIT("COUNT"),
					  slice(n, strlen(n)) };
		return resp_cat_request(sdsempty(), 6, words);
	}
	struct slice words[4] = { string ? SLICE_LIT("GETRANGE") : SLICE_LIT("LRANGE"), key, slice(from, strlen(from)), slice(to, strlen(to)) };
	return resp_cat_request(sdsempty(), 4, words);
}

/* The ID of the last entry of an XRANGE reply becomes "(id". False: the reply was empty. */
static bool stream_go_on(struct bigcheck *g)
{
	const char *p = g->mine, *end = p + sdslen(g->mine);
	struct resp_item item = { 0 }, id = { 0 };

	if (!next_item(&p, end, &item) || item.n <= 0)
		return false;
	for (int64_t left = item.n; left > 0; left--) {
		const char *entry = p;
		size_t n = resp_value_len(p, end);
		struct resp_item skip;
		if (!n || !next_item(&entry, end, &skip) || !next_item(&entry, end, &id))
			return false;
		p += n;
	}
	g->last = item.n < CHUNK_ELEMENTS;
	snprintf(g->last_id, sizeof(g->last_id), "(%.*s", (int)(id.text.n < 50 ? id.text.n : 50), id.text.p);
	return true;
}

static void on_authority_chunk(void *arg, struct slice reply, const char *why)
{
	struct bigcheck *g = arg;
	struct head *h = &g->head[0];

	if (big_lost(g, 0, reply, why))
		return;
	if (g->kind->scan) {
		g->mine = must(sdscpylen(g->mine, reply.p, reply.n));
		ask_members(g);
		return;
	}
	sds s = range_request(g);
	g->mine = must(sdscpylen(g->mine, reply.p, reply.n));
	if (g->kind == &kinds[2]) {
		g->last = !stream_go_on(g) || g->last;
	} else {
		g->cursor += g->kind == &kinds[0] ? CHUNK_BYTES : CHUNK_ELEMENTS;
		g->last = (int64_t)g->cursor >= h->length;
	}
	big_ask(g, 1, s, on_follower_range, 1, g);
	sdsfree(s);
}

static void big_chunk(struct bigcheck *g)
{
	char cursor[24];
	sds s;

	if (g->kind->scan) {
		snprintf(cursor, sizeof(cursor), "%llu", (unsigned long long)g->cursor);
		struct slice words[5] = { slice(g->kind->scan, strlen(g->kind->scan)), check_key(g->current), slice(cursor, strlen(cursor)),
					  SLICE_LIT("COUNT"), SLICE_LIT("500") };
		s = resp_cat_request(sdsempty(), 5, words);
	} else {
		s = range_request(g);
	}
	big_ask(g, 0, s, on_authority_chunk, 1, g);
	sdsfree(s);
}

/* ---- what both say of the key ---- */

/* One map of XINFO: the fields that both sides must agree on. */
static uint64_t info_digest(const char **p, const char *end)
{
	static const char *const fields[] = { "name", "pending", "last-delivered-id", "last-generated-id", "entries-added" };
	struct resp_item item, name;
	uint64_t h = 1;

	if (!next_item(p, end, &item) || item.type != '%')
		return 0;
	for (int64_t pairs = item.n / 2; pairs > 0; pairs--) {
		if (!next_item(p, end, &name))
			return 0;
		size_t n = resp_value_len(*p, end);
		for (unsigned i = 0; i < sizeof(fields) / sizeof(*fields); i++)
			if (slice_is(name.text, fields[i]))
				h = crc64_jones(h, *p, n);
		*p += n;
	}
	return h;
}

/* XINFO GROUPS or STREAM; groups in any order. */
static uint64_t stream_digest(struct slice reply)
{
	const char *p = reply.p, *end = reply.p + reply.n;
	struct resp_item item;
	uint64_t sum = 0;

	if (reply.n && *p == '%')
		return info_digest(&p, end);
	if (!next_item(&p, end, &item) || item.type != '*')
		return 0;
	for (int64_t groups = item.n; groups > 0; groups--)
		sum += info_digest(&p, end);
	return sum;
}

static void heads_typed(struct bigcheck *g);
static void heads_known(struct bigcheck *g);

static void head_reply(struct head *h, struct slice reply)
{
	struct resp_item item = { 0 };

	if (reply_error(reply) == REPLY_ELSEWHERE)
		h->elsewhere = true;
	resp_item(reply.p, reply.p + reply.n, &item);
	if (!h->type[0])
		snprintf(h->type, sizeof(h->type), "%.*s", (int)(item.text.n < 15 ? item.text.n : 15), item.text.p ? item.text.p : "?");
	else if (!h->g->kind && h->got == 1)
		reply_int(reply, &h->expires_at_ms);
	else if (h->got == 0)
		reply_int(reply, &h->length);
	else
		h->groups += stream_digest(reply);
}

static void on_head(void *arg, struct slice reply, const char *why)
{
	struct head *h = arg;
	struct bigcheck *g = h->g;

	if (!reply.p) {
		h->lost = true;
		conn_was_lost(h->conn, why);
	} else {
		head_reply(h, reply);
		if (++h->got < h->want)
			return;
	}
	h->conn->checking--;
	if (--g->awaited > 0)
		return;
	if (check_dropped(g->current) || g->head[0].lost || g->head[1].lost || g->head[0].elsewhere || g->head[1].elsewhere)
		big_failed(g, g->head[0].elsewhere || g->head[1].elsewhere);
	else if (!g->kind)
		heads_typed(g);
	else
		heads_known(g);
}

static void heads_ask(struct bigcheck *g, sds request, unsigned replies)
{
	g->awaited = 2;
	for (int k = 0; k < 2; k++) {
		g->head[k].got = 0;
		g->head[k].want = replies;
		big_ask(g, k, request, on_head, replies, &g->head[k]);
	}
	sdsfree(request);
}

static sds cat_about(sds s, const char *verb, const char *sub, struct slice key)
{
	struct slice words[3] = { slice(verb, strlen(verb)), key, key };

	if (sub)
		words[1] = slice(sub, strlen(sub));
	return resp_cat_request(s, sub ? 3 : 2, words);
}

/* Type and expiry of both are there: the length by the type's own command. */
static void heads_typed(struct bigcheck *g)
{
	struct head *a = &g->head[0], *f = &g->head[1];
	struct slice key = check_key(g->current);
	sds s;

	if (a->expires_at_ms == -2 || f->expires_at_ms == -2) {
		int64_t other = a->expires_at_ms == -2 ? f->expires_at_ms : a->expires_at_ms; /* -2: both are gone */
		bool over = other == -2 || (other >= 0 && other < later_clock_ms(g->t->b) + EXPIRES_SOON_MS);
		big_decide(g, over ? DIFF_NONE : a->expires_at_ms == -2 ? DIFF_EXTRA : DIFF_MISSING);
		return;
	}
	for (unsigned i = 0; i < KINDS; i++)
		if (strcmp(a->type, kinds[i].type) == 0)
			g->kind = &kinds[i];
	if (strcmp(a->type, f->type) != 0) {
		big_decide(g, DIFF_TYPE);
		return;
	}
	if (!g->kind) {
		big_decide(g, DIFF_NONE); /* a module's: type and expiry are all that can be asked */
		return;
	}
	s = cat_about(sdsempty(), g->kind->length, NULL, key);
	if (g->kind == &kinds[2]) {
		s = cat_about(s, "XINFO", "STREAM", key);
		s = cat_about(s, "XINFO", "GROUPS", key);
	}
	heads_ask(g, s, g->kind == &kinds[2] ? 3 : 1);
}

static void heads_known(struct bigcheck *g)
{
	struct head *a = &g->head[0], *f = &g->head[1];

	if (a->length != f->length || a->groups != f->groups) {
		big_decide(g, DIFF_VALUE);
		return;
	}
	if (llabs(a->expires_at_ms - f->expires_at_ms) > EXPIRY_TOLERANCE_MS || (a->expires_at_ms < 0) != (f->expires_at_ms < 0)) {
		big_decide(g, DIFF_EXPIRY);
		return;
	}
	g->cursor = 0;
	snprintf(g->last_id, sizeof(g->last_id), "-");
	g->last = false;
	big_chunk(g);
}

static bool big_begin(struct bigcheck *g, struct check *c)
{
	struct backfill *b = g->t->b;
	sds s;

	c->from = (uint8_t)bf_authority(b, c->slot);
	for (int k = 0; k < 2; k++) {
		g->conn[k] = conn_of(b, k == 0 ? (enum side)c->from : SIDE_OTHER(c->from), c->slot);
		if (!g->conn[k] || !conn_ready(g->conn[k], bf_now(b))) {
			check_again(c, true);
			return false;
		}
	}
	c->token = b->host->token(b->host->ctx, c->hash, c->slot, true);
	if (c->token == TOKEN_BUSY) {
		check_again(c, false);
		return false;
	}
	g->current = c;
	g->kind = NULL;
	for (int k = 0; k < 2; k++)
		g->head[k] = (struct head){ .g = g, .conn = g->conn[k], .expires_at_ms = -2 };
	s = cat_about(sdsempty(), "TYPE", NULL, check_key(c));
	s = cat_about(s, "PEXPIRETIME", NULL, check_key(c));
	heads_ask(g, s, 2);
	return true;
}

static void big_next(struct bigcheck *g)
{
	while (!g->current && g->waiting.n) {
		struct check *c = checks_pop(&g->waiting);
		if (check_dropped(c))
			check_drop(c);
		else if (big_begin(g, c))
			return;
	}
}

void bigcheck_push(struct bigcheck *g, struct check *c)
{
	/* It waits in a line of its own and is no longer in the way of small ones. */
	check_stand(c);
	checks_push(&g->waiting, c);
	big_next(g);
}

void bigcheck_cancel(struct bigcheck *g)
{
	struct check *c;

	/* The current one ends when its replies come, or their loss. */
	while ((c = checks_pop(&g->waiting)))
		check_drop(c);
}
