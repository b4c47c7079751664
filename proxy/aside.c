#include "proxy/aside.h"

#include <assert.h>
#include <stdlib.h>

#include "proxy/larges.h"
#include "proxy/stream.h"
#include "proxy/worker.h"

struct asides {
	struct upstream_owner owner;
	struct larges larges;
	bool leaving;            /* some data connection `leaves` */
	unsigned n;
	struct upstream *at[ASIDE_MAX];
};

static bool ignore_push(void *ctx, struct upstream *u, struct slice push)
{
	(void)ctx;
	(void)u;
	(void)push; /* nothing is mirrored from what it would tell */
	return false;
}

static void ignore_up(void *ctx, struct upstream *u)
{
	(void)ctx;
	(void)u; /* it was, before it went aside, and does not come back */
}

static struct upstream **data_connection(struct worker *w, const struct upstream *aside)
{
	return &w->upstreams[worker_upstream(w, aside->side, aside->name)];
}

/* Whatever comes behind this must not be overtaken by what it may have left at the server. */
static void aside_gone(void *ctx, struct upstream *u)
{
	upstream_inherit(*data_connection(ctx, u), u);
}

static void aside_lost(void *ctx, struct upstream *u, const char *why, bool was_up)
{
	(void)was_up;
	fleet_tell_refresh(ctx, u->side, why);
}

void aside_owner(const struct worker *w, struct upstream_owner *out)
{
	*out = w->owner;
	out->pushed = ignore_push;
	out->up = ignore_up;
	out->lost = aside_lost;
	out->latency = NULL;
}

static struct asides *asides_of(struct worker *w)
{
	struct asides *a = w->asides;

	if (a)
		return a;
	if (!(a = calloc(1, sizeof *a)))
		abort();
	aside_owner(w, &a->owner);
	a->owner.gone = aside_gone;
	return w->asides = a;
}

static bool has_work(const struct upstream *u)
{
	return u->rest || u->fifo_n;
}

/* Its place among those aside, or n. */
static unsigned find_spare(const struct asides *a, const struct upstream *node)
{
	unsigned i = 0;

	while (i < a->n && (has_work(a->at[i]) || !upstream_is_up(a->at[i]) || !upstream_same_node(a->at[i], node)))
		i++;
	return i;
}

static bool all_may_leave(const struct upstream *u, uint32_t from)
{
	for (uint32_t i = from; i < u->fifo_n; i++)
		if (!engine_may_leave(upstream_awaits(u, i)->fn, upstream_awaits(u, i)->arg))
			return false;
	return true;
}

/* It takes the place of the data connection. */
static void change_places(struct worker *w, struct asides *a, struct upstream **data, unsigned i)
{
	struct upstream *u = *data, *fresh = i < a->n ? a->at[i] : upstream_new(&w->owner, u->side, u->name);

	upstream_set_addr(fresh, &u->addr, u->addr_len);
	fresh->owner = &w->owner;
	fresh->replicas = u->replicas;
	fresh->missed |= u->missed;
	fresh->in_doubt = u->in_doubt;
	fresh->formers_gone = u->formers_gone;
	upstream_inherit(fresh, u);
	u->in_doubt = u->leaves = false;
	u->owner = &a->owner;
	*data = fresh;
	a->at[i] = u;
	a->n += i == a->n;
	if (!upstream_is_up(fresh))
		upstream_open(fresh);
}

/* What is awaited from the one with this number on is left there. */
static bool leave(struct worker *w, struct upstream *u, uint32_t from)
{
	struct asides *a = asides_of(w);
	unsigned spare = find_spare(a, u);

	if (spare == ASIDE_MAX || !all_may_leave(u, from))
		return false;
	for (uint32_t i = from; i < u->fifo_n; i++)
		engine_leave(w->engine, upstream_awaits(u, i)->fn, upstream_awaits(u, i)->arg);
	change_places(w, a, data_connection(w, u), spare);
	return true;
}

bool aside_step(struct worker *w, struct upstream *u)
{
	return *data_connection(w, u) != u || leave(w, u, 1);
}

/* --- before it begins --- */

void aside_begins(struct worker *w, const struct req *r)
{
	uint64_t what;

	if (engine_asks_of(w->engine, r, &what))
		larges_add(&asides_of(w)->larges, r->slot, what, ev_now(w->loop));
}

void aside_sent(struct worker *w, struct upstream *u, uint16_t slot, reply_fn *fn, void *arg)
{
	struct asides *a = w->asides;
	const struct req *r = larges_may_be_in(&a->larges, slot) ? engine_streams(w->engine, fn, arg) : NULL;
	uint64_t what;

	if (!r || !engine_asks_of(w->engine, r, &what) || !larges_has(&a->larges, what, ev_now(w->loop)))
		return;
	u->leaves = true;
	a->leaving = true;
}

static void leave_now(struct worker *w, struct asides *a)
{
	bool may = !w->handing && !w->mirror_wanted && !engine_is_mirroring(w->engine) && !engine_comes_to_rest(w->engine);

	for (unsigned i = 0; i < w->nupstreams; i++) {
		struct upstream *u = w->upstreams[i];
		/* Not for a connection that would have to be made first: all would wait for that, and it may be refused. */
		if (u->leaves && may && u->fifo_n && !u->rest && upstream_is_up(u) && find_spare(a, u) < a->n)
			leave(w, u, 0);
		u->leaves = false;
	}
	a->leaving = false;
}

/* Its own client's requests wait for it in any case. */
static bool others_wait(const struct worker *w, const struct upstream *u)
{
	if (!u->fifo_n)
		return false;
	for (uint32_t i = 0; i < u->fifo_n; i++)
		if (engine_is_others(upstream_awaits(u, i)->fn, upstream_awaits(u, i)->arg, u->stream->asker))
			return true;
	return engine_holds_back(w->engine);
}

/* Who is behind it has waited long enough, or more depends on it than one client. */
static void judge(struct worker *w, struct upstream *u)
{
	struct stream *s = u->stream;

	if (s->all)
		return;
	if (w->handing || (u->fifo_n && (w->mirror_wanted || engine_comes_to_rest(w->engine))) ||
	    (ev_now(w->loop) - s->since >= ASIDE_PATIENCE_S && others_wait(w, u)))
		stream_take_all(s);
}

/* Nothing is in flight there, or only what nobody wants. */
static bool is_needed(struct worker *w, unsigned i)
{
	const struct asides *a = w->asides;
	const struct upstream *u = a->at[i];

	if (u->flushing || u->fifo_n || (u->rest && !u->stream->unwanted))
		return true;
	return !u->rest && upstream_is_up(u) && !engine_is_mirroring(w->engine) && find_spare(a, u) == i;
}

void asides_turn(struct worker *w)
{
	struct asides *a = w->asides;

	if (a->leaving)
		leave_now(w, a);
	for (unsigned i = 0; i < a->n;) {
		struct upstream *u = a->at[i];
		if (u->stream)
			judge(w, u);
		if (is_needed(w, i)) {
			i++;
			continue;
		}
		a->at[i] = a->at[--a->n];
		upstream_free(u);
	}
}

bool asides_busy(const struct worker *w)
{
	for (unsigned i = 0; w->asides && i < w->asides->n; i++)
		if (w->asides->at[i]->fifo_n)
			return true;
	return false;
}

size_t asides_tidy(struct worker *w)
{
	size_t freed = 0;

	for (unsigned i = 0; w->asides && i < w->asides->n; i++)
		freed += upstream_tidy(w->asides->at[i]);
	return freed;
}

void asides_free(struct worker *w)
{
	struct asides *a = w->asides;

	for (unsigned i = 0; a && i < a->n; i++)
		upstream_close(a->at[i]);
	for (unsigned i = 0; a && i < a->n; i++)
		upstream_free(a->at[i]);
	free(a);
	w->asides = NULL;
}
