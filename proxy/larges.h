/* larges.h - commands and their keys whose reply was so large of late that to wait for it is felt: the next one is likely to be, so that nothing is sent behind its request (aside.h).
 *
 * A table of fixed size that forgets: the newer of two at one place stays, each for LARGE_KNOWN_S. To be wrong costs a change of connections, or a wait, and no order.
 * What is asked about every request is one bit of its slot. Thread: the owner's. */
#ifndef CROSSFADE_LARGES_H
#define CROSSFADE_LARGES_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

#include "proxy/fleet.h"

#define LARGES_LEAST (8 * 1024 * 1024) /* bytes of a reply; with 1 MiB clients of nothing else had a tenth less, for a wait of a millisecond */
#define LARGES 256 /* a power of two */
#define LARGE_KNOWN_S 60.0

struct larges {
	struct slot_set slots; /* where there may be one */
	ev_tstamp until;       /* of the newest */
	struct known_large {
		uint64_t what; /* a hash of command and key */
		ev_tstamp until;
	} at[LARGES];
};

void larges_add(struct larges *l, uint16_t slot, uint64_t what, ev_tstamp now);
bool larges_has(const struct larges *l, uint64_t what, ev_tstamp now);

static inline bool larges_may_be_in(const struct larges *l, uint16_t slot)
{
	return slot_set_has(&l->slots, slot);
}

#endif
