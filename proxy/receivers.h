/* receivers.h - which channels and patterns clients of this proxy are subscribed to, over all workers: for the numbers that PUBLISH and PUBSUB answer.
 *
 * A server counts connections, and a worker is one, whatever number of clients it has: so the answer to PUBLISH becomes the server's number less our
 * connections plus our clients. Exact when nobody is just subscribing.
 * Threads: any, under its own lock; subscribing, publishing and PUBSUB touch it, nothing else does. */
#ifndef CROSSFADE_RECEIVERS_H
#define CROSSFADE_RECEIVERS_H

#include <hiredis/sds.h>
#include <stdbool.h>
#include <stdint.h>

#include "resp/slice.h"

enum topic_kind { TOPIC_CHANNEL, TOPIC_PATTERN, TOPIC_SHARD };
#define TOPIC_KINDS 3

struct receivers;

struct receivers *receivers_new(void);
void receivers_free(struct receivers *r);
/* A client subscribed, or ended it. worker: it is the first, or was the last, of its worker. */
void receivers_add(struct receivers *r, enum topic_kind kind, struct slice name, bool worker);
void receivers_remove(struct receivers *r, enum topic_kind kind, struct slice name, bool worker);
/* Who gets a message of this channel (TOPIC_CHANNEL or TOPIC_SHARD), when the server counted `said`. */
int64_t receivers_of(struct receivers *r, enum topic_kind kind, struct slice channel, int64_t said);
int64_t receivers_subscribed(struct receivers *r, enum topic_kind kind, struct slice name); /* clients */
int64_t receivers_topics(struct receivers *r, enum topic_kind kind);                        /* how many there are */
sds receivers_cat_names(struct receivers *r, enum topic_kind kind, const struct slice *pattern, sds s); /* an array; pattern NULL: all */

#endif
