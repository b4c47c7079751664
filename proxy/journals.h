/* journals.h - the journals of all workers in the state directory, and what those of the last process say is owed.
 *
 *   files: journal-GENERATION.WORKER. A start reads all that are there, makes a new generation, and removes the former ones only when every engine holds
 *   what they told (and has it in its own journal): a start that is killed in between finds both.
 *
 * Thread: control, but for the journals themselves. With JOURNAL_EVERYSEC a thread of its own syncs them. */
#ifndef CROSSFADE_JOURNALS_H
#define CROSSFADE_JOURNALS_H

#include "proxy/fleet.h"
#include "proxy/journal.h"

#define JOURNALS_CLIENT "crossfade-%s-worker-%u" /* name of a data connection: process, worker */

enum journal_fsync { JOURNAL_NO, JOURNAL_EVERYSEC, JOURNAL_ALWAYS };

struct owed_key {
	struct owed_key *next;
	uint16_t db, slot;
	size_t len;
	char key[];
};

#define FORMERS_MAX 8

/* What the follower may lack, and who left it so. */
struct owed {
	struct owed_key *keys;
	uint64_t nkeys;
	struct slot_set slots;
	unsigned nformers; /* processes that did not end in order: their connections may still bring something (race 7) */
	char formers[FORMERS_MAX][JOURNAL_PROCESS_MAX];
	bool everything;   /* the journals cannot tell */
	char why[512];     /* everything: why */
};

struct journals;

/* Room on the disk for what journals_open will make, which takes it; nothing else in the directory is touched. False: there is none, err says what and what to do. */
bool journals_reserve(const char *dir, unsigned workers, int64_t bytes_each, char *err, size_t errlen);
void journals_unreserve(const char *dir);

/* clean: the last process owed nothing; else its files must be there. NULL: err says what and what to do. */
struct journals *journals_open(const char *dir, unsigned workers, int64_t bytes_each, enum journal_fsync fsync, bool clean, char *err, size_t errlen);
const struct owed *journals_owed(const struct journals *s);
const char *journals_process(const struct journals *s); /* this process's own name */
/* CLIENT LIST's reply as CLIENT KILL requests for the connections of former processes, added to s; returns their number. Any thread. */
unsigned journals_kill_formers(const struct journals *s, struct slice list, sds *requests);
struct journal *journals_of(const struct journals *s, unsigned worker);
void journals_taken(struct journals *s);
uint64_t journals_hold(const struct journals *s); /* entries and bits of all; the workers have ended. NULL: 0 */
void journals_free(struct journals *s); /* the workers have ended */

#endif
