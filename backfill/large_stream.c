/* large_stream.c - reads a stream in chunks: what XINFO tells of it and its groups; the ids of all pending entries (placeholders are needed in
 * their order, see recipe_stream.c); the entries; then the pending entries again, to be claimed. Delivery times come from XPENDING's idle
 * times and TIME, so they may be off by the millisecond that passes between. */
#include <stdio.h>
#include <stdlib.h>

#include "backfill/large_parts.h"
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
};

static void read_entries(struct large *l);
static void read_pending_ids(struct large *l);
static void read_claims(struct large *l);

void large_stream_release(struct large *l)
{
	if (!l->stream)
		return;
	stream_build_release(&l->stream->build);
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

static void take_info(struct large *l, struct slice reply)
{
	struct large_stream *s = l->stream;
	int64_t pending = 0;

	s->reply = sdsnewlen(reply.p, reply.n);
	if (!stream_info_read(slice(s->reply, sdslen(s->reply)), &s->info)) {
		large_fail(l, RECIPE_ERROR, "XINFO STREAM FULL was not answered as expected");
		return;
	}
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

void large_stream_read(struct large *l)
{
	struct slice argv[] = { SLICE_LIT("XINFO"), SLICE_LIT("STREAM"), l->o.key, SLICE_LIT("FULL"), SLICE_LIT("COUNT"), SLICE_LIT("1") };

	l->stream = calloc(1, sizeof(*l->stream));
	if (!l->stream)
		abort();
	large_request(l, 6, argv);
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
		l->all_read = true;
}

static void take_entries(struct large *l, struct slice reply)
{
	struct large_stream *s = l->stream;
	struct values w = values_over(reply);
	int64_t n = values_children(&w);
	struct stream_id id = { 0, 0 };
	char text[STREAM_ID_TEXT];

	large_block(l);
	for (int64_t i = 0; i < n; i++)
		if (!stream_build_entry(&s->build, &w, &id)) {
			large_fail(l, RECIPE_ERROR, "XRANGE was not answered as expected");
			return;
		}
	if (n > 0) {
		stream_id_text(id, text);
		start_behind(s, slice(text, strlen(text)));
		large_adapt(l, (uint64_t)n, reply.n);
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

/* ---- 4: the pending entries ---- */

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
	if (next_group(s))
		return;
	stream_build_finish(&s->build);
	l->all_read = true;
}

static void read_claims(struct large *l)
{
	ask_pending(l, take_claims);
}
