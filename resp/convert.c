/* convert.c - RESP3 replies as RESP2, and digests of replies.
 *
 * Conversion walks the headers. What is the same in both protocols is not copied value by value: it gathers in a run
 * of the input, which is appended as one piece when something that differs comes. */
#include "resp/convert.h"

#include <assert.h>
#include <stdlib.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "resp/parse.h"
#include "resp/write.h"

#define NULL_BULK "$-1\r\n"
#define NULL_ARRAY "*-1\r\n"

/* Types whose bytes a RESP2 client understands as they are. */
static inline bool is_resp2(char type)
{
	return type == '*' || type == '$' || type == '+' || type == '-' || type == ':';
}

static bool shape_is_flat(uint8_t shape)
{
	return shape == SHAPE_FLAT_WITHSCORES || shape == SHAPE_FLAT_WITHVALUES || shape == SHAPE_FLAT_COUNT;
}

/* Bytes of the attribute whose header, of `size` bytes, is at p: its pairs, but not the value it belongs to. */
static size_t attribute_len(const char *p, const char *end, size_t size, const struct resp_item *item)
{
	const char *start = p;

	p += size;
	for (int64_t i = 0; i < item->n; i++)
		p += resp_value_len(p, end);
	return (size_t)(p - start);
}

bool resp2_differs(const struct command *cmd, struct slice reply)
{
	const char *p = reply.p, *end = reply.p + reply.n;
	struct resp_item item;
	uint64_t left = 1;

	if (reply.n > 1 && (*p == '+' || *p == ':' || (*p == '$' && p[1] != '-')))
		return false; /* most are so */
	if (cmd && shape_is_flat(cmd->shape) && reply.n > 0 && *p == '*')
		return true;
	for (size_t size; left > 0; left--, p += size) {
		size = resp_item(p, end, &item);
		if (size == 0 || !is_resp2(item.type))
			return size != 0;
		if (item.type == '*')
			left += (uint64_t)item.n;
	}
	return false;
}

struct conversion {
	sds out;
	const char *run; /* [run, p) is still to be copied as it is */
	const char *p, *end;
	const char *null; /* how a null is written at this place */
};

/* Leaves out the next `size` bytes of the input, once what came before them is copied. */
static void skip(struct conversion *c, size_t size)
{
	if (c->p > c->run)
		c->out = sdscatlen(c->out, c->run, (size_t)(c->p - c->run));
	c->p += size;
	c->run = c->p;
}

static void replace(struct conversion *c, size_t size, const char *text)
{
	skip(c, size);
	c->out = sdscat(c->out, text);
}

/* Reads the item at c->p without moving; attributes before it are dropped. */
static size_t next_item(struct conversion *c, struct resp_item *item)
{
	size_t size;

	while ((size = resp_item(c->p, c->end, item)) && item->type == '|')
		skip(c, attribute_len(c->p, c->end, size, item));
	assert(size > 0);
	return size;
}

static void convert_values(struct conversion *c, int64_t n);

static void convert_item(struct conversion *c, const struct resp_item *item, size_t size)
{
	switch (item->type) {
	case '*':
		c->p += size;
		convert_values(c, item->n);
		return;
	case '%':
	case '~':
	case '>':
		skip(c, size);
		c->out = resp_cat_len(c->out, '*', item->n);
		convert_values(c, item->n);
		return;
	case '_':
		if (*c->p == '_')
			replace(c, size, c->null);
		else
			c->p += size; /* RESP2's own nulls stay what they are */
		return;
	case '#':
		replace(c, size, item->n ? ":1\r\n" : ":0\r\n");
		return;
	case ',':
	case '(':
	case '=':
		skip(c, size);
		c->out = resp_cat_bulk(c->out, item->text);
		return;
	case '!':
		skip(c, size);
		sds text = sdsnewlen(item->text.p, item->text.n);
		c->out = resp_cat_error(c->out, text);
		sdsfree(text);
		return;
	default:
		assert(is_resp2(item->type));
		c->p += size;
	}
}

/* Recursion ends at RESP_MAX_DEPTH, beyond which resp_reply_parse accepts nothing. */
static void convert_values(struct conversion *c, int64_t n)
{
	struct resp_item item;

	for (int64_t i = 0; i < n; i++) {
		size_t size = next_item(c, &item);
		convert_item(c, &item, size);
	}
}

/* How many values the n at c->p become when arrays among them dissolve. */
static int64_t flat_count(const struct conversion *c, int64_t n)
{
	const char *p = c->p;
	struct resp_item item;
	int64_t count = 0;

	for (int64_t i = 0; i < n; i++) {
		size_t size;
		while ((size = resp_item(p, c->end, &item)) && item.type == '|')
			p += attribute_len(p, c->end, size, &item);
		count += item.type == '*' ? item.n : 1;
		p += resp_value_len(p, c->end);
	}
	return count;
}

/* [[member, score], …] becomes [member, score, …]. The reply tells whether there are pairs, not the request: a key may be named
 * WITHSCORES, and without the option the elements are never arrays. */
static void convert_flat(struct conversion *c, int64_t n, size_t size)
{
	struct resp_item item;

	skip(c, size);
	c->out = resp_cat_len(c->out, '*', flat_count(c, n));
	for (int64_t i = 0; i < n; i++) {
		size = next_item(c, &item);
		if (item.type == '*') {
			skip(c, size);
			convert_values(c, item.n);
		} else {
			convert_item(c, &item, size);
		}
	}
}

/* {stream: entries, …} becomes [[stream, entries], …]. */
static void convert_streams(struct conversion *c, int64_t n, size_t size)
{
	skip(c, size);
	c->out = resp_cat_len(c->out, '*', n / 2);
	for (int64_t i = 0; i < n; i += 2) {
		replace(c, 0, "*2\r\n");
		convert_values(c, 2);
	}
}

/* Is a null that is the whole reply *-1 for RESP2? */
static bool null_is_array(uint8_t shape, uint32_t argc, const struct slice *argv)
{
	switch (shape) {
	case SHAPE_NULL_ARRAY:
	case SHAPE_NULL_ARRAY_TIMEOUT:
	case SHAPE_STREAMS:
	case SHAPE_EXEC:
		return true;
	case SHAPE_NULL_ARRAY_COUNT:
		return argc > 2;
	case SHAPE_NULL_ARRAY_WITHSCORE:
		return argc > 3 && slice_is(argv[3], "withscore");
	default:
		return false;
	}
}

sds resp2_convert(sds out, const struct command *cmd, uint32_t argc, const struct slice *argv, struct slice reply)
{
	struct conversion c = { .out = out, .run = reply.p, .p = reply.p, .end = reply.p + reply.n };
	uint8_t shape = cmd ? cmd->shape : SHAPE_GENERIC;
	struct resp_item item;

	/* Most replies grow little: a bit of room now saves copying what is there already. */
	c.out = sdsMakeRoomFor(c.out, reply.n + reply.n / 8 + RESP_HEADER_MAX);
	size_t size = next_item(&c, &item);
	if (item.type == '_') {
		c.null = null_is_array(shape, argc, argv) ? NULL_ARRAY : NULL_BULK;
		convert_item(&c, &item, size);
	} else {
		/* XREADGROUP of a pending entry that was deleted has a null array in it. */
		c.null = shape == SHAPE_NULL_ARRAY_NESTED || shape == SHAPE_STREAMS ? NULL_ARRAY : NULL_BULK;
		if (shape == SHAPE_STREAMS && item.type == '%')
			convert_streams(&c, item.n, size);
		else if (shape_is_flat(shape) && item.type == '*')
			convert_flat(&c, item.n, size);
		else
			convert_item(&c, &item, size);
	}
	skip(&c, 0);
	assert(c.p == c.end);
	return c.out;
}

static uint64_t combine(uint64_t a, uint64_t b)
{
	uint64_t pair[2] = { a, b };

	return XXH3_64bits(pair, sizeof(pair));
}

/* Servers write the same double in different digits: what they read back is compared. */
static uint64_t digest_double(struct slice text)
{
	char digits[64], *end;

	if (text.n > 0 && text.n < sizeof(digits) && (unsigned char)*text.p > ' ') {
		memcpy(digits, text.p, text.n);
		digits[text.n] = '\0';
		double d = strtod(digits, &end);
		if (end == digits + text.n) {
			d = d == 0 ? 0 : d; /* no negative zero */
			if (d != d)
				return combine(',', 1);
			return XXH3_64bits_withSeed(&d, sizeof(d), ',');
		}
	}
	return XXH3_64bits_withSeed(text.p, text.n, ',' + 256);
}

static uint64_t digest_value(const char **p, const char *end);

/* Children in any order: their digests are summed. Of a map a child is a pair. */
static uint64_t digest_unordered(const char **p, const char *end, const struct resp_item *item)
{
	bool pairs = item->type == '%';
	uint64_t sum = 0;

	for (int64_t i = 0; i < item->n; i += 1 + pairs) {
		uint64_t child = digest_value(p, end);
		if (pairs)
			child = combine(child, digest_value(p, end));
		sum += child;
	}
	return combine(sum + (unsigned char)item->type, (uint64_t)item->n);
}

static uint64_t digest_ordered(const char **p, const char *end, const struct resp_item *item)
{
	uint64_t digest = combine((unsigned char)item->type, (uint64_t)item->n);

	for (int64_t i = 0; i < item->n; i++)
		digest = combine(digest, digest_value(p, end));
	return digest;
}

static uint64_t digest_value(const char **p, const char *end)
{
	struct resp_item item;
	const char *space;
	size_t size;

	while ((size = resp_item(*p, end, &item)) && item.type == '|')
		*p += attribute_len(*p, end, size, &item);
	assert(size > 0);
	*p += size;
	switch (item.type) {
	case '*':
	case '>':
		return digest_ordered(p, end, &item);
	case '%':
	case '~':
		return digest_unordered(p, end, &item);
	case ':':
	case '#':
		return XXH3_64bits_withSeed(&item.n, sizeof(item.n), (unsigned char)item.type);
	case ',':
		return digest_double(item.text);
	case '-':
	case '!':
		space = memchr(item.text.p, ' ', item.text.n);
		return XXH3_64bits_withSeed(item.text.p, space ? (size_t)(space - item.text.p) : item.text.n, '-');
	default:
		return XXH3_64bits_withSeed(item.text.p, item.text.n, (unsigned char)item.type);
	}
}

uint64_t resp_reply_digest(struct slice reply)
{
	const char *p = reply.p;

	if (reply.n == 5 && memcmp(p, "+OK\r\n", 5) == 0) /* most replies to writes */
		return XXH3_64bits_withSeed("OK", 2, '+');
	return digest_value(&p, reply.p + reply.n);
}
