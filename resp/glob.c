#include "resp/glob.h"

#include <stdint.h>

static uint8_t fold(char c, bool nocase)
{
	return (uint8_t)(nocase && c >= 'A' && c <= 'Z' ? c + 32 : c);
}

/* A class against a character; *at, behind its '[', moves behind it. */
static bool class_match(struct slice pattern, size_t *at, uint8_t c, bool nocase)
{
	const char *p = pattern.p + *at, *end = pattern.p + pattern.n;
	bool negated = p < end && *p == '^', hit = false;

	for (p += negated; p < end && *p != ']'; p++) {
		if (*p == '\\' && p + 1 < end)
			p++;
		uint8_t from = fold(*p, nocase), to = from;
		if (p + 2 < end && p[1] == '-') {
			p += 2;
			to = fold(*p, nocase);
		}
		hit |= from <= to ? c >= from && c <= to : c >= to && c <= from;
	}
	*at = p < end ? (size_t)(p + 1 - pattern.p) : pattern.n;
	return hit != negated;
}

/* One element of a pattern at *at (not a '*') against a character; *at moves behind it. */
static bool one_match(struct slice pattern, size_t *at, char c, bool nocase)
{
	const char *p = pattern.p + (*at)++;

	if (*p == '[')
		return class_match(pattern, at, fold(c, nocase), nocase);
	if (*p == '?')
		return true;
	if (*p == '\\' && *at < pattern.n)
		p = pattern.p + (*at)++;
	return fold(*p, nocase) == fold(c, nocase);
}

/* Going back to the last star only keeps it from becoming slow. */
bool glob_match(struct slice pattern, struct slice text, bool nocase)
{
	size_t at = 0, star = SIZE_MAX, next, i = 0, retry = 0;

	while (i < text.n) {
		if (at < pattern.n && pattern.p[at] == '*') {
			star = ++at;
			retry = i;
			continue;
		}
		next = at;
		if (at < pattern.n && one_match(pattern, &next, text.p[i], nocase)) {
			at = next;
			i++;
		} else if (star != SIZE_MAX) {
			at = star;
			i = ++retry;
		} else {
			return false;
		}
	}
	while (at < pattern.n && pattern.p[at] == '*')
		at++;
	return at == pattern.n;
}
