/* CLIENT LIST, INFO and KILL: about the clients of all workers. Each worker is asked by a message and answers with its lines, or closes what is to be
 * closed; the worker of the client that asked puts them together. */
#include "proxy/local.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "proxy/address.h"
#include "proxy/client.h"
#include "proxy/tracking.h"
#include "resp/digits.h"
#include "resp/write.h"

/* --- one client as a line --- */

void client_end_name(char *name, size_t n, const struct client *c, bool peer)
{
	struct sockaddr_un a = { 0 };
	socklen_t len = sizeof a - 1;
	char host[INET6_ADDRSTRLEN];
	int port;

	if (local_end(c->reader.fd, peer, host, &port))
		address_name(name, n, host, (uint16_t)port);
	else if (getsockname(c->reader.fd, (struct sockaddr *)&a, &len) == 0 && a.sun_family == AF_UNIX) /* both ends go by its path */
		snprintf(name, n, "%s:0", a.sun_path);
	else
		snprintf(name, n, "?:0");
}

static int64_t age_s(const struct client *c)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (ts.tv_sec * 1000LL + ts.tv_nsec / 1000000 - c->since_ms) / 1000;
}

static int64_t idle_s(const struct client *c)
{
	return (int64_t)(ev_now(c->worker->loop) - c->seen);
}

/* Who has not logged in counts as the default user. */
static const char *user_of(const struct client *c)
{
	return c->user ? c->user->name : "default";
}

/* In the servers' order of letters. */
static void flags_of(char *out, const struct client *c)
{
	char *p = out;
	struct sockaddr end;
	socklen_t len = sizeof end;

	if (c->is_monitor)
		*p++ = 'O';
	if (pubsub_is_subscribed(c))
		*p++ = 'P';
	if (c->session && c->session->txn)
		*p++ = 'x';
	if (c->parked)
		*p++ = 'b';
	p = tracking_flags(c, p);
	if (getsockname(c->reader.fd, &end, &len) == 0 && end.sa_family == AF_UNIX)
		*p++ = 'U';
	if (c->no_evict)
		*p++ = 'e';
	if (c->no_touch)
		*p++ = 'T';
	if (p == out)
		*p++ = 'N';
	*p = '\0';
}

/* Sizes that mean nothing here are 0: an idle client holds no buffer. */
static sds cat_line(sds s, const struct identity *id, const struct client *c)
{
	bool is_7_2 = id->number >= 0x070200;
	char addr[ADDRESS_NAME_MAX], laddr[ADDRESS_NAME_MAX], flags[16];

	client_end_name(addr, sizeof addr, c, true);
	client_end_name(laddr, sizeof laddr, c, false);
	flags_of(flags, c);
	s = sdscatprintf(s, "id=%llu addr=%s laddr=%s fd=%d name=%s age=%lld idle=%lld flags=%s", (unsigned long long)c->id, addr, laddr, c->reader.fd,
			 c->name ? c->name : "", (long long)age_s(c), (long long)idle_s(c), flags);
	if (id->valkey && id->number >= 0x080100)
		s = sdscat(s, c->session && c->session->capa_redirect ? " capa=r" : " capa=");
	s = sdscatprintf(s, " db=%u sub=%u psub=%u ssub=%u multi=%d", c->db, pubsub_count(c, TOPIC_CHANNEL), pubsub_count(c, TOPIC_PATTERN),
			 pubsub_count(c, TOPIC_SHARD), c->session && c->session->txn ? (int)c->session->txn->n : -1);
	if (is_7_2)
		s = sdscatprintf(s, " watch=%u", c->session && c->session->watching ? c->session->watched : 0);
	s = sdscatprintf(s, " qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=%zu tot-mem=%zu events=r cmd=%s user=%s "
			 "redir=%lld resp=%d", c->out.bytes, c->out.bytes, c->last ? c->last->name : "NULL", user_of(c), (long long)tracking_redirection(c), c->proto);
	if (is_7_2)
		s = sdscatprintf(s, " lib-name=%s lib-ver=%s", c->lib_name ? c->lib_name : "", c->lib_ver ? c->lib_ver : "");
	if (id->valkey && id->number >= 0x080000)
		s = sdscat(s, " tot-net-in=0 tot-net-out=0 tot-cmds=0");
	else if (id->number >= 0x080000)
		s = sdscat(s, " io-thread=0");
	return s;
}

sds client_cat_info(sds s, const struct worker *w, const struct client *c)
{
	struct identity id = local_identity(w);

	return cat_line(s, &id, c);
}

void local_client_info(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	sds s = sdscat(client_cat_info(sdsempty(), w, c), "\n");

	(void)cmd;
	(void)argc;
	client_reply(w, c, local_cat_verbatim(sdsempty(), c->proto, slice(s, sdslen(s))));
	sdsfree(s);
}

/* --- which clients --- */

enum client_type { TYPE_ANY, TYPE_NORMAL, TYPE_PUBSUB, TYPE_OTHER /* of servers: nobody here */ };

struct filter {
	uint64_t *ids;
	uint32_t nids;
	enum client_type type;
	sds addr, laddr, name, lib_name, lib_ver, ip, user;
	int64_t maxage, idle; /* -1: any */
	bool skip_me;
	uint64_t me;
};

static void filter_release(struct filter *f)
{
	free(f->ids);
	sdsfree(f->addr);
	sdsfree(f->laddr);
	sdsfree(f->name);
	sdsfree(f->lib_name);
	sdsfree(f->lib_ver);
	sdsfree(f->ip);
	sdsfree(f->user);
}

static bool is_among(const struct filter *f, uint64_t id)
{
	for (uint32_t i = 0; i < f->nids; i++)
		if (f->ids[i] == id)
			return true;
	return f->nids == 0;
}

static bool is_text(const sds wanted, const char *text)
{
	return !wanted || strcmp(wanted, text ? text : "") == 0;
}

static bool is_from(const sds ip, const char *addr)
{
	const char *colon = strrchr(addr, ':');

	return !ip || (colon && sdslen(ip) == (size_t)(colon - addr) && memcmp(ip, addr, sdslen(ip)) == 0);
}

static bool matches(const struct filter *f, const struct client *c)
{
	char addr[ADDRESS_NAME_MAX], laddr[ADDRESS_NAME_MAX];

	if (!is_among(f, c->id) || (f->skip_me && c->id == f->me))
		return false;
	if (f->type && f->type != (pubsub_is_subscribed(c) ? TYPE_PUBSUB : TYPE_NORMAL))
		return false;
	if ((f->maxage >= 0 && age_s(c) < f->maxage) || (f->idle >= 0 && idle_s(c) < f->idle))
		return false;
	if (!is_text(f->user, user_of(c)) || !is_text(f->name, c->name) || !is_text(f->lib_name, c->lib_name) || !is_text(f->lib_ver, c->lib_ver))
		return false;
	if (!f->addr && !f->laddr && !f->ip)
		return true;
	client_end_name(addr, sizeof addr, c, true);
	client_end_name(laddr, sizeof laddr, c, false);
	return is_text(f->addr, addr) && is_text(f->laddr, laddr) && is_from(f->ip, addr);
}

/* --- parsing: each option says what is wrong, or NULL --- */

struct parsing {
	struct filter *f;
	bool list;             /* LIST, else KILL */
	const struct identity *id;
	const struct acl *acl;
	const struct slice *argv;
	uint32_t argc, at;     /* at: the option's value; moved behind it */
	sds error;
};

static const char syntax_error[] = "ERR syntax error";

static void fail(struct parsing *p, const char *text)
{
	if (!p->error)
		p->error = sdsnew(text);
}

static void add_id(struct parsing *p, struct slice word)
{
	bool valkey = p->id->valkey && p->id->number >= 0x080100, is_number;
	int64_t n = 0;

	is_number = resp_string_to_int(word.p, word.n, &n);
	if (valkey ? !is_number : p->list && !is_number)
		fail(p, valkey ? syntax_error : "ERR Invalid client ID");
	else if (n < 1 && (valkey || !p->list))
		fail(p, "ERR client-id should be greater than 0");
	if (p->error)
		return;
	p->f->ids = realloc(p->f->ids, (p->f->nids + 1) * sizeof *p->f->ids);
	if (!p->f->ids)
		abort();
	p->f->ids[p->f->nids++] = (uint64_t)n;
}

/* LIST takes many, KILL from Valkey 8.1 on. */
static void parse_id(struct parsing *p)
{
	bool valkey = p->id->valkey && p->id->number >= 0x080100;
	int64_t n;

	add_id(p, p->argv[p->at++]);
	if (!p->list && !valkey)
		return;
	while (!p->error && p->at < p->argc && (!valkey || resp_string_to_int(p->argv[p->at].p, p->argv[p->at].n, &n)))
		add_id(p, p->argv[p->at++]);
}

static void parse_type(struct parsing *p)
{
	static const struct {
		const char *name;
		enum client_type type;
	} types[] = { { "normal", TYPE_NORMAL }, { "pubsub", TYPE_PUBSUB }, { "slave", TYPE_OTHER }, { "replica", TYPE_OTHER }, { "master", TYPE_OTHER } };
	struct slice word = p->argv[p->at++];

	for (size_t i = 0; i < sizeof types / sizeof *types; i++)
		if (slice_is(word, types[i].name)) {
			p->f->type = types[i].type;
			return;
		}
	if (!p->error)
		p->error = sdscatprintf(sdsempty(), "ERR Unknown client type '%.*s'", (int)(word.n < 128 ? word.n : 128), word.p);
}

static void take_text(struct parsing *p, sds *place)
{
	sdsfree(*place);
	*place = sdsnewlen(p->argv[p->at].p, p->argv[p->at].n);
	p->at++;
}

static void parse_user(struct parsing *p)
{
	struct slice word = p->argv[p->at];

	take_text(p, &p->f->user);
	if (!acl_find(p->acl, word))
		p->error = sdscatprintf(sdsempty(), "ERR No such user '%.*s'", (int)(word.n < 128 ? word.n : 128), word.p);
}

static void parse_skipme(struct parsing *p)
{
	struct slice word = p->argv[p->at++];

	if (slice_is(word, "yes"))
		p->f->skip_me = true;
	else if (slice_is(word, "no"))
		p->f->skip_me = false;
	else
		fail(p, syntax_error);
}

static void parse_maxage(struct parsing *p)
{
	struct slice word = p->argv[p->at++];

	if (!resp_string_to_int(word.p, word.n, &p->f->maxage))
		fail(p, "ERR maxage is not an integer or out of range");
	else if (p->f->maxage < 1)
		fail(p, "ERR maxage should be greater than 0");
}

static void parse_idle(struct parsing *p)
{
	struct slice word = p->argv[p->at++];

	if (!resp_string_to_int(word.p, word.n, &p->f->idle))
		fail(p, "ERR idle is not an integer or out of range");
	else if (p->f->idle < 1)
		fail(p, "ERR idle should be greater than 0");
}

static void parse_addr(struct parsing *p) { take_text(p, &p->f->addr); }
static void parse_laddr(struct parsing *p) { take_text(p, &p->f->laddr); }
static void parse_name(struct parsing *p) { take_text(p, &p->f->name); }
static void parse_lib_name(struct parsing *p) { take_text(p, &p->f->lib_name); }
static void parse_lib_ver(struct parsing *p) { take_text(p, &p->f->lib_ver); }
static void parse_ip(struct parsing *p) { take_text(p, &p->f->ip); }

#define NEVER UINT32_MAX

static const struct option {
	const char *word;
	void (*parse)(struct parsing *p);
	struct { uint32_t redis, valkey; } list, kill; /* the version that has it first */
} options[] = {
	{ "ID", parse_id, { 0, 0 }, { 0, 0 } },
	{ "TYPE", parse_type, { 0, 0 }, { 0, 0 } },
	{ "ADDR", parse_addr, { NEVER, 0x080100 }, { 0, 0 } },
	{ "LADDR", parse_laddr, { NEVER, 0x080100 }, { 0, 0 } },
	{ "USER", parse_user, { NEVER, 0x080100 }, { 0, 0 } },
	{ "SKIPME", parse_skipme, { NEVER, 0x080100 }, { 0, 0 } },
	{ "MAXAGE", parse_maxage, { NEVER, 0x080100 }, { 0x070400, 0x080000 } },
	{ "IDLE", parse_idle, { NEVER, 0x090000 }, { NEVER, 0x090000 } },
	{ "NAME", parse_name, { NEVER, 0x090000 }, { NEVER, 0x090000 } },
	{ "LIB-NAME", parse_lib_name, { NEVER, 0x090000 }, { NEVER, 0x090000 } },
	{ "LIB-VER", parse_lib_ver, { NEVER, 0x090000 }, { NEVER, 0x090000 } },
	{ "IP", parse_ip, { NEVER, 0x090000 }, { NEVER, 0x090000 } },
};

static const struct option *option_of(const struct parsing *p, struct slice word)
{
	for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
		const struct option *o = &options[i];
		uint32_t since = p->list ? (p->id->valkey ? o->list.valkey : o->list.redis) : p->id->valkey ? o->kill.valkey : o->kill.redis;
		if (slice_is(word, o->word))
			return p->id->number >= since ? o : NULL;
	}
	return NULL;
}

/* False after an error reply. */
static bool parse_filter(struct worker *w, struct client *c, uint32_t argc, bool list, struct filter *f)
{
	struct identity id = local_identity(w);
	struct parsing p = { .f = f, .list = list, .id = &id, .acl = w->acl, .argv = w->argv, .argc = argc, .at = 2 };

	while (!p.error && p.at < argc) {
		const struct option *o = option_of(&p, w->argv[p.at]);
		if (!o || p.at + 1 >= argc) {
			fail(&p, syntax_error);
			break;
		}
		p.at++;
		o->parse(&p);
	}
	if (p.error)
		client_error(w, c, "%s", p.error);
	bool ok = !p.error;
	sdsfree(p.error);
	return ok;
}

/* --- the round --- */

struct line {
	uint64_t id;
	sds text;
};

struct round {
	struct worker *home;
	struct req *req;       /* the asker's place in its client's order */
	struct filter filter;
	struct identity id;
	unsigned left;         /* workers that have not answered */
	bool kill, old_form;   /* KILL, by the address alone */
	uint8_t proto;
	struct line *lines;
	size_t nlines;
	uint64_t killed;
	bool me;               /* the asker is among them: closed when it has its answer */
};

struct visit { /* the round at one worker */
	struct round *round;
	struct worker *worker;
	struct line *lines;
	size_t nlines;
	uint64_t killed;
	bool me;
};

static void visit_one(struct visit *v, struct client *c)
{
	const struct round *r = v->round;

	if (c->reader.fd < 0 || !matches(&r->filter, c))
		return;
	v->killed++;
	if (r->kill && c->id == r->filter.me) {
		v->me = true;
	} else if (r->kill) {
		client_end(c);
	} else {
		v->lines = realloc(v->lines, (v->nlines + 1) * sizeof *v->lines);
		if (!v->lines)
			abort();
		v->lines[v->nlines++] = (struct line){ c->id, sdscat(cat_line(sdsempty(), &r->id, c), "\n") };
	}
}

static int by_id(const void *a, const void *b)
{
	const struct line *x = a, *y = b;

	return x->id < y->id ? -1 : x->id > y->id;
}

static sds answer_of(struct round *r)
{
	sds list = sdsempty(), s;

	if (r->old_form) {
		s = r->killed ? resp_cat_simple(sdsempty(), "OK") : resp_cat_error(sdsempty(), "ERR No such client");
	} else if (r->kill) {
		s = resp_cat_len(sdsempty(), ':', (int64_t)r->killed);
	} else {
		if (r->nlines)
			qsort(r->lines, r->nlines, sizeof *r->lines, by_id);
		for (size_t i = 0; i < r->nlines; i++)
			list = sdscatsds(list, r->lines[i].text);
		s = local_cat_verbatim(sdsempty(), r->proto, slice(list, sdslen(list)));
	}
	sdsfree(list);
	return s;
}

static void round_end(struct round *r)
{
	sds s = answer_of(r);
	struct client *c = req_client(r->req);

	r->req->reply_block = block_copy(s, sdslen(s));
	r->req->reply = r->req->reply_block->data;
	r->req->reply_len = sdslen(s);
	sdsfree(s);
	if (c && r->me)
		client_close_after_replies(r->home, c);
	client_done(r->home, r->req);
	for (size_t i = 0; i < r->nlines; i++)
		sdsfree(r->lines[i].text);
	free(r->lines);
	filter_release(&r->filter);
	free(r);
}

static void visited(void *arg)
{
	struct visit *v = arg;
	struct round *r = v->round;

	if (v->nlines) {
		r->lines = realloc(r->lines, (r->nlines + v->nlines) * sizeof *r->lines);
		if (!r->lines)
			abort();
		memcpy(r->lines + r->nlines, v->lines, v->nlines * sizeof *v->lines);
		r->nlines += v->nlines;
	}
	r->killed += v->killed;
	r->me |= v->me;
	free(v->lines);
	free(v);
	if (--r->left == 0)
		round_end(r);
}

static void do_visit(void *arg)
{
	struct visit *v = arg;
	struct worker *w = v->worker, *home = v->round->home;

	for (struct client *c = w->clients; c; c = c->next)
		visit_one(v, c);
	if (home == w)
		visited(v);
	else
		mailbox_post(w->fleet->mail, home->id, w->id, visited, v);
}

static void round_begin(struct worker *w, struct client *c, struct filter *f, bool kill, bool old_form)
{
	struct round *r = calloc(1, sizeof *r);

	if (!r)
		abort();
	*r = (struct round){ .home = w, .filter = *f, .id = local_identity(w), .kill = kill, .old_form = old_form, .proto = c->proto };
	r->req = req_new(w);
	r->left = w->fleet->nworkers;
	client_await(c, r->req);
	for (unsigned i = 0; i < w->fleet->nworkers; i++) {
		struct visit *v = calloc(1, sizeof *v);
		if (!v)
			abort();
		*v = (struct visit){ .round = r, .worker = &w->fleet->workers[i] };
		if (i != w->id)
			mailbox_post(w->fleet->mail, i, w->id, do_visit, v);
		else
			do_visit(v);
	}
}

static struct filter everybody(const struct client *c)
{
	return (struct filter){ .maxage = -1, .idle = -1, .me = c->id };
}

void local_client_list(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct filter f = everybody(c);

	(void)cmd;
	if (parse_filter(w, c, argc, true, &f))
		round_begin(w, c, &f, false, false);
	else
		filter_release(&f);
}

void local_client_kill(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct filter f = everybody(c);

	(void)cmd;
	if (argc == 3) {
		f.addr = sdsnewlen(w->argv[2].p, w->argv[2].n);
		round_begin(w, c, &f, true, true);
		return;
	}
	f.skip_me = true;
	if (parse_filter(w, c, argc, false, &f))
		round_begin(w, c, &f, true, false);
	else
		filter_release(&f);
}
