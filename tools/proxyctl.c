/* proxyctl - the operator's tool: sends commands to the admin socket of crossfade and words the answers. See docs/man/proxyctl.1. */
#include <argp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/proxyctl_commands.h"

#define DEFAULT_SOCKET "/run/crossfade/admin.sock"

const char *argp_program_version = "proxyctl " PACKAGE_VERSION;

struct globals {
	const char *socket;
	int rest; /* where the command's name stands */
};

static const struct argp_option global_options[] = {
	{"socket", 's', "SOCKET", 0, "The admin socket (otherwise $CROSSFADE_SOCKET, otherwise " DEFAULT_SOCKET ")", 0},
	{0},
};

static error_t parse_global(int key, char *arg, struct argp_state *state)
{
	struct globals *g = state->input;

	switch (key) {
	case 's':
		g->socket = arg;
		return 0;
	case ARGP_KEY_ARG:
		g->rest = state->next - 1;
		state->next = state->argc; /* the rest is the command's */
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "which command?");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* The list of commands, for --help; to be freed. */
static char *global_doc(void)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		abort();
	fprintf(out, "Steers a running crossfade.\n\nCommands (each has its own --help):\n");
	for (const struct command *c = commands; c->name; c++)
		fprintf(out, "  %-9s %s\n", c->name, c->summary);
	fprintf(out, "\nOptions:\v"
		     "Exit status: 0 done, 1 refused, 2 differences found, 64 wrong usage, 69 crossfade unreachable, 75 timed out and undone.");
	fclose(out);
	return text;
}

static const struct command *find_command(const char *name)
{
	for (const struct command *c = commands; c->name; c++)
		if (strcmp(c->name, name) == 0)
			return c;
	return NULL;
}

int main(int argc, char **argv)
{
	struct globals g = {.socket = getenv("CROSSFADE_SOCKET")};
	char *doc = global_doc();
	struct argp argp = {.options = global_options, .parser = parse_global, .args_doc = "COMMAND [OPTION...]", .doc = doc};
	struct options o = {.interval_s = 0, .keys_per_s = -1, .bytes_per_s = -1, .percent = -1, .max_pause_ms = -1, .wait_s = -1, .timeout_s = -1};
	const struct command *command;

	argp_err_exit_status = STATUS_USAGE;
	signal(SIGPIPE, SIG_IGN);
	argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &g);
	free(doc);
	command = find_command(argv[g.rest]);
	if (!command) {
		fprintf(stderr, "proxyctl: unknown command '%s' (proxyctl --help lists them)\n", argv[g.rest]);
		return STATUS_USAGE;
	}
	o.socket = g.socket && *g.socket ? g.socket : DEFAULT_SOCKET;
	options_parse(command, argc - g.rest, argv + g.rest, &o);
	return (int)command->run(command, &o);
}
