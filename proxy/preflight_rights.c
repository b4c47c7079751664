/* Lines about the accounts: what crossfade itself needs on each side, and what the applications' commands need.
 *
 * Each is asked by ACL DRYRUN. Where that is forbidden or unknown, what is harmless is simply tried: on a key that is not there, with arguments that
 * the server refuses behind the check of rights. What can be neither asked nor tried is called unchecked. */
#include <stdlib.h>

#include "proxy/preflight_internal.h"
#include "resp/parse.h"

enum need_flags {
	TRY = 1,      /* harmless when really sent */
	OPTIONAL = 2, /* without it something is not seen or not shown, and all goes on */
	CLUSTER = 4,
	NEWER = 8,    /* not every server has it */
	FOLLOWER = 16, /* used on the side that is mirrored to: on the source only after the cutover */
};

struct need {
	unsigned flags;
	const char *words[8];
};

#define K PROBE_KEY
static const struct need needs[] = {
	{ TRY, { "SCAN", "0", "COUNT", "1" } },
	{ TRY, { "DBSIZE" } },
	{ TRY, { "TYPE", K } },
	{ TRY, { "EXISTS", K } },
	{ TRY, { "DUMP", K } },
	{ TRY, { "PEXPIRETIME", K } },
	{ TRY, { "GET", K } },
	{ TRY, { "GETRANGE", K, "0", "0" } },
	{ TRY, { "LRANGE", K, "0", "0" } },
	{ TRY, { "HSCAN", K, "0" } },
	{ TRY, { "SSCAN", K, "0" } },
	{ TRY, { "ZSCAN", K, "0" } },
	{ TRY, { "XRANGE", K, "-", "+", "COUNT", "1" } },
	{ TRY, { "XINFO", "STREAM", K } },
	{ TRY, { "XPENDING", K, "g" } },
	{ TRY | NEWER, { "HPEXPIRETIME", K, "FIELDS", "1", "f" } },
	{ TRY | OPTIONAL, { "MEMORY", "USAGE", K } },
	{ TRY | CLUSTER, { "CLUSTER", "SLOTS" } },
	{ TRY | CLUSTER, { "CLUSTER", "NODES" } },
	{ TRY | CLUSTER, { "CLUSTER", "GETKEYSINSLOT", "0", "0" } },
	{ TRY | CLUSTER, { "CLUSTER", "COUNTKEYSINSLOT", "0" } },
	{ TRY, { "CLIENT", "ID" } },
	{ TRY | OPTIONAL, { "CLIENT", "TRACKING", "OFF" } },
	{ TRY, { "CLIENT", "KILL", "ID", "9223372036854775807" } },
	{ TRY, { "CLIENT", "LIST" } },
	{ TRY | OPTIONAL, { "WAIT", "0", "0" } },
	{ TRY, { "PING" } },
	{ TRY, { "TIME" } },
	{ TRY, { "FUNCTION", "DUMP" } },
	{ TRY, { "FUNCTION", "LIST", "LIBRARYNAME", "crossfade" } },
	{ TRY | OPTIONAL, { "SCRIPT", "LOAD", "return 1" } },
	{ TRY | FOLLOWER, { "FUNCTION", "RESTORE", "x" } },
	{ TRY | FOLLOWER, { "RESTORE", K, "0", "x" } },
	{ TRY | FOLLOWER, { "UNLINK", K } },
	{ TRY | FOLLOWER, { "RENAME", K, K } },
	{ TRY | FOLLOWER, { "PEXPIREAT", K, "1" } },
	{ TRY | FOLLOWER, { "EXEC" } },
	{ FOLLOWER, { "MULTI" } },
	{ FOLLOWER, { "DEL", K } },
	{ FOLLOWER, { "SET", K, "v" } },
	{ FOLLOWER, { "APPEND", K, "v" } },
	{ FOLLOWER, { "HSET", K, "f", "v" } },
	{ FOLLOWER | NEWER, { "HPEXPIREAT", K, "1", "FIELDS", "1", "f" } },
	{ FOLLOWER, { "RPUSH", K, "v" } },
	{ FOLLOWER, { "SADD", K, "v" } },
	{ FOLLOWER, { "SREM", K, "v" } },
	{ FOLLOWER, { "ZADD", K, "1", "v" } },
	{ FOLLOWER, { "ZREM", K, "v" } },
	{ FOLLOWER, { "XADD", K, "1-1", "f", "v" } },
	{ FOLLOWER, { "XGROUP", "CREATE", K, "g", "0" } },
	{ FOLLOWER, { "XCLAIM", K, "g", "c", "0", "1-1" } },
	{ FOLLOWER, { "XSETID", K, "1-1" } },
};
#undef K
#define NEEDS (sizeof(needs) / sizeof(needs[0]))
/* What is so without the OPTIONAL ones. */
static const struct { const char *name, *so; } without[] = {
	{ "client|tracking", "writers that bypass crossfade are not seen" },
	{ "memory|usage", "a large value is known to be large only when it is read" },
	{ "script|load", "a script that a server lacks is not loaded there" },
	{ "wait", "a flip does not wait for replicas" },
};
_Static_assert(NEEDS <= NEEDS_MAX, "struct check_node has room for them");

static unsigned need_words(const struct need *need, struct slice words[8])
{
	unsigned n = 0;

	while (n < 8 && need->words[n]) {
		words[n] = slice(need->words[n], strlen(need->words[n]));
		n++;
	}
	return n;
}

/* "config|get", as ACL rules name it. */
static void need_name(const struct need *need, char out[64])
{
	struct slice words[8];
	const struct command *cmd, *sub;

	need_words(need, words);
	cmd = command_find(words[0]);
	sub = cmd && cmd->flags & CMD_CONTAINER ? command_find_sub(cmd, words[1]) : NULL;
	snprintf(out, 64, "%s", sub ? sub->name : cmd ? cmd->name : need->words[0]);
}

bool crossfade_runs(const struct command *cmd)
{
	char name[64];

	for (unsigned i = 0; i < NEEDS; i++) {
		need_name(&needs[i], name);
		if (strcmp(name, cmd->name) == 0)
			return true;
	}
	return false;
}

/* ---- asking ---- */

static bool has(struct slice text, const char *part)
{
	return memmem(text.p, text.n, part, strlen(part)) != NULL;
}

static void take_try(struct check_node *n, unsigned number, struct slice reply)
{
	struct slice text;

	if (!is_error(reply, &text))
		n->needs[number] = RIGHT_YES;
	else if (has(text, "NOPERM"))
		n->needs[number] = has(text, "access a key") || has(text, "access the") ? RIGHT_NO_KEY : RIGHT_NO;
	else if (has(text, "unknown command") || has(text, "unknown subcommand") || has(text, "Unknown subcommand"))
		n->needs[number] = RIGHT_ABSENT;
	else
		n->needs[number] = RIGHT_YES; /* refused for another reason, which comes behind the check of rights */
}

/* What DRYRUN answered; RIGHT_UNKNOWN: nothing that helps. */
static enum right dryrun_right(struct slice reply)
{
	struct slice text = text_of(reply), error;

	if (is_error(reply, &error))
		return has(error, "ommand '") && has(error, "not found") ? RIGHT_ABSENT : RIGHT_UNKNOWN;
	if (!text.p)
		return RIGHT_UNKNOWN;
	if (slice_is(text, "OK"))
		return RIGHT_YES;
	return has(text, "to access the") ? RIGHT_NO_KEY : RIGHT_NO;
}

static void take_dryrun(struct check_node *n, unsigned number, struct slice reply)
{
	enum right right = dryrun_right(reply);
	struct slice words[8];

	n->needs[number] = (uint8_t)right;
	if (right == RIGHT_UNKNOWN && needs[number].flags & TRY)
		ask_words(n, take_try, number, need_words(&needs[number], words), words);
}

static void take_dryrun_command(struct check_node *n, unsigned number, struct slice reply)
{
	n->commands[number] = (uint8_t)dryrun_right(reply);
}

static const char *user_of(const struct check_node *n)
{
	const char *user = n->p->in.config->side[n->side].user;

	return user ? user : "default";
}

/* A command of the applications, with as many words as it takes. */
static void ask_command(struct check_node *n, const struct command *cmd)
{
	struct slice words[3 + 16] = { SLICE_LIT("ACL"), SLICE_LIT("DRYRUN"), slice(user_of(n), strlen(user_of(n))) };
	const char *bar = strchr(cmd->name, '|');
	unsigned argc = 3, want = 3 + (unsigned)abs(cmd->arity);

	words[argc++] = slice(cmd->name, bar ? (size_t)(bar - cmd->name) : strlen(cmd->name));
	if (bar)
		words[argc++] = slice(bar + 1, strlen(bar + 1));
	while (argc < want && argc < 3 + 16)
		words[argc++] = SLICE_LIT(PROBE_KEY);
	ask_words(n, take_dryrun_command, cmd->id, argc, words);
}

static bool is_sent_on(const struct command *cmd)
{
	return cmd->policy != POLICY_LOCAL && cmd->policy != POLICY_REFUSE && cmd->policy != POLICY_LATER;
}

void rights_ask(struct check_node *n)
{
	bool cluster = n->p->sides[n->side].topology->cluster;

	for (unsigned i = 0; i < NEEDS; i++) {
		struct slice words[3 + 8] = { SLICE_LIT("ACL"), SLICE_LIT("DRYRUN"), slice(user_of(n), strlen(user_of(n))) };
		if (needs[i].flags & CLUSTER && !cluster)
			continue;
		ask_words(n, take_dryrun, i, 3 + need_words(&needs[i], words + 3), words);
	}
	for (unsigned id = 0; id < command_count; id++)
		if (n->p->seen[id] && is_sent_on(&command_table[id]))
			ask_command(n, &command_table[id]);
}

/* ---- judging ---- */

struct findings {
	struct names required, optional, back, absent, applications; /* what is missing, by why it is needed */
	unsigned unchecked;
	bool keys, unchecked_applications;
};

static void find_needs(const struct check_node *n, struct findings *f)
{
	for (unsigned i = 0; i < NEEDS; i++) {
		enum right right = n->needs[i];
		unsigned flags = needs[i].flags;
		char name[64];

		f->keys |= right == RIGHT_NO_KEY;
		f->unchecked += right == RIGHT_UNKNOWN;
		if (right != RIGHT_NO && (right != RIGHT_ABSENT || flags & NEWER))
			continue;
		struct names *list = right == RIGHT_ABSENT ? &f->absent
				   : flags & OPTIONAL ? &f->optional
				   : flags & FOLLOWER && n->side == SIDE_SOURCE ? &f->back
									      : &f->required;
		need_name(&needs[i], name);
		names_get(list, slice(name, strlen(name)));
	}
	for (unsigned id = 0; id < command_count; id++) {
		f->keys |= n->commands[id] == RIGHT_NO_KEY;
		f->unchecked_applications |= n->commands[id] == RIGHT_UNKNOWN;
		if (n->commands[id] == RIGHT_NO)
			names_get(&f->applications, slice(command_table[id].name, strlen(command_table[id].name)));
	}
}

/* "ACL SETUSER crossfade +dump +function|restore on every node of the target" */
static void say_missing(struct preflight *p, enum level level, enum side side, const char *user, const struct names *list, const char *what)
{
	if (list->n == 0)
		return;
	sds text = names_text(sdsempty(), list), todo = sdscatprintf(sdsempty(), "ACL SETUSER %s", user);

	for (unsigned i = 0; i < list->n; i++)
		todo = sdscatprintf(todo, " +%s", list->at[i].name);
	todo = sdscatprintf(todo, " on every node of the %s, then ACL SAVE or CONFIG REWRITE", side_name(side));
	say(p, level, "rights", todo, "the account '%s' on the %s may not run %s: %s", user, side_name(side), text, what);
	sdsfree(text);
	sdsfree(todo);
}

static void say_findings(struct preflight *p, enum side side, const char *user, const struct findings *f)
{
	unsigned before = p->errors + p->warnings;

	say_missing(p, LEVEL_ERR, side, user, &f->required, "crossfade needs it");
	say_missing(p, LEVEL_ERR, side, user, &f->back, "the source could not be mirrored to after the cutover, and there would be no way back");
	say_missing(p, LEVEL_ERR, side, user, &f->applications, "the applications use it");
	for (unsigned i = 0; i < sizeof(without) / sizeof(without[0]); i++) {
		struct names one = { 0 };
		if (!names_find(&f->optional, without[i].name))
			continue;
		names_get(&one, slice(without[i].name, strlen(without[i].name)));
		say_missing(p, LEVEL_WARN, side, user, &one, without[i].so);
		names_release(&one);
	}
	if (f->keys) {
		sds todo = sdscatprintf(sdsempty(), "ACL SETUSER %s ~* on every node of the %s", user, side_name(side));
		say(p, LEVEL_ERR, "rights", todo, "the account '%s' on the %s may not use every key", user, side_name(side));
		sdsfree(todo);
	}
	if (f->absent.n) {
		sds text = names_text(sdsempty(), &f->absent);
		say(p, LEVEL_ERR, "rights", "give them their names back (rename-command), or ask the service for them", "the %s does not have %s: renamed or disabled",
		    side_name(side), text);
		sdsfree(text);
	}
	if (f->unchecked)
		say(p, LEVEL_WARN, "rights", "allow that account ACL DRYRUN (acl|dryrun) and check again, or compare with the list in docs/operations.md",
		    "the account '%s' on the %s may not run ACL DRYRUN: %u command%s that write%s were not checked, the others were tried", user, side_name(side),
		    f->unchecked, PLURAL(f->unchecked), f->unchecked == 1 ? "s" : "");
	if (p->errors + p->warnings == before)
		say(p, LEVEL_OK, "rights", NULL, "the account '%s' on the %s may run all that crossfade%s", user, side_name(side),
		    f->unchecked_applications ? " needs" : " needs and the applications use");
}

void judge_rights(struct preflight *p)
{
	for (int side = 0; side < SIDES; side++) {
		const struct check_side *s = &p->sides[side];
		struct findings f = { 0 };

		if (!side_answers(s))
			continue;
		for (unsigned i = 0; i < s->nnodes; i++)
			if (!s->nodes[i].lost)
				find_needs(&s->nodes[i], &f);
		f.unchecked /= s->nnodes;
		say_findings(p, (enum side)side, user_of(&s->nodes[0]), &f);
		names_release(&f.required);
		names_release(&f.optional);
		names_release(&f.back);
		names_release(&f.absent);
		names_release(&f.applications);
	}
}
