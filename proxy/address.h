/* address.h - names of nodes: "host:port" texts, the address maps of the configuration, and their resolution. No state; resolve() may block on DNS. */
#ifndef CROSSFADE_ADDRESS_H
#define CROSSFADE_ADDRESS_H

#include <string.h>

#include "proxy/config.h"

#define ADDRESS_NAME_MAX 280

#define ADDRESS_UNIX "unix:"

static inline bool address_is_unix(const char *name) /* "unix:/path": the host of a host_port without a port, and its name */
{
	return strncmp(name, ADDRESS_UNIX "/", sizeof ADDRESS_UNIX) == 0;
}

/* "host:port", "[v6]:port": the form of all node names. */
void address_name(char *name, size_t n, const char *host, uint16_t port);
/* The reverse; also takes what redirects hold: "1:2::3:6379". False: no port in it. An empty host is allowed. */
bool address_split(const char *name, size_t n, struct host_port *hp);
/* Where an announced address is reached: host:port pairs win over hosts. */
void address_map(const struct address_map *m, struct host_port *hp);
/* The addresses of the name, in the order in which they are to be tried; false: it does not resolve, *why says why. */
#define ADDRESSES_MAX 8
struct addresses {
	unsigned n;
	struct {
		struct sockaddr_storage addr; /* zero behind its length */
		socklen_t len;
	} at[ADDRESSES_MAX];
};
bool address_resolve(const struct host_port *hp, struct addresses *found, const char **why);

#endif
