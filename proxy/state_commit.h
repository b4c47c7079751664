/* state_commit.h - the one block that puts a prepared phase record in force (state.h): which one, by its epoch and the checksum of its text.
 *
 * It is written in place, in a file that has its block already: no directory, no inode and no journal of the file system has to reach the disk, which took a third of a
 * flip's pause. A block that was torn, or rotted, is told from one that was never written: what cannot be trusted stops the start. Thread: control only. */
#ifndef CROSSFADE_STATE_COMMIT_H
#define CROSSFADE_STATE_COMMIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COMMIT_NAME "phase.commit"

struct commit {
	uint64_t epoch, checksum; /* epoch 0: none */
};

struct commit commit_of(uint64_t epoch, const char *text, size_t n);

/* The file, made if need be; its name is durable when the directory is. Writes to it are, when they return. -1: errno says why. */
int commit_open(int dir_fd);
/* False: it may be on the disk, or not; errno says why. */
bool commit_write(int fd, const struct commit *c);
/* False: what is there is not to be trusted, or cannot be read. No such file: true, and epoch 0. */
bool commit_read(int dir_fd, struct commit *c);

#endif
