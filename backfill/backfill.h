/* backfill.h - the backfill worker: scans, copies, repairs and verifies on a thread and connections of its own.
 *
 * It never writes a key of the application itself: what it read it offers to the slot's owner as a `copy` (key, token, block of commands), and the
 * owner queues it to the follower in order, if the token still holds (invariant 3). Only temporary keys of large values and function libraries go
 * over its own connections to the follower.
 *
 * Thread: every function below is called on the backfill thread (proxy/backfill_thread.c drains its mailbox and calls them); the host's
 * functions are called on it, too. bf_stats may be read by any thread. "Authority" and "follower" are asked per slot: after cutover the
 * same code copies the other way.
 *
 * Tokens (invariant 3): host->token() is read before the read commands are sent, on the bulk connection to the node that holds the slot by the same
 * topology generation. */
#ifndef CROSSFADE_BACKFILL_H
#define CROSSFADE_BACKFILL_H

#include <ev.h>
#include <hiredis/sds.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "backfill/recipe.h"
#include "backfill/topology.h"
#include "resp/keyhash.h"
#include "resp/slice.h"

#define TOKEN_BUSY UINT64_MAX /* a write of the stripe is in flight: no token, a copy that carries it is refused */

/* A key whose value changed under several bulk copies is read in-band (small) or with its writes held (large). */
#define COPY_LOSSES_BEFORE_INBAND 3
/* …and from here on it is read with its slot's writes held whatever its size: ask for a repair with this after COPY_TOO_BIG. */
#define COPY_LOSSES_HELD (2 * COPY_LOSSES_BEFORE_INBAND)

enum copy_kind {
	COPY_APPLY,  /* block replaces the follower's value; a gone key is a block that deletes */
	COPY_INBAND, /* block holds read commands (recipe); the owner sends them on the data connection, composes and applies */
	COPY_EQUAL,  /* both sides were read and are equal under a quiet token: a mark older than the token may be cleared */
	COPY_FAILED, /* could not be read: error text in `why`; a repair is tried again later by the owner, with backoff */
};

enum copy_result {
	COPY_APPLIED, /* the follower acknowledged it */
	COPY_STALE,   /* token no longer valid: read again */
	COPY_REFUSED, /* follower gone, queue full, slot fenced or its authority changed: try again later */
	COPY_ERROR,   /* the follower answered an error: `why` */
	COPY_TOO_BIG, /* in-band: the reply was over the limit, the type changed, or it cannot be carried: use the bulk way */
};

/* One copy on its way. Made by the backfill worker, owned by whoever holds it, ends at the backfill worker (scan copies) or at the owner (repairs). */
struct copy {
	struct copy *next;      /* for whoever holds it */
	enum copy_kind kind;
	enum copy_result result;
	bool repair;            /* answers host's backfill_repair(): the owner keeps the accounts; else the scan does */
	bool uncarried;         /* the value cannot be carried: the block removes what the follower has of the key */
	bool brief;             /* its slot is done as a whole in a moment: that the key is whole need not be remembered until then */
	uint8_t losses;         /* how often it was stale so far */
	uint16_t slot, db;
	enum side from;         /* the authority it was read from */
	keyhash hash;           /* of the key */
	uint64_t token;
	uint64_t generation;    /* topology generation of the authority's side under which it was read */
	enum recipe recipe;     /* COPY_INBAND */
	unsigned ncommands;     /* replies that the block will get */
	sds block;
	char *why;              /* malloc'd, or NULL */
	sds undo;               /* repairs: a command that clears away what was prepared on the follower, if the copy is not applied; or NULL */
	uint64_t tmp;           /* serial of the temporary key that the block renames (large.h), 0: none. A repair's owner removes it if it is not applied */
	void *batch;            /* the backfill worker's own */
	void *owner;            /* the host's own */
	size_t key_len;
	char key[];
};

struct copy *copy_new(uint16_t db, struct slice key, uint16_t slot);
void copy_free(struct copy *c);

/* Keys whose values the follower cannot hold, the first of them by name. */
#define UNCARRIED_NAMED 100
struct uncarried_key {
	uint16_t db;
	enum side to;
	sds key, why; /* printable */
};
struct uncarried_report {
	bool complete; /* all of them are named */
	unsigned n;
	struct uncarried_key at[];
};
void uncarried_report_free(struct uncarried_report *r);

/* What the proxy gives. All are cheap and never block. */
struct backfill_host {
	void *ctx;
	/* The stripe's version, or TOKEN_BUSY while a write is in flight; quiet: also while an effect is not yet acknowledged. */
	uint64_t (*token)(void *ctx, keyhash key, uint16_t slot, bool quiet);
	void (*fetch)(void *ctx, keyhash key, uint16_t slot); /* NULL, or: its token will be asked for soon */
	enum side (*authority)(void *ctx, uint16_t slot);
	/* Hands the copy to the slot's owner. False: its ring is full, the copy stays with the caller; try again next turn. */
	bool (*offer)(void *ctx, struct copy *c);
	/* A key that differs (verify with repair, dirty-slot scan): becomes dirty at its owner. False: ring full. */
	bool (*mark)(void *ctx, uint16_t db, struct slice key, uint16_t slot);
	/* Holds back the writes of a slot, at most max_ms; answered by backfill_held() when nothing is in flight or queued. Always released by release(). */
	void (*hold)(void *ctx, uint16_t slot, unsigned max_ms);
	void (*release)(void *ctx, uint16_t slot);
	/* Every key of the slot was acknowledged by the follower (slot SLOTS: the whole keyspace). */
	void (*slot_done)(void *ctx, uint16_t slot);
	/* A dirty slot was walked on both sides and all that differed was marked: called for each slot, or once with SLOTS if a side is
	 * standalone and all slots were walked together. Not called for a slot that was asked for again meanwhile: its next walk does. */
	void (*slot_clean)(void *ctx, uint16_t slot);
	/* Of requests of clients at this side, so far: how many were looked at, how long they took together (adaptive pace). */
	void (*latency)(void *ctx, enum side side, uint64_t *requests, uint64_t *us);
	/* Something worth telling: backfill finished, verify finished, state changed, checkpoint written. */
	void (*event)(void *ctx, const char *what);
	void (*log)(void *ctx, int level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
	void (*failing)(void *ctx, const char *why); /* why what is tried again does not succeed; also in the log. NULL: nobody asks */
	int64_t (*now_ms)(void *ctx, enum side side); /* that side's clock */
	/* The owner notes which elements of this key writes touch from now on, until it is told so of an empty one. changes() asks for
	 * what was noted since; read_followed() sends reads of the key (taken) on its data connection, and tells what was noted of the writes that were
	 * executed before them. Both are answered by backfill_changed(). NULL: the host cannot. */
	void (*follow)(void *ctx, uint16_t db, struct slice key, uint16_t slot);
	void (*changes)(void *ctx, uint16_t slot);
	void (*read_followed)(void *ctx, uint16_t slot, sds request, unsigned replies);
	/* The list of keys that cannot be carried, as it is now; taken. NULL: nobody asks. */
	void (*uncarried)(void *ctx, struct uncarried_report *r);
};

enum bf_state { BF_IDLE, BF_RUNNING, BF_PAUSED, BF_DONE, BF_FAILED };

/* Written by the backfill thread, read by any (relaxed atomics). */
struct bf_stats {
	_Atomic int state;
	_Atomic uint64_t keys_total, keys_copied, keys_retried, bytes, slots_done;
	_Atomic uint64_t keys_per_s;     /* over the last seconds */
	_Atomic int64_t eta_s;           /* -1 unknown */
	_Atomic int held_by;             /* enum bf_held: what holds it back */
	_Atomic bool verifying;
	_Atomic uint64_t verify_runs;    /* completed */
	_Atomic uint64_t checked, missing, type, value, expiry, extra, repaired; /* of the last or running verify */
	_Atomic int64_t verified_at_ms;  /* CLOCK_REALTIME of the end of the last complete verify, 0 = none */
	_Atomic uint64_t verify_total;
	_Atomic uint64_t uncarried;      /* keys that the receiver cannot hold: each once, 1 for all that are beyond the list */
};
enum bf_held { HELD_NOTHING, HELD_KEYS_LIMIT, HELD_BYTES_LIMIT, HELD_ADAPTIVE, HELD_PAUSED, HELD_SOURCE_DOWN, HELD_TARGET_DOWN, HELD_OWNERS };
extern const char *const bf_held_names[];
extern const char *const bf_state_names[];

struct backfill_config {
	struct side_access access[SIDES];
	const char *state_dir;      /* checkpoint file: state_dir/backfill */
	const char *migration_id;   /* a checkpoint of another migration is ignored */
	uint64_t large_bytes;       /* values over it are copied by type in chunks (default 1 MiB by MEMORY USAGE) */
	uint64_t keys_per_s, bytes_per_s; /* 0: no limit */
	bool adaptive;
};

struct backfill;
struct backfill *backfill_new(struct ev_loop *loop, const struct backfill_config *c, const struct backfill_host *host, struct bf_stats *stats);
void backfill_free(struct backfill *b);

void backfill_topology(struct backfill *b, struct topology *t);  /* takes the reference; either side, again at every change */
void backfill_password(struct backfill *b, enum side side, const char *password); /* borrowed; of connections made from now on */
/* Begins the copy of the whole keyspace, or continues from its checkpoint. Functions first. host->slot_done is called again for checkpointed slots. */
void backfill_start(struct backfill *b);
/* After a restart behind the copy: what else is known of the migration is loaded. */
void backfill_adopt(struct backfill *b);
void backfill_pause(struct backfill *b);
void backfill_resume(struct backfill *b);
void backfill_stop(struct backfill *b);      /* abort, finish: forget all, remove the checkpoint */
void backfill_throttle(struct backfill *b, uint64_t keys_per_s, uint64_t bytes_per_s, bool adaptive);
/* A dirty key: read it and answer with an offered copy (repair = true) of any kind. Goes before scanning. losses >= COPY_LOSSES_BEFORE_INBAND: in-band, or held if large. */
void backfill_repair(struct backfill *b, uint16_t db, struct slice key, uint16_t slot, uint8_t losses);
/* A scan copy came back with its result. */
void backfill_copied(struct backfill *b, struct copy *c);
void backfill_held(struct backfill *b, uint16_t slot, bool ok);
/* Names of elements or commands (proxy/changes.h), how many writes touched the key; not known: any element may have changed. replies: of
 * read_followed, in one piece; NULL if it was not asked, or failed. Both taken. */
void backfill_changed(struct backfill *b, uint16_t slot, sds elements, unsigned writes, bool known, sds replies);
/* Walk this slot on both sides, mark what differs; then host->slot_clean (slot SLOTS: all slots). */
void backfill_rescan(struct backfill *b, uint16_t slot);
void backfill_verify(struct backfill *b, bool repair);
void backfill_verify_cancel(struct backfill *b);

#endif
