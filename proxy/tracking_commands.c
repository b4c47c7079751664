/* CLIENT TRACKING, CACHING, TRACKINGINFO and GETREDIR, in the servers' words. */
#include <stdlib.h>

#include "proxy/local.h"
#include "proxy/tracking_internal.h"
#include "resp/digits.h"
#include "resp/write.h"

static const char again[] = "before disabling tracking for this client, and then re-enabling it with a different mode.";

/* --- options --- */

static void add_prefix(struct tracking_mode *m, struct slice prefix)
{
	m->prefixes = realloc(m->prefixes, (m->nprefixes + 1) * sizeof *m->prefixes);
	if (!m->prefixes)
		abort();
	m->prefixes[m->nprefixes++] = sdsnewlen(prefix.p, prefix.n);
}

/* False after an error reply. */
static bool parse(struct worker *w, struct client *c, uint32_t argc, struct tracking_mode *m)
{
	int64_t id;

	for (uint32_t i = 3; i < argc; i++) {
		bool more = i + 1 < argc;
		if (slice_is(w->argv[i], "redirect") && more) {
			if (m->redirect) {
				client_error(w, c, "ERR A client can only redirect to a single other client");
				return false;
			}
			i++;
			if (!resp_string_to_int(w->argv[i].p, w->argv[i].n, &id)) {
				client_error(w, c, "ERR value is not an integer or out of range");
				return false;
			}
			m->redirect = (uint64_t)id;
			if (!id) {
				client_error(w, c, "ERR The client ID you want redirect to does not exist");
				return false;
			}
		} else if (slice_is(w->argv[i], "prefix") && more) {
			add_prefix(m, w->argv[++i]);
		} else if (slice_is(w->argv[i], "bcast")) {
			m->bcast = true;
		} else if (slice_is(w->argv[i], "optin")) {
			m->optin = true;
		} else if (slice_is(w->argv[i], "optout")) {
			m->optout = true;
		} else if (slice_is(w->argv[i], "noloop")) {
			m->noloop = true;
		} else {
			client_error(w, c, "ERR syntax error");
			return false;
		}
	}
	return true;
}

static bool overlap(const sds a, const sds b)
{
	size_t n = sdslen(a) < sdslen(b) ? sdslen(a) : sdslen(b);

	return memcmp(a, b, n) == 0;
}

static bool prefixes_fit(struct worker *w, struct client *c, const struct tracking_mode *m, const struct tracking_mode *old)
{
	static const char more[] = "Prefixes for a single client must not overlap.";

	for (unsigned i = 0; i < m->nprefixes; i++) {
		for (unsigned k = 0; old && k < old->nprefixes; k++)
			if (overlap(m->prefixes[i], old->prefixes[k])) {
				client_error(w, c, "ERR Prefix '%s' overlaps with an existing prefix '%s'. %s", m->prefixes[i], old->prefixes[k], more);
				return false;
			}
		for (unsigned k = i + 1; k < m->nprefixes; k++)
			if (overlap(m->prefixes[i], m->prefixes[k])) {
				client_error(w, c, "ERR Prefix '%s' overlaps with another provided prefix '%s'. %s", m->prefixes[i], m->prefixes[k], more);
				return false;
			}
	}
	return true;
}

/* Do they agree with each other, and with how it tracks already? False after an error reply. */
static bool fits(struct worker *w, struct client *c, const struct tracking_mode *m, const struct tracking_mode *old)
{
	if (!m->bcast && m->nprefixes)
		client_error(w, c, "ERR PREFIX option requires BCAST mode to be enabled");
	else if (old && old->bcast != m->bcast)
		client_error(w, c, "ERR You can't switch BCAST mode on/off %s", again);
	else if (m->bcast && (m->optin || m->optout))
		client_error(w, c, "ERR OPTIN and OPTOUT are not compatible with BCAST");
	else if (m->optin && m->optout)
		client_error(w, c, "ERR You can't specify both OPTIN mode and OPTOUT mode");
	else if (old && ((m->optin && old->optout) || (m->optout && old->optin)))
		client_error(w, c, "ERR You can't switch OPTIN/OPTOUT mode %s", again);
	else
		return prefixes_fit(w, c, m, old);
	return false;
}

/* --- ON --- */

struct enable { /* looks for the client that is to be told, from worker to worker; ends where it began */
	struct worker *home, *at;
	struct req *req;
	struct tracking_mode mode;
	unsigned asked;
	bool found;
};

static void enable_end(void *arg)
{
	static const char nobody[] = "-ERR The client ID you want redirect to does not exist\r\n";
	struct enable *e = arg;
	struct client *c = req_client(e->req);

	if (c && e->found) {
		tracking_set(e->home, c, &e->mode);
		tracking_wait(e->home->tracking, e->req);
	} else {
		e->req->reply_block = block_copy(nobody, sizeof nobody - 1);
		e->req->reply = e->req->reply_block->data;
		e->req->reply_len = sizeof nobody - 1;
		client_done(e->home, e->req);
	}
	tracking_mode_release(&e->mode);
	free(e);
}

void tracking_mark_told(struct worker *w, struct client *c)
{
	struct session *s = session_of(c);

	if (s->told)
		return;
	s->told = calloc(1, sizeof *s->told);
	if (!s->told)
		abort();
	*s->told = (struct told){ .id = c->id, .client = c };
	HASH_ADD(hh, tracking_of(w)->told, id, sizeof s->told->id, s->told);
}

static bool find_told(struct worker *w, uint64_t id)
{
	for (struct client *c = w->clients; c; c = c->next) {
		if (c->id != id || c->reader.fd < 0)
			continue;
		tracking_mark_told(w, c);
		return true;
	}
	return false;
}

static void look_here(void *arg)
{
	struct enable *e = arg;
	struct worker *w = e->at;

	e->found = !e->mode.redirect || find_told(w, e->mode.redirect);
	e->asked++;
	if (e->found)
		e->mode.redirect_worker = w->id;
	bool ends = e->found || e->asked == w->fleet->nworkers;
	e->at = ends ? e->home : &w->fleet->workers[(w->id + 1) % w->fleet->nworkers];
	if (e->at == w)
		enable_end(e);
	else
		mailbox_post(w->fleet->mail, e->at->id, w->id, ends ? enable_end : look_here, e);
}

static int by_text(const void *a, const void *b)
{
	return sdscmp(*(const sds *)a, *(const sds *)b);
}

/* New prefixes come to those that it has. */
static void join_prefixes(struct tracking_mode *m, const struct tracking_mode *old)
{
	if (m->bcast && !m->nprefixes && !old)
		add_prefix(m, SLICE_LIT(""));
	for (unsigned i = 0; old && i < old->nprefixes; i++)
		add_prefix(m, slice(old->prefixes[i], sdslen(old->prefixes[i])));
	if (m->nprefixes)
		qsort(m->prefixes, m->nprefixes, sizeof *m->prefixes, by_text);
}

/* What comes behind it is read when the answer is there: it may be cached from then on. */
static void turn_on(struct worker *w, struct client *c, struct tracking_mode *m)
{
	struct enable *e = malloc(sizeof *e);

	if (!e)
		abort();
	*e = (struct enable){ .home = w, .at = w, .req = req_new(w), .mode = *m };
	*m = (struct tracking_mode){ 0 };
	client_await(c, e->req);
	c->hold |= !e->req->exec;
	look_here(e);
}

void local_client_tracking(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	const struct tracking_mode *old = c->session && c->session->tracker ? &c->session->tracker->mode : NULL;
	struct tracking_mode m = { 0 };

	(void)cmd;
	if (!parse(w, c, argc, &m)) {
		tracking_mode_release(&m);
		return;
	}
	if (slice_is(w->argv[2], "on")) {
		if (fits(w, c, &m, old)) {
			join_prefixes(&m, old);
			turn_on(w, c, &m);
		}
	} else if (slice_is(w->argv[2], "off")) {
		tracking_drop(c);
		client_reply(w, c, resp_cat_simple(sdsempty(), "OK"));
	} else {
		client_error(w, c, "ERR syntax error");
	}
	tracking_mode_release(&m);
}

/* --- CACHING --- */

void local_client_caching(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct tracker *t = c->session ? c->session->tracker : NULL;
	bool yes = slice_is(w->argv[2], "yes"), no = slice_is(w->argv[2], "no");

	(void)cmd;
	(void)argc;
	if (!t)
		client_error(w, c, "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled");
	else if (yes && !t->mode.optin)
		client_error(w, c, "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.");
	else if (no && !t->mode.optout)
		client_error(w, c, "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.");
	else if (!yes && !no)
		client_error(w, c, "ERR syntax error");
	else {
		t->caching = true;
		client_reply(w, c, resp_cat_simple(sdsempty(), "OK"));
	}
}

/* --- what there is --- */

void local_client_getredir(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	client_reply(w, c, resp_cat_len(sdsempty(), ':', tracking_redirection(c)));
}

void local_client_trackinginfo(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	static const struct tracker none;
	const struct tracker *t = c->session && c->session->tracker ? c->session->tracker : &none;
	const struct {
		bool is;
		const char *word;
	} words[] = {
		{ t == &none, "off" }, { t != &none, "on" }, { t->mode.bcast, "bcast" }, { t->mode.optin, "optin" }, { t->mode.optin && t->caching, "caching-yes" },
		{ t->mode.optout, "optout" }, { t->mode.optout && t->caching, "caching-no" }, { t->mode.noloop, "noloop" }, { t->broken, "broken_redirect" },
	};
	sds s = local_cat_aggregate(sdsempty(), c->proto, '%', 3), flags = sdsempty();
	int64_t n = 0;

	(void)cmd;
	(void)argc;
	for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
		if (words[i].is)
			flags = local_cat_text(flags, words[i].word);
		n += words[i].is;
	}
	s = sdscatsds(local_cat_aggregate(local_cat_text(s, "flags"), c->proto, '~', n), flags);
	sdsfree(flags);
	s = resp_cat_len(local_cat_text(s, "redirect"), ':', tracking_redirection(c));
	s = resp_cat_len(local_cat_text(s, "prefixes"), '*', t->mode.nprefixes);
	for (unsigned i = 0; i < t->mode.nprefixes; i++)
		s = resp_cat_bulk(s, slice(t->mode.prefixes[i], sdslen(t->mode.prefixes[i])));
	client_reply(w, c, s);
}
