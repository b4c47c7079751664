/* NOLOOP: a client is not told of what its own writes changed.
 *
 * The servers tell which key changed, not who changed it. A push is put down to a client's own write only where nobody else can be behind it:
 *
 *   own write sent ──► its keys are noted, each may explain one push ──► answered ──► PING on every connection that is listened to ──► forgotten at the answers:
 *                                                                                     what the write caused has been told by then
 *   a write of anybody else, on any worker, from its sending to its answer, to a key of the same stripe in that time ──► doubt: the client is told
 *
 * So two pushes of a key for one own write are one of somebody else's; a key stays tracked until its writes are forgotten, though at a server it does not.
 * What stays hidden is the change by a writer that bypasses the proxy in the same moment: in the same cycle of the server as the own write, or while an own
 * write is under way that changes nothing. Scripts and blocking commands are nobody's own (scripts in BCAST mode at the servers, too).
 * fleet->changes is counted while anybody has NOLOOP: by the worker at which the write's client is, before it is sent and behind its answer. */
#include <assert.h>
#include <stdlib.h>
#include <xxhash.h>

#include "proxy/tracking_internal.h"
#include "resp/write.h"

struct own_write { /* of one client, to one key: those that are not forgotten yet */
	UT_hash_handle hh;
	uint32_t open;     /* so many */
	uint32_t explains; /* so many pushes */
	uint32_t begun;    /* of the stripe, if nobody else's write began meanwhile */
	uint16_t stripe;
	bool doubt;
	bool explained;    /* a push */
	bool read_again;   /* behind the write: the key goes on being tracked */
	size_t len;
	char name[];       /* the client's id, the key */
};

struct written { /* the keys of a request that writes, or of a transaction */
	struct worker *worker;
	uint32_t n, cap;
	uint32_t awaited;  /* answers to PINGs */
	struct { uint16_t stripe; sds own; } *keys; /* own: its name, or NULL */
};

/* --- what a client writes --- */

static sds name_of(uint64_t id, struct slice key)
{
	return sdscatlen(sdsnewlen(&id, sizeof id), key.p, key.n);
}

static struct own_write *find(struct tracking *x, uint64_t id, struct slice key)
{
	struct own_write *o = NULL;

	if (!x->own)
		return NULL;
	sds name = name_of(id, key);
	HASH_FIND(hh, x->own, name, sdslen(name), o);
	sdsfree(name);
	return o;
}

static void begin_own(struct worker *w, sds name, uint16_t stripe, uint32_t before, uint32_t ended)
{
	struct own_write *o;

	HASH_FIND(hh, w->tracking->own, name, sdslen(name), o);
	if (!o) {
		o = calloc(1, sizeof *o + sdslen(name));
		if (!o)
			abort();
		o->len = sdslen(name);
		memcpy(o->name, name, o->len);
		o->stripe = stripe;
		o->doubt = before != ended; /* somebody's write is under way */
		o->begun = before;
		HASH_ADD(hh, w->tracking->own, name, o->len, o);
	}
	o->doubt |= before != o->begun;
	o->begun = before + 1;
	o->open++;
	o->explains++;
	o->read_again = false;
}

static void add(struct worker *w, struct written *all, struct slice key, const uint64_t *own)
{
	uint16_t stripe = (uint16_t)(XXH3_64bits(key.p, key.n) % CHANGES_STRIPES);
	struct change_count *count = &w->fleet->changes[stripe];
	uint32_t ended = atomic_load(&count->ended); /* first: what ends in between is doubted */
	uint32_t before = atomic_fetch_add(&count->begun, 1);
	sds name = own ? name_of(*own, key) : NULL;

	if (all->n == all->cap) {
		all->cap = all->cap ? 2 * all->cap : 2;
		all->keys = realloc(all->keys, all->cap * sizeof *all->keys);
		if (!all->keys)
			abort();
	}
	all->keys[all->n].stripe = stripe;
	all->keys[all->n++].own = name;
	if (name)
		begin_own(w, name, stripe, before, ended);
}

void tracking_write_begins(struct worker *w, const struct client *c, struct req *r, const struct command *cmd, uint32_t argc)
{
	const struct tracker *t = c->session ? c->session->tracker : NULL;
	bool own = t && t->mode.noloop && !(cmd->flags & CMD_SCRIPT) && cmd->policy != POLICY_BLOCK;

	if (!dispatch_writes(cmd) || !cmd->nspecs)
		return;
	int n = tracking_keys(w, cmd, argc);
	for (int i = 0; i < n; i++) {
		if (w->keys[i].flags & KEY_RO)
			continue;
		if (!r->written && !(r->written = calloc(1, sizeof *r->written)))
			abort();
		add(w, r->written, w->argv[w->keys[i].index], own ? &c->id : NULL);
	}
}

/* --- its end --- */

/* As at the servers: who has changed a key himself does not track it any more, unless he has read it since. */
static void end_own(struct tracking *x, struct own_write *o)
{
	uint64_t id;

	memcpy(&id, o->name, sizeof id);
	if (o->explained && !o->explains && !o->doubt && !o->read_again)
		tracking_unread(x, id, slice(o->name + sizeof id, o->len - sizeof id));
	HASH_DEL(x->own, o);
	free(o);
}

static void forget(struct written *all)
{
	struct tracking *x = all->worker ? all->worker->tracking : NULL;

	for (uint32_t i = 0; i < all->n; i++) {
		struct own_write *o = NULL;
		sds name = all->keys[i].own;
		if (name && x)
			HASH_FIND(hh, x->own, name, sdslen(name), o);
		if (o && !--o->open)
			end_own(x, o);
		sdsfree(name);
	}
	free(all->keys);
	free(all);
}

static void on_told(void *arg, const struct reply *r)
{
	struct written *all = arg;

	(void)r; /* lost: a null invalidation comes */
	assert(all->awaited);
	if (!--all->awaited)
		forget(all);
}

void tracking_write_ended(struct worker *w, struct written *all)
{
	static const char ping[] = "*1\r\n$4\r\nPING\r\n";
	struct tracking *x = w->tracking;
	bool own = false;

	for (uint32_t i = 0; i < all->n; i++) {
		atomic_fetch_add(&w->fleet->changes[all->keys[i].stripe].ended, 1);
		own |= all->keys[i].own != NULL;
	}
	all->worker = w;
	all->awaited = 1; /* this loop */
	for (unsigned i = 0; own && x && i < x->side.n; i++) {
		if (!upstream_is_up(x->side.nodes[i]))
			continue;
		all->awaited++;
		upstream_send(x->side.nodes[i], UPSTREAM_ANY_DB, ping, sizeof ping - 1, NULL, 1, on_told, all);
	}
	if (!--all->awaited)
		forget(all);
}

void tracking_own_release(struct tracking *x)
{
	struct own_write *o, *next;

	HASH_ITER(hh, x->own, o, next) {
		HASH_DEL(x->own, o);
		free(o);
	}
}

/* --- what changed --- */

void tracking_read_again(struct tracking *x, uint64_t id, struct slice key)
{
	struct own_write *o = find(x, id, key);

	if (o)
		o->read_again = true;
}

bool tracking_is_own(struct tracking *x, const struct tracker *t, struct slice key)
{
	struct own_write *o = t->mode.noloop ? find(x, t->id, key) : NULL;

	if (!o)
		return false;
	o->doubt |= atomic_load(&x->worker->fleet->changes[o->stripe].begun) != o->begun;
	if (o->doubt || !o->explains)
		return false;
	o->explains--;
	o->explained = true;
	return true;
}
