/* SCRIPT KILL and FUNCTION KILL: asked of every primary that answers clients, on side connections, for the data connection to a node stands still behind the
 * script that runs there. Such a node takes few commands, so these connections greet it with HELLO alone, and it may take them only when the script has run
 * for some seconds. OK if any had one to kill. */
#include <stdlib.h>

#include "proxy/client.h"
#include "proxy/local.h"
#include "proxy/side.h"
#include "resp/write.h"

struct killers {
	struct side_connections side;
};

struct kill { /* one command of a client */
	struct worker *worker;
	struct req *req;
	unsigned left;
	bool killed;
	sds none, error; /* the first NOTBUSY; the first of what else was answered */
};

static void end(struct kill *k)
{
	static const char nobody[] = "CLUSTERDOWN no node was asked";
	sds s = k->killed ? resp_cat_simple(sdsempty(), "OK") : k->error ? sdsdup(k->error) : k->none ? sdsdup(k->none) : resp_cat_error(sdsempty(), nobody);

	k->req->reply_block = block_copy(s, sdslen(s));
	k->req->reply = k->req->reply_block->data;
	k->req->reply_len = sdslen(s);
	client_done(k->worker, k->req);
	sdsfree(s);
	sdsfree(k->none);
	sdsfree(k->error);
	free(k);
}

static void on_answer(void *arg, const struct reply *r)
{
	static const char not_busy[] = "-NOTBUSY ";
	struct kill *k = arg;

	if (r->p && r->p[0] == '+') {
		k->killed = true;
	} else if (!r->p) {
		sds text = sdscatprintf(sdsempty(), "ERR crossfade: %s", r->why);
		k->error = k->error ? k->error : resp_cat_error(sdsempty(), text);
		sdsfree(text);
	} else if (r->n >= sizeof not_busy && memcmp(r->p, not_busy, sizeof not_busy - 1) == 0) {
		k->none = k->none ? k->none : sdsnewlen(r->p, r->n);
	} else {
		k->error = k->error ? k->error : sdsnewlen(r->p, r->n);
	}
	if (--k->left == 0)
		end(k);
}

static struct killers *killers_of(struct worker *w)
{
	if (w->killers)
		return w->killers;
	w->killers = calloc(1, sizeof *w->killers);
	if (!w->killers)
		abort();
	side_init(&w->killers->side, w, "kill");
	w->killers->side.owner.bare = true;
	w->killers->side.owner.connect_timeout_s = w->killers->side.owner.reply_timeout_s;
	return w->killers;
}

void killers_free(struct worker *w)
{
	if (!w->killers)
		return;
	side_release(&w->killers->side);
	free(w->killers);
	w->killers = NULL;
}

void local_script_kill(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct kill *k = calloc(1, sizeof *k);
	uint16_t *nodes = malloc(w->nupstreams * sizeof *nodes);
	bool made;

	(void)cmd;
	if (!k || !nodes)
		abort();
	unsigned n = worker_answering(w, nodes);
	sds s = resp_cat_request(sdsempty(), (int)argc, w->argv);
	*k = (struct kill){ .worker = w, .req = req_new(w), .left = 1 + n /* this loop */ };
	client_await(c, k->req);
	for (unsigned i = 0; i < n; i++)
		upstream_send(side_to(&killers_of(w)->side, w->upstreams[nodes[i]], &made), UPSTREAM_ANY_DB, s, sdslen(s), NULL, 1, on_answer, k);
	sdsfree(s);
	free(nodes);
	if (--k->left == 0)
		end(k);
}
