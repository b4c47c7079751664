/* compare.h - do two servers hold the same value? Pure functions; any thread.
 *
 * The quick path compares payloads of DUMP; where they differ, both values are read by type (payload_type_recipe says how) and their digests
 * are compared. The digest is canonical: encodings and the order of sets, hashes and groups do not count; scores are compared as doubles, a
 * HyperLogLog without its cached cardinality; fields of a hash that are past their expiry are not there. Keys' expiry is not in it.
 * Of streams it holds the entries, last id, entries added, highest deleted id, and of each group its name, last delivered id, and the
 * pending entries with consumer and delivery count. Left out, because the mirror cannot carry them exactly and no reader
 * gets other entries by them: times of delivery, entries-read, consumers without pending entries, when a consumer was seen. */
#ifndef CROSSFADE_COMPARE_H
#define CROSSFADE_COMPARE_H

#include <stdbool.h>
#include <stdint.h>

#include "backfill/recipe.h"
#include "resp/slice.h"

/* Equal but for the footer (RDB version and checksum)? Both are whole payloads. */
bool payload_equal(struct slice a, struct slice b);

/* The recipe that reads this payload's value by type; RECIPE_DUMP if none does (modules: equal payloads are all there is to go by). */
enum recipe payload_type_recipe(struct slice payload);

struct digest {
	uint64_t lo, hi;
};
static inline bool digest_eq(struct digest a, struct digest b)
{
	return a.lo == b.lo && a.hi == b.hi;
}

/* Replies of recipe_read(r, …). RECIPE_GONE (the digest is zero), RECIPE_RETYPE (the key has another type), RECIPE_ERROR and RECIPE_CANNOT as in
 * recipe_compose; now_ms by the clock of that server. RECIPE_DUMP digests the payload's bytes. *expires_at_ms: -1 for none. */
enum recipe_result value_digest(enum recipe r, const struct slice *replies, unsigned nreplies, int64_t now_ms, struct digest *digest,
				int64_t *expires_at_ms, const char **why);

#endif
