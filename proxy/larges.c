#include "proxy/larges.h"

#include <string.h>

void larges_add(struct larges *l, uint16_t slot, uint64_t key, ev_tstamp now)
{
	if (now >= l->until)
		memset(l->slots, 0, sizeof l->slots);
	l->slots[slot / 64] |= UINT64_C(1) << (slot % 64);
	l->until = now + LARGE_KNOWN_S;
	l->at[key % LARGES] = (struct known_large){ key, l->until };
}

bool larges_has(const struct larges *l, uint64_t key, ev_tstamp now)
{
	const struct known_large *k = &l->at[key % LARGES];

	return k->key == key && now < k->until;
}
