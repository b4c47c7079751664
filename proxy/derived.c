#include "proxy/derived.h"

void derived_command_release(struct derived_command *c)
{
	for (unsigned i = 0; i < c->n; i++)
		sdsfree(c->keys[i].key);
	c->n = 0;
}

struct derived_command *derived_add(struct derived *d, int64_t now_us)
{
	struct derived_command *c = &d->ring[d->next];

	if (c->n && now_us - c->at_us < DERIVED_YOUNG_US)
		return NULL;
	derived_command_release(c);
	c->at_us = now_us;
	d->next = (d->next + 1) % DERIVED_MAX;
	if (d->used < DERIVED_MAX)
		d->used++;
	return c;
}

bool derived_take(struct derived *d, keyhash h, struct derived_command *out)
{
	for (unsigned i = 0; i < d->used; i++) {
		struct derived_command *c = &d->ring[i];
		for (unsigned k = 0; k < c->n; k++) {
			if (!keyhash_eq(c->keys[k].hash, h))
				continue;
			*out = *c;
			c->n = 0;
			return true;
		}
	}
	return false;
}

void derived_release(struct derived *d)
{
	for (unsigned i = 0; i < d->used; i++)
		derived_command_release(&d->ring[i]);
	d->used = d->next = 0;
}
