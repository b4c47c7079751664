#include "proxy/blocking.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "resp/digits.h"
#include "resp/parse.h"
#include "resp/write.h"

enum timeout_place { TIMEOUT_LAST, TIMEOUT_FIRST, TIMEOUT_OPTION };
enum shape { SHAPE_OF_POP, SHAPE_OF_POPS, SHAPE_OF_MOVE, SHAPE_OF_STREAMS };

static const struct blocking_form {
	const char *plain;
	enum park_kind kind;
	enum timeout_place timeout;
	enum shape shape;
	const char *where;  /* SHAPE_OF_POP: from which end */
	bool group;         /* reads for a consumer group: no $, and the group is gone with its stream */
} forms[] = {
	[LOCAL_BLPOP] = { "lmpop", PARK_LIST, TIMEOUT_LAST, SHAPE_OF_POP, "LEFT", false },
	[LOCAL_BRPOP] = { "lmpop", PARK_LIST, TIMEOUT_LAST, SHAPE_OF_POP, "RIGHT", false },
	[LOCAL_BLMPOP] = { "lmpop", PARK_LIST, TIMEOUT_FIRST, SHAPE_OF_POPS, NULL, false },
	[LOCAL_BLMOVE] = { "lmove", PARK_LIST, TIMEOUT_LAST, SHAPE_OF_MOVE, NULL, false },
	[LOCAL_BRPOPLPUSH] = { "rpoplpush", PARK_LIST, TIMEOUT_LAST, SHAPE_OF_MOVE, NULL, false },
	[LOCAL_BZPOPMIN] = { "zmpop", PARK_ZSET, TIMEOUT_LAST, SHAPE_OF_POP, "MIN", false },
	[LOCAL_BZPOPMAX] = { "zmpop", PARK_ZSET, TIMEOUT_LAST, SHAPE_OF_POP, "MAX", false },
	[LOCAL_BZMPOP] = { "zmpop", PARK_ZSET, TIMEOUT_FIRST, SHAPE_OF_POPS, NULL, false },
	[LOCAL_XREAD] = { "xread", PARK_STREAM, TIMEOUT_OPTION, SHAPE_OF_STREAMS, NULL, false },
	[LOCAL_XREADGROUP] = { "xreadgroup", PARK_STREAM, TIMEOUT_OPTION, SHAPE_OF_STREAMS, NULL, true },
};

/* --- time-outs, by the servers' own steps --- */

static const char *set_timeout(int64_t ms, int64_t now_ms, int64_t *out)
{
	if (ms < 0)
		return "ERR timeout is negative";
	if (ms > INT64_MAX - now_ms)
		return "ERR timeout is out of range";
	*out = ms;
	return NULL;
}

static const char *read_seconds(struct slice word, int64_t now_ms, int64_t *ms)
{
	static const char wrong[] = "ERR timeout is not a float or out of range";
	char text[256], *end;

	if (word.n == 0 || word.n >= sizeof text || isspace((unsigned char)word.p[0]))
		return wrong;
	memcpy(text, word.p, word.n);
	text[word.n] = '\0';
	errno = 0;
	long double v = strtold(text, &end);
	if ((size_t)(end - text) != word.n || isnan(v) || (errno == ERANGE && (isinf(v) || v == 0)))
		return wrong;
	v *= 1000;
	if (v > (long double)INT64_MAX)
		return now_ms ? "ERR timeout is out of range" : "ERR timeout is negative";
	return set_timeout(v < -1e15L ? -1 : (int64_t)ceill(v), now_ms, ms);
}

const char *blocking_timeout_ms(struct slice word, int64_t now_ms, int64_t *ms)
{
	int64_t v;

	if (!resp_string_to_int(word.p, word.n, &v))
		return "ERR timeout is not an integer or out of range";
	return set_timeout(v, now_ms, ms);
}

/* --- words --- */

/* Words of the option at i, itself included. */
static uint32_t option_width(uint32_t argc, const struct slice *argv, uint32_t i)
{
	uint32_t width = 1;

	if (slice_is(argv[i], "count") || slice_is(argv[i], "block"))
		width = 2;
	else if (slice_is(argv[i], "group"))
		width = 3;
	return width < argc - i ? width : argc - i;
}

static void read_streams(struct blocking *b, uint32_t argc, const struct slice *argv, int64_t now_ms)
{
	bool wrong = false; /* the server has found an error by here */
	uint32_t i;
	int64_t count;

	for (i = 1; i < argc && !slice_is(argv[i], "streams"); i += option_width(argc, argv, i)) {
		if (slice_is(argv[i], "count"))
			wrong |= i + 1 == argc || !resp_string_to_int(argv[i + 1].p, argv[i + 1].n, &count);
		if (!slice_is(argv[i], "block"))
			continue;
		b->blocks = true;
		wrong |= i + 1 == argc;
		if (!wrong && !b->error)
			b->error = blocking_timeout_ms(argv[i + 1], now_ms, &b->timeout_ms);
	}
	b->first = i + 1;
	if (!wrong && b->first < argc && (argc - b->first) % 2 == 0)
		b->nkeys = (argc - b->first) / 2;
}

static bool is_direction(struct slice word)
{
	return slice_is(word, "left") || slice_is(word, "right");
}

static void read_keys(struct blocking *b, uint32_t argc, const struct slice *argv)
{
	int64_t n;

	switch (b->form->shape) {
	case SHAPE_OF_POP:
		b->first = 1;
		b->nkeys = argc - 2;
		break;
	case SHAPE_OF_MOVE:
		b->first = 1;
		b->nkeys = argc < 6 || (is_direction(argv[3]) && is_direction(argv[4]));
		break;
	case SHAPE_OF_POPS:
		b->first = 3;
		if (resp_string_to_int(argv[2].p, argv[2].n, &n) && n > 0 && n < (int64_t)argc - 3)
			b->nkeys = (uint32_t)n;
		break;
	case SHAPE_OF_STREAMS:
		break;
	}
}

const struct command *blocking_plain(const struct command *cmd)
{
	if (cmd->policy != POLICY_BLOCK)
		return cmd;
	assert(cmd->local < sizeof forms / sizeof *forms && forms[cmd->local].plain);
	return command_find(slice(forms[cmd->local].plain, strlen(forms[cmd->local].plain)));
}

struct blocking blocking_read(const struct command *cmd, uint32_t argc, const struct slice *argv, int64_t now_ms)
{
	struct blocking b = { .form = &forms[cmd->local] };

	b.plain = blocking_plain(cmd);
	b.kind = b.form->kind;
	if (b.form->shape == SHAPE_OF_STREAMS) {
		read_streams(&b, argc, argv, now_ms);
		return b;
	}
	b.blocks = true;
	read_keys(&b, argc, argv);
	if (b.form->shape != SHAPE_OF_MOVE || b.nkeys) /* a wrong direction is found before */
		b.error = read_seconds(argv[b.form->timeout == TIMEOUT_LAST ? argc - 1 : 1], now_ms, &b.timeout_ms);
	return b;
}

/* --- the requests --- */

struct words {
	sds s;
	int64_t n;
};

static void add(struct words *w, struct slice word)
{
	w->s = resp_cat_bulk(w->s, word);
	w->n++;
}

static void add_all(struct words *w, const struct slice *argv, uint32_t from, uint32_t to)
{
	for (uint32_t i = from; i < to; i++)
		add(w, argv[i]);
}

static const struct slice count_one[] = { SLICE_LIT("COUNT"), SLICE_LIT("1") };

static void add_streams(struct words *w, const struct blocking *b, uint32_t argc, const struct slice *argv, uint32_t at, uint32_t n, const sds *ids)
{
	for (uint32_t i = 1, width; i < argc && i < b->first; i += width) {
		width = i + 1 == b->first ? 1 : option_width(argc, argv, i);
		if (!slice_is(argv[i], "block"))
			add_all(w, argv, i, i + width);
		else if (!b->nkeys) /* wrong words stay as many */
			add_all(w, count_one, 0, width);
	}
	if (!b->nkeys) {
		add_all(w, argv, b->first < argc ? b->first : argc, argc);
		return;
	}
	add_all(w, argv, at, at + n);
	for (uint32_t i = at; i < at + n; i++)
		add(w, ids && ids[i - b->first] ? slice(ids[i - b->first], sdslen(ids[i - b->first])) : argv[i + b->nkeys]);
}

static void add_pop(struct words *w, const struct blocking *b, uint32_t argc, const struct slice *argv, uint32_t at, uint32_t n)
{
	char count[24];
	int len = snprintf(count, sizeof count, "%u", n);

	if (!b->nkeys) {
		add_all(w, argv, 2, argc);
		return;
	}
	add(w, slice(count, (size_t)len));
	add_all(w, argv, at, at + n);
	if (b->form->where)
		add(w, slice(b->form->where, strlen(b->form->where)));
	else
		add_all(w, argv, b->first + b->nkeys, argc);
}

sds blocking_cat_try(sds s, const struct blocking *b, uint32_t argc, const struct slice *argv, uint32_t at, uint32_t n, const sds *ids)
{
	struct words w = { .s = sdsempty() };

	assert(!b->nkeys || (at >= b->first && at + n <= b->first + b->nkeys));
	add(&w, slice(b->form->plain, strlen(b->form->plain)));
	switch (b->form->shape) {
	case SHAPE_OF_POP:
	case SHAPE_OF_POPS:
		add_pop(&w, b, argc, argv, at, n);
		break;
	case SHAPE_OF_MOVE:
		add_all(&w, argv, 1, argc - 1);
		break;
	case SHAPE_OF_STREAMS:
		add_streams(&w, b, argc, argv, at, n, ids);
		break;
	}
	s = sdscatsds(resp_cat_len(s, '*', w.n), w.s);
	sdsfree(w.s);
	return s;
}

sds blocking_cat_look(sds s, const struct blocking *b, struct slice key, const struct command **cmd)
{
	static const char *const lengths[] = { [PARK_LIST] = "LLEN", [PARK_ZSET] = "ZCARD", [PARK_STREAM] = "XREVRANGE" };
	struct slice words[] = { slice(lengths[b->kind], strlen(lengths[b->kind])), key, SLICE_LIT("+"), SLICE_LIT("-"), SLICE_LIT("COUNT"), SLICE_LIT("1") };

	*cmd = command_find(words[0]);
	return resp_cat_request(s, b->kind == PARK_STREAM ? 6 : 2, words);
}

/* --- streams' ids --- */

bool blocking_id_is_last(const struct blocking *b, const struct slice *argv, uint32_t key)
{
	return b->kind == PARK_STREAM && !b->form->group && slice_eq(argv[b->first + b->nkeys + key], SLICE_LIT("$"));
}

sds blocking_last_id(struct slice reply)
{
	const char *p = reply.p, *end = reply.p + reply.n;
	struct resp_item item = { 0 };

	/* [[id, [field, …]]] or nothing */
	p += resp_item(p, end, &item);
	for (int i = 0; i < 2 && item.type == '*' && item.n > 0; i++)
		p += resp_item(p, end, &item);
	return item.type == '$' ? sdsnewlen(item.text.p, item.text.n) : sdsnew("0-0");
}

/* --- replies --- */

sds blocking_reply(const struct blocking *b, struct slice reply)
{
	const char *p = reply.p, *end = reply.p + reply.n, *key;
	struct resp_item item;

	if (b->form->shape != SHAPE_OF_POP || *p != '*')
		return NULL;
	p += resp_item(p, end, &item);
	key = p;
	p += resp_item(p, end, &item);
	sds s = resp_cat_len(sdsempty(), '*', b->kind == PARK_ZSET ? 3 : 2);
	s = sdscatlen(s, key, (size_t)(p - key));
	p += resp_item(p, end, &item);
	if (b->kind == PARK_ZSET)
		p += resp_item(p, end, &item);
	return sdscatlen(s, p, (size_t)(end - p));
}

bool blocking_moves(const struct blocking *b)
{
	return b->form->shape == SHAPE_OF_MOVE;
}

bool blocking_error_ends(const struct blocking *b, struct slice error)
{
	static const char wrong_type[] = "-WRONGTYPE ";

	return b->form->group || error.n < sizeof wrong_type || memcmp(error.p, wrong_type, sizeof wrong_type - 1) != 0;
}
