/* admin.h - the admin socket: a Unix socket (0600) that speaks RESP2, arrays and inline commands; docs/admin.md is the protocol.
 *
 * Commands of a connection are answered in order; while one waits (VERIFY, CUTOVER) the connection's next ones wait, too, and it may close
 * without stopping what it began. Thread: control. */
#ifndef CROSSFADE_ADMIN_H
#define CROSSFADE_ADMIN_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>

struct admin;
struct control;

/* NULL: err says what and what to do. A stale socket is replaced (the lock of the state directory was taken before). */
struct admin *admin_new(struct ev_loop *loop, const char *path, struct control *control, char *err, size_t errlen);
/* Closes the connections and removes the socket. What still waits is answered into the void. */
void admin_free(struct admin *a);

#endif
