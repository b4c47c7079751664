/* effect_build.c - reading words and replies, building commands: what the rules of effects have in common. */
#include <stdio.h>

#include "proxy/effect_rules.h"
#include "resp/convert.h"
#include "resp/digits.h"
#include "resp/write.h"

/* --- words -------------------------------------------------------------------------------------------------------- */

/* The servers' own naming tells: [H][P]EXPIRE[AT], [P]SETEX; P is milliseconds, AT absolute. */
struct time_form time_form_of(const struct command *cmd)
{
	const char *name = cmd->name;
	size_t n = strlen(name);

	name += *name == 'h';
	return (struct time_form){ .unit_ms = *name == 'p' ? 1 : 1000, .relative = !(n > 2 && strcmp(cmd->name + n - 2, "at") == 0) };
}

bool time_ms(struct time_form form, struct slice number, int64_t now_ms, int64_t *ms)
{
	int64_t v;

	return resp_string_to_int(number.p, number.n, &v) && !__builtin_mul_overflow(v, form.unit_ms, &v) &&
	       !__builtin_add_overflow(v, form.relative ? now_ms : 0, ms);
}

static const struct option_word {
	const char *word;
	uint32_t flag;
	struct time_form form;
} option_words[] = {
	{ "ex", OPT_EXPIRY, { 1000, true } },   { "px", OPT_EXPIRY, { 1, true } },
	{ "exat", OPT_EXPIRY, { 1000, false } }, { "pxat", OPT_EXPIRY, { 1, false } },
	{ "nx", OPT_NX, { 0, false } },         { "xx", OPT_XX, { 0, false } },
	{ "fnx", OPT_FNX, { 0, false } },       { "fxx", OPT_FXX, { 0, false } },
	{ "get", OPT_GET, { 0, false } },       { "keepttl", OPT_KEEPTTL, { 0, false } },
	{ "persist", OPT_PERSIST, { 0, false } }, { "ifeq", OPT_IFEQ, { 0, false } },
	{ "fields", OPT_FIELDS, { 0, false } },
};

/* Where options begin, and which each command has, by its rule. */
static const struct grammar {
	uint32_t from;
	uint32_t per_field;
	uint32_t allowed;
} grammars[] = {
	[REWRITE_SET] = { 3, 0, OPT_NX | OPT_XX | OPT_GET | OPT_KEEPTTL | OPT_EXPIRY | OPT_IFEQ },
	[REWRITE_GETEX] = { 2, 0, OPT_PERSIST | OPT_EXPIRY },
	[REWRITE_MSETEX] = { 0, 0, OPT_NX | OPT_XX | OPT_KEEPTTL | OPT_EXPIRY },
	[REWRITE_HSETEX] = { 2, 2, OPT_NX | OPT_XX | OPT_FNX | OPT_FXX | OPT_KEEPTTL | OPT_EXPIRY | OPT_FIELDS },
	[REWRITE_HGETEX] = { 2, 1, OPT_PERSIST | OPT_EXPIRY | OPT_FIELDS },
};

static const struct option_word *option_word(struct slice word)
{
	for (size_t i = 0; i < sizeof(option_words) / sizeof(option_words[0]); i++)
		if (slice_is(word, option_words[i].word))
			return &option_words[i];
	return NULL;
}

/* The option at *i; leaves *i at its last word. */
static bool option_parse(const struct effect_call *call, const struct grammar *g, uint32_t *i, struct options *o)
{
	const struct option_word *word = option_word(call->argv[*i]);
	bool has_argument = word && (word->flag & (OPT_EXPIRY | OPT_IFEQ));
	int64_t n;

	/* A repeated EX is legal; it stays relative, and its effect becomes a snapshot. */
	if (!word || !(word->flag & g->allowed) || (o->given & word->flag & (OPT_EXPIRY | OPT_IFEQ | OPT_FIELDS)))
		return false;
	if (has_argument && ++*i >= call->argc)
		return false;
	o->given |= word->flag;
	if (word->flag == OPT_EXPIRY) {
		o->expiry_at = *i - 1;
		o->form = word->form;
	} else if (word->flag == OPT_IFEQ) {
		o->ifeq_at = *i;
	} else if (word->flag == OPT_FIELDS) {
		if (*i + 1 >= call->argc || !resp_string_to_int(call->argv[*i + 1].p, call->argv[*i + 1].n, &n) || n < 1 ||
		    n > (int64_t)((call->argc - *i - 2) / g->per_field))
			return false;
		o->fields_at = *i + 2;
		o->nfields = (uint32_t)n;
		*i += 1 + o->nfields * g->per_field;
	}
	return true;
}

static bool at_most_one(uint32_t given, uint32_t of)
{
	return ((given & of) & ((given & of) - 1)) == 0;
}

bool options_parse(const struct effect_call *call, struct options *o)
{
	const struct grammar *g = &grammars[call->cmd->rewrite];
	uint32_t from = g->from;
	int64_t keys;

	*o = (struct options){ 0 };
	if (from == 0) { /* behind numkeys and the pairs */
		if (!resp_string_to_int(call->argv[1].p, call->argv[1].n, &keys) || keys < 1 || keys > (call->argc - 2) / 2)
			return false;
		from = 2 + 2 * (uint32_t)keys;
	}
	for (uint32_t i = from; i < call->argc; i++)
		if (!option_parse(call, g, &i, o))
			return false;
	if ((g->allowed & OPT_FIELDS) && !(o->given & OPT_FIELDS))
		return false;
	return at_most_one(o->given, OPT_NX | OPT_XX | OPT_IFEQ) && at_most_one(o->given, OPT_FNX | OPT_FXX) &&
	       at_most_one(o->given, OPT_EXPIRY | OPT_KEEPTTL | OPT_PERSIST);
}

bool fields_parse(const struct effect_call *call, uint32_t at, uint32_t per, uint32_t *first, uint32_t *n)
{
	int64_t count;

	if (at + 2 >= call->argc || !slice_is(call->argv[at], "fields") ||
	    !resp_string_to_int(call->argv[at + 1].p, call->argv[at + 1].n, &count) || count < 1 ||
	    count != (int64_t)(call->argc - at - 2) / per || (call->argc - at - 2) % per != 0)
		return false;
	*first = at + 2;
	*n = (uint32_t)count;
	return true;
}

struct slice int_word(struct int_word *w, int64_t n)
{
	return slice(w->text, (size_t)snprintf(w->text, sizeof(w->text), "%lld", (long long)n));
}

/* --- replies ------------------------------------------------------------------------------------------------------ */

bool reply_next(struct reply_walk *w, struct resp_item *item)
{
	size_t size;

	while (w->p < w->end && (size = resp_item(w->p, w->end, item)) > 0) {
		w->p += size;
		if (item->type != '|')
			return true;
		for (int64_t i = item->n; i > 0; i--) {
			size = resp_value_len(w->p, w->end);
			if (size == 0)
				return false;
			w->p += size;
		}
	}
	return false;
}

struct slice reply_value(struct reply_walk *w)
{
	size_t size = w->p < w->end ? resp_value_len(w->p, w->end) : 0;
	struct slice value = slice(w->p, size);

	w->p += size;
	return value;
}

struct resp_item reply_first(struct slice reply)
{
	struct reply_walk w = reply_walk(reply);
	struct resp_item item = { 0 };

	if (!reply_next(&w, &item))
		item.type = 0;
	return item;
}

/* --- what is built ------------------------------------------------------------------------------------------------ */

void build_command(struct builder *b, uint32_t words)
{
	if (!b->body)
		b->body = sdsempty();
	b->body = resp_cat_len(b->body, '*', words);
	b->n++;
}

void build_word(struct builder *b, struct slice word)
{
	b->body = resp_cat_bulk(b->body, word);
}

void build_text(struct builder *b, const char *word)
{
	b->body = resp_cat_bulk(b->body, slice(word, strlen(word)));
}

void build_int(struct builder *b, int64_t n)
{
	b->body = resp_cat_int_bulk(b->body, n);
}

void build_words(struct builder *b, const struct slice *words, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		b->body = resp_cat_bulk(b->body, words[i]);
}

void build_want(struct builder *b, struct slice reply)
{
	b->want = sdscatlen(b->want ? b->want : sdsempty(), reply.p, reply.n);
}

void build_finish(struct builder *b, struct effect *out)
{
	out->kind = EFFECT_IS_BLOCK;
	out->ncommands = b->n;
	out->block = b->body;
	if (b->n > 1) {
		sds all = resp_cat_words(sdsempty(), "MULTI", NULL);

		all = sdscatlen(all, b->body, sdslen(b->body));
		sdsfree(b->body);
		out->block = resp_cat_words(all, "EXEC", NULL);
		out->ncommands += 2;
	}
	out->expect = b->want ? EXPECT_DIGEST : EXPECT_ANY;
	if (b->want) {
		sds want = b->n > 1 ? resp_cat_len(sdsempty(), '*', b->n) : sdsempty();

		want = sdscatlen(want, b->want, sdslen(b->want));
		out->expect_digest = resp_reply_digest(slice(want, sdslen(want)));
		sdsfree(want);
		sdsfree(b->want);
	}
	*b = (struct builder){ 0 };
}

void effect_block(struct effect *out, const struct slice *words, uint32_t n, enum effect_expect expect, int64_t expect_n)
{
	struct builder b = { 0 };

	build_command(&b, n);
	build_words(&b, words, n);
	build_finish(&b, out);
	out->expect = expect;
	out->expect_n = expect_n;
}
