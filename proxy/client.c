#include "proxy/client_internal.h"

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

#define HANDSHAKE_LIMIT_S 5.0 /* who has not shown by then that it speaks TLS is closed */
#define LINGER_TURNS 2 /* more brings nothing */
#define LINGER_BYTES 16384 /* what is as large as that is worth a write of its own */

static void on_writable(struct ev_loop *loop, ev_io *w, int revents);

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

/* Its share of this turn is used up: others first. */
void client_later(struct worker *w, struct client *c)
{
	if (c->again || client_is_dead(c))
		return;
	c->again = true;
	c->again_next = w->later_clients;
	w->later_clients = c;
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

void client_handshake_ends(struct client *c)
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
	client_end(c);
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

struct tls *client_leave_tls(struct client *c, int fd, int *tls_fd)
{
	struct tls *tls = c->tls;

	assert(!ev_is_active(&c->reader) && !ev_is_active(&c->writer));
	client_handshake_ends(c);
	*tls_fd = c->reader.fd;
	ev_io_set(&c->reader, fd, EV_READ);
	ev_io_set(&c->writer, fd, EV_WRITE);
	c->tls = NULL;
	return tls;
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
	ev_io_init(&c->reader, client_readable, fd, EV_READ);
	ev_io_init(&c->writer, on_writable, fd, EV_WRITE);
	c->reader.data = c->writer.data = c;
	ev_io_start(w->loop, &c->reader);
	c->next = w->clients;
	if (c->next)
		c->next->prev = c;
	w->clients = c;
	atomic_fetch_add_explicit(&w->stats->clients, 1, memory_order_relaxed);
	stat_bump(&w->stats->connections);
	if (tls)
		begin_tls(c);
	return c;
}

/* The connection ends now; the memory is given back at the end of the turn, when no list can hold it. */
void client_end(struct client *c)
{
	struct worker *w = c->worker;

	if (client_is_dead(c))
		return;
	ev_io_stop(w->loop, &c->reader);
	ev_io_stop(w->loop, &c->writer);
	if (c->tls) {
		client_handshake_ends(c);
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
	client_drop_input(c);
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
	client_end(c);
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
	return !client_is_dead(c);
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

/* --- output --- */

static void on_writable(struct ev_loop *loop, ev_io *io, int revents)
{
	struct client *c = io->data;

	(void)revents;
	ev_io_stop(loop, io);
	if (c->tls && tls_read_wants_write(c->tls))
		client_readable(loop, &c->reader, EV_READ);
	client_flush_soon(c->worker, c);
}

static void flush_one(struct worker *w, struct client *c)
{
	if (c->hold)
		hold_turn(w, c);
	if (!ev_is_active(&c->writer) && outq_write(&c->out, c->reader.fd, c->tls) < 0) {
		client_end(c);
		return;
	}
	if (__builtin_expect(c->streaming, 0) && !stream_flushed(w, c))
		return;
	if (!outq_empty(&c->out)) {
		ev_io_start(w->loop, &c->writer);
		if (c->out.bytes > (size_t)w->fleet->config->client_output_max)
			client_output_over(c, "does not read its replies", c->out.bytes);
	} else if (c->closing && !c->head) {
		client_end(c);
	}
	if (c->paused && !c->hold && !c->held && !c->parked && !client_is_dead(c) && client_has_room(c))
		client_again_soon(w, c);
}

void clients_resume(struct worker *w)
{
	for (struct client *c = w->clients; c; c = c->next) {
		if (c->held && !client_is_dead(c))
			client_again_soon(w, c);
		c->held = false;
	}
}

/* While the loop waits for more requests, the replies of a pipeline wait for those behind them: what comes from several nodes, or by several turns, is one write. */
static bool lingers(const struct worker *w, const struct client *c)
{
	return c->head && c->lingered < LINGER_TURNS && c->out.bytes < LINGER_BYTES && worker_lingers(w) && !c->hold && !c->paused && !c->closing && !c->parked && !c->streaming;
}

static void linger(struct worker *w, struct client *c)
{
	c->flushing = true;
	c->lingered++;
	c->flush_next = w->lingering;
	w->lingering = c;
}

static void lingered(struct worker *w)
{
	struct client *c;

	while ((c = w->lingering)) {
		w->lingering = c->flush_next;
		c->flushing = false;
		client_flush_soon(w, c);
	}
}

void clients_turn(struct worker *w)
{
	struct client *c;

	while ((c = w->later_clients)) {
		w->later_clients = c->again_next;
		c->again = false;
		client_again_soon(w, c);
	}
	lingered(w);
}

static void flush_list(struct worker *w, struct client *list)
{
	struct client *c;

	while ((c = list)) {
		list = c->flush_next;
		c->flushing = false;
		if (client_is_dead(c) && !c->again) {
			client_free(c);
		} else if (client_is_dead(c)) {
			client_flush_soon(w, c);
		} else if (lingers(w, c)) {
			linger(w, c);
		} else {
			c->lingered = 0;
			flush_one(w, c);
		}
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
			if (client_is_dead(c))
				continue;
			c->paused = false;
			if (!c->closing)
				ev_io_start(w->loop, &c->reader);
			if (c->in)
				client_look(w, c);
			if (c->tls)
				client_read_rest(w, c);
		}
		struct client *list = w->flush_clients;
		w->flush_clients = NULL;
		flush_list(w, list);
	}
}

/* --- all of them --- */

void clients_close_idle(struct worker *w)
{
	for (struct client *c = w->clients; c; c = c->next) {
		if (!client_is_dead(c) && !c->head && outq_empty(&c->out) && !c->in)
			client_end(c);
		else if (c->parked && !c->parked->leaves)
			blocked_leave(w, c, UNPARK_END);
	}
}

void clients_close_all(struct worker *w)
{
	for (struct client *c = w->clients; c; c = c->next)
		client_end(c);
	lingered(w);
	clients_flush(w);
}
