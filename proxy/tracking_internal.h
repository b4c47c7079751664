/* tracking_internal.h - shared by the files of tracking only: tracking.c, tracking_listen.c, tracking_commands.c, tracking_handover.c. */
#ifndef CROSSFADE_TRACKING_INTERNAL_H
#define CROSSFADE_TRACKING_INTERNAL_H

#include <uthash.h>

#include "proxy/client.h"
#include "proxy/side.h"
#include "proxy/tracking.h"

struct tracking_mode {
	bool bcast, optin, optout, noloop;
	uint64_t redirect;   /* a client's id; 0: itself */
	unsigned redirect_worker;
	sds *prefixes;       /* BCAST: sorted, at least one */
	unsigned nprefixes;
};

struct tracker {
	UT_hash_handle hh;   /* by id */
	uint64_t id;
	struct client *client;
	struct tracking_mode mode;
	bool armed;          /* everything is listened to: it may cache */
	bool caching;        /* CLIENT CACHING was given */
	bool broken;         /* who is to be told has gone */
};

struct told {
	UT_hash_handle hh;   /* by id */
	uint64_t id;
	struct client *client;
};

struct own_write;

struct tracked { /* a key that clients have read */
	UT_hash_handle hh;
	uint64_t *ids;
	uint32_t n, cap;
	size_t len;
	char key[];
};

struct tracking {
	struct worker *worker;
	struct side_connections side;
	struct tracker *trackers;
	struct told *told;
	struct tracked *keys;
	struct own_write *own; /* of clients with NOLOOP */
	size_t bytes;
	uint8_t authority[SLOTS]; /* by which the keys were read */
	uint32_t epoch;
	bool look, covered;
	ev_timer again;           /* not everything is listened to */
	ev_timer settle;          /* a flip was seen: its end */
	struct req **waiting;     /* CLIENT TRACKING ON: answered when everything is listened to */
	unsigned nwaiting;
};

struct tracking *tracking_of(struct worker *w); /* made if need be */
void tracking_mode_release(struct tracking_mode *m);
void tracking_forget_all(struct tracking *x);   /* a null invalidation to everybody */
void tracking_changed(struct tracking *x, const struct slice *keys, uint32_t n);
void tracking_set(struct worker *w, struct client *c, struct tracking_mode *m); /* takes what m holds */
int tracking_keys(struct worker *w, const struct command *cmd, uint32_t argc); /* those of w->argv, in w->keys */
void tracking_unread(struct tracking *x, uint64_t id, struct slice key); /* it is not told of this key */
/* tracking_own.c */
void tracking_read_again(struct tracking *x, uint64_t id, struct slice key);
bool tracking_is_own(struct tracking *x, const struct tracker *t, struct slice key); /* a push: is it about its own write? Once for each push */
void tracking_own_release(struct tracking *x);
void tracking_mark_told(struct worker *w, struct client *c); /* by its mark it is found when something is to be told */
void tracking_wait(struct tracking *x, struct req *r);

#endif
