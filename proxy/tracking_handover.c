/* CLIENT TRACKING of clients on their way from one process to another. */
#include <stdlib.h>

#include "proxy/handover.h"
#include "proxy/tracking_internal.h"

void tracking_hand(const struct client *c, struct handed *h)
{
	const struct tracker *t = c->session->tracker;

	h->told = c->session->told != NULL;
	if (!t)
		return;
	h->tracks = true;
	h->bcast = t->mode.bcast;
	h->optin = t->mode.optin;
	h->optout = t->mode.optout;
	h->noloop = t->mode.noloop;
	h->caching = t->caching;
	h->redirect = (int64_t)t->mode.redirect;
	h->redirect_broken = t->broken;
	for (unsigned i = 0; i < t->mode.nprefixes; i++)
		handed_add(&h->prefixes, 0, t->mode.prefixes[i], sdslen(t->mode.prefixes[i]));
}

static void restore_mode(struct worker *w, struct client *c, const struct handed *h)
{
	struct tracking_mode m = { .bcast = h->bcast, .optin = h->optin, .optout = h->optout, .noloop = h->noloop, .redirect = (uint64_t)h->redirect,
		.redirect_worker = (unsigned)h->redirect_worker };

	m.nprefixes = h->prefixes.n;
	m.prefixes = h->prefixes.n ? calloc(h->prefixes.n, sizeof *m.prefixes) : NULL;
	if (h->prefixes.n && !m.prefixes)
		abort();
	for (unsigned i = 0; i < m.nprefixes; i++)
		m.prefixes[i] = sdsdup(h->prefixes.at[i].text);
	tracking_set(w, c, &m);
	struct tracker *t = c->session->tracker;
	t->caching = h->caching;
	t->broken = h->redirect_broken;
	t->armed = true; /* it is told to forget everything when all is listened to */
	w->tracking->look = true;
}

void tracking_restore(struct worker *w, struct client *c, const struct handed *h)
{
	if (h->told)
		tracking_mark_told(w, c);
	if (h->tracks)
		restore_mode(w, c, h);
}
