/* sim.h - a seeded simulation of everything that decides: the engine behind struct engine_io and the phase machine behind struct phase_io, among model
 * servers, a model network, writers, bypassers and a model backfill worker. One seed is one world: run twice, it does the same thing twice.
 *
 *   value.c     what a key holds, and its payload
 *   command.c   what a command does to a node's data, and its reply
 *   server.c    nodes: cycles, tracking pushes, expiry, replicas, failover, slots that move
 *   net.c       the data connections between engine and nodes, the topology as the proxy believes it to be, the engine's seam
 *   client.c    writers through the proxy, bypassers, their FLUSHALL;  alone.c: FLUSHALL through the proxy
 *   watcher.c   transactions, and a client that watches
 *   copies.c    the backfill worker: scan, repairs;  rescan.c: dirty slots walked on both sides
 *   control.c   the phase machine, flips, records, the process being killed and started again
 *   judge.c     what must hold in the middle and at the end
 *   world.c     a seed's profile, the schedule
 *   run.c       many seeds;  mutants.c: rules taken out;  main.c: the command line
 *
 * There is no queue of timed events: at every step one of the actors, drawn by lot, does one small thing, so that whatever can happen in any order does.
 * Time goes on by a few microseconds at each step. Threads: one. */
#ifndef CROSSFADE_SIM_H
#define CROSSFADE_SIM_H

#include "backfill/fault.h"
#include "backfill/recipe.h"
#include "proxy/engine.h"
#include "proxy/journals.h"
#include "proxy/marker.h"
#include "proxy/phases.h"
#include "proxy/txn.h"
#include "proxy/watch.h"

#define TAGS 4        /* slots */
#define KEYS_PER_TAG 4
#define KEYS (TAGS * KEYS_PER_TAG)
#define NODES 2       /* of a side */
#define WIRE_MAX 8192 /* a power of two */
#define ITEMS_MAX 4096
#define HOT_KEY 0
#define HOT_CLIENTS 4 /* each sends its next write when the last was answered */
#define EPOCH_MS INT64_C(1700000000000)

/* --- value.c --- */

enum type { TYPE_NONE, TYPE_STRING, TYPE_HASH, TYPE_SET };
#define TEXT_MAX 24
#define FIELDS 4
#define MEMBERS 64

struct value {
	enum type type;
	uint32_t len;          /* string */
	char text[TEXT_MAX];
	uint32_t mask;         /* hash: which fields */
	int32_t field[FIELDS];
	uint64_t members;      /* set */
	int64_t expire_ms;     /* -1: never */
};

bool value_equal(const struct value *a, const struct value *b); /* the expiry included */
sds value_dump(const struct value *v);                         /* a payload that restamp() takes, without RESP */
bool value_restore(struct slice payload, struct value *v);
const char *value_show(const struct value *v, char *out, size_t n);

/* --- nodes and connections --- */

#define ORDERED 3 /* clients */

struct wire { /* what was sent on a connection and not executed yet */
	char *bytes;
	size_t n;
	unsigned replies;
	reply_fn *fn;
	void *arg;
	size_t at;        /* bytes executed so far */
	bool asking, client;
	uint32_t from, part; /* of the request, if its client's order is judged; from 0: not */
	bool write;
	bool own;         /* of the watching client's connection */
	bool kills;       /* behind it nothing of a watching client's former connection is executed */
	bool multi, refused; /* between MULTI and EXEC */
	size_t multi_at;
};

enum answer_kind { ANSWER_REPLY, ANSWER_PUSH, ANSWER_NULL_PUSH };
struct answer_out { /* what the server wrote and the proxy has not read yet */
	enum answer_kind kind;
	sds reply;
	reply_fn *fn;
	void *arg;
	int key;
};

struct conn {
	bool up;
	bool missed;            /* pushes, while it was down */
	bool in_request;        /* the last request on it lacks its end: what follows is taken for that (race 10) */
	int64_t stalled_us;     /* nothing arrives before */
	int64_t retry_us;
	struct wire in[WIRE_MAX];
	uint32_t in_head, in_tail;
	struct answer_out out[WIRE_MAX];
	uint32_t out_head, out_tail;
	struct wire zombie[64]; /* bytes of a connection given up, on their way yet */
	unsigned nzombies;
	uint64_t woff;          /* replication offset of its last write, as WAIT looks at it */
};

enum changed { UNCHANGED, CHANGED_BY_US, CHANGED_BY_OTHERS };

struct server {
	struct value data[KEYS], replica[KEYS];
	struct value deposed[KEYS];     /* what the former primary still shows to those who have not heard */
	uint64_t deposed_before;        /* readers of an older topology than this read there; 0: none */
	bool deposed_owns[TAGS];
	bool cut;                       /* the connection leads to the former primary: the next command on it breaks it */
	int64_t replaced_us;            /* when it last failed over, or that was noticed */
	uint64_t offset, replica_offset;
	uint64_t own[KEYS];             /* offset of the last write that came from the proxy */
	uint64_t owed;                  /* writes up to here were taken over by a flip: no failover may lose them */
	bool replaced;                  /* failed over, and the proxy has not noticed */
	enum changed changed[KEYS];     /* in this cycle: by whom last (NOLOOP knows no more) */
	bool foreign[KEYS];             /* in this cycle: somebody else wrote it, too, or a script that did not declare it */
	uint32_t inputs[KEYS];          /* in this cycle: what it was computed from, a bit a key */
	bool flushed;
	bool by_us, by_foreigner;       /* the command at hand */
	struct conn conn;
};

struct view { /* a topology as somebody knows it */
	uint64_t generation;
	uint8_t route[TAGS];
};

struct cluster { /* one side */
	bool is_cluster;
	unsigned nnodes;
	int64_t clock_ms;            /* ahead of the proxy's */
	struct server node[NODES];
	uint8_t owner[TAGS];
	uint8_t moving_to[TAGS];     /* or NODES */
	uint64_t changes, seen;      /* of the topology: happened, known to the proxy */
	uint8_t known[TAGS];         /* owners by the topology in force; a MOVED, which may be older, changes the worker's route only */
	struct view worker, bulk;    /* as the owner and as the backfill worker know it */
};

/* --- the backfill worker --- */

enum item_stage { ITEM_WAIT, ITEM_HOLD, ITEM_READ, ITEM_OFFER };
struct item { /* a copy in the backfill worker's hands */
	int key;
	enum item_stage stage;
	bool repair, held;
	uint8_t losses;
	enum side from;
	uint64_t token, generation;
	uint64_t asked[SIDES]; /* the owner's topologies when it was asked for: what it was told comes before what it asks */
	struct value value;
	int64_t due_us;
};

enum unit_state { UNIT_TODO, UNIT_OPEN, UNIT_DONE };
struct unit { /* the scan of a slot */
	enum unit_state state;
	unsigned left;
	bool broken;
};

struct walk { /* of a dirty slot, on both sides */
	bool wanted, open;
	uint32_t keys;     /* still to be looked at */
	int key;           /* at hand, -1: none */
	unsigned stage, tries;
	uint64_t token;
	struct value view;
	enum side from;
};

struct backfill_model {
	bool running;
	struct item item[ITEMS_MAX];
	unsigned nitems;
	struct unit unit[TAGS];
	struct walk walk[TAGS];
	int held_tag;      /* whose writes are held for a large copy; -1: none */
	bool held_told, held_ok;
};

/* --- the client that watches --- */

#define WATCHER_WIRES 8
enum watcher_stage { WATCHER_RESTS, WATCHER_ASKS, WATCHER_WATCHES, WATCHER_READS, WATCHER_HAS_READ, WATCHER_EXECUTES };

struct watcher {
	struct watch v;            /* first: the engine knows the client by it */
	enum watcher_stage stage;
	int key;
	const struct req *reading;
	sds seen;                  /* the reply to its GET */
	int exec_key;              /* what the EXEC that is under way, or may arrive yet in spite of a lost connection, watches… */
	sds exec_seen;             /* …and what its client had read of it; NULL: nothing to be judged by */
	/* its connection */
	bool up;
	struct server *node;
	int64_t stalled_us;
	struct wire in[WATCHER_WIRES], zombie[WATCHER_WIRES];
	struct answer_out out[WATCHER_WIRES];
	unsigned nin, nout, nzombies;
	uint32_t keys;             /* that the server watches for it, a bit a key */
	bool touched;
};

/* --- the world --- */

struct profile {
	bool expires, foreign, hidden, cycles_mixed, scripts, moves, failovers, losses, kills, cluster[SIDES], flush, wide, small_inband, few_dirty, few_known, narrow, hot, calm, laggy, slow, stalls, marks, ack_both,
	     records_fail, dance, contagion, deaf, late, lag, eager, young, zombies, watch, alone, strays, forgets, careless, unserved, alone_source, crowds;
	unsigned steps;
};

/* FLUSHALL of a client. FLUSH_WAITS: until the engine has come to rest. */
enum flush_stage { FLUSH_NONE, FLUSH_WAITS, FLUSH_QUIET, FLUSH_AUTHORITIES, FLUSH_FOLLOWER };

struct world {
	uint64_t seed, random;
	struct profile profile;
	int64_t now_us;
	struct engine *engine;
	struct journal *journal;   /* survives the process */
	struct worker_stats *stats;
	struct cluster side[SIDES];
	char key[KEYS][8];
	uint16_t slot[TAGS];
	struct backfill_model backfill;
	struct watcher watcher;
	bool hidden[KEYS];         /* a foreign write that no server tells of reached it: only verify finds it */
	bool foreign_since[SIDES][KEYS]; /* changed past the proxy, and not told yet */
	bool load;                 /* writers and faults are at work */
	bool unwatched;            /* the process has begun anew, and what happened before is unknown to it */
	_Atomic int64_t script_us; /* the engine's account of scripts */
	bool dying;                /* the process is being killed: nothing leaves it any more */
	unsigned submitted, answered, unknown;
	struct req *reqs;          /* submitted, not answered */
	unsigned stale[KEYS];      /* copies in a row that lost their race */
	uint32_t written[ORDERED][KEYS]; /* by each client whose order is judged: its last write to the key that was executed */
	/* control */
	struct phases *phases;
	struct state_record *disk;
	struct marker marker;      /* on the target */
	uint64_t marking;          /* the flip that waits for it; 0: none */
	bool looking, mirror_wanted, mirror_pinged, kill_now;
	unsigned pings_left, ordered;
	bool fenced, fence_ok, settling, flipped;
	uint64_t flip;
	struct slot_set fencing;
	enum side fencing_to;
	int64_t fenced_since_us;
	struct fence_result flip_result;
	unsigned flips, kills;
	struct { enum flush_stage stage; unsigned left; bool follower, both, done, failed; } alone;
	struct { unsigned copies, repairs, stale, inband, walks, moves, failovers, losses, foreign, flushes, expired, scripts, executed; } count;
	bool trace;
};

uint64_t rnd(struct world *w, uint64_t n);
static inline bool one_in(struct world *w, uint64_t n) { return rnd(w, n) == 0; }
static inline int tag_of(int key) { return key / KEYS_PER_TAG; }
static inline struct slice key_name(struct world *w, int key) { return slice(w->key[key], 4); }
static inline uint16_t slot_of_key(struct world *w, int key) { return w->slot[tag_of(key)]; }
int key_index(struct world *w, struct slice name); /* -1: none of ours */
int tag_index(struct world *w, uint16_t slot);     /* -1: none of ours */
static inline enum side authority_of(struct world *w, int tag) { return engine_authority(w->engine, w->slot[tag]); }
void sim_fail(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));
void sim_trace(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define trace(w, ...) do { if ((w)->trace) sim_trace(w, __VA_ARGS__); } while (0)

/* command.c: executes one command on the node; the caller has checked that the node serves its keys. NULL: not a command of a key. */
sds command_execute(struct world *w, struct cluster *c, struct server *n, const struct slice *argv, uint32_t argc);
void node_empty(struct world *w, struct server *n); /* FLUSHALL of ours */
void node_changed(struct world *w, struct server *n, int key, enum changed by);
void node_expire(struct world *w, struct cluster *c, struct server *n, int key); /* removes it if its time is over */

/* server.c */
int64_t node_clock(struct world *w, const struct cluster *c);
void server_step(struct world *w, struct cluster *c, struct server *n);
sds server_execute(struct world *w, struct cluster *c, struct server *n, struct wire *x, bool zombie, bool *last); /* the next command's reply; *last: of the wire */
struct server *node_with(struct cluster *c, int key); /* the node that holds the key now, in the middle of a move, too */
void server_finish_moves(struct world *w);
void move_step(struct world *w, struct cluster *c);
void failover_step(struct world *w, struct cluster *c);
void replicate_step(struct world *w, struct cluster *c);

/* net.c */
void net_io(struct world *w, struct engine_io *io);
void deliver_step(struct world *w, enum side side, struct server *n);
void conn_lose(struct world *w, enum side side, struct server *n);
void reconnect_step(struct world *w, enum side side, struct server *n);
void refresh_step(struct world *w, enum side side);
void bulk_refresh(struct world *w, enum side side, uint64_t generation); /* the backfill worker knows at least this one */
void net_send_part(struct world *w, enum side side, int tag); /* of a request */
bool net_quiet(const struct world *w);
void net_send(struct world *w, enum side side, struct server *n, const char *p, size_t len, unsigned replies, reply_fn *fn, void *arg);
void net_receiver(enum side side, struct receiver *out);
void net_zombies_go(struct world *w);
void net_break_all(struct world *w); /* the process ends: every connection, without a word to anybody but the callers */

/* client.c */
void client_step(struct world *w);
struct req *client_req(struct world *w, sds bytes, const char *name, int key); /* takes the bytes */
void client_submit(struct world *w, struct req *r);
void hot_step(struct world *w);
void dance_step(struct world *w);
void crowd_step(struct world *w);
void contagion_step(struct world *w);
void foreign_write(struct world *w, struct cluster *c, struct server *n);
void foreign_flush(struct world *w, struct cluster *c, struct server *n);
void client_answer(struct world *w, struct req *r);

/* watcher.c */
void watcher_step(struct world *w);
void watcher_answered(struct world *w, const struct req *r);
void watcher_server_step(struct world *w, struct cluster *c, struct server *n);
void watcher_deliver(struct world *w);
void watcher_changed(struct world *w, const struct server *n, int key);
sds watcher_command(struct world *w, const struct slice *argv);
bool watcher_may_run(struct world *w, struct cluster *c, struct server *n);
void watcher_zombies_go(struct world *w, const struct server *n);
void watcher_lose(struct world *w, bool server_gone);
bool watcher_quiet(const struct world *w);
void watcher_forget(struct world *w);
void client_block(struct world *w, int key); /* a transaction of keys of its slot */
bool io_watch_send(void *ctx, struct watch *v, enum side side, uint16_t db, uint16_t slot, const char *p, size_t n, struct block *holder, reply_fn *fn, void *arg);
bool io_watch_holds(void *ctx, const struct watch *v, enum side side, uint16_t slot);
void io_watch_exec(void *ctx, struct watch *v, uint16_t db, const char *p, size_t n, struct block *holder, unsigned replies, reply_fn *fn, void *arg);
void io_watch_disarm(struct watch *v);
bool io_watch_kill(void *ctx, struct watch *v, enum side side, uint16_t slot, reply_fn *fn, void *arg);

/* alone.c */
void alone_step(struct world *w);
void alone_told(struct world *w, bool follower);
void alone_break(struct world *w);

/* copies.c */
void copies_step(struct world *w);
void copies_repair(struct world *w, int key, uint8_t losses);
void copies_copied(struct world *w, struct copy *c);
void copies_held(struct world *w, uint16_t slot, bool ok);
void copies_start(struct world *w);
void copies_forget(struct world *w);
bool copies_done(const struct world *w);
bool copies_quiet(const struct world *w);
/* What a reader with the backfill worker's view of the topology sees; false: the node says that it is elsewhere. */
bool bulk_read(struct world *w, enum side side, int key, struct value *out);

/* rescan.c */
void rescan_want(struct world *w, uint16_t slot);
void rescan_step(struct world *w);
void rescan_topology_changed(struct world *w, enum side side);

/* control.c */
void sim_control_new(struct world *w);
void sim_control_step(struct world *w);
void sim_control_order(struct world *w);
void sim_fenced(struct world *w, uint64_t flip, bool ok);
void sim_kill(struct world *w);
void sim_control_free(struct world *w);
bool sim_control_quiet(const struct world *w);

/* judge.c */
void judge_flip(struct world *w, const struct slot_set *slots, enum side to);
void judge_execution(struct world *w, enum side side, int tag, const struct wire *x);
void judge_sent(struct world *w, struct wire *x);
void judge_order(struct world *w, const struct wire *x, const struct slice *argv, uint32_t argc);
void judge_stray(struct world *w, enum side side, int tag); /* a script writes a key of another slot than its own */
void judge_failover(struct world *w, const struct server *n);
void judge_hidden(struct world *w, int key); /* what was not told does no harm any more if both sides are equal and at rest */
void judge_end(struct world *w);

/* world.c */
extern int sim_theme; /* of every seed; -1: drawn by each */
bool late_is_due(struct world *w);
bool late_hush(struct world *w);
struct world *world_new(uint64_t seed);
void world_free(struct world *w);
void world_run(struct world *w); /* load, then rest, then the judgement: sim_fail if anything is wrong */
void world_engine(struct world *w, const uint8_t *authority, bool mirror);

/* run.c */
struct sim_report {
	uint64_t seeds, failed, flips, kills, repairs, walks, failovers, moves, losses;
	uint64_t first_failed;
	char text[800]; /* of the first failure */
};
extern void (*sim_failed)(uint64_t seed, const char *text); /* what sim_fail calls; does not return */
void sim_seed(uint64_t seed, bool tracing, struct sim_report *sum);
/* Seeds first, first + 1, … in `jobs` processes; each failure is printed with the command that replays it. stop: at the first. */
void sim_seeds(uint64_t first, uint64_t count, unsigned jobs, bool stop, bool quiet, const char *self, struct sim_report *sum);

/* mutants.c: every rule taken out is found; how many were not. */
unsigned sim_mutants(unsigned jobs, const char *only, unsigned *passed, const char *self);

#endif
