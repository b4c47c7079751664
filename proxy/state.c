#include "proxy/state.h"

#include <assert.h>
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
#include "proxy/state_commit.h"

#define RECORD_MAX (4 * 1024 * 1024)

struct state {
	char *dir;
	int dir_fd, lock_fd, commit_fd;
	bool has_record, was_clean;
	bool is_named;  /* there is a phase */
	bool unsettled; /* phase.next is in force, and not yet called phase */
	struct state_record loaded;
	char *prepared; /* text of phase.next, durable and not in force; NULL: none */
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

static bool cannot(const struct state *s, const char *what, const char *name, int error, char *err, size_t errlen)
{
	snprintf(err, errlen, "cannot %s %s/%s: %s; %s", what, s->dir, name, strerror(error), what_to_do(error));
	return false;
}

static bool write_tmp(const struct state *s, const char *text, char *err, size_t errlen)
{
	int fd = openat(s->dir_fd, "phase.tmp", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	bool ok = fd >= 0 && write_all(fd, text, strlen(text)) && fsync(fd) == 0;
	int saved = errno;

	if (fd >= 0 && close(fd) < 0 && ok) {
		ok = false;
		saved = errno;
	}
	return ok || cannot(s, "write", "phase.tmp", saved, err, errlen);
}

static enum state_result rename_tmp(const struct state *s, const char *name, char *err, size_t errlen)
{
	crash_point("record-before-rename");
	if (renameat(s->dir_fd, "phase.tmp", s->dir_fd, name) < 0) {
		snprintf(err, errlen, "cannot replace %s/%s: %s", s->dir, name, strerror(errno));
		return STATE_UNKNOWN;
	}
	crash_point("record-after-rename");
	if (fsync(s->dir_fd) < 0) {
		snprintf(err, errlen, "cannot sync %s: %s", s->dir, strerror(errno));
		return STATE_UNKNOWN;
	}
	return STATE_DURABLE;
}

static void forget_prepared(struct state *s)
{
	free(s->prepared);
	s->prepared = NULL;
}

bool state_settle(struct state *s, char *err, size_t errlen)
{
	if (!s->unsettled)
		return true;
	crash_point("record-settling");
	/* no such file: it was renamed, and only the directory could not be synced */
	if ((renameat(s->dir_fd, "phase.next", s->dir_fd, "phase") < 0 && errno != ENOENT) || fsync(s->dir_fd) < 0)
		return cannot(s, "replace", "phase", errno, err, errlen);
	s->unsettled = false;
	return true;
}

bool state_prepare(struct state *s, const struct state_record *r, char *err, size_t errlen)
{
	char *text = state_render(r);
	bool ok = s->prepared && strcmp(s->prepared, text) == 0;

	assert(s->is_named);
	if (!ok) {
		forget_prepared(s);
		ok = state_settle(s, err, errlen);
		if (ok && s->commit_fd < 0) {
			s->commit_fd = commit_open(s->dir_fd);
			ok = s->commit_fd >= 0 || cannot(s, "write", COMMIT_NAME, errno, err, errlen);
		}
		ok = ok && write_tmp(s, text, err, errlen) && rename_tmp(s, "phase.next", err, errlen) == STATE_DURABLE;
		if (ok)
			s->prepared = strdup(text);
	}
	free(text);
	return ok;
}

static enum state_result commit_prepared(struct state *s, const struct state_record *r, char *err, size_t errlen)
{
	struct commit c = commit_of(r->epoch, s->prepared, strlen(s->prepared));

	crash_point("record-before-commit");
	if (!commit_write(s->commit_fd, &c)) {
		cannot(s, "write", COMMIT_NAME, errno, err, errlen);
		return STATE_UNKNOWN;
	}
	crash_point("record-after-commit");
	s->unsettled = true;
	return STATE_DURABLE;
}

enum state_result state_write(struct state *s, const struct state_record *r, char *err, size_t errlen)
{
	char *text = state_render(r);
	enum state_result result = STATE_UNCHANGED;

	if (s->prepared && strcmp(s->prepared, text) == 0)
		result = commit_prepared(s, r, err, errlen);
	else if (state_settle(s, err, errlen) && write_tmp(s, text, err, errlen))
		result = rename_tmp(s, "phase", err, errlen);
	s->is_named |= result == STATE_DURABLE;
	forget_prepared(s);
	free(text);
	return result;
}

void state_mark_clean(struct state *s)
{
	char why[512];
	int fd = state_settle(s, why, sizeof(why)) ? openat(s->dir_fd, "clean", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;

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

static int corrupt(const struct state *s, const char *name, const char *why, char *err, size_t errlen)
{
	snprintf(err, errlen,
		 "the phase record %s/%s %s; it says which side has the data: restore it from a backup, or, only if it is certain "
		 "that no slot was on the target, remove it and start anew",
		 s->dir, name, why);
	return STATE_EXIT_CORRUPT;
}

/* Was the process killed between the commit of a flip and the renaming? */
static int load_next(struct state *s, char *err, size_t errlen)
{
	struct commit c;
	struct state_record *r;
	size_t n;
	char why[256], *text = read_all(s->dir_fd, "phase.next", &n);

	if (!text && errno == ENOENT)
		return 0;
	if (!text) {
		snprintf(err, errlen, "%s/phase.next cannot be read: %s", s->dir, strerror(errno));
		return STATE_EXIT_LOCKED;
	}
	bool trusted = commit_read(s->dir_fd, &c);
	if (trusted && c.epoch <= s->loaded.epoch) {
		free(text);
		return 0;
	}
	r = malloc(sizeof(*r));
	trusted = trusted && c.checksum == commit_of(c.epoch, text, n).checksum && state_parse(text, n, r, why, sizeof(why)) && r->epoch == c.epoch;
	if (trusted) {
		s->loaded = *r;
		s->unsettled = true;
	}
	free(r);
	free(text);
	return trusted ? 0 : corrupt(s, "phase.next", "and " COMMIT_NAME " beside it do not fit each other", err, errlen);
}

/* Whoever took the record away wants to start anew: what a flip left behind is about the former one. */
static void forget_next(struct state *s)
{
	unlinkat(s->dir_fd, "phase.next", 0);
	unlinkat(s->dir_fd, COMMIT_NAME, 0);
}

static int load(struct state *s, char *err, size_t errlen)
{
	size_t n;
	char why[256], *text = read_all(s->dir_fd, "phase", &n);

	s->unsettled = false;
	if (!text && errno == ENOENT) {
		if (s->lock_fd >= 0)
			forget_next(s);
		return 0;
	}
	if (!text) {
		snprintf(err, errlen, "%s/phase cannot be read: %s", s->dir, strerror(errno));
		return STATE_EXIT_LOCKED;
	}
	s->has_record = s->is_named = state_parse(text, n, &s->loaded, why, sizeof(why));
	free(text);
	return s->has_record ? load_next(s, err, errlen) : corrupt(s, "phase", why, err, errlen);
}

static struct state *read_dir(const char *dir, bool lock, char *err, size_t errlen, int *exit_code)
{
	struct state *s = calloc(1, sizeof(*s));

	s->dir = strdup(dir);
	s->dir_fd = s->lock_fd = s->commit_fd = -1;
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
	if (s->commit_fd >= 0)
		close(s->commit_fd);
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
