#include "proxy/cut.h"

#include <assert.h>
#include <stdlib.h>

#include "proxy/knot.h"
#include "resp/slot.h"
#include "resp/words.h"
#include "resp/write.h"

enum stage { COUNT, FILL, SUBMIT };

struct cut {
	struct cut *next;       /* worker->cuts */
	struct split *split;    /* and its whole, whose bytes are read: there until the last part is answered */
	uint16_t *part_of;      /* by slot: its part, counted from 1; 0: none. The worker's, if all is done at once */
	bool large;
	uint32_t *keys;         /* of each part */
	const char *name;       /* the first word, with its header */
	size_t name_len;
	const char *first, *at; /* the first key's word; the next to be looked at */
	uint32_t next_key, step;
	enum stage stage;
};

static const char *behind(const char *p, uint32_t words)
{
	while (words--)
		resp_word(p, &p);
	return p;
}

static uint16_t part_for(struct worker *w, struct cut *c, uint16_t slot)
{
	if (!c->part_of[slot]) {
		split_add(w, c->split, slot, NULL, NULL, 0);
		c->part_of[slot] = (uint16_t)c->split->parts;
	}
	return (uint16_t)(c->part_of[slot] - 1);
}

static void count_key(struct worker *w, struct cut *c)
{
	const char *at = c->at, *next;
	uint16_t part = part_for(w, c, slot_of(resp_word(at, &next)));

	c->at = behind(next, c->step - 1);
	c->split->part[part]->len += (size_t)(c->at - at);
	c->split->order[c->next_key] = part;
	c->keys[part]++;
}

static void fill_key(struct cut *c)
{
	const char *at = c->at;
	struct block *b = c->split->part[c->split->order[c->next_key]]->block;

	c->at = behind(at, c->step);
	memcpy(b->data + b->used, at, (size_t)(c->at - at));
	b->used += (size_t)(c->at - at);
}

/* Every part's size is known: room for it, its header and the command's name. */
static void make_room(struct worker *w, struct cut *c)
{
	bool knots = false; /* of its parts some (knot.h): few are, so all of the client waits */

	for (uint32_t i = 0; i < c->split->parts; i++) {
		struct req *part = c->split->part[i];
		knots |= c->keys[i] > 1;
		sds head = resp_cat_len(sdsempty(), '*', 1 + (int64_t)c->keys[i] * c->step);
		part->block = block_new(sdslen(head) + c->name_len + part->len);
		memcpy(part->block->data, head, sdslen(head));
		memcpy(part->block->data + sdslen(head), c->name, c->name_len);
		part->block->used = sdslen(head) + c->name_len;
		part->len += part->block->used;
		part->bytes = part->block->data;
		sdsfree(head);
	}
	if (knots)
		knot_whole(w, c->split->whole, c->split->part[0]->slot);
}

static void forget_slots(struct cut *c)
{
	for (uint32_t i = 0; i < c->split->parts; i++)
		c->part_of[c->split->part[i]->slot] = 0;
}

static void enter(struct worker *w, struct cut *c, enum stage stage)
{
	if (stage == FILL) {
		make_room(w, c);
		forget_slots(c);
	}
	c->stage = stage;
	c->next_key = 0;
	c->at = c->first;
}

static void cut_free(struct cut *c)
{
	if (c->large)
		free(c->part_of);
	free(c->keys);
	free(c);
}

static void submit(struct worker *w, struct req *part)
{
	assert(part->block->used == part->len);
	worker_submit(w, part);
}

/* True: it is done. */
static bool run(struct worker *w, struct cut *c)
{
	struct split *s = c->split;
	uint32_t nkeys = s->nkeys, parts;

	for (int64_t left = CUT_SLICE; left > 0; left--) {
		if (c->stage < SUBMIT && c->next_key == nkeys) {
			enter(w, c, c->stage + 1);
			if (c->stage == SUBMIT)
				s->left = s->parts;
		}
		switch (c->stage) {
		case COUNT:
			count_key(w, c);
			break;
		case FILL:
			fill_key(c);
			break;
		case SUBMIT:
			parts = s->parts; /* the last answer ends the split, and may come before submit() returns */
			left -= c->keys[c->next_key]; /* each is looked at by who mirrors it */
			submit(w, s->part[c->next_key]);
			if (c->next_key + 1 == parts)
				return true;
			break;
		}
		c->next_key++;
	}
	return false;
}

static void put_last(struct worker *w, struct cut *c)
{
	struct cut **end = &w->cuts;

	while (*end)
		end = &(*end)->next;
	c->next = NULL;
	*end = c;
}

static uint16_t *slots_new(void)
{
	uint16_t *slots = calloc(SLOTS, sizeof *slots);

	if (!slots)
		abort();
	return slots;
}

void cut_request(struct worker *w, struct split *s, uint32_t first, uint32_t step)
{
	struct cut *c = calloc(1, sizeof *c);
	const char *behind_name;

	assert(s->nkeys > 0 && s->whole->bytes[0] == '*');
	if (!c || !(c->keys = calloc(s->nkeys < SLOTS ? s->nkeys : SLOTS, sizeof *c->keys)))
		abort();
	if (!w->cut_slots)
		w->cut_slots = slots_new();
	c->large = s->nkeys > CUT_SLICE;
	c->part_of = c->large ? slots_new() : w->cut_slots;
	c->split = s;
	c->step = step;
	c->name = (const char *)memchr(s->whole->bytes, '\n', s->whole->len) + 1;
	resp_word(c->name, &behind_name);
	c->name_len = (size_t)(behind_name - c->name);
	c->at = c->first = behind(c->name, first);
	if (c->large) {
		put_last(w, c);
		return;
	}
	while (!run(w, c))
		;
	cut_free(c);
}

void cuts_turn(struct worker *w)
{
	struct cut *c = w->cuts;

	if (!c)
		return;
	w->cuts = c->next;
	if (run(w, c))
		cut_free(c);
	else
		put_last(w, c);
}

void cuts_free(struct worker *w)
{
	for (struct cut *c = w->cuts, *next; c; c = next) {
		next = c->next;
		if (!c->split->parts) /* else its first part has it freed (worker_release) */
			split_free(c->split);
		cut_free(c);
	}
	w->cuts = NULL;
	free(w->cut_slots);
}
