/* keyhash.h - the 128-bit hash of a key: its low half picks the stripe of the version table, the whole stands for the key in the known table. */
#ifndef CROSSFADE_KEYHASH_H
#define CROSSFADE_KEYHASH_H

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "resp/slice.h"

typedef XXH128_hash_t keyhash;

static inline keyhash keyhash_of(struct slice key)
{
	return XXH3_128bits(key.p, key.n);
}

#endif
