/* config.h - the configuration file: one table of options (config.c) holds name, type, place, default, whether SIGHUP may change it, and the help text.
 *
 * redis.conf style: one option a line, words tokenised by sdssplitargs, # comments, sizes as 64mb, yes/no. An unknown or wrong option stops
 * with file, line and what was expected. tests/unit checks that conf/crossfade.conf and docs/configuration.md name every option.
 * Thread: read by any after the start; reloadable numbers change by relaxed atomic stores of the control thread,
 * who reads them elsewhere does so by CONFIG_NOW(); passwords are handed on by messages. */
#ifndef CROSSFADE_CONFIG_H
#define CROSSFADE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "backfill/topology.h"

#define CONFIG_NOW(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)
#define CONFIG_MAX_BINDS 16
#define CONFIG_MAX_NODES 256

struct acl;
struct tls_context;

struct host_port {
	char host[256];
	uint16_t port;
};

struct address_map { /* source-address-map announced=reachable …: host or host:port on either side of the = */
	unsigned n;
	struct { char from[280], to[280]; } *pairs;
};

struct side_config {
	unsigned nnodes;
	struct host_port nodes[CONFIG_MAX_NODES];
	char *user;          /* NULL: default user */
	char *auth_file;     /* first line is the password; NULL: no AUTH */
	char *password;      /* read from auth_file; never logged */
	struct address_map map;
	bool use_tls;        /* source-tls yes|no */
	char *tls_ca_cert_file, *tls_cert_file, *tls_key_file, *tls_name;
	struct tls_context *tls; /* NULL: plain; replaced in place at a reload */
};

struct config {
	char *file;
	unsigned nbinds;
	char *binds[CONFIG_MAX_BINDS];
	int port, tls_port;      /* 0: not listened on */
	char *requirepass_file, *aclfile;
	char *requirepass;       /* read from its file; never logged */
	struct acl *acl;         /* the users, a reference; replaced at a reload */
	char *unixsocket;        /* NULL: none */
	int unixsocketperm;
	char *tls_cert_file, *tls_key_file, *tls_key_pass_file, *tls_ca_cert_file, *tls_ca_cert_dir;
	char *tls_protocols, *tls_ciphers, *tls_ciphersuites;
	char *tls_key_pass;      /* read from its file; never logged */
	int tls_auth_clients;    /* enum tls_auth */
	struct tls_context *tls; /* of the listener; NULL: no tls-port */
	char *cluster_announce_ip, *cluster_announce_hostname; /* "": not announced */
	int cluster_announce_port; /* 0: the port that the client came to */
	struct side_config side[SIDES];
	char *state_dir;
	char *admin_socket;
	int workers;             /* 0: one per core */
	int maxclients;
	int acllog_max_len;      /* entries of ACL LOG */
	int loglevel;
	char *logfile;           /* "": stderr */
	bool mirror_ack_both;    /* mirror-ack source|both */
	bool mirror_tracking;    /* mirror-tracking yes|no: watch bypassing writers */
	bool bypassing_writers;
	int journal_fsync;       /* enum journal_fsync */
	int64_t journal_size;    /* bytes per worker */
	bool target_may_hold_keys; /* target-not-empty refuse|allow */
	int64_t request_max;     /* bytes; larger requests are not kept for the mirror */
	int64_t mirror_queue_max;  /* bytes held per worker for effects on their way before keys become dirty */
	int64_t dirty_keys_max;  /* per worker, before slots become dirty */
	int64_t known_keys_max;  /* entries of the exact table, per worker */
	int64_t large_value;     /* bytes; larger values are copied in chunks */
	int64_t client_output_max; /* bytes waiting for one client before it is cut off */
	int64_t backfill_keys_per_s, backfill_bytes_per_s;
	bool backfill_adaptive;
	int connect_timeout_ms, upstream_timeout_ms; /* no progress of a data connection while replies are awaited */
	int cutover_max_pause_ms;
	int cutover_max_lag_ms;
	int topology_interval_ms;
	struct config_retired *retired; /* passwords that were replaced: connections may still refer to them; freed with the config */
};

/* Fills *c from defaults and the file; false: a message of the form "file:line: …" was written into err. */
bool config_load(struct config *c, const char *file, char *err, size_t errlen);
/* Reads the file again and takes over the reloadable options (loglevel, logfile, maxclients, limits, auth files, certificates); others that differ are named in a warning. */
bool config_reload(struct config *c, char *err, size_t errlen);
void config_release(struct config *c);
/* `PROXY CONFIG SET`: changes one reloadable option until the next reload or start; false: err says what was expected. Control thread. */
bool config_set(struct config *c, const char *name, const char *value, char *err, size_t errlen);
/* The value of an option as text, malloc'd; NULL: no such option. Of passwords only the file's name can be seen. */
char *config_get(const struct config *c, const char *name);
const char *config_option_name(unsigned i); /* NULL behind the last one */
/* For tests and --help-config: every option with default and help. */
void config_print_options(FILE *out);

#endif
