/* slot.h - the cluster's hash slot of a key: CRC16 (XMODEM) of the key, or of its {hash tag}, modulo 16384. */
#ifndef CROSSFADE_SLOT_H
#define CROSSFADE_SLOT_H

#include <stdint.h>

#include "resp/slice.h"

#define SLOTS 16384

uint16_t slot_of(struct slice key);

#endif
