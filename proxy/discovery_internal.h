/* discovery_internal.h - shared by discovery.c (asking) and discovery_build.c (the picture made of the answers). */
#ifndef CROSSFADE_DISCOVERY_INTERNAL_H
#define CROSSFADE_DISCOVERY_INTERNAL_H

#include "proxy/address.h"
#include "proxy/discovery.h"
#include "proxy/discovery_parse.h"
#include "resp/parse.h"

struct peer {
	struct peer *next;
	char name[280];
	struct addresses found; /* what the name resolved to in this round, */
	unsigned tried;         /* how many of them were tried in it */
	struct sockaddr_storage addr; /* the one in use: it stays while it answers and is among them */
	socklen_t addr_len;
	bool lost;              /* it did not answer when it was last asked */
	struct bulk *bulk;
	unsigned databases;          /* 0: not known yet */
	char databases_run_id[44];   /* …of this process */
	uint64_t round; /* last refresh that used it */
};

/* What is asked of one primary, and what it said. */
struct probe {
	struct discovery *d;
	struct host_port at; /* reachable */
	struct peer *peer;   /* NULL: does not resolve */
	unsigned left;       /* answers to come */
	bool ok, migrating;
	struct server_info info;
	unsigned db_there, db_missing, db_tried; /* highest that can be selected, lowest that cannot, the one being tried */
	int64_t time_sent_us, clock_offset_us, round_trip_us;
	char why[320];
};

struct discovery {
	struct ev_loop *loop;
	const struct config *config;
	enum side side;
	struct discovery_events events;
	struct side_facts facts;
	struct topology *topology;
	ev_timer timer;
	bool running, again, held, closing, reconnect, said;
	double began_at;
	uint64_t round;
	struct peer *peers;
	/* asking one node */
	unsigned candidate, ask_left;
	struct host_port asked_at;
	struct peer *asked;
	bool asked_ok, cluster;
	struct server_info asked_info;
	struct cluster_slots slots;
	/* asking every primary: probes[i] is about slots.nodes[i] */
	struct probe *probes;
	unsigned nprobes, probes_left;
	char why[320];
};

/* discovery.c */
void probe_part_done(struct probe *p);
void probe_lost(struct probe *p, const char *why);

/* discovery_databases.c: another part of the probe, if it is not known */
void probe_databases(struct probe *p);

/* discovery_build.c */
struct topology *discovery_build(const struct discovery *d);
void discovery_identity(const struct discovery *d, const struct topology *t, struct state_side *who);
/* Fills d->facts (but for up and down); returns whether every node with slots answers, else who does not. */
bool discovery_measure(struct discovery *d, const struct topology *t, char *down, size_t n);
bool topology_same(const struct topology *a, const struct topology *b);
void topology_copy(struct topology *to, const struct topology *from); /* of as many nodes; but for refs */
/* Was the node at this index, or the process behind it, exchanged? Then what happened, and its slots are flagged. */
const char *topology_replaced(const struct topology *old, const struct topology *t, unsigned node, uint8_t *slots);

#endif
