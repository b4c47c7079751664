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
	char why[sizeof ((struct failing *)0)->why];
};

static void on_told(void *arg)
{
	struct told *t = arg;
	struct control *c = t->control;
	ev_tstamp now = ev_now(c->loop);

	if (now - c->failing.at > FAILING_FRESH_S || strcmp(c->failing.why, t->why) != 0)
		log_limited(LOG_NOTICE, "a copy fails, and is tried again: %s", t->why);
	snprintf(c->failing.why, sizeof c->failing.why, "%s", t->why);
	c->failing.at = now;
	free(t);
}

/* "-ERR unknown command 'X', with args beginning with: 'a value'": the words before the arguments. */
static int length_to_tell(const char *why)
{
	const char *args = strstr(why, ", with args");
	size_t n = args ? (size_t)(args - why) : strcspn(why, "\r\n");

	return (int)(n < 200 ? n : 200);
}

void failing_tell(struct worker *w, enum side from, uint16_t slot, const char *why)
{
	ev_tstamp now = ev_now(w->loop);
	struct told *t;

	if (now - w->failing_told < TELL_S)
		return;
	w->failing_told = now;
	if (!(t = malloc(sizeof *t)))
		abort();
	t->control = w->fleet->control;
	why += *why == '-';
	snprintf(t->why, sizeof t->why, "slot %u, from the %s to the %s: %.*s", slot, side_name(from), side_name(SIDE_OTHER(from)), length_to_tell(why), why);
	mailbox_post(w->fleet->mail, THREAD_CONTROL(w->fleet->nworkers), w->id, on_told, t);
}

json_t *failing_json(const struct control *c, bool owing)
{
	json_t *list = json_array();

	for (int s = 0; s < SIDES; s++) {
		const struct side_facts *f = c->discovery[s] ? discovery_facts(c->discovery[s]) : NULL;
		if (f && !f->up)
			json_array_append_new(list, json_sprintf("the %s is not reached as a whole: %s", side_name((enum side)s), *f->down ? f->down : "not asked yet"));
	}
	if (owing && *c->failing.why && ev_now(c->loop) - c->failing.at <= FAILING_FRESH_S)
		json_array_append_new(list, json_string(c->failing.why));
	return list;
}
