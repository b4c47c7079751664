/* fuzz_request.c - requests: a split, drawn by what is split, says the same as the whole, so does who skips the end of one, and what was parsed and written again is parsed as the same words. */
#include <hiredis/sds.h>
#include <stdint.h>
#include <stdlib.h>
#include <xxhash.h>

#include "resp/parse.h"
#include "resp/words.h"
#include "resp/write.h"
#include "tests/fuzz/growing.h"

#define CHECK(cond) do { if (!(cond)) abort(); } while (0)

static const struct resp_limits limits = { .max_args = 100, .max_bulk = 300, .max_inline = 60, .max_depth = 8 };

/* Parses in steps. */
static enum resp_status parse_in_steps(struct resp_request *r, const char *data, size_t size, size_t first, size_t step)
{
	enum resp_status status;

	growing_init(data, size);
	for (size_t have = first;; have = size - have > step ? have + step : size) {
		status = resp_request_parse(r, growing_show(have), have);
		CHECK(status != RESP_MORE || r->need > have);
		if (status != RESP_MORE || have == size)
			return status;
	}
}

static void check_same(const struct resp_request *a, const char *base_a, const struct resp_request *b, const char *base_b)
{
	CHECK(a->argc == b->argc);
	for (uint32_t i = 0; i < a->argc; i++)
		CHECK(slice_eq(resp_request_arg(a, base_a, i), resp_request_arg(b, base_b, i)));
}

static void check_round_trip(const struct resp_request *r, const char *data)
{
	struct slice *words = calloc(r->argc + 1, sizeof(*words));
	struct resp_request again;

	CHECK(words);
	for (uint32_t i = 0; i < r->argc; i++)
		words[i] = resp_request_arg(r, data, i);
	sds s = resp_cat_request(sdsempty(), (int)r->argc, words);
	resp_request_init(&again, NULL);
	CHECK(resp_request_parse(&again, s, sdslen(s)) == RESP_OK);
	CHECK(again.used == sdslen(s));
	check_same(r, data, &again, s);
	resp_request_release(&again);
	sdsfree(s);
	free(words);
}

/* Split without being checked again. */
static void check_words(const struct resp_request *r, const char *data)
{
	struct slice *words = NULL;
	size_t cap = 0;

	CHECK(resp_words(data, r->used, &words, &cap) == r->argc);
	for (uint32_t i = 0; i < r->argc; i++)
		CHECK(slice_eq(words[i], resp_request_arg(r, data, i)));
	free(words);
}

/* The words behind the first `head` bytes are skipped: the request ends at the same place, and the same is wrong with it. */
static void check_skip(const struct resp_request *whole, enum resp_status status, const char *data, size_t size, size_t head, size_t step)
{
	struct resp_request r;
	struct resp_skip skip;
	size_t used = 0;

	resp_request_init(&r, &limits);
	enum resp_status s = parse_in_steps(&r, data, head, head, 1);
	if (s == RESP_MORE && r.multibulk > 0) {
		size_t at = (size_t)resp_skip_init(&skip, &r);
		for (; s == RESP_MORE && at < size; at += s == RESP_BAD ? 0 : used)
			s = resp_skip(&skip, data + at, size - at < step ? size - at : step, &used);
		CHECK(s == status);
		CHECK(s != RESP_OK || at == whole->used);
		CHECK(s != RESP_BAD || strcmp(skip.error, whole->error) == 0);
	}
	resp_request_release(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	const char *data = (const char *)bytes;
	struct resp_request whole, split;

	if (size > 2000)
		return 0;
	resp_request_init(&whole, &limits);
	resp_request_init(&split, &limits);
	enum resp_status status = parse_in_steps(&whole, data, size, size, 1);
	CHECK(status != RESP_OK || (whole.used > 0 && whole.used <= size));
	CHECK(status != RESP_BAD || whole.error);
	uint64_t chance = XXH3_64bits(data, size);
	CHECK(parse_in_steps(&split, data, size, chance / 4 % (size + 1), chance % 4 ? size : 1) == status);
	CHECK(status != RESP_OK || split.used == whole.used);
	CHECK(status != RESP_BAD || strcmp(split.error, whole.error) == 0);
	check_skip(&whole, status, data, size, chance / 4 % (size + 1), chance % 4 ? size + 1 : 1 + chance % 7);
	if (status == RESP_OK)
		check_same(&whole, data, &split, data);
	if (status == RESP_OK)
		check_round_trip(&whole, data);
	if (status == RESP_OK && whole.argc && *data == '*')
		check_words(&whole, data);
	resp_request_release(&whole);
	resp_request_release(&split);
	return 0;
}
