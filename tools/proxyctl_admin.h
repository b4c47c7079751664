/* proxyctl_admin.h - one connection to the admin socket of crossfade, and what its answers mean.
 *
 *   a = admin_open(path, err, sizeof err);      NULL: unreachable, err says why
 *   admin_call(a, argc, argv, &answer);         send and wait for the answer
 *   … answer.exit, answer.text …
 *   answer_release(&answer);
 *   admin_close(a);
 *
 * A command that takes long is sent by admin_send() and asked for by admin_poll(), so that progress can be shown meanwhile. One command at a time.
 * The admin socket answers failures as -CODE text; the code word gives the exit status. */
#ifndef CROSSFADE_PROXYCTL_ADMIN_H
#define CROSSFADE_PROXYCTL_ADMIN_H

#include <stdbool.h>
#include <stddef.h>

enum exit_status {
	STATUS_DONE = 0,
	STATUS_REFUSED = 1,
	STATUS_DIFFERENT = 2,
	STATUS_USAGE = 64,
	STATUS_UNREACHABLE = 69,
	STATUS_TIMED_OUT = 75,
};

struct answer {
	enum exit_status exit;
	char *code; /* code word of an error, "" if it was none */
	char *text; /* the reply, or the text of the error without its code word */
};

struct admin;

struct admin *admin_open(const char *path, char *err, size_t errlen);
void admin_close(struct admin *a); /* NULL is fine */
/* False: the connection is lost; admin_poll() then gives the answer STATUS_UNREACHABLE. */
bool admin_send(struct admin *a, int argc, const char *const *argv);
/* Waits for the answer of what was sent, at most timeout_ms (-1: until it comes). False: not there yet. *out is to be released. */
bool admin_poll(struct admin *a, int timeout_ms, struct answer *out);
void admin_call(struct admin *a, int argc, const char *const *argv, struct answer *out);
/* The exit status that belongs to the code word of an error. */
enum exit_status admin_exit_status(const char *code);
void answer_release(struct answer *answer);

#endif
