#include "proxy/waitaof.h"

#include <assert.h>
#include <stdlib.h>

#include "backfill/large.h"
#include "proxy/side.h"
#include "resp/parse.h"
#include "resp/write.h"

#define NO_LIMIT_S 1e9 /* the server answers when it is time */

struct waitaof {
	struct side_connections side;
	struct waitaof *next;
	bool taken;
};

struct waitaof *waitaof_take(struct worker *w)
{
	struct waitaof *a = w->waitaof;

	while (a && a->taken)
		a = a->next;
	if (!a) {
		a = calloc(1, sizeof *a);
		if (!a)
			abort();
		side_init(&a->side, w, "waitaof");
		a->side.owner.reply_timeout_s = NO_LIMIT_S;
		a->next = w->waitaof;
		w->waitaof = a;
	}
	a->taken = true;
	return a;
}

void waitaof_give_back(struct waitaof *a)
{
	assert(a->taken);
	a->taken = false;
}

void waitaof_free_all(struct worker *w)
{
	for (struct waitaof *a = w->waitaof, *next; a; a = next) {
		next = a->next;
		side_release(&a->side);
		free(a);
	}
	w->waitaof = NULL;
}

static struct upstream *connection(struct waitaof *a, struct worker *w, uint16_t node)
{
	bool made;

	return side_to(&a->side, w->upstreams[node], &made);
}

/* One of those that the node has. */
static uint16_t slot_at(const struct worker *w, uint16_t node)
{
	uint16_t slot = 0;

	while (slot + 1u < SLOTS && w->route[w->upstreams[node]->side][slot] != node)
		slot++;
	return slot;
}

static void on_marked(void *arg, const struct reply *r)
{
	struct waitaof_answer *answer = arg;

	answer->unmarked |= !r->p || r->p[0] == '-' || r->p[0] == '!';
}

static void on_ignored(void *arg, const struct reply *r)
{
	(void)arg;
	(void)r;
}

#define MARK_REPLIES 4

/* A key comes and goes in one transaction: everybody is told of the two writes, and nobody sees it. */
static sds mark(const struct worker *w, uint16_t node)
{
	sds key = large_tmp_key(slot_at(w, node), w->id), s = resp_cat_words(sdsempty(), "MULTI", NULL);

	s = resp_cat_words(s, "SET", key, "", NULL);
	s = resp_cat_words(s, "UNLINK", key, NULL);
	s = resp_cat_words(s, "EXEC", NULL);
	sdsfree(key);
	return s;
}

void waitaof_ask(struct waitaof *a, struct worker *w, uint16_t node, sds request, bool once, struct waitaof_answer *answer, reply_fn *fn, void *arg)
{
	static const char multi[] = "*1\r\n$5\r\nMULTI\r\n", exec[] = "*1\r\n$4\r\nEXEC\r\n";
	struct upstream *u = connection(a, w, node);
	sds s = mark(w, node);

	*answer = (struct waitaof_answer){ false, 0, 0 };
	upstream_send(u, UPSTREAM_ANY_DB, s, sdslen(s), NULL, MARK_REPLIES, on_marked, answer);
	if (once) {
		upstream_send(u, UPSTREAM_ANY_DB, multi, sizeof multi - 1, NULL, 1, on_ignored, NULL);
		upstream_send(u, UPSTREAM_ANY_DB, request, sdslen(request), NULL, 1, on_ignored, NULL);
		upstream_send(u, UPSTREAM_ANY_DB, exec, sizeof exec - 1, NULL, 1, fn, arg);
	} else {
		upstream_send(u, UPSTREAM_ANY_DB, request, sdslen(request), NULL, 1, fn, arg);
	}
	sdsfree(s);
}

void waitaof_stop(struct waitaof *a, struct worker *w, uint16_t node)
{
	upstream_close(connection(a, w, node));
}

static bool next(const char **p, const char *end, struct resp_item *item)
{
	size_t n = resp_item(*p, end, item);

	*p += n;
	return n > 0;
}

sds waitaof_read(const struct reply *r, bool once, struct waitaof_answer *answer)
{
	const char *p = r->p, *end = r->p + r->n;
	struct resp_item head, local, replicas;

	if (!p || !next(&p, end, &head) || (once && head.type == '*' && !next(&p, end, &head)))
		return NULL;
	if (head.type == '-' || head.type == '!')
		return sdscat(sdscatlen(sdsnew("-"), head.text.p, head.text.n), "\r\n");
	if (answer->unmarked || head.type != '*' || head.n != 2 || !next(&p, end, &local) || !next(&p, end, &replicas))
		return NULL;
	answer->local = local.n;
	answer->replicas = replicas.n;
	return NULL;
}
