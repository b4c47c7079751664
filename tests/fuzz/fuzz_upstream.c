/* fuzz_upstream.c - a server's stream into a data connection, in two pieces, whatever it holds: every command is answered exactly as often as was asked, with the server's reply
 * or as lost, and a connection that got what nobody asked for is given up. Bulks that count as large here are taken as they come, now and then not at once.
 *
 * The server is a Unix socket of our own. The first byte says where the stream is cut. */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "proxy/block.h"
#include "proxy/log.h"
#include "proxy/upstream.h"
#include "resp/write.h"

#define CHECK(cond) do { if (!(cond)) abort(); } while (0)
#define COMMANDS 4
#define LOOPS 6
#define LARGE 40

static struct {
	struct ev_loop *loop;
	int listener;
	struct sockaddr_storage addr;
	socklen_t addr_len;
	struct upstream *to_flush;
	unsigned answers[COMMANDS];
	struct latency latency[SIDES];
	uint64_t rest;       /* of a large reply, after the piece that came last; 0: there is none, or all came */
	unsigned large, over, pieces;
} t;

static const unsigned wanted[COMMANDS] = { 1, 2, 1, 3 };

static const char *nobody(void *ctx, enum side side)
{
	(void)ctx, (void)side;
	return NULL;
}

static void flush_soon(void *ctx, struct upstream *u)
{
	(void)ctx;
	t.to_flush = u;
}

static unsigned formers(void *ctx, struct slice list, sds *kills)
{
	(void)ctx;
	*kills = resp_cat_words(*kills, "CLIENT", "KILL", "ID", "7", NULL);
	return list.n ? 1 : 0;
}

static bool pushed(void *ctx, struct upstream *u, struct slice push)
{
	(void)ctx, (void)u;
	CHECK(*push.p == '>' || *push.p == '|');
	return false;
}

static void up(void *ctx, struct upstream *u)
{
	(void)ctx;
	CHECK(upstream_is_up(u));
}

static void lost(void *ctx, struct upstream *u, const char *why, bool was_up)
{
	(void)ctx, (void)was_up;
	CHECK(u->state == UPSTREAM_DOWN && *why);
}

static bool large(void *ctx, struct upstream *u)
{
	(void)ctx;
	CHECK(!u->rest && t.large == t.over && u->fifo_n && upstream_awaits(u, 0)->replies == 1);
	if (upstream_awaits(u, 0)->arg == &t.answers[2])
		return false;
	t.large++;
	return true;
}

static bool piece(void *ctx, struct upstream *u, const char *p, size_t n, struct block *block)
{
	(void)ctx;
	CHECK(n && t.large == t.over + 1 && p >= block->data && p + n <= block->data + block->used && u->rest + n >= n);
	t.rest = u->rest;
	return ++t.pieces % 2;
}

static void large_over(void *ctx, struct upstream *u, bool whole)
{
	(void)ctx;
	CHECK(t.large == ++t.over && !u->rest && (!whole || !t.rest));
}

static void answered(void *arg, const struct reply *r)
{
	unsigned *n = arg;

	CHECK(r->p ? r->n > 0 : r->why != NULL);
	(*n)++;
}

static void begin(void)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };

	CHECK(log_open("/dev/null")); /* what is lost is said each time */
	t.loop = ev_loop_new(0);
	t.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(un.sun_path + 1, sizeof un.sun_path - 1, "crossfade-fuzz-%d", (int)getpid()); /* abstract: no file */
	t.addr_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(un.sun_path + 1));
	memcpy(&t.addr, &un, sizeof un);
	CHECK(t.loop && t.listener >= 0 && bind(t.listener, (struct sockaddr *)&un, t.addr_len) == 0 && listen(t.listener, 4) == 0);
}

static void run(struct upstream *u)
{
	for (int i = 0; i < LOOPS; i++) {
		upstream_read_on(u);
		if (t.to_flush) {
			u->flushing = false;
			t.to_flush = NULL;
			upstream_flush(u);
		}
		ev_run(t.loop, EVRUN_NOWAIT);
	}
}

static void ask(struct upstream *u)
{
	static const char ping[] = "*1\r\n$4\r\nPING\r\n";

	for (unsigned i = 0; i < COMMANDS; i++)
		upstream_send(u, i % 2 ? 0 : 1, ping, sizeof ping - 1, NULL, wanted[i], answered, &t.answers[i]);
}

static void say(int fd, const uint8_t *p, size_t n)
{
	CHECK(send(fd, p, n, MSG_NOSIGNAL) == (ssize_t)n || errno == EPIPE || errno == ECONNRESET);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct upstream_owner owner = { .client_name = "fuzz", .connect_timeout_s = 10, .reply_timeout_s = 10, .user = nobody, .password = nobody, .flush_soon = flush_soon,
					.formers = formers, .pushed = pushed, .up = up, .lost = lost, .latency = t.latency,
					.large_least = LARGE, .large = large, .piece = piece, .large_over = large_over };

	if (size < 1 || size > 4000)
		return 0;
	if (!t.loop)
		begin();
	owner.loop = t.loop;
	t.to_flush = NULL;
	memset(t.answers, 0, sizeof t.answers);
	t.large = t.over = t.pieces = 0;
	struct upstream *u = upstream_new(&owner, SIDE_SOURCE, "server");
	size_t cut = *data++ * --size / 256;
	upstream_set_addr(u, &t.addr, t.addr_len);
	upstream_watch(u, true);
	ask(u);
	upstream_open(u);
	int server = accept(t.listener, NULL, NULL);
	CHECK(server >= 0);
	run(u);
	say(server, data, cut);
	run(u);
	say(server, data + cut, size - cut);
	run(u);
	upstream_free(u);
	for (unsigned i = 0; i < COMMANDS; i++)
		CHECK(t.answers[i] == wanted[i]);
	CHECK(t.large == t.over);
	close(server);
	return 0;
}
