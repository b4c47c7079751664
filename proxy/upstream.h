/* upstream.h - a data connection: one per worker and node, RESP3, multiplexed: all commands of this worker's slots for that node, in order.
 *
 * Invariants: answers come in the order of upstream_send; every command gets exactly one call of its fn, if need be with p == NULL (lost); fn is never called
 * from inside upstream_send; what was queued in a loop turn leaves with one write. A connection that is given up is closed with RST, and its successor makes sure
 * that the server has forgotten it (CLIENT KILL by ID, same server process) before it sends anything (race 7). The watch (CLIENT TRACKING) is on before
 * the first command while it is wanted.
 *
 * CONNECTING ends with the TLS handshake, where the side speaks TLS.
 *
 *   IDLE ──open──► CONNECTING ──► GREETING ──► UP
 *                      ▲              │         │
 *                      └─ retry ── DOWN ◄───────┘
 *
 * A reply that is one bulk of at least owner->large_least bytes may be taken as it comes (owner->large): its head is its answer, the rest goes to owner->piece, read no faster than that
 * takes it; what is behind it waits.
 *
 * A command may be sent piece by piece (upstream_send_more): whoever does so has the connection for himself.
 *
 * While it is DOWN commands fail at the next turn; each attempt to send after the back-off tries to connect. Thread: the worker's. */
#ifndef CROSSFADE_UPSTREAM_H
#define CROSSFADE_UPSTREAM_H

#include <ev.h>
#include <hiredis/sds.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include "backfill/topology.h"
#include "proxy/latency.h"
#include "proxy/outq.h"
#include "proxy/req.h"
#include "resp/parse.h"

enum upstream_state { UPSTREAM_IDLE, UPSTREAM_CONNECTING, UPSTREAM_GREETING, UPSTREAM_UP, UPSTREAM_DOWN };

struct await { /* what is expected of the server, in order */
	reply_fn *fn;
	void *arg;
	uint64_t start;  /* offset of its first byte in all that was queued on this connection */
	uint32_t replies;
};

struct upstream;

struct stream;
struct upstream_owner { /* the worker */
	void *ctx;
	struct ev_loop *loop;
	const char *client_name;
	bool by_key;             /* the watch is of the keys that the connection reads, not of everything */
	bool bare;               /* greeted by HELLO alone: a server whose script runs on takes nothing else */
	double connect_timeout_s, reply_timeout_s;
	const char *(*user)(void *ctx, enum side side);
	const char *(*password)(void *ctx, enum side side);
	struct tls_context *tls[SIDES]; /* NULL: plain */
	void (*flush_soon)(void *ctx, struct upstream *u);            /* call upstream_flush before the loop sleeps */
	void (*fetch_far)(reply_fn *fn, void *arg);                   /* NULL, or told of an answer that is the next but a few: what it needs is fetched (lines.h), */
	void (*fetch_near)(void *ctx, reply_fn *fn, void *arg);       /* …and once more, when there are fewer before it: what that has told */
	unsigned (*formers)(void *ctx, struct slice list, sds *kills); /* NULL, or CLIENT LIST's reply as requests that end what a killed process left there */
	void (*before_write)(void *ctx);                              /* NULL, or called before each write of what was queued */
	void (*wrote)(void *ctx, struct upstream *u);                 /* NULL, or called behind each */
	bool (*pushed)(void *ctx, struct upstream *u, struct slice push); /* a complete RESP3 push; true: it is the answer that is awaited first */
	void (*up)(void *ctx, struct upstream *u);
	void (*lost)(void *ctx, struct upstream *u, const char *why, bool was_up);
	/* The answer to what is awaited first has begun, and it is large: is it taken as it comes? Then large_over follows all pieces, or the loss of the connection. */
	size_t large_least;                                           /* 0: never asked */
	bool (*large)(void *ctx, struct upstream *u);
	bool (*piece)(void *ctx, struct upstream *u, const char *p, size_t n, struct block *block); /* false: no more before upstream_read_on */
	void (*large_over)(void *ctx, struct upstream *u, bool whole);
	void (*gone)(void *ctx, struct upstream *u);                  /* NULL, or called when it has been given up, before what is awaited is answered */
	struct latency *latency;                                      /* by side; NULL: nobody looks at it */
};

struct upstream {
	const struct upstream_owner *owner;
	enum side side;
	char name[280];
	uint16_t replicas;
	struct sockaddr_storage addr;
	socklen_t addr_len;
	enum upstream_state state;
	int fd;
	struct tls *tls;         /* NULL: plain, or not connected */
	ev_io reader, writer;
	ev_timer timer;          /* connecting, greeting: its deadline; up: looks after progress */
	struct outq out;
	uint64_t queued, written;
	int db;                  /* selected at the end of what was queued */
	bool flushing;           /* in the owner's list */
	struct upstream *flush_next;
	bool patient;            /* the owner's, while it is in that list: all that is queued may wait for more; upstream_send() takes it back */
	uint8_t waited;          /* the owner's: turns that it has waited */
	struct await *fifo;      /* ring, capacity a power of two */
	uint32_t fifo_cap, fifo_head, fifo_n;
	struct block *in;
	size_t in_off;
	struct resp_reply parser;
	uint64_t rest;           /* bytes to come of the reply that is taken as it comes; 0: none is */
	char end[2];             /* the last two of it that came */
	bool stopped;            /* its pieces have to be taken first */
	bool partial;            /* of what was sent last there is more to come */
	struct stream *stream;   /* the owner's: to whom it goes */
	bool leaves;             /* the owner's: it goes aside when the turn ends */
	ev_tstamp progress;      /* last time something was read, or the first await began */
	ev_tstamp retry_at;
	unsigned failures;
	char why[512];           /* of the last loss */
	/* greeting */
	unsigned greeting_left;
	uint8_t round;           /* of the greeting: who is there; who was there before; the end of those, and the watch */
	bool formers_gone;       /* no connection of a process that was killed is left there */
	bool watch;              /* CLIENT TRACKING wanted */
	bool watching;
	bool watch_busy;         /* it was refused, but may be taken in a while */
	bool greeted_watch;      /* it was on before it was up */
	unsigned flushes, nulls_due; /* of our own, from expect to end; pushes about them that have not come */
	bool in_doubt;           /* the owner's: an order to all nodes was on its way when it was lost */
	bool missed;             /* a watched connection was lost, or slots came before it was up, or watched: the owner has to look when it is */
	unsigned proofs;         /* the owner's: PINGs behind CLIENT TRACKING whose answers are to come */
	int64_t client_id;       /* of this connection at the server; 0 unknown */
	int64_t zombie_id;       /* of the one given up before */
	char run_id[44], zombie_run_id[44];
	sds orphans;             /* CLIENT KILLs of connections beside this one that were given up; NULL: none */
	unsigned norphans, orphans_due; /* how many; of those that were sent here, answers to come */
	char orphans_run_id[44];
	/* latency sample */
	ev_tstamp sample_at;
	uint64_t sample_start;
};

struct upstream *upstream_new(const struct upstream_owner *owner, enum side side, const char *name);
void upstream_free(struct upstream *u); /* answers what is awaited as lost */
void upstream_set_addr(struct upstream *u, const struct sockaddr_storage *addr, socklen_t len);
void upstream_open(struct upstream *u); /* connects if it is not and the back-off is over */
void upstream_watch(struct upstream *u, bool on); /* wanted from the next connection on; an open one is told at once */
/* db: what the commands are about; a SELECT goes before them if another one was meant last. One that is refused gives the connection up. */
#define UPSTREAM_ANY_DB (-1) /* they look at no database */
void upstream_send(struct upstream *u, int db, const char *p, size_t n, struct block *holder, unsigned replies, reply_fn *fn, void *arg);
/* upstream_send was given the beginning of a command only: more of it. Not before `last` can it be executed. */
void upstream_send_more(struct upstream *u, const char *p, size_t n, struct block *holder, bool last);
/* upstream_flushes.c: a FLUSHALL of ours is reported to us, too: one push for each, before its end's PING comes back. */
void upstream_expect_flush(struct upstream *u);
bool upstream_take_flush(struct upstream *u); /* a push about a flush has come: is it ours? */
bool upstream_flush_ends(struct upstream *u, bool done); /* done: every node did it; else none is ours from now on, true: one was taken for ours */
void upstream_flush(struct upstream *u);
size_t upstream_tidy(struct upstream *u); /* while nothing is awaited: gives its buffers back; returns the bytes that were freed, beside blocks */
void upstream_close(struct upstream *u);  /* not needed any more; opens again when it is sent something */
void upstream_give_up(struct upstream *u, const char *why);
const struct await *upstream_awaits(const struct upstream *u, uint32_t i); /* the i-th, of fifo_n */
void upstream_read_on(struct upstream *u); /* what piece() wanted to be taken first has been */
/* upstream_orphans.c: one to the same node beside it was given up, or takes its place in doing so: before anything that is sent here later the server forgets those (race 7). */
void upstream_inherit(struct upstream *u, const struct upstream *other);
void upstream_inherit_one(struct upstream *u, const char *run_id, int64_t client_id); /* of which this is known */
void upstream_orphans_ended(struct upstream *u); /* upstream.c: it is up, and its greeting has ended them */

static inline bool upstream_is_up(const struct upstream *u)
{
	return u->state == UPSTREAM_UP;
}

static inline bool upstream_same_node(const struct upstream *a, const struct upstream *b)
{
	return a->side == b->side && strcmp(a->name, b->name) == 0;
}

#endif
