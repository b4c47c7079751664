/* Connections to a node beside its data connection that were given up: what they have sent may still arrive there, until the server is told to forget them (race 7). */
#include <stdio.h>

#include "proxy/upstream.h"
#include "resp/write.h"

static void forget(struct upstream *u)
{
	sdsfree(u->orphans);
	u->orphans = NULL;
	u->norphans = 0;
}

/* The greeting has said it. */
void upstream_orphans_ended(struct upstream *u)
{
	if (!u->orphans_due)
		forget(u);
}

/* Lost: the greeting of the next connection says it again. */
static void on_killed(void *arg, const struct reply *r)
{
	struct upstream *u = arg;

	if (--u->orphans_due == 0 && r->p)
		forget(u);
}

static void take(struct upstream *u, const char *run_id, sds kills, unsigned n)
{
	bool greeted = u->state == UPSTREAM_UP || (u->state == UPSTREAM_GREETING && u->round > 1);

	if (u->orphans && strcmp(u->orphans_run_id, run_id) != 0)
		forget(u); /* they have gone with their process */
	u->orphans = sdscatsds(u->orphans ? u->orphans : sdsempty(), kills);
	u->norphans += n;
	snprintf(u->orphans_run_id, sizeof u->orphans_run_id, "%s", run_id);
	if (!greeted || strcmp(u->run_id, run_id) != 0)
		return;
	u->orphans_due += n;
	upstream_send(u, UPSTREAM_ANY_DB, kills, sdslen(kills), NULL, n, on_killed, u);
}

void upstream_inherit_one(struct upstream *u, const char *run_id, int64_t client_id)
{
	char id[24];

	snprintf(id, sizeof id, "%lld", (long long)client_id);
	sds kill = resp_cat_words(sdsempty(), "CLIENT", "KILL", "ID", id, NULL);
	take(u, run_id, kill, 1);
	sdsfree(kill);
}

void upstream_inherit(struct upstream *u, const struct upstream *other)
{
	if (other->orphans)
		take(u, other->orphans_run_id, other->orphans, other->norphans);
	if (other->zombie_id)
		upstream_inherit_one(u, other->zombie_run_id, other->zombie_id);
}
