#include "proxy/side.h"

#include <stdio.h>
#include <stdlib.h>

static void ignore_up(void *ctx, struct upstream *u)
{
	(void)ctx;
	(void)u; /* what waits in its queue goes out now */
}

static void ignore_lost(void *ctx, struct upstream *u, const char *why, bool was_up)
{
	(void)ctx;
	(void)u;
	(void)why;
	(void)was_up;
}

static bool ignore_push(void *ctx, struct upstream *u, struct slice push)
{
	(void)ctx;
	(void)u;
	(void)push;
	return false;
}

void side_init(struct side_connections *s, struct worker *w, const char *suffix)
{
	s->owner = w->owner;
	snprintf(s->name, sizeof s->name, "%s-%s", w->name, suffix);
	s->owner.client_name = s->name;
	s->owner.before_write = NULL; /* no write of a client passes here */
	s->owner.formers = NULL;
	s->owner.pushed = ignore_push;
	s->owner.up = ignore_up;
	s->owner.lost = ignore_lost;
	s->owner.latency = NULL;
}

struct upstream *side_to(struct side_connections *s, const struct upstream *data, bool *made)
{
	struct upstream *u;

	*made = false;
	for (unsigned i = 0; i < s->n; i++) {
		u = s->nodes[i];
		if (u->side == data->side && strcmp(u->name, data->name) == 0) {
			upstream_set_addr(u, &data->addr, data->addr_len);
			return u;
		}
	}
	*made = true;
	s->nodes = realloc(s->nodes, (s->n + 1) * sizeof *s->nodes);
	if (!s->nodes)
		abort();
	u = s->nodes[s->n++] = upstream_new(&s->owner, data->side, data->name);
	upstream_set_addr(u, &data->addr, data->addr_len);
	return u;
}

void side_release(struct side_connections *s)
{
	for (unsigned i = 0; i < s->n; i++)
		upstream_close(s->nodes[i]);
	for (unsigned i = 0; i < s->n; i++)
		upstream_free(s->nodes[i]);
	free(s->nodes);
	s->nodes = NULL;
	s->n = 0;
}
