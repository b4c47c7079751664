/* What others write past a worker, wherever slots go (lookout.c): one worker of two before a cluster whose slots move, in seeded random order of everything that takes time: commands, replies and pushes of each
 * connection, pictures of the slots that are old when they come, lost connections, nodes that join. When a flip has been told that all is watched, its fence has ended what is on its way, and nothing is
 * dirty, then each write of somebody else to a slot of the worker must have been told or compared. Takes the place of the engine, of the connections and of the control thread. LOOKOUT_SEEDS=N: seeds 1 to N. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proxy/discovery_parse.h"
#include "proxy/tracking.h"
#include "proxy/worker.h"
#include "resp/slot.h"

#define NODES 4 /* of the source; the last one joins later */
#define KEYS 4  /* in as many slots of the worker */
#define QUEUE_MAX 256
#define STEPS 600
#define SEEDS 300

enum item_kind { ITEM_ON, ITEM_OFF, ITEM_PING, ITEM_NODES, ITEM_REFUSED, ITEM_REPLY, ITEM_PUSH };

struct item {
	enum item_kind kind;
	reply_fn *fn;
	void *arg;
	char text[400]; /* of a reply */
	int key;        /* of a push */
	unsigned step;  /* when it was sent */
	bool whole;     /* …one for each key of the slot */
	bool ahead;     /* of what was written where the slot was only going to */
};

struct queue {
	struct item at[QUEUE_MAX];
	unsigned n;
};

struct conn {
	struct upstream u;
	struct queue sent, received;
	bool tracking;        /* the server's side of it */
	bool asked;           /* its greeting asked for the watch */
	bool busy;            /* a script runs */
};

struct key {
	char name[16];
	uint16_t slot;
	int owner, mover;               /* node; the one that it is being moved to, or -1 */
	int late;                       /* node that does not know yet that the slot has left it, or -1 */
	unsigned untold[NODES];         /* writes there that nobody will tell of */
	bool slot_dirty, key_dirty;
	unsigned compared, taken_back;  /* when it was last; when a move of it was */
};

struct picture {
	bool taken, migrating;
	unsigned nnodes;
	int owner[KEYS];
};

struct world {
	struct worker w;
	struct fleet fleet;
	struct config config;
	struct conn conn[NODES + 3]; /* the target's one node, and nowhere of each side */
	struct upstream *upstreams[NODES + 3];
	struct key key[KEYS];
	struct picture picture;
	unsigned joined, known;  /* nodes; those that a picture has named: slots are moved to no other, nobody could watch it */
	unsigned step, rarely;   /* …there is a picture */
	uint64_t rng;
	uint64_t flip;
	bool told_ok, calm;
	unsigned flips, refusals, pushes;
	const char *lost;        /* the seed's failure */
};

static struct world *the; /* what the stubs below are about */

static unsigned rnd(unsigned n)
{
	the->rng ^= the->rng << 13;
	the->rng ^= the->rng >> 7;
	the->rng ^= the->rng << 17;
	return (unsigned)(the->rng % n);
}

/* --- the connections --- */

static struct conn *conn_of(struct upstream *u) { return (struct conn *)u; } /* it is the first member */

static struct item *add(struct queue *q, enum item_kind kind)
{
	assert_true(q->n < QUEUE_MAX);
	q->at[q->n] = (struct item){ .kind = kind, .step = the->step };
	return &q->at[q->n++];
}

static struct item take(struct queue *q)
{
	struct item first = q->at[0];

	memmove(q->at, q->at + 1, --q->n * sizeof q->at[0]);
	return first;
}

void upstream_watch(struct upstream *u, bool on)
{
	u->watch = on;
	if (!upstream_is_up(u) || u->watching == on)
		return;
	u->watching = on;
	u->watch_busy = false;
	add(&conn_of(u)->sent, on ? ITEM_ON : ITEM_OFF);
}

void upstream_send(struct upstream *u, int db, const char *p, size_t n, struct block *holder, unsigned replies, reply_fn *fn, void *arg)
{
	struct item *i = add(&conn_of(u)->sent, memmem(p, n, "NODES", 5) ? ITEM_NODES : ITEM_PING);

	(void)db, (void)holder, (void)replies;
	assert_true(upstream_is_up(u));
	i->fn = fn;
	i->arg = arg;
}

void upstream_open(struct upstream *u)
{
	if (u->state == UPSTREAM_DOWN)
		u->state = UPSTREAM_CONNECTING;
}

bool upstream_take_flush(struct upstream *u) { (void)u; return false; }

/* A node's own view: of a slot that has left it, it may not know yet. */
static void say_nodes(int node, char *text, size_t cap)
{
	char line[300];
	int n = snprintf(line, sizeof line, "id :1@2 myself,master - 0 0 1 connected");

	for (int k = 0; k < KEYS; k++)
		if (the->key[k].owner == node || the->key[k].late == node)
			n += snprintf(line + n, sizeof line - (size_t)n, " %u", the->key[k].slot);
	for (int k = 0; k < KEYS; k++)
		if (the->key[k].mover >= 0 && (the->key[k].owner == node || the->key[k].mover == node))
			n += snprintf(line + n, sizeof line - (size_t)n, the->key[k].owner == node ? " [%u->-other]" : " [%u-<-other]", the->key[k].slot);
	snprintf(text, cap, "$%d\r\n%s\r\n", n, line);
}

static void server_step(struct conn *c)
{
	if (!c->sent.n)
		return;
	struct item i = take(&c->sent), *r;
	if (c->busy && i.kind == ITEM_ON) {
		add(&c->received, ITEM_REFUSED);
		return;
	}
	if (i.kind == ITEM_ON || i.kind == ITEM_OFF) {
		c->tracking = i.kind == ITEM_ON;
		return;
	}
	r = add(&c->received, ITEM_REPLY);
	r->fn = i.fn;
	r->arg = i.arg;
	snprintf(r->text, sizeof r->text, "%s", c->busy ? "-BUSY a script\r\n" : "+PONG\r\n");
	if (i.kind == ITEM_NODES && !c->busy)
		say_nodes((int)(c - the->conn), r->text, sizeof r->text);
}

static void client_step(struct conn *c)
{
	char push[100];

	if (!c->received.n)
		return;
	struct item i = take(&c->received);
	if (i.kind == ITEM_REFUSED) {
		c->u.watching = false;
		c->u.watch_busy = true;
		return;
	}
	if (i.kind == ITEM_REPLY) {
		i.fn(i.arg, &(struct reply){ .p = i.text, .n = strlen(i.text) });
		return;
	}
	const char *name = the->key[i.key].name;
	the->key[i.key].slot_dirty |= i.whole;
	int n = snprintf(push, sizeof push, ">2\r\n$10\r\ninvalidate\r\n*1\r\n$%zu\r\n%s\r\n", strlen(name), name);
	lookout_pushed(&the->w, &c->u, slice(push, (size_t)n));
}

/* What was written there may have gone on with its slot since, or have been compared, or be gone. */
static void never_told(struct key *key, const struct item *push, int node)
{
	if (key->compared <= push->step && !(push->ahead && key->taken_back >= push->step))
		key->untold[key->mover == node ? node : key->owner]++;
}

static void lose(struct conn *c)
{
	struct queue sent = c->sent, received = c->received;

	if (!upstream_is_up(&c->u))
		return;
	c->u.state = UPSTREAM_DOWN;
	c->u.watching = c->tracking = false;
	c->u.missed = true;
	c->sent.n = c->received.n = 0;
	for (unsigned i = 0; i < received.n; i++)
		if (received.at[i].kind == ITEM_PUSH)
			never_told(&the->key[received.at[i].key], &received.at[i], (int)(c - the->conn));
		else if (received.at[i].fn)
			received.at[i].fn(received.at[i].arg, &(struct reply){ .why = "lost" });
	for (unsigned i = 0; i < sent.n; i++)
		if (sent.at[i].fn)
			sent.at[i].fn(sent.at[i].arg, &(struct reply){ .why = "lost" });
	lookout_lost(&the->w, &c->u, "lost");
}

/* Only one that somebody opens; and in two steps: the watch may be wanted behind the greeting. */
static void come_up(struct conn *c)
{
	if (c->u.state == UPSTREAM_CONNECTING) {
		c->u.state = UPSTREAM_GREETING;
		c->asked = c->u.watch;
	} else if (c->u.state == UPSTREAM_GREETING) {
		c->u.state = UPSTREAM_UP;
		c->u.watching = c->u.greeted_watch = c->tracking = c->asked;
		upstream_watch(&c->u, c->u.watch);
		lookout_up(&the->w, &c->u);
	}
}

/* --- the engine, and who is told --- */

bool engine_is_mirroring(const struct engine *e) { (void)e; return true; }
void pubsub_look(struct pubsub *p) { (void)p; }
void tracking_look(struct worker *w) { (void)w; }
void engine_key_changed(struct engine *e, enum side side, struct slice key, uint16_t slot) { (void)e, (void)side, (void)key, (void)slot; }
void fleet_tell_void(struct worker *w, const char *why) { (void)w, (void)why; }
void fleet_tell_refresh(struct worker *w, enum side side, const char *why) { (void)w, (void)side, (void)why; }

void engine_foreign(struct engine *e, enum side side, bool routed, uint16_t db, struct slice key, uint16_t slot)
{
	(void)e, (void)side, (void)routed, (void)db, (void)key;
	for (int k = 0; k < KEYS; k++)
		the->key[k].key_dirty |= the->key[k].slot == slot;
	the->pushes++;
}

void engine_slots_dirty(struct engine *e, const struct slot_set *slots, const char *why)
{
	(void)e, (void)why;
	for (int k = 0; k < KEYS; k++)
		the->key[k].slot_dirty |= !slots || slot_set_has(slots, the->key[k].slot);
}

void fleet_tell_watched(struct worker *w, uint64_t flip, bool ok, const char *why)
{
	(void)w;
	assert_int_equal(flip, the->flip);
	assert_true(ok == (*why == '\0'));
	the->told_ok = ok;
	the->refusals += !ok;
	the->flip = ok ? flip : 0;
}

uint16_t worker_upstream(struct worker *w, enum side side, const char *name)
{
	for (uint16_t i = 0; i < NODES + 1; i++)
		if (w->upstreams[i]->side == side && strcmp(w->upstreams[i]->name, name) == 0)
			return i;
	fail_msg("no node %s", name);
	return 0;
}

/* --- what others do --- */

static void others_write(void)
{
	int k = (int)rnd(KEYS);
	struct key *key = &the->key[k];
	int node = key->mover >= 0 && rnd(2) ? key->mover : key->owner; /* one that is not there yet is made where it goes (ASK) */
	struct conn *c = &the->conn[node];

	if (!upstream_is_up(&c->u) || !c->tracking) {
		key->untold[node]++;
		return;
	}
	struct item *push = add(&c->received, ITEM_PUSH);
	push->key = k;
	push->ahead = node != key->owner;
}

static void arrive(struct key *key, int to)
{
	key->untold[to] += key->untold[key->owner];
	key->untold[key->owner] = 0;
	key->late = key->owner;
	key->owner = to;
	key->mover = -1;
}

/* In steps, with RESTORE in the end, of which the new node tells; or at once, as Valkey does, of which it tells nothing: so it does not come back where the worker believes it to be, which nobody would see. */
static void move_key(struct key *key)
{
	if (key->late >= 0) {
		key->late = -1;
	} else if (key->mover >= 0 && !rnd(4)) {
		key->untold[key->mover] = 0; /* taken back: what was made there is lost, whoever made it */
		key->mover = -1;
		key->taken_back = the->step;
	} else if (key->mover >= 0) {
		struct conn *c = &the->conn[key->mover];
		arrive(key, key->mover);
		if (upstream_is_up(&c->u) && c->tracking) {
			struct item *push = add(&c->received, ITEM_PUSH);
			push->key = (int)(key - the->key);
			push->whole = true;
		}
	} else {
		int to = (int)rnd(the->known);
		if (to == key->owner)
			return;
		if (rnd(2))
			key->mover = to;
		else if (to != the->w.route[SIDE_SOURCE][key->slot])
			arrive(key, to);
	}
}

static void move(void)
{
	move_key(&the->key[rnd(KEYS)]);
}

/* What moves comes to an end, and is known everywhere. */
static void settle(struct conn *c)
{
	struct key *key = &the->key[rnd(KEYS)];

	c->busy = false;
	if (the->w.route[SIDE_SOURCE][key->slot] == c - the->conn)
		upstream_open(&c->u); /* as a command for it would */
	if (key->late >= 0 || key->mover >= 0)
		move_key(key);
}

/* --- what the worker is told --- */

static void route(const struct key *key, int node)
{
	if (the->w.route[SIDE_SOURCE][key->slot] == node)
		return;
	the->w.route[SIDE_SOURCE][key->slot] = (uint16_t)node;
	lookout_routed(&the->w, SIDE_SOURCE, key->slot);
}

static void take_picture(void)
{
	struct picture *p = &the->picture;

	if (p->taken)
		return;
	*p = (struct picture){ .taken = true, .nnodes = the->joined };
	for (int k = 0; k < KEYS; k++) {
		p->owner[k] = the->key[k].owner;
		p->migrating |= the->key[k].mover >= 0;
	}
}

static void give_picture(void)
{
	struct picture *p = &the->picture;
	struct topology *t;

	if (!p->taken)
		return;
	p->taken = false;
	the->known = p->nnodes;
	t = topology_new(SIDE_SOURCE, (uint16_t)p->nnodes);
	t->cluster = true;
	for (unsigned i = 0; i < p->nnodes; i++) {
		snprintf(t->nodes[i].name, sizeof t->nodes[i].name, "%s", the->conn[i].u.name);
		t->nodes[i].up = true;
	}
	for (int k = 0; k < KEYS; k++) {
		t->slot_node[the->key[k].slot] = (uint16_t)p->owner[k];
		route(&the->key[k], p->owner[k]);
	}
	topology_unref(the->w.topology[SIDE_SOURCE]);
	the->w.topology[SIDE_SOURCE] = t;
	lookout_topology(&the->w, SIDE_SOURCE);
	if (p->migrating || rnd(2)) /* for a while behind it, and for a flip */
		lookout_everywhere(&the->w, SIDE_SOURCE, p->migrating || the->flip);
}

/* A MOVED, from a node that knows. */
static void redirect(void)
{
	struct key *key = &the->key[rnd(KEYS)];

	if (key->mover < 0)
		route(key, key->owner);
}

/* What is read is what the node has that the route names; of a slot on its way the rest is elsewhere. */
static void compare_key(struct key *key)
{
	uint16_t node = the->w.route[SIDE_SOURCE][key->slot];

	if (node != key->owner || !upstream_is_up(&the->conn[node].u))
		return;
	key->key_dirty = false;
	if (!key->slot_dirty)
		return;
	key->slot_dirty = false;
	key->untold[node] = 0;
	key->compared = the->step;
}

static void compare(void)
{
	for (int k = 0; k < KEYS; k++)
		compare_key(&the->key[k]);
}

/* --- the flip --- */

static bool anything_dirty(void)
{
	for (int k = 0; k < KEYS; k++)
		if (the->key[k].slot_dirty || the->key[k].key_dirty)
			return true;
	return false;
}

/* What is in flight ends. */
static void drain(void)
{
	for (int i = 0; i < NODES + 1; i++)
		for (struct conn *c = &the->conn[i]; c->sent.n + c->received.n > 0;) {
			server_step(c);
			client_step(c);
			lookout_turn(&the->w);
		}
}

/* While it is raised nobody writes any more. */
static void fence(void)
{
	drain();
	if (anything_dirty())
		return; /* it waits */
	the->told_ok = false;
	the->flip = 0;
	if (!lookout_is_ready(&the->w))
		return; /* it is undone */
	the->flips++;
	for (int k = 0; k < KEYS; k++)
		for (int i = 0; i < NODES; i++)
			if (the->key[k].untold[i])
				the->lost = "a write of somebody else was neither told nor compared before the flip";
	lookout_everywhere(&the->w, SIDE_SOURCE, false);
	lookout_everywhere(&the->w, SIDE_TARGET, false);
}

static void flip(void)
{
	static uint64_t ids;

	if (the->told_ok) {
		fence();
	} else if (!the->flip) {
		the->flip = ++ids;
		lookout_flip(&the->w, the->flip, false);
	}
}

/* --- the world --- */

/* Others write, slots move and connections are lost for a while, then not, for another while: a flip is made in the second. */
static void trouble(struct conn *c)
{
	switch (rnd(5)) {
	case 0: case 1: others_write(); break;
	case 2: case 3: move(); break;
	default: rnd(8) ? come_up(c) : lose(c);
	}
	c->busy = !rnd(20);
	if (!rnd(50))
		the->joined = NODES;
}

static void step(void)
{
	struct conn *c = &the->conn[rnd(NODES + 1)];

	if (!rnd(25))
		the->calm = !the->calm;
	switch (rnd(16)) {
	case 0: case 1: case 2: case 3: server_step(c); break;
	case 4: case 5: case 6: case 7: client_step(c); break;
	case 8: if (!rnd(the->rarely)) take_picture(); break;
	case 9: give_picture(); break;
	case 10: redirect(); break;
	case 11: compare(); break;
	case 12: come_up(c); break;
	case 13: flip(); break;
	default: the->calm ? settle(c) : trouble(c);
	}
	lookout_turn(&the->w);
}

static void init_nodes(struct worker *w)
{
	for (uint16_t i = 0; i < NODES + 3; i++) {
		struct upstream *u = &the->conn[i].u;
		u->owner = &w->owner;
		u->side = i < NODES || i == NODES + 1 ? SIDE_SOURCE : SIDE_TARGET;
		u->state = i <= NODES && i != NODES - 1 ? UPSTREAM_UP : UPSTREAM_DOWN;
		snprintf(u->name, sizeof u->name, "n%d", i);
		the->upstreams[i] = u;
	}
	w->upstreams = the->upstreams;
	w->nupstreams = NODES + 3;
	w->nowhere[SIDE_SOURCE] = NODES + 1;
	w->nowhere[SIDE_TARGET] = NODES + 2;
}

static void begin(uint64_t seed)
{
	struct worker *w = &the->w;
	unsigned made = 0;

	the->rng = seed * 0x9E3779B97F4A7C15u + 1;
	the->config.mirror_tracking = true;
	the->fleet.config = &the->config;
	the->fleet.nworkers = 1 + (seed % 8 != 0);
	w->fleet = &the->fleet;
	w->owner.ctx = w;
	db_set_add(&w->used, 0);
	the->joined = the->known = NODES - 1;
	the->rarely = 1 + seed % 3 * 5;
	init_nodes(w);
	memset(the->fleet.owner, 1, sizeof the->fleet.owner);
	for (unsigned i = 0; i < SLOTS; i++)
		w->route[SIDE_TARGET][i] = NODES;
	while (made < KEYS) {
		struct key *key = &the->key[made];
		snprintf(key->name, sizeof key->name, "key:%u", made++);
		key->slot = slot_of(slice(key->name, strlen(key->name)));
		key->mover = key->late = -1;
		key->owner = (int)rnd(2); /* so that the worker has none on the others */
		the->fleet.owner[key->slot] = 0;
		w->route[SIDE_SOURCE][key->slot] = (uint16_t)key->owner;
	}
	w->topology[SIDE_TARGET] = topology_new(SIDE_TARGET, 1);
	snprintf(w->topology[SIDE_TARGET]->nodes[0].name, sizeof w->topology[SIDE_TARGET]->nodes[0].name, "n%d", NODES);
	w->topology[SIDE_TARGET]->nodes[0].up = true;
	lookout_begin(w, true);
	drain(); /* only then is anything copied */
	take_picture();
	give_picture();
}

static unsigned play(uint64_t seed, const char **lost, unsigned *flips)
{
	the = calloc(1, sizeof *the);
	assert_non_null(the);
	begin(seed);
	for (the->step = 1; the->step <= STEPS && !the->lost; the->step++)
		step();
	unsigned pushes = the->pushes;
	*lost = the->lost;
	*flips += the->flips;
	topology_unref(the->w.topology[SIDE_SOURCE]);
	topology_unref(the->w.topology[SIDE_TARGET]);
	free(the);
	return pushes;
}

static void test_nothing_is_lost(void **state)
{
	const char *more = getenv("LOOKOUT_SEEDS"), *lost;
	unsigned seeds = more ? (unsigned)atoi(more) : SEEDS, flips = 0, pushes = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= seeds; seed++) {
		pushes += play(seed, &lost, &flips);
		if (lost)
			fail_msg("seed %llu: %s", (unsigned long long)seed, lost);
	}
	print_message("%u seeds, %u flips, %u pushes\n", seeds, flips, pushes);
	assert_true(flips > seeds / 2 && pushes > seeds);
}

#ifdef CROSSFADE_FAULTS
/* Each rule is needed: without it some seed loses something. */
static void test_mutants_lose(void **state)
{
	static const char *const mutants[] = { "lookout-claims", "lookout-came", "lookout-missed" };
	const char *lost;
	unsigned flips = 0;

	(void)state;
	for (unsigned i = 0; i < sizeof mutants / sizeof mutants[0]; i++) {
		setenv("CROSSFADE_FAULT", mutants[i], 1);
		lost = NULL;
		for (uint64_t seed = 1; seed <= 50 * SEEDS && !lost; seed++) {
			play(seed, &lost, &flips);
			if (lost)
				print_message("%s: seed %llu\n", mutants[i], (unsigned long long)seed);
		}
		unsetenv("CROSSFADE_FAULT");
		if (!lost)
			fail_msg("the mutant %s loses nothing", mutants[i]);
	}
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_is_lost),
#ifdef CROSSFADE_FAULTS
		cmocka_unit_test(test_mutants_lose),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
