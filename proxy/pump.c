#include "proxy/pump.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/transport.h"

#define FLOW_SIZE (16 * 1024)
#define HANDSHAKE_LIMIT_S 5.0

struct flow { /* [from, to) waits to be written */
	size_t from, to;
	bool ended; /* its reader has seen the end */
	char buf[FLOW_SIZE];
};

struct pipe {
	struct pipe *prev, *next;
	struct pumps *all;
	struct tls *tls;
	ev_io outside, inside; /* the TLS client, the successor */
	struct flow in, out;   /* from the client, to the client */
	bool shut;             /* the successor was told of the client's end */
};

struct pumps {
	struct ev_loop *loop;
	struct pipe *pipes;
	unsigned n;
	ev_timer handshakes;
};

static void pipe_free(struct pipe *p, bool orderly)
{
	struct pumps *all = p->all;

	ev_io_stop(all->loop, &p->outside);
	ev_io_stop(all->loop, &p->inside);
	tls_close(p->tls, orderly);
	close(p->outside.fd);
	close(p->inside.fd);
	*(p->prev ? &p->prev->next : &all->pipes) = p->next;
	if (p->next)
		p->next->prev = p->prev;
	free(p);
	if (--all->n == 0)
		ev_break(all->loop, EVBREAK_ALL);
}

static bool is_empty(const struct flow *f)
{
	return f->from == f->to;
}

/* 1: something moved, 0: nothing to do now, -1: it is broken. */
static int fill(struct flow *f, int fd, struct tls *tls)
{
	if (f->ended || !is_empty(f))
		return 0;
	ssize_t n = transport_read(fd, tls, f->buf, sizeof f->buf);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	f->from = 0;
	f->to = (size_t)n;
	f->ended = n == 0;
	return 1;
}

static int drain(struct flow *f, int fd, struct tls *tls)
{
	struct iovec iov = { f->buf + f->from, f->to - f->from };

	if (is_empty(f))
		return 0;
	ssize_t n = transport_writev(fd, tls, &iov, 1);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	f->from += (size_t)n;
	return n > 0;
}

static void wait_for(struct pipe *p)
{
	int outside = (is_empty(&p->in) && !p->in.ended ? EV_READ : 0) | (!is_empty(&p->out) || tls_read_wants_write(p->tls) ? EV_WRITE : 0);
	int inside = (is_empty(&p->out) && !p->out.ended ? EV_READ : 0) | (!is_empty(&p->in) ? EV_WRITE : 0);

	ev_io_stop(p->all->loop, &p->outside);
	ev_io_stop(p->all->loop, &p->inside);
	ev_io_modify(&p->outside, outside);
	ev_io_modify(&p->inside, inside);
	if (outside)
		ev_io_start(p->all->loop, &p->outside);
	if (inside)
		ev_io_start(p->all->loop, &p->inside);
}

/* What is inside TLS is seen by no poll: on until nothing moves. */
static void step(struct pipe *p)
{
	bool moved = true;

	while (moved) {
		const int did[] = {
			fill(&p->in, p->outside.fd, p->tls), drain(&p->in, p->inside.fd, NULL),
			fill(&p->out, p->inside.fd, NULL), drain(&p->out, p->outside.fd, p->tls),
		};
		moved = false;
		for (unsigned i = 0; i < 4; i++) {
			if (did[i] < 0) {
				pipe_free(p, false);
				return;
			}
			moved |= did[i] > 0;
		}
	}
	if (p->out.ended && is_empty(&p->out)) {
		pipe_free(p, true);
		return;
	}
	if (p->in.ended && is_empty(&p->in) && !p->shut)
		p->shut = shutdown(p->inside.fd, SHUT_WR) == 0;
	wait_for(p);
}

static void on_event(struct ev_loop *loop, ev_io *io, int revents)
{
	(void)loop;
	(void)revents;
	step(io->data);
}

static void on_handshakes_late(struct ev_loop *loop, ev_timer *t, int revents)
{
	struct pumps *all = t->data;

	(void)loop;
	(void)revents;
	for (struct pipe *p = all->pipes, *next; p; p = next) {
		next = p->next;
		if (!tls_established(p->tls))
			pipe_free(p, false);
	}
}

struct pumps *pumps_new(struct ev_loop *loop)
{
	struct pumps *all = calloc(1, sizeof *all);

	if (!all)
		abort();
	all->loop = loop;
	ev_timer_init(&all->handshakes, on_handshakes_late, HANDSHAKE_LIMIT_S, 0.);
	all->handshakes.data = all;
	return all;
}

void pumps_add(struct pumps *all, struct tls *tls, int tls_fd, int plain_fd)
{
	struct pipe *p = calloc(1, sizeof *p);

	if (!p)
		abort();
	p->all = all;
	p->tls = tls;
	ev_io_init(&p->outside, on_event, tls_fd, EV_READ);
	ev_io_init(&p->inside, on_event, plain_fd, EV_READ);
	p->outside.data = p->inside.data = p;
	p->next = all->pipes;
	if (p->next)
		p->next->prev = p;
	all->pipes = p;
	all->n++;
}

unsigned pumps_count(const struct pumps *all)
{
	return all->n;
}

void pumps_run(struct pumps *all)
{
	for (struct pipe *p = all->pipes, *next; p; p = next) {
		next = p->next;
		step(p);
	}
	if (!all->n)
		return;
	ev_timer_start(all->loop, &all->handshakes);
	ev_run(all->loop, 0);
	ev_timer_stop(all->loop, &all->handshakes);
}

void pumps_free(struct pumps *all)
{
	while (all && all->pipes)
		pipe_free(all->pipes, false);
	free(all);
}
