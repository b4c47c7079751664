/* topology.h - an immutable picture of one side: its primaries, which slots each has, and what kind of server it is.
 *
 * Made by the control thread (proxy/discovery.c), handed to workers and the backfill worker, counted by reference; nobody
 * changes it after it was published. A new picture has a higher generation. Names are already resolved to addresses.
 * A standalone server is one node that has every slot. Threads: any; the count is atomic. */
#ifndef CROSSFADE_TOPOLOGY_H
#define CROSSFADE_TOPOLOGY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "backfill/db_set.h"
#include "resp/slot.h"

enum side { SIDE_SOURCE, SIDE_TARGET };
#define SIDES 2
#define SIDE_OTHER(s) ((s) == SIDE_SOURCE ? SIDE_TARGET : SIDE_SOURCE)

static inline const char *side_name(enum side s)
{
	return s == SIDE_SOURCE ? "source" : "target";
}

#define NODE_NONE UINT16_MAX

enum product { PRODUCT_REDIS, PRODUCT_VALKEY };

struct node {
	char name[280];   /* "host:port" as logs and status show it, and the node's identity together with run_id */
	char id[44];      /* cluster node id; empty for a standalone server */
	char run_id[44];  /* of the server process, empty while unknown */
	struct sockaddr_storage addr;
	socklen_t addr_len; /* 0: the name did not resolve */
	bool up;            /* answered at the last refresh */
	uint16_t replicas;  /* connected replicas */
	int64_t clock_offset_us; /* its clock minus ours */
};

struct topology {
	atomic_int refs;
	enum side side;
	bool cluster;
	enum product product;
	uint32_t version;   /* 0x070011 is 7.0.17: the lowest among the nodes */
	uint64_t generation;
	unsigned databases; /* that every node has and lets us select, at most DBS_MAX */
	struct db_set used; /* databases that hold keys */
	uint64_t layout;    /* hash of what decides where keys are, and of the server processes that hold them */
	bool has_expires;   /* some key of this side had an expiry at the last refresh */
	bool migrating;     /* some slot was being moved */
	uint16_t nnodes;
	struct node *nodes;
	uint16_t slot_node[SLOTS]; /* index in nodes or NODE_NONE */
};

struct topology *topology_new(enum side side, uint16_t nnodes); /* one reference, all slots NODE_NONE */
struct topology *topology_ref(struct topology *t);
void topology_unref(struct topology *t); /* NULL is allowed */

struct tls_context;

/* How to speak to a side: what the config says, the same for data, bulk and control connections. Not changed after the start but for the
 * password, which is swapped whole on SIGHUP. Owner: the config. */
struct side_access {
	const char *user;     /* NULL: the default user */
	const char *password; /* NULL: no AUTH */
	struct tls_context *tls; /* NULL: plain */
};

#endif
