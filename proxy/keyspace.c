/* Commands over the whole keyspace: SCAN, KEYS, RANDOMKEY, DBSIZE, and the keys of one slot.
 *
 * A scan walks the nodes one after another, those of the source first. A client's cursor holds what the next call needs:
 *
 *   bits 62 … 23  the cursor that the node gave     (0: begin with it)
 *   bits 22 … 13  which of the nodes
 *   bits 12 … 0   fleet->epoch, never 0
 *
 * so that it stays below 2^53 for most keyspaces: some clients take it for a double. The epoch moves whenever a key may be found elsewhere than before, or a
 * node's cursors mean nothing any more: a flip, slots or nodes that changed, a server process that was replaced. A cursor of another epoch begins
 * again. So a scan may give keys twice, as any scan may, but leaves out none that was there all the time. While a cluster is resharded that
 * may be often.
 *
 * Invariants: a scan ends only in the epoch in which its last call began, seen by a worker that knows the newest topology. Keys of a slot whose
 * authority is the other side are not shown (race 13), our own keys never. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "backfill/own_keys.h"
#include "proxy/client.h"
#include "proxy/local.h"
#include "proxy/split.h"
#include "resp/digits.h"
#include "resp/slot.h"
#include "resp/write.h"

#define EPOCH_BITS 13
#define NODE_BITS 10
#define CURSOR_BITS 40
#define NODES_ASKED_MAX (1u << NODE_BITS)

struct keyspace_parts {
	uint32_t epoch;
	bool known; /* by the newest topology */
	unsigned n;
	uint16_t slots[NODES_ASKED_MAX]; /* one that stands for each node */
};

/* --- where keys are --- */

static uint32_t epoch_now(const struct worker *w)
{
	return 1 + atomic_load(&w->fleet->epoch) % ((1u << EPOCH_BITS) - 1);
}

/* Does this worker know where keys are now? A newer topology may be on its way to it. */
static bool knows_all(const struct worker *w)
{
	for (enum side side = SIDE_SOURCE; side < SIDES; side++)
		if (w->topology[side] && w->topology[side]->layout != atomic_load(&w->fleet->layout[side]))
			return false;
	return true;
}

static unsigned look_for_parts(struct worker *w, uint16_t *slots, unsigned max)
{
	unsigned n = 0;

	for (enum side side = SIDE_SOURCE; side < SIDES; side++) {
		const struct topology *t = w->topology[side];
		uint8_t *seen = t ? calloc(t->nnodes + 1u, 1) : NULL;
		if (t && !seen)
			abort();
		for (unsigned slot = 0; t && slot < SLOTS; slot++) {
			uint16_t node = t->slot_node[slot];
			if (node == NODE_NONE || seen[node] || fleet_authority(w->fleet, (uint16_t)slot) != side)
				continue;
			seen[node] = 1;
			if (n < max)
				slots[n] = (uint16_t)slot;
			n++;
		}
		free(seen);
	}
	return n;
}

/* Looked for once in an epoch. */
static const struct keyspace_parts *parts_of(struct worker *w)
{
	struct keyspace_parts *p = w->parts;

	if (!p && !(p = w->parts = calloc(1, sizeof *p)))
		abort();
	if (p->known && p->epoch == atomic_load(&w->fleet->epoch) && knows_all(w))
		return p;
	p->epoch = atomic_load(&w->fleet->epoch);
	p->known = knows_all(w);
	p->n = look_for_parts(w, p->slots, NODES_ASKED_MAX);
	return p;
}

const uint16_t *keyspace_slots(struct worker *w, unsigned *n)
{
	const struct keyspace_parts *p = parts_of(w);

	*n = p->n < NODES_ASKED_MAX ? p->n : NODES_ASKED_MAX;
	return p->slots;
}

bool keyspace_is_divided(struct worker *w)
{
	enum side first = fleet_authority(w->fleet, 0);

	for (unsigned slot = 1; slot < SLOTS; slot++)
		if (fleet_authority(w->fleet, (uint16_t)slot) != first)
			return true;
	return false;
}

static bool is_shown(struct worker *w, struct slice key, uint16_t asked_slot)
{
	if (is_own_key(key))
		return false;
	return fleet_authority(w->fleet, slot_of(key)) == fleet_authority(w->fleet, asked_slot);
}

/* The shown ones of the n keys at p, behind out; how many is added to *count. */
static sds cat_shown(struct worker *w, sds out, const char *p, const char *end, int64_t n, uint16_t slot, int64_t *count)
{
	struct resp_item key;

	for (int64_t i = 0; i < n; i++) {
		p += resp_item(p, end, &key);
		if (!is_shown(w, key.text, slot))
			continue;
		out = resp_cat_bulk(out, key.text);
		++*count;
	}
	return out;
}

/* --- all nodes at once --- */

sds keyspace_merge_keys(struct worker *w, const struct split *s)
{
	sds keys = sdsempty();
	struct resp_item head;
	int64_t n = 0;

	for (uint32_t i = 0; i < s->parts; i++) {
		const char *p = s->part[i]->reply, *end = p + s->part[i]->reply_len;
		p += resp_item(p, end, &head);
		keys = cat_shown(w, keys, p, end, head.n, s->part[i]->slot, &n);
	}
	sds out = sdscatsds(resp_cat_len(sdsempty(), '*', n), keys);
	sdsfree(keys);
	return out;
}

/* One of those that the nodes gave, each as likely: nodes have about as many keys as others. */
sds keyspace_merge_random(struct worker *w, const struct split *s)
{
	uint64_t count = atomic_load_explicit(&w->stats->commands, memory_order_relaxed);
	struct resp_item key, chosen = { .type = '_' };
	unsigned n = 0;

	for (uint32_t i = 0; i < s->parts; i++) {
		const char *p = s->part[i]->reply;
		if (!resp_item(p, p + s->part[i]->reply_len, &key) || key.type != '$' || !is_shown(w, key.text, s->part[i]->slot))
			continue;
		if (XXH3_64bits_withSeed(&count, sizeof count, i) % ++n == 0)
			chosen = key;
	}
	return chosen.type == '$' ? resp_cat_bulk(sdsempty(), chosen.text) : sdsnew("_\r\n");
}

/* Each side holds all keys: only by slot can it be told which count. */
void keyspace_count(struct worker *w, struct split *s)
{
	for (unsigned slot = 0; slot < SLOTS; slot++) {
		char number[8];
		snprintf(number, sizeof number, "%u", slot);
		sds words = resp_cat_words(sdsempty(), "CLUSTER", "COUNTKEYSINSLOT", number, NULL);
		struct block *b = block_copy(words, sdslen(words));
		split_add(w, s, (uint16_t)slot, b, b->data, b->used);
		block_unref(b);
		sdsfree(words);
	}
}

/* It is on the target, in one database; the others' answer is 0. */
void keyspace_count_own(struct worker *w, struct split *s)
{
	uint16_t slot = slot_of(SLICE_LIT(MARKER_KEY));

	if (fleet_authority(w->fleet, slot) != SIDE_TARGET)
		return;
	sds words = resp_cat_words(sdsempty(), "EXISTS", MARKER_KEY, NULL);
	struct block *b = block_copy(words, sdslen(words));
	split_add(w, s, slot, b, b->data, b->used);
	block_unref(b);
	sdsfree(words);
	s->own = true;
}

/* --- inside a transaction, of one server --- */

bool keyspace_hides(const struct command *cmd)
{
	return cmd->merge == MERGE_COUNT || cmd->merge == MERGE_KEYS || cmd->merge == MERGE_RANDOM;
}

sds keyspace_cat_element(sds out, const struct command *cmd, uint8_t proto, struct slice reply, struct slice own)
{
	const char *p = reply.p, *end = p + reply.n;
	struct resp_item head, item;
	sds keys = sdsempty();
	int64_t n = 0;

	p += resp_item(p, end, &head);
	if (cmd->merge == MERGE_COUNT && head.type == ':' && resp_item(own.p, own.p + own.n, &item) && item.type == ':') {
		out = resp_cat_len(out, ':', head.n - item.n);
	} else if (cmd->merge == MERGE_KEYS && head.type == '*') {
		for (int64_t i = 0; i < head.n; i++) {
			p += resp_item(p, end, &item);
			if (is_own_key(item.text))
				continue;
			keys = resp_cat_bulk(keys, item.text);
			n++;
		}
		out = sdscatsds(resp_cat_len(out, '*', n), keys);
	} else if (head.type == '_' || (head.type == '$' && is_own_key(head.text))) {
		out = resp_cat_null(out, proto);
	} else {
		out = sdscatlen(out, reply.p, reply.n);
	}
	sdsfree(keys);
	return out;
}

/* --- SCAN --- */

static uint64_t cursor_of(uint32_t epoch, unsigned at, uint64_t node_cursor)
{
	assert(epoch && epoch < 1u << EPOCH_BITS && at < NODES_ASKED_MAX && node_cursor >> CURSOR_BITS == 0);
	return node_cursor << (NODE_BITS + EPOCH_BITS) | (uint64_t)at << EPOCH_BITS | epoch;
}

/* As the servers read it: strtoul, the whole word. */
static bool parse_cursor(struct slice word, uint64_t *n)
{
	char text[32], *end;

	if (word.n >= sizeof text || memchr(word.p, '\0', word.n))
		return false;
	memcpy(text, word.p, word.n);
	text[word.n] = '\0';
	errno = 0;
	*n = strtoul(text, &end, 10);
	return !*end && !errno && text[0] != ' ' && (text[0] < '\t' || text[0] > '\r');
}

static sds cat_cursor(sds s, uint64_t n)
{
	char text[24];
	int len = snprintf(text, sizeof text, "%llu", (unsigned long long)n);

	return resp_cat_bulk(s, slice(text, (size_t)len));
}

/* One part: the request with the node's own cursor in it. */
static void send_part(struct worker *w, struct split *s, uint32_t argc, uint16_t slot, uint64_t cursor)
{
	sds words = resp_cat_bulk(resp_cat_len(sdsempty(), '*', argc), w->argv[0]);

	words = cat_cursor(words, cursor);
	for (uint32_t i = 2; i < argc; i++)
		words = resp_cat_bulk(words, w->argv[i]);
	struct block *b = block_copy(words, sdslen(words));
	split_add(w, s, slot, b, b->data, b->used);
	block_unref(b);
	sdsfree(words);
	split_submit(w, s);
}

void scan_request(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc, struct req *whole)
{
	unsigned n;
	const uint16_t *slots = keyspace_slots(w, &n);
	uint64_t cursor, node_cursor = 0;

	if (!parse_cursor(w->argv[1], &cursor)) {
		client_error(w, c, "ERR invalid cursor");
		req_free(w, whole);
		return;
	}
	struct split *s = split_new(cmd, whole, 1);
	client_enqueue(c, whole);
	s->epoch = knows_all(w) ? epoch_now(w) : 0;
	if (s->epoch && (cursor & ((1u << EPOCH_BITS) - 1)) == s->epoch && (cursor >> EPOCH_BITS & (NODES_ASKED_MAX - 1)) < n) {
		s->at = (uint16_t)(cursor >> EPOCH_BITS & (NODES_ASKED_MAX - 1));
		node_cursor = cursor >> (NODE_BITS + EPOCH_BITS);
	}
	send_part(w, s, argc, slots[s->at], node_cursor);
}

/* The cursor behind a node's answer; 0 when this was the last. */
static uint64_t next_cursor(struct worker *w, const struct split *s, uint64_t node_cursor)
{
	unsigned n;

	if (!knows_all(w) || s->epoch != epoch_now(w))
		return cursor_of(epoch_now(w), 0, 0); /* keys may have moved meanwhile: from the beginning */
	if (node_cursor)
		return cursor_of(s->epoch, s->at, node_cursor);
	keyspace_slots(w, &n);
	return s->at + 1u < n ? cursor_of(s->epoch, s->at + 1u, 0) : 0;
}

sds keyspace_merge_scan(struct worker *w, const struct split *s)
{
	const struct req *part = s->part[0];
	const char *p = part->reply, *end = p + part->reply_len;
	struct resp_item head, cursor, keys;
	uint64_t node_cursor;
	int64_t n = 0;

	p += resp_item(p, end, &head);
	p += resp_item(p, end, &cursor);
	p += resp_item(p, end, &keys);
	if (!parse_cursor(cursor.text, &node_cursor) || node_cursor >> CURSOR_BITS)
		return resp_cat_error(sdsempty(), "ERR crossfade: the node's cursor is beyond 2^40");
	sds shown = cat_shown(w, sdsempty(), p, end, keys.n, part->slot, &n);
	sds out = cat_cursor(sdsnew("*2\r\n"), next_cursor(w, s, node_cursor));
	out = sdscatsds(resp_cat_len(out, '*', n), shown);
	sdsfree(shown);
	return out;
}

/* --- one slot --- */

/* CLUSTER COUNTKEYSINSLOT, GETKEYSINSLOT. What is no slot is any node's to word. */
void slot_request(struct worker *w, struct client *c, const struct command *cmd, struct req *whole)
{
	struct split *s;
	int64_t slot;

	if (!local_identity(w).cluster) {
		client_error(w, c, "ERR This instance has cluster support disabled");
		req_free(w, whole);
		return;
	}
	if (!resp_string_to_int(w->argv[2].p, w->argv[2].n, &slot) || slot < 0 || slot >= SLOTS)
		slot = 0;
	s = split_new(cmd, whole, 1);
	client_enqueue(c, whole);
	split_add(w, s, (uint16_t)slot, whole->block, whole->bytes, whole->len);
	split_submit(w, s);
}
