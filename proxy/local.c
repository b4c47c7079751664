/* Commands that the proxy answers by itself: the connection's own state, and what is asked of a server before any data. */
#include "proxy/local.h"

#include <arpa/inet.h>
#include <assert.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>

#include "proxy/client.h"
#include "proxy/monitor.h"
#include "proxy/tracking.h"
#include "resp/digits.h"
#include "resp/write.h"

/* --- helpers --- */

uint32_t local_version(const char *text)
{
	unsigned part[3] = { 0, 0, 0 };

	if (sscanf(text, "%u.%u.%u", &part[0], &part[1], &part[2]) < 1)
		return 0;
	return part[0] << 16 | (part[1] & 0xff) << 8 | (part[2] & 0xff);
}

/* Before the source was seen nobody is served; a version all the same, so that no answer is malformed. */
struct identity local_identity(const struct worker *w)
{
	const char *text = w->fleet->identity, *space = strchr(text, ' ');
	struct identity id = { "redis", space ? space + 1 : "7.0.0", 0, false, atomic_load(&w->fleet->identity_cluster) != 0 };

	if (strncmp(text, "valkey ", 7) == 0) {
		id.valkey = true;
		id.product = "valkey";
	}
	id.number = local_version(id.version);
	return id;
}

sds local_cat_aggregate(sds s, int proto, char type, int64_t n)
{
	if (proto < 3)
		return resp_cat_len(s, '*', type == '%' ? 2 * n : n);
	return resp_cat_len(s, type, n);
}

sds local_cat_text(sds s, const char *text)
{
	return resp_cat_bulk(s, slice(text, strlen(text)));
}

sds local_cat_verbatim(sds s, int proto, struct slice text)
{
	if (proto < 3)
		return resp_cat_bulk(s, text);
	s = resp_cat_len(s, '=', (int64_t)text.n + 4);
	s = sdscatlen(s, "txt:", 4);
	s = sdscatlen(s, text.p, text.n);
	return sdscatlen(s, "\r\n", 2);
}

static void reply_status(struct worker *w, struct client *c, const char *text)
{
	client_reply(w, c, resp_cat_simple(sdsempty(), text));
}

static void reply_bulk(struct worker *w, struct client *c, struct slice text)
{
	client_reply(w, c, resp_cat_bulk(sdsempty(), text));
}

/* An error that quotes the client's bytes, which may hold anything. */
static void reply_quoting(struct worker *w, struct client *c, const char *before, struct slice quoted)
{
	sds text = sdsnew(before);

	text = sdscat(text, "'");
	text = sdscatlen(text, quoted.p, quoted.n < 128 ? quoted.n : 128);
	text = sdscat(text, "'");
	client_reply(w, c, resp_cat_error(sdsempty(), text));
	sdsfree(text);
}

/* The servers' rule for names and for what libraries say of themselves. */
static bool is_plain(struct slice s)
{
	for (size_t i = 0; i < s.n; i++)
		if (s.p[i] < '!' || s.p[i] > '~')
			return false;
	return true;
}

static void set_text(sds *place, struct slice text)
{
	sdsfree(*place);
	*place = text.n ? sdsnewlen(text.p, text.n) : NULL;
}

/* --- HELLO, AUTH --- */

static const char bad_name[] = "ERR Client names cannot contain spaces, newlines or special characters.";
static const char no_auth[] = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO %sAUTH <user> <pass> "
			      "option can be used to authenticate the client and select the RESP protocol version at the same time";

static void auth(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	if (argc > 3)
		client_error(w, c, "ERR syntax error");
	else if (argc == 2 && acl_default(w->acl)->nopass)
		client_error(w, c, "ERR AUTH <password> called without any password configured for the default user. "
			     "Are you sure your configuration is correct?");
	else if (client_log_in(w, c, argc == 2 ? SLICE_LIT("default") : w->argv[1], w->argv[argc - 1]))
		reply_status(w, c, "OK");
}

struct hello {
	int64_t proto;
	bool has_name, logs_in;
	struct slice name, user, password;
};

/* False after an error reply: nothing of the command takes effect then. */
static bool parse_hello(struct worker *w, struct client *c, uint32_t argc, struct hello *h)
{
	if (argc > 1 && !resp_string_to_int(w->argv[1].p, w->argv[1].n, &h->proto)) {
		client_error(w, c, "ERR Protocol version is not an integer or out of range");
		return false;
	}
	if (h->proto < 2 || h->proto > 3) {
		client_error(w, c, "NOPROTO unsupported protocol version");
		return false;
	}
	for (uint32_t i = 2; i < argc; i++) {
		if (slice_is(w->argv[i], "AUTH") && i + 2 < argc) {
			h->logs_in = true;
			h->user = w->argv[i + 1];
			h->password = w->argv[i + 2];
			i += 2;
		} else if (slice_is(w->argv[i], "SETNAME") && i + 1 < argc) {
			h->has_name = true;
			h->name = w->argv[++i];
			if (!is_plain(h->name)) {
				client_error(w, c, "%s", bad_name);
				return false;
			}
		} else {
			reply_quoting(w, c, "ERR Syntax error in HELLO option ", w->argv[i]);
			return false;
		}
	}
	if (h->logs_in)
		return client_log_in(w, c, h->user, h->password);
	if (!c->user)
		client_error(w, c, no_auth, local_identity(w).number < 0x070200 ? "" : "<proto> ");
	return c->user != NULL;
}

static void hello(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct identity id = local_identity(w);
	struct hello h = { .proto = c->proto };

	(void)cmd;
	if (!parse_hello(w, c, argc, &h))
		return;
	if (h.has_name)
		set_text(&c->name, h.name);
	c->proto = (uint8_t)h.proto;
	sds s = local_cat_aggregate(sdsempty(), c->proto, '%', 7);
	s = local_cat_text(local_cat_text(s, "server"), id.product);
	s = local_cat_text(local_cat_text(s, "version"), id.version);
	s = resp_cat_len(local_cat_text(s, "proto"), ':', c->proto);
	s = resp_cat_len(local_cat_text(s, "id"), ':', (int64_t)c->id);
	s = local_cat_text(local_cat_text(s, "mode"), id.cluster ? "cluster" : "standalone");
	s = local_cat_text(local_cat_text(s, "role"), "master");
	s = resp_cat_len(local_cat_text(s, "modules"), '*', 0);
	client_reply(w, c, s);
}

/* --- the connection --- */

static void ping(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	if (argc > 2)
		client_error(w, c, "ERR wrong number of arguments for '%s' command", cmd->name);
	else if (c->proto == 2 && pubsub_is_subscribed(c)) /* in the shape of what else comes then */
		client_reply(w, c, resp_cat_bulk(resp_cat_bulk(resp_cat_len(sdsempty(), '*', 2), SLICE_LIT("pong")),
						 argc == 2 ? w->argv[1] : SLICE_LIT("")));
	else if (argc == 2)
		reply_bulk(w, c, w->argv[1]);
	else
		reply_status(w, c, "PONG");
}

static void echo(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	reply_bulk(w, c, w->argv[1]);
}

/* As many databases as both sides have: what cannot be mirrored is not begun. */
static void select_db(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct identity id = local_identity(w);
	int64_t n;

	(void)cmd;
	(void)argc;
	if (!resp_string_to_int(w->argv[1].p, w->argv[1].n, &n)) {
		client_error(w, c, "ERR value is not an integer or out of range");
	} else if (n < INT32_MIN || n > INT32_MAX) {
		client_error(w, c, "ERR value is out of range, value must between -2147483648 and 2147483647");
	} else if (n >= 0 && n < (int64_t)worker_databases(w)) {
		c->db = (uint16_t)n;
		reply_status(w, c, "OK");
	} else if (id.cluster && !(id.valkey && id.number >= 0x090000)) { /* from 9.0 on a cluster may have databases */
		client_error(w, c, "ERR SELECT is not allowed in cluster mode");
	} else {
		client_error(w, c, "%s", no_such_db);
	}
}

static void quit(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	reply_status(w, c, "OK");
	client_close_after_replies(w, c);
}

/* What a library said of itself stays, as on the servers. */
static void reset(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	txn_drop(w, c);
	pubsub_drop(c);
	tracking_drop(c);
	monitor_leave(c);
	c->quiet = QUIET_NOT;
	c->no_evict = c->no_touch = false;
	c->proto = 2;
	c->db = 0;
	client_become_default(c);
	set_text(&c->name, SLICE_LIT(""));
	reply_status(w, c, "RESET");
}

/* READONLY, READWRITE, ASKING: nothing to remember, the proxy follows redirects itself. Valkey has replicas that redirect without a
 * cluster, so it takes the first two anywhere. */
static void readonly(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct identity id = local_identity(w);
	bool anywhere = id.valkey && id.number >= 0x080000 && !slice_is(w->argv[0], "asking");

	(void)cmd;
	(void)argc;
	if (id.cluster || anywhere)
		reply_status(w, c, "OK");
	else
		client_error(w, c, "ERR This instance has cluster support disabled");
}

static void time_now(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct timespec ts;

	(void)cmd;
	(void)argc;
	clock_gettime(CLOCK_REALTIME, &ts);
	sds s = resp_cat_len(sdsempty(), '*', 2);
	s = resp_cat_int_bulk(s, ts.tv_sec);
	client_reply(w, c, resp_cat_int_bulk(s, ts.tv_nsec / 1000));
}

int64_t local_replication_offset(const struct worker *w)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < w->fleet->nworkers; i++)
		n += atomic_load_explicit(&w->fleet->stats[i].writes, memory_order_relaxed);
	return (int64_t)n;
}

/* A master without replicas: what replicas there are is nothing that clients connect to. */
static void role(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	sds s = local_cat_text(resp_cat_len(sdsempty(), '*', 3), "master");
	s = resp_cat_len(s, ':', local_replication_offset(w));
	client_reply(w, c, resp_cat_len(s, '*', 0));
}

/* --- CLIENT --- */

static void client_id(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	client_reply(w, c, resp_cat_len(sdsempty(), ':', (int64_t)c->id));
}

static void client_getname(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	if (c->name)
		reply_bulk(w, c, slice(c->name, sdslen(c->name)));
	else
		client_reply(w, c, resp_cat_null(sdsempty(), c->proto));
}

static void client_setname(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	if (!is_plain(w->argv[2])) {
		client_error(w, c, "%s", bad_name);
		return;
	}
	set_text(&c->name, w->argv[2]);
	reply_status(w, c, "OK");
}

/* Redis 7.0 does not know it; libraries send it unasked and ignore the answer, so here it is always known. */
static void client_setinfo(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	bool is_name = slice_is(w->argv[2], "lib-name");

	(void)cmd;
	(void)argc;
	if (!is_name && !slice_is(w->argv[2], "lib-ver")) {
		reply_quoting(w, c, "ERR Unrecognized option ", w->argv[2]);
	} else if (!is_plain(w->argv[3])) {
		client_error(w, c, "ERR %s cannot contain spaces, newlines or special characters.", is_name ? "lib-name" : "lib-ver");
	} else {
		set_text(is_name ? &c->lib_name : &c->lib_ver, w->argv[3]);
		reply_status(w, c, "OK");
	}
}

bool local_end(int fd, bool peer, char *host, int *port)
{
	struct sockaddr_storage a;
	struct sockaddr_in *v4 = (struct sockaddr_in *)&a;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a;
	socklen_t len = sizeof a;

	if ((peer ? getpeername : getsockname)(fd, (struct sockaddr *)&a, &len) < 0)
		return false;
	if (a.ss_family == AF_INET) {
		*port = ntohs(v4->sin_port);
		return inet_ntop(AF_INET, &v4->sin_addr, host, INET6_ADDRSTRLEN) != NULL;
	}
	if (a.ss_family != AF_INET6)
		return false;
	*port = ntohs(v6->sin6_port);
	if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
		return inet_ntop(AF_INET, v6->sin6_addr.s6_addr + 12, host, INET6_ADDRSTRLEN) != NULL;
	return inet_ntop(AF_INET6, &v6->sin6_addr, host, INET6_ADDRSTRLEN) != NULL;
}

static bool parse_on_off(struct slice word, bool *on)
{
	*on = slice_is(word, "on");
	return *on || slice_is(word, "off");
}

/* Nobody's client is evicted here. */
static void client_no_evict(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	if (!parse_on_off(w->argv[2], &c->no_evict))
		client_error(w, c, "ERR syntax error");
	else
		reply_status(w, c, "OK");
}

/* Remembered and shown; on the servers the reads count as touches all the same, since many clients share a connection. */
static void client_no_touch(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	if (!parse_on_off(w->argv[2], &c->no_touch))
		client_error(w, c, "ERR syntax error");
	else
		reply_status(w, c, "OK");
}

/* What is not known is passed over, as on the servers; who can be redirected is told no more than others. */
static void client_capa(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	for (uint32_t i = 2; i < argc; i++)
		if (slice_is(w->argv[i], "redirect"))
			session_of(c)->capa_redirect = true;
	reply_status(w, c, "OK");
}

static void client_reply_mode(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	if (slice_is(w->argv[2], "on")) {
		c->quiet = QUIET_NOT;
		reply_status(w, c, "OK");
	} else if (slice_is(w->argv[2], "off")) {
		c->quiet = QUIET_OFF;
	} else if (slice_is(w->argv[2], "skip")) {
		if (c->quiet != QUIET_OFF)
			c->quiet = QUIET_NEXT;
	} else {
		client_error(w, c, "ERR syntax error");
	}
}

/* --- MONITOR --- */

/* Who monitors already is not answered at all, as on the servers. */
static void monitor(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	if (c->session && c->session->exec) {
		client_error(w, c, "ERR MONITOR isn't allowed for DENY BLOCKING client");
		return;
	}
	if (c->is_monitor)
		return;
	reply_status(w, c, "OK");
	monitor_join(w, c);
}

/* --- the table --- */

static local_fn *const local_functions[] = {
	[LOCAL_HELLO] = hello,
	[LOCAL_PING] = ping,
	[LOCAL_ECHO] = echo,
	[LOCAL_SELECT] = select_db,
	[LOCAL_QUIT] = quit,
	[LOCAL_RESET] = reset,
	[LOCAL_AUTH] = auth,
	[LOCAL_CLIENT_ID] = client_id,
	[LOCAL_CLIENT_GETNAME] = client_getname,
	[LOCAL_CLIENT_SETNAME] = client_setname,
	[LOCAL_CLIENT_SETINFO] = client_setinfo,
	[LOCAL_CLIENT_UNBLOCK] = local_client_unblock,
	[LOCAL_CLIENT_INFO] = local_client_info,
	[LOCAL_CLIENT_LIST] = local_client_list,
	[LOCAL_CLIENT_KILL] = local_client_kill,
	[LOCAL_CLIENT_REPLY] = client_reply_mode,
	[LOCAL_CLIENT_NO_EVICT] = client_no_evict,
	[LOCAL_CLIENT_NO_TOUCH] = client_no_touch,
	[LOCAL_CLIENT_CAPA] = client_capa,
	[LOCAL_CLIENT_TRACKING] = local_client_tracking,
	[LOCAL_CLIENT_CACHING] = local_client_caching,
	[LOCAL_CLIENT_GETREDIR] = local_client_getredir,
	[LOCAL_CLIENT_TRACKINGINFO] = local_client_trackinginfo,
	[LOCAL_MONITOR] = monitor,
	[LOCAL_CLIENT_PAUSE] = local_client_pause,
	[LOCAL_CLIENT_UNPAUSE] = local_client_unpause,
	[LOCAL_WAIT] = local_wait,
	[LOCAL_WAITAOF] = local_waitaof,
	[LOCAL_SCRIPT_KILL] = local_script_kill,
	[LOCAL_COMMAND] = local_command,
	[LOCAL_COMMAND_COUNT] = local_command_count,
	[LOCAL_COMMAND_INFO] = local_command_info,
	[LOCAL_COMMAND_DOCS] = local_command_docs,
	[LOCAL_COMMAND_LIST] = local_command_list,
	[LOCAL_COMMAND_GETKEYS] = local_command_getkeys,
	[LOCAL_INFO] = local_info,
	[LOCAL_TIME] = time_now,
	[LOCAL_READONLY] = readonly,
	[LOCAL_MULTI] = local_multi,
	[LOCAL_EXEC] = local_exec,
	[LOCAL_DISCARD] = local_discard,
	[LOCAL_WATCH] = local_watch,
	[LOCAL_UNWATCH] = local_unwatch,
	[LOCAL_ROLE] = role,
	[LOCAL_COMMAND_GETKEYSANDFLAGS] = local_command_getkeys,
	[LOCAL_CLUSTER_SLOTS] = local_cluster_slots,
	[LOCAL_CLUSTER_SHARDS] = local_cluster_shards,
	[LOCAL_CLUSTER_NODES] = local_cluster_nodes,
	[LOCAL_CLUSTER_INFO] = local_cluster_info,
	[LOCAL_CLUSTER_MYID] = local_cluster_myid,
	[LOCAL_CLUSTER_MYSHARDID] = local_cluster_myid,
	[LOCAL_CLUSTER_KEYSLOT] = local_cluster_keyslot,
	[LOCAL_CLUSTER_LINKS] = local_cluster_links,
	[LOCAL_CLUSTER_REPLICAS] = local_cluster_of_node,
	[LOCAL_CLUSTER_REPORTS] = local_cluster_of_node,
	[LOCAL_SUBSCRIBE] = local_subscribe,
	[LOCAL_PSUBSCRIBE] = local_psubscribe,
	[LOCAL_SSUBSCRIBE] = local_ssubscribe,
	[LOCAL_UNSUBSCRIBE] = local_unsubscribe,
	[LOCAL_PUNSUBSCRIBE] = local_punsubscribe,
	[LOCAL_SUNSUBSCRIBE] = local_sunsubscribe,
	[LOCAL_PUBSUB_CHANNELS] = local_pubsub_channels,
	[LOCAL_PUBSUB_NUMSUB] = local_pubsub_numsub,
	[LOCAL_PUBSUB_NUMPAT] = local_pubsub_numpat,
	[LOCAL_PUBSUB_SHARDCHANNELS] = local_pubsub_shardchannels,
	[LOCAL_PUBSUB_SHARDNUMSUB] = local_pubsub_shardnumsub,
	[LOCAL_ACL_CAT] = local_acl_cat,
	[LOCAL_ACL_DRYRUN] = local_acl_dryrun,
	[LOCAL_ACL_GENPASS] = local_acl_genpass,
	[LOCAL_ACL_GETUSER] = local_acl_getuser,
	[LOCAL_ACL_LIST] = local_acl_list,
	[LOCAL_ACL_LOG] = local_acl_log,
	[LOCAL_ACL_USERS] = local_acl_users,
	[LOCAL_ACL_WHOAMI] = local_acl_whoami,
};

void local_request(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	assert(cmd->policy == POLICY_LOCAL && command_arity_ok(cmd, argc));
	assert(cmd->local < sizeof local_functions / sizeof *local_functions && local_functions[cmd->local]);
	local_functions[cmd->local](w, c, cmd, argc);
}
