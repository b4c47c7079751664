/* conns.c - one bulk connection per node and side, replaced when the node behind a name is another one. */
#include "backfill/internal.h"

#include <string.h>

#include "backfill/compare.h"
#include "resp/parse.h"

#define CONNECT_TIMEOUT_S 5.
#define REPLY_TIMEOUT_S 30.
#define LOST_PAUSE_S 0.25
#define GATHER_KEEP (1u << 20)

bool node_same(const struct node *a, const struct node *b)
{
	/* An unknown run_id may become known; a known one that changes is another process: cursors and replies of the old one are void. */
	return strcmp(a->name, b->name) == 0 && strcmp(a->id, b->id) == 0 && a->addr_len == b->addr_len &&
	       memcmp(&a->addr, &b->addr, a->addr_len) == 0 &&
	       (!a->run_id[0] || !b->run_id[0] || strcmp(a->run_id, b->run_id) == 0);
}

static struct conn *conn_new(struct backfill *b, enum side side, const struct node *node)
{
	struct conn *c = must(calloc(1, sizeof(*c)));
	struct bulk_options o = { .addr = node->addr, .addr_len = node->addr_len, .connect_timeout_s = CONNECT_TIMEOUT_S,
				  .reply_timeout_s = REPLY_TIMEOUT_S };

	c->b = b;
	c->side = side;
	c->node = *node;
	snprintf(c->title, sizeof(c->title), "%s %s", side_name(side), node->name);
	memcpy(o.name, c->title, sizeof(o.name));
	o.user = b->config.access[side].user;
	o.password = b->config.access[side].password;
	o.tls = b->config.access[side].tls;
	memcpy(o.node, node->name, sizeof(o.node));
	c->bulk = bulk_new(b->loop, &o);
	c->gathered = sdsempty();
	queue_init(&c->urgent);
	queue_init(&c->work);
	return c;
}

/* What stood in its queues is queued anew, what it owed is answered as lost; so it must have left the set before. */
static void conn_end(struct conn *c)
{
	struct backfill *b = c->b;

	c->dying = true;
	pipeline_requeue(b, &c->urgent);
	pipeline_requeue(b, &c->work);
	bulk_free(c->bulk);
	if (c->pass)
		pass_abandon(c->pass); /* it waited for room, not for a reply */
	assert(c->reading == 0 && c->listing == 0 && c->checking == 0);
	sdsfree(c->gathered);
	free(c);
}

struct conn *conn_of(struct backfill *b, enum side side, uint16_t slot)
{
	const struct topology *t = b->topology[side];
	uint16_t n;

	if (!t)
		return NULL;
	n = t->cluster ? t->slot_node[slot] : 0;
	return n < b->conns[side].n ? b->conns[side].list[n] : NULL;
}

void conns_rebuild(struct backfill *b, enum side side)
{
	struct conns old = b->conns[side], new = { NULL, 0 };
	const struct topology *t = b->topology[side];

	new.n = t ? t->nnodes : 0;
	new.list = must(calloc(new.n ? new.n : 1, sizeof(*new.list)));
	for (unsigned i = 0; i < new.n; i++) {
		if (t->nodes[i].addr_len == 0)
			continue;
		for (unsigned j = 0; j < old.n && !new.list[i]; j++) {
			if (!old.list[j] || !node_same(&old.list[j]->node, &t->nodes[i]))
				continue;
			new.list[i] = old.list[j];
			old.list[j] = NULL;
			if (t->nodes[i].run_id[0])
				new.list[i]->node = t->nodes[i];
		}
		if (!new.list[i])
			new.list[i] = conn_new(b, side, &t->nodes[i]);
	}
	b->conns[side] = new;
	for (unsigned j = 0; j < old.n; j++)
		if (old.list[j])
			conn_end(old.list[j]);
	free(old.list);
	for (unsigned i = 0; i < new.n; i++) {
		/* Keys of slots that went elsewhere must not wait in the old place. */
		struct conn *c = new.list[i];
		if (c && c->urgent.n)
			pipeline_requeue(b, &c->urgent);
		if (c && c->work.n)
			pipeline_requeue(b, &c->work);
	}
}

void conns_free(struct backfill *b, enum side side)
{
	struct conns old = b->conns[side];

	b->conns[side] = (struct conns){ NULL, 0 };
	for (unsigned i = 0; i < old.n; i++)
		if (old.list[i])
			conn_end(old.list[i]);
	free(old.list);
}

/* Connections that are there stay, as servers let them. */
void conns_password(struct backfill *b, enum side side)
{
	for (unsigned i = 0; i < b->conns[side].n; i++)
		if (b->conns[side].list[i])
			bulk_set_password(b->conns[side].list[i]->bulk, b->config.access[side].password);
}

struct conn *conns_any(struct backfill *b, enum side side)
{
	double now = bf_now(b);

	for (unsigned i = 0; i < b->conns[side].n; i++) {
		struct conn *c = b->conns[side].list[i];
		if (c && conn_ready(c, now))
			return c;
	}
	return NULL;
}

bool conns_usable(struct backfill *b, enum side side)
{
	for (unsigned i = 0; i < b->conns[side].n; i++)
		if (b->conns[side].list[i] && !b->conns[side].list[i]->lost)
			return true;
	return false;
}

void conn_was_lost(struct conn *c, const char *why)
{
	/* Once per loss, though every request that was awaited tells it. */
	if (!c->lost && !c->dying && bf_may_log(c->b, LOGK_LOST))
		c->b->host->log(c->b->host->ctx, BF_LOG_WARNING, "backfill connection lost: %s", why);
	c->lost = true;
	c->ngathered = 0;
	sdsclear(c->gathered);
	c->down_until = bf_now(c->b) + LOST_PAUSE_S;
	bf_wake(c->b);
}

bool conn_gather(struct conn *c, struct slice reply, unsigned want, struct slice *replies)
{
	assert(want > 0 && want <= REPLIES_MAX && c->ngathered < want);
	c->lost = false;
	if (c->ngathered + 1 < want) {
		c->at[c->ngathered].off = sdslen(c->gathered);
		c->at[c->ngathered].len = reply.n;
		c->ngathered++;
		c->gathered = must(sdscatlen(c->gathered, reply.p, reply.n));
		return false;
	}
	for (unsigned i = 0; i < c->ngathered; i++)
		replies[i] = slice(c->gathered + c->at[i].off, c->at[i].len);
	replies[c->ngathered] = reply;
	c->ngathered = 0;
	if (sdsalloc(c->gathered) > GATHER_KEEP && sdslen(c->gathered) < GATHER_KEEP / 2) {
		/* The slices given away point into it: shrinking waits for a small reply, whose slices are re-based. */
		sds small = must(sdsnewlen(c->gathered, sdslen(c->gathered)));
		for (unsigned i = 0; i + 1 < want; i++)
			replies[i].p = small + (replies[i].p - c->gathered);
		sdsfree(c->gathered);
		c->gathered = small;
	}
	/* Only the length is reset; the bytes stay where replies[] points until the next reply comes. */
	sdssetlen(c->gathered, 0);
	return true;
}

void conn_saw(struct conn *c, enum recipe r, enum recipe_result result, struct slice value)
{
	struct resp_item item;

	if (result == RECIPE_RETYPE) {
		c->short_strings = 0;
	} else if (result == RECIPE_OK && r == RECIPE_DUMP && c->short_strings < SHORT_ROW) {
		bool is = value.n < SHORT_STRING && resp_item(value.p, value.p + value.n, &item) && item.type == '$' &&
			  payload_type_recipe(item.text) == RECIPE_STRING;
		c->short_strings = is ? c->short_strings + 1 : 0;
	}
}

struct receiver receiver_of(const struct backfill *b, enum side side)
{
	const struct topology *t = b->topology[side];

	return t ? (struct receiver){ t->product, t->version } : (struct receiver){ PRODUCT_REDIS, 0x070000 };
}

enum reply_error reply_error(struct slice reply)
{
	static const struct {
		const char *word;
		enum reply_error e;
	} words[] = {
		{ "MOVED ", REPLY_ELSEWHERE }, { "ASK ", REPLY_ELSEWHERE }, { "TRYAGAIN", REPLY_ELSEWHERE },
		{ "CLUSTERDOWN", REPLY_ELSEWHERE }, { "CROSSSLOT", REPLY_ELSEWHERE }, { "LOADING", REPLY_LATER },
		{ "BUSY ", REPLY_LATER }, { "MASTERDOWN", REPLY_LATER }, { "READONLY", REPLY_ELSEWHERE }, { "OOM", REPLY_LATER },
	};
	struct slice text = { reply.p + 1, reply.n - 1 };
	struct resp_item item;

	if (reply.n == 0 || (reply.p[0] != '-' && reply.p[0] != '!'))
		return REPLY_FINE;
	if (reply.p[0] == '!' && resp_item(reply.p, reply.p + reply.n, &item))
		text = item.text;
	for (unsigned i = 0; i < sizeof(words) / sizeof(*words); i++) {
		size_t n = strlen(words[i].word);
		if (text.n >= n && memcmp(text.p, words[i].word, n) == 0)
			return words[i].e;
	}
	return REPLY_WRONG;
}

const char *reply_text(struct slice reply, char *out, size_t n)
{
	struct resp_item item;

	out[0] = '\0';
	if (resp_item(reply.p, reply.p + reply.n, &item) && item.text.p)
		snprintf(out, n, "%.*s", (int)(item.text.n < 160 ? item.text.n : 160), item.text.p);
	return out;
}

bool reply_int(struct slice reply, int64_t *n)
{
	struct resp_item item;

	if (!resp_item(reply.p, reply.p + reply.n, &item) || item.type != ':')
		return false;
	*n = item.n;
	return true;
}
