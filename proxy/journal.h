/* journal.h - the keys whose effect the follower has not acknowledged, in a shared mapping on disk, so that what is owed survives kill -9 (invariants 4 and 5).
 *
 * One file per worker. An entry is written before its command is sent to the authority, and taken out when the follower has acknowledged the effect, or
 * when the key's dirty mark, which has an entry of its own, takes over (race 6). What does not fit an entry (a key too long, a table that is full) is
 * held by its slot's bit; a dirty slot likewise.
 *
 *   file:  header │ one bit per slot │ entries of 64 bytes: check, state, slot, key
 *   entry: FREE ──content, then check──► written ──state = USED (release)──► owed ──state = FREE──► FREE
 *
 * A process that is killed leaves every entry either FREE or whole: the content is complete before the state says so, and the command goes out behind both.
 * A power loss may leave anything that was not synced: the header names the boot, and each entry carries a check over its content.
 *
 * Thread: the owner's, but for journal_sync and journal_was_touched, which any one thread may call, and journal_read, which needs no journal.
 * Errors: opening fails with a text; afterwards nothing fails, the file having been allocated whole (never SIGBUS for a full disk). */
#ifndef CROSSFADE_JOURNAL_H
#define CROSSFADE_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "resp/slice.h"
#include "resp/slot.h"

#define JOURNAL_PROCESS_MAX 24
#define JOURNAL_KEY_MAX 48 /* longer keys are held by their slot */

struct journal;

/* What an entry is taken out by. 0 is none, so that zeroed structures hold nothing. */
typedef uint32_t journal_ref;

/* Makes the file, whole and empty. Replaces one of that name. process: names the process that writes it. synced: the caller will sync what it adds before it sends the command. NULL: err says what and what to do. */
struct journal *journal_new(const char *path, uint32_t entries, const char *process, bool synced, char *err, size_t errlen);
/* A file of that size and nothing else: room on the disk. False: err says what. */
bool journal_room(const char *path, uint32_t entries, char *err, size_t errlen);
/* The same as journal_new without a file, for tests: what it holds is read with journal_read_memory. */
struct journal *journal_new_in_memory(uint32_t entries);
void journal_free(struct journal *j); /* the file stays */

journal_ref journal_add(struct journal *j, struct slice key, uint16_t db, uint16_t slot);
void journal_fetch(const struct journal *j, journal_ref ref); /* it will be removed soon (lines.h) */
void journal_remove(struct journal *j, journal_ref ref, uint16_t slot);
/* A dirty slot; idempotent. */
void journal_slot(struct journal *j, uint16_t slot, bool dirty);
/* The slot as a whole, counted: of what concerns keys without number. What journal_remove takes, too. */
journal_ref journal_hold(struct journal *j, uint16_t slot);
void journal_let_go(struct journal *j, uint16_t slot);
/* Entries and bits that are held: 0 when nothing is owed. */
uint64_t journal_owed(const struct journal *j);

/* Something was written since the last sync. */
bool journal_was_touched(const struct journal *j);
/* Everything written before the call is on the disk when it returns true. Blocks. */
bool journal_sync(struct journal *j);

/* What a former process owed. */
enum journal_trust {
	JOURNAL_TRUSTED,
	JOURNAL_REBOOTED, /* the machine was started anew since, and not all was synced */
	JOURNAL_BAD,      /* not a journal, another version, or an entry whose check is wrong */
};
struct journal_reader {
	void *ctx;
	void (*process)(void *ctx, const char *name); /* first; NULL: not wanted */
	void (*key)(void *ctx, struct slice key, uint16_t db, uint16_t slot);
	void (*slot)(void *ctx, uint16_t slot);
};
/* Tells what the file holds. On JOURNAL_BAD and JOURNAL_REBOOTED everything may be owed. */
enum journal_trust journal_read(const char *path, const struct journal_reader *r, char *err, size_t errlen);
/* The same of a file's content (8-byte aligned); and of a journal that is at hand. */
enum journal_trust journal_read_image(const void *image, size_t n, const struct journal_reader *r, char *err, size_t errlen);
void journal_read_memory(const struct journal *j, const struct journal_reader *r);

#endif
