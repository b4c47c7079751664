/* pubsub.h - publish and subscribe for the clients of one worker.
 *
 * A channel is subscribed once per worker, however many of its clients want it, on connections of its own (ears.c), and what comes is given to each
 * as a slice. While there is a follower both sides are listened to; PUBLISH goes to the authority only and has no effect. So a message comes once, from whichever
 * side it was published at, and a flip neither loses nor doubles one: before it, everything published so far has been heard (pubsub_settle).
 *
 *   channel, pattern         heard at the node of slot 0 of each side, where PUBLISH goes, too: there delivery comes before PUBLISH's reply
 *   keyspace notifications   heard at every node; given on if the node's side is the authority of the key's slot: both sides make them
 *   shard channel            heard at the node of its slot
 *
 * A client's subscription takes effect when its confirmation is put into its output, which is when every server concerned has confirmed.
 * Thread: the worker's. */
#ifndef CROSSFADE_PUBSUB_H
#define CROSSFADE_PUBSUB_H

#include <stdbool.h>
#include <stdint.h>

#include "proxy/receivers.h"

struct client;
struct handed;
struct pubsub;
struct pubsub_client; /* a client's subscriptions; NULL: it never had any */
struct worker;

struct pubsub *pubsub_new(struct worker *w);
void pubsub_close(struct pubsub *p); /* its connections; the clients are gone before */
void pubsub_free(struct pubsub *p);

/* Routes, authority or mirroring have changed: looked after in pubsub_turn, which is to be called at the end of each turn. */
void pubsub_look(struct pubsub *p);
void pubsub_turn(struct pubsub *p);
/* Everything published up to now has been given to its subscribers, and every subscription stands on both sides: fleet_tell_settled. */
void pubsub_settle(struct pubsub *p, uint64_t flip);

/* handover.h: in another process its subscriptions hold at once, in so far as pubsub_stands: every server concerned has confirmed. */
void pubsub_hand(const struct client *c, struct handed *h);
void pubsub_restore(struct pubsub *p, struct client *c, enum topic_kind kind, struct slice name);
bool pubsub_stands(const struct pubsub *p);

uint32_t pubsub_count(const struct client *c, enum topic_kind kind);
bool pubsub_is_subscribed(const struct client *c);
void pubsub_drop(struct client *c);  /* all its subscriptions, without a word: RESET, the end */
void pubsub_free_client(struct client *c);
void pubsub_shown(struct client *c); /* the next confirmation was put into its output */

#endif
