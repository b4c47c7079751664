#include "proxy/larges.h"

void larges_add(struct larges *l, uint16_t slot, uint64_t what, ev_tstamp now)
{
	if (now >= l->until)
		l->slots = (struct slot_set){ { 0 } };
	slot_set_add(&l->slots, slot);
	l->until = now + LARGE_KNOWN_S;
	l->at[what % LARGES] = (struct known_large){ what, l->until };
}

bool larges_has(const struct larges *l, uint64_t what, ev_tstamp now)
{
	const struct known_large *k = &l->at[what % LARGES];

	return k->what == what && now < k->until;
}
