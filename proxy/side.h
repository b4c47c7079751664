/* side.h - side connections of a worker: one more to each node that is asked for something beside the data connections, made when it is first wanted.
 *
 * Owned by who has the struct, which must not move while connections are there. Thread: the worker's. */
#ifndef CROSSFADE_SIDE_H
#define CROSSFADE_SIDE_H

#include "proxy/worker.h"

struct side_connections {
	struct upstream_owner owner; /* as the worker's; who has it may change what its connections do before the first is made */
	char name[80];
	struct upstream **nodes;
	unsigned n;
};

void side_init(struct side_connections *s, struct worker *w, const char *suffix); /* of its name at the servers */
/* The connection to the node of a data connection; *made: it is a new one. */
struct upstream *side_to(struct side_connections *s, const struct upstream *data, bool *made);
void side_release(struct side_connections *s); /* what is awaited is answered as lost */

#endif
