#include "proxy/state_commit.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define BLOCK 512 /* what no disk writes by halves */
#define FORMAT(u, x) "crossfade: in force is the record of epoch %" u ", checksum %" x ", and of this %" x

static void render(const struct commit *c, char block[BLOCK + 1])
{
	memset(block, '\n', BLOCK);
	block[BLOCK] = '\0';
	int n = snprintf(block, BLOCK, FORMAT(PRIu64, PRIx64), c->epoch, c->checksum, (uint64_t)XXH3_64bits(c, sizeof(*c)));
	block[n] = '\n';
}

struct commit commit_of(uint64_t epoch, const char *text, size_t n)
{
	return (struct commit){ .epoch = epoch, .checksum = XXH3_64bits(text, n) };
}

bool commit_write(int fd, const struct commit *c)
{
	char block[BLOCK + 1];

	render(c, block);
	ssize_t n = pwrite(fd, block, BLOCK, 0);
	if (n >= 0 && n < BLOCK)
		errno = ENOSPC; /* the only reason there is */
	return n == BLOCK;
}

int commit_open(int dir_fd)
{
	int fd = openat(dir_fd, COMMIT_NAME, O_RDWR | O_CREAT | O_DSYNC | O_CLOEXEC, 0600);
	struct stat st;

	if (fd < 0)
		return -1;
	if (fstat(fd, &st) == 0 && (st.st_size == BLOCK || commit_write(fd, &(struct commit){ 0 })))
		return fd;
	int saved = errno;
	close(fd);
	errno = saved;
	return -1;
}

bool commit_read(int dir_fd, struct commit *c)
{
	char block[BLOCK + 1], same[BLOCK + 1];
	uint64_t own;
	int fd = openat(dir_fd, COMMIT_NAME, O_RDONLY | O_CLOEXEC);

	*c = (struct commit){ 0 };
	if (fd < 0)
		return errno == ENOENT;
	ssize_t n = pread(fd, block, BLOCK, 0);
	close(fd);
	if (n == 0)
		return true; /* killed between making it and the first block */
	block[n > 0 ? n : 0] = '\0';
	if (sscanf(block, FORMAT(SCNu64, SCNx64), &c->epoch, &c->checksum, &own) != 3)
		return false;
	render(c, same);
	return n == BLOCK && memcmp(block, same, BLOCK) == 0;
}
