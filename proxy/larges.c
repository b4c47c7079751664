#include "proxy/larges.h"

#include <string.h>

void larges_add(struct larges *l, uint16_t slot, uint64_t what, ev_tstamp now)
{
	if (now >= l->until)
		memset(l->slots, 0, sizeof l->slots);
	l->slots[slot / 64] |= UINT64_C(1) << (slot % 64);
	l->until = now + LARGE_KNOWN_S;
	l->at[what % LARGES] = (struct known_large){ what, l->until };
}

bool larges_has(const struct larges *l, uint64_t what, ev_tstamp now)
{
	const struct known_large *k = &l->at[what % LARGES];

	return k->what == what && now < k->until;
}
