/* handover_client.h - the clients of one worker on their way to another process, or from one (docs/upgrade.md).
 *
 *   the process that goes                                        the one that comes
 *   handover_still   no new requests; what waits is taken back   handover_adopt   clients as they were, held
 *     └ all clients are between requests ─► HANDING_STILL          └ subscriptions stand ─► HANDING_ADOPTED
 *   handover_empty   the follower has everything, or 0.5 s       handover_go_on
 *     └ ─► HANDING_EMPTY
 *   handover_pack    nothing moves any more
 *     └ ─► HANDING_PACKED: each client is a parcel
 *   handover_go_on, if it came to nothing; or handover_leave, at the end of the thread
 *
 * Each stage is told to control once. Only when every worker is still may the next stage begin anywhere: until then requests of another worker's clients may arrive.
 * Thread: the worker's; the parcels are control's to read from HANDING_PACKED until the next call. */
#ifndef CROSSFADE_HANDOVER_CLIENT_H
#define CROSSFADE_HANDOVER_CLIENT_H

#include <hiredis/sds.h>
#include <stdbool.h>
#include <stdint.h>

struct client;
struct handed;
struct req;
struct worker;

enum handing_stage { HANDING_STILL, HANDING_EMPTY, HANDING_PACKED, HANDING_ADOPTED };

struct parcel {
	sds record; /* handover.h */
	int fd;     /* the client's; of a TLS client an end of a pair of sockets. Not owned */
};

struct left_tls { /* a TLS client: what it sends goes through `plain` to the other process, and back (pump.h) */
	struct client *client;
	struct tls *tls; /* from handover_leave on; NULL: it has gone */
	int fd, plain;
	int given;       /* the pair's other end, until handover_leave */
};

struct handing {
	enum handing_stage stage;
	bool told, failed;
	double since;
	struct parcel *parcels;
	unsigned nparcels;
	struct left_tls *tls;
	unsigned ntls;
};

void handover_still(struct worker *w);
void handover_empty(struct worker *w);
void handover_pack(struct worker *w);
void handover_go_on(struct worker *w);
void handover_leave(struct worker *w);
void handover_free(struct worker *w);
void handover_adopt(struct worker *w, struct handed **clients, unsigned n); /* takes them */

bool handover_stopped(const struct worker *w); /* nothing is to be done at the end of a turn */
void handover_turn(struct worker *w);
/* r was taken back from its owner, unanswered: whoever goes on with the client begins with it. */
void handover_keep_waiting(struct client *c, const struct req *r);

#endif
