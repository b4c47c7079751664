/* large.h - copies one large value by type, in chunks, into a temporary key of the follower; ends with the block that swaps it in.
 *
 * Every command is bounded (BLOCK_ELEMENTS, about BLOCK_BYTES; one element may be larger), one read and one write are under way at a time, so memory
 * is that of two chunks whatever the value (but for streams: 16 bytes for each pending entry, up to a limit). The temporary key is of the
 * same slot, has a TTL of LARGE_TMP_TTL_MS that is refreshed with every chunk, and goes at a failure or a cancel.
 *
 * It sees no moment of the value but a while of it: the caller's token, read before and checked when the block is applied, tells whether
 * that was the same. Redirections and lost connections are failures (RECIPE_ERROR); the caller tries again.
 *
 * The swap block (MULTI, UNLINK key, RENAME tmp key, PERSIST or PEXPIREAT, EXEC) must be applied while the temporary key lives. If it
 * does not any more, EXEC's reply holds an error in the place of RENAME and the key is gone: the copy failed, the key stays dirty.
 *
 * Thread: that of the two connections' loop. Calling sequence: large_start; then exactly one call of the callback, from the loop, or
 * large_cancel, after which there is none. */
#ifndef CROSSFADE_LARGE_H
#define CROSSFADE_LARGE_H

#include <hiredis/sds.h>
#include <stdint.h>

#include "backfill/bulk.h"
#include "backfill/recipe.h"

#define LARGE_TMP_PREFIX "crossfade:tmp:"
#define LARGE_TMP_TTL_MS 600000
#define LARGE_PENDING_MAX (4u << 20) /* pending entries of one stream */

struct large;

/* RECIPE_OK or RECIPE_GONE: the block (ncommands replies) is the callee's to free; else NULL, and `why` (valid during the call) says why. bytes: what
 * was read. Connections may be freed and large_start called from within. */
typedef void large_fn(void *arg, enum recipe_result result, sds block, unsigned ncommands, uint64_t bytes, const char *why);

struct large_options {
	struct bulk *from, *to;              /* large_cancel before either is freed */
	struct receiver from_kind, to_kind;
	struct slice key;                    /* copied */
	uint16_t slot;
	uint64_t serial;                     /* names the temporary key; not used twice within its TTL */
	int64_t now_ms;                      /* by the clock of `from` */
};

struct large *large_start(const struct large_options *o, large_fn *fn, void *arg);
void large_cancel(struct large *l);
/* Bytes read so far and since the last call, for the pace. */
uint64_t large_bytes_taken(struct large *l);

/* crossfade:tmp:{tag}:serial. Where a block that was handed over is thrown away, this key should be UNLINKed. */
sds large_tmp_key(uint16_t slot, uint64_t serial);

#endif
