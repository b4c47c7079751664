/* large.h - copies one large value by type, in chunks, into a temporary key of the follower; ends with the block that swaps it in.
 *
 * Every command is bounded (BLOCK_ELEMENTS, about BLOCK_BYTES; one element may be larger), one read and one write are under way at a time, so memory
 * is that of two chunks whatever the value (but for streams: 16 bytes for each pending entry, up to a limit). The temporary key is of the
 * same slot, has a TTL of LARGE_TMP_TTL_MS that is refreshed with every chunk, and goes at a failure or a cancel.
 *
 * A key that is written to meanwhile (hashes, sets and sorted sets): the caller learns which elements writes touched and tells large_changed, at
 * any time; they are read again between the chunks. When all is read, `settle` is called: the caller holds the key's writes, tells the last
 * changes and calls large_settled, which reads them and the expiry, and ends. Then the value is that of the moment in which it was held.
 *
 * Lists, strings and streams have no elements of a lasting name; where they are written to (large_is_ordered), the caller gives `ask`: their
 * chunks are read on the data connection, and the caller tells which writes were executed before each (large_changed, then large_told).
 * What was copied so far is that part of the value at that very moment, and the writes are done again to it:
 *
 *     list     its first `offset` elements: pushes and pops move and cut them
 *     string   its first `offset` bytes; what SETRANGE writes behind them will be read later
 *     stream   its entries up to the last id read. New ones come later; deleted ones stay until the pending entries were claimed, since those
 *              cannot be claimed without them. All but the entries is read when the writes are held
 *
 * Else it sees no moment of the value but a while of it: the caller's token, read before and checked when the block is applied, tells whether
 * that was the same. Redirections and lost connections are failures (RECIPE_ERROR); the caller tries again.
 *
 * The swap block moves the old value aside and UNLINKs it, so that no RENAME ever frees a value: MULTI, PERSIST tmp (or PEXPIREAT), RENAME key
 * old, RENAME tmp key, RENAMENX old key, UNLINK old, EXEC. Where the temporary key is gone meanwhile, RENAMENX moves the old value back, with
 * its expiry: the copy failed, nothing is lost. Where the key was not there, the first RENAME fails and that is fine: ask large_swapped.
 *
 * Thread: that of the two connections' loop. Calling sequence: large_start; then exactly one call of the callback, from the loop, or
 * large_cancel, after which there is none. */
#ifndef CROSSFADE_LARGE_H
#define CROSSFADE_LARGE_H

#include <hiredis/sds.h>
#include <stdbool.h>
#include <stdint.h>

#include "backfill/bulk.h"
#include "backfill/own_keys.h"
#include "backfill/recipe.h"

#define LARGE_TMP_TTL_MS 600000
#define LARGE_CHANGED_MAX (8u << 20)  /* bytes of names of elements to be read again */
#define LARGE_PENDING_MAX (4u << 20) /* pending entries of one stream */

struct large;

/* RECIPE_OK or RECIPE_GONE: the block (ncommands replies) is the callee's to free; else NULL, and `why` (valid during the call) says why. bytes: what
 * was read. Connections may be freed and large_start called from within. */
typedef void large_fn(void *arg, enum recipe_result result, sds block, unsigned ncommands, uint64_t bytes, const char *why);

struct large_options {
	struct bulk *from, *to;              /* large_cancel before either is freed */
	struct receiver from_kind, to_kind;
	struct slice key;                    /* copied */
	uint16_t slot, db;
	uint64_t serial;                     /* names the temporary key; not used twice within its TTL */
	int64_t now_ms;                      /* by the clock of `from` */
	void (*settle)(void *arg);           /* NULL: changes are not told */
	/* Sends read commands (taken) on the key's data connection, to be answered by large_told. NULL: they go over `from`. */
	void (*ask)(void *arg, sds request, unsigned nrequests);
};

struct large *large_start(const struct large_options *o, large_fn *fn, void *arg);
void large_cancel(struct large *l);
/* Elements that may have changed, or commands that changed it (taken). False: it cannot follow them; cancel it. */
bool large_changed(struct large *l, sds elements);
/* The replies to `ask` (taken). The job may be gone afterwards. */
void large_told(struct large *l, sds replies);
/* It is of a type that can be followed only with `ask`. */
bool large_is_ordered(const struct large *l);
/* Every change was told, and nobody writes the key until the block was handed over. */
void large_settled(struct large *l);
/* Bytes read so far and since the last call, for the pace. */
uint64_t large_bytes_taken(struct large *l);

/* Did EXEC's reply to a swap block say that the temporary key is the key now? Other errors in it do not matter. */
bool large_swapped(struct slice exec);

/* crossfade:tmp:{tag}:serial. Where a block that was handed over is thrown away, this key should be UNLINKed. */
sds large_tmp_key(uint16_t slot, uint64_t serial);

#endif
