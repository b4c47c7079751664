/* effect_spread.c - a standalone authority takes commands with keys of several slots, a follower that is a cluster does not: what each slot gets. */
#include <stdlib.h>

#include "proxy/effect_rules.h"
#include "resp/convert.h"
#include "resp/slot.h"

struct spread {
	struct effect_part *part;
	uint32_t n;
};

/* The part takes the builder's command. */
static struct effect *part_add(struct spread *s, uint16_t slot, struct builder *b, uint32_t traits)
{
	struct effect_part *p;

	s->part = realloc(s->part, (s->n + 1) * sizeof *s->part);
	if (!s->part)
		abort();
	p = &s->part[s->n++];
	*p = (struct effect_part){ .slot = slot, .traits = traits };
	build_finish(b, &p->effect);
	p->effect.whole = !(traits & CMD_BUILDS);
	p->effect.unproven = traits & CMD_UNPROVEN;
	return &p->effect;
}

static void build_pair(struct builder *b, const char *name, struct slice key, struct slice word)
{
	build_command(b, 3);
	build_text(b, name);
	build_word(b, key);
	build_word(b, word);
}

static void part_del(struct spread *s, struct slice key, bool was_there)
{
	struct builder b = { 0 };
	struct effect *e;

	build_command(&b, 2);
	build_text(&b, "DEL");
	build_word(&b, key);
	e = part_add(s, slot_of(key), &b, 0);
	if (was_there) {
		e->expect = EXPECT_INT;
		e->expect_n = 1;
	}
}

struct keyed {
	uint16_t slot;
	uint32_t at; /* the key's index in argv */
};

static int by_slot(const void *a, const void *b)
{
	const struct keyed *x = a, *y = b;

	if (x->slot != y->slot)
		return x->slot < y->slot ? -1 : 1;
	return x->at < y->at ? -1 : x->at > y->at;
}

/* The same command with the keys of each slot, in the order of the request: of a key that is there twice the last value counts. */
static void spread_keys(const struct effect_call *call, struct slice reply, struct spread *s)
{
	uint32_t first = command_first_key(call->cmd), step = (uint32_t)call->cmd->specs[0].b, nkeys = (call->argc - first) / step;
	struct keyed *k = calloc(nkeys, sizeof *k);
	struct resp_item said = reply_first(reply);

	if (!k)
		abort();
	for (uint32_t i = 0; i < nkeys; i++)
		k[i] = (struct keyed){ slot_of(call->argv[first + i * step]), first + i * step };
	qsort(k, nkeys, sizeof *k, by_slot);
	for (uint32_t i = 0, n; i < nkeys; i += n) {
		struct builder b = { 0 };
		for (n = 1; i + n < nkeys && k[i + n].slot == k[i].slot; n++)
			;
		build_command(&b, 1 + n * step);
		build_word(&b, call->argv[0]);
		for (uint32_t j = i; j < i + n; j++)
			build_words(&b, &call->argv[k[j].at], step);
		struct effect *e = part_add(s, k[i].slot, &b, 0);
		if (said.type == ':' && said.n == nkeys) { /* each was there */
			e->expect = EXPECT_INT;
			e->expect_n = n;
		}
	}
	free(k);
}

static void spread_rename(const struct effect_call *call, struct slice reply, struct spread *s)
{
	(void)reply;
	part_del(s, call->argv[1], true);
}

/* LMOVE from to LEFT|RIGHT LEFT|RIGHT; RPOPLPUSH from to. */
static void spread_move(const struct effect_call *call, struct slice reply, struct spread *s)
{
	bool pops_left = call->argc == 5 && slice_is(call->argv[3], "LEFT"), pushes_left = call->argc == 3 || slice_is(call->argv[4], "LEFT");
	struct builder b = { 0 };
	struct reply_walk w = reply_walk(reply);
	struct resp_item item;

	if (!reply_next(&w, &item) || item.type != '$')
		return;
	build_command(&b, 2);
	build_text(&b, pops_left ? "LPOP" : "RPOP");
	build_word(&b, call->argv[1]);
	build_want(&b, reply);
	part_add(s, slot_of(call->argv[1]), &b, CMD_BUILDS);
	build_pair(&b, pushes_left ? "LPUSH" : "RPUSH", call->argv[2], item.text);
	part_add(s, slot_of(call->argv[2]), &b, CMD_BUILDS | CMD_UNPROVEN);
}

static void spread_smove(const struct effect_call *call, struct slice reply, struct spread *s)
{
	struct builder b = { 0 };
	struct effect *e;

	(void)reply;
	build_pair(&b, "SREM", call->argv[1], call->argv[3]);
	e = part_add(s, slot_of(call->argv[1]), &b, CMD_BUILDS);
	e->expect = EXPECT_INT;
	e->expect_n = 1;
	build_pair(&b, "SADD", call->argv[2], call->argv[3]);
	part_add(s, slot_of(call->argv[2]), &b, CMD_BUILDS | CMD_UNPROVEN);
}

static void spread_store(const struct effect_call *call, struct slice reply, struct spread *s)
{
	struct resp_item said = reply_first(reply);
	struct key_ref keys[8];
	int n = command_keys(call->cmd, call->argc, call->argv, keys, 8);

	if (said.type != ':' || said.n != 0)
		return;
	for (int i = 0; i < n && i < 8; i++)
		if (keys[i].flags & KEY_WRITES)
			part_del(s, call->argv[keys[i].index], false);
}

typedef void spread_rule(const struct effect_call *call, struct slice reply, struct spread *s);
static spread_rule *const rules[] = {
	[REWRITE_SPREAD_KEYS] = spread_keys,   [REWRITE_SPREAD_RENAME] = spread_rename, [REWRITE_SPREAD_MOVE] = spread_move,
	[REWRITE_SPREAD_SMOVE] = spread_smove, [REWRITE_SPREAD_STORE] = spread_store,
};

/* A restated effect is of one slot already (LMPOP: the LPOP of the key that was served), or a command that can be split itself (MSETNX: MSET), or neither. */
static void spread_block(const struct effect_call *call, struct slice reply, const struct effect *whole, struct spread *s)
{
	struct resp_request p;
	struct effect_call inner = *call;
	struct key_ref keys[8];
	struct slice argv[64];

	if (whole->ncommands != 1)
		return;
	resp_request_init(&p, &resp_default_limits);
	if (resp_request_parse(&p, whole->block, sdslen(whole->block)) == RESP_OK && p.argc <= 64) {
		for (uint32_t i = 0; i < p.argc; i++)
			argv[i] = resp_request_arg(&p, whole->block, i);
		inner.argc = p.argc;
		inner.argv = argv;
		inner.cmd = command_find(argv[0]);
		if (inner.cmd && inner.cmd->rewrite == REWRITE_SPREAD_KEYS) {
			spread_keys(&inner, reply, s);
		} else if (inner.cmd && command_keys(inner.cmd, inner.argc, argv, keys, 8) == 1) {
			struct builder b = { 0 };
			build_command(&b, inner.argc);
			build_words(&b, argv, inner.argc);
			struct effect *e = part_add(s, slot_of(argv[keys[0].index]), &b, effect_traits(&inner));
			e->expect = whole->expect;
			e->expect_n = whole->expect_n;
			e->expect_digest = whole->expect_digest;
			e->whole = whole->whole;
			e->unproven = whole->unproven;
		}
	}
	resp_request_release(&p);
}

struct effect_part *effect_spread(const struct effect_call *call, struct slice reply, const struct effect *whole, uint32_t *n, bool *rest)
{
	struct spread s = { NULL, 0 };
	uint8_t rule = call->cmd->rewrite;

	if (whole->kind == EFFECT_IS_BLOCK)
		spread_block(call, reply, whole, &s);
	else if (whole->kind == EFFECT_IS_SAME && rule < sizeof rules / sizeof rules[0] && rules[rule])
		rules[rule](call, reply, &s);
	*n = s.n;
	*rest = whole->kind == EFFECT_IS_SAME; /* what is restated names all that was changed */
	return s.part;
}
