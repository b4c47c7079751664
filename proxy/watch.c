/* WATCH and UNWATCH at the client's worker. */
#include "proxy/watch.h"

#include <assert.h>
#include <stdlib.h>

#include "proxy/client.h"
#include "proxy/local.h"
#include "resp/slot.h"
#include "resp/write.h"

static void home_forgets(void *arg)
{
	struct watch *v = arg;

	*(v->prev ? &v->prev->next : &v->home->watches) = v->next;
	if (v->next)
		v->next->prev = v->prev;
	free(v);
}

static void owner_gives_back(void *arg)
{
	struct watch *v = arg;

	watch_give_back(v->owner, v);
	mailbox_post(v->owner->fleet->mail, v->home->id, v->owner->id, home_forgets, v);
}

void watch_unref(struct watch *v)
{
	if (v && --v->refs == 0)
		mailbox_post(v->home->fleet->mail, v->owner->id, v->home->id, owner_gives_back, v);
}

void watches_free(struct worker *w)
{
	for (struct watch *v = w->watches, *next; v; v = next) {
		next = v->next;
		free(v);
	}
}

static struct watch *watch_new(struct worker *w, uint16_t slot)
{
	struct watch *v = calloc(1, sizeof *v);

	if (!v)
		abort();
	v->refs = 1;
	v->home = w;
	v->owner = &w->fleet->workers[w->fleet->owner[slot]];
	v->slot = slot;
	v->next = w->watches;
	if (v->next)
		v->next->prev = v;
	w->watches = v;
	return v;
}

static void owner_unwatches(void *arg)
{
	watch_disarm(arg);
}

void watch_end(struct worker *w, struct client *c)
{
	struct session *s = c->session;

	if (!s || !s->watching)
		return;
	s->watching = false;
	mailbox_post(w->fleet->mail, s->watch->owner->id, w->id, owner_unwatches, s->watch);
}

void watch_client_gone(struct client *c)
{
	watch_unref(c->session->watch);
	c->session->watch = NULL;
}

/* The watch that a client's first WATCH makes; later ones of keys of another owner need another. */
static struct watch *watch_for(struct worker *w, struct session *s, uint16_t slot)
{
	if (s->watch && !s->watching && s->watch->owner != &w->fleet->workers[w->fleet->owner[slot]]) {
		watch_unref(s->watch);
		s->watch = NULL;
	}
	if (!s->watch)
		s->watch = watch_new(w, slot);
	if (!s->watching)
		s->watch->slot = slot;
	return s->watch;
}

void watch_restore(struct worker *w, struct client *c, uint16_t slot, uint32_t keys)
{
	struct session *s = session_of(c);

	s->watch = watch_new(w, slot);
	s->watch->armed = s->watch->broken = true; /* the owner has not heard of it yet */
	s->watching = true;
	s->watched = keys;
}

void local_watch(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct session *s = session_of(c);
	int slot = dispatch_slot(w, cmd, argc);

	if (s->txn) {
		if (!txn_refuses(w, c, cmd))
			client_error(w, c, "ERR WATCH inside MULTI is not allowed");
		return;
	}
	bool several = slot == -1 || (s->watching && slot != s->watch->slot);
	if (several && !txn_is_one_server(w)) {
		client_error(w, c, "CROSSSLOT Keys in request don't hash to the same slot");
		return;
	}
	if (slot == -1)
		slot = slot_of(w->argv[w->keys[0].index]);
	struct watch *v = watch_for(w, s, (uint16_t)slot);
	struct req *r = req_new(w);
	sds bytes = resp_cat_request(sdsempty(), (int)argc, w->argv);
	s->watched = (s->watching ? s->watched : 0) + argc - 1;
	s->watching = true;
	r->cmd = cmd;
	r->block = block_copy(bytes, sdslen(bytes));
	r->bytes = r->block->data;
	r->len = sdslen(bytes);
	sdsfree(bytes);
	r->slot = v->slot;
	r->watch = v;
	v->refs++;
	client_hold_for(w, c, r);
}

void local_unwatch(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	watch_end(w, c);
	client_reply(w, c, resp_cat_simple(sdsempty(), "OK"));
}
