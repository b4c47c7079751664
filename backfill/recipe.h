/* recipe.h - how a whole value is read from one server and rebuilt on another: pure functions, no I/O, any thread.
 *
 * A recipe is a list of read commands for one key; its replies, in order, are composed into a block of commands for the receiver. The block is
 * applied in one piece (MULTI … EXEC when more than one command) so that no reader sees a part. The first choice is DUMP; the payload is
 * restamped with the receiver's RDB version (facts: dump-versions) if the receiver knows the type byte; else the value is read by type.
 *
 * Small values only (the caller knows the size): large ones go through backfill/large.c in chunks, which uses the same composers. */
#ifndef CROSSFADE_RECIPE_H
#define CROSSFADE_RECIPE_H

#include <hiredis/sds.h>
#include <stdint.h>

#include "backfill/topology.h"
#include "resp/slice.h"

enum recipe {
	RECIPE_DUMP,   /* DUMP, PEXPIRETIME */
	RECIPE_STRING, /* GET, PEXPIRETIME */
	RECIPE_LIST,   /* LRANGE 0 -1, … */
	RECIPE_SET,
	RECIPE_ZSET,
	RECIPE_HASH,   /* HGETALL; where the server has field expiry, DUMP, which tells it in the same reply (payload.h decodes it) */
	RECIPE_STREAM, /* XINFO STREAM FULL COUNT 0, … */
	RECIPE_SHORT,  /* GETRANGE 0 SHORT_STRING-1, …: a string whose size is not known; RECIPE_RETYPE if it is none, or longer */
	RECIPES
};

/* Bytes that RECIPE_SHORT reads at most, and one more than it takes. */
#define SHORT_STRING 4096

enum recipe_result {
	RECIPE_OK,
	RECIPE_GONE,    /* the key does not exist: the block deletes it */
	RECIPE_RETYPE,  /* the receiver does not know the payload's type byte, or the type changed: read with *next */
	RECIPE_CANNOT,  /* the receiver has no such type at all (module, vector set): why says */
	RECIPE_ERROR,   /* a reply was an error: why holds its text */
};

/* What the receiver of payloads accepts. */
struct receiver {
	enum product product;
	uint32_t version;
};

/* Appends the read commands of the key, returns how many replies will come. */
unsigned recipe_read(enum recipe r, const struct receiver *from, struct slice key, sds *out);

/* The replies (each complete, in order) of recipe_read → a block for the receiver under `key`; *ncommands is the number of replies the block will get
 * (MULTI +QUEUED… EXEC included: count every command). now_ms: a value whose expiry lies before it is composed as deleted.
 * Only RECIPE_OK and RECIPE_GONE append to the block. *why is never NULL and lives until the next reason of this thread. */
enum recipe_result recipe_compose(enum recipe r, const struct receiver *to, struct slice key, const struct slice *replies,
				  unsigned nreplies, int64_t now_ms, sds *block, unsigned *ncommands, enum recipe *next, const char **why);

/* DUMP payload restamped for the receiver; NULL if it does not know the type byte. */
sds restamp(struct slice payload, const struct receiver *to);
/* The RDB version a server stamps and accepts: 10, 11, 12, 80. */
unsigned rdb_version(const struct receiver *r);
uint64_t crc64_jones(uint64_t crc, const void *p, size_t n);

#endif
