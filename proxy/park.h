/* park.h - the clients that wait for keys, as one engine holds them: who waits for what, in which order, until when. No decisions (engine_park.c).
 *
 *   pkey "a", list ──► place ──► place ──► place      in the order in which the clients came
 *                        │         │         │
 *                     waiter    waiter    waiter      a waiter has a place at each of its keys
 *
 * A pkey lives as long as somebody waits for it. It is in the list `ready` when a try is due, never twice. Waiters are found by the ticket of their request:
 * the client's worker knows no more, since an answer may be on its way already. Thread: the owner's. */
#ifndef CROSSFADE_PARK_H
#define CROSSFADE_PARK_H

#include <uthash.h>

#include "proxy/blocking.h"
#include "proxy/engine.h"
#include "resp/keyhash.h"
#include "proxy/req.h"

struct waiter;
struct pkey;

struct place {
	struct place *prev, *next; /* at the key */
	struct waiter *waiter;
	struct pkey *key;
	uint32_t index;            /* of the key among those of the call */
	bool again;                /* woken while a try was under way: streams */
};

enum key_watch { WATCH_NONE, WATCH_ASKED, WATCH_ON };

struct pkey {
	UT_hash_handle hh;
	keyhash hash;
	enum park_kind kind;
	uint16_t slot, db;
	struct place *head, *tail;
	struct pkey *ready_prev, *ready_next;
	bool ready;                /* in the list */
	bool wanted;               /* woken while it could not be tried */
	struct waiter *trying;     /* lists, sorted sets: whose try is under way; one at a time, so that the order holds */
	enum key_watch watch;      /* by the side connection (keywatch.c) */
	uint64_t asked;            /* number of the asking */
	uint32_t len;
	char name[];
};

struct waiter {
	UT_hash_handle hh;
	struct req *req;           /* the client's */
	struct engine *engine;
	struct blocking call;
	struct req try;            /* the command that does not wait, while `trying` */
	struct req *looks;         /* before the first try: one for each key, `left` of them under way */
	uint32_t left;
	sds *ids;                  /* streams: what $ stood for, NULL where it does not stand */
	bool trying;               /* a try or looks are under way, or due: nothing else may be sent for it */
	bool parked;               /* a try has found nothing: from now on a wrong type does not end it */
	bool doubt;                /* which of a move's two keys has the wrong type? a look at the first tells */
	struct waiter *due_next;
	struct pkey *on;           /* the key that is tried; NULL: all at once */
	enum unpark unpark;        /* wanted while a try is under way */
	int64_t deadline_us;       /* 0: none */
	uint32_t heap_at;
	uint32_t nplaces;
	struct place places[];
};

struct park {
	struct pkey *keys[PARK_KINDS];
	struct waiter *waiters;
	struct waiter **heap;      /* by deadline, the earliest first */
	uint32_t heap_n, heap_cap;
	struct pkey *ready_head, *ready_tail;
	struct waiter *due;        /* their looks have been answered: the try may be sent when the caller is done */
	uint16_t *in_slot;         /* how many pkeys; NULL: never was one */
	unsigned dbs;              /* the highest database that anybody ever waited in, and one */
	bool running;
	uint64_t asks;
	int64_t retry_us;          /* what failed for want of a node is tried again then; 0: nothing */
};

void park_release(struct park *p);

/* At the end of its keys' queues. `keys` are those of the call, the same one twice counts once. The deadline's 0 is none. */
struct waiter *park_add(struct park *p, struct req *r, const struct blocking *b, const struct slice *keys, const uint16_t *slots, int64_t deadline_us);
void park_remove(struct park *p, struct waiter *w); /* from everywhere; frees it */
void park_forget_looks(struct waiter *w);
struct waiter *park_find(const struct park *p, uint64_t ticket);
struct pkey *park_key(const struct park *p, enum park_kind kind, keyhash h);
struct place *park_place(struct waiter *w, const struct pkey *k);

void park_ready(struct park *p, struct pkey *k);
struct pkey *park_next_ready(struct park *p); /* takes it off the list; NULL: none */

/* The waiter whose time is over; NULL: none. */
struct waiter *park_expired(const struct park *p, int64_t now_us);
static inline int64_t park_due_us(const struct park *p)
{
	return p->heap_n ? p->heap[0]->deadline_us : 0;
}
void park_no_deadline(struct park *p, struct waiter *w);

static inline bool park_is_empty(const struct park *p)
{
	return !p->waiters;
}

#endif
