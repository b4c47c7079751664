/* failing.h - why what is tried again and again does not succeed, for `status`: sides that are not reached as a whole, copies that the follower refuses or that cannot be read,
 * and walks over the keys of a side that it refuses.
 *
 * A worker, and the backfill, tell the last reason by message, a few times a second at most; control keeps the newest one of either. It is shown while anything is owed or compared and
 * it is not older than FAILING_FRESH_S, beyond the longest pause between two tries: so what has ended is no longer told. Never values: of an error that repeats arguments the part before them. */
#ifndef CROSSFADE_FAILING_H
#define CROSSFADE_FAILING_H

#include <ev.h>
#include <jansson.h>
#include <stdint.h>

#include "resp/slice.h"
#include "backfill/topology.h"

#define FAILING_FRESH_S 10

struct control;
struct mailboxes;
struct worker;

enum failing_kind { FAILING_COPY, FAILING_WALK, FAILING_KINDS };

struct failing {
	char why[320];  /* "": nothing has failed yet */
	ev_tstamp at;   /* when it was told */
};

/* The worker's thread. from: the side that the copy was read from. */
void failing_tell(struct worker *w, enum side from, uint16_t slot, const char *why);
/* The backfill thread's, self. Rate limited, and in the log, by who calls. */
void failing_tell_walk(struct control *c, struct mailboxes *mail, unsigned self, unsigned to_control, const char *why);
/* The control thread's: texts, none if all is well. owing: something is dirty, or is being copied or compared. New reference. */
json_t *failing_json(const struct control *c, bool owing);

#endif
