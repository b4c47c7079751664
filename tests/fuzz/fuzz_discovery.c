/* fuzz_discovery.c - what servers say about themselves: any complete reply is read as each of INFO, CLUSTER SLOTS, CLUSTER NODES and TIME without a fault, and what is
 * taken from CLUSTER SLOTS and NODES is consistent. */
#include <stdlib.h>
#include <string.h>

#include "proxy/discovery_parse.h"
#include "resp/parse.h"

#define CHECK(cond) do { if (!(cond)) abort(); } while (0)

static const struct resp_limits limits = { .max_args = 1000, .max_bulk = 4000, .max_inline = 1000, .max_depth = 8 };

static bool ends(const char *text, size_t cap)
{
	return memchr(text, '\0', cap) != NULL;
}

/* Not counted as coverage: a loop over all slots says nothing of what was read, and its counting was half of a run. */
__attribute__((no_sanitize("coverage")))
static void check_slots(const struct cluster_slots *c)
{
	CHECK(c->nnodes <= c->cap);
	for (unsigned i = 0; i < c->nnodes; i++)
		CHECK(ends(c->nodes[i].id, sizeof c->nodes[i].id));
	for (unsigned s = 0; s < SLOTS; s++)
		CHECK(c->slot_node[s] == NODE_NONE || c->slot_node[s] < c->nnodes);
}

static void read_as_all(struct slice reply)
{
	struct server_info info;
	struct slot_set has, moving;
	struct cluster_slots c;

	if (info_parse(reply, &info))
		CHECK(ends(info.run_id, sizeof info.run_id) && ends(info.replid[0], sizeof info.replid[0]) && ends(info.replid[1], sizeof info.replid[1]));
	if (cluster_slots_parse(reply, "asked", &c)) {
		check_slots(&c);
		cluster_nodes_parse(reply, "asked", &c);
		check_slots(&c);
	}
	cluster_slots_release(&c);
	cluster_nodes_migrating(reply);
	cluster_nodes_claims(reply, &has, &moving);
	time_parse(reply);
}

/* CLUSTER NODES behind an empty CLUSTER SLOTS, which takes no text. */
static void read_nodes(struct slice reply)
{
	struct cluster_slots c;

	if (cluster_slots_parse(SLICE_LIT("*0\r\n"), "asked", &c)) {
		cluster_nodes_parse(reply, "asked", &c);
		check_slots(&c);
	}
	cluster_slots_release(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *copy = malloc(size ? size : 1);
	struct resp_reply r;

	CHECK(copy);
	memcpy(copy, data, size);
	resp_reply_init(&r, &limits);
	if (resp_reply_parse(&r, copy, size) == RESP_OK && r.used == size) {
		read_as_all(slice(copy, size));
		read_nodes(slice(copy, size));
	}
	free(copy);
	return 0;
}
