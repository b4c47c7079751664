#include "proxy/batch.h"

#include <assert.h>

#include "proxy/client.h"
#include "proxy/lines.h"

static void ahead_of_routes(const struct worker *w, unsigned slot)
{
	for (unsigned side = 0; side < SIDES; side++)
		ahead_of(&w->route[side][slot], 1);
}

/* What a submitted request sets off may submit others: those go at once. */
static void submit_all(struct worker *w)
{
	struct batch *b = &w->batch;
	unsigned n = b->n;

	b->n = 0;
	b->open = false;
	for (unsigned i = 0; i < n; i++)
		engine_submit(w->engine, b->req[i]);
}

void batch_open(struct worker *w)
{
	assert(!w->batch.open && !w->batch.n);
	w->batch.open = true;
}

void batch_close(struct worker *w)
{
	submit_all(w);
}

/* Others are told of elsewhere at once, by what the engine must have before. */
static bool is_plain(const struct req *r)
{
	return !r->waits && !r->txn && !r->watch && !r->wide && !r->split;
}

void batch_submit(struct worker *w, struct req *r)
{
	struct batch *b = &w->batch;

	if (!b->open) {
		engine_submit(w->engine, r);
		return;
	}
	if (is_plain(r)) {
		engine_ahead(w->engine, r);
		ahead_of_routes(w, r->slot);
		b->req[b->n++] = r;
		if (b->n < BATCH_MAX)
			return;
	}
	submit_all(w);
	if (!is_plain(r))
		engine_submit(w->engine, r);
	b->open = true;
}

void batch_ahead(void *ctx, reply_fn *fn, void *arg)
{
	(void)ctx;
	engine_ahead_answer(fn, arg);
}

void batch_ahead_soon(void *ctx, reply_fn *fn, void *arg)
{
	const struct worker *w = ctx;
	unsigned slot = engine_ahead_soon(fn, arg);
	const struct req *r = engine_req_of(fn, arg);

	if (slot < SLOTS)
		ahead_of_routes(w, slot);
	if (r && r->home == w->id && r->client)
		ahead_of(&r->client->head, 2 * CACHE_LINE);
}
