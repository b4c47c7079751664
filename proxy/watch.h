/* watch.h - WATCH: a connection of its own to the node that answers, from the first WATCH of a client until the client ends. The server itself sees who writes
 * to the keys meanwhile, whoever it is. EXEC runs on that connection, while the owner holds everything else back (engine_gate.c, race 14).
 *
 *   home (the client's worker)            owner (of the slot)
 *   WATCH, when all before is answered ─► connection of the client, WATCH there ─► OK; only then is the client read again
 *   EXEC, likewise                     ─► gate closed, drained: MULTI … EXEC there ─► the array, or null; gate open
 *   UNWATCH, DISCARD, an EXEC that fails at home ─► watch_end
 *
 * What was watched on another node than the one that would answer EXEC, before a flip (or two), or on a connection that was lost, may have changed: EXEC answers
 * null without asking. In a cluster all watched keys, and those of the transaction, must be of one slot.
 *
 * Ownership: made by home, counted by the session and by requests (home's thread only); the connection is the owner's, who gives it back when home has
 * told that nobody uses the watch any more. Thread: as said at each function. */
#ifndef CROSSFADE_WATCH_H
#define CROSSFADE_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "backfill/topology.h"
#include "proxy/req.h"

struct client;
struct upstream;
struct worker;

struct watch {
	/* home's */
	struct watch *prev, *next;  /* all that home has made */
	unsigned refs;
	struct worker *home, *owner;
	uint16_t slot;              /* of the watched keys; the first one's */
	/* the owner's */
	struct upstream *u;
	uint64_t flips;             /* its engine's, when it was armed */
	bool armed;                 /* WATCH was sent, and neither EXEC nor UNWATCH */
	bool broken;                /* what was watched may have changed: EXEC answers null */
};

/* home */
void watch_unref(struct watch *v);
void watch_end(struct worker *w, struct client *c); /* UNWATCH, if anything is watched */
void watch_client_gone(struct client *c);
void watch_restore(struct worker *w, struct client *c, uint16_t slot, uint32_t keys); /* watched in another process: EXEC answers null */
void watches_free(struct worker *w);                /* when the threads have ended */

/* the owner */
void watch_disarm(struct watch *v);                 /* nothing is watched any more */
void watch_give_back(struct worker *w, struct watch *v);
void watch_connections_free(struct worker *w);

/* the owner; its engine's I/O, ctx is the worker */
/* False: not sent, since EXEC will answer null anyway. */
bool watch_send(void *ctx, struct watch *v, enum side side, uint16_t db, uint16_t slot, const char *p, size_t n, struct block *holder, reply_fn *fn, void *arg);
bool watch_holds(void *ctx, const struct watch *v, enum side side, uint16_t slot);
void watch_exec(void *ctx, struct watch *v, uint16_t db, const char *p, size_t n, struct block *holder, unsigned replies, reply_fn *fn, void *arg);
/* Makes sure over the slot's data connection that the lost connection's commands will not be executed any more (race 7). False: it cannot. */
bool watch_kill(void *ctx, struct watch *v, enum side side, uint16_t slot, reply_fn *fn, void *arg);
#endif
