/* listen.h - the endpoint's sockets: TCP, TLS and Unix, bound at the start so that an error shows at once; listened on by control when there is something
 * to answer from. No state. Errors: logged, or in err; the caller closes what was bound. */
#ifndef CROSSFADE_LISTEN_H
#define CROSSFADE_LISTEN_H

#include <sys/types.h>

#include "proxy/config.h"

struct listen_fd { /* clients are accepted from it by every worker */
	int fd;
	bool tls;
};

#define LISTENERS_MAX (4 * CONFIG_MAX_BINDS + 1) /* two families, with and without TLS; the Unix socket */

/* All that the configuration asks for. */
bool listen_bind_all(const struct config *c, struct listen_fd *fds, unsigned *n);
/* A Unix socket, bound, made with its directory; a stale one in its place is removed. -1: err says why, naming the option. */
int listen_bind_unix(const char *option, const char *path, mode_t mode, char *err, size_t errlen);

#endif
