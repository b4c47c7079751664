/* lookout.h - which nodes a worker watches for what others write there (CLIENT TRACKING on its data connections), what they tell, and what is unknown.
 *
 * A server tells each connection that listens of every write that another connection makes: nine workers that listen everywhere would each be told of what the other eight do, and would have to throw it
 * away. So a worker listens where slots of its own are; everywhere only if it is the only one, while slots of a side are on the move, and before a flip.
 *
 * Invariant, while mirroring with mirror-tracking: what others write to a slot of this worker, on the node that its route names, is told, or the slot is marked dirty when the watch is on. What they wrote to a
 * slot on its way, on a node that is not watched yet, nobody tells: so a slot whose route turns is marked, unless the side is whole.
 *
 *   some ──lookout_everywhere, lookout_flip──► all ──each one's watch is proven (PING)──► asked (CLUSTER NODES, all of them)
 *     ▲                                         ▲                                            │
 *     │                                         └─────────── differs, or one was lost ◄──────┼──► whole ──a node is lost, comes, or is not watched any more──► all, some
 *     └── lookout_everywhere, off ◄──────────────────────────────────────────────────────────┘
 *
 * Whole: each node of the side that answers is watched, and behind that each said that it has just those slots of this worker which its route names, and none on its way. Then nothing that others wrote before is unknown, and
 * whatever they write from now on is told, wherever a slot goes, but to a node that the topology does not name yet. A flip waits for that on both sides: what becomes known behind it would be undone by the new
 * authority. Where a server refuses CLIENT TRACKING for good the log has said so, and nothing waits for it. Thread: the worker's. */
#ifndef CROSSFADE_LOOKOUT_H
#define CROSSFADE_LOOKOUT_H

#include <stdbool.h>
#include <stdint.h>

#include "proxy/fleet.h"

struct upstream;
struct worker;

struct lookout_side {
	bool everywhere;    /* ordered */
	bool whole;
	bool spoiled;       /* since they were asked a node was lost, came, or was left alone */
	unsigned asked;     /* whose answers are to come */
	bool silent;        /* one of them did not tell its slots */
	bool wished;        /* a new topology, since they differ */
	char differs[400];  /* what one of them said; "" */
	struct slot_set moving; /* what they say is on its way, so far */
	struct slot_set on_way; /* …and was so before */
};

struct lookout {
	struct lookout_side side[SIDES];
	struct slot_set came; /* slots that are to be marked at the end of the turn */
	bool any_came;
	uint64_t flip;        /* that waits to be told; 0: none */
	bool forced;          /* that one goes on as things are */
};

void lookout_begin(struct worker *w, bool on); /* mirroring begins, or has ended */
void lookout_everywhere(struct worker *w, enum side side, bool on); /* again and again: what could not be watched is tried once more */
void lookout_flip(struct worker *w, uint64_t flip, bool force); /* everywhere; fleet_tell_watched() when both sides are whole, or cannot be so now */
bool lookout_is_ready(const struct worker *w); /* a flip may go on */
void lookout_routed(struct worker *w, enum side side, uint16_t slot); /* its node is another one from now on */
void lookout_topology(struct worker *w, enum side side); /* there is a new one, and its routes are taken; not yet when lookout_routed() tells of these */
bool lookout_pushed(void *ctx, struct upstream *u, struct slice push); /* the data connections' */
void lookout_up(struct worker *w, struct upstream *u);
void lookout_lost(struct worker *w, struct upstream *u, const char *why);
void lookout_flushed(struct worker *w); /* somebody else's FLUSHALL or FLUSHDB was seen */
void lookout_turn(struct worker *w);

#endif
