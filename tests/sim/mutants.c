/* Each rule of the design that the simulation can judge, taken out: the first seeds must show it. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEEDS_MAX 1500

static const struct mutant {
	const char *name;
	bool model; /* the rule is upheld outside the engine and the phases, and taken out of the model here */
	const char *what;
	int theme;  /* of world.c, where most of its conditions come together; -1: any */
} mutants[] = {
	{ "race-1-expiry", false, "no PEXPIRETIME behind a write that no reply proves", 14 },
	{ "race-2-one-side", true, "a dirty slot is walked on the authority only", -1 },
	{ "race-2-early", false, "a dirty slot is walked while effects are on their way", 4 },
	{ "race-3-wait", false, "a flip does not WAIT for the new authority's replicas", -1 },
	{ "race-3-fresh", true, "WAIT on a connection that has written nothing", 6 },
	{ "race-3-failover", true, "neither a failover nor a lost connection makes slots dirty", -1 },
	{ "race-4-version", false, "a mark does not move the version", -1 },
	{ "race-4-clear", false, "an acknowledgement clears marks that are newer than the copy", -1 },
	{ "race-4-slot", false, "a slot is clean although it was marked during its walk", -1 },
	{ "race-4-inband", false, "a mark between the replies of an in-band read is cleared by its copy", 5 },
	{ "race-5-versions", false, "a flush or a failover does not move the versions", 1 },
	{ "race-5-fence", false, "a FLUSHALL of a client runs beside other commands", 11 },
	{ "race-5-journal", false, "a FLUSHALL of a client is not in the journal", 11 },
	{ "race-6-restart", true, "what nobody watched while no process ran is not compared", 8 },
	{ "journal-off", false, "what is owed is not in the journal", 7 },
	{ "race-7-zombie", true, "a connection is replaced before the server has ended the former", 9 },
	{ "race-7-watch", false, "a dirty slot is walked before its nodes are watched", 8 },
	{ "race-8-generation", false, "copies of an older topology are taken", 3 },
	{ "race-9-ping", false, "a flip does not wait for a PING behind the last reply", 0 },
	{ "race-9-line", false, "a flip does not wait for what was dirty at the proof", -1 },
	{ "race-9-unknown", false, "a record of unknown outcome is taken to have failed", -1 },
	{ "race-10-part", true, "what has come of a request goes on before it is whole", -1 },
	{ "race-11-inband", true, "a copy that lost its race is tried the same way for ever", -1 },
	{ "race-12-late", false, "what was computed from a key that turns out to differ is not marked", 2 },
	{ "race-12-inputs", false, "a store command over dirty inputs is mirrored as it is", -1 },
	{ "race-13-scripts", false, "a part of the slots flips although scripts write keys of others", 13 },
	{ "race-14-gate", false, "EXEC of a watching client does not wait for what is under way", 10 },
	{ "race-14-flip", false, "a flip between WATCH and EXEC goes unnoticed", 10 },
	{ "race-15-marker", false, "a flip to the target does not wait for the marker there", 15 },
	{ "race-15-start", false, "a process without a record does not ask for the marker", 15 },
	{ "order-route", false, "a slot is sent to another node while something is in flight at the former, if what moved it goes no more", 17 },
	{ "order", false, "what was turned away goes behind a later command of its client", 17 },
	{ "order-wide", false, "a command of several slots that was turned away keeps its order in its first slot only", 18 },
	{ "crowd-order", false, "the parts of a write of many keys are made when it is their turn, whatever else of their slots comes before", 19 },
	{ "cas-busy", false, "a copy is taken whose token was none, because a write is in flight again", 16 },
	{ "cas-off", false, "copies are taken whatever their token", -1 },
	{ "replies-off", false, "the follower's replies are not compared", 14 },
	{ "fence-drain", false, "a flip waits for nothing that is under way", -1 },
};

/* The first seed that fails with the mutant and passes without: *r tells of it. */
static bool found(const struct mutant *m, unsigned jobs, const char *self, struct sim_report *r)
{
	for (uint64_t first = 1; first <= SEEDS_MAX; first = r->first_failed + 1) {
		struct sim_report without = { 0 };
		*r = (struct sim_report){ 0 };
		sim_theme = m->theme;
		setenv("CROSSFADE_FAULT", m->name, 1);
		sim_seeds(first, SEEDS_MAX + 1 - first, jobs, true, true, self, r);
		unsetenv("CROSSFADE_FAULT");
		if (!r->failed)
			return false;
		sim_seeds(r->first_failed, 1, 1, true, true, self, &without);
		if (!without.failed)
			return true;
	}
	return false;
}

unsigned sim_mutants(unsigned jobs, const char *only, unsigned *passed, const char *self)
{
	unsigned survived = 0;

	for (unsigned i = 0; i < sizeof mutants / sizeof *mutants; i++) {
		const struct mutant *m = &mutants[i];
		struct sim_report r;
		if (only && strcmp(only, m->name) != 0)
			continue;
		bool ok = found(m, jobs, self, &r);
		for (char *p = r.text; *p; p++)
			if (*p < ' ')
				*p = ' ';
		if (ok)
			printf("%-18s %3llu  %s%s\n                        %.140s\n", m->name, (unsigned long long)r.first_failed, m->what, m->model ? " (in the model)" : "", r.text);
		else
			printf("%-18s NOT FOUND in %u seeds: %s\n", m->name, SEEDS_MAX, m->what);
		sim_theme = -1;
		*passed += ok;
		survived += !ok;
	}
	return survived;
}
