#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "proxy/address.h"
#include "proxy/discovery_internal.h"

#define CLOCK_JITTER_US 2000 /* a clock that seems to move less than this has not moved */

static int node_by_name(const struct topology *t, const char *name)
{
	for (unsigned i = 0; t && i < t->nnodes; i++)
		if (strcmp(t->nodes[i].name, name) == 0)
			return (int)i;
	return -1;
}

/* Where each probe's node stands in the new picture: those that were there keep their order, new ones follow. */
static void choose_order(const struct discovery *d, unsigned *place)
{
	unsigned next = 0;
	char name[ADDRESS_NAME_MAX];

	for (unsigned i = 0; i < d->nprobes; i++)
		place[i] = UINT32_MAX;
	for (unsigned old = 0; d->topology && old < d->topology->nnodes; old++)
		for (unsigned i = 0; i < d->nprobes; i++) {
			address_name(name, sizeof(name), d->probes[i].at.host, d->probes[i].at.port);
			if (place[i] == UINT32_MAX && strcmp(name, d->topology->nodes[old].name) == 0) {
				place[i] = next++;
				break;
			}
		}
	for (unsigned i = 0; i < d->nprobes; i++)
		if (place[i] == UINT32_MAX)
			place[i] = next++;
}

static void fill_node(const struct discovery *d, const struct probe *p, const char *id, struct node *n)
{
	int old = -1;
	bool measured = p->round_trip_us > 0;

	address_name(n->name, sizeof(n->name), p->at.host, p->at.port);
	snprintf(n->id, sizeof(n->id), "%s", id);
	n->up = p->ok;
	if (p->peer) {
		n->addr = p->peer->addr;
		n->addr_len = p->peer->addr_len;
	}
	if (p->ok) {
		snprintf(n->run_id, sizeof(n->run_id), "%s", p->info.run_id);
		n->replicas = p->info.replicas;
		n->clock_offset_us = p->clock_offset_us;
	}
	if ((old = node_by_name(d->topology, n->name)) < 0 || strcmp(d->topology->nodes[old].id, id) != 0)
		return;
	const struct node *was = &d->topology->nodes[old];
	if (!p->ok) { /* what is known of it still holds, as far as anybody knows */
		snprintf(n->run_id, sizeof(n->run_id), "%s", was->run_id);
		n->replicas = was->replicas;
	}
	int64_t moved = n->clock_offset_us - was->clock_offset_us;
	if (!measured || llabs(moved) < CLOCK_JITTER_US + p->round_trip_us / 2)
		n->clock_offset_us = was->clock_offset_us;
}

static uint64_t layout_of(const struct topology *t)
{
	uint64_t h = XXH3_64bits(t->slot_node, sizeof t->slot_node);

	for (unsigned i = 0; i < t->nnodes; i++) {
		h = XXH3_64bits_withSeed(t->nodes[i].name, strlen(t->nodes[i].name), h);
		h = XXH3_64bits_withSeed(t->nodes[i].run_id, strlen(t->nodes[i].run_id), h);
	}
	return h;
}

struct topology *discovery_build(const struct discovery *d)
{
	struct topology *t = topology_new(d->side, (uint16_t)d->nprobes);
	unsigned *place = malloc(d->nprobes * sizeof(*place));

	choose_order(d, place);
	t->cluster = d->cluster;
	t->product = d->asked_info.product;
	t->version = d->asked_info.version;
	t->migrating = d->slots.migrating;
	t->databases = DBS_MAX;
	for (unsigned i = 0; i < d->nprobes; i++) {
		const struct probe *p = &d->probes[i];
		fill_node(d, p, d->slots.nodes[i].id, &t->nodes[place[i]]);
		t->migrating |= p->migrating;
		if (p->peer && p->peer->databases && p->peer->databases < t->databases)
			t->databases = p->peer->databases;
		if (!p->ok) {
			if (d->topology)
				db_set_join(&t->used, &d->topology->used);
			continue;
		}
		db_set_join(&t->used, &p->info.dbs);
		if (p->info.version < t->version)
			t->version = p->info.version;
		t->has_expires |= p->info.expires > 0;
	}
	for (unsigned slot = 0; slot < SLOTS; slot++)
		t->slot_node[slot] = d->slots.slot_node[slot] == NODE_NONE ? NODE_NONE : (uint16_t)place[d->slots.slot_node[slot]];
	t->layout = layout_of(t);
	free(place);
	return t;
}

static bool is_identified(const struct state_side *who, const char *id)
{
	for (unsigned i = 0; i < who->nnodes; i++)
		if (strcmp(who->nodes[i].id, id) == 0)
			return true;
	return false;
}

static void add_identity(struct state_side *who, const char *id, const char *name)
{
	if (who->nnodes == STATE_NODES || (!*id && !*name))
		return;
	snprintf(who->nodes[who->nnodes].id, sizeof(who->nodes->id), "%s", id);
	snprintf(who->nodes[who->nnodes].name, sizeof(who->nodes->name), "%s", name);
	who->nnodes++;
}

void discovery_identity(const struct discovery *d, const struct topology *t, struct state_side *who)
{
	memset(who, 0, sizeof(*who));
	who->known = true;
	who->cluster = t->cluster;
	for (unsigned i = 0; i < t->nnodes; i++)
		add_identity(who, t->cluster ? t->nodes[i].id : t->nodes[i].run_id, t->nodes[i].name);
	/* A replica may be promoted where there is no other primary to recognise the cluster by. */
	for (unsigned i = 0; t->cluster && i < d->slots.nmembers; i++)
		if (!is_identified(who, d->slots.members[i]))
			add_identity(who, d->slots.members[i], "");
	if (t->cluster || !d->probes[0].ok)
		return;
	add_identity(who, d->probes[0].info.replid[0], "");
	add_identity(who, d->probes[0].info.replid[1], "");
}

bool discovery_measure(struct discovery *d, const struct topology *t, char *down, size_t n)
{
	struct side_facts *f = &d->facts;
	bool up = true;

	f->seen = true;
	f->cluster = t->cluster;
	f->product = t->product;
	f->version = t->version;
	f->keys = 0;
	f->covered = true;
	for (unsigned i = 0; i < d->nprobes; i++)
		f->keys += d->probes[i].info.keys;
	for (unsigned slot = 0; slot < SLOTS; slot++) {
		unsigned at = d->slots.slot_node[slot];
		if (at == NODE_NONE) {
			f->covered = false;
		} else if (up && !d->probes[at].ok) {
			up = false;
			snprintf(down, n, "%s", d->probes[at].why);
		}
	}
	return up;
}

static bool node_equal(const struct node *a, const struct node *b)
{
	return strcmp(a->name, b->name) == 0 && strcmp(a->id, b->id) == 0 && strcmp(a->run_id, b->run_id) == 0 &&
	       a->addr_len == b->addr_len && memcmp(&a->addr, &b->addr, a->addr_len) == 0 && a->up == b->up &&
	       a->replicas == b->replicas && a->clock_offset_us == b->clock_offset_us;
}

bool topology_same(const struct topology *a, const struct topology *b)
{
	if (a->cluster != b->cluster || a->product != b->product || a->version != b->version || a->has_expires != b->has_expires || a->databases != b->databases || !db_set_eq(&a->used, &b->used) ||
	    a->migrating != b->migrating || a->nnodes != b->nnodes || memcmp(a->slot_node, b->slot_node, sizeof(a->slot_node)) != 0)
		return false;
	for (unsigned i = 0; i < a->nnodes; i++)
		if (!node_equal(&a->nodes[i], &b->nodes[i]))
			return false;
	return true;
}

void topology_copy(struct topology *to, const struct topology *from)
{
	to->cluster = from->cluster;
	to->product = from->product;
	to->version = from->version;
	to->generation = from->generation;
	to->layout = from->layout;
	to->has_expires = from->has_expires;
	to->databases = from->databases;
	to->used = from->used;
	to->migrating = from->migrating;
	memcpy(to->slot_node, from->slot_node, sizeof(to->slot_node));
	memcpy(to->nodes, from->nodes, from->nnodes * sizeof(*from->nodes));
}

static bool still_primary(const struct topology *t, const char *id)
{
	for (unsigned i = 0; i < t->nnodes; i++)
		if (strcmp(t->nodes[i].id, id) == 0)
			return true;
	return false;
}

const char *topology_replaced(const struct topology *old, const struct topology *t, unsigned node, uint8_t *slots)
{
	const struct node *now = &t->nodes[node];
	const char *what = NULL;

	memset(slots, 0, SLOTS);
	for (unsigned slot = 0; slot < SLOTS; slot++) {
		if (t->slot_node[slot] != node || old->slot_node[slot] == NODE_NONE)
			continue;
		const struct node *was = &old->nodes[old->slot_node[slot]];
		const char *why = NULL;
		if (strcmp(was->id, now->id) == 0) {
			if (strcmp(was->name, now->name) != 0 && !t->cluster)
				why = "another server answers";
			else if (*was->run_id && *now->run_id && strcmp(was->run_id, now->run_id) != 0)
				why = "it was restarted";
		} else if (!still_primary(t, was->id)) { /* else the slot was moved on purpose, which loses nothing */
			why = "it took the place of another primary";
		}
		slots[slot] = why != NULL;
		what = why ? why : what;
	}
	return what;
}
