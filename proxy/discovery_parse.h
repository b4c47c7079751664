/* discovery_parse.h - what servers say about themselves, read: INFO, CLUSTER SLOTS, CLUSTER NODES, TIME. Pure functions over complete replies. */
#ifndef CROSSFADE_DISCOVERY_PARSE_H
#define CROSSFADE_DISCOVERY_PARSE_H

#include "proxy/config.h"
#include "proxy/slot_set.h"
#include "resp/slice.h"

struct server_info {
	bool cluster, replica, loading;
	enum product product;
	uint32_t version;          /* 0x070011 */
	char run_id[44];
	char replid[2][44];        /* of replication, and the one before a promotion */
	uint16_t replicas;
	uint64_t keys, expires;    /* over all databases */
	struct db_set dbs;         /* those with keys */
};
/* INFO, default sections. False: no INFO. */
bool info_parse(struct slice reply, struct server_info *i);
uint32_t version_parse(const char *p, size_t n);

struct cluster_node {
	char id[44];
	struct host_port at; /* as announced; an empty host was replaced by the asked one */
};
struct cluster_slots {
	unsigned nnodes, cap;
	struct cluster_node *nodes; /* primaries that have slots, then primaries without */
	uint16_t slot_node[SLOTS];  /* NODE_NONE: nobody */
	bool migrating;
	unsigned nmembers;
	char (*members)[44]; /* ids of all nodes, replicas and lost ones too, in order */
};
/* CLUSTER SLOTS. `asked`: the host the question went to. False: no such reply. Call cluster_slots_release in either case. */
bool cluster_slots_parse(struct slice reply, const char *asked, struct cluster_slots *c);
/* CLUSTER NODES, for what CLUSTER SLOTS lacks: primaries without slots (they may be importing), slots on the move from or to the answering node, and who
 * belongs to the cluster. */
void cluster_nodes_parse(struct slice reply, const char *asked, struct cluster_slots *c);
/* Only: is a slot on the move at the answering node? */
bool cluster_nodes_migrating(struct slice reply);
/* What the answering node says of itself: the slots that it has, and those on their way to or from it. False: it says nothing of itself. */
bool cluster_nodes_claims(struct slice reply, struct slot_set *has, struct slot_set *moving);
void cluster_slots_release(struct cluster_slots *c);

/* TIME in microseconds, 0 if it is none. */
int64_t time_parse(struct slice reply);

#endif
