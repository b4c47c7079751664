/* block.h - builds a block of commands for one key, every command bounded. Internal to backfill/.
 *
 * Calling sequence: block_init, then commands (one at a time: block_command, or block_open + block_element... + block_close), then take `out`
 * and block_release. A multi-element command is cut where it would exceed BLOCK_ELEMENTS or BLOCK_BYTES; one element alone may
 * exceed the bytes. Commands appended to an existing buffer: see block_init. */
#ifndef CROSSFADE_BLOCK_H
#define CROSSFADE_BLOCK_H

#include <hiredis/sds.h>
#include <stdint.h>

#include "resp/slice.h"

#define BLOCK_ELEMENTS 512
#define BLOCK_BYTES (256 * 1024)
#define BLOCK_COMMAND_MAX (1u << 20) /* no command is longer, unless a single element is */
_Static_assert(2 * BLOCK_BYTES <= BLOCK_COMMAND_MAX, "room for key, verb and the overhead of elements");

struct block {
	sds out;
	unsigned ncommands;
	struct slice key; /* borrowed */
	/* private: the open multi-element command */
	const char *verb;
	const char *option; /* a word between key and elements, or NULL */
	sds args;
	unsigned nelements, nargs;
};

void block_init(struct block *b, sds out, struct slice key);
void block_release(struct block *b); /* all but `out` */

/* A whole command: the verb, then argv. */
void block_command(struct block *b, const char *verb, int argc, const struct slice *argv);
/* The verb, the key, then words: C strings, NULL at the end. */
void block_words(struct block *b, const char *verb, ...);

void block_open(struct block *b, const char *verb, const char *option);
void block_element(struct block *b, int argc, const struct slice *argv);
void block_close(struct block *b);

#endif
