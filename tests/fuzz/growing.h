/* growing.h - bytes as a reader's buffer gets them: only the first of them may be touched (ASan tells of any other), and after each step they lie elsewhere.
 *
 * Cheaper by far than a malloc of each size. One at a time; the pointer is good until the next step. */
#ifndef CF_TESTS_GROWING_H
#define CF_TESTS_GROWING_H

#include <sanitizer/asan_interface.h>
#include <string.h>

enum { GROWING_MAX = 2048 };

static struct {
	_Alignas(8) char places[2][GROWING_MAX + 8];
	size_t size;
	unsigned turn;
} growing;

/* At most GROWING_MAX bytes. */
static void growing_init(const char *data, size_t size)
{
	ASAN_UNPOISON_MEMORY_REGION(growing.places, sizeof(growing.places));
	for (int i = 0; i < 2; i++)
		memcpy(growing.places[i], data, size);
	ASAN_POISON_MEMORY_REGION(growing.places, sizeof(growing.places));
	growing.size = size;
}

static const char *growing_show(size_t have)
{
	ASAN_POISON_MEMORY_REGION(growing.places[growing.turn], growing.size);
	growing.turn ^= 1;
	ASAN_UNPOISON_MEMORY_REGION(growing.places[growing.turn], have);
	return growing.places[growing.turn];
}

#endif
