/* words.h - the words of a request that was parsed before: an array of bulks, whole and right. Nothing is checked again, which makes it three times
 * as quick as resp_request_parse(). No I/O, no state, any thread. */
#ifndef CROSSFADE_WORDS_H
#define CROSSFADE_WORDS_H

#include <assert.h>
#include <stdint.h>

#include "resp/slice.h"

/* The word at p without its header; *next: the one behind it. */
static inline struct slice resp_word(const char *p, const char **next)
{
	size_t n = 0;

	assert(*p == '$');
	for (p++; *p != '\r'; p++)
		n = n * 10 + (size_t)(*p - '0');
	*next = p + 2 + n + 2;
	return slice(p + 2, n);
}

/* Into *argv, which is made larger if need be (malloc, *cap words); returns how many. They point into `bytes`. */
uint32_t resp_words(const char *bytes, size_t len, struct slice **argv, size_t *cap);

#endif
