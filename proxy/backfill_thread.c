#include "proxy/backfill_thread.h"

#include <assert.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proxy/failing.h"
#include "proxy/log.h"

struct backfill_thread {
	const struct config *config;
	struct mailboxes *mail;
	struct control *control;
	struct fleet *fleet;
	unsigned self, to_control;
	bool running;
	pthread_t thread;
	struct bf_stats stats;
	uint64_t posted;            /* orders; control's own */
	_Atomic uint64_t processed;
	struct uncarried_report *uncarried; /* control's own */
	/* the thread's own */
	struct ev_loop *loop;
	struct backfill *backfill;
	struct backfill_host host;
	int64_t clock_offset_us[SIDES];
	char migration[MIGRATION_ID_LEN + 1]; /* backfill/ refers to it */
	_Atomic bool event_posted;
};

/* ---- the host of backfill/ ---- */

static uint64_t host_token(void *ctx, keyhash key, uint16_t slot, bool quiet)
{
	return fleet_token(((struct backfill_thread *)ctx)->fleet, key, slot, quiet);
}

static void host_fetch(void *ctx, keyhash key, uint16_t slot)
{
	fleet_fetch_token(((struct backfill_thread *)ctx)->fleet, key, slot);
}

static enum side host_authority(void *ctx, uint16_t slot)
{
	return fleet_authority(((struct backfill_thread *)ctx)->fleet, slot);
}

static bool host_offer(void *ctx, struct copy *c)
{
	return fleet_offer(((struct backfill_thread *)ctx)->fleet, c);
}

static bool host_mark(void *ctx, uint16_t db, struct slice key, uint16_t slot)
{
	return fleet_mark(((struct backfill_thread *)ctx)->fleet, db, key, slot);
}

static void host_hold(void *ctx, uint16_t slot, unsigned max_ms)
{
	fleet_hold(((struct backfill_thread *)ctx)->fleet, slot, max_ms);
}

static void host_release(void *ctx, uint16_t slot)
{
	fleet_release(((struct backfill_thread *)ctx)->fleet, slot);
}

static void host_follow(void *ctx, uint16_t db, struct slice key, uint16_t slot)
{
	fleet_follow(((struct backfill_thread *)ctx)->fleet, db, key, slot);
}

static void host_changes(void *ctx, uint16_t slot)
{
	fleet_changes(((struct backfill_thread *)ctx)->fleet, slot);
}

static void host_read_followed(void *ctx, uint16_t slot, sds request, unsigned replies)
{
	fleet_read_followed(((struct backfill_thread *)ctx)->fleet, slot, request, replies);
}

static void host_slot_done(void *ctx, uint16_t slot)
{
	fleet_slot_done(((struct backfill_thread *)ctx)->fleet, slot);
}

static void host_slot_clean(void *ctx, uint16_t slot)
{
	fleet_slot_clean(((struct backfill_thread *)ctx)->fleet, slot);
}

static void host_latency(void *ctx, enum side side, uint64_t *requests, uint64_t *us)
{
	fleet_latency(((struct backfill_thread *)ctx)->fleet, side, requests, us);
}

static void run_event(void *arg)
{
	struct backfill_thread *t = arg;

	atomic_store(&t->event_posted, false);
	control_backfill_event(t->control);
}

static void host_event(void *ctx, const char *what)
{
	struct backfill_thread *t = ctx;

	log_notice("%s", what);
	if (!atomic_exchange(&t->event_posted, true))
		mailbox_post(t->mail, t->to_control, t->self, run_event, t);
}

static void host_log(void *ctx, int level, const char *fmt, ...)
{
	va_list ap;

	(void)ctx;
	va_start(ap, fmt);
	log_vwrite((enum log_level)level, fmt, ap);
	va_end(ap);
}

static void host_failing(void *ctx, const char *why)
{
	struct backfill_thread *t = ctx;

	failing_tell_walk(t->control, t->mail, t->self, t->to_control, why);
}

struct uncarried_mail {
	struct backfill_thread *t;
	struct uncarried_report *report;
};

static void run_uncarried(void *arg)
{
	struct uncarried_mail *m = arg;

	uncarried_report_free(m->t->uncarried);
	m->t->uncarried = m->report;
	free(m);
}

static void host_uncarried(void *ctx, struct uncarried_report *r)
{
	struct backfill_thread *t = ctx;
	struct uncarried_mail *m = malloc(sizeof(*m));

	*m = (struct uncarried_mail){ t, r };
	mailbox_post(t->mail, t->to_control, t->self, run_uncarried, m);
}

static int64_t host_now_ms(void *ctx, enum side side)
{
	struct backfill_thread *t = ctx;
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ((int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000 + t->clock_offset_us[side]) / 1000;
}

/* ---- orders of the control thread ---- */

struct order_mail {
	struct backfill_thread *t;
	enum backfill_order what;
	struct order_args args;
	char migration[MIGRATION_ID_LEN + 1];
};

static void throttle(struct backfill_thread *t, const struct order_args *a)
{
	backfill_throttle(t->backfill, (uint64_t)a->keys_per_s, (uint64_t)a->bytes_per_s, a->adaptive != 0);
}

static void run_order(void *arg)
{
	struct order_mail *m = arg;
	struct backfill_thread *t = m->t;

	switch (m->what) {
	case BACKFILL_START:
		memcpy(t->migration, m->migration, sizeof(t->migration));
		backfill_start(t->backfill);
		break;
	case BACKFILL_ADOPT:
		memcpy(t->migration, m->migration, sizeof(t->migration));
		backfill_adopt(t->backfill);
		break;
	case BACKFILL_PAUSE:
		backfill_pause(t->backfill);
		break;
	case BACKFILL_RESUME:
		backfill_resume(t->backfill);
		break;
	case BACKFILL_STOP:
		backfill_stop(t->backfill);
		break;
	case BACKFILL_THROTTLE:
		throttle(t, &m->args);
		break;
	case BACKFILL_VERIFY:
		backfill_verify(t->backfill, m->args.repair);
		break;
	}
	atomic_fetch_add(&t->processed, 1);
	free(m);
}

void backfill_thread_order(struct backfill_thread *t, enum backfill_order what, const struct order_args *args, const char *migration)
{
	struct order_mail *m = calloc(1, sizeof(*m));

	*m = (struct order_mail){ .t = t, .what = what };
	if (args)
		m->args = *args;
	if (migration)
		snprintf(m->migration, sizeof(m->migration), "%s", migration);
	t->posted++;
	mailbox_post(t->mail, t->self, t->to_control, run_order, m);
}

struct topology_mail {
	struct backfill_thread *t;
	struct topology *topology;
};

static void run_topology(void *arg)
{
	struct topology_mail *m = arg;

	if (m->topology->nnodes > 0)
		m->t->clock_offset_us[m->topology->side] = m->topology->nodes[0].clock_offset_us;
	backfill_topology(m->t->backfill, m->topology);
	free(m);
}

void backfill_thread_topology(struct backfill_thread *t, struct topology *topology)
{
	struct topology_mail *m = malloc(sizeof(*m));

	*m = (struct topology_mail){ t, topology };
	mailbox_post(t->mail, t->self, t->to_control, run_topology, m);
}

struct password_mail {
	struct backfill_thread *t;
	enum side side;
	const char *password;
};

static void run_password(void *arg)
{
	struct password_mail *m = arg;

	backfill_password(m->t->backfill, m->side, m->password);
	free(m);
}

void backfill_thread_password(struct backfill_thread *t, enum side side, const char *password)
{
	struct password_mail *m = malloc(sizeof(*m));

	*m = (struct password_mail){ t, side, password };
	mailbox_post(t->mail, t->self, t->to_control, run_password, m);
}

/* ---- what owners tell ---- */

struct repair_mail {
	struct backfill_thread *t;
	uint16_t slot, db;
	uint8_t losses;
	size_t n;
	char key[];
};

static void run_repair(void *arg)
{
	struct repair_mail *m = arg;

	backfill_repair(m->t->backfill, m->db, slice(m->key, m->n), m->slot, m->losses);
	free(m);
}

void backfill_thread_repair(struct backfill_thread *t, unsigned from, uint16_t db, struct slice key, uint16_t slot, uint8_t losses)
{
	struct repair_mail *m = malloc(sizeof(*m) + key.n);

	*m = (struct repair_mail){ .t = t, .slot = slot, .db = db, .losses = losses, .n = key.n };
	memcpy(m->key, key.p, key.n);
	mailbox_post(t->mail, t->self, from, run_repair, m);
}

static void run_copied(void *arg)
{
	struct copy *c = arg;
	struct backfill_thread *t = c->owner;

	backfill_copied(t->backfill, c);
}

void backfill_thread_copied(struct backfill_thread *t, unsigned from, struct copy *c)
{
	c->owner = t;
	mailbox_post(t->mail, t->self, from, run_copied, c);
}

struct held_mail {
	struct backfill_thread *t;
	uint16_t slot;
	bool ok;
};

static void run_held(void *arg)
{
	struct held_mail *m = arg;

	backfill_held(m->t->backfill, m->slot, m->ok);
	free(m);
}

void backfill_thread_held(struct backfill_thread *t, unsigned from, uint16_t slot, bool ok)
{
	struct held_mail *m = malloc(sizeof(*m));

	*m = (struct held_mail){ t, slot, ok };
	mailbox_post(t->mail, t->self, from, run_held, m);
}

struct changed_mail {
	struct backfill_thread *t;
	uint16_t slot;
	sds elements;
	unsigned writes;
	bool known;
	sds replies;
};

static void run_changed(void *arg)
{
	struct changed_mail *m = arg;

	backfill_changed(m->t->backfill, m->slot, m->elements, m->writes, m->known, m->replies);
	free(m);
}

void backfill_thread_changed(struct backfill_thread *t, unsigned from, uint16_t slot, sds elements, unsigned writes, bool known, sds replies)
{
	struct changed_mail *m = malloc(sizeof(*m));

	*m = (struct changed_mail){ t, slot, elements, writes, known, replies };
	mailbox_post(t->mail, t->self, from, run_changed, m);
}

struct rescan_slot_mail {
	struct backfill_thread *t;
	uint16_t slot;
};

static void run_rescan_slot(void *arg)
{
	struct rescan_slot_mail *m = arg;

	backfill_rescan(m->t->backfill, m->slot);
	free(m);
}

void backfill_thread_rescan_slot(struct backfill_thread *t, unsigned from, uint16_t slot)
{
	struct rescan_slot_mail *m = malloc(sizeof(*m));

	*m = (struct rescan_slot_mail){ t, slot };
	mailbox_post(t->mail, t->self, from, run_rescan_slot, m);
}

/* ---- the thread ---- */

static void *thread_main(void *arg)
{
	struct backfill_thread *t = arg;
	const struct config *c = t->config;
	struct backfill_config config = {
		.state_dir = c->state_dir,
		.migration_id = t->migration,
		.large_bytes = (uint64_t)c->large_value,
		.keys_per_s = (uint64_t)c->backfill_keys_per_s,
		.bytes_per_s = (uint64_t)c->backfill_bytes_per_s,
		.adaptive = c->backfill_adaptive,
	};

	for (int s = 0; s < SIDES; s++)
		config.access[s] = (struct side_access){ c->side[s].user, c->side[s].password, c->side[s].tls };
	log_thread_name("backfill");
	t->backfill = backfill_new(t->loop, &config, &t->host, &t->stats);
	mailbox_attach(t->mail, t->self, t->loop);
	ev_run(t->loop, 0);
	backfill_free(t->backfill);
	mailbox_flush_all(t->mail, t->self);
	mailbox_detach(t->mail, t->self);
	return NULL;
}

static void run_end(void *arg)
{
	ev_break(((struct backfill_thread *)arg)->loop, EVBREAK_ALL);
}

struct backfill_thread *backfill_thread_new(const struct config *config, struct mailboxes *mail, struct control *control, unsigned workers)
{
	struct backfill_thread *t = calloc(1, sizeof(*t));

	t->config = config;
	t->mail = mail;
	t->control = control;
	t->self = THREAD_BACKFILL(workers);
	t->to_control = THREAD_CONTROL(workers);
	t->host = (struct backfill_host){ t, host_token, host_fetch, host_authority, host_offer, host_mark, host_hold, host_release, host_slot_done,
					  host_slot_clean, host_latency, host_event, host_log, host_failing, host_now_ms, .follow = host_follow, .changes = host_changes,
					  .uncarried = host_uncarried, .read_followed = host_read_followed };
	atomic_store(&t->stats.eta_s, -1);
	return t;
}

void backfill_thread_begin(struct backfill_thread *t, struct fleet *fleet)
{
	t->fleet = fleet;
	t->loop = ev_loop_new(EVFLAG_AUTO);
	if (!t->loop || pthread_create(&t->thread, NULL, thread_main, t) != 0) {
		log_warning("the backfill thread cannot be made");
		abort();
	}
	t->running = true;
}

void backfill_thread_end(struct backfill_thread *t)
{
	if (!t || !t->running)
		return;
	mailbox_post(t->mail, t->self, t->to_control, run_end, t);
	mailbox_flush_all(t->mail, t->to_control);
	pthread_join(t->thread, NULL);
	ev_loop_destroy(t->loop);
	t->running = false;
}

void backfill_thread_free(struct backfill_thread *t)
{
	assert(!t || !t->running);
	if (t)
		uncarried_report_free(t->uncarried);
	free(t);
}

const struct bf_stats *backfill_thread_stats(const struct backfill_thread *t)
{
	return &t->stats;
}

const struct uncarried_report *backfill_thread_uncarried(const struct backfill_thread *t)
{
	return t->uncarried;
}

bool backfill_thread_behind(const struct backfill_thread *t)
{
	return atomic_load(&t->processed) != t->posted;
}
