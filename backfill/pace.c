/* pace.c - how fast the scan may go: token buckets for keys and bytes, and a limit that follows the clients' latency.
 *
 *   FREE ──a client──► QUIET ──0.15 s──► COPY ──0.9 s, judged──► QUIET …
 *     ▲                                   │ (a tenth of it at more than twice the calm latency: halved, QUIET at once)
 *     └────── no client for 0.5 s ────────┘
 *
 * What clients wait without us is measured again and again while nothing is copied, so a limit never answers to load that is theirs alone. The limit grows as long
 * as their mean stays what it is without us, and falls quickly where it does not (as TCP's window). What a key weighs is known only after it was read, so levels may
 * become negative and are waited for. */
#include "backfill/internal.h"

#include <math.h>

#define BURST_S 0.1      /* of a limit given may be taken at once */
#define BURST_CAP_S 0.01 /* of the adaptive one: lumps are what clients feel */
#define BURST_KEYS_MIN 1.
#define BYTES_MIN 65536.
#define AHEAD_S 0.1
#define AHEAD_MIN 16.
#define CAP_MIN 1000.    /* keys/s that remain under full pressure, about a hundredth of a core: the migration ends one day */
#define CAP_FIRST 1000.
#define KEY_BYTES 4096.  /* so many bytes weigh as much as a key */
#define CAP_MAX 1e6
#define IDLE_S 0.5
#define QUIET_S 0.15
#define SETTLE_S 0.05    /* of a stage: what the one before left behind still counts */
#define COPY_S 0.9
#define GLANCE_S 0.1
#define JUDGED_MIN 16    /* requests that a judgement needs; fewer are nobody to give way to */
#define GLANCE_MIN 8
#define CALM_KEEP 0.7    /* of older quiet stages */
#define BEARABLE 1.05    /* times the calm latency… */
#define BEARABLE_US 20.  /* …and this: a mean is not known better */
#define GROSS 2.

void pace_set(struct pace *p, uint64_t keys_per_s, uint64_t bytes_per_s, bool adaptive, double now)
{
	*p = (struct pace){ .keys_per_s = keys_per_s, .bytes_per_s = bytes_per_s, .adaptive = adaptive, .cap = CAP_FIRST, .clients_at = -INFINITY, .looked = -INFINITY };
	p->keys.filled = p->bytes.filled = p->checks.filled = now;
}

/* ---- limits ---- */

static bool capped(const struct pace *p)
{
	return p->adaptive && p->stage != PACE_FREE;
}

static double key_rate(const struct pace *p)
{
	double r = p->keys_per_s ? (double)p->keys_per_s : INFINITY;

	return capped(p) ? fmin(p->cap, r) : r;
}

static void bucket_fill(struct bucket *b, double now, double rate, double burst)
{
	double dt = now > b->filled ? now - b->filled : 0;

	b->filled = now;
	b->level = isfinite(rate) ? fmin(b->level + rate * dt, burst) : 0;
}

static double key_burst(const struct pace *p, double rate)
{
	return fmax(rate * (capped(p) ? BURST_CAP_S : BURST_S), BURST_KEYS_MIN);
}

unsigned pace_allowed(struct pace *p, double now, unsigned want)
{
	double rate = key_rate(p);

	bucket_fill(&p->keys, now, rate, key_burst(p, rate));
	if (p->bytes_per_s)
		bucket_fill(&p->bytes, now, (double)p->bytes_per_s, fmax((double)p->bytes_per_s * BURST_S, BYTES_MIN));
	if (capped(p) && p->stage == PACE_QUIET) {
		p->by_cap = true;
		return 0;
	}
	if (p->bytes_per_s && p->bytes.level <= 0) {
		p->by_bytes = true;
		return 0;
	}
	if (!isfinite(rate) || p->keys.level >= want)
		return want;
	if (capped(p) && rate == p->cap)
		p->by_cap = p->held = true;
	else
		p->by_keys = true;
	return p->keys.level >= 1 ? (unsigned)p->keys.level : 0;
}

void pace_spend(struct pace *p, unsigned keys, uint64_t bytes)
{
	if (isfinite(key_rate(p)))
		p->keys.level -= capped(p) ? keys + (double)bytes / KEY_BYTES : keys;
	if (p->bytes_per_s)
		p->bytes.level -= (double)bytes;
}

unsigned pace_checks(struct pace *p, double now, unsigned want)
{
	if (!capped(p))
		return want;
	bucket_fill(&p->checks, now, p->cap, key_burst(p, p->cap));
	if (p->stage == PACE_QUIET)
		return 0;
	if (p->checks.level < want) {
		p->held = true;
		want = p->checks.level >= 1 ? (unsigned)p->checks.level : 0;
	}
	p->checks.level -= want;
	return want;
}

unsigned pace_ahead(const struct pace *p)
{
	double rate = key_rate(p);

	if (capped(p) && p->stage == PACE_QUIET)
		return 0;
	return isfinite(rate) && rate < CAP_MAX ? (unsigned)fmax(rate * AHEAD_S, AHEAD_MIN) : UINT_MAX;
}

/* ---- the adaptive limit ---- */

static void stage_begin(struct pace *p, enum pace_stage stage, double now)
{
	p->stage = stage;
	p->since = now;
	p->glance_at = now + SETTLE_S;
	p->now = p->glance = (struct pace_sum){ 0, 0 };
	p->held = false;
}

static bool is_too_slow(const struct pace *p, const struct pace_sum *s, double bearable)
{
	return s->us / s->n > p->calm.us / p->calm.n * bearable + BEARABLE_US;
}

static void cap_falls(struct pace *p, double factor)
{
	p->cap = fmax(p->cap * factor, CAP_MIN);
	p->grown = true;
}

static void judge(struct pace *p)
{
	if (p->calm.n >= 1 && p->now.n >= JUDGED_MIN && is_too_slow(p, &p->now, BEARABLE))
		cap_falls(p, 0.7);
	else if (p->held)
		p->cap = fmin(p->cap * (p->grown ? 1.15 : 2), CAP_MAX);
}

/* It may be the clients' own doing: so what they take without us is measured at once, and what it was counts no more. */
static void glance(struct pace *p, double now)
{
	if (now - p->glance_at < GLANCE_S)
		return;
	if (p->calm.n >= 1 && p->glance.n >= GLANCE_MIN && is_too_slow(p, &p->glance, GROSS)) {
		cap_falls(p, 0.5);
		p->calm = (struct pace_sum){ 0, 0 };
		stage_begin(p, PACE_QUIET, now);
		return;
	}
	p->glance_at = now;
	p->glance = (struct pace_sum){ 0, 0 };
}

static void sum_add(struct pace_sum *s, double n, double us)
{
	s->n += n;
	s->us += us;
}

void pace_adapt(struct pace *p, double now, uint64_t requests, uint64_t us)
{
	/* Nobody looked meanwhile, or the counters are those of another side: what was counted is no news. */
	bool late = now - p->looked > IDLE_S || requests < p->seen_n || us < p->seen_us;
	double n = late ? 0 : (double)(requests - p->seen_n), took = late ? 0 : (double)(us - p->seen_us), age = now - p->since;

	if (!p->adaptive)
		return;
	p->seen_n = requests;
	p->seen_us = us;
	p->looked = now;
	if (n > 0)
		p->clients_at = now;
	if (now - p->clients_at > IDLE_S) {
		p->stage = PACE_FREE;
		return;
	}
	if (p->stage == PACE_FREE) {
		p->calm = (struct pace_sum){ 0, 0 };
		stage_begin(p, PACE_QUIET, now);
		return;
	}
	if (age > SETTLE_S) {
		sum_add(&p->now, n, took);
		sum_add(&p->glance, n, took);
	}
	if (p->stage == PACE_QUIET && age > QUIET_S) {
		p->calm = (struct pace_sum){ p->calm.n * CALM_KEEP + p->now.n, p->calm.us * CALM_KEEP + p->now.us };
		stage_begin(p, PACE_COPY, now);
	} else if (p->stage == PACE_COPY && age > COPY_S) {
		judge(p);
		stage_begin(p, PACE_QUIET, now);
	} else if (p->stage == PACE_COPY) {
		glance(p, now);
	}
}

enum bf_held pace_held_by(struct pace *p)
{
	enum bf_held h = p->by_keys ? HELD_KEYS_LIMIT : p->by_bytes ? HELD_BYTES_LIMIT : p->by_cap ? HELD_ADAPTIVE : HELD_NOTHING;

	p->by_keys = p->by_bytes = p->by_cap = false;
	return h;
}
