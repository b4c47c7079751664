/* log.h - log lines to stderr or a file: time, level, thread, message. Never values of keys, never secrets. Any thread.
 * log_limited() lets at most a few lines per second and call site through and says how many it kept back. */
#ifndef CROSSFADE_LOG_H
#define CROSSFADE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_VERBOSE, LOG_NOTICE, LOG_WARNING };

bool log_open(const char *file); /* NULL or "": stderr; also reopens */
void log_set_level(enum log_level level);
enum log_level log_level(void);
void log_thread_name(const char *name); /* of the calling thread: "worker-0", "backfill", "control" */
void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void log_vwrite(enum log_level level, const char *fmt, __builtin_va_list ap);

struct log_gate {
	_Atomic int64_t second;
	_Atomic unsigned count;
};
bool log_gate(struct log_gate *g, unsigned *suppressed);

#define log_debug(...) do { if (log_level() <= LOG_DEBUG) log_write(LOG_DEBUG, __VA_ARGS__); } while (0)
#define log_verbose(...) do { if (log_level() <= LOG_VERBOSE) log_write(LOG_VERBOSE, __VA_ARGS__); } while (0)
#define log_notice(...) log_write(LOG_NOTICE, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)
#define log_limited(level, ...)                                                         \
	do {                                                                            \
		static struct log_gate gate_;                                           \
		unsigned kept_ = 0;                                                     \
		if (log_level() <= (level) && log_gate(&gate_, &kept_)) {               \
			if (kept_)                                                      \
				log_write(level, "(%u similar lines left out)", kept_); \
			log_write(level, __VA_ARGS__);                                  \
		}                                                                       \
	} while (0)

#endif
