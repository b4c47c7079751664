/* handover_wire.h - records and descriptors over the socket between a process and its successor (handover.h). Blocking, each read and write with a deadline of
 * seconds (a record may take it twice): while it is used nothing else goes on. The owner of a descriptor that was received and not taken is the wire. */
#ifndef CROSSFADE_HANDOVER_WIRE_H
#define CROSSFADE_HANDOVER_WIRE_H

#include <hiredis/sds.h>
#include <stdbool.h>

#include "resp/parse.h"

struct wire {
	int fd;
	unsigned limit_s;     /* 0: none */
	sds in;
	size_t at, used;      /* of `in`: where the record begins that was read last, and its length */
	struct resp_request request;
	int *fds;             /* received, in order */
	unsigned nfds, cap, taken;
};

void wire_init(struct wire *w, int fd); /* takes it; makes it blocking */
void wire_release(struct wire *w);
void wire_limit(struct wire *w, unsigned s);
/* fd goes with the record's first byte; -1: none. */
bool wire_send(struct wire *w, const char *p, size_t n, int fd);
bool wire_say(struct wire *w, const char *word, const char *text, int fd); /* text NULL: the word alone */
/* The next record stands in w->request until the next call. False: why says what happened. */
bool wire_read(struct wire *w, char *why, size_t whylen);
struct slice wire_word(const struct wire *w, uint32_t i); /* empty if there is none */
int wire_take_fd(struct wire *w); /* the next one that came; -1: there is none */

#endif
