#include "backfill/recipe.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

#include "backfill/fault.h"
#include "backfill/payload.h"
#include "backfill/recipe_parts.h"
#include "backfill/values.h"
#include "resp/write.h"

#define SHORT_LAST "4095"
_Static_assert(SHORT_STRING == 4096, "SHORT_LAST is its last byte");

/* How a type is read, and the command that takes its elements back. */
static const struct {
	const char *read[6]; /* verb, words behind the key */
	const char *build;
	int per_element;
} recipes[RECIPES] = {
	[RECIPE_DUMP] = { { "DUMP" }, NULL, 0 },
	[RECIPE_STRING] = { { "GET" }, NULL, 0 },
	[RECIPE_LIST] = { { "LRANGE", "0", "-1" }, "RPUSH", 1 },
	[RECIPE_SET] = { { "SMEMBERS" }, "SADD", 1 },
	[RECIPE_ZSET] = { { "ZRANGE", "0", "-1", "WITHSCORES" }, "ZADD", 2 },
	[RECIPE_HASH] = { { "HGETALL" }, NULL, 0 },
	[RECIPE_STREAM] = { { "XINFO" }, NULL, 0 },
	[RECIPE_SHORT] = { { "GETRANGE", "0", SHORT_LAST }, NULL, 0 },
};

const char *recipe_reason(const char *fmt, ...)
{
	static __thread char why[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	return why;
}

unsigned recipe_read(enum recipe r, const struct receiver *from, struct slice key, sds *out)
{
	struct block b;

	assert(r < RECIPES);
	block_init(&b, *out, key);
	if (r == RECIPE_STREAM) {
		/* COUNT 0: every entry and every pending one, all in one reply, hence of one moment. */
		struct slice argv[] = { SLICE_LIT("STREAM"), key, SLICE_LIT("FULL"), SLICE_LIT("COUNT"), SLICE_LIT("0") };
		block_command(&b, "XINFO", 5, argv);
	} else if (r == RECIPE_HASH && receiver_has_field_expiry(from)) {
		/* HPEXPIRETIME wants the names of the fields, which would be a second round; DUMP tells all in one reply. */
		block_words(&b, "DUMP", NULL);
	} else {
		const char *const *w = recipes[r].read;
		block_words(&b, w[0], w[1], w[1] ? w[2] : NULL, w[1] && w[2] ? w[3] : NULL, NULL);
	}
	block_words(&b, "PEXPIRETIME", NULL);
	assert(b.ncommands == RECIPE_REPLIES);
	*out = b.out;
	block_release(&b);
	return b.ncommands;
}

static bool starts_with(struct slice s, const char *word)
{
	size_t n = strlen(word);
	return s.n >= n && memcmp(s.p, word, n) == 0;
}

enum recipe_result recipe_error_reply(struct slice text, enum recipe *next, const char **why)
{
	if (starts_with(text, "ERR no such key"))
		return RECIPE_GONE;
	if (starts_with(text, "WRONGTYPE")) {
		*next = RECIPE_DUMP;
		return RECIPE_RETYPE;
	}
	*why = recipe_reason("%.*s", (int)(text.n < 200 ? text.n : 200), text.p);
	return RECIPE_ERROR;
}


enum recipe_result recipe_examine(const struct slice *replies, int64_t now_ms, int64_t *expires_at_ms, enum recipe *next,
				  const char **why)
{
	struct resp_item item;

	for (unsigned i = 0; i < RECIPE_REPLIES; i++) {
		if (!resp_item(replies[i].p, replies[i].p + replies[i].n, &item)) {
			*why = "a reply is missing";
			return RECIPE_ERROR;
		}
		if (item.type == '-' || item.type == '!')
			return recipe_error_reply(item.text, next, why);
		if (item.type == '_')
			return RECIPE_GONE;
	}
	if (item.type != ':') {
		*why = "PEXPIRETIME was not answered with an integer";
		return RECIPE_ERROR;
	}
	*expires_at_ms = item.n;
	/* -2: it went between the two commands. Past: nobody sees it any more, though the server may still hold it. */
	return item.n == -2 || (item.n >= 0 && item.n < now_ms) ? RECIPE_GONE : RECIPE_OK;
}

static void put_expiry(struct block *b, int64_t expires_at_ms)
{
	char ms[24];

	snprintf(ms, sizeof(ms), "%lld", (long long)expires_at_ms);
	block_words(b, "PEXPIREAT", ms, NULL);
}

/* One RESTORE, if the receiver knows the type. A hash with field expiry of the other line is decoded, the rest is read by type. */
static enum recipe_result compose_dump(struct block *b, const struct receiver *to, struct slice bytes, int64_t expires_at_ms,
				       enum recipe *next, const char **why)
{
	struct payload p;
	sds stamped = restamp(bytes, to);

	if (stamped) {
		char ms[24];
		snprintf(ms, sizeof(ms), "%lld", (long long)(expires_at_ms > 0 ? expires_at_ms : 0));
		struct slice argv[] = { b->key, slice(ms, strlen(ms)), slice(stamped, sdslen(stamped)), SLICE_LIT("REPLACE"),
					SLICE_LIT("ABSTTL") };
		int argc = 5;
		if (fault("skip-if-exists"))
			argv[3] = argv[--argc];
		block_command(b, "RESTORE", argc, argv);
		sdsfree(stamped);
		return RECIPE_OK;
	}
	if (!payload_split(bytes, &p)) {
		*why = "DUMP was answered with something that is no payload";
		return RECIPE_ERROR;
	}
	*next = payload_recipe(&p);
	if (*next != RECIPE_DUMP)
		return RECIPE_RETYPE;
	struct module_name name = payload_module(&p);
	*why = name.text[0] ? recipe_reason("values of module type '%s' cannot be carried", name.text) :
			      recipe_reason("values of type id %u cannot be carried", p.type);
	return RECIPE_CANNOT;
}

static enum recipe_result compose_string(struct block *b, struct slice value, int64_t expires_at_ms)
{
	char ms[24];
	struct slice argv[4] = { b->key, value };
	int argc = 2;

	if (expires_at_ms >= 0) {
		argv[2] = SLICE_LIT("PXAT");
		argv[3] = slice(ms, (size_t)snprintf(ms, sizeof(ms), "%lld", (long long)expires_at_ms));
		argc = 4;
	}
	if (fault("skip-if-exists")) {
		argv[2] = SLICE_LIT("NX");
		argc = 3;
	}
	block_command(b, "SET", argc, argv);
	return RECIPE_OK;
}

/* Lists, sets, sorted sets: the elements of the reply in the order in which they came. */
static enum recipe_result compose_elements(struct block *b, enum recipe r, struct slice reply, const char **why)
{
	struct values w = values_over(reply);
	int64_t n = values_children(&w);

	*why = "the value was not answered with an array";
	if (n <= 0)
		return n == 0 ? RECIPE_GONE : RECIPE_ERROR;
	block_open(b, recipes[r].build, NULL);
	while (n-- > 0) {
		struct slice argv[2];
		int argc = recipes[r].per_element;
		if (argc == 2) {
			/* RESP3: [member, score] pairs; ZADD wants the score first. */
			if (values_children(&w) != 2)
				return RECIPE_ERROR;
			argv[1] = values_text(&w);
			argv[0] = values_text(&w);
		} else {
			argv[0] = values_text(&w);
		}
		if (!argv[0].p || !argv[argc - 1].p)
			return RECIPE_ERROR;
		block_element(b, argc, argv);
	}
	block_close(b);
	return RECIPE_OK;
}

static enum recipe_result compose_value(struct block *b, enum recipe r, const struct receiver *to, struct slice reply, int64_t now_ms,
					enum recipe *next, const char **why)
{
	if (r == RECIPE_HASH)
		return hash_compose(b, to, reply, now_ms, next, why);
	if (r == RECIPE_STREAM)
		return stream_compose(b, reply, why);
	return compose_elements(b, r, reply, why);
}

/* MULTI, UNLINK, the value, PEXPIREAT, EXEC: no reader sees a part. */
static enum recipe_result compose_block(struct block *b, enum recipe r, const struct receiver *to, struct slice reply,
					int64_t expires_at_ms, int64_t now_ms, enum recipe *next, const char **why)
{
	block_command(b, "MULTI", 0, NULL);
	block_words(b, "UNLINK", NULL);
	enum recipe_result result = compose_value(b, r, to, reply, now_ms, next, why);
	if (result != RECIPE_OK)
		return result;
	if (expires_at_ms >= 0)
		put_expiry(b, expires_at_ms);
	block_command(b, "EXEC", 0, NULL);
	return RECIPE_OK;
}

static enum recipe_result compose(struct block *b, enum recipe r, const struct receiver *to, const struct slice *replies, int64_t now_ms,
				  enum recipe *next, const char **why)
{
	int64_t expires_at_ms = -1;
	enum recipe_result result = recipe_examine(replies, now_ms, &expires_at_ms, next, why);
	struct values w = values_over(replies[0]);
	struct payload p;

	if (result != RECIPE_OK)
		return result;
	if (r != RECIPE_DUMP && r != RECIPE_STRING && r != RECIPE_SHORT)
		return compose_block(b, r, to, replies[0], expires_at_ms, now_ms, next, why);
	struct slice value = values_text(&w);
	if (!value.p) {
		*why = "the value was not answered with a string";
		return RECIPE_ERROR;
	}
	if (r == RECIPE_SHORT && value.n >= SHORT_STRING) {
		*next = RECIPE_DUMP;
		return RECIPE_RETYPE;
	}
	if (r != RECIPE_DUMP)
		return compose_string(b, value, expires_at_ms);
	result = compose_dump(b, to, value, expires_at_ms, next, why);
	/* What a second reading would only bring again. */
	if (result == RECIPE_RETYPE && payload_split(value, &p) && payload_has_field_expiry(&p))
		return compose_block(b, RECIPE_HASH, to, replies[0], expires_at_ms, now_ms, next, why);
	return result;
}

enum recipe_result recipe_compose(enum recipe r, const struct receiver *to, struct slice key, const struct slice *replies,
				  unsigned nreplies, int64_t now_ms, sds *block, unsigned *ncommands, enum recipe *next, const char **why)
{
	struct block b;
	size_t before = sdslen(*block);

	assert(r < RECIPES && nreplies == RECIPE_REPLIES);
	(void)nreplies;
	*why = "";
	block_init(&b, *block, key);
	enum recipe_result result = compose(&b, r, to, replies, now_ms, next, why);
	if (result != RECIPE_OK) {
		/* Whatever was begun is taken back. */
		sdssetlen(b.out, before);
		b.out[before] = '\0';
		b.verb = NULL;
		b.ncommands = 0;
	}
	if (result == RECIPE_GONE)
		block_words(&b, "UNLINK", NULL);
	if (result == RECIPE_OK || result == RECIPE_GONE)
		*why = "";
	*block = b.out;
	*ncommands = b.ncommands;
	block_release(&b);
	return result;
}
