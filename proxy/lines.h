/* lines.h - cache lines, where there are many and they come at random: slots, stripes, requests under way. A line that nobody asked for before it is needed costs 20 to 130 ns, of the
 * microsecond that a pipelined request takes. Any thread. */
#ifndef CROSSFADE_LINES_H
#define CROSSFADE_LINES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CACHE_LINE 64
#define LINES_OF(x) ((sizeof(x) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE) /* bytes of whole lines, as aligned_alloc wants them */

/* What will be looked at soon is fetched while something else is done. A hint: what is named is not touched, may be NULL, and nothing else changes. */
static inline void fetch_lines(const void *p, size_t n)
{
	for (uintptr_t at = (uintptr_t)p, end = at + n; at < end; at += CACHE_LINE)
		__builtin_prefetch((const void *)at);
}

/* Of a size that the compiler is not told: it would take `rep stos`, whose start costs more than some lines do. */
static inline void clear_lines(void *p, size_t n)
{
	__asm__("" : "+r"(n));
	memset(p, 0, n);
}

#endif
