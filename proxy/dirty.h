/* dirty.h - the keys whose follower copy may differ: a bounded table, and the state of each key's repair.
 *
 *   IDLE ──asked──► COPYING ──commit──► APPLYING ──follower's ack, no newer mark──► gone
 *    ▲                │  ▲                  │
 *    └── stale, error ┘  └ in-band: READING ┘ (its commands sit in order on the data connection)
 *
 * While a key is IDLE, COPYING or READING its effects are dropped: the copy to come holds them. From APPLYING on they are sent behind the copy. A mark (foreign write, failed
 * effect) during any state makes the key stay when the ack comes (race 4). Thread: the owner. */
#ifndef CROSSFADE_DIRTY_H
#define CROSSFADE_DIRTY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uthash.h>

#include "resp/keyhash.h"
#include "resp/slice.h"

enum dirty_state { DIRTY_IDLE, DIRTY_COPYING, DIRTY_READING, DIRTY_APPLYING };

struct dirty_key {
	UT_hash_handle hh;
	struct dirty_key *prev, *next; /* IDLE: in the list `ready` or `delayed` */
	enum dirty_state state;
	uint8_t losses;
	uint16_t slot, db;
	bool hint;          /* all that is known is that some server told of it: most of these have expired, on both sides */
	keyhash hash;       /* what it is found by: of the database and the key */
	uint32_t applying;  /* copies or whole effects on their way to the follower */
	uint32_t failures;  /* in a row: backoff */
	uint64_t marks;     /* counts marks */
	uint64_t applied;   /* marks at the time the copy on its way was committed */
	uint64_t owed;      /* marks that a flip waits for (race 9); 0: none */
	int64_t since_us;   /* when it became dirty */
	uint32_t entry;      /* journal_ref of the mark; the table's owner's */
	int64_t due_us;     /* IDLE: not asked for before; 0 is at once */
	size_t len;
	char key[];
};

struct dirty_list {
	struct dirty_key *head, *tail;
};

struct dirty {
	struct dirty_key *table;
	struct dirty_list ready;   /* IDLE keys due at once, in order of arrival */
	struct dirty_list delayed; /* IDLE keys in backoff, in order of their time */
	size_t max;
};

void dirty_init(struct dirty *d, size_t max);
void dirty_release(struct dirty *d);
static inline size_t dirty_count(const struct dirty *d)
{
	return HASH_CNT(hh, d->table);
}
struct dirty_key *dirty_find(const struct dirty *d, keyhash h);
struct dirty_key *dirty_add(struct dirty *d, uint16_t db, struct slice key, keyhash h, uint16_t slot); /* IDLE, due at once; NULL: full */
void dirty_remove(struct dirty *d, struct dirty_key *k);
/* The one place that moves a key between states: leaves the waiting list, enters it when IDLE with the given time. */
void dirty_set_state(struct dirty *d, struct dirty_key *k, enum dirty_state state, int64_t due_us);
/* How long the key that came first is dirty already; 0: none is. */
int64_t dirty_age_us(const struct dirty *d, int64_t now_us);
/* The first waiting key that is due, or NULL. */
struct dirty_key *dirty_due(const struct dirty *d, int64_t now_us);

#endif
