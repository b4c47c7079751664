/* req.h - one command of a client on its way: made by the client's worker (home), lent to the slot's owner, answered, given back, freed by home.
 *
 * The bytes are a slice of a block that the request holds until its end, so that it can be sent again (redirects, lost reads) and mirrored without a copy.
 * Whoever has it may use `link`; `next` is the client's order and belongs to home. `client` is home's alone: the owner never looks at it. */
#ifndef CROSSFADE_REQ_H
#define CROSSFADE_REQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/block.h"
#include "resp/keyhash.h"
#include "resp/table.h"

struct client;
struct split;
struct txn;
struct watch;
struct written;
struct mwrite;
struct engine;
struct worker;
struct waiter;
struct waiting;

/* The slots of a request with keys of several: each once, in order. */
struct wide {
	uint32_t n;
	uint16_t slot[];
};

/* Of a request on its way some hundred others are, too, so its lines have left the cache when its answer comes: what all look at stands in the first ones. */
struct req {
	struct req *made_next, **made_at; /* all that home has made: what is still under way at the end is given back, too */
	struct req *next, *link;
	struct client *client;      /* NULL: the client has gone, the reply is dropped */
	struct req *exec;           /* home's: the answer is an element, by `part`, of this EXEC's array; it has no client of its own */
	struct engine *engine;      /* the owner's, while it has the request */
	struct mwrite *mw;          /* the owner's: the write as the mirror sees it */

	struct block *block;
	const char *bytes;
	size_t len;
	const struct command *cmd;
	struct block *reply_block;  /* the answer, once done */
	const char *reply;
	size_t reply_len;
	struct worker *worker;      /* who is to look at it next */

	uint16_t slot;
	uint16_t db;                /* the client's when it sent this */
	uint16_t home;
	uint16_t ask_node;          /* owner's: send with ASKING to this node once; NODE_NONE */
	uint8_t proto;              /* of the client when it sent this */
	bool done;
	bool parked;                /* home's: goes to the owner when everything before it is answered */
	bool write;                 /* may change data */
	bool spans;                 /* keys of several slots, or a question to a whole server: for a standalone one only */
	bool again;                 /* given back unanswered: its slots are a cluster's now, home splits or refuses it */
	bool ahead;                 /* a part of what was given back: its slot waits for it */
	bool loaded;                /* its script was loaded behind the scenes: once is enough */
	bool waits;                 /* a blocking command: parked at the owner until it has something */
	bool leaves;                /* home has asked the owner to end its waiting */
	bool once;                  /* changes no data, but must not be done twice: PUBLISH */
	bool silent;                /* CLIENT REPLY: the client does not get the answer */
	bool subscribes;            /* the confirmation of a SUBSCRIBE: from when it is given on, messages are */
	bool resent;                /* waits in the slot's resend list or was in it */
	bool behind_wide;           /* the owner's: its place is in engine->turned, or was when it was sent last */
	bool probe;                 /* home's own, and silent: a question ahead of a large request (bulk.h) */
	bool knot;                  /* home's: one of the client's knots (knot.h) */
	bool hashed;                /* `hash` is told */
	struct txn *txn;            /* EXEC: what its commands are; freed with the request */
	struct watch *watch;        /* WATCH, and EXEC of a client that watches: counted until the request is freed */
	struct stream *stream;      /* the rest of the answer, which is still coming (stream.h); NULL: it is whole */
	struct wide *wide;          /* as one command for a standalone server; NULL: all keys are of `slot` */

	struct written *written;    /* home's: tracking.h; NULL: nobody has NOLOOP */
	struct split *split;        /* part of a split command, or NULL */
	keyhash hash;               /* of the key below */
	uint32_t key_at, key_n;     /* its only key, in `bytes`; 0: it has several, or was not looked for */
	uint32_t argc;              /* with a key: its words */
	uint32_t part;              /* index in the split, or in the transaction */
	uint32_t from;              /* the same for all of a client, and for hardly any other; 0: of no client */
	struct waiter *waiter;      /* the owner's own: a try of the engine for a client that waits (park.h) */
	struct waiting *waiting;    /* home's own: a WAIT that is not answered yet (waiting.c) */
	uint64_t ticket;            /* waits: by which home speaks of it, for its answer may be on the way */
	int64_t since_us;           /* the owner's: began to wait at a fence; first failure of a resend */
	uint64_t turned;            /* the owner's, of one that goes again: its key (engine_order.c) */
	int64_t until_us;           /* waits: its waiting ends then; 0 from home: as its words say, from the owner: never */
};

#define REQ_KEPT offsetof(struct req, next) /* what comes before it outlasts a request */

/* Its only key has been found, among so many words. */
static inline void req_has_key(struct req *r, struct slice key, uint32_t argc)
{
	if (r->len > UINT32_MAX)
		return;
	r->key_at = (uint32_t)(key.p - r->bytes);
	r->key_n = (uint32_t)key.n;
	r->argc = argc;
}

static inline struct slice req_key(const struct req *r)
{
	return slice(r->bytes + r->key_at, r->key_n);
}

static inline struct client *req_client(const struct req *r)
{
	return r->exec ? r->exec->client : r->client;
}

/* A complete reply, valid during the call; who keeps it takes a reference of `block`. p NULL: the connection was lost. */
struct reply {
	const char *p;
	size_t n;
	struct block *block;
	const char *why;  /* lost: what happened, naming side and node */
	bool sent;        /* lost: some of the request's bytes may have reached the server */
};

typedef void reply_fn(void *arg, const struct reply *r);

#endif
