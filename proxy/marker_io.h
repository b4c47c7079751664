/* marker_io.h - the marker read, written and removed, on a connection of its own to the node of the target that has its slot.
 *
 * One request is one or two commands; several may be under way, each is answered once, in order. Nothing is tried again here: the topology may have moved
 * (MOVED, a lost connection), and the caller asks again when it knows the next one.
 * Thread: control. */
#ifndef CROSSFADE_MARKER_IO_H
#define CROSSFADE_MARKER_IO_H

#include <ev.h>

#include "proxy/config.h"
#include "proxy/marker.h"

struct marker_io;

/* m: what is there now. NULL: not known, `why` says why. May not free the marker_io. */
typedef void marker_fn(void *arg, const struct marker *m, const char *why);

struct marker_io *marker_io_new(struct ev_loop *loop, const struct config *config);
void marker_io_free(struct marker_io *io); /* answers what is awaited first: not known */
void marker_io_topology(struct marker_io *io, const struct topology *t); /* of the target */
void marker_io_password(struct marker_io *io);

void marker_io_look(struct marker_io *io, marker_fn *fn, void *arg);
/* Writes it where none is. Where one of this migration with a lower epoch is, it gets this one; any other stays, and is what *m tells. */
void marker_io_put(struct marker_io *io, const char *migration, uint64_t epoch, marker_fn *fn, void *arg);
/* Removes whatever is there. */
void marker_io_remove(struct marker_io *io, marker_fn *fn, void *arg);

#endif
