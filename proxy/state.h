/* state.h - the state directory: a lock that keeps a second process out, the phase record, and the mark of a clean end.
 *
 * The record is what recovery goes by (invariant 7): it is replaced whole (temporary file, fsync, rename, fsync of the directory), never changed
 * in place, and carries a version and an XXH3 checksum; a record that cannot be trusted stops the start. What is durable is either the old record
 * or the new one:
 *
 *   state_write    phase.tmp written and fsynced           the old record is in force; failing here changes nothing
 *                  renamed to phase                        the record is issued: the outcome is unknown until …
 *                  fsync of the directory                  … this returns: the new record is in force
 *
 * A flip prepares its record before the fence is raised, so that the write of one block lies inside the pause (state_commit.h):
 *
 *   state_prepare  phase.next written, its name durable    the old record is in force; failing here changes nothing
 *   state_write    of the same record: phase.commit        issued; when it returns, phase.next is in force: its epoch is the higher one
 *   state_settle   phase.next renamed to phase             changes nothing; in its own time, before anything else is written
 *
 * Thread: control only. */
#ifndef CROSSFADE_STATE_H
#define CROSSFADE_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "backfill/topology.h"

enum phase { PHASE_PROXY, PHASE_MIRROR, PHASE_BACKFILL, PHASE_SYNCED, PHASE_CUTOVER, PHASE_FINISHED };
#define PHASES 6
extern const char *const phase_names[PHASES];

#define STATE_NODES 64 /* per side; enough to recognise it */
#define MIGRATION_ID_LEN 32

/* Whom the record is about. Ids are those of cluster nodes; a standalone server has only its address, run id and replication id, and may
 * change the ids at a restart: one of the three is enough. */
struct state_side {
	bool known, cluster;
	unsigned nnodes;
	struct { char id[44], name[280]; } nodes[STATE_NODES];
};

struct state_record {
	enum phase phase;
	uint64_t epoch;                       /* grows with every record */
	uint8_t authority[SLOTS];             /* enum side */
	char migration[MIGRATION_ID_LEN + 1]; /* random, made by start; empty in phase proxy */
	char given_up[MIGRATION_ID_LEN + 1];  /* the migration before, if it was aborted: its marker may still be on the target. "*": any */
	bool backfill_done;
	bool verify_clean;                    /* the last verify found nothing and nothing has voided it */
	int64_t verify_at_ms;                 /* when the last verify ended; 0: none in this migration */
	uint64_t verify_checked;
	struct state_side sides[SIDES];
};

enum state_result {
	STATE_DURABLE,
	STATE_UNCHANGED, /* failed before the rename: the old record is in force */
	STATE_UNKNOWN,   /* failed in or after it: either may be */
};

struct state;

/* Exit codes of the daemon that come from here. */
#define STATE_EXIT_CORRUPT 65
#define STATE_EXIT_LOCKED 73

/* Creates the directory (0700), takes the lock and reads the record. NULL: err says what and what to do, *exit_code is one of the above.
 * Removes the mark of a clean end; state_was_clean() tells whether there was one. */
struct state *state_open(const char *dir, char *err, size_t errlen, int *exit_code);
/* The same of a directory whose process serves, in order to take over from it: nothing is locked, and nothing may be written, until state_take has the lock and has
 * read anew. state_look only reads anew. False: err says why, and *exit_code whether it is not free (STATE_EXIT_LOCKED), or free and ours but not to be read (the other). */
struct state *state_borrow(const char *dir, char *err, size_t errlen, int *exit_code);
bool state_look(struct state *s, char *err, size_t errlen);
bool state_take(struct state *s, char *err, size_t errlen, int *exit_code);
void state_close(struct state *s); /* gives the lock back */

bool state_has_record(const struct state *s);
bool state_was_clean(const struct state *s);
const struct state_record *state_loaded(const struct state *s); /* valid if state_has_record */

/* There must be one already. */
bool state_prepare(struct state *s, const struct state_record *r, char *err, size_t errlen);
enum state_result state_write(struct state *s, const struct state_record *r, char *err, size_t errlen);
/* Gives a record that was prepared and is in force its proper name; nothing to do in most cases. False: err says why; to be tried again. */
bool state_settle(struct state *s, char *err, size_t errlen);
/* The process ends in order: nothing is owed. */
void state_mark_clean(struct state *s);

void state_random_id(char id[MIGRATION_ID_LEN + 1]);
/* The text of a record and back, for tests; malloc'd. */
char *state_render(const struct state_record *r);
bool state_parse(const char *text, size_t n, struct state_record *r, char *err, size_t errlen);

#endif
