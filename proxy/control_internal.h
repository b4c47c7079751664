/* control_internal.h - shared by control.c (life), control_io.c (the phases' seam) and status.c. */
#ifndef CROSSFADE_CONTROL_INTERNAL_H
#define CROSSFADE_CONTROL_INTERNAL_H

#include "proxy/admin.h"
#include "proxy/backfill_thread.h"
#include "proxy/control.h"
#include "proxy/discovery.h"
#include "proxy/failing.h"
#include "proxy/fleet.h"
#include "proxy/handover.h"
#include "proxy/journals.h"
#include "proxy/marker_io.h"
#include "proxy/preflight.h"

enum control_state { CONTROL_SEEKING, CONTROL_SERVING, CONTROL_DRAINING, CONTROL_ENDING };

struct throttle {
	int64_t keys_per_s, bytes_per_s;
	bool adaptive;
};

#define CHECK_WAITERS 8
#define LOOKING_MARKER 4u /* beside a bit per side */

struct check_waiter {
	struct answer answer;
	bool cutover;           /* the order waits for the result; else the result is the answer */
	struct order_args args;
};

struct checkup {
	struct preflight *running;
	struct check_waiter waiters[CHECK_WAITERS];
	unsigned nwaiters;
	bool made;
	unsigned errors;        /* of the last result, for the gate */
	char first_error[512];
};

struct control {
	struct ev_loop *loop;
	struct config *config;
	struct state *state;
	enum control_state run;
	int exit_code;
	struct listen_fd listen_fds[LISTENERS_MAX];
	unsigned nlisten_fds, workers;
	struct discovery *discovery[SIDES]; /* NULL: not configured, or finished with */
	struct mailboxes *mail;
	struct journals *journals; /* NULL: plain proxy */
	struct fleet *fleet;
	struct backfill_thread *backfill; /* NULL: plain proxy */
	struct phases *phases;
	struct admin *admin;
	struct throttle throttle;
	ev_timer tick, seek;
	unsigned drained;  /* workers that have answered and mirrored everything, or given up */
	bool drained_clean;
	struct checkup checkup;
	unsigned looking; /* bit per side: phases wait for a refresh of it; LOOKING_MARKER: for the marker behind the target's */
	struct state_record record; /* what phases begin with */
	bool has_record;  /* …and it is on the disk */
	bool unsettled;   /* …but not under its proper name, which the log has told */
	int assume;       /* --assume-authority: enum side, or -1 */
	bool assumed;     /* …made the record */
	struct {
		struct marker_io *io;    /* NULL: no target */
		bool settled;            /* it does not stand in the way of serving */
		bool waited;             /* a target that may yet answer was given more time */
		bool known;              /* `seen` is what the target said when it was asked last; else `why` */
		struct marker seen;
		char why[320];
		char foreign[320];       /* how it contradicts the record; "" */
	} marker;
	struct {                     /* control_lookout.c */
		uint64_t layout;
		int64_t moved_at;        /* last time that slots were seen to be on the move, in control_now(); 0: never */
	} lookout[SIDES];
	struct state_side seen[SIDES];
	struct failing failing[FAILING_KINDS];
	char logfile[4096];
	struct successor *successor; /* control_handover.h; NULL: not listened for */
	bool handed_over;
	struct pumps *pumps;
	struct {                     /* this process took over */
		bool seeking, found; /* not yet: it looks for the servers */
		bool yes;
		struct handed **clients;
		unsigned n, acks;    /* workers that have theirs */
		struct handed_state state;
	} took;
};

static inline bool phase_mirrors(enum phase phase)
{
	return phase != PHASE_PROXY && phase != PHASE_FINISHED;
}

static inline int64_t control_now(const struct control *c)
{
	return (int64_t)(ev_now(c->loop) * 1000);
}

/* Sets the pace of the tick by what the phases wait for. To be called after everything that may have changed it. */
void control_pace(struct control *c);
void control_end_with(struct control *c, int exit_code);
void control_try_serve(struct control *c); /* if all that is needed was seen */
void control_looked(struct control *c, unsigned bit);
void control_adopted(struct control *c); /* a worker has its part of the clients that were handed over */

/* control_preflight.c */
/* A cutover is preceded by a check: true if the order waits for that and will be given to the phases then. */
bool control_check_first(struct control *c, enum order order, const struct order_args *args, struct answer answer);

/* control_marker.c */
void control_marker_begin(struct control *c); /* behind discovery */
/* A refresh of the target has ended, or the phase has changed. */
void control_marker_pulse(struct control *c);
/* It is time to serve, and the target has not said what is there: may it be done without? */
bool control_marker_unknown(struct control *c);
void control_marker_look(struct control *c); /* control_looked(LOOKING_MARKER) when it is known */
void control_marker_put(struct control *c, uint64_t flip, const char *migration, uint64_t epoch);

/* control_lookout.c */
void control_lookout(struct control *c, enum side side); /* a refresh of the side has ended, or shows something new */

/* control_io.c */
extern const struct phase_io control_phase_io;
struct fleet_sums {
	uint64_t clients, commands, effects, queued, queued_bytes, mismatches, snapshots, foreign, strays, dirty_keys, dirty_slots, unknown_outcome;
	int64_t dirty_age_us;
	int64_t lag_us;
};
void control_sums(const struct control *c, struct fleet_sums *sums);
char *control_verify_json(const struct control *c);

#endif
