/* WAIT and WAITAOF: how many replicas have what the client wrote, or who has it on disk. The commands themselves would stop everybody on a data connection, and
 * elsewhere they know nothing of our writes. So for WAIT the primaries are asked for their offsets (INFO replication, on the side connections of keywatch.c)
 * until enough replicas are as far as the primary was at the first answer, or the time is over; for WAITAOF they are asked behind a write of our own
 * (waitaof.h). Of several primaries the one with the fewest counts: to which of them the client wrote is not kept. */
#include <assert.h>
#include <stdlib.h>
#include <time.h>

#include "proxy/blocking.h"
#include "proxy/client.h"
#include "proxy/local.h"
#include "proxy/waitaof.h"
#include "resp/digits.h"
#include "resp/write.h"

#define PAUSE_FIRST_S 0.005 /* between two rounds, doubled up to the last */
#define PAUSE_LAST_S 0.1

struct primary {
	struct waiting *waiting;
	uint16_t node;     /* in worker->upstreams */
	bool known;        /* the target */
	int64_t target;    /* its offset at the first answer */
	int64_t replicas;  /* as far as that; of WAITAOF's answer */
	bool awaited;      /* WAITAOF's answer… */
	struct waitaof_answer aof;
};

struct waiting { /* lives until its request is answered and no answer is on the way */
	struct worker *worker;
	struct req *req;   /* NULL: answered, or the client is gone */
	int64_t wanted, timeout_ms;
	ev_timer round, limit;
	ev_tstamp limit_at; /* 0: there is none yet */
	double pause_s;
	bool begun;
	bool once;         /* inside a transaction nothing waits: the first round's answer */
	uint32_t epoch;    /* of the fleet, when the primaries were looked up */
	unsigned asked;    /* answers to come */
	unsigned n;
	struct primary *primaries;
	struct waitaof *aof; /* NULL: it is WAIT */
	sds request, error;  /* WAITAOF's */
};

static void stop(struct waiting *x)
{
	ev_timer_stop(x->worker->loop, &x->round);
	ev_timer_stop(x->worker->loop, &x->limit);
}

static void free_at_rest(struct waiting *x)
{
	if (x->req || x->asked)
		return;
	sdsfree(x->request);
	sdsfree(x->error);
	free(x->primaries);
	free(x);
}

static int64_t fewest(const struct waiting *x)
{
	int64_t min = x->n ? x->primaries[0].replicas : 0;

	for (unsigned i = 1; i < x->n; i++)
		if (x->primaries[i].replicas < min)
			min = x->primaries[i].replicas;
	return min;
}

/* The primaries that did not answer yet are not waited for any more. */
static void stop_asking(struct waiting *x)
{
	x->asked++; /* the answers that come of it are not the last */
	for (unsigned i = 0; i < x->n; i++)
		if (x->primaries[i].awaited)
			waitaof_stop(x->aof, x->worker, x->primaries[i].node);
	x->asked--;
}

static sds aof_answer(const struct waiting *x)
{
	int64_t local = x->n ? x->primaries[0].aof.local : 0;

	if (x->error)
		return sdsdup(x->error);
	for (unsigned i = 1; i < x->n; i++)
		if (x->primaries[i].aof.local < local)
			local = x->primaries[i].aof.local;
	return resp_cat_len(resp_cat_len(resp_cat_len(sdsempty(), '*', 2), ':', local), ':', fewest(x));
}

static sds answer(const struct waiting *x, enum unpark how)
{
	if (how == UNPARK_ERROR)
		return sdsnew("-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n");
	return x->aof ? aof_answer(x) : resp_cat_len(sdsempty(), ':', fewest(x));
}

/* The request as another process is to have it, WAIT with what time is left. */
static void restate(struct waiting *x, struct req *r)
{
	sds s = x->request ? sdsdup(x->request) : resp_cat_len(sdsempty(), '*', 3);

	if (!x->request) {
		int64_t left = x->limit_at > 0 ? (int64_t)((x->limit_at - ev_now(x->worker->loop)) * 1e3) : x->timeout_ms;
		left = x->timeout_ms && left < 1 ? 1 : left;
		s = resp_cat_int_bulk(resp_cat_int_bulk(resp_cat_bulk(s, SLICE_LIT("WAIT")), x->wanted), left);
	}
	r->block = block_copy(s, sdslen(s));
	r->bytes = r->block->data;
	r->len = sdslen(s);
	sdsfree(s);
}

void waiting_end(struct waiting *x, enum unpark how)
{
	struct worker *w = x->worker;
	struct req *r = x->req;
	sds s = answer(x, how);

	assert(r);
	stop(x);
	if (x->aof) {
		stop_asking(x);
		waitaof_give_back(x->aof);
	}
	x->req = NULL;
	r->waiting = NULL;
	if (how == UNPARK_GONE) {
		r->done = true; /* whoever drops the client frees it */
	} else {
		if (how == UNPARK_END && !x->once) {
			restate(x, r);
		} else if (how != UNPARK_END) {
			r->reply_block = block_copy(s, sdslen(s));
			r->reply = r->reply_block->data;
			r->reply_len = sdslen(s);
		}
		client_done(w, r);
	}
	sdsfree(s);
	free_at_rest(x);
}

/* "slave0:ip=…,port=…,state=online,offset=123,lag=0" */
static int64_t replicas_at(struct slice info, int64_t target)
{
	const char *p = info.p, *end = info.p + info.n, *offset;
	int64_t n = 0;

	while ((p = memmem(p, (size_t)(end - p), "\nslave", 6))) {
		p += 6;
		const char *line_end = memchr(p, '\n', (size_t)(end - p));
		size_t len = (size_t)((line_end ? line_end : end) - p);
		offset = memmem(p, len, ",offset=", 8);
		if (offset && memmem(p, len, "state=online", 12) && strtoll(offset + 8, NULL, 10) >= target)
			n++;
	}
	return n;
}

static void take(struct primary *p, const struct reply *r)
{
	struct resp_item item = { 0 };
	const char *offset;

	if (!r->p || !resp_item(r->p, r->p + r->n, &item) || !item.text.p)
		return;
	offset = memmem(item.text.p, item.text.n, "\nmaster_repl_offset:", 20);
	if (!offset)
		return;
	if (!p->known)
		p->target = strtoll(offset + 20, NULL, 10);
	p->known = true;
	p->replicas = replicas_at(item.text, p->target);
}

static void on_info(void *arg, const struct reply *r)
{
	struct primary *p = arg;
	struct waiting *x = p->waiting;

	take(p, r);
	if (--x->asked)
		return;
	if (!x->req) {
		free_at_rest(x);
	} else if (x->once || fewest(x) >= x->wanted) {
		waiting_end(x, UNPARK_NULL);
	} else {
		ev_timer_set(&x->round, x->pause_s, 0.);
		ev_timer_start(x->worker->loop, &x->round);
		x->pause_s = x->pause_s * 2 < PAUSE_LAST_S ? x->pause_s * 2 : PAUSE_LAST_S;
	}
}

static void on_aof(void *arg, const struct reply *r)
{
	struct primary *p = arg;
	struct waiting *x = p->waiting;
	sds error = waitaof_read(r, x->once, &p->aof);

	p->awaited = false;
	p->replicas = p->aof.replicas;
	if (x->error)
		sdsfree(error);
	else
		x->error = error;
	if (--x->asked == 0)
		waiting_end(x, UNPARK_NULL);
}

static void ask(struct waiting *x)
{
	x->asked = x->n;
	for (unsigned i = 0; i < x->n; i++) {
		struct primary *p = &x->primaries[i];
		p->awaited = x->aof != NULL;
		if (x->aof)
			waitaof_ask(x->aof, x->worker, p->node, x->request, x->once, &p->aof, on_aof, p);
		else
			keywatch_info(x->worker, p->node, on_info, p);
	}
}

static void on_limit(struct ev_loop *loop, ev_timer *t, int revents)
{
	(void)loop;
	(void)revents;
	waiting_end(t->data, UNPARK_NULL);
}

/* The nodes that answer clients. */
static void find_primaries(struct waiting *x)
{
	struct worker *w = x->worker;
	uint16_t *nodes = malloc(w->nupstreams * sizeof *nodes);

	assert(!x->asked);
	x->epoch = atomic_load(&w->fleet->epoch);
	free(x->primaries);
	x->primaries = calloc(w->nupstreams, sizeof *x->primaries);
	if (!nodes || !x->primaries)
		abort();
	x->n = worker_answering(w, nodes);
	for (unsigned i = 0; i < x->n; i++)
		x->primaries[i] = (struct primary){ .waiting = x, .node = nodes[i] };
	free(nodes);
}

/* A flip or a failover lies behind: others answer now, and what was written has to be with their replicas. */
static void on_round(struct ev_loop *loop, ev_timer *t, int revents)
{
	struct waiting *x = t->data;
	bool others = x->epoch != atomic_load(&x->worker->fleet->epoch);

	(void)loop;
	(void)revents;
	if (x->aof) {
		ev_timer_again(x->worker->loop, &x->round);
		if (!others)
			return;
		stop_asking(x);
	}
	if (others)
		find_primaries(x);
	if (x->n)
		ask(x);
	else
		waiting_end(x, UNPARK_NULL);
}

/* All that the client sent before has been answered. */
void waiting_begin(struct waiting *x)
{
	if (x->begun)
		return;
	x->begun = true;
	find_primaries(x);
	if (!x->n) {
		waiting_end(x, UNPARK_NULL);
		return;
	}
	if (x->aof && !x->once) {
		x->round.repeat = PAUSE_LAST_S;
		ev_timer_again(x->worker->loop, &x->round);
	}
	if (x->timeout_ms) {
		x->limit_at = ev_now(x->worker->loop) + (double)x->timeout_ms / 1e3;
		ev_timer_set(&x->limit, (double)x->timeout_ms / 1e3, 0.);
		ev_timer_start(x->worker->loop, &x->limit);
	}
	ask(x);
}

static struct waiting *waiting_new(struct worker *w)
{
	struct waiting *x = calloc(1, sizeof *x);

	if (!x)
		abort();
	*x = (struct waiting){ .worker = w, .req = req_new(w), .pause_s = PAUSE_FIRST_S };
	ev_init(&x->round, on_round);
	ev_init(&x->limit, on_limit);
	x->round.data = x->limit.data = x;
	x->req->waiting = x;
	return x;
}

static void wait_in_line(struct waiting *x, struct client *c)
{
	client_await(c, x->req);
	x->once = x->req->exec != NULL;
	if (!x->once)
		c->parked = x->req;
	if (x->once || c->head == x->req)
		waiting_begin(x);
}

/* The server judges the numbers. */
void local_waitaof(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct waiting *x = waiting_new(w);

	(void)cmd;
	x->aof = waitaof_take(w);
	x->request = resp_cat_request(sdsempty(), (int)argc, w->argv);
	wait_in_line(x, c);
}

void local_wait(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct timespec ts;
	int64_t wanted, ms = 0;
	const char *error = NULL;

	(void)cmd;
	(void)argc;
	clock_gettime(CLOCK_REALTIME, &ts);
	if (!resp_string_to_int(w->argv[1].p, w->argv[1].n, &wanted))
		error = "ERR value is not an integer or out of range";
	else
		error = blocking_timeout_ms(w->argv[2], local_identity(w).number < 0x070200 ? 0 : ts.tv_sec * INT64_C(1000), &ms);
	if (error) {
		client_error(w, c, "%s", error);
		return;
	}
	struct waiting *x = waiting_new(w);
	x->wanted = wanted;
	x->timeout_ms = ms;
	wait_in_line(x, c);
}
