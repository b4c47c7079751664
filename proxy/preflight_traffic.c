/* Lines about what the applications use: by crossfade's own counters since its start, and by the commandstats of the source's nodes, which also
 * know those that do not come through crossfade yet. */
#include <stdlib.h>

#include "proxy/preflight_internal.h"
#include "proxy/usage.h"

#define GET(counter) atomic_load_explicit(&(counter), memory_order_relaxed)

typedef unsigned long long ull;

void traffic_collect(struct preflight *p)
{
	for (unsigned w = 0; p->in.fleet && w < fleet_workers(p->in.fleet); w++) {
		struct usage *u = fleet_stats(p->in.fleet, w)->usage;
		for (unsigned id = 0; id < command_count; id++) {
			p->seen[id] += GET(u->rows[id].calls);
			p->cross_slot[id] += GET(u->rows[id].cross_slot);
			p->in_multi[id] += GET(u->rows[id].in_multi);
		}
		for (unsigned i = 0; i < USAGE_NAMES; i++) {
			uint64_t n = atomic_load_explicit(&u->unknown[i].calls, memory_order_acquire);
			if (n)
				names_get(&p->unknown, slice(u->unknown[i].name, strlen(u->unknown[i].name)))->n += n;
		}
		p->unknown_others += GET(u->unknown_others);
	}
}

static bool is_refused(const struct command *cmd)
{
	return cmd->policy == POLICY_REFUSE || cmd->policy == POLICY_LATER;
}

/* ---- a command that came through crossfade ---- */

static void judge_known(struct preflight *p, const struct command *cmd)
{
	const struct check_side *s = &p->sides[SIDE_SOURCE], *t = &p->sides[SIDE_TARGET];
	ull n = p->seen[cmd->id];
	char label[64];

	if (!both_answer(p) || cmd->policy == POLICY_LOCAL)
		return;
	bool source = server_knows(s, cmd), target = server_knows(t, cmd);
	if (source && !target)
		say(p, LEVEL_ERR, "traffic", "take a newer target, change the application, or force the cutover if it can do without",
		    "command %s was seen %llu time%s: not known to %s, it would fail after the cutover", cmd->name, n, PLURAL(n), side_label(t, SIDE_TARGET, label));
	else if (target && !source)
		say(p, LEVEL_WARN, "traffic", "do not use it before finish: a rollback would break it",
		    "command %s was seen %llu time%s: not known to %s%s", cmd->name, n, PLURAL(n), side_label(s, SIDE_SOURCE, label),
		    cmd->effect == EFFECT_VERBATIM ? ", and cannot be mirrored to it as it is" : "");
}

static void judge_cross_slot(struct preflight *p, const struct command *cmd)
{
	const struct check_side *s = &p->sides[SIDE_SOURCE], *t = &p->sides[SIDE_TARGET];
	ull n = p->cross_slot[cmd->id];

	if (n == 0 || !both_answer(p) || s->topology->cluster || !t->topology->cluster)
		return;
	if (cmd->policy == POLICY_FORWARD)
		say(p, LEVEL_ERR, "traffic", "give such keys a common {hash tag}, or take a standalone target",
		    "command %s was seen %llu time%s with keys of several slots: the target is a cluster and refuses that (CROSSSLOT)", cmd->name, n, PLURAL(n));
	else if (cmd->flags & CMD_WRITE)
		say(p, LEVEL_WARN, "traffic", "give such keys a common {hash tag} if others must never see a part of it",
		    "command %s was seen %llu time%s with keys of several slots: after the cutover it is done slot by slot, not all at once", cmd->name, n, PLURAL(n));
}

static void judge_refused(struct preflight *p, const struct command *cmd)
{
	say(p, LEVEL_WARN, "traffic", "change the application, or let it use the server itself for this",
	    "command %s was seen %llu time%s: crossfade refuses it: %s", cmd->name, (ull)p->seen[cmd->id], PLURAL(p->seen[cmd->id]), cmd->why ? cmd->why : "by its command table");
}

static void judge_in_multi(struct preflight *p, const struct command *cmd)
{
	ull n = p->in_multi[cmd->id];

	if (n && !is_refused(cmd))
		say(p, LEVEL_WARN, "traffic", "let the application send it outside of transactions",
		    "command %s was seen %llu time%s inside MULTI: crossfade refuses it there: %s", cmd->name, n, PLURAL(n), cmd->why ? cmd->why : "it asks, or is to reach, more than one server");
}

static void judge_unknown(struct preflight *p)
{
	const char *todo = "a module's command? the applications that use it cannot use crossfade";

	for (unsigned i = 0; i < p->unknown.n; i++)
		say(p, LEVEL_WARN, "traffic", todo, "command %s was seen %llu time%s: crossfade does not know it", p->unknown.at[i].name, (ull)p->unknown.at[i].n,
		    PLURAL(p->unknown.at[i].n));
	if (p->unknown_others)
		say(p, LEVEL_WARN, "traffic", todo, "%llu request%s with other words that crossfade does not know", (ull)p->unknown_others, PLURAL(p->unknown_others));
}

/* ---- what the source's nodes have counted ---- */

/* What applications call, not operators and not other servers. */
static bool of_applications(const struct command *cmd)
{
	return !(cmd->flags & CMD_ADMIN) && cmd->policy != POLICY_LOCAL &&
	       (cmd->nspecs > 0 || cmd->flags & (CMD_WRITE | CMD_PUBSUB | CMD_BLOCKING | CMD_SCRIPT) || cmd->flags & CMD_NOSCRIPT);
}

static void name_with_calls(struct names *list, const char *name, uint64_t calls)
{
	char text[128];

	snprintf(text, sizeof(text), "%.60s (%llu)", name, (ull)calls);
	names_get(list, slice(text, strlen(text)));
}

static void say_counted(struct preflight *p, const struct names *list, const char *todo, const char *what)
{
	if (list->n == 0)
		return;
	sds text = names_text(sdsempty(), list);

	say(p, LEVEL_WARN, "commandstats", todo, "since the source's nodes started (or CONFIG RESETSTAT) they have run commands that %s: %s", what, text);
	sdsfree(text);
}

static void judge_counted(struct preflight *p)
{
	const struct check_side *s = &p->sides[SIDE_SOURCE], *t = &p->sides[SIDE_TARGET];
	struct names lacking = { 0 }, refused = { 0 }, unknown = { 0 };
	char label[64], what[128];

	for (unsigned id = 0; id < command_count; id++) {
		const struct command *cmd = &command_table[id];
		if (s->calls[id] == 0 || p->seen[id] > 0 || !of_applications(cmd))
			continue; /* those that came through crossfade have lines of their own */
		if (p->in.phase != PHASE_PROXY && crossfade_runs(cmd))
			continue; /* most of it was crossfade */
		if (side_answers(t) && !server_knows(t, cmd))
			name_with_calls(&lacking, cmd->name, s->calls[id]);
		else if (is_refused(cmd))
			name_with_calls(&refused, cmd->name, s->calls[id]);
	}
	for (unsigned i = 0; i < s->unknown_calls.n; i++)
		name_with_calls(&unknown, s->unknown_calls.at[i].name, s->unknown_calls.at[i].n);
	snprintf(what, sizeof(what), "%s does not know", side_label(t, SIDE_TARGET, label));
	say_counted(p, &lacking, "find out who uses them: they would fail after the cutover", what);
	say_counted(p, &refused, "find out who uses them: they will fail at crossfade (docs/commands.md says why)", "crossfade refuses");
	say_counted(p, &unknown, "find out who uses them: they will fail at crossfade", "crossfade does not know");
	names_release(&lacking);
	names_release(&refused);
	names_release(&unknown);
}

void judge_traffic(struct preflight *p)
{
	unsigned before = p->errors + p->warnings;
	uint64_t commands = 0;

	for (unsigned id = 0; id < command_count; id++) {
		const struct command *cmd = &command_table[id];
		commands += cmd->policy == POLICY_LOCAL ? 0 : p->seen[id]; /* a PING says nothing of an application */
		if (p->seen[id] == 0)
			continue;
		if (is_refused(cmd))
			judge_refused(p, cmd);
		else
			judge_known(p, cmd);
		judge_cross_slot(p, cmd);
		judge_in_multi(p, cmd);
	}
	judge_unknown(p);
	if (side_answers(&p->sides[SIDE_SOURCE]))
		judge_counted(p);
	if (commands == 0 && p->in.fleet)
		say(p, LEVEL_WARN, "traffic", "point the applications at crossfade for a while, then check again", "no command has come through crossfade yet");
	else if (p->errors + p->warnings == before)
		say(p, LEVEL_OK, "traffic", NULL, "%llu command%s came through crossfade: both sides know all that there were", (ull)commands, PLURAL(commands));
}
