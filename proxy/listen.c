#include "proxy/listen.h"

#include <errno.h>
#include <libgen.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "proxy/log.h"

static int bind_one(const struct addrinfo *a)
{
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (a->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind(fd, a->ai_addr, a->ai_addrlen) == 0)
		return fd;
	int saved = errno;
	close(fd);
	errno = saved;
	return -1;
}

/* Every address of one `bind` word; "*" is every address of both families, of which a machine may lack one. */
static bool bind_word(const char *word, int port, bool tls, struct listen_fd *fds, unsigned *n)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV }, *found;
	char service[8];
	bool any = strcmp(word, "*") == 0;
	unsigned before = *n;

	snprintf(service, sizeof(service), "%d", port);
	int rc = getaddrinfo(any ? NULL : word, service, &hints, &found);
	if (rc != 0) {
		log_warning("bind %s: %s: expected an address of this machine", word, gai_strerror(rc));
		return false;
	}
	for (const struct addrinfo *a = found; a && *n < LISTENERS_MAX - 1; a = a->ai_next) {
		int fd = bind_one(a);
		if (fd >= 0) {
			fds[(*n)++] = (struct listen_fd){ fd, tls };
		} else if (!any || errno == EADDRINUSE) {
			log_warning("cannot bind %s port %d: %s%s", word, port, strerror(errno),
				    errno == EADDRINUSE ? "; another process has it, set another port" : "");
			freeaddrinfo(found);
			return false;
		}
	}
	freeaddrinfo(found);
	return *n > before;
}

static bool bind_port(const struct config *c, int port, bool tls, struct listen_fd *fds, unsigned *n)
{
	for (unsigned i = 0; port && i < c->nbinds; i++)
		if (!bind_word(c->binds[i], port, tls, fds, n))
			return false;
	return true;
}

bool listen_bind_all(const struct config *c, struct listen_fd *fds, unsigned *n)
{
	char err[1024];

	*n = 0;
	if (!bind_port(c, c->port, false, fds, n) || !bind_port(c, c->tls_port, true, fds, n))
		return false;
	if (!c->unixsocket)
		return true;
	int fd = listen_bind_unix("unixsocket", c->unixsocket, (mode_t)c->unixsocketperm, err, sizeof(err));
	if (fd < 0) {
		log_warning("%s", err);
		return false;
	}
	fds[(*n)++] = (struct listen_fd){ fd, false };
	return true;
}

/* ---- Unix sockets ---- */

static bool clear_place(const char *option, const char *path, char *err, size_t errlen)
{
	struct stat st;
	char *copy = strdup(path);

	if (mkdir(dirname(copy), 0755) < 0 && errno != EEXIST) {
		snprintf(err, errlen, "the directory of %s %s cannot be created: %s", option, path, strerror(errno));
		free(copy);
		return false;
	}
	free(copy);
	if (lstat(path, &st) < 0)
		return true;
	if (!S_ISSOCK(st.st_mode)) {
		snprintf(err, errlen, "%s %s is there already and no socket: remove it, or set another name", option, path);
		return false;
	}
	if (unlink(path) < 0) {
		snprintf(err, errlen, "the stale %s %s cannot be removed: %s", option, path, strerror(errno));
		return false;
	}
	return true;
}

int listen_bind_unix(const char *option, const char *path, mode_t mode, char *err, size_t errlen)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd;

	if (strlen(path) >= sizeof(addr.sun_path)) {
		snprintf(err, errlen, "%s %s is longer than %zu bytes: set a shorter name", option, path, sizeof(addr.sun_path) - 1);
		return -1;
	}
	strcpy(addr.sun_path, path);
	if (!clear_place(option, path, err, errlen))
		return -1;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	mode_t mask = umask(~mode & 0777); /* nobody else may connect, not even for a moment */
	bool ok = fd >= 0 && bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0;
	int saved = errno;
	umask(mask);
	if (ok)
		return fd;
	snprintf(err, errlen, "cannot listen on %s %s: %s", option, path, strerror(saved));
	if (fd >= 0)
		close(fd);
	return -1;
}
