/* effect_rules.h - what the files of effect.c share; private to them.
 *
 * effect.c dispatches by the table's columns: `canonical` and `rewrite` index arrays of the functions declared below, one per enumerator.
 * A rule is given an effect that is EFFECT_IS_NOTHING and need not set `unproven`, which follows from the traits. What a rule cannot read (an
 * option that a later server brought, a reply of another shape) it makes a snapshot: never a guess, never an assertion, since
 * words and replies come from outside. */
#ifndef CROSSFADE_EFFECT_RULES_H
#define CROSSFADE_EFFECT_RULES_H

#include "proxy/effect.h"
#include "resp/parse.h"

typedef bool effect_canonical_rule(const struct effect_call *call, sds *out, const struct command **cmd);
effect_canonical_rule canonical_options, canonical_setex, canonical_expire, canonical_restore, canonical_hexpire;

typedef void effect_rule(const struct effect_call *call, struct slice reply, struct effect *out);
effect_rule effect_set, effect_to_set, effect_msetnx, effect_msetex, effect_to_del, effect_getex, effect_incrbyfloat, effect_expire,
	effect_restore, effect_pfcount;
effect_rule effect_spop, effect_lmpop, effect_zmpop, effect_zpop;
effect_rule effect_xadd, effect_xtrim, effect_xreadgroup, effect_xclaim;
effect_rule effect_hincrbyfloat, effect_hexpire, effect_hsetex, effect_hgetex, effect_hgetdel;

typedef bool effect_probe_rule(const struct effect_call *call, sds *out);
effect_probe_rule probe_xadd, probe_xtrim;

/* --- words -------------------------------------------------------------------------------------------------------- */

/* The unit and base of a time, as an option (EX, PX, EXAT, PXAT) or a command's name (PEXPIREAT) says them. */
struct time_form {
	int64_t unit_ms; /* 1000 or 1 */
	bool relative;
};
struct time_form time_form_of(const struct command *cmd);

/* A time as milliseconds since the epoch: false if it is no integer or leaves 64 bits. Relative ones count from now_ms. */
bool time_ms(struct time_form form, struct slice number, int64_t now_ms, int64_t *ms);

/* Options of SET, GETEX, MSETEX, HSETEX and HGETEX, all of one grammar. */
enum {
	OPT_NX = 1 << 0, OPT_XX = 1 << 1, OPT_FNX = 1 << 2, OPT_FXX = 1 << 3, OPT_GET = 1 << 4, OPT_KEEPTTL = 1 << 5,
	OPT_PERSIST = 1 << 6, OPT_EXPIRY = 1 << 7, OPT_IFEQ = 1 << 8, OPT_FIELDS = 1 << 9,
};
struct options {
	uint32_t given;        /* OPT_* */
	uint32_t expiry_at;    /* OPT_EXPIRY: index of EX, PX, EXAT or PXAT; its number follows */
	struct time_form form;
	uint32_t ifeq_at;      /* OPT_IFEQ: index of what is compared with */
	uint32_t fields_at;    /* OPT_FIELDS: index of the first field */
	uint32_t nfields;
};
/* Reads call's words; false: the server will answer an error, or knows more than we do. */
bool options_parse(const struct effect_call *call, struct options *o);

/* "[FIELDS n f …]" that must end the request; used by HEXPIRE and its like. `per` words a field. */
bool fields_parse(const struct effect_call *call, uint32_t at, uint32_t per, uint32_t *first, uint32_t *n);

/* --- replies ------------------------------------------------------------------------------------------------------ */

struct reply_walk {
	const char *p, *end;
};
static inline struct reply_walk reply_walk(struct slice reply)
{
	return (struct reply_walk){ reply.p, reply.p + reply.n };
}
/* The next header; children of an aggregate follow. Attributes are passed over. False at the end. */
bool reply_next(struct reply_walk *w, struct resp_item *item);
/* The next value whole, unparsed; empty at the end. */
struct slice reply_value(struct reply_walk *w);
/* The first header of a reply; type 0 if there is none. */
struct resp_item reply_first(struct slice reply);

static inline bool item_is_list(const struct resp_item *item)
{
	return item->type == '*' || item->type == '~';
}

/* --- what is built ------------------------------------------------------------------------------------------------ */

/* Commands one after another; several become MULTI … EXEC when they are finished. */
struct builder {
	sds body;
	sds want; /* the replies expected, one behind the other; NULL: not known */
	unsigned n;
};
void build_command(struct builder *b, uint32_t words); /* exactly so many words must follow */
void build_word(struct builder *b, struct slice word);
void build_text(struct builder *b, const char *word);
void build_int(struct builder *b, int64_t n);
void build_words(struct builder *b, const struct slice *words, uint32_t n);
void build_want(struct builder *b, struct slice reply); /* of the command just built */
/* Gives the commands to out. If each had its build_want(), the digest is expected, else any reply that is no error. */
void build_finish(struct builder *b, struct effect *out);

/* One command of the words given, up to NULL-pointer slice. */
void effect_block(struct effect *out, const struct slice *words, uint32_t n, enum effect_expect expect, int64_t expect_n);

static inline void effect_snapshot(struct effect *out)
{
	out->kind = EFFECT_IS_SNAPSHOT;
}

static inline void effect_same(struct effect *out)
{
	out->kind = EFFECT_IS_SAME;
	out->expect = EXPECT_SAME;
}

/* Integers as words: the slice lives as long as the buffer. */
struct int_word {
	char text[24];
};
struct slice int_word(struct int_word *w, int64_t n);

/* SERVER_* of those that know expiry of hash fields (HSETEX, HPEXPIREAT). */
#define SERVERS_WITH_FIELD_TTL (SERVER_REDIS_8_0 | SERVER_VALKEY_9_1)

static inline bool follower_knows(const struct effect_call *call, uint32_t servers)
{
	return call->follower == 0 || (call->follower & servers);
}

#endif
