/* stream_info.c - reads XINFO STREAM FULL and the stream ids in it. */
#include <inttypes.h>
#include <stdio.h>

#include "backfill/recipe_parts.h"
#include "backfill/values.h"

static bool parse_u64(const char **p, const char *end, uint64_t *v)
{
	const char *start = *p;

	for (*v = 0; *p < end && **p >= '0' && **p <= '9'; ++*p) {
		uint64_t digit = (uint64_t)(**p - '0');
		if (*v > (UINT64_MAX - digit) / 10)
			return false;
		*v = *v * 10 + digit;
	}
	return *p > start;
}

bool stream_id_parse(struct slice text, struct stream_id *id)
{
	const char *p = text.p, *end = text.p + text.n;

	if (!p || !parse_u64(&p, end, &id->ms) || p == end || *p++ != '-')
		return false;
	return parse_u64(&p, end, &id->seq) && p == end;
}

int stream_id_compare(struct stream_id a, struct stream_id b)
{
	if (a.ms != b.ms)
		return a.ms < b.ms ? -1 : 1;
	return a.seq < b.seq ? -1 : a.seq > b.seq;
}

void stream_id_text(struct stream_id id, char *text)
{
	snprintf(text, STREAM_ID_TEXT, "%" PRIu64 "-%" PRIu64, id.ms, id.seq);
}

/* Servers differ in the fields that they add: those we need are found by name, the others skipped. */
bool stream_info_read(struct slice reply, struct stream_info *info)
{
	struct values w = values_over(reply);
	int64_t n = values_children(&w);
	bool ok = true;

	*info = (struct stream_info){ .entries_added = -1, .length = -1 };
	for (; n > 1 && ok; n -= 2) {
		struct slice name = values_text(&w);
		struct slice value = values_whole(&w);
		struct values v = values_over(value);
		if (!name.p || value.n == 0)
			return false;
		if (slice_is(name, "last-generated-id"))
			info->last_id = values_text(&v);
		else if (slice_is(name, "max-deleted-entry-id"))
			info->max_deleted_id = values_text(&v);
		else if (slice_is(name, "entries-added"))
			ok = values_int(&v, &info->entries_added);
		else if (slice_is(name, "length"))
			ok = values_int(&v, &info->length);
		else if (slice_is(name, "entries"))
			info->entries = value;
		else if (slice_is(name, "groups"))
			info->groups = value;
	}
	return ok && info->last_id.p && info->max_deleted_id.p && info->entries_added >= 0 && info->groups.p;
}

bool stream_group_next(struct values *w, struct stream_group *g)
{
	int64_t n = w->p < w->end ? values_children(w) : -1;

	*g = (struct stream_group){ .entries_read = -1 };
	for (; n > 1; n -= 2) {
		struct slice name = values_text(w);
		struct slice value = values_whole(w);
		struct values v = values_over(value);
		if (!name.p || value.n == 0)
			return false;
		if (slice_is(name, "name"))
			g->name = values_text(&v);
		else if (slice_is(name, "last-delivered-id"))
			g->last_delivered_id = values_text(&v);
		else if (slice_is(name, "entries-read") && !values_int(&v, &g->entries_read))
			g->entries_read = -1; /* null: the server cannot tell */
		else if (slice_is(name, "pel-count"))
			values_int(&v, &g->pending_count);
		else if (slice_is(name, "pending") || slice_is(name, "pel"))
			g->pending = value;
		else if (slice_is(name, "consumers"))
			g->consumers = value;
	}
	return g->name.p && g->last_delivered_id.p && g->pending.p && g->consumers.p;
}

struct slice stream_consumer_next(struct values *w)
{
	struct slice found = slice(NULL, 0);

	for (int64_t n = w->p < w->end ? values_children(w) : -1; n > 1; n -= 2) {
		struct slice name = values_text(w);
		struct slice value = values_whole(w);
		struct values v = values_over(value);
		if (!name.p || value.n == 0)
			break;
		if (slice_is(name, "name"))
			found = values_text(&v);
	}
	return found;
}

bool stream_pending_next(struct values *w, struct stream_pending *p)
{
	if (w->p >= w->end || values_children(w) != 4)
		return false;
	p->id = values_text(w);
	p->consumer = values_text(w);
	return p->id.p && p->consumer.p && values_int(w, &p->delivered_at_ms) && values_int(w, &p->count);
}
