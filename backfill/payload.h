/* payload.h - what a DUMP payload says: its type, its footer, and the fields of a hash. Pure functions over borrowed bytes; they never
 * read past them and refuse what is not well-formed (facts: dump-versions). Internal to backfill/. */
#ifndef CROSSFADE_PAYLOAD_H
#define CROSSFADE_PAYLOAD_H

#include <hiredis/sds.h>
#include <stdbool.h>
#include <stdint.h>

#include "backfill/recipe.h"
#include "resp/slice.h"

#define PAYLOAD_FOOTER 10 /* RDB version and CRC64 */
#define RDB_VALKEY_FIRST 80 /* footers from here on are Valkey's, which numbers its types from 22 on by itself */

/* RDB object types that we must tell apart. */
enum {
	RDB_HASH = 4,
	RDB_MODULE = 6,
	RDB_MODULE_2 = 7,
	RDB_HASH_LISTPACK = 16,
	RDB_SET_LISTPACK = 20,
	RDB_STREAM_LISTPACKS_3 = 21,
	RDB_VALKEY_HASH_2 = 22,     /* Valkey 9.0: field expiry */
	RDB_VALKEY_PATH_HASH = 23,  /* Valkey 9.2 */
	RDB_HASH_METADATA = 24,     /* Redis 7.4: field expiry */
	RDB_HASH_LISTPACK_EX = 25,
	RDB_REDIS_8_6_FIRST = 26,
	RDB_REDIS_8_6_LAST = 27,
};

/* Splits the payload; false if it is too short to be one. */
struct payload {
	uint8_t type;
	unsigned version;
	uint64_t crc;
	struct slice body; /* without type byte and footer */
};
bool payload_split(struct slice bytes, struct payload *p);

/* The recipe that reads such a value by type; RECIPE_DUMP if none does (modules). */
enum recipe payload_recipe(const struct payload *p);
/* "vectorset" of a module value; empty if it cannot be told. */
struct module_name {
	char text[10];
};
struct module_name payload_module(const struct payload *p);
/* Is it a hash that may have fields with an expiry? */
bool payload_has_field_expiry(const struct payload *p);

/* Calls fn for every field of a hash payload (types 4, 16, 22, 24, 25); expires_at_ms is -1 for none. False: not such a hash or damaged, some
 * fields may have been told already. The slices live as long as the call. */
typedef void hash_field_fn(void *arg, struct slice field, struct slice value, int64_t expires_at_ms);
bool payload_hash(const struct payload *p, hash_field_fn *fn, void *arg);

/* Can it keep an expiry for each field of a hash? */
bool receiver_has_field_expiry(const struct receiver *r);

#endif
