/* large_parts.h - what the readers of the several types share. Internal to large.c, large_kinds.c and large_stream.c. */
#ifndef CROSSFADE_LARGE_PARTS_H
#define CROSSFADE_LARGE_PARTS_H

#include <stdbool.h>

#include "backfill/block.h"
#include "backfill/large.h"
#include "backfill/recipe_parts.h"
#include "backfill/values.h"

struct large_stream;
struct large_again;
struct large;

/* One noted command for the key: its words behind the key. */
struct large_op {
	struct slice verb;
	int64_t n;
	struct values words;
};
typedef bool large_op_fn(struct large *l, const struct large_op *op); /* does it again to the temporary key; false: it cannot be */

/* Life: large_start → reads and writes in turn → large_done (all read, all written) or large_fail or large_cancel → `over` → released once the last
 * reply came. Invariant: at most one request batch is under way on each connection, and what was read is in `block` until the
 * batch before it was acknowledged. */
struct large {
	struct large_options o; /* o.key is key */
	sds key, tmp;
	large_fn *fn;
	void *arg;
	bool over;
	unsigned read_left, write_left; /* replies still to come */
	bool all_read, written;         /* written: the temporary key may exist */
	uint64_t bytes, bytes_told;
	int64_t expires_at_ms;
	/* reading */
	void (*read)(struct large *l);                         /* asks for the next chunk */
	void (*take)(struct large *l, struct slice reply);     /* takes one reply of it */
	sds request;
	unsigned nrequests;
	unsigned want;    /* elements of the next chunk */
	uint64_t offset;  /* lists, strings: so many elements or bytes from the left are copied */
	uint64_t asked_from; /* lists: the first index of the range that was asked for */
	unsigned margin;  /* lists: so much before `offset` ranges begin */
	int64_t length;   /* lists: elements at the last read, and since by what was noted; -1: not read yet */
	bool asking;      /* the replies that are awaited will be told by the caller */
	large_op_fn *op;  /* NULL: not for this type */
	void (*read_last)(struct large *l); /* streams: what is read once writes are held */
	char cursor[24];  /* scans */
	sds held;         /* a reply that is needed while the next one comes */
	/* writing: commands for the temporary key, not sent yet */
	struct block block;
	struct expire_run expire;
	struct values fields; /* hashes: a walk over `held`, in step with the replies of HPEXPIRETIME */
	struct large_stream *stream;
	/* elements to be read again: names, and from where they are still to be asked for; asked: those whose values are awaited */
	sds changed, asked;
	size_t changed_at;
	const struct large_again *again; /* NULL: not for this type */
	bool scan_read, fields_wait, settling, settled, expiry_read; /* scan_read: its cursor came round; fields_wait: l->fields come next */
	unsigned most;    /* elements of a chunk at most */
};

/* Starts a command of the next request, to be filled by resp_cat_bulk on l->request. */
void large_request(struct large *l, int argc, const struct slice *argv);
void large_request_words(struct large *l, const char *verb, ...); /* the verb, the key, words */
/* Sends what was asked for; take is called for each reply. */
void large_ask(struct large *l, void (*take)(struct large *l, struct slice reply));
void large_fail(struct large *l, enum recipe_result result, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The size of the next chunk by what this one weighed. */
void large_adapt(struct large *l, uint64_t elements, size_t bytes);
/* The block, begun if it was empty. */
struct block *large_block(struct large *l);

/* Asks for the next elements that changed. */
void large_read_changed(struct large *l);
const struct large_again *large_again_of(struct slice type); /* NULL: values of this type are not read again in parts */
/* Hashes: empties l->held, to be filled with pairs; false: no field of the sender has an expiry. Then asks for the expiry of these. */
bool large_hold_fields(struct large *l);
void large_ask_expiry(struct large *l);

/* The readers by TYPE's answer; false: there is none. */
bool large_choose(struct large *l, struct slice type);

large_op_fn large_string_op, large_list_op, large_stream_op;
void large_stream_read(struct large *l);
void large_stream_release(struct large *l);

#endif
