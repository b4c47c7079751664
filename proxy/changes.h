/* changes.h - what writes did to one key, while the backfill worker copies that key in chunks.
 *
 * A value of millions of elements that is written to all the time has no quiet moment long enough to be copied in. So its owner notes the fields
 * or members that each write touched, in the order of the authority's replies, and the backfill worker reads those again at the end, with the
 * slot's writes held for the moment that takes (backfill/large.h). Lists, strings and streams have no elements of a lasting name: of these the commands
 * are noted whole, to be done again to the copy. Noted is what the effect says; a write that says neither (DEL, RENAME, a script,
 * somebody else's) makes all unknown, and so does a key that turns from one kind into the other.
 *
 * One key at a time, since one large key is copied at a time. Thread: the owner's. Memory: CHANGES_BYTES, then all is unknown. */
#ifndef CROSSFADE_CHANGES_H
#define CROSSFADE_CHANGES_H

#include <hiredis/sds.h>
#include <stdbool.h>
#include <stdint.h>

#include "resp/keyhash.h"
#include "resp/parse.h"
#include "resp/slice.h"

#define CHANGES_BYTES (4u << 20)
#define CHANGES_READ_MAX (16u << 20) /* bytes of the replies to one engine_read_followed */

struct changes {
	bool on, unknown;
	enum changes_noted { NOTED_NOTHING, NOTED_NAMES, NOTED_COMMANDS } noted; /* since it was begun */
	uint16_t db;
	keyhash key;
	sds elements; /* bulks: names; or arrays of bulks: commands */
	unsigned writes; /* that touched the key since they were asked for last */
};

void changes_begin(struct changes *c, uint16_t db, keyhash key);
void changes_end(struct changes *c);
static inline bool changes_about(const struct changes *c, keyhash h)
{
	return c->on && keyhash_eq(c->key, h);
}
/* The whole of it may have changed. */
void changes_unknown(struct changes *c);
/* The effect of one write to the key, in RESP, and the authority's reply to that write. */
void changes_note(struct changes *c, struct slice key, struct slice commands, struct slice reply);
/* What was noted since the last time; the caller frees it. False: unknown. */
bool changes_take(struct changes *c, sds *elements, unsigned *writes);

#endif
