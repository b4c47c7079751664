/* effect.c - the two moments of effect.h, dispatched by the table's columns. */
#include "proxy/effect.h"

#include "proxy/effect_rules.h"
#include "resp/digits.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

#define TRAITS (CMD_BUILDS | CMD_UNPROVEN | CMD_READS_OTHERS | CMD_SCRIPT)

static effect_canonical_rule *const canonical_rules[] = {
	[CANON_SET] = canonical_options,     [CANON_SETEX] = canonical_setex,     [CANON_GETEX] = canonical_options,
	[CANON_EXPIRE] = canonical_expire,   [CANON_RESTORE] = canonical_restore, [CANON_HEXPIRE] = canonical_hexpire,
	[CANON_HSETEX] = canonical_options,  [CANON_HGETEX] = canonical_options,  [CANON_MSETEX] = canonical_options,
};

static effect_rule *const rules[] = {
	[REWRITE_SET] = effect_set,
	[REWRITE_TO_SET] = effect_to_set,
	[REWRITE_MSETNX] = effect_msetnx,
	[REWRITE_TO_DEL] = effect_to_del,
	[REWRITE_GETEX] = effect_getex,
	[REWRITE_INCRBYFLOAT] = effect_incrbyfloat,
	[REWRITE_HINCRBYFLOAT] = effect_hincrbyfloat,
	[REWRITE_EXPIRE] = effect_expire,
	[REWRITE_RESTORE] = effect_restore,
	[REWRITE_SPOP] = effect_spop,
	[REWRITE_LMPOP] = effect_lmpop,
	[REWRITE_ZMPOP] = effect_zmpop,
	[REWRITE_ZPOP] = effect_zpop,
	[REWRITE_XADD] = effect_xadd,
	[REWRITE_XTRIM] = effect_xtrim,
	[REWRITE_XREADGROUP] = effect_xreadgroup,
	[REWRITE_XCLAIM] = effect_xclaim,
	[REWRITE_HEXPIRE] = effect_hexpire,
	[REWRITE_HSETEX] = effect_hsetex,
	[REWRITE_HGETEX] = effect_hgetex,
	[REWRITE_HGETDEL] = effect_hgetdel,
	[REWRITE_MSETEX] = effect_msetex,
	[REWRITE_PFCOUNT] = effect_pfcount,
};

static effect_probe_rule *const probe_rules[] = {
	[REWRITE_XADD] = probe_xadd,
	[REWRITE_XTRIM] = probe_xtrim,
};

/* Which options turn a rule's traits: KEEPTTL keeps something of the old value, and without any option nothing is written. */
static const struct trait_options {
	uint32_t builds; /* given: builds, unproven */
	uint32_t writes; /* none given: writes no key */
} trait_options[] = {
	[REWRITE_SET] = { OPT_KEEPTTL, 0 },
	[REWRITE_MSETEX] = { OPT_KEEPTTL, 0 },
	[REWRITE_GETEX] = { 0, OPT_EXPIRY | OPT_PERSIST },
	[REWRITE_HGETEX] = { 0, OPT_EXPIRY | OPT_PERSIST },
};

bool effect_canonical(const struct effect_call *call, sds *out, const struct command **cmd)
{
	uint8_t rule = call->cmd->canonical;

	/* A server that does not know the command quotes its words in the error. */
	if (call->authority != 0 && !(call->authority & call->cmd->servers))
		return false;
	return rule < COUNT(canonical_rules) && canonical_rules[rule] && canonical_rules[rule](call, out, cmd);
}

bool effect_may_probe(const struct command *cmd)
{
	return cmd->rewrite < COUNT(probe_rules) && probe_rules[cmd->rewrite];
}

bool effect_probe(const struct effect_call *call, sds *out)
{
	return effect_may_probe(call->cmd) && probe_rules[call->cmd->rewrite](call, out);
}

bool effect_is_plain(const struct command *cmd, uint32_t argc)
{
	if ((cmd->keys != KEYS_SPECS && cmd->keys != KEYS_SET) || cmd->flags & (CMD_SCRIPT | CMD_PROVEN_UNLESS_FRESH))
		return false;
	if (cmd->rewrite == REWRITE_SET)
		return argc == 3;
	return cmd->effect == EFFECT_VERBATIM && cmd->canonical == CANON_NONE;
}

/* Has the call a key that it writes? The answer is in the row unless the arguments decide (BITFIELD, SORT, GEORADIUS). */
static bool writes_a_key(const struct effect_call *call)
{
	struct key_ref keys[8];
	int n;

	if (call->cmd->keys == KEYS_SPECS || call->cmd->keys == KEYS_SET)
		return true;
	n = command_keys(call->cmd, call->argc, call->argv, keys, COUNT(keys));
	if (n < 0 || n > (int)COUNT(keys))
		return true;
	for (int i = 0; i < n; i++)
		if (keys[i].flags & KEY_WRITES)
			return true;
	return (call->cmd->flags & CMD_SCRIPT) != 0;
}

uint32_t effect_traits(const struct effect_call *call)
{
	const struct command *cmd = call->cmd;
	uint32_t traits = cmd->flags & TRAITS;
	struct options o;

	if (cmd->effect == EFFECT_NONE || cmd->effect == EFFECT_BROADCAST || !writes_a_key(call))
		return 0;
	if (cmd->rewrite >= COUNT(trait_options))
		return traits;
	const struct trait_options *by = &trait_options[cmd->rewrite];
	/* Plain SET has three words: it must stay cheap. */
	if ((by->builds == 0 || call->argc < 4) && by->writes == 0)
		return traits;
	if (!options_parse(call, &o))
		return traits | CMD_BUILDS | CMD_UNPROVEN;
	if (o.given & by->builds)
		traits |= CMD_BUILDS | CMD_UNPROVEN;
	if (by->writes && !(o.given & by->writes))
		traits = 0;
	return traits;
}

static bool is_error(const struct resp_item *first)
{
	return first->type == '-' || first->type == '!' || first->type == 0;
}

/* Does the reply say, by the row's column, that nothing changed? */
static bool is_unchanged(const struct command *cmd, const struct resp_item *first)
{
	bool zero = first->type == ':' && first->n == 0, null = first->type == '_';

	switch ((enum cmd_unchanged)cmd->unchanged) {
	case UNCHANGED_ZERO:
		return zero;
	case UNCHANGED_NULL:
		return null;
	case UNCHANGED_ZERO_OR_NULL:
		return zero || null;
	case UNCHANGED_EMPTY:
		return null || (first->n == 0 && strchr("*~%", first->type));
	case UNCHANGED_NEVER:
	case UNCHANGED_RULE:
		break;
	}
	return false;
}

/* CMD_PROVEN_UNLESS_FRESH: is the reply what a missing key would give? INCR: 1; INCRBY: the increment; APPEND: the length. Where the
 * words leave it open the answer is yes, which costs one look more. */
static bool looks_fresh(const struct effect_call *call, const struct resp_item *first)
{
	int64_t v = 1;

	if (first->type != ':')
		return true;
	if (call->argc > 2) {
		struct slice word = call->argv[call->argc - 1];

		if ((uint64_t)first->n == word.n || !resp_string_to_int(word.p, word.n, &v))
			return (uint64_t)first->n == word.n;
	}
	return first->n == v || (v != INT64_MIN && first->n == -v);
}

/* What holds of every effect, whichever rule made it. */
static void settle(const struct effect_call *call, const struct resp_item *first, struct effect *out)
{
	uint32_t traits;

	if (out->kind != EFFECT_IS_SAME && out->kind != EFFECT_IS_BLOCK)
		return;
	traits = effect_traits(call);
	if (out->kind == EFFECT_IS_SAME) {
		if (!follower_knows(call, call->cmd->servers)) {
			effect_snapshot(out);
			return;
		}
		out->whole = !(traits & CMD_BUILDS);
	}
	out->unproven = !out->whole && (traits & CMD_UNPROVEN);
	if (traits & CMD_READS_OTHERS)
		out->unproven = traits & CMD_UNPROVEN;
	if (out->unproven && (call->cmd->flags & CMD_PROVEN_UNLESS_FRESH))
		out->unproven = looks_fresh(call, first);
}

void effect_of(const struct effect_call *call, struct slice reply, struct effect *out)
{
	const struct command *cmd = call->cmd;
	struct resp_item first = reply_first(reply);

	*out = (struct effect){ .kind = EFFECT_IS_NOTHING };
	if (cmd->effect == EFFECT_NONE)
		return;
	if (cmd->flags & CMD_SCRIPT) {
		effect_snapshot(out);
		return;
	}
	if (is_error(&first) || is_unchanged(cmd, &first))
		return;
	if (cmd->effect == EFFECT_BROADCAST) {
		out->kind = EFFECT_IS_BROADCAST;
		return;
	}
	if (!writes_a_key(call))
		return;
	if (cmd->effect == EFFECT_VERBATIM)
		effect_same(out);
	else if (cmd->effect == EFFECT_REWRITTEN && cmd->rewrite < COUNT(rules) && rules[cmd->rewrite])
		rules[cmd->rewrite](call, reply, out);
	else
		effect_snapshot(out);
	settle(call, &first, out);
}
