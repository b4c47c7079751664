#include "proxy/preflight.h"

#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

#include "proxy/advice.h"
#include "proxy/preflight_internal.h"
#include "resp/write.h"

#define REPLY_TIMEOUT_MIN_S 2.0

/* ---- names ---- */

struct name *names_get(struct names *l, struct slice name)
{
	size_t n = name.n < sizeof(l->at->name) - 1 ? name.n : sizeof(l->at->name) - 1;

	for (unsigned i = 0; i < l->n; i++)
		if (strlen(l->at[i].name) == n && memcmp(l->at[i].name, name.p, n) == 0)
			return &l->at[i];
	if (l->n == l->cap) {
		l->cap = l->cap ? 2 * l->cap : 8;
		l->at = realloc(l->at, l->cap * sizeof(*l->at));
		if (!l->at)
			abort();
	}
	struct name *new = &l->at[l->n++];
	memset(new, 0, sizeof(*new));
	memcpy(new->name, name.p, n);
	return new;
}

const struct name *names_find(const struct names *l, const char *name)
{
	for (unsigned i = 0; i < l->n; i++)
		if (strcmp(l->at[i].name, name) == 0)
			return &l->at[i];
	return NULL;
}

void names_release(struct names *l)
{
	free(l->at);
	memset(l, 0, sizeof(*l));
}

sds names_text(sds out, const struct names *l)
{
	enum { SHOWN = 12 };

	for (unsigned i = 0; i < l->n && i < SHOWN; i++)
		out = sdscatprintf(out, "%s%s", i ? ", " : "", l->at[i].name);
	return l->n > SHOWN ? sdscatprintf(out, " and %d more", (int)l->n - SHOWN) : out;
}

/* ---- the report ---- */

/* What servers and clients named may hold any byte; JSON holds text. */
static json_t *json_text(const char *text)
{
	char clean[1024];
	size_t i;
	json_t *s = json_string(text);

	if (s)
		return s;
	for (i = 0; text[i] && i < sizeof(clean) - 1; i++)
		clean[i] = (unsigned char)text[i] < 128 ? text[i] : '?';
	clean[i] = '\0';
	return json_string(clean);
}

void say(struct preflight *p, enum level level, const char *check, const char *todo, const char *fmt, ...)
{
	static const char *const words[] = { "OK", "WARN", "ERR" };
	char text[1024];
	va_list ap;

	assert((level == LEVEL_OK) == (todo == NULL));
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	p->warnings += level == LEVEL_WARN;
	if (level == LEVEL_ERR && p->errors++ == 0)
		snprintf(p->first_error, sizeof(p->first_error), "%.250s; %.250s", text, todo);
	json_array_append_new(p->lines, json_pack("{sssssoso}", "check", check, "level", words[level], "text", json_text(text), "todo",
						 todo ? json_text(todo) : json_null()));
}

/* ---- asking ---- */

struct question {
	struct check_node *node;
	take_fn *take;
	unsigned number;
};

static void finish(struct preflight *p)
{
	judge_reachable(p);
	judge_servers(p);
	judge_data(p);
	judge_rights(p);
	judge_traffic(p);
	char *json = json_dumps(p->lines, JSON_COMPACT);
	struct preflight_result result = { p->warnings, p->errors, p->first_error, json };
	preflight_fn *fn = p->fn;
	p->fn = NULL; /* once */
	ev_timer_stop(p->in.loop, &p->limit);
	fn(p->arg, &result); /* may free p */
	free(json);
}

static void answered(struct preflight *p)
{
	assert(p->awaited > 0);
	if (--p->awaited == 0 && !p->closing && p->fn)
		finish(p);
}

static void on_reply(void *arg, struct slice reply, const char *why)
{
	struct question q = *(struct question *)arg;
	struct check_node *n = q.node;

	free(arg);
	n->awaited--;
	if (!reply.p && !n->lost) {
		n->lost = true;
		snprintf(n->why, sizeof(n->why), "%s", why);
	}
	if (!n->lost && !n->p->closing)
		q.take(n, q.number, reply);
	answered(n->p);
}

void ask_words(struct check_node *n, take_fn *take, unsigned number, unsigned argc, const struct slice *argv)
{
	struct question *q;

	if (n->lost || n->p->closing)
		return;
	if (!(q = malloc(sizeof(*q))))
		abort();
	*q = (struct question){ n, take, number };
	n->p->awaited++;
	n->awaited++;
	sds bytes = resp_cat_request(sdsempty(), (int)argc, argv);
	bulk_send(n->bulk, BULK_ANY_DB, bytes, sdslen(bytes), 1, on_reply, q);
	sdsfree(bytes);
}

void ask(struct check_node *n, take_fn *take, unsigned number, ...)
{
	struct slice argv[16];
	unsigned argc = 0;
	const char *word;
	va_list ap;

	va_start(ap, number);
	while ((word = va_arg(ap, const char *))) {
		assert(argc < 16);
		argv[argc++] = slice(word, strlen(word));
	}
	va_end(ap);
	ask_words(n, take, number, argc, argv);
}

static void ask_node(struct check_node *n, bool first)
{
	ask(n, take_info, 0, "INFO", "everything", NULL);
	ask(n, take_modules, 0, "MODULE", "LIST", NULL);
	ask(n, take_libraries, first, "FUNCTION", "LIST", "WITHCODE", NULL);
	if (n->p->sides[n->side].topology->cluster)
		ask(n, take_cluster_info, 0, "CLUSTER", "INFO", NULL);
	if (first) {
		ask(n, take_engines, 0, "FUNCTION", "STATS", NULL);
		ask(n, take_command_list, 0, "COMMAND", "LIST", NULL);
	}
	rights_ask(n);
}

/* ---- life ---- */

static void node_open(struct preflight *p, enum side side, struct check_node *n, const struct node *node)
{
	const struct config *config = p->in.config;
	struct bulk_options o = { .addr = node->addr, .addr_len = node->addr_len, .user = config->side[side].user, .password = config->side[side].password,
				  .tls = config->side[side].tls };

	o.connect_timeout_s = CONFIG_NOW(config->connect_timeout_ms) / 1000.0;
	o.reply_timeout_s = o.connect_timeout_s > REPLY_TIMEOUT_MIN_S ? o.connect_timeout_s : REPLY_TIMEOUT_MIN_S;
	snprintf(o.name, sizeof(o.name), "%s %s", side_name(side), node->name);
	memcpy(o.node, node->name, sizeof(o.node));
	*n = (struct check_node){ .p = p, .side = side, .node = node, .round_trip_us = -1 };
	n->commands = calloc(command_count, 1);
	n->bulk = bulk_new(p->in.loop, &o);
}

/* Those that have told the most important go as far as they have come. */
static void on_limit(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct preflight *p = w->data;

	(void)loop;
	(void)revents;
	for (int s = 0; s < SIDES; s++)
		for (unsigned i = 0; i < p->sides[s].nnodes; i++) {
			struct check_node *n = &p->sides[s].nodes[i];
			if (n->lost || n->awaited == 0 || n->info.there)
				continue;
			n->lost = true;
			snprintf(n->why, sizeof(n->why), "%s %s: no answer within %g s", side_name((enum side)s), n->node->name, p->in.limit_s);
		}
	finish(p);
}

static void on_begin(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct preflight *p = w->data;

	(void)loop;
	(void)revents;
	p->awaited = 1; /* its own, so that it does not end while it asks */
	traffic_collect(p);
	for (int s = 0; s < SIDES; s++)
		for (unsigned i = 0; i < p->sides[s].nnodes; i++)
			ask_node(&p->sides[s].nodes[i], i == 0);
	answered(p);
}

static void side_open(struct preflight *p, enum side side)
{
	struct check_side *s = &p->sides[side];

	s->configured = p->in.sides[side].configured;
	s->facts = p->in.sides[side].facts;
	s->knows = calloc(command_count, 1);
	s->calls = calloc(command_count, sizeof(*s->calls));
	if (!s->configured || !p->in.sides[side].topology)
		return;
	s->topology = topology_ref(p->in.sides[side].topology);
	s->nnodes = s->topology->nnodes;
	s->nodes = calloc(s->nnodes, sizeof(*s->nodes));
	for (unsigned i = 0; i < s->nnodes; i++)
		node_open(p, side, &s->nodes[i], &s->topology->nodes[i]);
}

struct preflight *preflight_new(const struct preflight_input *in, preflight_fn *fn, void *arg)
{
	struct preflight *p = calloc(1, sizeof(*p));

	if (!p)
		abort();
	p->in = *in;
	p->fn = fn;
	p->arg = arg;
	p->lines = json_array();
	p->seen = calloc(command_count, sizeof(*p->seen));
	p->cross_slot = calloc(command_count, sizeof(*p->cross_slot));
	p->in_multi = calloc(command_count, sizeof(*p->in_multi));
	for (int s = 0; s < SIDES; s++)
		side_open(p, (enum side)s);
	ev_timer_init(&p->begin, on_begin, 0., 0.);
	ev_timer_init(&p->limit, on_limit, in->limit_s, 0.);
	p->begin.data = p->limit.data = p;
	ev_timer_start(p->in.loop, &p->begin);
	ev_timer_start(p->in.loop, &p->limit);
	return p;
}

static void side_close(struct check_side *s)
{
	for (unsigned i = 0; i < s->nnodes; i++) {
		bulk_free(s->nodes[i].bulk); /* answers what is awaited */
		for (unsigned k = 0; k < s->nodes[i].nbatch; k++)
			sdsfree(s->nodes[i].batch[k]);
		free(s->nodes[i].batch);
		free(s->nodes[i].commands);
	}
	free(s->nodes);
	free(s->knows);
	free(s->calls);
	names_release(&s->modules);
	names_release(&s->libraries);
	names_release(&s->engines);
	names_release(&s->types);
	names_release(&s->unknown_calls);
	topology_unref(s->topology);
}

void preflight_free(struct preflight *p)
{
	if (!p)
		return;
	p->closing = true;
	ev_timer_stop(p->in.loop, &p->begin);
	ev_timer_stop(p->in.loop, &p->limit);
	for (int s = 0; s < SIDES; s++)
		side_close(&p->sides[s]);
	if (p->fn)
		p->fn(p->arg, NULL);
	names_release(&p->unknown);
	json_decref(p->lines);
	free(p->seen);
	free(p->cross_slot);
	free(p->in_multi);
	free(p);
}

/* ---- shared by the judges ---- */

bool side_answers(const struct check_side *s)
{
	for (unsigned i = 0; i < s->nnodes; i++)
		if (s->nodes[i].info.there)
			return true;
	return false;
}

bool both_answer(const struct preflight *p)
{
	return side_answers(&p->sides[SIDE_SOURCE]) && side_answers(&p->sides[SIDE_TARGET]);
}

const char *side_label(const struct check_side *s, enum side side, char out[64])
{
	const struct node_info *i = NULL;

	for (unsigned k = 0; k < s->nnodes && !i; k++)
		if (s->nodes[k].info.there)
			i = &s->nodes[k].info;
	if (i)
		snprintf(out, 64, "%s %s-%s", side_name(side), i->product == PRODUCT_VALKEY ? "valkey" : "redis", i->version_text);
	else
		snprintf(out, 64, "%s", side_name(side));
	return out;
}

/* Which bit of the table's `servers` stands for it; the older neighbour of those in between. */
static unsigned server_bit(enum product product, uint32_t version)
{
	if (product == PRODUCT_REDIS)
		return version >= 0x080000 ? SERVER_REDIS_8_0 : SERVER_REDIS_7_0;
	return version >= 0x090100 ? SERVER_VALKEY_9_1 : version >= 0x080100 ? SERVER_VALKEY_8_1 : SERVER_VALKEY_8_0;
}

bool server_knows(const struct check_side *s, const struct command *cmd)
{
	if (s->lists_commands)
		return s->knows[cmd->id] != 0;
	return (cmd->servers & server_bit(s->topology->product, s->topology->version)) != 0;
}

/* ---- who answers ---- */

static void judge_nodes(struct preflight *p, enum side side)
{
	const struct check_side *s = &p->sides[side];
	unsigned lost = 0;

	for (unsigned i = 0; i < s->nnodes; i++) {
		const struct check_node *n = &s->nodes[i];
		if (!n->lost && n->info.there)
			continue;
		lost++;
		const char *why = n->lost ? n->why : "it refuses INFO";
		say(p, LEVEL_ERR, "reachable", advice_unreachable(side, n->lost ? why : "NOPERM"), "%s%s%s", n->lost ? "" : side_name(side), n->lost ? "" : " ", why);
	}
	if (lost == 0 && s->facts.up)
		say(p, LEVEL_OK, "reachable", NULL, "%s: %u of %u primaries answer, as user '%s'%s", side_name(side), s->nnodes, s->nnodes,
		    p->in.config->side[side].user ? p->in.config->side[side].user : "default",
		    p->in.config->side[side].password ? "" : ", without a password");
	else if (lost == 0)
		say(p, LEVEL_ERR, "reachable", advice_unreachable(side, s->facts.down), "the %s does not answer as a whole: %s", side_name(side), s->facts.down);
}

void judge_reachable(struct preflight *p)
{
	for (int side = 0; side < SIDES; side++) {
		const struct check_side *s = &p->sides[side];
		if (!s->configured && side == SIDE_TARGET)
			say(p, LEVEL_WARN, "reachable", "set target-nodes in the configuration and start crossfade again, then check again",
			    "no target is configured: only the source was looked at");
		else if (!s->configured)
			say(p, LEVEL_OK, "reachable", NULL, "the source was let go by finish");
		else if (!s->topology)
			say(p, LEVEL_ERR, "reachable", advice_unreachable((enum side)side, s->facts.down), "the %s has not been reached: %s",
			    side_name((enum side)side), s->facts.down);
		else
			judge_nodes(p, (enum side)side);
	}
}
