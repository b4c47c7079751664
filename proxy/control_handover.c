#include "proxy/control_handover.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backfill/fault.h"
#include "proxy/control_internal.h"
#include "proxy/handover.h"
#include "proxy/handover_client.h"
#include "proxy/handover_wire.h"
#include "proxy/log.h"
#include "resp/digits.h"

#define OFFER_LIMIT_S 60.0 /* for the successor to find the servers */
#define STILL_LIMIT_S 5.0  /* for what is in flight, and the rest, before clients go on here */
#define WIRE_LIMIT_S 5     /* for each write of what is handed over, and for the successor's word on it */

enum successor_state { SUCCESSOR_NONE, SUCCESSOR_HERE, SUCCESSOR_OFFERED, SUCCESSOR_STILL, SUCCESSOR_EMPTY, SUCCESSOR_PACKING };

struct successor {
	struct control *control;
	char path[4200];
	int listen_fd;
	ev_io accept, io;
	ev_timer limit;
	enum successor_state state;
	struct wire wire;
	unsigned attempt, acks, settled;
	ev_tstamp still_since;
	char who[64];
};

static struct successor *of(const struct control *c)
{
	return c->successor;
}

/* ---- states ---- */

static void set_state(struct successor *s, enum successor_state state)
{
	s->state = state;
	s->acks = 0;
}

static void part(struct successor *s)
{
	ev_io_stop(s->control->loop, &s->io);
	ev_timer_stop(s->control->loop, &s->limit);
	wire_release(&s->wire);
	set_state(s, SUCCESSOR_NONE);
}

/* Clients go on here. */
static void undo(struct successor *s, const char *why)
{
	if (s->state == SUCCESSOR_NONE)
		return;
	log_warning("take-over by %s: not done: %s", s->who, why);
	wire_say(&s->wire, "refused", why, -1);
	if (s->state >= SUCCESSOR_STILL)
		fleet_go_on(s->control->fleet);
	part(s);
	control_pace(s->control);
}

static void limit(struct successor *s, double after)
{
	ev_timer_stop(s->control->loop, &s->limit);
	ev_timer_set(&s->limit, after, 0.);
	ev_timer_start(s->control->loop, &s->limit);
}

static void on_limit(struct ev_loop *loop, ev_timer *t, int revents)
{
	static const char *const late[] = {
		[SUCCESSOR_HERE] = "it did not say what it wants", [SUCCESSOR_OFFERED] = "it did not find the servers in time",
		[SUCCESSOR_STILL] = "what clients have in flight did not end in time: a server is slow, or a command that waits for one",
		[SUCCESSOR_EMPTY] = "the workers did not come to rest in time", [SUCCESSOR_PACKING] = "the workers did not come to rest in time",
	};
	struct successor *s = t->data;

	(void)loop;
	(void)revents;
	undo(s, late[s->state]);
}

/* ---- what is said ---- */

/* What would be broken off in its middle, or could not be undone by both; NULL: nothing. */
static const char *busy(const struct control *c)
{
	if (c->run != CONTROL_SERVING)
		return "it is ending";
	if (*phases_activity(c->phases))
		return "a migration is just starting, or a flip is under way: wait for its end";
	if (phases_verifying(c->phases))
		return "a verify is running: wait for its end";
	return NULL;
}

static bool judge_option(const struct control *c, struct slice name, struct slice value, char *why, size_t n)
{
	char option[64];

	snprintf(option, sizeof option, "%.*s", (int)(name.n < 60 ? name.n : 60), name.p);
	char *mine = config_get(c->config, option);
	bool same = mine && slice_eq(slice(mine, strlen(mine)), value);
	if (!same)
		snprintf(why, n, "%s differs: '%.100s' here, '%.*s' there; expected the same, for connections stay where they are", option, mine ? mine : "", (int)(value.n < 100 ? value.n : 100),
			 value.p);
	free(mine);
	return same;
}

/* hello PROTOCOL VERSION {option text} */
static bool judge_hello(struct successor *s, char *why, size_t n)
{
	const struct wire *w = &s->wire;
	int64_t protocol = 0;
	unsigned wanted = 0;

	resp_string_to_int(wire_word(w, 1).p, wire_word(w, 1).n, &protocol);
	snprintf(s->who, sizeof s->who, "crossfade %.*s", (int)(wire_word(w, 2).n < 40 ? wire_word(w, 2).n : 40), wire_word(w, 2).p);
	if (protocol != HANDOVER_PROTOCOL) {
		snprintf(why, n, "it speaks protocol %lld of the take-over, this is crossfade %s with protocol %d: stop this one and start the other", (long long)protocol,
			 PACKAGE_VERSION, HANDOVER_PROTOCOL);
		return false;
	}
	while (handover_options[wanted])
		wanted++;
	if (w->request.argc != 3 + 2 * wanted) {
		snprintf(why, n, "its greeting is not understood");
		return false;
	}
	for (uint32_t i = 3; i < w->request.argc; i += 2)
		if (!judge_option(s->control, wire_word(w, i), wire_word(w, i + 1), why, n))
			return false;
	const char *what = busy(s->control);
	if (what)
		snprintf(why, n, "%s", what);
	return !what;
}

static void take_hello(struct successor *s)
{
	const struct control *c = s->control;
	char why[600];
	char text[24];

	if (!judge_hello(s, why, sizeof why)) {
		undo(s, why);
		return;
	}
	snprintf(text, sizeof text, "%u", c->nlisten_fds);
	bool ok = wire_say(&s->wire, "welcome", text, -1);
	for (unsigned i = 0; ok && i < c->nlisten_fds; i++)
		ok = wire_say(&s->wire, "listener", c->listen_fds[i].tls ? "tls" : "plain", c->listen_fds[i].fd);
	if (!ok) {
		undo(s, "it has gone");
		return;
	}
	set_state(s, SUCCESSOR_OFFERED);
	limit(s, OFFER_LIMIT_S);
	log_notice("take-over by %s: it has the listeners and looks for the servers", s->who);
}

static void take_ready(struct successor *s)
{
	const char *why = busy(s->control);

	if (why) {
		undo(s, why);
		return;
	}
	set_state(s, SUCCESSOR_STILL);
	s->attempt++;
	s->still_since = ev_time();
	limit(s, STILL_LIMIT_S);
	fleet_still(s->control->fleet, s->attempt);
	crash_point("handover-still");
}

static void on_successor(struct ev_loop *loop, ev_io *io, int revents)
{
	struct successor *s = io->data;
	char why[300];

	(void)loop;
	(void)revents;
	if (s->state >= SUCCESSOR_STILL) { /* it has nothing to say now: it has gone */
		undo(s, "it has gone");
		return;
	}
	if (!wire_read(&s->wire, why, sizeof why))
		undo(s, why);
	else if (s->state == SUCCESSOR_HERE && slice_is(wire_word(&s->wire, 0), "hello"))
		take_hello(s);
	else if (s->state == SUCCESSOR_OFFERED && slice_is(wire_word(&s->wire, 0), "ready"))
		take_ready(s);
	else
		undo(s, "it says what nobody asked for");
}

/* ---- handing over ---- */

static sds state_record(const struct control *c)
{
	struct handed_state st = { .next_client_id = fleet_next_client(c->fleet), .keys_per_s = c->throttle.keys_per_s, .bytes_per_s = c->throttle.bytes_per_s,
		.adaptive = c->throttle.adaptive };

	fleet_pause_state(c->fleet, &st);
	return handed_state_cat(sdsempty(), &st);
}

static bool send_clients(struct successor *s, unsigned *n)
{
	struct control *c = s->control;
	sds state = state_record(c);
	bool ok = wire_send(&s->wire, state, sdslen(state), -1);

	sdsfree(state);
	for (unsigned i = 0; ok && i < c->workers; i++) {
		const struct handing *g = fleet_handing(c->fleet, i);
		ok = !g->failed;
		for (unsigned k = 0; ok && k < g->nparcels; k++, ++*n)
			ok = wire_send(&s->wire, g->parcels[k].record, sdslen(g->parcels[k].record), g->parcels[k].fd);
	}
	return ok;
}

/* Everything stands still, so this may take its time; no longer than the limits of the wire. */
static void hand_over(struct successor *s)
{
	struct control *c = s->control;
	char why[300] = "it could not be given everything", count[24];
	unsigned n = 0;

	wire_limit(&s->wire, WIRE_LIMIT_S);
	if (!send_clients(s, &n)) {
		undo(s, why);
		return;
	}
	crash_point("handover-sent");
	snprintf(count, sizeof count, "%u", n);
	if (!wire_say(&s->wire, "end", count, -1) || !wire_read(&s->wire, why, sizeof why)) {
		undo(s, why);
		return;
	}
	if (!slice_is(wire_word(&s->wire, 0), "have")) {
		struct slice text = wire_word(&s->wire, 1);
		snprintf(why, sizeof why, "it refuses: %.*s", (int)(text.n < 250 ? text.n : 250), text.p);
		undo(s, why);
		return;
	}
	if (!wire_say(&s->wire, "go", NULL, -1)) {
		undo(s, "it has gone");
		return;
	}
	crash_point("handover-go");
	c->handed_over = true;
	log_notice("take-over by %s: %u clients are its, %.0f ms after they were asked to wait; nothing is served here any more", s->who, n,
		   (ev_time() - s->still_since) * 1e3);
	control_end_with(c, 0);
}

static void all_empty(struct successor *s)
{
	if (s->acks != s->control->workers || s->settled != s->control->workers)
		return;
	set_state(s, SUCCESSOR_PACKING);
	fleet_pack(s->control->fleet, s->attempt);
}

void successor_settled(struct control *c, unsigned worker)
{
	struct successor *s = of(c);

	(void)worker;
	if (!s || s->state != SUCCESSOR_EMPTY)
		return;
	s->settled++; /* a node that is not there is no reason to wait: nothing comes from it */
	all_empty(s);
}

void control_handing(struct control *c, unsigned attempt, unsigned stage)
{
	struct successor *s = of(c);

	if (stage == HANDING_ADOPTED) {
		control_adopted(c);
		return;
	}
	if (!s || attempt != s->attempt || (stage == HANDING_STILL && s->state != SUCCESSOR_STILL) || (stage == HANDING_EMPTY && s->state != SUCCESSOR_EMPTY) ||
	    (stage == HANDING_PACKED && s->state != SUCCESSOR_PACKING))
		return; /* of an attempt that was undone */
	s->acks++;
	if (stage == HANDING_EMPTY) {
		all_empty(s);
	} else if (s->acks == c->workers && stage == HANDING_STILL) {
		set_state(s, SUCCESSOR_EMPTY);
		s->settled = 0;
		fleet_empty(c->fleet, s->attempt);
		fleet_settle(c->fleet, HANDOVER_FLIP);
	} else if (s->acks == c->workers) {
		hand_over(s);
	}
}

/* ---- the socket ---- */

static bool is_same_user(int fd)
{
	struct ucred peer;
	socklen_t n = sizeof peer;

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) == 0 && peer.uid == geteuid();
}

static void on_accept(struct ev_loop *loop, ev_io *io, int revents)
{
	struct successor *s = io->data;
	int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC);

	(void)revents;
	if (fd < 0)
		return;
	if (s->state != SUCCESSOR_NONE || !is_same_user(fd)) {
		struct wire w;
		wire_init(&w, fd);
		wire_say(&w, "refused", s->state != SUCCESSOR_NONE ? "another take-over is under way" : "it is another user's: start it as the user of the process that runs", -1);
		wire_release(&w);
		return;
	}
	wire_init(&s->wire, fd);
	wire_limit(&s->wire, 1); /* who says half a word holds the control thread for so long, and no longer */
	set_state(s, SUCCESSOR_HERE);
	snprintf(s->who, sizeof s->who, "a process");
	ev_io_init(&s->io, on_successor, fd, EV_READ);
	s->io.data = s;
	ev_io_start(loop, &s->io);
	limit(s, WIRE_LIMIT_S);
}

void successor_listen(struct control *c)
{
	struct successor *s = calloc(1, sizeof(*s));
	char err[600];

	if (!s)
		abort();
	s->control = c;
	s->wire.fd = -1;
	snprintf(s->path, sizeof s->path, "%s/%s", c->config->state_dir, HANDOVER_SOCKET);
	s->listen_fd = listen_bind_unix("state-dir", s->path, 0600, err, sizeof err);
	if (s->listen_fd < 0 || listen(s->listen_fd, 4) < 0) {
		log_warning("no other process can take over from this one: %s", s->listen_fd < 0 ? err : strerror(errno));
		if (s->listen_fd >= 0)
			close(s->listen_fd);
		free(s);
		return;
	}
	ev_init(&s->limit, on_limit);
	ev_io_init(&s->accept, on_accept, s->listen_fd, EV_READ);
	s->accept.data = s->limit.data = s;
	ev_io_start(c->loop, &s->accept);
	c->successor = s;
}

void successor_unlisten(struct control *c)
{
	struct successor *s = of(c);

	if (!s)
		return;
	part(s);
	ev_io_stop(c->loop, &s->accept);
	close(s->listen_fd);
	unlink(s->path);
	free(s);
	c->successor = NULL;
}

bool successor_is_there(const struct control *c)
{
	return c->successor && of(c)->state >= SUCCESSOR_OFFERED;
}

bool successor_stops_clients(const struct control *c)
{
	return c->successor && of(c)->state >= SUCCESSOR_STILL;
}

void successor_abort(struct control *c, const char *why)
{
	if (c->successor)
		undo(of(c), why);
}
