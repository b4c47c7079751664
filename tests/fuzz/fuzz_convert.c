/* fuzz_convert.c - conversion: what comes out is RESP2 and nothing else, and converting it again changes nothing. The first byte of the
 * input chooses the shape, the second the number of arguments. */
#include <stdint.h>
#include <stdlib.h>

#include "resp/convert.h"
#include "resp/parse.h"

#define CHECK(cond) do { if (!(cond)) abort(); } while (0)

/* One level less than is parsed: streams gain one. */
static const struct resp_limits limits = { .max_args = 100, .max_bulk = 1000, .max_inline = 1000, .max_depth = RESP_MAX_DEPTH - 1 };

static void check_resp2(const char *p, size_t size)
{
	const char *end = p + size;
	struct resp_reply r;
	struct resp_item item;

	resp_reply_init(&r, NULL);
	CHECK(resp_reply_parse(&r, p, size) == RESP_OK);
	CHECK(r.used == size);
	while (p < end) {
		CHECK(strchr("+-:$*", *p));
		p += resp_item(p, end, &item);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static const struct slice argv[] = { SLICE_LIT("X"), SLICE_LIT("k"), SLICE_LIT("1"), SLICE_LIT("WITHSCORE") };
	struct resp_reply r;

	if (size < 3 || size > 3000)
		return 0;
	struct command cmd = { .shape = bytes[0] % (SHAPE_EXEC + 1) };
	uint32_t argc = bytes[1] % 5;
	const char *data = (const char *)bytes + 2;
	resp_reply_init(&r, &limits);
	if (resp_reply_parse(&r, data, size - 2) != RESP_OK)
		return 0;
	char *copy = malloc(r.used);
	CHECK(copy);
	memcpy(copy, data, r.used);
	struct slice reply = slice(copy, r.used);
	sds out = resp2_convert(sdsempty(), &cmd, argc, argv, reply);
	check_resp2(out, sdslen(out));
	sds again = resp2_convert(sdsempty(), NULL, 0, NULL, slice(out, sdslen(out)));
	CHECK(sdscmp(out, again) == 0);
	if (!resp2_differs(&cmd, reply))
		CHECK(slice_eq(reply, slice(out, sdslen(out))));
	(void)resp_reply_digest(reply);
	sdsfree(out);
	sdsfree(again);
	free(copy);
	return 0;
}
