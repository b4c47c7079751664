/* latency.h - how long requests took, of those that were looked at. Both grow for ever; written by one thread, read by any. */
#ifndef CROSSFADE_LATENCY_H
#define CROSSFADE_LATENCY_H

#include <stdatomic.h>
#include <stdint.h>

struct latency {
	_Atomic uint64_t requests, us;
};

#endif
