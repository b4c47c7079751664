#include "proxy/marker_io.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backfill/bulk.h"
#include "backfill/own_keys.h"
#include "resp/parse.h"
#include "resp/slot.h"

#define REPLY_TIMEOUT_S 2.0

struct marker_io {
	struct ev_loop *loop;
	const struct config *config;
	struct bulk *bulk; /* NULL: no node has the slot */
	char node[280];
	struct sockaddr_storage addr;
};

struct request {
	struct marker_io *io;
	struct marker want; /* put: what is to be there */
	marker_fn *fn;
	void *arg;
};

struct marker_io *marker_io_new(struct ev_loop *loop, const struct config *config)
{
	struct marker_io *io = calloc(1, sizeof(*io));

	if (!io)
		abort();
	io->loop = loop;
	io->config = config;
	return io;
}

static void disconnect(struct marker_io *io)
{
	struct bulk *b = io->bulk;

	io->bulk = NULL; /* what it answers now may ask again */
	io->node[0] = '\0';
	if (b)
		bulk_free(b);
}

void marker_io_free(struct marker_io *io)
{
	if (!io)
		return;
	disconnect(io);
	free(io);
}

void marker_io_password(struct marker_io *io)
{
	disconnect(io);
}

/* The connection stays while the same node at the same address has the slot. */
static void connect_to(struct marker_io *io, const struct node *n)
{
	const struct side_config *s = &io->config->side[SIDE_TARGET];
	struct bulk_options o = { .addr = n->addr, .addr_len = n->addr_len, .user = s->user, .password = s->password, .tls = s->tls };

	if (io->bulk && strcmp(io->node, n->name) == 0 && memcmp(&io->addr, &n->addr, sizeof(io->addr)) == 0)
		return;
	disconnect(io);
	snprintf(io->node, sizeof(io->node), "%s", n->name);
	io->addr = n->addr;
	o.connect_timeout_s = CONFIG_NOW(io->config->connect_timeout_ms) / 1000.0;
	o.reply_timeout_s = REPLY_TIMEOUT_S;
	snprintf(o.name, sizeof(o.name), "target %s", n->name);
	memcpy(o.node, n->name, sizeof(o.node));
	io->bulk = bulk_new(io->loop, &o);
}

void marker_io_topology(struct marker_io *io, const struct topology *t)
{
	uint16_t node = t->slot_node[slot_of(SLICE_LIT(MARKER_KEY))];

	if (node == NODE_NONE || t->nodes[node].addr_len == 0)
		disconnect(io);
	else
		connect_to(io, &t->nodes[node]);
}

/* ---- requests ---- */

static void answer(struct request *r, const struct marker *m, const char *why)
{
	struct request done = *r;

	free(r);
	done.fn(done.arg, m, why);
}

/* True: not known, and answered so. */
static bool failed(struct request *r, struct slice reply, const char *why, struct resp_item *item)
{
	char text[200];

	if (!reply.p) {
		answer(r, NULL, why);
		return true;
	}
	if (resp_item(reply.p, reply.p + reply.n, item) && item->type != '-' && item->type != '!')
		return false;
	snprintf(text, sizeof(text), "the target answers %.*s", (int)(item->text.n < 150 ? item->text.n : 150), item->text.p);
	answer(r, NULL, text);
	return true;
}

/* What was there. False: not known, and answered so. */
static bool was_there(struct request *r, struct slice reply, const char *why, struct marker *m)
{
	struct resp_item item;

	if (failed(r, reply, why, &item))
		return false;
	*m = (struct marker){ 0 };
	if (item.type == '$')
		marker_parse(item.text, m);
	return true;
}

static void on_look(void *arg, struct slice reply, const char *why)
{
	struct marker m;

	if (was_there(arg, reply, why, &m))
		answer(arg, &m, "");
}

static void on_written(void *arg, struct slice reply, const char *why)
{
	struct request *r = arg;
	struct resp_item item;
	struct marker m = r->want;

	if (!failed(r, reply, why, &item))
		answer(r, &m, "");
}

static void on_put(void *arg, struct slice reply, const char *why)
{
	struct request *r = arg;
	struct marker m;

	if (!was_there(r, reply, why, &m))
		return;
	if (!m.there) {
		m = r->want;
		answer(r, &m, "");
	} else if (strcmp(m.migration, r->want.migration) != 0 || m.epoch >= r->want.epoch || !r->io->bulk) {
		answer(r, &m, "");
	} else {
		sds text = marker_render(r->want.migration, r->want.epoch);
		bulk_command(r->io->bulk, 0, on_written, r, "SET", MARKER_KEY, text, NULL);
		sdsfree(text);
	}
}

static struct request *request_new(struct marker_io *io, marker_fn *fn, void *arg)
{
	struct request *r;

	if (!io->bulk) {
		fn(arg, NULL, "no node of the target that serves its slot is known");
		return NULL;
	}
	r = calloc(1, sizeof(*r));
	if (!r)
		abort();
	*r = (struct request){ .io = io, .fn = fn, .arg = arg };
	return r;
}

void marker_io_look(struct marker_io *io, marker_fn *fn, void *arg)
{
	struct request *r = request_new(io, fn, arg);

	if (r)
		bulk_command(io->bulk, 0, on_look, r, "GET", MARKER_KEY, NULL);
}

void marker_io_put(struct marker_io *io, const char *migration, uint64_t epoch, marker_fn *fn, void *arg)
{
	struct request *r = request_new(io, fn, arg);

	if (!r)
		return;
	r->want = (struct marker){ .there = true, .epoch = epoch };
	snprintf(r->want.migration, sizeof(r->want.migration), "%s", migration);
	sds text = marker_render(migration, epoch);
	bulk_command(io->bulk, 0, on_put, r, "SET", MARKER_KEY, text, "NX", "GET", NULL);
	sdsfree(text);
}

void marker_io_remove(struct marker_io *io, marker_fn *fn, void *arg)
{
	struct request *r = request_new(io, fn, arg);

	if (r)
		bulk_command(io->bulk, 0, on_written, r, "DEL", MARKER_KEY, NULL); /* r->want: not there */
}
