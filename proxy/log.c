#include "proxy/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 2048
#define GATE_LINES 5 /* per second and call site */

/* One descriptor for the life of the process: reopening replaces what it refers to (dup3), so that no thread ever writes to a
 * closed one. */
static _Atomic int log_fd = STDERR_FILENO;
static _Atomic int log_threshold = LOG_NOTICE;
static _Thread_local char thread_name[16] = "main";

static const char *const level_names[] = { "debug", "verbose", "notice", "warning" };

bool log_open(const char *file)
{
	int fd, old = atomic_load(&log_fd);

	if (!file || !*file) {
		atomic_store(&log_fd, STDERR_FILENO);
		return true; /* the old file's descriptor stays open: another thread may be writing to it */
	}
	fd = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
	if (fd < 0)
		return false;
	if (old == STDERR_FILENO) {
		atomic_store(&log_fd, fd);
		return true;
	}
	bool ok = dup3(fd, old, O_CLOEXEC) >= 0;
	close(fd);
	return ok;
}

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&log_threshold, (int)level, memory_order_relaxed);
}

enum log_level log_level(void)
{
	return (enum log_level)atomic_load_explicit(&log_threshold, memory_order_relaxed);
}

void log_thread_name(const char *name)
{
	snprintf(thread_name, sizeof(thread_name), "%s", name);
	if (gettid() != getpid()) /* the process keeps its own */
		prctl(PR_SET_NAME, thread_name); /* so top -H, gdb and perf call it that, too */
}

static size_t put_prefix(char *line, size_t cap, enum log_level level)
{
	struct timespec ts;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &ts);
	localtime_r(&ts.tv_sec, &tm);
	size_t n = strftime(line, cap, "%Y-%m-%dT%H:%M:%S", &tm);
	n += (size_t)snprintf(line + n, cap - n, ".%03ld", ts.tv_nsec / 1000000);
	n += strftime(line + n, cap - n, "%z", &tm);
	n += (size_t)snprintf(line + n, cap - n, " %s %s: ", level_names[level], thread_name);
	return n;
}

/* One line, one write: lines of several threads do not mix. Control characters cannot forge a line of their own. */
void log_vwrite(enum log_level level, const char *fmt, __builtin_va_list ap)
{
	char line[LINE_MAX_BYTES];
	int saved = errno, n;

	if (level < log_level())
		return;
	size_t used = put_prefix(line, sizeof(line), level);
	errno = saved;
	n = vsnprintf(line + used, sizeof(line) - used - 1, fmt, ap);
	if (n < 0)
		return;
	size_t end = used + (size_t)n < sizeof(line) - 2 ? used + (size_t)n : sizeof(line) - 2;
	for (size_t i = used; i < end; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = ' ';
	line[end++] = '\n';
	for (size_t done = 0; done < end;) {
		ssize_t w = write(atomic_load_explicit(&log_fd, memory_order_relaxed), line + done, end - done);
		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			break; /* nobody to complain to */
		done += (size_t)w;
	}
	errno = saved;
}

void log_write(enum log_level level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_vwrite(level, fmt, ap);
	va_end(ap);
}

/* The first caller of a new second takes the count of the last one over; who loses that race counts in the new second. */
bool log_gate(struct log_gate *g, unsigned *suppressed)
{
	struct timespec ts;
	int64_t second = atomic_load(&g->second);

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	int64_t now = ts.tv_sec + 1; /* never the initial 0 */
	if (second != now && atomic_compare_exchange_strong(&g->second, &second, now)) {
		unsigned old = atomic_exchange(&g->count, 1);
		*suppressed = old > GATE_LINES ? old - GATE_LINES : 0;
		return true;
	}
	*suppressed = 0;
	return atomic_fetch_add(&g->count, 1) < GATE_LINES;
}
