#include "proxy/monitor.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "proxy/address.h"
#include "proxy/client.h"
#include "proxy/local.h"
#include "resp/write.h"

/* --- who listens --- */

struct census { /* one worker tells another how many monitors it has */
	struct worker *to;
	unsigned worker, n;
};

static void count(struct worker *w, unsigned worker, unsigned n)
{
	if (!w->monitors)
		w->monitors = calloc(w->fleet->nworkers, sizeof *w->monitors);
	if (!w->monitors)
		abort();
	w->monitored = w->monitored - w->monitors[worker] + n;
	w->monitors[worker] = n;
}

static void counted(void *arg)
{
	struct census *c = arg;

	count(c->to, c->worker, c->n);
	free(c);
}

static void tell(struct worker *w)
{
	for (unsigned i = 0; i < w->fleet->nworkers; i++) {
		if (i == w->id) {
			count(w, w->id, w->nmonitor_clients);
			continue;
		}
		struct census *c = malloc(sizeof *c);
		if (!c)
			abort();
		*c = (struct census){ &w->fleet->workers[i], w->id, w->nmonitor_clients };
		mailbox_post(w->fleet->mail, i, w->id, counted, c);
	}
}

void monitor_join(struct worker *w, struct client *c)
{
	assert(!c->is_monitor);
	w->monitor_clients = realloc(w->monitor_clients, (w->nmonitor_clients + 1) * sizeof *w->monitor_clients);
	if (!w->monitor_clients)
		abort();
	w->monitor_clients[w->nmonitor_clients++] = c;
	c->is_monitor = true;
	tell(w);
}

void monitor_leave(struct client *c)
{
	struct worker *w = c->worker;
	unsigned i = 0;

	if (!c->is_monitor)
		return;
	while (w->monitor_clients[i] != c)
		i++;
	w->monitor_clients[i] = w->monitor_clients[--w->nmonitor_clients];
	c->is_monitor = false;
	tell(w);
}

void monitor_release(struct worker *w)
{
	free(w->monitor_clients);
	free(w->monitors);
}

/* --- what they get --- */

struct feed {
	struct worker *to;
	struct block *block;
};

static void give(struct worker *w, struct block *b)
{
	for (unsigned i = 0; i < w->nmonitor_clients; i++) {
		struct client *c = w->monitor_clients[i];
		if (c->reader.fd < 0)
			continue;
		outq_add(client_pushes(c), b->data, b->used, b);
		client_flush_soon(w, c);
	}
}

static void fed(void *arg)
{
	struct feed *f = arg;

	give(f->to, f->block);
	block_unref(f->block);
	free(f);
}

/* As sdscatrepr. */
static sds cat_quoted(sds s, struct slice text)
{
	static const char plain[] = "\\\"\n\r\t\a\b", letter[] = "\\\"nrtab";

	s = sdscatlen(s, " \"", 2);
	for (size_t i = 0; i < text.n; i++) {
		const char *special = text.p[i] ? strchr(plain, text.p[i]) : NULL;
		if (special)
			s = sdscatprintf(s, "\\%c", letter[special - plain]);
		else if (text.p[i] >= ' ' && text.p[i] <= '~')
			s = sdscatlen(s, text.p + i, 1);
		else
			s = sdscatprintf(s, "\\x%02x", (unsigned char)text.p[i]);
	}
	return sdscatlen(s, "\"", 1);
}

static sds line_of(struct worker *w, const struct client *c, const struct command *cmd, uint32_t argc)
{
	char addr[ADDRESS_NAME_MAX];
	struct timespec ts;
	uint32_t secret = 0; /* words from here on that are a user's name and password */

	client_end_name(addr, sizeof addr, c, true);
	clock_gettime(CLOCK_REALTIME, &ts);
	sds s = sdscatprintf(sdsempty(), "+%lld.%06ld [%u %s]", (long long)ts.tv_sec, ts.tv_nsec / 1000, c->db, addr);
	for (uint32_t i = 0; i < argc; i++) {
		s = cat_quoted(s, secret ? SLICE_LIT("(redacted)") : w->argv[i]);
		secret -= secret > 0;
		if (cmd->flags & CMD_SECRET && slice_is(w->argv[i], "AUTH"))
			secret = 2;
	}
	return sdscatlen(s, "\r\n", 2);
}

void monitor_feed(struct worker *w, const struct client *c, const struct command *cmd, uint32_t argc)
{
	if (cmd->flags & CMD_ADMIN)
		return;
	sds s = line_of(w, c, cmd, argc);
	struct block *b = block_copy(s, sdslen(s));
	sdsfree(s);
	for (unsigned i = 0; i < w->fleet->nworkers; i++) {
		if (!w->monitors[i] || i == w->id)
			continue;
		struct feed *f = malloc(sizeof *f);
		if (!f)
			abort();
		*f = (struct feed){ &w->fleet->workers[i], block_ref(b) };
		mailbox_post(w->fleet->mail, i, w->id, fed, f);
	}
	give(w, b);
	block_unref(b);
}
