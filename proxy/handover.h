/* handover.h - clients on their way from one process to its successor: the words of the protocol, and a client as a record. No I/O, no client structs; any thread.
 *
 * The protocol (docs/upgrade.md draws it): both sides send records; a record is a RESP request, so that one robust parser reads all of it. Numbers are decimal.
 *
 *   successor ─ hello PROTOCOL VERSION {option text} ──►
 *             ◄─ welcome ; listener KIND (its descriptor with it) … ─  or refused TEXT: nothing has changed, and the connection ends
 *   successor ─ ready ──►                  the servers were seen: from here on clients wait
 *             ◄─ state {name value} ; client {name value} (its descriptor with it) … ; end N ─  or refused TEXT
 *   successor ─ have ──►                   everything was read and can be served
 *             ◄─ go ─                      the point of no return: the lock on the state directory will be free soon
 *
 * A record that is not understood whole is refused: what it means must not be guessed. So PROTOCOL grows with every field. */
#ifndef CROSSFADE_HANDOVER_H
#define CROSSFADE_HANDOVER_H

#include <hiredis/sds.h>
#include <stdbool.h>
#include <stdint.h>

#include "resp/parse.h"
#include "proxy/receivers.h"

#define HANDOVER_PROTOCOL 1
#define HANDOVER_SOCKET "handover" /* in the state directory */

extern const struct resp_limits handover_limits;

/* What may not differ between the two, by option name; NULL ends it. */
extern const char *const handover_options[];

struct handed_text {
	sds text;
	uint8_t kind; /* of a subscription: enum topic_kind; of a queued command: the proxy answers it */
};

struct handed_list {
	struct handed_text *at;
	uint32_t n, cap;
};

/* A client between requests. 0 and NULL are what most have. */
struct handed {
	int fd;           /* not in the record; -1: none. Owned */
	int64_t redirect_worker; /* not in the record: where the client goes to whom it redirects */
	int64_t id, db, proto, since_ms, seen_us, quiet;
	int64_t no_evict, no_touch, monitor, closing, logged_in;
	int64_t waits, wait_since_us, wait_slot, until_us; /* its input begins with a blocking command; of this slot; which ends then (CLOCK_MONOTONIC), 0: never */
	int64_t multi, multi_failed;        /* MULTI is open */
	int64_t watching, watch_slot;       /* so many keys: EXEC will answer null */
	int64_t told;                       /* invalidations of others are redirected to it */
	int64_t tracks, bcast, optin, optout, noloop, caching, redirect, redirect_broken;
	int64_t capa_redirect;
	sds user, name, lib_name, lib_ver, last; /* last: its last command's full name */
	sds out, in;                        /* bytes not yet written to it; read from it, not yet looked at */
	struct handed_list topics, queued, prefixes;
};

/* What the successor goes on with that is no client's. */
struct handed_state {
	int64_t next_client_id;
	int64_t pause, pause_until_ms;      /* CLIENT PAUSE */
	int64_t keys_per_s, bytes_per_s, adaptive; /* the throttle */
};

void handed_add(struct handed_list *l, uint8_t kind, const char *p, size_t n);
void handed_release(struct handed *h); /* closes fd, too */

sds handed_cat(sds s, const struct handed *h);
sds handed_state_cat(sds s, const struct handed_state *st);

/* Of a parsed request, the words of which refer to base. False: why says what is wrong; *h is released. */
bool handed_parse(const struct resp_request *p, const char *base, struct handed *h, char *why, size_t whylen);
bool handed_state_parse(const struct resp_request *p, const char *base, struct handed_state *st, char *why, size_t whylen);

#endif
