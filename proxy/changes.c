#include "proxy/changes.h"

#include <string.h>
#include <strings.h>

#include "resp/write.h"

/* The words of a command that are names of elements: from `first`, every `step`-th; step 0: only that one. */
static const struct rule {
	const char *verb;
	unsigned first, step;
} rules[] = {
	{ "HSET", 2, 2 },    { "HMSET", 2, 2 },        { "HSETNX", 2, 0 }, { "HDEL", 2, 1 },    { "HINCRBY", 2, 0 },
	{ "SADD", 2, 1 },    { "SREM", 2, 1 },         { "ZREM", 2, 1 },   { "ZINCRBY", 3, 0 }, { "HINCRBYFLOAT", 2, 0 },
	{ "ZADD", 3, 2 },    { "PEXPIREAT", 0, 0 },    { "PERSIST", 0, 0 }, /* the expiry is read again anyway */
	{ "MULTI", 0, 0 },   { "EXEC", 0, 0 },
};

void changes_begin(struct changes *c, keyhash key)
{
	changes_end(c);
	*c = (struct changes){ .on = true, .key = key, .elements = sdsempty() };
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

/* One command, behind the header of its array. False: not understood. */
static bool note(struct changes *c, const char **p, const char *end, int64_t argc)
{
	const struct rule *rule = NULL;
	struct resp_item item;
	unsigned next = 0, step = 0;

	for (unsigned i = 0; i < argc; i++) {
		size_t n = resp_item(*p, end, &item);
		if (!n || item.type != '$')
			return false;
		*p += n;
		if (i == 0) {
			if (!(rule = rule_of(item.text)))
				return false;
			next = rule->first;
			step = rule->step;
		} else if (i + 1 == next && rule->first == 3 && step && is_option(item.text)) {
			next++;
		} else if (next && i == next) {
			c->elements = resp_cat_bulk(c->elements, item.text);
			next = step ? next + step : 0;
		}
	}
	return true;
}

void changes_note(struct changes *c, struct slice commands)
{
	const char *p = commands.p, *end = p + commands.n;
	struct resp_item item;

	c->writes++;
	while (p < end && !c->unknown) {
		size_t n = resp_item(p, end, &item);
		p += n;
		if (!n || item.type != '*' || !note(c, &p, end, item.n) || sdslen(c->elements) > CHANGES_BYTES)
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
