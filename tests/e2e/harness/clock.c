/* Preloaded into a server: its clock is OFFSET_S seconds ahead, with WHEN as long as there is a file of that name. By system call, since a look-up of the real function may
 * run before there is one. */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#ifdef WHEN
static int applies(void)
{
	return syscall(SYS_access, WHEN, 0) == 0;
}
#else
static int applies(void)
{
	return 1;
}
#endif

int clock_gettime(clockid_t id, struct timespec *ts)
{
	long r = syscall(SYS_clock_gettime, id, ts);

	if (r == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) && applies())
		ts->tv_sec += OFFSET_S;
	return (int)r;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
	struct timespec ts;

	(void)zone;
	clock_gettime(CLOCK_REALTIME, &ts);
	tv->tv_sec = ts.tv_sec;
	tv->tv_usec = ts.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *t)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	if (t)
		*t = ts.tv_sec;
	return ts.tv_sec;
}
