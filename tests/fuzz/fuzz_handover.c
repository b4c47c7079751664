/* fuzz_handover.c - records of a take-over: each is taken, or refused with a message; what was taken is written and read back the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/handover.h"

#define CHECK(cond) do { if (!(cond)) abort(); } while (0)

static bool parse(const char *p, size_t n, struct resp_request *r)
{
	resp_request_reset(r);
	return resp_request_parse(r, p, n) == RESP_OK && r->argc > 0;
}

static void check_client(const struct handed *h)
{
	struct resp_request r;
	struct handed back;
	char why[200];
	sds once = handed_cat(sdsempty(), h);

	resp_request_init(&r, &handover_limits);
	CHECK(parse(once, sdslen(once), &r) && r.used == sdslen(once));
	CHECK(handed_parse(&r, once, &back, why, sizeof why));
	sds twice = handed_cat(sdsempty(), &back);
	CHECK(sdscmp(once, twice) == 0);
	handed_release(&back);
	resp_request_release(&r);
	sdsfree(once);
	sdsfree(twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct resp_request r;
	struct handed h;
	struct handed_state st;
	char why[200] = "";

	resp_request_init(&r, &handover_limits);
	if (size < 65536 && parse((const char *)data, size, &r)) {
		const char *base = resp_request_base(&r, (const char *)data);
		if (handed_parse(&r, base, &h, why, sizeof why)) {
			check_client(&h);
			handed_release(&h);
		} else {
			CHECK(*why);
		}
		if (!handed_state_parse(&r, base, &st, why, sizeof why))
			CHECK(*why);
	}
	resp_request_release(&r);
	return 0;
}
