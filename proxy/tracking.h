/* tracking.h - client-side caching for the clients of one worker: CLIENT TRACKING.
 *
 * While any of them tracks, the worker has a side connection to every node of both sides that tells of every key that changes there, whoever changed it
 * (CLIENT TRACKING BCAST; it costs the servers some time on every write). A push of the side that answers for the key's slot is given on: to who has read the
 * key, or wants its prefix.
 *
 *   read of a tracking client ─► the key is noted before the read is sent ─► the change is told behind all replies that the client still waits for
 *   a flip                    ─► both sides count until it is over, then one null invalidation; what was read before is forgotten
 *   a connection is lost      ─► a null invalidation at once, and another one when every node is listened to again: what was missed is unknown
 *
 * So a client may be told more than a server would have told it, never less. NOLOOP: tracking_own.c.
 * Bounded by TRACKED_KEYS_MAX keys and TRACKED_BYTES_MAX bytes of them: the oldest are told as changed and forgotten, as the servers do.
 * Thread: the worker's. */
#ifndef CROSSFADE_TRACKING_H
#define CROSSFADE_TRACKING_H

#include <hiredis/sds.h>
#include <stdbool.h>
#include <stdint.h>

#include "resp/table.h"

#define TRACKED_KEYS_MAX 250000
#define TRACKED_BYTES_MAX (64u * 1024 * 1024)

struct client;
struct handed;
struct req;
struct tracker; /* what a client tracks; in its session */
struct told;    /* a client that others' invalidations are redirected to; in its session */
struct tracking;
struct worker;
struct written; /* what a request writes, while anybody has NOLOOP; the request's */

/* Of a tracking client that is not in BCAST mode: the keys that the request at hand (w->argv) reads are noted. */
void tracking_note(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc);
/* While fleet->nnoloop: the keys that the request at hand (w->argv), r or a part of it, writes. */
void tracking_write_begins(struct worker *w, const struct client *c, struct req *r, const struct command *cmd, uint32_t argc);
void tracking_write_ended(struct worker *w, struct written *written); /* takes it */
void tracking_caching_ends(struct client *c); /* what CLIENT CACHING said held for the command before this */
void tracking_hand(const struct client *c, struct handed *h); /* handover.h: how it tracks, and whether it is told what others track */
void tracking_restore(struct worker *w, struct client *c, const struct handed *h); /* …in another process: it is told to forget what it has read */
void tracking_drop(struct client *c);         /* OFF, RESET, the end */
void tracking_untold(struct client *c);       /* the end: redirections to it break */
void tracking_look(struct worker *w);         /* nodes or mirroring have changed */
void tracking_turn(struct worker *w);         /* at the end of each turn */
void tracking_free(struct worker *w);

/* For CLIENT LIST: letters appended, and the redirection. */
char *tracking_flags(const struct client *c, char *p);
int64_t tracking_redirection(const struct client *c); /* 0: none; -1: it does not track */

#endif
