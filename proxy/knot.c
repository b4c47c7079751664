#include "proxy/knot.h"

#include <assert.h>

#include "proxy/txn.h"
#include "resp/slot.h"

bool knot_holds(struct worker *w, const struct client *c, const struct command *cmd, uint32_t argc)
{
	int slot;

	if (cmd->shape == SHAPE_EXEC) {
		const struct txn *t = c->session ? c->session->txn : NULL;
		slot = t && t->spans ? -1 : t && t->slot >= 0 ? t->slot : SLOTS;
	} else if (cmd->policy == POLICY_FORWARD || cmd->policy == POLICY_SPLIT || cmd->policy == POLICY_BLOCK) {
		slot = dispatch_slot(w, cmd, argc);
	} else {
		return false;
	}
	if (slot < 0)
		return slot == -1; /* several slots; wrong arguments touch none */
	for (unsigned i = 0; i < c->knots; i++)
		if (c->knot_slot[i] == slot)
			return true;
	return slot < SLOTS && c->knots == KNOTS_MAX;
}

static bool is_restless(const struct worker *w, uint16_t slot)
{
	enum side side = fleet_authority(w->fleet, slot);
	const struct topology *t = w->topology[side];

	return t && t->cluster && (t->migrating || fleet_restless(w->fleet, side, ev_now(w->loop)));
}

void knot_whole(struct worker *w, const struct req *whole, uint16_t slot)
{
	if (whole->client && is_restless(w, slot))
		whole->client->hold = true;
}

void knot_tie(struct worker *w, struct client *c, struct req *r)
{
	if (!is_restless(w, r->slot))
		return;
	assert(c->knots < KNOTS_MAX);
	c->knot_slot[c->knots++] = r->slot;
	r->knot = true;
}

bool knot_untie(struct client *c, const struct req *r)
{
	unsigned i = 0;

	while (i < c->knots && c->knot_slot[i] != r->slot)
		i++;
	assert(i < c->knots);
	c->knot_slot[i] = c->knot_slot[--c->knots];
	return c->held;
}
