/* What the replies of the nodes mean. Replies are RESP3; what is not of the expected shape is taken for "not told". */
#include <stdlib.h>
#include <time.h>

#include "backfill/recipe.h"
#include "proxy/discovery_parse.h"
#include "proxy/preflight_internal.h"
#include "resp/parse.h"

/* ---- walking ---- */

bool items_begin(struct items *it, struct slice reply)
{
	struct resp_item item;
	size_t used = resp_item(reply.p, reply.p + reply.n, &item);

	if (!used || (item.type != '*' && item.type != '%' && item.type != '~'))
		return false;
	*it = (struct items){ reply.p + used, reply.p + reply.n, item.n };
	return true;
}

bool items_next(struct items *it, struct slice *value)
{
	size_t n = it->left > 0 ? resp_value_len(it->p, it->end) : 0;

	if (!n)
		return false;
	*value = slice(it->p, n);
	it->p += n;
	it->left--;
	return true;
}

bool is_error(struct slice reply, struct slice *text)
{
	struct resp_item item;

	if (!resp_item(reply.p, reply.p + reply.n, &item) || (item.type != '-' && item.type != '!'))
		return false;
	*text = item.text;
	return true;
}

struct slice text_of(struct slice reply)
{
	struct resp_item item;

	if (!resp_item(reply.p, reply.p + reply.n, &item) || (item.type != '$' && item.type != '+' && item.type != '='))
		return slice(NULL, 0);
	return item.text;
}

struct slice map_value(struct slice map, const char *name)
{
	struct items it;
	struct slice key, value;

	if (!items_begin(&it, map))
		return slice(NULL, 0);
	while (items_next(&it, &key) && items_next(&it, &value)) {
		struct slice text = text_of(key);
		if (text.p && slice_is(text, name))
			return value;
	}
	return slice(NULL, 0);
}

const struct command *row_of(struct slice name)
{
	const char *bar = memchr(name.p, '|', name.n);
	const struct command *cmd = command_find(bar ? slice(name.p, (size_t)(bar - name.p)) : name);

	if (!cmd || !bar)
		return cmd;
	return cmd->flags & CMD_CONTAINER ? command_find_sub(cmd, slice(bar + 1, name.n - (size_t)(bar + 1 - name.p))) : NULL;
}

/* ---- INFO ---- */

static uint64_t number(struct slice s)
{
	uint64_t n = 0;

	for (size_t i = 0; i < s.n && s.p[i] >= '0' && s.p[i] <= '9'; i++)
		n = n * 10 + (uint64_t)(s.p[i] - '0');
	return n;
}

static uint64_t field_of(struct slice value, const char *name)
{
	const char *at = memmem(value.p, value.n, name, strlen(name));

	return at ? number(slice(at + strlen(name), value.n - (size_t)(at + strlen(name) - value.p))) : 0;
}

static void copy_text(char *to, size_t cap, struct slice s)
{
	snprintf(to, cap, "%.*s", (int)s.n, s.p);
}

/* cmdstat_config|get:calls=3,… */
static void info_calls(struct check_node *n, struct slice command, struct slice value)
{
	struct check_side *s = &n->p->sides[n->side];
	const struct command *cmd = row_of(command);
	uint64_t calls = field_of(value, "calls=");

	if (calls == 0)
		return;
	if (cmd)
		s->calls[cmd->id] += calls;
	else
		names_get(&s->unknown_calls, command)->n += calls;
}

/* db3:keys=7,expires=0,…,subexpiry=1 (Redis 7.4 on) or keys_with_volatile_items=1 (Valkey 9 on) */
static void info_keyspace(struct node_info *i, struct slice db, struct slice value)
{
	uint64_t keys = field_of(value, "keys="), which = number(slice(db.p + 2, db.n - 2));

	i->keys += keys;
	i->field_expiry += field_of(value, "subexpiry=") + field_of(value, "keys_with_volatile_items=");
	if (which == 0 || keys == 0)
		return;
	i->keys_beyond += keys;
	i->dbs_beyond++;
	if (which > i->last_db)
		i->last_db = which;
}

static void info_field(struct check_node *n, struct slice name, struct slice value)
{
	struct node_info *i = &n->info;
	const struct { const char *name; uint64_t *to; } numbers[] = {
		{ "used_memory", &i->used_memory }, { "maxmemory", &i->maxmemory }, { "total_system_memory", &i->system_memory },
		{ "evicted_keys", &i->evicted }, { "connected_slaves", &i->replicas },
	};

	for (unsigned k = 0; k < sizeof(numbers) / sizeof(numbers[0]); k++)
		if (slice_is(name, numbers[k].name))
			*numbers[k].to = number(value);
	if (slice_is(name, "valkey_version") || (slice_is(name, "redis_version") && i->product == PRODUCT_REDIS)) {
		i->there = true;
		i->product = *name.p == 'v' ? PRODUCT_VALKEY : PRODUCT_REDIS;
		i->version = version_parse(value.p, value.n);
		copy_text(i->version_text, sizeof(i->version_text), value);
	} else if (slice_is(name, "cluster_enabled")) {
		i->cluster = slice_is(value, "1");
	} else if (slice_is(name, "maxmemory_policy")) {
		copy_text(i->policy, sizeof(i->policy), value);
	} else if (name.n > 8 && memcmp(name.p, "cmdstat_", 8) == 0) {
		info_calls(n, slice(name.p + 8, name.n - 8), value);
	} else if (name.n > 2 && memcmp(name.p, "db", 2) == 0 && name.p[name.n - 1] >= '0' && name.p[name.n - 1] <= '9') {
		info_keyspace(i, name, value);
	}
}

void take_info(struct check_node *n, unsigned number_, struct slice reply)
{
	struct slice text = text_of(reply);
	struct timespec ts;

	(void)number_;
	for (const char *p = text.p, *end = text.p + text.n; p && p < end;) {
		const char *nl = memchr(p, '\n', (size_t)(end - p)), *stop = nl ? nl : end;
		const char *colon = memchr(p, ':', (size_t)(stop - p));
		if (colon && *p != '#')
			info_field(n, slice(p, (size_t)(colon - p)), slice(colon + 1, (size_t)(stop - colon - 1) - (stop[-1] == '\r')));
		p = stop + 1;
	}
	clock_gettime(CLOCK_REALTIME, &ts);
	n->asked_time_us = (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
	ask(n, take_time, 0, "TIME", NULL); /* now that the connection stands: its time is not that of connecting */
}

void take_time(struct check_node *n, unsigned number_, struct slice reply)
{
	int64_t there = time_parse(reply);
	struct timespec ts;

	(void)number_;
	clock_gettime(CLOCK_REALTIME, &ts);
	int64_t now = (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
	if (!there)
		return;
	n->clock_offset_us = there - (n->asked_time_us + now) / 2;
	n->round_trip_us = now - n->asked_time_us;
}

/* ---- the others ---- */

void take_modules(struct check_node *n, unsigned number_, struct slice reply)
{
	struct items it;
	struct slice module;
	bool any = false;

	(void)number_;
	n->modules_known = items_begin(&it, reply);
	while (n->modules_known && items_next(&it, &module)) {
		struct slice name = text_of(map_value(module, "name"));
		if (!name.p)
			continue;
		names_get(&n->p->sides[n->side].modules, name);
		any = true;
	}
	if (n->side == SIDE_SOURCE && (any || !n->modules_known))
		sample_begin(n); /* without modules there are only the types of every server */
}

void take_libraries(struct check_node *n, unsigned first, struct slice reply)
{
	struct items it;
	struct slice library;

	if (!items_begin(&it, reply))
		return;
	while (items_next(&it, &library)) {
		struct slice name = text_of(map_value(library, "library_name")), engine = text_of(map_value(library, "engine"));
		struct slice code = text_of(map_value(library, "library_code"));
		if (!name.p || !engine.p || !code.p)
			continue;
		uint64_t sum = crc64_jones(crc64_jones(crc64_jones(0, name.p, name.n), engine.p, engine.n), code.p, code.n);
		n->libraries_sum += sum;
		if (!first && n->side == SIDE_SOURCE)
			continue;
		struct name *l = names_get(&n->p->sides[n->side].libraries, name);
		copy_text(l->beside, sizeof(l->beside), engine);
		l->n = sum;
	}
}

void take_engines(struct check_node *n, unsigned number_, struct slice reply)
{
	struct items it;
	struct slice name, value;

	(void)number_;
	if (!items_begin(&it, map_value(reply, "engines")))
		return;
	while (items_next(&it, &name) && items_next(&it, &value))
		if (text_of(name).p)
			names_get(&n->p->sides[n->side].engines, text_of(name));
}

void take_command_list(struct check_node *n, unsigned number_, struct slice reply)
{
	struct check_side *s = &n->p->sides[n->side];
	struct items it;
	struct slice value;

	(void)number_;
	if (!items_begin(&it, reply))
		return;
	s->lists_commands = true;
	while (items_next(&it, &value)) {
		struct slice name = text_of(value);
		const struct command *cmd = name.p ? row_of(name) : NULL;
		if (cmd)
			s->knows[cmd->id] = 1;
	}
}

void take_cluster_info(struct check_node *n, unsigned number_, struct slice reply)
{
	struct slice text = text_of(reply);

	(void)number_;
	n->cluster_fails = text.p && !memmem(text.p, text.n, "cluster_state:ok", 16);
}
