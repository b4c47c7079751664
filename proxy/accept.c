/* Listening sockets of a worker: who connects becomes a client of it, as far as maxclients goes. */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/client.h"
#include "proxy/log.h"

#define ACCEPTS_PER_TURN 64

static void refuse(int fd, bool tls)
{
	static const char text[] = "-ERR max number of clients reached\r\n";

	if (!tls && send(fd, text, sizeof text - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_debug("the refusal of a client could not be written: %s", strerror(errno));
	close(fd);
}

static void on_accept_again(struct ev_loop *loop, ev_timer *t, int revents)
{
	struct worker *w = t->data;

	(void)revents;
	ev_timer_stop(loop, t);
	for (unsigned i = 0; i < w->nlisteners; i++)
		ev_io_start(loop, &w->listeners[i].io);
}

/* Counted before it is made: several workers accept at once. */
static bool take_place(struct fleet *f)
{
	uint64_t n = atomic_load(&f->nclients);

	while (n < (uint64_t)atomic_load(&f->maxclients))
		if (atomic_compare_exchange_weak(&f->nclients, &n, n + 1))
			return true;
	return false;
}

static void on_accept(struct ev_loop *loop, ev_io *io, int revents)
{
	struct listener *l = (struct listener *)io;
	struct worker *w = l->worker;

	(void)revents;
	for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
		int fd = accept4(io->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0) {
			if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM)
				return;
			log_limited(LOG_WARNING, "no client can be accepted: %s", strerror(errno));
			for (unsigned k = 0; k < w->nlisteners; k++)
				ev_io_stop(loop, &w->listeners[k].io);
			ev_timer_again(loop, &w->accept_again); /* the kernel keeps them in the queue meanwhile */
			return;
		}
		if (take_place(w->fleet))
			client_new(w, fd, l->tls);
		else
			refuse(fd, l->tls);
	}
}

void clients_listen(struct worker *w, const struct listen_fd *fds, unsigned n)
{
	w->listeners = calloc(n, sizeof *w->listeners);
	w->nlisteners = n;
	for (unsigned i = 0; i < n; i++) {
		struct listener *l = &w->listeners[i];
		l->worker = w;
		l->tls = fds[i].tls;
		ev_io_init(&l->io, on_accept, fds[i].fd, EV_READ);
		ev_io_start(w->loop, &l->io);
	}
	ev_init(&w->accept_again, on_accept_again);
	w->accept_again.repeat = 0.1;
	w->accept_again.data = w;
}

void clients_close_listeners(struct worker *w)
{
	for (unsigned i = 0; i < w->nlisteners; i++)
		ev_io_stop(w->loop, &w->listeners[i].io);
	ev_timer_stop(w->loop, &w->accept_again);
	free(w->listeners);
	w->listeners = NULL;
	w->nlisteners = 0;
}
