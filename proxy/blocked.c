/* Blocking commands at the client's worker: where they begin, and what ends them from outside: the client goes, CLIENT UNBLOCK, the proxy's own end.
 * What they wait for is the owner's (engine_park.c). */
#include <assert.h>
#include <stdlib.h>

#include "proxy/client.h"
#include "proxy/local.h"
#include "resp/digits.h"
#include "resp/write.h"

void blocked_request(struct worker *w, struct client *c, struct req *r)
{
	assert(!c->parked);
	r->waits = true;
	struct session *s = session_of(c);
	if (s->waits)
		r->until_us = s->until_us;
	else
		s->wait_since = ev_now(w->loop);
	s->waits = false;
	r->ticket = ++w->tickets << 8 | w->id; /* workers are fewer than 256: fleet->owner is of bytes */
	client_enqueue(c, r);
	c->parked = r;
	worker_submit(w, r);
}

/* --- to the owner --- */

struct leave {
	struct worker *owner;
	uint64_t ticket;
	enum unpark how;
};

static void arrived_at_owner(void *arg)
{
	struct leave *l = arg;

	engine_unpark(l->owner->engine, l->ticket, l->how);
	free(l);
}

void blocked_leave(struct worker *w, struct client *c, enum unpark how)
{
	struct leave *l;

	if (c->parked->waiting) {
		waiting_end(c->parked->waiting, how);
		return;
	}
	l = malloc(sizeof *l);
	if (!l)
		abort();
	c->parked->leaves = true;
	*l = (struct leave){ &w->fleet->workers[w->fleet->owner[c->parked->slot]], c->parked->ticket, how };
	mailbox_post(w->fleet->mail, l->owner->id, w->id, arrived_at_owner, l);
}

/* --- CLIENT UNBLOCK: from worker to worker until one has the client, from there to the owner of what it waits for, and back --- */

struct unblock {
	struct worker *home, *at; /* whose client asked; who has it now */
	struct req *req;
	uint64_t id, ticket;
	enum unpark how;
	unsigned asked;           /* workers */
	bool found;
};

static void pass(struct unblock *u, struct worker *to, mail_fn *fn)
{
	struct worker *from = u->at;

	u->at = to;
	mailbox_post(to->fleet->mail, to->id, from->id, fn, u);
}

static void unblock_ends(void *arg)
{
	struct unblock *u = arg;

	u->req->reply_block = block_copy(u->found ? ":1\r\n" : ":0\r\n", 4);
	u->req->reply = u->req->reply_block->data;
	u->req->reply_len = 4;
	client_done(u->home, u->req);
	free(u);
}

static void unblock_at_owner(void *arg)
{
	struct unblock *u = arg;

	u->found = engine_unpark(u->at->engine, u->ticket, u->how);
	pass(u, u->home, unblock_ends);
}

static void unblock_at_worker(void *arg)
{
	struct unblock *u = arg;
	struct worker *w = u->at;

	u->asked++;
	for (struct client *c = w->clients; c; c = c->next) {
		if (c->id != u->id || !c->parked)
			continue;
		if (c->parked->waiting) {
			u->found = true;
			waiting_end(c->parked->waiting, u->how);
			break;
		}
		u->ticket = c->parked->ticket;
		pass(u, &w->fleet->workers[w->fleet->owner[c->parked->slot]], unblock_at_owner);
		return;
	}
	if (!u->found && u->asked < w->fleet->nworkers)
		pass(u, &w->fleet->workers[(w->id + 1) % w->fleet->nworkers], unblock_at_worker);
	else
		pass(u, u->home, unblock_ends);
}

void local_client_unblock(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	enum unpark how = argc == 4 && slice_is(w->argv[3], "error") ? UNPARK_ERROR : UNPARK_NULL;
	int64_t id;

	(void)cmd;
	if (argc > 4 && local_identity(w).number < 0x070200) {
		client_error(w, c, "ERR unknown subcommand or wrong number of arguments for '%.*s'. Try CLIENT HELP.",
			     (int)(w->argv[1].n < 128 ? w->argv[1].n : 128), w->argv[1].p);
	} else if (argc == 4 && how == UNPARK_NULL && !slice_is(w->argv[3], "timeout")) {
		client_error(w, c, "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
	} else if (!resp_string_to_int(w->argv[2].p, w->argv[2].n, &id)) {
		client_error(w, c, "ERR value is not an integer or out of range");
	} else {
		struct unblock *u = malloc(sizeof *u);
		if (!u)
			abort();
		*u = (struct unblock){ .home = w, .at = w, .req = req_new(w), .id = (uint64_t)id, .how = how };
		client_await(c, u->req);
		unblock_at_worker(u);
	}
}
