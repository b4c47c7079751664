/* proxyctl_commands.h - the commands of proxyctl, each with its own options and help (proxyctl_options.c) and its own deed (proxyctl_commands.c). */
#ifndef CROSSFADE_PROXYCTL_COMMANDS_H
#define CROSSFADE_PROXYCTL_COMMANDS_H

#include <stdbool.h>
#include <stdint.h>

#include "tools/proxyctl_admin.h"

struct options {
	const char *socket;
	bool json, yes;
	/* status */
	bool watch;
	double interval_s;      /* 0: 1 s on a terminal, 10 s elsewhere */
	/* throttle; -1: leave as it is */
	int64_t keys_per_s, bytes_per_s;
	bool adaptive, off;
	/* verify */
	bool repair;
	/* cutover, rollback */
	bool dry_run, force;
	const char *slots;
	int percent, max_pause_ms, wait_s; /* -1: not given */
	/* wait */
	const char *conditions;
	double timeout_s;       /* -1: without end */
};

struct command {
	const char *name, *args, *summary, *doc;
	unsigned takes;         /* the options: bits of enum takes */
	enum exit_status (*run)(const struct command *command, const struct options *o);
	const char *exits;      /* lines for --help */
	const char *question;   /* what will happen; NULL: asks nothing */
};

enum takes {
	TAKES_JSON = 1, TAKES_YES = 2, TAKES_WATCH = 4, TAKES_PACE = 8, TAKES_REPAIR = 16, TAKES_FLIP = 32, TAKES_WAIT = 64,
};

extern const struct command commands[]; /* ends with a NULL name */

/* Parses the words after the command's name, argv[0]; ends the program on --help and on usage errors (64). */
void options_parse(const struct command *command, int argc, char **argv, struct options *o);

enum exit_status run_simple(const struct command *command, const struct options *o);
enum exit_status run_status(const struct command *command, const struct options *o);
enum exit_status run_check(const struct command *command, const struct options *o);
enum exit_status run_throttle(const struct command *command, const struct options *o);
enum exit_status run_verify(const struct command *command, const struct options *o);
enum exit_status run_flip(const struct command *command, const struct options *o);
enum exit_status run_wait(const struct command *command, const struct options *o);

#endif
