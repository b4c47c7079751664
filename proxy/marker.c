#include "proxy/marker.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backfill/fault.h"

#define FORMAT 1
#define ANY_MIGRATION "*"

sds marker_render(const char *migration, uint64_t epoch)
{
	return sdscatprintf(sdsempty(), "{\"crossfade\":%d,\"migration\":\"%s\",\"epoch\":%" PRIu64 "}", FORMAT, migration, epoch);
}

void marker_parse(struct slice text, struct marker *m)
{
	json_error_t error;
	json_t *o = json_loadb(text.p, text.n, JSON_REJECT_DUPLICATES, &error);
	const char *migration = json_string_value(json_object_get(o, "migration"));
	json_int_t epoch = json_integer_value(json_object_get(o, "epoch"));

	*m = (struct marker){ .there = true };
	if (json_integer_value(json_object_get(o, "crossfade")) == FORMAT && migration && strlen(migration) == MIGRATION_ID_LEN && strspn(migration, "0123456789abcdef") == MIGRATION_ID_LEN && epoch > 0) {
		memcpy(m->migration, migration, MIGRATION_ID_LEN);
		m->epoch = (uint64_t)epoch;
	}
	json_decref(o);
}

static bool is_of(const struct marker *m, const char *migration)
{
	return *migration && strcmp(m->migration, migration) == 0;
}

static bool given_up(const struct state_record *r, const struct marker *m)
{
	return strcmp(r->given_up, ANY_MIGRATION) == 0 || is_of(m, r->given_up);
}

bool marker_allows(const struct state_record *r, const struct marker *m, char *why, size_t n)
{
	const char *name = *m->migration ? m->migration : "(of another version)";

	*why = '\0';
	if (!m->there)
		return true;
	if (!r) {
		snprintf(why, n, "slots were moved to the target by migration %s, and state-dir has no record of it", name);
		return fault("race-15-start");
	}
	if (given_up(r, m) || r->phase == PHASE_FINISHED) /* …which serves the target, whoever else has moved there */
		return true;
	if (!is_of(m, r->migration)) {
		snprintf(why, n, "slots were moved to the target by migration %s, which is not the one in state-dir", name);
		return false;
	}
	if (m->epoch > r->epoch) {
		snprintf(why, n, "the record in state-dir is older than what its migration has done (epoch %" PRIu64 ", the target knows of %" PRIu64 ")", r->epoch,
			 m->epoch);
		return false;
	}
	return true;
}

bool marker_is_over(const struct state_record *r, const struct marker *m)
{
	return m->there && (given_up(r, m) || (r->phase == PHASE_FINISHED && is_of(m, r->migration)));
}

void marker_assume(enum side authority, const struct marker *m, struct state_record *r)
{
	uint64_t epoch = m->epoch > r->epoch ? m->epoch : r->epoch;

	memset(r, 0, sizeof(*r));
	r->epoch = epoch + 1;
	if (authority == SIDE_SOURCE) {
		r->phase = PHASE_PROXY;
		strcpy(r->given_up, *m->migration ? m->migration : ANY_MIGRATION);
		return;
	}
	r->phase = PHASE_CUTOVER;
	memset(r->authority, SIDE_TARGET, SLOTS);
	r->backfill_done = true;
	if (*m->migration)
		strcpy(r->migration, m->migration);
	else
		state_random_id(r->migration);
}
