/* slot_set.h - a set of hash slots. Plain data. */
#ifndef CROSSFADE_SLOT_SET_H
#define CROSSFADE_SLOT_SET_H

#include <stdbool.h>
#include <stdint.h>

#include "resp/slot.h"

struct slot_set {
	uint64_t bits[SLOTS / 64];
};
static inline bool slot_set_has(const struct slot_set *s, unsigned slot) { return s->bits[slot / 64] >> (slot % 64) & 1; }
static inline void slot_set_add(struct slot_set *s, unsigned slot) { s->bits[slot / 64] |= UINT64_C(1) << (slot % 64); }
/* The first of its slots from `from` on; SLOTS: none. */
static inline unsigned slot_set_next(const struct slot_set *s, unsigned from)
{
	for (unsigned i = from / 64; i < SLOTS / 64; i++) {
		uint64_t bits = i == from / 64 ? s->bits[i] & UINT64_MAX << (from % 64) : s->bits[i];
		if (bits)
			return i * 64 + (unsigned)__builtin_ctzll(bits);
	}
	return SLOTS;
}
#define FOR_SLOTS(i, set) for (unsigned i = slot_set_next(set, 0); i < SLOTS; i = slot_set_next(set, i + 1))

#endif
