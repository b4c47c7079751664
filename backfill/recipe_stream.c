/* recipe_stream.c - rebuilds a stream with its groups from XINFO STREAM FULL.
 *
 * Pending entries whose message was deleted are the hard part: XCLAIM drops them. So such a message is added for the while as a placeholder,
 * claimed, and taken away again: with XTRIM MINID where it stood before the first message that is left (trimming does not count as a
 * deletion), with XDEL elsewhere. XSETID at the end puts the counters right. What commands cannot set is lost: when a consumer
 * was last seen and last active. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "backfill/recipe_parts.h"
#include "backfill/values.h"
#include "resp/write.h"

#define PLACEHOLDER "x"

void stream_add_entry(struct block *b, struct slice id, int64_t nfields, struct slice raw_fields)
{
	/* The bulks of a reply and of a request look the same: copied as they are. */
	b->out = resp_cat_len(b->out, '*', 3 + nfields);
	b->out = resp_cat_bulk(b->out, SLICE_LIT("XADD"));
	b->out = resp_cat_bulk(b->out, b->key);
	b->out = resp_cat_bulk(b->out, id);
	b->out = sdscatlen(b->out, raw_fields.p, raw_fields.n);
	b->ncommands++;
}

void stream_add_placeholder(struct block *b, struct stream_id id)
{
	char text[STREAM_ID_TEXT];

	stream_id_text(id, text);
	block_words(b, "XADD", text, PLACEHOLDER, PLACEHOLDER, NULL);
}

/* Through a group that goes again: it leaves no trace in the counters, as a deleted entry would. */
void stream_create_empty(struct block *b)
{
	struct slice create[] = { SLICE_LIT("CREATE"), b->key, SLICE_LIT(PLACEHOLDER), SLICE_LIT("0"), SLICE_LIT("MKSTREAM") };
	struct slice destroy[] = { SLICE_LIT("DESTROY"), b->key, SLICE_LIT(PLACEHOLDER) };

	block_command(b, "XGROUP", 5, create);
	block_command(b, "XGROUP", 3, destroy);
}

void stream_set_id(struct block *b, const struct stream_info *info, int64_t at_least_added)
{
	char added[24];
	int64_t n = info->entries_added > at_least_added ? info->entries_added : at_least_added;

	snprintf(added, sizeof(added), "%lld", (long long)n);
	struct slice argv[] = { b->key, info->last_id, SLICE_LIT("ENTRIESADDED"), slice(added, strlen(added)), SLICE_LIT("MAXDELETEDID"),
				info->max_deleted_id };
	block_command(b, "XSETID", 6, argv);
}

/* The group and all its consumers, those without pending entries, too. */
void stream_add_group(struct block *b, const struct stream_group *g)
{
	char read[24];
	size_t read_len = (size_t)snprintf(read, sizeof(read), "%lld", (long long)g->entries_read);
	struct slice argv[] = { SLICE_LIT("CREATE"), b->key, g->name, g->last_delivered_id, SLICE_LIT("ENTRIESREAD"), slice(read, read_len) };
	struct values w = values_over(g->consumers);

	block_command(b, "XGROUP", g->entries_read >= 0 ? 6 : 4, argv);
	for (int64_t n = values_children(&w); n > 0; n--) {
		struct slice consumer[] = { SLICE_LIT("CREATECONSUMER"), b->key, g->name, stream_consumer_next(&w) };
		if (!consumer[3].p)
			return;
		block_command(b, "XGROUP", 4, consumer);
	}
}

static void claim_cut(struct claim_run *run)
{
	struct block *b = run->b;

	if (run->nids == 0)
		return;
	b->out = resp_cat_len(b->out, '*', 11 + (int64_t)run->nids);
	b->out = resp_cat_bulk(b->out, SLICE_LIT("XCLAIM"));
	b->out = resp_cat_bulk(b->out, b->key);
	b->out = resp_cat_bulk(b->out, run->group);
	b->out = resp_cat_bulk(b->out, run->first.consumer);
	b->out = resp_cat_bulk(b->out, SLICE_LIT("0"));
	b->out = sdscatlen(b->out, run->ids, sdslen(run->ids));
	b->out = resp_cat_bulk(b->out, SLICE_LIT("TIME"));
	b->out = resp_cat_int_bulk(b->out, run->first.delivered_at_ms);
	b->out = resp_cat_bulk(b->out, SLICE_LIT("RETRYCOUNT"));
	b->out = resp_cat_int_bulk(b->out, run->first.count);
	b->out = resp_cat_bulk(b->out, SLICE_LIT("FORCE"));
	b->out = resp_cat_bulk(b->out, SLICE_LIT("JUSTID"));
	assert(run->nids <= BLOCK_ELEMENTS);
	b->ncommands++;
	sdsclear(run->ids);
	run->nids = 0;
}

void claim_add(struct claim_run *run, const struct stream_pending *p)
{
	const struct stream_pending *f = &run->first;

	if (!run->ids)
		run->ids = sdsempty();
	if (run->nids > 0 && (run->nids == BLOCK_ELEMENTS || f->delivered_at_ms != p->delivered_at_ms || f->count != p->count ||
			      !slice_eq(f->consumer, p->consumer)))
		claim_cut(run);
	run->first = *p;
	run->ids = resp_cat_bulk(run->ids, p->id);
	run->nids++;
}

void claim_end(struct claim_run *run)
{
	claim_cut(run);
	sdsfree(run->ids);
	run->ids = NULL;
}

/* ---- entries and placeholders ---- */

void stream_ids_add(struct stream_ids *l, struct stream_id id)
{
	if (l->n == l->cap) {
		l->cap = l->cap ? l->cap * 2 : 64;
		l->ids = realloc(l->ids, l->cap * sizeof(*l->ids));
		if (!l->ids)
			abort();
	}
	l->ids[l->n++] = id;
}

static int id_order(const void *a, const void *b)
{
	return stream_id_compare(*(const struct stream_id *)a, *(const struct stream_id *)b);
}

void stream_build_pending(struct stream_build *s, struct stream_id id)
{
	stream_ids_add(&s->pending, id);
}

void stream_build_sort(struct stream_build *s)
{
	if (s->pending.n > 1)
		qsort(s->pending.ids, s->pending.n, sizeof(*s->pending.ids), id_order);
}

/* Placeholders for the pending ids before `before` (all: NULL); what equals it has its message. */
static void add_placeholders(struct stream_build *s, const struct stream_id *before)
{
	struct stream_ids *made = &s->placeholders;

	for (; s->next_pending < s->pending.n; s->next_pending++) {
		struct stream_id id = s->pending.ids[s->next_pending];
		int order = before ? stream_id_compare(id, *before) : -1;
		if (order > 0)
			return;
		if (order == 0 || (made->n > 0 && stream_id_compare(made->ids[made->n - 1], id) == 0))
			continue;
		stream_add_placeholder(s->b, id);
		stream_ids_add(made, id);
		s->added++;
	}
}

bool stream_build_entry(struct stream_build *s, struct values *w, struct stream_id *id)
{
	if (values_children(w) != 2)
		return false;
	struct slice text = values_text(w);
	struct slice fields = values_whole(w);
	struct values f = values_over(fields);
	int64_t nfields = values_children(&f);
	if (nfields < 0 || !stream_id_parse(text, id))
		return false;
	if (s->entries++ == 0)
		s->first = *id;
	add_placeholders(s, id);
	stream_add_entry(s->b, text, nfields, slice(f.p, (size_t)(f.end - f.p)));
	s->added++;
	return true;
}

/* XSETID may have set the stream back below a deleted message; it cannot be set back while the placeholder stands there. */
static bool placeholder_above(const struct stream_build *s)
{
	struct stream_id last;

	return s->placeholders.n > 0 && stream_id_parse(s->info->last_id, &last) &&
	       stream_id_compare(s->placeholders.ids[s->placeholders.n - 1], last) > 0;
}

void stream_build_entries_end(struct stream_build *s)
{
	add_placeholders(s, NULL);
	if (s->added == 0)
		stream_create_empty(s->b);
	/* Before the groups: newer servers cut a group's entries-read down to entries-added. */
	if (!placeholder_above(s))
		stream_set_id(s->b, s->info, s->added);
}

static void remove_placeholders(struct stream_build *s)
{
	struct block *b = s->b;
	char text[STREAM_ID_TEXT];

	if (s->entries == 0) {
		block_words(b, "XTRIM", "MAXLEN", "0", NULL);
		return;
	}
	if (stream_id_compare(s->placeholders.ids[0], s->first) < 0) {
		stream_id_text(s->first, text);
		block_words(b, "XTRIM", "MINID", text, NULL);
	}
	block_open(b, "XDEL", NULL);
	for (size_t i = 0; i < s->placeholders.n; i++) {
		if (stream_id_compare(s->placeholders.ids[i], s->first) < 0)
			continue;
		stream_id_text(s->placeholders.ids[i], text);
		struct slice id = slice(text, strlen(text));
		block_element(b, 1, &id);
	}
	block_close(b);
}

void stream_build_finish(struct stream_build *s)
{
	if (s->placeholders.n == 0)
		return;
	remove_placeholders(s);
	stream_set_id(s->b, s->info, 0);
}

void stream_build_release(struct stream_build *s)
{
	free(s->pending.ids);
	free(s->placeholders.ids);
	s->pending = s->placeholders = (struct stream_ids){ NULL, 0, 0 };
}

/* ---- the whole stream in one block ---- */

static bool compose_pending_ids(struct stream_build *s)
{
	struct values groups = values_over(s->info->groups);
	struct stream_group g;

	for (int64_t n = values_children(&groups); n > 0; n--) {
		if (!stream_group_next(&groups, &g))
			return false;
		struct values pending = values_over(g.pending);
		for (int64_t m = values_children(&pending); m > 0; m--) {
			struct stream_pending p;
			struct stream_id id;
			if (!stream_pending_next(&pending, &p) || !stream_id_parse(p.id, &id))
				return false;
			stream_build_pending(s, id);
		}
	}
	stream_build_sort(s);
	return true;
}

static bool compose_entries(struct stream_build *s)
{
	struct values w = values_over(s->info->entries);
	int64_t n = values_children(&w);
	struct stream_id id;

	for (int64_t i = 0; i < n; i++)
		if (!stream_build_entry(s, &w, &id))
			return false;
	stream_build_entries_end(s);
	return n >= 0;
}

static bool compose_groups(struct stream_build *s)
{
	struct values groups = values_over(s->info->groups);
	struct stream_group g;

	for (int64_t n = values_children(&groups); n > 0; n--) {
		if (!stream_group_next(&groups, &g))
			return false;
		stream_add_group(s->b, &g);
		struct claim_run run = { .b = s->b, .group = g.name };
		struct values pending = values_over(g.pending);
		struct stream_pending p;
		for (int64_t m = values_children(&pending); m > 0 && stream_pending_next(&pending, &p); m--)
			claim_add(&run, &p);
		claim_end(&run);
	}
	return true;
}

enum recipe_result stream_compose(struct block *b, struct slice reply, const char **why)
{
	struct stream_info info;
	struct stream_build s = { .b = b, .info = &info };

	*why = "XINFO STREAM FULL was not answered as expected";
	bool ok = stream_info_read(reply, &info) && info.entries.p && compose_pending_ids(&s) && compose_entries(&s) && compose_groups(&s);
	if (ok)
		stream_build_finish(&s);
	stream_build_release(&s);
	return ok ? RECIPE_OK : RECIPE_ERROR;
}
