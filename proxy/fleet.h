/* fleet.h - the worker threads as the control thread sees them: every call posts a message and returns; answers come back as messages.
 *
 * Threads: all calls by the control thread, all callbacks on it. Counters are relaxed atomics that any thread may read.
 * Thread numbers for mailboxes: workers 0 … n-1, backfill n, control n+1. */
#ifndef CROSSFADE_FLEET_H
#define CROSSFADE_FLEET_H

#include <ev.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "backfill/backfill.h"
#include "backfill/topology.h"
#include "proxy/config.h"
#include "proxy/latency.h"
#include "proxy/listen.h"
#include "proxy/mailbox.h"
#include "proxy/slot_set.h"

#define THREAD_BACKFILL(workers) (workers)
#define THREAD_CONTROL(workers) ((workers) + 1)

/* Written by one worker each. */
struct usage;
struct worker_stats {
	struct usage *usage; /* usage.h; set before the worker begins */
	_Atomic uint64_t clients, connections, commands, reads, writes;
	_Atomic uint64_t effects;      /* sent to the follower so far */
	_Atomic uint64_t queued;       /* effects not yet acknowledged */
	_Atomic uint64_t queued_bytes;
	_Atomic int64_t lag_us;        /* age of the effect that was acknowledged last, once a turn; 0: none is on its way */
	_Atomic uint64_t mismatches, snapshots, foreign; /* replies that differed; keys handed to copying; marks by bypassing writers */
	_Atomic uint64_t strays;       /* keys that scripts wrote in other slots than those they declare (engine_strays.c) */
	_Atomic uint64_t dirty_keys, dirty_slots;
	_Atomic int64_t dirty_age_us;  /* of the key that is dirty for the longest time, 0 = none */
	_Atomic uint64_t blocked;      /* clients parked at this owner */
	_Atomic uint64_t errors_upstream, unknown_outcome;
	_Atomic uint64_t large, large_held, large_held_most; /* large values passed on as they came; bytes of them held now, and at most at one time */
	struct latency latency[SIDES]; /* of requests at each side: the pace of copying gives way by those at the authority, which are the clients' */
};

enum node_state { NODE_IDLE, NODE_CONNECTING, NODE_UP, NODE_DOWN };

struct flip_result {
	bool ok;
	char why[256];                 /* not ok: what stood in the way */
	uint64_t held;                 /* requests held by the fence */
	int64_t pause_max_us;          /* longest hold of one request, from its arrival at the fence to its release */
	int64_t pause_p99_us;
	int64_t fence_us;              /* fence raised → released */
};

struct acl;
struct handed;
struct handed_state;
struct handing;
struct control; /* control.h: the receiver of the calls below */

/* What workers tell control. Implemented by control.c; each runs on the control thread. */
void control_topology_wanted(struct control *c, enum side side, const char *why); /* MOVED, lost connection …: refresh soon */
void control_watched(struct control *c, unsigned worker, uint64_t flip, bool ok, const char *why); /* each node is, and nothing that others wrote is unknown; or not */
void control_fenced(struct control *c, unsigned worker, uint64_t flip, bool ok, const char *why); /* drained and proven; or not */
void control_settled(struct control *c, unsigned worker, uint64_t flip, bool ok, const char *why);
void control_flipped(struct control *c, unsigned worker, uint64_t flip, uint64_t held, int64_t pause_max_us, const uint32_t *histogram /* FLIP_BUCKETS, 100 us each, last is "more" */);
void control_mirror_ready(struct control *c, unsigned worker, bool ok, const char *why);
void control_walking(struct control *c);
void control_verify_void(struct control *c, const char *why); /* lost connection, failover: a clean verify is no longer valid */
void control_handing(struct control *c, unsigned attempt, unsigned stage); /* enum handing_stage: it is over */
void control_drained(struct control *c, unsigned worker, bool clean); /* after fleet_drain; clean: the follower has everything */
#define FLIP_BUCKETS 512
#define RESTLESS_S 10

struct fleet;

/* What the slots' authorities are at start: one byte (enum side) per slot. Workers listen only after fleet_serve. */
struct backfill_thread;
struct fleet_start {
	const struct config *config;
	struct mailboxes *mail;
	struct control *control;
	struct backfill_thread *backfill; /* receives repairs and results by messages; NULL in a plain proxy */
	unsigned workers;
	enum side shown;                /* clients see its identity: the source, after finish the target */
	bool one_owner;                 /* the source is standalone: one worker owns every slot */
	uint8_t authority[SLOTS];
	bool mirror;                    /* mirroring is on (phases mirror … cutover) */
	bool synced[SLOTS];             /* slots that the checkpoint says are copied */
	struct journals *journals;      /* NULL in a plain proxy */
	int64_t next_client_id;         /* handed over; 0: none */
	const struct owed *owed;        /* what the last process owed, or NULL; read before fleet_new returns */
};
struct fleet *fleet_new(const struct fleet_start *s);
void fleet_serve(struct fleet *f, const struct listen_fd *fds, unsigned n); /* begin to accept clients */
void fleet_topology(struct fleet *f, struct topology *t);             /* takes the reference; to all workers */
bool fleet_restless(const struct fleet *f, enum side side, double now); /* in the last RESTLESS_S seconds the layout changed, slots moved, or a node did not take a command; any thread */
/* Mirroring on: every write from now on has an effect; control_mirror_ready() when tracking is on and what was in flight before has ended. */
void fleet_mirror(struct fleet *f, bool on);
/* Workers watch all nodes of a side for what others write, or those where slots of theirs are (lookout.h). */
void fleet_lookout(struct fleet *f, enum side side, bool everywhere);
/* …all nodes of both sides, and nothing that others wrote is unknown: control_watched() from each worker. By force it is taken as it is. */
void fleet_watch(struct fleet *f, uint64_t flip, bool force);
/* Fence the slots (reads held, too), drain, PING on each data connection, WAIT on the new authority's replicas: control_fenced() from each worker. */
void fleet_fence(struct fleet *f, uint64_t flip, const struct slot_set *slots, enum side to, unsigned max_pause_ms);
/* All are drained: what was published has been heard, and subscriptions stand on both sides: control_settled() from each worker. */
void fleet_settle(struct fleet *f, uint64_t flip);
/* The record is durable: the slots' authority is `to` now; release. control_flipped() from each worker. */
void fleet_flip(struct fleet *f, uint64_t flip);
/* Undo the fence: the old authority stays. */
void fleet_unfence(struct fleet *f, uint64_t flip);
/* These slots may differ (a node failed over): versions move, they are compared again. NULL: all. */
void fleet_slots_dirty(struct fleet *f, const struct slot_set *slots);
unsigned fleet_marking(const struct fleet *f); /* workers that have not done that yet */
void fleet_walk(struct fleet *f);                         /* every slot is dirty: control_walking() from each worker when its are */
void fleet_finish(struct fleet *f, enum side authority); /* no follower any more: mirroring off, its connections closed */
void fleet_drain(struct fleet *f);                        /* stop accepting, answer what is in flight, mirror it: control_drained() from each worker */
/* The stages of a take-over (handover_client.h), each told by control_handing from each worker with the number of the attempt. */
void fleet_still(struct fleet *f, unsigned attempt);
void fleet_empty(struct fleet *f, unsigned attempt);
void fleet_pack(struct fleet *f, unsigned attempt);
void fleet_go_on(struct fleet *f);
const struct handing *fleet_handing(const struct fleet *f, unsigned worker); /* its parcels; its TLS clients when the threads have ended */
void fleet_adopt(struct fleet *f, struct handed **clients, unsigned n, const struct handed_state *st); /* takes the clients, not the array: control_handing */
int64_t fleet_next_client(const struct fleet *f);
void fleet_pause_state(const struct fleet *f, struct handed_state *st); /* the workers are packed */
void fleet_end(struct fleet *f);                          /* end the threads */
void fleet_join(struct fleet *f);                         /* waits for their end */
void fleet_free(struct fleet *f);                         /* …behind which it may be freed */

const struct worker_stats *fleet_stats(const struct fleet *f, unsigned worker);
unsigned fleet_workers(const struct fleet *f);
/* Worst state of the data connections to a node over all workers. */
enum node_state fleet_node_state(const struct fleet *f, enum side side, const char *name);
void fleet_set_limits(struct fleet *f); /* the config's reloadable limits have changed */
void fleet_set_password(struct fleet *f, enum side side, const char *password);
void fleet_acl(struct fleet *f, struct acl *acl);         /* new users; each worker takes a reference */
unsigned fleet_owner(const struct fleet *f, uint16_t slot); /* the one place that knows */

/* fleet_host.c: the backfill worker's host functions that need an owner; called on the backfill thread (from = THREAD_BACKFILL). */
uint64_t fleet_token(struct fleet *f, keyhash key, uint16_t slot, bool quiet);
void fleet_fetch_token(struct fleet *f, keyhash key, uint16_t slot);
enum side fleet_authority(struct fleet *f, uint16_t slot);
bool fleet_offer(struct fleet *f, struct copy *c);
bool fleet_mark(struct fleet *f, uint16_t db, struct slice key, uint16_t slot);
void fleet_hold(struct fleet *f, uint16_t slot, unsigned max_ms);
void fleet_release(struct fleet *f, uint16_t slot);
void fleet_follow(struct fleet *f, uint16_t db, struct slice key, uint16_t slot);
void fleet_changes(struct fleet *f, uint16_t slot);
void fleet_read_followed(struct fleet *f, uint16_t slot, sds request, unsigned replies); /* takes the request */
void fleet_slot_done(struct fleet *f, uint16_t slot);
void fleet_slot_clean(struct fleet *f, uint16_t slot);
void fleet_latency(struct fleet *f, enum side side, uint64_t *requests, uint64_t *us);

/* What owners tell the backfill worker (implemented in backfill_thread.c; called on worker threads, they post). */
void backfill_thread_repair(struct backfill_thread *t, unsigned from, uint16_t db, struct slice key, uint16_t slot, uint8_t losses);
void backfill_thread_copied(struct backfill_thread *t, unsigned from, struct copy *c);
void backfill_thread_rescan_slot(struct backfill_thread *t, unsigned from, uint16_t slot);
void backfill_thread_held(struct backfill_thread *t, unsigned from, uint16_t slot, bool ok);
void backfill_thread_changed(struct backfill_thread *t, unsigned from, uint16_t slot, sds elements, unsigned writes, bool known, sds replies);

#endif
