/* pump.h - TLS clients of a process that has handed over: their keys cannot leave it, so it stays and carries bytes between each of them and its successor, over
 * a pair of sockets that the successor takes for the client. It looks at none of them. Whoever closes first, the other is closed behind what is on its way.
 * Bounded: 16 KiB in each direction of a connection. Thread: the loop's. */
#ifndef CROSSFADE_PUMP_H
#define CROSSFADE_PUMP_H

#include <ev.h>

#include "net/tls.h"

struct pumps;

struct pumps *pumps_new(struct ev_loop *loop);
void pumps_add(struct pumps *p, struct tls *tls, int tls_fd, int plain_fd); /* takes all three */
unsigned pumps_count(const struct pumps *p);
void pumps_run(struct pumps *p); /* returns when none is left; who has not finished its handshake is given 5 s */
void pumps_free(struct pumps *p); /* NULL is allowed */

#endif
