#include "proxy/block.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct pool {
	struct block *free;
	unsigned n;
	unsigned least; /* that were free at one time since the last trim */
};

static _Thread_local struct pool small, large;

static struct pool *pool_of(size_t cap)
{
	return cap == BLOCK_SIZE ? &small : cap == BLOCK_LARGE ? &large : NULL;
}

/* Memory that cannot be had ends the process: every path that could shed load has done so before (limits in the config). */
static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

struct block *block_new(size_t cap)
{
	struct block *b;
	struct pool *pool;

	if (cap > BLOCK_TINY && cap <= BLOCK_LARGE)
		cap = cap <= BLOCK_SIZE ? BLOCK_SIZE : BLOCK_LARGE;
	pool = pool_of(cap);
	if (pool && pool->free) {
		b = pool->free;
		pool->free = b->next;
		if (--pool->n < pool->least)
			pool->least = pool->n;
	} else {
		b = must(malloc(sizeof *b + cap));
		b->cap = cap;
	}
	atomic_store_explicit(&b->refs, 1, memory_order_relaxed);
	b->used = 0;
	b->next = NULL;
	return b;
}

struct block *block_copy(const char *p, size_t n)
{
	struct block *b = block_new(n);

	memcpy(b->data, p, n);
	b->used = n;
	return b;
}

struct block *block_grow(struct block *b, size_t cap)
{
	assert(block_is_sole(b) && cap > b->cap);
	if (b->cap <= BLOCK_LARGE) {
		struct block *bigger = block_new(cap);
		memcpy(bigger->data, b->data, b->used);
		bigger->used = b->used;
		block_unref(b);
		return bigger;
	}
	b = must(realloc(b, sizeof *b + cap));
	b->cap = cap;
	return b;
}

void block_free(struct block *b)
{
	struct pool *pool = pool_of(b->cap);

	if (!pool || pool->n >= BLOCK_POOL_MAX) {
		free(b);
		return;
	}
	b->next = pool->free;
	pool->free = b;
	pool->n++;
}

static size_t shrink(struct pool *pool, unsigned to)
{
	size_t freed = 0;

	while (pool->n > to) {
		struct block *b = pool->free;
		pool->free = b->next;
		pool->n--;
		freed += sizeof *b + b->cap;
		free(b);
	}
	pool->least = pool->n;
	return freed;
}

size_t block_pool_trim(void)
{
	return shrink(&small, small.n - small.least) + shrink(&large, large.n - large.least);
}

void block_pool_release(void)
{
	shrink(&small, 0);
	shrink(&large, 0);
}
