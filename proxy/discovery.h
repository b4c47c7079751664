/* discovery.h - what each side looks like: asked on a timer and when wanted, published as an immutable topology when something changed.
 *
 *   one refresh of a side:
 *   ask a node that is known, else a configured one: INFO, CLUSTER SLOTS, CLUSTER NODES ──nobody answers──► all nodes down
 *     └► every primary found: INFO, TIME, CLUSTER NODES ──all answered or lost──► compare, publish, call `done`
 *
 * Nodes keep their order while their names stay. A standalone server is one node that has every slot; of several configured ones the first
 * that is a primary. Names are resolved again at every refresh; of several addresses the one that answers stays in use,
 * and where it does not the next one is tried, each once in a refresh.
 * Thread: control. The callbacks run on it, never from inside discovery_refresh. */
#ifndef CROSSFADE_DISCOVERY_H
#define CROSSFADE_DISCOVERY_H

#include <ev.h>

#include "proxy/config.h"
#include "proxy/state.h"

struct side_facts {
	bool seen;           /* there is a topology */
	bool up;             /* every node with slots answered at the last refresh */
	bool covered;        /* every slot has a node */
	bool cluster;
	enum product product;
	uint32_t version;
	uint64_t keys;       /* over all primaries, at the last refresh */
	char down[320];      /* not up: who, and why */
};

enum discovery_verdict { DISCOVERY_TAKE, DISCOVERY_IGNORE };

struct discovery_events {
	void *ctx;
	/* A new picture, before it is published: may be refused (a source too old, foreign servers), then it is not published and `facts.up` is false
	 * with `why`. */
	enum discovery_verdict (*look)(void *ctx, enum side side, const struct topology *t, const struct state_side *who, char *why, size_t n);
	/* It was published; the reference stays with discovery. */
	void (*changed)(void *ctx, enum side side, struct topology *t);
	/* The node that has these slots is another process or another node than before: acknowledged writes may be lost there. */
	void (*replaced)(void *ctx, enum side side, const struct node *now, const char *what, const uint8_t *slots /* SLOTS flags */);
	/* A refresh has ended, whatever its outcome. */
	void (*done)(void *ctx, enum side side);
};

struct discovery;
struct discovery *discovery_new(struct ev_loop *loop, const struct config *config, enum side side, const struct discovery_events *events);
void discovery_free(struct discovery *d);

/* Refresh at once, or, if one is running, once more behind it. */
void discovery_refresh(struct discovery *d);
/* Somebody ran into a redirect or a lost connection: refresh soon, at most every 50 ms. */
void discovery_wanted(struct discovery *d, const char *why);
/* While requests are held nothing is begun here: resolving names may block. */
void discovery_hold(struct discovery *d, bool hold);
/* A new password: connections are made anew. */
void discovery_reconnect(struct discovery *d);

const struct side_facts *discovery_facts(const struct discovery *d);
struct topology *discovery_topology(const struct discovery *d); /* borrowed; NULL: none yet */

#endif
