#include "backfill/bulk.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "net/transport.h"
#include "resp/parse.h"
#include "resp/write.h"

#define IN_MIN (256 * 1024)  /* one read; also what a connection keeps after a large reply */
#define OUT_KEEP (1024 * 1024)
#define RING_MIN 64
#define WHY_MAX 512

enum bulk_state {
	BULK_DOWN,       /* no socket; the next bulk_send connects */
	BULK_CONNECTING, /* waits to become writable, then for the TLS handshake */
	BULK_HELLO,      /* HELLO is on its way, what was queued waits in `out` */
	BULK_UP,
};

/* One bulk_send: `left` replies still to come. */
struct await {
	bulk_fn *fn;
	void *arg;
	unsigned left;
};

/* Invariants: awaited is the sum of `left` over the ring; a socket exists in every state but BULK_DOWN; in[0, in_len) are bytes of replies
 * not yet delivered, beginning with the first byte of one. While depth > 0 a callback runs, so the struct must not be freed. */
struct bulk {
	struct ev_loop *loop;
	struct bulk_options options;
	enum bulk_state state;
	int fd;
	struct tls *tls;    /* NULL: plain, or not connected */
	ev_io readable, writable;
	ev_prepare flush;   /* writes once per loop turn, before the loop sleeps */
	ev_timer flush_now; /* keeps the loop from sleeping if `flush` was started by another prepare watcher, after its turn */
	ev_timer timeout;
	double progress_at; /* when bytes last moved */
	sds hello;
	size_t hello_pos;
	sds out;
	size_t out_pos;
	int db;             /* selected at the end of `out` */
	char *in;
	size_t in_len, in_cap;
	struct resp_reply parser;
	struct await *ring;
	unsigned ring_cap, ring_head, ring_len; /* cap is a power of two */
	unsigned awaited;
	unsigned depth;
	bool closed; /* bulk_free was called */
};

static void out_of_memory(void)
{
	fputs("out of memory\n", stderr);
	abort();
}

/* ---- the ring of awaited replies ---- */

static void ring_push(struct bulk *b, bulk_fn *fn, void *arg, unsigned replies)
{
	if (b->ring_len == b->ring_cap) {
		unsigned cap = b->ring_cap ? b->ring_cap * 2 : RING_MIN;
		struct await *ring = malloc(cap * sizeof(*ring));
		if (!ring)
			out_of_memory();
		for (unsigned i = 0; i < b->ring_len; i++)
			ring[i] = b->ring[(b->ring_head + i) & (b->ring_cap - 1)];
		free(b->ring);
		b->ring = ring;
		b->ring_cap = cap;
		b->ring_head = 0;
	}
	b->ring[(b->ring_head + b->ring_len++) & (b->ring_cap - 1)] = (struct await){ fn, arg, replies };
	b->awaited += replies;
}

static struct await ring_pop(struct bulk *b)
{
	assert(b->ring_len > 0);
	struct await a = b->ring[b->ring_head];
	b->ring_head = (b->ring_head + 1) & (b->ring_cap - 1);
	b->ring_len--;
	b->awaited -= a.left;
	return a;
}

/* ---- states ---- */

static void bulk_release(struct bulk *b)
{
	assert(b->closed && b->depth == 0 && b->ring_len == 0);
	resp_reply_reset(&b->parser);
	sdsfree(b->hello);
	sdsfree(b->out);
	free(b->in);
	free(b->ring);
	free(b);
}

/* Closes the socket and forgets what was in flight; the ring stays for the caller to answer. */
static void bulk_down(struct bulk *b)
{
	ev_io_stop(b->loop, &b->readable);
	ev_io_stop(b->loop, &b->writable);
	ev_prepare_stop(b->loop, &b->flush);
	ev_timer_stop(b->loop, &b->flush_now);
	ev_timer_stop(b->loop, &b->timeout);
	tls_close(b->tls, b->state == BULK_UP);
	b->tls = NULL;
	if (b->fd >= 0)
		close(b->fd);
	b->fd = -1;
	b->state = BULK_DOWN;
	b->in_len = 0;
	sdsclear(b->out);
	b->out_pos = b->hello_pos = 0;
	b->db = 0;
	resp_reply_reset(&b->parser);
}

/* Gives the first n requests of the ring up. A callback may send again (that comes behind them) or free the connection (that answers the
 * rest with "closed"). */
static void bulk_answer_lost(struct bulk *b, unsigned n, const char *why)
{
	b->depth++;
	while (n-- > 0 && b->ring_len > 0) {
		struct await a = ring_pop(b);
		if (a.fn)
			a.fn(a.arg, slice(NULL, 0), why);
	}
	b->depth--;
}

/* The connection is given up. The struct may be gone afterwards. */
static void bulk_lose(struct bulk *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void bulk_lose(struct bulk *b, const char *fmt, ...)
{
	char why[WHY_MAX];
	int n = snprintf(why, sizeof(why), "%s: ", b->options.name);
	va_list ap;

	if (n < 0 || n >= (int)sizeof(why))
		n = 0;
	va_start(ap, fmt);
	vsnprintf(why + n, sizeof(why) - (size_t)n, fmt, ap);
	va_end(ap);
	bulk_down(b);
	bulk_answer_lost(b, b->ring_len, why);
	if (b->closed && b->depth == 0)
		bulk_release(b);
}

static void bulk_progress(struct bulk *b)
{
	b->progress_at = ev_now(b->loop);
}

static void bulk_arm_timeout(struct bulk *b, double after)
{
	ev_timer_stop(b->loop, &b->timeout);
	ev_timer_set(&b->timeout, after, 0.);
	ev_timer_start(b->loop, &b->timeout);
}

static void bulk_connect(struct bulk *b)
{
	int family = b->options.addr.ss_family, one = 1;

	assert(b->state == BULK_DOWN && b->fd < 0);
	if (b->options.addr_len == 0) {
		bulk_lose(b, "its name did not resolve");
		return;
	}
	b->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (b->fd < 0) {
		bulk_lose(b, "no socket: %s", strerror(errno));
		return;
	}
	if (family == AF_INET || family == AF_INET6)
		setsockopt(b->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(b->fd, (struct sockaddr *)&b->options.addr, b->options.addr_len) < 0 && errno != EINPROGRESS) {
		bulk_lose(b, "cannot connect: %s", strerror(errno));
		return;
	}
	b->state = BULK_CONNECTING;
	ev_io_set(&b->readable, b->fd, EV_READ);
	ev_io_set(&b->writable, b->fd, EV_WRITE);
	ev_io_start(b->loop, &b->writable);
	bulk_progress(b);
	bulk_arm_timeout(b, b->options.connect_timeout_s);
}

static sds hello_command(const struct bulk_options *o)
{
	sds s = sdsempty();

	if (!o->password)
		return resp_cat_words(s, "HELLO", "3", "SETNAME", "crossfade-bulk", NULL);
	return resp_cat_words(s, "HELLO", "3", "AUTH", o->user ? o->user : "default", o->password, "SETNAME", "crossfade-bulk", NULL);
}

/* Of an error's text, without its full stop: servers may tell whole pages (protected mode). */
static size_t first_sentence(struct slice text)
{
	const char *stop = memmem(text.p, text.n, ". ", 2);
	size_t n = stop ? (size_t)(stop - text.p) : text.n > 0 && text.p[text.n - 1] == '.' ? text.n - 1 : text.n;

	return n < 200 ? n : 200;
}

/* The first reply of a connection. False: the connection is lost, the struct may be gone. */
static bool bulk_hello_reply(struct bulk *b, struct slice reply)
{
	struct resp_item item;

	if (resp_item(reply.p, reply.p + reply.n, &item) && item.type != '-' && item.type != '!') {
		b->state = BULK_UP;
		if (sdslen(b->out) > 0)
			ev_io_start(b->loop, &b->writable);
		return true;
	}
	size_t n = first_sentence(item.text);
	bulk_lose(b, "HELLO was refused: %.*s%s", (int)n, item.text.p, n < item.text.n && item.text.p[n] != '.' ? "…" : "");
	return false;
}

/* ---- reading ---- */

/* Gives one reply to whom it belongs. False: the connection is lost or freed, do not touch b. */
static bool bulk_deliver(struct bulk *b, struct slice reply)
{
	if (b->parser.type == '>')
		return true; /* a push answers nobody */
	if (b->state == BULK_HELLO)
		return bulk_hello_reply(b, reply);
	if (b->ring_len == 0) {
		bulk_lose(b, "sent a reply that nobody asked for");
		return false;
	}
	struct await *first = &b->ring[b->ring_head];
	struct await a = *first;
	first->left--;
	b->awaited--;
	if (first->left == 0)
		ring_pop(b);
	if (!a.fn)
		return true;
	b->depth++;
	a.fn(a.arg, reply, NULL);
	b->depth--;
	if (!b->closed)
		return b->state != BULK_DOWN;
	if (b->depth == 0)
		bulk_release(b);
	return false;
}

/* Delivers every complete reply in the buffer. False: b is lost or gone. */
static bool bulk_parse(struct bulk *b)
{
	size_t pos = 0;

	while (pos < b->in_len) {
		enum resp_status st = resp_reply_parse(&b->parser, b->in + pos, b->in_len - pos);
		if (st == RESP_MORE)
			break;
		if (st == RESP_BAD) {
			bulk_lose(b, "protocol error: %s", b->parser.error ? b->parser.error : "not a reply");
			return false;
		}
		size_t used = b->parser.used;
		if (!bulk_deliver(b, slice(b->in + pos, used)))
			return false;
		pos += used;
		resp_reply_reset(&b->parser);
	}
	b->in_len -= pos;
	if (pos > 0 && b->in_len > 0)
		memmove(b->in, b->in + pos, b->in_len);
	return true;
}

/* Room for the reply that is coming: what the parser knows that it needs, and at least one good read. */
static void bulk_reserve(struct bulk *b)
{
	size_t want = b->in_len + IN_MIN / 4;

	if (b->in_len > 0 && b->parser.need > want)
		want = b->parser.need;
	if (b->in_len == 0 && b->in_cap > IN_MIN) {
		free(b->in); /* a large reply is done: its memory goes back */
		b->in = NULL;
		b->in_cap = 0;
	}
	if (want <= b->in_cap)
		return;
	size_t cap = b->in_cap * 2 > want ? b->in_cap * 2 : want;
	if (cap < IN_MIN)
		cap = IN_MIN;
	b->in = realloc(b->in, cap);
	if (!b->in)
		out_of_memory();
	b->in_cap = cap;
}

/* Returns false if b is lost or gone. */
static bool bulk_read(struct bulk *b)
{
	do {
		bulk_reserve(b);
		ssize_t n = transport_read(b->fd, b->tls, b->in + b->in_len, b->in_cap - b->in_len);
		if (n < 0 && b->tls && tls_read_wants_write(b->tls))
			ev_io_start(b->loop, &b->writable);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return true;
		if (n < 0) {
			bulk_lose(b, "connection lost: %s", transport_why(b->tls, errno));
			return false;
		}
		if (n == 0) {
			bulk_lose(b, "closed the connection");
			return false;
		}
		bulk_progress(b);
		b->in_len += (size_t)n;
		if (!bulk_parse(b))
			return false;
	} while (transport_pending(b->tls));
	return true;
}

static void bulk_shake_hands(struct bulk *b);

static void on_readable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct bulk *b = w->data;

	(void)loop;
	(void)revents;
	if (b->state == BULK_CONNECTING)
		bulk_shake_hands(b);
	else
		bulk_read(b);
}

/* ---- writing ---- */

/* Writes what it can of buf from *pos on; true when all is written. On an error the connection is lost: *lost. */
static bool bulk_write_some(struct bulk *b, const char *buf, size_t len, size_t *pos, bool *lost)
{
	while (*pos < len) {
		struct iovec rest = { (void *)(uintptr_t)(buf + *pos), len - *pos };
		ssize_t n = transport_writev(b->fd, b->tls, &rest, 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return false;
		if (n < 0) {
			*lost = true;
			bulk_lose(b, "connection lost: %s", transport_why(b->tls, errno));
			return false;
		}
		*pos += (size_t)n;
		bulk_progress(b);
	}
	return true;
}

static void bulk_write(struct bulk *b)
{
	bool lost = false, done;

	if (b->state == BULK_HELLO)
		done = bulk_write_some(b, b->hello, sdslen(b->hello), &b->hello_pos, &lost);
	else
		done = bulk_write_some(b, b->out, sdslen(b->out), &b->out_pos, &lost);
	if (lost)
		return;
	if (!done) {
		ev_io_start(b->loop, &b->writable);
		return;
	}
	if (!b->tls || !tls_read_wants_write(b->tls))
		ev_io_stop(b->loop, &b->writable);
	if (b->state == BULK_HELLO)
		return;
	b->out_pos = 0;
	if (sdsalloc(b->out) > OUT_KEEP) {
		sdsfree(b->out);
		b->out = sdsempty();
	} else {
		sdsclear(b->out);
	}
}

/* Connected and, if it is to be, safe. */
static void bulk_say_hello(struct bulk *b)
{
	b->state = BULK_HELLO;
	sdsfree(b->hello); /* the password may be another one than at the last connect */
	b->hello = hello_command(&b->options);
	b->hello_pos = 0;
	bulk_progress(b);
	bulk_arm_timeout(b, b->options.reply_timeout_s);
	ev_io_start(b->loop, &b->readable);
	bulk_write(b);
}

static void bulk_shake_hands(struct bulk *b)
{
	switch (tls_handshake(b->tls)) {
	case TLS_AGAIN:
		ev_io_start(b->loop, &b->readable);
		if (tls_read_wants_write(b->tls))
			ev_io_start(b->loop, &b->writable);
		else
			ev_io_stop(b->loop, &b->writable);
		return;
	case TLS_DONE:
		bulk_say_hello(b);
		return;
	case TLS_FAILED:
		bulk_lose(b, "cannot connect: %s", tls_why(b->tls));
		return;
	}
}

static void on_writable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct bulk *b = w->data;
	int error = 0;
	socklen_t len = sizeof(error);

	(void)revents;
	(void)loop;
	if (b->state != BULK_CONNECTING) {
		if (b->tls && tls_read_wants_write(b->tls) && !bulk_read(b))
			return;
		bulk_write(b);
		return;
	}
	if (!b->tls) {
		if (getsockopt(b->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
			error = errno;
		if (error) {
			bulk_lose(b, "cannot connect: %s", strerror(error));
			return;
		}
		if (b->options.tls)
			b->tls = tls_connect(b->options.tls, b->fd, b->options.node);
	}
	if (b->tls)
		bulk_shake_hands(b);
	else
		bulk_say_hello(b);
}

static void bulk_flush(struct bulk *b)
{
	ev_prepare_stop(b->loop, &b->flush);
	ev_timer_stop(b->loop, &b->flush_now);
	if (b->state == BULK_DOWN)
		bulk_connect(b);
	else if (b->state == BULK_UP && !ev_is_active(&b->writable))
		bulk_write(b);
}

static void on_flush(struct ev_loop *loop, ev_prepare *w, int revents)
{
	(void)loop;
	(void)revents;
	bulk_flush(w->data);
}

static void on_flush_now(struct ev_loop *loop, ev_timer *w, int revents)
{
	(void)loop;
	(void)revents;
	bulk_flush(w->data);
}

static void on_timeout(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct bulk *b = w->data;
	bool connecting = b->state == BULK_CONNECTING;
	double limit = connecting ? b->options.connect_timeout_s : b->options.reply_timeout_s;

	(void)revents;
	if (b->state == BULK_UP && b->awaited == 0)
		return;
	/* The loop may have been late itself: what has arrived meanwhile is progress. A loss inside leaves nothing to do here; the depth
	 * keeps the struct alive until that is known. */
	if (!connecting) {
		b->depth++;
		bulk_read(b);
		b->depth--;
		if (b->closed) {
			if (b->depth == 0)
				bulk_release(b);
			return;
		}
		if (b->state == BULK_DOWN || (b->state == BULK_UP && b->awaited == 0))
			return;
	}
	double left = b->progress_at + limit - ev_now(loop);
	if (left > 0)
		bulk_arm_timeout(b, left);
	else
		bulk_lose(b, !connecting ? "no reply for %g s" : b->tls ? "cannot connect: no answer to TLS for %g s: does it speak TLS?" :
			  "cannot connect: no answer for %g s", limit);
}

/* ---- the interface ---- */

struct bulk *bulk_new(struct ev_loop *loop, const struct bulk_options *o)
{
	struct bulk *b = calloc(1, sizeof(*b));

	if (!b)
		out_of_memory();
	b->loop = loop;
	b->options = *o;
	b->options.name[sizeof(b->options.name) - 1] = '\0';
	b->fd = -1;
	b->out = sdsempty();
	resp_reply_init(&b->parser, &resp_default_limits);
	ev_init(&b->readable, on_readable);
	ev_init(&b->writable, on_writable);
	ev_init(&b->flush, on_flush);
	ev_init(&b->flush_now, on_flush_now);
	ev_init(&b->timeout, on_timeout);
	ev_set_priority(&b->flush, EV_MINPRI); /* after every other prepare watcher, which may still send */
	b->readable.data = b->writable.data = b->flush.data = b->flush_now.data = b->timeout.data = b;
	return b;
}

void bulk_free(struct bulk *b)
{
	if (!b)
		return;
	assert(!b->closed);
	b->closed = true; /* from here on bulk_send does nothing, so the ring only shrinks */
	bulk_down(b);
	bulk_answer_lost(b, b->ring_len, "closed");
	if (b->depth == 0)
		bulk_release(b);
}

static void bulk_sent(struct bulk *b, unsigned replies, bulk_fn *fn, void *arg)
{
	if (b->awaited == 0)
		bulk_progress(b); /* nothing was awaited, so nothing was late */
	if (replies > 0)
		ring_push(b, fn, arg, replies);
	if (b->state == BULK_UP && !ev_is_active(&b->timeout))
		bulk_arm_timeout(b, b->options.reply_timeout_s);
	if (!ev_is_active(&b->flush) && (b->state == BULK_DOWN || b->state == BULK_UP)) {
		ev_prepare_start(b->loop, &b->flush);
		ev_timer_set(&b->flush_now, 0., 0.);
		ev_timer_start(b->loop, &b->flush_now);
	}
}

/* What is written already leaves the buffer before it is moved by growing. */
static void bulk_compact(struct bulk *b)
{
	if (b->out_pos < OUT_KEEP || b->out_pos < sdslen(b->out) / 2)
		return;
	sdsrange(b->out, (ssize_t)b->out_pos, -1);
	b->out_pos = 0;
}

static void on_selected(void *arg, struct slice reply, const char *why)
{
	(void)why;
	if (reply.p && reply.n > 3 && *reply.p == '-')
		bulk_lose(arg, "SELECT was refused: %.*s", (int)(reply.n < 200 ? reply.n - 3 : 197), reply.p + 1);
}

static void bulk_select(struct bulk *b, int db)
{
	char number[12];

	if (db == BULK_ANY_DB || db == b->db)
		return;
	snprintf(number, sizeof(number), "%d", db);
	b->db = db;
	b->out = resp_cat_words(b->out, "SELECT", number, NULL);
	bulk_sent(b, 1, on_selected, b);
}

void bulk_send(struct bulk *b, int db, const char *bytes, size_t n, unsigned replies, bulk_fn *fn, void *arg)
{
	if (b->closed)
		return;
	bulk_compact(b);
	bulk_select(b, db);
	b->out = sdscatlen(b->out, bytes, n);
	if (!b->out)
		out_of_memory();
	bulk_sent(b, replies, fn, arg);
}

void bulk_command(struct bulk *b, int db, bulk_fn *fn, void *arg, ...)
{
	const char *word;
	int words = 0;
	va_list ap;

	if (b->closed)
		return;
	va_start(ap, arg);
	while (va_arg(ap, const char *))
		words++;
	va_end(ap);
	bulk_compact(b);
	bulk_select(b, db);
	b->out = resp_cat_len(b->out, '*', words);
	va_start(ap, arg);
	while ((word = va_arg(ap, const char *)))
		b->out = resp_cat_bulk(b->out, slice(word, strlen(word)));
	va_end(ap);
	bulk_sent(b, 1, fn, arg);
}

void bulk_set_password(struct bulk *b, const char *password)
{
	b->options.password = password;
}

bool bulk_is_up(const struct bulk *b)
{
	return b->state == BULK_UP;
}

unsigned bulk_awaited(const struct bulk *b)
{
	return b->awaited;
}
