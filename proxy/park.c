#include "proxy/park.h"

#include <assert.h>
#include <stdlib.h>

/* --- deadlines: a heap --- */

static void heap_put(struct park *p, uint32_t at, struct waiter *w)
{
	p->heap[at] = w;
	w->heap_at = at;
}

static void heap_up(struct park *p, uint32_t at, struct waiter *w)
{
	for (uint32_t parent; at && p->heap[parent = (at - 1) / 2]->deadline_us > w->deadline_us; at = parent)
		heap_put(p, at, p->heap[parent]);
	heap_put(p, at, w);
}

static void heap_down(struct park *p, uint32_t at, struct waiter *w)
{
	for (uint32_t child; (child = 2 * at + 1) < p->heap_n; at = child) {
		if (child + 1 < p->heap_n && p->heap[child + 1]->deadline_us < p->heap[child]->deadline_us)
			child++;
		if (p->heap[child]->deadline_us >= w->deadline_us)
			break;
		heap_put(p, at, p->heap[child]);
	}
	heap_put(p, at, w);
}

static void heap_add(struct park *p, struct waiter *w)
{
	if (p->heap_n == p->heap_cap) {
		p->heap_cap = p->heap_cap ? 2 * p->heap_cap : 16;
		p->heap = realloc(p->heap, p->heap_cap * sizeof *p->heap);
		if (!p->heap)
			abort();
	}
	heap_up(p, p->heap_n++, w);
}

void park_no_deadline(struct park *p, struct waiter *w)
{
	if (!w->deadline_us)
		return;
	struct waiter *last = p->heap[--p->heap_n];
	assert(p->heap_n == w->heap_at || p->heap[w->heap_at] == w);
	if (last != w) {
		heap_down(p, w->heap_at, last);
		heap_up(p, last->heap_at, last);
	}
	w->deadline_us = 0;
}

struct waiter *park_expired(const struct park *p, int64_t now_us)
{
	return p->heap_n && p->heap[0]->deadline_us <= now_us ? p->heap[0] : NULL;
}

/* --- keys --- */

struct pkey *park_key(const struct park *p, enum park_kind kind, keyhash h)
{
	struct pkey *k;

	HASH_FIND(hh, p->keys[kind], &h, sizeof h, k);
	return k;
}

static struct pkey *key_get(struct park *p, enum park_kind kind, uint16_t db, struct slice name, uint16_t slot)
{
	keyhash h = keyhash_of(db, name);
	struct pkey *k = park_key(p, kind, h);

	if (k)
		return k;
	k = calloc(1, sizeof *k + name.n);
	if (!p->in_slot)
		p->in_slot = calloc(SLOTS, sizeof *p->in_slot);
	if (!k || !p->in_slot)
		abort();
	k->hash = h;
	k->kind = kind;
	k->slot = slot;
	k->db = db;
	if (db >= p->dbs)
		p->dbs = db + 1u;
	k->len = (uint32_t)name.n;
	memcpy(k->name, name.p, name.n);
	HASH_ADD(hh, p->keys[kind], hash, sizeof k->hash, k);
	p->in_slot[slot]++;
	return k;
}

void park_ready(struct park *p, struct pkey *k)
{
	if (k->ready)
		return;
	k->ready = true;
	k->ready_prev = p->ready_tail;
	k->ready_next = NULL;
	*(p->ready_tail ? &p->ready_tail->ready_next : &p->ready_head) = k;
	p->ready_tail = k;
}

static void unready(struct park *p, struct pkey *k)
{
	if (!k->ready)
		return;
	k->ready = false;
	*(k->ready_prev ? &k->ready_prev->ready_next : &p->ready_head) = k->ready_next;
	*(k->ready_next ? &k->ready_next->ready_prev : &p->ready_tail) = k->ready_prev;
}

struct pkey *park_next_ready(struct park *p)
{
	struct pkey *k = p->ready_head;

	if (k)
		unready(p, k);
	return k;
}

static void key_free(struct park *p, struct pkey *k)
{
	assert(!k->trying);
	unready(p, k);
	HASH_DEL(p->keys[k->kind], k);
	assert(p->in_slot[k->slot] > 0);
	p->in_slot[k->slot]--;
	free(k);
}

/* --- waiters --- */

struct place *park_place(struct waiter *w, const struct pkey *k)
{
	for (uint32_t i = 0; i < w->nplaces; i++)
		if (w->places[i].key == k)
			return &w->places[i];
	return NULL;
}

static void place_add(struct waiter *w, struct pkey *k, uint32_t index)
{
	struct place *at = &w->places[w->nplaces];

	if (park_place(w, k))
		return;
	*at = (struct place){ .prev = k->tail, .waiter = w, .key = k, .index = index };
	*(k->tail ? &k->tail->next : &k->head) = at;
	k->tail = at;
	w->nplaces++;
}

struct waiter *park_add(struct park *p, struct req *r, const struct blocking *b, const struct slice *keys, const uint16_t *slots, int64_t deadline_us)
{
	struct waiter *w = calloc(1, sizeof *w + b->nkeys * sizeof *w->places);

	if (!w)
		abort();
	w->req = r;
	w->call = *b;
	w->deadline_us = deadline_us;
	for (uint32_t i = 0; i < b->nkeys; i++)
		place_add(w, key_get(p, b->kind, r->db, keys[i], slots[i]), i);
	HASH_ADD_KEYPTR(hh, p->waiters, &w->req->ticket, sizeof w->req->ticket, w);
	if (deadline_us)
		heap_add(p, w);
	return w;
}

struct waiter *park_find(const struct park *p, uint64_t ticket)
{
	struct waiter *w;

	HASH_FIND(hh, p->waiters, &ticket, sizeof ticket, w);
	return w;
}

void park_forget_looks(struct waiter *w)
{
	for (uint32_t i = 0; w->looks && i < w->call.nkeys; i++) {
		block_unref(w->looks[i].block);
		block_unref(w->looks[i].reply_block);
	}
	free(w->looks);
	w->looks = NULL;
}

static void waiter_free(struct waiter *w)
{
	block_unref(w->try.block);
	park_forget_looks(w);
	for (uint32_t i = 0; w->ids && i < w->call.nkeys; i++)
		sdsfree(w->ids[i]);
	free(w->ids);
	free(w);
}

void park_remove(struct park *p, struct waiter *w)
{
	for (uint32_t i = 0; i < w->nplaces; i++) {
		struct place *at = &w->places[i];
		struct pkey *k = at->key;
		*(at->prev ? &at->prev->next : &k->head) = at->next;
		*(at->next ? &at->next->prev : &k->tail) = at->prev;
		if (!k->head)
			key_free(p, k);
	}
	park_no_deadline(p, w);
	HASH_DEL(p->waiters, w);
	waiter_free(w);
}

void park_release(struct park *p)
{
	while (p->waiters) {
		for (uint32_t i = 0; i < p->waiters->nplaces; i++)
			p->waiters->places[i].key->trying = NULL;
		park_remove(p, p->waiters);
	}
	free(p->heap);
	free(p->in_slot);
	*p = (struct park){ .heap = NULL };
}
