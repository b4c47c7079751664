/* engine.h - what decides, for the slots of one worker: order, versions, effects, dirty keys, copies, fence. No I/O: everything it wants done it asks of `struct engine_io`,
 * so that a simulation can drive it (the seam of design section 10).
 *
 * Upholds, per slot: single writer (1): every command of the slot passes engine_submit; same order (2): effects are queued in the order of the
 * authority's replies; compare-and-set (3): engine_copy; accounting (4): a write is a `mwrite` from its sending until the follower's acknowledgement, or
 * its key is dirty, or its slot is; flip (7): engine_fence … engine_flip.
 *
 * Thread: the owner's. Time: io->now_us, microseconds, monotonic. Ownership: a req submitted is the engine's until io->answer. */
#ifndef CROSSFADE_ENGINE_H
#define CROSSFADE_ENGINE_H

#include "backfill/backfill.h"
#include "proxy/fleet.h"
#include "proxy/journal.h"
#include "proxy/req.h"
#include "proxy/versions.h"

struct engine;
struct owed;

struct engine_io {
	void *ctx;
	/* Sends bytes with `replies` commands for that database on the data connection to the slot's node on that side, in the order of the calls; fn comes once per reply, never from
	 * inside the call. node: NODE_NONE, or the node to ask instead (ASK). holder NULL: the bytes are copied. */
	void (*send)(void *ctx, enum side side, uint16_t db, uint16_t slot, uint16_t node, const char *p, size_t n, struct block *holder, unsigned replies, reply_fn *fn, void *arg);
	/* One command on each connected node of a side; returns how often fn comes. replicas_only: only nodes that have replicas, and behind a write of something
	 * unimportant, of which fn is told, too: WAIT knows of its own connection's writes only. */
	unsigned (*send_each)(void *ctx, enum side side, bool replicas_only, const char *p, size_t n, reply_fn *fn, void *arg);
	void (*answer)(void *ctx, struct req *r);        /* r->reply and r->reply_block are set */
	/* MOVED or ASK: the node it names (made known if new), NODE_NONE if it cannot be; moved: the slot's route changes. */
	uint16_t (*redirect)(void *ctx, enum side side, uint16_t slot, struct slice error, bool moved);
	sds (*script)(void *ctx, struct slice sha);                  /* the request that loads it; NULL: not known */
	/* A transaction calls this script: whoever misses it could not be mended in its middle. Loaded ahead where that was not done yet. */
	void (*preload)(void *ctx, enum side side, uint16_t slot, uint16_t node, struct slice sha);
	void (*refresh)(void *ctx, enum side side, const char *why); /* the topology seems old */
	bool (*is_up)(void *ctx, enum side side, uint16_t slot);     /* the data connection is there */
	bool (*are_up)(void *ctx, const struct slot_set *slots);     /* those of all these slots, on both sides */
	uint64_t (*generation)(void *ctx, enum side side);           /* of the topology in force */
	bool (*has_expires)(void *ctx, enum side side);
	void (*receiver)(void *ctx, enum side side, struct receiver *out);
	bool (*is_cluster)(void *ctx, enum side side);
	void (*repair)(void *ctx, uint16_t db, struct slice key, uint16_t slot, uint8_t losses); /* ask the backfill worker for a copy */
	void (*rescan)(void *ctx, uint16_t slot);
	void (*copied)(void *ctx, struct copy *c);                   /* a scan copy with its result, back to the backfill worker */
	void (*failing)(void *ctx, enum side from, uint16_t slot, const char *why); /* a copy could not be read, or was refused; it is tried again */
	void (*held)(void *ctx, uint16_t slot, bool ok);
	/* Answers engine_changes and engine_read_followed (replies: NULL if it could not be read); takes both. */
	void (*changed)(void *ctx, uint16_t slot, sds elements, unsigned writes, bool known, sds replies);
	/* A client's own connection (watch.h): its WATCH; whether what it watches is still sure to be told; its EXEC; an end to what a lost one may still do. */
	bool (*watch_send)(void *ctx, struct watch *v, enum side side, uint16_t db, uint16_t slot, const char *p, size_t n, struct block *holder, reply_fn *fn, void *arg);
	bool (*watch_holds)(void *ctx, const struct watch *v, enum side side, uint16_t slot);
	void (*watch_exec)(void *ctx, struct watch *v, uint16_t db, const char *p, size_t n, struct block *holder, unsigned replies, reply_fn *fn, void *arg);
	void (*watch_disarm)(struct watch *v);
	bool (*watch_kill)(void *ctx, struct watch *v, enum side side, uint16_t slot, reply_fn *fn, void *arg);
	void (*fenced)(void *ctx, uint64_t flip, bool ok, const char *why);
	void (*alone)(void *ctx, bool follower); /* answers engine_alone_begin: nothing is under way. follower: it has acknowledged everything */
	/* Tells of the next change that others make to the key, by engine_key_changed; fn gets the reply to EXISTS, asked when that is sure. False: not needed, the
	 * watch of everything is on. */
	bool (*watch)(void *ctx, enum side side, uint16_t db, uint16_t slot, struct slice key, reply_fn *fn, void *arg);
	int64_t (*now_us)(void *ctx);
	int64_t (*coarse_us)(void *ctx); /* a few ms behind it at most, for next to nothing: for what is only told */
	int64_t (*clock_ms)(void *ctx, enum side side, uint16_t slot); /* that node's clock */
};

struct engine_options {
	bool mirror, ack_both;
	struct journal *journal; /* NULL: what is owed does not survive the process */
	size_t queue_max;     /* bytes held for effects on their way */
	size_t dirty_max, known_max;
	size_t request_max;   /* larger requests are not kept: their keys become dirty */
	size_t inband_max;    /* bytes of an in-band copy */
	_Atomic int64_t *script_us; /* when any engine of the process last sent a script, or had its reply; NULL: partial flips are none of its business */
	int64_t resend_us;    /* how long reads and unsent writes are tried again */
	uint32_t crowd_least; /* 0: as engine_crowd.c says; else so many written keys are a crowd, and a turn makes one part: for tests */
};

struct engine *engine_new(const struct engine_io *io, const struct engine_options *o, const uint8_t *authority, const bool *synced, const uint8_t *mine, struct worker_stats *stats);
void engine_free(struct engine *e);

/* What the engine will look at is fetched (lines.h): of a request that will be submitted soon, whose only key is hashed, too, so that it must not change any more; of an answer that is the next
 * but some, of which nothing may be looked at yet; and then of what that has told, when it is the next but few. */
void engine_fetch(struct engine *e, struct req *r);
const void *engine_slot_at(const struct engine *e, uint16_t slot); /* its line; any thread */
void engine_fetch_far(reply_fn *fn, void *arg);
const struct req *engine_fetch_near(reply_fn *fn, void *arg); /* the request that it answers; NULL: it is of the engine's own, or one of the rarer kinds */
void engine_submit(struct engine *e, struct req *r); /* r->waits: it is parked until it has something, its time is over, or engine_unpark */
/* Ends the waiting; what is under way for it just now comes first. NULL: as if its time were over. END, GONE: without a reply. False: it has been answered. */
enum unpark { UNPARK_NOT, UNPARK_NULL, UNPARK_ERROR, UNPARK_END, UNPARK_GONE };
bool engine_unpark(struct engine *e, uint64_t ticket, enum unpark how);
void engine_key_changed(struct engine *e, enum side side, struct slice key, uint16_t slot); /* by others, in any database: a watch told, of everything or of this key */
void engine_unseen(struct engine *e);          /* changes to keys waited for may have been missed: a connection came up, a flush */
void engine_watch_lost(struct engine *e);      /* io->watch is asked again */
int64_t engine_due_us(const struct engine *e); /* engine_turn is wanted then; 0: at no certain time */
/* engine_aside.c: large replies that are passed on as they come, while nothing is mirrored. */
struct req *engine_streams(const struct engine *e, reply_fn *fn, void *arg); /* whose reply this is, if its head alone is an answer to the engine; NULL: it has to be whole */
bool engine_asks_of(struct engine *e, const struct req *r, uint64_t *what); /* a hash of its command and first key; false: it has none that is found at a glance */
/* What is awaited on a connection that new requests do not take any more: may it be left there? Then each of it leaves. */
bool engine_may_leave(reply_fn *fn, void *arg);
void engine_leave(struct engine *e, reply_fn *fn, void *arg);
/* Is this of another client than that? Or is anything held back, be it of whom it may? */
bool engine_is_others(reply_fn *fn, void *arg, uint32_t from);
bool engine_holds_back(const struct engine *e);
bool engine_comes_to_rest(const struct engine *e); /* something waits until nothing is in flight */
bool engine_awaits_follower(const struct engine *e); /* that, or a slot is held until the follower has acknowledged all of it */
void engine_mirror(struct engine *e, bool on);
bool engine_is_mirroring(const struct engine *e);
void engine_route_changed(struct engine *e, uint16_t slot); /* another node from now on: order is kept */
void engine_turn(struct engine *e);                         /* once per loop turn, and at least every 10 ms */
enum side engine_authority(const struct engine *e, uint16_t slot); /* any thread */
const struct versions *engine_versions(const struct engine *e);

/* Invalidation: somebody else changed the key, on the given side. It names no database: the caller tells it of each one in use. home: the slot's node told it; another one
 * tells of keys that come to it or leave it with their slot, so that nobody need be writing them. */
void engine_foreign(struct engine *e, enum side side, bool home, uint16_t db, struct slice key, uint16_t slot);
/* Everything of these slots may differ (lost watch, failover); NULL: of all (a null invalidation, somebody's FLUSHALL). */
void engine_slots_dirty(struct engine *e, const struct slot_set *slots, const char *why);

void engine_copy(struct engine *e, struct copy *c); /* takes it */
void engine_mark(struct engine *e, uint16_t db, struct slice key, uint16_t slot);
void engine_hold(struct engine *e, uint16_t slot, unsigned max_ms);
void engine_release(struct engine *e, uint16_t slot);
/* Before anything is submitted: what the last process owed the follower, as far as it is of this engine's slots. Nothing of it is read before engine_node_up:
 * commands of that process may still be on their way to a node until then (race 7). */
void engine_recover(struct engine *e, const struct owed *owed);
void engine_node_up(struct engine *e); /* a data connection is up, and watched if that is wanted; or slots are routed to another node */
/* Notes what writes touch of this key from now on (changes.h); an empty key ends it. engine_changes asks for it. engine_read_followed sends read
 * commands about it on the data connection: what is told with their replies are the writes that the authority executed before them, and no others. */
void engine_follow(struct engine *e, uint16_t db, struct slice key);
void engine_changes(struct engine *e, uint16_t slot);
void engine_read_followed(struct engine *e, uint16_t slot, struct slice request, unsigned replies);
void engine_slot_done(struct engine *e, uint16_t slot); /* SLOTS: all */
void engine_slot_clean(struct engine *e, uint16_t slot);

bool engine_is_fencing(const struct engine *e); /* a flip is under way: requests are held */
void engine_fence(struct engine *e, uint64_t flip, const struct slot_set *slots, enum side to, unsigned max_pause_ms);
/* Both release what was held; the histogram is about the requests that waited. */
struct fence_result {
	uint64_t held;
	int64_t pause_max_us;
	uint32_t histogram[FLIP_BUCKETS];
};
void engine_flip(struct engine *e, uint64_t flip, struct fence_result *out);
void engine_unfence(struct engine *e, uint64_t flip);
void engine_finish(struct engine *e, enum side authority); /* no follower any more */
/* A command that runs alone, one at a time (race 5). From begin to end nothing new is sent; io->alone comes when nothing is in flight; what the follower still has to acknowledge
 * is waited for at most follower_ms. Then the servers are asked, and end tells what became of it. why: of ALONE_UNSURE. */
enum alone_result {
	ALONE_NOTHING, /* no server has done anything */
	ALONE_EMPTIED, /* both sides have lost the keys */
	ALONE_UNSURE,  /* everything may differ, or be elsewhere than before */
};
void engine_alone_begin(struct engine *e, unsigned follower_ms);
void engine_alone_end(struct engine *e, enum alone_result result, const char *why);
bool engine_wants_turns(const struct engine *e);           /* something waits for time */
bool engine_is_unfinished(const struct engine *e);         /* the next turn goes on with it: no waiting before */
size_t engine_tidy(struct engine *e); /* gives back what was not needed since the last call; how many bytes */
/* The limits that may change while running. */
void engine_set_limits(struct engine *e, size_t queue_max, size_t dirty_max, size_t request_max);
bool engine_settled(const struct engine *e);               /* idle, and nothing dirty: the follower has everything */
bool engine_idle(const struct engine *e);                  /* nothing in flight, queued or waiting: may stop */

#endif
