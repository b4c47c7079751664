/* The engine's I/O as a worker gives it: nodes by slot, data connections, clocks, messages to the backfill worker and to control. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <arpa/inet.h>

#include "backfill/large.h"
#include "proxy/address.h"
#include "proxy/alone.h"
#include "proxy/aside.h"
#include "proxy/client.h"
#include "proxy/failing.h"
#include "proxy/lines.h"
#include "proxy/log.h"
#include "proxy/watch.h"
#include "resp/write.h"

static struct upstream *node_of(struct worker *w, enum side side, uint16_t slot)
{
	return w->upstreams[w->route[side][slot]];
}

void worker_fetch_routes(const struct worker *w, uint16_t slot)
{
	for (unsigned side = 0; side < SIDES; side++)
		fetch_lines(&w->route[side][slot], 1);
}

void worker_fetch_near(void *ctx, reply_fn *fn, void *arg)
{
	const struct worker *w = ctx;
	const struct req *r = engine_fetch_near(fn, arg);

	if (!r)
		return;
	if (r->mw)
		worker_fetch_routes(w, r->slot); /* its effect's */
	if (r->home == w->id && r->client) /* another home's may be changed by it just now */
		fetch_lines(&r->client->head, 2 * CACHE_LINE);
}

static void on_asking(void *arg, const struct reply *r)
{
	(void)arg;
	(void)r; /* the answer of the command behind it tells */
}

static void io_send(void *ctx, enum side side, uint16_t db, uint16_t slot, uint16_t node, const char *p, size_t n, struct block *holder, unsigned replies,
		    reply_fn *fn, void *arg)
{
	static const char asking[] = "*1\r\n$6\r\nASKING\r\n";
	struct worker *w = ctx;
	struct upstream *u = node == NODE_NONE ? node_of(w, side, slot) : w->upstreams[node];

	if (node != NODE_NONE)
		upstream_send(u, db, asking, sizeof asking - 1, NULL, 1, on_asking, NULL);
	bool patient = (u->patient || !u->flushing) && side != engine_authority(w->engine, slot) && !w->fleet->config->mirror_ack_both;
	upstream_send(u, db, p, n, holder, replies, fn, arg);
	u->patient = patient; /* nobody waits for the follower */
	if (w->asides)
		aside_sent(w, u, slot, fn, arg);
}

/* WAIT speaks of what its own connection has written: on one that is younger than the writes it would say yes at once. So each writes something first. */
static sds write_for_wait(struct worker *w, enum side side, uint16_t node)
{
	unsigned slot = 0;

	while (slot < SLOTS && w->route[side][slot] != node)
		slot++;
	if (slot == SLOTS)
		return NULL;
	sds key = large_tmp_key((uint16_t)slot, 0), s = resp_cat_words(sdsempty(), "SET", key, "", "PX", "1", NULL);
	sdsfree(key);
	return s;
}

static unsigned io_send_each(void *ctx, enum side side, bool replicas_only, const char *p, size_t n, reply_fn *fn, void *arg)
{
	struct worker *w = ctx;
	unsigned sent = 0;

	for (uint16_t i = 0; i < w->nupstreams; i++) {
		struct upstream *u = w->upstreams[i];
		if (u->side != side || !upstream_is_up(u) || (replicas_only && !u->replicas))
			continue;
		sds first = replicas_only ? write_for_wait(w, side, i) : NULL;
		if (first) {
			upstream_send(u, UPSTREAM_ANY_DB, first, sdslen(first), NULL, 1, fn, arg);
			sdsfree(first);
			sent++;
		}
		upstream_send(u, UPSTREAM_ANY_DB, p, n, NULL, 1, fn, arg);
		sent++;
	}
	return sent;
}

static void io_answer(void *ctx, struct req *r)
{
	worker_answer(ctx, r);
}

static void set_numeric_address(struct upstream *u, const struct host_port *hp)
{
	struct sockaddr_in a4 = { .sin_family = AF_INET, .sin_port = htons(hp->port) };
	struct sockaddr_in6 a6 = { .sin6_family = AF_INET6, .sin6_port = htons(hp->port) };
	struct sockaddr_storage addr = { 0 };

	if (u->addr_len)
		return;
	if (inet_pton(AF_INET, hp->host, &a4.sin_addr) == 1) {
		memcpy(&addr, &a4, sizeof a4);
		upstream_set_addr(u, &addr, sizeof a4);
	} else if (inet_pton(AF_INET6, hp->host, &a6.sin6_addr) == 1) {
		memcpy(&addr, &a6, sizeof a6);
		upstream_set_addr(u, &addr, sizeof a6);
	}
}

/* "MOVED 1234 10.0.0.1:6379": the node's index; its address only if it is numeric, names are resolved by the control thread. An empty host, or "?":
 * the node does not know its name, and means the host under which it was reached. */
static uint16_t io_redirect(void *ctx, enum side side, uint16_t slot, struct slice error, bool moved)
{
	struct worker *w = ctx;
	const char *at = memrchr(error.p, ' ', error.n), *here = node_of(w, side, slot)->name;
	char name[ADDRESS_NAME_MAX];
	struct host_port hp, reached;
	uint16_t node;

	fleet_tell_refresh(w, side, "a node redirected a command");
	if (!at || !address_split(at + 1, (size_t)(error.p + error.n - at - 1), &hp))
		return NODE_NONE;
	if (!hp.host[0] || strcmp(hp.host, "?") == 0) {
		if (!address_split(here, strlen(here), &reached))
			return NODE_NONE;
		memcpy(hp.host, reached.host, sizeof hp.host);
	}
	address_map(&w->fleet->config->side[side].map, &hp);
	address_name(name, sizeof name, hp.host, hp.port);
	node = worker_upstream(w, side, name);
	set_numeric_address(w->upstreams[node], &hp);
	if (!w->upstreams[node]->addr_len)
		return NODE_NONE;
	if (moved) {
		worker_route(w, side, slot, node);
		atomic_fetch_add(&w->fleet->epoch, 1);
	}
	return node;
}

static sds io_script(void *ctx, struct slice sha)
{
	struct worker *w = ctx;

	return scripts_load_request(w->fleet->scripts, sha);
}

static void on_preloaded(void *arg, const struct reply *r)
{
	(void)arg;
	(void)r; /* if it failed, the script's call says NOSCRIPT */
}

/* A node that comes up is given all scripts (load_scripts), so once per node is enough until they are forgotten. */
static void io_preload(void *ctx, enum side side, uint16_t slot, uint16_t node, struct slice sha)
{
	struct worker *w = ctx;
	struct upstream *u = node == NODE_NONE ? node_of(w, side, slot) : w->upstreams[node];
	struct { const struct upstream *u; uint64_t epoch; char sha[40]; } what = { .u = u, .epoch = scripts_epoch(w->fleet->scripts) };
	keyhash h;
	sds load;

	if (sha.n != sizeof what.sha)
		return;
	memcpy(what.sha, sha.p, sha.n);
	h = keyhash_of(0, slice((const char *)&what, sizeof what));
	if (known_has(&w->preloaded, h) || !(load = scripts_load_request(w->fleet->scripts, sha)))
		return;
	known_add(&w->preloaded, h);
	upstream_send(u, UPSTREAM_ANY_DB, load, sdslen(load), NULL, 1, on_preloaded, NULL);
	sdsfree(load);
}

static void io_refresh(void *ctx, enum side side, const char *why)
{
	fleet_tell_refresh(ctx, side, why);
}

static bool io_is_up(void *ctx, enum side side, uint16_t slot)
{
	struct upstream *u = node_of(ctx, side, slot);

	if (!upstream_is_up(u))
		upstream_open(u);
	return upstream_is_up(u);
}

/* Of a node's slots, which come in rows, the first is asked about. */
static bool io_are_up(void *ctx, const struct slot_set *slots)
{
	struct worker *w = ctx;

	for (unsigned side = 0; side < SIDES; side++) {
		uint16_t node = NODE_NONE;
		FOR_SLOTS (i, slots) {
			if (w->route[side][i] == node)
				continue;
			node = w->route[side][i];
			if (!io_is_up(w, side, (uint16_t)i))
				return false;
		}
	}
	return true;
}

static uint64_t io_generation(void *ctx, enum side side)
{
	struct worker *w = ctx;

	return w->topology[side] ? w->topology[side]->generation : 0;
}

static bool io_has_expires(void *ctx, enum side side)
{
	struct worker *w = ctx;

	return w->topology[side] && w->topology[side]->has_expires;
}

static void io_receiver(void *ctx, enum side side, struct receiver *out)
{
	struct worker *w = ctx;
	const struct topology *t = w->topology[side];

	*out = (struct receiver){ .product = t ? t->product : PRODUCT_REDIS, .version = t ? t->version : 0 };
}

static bool io_is_cluster(void *ctx, enum side side)
{
	struct worker *w = ctx;

	return w->topology[side] && w->topology[side]->cluster;
}

static void io_repair(void *ctx, uint16_t db, struct slice key, uint16_t slot, uint8_t losses)
{
	struct worker *w = ctx;

	backfill_thread_repair(w->fleet->start.backfill, w->id, db, key, slot, losses);
}

static void io_rescan(void *ctx, uint16_t slot)
{
	struct worker *w = ctx;

	backfill_thread_rescan_slot(w->fleet->start.backfill, w->id, slot);
}

static void io_copied(void *ctx, struct copy *c)
{
	struct worker *w = ctx;

	backfill_thread_copied(w->fleet->start.backfill, w->id, c);
}

static void io_held(void *ctx, uint16_t slot, bool ok)
{
	struct worker *w = ctx;

	backfill_thread_held(w->fleet->start.backfill, w->id, slot, ok);
}

static void io_failing(void *ctx, enum side from, uint16_t slot, const char *why)
{
	failing_tell(ctx, from, slot, why);
}

static void io_changed(void *ctx, uint16_t slot, sds elements, unsigned writes, bool known, sds replies)
{
	struct worker *w = ctx;

	backfill_thread_changed(w->fleet->start.backfill, w->id, slot, elements, writes, known, replies);
}

static void io_fenced(void *ctx, uint64_t flip, bool ok, const char *why)
{
	bool ready = lookout_is_ready(ctx); /* a node may have been lost, or have come, since the flip was told so */

	fleet_tell_fenced(ctx, flip, ok && ready, ok && !ready ? "not every node is watched any more" : why);
}

static void io_alone(void *ctx, bool follower)
{
	alone_quiet(ctx, follower);
}

static bool io_watch(void *ctx, enum side side, uint16_t db, uint16_t slot, struct slice key, reply_fn *fn, void *arg)
{
	struct worker *w = ctx;

	if (engine_is_mirroring(w->engine) && w->fleet->config->mirror_tracking)
		return false;
	keywatch_ask(w, side, db, slot, key, fn, arg);
	return true;
}

static int64_t us_of(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * 1000000LL + ts.tv_nsec / 1000;
}

static int64_t io_now_us(void *ctx)
{
	(void)ctx;
	return us_of(CLOCK_MONOTONIC);
}

static int64_t io_coarse_us(void *ctx)
{
	(void)ctx;
	return us_of(CLOCK_MONOTONIC_COARSE);
}

static int64_t io_clock_ms(void *ctx, enum side side, uint16_t slot)
{
	struct worker *w = ctx;
	const struct topology *t = w->topology[side];
	int64_t us = us_of(CLOCK_REALTIME);

	if (t && t->slot_node[slot] != NODE_NONE)
		us += t->nodes[t->slot_node[slot]].clock_offset_us;
	return us / 1000;
}

void worker_engine_io(struct worker *w, struct engine_io *io)
{
	*io = (struct engine_io){
		.ctx = w, .send = io_send, .send_each = io_send_each, .answer = io_answer, .redirect = io_redirect, .script = io_script, .preload = io_preload, .refresh = io_refresh,
		.is_up = io_is_up, .are_up = io_are_up, .generation = io_generation, .has_expires = io_has_expires, .receiver = io_receiver,
		.is_cluster = io_is_cluster, .repair = io_repair, .rescan = io_rescan, .copied = io_copied, .failing = io_failing, .held = io_held, .changed = io_changed,
		.watch_send = watch_send, .watch_holds = watch_holds, .watch_exec = watch_exec, .watch_disarm = watch_disarm, .watch_kill = watch_kill,
		.fenced = io_fenced, .alone = io_alone, .watch = io_watch, .now_us = io_now_us, .coarse_us = io_coarse_us, .clock_ms = io_clock_ms,
	};
}
