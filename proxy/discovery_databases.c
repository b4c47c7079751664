/* How many databases a node has, and lets our account select: found by SELECT, since CONFIG GET is often forbidden. Asked once of each process of a server; most
 * have 16, or one in a cluster, so these are tried first. */
#include <string.h>

#include "backfill/bulk.h"
#include "proxy/discovery_internal.h"

static void ask(struct probe *p);

static void on_selected(void *arg, struct slice reply, const char *why)
{
	struct probe *p = arg;

	if (!reply.p) {
		probe_lost(p, why);
		probe_part_done(p);
		return;
	}
	*(reply.p[0] == '+' ? &p->db_there : &p->db_missing) = p->db_tried;
	if (p->db_there + 1 < p->db_missing) {
		ask(p);
		return;
	}
	p->peer->databases = p->db_missing;
	memcpy(p->peer->databases_run_id, p->info.run_id, sizeof(p->info.run_id));
	probe_part_done(p);
}

static void ask(struct probe *p)
{
	static const unsigned first[] = { 1, 15, 16 };
	unsigned db = 0;
	char number[12];

	for (unsigned i = 0; i < sizeof(first) / sizeof(*first) && !db; i++)
		if (first[i] > p->db_there && first[i] < p->db_missing)
			db = first[i];
	p->db_tried = db ? db : p->db_there + (p->db_missing - p->db_there) / 2;
	snprintf(number, sizeof(number), "%u", p->db_tried);
	bulk_command(p->peer->bulk, BULK_ANY_DB, on_selected, p, "SELECT", number, NULL); /* nothing else on this connection looks at a database */
}

void probe_databases(struct probe *p)
{
	if (p->peer->databases && strcmp(p->peer->databases_run_id, p->info.run_id) == 0)
		return;
	p->db_there = 0;
	p->db_missing = DBS_MAX;
	p->left++;
	ask(p);
}
