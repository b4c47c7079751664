/* fault.h - mutants and crash points for tests: fault("name") is true if the environment variable CROSSFADE_FAULT holds that name (a comma-separated
 * list), crash_point("name") ends the process there. Builds without --enable-faults do not contain them. Any thread. */
#ifndef CROSSFADE_FAULT_H
#define CROSSFADE_FAULT_H

#include <stdbool.h>

#ifdef CROSSFADE_FAULTS
#include <stdlib.h>
#include <string.h>

static inline bool fault(const char *name)
{
	const char *list = getenv("CROSSFADE_FAULT");
	size_t n = strlen(name);

	for (const char *p = list; p && (p = strstr(p, name)); p += n)
		if ((p == list || p[-1] == ',') && (p[n] == '\0' || p[n] == ','))
			return true;
	return false;
}
#include <signal.h>

/* Dies as by kill -9, at this very place. */
static inline void crash_point(const char *name)
{
	if (fault(name))
		raise(SIGKILL);
}
#else
#define fault(name) false
#define crash_point(name) ((void)0)
#endif

#endif
