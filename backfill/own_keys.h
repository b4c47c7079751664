/* own_keys.h - keys that are Crossfade's own: on the servers, but no part of the data. They are neither copied nor compared, and clients are not shown them.
 *
 *   crossfade:tmp:{…}:n   a large value while it is copied (large.h)
 *   crossfade:marker      on the target: which migration has moved its authority there (proxy/marker.h)
 *
 * Pure; any thread. */
#ifndef CROSSFADE_OWN_KEYS_H
#define CROSSFADE_OWN_KEYS_H

#include <stdbool.h>
#include <string.h>

#include "resp/slice.h"

#define LARGE_TMP_PREFIX "crossfade:tmp:"
#define MARKER_KEY "crossfade:marker"

static inline bool is_own_key(struct slice key)
{
	static const size_t prefix = sizeof(LARGE_TMP_PREFIX) - 1, marker = sizeof(MARKER_KEY) - 1;

	return (key.n >= prefix && memcmp(key.p, LARGE_TMP_PREFIX, prefix) == 0) || (key.n == marker && memcmp(key.p, MARKER_KEY, marker) == 0);
}

#endif
