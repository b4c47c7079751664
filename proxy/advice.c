#include "proxy/advice.h"

#include <string.h>

/* The first whose word stands in the reason counts. */
static const struct {
	const char *word, *advice[SIDES];
} rows[] = {
	{ "WRONGPASS", { "look at source-user and at the first line of source-auth-file", "look at target-user and at the first line of target-auth-file" } },
	{ "NOAUTH", { "it wants a password: set source-auth-file (and source-user)", "it wants a password: set target-auth-file (and target-user)" } },
	{ "called with the client already authenticated",
	  { "it wants a password: set source-auth-file (and source-user)", "it wants a password: set target-auth-file (and target-user)" } },
	{ "DENIED", { "it is in protected mode: give it a password and set source-auth-file, or set its protected-mode to no in a network that you trust",
		      "it is in protected mode: give it a password and set target-auth-file, or set its protected-mode to no in a network that you trust" } },
	{ "NOPERM", { "give the account of source-user the rights that docs/operations.md lists", "give the account of target-user the rights that docs/operations.md lists" } },
	{ "does not resolve", { "is the name in source-nodes right, and known to this machine?", "is the name in target-nodes right, and known to this machine?" } },
	{ "Connection refused", { "does it run? is source-nodes right?", "does it run? is target-nodes right?" } },
	{ "is a replica", { "name its primary in source-nodes", "name its primary in target-nodes" } },
	{ "loading", { "wait until it has loaded its data", "wait until it has loaded its data" } },
	{ "needs 7.0", { "upgrade it first", "upgrade it first" } },
};

const char *advice_unreachable(enum side side, const char *why)
{
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (strstr(why, rows[i].word))
			return rows[i].advice[side];
	return side == SIDE_SOURCE ? "is source-nodes right, and can this machine reach it?" : "is target-nodes right, and can this machine reach it?";
}
