/* Lines about the servers themselves: versions, what is there already, room, eviction, clocks, clusters, replicas, databases. */
#include <stdlib.h>

#include "proxy/preflight_internal.h"

#define CLOCK_WARN_MS 500
#define CLOCK_ERR_MS 60000
#define VERSION(major, minor) ((uint32_t)(major) << 16 | (uint32_t)(minor) << 8)

typedef unsigned long long ull;

static const char *megabytes(uint64_t n, char out[32])
{
	snprintf(out, 32, "%.1f MB", (double)n / 1048576);
	return out;
}

/* ---- versions ---- */

static void judge_versions(struct preflight *p, enum side side)
{
	const struct check_side *s = &p->sides[side];
	const struct node_info *first = NULL;
	char label[64], primaries[32];

	for (unsigned i = 0; i < s->nnodes; i++) {
		const struct node_info *info = &s->nodes[i].info;
		if (!info->there)
			continue;
		if (first && (first->version != info->version || first->product != info->product)) {
			say(p, LEVEL_WARN, "version", "finish the upgrade of that side first: the lowest version counts for everything",
			    "the nodes of the %s are not of one version: %s and %s", side_name(side), first->version_text, info->version_text);
			return;
		}
		first = first ? first : info;
	}
	if (!first)
		return;
	side_label(s, side, label);
	snprintf(primaries, sizeof(primaries), s->topology->cluster ? " of %u primaries" : "", s->nnodes);
	if (side == SIDE_SOURCE && first->version < VERSION(7, 0))
		say(p, LEVEL_ERR, "version", "upgrade it to 7.0 or later first", "%s is older than 7.0", label);
	else if (side == SIDE_SOURCE && first->product == PRODUCT_REDIS && first->version >= VERSION(8, 1))
		say(p, LEVEL_WARN, "version", "try the migration with a copy of the data first", "%s is newer than what is tested (Redis 7.0 to 8.0)", label);
	else if (side == SIDE_TARGET && first->product == PRODUCT_REDIS)
		say(p, LEVEL_WARN, "version", "is this the server that you mean? Crossfade is made and tested for Valkey 8.0 to 9.1",
		    "%s is no Valkey", label);
	else if (side == SIDE_TARGET && (first->version < VERSION(8, 0) || first->version >= VERSION(9, 2)))
		say(p, LEVEL_WARN, "version", "take a version that is tested, or try the migration with a copy of the data first",
		    "%s is not among what is tested (Valkey 8.0 to 9.1)", label);
	else
		say(p, LEVEL_OK, "version", NULL, "%s, %s%s", label, s->topology->cluster ? "cluster" : "standalone", primaries);
}

/* ---- room ---- */

struct room {
	uint64_t used, limit; /* over all primaries */
	bool bounded;         /* by maxmemory, on every node */
	bool known;
};

static struct room room_of(const struct check_side *s)
{
	struct room r = { .bounded = true };

	for (unsigned i = 0; i < s->nnodes; i++) {
		const struct node_info *info = &s->nodes[i].info;
		if (!info->there)
			continue;
		r.used += info->used_memory;
		r.limit += info->maxmemory ? info->maxmemory : info->system_memory;
		r.bounded &= info->maxmemory > 0;
		r.known = true;
	}
	return r;
}

/* What the target still has to take: after the copy its own use holds the source's data. */
static void judge_memory(struct preflight *p)
{
	struct room source = room_of(&p->sides[SIDE_SOURCE]), target = room_of(&p->sides[SIDE_TARGET]);
	uint64_t need = p->in.phase == PHASE_PROXY ? source.used : source.used > target.used ? source.used - target.used : 0;
	uint64_t room = target.limit > target.used ? target.limit - target.used : 0;
	const char *by = target.bounded ? "maxmemory" : "memory of its machines";
	char a[32], b[32], c[32];

	if (!source.known || !target.known || target.limit == 0)
		return;
	if (need > room)
		say(p, LEVEL_ERR, "memory", "raise maxmemory of the target, or give it more nodes",
		    "the source uses %s, of which the target still has to take %s, and the target has room for %s (%s)", megabytes(source.used, a),
		    megabytes(need, b), megabytes(room, c), by);
	else if (need > room / 10 * 8)
		say(p, LEVEL_WARN, "memory", "leave the target more headroom: raise its maxmemory, or give it more nodes",
		    "the target still has to take %s and has room for %s (%s): little is left", megabytes(need, b), megabytes(room, c), by);
	else
		say(p, LEVEL_OK, "memory", NULL, "the source uses %s, the target has room for %s (%s)", megabytes(source.used, a), megabytes(room, c), by);
}

static bool evicts(const struct node_info *i)
{
	return i->maxmemory > 0 && *i->policy && strcmp(i->policy, "noeviction") != 0;
}

static const struct node_info *evicting_node(const struct check_side *s)
{
	for (unsigned i = 0; i < s->nnodes; i++)
		if (s->nodes[i].info.there && evicts(&s->nodes[i].info))
			return &s->nodes[i].info;
	return NULL;
}

static void judge_eviction(struct preflight *p)
{
	const struct check_side *t = &p->sides[SIDE_TARGET];
	const struct node_info *source = evicting_node(&p->sides[SIDE_SOURCE]), *target = evicting_node(t);
	uint64_t evicted = 0;

	for (unsigned i = 0; i < t->nnodes; i++)
		evicted += t->nodes[i].info.evicted;
	if (target)
		say(p, LEVEL_WARN, "eviction", "set maxmemory-policy noeviction on the target until the migration is finished",
		    "the target evicts keys when it is full (maxmemory-policy %s)%s: a verify would find them missing", target->policy,
		    evicted ? ", and has done so" : "");
	else if (source)
		say(p, LEVEL_WARN, "eviction", "is the source a cache? then set the same maxmemory-policy on the target after finish; until then give it room",
		    "the source evicts keys when it is full (maxmemory-policy %s), the target would refuse writes instead", source->policy);
	else
		say(p, LEVEL_OK, "eviction", NULL, "neither side evicts keys");
}

/* ---- clocks ---- */

struct clocks {
	bool known;
	int64_t min_ms, max_ms; /* against this machine */
};

static struct clocks clocks_of(const struct check_side *s)
{
	struct clocks c = { 0 };

	for (unsigned i = 0; i < s->nnodes; i++) {
		int64_t ms = s->nodes[i].clock_offset_us / 1000;
		if (s->nodes[i].round_trip_us < 0)
			continue;
		c.min_ms = !c.known || ms < c.min_ms ? ms : c.min_ms;
		c.max_ms = !c.known || ms > c.max_ms ? ms : c.max_ms;
		c.known = true;
	}
	return c;
}

static int64_t further(int64_t a, int64_t b)
{
	return llabs(a) > llabs(b) ? a : b;
}

static void judge_clocks(struct preflight *p)
{
	struct clocks s = clocks_of(&p->sides[SIDE_SOURCE]), t = clocks_of(&p->sides[SIDE_TARGET]);
	int64_t between = further(t.max_ms - s.min_ms, t.min_ms - s.max_ms); /* the target's clock minus the source's */

	if (!s.known || !t.known)
		return;
	if (llabs(between) >= CLOCK_ERR_MS)
		say(p, LEVEL_ERR, "clock", "set the clocks (NTP) before the migration",
		    "the target's clock is %lld s %s the source's: keys would live that much %s after the cutover", (long long)llabs(between) / 1000,
		    between > 0 ? "ahead of" : "behind", between > 0 ? "shorter" : "longer");
	else if (llabs(between) >= CLOCK_WARN_MS)
		say(p, LEVEL_WARN, "clock", "set the clocks (NTP)", "the clocks of source and target differ by %lld ms: so do the moments at which keys expire",
		    (long long)llabs(between));
	else
		say(p, LEVEL_OK, "clock", NULL, "the clocks of source and target differ by at most %lld ms", (long long)llabs(between));
	int64_t ours = further(further(s.min_ms, s.max_ms), further(t.min_ms, t.max_ms));
	if (llabs(ours) >= CLOCK_WARN_MS)
		say(p, LEVEL_WARN, "clock", "set the clock of this machine (NTP): crossfade goes by the servers' clocks, but its log does not",
		    "a server's clock differs from this machine's by %lld ms", (long long)ours);
}

/* ---- clusters ---- */

static void judge_slots(struct preflight *p, enum side side)
{
	const struct check_side *s = &p->sides[side];
	unsigned missing = 0, first = 0, failing = 0;

	for (unsigned slot = SLOTS; slot-- > 0;)
		if (s->topology->slot_node[slot] == NODE_NONE) {
			missing++;
			first = slot;
		}
	for (unsigned i = 0; i < s->nnodes; i++)
		failing += s->nodes[i].cluster_fails;
	if (missing)
		say(p, LEVEL_ERR, "slots", "repair that cluster: CLUSTER ADDSLOTS, or valkey-cli --cluster fix", "%u slots of the %s have no node, the first is %u", missing,
		    side_name(side), first);
	else if (failing)
		say(p, LEVEL_ERR, "slots", "look at CLUSTER INFO and CLUSTER NODES there, and repair that cluster", "%u nodes of the %s say that its state is not ok", failing,
		    side_name(side));
	else if (s->topology->migrating)
		say(p, LEVEL_WARN, "slots", "let the resharding end before start and before a cutover", "slots of the %s are being moved", side_name(side));
	else if (s->topology->cluster)
		say(p, LEVEL_OK, "slots", NULL, "every slot of the %s has a node, none is on the move", side_name(side));
}

static void judge_replicas(struct preflight *p)
{
	const struct check_side *s = &p->sides[SIDE_SOURCE], *t = &p->sides[SIDE_TARGET];
	unsigned source = 0, without = 0;

	for (unsigned i = 0; i < s->nnodes; i++)
		source += s->nodes[i].info.replicas > 0;
	for (unsigned i = 0; i < t->nnodes; i++)
		without += t->nodes[i].info.there && t->nodes[i].info.replicas == 0;
	if (without)
		say(p, LEVEL_WARN, "replicas", "add replicas before the cutover, or accept that a node that is lost takes its data with it",
		    "%u of %u primaries of the target have no replica%s", without, t->nnodes, source ? ", those of the source have" : "");
	else
		say(p, LEVEL_OK, "replicas", NULL, "every primary of the target has a replica");
}

/* ---- databases, and what is there already ---- */

static void judge_databases(struct preflight *p)
{
	const struct check_side *s = &p->sides[SIDE_SOURCE];
	uint64_t keys = 0, last = 0;

	for (unsigned i = 0; i < s->nnodes; i++) {
		keys += s->nodes[i].info.keys_beyond;
		last = s->nodes[i].info.last_db > last ? s->nodes[i].info.last_db : last;
	}
	if (keys == 0) {
		say(p, LEVEL_OK, "databases", NULL, "the source uses database 0 only");
		return;
	}
	for (unsigned i = 0; i < SIDES; i++) {
		const struct topology *t = p->sides[i].topology;
		if (!t || last < t->databases)
			continue;
		say(p, LEVEL_ERR, "databases", i == SIDE_SOURCE ? "allow its service account SELECT" :
		    "raise databases (of a Valkey 9 cluster: cluster-databases) on the target and restart it, or take a standalone target",
		    "the source has %llu key%s in databases 1 to %llu, and the %s lets us select %u database%s", (ull)keys, PLURAL(keys), (ull)last,
		    side_name(i), t->databases, PLURAL(t->databases));
		return;
	}
	say(p, LEVEL_OK, "databases", NULL, "the source has %llu key%s in databases 1 to %llu, which the target has", (ull)keys, PLURAL(keys), (ull)last);
}

static void judge_empty(struct preflight *p)
{
	const struct check_side *t = &p->sides[SIDE_TARGET];
	uint64_t keys = 0;

	if (p->in.phase != PHASE_PROXY)
		return;
	for (unsigned i = 0; i < t->nnodes; i++)
		keys += t->nodes[i].info.keys;
	if (keys == 0)
		say(p, LEVEL_OK, "empty", NULL, "the target holds no keys");
	else if (p->in.config->target_may_hold_keys)
		say(p, LEVEL_WARN, "empty", "be sure that these keys may be overwritten, and removed where the source has none of them",
		    "the target already holds %llu key%s (target-not-empty allow)", (ull)keys, PLURAL(keys));
	else
		say(p, LEVEL_ERR, "empty", "empty it (FLUSHALL on its primaries), or set target-not-empty allow and start crossfade again",
		    "the target already holds %llu key%s: start would be refused", (ull)keys, PLURAL(keys));
}

void judge_servers(struct preflight *p)
{
	for (int s = 0; s < SIDES; s++)
		if (side_answers(&p->sides[s])) {
			judge_versions(p, (enum side)s);
			judge_slots(p, (enum side)s);
		}
	if (side_answers(&p->sides[SIDE_TARGET])) {
		judge_empty(p);
		judge_replicas(p);
	}
	if (side_answers(&p->sides[SIDE_SOURCE]))
		judge_databases(p);
	if (!both_answer(p))
		return;
	judge_memory(p);
	judge_eviction(p);
	judge_clocks(p);
}
