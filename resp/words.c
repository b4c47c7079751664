#include "resp/words.h"

#include <assert.h>
#include <stdlib.h>

/* "<type><digits>\r\n" at *p, which is moved behind it. */
static inline size_t header(const char **p)
{
	const char *at = *p + 1;
	size_t n = 0;

	for (; *at != '\r'; at++)
		n = n * 10 + (size_t)(*at - '0');
	*p = at + 2;
	return n;
}

uint32_t resp_words(const char *bytes, size_t len, struct slice **argv, size_t *cap)
{
	const char *p = bytes;
	size_t n = header(&p);

	assert(bytes[0] == '*' && n <= UINT32_MAX);
	if (n > *cap) {
		*cap = 2 * n;
		*argv = realloc(*argv, *cap * sizeof **argv);
		if (!*argv)
			abort();
	}
	for (size_t i = 0; i < n; i++) {
		size_t size = header(&p);
		(*argv)[i] = slice(p, size);
		p += size + 2;
	}
	assert(p == bytes + len);
	(void)len;
	return (uint32_t)n;
}
