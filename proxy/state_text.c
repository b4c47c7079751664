/* The text of a phase record: one JSON object that holds the record and a checksum of its canonical form. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "proxy/state.h"

#define FORMAT 1
#define CANONICAL (JSON_COMPACT | JSON_SORT_KEYS)

const char *const phase_names[PHASES] = { "proxy", "mirror", "backfill", "synced", "cutover", "finished" };

static void checksum(const json_t *record, char hex[17])
{
	char *text = json_dumps(record, CANONICAL);

	snprintf(hex, 17, "%016" PRIx64, (uint64_t)XXH3_64bits(text, strlen(text)));
	free(text);
}

/* ---- writing ---- */

static json_t *render_ranges(const uint8_t *authority)
{
	json_t *ranges = json_array();

	for (unsigned slot = 0; slot < SLOTS; slot++) {
		unsigned first = slot;
		if (authority[slot] != SIDE_TARGET)
			continue;
		while (slot + 1 < SLOTS && authority[slot + 1] == SIDE_TARGET)
			slot++;
		json_array_append_new(ranges, json_pack("[ii]", (int)first, (int)slot));
	}
	return ranges;
}

static json_t *render_side(const struct state_side *s)
{
	json_t *nodes = json_array();

	if (!s->known) {
		json_decref(nodes);
		return json_null();
	}
	for (unsigned i = 0; i < s->nnodes; i++)
		json_array_append_new(nodes, json_pack("{ssss}", "id", s->nodes[i].id, "name", s->nodes[i].name));
	return json_pack("{sbso}", "cluster", s->cluster, "nodes", nodes);
}

char *state_render(const struct state_record *r)
{
	char hex[17];
	json_t *record = json_pack("{sssIsosssbs{sbsIsI}soso}", "phase", phase_names[r->phase], "epoch", (json_int_t)r->epoch,
				   "target_slots", render_ranges(r->authority), "migration", r->migration, "backfill_done",
				   r->backfill_done, "verify", "clean", r->verify_clean, "at_ms", (json_int_t)r->verify_at_ms,
				   "checked", (json_int_t)r->verify_checked, "source", render_side(&r->sides[SIDE_SOURCE]), "target",
				   render_side(&r->sides[SIDE_TARGET]));
	if (!record)
		abort();
	if (*r->given_up)
		json_object_set_new(record, "given_up", json_string(r->given_up));
	if (r->phase == PHASE_FINISHED)
		json_object_set_new(record, "finished", json_string(side_name((enum side)r->authority[0])));
	checksum(record, hex);
	json_t *whole = json_pack("{sisssO}", "crossfade", FORMAT, "checksum", hex, "record", record);
	char *text = json_dumps(whole, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
	json_decref(record);
	json_decref(whole);
	if (!text)
		abort();
	return text;
}

/* ---- reading ---- */

static bool parse_ranges(const json_t *ranges, uint8_t *authority)
{
	size_t i;
	json_t *range;

	memset(authority, SIDE_SOURCE, SLOTS);
	json_array_foreach (ranges, i, range) {
		json_int_t first = json_integer_value(json_array_get(range, 0)), last = json_integer_value(json_array_get(range, 1));
		if (json_array_size(range) != 2 || first < 0 || last < first || last >= SLOTS)
			return false;
		memset(authority + first, SIDE_TARGET, (size_t)(last - first + 1));
	}
	return json_is_array(ranges);
}

static bool parse_side(const json_t *o, struct state_side *s)
{
	json_t *node;
	size_t i;

	if (json_is_null(o))
		return true;
	const json_t *nodes = json_object_get(o, "nodes");
	if (!json_is_array(nodes) || json_array_size(nodes) > STATE_NODES)
		return false;
	s->known = true;
	s->cluster = json_is_true(json_object_get(o, "cluster"));
	json_array_foreach (nodes, i, node) {
		const char *id = json_string_value(json_object_get(node, "id")), *name = json_string_value(json_object_get(node, "name"));
		if (!id || !name || strlen(id) >= sizeof(s->nodes[i].id) || strlen(name) >= sizeof(s->nodes[i].name))
			return false;
		snprintf(s->nodes[i].id, sizeof(s->nodes[i].id), "%s", id);
		snprintf(s->nodes[i].name, sizeof(s->nodes[i].name), "%s", name);
		s->nnodes++;
	}
	return true;
}

static bool parse_phase(const char *name, enum phase *phase)
{
	for (unsigned i = 0; name && i < PHASES; i++)
		if (strcmp(name, phase_names[i]) == 0) {
			*phase = (enum phase)i;
			return true;
		}
	return false;
}

/* A record whose phase and authority contradict each other is no record of ours. */
static bool consistent(const struct state_record *r)
{
	bool some = memchr(r->authority, SIDE_TARGET, SLOTS) != NULL, all = memchr(r->authority, SIDE_SOURCE, SLOTS) == NULL;

	if (r->phase == PHASE_CUTOVER)
		return some;
	if (r->phase == PHASE_FINISHED)
		return all;
	return !some;
}

static bool parse_record(const json_t *o, struct state_record *r)
{
	const json_t *verify = json_object_get(o, "verify");
	const char *migration = json_string_value(json_object_get(o, "migration")), *given_up = json_string_value(json_object_get(o, "given_up"));

	if (!parse_phase(json_string_value(json_object_get(o, "phase")), &r->phase) || !json_is_integer(json_object_get(o, "epoch")) ||
	    !migration || strlen(migration) > MIGRATION_ID_LEN || !json_is_object(verify))
		return false;
	r->epoch = (uint64_t)json_integer_value(json_object_get(o, "epoch"));
	strcpy(r->migration, migration);
	if (given_up && strlen(given_up) > MIGRATION_ID_LEN)
		return false;
	if (given_up)
		strcpy(r->given_up, given_up);
	r->backfill_done = json_is_true(json_object_get(o, "backfill_done"));
	r->verify_clean = json_is_true(json_object_get(verify, "clean"));
	r->verify_at_ms = json_integer_value(json_object_get(verify, "at_ms"));
	r->verify_checked = (uint64_t)json_integer_value(json_object_get(verify, "checked"));
	return parse_ranges(json_object_get(o, "target_slots"), r->authority) &&
	       parse_side(json_object_get(o, "source"), &r->sides[SIDE_SOURCE]) &&
	       parse_side(json_object_get(o, "target"), &r->sides[SIDE_TARGET]) && consistent(r);
}

bool state_parse(const char *text, size_t n, struct state_record *r, char *err, size_t errlen)
{
	json_error_t why;
	char hex[17];
	json_t *whole = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
	const json_t *record = json_object_get(whole, "record");
	const char *sum = json_string_value(json_object_get(whole, "checksum"));
	bool ok = false;

	memset(r, 0, sizeof(*r));
	if (!whole || !json_is_object(record) || !sum || !json_is_integer(json_object_get(whole, "crossfade"))) {
		snprintf(err, errlen, "is corrupt: not a record");
	} else if (json_integer_value(json_object_get(whole, "crossfade")) != FORMAT) {
		snprintf(err, errlen, "has format %d, and this version reads only %d: use the version that wrote it",
			 (int)json_integer_value(json_object_get(whole, "crossfade")), FORMAT);
	} else {
		checksum(record, hex);
		ok = strcmp(hex, sum) == 0;
		if (!ok)
			snprintf(err, errlen, "is corrupt: its checksum is wrong");
		else if (!(ok = parse_record(record, r)))
			snprintf(err, errlen, "is corrupt: its fields contradict each other");
	}
	json_decref(whole);
	return ok;
}
