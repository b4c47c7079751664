/* outq.h - bytes waiting to be written to one socket, as slices of blocks, written with one writev per loop turn.
 *
 * Adjacent slices of one block are joined; small ones are copied behind each other (cheaper than a reference and an iovec entry),
 * larger ones are kept by reference. An empty queue holds no memory. Thread: the socket's. */
#ifndef CROSSFADE_OUTQ_H
#define CROSSFADE_OUTQ_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "net/transport.h"
#include "proxy/block.h"

#define OUTQ_COPY_MAX 512 /* up to this many bytes are copied */

struct outq_chunk {
	struct outq_chunk *next;
	struct block *block;
	const char *p;
	size_t n;
	bool own; /* the block was made by the queue: its tail is ours to fill */
};

struct outq {
	struct outq_chunk *head, *tail;
	size_t bytes;
};

void outq_add(struct outq *q, const char *p, size_t n, struct block *holder); /* holder NULL: always copied */
/* Writes what the socket takes now. >= 0: bytes written; -1: errno (EAGAIN is 0 bytes, not an error). tls NULL: plain. */
ssize_t outq_write(struct outq *q, int fd, struct tls *tls);
void outq_clear(struct outq *q);
void outq_join(struct outq *q, struct outq *behind); /* empties the second */
void outq_pool_release(void);
size_t outq_pool_trim(void); /* as block_pool_trim() */

static inline bool outq_empty(const struct outq *q)
{
	return q->bytes == 0;
}

#endif
