#include "proxy/usage.h"

#include <stdlib.h>

struct usage *usage_new(void)
{
	struct usage *u = calloc(1, sizeof(*u) + command_count * sizeof(u->rows[0]));

	if (!u)
		abort();
	return u;
}

void usage_free(struct usage *u)
{
	free(u);
}

/* Lower-case into `to`; false: it looks like no name, and may be anything that a client sent by mistake. */
static bool plain_name(struct slice name, char to[USAGE_NAME_MAX])
{
	if (name.n < 2 || name.n >= USAGE_NAME_MAX)
		return false;
	for (size_t i = 0; i < name.n; i++) {
		char c = name.p[i];
		if (c >= 'A' && c <= 'Z')
			c = (char)(c + 32);
		if (!(c >= 'a' && c <= 'z') && !(i > 0 && (c == '.' || c == '_' || c == '-' || (c >= '0' && c <= '9'))))
			return false;
		to[i] = c;
	}
	to[name.n] = '\0';
	return true;
}

void usage_unknown(struct usage *u, struct slice name)
{
	char plain[USAGE_NAME_MAX];

	if (!plain_name(name, plain)) {
		usage_add(&u->unknown_others);
		return;
	}
	for (unsigned i = 0; i < USAGE_NAMES; i++) {
		struct usage_name *k = &u->unknown[i];
		uint64_t n = atomic_load_explicit(&k->calls, memory_order_relaxed);
		if (n == 0)
			memcpy(k->name, plain, sizeof(plain));
		else if (strcmp(k->name, plain) != 0)
			continue;
		atomic_store_explicit(&k->calls, n + 1, memory_order_release);
		return;
	}
	usage_add(&u->unknown_others);
}
