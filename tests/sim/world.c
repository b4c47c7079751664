/* A seed's world: its profile, its schedule, and how it comes to rest. */
#include "sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "resp/slot.h"

int sim_theme = -1;

#define REST_STEPS 400000
#define HOT_STEPS 100000

uint64_t rnd(struct world *w, uint64_t n)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return (w->random >> 11) % n;
}

void sim_fail(struct world *w, const char *fmt, ...)
{
	char text[700];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	fflush(stdout);
	if (sim_failed)
		sim_failed(w->seed, text);
	fprintf(stderr, "sim: seed %llu: %s\n", (unsigned long long)w->seed, text);
	abort();
}

void sim_trace(struct world *w, const char *fmt, ...)
{
	va_list ap;

	printf("%9.3f ms  ", (double)w->now_us / 1000);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

int key_index(struct world *w, struct slice name)
{
	(void)w;
	if (name.n != 4 || name.p[0] != '{' || name.p[2] != '}' || name.p[1] < 'a' || name.p[1] >= 'a' + TAGS || name.p[3] < '0' ||
	    name.p[3] >= '0' + KEYS_PER_TAG)
		return -1;
	return (name.p[1] - 'a') * KEYS_PER_TAG + name.p[3] - '0';
}

int tag_index(struct world *w, uint16_t slot)
{
	for (int tag = 0; tag < TAGS; tag++)
		if (w->slot[tag] == slot)
			return tag;
	return -1;
}

/* --- birth --- */

static void late_theme(struct profile *p)
{
	switch (sim_theme) {
	case 15: /* the state directory is lost with the process (race 15) */
		p->forgets = p->kills = p->calm = true;
		p->foreign = p->flush = p->hidden = p->scripts = p->failovers = p->losses = p->moves = p->marks = p->narrow = p->slow = p->few_dirty = p->small_inband = false;
		break;
	case 16: /* a backfill worker that reads whether there is a token or not (invariant 3) */
		p->careless = p->slow = p->calm = true;
		p->foreign = p->flush = p->hidden = p->scripts = p->failovers = p->losses = p->kills = p->moves = p->marks = p->narrow = p->few_dirty = p->small_inband = false;
		break;
	case 17: /* nodes that refuse a slot for a moment, while it moves or not */
		p->unserved = p->moves = true;
		p->foreign = p->flush = p->hidden = p->scripts = p->failovers = p->kills = p->marks = p->narrow = p->slow = p->few_dirty = p->small_inband = false;
		break;
	case 18: /* commands of several slots on a standalone server whose connection breaks */
		p->wide = p->losses = p->alone_source = true;
		p->foreign = p->flush = p->hidden = p->scripts = p->failovers = p->kills = p->marks = p->narrow = p->slow = p->few_dirty = p->small_inband = false;
		break;
	case 19: /* writes of many keys, settled part by part, while writes, marks and flips meet their parts */
		p->crowds = p->scripts = p->calm = true;
		p->foreign = p->flush = p->hidden = p->failovers = p->losses = p->marks = p->kills = p->moves = p->narrow = p->slow = p->few_dirty = p->small_inband = false;
		break;
	default:
		break;
	}
}

/* What chance alone brings together too seldom. */
static void theme(struct world *w, struct profile *p)
{
	int drawn = (int)rnd(w, 11); /* the later ones are played on demand, and by some seeds */

	switch (sim_theme >= 0 ? sim_theme : drawn) {
	case 0: /* flips, while what scripts did is told late (race 9) */
		p->scripts = p->stalls = p->calm = true;
		p->foreign = p->failovers = p->losses = p->kills = p->moves = p->slow = p->marks = p->narrow = p->small_inband = false;
		break;
	case 1: /* copies that were read long before they arrive (races 4, 5) */
		p->late = p->slow = p->marks = p->calm = true;
		p->failovers = one_in(w, 2);
		p->foreign = p->flush = !p->failovers;
		p->stalls = p->losses = p->kills = p->moves = p->narrow = p->small_inband = false;
		break;
	case 2: /* keys computed from keys that a script has just written (race 12) */
		p->contagion = p->scripts = p->calm = true;
		p->narrow = p->marks = p->failovers = p->losses = p->kills = p->few_dirty = p->small_inband = p->slow = false;
		break;
	case 3: /* a backfill worker that hears late of a new primary (race 8) */
		p->deaf = p->late = p->slow = p->marks = p->calm = p->foreign = p->failovers = p->laggy = true;
		p->hidden = p->cycles_mixed = p->stalls = p->losses = p->flush = p->kills = p->moves = p->narrow = p->small_inband = false;
		break;
	case 4: /* a follower that lags while everything of a slot goes (race 2) */
		p->lag = p->foreign = p->flush = true;
		p->failovers = p->losses = p->scripts = p->hidden = p->cycles_mixed = p->kills = p->moves = p->narrow = p->marks = p->slow = p->few_dirty = false;
		break;
	case 5: /* in-band reads among bypassers (race 4) */
		p->eager = p->foreign = p->marks = true;
		p->hidden = p->cycles_mixed = p->kills = p->moves = p->narrow = p->slow = p->few_dirty = p->failovers = p->losses = p->flush = p->small_inband = false;
		break;
	case 6: /* connections that are younger than the writes (race 3) */
		p->young = p->laggy = p->losses = p->failovers = p->calm = true;
		p->scripts = p->expires = p->dance = p->foreign = p->flush = p->hidden = p->kills = p->moves = p->narrow = p->marks = p->slow = p->few_dirty = p->small_inband = false;
		break;
	case 7: /* what was owed when the process was killed is in the journal and nowhere else (race 6) */
		p->kills = p->lag = true;
		p->foreign = p->flush = p->hidden = p->scripts = p->failovers = p->losses = p->moves = p->marks = false;
		break;
	case 8: /* scripts and bypassers, told of to a process that is killed (race 6) */
		p->kills = p->foreign = p->scripts = true;
		p->flush = p->hidden = p->failovers = p->losses = p->moves = p->marks = false;
		break;
	case 9: /* bytes of a connection given up, which arrive long after (race 7) */
		p->losses = p->zombies = p->calm = true;
		p->foreign = p->flush = p->hidden = p->scripts = p->failovers = p->kills = p->moves = p->marks = p->narrow = p->slow = p->few_dirty = p->small_inband = false;
		break;
	case 10: /* a client that watches, on a connection that is behind the others', while all flips (race 14) */
		p->watch = p->calm = true;
		p->flush = p->hidden = p->failovers = p->kills = p->moves = p->narrow = p->slow = p->few_dirty = p->small_inband = false;
		break;
	case 11: /* FLUSHALL by clients, some killed in its middle (race 5) */
		p->alone = p->kills = true;
		p->foreign = p->flush = p->hidden = p->scripts = p->failovers = p->losses = p->moves = p->marks = false;
		break;
	case 14: /* keys that are written to just when they expire (race 1) */
		p->expires = p->dance = true;
		p->foreign = p->flush = p->hidden = p->scripts = p->failovers = p->losses = p->kills = p->moves = p->marks = p->narrow = p->slow = p->few_dirty = p->small_inband = false;
		break;
	case 13: /* scripts that write keys of other slots, while parts of the slots would flip (race 13) */
		p->strays = p->scripts = p->calm = true;
		p->foreign = p->flush = p->hidden = p->failovers = p->kills = p->losses = p->narrow = p->slow = p->few_dirty = p->small_inband = p->records_fail = false;
		break;
	case 12: /* …among bypassers and faults */
		p->alone = true;
		break;
	default:
		late_theme(p);
	}
}

static void draw_profile(struct world *w)
{
	struct profile *p = &w->profile;

	p->expires = one_in(w, 2);
	p->dance = p->expires && one_in(w, 2);
	p->foreign = one_in(w, 3);
	p->cycles_mixed = one_in(w, 2);
	p->hidden = p->cycles_mixed && one_in(w, 2);
	p->scripts = one_in(w, 3);
	p->moves = one_in(w, 3);
	p->failovers = one_in(w, 3);
	p->losses = one_in(w, 3);
	p->kills = one_in(w, 4);
	p->records_fail = one_in(w, 3);
	p->flush = p->foreign && one_in(w, 3);
	p->wide = one_in(w, 2);
	p->small_inband = one_in(w, 6);
	p->few_dirty = one_in(w, 6);
	p->few_known = one_in(w, 4);
	p->narrow = one_in(w, 6);
	p->hot = one_in(w, 8);
	p->ack_both = one_in(w, 4);
	p->calm = one_in(w, 2);
	p->laggy = one_in(w, 2);
	p->slow = one_in(w, 3);
	p->marks = one_in(w, 3);
	p->stalls = one_in(w, 2);
	p->watch = one_in(w, 4);
	theme(w, p);
	p->alone |= sim_theme < 0 && w->seed % 16 == 5;
	p->unserved |= sim_theme < 0 && w->seed % 8 == 3;
	p->alone_source |= sim_theme < 0 && w->seed % 16 == 6;
	p->crowds |= sim_theme < 0 && w->seed % 4 == 2;
	p->cluster[SIDE_SOURCE] = !one_in(w, 4) && !p->alone_source;
	p->cluster[SIDE_TARGET] = !one_in(w, 4);
	p->steps = 2000 + (unsigned)rnd(w, 6000);
}

void world_engine(struct world *w, const uint8_t *authority, bool mirror)
{
	const struct profile *p = &w->profile;
	struct engine_options o = { .mirror = mirror, .ack_both = p->ack_both, .queue_max = p->narrow ? 4000 : 1 << 20, .dirty_max = p->few_dirty ? 2 : 100,
		.known_max = p->few_known ? 2 : 100, .request_max = 1 << 20, .inband_max = p->small_inband ? 60 : 1 << 20, .resend_us = 60000, .crowd_least = p->crowds ? 2 : 0 };
	static uint8_t mine[SLOTS];
	static bool synced[SLOTS];
	struct engine_io io;

	memset(mine, 0, sizeof mine);
	memset(synced, 0, sizeof synced);
	for (int tag = 0; tag < TAGS; tag++) {
		mine[w->slot[tag]] = 1;
		synced[w->slot[tag]] = mirror && w->backfill.unit[tag].state == UNIT_DONE && (w->side[SIDE_SOURCE].is_cluster || copies_done(w));
	}
	o.journal = w->journal;
	o.script_us = &w->script_us;
	net_io(w, &io);
	memset(w->stats, 0, sizeof *w->stats);
	w->engine = engine_new(&io, &o, authority, synced, mine, w->stats);
}

static void fill(struct world *w)
{
	struct cluster *c = &w->side[SIDE_SOURCE];

	for (int key = 0; key < KEYS; key++) {
		struct value v = { .expire_ms = w->profile.expires && one_in(w, 4) ? EPOCH_MS + 20 + (int64_t)rnd(w, 500) : -1 };
		if (one_in(w, 4))
			continue;
		v.type = key % KEYS_PER_TAG == 0 ? TYPE_STRING : key % KEYS_PER_TAG == 1 ? TYPE_HASH : TYPE_SET;
		v.len = 1;
		v.text[0] = '7';
		v.mask = 1 + (uint32_t)rnd(w, (1 << FIELDS) - 1);
		v.members = 1 + rnd(w, 1000000);
		c->node[c->owner[tag_of(key)]].data[key] = v;
	}
	for (int i = 0; i < NODES; i++)
		for (int key = 0; key < KEYS; key++)
			if (!w->profile.deaf || one_in(w, 2)) /* else the replica has yet to hear of it */
				c->node[i].replica[key] = c->node[i].data[key];
}

static void build_side(struct world *w, enum side s)
{
	struct cluster *c = &w->side[s];

	c->is_cluster = w->profile.cluster[s];
	c->nnodes = c->is_cluster ? NODES : 1;
	c->clock_ms = w->profile.expires ? (int64_t)rnd(w, 17) - 8 : 0;
	c->worker.generation = c->bulk.generation = 1;
	for (int tag = 0; tag < TAGS; tag++) {
		c->owner[tag] = (uint8_t)rnd(w, c->nnodes);
		c->moving_to[tag] = NODES;
		c->known[tag] = c->worker.route[tag] = c->bulk.route[tag] = c->owner[tag];
	}
	for (unsigned i = 0; i < NODES; i++) {
		c->node[i].conn.up = true;
		for (int key = 0; key < KEYS; key++)
			c->node[i].data[key].expire_ms = c->node[i].replica[key].expire_ms = -1;
	}
}

struct world *world_new(uint64_t seed)
{
	struct world *w = calloc(1, sizeof *w);

	w->seed = seed;
	w->random = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	for (int i = 0; i < 8; i++)
		rnd(w, 2);
	w->stats = calloc(1, sizeof *w->stats);
	w->disk = calloc(1, sizeof *w->disk);
	w->backfill.held_tag = -1;
	draw_profile(w);
	for (int key = 0; key < KEYS; key++) {
		snprintf(w->key[key], sizeof w->key[key], "{%c}%d", 'a' + tag_of(key), key % KEYS_PER_TAG);
		w->slot[tag_of(key)] = slot_of(key_name(w, key));
	}
	for (enum side s = SIDE_SOURCE; s < SIDES; s++)
		build_side(w, s);
	fill(w);
	w->journal = journal_new_in_memory(w->profile.narrow ? 2 : 256);
	world_engine(w, w->disk->authority, false);
	sim_control_new(w);
	return w;
}

void world_free(struct world *w)
{
	sim_control_free(w);
	engine_free(w->engine);
	journal_free(w->journal);
	sdsfree(w->watcher.seen);
	sdsfree(w->watcher.exec_seen);
	net_zombies_go(w);
	free(w->stats);
	free(w->disk);
	free(w);
}

/* --- the schedule --- */

/* …and then nobody touches the keys until the dirty slots were walked: a write would move the versions that the event should have moved. */
bool late_hush(struct world *w)
{
	return w->profile.late && w->load && w->count.flushes + w->count.failovers > 0 && !copies_done(w);
}

/* The one event of a late profile comes in the middle of the scan, when copies of keys that the follower has not got yet are on their way. */
bool late_is_due(struct world *w)
{
	return w->backfill.running && w->backfill.nitems > 4 && !copies_done(w) && w->count.flushes + w->count.failovers == 0 && one_in(w, 12);
}

static struct server *some_node(struct world *w, enum side s)
{
	return &w->side[s].node[rnd(w, w->side[s].nnodes)];
}

static void trouble_step(struct world *w)
{
	const struct profile *p = &w->profile;
	enum side s = (enum side)rnd(w, SIDES);
	struct cluster *c = &w->side[s];

	if (p->moves)
		move_step(w, c);
	if (p->failovers && (p->late ? s == SIDE_SOURCE && late_is_due(w) : one_in(w, p->young ? 50 : 30)))
		failover_step(w, c);
	if (p->losses && one_in(w, p->young ? 16 : 20))
		conn_lose(w, s, some_node(w, s));
	if (p->losses && one_in(w, 40))
		watcher_lose(w, false);
	if (p->kills && one_in(w, 100))
		sim_kill(w);
}

static void housekeeping_step(struct world *w)
{
	enum side s = (enum side)rnd(w, SIDES);

	if (one_in(w, 2))
		refresh_step(w, s);
	reconnect_step(w, s, some_node(w, s));
	judge_hidden(w, (int)rnd(w, KEYS));
	if (w->load && w->profile.marks && !late_hush(w) && (!w->profile.late || one_in(w, 4))) { /* a verify with repair */
		int key = (int)rnd(w, KEYS);
		engine_mark(w->engine, 0, key_name(w, key), slot_of_key(w, key));
	}
	if (one_in(w, w->profile.young ? 60 : w->profile.laggy ? 40 : 3))
		replicate_step(w, &w->side[s]);
}

static void deliver(struct world *w, enum side s)
{
	if (w->load && w->profile.lag && !one_in(w, 4) && s != authority_of(w, 0))
		return;
	for (unsigned i = 1 + (unsigned)rnd(w, 4); i > 0; i--)
		deliver_step(w, s, some_node(w, s));
	watcher_deliver(w);
}

/* Who acts next; the weights are such that most things are under way at once, and a repair ends before its key is written to again as often as not. */
static void step(struct world *w, bool hot)
{
	enum side s = (enum side)rnd(w, SIDES);
	uint64_t lot = rnd(w, 40);

	w->now_us += (int64_t)rnd(w, 300);
	if (hot)
		hot_step(w);
	if (lot < 4 && late_hush(w)) {
		/* nobody writes */
	} else if (lot < 4) {
		if (w->load && (lot == 0 || !w->profile.calm))
			client_step(w);
		if (w->load && w->profile.contagion && one_in(w, 10))
			contagion_step(w);
		if (w->load && w->profile.crowds && one_in(w, 3))
			crowd_step(w);
		if (w->load && w->profile.dance && one_in(w, 3))
			dance_step(w);
	} else if (lot < 16) {
		if (!w->load || !w->profile.lag || one_in(w, 4) || s == authority_of(w, 0))
			server_step(w, &w->side[s], some_node(w, s));
	} else if (lot < 26) {
		deliver(w, s);
	} else if (lot < 32) {
		copies_step(w);
	} else if (lot < 35) {
		for (unsigned i = 1 + (unsigned)rnd(w, 6); i > 0; i--)
			rescan_step(w);
	} else if (lot < 39) {
		engine_turn(w->engine);
		if (w->profile.alone)
			alone_step(w);
		sim_control_step(w);
		if (w->load && one_in(w, 4))
			sim_control_order(w);
	} else {
		housekeeping_step(w);
		if (w->load)
			trouble_step(w);
	}
}

static bool clean(const struct world *w)
{
	return !atomic_load(&w->stats->dirty_keys) && !atomic_load(&w->stats->dirty_slots);
}

static bool at_rest(const struct world *w)
{
	return w->answered == w->submitted && net_quiet(w) && w->alone.stage == FLUSH_NONE && copies_quiet(w) && sim_control_quiet(w) && engine_settled(w->engine);
}

static void rest(struct world *w)
{
	for (int i = 0; i < REST_STEPS; i++) {
		if (i % 64 == 0 && at_rest(w))
			return;
		step(w, false);
	}
	sim_fail(w, "it does not come to rest: %u of %u answered, %llu dirty keys, %llu dirty slots, %llu queued, %u copies, walks %s, network %s, control %s, engine %s", w->answered,
		 w->submitted, (unsigned long long)atomic_load(&w->stats->dirty_keys), (unsigned long long)atomic_load(&w->stats->dirty_slots),
		 (unsigned long long)atomic_load(&w->stats->queued), w->backfill.nitems, copies_quiet(w) ? "done" : "under way", net_quiet(w) ? "quiet" : "busy", sim_control_quiet(w) ? "quiet" : "busy",
		 engine_idle(w->engine) ? "idle" : "busy");
}

/* Race 11: everything else rests, one key is written without a pause, and becomes clean nevertheless. */
static void stay_hot(struct world *w)
{
	if (!engine_is_mirroring(w->engine))
		return;
	engine_mark(w->engine, 0, key_name(w, HOT_KEY), slot_of_key(w, HOT_KEY));
	for (int i = 0; i < HOT_STEPS; i++) {
		step(w, true);
		if (i > 100 && clean(w) && !w->backfill.nitems)
			return;
	}
	sim_fail(w, "a key that is written all the time is never copied");
}

/* All lives of milliseconds end: what is left must be equal to the last bit. */
static void pass_time(struct world *w)
{
	w->now_us += 5000000;
	for (enum side s = SIDE_SOURCE; s < SIDES; s++)
		for (unsigned i = 0; i < w->side[s].nnodes; i++)
			for (int key = 0; key < KEYS; key++)
				node_expire(w, &w->side[s], &w->side[s].node[i], key);
}

void world_run(struct world *w)
{
	w->load = true;
	for (unsigned i = 0; i < w->profile.steps; i++)
		step(w, false);
	w->load = false;
	server_finish_moves(w);
	if (w->profile.hot && w->profile.steps > 3000)
		stay_hot(w);
	rest(w);
	pass_time(w);
	rest(w);
	judge_end(w);
}
