/* backfill.c - the object: what the proxy calls, and the turn of the loop. */
#include "backfill/internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define LARGE_DEFAULT (1u << 20)

const char *const bf_held_names[] = { [HELD_NOTHING] = "nothing", [HELD_KEYS_LIMIT] = "keys-limit", [HELD_BYTES_LIMIT] = "bytes-limit",
				      [HELD_ADAPTIVE] = "adaptive", [HELD_PAUSED] = "paused", [HELD_SOURCE_DOWN] = "source-down",
				      [HELD_TARGET_DOWN] = "target-down", [HELD_OWNERS] = "owners" };
const char *const bf_state_names[] = { [BF_IDLE] = "idle", [BF_RUNNING] = "running", [BF_PAUSED] = "paused", [BF_DONE] = "done",
				       [BF_FAILED] = "failed" };

double bf_now(const struct backfill *b)
{
	return ev_now(b->loop);
}

enum side bf_authority(const struct backfill *b, uint16_t slot)
{
	return b->host->authority(b->host->ctx, slot < SLOTS ? slot : 0);
}

bool bf_may_log(struct backfill *b, enum bf_log_kind k)
{
	double now = bf_now(b);

	if (now - b->log_at[k] < 1.)
		return false;
	b->log_at[k] = now;
	return true;
}

void bf_failing(struct backfill *b, enum bf_log_kind k, const char *fmt, ...)
{
	char why[320];
	va_list ap;

	if (!bf_may_log(b, k))
		return;
	va_start(ap, fmt);
	vsnprintf(why, sizeof why, fmt, ap);
	va_end(ap);
	b->host->log(b->host->ctx, BF_LOG_WARNING, "%s", why);
	if (b->host->failing)
		b->host->failing(b->host->ctx, why);
}

void list_failing(struct backfill *b, enum side side, uint16_t slot, const struct slice replies[3])
{
	char text[200];

	for (int k = 0; k < 3; k++)
		if (reply_error(replies[k]) > REPLY_ELSEWHERE)
			bf_failing(b, LOGK_LIST, "cannot list slot %u of the %s: %s", slot, side_name(side), reply_text(replies[k], text, sizeof(text)));
}

void scan_failing(struct backfill *b, enum side side, struct slice reply)
{
	char text[200];

	bf_failing(b, LOGK_LIST, "cannot scan the %s: %s", side_name(side), reply_text(reply, text, sizeof(text)));
}

void bf_wake(struct backfill *b)
{
	if (!ev_is_active(&b->tick))
		ev_timer_again(b->loop, &b->tick);
}

/* ---- what holds it back ---- */

static enum bf_held held_by(struct backfill *b, double now)
{
	struct scan *s = &b->scan;
	enum bf_held pace = pace_held_by(&b->pace);
	enum side from = s->stage == SCAN_OFF ? bf_authority(b, 0) : s->from;
	bool up[SIDES];

	if (s->stage == SCAN_OFF || s->stage == SCAN_DONE)
		return HELD_NOTHING;
	if (s->paused)
		return HELD_PAUSED;
	for (int i = 0; i < SIDES; i++)
		up[i] = b->topology[i] && conns_usable(b, i);
	if (!up[SIDE_SOURCE])
		return HELD_SOURCE_DOWN;
	if (!up[SIDE_TARGET])
		return HELD_TARGET_DOWN;
	if (now < b->refused_until)
		return SIDE_OTHER(from) == SIDE_TARGET ? HELD_TARGET_DOWN : HELD_SOURCE_DOWN;
	if (b->unoffered.n > 0)
		return HELD_OWNERS;
	return pace;
}

/* ---- the turn ---- */

static void on_feed(struct ev_loop *loop, ev_prepare *w, int revents)
{
	struct backfill *b = w->data;
	double now = ev_now(loop);

	(void)revents;
	scan_feed(b, now);
	biglane_feed(b->biglane, now); /* before the small ones, which would take all that a low limit allows */
	pipeline_feed(b, now);
	tour_feed(b->rescan, now);
	tour_feed(b->verify, now);
	newcomers_feed(b, now);
}

static bool has_work(const struct backfill *b)
{
	bool scanning = b->scan.stage != SCAN_OFF && b->scan.stage != SCAN_DONE;

	return scanning || b->newcomers || b->scan.alive || b->repairs || b->unoffered.n || b->checkpoint_dirty || b->holds || tour_active(b->rescan) ||
	       tour_active(b->verify);
}

static void adapt(struct backfill *b, double now)
{
	uint64_t requests, us;

	if (!b->pace.adaptive)
		return;
	b->host->latency(b->host->ctx, bf_authority(b, 0), &requests, &us);
	pace_adapt(&b->pace, now, requests, us);
}

static void on_tick(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct backfill *b = w->data;
	double now = ev_now(loop);

	(void)revents;
	pipeline_tick(b, now);
	hold_tick(b, now);
	tour_tick(b->rescan, now);
	tour_tick(b->verify, now);
	checkpoint_tick(b, now, false);
	adapt(b, now);
	if (now - b->second >= 0.25) {
		b->second = now;
		scan_sample(b, now);
		stat_set(&b->stats->held_by, (int)held_by(b, now));
	}
	if (!has_work(b)) {
		stat_set(&b->stats->keys_per_s, 0);
		stat_set(&b->stats->held_by, HELD_NOTHING);
		ev_timer_stop(loop, w);
	}
}

/* ---- the interface ---- */

struct backfill *backfill_new(struct ev_loop *loop, const struct backfill_config *c, const struct backfill_host *host, struct bf_stats *stats)
{
	struct backfill *b = must(calloc(1, sizeof(*b)));

	b->loop = loop;
	b->config = *c;
	if (!b->config.large_bytes)
		b->config.large_bytes = LARGE_DEFAULT;
	b->host = host;
	b->stats = stats;
	stat_set(&stats->eta_s, -1);
	for (int d = 0; d < DELAYS; d++)
		queue_init(&b->delayed[d]);
	queue_init(&b->unoffered);
	b->scratch = must(sdsempty());
	scan_init(b);
	pace_set(&b->pace, c->keys_per_s, c->bytes_per_s, c->adaptive, ev_now(loop));
	b->biglane = biglane_new(b);
	b->uncarried = uncarried_new(b);
	b->rescan = tour_new(b, false);
	b->verify = tour_new(b, true);
	ev_prepare_init(&b->feed, on_feed);
	ev_init(&b->tick, on_tick);
	b->tick.repeat = TICK_S;
	b->feed.data = b->tick.data = b;
	ev_prepare_start(loop, &b->feed);
	return b;
}

void backfill_free(struct backfill *b)
{
	if (!b)
		return;
	checkpoint_tick(b, bf_now(b), true);
	uncarried_save(b);
	ev_prepare_stop(b->loop, &b->feed);
	for (struct unit *u = b->scan.units, *next; u; u = next) {
		next = u->next;
		u->dead = true;
		if (u->kind == UNIT_PASS)
			pass_abandon(u);
		else
			scan_settle(b, u);
	}
	b->scan.stage = SCAN_OFF;
	keyspace_forget(b->scan.asking);
	tour_cancel(b->verify);
	tour_cancel(b->rescan);
	biglane_free(b->biglane);
	/* What is awaited comes back as lost; a stopped scan's copies end, repairs are offered as failed or end with the queues. */
	for (int s = 0; s < SIDES; s++)
		conns_free(b, s);
	newcomers_free(b);
	tour_free(b->verify);
	tour_free(b->rescan);
	pipeline_free(b);
	uncarried_free(b->uncarried);
	ev_timer_stop(b->loop, &b->tick);
	for (int s = 0; s < SIDES; s++)
		topology_unref(b->topology[s]);
	sdsfree(b->scratch);
	free(b);
}

void backfill_topology(struct backfill *b, struct topology *t)
{
	enum side side = t->side;
	struct topology *before = b->topology[side];

	if (before && before->generation >= t->generation) {
		topology_unref(t);
		return;
	}
	b->topology[side] = t;
	conns_rebuild(b, side);
	scan_topology(b, side, before);
	tour_topology(b->rescan, side, before);
	tour_topology(b->verify, side, before);
	newcomers_topology(b, side, before);
	topology_unref(before);
	bf_wake(b);
}

void backfill_adopt(struct backfill *b)
{
	uncarried_load(b);
}

void backfill_password(struct backfill *b, enum side side, const char *password)
{
	b->config.access[side].password = password;
	conns_password(b, side);
}

void backfill_start(struct backfill *b)
{
	if (b->scan.stage == SCAN_OFF)
		uncarried_load(b);
	scan_start(b);
}

void backfill_pause(struct backfill *b)
{
	b->scan.paused = true;
	if (stat_get(&b->stats->state) == BF_RUNNING)
		stat_set(&b->stats->state, BF_PAUSED);
	bf_wake(b);
}

void backfill_resume(struct backfill *b)
{
	b->scan.paused = false;
	if (stat_get(&b->stats->state) == BF_PAUSED)
		stat_set(&b->stats->state, BF_RUNNING);
	bf_wake(b);
}

void backfill_stop(struct backfill *b)
{
	tour_cancel(b->verify);
	tour_cancel(b->rescan);
	b->scan.paused = false;
	scan_stop(b);
	bf_wake(b);
}

void backfill_throttle(struct backfill *b, uint64_t keys_per_s, uint64_t bytes_per_s, bool adaptive)
{
	pace_set(&b->pace, keys_per_s, bytes_per_s, adaptive, bf_now(b));
	bf_wake(b);
}

void backfill_rescan(struct backfill *b, uint16_t slot)
{
	tour_want(b->rescan, slot);
	bf_wake(b);
}

void backfill_verify(struct backfill *b, bool repair)
{
	tour_verify(b->verify, repair);
	bf_wake(b);
}

void backfill_verify_cancel(struct backfill *b)
{
	tour_cancel(b->verify);
}
