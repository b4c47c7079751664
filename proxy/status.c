/* The status of everything as one JSON object: what `proxyctl status --json` prints. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/address.h"
#include "proxy/control_internal.h"

#define GET(counter) atomic_load_explicit(&(counter), memory_order_relaxed)

static json_t *number(uint64_t n)
{
	return json_integer((json_int_t)n);
}

static const char *authority_text(const struct state_record *r)
{
	bool source = memchr(r->authority, SIDE_SOURCE, SLOTS) != NULL, target = memchr(r->authority, SIDE_TARGET, SLOTS) != NULL;

	return source && target ? "mixed" : target ? "target" : "source";
}

static json_t *target_slots(const struct state_record *r)
{
	json_t *ranges = json_array();

	for (unsigned slot = 0; slot < SLOTS; slot++) {
		unsigned first = slot;
		if (r->authority[slot] != SIDE_TARGET)
			continue;
		while (slot + 1 < SLOTS && r->authority[slot + 1] == SIDE_TARGET)
			slot++;
		json_array_append_new(ranges, json_pack("[ii]", (int)first, (int)slot));
	}
	return ranges;
}

/* n: as counted at this moment; the report with the names comes a moment later. */
static void add_uncarried(json_t *o, const struct uncarried_report *r, uint64_t n)
{
	json_t *list = json_array();

	for (unsigned i = 0; r && i < r->n; i++)
		json_array_append_new(list, json_pack("{sissssss}", "db", (int)r->at[i].db, "key", r->at[i].key, "to", side_name(r->at[i].to),
						      "why", r->at[i].why));
	json_object_set_new(o, "uncarried_keys", list);
	json_object_set_new(o, "uncarried_all_named", json_boolean(r ? r->complete && r->n == n : n == 0));
}

static json_t *backfill_json(const struct control *c)
{
	static const struct bf_stats none = { .eta_s = -1 };
	const struct bf_stats *s = c->backfill ? backfill_thread_stats(c->backfill) : &none;
	json_t *o = json_object();
	int64_t eta = GET(s->eta_s);

	/* After a restart behind the cutover nothing is scanned any more: it was done before. */
	bool before = GET(s->state) == BF_IDLE && c->phases && phases_record(c->phases)->backfill_done;
	json_object_set_new(o, "state", json_string(bf_state_names[before ? BF_DONE : GET(s->state)]));
	json_object_set_new(o, "keys_total", number(GET(s->keys_total)));
	json_object_set_new(o, "keys_copied", number(GET(s->keys_copied)));
	json_object_set_new(o, "keys_retried", number(GET(s->keys_retried)));
	json_object_set_new(o, "bytes", number(GET(s->bytes)));
	json_object_set_new(o, "keys_per_s", number(GET(s->keys_per_s)));
	json_object_set_new(o, "eta_s", eta < 0 ? json_null() : json_integer(eta));
	json_object_set_new(o, "held_by", json_string(bf_held_names[GET(s->held_by)]));
	json_object_set_new(o, "slots_done", number(GET(s->slots_done)));
	uint64_t uncarried = GET(s->uncarried);
	json_object_set_new(o, "uncarried", number(uncarried));
	add_uncarried(o, c->backfill ? backfill_thread_uncarried(c->backfill) : NULL, uncarried);
	json_object_set_new(o, "limits", json_pack("{sIsIsb}", "keys_per_s", (json_int_t)c->throttle.keys_per_s, "bytes_per_s",
						  (json_int_t)c->throttle.bytes_per_s, "adaptive", c->throttle.adaptive));
	return o;
}

static json_t *verify_progress(const struct control *c)
{
	const struct bf_stats *s = c->backfill ? backfill_thread_stats(c->backfill) : NULL;
	bool running = c->phases && phases_verifying(c->phases);

	return json_pack("{sbsIsI}", "running", running, "checked", (json_int_t)(running ? GET(s->checked) : 0), "total",
			 (json_int_t)(running ? GET(s->verify_total) : 0));
}

static json_t *last_verify(const struct control *c, const struct state_record *r)
{
	if (r->verify_at_ms == 0)
		return json_null();
	char *text = control_verify_json(c);
	json_t *o = json_loads(text, 0, NULL);
	free(text);
	return o;
}

static json_t *last_flip(const struct control *c)
{
	const struct last_flip *l = c->phases ? phases_last_flip(c->phases) : NULL;

	if (!l || !l->any)
		return json_null();
	return json_pack("{sssfsfsisI}", "direction", side_name(l->to), "pause_max_ms", (double)l->pause_max_us / 1000, "pause_p99_ms",
			 (double)l->pause_p99_us / 1000, "slots", (int)l->slots, "held", (json_int_t)l->held);
}

/* Idle workers know nothing about a node: then the last look at it counts. */
static const char *node_text(const struct control *c, enum side side, const struct node *n)
{
	switch (c->fleet ? fleet_node_state(c->fleet, side, n->name) : NODE_IDLE) {
	case NODE_CONNECTING:
		return "connecting";
	case NODE_DOWN:
		return "down";
	case NODE_UP:
		return n->up ? "up" : "down";
	case NODE_IDLE:
		break;
	}
	return n->up ? "up" : "down";
}

static void add_configured(json_t *list, const struct control *c, enum side side)
{
	const struct side_config *s = &c->config->side[side];

	for (unsigned i = 0; i < s->nnodes; i++) {
		char addr[ADDRESS_NAME_MAX];
		address_name(addr, sizeof(addr), s->nodes[i].host, s->nodes[i].port);
		json_array_append_new(list, json_pack("{ssssss}", "side", side_name(side), "addr", addr, "state", "down"));
	}
}

static json_t *nodes_json(const struct control *c)
{
	json_t *list = json_array();

	for (int s = 0; s < SIDES; s++) {
		if (!c->discovery[s])
			continue;
		const struct topology *t = discovery_topology(c->discovery[s]);
		if (!t)
			add_configured(list, c, (enum side)s);
		for (unsigned i = 0; t && i < t->nnodes; i++)
			json_array_append_new(list, json_pack("{ssssss}", "side", side_name((enum side)s), "addr", t->nodes[i].name, "state",
							      node_text(c, (enum side)s, &t->nodes[i])));
	}
	return list;
}

/* Whether the target's marker and the record go together. */
static json_t *marker_json(const struct control *c)
{
	const char *state = !c->marker.io ? "none" : *c->marker.foreign ? "foreign" : !c->marker.known ? "unknown" : c->marker.seen.there ? "ours" : "none";

	return json_pack("{ssss}", "state", state, "text", *c->marker.foreign ? c->marker.foreign : c->marker.known ? "" : c->marker.why);
}

char *control_status(struct control *c)
{
	const struct state_record *r = c->phases ? phases_record(c->phases) : &c->record;
	struct fleet_sums sums;
	json_t *o = json_object();

	control_sums(c, &sums);
	json_object_set_new(o, "version", json_string(PACKAGE_VERSION));
	json_object_set_new(o, "phase", json_string(phase_names[r->phase]));
	json_object_set_new(o, "activity", json_string(c->phases ? phases_activity(c->phases) : "looking for the servers"));
	json_object_set_new(o, "epoch", number(r->epoch));
	json_object_set_new(o, "authority", json_string(authority_text(r)));
	json_object_set_new(o, "target_slots", target_slots(r));
	json_object_set_new(o, "marker", marker_json(c));
	json_object_set_new(o, "backfill", backfill_json(c));
	json_object_set_new(o, "mirror", json_pack("{sIsIsIsIsIsIsI}", "effects", (json_int_t)sums.effects, "queued", (json_int_t)sums.queued,
						  "queued_bytes", (json_int_t)sums.queued_bytes, "lag_ms",
						  (json_int_t)((sums.lag_us + 999) / 1000), "mismatches", (json_int_t)sums.mismatches,
						  "snapshots", (json_int_t)sums.snapshots, "foreign", (json_int_t)sums.foreign));
	json_object_set_new(o, "dirty_keys", number(sums.dirty_keys));
	json_object_set_new(o, "dirty_slots", number(sums.dirty_slots));
	json_object_set_new(o, "failing", failing_json(c, sums.dirty_keys || sums.dirty_slots || r->phase == PHASE_BACKFILL || (c->phases && phases_verifying(c->phases))));
	json_object_set_new(o, "verify", verify_progress(c));
	json_object_set_new(o, "last_verify", last_verify(c, r));
	json_object_set_new(o, "verify_due", json_string(c->phases ? phases_verify_due(c->phases) : ""));
	json_object_set_new(o, "last_flip", last_flip(c));
	json_object_set_new(o, "clients", number(sums.clients));
	json_object_set_new(o, "commands", number(sums.commands));
	json_object_set_new(o, "unknown_outcome", number(sums.unknown_outcome));
	json_object_set_new(o, "nodes", nodes_json(c));
	char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(6));
	json_decref(o);
	return text;
}
