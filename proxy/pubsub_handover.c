/* Subscriptions of clients on their way from one process to another. */
#include <stdlib.h>

#include "proxy/handover.h"
#include "proxy/pubsub_internal.h"

void pubsub_hand(const struct client *c, struct handed *h)
{
	for (unsigned kind = 0; c->pubsub && kind < TOPIC_KINDS; kind++)
		for (const struct link *l = c->pubsub->links[kind]; l; l = l->hh.next)
			handed_add(&h->topics, (uint8_t)kind, l->topic->name, sdslen(l->topic->name));
}

/* No confirmation is due: it holds from now on. */
void pubsub_restore(struct pubsub *p, struct client *c, enum topic_kind kind, struct slice name)
{
	if (!c->pubsub && !(c->pubsub = calloc(1, sizeof *c->pubsub)))
		abort();
	topic_join(topic_get(p, kind, name), c);
}

bool pubsub_stands(const struct pubsub *p)
{
	for (unsigned kind = 0; kind < TOPIC_KINDS; kind++)
		for (const struct topic *t = p->topics[kind]; t; t = t->hh.next)
			if (!ears_confirmed(t))
				return false;
	return true;
}
