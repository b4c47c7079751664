/* transport.h - bytes to and from a non-blocking socket, plain or TLS, in four functions with the rules of recv() and sendmsg().
 *
 * The plain path is the system call and one branch. `t` NULL is a plain connection; whoever has the descriptor owns `t`, too.
 * Errors: -1 with errno, EAGAIN among them; a failure of TLS itself is EPROTO, and tls_why() tells what happened.
 * With TLS, reading may have to wait for room to write: tls_read_wants_write() says so after EAGAIN, and the caller reads again when the socket is writable. After a read that did not end in EAGAIN bytes may be left inside TLS, where no poll
 * sees them: the caller reads on while transport_pending(). Thread: the socket's. */
#ifndef CROSSFADE_TRANSPORT_H
#define CROSSFADE_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "net/tls.h"

static inline ssize_t transport_read(int fd, struct tls *t, void *p, size_t n)
{
	return __builtin_expect(t != NULL, 0) ? tls_read(t, p, n) : recv(fd, p, n, 0);
}

/* May write less than was asked for. After EAGAIN the next call begins with the same bytes. */
static inline ssize_t transport_writev(int fd, struct tls *t, const struct iovec *iov, int n)
{
	if (__builtin_expect(t != NULL, 0))
		return tls_writev(t, iov, n);
	if (n == 1)
		return send(fd, iov->iov_base, iov->iov_len, MSG_NOSIGNAL);
	return sendmsg(fd, &(struct msghdr){ .msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n }, MSG_NOSIGNAL);
}

static inline bool transport_pending(const struct tls *t)
{
	return __builtin_expect(t != NULL, 0) && tls_pending(t);
}

/* What went wrong, after -1: of TLS if it was that, else errno's text. */
const char *transport_why(const struct tls *t, int error);

#endif
