/* pause.h - CLIENT PAUSE: what clients send is held where they are read, before it is looked at further, on every worker; what is on its way goes on.
 *
 * A request that is held is not in flight: a flip neither waits for it nor answers it; it is served by the authority of the time when it goes on.
 * A large request that is passed on as it comes (bulk.h) stops where it is: it is not executed before its end has come.
 * The servers behind are not told: they go on with what is theirs (expiry, replication, the mirror's and the backfill's writes).
 * Thread: the worker's. */
#ifndef CROSSFADE_PAUSE_H
#define CROSSFADE_PAUSE_H

#include <stdbool.h>
#include <stdint.h>

struct client;
struct command;
struct worker;

enum pause_kind { PAUSE_NOT, PAUSE_WRITE, PAUSE_ALL, PAUSE_HANDOVER /* not CLIENT PAUSE: clients go to another process */ };

void pause_init(struct worker *w);
/* w->pause: is the request at hand one that waits? */
bool pause_holds(const struct worker *w, const struct client *c, const struct command *cmd);
bool pause_holds_writes(const struct worker *w); /* CLIENT PAUSE does, whether clients go to another process meanwhile or not */
void pause_end(struct worker *w); /* here only; who is held goes on */
/* Everything is held, whatever CLIENT PAUSE says; that goes on beneath. The end looks at nobody's requests: the caller does. */
void pause_handover(struct worker *w, bool on);
void pause_restore(struct worker *w, enum pause_kind kind, int64_t until_ms); /* what CLIENT PAUSE had said in another process */

#endif
