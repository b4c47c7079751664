/* What a client sends: read into a block that all share, or into its own while a request is incomplete; parsed, and dispatched as it comes, within its limits. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "net/transport.h"
#include "proxy/bulk.h"
#include "proxy/client_internal.h"
#include "proxy/log.h"

#define READ_ROOM_MIN 4096 /* a read is given at least this much */
#define BELIEVED_MAX (1024 * 1024) /* bytes that a request may announce and be given room for at once */

static bool over_limit(const struct client *c)
{
	return c->hold || c->inflight >= CLIENT_INFLIGHT_MAX || c->asked >= CLIENT_ASKED_MAX || c->out.bytes + c->unsent >= CLIENT_OUT_PAUSE;
}

/* Of one that is over a limit: may it be read again? What it asked for is forgotten all at once, when nothing is in flight any more. */
bool client_has_room(const struct client *c)
{
	return c->inflight < CLIENT_INFLIGHT_MAX / 2 && (c->asked < CLIENT_ASKED_MAX || !c->head) && c->out.bytes + c->unsent < CLIENT_OUT_PAUSE / 2;
}

static void pause_reading(struct worker *w, struct client *c)
{
	c->paused = true;
	ev_io_stop(w->loop, &c->reader);
}

void client_drop_input(struct client *c)
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

/* Parses and dispatches what stands in [*off, used) of the block. False: no more input is wanted from this client. */
static bool take_each(struct worker *w, struct client *c, struct resp_request *p, struct block *b, size_t *off)
{
	for (unsigned share = CLIENT_SHARE; *off < b->used && !c->closing && !client_is_dead(c); share--) {
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
				client_later(w, c);
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

static bool take_requests(struct worker *w, struct client *c, struct resp_request *p, struct block *b, size_t *off)
{
	batch_open(w);
	bool more = take_each(w, c, p, b, off);
	batch_close(w);
	return more && !client_is_dead(c);
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
	client_drop_input(c);
	keep_rest(c, all, sdslen(all), 0);
	sdsfree(all);
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

void client_look(struct worker *w, struct client *c)
{
	enum bulk_step step = c->bulk ? bulk_goes_on(w, c) : BULK_PASSED;

	if (step != BULK_PASSED) {
		if (step == BULK_WAITS)
			pause_reading(w, c);
		return;
	}
	if (!take_requests(w, c, c->parser, c->in, &c->in_off) || c->in_off == c->in->used)
		client_drop_input(c);
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
			client_look(w, c);
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
	client_end(c);
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
		client_end(c);
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
		client_look(w, c);
	else
		take_shared(w, c, b, off);
	if (c->closing && !client_is_dead(c))
		ev_io_stop(w->loop, &c->reader);
}

/* What TLS has taken from the socket already is seen by no poll. At most a record: it ends. */
void client_read_rest(struct worker *w, struct client *c)
{
	while (transport_pending(c->tls) && !c->paused && !c->closing)
		read_once(w, c);
	if (c->handshake && tls_established(c->tls))
		client_handshake_ends(c);
}

void client_readable(struct ev_loop *loop, ev_io *io, int revents)
{
	struct client *c = io->data;

	(void)loop;
	(void)revents;
	read_once(c->worker, c);
	if (c->tls)
		client_read_rest(c->worker, c);
}
