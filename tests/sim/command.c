/* The commands of a model server: enough of each kind of effect to express the races. Reply by reply as the real ones. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "resp/digits.h"
#include "resp/write.h"

struct call {
	struct world *w;
	struct cluster *c;
	struct server *n;
	const struct slice *argv;
	uint32_t argc;
	int key;         /* of argv[1] */
	struct value *v;
};

typedef sds command_fn(struct call *c);

static const char wrong_type[] = "WRONGTYPE Operation against a key holding the wrong kind of value";

static sds ok(void) { return sdsnew("+OK\r\n"); }
static sds integer(int64_t n) { return resp_cat_len(sdsempty(), ':', n); }
static sds error(const char *text) { return resp_cat_error(sdsempty(), text); }

static int64_t number(struct slice s)
{
	int64_t n = 0;

	resp_string_to_int(s.p, s.n, &n);
	return n;
}

static void wrote(struct call *c, int key)
{
	node_changed(c->w, c->n, key, c->n->by_us ? CHANGED_BY_US : CHANGED_BY_OTHERS);
}

static void remove_key(struct call *c, int key)
{
	c->n->data[key] = (struct value){ .type = TYPE_NONE, .expire_ms = -1 };
	wrote(c, key);
}

static struct value *at(struct call *c, int key)
{
	node_expire(c->w, c->c, c->n, key);
	return &c->n->data[key];
}

/* NULL: the key holds another type. */
static struct value *of_type(struct call *c, enum type type)
{
	if (c->v->type != TYPE_NONE && c->v->type != type)
		return NULL;
	if (c->v->type == TYPE_NONE)
		*c->v = (struct value){ .type = type, .expire_ms = -1 };
	return c->v;
}

static void put_text(struct value *v, struct slice s)
{
	v->len = (uint32_t)(s.n < TEXT_MAX ? s.n : TEXT_MAX);
	memcpy(v->text, s.p, v->len);
}

static sds cmd_set(struct call *c)
{
	struct value new = { .type = TYPE_STRING, .expire_ms = -1 };
	bool nx = false, xx = false;

	for (uint32_t i = 3; i < c->argc; i++) {
		if (slice_is(c->argv[i], "pxat"))
			new.expire_ms = number(c->argv[++i]);
		else if (slice_is(c->argv[i], "px"))
			new.expire_ms = node_clock(c->w, c->c) + number(c->argv[++i]);
		else if (slice_is(c->argv[i], "keepttl"))
			new.expire_ms = c->v->type ? c->v->expire_ms : -1;
		nx |= slice_is(c->argv[i], "nx");
		xx |= slice_is(c->argv[i], "xx");
	}
	if ((nx && c->v->type) || (xx && !c->v->type))
		return sdsnew("_\r\n");
	put_text(&new, c->argv[2]);
	*c->v = new;
	wrote(c, c->key);
	return ok();
}

static sds cmd_mset(struct call *c)
{
	for (uint32_t i = 1; i + 1 < c->argc; i += 2) {
		int key = key_index(c->w, c->argv[i]);
		c->n->data[key] = (struct value){ .type = TYPE_STRING, .expire_ms = -1 };
		put_text(&c->n->data[key], c->argv[i + 1]);
		wrote(c, key);
	}
	return ok();
}

static sds cmd_get(struct call *c)
{
	if (!c->v->type)
		return sdsnew("_\r\n");
	if (c->v->type != TYPE_STRING)
		return error(wrong_type);
	return resp_cat_bulk(sdsempty(), slice(c->v->text, c->v->len));
}

static sds cmd_incr(struct call *c)
{
	char digits[24];
	int64_t n = 0;

	if (c->v->type && c->v->type != TYPE_STRING)
		return error(wrong_type);
	if (c->v->type && !resp_string_to_int(c->v->text, c->v->len, &n))
		return error("ERR value is not an integer or out of range");
	of_type(c, TYPE_STRING);
	put_text(c->v, slice(digits, (size_t)snprintf(digits, sizeof digits, "%lld", (long long)++n)));
	wrote(c, c->key);
	return integer(n);
}

static sds cmd_append(struct call *c)
{
	if (c->v->type && c->v->type != TYPE_STRING)
		return error(wrong_type);
	of_type(c, TYPE_STRING);
	if (c->v->len + c->argv[2].n > TEXT_MAX)
		return error("ERR string exceeds maximum allowed size");
	memcpy(c->v->text + c->v->len, c->argv[2].p, c->argv[2].n);
	c->v->len += (uint32_t)c->argv[2].n;
	wrote(c, c->key);
	return integer(c->v->len);
}

static sds cmd_hset(struct call *c)
{
	int field = c->argv[2].p[0] - 'f';

	if (!of_type(c, TYPE_HASH))
		return error(wrong_type);
	bool added = !(c->v->mask >> field & 1);
	c->v->mask |= 1u << field;
	c->v->field[field] = (int32_t)number(c->argv[3]);
	wrote(c, c->key);
	return integer(added);
}

static sds cmd_hdel(struct call *c)
{
	int field = c->argv[2].p[0] - 'f';

	if (c->v->type && c->v->type != TYPE_HASH)
		return error(wrong_type);
	if (!c->v->type || !(c->v->mask >> field & 1))
		return integer(0);
	c->v->mask &= ~(1u << field);
	wrote(c, c->key);
	if (!c->v->mask)
		remove_key(c, c->key);
	return integer(1);
}

static sds cmd_sadd(struct call *c)
{
	uint64_t bit = UINT64_C(1) << (number(c->argv[2]) % MEMBERS);

	if (!of_type(c, TYPE_SET))
		return error(wrong_type);
	if (c->v->members & bit)
		return integer(0);
	c->v->members |= bit;
	wrote(c, c->key);
	return integer(1);
}

static sds cmd_srem(struct call *c)
{
	uint64_t bit = UINT64_C(1) << (number(c->argv[2]) % MEMBERS);

	if (c->v->type && c->v->type != TYPE_SET)
		return error(wrong_type);
	if (!c->v->type || !(c->v->members & bit))
		return integer(0);
	c->v->members &= ~bit;
	wrote(c, c->key);
	if (!c->v->members)
		remove_key(c, c->key);
	return integer(1);
}

static sds cmd_spop(struct call *c)
{
	char digits[8];
	uint64_t member;

	if (!c->v->type)
		return sdsnew("_\r\n");
	if (c->v->type != TYPE_SET)
		return error(wrong_type);
	do
		member = rnd(c->w, MEMBERS);
	while (!(c->v->members >> member & 1));
	c->v->members &= ~(UINT64_C(1) << member);
	wrote(c, c->key);
	if (!c->v->members)
		remove_key(c, c->key);
	return resp_cat_bulk(sdsempty(), slice(digits, (size_t)snprintf(digits, sizeof digits, "%u", (unsigned)member)));
}

static sds cmd_del(struct call *c)
{
	int64_t n = 0;

	for (uint32_t i = 1; i < c->argc; i++) {
		int key = key_index(c->w, c->argv[i]);
		if (key < 0 || !at(c, key)->type)
			continue;
		remove_key(c, key);
		n++;
	}
	return integer(n);
}

static sds cmd_exists(struct call *c)
{
	int64_t n = 0;

	for (uint32_t i = 1; i < c->argc; i++) {
		int key = key_index(c->w, c->argv[i]);
		n += key >= 0 && at(c, key)->type;
	}
	return integer(n);
}

static sds cmd_rename(struct call *c)
{
	int to = key_index(c->w, c->argv[2]);

	if (!c->v->type)
		return error("ERR no such key");
	if (to == c->key)
		return ok();
	at(c, to);
	c->n->data[to] = *c->v;
	remove_key(c, c->key);
	wrote(c, to);
	c->n->inputs[to] |= 1u << c->key;
	return ok();
}

static sds cmd_smove(struct call *c)
{
	int to = key_index(c->w, c->argv[2]);
	uint64_t bit = UINT64_C(1) << number(c->argv[3]) % MEMBERS;

	if ((c->v->type && c->v->type != TYPE_SET) || (at(c, to)->type && c->n->data[to].type != TYPE_SET))
		return c->v->type ? error(wrong_type) : integer(0);
	if (!c->v->type || !(c->v->members & bit))
		return integer(0);
	if (to == c->key)
		return integer(1);
	c->v->members &= ~bit;
	wrote(c, c->key);
	if (!c->v->members)
		remove_key(c, c->key);
	if (!c->n->data[to].type)
		c->n->data[to] = (struct value){ .type = TYPE_SET, .expire_ms = -1 };
	c->n->data[to].members |= bit;
	wrote(c, to);
	c->n->inputs[to] |= 1u << c->key;
	return integer(1);
}

static sds cmd_copy(struct call *c)
{
	int to = key_index(c->w, c->argv[2]);
	bool replace = c->argc > 3;

	if (to == c->key)
		return error("ERR source and destination objects are the same");
	if (!c->v->type || (at(c, to)->type && !replace))
		return integer(0);
	c->n->data[to] = *c->v;
	wrote(c, to);
	c->n->inputs[to] |= 1u << c->key;
	return integer(1);
}

static sds cmd_sunionstore(struct call *c)
{
	uint64_t all = 0;

	for (uint32_t i = 2; i < c->argc; i++) {
		int key = key_index(c->w, c->argv[i]);
		struct value *v = at(c, key);
		if (v->type && v->type != TYPE_SET)
			return error(wrong_type);
		if (v->type)
			all |= v->members;
		c->n->inputs[c->key] |= 1u << key;
	}
	if (all) {
		*c->v = (struct value){ .type = TYPE_SET, .members = all, .expire_ms = -1 };
		wrote(c, c->key);
	} else if (c->v->type) {
		remove_key(c, c->key);
	}
	return integer(__builtin_popcountll(all));
}

static sds cmd_pexpireat(struct call *c)
{
	int64_t ms = number(c->argv[2]);

	if (!c->v->type)
		return integer(0);
	if (ms <= node_clock(c->w, c->c)) {
		remove_key(c, c->key);
		return integer(1);
	}
	c->v->expire_ms = ms;
	wrote(c, c->key);
	return integer(1);
}

static sds cmd_pexpire(struct call *c)
{
	if (!c->v->type)
		return integer(0);
	c->v->expire_ms = node_clock(c->w, c->c) + number(c->argv[2]);
	wrote(c, c->key);
	return integer(1);
}

static sds cmd_persist(struct call *c)
{
	if (!c->v->type || c->v->expire_ms < 0)
		return integer(0);
	c->v->expire_ms = -1;
	wrote(c, c->key);
	return integer(1);
}

static sds cmd_pexpiretime(struct call *c)
{
	return integer(c->v->type ? c->v->expire_ms : -2);
}

static sds cmd_dump(struct call *c)
{
	if (!c->v->type)
		return sdsnew("_\r\n");
	sds payload = value_dump(c->v);
	sds reply = resp_cat_bulk(sdsempty(), slice(payload, sdslen(payload)));
	sdsfree(payload);
	return reply;
}

static sds cmd_restore(struct call *c)
{
	struct value new;
	int64_t ms = number(c->argv[2]);
	bool replace = false;

	for (uint32_t i = 4; i < c->argc; i++)
		replace |= slice_is(c->argv[i], "replace");
	if (c->v->type && !replace)
		return error("BUSYKEY Target key name already exists.");
	if (!value_restore(c->argv[3], &new))
		return error("ERR Bad data format");
	new.expire_ms = ms ? ms : -1;
	if (ms && ms <= node_clock(c->w, c->c)) {
		if (c->v->type)
			remove_key(c, c->key);
		return ok();
	}
	*c->v = new;
	wrote(c, c->key);
	return ok();
}

/* A key of another slot, which a node lets scripts write if it has that, too. */
static void stray(struct call *c, int64_t seed)
{
	int tag = (int)rnd(c->w, TAGS), key = tag * KEYS_PER_TAG;
	enum side side = c->c == &c->w->side[SIDE_SOURCE] ? SIDE_SOURCE : SIDE_TARGET;
	char text[24];

	if (tag == tag_of(c->key) || &c->c->node[c->c->owner[tag]] != c->n || c->c->moving_to[tag] < NODES)
		return;
	judge_stray(c->w, side, tag);
	struct value *v = at(c, key);
	*v = (struct value){ .type = TYPE_STRING, .expire_ms = -1 };
	put_text(v, slice(text, (size_t)snprintf(text, sizeof text, "%lld", (long long)seed)));
	node_changed(c->w, c->n, key, CHANGED_BY_OTHERS);
	c->n->foreign[key] = true;
}

/* EVAL seed 1 key: writes some keys of the slot, declared or not, and may fail after that. Its own connection is told of them, NOLOOP or not. */
static sds cmd_eval(struct call *c)
{
	int64_t seed = number(c->argv[1]);
	int first = c->key / KEYS_PER_TAG * KEYS_PER_TAG;

	for (int i = 0; i < KEYS_PER_TAG; i++) {
		char text[24];
		if (!(seed >> i & 1))
			continue;
		struct value *v = at(c, first + i);
		if (v->type && !(seed >> (i + 4) & 1)) {
			*v = (struct value){ .expire_ms = -1 };
		} else {
			*v = (struct value){ .type = TYPE_STRING, .expire_ms = -1 };
			put_text(v, slice(text, (size_t)snprintf(text, sizeof text, "%lld", (long long)seed)));
		}
		node_changed(c->w, c->n, first + i, CHANGED_BY_OTHERS);
		c->n->foreign[first + i] |= first + i != c->key;
	}
	if (c->w->profile.strays && seed >> 8 & 1)
		stray(c, seed);
	return seed >> 9 & 1 ? error("ERR the script failed after what it wrote") : ok();
}

static const struct {
	const char *name;
	command_fn *fn;
	unsigned key; /* which word is the first key */
} commands[] = {
	{ "set", cmd_set, 1 },           { "get", cmd_get, 1 },         { "exists", cmd_exists, 1 },   { "incr", cmd_incr, 1 },           { "append", cmd_append, 1 },
	{ "hset", cmd_hset, 1 },         { "hdel", cmd_hdel, 1 },       { "sadd", cmd_sadd, 1 },           { "srem", cmd_srem, 1 },
	{ "spop", cmd_spop, 1 },         { "del", cmd_del, 1 },         { "unlink", cmd_del, 1 },          { "rename", cmd_rename, 1 },
	{ "copy", cmd_copy, 1 },         { "sunionstore", cmd_sunionstore, 1 }, { "pexpireat", cmd_pexpireat, 1 }, { "persist", cmd_persist, 1 },
	{ "pexpiretime", cmd_pexpiretime, 1 }, { "dump", cmd_dump, 1 }, { "restore", cmd_restore, 1 },     { "eval", cmd_eval, 3 },
	{ "pexpire", cmd_pexpire, 1 },   { "smove", cmd_smove, 1 },   { "mset", cmd_mset, 1 },
};

sds command_execute(struct world *w, struct cluster *cluster, struct server *n, const struct slice *argv, uint32_t argc)
{
	for (unsigned i = 0; i < sizeof commands / sizeof *commands; i++) {
		if (!slice_is(argv[0], commands[i].name))
			continue;
		struct call c = { .w = w, .c = cluster, .n = n, .argv = argv, .argc = argc, .key = key_index(w, argv[commands[i].key]) };
		if (c.key < 0) { /* a temporary key */
			n->offset++;
			return commands[i].fn == cmd_set ? ok() : integer(0);
		}
		c.v = at(&c, c.key);
		return commands[i].fn(&c);
	}
	sim_fail(w, "the model does not know the command %.*s", (int)argv[0].n, argv[0].p);
}
