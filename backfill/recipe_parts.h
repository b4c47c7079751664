/* recipe_parts.h - what the recipes of the several types share. Internal to backfill/. */
#ifndef CROSSFADE_RECIPE_PARTS_H
#define CROSSFADE_RECIPE_PARTS_H

#include <stdbool.h>
#include <stdint.h>

#include "backfill/block.h"
#include "backfill/recipe.h"

/* Remembers the reason for this thread until the next one, and returns it. */
const char *recipe_reason(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* An error reply: gone, of another type (*next), or an error (*why). */
enum recipe_result recipe_error_reply(struct slice text, enum recipe *next, const char **why);

#define RECIPE_REPLIES 2 /* every recipe reads the value, then its expiry */
/* Errors and nulls among the replies, and the expiry: RECIPE_OK if there is a value to be composed. */
enum recipe_result recipe_examine(const struct slice *replies, int64_t now_ms, int64_t *expires_at_ms, enum recipe *next, const char **why);

/* Each appends the commands that build the value, between the UNLINK and the PEXPIREAT. Nothing is appended unless RECIPE_OK. */
enum recipe_result hash_compose(struct block *b, const struct receiver *to, struct slice reply, int64_t now_ms, enum recipe *next,
				const char **why);
enum recipe_result stream_compose(struct block *b, struct slice reply, const char **why);

/* ---- streams ---- */

struct stream_id {
	uint64_t ms, seq;
};
bool stream_id_parse(struct slice text, struct stream_id *id);
int stream_id_compare(struct stream_id a, struct stream_id b);
#define STREAM_ID_TEXT 44
void stream_id_text(struct stream_id id, char *text);

/* XINFO STREAM FULL, as slices into the reply. `entries` and `groups` are whole values (arrays). */
struct stream_info {
	struct slice last_id, max_deleted_id;
	int64_t entries_added, length;
	struct slice entries, groups;
};
bool stream_info_read(struct slice reply, struct stream_info *info);

struct stream_group {
	struct slice name, last_delivered_id;
	int64_t entries_read; /* -1: unknown to the server, too */
	int64_t pending_count;
	struct slice pending, consumers; /* whole values */
};
struct values;
/* Over the groups, the consumers' names and the pending entries of a group: `w` is a walk over the whole value, past its header. */
bool stream_group_next(struct values *w, struct stream_group *g);
struct slice stream_consumer_next(struct values *w);

struct stream_pending {
	struct slice id, consumer;
	int64_t delivered_at_ms, count;
};
bool stream_pending_next(struct values *w, struct stream_pending *p);

/* The parts of a rebuilt stream, for copies whole and in chunks alike. */
void stream_add_entry(struct block *b, struct slice id, int64_t nfields, struct slice raw_fields);
void stream_add_placeholder(struct block *b, struct stream_id id);
void stream_create_empty(struct block *b);
void stream_set_id(struct block *b, const struct stream_info *info, int64_t at_least_added);
void stream_add_group(struct block *b, const struct stream_group *g);

/* Pending entries in runs that one XCLAIM can express: same consumer, time and count. */
struct claim_run {
	struct block *b;
	struct slice group;
	struct stream_pending first;
	sds ids;
	unsigned nids;
};
void claim_add(struct claim_run *run, const struct stream_pending *p);
void claim_end(struct claim_run *run); /* also releases */

/* Entries and placeholders, merged by id. Calling sequence: every pending id by stream_build_pending, stream_build_sort, every entry in
 * order by stream_build_entry, stream_build_entries_end, (groups and claims), stream_build_finish, _release. */
struct stream_ids {
	struct stream_id *ids;
	size_t n, cap;
};
struct stream_build {
	struct block *b;
	const struct stream_info *info;
	struct stream_ids pending; /* sorted, with repetitions */
	size_t next_pending;
	struct stream_ids placeholders;
	struct stream_id first; /* of the entries that are left */
	int64_t entries, added; /* added: placeholders included */
};
void stream_ids_add(struct stream_ids *l, struct stream_id id);
void stream_build_pending(struct stream_build *s, struct stream_id id);
void stream_build_sort(struct stream_build *s);
/* `entry` is positioned before one [id, [field, value …]]. False: not understood. */
bool stream_build_entry(struct stream_build *s, struct values *entry, struct stream_id *id);
void stream_build_entries_end(struct stream_build *s); /* the last placeholders; the key exists now, with its ids set */
void stream_build_finish(struct stream_build *s);      /* placeholders go, ids are set again */
void stream_build_release(struct stream_build *s);

/* ---- field expiry ---- */

/* Fields in runs that one HPEXPIREAT can express: same time. */
struct expire_run {
	struct block *b;
	int64_t ms;
	sds fields;
	unsigned nfields;
};
void expire_add(struct expire_run *run, struct slice field, int64_t ms);
void expire_end(struct expire_run *run); /* also releases */
const char *field_expiry_reason(uint64_t nfields);

#endif
