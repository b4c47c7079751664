/* Preloaded into a program with an epoll loop: the longest turn of each of its threads, in thread CPU time, so that it does not matter what else the machine does.
 * It stands in DIR/<pid>, which is mapped: TURNS_MAX pairs of (thread ID, nanoseconds), that a reader may set back to 0. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TURNS_MAX 64

struct turns {
	_Atomic uint64_t thread, longest_ns;
};

static struct turns *_Atomic turns_of_all;
static _Thread_local struct turns *mine;
static _Thread_local uint64_t woke_ns;

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	syscall(SYS_clock_gettime, CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

/* Of the first threads to come the mapping that won is used; another one's is the same file. */
static struct turns *map(void)
{
	char path[256];
	struct turns *t = turns_of_all;

	if (t)
		return t;
	snprintf(path, sizeof path, "%s/%d", DIR, (int)getpid());
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, TURNS_MAX * sizeof *t) < 0)
		return NULL;
	t = mmap(NULL, TURNS_MAX * sizeof *t, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return t == MAP_FAILED ? NULL : (turns_of_all = t);
}

static void begin(void)
{
	uint64_t thread = (uint64_t)syscall(SYS_gettid);
	struct turns *t = map();

	for (int i = 0; t && !mine && i < TURNS_MAX; i++) {
		uint64_t none = 0;
		if (__atomic_compare_exchange_n((uint64_t *)&t[i].thread, &none, thread, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			mine = &t[i];
	}
}

static void turn_ends(void)
{
	uint64_t took;

	if (!mine)
		begin();
	if (!mine || !woke_ns)
		return;
	took = cpu_ns() - woke_ns;
	if (took > mine->longest_ns)
		mine->longest_ns = took;
}

int epoll_wait(int fd, struct epoll_event *events, int n, int timeout_ms)
{
	turn_ends();
	int r = (int)syscall(SYS_epoll_pwait, fd, events, n, timeout_ms, NULL, 8);
	woke_ns = cpu_ns();
	return r;
}
