#include "proxy/discovery_parse.h"

#include <stdlib.h>

#include "proxy/address.h"
#include "resp/digits.h"
#include "resp/parse.h"

static bool text_of(struct slice reply, struct slice *text)
{
	struct resp_item item;

	if (!resp_item(reply.p, reply.p + reply.n, &item) || (item.type != '$' && item.type != '=' && item.type != '+'))
		return false;
	*text = item.text;
	return true;
}

/* Takes a line off the text; without its end. */
static bool next_line(struct slice *text, struct slice *line)
{
	if (text->n == 0)
		return false;
	const char *nl = memchr(text->p, '\n', text->n);
	size_t n = nl ? (size_t)(nl - text->p) : text->n;
	*line = slice(text->p, n && text->p[n - 1] == '\r' ? n - 1 : n);
	n += nl ? 1 : 0;
	*text = slice(text->p + n, text->n - n);
	return true;
}

/* Takes a word off a line. */
static bool next_word(struct slice *line, struct slice *word)
{
	while (line->n && *line->p == ' ')
		*line = slice(line->p + 1, line->n - 1);
	if (line->n == 0)
		return false;
	const char *sp = memchr(line->p, ' ', line->n);
	size_t n = sp ? (size_t)(sp - line->p) : line->n;
	*word = slice(line->p, n);
	*line = slice(line->p + n, line->n - n);
	return true;
}

static void copy_text(char *to, size_t cap, struct slice s)
{
	snprintf(to, cap, "%.*s", (int)s.n, s.p);
}

static uint64_t number(struct slice s)
{
	uint64_t n = 0;

	for (size_t i = 0; i < s.n && s.p[i] >= '0' && s.p[i] <= '9'; i++)
		n = n * 10 + (uint64_t)(s.p[i] - '0');
	return n;
}

/* ---- INFO ---- */

uint32_t version_parse(const char *p, size_t n)
{
	uint32_t part[3] = { 0, 0, 0 };
	unsigned at = 0;

	for (size_t i = 0; i < n && at < 3; i++) {
		if (p[i] == '.')
			at++;
		else if (p[i] >= '0' && p[i] <= '9')
			part[at] = (part[at] * 10 + (uint32_t)(p[i] - '0')) & 0xff;
		else
			break;
	}
	return part[0] << 16 | part[1] << 8 | part[2];
}

/* "keys=1,expires=0,avg_ttl=0": the number behind name=. */
static uint64_t field_of(struct slice value, const char *name)
{
	const char *at = memmem(value.p, value.n, name, strlen(name));

	return at ? number(slice(at + strlen(name), value.n - (size_t)(at + strlen(name) - value.p))) : 0;
}

static void info_field(struct server_info *i, struct slice name, struct slice value)
{
	if (slice_is(name, "redis_version") && i->product == PRODUCT_REDIS) {
		i->version = version_parse(value.p, value.n);
	} else if (slice_is(name, "valkey_version")) {
		i->product = PRODUCT_VALKEY;
		i->version = version_parse(value.p, value.n);
	} else if (slice_is(name, "cluster_enabled")) {
		i->cluster = slice_is(value, "1");
	} else if (slice_is(name, "role")) {
		i->replica = slice_is(value, "slave");
	} else if (slice_is(name, "loading")) {
		i->loading = slice_is(value, "1");
	} else if (slice_is(name, "run_id")) {
		copy_text(i->run_id, sizeof(i->run_id), value);
	} else if (slice_is(name, "master_replid")) {
		copy_text(i->replid[0], sizeof(i->replid[0]), value);
	} else if (slice_is(name, "master_replid2")) {
		copy_text(i->replid[1], sizeof(i->replid[1]), value);
	} else if (slice_is(name, "connected_slaves")) {
		i->replicas = (uint16_t)number(value);
	} else if (name.n > 2 && memcmp(name.p, "db", 2) == 0 && name.p[2] >= '0' && name.p[2] <= '9') {
		uint64_t db = number(slice(name.p + 2, name.n - 2));
		if (db < DBS_MAX)
			db_set_add(&i->dbs, (unsigned)db);
		i->keys += field_of(value, "keys=");
		i->expires += field_of(value, "expires=");
	}
}

bool info_parse(struct slice reply, struct server_info *i)
{
	struct slice text, line;

	memset(i, 0, sizeof(*i));
	if (!text_of(reply, &text))
		return false;
	while (next_line(&text, &line)) {
		const char *colon = memchr(line.p, ':', line.n);
		if (!colon || *line.p == '#')
			continue;
		size_t n = (size_t)(colon - line.p);
		info_field(i, slice(line.p, n), slice(colon + 1, line.n - n - 1));
	}
	if (i->replid[1][0] == '0') /* forty zeros: none */
		i->replid[1][0] = '\0';
	return i->version != 0;
}

/* ---- CLUSTER SLOTS ---- */

static unsigned find_or_add(struct cluster_slots *c, struct slice id, const char *host, uint16_t port)
{
	for (unsigned i = 0; i < c->nnodes; i++)
		if (strlen(c->nodes[i].id) == id.n && memcmp(c->nodes[i].id, id.p, id.n) == 0)
			return i;
	if (c->nnodes == c->cap) {
		c->cap = c->cap ? c->cap * 2 : 16;
		c->nodes = realloc(c->nodes, c->cap * sizeof(*c->nodes));
	}
	struct cluster_node *n = &c->nodes[c->nnodes];
	memset(n, 0, sizeof(*n));
	copy_text(n->id, sizeof(n->id), id);
	snprintf(n->at.host, sizeof(n->at.host), "%s", host);
	n->at.port = port;
	return c->nnodes++;
}

/* [host, port, id, …]; a null or empty host, or "?", is the asked one. Returns the index or NODE_NONE. */
static unsigned slots_node(struct cluster_slots *c, const char *p, const char *end, const char *asked)
{
	struct resp_item array, host, port, id;
	char name[256];
	size_t n = resp_item(p, end, &array);

	if (!n || array.type != '*' || array.n < 3)
		return NODE_NONE;
	p += n;
	if (!(n = resp_item(p, end, &host)))
		return NODE_NONE;
	p += n;
	if (!(n = resp_item(p, end, &port)) || port.type != ':')
		return NODE_NONE;
	p += n;
	if (!resp_item(p, end, &id) || id.type != '$' || id.text.n == 0 || id.text.n >= sizeof(c->nodes->id))
		return NODE_NONE;
	if (host.type != '$' || host.text.n == 0 || slice_is(host.text, "?"))
		snprintf(name, sizeof(name), "%s", asked);
	else
		copy_text(name, sizeof(name), host.text);
	return find_or_add(c, id.text, name, (uint16_t)port.n);
}

static bool slots_range(struct cluster_slots *c, const char *p, const char *end, const char *asked)
{
	struct resp_item array, first, last;
	size_t n = resp_item(p, end, &array);

	if (!n || array.type != '*' || array.n < 3)
		return false;
	p += n;
	if (!(n = resp_item(p, end, &first)))
		return false;
	p += n;
	if (!(n = resp_item(p, end, &last)))
		return false;
	p += n;
	if (first.type != ':' || last.type != ':' || first.n < 0 || last.n < first.n || last.n >= SLOTS)
		return false;
	unsigned node = slots_node(c, p, end, asked); /* the primary comes first */
	if (node == NODE_NONE)
		return false;
	for (int64_t slot = first.n; slot <= last.n; slot++)
		c->slot_node[slot] = (uint16_t)node;
	return true;
}

bool cluster_slots_parse(struct slice reply, const char *asked, struct cluster_slots *c)
{
	const char *p = reply.p, *end = reply.p + reply.n;
	struct resp_item array;
	size_t n = resp_item(p, end, &array);

	memset(c, 0, sizeof(*c));
	for (unsigned i = 0; i < SLOTS; i++)
		c->slot_node[i] = NODE_NONE;
	if (!n || array.type != '*')
		return false;
	p += n;
	for (int64_t i = 0; i < array.n; i++) {
		if (!(n = resp_value_len(p, end)) || !slots_range(c, p, p + n, asked))
			return false;
		p += n;
	}
	return true;
}

void cluster_slots_release(struct cluster_slots *c)
{
	free(c->nodes);
	free(c->members);
	memset(c, 0, sizeof(*c));
}

/* ---- CLUSTER NODES: id ip:port@cport[,hostname] flags master ping pong epoch link slots… ---- */

struct nodes_line {
	struct slice id, address, flags, claims; /* claims: the words about slots */
	bool slots, migrating;
};

static bool nodes_line(struct slice line, struct nodes_line *l)
{
	struct slice skip;

	memset(l, 0, sizeof(*l));
	if (!next_word(&line, &l->id) || !next_word(&line, &l->address) || !next_word(&line, &l->flags))
		return false;
	for (int i = 0; i < 5; i++)
		if (!next_word(&line, &skip))
			return false;
	l->claims = line;
	while (next_word(&line, &skip)) {
		if (*skip.p == '[')
			l->migrating = true;
		else
			l->slots = true;
	}
	return true;
}

static bool has_flag(struct slice flags, const char *name)
{
	size_t n = strlen(name);

	for (const char *p = flags.p, *end = flags.p + flags.n; p < end;) {
		const char *comma = memchr(p, ',', (size_t)(end - p));
		size_t len = comma ? (size_t)(comma - p) : (size_t)(end - p);
		if (len == n && memcmp(p, name, n) == 0)
			return true;
		p += len + 1;
	}
	return false;
}

/* Do the nodes of CLUSTER SLOTS go by their hostnames? Then one without slots is reached by its own, too. */
static bool by_hostname(const struct cluster_slots *c, const struct nodes_line *l, struct slice hostname)
{
	for (unsigned i = 0; hostname.n && i < c->nnodes; i++)
		if (strlen(c->nodes[i].id) == l->id.n && memcmp(c->nodes[i].id, l->id.p, l->id.n) == 0)
			return strlen(c->nodes[i].at.host) == hostname.n && memcmp(c->nodes[i].at.host, hostname.p, hostname.n) == 0;
	return false;
}

static struct slice hostname_of(struct slice address)
{
	const char *comma = memchr(address.p, ',', address.n), *end = address.p + address.n;

	if (!comma)
		return slice(NULL, 0);
	const char *next = memchr(comma + 1, ',', (size_t)(end - comma - 1)); /* shard-id= and the like may follow */
	return slice(comma + 1, (size_t)((next ? next : end) - comma - 1));
}

static void add_without_slots(struct cluster_slots *c, const struct nodes_line *l, const char *asked, bool hostnames)
{
	const char *at = memchr(l->address.p, '@', l->address.n);
	struct slice hostname = hostname_of(l->address);
	struct host_port hp;

	if (!at || !address_split(l->address.p, (size_t)(at - l->address.p), &hp))
		return;
	if (hostnames && hostname.n && hostname.n < sizeof(hp.host))
		copy_text(hp.host, sizeof(hp.host), hostname);
	find_or_add(c, l->id, *hp.host ? hp.host : asked, hp.port);
}

static int by_id(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* A node in handshake has an id that is not its own. */
static void members_parse(struct slice text, struct cluster_slots *c)
{
	struct slice line;
	struct nodes_line l;

	while (next_line(&text, &line)) {
		if (!nodes_line(line, &l) || has_flag(l.flags, "handshake") || l.id.n >= sizeof(*c->members))
			continue;
		c->members = realloc(c->members, (c->nmembers + 1) * sizeof(*c->members));
		memset(c->members[c->nmembers], 0, sizeof(*c->members));
		copy_text(c->members[c->nmembers++], sizeof(*c->members), l.id);
	}
	if (c->nmembers)
		qsort(c->members, c->nmembers, sizeof(*c->members), by_id);
}

void cluster_nodes_parse(struct slice reply, const char *asked, struct cluster_slots *c)
{
	struct slice text, line, rest;
	struct nodes_line l;
	bool hostnames = false;

	if (!text_of(reply, &text))
		return;
	members_parse(text, c);
	rest = text;
	while (next_line(&rest, &line)) {
		if (!nodes_line(line, &l))
			continue;
		c->migrating |= l.migrating;
		hostnames |= by_hostname(c, &l, hostname_of(l.address));
	}
	rest = text;
	while (next_line(&rest, &line))
		if (nodes_line(line, &l) && has_flag(l.flags, "master") && !l.slots && !has_flag(l.flags, "fail") &&
		    !has_flag(l.flags, "handshake") && !has_flag(l.flags, "noaddr"))
			add_without_slots(c, &l, asked, hostnames);
}

bool cluster_nodes_migrating(struct slice reply)
{
	struct slice text, line;
	struct nodes_line l;

	if (!text_of(reply, &text))
		return false;
	while (next_line(&text, &line))
		if (nodes_line(line, &l) && l.migrating)
			return true;
	return false;
}

/* "5461-10922", "7", "[77->-id]", "[93-<-id]" */
static void claim(struct slice word, struct slot_set *has, struct slot_set *moving)
{
	struct slot_set *to = *word.p == '[' ? moving : has;
	struct slice first = *word.p == '[' ? slice(word.p + 1, word.n - 1) : word;
	const char *dash = memchr(first.p, '-', first.n);
	int64_t from, last;

	if (!resp_string_to_int(first.p, dash ? (size_t)(dash - first.p) : first.n, &from) || from < 0 || from >= SLOTS)
		return;
	if (to == moving || !dash || !resp_string_to_int(dash + 1, (size_t)(first.p + first.n - dash - 1), &last) || last >= SLOTS)
		last = from;
	for (; from <= last; from++)
		slot_set_add(to, (unsigned)from);
}

bool cluster_nodes_claims(struct slice reply, struct slot_set *has, struct slot_set *moving)
{
	struct slice text, line, word;
	struct nodes_line l;

	memset(has, 0, sizeof(*has));
	memset(moving, 0, sizeof(*moving));
	if (!text_of(reply, &text))
		return false;
	while (next_line(&text, &line)) {
		if (!nodes_line(line, &l) || !has_flag(l.flags, "myself"))
			continue;
		while (next_word(&l.claims, &word))
			claim(word, has, moving);
		return true;
	}
	return false;
}

int64_t time_parse(struct slice reply)
{
	const char *p = reply.p, *end = reply.p + reply.n;
	struct resp_item item, s, us;
	size_t n = resp_item(p, end, &item);

	if (!n || item.type != '*' || item.n != 2)
		return 0;
	p += n;
	if (!(n = resp_item(p, end, &s)) || !resp_item(p + n, end, &us))
		return 0;
	return (int64_t)(number(s.text) * 1000000 + number(us.text));
}
