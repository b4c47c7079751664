/* Scripts that write keys of other slots without declaring them, where the slots have the same node (race 13): while all slots are one side's the mirror finds such
 * keys by the watch. If a part of the slots is the other side's, the script would write them where nobody answers from them; so such scripts bar partial flips.
 *
 * A change that is told within a moment of a script, of a key at rest in a slot of which no script was sent, counts as one, if the key is
 * still there (it did not expire). Somebody who writes past the proxy at that moment counts, too: it bars no more than partial flips. */
#include "proxy/engine_internal.h"

#define BEHIND_A_SCRIPT_US 1000000

void strays_script(struct engine *e, uint16_t slot)
{
	int64_t now = e->io.now_us(e->io.ctx);

	e->slots[slot].script_ms = (uint32_t)(now / 1000) | 1;
	if (e->opt.script_us)
		atomic_store_explicit(e->opt.script_us, now, memory_order_relaxed);
}

void strays_seen(struct engine *e, uint16_t slot, int64_t when_us)
{
	int64_t last = e->opt.script_us ? atomic_load_explicit(e->opt.script_us, memory_order_relaxed) : 0;
	uint32_t own = e->slots[slot].script_ms;

	if (!last || when_us - last > BEHIND_A_SCRIPT_US || (own && (int32_t)((uint32_t)(when_us / 1000) - own) <= BEHIND_A_SCRIPT_US / 1000))
		return;
	stat_add(&e->stats->strays, 1);
}
