/* ACL as the proxy answers it: its own users, in the form of the source's version. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "proxy/client.h"
#include "proxy/local.h"
#include "resp/digits.h"
#include "resp/write.h"

void local_acl_whoami(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	client_reply(w, c, local_cat_text(sdsempty(), c->user->name));
}

/* Redis 8 shows a flag that the others leave out. */
static bool shows_sanitize(struct identity id)
{
	return !id.valkey && id.number >= 0x080000;
}

static sds cat_sds(sds s, sds text) /* takes the text */
{
	s = resp_cat_bulk(s, slice(text, sdslen(text)));
	sdsfree(text);
	return s;
}

static int by_name(const void *a, const void *b)
{
	return sdscmp((*(const struct acl_user *const *)a)->name, (*(const struct acl_user *const *)b)->name);
}

/* In the order of their names, as the servers'. */
static void list(struct worker *w, struct client *c, bool whole)
{
	unsigned n = acl_count(w->acl);
	const struct acl_user **users = malloc(n * sizeof *users);
	bool sanitize = shows_sanitize(local_identity(w));
	sds s = resp_cat_len(sdsempty(), '*', n);

	if (!users)
		abort();
	for (unsigned i = 0; i < n; i++)
		users[i] = acl_user_at(w->acl, i);
	qsort(users, n, sizeof *users, by_name);
	for (unsigned i = 0; i < n; i++)
		s = cat_sds(s, whole ? acl_cat_user(sdsempty(), users[i], sanitize) : sdsdup(users[i]->name));
	free(users);
	client_reply(w, c, s);
}

void local_acl_list(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	list(w, c, true);
}

void local_acl_users(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	(void)cmd;
	(void)argc;
	list(w, c, false);
}

static sds cat_selector(sds s, const struct acl_selector *sel, struct identity id)
{
	s = cat_sds(local_cat_text(s, "commands"), acl_cat_commands(sdsempty(), sel));
	s = cat_sds(local_cat_text(s, "keys"), acl_cat_keys(sdsempty(), sel));
	s = cat_sds(local_cat_text(s, "channels"), acl_cat_channels(sdsempty(), sel));
	if (id.valkey && id.number >= 0x090100)
		s = local_cat_text(local_cat_text(s, "databases"), "alldbs");
	return s;
}

static sds cat_flags(sds s, const struct acl_user *u, int proto, bool sanitize)
{
	s = local_cat_aggregate(s, proto, '~', 1 + u->nopass + sanitize);
	s = local_cat_text(s, u->on ? "on" : "off");
	if (u->nopass)
		s = local_cat_text(s, "nopass");
	return sanitize ? local_cat_text(s, "sanitize-payload") : s;
}

void local_acl_getuser(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	const struct acl_user *u = acl_find(w->acl, w->argv[2]);
	struct identity id = local_identity(w);
	int fields = id.valkey && id.number >= 0x090100 ? 4 : 3;

	(void)cmd;
	(void)argc;
	if (!u) {
		client_reply(w, c, resp_cat_null(sdsempty(), c->proto));
		return;
	}
	sds s = local_cat_aggregate(sdsempty(), c->proto, '%', 3 + fields);
	s = cat_flags(local_cat_text(s, "flags"), u, c->proto, shows_sanitize(id));
	s = resp_cat_len(local_cat_text(s, "passwords"), '*', u->npasswords);
	for (unsigned i = 0; i < u->npasswords; i++)
		s = cat_sds(s, acl_cat_hash(sdsempty(), u->passwords[i]));
	s = cat_selector(s, &u->selectors[0], id);
	s = resp_cat_len(local_cat_text(s, "selectors"), '*', u->nselectors - 1);
	for (unsigned i = 1; i < u->nselectors; i++)
		s = cat_selector(local_cat_aggregate(s, c->proto, '%', fields), &u->selectors[i], id);
	client_reply(w, c, s);
}

/* Names of categories, or of the commands of one. */
void local_acl_cat(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	unsigned bit = 0;
	int64_t n = 0;

	if (argc > 3) {
		client_error(w, c, "ERR unknown subcommand or wrong number of arguments for '%.*s'. Try ACL HELP.", (int)(w->argv[1].n < 128 ? w->argv[1].n : 128),
			     w->argv[1].p);
		return;
	}
	(void)cmd;
	sds body = sdsempty();
	if (argc == 2)
		for (; cmd_category_names[bit]; bit++, n++)
			body = local_cat_text(body, cmd_category_names[bit]);
	while (argc == 3 && cmd_category_names[bit] && !slice_is(w->argv[2], cmd_category_names[bit]))
		bit++;
	if (argc == 3 && !cmd_category_names[bit]) {
		sds text = sdscatlen(sdsnew("ERR Unknown category '"), w->argv[2].p, w->argv[2].n < 128 ? w->argv[2].n : 128);
		text = sdscat(text, "'");
		client_reply(w, c, resp_cat_error(sdsempty(), text));
		sdsfree(text);
		sdsfree(body);
		return;
	}
	for (unsigned i = 0; argc == 3 && i < command_count; i++)
		if (command_table[i].categories >> bit & 1 && local_has(w, &command_table[i])) {
			body = local_cat_text(body, command_table[i].name);
			n++;
		}
	client_reply(w, c, sdscatsds(resp_cat_len(sdsempty(), '*', n), body));
	sdsfree(body);
}

/* ---- DRYRUN ---- */

static void quoting(struct worker *w, struct client *c, const char *before, struct slice what, const char *after)
{
	sds text = sdscatlen(sdsnew(before), what.p, what.n < 128 ? what.n : 128);

	text = sdscat(text, after);
	client_reply(w, c, text[0] == 'E' ? resp_cat_error(sdsempty(), text) : resp_cat_bulk(sdsempty(), slice(text, sdslen(text))));
	sdsfree(text);
}

static void dryrun_verdict(struct worker *w, struct client *c, const struct acl_user *u, const struct command *cmd, uint32_t argc)
{
	uint32_t at;
	char before[384];
	bool is_7_0 = local_identity(w).number < 0x070200;
	enum acl_verdict verdict = permit_check(w, u, cmd, argc, w->argv + 3, &at);
	const char *what = verdict == ACL_DENIED_COMMAND ? "run the '" : "access the '";
	struct slice name = slice(cmd->name, strlen(cmd->name));

	if (verdict == ACL_ALLOWED) {
		client_reply(w, c, resp_cat_simple(sdsempty(), "OK"));
		return;
	}
	if (is_7_0)
		snprintf(before, sizeof before, "This user has no permissions to %s", what);
	else
		snprintf(before, sizeof before, "User %.128s has no permissions to %s", u->name, what);
	quoting(w, c, before, verdict == ACL_DENIED_COMMAND ? name : w->argv[3 + at],
		verdict == ACL_DENIED_COMMAND ? "' command" : verdict == ACL_DENIED_KEY ? "' key" : "' channel");
}

void local_acl_dryrun(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	const struct acl_user *u = acl_find(w->acl, w->argv[2]);
	const struct command *tried = command_find(w->argv[3]);

	(void)cmd;
	if (tried && tried->flags & CMD_CONTAINER && argc > 4)
		tried = command_find_sub(tried, w->argv[4]);
	if (!u)
		quoting(w, c, "ERR User '", w->argv[2], "' not found");
	else if (!tried)
		quoting(w, c, "ERR Command '", w->argv[3], "' not found");
	else if (!command_arity_ok(tried, argc - 3))
		client_error(w, c, "ERR wrong number of arguments for '%s' command", tried->name);
	else
		dryrun_verdict(w, c, u, tried, argc - 3);
}

/* ---- GENPASS ---- */

void local_acl_genpass(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	static const char hex[] = "0123456789abcdef";
	int64_t bits = 256;
	unsigned char random[512];
	char text[1024];

	(void)cmd;
	if (argc == 3 && (!resp_string_to_int(w->argv[2].p, w->argv[2].n, &bits))) {
		client_error(w, c, "ERR value is not an integer or out of range");
		return;
	}
	if (bits <= 0 || bits > 4096) {
		client_error(w, c, "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096");
		return;
	}
	size_t digits = (size_t)(bits + 3) / 4;
	size_t need = (digits + 1) / 2;
	for (size_t got = 0; got < need;) {
		ssize_t n = getrandom(random + got, need - got, 0);
		if (n < 0 && errno != EINTR)
			abort();
		got += n > 0 ? (size_t)n : 0;
	}
	for (size_t i = 0; i < digits; i++)
		text[i] = hex[i % 2 ? random[i / 2] & 15 : random[i / 2] >> 4];
	client_reply(w, c, resp_cat_bulk(sdsempty(), slice(text, digits)));
}

void local_acl_log(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	struct identity id = local_identity(w);
	struct timespec ts;
	int64_t n = 10;

	(void)cmd;
	if (argc > 3) {
		client_error(w, c, "ERR unknown subcommand or wrong number of arguments for '%.*s'. Try ACL HELP.", (int)(w->argv[1].n < 128 ? w->argv[1].n : 128),
			     w->argv[1].p);
	} else if (argc == 3 && slice_is(w->argv[2], "reset")) {
		acl_log_reset(w->fleet->acl_log);
		client_reply(w, c, resp_cat_simple(sdsempty(), "OK"));
	} else if (argc == 3 && !resp_string_to_int(w->argv[2].p, w->argv[2].n, &n)) {
		client_error(w, c, "ERR value is not an integer or out of range");
	} else {
		clock_gettime(CLOCK_REALTIME, &ts);
		client_reply(w, c, acl_log_cat(w->fleet->acl_log, sdsempty(), c->proto, n < 0 ? 0 : n, id.number >= 0x070200,
					       ts.tv_sec * INT64_C(1000) + ts.tv_nsec / 1000000));
	}
}
