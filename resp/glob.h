/* glob.h - the servers' glob patterns: * ? [a-z] [^a] and \ before a character that is to stand for itself. Any bytes. */
#ifndef CROSSFADE_GLOB_H
#define CROSSFADE_GLOB_H

#include "resp/slice.h"

bool glob_match(struct slice pattern, struct slice text, bool nocase);

#endif
