/* cut.h - a command with keys of several slots is cut into parts of one slot each: in time that grows with its size alone, and a large one in slices, a slice a turn of
 * the loop, so that a million keys keep nobody else waiting.
 *
 *   COUNT ── each key: its slot's part, how large that gets ──► FILL ── each key is written to its part ──► SUBMIT ── each part goes to its owner
 *
 * The words are copied as they came, so nothing but the request's bytes is needed from one slice to the next. Thread: the client's worker. */
#ifndef CROSSFADE_CUT_H
#define CROSSFADE_CUT_H

#include "proxy/split.h"

#define CUT_SLICE 8192 /* keys of one turn; so many are cut at once */

/* whole: an array of bulks, in its client's order, or on its way back from an owner; step: words of a key and what belongs to it. The last slice submits. */
void cut_request(struct worker *w, struct split *s, uint32_t first, uint32_t step);
void cuts_turn(struct worker *w); /* a slice of one of those that are not done, in turn */
void cuts_free(struct worker *w); /* the loop has ended: those that were not done never will be */

#endif
