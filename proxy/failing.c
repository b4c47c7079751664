#include "proxy/failing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/control_internal.h"
#include "proxy/log.h"
#include "proxy/worker.h"

#define TELL_S 0.25

struct told {
	struct control *control;
	enum failing_kind kind;
	char why[sizeof ((struct failing *)0)->why];
};

static void on_told(void *arg)
{
	struct told *t = arg;
	struct failing *f = &t->control->failing[t->kind];
	ev_tstamp now = ev_now(t->control->loop);

	if (t->kind == FAILING_COPY && (now - f->at > FAILING_FRESH_S || strcmp(f->why, t->why) != 0))
		log_limited(LOG_NOTICE, "a copy fails, and is tried again: %s", t->why);
	snprintf(f->why, sizeof f->why, "%s", t->why);
	f->at = now;
	free(t);
}

/* "-ERR unknown command 'X', with args beginning with: 'a value'": the words before the arguments. */
static int length_to_tell(const char *why)
{
	const char *args = strstr(why, ", with args");
	size_t n = args ? (size_t)(args - why) : strcspn(why, "\r\n");

	return (int)(n < 200 ? n : 200);
}

static struct told *told_new(struct control *c, enum failing_kind kind)
{
	struct told *t = malloc(sizeof *t);

	if (!t)
		abort();
	t->control = c;
	t->kind = kind;
	return t;
}

void failing_tell(struct worker *w, enum side from, uint16_t slot, const char *why)
{
	ev_tstamp now = ev_now(w->loop);
	struct told *t;

	if (now - w->failing_told < TELL_S)
		return;
	w->failing_told = now;
	t = told_new(w->fleet->control, FAILING_COPY);
	why += *why == '-';
	snprintf(t->why, sizeof t->why, "slot %u, from the %s to the %s: %.*s", slot, side_name(from), side_name(SIDE_OTHER(from)), length_to_tell(why), why);
	mailbox_post(w->fleet->mail, THREAD_CONTROL(w->fleet->nworkers), w->id, on_told, t);
}

void failing_tell_walk(struct control *c, struct mailboxes *mail, unsigned self, unsigned to_control, const char *why)
{
	struct told *t = told_new(c, FAILING_WALK);

	snprintf(t->why, sizeof t->why, "%.*s", length_to_tell(why), why);
	mailbox_post(mail, to_control, self, on_told, t);
}

json_t *failing_json(const struct control *c, bool owing)
{
	json_t *list = json_array();

	for (int s = 0; s < SIDES; s++) {
		const struct side_facts *f = c->discovery[s] ? discovery_facts(c->discovery[s]) : NULL;
		if (f && !f->up)
			json_array_append_new(list, json_sprintf("the %s is not reached as a whole: %s", side_name((enum side)s), *f->down ? f->down : "not asked yet"));
	}
	for (int k = 0; k < FAILING_KINDS; k++) {
		const struct failing *f = &c->failing[k];
		if (owing && *f->why && ev_now(c->loop) - f->at <= FAILING_FRESH_S)
			json_array_append_new(list, json_string(f->why));
	}
	return list;
}
