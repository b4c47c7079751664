#include "proxy/block.h"

#include <stdlib.h>
#include <string.h>

struct pool {
	struct block *free;
	unsigned n;
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
		pool->n--;
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

static void empty(struct pool *pool)
{
	while (pool->free) {
		struct block *b = pool->free;
		pool->free = b->next;
		free(b);
	}
	pool->n = 0;
}

void block_pool_release(void)
{
	empty(&small);
	empty(&large);
}
