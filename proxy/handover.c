#include "proxy/handover.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "resp/digits.h"
#include "resp/slot.h"
#include "resp/table.h"
#include "resp/write.h"

/* A bulk is at most a client's output or input; both are bounded where they grow. */
const struct resp_limits handover_limits = { .max_args = 8 * 1024 * 1024, .max_bulk = UINT64_C(8) << 30, .max_inline = 64, .max_depth = 1 };

const char *const handover_options[] = { "bind", "port", "tls-port", "unixsocket", "source-nodes", "target-nodes", NULL };

struct number_field {
	const char *name;
	size_t at;
	int64_t max; /* least is 0 */
};
struct text_field {
	const char *name;
	size_t at;
};
struct list_field {
	const char *name;
	size_t at;
	uint8_t kind;
};

#define NUMBER(field, max) { #field, offsetof(struct handed, field), max }
static const struct number_field numbers[] = {
	NUMBER(id, INT64_MAX), NUMBER(db, UINT16_MAX), NUMBER(proto, 3), NUMBER(since_ms, INT64_MAX), NUMBER(seen_us, INT64_MAX), NUMBER(quiet, 3),
	NUMBER(no_evict, 1), NUMBER(no_touch, 1), NUMBER(monitor, 1), NUMBER(closing, 1), NUMBER(logged_in, 1),
	NUMBER(waits, 1), NUMBER(wait_since_us, INT64_MAX), NUMBER(wait_slot, SLOTS - 1), NUMBER(until_us, INT64_MAX), NUMBER(multi, 1), NUMBER(multi_failed, 1),
	NUMBER(watching, UINT32_MAX), NUMBER(watch_slot, SLOTS - 1), NUMBER(told, 1),
	NUMBER(tracks, 1), NUMBER(bcast, 1), NUMBER(optin, 1), NUMBER(optout, 1), NUMBER(noloop, 1), NUMBER(caching, 1), NUMBER(redirect, INT64_MAX),
	NUMBER(redirect_broken, 1), NUMBER(capa_redirect, 1),
};
#define NUMBERS (sizeof numbers / sizeof *numbers)

#define TEXT(field) { #field, offsetof(struct handed, field) }
static const struct text_field texts[] = { TEXT(user), TEXT(name), TEXT(lib_name), TEXT(lib_ver), TEXT(last), TEXT(out), TEXT(in) };
#define TEXTS (sizeof texts / sizeof *texts)

static const struct list_field lists[] = {
	{ "channel", offsetof(struct handed, topics), TOPIC_CHANNEL }, { "pattern", offsetof(struct handed, topics), TOPIC_PATTERN },
	{ "shard-channel", offsetof(struct handed, topics), TOPIC_SHARD }, { "queued", offsetof(struct handed, queued), 0 },
	{ "queued-own", offsetof(struct handed, queued), 1 }, { "prefix", offsetof(struct handed, prefixes), 0 },
};
#define LISTS (sizeof lists / sizeof *lists)

#define STATE(field, max) { #field, offsetof(struct handed_state, field), max }
static const struct number_field state_numbers[] = {
	STATE(next_client_id, INT64_MAX), STATE(pause, 2), STATE(pause_until_ms, INT64_MAX), STATE(keys_per_s, INT64_MAX), STATE(bytes_per_s, INT64_MAX),
	STATE(adaptive, 1),
};
#define STATE_NUMBERS (sizeof state_numbers / sizeof *state_numbers)

static inline int64_t *number_of(const void *o, const struct number_field *f) { return (int64_t *)((char *)o + f->at); }
static inline sds *text_of(const struct handed *h, const struct text_field *f) { return (sds *)((char *)h + f->at); }
static inline struct handed_list *list_of(const struct handed *h, const struct list_field *f) { return (struct handed_list *)((char *)h + f->at); }

/* ---- life ---- */

void handed_add(struct handed_list *l, uint8_t kind, const char *p, size_t n)
{
	if (l->n == l->cap) {
		l->cap = l->cap ? 2 * l->cap : 4;
		l->at = realloc(l->at, l->cap * sizeof *l->at);
		if (!l->at)
			abort();
	}
	l->at[l->n++] = (struct handed_text){ sdsnewlen(p, n), kind };
}

static void list_release(struct handed_list *l)
{
	for (uint32_t i = 0; i < l->n; i++)
		sdsfree(l->at[i].text);
	free(l->at);
	*l = (struct handed_list){ 0 };
}

void handed_release(struct handed *h)
{
	if (h->fd >= 0)
		close(h->fd);
	for (size_t i = 0; i < TEXTS; i++)
		sdsfree(*text_of(h, &texts[i]));
	list_release(&h->topics);
	list_release(&h->queued);
	list_release(&h->prefixes);
	*h = (struct handed){ .fd = -1 };
}

/* ---- writing ---- */

static sds cat_name(sds s, const char *name)
{
	return resp_cat_bulk(s, slice(name, strlen(name)));
}

static sds cat_numbers(sds s, const void *o, const struct number_field *f, size_t n, int64_t *words)
{
	for (size_t i = 0; i < n; i++) {
		int64_t v = *number_of(o, &f[i]);
		if (!v)
			continue;
		s = resp_cat_int_bulk(cat_name(s, f[i].name), v);
		*words += 2;
	}
	return s;
}

static sds cat_list(sds s, const struct handed *h, const struct list_field *f, int64_t *words)
{
	const struct handed_list *l = list_of(h, f);

	for (uint32_t i = 0; i < l->n; i++) {
		if (l->at[i].kind != f->kind)
			continue;
		s = resp_cat_bulk(cat_name(s, f->name), slice(l->at[i].text, sdslen(l->at[i].text)));
		*words += 2;
	}
	return s;
}

/* The queue's two kinds stand among each other, in order. */
static sds cat_queue(sds s, const struct handed *h, int64_t *words)
{
	for (uint32_t i = 0; i < h->queued.n; i++) {
		const struct handed_text *q = &h->queued.at[i];
		s = resp_cat_bulk(cat_name(s, q->kind ? "queued-own" : "queued"), slice(q->text, sdslen(q->text)));
		*words += 2;
	}
	return s;
}

static sds cat_record(sds s, const char *word, int64_t words, sds body)
{
	s = sdscatsds(cat_name(resp_cat_len(s, '*', words + 1), word), body);
	sdsfree(body);
	return s;
}

sds handed_cat(sds s, const struct handed *h)
{
	int64_t words = 0;
	sds body = cat_numbers(sdsempty(), h, numbers, NUMBERS, &words);

	for (size_t i = 0; i < TEXTS; i++) {
		sds t = *text_of(h, &texts[i]);
		if (!t)
			continue;
		body = resp_cat_bulk(cat_name(body, texts[i].name), slice(t, sdslen(t)));
		words += 2;
	}
	for (size_t i = 0; i < LISTS; i++)
		if (list_of(h, &lists[i]) != &h->queued)
			body = cat_list(body, h, &lists[i], &words);
	body = cat_queue(body, h, &words);
	return cat_record(s, "client", words, body);
}

sds handed_state_cat(sds s, const struct handed_state *st)
{
	int64_t words = 0;
	sds body = cat_numbers(sdsempty(), st, state_numbers, STATE_NUMBERS, &words);

	return cat_record(s, "state", words, body);
}

/* ---- reading ---- */

static bool is_name(struct slice word, const char *name)
{
	return word.n == strlen(name) && memcmp(word.p, name, word.n) == 0;
}

/* 1: taken, 0: not one of these, -1: not a number in range. */
static int take_number(void *o, const struct number_field *f, size_t n, struct slice name, struct slice value)
{
	int64_t v;

	for (size_t i = 0; i < n; i++) {
		if (!is_name(name, f[i].name))
			continue;
		if (!resp_string_to_int(value.p, value.n, &v) || v < 0 || v > f[i].max)
			return -1;
		*number_of(o, &f[i]) = v;
		return 1;
	}
	return 0;
}

static int take_text(struct handed *h, struct slice name, struct slice value)
{
	for (size_t i = 0; i < TEXTS; i++) {
		if (!is_name(name, texts[i].name))
			continue;
		sdsfree(*text_of(h, &texts[i]));
		*text_of(h, &texts[i]) = sdsnewlen(value.p, value.n);
		return 1;
	}
	for (size_t i = 0; i < LISTS; i++) {
		if (!is_name(name, lists[i].name))
			continue;
		handed_add(list_of(h, &lists[i]), lists[i].kind, value.p, value.n);
		return 1;
	}
	return 0;
}

/* Each queued command must be a request by itself, whole. */
static bool queue_is_sound(const struct handed *h)
{
	struct resp_request r;
	bool sound = true;

	if (h->queued.n && !h->multi)
		return false;
	resp_request_init(&r, &resp_default_limits);
	for (uint32_t i = 0; sound && i < h->queued.n; i++) {
		const sds t = h->queued.at[i].text;
		resp_request_reset(&r);
		sound = sdslen(t) && t[0] == '*' && resp_request_parse(&r, t, sdslen(t)) == RESP_OK && r.used == sdslen(t) && r.argc > 0;
	}
	resp_request_release(&r);
	return sound;
}

static const char *unsound(const struct handed *h)
{
	if (h->id == 0 || h->proto < 2)
		return "id or protocol is missing";
	if ((h->optin && h->optout) || (h->bcast && (h->optin || h->optout)) || (h->prefixes.n && !h->bcast) || (h->bcast && !h->prefixes.n))
		return "its tracking contradicts itself";
	if (h->waits && !h->in)
		return "it waits for nothing";
	if (!queue_is_sound(h))
		return "its transaction is no row of commands";
	return NULL;
}

static bool bad(char *why, size_t whylen, const char *what, struct slice word)
{
	snprintf(why, whylen, "%s '%.*s'", what, (int)(word.n < 40 ? word.n : 40), word.p);
	return false;
}

static bool take_pairs(const struct resp_request *p, const char *base, struct handed *h, struct handed_state *st, char *why, size_t whylen)
{
	if (p->argc % 2 == 0)
		return bad(why, whylen, "a name without a value in the record", resp_request_arg(p, base, 0));
	for (uint32_t i = 1; i < p->argc; i += 2) {
		struct slice name = resp_request_arg(p, base, i), value = resp_request_arg(p, base, i + 1);
		int took = h ? take_number(h, numbers, NUMBERS, name, value) : take_number(st, state_numbers, STATE_NUMBERS, name, value);
		if (took == 0 && h)
			took = take_text(h, name, value);
		if (took <= 0)
			return bad(why, whylen, took < 0 ? "not a number in range:" : "unknown field", took < 0 ? value : name);
	}
	return true;
}

bool handed_parse(const struct resp_request *p, const char *base, struct handed *h, char *why, size_t whylen)
{
	const char *what = NULL;

	*h = (struct handed){ .fd = -1 };
	if (take_pairs(p, base, h, NULL, why, whylen) && !(what = unsound(h)))
		return true;
	if (what)
		snprintf(why, whylen, "client %lld: %s", (long long)h->id, what);
	handed_release(h);
	return false;
}

bool handed_state_parse(const struct resp_request *p, const char *base, struct handed_state *st, char *why, size_t whylen)
{
	*st = (struct handed_state){ 0 };
	return take_pairs(p, base, NULL, st, why, whylen);
}
