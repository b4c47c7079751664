#include "proxy/config_options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

#include "proxy/address.h"

#define AT(field) offsetof(struct config, field)
#define SOURCE(field) offsetof(struct config, side[SIDE_SOURCE].field)
#define TARGET(field) offsetof(struct config, side[SIDE_TARGET].field)
#define SIDE_AT(s) offsetof(struct config, side[s])
#define HOUR_MS 3600000

static const char *const yes_no[] = { "no", "yes", NULL };
static const char *const levels[] = { "debug", "verbose", "notice", "warning", NULL }; /* in the order of enum log_level */
static const char *const auth_words[] = { "no", "yes", "optional", NULL }; /* in the order of enum tls_auth */
static const char *const ack_words[] = { "source", "both", NULL };
static const char *const not_empty_words[] = { "refuse", "allow", NULL };
static const char *const fsync_words[] = { "no", "everysec", "always", NULL }; /* in the order of enum journal_fsync */

#define PORT_EXPECTED "a port from 1 to 65535, or 0"
#define NODES_EXPECTED "host:port words, an IPv6 address as [::1]:6379, or one unix:/path"
#define MAP_EXPECTED "announced=reachable words, each a host or host:port"
#define FILE_EXPECTED "one file name"
#define SIZE_EXPECTED "a size such as 16mb"
#define COUNT_EXPECTED "a whole number"

const struct option config_options[] = {
	{ "bind", OPTION_BINDS, AT(binds), "127.0.0.1", 0, 0, NULL, RELOAD_NO, "one or more addresses to listen on, * for all",
	  "addresses to listen on, IPv4 and IPv6; * is every address" },
	{ "port", OPTION_INT, AT(port), "6379", 0, 65535, NULL, RELOAD_NO, PORT_EXPECTED, "TCP port of the endpoint; 0: none" },
	{ "cluster-announce-ip", OPTION_TEXT, AT(cluster_announce_ip), "", 0, 0, NULL, RELOAD_NO, "one address, or \"\"",
	  "address that cluster clients are sent to; \"\" is the one they came to" },
	{ "cluster-announce-port", OPTION_INT, AT(cluster_announce_port), "0", 0, 65535, NULL, RELOAD_NO, "a port from 0 to 65535",
	  "port that cluster clients are sent to; 0 is the one they came to" },
	{ "cluster-announce-hostname", OPTION_TEXT, AT(cluster_announce_hostname), "", 0, 0, NULL, RELOAD_NO, "one host name, or \"\"",
	  "name that cluster clients are sent to instead of an address; \"\" is none" },
	{ "tls-port", OPTION_INT, AT(tls_port), "0", 0, 65535, NULL, RELOAD_NO, PORT_EXPECTED,
	  "port of the endpoint for TLS, on the same addresses; 0: none" },
	{ "tls-cert-file", OPTION_TEXT, AT(tls_cert_file), NULL, 0, 0, NULL, RELOAD_FILES, FILE_EXPECTED,
	  "the endpoint's certificate and its chain, PEM" },
	{ "tls-key-file", OPTION_TEXT, AT(tls_key_file), NULL, 0, 0, NULL, RELOAD_FILES, FILE_EXPECTED, "its key, PEM" },
	{ "tls-key-file-pass", OPTION_TEXT, AT(tls_key_pass_file), NULL, 0, 0, NULL, RELOAD_FILES, FILE_EXPECTED,
	  "file whose first line is the key's passphrase (in redis.conf it is the passphrase)" },
	{ "tls-ca-cert-file", OPTION_TEXT, AT(tls_ca_cert_file), NULL, 0, 0, NULL, RELOAD_FILES, FILE_EXPECTED,
	  "certificates that clients' certificates must come from, PEM" },
	{ "tls-ca-cert-dir", OPTION_TEXT, AT(tls_ca_cert_dir), NULL, 0, 0, NULL, RELOAD_FILES, "one directory",
	  "the same as a directory made by openssl rehash" },
	{ "tls-auth-clients", OPTION_CHOICE, AT(tls_auth_clients), "yes", 0, 0, auth_words, RELOAD_FILES, "no, yes or optional",
	  "whether clients must have a certificate: yes; only if they send one: optional" },
	{ "tls-protocols", OPTION_TEXT, AT(tls_protocols), "", 0, 0, NULL, RELOAD_FILES, "TLSv1.2, TLSv1.3 or \"TLSv1.2 TLSv1.3\"",
	  "versions of TLS, of the endpoint and towards both sides; \"\" is both" },
	{ "tls-ciphers", OPTION_TEXT, AT(tls_ciphers), "", 0, 0, NULL, RELOAD_FILES, "a list as openssl ciphers takes it, or \"\"",
	  "ciphers of TLS 1.2, likewise; \"\" leaves it to OpenSSL" },
	{ "tls-ciphersuites", OPTION_TEXT, AT(tls_ciphersuites), "", 0, 0, NULL, RELOAD_FILES, "names with : between them, or \"\"",
	  "ciphersuites of TLS 1.3, likewise" },
	{ "requirepass-file", OPTION_TEXT, AT(requirepass_file), NULL, 0, 0, NULL, RELOAD_FILES, FILE_EXPECTED,
	  "file whose first line is the password that clients must give; not with aclfile" },
	{ "aclfile", OPTION_TEXT, AT(aclfile), NULL, 0, 0, NULL, RELOAD_FILES, FILE_EXPECTED,
	  "file of the endpoint's users, in the syntax of the servers' ACL files" },
	{ "unixsocket", OPTION_TEXT, AT(unixsocket), NULL, 0, 0, NULL, RELOAD_NO, FILE_EXPECTED, "Unix socket of the endpoint" },
	{ "unixsocketperm", OPTION_MODE, AT(unixsocketperm), "700", 0, 0777, NULL, RELOAD_NO, "an octal number from 0 to 777",
	  "the rights of that socket" },
	{ "source-nodes", OPTION_NODES, SIDE_AT(SIDE_SOURCE), NULL, 0, 0, NULL, RELOAD_NO, NODES_EXPECTED,
	  "one or more nodes of the Redis that is left; the others of a cluster are found through them" },
	{ "source-user", OPTION_TEXT, SOURCE(user), NULL, 0, 0, NULL, RELOAD_NO, "one user name",
	  "ACL user for the source; needs source-auth-file" },
	{ "source-auth-file", OPTION_TEXT, SOURCE(auth_file), NULL, 0, 0, NULL, RELOAD_FILES, FILE_EXPECTED,
	  "file whose first line is the source's password" },
	{ "source-tls", OPTION_SWITCH, SOURCE(use_tls), "no", 0, 0, yes_no, RELOAD_NO, "yes or no", "speak TLS to the source, its certificate and name checked" },
	{ "source-tls-ca-cert-file", OPTION_TEXT, SOURCE(tls_ca_cert_file), NULL, 0, 0, NULL, RELOAD_FILES, FILE_EXPECTED,
	  "certificates that those of the source's nodes must come from, PEM; without it whom the system trusts" },
	{ "source-tls-cert-file", OPTION_TEXT, SOURCE(tls_cert_file), NULL, 0, 0, NULL, RELOAD_FILES, FILE_EXPECTED,
	  "certificate shown to the source, PEM" },
	{ "source-tls-key-file", OPTION_TEXT, SOURCE(tls_key_file), NULL, 0, 0, NULL, RELOAD_FILES, FILE_EXPECTED, "its key, PEM" },
	{ "source-tls-name", OPTION_TEXT, SOURCE(tls_name), NULL, 0, 0, NULL, RELOAD_FILES, "one name or address",
	  "name that every node's certificate must have; without it the host by which the node is reached" },
	{ "source-address-map", OPTION_MAP, SIDE_AT(SIDE_SOURCE), NULL, 0, 0, NULL, RELOAD_NO, MAP_EXPECTED,
	  "addresses that the source announces, and where they are reached from here (NAT, containers)" },
	{ "target-nodes", OPTION_NODES, SIDE_AT(SIDE_TARGET), NULL, 0, 0, NULL, RELOAD_NO, NODES_EXPECTED,
	  "one or more nodes of the Valkey that is entered; without them it is a plain proxy" },
	{ "target-user", OPTION_TEXT, TARGET(user), NULL, 0, 0, NULL, RELOAD_NO, "one user name",
	  "ACL user for the target; needs target-auth-file" },
	{ "target-auth-file", OPTION_TEXT, TARGET(auth_file), NULL, 0, 0, NULL, RELOAD_FILES, FILE_EXPECTED,
	  "file whose first line is the target's password" },
	{ "target-tls", OPTION_SWITCH, TARGET(use_tls), "no", 0, 0, yes_no, RELOAD_NO, "yes or no", "speak TLS to the target, its certificate and name checked" },
	{ "target-tls-ca-cert-file", OPTION_TEXT, TARGET(tls_ca_cert_file), NULL, 0, 0, NULL, RELOAD_FILES, FILE_EXPECTED,
	  "certificates that those of the target's nodes must come from, PEM; without it whom the system trusts" },
	{ "target-tls-cert-file", OPTION_TEXT, TARGET(tls_cert_file), NULL, 0, 0, NULL, RELOAD_FILES, FILE_EXPECTED,
	  "certificate shown to the target, PEM" },
	{ "target-tls-key-file", OPTION_TEXT, TARGET(tls_key_file), NULL, 0, 0, NULL, RELOAD_FILES, FILE_EXPECTED, "its key, PEM" },
	{ "target-tls-name", OPTION_TEXT, TARGET(tls_name), NULL, 0, 0, NULL, RELOAD_FILES, "one name or address",
	  "name that every node's certificate must have; without it the host by which the node is reached" },
	{ "target-address-map", OPTION_MAP, SIDE_AT(SIDE_TARGET), NULL, 0, 0, NULL, RELOAD_NO, MAP_EXPECTED,
	  "addresses that the target announces, and where they are reached from here" },
	{ "target-not-empty", OPTION_SWITCH, AT(target_may_hold_keys), "refuse", 0, 0, not_empty_words, RELOAD_NO, "refuse or allow",
	  "whether start is refused when the target already holds keys" },
	{ "state-dir", OPTION_TEXT, AT(state_dir), "/var/lib/crossfade", 0, 0, NULL, RELOAD_NO, "one directory",
	  "phase record, checkpoints and lock; created with mode 0700" },
	{ "admin-socket", OPTION_TEXT, AT(admin_socket), "/run/crossfade/admin.sock", 0, 0, NULL, RELOAD_NO, "one file name",
	  "Unix socket for proxyctl; mode 0600" },
	{ "workers", OPTION_INT, AT(workers), "0", 0, 256, NULL, RELOAD_NO, "a number from 0 to 256", "worker threads; 0: one per core" },
	{ "maxclients", OPTION_INT, AT(maxclients), "10000", 1, 10000000, NULL, RELOAD_YES, "a number from 1 up",
	  "clients served at the same time" },
	{ "loglevel", OPTION_CHOICE, AT(loglevel), "notice", 0, 0, levels, RELOAD_YES, "debug, verbose, notice or warning",
	  "what is logged" },
	{ "logfile", OPTION_TEXT, AT(logfile), "", 0, 0, NULL, RELOAD_YES, "one file name, or \"\" for stderr",
	  "where the log goes; \"\" is stderr; USR1 reopens it" },
	{ "mirror-ack", OPTION_SWITCH, AT(mirror_ack_both), "source", 0, 0, ack_words, RELOAD_NO, "source or both",
	  "whose acknowledgement a writing client waits for" },
	{ "mirror-tracking", OPTION_SWITCH, AT(mirror_tracking), "yes", 0, 0, yes_no, RELOAD_NO, "yes or no",
	  "watch for writes that do not pass through the proxy" },
	{ "bypassing-writers", OPTION_SWITCH, AT(bypassing_writers), "yes", 0, 0, yes_no, RELOAD_NO, "yes or no",
	  "whether anybody may write past the proxy: what they write while it is down is unseen, so that everything is compared after each start" },
	{ "journal-size", OPTION_SIZE, AT(journal_size), "16mb", 64 * 1024, INT64_C(1) << 32, NULL, RELOAD_NO, SIZE_EXPECTED ", from 64kb to 4gb",
	  "size per worker of the file in state-dir that holds the keys the follower still lacks, 64 bytes each; beyond it whole slots are held" },
	{ "journal-fsync", OPTION_CHOICE, AT(journal_fsync), "no", 0, 0, fsync_words, RELOAD_NO, "no, everysec or always",
	  "when the journal is synced: it survives the end of the process in any case, a power loss only with always" },
	{ "request-max", OPTION_SIZE, AT(request_max), "16mb", 64 * 1024, INT64_C(1) << 30, NULL, RELOAD_YES, SIZE_EXPECTED ", from 64kb to 1gb",
	  "larger requests are not kept for the mirror: their keys are copied instead" },
	{ "mirror-queue-max", OPTION_SIZE, AT(mirror_queue_max), "64mb", 1024 * 1024, INT64_C(1) << 40, NULL, RELOAD_YES,
	  SIZE_EXPECTED ", at least 1mb", "memory per worker for effects on their way before their keys become dirty instead" },
	{ "dirty-keys-max", OPTION_COUNT, AT(dirty_keys_max), "1000000", 1000, INT64_C(1) << 32, NULL, RELOAD_YES,
	  COUNT_EXPECTED ", at least 1000", "dirty keys per worker before whole slots become dirty" },
	{ "known-keys-max", OPTION_COUNT, AT(known_keys_max), "4000000", 1000, INT64_C(1) << 32, NULL, RELOAD_NO,
	  COUNT_EXPECTED ", at least 1000", "entries per worker of the table of keys mirrored whole before they were copied" },
	{ "large-value", OPTION_SIZE, AT(large_value), "1mb", 4096, INT64_C(1) << 30, NULL, RELOAD_NO, SIZE_EXPECTED ", from 4kb to 1gb",
	  "larger values are copied in chunks" },
	{ "acllog-max-len", OPTION_INT, AT(acllog_max_len), "128", 0, 100000, NULL, RELOAD_YES, "a number from 0 to 100000",
	  "entries of ACL LOG: refusals of the endpoint's users" },
	{ "client-output-max", OPTION_SIZE, AT(client_output_max), "1gb", 1024 * 1024, INT64_C(1) << 40, NULL, RELOAD_YES,
	  SIZE_EXPECTED ", at least 1mb", "bytes that may wait for one client that does not read, before it is cut off" },
	{ "backfill-keys-per-s", OPTION_COUNT, AT(backfill_keys_per_s), "0", 0, INT64_C(1) << 40, NULL, RELOAD_NO, COUNT_EXPECTED,
	  "keys copied per second; 0: no limit; proxyctl throttle changes it while it runs" },
	{ "backfill-bytes-per-s", OPTION_SIZE, AT(backfill_bytes_per_s), "0", 0, INT64_C(1) << 50, NULL, RELOAD_NO, SIZE_EXPECTED,
	  "bytes copied per second; 0: no limit; proxyctl throttle changes it while it runs" },
	{ "backfill-adaptive", OPTION_SWITCH, AT(backfill_adaptive), "yes", 0, 0, yes_no, RELOAD_NO, "yes or no",
	  "copying gives way when the clients' requests get slower; proxyctl throttle changes it while it runs" },
	{ "connect-timeout", OPTION_INT, AT(connect_timeout_ms), "2000", 10, HOUR_MS, NULL, RELOAD_NO, "milliseconds, at least 10",
	  "milliseconds for connecting to a node" },
	{ "upstream-timeout", OPTION_INT, AT(upstream_timeout_ms), "15000", 100, HOUR_MS, NULL, RELOAD_NO, "milliseconds, at least 100",
	  "milliseconds without any progress, while replies are awaited, before a connection to a node is given up" },
	{ "cutover-max-pause", OPTION_INT, AT(cutover_max_pause_ms), "1000", 10, 60000, NULL, RELOAD_YES, "milliseconds from 10 to 60000",
	  "milliseconds that a flip may hold requests before it is undone" },
	{ "cutover-max-lag", OPTION_INT, AT(cutover_max_lag_ms), "1000", 1, HOUR_MS, NULL, RELOAD_YES, "milliseconds, at least 1",
	  "milliseconds of mirror lag above which a flip is not begun" },
	{ "topology-interval", OPTION_INT, AT(topology_interval_ms), "1000", 50, HOUR_MS, NULL, RELOAD_YES, "milliseconds, at least 50",
	  "milliseconds between two looks at the topology of each side" },
};
const unsigned config_option_count = sizeof(config_options) / sizeof(config_options[0]);

const struct option *config_option_find(const char *name)
{
	for (unsigned i = 0; i < config_option_count; i++)
		if (strcasecmp(config_options[i].name, name) == 0)
			return &config_options[i];
	return NULL;
}

static void *field(const struct config *c, const struct option *o)
{
	return (char *)(uintptr_t)c + o->offset;
}

static void set_text(char **to, const char *text)
{
	free(*to);
	*to = text ? strdup(text) : NULL;
}

/* ---- reading ---- */

static bool read_number(const char *text, int64_t *n)
{
	char *end;

	errno = 0;
	long long v = strtoll(text, &end, 10);
	if (errno || end == text || *end || !(*text == '-' || (*text >= '0' && *text <= '9')))
		return false;
	*n = v;
	return true;
}

static bool read_mode(const char *text, int64_t *n)
{
	char *end;

	*n = strtol(text, &end, 8);
	return end != text && !*end && *text >= '0' && *text <= '7';
}

/* As redis.conf: k is 1000, kb is 1024. */
static bool read_size(const char *text, int64_t *n)
{
	static const struct { const char *unit; int64_t factor; } units[] = {
		{ "", 1 }, { "b", 1 }, { "k", 1000 }, { "kb", 1 << 10 }, { "m", 1000000 }, { "mb", 1 << 20 },
		{ "g", 1000000000 }, { "gb", 1 << 30 }, { "t", INT64_C(1000000000000) }, { "tb", INT64_C(1) << 40 },
	};
	char *end;

	errno = 0;
	long long v = strtoll(text, &end, 10);
	if (errno || end == text || v < 0 || *text < '0' || *text > '9')
		return false;
	for (unsigned i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (strcasecmp(end, units[i].unit) == 0)
			return !__builtin_mul_overflow((int64_t)v, units[i].factor, n);
	return false;
}

/* host:port; [v6]:port; unix:/path, which has no port. */
static bool read_host_port(const char *text, struct host_port *hp)
{
	const char *colon = strrchr(text, ':'), *host = text;
	size_t n = strlen(text);
	int64_t port;

	if (address_is_unix(text)) {
		if (n - strlen(ADDRESS_UNIX) >= sizeof(((struct sockaddr_un *)0)->sun_path))
			return false;
		strcpy(hp->host, text);
		hp->port = 0;
		return true;
	}
	if (!colon || !read_number(colon + 1, &port) || port < 1 || port > 65535)
		return false;
	n = (size_t)(colon - text);
	if (*text == '[') {
		if (n < 3 || text[n - 1] != ']')
			return false;
		host++;
		n -= 2;
	} else if (memchr(text, ':', n)) {
		return false; /* an IPv6 address without brackets: which colon is the port's? */
	}
	if (n == 0 || n >= sizeof(hp->host))
		return false;
	memcpy(hp->host, host, n);
	hp->host[n] = '\0';
	hp->port = (uint16_t)port;
	return true;
}

static bool read_nodes(struct side_config *s, int argc, char *const *argv)
{
	if (argc < 1 || argc > CONFIG_MAX_NODES)
		return false;
	for (int i = 0; i < argc; i++)
		if (!read_host_port(argv[i], &s->nodes[i]))
			return false;
	s->nnodes = (unsigned)argc;
	return argc == 1 || !address_is_unix(argv[0]); /* a cluster is not reached by one */
}

static bool read_map(struct address_map *m, int argc, char *const *argv)
{
	if (argc < 1)
		return false;
	m->pairs = calloc((size_t)argc, sizeof(*m->pairs));
	for (int i = 0; i < argc; i++) {
		const char *eq = strchr(argv[i], '=');
		if (!eq || eq == argv[i] || !eq[1] || (size_t)(eq - argv[i]) >= sizeof(m->pairs[i].from) ||
		    strlen(eq + 1) >= sizeof(m->pairs[i].to))
			return false;
		memcpy(m->pairs[i].from, argv[i], (size_t)(eq - argv[i]));
		strcpy(m->pairs[i].to, eq + 1);
		m->n++;
	}
	return true;
}

static bool read_binds(struct config *c, int argc, char *const *argv)
{
	if (argc < 1 || argc > CONFIG_MAX_BINDS)
		return false;
	for (unsigned i = 0; i < c->nbinds; i++)
		set_text(&c->binds[i], NULL);
	c->nbinds = 0;
	for (int i = 0; i < argc; i++) {
		if (!*argv[i])
			return false;
		set_text(&c->binds[c->nbinds++], argv[i]);
	}
	return true;
}

static bool read_choice(const struct option *o, const char *word, int *n)
{
	for (int i = 0; o->choices[i]; i++)
		if (strcasecmp(o->choices[i], word) == 0) {
			*n = i;
			return true;
		}
	return false;
}

/* Options of exactly one word. */
static bool read_word(struct config *c, const struct option *o, const char *word)
{
	int64_t n = 0;
	int choice = 0;
	bool ok = false;

	switch (o->type) {
	case OPTION_TEXT:
		ok = *word || o->fallback; /* only what has a default may be the empty word */
		if (o->fallback && *o->fallback && !*word)
			ok = false;
		if (ok)
			set_text(field(c, o), word);
		return ok;
	case OPTION_INT:
	case OPTION_MODE:
		ok = (o->type == OPTION_MODE ? read_mode(word, &n) : read_number(word, &n)) && n >= o->min && n <= o->max;
		if (ok)
			__atomic_store_n((int *)field(c, o), (int)n, __ATOMIC_RELAXED);
		return ok;
	case OPTION_COUNT:
	case OPTION_SIZE:
		ok = (o->type == OPTION_SIZE ? read_size(word, &n) : read_number(word, &n)) && n >= o->min && n <= o->max;
		if (ok)
			__atomic_store_n((int64_t *)field(c, o), n, __ATOMIC_RELAXED);
		return ok;
	case OPTION_CHOICE:
		ok = read_choice(o, word, &choice);
		if (ok)
			__atomic_store_n((int *)field(c, o), choice, __ATOMIC_RELAXED);
		return ok;
	case OPTION_SWITCH:
		ok = read_choice(o, word, &choice);
		if (ok)
			*(bool *)field(c, o) = choice == 1;
		return ok;
	default:
		return false;
	}
}

/* Of several words the one that is to blame, where each is read by itself. */
static const char *wrong_word(const struct option *o, int argc, char *const *argv)
{
	struct host_port scratch;

	for (int i = 0; o->type == OPTION_NODES && i < argc; i++)
		if (!read_host_port(argv[i], &scratch))
			return argv[i];
	return argv[0];
}

bool config_option_read(struct config *c, const struct option *o, int argc, char *const *argv, char *err, size_t errlen)
{
	bool ok;

	switch (o->type) {
	case OPTION_BINDS:
		ok = read_binds(c, argc, argv);
		break;
	case OPTION_NODES:
		ok = read_nodes(field(c, o), argc, argv);
		break;
	case OPTION_MAP:
		ok = read_map(&((struct side_config *)field(c, o))->map, argc, argv);
		break;
	default:
		ok = argc == 1 && read_word(c, o, argv[0]);
	}
	if (!ok && argc == 0)
		snprintf(err, errlen, "%s has no value: expected %s", o->name, o->expected);
	else if (!ok)
		snprintf(err, errlen, "%s '%s%s': expected %s", o->name, wrong_word(o, argc, argv), argc > 1 && o->type != OPTION_NODES ? " …" : "",
			 o->expected);
	return ok;
}

/* ---- writing and moving ---- */

static sds text_lists(sds out, const struct config *c, const struct option *o)
{
	const struct side_config *s = field(c, o);
	char name[ADDRESS_NAME_MAX];

	if (o->type == OPTION_BINDS)
		for (unsigned i = 0; i < c->nbinds; i++)
			out = sdscatprintf(out, "%s%s", i ? " " : "", c->binds[i]);
	else if (o->type == OPTION_NODES)
		for (unsigned i = 0; i < s->nnodes; i++) {
			address_name(name, sizeof(name), s->nodes[i].host, s->nodes[i].port);
			out = sdscatprintf(out, "%s%s", i ? " " : "", name);
		}
	else
		for (unsigned i = 0; i < s->map.n; i++)
			out = sdscatprintf(out, "%s%s=%s", i ? " " : "", s->map.pairs[i].from, s->map.pairs[i].to);
	return out;
}

sds config_option_text(sds out, const struct config *c, const struct option *o)
{
	const char *text;

	switch (o->type) {
	case OPTION_TEXT:
		text = *(char **)field(c, o);
		return sdscat(out, text ? text : "");
	case OPTION_INT:
		return sdscatprintf(out, "%d", *(int *)field(c, o));
	case OPTION_MODE:
		return sdscatprintf(out, "%o", *(int *)field(c, o));
	case OPTION_COUNT:
	case OPTION_SIZE:
		return sdscatprintf(out, "%" PRId64, *(int64_t *)field(c, o));
	case OPTION_CHOICE:
		return sdscat(out, o->choices[*(int *)field(c, o)]);
	case OPTION_SWITCH:
		return sdscat(out, o->choices[*(bool *)field(c, o)]);
	default:
		return text_lists(out, c, o);
	}
}

void config_option_move(struct config *to, const struct config *from, const struct option *o)
{
	switch (o->type) {
	case OPTION_TEXT:
		set_text(field(to, o), *(char **)field(from, o));
		break;
	case OPTION_INT:
	case OPTION_CHOICE:
		__atomic_store_n((int *)field(to, o), *(int *)field(from, o), __ATOMIC_RELAXED);
		break;
	case OPTION_COUNT:
	case OPTION_SIZE:
		__atomic_store_n((int64_t *)field(to, o), *(int64_t *)field(from, o), __ATOMIC_RELAXED);
		break;
	case OPTION_MODE:
	case OPTION_SWITCH:
	case OPTION_BINDS:
	case OPTION_NODES:
	case OPTION_MAP:
		break; /* never reloadable: read without atomics */
	}
}

void config_option_release(struct config *c, const struct option *o)
{
	struct side_config *s = field(c, o);

	switch (o->type) {
	case OPTION_TEXT:
		set_text(field(c, o), NULL);
		break;
	case OPTION_BINDS:
		for (unsigned i = 0; i < c->nbinds; i++)
			set_text(&c->binds[i], NULL);
		c->nbinds = 0;
		break;
	case OPTION_MAP:
		free(s->map.pairs);
		s->map = (struct address_map){ 0, NULL };
		break;
	default:
		break;
	}
}
