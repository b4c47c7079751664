/* reply.c - the reply half of resp/parse.h: where a reply ends, and the walk over one.
 *
 * Replies come from servers, so nothing is forgiven: what is not exactly RESP means that the stream is out of step. */
#include "resp/parse.h"

#include <assert.h>

#include "resp/digits.h"

/* More children than this no server has (hiredis' own limit); so counts of pairs cannot overflow. */
#define MAX_CHILDREN UINT32_MAX

/* Digits of a 64-bit integer with its sign. */
#define MAX_NUMBER 20

void resp_reply_init(struct resp_reply *r, const struct resp_limits *limits)
{
	r->limits = limits ? limits : &resp_default_limits;
	resp_reply_reset(r);
}

void resp_reply_reset(struct resp_reply *r)
{
	r->used = 0;
	r->need = 0;
	r->error = NULL;
	r->type = 0;
	r->pos = 0;
	r->scan = 0;
	r->depth = 1;
	r->left[0] = 1;
}

/* What read_value works on. Offsets count from p, the value's first byte. */
struct reader {
	const char *p, *end;
	size_t scanned;    /* no line ends before this */
	uint64_t max_bulk;
	size_t size;       /* RESP_OK: bytes taken. RESP_MORE: least size */
	const char *error; /* RESP_BAD */
};

static enum resp_status bad(struct reader *in, const char *error)
{
	in->error = error;
	return RESP_BAD;
}

static inline enum resp_status more(struct reader *in)
{
	in->size = (size_t)(in->end - in->p) + 1;
	return RESP_MORE;
}

/* A number that is negative, very long, incomplete or wrong. Not a prefix of one: RESP_BAD at once. */
static enum resp_status read_odd_number(struct reader *in, int64_t *n)
{
	const char *start = in->p + 1, *p = start, *end = in->end;

	if (p < end && *p == '-')
		p++;
	while (p < end && (unsigned)(*p - '0') <= 9)
		p++;
	if (p - start > MAX_NUMBER || (p < end && *p != '\r'))
		return bad(in, "invalid number in reply");
	if (end - p < 2)
		return more(in);
	if (p[1] != '\n' || !resp_string_to_int(start, (size_t)(p - start), n))
		return bad(in, "invalid number in reply");
	in->size = (size_t)(p - in->p) + 2;
	return RESP_OK;
}

/* "<number>\r\n" behind the type byte; RESP_OK: in->size is the line's. The usual one, of at most nine digits, in one pass. */
static inline enum resp_status read_number(struct reader *in, int64_t *n)
{
	const char *start = in->p + 1, *p = start;
	unsigned digit;
	uint32_t v = 0;

	if (in->end - p < 3)
		return read_odd_number(in, n);
	const char *last = in->end - p > 10 ? p + 9 : in->end - 2; /* two bytes behind the digits are there */
	for (; p < last && (digit = (unsigned char)*p - '0') <= 9; p++)
		v = v * 10 + digit;
	if (p == start || p[0] != '\r' || p[1] != '\n' || (*start == '0' && p - start > 1))
		return read_odd_number(in, n);
	*n = v;
	in->size = (size_t)(p - in->p) + 2;
	return RESP_OK;
}

/* Text up to CRLF. A lone CR is text: a module may have sent it. */
static enum resp_status read_text(struct reader *in, struct resp_item *item)
{
	const char *p = in->p + (in->scanned > 1 ? in->scanned - 1 : 1); /* the last byte seen may have been the CR */

	while (p < in->end && (p = memchr(p, '\r', (size_t)(in->end - p)))) {
		if (p + 1 == in->end)
			break;
		if (p[1] == '\n') {
			item->text = slice(in->p + 1, (size_t)(p - in->p) - 1);
			in->size = (size_t)(p - in->p) + 2;
			return item->text.n > in->max_bulk ? bad(in, "too long line in reply") : RESP_OK;
		}
		p++;
	}
	return (uint64_t)(in->end - in->p) > in->max_bulk + 2 ? bad(in, "too long line in reply") : more(in);
}

/* The body of $, ! and =; in->size is the header's. */
static inline enum resp_status read_body(struct reader *in, struct resp_item *item, int64_t n)
{
	const char *body = in->p + in->size;

	if (n < 0) {
		if (item->type != '$' || n != -1)
			return bad(in, "invalid bulk length in reply");
		item->type = '_';
		return RESP_OK;
	}
	if ((uint64_t)n > in->max_bulk)
		return bad(in, "too long bulk in reply");
	in->size += (size_t)n + 2;
	if ((size_t)(in->end - in->p) < in->size)
		return RESP_MORE;
	if (body[n] != '\r' || body[n + 1] != '\n')
		return bad(in, "bulk without its end in reply");
	item->text = slice(body, (size_t)n);
	if (item->type == '=') {
		if (n < 4 || body[3] != ':')
			return bad(in, "verbatim string without its format in reply");
		item->text = slice(body + 4, (size_t)n - 4);
	}
	return RESP_OK;
}

static inline enum resp_status read_children(struct reader *in, struct resp_item *item)
{
	if (item->n == -1 && item->type == '*') {
		item->type = '_';
		item->n = 0;
		return RESP_OK;
	}
	if (item->n < 0 || item->n > (int64_t)MAX_CHILDREN)
		return bad(in, "invalid count in reply");
	if (item->type == '%' || item->type == '|')
		item->n *= 2;
	return RESP_OK;
}

/* _ and #: a fixed text of `fixed` bytes, then CRLF. */
static enum resp_status read_fixed(struct reader *in, struct resp_item *item, size_t fixed)
{
	size_t have = (size_t)(in->end - in->p) - 1;
	const char *p = in->p + 1;

	if (fixed && have > 0 && *p != 't' && *p != 'f')
		return bad(in, "invalid boolean in reply");
	if ((have > fixed && p[fixed] != '\r') || (have > fixed + 1 && p[fixed + 1] != '\n'))
		return bad(in, "invalid null or boolean in reply");
	if (have < fixed + 2)
		return more(in);
	item->n = fixed && *p == 't';
	in->size = fixed + 3;
	return RESP_OK;
}

/* Most replies to writes: they need no second look. */
static inline bool is_ok(const char *p, size_t n)
{
	return n >= 5 && memcmp(p, "+OK\r\n", 5) == 0;
}

/* One value header (and body, of a scalar). */
static inline enum resp_status read_value(struct reader *in, struct resp_item *item)
{
	enum resp_status status;
	int64_t n;

	if (in->p == in->end)
		return more(in);
	item->type = *in->p;
	item->n = 0;
	item->text = slice(in->p, 0);
	switch (item->type) {
	case '$':
	case '!':
	case '=':
		status = read_number(in, &n);
		return status == RESP_OK ? read_body(in, item, n) : status;
	case ':':
		return read_number(in, &item->n);
	case '*':
	case '%':
	case '~':
	case '>':
	case '|':
		status = read_number(in, &item->n);
		return status == RESP_OK ? read_children(in, item) : status;
	case '+':
		if (is_ok(in->p, (size_t)(in->end - in->p))) {
			item->text = slice(in->p + 1, 2);
			in->size = 5;
			return RESP_OK;
		}
		return read_text(in, item);
	case '-':
	case ',':
	case '(':
		return read_text(in, item);
	case '_':
		return read_fixed(in, item, 0);
	case '#':
		return read_fixed(in, item, 1);
	default:
		return bad(in, "unknown type in reply");
	}
}

/* Ends a call that found no whole reply: the place is kept, what was pending is read again as a whole only when it is all there. */
static enum resp_status stop(struct resp_reply *r, const struct reader *in, enum resp_status status, uint64_t pos, size_t len)
{
	r->pos = pos;
	r->scan = len;
	r->need = status == RESP_MORE ? pos + in->size : 0;
	r->error = in->error;
	assert(status == RESP_BAD || r->need > len);
	return status;
}

static inline bool is_aggregate(char type)
{
	return type == '*' || type == '%' || type == '~' || type == '>' || type == '|';
}

enum resp_status resp_reply_parse(struct resp_reply *r, const char *buf, size_t len)
{
	struct reader in = { .end = buf + len, .max_bulk = r->limits->max_bulk };
	uint32_t depth_max = r->limits->max_depth < RESP_MAX_DEPTH ? r->limits->max_depth : RESP_MAX_DEPTH;
	uint64_t pos = r->pos;
	struct resp_item item;

	if (len < r->need || len == 0) {
		r->need = len ? r->need : 1;
		return RESP_MORE;
	}
	if (pos == 0 && r->depth == 1 && is_ok(buf, len)) {
		r->type = '+';
		r->depth = 0;
		r->used = 5;
		return RESP_OK;
	}
	while (r->depth > 0) {
		uint64_t *left = &r->left[r->depth - 1];
		/* The top-level type is told as soon as its byte is there. */
		if (r->depth == 1 && pos < len && buf[pos] != '|')
			r->type = buf[pos];
		do {
			in.p = buf + pos;
			in.scanned = r->scan > pos ? r->scan - pos : 0;
			enum resp_status status = read_value(&in, &item);
			if (status != RESP_OK)
				return stop(r, &in, status, pos, len);
			pos += in.size;
			/* A value counts when it begins, so that what an attribute stands before is still to come when the attribute ends. */
			*left -= item.type != '|';
		} while (*left > 0 && !is_aggregate(item.type));
		if (item.n > 0 && is_aggregate(item.type)) {
			if (r->depth > depth_max) {
				in.error = "too deeply nested reply";
				return stop(r, &in, RESP_BAD, pos, len);
			}
			r->left[r->depth++] = (uint64_t)item.n;
			continue;
		}
		while (r->depth > 0 && r->left[r->depth - 1] == 0)
			r->depth--;
	}
	assert(pos <= len);
	r->used = pos;
	return RESP_OK;
}

size_t resp_item(const char *p, const char *end, struct resp_item *item)
{
	struct reader in = { .p = p, .end = end, .max_bulk = INT64_MAX };

	return read_value(&in, item) == RESP_OK ? in.size : 0;
}

size_t resp_value_len(const char *p, const char *end)
{
	const char *start = p;
	struct resp_item item;

	for (uint64_t left = 1; left > 0;) {
		size_t size = resp_item(p, end, &item);
		if (size == 0)
			return 0;
		p += size;
		left -= item.type != '|';
		if (is_aggregate(item.type))
			left += (uint64_t)item.n;
	}
	return (size_t)(p - start);
}
