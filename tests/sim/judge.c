/* What must hold: at each command of a client, at each flip, at each failover, and at the end. */
#include "sim.h"

#include <stdio.h>
#include <string.h>

#include "resp/keyhash.h"

#define SOON_MS 40 /* a key that ends about now may have ended on one side only */

/* Invariant 1, and 7: whatever happens to records and processes, no client is served by a side that is not the recorded authority. */
void judge_execution(struct world *w, enum side side, int tag, const struct wire *x)
{
	if (w->disk->authority[w->slot[tag]] != side)
		sim_fail(w, "the %s executes a client's command (%.*s...) for a slot that is recorded as the other side's", side_name(side),
			 (int)(x->n < 40 ? x->n : 40), x->bytes);
}

/* Whose it is, while that is known: an answer may end the request before all that was sent of it has arrived. */
void judge_sent(struct world *w, struct wire *x)
{
	const struct req *r = w->reqs;

	x->from = 0;
	while (r && r != x->arg)
		r = r->next;
	if (!r || !x->client)
		return;
	x->from = r->from;
	x->part = r->part;
	x->write = r->write;
}

/* A client's order holds for each key: nothing of it is executed behind a later write of its own. */
void judge_order(struct world *w, const struct wire *x, const struct slice *argv, uint32_t argc)
{
	for (uint32_t i = 1; i < argc; i++) {
		int key = key_index(w, argv[i]);
		if (key < 0)
			continue;
		uint32_t *last = &w->written[x->from - 1][key];
		if (x->part < *last)
			sim_fail(w, "%.*s %.*s is executed behind a later write of its client", (int)argv[0].n, argv[0].p, (int)argv[i].n, argv[i].p);
		if (x->write)
			*last = x->part;
	}
}

void judge_stray(struct world *w, enum side side, int tag)
{
	if (w->disk->authority[w->slot[tag]] != side)
		sim_fail(w, "a script on the %s writes a key of a slot that is recorded as the other side's", side_name(side));
}

static bool about_to_expire(struct world *w, const struct value *v)
{
	return v->type && v->expire_ms >= 0 && v->expire_ms < EPOCH_MS + w->now_us / 1000 + SOON_MS;
}

/* Invariant 7: at the moment of the flip the new authority has all that the former had. What bypassers did meanwhile cannot be promised. */
void judge_flip(struct world *w, const struct slot_set *slots, enum side to)
{
	struct cluster *new = &w->side[to], *old = &w->side[SIDE_OTHER(to)];
	char a[200], b[200];

	for (int key = 0; key < KEYS; key++) {
		int tag = tag_of(key);
		if (!slot_set_has(slots, w->slot[tag]) || authority_of(w, tag) == to)
			continue;
		struct server *from = node_with(old, key), *node = node_with(new, key);
		if (from->replaced_us >= w->fenced_since_us || from->replaced || w->hidden[key] || w->foreign_since[SIDE_OTHER(to)][key] || w->foreign_since[to][key] ||
		    about_to_expire(w, &from->data[key]) || about_to_expire(w, &node->data[key]))
			continue;
		if (!value_equal(&from->data[key], &node->data[key]))
			sim_fail(w, "flip to the %s: %s is %s there, and %s at the former authority", side_name(to), w->key[key],
				 value_show(&node->data[key], a, sizeof a), value_show(&from->data[key], b, sizeof b));
		if (node->own[key] > node->owed)
			node->owed = node->own[key];
	}
}

/* Race 3: what clients were told under the former authority must not be lost with a node of the new one. */
void judge_failover(struct world *w, const struct server *n)
{
	if (n->replica_offset < n->owed)
		sim_fail(w, "a failover loses writes that a flip took over");
}

void judge_hidden(struct world *w, int key)
{
	const struct value *a = &node_with(&w->side[SIDE_SOURCE], key)->data[key], *b = &node_with(&w->side[SIDE_TARGET], key)->data[key];

	if (w->hidden[key] && value_equal(a, b) &&
	    version_token(engine_versions(w->engine), stripe_of(keyhash_of(0, key_name(w, key)).low64), true) != VERSION_BUSY)
		w->hidden[key] = false;
}

static void counters_zero(struct world *w)
{
	const struct versions *v = engine_versions(w->engine);

	for (int key = 0; key < KEYS; key++) {
		uint32_t stripe = stripe_of(keyhash_of(0, key_name(w, key)).low64);
		if (version_token(v, stripe, true) == VERSION_BUSY)
			sim_fail(w, "%s is at rest, but its stripe is not: %u in flight, %u pending", w->key[key],
				 (unsigned)(atomic_load(&v->stripe[stripe].at) & VERSION_INFLIGHT_MASK), atomic_load(&v->stripe[stripe].pending));
	}
	if (atomic_load(&w->stats->queued) || atomic_load(&w->stats->queued_bytes))
		sim_fail(w, "at rest, but %llu effects are counted as queued", (unsigned long long)atomic_load(&w->stats->queued));
}

void judge_end(struct world *w)
{
	char a[200], b[200];

	engine_turn(w->engine);
	counters_zero(w);
	if (phases_record(w->phases)->phase < PHASE_BACKFILL)
		return; /* it never got under way */
	for (int key = 0; key < KEYS; key++) {
		struct value *v[SIDES];
		for (enum side s = SIDE_SOURCE; s < SIDES; s++)
			v[s] = &node_with(&w->side[s], key)->data[key];
		if (value_equal(v[0], v[1]) || w->hidden[key])
			continue;
		sim_fail(w, "%s differs at the end: %s on the source, %s on the target (%u flips, %u kills, the authority is the %s)", w->key[key],
			 value_show(v[0], a, sizeof a), value_show(v[1], b, sizeof b), w->flips, w->kills, side_name(authority_of(w, tag_of(key))));
	}
}
