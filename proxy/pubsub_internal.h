/* pubsub_internal.h - shared by pubsub.c, ears.c, subscribe.c and pubsub_handover.c only. */
#ifndef CROSSFADE_PUBSUB_INTERNAL_H
#define CROSSFADE_PUBSUB_INTERNAL_H

#include <uthash.h>

#include "proxy/client.h"
#include "proxy/pubsub.h"

/* A connection on which one node is listened to. Made when it is first wanted, closed when nothing is heard on it, kept until the worker ends. */
struct ear {
	struct pubsub *pubsub;
	struct upstream_owner owner;
	struct upstream *upstream;
	uint16_t node;         /* index in worker->upstreams */
	uint32_t topics;       /* heard on it */
	unsigned idle_ticks;
};

enum hearing_state { HEARING_WAITS, HEARING_SENT, HEARING_CONFIRMED };

struct hearing {
	struct ear *ear;
	enum hearing_state state;
	uint64_t op;           /* the SUBSCRIBE that was sent last */
	bool wanted;           /* scratch of ears_sync */
};

struct link { /* a client and what it is subscribed to */
	UT_hash_handle hh;     /* in the client's, by topic */
	struct link *prev, *next; /* in the topic's */
	struct topic *topic;
	struct client *client;
	uint64_t ordinal;      /* of the confirmation from whose display on it holds */
};

/* A confirmation that waits for servers. */
struct confirmation {
	struct req *req;
	unsigned left;         /* topics that are not ready */
	uint64_t ordinal;      /* of the client's */
	sds error;             /* a server refused: the answer then */
};

struct topic {
	UT_hash_handle hh;
	struct pubsub *pubsub;
	enum topic_kind kind;
	sds name;
	uint16_t slot;         /* TOPIC_SHARD */
	bool everywhere;       /* keyspace notifications may come on it */
	struct link *links;
	struct hearing *hearings;
	unsigned nhearings;
	struct confirmation **waiting;
	unsigned nwaiting;
};

struct pubsub {
	struct worker *worker;
	struct topic *topics[TOPIC_KINDS];
	struct ear **ears;     /* by node; NULL: not made yet */
	unsigned ears_cap;
	uint16_t main[SIDES];  /* whose messages of ordinary channels are given on */
	uint64_t ops;
	bool look;             /* what is heard where has to be looked at at the end of the turn */
	bool retry;            /* …at the next tick */
	ev_timer tick;
	struct {
		uint64_t flip;
		unsigned left;     /* PINGs on their way; a next flip has to wait for them */
		bool lost;
	} settle;
};

struct pubsub_client {
	struct link *links[TOPIC_KINDS];
	uint64_t asked, shown; /* confirmations: made, and put into the output */
};

/* pubsub.c */
struct topic *topic_find(struct pubsub *p, enum topic_kind kind, struct slice name);
struct topic *topic_get(struct pubsub *p, enum topic_kind kind, struct slice name); /* made if new: somebody joins it then */
struct link *topic_link(struct topic *t, struct client *c); /* NULL: not subscribed */
bool topic_join(struct topic *t, struct client *c);          /* false: it was */
bool topic_leave(struct topic *t, struct client *c);         /* false: it was not; may free the topic */
void topic_await(struct topic *t, struct confirmation *w);
void topic_ready(struct topic *t);                            /* those who wait for it go on */
void topic_failed(struct topic *t, struct slice error);      /* …do not; they leave it, which may free the topic */
void topic_give(struct topic *t, struct slice push, struct block *block);

/* ears.c */
void ears_sync(struct topic *t);   /* heard where it is to be heard, and nowhere else */
void ears_forget(struct topic *t); /* nobody listens any more */
bool ears_confirmed(const struct topic *t);

#endif
