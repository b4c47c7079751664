/* batch.h - the requests of one read on their way to this worker's own engine: they go together, in their order, so that what the engine will look at can be fetched while those behind are parsed
 * (lines.h). Only plain ones wait; before anything else is submitted they are. Nothing is in it but while a client's input is looked at. Thread: the worker's. */
#ifndef CROSSFADE_BATCH_H
#define CROSSFADE_BATCH_H

#include <stdbool.h>

#define BATCH_MAX 32

struct req;
struct worker;

struct batch {
	struct req *req[BATCH_MAX];
	unsigned n;
	bool open;
};

void batch_open(struct worker *w);
void batch_close(struct worker *w);
void batch_submit(struct worker *w, struct req *r); /* of a slot of this worker */

#endif
