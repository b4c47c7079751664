#include "proxy/tidy.h"

#include <malloc.h>
#include <stdlib.h>

#include "proxy/aside.h"
#include "proxy/bulk.h"
#include "proxy/worker.h"

#define LOOK_S 0.25
#define TRIM_LEAST (128 * 1024)
#define TRIM_AT_REST (16 * 1024)
#define TRIM_EACH_S 1.0 /* under load at most so often: pages that are needed again cost a fault each */

static size_t tidy_requests(struct worker *w)
{
	size_t freed = 0;

	for (; w->reqs_least; w->reqs_least--) {
		struct req *r = w->req_pool;
		w->req_pool = r->next;
		w->reqs_pooled--;
		*r->made_at = r->made_next;
		if (r->made_next)
			r->made_next->made_at = r->made_at;
		freed += sizeof *r;
		free(r);
	}
	w->reqs_least = w->reqs_pooled;
	return freed;
}

static size_t tidy_pools(struct worker *w)
{
	return tidy_requests(w) + engine_tidy(w->engine) + outq_pool_trim() + block_pool_trim();
}

/* At rest. Blocks go into the pool. */
static size_t tidy_buffers(struct worker *w)
{
	size_t freed = 0;

	for (uint16_t i = 0; i < w->nupstreams; i++)
		freed += upstream_tidy(w->upstreams[i]);
	freed += asides_tidy(w) + bulks_tidy(w);
	if (w->read_block && block_is_sole(w->read_block)) {
		block_unref(w->read_block);
		w->read_block = NULL;
	}
	return freed;
}

static void on_look(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct worker *w = timer->data;
	struct tidy *t = &w->tidy;
	bool rests = t->work == t->seen;

	(void)revents;
	t->freed += tidy_pools(w);
	if (rests) {
		t->freed += tidy_buffers(w) + tidy_pools(w); /* the first look has made sure that nothing of them is needed */
		ev_timer_stop(loop, timer);
	}
	t->seen = t->work;
	if (rests ? t->freed >= TRIM_AT_REST : t->freed >= TRIM_LEAST && ev_now(loop) - t->trimmed >= TRIM_EACH_S) {
		malloc_trim(0);
		t->freed = 0;
		t->trimmed = ev_now(loop);
	}
}

void tidy_init(struct worker *w)
{
	ev_init(&w->tidy.timer, on_look);
	w->tidy.timer.repeat = LOOK_S;
	w->tidy.timer.data = w;
}
