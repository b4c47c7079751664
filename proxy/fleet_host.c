/* The backfill worker's host functions: what it asks of the owners of slots, all but two of them by message. */
#include <stdlib.h>
#include <string.h>

#include "proxy/fleet.h"
#include "proxy/lines.h"
#include "proxy/worker.h"
#include "resp/keyhash.h"

uint64_t fleet_token(struct fleet *f, keyhash key, uint16_t slot, bool quiet)
{
	return version_token(engine_versions(f->workers[f->owner[slot]].engine), stripe_of(key.low64), quiet);
}

void fleet_fetch_token(struct fleet *f, keyhash key, uint16_t slot)
{
	fetch_lines(version_at(engine_versions(f->workers[f->owner[slot]].engine), stripe_of(key.low64)), 1);
}

enum side fleet_authority(struct fleet *f, uint16_t slot)
{
	return engine_authority(f->workers[f->owner[slot]].engine, slot);
}

static void take_copy(void *arg)
{
	struct copy *c = arg;
	struct worker *w = c->owner;

	engine_copy(w->engine, c);
}

#define OFFERS_MAX 2048 /* copies on their way to one owner */

bool fleet_offer(struct fleet *f, struct copy *c)
{
	unsigned from = THREAD_BACKFILL(f->nworkers), to = f->owner[c->slot];

	if (mailbox_backlog(f->mail, to, from) >= OFFERS_MAX)
		return false;
	c->owner = &f->workers[to];
	mailbox_post_about(f->mail, to, from, take_copy, c, version_at(engine_versions(f->workers[to].engine), stripe_of(c->hash.low64)));
	return true;
}

struct about_slot {
	struct worker *w;
	uint16_t slot, db;
	unsigned max_ms;
	size_t n;
	char key[];
};

static void post_key(struct fleet *f, mail_fn *fn, unsigned worker, uint16_t db, struct slice key, uint16_t slot, unsigned max_ms)
{
	struct about_slot *a = malloc(sizeof *a + key.n);

	if (!a)
		abort();
	*a = (struct about_slot){ .w = &f->workers[worker], .slot = slot, .db = db, .max_ms = max_ms, .n = key.n };
	if (key.n)
		memcpy(a->key, key.p, key.n);
	mailbox_post(f->mail, worker, THREAD_BACKFILL(f->nworkers), fn, a);
}

static void post_slot(struct fleet *f, mail_fn *fn, unsigned worker, uint16_t slot, unsigned max_ms)
{
	post_key(f, fn, worker, 0, slice(NULL, 0), slot, max_ms);
}

static void do_mark(void *arg)
{
	struct about_slot *a = arg;

	engine_mark(a->w->engine, a->db, slice(a->key, a->n), a->slot);
	free(a);
}

bool fleet_mark(struct fleet *f, uint16_t db, struct slice key, uint16_t slot)
{
	unsigned to = f->owner[slot];

	if (mailbox_backlog(f->mail, to, THREAD_BACKFILL(f->nworkers)) >= OFFERS_MAX)
		return false;
	post_key(f, do_mark, to, db, key, slot, 0);
	return true;
}

static void do_hold(void *arg)
{
	struct about_slot *a = arg;

	engine_hold(a->w->engine, a->slot, a->max_ms);
	free(a);
}

void fleet_hold(struct fleet *f, uint16_t slot, unsigned max_ms)
{
	post_slot(f, do_hold, f->owner[slot], slot, max_ms);
}

static void do_release(void *arg)
{
	struct about_slot *a = arg;

	engine_release(a->w->engine, a->slot);
	free(a);
}

void fleet_release(struct fleet *f, uint16_t slot)
{
	post_slot(f, do_release, f->owner[slot], slot, 0);
}

static void do_follow(void *arg)
{
	struct about_slot *a = arg;

	engine_follow(a->w->engine, a->db, slice(a->key, a->n));
	free(a);
}

void fleet_follow(struct fleet *f, uint16_t db, struct slice key, uint16_t slot)
{
	post_key(f, do_follow, f->owner[slot], db, key, slot, 0);
}

static void do_changes(void *arg)
{
	struct about_slot *a = arg;

	engine_changes(a->w->engine, a->slot);
	free(a);
}

void fleet_changes(struct fleet *f, uint16_t slot)
{
	post_slot(f, do_changes, f->owner[slot], slot, 0);
}

struct read_order {
	struct worker *w;
	uint16_t slot;
	unsigned replies;
	sds request;
};

static void do_read_followed(void *arg)
{
	struct read_order *o = arg;

	engine_read_followed(o->w->engine, o->slot, slice(o->request, sdslen(o->request)), o->replies);
	sdsfree(o->request);
	free(o);
}

void fleet_read_followed(struct fleet *f, uint16_t slot, sds request, unsigned replies)
{
	struct read_order *o = malloc(sizeof *o);

	if (!o)
		abort();
	*o = (struct read_order){ &f->workers[f->owner[slot]], slot, replies, request };
	mailbox_post(f->mail, f->owner[slot], THREAD_BACKFILL(f->nworkers), do_read_followed, o);
}

static void do_slot_done(void *arg)
{
	struct about_slot *a = arg;

	engine_slot_done(a->w->engine, a->slot);
	free(a);
}

static void do_slot_clean(void *arg)
{
	struct about_slot *a = arg;

	engine_slot_clean(a->w->engine, a->slot);
	free(a);
}

static void to_owners(struct fleet *f, mail_fn *fn, uint16_t slot)
{
	for (unsigned i = 0; i < f->nworkers; i++)
		if (slot == SLOTS || f->owner[slot] == i)
			post_slot(f, fn, i, slot, 0);
}

void fleet_slot_done(struct fleet *f, uint16_t slot)
{
	to_owners(f, do_slot_done, slot);
}

void fleet_slot_clean(struct fleet *f, uint16_t slot)
{
	to_owners(f, do_slot_clean, slot);
}

void fleet_latency(struct fleet *f, enum side side, uint64_t *requests, uint64_t *us)
{
	*requests = *us = 0;
	for (unsigned i = 0; i < f->nworkers; i++) {
		const struct latency *l = &f->stats[i].latency[side];
		*requests += atomic_load_explicit(&l->requests, memory_order_acquire);
		*us += atomic_load_explicit(&l->us, memory_order_relaxed);
	}
}
