/* worker.h - one worker: a thread with a loop, its clients, its share of the slots (engine) and its data connections. Included by the files of
 * the data path only (worker, client, dispatch, split, local, fleet). Everything here belongs to the worker's thread, but for what is atomic. */
#ifndef CROSSFADE_WORKER_H
#define CROSSFADE_WORKER_H

#include <ev.h>
#include <pthread.h>

#include "proxy/acl.h"
#include "proxy/acl_log.h"
#include "proxy/batch.h"
#include "proxy/engine.h"
#include "proxy/fleet.h"
#include "proxy/gather.h"
#include "proxy/known.h"
#include "proxy/lookout.h"
#include "proxy/mailbox.h"
#include "proxy/outq.h"
#include "proxy/pubsub.h"
#include "proxy/req.h"
#include "proxy/scripts.h"
#include "proxy/tidy.h"
#include "proxy/upstream.h"

struct alone;
struct alone_part;
struct asides;
struct bulk;
struct bulks;
struct stream;
struct client;
struct cut;
struct fleet;
struct handing;
struct watch;

struct listener {
	ev_io io; /* first: what libev gives is the listener */
	struct worker *worker;
	bool tls;
};

struct worker {
	unsigned id;
	struct fleet *fleet;
	struct ev_loop *loop;
	pthread_t thread;
	struct engine *engine;
	struct worker_stats *stats;
	char name[64]; /* of its data connections */

	/* servers */
	struct known preloaded;      /* scripts by node, given to it ahead of a transaction */
	struct upstream_owner owner;
	struct topology *topology[SIDES];
	struct upstream **upstreams; /* both sides; index is what route and ask_node hold */
	uint16_t nupstreams, upstreams_cap;
	uint16_t nowhere[SIDES];     /* stands for the node of a slot that none serves: every command fails */
	uint16_t route[SIDES][SLOTS];
	const char *password[SIDES];
	ev_tstamp refresh_told[SIDES], failing_told;
	struct db_set used;          /* databases seen to hold keys, on either side */
	struct alone *alone;         /* the conductor's: commands that run alone, the first is under way (alone.c) */
	struct alone_part *alone_part; /* of the one under way; NULL: none */
	struct asides *asides;       /* aside.h; NULL: there never was one */
	struct bulks *bulks;         /* bulk.h; NULL: there never was one */
	struct stream *streams;      /* large replies that come on its connections (stream.h) */
	bool finished;               /* the follower's side is not spoken to any more */
	struct waitaof *waitaof;     /* those that were ever taken */
	struct keywatch *keywatch;   /* side connections; NULL: were never needed */
	struct killers *killers;     /* likewise, kill.c's */
	struct lookout lookout;
	bool mirror_wanted;          /* mirroring begins: not yet told that it is ready */
	bool mirror_proving;
	unsigned mirror_answers;

	/* clients */
	struct client *clients;
	struct acl *acl;             /* a reference */
	struct listener *listeners;
	unsigned nlisteners;
	ev_timer accept_again;
	struct block *read_block;    /* requests are read into its tail */
	struct resp_request parser;
	struct slice *argv;          /* words of the request at hand */
	size_t argv_cap;
	struct key_ref *keys;        /* of the request at hand: nkeys of them */
	size_t keys_cap;
	uint32_t nkeys;
	struct req *req_pool, *reqs_made;
	unsigned reqs_pooled, reqs_least; /* least: that were free at one time since the last look of tidy.c */
	uint64_t tickets;            /* given to blocking commands */
	struct batch batch;          /* of the client whose input is looked at */

	/* watches */
	struct watch *watches;       /* made by clients of this worker */
	struct { struct upstream *u; struct watch *to; } *lent; /* connections of clients that watch keys of this worker; to NULL: free */
	unsigned nlent;
	struct upstream_owner watch_owner;
	struct keyspace_parts *parts; /* keyspace.c's */

	struct pubsub *pubsub;
	struct tracking *tracking;   /* tracking.h; NULL: nobody ever tracked */
	struct client **monitor_clients; /* monitor.h */
	unsigned nmonitor_clients;
	unsigned *monitors;          /* of each worker; NULL: there never was one */
	unsigned monitored;          /* their sum: commands are told */

	/* end of the turn */
	struct upstream *flush_upstreams;
	struct client *flush_clients, *again_clients; /* replies to write; input left to parse */
	struct client *later_clients; /* likewise, but have had their share of this turn */
	struct upstream *late_upstreams; /* what they have to send waits a turn for what comes behind it */
	struct client *lingering;    /* their replies wait a turn for those behind them */
	struct cut *cuts;            /* requests of which a slice a turn is cut (cut.h) */
	uint16_t *cut_slots;         /* cut.c's */
	ev_idle unfinished;          /* there is work for the next turn: the loop does not sleep */
	ev_prepare before_sleep;
	struct gather gather;
	struct tidy tidy;
	ev_timer tick;               /* while something waits for time: the engine, replies that linger */
	ev_timer due;                /* a client's waiting ends */
	int64_t due_us;              /* when it is set to; 0: it is not */
	uint8_t pause;               /* enum pause_kind (pause.h) */
	int64_t pause_until_ms;
	ev_timer pause_timer;
	ev_timer drain_limit;
	bool draining, drained;
	uint8_t pause_beneath;       /* w->pause is PAUSE_HANDOVER: what it was */
	unsigned handing_attempt;
	struct handing *handing;     /* its clients go to another process, or come from one (handover_client.h); NULL: no */
};

struct node_note {
	enum side side;
	char name[280];
	char run_id[44];
	uint8_t *state; /* enum node_state, one per worker */
};

#define CHANGES_STRIPES 4096

struct change_count { /* writes of clients to keys of one stripe (tracking_own.c) */
	_Atomic uint32_t begun, ended;
};

struct fleet {
	struct fleet_start start;
	const struct config *config;
	struct mailboxes *mail;
	struct control *control;
	unsigned nworkers;
	struct worker *workers;
	struct worker_stats *stats;
	uint8_t owner[SLOTS];        /* worker of each slot: the one place that knows */
	_Atomic unsigned unready;    /* workers that have not taken yet what they need before any of them listens */
	_Atomic unsigned marking;    /* workers that have yet to mark slots dirty that control knows of */
	_Atomic int maxclients;
	_Atomic uint64_t nclients, next_client_id;
	_Atomic int64_t script_us;   /* engine_strays.c */
	_Atomic uint64_t ntrackers;  /* clients that have CLIENT TRACKING on */
	_Atomic unsigned nnoloop;    /* …with NOLOOP: changes are counted */
	struct change_count changes[CHANGES_STRIPES];
	struct scripts *scripts;
	struct receivers *receivers;
	struct acl_log *acl_log;
	enum side shown;             /* whose identity clients see */
	char identity[64];           /* its version */
	_Atomic int identity_cluster;
	_Atomic uint32_t epoch;      /* moves when keys may be found elsewhere than before: flips, routes, layouts, server processes */
	_Atomic uint64_t layout[SIDES]; /* of the newest topology */
	_Atomic double restless[SIDES]; /* when a node last redirected or refused something, or the layout changed */
	pthread_mutex_t nodes_lock;  /* states of data connections: written when one changes, read by status */
	struct node_note *notes;
	unsigned nnotes;
	int64_t started_ms;
};

static inline void stat_bump(_Atomic uint64_t *s) /* one writer: no locked instruction */
{
	atomic_store_explicit(s, atomic_load_explicit(s, memory_order_relaxed) + 1, memory_order_relaxed);
}

/* worker.c */
void *worker_main(void *arg);
void worker_init(struct worker *w);
void worker_release(struct worker *w);
void worker_topology(struct worker *w, struct topology *t);
void worker_answer(struct worker *w, struct req *r);    /* from the owner: home gets it back */
bool worker_lingers(const struct worker *w); /* many send, and the loop waits long: what is to be written may wait some turns */
void worker_submit(struct worker *w, struct req *r);    /* to the owner of its slot; to this worker's own engine perhaps not before the end of the input that is looked at (batch.h) */
void worker_mirror(struct worker *w, bool on);
void worker_set_password(struct worker *w, enum side side, const char *password);
void worker_drain(struct worker *w);
void worker_end(struct worker *w);
void worker_finish(struct worker *w, enum side authority);
void worker_send_all_nodes(struct worker *w, enum side side, const char *p, size_t n, reply_fn *fn, void *arg, unsigned *count);
void worker_route(struct worker *w, enum side side, uint16_t slot, uint16_t node); /* the slot's node from now on */
/* The nodes that answer clients, as indices in upstreams, into room for nupstreams; returns how many. */
unsigned worker_answering(const struct worker *w, uint16_t *nodes);
/* How many databases clients may select: those that both sides have. */
unsigned worker_databases(const struct worker *w);
uint16_t worker_upstream(struct worker *w, enum side side, const char *name); /* index in upstreams; made if new */

struct req *req_new(struct worker *w);
void req_free(struct worker *w, struct req *r);

void worker_new_script(struct worker *w, struct slice body); /* the follower gets it, too */

/* fleet.c */
void fleet_note_state(struct fleet *f, unsigned worker, enum side side, const char *name, enum node_state state);
void fleet_note_process(struct fleet *f, enum side side, const char *name, const char *run_id); /* a connection is up: to which server process */
void fleet_tell_refresh(struct worker *w, enum side side, const char *why);
void fleet_tell_drained(struct worker *w, bool clean);
void fleet_tell_void(struct worker *w, const char *why);
void fleet_tell_mirror_ready(struct worker *w, bool ok, const char *why);
void fleet_tell_watched(struct worker *w, uint64_t flip, bool ok, const char *why);
void fleet_tell_settled(struct worker *w, uint64_t flip, bool ok, const char *why);
void fleet_tell_fenced(struct worker *w, uint64_t flip, bool ok, const char *why);
void fleet_tell_handing(struct worker *w, unsigned stage);

/* worker_engine.c: the engine's I/O */
void worker_engine_io(struct worker *w, struct engine_io *io);
/* What the engine, and whoever is told of its answers, will look at besides (lines.h): of a slot; of an answer, for upstream_owner. */
void worker_fetch_routes(const struct worker *w, uint16_t slot);
void worker_fetch_near(void *ctx, reply_fn *fn, void *arg);

/* accept.c */
void clients_listen(struct worker *w, const struct listen_fd *fds, unsigned n);
void clients_close_listeners(struct worker *w);

/* client.c */
void clients_take_acl(struct worker *w, struct acl *fresh); /* permit.c; takes the reference */
void client_done(struct worker *w, struct req *r);  /* home: the reply is there */
void clients_flush(struct worker *w);
void clients_turn(struct worker *w);                /* before the flush: those that had had their share of the last one go on, replies that have waited are flushed */
void clients_resume(struct worker *w);              /* those whose requests were held (pause.h) */
void clients_close_idle(struct worker *w);          /* draining: those with nothing in flight */
void clients_close_all(struct worker *w);

/* dispatch.c */
/* False: it is held, and to be given again, whole. */
bool dispatch_request(struct worker *w, struct client *c, const struct resp_request *p, struct block *block, const char *bytes);
/* All keys of one slot? -1: no (then w->keys has them); -2: the arguments are wrong, any node words the error; SLOTS: no key. */
int dispatch_slot(struct worker *w, const struct command *cmd, uint32_t argc);
struct wide *dispatch_wide(struct worker *w, const struct txn *t); /* the slots of its keys; NULL: they are not several. The caller frees it */
bool dispatch_writes(const struct command *cmd);
void dispatch_unknown(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc); /* the error for one that the server does not know */
void dispatch_wrong_arity(struct worker *w, struct client *c, const struct command *cmd); /* …for one with too few words, or too many */
uint32_t words_of(struct worker *w, const struct resp_request *p, const char *bytes); /* p was parsed from bytes: fills w->argv */
uint32_t words_again(struct worker *w, const char *bytes, size_t len); /* the same for a whole request that was parsed before */

/* split.c */
void split_request(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc, struct req *whole);
void split_again(struct worker *w, struct req *whole);
bool splits_evenly(const struct command *cmd, uint32_t argc); /* MSET wants pairs */
void fanout_request(struct worker *w, struct client *c, const struct command *cmd, struct req *whole);
void publish_request(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc, struct req *whole);
void split_part_done(struct worker *w, struct req *part);
void split_free(struct split *s); /* not its parts */

/* blocked.c */
void blocked_request(struct worker *w, struct client *c, struct req *r); /* its slot is set */
void blocked_leave(struct worker *w, struct client *c, enum unpark how); /* tells the owner */

/* waiting.c */
void waiting_begin(struct waiting *x);
void waiting_end(struct waiting *x, enum unpark how);

/* keywatch.c */
void keywatch_ask(struct worker *w, enum side side, uint16_t db, uint16_t slot, struct slice key, reply_fn *fn, void *arg);
void keywatch_info(struct worker *w, uint16_t node, reply_fn *fn, void *arg); /* INFO replication of one of w->upstreams */
void keywatch_free(struct worker *w);

/* kill.c */
void killers_free(struct worker *w);

/* keyspace.c */
void scan_request(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc, struct req *whole);
void slot_request(struct worker *w, struct client *c, const struct command *cmd, struct req *whole);

/* local.c */
void local_request(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc);

#endif
