#include "proxy/tracking_internal.h"

#include <assert.h>
#include <stdlib.h>

#include "resp/write.h"

/* --- life --- */

void tracking_mode_release(struct tracking_mode *m)
{
	for (unsigned i = 0; i < m->nprefixes; i++)
		sdsfree(m->prefixes[i]);
	free(m->prefixes);
	*m = (struct tracking_mode){ 0 };
}

void tracking_set(struct worker *w, struct client *c, struct tracking_mode *m)
{
	struct tracking *x = tracking_of(w);
	struct session *s = session_of(c);
	struct tracker *t = s->tracker;

	if (!t) {
		t = s->tracker = calloc(1, sizeof *t);
		if (!t)
			abort();
		t->id = c->id;
		t->client = c;
		HASH_ADD(hh, x->trackers, id, sizeof t->id, t);
		atomic_fetch_add(&w->fleet->ntrackers, 1);
	}
	atomic_fetch_add(&w->fleet->nnoloop, (unsigned)m->noloop - (unsigned)t->mode.noloop);
	tracking_mode_release(&t->mode);
	t->mode = *m;
	t->broken = false;
	*m = (struct tracking_mode){ 0 };
}

void tracking_drop(struct client *c)
{
	struct worker *w = c->worker;
	struct tracker *t = c->session ? c->session->tracker : NULL;

	if (!t)
		return;
	HASH_DEL(w->tracking->trackers, t);
	atomic_fetch_sub(&w->fleet->nnoloop, t->mode.noloop);
	tracking_mode_release(&t->mode);
	free(t);
	c->session->tracker = NULL;
	atomic_fetch_sub(&w->fleet->ntrackers, 1);
	tracking_look(w);
}

void tracking_untold(struct client *c)
{
	struct told *t = c->session ? c->session->told : NULL;

	if (!t)
		return;
	HASH_DEL(c->worker->tracking->told, t);
	free(t);
	c->session->told = NULL;
}

char *tracking_flags(const struct client *c, char *p)
{
	const struct tracker *t = c->session ? c->session->tracker : NULL;

	if (t)
		*p++ = 't';
	if (t && t->broken)
		*p++ = 'R';
	if (t && t->mode.bcast)
		*p++ = 'B';
	return p;
}

int64_t tracking_redirection(const struct client *c)
{
	return c->session && c->session->tracker ? (int64_t)c->session->tracker->mode.redirect : -1;
}

/* --- giving it to a client --- */

/* Behind the replies that the client waits for, but not behind a command that blocks. */
static void enqueue(struct client *c, struct req *r)
{
	struct req **at = &c->head, *before = c->tail;

	client_enqueue(c, r);
	r->silent = false; /* a message, not a reply */
	if (!c->parked)
		return;
	assert(before == c->parked);
	while (*at != c->parked)
		at = &(*at)->next;
	*at = r;
	r->next = c->parked;
	c->parked->next = NULL;
	c->tail = c->parked;
}

/* One of the replies that it waits for may hold the value that is told as changed. */
static void push(struct client *c, sds text)
{
	struct worker *w = c->worker;

	if (c->reader.fd >= 0 && (!c->head || c->head == c->parked)) {
		outq_add(&c->out, text, sdslen(text), NULL);
		client_flush_soon(w, c);
	} else if (c->reader.fd >= 0) {
		struct req *r = req_new(w);
		r->reply_block = block_copy(text, sdslen(text));
		r->reply = r->reply_block->data;
		r->reply_len = sdslen(text);
		r->done = true;
		c->unsent += r->reply_len;
		enqueue(c, r);
	}
	sdsfree(text);
}

/* keys: an array, or null in the protocol of who tracks. A RESP2 client can take it only while it is subscribed. */
static void give(struct client *c, struct slice keys)
{
	sds s = NULL;

	if (c->proto == 3)
		s = resp_cat_bulk(resp_cat_len(sdsempty(), '>', 2), SLICE_LIT("invalidate"));
	else if (pubsub_is_subscribed(c))
		s = resp_cat_bulk(resp_cat_bulk(resp_cat_len(sdsempty(), '*', 3), SLICE_LIT("message")), SLICE_LIT("__redis__:invalidate"));
	if (s)
		push(c, sdscatlen(s, keys.p, keys.n));
}

/* --- to a client elsewhere --- */

struct errand {
	struct worker *at, *home;
	uint64_t to, from;
	sds keys;
};

static void back_home(void *arg)
{
	struct errand *e = arg;
	struct tracker *t = NULL;

	if (e->home->tracking)
		HASH_FIND(hh, e->home->tracking->trackers, &e->from, sizeof e->from, t);
	if (t && t->mode.redirect == e->to) {
		t->broken = true;
		if (t->client->proto == 3)
			push(t->client, resp_cat_len(resp_cat_bulk(resp_cat_len(sdsempty(), '>', 2), SLICE_LIT("tracking-redir-broken")), ':', (int64_t)e->to));
	}
	sdsfree(e->keys);
	free(e);
}

static void arrives(void *arg)
{
	struct errand *e = arg;
	struct told *t = NULL;

	if (e->at->tracking)
		HASH_FIND(hh, e->at->tracking->told, &e->to, sizeof e->to, t);
	if (t && t->client->reader.fd >= 0)
		give(t->client, slice(e->keys, sdslen(e->keys)));
	if (!t && e->at != e->home) {
		mailbox_post(e->at->fleet->mail, e->home->id, e->at->id, back_home, e);
	} else if (!t) {
		back_home(e);
	} else {
		sdsfree(e->keys);
		free(e);
	}
}

static void tell(struct tracker *t, struct slice keys)
{
	struct worker *w = t->client->worker;

	if (!t->armed)
		return;
	if (!t->mode.redirect) {
		give(t->client, keys);
		return;
	}
	struct errand *e = malloc(sizeof *e);
	if (!e)
		abort();
	*e = (struct errand){ .at = &w->fleet->workers[t->mode.redirect_worker], .home = w, .to = t->mode.redirect, .from = t->id,
		.keys = sdsnewlen(keys.p, keys.n) };
	if (e->at == w)
		arrives(e);
	else
		mailbox_post(w->fleet->mail, e->at->id, w->id, arrives, e);
}

/* --- keys that were read --- */

static void untrack(struct tracking *x, struct tracked *k)
{
	x->bytes -= k->len;
	HASH_DEL(x->keys, k);
	free(k->ids);
	free(k);
}

/* Who has read it is told, and it is forgotten; not yet if a client may have changed it itself (tracking_own.c). pushed: by a server; else it has to go. */
static void changed(struct tracking *x, struct tracked *k, bool pushed)
{
	sds one = resp_cat_bulk(resp_cat_len(sdsempty(), '*', 1), slice(k->key, k->len));
	uint32_t kept = 0;

	for (uint32_t i = 0; i < k->n; i++) {
		struct tracker *t;
		HASH_FIND(hh, x->trackers, &k->ids[i], sizeof k->ids[i], t);
		if (!t || t->mode.bcast)
			continue;
		if (pushed && tracking_is_own(x, t, slice(k->key, k->len)))
			k->ids[kept++] = t->id;
		else
			tell(t, slice(one, sdslen(one)));
	}
	sdsfree(one);
	k->n = kept;
	if (!kept)
		untrack(x, k);
}

void tracking_unread(struct tracking *x, uint64_t id, struct slice key)
{
	struct tracked *k;
	uint32_t n = 0;

	HASH_FIND(hh, x->keys, key.p, key.n, k);
	if (!k)
		return;
	for (uint32_t i = 0; i < k->n; i++)
		if (k->ids[i] != id)
			k->ids[n++] = k->ids[i];
	k->n = n;
	if (!n)
		untrack(x, k);
}

static struct tracked *tracked_get(struct tracking *x, struct slice key)
{
	struct tracked *k;

	HASH_FIND(hh, x->keys, key.p, key.n, k);
	if (k)
		return k;
	k = calloc(1, sizeof *k + key.n);
	if (!k)
		abort();
	memcpy(k->key, key.p, key.n);
	k->len = key.n;
	x->bytes += key.n;
	HASH_ADD(hh, x->keys, key, key.n, k);
	while (x->keys != k && (HASH_COUNT(x->keys) > TRACKED_KEYS_MAX || x->bytes > TRACKED_BYTES_MAX))
		changed(x, x->keys, false); /* the first is the oldest */
	return k;
}

/* Of those that have read it some may be gone. */
static void drop_gone(struct tracking *x, struct tracked *k)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < k->n; i++) {
		struct tracker *t;
		HASH_FIND(hh, x->trackers, &k->ids[i], sizeof k->ids[i], t);
		if (t)
			k->ids[n++] = k->ids[i];
	}
	k->n = n;
}

static void note(struct tracking *x, struct slice key, uint64_t id)
{
	struct tracked *k = tracked_get(x, key);

	for (uint32_t i = 0; i < k->n; i++)
		if (k->ids[i] == id)
			return;
	if (k->n == k->cap)
		drop_gone(x, k);
	if (k->n == k->cap) {
		k->cap = k->cap ? 2 * k->cap : 2;
		k->ids = realloc(k->ids, k->cap * sizeof *k->ids);
		if (!k->ids)
			abort();
	}
	k->ids[k->n++] = id;
}

int tracking_keys(struct worker *w, const struct command *cmd, uint32_t argc)
{
	int n;

	while ((n = command_keys(cmd, argc, w->argv, w->keys, (int)w->keys_cap)) > (int)w->keys_cap) {
		w->keys_cap = (size_t)n;
		w->keys = realloc(w->keys, w->keys_cap * sizeof *w->keys);
		if (!w->keys)
			abort();
	}
	return n;
}

void tracking_note(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	const struct tracker *t = c->session->tracker;
	int n;

	if (t->mode.bcast || (t->mode.optin && !t->caching) || (t->mode.optout && t->caching) || !cmd->nspecs || !(cmd->flags & (CMD_READONLY | CMD_SCRIPT)))
		return;
	n = tracking_keys(w, cmd, argc);
	for (int i = 0; i < n; i++) {
		note(w->tracking, w->argv[w->keys[i].index], c->id);
		if (t->mode.noloop)
			tracking_read_again(w->tracking, c->id, w->argv[w->keys[i].index]);
	}
}

void tracking_caching_ends(struct client *c)
{
	c->session->tracker->caching = false;
}

/* --- changes --- */

/* One message for each prefix of each client, as the servers do. A key has one prefix at most. */
static void tell_prefixes(struct tracking *x, struct tracker *t, const struct slice *keys, uint32_t n)
{
	for (unsigned i = 0; i < t->mode.nprefixes; i++) {
		const sds prefix = t->mode.prefixes[i];
		size_t len = sdslen(prefix);
		sds found = sdsempty();
		int64_t hits = 0;
		for (uint32_t k = 0; k < n; k++) {
			if (keys[k].n < len || memcmp(keys[k].p, prefix, len) != 0 || tracking_is_own(x, t, keys[k]))
				continue;
			found = resp_cat_bulk(found, keys[k]);
			hits++;
		}
		if (hits) {
			sds all = sdscatsds(resp_cat_len(sdsempty(), '*', hits), found);
			tell(t, slice(all, sdslen(all)));
			sdsfree(all);
		}
		sdsfree(found);
	}
}

void tracking_changed(struct tracking *x, const struct slice *keys, uint32_t n)
{
	struct tracked *k;

	for (uint32_t i = 0; i < n; i++) {
		HASH_FIND(hh, x->keys, keys[i].p, keys[i].n, k);
		if (k)
			changed(x, k, true);
	}
	for (struct tracker *t = x->trackers; t && n; t = t->hh.next)
		if (t->mode.bcast)
			tell_prefixes(x, t, keys, n);
}

void tracking_forget_all(struct tracking *x)
{
	struct tracked *k, *next;

	HASH_ITER(hh, x->keys, k, next)
		untrack(x, k);
	assert(!x->bytes);
	for (struct tracker *t = x->trackers; t; t = t->hh.next) {
		sds nothing = resp_cat_null(sdsempty(), t->client->proto);
		tell(t, slice(nothing, sdslen(nothing)));
		sdsfree(nothing);
	}
}
