/* load.c - a load generator: one thread, one epoll loop, SET and GET, closed loop or a fixed rate, latencies in a histogram.
 *
 *   load -p PORT [-c CLIENTS] [-P PIPELINE] [-r RATE] [-m SETS:GETS] [-d BYTES] [-k KEYS] [-g TAGS] [-B] (-t SECONDS | -n REQUESTS | -F)
 *
 *   closed loop   each client keeps PIPELINE commands on their way, and sends as many as a read brought replies; a latency counts from the sending.
 *   -r RATE       open loop: request i is due at i/RATE seconds, at client i % CLIENTS, whatever the replies do; a latency counts from then,
 *                 so that requests which had to wait (at most PIPELINE of a client are on their way) are charged with the wait.
 *   -B            closed loop in batches: the next PIPELINE commands when all replies are there
 *   -g TAGS       the keys have this many hash tags, so that they lie in at most as many slots (0: each key its own slot)
 *   -F            SETs every key once, in order, and ends
 *   -t, -n        ends after that time, or when that many requests are sent; replies still due are awaited
 *
 * Connects, sends one GET on every connection, prints "ready" and waits for a line on stdin; so whoever measures can read CPU times between
 * the connecting and the work. (-F starts at once.) Then one line of JSON: counts, seconds, percentiles in µs, its own CPU. Keys are drawn from a
 * fixed seed: two runs with the same options send the same.
 * Exit: 0; 1 a connection broke or replies are missing; 64 usage; 69 cannot connect. Error replies are counted. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum {
	READ_LEN = 262144,
	LINE_MAX_LEN = 128,
	HIST_SUB = 64, /* steps per power of two: 1.6 % */
	HIST_LEN = 64 * HIST_SUB,
	DRAIN_S = 30,
	KEEP_OUT = 65536, /* an output buffer above this is given back when it is empty */
};

typedef struct {
	int fd;
	bool writing;     /* EPOLLOUT is asked for */
	uint32_t flying;  /* requests without a reply */
	uint64_t sent;    /* since the phase began */
	uint64_t due;     /* open loop: requests whose time has come */
	uint64_t *at;     /* closed loop: when each of those on their way was sent, ns; a ring */
	uint64_t answered;
	uint64_t skip;    /* bytes of a bulk reply that are still to come */
	uint32_t line_len;
	char line[LINE_MAX_LEN];
	char *out;
	size_t out_len, out_at, out_cap;
} client;

typedef struct {
	int port, clients, pipeline;
	double rate, seconds;
	uint64_t requests, keys, size, tags;
	int sets, gets;
	bool fill, batches;
} options;

static options opt = { .clients = 50, .pipeline = 1, .sets = 1, .gets = 1, .size = 128, .keys = 100000 };
static client *clients;
static int poll_fd;
static char *value, in[READ_LEN];
static uint64_t rng = 88172645463325252u;
static uint64_t hist[HIST_LEN], longest;
static uint64_t sent, answered, errors, hits, misses; /* of this phase */
static uint64_t began, limit;                         /* ns; requests that may be sent */
static bool stopping;
static char first_error[LINE_MAX_LEN];

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(int code, const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(code);
}

static uint64_t next_random(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

/* ---- latencies */

static unsigned hist_index(uint64_t v)
{
	if (v < HIST_SUB)
		return (unsigned)v;
	unsigned top = 63 - (unsigned)__builtin_clzll(v), shift = top - 6;
	return (shift + 1) * HIST_SUB + (unsigned)((v >> shift) - HIST_SUB);
}

static uint64_t hist_value(unsigned i)
{
	if (i < HIST_SUB)
		return i;
	unsigned shift = i / HIST_SUB - 1;
	return ((uint64_t)(i % HIST_SUB + HIST_SUB) << shift) + ((uint64_t)1 << shift) / 2;
}

static void count_latency(uint64_t ns)
{
	hist[hist_index(ns)]++;
	if (ns > longest)
		longest = ns;
}

static double percentile_us(double p)
{
	uint64_t want = (uint64_t)((double)answered * p / 100), seen = 0;
	for (unsigned i = 0; i < HIST_LEN; i++) {
		seen += hist[i];
		if (seen > want)
			return (double)hist_value(i) / 1000;
	}
	return (double)longest / 1000;
}

/* ---- sending */

static uint64_t due_at(const client *c, uint64_t k)
{
	uint64_t i = k * (uint64_t)opt.clients + (uint64_t)(c - clients);
	return began + (uint64_t)((double)i * 1e9 / opt.rate);
}

static void reserve_out(client *c, size_t more)
{
	if (c->out_len + more <= c->out_cap)
		return;
	c->out_cap = (c->out_len + more) * 2;
	c->out = realloc(c->out, c->out_cap);
	if (!c->out)
		die(1, "memory");
}

static int print_key(char *key, size_t len, uint64_t number)
{
	if (opt.tags == 0)
		return snprintf(key, len, "key:%012llu", (unsigned long long)number);
	return snprintf(key, len, "{%llu}:%012llu", (unsigned long long)(number % opt.tags), (unsigned long long)number);
}

static void add_command(client *c, bool is_set)
{
	char key[64];
	uint64_t number = opt.fill ? sent : next_random() % opt.keys;
	int key_len = print_key(key, sizeof key, number);
	reserve_out(c, opt.size + 160);
	char *at = c->out + c->out_len;
	if (is_set) {
		at += sprintf(at, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%llu\r\n", key_len, key, (unsigned long long)opt.size);
		memcpy(at, value, opt.size);
		at += opt.size;
		memcpy(at, "\r\n", 2);
		at += 2;
	} else {
		at += sprintf(at, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", key_len, key);
	}
	c->out_len = (size_t)(at - c->out);
	c->sent++;
	c->flying++;
	sent++;
}

static void want_write(client *c, bool on)
{
	if (c->writing == on)
		return;
	struct epoll_event e = { .events = EPOLLIN | (on ? (uint32_t)EPOLLOUT : 0), .data.ptr = c };
	epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &e);
	c->writing = on;
}

static void flush_out(client *c)
{
	while (c->out_at < c->out_len) {
		ssize_t n = write(c->fd, c->out + c->out_at, c->out_len - c->out_at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			want_write(c, true);
			return;
		}
		if (n < 0)
			die(1, "write");
		c->out_at += (size_t)n;
	}
	c->out_at = c->out_len = 0;
	if (c->out_cap > KEEP_OUT && opt.size > KEEP_OUT) {
		free(c->out);
		c->out = NULL;
		c->out_cap = 0;
	}
	want_write(c, false);
}

static bool next_is_set(const client *c)
{
	uint64_t turn = c->sent + (uint64_t)(c - clients);
	return opt.fill || turn % (uint64_t)(opt.sets + opt.gets) < (uint64_t)opt.sets;
}

/* Sends what this client may send now. */
static void send_more(client *c, bool rated)
{
	uint64_t before = c->sent, now = rated ? 0 : now_ns();
	if (opt.batches && c->flying > 0)
		return;
	while (!stopping && sent < limit && c->flying < (uint32_t)opt.pipeline && (!rated || c->sent < c->due)) {
		c->at[c->sent % (uint64_t)opt.pipeline] = now;
		add_command(c, next_is_set(c));
	}
	if (c->sent > before)
		flush_out(c);
}

/* ---- receiving */

static void reply_done(client *c, uint64_t now, bool rated)
{
	uint64_t from = rated ? due_at(c, c->answered) : c->at[c->answered % (uint64_t)opt.pipeline];
	count_latency(now > from ? now - from : 0);
	c->answered++;
	c->flying--;
	answered++;
}

static bool reply_line(client *c)
{
	c->line[c->line_len < LINE_MAX_LEN ? c->line_len : LINE_MAX_LEN - 1] = 0;
	c->line_len = 0;
	switch (c->line[0]) {
	case '$':
		if (c->line[1] == '-') {
			misses++;
			return true;
		}
		hits++;
		c->skip = strtoull(c->line + 1, NULL, 10) + 2;
		return false;
	case '-':
		if (errors++ == 0)
			memcpy(first_error, c->line, sizeof first_error);
		return true;
	case '_':
		misses++;
		return true;
	case '+':
	case ':':
		return true;
	default:
		errno = EPROTO;
		die(1, "reply");
		return true;
	}
}

static void parse(client *c, const char *p, size_t n, uint64_t now, bool rated)
{
	const char *end = p + n;
	while (p < end) {
		if (c->skip > 0) {
			size_t take = (uint64_t)(end - p) < c->skip ? (size_t)(end - p) : (size_t)c->skip;
			p += take;
			c->skip -= take;
			if (c->skip == 0)
				reply_done(c, now, rated);
			continue;
		}
		char b = *p++;
		if (b == '\n') {
			if (reply_line(c))
				reply_done(c, now, rated);
		} else if (b != '\r' && c->line_len < LINE_MAX_LEN - 1) {
			c->line[c->line_len++] = b;
		}
	}
}

static void receive(client *c, bool rated)
{
	ssize_t n = read(c->fd, in, sizeof in);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		errno = n == 0 ? ECONNRESET : errno;
		die(1, "read");
	}
	parse(c, in, (size_t)n, now_ns(), rated);
	send_more(c, rated);
}

/* ---- one phase */

static void reset(void)
{
	memset(hist, 0, sizeof hist);
	longest = sent = answered = errors = hits = misses = 0;
	stopping = false;
	for (int i = 0; i < opt.clients; i++)
		clients[i].sent = clients[i].answered = clients[i].due = 0;
}

/* Hands out what is due by now; returns the ns until the next request is due. */
static uint64_t hand_out(uint64_t *next, uint64_t now)
{
	for (;; ++*next) {
		client *c = &clients[*next % (uint64_t)opt.clients];
		uint64_t at = due_at(c, *next / (uint64_t)opt.clients);
		if (at > now)
			return at - now;
		c->due++;
		send_more(c, true);
	}
}

/* Sends until `most` requests are sent or the seconds (0: no limit) are over, and awaits the replies. Returns the seconds until the sending ended. */
static double phase(uint64_t most, double seconds, bool rated)
{
	struct epoll_event events[256];
	uint64_t next = 0, end = 0;
	limit = most;
	began = now_ns();
	for (int i = 0; !rated && i < opt.clients; i++)
		send_more(&clients[i], false);
	while (!stopping || answered < sent) {
		uint64_t now = now_ns(), wait = 100000000;
		if (!stopping && ((seconds > 0 && (double)(now - began) >= seconds * 1e9) || sent >= limit)) {
			stopping = true;
			end = now;
			continue;
		}
		if (stopping && now - end > DRAIN_S * 1000000000ull) {
			errno = ETIMEDOUT;
			die(1, "replies are missing");
		}
		if (rated && !stopping)
			wait = hand_out(&next, now);
		if (!stopping && seconds > 0 && wait > 1000000)
			wait = 1000000;
		struct timespec t = { .tv_nsec = (long)(wait < 100000000 ? wait : 100000000) };
		int n = epoll_pwait2(poll_fd, events, 256, &t, NULL);
		for (int i = 0; i < n; i++) {
			client *c = events[i].data.ptr;
			if (events[i].events & EPOLLOUT)
				flush_out(c);
			if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
				receive(c, rated);
		}
	}
	/* A closed loop ends with its last reply; an open one with its schedule. */
	return (double)((rated ? end : now_ns()) - began) / 1e9;
}

/* ---- set-up and report */

static void connect_all(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port), .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int one = 1;
	poll_fd = epoll_create1(EPOLL_CLOEXEC);
	clients = calloc((size_t)opt.clients, sizeof *clients);
	if (poll_fd < 0 || !clients)
		die(1, "set-up");
	for (int i = 0; i < opt.clients; i++) {
		client *c = &clients[i];
		c->at = calloc((size_t)opt.pipeline, sizeof *c->at);
		if (!c->at)
			die(1, "memory");
		c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&a, sizeof a))
			die(69, "connect");
		setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		struct epoll_event e = { .events = EPOLLIN, .data.ptr = c };
		if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &e))
			die(1, "epoll_ctl");
	}
}

static void set_nonblocking(void)
{
	for (int i = 0; i < opt.clients; i++)
		if (fcntl(clients[i].fd, F_SETFL, O_NONBLOCK))
			die(1, "fcntl");
}

static void print_report(double seconds, double cpu)
{
	printf("{\"requests\": %llu, \"seconds\": %.6f, \"rate\": %.1f, \"errors\": %llu, \"hits\": %llu, \"misses\": %llu, \"first_error\": \"",
		(unsigned long long)answered, seconds, (double)answered / seconds, (unsigned long long)errors, (unsigned long long)hits,
		(unsigned long long)misses);
	for (const char *p = first_error; *p; p++)
		putchar(*p == '"' || *p == '\\' || *p < ' ' ? '?' : *p);
	printf("\", \"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f, \"cpu_s\": %.6f}\n",
		percentile_us(50), percentile_us(90), percentile_us(99), percentile_us(99.9), (double)longest / 1000, cpu);
	fflush(stdout);
}

static double own_cpu(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int usage(void)
{
	fprintf(stderr, "usage: load -p PORT [-c CLIENTS] [-P PIPELINE] [-r RATE] [-m SETS:GETS] [-d BYTES] [-k KEYS] [-g TAGS] [-B] "
			"(-t SECONDS | -n REQUESTS | -F)\n");
	return 64;
}

static bool read_options(int argc, char **argv)
{
	int o;
	while ((o = getopt(argc, argv, "p:c:P:r:m:d:k:g:t:n:FB")) != -1) {
		switch (o) {
		case 'p': opt.port = atoi(optarg); break;
		case 'c': opt.clients = atoi(optarg); break;
		case 'P': opt.pipeline = atoi(optarg); break;
		case 'r': opt.rate = atof(optarg); break;
		case 'm':
			if (sscanf(optarg, "%d:%d", &opt.sets, &opt.gets) != 2)
				return false;
			break;
		case 'd': opt.size = strtoull(optarg, NULL, 10); break;
		case 'k': opt.keys = strtoull(optarg, NULL, 10); break;
		case 'g': opt.tags = strtoull(optarg, NULL, 10); break;
		case 't': opt.seconds = atof(optarg); break;
		case 'n': opt.requests = strtoull(optarg, NULL, 10); break;
		case 'F': opt.fill = true; break;
		case 'B': opt.batches = true; break;
		default: return false;
		}
	}
	bool ends = opt.fill || opt.seconds > 0 || opt.requests > 0;
	return optind == argc && ends && opt.port > 0 && opt.clients > 0 && opt.pipeline > 0 && opt.keys > 0 && opt.sets >= 0 && opt.gets >= 0 &&
		opt.sets + opt.gets > 0 && opt.rate >= 0;
}

/* One GET on every connection, so that none is set up while it is measured. */
static void warm_up(void)
{
	options real = opt;
	opt.sets = 0;
	opt.gets = opt.pipeline = 1;
	reset();
	phase((uint64_t)opt.clients, 0, false);
	opt = real;
	printf("ready\n");
	fflush(stdout);
	char c;
	while (read(0, &c, 1) == 1 && c != '\n')
		;
}

int main(int argc, char **argv)
{
	if (!read_options(argc, argv))
		return usage();
	value = malloc(opt.size + 1);
	if (!value)
		die(1, "memory");
	for (uint64_t i = 0; i < opt.size; i++)
		value[i] = (char)('a' + next_random() % 26);
	connect_all();
	set_nonblocking();
	if (!opt.fill)
		warm_up();
	uint64_t most = opt.fill ? opt.keys : opt.requests ? opt.requests : UINT64_MAX;
	reset();
	double cpu = own_cpu(), seconds = phase(most, opt.seconds, opt.rate > 0);
	print_report(seconds, own_cpu() - cpu);
	return 0;
}
