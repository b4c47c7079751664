/* stream.h - a large reply on its way to its client, passed on as it comes: nobody holds it whole.
 *
 *   owner                                              home
 *   the head has come: an answer, as any other ──────► in its place in the client's order
 *   the connection is read ────────── piece ─────────► kept; when it is the client's turn, put into its queue as that empties
 *   read on, when little is ahead ◄── taken ──────────┘
 *   all has come, or the connection is lost ── over ─► the next reply; lost in the middle: the client is closed
 *   freed ◄────────────────────────── ends ───────────┘
 *
 * Bounds: home has STREAM_AHEAD bytes at most that are not in the client's queue, and that is filled up to STREAM_OUT. Where others wait behind it (aside.c judges), or a process
 * hands over, it is taken without waiting for the client: as any reply then, up to client-output-max.
 *
 * A client that goes: what is still to come is read, and dropped. Only mail crosses threads; the owner frees, when home has said that it is done. */
#ifndef CROSSFADE_STREAM_H
#define CROSSFADE_STREAM_H

#include "proxy/outq.h"
#include "proxy/worker.h"

#define STREAM_LEAST (1024 * 1024) /* of a smaller one nothing is gained */
#define STREAM_AHEAD (1024 * 1024)
#define STREAM_OUT (512 * 1024)

struct piece;

struct stream {
	struct stream *next, **at;   /* the owner's */
	struct worker *owner, *home;
	/* the owner's */
	struct upstream *from;       /* NULL: it is over */
	struct piece *given;         /* not taken yet */
	size_t ahead;                /* bytes of those */
	ev_tstamp since;
	uint32_t asker;              /* req->from */
	bool all;                    /* the client is not waited for */
	bool unwanted;               /* it has gone */
	/* home's */
	struct req *req;             /* NULL: its client has gone */
	struct piece *first, *last;  /* that are not in the client's queue yet */
	struct outq behind;          /* pushes to the client: not in the middle of it */
	bool over, whole;
};

/* The owner's: of struct upstream_owner. */
bool stream_begins(void *ctx, struct upstream *u);
bool stream_piece(void *ctx, struct upstream *u, const char *p, size_t n, struct block *block);
void stream_over(void *ctx, struct upstream *u, bool whole);
void stream_take_all(struct stream *s);  /* from now on its client is not waited for */
void stream_count_held(struct worker *w, size_t more, size_t less); /* bytes of large values, for status: large requests are counted there, too */
void streams_free(struct worker *w);     /* by the control thread, when every thread has ended */

/* Home's: it is the client's turn, and the head is in its queue. True: so is all the rest, and r->stream is NULL. */
bool stream_emit(struct client *c, struct req *r);
bool stream_may_go_on(const struct client *c); /* it is its turn: there is more, and room for it */
void stream_abandon(struct stream *s);   /* the request is freed */

#endif
