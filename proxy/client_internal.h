/* client_internal.h - between the client's life, its replies (client.c) and its input (client_input.c) only. Thread: the client's worker. */
#ifndef CROSSFADE_CLIENT_INTERNAL_H
#define CROSSFADE_CLIENT_INTERNAL_H

#include "proxy/client.h"

/* client.c */
void client_later(struct worker *w, struct client *c); /* its share of this turn is used up: it is looked at in the next one */
void client_handshake_ends(struct client *c);          /* of TLS, if there is one */

/* client_input.c */
void client_readable(struct ev_loop *loop, ev_io *io, int revents);
void client_look(struct worker *w, struct client *c);  /* at what has come and waited */
void client_read_rest(struct worker *w, struct client *c); /* what TLS has taken from the socket already */
bool client_has_room(const struct client *c);          /* of one that was over a limit: may it be read again? */
void client_drop_input(struct client *c);

#endif
