#include "proxy/stream.h"

#include <assert.h>
#include <stdlib.h>

#include "proxy/aside.h"
#include "proxy/client.h"
#include "proxy/larges.h"
#include "proxy/log.h"

struct piece {
	struct piece *next, **at;    /* the owner's: stream->given */
	struct piece *link;          /* home's */
	struct stream *stream;
	struct block *block;         /* home's to give back; NULL: it has */
	const char *p;
	size_t n;
};

static void post(struct worker *from, struct worker *to, mail_fn *fn, void *arg)
{
	if (from == to)
		fn(arg);
	else
		mailbox_post(from->fleet->mail, to->id, from->id, fn, arg);
}

void stream_count_held(struct worker *w, size_t more, size_t less)
{
	uint64_t held = atomic_load_explicit(&w->stats->large_held, memory_order_relaxed) + more - less;

	atomic_store_explicit(&w->stats->large_held, held, memory_order_relaxed);
	if (held > atomic_load_explicit(&w->stats->large_held_most, memory_order_relaxed))
		atomic_store_explicit(&w->stats->large_held_most, held, memory_order_relaxed);
}

/* --- at the owner --- */

static void piece_taken(void *arg)
{
	struct piece *p = arg;
	struct stream *s = p->stream;

	*p->at = p->next;
	if (p->next)
		p->next->at = p->at;
	s->ahead -= p->n;
	stream_count_held(s->owner, 0, p->n);
	free(p);
	if (s->from && s->ahead < STREAM_AHEAD / 2)
		upstream_read_on(s->from);
}

static void stream_ends(void *arg)
{
	struct stream *s = arg;

	assert(!s->from && !s->given);
	*s->at = s->next;
	if (s->next)
		s->next->at = s->at;
	free(s);
}

static void stream_is_unwanted(void *arg)
{
	struct stream *s = arg;

	s->unwanted = true;
	stream_take_all(s);
}

void stream_take_all(struct stream *s)
{
	s->all = true;
	if (s->from)
		upstream_read_on(s->from);
}

bool stream_begins(void *ctx, struct upstream *u)
{
	struct worker *w = ctx;
	const struct await *a = upstream_awaits(u, 0);
	struct req *r = engine_streams(w->engine, a->fn, a->arg);
	struct stream *s;

	if (!r || w->handing)
		return false;
	if (!(s = calloc(1, sizeof *s)))
		abort();
	*s = (struct stream){ .owner = w, .home = &w->fleet->workers[r->home], .from = u, .since = ev_now(w->loop), .asker = r->from, .req = r };
	if (u->parser.need >= LARGES_LEAST)
		aside_begins(w, r);
	s->all = !aside_step(w, u);
	s->next = w->streams;
	s->at = &w->streams;
	if (s->next)
		s->next->at = &s->next;
	w->streams = s;
	u->stream = s;
	r->stream = s;
	stat_bump(&w->stats->large);
	return true;
}

static void piece_comes(void *arg);

bool stream_piece(void *ctx, struct upstream *u, const char *p, size_t n, struct block *block)
{
	struct worker *w = ctx;
	struct stream *s = u->stream;
	struct piece *piece;

	if (s->unwanted)
		return true;
	if (!(piece = malloc(sizeof *piece)))
		abort();
	*piece = (struct piece){ .next = s->given, .at = &s->given, .stream = s, .block = block_ref(block), .p = p, .n = n };
	if (s->given)
		s->given->at = &piece->next;
	s->given = piece;
	s->ahead += n;
	stream_count_held(w, n, 0);
	post(w, s->home, piece_comes, piece);
	return s->all || s->ahead < STREAM_AHEAD;
}

static void whole_comes(void *arg);
static void loss_comes(void *arg);

void stream_over(void *ctx, struct upstream *u, bool whole)
{
	struct worker *w = ctx;
	struct stream *s = u->stream;

	u->stream = NULL;
	s->from = NULL;
	post(w, s->home, whole ? whole_comes : loss_comes, s);
}

void streams_free(struct worker *w)
{
	for (struct stream *s = w->streams, *next; s; s = next) {
		next = s->next;
		for (struct piece *p = s->given, *after; p; p = after) {
			after = p->next;
			block_unref(p->block);
			free(p);
		}
		outq_clear(&s->behind);
		free(s);
	}
	w->streams = NULL;
}

/* --- at home --- */

static void give_back(struct stream *s, struct piece *p)
{
	block_unref(p->block);
	p->block = NULL;
	post(s->home, s->owner, piece_taken, p);
}

static void piece_comes(void *arg)
{
	struct piece *p = arg;
	struct stream *s = p->stream;

	if (!s->req) {
		give_back(s, p);
		return;
	}
	struct client *c = s->req->client;
	*(s->first ? &s->last->link : &s->first) = p;
	s->last = p;
	c->unsent += p->n;
	if (c->streaming && c->head == s->req)
		client_goes_on(s->home, c);
	else if (c->unsent > (size_t)s->home->fleet->config->client_output_max)
		client_output_over(c, "waits for a reply that a large one is behind", c->unsent);
}

static void over(struct stream *s, bool whole)
{
	s->over = true;
	s->whole = whole;
	if (!s->req) {
		post(s->home, s->owner, stream_ends, s);
		return;
	}
	struct client *c = s->req->client;
	if (!whole) {
		log_limited(LOG_WARNING, "client %llu: the server was lost in the middle of a large reply; closed", (unsigned long long)c->id);
		client_end(c);
	} else if (c->streaming && c->head == s->req) {
		client_goes_on(s->home, c);
	}
}

static void whole_comes(void *arg)
{
	over(arg, true);
}

static void loss_comes(void *arg)
{
	over(arg, false);
}

bool stream_may_go_on(const struct client *c)
{
	const struct stream *s = c->head->stream;

	return s->first && (c->out.bytes < STREAM_OUT || s->home->handing);
}

bool stream_emit(struct client *c, struct req *r)
{
	struct stream *s = r->stream;

	r->reply_len = 0;
	while (stream_may_go_on(c)) {
		struct piece *p = s->first;
		s->first = p->link;
		c->unsent -= p->n;
		if (!r->silent)
			outq_add(&c->out, p->p, p->n, p->block);
		give_back(s, p);
	}
	c->streaming = s->first || !s->over;
	if (c->streaming)
		return false;
	assert(s->whole);
	outq_join(&c->out, &s->behind);
	r->stream = NULL;
	post(s->home, s->owner, stream_ends, s);
	return true;
}

void stream_abandon(struct stream *s)
{
	struct piece *p;

	s->req = NULL;
	outq_clear(&s->behind);
	while ((p = s->first)) {
		s->first = p->link;
		give_back(s, p);
	}
	post(s->home, s->owner, s->over ? stream_ends : stream_is_unwanted, s);
}
