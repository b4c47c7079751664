/* lookout.h - which nodes a worker watches for what others write there (CLIENT TRACKING on its data connections), what they tell, and what is unknown.
 *
 * A server tells each connection that listens of every write that another connection makes: nine workers that listen everywhere would each be told of what the other eight do, and would have to throw it
 * away. So a worker listens where slots of its own are, and where a command of one was sent by a redirect. Invariant, while mirroring with mirror-tracking: what others write to a slot of this worker, on
 * the node that its route names, is told, or the slot is marked dirty after the watch is on. A slot that comes to a node which was not watched from the beginning may have been written there before its route
 * named it, so it is marked, too. Thread: the worker's. */
#ifndef CROSSFADE_LOOKOUT_H
#define CROSSFADE_LOOKOUT_H

#include <stdbool.h>
#include <stdint.h>

#include "proxy/fleet.h"

struct upstream;
struct worker;

struct lookout {
	struct slot_set came; /* slots that are to be marked at the end of the turn */
	bool any;
};

void lookout_begin(struct worker *w, bool on); /* mirroring begins, or has ended */
void lookout_route(struct worker *w, enum side side, uint16_t slot, uint16_t node); /* the slot's node from now on */
void lookout_topology(struct worker *w, const struct topology *t); /* its routes are taken already */
void lookout_redirected(struct worker *w, struct upstream *u, uint16_t slot); /* a command of the slot goes there for once */
bool lookout_pushed(void *ctx, struct upstream *u, struct slice push); /* the data connections' */
void lookout_up(struct worker *w, struct upstream *u);
void lookout_lost(struct worker *w, struct upstream *u, const char *why);
void lookout_flushed(struct worker *w); /* somebody else's FLUSHALL or FLUSHDB was seen */
void lookout_turn(struct worker *w);

#endif
