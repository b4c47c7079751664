/* alone.h - commands that run alone: FLUSHALL, FLUSHDB, SWAPDB (alone.c). No slot and no single connection is theirs, so they run under a fence of all owners (race 5).
 * Thread: as said at each function. */
#ifndef CROSSFADE_ALONE_H
#define CROSSFADE_ALONE_H

#include "proxy/worker.h"

struct alone;

/* Home: its words are in w->argv; takes the request. The client is held: what it sends behind is not looked at before the answer. */
void alone_request(struct worker *w, struct client *c, const struct command *cmd, struct req *r);
void alone_submit(struct worker *w, struct req *r); /* everything before it is answered */
/* The owner: its engine has come to rest. */
void alone_quiet(struct worker *w, bool follower);
/* The conductor: a node is connected again that was lost when it had been asked. */
void alone_doubt_ends(struct worker *w, struct upstream *u);
void alone_free(struct worker *w); /* when the threads have ended */

#endif
