#include "backfill/keyspace.h"

#include <string.h>

#include "backfill/internal.h"
#include "resp/parse.h"

struct keyspace_ask {
	struct backfill *b;
	keyspace_fn *fn; /* NULL: forgotten */
	void *arg;
	unsigned left;
	bool failed;
	struct keyspace k;
};

struct asked { /* of one node */
	struct keyspace_ask *ask;
	struct conn *conn;
};

/* A number, at most 18 digits of it; *p is behind it. */
static uint64_t number_at(const char **p, const char *end)
{
	uint64_t n = 0;

	for (unsigned digits = 0; *p < end && **p >= '0' && **p <= '9' && digits < 18; digits++)
		n = n * 10 + (uint64_t)(*(*p)++ - '0');
	return n;
}

void keyspace_each(struct slice info, void (*fn)(void *arg, unsigned db, uint64_t keys), void *arg)
{
	const char *p = info.p, *end = info.p + info.n;

	for (const char *next; p < end; p = next) {
		const char *eol = memchr(p, '\n', (size_t)(end - p));
		next = eol ? eol + 1 : end;
		if (next - p < 9 || memcmp(p, "db", 2) != 0 || p[2] < '0' || p[2] > '9')
			continue;
		p += 2;
		uint64_t db = number_at(&p, next);
		if (next - p < 7 || memcmp(p, ":keys=", 6) != 0 || db >= DBS_MAX)
			continue;
		p += 6;
		fn(arg, (unsigned)db, number_at(&p, next));
	}
}

static void on_database(void *arg, unsigned db, uint64_t keys)
{
	struct asked *a = arg;
	struct backfill *b = a->ask->b;
	struct keyspace *k = &a->ask->k;

	if (!b->topology[0] || !b->topology[1] || db >= b->topology[0]->databases || db >= b->topology[1]->databases) {
		k->beyond[a->conn->side] += keys;
		return;
	}
	db_set_add(&k->dbs, db);
	k->keys[a->conn->side] += keys;
}

static void part_done(struct keyspace_ask *ask)
{
	if (--ask->left)
		return;
	if (ask->fn)
		ask->fn(ask->arg, ask->failed ? NULL : &ask->k);
	free(ask);
}

static void on_keyspace(void *arg, struct slice reply, const char *why)
{
	struct asked *a = arg;
	struct resp_item item;

	a->conn->checking--;
	if (!reply.p)
		conn_was_lost(a->conn, why);
	if (!reply.p || !resp_item(reply.p, reply.p + reply.n, &item) || (item.type != '$' && item.type != '=')) {
		if (reply.p)
			scan_failing(a->conn->b, a->conn->side, reply);
		a->ask->failed = true;
	} else {
		keyspace_each(item.text, on_database, a);
	}
	part_done(a->ask);
	free(a);
}

static void ask_side(struct keyspace_ask *ask, enum side side)
{
	struct conns *cs = &ask->b->conns[side];

	for (unsigned i = 0; i < cs->n; i++) {
		if (!cs->list[i]) {
			ask->failed = true;
			continue;
		}
		struct asked *a = must(malloc(sizeof(*a)));
		*a = (struct asked){ ask, cs->list[i] };
		ask->left++;
		cs->list[i]->checking++;
		bulk_command(cs->list[i]->bulk, BULK_ANY_DB, on_keyspace, a, "INFO", "keyspace", NULL);
	}
}

struct keyspace_ask *keyspace_ask(struct backfill *b, bool both, keyspace_fn *fn, void *arg)
{
	struct keyspace_ask *ask = must(calloc(1, sizeof(*ask)));
	enum side authority = bf_authority(b, 0);

	*ask = (struct keyspace_ask){ .b = b, .fn = fn, .arg = arg };
	db_set_add(&ask->k.dbs, 0);
	ask_side(ask, authority);
	if (both)
		ask_side(ask, SIDE_OTHER(authority));
	assert(ask->left > 0); /* who asks has looked whether there is a node */
	return ask;
}

void keyspace_forget(struct keyspace_ask *a)
{
	if (a)
		a->fn = NULL;
}
