/* A glance at a key of which a server told: is it gone? Most such keys have expired, on both sides in the same millisecond, thousands a second. To copy each through the
 * backfill worker would keep some key dirty at every moment, and cutover from ever finding none.
 *
 * It is the in-band copy of a key that is not there: PEXPIRETIME on the authority's data connection, DIRTY_READING meanwhile; if the key is gone the follower gets an UNLINK at
 * that very point of its order. A key that is there goes the way of the others. */
#include "proxy/engine_internal.h"

#include <assert.h>
#include <stdlib.h>

#include "resp/write.h"

#define MISSES_MAX 8   /* in a row: somebody writes past the proxy, few of these keys are gone */
#define MISSED_EVERY 16 /* then only some are looked at: it costs the authority a command */

struct glanced {
	struct engine *engine;
	keyhash hash;
	uint16_t slot, db;
	uint64_t bytes;  /* of the UNLINK at the follower */
	enum side follower;
	size_t len;
	char key[];
};

static struct slice key_of(const struct glanced *g)
{
	return slice(g->key, g->len);
}

static void on_unlinked(void *arg, const struct reply *r)
{
	struct glanced *g = arg;
	struct engine *e = g->engine;
	bool ok = r->p && !engine_reply_is_error(r);
	struct dirty_key *k = dirty_find(&e->dirty, g->hash);

	if (r->p && !ok)
		engine_follower_refused(e, g->follower, r);
	version_unpend(&e->versions, stripe_of(g->hash.low64));
	follower_acked(e, g->slot, g->bytes);
	if (!ok)
		mark_key(e, g->db, key_of(g), g->hash, g->slot, "the follower did not remove it");
	if (k)
		dirty_applied(e, k, ok);
	free(g);
}

/* Gone at the authority, at this point of its order: the follower's copy goes at the same point of the follower's. */
static void unlink_it(struct engine *e, struct glanced *g, struct dirty_key *k)
{
	struct slice words[2] = { SLICE_LIT("UNLINK"), key_of(g) };
	sds s = resp_cat_request(sdsempty(), 2, words);

	g->follower = slot_follower(e, g->slot);
	g->bytes = sdslen(s);
	known_remove(&e->foreign, g->hash); /* whoever makes it anew may be a client of ours */
	dirty_applying(e, k);
	follower_queued(e, g->slot, g->bytes);
	version_pend(&e->versions, stripe_of(g->hash.low64));
	e->io.send(e->io.ctx, g->follower, g->db, g->slot, NODE_NONE, s, sdslen(s), NULL, 1, on_unlinked, g);
	sdsfree(s);
}

static bool says_gone(const struct reply *r)
{
	return r->p && r->n >= 3 && memcmp(r->p, ":-2", 3) == 0;
}

static bool says_elsewhere(const struct reply *r)
{
	return (r->n > 7 && memcmp(r->p, "-MOVED ", 7) == 0) || (r->n > 5 && memcmp(r->p, "-ASK ", 5) == 0);
}

static void on_glance(void *arg, const struct reply *r)
{
	struct glanced *g = arg;
	struct engine *e = g->engine;
	struct slot_state *s = &e->slots[g->slot];
	uint16_t slot = g->slot;

	crowd_first(e, slot);
	struct dirty_key *k = dirty_find(&e->dirty, g->hash);
	assert(s->inflight > 0 && s->own > 0 && e->glances > 0);
	slot_replied(e, slot);
	s->own--;
	e->glances--;
	if (says_elsewhere(r)) /* its slot is moving: the node told that the key left it, and of nobody who writes it */
		known_remove(&e->foreign, g->hash);
	if (r->p)
		e->glance_misses = says_gone(r) ? 0 : e->glance_misses + 1;
	if (!k || k->state != DIRTY_READING) { /* a write set the whole value meanwhile, or mirroring was turned off */
		free(g);
	} else if (says_gone(r) && follower_takes(e, slot_follower(e, slot), slot)) {
		unlink_it(e, g, k);
	} else {
		if (r->p && !says_gone(r))
			strays_seen(e, slot, k->since_us);
		k->hint = false;
		dirty_set_state(&e->dirty, k, DIRTY_IDLE, 0);
		free(g);
	}
	authority_replied(e, slot);
	engine_wait_lift(e, slot, 0);
	gate_turn(e);
}

/* False: not now, or not worth it; the key is copied as any other. */
bool glance(struct engine *e, struct dirty_key *k)
{
	struct slot_state *s = &e->slots[k->slot];
	struct slice words[2] = { SLICE_LIT("PEXPIRETIME"), slice(k->key, k->len) };
	struct glanced *g;

	assert(k->state == DIRTY_IDLE);
	if (gate_is_shut(e) || e->glances >= ENGINE_GLANCES_MAX || (s->wait && s->wait->why & WAIT_RESEND)) /* it must not overtake what is sent again */
		return false;
	if (e->glance_misses >= MISSES_MAX && e->glance_misses++ % MISSED_EVERY)
		return false;
	g = calloc(1, sizeof *g + k->len);
	if (!g)
		abort();
	g->engine = e;
	g->slot = k->slot;
	g->len = k->len;
	memcpy(g->key, k->key, k->len);
	g->db = k->db;
	g->hash = k->hash;
	dirty_set_state(&e->dirty, k, DIRTY_READING, 0);
	slot_sent(e, k->slot, 1);
	s->own++;
	e->glances++;
	sds bytes = resp_cat_request(sdsempty(), 2, words);
	e->io.send(e->io.ctx, slot_authority(e, k->slot), k->db, k->slot, NODE_NONE, bytes, sdslen(bytes), NULL, 1, on_glance, g);
	sdsfree(bytes);
	return true;
}
