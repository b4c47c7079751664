/* derived.h - which keys were lately computed from which (RENAME, COPY, the store commands): the second half of race 12.
 *
 * That an input differs may become known only when the command was mirrored already: pushes come behind the replies of their cycle, those about the keys
 * that a script did not declare, too. So such a command is remembered for a while, and a mark on one of its keys marks what it wrote. A ring; who would
 * push out an entry that is still young gets a copy instead of the command. Thread: the owner. */
#ifndef CROSSFADE_DERIVED_H
#define CROSSFADE_DERIVED_H

#include <hiredis/sds.h>
#include <stdbool.h>
#include <stdint.h>

#include "resp/keyhash.h"

#define DERIVED_MAX 256
#define DERIVED_KEYS 6           /* of one command; more are copied */
#define DERIVED_YOUNG_US 1000000 /* no push takes longer on a connection that lives */

struct derived_key {
	keyhash hash;
	sds key; /* written ones only */
	uint16_t slot, db;
};

struct derived_command {
	struct derived_key keys[DERIVED_KEYS];
	unsigned n;
	int64_t at_us;
};

struct derived {
	struct derived_command ring[DERIVED_MAX];
	unsigned next, used;
};

/* The entry to be filled: NULL if the oldest is too young to go. */
struct derived_command *derived_add(struct derived *d, int64_t now_us);
/* Takes an entry that has this key out of the ring into *out: true; its keys are the caller's then. */
bool derived_take(struct derived *d, keyhash h, struct derived_command *out);
void derived_command_release(struct derived_command *c);
void derived_release(struct derived *d);

#endif
