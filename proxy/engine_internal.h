/* engine_internal.h - the engine's own structures, shared by engine*.c only.
 *
 * A slot without anything special has wait == NULL and is not fenced: its commands go at once. */
#ifndef CROSSFADE_ENGINE_INTERNAL_H
#define CROSSFADE_ENGINE_INTERNAL_H

#include "backfill/fault.h"
#include "proxy/changes.h"
#include "proxy/derived.h"
#include "proxy/dirty.h"
#include "proxy/effect.h"
#include "proxy/engine.h"
#include "resp/keyhash.h"
#include "proxy/known.h"
#include "proxy/lines.h"
#include "proxy/park.h"
#include "resp/parse.h"

#define ENGINE_KEYS_INLINE 2
#define ENGINE_CHECKS_MAX 4 /* keys whose expiry is compared behind a write; of more the written ones are copied */
#define ENGINE_REPAIRS_MAX 1024 /* asked of the backfill worker at once */
#define ENGINE_GLANCES_MAX 1024

struct req_list {
	struct req *head, *tail;
};

enum { /* why a slot's commands wait */
	WAIT_RESEND = 1, /* redirected or failed ones go first, once nothing is in flight */
	WAIT_HOLD = 2,   /* a large value is copied: writes wait */
	WAIT_PART = 4,   /* a request given back to be split comes again, in parts: what came behind it waits */
};

struct slot_wait {
	struct slot_wait *prev, *next; /* engine->waits */
	struct req_list queue;
	struct req_list resend, rest; /* WAIT_RESEND: turned away since nothing was in flight; to go behind those */
	int64_t resume_us;  /* WAIT_RESEND: not before */
	uint16_t node;      /* WAIT_RESEND: where what is in flight was sent: of `ask_node` */
	bool one_first;     /* WAIT_RESEND: the next goes alone */
	int64_t hold_until_us;
	uint16_t slot;
	uint8_t why;
	bool hold_told;     /* WAIT_HOLD: the backfill worker was told that it has come to rest */
};

enum {
	SLOT_SYNCED = 1,
	SLOT_DIRTY = 2,
	SLOT_MINE = 4,
	SLOT_RESCANNING = 8,
	SLOT_WALK_DUE = 32, /* RESCANNING, but not asked for yet */
	SLOT_FENCED = 16, /* changes its authority: reads wait, too */
	SLOT_UNWATCHED = 64, /* RESCANNING, but the walk begins when the nodes of both sides are up (race 7) */
};

struct slot_state {
	struct slot_wait *wait;
	uint32_t inflight; /* commands at the authority */
	uint32_t reads;    /* of them those of clients that change nothing */
	uint32_t lined;    /* requests of engine->line that have a key of it */
	uint8_t flags;
	uint32_t unacked;  /* effects and copies at the follower */
	uint32_t unsettled; /* writes of many keys that have their reply, and not all their parts (engine_crowd.c) */
	uint32_t dirty;    /* dirty keys */
	uint32_t own;      /* of inflight the engine's: in-band copies, glances */
	uint32_t marks;    /* times it became dirty */
	uint32_t rescan_marks;
	/* A walk that is due begins when what was under way at the mark has ended: these replies of the authority, then these of the follower. */
	uint32_t await_replies, await_acks;
	uint32_t await_synced; /* it is copied; synced when these replies of the authority have come */
	uint32_t script_ms; /* when a script was last sent, or answered, low bits; 0: never */
};
_Static_assert(sizeof(struct slot_state) == CACHE_LINE, "a slot is a cache line");

struct mblock;

struct wkey {
	struct slice key; /* in the request's bytes */
	keyhash hash;
	uint16_t slot, db;
	bool writes;
	bool applies; /* counted in its dirty key's `applying` */
	journal_ref entry; /* from before the command is sent until the write is forgotten */
	bool whole;   /* set whole by what stands before in the same transaction */
};

/* A write as the mirror sees it: from its sending to the authority until the follower's acknowledgement. This, the dirty table and
 * the dirty slots are the three places of invariant 4. */
struct mwrite {
	struct engine *engine;
	struct req *req;         /* until it is answered; kept until the acknowledgement with mirror-ack both */
	struct block *block;
	const char *bytes;
	size_t len;
	const struct command *cmd;
	struct wkey *keys;
	uint32_t nkeys, argc;

	uint16_t slot, db;
	uint32_t traits;
	uint32_t replies_left;   /* of the follower */
	/* The tail: commands sent right behind the write on the same connection: a probe (effect_probe), then one PEXPIRETIME per key (race 1). */
	uint32_t tail_left;      /* their answers still to come from the authority */
	uint32_t tail_skip;      /* answers to come of tails whose write was redirected or lost */
	uint8_t checks;          /* PEXPIRETIMEs, the same number on both sides */
	uint8_t checked;         /* those that the follower has answered */
	bool probe, expires_differ;
	bool begun, compare, failed, answer_held, released;
	bool plain;              /* effect_is_plain, with `argc` words and one key at most */
	bool script;             /* of its commands some is a script */
	bool inputs_left_out;    /* `keys` are the written ones only */
	enum side follower;
	int64_t sent_us;         /* the effect; by coarse_us */
	size_t queued;           /* bytes held until the follower has acknowledged it */
	uint64_t digest;         /* of the authority's reply */

	struct effect effect;
	struct block *reply_block; /* the authority's reply, while the tail is awaited */
	sds probe_reply;

	const char *reply;
	size_t reply_len;
	struct mblock *multi;    /* a transaction: its commands (engine_multi.c); `cmd` is EXEC then */
	struct crowd *crowd;     /* its keys, if they are very many (engine_crowd.c); `keys` has none then */
	struct spread_answer *spread; /* one of the parts of a write whose answer waits for all, or that write itself */
	const char *why;
	int64_t sent_ms;         /* the authority's clock when it was sent; 0 for one that effect_is_plain calls so */
	struct mwrite *next;     /* pool */

	/* From here on a new one is not zeroed. */
	struct wkey inline_keys[ENGINE_KEYS_INLINE];
	uint64_t expires[ENGINE_CHECKS_MAX]; /* the authority's answers */
};
#define MWRITE_ZEROED offsetof(struct mwrite, inline_keys)

/* A copy on its way to the follower, or being read in-band. */
struct cwrite {
	struct engine *engine;
	struct copy *copy;
	keyhash hash;            /* the copy's */
	uint32_t replies_left;
	uint32_t slot_marks;     /* of its slot when it was queued */
	size_t queued;
	enum side follower;
	bool failed, too_big;
	bool applies;            /* the key was dirty when it was queued; a mark that came later waits for a copy of its own */
	char *why;
	unsigned nreads, reads;  /* in-band: replies expected, received */
	uint64_t marks;          /* in-band: of the dirty key at the first reply; later ones may be newer than the value */
	size_t read_bytes;
	struct { char *p; size_t n; } *read;
};

enum fence_stage { FENCE_NONE, FENCE_DRAIN, FENCE_PROVE, FENCE_SETTLE, FENCE_REPLICATE, FENCE_READY }; /* in this order */

struct fence {
	enum fence_stage stage;
	uint64_t flip;
	enum side to;
	struct slot_set slots; /* those of this worker that have SLOT_FENCED */
	int64_t since_us, deadline_us;
	unsigned answers_left;
	size_t owed;       /* dirty keys with marks that are owed */
	bool failed;
	char why[200];
};

/* One EXEC on a client's own connection at a time; nothing else meanwhile (engine_gate.c). */
struct gate {
	struct req *holder;      /* NULL: open, unless a command runs alone */
	bool running;            /* it was sent */
	struct req_list queue;   /* what waits for the gate; for the end of a command that runs alone, too */
	struct reading *reading; /* of a large key, waiting for the gate */
	struct echoes *echoes;   /* reports to come of keys that such EXECs wrote, oldest first */
	struct echoes *now;      /* of the one that runs */
	char why[256];           /* its connection was lost */
	uint64_t flips;          /* so far: what is watched from before the last one may have changed, though its node answers again */
};

/* A command that runs alone (engine_alone.c). */
enum alone_stage { ALONE_NONE, ALONE_WANTED, ALONE_SHUT, ALONE_QUIET };

struct alone_fence {
	enum alone_stage stage;
	int64_t follower_us, follower_until_us;
	bool mirrored;           /* it counts as a write to every key */
};

struct echoes;
struct reading;

struct engine {
	struct engine_io io;
	struct engine_options opt;
	struct worker_stats *stats;
	_Atomic uint8_t authority[SLOTS];
	_Alignas(CACHE_LINE) struct slot_state slots[SLOTS];
	struct versions versions;
	struct known known, foreign;
	struct dirty dirty;
	struct derived derived;
	struct changes changes;  /* of the large key that is being copied */
	struct fence fence;
	struct gate gate;
	struct alone_fence alone;
	uint64_t inflight;       /* of all slots */
	struct park park;        /* clients that wait */
	struct slot_wait *waits;
	struct req_list line;    /* engine_line.c */
	struct req_list turned;  /* engine_wide.c */
	int64_t turned_resume_us; /* not before */
	struct crowd *crowds;    /* that are being settled */
	struct crowd *crowd_now; /* whose part is being made */
	uint64_t crowd_keys;     /* of all crowds, not settled */
	struct mwrite *pool;
	size_t pooled, pooled_least; /* in the pool; since engine_tidy() never fewer */
	size_t queued_bytes, queued, dirty_slots;
	int64_t acked_us;        /* when the effect was sent that was acknowledged last in this turn; 0: none was */
	unsigned unwatched;      /* slots */
	unsigned repairs;        /* asked and not yet answered */
	unsigned glances, glance_misses; /* on their way; in a row that found a key */
	unsigned down_skipped;
	bool mirroring, finished;
	bool was_busy;           /* at the last turn */
	bool expiring;           /* a write of ours may have given a key an expiry: what INFO told may be older */
	struct slice *argv;      /* scratch: words of the request at hand */
	size_t argv_cap;
	struct key_ref *keys;
	size_t keys_cap;
};

static inline enum side slot_authority(const struct engine *e, uint16_t slot)
{
	return atomic_load_explicit(&e->authority[slot], memory_order_relaxed);
}

static inline enum side slot_follower(const struct engine *e, uint16_t slot)
{
	return SIDE_OTHER(slot_authority(e, slot));
}

/* The journal's entry of a key whose effect or copy the follower has not acknowledged (invariant 5). */
static inline journal_ref note_owed(struct engine *e, uint16_t db, struct slice key, uint16_t slot)
{
	return e->opt.journal ? journal_add(e->opt.journal, key, db, slot) : 0;
}

static inline void note_paid(struct engine *e, journal_ref *owed, uint16_t slot)
{
	if (*owed)
		journal_remove(e->opt.journal, *owed, slot);
	*owed = 0;
}

static inline void stat_add(_Atomic uint64_t *s, uint64_t n)
{
	atomic_store_explicit(s, atomic_load_explicit(s, memory_order_relaxed) + n, memory_order_relaxed);
}

/* So many answers of the authority are to come. */
static inline void slot_sent(struct engine *e, uint16_t slot, uint32_t n)
{
	e->slots[slot].inflight += n;
	e->inflight += n;
}

static inline void slot_replied(struct engine *e, uint16_t slot)
{
	e->slots[slot].inflight--;
	e->inflight--;
}

static inline void req_list_push(struct req_list *l, struct req *r)
{
	r->link = NULL;
	*(l->tail ? &l->tail->link : &l->head) = r;
	l->tail = r;
}

static inline void req_list_push_front(struct req_list *l, struct req *r)
{
	r->link = l->head;
	l->head = r;
	if (!l->tail)
		l->tail = r;
}

static inline struct req *req_list_pop(struct req_list *l)
{
	struct req *r = l->head;

	if (r && !(l->head = r->link))
		l->tail = NULL;
	return r;
}

/* engine_line.c */
bool line_takes(struct engine *e, struct req *r); /* it has to wait there, and does */
void line_turn(struct engine *e);
void line_give_back(struct engine *e, struct req *r);
void line_part(struct engine *e, struct req *part);
uint32_t line_slots(const struct req *r, const uint16_t **slots); /* all of them */
void line_count(struct engine *e, const struct req *r, int by);   /* what comes to a slot of it has to wait for it: 1; no longer: -1 */
bool line_waits(const struct engine *e, const struct req *r);     /* one of several slots keeps it waiting */

/* engine_order.c */
bool order_resend(struct engine *e, struct req *r, int64_t delay_us); /* it was turned away, and goes again; false: it was tried long enough */
void order_executed(struct engine *e, const struct req *r);          /* others may have been turned away */
bool order_resumes(struct engine *e, struct slot_wait *w);           /* true: nothing is left, WAIT_RESEND has ended */
bool order_overtakes(struct engine *e, const struct req *r, const struct req *turned); /* r was executed, a later one of the same client on a key of it */
void order_tell_overtaken(struct engine *e, struct req *r);

/* engine_wide.c */
bool wide_resend(struct engine *e, struct req *r, bool again, int64_t resume_us); /* it was turned away, not for the first time: again; true: it waits here */
void wide_executed(struct engine *e, const struct req *r);
bool wide_turn(struct engine *e);                                     /* true: nothing is left, and the line may go on */

/* engine.c */
void engine_start(struct engine *e, struct req *r);
void engine_answer_error(struct engine *e, struct req *r, const char *text);
bool engine_is_redirect(const struct reply *r); /* an error about the cluster's state, not about the command */
bool engine_must_wait(const struct engine *e, uint16_t slot, const struct req *r);
void engine_begin(struct engine *e, struct req *r);
void engine_transmit(struct engine *e, struct req *r);
struct slot_wait *engine_wait(struct engine *e, uint16_t slot, uint8_t why);
void engine_wait_lift(struct engine *e, uint16_t slot, uint8_t why);
void engine_follower_refused(struct engine *e, enum side side, const struct reply *r);
uint32_t engine_words(struct engine *e, const char *bytes, size_t len); /* fills e->argv */
int engine_keys(struct engine *e, const struct command *cmd, uint32_t argc); /* of e->argv, into e->keys: how many, -1: the words are wrong */
bool engine_reply_is_passing(const struct reply *r); /* an error about the state of a node: later it may be served */
struct req *engine_req_of(reply_fn *fn, void *arg); /* the request that is answered by fn(arg); NULL: it is of our own */
void engine_on_reply(void *arg, const struct reply *reply); /* of nearly all requests */
void engine_answer(struct engine *e, struct req *r);  /* engine_park.c */

/* engine_park.c */
void park_arrive(struct engine *e, struct req *r);
void park_touched(struct engine *e, const struct req *r); /* a write of ours is on its way */
void park_wake_all(struct engine *e);
void park_retry(struct engine *e);
void park_run(struct engine *e);
void park_turn(struct engine *e);
static inline void park_after(struct engine *e) /* at the end of what came to the engine */
{
	if (e->park.ready_head || e->park.due)
		park_run(e);
}

/* engine_spread.c */
struct spread_answer;
bool mirror_spread(struct engine *e, struct mwrite *mw, const struct effect_call *call, struct slice reply); /* false: it is not to be spread, or cannot be */
void spread_begin(struct mwrite *mw); /* its parts are made, each with its keys; then mirror_release */
struct mwrite *spread_part(struct engine *e, const struct mwrite *mw, uint16_t slot, uint32_t nkeys, uint32_t traits, const struct effect *effect); /* takes its block */
void spread_key(struct mwrite *part, struct wkey *k);
void spread_released(struct engine *e, struct spread_answer *a);

/* engine_crowd.c */
bool crowd_collect(struct engine *e, struct mwrite *mw, uint32_t argc); /* the keys, of the words in e->argv; false: it is no such write */
bool crowd_collect_plain(struct engine *e, struct mwrite *mw);          /* the same of the request's bytes, of DEL, MSET: nothing else has to look at their words */
void crowd_begin(struct engine *e, const struct crowd *c);              /* before it is sent */
void crowd_complete(struct engine *e, const struct crowd *c);
void crowd_paid(struct engine *e, struct crowd *c);                     /* frees it */
void crowd_replied(struct engine *e, struct mwrite *mw);
void crowd_unknown(struct engine *e, struct mwrite *mw, const char *why);
void crowd_settle_slot(struct engine *e, uint16_t slot);
void crowd_settle_all(struct engine *e);
void crowd_turn(struct engine *e);
void crowd_release_all(struct engine *e);
/* Before anything of the slot is judged, marked, read in-band or queued for the follower. */
static inline void crowd_first(struct engine *e, uint16_t slot)
{
	if (__builtin_expect(e->slots[slot].unsettled, 0))
		crowd_settle_slot(e, slot);
}

/* engine_kept.c */
struct mwrite *mirror_new(struct engine *e);
void mirror_free(struct mwrite *mw);
void mirror_release_pool(struct engine *e);
size_t kept_size(const struct mwrite *mw, size_t sent); /* what it holds, from when so many bytes of it are sent */
bool kept_alone(const struct engine *e);                /* so much is under way that the next effect must not hold its client's bytes */
void kept_trim(struct mwrite *mw, bool alone);          /* it was sent: only the names of the written keys, and what the answers are compared with, are needed from now on */

/* engine_mirror.c */
bool mirror_spans_slots(struct engine *e, const struct mwrite *mw);
void mirror_effect(struct engine *e, struct mwrite *mw);
void mirror_crowds_first(struct engine *e, const struct mwrite *mw);
uint64_t mirror_expire_of(const char *p, size_t n); /* the reply to PEXPIRETIME, in `expires` */
void mirror_prepare(struct engine *e, struct req *r);
void mirror_transmitted(struct engine *e, struct req *r, uint16_t node); /* sends the tail the same way */
void mirror_redirected(struct mwrite *mw);               /* it will be sent again: what comes of the tail is skipped */
void mirror_replied(struct engine *e, struct req *r, const struct reply *reply); /* may keep the answer back */
void mirror_unknown(struct engine *e, struct req *r, const char *why);
bool engine_reply_is_error(const struct reply *r);

enum verdict { SEND, DROP, SNAPSHOT }; /* the effect goes; a copy to come has it; the written keys are copied */
void mirror_collect_keys(struct engine *e, struct mwrite *mw, uint32_t argc); /* of the words in e->argv */
struct effect_call mirror_call(struct engine *e, const struct mwrite *mw, uint32_t argc);
bool mirror_canonical(struct engine *e, const struct mwrite *mw, uint32_t argc, sds *out, const struct command **cmd); /* effect_canonical, of the words in e->argv */
bool mirror_may_set_expiry(const struct command *cmd, uint32_t argc);
uint8_t mirror_checks_needed(struct engine *e, const struct mwrite *mw);
sds mirror_cat_check(sds s, const struct wkey *k);
enum verdict mirror_decide(struct engine *e, struct mwrite *mw);
void mirror_before_send(struct engine *e, struct mwrite *mw);
void mirror_effect_send(struct engine *e, struct mwrite *mw);
void mirror_mark_written(struct engine *e, struct mwrite *mw, const char *why);
void mirror_release(struct mwrite *mw);
const struct mwrite *mirror_write_of(reply_fn *fn, const void *arg); /* the write whose effect is answered by fn(arg); NULL: it is something else */
void mirror_discard(struct mwrite *mw); /* the engine ends */

/* engine_changes.c */
void mirror_note_changes(struct engine *e, const struct mwrite *mw); /* of a write that was answered, before the next answer */
void changes_gate_opened(struct engine *e);
void changes_release(struct engine *e);

/* engine_gate.c */
void gate_close(struct engine *e, struct req *r);  /* EXEC of a client that watches */
void gate_turn(struct engine *e);                  /* something in flight has ended */
void gate_replied(struct engine *e, struct req *r, const struct reply *reply);
bool gate_echo(struct engine *e, enum side side, keyhash h); /* is this report ours? */
void gate_wrote(struct engine *e, const struct wkey *keys, uint32_t n);
void gate_release(struct engine *e);

void gate_open(struct engine *e);

/* engine_alone.c */
void alone_turn(struct engine *e);
static inline bool alone_is_on(const struct engine *e)
{
	return e->alone.stage >= ALONE_SHUT;
}

static inline bool gate_is_shut(const struct engine *e)
{
	return e->gate.holder || (alone_is_on(e) && !fault("race-5-fence"));
}

/* engine_strays.c */
void strays_script(struct engine *e, uint16_t slot); /* a script goes to the authority, or its reply is there */
void strays_seen(struct engine *e, uint16_t slot, int64_t when_us); /* a key at rest was changed then, not by us, and it is there: it did not expire */

/* engine_multi.c: transactions */
void multi_prepare(struct engine *e, struct mwrite *mw, struct req *r);
uint32_t multi_replies(const struct req *r);
void multi_replied(struct engine *e, struct mwrite *mw);
bool multi_as_expected(const struct mwrite *mw, const struct reply *r);
void multi_release(struct mblock *b);
void multi_trim(struct mblock *b);         /* it was sent: only the answers to come matter */
size_t multi_kept(const struct mblock *b); /* bytes of what stays then; NULL: 0 */

/* engine_dirty.c */
const struct cwrite *copy_write_of(reply_fn *fn, const void *arg); /* likewise, the copy */
void mark_key(struct engine *e, uint16_t db, struct slice key, keyhash h, uint16_t slot, const char *why);
bool key_is_synced(const struct engine *e, keyhash h, uint16_t slot);
void key_is_whole(struct engine *e, keyhash h, uint16_t slot);
struct dirty_key *key_dirty(const struct engine *e, keyhash h);
void dirty_applying(struct engine *e, struct dirty_key *k);
void dirty_applied(struct engine *e, struct dirty_key *k, bool ok);
void dirty_pump(struct engine *e);
void dirty_clear(struct engine *e);
bool follower_takes(const struct engine *e, enum side follower, uint16_t slot);
void follower_queued(struct engine *e, uint16_t slot, size_t bytes);
void follower_acked(struct engine *e, uint16_t slot, size_t bytes);
void authority_replied(struct engine *e, uint16_t slot); /* inflight went down by one, and what follows of it is queued */

/* engine_glance.c */
bool glance(struct engine *e, struct dirty_key *k);

/* engine_fence.c */
void fence_turn(struct engine *e);
bool fence_is_proven(const struct engine *e);
bool fence_postpones(const struct engine *e, const struct dirty_key *k);
void fence_owes(struct engine *e, struct dirty_key *k, bool hint);
void fence_settled(struct engine *e, struct dirty_key *k);

#endif
