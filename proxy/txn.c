/* Transactions at the client's worker: what may be queued, the block that EXEC sends, the array that the client gets. */
#include "proxy/txn.h"

#include <assert.h>
#include <stdlib.h>

#include "backfill/own_keys.h"
#include "proxy/client.h"
#include "proxy/knot.h"
#include "proxy/local.h"
#include "proxy/monitor.h"
#include "proxy/split.h"
#include "proxy/tracking.h"
#include "proxy/usage.h"
#include "proxy/watch.h"
#include "resp/convert.h"
#include "resp/digits.h"
#include "resp/slot.h"
#include "resp/write.h"

static const char multi_bytes[] = "*1\r\n$5\r\nMULTI\r\n", exec_bytes[] = "*1\r\n$4\r\nEXEC\r\n";
static const char cross_slot[] = "CROSSSLOT Keys in request don't hash to the same slot";

/* --- life --- */

struct session *session_of(struct client *c)
{
	if (!c->session && !(c->session = calloc(1, sizeof *c->session)))
		abort();
	return c->session;
}

void session_free(struct client *c)
{
	if (!c->session)
		return;
	txn_free(c->session->txn);
	watch_client_gone(c);
	tracking_drop(c);
	tracking_untold(c);
	free(c->session);
	c->session = NULL;
}

static struct txn *txn_new(void)
{
	struct txn *t = calloc(1, sizeof *t);

	if (!t)
		abort();
	t->slot = -1;
	t->bytes = sdsnewlen(multi_bytes, sizeof multi_bytes - 1);
	t->own = sdsempty();
	return t;
}

void txn_free(struct txn *t)
{
	if (!t)
		return;
	sdsfree(t->bytes);
	sdsfree(t->own);
	sdsfree(t->refused);
	for (uint32_t i = 0; i < t->n; i++)
		sdsfree(t->commands[i].answer);
	free(t->commands);
	free(t);
}

void txn_drop(struct worker *w, struct client *c)
{
	if (!c->session)
		return;
	watch_end(w, c);
	txn_free(c->session->txn);
	c->session->txn = NULL;
}

void txn_failed(struct client *c)
{
	if (c->session && c->session->txn)
		c->session->txn->failed = true;
}

void txn_abort(struct worker *w, struct client *c, const char *why)
{
	txn_drop(w, c);
	client_error(w, c, "EXECABORT Transaction discarded because of: %s", why);
}

/* --- what may be queued --- */

bool txn_refuses(struct worker *w, struct client *c, const struct command *cmd)
{
	struct identity id = local_identity(w);

	/* Redis has the flag on what manages the server; MULTI and WATCH say their own there, and the transaction goes on. */
	if (!(cmd->flags & CMD_NO_MULTI) || !(id.valkey || cmd->flags & CMD_ADMIN))
		return false;
	txn_failed(c);
	if (id.valkey && id.number >= 0x090000)
		client_error(w, c, "ERR Command '%s' not allowed inside a transaction", cmd->name);
	else
		client_error(w, c, "ERR Command not allowed inside a transaction");
	return true;
}

bool txn_is_one_server(const struct worker *w)
{
	const struct topology *source = w->topology[SIDE_SOURCE], *t = w->topology[fleet_authority(w->fleet, 0)];

	return !(source && source->cluster) && !(t && t->cluster);
}

/* Has the proxy a way to serve it inside a transaction? Else the reason. Blocking commands do not block there: they go to the server as they are. */
static const char *unavailable(const struct worker *w, const struct command *cmd)
{
	switch ((enum cmd_policy)cmd->policy) {
	case POLICY_FORWARD:
	case POLICY_SPLIT:
	case POLICY_PUBLISH: /* counts connections there, not clients */
	case POLICY_BLOCK: /* which does not wait inside a transaction */
	case POLICY_LOCAL:
		return NULL;
	case POLICY_FANOUT:
		if (cmd->effect == EFFECT_BROADCAST)
			return "inside a transaction it would reach one server only";
		return txn_is_one_server(w) ? NULL : "inside a transaction it would ask one node only";
	case POLICY_SCAN:
	case POLICY_SLOT:
		return "inside a transaction it would ask one node only";
	case POLICY_ALONE:
	case POLICY_REFUSE:
	case POLICY_LATER:
		break;
	}
	return cmd->why ? cmd->why : "refused by the command table";
}

static struct txn_command *add(struct txn *t, const struct command *cmd, size_t at, size_t len)
{
	if (t->n == t->cap) {
		t->cap = t->cap ? 2 * t->cap : 8;
		t->commands = realloc(t->commands, t->cap * sizeof *t->commands);
		if (!t->commands)
			abort();
	}
	t->commands[t->n] = (struct txn_command){ .cmd = cmd, .at = at, .len = len };
	return &t->commands[t->n++];
}

/* Appends the request as an array; returns its command's entry. */
static struct txn_command *append(struct worker *w, struct txn *t, sds *to, const struct command *cmd, const struct resp_request *p, const char *bytes)
{
	size_t at = sdslen(*to);

	*to = bytes[0] == '*' ? sdscatlen(*to, bytes, p->used) : resp_cat_request(*to, (int)p->argc, w->argv);
	return add(t, cmd, at, sdslen(*to) - at);
}

/* The block is for one database. */
static bool changes_db(const struct worker *w, const struct client *c, const struct command *cmd)
{
	int64_t db;

	return cmd->local == LOCAL_SELECT && resp_string_to_int(w->argv[1].p, w->argv[1].n, &db) && db != c->db && db >= 0 &&
	       db < (int64_t)worker_databases(w);
}

/* True: refused, and answered. */
static bool refused(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc, size_t len)
{
	const struct txn *t = c->session->txn;
	const char *why;

	if (txn_refuses(w, c, cmd))
		return true;
	if (!local_knows(w, cmd)) {
		dispatch_unknown(w, c, cmd, argc);
	} else if (!local_takes(w, cmd, argc)) {
		dispatch_wrong_arity(w, c, cmd);
	} else if (local_refuses_unsubscribed(w, c, cmd)) {
		/* answered */
	} else if ((why = unavailable(w, cmd))) {
		usage_in_multi(w->stats->usage, cmd);
		client_error(w, c, "ERR crossfade: '%s' is not available: %s", cmd->name, why);
	} else if (changes_db(w, c, cmd)) {
		client_error(w, c, "ERR crossfade: 'select' of another database is not available inside a transaction");
	} else if (sdslen(t->bytes) + sdslen(t->own) + len > TXN_BYTES_MAX) {
		client_error(w, c, "ERR crossfade: the transaction is larger than %u bytes", TXN_BYTES_MAX);
	} else {
		return false;
	}
	txn_failed(c);
	return true;
}

/* One command with keys of several slots is refused at once; that two commands differ shows at EXEC, as on a node that has both slots. */
static bool take_slot(struct worker *w, struct txn *t, const struct command *cmd, uint32_t argc)
{
	int slot = dispatch_slot(w, cmd, argc);

	if (slot == -1 && !txn_is_one_server(w))
		return false;
	t->asks_server |= cmd->policy == POLICY_FANOUT;
	t->spans |= slot == -1 || t->asks_server;
	if (slot == -1)
		slot = slot_of(w->argv[w->keys[0].index]);
	if (slot < 0 || slot == SLOTS)
		return true;
	t->spans |= t->slot >= 0 && t->slot != slot;
	if (t->slot < 0)
		t->slot = slot;
	return true;
}

/* DBSIZE: behind it is asked whether our own marker was counted. */
static void ask_about(struct txn *t, const struct command *cmd)
{
	if (cmd->merge == MERGE_COUNT) {
		size_t at = sdslen(t->bytes);
		t->bytes = resp_cat_words(t->bytes, "EXISTS", MARKER_KEY, NULL);
		add(t, command_find(SLICE_LIT("exists")), at, sdslen(t->bytes) - at)->own = true;
		t->sent++;
		t->own_questions++;
	}
	t->over_all |= keyspace_hides(cmd);
}

void txn_queue(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc, const struct resp_request *p, const char *bytes)
{
	struct txn *t = c->session->txn;

	if (refused(w, c, cmd, argc, p->used))
		return;
	if (cmd->policy == POLICY_LOCAL) {
		append(w, t, &t->own, cmd, p, bytes)->local = true;
	} else if (take_slot(w, t, cmd, argc)) {
		append(w, t, &t->bytes, cmd, p, bytes);
		t->write |= dispatch_writes(cmd);
		t->sent++;
		ask_about(t, cmd);
	} else {
		client_error(w, c, "%s", cross_slot);
		t->failed = true;
		return;
	}
	client_reply(w, c, resp_cat_simple(sdsempty(), "QUEUED"));
}

/* A command that this version does not know makes EXEC fail. */
void txn_restore(struct worker *w, struct client *c, bool local, const char *bytes, size_t n)
{
	struct session *s = session_of(c);
	struct txn *t = s->txn ? s->txn : (s->txn = txn_new());

	if (!n)
		return;
	uint32_t argc = words_again(w, bytes, n);
	const struct command *cmd = command_find(w->argv[0]);
	if (cmd && cmd->flags & CMD_CONTAINER && argc > 1)
		cmd = command_find_sub(cmd, w->argv[1]);
	if (!cmd || !command_arity_ok(cmd, argc) || local != (cmd->policy == POLICY_LOCAL) || (!local && !take_slot(w, t, cmd, argc))) {
		t->failed = true;
		return;
	}
	sds *to = local ? &t->own : &t->bytes;
	size_t at = sdslen(*to);
	*to = sdscatlen(*to, bytes, n);
	add(t, cmd, at, n)->local = local;
	if (local)
		return;
	t->write |= dispatch_writes(cmd);
	t->sent++;
	ask_about(t, cmd);
}

/* --- MULTI, DISCARD, EXEC --- */

static struct txn *open_txn(const struct client *c)
{
	return c->session ? c->session->txn : NULL;
}

void local_multi(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)argc;
	if (!open_txn(c)) {
		session_of(c)->txn = txn_new();
		client_reply(w, c, resp_cat_simple(sdsempty(), "OK"));
	} else if (!txn_refuses(w, c, cmd)) {
		client_error(w, c, "ERR MULTI calls can not be nested");
	}
}

void local_discard(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	if (!open_txn(c)) {
		client_error(w, c, "ERR DISCARD without MULTI");
		return;
	}
	txn_drop(w, c);
	client_reply(w, c, resp_cat_simple(sdsempty(), "OK"));
}

/* Nothing of it is for a server. */
static void answer_own(struct worker *w, struct client *c, struct txn *t)
{
	struct req *r = req_new(w);

	r->txn = t;
	r->reply_block = block_copy("*0\r\n", 4);
	r->reply = r->reply_block->data;
	r->reply_len = 4;
	c->hold = true;
	client_enqueue(c, r);
	client_done(w, r);
}

/* One command behind the other: a read behind a write is tracked, the other way round it is not (NOLOOP). */
static void track(struct worker *w, struct client *c, const struct txn *t, struct req *r)
{
	bool counted = atomic_load_explicit(&w->fleet->nnoloop, memory_order_relaxed) != 0, tracks = c->session->tracker;

	for (uint32_t i = 0; (counted || tracks) && i < t->n; i++) {
		const struct txn_command *q = &t->commands[i];
		if (q->local || q->own)
			continue;
		uint32_t argc = words_again(w, t->bytes + q->at, q->len);
		if (tracks)
			tracking_note(w, c, q->cmd, argc);
		if (counted)
			tracking_write_begins(w, c, r, q->cmd, argc);
	}
	if (tracks)
		tracking_caching_ends(c);
}

static void send_block(struct worker *w, struct client *c, const struct command *cmd, struct txn *t)
{
	struct session *s = c->session;
	struct req *r = req_new(w);

	track(w, c, t, r);
	if (t->spans)
		r->wide = dispatch_wide(w, t);
	t->bytes = sdscatlen(t->bytes, exec_bytes, sizeof exec_bytes - 1);
	r->cmd = cmd;
	r->block = block_copy(t->bytes, sdslen(t->bytes));
	r->bytes = r->block->data;
	r->len = sdslen(t->bytes);
	sdsfree(t->bytes);
	t->bytes = NULL;
	r->write = t->write;
	r->spans = t->spans;
	r->slot = (uint16_t)(t->slot >= 0 ? t->slot : (int)(c->id % SLOTS));
	r->txn = t;
	if (s->watching) {
		if (t->slot < 0)
			r->slot = s->watch->slot;
		r->watch = s->watch;
		s->watch->refs++;
		s->watching = false;
	}
	if (r->watch || t->asks_server) { /* the second as outside of a transaction (dispatch.c) */
		client_hold_for(w, c, r);
		return;
	}
	c->hold |= t->sent < t->n; /* what the proxy does itself in there may change how later commands are understood */
	client_enqueue(c, r);
	if (t->slot >= 0)
		knot_tie(w, c, r);
	worker_submit(w, r);
}

void local_exec(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct txn *t = open_txn(c);

	if (w->monitored && (!t || t->failed))
		monitor_feed(w, c, cmd, argc);
	if (!t) {
		client_error(w, c, "ERR EXEC without MULTI");
		return;
	}
	bool watching = c->session->watching, elsewhere = watching && t->slot >= 0 && t->slot != c->session->watch->slot;
	if (t->failed || ((t->spans || elsewhere) && !txn_is_one_server(w))) {
		client_error(w, c, "%s", t->failed ? "EXECABORT Transaction discarded because of previous errors." : cross_slot);
		txn_drop(w, c);
		return;
	}
	c->session->txn = NULL;
	memcpy(t->exec, w->argv[0].p, sizeof t->exec);
	if (t->sent || watching)
		send_block(w, c, cmd, t);
	else
		answer_own(w, c, t);
}

/* --- the reply --- */

void txn_crosses(struct req *r)
{
	sds text = resp_cat_error(sdsempty(), cross_slot);

	r->again = false;
	r->reply_block = block_copy(text, sdslen(text));
	r->reply = r->reply_block->data;
	r->reply_len = sdslen(text);
	sdsfree(text);
}

/* after: the element behind it, which answers our own question about it, if there is one. */
static sds cat_reply(struct worker *w, const struct txn_command *q, struct slice request, struct slice reply, struct slice after, sds out)
{
	const struct command *cmd = q->cmd->shape == SHAPE_NULL_ARRAY_TIMEOUT ? NULL : q->cmd; /* nothing waits here */

	if (keyspace_hides(q->cmd))
		return keyspace_cat_element(out, q->cmd, q->proto, reply, after);
	if (q->proto == 2 && resp2_differs(cmd, reply)) {
		uint32_t argc = words_again(w, request.p, request.n);
		return resp2_convert(out, cmd, argc, w->argv, reply);
	}
	return sdscatlen(out, reply.p, reply.n);
}

static bool needs_merging(const struct req *r)
{
	const struct txn *t = r->txn;

	if (r->proto == 2 || t->own_done || t->over_all)
		return true;
	for (uint32_t i = 0; i < t->n; i++)
		if (t->commands[i].hidden)
			return true;
	return false;
}

/* Each element as a reply to its own command, those of the proxy in their places. Without the latter nothing changes in between how the client is answered. */
static sds merge(struct worker *w, struct req *r)
{
	const struct txn *t = r->txn;
	const char *p = r->reply, *end = r->reply + r->reply_len;
	sds out = r->silent ? sdsempty() : resp_cat_len(sdsempty(), '*', t->n - t->own_questions);
	struct resp_item head;

	p += resp_item(p, end, &head);
	for (uint32_t i = 0; i < t->n; i++) {
		struct txn_command *q = &t->commands[i];
		if (q->local) {
			out = q->answer ? sdscatsds(out, q->answer) : out;
			continue;
		}
		if (!t->own_done) {
			q->proto = r->proto;
			q->quiet = r->silent;
		}
		size_t n = resp_value_len(p, end);
		if (!q->quiet && !q->own)
			out = cat_reply(w, q, slice(r->bytes + q->at, q->len), slice(p, n), slice(p + n, (size_t)(end - p) - n), out);
		p += n;
		for (uint32_t skip = q->hidden; skip; skip--)
			p += resp_value_len(p, end);
	}
	assert(p == end);
	return out;
}

/* As many elements as commands were sent? A server that answers otherwise is not believed. */
static bool is_whole(const struct req *r)
{
	struct resp_item head;
	uint64_t want = r->txn->sent;

	for (uint32_t i = 0; i < r->txn->n; i++)
		want += r->txn->commands[i].hidden;
	return resp_item(r->reply, r->reply + r->reply_len, &head) && head.type == '*' && (uint64_t)head.n == want;
}

/* As the servers: what was executed, and EXEC behind it. */
static void show_monitors(struct worker *w, const struct client *c, const struct req *r, bool whole)
{
	const struct txn *t = r->txn;

	for (uint32_t i = 0; whole && i < t->n; i++) {
		const struct txn_command *q = &t->commands[i];
		if (!q->own)
			monitor_feed(w, c, q->cmd, words_again(w, (q->local ? t->own : r->bytes) + q->at, q->len));
	}
	w->argv[0] = slice(t->exec, sizeof t->exec);
	monitor_feed(w, c, command_find(w->argv[0]), 1);
}

bool txn_complete(struct worker *w, struct client *c, struct req *r)
{
	struct txn *t = r->txn;
	bool whole = is_whole(r);

	if (t->own_done)
		return t->unanswered == 0;
	if (w->monitored)
		show_monitors(w, c, r, whole);
	if (!whole || t->sent == t->n)
		return true;
	t->own_done = true;
	t->unanswered = 1; /* this loop */
	c->session->exec = r;
	for (uint32_t i = 0; i < t->n; i++) {
		struct txn_command *q = &t->commands[i];
		q->proto = c->proto;
		q->quiet = client_is_quiet(c);
		c->session->element = i;
		if (q->local)
			local_request(w, c, q->cmd, words_again(w, t->own + q->at, q->len));
	}
	c->session->exec = NULL;
	return --t->unanswered == 0;
}

static void take_answer(struct txn_command *q, struct slice reply)
{
	q->answer = sdscatlen(q->answer ? q->answer : sdsempty(), reply.p, reply.n);
}

void txn_take_answer(struct client *c, sds reply)
{
	if (!client_is_quiet(c))
		take_answer(&c->session->exec->txn->commands[c->session->element], slice(reply, sdslen(reply)));
}

void txn_await(struct client *c, struct req *r)
{
	r->exec = c->session->exec;
	r->part = c->session->element;
	r->proto = c->proto;
	r->silent = client_is_quiet(c);
	r->exec->txn->unanswered++;
}

void txn_answered(struct worker *w, struct req *r)
{
	struct req *exec = r->exec;

	if (!r->silent)
		take_answer(&exec->txn->commands[r->part], slice(r->reply, r->reply_len));
	exec->txn->commands[r->part].subscribes = r->subscribes;
	req_free(w, r);
	if (--exec->txn->unanswered == 0)
		client_done(w, exec);
}

void txn_emit(struct worker *w, struct client *c, struct req *r)
{
	sds out = NULL;

	if (r->silent && !r->txn->own_done)
		return;
	if (!is_whole(r)) /* aborted, or failed */
		out = r->proto == 2 ? resp2_convert(sdsempty(), r->cmd, 1, NULL, slice(r->reply, r->reply_len)) : NULL;
	else if (needs_merging(r))
		out = merge(w, r);
	if (out)
		outq_add(&c->out, out, sdslen(out), NULL);
	else
		outq_add(&c->out, r->reply, r->reply_len, r->reply_block);
	sdsfree(out);
	for (uint32_t i = 0; r->txn->own_done && i < r->txn->n; i++)
		if (r->txn->commands[i].subscribes)
			pubsub_shown(c);
}
