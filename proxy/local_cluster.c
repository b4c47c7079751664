/* CLUSTER: the proxy described as a cluster of one node that has every slot, so that cluster clients send everything here and never go past it.
 *
 * The node's address is what cluster-announce-… says, else the one this client came to: whatever stands between, it works for this client. Its id is
 * the same after a restart. Where the source is no cluster, all of CLUSTER is refused as such a server does. */
#include <arpa/inet.h>
#include <stdio.h>
#include <xxhash.h>

#include "proxy/client.h"
#include "proxy/local.h"
#include "resp/digits.h"
#include "resp/slot.h"
#include "resp/write.h"

#define BUS_OFFSET 10000 /* of the port of the cluster bus, which nobody listens on here */

struct self {
	char id[41], shard[41];
	char ip[INET6_ADDRSTRLEN];
	const char *hostname; /* "": none */
	int port;
};

/* 40 hexadecimal digits that stay as long as the endpoint stays what it is. */
static void stable_id(char id[41], const struct fleet *f, const char *what)
{
	char seed[640];
	int n = snprintf(seed, sizeof seed, "%s %s %s %d", what, f->config->cluster_announce_ip, f->config->state_dir, f->config->port);
	size_t len = n < (int)sizeof seed ? (size_t)n : sizeof seed - 1;
	XXH128_hash_t a = XXH3_128bits_withSeed(seed, len, 1), b = XXH3_128bits_withSeed(seed, len, 2);

	snprintf(id, 41, "%016llx%016llx%08x", (unsigned long long)a.high64, (unsigned long long)a.low64, (unsigned)b.low64);
}

static struct self self_for(const struct worker *w, const struct client *c)
{
	const struct config *cfg = w->fleet->config;
	struct self s = { .hostname = cfg->cluster_announce_hostname, .port = cfg->port };

	stable_id(s.id, w->fleet, "node");
	stable_id(s.shard, w->fleet, "shard");
	if (!local_end(c->reader.fd, false, s.ip, &s.port))
		snprintf(s.ip, sizeof s.ip, "127.0.0.1"); /* a Unix socket: who uses one is here */
	if (*cfg->cluster_announce_ip)
		snprintf(s.ip, sizeof s.ip, "%s", cfg->cluster_announce_ip);
	if (cfg->cluster_announce_port)
		s.port = cfg->cluster_announce_port;
	return s;
}

/* Where clients are sent: certificates are for names, so a name goes first. */
static const char *endpoint(const struct self *s)
{
	return *s->hostname ? s->hostname : s->ip;
}

/* False after an error reply. */
static bool is_cluster(struct worker *w, struct client *c)
{
	if (local_identity(w).cluster)
		return true;
	client_error(w, c, "ERR This instance has cluster support disabled");
	return false;
}

void local_cluster_slots(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	if (!is_cluster(w, c))
		return;
	struct self self = self_for(w, c);
	sds s = resp_cat_len(resp_cat_len(sdsnew("*1\r\n*3\r\n"), ':', 0), ':', SLOTS - 1);
	s = local_cat_text(resp_cat_len(s, '*', 4), endpoint(&self));
	s = local_cat_text(resp_cat_len(s, ':', self.port), self.id);
	s = local_cat_aggregate(s, c->proto, '%', *self.hostname != '\0');
	if (*self.hostname)
		s = local_cat_text(local_cat_text(s, "ip"), self.ip);
	client_reply(w, c, s);
}

void local_cluster_shards(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct identity id = local_identity(w);
	bool has_id = id.valkey && id.number >= 0x090000;

	(void)cmd;
	(void)argc;
	if (!is_cluster(w, c))
		return;
	struct self self = self_for(w, c);
	sds s = local_cat_aggregate(sdsnew("*1\r\n"), c->proto, '%', 2 + has_id);
	s = resp_cat_len(local_cat_text(s, "slots"), '*', 2);
	s = resp_cat_len(resp_cat_len(s, ':', 0), ':', SLOTS - 1);
	s = resp_cat_len(local_cat_text(s, "nodes"), '*', 1);
	s = local_cat_aggregate(s, c->proto, '%', 7 + (*self.hostname != '\0'));
	s = local_cat_text(local_cat_text(s, "id"), self.id);
	s = resp_cat_len(local_cat_text(s, "port"), ':', self.port);
	s = local_cat_text(local_cat_text(s, "ip"), self.ip);
	s = local_cat_text(local_cat_text(s, "endpoint"), endpoint(&self));
	if (*self.hostname)
		s = local_cat_text(local_cat_text(s, "hostname"), self.hostname);
	s = local_cat_text(local_cat_text(s, "role"), "master");
	s = resp_cat_len(local_cat_text(s, "replication-offset"), ':', local_replication_offset(w));
	s = local_cat_text(local_cat_text(s, "health"), "online");
	if (has_id)
		s = local_cat_text(local_cat_text(s, "id"), self.shard);
	client_reply(w, c, s);
}

void local_cluster_nodes(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	if (!is_cluster(w, c))
		return;
	struct self self = self_for(w, c);
	sds s = sdscatprintf(sdsempty(), "%s %s:%d@%d%s%s myself,master - 0 0 1 connected 0-%d\n", self.id, self.ip, self.port,
			     self.port + BUS_OFFSET, *self.hostname ? "," : "", self.hostname, SLOTS - 1);
	client_reply(w, c, local_cat_verbatim(sdsempty(), c->proto, slice(s, sdslen(s))));
	sdsfree(s);
}

void local_cluster_info(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	if (!is_cluster(w, c))
		return;
	sds s = sdscatprintf(sdsempty(), "cluster_state:ok\r\ncluster_slots_assigned:%d\r\ncluster_slots_ok:%d\r\ncluster_slots_pfail:0\r\n"
			     "cluster_slots_fail:0\r\ncluster_known_nodes:1\r\ncluster_size:1\r\ncluster_current_epoch:1\r\ncluster_my_epoch:1\r\n"
			     "cluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\ntotal_cluster_links_buffer_limit_exceeded:0\r\n",
			     SLOTS, SLOTS);
	client_reply(w, c, local_cat_verbatim(sdsempty(), c->proto, slice(s, sdslen(s))));
	sdsfree(s);
}

void local_cluster_myid(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)argc;
	if (!is_cluster(w, c))
		return;
	struct self self = self_for(w, c);
	client_reply(w, c, local_cat_text(sdsempty(), cmd->local == LOCAL_CLUSTER_MYID ? self.id : self.shard));
}

void local_cluster_keyslot(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct identity id = local_identity(w);
	bool anywhere = id.valkey && id.number >= 0x090100; /* it needs no cluster there */

	(void)cmd;
	(void)argc;
	if (anywhere || is_cluster(w, c))
		client_reply(w, c, resp_cat_len(sdsempty(), ':', slot_of(w->argv[2])));
}

/* No links, no replicas: there is one node. */
void local_cluster_links(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	if (is_cluster(w, c))
		client_reply(w, c, resp_cat_len(sdsempty(), '*', 0));
}

/* REPLICAS, SLAVES, COUNT-FAILURE-REPORTS: of a node that is named. */
void local_cluster_of_node(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)argc;
	if (!is_cluster(w, c))
		return;
	struct self self = self_for(w, c);
	if (!slice_eq(w->argv[2], slice(self.id, sizeof self.id - 1)))
		client_error(w, c, "ERR Unknown node %.*s", (int)(w->argv[2].n < 128 ? w->argv[2].n : 128), w->argv[2].p);
	else if (cmd->local == LOCAL_CLUSTER_REPORTS)
		client_reply(w, c, resp_cat_len(sdsempty(), ':', 0));
	else
		client_reply(w, c, resp_cat_len(sdsempty(), '*', 0));
}
