/* proxyctl_options.c - the table of commands, and how their words are read. */
#include <argp.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tools/proxyctl_commands.h"
#include "tools/proxyctl_status.h"

#define EXIT_0 "  0   done\n"
#define EXIT_1 "  1   refused; the text says why, nothing was changed\n"
#define EXIT_COMMON "  64  wrong usage\n  69  crossfade is unreachable"

const struct command commands[] = {
	{"start", "", "begin a migration: mirror writes, then copy what was there before",
	 "Turns mirroring on and returns. The backfill follows by itself: see status --watch, or wait for 'synced'. Asks nothing.",
	 TAKES_JSON, run_simple, EXIT_0 EXIT_1 EXIT_COMMON, NULL},
	{"check", "", "look whether a migration can be expected to go well",
	 "Looks at both sides and at what the applications use; tells, line by line, OK, WARN or ERR, and what to do. Changes nothing, at any time. "
	 "Every cutover is preceded by the same check: an ERR refuses it.", TAKES_JSON, run_check,
	 "  0   no line is ERR\n  1   at least one is, or it could not be done\n" EXIT_COMMON, NULL},
	{"status", "", "where the migration stands", "Shows where the migration stands.", TAKES_JSON | TAKES_WATCH, run_status, EXIT_0 EXIT_COMMON, NULL},
	{"pause", "", "halt the backfill; mirroring goes on", "Halts the backfill. Mirroring and repairs go on.", TAKES_JSON, run_simple, EXIT_0 EXIT_1 EXIT_COMMON, NULL},
	{"resume", "", "let the backfill go on", "Lets a paused backfill go on.", TAKES_JSON, run_simple, EXIT_0 EXIT_1 EXIT_COMMON, NULL},
	{"throttle", "", "set the pace of the backfill", "Sets the pace of the backfill; what is not named stays as it is.", TAKES_JSON | TAKES_PACE, run_throttle,
	 EXIT_0 EXIT_1 EXIT_COMMON, NULL},
	{"verify", "", "compare both sides, key by key", "Walks both sides, both ways, and compares types, values and expiries while clients go on.", TAKES_JSON | TAKES_REPAIR,
	 run_verify, "  0   no differences\n" EXIT_1 "  2   differences found (also when --repair has them copied again)\n" EXIT_COMMON, NULL},
	{"cutover", "", "let the target answer clients", "Lets the target answer clients; the source is mirrored from then on, so that rollback stays possible.",
	 TAKES_JSON | TAKES_YES | TAKES_FLIP, run_flip, EXIT_0 EXIT_1 EXIT_COMMON "\n  75  timed out and undone: the old side answers as before",
	 "Clients will be answered by the target. Requests are held for some milliseconds; no client reconnects.\n"
	 "The source is mirrored from then on, and 'proxyctl rollback' leads back until 'proxyctl finish'."},
	{"rollback", "", "let the source answer clients again", "Lets the source answer clients again, with all that was written meanwhile.", TAKES_JSON | TAKES_YES | TAKES_FLIP,
	 run_flip, EXIT_0 EXIT_1 EXIT_COMMON "\n  75  timed out and undone: the old side answers as before",
	 "Clients will be answered by the source again, with everything written meanwhile. Requests are held for some milliseconds."},
	{"finish", "", "end the migration; the way back closes", "Ends the migration after a full cutover: the source is let go.", TAKES_JSON | TAKES_YES, run_simple,
	 EXIT_0 EXIT_1 EXIT_COMMON, "The source will no longer be mirrored. There is NO way back to it afterwards."},
	{"abort", "", "give the migration up", "Gives the migration up: mirroring ends, the source answers as before. What was copied stays on the target.", TAKES_JSON | TAKES_YES,
	 run_simple, EXIT_0 "  1   refused: part of the slots is on the target (rollback first), or there is nothing to abort\n" EXIT_COMMON,
	 "Mirroring and copying will end, and all progress is forgotten. The source goes on answering; what was copied stays on the target."},
	{"wait", "CONDITION[,CONDITION...]", "wait until something is so",
	 "Waits until all conditions hold at once: synced (also true after cutover), phase=NAME, dirty=0, lag=0.", TAKES_JSON | TAKES_WAIT, run_wait,
	 "  0   they hold\n" EXIT_COMMON "\n  75  they did not within the time given", NULL},
	{0},
};

enum { KEY_KEYS = 256, KEY_BYTES, KEY_ADAPTIVE, KEY_OFF, KEY_REPAIR, KEY_DRY_RUN, KEY_SLOTS, KEY_PERCENT, KEY_MAX_PAUSE, KEY_WAIT, KEY_FORCE, KEY_TIMEOUT, KEY_INTERVAL };

static const struct { unsigned takes; struct argp_option option; } all_options[] = {
	{~0u, {"socket", 's', "SOCKET", 0, "The admin socket; may stand before the command, too", 0}},
	{TAKES_JSON, {"json", 'j', 0, 0, "Print one JSON object", 0}},
	{TAKES_YES, {"yes", 'y', 0, 0, "Answer the question with yes (needed where there is no terminal)", 0}},
	{TAKES_WATCH, {"watch", 'w', 0, 0, "Go on showing progress until interrupted", 0}},
	{TAKES_WATCH, {"interval", KEY_INTERVAL, "S", 0, "Seconds between two looks (1 on a terminal, else 10)", 0}},
	{TAKES_PACE, {"keys-per-s", KEY_KEYS, "N", 0, "At most N keys a second; 0: no limit", 0}},
	{TAKES_PACE, {"bytes-per-s", KEY_BYTES, "N", 0, "At most N bytes a second (also 512kb, 20mb); 0: no limit", 0}},
	{TAKES_PACE, {"adaptive", KEY_ADAPTIVE, 0, 0, "Give way when clients' requests get slower", 0}},
	{TAKES_PACE, {"off", KEY_OFF, 0, 0, "No limits and no giving way; limits named beside it count", 0}},
	{TAKES_REPAIR, {"repair", KEY_REPAIR, 0, 0, "Have what differs copied again", 0}},
	{TAKES_FLIP, {"dry-run", KEY_DRY_RUN, 0, 0, "Only tell whether it would be refused, and by which gate", 0}},
	{TAKES_FLIP, {"slots", KEY_SLOTS, "A-B", 0, "Only these hash slots (both sides must be clusters)", 0}},
	{TAKES_FLIP, {"percent", KEY_PERCENT, "N", 0, "Until N percent of the slots have flipped (both sides must be clusters)", 0}},
	{TAKES_FLIP, {"max-pause", KEY_MAX_PAUSE, "MS", 0, "Hold requests for at most this long, else undo", 0}},
	{TAKES_FLIP, {"wait", KEY_WAIT, "S", 0, "Seconds to wait for dirty keys and lag to reach zero, and for slots that move, before refusing (30)", 0}},
	{TAKES_FLIP, {"force", KEY_FORCE, 0, 0, "Skip the gates that are closed, and name them", 0}},
	{TAKES_WAIT, {"timeout", KEY_TIMEOUT, "S", 0, "Give up after this many seconds", 0}},
};
#define N_OPTIONS (sizeof all_options / sizeof all_options[0])

struct parse {
	const struct command *command;
	struct options *o;
};

static int64_t parse_number(struct argp_state *state, const char *option, const char *text, int64_t max, bool sizes)
{
	char *end;
	int64_t n, factor = 1;

	errno = 0;
	n = strtoll(text, &end, 10);
	if (sizes && *end) { /* as in the configuration: 64m is 64 million, 64mb is 64 << 20 */
		static const char units[] = "kmg";
		const char *unit = strchr(units, tolower((unsigned char)*end));

		if (unit) {
			bool binary = tolower((unsigned char)end[1]) == 'b';

			for (long i = 0; i <= unit - units; i++)
				factor *= binary ? 1024 : 1000;
			end += binary ? 2 : 1;
		}
	}
	if (end == text || *end || errno || n < 0 || n > max / factor)
		argp_error(state, "%s: expected a number from 0 to %lld, not '%s'", option, (long long)max, text);
	return n * factor;
}

static double parse_seconds(struct argp_state *state, const char *option, const char *text)
{
	char *end;
	double s = strtod(text, &end);

	if (end == text || *end || !(s >= 0 && s < 1e9))
		argp_error(state, "%s: expected seconds, not '%s'", option, text);
	return s;
}

static void check_slots(struct argp_state *state, const char *text)
{
	unsigned a, b;
	char rest;
	int n = sscanf(text, "%u-%u%c", &a, &b, &rest);

	if (n == 1 && sscanf(text, "%u%c", &a, &rest) == 1)
		b = a;
	else if (n != 2)
		b = a = 1, argp_error(state, "--slots: expected FIRST-LAST, not '%s'", text);
	if (a > b || b > 16383)
		argp_error(state, "--slots: expected slots from 0 to 16383, the first not above the last, not '%s'", text);
}

static error_t parse_flip(int key, char *arg, struct argp_state *state, struct options *o)
{
	switch (key) {
	case KEY_DRY_RUN:
		o->dry_run = true;
		return 0;
	case KEY_SLOTS:
		check_slots(state, arg);
		o->slots = arg;
		return 0;
	case KEY_PERCENT:
		o->percent = (int)parse_number(state, "--percent", arg, 100, false);
		return 0;
	case KEY_MAX_PAUSE:
		o->max_pause_ms = (int)parse_number(state, "--max-pause", arg, 3600000, false);
		return 0;
	case KEY_WAIT:
		o->wait_s = (int)parse_number(state, "--wait", arg, 1000000, false);
		return 0;
	case KEY_FORCE:
		o->force = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static error_t parse_option(int key, char *arg, struct argp_state *state, struct options *o)
{
	switch (key) {
	case 's':
		o->socket = arg;
		return 0;
	case 'j':
		o->json = true;
		return 0;
	case 'y':
		o->yes = true;
		return 0;
	case 'w':
		o->watch = true;
		return 0;
	case KEY_INTERVAL:
		o->interval_s = parse_seconds(state, "--interval", arg);
		return 0;
	case KEY_KEYS:
		o->keys_per_s = parse_number(state, "--keys-per-s", arg, INT64_MAX, false);
		return 0;
	case KEY_BYTES:
		o->bytes_per_s = parse_number(state, "--bytes-per-s", arg, INT64_MAX, true);
		return 0;
	case KEY_ADAPTIVE:
		o->adaptive = true;
		return 0;
	case KEY_OFF:
		o->off = true;
		return 0;
	case KEY_REPAIR:
		o->repair = true;
		return 0;
	case KEY_TIMEOUT:
		o->timeout_s = parse_seconds(state, "--timeout", arg);
		return 0;
	default:
		return parse_flip(key, arg, state, o);
	}
}

static void check_together(const struct command *command, const struct options *o, struct argp_state *state)
{
	if (o->slots && o->percent >= 0)
		argp_error(state, "--slots and --percent exclude each other");
	if (o->adaptive && o->off)
		argp_error(state, "--adaptive and --off exclude each other");
	if (command->takes & TAKES_PACE && o->keys_per_s < 0 && o->bytes_per_s < 0 && !o->adaptive && !o->off)
		argp_error(state, "expected --keys-per-s, --bytes-per-s, --adaptive or --off");
	if (command->takes & TAKES_WAIT && !o->conditions)
		argp_error(state, "which condition? (synced, phase=NAME, dirty=0, lag=0)");
}

static error_t parse_key(int key, char *arg, struct argp_state *state)
{
	struct parse *p = state->input;
	char err[256];

	switch (key) {
	case ARGP_KEY_ARG:
		if (!(p->command->takes & TAKES_WAIT) || p->o->conditions)
			argp_error(state, "unexpected '%s'", arg);
		if (!conditions_valid(arg, err, sizeof err))
			argp_error(state, "%s", err);
		p->o->conditions = arg;
		return 0;
	case ARGP_KEY_END:
		check_together(p->command, p->o, state);
		return 0;
	default:
		return parse_option(key, arg, state, p->o);
	}
}

static char *exits_doc(const struct command *c)
{
	char *text = NULL;

	if (asprintf(&text, "%s\vExit status:\n%s", c->doc, c->exits) < 0)
		abort();
	return text;
}

void options_parse(const struct command *command, int argc, char **argv, struct options *o)
{
	struct argp_option options[N_OPTIONS + 1];
	struct parse p = {.command = command, .o = o};
	char *name = NULL, *doc = exits_doc(command);
	struct argp argp = {.options = options, .parser = parse_key, .args_doc = command->args, .doc = doc};
	size_t n = 0;

	memset(options, 0, sizeof options);
	for (size_t i = 0; i < N_OPTIONS; i++)
		if (command->takes & all_options[i].takes)
			options[n++] = all_options[i].option;
	if (asprintf(&name, "proxyctl %s", command->name) < 0)
		abort();
	argv[0] = name;
	argp_parse(&argp, argc, argv, 0, NULL, &p);
	free(doc);
	free(name);
}
