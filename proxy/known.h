/* known.h - the exact table of keys that were mirrored whole since mirroring began: a bounded open-addressing set of 128-bit hashes.
 *
 * A key in it is synced although its slot has not been copied yet. When it is full nothing more is added: such keys are then snapshots, never
 * wrong. Thread: the owner. */
#ifndef CROSSFADE_KNOWN_H
#define CROSSFADE_KNOWN_H

#include <stdbool.h>
#include <stddef.h>

#include "resp/keyhash.h"

struct known {
	keyhash *at;  /* {0,0} is empty, {0,1} a grave */
	size_t cap, used, live, max;
};

void known_init(struct known *k, size_t max);
void known_release(struct known *k);
bool known_has(const struct known *k, keyhash h);
bool known_add(struct known *k, keyhash h); /* false: full */
void known_remove(struct known *k, keyhash h);
void known_clear(struct known *k);

#endif
