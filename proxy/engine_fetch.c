/* What the engine will look at soon is fetched (lines.h). */
#include "proxy/engine_internal.h"
#include "proxy/outq.h"

#define MWRITE_HOT (MWRITE_ZEROED + sizeof(struct wkey)) /* with its first key */

const void *engine_slot_at(const struct engine *e, uint16_t slot)
{
	return &e->slots[slot];
}

static void fetch_stripe(const struct engine *e, keyhash key)
{
	fetch_lines(version_at(&e->versions, stripe_of(key.low64)), 1);
}

void engine_fetch(struct engine *e, struct req *r)
{
	fetch_lines(&e->slots[r->slot], 1);
	fetch_lines(&e->authority[r->slot], 1);
	if (!e->mirroring || !r->write || !r->key_n)
		return;
	r->hash = keyhash_of(r->db, req_key(r));
	r->hashed = true;
	fetch_stripe(e, r->hash);
}

void engine_fetch_far(reply_fn *fn, void *arg)
{
	if (fn == engine_on_reply)
		fetch_lines(arg, offsetof(struct req, key_at));
	else if (mirror_write_of(fn, arg))
		fetch_lines(arg, MWRITE_HOT);
	else if (copy_write_of(fn, arg))
		fetch_lines(arg, sizeof(struct cwrite));
}

static void near_request(const struct req *r)
{
	const struct engine *e = r->engine;

	fetch_lines(&e->slots[r->slot], 1);
	if (!r->mw)
		return;
	fetch_lines(r->mw, MWRITE_HOT);
	fetch_lines(r->bytes, r->len < OUTQ_COPY_MAX ? r->len : CACHE_LINE); /* its effect's */
	if (r->hashed)
		fetch_stripe(e, r->hash);
}

static void near_effect(const struct mwrite *mw)
{
	const struct engine *e = mw->engine;

	fetch_lines(&e->slots[mw->slot], 1);
	for (uint32_t i = 0; i < mw->nkeys && i < ENGINE_KEYS_INLINE; i++) {
		fetch_stripe(e, mw->keys[i].hash);
		if (e->opt.journal)
			journal_fetch(e->opt.journal, mw->keys[i].entry);
	}
}

const struct req *engine_fetch_near(reply_fn *fn, void *arg)
{
	const struct mwrite *mw;
	const struct cwrite *cw;

	if (fn == engine_on_reply) {
		near_request(arg);
		return arg;
	}
	if ((mw = mirror_write_of(fn, arg))) {
		near_effect(mw);
	} else if ((cw = copy_write_of(fn, arg))) {
		fetch_lines(cw->copy, sizeof *cw->copy);
		fetch_stripe(cw->engine, cw->hash);
	}
	return NULL;
}
