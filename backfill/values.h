/* values.h - a cursor over the values of a complete reply. Internal to backfill/. */
#ifndef CROSSFADE_VALUES_H
#define CROSSFADE_VALUES_H

#include <stdlib.h>

#include "resp/parse.h"

struct values {
	const char *p, *end;
};

static inline struct values values_over(struct slice reply)
{
	return (struct values){ reply.p, reply.p + reply.n };
}

/* The next header, with the body of a scalar; the children of an aggregate come next. */
static inline bool values_item(struct values *w, struct resp_item *item)
{
	size_t n = resp_item(w->p, w->end, item);

	w->p += n;
	return n > 0;
}

/* The next value whole, children included; n is 0 at the end. */
static inline struct slice values_whole(struct values *w)
{
	struct slice v = slice(w->p, resp_value_len(w->p, w->end));

	w->p += v.n;
	return v;
}

/* The header of an aggregate of any kind: its number of children, or -1 if it is none. */
static inline int64_t values_children(struct values *w)
{
	struct resp_item item;

	if (!values_item(w, &item) || !item.type || !strchr("*~%>", item.type))
		return -1;
	return item.n;
}

/* A scalar's text; p is NULL if there is none (null, aggregate, end). Integers have no text here. */
static inline struct slice values_text(struct values *w)
{
	struct resp_item item;

	if (!values_item(w, &item) || !item.type || !strchr("$+,=(", item.type))
		return slice(NULL, 0);
	return item.n == 0 && item.text.n == 0 ? slice("", 0) : item.text;
}

static inline bool values_int(struct values *w, int64_t *v)
{
	struct resp_item item;

	if (!values_item(w, &item) || item.type != ':')
		return false;
	*v = item.n;
	return true;
}

#endif
