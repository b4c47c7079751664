/* parse.h - where requests and replies begin and end: incremental, zero-copy, no I/O, no allocation per request.
 *
 * Both parsers work on one contiguous buffer that starts at the first byte of the request or reply. They keep their place
 * between calls, so that no byte is looked at twice however the input is split, and they keep offsets, not pointers, so
 * that the buffer may move or grow between calls. They touch nothing else. Every split of the input gives the same result.
 *
 * Calling sequence: `_reset`, then `_parse` with a buffer that only grows, until it returns RESP_OK (the first `used` bytes are the
 * whole request or reply) or RESP_BAD. On RESP_MORE `need` is a lower bound of the total length, > len (so that a large
 * bulk is given its memory at once).
 * Threads: no globals; one parser belongs to one thread at a time. */
#ifndef CROSSFADE_PARSE_H
#define CROSSFADE_PARSE_H

#include <stdint.h>

#include "resp/slice.h"

enum resp_status { RESP_OK, RESP_MORE, RESP_BAD };

struct resp_limits {
	uint32_t max_args;   /* words of one request: 1024*1024 (servers: INT_MAX) */
	uint64_t max_bulk;   /* bytes of one bulk; the server's own: 512 MiB */
	uint32_t max_inline; /* bytes of an inline request or of a request's header line; the server's own: 64 KiB */
	uint32_t max_depth;  /* nesting of a reply, at most RESP_MAX_DEPTH */
	bool unauthenticated; /* who has yet to AUTH may send 10 words of 16 KiB, and is told so in the server's own texts */
};
extern const struct resp_limits resp_default_limits, resp_stranger_limits; /* the second: the same, unauthenticated */

struct resp_arg {
	uint64_t off; /* from the start of the request */
	uint64_t len;
};

#define RESP_INLINE_ARGS 16

/* One request: an array of bulks or an inline line. Null and empty arrays and empty lines give RESP_OK with argc 0 (the server ignores them, too).
 * Inline words may be quoted; then they need unescaping and `unescaped` (owned by the parser, sds) holds the request
 * rewritten as an array of bulks, to which argv's offsets refer instead: use resp_request_base(). */
struct resp_request {
	const struct resp_limits *limits;
	uint64_t used; /* RESP_OK: length of the request in the input buffer */
	uint64_t need; /* RESP_MORE: least total length */
	const char *error; /* RESP_BAD: the server's text, "Protocol error: invalid bulk length" (without -ERR and CRLF) */
	uint32_t argc;
	struct resp_arg *argv; /* args[] or heap */
	char *unescaped;       /* sds or NULL */
	/* private: */
	struct resp_arg args[RESP_INLINE_ARGS];
	uint32_t argv_cap;
	uint64_t pos;
	uint64_t scan;     /* how far the end of the current line was looked for */
	int64_t multibulk; /* words still to come; -1 before the header */
	int64_t bulk;      /* length of the current bulk; -1 before its header */
	char error_text[40]; /* the one error that quotes the input */
	bool whole;        /* the caller's, false after `_reset` */
};

void resp_request_init(struct resp_request *r, const struct resp_limits *limits);
void resp_request_reset(struct resp_request *r);   /* ready for the next request; keeps memory of moderate size */
void resp_request_release(struct resp_request *r); /* frees what it owns */
enum resp_status resp_request_parse(struct resp_request *r, const char *buf, size_t len);

/* The buffer that argv's offsets refer to. */
static inline const char *resp_request_base(const struct resp_request *r, const char *buf)
{
	return r->unescaped ? r->unescaped : buf;
}

static inline struct slice resp_request_arg(const struct resp_request *r, const char *buf, uint32_t i)
{
	const char *base = resp_request_base(r, buf);
	return slice(base + r->argv[i].off, r->argv[i].len);
}

/* The end of a request of which nobody needs the words that are still to come: pieces of its bytes are looked at as they come, and not kept. Where it ends, and what is
 * wrong with it, is the same as resp_request_parse would say of the whole, and with any split. */
#define RESP_SKIP_LINE 32 /* no number is that long */
struct resp_skip {
	const char *error; /* RESP_BAD */
	/* private: */
	const struct resp_limits *limits;
	int64_t words;     /* that have not ended */
	uint64_t left;     /* bytes of the one at hand, with its end; 0: its header comes */
	uint64_t line;     /* bytes of the header so far, and the first of them */
	char kept[RESP_SKIP_LINE];
	bool ended;        /* its \r has come */
	bool broken;       /* there is no \r behind the word */
	char error_text[40];
};

/* r is an array, and RESP_MORE was said of it with less than its end there. Returns where the bytes begin, from the start of the request, that are to be given to resp_skip. */
uint64_t resp_skip_init(struct resp_skip *s, const struct resp_request *r);
/* RESP_OK: the request ends with the first `used` bytes. RESP_MORE: it does not end in them. */
enum resp_status resp_skip(struct resp_skip *s, const char *p, size_t n, size_t *used);

#define RESP_MAX_DEPTH 64

/* The boundary of one reply (RESP2 and RESP3: + - : $ * _ , # ! = ( % ~ > |). An attribute belongs to the reply behind it.
 * Streamed (`$?`) forms are RESP_BAD: no server sends them. */
struct resp_reply {
	const struct resp_limits *limits;
	uint64_t used;
	uint64_t need;
	const char *error;
	char type; /* of the top-level value, once known; that of the value behind an attribute */
	/* private: */
	uint64_t pos;
	uint64_t scan;                     /* how far the end of the current line was looked for */
	uint32_t depth;                    /* levels in left[]; 0 when the reply is complete */
	uint64_t left[RESP_MAX_DEPTH + 1]; /* values still to come at each level; the first is the reply itself */
};

void resp_reply_init(struct resp_reply *r, const struct resp_limits *limits);
void resp_reply_reset(struct resp_reply *r);
enum resp_status resp_reply_parse(struct resp_reply *r, const char *buf, size_t len);

/* A walk over a complete reply that resp_reply_parse has accepted: one value header at a time, depth first. */
struct resp_item {
	char type;         /* + - : $ * _ , # ! = ( % ~ > |   ($-1 and *-1 are given as '_') */
	int64_t n;         /* : the integer; # 0 or 1; aggregates: number of child values (maps and attributes: 2 * pairs) */
	struct slice text; /* + - , ( the text; $ ! the body; = the body without its "txt:" prefix */
};

/* Reads the header (and body, of a scalar) at p, returns the bytes taken; 0 if [p, end) holds no value. */
size_t resp_item(const char *p, const char *end, struct resp_item *item);

/* Bytes of the whole value at p, children included; 0 if none. */
size_t resp_value_len(const char *p, const char *end);

#endif
