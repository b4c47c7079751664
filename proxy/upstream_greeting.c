/* What a data connection says before it is up: who we are, who the server is, that the predecessor is gone; and the watch, which begins with it. */
#include <stdio.h>

#include "net/transport.h"
#include "proxy/log.h"
#include "proxy/upstream_internal.h"
#include "resp/write.h"

/* --- the watch --- */

static void on_watched(void *arg, const struct reply *r)
{
	struct upstream *u = arg;

	if (!r->p || r->p[0] != '-')
		return;
	u->watching = false;
	u->watch_busy = strncmp(r->p, "-BUSY ", 6) == 0 || strncmp(r->p, "-LOADING ", 9) == 0; /* a whole line, so it ends before that or not at all */
	log_limited(LOG_WARNING, "%s %s refuses CLIENT TRACKING (%.*s): writes that bypass the proxy are not seen", side_name(u->side), u->name,
		    (int)r->n - 3, r->p + 1);
}

void upstream_watch(struct upstream *u, bool on)
{
	static const char start[] = "*5\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$2\r\nON\r\n$5\r\nBCAST\r\n$6\r\nNOLOOP\r\n";
	static const char stop[] = "*3\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$3\r\nOFF\r\n";

	u->watch = on;
	if (u->state != UPSTREAM_UP || u->watching == on)
		return; /* connecting: the greeting looks at `watch`, arrive() once more */
	u->watching = on;
	u->watch_busy = false;
	if (on)
		upstream_send(u, UPSTREAM_ANY_DB, start, sizeof start - 1, NULL, 1, on_watched, u);
	else
		upstream_send(u, UPSTREAM_ANY_DB, stop, sizeof stop - 1, NULL, 1, on_watched, u);
}

/* --- greeting: HELLO, then who the server is, then the predecessor is made sure to be gone, then the watch --- */

static bool write_now(struct upstream *u, sds bytes)
{
	struct iovec all = { bytes, sdslen(bytes) };
	ssize_t n = transport_writev(u->fd, u->tls, &all, 1);
	bool ok = n == (ssize_t)sdslen(bytes); /* a fresh socket takes a greeting whole */

	sdsfree(bytes);
	return ok;
}

void upstream_greet(struct upstream *u)
{
	const char *user = u->owner->user(u->owner->ctx, u->side), *password = u->owner->password(u->owner->ctx, u->side);
	sds s = sdsempty();

	if (password)
		s = resp_cat_words(s, "HELLO", "3", "AUTH", user ? user : "default", password, "SETNAME", u->owner->client_name, NULL);
	else
		s = resp_cat_words(s, "HELLO", "3", "SETNAME", u->owner->client_name, NULL);
	if (!u->owner->bare) {
		s = resp_cat_words(s, "CLIENT", "ID", NULL);
		s = resp_cat_words(s, "INFO", "server", NULL);
	}
	u->greeting_left = u->owner->bare ? 1 : 3;
	u->round = 1;
	upstream_set_state(u, UPSTREAM_GREETING);
	ev_io_start(u->owner->loop, &u->reader);
	if (!write_now(u, s))
		upstream_give_up(u, "the greeting could not be written");
}

/* Before the greeting; the deadline is that of connecting. */
void upstream_shake_hands(struct upstream *u)
{
	switch (tls_handshake(u->tls)) {
	case TLS_AGAIN:
		ev_io_start(u->owner->loop, &u->reader);
		if (tls_read_wants_write(u->tls))
			ev_io_start(u->owner->loop, &u->writer);
		return;
	case TLS_DONE:
		upstream_greet(u);
		return;
	case TLS_FAILED:
		upstream_give_up(u, tls_why(u->tls));
		return;
	}
}

/* The third round ends what the second one found; the watch is last. */
static void greet_last(struct upstream *u, sds s)
{
	u->round = 3;
	if (u->watch) {
		s = resp_cat_words(s, "CLIENT", "TRACKING", "ON", "NOLOOP", u->owner->by_key ? NULL : "BCAST", NULL);
		u->greeting_left++;
		u->watching = true;
		u->watch_busy = false;
	}
	if (!sdslen(s))
		sdsfree(s);
	else if (!write_now(u, s))
		upstream_give_up(u, "the greeting could not be written");
}

/* Commands of the predecessor, or of a process that was killed, must not arrive any more (race 7). */
static void greet_more(struct upstream *u)
{
	sds s = sdsempty();
	char id[24];

	u->round = 2;
	if (u->zombie_id && strcmp(u->zombie_run_id, u->run_id) == 0) {
		snprintf(id, sizeof id, "%lld", (long long)u->zombie_id);
		s = resp_cat_words(s, "CLIENT", "KILL", "ID", id, NULL);
		u->greeting_left++;
	}
	if (u->orphans && strcmp(u->orphans_run_id, u->run_id) == 0) {
		s = sdscatsds(s, u->orphans);
		u->greeting_left += u->norphans;
	}
	if (!u->owner->formers || u->formers_gone) {
		greet_last(u, s);
		return;
	}
	s = resp_cat_words(s, "CLIENT", "LIST", NULL);
	u->greeting_left++;
	if (!write_now(u, s))
		upstream_give_up(u, "the greeting could not be written");
}

static void arrive(struct upstream *u)
{
	u->failures = 0;
	u->zombie_id = 0;
	upstream_orphans_ended(u);
	u->formers_gone = true;
	u->progress = ev_now(u->owner->loop);
	upstream_set_state(u, UPSTREAM_UP);
	u->greeted_watch = u->watching;
	upstream_watch(u, u->watch);
	u->owner->up(u->owner->ctx, u);
	if (!outq_empty(&u->out))
		upstream_flush(u);
}

static void take_run_id(struct upstream *u, struct slice info)
{
	const char *at = memmem(info.p, info.n, "run_id:", 7);

	u->run_id[0] = '\0';
	if (at && (size_t)(info.p + info.n - at) >= 47)
		snprintf(u->run_id, sizeof u->run_id, "%.40s", at + 7);
}

/* The second round may be refused by what the service account is allowed: that is told, and clients are served. */
static void greeting_refused(struct upstream *u, struct slice r)
{
	if (u->watching && u->greeting_left == 1)
		on_watched(u, &(struct reply){ .p = r.p, .n = r.n });
	else
		log_limited(LOG_WARNING, "%s %s refuses CLIENT KILL or LIST (%.*s): commands of a connection that was lost may still arrive", side_name(u->side),
			    u->name, (int)r.n - 3, r.p + 1);
}

bool upstream_greeting_reply(struct upstream *u, struct slice r)
{
	struct resp_item item = { 0 };

	resp_item(r.p, r.p + r.n, &item);
	if (item.type == '-' && u->round > 1) {
		greeting_refused(u, r);
	} else if (item.type == '-') {
		char why[256];
		snprintf(why, sizeof why, "%.*s", (int)(item.text.n < 200 ? item.text.n : 200), item.text.p);
		upstream_give_up(u, why);
		return false;
	}
	u->greeting_left--;
	if (u->round == 1 && item.type == ':')
		u->client_id = item.n;
	if (u->round == 1 && u->greeting_left == 0 && !u->owner->bare) {
		take_run_id(u, item.text);
		greet_more(u);
	} else if (u->round == 2 && u->greeting_left == 0) {
		sds kills = sdsempty();
		if (item.type != '-')
			u->greeting_left = u->owner->formers(u->owner->ctx, item.text, &kills);
		greet_last(u, kills);
	}
	if (u->state != UPSTREAM_GREETING)
		return false;
	if (u->greeting_left == 0)
		arrive(u);
	return u->state == UPSTREAM_UP || u->state == UPSTREAM_GREETING;
}
