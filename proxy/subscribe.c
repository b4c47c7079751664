/* SUBSCRIBE and its kin, and PUBSUB: in the clients' order, with the servers' counts and words. */
#include "proxy/local.h"
#include "proxy/pubsub_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "resp/write.h"

/* The commands' words, which their confirmations repeat. */
static const char *const word[TOPIC_KINDS][2] = {
	[TOPIC_CHANNEL] = { "unsubscribe", "subscribe" },
	[TOPIC_PATTERN] = { "punsubscribe", "psubscribe" },
	[TOPIC_SHARD] = { "sunsubscribe", "ssubscribe" },
};

/* Channels and patterns are counted together, shard channels for themselves. */
static int64_t counted(const struct client *c, enum topic_kind kind)
{
	if (kind == TOPIC_SHARD)
		return pubsub_count(c, TOPIC_SHARD);
	return (int64_t)pubsub_count(c, TOPIC_CHANNEL) + pubsub_count(c, TOPIC_PATTERN);
}

static sds cat_confirmation(sds s, const struct client *c, enum topic_kind kind, bool subscribe, const struct slice *name)
{
	s = resp_cat_len(s, c->proto == 2 ? '*' : '>', 3);
	s = local_cat_text(s, word[kind][subscribe]);
	s = name ? resp_cat_bulk(s, *name) : resp_cat_null(s, c->proto);
	return resp_cat_len(s, ':', counted(c, kind));
}

/* --- SUBSCRIBE, PSUBSCRIBE, SSUBSCRIBE --- */

static struct req *confirmation_req(struct worker *w, struct client *c, sds text)
{
	struct req *r = req_new(w);

	r->reply_block = block_copy(text, sdslen(text));
	r->reply = r->reply_block->data;
	r->reply_len = sdslen(text);
	r->subscribes = true;
	client_await(c, r);
	r->silent = false; /* a message, not a reply */
	return r;
}

static void subscribe(struct worker *w, struct client *c, enum topic_kind kind, uint32_t argc)
{
	struct confirmation *wait = calloc(1, sizeof *wait);
	sds text = sdsempty();

	if (!c->pubsub)
		c->pubsub = calloc(1, sizeof *c->pubsub);
	if (!c->pubsub || !wait)
		abort();
	wait->ordinal = ++c->pubsub->asked;
	for (uint32_t i = 1; i < argc; i++) {
		struct topic *t = topic_get(w->pubsub, kind, w->argv[i]);
		topic_join(t, c);
		text = cat_confirmation(text, c, kind, true, &w->argv[i]);
		if (!ears_confirmed(t))
			topic_await(t, wait);
	}
	wait->req = confirmation_req(w, c, text);
	sdsfree(text);
	if (wait->left)
		return;
	client_done(w, wait->req);
	free(wait);
}

void local_subscribe(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	subscribe(w, c, TOPIC_CHANNEL, argc);
}

void local_psubscribe(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	subscribe(w, c, TOPIC_PATTERN, argc);
}

/* A cluster's client may name channels of one slot only. */
void local_ssubscribe(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	if (c->session && c->session->exec) {
		client_error(w, c, "ERR SSUBSCRIBE isn't allowed for a DENY BLOCKING client");
		return;
	}
	for (uint32_t i = 2; i < argc && local_identity(w).cluster; i++)
		if (slot_of(w->argv[i]) != slot_of(w->argv[1])) {
			client_error(w, c, "CROSSSLOT Keys in request don't hash to the same slot");
			return;
		}
	subscribe(w, c, TOPIC_SHARD, argc);
}

/* --- UNSUBSCRIBE, PUNSUBSCRIBE, SUNSUBSCRIBE --- */

static sds leave_all(sds s, struct client *c, enum topic_kind kind)
{
	while (c->pubsub->links[kind]) {
		struct topic *t = c->pubsub->links[kind]->topic;
		sds name = sdsdup(t->name);
		struct slice text = slice(name, sdslen(name));
		topic_leave(t, c);
		s = cat_confirmation(s, c, kind, false, &text);
		sdsfree(name);
	}
	return s;
}

/* Valkey 8.0, and no other, answered an error to who was not subscribed, at once in a transaction, too. */
bool local_refuses_unsubscribed(struct worker *w, struct client *c, const struct command *cmd)
{
	struct identity id = local_identity(w);
	bool leaves = cmd->local == LOCAL_UNSUBSCRIBE || cmd->local == LOCAL_PUNSUBSCRIBE || cmd->local == LOCAL_SUNSUBSCRIBE;

	if (!leaves || pubsub_is_subscribed(c) || !id.valkey || id.number < 0x080000 || id.number >= 0x080100)
		return false;
	client_error(w, c, "NOSUB '%s' command executed not in subscribed mode", cmd->name);
	return true;
}

static void unsubscribe(struct worker *w, struct client *c, enum topic_kind kind, const struct command *cmd, uint32_t argc)
{
	bool executed = c->session && c->session->exec;

	if (!executed && local_refuses_unsubscribed(w, c, cmd))
		return;
	sds s = sdsempty();
	for (uint32_t i = 1; i < argc; i++) {
		struct topic *t = topic_find(w->pubsub, kind, w->argv[i]);
		if (t)
			topic_leave(t, c);
		s = cat_confirmation(s, c, kind, false, &w->argv[i]);
	}
	if (argc == 1 && pubsub_count(c, kind))
		s = leave_all(s, c, kind);
	else if (argc == 1)
		s = cat_confirmation(s, c, kind, false, NULL);
	client_reply(w, c, s);
}

void local_unsubscribe(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	unsubscribe(w, c, TOPIC_CHANNEL, cmd, argc);
}

void local_punsubscribe(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	unsubscribe(w, c, TOPIC_PATTERN, cmd, argc);
}

void local_sunsubscribe(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	unsubscribe(w, c, TOPIC_SHARD, cmd, argc);
}

/* --- PUBSUB: about the clients of this proxy --- */

static void names(struct worker *w, struct client *c, enum topic_kind kind, uint32_t argc)
{
	if (argc > 3)
		client_error(w, c, "ERR unknown subcommand or wrong number of arguments for '%.*s'. Try PUBSUB HELP.", (int)w->argv[1].n, w->argv[1].p);
	else
		client_reply(w, c, receivers_cat_names(w->fleet->receivers, kind, argc == 3 ? &w->argv[2] : NULL, sdsempty()));
}

void local_pubsub_channels(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	names(w, c, TOPIC_CHANNEL, argc);
}

void local_pubsub_shardchannels(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	names(w, c, TOPIC_SHARD, argc);
}

static void numbers(struct worker *w, struct client *c, enum topic_kind kind, uint32_t argc)
{
	sds s = resp_cat_len(sdsempty(), '*', 2 * ((int64_t)argc - 2));

	for (uint32_t i = 2; i < argc; i++) {
		s = resp_cat_bulk(s, w->argv[i]);
		s = resp_cat_len(s, ':', receivers_subscribed(w->fleet->receivers, kind, w->argv[i]));
	}
	client_reply(w, c, s);
}

void local_pubsub_numsub(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	numbers(w, c, TOPIC_CHANNEL, argc);
}

void local_pubsub_shardnumsub(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	numbers(w, c, TOPIC_SHARD, argc);
}

void local_pubsub_numpat(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	client_reply(w, c, resp_cat_len(sdsempty(), ':', receivers_topics(w->fleet->receivers, TOPIC_PATTERN)));
}
