#include "proxy/acl_log.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "resp/write.h"

#define ALIKE_WITHIN_MS 60000
#define ALIKE_AMONG 10 /* of the newest entries */

struct entry {
	struct entry *next;
	const char *reason, *context;
	sds object, user, client;
	uint64_t id, count;
	int64_t made_ms, seen_ms;
};

struct acl_log {
	pthread_mutex_t lock;
	struct entry *newest;
	unsigned n, max;
	uint64_t next_id;
};

struct acl_log *acl_log_new(unsigned max)
{
	struct acl_log *l = calloc(1, sizeof *l);

	if (!l)
		abort();
	l->max = max;
	pthread_mutex_init(&l->lock, NULL);
	return l;
}

static void entry_free(struct entry *e)
{
	sdsfree(e->object);
	sdsfree(e->user);
	sdsfree(e->client);
	free(e);
}

/* The lock is held. */
static void keep(struct acl_log *l, unsigned n)
{
	struct entry **at = &l->newest;

	for (unsigned i = 0; *at && i < n; i++)
		at = &(*at)->next;
	while (*at) {
		struct entry *e = *at;
		*at = e->next;
		entry_free(e);
		l->n--;
	}
}

void acl_log_reset(struct acl_log *l)
{
	pthread_mutex_lock(&l->lock);
	keep(l, 0);
	pthread_mutex_unlock(&l->lock);
}

void acl_log_limit(struct acl_log *l, unsigned max)
{
	pthread_mutex_lock(&l->lock);
	l->max = max;
	keep(l, max);
	pthread_mutex_unlock(&l->lock);
}

void acl_log_free(struct acl_log *l)
{
	acl_log_reset(l);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

static bool is_alike(const struct entry *e, const struct acl_refusal *r, struct slice object)
{
	return strcmp(e->reason, r->reason) == 0 && strcmp(e->context, r->context) == 0 && llabs(r->now_ms - e->seen_ms) <= ALIKE_WITHIN_MS &&
	       slice_eq(slice(e->object, sdslen(e->object)), object) && slice_eq(slice(e->user, sdslen(e->user)), r->user);
}

/* Takes the entry that the refusal adds to out of the list; NULL: none. */
static struct entry *take_alike(struct acl_log *l, const struct acl_refusal *r, struct slice object)
{
	struct entry **at = &l->newest;

	for (int i = 0; *at && i < ALIKE_AMONG; i++, at = &(*at)->next) {
		struct entry *e = *at;
		if (!is_alike(e, r, object))
			continue;
		*at = e->next;
		l->n--;
		return e;
	}
	return NULL;
}

static struct entry *entry_new(struct acl_log *l, const struct acl_refusal *r, struct slice object)
{
	struct entry *e = calloc(1, sizeof *e);

	if (!e)
		abort();
	*e = (struct entry){ .reason = r->reason, .context = r->context, .object = sdsnewlen(object.p, object.n), .user = sdsnewlen(r->user.p, r->user.n),
		.client = sdsempty(), .id = l->next_id++, .made_ms = r->now_ms };
	return e;
}

void acl_log_add(struct acl_log *l, const struct acl_refusal *r)
{
	struct slice object = slice(r->object.p, r->object.n < ACL_LOG_OBJECT_MAX ? r->object.n : ACL_LOG_OBJECT_MAX);

	pthread_mutex_lock(&l->lock);
	struct entry *e = take_alike(l, r, object);
	if (!e)
		e = entry_new(l, r, object);
	e->client = sdscpylen(e->client, r->client.p, r->client.n);
	e->seen_ms = r->now_ms;
	e->count++;
	e->next = l->newest;
	l->newest = e;
	l->n++;
	keep(l, l->max);
	pthread_mutex_unlock(&l->lock);
}

static sds cat_word(sds s, const char *word)
{
	return resp_cat_bulk(s, slice(word, strlen(word)));
}

static sds cat_age(sds s, int proto, int64_t ms)
{
	char text[40];
	int n = snprintf(text, sizeof text, "%.17g", (double)ms / 1000);

	return proto < 3 ? resp_cat_bulk(s, slice(text, (size_t)n)) : sdscatprintf(s, ",%s\r\n", text);
}

static sds cat_entry(sds s, const struct entry *e, int proto, bool dated, int64_t now_ms)
{
	int fields = dated ? 10 : 7;

	s = proto < 3 ? resp_cat_len(s, '*', 2 * fields) : resp_cat_len(s, '%', fields);
	s = resp_cat_len(cat_word(s, "count"), ':', (int64_t)e->count);
	s = cat_word(cat_word(s, "reason"), e->reason);
	s = cat_word(cat_word(s, "context"), e->context);
	s = resp_cat_bulk(cat_word(s, "object"), slice(e->object, sdslen(e->object)));
	s = resp_cat_bulk(cat_word(s, "username"), slice(e->user, sdslen(e->user)));
	s = cat_age(cat_word(s, "age-seconds"), proto, now_ms > e->seen_ms ? now_ms - e->seen_ms : 0);
	s = resp_cat_bulk(cat_word(s, "client-info"), slice(e->client, sdslen(e->client)));
	if (!dated)
		return s;
	s = resp_cat_len(cat_word(s, "entry-id"), ':', (int64_t)e->id);
	s = resp_cat_len(cat_word(s, "timestamp-created"), ':', e->made_ms);
	return resp_cat_len(cat_word(s, "timestamp-last-updated"), ':', e->seen_ms);
}

sds acl_log_cat(struct acl_log *l, sds s, int proto, int64_t n, bool dated, int64_t now_ms)
{
	pthread_mutex_lock(&l->lock);
	if (n > (int64_t)l->n)
		n = l->n;
	s = resp_cat_len(s, '*', n);
	for (const struct entry *e = l->newest; n > 0; n--, e = e->next)
		s = cat_entry(s, e, proto, dated, now_ms);
	pthread_mutex_unlock(&l->lock);
	return s;
}
