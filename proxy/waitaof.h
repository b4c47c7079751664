/* waitaof.h - WAITAOF of one client: asked of a primary on connections that nobody else uses meanwhile.
 *
 * The server tells only the connection that wrote, and stops it until it knows. So a write of our own, which leaves nothing, goes before it on a connection
 * lent for that: it is behind everything that the client had answered before, and what is on disk of it is on disk of all that.
 *
 * Thread: the client's worker. */
#ifndef CROSSFADE_WAITAOF_H
#define CROSSFADE_WAITAOF_H

#include <hiredis/sds.h>

#include "proxy/upstream.h"

struct worker;
struct waitaof; /* connections to all nodes, lent to one client at a time */

struct waitaof *waitaof_take(struct worker *w);
void waitaof_give_back(struct waitaof *a); /* nothing is awaited on them */
void waitaof_free_all(struct worker *w);

struct waitaof_answer { /* of one primary; before it is asked {0} */
	bool unmarked;   /* our own write was refused: nothing can be told */
	int64_t local, replicas;
};
/* request: the client's, in RESP. once: inside a transaction, where nothing waits. fn gets the last answer, for waitaof_read; it is called once, also when
 * the connection is lost or waitaof_stop is called. *answer must last until then. */
void waitaof_ask(struct waitaof *a, struct worker *w, uint16_t node, sds request, bool once, struct waitaof_answer *answer, reply_fn *fn, void *arg);
void waitaof_stop(struct waitaof *a, struct worker *w, uint16_t node);
/* The error that the server answered, which the caller frees, or NULL: then *answer has the numbers, zeros if the answer was lost. */
sds waitaof_read(const struct reply *r, bool once, struct waitaof_answer *answer);

#endif
