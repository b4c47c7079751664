/* effect_canonical.c - relative expiry made absolute before the authority sees it.
 *
 * Whatever the server would refuse stays as it was, so that the server words the error with the client's own command name. Hence the
 * checks here are at least as strict as the servers': a time must be a positive integer that, made absolute, stays in range. */
#include "proxy/effect_rules.h"
#include "resp/digits.h"
#include "resp/write.h"

/* Fields' expiry ends at 2^48 - 2 on Redis (EB_EXPIRE_TIME_MAX); what is beyond is left for the server to judge. */
#define FIELD_TIME_MAX_MS ((INT64_C(1) << 48) - 2)

/* A positive number in the form given, as an absolute time. */
static bool absolute(const struct effect_call *call, struct time_form form, struct slice number, int64_t max, int64_t *ms)
{
	int64_t v;

	return resp_string_to_int(number.p, number.n, &v) && v > 0 && time_ms(form, number, call->now_ms, ms) && *ms <= max;
}

/* The call with its name (NULL: its own), the word at unit_at (0: none) and the number at number_at replaced. */
static sds restate(sds out, const struct effect_call *call, const char *name, uint32_t unit_at, uint32_t number_at, int64_t ms)
{
	for (uint32_t i = 0; i < call->argc; i++) {
		if (i == 0 && name)
			out = resp_cat_bulk(out, slice(name, strlen(name)));
		else if (i > 0 && i == unit_at)
			out = resp_cat_bulk(out, SLICE_LIT("PXAT"));
		else if (i == number_at)
			out = resp_cat_int_bulk(out, ms);
		else
			out = resp_cat_bulk(out, call->argv[i]);
	}
	return out;
}

/* SET, GETEX, MSETEX, HSETEX, HGETEX: … EX s or PX ms becomes PXAT ms. */
bool canonical_options(const struct effect_call *call, sds *out, const struct command **cmd)
{
	bool of_fields = call->cmd->canonical == CANON_HSETEX || call->cmd->canonical == CANON_HGETEX;
	struct options o;
	int64_t ms;

	/* Without an option that has an argument there is nothing to do: plain SET must stay cheap. */
	if (call->argc < 4 || !options_parse(call, &o) || !(o.given & OPT_EXPIRY) || !o.form.relative ||
	    !absolute(call, o.form, call->argv[o.expiry_at + 1], of_fields ? FIELD_TIME_MAX_MS : INT64_MAX, &ms))
		return false;
	*out = resp_cat_len(*out, '*', call->argc);
	*out = restate(*out, call, NULL, o.expiry_at, o.expiry_at + 1, ms);
	*cmd = call->cmd;
	return true;
}

/* [P]SETEX k time v: their errors name them, so only a time that no server refuses becomes a SET. */
bool canonical_setex(const struct effect_call *call, sds *out, const struct command **cmd)
{
	const struct command *set = command_find(SLICE_LIT("set"));
	int64_t ms;

	if (call->argc != 4 || !set || !absolute(call, time_form_of(call->cmd), call->argv[2], INT64_MAX, &ms))
		return false;
	*out = resp_cat_len(*out, '*', 5);
	*out = resp_cat_bulk(*out, SLICE_LIT("SET"));
	*out = resp_cat_bulk(*out, call->argv[1]);
	*out = resp_cat_bulk(*out, call->argv[3]);
	*out = resp_cat_bulk(*out, SLICE_LIT("PXAT"));
	*out = resp_cat_int_bulk(*out, ms);
	*cmd = set;
	return true;
}

enum { COND_NX = 1, COND_XX = 2, COND_GT = 4, COND_LT = 8 };

static int condition(struct slice word)
{
	static const char *const words[] = { "nx", "xx", "gt", "lt" };

	for (int i = 0; i < 4; i++)
		if (slice_is(word, words[i]))
			return 1 << i;
	return 0;
}

/* Conditions from argv[3] up to `end`: false if one is unknown or they exclude each other. */
static bool conditions_ok(const struct effect_call *call, uint32_t end)
{
	int given = 0;

	for (uint32_t i = 3; i < end; i++) {
		int one = condition(call->argv[i]);
		if (one == 0)
			return false;
		given |= one;
	}
	return !((given & COND_NX) && given != COND_NX) && !((given & COND_GT) && (given & COND_LT));
}

/* EXPIRE, PEXPIRE, EXPIREAT: conditions stay, the authority judges them. */
bool canonical_expire(const struct effect_call *call, sds *out, const struct command **cmd)
{
	const struct command *at = command_find(SLICE_LIT("pexpireat"));
	int64_t ms;

	if (call->argc < 3 || !at || !conditions_ok(call, call->argc) ||
	    !absolute(call, time_form_of(call->cmd), call->argv[2], INT64_MAX, &ms))
		return false;
	*out = resp_cat_len(*out, '*', call->argc);
	*out = restate(*out, call, "PEXPIREAT", 0, 2, ms);
	*cmd = at;
	return true;
}

/* RESTORE k ttl payload …: ttl 0 is none; the options are the server's to check, but for ABSTTL none changes what ttl means. */
bool canonical_restore(const struct effect_call *call, sds *out, const struct command **cmd)
{
	int64_t ms;

	for (uint32_t i = 4; i < call->argc; i++)
		if (slice_is(call->argv[i], "absttl"))
			return false;
	if (call->argc < 4 || !absolute(call, (struct time_form){ 1, true }, call->argv[2], INT64_MAX, &ms))
		return false;
	/* Before the other options: behind the last one it could be taken for its argument, and the error would be another. */
	*out = resp_cat_len(*out, '*', call->argc + 1);
	*out = resp_cat_int_bulk(resp_cat_bulk(resp_cat_bulk(*out, call->argv[0]), call->argv[1]), ms);
	*out = resp_cat_bulk(resp_cat_bulk(*out, call->argv[3]), SLICE_LIT("ABSTTL"));
	for (uint32_t i = 4; i < call->argc; i++)
		*out = resp_cat_bulk(*out, call->argv[i]);
	*cmd = call->cmd;
	return true;
}

/* HEXPIRE, HPEXPIRE, HEXPIREAT k time [NX|XX|GT|LT] FIELDS n f … */
bool canonical_hexpire(const struct effect_call *call, sds *out, const struct command **cmd)
{
	const struct command *at = command_find(SLICE_LIT("hpexpireat"));
	uint32_t fields_at = 3, first, n;
	int64_t ms;

	if (call->argc < 6 || !at)
		return false;
	fields_at += condition(call->argv[3]) != 0;
	if (!fields_parse(call, fields_at, 1, &first, &n) ||
	    !absolute(call, time_form_of(call->cmd), call->argv[2], FIELD_TIME_MAX_MS, &ms))
		return false;
	*out = resp_cat_len(*out, '*', call->argc);
	*out = restate(*out, call, "HPEXPIREAT", 0, 2, ms);
	*cmd = at;
	return true;
}
