/* proxyctl_commands.c - what each command of proxyctl does. */
#include "tools/proxyctl_commands.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "tools/proxyctl_status.h"

#define MAX_WORDS 20
#define LINE_EVERY_MS 5000 /* of progress, where there is no terminal */
#define POLL_MS 100
#define DRAW_MS 250

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

static void sleep_ms(int64_t ms)
{
	struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&t, NULL);
}

/* ---- answers */

static void print_json(const json_t *object)
{
	json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(10));
	putchar('\n');
	fflush(stdout);
}

/* What went wrong, to people on stderr and, with --json, as an object, too. */
static enum exit_status fail(const struct options *o, enum exit_status status, const char *code, const char *text)
{
	fprintf(stderr, "proxyctl: %s\n", text);
	if (o->json) {
		json_t *object = json_pack("{s:s, s:s}", "error", code, "text", text);

		print_json(object);
		json_decref(object);
	}
	return status;
}

static enum exit_status fail_answer(const struct options *o, const struct answer *answer)
{
	return fail(o, answer->exit, answer->code, answer->text);
}

static struct admin *open_or_fail(const struct options *o)
{
	char err[512];
	struct admin *a = admin_open(o->socket, err, sizeof err);

	if (!a)
		fail(o, STATUS_UNREACHABLE, "UNREACHABLE", err);
	return a;
}

/* The reply as JSON; NULL: it was none, and *exit says what now. Releases the answer. */
static json_t *answer_json(const struct options *o, struct answer *answer, enum exit_status *exit)
{
	json_t *object = NULL;
	json_error_t why;
	char text[256];

	if (answer->exit != STATUS_DONE) {
		*exit = fail_answer(o, answer);
	} else {
		object = json_loads(answer->text, JSON_DECODE_ANY, &why);
		if (!object) {
			snprintf(text, sizeof text, "crossfade answered what is no JSON: %s", why.text);
			*exit = fail(o, STATUS_UNREACHABLE, "UNREACHABLE", text);
		}
	}
	answer_release(answer);
	return object;
}

static json_t *fetch_status(struct admin *a, const struct options *o, enum exit_status *exit)
{
	static const char *const words[] = {"PROXY", "STATUS"};
	struct answer answer;

	admin_call(a, 2, words, &answer);
	return answer_json(o, &answer, exit);
}

/* Of a second connection, for progress: failures are no matter. */
static json_t *peek_status(struct admin *a)
{
	static const char *const words[] = {"PROXY", "STATUS"};
	struct answer answer;
	json_t *object = NULL;

	if (!a)
		return NULL;
	admin_call(a, 2, words, &answer);
	if (answer.exit == STATUS_DONE)
		object = json_loads(answer.text, 0, NULL);
	answer_release(&answer);
	return object;
}

/* ---- progress */

typedef void line_fn(const json_t *status, unsigned bar_width, char *line, size_t len);

static unsigned terminal_columns(FILE *out)
{
	struct winsize w;

	return ioctl(fileno(out), TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
}

/* One line, drawn over the last one on a terminal. */
static void draw(FILE *out, bool terminal, line_fn *words, const json_t *status)
{
	char line[512];
	unsigned columns = terminal ? terminal_columns(out) : 0;

	if (!status)
		return;
	words(status, terminal && columns >= 100 ? 30 : terminal ? 12 : 0, line, sizeof line);
	if (terminal)
		fprintf(out, "\r\033[K%.*s", (int)(columns - 1), line);
	else
		fprintf(out, "%s\n", line);
	fflush(out);
}

static void draw_end(FILE *out, bool terminal)
{
	if (terminal)
		fprintf(out, "\r\033[K");
	fflush(out);
}

/* Sends the command and waits for its answer; shows progress on stderr meanwhile, by asking STATUS on a connection of its own. */
static void call_with_progress(struct admin *a, const struct options *o, int argc, const char *const *argv, line_fn *words, struct answer *out)
{
	bool terminal = isatty(STDERR_FILENO), shown = false;
	int every = terminal ? DRAW_MS : LINE_EVERY_MS;
	char err[256];
	struct admin *side = NULL;

	admin_send(a, argc, argv);
	while (!admin_poll(a, every, out)) {
		json_t *status;

		if (!side)
			side = admin_open(o->socket, err, sizeof err);
		status = peek_status(side);
		draw(stderr, terminal, words, status);
		shown = true;
		json_decref(status);
	}
	if (shown)
		draw_end(stderr, terminal);
	admin_close(side);
}

/* ---- questions */

/* Whether to go on. Without a terminal --yes is needed: a script that forgot it must not find out by doing. */
static enum exit_status may_go_on(const struct command *command, const struct options *o)
{
	char reply[16];

	if (!command->question || o->yes || o->dry_run)
		return STATUS_DONE;
	if (!isatty(STDIN_FILENO))
		return fail(o, STATUS_USAGE, "USAGE", "this asks a question: without a terminal it needs --yes");
	fprintf(stderr, "%s\n%s? [y/N] ", command->question, command->name);
	if (fgets(reply, sizeof reply, stdin) && (reply[0] == 'y' || reply[0] == 'Y'))
		return STATUS_DONE;
	return fail(o, STATUS_REFUSED, "REFUSED", "nothing was done");
}

/* ---- the commands */

/* A line of text, or the object. */
static void print_done(const struct options *o, const char *text)
{
	json_t *object;

	if (!o->json) {
		printf("%s\n", text);
		return;
	}
	object = json_loads(text, 0, NULL);
	if (!object)
		object = json_pack("{s:s}", "text", text);
	print_json(object);
	json_decref(object);
}

static enum exit_status run_words(const struct options *o, int argc, const char *const *argv)
{
	struct admin *a = open_or_fail(o);
	struct answer answer;
	enum exit_status status;

	if (!a)
		return STATUS_UNREACHABLE;
	admin_call(a, argc, argv, &answer);
	status = answer.exit;
	if (status == STATUS_DONE)
		print_done(o, answer.text);
	else
		fail_answer(o, &answer);
	answer_release(&answer);
	admin_close(a);
	return status;
}

static const char *upper(const char *name, char out[16])
{
	size_t i;

	for (i = 0; name[i] && i < 15; i++)
		out[i] = (char)toupper((unsigned char)name[i]);
	out[i] = 0;
	return out;
}

enum exit_status run_simple(const struct command *command, const struct options *o)
{
	char name[16];
	const char *words[] = {"PROXY", upper(command->name, name)};
	enum exit_status status = may_go_on(command, o);

	return status == STATUS_DONE ? run_words(o, 2, words) : status;
}

enum exit_status run_throttle(const struct command *command, const struct options *o)
{
	const char *words[MAX_WORDS] = {"PROXY", "THROTTLE"};
	char keys[24], bytes[24];
	int n = 2;

	(void)command;
	if (o->adaptive || o->off) /* first: OFF takes the limits away, those named beside it count */
		words[n++] = o->adaptive ? "ADAPTIVE" : "OFF";
	if (o->keys_per_s >= 0) {
		snprintf(keys, sizeof keys, "%lld", (long long)o->keys_per_s);
		words[n++] = "KEYS";
		words[n++] = keys;
	}
	if (o->bytes_per_s >= 0) {
		snprintf(bytes, sizeof bytes, "%lld", (long long)o->bytes_per_s);
		words[n++] = "BYTES";
		words[n++] = bytes;
	}
	return run_words(o, n, words);
}

/* Until the end of the program; a crossfade that is gone is waited for. */
static enum exit_status watch(struct admin *a, const struct options *o)
{
	bool terminal = !o->json && isatty(STDOUT_FILENO);
	int64_t every = o->interval_s > 0 ? (int64_t)(o->interval_s * 1000) : terminal ? 1000 : 10000;
	char err[512];

	for (;;) {
		json_t *status = peek_status(a);

		if (!status) {
			admin_close(a);
			fprintf(stderr, "%sproxyctl: crossfade does not answer\n", terminal ? "\r\033[K" : "");
			sleep_ms(every);
			a = admin_open(o->socket, err, sizeof err);
			continue;
		}
		if (o->json)
			print_json(status);
		else
			draw(stdout, terminal, progress_line, status);
		json_decref(status);
		if (ferror(stdout))
			break;
		sleep_ms(every);
	}
	admin_close(a);
	return STATUS_DONE;
}

enum exit_status run_status(const struct command *command, const struct options *o)
{
	struct admin *a = open_or_fail(o);
	enum exit_status exit = STATUS_DONE;
	json_t *status;

	(void)command;
	if (!a)
		return STATUS_UNREACHABLE;
	if (o->watch)
		return watch(a, o);
	status = fetch_status(a, o, &exit);
	if (status && o->json)
		print_json(status);
	else if (status)
		status_print(status, stdout);
	json_decref(status);
	admin_close(a);
	return exit;
}

enum exit_status run_check(const struct command *command, const struct options *o)
{
	static const char *const words[] = {"PROXY", "CHECK"};
	struct admin *a = open_or_fail(o);
	enum exit_status exit = STATUS_DONE;
	struct answer answer;
	json_t *lines;

	(void)command;
	if (!a)
		return STATUS_UNREACHABLE;
	admin_call(a, 2, words, &answer);
	lines = answer_json(o, &answer, &exit);
	if (lines && check_errors(lines) > 0)
		exit = STATUS_REFUSED;
	if (lines && o->json)
		print_json(lines);
	else if (lines)
		check_print(lines, stdout);
	json_decref(lines);
	admin_close(a);
	return exit;
}

enum exit_status run_verify(const struct command *command, const struct options *o)
{
	const char *words[] = {"PROXY", "VERIFY", "REPAIR"};
	struct admin *a = open_or_fail(o);
	enum exit_status exit = STATUS_DONE;
	struct answer answer;
	json_t *result;

	(void)command;
	if (!a)
		return STATUS_UNREACHABLE;
	call_with_progress(a, o, o->repair ? 3 : 2, words, verify_progress_line, &answer);
	if (answer.exit == STATUS_DIFFERENT) { /* the counts stand in the status */
		json_t *status;

		answer_release(&answer);
		status = fetch_status(a, o, &exit);
		result = json_incref(json_object_get(status, "last_verify"));
		json_decref(status);
		exit = exit == STATUS_DONE ? STATUS_DIFFERENT : exit;
	} else {
		result = answer_json(o, &answer, &exit);
	}
	if (result && verify_differences(result) > 0)
		exit = STATUS_DIFFERENT;
	if (result && o->json)
		print_json(result);
	else if (result)
		verify_print(result, stdout);
	json_decref(result);
	admin_close(a);
	return exit;
}

static enum exit_status print_gates(const struct options *o, json_t *gates)
{
	bool open = gates_open(gates);

	if (o->json) {
		json_t *object = json_is_array(gates) ? json_pack("{s:b, s:O}", "ok", open, "gates", gates) : json_incref(gates);

		print_json(object);
		json_decref(object);
	} else {
		gates_print(gates, stdout);
	}
	return open ? STATUS_DONE : STATUS_REFUSED;
}

struct flip_words {
	const char *words[MAX_WORDS];
	int n;
	char name[16], percent[16], max_pause[16], wait[16];
};

static void add_number(struct flip_words *w, const char *name, int value, char text[16])
{
	if (value < 0)
		return;
	snprintf(text, 16, "%d", value);
	w->words[w->n++] = name;
	w->words[w->n++] = text;
}

static void flip_words(struct flip_words *w, const struct command *command, const struct options *o)
{
	w->words[w->n++] = "PROXY";
	w->words[w->n++] = upper(command->name, w->name);
	if (o->dry_run)
		w->words[w->n++] = "DRYRUN";
	if (o->slots) {
		w->words[w->n++] = "SLOTS";
		w->words[w->n++] = o->slots;
	}
	add_number(w, "PERCENT", o->percent, w->percent);
	add_number(w, "MAXPAUSE", o->max_pause_ms, w->max_pause);
	add_number(w, "WAIT", o->wait_s, w->wait);
	if (o->force)
		w->words[w->n++] = "FORCE";
	assert(w->n <= MAX_WORDS);
}

enum exit_status run_flip(const struct command *command, const struct options *o)
{
	struct flip_words w = {.n = 0};
	enum exit_status exit = may_go_on(command, o);
	struct admin *a;
	struct answer answer;
	json_t *result;

	if (exit != STATUS_DONE)
		return exit;
	a = open_or_fail(o);
	if (!a)
		return STATUS_UNREACHABLE;
	flip_words(&w, command, o);
	call_with_progress(a, o, w.n, w.words, progress_line, &answer);
	result = answer_json(o, &answer, &exit);
	if (result && o->dry_run)
		exit = print_gates(o, result);
	else if (result && o->json)
		print_json(result);
	else if (result)
		flip_print(result, stdout);
	json_decref(result);
	admin_close(a);
	return exit;
}

/* 0: it holds; 1: not yet; -1: crossfade does not answer (then *a is NULL). */
static int look(struct admin **a, const struct options *o)
{
	char err[512];
	json_t *status;
	int result = -1;

	if (!*a)
		*a = admin_open(o->socket, err, sizeof err);
	status = peek_status(*a);
	if (status)
		result = conditions_hold(o->conditions, status) ? 0 : 1;
	if (status && result == 0 && o->json)
		print_json(status);
	if (!status) {
		admin_close(*a);
		*a = NULL;
	}
	json_decref(status);
	return result;
}

enum exit_status run_wait(const struct command *command, const struct options *o)
{
	struct admin *a = open_or_fail(o);
	int64_t end = o->timeout_s < 0 ? INT64_MAX : now_ms() + (int64_t)(o->timeout_s * 1000);
	char text[512];
	int found;

	(void)command;
	if (!a)
		return STATUS_UNREACHABLE;
	/* Reached once, it may be restarted meanwhile. */
	while ((found = look(&a, o)) != 0 && now_ms() < end) {
		int64_t left = end - now_ms();

		sleep_ms(left < POLL_MS ? (left > 0 ? left : 0) : POLL_MS);
	}
	admin_close(a);
	if (found == 0)
		return STATUS_DONE;
	if (found < 0)
		return fail(o, STATUS_UNREACHABLE, "UNREACHABLE", "crossfade does not answer any more");
	snprintf(text, sizeof text, "'%s' was not reached within %g s", o->conditions, o->timeout_s);
	return fail(o, STATUS_TIMED_OUT, "TIMEDOUT", text);
}
