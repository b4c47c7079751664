/* When workers watch every node of a side for what others write, and not only those where slots of theirs are (lookout.h): while slots are on the move, and a while behind it, since moves come in rows; and for a
 * flip, from its order on. */
#include "proxy/control_handover.h"
#include "proxy/control_internal.h"

static bool is_on_the_move(struct control *c, enum side side)
{
	const struct topology *t = discovery_topology(c->discovery[side]);
	int64_t now = control_now(c), *at = &c->lookout[side].moved_at;
	uint64_t before = c->lookout[side].layout;

	if (!t)
		return false;
	c->lookout[side].layout = t->layout;
	if (t->migrating || (before && before != t->layout))
		*at = now;
	return *at && now - *at < RESTLESS_S * 1000;
}

/* Told each time, and not only when it is otherwise than before: so what could not be watched then is tried again. */
void control_lookout(struct control *c, enum side side)
{
	if (c->run != CONTROL_SERVING || !c->discovery[side] || successor_stops_clients(c))
		return;
	bool everywhere = is_on_the_move(c, side) || phases_flipping(c->phases);
	if (phase_mirrors(phases_record(c->phases)->phase))
		fleet_lookout(c->fleet, side, everywhere);
}
