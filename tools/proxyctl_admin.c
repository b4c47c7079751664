/* proxyctl_admin.c - see proxyctl_admin.h. */
#include "tools/proxyctl_admin.h"

#include <assert.h>
#include <errno.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#define CONNECT_TIMEOUT_S 5

struct admin {
	redisContext *redis;
	bool lost; /* no answer will come any more */
};

struct admin *admin_open(const char *path, char *err, size_t errlen)
{
	struct timeval timeout = {.tv_sec = CONNECT_TIMEOUT_S};
	redisContext *redis = redisConnectUnixWithTimeout(path, timeout);
	struct admin *a;

	if (!redis || redis->err) {
		snprintf(err, errlen, "cannot reach crossfade at '%s': %s", path, redis ? redis->errstr : strerror(ENOMEM));
		if (redis)
			redisFree(redis);
		return NULL;
	}
	a = calloc(1, sizeof *a);
	if (!a)
		abort();
	a->redis = redis;
	return a;
}

void admin_close(struct admin *a)
{
	if (!a)
		return;
	redisFree(a->redis);
	free(a);
}

bool admin_send(struct admin *a, int argc, const char *const *argv)
{
	int done = 0;

	assert(argc > 0);
	if (redisAppendCommandArgv(a->redis, argc, (const char **)argv, NULL) != REDIS_OK)
		a->lost = true;
	while (!a->lost && !done)
		if (redisBufferWrite(a->redis, &done) != REDIS_OK)
			a->lost = true;
	return !a->lost;
}

enum exit_status admin_exit_status(const char *code)
{
	static const struct { const char *code; enum exit_status exit; } codes[] = {
		{"REFUSED", STATUS_REFUSED},         {"DIFFERENT", STATUS_DIFFERENT}, {"USAGE", STATUS_USAGE},
		{"UNREACHABLE", STATUS_UNREACHABLE}, {"TIMEDOUT", STATUS_TIMED_OUT},
	};

	for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
		if (strcmp(codes[i].code, code) == 0)
			return codes[i].exit;
	return STATUS_REFUSED;
}

static char *copy_text(const char *text, size_t len)
{
	char *copy = strndup(text, len);

	if (!copy)
		abort();
	return copy;
}

static void answer_of_error(const char *line, size_t len, struct answer *out)
{
	size_t word = strcspn(line, " ");

	if (word > len)
		word = len;
	out->code = copy_text(line, word);
	out->exit = admin_exit_status(out->code);
	out->text = word < len ? copy_text(line + word + 1, len - word - 1) : copy_text(line, len);
}

static void answer_of(const redisReply *reply, struct answer *out)
{
	char number[32];

	switch (reply->type) {
	case REDIS_REPLY_ERROR:
		answer_of_error(reply->str, reply->len, out);
		return;
	case REDIS_REPLY_STATUS:
	case REDIS_REPLY_STRING:
		out->text = copy_text(reply->str, reply->len);
		break;
	case REDIS_REPLY_INTEGER:
		snprintf(number, sizeof number, "%lld", reply->integer);
		out->text = copy_text(number, strlen(number));
		break;
	default:
		out->text = copy_text("", 0);
	}
	out->code = copy_text("", 0);
	out->exit = STATUS_DONE;
}

static void answer_lost(const struct admin *a, struct answer *out)
{
	const char *why = a->redis->errstr[0] ? a->redis->errstr : "connection closed";
	char text[256];

	snprintf(text, sizeof text, "connection to crossfade lost: %s", why);
	out->code = copy_text("UNREACHABLE", 11);
	out->exit = STATUS_UNREACHABLE;
	out->text = copy_text(text, strlen(text));
}

static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Waits for bytes; false: none came in time. */
static bool wait_readable(struct admin *a, int timeout_ms)
{
	struct pollfd p = {.fd = a->redis->fd, .events = POLLIN};
	long end = now_ms() + timeout_ms;
	int n;

	do {
		long left = timeout_ms < 0 ? -1 : end - now_ms();

		n = poll(&p, 1, timeout_ms < 0 ? -1 : left > 0 ? (int)left : 0);
	} while (n < 0 && errno == EINTR);
	return n > 0;
}

bool admin_poll(struct admin *a, int timeout_ms, struct answer *out)
{
	void *reply = NULL;

	memset(out, 0, sizeof *out);
	while (!a->lost) {
		if (redisGetReplyFromReader(a->redis, &reply) != REDIS_OK)
			break;
		if (reply) {
			answer_of(reply, out);
			freeReplyObject(reply);
			return true;
		}
		if (!wait_readable(a, timeout_ms))
			return false;
		if (redisBufferRead(a->redis) != REDIS_OK)
			break;
	}
	a->lost = true;
	answer_lost(a, out);
	return true;
}

void admin_call(struct admin *a, int argc, const char *const *argv, struct answer *out)
{
	bool there;

	admin_send(a, argc, argv);
	there = admin_poll(a, -1, out);
	assert(there);
	(void)there;
}

void answer_release(struct answer *answer)
{
	free(answer->code);
	free(answer->text);
	memset(answer, 0, sizeof *answer);
}
