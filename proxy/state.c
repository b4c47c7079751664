#include "proxy/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backfill/fault.h"

#define RECORD_MAX (4 * 1024 * 1024)

struct state {
	char *dir;
	int dir_fd, lock_fd;
	bool has_record, was_clean;
	struct state_record loaded;
	char *prepared; /* text of the temporary file that is written and fsynced; NULL: none */
};

/* ---- files ---- */

static bool write_all(int fd, const char *text, size_t n)
{
	while (n > 0) {
		ssize_t w = write(fd, text, n);
		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return false;
		text += w;
		n -= (size_t)w;
	}
	return true;
}

/* The whole file, malloc'd, NUL behind it; NULL: errno says why. */
static char *read_all(int dir_fd, const char *name, size_t *n)
{
	int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
	char *text;
	ssize_t got = 0;

	if (fd < 0)
		return NULL;
	text = malloc(RECORD_MAX + 1);
	*n = 0;
	while (*n < RECORD_MAX && (got = read(fd, text + *n, RECORD_MAX - *n)) != 0) {
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			break;
		*n += (size_t)got;
	}
	int saved = errno;
	close(fd);
	if (got < 0) {
		free(text);
		errno = saved;
		return NULL;
	}
	text[*n] = '\0';
	return text;
}

static const char *what_to_do(int error)
{
	return error == ENOSPC || error == EDQUOT ? "make room on that disk" : error == EROFS ? "mount it to be written to" : "give it to this user";
}

bool state_prepare(struct state *s, const struct state_record *r, char *err, size_t errlen)
{
	char *text = state_render(r);
	int fd;

	if (s->prepared && strcmp(s->prepared, text) == 0) {
		free(text);
		return true;
	}
	free(s->prepared);
	s->prepared = NULL;
	fd = openat(s->dir_fd, "phase.tmp", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	bool ok = fd >= 0 && write_all(fd, text, strlen(text)) && fsync(fd) == 0;
	int saved = errno;
	if (fd >= 0 && close(fd) < 0 && ok) {
		ok = false;
		saved = errno;
	}
	if (ok) {
		s->prepared = text;
		return true;
	}
	free(text);
	snprintf(err, errlen, "cannot write %s/phase.tmp: %s; %s", s->dir, strerror(saved), what_to_do(saved));
	return false;
}

enum state_result state_write(struct state *s, const struct state_record *r, char *err, size_t errlen)
{
	if (!state_prepare(s, r, err, errlen))
		return STATE_UNCHANGED;
	free(s->prepared);
	s->prepared = NULL;
	crash_point("record-before-rename");
	if (renameat(s->dir_fd, "phase.tmp", s->dir_fd, "phase") < 0) {
		snprintf(err, errlen, "cannot replace %s/phase: %s", s->dir, strerror(errno));
		return STATE_UNKNOWN;
	}
	crash_point("record-after-rename");
	if (fsync(s->dir_fd) < 0) {
		snprintf(err, errlen, "cannot sync %s: %s", s->dir, strerror(errno));
		return STATE_UNKNOWN;
	}
	return STATE_DURABLE;
}

void state_mark_clean(struct state *s)
{
	int fd = openat(s->dir_fd, "clean", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0)
		return; /* the next start takes it for unclean, which is safe */
	fsync(fd);
	close(fd);
	fsync(s->dir_fd);
}

/* ---- opening ---- */

static bool take_lock(struct state *s, char *err, size_t errlen)
{
	char pid[32] = "";

	s->lock_fd = openat(s->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (s->lock_fd < 0) {
		snprintf(err, errlen, "state-dir %s cannot be written: %s; %s or set another state-dir", s->dir, strerror(errno), what_to_do(errno));
		return false;
	}
	if (flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		ssize_t n = pread(s->lock_fd, pid, sizeof(pid) - 1, 0);
		pid[n > 0 ? n : 0] = '\0';
		pid[strcspn(pid, "\n")] = '\0';
		snprintf(err, errlen, "state-dir %s is in use by process %s: stop that one, or set another state-dir", s->dir,
			 *pid ? pid : "(unknown)");
		return false;
	}
	int n = snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
	if (pwrite(s->lock_fd, pid, (size_t)n, 0) != n || ftruncate(s->lock_fd, n) < 0) { /* in this order a full disk is no reason to fail */
		snprintf(err, errlen, "state-dir %s cannot be written: %s; %s or set another state-dir", s->dir, strerror(errno), what_to_do(errno));
		return false;
	}
	return true;
}

static bool open_dir(struct state *s, bool lock, char *err, size_t errlen)
{
	if (lock && mkdir(s->dir, 0700) < 0 && errno != EEXIST) {
		snprintf(err, errlen, "state-dir %s cannot be created: %s; %s or set another state-dir", s->dir, strerror(errno),
			 errno == ENOENT ? "create it" : what_to_do(errno));
		return false;
	}
	s->dir_fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->dir_fd < 0) {
		snprintf(err, errlen, "state-dir %s cannot be opened: %s; %s or set another state-dir", s->dir, strerror(errno),
			 errno == ENOTDIR ? "that is a file: remove it" : what_to_do(errno));
		return false;
	}
	return !lock || take_lock(s, err, errlen);
}

static int load(struct state *s, char *err, size_t errlen)
{
	size_t n;
	char why[256], *text = read_all(s->dir_fd, "phase", &n);

	if (!text && errno == ENOENT)
		return 0;
	if (!text) {
		snprintf(err, errlen, "%s/phase cannot be read: %s", s->dir, strerror(errno));
		return STATE_EXIT_LOCKED;
	}
	s->has_record = state_parse(text, n, &s->loaded, why, sizeof(why));
	free(text);
	if (s->has_record)
		return 0;
	snprintf(err, errlen,
		 "the phase record %s/phase %s; it says which side has the data: restore it from a backup, or, only if it is certain "
		 "that no slot was on the target, remove it and start anew",
		 s->dir, why);
	return STATE_EXIT_CORRUPT;
}

static struct state *read_dir(const char *dir, bool lock, char *err, size_t errlen, int *exit_code)
{
	struct state *s = calloc(1, sizeof(*s));

	s->dir = strdup(dir);
	s->dir_fd = s->lock_fd = -1;
	*exit_code = open_dir(s, lock, err, errlen) ? 0 : STATE_EXIT_LOCKED;
	if (*exit_code == 0)
		*exit_code = load(s, err, errlen);
	if (*exit_code != 0) {
		state_close(s);
		return NULL;
	}
	return s;
}

static void take_mark(struct state *s)
{
	s->was_clean = unlinkat(s->dir_fd, "clean", 0) == 0;
	if (s->was_clean)
		fsync(s->dir_fd); /* or a crash from here on would look like a clean end */
}

struct state *state_open(const char *dir, char *err, size_t errlen, int *exit_code)
{
	struct state *s = read_dir(dir, true, err, errlen, exit_code);

	if (s)
		take_mark(s);
	return s;
}

struct state *state_borrow(const char *dir, char *err, size_t errlen, int *exit_code)
{
	return read_dir(dir, false, err, errlen, exit_code);
}

bool state_look(struct state *s, char *err, size_t errlen)
{
	return load(s, err, errlen) == 0;
}

bool state_take(struct state *s, char *err, size_t errlen, int *exit_code)
{
	if (s->lock_fd >= 0)
		close(s->lock_fd);
	*exit_code = STATE_EXIT_LOCKED;
	if (!take_lock(s, err, errlen))
		return false;
	if (!state_look(s, err, errlen)) {
		*exit_code = STATE_EXIT_CORRUPT;
		return false;
	}
	take_mark(s);
	return true;
}

void state_close(struct state *s)
{
	if (!s)
		return;
	if (s->lock_fd >= 0)
		close(s->lock_fd);
	if (s->dir_fd >= 0)
		close(s->dir_fd);
	free(s->prepared);
	free(s->dir);
	free(s);
}

bool state_has_record(const struct state *s)
{
	return s->has_record;
}

bool state_was_clean(const struct state *s)
{
	return s->was_clean;
}

const struct state_record *state_loaded(const struct state *s)
{
	return &s->loaded;
}

void state_random_id(char id[MIGRATION_ID_LEN + 1])
{
	uint8_t raw[MIGRATION_ID_LEN / 2];

	if (getrandom(raw, sizeof(raw), 0) != (ssize_t)sizeof(raw))
		abort();
	for (unsigned i = 0; i < sizeof(raw); i++)
		snprintf(id + 2 * i, 3, "%02x", raw[i]);
}
