/* keyspace.h - which databases of the two sides hold keys, and how many: INFO keyspace of every node. Internal to backfill/, but for keyspace_each.
 *
 * A database that one side does not have is left out of `dbs`, since it cannot be selected there; its keys are counted as `beyond`. Thread: backfill's. */
#ifndef CROSSFADE_KEYSPACE_H
#define CROSSFADE_KEYSPACE_H

#include "backfill/db_set.h"
#include "backfill/topology.h"
#include "resp/slice.h"

struct backfill;

struct keyspace {
	struct db_set dbs;     /* of all sides asked; database 0 always */
	uint64_t keys[SIDES];  /* in those */
	uint64_t beyond[SIDES];
};

/* Valid during the call. NULL: not every node could be asked. */
typedef void keyspace_fn(void *arg, const struct keyspace *k);
struct keyspace_ask;

/* Asks all nodes of the authority of slot 0; both: of its follower, too. fn is called once, from the loop. */
struct keyspace_ask *keyspace_ask(struct backfill *b, bool both, keyspace_fn *fn, void *arg);
void keyspace_forget(struct keyspace_ask *a); /* fn is not called any more; NULL is allowed */

/* Lines "db3:keys=10,…" of INFO's text. */
void keyspace_each(struct slice info, void (*fn)(void *arg, unsigned db, uint64_t keys), void *arg);

#endif
