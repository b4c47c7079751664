#include "proxy/pause.h"

#include <stdlib.h>
#include <time.h>

#include "proxy/blocking.h"
#include "proxy/client.h"
#include "proxy/local.h"
#include "resp/write.h"

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000) + ts.tv_nsec / 1000000;
}

/* --- one worker --- */

static uint8_t *kind_of(struct worker *w)
{
	return w->pause == PAUSE_HANDOVER ? &w->pause_beneath : &w->pause;
}

void pause_handover(struct worker *w, bool on)
{
	if (on == (w->pause == PAUSE_HANDOVER))
		return;
	if (on)
		w->pause_beneath = w->pause;
	w->pause = on ? PAUSE_HANDOVER : w->pause_beneath;
}

void pause_end(struct worker *w)
{
	*kind_of(w) = PAUSE_NOT;
	w->pause_until_ms = 0;
	ev_timer_stop(w->loop, &w->pause_timer);
	if (!w->pause)
		clients_resume(w);
}

static void on_time(struct ev_loop *loop, ev_timer *t, int revents)
{
	(void)loop;
	(void)revents;
	pause_end(t->data);
}

void pause_init(struct worker *w)
{
	ev_init(&w->pause_timer, on_time);
	w->pause_timer.data = w;
}

/* Of several the strictest and the longest counts. */
static void begin(struct worker *w, enum pause_kind kind, int64_t until_ms)
{
	int64_t left = until_ms - now_ms();

	if (kind > *kind_of(w))
		*kind_of(w) = kind;
	if (until_ms <= w->pause_until_ms)
		return;
	w->pause_until_ms = until_ms;
	ev_timer_stop(w->loop, &w->pause_timer);
	ev_timer_set(&w->pause_timer, left > 0 ? (double)left / 1e3 : 0., 0.);
	ev_timer_start(w->loop, &w->pause_timer);
}

void pause_restore(struct worker *w, enum pause_kind kind, int64_t until_ms)
{
	if (kind)
		begin(w, kind, until_ms);
}

bool pause_holds(const struct worker *w, const struct client *c, const struct command *cmd)
{
	if (w->pause >= PAUSE_ALL || cmd->flags & (CMD_WRITE | CMD_MAY_REPLICATE))
		return true;
	return cmd->shape == SHAPE_EXEC && c->session && c->session->txn && c->session->txn->write;
}

bool pause_holds_writes(const struct worker *w)
{
	return (w->pause == PAUSE_HANDOVER ? w->pause_beneath : w->pause) != PAUSE_NOT;
}

/* --- from worker to worker, and back to who asked --- */

struct order {
	struct worker *home, *at;
	struct req *req;
	unsigned done;
	enum pause_kind kind;
	int64_t until_ms;
};

static void answer(void *arg)
{
	struct order *o = arg;

	o->req->reply_block = block_copy("+OK\r\n", 5);
	o->req->reply = o->req->reply_block->data;
	o->req->reply_len = 5;
	client_done(o->home, o->req);
	free(o);
}

static void carry_out(void *arg)
{
	struct order *o = arg;
	struct worker *w = o->at;

	if (o->kind == PAUSE_NOT)
		pause_end(w);
	else
		begin(w, o->kind, o->until_ms);
	bool last = ++o->done == w->fleet->nworkers;
	o->at = last ? o->home : &w->fleet->workers[(w->id + 1) % w->fleet->nworkers];
	if (o->at == w)
		answer(o);
	else
		mailbox_post(w->fleet->mail, o->at->id, w->id, last ? answer : carry_out, o);
}

static void to_all(struct worker *w, struct client *c, enum pause_kind kind, int64_t until_ms)
{
	struct order *o = malloc(sizeof *o);

	if (!o)
		abort();
	*o = (struct order){ .home = w, .at = w, .req = req_new(w), .kind = kind, .until_ms = until_ms };
	client_await(c, o->req);
	carry_out(o);
}

void local_client_pause(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	enum pause_kind kind = argc == 4 && slice_is(w->argv[3], "write") ? PAUSE_WRITE : PAUSE_ALL;
	const char *error;
	struct timespec ts;
	int64_t ms = 0;

	(void)cmd;
	clock_gettime(CLOCK_REALTIME, &ts);
	if (argc > 4) {
		client_error(w, c, "ERR unknown subcommand or wrong number of arguments for '%.*s'. Try CLIENT HELP.",
			     (int)(w->argv[1].n < 128 ? w->argv[1].n : 128), w->argv[1].p);
	} else if (argc == 4 && kind == PAUSE_ALL && !slice_is(w->argv[3], "all")) {
		client_error(w, c, "ERR CLIENT PAUSE mode must be WRITE or ALL");
	} else if ((error = blocking_timeout_ms(w->argv[2], local_identity(w).number < 0x070200 ? 0 : ts.tv_sec * INT64_C(1000), &ms))) {
		client_error(w, c, "%s", error);
	} else {
		to_all(w, c, kind, now_ms() + (ms < INT64_MAX / 2 ? ms : INT64_MAX / 2));
	}
}

void local_client_unpause(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	to_all(w, c, PAUSE_NOT, 0);
}
