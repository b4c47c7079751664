#include "backfill/topology.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

struct topology *topology_new(enum side side, uint16_t nnodes)
{
	struct topology *t = calloc(1, sizeof(*t));
	struct node *nodes = calloc(nnodes ? nnodes : 1, sizeof(*nodes));

	if (!t || !nodes) {
		fputs("out of memory\n", stderr);
		abort();
	}
	atomic_init(&t->refs, 1);
	t->side = side;
	t->nnodes = nnodes;
	t->nodes = nodes;
	for (unsigned i = 0; i < SLOTS; i++)
		t->slot_node[i] = NODE_NONE;
	return t;
}

struct topology *topology_ref(struct topology *t)
{
	int before = atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);

	assert(before > 0);
	(void)before;
	return t;
}

void topology_unref(struct topology *t)
{
	if (!t)
		return;
	/* acq_rel: what other threads did with the picture happens before it is freed. */
	int before = atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel);
	assert(before > 0);
	if (before != 1)
		return;
	free(t->nodes);
	free(t);
}
