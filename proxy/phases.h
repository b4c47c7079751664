/* phases.h - the phase machine: what an operator's order means in each phase, when a phase ends by itself, and how slots change authority.
 *
 *   proxy ──start──► mirror ──ready──► backfill ──complete, nothing dirty──► synced ◄──all slots back── cutover ──finish──► finished
 *     ▲                 │                  │                                   │ └──────some slots flipped──────►┘
 *     └──────abort──────┴──────────────────┴───────────────────────────────────┘
 *
 * It decides and does no I/O: everything it causes goes through struct phase_io, time is passed in as `now` (monotonic ms), so that a test drives it
 * against a fake. rollback is cutover with the sides exchanged. A table of (phase, order) says who handles an order, or why it is refused.
 *
 * Invariant 7: a slot's authority changes only when every worker said that it is drained and proven; the record is durable before fleet_flip;
 * until the record is issued every failure undoes, afterwards only forward.
 * Thread: control. Every order is answered exactly once. */
#ifndef CROSSFADE_PHASES_H
#define CROSSFADE_PHASES_H

#include <stdbool.h>
#include <stdint.h>

#include "backfill/backfill.h"
#include "proxy/fleet.h"
#include "proxy/state.h"

enum order {
	ORDER_START, ORDER_PAUSE, ORDER_RESUME, ORDER_THROTTLE, ORDER_VERIFY,
	ORDER_CUTOVER, ORDER_ROLLBACK, ORDER_FINISH, ORDER_ABORT, ORDERS
};

struct order_args {
	/* cutover, rollback */
	bool dry_run, force;
	bool by_slots, by_percent;    /* neither: all slots */
	unsigned first, last, percent;
	unsigned max_pause_ms;        /* 0: as configured */
	unsigned wait_s;
	/* verify */
	bool repair;
	/* throttle; -1: leave it */
	int64_t keys_per_s, bytes_per_s;
	int adaptive;
};

/* The first word of an error on the admin socket, and proxyctl's exit code. */
enum answer_code { ANSWER_OK, ANSWER_JSON, ANSWER_REFUSED, ANSWER_USAGE, ANSWER_UNREACHABLE, ANSWER_TIMEDOUT };
typedef void answer_fn(void *arg, enum answer_code code, const char *text);
struct answer {
	answer_fn *fn;
	void *arg;
};

/* What is so right now; gathered by io->facts. */
struct phase_facts {
	bool target_configured, target_may_hold_keys;
	bool up[SIDES];      /* every primary answered at the last look */
	bool covered[SIDES]; /* every slot has a node */
	bool cluster[SIDES];
	uint64_t keys[SIDES];
	char foreign[700];     /* the target's marker is not ours, or cannot be read: what it says, and what to do; "" */
	char down[SIDES][320]; /* who does not answer, and why */
	uint64_t dirty_keys, dirty_slots, queued;
	uint64_t strays;      /* keys of other slots that scripts wrote without declaring them, since the start of this process */
	int64_t dirty_age_ms; /* of the key that is dirty for the longest time */
	int64_t lag_ms;
	int max_lag_ms, max_pause_ms; /* configured */
	enum bf_state backfill;
	bool verifying;
	uint64_t verify_runs, verify_checked, verify_differences;
	int64_t verified_at_ms;
	bool checked;
	unsigned check_errors; /* ERR lines of the last `proxyctl check`; one precedes every cutover but a forced one */
	char check_error[512]; /* the first of them */
};

enum backfill_order { BACKFILL_START, BACKFILL_ADOPT, BACKFILL_PAUSE, BACKFILL_RESUME, BACKFILL_STOP, BACKFILL_THROTTLE, BACKFILL_VERIFY };

struct phase_io {
	void (*facts)(void *ctx, struct phase_facts *f);
	void (*look)(void *ctx); /* read both topologies and the marker anew; phases_looked() when done */
	/* Put the marker on the target, or see that it is there (marker.h); phases_marked() when done. */
	void (*mark)(void *ctx, uint64_t flip, const char *migration, uint64_t epoch);
	/* All nodes of both sides are watched for what others write; phases_watched() from each worker when they are, or cannot be. By force it is taken as it is. */
	void (*watch)(void *ctx, uint64_t flip, bool force);
	bool (*prepare)(void *ctx, const struct state_record *r, char *err, size_t errlen);
	enum state_result (*write)(void *ctx, const struct state_record *r, char *err, size_t errlen);
	void (*mirror)(void *ctx, bool on);
	void (*walk)(void *ctx); /* every slot becomes dirty; phases_walking() from each worker when its are */
	void (*fence)(void *ctx, uint64_t flip, const struct slot_set *slots, enum side to, unsigned max_pause_ms);
	void (*settle)(void *ctx, uint64_t flip);
	void (*flip)(void *ctx, uint64_t flip);
	void (*unfence)(void *ctx, uint64_t flip);
	void (*finish)(void *ctx, enum side authority);
	void (*backfill)(void *ctx, enum backfill_order what, const struct order_args *args, const char *migration);
	char *(*verify_json)(void *ctx); /* last_verify, malloc'd */
};

struct last_flip {
	bool any;
	enum side to;
	int64_t pause_max_us, pause_p99_us, fence_us;
	uint64_t held;
	unsigned slots;
};

struct phases;
struct phases *phases_new(const struct phase_io *io, void *ctx, unsigned workers, const struct state_record *record);
void phases_free(struct phases *p);

/* The fleet serves: go on where the record says. why_void: NULL, or what voids the last verify. unwatched: what was copied before may have been changed
 * meanwhile, unseen. */
void phases_begin(struct phases *p, const char *why_void, bool unwatched, int64_t now);
void phases_order(struct phases *p, enum order order, const struct order_args *args, struct answer answer, int64_t now);
/* To be called every 100 ms, or every 5 ms while phases_urgent(). */
void phases_tick(struct phases *p, int64_t now);
bool phases_urgent(const struct phases *p);
bool phases_flipping(const struct phases *p); /* or about to */
/* Requests are held: nothing else may keep the control thread busy. */
bool phases_fencing(const struct phases *p);
void phases_looked(struct phases *p, int64_t now);
/* ANSWER_OK: the target has acknowledged it. ANSWER_UNREACHABLE, ANSWER_REFUSED: why it is not there. */
void phases_marked(struct phases *p, uint64_t flip, enum answer_code outcome, const char *why, int64_t now);
void phases_mirror_ready(struct phases *p, unsigned worker, bool ok, const char *why, int64_t now);
void phases_watched(struct phases *p, unsigned worker, uint64_t flip, bool ok, const char *why, int64_t now);
void phases_fenced(struct phases *p, unsigned worker, uint64_t flip, bool ok, const char *why, int64_t now);
void phases_settled(struct phases *p, unsigned worker, uint64_t flip, bool ok, const char *why, int64_t now);
void phases_flipped(struct phases *p, unsigned worker, uint64_t flip, uint64_t held, int64_t pause_max_us, const uint32_t *histogram,
		    int64_t now);
void phases_walking(struct phases *p);
void phases_verify_void(struct phases *p, const char *why);
/* A side was recognised, or has changed: it is remembered with the migration. */
void phases_identify(struct phases *p, enum side side, const struct state_side *who);
/* The process ends: an unfinished flip is undone if its record was not issued, orders are answered. */
void phases_end(struct phases *p);

const struct state_record *phases_record(const struct phases *p);
uint64_t phases_durable_epoch(const struct phases *p); /* of the newest record that is known to be on the disk */
const struct last_flip *phases_last_flip(const struct phases *p);
bool phases_verifying(const struct phases *p);
const char *phases_verify_due(const struct phases *p); /* why a verify with repair is due; "" if none is */
const char *phases_activity(const struct phases *p); /* "", "starting", "waiting to flip", "flipping" */

#endif
