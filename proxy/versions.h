/* versions.h - a seqlock per stripe of keys: the compare of compare-and-set (design, invariant 3).
 *
 *   bits 63..32  version: moves when a write begins, when it completes, and at every mark (races 4 and 5)
 *   bits 31..0   writes in flight
 *
 * A token is a value with no write in flight; it stays equal exactly as long as nothing began, completed or was marked. `pending` counts effects that the
 * follower has not acknowledged: a quiet token (verify) needs that to be zero, too.
 * Threads: changed by the owner only; read by the backfill worker (atomics). Neither half can wrap in the life of a token: that would take 2^31 writes. */
#ifndef CROSSFADE_VERSIONS_H
#define CROSSFADE_VERSIONS_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define STRIPES 65536u
#define VERSION_BUSY UINT64_MAX
#define VERSION_INFLIGHT_MASK UINT64_C(0xffffffff)
#define VERSION_STEP (UINT64_C(1) << 32)

struct versions {
	struct stripe { /* both at once: stripes come at random, and each cache line is a miss */
		_Alignas(16) _Atomic uint64_t at;
		_Atomic uint32_t pending;
	} stripe[STRIPES];
};

static inline uint32_t stripe_of(uint64_t hash)
{
	return (uint32_t)hash & (STRIPES - 1);
}

/* Where it stands, to be fetched ahead (lines.h). */
static inline const void *version_at(const struct versions *v, uint32_t stripe)
{
	return &v->stripe[stripe];
}

static inline void version_begin(struct versions *v, uint32_t stripe)
{
	uint64_t x = atomic_load_explicit(&v->stripe[stripe].at, memory_order_relaxed);

	assert((x & VERSION_INFLIGHT_MASK) != VERSION_INFLIGHT_MASK);
	atomic_store_explicit(&v->stripe[stripe].at, x + VERSION_STEP + 1, memory_order_release);
}

static inline void version_complete(struct versions *v, uint32_t stripe)
{
	uint64_t x = atomic_load_explicit(&v->stripe[stripe].at, memory_order_relaxed);

	assert((x & VERSION_INFLIGHT_MASK) != 0);
	atomic_store_explicit(&v->stripe[stripe].at, x + VERSION_STEP - 1, memory_order_release);
}

static inline void version_mark(struct versions *v, uint32_t stripe)
{
	uint64_t x = atomic_load_explicit(&v->stripe[stripe].at, memory_order_relaxed);

	atomic_store_explicit(&v->stripe[stripe].at, x + VERSION_STEP, memory_order_release);
}

static inline void version_mark_all(struct versions *v)
{
	for (uint32_t i = 0; i < STRIPES; i++)
		version_mark(v, i);
}

static inline void version_pend(struct versions *v, uint32_t stripe)
{
	uint32_t n = atomic_load_explicit(&v->stripe[stripe].pending, memory_order_relaxed);

	atomic_store_explicit(&v->stripe[stripe].pending, n + 1, memory_order_release);
}

static inline void version_unpend(struct versions *v, uint32_t stripe)
{
	uint32_t n = atomic_load_explicit(&v->stripe[stripe].pending, memory_order_relaxed);

	assert(n > 0);
	atomic_store_explicit(&v->stripe[stripe].pending, n - 1, memory_order_release);
}

static inline uint64_t version_token(const struct versions *v, uint32_t stripe, bool quiet)
{
	uint64_t x = atomic_load_explicit(&v->stripe[stripe].at, memory_order_acquire);

	if (x & VERSION_INFLIGHT_MASK)
		return VERSION_BUSY;
	if (quiet && atomic_load_explicit(&v->stripe[stripe].pending, memory_order_acquire))
		return VERSION_BUSY;
	return x;
}

/* Did nothing begin, complete or get marked since this token was read? VERSION_BUSY was none: it is no state that could have lasted. */
static inline bool version_holds(const struct versions *v, uint32_t stripe, uint64_t token)
{
	return token != VERSION_BUSY && token == version_token(v, stripe, false);
}

#endif
