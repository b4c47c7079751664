/* What each word of a user's line does: the servers' rules, and their state in a selector. */
#include <stdlib.h>
#include <string.h>

#include "proxy/acl_internal.h"

/* ---- selectors ---- */

static void patterns_clear(struct acl_patterns *p)
{
	for (unsigned i = 0; i < p->n; i++)
		sdsfree(p->list[i].text);
	free(p->list);
	*p = (struct acl_patterns){ NULL, 0 };
}

static struct acl_pattern *patterns_find(const struct acl_patterns *p, struct slice text)
{
	for (unsigned i = 0; i < p->n; i++)
		if (slice_eq(text, slice(p->list[i].text, sdslen(p->list[i].text))))
			return &p->list[i];
	return NULL;
}

static void patterns_add(struct acl_patterns *p, struct slice text, unsigned rights)
{
	struct acl_pattern *there = patterns_find(p, text);

	if (there) {
		there->rights |= rights;
		return;
	}
	p->list = realloc(p->list, (p->n + 1) * sizeof *p->list);
	if (!p->list)
		abort();
	p->list[p->n++] = (struct acl_pattern){ sdsnewlen(text.p, text.n), rights };
}

static void first_args_clear(struct acl_selector *sel, const struct command *cmd) /* NULL: of all commands */
{
	unsigned kept = 0;

	for (unsigned i = 0; i < sel->nfirst_args; i++)
		if (cmd && sel->first_args[i].cmd != cmd)
			sel->first_args[kept++] = sel->first_args[i];
		else
			sdsfree(sel->first_args[i].word);
	sel->nfirst_args = kept;
}

static void rules_clear(struct acl_selector *sel)
{
	for (unsigned i = 0; i < sel->nrules; i++)
		sdsfree(sel->rules[i]);
	sel->nrules = 0;
}

static void rules_add(struct acl_selector *sel, sds rule)
{
	sel->rules = realloc(sel->rules, (sel->nrules + 1) * sizeof *sel->rules);
	if (!sel->rules)
		abort();
	sel->rules[sel->nrules++] = rule;
}

static void set_all_commands(struct acl_selector *sel, bool allow)
{
	memset(sel->commands, allow ? 0xff : 0, sizeof sel->commands);
	sel->all_commands = allow;
	first_args_clear(sel, NULL);
	rules_clear(sel);
	rules_add(sel, sdsnew(allow ? "+@all" : "-@all"));
}

void acl_selector_init(struct acl_selector *sel)
{
	memset(sel, 0, sizeof *sel);
	set_all_commands(sel, false);
}

void acl_selector_release(struct acl_selector *sel)
{
	patterns_clear(&sel->keys);
	patterns_clear(&sel->channels);
	first_args_clear(sel, NULL);
	rules_clear(sel);
	free(sel->first_args);
	free(sel->rules);
}

/* ---- commands ---- */

/* "+get" takes the place of what was said of get, and of what was said of its subcommands. */
static void note_rule(struct acl_selector *sel, char sign, struct slice what)
{
	unsigned kept = 1;
	sds rule = sdscatlen(sdsnewlen(&sign, 1), what.p, what.n);

	sdstolower(rule);
	for (unsigned i = 1; i < sel->nrules; i++) {
		sds old = sel->rules[i];
		bool same = sdslen(old) >= sdslen(rule) && memcmp(old + 1, rule + 1, sdslen(rule) - 1) == 0 &&
			    (old[sdslen(rule)] == '\0' || old[sdslen(rule)] == '|');
		if (same)
			sdsfree(old);
		else
			sel->rules[kept++] = old;
	}
	sel->nrules = kept;
	rules_add(sel, rule);
}

static void set_bit(struct acl_selector *sel, const struct command *cmd, bool allow)
{
	uint64_t bit = UINT64_C(1) << (cmd->id % 64);

	if (allow) {
		sel->commands[cmd->id / 64] |= bit;
		return;
	}
	sel->commands[cmd->id / 64] &= ~bit;
	sel->all_commands = false;
}

static bool is_sub_of(const struct command *sub, const struct command *container)
{
	size_t n = strlen(container->name);

	return strncmp(sub->name, container->name, n) == 0 && sub->name[n] == '|';
}

static void set_command(struct acl_selector *sel, const struct command *cmd, bool allow)
{
	set_bit(sel, cmd, allow);
	first_args_clear(sel, cmd);
	for (unsigned i = 0; cmd->flags & CMD_CONTAINER && i < command_count; i++)
		if (is_sub_of(&command_table[i], cmd))
			set_bit(sel, &command_table[i], allow);
}

static const char *category_rule(struct acl_selector *sel, struct slice name, bool allow)
{
	for (unsigned bit = 0; cmd_category_names[bit]; bit++) {
		if (!slice_is(name, cmd_category_names[bit]))
			continue;
		for (unsigned i = 0; i < command_count; i++)
			if (command_table[i].categories >> bit & 1) {
				set_bit(sel, &command_table[i], allow);
				first_args_clear(sel, &command_table[i]);
			}
		note_rule(sel, allow ? '+' : '-', slice(name.p - 1, name.n + 1));
		return NULL;
	}
	return "a category of commands, as ACL CAT lists them";
}

static const char *first_arg_rule(struct acl_selector *sel, const struct command *cmd, struct slice what, struct slice word, bool allow)
{
	if (!allow)
		return "no word behind the command, which has no subcommands: that can be allowed only";
	sel->first_args = realloc(sel->first_args, (sel->nfirst_args + 1) * sizeof *sel->first_args);
	if (!sel->first_args)
		abort();
	sel->first_args[sel->nfirst_args++] = (struct acl_first_arg){ cmd, sdsnewlen(word.p, word.n) };
	note_rule(sel, '+', what);
	return NULL;
}

/* What would be lost where a line is read again: between words, and at a line's end. */
static bool has_blank(struct slice s)
{
	for (size_t i = 0; i < s.n; i++)
		if (s.p[i] == ' ' || s.p[i] == '\0' || s.p[i] == '\t' || s.p[i] == '\r' || s.p[i] == '\n')
			return true;
	return false;
}

/* cmd, cmd|sub, @category, @all */
static const char *command_rule(struct acl_selector *sel, struct slice what, bool allow)
{
	if (slice_is(what, "@all")) {
		set_all_commands(sel, allow);
		return NULL;
	}
	if (what.n && what.p[0] == '@')
		return category_rule(sel, slice(what.p + 1, what.n - 1), allow);
	const char *bar = memchr(what.p, '|', what.n);
	size_t n = bar ? (size_t)(bar - what.p) : what.n;
	const struct command *cmd = n ? command_find(slice(what.p, n)) : NULL;
	if (!cmd)
		return "a command that Redis or Valkey has, or @category";
	if (bar) {
		struct slice word = slice(bar + 1, what.n - n - 1);
		if (!word.n || memchr(word.p, '|', word.n) || has_blank(word))
			return "command|subcommand";
		if (!(cmd->flags & CMD_CONTAINER))
			return first_arg_rule(sel, cmd, what, word, allow);
		cmd = command_find_sub(cmd, word);
		if (!cmd)
			return "a subcommand that the command has";
	}
	set_command(sel, cmd, allow);
	note_rule(sel, allow ? '+' : '-', what);
	return NULL;
}

/* ---- keys and channels ---- */

static const char *key_rule(struct acl_selector *sel, struct slice word)
{
	unsigned rights = ACL_READ | ACL_WRITE;
	size_t at = 1;

	if (word.p[0] == '%') {
		rights = 0;
		for (; at < word.n && word.p[at] != '~'; at++) {
			unsigned right = (word.p[at] | 32) == 'r' ? ACL_READ : (word.p[at] | 32) == 'w' ? ACL_WRITE : 0;
			if (!right || rights & right)
				return "%R~pattern, %W~pattern or %RW~pattern";
			rights |= right;
		}
		if (at++ >= word.n || !rights)
			return "%R~pattern, %W~pattern or %RW~pattern";
	}
	struct slice pattern = slice(word.p + at, word.n - at);
	if (has_blank(pattern))
		return "a pattern without blanks";
	if (sel->all_keys && !(slice_is(pattern, "*") && rights == (ACL_READ | ACL_WRITE)))
		return "no pattern behind ~*, which holds all keys: write resetkeys before it";
	const struct acl_pattern *there = patterns_find(&sel->keys, pattern);
	if (slice_is(pattern, "*") && (rights | (there ? there->rights : 0)) == (ACL_READ | ACL_WRITE)) { /* %R~* and %W~* are ~*, too */
		patterns_clear(&sel->keys);
		sel->all_keys = true;
		return NULL;
	}
	patterns_add(&sel->keys, pattern, rights);
	return NULL;
}

static const char *channel_rule(struct acl_selector *sel, struct slice pattern)
{
	if (has_blank(pattern))
		return "a pattern without blanks";
	if (slice_is(pattern, "*")) {
		patterns_clear(&sel->channels);
		sel->all_channels = true;
		return NULL;
	}
	if (sel->all_channels)
		return "no pattern behind &*, which holds all channels: write resetchannels before it";
	patterns_add(&sel->channels, pattern, 0);
	return NULL;
}

/* What may stand in brackets, too. */
static const char *selector_rule(struct acl_selector *sel, struct slice word)
{
	if (slice_is(word, "allkeys"))
		return sel->all_keys ? NULL : key_rule(sel, SLICE_LIT("~*"));
	if (slice_is(word, "allchannels"))
		return channel_rule(sel, SLICE_LIT("*"));
	if (slice_is(word, "allcommands") || slice_is(word, "nocommands")) {
		set_all_commands(sel, slice_is(word, "allcommands"));
		return NULL;
	}
	if (slice_is(word, "resetkeys")) {
		patterns_clear(&sel->keys);
		sel->all_keys = false;
		return NULL;
	}
	if (slice_is(word, "resetchannels")) {
		patterns_clear(&sel->channels);
		sel->all_channels = false;
		return NULL;
	}
	switch (word.p[0]) {
	case '~':
	case '%':
		return key_rule(sel, word);
	case '&':
		return channel_rule(sel, slice(word.p + 1, word.n - 1));
	case '+':
	case '-':
		return command_rule(sel, slice(word.p + 1, word.n - 1), word.p[0] == '+');
	default:
		return "a rule: on, off, nopass, >password, #hash, ~keys, %R~keys, &channels, +command, +@category, (rule …), reset …";
	}
}

/* ---- users ---- */

void acl_user_add_password(struct acl_user *u, const unsigned char *hash)
{
	for (unsigned i = 0; i < u->npasswords; i++)
		if (memcmp(u->passwords[i], hash, ACL_HASH) == 0)
			return;
	u->passwords = realloc(u->passwords, (u->npasswords + 1) * sizeof *u->passwords);
	if (!u->passwords)
		abort();
	memcpy(u->passwords[u->npasswords++], hash, ACL_HASH);
}

static bool read_hash(struct slice hex, unsigned char *hash)
{
	if (hex.n != 2 * ACL_HASH)
		return false;
	for (size_t i = 0; i < hex.n; i++) {
		char c = hex.p[i];
		int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
		if (digit < 0)
			return false;
		hash[i / 2] = (unsigned char)(i % 2 ? hash[i / 2] | digit : digit << 4);
	}
	return true;
}

/* >password #hash <password !hash */
static const char *password_rule(struct acl_user *u, struct slice word)
{
	unsigned char hash[ACL_HASH];
	struct slice text = slice(word.p + 1, word.n - 1);

	if (word.p[0] == '>' || word.p[0] == '<')
		acl_hash(text, hash);
	else if (!read_hash(text, hash))
		return "64 hexadecimal digits in lower case, the password's SHA-256";
	if (word.p[0] == '>' || word.p[0] == '#') {
		acl_user_add_password(u, hash);
		u->nopass = false;
		return NULL;
	}
	for (unsigned i = 0; i < u->npasswords; i++)
		if (memcmp(u->passwords[i], hash, ACL_HASH) == 0) {
			memmove(u->passwords[i], u->passwords[i + 1], (u->npasswords - i - 1) * sizeof *u->passwords);
			u->npasswords--;
			return NULL;
		}
	return "a password that the user has";
}

static const char *brackets_rule(struct acl_user *u, struct slice word, size_t *at)
{
	struct acl_selector sel;
	const char *expected = NULL;

	if (word.n < 2 || word.p[word.n - 1] != ')')
		return "a closing bracket at the end of the rules";
	acl_selector_init(&sel);
	for (size_t i = 1, end; i < word.n - 1 && !expected; i = end) {
		if (word.p[i] == ' ' || word.p[i] == '\t') {
			end = i + 1;
			continue;
		}
		for (end = i; end < word.n - 1 && word.p[end] != ' ' && word.p[end] != '\t';)
			end++;
		expected = word.p[end - 1] == ')' ? "one closing bracket" : selector_rule(&sel, slice(word.p + i, end - i));
		*at = expected ? i : 0;
	}
	if (expected) {
		acl_selector_release(&sel);
		return expected;
	}
	u->selectors = realloc(u->selectors, (u->nselectors + 1) * sizeof *u->selectors);
	if (!u->selectors)
		abort();
	u->selectors[u->nselectors++] = sel;
	return NULL;
}

static void clear_selectors(struct acl_user *u)
{
	while (u->nselectors > 1)
		acl_selector_release(&u->selectors[--u->nselectors]);
}

static void reset_user(struct acl_user *u)
{
	clear_selectors(u);
	acl_selector_release(&u->selectors[0]);
	acl_selector_init(&u->selectors[0]);
	u->npasswords = 0;
	u->on = u->nopass = false;
}

const char *acl_rule(struct acl_user *u, struct slice word, size_t *at)
{
	*at = 0;
	if (slice_is(word, "on") || slice_is(word, "off")) {
		u->on = slice_is(word, "on");
	} else if (slice_is(word, "nopass") || slice_is(word, "resetpass")) {
		u->nopass = slice_is(word, "nopass");
		u->npasswords = 0;
	} else if (slice_is(word, "clearselectors")) {
		clear_selectors(u);
	} else if (slice_is(word, "reset")) {
		reset_user(u);
	} else if (slice_is(word, "sanitize-payload") || slice_is(word, "skip-sanitize-payload")) {
		return NULL; /* the server that a RESTORE reaches decides */
	} else if (memchr(">#<!", word.p[0], 4)) {
		return password_rule(u, word);
	} else if (word.p[0] == '(') {
		return brackets_rule(u, word, at);
	} else {
		return selector_rule(&u->selectors[0], word);
	}
	return NULL;
}
