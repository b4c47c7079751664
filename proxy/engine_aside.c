/* Large replies: which of them the engine can do without, and what order asks for when a connection is left because of one.
 *
 * From the head of such a reply on its request is answered, for the engine: the server has executed it. What is in flight behind it has to wait for its client; what
 * comes from now on takes another connection. So that it does not overtake what was left behind, slots that have something there wait until nothing
 * of them is in flight, as they do when a slot moves to another node (engine_route_changed). */
#include "proxy/engine_internal.h"

/* Who looks into the reply, or answers the client with something else, needs all of it: mirroring, transactions, parts of a split command, parked clients. */
struct req *engine_streams(const struct engine *e, reply_fn *fn, void *arg)
{
	struct req *r = engine_req_of(fn, arg);

	if (!r || e->mirroring || r->mw || r->txn || r->watch || r->split || r->exec || r->waiter || r->waits)
		return NULL;
	return r;
}

bool engine_asks_of(struct engine *e, const struct req *r, uint64_t *what)
{
	uint32_t at = command_first_key(r->cmd);

	if (!at || engine_words(e, r->bytes, r->len) <= at)
		return false;
	*what = keyhash_of(r->db, e->argv[at]).low64 + r->cmd->id;
	return true;
}

/* What has several slots, or none, is counted in one only: the others would not wait for it. */
bool engine_may_leave(reply_fn *fn, void *arg)
{
	const struct req *r = engine_req_of(fn, arg);

	return !r || (!r->wide && !r->spans && (r->txn || r->cmd->nspecs || r->cmd->policy == POLICY_PUBLISH));
}

void engine_leave(struct engine *e, reply_fn *fn, void *arg)
{
	const struct req *r = engine_req_of(fn, arg);

	if (r)
		engine_wait(e, r->slot, WAIT_RESEND);
}

bool engine_is_others(reply_fn *fn, void *arg, uint32_t from)
{
	const struct req *r = engine_req_of(fn, arg);

	return r && r->from != from;
}

bool engine_holds_back(const struct engine *e)
{
	if (e->line.head)
		return true;
	for (const struct slot_wait *w = e->waits; w; w = w->next)
		if (w->queue.head)
			return true;
	return false;
}

bool engine_comes_to_rest(const struct engine *e)
{
	return gate_is_shut(e) || e->alone.stage != ALONE_NONE || e->fence.stage != FENCE_NONE;
}

bool engine_awaits_follower(const struct engine *e)
{
	return e->waits || engine_comes_to_rest(e);
}
