/* client.h - one client connection: what it sent that is not answered yet, in order, and the bytes that wait to be written.
 *
 * Invariants: replies leave in the order of requests; an idle client holds no buffer; what a client may have in flight and waiting to be read is
 * bounded (it is not read from meanwhile). Thread: its worker's (home). */
#ifndef CROSSFADE_CLIENT_H
#define CROSSFADE_CLIENT_H

#include <hiredis/sds.h>

#include "proxy/txn.h"
#include "proxy/worker.h"

#define CLIENT_INFLIGHT_MAX 1024          /* requests not yet answered before its socket is not read any more: others queue behind them at the server */
#define CLIENT_ASKED_MAX (4 * 1024 * 1024) /* bytes of requests looked at since it had nothing in flight, likewise; the one that goes beyond it is taken yet */
#define CLIENT_SHARE 1024                 /* requests of one client that are looked at in one turn */
#define KNOTS_MAX 4
#define CLIENT_OUT_PAUSE (1024 * 1024)    /* bytes waiting for it to read, likewise */

enum quiet { /* CLIENT REPLY */
	QUIET_NOT,
	QUIET_OFF,
	QUIET_NEXT, /* SKIP: the next command's reply… */
	QUIET_THIS, /* …which is the one at hand */
};

struct client {
	struct client *prev, *next;
	struct worker *worker;
	ev_io reader, writer;
	uint64_t id;
	struct req *head, *tail;   /* not yet answered, in order */
	struct req *parked;        /* a blocking command, the last of them: what comes behind it is not looked at before its answer */
	uint32_t inflight;
	size_t asked;              /* bytes of requests looked at since nothing was in flight: what these hold is no more */
	size_t unsent;             /* bytes of replies that wait for an earlier one */
	const struct acl_user *user; /* of the worker's set; NULL: it has to log in first */
	uint8_t proto;
	uint16_t db;               /* SELECT */
	bool unrestricted;         /* its user may do everything: dispatch need not ask */
	bool closing;              /* after what is queued was written */
	bool paused;               /* over a limit: not read from */
	bool held;                 /* CLIENT PAUSE, a knot, or it is of all nodes: its next request waits */
	bool streaming;            /* the first of its requests has a reply that is still coming (stream.h): nothing else may be put into `out` */
	uint8_t lingered;          /* turns that its replies have waited for those behind them */
	bool flushing, again;      /* in the worker's lists: flush, or lingering; again, or later */
	struct client *flush_next, *again_next;
	struct outq out;
	struct block *in;          /* an incomplete request, or input that waits */
	size_t in_off;
	struct resp_request *parser; /* its state; NULL when in is NULL */
	struct bulk *bulk;         /* bulk.h: a large request that is passed on as it comes; NULL: none */
	bool hold;                 /* an answer decides how what follows is understood, or is of all nodes: not parsed until then */
	struct session *session;   /* MULTI, WATCH (txn.h); NULL: never */
	struct tls *tls;           /* NULL: plain */
	struct handshake *handshake; /* of TLS, not yet over: its deadline */
	const struct command *last; /* command; NULL: none yet */
	ev_tstamp seen;            /* when it sent something */
	uint8_t quiet;             /* enum quiet */
	uint8_t knots;             /* knot.h: on their way, each of another slot */
	uint16_t knot_slot[KNOTS_MAX];
	bool is_monitor, no_evict, no_touch;
	struct pubsub_client *pubsub; /* pubsub.h; NULL: never subscribed */
	sds name, lib_name, lib_ver;
	int64_t since_ms;
};

/* Its connection has ended; its memory goes at the end of the turn. */
static inline bool client_is_dead(const struct client *c)
{
	return c->reader.fd < 0;
}

static const char no_such_db[] = "ERR DB index is out of range";

struct client *client_new(struct worker *w, int fd, bool tls); /* fleet->nclients counts it already */
void client_again_soon(struct worker *w, struct client *c);    /* at the end of the turn its input is looked at again, and it is read */
void client_put_back(struct client *c, const char *p, size_t n); /* its input begins with these bytes, from now on */
/* Its connection is fd from now on, plain; the TLS connection that it was is the caller's. It is not read from, nor written to, just now. */
struct tls *client_leave_tls(struct client *c, int fd, int *tls_fd);

/* A reply of the proxy's own, in its place in the order. Takes the sds. */
void client_reply(struct worker *w, struct client *c, sds reply);
void client_error(struct worker *w, struct client *c, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void client_end_name(char *name, size_t n, const struct client *c, bool peer); /* "127.0.0.1:6379" of one end of the connection */
sds client_cat_info(sds s, const struct worker *w, const struct client *c); /* its line in CLIENT LIST, without the end */
void client_enqueue(struct client *c, struct req *r);
/* An answer of the proxy's own that comes later, by client_done: in its place among the replies, or in EXEC's array. */
void client_await(struct client *c, struct req *r);
bool client_is_quiet(const struct client *c); /* what it is answered now it does not get: CLIENT REPLY */
/* Sends it when everything before it is answered, and reads on when it is answered itself. */
void client_hold_for(struct worker *w, struct client *c, struct req *r);
void client_close_after_replies(struct worker *w, struct client *c);
void client_flush_soon(struct worker *w, struct client *c);
struct outq *client_pushes(struct client *c); /* where what is no reply goes, and then client_flush_soon */
void client_output_over(struct client *c, const char *why, size_t bytes); /* closes it: so many wait for it to read */
void client_goes_on(struct worker *w, struct client *c); /* more of a reply that comes in pieces is there */
void client_end(struct client *c); /* at once */

/* permit.c */
void client_become(struct client *c, const struct acl_user *u);
void client_become_default(struct client *c);
bool client_log_in(struct worker *w, struct client *c, struct slice name, struct slice password); /* false after an error reply */
bool admit(struct worker *w, struct client *c); /* w->argv: may it be looked at at all? False after an error reply */
bool permit(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc); /* false after an error reply */
enum acl_verdict permit_check(struct worker *w, const struct acl_user *u, const struct command *cmd, uint32_t argc, const struct slice *argv, uint32_t *at);

#endif
