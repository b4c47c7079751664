/* usage.h - which commands the clients have sent since the start, for `proxyctl check`: counters by the id of the command table, one set per worker.
 *
 * A worker writes its own set, any thread reads: relaxed atomics, one store per command and no branch. Of words that are no command of the table the first
 * few names are kept, if they look like names; a name is written once, before its counter leaves zero. */
#ifndef CROSSFADE_USAGE_H
#define CROSSFADE_USAGE_H

#include <stdatomic.h>
#include <stdint.h>

#include "resp/table.h"

#define USAGE_NAMES 32
#define USAGE_NAME_MAX 32

struct usage_row {
	_Atomic uint64_t calls;
	_Atomic uint64_t cross_slot; /* of these: with keys of more than one slot */
	_Atomic uint64_t in_multi;   /* …and: refused, though it is served outside a transaction */
};

struct usage_name {
	char name[USAGE_NAME_MAX];
	_Atomic uint64_t calls; /* released after the name */
};

struct usage {
	struct usage_name unknown[USAGE_NAMES];
	_Atomic uint64_t unknown_others; /* had no room, or looked like no name */
	struct usage_row rows[];         /* command_count */
};

struct usage *usage_new(void);
void usage_free(struct usage *u);

static inline void usage_add(_Atomic uint64_t *n) /* one writer: no locked instruction */
{
	atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed) + 1, memory_order_relaxed);
}

static inline void usage_seen(struct usage *u, const struct command *cmd)
{
	usage_add(&u->rows[cmd->id].calls);
}

static inline void usage_cross_slot(struct usage *u, const struct command *cmd)
{
	usage_add(&u->rows[cmd->id].cross_slot);
}

static inline void usage_in_multi(struct usage *u, const struct command *cmd)
{
	usage_add(&u->rows[cmd->id].in_multi);
}

void usage_unknown(struct usage *u, struct slice name);

#endif
