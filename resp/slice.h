/* slice.h - text as a {pointer, length} pair, passed by value; never owns what it points to. */
#ifndef CROSSFADE_SLICE_H
#define CROSSFADE_SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

struct slice {
	const char *p;
	size_t n;
};

#define SLICE_LIT(s) ((struct slice){ (s), sizeof(s) - 1 })

static inline struct slice slice(const char *p, size_t n)
{
	return (struct slice){ p, n };
}

static inline bool slice_eq(struct slice a, struct slice b)
{
	return a.n == b.n && memcmp(a.p, b.p, a.n) == 0;
}

/* Case-insensitive comparison with a C string: how options and command names are matched. */
static inline bool slice_is(struct slice a, const char *s)
{
	return strlen(s) == a.n && strncasecmp(a.p, s, a.n) == 0;
}

#endif
