/* digits.h - integers as the servers read and write them. */
#ifndef CROSSFADE_DIGITS_H
#define CROSSFADE_DIGITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The servers' string2ll: no '+', no spaces, no leading zeros, no "-0", nothing beyond 64 bits. False: *n is untouched. */
static inline bool resp_string_to_int(const char *p, size_t len, int64_t *n)
{
	bool negative = len > 1 && *p == '-';
	const char *end = p + len;
	uint64_t v = 0;

	p += negative;
	if (len == 0 || len > 20 || (*p == '0' && (negative || len > 1)))
		return false;
	for (; p < end; p++) {
		unsigned digit = (unsigned char)*p - '0';
		if (digit > 9 || __builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, digit, &v))
			return false;
	}
	if (v > (uint64_t)INT64_MAX + negative)
		return false;
	*n = negative ? (int64_t)(0 - v) : (int64_t)v;
	return true;
}

#endif
