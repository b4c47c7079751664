/* local.h - what the proxy answers by itself, shared by local*.c only: who it presents itself as, and aggregates of either protocol.
 *
 * Clients see the source's product, version and mode (fleet->identity), before and after a flip; the target's when a process begins after finish. Every answer is an sds made for the
 * client's protocol (c->proto) and handed to client_reply. Thread: the client's worker. */
#ifndef CROSSFADE_LOCAL_H
#define CROSSFADE_LOCAL_H

#include <hiredis/sds.h>

#include "proxy/worker.h"

struct identity {
	const char *product; /* "redis", "valkey" */
	const char *version; /* "7.0.15" */
	uint32_t number;     /* 0x07000f */
	bool valkey, cluster;
};

struct identity local_identity(const struct worker *w);
/* "7.0.15" → 0x07000f; what is missing counts as 0. */
uint32_t local_version(const char *text);

/* Does the source know the command, as which we present ourselves? */
bool local_has(const struct worker *w, const struct command *cmd);
/* Does the server that answers now know it? */
bool local_knows(const struct worker *w, const struct command *cmd);
/* …and take as many words? */
bool local_takes(const struct worker *w, const struct command *cmd, uint32_t argc);

/* UNSUBSCRIBE and its kin where the server does not let them be said: true, and answered. */
bool local_refuses_unsubscribed(struct worker *w, struct client *c, const struct command *cmd);

/* An aggregate's header: n pairs of a '%', n elements of a '~' or '*'; both are arrays in RESP2. */
sds local_cat_aggregate(sds s, int proto, char type, int64_t n);
sds local_cat_text(sds s, const char *text);                 /* a bulk */
sds local_cat_verbatim(sds s, int proto, struct slice text); /* =txt:, in RESP2 a bulk */

/* It only needs to grow with what was written: clients compare it between nodes of one shard, and there is one. */
int64_t local_replication_offset(const struct worker *w);
/* Address of one end of a connection as text, and its port; false for a Unix socket. host has room for INET6_ADDRSTRLEN. */
bool local_end(int fd, bool peer, char *host, int *port);

typedef void local_fn(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc);
local_fn local_info, local_multi, local_exec, local_discard, local_watch, local_unwatch;
local_fn local_client_unblock; /* blocked.c */
local_fn local_cluster_slots, local_cluster_shards, local_cluster_nodes, local_cluster_info, local_cluster_myid, local_cluster_keyslot;
local_fn local_cluster_links, local_cluster_of_node;
local_fn local_info, local_client_info, local_client_list, local_client_kill;
local_fn local_subscribe, local_psubscribe, local_ssubscribe, local_unsubscribe, local_punsubscribe, local_sunsubscribe;
local_fn local_pubsub_channels, local_pubsub_numsub, local_pubsub_numpat, local_pubsub_shardchannels, local_pubsub_shardnumsub;
local_fn local_acl_cat, local_acl_dryrun, local_acl_genpass, local_acl_getuser, local_acl_list, local_acl_log, local_acl_users, local_acl_whoami;
local_fn local_wait, local_waitaof; /* waiting.c */
local_fn local_script_kill;    /* kill.c */
local_fn local_client_tracking, local_client_caching, local_client_getredir, local_client_trackinginfo; /* tracking_commands.c */
local_fn local_client_pause, local_client_unpause; /* pause.c */
local_fn local_command, local_command_count, local_command_info, local_command_docs, local_command_list, local_command_getkeys;

#endif
