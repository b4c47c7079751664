/* advice.h - what to do about a node that does not serve us, by the words that it, or the system, said. Pure. */
#ifndef CROSSFADE_ADVICE_H
#define CROSSFADE_ADVICE_H

#include "backfill/topology.h"

/* `why`: the reason as discovery and bulk connections give it. The advice begins in lower case, has no full stop and fits behind "reason; ". */
const char *advice_unreachable(enum side side, const char *why);

#endif
