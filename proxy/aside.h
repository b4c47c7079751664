/* aside.h - connections to nodes beside the data connections, each because a large reply came on it (stream.h): what is sent from then on must not wait for the client that reads it.
 *
 *   data connection ── a large reply begins ──► ASIDE: that reply, and what was in flight behind it ── all answered ──► SPARE ── the next large reply ──► data connection
 *          ▲                                                                                                               │
 *          └── the spare, or a new one, takes its place ◄────────────────────────────────────────────────────────────────────┘
 *
 * A request whose reply was large of late (larges.h) sends its connection aside when the turn ends that it came in, if there is a spare one: what comes until its reply begins, while the server copies the
 * value, say, need not wait for it.
 *
 * One spare is kept for each node. A large reply that others wait behind has ASIDE_PATIENCE_S; then it is taken without waiting for its client. So it is at once where something waits
 * until nothing is in flight. What is left behind keeps its order (engine_aside.c). While it is mirrored no reply is streamed, and what is aside ends.
 * Thread: the worker's. */
#ifndef CROSSFADE_ASIDE_H
#define CROSSFADE_ASIDE_H

#include <stdbool.h>
#include <stddef.h>

#include "proxy/req.h"

struct upstream;
struct upstream_owner;
struct worker;

#define ASIDE_MAX 64
#define ASIDE_PATIENCE_S 1.0

/* A large reply begins on u. False: new requests go on taking u, so it must not wait for its client. */
bool aside_step(struct worker *w, struct upstream *u);
void aside_begins(struct worker *w, const struct req *r); /* its reply is one that others feel */
void aside_sent(struct worker *w, struct upstream *u, uint16_t slot, reply_fn *fn, void *arg); /* once there was one: each request, when it was sent */
void aside_owner(const struct worker *w, struct upstream_owner *out); /* of any connection beside the data connections: what is pushed there is not looked at */
void asides_turn(struct worker *w);  /* once there was one: at the end of each turn */
bool asides_busy(const struct worker *w); /* something is in flight on one */
size_t asides_tidy(struct worker *w);
void asides_free(struct worker *w);  /* the loop has ended, and all data connections are closed */

#endif
