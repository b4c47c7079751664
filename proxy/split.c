/* Commands that concern several slots or all nodes: parts of one slot each, sent through their owners, merged when the last has answered. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "proxy/client.h"
#include "proxy/cut.h"
#include "proxy/log.h"
#include "proxy/split.h"
#include "proxy/receivers.h"
#include "resp/slot.h"
#include "resp/write.h"

void split_add(struct worker *w, struct split *s, uint16_t slot, struct block *block, const char *bytes, size_t len)
{
	struct req *r = req_new(w);

	r->cmd = s->cmd;
	r->write = s->whole->write;
	r->once = s->whole->once;
	r->from = s->whole->from;
	r->split = s;
	r->part = s->parts;
	r->slot = slot;
	r->db = s->whole->db;
	r->block = block ? block_ref(block) : NULL;
	r->bytes = bytes;
	r->len = len;
	r->ahead = s->whole->again;
	s->part[s->parts++] = r;
}

/* --- by slot --- */

struct split *split_new(const struct command *cmd, struct req *whole, uint32_t parts_max)
{
	struct split *s = calloc(1, sizeof *s);

	if (!s || !(s->part = calloc(parts_max, sizeof *s->part)))
		abort();
	s->whole = whole;
	s->cmd = cmd;
	return s;
}

void split_submit(struct worker *w, struct split *s)
{
	s->left = s->parts;
	for (uint32_t i = 0; i < s->parts; i++)
		worker_submit(w, s->part[i]);
}

bool splits_evenly(const struct command *cmd, uint32_t argc)
{
	return (argc - command_first_key(cmd)) % (uint32_t)cmd->specs[0].b == 0;
}

/* `whole` stands in its client's order already. */
static void split_keys(struct worker *w, const struct command *cmd, uint32_t argc, struct req *whole)
{
	uint32_t first = command_first_key(cmd), step = (uint32_t)cmd->specs[0].b;
	uint32_t nkeys = (argc - first) / step;
	struct split *s = split_new(cmd, whole, nkeys < SLOTS ? nkeys : SLOTS);

	s->order = calloc(nkeys, sizeof *s->order);
	s->nkeys = nkeys;
	if (!s->order)
		abort();
	cut_request(w, s, first, step);
}

void split_request(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc, struct req *whole)
{
	if (!splits_evenly(cmd, argc)) {
		client_error(w, c, "ERR wrong number of arguments for '%s' command", cmd->name);
		req_free(w, whole);
		return;
	}
	client_enqueue(c, whole);
	c->hold = argc > CUT_SLICE; /* it may be cut in slices: what comes behind must not overtake it */
	split_keys(w, cmd, argc, whole);
}

/* It was on its way to a standalone server as one, and a flip to a cluster came between. */
void split_again(struct worker *w, struct req *whole)
{
	split_keys(w, whole->cmd, words_again(w, whole->bytes, whole->len), whole);
}

/* --- to every primary: one slot stands for each node --- */

/* Of every node that is the authority of some slots. */
static void ask_all(struct worker *w, struct client *c, const struct command *cmd, struct req *whole)
{
	unsigned n;
	const uint16_t *slots = keyspace_slots(w, &n);
	bool by_slot = cmd->merge == MERGE_COUNT && keyspace_is_divided(w);
	struct split *s = split_new(cmd, whole, 1 + (by_slot ? SLOTS : n ? n : 1));

	client_enqueue(c, whole);
	if (by_slot)
		keyspace_count(w, s);
	for (unsigned i = 0; !by_slot && i < n; i++)
		split_add(w, s, slots[i], whole->block, whole->bytes, whole->len);
	if (!s->parts)
		split_add(w, s, 0, whole->block, whole->bytes, whole->len);
	if (cmd->merge == MERGE_COUNT)
		keyspace_count_own(w, s);
	split_submit(w, s);
}

void fanout_request(struct worker *w, struct client *c, const struct command *cmd, struct req *whole)
{
	if (cmd->effect != EFFECT_BROADCAST) {
		ask_all(w, c, cmd, whole);
		return;
	}
	struct topology *t = w->topology[fleet_authority(w->fleet, 0)];
	struct split *s = split_new(cmd, whole, t && t->nnodes ? t->nnodes : 1);

	client_enqueue(c, whole);
	s->broadcast = engine_is_mirroring(w->engine);
	for (uint16_t n = 0; t && n < t->nnodes; n++) {
		for (unsigned slot = 0; slot < SLOTS; slot++) {
			if (t->slot_node[slot] != n)
				continue;
			split_add(w, s, (uint16_t)slot, whole->block, whole->bytes, whole->len);
			break;
		}
	}
	if (!s->parts)
		split_add(w, s, 0, whole->block, whole->bytes, whole->len);
	split_submit(w, s);
}

/* --- PUBLISH: one part, whose answer counts connections --- */

/* Channels without a slot are all published at one node: what a client publishes stays in its order, and is heard where it was published. */
void publish_request(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc, struct req *whole)
{
	struct split *s = split_new(cmd, whole, 1);

	(void)argc;
	client_enqueue(c, whole);
	whole->once = true;
	split_add(w, s, cmd->nspecs ? slot_of(w->argv[cmd->specs[0].begin_pos]) : 0, whole->block, whole->bytes, whole->len);
	split_submit(w, s);
}

static sds merge_receivers(struct worker *w, const struct split *s)
{
	const struct req *part = s->part[0];
	enum topic_kind kind = s->cmd->nspecs ? TOPIC_SHARD : TOPIC_CHANNEL;
	struct resp_item item;

	words_again(w, s->whole->bytes, s->whole->len);
	if (!resp_item(part->reply, part->reply + part->reply_len, &item) || item.type != ':')
		return sdsnewlen(part->reply, part->reply_len);
	return resp_cat_len(sdsempty(), ':', receivers_of(w->fleet->receivers, kind, w->argv[1], item.n));
}

/* --- what the follower gets, too --- */

static void on_broadcast(void *arg, const struct reply *r)
{
	const struct command *cmd = arg;

	if (!r->p || r->p[0] == '-')
		log_limited(LOG_WARNING, "a node of the follower did not take %s: %.*s", cmd->name, r->p ? (int)r->n - 2 : (int)strlen(r->why), r->p ? r->p : r->why);
}

static void broadcast(struct worker *w, const struct split *s)
{
	unsigned sent = 0;

	worker_send_all_nodes(w, SIDE_OTHER(fleet_authority(w->fleet, 0)), s->whole->bytes, s->whole->len, on_broadcast, (void *)s->cmd, &sent);
}

/* --- merging --- */

static const struct req *first_error(const struct split *s)
{
	for (uint32_t i = 0; i < s->parts; i++)
		if (s->part[i]->reply[0] == '-')
			return s->part[i];
	return NULL;
}

/* DBSIZE, without our own marker. */
static sds merge_count(const struct split *s)
{
	int64_t sum = 0;
	struct resp_item item;

	for (uint32_t i = 0; i < s->parts; i++)
		if (resp_item(s->part[i]->reply, s->part[i]->reply + s->part[i]->reply_len, &item) && item.type == ':')
			sum += s->own && i + 1 == s->parts ? -item.n : item.n;
	return resp_cat_len(sdsempty(), ':', sum > 0 ? sum : 0);
}

static sds merge_sum(const struct split *s)
{
	int64_t sum = 0;
	struct resp_item item;

	for (uint32_t i = 0; i < s->parts; i++)
		if (resp_item(s->part[i]->reply, s->part[i]->reply + s->part[i]->reply_len, &item) && item.type == ':')
			sum += item.n;
	return resp_cat_len(sdsempty(), ':', sum);
}

/* Each part's array has its keys' elements in the order in which the request had them: one cursor per part. */
static sds merge_array(const struct split *s)
{
	const char **at = calloc(s->parts, sizeof *at);
	sds out = resp_cat_len(sdsempty(), '*', s->nkeys);
	struct resp_item item;
	size_t all = 0;

	if (!at)
		abort();
	for (uint32_t i = 0; i < s->parts; i++)
		all += s->part[i]->reply_len;
	out = sdsMakeRoomFor(out, all);
	for (uint32_t i = 0; i < s->parts; i++)
		at[i] = s->part[i]->reply + resp_item(s->part[i]->reply, s->part[i]->reply + s->part[i]->reply_len, &item);
	for (uint32_t i = 0; i < s->nkeys; i++) {
		const struct req *p = s->part[s->order[i]];
		size_t n = resp_value_len(at[s->order[i]], p->reply + p->reply_len);
		out = sdscatlen(out, at[s->order[i]], n);
		at[s->order[i]] += n;
	}
	free(at);
	return out;
}

static sds merge_lists(const struct split *s)
{
	sds lists = sdsempty();
	struct resp_item head;
	int64_t n = 0;

	for (uint32_t i = 0; i < s->parts; i++) {
		const struct req *p = s->part[i];
		size_t at = resp_item(p->reply, p->reply + p->reply_len, &head);
		lists = sdscatlen(lists, p->reply + at, p->reply_len - at);
		n += head.n;
	}
	sds out = sdscatsds(resp_cat_len(sdsempty(), '*', n), lists);
	sdsfree(lists);
	return out;
}

static sds merge_and(const struct split *s)
{
	struct resp_item head, item;
	const struct req *f = s->part[0];
	sds out;

	resp_item(f->reply, f->reply + f->reply_len, &head);
	out = resp_cat_len(sdsempty(), '*', head.n);
	for (int64_t i = 0; i < head.n; i++) {
		int64_t least = 1;
		for (uint32_t k = 0; k < s->parts; k++) {
			const char *q = s->part[k]->reply, *e = q + s->part[k]->reply_len;
			q += resp_item(q, e, &item);
			for (int64_t skip = 0; skip <= i; skip++)
				q += resp_item(q, e, &item);
			least = item.n < least ? item.n : least;
		}
		out = resp_cat_len(out, ':', least);
	}
	return out;
}

static sds merged(struct worker *w, const struct split *s)
{
	const struct req *r = first_error(s);

	if (r)
		return sdsnewlen(r->reply, r->reply_len);
	switch ((enum cmd_merge)s->cmd->merge) {
	case MERGE_SUM:
		return merge_sum(s);
	case MERGE_COUNT:
		return merge_count(s);
	case MERGE_ARRAY:
		return merge_array(s);
	case MERGE_AND:
		return merge_and(s);
	case MERGE_LISTS:
		return merge_lists(s);
	case MERGE_KEYS:
		return keyspace_merge_keys(w, s);
	case MERGE_RANDOM:
		return keyspace_merge_random(w, s);
	case MERGE_SCAN:
		return keyspace_merge_scan(w, s);
	case MERGE_RECEIVERS:
		return merge_receivers(w, s);
	case MERGE_NONE:
	case MERGE_ALL_OK:
	case MERGE_FIRST:
		break;
	}
	return sdsnewlen(s->part[0]->reply, s->part[0]->reply_len);
}

void split_free(struct split *s)
{
	free(s->part);
	free(s->order);
	free(s);
}

void split_part_done(struct worker *w, struct req *part)
{
	struct split *s = part->split;
	struct req *whole = s->whole;

	assert(s->left > 0);
	if (--s->left)
		return;
	if (s->broadcast && !first_error(s))
		broadcast(w, s);
	sds out = merged(w, s);
	whole->reply_block = block_copy(out, sdslen(out));
	whole->reply = whole->reply_block->data;
	whole->reply_len = sdslen(out);
	sdsfree(out);
	for (uint32_t i = 0; i < s->parts; i++)
		req_free(w, s->part[i]);
	split_free(s);
	client_done(w, whole);
}
