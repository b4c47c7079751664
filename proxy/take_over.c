#include "proxy/take_over.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "backfill/fault.h"
#include "proxy/handover_wire.h"
#include "proxy/log.h"
#include "resp/digits.h"
#include "resp/write.h"

#define WORD_LIMIT_S 5
#define CLIENTS_LIMIT_S 20   /* more than the other gives itself: it is the one that decides */
#define LOCK_LIMIT_MS 5000   /* …where it said nothing: it has died, or goes on */
#define LOCK_STEP_MS 2
#define LOCK_SAY_MS 10000

struct take_over {
	struct wire wire;
	struct listen_fd listeners[LISTENERS_MAX];
	unsigned nlisteners;
	struct handed **clients;
	unsigned n, cap;
	struct handed_state state;
	bool go;
};

/* ---- words ---- */

static void text_of(const struct wire *w, uint32_t i, char *out, size_t n)
{
	struct slice text = wire_word(w, i);

	snprintf(out, n, "%.*s", (int)(text.n < n ? text.n : n - 1), text.p);
}

/* The next record, which must begin with this word. */
static bool expect(struct take_over *t, const char *word, char *err, size_t errlen)
{
	char why[700];

	if (!wire_read(&t->wire, why, sizeof why)) {
		snprintf(err, errlen, "%s", why);
		return false;
	}
	if (slice_is(wire_word(&t->wire, 0), word))
		return true;
	if (slice_is(wire_word(&t->wire, 0), "refused")) {
		text_of(&t->wire, 1, why, sizeof why);
		snprintf(err, errlen, "the process that runs refuses: %s", why);
	} else {
		snprintf(err, errlen, "the process that runs says something else than '%s'", word);
	}
	return false;
}

static bool number_of(const struct wire *w, uint32_t i, int64_t max, int64_t *n)
{
	return resp_string_to_int(wire_word(w, i).p, wire_word(w, i).n, n) && *n >= 0 && *n <= max;
}

/* ---- the beginning ---- */

static int connect_to(const char *dir, char *err, size_t errlen)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || snprintf(addr.sun_path, sizeof addr.sun_path, "%s/%s", dir, HANDOVER_SOCKET) >= (int)sizeof addr.sun_path) {
		snprintf(err, errlen, "%s/" HANDOVER_SOCKET ": %s", dir, fd < 0 ? strerror(errno) : "the name is too long for a socket");
	} else if (connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0) {
		return fd;
	} else {
		bool none = errno == ENOENT || errno == ECONNREFUSED;
		snprintf(err, errlen, "%s: %s; %s", addr.sun_path, strerror(errno),
			 none ? "no crossfade serves with this state-dir: start it without --take-over" : "start it as the user of the process that runs");
	}
	if (fd >= 0)
		close(fd);
	return -1;
}

static bool say_hello(struct take_over *t, const struct config *c)
{
	int64_t words = 3;
	sds body = resp_cat_bulk(resp_cat_int_bulk(resp_cat_bulk(sdsempty(), SLICE_LIT("hello")), HANDOVER_PROTOCOL), SLICE_LIT(PACKAGE_VERSION));

	for (unsigned i = 0; handover_options[i]; i++, words += 2) {
		char *value = config_get(c, handover_options[i]);
		body = resp_cat_bulk(resp_cat_bulk(body, slice(handover_options[i], strlen(handover_options[i]))), slice(value, strlen(value)));
		free(value);
	}
	sds s = sdscatsds(resp_cat_len(sdsempty(), '*', words), body);
	bool ok = wire_send(&t->wire, s, sdslen(s), -1);
	sdsfree(s);
	sdsfree(body);
	return ok;
}

static bool take_listeners(struct take_over *t, char *err, size_t errlen)
{
	int64_t n;

	if (!expect(t, "welcome", err, errlen))
		return false;
	if (!number_of(&t->wire, 1, LISTENERS_MAX, &n)) {
		snprintf(err, errlen, "the number of listeners is not understood");
		return false;
	}
	while (t->nlisteners < (unsigned)n) {
		if (!expect(t, "listener", err, errlen))
			return false;
		bool tls = slice_is(wire_word(&t->wire, 1), "tls");
		int fd = wire_take_fd(&t->wire);
		if (fd < 0) {
			snprintf(err, errlen, "a listener came without its descriptor");
			return false;
		}
		t->listeners[t->nlisteners++] = (struct listen_fd){ fd, tls };
	}
	return true;
}

struct take_over *take_over_begin(const struct config *c, char *err, size_t errlen)
{
	int fd = connect_to(c->state_dir, err, errlen);
	struct take_over *t;

	if (fd < 0)
		return NULL;
	t = calloc(1, sizeof *t);
	if (!t)
		abort();
	wire_init(&t->wire, fd);
	wire_limit(&t->wire, WORD_LIMIT_S);
	say_hello(t, c); /* if it could not be said, the answer tells why */
	if (take_listeners(t, err, errlen))
		return t;
	take_over_free(t);
	return NULL;
}

void take_over_listeners(struct take_over *t, struct listen_fd *fds, unsigned *n)
{
	memcpy(fds, t->listeners, t->nlisteners * sizeof *fds);
	*n = t->nlisteners;
	t->nlisteners = 0;
}

/* ---- the clients ---- */

static struct handed *client_slot(struct take_over *t)
{
	if (t->n == t->cap) {
		t->cap = t->cap ? 2 * t->cap : 256;
		t->clients = realloc(t->clients, t->cap * sizeof(struct handed *));
		if (!t->clients)
			abort();
	}
	struct handed *h = calloc(1, sizeof *h);
	if (!h)
		abort();
	return t->clients[t->n++] = h;
}

static bool take_client(struct take_over *t, char *err, size_t errlen)
{
	struct handed *h = client_slot(t);

	if (!handed_parse(&t->wire.request, t->wire.in + t->wire.at, h, err, errlen))
		return false;
	h->fd = wire_take_fd(&t->wire);
	if (h->fd < 0)
		snprintf(err, errlen, "client %lld came without its connection", (long long)h->id);
	return h->fd >= 0;
}

static bool take_clients(struct take_over *t, char *err, size_t errlen)
{
	char why[700];
	int64_t n;

	if (!expect(t, "state", err, errlen) || !handed_state_parse(&t->wire.request, t->wire.in + t->wire.at, &t->state, err, errlen))
		return false;
	while (wire_read(&t->wire, why, sizeof why)) {
		struct slice word = wire_word(&t->wire, 0);
		if (slice_is(word, "client")) {
			if (!take_client(t, err, errlen))
				return false;
		} else if (slice_is(word, "end") && number_of(&t->wire, 1, INT64_MAX, &n) && n == (int64_t)t->n) {
			return true;
		} else {
			snprintf(err, errlen, "the process that runs broke it off");
			return false;
		}
	}
	snprintf(err, errlen, "%s", why);
	return false;
}

/* ---- the lock ---- */

/* The other has died, or it has ended as it said, or it goes on: whoever has the lock serves. Behind `go` nobody else will, so that is waited for as long as it takes. */
static bool take_lock(struct take_over *t, struct state *s, char *err, size_t errlen, int *exit_code)
{
	const struct timespec step = { .tv_nsec = LOCK_STEP_MS * 1000000L };

	for (unsigned waited = 0; !state_take(s, err, errlen, exit_code); waited += LOCK_STEP_MS) {
		if (*exit_code != STATE_EXIT_LOCKED || (!t->go && waited >= LOCK_LIMIT_MS))
			return false;
		if (waited && waited % LOCK_SAY_MS == 0)
			log_warning("the process that handed over does not end, and clients wait: kill it: %s", err);
		nanosleep(&step, NULL);
	}
	return true;
}

/* The other stands still: what the record says now is what it will find. */
static bool take_all(struct take_over *t, struct state *s, char *err, size_t errlen)
{
	if (!wire_say(&t->wire, "ready", NULL, -1)) {
		snprintf(err, errlen, "the process that runs has gone");
		return false;
	}
	if (take_clients(t, err, errlen) && state_look(s, err, errlen))
		return true;
	wire_say(&t->wire, "refused", err, -1);
	return false;
}

bool take_over_finish(struct take_over *t, struct state *s, char *err, size_t errlen, int *exit_code)
{
	char why[700], no_lock[700];

	*exit_code = EXIT_NOT_TAKEN;
	wire_limit(&t->wire, CLIENTS_LIMIT_S);
	if (!take_all(t, s, err, errlen))
		return false;
	crash_point("handover-before-have");
	wire_say(&t->wire, "have", NULL, -1);
	crash_point("handover-have");
	t->go = expect(t, "go", why, sizeof why);
	if (!take_lock(t, s, no_lock, sizeof no_lock, exit_code)) {
		bool locked = *exit_code == STATE_EXIT_LOCKED;
		snprintf(err, errlen, "%s; %s", no_lock, locked ? "the other process goes on" : "the other process has ended, and nobody serves");
		if (locked)
			*exit_code = EXIT_NOT_TAKEN;
		return false;
	}
	crash_point("handover-locked");
	if (!t->go)
		log_warning("the process that handed over ended before it had said so: %s", why);
	return true;
}

struct handed **take_over_clients(struct take_over *t, unsigned *n)
{
	*n = t->n;
	t->n = 0;
	return t->clients;
}

const struct handed_state *take_over_state(const struct take_over *t)
{
	return &t->state;
}

void take_over_free(struct take_over *t)
{
	if (!t)
		return;
	for (unsigned i = 0; i < t->nlisteners; i++)
		close(t->listeners[i].fd);
	for (unsigned i = 0; i < t->n; i++) {
		handed_release(t->clients[i]);
		free(t->clients[i]);
	}
	free(t->clients);
	wire_release(&t->wire);
	free(t);
}
