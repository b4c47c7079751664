#include "sim.h"

#include <stdio.h>
#include <string.h>

#define PAYLOAD_VERSION 10 /* of Redis 7.0: every receiver takes it */

bool value_equal(const struct value *a, const struct value *b)
{
	if (a->type != b->type)
		return false;
	if (a->type == TYPE_NONE)
		return true;
	if (a->expire_ms != b->expire_ms)
		return false;
	switch (a->type) {
	case TYPE_STRING:
		return a->len == b->len && memcmp(a->text, b->text, a->len) == 0;
	case TYPE_HASH:
		for (int i = 0; i < FIELDS; i++)
			if (a->mask >> i & 1 && a->field[i] != b->field[i])
				return false;
		return a->mask == b->mask;
	default:
		return a->members == b->members;
	}
}

/* Type byte of a string, whose text is the whole value as it stands in memory: no server decodes it but ours. */
sds value_dump(const struct value *v)
{
	struct value plain = *v;
	sds s = sdsnewlen("\0", 1);
	unsigned char footer[2] = { PAYLOAD_VERSION, 0 };

	plain.expire_ms = -1;
	s = sdscatlen(s, &plain, sizeof plain);
	s = sdscatlen(s, footer, 2);
	uint64_t crc = crc64_jones(0, s, sdslen(s));
	for (int i = 0; i < 8; i++) {
		char byte = (char)(crc >> (8 * i));
		s = sdscatlen(s, &byte, 1);
	}
	return s;
}

bool value_restore(struct slice payload, struct value *v)
{
	if (payload.n != 1 + sizeof *v + 10 || payload.p[0])
		return false;
	memcpy(v, payload.p + 1, sizeof *v);
	return true;
}

const char *value_show(const struct value *v, char *out, size_t n)
{
	int at = 0;

	switch (v->type) {
	case TYPE_NONE:
		snprintf(out, n, "nothing");
		return out;
	case TYPE_STRING:
		at = snprintf(out, n, "'%.*s'", (int)v->len, v->text);
		break;
	case TYPE_HASH:
		at = snprintf(out, n, "hash");
		for (int i = 0; i < FIELDS; i++)
			if (v->mask >> i & 1)
				at += snprintf(out + at, n - (size_t)at, " f%d=%d", i, v->field[i]);
		break;
	case TYPE_SET:
		at = snprintf(out, n, "set %llx", (unsigned long long)v->members);
		break;
	}
	if (v->expire_ms >= 0)
		snprintf(out + at, n - (size_t)at, " until %lld", (long long)(v->expire_ms - EPOCH_MS));
	return out;
}
