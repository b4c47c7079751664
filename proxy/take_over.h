/* take_over.h - the process that comes, `crossfade --take-over`: what it gets from the one that runs on the same state directory (handover.h, docs/upgrade.md).
 *
 *   take_over_begin ── control finds the servers ── take_over_finish ── control serves, and adopts the clients
 *     the listeners        nothing has changed         the state directory's lock is ours: the other serves nobody any more
 *
 * Blocking, but for what control does. Until take_over_finish has returned true the other process may go on as if nothing had been: nothing may be read from the
 * clients, or written to them; closing their descriptors here does them nothing. Thread: main. */
#ifndef CROSSFADE_TAKE_OVER_H
#define CROSSFADE_TAKE_OVER_H

#include "proxy/config.h"
#include "proxy/handover.h"
#include "proxy/listen.h"
#include "proxy/state.h"

#define EXIT_NOT_TAKEN 75 /* the other process goes on */

struct take_over;

struct take_over *take_over_begin(const struct config *c, char *err, size_t errlen); /* NULL: err says why */
void take_over_listeners(struct take_over *t, struct listen_fd *fds, unsigned *n);  /* the caller's from now on */
/* From here on clients wait. s was borrowed, and is held when it returns true. *exit_code: EXIT_NOT_TAKEN, or that of a state directory which is ours now and cannot be read:
 * then nobody serves. */
bool take_over_finish(struct take_over *t, struct state *s, char *err, size_t errlen, int *exit_code);
struct handed **take_over_clients(struct take_over *t, unsigned *n); /* each the caller's; the array is not */
const struct handed_state *take_over_state(const struct take_over *t);
void take_over_free(struct take_over *t); /* NULL is allowed */

#endif
