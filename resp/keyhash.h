/* keyhash.h - the 128-bit hash of a database and a key: its low half picks the stripe of the version table, the whole stands for the key in the tables of
 * known, dirty and derived keys. */
#ifndef CROSSFADE_KEYHASH_H
#define CROSSFADE_KEYHASH_H

#define XXH_INLINE_ALL
#include <stdbool.h>
#include <stdint.h>
#include <xxhash.h>

#include "resp/slice.h"

typedef XXH128_hash_t keyhash;

static inline keyhash keyhash_of(uint16_t db, struct slice key)
{
	return db ? XXH3_128bits_withSeed(key.p, key.n, db) : XXH3_128bits(key.p, key.n); /* seed 0 is the same */
}

static inline bool keyhash_eq(keyhash a, keyhash b)
{
	return a.low64 == b.low64 && a.high64 == b.high64;
}

#endif
