#include "proxy/dirty.h"

#include <assert.h>
#include <stdlib.h>

#define WAIT_STEPS_MAX 64

void dirty_init(struct dirty *d, size_t max)
{
	*d = (struct dirty){ .max = max };
}

void dirty_release(struct dirty *d)
{
	struct dirty_key *k, *next;

	HASH_ITER(hh, d->table, k, next) {
		HASH_DEL(d->table, k);
		free(k);
	}
	d->ready = d->delayed = (struct dirty_list){ NULL, NULL };
}

struct dirty_key *dirty_find(const struct dirty *d, keyhash h)
{
	struct dirty_key *k = NULL;

	if (d->table)
		HASH_FIND_BYHASHVALUE(hh, d->table, &h, sizeof h, (unsigned)(h.high64 >> 7), k);
	return k;
}

static struct dirty_list *list_of(struct dirty *d, const struct dirty_key *k)
{
	return k->due_us ? &d->delayed : &d->ready;
}

static void wait_insert(struct dirty *d, struct dirty_key *k)
{
	struct dirty_list *l = list_of(d, k);
	struct dirty_key *after = l->tail;

	for (unsigned steps = 0; after && after->due_us > k->due_us; steps++, after = after->prev) {
		if (steps == WAIT_STEPS_MAX) { /* among a million keys of different backoff its place is not worth finding: it waits as long as the last */
			after = l->tail;
			k->due_us = after->due_us;
			break;
		}
	}
	k->prev = after;
	k->next = after ? after->next : l->head;
	*(k->next ? &k->next->prev : &l->tail) = k;
	*(after ? &after->next : &l->head) = k;
}

static void wait_remove(struct dirty *d, struct dirty_key *k)
{
	struct dirty_list *l = list_of(d, k);

	*(k->prev ? &k->prev->next : &l->head) = k->next;
	*(k->next ? &k->next->prev : &l->tail) = k->prev;
	k->prev = k->next = NULL;
}

struct dirty_key *dirty_add(struct dirty *d, uint16_t db, struct slice key, keyhash h, uint16_t slot)
{
	struct dirty_key *k;

	if (dirty_count(d) >= d->max)
		return NULL;
	k = calloc(1, sizeof *k + key.n);
	if (!k)
		abort();
	k->slot = slot;
	k->db = db;
	k->hash = h;
	k->len = key.n;
	memcpy(k->key, key.p, key.n);
	HASH_ADD_KEYPTR_BYHASHVALUE(hh, d->table, &k->hash, sizeof k->hash, (unsigned)(h.high64 >> 7), k);
	wait_insert(d, k);
	return k;
}

void dirty_remove(struct dirty *d, struct dirty_key *k)
{
	if (k->state == DIRTY_IDLE)
		wait_remove(d, k);
	HASH_DEL(d->table, k);
	free(k);
}

void dirty_set_state(struct dirty *d, struct dirty_key *k, enum dirty_state state, int64_t due_us)
{
	if (k->state == DIRTY_IDLE)
		wait_remove(d, k);
	switch (state) {
	case DIRTY_COPYING:
		assert(k->state == DIRTY_IDLE);
		break;
	case DIRTY_READING:
		assert(k->state == DIRTY_IDLE || k->state == DIRTY_COPYING);
		break;
	case DIRTY_APPLYING:
	case DIRTY_IDLE:
		break;
	}
	k->state = state;
	k->due_us = due_us;
	if (state == DIRTY_IDLE)
		wait_insert(d, k);
}

struct dirty_key *dirty_due(const struct dirty *d, int64_t now_us)
{
	struct dirty_key *k = d->delayed.head;

	return k && k->due_us <= now_us ? k : d->ready.head;
}

int64_t dirty_age_us(const struct dirty *d, int64_t now_us)
{
	return d->table ? now_us - d->table->since_us + 1 : 0; /* the table's head was added first */
}
