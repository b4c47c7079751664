/* block.h - memory for bytes in flight: blocks counted by reference, so that a request or reply is kept by a slice instead of a copy.
 *
 * Two sizes, BLOCK_SIZE and BLOCK_LARGE, come from a pool of the calling thread and go back to the pool of the thread that drops the last reference;
 * tiny and huge ones are malloc'd and freed. What a pool did not need since the last look is freed by block_pool_trim(). The count is atomic because a request travels between workers; the bytes are written by one thread only, before
 * a slice of them is given away. */
#ifndef CROSSFADE_BLOCK_H
#define CROSSFADE_BLOCK_H

#include <stdatomic.h>
#include <stddef.h>

#define BLOCK_SIZE (16 * 1024)
#define BLOCK_LARGE (64 * 1024)
#define BLOCK_TINY 2048     /* up to here: no more than asked for */
#define BLOCK_POOL_MAX 64   /* free blocks kept per thread and size: 5 MiB */

struct block {
	atomic_uint refs;
	size_t cap;
	size_t used; /* bytes written so far; the tail behind it is free for the writer */
	struct block *next;
	char data[];
};

struct block *block_new(size_t cap); /* at least cap bytes, one reference, used = 0 */
struct block *block_copy(const char *p, size_t n);
/* The same bytes with room for cap, more than now: of a huge one the pages move, no byte is copied. Nobody else has a reference; the old one is gone. */
struct block *block_grow(struct block *b, size_t cap);
void block_free(struct block *b);
void block_pool_release(void); /* at the end of a thread */
size_t block_pool_trim(void);  /* frees as many as lay unused since the last call; returns their bytes */

static inline struct block *block_ref(struct block *b)
{
	atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
	return b;
}

static inline void block_unref(struct block *b)
{
	if (b && atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) == 1)
		block_free(b);
}

/* Nobody else holds it: what was written may be overwritten. */
static inline int block_is_sole(struct block *b)
{
	return atomic_load_explicit(&b->refs, memory_order_acquire) == 1;
}

#endif
