/* bulk.h - a pipelined connection to one node on a libev loop, for all that is not the data path: topology, copying, verifying.
 *
 * Invariants: replies come in the order of the requests; every request gets exactly one answer per expected reply, or one call with
 * BULK_LOST once the connection is given up; callbacks run from the loop, never from inside bulk_send. RESP3, HELLO/AUTH/SETNAME done by
 * itself, TLS where a context is given. Connects when first used and after a loss at the next bulk_send (no hidden retry: the caller decides).
 * Thread: that of the loop. Errors: connect, AUTH, protocol and timeout failures are BULK_LOST with a reason naming side and node. */
#ifndef CROSSFADE_BULK_H
#define CROSSFADE_BULK_H

#include <ev.h>
#include <hiredis/sds.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "resp/slice.h"

struct bulk;
struct tls_context;

struct bulk_options {
	struct sockaddr_storage addr;
	socklen_t addr_len;
	char name[320];          /* "source 10.0.0.1:6379", for messages */
	const char *user;        /* borrowed, must outlive the connection */
	const char *password;
	struct tls_context *tls; /* borrowed; NULL: plain */
	char node[280];          /* "10.0.0.1:6379", whose name TLS checks */
	double connect_timeout_s;
	double reply_timeout_s;  /* without any progress while something is awaited */
};

/* One reply, complete; valid during the call only. reply.p == NULL: the connection was lost, `why` says why. */
typedef void bulk_fn(void *arg, struct slice reply, const char *why);

struct bulk *bulk_new(struct ev_loop *loop, const struct bulk_options *o);
void bulk_free(struct bulk *b); /* answers what is awaited with "closed" first */

/* Queues bytes that hold `replies` commands for a database; fn is called once for each reply. Written once per loop turn. Where another database was
 * meant last, a SELECT goes before them; if that is refused the connection is lost, and what stood behind it with it. */
#define BULK_ANY_DB (-1) /* a command that looks at no database */
void bulk_send(struct bulk *b, int db, const char *bytes, size_t n, unsigned replies, bulk_fn *fn, void *arg);
/* Convenience: one command of C strings, NULL at the end. */
void bulk_command(struct bulk *b, int db, bulk_fn *fn, void *arg, ...);

/* Borrowed as that of the options; used from the next connect on. */
void bulk_set_password(struct bulk *b, const char *password);

bool bulk_is_up(const struct bulk *b);
unsigned bulk_awaited(const struct bulk *b); /* replies still to come */

#endif
