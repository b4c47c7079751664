/* INFO: the fields that clients and monitors read, said of the proxy; what only a server can know (memory of data, keys, persistence) is left out or 0.
 *
 * A table has one row per section. The names of Redis 7.0, and those of Valkey where the source is one. */
#include <stdio.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "proxy/client.h"
#include "proxy/local.h"
#include "resp/write.h"

#define REDIS_COMPATIBLE "7.2.4" /* the redis_version that every Valkey gives */

static int64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec * 1000000LL + ts.tv_nsec / 1000;
}

/* 40 hexadecimal digits, the same as long as the process lives. */
static sds cat_run_id(sds s, const struct fleet *f, const char *what)
{
	char seed[128];
	int n = snprintf(seed, sizeof seed, "%s %ld %lld %d", what, (long)getpid(), (long long)f->started_ms, f->config->port);
	XXH128_hash_t a = XXH3_128bits_withSeed(seed, (size_t)n, 1), b = XXH3_128bits_withSeed(seed, (size_t)n, 2);

	return sdscatprintf(s, "%016llx%016llx%08x", (unsigned long long)a.high64, (unsigned long long)a.low64, (unsigned)b.low64);
}

/* One counter over all workers. */
#define SUM(w, field) sum((w), offsetof(struct worker_stats, field))
static uint64_t sum(const struct worker *w, size_t offset)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < w->fleet->nworkers; i++) {
		const char *stats = (const char *)&w->fleet->stats[i];
		n += atomic_load_explicit((const _Atomic uint64_t *)(const void *)(stats + offset), memory_order_relaxed);
	}
	return n;
}

#define SUM_LLU(w, field) ((unsigned long long)SUM(w, field))

static sds version_lines(sds s, const struct identity *id)
{
	if (!id->valkey)
		return sdscatprintf(s, "redis_version:%s\r\n", id->version);
	return sdscatprintf(s, "redis_version:%s\r\nserver_name:valkey\r\nvalkey_version:%s\r\n", REDIS_COMPATIBLE, id->version);
}

static sds server(sds s, struct worker *w, const struct identity *id)
{
	int64_t now = now_us(), up = (now / 1000 - w->fleet->started_ms) / 1000;
	const char *mode = id->cluster ? "cluster" : "standalone";
	struct utsname os = { .sysname = "?" };

	uname(&os);
	s = version_lines(s, id);
	s = sdscatprintf(s, "redis_git_sha1:00000000\r\nredis_git_dirty:0\r\nredis_mode:%s\r\n", mode);
	if (id->valkey)
		s = sdscatprintf(s, "server_mode:%s\r\n", mode);
	s = sdscatprintf(s, "os:%s %s %s\r\narch_bits:%zu\r\nmultiplexing_api:%s\r\nprocess_id:%ld\r\nrun_id:", os.sysname, os.release, os.machine,
			 8 * sizeof(void *), ev_backend(w->loop) == EVBACKEND_EPOLL ? "epoll" : "libev", (long)getpid());
	s = cat_run_id(s, w->fleet, "process");
	return sdscatprintf(s, "\r\ntcp_port:%d\r\nserver_time_usec:%lld\r\nuptime_in_seconds:%lld\r\nuptime_in_days:%lld\r\nconfig_file:%s\r\n"
			       "io_threads_active:%d\r\n", w->fleet->config->port, (long long)now, (long long)up, (long long)(up / 86400),
			    w->fleet->config->file ? w->fleet->config->file : "", w->fleet->nworkers > 1);
}

static sds clients(sds s, struct worker *w, const struct identity *id)
{
	unsigned long long blocked = 0;

	(void)id;
	for (unsigned i = 0; i < w->fleet->nworkers; i++)
		blocked += atomic_load_explicit(&w->fleet->stats[i].blocked, memory_order_relaxed);
	return sdscatprintf(s, "connected_clients:%llu\r\ncluster_connections:0\r\nmaxclients:%d\r\nblocked_clients:%llu\r\ntracking_clients:%llu\r\n",
			    (unsigned long long)atomic_load(&w->fleet->nclients), atomic_load(&w->fleet->maxclients), blocked,
			    (unsigned long long)atomic_load(&w->fleet->ntrackers));
}

/* Of the proxy's process: it holds no data. */
static sds memory(sds s, struct worker *w, const struct identity *id)
{
	unsigned long long rss = 0, pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	(void)w;
	(void)id;
	if (f) {
		if (fscanf(f, "%*u %llu", &pages) == 1)
			rss = pages * (unsigned long long)sysconf(_SC_PAGESIZE);
		fclose(f);
	}
	return sdscatprintf(s, "used_memory:%llu\r\nused_memory_rss:%llu\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n", rss, rss);
}

static sds persistence(sds s, struct worker *w, const struct identity *id)
{
	(void)w;
	(void)id;
	return sdscat(s, "loading:0\r\nasync_loading:0\r\nrdb_bgsave_in_progress:0\r\naof_enabled:0\r\naof_rewrite_in_progress:0\r\n");
}

static sds stats(sds s, struct worker *w, const struct identity *id)
{
	(void)id;
	return sdscatprintf(s, "total_connections_received:%llu\r\ntotal_commands_processed:%llu\r\n", SUM_LLU(w, connections), SUM_LLU(w, commands));
}

static sds replication(sds s, struct worker *w, const struct identity *id)
{
	(void)id;
	s = sdscat(s, "role:master\r\nconnected_slaves:0\r\nmaster_failover_state:no-failover\r\nmaster_replid:");
	s = cat_run_id(s, w->fleet, "replication");
	return sdscatprintf(s, "\r\nmaster_replid2:%040d\r\nmaster_repl_offset:%lld\r\nsecond_repl_offset:-1\r\nrepl_backlog_active:0\r\n", 0,
			    (long long)local_replication_offset(w));
}

static sds cpu(sds s, struct worker *w, const struct identity *id)
{
	struct rusage u;

	(void)w;
	(void)id;
	getrusage(RUSAGE_SELF, &u);
	return sdscatprintf(s, "used_cpu_sys:%lld.%06ld\r\nused_cpu_user:%lld.%06ld\r\n", (long long)u.ru_stime.tv_sec, (long)u.ru_stime.tv_usec,
			    (long long)u.ru_utime.tv_sec, (long)u.ru_utime.tv_usec);
}

static sds nothing(sds s, struct worker *w, const struct identity *id)
{
	(void)w;
	(void)id;
	return s;
}

static sds cluster(sds s, struct worker *w, const struct identity *id)
{
	(void)w;
	return sdscatprintf(s, "cluster_enabled:%d\r\n", id->cluster);
}

/* The proxy's own counters. The phase is the operator's business: proxyctl status. */
static sds crossfade(sds s, struct worker *w, const struct identity *id)
{
	int64_t lag = 0;

	(void)id;
	for (unsigned i = 0; i < w->fleet->nworkers; i++) {
		int64_t one = atomic_load_explicit(&w->fleet->stats[i].lag_us, memory_order_relaxed);
		lag = one > lag ? one : lag;
	}
	s = sdscatprintf(s, "crossfade_workers:%u\r\ncrossfade_clients:%llu\r\ncrossfade_connections:%llu\r\ncrossfade_commands:%llu\r\n"
			    "crossfade_reads:%llu\r\ncrossfade_writes:%llu\r\n", w->fleet->nworkers, SUM_LLU(w, clients), SUM_LLU(w, connections),
			 SUM_LLU(w, commands), SUM_LLU(w, reads), SUM_LLU(w, writes));
	s = sdscatprintf(s, "crossfade_effects:%llu\r\ncrossfade_queued:%llu\r\ncrossfade_queued_bytes:%llu\r\ncrossfade_lag_ms:%lld\r\n"
			    "crossfade_mismatches:%llu\r\ncrossfade_snapshots:%llu\r\ncrossfade_foreign:%llu\r\n", SUM_LLU(w, effects), SUM_LLU(w, queued),
			 SUM_LLU(w, queued_bytes), (long long)((lag + 999) / 1000), SUM_LLU(w, mismatches), SUM_LLU(w, snapshots), SUM_LLU(w, foreign));
	return sdscatprintf(s, "crossfade_dirty_keys:%llu\r\ncrossfade_dirty_slots:%llu\r\ncrossfade_errors_upstream:%llu\r\n"
			       "crossfade_unknown_outcome:%llu\r\ncrossfade_large:%llu\r\ncrossfade_large_held:%llu\r\ncrossfade_large_held_most:%llu\r\n",
			    SUM_LLU(w, dirty_keys), SUM_LLU(w, dirty_slots), SUM_LLU(w, errors_upstream), SUM_LLU(w, unknown_outcome), SUM_LLU(w, large),
			    SUM_LLU(w, large_held), SUM_LLU(w, large_held_most));
}

static const struct section {
	const char *name, *title;
	sds (*print)(sds s, struct worker *w, const struct identity *id);
} sections[] = { /* in the servers' order */
	{ "server", "Server", server },
	{ "clients", "Clients", clients },
	{ "memory", "Memory", memory },
	{ "persistence", "Persistence", persistence },
	{ "stats", "Stats", stats },
	{ "replication", "Replication", replication },
	{ "cpu", "CPU", cpu },
	{ "modules", "Modules", nothing },
	{ "errorstats", "Errorstats", nothing },
	{ "cluster", "Cluster", cluster },
	{ "keyspace", "Keyspace", nothing },
	{ "crossfade", "Crossfade", crossfade },
};
#define SECTIONS (sizeof sections / sizeof *sections)

static bool means_all(struct slice word)
{
	return slice_is(word, "default") || slice_is(word, "all") || slice_is(word, "everything");
}

/* Sections that nobody knows say nothing, as on the servers. */
static bool is_wanted(const struct section *section, uint32_t argc, const struct slice *argv)
{
	for (uint32_t i = 1; i < argc; i++)
		if (means_all(argv[i]) || slice_is(argv[i], section->name))
			return true;
	return argc == 1;
}

void local_info(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct identity id = local_identity(w);
	sds s = sdsempty();

	(void)cmd;
	for (size_t i = 0; i < SECTIONS; i++) {
		if (!is_wanted(&sections[i], argc, w->argv))
			continue;
		s = sdscatprintf(s, "%s# %s\r\n", sdslen(s) ? "\r\n" : "", sections[i].title);
		s = sections[i].print(s, w, &id);
	}
	client_reply(w, c, local_cat_verbatim(sdsempty(), c->proto, slice(s, sdslen(s))));
	sdsfree(s);
}
