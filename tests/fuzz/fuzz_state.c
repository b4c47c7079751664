/* fuzz_state.c - the phase record and the marker as they are read: taken, or refused with a message; what was taken is written and read back the same, and its phase does not
 * contradict its slots. The checksum is set right before the second try, so that what is behind it is reached. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "proxy/marker.h"
#include "proxy/state.h"

#define CHECK(cond) do { if (!(cond)) abort(); } while (0)

static void check_record(const struct state_record *r)
{
	static struct state_record back;
	char err[256];
	unsigned on_target = 0;

	for (unsigned slot = 0; slot < SLOTS; slot++)
		on_target += r->authority[slot] == SIDE_TARGET;
	CHECK(r->phase == PHASE_FINISHED ? on_target == SLOTS : (r->phase == PHASE_CUTOVER) == (on_target > 0));
	char *text = state_render(r);
	CHECK(state_parse(text, strlen(text), &back, err, sizeof err));
	CHECK(memcmp(&back, r, sizeof back) == 0);
	free(text);
}

static void read_record(const char *text, size_t n)
{
	static struct state_record r;
	char err[256] = "";

	if (state_parse(text, n, &r, err, sizeof err))
		check_record(&r);
	else
		CHECK(*err);
}

static void read_with_right_checksum(const char *text, size_t n)
{
	json_error_t error;
	json_t *whole = json_loadb(text, n, 0, &error);
	json_t *record = json_object_get(whole, "record");
	char hex[17];

	if (json_is_object(record)) {
		char *canonical = json_dumps(record, JSON_COMPACT | JSON_SORT_KEYS);
		CHECK(canonical);
		snprintf(hex, sizeof hex, "%016" PRIx64, (uint64_t)XXH3_64bits(canonical, strlen(canonical)));
		free(canonical);
		json_object_set_new(whole, "checksum", json_string(hex));
		char *fixed = json_dumps(whole, JSON_COMPACT);
		CHECK(fixed);
		read_record(fixed, strlen(fixed));
		free(fixed);
	}
	json_decref(whole);
}

static void read_marker(struct slice text)
{
	struct marker m, back;

	marker_parse(text, &m);
	CHECK(m.there && memchr(m.migration, '\0', sizeof m.migration));
	if (!*m.migration)
		return;
	sds again = marker_render(m.migration, m.epoch);
	marker_parse(slice(again, sdslen(again)), &back);
	CHECK(strcmp(back.migration, m.migration) == 0 && back.epoch == m.epoch);
	sdsfree(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	read_record((const char *)data, size);
	read_with_right_checksum((const char *)data, size);
	read_marker(slice((const char *)data, size));
	return 0;
}
