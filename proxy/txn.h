/* txn.h - a transaction: MULTI … EXEC, queued at its client's worker (home), sent to the slot's owner as one request, answered as one array.
 *
 *   MULTI ──► open: each command is checked as a server checks it and answered QUEUED, or refused, which makes EXEC fail
 *   EXEC ───► a request whose bytes are MULTI, the commands, EXEC; commands that the proxy answers itself stand beside (`own`)
 *   reply ──► EXEC's array: the client gets each element as its own command's reply, the proxy's own answers in their places, and not what the
 *             owner asked for itself (`hidden`)
 *
 * Ownership: of the session while open, of the request from EXEC on (req_free frees it). The commands' list is home's; while the owner has the request it
 * sets `hidden` and uses what is said to be its. Memory: TXN_BYTES_MAX a client. Thread: as the request's. */
#ifndef CROSSFADE_TXN_H
#define CROSSFADE_TXN_H

#include <hiredis/sds.h>
#include <stdbool.h>
#include <stdint.h>

#include "resp/table.h"

#define TXN_BYTES_MAX (512u * 1024 * 1024) /* queued commands of one client: as much as one bulk may have */

struct block;
struct client;
struct req;
struct resp_request;
struct worker;

struct txn_command {
	const struct command *cmd;
	size_t at, len;   /* its bytes in the request; of a local one in `own` */
	bool local;       /* the proxy answers it when EXEC's reply is there */
	bool own;         /* the proxy's own question, about the command before it: the client does not get the answer */
	uint32_t hidden;  /* the owner's: elements behind its own that the client does not get */
	/* when EXEC's reply is there, for a local one may change them */
	uint8_t proto;
	bool quiet;       /* CLIENT REPLY: left out of the array, as the servers do */
	sds answer;       /* a local one's */
	bool subscribes;  /* …is the confirmation of a SUBSCRIBE */
};

struct txn {
	struct txn_command *commands;
	uint32_t n, cap;
	uint32_t sent;    /* of them in the block */
	uint32_t own_questions; /* …that are the proxy's own */
	bool over_all;    /* one is about the whole keyspace, of which our own keys are no part */
	sds bytes, own;
	int slot;         /* of the first key; -1: no key yet */
	bool asks_server; /* about no slot, but the whole server: DBSIZE, KEYS … */
	bool spans;       /* keys of several slots, or a question to a whole server: for a standalone one only */
	bool write;
	bool failed;      /* a command was refused: EXEC answers EXECABORT */
	char exec[4];     /* as the client spelt it */
	bool own_done;    /* the local ones were asked for their answers */
	uint32_t unanswered; /* of them: others are asked first */
	/* the owner's */
	uint32_t awaited; /* replies still to come */
	sds refused;      /* the first error among the answers to queued commands */
};

/* What a client has that few have. Made when it is first wanted, freed with the client. */
struct session {
	struct txn *txn;  /* in MULTI; NULL: not */
	struct watch *watch; /* made by the first WATCH; NULL: none */
	bool watching;    /* something is watched: EXEC goes to the watch's connection */
	uint32_t watched; /* …so many keys */
	bool waits;       /* its input begins with a blocking command that waited already (handover_client.h)… */
	uint16_t wait_slot; /* …for keys of this slot… */
	int64_t until_us; /* …until then; 0: for ever */
	double wait_since; /* when the last one came */
	struct tracker *tracker; /* tracking.h; NULL: it does not track */
	struct told *told;       /* …nor is it told what others track */
	bool capa_redirect; /* CLIENT CAPA: shown in its line, and nothing else, for nobody is redirected here */
	struct req *exec; /* answers of the proxy's own are an element of its array; NULL: replies */
	uint32_t element;
};

struct session *session_of(struct client *c);
void session_free(struct client *c);
void txn_free(struct txn *t);

/* MULTI is open: queues the command, or refuses it. */
void txn_queue(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc, const struct resp_request *p, const char *bytes);
/* By the flag: true, answered, and the transaction has failed. */
bool txn_refuses(struct worker *w, struct client *c, const struct command *cmd);
/* A command was refused before it could be queued. */
void txn_failed(struct client *c);
/* EXEC with a wrong number of words: the transaction ends. */
void txn_abort(struct worker *w, struct client *c, const char *why);
/* RESET, DISCARD, a failed EXEC: no MULTI, nothing watched. */
void txn_drop(struct worker *w, struct client *c);
/* Keys of any slots in one transaction: the server is one, and so is the owner of all slots. */
bool txn_is_one_server(const struct worker *w);
/* EXEC came back unanswered: a flip to a cluster lay between, and its keys have several slots. */
void txn_crosses(struct req *r);
/* EXEC's reply is there: the commands that the proxy answers are done now. False: some wait for other workers; client_done comes again. */
bool txn_complete(struct worker *w, struct client *c, struct req *r);
void txn_take_answer(struct client *c, sds reply); /* session->exec: that element's answer, which remains the caller's */
void txn_await(struct client *c, struct req *r);   /* …will be r's */
void txn_answered(struct worker *w, struct req *r); /* r is done */
/* In another process it was queued: MULTI is open, with this command as a request that is whole. */
void txn_restore(struct worker *w, struct client *c, bool local, const char *bytes, size_t n);
/* The reply to EXEC goes into the client's output. */
void txn_emit(struct worker *w, struct client *c, struct req *r);

#endif
