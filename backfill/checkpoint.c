/* checkpoint.c - state_dir/backfill: how far the scan is, so that a stopped or killed proxy goes on where it was.
 *
 * One record, replaced whole: written beside, fsynced, renamed, directory fsynced. It says only what the follower has acknowledged: a slot
 * is in it once every key of it was, a standalone cursor once every key before it was (design, section 7). At most one write per second. */
#include "backfill/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#define MAGIC "XFBF"
#define FORMAT 2
#define WRITE_EVERY_S 1.

struct record {
	char magic[4];
	uint32_t format;
	uint32_t size;        /* of this struct: a file cut short or of another build does not fit */
	uint8_t from;         /* enum side */
	uint8_t cluster;
	uint8_t done;         /* everything is copied */
	uint8_t pad;
	uint32_t db;          /* goes with the cursor */
	char migration[128];
	char run_id[48];      /* standalone: the process whose cursor it is */
	uint64_t cursor;
	uint64_t keys_copied, bytes, keys_total;
	uint8_t slots[SLOTS / 8];
	uint64_t sum;         /* XXH3 of all before it */
};

static uint64_t record_sum(const struct record *r)
{
	return XXH3_64bits(r, offsetof(struct record, sum));
}

static void path_of(const struct backfill *b, const char *suffix, char *out, size_t n)
{
	snprintf(out, n, "%s/backfill%s", b->config.state_dir, suffix);
}

static void log_errno(struct backfill *b, const char *what, const char *path)
{
	if (bf_may_log(b, LOGK_OTHER))
		b->host->log(b->host->ctx, BF_LOG_WARNING, "cannot %s '%s': %s", what, path, strerror(errno));
}

static bool write_all(int fd, const void *data, size_t n)
{
	const char *p = data;

	while (n > 0) {
		ssize_t w = write(fd, p, n);
		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return false;
		p += w;
		n -= (size_t)w;
	}
	return true;
}

static bool fsync_dir(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool ok = fd >= 0 && fsync(fd) == 0;

	if (fd >= 0)
		close(fd);
	return ok;
}

static bool record_store(struct backfill *b, const struct record *r)
{
	char path[4096], tmp[4096];
	int fd;

	path_of(b, "", path, sizeof(path));
	path_of(b, ".new", tmp, sizeof(tmp));
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0) {
		log_errno(b, "create", tmp);
		return false;
	}
	bool ok = write_all(fd, r, sizeof(*r)) && fsync(fd) == 0;
	if (close(fd) < 0)
		ok = false;
	if (!ok || rename(tmp, path) < 0 || !fsync_dir(b->config.state_dir)) {
		log_errno(b, "write", path);
		unlink(tmp);
		return false;
	}
	return true;
}

static void checkpoint_write(struct backfill *b)
{
	struct scan *s = &b->scan;
	struct record r;

	memset(&r, 0, sizeof(r)); /* padding is summed, too */
	memcpy(r.magic, MAGIC, 4);
	r.format = FORMAT;
	r.size = sizeof(r);
	r.from = (uint8_t)s->from;
	r.cluster = s->cluster;
	r.done = s->stage == SCAN_DONE;
	snprintf(r.migration, sizeof(r.migration), "%s", b->config.migration_id ? b->config.migration_id : "");
	snprintf(r.run_id, sizeof(r.run_id), "%s", s->run_id);
	r.cursor = s->safe_cursor;
	r.db = s->safe_db;
	r.keys_copied = s->safe_keys;
	r.bytes = stat_get(&b->stats->bytes);
	r.keys_total = stat_get(&b->stats->keys_total);
	for (unsigned i = 0; i < SLOTS; i++)
		if (s->state[i] == SLOT_DONE)
			r.slots[i / 8] |= (uint8_t)(1u << (i % 8));
	r.sum = record_sum(&r);
	if (record_store(b, &r))
		b->checkpoint_dirty = false;
}

/* Why the record cannot be used, NULL if it can. */
static const char *record_unfit(struct backfill *b, const struct record *r, ssize_t n)
{
	if (n != sizeof(*r) || memcmp(r->magic, MAGIC, 4) != 0 || r->format != FORMAT || r->size != sizeof(*r))
		return "it is of another format or cut short";
	if (r->sum != record_sum(r))
		return "its checksum is wrong";
	if (strncmp(r->migration, b->config.migration_id ? b->config.migration_id : "", sizeof(r->migration) - 1) != 0)
		return "it is of another migration";
	if (r->done)
		return NULL; /* in either direction: since then the mirror holds both sides equal */
	if (r->from != b->scan.from)
		return "it was made in the other direction";
	if (r->cluster != b->scan.cluster)
		return "the authority was of another kind";
	if (!r->cluster && (r->cursor || r->db) && (!r->run_id[0] || strcmp(r->run_id, b->scan.run_id) != 0))
		return "the server was restarted, a cursor is good for one process only";
	return NULL;
}

bool checkpoint_load(struct backfill *b)
{
	struct scan *s = &b->scan;
	struct record r;
	char path[4096];
	const char *why;

	if (!b->config.state_dir)
		return false;
	path_of(b, "", path, sizeof(path));
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		if (errno != ENOENT)
			log_errno(b, "read", path);
		return false;
	}
	memset(&r, 0, sizeof(r));
	ssize_t n = read(fd, &r, sizeof(r));
	close(fd);
	why = record_unfit(b, &r, n);
	if (why) {
		b->host->log(b->host->ctx, BF_LOG_WARNING, "checkpoint '%s' is not used, the copy begins again: %s", path, why);
		return false;
	}
	for (unsigned i = 0; i < SLOTS; i++)
		if (r.done || (r.slots[i / 8] >> (i % 8) & 1))
			s->state[i] = SLOT_DONE;
	s->cursor = s->safe_cursor = r.cursor;
	s->db = s->safe_db = r.db;
	s->safe_keys = r.keys_copied;
	stat_set(&b->stats->keys_copied, r.keys_copied);
	stat_set(&b->stats->bytes, r.bytes);
	stat_set(&b->stats->keys_total, r.keys_total);
	if (r.done)
		s->stage = SCAN_DONE;
	return true;
}

void checkpoint_touch(struct backfill *b)
{
	b->checkpoint_dirty = true;
}

void checkpoint_tick(struct backfill *b, double now, bool force)
{
	if (!b->config.state_dir || !b->checkpoint_dirty)
		return;
	if (!force && now - b->checkpoint_at < WRITE_EVERY_S)
		return;
	b->checkpoint_at = now;
	checkpoint_write(b);
}

void checkpoint_remove(struct backfill *b)
{
	char path[4096];

	b->checkpoint_dirty = false;
	if (!b->config.state_dir)
		return;
	path_of(b, "", path, sizeof(path));
	if (unlink(path) < 0 && errno != ENOENT)
		log_errno(b, "remove", path);
	fsync_dir(b->config.state_dir);
}
