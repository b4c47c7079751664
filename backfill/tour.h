/* tour.h - walking both sides (verify, dirty slots): what tour.c, check.c and checkbig.c share. Internal to backfill/.
 *
 *   tour.c      legs: a slot listed on both sides; passes: SCAN of every node where a side is standalone or a slot is too big to be listed
 *   check.c     one key: read on both sides under a quiet token, compared, checked again if it differs, counted or marked
 *   checkbig.c  one large key: compared chunk by chunk
 *
 * Memory is bounded: at most CHECKS_MAX checks are alive, lists are those of TOUR_LEGS slots. */
#ifndef CROSSFADE_TOUR_H
#define CROSSFADE_TOUR_H

#include "backfill/compare.h"
#include "backfill/internal.h"

#define CHECKS_MAX 12000
#define CHECK_WINDOW 1024   /* checks whose replies are awaited */
#define TOUR_LEGS 128
#define EXPIRY_TOLERANCE_MS 1
#define EXPIRES_SOON_MS 2000 /* a missing key that ends within this is looked at again, not counted */

enum difference { DIFF_NONE, DIFF_MISSING, DIFF_TYPE, DIFF_VALUE, DIFF_EXPIRY, DIFF_EXTRA, DIFFS };

/* What was counted for a leg or a pass: taken back if it must be walked again. */
struct tally {
	uint64_t checked, repaired, diffs[DIFFS];
};

/* One slot listed on both sides, one database after another, or (slot == SLOTS) a pass. */
struct leg {
	struct leg *next, *prev;
	struct tour *t;
	uint16_t slot;
	unsigned db;           /* being listed */
	struct conn *conn[2];  /* of the authority, of the follower: awaited, or the owners when it was listed */
	unsigned awaited;
	uint32_t asked;
	sds list[2];           /* keys: the reply, then the slices point into it */
	bool broken, big, dead;
	uint32_t left;         /* checks alive */
	struct tally tally;
};

enum check_stage { CHECK_EXISTS, CHECK_SIZE, CHECK_SHORT, CHECK_DUMP, CHECK_TYPED, CHECK_BIG };

/* One side of a key. */
struct view {
	struct check *c;
	struct conn *conn;     /* a reply is awaited from it */
	enum recipe_result result;
	bool lost, elsewhere;
	uint8_t recipe;        /* by the payload's type */
	struct digest digest;
	int64_t expires_at_ms;
	int64_t number;        /* reply of EXISTS or MEMORY USAGE */
};

struct check {
	struct check *next;
	struct tour *t;
	struct leg *leg;
	uint16_t slot, db;
	uint8_t from;          /* enum side of the authority */
	uint8_t stage;
	uint8_t tries;         /* looks that were not conclusive or differed */
	uint8_t fails;         /* looks that could not be made */
	uint8_t recipe;
	bool only_extra;       /* found on the follower: is it on the authority at all? */
	bool held, running;
	uint8_t awaited;
	keyhash hash;
	uint64_t token;
	double due;
	struct view view[2];   /* authority, follower */
	size_t key_len;
	char key[];
};

struct checks {
	struct check *head, **tail;
	size_t n;
};

enum tour_stage { TOUR_OFF, TOUR_WAIT, TOUR_SIZE, TOUR_SLOTS, TOUR_PASS, TOUR_FUNCTIONS };
enum { TSLOT_NO, TSLOT_TODO, TSLOT_OPEN, TSLOT_DONE };

struct bigcheck;

struct tour {
	struct backfill *b;
	bool verify;          /* counts; else a rescan, which marks at once */
	bool repair;
	enum tour_stage stage;
	struct keyspace_ask *asking;
	struct db_set dbs;    /* those to walk */
	uint8_t want[SLOTS];  /* rescan: asked for, not begun */
	unsigned wanted;
	uint8_t state[SLOTS], big[SLOTS];
	unsigned todo, nbig;
	unsigned next;        /* place in the permuted order of slots */
	uint32_t guess;       /* keys of a slot */
	uint16_t ask[SLOTS];  /* 0: the guess; more where it was not enough */
	struct leg *legs;
	unsigned nlegs;
	uint64_t expected;    /* keys of lists that are awaited */
	unsigned alive, inflight;
	struct checks ready, delayed, heldup, unmarked;
	struct hold hold;
	unsigned held_left;   /* checks running under the hold */
	struct bigcheck *bigcheck;
	/* a pass */
	struct leg *pass;
	unsigned pass_side;   /* 0: nodes of the authority; 1: of the follower */
	unsigned pass_node;
	unsigned pass_db;
	uint64_t cursor;
	bool scanning, pass_all;
	double retry_at, retry_hold_at;
	bool comparing;       /* functions: an answer is awaited */
	unsigned functions_tried;
};

void checks_init(struct checks *q);
void checks_push(struct checks *q, struct check *c);
struct check *checks_pop(struct checks *q);

/* check.c */
void check_new(struct leg *l, uint16_t db, uint16_t slot, struct slice key, bool only_extra);
void check_start(struct check *c);
void check_stand(struct check *c); /* it takes no place among those under way, whether it did or not */
void check_feed_marks(struct tour *t);
void check_decide(struct check *c, enum difference d);  /* of a finished comparison */
void check_again(struct check *c, bool failed);          /* not conclusive; failed: could not be read */
void check_elsewhere(struct check *c);
bool check_dropped(const struct check *c);
int64_t later_clock_ms(struct backfill *b); /* of the two sides' clocks */
void check_drop(struct check *c);
static inline struct slice check_key(const struct check *c)
{
	return slice(c->key, c->key_len);
}
/* tour.c */
void leg_settle(struct leg *l);
void tour_hold_done(struct tour *t); /* a check that ran under the hold ended or left it */

/* checkbig.c: one at a time; waits in line by itself. */
struct bigcheck *bigcheck_new(struct tour *t);
void bigcheck_free(struct bigcheck *g);
void bigcheck_push(struct bigcheck *g, struct check *c);
void bigcheck_cancel(struct bigcheck *g);

#endif
