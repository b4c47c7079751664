/* checkpoint.c - state_dir/backfill: how far the scan is, so that a stopped or killed proxy goes on where it was.
 *
 * One record, replaced whole: written beside, fsynced, renamed, directory fsynced. It says only what the follower has acknowledged: a slot
 * is in it once every key of it was, a standalone cursor once every key before it was (design, section 7). At most one write per second. */
#include "backfill/internal.h"

#include <string.h>
#include <xxhash.h>

#define NAME "backfill"
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
	/* A slot that is done may hold keys that could not be carried: those are named first. */
	if (uncarried_save(b) && file_store(b, NAME, &r, sizeof(r)))
		b->checkpoint_dirty = false;
}

/* Why the record cannot be used, NULL if it can. */
static const char *record_unfit(struct backfill *b, const struct record *r, size_t n)
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
	const char *why;
	sds text = file_read(b, NAME, sizeof(r) + 1);

	if (!text)
		return false;
	memset(&r, 0, sizeof(r));
	memcpy(&r, text, sdslen(text) < sizeof(r) ? sdslen(text) : sizeof(r));
	why = record_unfit(b, &r, sdslen(text));
	sdsfree(text);
	if (why) {
		b->host->log(b->host->ctx, BF_LOG_WARNING, "checkpoint '%s/%s' is not used, the copy begins again: %s", b->config.state_dir, NAME, why);
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
	b->checkpoint_dirty = false;
	file_remove(b, NAME);
}
