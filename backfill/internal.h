/* internal.h - what the files of the backfill worker share; nobody outside this folder includes it.
 *
 *   scan.c      enumerates slots or a keyspace into units of keys ──┐
 *   repair      keys that owners ask for ───────────────────────────┤
 *                                                                   ▼
 *   pipeline.c  item: queued at its node → size → token → read → composed → offered → (answered) ─→ unit settled
 *               └ large: biglane.c, one at a time      └ not now: delayed, by class of delay
 *   tour.c      enumerates both sides; check.c reads a key on both sides and compares
 *
 * Everything runs on one loop. There is no timer per key: one tick serves delays, pace and figures, one prepare watcher per loop turn feeds
 * the pipelines, so that what arrived in a turn leaves in one write per node.
 *
 * Invariants: a copy is in exactly one place: a node's queue, on its way to a reply (item->conn), delayed, in the big lane, in `unoffered`, or with
 * its owner. A unit lives until it was enumerated and every copy of it has ended. */
#ifndef CROSSFADE_BACKFILL_INTERNAL_H
#define CROSSFADE_BACKFILL_INTERNAL_H

#include <assert.h>
#include <ev.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "backfill/backfill.h"
#include "backfill/bulk.h"
#include "backfill/keyspace.h"
#include "backfill/large.h"

#define COPIES_MAX 32768         /* scan copies alive, whoever holds them */
#define BYTES_MAX (16u << 20)    /* values being read or waiting for their answer */
#define NODE_WINDOW 1024         /* keys being read from one node at once */
#define NODE_LISTS 48            /* slot lists awaited from one node */
#define REPLIES_MAX 32           /* of one recipe */
#define SLOT_SCAN_OVER 10000     /* keys; a slot with more is not listed in one blocking call but found by SCAN */
#define TICK_S 0.005
#define MEMORY_USAGE "*3\r\n$6\r\nMEMORY\r\n$5\r\nUSAGE\r\n" /* the key follows, as a bulk */
#define EXISTS_ONE "*2\r\n$6\r\nEXISTS\r\n"
#define ITEM_OVERHEAD 256        /* bytes of memory that a key costs besides its value */

/* Levels of host->log: the daemon's own. */
enum { BF_LOG_DEBUG, BF_LOG_VERBOSE, BF_LOG_NOTICE, BF_LOG_WARNING };

struct backfill;
struct conn;
struct unit;
struct tour;

static inline void *must(void *p)
{
	if (!p) {
		fputs("out of memory\n", stderr);
		abort();
	}
	return p;
}

/* ---- connections: conns.c ---- */

/* Stands before every struct copy in memory (copy_new), so that one allocation holds what both the owner and we need. */
struct item {
	struct item *next;    /* the queue it stands in */
	struct backfill *b;   /* set while it is ours */
	struct unit *unit;    /* NULL: a repair */
	struct conn *conn;    /* replies are awaited from it */
	double due;           /* delayed until */
	uint64_t size;        /* by MEMORY USAGE */
	uint64_t charged;     /* its share of BYTES_MAX */
	uint64_t serial;      /* of the temporary key that its block renames, 0: none */
	uint8_t sized;        /* size is known */
	uint8_t want_type;    /* the recipe must be chosen by TYPE, not by trying DUMP */
	uint8_t tries;        /* reads in a row that ended in another recipe */
	uint8_t errors;       /* answers in a row that were errors: backoff */
	uint8_t recipe;       /* enum recipe to read it with */
	uint8_t want;         /* replies of the recipe being read */
	uint8_t hot;          /* in-band was tried and did not do: hold its writes at once if it is large */
	uint8_t held;         /* its slot's writes are held back for it */
	uint8_t ordered;      /* large, and written to while it was copied: read on its data connection (large.h) */
	uint8_t followed;     /* was tried without a hold */
};

static inline struct copy *item_copy(struct item *i)
{
	return (struct copy *)(void *)(i + 1);
}

static inline struct item *copy_item(struct copy *c)
{
	return (struct item *)(void *)c - 1;
}

static inline struct slice copy_key(const struct copy *c)
{
	return slice(c->key, c->key_len);
}

struct queue {
	struct item *head, **tail;
	size_t n;
};

void queue_init(struct queue *q);
void queue_push(struct queue *q, struct item *i);
void queue_push_front(struct queue *q, struct item *i);
struct item *queue_pop(struct queue *q);

/* The bulk connection to one node of one side, with its queues. Replaced when name, address, id or run_id change. */
struct conn {
	struct backfill *b;
	enum side side;
	struct node node;
	struct bulk *bulk;
	char title[320];
	struct queue urgent, work; /* repairs; scan copies */
	unsigned reading;          /* items whose replies are awaited */
	unsigned listing;          /* slot lists awaited */
	unsigned checking;         /* checks of tours whose replies are awaited */
	unsigned scan_next;        /* where the search for a slot to enumerate goes on */
	unsigned scan_todo;        /* slots of this node still to be enumerated */
	bool counted;              /* its slots were counted by this scan */
	struct unit *pass;         /* a pass over the whole node is running */
	unsigned short_strings;    /* keys in a row that were such: the next one is tried as one (conn_tries_short) */
	/* Replies of the recipe being received: they come one after another, so one place per connection is enough. */
	sds gathered;
	struct {
		size_t off, len;
	} at[REPLIES_MAX];
	unsigned ngathered;
	double down_until;         /* after a loss: no new work before */
	bool lost;                 /* the last thing it told was a loss */
	bool dying;
};

struct conns {
	struct conn **list; /* by index of the topology's nodes; NULL where the name did not resolve */
	unsigned n;
};

struct conn *conn_of(struct backfill *b, enum side side, uint16_t slot); /* NULL: nobody has the slot now */
void conns_rebuild(struct backfill *b, enum side side);
void conns_free(struct backfill *b, enum side side);
void conns_password(struct backfill *b, enum side side);
/* Any node of the side that can be asked, NULL if none. */
struct conn *conns_any(struct backfill *b, enum side side);
bool conns_usable(struct backfill *b, enum side side);
void conn_was_lost(struct conn *c, const char *why);
static inline bool conn_ready(const struct conn *c, double now)
{
	return now >= c->down_until;
}
bool node_same(const struct node *a, const struct node *b);

/* One more reply of a recipe of `want` replies. True: all are there, in replies[0 … want). */
bool conn_gather(struct conn *c, struct slice reply, unsigned want, struct slice *replies);

/* Most keyspaces are mostly short strings. Where the last keys were, the next one is read as one at once (RECIPE_SHORT), which is bounded whatever it is: no size
 * is asked before. The row is long, since what is not one costs an error in the server's statistics. */
#define SHORT_ROW 256
static inline bool conn_tries_short(const struct conn *c)
{
	return c->short_strings >= SHORT_ROW;
}
/* A key was read: the first reply of the recipe. */
void conn_saw(struct conn *c, enum recipe r, enum recipe_result result, struct slice value);

struct receiver receiver_of(const struct backfill *b, enum side side);

/* What kind of error a reply is. */
enum reply_error {
	REPLY_FINE,
	REPLY_ELSEWHERE, /* MOVED, ASK, TRYAGAIN, CLUSTERDOWN: the slot is not (wholly) here */
	REPLY_LATER,     /* LOADING, BUSY, MASTERDOWN …: the same again later */
	REPLY_WRONG,     /* anything else */
};
enum reply_error reply_error(struct slice reply);
/* The text of an error, cut to n bytes, for logs: what servers answer may quote a key, never a value. */
const char *reply_text(struct slice reply, char *out, size_t n);
bool reply_int(struct slice reply, int64_t *n);

/* ---- pipeline.c ---- */

enum delay_class { DELAY_BUSY, DELAY_SHORT, DELAY_MEDIUM, DELAY_LONG, DELAYS };

struct item *item_new(struct backfill *b, uint16_t db, struct slice key, uint16_t slot, struct unit *u);
void item_queue(struct backfill *b, struct item *i);   /* to the node that has its slot now, as a fresh start */
void item_delay(struct backfill *b, struct item *i, enum delay_class d);
void item_retry_later(struct backfill *b, struct item *i); /* backoff by i->errors */
void item_end(struct backfill *b, struct item *i, bool acknowledged);
void item_offer(struct backfill *b, struct item *i);
void item_fail(struct backfill *b, struct item *i, const char *why); /* repair: COPY_FAILED; scan: again later */
void item_misrouted(struct backfill *b, struct item *i);
void item_lost(struct backfill *b, struct item *i, bool at_once);    /* a token was lost: counts, and escalates at the next start */
void item_uncarried(struct backfill *b, struct item *i, const char *why);
bool item_dropped(const struct item *i);                 /* its scan was stopped meanwhile */
void pipeline_feed(struct backfill *b, double now);
void pipeline_tick(struct backfill *b, double now);
void pipeline_free(struct backfill *b);
void pipeline_requeue(struct backfill *b, struct queue *q);

/* ---- hold.c: writes of a slot held back, one slot at a time ---- */

struct hold {
	struct hold *next;
	uint16_t slot;
	unsigned max_ms;
	void (*fn)(void *arg, bool ok); /* held, or not; release in either case */
	void *arg;
	enum { HOLD_NONE, HOLD_QUEUED, HOLD_ASKED, HOLD_ANSWERED } state;
	double asked_at;
};
void hold_ask(struct backfill *b, struct hold *h, uint16_t slot, unsigned max_ms, void (*fn)(void *, bool), void *arg);
void hold_release(struct backfill *b, struct hold *h); /* in any state */
void hold_tick(struct backfill *b, double now);        /* an answer that never comes counts as no */

/* ---- biglane.c: large values, one at a time, through large.c ---- */

struct biglane;
struct biglane *biglane_new(struct backfill *b);
void biglane_free(struct biglane *l);
void biglane_push(struct biglane *l, struct item *i);
void biglane_let_go(struct biglane *l, struct item *i); /* the item whose writes are held was handed over, or ended */
void biglane_feed(struct biglane *l, double now);
void biglane_drop(struct biglane *l);                   /* ends what belongs to a stopped scan */
sds biglane_undo(struct item *i); /* the command that removes its temporary key */
void biglane_discard(struct biglane *l, struct item *i); /* the block was not applied: its temporary key goes */

/* ---- scan.c, cursor.c ---- */

enum unit_kind { UNIT_SLOT, UNIT_PASS, UNIT_WINDOW };

struct unit {
	struct unit *next, *prev;
	struct unit *behind; /* UNIT_WINDOW: the next one in the order of the scan */
	struct backfill *b;
	enum unit_kind kind;
	uint16_t slot;
	uint32_t left;      /* copies of it that have not ended */
	uint32_t keys;      /* that were enumerated */
	uint32_t copied;    /* that count in keys_copied: not if it is enumerated again */
	bool listed;        /* every key of it is known */
	bool broken;        /* enumerate again */
	bool dead;          /* the scan was stopped */
	struct conn *conn;  /* awaited from; NULL once nothing is awaited */
	uint32_t asked;     /* count argument of GETKEYSINSLOT */
	unsigned db;        /* being listed or scanned */
	unsigned next_db;   /* UNIT_WINDOW: the scan goes on here behind this window */
	uint64_t cursor;    /* UNIT_WINDOW: …and here; UNIT_PASS: current */
	unsigned probes;    /* UNIT_PASS: answers of probes still to come */
	bool scanned;       /* UNIT_PASS: the cursor came round in the last database */
	uint16_t *slots;    /* UNIT_PASS: the slots that it completes */
	unsigned nslots;
};

enum scan_stage { SCAN_OFF, SCAN_WAIT, SCAN_FUNCTIONS, SCAN_COUNT, SCAN_COPY, SCAN_DONE };
enum slot_state { SLOT_TODO, SLOT_OPEN, SLOT_DONE };

struct scan {
	enum scan_stage stage;
	bool paused;
	bool cluster;               /* the authority is one */
	struct keyspace_ask *asking;
	struct db_set dbs;          /* those to be copied */
	enum side from;
	uint8_t state[SLOTS];       /* enum slot_state */
	uint8_t big[SLOTS];         /* over SLOT_SCAN_OVER keys */
	uint32_t count[SLOTS];      /* keys, by CLUSTER COUNTKEYSINSLOT */
	double due[SLOTS];          /* SLOT_TODO: not before */
	unsigned todo;
	unsigned counting;          /* answers still to come */
	unsigned run;               /* counts scans: what an older one asked for is not mistaken */
	uint64_t expected;          /* keys of lists that are awaited */
	unsigned alive;             /* scan copies alive */
	struct unit *units;         /* doubly linked */
	/* standalone */
	unsigned db, safe_db;       /* go with the cursors: everything in the databases before is done */
	uint64_t cursor;            /* next SCAN */
	uint64_t safe_cursor;       /* everything before it is acknowledged */
	uint64_t safe_keys;         /* in done slots, or before the safe cursor: what a checkpoint may count */
	bool cursor_end, scanning;
	char run_id[44];
	struct unit *windows, **windows_tail; /* in the order of the scan */
	unsigned nwindows;
	double started, sampled;
	uint64_t sampled_copied;
	double rate;
	double retry_at;
	unsigned functions_tried;
};

void scan_init(struct backfill *b);
void scan_start(struct backfill *b);
void scan_stop(struct backfill *b);
void scan_feed(struct backfill *b, double now);
void scan_topology(struct backfill *b, enum side side, const struct topology *before);
void scan_settle(struct backfill *b, struct unit *u);
void scan_slot_state(struct backfill *b, uint16_t slot, enum slot_state s);
void scan_slot_again(struct backfill *b, uint16_t slot, double after);
void scan_recount_todo(struct backfill *b);
void scan_ask_keyspace(struct backfill *b);
void scan_counts(struct backfill *b);
void scan_finish_if_done(struct backfill *b);
void scan_sample(struct backfill *b, double now);
struct unit *unit_new(struct backfill *b, enum unit_kind kind);
void unit_free(struct backfill *b, struct unit *u);
void pass_open(struct backfill *b, struct conn *c);
void pass_feed(struct backfill *b);
void pass_abandon(struct unit *u); /* nothing comes for it any more: stopped, or its connection ended */
void cursor_feed(struct backfill *b, double now);
void cursor_begin(struct backfill *b);
void cursor_topology(struct backfill *b);
void cursor_settle(struct backfill *b);
bool scan_has_room(const struct backfill *b, uint64_t more);
/* Appends a command that only the slot's owner answers with an integer: EXISTS of a key that is not there. A former owner answers MOVED, one that is
 * giving the slot away ASK, where GETKEYSINSLOT answers a part without an error (race 8). */
sds cat_probe(sds out, uint16_t slot);
/* Calls fn for every bulk of an array reply; false: the reply is no array. */
bool reply_each(struct slice reply, void (*fn)(void *arg, struct slice key), void *arg);
/* [cursor, [keys]] of SCAN. */
bool reply_scan(struct slice reply, uint64_t *cursor, struct slice *keys);

/* ---- uncarried.c: keys whose values the follower cannot hold ---- */

struct uncarried;
struct uncarried *uncarried_new(struct backfill *b);
void uncarried_free(struct uncarried *u); /* after every connection has answered */
void uncarried_load(struct backfill *b);
bool uncarried_save(struct backfill *b);  /* true: what is known is on disk */
void uncarried_clear(struct backfill *b); /* and the file */
/* The key that was read just now. True: the list with it is on disk, the key may be let go; else it has to come again. */
bool uncarried_add(struct backfill *b, const struct copy *c, const char *why);
void uncarried_gone(struct backfill *b, const struct copy *c); /* it was read, and can be copied, or is no more */
void uncarried_beyond(struct backfill *b, uint64_t keys);      /* so many are in databases that the follower does not have */
/* Only the follower has it, since a flip went over its head. */
bool uncarried_left_behind(struct backfill *b, uint16_t db, struct slice key, uint16_t slot);
void uncarried_none_missing(struct backfill *b);               /* a verify found every key on the follower */
/* A key as printable text, cut. To be freed. */
sds uncarried_text(struct slice key);

/* ---- file.c ---- */

/* False, told in the log: what was there is still there. */
bool file_store(struct backfill *b, const char *name, const void *data, size_t n);
sds file_read(struct backfill *b, const char *name, size_t max); /* NULL: none, or it cannot be read, which is told */
void file_remove(struct backfill *b, const char *name);

/* ---- checkpoint.c ---- */

/* Fills done slots, cursor and counters of b->scan; false: none, or none that fits. */
bool checkpoint_load(struct backfill *b);
void checkpoint_touch(struct backfill *b);  /* something worth writing happened */
void checkpoint_tick(struct backfill *b, double now, bool force);
void checkpoint_remove(struct backfill *b);

/* ---- pace.c ---- */

enum pace_stage {
	PACE_FREE,  /* no clients: no limit */
	PACE_QUIET, /* nothing is copied: what clients' requests take when nobody disturbs them */
	PACE_COPY,  /* what they take while keys are copied at `cap` */
};

/* Requests, and how long they took together. */
struct pace_sum {
	double n, us;
};

/* Keys, or bytes, that may go: a token bucket. The level may be negative: what was too much is waited for. */
struct bucket {
	double level, filled;
};

struct pace {
	uint64_t keys_per_s, bytes_per_s;
	struct bucket keys, bytes;
	struct bucket checks;  /* what verify and walks compare: held by the adaptive limit alone */
	/* adaptive */
	bool adaptive;
	enum pace_stage stage;
	double cap;            /* keys/s; outlasts PACE_FREE, as the place to begin at */
	bool grown;            /* it has been too much once: from then on it grows slowly */
	double since;          /* of the stage */
	double looked;         /* when the counters were read last */
	double clients_at;     /* when a request was seen last */
	double glance_at;      /* when `glance` began */
	uint64_t seen_n, seen_us; /* of the counters at the last look */
	struct pace_sum calm;  /* over the last quiet stages, older ones count less */
	struct pace_sum now;   /* of this stage */
	struct pace_sum glance; /* of a part of it: gross trouble is seen at once */
	bool held;             /* the cap was reached in this stage: only then is it worth raising */
	bool by_keys, by_bytes, by_cap; /* what held keys back since the last look */
};
void pace_set(struct pace *p, uint64_t keys_per_s, uint64_t bytes_per_s, bool adaptive, double now);
unsigned pace_allowed(struct pace *p, double now, unsigned want); /* keys that may start now */
void pace_spend(struct pace *p, unsigned keys, uint64_t bytes);
unsigned pace_checks(struct pace *p, double now, unsigned want);  /* keys that may be compared now: they are spent with it */
/* Called every few ms with the host's counters, which only grow. */
void pace_adapt(struct pace *p, double now, uint64_t requests, uint64_t us);
/* Keys of a node that are worth listing ahead; UINT_MAX if nothing holds them. */
unsigned pace_ahead(const struct pace *p);
enum bf_held pace_held_by(struct pace *p); /* HELD_NOTHING if nothing; forgets */

/* ---- functions.c ---- */

typedef void functions_fn(struct backfill *b, bool ok);
void functions_copy(struct backfill *b, enum side from, functions_fn *fn);
struct functions_compare;
typedef void functions_equal_fn(void *arg, int equal); /* 1, 0; -1: could not be read */
void functions_compare(struct backfill *b, enum side authority, functions_equal_fn *fn, void *arg);

/* ---- newcomers.c ---- */

struct newcomer;
void newcomers_topology(struct backfill *b, enum side side, const struct topology *before);
void newcomers_feed(struct backfill *b, double now);
void newcomers_free(struct backfill *b); /* when no connection is left */

/* ---- tour.c ---- */

struct tour *tour_new(struct backfill *b, bool verify);
void tour_free(struct tour *t);
void tour_topology(struct tour *t, enum side side, const struct topology *before);
void tour_feed(struct tour *t, double now);
void tour_tick(struct tour *t, double now);
void tour_want(struct tour *t, uint16_t slot);       /* rescan; SLOTS: all */
void tour_verify(struct tour *t, bool repair);
void tour_cancel(struct tour *t);
bool tour_active(const struct tour *t);

/* ---- the object: backfill.c ---- */

struct backfill {
	struct ev_loop *loop;
	struct backfill_config config;
	const struct backfill_host *host;
	struct bf_stats *stats;
	struct topology *topology[SIDES];
	struct conns conns[SIDES];
	struct pace pace;
	struct scan scan;
	struct queue delayed[DELAYS];
	struct queue unoffered;   /* the owner's ring was full */
	uint64_t bytes;           /* of BYTES_MAX in use */
	unsigned repairs;         /* repairs that are ours */
	sds scratch;              /* for building requests */
	struct biglane *biglane;
	struct uncarried *uncarried;
	struct hold *holds;       /* the first one is asked for or held */
	struct tour *rescan, *verify;
	struct newcomer *newcomers;
	ev_prepare feed;
	ev_timer tick;
	double second;            /* last whole-second work */
	double refused_until;     /* an owner refused a copy: until then only a few scan copies are tried */
	double log_at[8];         /* rate limits */
	/* checkpoint */
	bool checkpoint_dirty;
	double checkpoint_at;
};

double bf_now(const struct backfill *b);
void bf_wake(struct backfill *b);  /* there is work: tick runs */
/* At most one message of a kind per second. */
enum bf_log_kind { LOGK_ERROR, LOGK_UNCARRIED, LOGK_LOST, LOGK_LIST, LOGK_CHECK, LOGK_HOLD, LOGK_LARGE, LOGK_OTHER };
bool bf_may_log(struct backfill *b, enum bf_log_kind k);
void bf_failing(struct backfill *b, enum bf_log_kind k, const char *fmt, ...) __attribute__((format(printf, 3, 4))); /* a warning that tells why what is tried again fails */
void list_failing(struct backfill *b, enum side side, uint16_t slot, const struct slice replies[3]); /* likewise, of probe, list, probe; nothing if the slot is elsewhere */
void scan_failing(struct backfill *b, enum side side, struct slice reply);
enum side bf_authority(const struct backfill *b, uint16_t slot);
static inline void bf_fetch_token(const struct backfill *b, keyhash key, uint16_t slot)
{
	if (b->host->fetch)
		b->host->fetch(b->host->ctx, key, slot);
}
static inline void stat_add(_Atomic uint64_t *s, uint64_t n)
{
	/* One writer: no locked instruction is needed. */
	atomic_store_explicit(s, atomic_load_explicit(s, memory_order_relaxed) + n, memory_order_relaxed);
}
#define stat_set(s, v) atomic_store_explicit((s), (v), memory_order_relaxed)
#define stat_get(s) atomic_load_explicit((s), memory_order_relaxed)

#endif
