#include "proxy/changes.h"

#include <string.h>
#include <strings.h>

#include "resp/write.h"

/* What is noted of a command. Names of elements: the words from `first` on (0: behind FIELDS), every `step`-th; step 0: only that one. */
static const struct rule {
	const char *verb;
	enum {
		NOTHING, /* what it does is read again at the end anyway */
		NAMES,
		NAMES_OF_BOTH, /* of either key */
		NAMES_BEHIND,  /* FIELDS and their number */
		WHOLE,
		MOVE, /* from one list to another: the pop or the push that it is, or both */
	} what;
	unsigned first, step;
} rules[] = {
	{ "HSET", NAMES, 2, 2 }, { "HMSET", NAMES, 2, 2 }, { "HSETNX", NAMES, 2, 0 }, { "HDEL", NAMES, 2, 1 }, { "HINCRBY", NAMES, 2, 0 },
	{ "HINCRBYFLOAT", NAMES, 2, 0 }, { "SADD", NAMES, 2, 1 }, { "SREM", NAMES, 2, 1 }, { "ZREM", NAMES, 2, 1 }, { "ZINCRBY", NAMES, 3, 0 },
	{ "ZADD", NAMES, 3, 2 }, { "SMOVE", NAMES_OF_BOTH, 3, 0 }, { "LPUSH", WHOLE, 0, 0 }, { "RPUSH", WHOLE, 0, 0 }, { "LPUSHX", WHOLE, 0, 0 },
	{ "RPUSHX", WHOLE, 0, 0 }, { "LPOP", WHOLE, 0, 0 }, { "RPOP", WHOLE, 0, 0 }, { "LSET", WHOLE, 0, 0 }, { "LTRIM", WHOLE, 0, 0 }, { "LREM", WHOLE, 0, 0 }, { "LINSERT", WHOLE, 0, 0 },
	{ "APPEND", WHOLE, 0, 0 }, { "SETRANGE", WHOLE, 0, 0 }, { "SETBIT", WHOLE, 0, 0 }, { "BITFIELD", WHOLE, 0, 0 }, { "XDEL", WHOLE, 0, 0 }, { "XCLAIM", WHOLE, 0, 0 },
	{ "HSETEX", NAMES_BEHIND, 0, 2 }, { "HGETDEL", NAMES_BEHIND, 0, 1 }, { "HPEXPIREAT", NAMES_BEHIND, 0, 1 }, { "HPERSIST", NAMES_BEHIND, 0, 1 },
	{ "LMOVE", MOVE, 0, 0 }, { "RPOPLPUSH", MOVE, 0, 0 }, { "PEXPIREAT", NOTHING, 0, 0 }, { "PERSIST", NOTHING, 0, 0 }, { "MULTI", NOTHING, 0, 0 }, { "EXEC", NOTHING, 0, 0 },
	{ "XADD", NOTHING, 0, 0 }, { "XTRIM", NOTHING, 0, 0 }, { "XACK", NOTHING, 0, 0 }, { "XGROUP", NOTHING, 0, 0 }, { "XREADGROUP", NOTHING, 0, 0 },
};

void changes_begin(struct changes *c, uint16_t db, keyhash key)
{
	changes_end(c);
	*c = (struct changes){ .on = true, .db = db, .key = key, .elements = sdsempty() };
}

void changes_end(struct changes *c)
{
	sdsfree(c->elements);
	*c = (struct changes){ .on = false };
}

void changes_unknown(struct changes *c)
{
	c->unknown = true;
	if (c->elements)
		sdsclear(c->elements);
}

static const struct rule *rule_of(struct slice verb)
{
	for (size_t i = 0; i < sizeof(rules) / sizeof(*rules); i++)
		if (verb.n == strlen(rules[i].verb) && strncasecmp(verb.p, rules[i].verb, verb.n) == 0)
			return &rules[i];
	return NULL;
}

/* ZADD's options stand between the key and the first score; none of them is a number. */
static bool is_option(struct slice word)
{
	static const char *const options[] = { "NX", "XX", "GT", "LT", "CH", "INCR" };

	for (size_t i = 0; i < sizeof(options) / sizeof(*options); i++)
		if (word.n == strlen(options[i]) && strncasecmp(word.p, options[i], word.n) == 0)
			return true;
	return false;
}

static bool noted(struct changes *c, const struct rule *rule)
{
	enum changes_noted kind = rule->what == WHOLE || rule->what == MOVE ? NOTED_COMMANDS : NOTED_NAMES;

	if (rule->what == NOTHING)
		return true;
	if (c->noted != NOTED_NOTHING && c->noted != kind)
		return false;
	c->noted = kind;
	return true;
}

static void note_words(struct changes *c, const char *verb, struct slice key, const struct slice *element)
{
	c->elements = resp_cat_len(c->elements, '*', element ? 3 : 2);
	c->elements = resp_cat_bulk(c->elements, slice(verb, strlen(verb)));
	c->elements = resp_cat_bulk(c->elements, key);
	if (element)
		c->elements = resp_cat_bulk(c->elements, *element);
}

#define MOVE_WORDS 5

/* LMOVE source destination LEFT|RIGHT LEFT|RIGHT, RPOPLPUSH source destination. */
static bool note_move(struct changes *c, struct slice key, const struct slice *words, int64_t n, struct slice reply)
{
	bool from_left = n == MOVE_WORDS && slice_is(words[3], "left"), to_left = n < MOVE_WORDS || slice_is(words[4], "left");
	struct resp_item element;

	if (!resp_item(reply.p, reply.p + reply.n, &element) || element.type != '$')
		return false;
	if (slice_eq(words[1], key))
		note_words(c, from_left ? "LPOP" : "RPOP", key, NULL);
	if (slice_eq(words[2], key))
		note_words(c, to_left ? "LPUSH" : "RPUSH", key, &element.text);
	return true;
}

/* Words of a command. */
struct command_walk {
	const char *start, *p, *end; /* of its array, of the next word, of everything */
	int64_t argc;
};

static bool next_word(struct command_walk *w, struct slice *word)
{
	struct resp_item item;
	size_t n = resp_item(w->p, w->end, &item);

	if (!n || item.type != '$')
		return false;
	w->p += n;
	*word = item.text;
	return true;
}

/* One command; behind it afterwards. False: not understood. */
static bool note(struct changes *c, struct slice key, struct command_walk *w, struct slice reply)
{
	struct slice words[MOVE_WORDS], word;
	const struct rule *rule = NULL;
	unsigned next = 0;
	bool ours = true;

	for (unsigned i = 0; i < w->argc; i++) {
		if (!next_word(w, &word))
			return false;
		if (i < MOVE_WORDS)
			words[i] = word;
		if (i == 0) {
			if (!(rule = rule_of(word)))
				return false;
			next = rule->first;
		} else if (i == 1 && rule->what != NAMES_OF_BOTH && rule->what != MOVE && rule->what != NOTHING) {
			ours = slice_eq(word, key); /* else it is about another key of the same write */
		} else if (ours && i + 1 == next && rule->first == 3 && rule->step && is_option(word)) {
			next++;
		} else if (ours && !next && rule->what == NAMES_BEHIND && slice_is(word, "fields")) {
			next = i + 2;
		} else if (ours && next && i == next) {
			c->elements = resp_cat_bulk(c->elements, word);
			next = rule->step ? next + rule->step : 0;
		}
	}
	if (!rule || !ours)
		return rule != NULL;
	if (rule->what == WHOLE)
		c->elements = sdscatlen(c->elements, w->start, (size_t)(w->p - w->start));
	return noted(c, rule) && (rule->what != MOVE || note_move(c, key, words, w->argc, reply));
}

void changes_note(struct changes *c, struct slice key, struct slice commands, struct slice reply)
{
	struct command_walk w = { .p = commands.p, .end = commands.p + commands.n };
	struct resp_item item;

	c->writes++;
	while (w.p < w.end && !c->unknown) {
		w.start = w.p;
		size_t n = resp_item(w.p, w.end, &item);
		w.p += n;
		w.argc = item.n;
		if (!n || item.type != '*' || !note(c, key, &w, reply) || sdslen(c->elements) > CHANGES_BYTES)
			changes_unknown(c);
	}
}

bool changes_take(struct changes *c, sds *elements, unsigned *writes)
{
	if (!c->on || c->unknown)
		return false;
	*elements = c->elements;
	*writes = c->writes;
	c->elements = sdsempty();
	c->writes = 0;
	return true;
}
