/* control_handover.h - the process that goes: it listens for a successor, and hands over to it what it has (docs/upgrade.md).
 *
 *   IDLE ──hello──► OFFERED ──ready──► STILL ──► EMPTY ──► PACKED ──have──► the loop ends: go
 *     ▲               │                  │         │          │
 *     └───────────────┴──refused, too late, gone, TERM────────┘   everything goes on as before
 *
 * From OFFERED on orders are refused. Until `go` was written every failure undoes; after it this process serves nobody any more, whatever happens.
 * Only one successor at a time. Thread: control. */
#ifndef CROSSFADE_CONTROL_HANDOVER_H
#define CROSSFADE_CONTROL_HANDOVER_H

#include <stdbool.h>
#include <stdint.h>

struct control;
struct successor;

#define HANDOVER_FLIP UINT64_MAX /* the number by which the workers' pubsub_settle is asked for */

void successor_listen(struct control *c);    /* it serves: from now on one may come */
void successor_unlisten(struct control *c);  /* the socket goes, and who is there */
bool successor_is_there(const struct control *c);
bool successor_stops_clients(const struct control *c);
void successor_abort(struct control *c, const char *why); /* undone, if there is anything to undo */
void successor_settled(struct control *c, unsigned worker);

#endif
