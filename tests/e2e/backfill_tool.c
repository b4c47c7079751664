/* backfill_tool - the backfill worker without the proxy, on real servers: a host that applies every block at once over a connection of its own.
 *
 *   backfill_tool [options] SOURCE TARGET STEP…      SOURCE, TARGET: port or host:port of any node
 *   steps:   copy | verify | repair (verify with repair) | rescan[:SLOT] | repair-key:KEY
 *   options: --state DIR  --id ID  --stale N (each copy's first N tries are stale)  --refuse PCT  --ring-full PCT  --busy PCT  --busy-slot N
 *            --follow (the topology is read again)  -v
 *            --keys-per-s N  --bytes-per-s N  --large N  --die-after N (exit 9 after N keys)  --timeout S  --reverse (authority: target)
 * Prints one JSON object per step; exit 0, 2 if a verify found differences, 75 when a step did not end in time. */
#include <ev.h>
#include <hiredis/hiredis.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "backfill/backfill.h"
#include "backfill/bulk.h"
#include "backfill/large.h"
#include "resp/parse.h"

static struct ev_loop *loop;
static struct backfill *bf;
static struct bf_stats stats;
static struct topology *topo[SIDES];
static struct bulk *data[SIDES][64]; /* by index of the topology's nodes */
static int opt_stale, opt_refuse, opt_ring_full, opt_busy, opt_verbose, opt_busy_slot = -1;
static long opt_die_after;
static enum side authority_side = SIDE_SOURCE;
static uint64_t applied, stale_given, inbands, repairs_left, marks, holds, cleans, slots_done;
static uint64_t deletes;
static bool finished;

static bool chance(int pct)
{
	return pct > 0 && rand() % 100 < pct;
}

/* ---- topology ---- */

static void address_of(struct node *n, const char *host, int port)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *a;
	char service[16];

	snprintf(service, sizeof(service), "%d", port);
	snprintf(n->name, sizeof(n->name), "%s:%d", host, port);
	if (getaddrinfo(host, service, &hints, &a) != 0)
		exit(69);
	memcpy(&n->addr, a->ai_addr, a->ai_addrlen);
	n->addr_len = a->ai_addrlen;
	n->up = true;
	freeaddrinfo(a);
}

static void field(const char *info, const char *name, char *out, size_t n)
{
	const char *p = strstr(info, name);

	out[0] = '\0';
	if (p)
		snprintf(out, n, "%.*s", (int)strcspn(p + strlen(name), "\r\n"), p + strlen(name));
}

static uint32_t version_of(const char *text)
{
	unsigned a = 0, b = 0, c = 0;

	sscanf(text, "%u.%u.%u", &a, &b, &c);
	return a << 16 | b << 8 | c;
}

static void run_id_of(struct node *n, const char *host, int port)
{
	redisContext *c = redisConnect(host, port);
	redisReply *r = redisCommand(c, "INFO server");

	if (!r) {
		fprintf(stderr, "cannot reach %s:%d: %s\n", host, port, c->errstr);
		exit(69);
	}
	field(r->str, "\nrun_id:", n->run_id, sizeof(n->run_id));
	freeReplyObject(r);
	redisFree(c);
}

static struct topology *discover(enum side side, const char *where)
{
	static uint64_t generation;
	char host[256] = "127.0.0.1", text[64];
	int port;
	const char *colon = strrchr(where, ':');

	port = atoi(colon ? colon + 1 : where);
	if (colon)
		snprintf(host, sizeof(host), "%.*s", (int)(colon - where), where);
	redisContext *c = redisConnect(host, port);
	redisReply *r = redisCommand(c, "INFO");
	if (!r) {
		fprintf(stderr, "cannot reach %s: %s\n", where, c->errstr);
		exit(69);
	}
	bool cluster = strstr(r->str, "\ncluster_enabled:1") != NULL, valkey = strstr(r->str, "\nvalkey_version:") != NULL;
	field(r->str, valkey ? "\nvalkey_version:" : "\nredis_version:", text, sizeof(text));
	redisReply *s = cluster ? redisCommand(c, "CLUSTER SLOTS") : NULL;
	struct topology *t = topology_new(side, 1);
	free(t->nodes);
	t->nodes = calloc(64, sizeof(*t->nodes));
	t->cluster = cluster;
	t->product = valkey ? PRODUCT_VALKEY : PRODUCT_REDIS;
	t->version = version_of(text);
	t->generation = ++generation;
	t->databases = cluster ? 1 : 16;
	t->nnodes = 0;
	if (!cluster) {
		address_of(&t->nodes[0], host, port);
		run_id_of(&t->nodes[0], host, port);
		t->nnodes = 1;
		memset(t->slot_node, 0, sizeof(t->slot_node));
	}
	for (size_t i = 0; s && i < s->elements; i++) {
		redisReply *e = s->element[i], *m = e->element[2];
		char name[300];
		unsigned n;
		snprintf(name, sizeof(name), "%s:%d", m->element[0]->str, (int)m->element[1]->integer);
		for (n = 0; n < t->nnodes && strcmp(t->nodes[n].name, name) != 0; n++)
			;
		if (n == t->nnodes) {
			t->nnodes++;
			address_of(&t->nodes[n], m->element[0]->str, (int)m->element[1]->integer);
			run_id_of(&t->nodes[n], m->element[0]->str, (int)m->element[1]->integer);
		}
		for (long long k = e->element[0]->integer; k <= e->element[1]->integer; k++)
			t->slot_node[k] = (uint16_t)n;
	}
	freeReplyObject(r);
	if (s)
		freeReplyObject(s);
	redisFree(c);
	return t;
}

/* ---- the owner ---- */

struct job {
	struct copy *c;
	unsigned got, want;
	bool failed;
	sds replies[4];
};

static struct bulk *data_of(enum side side, uint16_t slot)
{
	return data[side][topo[side]->slot_node[slot]];
}

static void answer(struct copy *c, enum copy_result r)
{
	c->result = r;
	if (!c->repair) {
		backfill_copied(bf, c);
		return;
	}
	if (r == COPY_APPLIED || c->kind == COPY_EQUAL)
		repairs_left--;
	else
		backfill_repair(bf, c->db, slice(c->key, c->key_len), c->slot, (uint8_t)(c->losses + (r == COPY_STALE)));
	copy_free(c);
}

static void on_applied(void *arg, struct slice reply, const char *why)
{
	struct job *j = arg;

	if (!reply.p) {
		free(j->c->why);
		j->c->why = strdup(why);
		answer(j->c, COPY_REFUSED);
		free(j);
		return;
	}
	bool error = reply.p[0] == '-' || (reply.p[0] == '*' && j->c->tmp && !large_swapped(reply)) ||
		     (reply.p[0] == '*' && !j->c->tmp && memmem(reply.p, reply.n, "\r\n-", 3) && reply.n < 4096);
	if (error && !j->failed) {
		j->failed = true;
		free(j->c->why);
		j->c->why = strndup(reply.p, reply.n < 200 ? reply.n : 200);
	}
	if (++j->got < j->want)
		return;
	if (!j->failed && ++applied == (uint64_t)opt_die_after)
		_exit(9);
	answer(j->c, j->failed ? COPY_ERROR : COPY_APPLIED);
	free(j);
}

static void apply(struct copy *c)
{
	struct job *j = calloc(1, sizeof(*j));

	j->c = c;
	j->want = c->ncommands;
	bulk_send(data_of(SIDE_OTHER(c->from), c->slot), c->db, c->block, sdslen(c->block), c->ncommands, on_applied, j);
}

static void on_inband(void *arg, struct slice reply, const char *why)
{
	struct job *j = arg;
	struct copy *c = j->c;
	struct slice replies[4];
	enum recipe next;

	(void)why;
	if (!reply.p) {
		answer(c, COPY_REFUSED);
		free(j);
		return;
	}
	j->replies[j->got++] = sdsnewlen(reply.p, reply.n);
	if (j->got < j->want)
		return;
	for (unsigned i = 0; i < j->got; i++)
		replies[i] = slice(j->replies[i], sdslen(j->replies[i]));
	struct receiver to = { topo[SIDE_OTHER(c->from)]->product, topo[SIDE_OTHER(c->from)]->version };
	sdsclear(c->block);
	enum recipe_result r = recipe_compose(c->recipe, &to, slice(c->key, c->key_len), replies, j->got, (int64_t)(ev_time() * 1000), &c->block,
					      &c->ncommands, &next, &why);
	for (unsigned i = 0; i < j->got; i++)
		sdsfree(j->replies[i]);
	free(j);
	if (r == RECIPE_OK || r == RECIPE_GONE)
		apply(c);
	else
		answer(c, COPY_TOO_BIG);
}

/* Answers come from the loop, as a mailbox's would. */
static struct copy *later;
static struct copy **later_tail = &later;
static ev_timer later_timer;

static void later_push(struct copy *c, enum copy_result r)
{
	c->result = r;
	c->next = NULL;
	*later_tail = c;
	later_tail = &c->next;
	if (!ev_is_active(&later_timer)) {
		ev_timer_set(&later_timer, 0., 0.);
		ev_timer_start(loop, &later_timer);
	}
}

static void on_later(struct ev_loop *l, ev_timer *w, int revents)
{
	struct copy *c = later;

	(void)l, (void)w, (void)revents;
	later = NULL;
	later_tail = &later;
	while (c) {
		struct copy *next = c->next;
		answer(c, c->result);
		c = next;
	}
}

static bool host_offer(void *ctx, struct copy *c)
{
	(void)ctx;
	if (chance(opt_ring_full))
		return false;
	if (c->kind == COPY_FAILED) {
		if (opt_verbose)
			fprintf(stderr, "failed: %s\n", c->why);
		later_push(c, COPY_REFUSED);
		return true;
	}
	if (chance(opt_refuse)) {
		later_push(c, COPY_REFUSED);
		return true;
	}
	if (c->kind == COPY_INBAND) {
		inbands++;
		struct job *j = calloc(1, sizeof(*j));
		j->c = c;
		j->want = c->ncommands;
		bulk_send(data_of(c->from, c->slot), c->db, c->block, sdslen(c->block), c->ncommands, on_inband, j);
		return true;
	}
	if (c->losses < opt_stale) {
		stale_given++;
		later_push(c, COPY_STALE);
		return true;
	}
	deletes += memmem(c->block, sdslen(c->block) < 32 ? sdslen(c->block) : 32, "UNLINK", 6) && c->ncommands == 1;
	apply(c);
	return true;
}

/* ---- the rest of the host ---- */

static uint64_t host_token(void *ctx, keyhash key, uint16_t slot, bool quiet)
{
	(void)ctx, (void)key, (void)quiet;
	return slot == opt_busy_slot || chance(opt_busy) ? TOKEN_BUSY : 42;
}

static enum side host_authority(void *ctx, uint16_t slot)
{
	(void)ctx, (void)slot;
	return authority_side;
}

static bool host_mark(void *ctx, uint16_t db, struct slice key, uint16_t slot)
{
	(void)ctx;
	if (chance(opt_ring_full))
		return false;
	marks++;
	repairs_left++;
	backfill_repair(bf, db, key, slot, 0);
	return true;
}

static ev_timer hold_timer;
static uint16_t hold_slot;

static void on_hold(struct ev_loop *l, ev_timer *w, int revents)
{
	(void)l, (void)w, (void)revents;
	backfill_held(bf, hold_slot, !chance(opt_refuse));
}

static void host_hold(void *ctx, uint16_t slot, unsigned max_ms)
{
	(void)ctx, (void)max_ms;
	holds++;
	hold_slot = slot;
	ev_timer_stop(loop, &hold_timer);
	ev_timer_set(&hold_timer, 0.0005, 0.);
	ev_timer_start(loop, &hold_timer);
}

static void host_release(void *ctx, uint16_t slot)
{
	(void)ctx, (void)slot;
}

static void host_slot_done(void *ctx, uint16_t slot)
{
	(void)ctx;
	slots_done += slot == SLOTS ? SLOTS : 1;
}

static void host_slot_clean(void *ctx, uint16_t slot)
{
	(void)ctx;
	cleans += slot == SLOTS ? SLOTS : 1;
}

static void host_latency(void *ctx, enum side side, uint64_t *requests, uint64_t *us)
{
	(void)ctx;
	(void)side;
	*requests = *us = 0;
}

static void host_event(void *ctx, const char *what)
{
	(void)ctx;
	if (strcmp(what, "backfill finished") == 0 || strcmp(what, "verify finished") == 0)
		finished = true;
}

static void host_log(void *ctx, int level, const char *fmt, ...)
{
	va_list ap;

	(void)ctx, (void)level;
	va_start(ap, fmt);
	fprintf(stderr, "log: ");
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
}

static int64_t host_now_ms(void *ctx, enum side side)
{
	struct timespec ts;

	(void)ctx, (void)side;
	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static const struct backfill_host host = {
	.token = host_token, .authority = host_authority, .offer = host_offer, .mark = host_mark, .hold = host_hold,
	.release = host_release, .slot_done = host_slot_done, .slot_clean = host_slot_clean, .latency = host_latency,
	.event = host_event, .log = host_log, .now_ms = host_now_ms,
};

/* ---- steps ---- */

static double cpu_s(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)u.ru_utime.tv_sec + (double)u.ru_stime.tv_sec + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static uint64_t rescan_want;

static void on_poll(struct ev_loop *l, ev_timer *w, int revents)
{
	(void)w, (void)revents;
	if (rescan_want && cleans >= rescan_want)
		finished = true;
	if (finished && repairs_left == 0)
		ev_break(l, EVBREAK_ALL);
}

/* With --follow the topology is read again twice a second, as the control thread does. */
static const char *where[SIDES];
static bool opt_follow;

static void data_rebuild(enum side s)
{
	for (unsigned n = 0; n < 64; n++) {
		bulk_free(data[s][n]);
		data[s][n] = NULL;
	}
	for (unsigned n = 0; n < topo[s]->nnodes; n++) {
		struct bulk_options o = { .addr = topo[s]->nodes[n].addr, .addr_len = topo[s]->nodes[n].addr_len,
					  .connect_timeout_s = 5, .reply_timeout_s = 30 };
		snprintf(o.name, sizeof(o.name), "data %s", topo[s]->nodes[n].name);
		data[s][n] = bulk_new(loop, &o);
	}
}

static void on_follow(struct ev_loop *l, ev_timer *w, int revents)
{
	(void)l, (void)w, (void)revents;
	for (int s = 0; s < SIDES; s++) {
		struct topology *t = discover(s, where[s]);
		if (t->nnodes == topo[s]->nnodes && memcmp(t->slot_node, topo[s]->slot_node, sizeof(t->slot_node)) == 0 &&
		    strcmp(t->nodes[0].run_id, topo[s]->nodes[0].run_id) == 0) {
			topology_unref(t);
			continue;
		}
		topology_unref(topo[s]);
		topo[s] = t;
		data_rebuild(s);
		backfill_topology(bf, topology_ref(t));
	}
}

static void on_give_up(struct ev_loop *l, ev_timer *w, int revents)
{
	(void)l, (void)w, (void)revents;
	fprintf(stderr, "timed out: finished %d repairs %llu state %d copied %llu checked %llu cleans %llu held_by %s\n", finished,
		(unsigned long long)repairs_left, stats.state, (unsigned long long)stats.keys_copied, (unsigned long long)stats.checked,
		(unsigned long long)cleans, bf_held_names[stats.held_by]);
	_exit(75);
}

static uint64_t run_step(const char *step)
{
	double t0 = ev_time(), c0 = cpu_s();
	uint64_t diffs = 0;

	finished = false;
	rescan_want = cleans = holds = 0;
	if (strcmp(step, "copy") == 0) {
		backfill_start(bf);
	} else if (strcmp(step, "verify") == 0 || strcmp(step, "repair") == 0) {
		backfill_verify(bf, step[0] == 'r');
	} else if (strncmp(step, "rescan", 6) == 0) {
		rescan_want = step[6] ? 1 : SLOTS;
		backfill_rescan(bf, step[6] ? (uint16_t)atoi(step + 7) : SLOTS);
	} else if (strncmp(step, "repair-key:", 11) == 0) {
		finished = true;
		repairs_left++;
		backfill_repair(bf, 0, slice(step + 11, strlen(step + 11)), slot_of(slice(step + 11, strlen(step + 11))), 0);
	} else {
		fprintf(stderr, "unknown step '%s'\n", step);
		exit(64);
	}
	ev_run(loop, 0);
	double wall = ev_time() - t0, cpu = cpu_s() - c0;
	diffs = stats.missing + stats.type + stats.value + stats.expiry + stats.extra;
	printf("{\"step\": \"%s\", \"s\": %.3f, \"cpu_s\": %.3f, \"keys_total\": %llu, \"keys_copied\": %llu, \"keys_retried\": %llu, "
	       "\"bytes\": %llu, \"slots_done\": %llu, \"uncarried\": %llu, \"inband\": %llu, \"stale\": %llu, \"deletes\": %llu, \"holds\": %llu, ",
	       step, wall, cpu, (unsigned long long)stats.keys_total, (unsigned long long)stats.keys_copied, (unsigned long long)stats.keys_retried,
	       (unsigned long long)stats.bytes, (unsigned long long)slots_done, (unsigned long long)stats.uncarried, (unsigned long long)inbands,
	       (unsigned long long)stale_given, (unsigned long long)deletes, (unsigned long long)holds);
	printf("\"applied\": %llu, \"checked\": %llu, \"missing\": %llu, \"type\": %llu, \"value\": %llu, \"expiry\": %llu, \"extra\": %llu, "
	       "\"repaired\": %llu, \"marks\": %llu, \"cleans\": %llu}\n",
	       (unsigned long long)applied, (unsigned long long)stats.checked, (unsigned long long)stats.missing, (unsigned long long)stats.type,
	       (unsigned long long)stats.value, (unsigned long long)stats.expiry, (unsigned long long)stats.extra,
	       (unsigned long long)stats.repaired, (unsigned long long)marks, (unsigned long long)cleans);
	fflush(stdout);
	return step[0] == 'v' ? diffs : 0;
}

int main(int argc, char **argv)
{
	struct backfill_config config = { .migration_id = "driver" };
	double timeout = 120;
	int i;

	for (i = 1; i < argc && argv[i][0] == '-'; i++) {
		const char *o = argv[i];
		if (strcmp(o, "--reverse") == 0) { authority_side = SIDE_TARGET; continue; }
		if (strcmp(o, "--follow") == 0) { opt_follow = true; continue; }
		if (strcmp(o, "-v") == 0) { opt_verbose = 1; continue; }
		const char *v = argv[++i];
		if (strcmp(o, "--state") == 0) config.state_dir = v;
		else if (strcmp(o, "--id") == 0) config.migration_id = v;
		else if (strcmp(o, "--stale") == 0) opt_stale = atoi(v);
		else if (strcmp(o, "--refuse") == 0) opt_refuse = atoi(v);
		else if (strcmp(o, "--ring-full") == 0) opt_ring_full = atoi(v);
		else if (strcmp(o, "--busy") == 0) opt_busy = atoi(v);
		else if (strcmp(o, "--busy-slot") == 0) opt_busy_slot = atoi(v);
		else if (strcmp(o, "--keys-per-s") == 0) config.keys_per_s = (uint64_t)atoll(v);
		else if (strcmp(o, "--bytes-per-s") == 0) config.bytes_per_s = (uint64_t)atoll(v);
		else if (strcmp(o, "--large") == 0) config.large_bytes = (uint64_t)atoll(v);
		else if (strcmp(o, "--die-after") == 0) opt_die_after = atol(v);
		else if (strcmp(o, "--timeout") == 0) timeout = atof(v);
		else { fprintf(stderr, "unknown option '%s'\n", o); return 64; }
	}
	if (argc - i < 3) {
		fprintf(stderr, "usage: backfill_tool [options] SOURCE TARGET STEP…\n");
		return 64;
	}
	loop = ev_default_loop(0);
	ev_init(&later_timer, on_later);
	ev_init(&hold_timer, on_hold);
	bf = backfill_new(loop, &config, &host, &stats);
	for (int s = 0; s < SIDES; s++) {
		where[s] = argv[i + s];
		topo[s] = discover(s, where[s]);
		data_rebuild(s);
		backfill_topology(bf, topology_ref(topo[s]));
	}
	ev_timer poll, give_up, follow;
	ev_timer_init(&poll, on_poll, 0.002, 0.002);
	ev_timer_init(&give_up, on_give_up, timeout, 0.);
	ev_timer_init(&follow, on_follow, 0.5, 0.5);
	if (opt_follow)
		ev_timer_start(loop, &follow);
	ev_timer_start(loop, &poll);
	ev_timer_start(loop, &give_up);
	uint64_t diffs = 0;
	for (i += 2; i < argc; i++)
		diffs += run_step(argv[i]);
	backfill_free(bf);
	for (int s = 0; s < SIDES; s++) {
		for (unsigned n = 0; n < topo[s]->nnodes; n++)
			bulk_free(data[s][n]);
		topology_unref(topo[s]);
	}
	return diffs ? 2 : 0;
}
