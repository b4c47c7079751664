/* request.c - the request half of resp/parse.h: arrays of bulks, and inline lines.
 *
 * It refuses what any server refuses, because what passes is forwarded as it came over a connection that many clients share: one protocol
 * error there would be everybody's. So line ends are checked as Valkey 9.1 does (Redis and Valkey 8 skip two bytes unseen). The
 * texts and their precedence are the servers'. Where a server's verdict depends on how the input was split (its 64 KiB limits)
 * ours is the one of byte-by-byte arrival. */
#include "resp/parse.h"

#include <assert.h>
#include <hiredis/sds.h>
#include <stdio.h>
#include <stdlib.h>

#include "resp/digits.h"
#include "resp/write.h"

#define KEEP_ARGS 1024 /* a larger argv is given back when its request is done */

/* The servers' own limits for clients that have yet to authenticate. */
#define UNAUTH_ARGS 10
#define UNAUTH_BULK 16384

const struct resp_limits resp_default_limits = {
	.max_args = 1024 * 1024,
	.max_bulk = 512ull << 20,
	.max_inline = 64 << 10,
	.max_depth = RESP_MAX_DEPTH,
};
const struct resp_limits resp_stranger_limits = {
	.max_args = 1024 * 1024,
	.max_bulk = 512ull << 20,
	.max_inline = 64 << 10,
	.max_depth = RESP_MAX_DEPTH,
	.unauthenticated = true,
};

void resp_request_init(struct resp_request *r, const struct resp_limits *limits)
{
	r->limits = limits ? limits : &resp_default_limits;
	r->argv = r->args;
	r->argv_cap = RESP_INLINE_ARGS;
	r->unescaped = NULL;
	resp_request_reset(r);
}

static void drop_argv(struct resp_request *r)
{
	if (r->argv != r->args)
		free(r->argv);
	r->argv = r->args;
	r->argv_cap = RESP_INLINE_ARGS;
}

void resp_request_reset(struct resp_request *r)
{
	if (r->argv_cap > KEEP_ARGS)
		drop_argv(r);
	if (r->unescaped) {
		sdsfree(r->unescaped);
		r->unescaped = NULL;
	}
	r->used = 0;
	r->need = 0;
	r->error = NULL;
	r->argc = 0;
	r->pos = 0;
	r->scan = 0;
	r->multibulk = -1;
	r->bulk = -1;
	r->whole = false;
}

void resp_request_release(struct resp_request *r)
{
	drop_argv(r);
	sdsfree(r->unescaped);
	r->unescaped = NULL;
}

static enum resp_status bad(struct resp_request *r, const char *error)
{
	r->error = error;
	return RESP_BAD;
}

static enum resp_status more(struct resp_request *r, uint64_t need)
{
	r->need = need;
	return RESP_MORE;
}

/* argv grows as words arrive, never by the count that was announced. */
static bool grow_argv(struct resp_request *r)
{
	uint32_t cap = r->argv_cap * 2;
	struct resp_arg *argv = realloc(r->argv == r->args ? NULL : r->argv, cap * sizeof(*argv));

	if (!argv)
		return false;
	if (r->argv == r->args)
		memcpy(argv, r->args, sizeof(r->args));
	r->argv = argv;
	r->argv_cap = cap;
	return true;
}

static inline bool push_arg(struct resp_request *r, uint64_t off, uint64_t len)
{
	if (__builtin_expect(r->argc == r->argv_cap, 0) && !grow_argv(r))
		return false;
	r->argv[r->argc++] = (struct resp_arg){ off, len };
	return true;
}

/* Looks for the end of the line that starts at `pos`, from where the last call stopped; true if it is at r->scan. */
static bool find_line_end(struct resp_request *r, const char *buf, size_t len, uint64_t pos, char stop)
{
	uint64_t from = r->scan > pos ? r->scan : pos;
	const char *at = memchr(buf + from, stop, len - from);

	r->scan = at ? (uint64_t)(at - buf) : len;
	return at;
}

/* Which of a header's errors are reported, and in which words. */
struct header_rule {
	char type;
	const char *too_big, *invalid;
};
static const struct header_rule multibulk_rule = { '*', "Protocol error: too big mbulk count string",
	"Protocol error: invalid multibulk length" };
static const struct header_rule bulk_rule = { '$', "Protocol error: too big bulk count string",
	"Protocol error: invalid bulk length" };
static const char invalid_crlf[] = "Protocol error: invalid CRLF in request";

/* A whole header line of n bytes, without its end, and what stands behind its \r. NULL: it is a number. text: room for an error. */
static const char *judge_header(const char *line, uint64_t n, char behind, const struct header_rule *rule, char text[static 40], int64_t *number)
{
	if (line[0] != rule->type) {
		snprintf(text, 40, "Protocol error: expected '$', got '%c'", line[0]);
		return text;
	}
	if (behind != '\n')
		return invalid_crlf;
	return resp_string_to_int(line + 1, n - 1, number) ? NULL : rule->invalid;
}

/* A header line that is incomplete, negative, malformed or too long. RESP_OK: the number, and r->pos is behind the line. */
static enum resp_status slow_header(struct resp_request *r, const char *buf, size_t len, const struct header_rule *rule, int64_t *n)
{
	uint64_t pos = r->pos;
	bool found = find_line_end(r, buf, len, pos, '\r');

	if ((found ? r->scan : len) - pos > r->limits->max_inline)
		return bad(r, rule->too_big);
	if (!found || r->scan + 1 >= len)
		return more(r, len + 1);
	const char *error = judge_header(buf + pos, r->scan - pos, buf[r->scan + 1], rule, r->error_text, n);
	if (error)
		return bad(r, error);
	r->pos = r->scan + 2;
	return RESP_OK;
}

/* The usual header, "<type><1 to 11 digits>\r\n" and all of it there: returns what is behind it. NULL: see slow_header. */
static inline const char *plain_header(const char *p, const char *end, char type, uint64_t *n)
{
	unsigned digit;
	uint64_t v;

	if (end - p < 4 || *p != type || (digit = (unsigned char)p[1] - '0') > 9)
		return NULL;
	if (p[2] == '\r' && p[3] == '\n') {
		*n = digit;
		return p + 4;
	}
	if (digit == 0)
		return NULL;
	const char *last = end - p > 12 ? p + 12 : end - 1; /* the first byte that cannot be a digit of ours */
	for (v = digit, p += 2; p < last && (digit = (unsigned char)*p - '0') <= 9; p++)
		v = v * 10 + digit;
	if (end - p < 2 || p[0] != '\r' || p[1] != '\n')
		return NULL;
	*n = v;
	return p + 2;
}

static inline bool is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Words without quotes stay where they are. As in sdssplitargs, \v and \f are skipped before a word and belong to it inside. */
static enum resp_status split_plain(struct resp_request *r, const char *buf, uint64_t end)
{
	for (uint64_t i = 0;;) {
		while (i < end && is_space(buf[i]))
			i++;
		if (i == end)
			return RESP_OK;
		uint64_t word = i;
		while (i < end && buf[i] != ' ' && buf[i] != '\t' && buf[i] != '\r')
			i++;
		if (!push_arg(r, word, i - word))
			return bad(r, "out of memory");
	}
}

/* Words with quotes are unescaped into an array of bulks of our own. */
static enum resp_status split_quoted(struct resp_request *r, const char *buf, uint64_t end)
{
	enum resp_status status = RESP_OK;
	int argc;
	sds line = sdsnewlen(buf, end);
	sds *words = sdssplitargs(line, &argc);

	sdsfree(line);
	if (!words)
		return bad(r, "Protocol error: unbalanced quotes in request");
	r->unescaped = resp_cat_len(sdsempty(), '*', argc);
	for (int i = 0; i < argc && status == RESP_OK; i++) {
		size_t len = sdslen(words[i]);
		r->unescaped = resp_cat_bulk(r->unescaped, slice(words[i], len));
		if (!push_arg(r, sdslen(r->unescaped) - len - 2, len))
			status = bad(r, "out of memory");
	}
	sdsfreesplitres(words, argc);
	return status;
}

static enum resp_status parse_inline(struct resp_request *r, const char *buf, size_t len)
{
	uint64_t from = r->scan;
	bool found = find_line_end(r, buf, len, 0, '\n');
	/* The servers use strchr: a line with a NUL in it never ends. */
	const char *nul = memchr(buf + from, '\0', r->scan - from);
	if (nul) {
		r->scan = (uint64_t)(nul - buf);
		found = false;
	}
	uint64_t end = r->scan;

	if ((found ? end : len) > r->limits->max_inline)
		return bad(r, "Protocol error: too big inline request");
	if (!found)
		return more(r, len + 1);
	r->used = end + 1;
	if (end > 0 && buf[end - 1] == '\r')
		end--;
	if (memchr(buf, '"', end) || memchr(buf, '\'', end))
		return split_quoted(r, buf, end);
	return split_plain(r, buf, end);
}

static enum resp_status parse_multibulk(struct resp_request *r, const char *buf, size_t len)
{
	const struct resp_limits *limits = r->limits;
	uint64_t plain;
	int64_t n;
	const char *next = plain_header(buf, buf + len, '*', &plain);

	if (next) {
		n = (int64_t)plain;
		r->pos = (uint64_t)(next - buf);
	} else {
		enum resp_status status = slow_header(r, buf, len, &multibulk_rule, &n);
		if (status != RESP_OK)
			return status;
	}
	if (n > (int64_t)limits->max_args)
		return bad(r, multibulk_rule.invalid);
	if (limits->unauthenticated && n > UNAUTH_ARGS)
		return bad(r, "Protocol error: unauthenticated multibulk length");
	r->multibulk = n > 0 ? n : 0;
	return RESP_OK;
}

static inline const char *bulk_is_wrong(const struct resp_limits *limits, uint64_t n)
{
	if (n > limits->max_bulk)
		return bulk_rule.invalid;
	if (__builtin_expect(limits->unauthenticated, 0) && n > UNAUTH_BULK)
		return "Protocol error: unauthenticated bulk length";
	return NULL;
}

/* The header of the next word. RESP_OK: r->bulk is its length and r->pos its start. */
static inline enum resp_status parse_bulk_header(struct resp_request *r, const char *buf, size_t len)
{
	const struct resp_limits *limits = r->limits;
	uint64_t n;
	const char *next = plain_header(buf + r->pos, buf + len, '$', &n);

	if (__builtin_expect(next != NULL, 1)) {
		r->pos = (uint64_t)(next - buf);
	} else {
		int64_t any;
		enum resp_status status = slow_header(r, buf, len, &bulk_rule, &any);
		if (status != RESP_OK)
			return status;
		n = (uint64_t)any;
		if (any < 0)
			return bad(r, bulk_rule.invalid);
	}
	const char *error = bulk_is_wrong(limits, n);
	if (error)
		return bad(r, error);
	r->bulk = (int64_t)n;
	return RESP_OK;
}

enum resp_status resp_request_parse(struct resp_request *r, const char *buf, size_t len)
{
	enum resp_status status;

	if (len < r->need || len == 0)
		return len ? RESP_MORE : more(r, 1);
	if (r->multibulk < 0) {
		if (*buf != '*')
			return parse_inline(r, buf, len);
		status = parse_multibulk(r, buf, len);
		if (status != RESP_OK)
			return status;
	}
	while (r->multibulk > 0) {
		if (r->bulk < 0) {
			status = parse_bulk_header(r, buf, len);
			if (status != RESP_OK)
				return status;
		}
		uint64_t next = r->pos + (uint64_t)r->bulk + 2;
		if (next > len)
			return more(r, next);
		if (buf[next - 2] != '\r' || buf[next - 1] != '\n')
			return bad(r, invalid_crlf);
		if (!push_arg(r, r->pos, (uint64_t)r->bulk))
			return bad(r, "out of memory");
		r->pos = next;
		r->bulk = -1;
		r->multibulk--;
	}
	assert(r->pos <= len);
	r->used = r->pos;
	return RESP_OK;
}

/* --- skipping --- */

uint64_t resp_skip_init(struct resp_skip *s, const struct resp_request *r)
{
	assert(r->multibulk > 0);
	*s = (struct resp_skip){ .limits = r->limits, .words = r->multibulk, .left = r->bulk < 0 ? 0 : (uint64_t)r->bulk + 2 };
	return r->pos;
}

static enum resp_status skip_bad(struct resp_skip *s, const char *error)
{
	s->error = error;
	return RESP_BAD;
}

/* The header is whole, and `behind` stands behind its \r. */
static enum resp_status skip_header_ends(struct resp_skip *s, char behind)
{
	uint64_t n = s->line < RESP_SKIP_LINE ? s->line : RESP_SKIP_LINE;
	int64_t number = 0;
	const char *error = judge_header(s->kept, n, behind, &bulk_rule, s->error_text, &number);

	if (error)
		return skip_bad(s, error);
	if (number < 0)
		return skip_bad(s, bulk_rule.invalid);
	if ((error = bulk_is_wrong(s->limits, (uint64_t)number)))
		return skip_bad(s, error);
	s->left = (uint64_t)number + 2;
	s->line = 0;
	s->ended = false;
	return RESP_OK;
}

/* One more byte of a header. RESP_OK: it was its last one. */
static enum resp_status skip_header(struct resp_skip *s, char c)
{
	if (s->ended)
		return skip_header_ends(s, c);
	if (s->line < RESP_SKIP_LINE)
		s->kept[s->line] = c;
	if (c == '\r') {
		s->ended = true;
		return RESP_MORE;
	}
	return ++s->line > s->limits->max_inline ? skip_bad(s, bulk_rule.too_big) : RESP_MORE;
}

/* Up to n bytes of a word and its end. Returns how many; the word's last one was among them when `left` is 0. */
static size_t skip_word(struct resp_skip *s, const char *p, size_t n)
{
	uint64_t left = s->left;
	size_t take = n < left ? n : (size_t)left;

	if (left >= 2 && take >= left - 1)
		s->broken = p[left - 2] != '\r';
	if (take == left)
		s->broken |= p[left - 1] != '\n';
	s->left -= take;
	return take;
}

enum resp_status resp_skip(struct resp_skip *s, const char *p, size_t n, size_t *used)
{
	size_t at = 0;

	while (at < n) {
		if (!s->left) {
			if (skip_header(s, p[at++]) == RESP_BAD)
				return RESP_BAD;
			continue;
		}
		at += skip_word(s, p + at, n - at);
		if (s->left)
			break;
		if (s->broken)
			return skip_bad(s, invalid_crlf);
		if (--s->words == 0) {
			*used = at;
			return RESP_OK;
		}
	}
	*used = n;
	return RESP_MORE;
}
