/* newcomers.c - a node that joins the follower's cluster while the migration runs has no function libraries, unless who added it thought of them: it gets those of a node that was there
 * before. (Scripts are loaded by the proxy on every node that it connects to.) What the authority's nodes have is the business of who runs it. */
#include <string.h>

#include "backfill/internal.h"
#include "resp/parse.h"
#include "resp/write.h"

#define RETRY_S 0.5
#define TRIED_MAX 40 /* a service may forbid FUNCTION: then verify counts functions that differ */

struct newcomer {
	struct newcomer *next;
	struct backfill *b;
	enum side side;
	char name[sizeof((struct node){ 0 }.name)];
	double retry_at;
	unsigned tried;
	bool asked, done;
};

static bool has_name(const struct topology *t, const char *name)
{
	for (unsigned i = 0; i < t->nnodes; i++)
		if (strcmp(t->nodes[i].name, name) == 0)
			return true;
	return false;
}

static bool is_newcomer(const struct backfill *b, enum side side, const char *name)
{
	for (const struct newcomer *n = b->newcomers; n; n = n->next)
		if (n->side == side && strcmp(n->name, name) == 0)
			return true;
	return false;
}

void newcomers_topology(struct backfill *b, enum side side, const struct topology *before)
{
	const struct topology *t = b->topology[side];

	if (!before || !t->cluster || side == bf_authority(b, 0) || b->scan.stage < SCAN_COUNT) /* until then all of them are given functions */
		return;
	for (unsigned i = 0; i < t->nnodes; i++) {
		if (has_name(before, t->nodes[i].name) || is_newcomer(b, side, t->nodes[i].name))
			continue;
		struct newcomer *n = must(calloc(1, sizeof(*n)));
		*n = (struct newcomer){ .next = b->newcomers, .b = b, .side = side };
		memcpy(n->name, t->nodes[i].name, sizeof(n->name));
		b->newcomers = n;
	}
}

static void tried(struct newcomer *n, const char *why, size_t len)
{
	n->asked = false;
	n->retry_at = bf_now(n->b) + RETRY_S;
	n->done = ++n->tried == TRIED_MAX;
	if (n->done)
		n->b->host->log(n->b->host->ctx, BF_LOG_WARNING, "functions could not be copied to %s %s, which is new: %.*s", side_name(n->side), n->name, (int)len, why);
	bf_wake(n->b);
}

static void on_restored(void *arg, struct slice reply, const char *why)
{
	struct newcomer *n = arg;

	if (reply.p && reply.p[0] == '+')
		n->done = true;
	else
		tried(n, reply.p ? reply.p : why, reply.p ? reply.n - 2 : strlen(why));
}

static struct conn *conn_named(struct backfill *b, enum side side, const char *name)
{
	for (unsigned i = 0; i < b->conns[side].n; i++)
		if (b->conns[side].list[i] && strcmp(b->conns[side].list[i]->node.name, name) == 0)
			return b->conns[side].list[i];
	return NULL;
}

static void on_dumped(void *arg, struct slice reply, const char *why)
{
	struct newcomer *n = arg;
	struct conn *to = conn_named(n->b, n->side, n->name);
	struct resp_item payload = { 0 };

	if (!reply.p || !resp_item(reply.p, reply.p + reply.n, &payload) || payload.type != '$' || !to) {
		tried(n, reply.p ? reply.p : why, reply.p ? reply.n - 2 : strlen(why));
		return;
	}
	struct slice words[4] = { SLICE_LIT("FUNCTION"), SLICE_LIT("RESTORE"), payload.text, SLICE_LIT("REPLACE") };
	sds request = resp_cat_request(sdsempty(), 4, words);
	bulk_send(to->bulk, BULK_ANY_DB, request, sdslen(request), 1, on_restored, n);
	sdsfree(request);
}

/* A node that has been there longer. */
static struct conn *elder(struct backfill *b, enum side side)
{
	for (unsigned i = 0; i < b->conns[side].n; i++) {
		struct conn *c = b->conns[side].list[i];
		if (c && !c->lost && !is_newcomer(b, side, c->node.name))
			return c;
	}
	return NULL;
}

void newcomers_feed(struct backfill *b, double now)
{
	for (struct newcomer **at = &b->newcomers, *n; (n = *at);) {
		if (n->done || (!n->asked && !has_name(b->topology[n->side], n->name))) {
			*at = n->next;
			free(n);
			continue;
		}
		at = &n->next;
		struct conn *from = n->asked || now < n->retry_at ? NULL : elder(b, n->side);
		if (!from)
			continue;
		n->asked = true;
		bulk_command(from->bulk, BULK_ANY_DB, on_dumped, n, "FUNCTION", "DUMP", NULL);
	}
}

void newcomers_free(struct backfill *b)
{
	for (struct newcomer *n; (n = b->newcomers);) {
		b->newcomers = n->next;
		free(n);
	}
}
