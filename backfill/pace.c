/* pace.c - how fast the scan may go: token buckets for keys and bytes, and a limit that follows the foreground's latency.
 *
 * What a key weighs is known only after it was read, so levels may become negative and are waited for. The adaptive limit halves quickly and grows
 * slowly (as TCP does): under pressure it falls from the rate that was really reached; without pressure it rises until it no longer holds anything. */
#include "backfill/internal.h"

#include <math.h>

#define BURST_S 0.1      /* of the rate may be taken at once */
#define BURST_KEYS_MIN 1.
#define BYTES_MIN 65536.
#define CAP_MIN 100.     /* keys/s that remain under full pressure: the migration ends one day */
#define ADAPT_S 0.1
#define PRESSURE_ON 0.1  /* below: none */
#define SMOOTH 0.4
#define GROWTH 1.08      /* per ADAPT_S */
#define CAP_OFF 4.       /* a limit this far above the rate is none */

void pace_set(struct pace *p, uint64_t keys_per_s, uint64_t bytes_per_s, bool adaptive, double now)
{
	p->keys_per_s = keys_per_s;
	p->bytes_per_s = bytes_per_s;
	p->adaptive = adaptive;
	p->filled = now;
	p->keys = p->bytes = 0;
	if (!adaptive)
		p->cap = p->pressure = 0;
}

static double key_rate(const struct pace *p)
{
	double r = p->keys_per_s ? (double)p->keys_per_s : INFINITY;

	return p->cap > 0 && p->cap < r ? p->cap : r;
}

static void pace_fill(struct pace *p, double now)
{
	double dt = now > p->filled ? now - p->filled : 0, keys = key_rate(p), burst;

	p->filled = now;
	if (isfinite(keys)) {
		burst = keys * BURST_S > BURST_KEYS_MIN ? keys * BURST_S : BURST_KEYS_MIN;
		p->keys = fmin(p->keys + keys * dt, burst);
	}
	if (p->bytes_per_s) {
		burst = fmax((double)p->bytes_per_s * BURST_S, BYTES_MIN);
		p->bytes = fmin(p->bytes + (double)p->bytes_per_s * dt, burst);
	}
}

unsigned pace_allowed(struct pace *p, double now, unsigned want)
{
	double keys = key_rate(p);

	pace_fill(p, now);
	if (p->bytes_per_s && p->bytes <= 0) {
		p->by_bytes = true;
		return 0;
	}
	if (!isfinite(keys) || p->keys >= want)
		return want;
	if (p->cap > 0 && (!p->keys_per_s || p->cap < (double)p->keys_per_s))
		p->by_cap = true;
	else
		p->by_keys = true;
	return p->keys >= 1 ? (unsigned)p->keys : 0;
}

void pace_spend(struct pace *p, unsigned keys, uint64_t bytes)
{
	if (p->keys_per_s || p->cap > 0)
		p->keys -= keys;
	if (p->bytes_per_s)
		p->bytes -= (double)bytes;
}

void pace_adapt(struct pace *p, double now, double pressure, double rate)
{
	if (!p->adaptive || now - p->adapted < ADAPT_S)
		return;
	p->adapted = now;
	pressure = fmin(fmax(pressure, 0), 1);
	p->pressure = p->pressure * (1 - SMOOTH) + pressure * SMOOTH;
	if (p->pressure > PRESSURE_ON) {
		if (p->cap <= 0)
			p->cap = fmax(rate, CAP_MIN);
		p->cap = fmax(p->cap * (1 - 0.5 * p->pressure), CAP_MIN);
	} else if (p->cap > 0) {
		p->cap *= GROWTH;
		if (p->cap > fmax(rate, CAP_MIN) * CAP_OFF)
			p->cap = 0;
	}
}

enum bf_held pace_held_by(struct pace *p)
{
	enum bf_held h = p->by_keys ? HELD_KEYS_LIMIT : p->by_bytes ? HELD_BYTES_LIMIT : p->by_cap ? HELD_ADAPTIVE : HELD_NOTHING;

	p->by_keys = p->by_bytes = p->by_cap = false;
	return h;
}
