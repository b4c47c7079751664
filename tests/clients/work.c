/* hiredis, which has no cluster client. See README.md. */
#include <hiredis/hiredis.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static redisContext *r, *other, *ear;

static void die(const char *what, const char *got)
{
	fprintf(stderr, "%s: %s (%s %s)\n", what, got ? got : "-", r->errstr, other->errstr);
	exit(1);
}

static redisContext *dial(int port)
{
	redisContext *c = redisConnect("127.0.0.1", port);

	if (!c || c->err) {
		fprintf(stderr, "cannot connect\n");
		exit(1);
	}
	return c;
}

/* A reply as text: an array's elements with blanks between, a null as "(null)". */
static void show(const redisReply *v, char *text, size_t size)
{
	size_t n;

	switch (v->type) {
	case REDIS_REPLY_ARRAY:
		for (size_t i = 0; i < v->elements; i++) {
			n = strlen(text);
			snprintf(text + n, size - n, "%s", i ? " " : "");
			show(v->element[i], text, size);
		}
		return;
	case REDIS_REPLY_INTEGER:
		n = strlen(text);
		snprintf(text + n, size - n, "%lld", v->integer);
		return;
	default:
		n = strlen(text);
		snprintf(text + n, size - n, "%s", v->type == REDIS_REPLY_NIL ? "(null)" : v->str);
	}
}

static void is_reply(redisReply *v, const char *expected, const char *what)
{
	char text[1024] = "";

	if (!v)
		die(what, NULL);
	show(v, text, sizeof text);
	if (strcmp(text, expected))
		die(what, text);
	freeReplyObject(v);
}

static void is(redisContext *c, const char *expected, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	redisReply *v = redisvCommand(c, format, ap);
	va_end(ap);
	is_reply(v, expected, format);
}

static void next_is(redisContext *c, const char *expected, const char *what)
{
	void *v = NULL;

	if (redisGetReply(c, &v) != REDIS_OK)
		die(what, c->errstr);
	is_reply(v, expected, what);
}

static const char *number(int n)
{
	static char text[4][16];
	static unsigned at;

	snprintf(text[++at % 4], sizeof text[0], "%d", n);
	return text[at % 4];
}

static void values(int k)
{
	is(r, number(k + 1), "INCR c:total");
	is(r, number(k + 1), "RPUSH c:log %d", k);
	is(r, "OK", "SET {c:%d}s v EX 1000", k);
	is(r, "v", "GET {c:%d}s", k);
	is(r, "1", "INCR {c:%d}n", k);
	is(r, "5", "EVAL %s 1 {c:%d}n 4", "return redis.call('incrby', KEYS[1], ARGV[1])", k);
	is(r, "OK", "MSET {c:%d}a 1 {c:%d}b 2", k, k);
	is(r, "1 2 (null)", "MGET {c:%d}a {c:%d}b {c:%d}none", k, k, k);
	is(r, "2", "HSET {c:%d}h f 1 g 2", k);
	is(r, "f 1 g 2", "HGETALL {c:%d}h", k);
	is(r, "3", "RPUSH {c:%d}l 0 1 2", k);
	is(r, "1 2", "LRANGE {c:%d}l 1 2", k);
	is(r, "1", "SADD {c:%d}set x", k);
	is(r, "x", "SMEMBERS {c:%d}set", k);
	is(r, "1", "ZADD {c:%d}z 1.5 m", k);
	is(r, "m 1.5", "ZRANGE {c:%d}z 0 -1 WITHSCORES", k);
	is(r, "1-1", "XADD {c:%d}x 1-1 f v", k);
	is(r, "1-1 f v", "XRANGE {c:%d}x - +", k);
	is(r, "2", "DEL {c:%d}a {c:%d}b", k, k);
}

static void together(int k)
{
	char expected[64];

	for (int i = 0; i < 50; i++)
		redisAppendCommand(r, "INCR {c:%d}p", k);
	for (int i = 0; i < 50; i++)
		next_is(r, number(i + 1), "a pipeline");
	is(r, "OK", "MULTI");
	is(r, "QUEUED", "INCR {c:%d}m", k);
	is(r, "QUEUED", "LRANGE {c:%d}l 0 -1", k);
	is(r, "1 0 1 2", "EXEC");
	is(r, "OK", "WATCH {c:%d}m", k);
	is(other, "2", "INCR {c:%d}m", k);
	is(r, "OK", "MULTI");
	is(r, "QUEUED", "SET {c:%d}m lost", k);
	is(r, "(null)", "EXEC");
	redisAppendCommand(other, "BLPOP {c:%d}q 20", k);
	for (int done = 0; !done;)
		if (redisBufferWrite(other, &done) != REDIS_OK)
			die("BLPOP", other->errstr);
	is(r, "1", "RPUSH {c:%d}q job", k);
	snprintf(expected, sizeof expected, "{c:%d}q job", k);
	next_is(other, expected, "BLPOP");
	freeReplyObject(redisCommand(r, "PUBLISH c:channel %d", k));
	snprintf(expected, sizeof expected, "message c:channel %d", k);
	next_is(ear, expected, "a message");
}

int main(int argc, char **argv)
{
	struct pollfd input = { 0, POLLIN, 0 };
	int round = 0;

	if (argc < 2)
		return 64;
	r = dial(atoi(argv[1]));
	other = dial(atoi(argv[1]));
	ear = dial(atoi(argv[1]));
	is(ear, "subscribe c:channel 1", "SUBSCRIBE c:channel");
	while (poll(&input, 1, 20) == 0) {
		values(round);
		together(round);
		printf("round %d\n", ++round);
		fflush(stdout);
	}
	is(r, number(round), "LLEN c:log");
	is(r, number(round), "GET c:total");
	redisFree(r);
	redisFree(other);
	redisFree(ear);
	return 0;
}
