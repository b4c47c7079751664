/* changes.h - which elements of one key writes touched, while the backfill worker copies that key in chunks.
 *
 * A value of millions of elements that is written to all the time has no quiet moment long enough to be copied in. So its owner notes the fields
 * or members that each write touched, in the order of the authority's replies, and the backfill worker reads those again at the end, with the
 * slot's writes held for the moment that takes (backfill/large.h). Noted is what the effect says; a write that does not name its
 * elements (DEL, RENAME, a script, somebody else's) makes all of them unknown.
 *
 * One key at a time, since one large key is copied at a time. Thread: the owner's. Memory: CHANGES_BYTES, then all is unknown. */
#ifndef CROSSFADE_CHANGES_H
#define CROSSFADE_CHANGES_H

#include <hiredis/sds.h>
#include <stdbool.h>
#include <stdint.h>

#include "proxy/keyhash.h"
#include "resp/parse.h"
#include "resp/slice.h"

#define CHANGES_BYTES (4u << 20)

struct changes {
	bool on, unknown;
	keyhash key;
	sds elements; /* bulks */
	unsigned writes; /* that touched the key since they were asked for last */
};

void changes_begin(struct changes *c, keyhash key);
void changes_end(struct changes *c);
static inline bool changes_about(const struct changes *c, keyhash h)
{
	return c->on && keyhash_eq(c->key, h);
}
/* The whole of it may have changed. */
void changes_unknown(struct changes *c);
/* Commands for this key alone, in RESP. */
void changes_note(struct changes *c, struct slice commands);
/* What was noted since the last time; the caller frees it. False: unknown. */
bool changes_take(struct changes *c, sds *elements, unsigned *writes);

#endif
