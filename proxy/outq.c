#include "proxy/outq.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define IOV_MAX_TURN 64
#define CHUNK_POOL_MAX 4096

static _Thread_local struct outq_chunk *pool;
static _Thread_local unsigned pooled, pooled_least;

static struct outq_chunk *chunk_new(struct outq *q, struct block *b, const char *p, size_t n, bool own)
{
	struct outq_chunk *c = pool;

	if (c) {
		pool = c->next;
		if (--pooled < pooled_least)
			pooled_least = pooled;
	} else if (!(c = malloc(sizeof *c))) {
		abort();
	}
	*c = (struct outq_chunk){ .block = b, .p = p, .n = n, .own = own };
	if (q->tail)
		q->tail->next = c;
	else
		q->head = c;
	q->tail = c;
	return c;
}

static void chunk_drop(struct outq *q)
{
	struct outq_chunk *c = q->head;

	q->head = c->next;
	if (!q->head)
		q->tail = NULL;
	block_unref(c->block);
	if (pooled >= CHUNK_POOL_MAX) {
		free(c);
		return;
	}
	c->next = pool;
	pool = c;
	pooled++;
}

static void add_copy(struct outq *q, const char *p, size_t n)
{
	while (n) {
		struct outq_chunk *t = q->tail;
		if (!t || !t->own || t->block->used == t->block->cap) {
			struct block *b = block_new(n > BLOCK_SIZE ? n : BLOCK_SIZE);
			t = chunk_new(q, b, b->data, 0, true);
		}
		size_t room = t->block->cap - t->block->used;
		size_t take = n < room ? n : room;
		memcpy(t->block->data + t->block->used, p, take);
		t->block->used += take;
		t->n += take;
		p += take;
		n -= take;
	}
}

void outq_add(struct outq *q, const char *p, size_t n, struct block *holder)
{
	struct outq_chunk *t = q->tail;

	if (n == 0)
		return;
	q->bytes += n;
	if (holder && t && t->block == holder && t->p + t->n == p)
		t->n += n;
	else if (!holder || n <= OUTQ_COPY_MAX)
		add_copy(q, p, n);
	else
		chunk_new(q, block_ref(holder), p, n, false);
}

static void advance(struct outq *q, size_t n)
{
	q->bytes -= n;
	while (n) {
		struct outq_chunk *c = q->head;
		if (n < c->n) {
			c->p += n;
			c->n -= n;
			return;
		}
		n -= c->n;
		chunk_drop(q);
	}
}

ssize_t outq_write(struct outq *q, int fd, struct tls *tls)
{
	ssize_t total = 0;

	while (q->bytes) {
		struct iovec iov[IOV_MAX_TURN];
		int n = 0;
		size_t asked = 0;
		for (struct outq_chunk *c = q->head; c && n < IOV_MAX_TURN; c = c->next) {
			iov[n++] = (struct iovec){ (void *)c->p, c->n };
			asked += c->n;
		}
		ssize_t w = transport_writev(fd, tls, iov, n);
		if (w < 0) {
			if (errno == EINTR)
				continue;
			return errno == EAGAIN || errno == EWOULDBLOCK ? total : -1;
		}
		advance(q, (size_t)w);
		total += w;
		if ((size_t)w < asked && !tls) /* a record of TLS is less than what the socket takes */
			break;
	}
	return total;
}

void outq_join(struct outq *q, struct outq *behind)
{
	*(q->tail ? &q->tail->next : &q->head) = behind->head;
	if (behind->tail)
		q->tail = behind->tail;
	q->bytes += behind->bytes;
	*behind = (struct outq){ NULL, NULL, 0 };
}

void outq_clear(struct outq *q)
{
	while (q->head)
		chunk_drop(q);
	q->bytes = 0;
}

static size_t shrink(unsigned to)
{
	size_t freed = 0;

	for (; pooled > to; pooled--) {
		struct outq_chunk *c = pool;
		pool = c->next;
		freed += sizeof *c;
		free(c);
	}
	pooled_least = pooled;
	return freed;
}

size_t outq_pool_trim(void)
{
	return shrink(pooled - pooled_least);
}

void outq_pool_release(void)
{
	shrink(0);
}
