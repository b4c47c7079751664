/* preflight.h - `proxyctl check`: whether this migration can be expected to go well, as a list of lines, each OK, WARN or ERR with what to do.
 *
 *   preflight_new ─► asks every primary of both sides on connections of its own ─all answered or lost─► judges ─► fn(…), once
 *
 * Nothing on either side is changed, and nothing blocks: what a node does not answer in time is a line of its own. The lines come from these files:
 *   preflight.c          life, questions, the report
 *   preflight_answers.c  what the replies mean
 *   preflight_servers.c  versions, memory, eviction, clocks, clusters, replicas, databases
 *   preflight_data.c     modules, payloads, types of values, functions
 *   preflight_rights.c   what the accounts may do
 *   preflight_traffic.c  what the applications use
 * Thread: control. */
#ifndef CROSSFADE_PREFLIGHT_H
#define CROSSFADE_PREFLIGHT_H

#include <ev.h>

#include "proxy/discovery.h"
#include "proxy/fleet.h"
#include "proxy/state.h"

struct preflight_input {
	struct ev_loop *loop;
	const struct config *config;
	enum phase phase;
	struct {
		bool configured;           /* false: no such side, or let go */
		struct topology *topology; /* NULL: not seen yet; a reference is taken */
		struct side_facts facts;
	} sides[SIDES];
	const struct fleet *fleet;
	double limit_s;                    /* what is not answered by then is a line */
	uint64_t uncarried;                /* keys that the backfill could not carry */
};

struct preflight_result {
	unsigned warnings, errors;
	const char *first_error;           /* its text and what to do; "" */
	const char *json;                  /* array of {"check", "level", "text", "todo"} */
};

struct preflight;
/* The result lives during the call. NULL: preflight_free came first. fn may free the preflight. */
typedef void preflight_fn(void *arg, const struct preflight_result *result);

struct preflight *preflight_new(const struct preflight_input *in, preflight_fn *fn, void *arg);
void preflight_free(struct preflight *p);

#endif
