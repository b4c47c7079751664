#include "proxy/bulk.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/aside.h"
#include "proxy/client.h"
#include "proxy/engine_internal.h"
#include "proxy/log.h"
#include "proxy/pause.h"
#include "proxy/stream.h"
#include "proxy/usage.h"
#include "resp/slot.h"
#include "resp/write.h"

enum stage { PROBING, OPENING, PASSING, SENT, LOST, DROPPING };

struct beside { /* a connection */
	struct upstream *u;
	struct bulk *bulk; /* NULL: it has none, or what it has is of no interest any more */
};

struct loss { /* of a connection that had taken all of it */
	enum side side;
	char name[280], run_id[44];
	int64_t client_id;
};

struct bulk {
	struct bulk *next, **at;
	struct worker *home, *owner;
	struct client *client;     /* NULL: it has gone */
	enum stage stage;
	bool found;                /* the probe was answered as it should be */
	const struct command *cmd;
	uint16_t slot;
	struct resp_skip skip;
	struct req *req;           /* it, among what its client waits for: from PASSING until it is answered */
	struct beside *on;         /* OPENING, PASSING, SENT until it is answered */
	size_t held;               /* counted in status */
	ev_tstamp moved;           /* when something of it came */
	struct loss *loss;
	sds error;                 /* LOST: its answer */
};

struct bulks {
	struct upstream_owner owner;
	struct bulk *all;
	ev_tstamp since;           /* something waits for them from then on; 0: nothing does */
	ev_tstamp refused;         /* when a node did not take one more connection; 0: never */
	unsigned n;
	struct beside *at[BULK_MAX];
};

/* --- which --- */

static enum side side_of(const struct worker *w, uint16_t slot)
{
	return fleet_authority(w->fleet, slot);
}

static bool is_plain(const struct worker *w, const struct client *c)
{
	const struct session *s = c->session;

	if (w->pause || w->monitored || w->handing || w->draining || engine_is_mirroring(w->engine) || w->mirror_wanted)
		return false;
	if (atomic_load_explicit(&w->fleet->nnoloop, memory_order_relaxed))
		return false;
	if (!c->unrestricted || c->closing || c->quiet || c->pubsub || c->is_monitor || (c->db && c->db >= worker_databases(w)))
		return false;
	return !s || !(s->txn || s->watching || s->waits || s->exec || s->tracker || s->told);
}

static bool is_cluster(const struct worker *w, enum side side)
{
	return w->topology[side] && w->topology[side]->cluster;
}

/* The server has no room for more clients, say: the data connection, which it has, takes what comes. */
static bool is_refused(const struct worker *w)
{
	return w->bulks && w->bulks->refused > 0 && ev_now(w->loop) - w->bulks->refused < BULK_REFUSED_S;
}

/* A redirect would come when all of it had been sent. */
static bool node_is_sure(const struct worker *w, uint16_t slot)
{
	enum side side = side_of(w, slot);
	double restless = atomic_load_explicit(&w->fleet->restless[side], memory_order_relaxed);

	if (w->route[side][slot] == w->nowhere[side])
		return false;
	return !is_cluster(w, side) || (!w->topology[side]->migrating && ev_now(w->loop) - restless >= BULK_REST_S);
}

/* A write of one key, which has come, that is passed on as it is. Its words so far are in w->argv. */
static const struct command *passable(struct worker *w, const struct client *c)
{
	const struct resp_request *p = c->parser;
	const struct command *cmd;
	uint32_t key;

	if (p->multibulk <= 0 || !words_of(w, p, c->in->data + c->in_off) || !(cmd = command_find(w->argv[0])))
		return NULL;
	key = command_sole_key(cmd);
	if (cmd->policy != POLICY_FORWARD || cmd->flags & (CMD_CONTAINER | CMD_SCRIPT | CMD_BODY | CMD_SHA | CMD_UNLOADS) || !(cmd->flags & CMD_WRITE))
		return NULL;
	if (cmd->shape != SHAPE_GENERIC || cmd->keys >= KEYS_COPY || !command_arity_ok(cmd, p->argc + (uint32_t)p->multibulk))
		return NULL;
	return key && key < p->argc ? cmd : NULL;
}

/* --- a bulk's life --- */

static void bulk_free(struct bulk *b)
{
	assert(!b->on && !b->req && !b->held);
	*b->at = b->next;
	if (b->next)
		b->next->at = b->at;
	if (b->client)
		b->client->bulk = NULL;
	sdsfree(b->error);
	free(b->loss);
	free(b);
}

static void count(struct bulk *b, size_t held)
{
	stream_count_held(b->home, held, b->held);
	b->held = held;
}

/* The connection has no more to do with it. */
static void leave(struct bulk *b)
{
	b->on->bulk = NULL;
	b->on = NULL;
	count(b, 0);
}

/* Its request has its answer. What is still to come of it is dropped. */
static void is_over(void *arg)
{
	struct bulk *b = arg;
	struct worker *w = b->home;
	struct req *r = b->req;

	b->req = NULL;
	if (b->stage == PASSING)
		b->stage = DROPPING;
	else
		bulk_free(b);
	client_done(w, r);
}

/* Takes the block. */
static void set_answer(struct bulk *b, const char *reply, size_t n, struct block *block)
{
	b->req->reply = reply;
	b->req->reply_len = n;
	b->req->reply_block = block;
}

static void answer_error(struct bulk *b, const char *text)
{
	sds line = resp_cat_error(sdsempty(), text);
	struct block *block = block_copy(line, sdslen(line));

	set_answer(b, block->data, sdslen(line), block);
	is_over(b);
	sdsfree(line);
}

static void give_up(struct bulk *b, const char *text)
{
	leave(b);
	answer_error(b, text);
}

void bulk_abandon(struct client *c)
{
	struct bulk *b = c->bulk;

	c->bulk = NULL;
	b->client = NULL;
	if (b->stage == SENT || b->stage == LOST)
		return;
	if (b->on)
		leave(b);
	if (b->req)
		b->req->done = true; /* the client frees it */
	b->req = NULL;
	bulk_free(b);
}

/* --- connections --- */

static struct beside *beside_of(const struct bulks *a, const struct upstream *u)
{
	unsigned i = 0;

	while (a->at[i]->u != u)
		i++;
	return a->at[i];
}

static void beside_up(void *ctx, struct upstream *u)
{
	struct worker *w = ctx;
	struct bulk *b = beside_of(w->bulks, u)->bulk;

	u->missed = false; /* nothing is mirrored from what it would tell */
	if (b && b->stage == OPENING)
		client_again_soon(w, b->client);
}

/* What was under way there has been answered. */
static void beside_lost(void *ctx, struct upstream *u, const char *why, bool was_up)
{
	struct worker *w = ctx;
	struct bulk *b = beside_of(w->bulks, u)->bulk;

	if (!was_up)
		w->bulks->refused = ev_now(w->loop);
	if (b) {
		assert(b->stage == OPENING);
		leave(b);
		b->found = false;
		client_again_soon(w, b->client);
	}
	fleet_tell_refresh(w, u->side, why);
}

/* Given up: could the server still execute it? What is awaited is answered behind this. */
static void beside_gone(void *ctx, struct upstream *u)
{
	struct worker *w = ctx;
	struct bulk *b = beside_of(w->bulks, u)->bulk;

	if (!b || b->stage != SENT || u->written < u->queued)
		return;
	b->stage = LOST;
	if (!(b->loss = calloc(1, sizeof *b->loss)))
		abort();
	b->loss->side = u->side;
	b->loss->client_id = u->zombie_id;
	snprintf(b->loss->name, sizeof b->loss->name, "%s", u->name);
	snprintf(b->loss->run_id, sizeof b->loss->run_id, "%s", u->zombie_run_id);
}

/* Some of it has been written: there is room again. */
static void beside_wrote(void *ctx, struct upstream *u)
{
	struct worker *w = ctx;
	struct bulk *b = beside_of(w->bulks, u)->bulk;

	if (!b)
		return;
	u->progress = ev_now(w->loop);
	count(b, u->out.bytes);
	if (b->stage == PASSING && u->out.bytes < BULK_AHEAD / 2 && b->client->paused)
		client_again_soon(w, b->client);
}

static struct bulks *bulks_of(struct worker *w)
{
	struct bulks *a = w->bulks;

	if (a)
		return a;
	if (!(a = calloc(1, sizeof *a)))
		abort();
	aside_owner(w, &a->owner);
	a->owner.up = beside_up;
	a->owner.lost = beside_lost;
	a->owner.gone = beside_gone;
	a->owner.wrote = beside_wrote;
	a->owner.formers = NULL; /* the data connection has made sure of those */
	a->owner.before_write = NULL;
	a->owner.large_least = 0;
	return w->bulks = a;
}

static bool is_idle(const struct beside *x)
{
	return !x->bulk && !x->u->partial && !x->u->fifo_n && upstream_is_up(x->u);
}

/* The first idle one of the node, or n. */
static unsigned find_idle(const struct bulks *a, const struct upstream *node)
{
	unsigned i = 0;

	while (i < a->n && !(is_idle(a->at[i]) && upstream_same_node(a->at[i]->u, node)))
		i++;
	return i;
}

/* NULL: there are too many already. */
static struct beside *connection_to(struct worker *w, const struct upstream *node)
{
	struct bulks *a = bulks_of(w);
	unsigned i = find_idle(a, node);
	struct beside *x;

	if (i < a->n)
		return a->at[i];
	if (a->n == BULK_MAX)
		return NULL;
	if (!(x = calloc(1, sizeof *x)))
		abort();
	x->u = upstream_new(&a->owner, node->side, node->name);
	upstream_set_addr(x->u, &node->addr, node->addr_len);
	return a->at[a->n++] = x;
}

/* --- at the owner of its slot, and back --- */

static void post(struct worker *from, struct worker *to, mail_fn *fn, struct bulk *b)
{
	if (from == to)
		fn(b);
	else
		mailbox_post(from->fleet->mail, to->id, from->id, fn, b);
}

/* It was executed: who waits for its key (BLPOP) is tried before anything that its client sends behind it. */
static void wake(void *arg)
{
	struct bulk *b = arg;

	park_touched(b->owner->engine, b->req);
	park_after(b->owner->engine);
	post(b->owner, b->home, is_over, b);
}

static void is_forgotten(void *arg)
{
	struct bulk *b = arg;

	answer_error(b, b->error);
}

/* Lost when all of it had been sent (race 7): whatever is sent there from now on comes behind the other's end. */
static void forget(void *arg)
{
	struct bulk *b = arg;
	struct worker *owner = b->owner;
	const struct loss *l = b->loss;

	if (l->client_id)
		upstream_inherit_one(owner->upstreams[worker_upstream(owner, l->side, l->name)], l->run_id, l->client_id);
	post(owner, b->home, is_forgotten, b);
}

static void was_lost(struct bulk *b, const char *why)
{
	struct worker *w = b->home;

	stat_bump(&w->stats->errors_upstream);
	if (b->stage != LOST) {
		sds text = sdscatprintf(sdsempty(), "CLUSTERDOWN %s; the command had not been sent to its end: it was not executed", why);
		answer_error(b, text);
		sdsfree(text);
		return;
	}
	stat_bump(&w->stats->unknown_outcome);
	b->error = sdscatprintf(sdsempty(), "UNKNOWN the connection to %s before the reply came: whether the command was executed is unknown", why);
	post(w, b->owner, forget, b);
}

/* --- passing it on --- */

/* Also before its end was sent, if the server refuses it at once. */
static void on_answer(void *arg, const struct reply *reply)
{
	struct beside *x = arg;
	struct bulk *b = x->bulk;

	if (!b)
		return;
	leave(b);
	if (!reply->p) {
		was_lost(b, reply->why);
	} else if (is_cluster(b->home, x->u->side) && engine_is_redirect(reply)) {
		fleet_tell_refresh(b->home, x->u->side, "a node refused a large request");
		answer_error(b, "TRYAGAIN crossfade: its slot moved while this large command was on its way: it was not executed");
	} else {
		set_answer(b, reply->p, reply->n, block_ref(reply->block));
		if (b->stage == SENT && !engine_reply_is_error(reply))
			post(b->home, b->owner, wake, b);
		else
			is_over(b);
	}
}

/* The words that have come, as a request of their own: how its reply is to be read. */
static struct req *request_of(struct worker *w, struct bulk *b, const struct resp_request *p)
{
	struct req *r = req_new(w);
	sds words = resp_cat_request(sdsempty(), (int)p->argc, w->argv);

	r->cmd = b->cmd;
	r->slot = b->slot;
	r->write = true;
	r->block = block_copy(words, sdslen(words));
	r->bytes = r->block->data;
	r->len = sdslen(words);
	sdsfree(words);
	return r;
}

static void count_command(struct worker *w, struct client *c, const struct command *cmd)
{
	c->last = cmd;
	stat_bump(&w->stats->commands);
	stat_bump(&w->stats->writes);
	stat_bump(&w->stats->large);
	usage_seen(w->stats->usage, cmd);
}

/* The probe was answered. True: it has a connection, which may have to come up first; its words so far are in w->argv. False: it is held whole after all. */
static bool has_way(struct worker *w, struct bulk *b)
{
	struct client *c = b->client;
	const struct upstream *node = w->upstreams[w->route[side_of(w, b->slot)][b->slot]];

	if (!b->found || is_refused(w) || !is_plain(w, c) || !node_is_sure(w, b->slot) || passable(w, c) != b->cmd)
		return false;
	if (b->stage == PROBING) {
		if (!(b->on = connection_to(w, node)))
			return false;
		b->on->bulk = b;
		b->stage = OPENING;
		upstream_open(b->on->u);
	}
	return b->on && upstream_same_node(b->on->u, node); /* it may have been refused at once, and the slot may have moved since */
}

static void begin(struct worker *w, struct bulk *b)
{
	struct client *c = b->client;
	struct resp_request *p = c->parser;

	b->stage = PASSING;
	b->req = request_of(w, b, p);
	client_enqueue(c, b->req);
	c->hold = true; /* nothing behind it before its answer */
	count_command(w, c, b->cmd);
	uint64_t n = resp_skip_init(&b->skip, p);
	upstream_send(b->on->u, c->db, c->in->data + c->in_off, n, c->in, 1, on_answer, b->on);
	b->on->u->partial = true;
	c->in_off += n;
}

static void hold_whole(struct bulk *b)
{
	b->client->parser->whole = true;
	if (b->on)
		leave(b);
	bulk_free(b);
}

/* As for one that is parsed: nothing is taken from this client any more. */
static void is_wrong(struct worker *w, struct bulk *b)
{
	struct client *c = b->client;
	sds text = sdscatprintf(sdsempty(), "ERR %s", b->skip.error);

	if (b->stage == PASSING)
		give_up(b, text);
	bulk_free(b);
	client_close_after_replies(w, c);
	sdsfree(text);
}

static enum bulk_step take(struct worker *w, struct bulk *b)
{
	struct client *c = b->client;
	const char *p = c->in->data + c->in_off;
	size_t n;
	enum resp_status s = resp_skip(&b->skip, p, c->in->used - c->in_off, &n);

	if (s == RESP_BAD) {
		is_wrong(w, b);
		return BULK_PASSED;
	}
	c->in_off += n;
	b->moved = ev_now(w->loop);
	if (b->stage == PASSING && n) {
		upstream_send_more(b->on->u, p, n, c->in, s == RESP_OK);
		count(b, b->on->u->out.bytes);
	}
	if (s == RESP_MORE)
		return b->stage == PASSING && b->held >= BULK_AHEAD ? BULK_WAITS : BULK_READS;
	resp_request_reset(c->parser);
	if (b->stage == PASSING)
		b->stage = SENT;
	else
		bulk_free(b);
	return BULK_PASSED;
}

enum bulk_step bulk_goes_on(struct worker *w, struct client *c)
{
	struct bulk *b = c->bulk;

	if (b->stage == SENT || b->stage == LOST)
		return BULK_PASSED;
	if (b->stage == PROBING && c->hold)
		return BULK_WAITS;
	if (b->stage == PROBING || b->stage == OPENING) {
		if (!has_way(w, b)) {
			hold_whole(b);
			return BULK_PASSED;
		}
		if (!upstream_is_up(b->on->u))
			return BULK_WAITS;
		begin(w, b);
	}
	if (b->stage == PASSING && !c->unrestricted)
		give_up(b, "TRYAGAIN crossfade: the users were read again while this large command was on its way: it was not executed");
	if (b->stage == PASSING && pause_holds_writes(w)) {
		c->held = true;
		return BULK_WAITS;
	}
	return take(w, b);
}

bool bulk_is_passing(const struct client *c)
{
	return c->bulk && (c->bulk->stage == PASSING || c->bulk->stage == DROPPING);
}

/* --- the probe --- */

bool bulk_begins(struct worker *w, struct client *c)
{
	const struct command *cmd;
	struct bulk *b;

	if (c->parser->whole || c->bulk)
		return false;
	if (is_refused(w) || !is_plain(w, c) || !(cmd = passable(w, c))) {
		c->parser->whole = true;
		return false;
	}
	if (!(b = calloc(1, sizeof *b)))
		abort();
	struct slice key = w->argv[command_first_key(cmd)];
	*b = (struct bulk){ .home = w, .client = c, .cmd = cmd, .slot = slot_of(key), .next = bulks_of(w)->all, .at = &w->bulks->all };
	b->owner = &w->fleet->workers[w->fleet->owner[b->slot]];
	if (b->next)
		b->next->at = &b->next;
	w->bulks->all = b;
	c->bulk = b;

	struct slice words[2] = { SLICE_LIT("EXISTS"), key };
	sds exists = resp_cat_request(sdsempty(), 2, words);
	struct req *probe = req_new(w);
	probe->cmd = command_find(words[0]);
	probe->slot = b->slot;
	probe->block = block_copy(exists, sdslen(exists));
	probe->bytes = probe->block->data;
	probe->len = sdslen(exists);
	sdsfree(exists);
	probe->silent = probe->probe = true;
	client_hold_for(w, c, probe);
	return true;
}

void bulk_probed(struct client *c, const struct req *probe)
{
	c->bulk->found = probe->reply_len && probe->reply[0] == ':';
}

/* --- all of them --- */

/* Something waits until none of them may still be executed. */
static bool is_waited_for(const struct worker *w)
{
	return w->mirror_wanted || w->handing || w->draining;
}

static void judge(struct worker *w, struct bulk *b)
{
	ev_tstamp now = ev_now(w->loop), since = w->bulks->since;
	ev_tstamp moved = b->moved > since ? b->moved : since;

	if (b->stage == PASSING && (now - moved >= BULK_PATIENCE_S || now - since >= BULK_LIMIT_S)) {
		log_limited(LOG_WARNING, "client %llu: its large command was given up, for it did not come to its end in time", (unsigned long long)b->client->id);
		give_up(b, w->mirror_wanted ? "TRYAGAIN crossfade: a migration begins, and this large command did not come to its end in time: it was not executed" :
			   "TRYAGAIN crossfade: the process ends, and this large command did not come to its end in time: it was not executed");
	}
	if (b->stage == DROPPING && (w->handing || w->draining) && !b->client->closing)
		client_close_after_replies(w, b->client); /* nobody else could tell where its next one begins */
}

void bulks_turn(struct worker *w)
{
	struct bulks *a = w->bulks;

	if (!is_waited_for(w))
		a->since = 0;
	else if (a->since == 0)
		a->since = ev_now(w->loop);
	for (struct bulk *b = a->all, *next; b && a->since > 0; b = next) {
		next = b->next;
		judge(w, b);
	}
	for (unsigned i = 0; i < a->n;) {
		struct beside *x = a->at[i];
		if (x->bulk || x->u->flushing || (is_idle(x) && a->n < BULK_MAX && !engine_is_mirroring(w->engine) && find_idle(a, x->u) == i)) {
			i++;
			continue;
		}
		a->at[i] = a->at[--a->n];
		upstream_free(x->u);
		free(x);
	}
}

bool bulks_busy(const struct worker *w)
{
	for (const struct bulk *b = w->bulks ? w->bulks->all : NULL; b; b = b->next)
		if (b->stage == PASSING || b->stage == SENT || b->stage == LOST)
			return true;
	return false;
}

size_t bulks_tidy(struct worker *w)
{
	size_t freed = 0;

	for (unsigned i = 0; w->bulks && i < w->bulks->n; i++)
		freed += upstream_tidy(w->bulks->at[i]->u);
	return freed;
}

/* The clients have gone; what is awaited is of no interest any more. */
void bulks_close(struct worker *w)
{
	struct bulks *a = w->bulks;

	for (unsigned i = 0; a && i < a->n; i++) {
		a->at[i]->bulk = NULL;
		upstream_free(a->at[i]->u);
		free(a->at[i]);
	}
	if (a)
		a->n = 0;
}

void bulks_free(struct worker *w)
{
	struct bulks *a = w->bulks;

	for (struct bulk *b = a ? a->all : NULL, *next; b; b = next) {
		next = b->next;
		sdsfree(b->error);
		free(b->loss);
		free(b);
	}
	free(a);
	w->bulks = NULL;
}
