/* When workers watch every node of a side for what others write, and not only those where slots of theirs are (lookout.h): while slots are on the move, and a while behind it, since moves come in rows; and for a
 * flip, from its order on. */
#include "proxy/control_handover.h"
#include "proxy/control_internal.h"

#define REST_MS 10000

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
	return *at && now - *at < REST_MS;
}

/* Told each time, and not only when it is otherwise than before: so what could not be watched then is tried again. */
void control_lookout(struct control *c, enum side side)
{
	enum phase phase;

	if (c->run != CONTROL_SERVING || !c->discovery[side] || successor_stops_clients(c))
		return;
	phase = phases_record(c->phases)->phase;
	bool everywhere = is_on_the_move(c, side) || phases_flipping(c->phases);
	if (phase != PHASE_PROXY && phase != PHASE_FINISHED)
		fleet_lookout(c->fleet, side, everywhere);
}
