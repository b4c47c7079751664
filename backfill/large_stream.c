/* large_stream.c - reads a stream in chunks: what XINFO tells of it and its groups; the ids of all pending entries (placeholders are needed in
 * their order, see recipe_stream.c); the entries; then the pending entries again, to be claimed. Delivery times come from XPENDING's idle
 * times and TIME, so they may be off by the millisecond that passes between.
 *
 * One that is written to meanwhile (large.h): ids that were claimed and whose entries are still to come need a placeholder if they are deleted
 * before; deleted entries that are copied already are kept for the claims. When writes are held: the last entries, XINFO again, the first
 * entry that is left (trims cut what is before it), groups and claims; then the deleted entries go. */
#include <stdio.h>
#include <stdlib.h>

#include "backfill/large_parts.h"
#include "resp/digits.h"
#include "resp/write.h"

struct large_stream {
	sds reply; /* of XINFO: what info and group point into */
	struct stream_info info;
	struct stream_build build;
	struct values groups; /* those still to come */
	int64_t groups_left;
	struct stream_group group;
	char start[STREAM_ID_TEXT + 1]; /* of the next range */
	int64_t time_ms;
	/* written to meanwhile */
	struct stream_id last;          /* the last entry that was read */
	struct stream_ids deleted;      /* those of them that were deleted since */
	bool unsorted;                  /* pending ids came after they were sorted */
	char first[STREAM_ID_TEXT];     /* the first entry that is left; empty: none is */
};

static void read_entries(struct large *l);
static void read_pending_ids(struct large *l);
static void read_claims(struct large *l);
static void read_info_again(struct large *l);
static void finish(struct large *l);

void large_stream_release(struct large *l)
{
	if (!l->stream)
		return;
	stream_build_release(&l->stream->build);
	free(l->stream->deleted.ids);
	sdsfree(l->stream->reply);
	free(l->stream);
	l->stream = NULL;
}

/* The next range begins behind this id. */
static void start_behind(struct large_stream *s, struct slice id)
{
	int n = id.n < STREAM_ID_TEXT ? (int)id.n : 0;
	snprintf(s->start, sizeof(s->start), "(%.*s", n, id.p);
}

/* ---- groups, one after another ---- */

static void groups_rewind(struct large_stream *s)
{
	s->groups = values_over(s->info.groups);
	s->groups_left = values_children(&s->groups);
}

/* The next group that has pending entries; false: that was the last. */
static bool next_group(struct large_stream *s)
{
	while (s->groups_left > 0) {
		s->groups_left--;
		if (stream_group_next(&s->groups, &s->group) && s->group.pending_count > 0) {
			snprintf(s->start, sizeof(s->start), "-");
			return true;
		}
	}
	return false;
}

static void ask_pending(struct large *l, void (*take)(struct large *, struct slice))
{
	struct large_stream *s = l->stream;
	static const char count[] = "512";
	_Static_assert(BLOCK_ELEMENTS == 512, "count");
	struct slice time[] = { SLICE_LIT("TIME") };
	struct slice argv[] = { SLICE_LIT("XPENDING"), l->o.key, s->group.name, slice(s->start, strlen(s->start)), SLICE_LIT("+"),
				SLICE_LIT(count) };

	large_request(l, 1, time);
	large_request(l, 6, argv);
	large_ask(l, take);
}

/* TIME's reply: [seconds, microseconds]. */
static void take_time(struct large_stream *s, struct slice reply)
{
	struct values w = values_over(reply);

	values_children(&w);
	struct slice seconds = values_text(&w), micros = values_text(&w);
	s->time_ms = seconds.p && micros.p ? strtoll(seconds.p, NULL, 10) * 1000 + strtoll(micros.p, NULL, 10) / 1000 : 0;
}

/* ---- 1: XINFO ---- */

static bool keep_info(struct large *l, struct slice reply)
{
	struct large_stream *s = l->stream;

	sdsfree(s->reply);
	s->reply = sdsnewlen(reply.p, reply.n);
	if (stream_info_read(slice(s->reply, sdslen(s->reply)), &s->info))
		return true;
	large_fail(l, RECIPE_ERROR, "XINFO STREAM FULL was not answered as expected");
	return false;
}

static void take_info(struct large *l, struct slice reply)
{
	struct large_stream *s = l->stream;
	int64_t pending = 0;

	if (!keep_info(l, reply))
		return;
	s->build.b = &l->block;
	s->build.info = &s->info;
	groups_rewind(s);
	while (next_group(s))
		pending += s->group.pending_count;
	if (pending > LARGE_PENDING_MAX) {
		large_fail(l, RECIPE_CANNOT, "a stream with %lld pending entries, over the limit of %u", (long long)pending, LARGE_PENDING_MAX);
		return;
	}
	groups_rewind(s);
	if (next_group(s)) {
		l->read = read_pending_ids;
		return;
	}
	snprintf(s->start, sizeof(s->start), "-");
	l->read = read_entries;
}

static void request_info(struct large *l)
{
	struct slice argv[] = { SLICE_LIT("XINFO"), SLICE_LIT("STREAM"), l->o.key, SLICE_LIT("FULL"), SLICE_LIT("COUNT"), SLICE_LIT("1") };

	large_request(l, 6, argv);
}

void large_stream_read(struct large *l)
{
	l->stream = calloc(1, sizeof(*l->stream));
	if (!l->stream)
		abort();
	if (l->o.ask)
		l->read_last = read_entries;
	request_info(l);
	large_ask(l, take_info);
}

/* ---- 2: the ids of pending entries ---- */

static void take_pending_ids(struct large *l, struct slice reply)
{
	struct large_stream *s = l->stream;
	struct values w = values_over(reply);
	struct stream_pending p = { .id = slice(NULL, 0) };
	struct stream_id id;

	if (l->read_left > 0)
		return; /* TIME */
	int64_t n = values_children(&w);
	for (int64_t i = 0; i < n; i++) {
		if (!stream_pending_next(&w, &p) || !stream_id_parse(p.id, &id)) {
			large_fail(l, RECIPE_ERROR, "XPENDING was not answered as expected");
			return;
		}
		stream_build_pending(&s->build, id);
	}
	if (s->build.pending.n > LARGE_PENDING_MAX) {
		large_fail(l, RECIPE_ERROR, "pending entries grew over the limit of %u meanwhile", LARGE_PENDING_MAX);
		return;
	}
	if (n == BLOCK_ELEMENTS) {
		start_behind(s, p.id);
		return;
	}
	if (next_group(s))
		return;
	stream_build_sort(&s->build);
	snprintf(s->start, sizeof(s->start), "-");
	l->read = read_entries;
}

static void read_pending_ids(struct large *l)
{
	ask_pending(l, take_pending_ids);
}

/* ---- 3: the entries, then the groups ---- */

static void begin_groups(struct large *l)
{
	struct large_stream *s = l->stream;

	stream_build_entries_end(&s->build);
	groups_rewind(s);
	while (s->groups_left-- > 0 && stream_group_next(&s->groups, &s->group))
		stream_add_group(&l->block, &s->group);
	groups_rewind(s);
	if (next_group(s))
		l->read = read_claims;
	else
		finish(l);
}

static void take_entries(struct large *l, struct slice reply)
{
	struct large_stream *s = l->stream;
	struct values w = values_over(reply);
	int64_t n = values_children(&w);
	struct stream_id id = { 0, 0 };
	char text[STREAM_ID_TEXT];

	large_block(l);
	if (s->unsorted)
		stream_build_sort(&s->build);
	s->unsorted = false;
	for (int64_t i = 0; i < n; i++)
		if (!stream_build_entry(&s->build, &w, &id)) {
			large_fail(l, RECIPE_ERROR, "XRANGE was not answered as expected");
			return;
		}
	if (n > 0) {
		stream_id_text(id, text);
		start_behind(s, slice(text, strlen(text)));
		large_adapt(l, (uint64_t)n, reply.n);
		s->last = id;
	} else if (l->settled) {
		l->read = read_info_again;
	} else if (l->read_last) {
		l->all_read = true;
	} else {
		begin_groups(l);
	}
}

static void read_entries(struct large *l)
{
	char count[16];

	snprintf(count, sizeof(count), "%u", l->want);
	large_request_words(l, "XRANGE", l->stream->start, "+", "COUNT", count, NULL);
	large_ask(l, take_entries);
}

/* XINFO of now, then the first entry. */
static void take_info_again(struct large *l, struct slice reply)
{
	struct large_stream *s = l->stream;
	struct values w = values_over(reply);
	struct slice id;

	if (l->read_left > 0) {
		keep_info(l, reply);
		return;
	}
	s->first[0] = '\0';
	if (values_children(&w) > 0) {
		values_children(&w);
		id = values_text(&w);
		if (!id.p || id.n >= sizeof(s->first)) {
			large_fail(l, RECIPE_ERROR, "XRANGE was not answered as expected");
			return;
		}
		memcpy(s->first, id.p, id.n);
		s->first[id.n] = '\0';
	}
	begin_groups(l);
}

static void read_info_again(struct large *l)
{
	request_info(l);
	large_request_words(l, "XRANGE", "-", "+", "COUNT", "1", NULL);
	large_ask(l, take_info_again);
}

/* ---- 4: the pending entries ---- */

/* Behind the claims: what was deleted since it was read goes, and the counters are set once more. */
static void finish(struct large *l)
{
	struct large_stream *s = l->stream;
	struct block *b = large_block(l);
	char text[STREAM_ID_TEXT];

	if (l->read_last) {
		block_words(b, "XTRIM", s->first[0] ? "MINID" : "MAXLEN", s->first[0] ? s->first : "0", NULL);
		block_open(b, "XDEL", NULL);
		for (size_t i = 0; i < s->deleted.n; i++) {
			stream_id_text(s->deleted.ids[i], text);
			struct slice id = slice(text, strlen(text));
			block_element(b, 1, &id);
		}
		block_close(b);
	}
	stream_build_finish(&s->build);
	if (l->read_last)
		stream_set_id(b, &s->info, 0);
	l->all_read = true;
}

/* ---- writes meanwhile ---- */

/* Without a second number, as a client may write it, that is 0. */
static bool op_id(struct slice text, struct stream_id *id)
{
	int64_t ms;

	if (stream_id_parse(text, id))
		return true;
	if (!text.p || !resp_string_to_int(text.p, text.n, &ms) || ms < 0)
		return false;
	*id = (struct stream_id){ (uint64_t)ms, 0 };
	return true;
}

bool large_stream_op(struct large *l, const struct large_op *op)
{
	struct large_stream *s = l->stream;
	struct values w = op->words;
	bool claim = slice_is(op->verb, "xclaim");
	struct stream_id id;

	if (!claim && !slice_is(op->verb, "xdel"))
		return false;
	for (int skip = claim ? 3 : 0; skip > 0; skip--) /* group, consumer, least idle time */
		values_text(&w);
	while (s && w.p < w.end) {
		if (!op_id(values_text(&w), &id)) {
			if (claim)
				break; /* its options */
			return false;
		}
		bool copied = stream_id_compare(id, s->last) <= 0;
		if (claim && !copied) {
			stream_build_pending(&s->build, id);
			s->unsorted = true;
		} else if (!claim && copied) {
			stream_ids_add(&s->deleted, id);
		}
	}
	return !s || (s->build.pending.n <= LARGE_PENDING_MAX && s->deleted.n <= LARGE_PENDING_MAX);
}

static void take_claims(struct large *l, struct slice reply)
{
	struct large_stream *s = l->stream;
	struct claim_run run = { .b = &l->block, .group = s->group.name };
	struct values w = values_over(reply);
	struct stream_pending p = { .id = slice(NULL, 0) };

	if (l->read_left > 0) {
		take_time(s, reply);
		return;
	}
	int64_t n = values_children(&w);
	for (int64_t i = 0; i < n && stream_pending_next(&w, &p); i++) {
		p.delivered_at_ms = s->time_ms - p.delivered_at_ms; /* XPENDING tells how long ago */
		claim_add(&run, &p);
	}
	claim_end(&run);
	if (n == BLOCK_ELEMENTS) {
		start_behind(s, p.id);
		return;
	}
	if (!next_group(s))
		finish(l);
}

static void read_claims(struct large *l)
{
	ask_pending(l, take_claims);
}
