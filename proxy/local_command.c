/* COMMAND and its subcommands, out of the command table: what clients learn where keys are from, in the shapes of Redis 7.0 and later.
 *
 * Shown is what the source's version knows, but for what is refused by design. A container is shown if any of its subcommands is. Tips, notes and
 * most of the documentation are not in the table: tips are empty, COMMAND DOCS gives summary (empty), since and group. */
#include <assert.h>
#include <limits.h>
#include <stdlib.h>

#include "proxy/client.h"
#include "proxy/local.h"
#include "resp/glob.h"
#include "resp/write.h"

/* --- what is shown --- */

/* The servers of the table that stand for a version: `same` knows what it knows, what `next` added it knows if it came early enough. */
struct knowledge {
	uint8_t same, next;
	uint32_t number;
	bool valkey;
};

static struct knowledge known_by(const struct identity *id)
{
	struct knowledge k = { SERVER_REDIS_7_0, SERVER_REDIS_8_0, id->number, id->valkey };

	if (!id->valkey && id->number >= 0x080000)
		k.same = SERVER_REDIS_8_0, k.next = 0;
	else if (id->valkey && id->number >= 0x090100)
		k.same = SERVER_VALKEY_9_1, k.next = 0;
	else if (id->valkey && id->number >= 0x080100)
		k.same = SERVER_VALKEY_8_1, k.next = SERVER_VALKEY_9_1;
	else if (id->valkey && id->number >= 0x080000)
		k.same = SERVER_VALKEY_8_0, k.next = 0;
	else if (id->valkey)
		k.next = SERVER_VALKEY_8_0;
	return k;
}

/* The table names where a command first was; what Redis got after the products parted came to Valkey with 9.0, or later. */
static const char *since_of(const struct command *cmd, const struct knowledge *k)
{
	const char *space = strchr(cmd->since, ' '), *version = space ? space + 1 : cmd->since;

	if (k->valkey && strncmp(cmd->since, "redis ", 6) == 0 && local_version(version) >= 0x070300)
		return "9.0.0";
	return version;
}

static bool is_known(const struct command *cmd, const struct knowledge *k)
{
	return cmd->servers & k->same || (cmd->servers & k->next && local_version(since_of(cmd, k)) <= k->number);
}

static bool is_sub(const struct command *cmd)
{
	return strchr(cmd->name, '|') != NULL;
}

/* The next subcommand of a container behind `at` (NULL: the first), NULL at the end. The table is sorted by name, so they are near. */
static const struct command *next_sub(const struct command *container, const struct command *at)
{
	const struct command *end = command_table + command_count;
	size_t n = strlen(container->name);

	for (at = at ? at + 1 : container + 1; at < end && strncmp(at->name, container->name, n) == 0; at++)
		if (at->name[n] == '|')
			return at;
	return NULL;
}

static bool is_shown(const struct command *cmd, const struct knowledge *k)
{
	if (!is_known(cmd, k))
		return false;
	if (cmd->policy != POLICY_REFUSE)
		return true;
	if (!(cmd->flags & CMD_CONTAINER))
		return false;
	for (const struct command *sub = next_sub(cmd, NULL); sub; sub = next_sub(cmd, sub))
		if (is_known(sub, k) && sub->policy != POLICY_REFUSE)
			return true;
	return false;
}

static unsigned count_subs(const struct command *container, const struct knowledge *k)
{
	unsigned n = 0;

	if (container->flags & CMD_CONTAINER)
		for (const struct command *sub = next_sub(container, NULL); sub; sub = next_sub(container, sub))
			n += is_shown(sub, k);
	return n;
}

static unsigned count_top(const struct knowledge *k)
{
	unsigned n = 0;

	for (unsigned i = 0; i < command_count; i++)
		n += !is_sub(&command_table[i]) && is_shown(&command_table[i], k);
	return n;
}

/* "get", "config|get". */
static const struct command *find_shown(struct slice name, const struct knowledge *k)
{
	const char *bar = name.n ? memchr(name.p, '|', name.n) : NULL;
	const struct command *cmd = command_find(bar ? slice(name.p, (size_t)(bar - name.p)) : name);

	if (cmd && bar)
		cmd = command_find_sub(cmd, slice(bar + 1, (size_t)(name.p + name.n - bar - 1)));
	return cmd && is_shown(cmd, k) ? cmd : NULL;
}

static struct knowledge known_to(const struct worker *w)
{
	struct identity id = local_identity(w);

	return known_by(&id);
}

bool local_has(const struct worker *w, const struct command *cmd)
{
	struct knowledge k = known_to(w);

	return is_known(cmd, &k);
}

bool local_knows(const struct worker *w, const struct command *cmd)
{
	const struct topology *t = w->topology[fleet_authority(w->fleet, 0)];

	if (!t || !t->version)
		return true;
	struct identity id = { .number = t->version, .valkey = t->product == PRODUCT_VALKEY, .cluster = t->cluster };
	struct knowledge k = known_by(&id);
	return is_known(cmd, &k);
}

bool local_takes(const struct worker *w, const struct command *cmd, uint32_t argc)
{
	const struct topology *t = w->topology[fleet_authority(w->fleet, 0)];
	bool old = t && t->product == PRODUCT_REDIS && t->version && t->version < 0x070200;

	return !old || !cmd->arity_7_0 || arity_ok(cmd->arity_7_0, argc);
}

/* --- COMMAND INFO --- */

struct flag_name {
	uint32_t flag;
	const char *name;
};

/* Those that servers show; of these asking, skip_monitor and their like are not in the table. */
static const struct flag_name command_flags[] = {
	{ CMD_WRITE, "write" }, { CMD_READONLY, "readonly" }, { CMD_DENYOOM, "denyoom" }, { CMD_ADMIN, "admin" }, { CMD_PUBSUB, "pubsub" },
	{ CMD_NOSCRIPT, "noscript" }, { CMD_BLOCKING, "blocking" }, { CMD_LOADING, "loading" }, { CMD_STALE, "stale" }, { CMD_FAST, "fast" },
	{ CMD_NO_AUTH, "no_auth" }, { CMD_NO_MULTI, "no_multi" }, { CMD_ALLOW_BUSY, "allow_busy" },
	{ CMD_MOVABLEKEYS, "movablekeys" }, { 0, NULL },
};

static const struct flag_name key_flags[] = {
	{ KEY_RO, "RO" }, { KEY_RW, "RW" }, { KEY_OW, "OW" }, { KEY_RM, "RM" }, { KEY_ACCESS, "access" }, { KEY_UPDATE, "update" },
	{ KEY_INSERT, "insert" }, { KEY_DELETE, "delete" }, { KEY_NOT_KEY, "not_key" }, { KEY_INCOMPLETE, "incomplete" },
	{ KEY_VARIABLE_FLAGS, "variable_flags" }, { 0, NULL },
};

static sds cat_flags(sds s, int proto, uint32_t flags, const struct flag_name *names, const char *extra)
{
	int64_t n = extra != NULL;

	for (const struct flag_name *f = names; f->name; f++)
		n += (flags & f->flag) != 0;
	s = local_cat_aggregate(s, proto, '~', n);
	for (const struct flag_name *f = names; f->name; f++)
		if (flags & f->flag)
			s = resp_cat_simple(s, f->name);
	return extra ? resp_cat_simple(s, extra) : s;
}

static sds cat_categories(sds s, int proto, uint64_t categories)
{
	char name[32] = "@";

	s = local_cat_aggregate(s, proto, '~', __builtin_popcountll(categories));
	for (unsigned i = 0; cmd_category_names[i]; i++) {
		if (!(categories >> i & 1))
			continue;
		assert(strlen(cmd_category_names[i]) < sizeof name - 1);
		strcpy(name + 1, cmd_category_names[i]);
		s = resp_cat_simple(s, name);
	}
	return s;
}

static sds cat_number(sds s, const char *name, int64_t n)
{
	return resp_cat_len(local_cat_text(s, name), ':', n);
}

/* {"type": …, "spec": {n fields}}: the fields follow. */
static sds cat_search(sds s, int proto, const char *name, const char *type, int64_t fields)
{
	s = local_cat_aggregate(local_cat_text(s, name), proto, '%', 2);
	s = local_cat_text(local_cat_text(s, "type"), type);
	return local_cat_aggregate(local_cat_text(s, "spec"), proto, '%', fields);
}

static sds cat_begin(sds s, int proto, const struct key_spec *k)
{
	switch ((enum key_begin)k->begin) {
	case KEY_BEGIN_INDEX:
		return cat_number(cat_search(s, proto, "begin_search", "index", 1), "index", k->begin_pos);
	case KEY_BEGIN_KEYWORD:
		s = cat_search(s, proto, "begin_search", "keyword", 2);
		s = local_cat_text(local_cat_text(s, "keyword"), k->keyword);
		return cat_number(s, "startfrom", k->begin_pos);
	case KEY_BEGIN_UNKNOWN:
		break;
	}
	return cat_search(s, proto, "begin_search", "unknown", 0);
}

static sds cat_find(sds s, int proto, const struct key_spec *k)
{
	switch ((enum key_find)k->find) {
	case KEY_FIND_RANGE:
		s = cat_search(s, proto, "find_keys", "range", 3);
		return cat_number(cat_number(cat_number(s, "lastkey", k->a), "keystep", k->b), "limit", k->c);
	case KEY_FIND_KEYNUM:
		s = cat_search(s, proto, "find_keys", "keynum", 3);
		return cat_number(cat_number(cat_number(s, "keynumidx", k->a), "firstkey", k->b), "keystep", k->c);
	case KEY_FIND_UNKNOWN:
		break;
	}
	return cat_search(s, proto, "find_keys", "unknown", 0);
}

static sds cat_specs(sds s, int proto, const struct command *cmd)
{
	s = local_cat_aggregate(s, proto, '~', cmd->nspecs);
	for (unsigned i = 0; i < cmd->nspecs; i++) {
		s = local_cat_aggregate(s, proto, '%', 3);
		s = cat_flags(local_cat_text(s, "flags"), proto, cmd->specs[i].flags, key_flags, NULL);
		s = cat_begin(s, proto, &cmd->specs[i]);
		s = cat_find(s, proto, &cmd->specs[i]);
	}
	return s;
}

/* First key, last key, step as clients older than key specifications want them: one range, or several that follow each other. */
struct legacy_range {
	int first, last, step;
};

static struct legacy_range legacy_range(const struct command *cmd)
{
	struct legacy_range r = { INT_MAX, 0, 1 };
	int previous = 0;

	for (unsigned i = 0; i < cmd->nspecs; i++) {
		const struct key_spec *k = &cmd->specs[i];
		int last = k->a >= 0 ? k->a + k->begin_pos : k->a;

		if (k->begin != KEY_BEGIN_INDEX || k->find != KEY_FIND_RANGE)
			continue;
		if (cmd->nspecs == 1)
			return (struct legacy_range){ k->begin_pos, last, k->b };
		if (k->b != 1 || (previous && previous != k->begin_pos - 1))
			continue;
		r.first = k->begin_pos < r.first ? k->begin_pos : r.first;
		r.last = (unsigned)last > (unsigned)r.last ? last : r.last; /* unsigned: a negative one is from the end, so behind all others */
		previous = r.last;
	}
	return r.first == INT_MAX ? (struct legacy_range){ 0, 0, 0 } : r;
}

static sds cat_info(sds s, int proto, const struct command *cmd, const struct knowledge *k)
{
	struct legacy_range range = legacy_range(cmd);
	unsigned subs = count_subs(cmd, k);

	s = resp_cat_len(s, '*', 10);
	s = local_cat_text(s, cmd->name);
	s = resp_cat_len(s, ':', cmd->arity);
	s = cat_flags(s, proto, cmd->flags, command_flags, cmd->keys == KEYS_SCRIPT ? "no_mandatory_keys" : NULL);
	s = resp_cat_len(s, ':', range.first);
	s = resp_cat_len(s, ':', range.last);
	s = resp_cat_len(s, ':', range.step);
	s = cat_categories(s, proto, cmd->categories);
	s = local_cat_aggregate(s, proto, '~', 0);
	s = cat_specs(s, proto, cmd);
	if (!subs)
		return local_cat_aggregate(s, proto, k->same == SERVER_VALKEY_9_1 ? '*' : '~', 0); /* older ones say that none is a set */
	s = resp_cat_len(s, '*', subs);
	for (const struct command *sub = next_sub(cmd, NULL); sub; sub = next_sub(cmd, sub))
		if (is_shown(sub, k))
			s = cat_info(s, proto, sub, k);
	return s;
}

void local_command(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct knowledge k = known_to(w);
	sds s = resp_cat_len(sdsempty(), '*', count_top(&k));

	(void)cmd;
	(void)argc;
	for (unsigned i = 0; i < command_count; i++)
		if (!is_sub(&command_table[i]) && is_shown(&command_table[i], &k))
			s = cat_info(s, c->proto, &command_table[i], &k);
	client_reply(w, c, s);
}

void local_command_count(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct knowledge k = known_to(w);

	(void)cmd;
	(void)argc;
	client_reply(w, c, resp_cat_len(sdsempty(), ':', count_top(&k)));
}

void local_command_info(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct knowledge k = known_to(w);
	const struct command *row;

	if (argc == 2) {
		local_command(w, c, cmd, argc);
		return;
	}
	sds s = resp_cat_len(sdsempty(), '*', argc - 2);
	for (uint32_t i = 2; i < argc; i++) {
		row = find_shown(w->argv[i], &k);
		s = row ? cat_info(s, c->proto, row, &k) : resp_cat_null(s, c->proto);
	}
	client_reply(w, c, s);
}

/* --- COMMAND DOCS --- */

/* The documentation's groups are the categories by other names; the first that applies counts. NULL: none does. */
static const char *group_by_category(const struct command *cmd)
{
	static const char *const groups[][2] = {
		{ "hyperloglog", "hyperloglog" }, { "bitmap", "bitmap" }, { "geo", "geo" }, { "stream", "stream" }, { "hash", "hash" },
		{ "scripting", "scripting" }, { "transaction", "transactions" }, { "pubsub", "pubsub" }, { "connection", "connection" },
		{ "keyspace", "generic" }, { "sortedset", "sorted-set" }, { "set", "set" }, { "list", "list" }, { "string", "string" },
	};

	for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
		for (unsigned bit = 0; cmd_category_names[bit]; bit++)
			if (cmd->categories >> bit & 1 && strcmp(cmd_category_names[bit], groups[i][0]) == 0)
				return groups[i][1];
	return NULL;
}

/* The group is not in the table, and follows from what is there for all but a few of the servers' own (DBSIZE, SORT, WAIT …). */
static const char *group_of(const struct command *cmd)
{
	const char *group = group_by_category(cmd);

	if (cmd->categories == 0)
		return "module";
	if (cmd->local == LOCAL_READONLY)
		return "cluster";
	if (!group && cmd->flags & CMD_CONTAINER)
		for (const struct command *sub = next_sub(cmd, NULL); sub && !group; sub = next_sub(cmd, sub))
			group = group_by_category(sub);
	return group ? group : "server";
}

static sds cat_docs(sds s, int proto, const struct command *cmd, const struct knowledge *k)
{
	unsigned subs = count_subs(cmd, k);

	s = local_cat_text(s, cmd->name);
	s = local_cat_aggregate(s, proto, '%', 3 + (subs > 0));
	s = local_cat_text(local_cat_text(s, "summary"), "");
	s = local_cat_text(local_cat_text(s, "since"), since_of(cmd, k));
	s = local_cat_text(local_cat_text(s, "group"), group_of(cmd));
	if (!subs)
		return s;
	s = local_cat_aggregate(local_cat_text(s, "subcommands"), proto, '%', subs);
	for (const struct command *sub = next_sub(cmd, NULL); sub; sub = next_sub(cmd, sub))
		if (is_shown(sub, k))
			s = cat_docs(s, proto, sub, k);
	return s;
}

void local_command_docs(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct knowledge k = known_to(w);
	const struct command *row;
	sds body = sdsempty();
	int64_t n = 0;

	(void)cmd;
	for (uint32_t i = 2; i < argc; i++) {
		if (!(row = find_shown(w->argv[i], &k)))
			continue;
		body = cat_docs(body, c->proto, row, &k);
		n++;
	}
	for (unsigned i = 0; argc == 2 && i < command_count; i++) {
		if (is_sub(&command_table[i]) || !is_shown(&command_table[i], &k))
			continue;
		body = cat_docs(body, c->proto, &command_table[i], &k);
		n++;
	}
	client_reply(w, c, sdscatsds(local_cat_aggregate(sdsempty(), c->proto, '%', n), body));
	sdsfree(body);
}

/* --- COMMAND LIST --- */

struct filter {
	enum { FILTER_NONE, FILTER_MODULE, FILTER_CATEGORY, FILTER_PATTERN } by;
	struct slice word;
};

static bool is_in_category(const struct command *cmd, struct slice category)
{
	for (unsigned bit = 0; cmd_category_names[bit]; bit++)
		if (slice_is(category, cmd_category_names[bit]))
			return cmd->categories >> bit & 1;
	return false;
}

static bool passes(const struct command *cmd, const struct filter *f)
{
	switch (f->by) {
	case FILTER_NONE:
		return true;
	case FILTER_CATEGORY:
		return is_in_category(cmd, f->word);
	case FILTER_PATTERN:
		return glob_match(f->word, slice(cmd->name, strlen(cmd->name)), true);
	case FILTER_MODULE: /* which command is of which module is not known */
		break;
	}
	return false;
}

static bool parse_filter(uint32_t argc, const struct slice *argv, struct filter *f)
{
	if (argc == 2)
		return true;
	if (argc != 5 || !slice_is(argv[2], "FILTERBY"))
		return false;
	f->word = argv[4];
	f->by = slice_is(argv[3], "MODULE") ? FILTER_MODULE :
		slice_is(argv[3], "ACLCAT") ? FILTER_CATEGORY :
		slice_is(argv[3], "PATTERN") ? FILTER_PATTERN : FILTER_NONE;
	return f->by != FILTER_NONE;
}

void local_command_list(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct knowledge k = known_to(w);
	struct filter f = { FILTER_NONE, { NULL, 0 } };
	sds body = sdsempty();
	int64_t n = 0;

	(void)cmd;
	if (!parse_filter(argc, w->argv, &f)) {
		client_error(w, c, "ERR syntax error");
		sdsfree(body);
		return;
	}
	for (unsigned i = 0; i < command_count; i++) {
		if (!is_shown(&command_table[i], &k) || !passes(&command_table[i], &f))
			continue;
		body = local_cat_text(body, command_table[i].name);
		n++;
	}
	client_reply(w, c, sdscatsds(resp_cat_len(sdsempty(), '*', n), body));
	sdsfree(body);
}

/* --- COMMAND GETKEYS --- */

static bool has_keys(const struct command *cmd)
{
	for (unsigned i = 0; i < cmd->nspecs; i++)
		if (!(cmd->specs[i].flags & KEY_NOT_KEY))
			return true;
	return false;
}

/* The row of the request that is asked about, refused ones included: where keys are is no secret. NULL: the source does not know it. */
static const struct command *asked_row(uint32_t argc, const struct slice *argv, const struct knowledge *k)
{
	const struct command *row = command_find(argv[0]);

	if (row && row->flags & CMD_CONTAINER && argc > 1)
		row = command_find_sub(row, argv[1]);
	return row && is_known(row, k) ? row : NULL;
}

static int keys_of(struct worker *w, const struct command *row, uint32_t argc, const struct slice *argv)
{
	int n;

	while ((n = command_keys(row, argc, argv, w->keys, (int)w->keys_cap)) > (int)w->keys_cap) {
		w->keys_cap = (size_t)n;
		w->keys = realloc(w->keys, w->keys_cap * sizeof *w->keys);
		if (!w->keys)
			abort();
	}
	return n;
}

void local_command_getkeys(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct knowledge k = known_to(w);
	const struct slice *argv = w->argv + 2;
	const struct command *row = asked_row(argc - 2, argv, &k);
	int n;

	if (!row) {
		client_error(w, c, "ERR Invalid command specified");
		return;
	}
	if (!has_keys(row)) {
		client_error(w, c, "ERR The command has no key arguments");
		return;
	}
	if (!command_arity_ok(row, argc - 2)) {
		client_error(w, c, "ERR Invalid number of arguments specified for command");
		return;
	}
	n = keys_of(w, row, argc - 2, argv);
	if (n <= 0 && row->keys != KEYS_SCRIPT) { /* only scripts may have none */
		client_error(w, c, "ERR Invalid arguments specified for command");
		return;
	}
	sds s = resp_cat_len(sdsempty(), '*', n > 0 ? n : 0);
	for (int i = 0; i < n; i++) {
		if (cmd->local == LOCAL_COMMAND_GETKEYSANDFLAGS)
			s = resp_cat_len(s, '*', 2);
		s = resp_cat_bulk(s, argv[w->keys[i].index]);
		if (cmd->local == LOCAL_COMMAND_GETKEYSANDFLAGS)
			s = cat_flags(s, c->proto, w->keys[i].flags & ~(uint32_t)KEY_VARIABLE_FLAGS, key_flags, NULL);
	}
	client_reply(w, c, s);
}
