#include "proxy/known.h"

#include <stdlib.h>
#include <string.h>

#define CAP_MIN 1024

static bool is_empty(keyhash h)
{
	return h.high64 == 0 && h.low64 == 0;
}

static bool is_grave(keyhash h)
{
	return h.high64 == 0 && h.low64 == 1;
}

/* The two reserved values are moved aside: two keys out of 2^128 share a place, and no more than that. */
static keyhash fold(keyhash h)
{
	if (h.high64 == 0 && h.low64 <= 1)
		h.high64 = 1;
	return h;
}

void known_init(struct known *k, size_t max)
{
	*k = (struct known){ .max = max };
}

void known_release(struct known *k)
{
	free(k->at);
	*k = (struct known){ .max = k->max };
}

void known_clear(struct known *k)
{
	known_release(k);
}

static size_t find(const struct known *k, keyhash h, size_t *free_at)
{
	size_t i = (size_t)(h.low64 >> 16 ^ h.high64) & (k->cap - 1);

	*free_at = SIZE_MAX;
	for (;; i = (i + 1) & (k->cap - 1)) {
		if (is_empty(k->at[i])) {
			if (*free_at == SIZE_MAX)
				*free_at = i;
			return SIZE_MAX;
		}
		if (is_grave(k->at[i]) && *free_at == SIZE_MAX)
			*free_at = i;
		else if (k->at[i].low64 == h.low64 && k->at[i].high64 == h.high64)
			return i;
	}
}

bool known_has(const struct known *k, keyhash h)
{
	size_t unused;

	return k->live && find(k, fold(h), &unused) != SIZE_MAX;
}

static void rebuild(struct known *k, size_t cap)
{
	struct known bigger = { .max = k->max, .cap = cap };

	bigger.at = calloc(cap, sizeof *bigger.at);
	if (!bigger.at)
		abort();
	for (size_t i = 0; i < k->cap; i++) {
		size_t at;
		if (is_empty(k->at[i]) || is_grave(k->at[i]))
			continue;
		find(&bigger, k->at[i], &at);
		bigger.at[at] = k->at[i];
		bigger.used++;
	}
	bigger.live = bigger.used;
	free(k->at);
	*k = bigger;
}

bool known_add(struct known *k, keyhash h)
{
	size_t at;

	h = fold(h);
	if (k->cap && find(k, h, &at) != SIZE_MAX)
		return true;
	if (k->live >= k->max)
		return false;
	if ((k->used + 1) * 4 > k->cap * 3) {
		rebuild(k, k->live * 2 < k->cap ? k->cap : k->cap ? 2 * k->cap : CAP_MIN);
		find(k, h, &at);
	}
	if (is_empty(k->at[at]))
		k->used++;
	k->at[at] = h;
	k->live++;
	return true;
}

void known_remove(struct known *k, keyhash h)
{
	size_t at, unused;

	if (!k->live || (at = find(k, fold(h), &unused)) == SIZE_MAX)
		return;
	k->at[at] = (keyhash){ .high64 = 0, .low64 = 1 };
	k->live--;
}
