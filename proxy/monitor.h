/* monitor.h - MONITOR: clients that are sent every command that clients of this proxy give, as the servers word it.
 *
 * Each worker knows how many monitors every other has, so that without any a command costs one look at a flag. Secrets are left out. What scripts call
 * inside a server is not seen. Thread: the worker's. */
#ifndef CROSSFADE_MONITOR_H
#define CROSSFADE_MONITOR_H

#include <stdbool.h>
#include <stdint.h>

#include "resp/table.h"

struct client;
struct worker;

void monitor_join(struct worker *w, struct client *c);
void monitor_leave(struct client *c); /* RESET, the end */
void monitor_feed(struct worker *w, const struct client *c, const struct command *cmd, uint32_t argc); /* w->monitored: the words are in w->argv */
void monitor_release(struct worker *w);

#endif
