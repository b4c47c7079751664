#include "proxy/address.h"

#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

void address_name(char *name, size_t n, const char *host, uint16_t port)
{
	if (address_is_unix(host))
		snprintf(name, n, "%s", host);
	else
		snprintf(name, n, strchr(host, ':') ? "[%s]:%u" : "%s:%u", host, port);
}

bool address_split(const char *name, size_t n, struct host_port *hp)
{
	const char *colon = memrchr(name, ':', n), *host = name;
	unsigned long port = 0;
	size_t len;

	if (n > sizeof(ADDRESS_UNIX) && n < sizeof(hp->host) && address_is_unix(name)) {
		snprintf(hp->host, sizeof(hp->host), "%.*s", (int)n, name);
		hp->port = 0;
		return true;
	}
	if (!colon)
		return false;
	for (const char *p = colon + 1; p < name + n; p++) {
		if (*p < '0' || *p > '9' || (port = port * 10 + (unsigned)(*p - '0')) > 65535)
			return false;
	}
	len = (size_t)(colon - name);
	if (len >= 2 && host[0] == '[' && host[len - 1] == ']') {
		host++;
		len -= 2;
	}
	if (port == 0 || len >= sizeof(hp->host))
		return false;
	memcpy(hp->host, host, len);
	hp->host[len] = '\0';
	hp->port = (uint16_t)port;
	return true;
}

/* Is this side of a pair the address? 2: host and port, 1: the host. */
static int matches(const char *from, const struct host_port *hp)
{
	char name[ADDRESS_NAME_MAX];

	address_name(name, sizeof(name), hp->host, hp->port);
	if (strcasecmp(from, name) == 0)
		return 2;
	size_t n = strlen(from);
	if (n > 2 && from[0] == '[' && from[n - 1] == ']')
		return strlen(hp->host) == n - 2 && strncasecmp(from + 1, hp->host, n - 2) == 0;
	return strcasecmp(from, hp->host) == 0;
}

void address_map(const struct address_map *m, struct host_port *hp)
{
	const char *to = NULL;
	int best = 0;
	struct host_port mapped;

	for (unsigned i = 0; i < m->n; i++) {
		int match = matches(m->pairs[i].from, hp);
		if (match > best) {
			best = match;
			to = m->pairs[i].to;
		}
	}
	if (!to)
		return;
	/* A bare IPv6 address has colons, too, but more than one and no brackets. */
	bool bare = *to != '[' && strchr(to, ':') != strrchr(to, ':');
	if (!bare && address_split(to, strlen(to), &mapped)) {
		*hp = mapped;
		return;
	}
	size_t n = strlen(to);
	if (n > 2 && to[0] == '[' && to[n - 1] == ']')
		snprintf(hp->host, sizeof(hp->host), "%.*s", (int)(n - 2), to + 1);
	else
		snprintf(hp->host, sizeof(hp->host), "%.*s", (int)sizeof(hp->host) - 1, to);
}

bool address_resolve(const struct host_port *hp, struct addresses *found, const char **why)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV }, *list = NULL;
	char port[8];

	memset(found, 0, sizeof(*found));
	if (address_is_unix(hp->host)) {
		struct sockaddr_un *un = (struct sockaddr_un *)&found->at[0].addr;
		un->sun_family = AF_UNIX;
		snprintf(un->sun_path, sizeof(un->sun_path), "%s", hp->host + strlen(ADDRESS_UNIX));
		found->at[0].len = sizeof(*un);
		found->n = 1;
		return true;
	}
	snprintf(port, sizeof(port), "%u", hp->port);
	int rc = getaddrinfo(hp->host, port, &hints, &list); /* an address needs no DNS */
	if (rc != 0) {
		hints.ai_flags = AI_NUMERICSERV | AI_ADDRCONFIG;
		rc = getaddrinfo(hp->host, port, &hints, &list);
	}
	if (rc != 0) {
		*why = gai_strerror(rc);
		return false;
	}
	for (const struct addrinfo *a = list; a && found->n < ADDRESSES_MAX; a = a->ai_next) {
		memcpy(&found->at[found->n].addr, a->ai_addr, a->ai_addrlen);
		found->at[found->n++].len = a->ai_addrlen;
	}
	freeaddrinfo(list);
	return true;
}
