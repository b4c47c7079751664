/* large_kinds.c - reads strings, lists, sets, sorted sets and hashes in chunks. SCANs may tell an element twice: what is built from them is
 * the same if it comes again. */
#include <stdio.h>

#include "backfill/large_parts.h"
#include "backfill/payload.h"
#include "resp/write.h"

#define ZSET_ELEMENTS 128
#define LIST_MARGIN_MAX BLOCK_ELEMENTS /* so a range has twice as many at most */

/* ---- strings ---- */

static void take_string(struct large *l, struct slice reply)
{
	struct values w = values_over(reply);
	struct slice part = values_text(&w);
	struct block *b = large_block(l);
	char offset[24];
	size_t offset_len = (size_t)snprintf(offset, sizeof(offset), "%llu", (unsigned long long)l->offset);

	if (!part.p) {
		large_fail(l, RECIPE_ERROR, "GETRANGE was not answered with a string");
		return;
	}
	struct slice set[] = { b->key, part };
	struct slice setrange[] = { b->key, slice(offset, offset_len), part };
	if (l->offset == 0)
		block_command(b, "SET", 2, set); /* SETRANGE of nothing would make no key */
	else if (part.n > 0)
		block_command(b, "SETRANGE", 3, setrange);
	l->offset += part.n;
	l->all_read = part.n < BLOCK_BYTES;
}

static void read_string(struct large *l)
{
	char first[24], last[24];

	snprintf(first, sizeof(first), "%llu", (unsigned long long)l->offset);
	snprintf(last, sizeof(last), "%llu", (unsigned long long)l->offset + BLOCK_BYTES - 1);
	large_request_words(l, "GETRANGE", first, last, NULL);
	large_ask(l, take_string);
}

/* ---- lists ---- */

/* Elements of the list from asked_from on: those that follow what is copied are added. False: they do not follow it, or there are none. */
static bool add_elements(struct large *l, struct values w, int64_t n)
{
	uint64_t skip = l->offset - l->asked_from;
	struct block *b;

	if (l->offset < l->asked_from) {
		l->margin = 2 * l->margin + (unsigned)(l->asked_from - l->offset);
		l->margin = l->margin < LIST_MARGIN_MAX ? l->margin : LIST_MARGIN_MAX;
		return false;
	}
	b = large_block(l);
	block_open(b, "RPUSH", NULL);
	for (uint64_t i = 0; i < (uint64_t)n; i++) {
		struct slice element = values_text(&w);
		if (i >= skip)
			block_element(b, 1, &element);
	}
	block_close(b);
	l->offset += (uint64_t)n > skip ? (uint64_t)n - skip : 0;
	return true;
}

/* LLEN, then LRANGE. */
static void take_list(struct large *l, struct slice reply)
{
	struct values w = values_over(reply);
	int64_t n = 0;

	if (l->read_left > 0) {
		if (!values_int(&w, &n) || (l->o.ask && l->length >= 0 && l->length != n))
			large_fail(l, RECIPE_ERROR, "the list is not as long as what was written to it says");
		l->length = n;
		return;
	}
	n = values_children(&w);
	if (n < 0 || !add_elements(l, w, n))
		return;
	l->all_read = (int64_t)l->offset >= l->length || (n == 0 && !l->o.ask);
	large_adapt(l, (uint64_t)n, reply.n);
}

/* Writes that are executed before it move what is copied: it begins a little earlier. */
static void read_list(struct large *l)
{
	char first[24], last[24];

	l->asked_from = l->offset > l->margin ? l->offset - l->margin : 0;
	snprintf(first, sizeof(first), "%llu", (unsigned long long)l->asked_from);
	snprintf(last, sizeof(last), "%llu", (unsigned long long)l->offset + l->want - 1);
	large_request_words(l, "LLEN", NULL);
	large_request_words(l, "LRANGE", first, last, NULL);
	large_ask(l, take_list);
}

/* ---- sets, sorted sets, hashes: SCAN's kind ---- */

static void read_scan(struct large *l, const char *verb, void (*take)(struct large *, struct slice))
{
	char count[16];

	snprintf(count, sizeof(count), "%u", l->want);
	large_request_words(l, verb, l->cursor, "COUNT", count, NULL);
	large_ask(l, take);
}

/* [cursor, [elements]]: the walk past the inner header, and the number of elements; -1: failed. */
static int64_t take_scan(struct large *l, struct slice reply, struct values *w)
{
	*w = values_over(reply);
	int64_t parts = values_children(w);
	struct slice cursor = values_text(w);
	int64_t n = values_children(w);

	if (parts != 2 || !cursor.p || cursor.n >= sizeof(l->cursor) || n < 0) {
		large_fail(l, RECIPE_ERROR, "a scan was not answered as expected");
		return -1;
	}
	memcpy(l->cursor, cursor.p, cursor.n);
	l->cursor[cursor.n] = '\0';
	l->all_read = l->scan_read = strcmp(l->cursor, "0") == 0;
	return n;
}

static void take_set(struct large *l, struct slice reply)
{
	struct values w;
	int64_t n = take_scan(l, reply, &w);

	if (n <= 0)
		return;
	struct block *b = large_block(l);
	block_open(b, "SADD", NULL);
	for (int64_t i = 0; i < n; i++) {
		struct slice member = values_text(&w);
		block_element(b, 1, &member);
	}
	block_close(b);
	large_adapt(l, (uint64_t)n, reply.n);
}

static void read_set(struct large *l)
{
	read_scan(l, "SSCAN", take_set);
}

/* Pairs in turn; ZADD wants the second one first. */
static void take_pairs(struct large *l, struct values w, int64_t n, const char *verb, bool swap)
{
	struct block *b = large_block(l);

	block_open(b, verb, NULL);
	for (int64_t i = 0; i + 1 < n; i += 2) {
		struct slice pair[2];
		pair[swap] = values_text(&w);
		pair[!swap] = values_text(&w);
		block_element(b, 2, pair);
	}
	block_close(b);
}

static void take_zset(struct large *l, struct slice reply)
{
	struct values w;
	int64_t n = take_scan(l, reply, &w);

	if (n <= 0)
		return;
	take_pairs(l, w, n, "ZADD", true);
	large_adapt(l, (uint64_t)n / 2, reply.n);
}

static void read_zset(struct large *l)
{
	read_scan(l, "ZSCAN", take_zset);
}

static void read_hash(struct large *l);

/* [expiry of each field] of one HPEXPIRETIME: -1 none, -2 the field is gone. */
static void take_field_expiry(struct large *l, struct slice reply)
{
	struct values w = values_over(reply);
	int64_t ms;

	for (int64_t n = values_children(&w); n > 0; n--) {
		struct slice field = values_text(&l->fields);
		values_whole(&l->fields); /* its value */
		if (!field.p || !values_int(&w, &ms)) {
			large_fail(l, RECIPE_ERROR, "HPEXPIRETIME was not answered as expected");
			return;
		}
		if (ms >= 0 && !receiver_has_field_expiry(&l->o.to_kind)) {
			large_fail(l, RECIPE_CANNOT, "%s", field_expiry_reason(1));
			return;
		}
		if (ms >= 0)
			expire_add(&l->expire, field, ms);
	}
	if (l->read_left > 0)
		return;
	expire_end(&l->expire);
	l->read = read_hash;
}

/* Asks for the expiry of the fields in l->held. */
static void read_field_expiry(struct large *l)
{
	struct values w = l->fields;
	struct slice argv[4 + BLOCK_ELEMENTS] = { SLICE_LIT("HPEXPIRETIME"), l->o.key, SLICE_LIT("FIELDS") };
	char count[16];
	size_t bytes = 0;
	int n = 0;

	while (w.p < w.end) {
		argv[4 + n] = values_text(&w);
		bytes += argv[4 + n++].n;
		values_whole(&w);
		if (n < BLOCK_ELEMENTS && bytes < BLOCK_BYTES && w.p < w.end)
			continue;
		bytes = 0;
		argv[3] = slice(count, (size_t)snprintf(count, sizeof(count), "%d", n));
		large_request(l, 4 + n, argv);
		n = 0;
	}
	l->all_read = l->scan_read;
	l->fields_wait = false;
	large_ask(l, take_field_expiry);
}

bool large_hold_fields(struct large *l)
{
	if (!receiver_has_field_expiry(&l->o.from_kind))
		return false;
	if (!l->held)
		l->held = sdsempty();
	sdsclear(l->held);
	return true;
}

/* HSET took away what expiry a field had: it follows, in the next batch. */
void large_ask_expiry(struct large *l)
{
	l->fields = (struct values){ l->held, l->held + sdslen(l->held) };
	l->read = read_field_expiry;
	l->fields_wait = true;
	l->all_read = false;
}

static void take_hash(struct large *l, struct slice reply)
{
	struct values w;
	int64_t n = take_scan(l, reply, &w);

	if (n <= 0)
		return;
	take_pairs(l, w, n, "HSET", false);
	large_adapt(l, (uint64_t)n / 2, reply.n);
	if (!large_hold_fields(l))
		return;
	l->held = sdscatlen(l->held, w.p, (size_t)(w.end - w.p));
	large_ask_expiry(l);
}

static void read_hash(struct large *l)
{
	read_scan(l, "HSCAN", take_hash);
}

bool large_choose(struct large *l, struct slice type)
{
	static const struct {
		const char *type;
		void (*read)(struct large *);
		large_op_fn *op;
	} kinds[] = {
		{ "string", read_string, large_string_op }, { "list", read_list, large_list_op }, { "set", read_set, NULL },
		{ "zset", read_zset, NULL }, { "hash", read_hash, NULL }, { "stream", large_stream_read, large_stream_op },
	};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (slice_is(type, kinds[i].type)) {
			l->read = kinds[i].read;
			l->op = kinds[i].op;
			l->again = large_again_of(type);
			if (kinds[i].read == read_zset) /* the dearest to be written: each member is looked for in a long skiplist */
				l->most = ZSET_ELEMENTS;
			return true;
		}
	return false;
}
