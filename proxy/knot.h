/* knot.h - commands with several keys of one slot, towards a cluster that is restless: slots move, or it redirected or refused something lately. While a slot moves, a node
 * that has only some of the keys turns such a command away (TRYAGAIN), and goes on to serve the others: what its client sent behind it would overtake it. So
 * until it is answered nothing else with a key of that slot is taken from that client (other clients, and other slots, are not concerned: neither promises an
 * order). It costs a round trip, so it is not done while the cluster rests: who is overtaken before we hear of a move is told so (engine_order.c).
 *
 * A transaction is one, too. Thread: the client's worker. */
#ifndef CROSSFADE_KNOT_H
#define CROSSFADE_KNOT_H

#include "proxy/client.h"

/* Must the request in w->argv wait? Only asked while the client has knots: client_done comes back to it. */
bool knot_holds(struct worker *w, const struct client *c, const struct command *cmd, uint32_t argc);
/* The request goes to its slot's owner. */
void knot_tie(struct worker *w, struct client *c, struct req *r);
/* Likewise, of a request that is cut: of its parts, which go to several slots. */
void knot_whole(struct worker *w, const struct req *whole, uint16_t slot);
/* It was answered. True: what was held may be looked at again. */
bool knot_untie(struct client *c, const struct req *r);

#endif
