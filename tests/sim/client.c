/* Who writes: clients of the proxy, through the engine, and bypassers, straight on a node. Both draw from the same commands. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "resp/parse.h"
#include "resp/slot.h"
#include "resp/write.h"

enum shape { SHAPE_KEY, SHAPE_VALUE, SHAPE_TTL, SHAPE_FIELD, SHAPE_FIELD_VALUE, SHAPE_MEMBER, SHAPE_LIFE, SHAPE_TWO, SHAPE_THREE, SHAPE_MOVE, SHAPE_SCRIPT, SHAPE_OPTION };

static const struct kind {
	const char *name;
	enum shape shape;
	const char *option;
	bool expires, script;
} kinds[] = {
	{ "SET", SHAPE_VALUE, NULL, false, false },    { "SET", SHAPE_TTL, NULL, true, false },       { "SET", SHAPE_OPTION, "KEEPTTL", false, false },
	{ "SET", SHAPE_OPTION, "NX", false, false },   { "INCR", SHAPE_KEY, NULL, false, false },     { "INCR", SHAPE_KEY, NULL, false, false },
	{ "APPEND", SHAPE_VALUE, NULL, false, false }, { "HSET", SHAPE_FIELD_VALUE, NULL, false, false }, { "HSET", SHAPE_FIELD_VALUE, NULL, false, false },
	{ "HDEL", SHAPE_FIELD, NULL, false, false },   { "SADD", SHAPE_MEMBER, NULL, false, false },  { "SADD", SHAPE_MEMBER, NULL, false, false },
	{ "SREM", SHAPE_MEMBER, NULL, false, false },  { "SPOP", SHAPE_KEY, NULL, false, false },     { "DEL", SHAPE_KEY, NULL, false, false },
	{ "RENAME", SHAPE_TWO, NULL, false, false },   { "COPY", SHAPE_TWO, "REPLACE", false, false }, { "SUNIONSTORE", SHAPE_THREE, NULL, false, false },
	{ "PEXPIRE", SHAPE_LIFE, NULL, true, false },  { "PEXPIRE", SHAPE_LIFE, NULL, true, false },  { "PERSIST", SHAPE_KEY, NULL, true, false },
	{ "GET", SHAPE_KEY, NULL, false, false },      { "DEL", SHAPE_TWO, NULL, false, false },      { "SMOVE", SHAPE_MOVE, NULL, false, false },
	{ "EVAL", SHAPE_SCRIPT, NULL, false, true },
	{ "EVAL", SHAPE_SCRIPT, NULL, false, true },
};
#define KINDS (sizeof kinds / sizeof *kinds)

static const char *text_of(struct world *w, char *out, size_t n, uint64_t limit)
{
	snprintf(out, n, "%u", (unsigned)rnd(w, limit));
	return out;
}

/* Lives of a few milliseconds, so that they end during the run; some long ones. */
static const char *life_of(struct world *w, char *out, size_t n, bool absolute)
{
	int64_t ms = one_in(w, 4) ? 3600000 : 2 + (int64_t)rnd(w, 60);

	snprintf(out, n, "%lld", (long long)(absolute ? EPOCH_MS + w->now_us / 1000 + ms : ms));
	return out;
}

/* `absolute`: a bypasser's command is executed as it is, the model knows no PEXPIRE. */
static sds write_command(struct world *w, const struct kind *k, int key, int second, int third, bool absolute)
{
	char a[24], b[24];
	const char *name = w->key[key];

	switch (k->shape) {
	case SHAPE_KEY:
		return resp_cat_words(sdsempty(), k->name, name, NULL);
	case SHAPE_VALUE:
		return resp_cat_words(sdsempty(), k->name, name, text_of(w, a, sizeof a, 1000), NULL);
	case SHAPE_TTL:
		return resp_cat_words(sdsempty(), k->name, name, text_of(w, a, sizeof a, 1000), absolute ? "PXAT" : "PX", life_of(w, b, sizeof b, absolute), NULL);
	case SHAPE_OPTION:
		return resp_cat_words(sdsempty(), k->name, name, text_of(w, a, sizeof a, 1000), k->option, NULL);
	case SHAPE_FIELD:
	case SHAPE_FIELD_VALUE:
		a[0] = (char)('f' + rnd(w, FIELDS));
		a[1] = '\0';
		return resp_cat_words(sdsempty(), k->name, name, a, k->shape == SHAPE_FIELD ? NULL : text_of(w, b, sizeof b, 1000), NULL);
	case SHAPE_MEMBER:
		return resp_cat_words(sdsempty(), k->name, name, text_of(w, a, sizeof a, MEMBERS), NULL);
	case SHAPE_LIFE:
		return resp_cat_words(sdsempty(), absolute ? "PEXPIREAT" : k->name, name, life_of(w, a, sizeof a, absolute), NULL);
	case SHAPE_TWO:
		return resp_cat_words(sdsempty(), k->name, name, w->key[second], k->option, NULL);
	case SHAPE_THREE:
		return resp_cat_words(sdsempty(), k->name, name, w->key[second], w->key[third], NULL);
	case SHAPE_MOVE:
		return resp_cat_words(sdsempty(), k->name, name, w->key[second], text_of(w, a, sizeof a, MEMBERS), NULL);
	case SHAPE_SCRIPT:
		return resp_cat_words(sdsempty(), k->name, text_of(w, a, sizeof a, 1024), "1", name, NULL);
	}
	return NULL;
}

/* A bias for the type that the key has already keeps wrong types rare: keys end in a digit, which stands for a type. */
static bool fits(const struct kind *k, int key)
{
	static const enum shape hash[] = { SHAPE_FIELD, SHAPE_FIELD_VALUE };

	switch (key % KEYS_PER_TAG) {
	case 0:
		return k->shape != SHAPE_MEMBER && k->shape != hash[0] && k->shape != hash[1] && k->shape != SHAPE_THREE && k->shape != SHAPE_MOVE;
	case 1:
		return k->shape != SHAPE_MEMBER && k->shape != SHAPE_VALUE && k->shape != SHAPE_THREE && k->shape != SHAPE_MOVE && strcmp(k->name, "INCR") != 0;
	default:
		return k->shape != hash[0] && k->shape != hash[1] && k->shape != SHAPE_VALUE && strcmp(k->name, "INCR") != 0;
	}
}

static const struct kind *draw(struct world *w, int key, bool scripts)
{
	for (;;) {
		const struct kind *k = &kinds[rnd(w, KINDS)];
		if ((k->expires && !w->profile.expires) || (k->script && !scripts) || (!fits(k, key) && !one_in(w, 25)))
			continue;
		return k;
	}
}

/* Keys that a command may name together: of one slot in a cluster. */
static int other_key(struct world *w, int key, bool wide)
{
	int other = (int)rnd(w, KEYS_PER_TAG);

	if (one_in(w, 2))
		other = 2 + other % 2; /* where the sets are */
	return wide ? (int)rnd(w, TAGS) * KEYS_PER_TAG + other : key / KEYS_PER_TAG * KEYS_PER_TAG + other;
}

/* As dispatch.c: the slots, if they are several; only a standalone server is sent such requests. */
static struct wide *wide_of(const struct command *cmd, struct resp_request *p, const char *bytes)
{
	struct slice argv[16];
	struct key_ref keys[16];
	struct wide *wide = calloc(1, sizeof *wide + sizeof keys / sizeof *keys * sizeof wide->slot[0]);
	int n;

	for (uint32_t i = 0; i < p->argc; i++)
		argv[i] = resp_request_arg(p, bytes, i);
	n = command_keys(cmd, p->argc, argv, keys, 16);
	for (int i = 0; i < n; i++) {
		uint16_t slot = slot_of(argv[keys[i].index]);
		uint32_t at = 0;
		while (at < wide->n && wide->slot[at] != slot)
			at++;
		if (at == wide->n)
			wide->slot[wide->n++] = slot;
	}
	if (wide->n > 1)
		return wide;
	free(wide);
	return NULL;
}

struct req *client_req(struct world *w, sds s, const char *name, int key)
{
	struct req *r = calloc(1, sizeof *r);

	r->block = block_copy(s, sdslen(s));
	r->bytes = r->block->data;
	r->len = sdslen(s);
	r->cmd = command_find(slice(name, strlen(name)));
	r->slot = slot_of_key(w, key);
	r->ask_node = NODE_NONE;
	r->write = r->cmd->effect != EFFECT_NONE;
	sdsfree(s);
	return r;
}

void client_submit(struct world *w, struct req *r)
{
	r->next = w->reqs;
	w->reqs = r;
	if (w->submitted++ % 2) /* of a batch, or alone */
		engine_fetch(w->engine, r);
	engine_submit(w->engine, r);
}

static void submit(struct world *w, sds s, int key)
{
	struct resp_request p;
	char name[24];

	resp_request_init(&p, &resp_default_limits);
	resp_request_parse(&p, s, sdslen(s));
	struct slice word = resp_request_arg(&p, s, 0);
	snprintf(name, sizeof name, "%.*s", (int)word.n, word.p);
	struct wide *wide = wide_of(command_find(word), &p, s);
	uint32_t sole = command_sole_key(command_find(word)), argc = p.argc;
	struct slice sole_key = resp_request_arg(&p, s, sole);
	size_t at = (size_t)(sole_key.p - s);
	resp_request_release(&p);
	struct req *r = client_req(w, s, name, key);
	if (sole && w->submitted % 3) /* an inline request has none */
		req_has_key(r, slice(r->bytes + at, sole_key.n), argc);
	r->wide = wide;
	r->from = 1 + w->submitted % ORDERED; /* without knots (knot.h): what the engine does alone */
	r->part = (uint32_t)w->submitted;
	client_submit(w, r);
}

static void client_command(struct world *w, int key)
{
	bool wide = w->profile.wide && !w->side[authority_of(w, tag_of(key))].is_cluster;
	static const struct kind wide_read = { "EXISTS", SHAPE_TWO, NULL, false, false };
	const struct kind *k = draw(w, key, w->profile.scripts);
	int second = other_key(w, key, wide), third = other_key(w, key, wide);

	w->count.scripts += k->script;
	if (w->profile.alone_source && strcmp(k->name, "GET") == 0)
		k = &wide_read;
	submit(w, write_command(w, k, key, second, third, false), key);
}

/* It ends in the middle of a request. What came of that is kept until it is whole, so nobody but client.c ever hears of it (race 10). */
static void client_breaks_off(struct world *w, int key)
{
	if (fault("race-10-part"))
		net_send_part(w, authority_of(w, tag_of(key)), tag_of(key));
}

/* Now and then several at once, about one slot: they meet in a cycle of the server. */
void client_step(struct world *w)
{
	int key = (int)rnd(w, KEYS), first = key / KEYS_PER_TAG * KEYS_PER_TAG;

	if (w->profile.watch && one_in(w, 2))
		watcher_step(w);
	if (one_in(w, 16))
		client_block(w, key);
	if (w->submitted % 128 == 77)
		client_breaks_off(w, key);
	client_command(w, key);
	for (unsigned i = one_in(w, 4) ? 1 + (unsigned)rnd(w, 3) : 0; i > 0; i--)
		client_command(w, first + (int)rnd(w, KEYS_PER_TAG));
}

/* One key is written all the time: it must be copied nevertheless (race 11). */
void hot_step(struct world *w)
{
	while (w->submitted - w->answered < HOT_CLIENTS && atomic_load(&w->stats->queued) < 40)
		submit(w, write_command(w, &kinds[0], HOT_KEY, 0, 0, false), HOT_KEY);
}

/* A key is given milliseconds to live, and about when they end it is written to and made to last (race 1). */
void dance_step(struct world *w)
{
	int key = 1 + (int)rnd(w, 2) * (2 + KEYS_PER_TAG);
	const struct kind *write = key % KEYS_PER_TAG == 1 ? &kinds[7] : &kinds[10];
	char ms[24];

	snprintf(ms, sizeof ms, "%u", 4 + (unsigned)rnd(w, 30));
	if (one_in(w, 2)) {
		submit(w, resp_cat_words(sdsempty(), "PEXPIRE", w->key[key], ms, NULL), key);
		return;
	}
	submit(w, write_command(w, write, key, 0, 0, false), key);
	submit(w, resp_cat_words(sdsempty(), "PEXPIRE", w->key[key], "3600000", NULL), key);
}

void client_answer(struct world *w, struct req *r)
{
	struct req **at = &w->reqs;

	while (*at && *at != r)
		at = &(*at)->next;
	if (!*at)
		sim_fail(w, "a request is answered twice");
	if (r->mw && !w->profile.ack_both)
		sim_fail(w, "a request is answered while the mirror has it");
	if (!r->reply_len)
		sim_fail(w, "a request is answered with nothing");
	*at = r->next;
	w->answered++;
	watcher_answered(w, r);
	txn_free(r->txn);
	w->unknown += r->reply_len > 8 && memcmp(r->reply, "-UNKNOWN", 8) == 0;
	block_unref(r->block);
	block_unref(r->reply_block);
	free(r->wide);
	free(r);
}

/* A script writes keys that it does not declare; one of them is copied before anybody is told (race 12). */
void contagion_step(struct world *w)
{
	int key = (int)rnd(w, KEYS), first = key / KEYS_PER_TAG * KEYS_PER_TAG;

	submit(w, write_command(w, &kinds[KINDS - 1], key, 0, 0, false), key);
	submit(w, resp_cat_words(sdsempty(), "COPY", w->key[first + (int)rnd(w, KEYS_PER_TAG)], w->key[first + (int)rnd(w, KEYS_PER_TAG)], "REPLACE", NULL), key);
}

/* What is a crowd to the engine: MSET, DEL, a script with several keys; right behind it something that meets one of its parts. */
void crowd_step(struct world *w)
{
	int key = (int)rnd(w, KEYS), first = key / KEYS_PER_TAG * KEYS_PER_TAG;
	bool standalone = !w->side[authority_of(w, tag_of(key))].is_cluster, sets = one_in(w, 2);
	unsigned n = 2 + (unsigned)rnd(w, 4);
	char text[24];

	if (w->profile.scripts && one_in(w, 4)) {
		submit(w, resp_cat_words(sdsempty(), "EVAL", text_of(w, text, sizeof text, 512), "3", w->key[first], w->key[first + 1], w->key[first + 2], NULL), key);
	} else {
		sds s = resp_cat_len(sdsempty(), '*', 1 + n * (sets ? 2 : 1));
		s = resp_cat_bulk(s, sets ? SLICE_LIT("MSET") : SLICE_LIT("DEL"));
		for (unsigned i = 0; i < n; i++) {
			int k = i == 0 ? key : standalone ? (int)rnd(w, KEYS) : first + (int)rnd(w, KEYS_PER_TAG);
			s = resp_cat_bulk(s, slice(w->key[k], strlen(w->key[k])));
			if (sets)
				s = resp_cat_bulk(s, slice(text_of(w, text, sizeof text, 1000), strlen(text)));
		}
		submit(w, s, key);
	}
	for (unsigned i = (unsigned)rnd(w, 3); i > 0; i--)
		client_command(w, standalone ? (int)rnd(w, KEYS) : first + (int)rnd(w, KEYS_PER_TAG));
}

/* --- past the proxy --- */

static int own_key(struct world *w, struct cluster *c, struct server *n)
{
	int key = (int)rnd(w, KEYS), tag = tag_of(key);
	enum side side = c == &w->side[SIDE_SOURCE] ? SIDE_SOURCE : SIDE_TARGET;

	if (&c->node[c->owner[tag]] != n || c->moving_to[tag] < NODES)
		return -1;
	return authority_of(w, tag) == side || one_in(w, 5) ? key : -1;
}

/* What no server tells of: XACK and its like are the real ones. */
static void silence(struct world *w, struct server *n, const struct value *before, const enum changed *changed, const bool *foreign)
{
	for (int key = 0; key < KEYS; key++)
		if (!value_equal(&before[key], &n->data[key]))
			w->hidden[key] = true;
	memcpy(n->changed, changed, sizeof n->changed);
	memcpy(n->foreign, foreign, sizeof n->foreign);
}

void foreign_write(struct world *w, struct cluster *c, struct server *n)
{
	int key = own_key(w, c, n);
	enum side side = c == &w->side[SIDE_SOURCE] ? SIDE_SOURCE : SIDE_TARGET;
	struct value before[KEYS];
	enum changed changed[KEYS];
	bool foreign[KEYS], silent = w->profile.hidden && one_in(w, 6);
	struct resp_request p;
	struct slice argv[8];

	if (key < 0)
		return;
	memcpy(before, n->data, sizeof before);
	memcpy(changed, n->changed, sizeof changed);
	memcpy(foreign, n->foreign, sizeof foreign);
	sds s = write_command(w, draw(w, key, false), key, other_key(w, key, false), other_key(w, key, false), true);
	resp_request_init(&p, &resp_default_limits);
	resp_request_parse(&p, s, sdslen(s));
	for (uint32_t i = 0; i < p.argc && i < 8; i++)
		argv[i] = resp_request_arg(&p, s, i);
	n->by_foreigner = true;
	sdsfree(command_execute(w, c, n, argv, p.argc));
	n->by_foreigner = false;
	if (silent)
		silence(w, n, before, changed, foreign);
	w->count.foreign++;
	for (int i = 0; i < KEYS; i++)
		w->foreign_since[side][i] |= !value_equal(&before[i], &n->data[i]);
	trace(w, "%s: %s %.*s %.*s %.*s", side_name(side), silent ? "a silent write" : "a foreign write", (int)argv[0].n, argv[0].p, (int)argv[1].n, argv[1].p,
	      p.argc > 2 ? (int)argv[2].n : 0, p.argc > 2 ? argv[2].p : "");
	resp_request_release(&p);
	sdsfree(s);
}

void foreign_flush(struct world *w, struct cluster *c, struct server *n)
{
	enum side side = c == &w->side[SIDE_SOURCE] ? SIDE_SOURCE : SIDE_TARGET;

	trace(w, "%s: FLUSHALL", side_name(side));
	for (int key = 0; key < KEYS; key++)
		if (n->data[key].type) {
			n->data[key] = (struct value){ .expire_ms = -1 };
			w->foreign_since[side][key] = true;
			watcher_changed(w, n, key);
		}
	n->offset++;
	n->flushed = true;
	w->count.flushes++;
}
