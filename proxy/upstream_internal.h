/* upstream_internal.h - shared by upstream*.c only. */
#ifndef CROSSFADE_UPSTREAM_INTERNAL_H
#define CROSSFADE_UPSTREAM_INTERNAL_H

#include "proxy/upstream.h"

void upstream_set_state(struct upstream *u, enum upstream_state state);

/* upstream_greeting.c */
void upstream_shake_hands(struct upstream *u); /* TLS; then the greeting */
void upstream_greet(struct upstream *u);
bool upstream_greeting_reply(struct upstream *u, struct slice r); /* false: nothing more is to be read just now, it may be gone */

#endif
