/* Mirrored writes as things that are held: made and freed here, and what each keeps from its sending to the follower's acknowledgement. `mirror-queue-max` bounds that (invariant 6),
 * so what is counted is what is held, not the effects' bytes alone: a small SET is 40 of 600. */
#include "proxy/engine_internal.h"

#include <stdlib.h>

#define KEPT_BESIDE 128 /* its places in the connection's queues, and what malloc adds */
#define BY_SLICE_SHARE 128 /* of queue_max: so much may be under way of effects whose keys stay where the client's bytes stand, each of which may hold a block of BLOCK_LARGE */

struct mwrite *mirror_new(struct engine *e)
{
	struct mwrite *mw = e->pool;

	if (mw) {
		e->pool = mw->next;
		if (--e->pooled < e->pooled_least)
			e->pooled_least = e->pooled;
		fetch_lines(e->pool, MWRITE_ZEROED); /* the next one's turn comes soon */
	} else if (!(mw = aligned_alloc(CACHE_LINE, LINES_OF(*mw)))) {
		abort();
	}
	clear_lines(mw, MWRITE_ZEROED);
	mw->engine = e;
	return mw;
}

static void free_words(struct mwrite *mw)
{
	if (!mw->effect.block && !mw->probe_reply)
		return;
	sdsfree(mw->effect.block);
	mw->effect.block = NULL;
	sdsfree(mw->probe_reply);
	mw->probe_reply = NULL;
}

void mirror_free(struct mwrite *mw)
{
	struct engine *e = mw->engine;

	for (uint32_t i = 0; i < mw->nkeys; i++)
		note_paid(e, &mw->keys[i].entry, mw->keys[i].slot);
	if (mw->crowd)
		crowd_paid(e, mw->crowd);
	block_unref(mw->block);
	if (mw->keys != mw->inline_keys)
		free(mw->keys);
	block_unref(mw->reply_block);
	free_words(mw);
	multi_release(mw->multi);
	mw->next = e->pool;
	e->pool = mw;
	e->pooled++;
}

size_t engine_tidy(struct engine *e)
{
	size_t freed = 0;

	for (; e->pooled_least; e->pooled_least--) {
		struct mwrite *mw = e->pool;
		e->pool = mw->next;
		e->pooled--;
		freed += sizeof *mw;
		free(mw);
	}
	e->pooled_least = e->pooled;
	return freed;
}

void mirror_release_pool(struct engine *e)
{
	e->pooled_least = e->pooled;
	engine_tidy(e);
}

size_t kept_size(const struct mwrite *mw, size_t sent)
{
	size_t keys = mw->keys == mw->inline_keys ? 0 : mw->nkeys * sizeof *mw->keys;

	return sent + sizeof *mw + keys + multi_kept(mw->multi) + KEPT_BESIDE;
}

bool kept_alone(const struct engine *e)
{
	return e->queued_bytes >= e->opt.queue_max / BY_SLICE_SHARE;
}

/* The written keys' names, of which a mark may be needed, in a block of their own. */
static void names_alone(struct mwrite *mw)
{
	struct block *names;
	size_t n = 0;

	for (uint32_t i = 0; i < mw->nkeys; i++)
		n += mw->keys[i].writes ? mw->keys[i].key.n : 0;
	names = block_new(n);
	for (uint32_t i = 0; i < mw->nkeys; i++) {
		struct wkey *k = &mw->keys[i];
		char *at = names->data + names->used;
		if (k->writes) {
			memcpy(at, k->key.p, k->key.n);
			names->used += k->key.n;
		}
		k->key = slice(at, k->writes ? k->key.n : 0);
	}
	block_unref(mw->block);
	mw->block = names;
}

void kept_trim(struct mwrite *mw, bool alone)
{
	free_words(mw);
	block_unref(mw->reply_block);
	mw->reply_block = NULL;
	mw->reply = mw->bytes = NULL;
	mw->reply_len = mw->len = 0;
	multi_trim(mw->multi);
	if (alone)
		names_alone(mw);
}
