/* convert.h - what a reply looks like to a client of RESP2, and how two servers' replies compare. Pure functions. */
#ifndef CROSSFADE_CONVERT_H
#define CROSSFADE_CONVERT_H

#include <hiredis/sds.h>
#include <stdint.h>

#include "resp/slice.h"
#include "resp/table.h"

/* Must the RESP3 reply (complete) be converted for a RESP2 client? False for what is the same in both (+ - : $ and arrays of them
 * without a rule): those are forwarded as they are. One pass over the headers; bulks are skipped. Nulls need conversion. The command
 * counts, too: the pairs of HRANDFIELD … WITHVALUES hold no RESP3 type and yet become flat. NULL: no rule. */
bool resp2_differs(const struct command *cmd, struct slice reply);

/* Appends the RESP2 form of a complete RESP3 reply. The request tells the rule's options (WITHSCORES, a count …). */
sds resp2_convert(sds out, const struct command *cmd, uint32_t argc, const struct slice *argv, struct slice reply);

/* A hash that is equal for two complete replies to the same command from two servers that did the same: maps, sets and doubles in
 * canonical form (0.69999999999999996 equals 0.7; order of sets and maps does not count), errors by their first word only. */
uint64_t resp_reply_digest(struct slice reply);

#endif
