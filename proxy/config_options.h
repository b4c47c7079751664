/* config_options.h - the one table of options, private to config*.c.
 *
 * A row says all about an option: its name, how its words are read, where the value lives, what it may be, its default (as text, read by the same
 * code as the file), whether it may change while running, and its help. docs/configuration.md and conf/crossfade.conf are checked against it. */
#ifndef CROSSFADE_CONFIG_OPTIONS_H
#define CROSSFADE_CONFIG_OPTIONS_H

#include <hiredis/sds.h>

#include "proxy/config.h"

enum option_type {
	OPTION_TEXT,   /* char * */
	OPTION_INT,    /* int, in [min, max] */
	OPTION_MODE,   /* int, octal: the rights of a file */
	OPTION_COUNT,  /* int64_t, a plain number */
	OPTION_SIZE,   /* int64_t, with units: 64mb */
	OPTION_CHOICE, /* int: index in choices */
	OPTION_SWITCH, /* bool: index in choices, which are two words */
	OPTION_BINDS,  /* the binds of the config */
	OPTION_NODES,  /* host:port … of a side */
	OPTION_MAP,    /* announced=reachable … of a side */
};

/* Whether it may change while running. */
enum reload {
	RELOAD_NO,
	RELOAD_YES,
	RELOAD_FILES, /* by SIGHUP only: it is read and checked together with the files that it names or that belong to it */
};

struct option {
	const char *name;
	enum option_type type;
	size_t offset;            /* in struct config; of the side_config for NODES and MAP */
	const char *fallback;     /* the default; NULL: none */
	int64_t min, max;
	const char *const *choices; /* NULL at the end */
	enum reload reload;
	const char *expected;     /* ends the message "…: expected …" */
	const char *help;
};

extern const struct option config_options[];
extern const unsigned config_option_count;

const struct option *config_option_find(const char *name);
/* Reads the words (without the option's name) into the config; false: err holds what was wrong, without file and line. */
bool config_option_read(struct config *c, const struct option *o, int argc, char *const *argv, char *err, size_t errlen);
/* Appends the value as the file would have it. */
sds config_option_text(sds out, const struct config *c, const struct option *o);
/* Takes a reloadable number, text or choice over. */
void config_option_move(struct config *to, const struct config *from, const struct option *o);
void config_option_release(struct config *c, const struct option *o);

/* config_tls.c: the contexts of a config that was just read; false: err says which option is wrong. */
bool config_tls_listener(struct config *c, char *err, size_t errlen);
bool config_tls_side(struct config *c, enum side side, char *err, size_t errlen);
void config_tls_take(struct config *c, struct config *fresh);
void config_tls_release(struct config *c);

#endif
