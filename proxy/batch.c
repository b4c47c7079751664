#include "proxy/batch.h"

#include <assert.h>

#include "proxy/worker.h"

void batch_open(struct worker *w)
{
	assert(!w->batch.open && !w->batch.n);
	w->batch.open = true;
}

/* What a submitted request sets off may submit others: those go at once. */
void batch_close(struct worker *w)
{
	struct batch *b = &w->batch;
	unsigned n = b->n;

	b->n = 0;
	b->open = false;
	for (unsigned i = 0; i < n; i++)
		engine_submit(w->engine, b->req[i]);
}

/* Of others somebody else may tell the engine, too, or ask it, and they are to be there then. */
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
	if (!is_plain(r)) {
		batch_close(w); /* first what came before it */
		engine_submit(w->engine, r);
		b->open = true;
		return;
	}
	engine_fetch(w->engine, r);
	worker_fetch_routes(w, r->slot);
	b->req[b->n++] = r;
	if (b->n == BATCH_MAX) {
		batch_close(w);
		b->open = true;
	}
}
