#include "proxy/handover_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "proxy/handover.h"
#include "resp/write.h"

#define READ_SIZE (256 * 1024)
#define FDS_AT_ONCE 64

void wire_init(struct wire *w, int fd)
{
	*w = (struct wire){ .fd = fd, .in = sdsempty() };
	resp_request_init(&w->request, &handover_limits);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
}

void wire_release(struct wire *w)
{
	if (w->fd >= 0)
		close(w->fd);
	for (; w->taken < w->nfds; w->taken++)
		close(w->fds[w->taken]);
	free(w->fds);
	sdsfree(w->in);
	resp_request_release(&w->request);
	*w = (struct wire){ .fd = -1 };
}

void wire_limit(struct wire *w, unsigned s)
{
	struct timeval limit = { .tv_sec = (time_t)s };

	w->limit_s = s;
	setsockopt(w->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	setsockopt(w->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

bool wire_send(struct wire *w, const char *p, size_t n, int fd)
{
	union { char buf[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control = { { 0 } };

	while (n) {
		struct iovec iov = { (char *)p, n };
		struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
		if (fd >= 0) {
			m.msg_control = control.buf;
			m.msg_controllen = sizeof control.buf;
			struct cmsghdr *c = CMSG_FIRSTHDR(&m);
			c->cmsg_level = SOL_SOCKET;
			c->cmsg_type = SCM_RIGHTS;
			c->cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(c), &fd, sizeof fd);
		}
		ssize_t sent = sendmsg(w->fd, &m, MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent <= 0)
			return false;
		fd = -1;
		p += sent;
		n -= (size_t)sent;
	}
	return true;
}

bool wire_say(struct wire *w, const char *word, const char *text, int fd)
{
	sds s = resp_cat_words(sdsempty(), word, text, NULL);
	bool ok = wire_send(w, s, sdslen(s), fd);

	sdsfree(s);
	return ok;
}

static void keep_fds(struct wire *w, struct msghdr *m)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		unsigned n = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		if (w->nfds + n > w->cap) {
			w->cap = 2 * (w->nfds + n);
			w->fds = realloc(w->fds, w->cap * sizeof *w->fds);
			if (!w->fds)
				abort();
		}
		memcpy(w->fds + w->nfds, CMSG_DATA(c), n * sizeof(int));
		w->nfds += n;
	}
}

static bool read_more(struct wire *w, char *why, size_t whylen)
{
	union { char buf[CMSG_SPACE(FDS_AT_ONCE * sizeof(int))]; struct cmsghdr align; } control;

	if (w->at) {
		memmove(w->in, w->in + w->at, sdslen(w->in) - w->at);
		sdssetlen(w->in, sdslen(w->in) - w->at);
		w->at = 0;
	}
	w->in = sdsMakeRoomFor(w->in, READ_SIZE);
	for (;;) {
		struct iovec iov = { w->in + sdslen(w->in), sdsavail(w->in) };
		struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof control.buf };
		ssize_t n = recvmsg(w->fd, &m, MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n > 0) {
			keep_fds(w, &m);
			sdsIncrLen(w->in, (int)n);
			if (!(m.msg_flags & MSG_CTRUNC))
				return true;
			snprintf(why, whylen, "too few files may be open (ulimit -n) for the clients that come");
		} else {
			snprintf(why, whylen, "%s", n == 0 ? "the other process has closed the connection" : errno == EAGAIN ? "the other process says nothing" : strerror(errno));
		}
		return false;
	}
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

bool wire_read(struct wire *w, char *why, size_t whylen)
{
	double begun = now();

	w->at += w->used;
	w->used = 0;
	resp_request_reset(&w->request);
	for (;;) {
		size_t n = sdslen(w->in) - w->at;
		enum resp_status s = n ? resp_request_parse(&w->request, w->in + w->at, n) : RESP_MORE;
		if (s == RESP_OK && w->request.argc) {
			w->used = w->request.used;
			return true;
		}
		if (s != RESP_MORE) {
			snprintf(why, whylen, "what came is no record: %s", s == RESP_BAD ? w->request.error : "it is empty");
			return false;
		}
		if (w->limit_s && now() - begun > w->limit_s) {
			snprintf(why, whylen, "the other process speaks too slowly");
			return false;
		}
		if (!read_more(w, why, whylen))
			return false;
	}
}

struct slice wire_word(const struct wire *w, uint32_t i)
{
	return i < w->request.argc ? resp_request_arg(&w->request, w->in + w->at, i) : slice("", 0);
}

int wire_take_fd(struct wire *w)
{
	return w->taken < w->nfds ? w->fds[w->taken++] : -1;
}
