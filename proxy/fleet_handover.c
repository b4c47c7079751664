/* A take-over as control sees it: one message to each worker for each stage. */
#include <stdlib.h>

#include "proxy/handover.h"
#include "proxy/handover_client.h"
#include "proxy/pause.h"
#include "proxy/worker.h"

struct step {
	struct worker *w;
	unsigned attempt;
	void (*run)(struct worker *w);
	struct handed **clients;
	unsigned n;
	struct handed_state state;
};

static void run_step(void *arg)
{
	struct step *s = arg;

	s->w->handing_attempt = s->attempt;
	s->run(s->w);
	free(s);
}

static struct step *step_new(struct fleet *f, unsigned worker)
{
	struct step *s = calloc(1, sizeof *s);

	if (!s)
		abort();
	s->w = &f->workers[worker];
	return s;
}

static void post(struct fleet *f, unsigned worker, mail_fn *fn, struct step *s)
{
	mailbox_post(f->mail, worker, THREAD_CONTROL(f->nworkers), fn, s);
}

static void to_each(struct fleet *f, void (*run)(struct worker *w), unsigned attempt)
{
	for (unsigned i = 0; i < f->nworkers; i++) {
		struct step *s = step_new(f, i);
		s->run = run;
		s->attempt = attempt;
		post(f, i, run_step, s);
	}
	mailbox_flush_all(f->mail, THREAD_CONTROL(f->nworkers));
}

void fleet_still(struct fleet *f, unsigned attempt)
{
	to_each(f, handover_still, attempt);
}

void fleet_empty(struct fleet *f, unsigned attempt)
{
	to_each(f, handover_empty, attempt);
}

void fleet_pack(struct fleet *f, unsigned attempt)
{
	to_each(f, handover_pack, attempt);
}

void fleet_go_on(struct fleet *f)
{
	to_each(f, handover_go_on, 0);
}

const struct handing *fleet_handing(const struct fleet *f, unsigned worker)
{
	return f->workers[worker].handing;
}

int64_t fleet_next_client(const struct fleet *f)
{
	return (int64_t)atomic_load(&f->next_client_id);
}

void fleet_pause_state(const struct fleet *f, struct handed_state *st)
{
	st->pause = f->workers[0].pause_beneath;
	st->pause_until_ms = st->pause ? f->workers[0].pause_until_ms : 0;
}

/* ---- adopting ---- */

static void do_adopt(void *arg)
{
	struct step *s = arg;

	handover_adopt(s->w, s->clients, s->n);
	pause_restore(s->w, (enum pause_kind)s->state.pause, s->state.pause_until_ms);
	free(s);
}

/* Who waits for keys of one slot waits at one worker, so that the order in which they came is kept. */
static unsigned worker_for(const struct fleet *f, const struct handed *h, unsigned i)
{
	return (h->waits ? (unsigned)h->wait_slot : i) % f->nworkers;
}

static int by_id(const void *a, const void *b)
{
	const struct handed *x = *(struct handed *const *)a, *y = *(struct handed *const *)b;

	return (x->id > y->id) - (x->id < y->id);
}

static void find_redirects(const struct fleet *f, struct handed **clients, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct handed key = { .id = clients[i]->redirect }, *at = &key;
		if (!clients[i]->redirect)
			continue;
		struct handed **to = bsearch(&at, clients, n, sizeof at, by_id);
		clients[i]->redirect_worker = to ? (int64_t)worker_for(f, *to, (unsigned)(to - clients)) : 0; /* nobody has the mark there: it breaks */
	}
}

void fleet_adopt(struct fleet *f, struct handed **clients, unsigned n, const struct handed_state *st)
{
	struct step **steps = calloc(f->nworkers, sizeof(struct step *));

	if (!steps)
		abort();
	if (n)
		qsort(clients, n, sizeof(struct handed *), by_id);
	find_redirects(f, clients, n);
	for (unsigned i = 0; i < f->nworkers; i++) {
		steps[i] = step_new(f, i);
		steps[i]->state = *st;
		steps[i]->clients = calloc(n + 1, sizeof(struct handed *));
		if (!steps[i]->clients)
			abort();
	}
	for (unsigned i = 0; i < n; i++) {
		struct step *s = steps[worker_for(f, clients[i], i)];
		s->clients[s->n++] = clients[i];
	}
	for (unsigned i = 0; i < f->nworkers; i++)
		post(f, i, do_adopt, steps[i]);
	mailbox_flush_all(f->mail, THREAD_CONTROL(f->nworkers));
	free(steps);
}

/* ---- workers → control ---- */

struct note {
	struct control *control;
	unsigned attempt, stage;
};

static void handing_told(void *arg)
{
	struct note *n = arg;

	control_handing(n->control, n->attempt, n->stage);
	free(n);
}

void fleet_tell_handing(struct worker *w, unsigned stage)
{
	struct note *n = malloc(sizeof *n);

	if (!n)
		abort();
	*n = (struct note){ w->fleet->control, w->handing_attempt, stage };
	mailbox_post(w->fleet->mail, THREAD_CONTROL(w->fleet->nworkers), w->id, handing_told, n);
}
