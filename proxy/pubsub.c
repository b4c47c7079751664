#include "proxy/pubsub_internal.h"

#include <assert.h>
#include <stdlib.h>

#include "resp/slot.h"

/* --- topics --- */

struct topic *topic_find(struct pubsub *p, enum topic_kind kind, struct slice name)
{
	struct topic *t;

	HASH_FIND(hh, p->topics[kind], name.p, name.n, t);
	return t;
}

static bool starts_alike(struct slice name, const char *prefix)
{
	size_t n = strlen(prefix);

	return memcmp(name.p, prefix, name.n < n ? name.n : n) == 0;
}

/* May a keyspace notification come on it? Of a pattern only what stands before its first special character decides. */
static bool may_notify(enum topic_kind kind, struct slice name)
{
	size_t plain = 0;

	if (kind == TOPIC_CHANNEL)
		return name.n > 11 && (starts_alike(name, "__keyspace@") || starts_alike(name, "__keyevent@"));
	while (plain < name.n && !memchr("*?[\\", name.p[plain], 4))
		plain++;
	return kind == TOPIC_PATTERN && (starts_alike(slice(name.p, plain), "__keyspace@") || starts_alike(slice(name.p, plain), "__keyevent@"));
}

struct topic *topic_get(struct pubsub *p, enum topic_kind kind, struct slice name)
{
	struct topic *t = topic_find(p, kind, name);

	if (t)
		return t;
	t = calloc(1, sizeof *t);
	if (!t)
		abort();
	t->pubsub = p;
	t->kind = kind;
	t->name = sdsnewlen(name.p, name.n);
	t->slot = slot_of(name);
	t->everywhere = may_notify(kind, name);
	HASH_ADD_KEYPTR(hh, p->topics[kind], t->name, sdslen(t->name), t);
	ears_sync(t);
	return t;
}

static void topic_free(struct topic *t)
{
	assert(!t->links);
	ears_forget(t);
	topic_ready(t); /* who waited for it has left it again */
	HASH_DEL(t->pubsub->topics[t->kind], t);
	free(t->hearings);
	sdsfree(t->name);
	free(t);
}

/* --- subscriptions --- */

struct link *topic_link(struct topic *t, struct client *c)
{
	struct link *l = NULL;

	if (c->pubsub)
		HASH_FIND_PTR(c->pubsub->links[t->kind], &t, l);
	return l;
}

bool topic_join(struct topic *t, struct client *c)
{
	struct link *l = topic_link(t, c);

	if (l)
		return false;
	l = calloc(1, sizeof *l);
	if (!l)
		abort();
	l->topic = t;
	l->client = c;
	l->ordinal = c->pubsub->asked;
	receivers_add(t->pubsub->worker->fleet->receivers, t->kind, slice(t->name, sdslen(t->name)), !t->links);
	l->next = t->links;
	if (l->next)
		l->next->prev = l;
	t->links = l;
	HASH_ADD_PTR(c->pubsub->links[t->kind], topic, l);
	return true;
}

static void link_free(struct link *l)
{
	struct topic *t = l->topic;

	*(l->prev ? &l->prev->next : &t->links) = l->next;
	if (l->next)
		l->next->prev = l->prev;
	HASH_DEL(l->client->pubsub->links[t->kind], l);
	receivers_remove(t->pubsub->worker->fleet->receivers, t->kind, slice(t->name, sdslen(t->name)), !t->links);
	if (!t->links)
		topic_free(t);
	free(l);
}

bool topic_leave(struct topic *t, struct client *c)
{
	struct link *l = topic_link(t, c);

	if (l)
		link_free(l);
	return l != NULL;
}

uint32_t pubsub_count(const struct client *c, enum topic_kind kind)
{
	return c->pubsub ? HASH_COUNT(c->pubsub->links[kind]) : 0;
}

bool pubsub_is_subscribed(const struct client *c)
{
	return c->pubsub && (c->pubsub->links[TOPIC_CHANNEL] || c->pubsub->links[TOPIC_PATTERN] || c->pubsub->links[TOPIC_SHARD]);
}

void pubsub_drop(struct client *c)
{
	for (unsigned kind = 0; c->pubsub && kind < TOPIC_KINDS; kind++)
		while (c->pubsub->links[kind])
			link_free(c->pubsub->links[kind]);
}

void pubsub_free_client(struct client *c)
{
	pubsub_drop(c);
	free(c->pubsub);
	c->pubsub = NULL;
}

void pubsub_shown(struct client *c)
{
	assert(c->pubsub && c->pubsub->shown < c->pubsub->asked);
	c->pubsub->shown++;
}

/* --- those who wait --- */

void topic_await(struct topic *t, struct confirmation *w)
{
	t->waiting = realloc(t->waiting, (t->nwaiting + 1) * sizeof *t->waiting);
	if (!t->waiting)
		abort();
	t->waiting[t->nwaiting++] = w;
	w->left++;
}

static void confirm(struct worker *w, struct confirmation *c)
{
	if (--c->left)
		return;
	if (c->error) {
		block_unref(c->req->reply_block);
		c->req->reply_block = block_copy(c->error, sdslen(c->error));
		c->req->reply = c->req->reply_block->data;
		c->req->reply_len = sdslen(c->error);
	}
	client_done(w, c->req);
	sdsfree(c->error);
	free(c);
}

void topic_ready(struct topic *t)
{
	struct confirmation **waiting = t->waiting;
	unsigned n = t->nwaiting;

	t->waiting = NULL;
	t->nwaiting = 0;
	for (unsigned i = 0; i < n; i++)
		confirm(t->pubsub->worker, waiting[i]);
	free(waiting);
}

static bool waits_for(const struct topic *t, const struct link *l)
{
	for (unsigned i = 0; i < t->nwaiting; i++)
		if (req_client(t->waiting[i]->req) == l->client && t->waiting[i]->ordinal == l->ordinal)
			return true;
	return false;
}

void topic_failed(struct topic *t, struct slice error)
{
	struct link *next;

	for (unsigned i = 0; i < t->nwaiting; i++)
		if (!t->waiting[i]->error)
			t->waiting[i]->error = sdsnewlen(error.p, error.n);
	for (struct link *l = t->links; l; l = next) {
		bool last = !l->prev && !l->next; /* the topic goes with it, and tells those who wait */
		next = l->next;
		if (!waits_for(t, l))
			continue;
		link_free(l);
		if (last)
			return;
	}
	topic_ready(t);
}

/* --- messages --- */

/* RESP2 has the same bytes behind another first one. */
void topic_give(struct topic *t, struct slice push, struct block *block)
{
	for (struct link *l = t->links; l; l = l->next) {
		struct client *c = l->client;
		if (l->ordinal > c->pubsub->shown || c->reader.fd < 0)
			continue;
		if (c->proto == 2) {
			outq_add(client_pushes(c), "*", 1, NULL);
			outq_add(client_pushes(c), push.p + 1, push.n - 1, block);
		} else {
			outq_add(client_pushes(c), push.p, push.n, block);
		}
		client_flush_soon(t->pubsub->worker, c);
	}
}
