/* scripts.h - the bodies of scripts that went through the proxy, by their SHA1, so that EVALSHA works on a node that has not got the script: after a
 * flip, a failover, a new node. Servers neither replicate nor tell them. They are loaded when a node is connected, and where a call finds one missing. Bounded: what does not fit any more is not remembered, and such an EVALSHA
 * gets the server's own NOSCRIPT, as it would after a restart of the server. Any thread (a lock; nothing on the path of other commands). */
#ifndef CROSSFADE_SCRIPTS_H
#define CROSSFADE_SCRIPTS_H

#include <hiredis/sds.h>
#include <stddef.h>
#include <stdint.h>

#include "resp/slice.h"

struct scripts;

struct scripts *scripts_new(size_t max_bytes);
void scripts_free(struct scripts *s);
bool scripts_remember(struct scripts *s, struct slice body); /* true: it was not known, and is now */
void scripts_forget(struct scripts *s); /* SCRIPT FLUSH: all */
uint64_t scripts_epoch(struct scripts *s); /* moves when they are forgotten */
/* "SCRIPT LOAD body" as a request, the caller's to free; NULL: not known. sha in upper or lower case. */
sds scripts_load_request(struct scripts *s, struct slice sha);
/* The same for all, one behind the other; *n is how many. NULL: none is known. */
sds scripts_load_all(struct scripts *s, unsigned *n);

#endif
