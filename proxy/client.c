#include "proxy/client.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "net/transport.h"
#include "proxy/alone.h"
#include "proxy/bulk.h"
#include "proxy/handover_client.h"
#include "proxy/knot.h"
#include "proxy/log.h"
#include "proxy/monitor.h"
#include "proxy/stream.h"
#include "resp/convert.h"
#include "resp/write.h"

#define READ_ROOM_MIN 4096 /* a read is given at least this much */
#define HANDSHAKE_LIMIT_S 5.0 /* who has not shown by then that it speaks TLS is closed */
#define BELIEVED_MAX (1024 * 1024) /* bytes that a request may announce and be given room for at once */

static void on_readable(struct ev_loop *loop, ev_io *w, int revents);
static void on_writable(struct ev_loop *loop, ev_io *w, int revents);
static void client_drop(struct client *c);

/* --- life --- */

void client_flush_soon(struct worker *w, struct client *c)
{
	if (c->flushing)
		return;
	c->flushing = true;
	tidy_later(&w->tidy);
	c->flush_next = w->flush_clients;
	w->flush_clients = c;
}

void client_again_soon(struct worker *w, struct client *c)
{
	if (c->again)
		return;
	c->again = true;
	c->again_next = w->again_clients;
	w->again_clients = c;
}

static bool is_dead(const struct client *c)
{
	return c->reader.fd < 0;
}

/* Its share of this turn is used up: others first. */
static void later(struct worker *w, struct client *c)
{
	if (c->again || is_dead(c))
		return;
	c->again = true;
	c->again_next = w->later_clients;
	w->later_clients = c;
}

void clients_next_share(struct worker *w)
{
	struct client *c;

	while ((c = w->later_clients)) {
		w->later_clients = c->again_next;
		c->again = false;
		client_again_soon(w, c);
	}
}

static void later_forget(struct worker *w, struct client *c)
{
	struct client **at = &w->later_clients;

	while (*at && *at != c)
		at = &(*at)->again_next;
	if (!*at)
		return;
	*at = c->again_next;
	c->again = false;
}

struct handshake {
	ev_timer deadline;
};

static void handshake_end(struct client *c)
{
	if (!c->handshake)
		return;
	ev_timer_stop(c->worker->loop, &c->handshake->deadline);
	free(c->handshake);
	c->handshake = NULL;
}

static void on_handshake_late(struct ev_loop *loop, ev_timer *t, int revents)
{
	struct client *c = t->data;

	(void)loop;
	(void)revents;
	log_limited(LOG_VERBOSE, "client %llu: no TLS handshake within %g s; closed", (unsigned long long)c->id, HANDSHAKE_LIMIT_S);
	client_drop(c);
}

/* The handshake itself is part of reading. */
static void begin_tls(struct client *c)
{
	c->tls = tls_accept(c->worker->fleet->config->tls, c->reader.fd);
	c->handshake = malloc(sizeof *c->handshake);
	if (!c->handshake)
		abort();
	ev_timer_init(&c->handshake->deadline, on_handshake_late, HANDSHAKE_LIMIT_S, 0.);
	c->handshake->deadline.data = c;
	ev_timer_start(c->worker->loop, &c->handshake->deadline);
}

struct client *client_new(struct worker *w, int fd, bool tls)
{
	struct client *c = calloc(1, sizeof *c);
	int one = 1;
	struct timespec ts;

	if (!c)
		abort();
	clock_gettime(CLOCK_REALTIME, &ts);
	c->worker = w;
	c->proto = 2;
	client_become_default(c);
	c->since_ms = ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
	c->seen = ev_now(w->loop);
	c->id = atomic_fetch_add(&w->fleet->next_client_id, 1) + 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	ev_io_init(&c->reader, on_readable, fd, EV_READ);
	ev_io_init(&c->writer, on_writable, fd, EV_WRITE);
	c->reader.data = c->writer.data = c;
	ev_io_start(w->loop, &c->reader);
	c->next = w->clients;
	if (c->next)
		c->next->prev = c;
	w->clients = c;
	atomic_fetch_add(&w->fleet->nclients, 1);
	atomic_fetch_add_explicit(&w->stats->clients, 1, memory_order_relaxed);
	stat_bump(&w->stats->connections);
	if (tls)
		begin_tls(c);
	return c;
}

static void drop_input(struct client *c)
{
	block_unref(c->in);
	c->in = NULL;
	c->in_off = 0;
	if (c->parser) {
		resp_request_release(c->parser);
		free(c->parser);
		c->parser = NULL;
	}
}

/* The connection ends now; the memory is given back at the end of the turn, when no list can hold it. */
static void client_drop(struct client *c)
{
	struct worker *w = c->worker;

	if (is_dead(c))
		return;
	ev_io_stop(w->loop, &c->reader);
	ev_io_stop(w->loop, &c->writer);
	if (c->tls) {
		handshake_end(c);
		tls_close(c->tls, outq_empty(&c->out));
		c->tls = NULL;
	}
	close(c->reader.fd);
	c->reader.fd = -1;
	if (c->parked)
		blocked_leave(w, c, UNPARK_GONE);
	c->parked = NULL;
	if (c->bulk)
		bulk_abandon(c);
	for (struct req *r = c->head, *next; r; r = next) {
		next = r->next;
		r->client = NULL;
		if (r->done || r->parked)
			req_free(w, r);
	}
	c->head = c->tail = NULL;
	c->streaming = false;
	if (c->again)
		later_forget(w, c);
	client_flush_soon(w, c);
}

static void client_free(struct client *c)
{
	struct worker *w = c->worker;

	*(c->prev ? &c->prev->next : &w->clients) = c->next;
	if (c->next)
		c->next->prev = c->prev;
	atomic_fetch_sub(&w->fleet->nclients, 1);
	atomic_fetch_sub_explicit(&w->stats->clients, 1, memory_order_relaxed);
	drop_input(c);
	session_free(c);
	pubsub_free_client(c);
	monitor_leave(c);
	outq_clear(&c->out);
	sdsfree(c->name);
	sdsfree(c->lib_name);
	sdsfree(c->lib_ver);
	w->tidy.freed += sizeof *c;
	free(c);
}

void client_end(struct client *c)
{
	client_drop(c);
}

void client_close_after_replies(struct worker *w, struct client *c)
{
	c->closing = true;
	client_flush_soon(w, c);
}

/* --- replies --- */

bool client_is_quiet(const struct client *c)
{
	return c->quiet == QUIET_OFF || c->quiet == QUIET_THIS;
}

void client_enqueue(struct client *c, struct req *r)
{
	r->client = c;
	r->from = (uint32_t)c->id;
	r->proto = c->proto;
	r->db = c->db;
	r->silent |= client_is_quiet(c);
	r->next = NULL;
	*(c->tail ? &c->tail->next : &c->head) = r;
	c->tail = r;
	c->inflight++;
}

void client_await(struct client *c, struct req *r)
{
	if (c->session && c->session->exec)
		txn_await(c, r);
	else
		client_enqueue(c, r);
}

static void send_held(struct worker *w, struct req *r)
{
	if (r->cmd->policy == POLICY_ALONE)
		alone_submit(w, r);
	else
		worker_submit(w, r);
}

void client_hold_for(struct worker *w, struct client *c, struct req *r)
{
	c->hold = true;
	r->parked = c->head != NULL;
	client_enqueue(c, r);
	if (!r->parked)
		send_held(w, r);
}

/* What is held for is the last request: nothing behind it was read. */
static void hold_turn(struct worker *w, struct client *c)
{
	if (!c->head) {
		c->hold = false;
	} else if (c->head->parked) {
		c->head->parked = false;
		send_held(w, c->head);
	}
}

static void emit(struct worker *w, struct client *c, struct req *r)
{
	if (r->txn) {
		txn_emit(w, c, r);
		return;
	}
	if (r->silent) {
		if (r->probe)
			bulk_probed(c, r);
		return;
	}
	if (r->proto == 2 && r->cmd && resp2_differs(r->cmd, slice(r->reply, r->reply_len))) { /* without cmd it is our own, and right as it is */
		uint32_t argc = words_again(w, r->bytes, r->len);
		sds out = resp2_convert(sdsempty(), r->cmd, argc, w->argv, slice(r->reply, r->reply_len));
		outq_add(&c->out, out, sdslen(out), NULL);
		sdsfree(out);
		return;
	}
	outq_add(&c->out, r->reply, r->reply_len, r->reply_block);
}

void client_output_over(struct client *c, const char *why, size_t bytes)
{
	if (c->worker->handing && handover_stopped(c->worker)) /* its descriptor is being given away */
		return;
	log_limited(LOG_WARNING, "client %llu %s: %zu bytes wait, over client-output-max; closed", (unsigned long long)c->id, why, bytes);
	client_drop(c);
}

/* The blocking command has its answer; none: another process goes on with it, or the proxy ends, and the client is let go as a server does. */
static void unparked(struct worker *w, struct client *c)
{
	if (!c->parked->reply_len && w->handing)
		handover_keep_waiting(c, c->parked);
	else if (!c->parked->reply_len)
		client_close_after_replies(w, c);
	c->parked = NULL;
	if (c->in || c->paused)
		client_again_soon(w, c);
}

void client_done(struct worker *w, struct req *r)
{
	struct client *c = r->client;

	if (r->exec) {
		txn_answered(w, r);
		return;
	}
	if (c && r->txn && !txn_complete(w, c, r))
		return;
	r->done = true;
	if (!c) {
		req_free(w, r);
		return;
	}
	if (c->parked == r)
		unparked(w, c);
	if (__builtin_expect(r->knot, 0)) {
		r->knot = false;
		if (knot_untie(c, r)) {
			c->held = false;
			client_again_soon(w, c);
		}
	}
	c->unsent += r->reply_len;
	if (c->head != r) {
		if (c->unsent > (size_t)w->fleet->config->client_output_max)
			client_output_over(c, "waits for a reply that others are behind", c->unsent);
		return;
	}
	while ((r = c->head) && r->done) {
		c->unsent -= r->reply_len;
		emit(w, c, r);
		if (__builtin_expect(r->stream != NULL, 0) && !stream_emit(c, r))
			break;
		if (r->subscribes)
			pubsub_shown(c);
		c->head = r->next;
		if (!c->head)
			c->tail = NULL;
		c->inflight--;
		req_free(w, r);
	}
	c->held &= c->head != NULL; /* what waited for all of it may be looked at again */
	client_flush_soon(w, c);
	if (c->parked && c->parked == c->head && c->parked->waiting)
		waiting_begin(c->parked->waiting);
}

void client_goes_on(struct worker *w, struct client *c)
{
	client_done(w, c->head); /* of which nothing is left to do but to give on what has come */
}

struct outq *client_pushes(struct client *c)
{
	return __builtin_expect(c->streaming, 0) ? &c->head->stream->behind : &c->out;
}

/* There may be room for more of its reply. False: too much waits for it to read, it is closed. */
static bool stream_flushed(struct worker *w, struct client *c)
{
	size_t behind = c->unsent + client_pushes(c)->bytes;

	if (c->out.bytes + behind > (size_t)w->fleet->config->client_output_max)
		client_output_over(c, "does not read a large reply", c->out.bytes + behind);
	else if (stream_may_go_on(c))
		client_goes_on(w, c);
	return !is_dead(c);
}

void client_reply(struct worker *w, struct client *c, sds reply)
{
	if (c->session && c->session->exec) {
		txn_take_answer(c, reply);
	} else if (!c->head) {
		if (!client_is_quiet(c))
			outq_add(&c->out, reply, sdslen(reply), NULL);
		client_flush_soon(w, c);
	} else {
		struct req *r = req_new(w);
		r->reply_block = block_copy(reply, sdslen(reply));
		r->reply = r->reply_block->data;
		r->reply_len = sdslen(reply);
		r->done = true;
		c->unsent += r->reply_len;
		client_enqueue(c, r);
	}
	sdsfree(reply);
}

void client_error(struct worker *w, struct client *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	sds text = sdscatvprintf(sdsempty(), fmt, ap);
	va_end(ap);
	client_reply(w, c, resp_cat_error(sdsempty(), text));
	sdsfree(text);
}

/* --- input --- */

static bool over_limit(const struct client *c)
{
	return c->hold || c->inflight >= CLIENT_INFLIGHT_MAX || c->asked >= CLIENT_ASKED_MAX || c->out.bytes + c->unsent >= CLIENT_OUT_PAUSE;
}

/* Of one that is over a limit: may it be read again? What it asked for is forgotten all at once, when nothing is in flight any more. */
static bool has_room(const struct client *c)
{
	return c->inflight < CLIENT_INFLIGHT_MAX / 2 && (c->asked < CLIENT_ASKED_MAX || !c->head) && c->out.bytes + c->unsent < CLIENT_OUT_PAUSE / 2;
}

static void pause_reading(struct worker *w, struct client *c)
{
	c->paused = true;
	ev_io_stop(w->loop, &c->reader);
}

/* Parses and dispatches what stands in [*off, used) of the block. False: no more input is wanted from this client. */
static bool take_requests(struct worker *w, struct client *c, struct resp_request *p, struct block *b, size_t *off)
{
	for (unsigned share = CLIENT_SHARE; *off < b->used && !c->closing; share--) {
		if (c->parked) {
			if (b->used - *off > CLIENT_OUT_PAUSE)
				pause_reading(w, c);
			return true;
		}
		if (!c->head)
			c->asked = 0;
		if (over_limit(c) || !share) {
			pause_reading(w, c);
			if (!share)
				later(w, c);
			return true;
		}
		const char *at = b->data + *off;
		p->limits = c->user ? &resp_default_limits : &resp_stranger_limits;
		enum resp_status s = resp_request_parse(p, at, b->used - *off);
		if (s == RESP_MORE)
			return true;
		if (s == RESP_BAD) {
			client_error(w, c, "ERR %s", p->error);
			client_close_after_replies(w, c);
			return false;
		}
		size_t used = p->used;
		c->held = !dispatch_request(w, c, p, b, at);
		if (c->held) {
			resp_request_reset(p);
			pause_reading(w, c);
			return true;
		}
		*off += used;
		c->asked += used;
		resp_request_reset(p);
	}
	return !c->closing;
}

/* Beyond a size room grows with what has come: otherwise a few bytes that announce much take the memory of all. */
static size_t room_for(size_t need, size_t have)
{
	size_t limit = 4 * have > BELIEVED_MAX ? 4 * have + BLOCK_SIZE : BELIEVED_MAX; /* words before a bulk do not make it one step more */

	return need < limit ? need : limit;
}

/* An incomplete request moves into a block of the client's own, with room for what it is known to need. */
static void keep_rest(struct client *c, const char *p, size_t n, size_t need)
{
	size_t room = room_for(need, n), cap = room > 2 * n ? room : 2 * n;
	struct block *b = block_new(cap < BLOCK_SIZE ? BLOCK_SIZE : cap);

	memcpy(b->data, p, n);
	b->used = n;
	c->in = b;
	c->in_off = 0;
	c->parser = malloc(sizeof *c->parser);
	if (!c->parser)
		abort();
	resp_request_init(c->parser, &resp_default_limits);
}

void client_put_back(struct client *c, const char *p, size_t n)
{
	sds all = sdsnewlen(p, n);

	if (c->in)
		all = sdscatlen(all, c->in->data + c->in_off, c->in->used - c->in_off);
	drop_input(c);
	keep_rest(c, all, sdslen(all), 0);
	sdsfree(all);
}

struct tls *client_leave_tls(struct client *c, int fd, int *tls_fd)
{
	struct tls *tls = c->tls;

	assert(!ev_is_active(&c->reader) && !ev_is_active(&c->writer));
	handshake_end(c);
	*tls_fd = c->reader.fd;
	ev_io_set(&c->reader, fd, EV_READ);
	ev_io_set(&c->writer, fd, EV_WRITE);
	c->tls = NULL;
	return tls;
}

static void make_room(struct client *c)
{
	struct block *b = c->in;
	size_t left = b->used - c->in_off, room = room_for(c->parser->need, left);
	size_t want = room > left + READ_ROOM_MIN ? room : left + READ_ROOM_MIN;

	if (c->parser->need > BELIEVED_MAX && b->cap - b->used >= READ_ROOM_MIN)
		return;
	if (b->cap - c->in_off >= want && b->cap > b->used)
		return;
	size_t grown = want > 2 * left ? want : 2 * left; /* what an array needs is known one word at a time */
	if (block_is_sole(b)) {
		if (c->in_off)
			memmove(b->data, b->data + c->in_off, left);
		b->used = left;
		if (b->cap < want)
			c->in = b = block_grow(b, grown);
	} else {
		struct block *bigger = block_new(grown);
		memcpy(bigger->data, b->data + c->in_off, left);
		block_unref(b);
		c->in = b = bigger;
	}
	b->used = left;
	c->in_off = 0;
}

static void take_own(struct worker *w, struct client *c)
{
	enum bulk_step step = c->bulk ? bulk_goes_on(w, c) : BULK_PASSED;

	if (step != BULK_PASSED) {
		if (step == BULK_WAITS)
			pause_reading(w, c);
		return;
	}
	if (!take_requests(w, c, c->parser, c->in, &c->in_off) || c->in_off == c->in->used)
		drop_input(c);
	else if (c->parser->need >= BULK_LEAST && bulk_begins(w, c))
		pause_reading(w, c);
}

/* The shared read block: its tail is free as long as requests of earlier reads are held. */
static struct block *shared_block(struct worker *w)
{
	struct block *b = w->read_block;

	if (b && block_is_sole(b))
		b->used = 0;
	if (!b || b->cap - b->used < READ_ROOM_MIN) {
		block_unref(b);
		b = w->read_block = block_new(BLOCK_LARGE);
	}
	return b;
}

static void take_shared(struct worker *w, struct client *c, struct block *b, size_t off)
{
	block_ref(b);
	resp_request_reset(&w->parser);
	if (take_requests(w, c, &w->parser, b, &off) && off < b->used) {
		bool large = w->parser.need >= BULK_LEAST;
		keep_rest(c, b->data + off, b->used - off, large ? 0 : w->parser.need);
		if (large)
			take_own(w, c);
	}
	block_unref(b);
}

static void read_failed(struct worker *w, struct client *c, int error)
{
	if (error == EAGAIN || error == EINTR) {
		if (c->tls && tls_read_wants_write(c->tls))
			ev_io_start(w->loop, &c->writer);
		return;
	}
	if (c->tls && error == EPROTO)
		log_limited(LOG_VERBOSE, "client %llu: %s; closed", (unsigned long long)c->id, tls_why(c->tls));
	client_drop(c);
}

/* What is parsed in one turn is what is read in one: words by the block, the inside of a large one more at once. */
static size_t read_most(const struct client *c, size_t used)
{
	size_t known = c->in && c->parser->need > used - c->in_off ? c->parser->need - (used - c->in_off) : 0;

	return known < BLOCK_LARGE ? BLOCK_LARGE : known < BELIEVED_MAX ? known : BELIEVED_MAX;
}

/* Of a large request that is passed on nothing is kept but what the connection has not taken yet. */
static void bulk_room(struct client *c)
{
	struct block *b = c->in;

	assert(c->in_off == b->used);
	if (block_is_sole(b))
		b->used = c->in_off = 0;
	if (b->cap - b->used >= READ_ROOM_MIN)
		return;
	block_unref(b);
	c->in = block_new(BLOCK_LARGE);
	c->in_off = 0;
}

static void read_once(struct worker *w, struct client *c)
{
	bool own = c->in != NULL;
	struct block *b;

	if (own && bulk_is_passing(c) && c->in_off == c->in->used) /* else CLIENT PAUSE holds it, and TLS had to be read */
		bulk_room(c);
	else if (own)
		make_room(c);
	b = own ? c->in : shared_block(w);
	size_t off = b->used, room = b->cap - off, most = c->bulk ? BLOCK_LARGE : read_most(c, off);
	ssize_t n = transport_read(c->reader.fd, c->tls, b->data + off, room < most ? room : most);
	if (n < 0) {
		read_failed(w, c, errno);
		return;
	}
	if (n == 0 && (c->parked || bulk_is_passing(c))) {
		client_drop(c);
		return;
	}
	if (n == 0) { /* it may still read what it asked for (printf … | nc) */
		ev_io_stop(w->loop, &c->reader);
		client_close_after_replies(w, c);
		return;
	}
	b->used += (size_t)n;
	gather_read(&w->gather, c, c->seen);
	c->seen = ev_now(w->loop);
	if (own)
		take_own(w, c);
	else
		take_shared(w, c, b, off);
	if (c->closing && !is_dead(c))
		ev_io_stop(w->loop, &c->reader);
}

/* What TLS has taken from the socket already is seen by no poll. At most a record: it ends. */
static void read_rest(struct worker *w, struct client *c)
{
	while (transport_pending(c->tls) && !c->paused && !c->closing)
		read_once(w, c);
	if (c->handshake && tls_established(c->tls))
		handshake_end(c);
}

static void on_readable(struct ev_loop *loop, ev_io *io, int revents)
{
	struct client *c = io->data;

	(void)loop;
	(void)revents;
	read_once(c->worker, c);
	if (c->tls)
		read_rest(c->worker, c);
}

/* --- output --- */

static void on_writable(struct ev_loop *loop, ev_io *io, int revents)
{
	struct client *c = io->data;

	(void)revents;
	ev_io_stop(loop, io);
	if (c->tls && tls_read_wants_write(c->tls))
		on_readable(loop, &c->reader, EV_READ);
	client_flush_soon(c->worker, c);
}

static void flush_one(struct worker *w, struct client *c)
{
	if (c->hold)
		hold_turn(w, c);
	if (!ev_is_active(&c->writer) && outq_write(&c->out, c->reader.fd, c->tls) < 0) {
		client_drop(c);
		return;
	}
	if (__builtin_expect(c->streaming, 0) && !stream_flushed(w, c))
		return;
	if (!outq_empty(&c->out)) {
		ev_io_start(w->loop, &c->writer);
		if (c->out.bytes > (size_t)w->fleet->config->client_output_max)
			client_output_over(c, "does not read its replies", c->out.bytes);
	} else if (c->closing && !c->head) {
		client_drop(c);
	}
	if (c->paused && !c->hold && !c->held && !c->parked && !is_dead(c) && has_room(c))
		client_again_soon(w, c);
}

void clients_resume(struct worker *w)
{
	for (struct client *c = w->clients; c; c = c->next) {
		if (c->held && !is_dead(c))
			client_again_soon(w, c);
		c->held = false;
	}
}

/* Before the loop sleeps: input that waited for room, then one write per client. */
void clients_flush(struct worker *w)
{
	while (w->again_clients || w->flush_clients) {
		struct client *c;
		while ((c = w->again_clients)) {
			w->again_clients = c->again_next;
			c->again = false;
			if (is_dead(c))
				continue;
			c->paused = false;
			if (!c->closing)
				ev_io_start(w->loop, &c->reader);
			if (c->in)
				take_own(w, c);
			if (c->tls)
				read_rest(w, c);
		}
		struct client *list = w->flush_clients;
		w->flush_clients = NULL;
		while ((c = list)) {
			list = c->flush_next;
			c->flushing = false;
			if (!is_dead(c))
				flush_one(w, c);
			else if (!c->again)
				client_free(c);
			else
				client_flush_soon(w, c);
		}
	}
}

/* --- all of them --- */

void clients_close_idle(struct worker *w)
{
	for (struct client *c = w->clients; c; c = c->next) {
		if (!is_dead(c) && !c->head && outq_empty(&c->out) && !c->in)
			client_drop(c);
		else if (c->parked && !c->parked->leaves)
			blocked_leave(w, c, UNPARK_END);
	}
}

void clients_close_all(struct worker *w)
{
	for (struct client *c = w->clients; c; c = c->next)
		client_drop(c);
	clients_flush(w);
}
