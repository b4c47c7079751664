/* split.h - a command served in parts: what split.c (by slot, by node) and keyspace.c (scans, what is asked of all nodes) share.
 *
 * The whole stands in its client's order; each part goes to the owner of its slot like any request; when the last was answered the merge makes the
 * reply of the whole. Thread: the client's worker (home); the parts are lent to owners meanwhile. */
#ifndef CROSSFADE_SPLIT_H
#define CROSSFADE_SPLIT_H

#include <hiredis/sds.h>

#include "proxy/worker.h"

struct split {
	struct req *whole;        /* in the client's order */
	const struct command *cmd;
	uint32_t parts, left;
	struct req **part;
	uint32_t *order;          /* of one that is cut (cut.h): for each key its part, in the order of the request */
	uint32_t nkeys;
	bool own;                 /* MERGE_COUNT: the last part tells how many of the keys are our own */
	bool broadcast;           /* the follower's nodes get it, too, if the authority's did it */
	uint32_t epoch;           /* MERGE_SCAN: fleet->epoch when it was sent, and which of the nodes was asked */
	uint16_t at;
};

struct split *split_new(const struct command *cmd, struct req *whole, uint32_t parts_max);
/* block NULL: the caller gives it its bytes before it is submitted. */
void split_add(struct worker *w, struct split *s, uint16_t slot, struct block *block, const char *bytes, size_t len);
void split_submit(struct worker *w, struct split *s);

/* keyspace.c: a slot that stands for each node that is the authority of some, source first; valid until the loop goes on. */
const uint16_t *keyspace_slots(struct worker *w, unsigned *n);
bool keyspace_is_divided(struct worker *w);  /* both sides are the authority of some slots */
void keyspace_count(struct worker *w, struct split *s); /* DBSIZE while it is divided: each slot is asked of its side */
void keyspace_count_own(struct worker *w, struct split *s); /* …and is our marker among them? */
sds keyspace_merge_keys(struct worker *w, const struct split *s);
sds keyspace_merge_random(struct worker *w, const struct split *s);
/* Inside a transaction, of one server: may the answer be about our own keys, too? Then this appends it without them; own: DBSIZE's, what EXISTS of the marker says behind it. */
bool keyspace_hides(const struct command *cmd);
sds keyspace_cat_element(sds out, const struct command *cmd, uint8_t proto, struct slice reply, struct slice own);
sds keyspace_merge_scan(struct worker *w, const struct split *s);

#endif
