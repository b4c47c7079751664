/* fuzz_keys.c - command_find and command_keys on arbitrary arguments. The first two bytes choose a row, since guessing names
 * takes the fuzzer long; the rest is cut at 0xff bytes. */
#include <stdlib.h>

#include "resp/table.h"

#define MAX_ARGS 256

static void check_keys(const struct command *c, uint32_t argc, const struct slice *argv)
{
	struct key_ref keys[MAX_ARGS], few[3];
	int n = command_keys(c, argc, argv, keys, MAX_ARGS);

	if (n < -1 || n > (int)argc || n != command_keys(c, argc, argv, few, 3))
		abort();
	for (int i = 0; i < n; i++)
		if (keys[i].index == 0 || keys[i].index >= argc || keys[i].flags & KEY_NOT_KEY)
			abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice argv[MAX_ARGS];
	uint32_t argc = 0;
	unsigned row;

	if (size < 2)
		return 0;
	row = (data[0] | (unsigned)data[1] << 8) % command_count;
	/* A copy of every argument of its own, so that the sanitizer sees a read past its end. */
	for (size_t at = 2; at <= size && argc < MAX_ARGS;) {
		size_t end = at;
		while (end < size && data[end] != 0xff)
			end++;
		char *copy = malloc(end - at + (end == at));
		memcpy(copy, data + at, end - at);
		argv[argc++] = slice(copy, end - at);
		at = end + 1;
	}
	const struct command *c = command_find(argv[0]);
	if (c && argc > 1 && command_find_sub(c, argv[1]))
		c = command_find_sub(c, argv[1]);
	if (c)
		check_keys(c, argc, argv);
	check_keys(&command_table[row], argc, argv);
	for (uint32_t i = 0; i < argc; i++)
		free((char *)argv[i].p);
	return 0;
}
