#include "proxy/mailbox.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "proxy/lines.h"

#define RING_SIZE 4096 /* entries; a power of two */
#define AGAIN_S 0.001
#define FETCH_EARLY 4 /* letters: what they are about is in another core's cache (lines.h) */
#define FETCH_BYTES 256 /* of a request what all look at */

struct mail {
	mail_fn *fn;
	void *arg;
	const void *about;
};

/* One sender, one receiver. Entries [head, tail) are published; the sender fills behind tail up to `filled` and publishes at its flush. */
struct ring {
	_Alignas(64) _Atomic uint32_t head; /* moved by the receiver */
	_Alignas(64) _Atomic uint32_t tail; /* moved by the sender */
	uint32_t filled;                    /* the sender's own */
	struct mail *over;                  /* what did not fit, in order */
	size_t over_n, over_cap, over_first;
	struct mail at[RING_SIZE];
};

struct box {
	struct ev_loop *loop;
	ev_io wake;
	ev_prepare flush;
	ev_timer again; /* keeps the loop from sleeping long while something is over */
	int fd;
	_Atomic bool notified; /* a wake-up is under way: no second one is written */
	struct mailboxes *all;
	unsigned self;
};

struct mailboxes {
	unsigned n;
	struct box *boxes;
	_Atomic(struct ring *) *rings; /* [from * n + to], made by the sender at its first post */
};

static struct ring *ring_of(const struct mailboxes *m, unsigned from, unsigned to)
{
	return atomic_load_explicit(&m->rings[from * m->n + to], memory_order_acquire);
}

struct mailboxes *mailboxes_new(unsigned threads)
{
	struct mailboxes *m = calloc(1, sizeof *m);

	m->n = threads;
	m->boxes = calloc(threads, sizeof *m->boxes);
	m->rings = calloc((size_t)threads * threads, sizeof *m->rings);
	for (unsigned i = 0; i < threads; i++) {
		struct box *b = &m->boxes[i];
		b->all = m;
		b->self = i;
		b->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		if (b->fd < 0)
			abort();
	}
	return m;
}

/* What was posted to a thread that had ended is nobody's to run or free: it stays where it is until the process ends. */
static struct mailboxes *unread;

static bool has_unread(const struct mailboxes *m)
{
	for (unsigned i = 0; i < m->n * m->n; i++) {
		const struct ring *r = atomic_load(&m->rings[i]);
		if (r && (r->filled != atomic_load(&r->head) || r->over_n))
			return true;
	}
	return false;
}

void mailboxes_free(struct mailboxes *m)
{
	if (has_unread(m)) {
		unread = m;
		return;
	}
	for (unsigned i = 0; i < m->n * m->n; i++) {
		struct ring *r = atomic_load(&m->rings[i]);
		if (r) {
			free(r->over);
			free(r);
		}
	}
	for (unsigned i = 0; i < m->n; i++)
		close(m->boxes[i].fd);
	free(m->rings);
	free(m->boxes);
	free(m);
}

static void fetch(const struct mail *mail)
{
	fetch_lines(mail->arg, FETCH_BYTES);
	fetch_lines(mail->about, 1);
}

static void drain(struct ring *r)
{
	uint32_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
	uint32_t tail = atomic_load_explicit(&r->tail, memory_order_acquire);

	while (head != tail) {
		struct mail mail = r->at[head % RING_SIZE];
		if (tail - head > FETCH_EARLY)
			fetch(&r->at[(head + FETCH_EARLY) % RING_SIZE]);
		atomic_store_explicit(&r->head, ++head, memory_order_release);
		mail.fn(mail.arg);
	}
}

static void wake_cb(struct ev_loop *loop, ev_io *w, int revents)
{
	struct box *b = w->data;
	uint64_t count;

	(void)loop;
	(void)revents;
	if (read(b->fd, &count, sizeof count) < 0)
		count = 0;
	atomic_exchange_explicit(&b->notified, false, memory_order_seq_cst);
	for (unsigned from = 0; from < b->all->n; from++) {
		struct ring *r = ring_of(b->all, from, b->self);
		if (r)
			drain(r);
	}
}

static void flush_cb(struct ev_loop *loop, ev_prepare *w, int revents)
{
	struct box *b = w->data;

	(void)loop;
	(void)revents;
	mailbox_flush_all(b->all, b->self);
}

static void again_cb(struct ev_loop *loop, ev_timer *w, int revents)
{
	(void)loop; /* this turn's flush follows */
	(void)w;
	(void)revents;
}

void mailbox_attach(struct mailboxes *m, unsigned self, struct ev_loop *loop)
{
	struct box *b = &m->boxes[self];

	b->loop = loop;
	ev_io_init(&b->wake, wake_cb, b->fd, EV_READ);
	b->wake.data = b;
	ev_io_start(loop, &b->wake);
	ev_prepare_init(&b->flush, flush_cb);
	ev_set_priority(&b->flush, EV_MINPRI); /* behind every other prepare watcher: they may post */
	b->flush.data = b;
	ev_prepare_start(loop, &b->flush);
	ev_timer_init(&b->again, again_cb, AGAIN_S, 0.);
}

void mailbox_detach(struct mailboxes *m, unsigned self)
{
	struct box *b = &m->boxes[self];

	mailbox_flush_all(m, self);
	ev_io_stop(b->loop, &b->wake);
	ev_prepare_stop(b->loop, &b->flush);
	ev_timer_stop(b->loop, &b->again);
	b->loop = NULL;
}

static bool ring_put(struct ring *r, struct mail mail)
{
	if (r->filled - atomic_load_explicit(&r->head, memory_order_acquire) >= RING_SIZE)
		return false;
	r->at[r->filled++ % RING_SIZE] = mail;
	return true;
}

static void over_put(struct ring *r, struct mail mail)
{
	if (r->over_n == r->over_cap && r->over_first > r->over_cap / 2) { /* what has gone makes room: a list that is never empty must not grow */
		r->over_n -= r->over_first;
		memmove(r->over, r->over + r->over_first, r->over_n * sizeof *r->over);
		r->over_first = 0;
	}
	if (r->over_n == r->over_cap) {
		r->over_cap = r->over_cap ? 2 * r->over_cap : 256;
		r->over = realloc(r->over, r->over_cap * sizeof *r->over);
		if (!r->over)
			abort();
	}
	r->over[r->over_n++] = mail;
}

void mailbox_post(struct mailboxes *m, unsigned to, unsigned from, mail_fn *fn, void *arg)
{
	mailbox_post_about(m, to, from, fn, arg, NULL);
}

void mailbox_post_about(struct mailboxes *m, unsigned to, unsigned from, mail_fn *fn, void *arg, const void *about)
{
	struct ring *r = ring_of(m, from, to);
	struct mail mail = { fn, arg, about };

	assert(to < m->n && from < m->n);
	if (!r) {
		r = aligned_alloc(64, (sizeof *r + 63) / 64 * 64);
		if (!r)
			abort();
		*r = (struct ring){ .filled = 0 };
		atomic_store_explicit(&m->rings[from * m->n + to], r, memory_order_release);
	}
	if (r->over_n || !ring_put(r, mail))
		over_put(r, mail);
}

/* Moves what overflowed into the ring, as far as it has room. */
static void refill(struct ring *r)
{
	while (r->over_first < r->over_n && ring_put(r, r->over[r->over_first]))
		r->over_first++;
	if (r->over_first == r->over_n)
		r->over_first = r->over_n = 0;
}

void mailbox_flush_all(struct mailboxes *m, unsigned from)
{
	bool waiting = false;

	for (unsigned to = 0; to < m->n; to++) {
		struct ring *r = ring_of(m, from, to);
		if (!r)
			continue;
		if (r->over_n)
			refill(r);
		waiting |= r->over_n > 0;
		if (r->filled == atomic_load_explicit(&r->tail, memory_order_relaxed))
			continue;
		atomic_store_explicit(&r->tail, r->filled, memory_order_release);
		if (!atomic_exchange_explicit(&m->boxes[to].notified, true, memory_order_seq_cst)) {
			uint64_t one = 1;
			if (write(m->boxes[to].fd, &one, sizeof one) < 0)
				abort(); /* an eventfd counter of ours cannot overflow */
		}
	}
	/* What is still over waits for the receiver, which is running meanwhile: come back soon. */
	if (waiting && m->boxes[from].loop && !ev_is_active(&m->boxes[from].again)) {
		ev_timer_set(&m->boxes[from].again, AGAIN_S, 0.);
		ev_timer_start(m->boxes[from].loop, &m->boxes[from].again);
	}
}

size_t mailbox_backlog(const struct mailboxes *m, unsigned to, unsigned from)
{
	const struct ring *r = ring_of(m, from, to);

	if (!r)
		return 0;
	return r->filled - atomic_load_explicit(&r->head, memory_order_relaxed) + (r->over_n - r->over_first);
}
