/* slot_tag.h - a short hash tag for each slot, so that a key of our own can be put into it: "{tag}". Any thread. */
#ifndef CROSSFADE_SLOT_TAG_H
#define CROSSFADE_SLOT_TAG_H

#include <stdint.h>

/* At most SLOT_TAG_MAX characters of [0-9a-z], NUL-terminated, static. */
#define SLOT_TAG_MAX 4
const char *slot_tag(uint16_t slot);

#endif
