#include "backfill/slot_tag.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>

#include "resp/slot.h"

static char tags[SLOTS][SLOT_TAG_MAX + 1];
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Counts in base 36 until every slot has met a number that hashes to it: some 200,000 tries, a few milliseconds, once. */
static void build(void)
{
	unsigned left = SLOTS;

	for (unsigned n = 0; left > 0; n++) {
		char text[SLOT_TAG_MAX + 1];
		int len = 0;
		for (unsigned rest = n; len == 0 || rest > 0; rest /= 36) {
			assert(len < SLOT_TAG_MAX);
			text[len++] = "0123456789abcdefghijklmnopqrstuvwxyz"[rest % 36];
		}
		char *tag = tags[slot_of(slice(text, (size_t)len))];
		if (tag[0])
			continue;
		memcpy(tag, text, (size_t)len);
		tag[len] = '\0';
		left--;
	}
}

const char *slot_tag(uint16_t slot)
{
	assert(slot < SLOTS);
	pthread_once(&once, build);
	return tags[slot];
}
