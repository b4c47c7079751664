/* phases_internal.h - shared by phases.c, phases_verify.c, gates.c and flip.c, and nobody else. */
#ifndef CROSSFADE_PHASES_INTERNAL_H
#define CROSSFADE_PHASES_INTERNAL_H

#include "proxy/phases.h"

#define START_LIMIT_MS 15000
#define VERIFY_WAITERS 8

enum start_state {
	START_IDLE,
	START_LOOKING,   /* waits for phases_looked */
	START_MIRRORING, /* phase mirror is recorded; waits for every worker's phases_mirror_ready */
};

enum flip_state {
	FLIP_IDLE,
	FLIP_WAITING,    /* for dirty and lag, until wait_until; nothing is held */
	FLIP_WATCHING,   /* the gates hold and the marker is there; waits for every phases_watched; nothing is held */
	FLIP_MARKING,    /* the gates hold, the marker is put on the target; nothing is held */
	FLIP_FENCING,    /* requests are held; waits for every phases_fenced, until the deadline */
	FLIP_SETTLING,   /* all are drained; waits for every phases_settled (subscribers), until the same deadline */
	FLIP_RECORDING,  /* the record was issued and its outcome is unknown: tried again until one is durable; requests are held */
	FLIP_RELEASING,  /* the record is durable; waits for every phases_flipped */
};

struct flip {
	enum flip_state state;
	uint64_t id;
	enum side to;
	bool force, partial, marked;
	bool watched, unwatched; /* by every worker; by force, though not so */
	struct slot_set slots;
	unsigned nslots, max_pause_ms, attempts;
	int64_t wait_until, retry_at, fenced_at, deadline; /* the deadline of the watch, the marker, then of the fence */
	bool *acked; /* by worker */
	unsigned nacked;
	struct state_record next;
	struct answer answer;
	uint32_t histogram[FLIP_BUCKETS];
	struct last_flip result;
	char skipped[128]; /* names of gates that --force skipped, comma-separated */
};

struct phases {
	const struct phase_io *io;
	void *ctx;
	unsigned workers;
	struct state_record rec; /* what is durable, as far as is known */
	uint64_t durable_epoch;
	bool rewrite;            /* the last write failed and may have left another record: write again */
	int64_t rewrite_at;
	struct {
		enum start_state state;
		bool *ready;
		unsigned nready;
		int64_t deadline;
		struct answer answer; /* fn NULL: after a restart nobody waits */
	} start;
	struct {
		bool running, repair;
		uint64_t runs_before;
		unsigned voids_before, nwaiters;
		struct answer waiters[VERIFY_WAITERS];
	} verify;
	unsigned voids;
	char void_why[512];      /* of the last void that no clean verify has followed */
	bool walk_due;           /* what was copied before the start may have been changed, unseen, or the target may hold more: compared when the copying ends */
	unsigned walk_awaited;   /* workers that have not marked their slots yet */
	struct state_side sides[SIDES];
	struct flip flip;
	struct last_flip last_flip;
};

void phases_answer_text(struct answer *a, enum answer_code code, const char *text);
void phases_answer(struct answer *a, enum answer_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Writes the record with a higher epoch; false: err says why and p->rec is as it was (it is written again, later, if the outcome is unknown). */
bool phases_commit(struct phases *p, const struct state_record *next, char *err, size_t errlen);

/* phases_verify.c */
void verify_order(struct phases *p, const struct order_args *args, struct answer answer);
void verify_tick(struct phases *p, const struct phase_facts *f);
void verify_end(struct phases *p);

/* gates.c: what must hold before a flip. */
#define GATES 8
struct gate {
	const char *name;
	bool ok;
	bool waits;      /* may become ok by waiting */
	bool skippable;  /* by force */
	bool unreachable; /* exit code 69 */
	char text[640];  /* what is so; if not ok, what to do */
};
bool gates_settled(const struct phase_facts *f); /* what is dirty will be settled as it comes */
unsigned gates_check(const struct phases *p, const struct phase_facts *f, enum side to, bool partial, struct gate *gates);
char *gates_json(const struct gate *gates, unsigned n);

/* flip.c */
void flip_order(struct phases *p, enum side to, const struct order_args *args, struct answer answer, int64_t now);
void flip_tick(struct phases *p, const struct phase_facts *f, int64_t now);
void flip_end(struct phases *p);
unsigned slots_on(const struct state_record *r, enum side side);

#endif
