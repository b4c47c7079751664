/* fuzz_reply.c - replies: a split, drawn by what is split, says the same as the whole, and a walk over the items ends where the parser does. */
#include <stdint.h>
#include <stdlib.h>
#include <xxhash.h>

#include "resp/parse.h"
#include "tests/fuzz/growing.h"

#define CHECK(cond) do { if (!(cond)) abort(); } while (0)

static const struct resp_limits limits = { .max_args = 100, .max_bulk = 300, .max_inline = 60, .max_depth = 8 };

/* Parses in steps. */
static enum resp_status parse_in_steps(struct resp_reply *r, const char *data, size_t size, size_t first, size_t step)
{
	enum resp_status status;

	growing_init(data, size);
	for (size_t have = first;; have = size - have > step ? have + step : size) {
		status = resp_reply_parse(r, growing_show(have), have);
		CHECK(status != RESP_MORE || r->need > have);
		if (status != RESP_MORE || have == size)
			return status;
	}
}

/* Item by item, as a caller walks. */
static void check_walk(const char *data, size_t used)
{
	char *copy = malloc(used);
	struct resp_item item;
	uint64_t left = 1;

	CHECK(copy);
	memcpy(copy, data, used);
	const char *p = copy, *end = copy + used;
	CHECK(resp_value_len(p, end) == used);
	CHECK(resp_value_len(p, end - 1) == 0);
	for (; left > 0; left--) {
		size_t size = resp_item(p, end, &item);
		CHECK(size > 0);
		CHECK(item.text.n == 0 || (item.text.p > p && item.text.p + item.text.n < p + size));
		p += size;
		if (strchr("*%~>|", item.type))
			left += (uint64_t)item.n;
		left += item.type == '|';
	}
	CHECK(p == end);
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	const char *data = (const char *)bytes;
	struct resp_reply whole, split;

	if (size > 2000)
		return 0;
	resp_reply_init(&whole, &limits);
	resp_reply_init(&split, &limits);
	enum resp_status status = parse_in_steps(&whole, data, size, size, 1);
	CHECK(status != RESP_BAD || whole.error);
	uint64_t chance = XXH3_64bits(data, size);
	CHECK(parse_in_steps(&split, data, size, chance / 4 % (size + 1), chance % 4 ? size : 1) == status);
	CHECK(status != RESP_OK || (split.used == whole.used && split.type == whole.type));
	if (status == RESP_OK)
		check_walk(data, whole.used);
	return 0;
}
