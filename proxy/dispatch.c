/* From a parsed request to the slot's owner: command table, arity, keys, slot; what is answered or refused here. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "proxy/alone.h"
#include "proxy/blocking.h"
#include "proxy/client.h"
#include "proxy/knot.h"
#include "proxy/lines.h"
#include "proxy/local.h"
#include "proxy/log.h"
#include "proxy/monitor.h"
#include "proxy/pause.h"
#include "proxy/tracking.h"
#include "proxy/usage.h"
#include "resp/convert.h"
#include "resp/digits.h"
#include "resp/slot.h"
#include "resp/words.h"
#include "resp/write.h"

uint32_t words_of(struct worker *w, const struct resp_request *p, const char *bytes)
{
	if (p->argc > w->argv_cap) {
		w->argv_cap = 2 * p->argc;
		w->argv = realloc(w->argv, w->argv_cap * sizeof *w->argv);
		if (!w->argv)
			abort();
	}
	for (uint32_t i = 0; i < p->argc; i++)
		w->argv[i] = resp_request_arg(p, bytes, i);
	return p->argc;
}

uint32_t words_again(struct worker *w, const char *bytes, size_t len)
{
	return resp_words(bytes, len, &w->argv, &w->argv_cap);
}

static void unknown_command(struct worker *w, struct client *c, uint32_t argc)
{
	sds args = sdsempty();

	for (uint32_t i = 1; i < argc && sdslen(args) < 128; i++) {
		size_t room = 128 - sdslen(args), n = strnlen(w->argv[i].p, w->argv[i].n < room ? w->argv[i].n : room); /* the servers stop at a zero byte */
		args = sdscatlen(args, "'", 1);
		args = sdscatlen(args, w->argv[i].p, n);
		args = sdscatlen(args, "' ", 2);
	}
	sds text = sdscatprintf(sdsempty(), "ERR unknown command '%.*s', with args beginning with: ",
				(int)(w->argv[0].n < 128 ? w->argv[0].n : 128), w->argv[0].p);
	text = sdscatsds(text, args);
	client_reply(w, c, resp_cat_error(sdsempty(), text));
	sdsfree(text);
	sdsfree(args);
}

static void unknown_subcommand(struct worker *w, struct client *c, const struct command *cmd)
{
	char upper[64];
	size_t i;

	for (i = 0; cmd->name[i] && i < sizeof upper - 1; i++)
		upper[i] = cmd->name[i] >= 'a' && cmd->name[i] <= 'z' ? (char)(cmd->name[i] - 32) : cmd->name[i];
	upper[i] = '\0';
	client_error(w, c, "ERR unknown subcommand '%.*s'. Try %s HELP.", (int)(w->argv[1].n < 128 ? w->argv[1].n : 128), w->argv[1].p, upper);
}

void dispatch_unknown(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	if (strchr(cmd->name, '|'))
		unknown_subcommand(w, c, command_find(w->argv[0]));
	else
		unknown_command(w, c, argc);
}

/* An error before the command is looked at; EXEC's transaction ends with it. */
static void reject(struct worker *w, struct client *c, const struct command *cmd, const char *why)
{
	if (cmd->shape == SHAPE_EXEC)
		txn_abort(w, c, why);
	else
		client_error(w, c, "ERR %s", why);
}

void dispatch_wrong_arity(struct worker *w, struct client *c, const struct command *cmd)
{
	sds text = sdscatprintf(sdsempty(), "wrong number of arguments for '%s' command", cmd->name);

	reject(w, c, cmd, text);
	sdsfree(text);
}

/* As the servers do: a browser that was sent here by somebody else's page must not get to its request's body. */
static bool is_http(struct slice name)
{
	return slice_is(name, "post") || slice_is(name, "host:");
}

static void close_http(struct worker *w, struct client *c)
{
	log_limited(LOG_WARNING, "client %llu sent POST or Host: as a browser does, perhaps misled (cross protocol scripting); closed", (unsigned long long)c->id);
	client_close_after_replies(w, c);
}

/* The row, or NULL after an error reply. */
static const struct command *look_up(struct worker *w, struct client *c, uint32_t argc)
{
	const struct command *cmd = command_find(w->argv[0]), *sub;

	if (!cmd && is_http(w->argv[0])) {
		close_http(w, c);
		return NULL;
	}
	if (!cmd) {
		usage_unknown(w->stats->usage, w->argv[0]);
		unknown_command(w, c, argc);
		return NULL;
	}
	if (cmd->flags & CMD_CONTAINER && argc > 1) {
		sub = command_find_sub(cmd, w->argv[1]);
		if (!sub) {
			unknown_subcommand(w, c, cmd);
			return NULL;
		}
		cmd = sub;
	}
	if (!command_arity_ok(cmd, argc)) {
		dispatch_wrong_arity(w, c, cmd);
		return NULL;
	}
	c->last = cmd;
	return cmd;
}

bool dispatch_writes(const struct command *cmd)
{
	return cmd->flags & (CMD_WRITE | CMD_SCRIPT) || cmd->effect != EFFECT_NONE;
}

/* The request as a command of its own that may outlive the read buffer: by reference, or rewritten as an array if it came inline. */
static struct req *make_req(struct worker *w, const struct resp_request *p, const struct command *cmd, struct block *block, const char *bytes)
{
	struct req *r = req_new(w);

	r->cmd = cmd;
	r->write = dispatch_writes(cmd);
	if (bytes[0] == '*') {
		r->block = block_ref(block);
		r->bytes = bytes;
		r->len = p->used;
		return r;
	}
	sds s = resp_cat_request(sdsempty(), (int)p->argc, w->argv);
	r->block = block_copy(s, sdslen(s));
	r->bytes = r->block->data;
	r->len = sdslen(s);
	sdsfree(s);
	return r;
}

int dispatch_slot(struct worker *w, const struct command *cmd, uint32_t argc)
{
	uint32_t sole = command_sole_key(cmd);
	int n, slot;

	w->nkeys = 0;
	if (sole && sole < argc)
		return slot_of(w->argv[sole]);
	if (!cmd->nspecs)
		return SLOTS;
	if (command_is_unrouted(cmd, argc, w->argv))
		return -2;
	while ((n = command_keys(cmd, argc, w->argv, w->keys, (int)w->keys_cap)) > (int)w->keys_cap) {
		w->keys_cap = (size_t)n;
		w->keys = realloc(w->keys, w->keys_cap * sizeof *w->keys);
		if (!w->keys)
			abort();
	}
	if (n <= 0)
		return n < 0 ? -2 : SLOTS;
	w->nkeys = (uint32_t)n;
	slot = slot_of(w->argv[w->keys[0].index]);
	for (int i = 1; i < n; i++)
		if (slot_of(w->argv[w->keys[i].index]) != slot)
			return -1;
	return slot;
}

/* The slots of the keys that dispatch_slot() has just found to be of several. */
static void add_slots(const struct worker *w, struct slot_set *slots)
{
	for (uint32_t i = 0; i < w->nkeys; i++)
		slot_set_add(slots, slot_of(w->argv[w->keys[i].index]));
}

/* NULL: they are fewer than two. */
static struct wide *wide_new(const struct slot_set *slots)
{
	struct wide *wide;
	unsigned n = 0;

	for (unsigned i = 0; i < SLOTS / 64; i++)
		n += (unsigned)__builtin_popcountll(slots->bits[i]);
	if (n < 2)
		return NULL;
	if (!(wide = malloc(sizeof *wide + n * sizeof wide->slot[0])))
		abort();
	wide->n = 0;
	FOR_SLOTS (i, slots)
		wide->slot[wide->n++] = (uint16_t)i;
	return wide;
}

static struct wide *wide_of_request(const struct worker *w)
{
	struct slot_set slots = { .bits = { 0 } };

	add_slots(w, &slots);
	return wide_new(&slots);
}

struct wide *dispatch_wide(struct worker *w, const struct txn *t)
{
	struct slot_set slots = { .bits = { 0 } };

	for (uint32_t i = 0; i < t->n; i++) {
		const struct txn_command *q = &t->commands[i];
		if (q->local)
			continue;
		int slot = dispatch_slot(w, q->cmd, words_again(w, t->bytes + q->at, q->len));
		if (slot == -1)
			add_slots(w, &slots);
		else if (slot >= 0 && slot < SLOTS)
			slot_set_add(&slots, (unsigned)slot);
	}
	return wide_new(&slots);
}

static bool is_cluster(const struct worker *w, enum side side)
{
	return w->topology[side] && w->topology[side]->cluster;
}

/* knot: it has several keys, all of one slot. */
static void forward(struct worker *w, struct client *c, struct req *r, int slot, bool knot)
{
	r->slot = (uint16_t)(slot >= 0 && slot < SLOTS ? slot : (int)(c->id % SLOTS));
	if (r->waits) {
		blocked_request(w, c, r);
		return;
	}
	client_enqueue(c, r);
	if (knot)
		knot_tie(w, c, r);
	worker_submit(w, r);
}

static struct req *make_counted(struct worker *w, const struct client *c, const struct resp_request *p, const struct command *cmd, uint32_t argc,
				struct block *block, const char *bytes)
{
	struct req *r = make_req(w, p, cmd, block, bytes);

	if (__builtin_expect(atomic_load_explicit(&w->fleet->nnoloop, memory_order_relaxed) != 0, 0))
		tracking_write_begins(w, c, r, cmd, argc);
	return r;
}

static void route(struct worker *w, struct client *c, const struct resp_request *p, const struct command *cmd, uint32_t argc, struct block *block,
		  const char *bytes, bool waits)
{
	int slot = dispatch_slot(w, cmd, argc);
	uint32_t sole = command_sole_key(cmd);
	struct wide *wide = NULL;
	struct req *r;

	if (slot >= 0 && slot < SLOTS)
		fetch_lines(&w->fleet->owner[slot], 1);
	if (slot == -1)
		usage_cross_slot(w->stats->usage, cmd);
	if (slot == -1 && cmd->policy == POLICY_SPLIT) {
		r = make_counted(w, c, p, cmd, argc, block, bytes);
		/* Behind a cluster every slot has its owner, whatever the other side is; only a standalone source has one owner for all. */
		if (is_cluster(w, SIDE_SOURCE) || is_cluster(w, fleet_authority(w->fleet, slot_of(w->argv[w->keys[0].index])))) {
			split_request(w, c, cmd, argc, r);
		} else {
			r->wide = wide_of_request(w);
			r->spans = splits_evenly(cmd, argc);
			forward(w, c, r, slot_of(w->argv[w->keys[0].index]), false);
		}
		return;
	}
	if (slot == -1) {
		slot = slot_of(w->argv[w->keys[0].index]);
		if (is_cluster(w, SIDE_SOURCE)) {
			client_error(w, c, "CROSSSLOT Keys in request don't hash to the same slot");
			return;
		}
		wide = wide_of_request(w);
	}
	r = make_counted(w, c, p, cmd, argc, block, bytes);
	if (sole && sole < argc && r->bytes == bytes)
		req_has_key(r, w->argv[sole], argc);
	r->wide = wide;
	r->waits = waits;
	forward(w, c, r, slot, w->nkeys > 1 && !wide);
}

/* The time-out is judged here; the rest of the words is the server's to judge, at the first try. */
static void wait_for(struct worker *w, struct client *c, const struct resp_request *p, const struct command *cmd, uint32_t argc, struct block *block,
		  const char *bytes)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	struct blocking b = blocking_read(cmd, argc, w->argv, local_identity(w).number < 0x070200 ? 0 : ts.tv_sec * INT64_C(1000));
	if (b.error)
		client_error(w, c, "%s", b.error);
	else
		route(w, c, p, cmd, argc, block, bytes, b.blocks);
}

/* COPY and MOVE into a database that only the authority has could not be mirrored. */
static bool other_db_is_there(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	uint32_t word = cmd->keys >= KEYS_COPY ? command_other_db(cmd, argc, w->argv) : 0;
	int64_t db;

	if (!word || !resp_string_to_int(w->argv[word].p, w->argv[word].n, &db) || db < (int64_t)worker_databases(w))
		return true;
	const struct topology *t = w->topology[fleet_authority(w->fleet, 0)];
	if (!t || db >= (int64_t)t->databases)
		return true; /* its own error */
	client_error(w, c, "%s", no_such_db);
	return false;
}

static void refuse(struct worker *w, struct client *c, const struct command *cmd)
{
	client_error(w, c, "ERR crossfade: '%s' is not available: %s", cmd->name, cmd->why ? cmd->why : "refused by the command table");
}

/* The sides may have fewer databases than when it was selected. */
static bool db_is_there(struct worker *w, struct client *c)
{
	if (!c->db || c->db < worker_databases(w))
		return true;
	client_error(w, c, "%s", no_such_db);
	return false;
}

/* A body is remembered before the command is served: the next one may call it. */
static void note_script(struct worker *w, const struct command *cmd)
{
	if (cmd->flags & CMD_UNLOADS) {
		scripts_forget(w->fleet->scripts);
		return;
	}
	struct slice body = w->argv[strchr(cmd->name, '|') ? 2 : 1];
	if (scripts_remember(w->fleet->scripts, body) && cmd->effect != EFFECT_BROADCAST) /* that is sent to the follower anyway */
		worker_new_script(w, body);
}

/* A RESP2 client cannot tell messages from replies; a monitor counts as a replica. True: refused. */
static bool is_barred(struct worker *w, struct client *c, const struct command *cmd)
{
	if (c->is_monitor && cmd->flags & (CMD_WRITE | CMD_READONLY | CMD_MAY_REPLICATE)) {
		client_error(w, c, "ERR Replica can't interact with the keyspace");
		return true;
	}
	if (c->proto != 2 || cmd->flags & CMD_WHILE_SUBSCRIBED || !pubsub_is_subscribed(c))
		return false;
	sds text = sdscatprintf(sdsempty(), "Can't execute '%s': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context", cmd->name);
	reject(w, c, cmd, text);
	sdsfree(text);
	return true;
}

static void serve(struct worker *w, struct client *c, const struct resp_request *p, const struct command *cmd, uint32_t argc, struct block *block,
		  const char *bytes)
{
	switch ((enum cmd_policy)cmd->policy) {
	case POLICY_LOCAL:
		local_request(w, c, cmd, argc);
		return;
	case POLICY_REFUSE:
	case POLICY_LATER:
		refuse(w, c, cmd);
		return;
	case POLICY_PUBLISH:
		publish_request(w, c, cmd, argc, make_req(w, p, cmd, block, bytes));
		return;
	case POLICY_FANOUT:
		if (db_is_there(w, c))
			fanout_request(w, c, cmd, make_req(w, p, cmd, block, bytes));
		c->hold |= c->head != NULL;
		return;
	case POLICY_ALONE:
		if (db_is_there(w, c))
			alone_request(w, c, cmd, make_req(w, p, cmd, block, bytes));
		return;
	case POLICY_BLOCK:
		if (db_is_there(w, c))
			wait_for(w, c, p, cmd, argc, block, bytes);
		if (c->session)
			c->session->waits = false;
		return;
	case POLICY_SCAN:
		if (db_is_there(w, c))
			scan_request(w, c, cmd, argc, make_req(w, p, cmd, block, bytes));
		c->hold |= c->head != NULL;
		return;
	case POLICY_SLOT:
		slot_request(w, c, cmd, make_req(w, p, cmd, block, bytes));
		return;
	case POLICY_FORWARD:
	case POLICY_SPLIT:
		if (db_is_there(w, c) && other_db_is_there(w, c, cmd, argc))
			route(w, c, p, cmd, argc, block, bytes, false);
		return;
	}
}

/* A question or an order to every node: no slot's order is its own. So it waits for all that its client sent before it, and what comes behind it waits for it. */
static bool is_of_all_nodes(const struct command *cmd)
{
	return cmd->policy == POLICY_FANOUT || cmd->policy == POLICY_SCAN;
}

static bool must_wait(struct worker *w, const struct client *c, const struct command *cmd, uint32_t argc, bool queued)
{
	if (__builtin_expect(w->pause, 0) && pause_holds(w, c, cmd))
		return true;
	if (queued)
		return false;
	return (c->head && is_of_all_nodes(cmd)) || (__builtin_expect(c->knots, 0) && knot_holds(w, c, cmd, argc));
}

bool dispatch_request(struct worker *w, struct client *c, const struct resp_request *p, struct block *block, const char *bytes)
{
	uint32_t argc = words_of(w, p, bytes);
	const struct command *cmd;
	uint8_t quiet = c->quiet;

	if (argc && __builtin_expect(c->quiet >= QUIET_NEXT, 0))
		c->quiet = c->quiet == QUIET_NEXT ? QUIET_THIS : QUIET_NOT;
	if (!argc || (__builtin_expect(!c->unrestricted, 0) && !admit(w, c)))
		return true;
	if (!(cmd = look_up(w, c, argc)) || (__builtin_expect(!c->unrestricted, 0) && !permit(w, c, cmd, argc))) {
		txn_failed(c);
		return true;
	}
	bool queued = c->session && c->session->txn && !(cmd->flags & CMD_AT_ONCE);
	if (must_wait(w, c, cmd, argc, queued)) {
		c->quiet = quiet;
		return false;
	}
	stat_bump(&w->stats->commands);
	usage_seen(w->stats->usage, cmd);
	stat_bump(cmd->flags & CMD_WRITE ? &w->stats->writes : &w->stats->reads);
	if ((c->pubsub || c->is_monitor) && is_barred(w, c, cmd))
		return true;
	if (cmd->flags & (CMD_BODY | CMD_UNLOADS))
		note_script(w, cmd);
	if (__builtin_expect(w->monitored, 0) && !queued && cmd->shape != SHAPE_EXEC) /* that shows what it executes, and itself (txn.c) */
		monitor_feed(w, c, cmd, argc);
	if (queued) {
		if (db_is_there(w, c) && other_db_is_there(w, c, cmd, argc))
			txn_queue(w, c, cmd, argc, p, bytes);
		else
			txn_failed(c);
		return true;
	}
	if (__builtin_expect(c->session && c->session->tracker, 0) && cmd->policy != POLICY_LOCAL) {
		tracking_note(w, c, cmd, argc);
		tracking_caching_ends(c);
	}
	serve(w, c, p, cmd, argc, block, bytes);
	return true;
}
