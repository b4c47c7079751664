#include "backfill/payload.h"

#include <stdio.h>
#include <stdlib.h>

/* A cursor over the body. After a failed read `bad` is set and everything read is empty: callers check once, at the end. */
struct reader {
	const unsigned char *p, *end;
	bool bad;
};

static uint64_t load_le(const unsigned char *p, int bytes)
{
	uint64_t v = 0;
	for (int i = 0; i < bytes; i++)
		v |= (uint64_t)p[i] << (8 * i);
	return v;
}

static uint64_t load_be(const unsigned char *p, int bytes)
{
	uint64_t v = 0;
	for (int i = 0; i < bytes; i++)
		v = v << 8 | p[i];
	return v;
}

/* n bytes, or NULL and bad. */
static const unsigned char *take(struct reader *r, uint64_t n)
{
	if (r->bad || n > (uint64_t)(r->end - r->p)) {
		r->bad = true;
		return NULL;
	}
	r->p += n;
	return r->p - n;
}

bool payload_split(struct slice bytes, struct payload *p)
{
	if (bytes.n < 1 + PAYLOAD_FOOTER)
		return false;
	const unsigned char *footer = (const unsigned char *)bytes.p + bytes.n - PAYLOAD_FOOTER;
	p->type = (uint8_t)bytes.p[0];
	p->version = (unsigned)load_le(footer, 2);
	p->crc = load_le(footer + 2, 8);
	p->body = slice(bytes.p + 1, bytes.n - 1 - PAYLOAD_FOOTER);
	return true;
}

enum recipe payload_recipe(const struct payload *p)
{
	static const uint8_t by_type[] = {
		[0] = RECIPE_STRING, [1] = RECIPE_LIST,    [2] = RECIPE_SET,     [3] = RECIPE_ZSET,    [4] = RECIPE_HASH,
		[5] = RECIPE_ZSET,   [6] = RECIPE_DUMP,    [7] = RECIPE_DUMP,    [8] = RECIPE_DUMP,    [9] = RECIPE_HASH,
		[10] = RECIPE_LIST,  [11] = RECIPE_SET,    [12] = RECIPE_ZSET,   [13] = RECIPE_HASH,   [14] = RECIPE_LIST,
		[15] = RECIPE_STREAM, [16] = RECIPE_HASH,  [17] = RECIPE_ZSET,   [18] = RECIPE_LIST,   [19] = RECIPE_STREAM,
		[20] = RECIPE_SET,   [21] = RECIPE_STREAM, [22] = RECIPE_HASH,   [23] = RECIPE_HASH,   [24] = RECIPE_HASH,
		[25] = RECIPE_HASH,  [26] = RECIPE_STREAM, [27] = RECIPE_STREAM,
	};
	return p->type < sizeof(by_type) ? (enum recipe)by_type[p->type] : RECIPE_DUMP;
}

bool payload_has_field_expiry(const struct payload *p)
{
	return p->type == RDB_VALKEY_HASH_2 || p->type == RDB_HASH_METADATA || p->type == RDB_HASH_LISTPACK_EX;
}

/* ---- RDB lengths and strings ---- */

/* A length; *encoding is -1, or the kind of special string that follows. */
static uint64_t read_len(struct reader *r, int *encoding)
{
	const unsigned char *p = take(r, 1);

	*encoding = -1;
	if (!p)
		return 0;
	switch (p[0] >> 6) {
	case 0:
		return p[0] & 0x3f;
	case 1: {
		const unsigned char *low = take(r, 1);
		return low ? (uint64_t)(p[0] & 0x3f) << 8 | low[0] : 0;
	}
	case 3:
		*encoding = p[0] & 0x3f;
		return 0;
	}
	int bytes = p[0] == 0x80 ? 4 : p[0] == 0x81 ? 8 : 0;
	const unsigned char *n = bytes ? take(r, (uint64_t)bytes) : NULL;
	if (!n)
		r->bad = true;
	return n ? load_be(n, bytes) : 0;
}

static uint64_t read_count(struct reader *r)
{
	int encoding;
	uint64_t n = read_len(r, &encoding);

	if (encoding >= 0)
		r->bad = true;
	return r->bad ? 0 : n;
}

/* LZF, as liblzf writes it: literal runs and back references. */
static bool lzf_expand(const unsigned char *in, size_t in_len, unsigned char *out, size_t out_len)
{
	size_t i = 0, o = 0;

	while (i < in_len) {
		unsigned ctrl = in[i++];
		if (ctrl < 32) {
			size_t run = ctrl + 1;
			if (run > in_len - i || run > out_len - o)
				return false;
			memcpy(out + o, in + i, run);
			i += run;
			o += run;
			continue;
		}
		size_t len = ctrl >> 5, back = (size_t)(ctrl & 0x1f) << 8;
		if (len == 7) {
			if (i >= in_len)
				return false;
			len += in[i++];
		}
		if (i >= in_len)
			return false;
		back += (size_t)in[i++] + 1;
		len += 2;
		if (back > o || len > out_len - o)
			return false;
		for (; len > 0; len--, o++)
			out[o] = out[o - back];
	}
	return o == out_len;
}

/* A string of its own memory where it was not stored as it is. */
struct text {
	struct slice s;
	char *own;
	char digits[24];
};

static void text_release(struct text *t)
{
	free(t->own);
	t->own = NULL;
}

static void text_int(struct text *t, int64_t v)
{
	int n = snprintf(t->digits, sizeof(t->digits), "%lld", (long long)v);
	t->s = slice(t->digits, (size_t)n);
}

static void read_lzf(struct reader *r, struct text *t)
{
	uint64_t in_len = read_count(r), out_len = read_count(r);
	const unsigned char *in = take(r, in_len);

	/* LZF makes at most 264 bytes of 3: a larger claim is damage, and is not given memory. */
	if (!in || out_len == 0 || out_len / 128 > in_len) {
		r->bad = true;
		return;
	}
	t->own = malloc(out_len);
	if (!t->own || !lzf_expand(in, in_len, (unsigned char *)t->own, out_len))
		r->bad = true;
	else
		t->s = slice(t->own, out_len);
}

static void read_string(struct reader *r, struct text *t)
{
	int encoding;
	uint64_t n = read_len(r, &encoding);

	t->own = NULL;
	t->s = slice("", 0);
	if (r->bad)
		return;
	if (encoding < 0) {
		const unsigned char *p = take(r, n);
		if (p)
			t->s = slice((const char *)p, n);
	} else if (encoding <= 2) {
		int bytes = 1 << encoding;
		const unsigned char *p = take(r, (uint64_t)bytes);
		if (p)
			text_int(t, bytes == 1 ? (int8_t)p[0] : bytes == 2 ? (int16_t)load_le(p, 2) : (int32_t)load_le(p, 4));
	} else if (encoding == 3) {
		read_lzf(r, t);
	} else {
		r->bad = true;
	}
}

/* ---- listpacks: 4 bytes length, 2 bytes count, then per element its encoding, its data, and its length backwards ---- */

static size_t backlen_size(uint64_t entry)
{
	return entry < 128 ? 1 : entry < 16384 ? 2 : entry < 2097152 ? 3 : entry < 268435456 ? 4 : 5;
}

static void listpack_int(struct text *t, uint64_t v, int bits)
{
	text_int(t, (int64_t)(v << (64 - bits)) >> (64 - bits)); /* sign extended */
}

/* The next element; false at the end or when bad. */
static bool listpack_next(struct reader *r, struct text *t)
{
	const unsigned char *start = r->p, *p = take(r, 1);

	t->own = NULL;
	if (!p || *p == 0xff)
		return false;
	unsigned c = *p;
	int header = c >= 0xe0 && c < 0xf0 ? 1 : c == 0xf0 ? 4 : 0; /* bytes of a string's length behind the first */
	int int_bytes = c == 0xf1 ? 2 : c == 0xf2 ? 3 : c == 0xf3 ? 4 : c == 0xf4 ? 8 : c >= 0xc0 && c < 0xe0 ? 1 : 0;
	const unsigned char *extra = take(r, (uint64_t)(header + int_bytes));
	if (!extra || c > 0xf4) {
		r->bad = true;
		return false;
	}
	if (c < 0x80) {
		text_int(t, c);
	} else if (int_bytes == 1) {
		listpack_int(t, (uint64_t)(c & 0x1f) << 8 | extra[0], 13);
	} else if (int_bytes) {
		listpack_int(t, load_le(extra, int_bytes), int_bytes * 8);
	} else {
		uint64_t n = c < 0xc0 ? c & 0x3f : c < 0xf0 ? (uint64_t)(c & 0x0f) << 8 | extra[0] : load_le(extra, 4);
		const unsigned char *s = take(r, n);
		t->s = s ? slice((const char *)s, n) : slice("", 0);
	}
	take(r, backlen_size((uint64_t)(r->p - start)));
	return !r->bad;
}

static bool text_to_ms(const struct text *t, int64_t *ms)
{
	char digits[24], *end;

	if (t->s.n == 0 || t->s.n >= sizeof(digits))
		return false;
	memcpy(digits, t->s.p, t->s.n);
	digits[t->s.n] = '\0';
	*ms = strtoll(digits, &end, 10);
	return *end == '\0';
}

/* ---- hashes ---- */

/* Field and value in turn; with `ex` the field's expiry behind each pair, 0 for none. */
static bool hash_listpack(struct slice listpack, bool ex, hash_field_fn *fn, void *arg)
{
	struct reader r = { (const unsigned char *)listpack.p, (const unsigned char *)listpack.p + listpack.n, false };
	struct text field, value, expiry;

	take(&r, 6);
	while (listpack_next(&r, &field)) {
		int64_t ms = -1;
		if (!listpack_next(&r, &value))
			return false;
		if (ex && (!listpack_next(&r, &expiry) || !text_to_ms(&expiry, &ms)))
			return false;
		fn(arg, field.s, value.s, ms > 0 ? ms : -1);
	}
	return !r.bad;
}

static bool hash_table(struct reader *r, uint8_t type, hash_field_fn *fn, void *arg)
{
	int64_t least = 0;

	if (type == RDB_HASH_METADATA) {
		const unsigned char *p = take(r, 8);
		least = p ? (int64_t)load_le(p, 8) : 0;
	}
	for (uint64_t n = read_count(r); n > 0 && !r->bad; n--) {
		struct text field, value;
		int64_t ms = -1;
		if (type == RDB_HASH_METADATA) {
			uint64_t above = read_count(r); /* 0: none, else 1 + distance from the least */
			ms = above ? (int64_t)((uint64_t)least + above - 1) : -1;
		}
		read_string(r, &field);
		read_string(r, &value);
		if (type == RDB_VALKEY_HASH_2) {
			const unsigned char *p = take(r, 8);
			ms = p ? (int64_t)load_le(p, 8) : -1;
		}
		if (!r->bad)
			fn(arg, field.s, value.s, ms);
		text_release(&field);
		text_release(&value);
	}
	return !r->bad;
}

bool payload_hash(const struct payload *p, hash_field_fn *fn, void *arg)
{
	const unsigned char *start = (const unsigned char *)p->body.p;
	struct reader r = { start, start + p->body.n, false };

	switch (p->type) {
	case RDB_HASH:
	case RDB_VALKEY_HASH_2:
	case RDB_HASH_METADATA:
		return hash_table(&r, p->type, fn, arg) && r.p == r.end;
	case RDB_HASH_LISTPACK_EX:
		take(&r, 8); /* the least expiry */
		/* fallthrough */
	case RDB_HASH_LISTPACK: {
		struct text listpack;
		read_string(&r, &listpack);
		bool ok = !r.bad && r.p == r.end && hash_listpack(listpack.s, p->type == RDB_HASH_LISTPACK_EX, fn, arg);
		text_release(&listpack);
		return ok;
	}
	default:
		return false;
	}
}

/* A module's 64-bit id is nine characters of six bits and ten bits of version. */
struct module_name payload_module(const struct payload *p)
{
	static const char charset[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	const unsigned char *start = (const unsigned char *)p->body.p;
	struct reader r = { start, start + p->body.n, false };
	struct module_name name = { "" };

	if (p->type != RDB_MODULE && p->type != RDB_MODULE_2)
		return name;
	uint64_t id = read_count(&r);
	if (r.bad)
		return name;
	for (int i = 0; i < 9; i++)
		name.text[i] = charset[id >> (10 + 6 * (8 - i)) & 63];
	return name;
}
