/* marker.h - the marker: a key on the target that names the migration whose authority has moved there (race 15).
 *
 *   no slot has flipped      no marker
 *   before a flip to the target is fenced: written, acknowledged            ─┐ the record alone says whether slots flipped:
 *   the record of the flip is durable                                       ─┘ killed in between, the source is the authority and the marker is ours
 *   while slots are on the target: looked at every topology-interval, written again if it is gone (FLUSHALL), its epoch follows that of the record
 *   finished, aborted        removed, behind the record; tried until it is
 *
 * So whoever finds it and has no record that knows of it (its state directory was lost, or is older; it is another proxy) does not know where the newer
 * data is, and does not serve. Its epoch is at most that of the newest durable record: a record of a lower one is older than what happened.
 * Pure: any thread. */
#ifndef CROSSFADE_MARKER_H
#define CROSSFADE_MARKER_H

#include <hiredis/sds.h>

#include "proxy/state.h"
#include "resp/slice.h"

struct marker {
	bool there;
	char migration[MIGRATION_ID_LEN + 1]; /* empty: there, but not of a form that this version knows */
	uint64_t epoch;
};

sds marker_render(const char *migration, uint64_t epoch);
void marker_parse(struct slice text, struct marker *m); /* the value of the key */

/* May a proxy with this record (NULL: none) serve, begin or flip, having found this? False: why says what is wrong, without what to do. */
bool marker_allows(const struct state_record *r, const struct marker *m, char *why, size_t n);
/* Is the marker a left-over of a migration that is over by this record, to be removed? */
bool marker_is_over(const struct state_record *r, const struct marker *m);

/* --assume-authority: the record that goes by the operator's word. *r is what there was (all zero: none), and is replaced.
 *
 *   source   phase proxy: the migration of the marker is given up; the target is left as it is, so that a wrong word does no harm there
 *   target   phase cutover, every slot: the migration of the marker goes on, the source is made equal */
void marker_assume(enum side authority, const struct marker *m, struct state_record *r);

#endif
