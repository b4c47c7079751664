/* The bulk connection against a server of a few lines on the same loop: order, one write per turn, losses, timeouts, and freeing from callbacks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <ev.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <unistd.h>

#include "backfill/bulk.h"

#define HELLO_OK "%1\r\n$5\r\nproto\r\n:3\r\n"

/* The server: what it received, and what it sends after `greeting`. */
static struct {
	int listener, fd;
	ev_io accepting, reading;
	char got[1 << 20];
	size_t ngot;
	unsigned reads, accepts;
	const char *greeting; /* NULL: silence */
} server;

static struct ev_loop *loop;
static struct bulk *bulk;
static char heard[8192]; /* what callbacks were told */
static struct bulk_options options;

static void server_says(const char *text)
{
	assert_int_equal(write(server.fd, text, strlen(text)), strlen(text));
}

static void on_server_read(struct ev_loop *l, ev_io *w, int revents)
{
	ssize_t n = read(w->fd, server.got + server.ngot, sizeof(server.got) - server.ngot - 1);
	(void)revents;
	if (n <= 0) {
		ev_io_stop(l, w);
		return;
	}
	bool first = server.ngot == 0;
	server.ngot += (size_t)n;
	server.got[server.ngot] = '\0';
	server.reads++;
	if (first && server.greeting)
		server_says(server.greeting);
}

static void on_server_accept(struct ev_loop *l, ev_io *w, int revents)
{
	int one = 1;

	(void)revents;
	server.fd = accept(w->fd, NULL, NULL);
	setsockopt(server.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	server.ngot = server.reads = 0;
	server.accepts++;
	ev_io_stop(l, &server.reading);
	ev_io_init(&server.reading, on_server_read, server.fd, EV_READ);
	ev_io_start(l, &server.reading);
}

static int setup(void **state)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(in);

	(void)state;
	memset(&server, 0, sizeof(server));
	server.fd = -1;
	server.greeting = HELLO_OK;
	loop = ev_loop_new(0);
	server.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (bind(server.listener, (struct sockaddr *)&in, len) || listen(server.listener, 5) ||
	    getsockname(server.listener, (struct sockaddr *)&in, &len))
		return -1;
	ev_io_init(&server.accepting, on_server_accept, server.listener, EV_READ);
	ev_io_start(loop, &server.accepting);
	memset(&options, 0, sizeof(options));
	memcpy(&options.addr, &in, sizeof(in));
	options.addr_len = len;
	strcpy(options.name, "source test:1");
	options.connect_timeout_s = 1;
	options.reply_timeout_s = 0.6;
	heard[0] = '\0';
	bulk = NULL;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	if (bulk)
		bulk_free(bulk);
	if (server.fd >= 0)
		close(server.fd);
	close(server.listener);
	ev_loop_destroy(loop);
	return 0;
}

/* Runs the loop for a while, and often enough for what is under way to arrive, however little of the machine we get. */
static void spin(double seconds)
{
	double end = ev_time() + seconds;

	for (unsigned turns = 0; turns < 40 || ev_time() < end; turns++) {
		ev_run(loop, EVRUN_NOWAIT);
		usleep(500);
	}
}

static void hear(void *arg, struct slice reply, const char *why)
{
	size_t n = strlen(heard);
	int len = (int)reply.n;

	while (len > 0 && (reply.p[len - 1] == '\n' || reply.p[len - 1] == '\r'))
		len--;
	snprintf(heard + n, sizeof(heard) - n, "%s:%.*s;", (char *)arg, reply.p ? len : (int)strlen(why), reply.p ? reply.p : why);
}

static void hear_and_free(void *arg, struct slice reply, const char *why)
{
	struct bulk *b = bulk;

	hear(arg, reply, why);
	bulk = NULL;
	if (b)
		bulk_free(b);
}

static void hear_and_send(void *arg, struct slice reply, const char *why)
{
	hear(arg, reply, why);
	bulk_command(bulk, 0, hear, "again", "PING", NULL);
}

static void in_order(void **state)
{
	(void)state;
	bulk = bulk_new(loop, &options);
	bulk_command(bulk, 0, hear, "a", "GET", "a", NULL);
	bulk_send(bulk, 0, "*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n", 28, 2, hear, "b");
	bulk_command(bulk, 0, NULL, NULL, "SET", "x", "y", NULL);
	bulk_command(bulk, 0, hear, "c", "GET", "c", NULL);
	assert_int_equal(bulk_awaited(bulk), 5);
	assert_false(bulk_is_up(bulk));
	assert_string_equal(heard, "");
	spin(0.05);
	assert_true(bulk_is_up(bulk));
	assert_string_equal(server.got, "*4\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$7\r\nSETNAME\r\n$14\r\ncrossfade-bulk\r\n"
					"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n"
					"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$1\r\ny\r\n*2\r\n$3\r\nGET\r\n$1\r\nc\r\n");
	assert_int_equal(server.reads, 2); /* HELLO, then everything in one write */
	const char *replies = "$1\r\nA\r\n+one\r\n>2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n-ERR two\r\n+OK\r\n_\r\n";
	for (const char *p = replies; *p; p++) {
		char byte[2] = { *p };
		server_says(byte);
		ev_run(loop, EVRUN_NOWAIT);
	}
	spin(0.01);
	assert_string_equal(heard, "a:$1\r\nA;b:+one;b:-ERR two;c:_;");
	assert_int_equal(bulk_awaited(bulk), 0);
	/* Idle for longer than the timeout is no loss. */
	spin(0.9);
	assert_true(bulk_is_up(bulk));
}

static void auth_words(void **state)
{
	(void)state;
	options.password = "pw";
	bulk = bulk_new(loop, &options);
	server.greeting = "-WRONGPASS invalid username-password pair\r\n";
	bulk_command(bulk, 0, hear, "a", "GET", "a", NULL);
	spin(0.05);
	assert_non_null(strstr(server.got, "$4\r\nAUTH\r\n$7\r\ndefault\r\n$2\r\npw\r\n"));
	assert_null(strstr(server.got, "GET"));
	assert_string_equal(heard, "a:source test:1: HELLO was refused: WRONGPASS invalid username-password pair;");
}

static void losses(void **state)
{
	(void)state;
	bulk = bulk_new(loop, &options);
	bulk_command(bulk, 0, hear, "a", "GET", "a", NULL);
	bulk_send(bulk, 0, "", 0, 3, hear, "b");
	bulk_command(bulk, 0, hear_and_send, "c", "GET", "c", NULL);
	spin(0.05);
	server_says("+1\r\n+2\r\n");
	spin(0.02);
	shutdown(server.fd, SHUT_RDWR);
	close(server.fd);
	server.fd = -1;
	spin(0.05);
	/* One call for each request, also for one that was answered in part; what the callback sent goes over a new connection. */
	assert_string_equal(heard, "a:+1;b:+2;b:source test:1: closed the connection;c:source test:1: closed the connection;");
	assert_int_equal(server.accepts, 2);
	server_says("+PONG\r\n");
	spin(0.02);
	assert_non_null(strstr(heard, "again:+PONG;"));
}

static void nonsense(void **state)
{
	(void)state;
	bulk = bulk_new(loop, &options);
	bulk_command(bulk, 0, hear, "a", "GET", "a", NULL);
	spin(0.05);
	server_says("what is this\r\n");
	spin(0.02);
	assert_non_null(strstr(heard, "a:source test:1: protocol error: "));
	assert_false(bulk_is_up(bulk));
}

static void unasked(void **state)
{
	(void)state;
	bulk = bulk_new(loop, &options);
	bulk_command(bulk, 0, hear, "a", "GET", "a", NULL);
	spin(0.05);
	server_says("+1\r\n+2\r\n");
	spin(0.02);
	assert_string_equal(heard, "a:+1;");
	assert_false(bulk_is_up(bulk));
}

static void timeouts(void **state)
{
	(void)state;
	bulk = bulk_new(loop, &options);
	bulk_command(bulk, 0, hear, "a", "GET", "a", NULL);
	spin(0.05);
	/* Slow but steady is progress. */
	const char *reply = "$5\r\nhello";
	for (const char *p = reply; *p; p++) {
		char byte[2] = { *p };
		server_says(byte);
		spin(0.05);
	}
	assert_string_equal(heard, "");
	spin(1.2);
	assert_string_equal(heard, "a:source test:1: no reply for 0.6 s;");
	/* Nobody answers HELLO. */
	heard[0] = '\0';
	server.greeting = NULL;
	bulk_command(bulk, 0, hear, "b", "GET", "b", NULL);
	spin(1.2);
	assert_string_equal(heard, "b:source test:1: no reply for 0.6 s;");
}

static void cannot_connect(void **state)
{
	(void)state;
	ev_io_stop(loop, &server.accepting);
	close(server.listener);
	bulk = bulk_new(loop, &options);
	bulk_command(bulk, 0, hear, "a", "GET", "a", NULL);
	assert_string_equal(heard, "");
	spin(0.05);
	assert_string_equal(heard, "a:source test:1: cannot connect: Connection refused;");
	bulk_free(bulk);
	options.addr_len = 0;
	heard[0] = '\0';
	bulk = bulk_new(loop, &options);
	bulk_command(bulk, 0, hear_and_free, "a", "GET", "a", NULL);
	bulk_command(bulk, 0, hear, "b", "GET", "b", NULL);
	spin(0.02);
	assert_string_equal(heard, "a:source test:1: its name did not resolve;b:closed;");
	server.listener = socket(AF_INET, SOCK_STREAM, 0);
}

static void freed_from_inside(void **state)
{
	(void)state;
	bulk = bulk_new(loop, &options);
	bulk_send(bulk, 0, "", 0, 2, hear_and_free, "a");
	bulk_command(bulk, 0, hear, "b", "GET", "b", NULL);
	spin(0.05);
	server_says("+1\r\n+2\r\n+3\r\n");
	spin(0.05);
	assert_string_equal(heard, "a:+1;a:closed;b:closed;");
	assert_null(bulk);
	/* And from outside, with answers outstanding. */
	heard[0] = '\0';
	bulk = bulk_new(loop, &options);
	bulk_command(bulk, 0, hear, "c", "GET", "c", NULL);
	bulk_free(bulk);
	bulk = NULL;
	assert_string_equal(heard, "c:closed;");
}

static unsigned large_len;

static void measure(void *arg, struct slice reply, const char *why)
{
	(void)arg;
	assert_null(why);
	large_len = (unsigned)reply.n;
}

static void large_replies(void **state)
{
	(void)state;
	size_t n = 20 << 20;
	char *body = malloc(n);
	options.connect_timeout_s = options.reply_timeout_s = 30; /* of a machine that is busy otherwise */
	memset(body, 'x', n);
	bulk = bulk_new(loop, &options);
	bulk_command(bulk, 0, measure, NULL, "GET", "a", NULL);
	spin(0.05);
	size_t head = (size_t)snprintf(body, n, "$%zu\r\n", n - 14);
	memset(body + head, 'x', n - head);
	size_t total = head + n - 14 + 2, done = 0;
	body = realloc(body, total);
	memcpy(body + total - 2, "\r\n", 2);
	while (done < total) {
		ssize_t w = send(server.fd, body + done, total - done, MSG_DONTWAIT);
		if (w > 0)
			done += (size_t)w;
		ev_run(loop, EVRUN_NOWAIT);
	}
	spin(0.1);
	assert_int_equal(large_len, total);
	free(body);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(in_order, setup, teardown),
		cmocka_unit_test_setup_teardown(auth_words, setup, teardown),
		cmocka_unit_test_setup_teardown(losses, setup, teardown),
		cmocka_unit_test_setup_teardown(nonsense, setup, teardown),
		cmocka_unit_test_setup_teardown(unasked, setup, teardown),
		cmocka_unit_test_setup_teardown(timeouts, setup, teardown),
		cmocka_unit_test_setup_teardown(cannot_connect, setup, teardown),
		cmocka_unit_test_setup_teardown(freed_from_inside, setup, teardown),
		cmocka_unit_test_setup_teardown(large_replies, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
