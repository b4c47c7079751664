/* copy_tool.c - copies single keys between two real servers by the parts of backfill/ alone, without the proxy: for test_recipe.py.
 *
 *   copy_tool MODE FROM_PORT TO_PORT [NOW_MS] < keys
 *
 * Keys come in hex, one a line; one line is answered for each: "ok DETAIL", "gone", "cannot WHY", "error WHY". Modes: dump (restamped, by type
 * where that fails), type (by type), large (in chunks), verify (reads both sides and answers "equal payload", "equal value", "differs"). */
#include <ev.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "backfill/bulk.h"
#include "backfill/compare.h"
#include "backfill/large.h"
#include "backfill/recipe.h"
#include "resp/parse.h"
#include "resp/slot.h"

#define REPLIES_MAX 100000

static struct ev_loop *loop;
static struct bulk *from, *to;
static struct receiver from_kind, to_kind;
static int64_t now_ms;

/* ---- asking and waiting ---- */

struct answer {
	sds bytes;
	struct slice replies[REPLIES_MAX];
	size_t ends[REPLIES_MAX];
	unsigned want, have;
	bool lost;
};
static struct answer answers[2];

static void answered(void *arg, struct slice reply, const char *why)
{
	struct answer *a = arg;

	if (!reply.p) {
		fprintf(stderr, "copy_tool: %s\n", why);
		a->lost = true;
		ev_break(loop, EVBREAK_ALL);
		return;
	}
	a->bytes = sdscatlen(a->bytes, reply.p, reply.n);
	a->ends[a->have++] = sdslen(a->bytes);
	if (a->have == a->want)
		ev_break(loop, EVBREAK_ALL);
}

static struct answer *ask(struct bulk *b, sds request, unsigned replies)
{
	struct answer *a = &answers[b == to];

	if (!a->bytes)
		a->bytes = sdsempty();
	sdsclear(a->bytes);
	a->have = 0;
	a->want = replies;
	if (replies > REPLIES_MAX)
		exit(70);
	bulk_send(b, 0, request, sdslen(request), replies, answered, a);
	sdsfree(request);
	while (a->have < a->want && !a->lost)
		ev_run(loop, 0);
	if (a->lost)
		exit(69);
	for (unsigned i = 0; i < replies; i++) {
		size_t start = i ? a->ends[i - 1] : 0;
		a->replies[i] = slice(a->bytes + start, a->ends[i] - start);
	}
	return a;
}

static struct bulk *connect_to(const char *name, int port)
{
	struct bulk_options o = { .connect_timeout_s = 5, .reply_timeout_s = 30 };
	struct sockaddr_in *in = (struct sockaddr_in *)&o.addr;

	in->sin_family = AF_INET;
	in->sin_port = htons((uint16_t)port);
	in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	o.addr_len = sizeof(*in);
	snprintf(o.name, sizeof(o.name), "%s 127.0.0.1:%d", name, port);
	return bulk_new(loop, &o);
}

static struct receiver kind_of(struct bulk *b)
{
	struct answer *a = ask(b, sdsnew("*2\r\n$4\r\nINFO\r\n$6\r\nserver\r\n"), 1);
	unsigned major = 0, minor = 0, patch = 0;
	struct receiver r = { PRODUCT_REDIS, 0 };
	char *valkey = strstr(a->bytes, "valkey_version:"), *redis = strstr(a->bytes, "redis_version:");

	if (valkey)
		r.product = PRODUCT_VALKEY;
	sscanf(strchr(valkey ? valkey : redis, ':') + 1, "%u.%u.%u", &major, &minor, &patch);
	r.version = major << 16 | minor << 8 | patch;
	return r;
}

/* ---- the modes ---- */

static const char *const result_names[] = { [RECIPE_OK] = "ok", [RECIPE_GONE] = "gone", [RECIPE_RETYPE] = "retype",
					    [RECIPE_CANNOT] = "cannot", [RECIPE_ERROR] = "error" };
static const char *const recipe_names[] = { "dump", "string", "list", "set", "zset", "hash", "stream", "short" };

static bool swaps; /* blocks are those of large.h */

/* An error among the block's replies, those inside EXEC's included. */
static bool block_error(const struct answer *a, struct slice *text)
{
	for (unsigned i = 0; i < a->have; i++) {
		const char *p = a->replies[i].p, *end = p + a->replies[i].n;
		struct resp_item item;
		size_t n = resp_item(p, end, &item);
		*text = item.text;
		if (item.type == '-')
			return true;
		if (item.type != '*' || (swaps && large_swapped(a->replies[i])))
			continue;
		for (p += n; p < end; p += resp_value_len(p, end))
			if (resp_item(p, end, &item) && item.type == '-') {
				*text = item.text;
				return true;
			}
	}
	return false;
}

static void apply(sds block, unsigned ncommands, const char *detail)
{
	struct slice error;
	struct answer *a = ask(to, block, ncommands);

	if (block_error(a, &error))
		printf("error applying: %.*s\n", (int)error.n, error.p);
	else
		printf("ok %s\n", detail);
}

static enum recipe recipe_by_type(struct slice key)
{
	sds s = sdsempty();
	struct answer *a;

	s = sdscatprintf(s, "*2\r\n$4\r\nTYPE\r\n$%zu\r\n", key.n);
	s = sdscatlen(s, key.p, key.n);
	a = ask(from, sdscat(s, "\r\n"), 1);
	for (unsigned i = 1; i <= RECIPE_STREAM; i++)
		if (strncmp(a->bytes + 1, recipe_names[i], strlen(recipe_names[i])) == 0)
			return (enum recipe)i;
	return RECIPE_DUMP;
}

static void copy(struct slice key, enum recipe r)
{
	enum recipe_result result = RECIPE_RETYPE;
	const char *why = "";
	char detail[64] = "";

	for (int tries = 0; result == RECIPE_RETYPE && tries < 3; tries++) {
		enum recipe next = r;
		sds request = sdsempty(), block = sdsempty();
		unsigned n = recipe_read(r, &from_kind, key, &request), ncommands = 0;
		struct answer *a = ask(from, request, n);
		result = recipe_compose(r, &to_kind, key, a->replies, n, now_ms, &block, &ncommands, &next, &why);
		snprintf(detail, sizeof(detail), "%s %u", recipe_names[r], ncommands);
		if (result == RECIPE_OK || result == RECIPE_GONE) {
			apply(block, ncommands, result == RECIPE_OK ? detail : "gone");
			return;
		}
		sdsfree(block);
		r = next;
	}
	printf("%s %s\n", result_names[result], why);
}

struct large_wait {
	bool done;
	enum recipe_result result;
	sds block;
	unsigned ncommands;
	char why[300];
};

static void large_done(void *arg, enum recipe_result result, sds block, unsigned ncommands, uint64_t bytes, const char *why)
{
	struct large_wait *w = arg;

	*w = (struct large_wait){ true, result, block, ncommands, "" };
	if (why)
		snprintf(w->why, sizeof(w->why), "%s", why);
	(void)bytes;
	ev_break(loop, EVBREAK_ALL);
}

static void copy_large(struct slice key)
{
	static uint64_t serial;

	swaps = true;
	struct large_wait w = { .done = false };
	struct large_options o = { from, to, from_kind, to_kind, key, slot_of(key), 0, ++serial, now_ms, NULL, NULL };

	large_start(&o, large_done, &w);
	while (!w.done)
		ev_run(loop, 0);
	if (w.block)
		apply(w.block, w.ncommands, w.result == RECIPE_OK ? "large" : "gone");
	else
		printf("%s %s\n", result_names[w.result], w.why);
}

static void verify(struct slice key)
{
	struct digest d[2];
	int64_t expiry[2];
	const char *why = "";
	sds request[2] = { sdsempty(), sdsempty() };
	struct answer *a[2];
	struct resp_item p[2];

	for (int i = 0; i < 2; i++) {
		recipe_read(RECIPE_DUMP, i ? &to_kind : &from_kind, key, &request[i]);
		a[i] = ask(i ? to : from, request[i], 2);
		resp_item(a[i]->replies[0].p, a[i]->replies[0].p + a[i]->replies[0].n, &p[i]);
	}
	if (payload_equal(p[0].text, p[1].text)) {
		puts(slice_eq(a[0]->replies[1], a[1]->replies[1]) ? "equal payload" : "differs");
		return;
	}
	enum recipe r = payload_type_recipe(p[0].text);
	for (int i = 0; i < 2; i++) {
		request[i] = sdsempty();
		recipe_read(r, i ? &to_kind : &from_kind, key, &request[i]);
		a[i] = ask(i ? to : from, request[i], 2);
		enum recipe_result result = value_digest(r, a[i]->replies, 2, now_ms, &d[i], &expiry[i], &why);
		if (result != RECIPE_OK) {
			printf("%s %s\n", result_names[result], why);
			return;
		}
	}
	puts(digest_eq(d[0], d[1]) && expiry[0] == expiry[1] ? "equal value" : "differs");
}

int main(int argc, char **argv)
{
	static char line[1 << 16];
	struct timeval tv;

	if (argc < 4)
		return 64;
	loop = ev_default_loop(0);
	from = connect_to("from", atoi(argv[2]));
	to = connect_to("to", atoi(argv[3]));
	from_kind = kind_of(from);
	to_kind = kind_of(to);
	gettimeofday(&tv, NULL);
	now_ms = argc > 4 ? atoll(argv[4]) : tv.tv_sec * 1000ll + tv.tv_usec / 1000;
	while (fgets(line, sizeof(line), stdin)) {
		char key[sizeof(line) / 2];
		size_t n = 0;
		unsigned byte;
		while (sscanf(line + 2 * n, "%2x", &byte) == 1)
			key[n++] = (char)byte;
		struct slice k = slice(key, n);
		if (strcmp(argv[1], "large") == 0)
			copy_large(k);
		else if (strcmp(argv[1], "verify") == 0)
			verify(k);
		else
			copy(k, strcmp(argv[1], "type") == 0 ? recipe_by_type(k) : RECIPE_DUMP);
	}
	bulk_free(from);
	bulk_free(to);
	sdsfree(answers[0].bytes);
	sdsfree(answers[1].bytes);
	return 0;
}
