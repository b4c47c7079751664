/* preflight_internal.h - shared by preflight*.c: what is collected from the nodes, how to ask, how to say a line.
 *
 * Calling sequence: preflight.c asks what every node is asked, by ask(); the `take` functions fill the structs below and may ask more; when nothing
 * is awaited any more the judge_… functions look at the structs and say() lines. A judge asks nothing and changes nothing but the report. */
#ifndef CROSSFADE_PREFLIGHT_INTERNAL_H
#define CROSSFADE_PREFLIGHT_INTERNAL_H

#include <hiredis/sds.h>
#include <jansson.h>

#include "backfill/bulk.h"
#include "proxy/preflight.h"
#include "resp/table.h"

#define PROBE_KEY "crossfade:tmp:check" /* never there; of our own namespace */
#define SAMPLE_KEYS_MAX 10000           /* whose types are looked at, over all nodes of the source */

/* A growing list of names, each once, with something beside it. */
struct name {
	char name[128], beside[64];
	uint64_t n;
};
struct names {
	unsigned n, cap;
	struct name *at;
};
struct name *names_get(struct names *l, struct slice name); /* added if new */
const struct name *names_find(const struct names *l, const char *name);
void names_release(struct names *l);
/* "a, b, c and 3 more" */
sds names_text(sds out, const struct names *l);

struct node_info { /* of INFO */
	bool there, cluster;
	enum product product;
	uint32_t version;
	char version_text[32], policy[32];
	uint64_t used_memory, maxmemory, system_memory, evicted, replicas;
	uint64_t keys, keys_beyond, dbs_beyond; /* …in databases other than 0 */
	uint64_t last_db;
	uint64_t field_expiry;                  /* hashes with fields that expire; where the server tells */
};

enum right { RIGHT_UNASKED, RIGHT_YES, RIGHT_NO, RIGHT_NO_KEY, RIGHT_ABSENT, RIGHT_UNKNOWN };
#define NEEDS_MAX 64

struct check_node {
	struct preflight *p;
	enum side side;
	const struct node *node;
	struct bulk *bulk;
	bool lost;
	unsigned awaited;
	char why[400];
	struct node_info info;
	int64_t asked_time_us, clock_offset_us, round_trip_us; /* round_trip_us < 0: unknown */
	bool cluster_fails;            /* CLUSTER INFO: cluster_state is not ok */
	uint64_t libraries_sum;        /* order-independent, over name, engine and code */
	bool modules_known;
	uint8_t needs[NEEDS_MAX];      /* enum right */
	uint8_t *commands;             /* enum right, by command id: those that the applications use */
	sds *batch;                    /* keys whose types are asked for */
	unsigned nbatch;
	char cursor[24];               /* of SCAN, behind the batch */
	uint64_t sampled, untyped;     /* keys that were looked at; whose type the server did not tell */
	bool sampled_all;
};

struct check_side {
	bool configured;
	struct topology *topology;
	struct side_facts facts;
	struct check_node *nodes;
	unsigned nnodes;
	struct names modules;          /* of any node */
	struct names libraries;        /* of the source's first node, of the target's all: name, engine beside it, n a sum over the code */
	struct names engines;          /* of functions */
	struct names types;            /* of sampled values, other than the six of every server: n keys, one key's name beside */
	bool lists_commands;           /* COMMAND LIST was answered: */
	uint8_t *knows;                /* …by command id */
	uint64_t *calls;               /* commandstats, by command id */
	struct names unknown_calls;    /* …of commands that are not in the table */
};

struct preflight {
	struct preflight_input in;
	preflight_fn *fn;
	void *arg;
	ev_timer begin, limit;
	struct check_side sides[SIDES];
	unsigned awaited;
	bool closing;
	/* what the clients have sent */
	uint64_t *seen, *cross_slot, *in_multi; /* by command id, over all workers */
	struct names unknown;
	uint64_t unknown_others;
	/* the report */
	json_t *lines;
	unsigned warnings, errors;
	char first_error[512];
};

enum level { LEVEL_OK, LEVEL_WARN, LEVEL_ERR };
/* todo: NULL if level is LEVEL_OK. */
void say(struct preflight *p, enum level level, const char *check, const char *todo, const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* Asks; the answer goes to `take` with `number`. A node that was lost is not asked again, and its answers are not taken. */
typedef void take_fn(struct check_node *n, unsigned number, struct slice reply);
void ask_words(struct check_node *n, take_fn *take, unsigned number, unsigned argc, const struct slice *argv);
void ask(struct check_node *n, take_fn *take, unsigned number, ...); /* C strings, NULL at the end */

/* ---- preflight_answers.c: pure */

struct items { /* a walk over the elements of an aggregate; of a map key and value alternate */
	const char *p, *end;
	int64_t left;
};
bool items_begin(struct items *it, struct slice reply); /* false: it is no aggregate */
bool items_next(struct items *it, struct slice *value);
struct slice map_value(struct slice map, const char *name); /* p NULL: not there */
struct slice text_of(struct slice reply);                   /* of a scalar; p NULL: none, or an error */
bool is_error(struct slice reply, struct slice *text);
#define PLURAL(n) ((n) == 1 ? "" : "s")
const struct command *row_of(struct slice name);            /* "config|get"; NULL: not in the table */

void take_info(struct check_node *n, unsigned number, struct slice reply);
void take_time(struct check_node *n, unsigned number, struct slice reply);
void take_modules(struct check_node *n, unsigned number, struct slice reply);
void take_libraries(struct check_node *n, unsigned number, struct slice reply);
void take_engines(struct check_node *n, unsigned number, struct slice reply);
void take_command_list(struct check_node *n, unsigned number, struct slice reply);
void take_cluster_info(struct check_node *n, unsigned number, struct slice reply);

/* ---- the judges, and what they share */

bool side_answers(const struct check_side *s); /* at least one node told INFO */
const char *side_label(const struct check_side *s, enum side side, char out[64]); /* "target valkey-8.0.1" */
bool server_knows(const struct check_side *s, const struct command *cmd);
bool both_answer(const struct preflight *p);

void judge_reachable(struct preflight *p);
void judge_servers(struct preflight *p); /* preflight_servers.c */
void judge_data(struct preflight *p);    /* preflight_data.c */
void judge_rights(struct preflight *p);
void judge_traffic(struct preflight *p);

void sample_begin(struct check_node *n);  /* preflight_data.c */
void rights_ask(struct check_node *n);    /* preflight_rights.c */
bool crossfade_runs(const struct command *cmd); /* by itself, on either side */
void traffic_collect(struct preflight *p); /* preflight_traffic.c */

#endif
