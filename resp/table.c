/* table.c - look-ups in the command table and the keys of a request. */
#include "resp/table.h"

#include <assert.h>
#include <endian.h>

#include "resp/table_index.h"

/* --- names ------------------------------------------------------------------------------------------------------- */

static inline uint64_t load8(const char *p)
{
	uint64_t w;
	memcpy(&w, p, sizeof w);
	return le64toh(w);
}

static inline uint64_t load4(const char *p)
{
	uint32_t w;
	memcpy(&w, p, sizeof w);
	return le32toh(w);
}

/* A to Z become a to z, eight bytes at once. Exactly those: OR 0x20 would take "eval\x7fro" for "eval_ro". */
static inline uint64_t fold(uint64_t w)
{
	const uint64_t ones = 0x0101010101010101u;
	uint64_t low = w & 0x7f * ones;
	uint64_t from_a = low + (0x80 - 'A') * ones, past_z = low + (0x7f - 'Z') * ones;

	return w | (((from_a ^ past_z) & ~w & 0x80 * ones) >> 2);
}

static inline uint8_t fold1(char c)
{
	return (uint8_t)(c >= 'A' && c <= 'Z' ? c | 0x20 : c);
}

/* The two words of table_index.h; tools/gen-table computes the same. */
static inline void words_of(struct slice s, uint64_t *first, uint64_t *last)
{
	*last = 0;
	if (s.n >= 8) {
		*first = fold(load8(s.p));
		*last = fold(load8(s.p + s.n - 8));
	} else if (s.n >= 4) {
		*first = fold(load4(s.p) | load4(s.p + s.n - 4) << 32);
	} else {
		*first = fold((uint64_t)(uint8_t)s.p[0] | (uint64_t)(uint8_t)s.p[s.n / 2] << 8 | (uint64_t)(uint8_t)s.p[s.n - 1] << 16);
	}
}

/* What lies between the two words of a long name. */
static bool middle_equal(const struct command *c, struct slice s)
{
	const char *bar = strchr(c->name, '|');
	const char *name = bar ? bar + 1 : c->name;

	for (size_t i = 8; i + 8 < s.n; i++)
		if (fold1(s.p[i]) != (uint8_t)name[i])
			return false;
	return true;
}

static inline const struct command *find(struct slice s, uint16_t parent)
{
	uint64_t first, last, hash;

	if (s.n == 0 || s.n > UINT8_MAX)
		return NULL;
	words_of(s, &first, &last);
	hash = (first ^ (last << 7 | last >> 57) ^ s.n ^ (uint64_t)parent << 40) * command_index_factor;
	for (unsigned i = (unsigned)(hash >> (64 - COMMAND_INDEX_BITS)); command_index[i]; i = (i + 1) % COMMAND_INDEX_SIZE) {
		unsigned id = command_index[i] - 1u;
		const struct command_name *n = &command_names[id];

		if (n->first == first && n->last == last && n->length == s.n && n->parent == parent &&
		    (s.n <= 16 || middle_equal(&command_table[id], s)))
			return &command_table[id];
	}
	return NULL;
}

const struct command *command_find(struct slice name)
{
	return find(name, COMMAND_TOP);
}

const struct command *command_find_sub(const struct command *container, struct slice sub)
{
	return container->flags & CMD_CONTAINER ? find(sub, container->id) : NULL;
}

/* --- keys -------------------------------------------------------------------------------------------------------- */

struct keys_out {
	struct key_ref *keys;
	int cap, n;
};

static inline void add_key(struct keys_out *out, int64_t index, uint32_t flags)
{
	assert(index > 0 && index <= UINT32_MAX);
	if (out->n < out->cap)
		out->keys[out->n] = (struct key_ref){ (uint32_t)index, flags };
	out->n++;
}

/* A count of keys as the servers read it: plain decimal digits, no sign, no leading zero. Anything over `max` is wrong anyway. */
static int64_t parse_count(struct slice s, int64_t max)
{
	int64_t v = 0;

	if (s.n == 0 || (s.n > 1 && s.p[0] == '0'))
		return -1;
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] < '0' || s.p[i] > '9')
			return -1;
		v = v * 10 + (s.p[i] - '0');
		if (v > max)
			return -1;
	}
	return v;
}

/* Where a specification's keys begin; 0: nowhere, the keyword is not there. */
static int64_t spec_begin(const struct key_spec *spec, int64_t argc, const struct slice *argv)
{
	int64_t from = spec->begin_pos, step = from >= 0 ? 1 : -1, end = from >= 0 ? argc - 1 : 1;

	if (spec->begin == KEY_BEGIN_INDEX)
		return from;
	/* The last word cannot be the keyword: no key would follow. */
	for (int64_t i = from >= 0 ? from : argc + from; i > 0 && i < argc && i * step < end * step; i += step)
		if (slice_is(argv[i], spec->keyword))
			return i + 1;
	return 0;
}

/* The keys of one specification: false if the arguments are wrong. */
static bool keys_of_spec(const struct key_spec *spec, int64_t argc, const struct slice *argv, struct keys_out *out)
{
	int64_t first = spec_begin(spec, argc, argv), last, step;

	if (first == 0)
		return spec->begin == KEY_BEGIN_KEYWORD;
	if (spec->find == KEY_FIND_RANGE) {
		step = spec->b;
		if (spec->a >= 0)
			last = first + spec->a;
		else
			last = spec->c ? first + (argc - first) / spec->c + spec->a : argc + spec->a;
	} else {
		int64_t count;

		if (first + spec->a >= argc)
			return false;
		step = spec->c;
		count = parse_count(argv[first + spec->a], argc);
		first += spec->b;
		last = first + (count - 1) * step;
		if (count < 1)
			return false;
	}
	assert(step > 0);
	if (first >= argc || last >= argc || last < first)
		return false;
	for (int64_t i = first; i <= last; i += step)
		add_key(out, i, spec->flags);
	return true;
}

static bool keys_of_specs(const struct command *c, int64_t argc, const struct slice *argv, struct keys_out *out)
{
	for (unsigned i = 0; i < c->nspecs; i++) {
		const struct key_spec *spec = &c->specs[i];

		if (spec->flags & KEY_NOT_KEY || spec->begin == KEY_BEGIN_UNKNOWN || spec->find == KEY_FIND_UNKNOWN)
			continue;
		if (!keys_of_spec(spec, argc, argv, out))
			return false;
	}
	return true;
}

/* EVAL, FCALL: none is allowed, too. */
static bool keys_of_script(const struct command *c, int64_t argc, const struct slice *argv, struct keys_out *out)
{
	if (argc > 2 && parse_count(argv[2], argc) == 0)
		return true;
	return keys_of_specs(c, argc, argv, out);
}

/* SET: with GET the old value is read (that IFEQ reads it the servers do not say). */
static bool keys_of_set(const struct command *c, int64_t argc, const struct slice *argv, struct keys_out *out)
{
	uint32_t flags = KEY_OW | KEY_UPDATE;

	(void)c;
	for (int64_t i = 3; i < argc; i++)
		if (slice_is(argv[i], "get"))
			flags = KEY_RW | KEY_ACCESS | KEY_UPDATE;
	if (argc < 2)
		return false;
	add_key(out, 1, flags);
	return true;
}

/* BITFIELD: a read if it has nothing but GET. */
static bool keys_of_bitfield(const struct command *c, int64_t argc, const struct slice *argv, struct keys_out *out)
{
	bool writes = false;

	(void)c;
	for (int64_t i = 2; i < argc && !writes; i++) {
		if (slice_is(argv[i], "get") && i + 2 < argc)
			i += 2;
		else if (slice_is(argv[i], "overflow") && i + 1 < argc)
			i++;
		else
			writes = true; /* SET, INCRBY, or an error */
	}
	if (argc < 2)
		return false;
	add_key(out, 1, writes ? KEY_RW | KEY_ACCESS | KEY_UPDATE : KEY_RO | KEY_ACCESS);
	return true;
}

/* SORT, SORT_RO: the last STORE counts; what BY and GET read follows from the data and cannot be told. */
static bool keys_of_sort(const struct command *c, int64_t argc, const struct slice *argv, struct keys_out *out)
{
	int64_t store = 0;

	for (int64_t i = 2; i < argc; i++) {
		if (slice_is(argv[i], "limit"))
			i += 2;
		else if (slice_is(argv[i], "get") || slice_is(argv[i], "by"))
			i++;
		else if (slice_is(argv[i], "store") && i + 1 < argc)
			store = ++i;
	}
	if (argc < 2)
		return false;
	add_key(out, 1, KEY_RO | KEY_ACCESS);
	if (store && c->flags & CMD_WRITE)
		add_key(out, store, KEY_OW | KEY_UPDATE);
	return true;
}

/* GEORADIUS, GEORADIUSBYMEMBER: the last STORE or STOREDIST counts. */
static bool keys_of_georadius(const struct command *c, int64_t argc, const struct slice *argv, struct keys_out *out)
{
	int64_t store = 0;

	assert(c->nspecs > 1);
	for (int64_t i = c->specs[1].begin_pos; i + 1 < argc; i++)
		if (slice_is(argv[i], "store") || slice_is(argv[i], "storedist"))
			store = ++i;
	if (argc < 2)
		return false;
	add_key(out, 1, KEY_RO | KEY_ACCESS);
	if (store)
		add_key(out, store, KEY_OW | KEY_UPDATE);
	return true;
}

/* MIGRATE host port key|"" db timeout … [KEYS key …]; passwords are no keywords. */
static bool keys_of_migrate(const struct command *c, int64_t argc, const struct slice *argv, struct keys_out *out)
{
	int64_t first = 3, last = 3;

	(void)c;
	for (int64_t i = 6; i < argc; i++) {
		if (slice_is(argv[i], "auth")) {
			i++;
		} else if (slice_is(argv[i], "auth2")) {
			i += 2;
		} else if (slice_is(argv[i], "keys")) {
			first = i + 1;
			last = argc - 1;
			break;
		}
	}
	if (argc < 6 || first > last || (first != 3 && argv[3].n != 0))
		return false;
	for (int64_t i = first; i <= last; i++)
		add_key(out, i, KEY_RW | KEY_ACCESS | KEY_DELETE);
	return true;
}

/* PFMERGE with its destination alone is a command that writes, though the servers' own look-up finds no keys then (a cluster's node does it wherever it comes). */
static bool keys_of_pfmerge(const struct command *c, int64_t argc, const struct slice *argv, struct keys_out *out)
{
	if (argc != 2)
		return keys_of_specs(c, argc, argv, out);
	add_key(out, 1, c->specs[0].flags);
	return true;
}

typedef bool keys_function(const struct command *c, int64_t argc, const struct slice *argv, struct keys_out *out);

static keys_function *const keys_functions[] = {
	[KEYS_SPECS] = keys_of_specs,         [KEYS_SCRIPT] = keys_of_script,       [KEYS_SET] = keys_of_set,
	[KEYS_BITFIELD] = keys_of_bitfield,   [KEYS_SORT] = keys_of_sort,           [KEYS_GEORADIUS] = keys_of_georadius,
	[KEYS_MIGRATE] = keys_of_migrate,     [KEYS_PFMERGE] = keys_of_pfmerge,     [KEYS_STREAMS] = keys_of_specs,
	[KEYS_COPY] = keys_of_specs,          [KEYS_MOVE] = keys_of_specs,
};

int command_keys(const struct command *c, uint32_t argc, const struct slice *argv, struct key_ref *keys, int cap)
{
	struct keys_out out = { keys, cap, 0 };

	assert(c->keys < sizeof keys_functions / sizeof keys_functions[0]);
	if (argc > INT32_MAX) /* the number of keys must fit an int */
		return -1;
	return keys_functions[c->keys](c, argc, argv, &out) ? out.n : -1;
}

bool command_is_unrouted(const struct command *c, uint32_t argc, const struct slice *argv)
{
	uint32_t i = 1;

	if (c->keys != KEYS_STREAMS)
		return false;
	while (i < argc && !slice_is(argv[i], "streams")) {
		if (slice_is(argv[i], "block") || slice_is(argv[i], "count"))
			i += 2;
		else if (slice_is(argv[i], "group"))
			i += 3;
		else if (slice_is(argv[i], "noack"))
			i++;
		else
			return true;
	}
	return i + 1 >= argc || (argc - i - 1) % 2 != 0;
}

uint32_t command_other_db(const struct command *c, uint32_t argc, const struct slice *argv)
{
	uint32_t db = 0;

	if (c->keys == KEYS_MOVE)
		return argc == 3 ? 2 : 0;
	for (uint32_t i = 3; c->keys == KEYS_COPY && i < argc; i++) /* COPY source destination [DB n] [REPLACE]: the last one counts */
		if (slice_is(argv[i], "db") && i + 1 < argc)
			db = ++i;
	return db;
}
