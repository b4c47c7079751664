#include "proxy/receivers.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <uthash.h>

#include "resp/glob.h"
#include "resp/write.h"

struct entry {
	UT_hash_handle hh;
	uint64_t clients, workers;
	size_t n;
	char name[];
};

struct receivers {
	pthread_mutex_t lock;
	struct entry *entries[TOPIC_KINDS];
};

struct receivers *receivers_new(void)
{
	struct receivers *r = calloc(1, sizeof *r);

	if (!r)
		abort();
	pthread_mutex_init(&r->lock, NULL);
	return r;
}

void receivers_free(struct receivers *r)
{
	struct entry *e, *next;

	for (unsigned kind = 0; kind < TOPIC_KINDS; kind++)
		HASH_ITER(hh, r->entries[kind], e, next)
		{
			HASH_DEL(r->entries[kind], e);
			free(e);
		}
	pthread_mutex_destroy(&r->lock);
	free(r);
}

static struct entry *find(struct receivers *r, enum topic_kind kind, struct slice name)
{
	struct entry *e;

	HASH_FIND(hh, r->entries[kind], name.p, name.n, e);
	return e;
}

void receivers_add(struct receivers *r, enum topic_kind kind, struct slice name, bool worker)
{
	pthread_mutex_lock(&r->lock);
	struct entry *e = find(r, kind, name);
	if (!e) {
		e = calloc(1, sizeof *e + name.n);
		if (!e)
			abort();
		e->n = name.n;
		if (name.n)
			memcpy(e->name, name.p, name.n);
		HASH_ADD_KEYPTR(hh, r->entries[kind], e->name, e->n, e);
	}
	e->clients++;
	e->workers += worker;
	pthread_mutex_unlock(&r->lock);
}

void receivers_remove(struct receivers *r, enum topic_kind kind, struct slice name, bool worker)
{
	pthread_mutex_lock(&r->lock);
	struct entry *e = find(r, kind, name);
	assert(e && e->clients > 0 && e->workers >= worker);
	e->workers -= worker;
	if (--e->clients == 0) {
		assert(e->workers == 0);
		HASH_DEL(r->entries[kind], e);
		free(e);
	}
	pthread_mutex_unlock(&r->lock);
}

int64_t receivers_of(struct receivers *r, enum topic_kind kind, struct slice channel, int64_t said)
{
	uint64_t clients = 0, workers = 0;

	assert(kind != TOPIC_PATTERN);
	pthread_mutex_lock(&r->lock);
	struct entry *e = find(r, kind, channel);
	if (e) {
		clients = e->clients;
		workers = e->workers;
	}
	if (kind == TOPIC_CHANNEL)
		for (e = r->entries[TOPIC_PATTERN]; e; e = e->hh.next)
			if (glob_match(slice(e->name, e->n), channel, false)) {
				clients += e->clients;
				workers += e->workers;
			}
	pthread_mutex_unlock(&r->lock);
	return (int64_t)clients + (said > (int64_t)workers ? said - (int64_t)workers : 0);
}

int64_t receivers_subscribed(struct receivers *r, enum topic_kind kind, struct slice name)
{
	pthread_mutex_lock(&r->lock);
	const struct entry *e = find(r, kind, name);
	int64_t n = e ? (int64_t)e->clients : 0;
	pthread_mutex_unlock(&r->lock);
	return n;
}

int64_t receivers_topics(struct receivers *r, enum topic_kind kind)
{
	pthread_mutex_lock(&r->lock);
	int64_t n = HASH_COUNT(r->entries[kind]);
	pthread_mutex_unlock(&r->lock);
	return n;
}

sds receivers_cat_names(struct receivers *r, enum topic_kind kind, const struct slice *pattern, sds s)
{
	sds names = sdsempty();
	int64_t n = 0;

	pthread_mutex_lock(&r->lock);
	for (struct entry *e = r->entries[kind]; e; e = e->hh.next)
		if (!pattern || glob_match(*pattern, slice(e->name, e->n), false)) {
			names = resp_cat_bulk(names, slice(e->name, e->n));
			n++;
		}
	pthread_mutex_unlock(&r->lock);
	s = sdscatsds(resp_cat_len(s, '*', n), names);
	sdsfree(names);
	return s;
}
