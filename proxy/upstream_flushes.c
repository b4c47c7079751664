/* FLUSHALLs of our own are reported to a watched connection, too: which reports are they? */
#include "proxy/upstream.h"

void upstream_expect_flush(struct upstream *u)
{
	if (!u->watching)
		return;
	u->flushes++;
	u->nulls_due++;
}

bool upstream_take_flush(struct upstream *u)
{
	if (!u->nulls_due)
		return false;
	u->nulls_due--;
	return true;
}

static void on_flush_seen(void *arg, const struct reply *r)
{
	struct upstream *u = arg;

	if (r->p && u->flushes && --u->flushes == 0)
		u->nulls_due = 0;
}

bool upstream_flush_ends(struct upstream *u, bool done)
{
	static const char ping[] = "*1\r\n$4\r\nPING\r\n";

	if (!u->flushes)
		return false;
	if (done) {
		upstream_send(u, UPSTREAM_ANY_DB, ping, sizeof ping - 1, NULL, 1, on_flush_seen, u);
		return false;
	}
	u->flushes--;
	if (!u->nulls_due)
		return true;
	u->nulls_due--;
	return false;
}
