/* large_ops.c - writes to a list or a string that is being copied, done again to the part that is copied (large.h). Pops become LTRIM, whose reply is
 * small; a push is cut like every other command. */
#include <stdio.h>

#include "backfill/large_parts.h"
#include "resp/digits.h"
#include "resp/write.h"

/* As it is, for the temporary key. */
static bool verbatim(struct large *l, const struct large_op *op)
{
	struct block *b = large_block(l);

	b->out = resp_cat_len(b->out, '*', op->n + 2);
	b->out = resp_cat_bulk(b->out, op->verb);
	b->out = resp_cat_bulk(b->out, b->key);
	b->out = sdscatlen(b->out, op->words.p, (size_t)(op->words.end - op->words.p));
	b->ncommands++;
	return true;
}

static bool int_word(struct values *w, int64_t *n)
{
	struct slice s = values_text(w);

	return s.p && resp_string_to_int(s.p, s.n, n);
}

/* ---- strings ---- */

static bool nothing_copied(const struct large *l)
{
	return l->offset == 0;
}

/* In pieces: a client may have sent it in one. */
static bool append(struct large *l, const struct large_op *op)
{
	struct values w = op->words;
	struct slice bytes = values_text(&w);
	struct block *b = large_block(l);

	if (!l->all_read)
		return true;
	for (size_t n; bytes.n > 0; bytes = slice(bytes.p + n, bytes.n - n)) {
		n = bytes.n < BLOCK_BYTES ? bytes.n : BLOCK_BYTES;
		block_command(b, "APPEND", 2, (struct slice[]){ b->key, slice(bytes.p, n) });
	}
	return true;
}

static bool setrange(struct large *l, const struct large_op *op)
{
	struct values w = op->words;
	struct block *b = large_block(l);
	char text[24];
	int64_t at;

	if (!int_word(&w, &at))
		return false;
	struct slice bytes = values_text(&w);
	for (size_t n; bytes.n > 0; bytes = slice(bytes.p + n, bytes.n - n), at += (int64_t)n) {
		n = bytes.n < BLOCK_BYTES ? bytes.n : BLOCK_BYTES;
		struct slice offset = slice(text, (size_t)snprintf(text, sizeof(text), "%lld", (long long)at));
		block_command(b, "SETRANGE", 3, (struct slice[]){ b->key, offset, slice(bytes.p, n) });
	}
	return true;
}

/* Does it count up a field of which a part is not copied yet? Then what is copied of it hangs on what is not. */
static bool counts_at_the_end(const struct large *l, const struct large_op *op)
{
	struct values w = op->words;

	while (w.p < w.end) {
		struct slice what = values_text(&w), type = values_text(&w);
		int64_t width, at;
		if (slice_is(what, "overflow"))
			continue;
		struct slice offset = values_text(&w);
		bool counted = offset.n > 0 && *offset.p == '#';
		if (slice_is(what, "get"))
			continue;
		values_text(&w);
		if (type.n < 2 || !offset.p || !resp_string_to_int(type.p + 1, type.n - 1, &width) || !resp_string_to_int(offset.p + counted, offset.n - counted, &at))
			return true;
		at *= counted ? width : 1;
		if (slice_is(what, "incrby") && (uint64_t)at / 8 < l->offset && (uint64_t)(at + width - 1) / 8 >= l->offset)
			return true;
	}
	return false;
}

static bool bits(struct large *l, const struct large_op *op)
{
	if (op->words.end - op->words.p > BLOCK_BYTES || (!l->all_read && slice_is(op->verb, "bitfield") && counts_at_the_end(l, op)))
		return false;
	return verbatim(l, op);
}

/* What they write behind the part that is copied is read again: a string does not get shorter. */
bool large_string_op(struct large *l, const struct large_op *op)
{
	if (nothing_copied(l))
		return true;
	if (slice_is(op->verb, "append"))
		return append(l, op);
	if (slice_is(op->verb, "setrange"))
		return setrange(l, op);
	if (slice_is(op->verb, "setbit") || slice_is(op->verb, "bitfield"))
		return bits(l, op);
	return false;
}

/* ---- lists ---- */

static void trim(struct large *l, int64_t first, int64_t last)
{
	char a[24], b[24];

	snprintf(a, sizeof(a), "%lld", (long long)first);
	snprintf(b, sizeof(b), "%lld", (long long)last);
	block_words(large_block(l), "LTRIM", a, b, NULL);
}

static bool push(struct large *l, const struct large_op *op, const char *verb)
{
	struct values w = op->words;
	struct block *b = large_block(l);

	block_open(b, verb, NULL);
	for (int64_t n = op->n; n > 0; n--) {
		struct slice element = values_text(&w);
		if (!element.p)
			return false;
		block_element(b, 1, &element);
	}
	block_close(b);
	return true;
}

static bool push_left(struct large *l, const struct large_op *op)
{
	l->offset += (uint64_t)op->n;
	l->length += op->n;
	return push(l, op, "LPUSH");
}

static bool push_right(struct large *l, const struct large_op *op)
{
	l->length += op->n;
	return l->all_read ? push(l, op, "RPUSH") : true;
}

/* How many a pop took. */
static bool pop_count(const struct large_op *op, int64_t *n)
{
	struct values w = op->words;

	*n = 1;
	return op->n == 0 || (op->n == 1 && int_word(&w, n) && *n > 0);
}

/* The elements of the list from `first` to `last` are left, both inside it; false: none is. */
static bool keep(struct large *l, int64_t first, int64_t last)
{
	int64_t copied = (int64_t)l->offset, end = last < copied ? last + 1 : copied;

	if (first > last)
		return false; /* the key is gone, and may be made anew as anything */
	if (first >= copied) {
		if (copied > 0)
			trim(l, 1, 0);
		l->offset = 0;
	} else {
		if (first > 0 || end < copied)
			trim(l, first, end - 1);
		l->offset = (uint64_t)(end - first);
	}
	l->length = last - first + 1;
	return true;
}

static bool pop_left(struct large *l, const struct large_op *op)
{
	int64_t n;

	if (!pop_count(op, &n))
		return false;
	if (!l->all_read)
		return keep(l, n, l->length - 1);
	trim(l, n, -1);
	return true;
}

static bool pop_right(struct large *l, const struct large_op *op)
{
	int64_t n;

	if (!pop_count(op, &n))
		return false;
	if (!l->all_read)
		return keep(l, 0, l->length - 1 - n);
	trim(l, 0, -1 - n);
	return true;
}

static bool ltrim(struct large *l, const struct large_op *op)
{
	struct values w = op->words;
	int64_t first, last;

	if (l->all_read)
		return verbatim(l, op);
	if (!int_word(&w, &first) || !int_word(&w, &last))
		return false;
	first = first < 0 ? first + l->length : first;
	last = last < 0 ? last + l->length : last;
	return keep(l, first < 0 ? 0 : first, last >= l->length ? l->length - 1 : last);
}

static bool lset(struct large *l, const struct large_op *op)
{
	struct values w = op->words;
	int64_t at;

	if (l->all_read)
		return verbatim(l, op);
	if (!int_word(&w, &at))
		return false;
	if (at >= 0)
		return at < (int64_t)l->offset ? verbatim(l, op) : true;
	at += l->length;
	if (at >= (int64_t)l->offset)
		return true;
	char index[24];
	struct slice words[] = { large_block(l)->key, slice(index, (size_t)snprintf(index, sizeof(index), "%lld", (long long)at)), values_text(&w) };
	if (!words[2].p)
		return false;
	block_command(&l->block, "LSET", 3, words);
	return true;
}

/* By value: where that stands is known once all is copied. */
static bool by_value(struct large *l, const struct large_op *op)
{
	return l->all_read ? verbatim(l, op) : false;
}

bool large_list_op(struct large *l, const struct large_op *op)
{
	static const struct {
		const char *verb;
		large_op_fn *fn;
	} ops[] = {
		{ "lpush", push_left }, { "rpush", push_right }, { "lpushx", push_left }, { "rpushx", push_right }, { "lpop", pop_left },
		{ "rpop", pop_right },  { "lset", lset },        { "ltrim", ltrim },      { "lrem", by_value },     { "linsert", by_value },
	};

	if (l->length < 0)
		return true; /* nothing was read yet */
	for (size_t i = 0; i < sizeof(ops) / sizeof(*ops); i++)
		if (slice_is(op->verb, ops[i].verb))
			return ops[i].fn(l, op);
	return false;
}
