/* file.c - small files of state-dir that are replaced whole: written beside, fsynced, renamed, directory fsynced. So what is there is the old
 * one or the new one, never a part. Without a state_dir nothing is kept, and everything counts as stored. */
#include "backfill/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static void path_of(const struct backfill *b, const char *name, const char *suffix, char *out, size_t n)
{
	snprintf(out, n, "%s/%s%s", b->config.state_dir, name, suffix);
}

static void log_errno(struct backfill *b, const char *what, const char *path)
{
	bf_failing(b, LOGK_OTHER, "cannot %s '%s': %s", what, path, strerror(errno));
}

static bool write_all(int fd, const void *data, size_t n)
{
	const char *p = data;

	while (n > 0) {
		ssize_t w = write(fd, p, n);
		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return false;
		p += w;
		n -= (size_t)w;
	}
	return true;
}

static bool fsync_dir(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool ok = fd >= 0 && fsync(fd) == 0;

	if (fd >= 0)
		close(fd);
	return ok;
}

bool file_store(struct backfill *b, const char *name, const void *data, size_t n)
{
	char path[4096], tmp[4096];
	int fd;

	if (!b->config.state_dir)
		return true;
	path_of(b, name, "", path, sizeof(path));
	path_of(b, name, ".new", tmp, sizeof(tmp));
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0) {
		log_errno(b, "create", tmp);
		return false;
	}
	bool ok = write_all(fd, data, n) && fsync(fd) == 0;
	if (close(fd) < 0)
		ok = false;
	if (!ok || rename(tmp, path) < 0 || !fsync_dir(b->config.state_dir)) {
		log_errno(b, "write", path);
		unlink(tmp);
		return false;
	}
	return true;
}

sds file_read(struct backfill *b, const char *name, size_t max)
{
	char path[4096];
	sds text;
	ssize_t got = 0;

	if (!b->config.state_dir)
		return NULL;
	path_of(b, name, "", path, sizeof(path));
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		if (errno != ENOENT)
			log_errno(b, "read", path);
		return NULL;
	}
	text = must(sdsempty());
	while (sdslen(text) < max) {
		text = must(sdsMakeRoomFor(text, 65536));
		got = read(fd, text + sdslen(text), max - sdslen(text) < 65536 ? max - sdslen(text) : 65536);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		sdsIncrLen(text, (int)got);
	}
	if (got < 0)
		log_errno(b, "read", path);
	close(fd);
	return text;
}

void file_remove(struct backfill *b, const char *name)
{
	char path[4096];

	if (!b->config.state_dir)
		return;
	path_of(b, name, "", path, sizeof(path));
	if (unlink(path) < 0) {
		if (errno != ENOENT)
			log_errno(b, "remove", path);
		return;
	}
	fsync_dir(b->config.state_dir);
}
