/* bulk.h - a large request on its way to the server, passed on as it comes: nobody holds it whole.
 *
 *   home                                                                          owner of its slot
 *   its beginning has come, with all its keys: the client is not read
 *     └ all before it is answered ── PROBING: EXISTS key, as any request ────────► to the node, over the data connection
 *   a connection beside the data connection is to take it ◄── answered by the node ──┘
 *     └ OPENING: it comes up, if none is idle
 *     └ PASSING: read, looked at for its end, sent, no faster than the server takes it
 *         ├ the last byte has been sent ── SENT ── the answer ────────────────────► who waits for its key (BLPOP) is tried
 *         │                                  │                  the client's next ◄──┘
 *         │                                  └ lost: UNKNOWN ── LOST: of whom? ──► the data connection makes the server forget that one (race 7)
 *         │                                                     its client is answered ◄──┘
 *         └ lost, refused, or given up before: an error, and surely not executed ── DROPPING: the rest is read, and dropped
 *
 * The client's order needs nothing else: what was before it is answered, what is behind it is not looked at. The probe is for three things: the data connection is up, so
 * whatever a former one left at the server is gone; nothing holds the slot back; and the node is the right one, for a redirect to the request itself would come after all
 * of it had been sent. If any of this is in doubt, the node does not take one more connection, or the command needs more than to be passed on (bulk_begins), the
 * request is held whole and goes the usual way.
 *
 * CLIENT PAUSE stops it where it is.
 * While it is mirrored nothing is passed on; what is on its way when mirroring begins, or a process hands over or ends, goes on, but a client
 * that stalls then is given up after BULK_PATIENCE_S, and any after BULK_LIMIT_S.
 *
 * Bounds: BULK_AHEAD bytes wait for the server, and a block being read; BULK_MAX requests of a worker pass at a time, more are held whole. One
 * idle connection is kept for each node, as long as there is room for another. Thread: the client's worker; only mail crosses to the owner, which looks at the request meanwhile, as at any that it is lent. */
#ifndef CROSSFADE_BULK_H
#define CROSSFADE_BULK_H

#include <stdbool.h>
#include <stddef.h>

struct bulk;
struct client;
struct req;
struct worker;

#define BULK_LEAST (1024 * 1024) /* of a smaller one nothing is gained */
#define BULK_AHEAD (512 * 1024)
#define BULK_MAX 64
#define BULK_PATIENCE_S 1.0
#define BULK_LIMIT_S 10.0
#define BULK_REST_S 2.0 /* a cluster that redirected or refused something within that time may do it again */
#define BULK_REFUSED_S 10.0 /* so long no node is asked for one more connection when one refused it */

/* c->in begins with an incomplete request of at least BULK_LEAST bytes. True: it may be passed on; the client is not read until that is known. */
bool bulk_begins(struct worker *w, struct client *c);
void bulk_probed(struct client *c, const struct req *probe);
/* c->bulk: something has come, or there is room again. */
enum bulk_step {
	BULK_WAITS,  /* nothing is to be read now */
	BULK_READS,  /* more of it has to come */
	BULK_PASSED, /* what stands in c->in now is to be parsed as ever */
};
enum bulk_step bulk_goes_on(struct worker *w, struct client *c);
bool bulk_is_passing(const struct client *c); /* what comes from the client is more of it */
void bulk_abandon(struct client *c);          /* the client goes */

void bulks_turn(struct worker *w);            /* once there was one: at the end of each turn */
bool bulks_busy(const struct worker *w);      /* one may still be executed */
size_t bulks_tidy(struct worker *w);
void bulks_close(struct worker *w);           /* the loop has ended */
void bulks_free(struct worker *w);            /* by the control thread, when every thread has ended */

#endif
