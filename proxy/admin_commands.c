/* The words of the admin protocol (docs/admin.md): two tables, commands and options. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/admin_internal.h"
#include "resp/write.h"

#define WORDS_MAX 64
#define WAIT_DEFAULT_S 30
#define NUMBER_MAX INT64_C(1000000000000000)

struct words {
	unsigned n;
	struct slice at[WORDS_MAX];
};

static void usage(struct admin_conn *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void usage(struct admin_conn *c, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	admin_reply(c, ANSWER_USAGE, text);
}

/* ---- options of orders ---- */

enum option_kind { FLAG, NUMBER, RANGE };

struct word_option {
	const char *name;
	unsigned orders; /* bits: which take it */
	enum option_kind kind;
	int64_t min, max;
	void (*set)(struct order_args *a, int64_t n, int64_t m);
};

static void set_dry_run(struct order_args *a, int64_t n, int64_t m) { (void)n, (void)m; a->dry_run = true; }
static void set_force(struct order_args *a, int64_t n, int64_t m) { (void)n, (void)m; a->force = true; }
static void set_repair(struct order_args *a, int64_t n, int64_t m) { (void)n, (void)m; a->repair = true; }
static void set_max_pause(struct order_args *a, int64_t n, int64_t m) { (void)m; a->max_pause_ms = (unsigned)n; }
static void set_wait(struct order_args *a, int64_t n, int64_t m) { (void)m; a->wait_s = (unsigned)n; }
static void set_keys(struct order_args *a, int64_t n, int64_t m) { (void)m; a->keys_per_s = n; }
static void set_bytes(struct order_args *a, int64_t n, int64_t m) { (void)m; a->bytes_per_s = n; }
static void set_adaptive(struct order_args *a, int64_t n, int64_t m) { (void)n, (void)m; a->adaptive = 1; }
static void set_off(struct order_args *a, int64_t n, int64_t m) { (void)n, (void)m; a->adaptive = 0; a->keys_per_s = a->bytes_per_s = 0; }
static void set_percent(struct order_args *a, int64_t n, int64_t m) { (void)m; a->by_percent = true; a->percent = (unsigned)n; }
static void set_slots(struct order_args *a, int64_t n, int64_t m)
{
	a->by_slots = true;
	a->first = (unsigned)n;
	a->last = (unsigned)m;
}

#define FLIPS (1u << ORDER_CUTOVER | 1u << ORDER_ROLLBACK)
static const struct word_option word_options[] = {
	{ "dryrun", FLIPS, FLAG, 0, 0, set_dry_run },
	{ "force", FLIPS, FLAG, 0, 0, set_force },
	{ "slots", FLIPS, RANGE, 0, SLOTS - 1, set_slots },
	{ "percent", FLIPS, NUMBER, 1, 100, set_percent },
	{ "maxpause", FLIPS, NUMBER, 1, 60000, set_max_pause },
	{ "wait", FLIPS, NUMBER, 0, 86400, set_wait },
	{ "repair", 1u << ORDER_VERIFY, FLAG, 0, 0, set_repair },
	{ "keys", 1u << ORDER_THROTTLE, NUMBER, 0, NUMBER_MAX, set_keys },
	{ "bytes", 1u << ORDER_THROTTLE, NUMBER, 0, NUMBER_MAX, set_bytes },
	{ "adaptive", 1u << ORDER_THROTTLE, FLAG, 0, 0, set_adaptive },
	{ "off", 1u << ORDER_THROTTLE, FLAG, 0, 0, set_off },
};

static bool read_number(struct slice s, int64_t min, int64_t max, int64_t *n)
{
	int64_t v = 0;

	if (s.n == 0 || s.n > 16)
		return false;
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] < '0' || s.p[i] > '9')
			return false;
		v = v * 10 + (s.p[i] - '0');
	}
	*n = v;
	return v >= min && v <= max;
}

/* "100-200", or one slot. */
static bool read_range(struct slice s, int64_t min, int64_t max, int64_t *first, int64_t *last)
{
	const char *dash = memchr(s.p, '-', s.n);
	size_t n = dash ? (size_t)(dash - s.p) : s.n;

	if (!read_number(slice(s.p, n), min, max, first))
		return false;
	if (!dash) {
		*last = *first;
		return true;
	}
	return read_number(slice(dash + 1, s.n - n - 1), min, max, last) && *last >= *first;
}

static const struct word_option *find_option(enum order order, struct slice word)
{
	for (unsigned i = 0; i < sizeof(word_options) / sizeof(word_options[0]); i++)
		if ((word_options[i].orders & 1u << order) && slice_is(word, word_options[i].name))
			return &word_options[i];
	return NULL;
}

static bool read_options(struct admin_conn *c, enum order order, const struct words *w, struct order_args *a)
{
	for (unsigned i = 2; i < w->n; i++) {
		const struct word_option *o = find_option(order, w->at[i]);
		int64_t n = 0, m = 0;
		if (!o) {
			usage(c, "unknown option '%.*s': see PROXY HELP", (int)(w->at[i].n < 64 ? w->at[i].n : 64), w->at[i].p);
			return false;
		}
		if (o->kind != FLAG && ++i == w->n) {
			usage(c, "%s needs a value", o->name);
			return false;
		}
		if ((o->kind == NUMBER && !read_number(w->at[i], o->min, o->max, &n)) ||
		    (o->kind == RANGE && !read_range(w->at[i], o->min, o->max, &n, &m))) {
			usage(c, "%s: expected %s from %lld to %lld", o->name, o->kind == RANGE ? "a range such as 0-99," : "a number",
			      (long long)o->min, (long long)o->max);
			return false;
		}
		o->set(a, n, m);
	}
	if (a->by_slots && a->by_percent) {
		usage(c, "slots and percent exclude each other");
		return false;
	}
	return true;
}

/* ---- PROXY commands ---- */

struct proxy_command {
	const char *name;
	void (*run)(struct admin_conn *c, const struct proxy_command *cmd, const struct words *w);
	enum order order;
	const char *help;
};

static void run_order(struct admin_conn *c, const struct proxy_command *cmd, const struct words *w)
{
	struct order_args a = { .keys_per_s = -1, .bytes_per_s = -1, .adaptive = -1, .wait_s = WAIT_DEFAULT_S };

	if (read_options(c, cmd->order, w, &a))
		control_order(admin_control(c), cmd->order, &a, admin_wait(c));
}

static void run_status(struct admin_conn *c, const struct proxy_command *cmd, const struct words *w)
{
	(void)cmd;
	if (w->n != 2) {
		usage(c, "STATUS takes no options");
		return;
	}
	char *json = control_status(admin_control(c));
	admin_reply(c, ANSWER_JSON, json);
	free(json);
}

static void run_check(struct admin_conn *c, const struct proxy_command *cmd, const struct words *w)
{
	(void)cmd;
	if (w->n != 2)
		usage(c, "CHECK takes no options");
	else
		control_check(admin_control(c), admin_wait(c));
}

static void run_config(struct admin_conn *c, const struct proxy_command *cmd, const struct words *w)
{
	char name[64], value[4096], err[512];

	(void)cmd;
	if (w->n < 4 || w->at[3].n >= sizeof(name) || (w->n > 4 && w->at[4].n >= sizeof(value))) {
		usage(c, "expected CONFIG GET name, or CONFIG SET name value");
		return;
	}
	snprintf(name, sizeof(name), "%.*s", (int)w->at[3].n, w->at[3].p);
	if (w->n == 4 && slice_is(w->at[2], "get")) {
		char *text = control_config_get(admin_control(c), name);
		if (text)
			*admin_out(c) = resp_cat_bulk(*admin_out(c), slice(text, strlen(text)));
		else
			usage(c, "unknown option '%s'", name);
		free(text);
	} else if (w->n == 5 && slice_is(w->at[2], "set")) {
		snprintf(value, sizeof(value), "%.*s", (int)w->at[4].n, w->at[4].p);
		if (control_config_set(admin_control(c), name, value, err, sizeof(err)))
			admin_reply(c, ANSWER_OK, "set until the next SIGHUP or start");
		else
			admin_reply(c, ANSWER_USAGE, err);
	} else {
		usage(c, "expected CONFIG GET name, or CONFIG SET name value");
	}
}

static void run_help(struct admin_conn *c, const struct proxy_command *cmd, const struct words *w);

static const struct proxy_command proxy_commands[] = {
	{ "help", run_help, 0, "PROXY HELP: this list" },
	{ "status", run_status, 0, "PROXY STATUS: everything, as one JSON object" },
	{ "check", run_check, 0, "PROXY CHECK: whether a migration can be expected to go well, line by line, with what to do" },
	{ "start", run_order, ORDER_START, "PROXY START: begin the migration: mirror, then copy" },
	{ "pause", run_order, ORDER_PAUSE, "PROXY PAUSE: pause the copying; mirroring goes on" },
	{ "resume", run_order, ORDER_RESUME, "PROXY RESUME: go on copying" },
	{ "throttle", run_order, ORDER_THROTTLE, "PROXY THROTTLE [KEYS n] [BYTES n] [ADAPTIVE|OFF]: limits of the copying, per second, 0 is none" },
	{ "verify", run_order, ORDER_VERIFY, "PROXY VERIFY [REPAIR]: compare both sides; answers when it is done" },
	{ "cutover", run_order, ORDER_CUTOVER,
	  "PROXY CUTOVER [DRYRUN] [SLOTS a-b | PERCENT n] [MAXPAUSE ms] [WAIT s] [FORCE]: the target takes over" },
	{ "rollback", run_order, ORDER_ROLLBACK,
	  "PROXY ROLLBACK [DRYRUN] [SLOTS a-b | PERCENT n] [MAXPAUSE ms] [WAIT s] [FORCE]: the source takes over again" },
	{ "finish", run_order, ORDER_FINISH, "PROXY FINISH: the source gets nothing any more; there is no way back" },
	{ "abort", run_order, ORDER_ABORT, "PROXY ABORT: give the migration up; only while no slot is on the target" },
	{ "config", run_config, 0, "PROXY CONFIG GET name | SET name value: an option; SET of those that SIGHUP changes, too" },
};
#define PROXY_COMMANDS (sizeof(proxy_commands) / sizeof(proxy_commands[0]))

static void run_help(struct admin_conn *c, const struct proxy_command *cmd, const struct words *w)
{
	sds *out = admin_out(c);

	(void)cmd;
	(void)w;
	*out = resp_cat_len(*out, '*', PROXY_COMMANDS + 2);
	for (unsigned i = 0; i < PROXY_COMMANDS; i++)
		*out = resp_cat_bulk(*out, slice(proxy_commands[i].help, strlen(proxy_commands[i].help)));
	*out = resp_cat_bulk(*out, SLICE_LIT("PING: +PONG"));
	*out = resp_cat_bulk(*out, SLICE_LIT("QUIT: closes the connection"));
}

static void run_proxy(struct admin_conn *c, const struct words *w)
{
	if (w->n < 2) {
		usage(c, "PROXY needs a command: see PROXY HELP");
		return;
	}
	for (unsigned i = 0; i < PROXY_COMMANDS; i++)
		if (slice_is(w->at[1], proxy_commands[i].name)) {
			proxy_commands[i].run(c, &proxy_commands[i], w);
			return;
		}
	usage(c, "unknown command 'PROXY %.*s': see PROXY HELP", (int)(w->at[1].n < 64 ? w->at[1].n : 64), w->at[1].p);
}

void admin_command(struct admin_conn *c, const struct resp_request *r, const char *buf)
{
	struct words w = { .n = r->argc < WORDS_MAX ? r->argc : WORDS_MAX };

	if (w.n == 0)
		return;
	for (unsigned i = 0; i < w.n; i++)
		w.at[i] = resp_request_arg(r, buf, i);
	if (slice_is(w.at[0], "proxy")) {
		run_proxy(c, &w);
	} else if (slice_is(w.at[0], "ping")) {
		*admin_out(c) = resp_cat_simple(*admin_out(c), "PONG");
	} else if (slice_is(w.at[0], "quit")) {
		*admin_out(c) = resp_cat_simple(*admin_out(c), "OK");
		admin_close_after(c);
	} else {
		usage(c, "this is Crossfade's admin socket, '%.*s' is for its port: see PROXY HELP", (int)(w.at[0].n < 64 ? w.at[0].n : 64),
		      w.at[0].p);
	}
}
