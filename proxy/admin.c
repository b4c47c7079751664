#include "proxy/admin.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/admin_internal.h"
#include "proxy/listen.h"
#include "proxy/log.h"
#include "resp/parse.h"
#include "resp/write.h"

#define CONNS_MAX 64
#define IN_MAX (64 * 1024)   /* bytes of one request */
#define OUT_MAX (4 * 1024 * 1024)

static const struct resp_limits limits = { .max_args = 64, .max_bulk = 8192, .max_inline = 8192, .max_depth = 4 };

struct admin {
	struct ev_loop *loop;
	struct control *control;
	char *path;
	int fd;
	ev_io accept;
	unsigned nconns;
	struct admin_conn *conns;
};

struct admin_conn {
	struct admin *admin;
	struct admin_conn *next, **at; /* in admin->conns */
	int fd;
	ev_io readable, writable;
	struct resp_request parser;
	char in[IN_MAX];
	size_t in_len;
	sds out;
	size_t out_pos;
	struct admin_wait *wait; /* an order is under way: nothing is read meanwhile */
	bool closing;            /* after what is to be written */
	bool busy;               /* in conn_run: do not free */
	bool dead;
};

/* ---- writing ---- */

static void conn_free(struct admin_conn *c)
{
	if (c->busy) {
		c->dead = true;
		return;
	}
	if (c->wait)
		c->wait->conn = NULL; /* its answer goes nowhere */
	ev_io_stop(c->admin->loop, &c->readable);
	ev_io_stop(c->admin->loop, &c->writable);
	*c->at = c->next;
	if (c->next)
		c->next->at = c->at;
	c->admin->nconns--;
	close(c->fd);
	resp_request_release(&c->parser);
	sdsfree(c->out);
	free(c);
}

static void conn_write(struct admin_conn *c)
{
	size_t n = sdslen(c->out);

	while (c->out_pos < n) {
		ssize_t w = send(c->fd, c->out + c->out_pos, n - c->out_pos, MSG_NOSIGNAL);
		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0 && errno == EAGAIN && n - c->out_pos < OUT_MAX) {
			ev_io_start(c->admin->loop, &c->writable);
			return;
		}
		if (w <= 0) {
			conn_free(c);
			return;
		}
		c->out_pos += (size_t)w;
	}
	sdsclear(c->out);
	c->out_pos = 0;
	ev_io_stop(c->admin->loop, &c->writable);
	if (c->closing)
		conn_free(c);
}

static void on_writable(struct ev_loop *loop, ev_io *w, int revents)
{
	(void)loop;
	(void)revents;
	conn_write(w->data);
}

sds *admin_out(struct admin_conn *c)
{
	return &c->out;
}

struct control *admin_control(struct admin_conn *c)
{
	return c->admin->control;
}

void admin_close_after(struct admin_conn *c)
{
	c->closing = true;
}

void admin_reply(struct admin_conn *c, enum answer_code code, const char *text)
{
	static const char *const words[] = { [ANSWER_REFUSED] = "REFUSED", [ANSWER_USAGE] = "USAGE", [ANSWER_UNREACHABLE] = "UNREACHABLE",
					     [ANSWER_TIMEDOUT] = "TIMEDOUT" };
	sds line;

	switch (code) {
	case ANSWER_JSON:
		c->out = resp_cat_bulk(c->out, slice(text, strlen(text)));
		return;
	case ANSWER_OK:
		line = sdscatprintf(sdsempty(), "OK %s", text);
		c->out = resp_cat_simple(c->out, line);
		break;
	default:
		line = sdscatprintf(sdsempty(), "%s %s", words[code], text);
		c->out = resp_cat_error(c->out, line);
	}
	sdsfree(line);
}

/* ---- orders that take a while ---- */

static void conn_run(struct admin_conn *c);

static void on_answer(void *arg, enum answer_code code, const char *text)
{
	struct admin_wait *w = arg;
	struct admin_conn *c = w->conn;

	free(w);
	if (!c)
		return;
	c->wait = NULL;
	admin_reply(c, code, text);
	if (!c->busy) /* else conn_run goes on by itself */
		conn_run(c);
}

struct answer admin_wait(struct admin_conn *c)
{
	struct admin_wait *w = calloc(1, sizeof(*w));

	assert(!c->wait);
	w->conn = c;
	c->wait = w;
	return (struct answer){ on_answer, w };
}

/* ---- reading ---- */

/* Runs what is in the buffer, until something has to wait. */
static void conn_run(struct admin_conn *c)
{
	size_t pos = 0;

	c->busy = true;
	while (!c->wait && !c->closing && !c->dead && pos < c->in_len) {
		enum resp_status st = resp_request_parse(&c->parser, c->in + pos, c->in_len - pos);
		if (st == RESP_MORE && (pos > 0 || c->in_len < IN_MAX))
			break;
		if (st != RESP_OK) {
			c->out = resp_cat_error(c->out, st == RESP_BAD && c->parser.error ? c->parser.error : "USAGE the request is too long");
			c->closing = true;
			break;
		}
		admin_command(c, &c->parser, c->in + pos);
		pos += c->parser.used;
		resp_request_reset(&c->parser);
	}
	c->in_len -= pos;
	memmove(c->in, c->in + pos, c->in_len);
	if (pos > 0)
		resp_request_reset(&c->parser); /* its offsets were those of the old place */
	c->busy = false;
	if (c->dead)
		conn_free(c);
	else
		conn_write(c);
}

static void on_readable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct admin_conn *c = w->data;

	(void)revents;
	if (c->in_len == IN_MAX) { /* only while something waits */
		ev_io_stop(loop, w);
		return;
	}
	ssize_t n = recv(c->fd, c->in + c->in_len, IN_MAX - c->in_len, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		conn_free(c);
		return;
	}
	c->in_len += (size_t)n;
	conn_run(c);
}

static void on_accept(struct ev_loop *loop, ev_io *w, int revents)
{
	struct admin *a = w->data;
	int fd = accept4(a->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	(void)revents;
	if (fd < 0)
		return;
	if (a->nconns >= CONNS_MAX) {
		static const char full[] = "-REFUSED too many admin connections: close some\r\n";
		if (send(fd, full, sizeof(full) - 1, MSG_NOSIGNAL) < 0)
			log_verbose("admin: a connection too many");
		close(fd);
		return;
	}
	struct admin_conn *c = calloc(1, sizeof(*c));
	c->admin = a;
	c->fd = fd;
	c->out = sdsempty();
	resp_request_init(&c->parser, &limits);
	c->next = a->conns;
	c->at = &a->conns;
	if (c->next)
		c->next->at = &c->next;
	a->conns = c;
	a->nconns++;
	ev_io_init(&c->readable, on_readable, fd, EV_READ);
	ev_io_init(&c->writable, on_writable, fd, EV_WRITE);
	c->readable.data = c->writable.data = c;
	ev_io_start(loop, &c->readable);
}

/* ---- the socket ---- */

static int listen_unix(const char *path, char *err, size_t errlen)
{
	int fd = listen_bind_unix("admin-socket", path, 0600, err, errlen);

	if (fd < 0 || listen(fd, 16) == 0)
		return fd;
	snprintf(err, errlen, "cannot listen on admin-socket %s: %s", path, strerror(errno));
	close(fd);
	return -1;
}

struct admin *admin_new(struct ev_loop *loop, const char *path, struct control *control, char *err, size_t errlen)
{
	int fd = listen_unix(path, err, errlen);

	if (fd < 0)
		return NULL;
	struct admin *a = calloc(1, sizeof(*a));
	a->loop = loop;
	a->control = control;
	a->path = strdup(path);
	a->fd = fd;
	ev_io_init(&a->accept, on_accept, fd, EV_READ);
	a->accept.data = a;
	ev_io_start(loop, &a->accept);
	return a;
}

void admin_free(struct admin *a)
{
	if (!a)
		return;
	ev_io_stop(a->loop, &a->accept);
	while (a->conns) {
		struct admin_conn *c = a->conns;
		c->busy = false;
		conn_free(c);
	}
	close(a->fd);
	unlink(a->path);
	free(a->path);
	free(a);
}
