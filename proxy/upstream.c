#include "proxy/upstream_internal.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "proxy/log.h"
#include "resp/write.h"

#define FETCH_FAR 8 /* answers before it; 6 to 16 make no difference */
#define FETCH_NEAR 4 /* half */
#define BACKOFF_MIN_S 0.05
#define BACKOFF_MAX_S 1.0
#define LARGE_PER_TURN (256 * 1024) /* of a large reply that is taken as it comes: others are not to notice */
#define READ_PER_TURN (1024 * 1024) /* bytes; what else is there waits for the next turn, behind what others sent */
#define ROOM_AHEAD ((size_t)64 << 20) /* so far the length that a server announces is believed; beyond it there is room for as much again as has come */

static void on_readable(struct ev_loop *loop, ev_io *w, int revents);
static void on_writable(struct ev_loop *loop, ev_io *w, int revents);
static void on_timer(struct ev_loop *loop, ev_timer *w, int revents);

static ev_tstamp now(const struct upstream *u)
{
	return ev_now(u->owner->loop);
}

struct upstream *upstream_new(const struct upstream_owner *owner, enum side side, const char *name)
{
	struct upstream *u = calloc(1, sizeof *u);

	if (!u)
		abort();
	u->owner = owner;
	u->side = side;
	u->fd = -1;
	snprintf(u->name, sizeof u->name, "%s", name);
	ev_init(&u->reader, on_readable);
	ev_init(&u->writer, on_writable);
	ev_init(&u->timer, on_timer);
	u->reader.data = u->writer.data = u->timer.data = u;
	resp_reply_init(&u->parser, &resp_default_limits);
	return u;
}

void upstream_set_addr(struct upstream *u, const struct sockaddr_storage *addr, socklen_t len)
{
	u->addr = *addr;
	u->addr_len = len;
}

/* --- what is awaited --- */

static void fifo_push(struct upstream *u, struct await a)
{
	if (u->fifo_n == u->fifo_cap) {
		uint32_t cap = u->fifo_cap ? 2 * u->fifo_cap : 64;
		struct await *bigger = malloc(cap * sizeof *bigger);
		if (!bigger)
			abort();
		for (uint32_t i = 0; i < u->fifo_n; i++)
			bigger[i] = u->fifo[(u->fifo_head + i) & (u->fifo_cap - 1)];
		free(u->fifo);
		u->fifo = bigger;
		u->fifo_cap = cap;
		u->fifo_head = 0;
	}
	u->fifo[(u->fifo_head + u->fifo_n++) & (u->fifo_cap - 1)] = a;
}

static void fifo_pop(struct upstream *u)
{
	u->fifo_head = (u->fifo_head + 1) & (u->fifo_cap - 1);
	u->fifo_n--;
}

/* Everything awaited is answered as lost. The ring is set aside first: an answer may queue new commands. */
static void fail_all(struct upstream *u)
{
	struct await *fifo = u->fifo;
	uint32_t n = u->fifo_n, head = u->fifo_head, cap = u->fifo_cap;
	uint64_t written = u->written;
	struct reply r = { .why = u->why };

	u->fifo = NULL;
	u->fifo_n = u->fifo_cap = u->fifo_head = 0;
	u->queued = u->written = 0;
	u->db = 0;
	outq_clear(&u->out);
	for (uint32_t i = 0; i < n; i++) {
		struct await a = fifo[(head + i) & (cap - 1)];
		r.sent = a.start < written;
		while (a.replies--)
			a.fn(a.arg, &r);
	}
	free(fifo);
}

size_t upstream_tidy(struct upstream *u)
{
	size_t freed = u->fifo_cap * sizeof *u->fifo;

	if (u->fifo_n || u->rest)
		return 0;
	free(u->fifo);
	u->fifo = NULL;
	u->fifo_cap = u->fifo_head = 0;
	if (u->in && u->in_off == u->in->used) {
		block_unref(u->in);
		u->in = NULL;
		u->in_off = 0;
	}
	return freed;
}

/* --- states --- */

void upstream_set_state(struct upstream *u, enum upstream_state state)
{
	struct ev_loop *loop = u->owner->loop;

	u->state = state;
	ev_timer_stop(loop, &u->timer);
	switch (state) {
	case UPSTREAM_IDLE:
	case UPSTREAM_DOWN:
		ev_io_stop(loop, &u->reader);
		ev_io_stop(loop, &u->writer);
		break;
	case UPSTREAM_CONNECTING:
	case UPSTREAM_GREETING:
		ev_timer_set(&u->timer, u->owner->connect_timeout_s, 0.);
		ev_timer_start(loop, &u->timer);
		break;
	case UPSTREAM_UP:
		ev_timer_set(&u->timer, 1., 1.);
		ev_timer_start(loop, &u->timer);
		break;
	}
}

static void close_reset(struct upstream *u)
{
	struct linger l = { .l_onoff = 1, .l_linger = 0 };

	if (u->fd < 0)
		return;
	ev_io_stop(u->owner->loop, &u->reader);
	ev_io_stop(u->owner->loop, &u->writer);
	tls_close(u->tls, false);
	u->tls = NULL;
	setsockopt(u->fd, SOL_SOCKET, SO_LINGER, &l, sizeof l); /* race 7: nothing of it may still arrive */
	close(u->fd);
	u->fd = -1;
}

/* The last piece has come, or none will come any more. */
static void large_ends(struct upstream *u, bool whole)
{
	if (!whole && !u->rest)
		return;
	u->rest = 0;
	u->stopped = false;
	u->owner->large_over(u->owner->ctx, u, whole);
}

/* One that never was up has sent nothing that could still arrive: then the predecessor, if any, stays the one to be made sure of. */
static void forget_connection(struct upstream *u)
{
	if (u->state == UPSTREAM_UP && u->client_id) {
		u->zombie_id = u->client_id;
		memcpy(u->zombie_run_id, u->run_id, sizeof u->run_id);
	}
	u->client_id = 0;
	u->watching = false;
	u->flushes = u->nulls_due = 0;
	u->partial = false;
	u->sample_at = 0;
	close_reset(u);
	large_ends(u, false);
	block_unref(u->in);
	u->in = NULL;
	u->in_off = 0;
	resp_reply_reset(&u->parser);
}

void upstream_give_up(struct upstream *u, const char *why)
{
	bool was_up = u->state == UPSTREAM_UP;
	double wait = BACKOFF_MIN_S * (1 << (u->failures < 5 ? u->failures : 5));

	snprintf(u->why, sizeof u->why, "%s %s was lost: %s", side_name(u->side), u->name, why);
	if (!was_up)
		snprintf(u->why, sizeof u->why, "%s %s is not reachable: %s", side_name(u->side), u->name, why);
	log_limited(LOG_WARNING, "%s", u->why);
	if (was_up)
		u->missed = true;
	forget_connection(u);
	u->failures++;
	u->retry_at = now(u) + (wait < BACKOFF_MAX_S ? wait : BACKOFF_MAX_S);
	upstream_set_state(u, UPSTREAM_DOWN);
	if (u->owner->gone)
		u->owner->gone(u->owner->ctx, u);
	fail_all(u);
	u->owner->lost(u->owner->ctx, u, u->why, was_up);
}

void upstream_close(struct upstream *u)
{
	snprintf(u->why, sizeof u->why, "%s %s was closed", side_name(u->side), u->name);
	forget_connection(u);
	upstream_set_state(u, UPSTREAM_IDLE);
	fail_all(u);
}

void upstream_free(struct upstream *u)
{
	upstream_close(u);
	sdsfree(u->orphans);
	free(u->fifo);
	free(u);
}

void upstream_open(struct upstream *u)
{
	int one = 1;

	if (u->state != UPSTREAM_IDLE && (u->state != UPSTREAM_DOWN || now(u) < u->retry_at))
		return;
	if (!u->addr_len) {
		upstream_give_up(u, "its name does not resolve");
		return;
	}
	u->fd = socket(u->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (u->fd < 0) {
		upstream_give_up(u, strerror(errno));
		return;
	}
	setsockopt(u->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(u->fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
	if (connect(u->fd, (struct sockaddr *)&u->addr, u->addr_len) < 0 && errno != EINPROGRESS) {
		upstream_give_up(u, strerror(errno));
		return;
	}
	ev_io_set(&u->reader, u->fd, EV_READ);
	ev_io_set(&u->writer, u->fd, EV_WRITE);
	ev_io_start(u->owner->loop, &u->writer);
	upstream_set_state(u, UPSTREAM_CONNECTING);
}

/* --- reading --- */

static void sample(struct upstream *u, uint64_t start)
{
	if (u->sample_at == 0 || start < u->sample_start)
		return;
	struct latency *l = u->owner->latency ? &u->owner->latency[u->side] : NULL;
	double us = (now(u) - u->sample_at) * 1e6;

	u->sample_at = 0;
	if (!l)
		return;
	atomic_store_explicit(&l->us, atomic_load_explicit(&l->us, memory_order_relaxed) + (us > 0 ? (uint64_t)us : 0), memory_order_relaxed);
	atomic_store_explicit(&l->requests, atomic_load_explicit(&l->requests, memory_order_relaxed) + 1, memory_order_release);
}

/* Many wait, so many answers come at once. */
static void fetch(const struct upstream *u)
{
	const struct await *a;

	if (u->fifo_n <= FETCH_FAR || !u->owner->fetch_far)
		return;
	a = upstream_awaits(u, FETCH_FAR);
	u->owner->fetch_far(a->fn, a->arg);
	a = upstream_awaits(u, FETCH_NEAR);
	u->owner->fetch_near(u->owner->ctx, a->fn, a->arg);
}

/* One complete reply stands at in_off. False: the connection is gone. */
static bool dispatch(struct upstream *u, const char *p, size_t n)
{
	if (u->parser.type == '>' && !u->owner->pushed(u->owner->ctx, u, slice(p, n)))
		return true;
	if (u->state == UPSTREAM_GREETING)
		return upstream_greeting_reply(u, slice(p, n));
	if (!u->fifo_n) {
		upstream_give_up(u, "it sent a reply that nobody asked for");
		return false;
	}
	struct await *a = &u->fifo[u->fifo_head];
	struct reply r = { .p = p, .n = n, .block = u->in };
	reply_fn *fn = a->fn;
	void *arg = a->arg;
	sample(u, a->start);
	fetch(u);
	if (--a->replies == 0)
		fifo_pop(u);
	fn(arg, &r);
	return u->state == UPSTREAM_UP;
}

static bool lacks_room(const struct upstream *u)
{
	size_t room = u->in ? u->in->cap - u->in_off : 0;

	return !u->in || u->in->used == u->in->cap || (u->parser.need > room && room < ROOM_AHEAD);
}

/* Room behind what is there: at the front of the same block if nobody else holds it, else in a new one that fits the reply. */
static void make_room(struct upstream *u)
{
	struct block *b = u->in;
	size_t left = b ? b->used - u->in_off : 0;
	size_t want = u->parser.need > BLOCK_LARGE ? u->parser.need : BLOCK_LARGE;

	if (want > BLOCK_LARGE && want < 2 * left)
		want = 2 * left; /* an array's need is known one element at a time: what is there is copied log times, not once per element */
	if (want > ROOM_AHEAD)
		want = 2 * left > ROOM_AHEAD ? 2 * left : ROOM_AHEAD;

	if (b && b->cap >= want && block_is_sole(b)) {
		memmove(b->data, b->data + u->in_off, left);
	} else if (b && block_is_sole(b) && !u->in_off) {
		u->in = b = block_grow(b, want);
	} else {
		struct block *bigger = block_new(want);
		if (left)
			memcpy(bigger->data, b->data + u->in_off, left);
		block_unref(b);
		u->in = b = bigger;
	}
	b->used = left;
	u->in_off = 0;
}

const struct await *upstream_awaits(const struct upstream *u, uint32_t i)
{
	return &u->fifo[(u->fifo_head + i) & (u->fifo_cap - 1)];
}

/* The head of a reply stands at in_off, and announces a large bulk. True: what is there is an answer by itself, and the rest will be given on in pieces. */
static bool large_begins(struct upstream *u)
{
	const char *p = u->in->data + u->in_off;
	size_t have = u->in->used - u->in_off;

	if (*p != '$' || u->state != UPSTREAM_UP || !u->fifo_n || u->fifo[u->fifo_head].replies != 1 || !u->owner->large(u->owner->ctx, u))
		return false;
	u->rest = u->parser.need - have;
	u->parser.used = have;
	u->end[0] = u->end[1] = '\0';
	if (u->rest < 2)
		u->end[1] = p[have - 1];
	return true;
}

/* What is there, as far as it is whole. An answer may close the connection: then false, and `in` is gone. */
static bool parse_each(struct upstream *u)
{
	while (u->in_off < u->in->used) {
		const char *p = u->in->data + u->in_off;
		enum resp_status s = resp_reply_parse(&u->parser, p, u->in->used - u->in_off);
		if (s == RESP_MORE && (u->parser.need < u->owner->large_least || !u->owner->large_least || !large_begins(u)))
			break;
		if (s == RESP_BAD) {
			upstream_give_up(u, u->parser.error ? u->parser.error : "it does not speak RESP3");
			return false;
		}
		size_t n = u->parser.used;
		u->in_off += n;
		if (!dispatch(u, p, n))
			return false;
		resp_reply_reset(&u->parser);
	}
	return true;
}

static bool parse(struct upstream *u)
{
	struct block *keep = block_ref(u->in);
	bool goes_on = parse_each(u);

	block_unref(keep);
	if (!goes_on)
		return false;
	if (u->in_off == u->in->used) {
		if (!block_is_sole(u->in)) {
			block_unref(u->in);
			u->in = NULL;
		} else {
			u->in->used = 0;
		}
		u->in_off = 0;
	}
	return true;
}

static void read_failed(struct upstream *u, ssize_t n)
{
	if (n < 0 && u->tls && tls_read_wants_write(u->tls))
		ev_io_start(u->owner->loop, &u->writer);
	if (n == 0 || (errno != EAGAIN && errno != EINTR))
		upstream_give_up(u, n ? transport_why(u->tls, errno) : "it closed the connection");
}

static void large_room(struct upstream *u)
{
	if (u->in && block_is_sole(u->in))
		u->in->used = 0;
	if (!u->in || u->in->used == u->in->cap) {
		block_unref(u->in);
		u->in = block_new(BLOCK_LARGE);
	}
	u->in_off = u->in->used;
}

/* n bytes of the rest of a large reply stand at in_off. False: no more now. */
static bool large_piece(struct upstream *u, size_t n)
{
	const char *p = u->in->data + u->in_off;

	u->in->used = u->in_off += n;
	u->end[0] = n > 1 ? p[n - 2] : u->end[1];
	u->end[1] = p[n - 1];
	if (n == u->rest && (u->end[0] != '\r' || u->end[1] != '\n')) {
		upstream_give_up(u, "bulk without its end in reply");
		return false;
	}
	u->rest -= n;
	if (u->owner->piece(u->owner->ctx, u, p, n, u->in) || !u->rest)
		return true;
	u->stopped = true;
	ev_io_stop(u->owner->loop, &u->reader);
	return false;
}

/* True: the large reply is whole, and there may be more behind it. */
static bool read_large(struct upstream *u)
{
	for (size_t got = 0; u->rest;) {
		if (got >= LARGE_PER_TURN && !transport_pending(u->tls))
			return false;
		large_room(u);
		size_t room = u->in->cap - u->in->used;
		ssize_t n = transport_read(u->fd, u->tls, u->in->data + u->in->used, room < u->rest ? room : (size_t)u->rest);
		if (n <= 0) {
			read_failed(u, n);
			return false;
		}
		u->progress = now(u);
		got += (size_t)n;
		if (!large_piece(u, (size_t)n))
			return false;
	}
	large_ends(u, true);
	return true;
}

void upstream_read_on(struct upstream *u)
{
	if (!u->stopped)
		return;
	u->stopped = false;
	u->progress = now(u);
	ev_io_start(u->owner->loop, &u->reader);
	if (transport_pending(u->tls)) /* no poll tells of it */
		ev_feed_event(u->owner->loop, &u->reader, EV_READ);
}

static void on_readable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct upstream *u = w->data;

	(void)loop;
	(void)revents;
	if (u->state == UPSTREAM_CONNECTING) {
		upstream_shake_hands(u);
		return;
	}
	if (u->rest && (u->stopped || !read_large(u)))
		return;
	for (size_t got = 0; got < READ_PER_TURN || transport_pending(u->tls);) {
		if (lacks_room(u))
			make_room(u);
		size_t room = u->in->cap - u->in->used;
		ssize_t n = transport_read(u->fd, u->tls, u->in->data + u->in->used, room);
		if (n <= 0) {
			read_failed(u, n);
			return;
		}
		u->in->used += (size_t)n;
		got += (size_t)n;
		u->progress = now(u);
		if (!parse(u) || (u->rest && !read_large(u)))
			return;
		if ((size_t)n < room && !transport_pending(u->tls))
			return;
	}
}

/* --- writing --- */

static void on_writable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct upstream *u = w->data;
	int error = 0;
	socklen_t len = sizeof error;

	(void)revents;
	ev_io_stop(loop, w);
	if (u->state != UPSTREAM_CONNECTING) {
		if (u->tls && tls_read_wants_write(u->tls))
			on_readable(loop, &u->reader, EV_READ);
		upstream_flush(u);
		return;
	}
	if (u->tls) {
		upstream_shake_hands(u);
		return;
	}
	getsockopt(u->fd, SOL_SOCKET, SO_ERROR, &error, &len);
	if (error) {
		upstream_give_up(u, strerror(error));
	} else if (u->owner->tls[u->side]) {
		u->tls = tls_connect(u->owner->tls[u->side], u->fd, u->name);
		upstream_shake_hands(u);
	} else {
		upstream_greet(u);
	}
}

void upstream_flush(struct upstream *u)
{
	if (u->state == UPSTREAM_DOWN || (u->state == UPSTREAM_IDLE && u->fifo_n)) {
		upstream_open(u);
		if (u->state == UPSTREAM_DOWN)
			fail_all(u);
		return;
	}
	if (u->state != UPSTREAM_UP || ev_is_active(&u->writer))
		return;
	if (u->owner->before_write)
		u->owner->before_write(u->owner->ctx);
	ssize_t n = outq_write(&u->out, u->fd, u->tls);
	if (n < 0) {
		upstream_give_up(u, transport_why(u->tls, errno));
		return;
	}
	u->written += (uint64_t)n;
	if (!outq_empty(&u->out))
		ev_io_start(u->owner->loop, &u->writer);
	if (u->owner->wrote)
		u->owner->wrote(u->owner->ctx, u);
}

static void on_selected(void *arg, const struct reply *r)
{
	struct upstream *u = arg;
	char why[200];

	if (!r->p || r->p[0] != '-')
		return;
	snprintf(why, sizeof why, "SELECT was refused: %.*s", (int)(r->n > 150 ? 150 : r->n - 3), r->p + 1);
	upstream_give_up(u, why);
}

static void select_db(struct upstream *u, int db)
{
	char number[12];
	sds s;

	snprintf(number, sizeof number, "%d", db);
	s = resp_cat_words(sdsempty(), "SELECT", number, NULL);
	u->db = db;
	upstream_send(u, db, s, sdslen(s), NULL, 1, on_selected, u);
	sdsfree(s);
}

void upstream_send(struct upstream *u, int db, const char *p, size_t n, struct block *holder, unsigned replies, reply_fn *fn, void *arg)
{
	if (db != u->db && db != UPSTREAM_ANY_DB)
		select_db(u, db);
	if (!u->fifo_n)
		u->progress = now(u);
	if (u->sample_at == 0) {
		u->sample_at = now(u);
		u->sample_start = u->queued;
	}
	fifo_push(u, (struct await){ fn, arg, u->queued, replies });
	u->patient = false;
	u->queued += n;
	outq_add(&u->out, p, n, holder);
	if (!u->flushing) /* opening, which may fail at once, is the flush's, too */
		u->owner->flush_soon(u->owner->ctx, u);
}

void upstream_send_more(struct upstream *u, const char *p, size_t n, struct block *holder, bool last)
{
	u->partial = !last;
	u->patient = false;
	u->progress = now(u);
	u->queued += n;
	outq_add(&u->out, p, n, holder);
	if (!u->flushing)
		u->owner->flush_soon(u->owner->ctx, u);
}

/* Is it the server that is waited for? */
static bool waits_for_server(const struct upstream *u)
{
	if (u->partial && outq_empty(&u->out))
		return false;
	return (u->fifo_n || u->rest) && !u->stopped;
}

static void on_timer(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct upstream *u = w->data;
	char why[64];

	(void)loop;
	(void)revents;
	if (u->state == UPSTREAM_CONNECTING && u->tls) {
		upstream_give_up(u, "it did not answer to TLS in time: does it speak TLS?");
	} else if (u->state != UPSTREAM_UP) {
		upstream_give_up(u, u->state == UPSTREAM_CONNECTING ? "connecting took too long" : "it did not answer the greeting in time");
	} else if (waits_for_server(u) && now(u) - u->progress > u->owner->reply_timeout_s) {
		snprintf(why, sizeof why, "no reply for %.0f ms", (now(u) - u->progress) * 1000);
		upstream_give_up(u, why);
	}
}
