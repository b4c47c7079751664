/* FLUSHALL, FLUSHDB, SWAPDB: one at a time in the whole process, conducted by the first worker.
 *
 *   home ─► conductor: its turn ─► every owner: shut, come to rest, owe everything ─► conductor: the sides that are an authority ─► the follower
 *                                                                                       └─► every owner: what became of it, open ─► home: the answer
 *
 * In the middle of a partial flip both sides are authorities, and are asked at once. The client is held, so what it sent before was answered, and what it sends
 * after waits. What is told to owners goes by mail and comes back by mail: a happens-before for all that is read here. */
#include "proxy/alone.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "backfill/fault.h"
#include "proxy/client.h"
#include "proxy/log.h"
#include "resp/digits.h"
#include "resp/write.h"

#define CONDUCTOR 0
#define FOLLOWER_WAIT_MS 1000 /* for what is queued for it; then it is left out, and compared instead */

struct alone_part { /* an owner's */
	struct alone *alone;
	struct worker *owner;
	bool follower;          /* it had acknowledged everything */
};

struct alone_ask { /* a node's */
	struct alone *alone;
	struct upstream *node;
};

struct alone {
	struct alone *next;     /* the conductor's line: the first is under way */
	struct req *req;
	unsigned owners_left, replies_left;
	struct alone_ask *asks;
	enum { ASKING_AUTHORITIES, ASKING_FOLLOWER } stage;
	bool divided;           /* both sides are authorities */
	bool follower;          /* it has acknowledged everything, and can be asked */
	bool done, failed;      /* some node did it; some did not, or may not have */
	sds reply;              /* to the client: of an authority, an error before any other */
	enum alone_result result;
	const char *why;
	struct alone_part parts[];
};

static void post(const struct worker *from, const struct worker *to, mail_fn *fn, void *arg)
{
	mailbox_post(from->fleet->mail, to->id, from->id, fn, arg);
}

static struct worker *conductor_of(const struct worker *w)
{
	return &w->fleet->workers[CONDUCTOR];
}

static void to_owners(struct worker *w, struct alone *a, mail_fn *fn)
{
	a->owners_left = w->fleet->nworkers;
	for (unsigned i = 0; i < w->fleet->nworkers; i++)
		post(w, a->parts[i].owner, fn, &a->parts[i]);
}

/* --- at an owner --- */

static bool empties(const struct alone *a)
{
	return !(a->req->cmd->flags & CMD_SWAPS);
}

static void owner_begin(void *arg)
{
	struct alone_part *p = arg;

	p->owner->alone_part = p;
	engine_alone_begin(p->owner->engine, FOLLOWER_WAIT_MS);
}

static void owner_is_quiet(void *arg);

void alone_quiet(struct worker *w, bool follower)
{
	struct alone_part *p = w->alone_part;

	p->follower = follower;
	for (uint16_t i = 0; empties(p->alone) && i < w->nupstreams; i++)
		upstream_expect_flush(w->upstreams[i]);
	if (w->owner.before_write)
		w->owner.before_write(w); /* another worker sends it: what is owed is on the disk before */
	post(w, conductor_of(w), owner_is_quiet, p);
}

/* Somebody else's flush may have been taken for ours, which did not happen. */
static bool expects_no_more(struct worker *w, const struct alone *a)
{
	bool mistaken = false;

	for (uint16_t i = 0; empties(a) && i < w->nupstreams; i++)
		mistaken |= upstream_flush_ends(w->upstreams[i], a->result == ALONE_EMPTIED);
	return mistaken && a->result == ALONE_NOTHING;
}

static void owner_is_open(void *arg);

static void owner_end(void *arg)
{
	struct alone_part *p = arg;
	const struct alone *a = p->alone;
	struct worker *w = p->owner;

	if (expects_no_more(w, a))
		lookout_flushed(w);
	w->alone_part = NULL;
	engine_alone_end(w->engine, a->result, a->why);
	post(w, conductor_of(w), owner_is_open, p);
}

/* --- at the conductor --- */

static void start(struct worker *w, struct alone *a)
{
	a->follower = true;
	to_owners(w, a, owner_begin);
}

static void answer(struct worker *w, struct alone *a)
{
	struct req *r = a->req;

	r->reply_block = block_copy(a->reply, sdslen(a->reply));
	r->reply = r->reply_block->data;
	r->reply_len = sdslen(a->reply);
	worker_answer(w, r);
}

static void owner_is_open(void *arg)
{
	struct alone *a = ((struct alone_part *)arg)->alone;
	struct worker *w = conductor_of(a->parts[0].owner);

	if (--a->owners_left)
		return;
	answer(w, a);
	w->alone = a->next;
	sdsfree(a->reply);
	free(a);
	if (w->alone)
		start(w, w->alone);
}

static void finish(struct worker *w, struct alone *a)
{
	bool both = a->divided || a->stage == ASKING_FOLLOWER;

	if (!a->done)
		a->result = ALONE_NOTHING;
	else
		a->result = a->failed || !both || !empties(a) ? ALONE_UNSURE : ALONE_EMPTIED;
	a->why = a->failed ? "not every node did what was asked of all" : empties(a) ? "the follower was not flushed with the authority" : "two databases were swapped";
	if (a->result == ALONE_UNSURE && engine_is_mirroring(w->engine))
		fleet_tell_void(w, a->why);
	to_owners(w, a, owner_end);
}

static void ask(struct worker *w, struct alone *a, const bool *sides);

static void asked_all(struct worker *w, struct alone *a)
{
	bool sides[SIDES] = { false, false };

	free(a->asks);
	a->asks = NULL;
	if (a->stage == ASKING_FOLLOWER || a->divided || a->failed || !a->follower || !engine_is_mirroring(w->engine)) {
		finish(w, a);
		return;
	}
	crash_point("alone-between-sides");
	a->stage = ASKING_FOLLOWER;
	sides[SIDE_OTHER(fleet_authority(w->fleet, 0))] = true;
	ask(w, a, sides);
}

/* The client gets an error before any other reply, and nothing of the follower's. */
static void take_reply(struct alone *a, const struct reply *r, bool error)
{
	if (a->stage == ASKING_FOLLOWER) {
		if (error)
			log_limited(LOG_WARNING, "a node of the follower did not take %s: %.*s", a->req->cmd->name, r->p ? (int)r->n - 3 : (int)strlen(r->why),
				    r->p ? r->p + 1 : r->why);
		return;
	}
	if (a->reply && (!error || a->reply[0] == '-'))
		return;
	sdsfree(a->reply);
	if (r->p)
		a->reply = sdsnewlen(r->p, r->n);
	else if (r->sent)
		a->reply = sdscatprintf(sdsempty(), "-UNKNOWN the connection to %s before the reply came: whether the command was executed is unknown\r\n", r->why);
	else
		a->reply = sdscatprintf(sdsempty(), "-CLUSTERDOWN %s\r\n", r->why);
}

static void on_asked(void *arg, const struct reply *r)
{
	struct alone_ask *n = arg;
	struct alone *a = n->alone;
	struct worker *w = n->node->owner->ctx;
	bool error = !r->p || r->p[0] == '-';

	assert(a->replies_left > 0);
	n->node->in_doubt |= !r->p && r->sent;
	a->done |= !error || (!r->p && r->sent); /* one of unknown outcome may be done */
	a->failed |= error;
	if (error && (!r->p || r->p[1] != 'E')) /* another primary, or none */
		fleet_tell_refresh(w, n->node->side, "a node did not do what was asked of all");
	take_reply(a, r, error);
	if (--a->replies_left == 0)
		asked_all(w, a);
}

/* The primaries by the topology, and those that a redirect has named. */
static bool is_primary(struct worker *w, const struct upstream *u, uint16_t index)
{
	const struct topology *t = w->topology[u->side];

	for (uint16_t i = 0; t && i < t->nnodes; i++)
		if (strcmp(t->nodes[i].name, u->name) == 0)
			return true;
	for (unsigned slot = 0; index != w->nowhere[u->side] && slot < SLOTS; slot++)
		if (w->route[u->side][slot] == index)
			return true;
	return false;
}

/* What the servers get: the client's own bytes; the follower is emptied in the background, so that nobody waits for it. */
static void ask_node(struct alone *a, struct upstream *u, struct alone_ask *n)
{
	const struct req *r = a->req;

	*n = (struct alone_ask){ a, u };
	if (a->stage == ASKING_FOLLOWER && empties(a)) {
		sds s = resp_cat_words(sdsempty(), r->cmd->name, "ASYNC", NULL);
		upstream_send(u, r->db, s, sdslen(s), NULL, 1, on_asked, n);
		sdsfree(s);
	} else {
		upstream_send(u, r->db, r->bytes, r->len, r->block, 1, on_asked, n);
	}
}

static void ask(struct worker *w, struct alone *a, const bool *sides)
{
	unsigned n = 0;

	a->asks = calloc(w->nupstreams, sizeof *a->asks);
	if (!a->asks)
		abort();
	for (uint16_t i = 0; i < w->nupstreams; i++)
		if (sides[w->upstreams[i]->side] && is_primary(w, w->upstreams[i], i))
			ask_node(a, w->upstreams[i], &a->asks[n++]);
	a->replies_left = n; /* no answer comes from inside the sending */
	if (n)
		return;
	a->failed = true;
	if (!a->reply)
		a->reply = sdsnew("-CLUSTERDOWN no node is known\r\n");
	asked_all(w, a);
}

/* Nothing is under way anywhere now. */
static void owner_is_quiet(void *arg)
{
	struct alone_part *p = arg;
	struct alone *a = p->alone;
	struct worker *w = conductor_of(p->owner);
	bool sides[SIDES] = { false, false };

	a->follower &= p->follower;
	if (--a->owners_left)
		return;
	for (unsigned slot = 0; slot < SLOTS; slot++)
		sides[fleet_authority(w->fleet, (uint16_t)slot)] = true;
	a->divided = sides[SIDE_SOURCE] && sides[SIDE_TARGET];
	ask(w, a, sides);
}

static void arrived(void *arg)
{
	struct req *r = arg;
	struct worker *w = r->worker;
	unsigned n = w->fleet->nworkers;
	struct alone *a = calloc(1, sizeof *a + n * sizeof a->parts[0]), **end = &w->alone;

	if (!a)
		abort();
	a->req = r;
	for (unsigned i = 0; i < n; i++)
		a->parts[i] = (struct alone_part){ .alone = a, .owner = &w->fleet->workers[i] };
	while (*end)
		end = &(*end)->next;
	*end = a;
	if (w->alone == a)
		start(w, a);
}

/* --- doubt: what was sent on a connection that was lost may be done until its successor is up (race 7); the slots are those of all owners --- */

static void owner_doubts(void *arg)
{
	struct worker *w = arg;

	engine_slots_dirty(w->engine, NULL, "a node is back that was lost when all nodes were asked");
}

void alone_doubt_ends(struct worker *w, struct upstream *u)
{
	if (!u->in_doubt)
		return;
	u->in_doubt = false;
	for (unsigned i = 0; i < w->fleet->nworkers; i++)
		post(w, &w->fleet->workers[i], owner_doubts, &w->fleet->workers[i]);
}

/* --- at home --- */

void alone_submit(struct worker *w, struct req *r)
{
	r->worker = conductor_of(w);
	post(w, r->worker, arrived, r);
}

/* Databases that only the authority has cannot be swapped on the other side. */
static bool dbs_are_there(struct worker *w)
{
	const struct topology *t = w->topology[fleet_authority(w->fleet, 0)];
	int64_t db;

	for (int i = 1; i <= 2; i++)
		if (resp_string_to_int(w->argv[i].p, w->argv[i].n, &db) && db >= (int64_t)worker_databases(w) && t && db < (int64_t)t->databases)
			return false;
	return true;
}

static bool follower_is_cluster(const struct worker *w)
{
	const struct topology *t = w->topology[SIDE_OTHER(fleet_authority(w->fleet, 0))];

	return engine_is_mirroring(w->engine) && t && t->cluster;
}

void alone_request(struct worker *w, struct client *c, const struct command *cmd, struct req *r)
{
	bool swaps = cmd->flags & CMD_SWAPS;

	if (swaps && !dbs_are_there(w))
		client_error(w, c, "%s", no_such_db);
	else if (swaps && follower_is_cluster(w) && !w->topology[fleet_authority(w->fleet, 0)]->cluster)
		client_error(w, c, "ERR crossfade: '%s' is not available: the %s is a cluster, which cannot do it", cmd->name, side_name(SIDE_OTHER(fleet_authority(w->fleet, 0))));
	else {
		client_hold_for(w, c, r);
		return;
	}
	req_free(w, r);
}

void alone_free(struct worker *w)
{
	for (struct alone *a = w->alone, *next; a; a = next) {
		next = a->next;
		sdsfree(a->reply);
		free(a->asks);
		free(a);
	}
}
