/* Preloaded into the proxy: the name "several.test" has two addresses, 127.0.0.9 and then 127.0.0.1. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>

typedef int resolve(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *restrict name, const char *restrict service, const struct addrinfo *restrict hints, struct addrinfo **restrict found)
{
	resolve *real = (resolve *)dlsym(RTLD_NEXT, "getaddrinfo");
	int rc;

	if (!name || strcmp(name, "several.test") != 0 || (hints && hints->ai_flags & AI_NUMERICHOST))
		return real(name, service, hints, found);
	rc = real("127.0.0.9", service, hints, found);
	return rc ? rc : real("127.0.0.1", service, hints, &(*found)->ai_next);
}
