/* control.h - the control thread: the main thread's loop, on which topology, phases, the admin socket and signals live.
 *
 *   SEEKING ──the sides in charge and the marker were seen, or a record says go on──► SERVING ──TERM──► ENDING ──► the loop ends
 *      └──10 s and no record, a source too old, foreign servers, a marker that is not ours──► the loop ends with an exit code
 *
 * Another process may take over while it serves (control_handover.h), and it may begin by taking over itself (take_over.h).
 * What workers report comes in by the control_… functions of fleet.h, which run here, too. */
#ifndef CROSSFADE_CONTROL_H
#define CROSSFADE_CONTROL_H

#include <ev.h>

#include "proxy/config.h"
#include "proxy/phases.h"
#include "proxy/state.h"

#define EXIT_UNREACHABLE 69

struct control;
struct handed;
struct handed_state;
struct pumps;

struct control_options {
	struct ev_loop *loop;
	struct config *config;
	struct state *state;
	const struct listen_fd *listen_fds; /* bound, not yet listening; owned by control from here on */
	unsigned nlisten_fds;
	int assume; /* --assume-authority: enum side, or -1 */
	bool take_over; /* the loop ends when all that is needed was seen; control_take begins to serve */
	struct pumps *pumps; /* gets the TLS clients that stay behind */
};
struct control *control_new(const struct control_options *o);
bool control_reserve(const struct control *c, char *err, size_t errlen); /* …and there is room on the disk for what it will need; journals_unreserve gives it back */
bool control_found(const struct control *c); /* take_over: it may serve */
void control_take(struct control *c, struct handed **clients, unsigned n, const struct handed_state *st); /* the state directory is ours, and so are the clients */
bool control_handed_over(const struct control *c); /* …to another process: the sockets are its */
void control_free(struct control *c); /* after the loop ended; joins the threads, marks a clean end */
int control_exit_code(const struct control *c);

void control_stop(struct control *c);   /* TERM, INT */
void control_reload(struct control *c); /* HUP */
void control_reopen(struct control *c); /* USR1 */

/* For the admin socket. */
void control_order(struct control *c, enum order order, const struct order_args *args, struct answer answer);
bool control_config_set(struct control *c, const char *name, const char *value, char *err, size_t errlen);
char *control_config_get(struct control *c, const char *name); /* malloc'd, NULL: no such option */
bool control_serving(const struct control *c);
char *control_status(struct control *c); /* JSON, malloc'd */
void control_check(struct control *c, struct answer answer); /* `proxyctl check` */

#endif
