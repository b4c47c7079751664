/* floor.c - the least that serving a request can cost on this machine: a libev loop that reads, counts the commands that begin in what it read,
 * and writes as many +OK. No parsing, no upstream. A proxy's CPU per request divided by this program's, in one run, says how far the proxy is
 * from what the kernel itself takes for the client's half.
 *
 *   floor PORT      on 127.0.0.1; load it with SET of values that hold no '*' only; ends by a signal */
#define _GNU_SOURCE
#include <ev.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REPLY_LEN = 5, BUF_LEN = 65536 };

static char in[BUF_LEN], out[BUF_LEN];

static void client_cb(struct ev_loop *loop, ev_io *w, int revents)
{
	(void)revents;
	ssize_t n = read(w->fd, in, sizeof in);
	if (n <= 0) {
		ev_io_stop(loop, w);
		close(w->fd);
		free(w);
		return;
	}
	size_t commands = 0;
	for (ssize_t i = 0; i < n; i++)
		commands += in[i] == '*';
	if (commands > BUF_LEN / REPLY_LEN)
		commands = BUF_LEN / REPLY_LEN;
	if (commands > 0 && write(w->fd, out, commands * REPLY_LEN) < 0)
		return;
}

static void accept_cb(struct ev_loop *loop, ev_io *w, int revents)
{
	(void)revents;
	int one = 1, fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0)
		return;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	ev_io *c = malloc(sizeof *c);
	if (!c) {
		close(fd);
		return;
	}
	ev_io_init(c, client_cb, fd, EV_READ);
	ev_io_start(loop, c);
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: floor PORT\n");
		return 64;
	}
	for (size_t i = 0; i + REPLY_LEN <= sizeof out; i += REPLY_LEN)
		memcpy(out + i, "+OK\r\n", REPLY_LEN);
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1])), .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int one = 1, s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(s, (struct sockaddr *)&a, sizeof a) || listen(s, 1024)) {
		perror("floor");
		return 69;
	}
	struct ev_loop *loop = ev_default_loop(0);
	ev_io w;
	ev_io_init(&w, accept_cb, s, EV_READ);
	ev_io_start(loop, &w);
	ev_run(loop, 0);
	return 0;
}
