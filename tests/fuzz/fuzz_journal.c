/* fuzz_journal.c - the journal's file as a start reads it: what it tells is within bounds, or it is not trusted and says why. Inputs are read as they are, and as the beginning of
 * a file's parts, with the checks set right, so that what is behind them is reached:
 *
 *   input: header and first slots (104 bytes) │ entries of 64 bytes */
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "proxy/journal.h"

#define CHECK(cond) do { if (!(cond)) abort(); } while (0)
#define HEADER_SIZE 8192
#define HEADER_CHECK 88
#define HEADER_INPUT 104
#define ENTRY_SIZE 64
#define ENTRIES_MAX 64

static uint64_t told;

static void on_process(void *ctx, const char *name)
{
	(void)ctx;
	CHECK(strlen(name) < JOURNAL_PROCESS_MAX);
}

static void on_key(void *ctx, struct slice key, uint16_t db, uint16_t slot)
{
	(void)ctx;
	CHECK(key.n <= JOURNAL_KEY_MAX && slot < SLOTS);
	told += XXH3_64bits(key.p, key.n) + db; /* all of it is there */
}

static void on_slot(void *ctx, uint16_t slot)
{
	(void)ctx;
	CHECK(slot < SLOTS);
}

static enum journal_trust read_image(const void *image, size_t n)
{
	static const struct journal_reader reader = { NULL, on_process, on_key, on_slot };
	char err[512] = "";
	enum journal_trust trust = journal_read_image(image, n, &reader, err, sizeof err);

	CHECK(trust == JOURNAL_TRUSTED || *err);
	return trust;
}

static void set_checks(char *image, uint32_t entries)
{
	uint64_t check;
	uint32_t len, short_check;

	memcpy(image + 12, &entries, sizeof entries);
	check = XXH3_64bits(image, HEADER_CHECK);
	memcpy(image + HEADER_CHECK, &check, sizeof check);
	for (uint32_t i = 0; i < entries; i++) {
		char *e = image + HEADER_SIZE + (size_t)i * ENTRY_SIZE;
		memcpy(&len, e + 12, sizeof len);
		if (len > JOURNAL_KEY_MAX)
			continue;
		short_check = (uint32_t)XXH3_64bits(e + 8, 8 + len);
		memcpy(e + 4, &short_check, sizeof short_check);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t head = size < HEADER_INPUT ? size : HEADER_INPUT, rest = size - head;
	uint32_t entries = (uint32_t)(rest / ENTRY_SIZE < ENTRIES_MAX ? rest / ENTRY_SIZE : ENTRIES_MAX);
	size_t n = HEADER_SIZE + entries * (size_t)ENTRY_SIZE;
	char *image = aligned_alloc(ENTRY_SIZE, n), *whole = aligned_alloc(ENTRY_SIZE, (size + ENTRY_SIZE) / ENTRY_SIZE * ENTRY_SIZE);

	CHECK(image && whole);
	memcpy(whole, data, size);
	read_image(whole, size);
	memset(image, 0, n);
	memcpy(image, data, head);
	memcpy(image + HEADER_SIZE, data + head, entries * (size_t)ENTRY_SIZE);
	read_image(image, n);
	set_checks(image, entries);
	read_image(image, n);
	free(whole);
	free(image);
	return 0;
}
