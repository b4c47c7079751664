/* FLUSHALL of a client: what proxy/alone.c does with one owner, over the model's nodes. Mail takes a step of its own. */
#include "sim.h"

#include <string.h>

#include "resp/write.h"

#define FOLLOWER_WAIT_MS 20

static void on_asked(void *arg, const struct reply *r)
{
	struct world *w = arg;
	bool error = !r->p || r->p[0] == '-';

	w->alone.left--;
	w->alone.done |= !error || (!r->p && r->sent);
	w->alone.failed |= error;
}

static void ask(struct world *w, const bool *sides)
{
	sds s = resp_cat_words(sdsempty(), "FLUSHALL", NULL);

	for (enum side side = SIDE_SOURCE; side < SIDES; side++)
		for (unsigned i = 0; sides[side] && i < w->side[side].nnodes; i++) {
			w->alone.left++;
			net_send(w, side, &w->side[side].node[i], s, sdslen(s), 1, on_asked, w);
		}
	sdsfree(s);
}

static void ask_authorities(struct world *w)
{
	bool sides[SIDES] = { false, false };

	for (int tag = 0; tag < TAGS; tag++)
		sides[authority_of(w, tag)] = true;
	w->alone.stage = FLUSH_AUTHORITIES;
	w->alone.both = sides[SIDE_SOURCE] && sides[SIDE_TARGET];
	ask(w, sides);
}

static bool asks_follower(struct world *w)
{
	bool sides[SIDES] = { false, false };

	if (w->alone.stage != FLUSH_AUTHORITIES || w->alone.both || w->alone.failed || !w->alone.follower || !engine_is_mirroring(w->engine))
		return false;
	if (w->load && w->profile.kills && one_in(w, 3)) { /* between the two sides */
		w->kill_now = true;
		return true;
	}
	sides[SIDE_OTHER(authority_of(w, 0))] = true;
	w->alone.stage = FLUSH_FOLLOWER;
	w->alone.both = true;
	ask(w, sides);
	return true;
}

static void end(struct world *w)
{
	enum alone_result result = !w->alone.done ? ALONE_NOTHING : w->alone.failed || !w->alone.both ? ALONE_UNSURE : ALONE_EMPTIED;

	trace(w, "FLUSHALL of a client ends: %s", result == ALONE_NOTHING ? "nothing was done" : result == ALONE_UNSURE ? "unsure" : "both sides are empty");
	memset(&w->alone, 0, sizeof w->alone);
	engine_alone_end(w->engine, result, "not every node was flushed");
}

void alone_told(struct world *w, bool follower)
{
	w->alone.stage = FLUSH_QUIET;
	w->alone.follower = follower;
}

void alone_step(struct world *w)
{
	if (w->kill_now)
		return;
	switch (w->alone.stage) {
	case FLUSH_NONE:
		if (w->load && w->profile.alone && one_in(w, w->profile.kills ? 60 : 200)) {
			trace(w, "FLUSHALL of a client");
			w->alone.stage = FLUSH_WAITS;
			engine_alone_begin(w->engine, FOLLOWER_WAIT_MS);
		}
		break;
	case FLUSH_WAITS:
		break;
	case FLUSH_QUIET:
		ask_authorities(w);
		break;
	case FLUSH_AUTHORITIES:
	case FLUSH_FOLLOWER:
		if (!w->alone.left && !asks_follower(w))
			end(w);
		break;
	}
}

/* The process is being killed: what waits for the end is answered by nobody else. */
void alone_break(struct world *w)
{
	if (w->alone.stage < FLUSH_QUIET)
		return;
	memset(&w->alone, 0, sizeof w->alone);
	engine_alone_end(w->engine, ALONE_NOTHING, NULL);
}
