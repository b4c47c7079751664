/* blocking.h - what a blocking command asks for, read from its words: the keys it waits for, how long, the command that does the same without waiting,
 * and the reply that its client gets from that one's.
 *
 *   BLPOP a b 0              LMPOP 2 a b LEFT          [key, [element]] becomes [key, element]
 *   BZPOPMIN a 0             ZMPOP 1 a MIN             [key, [[member, score]]] becomes [key, member, score]
 *   BLMPOP 0 1 a LEFT        LMPOP 1 a LEFT            the same
 *   BLMOVE a b LEFT LEFT 0   LMOVE a b LEFT LEFT       the same; only a is waited for
 *   XREAD BLOCK 0 STREAMS …  XREAD STREAMS …           the same, $ being the id it stood for when the command came
 *
 * Pure functions of the words; any thread. What is wrong with the words but for the time-out is left to the server to say: it is given the command that does
 * not wait. */
#ifndef CROSSFADE_BLOCKING_H
#define CROSSFADE_BLOCKING_H

#include <hiredis/sds.h>
#include <stdbool.h>
#include <stdint.h>

#include "resp/slice.h"
#include "resp/table.h"

/* What makes a key ready: only a value of its type. */
enum park_kind { PARK_LIST, PARK_ZSET, PARK_STREAM, PARK_KINDS };

struct blocking_form;

struct blocking {
	const struct blocking_form *form;
	const struct command *plain; /* that does not wait */
	enum park_kind kind;
	bool blocks;                 /* false: XREAD and XREADGROUP without BLOCK */
	const char *error;           /* of the time-out, as the servers word it; NULL: it is right */
	int64_t timeout_ms;          /* 0: for ever */
	uint32_t first, nkeys;       /* the keys waited for stand in argv[first … first + nkeys); nkeys 0: the words are wrong */
};

/* The command that the servers get; cmd itself if it is no blocking one. */
const struct command *blocking_plain(const struct command *cmd);

/* now_ms: the time of day, which the servers add to the time-out before they call it out of range; 0: those before 7.2 do not, and call what is beyond 64 bits
 * negative. */
struct blocking blocking_read(const struct command *cmd, uint32_t argc, const struct slice *argv, int64_t now_ms);

/* A time-out in milliseconds, as BLOCK and WAIT have it: the server's error, or NULL. */
const char *blocking_timeout_ms(struct slice word, int64_t now_ms, int64_t *ms);

/* Appends the request that does not wait, for argv[at … at + n) of the keys. ids: of each of the blocking call's streams, or NULL for what stands there. */
sds blocking_cat_try(sds s, const struct blocking *b, uint32_t argc, const struct slice *argv, uint32_t at, uint32_t n, const sds *ids);

/* A look that takes nothing: the length of a list or set, the last entry of a stream. Sets *cmd to its row. */
sds blocking_cat_look(sds s, const struct blocking *b, struct slice key, const struct command **cmd);

/* Is this stream's id the $ of XREAD, which stands for what is there when the command comes? */
bool blocking_id_is_last(const struct blocking *b, const struct slice *argv, uint32_t key);
/* The id that the answer to blocking_cat_look gives for it. */
sds blocking_last_id(struct slice reply);

/* The client's reply in RESP3 if it is not the try's own; else NULL. */
sds blocking_reply(const struct blocking *b, struct slice reply);

/* BLMOVE, BRPOPLPUSH: an error may be about the second key, which is not waited for. */
bool blocking_moves(const struct blocking *b);

/* Does an error of a try that was woken end the waiting? A wrong type does not, but for groups, which are gone with their stream. */
bool blocking_error_ends(const struct blocking *b, struct slice error);

#endif
