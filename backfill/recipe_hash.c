/* recipe_hash.c - hashes, with the expiry of their fields: from HGETALL where the server knows none, else from the DUMP payload. */
#include <stdio.h>

#include "backfill/payload.h"
#include "backfill/recipe_parts.h"
#include "backfill/values.h"
#include "resp/write.h"

static void expire_cut(struct expire_run *run)
{
	struct block *b = run->b;

	if (run->nfields == 0)
		return;
	b->out = resp_cat_len(b->out, '*', 5 + (int64_t)run->nfields);
	b->out = resp_cat_bulk(b->out, SLICE_LIT("HPEXPIREAT"));
	b->out = resp_cat_bulk(b->out, b->key);
	b->out = resp_cat_int_bulk(b->out, run->ms);
	b->out = resp_cat_bulk(b->out, SLICE_LIT("FIELDS"));
	b->out = resp_cat_int_bulk(b->out, run->nfields);
	b->out = sdscatlen(b->out, run->fields, sdslen(run->fields));
	b->ncommands++;
	sdsclear(run->fields);
	run->nfields = 0;
}

void expire_add(struct expire_run *run, struct slice field, int64_t ms)
{
	if (!run->fields)
		run->fields = sdsempty();
	if (run->ms != ms || run->nfields == BLOCK_ELEMENTS || sdslen(run->fields) + field.n > BLOCK_BYTES)
		expire_cut(run);
	run->ms = ms;
	run->fields = resp_cat_bulk(run->fields, field);
	run->nfields++;
}

void expire_end(struct expire_run *run)
{
	expire_cut(run);
	sdsfree(run->fields);
	run->fields = NULL;
}

const char *field_expiry_reason(uint64_t nfields)
{
	return recipe_reason("the hash has %llu fields with field expiry, which the receiver does not know", (unsigned long long)nfields);
}

#define REDIS_FIELD_EXPIRY_MAX (INT64_C(1) << 46) /* ms, refused from here on; Valkey takes later ones */

/* One pass over the fields of a payload. */
struct hash_pass {
	struct block *b;
	int64_t now_ms;
	uint64_t live, expiring;
	int64_t last_ms; /* the farthest expiry */
	struct expire_run run;
};

static bool field_is_past(const struct hash_pass *h, int64_t expires_at_ms)
{
	return expires_at_ms >= 0 && expires_at_ms < h->now_ms;
}

static void count_field(void *arg, struct slice field, struct slice value, int64_t expires_at_ms)
{
	struct hash_pass *h = arg;

	(void)field;
	(void)value;
	if (field_is_past(h, expires_at_ms))
		return;
	h->live++;
	h->expiring += expires_at_ms >= 0;
	if (expires_at_ms > h->last_ms)
		h->last_ms = expires_at_ms;
}

static void set_field(void *arg, struct slice field, struct slice value, int64_t expires_at_ms)
{
	struct hash_pass *h = arg;
	struct slice argv[] = { field, value };

	if (!field_is_past(h, expires_at_ms))
		block_element(h->b, 2, argv);
}

static void expire_field(void *arg, struct slice field, struct slice value, int64_t expires_at_ms)
{
	struct hash_pass *h = arg;

	(void)value;
	if (expires_at_ms >= 0 && !field_is_past(h, expires_at_ms))
		expire_add(&h->run, field, expires_at_ms);
}

static enum recipe_result compose_payload(struct block *b, const struct receiver *to, struct slice bytes, int64_t now_ms, enum recipe *next,
					  const char **why)
{
	struct hash_pass h = { .b = b, .now_ms = now_ms };
	struct payload p;

	if (!payload_split(bytes, &p) || crc64_jones(0, bytes.p, bytes.n - 8) != p.crc) {
		*why = "DUMP was answered with a damaged payload";
		return RECIPE_ERROR;
	}
	if (payload_recipe(&p) != RECIPE_HASH) {
		*next = RECIPE_DUMP;
		return RECIPE_RETYPE;
	}
	if (!payload_hash(&p, count_field, &h)) {
		*why = recipe_reason("hash payload of type id %u is not understood", p.type);
		return RECIPE_CANNOT;
	}
	if (h.live == 0)
		return RECIPE_GONE;
	if (h.expiring > 0 && !receiver_has_field_expiry(to)) {
		*why = field_expiry_reason(h.expiring);
		return RECIPE_CANNOT;
	}
	if (to->product == PRODUCT_REDIS && h.last_ms >= REDIS_FIELD_EXPIRY_MAX) {
		*why = "a field of the hash expires later than Redis can hold";
		return RECIPE_CANNOT;
	}
	block_open(b, "HSET", NULL);
	payload_hash(&p, set_field, &h);
	block_close(b);
	if (h.expiring == 0)
		return RECIPE_OK;
	h.run.b = b;
	payload_hash(&p, expire_field, &h);
	expire_end(&h.run);
	return RECIPE_OK;
}

enum recipe_result hash_compose(struct block *b, const struct receiver *to, struct slice reply, int64_t now_ms, enum recipe *next,
				const char **why)
{
	struct values w = values_over(reply);
	struct resp_item item;

	*why = "the hash was not answered with a map";
	if (!values_item(&w, &item))
		return RECIPE_ERROR;
	if (item.type == '$')
		return compose_payload(b, to, item.text, now_ms, next, why);
	if ((item.type != '%' && item.type != '*') || item.n % 2 != 0)
		return RECIPE_ERROR;
	if (item.n == 0)
		return RECIPE_GONE;
	block_open(b, "HSET", NULL);
	for (int64_t n = item.n; n > 0; n -= 2) {
		struct slice argv[2];
		argv[0] = values_text(&w);
		argv[1] = values_text(&w);
		if (!argv[0].p || !argv[1].p)
			return RECIPE_ERROR;
		block_element(b, 2, argv);
	}
	block_close(b);
	return RECIPE_OK;
}
