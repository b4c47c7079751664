/* effect.h - what a write does, restated for the follower: pure functions of the request, the reply and the authority's clock.
 *
 * Two moments:
 *  - before the authority sees a command, effect_canonical() makes relative expiry absolute, so that both sides hold the same millisecond;
 *    from then on the canonical request is the request (the reply is the same, byte for byte). A request whose expiry argument is not a clean
 *    positive in-range integer, or that the server will refuse for any other reason that the words alone show, is left as it is: the server
 *    words the error, with the client's own command name.
 *  - after its reply, effect_of() says what the follower gets.
 * Rules: design section 5, facts in effects.md. No I/O, no state, any thread. The engine knows nothing about single commands; this file and
 * the table do. */
#ifndef CROSSFADE_EFFECT_H
#define CROSSFADE_EFFECT_H

#include <hiredis/sds.h>
#include <stdbool.h>
#include <stdint.h>

#include "resp/slice.h"
#include "resp/table.h"

struct effect_call {
	const struct command *cmd;
	uint32_t argc;
	const struct slice *argv;
	int64_t now_ms; /* the authority's clock */
	uint8_t authority, follower; /* SERVER_* bit of the oldest server of that side; 0: not known, then it is taken to know every command. effect_canonical looks at `authority` alone, the others at `follower` */
	struct slice probe; /* effect_of: the authority's reply to effect_probe()'s command; empty: it was not asked */
};

/* Appends the canonical form to *out (an sds, RESP array) and sets *cmd to its row; false: nothing appended, forward as it is. */
bool effect_canonical(const struct effect_call *call, sds *out, const struct command **cmd);

/* Some effects need what the reply does not say (how far a stream was trimmed by ~). Appends to *out a read-only command that the engine sends
 * right behind the (canonical) call on the same data connection, whose reply it swallows and hands to effect_of() as `probe`; false: none.
 * An engine that does not ask gets a snapshot instead: right, but dear for streams that are trimmed by every XADD. */
bool effect_probe(const struct effect_call *call, sds *out);
bool effect_may_probe(const struct command *cmd); /* false: effect_probe() will say no, whatever the words are */

/* Of a plain call no effect depends on the time, nor on its words but for how many they are: effect_of() and effect_traits() may be given no argv and no now_ms. A plain SET, DEL, LPUSH …
 * effect_spread() looks at the words all the same, but not at the time. */
bool effect_is_plain(const struct command *cmd, uint32_t argc);

/* What a call means for its written keys, known from the words alone: CMD_BUILDS, CMD_UNPROVEN, CMD_READS_OTHERS, CMD_SCRIPT of the row, corrected by
 * options (SET KEEPTTL builds; RESTORE without REPLACE …; XADD NOMKSTREAM …). 0 for a call that writes no key. */
uint32_t effect_traits(const struct effect_call *call);

enum effect_kind {
	EFFECT_IS_NOTHING,
	EFFECT_IS_SAME,     /* the request's own bytes; the follower's reply must equal the authority's */
	EFFECT_IS_BLOCK,    /* `block` instead */
	EFFECT_IS_SNAPSHOT, /* cannot be restated: the written keys are copied */
	EFFECT_IS_BROADCAST,
};

enum effect_expect {
	EXPECT_ANY,   /* any reply that is not an error */
	EXPECT_OK,    /* +OK */
	EXPECT_INT,   /* :expect_n */
	EXPECT_SAME,  /* digest of the authority's reply */
	EXPECT_DIGEST, /* resp_reply_digest() is expect_digest: the reply that the restated form must get, that of EXEC included */
};

/* expect is about the reply to the last command of the block; the others must not be errors. A block of several commands is MULTI … EXEC already
 * (ncommands counts MULTI and EXEC): then expect is EXPECT_ANY, where the EXEC array must hold no error, or EXPECT_DIGEST, of the whole EXEC array. */
struct effect {
	enum effect_kind kind;
	sds block;          /* EFFECT_IS_BLOCK: owned by the caller afterwards */
	unsigned ncommands;
	enum effect_expect expect;
	int64_t expect_n;
	uint64_t expect_digest;
	bool whole;         /* the effect sets the whole value (or deletes the key) whatever the follower holds: SET k v PXAT…, DEL k; the key is synced by it */
	bool unproven;      /* builds on the old value and no reply proves it: PEXPIRETIME must follow (race 1); for CMD_READS_OTHERS of
	                     * the keys it reads, too: it is their absence that would go unseen */
};

/* `reply` is the authority's complete RESP3 reply. An error reply is EFFECT_IS_NOTHING, but for CMD_SCRIPT rows, which give EFFECT_IS_SNAPSHOT. */
void effect_of(const struct effect_call *call, struct slice reply, struct effect *out);

/* What one slot of the follower gets of a command with keys of several. */
struct effect_part {
	uint16_t slot;
	struct effect effect; /* EFFECT_IS_BLOCK */
	uint32_t traits;      /* CMD_BUILDS, CMD_UNPROVEN, as effect_traits() */
};
/* Splits an effect (EFFECT_IS_SAME or _BLOCK) of such a command by slot: an array of *n parts, each slot once, that the caller frees; their blocks are the caller's.
 * The order of the parts does not matter. *rest: a written key whose slot has no part has to be copied; else it was not touched. No part: all have to be. */
struct effect_part *effect_spread(const struct effect_call *call, struct slice reply, const struct effect *whole, uint32_t *n, bool *rest);

#endif
