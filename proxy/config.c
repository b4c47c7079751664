#include "proxy/config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "proxy/acl.h"
#include "proxy/address.h"
#include "proxy/config_options.h"
#include "proxy/log.h"

#define PASSWORD_MAX 4096

struct config_retired {
	struct config_retired *next;
	char *password;
};

/* Where each option was set: for "set twice", and for errors that are found only when all is read. */
struct reading {
	struct config *c;
	const char *file;
	unsigned line;
	unsigned *lines; /* by option; 0: not set */
	char *err;
	size_t errlen;
};

static bool fail(struct reading *r, unsigned line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static bool fail(struct reading *r, unsigned line, const char *fmt, ...)
{
	va_list ap;
	int n = snprintf(r->err, r->errlen, line ? "%s:%u: " : "%s: ", r->file, line);

	if (n < 0 || (size_t)n >= r->errlen)
		return false;
	va_start(ap, fmt);
	vsnprintf(r->err + n, r->errlen - (size_t)n, fmt, ap);
	va_end(ap);
	return false;
}

static bool read_words(struct reading *r, int argc, char **argv)
{
	const struct option *o = config_option_find(argv[0]);
	char why[512];

	if (!o)
		return fail(r, r->line, "unknown option '%s': expected one of those in docs/configuration.md", argv[0]);
	unsigned *set_at = &r->lines[o - config_options];
	if (*set_at)
		return fail(r, r->line, "%s is set on line %u already: expected it once", o->name, *set_at);
	*set_at = r->line;
	if (!config_option_read(r->c, o, argc - 1, argv + 1, why, sizeof(why)))
		return fail(r, r->line, "%s", why);
	return true;
}

static bool read_line(struct reading *r, char *line)
{
	int argc = 0;
	bool ok = true;

	line += strspn(line, " \t");
	line[strcspn(line, "\r\n")] = '\0';
	if (!*line || *line == '#')
		return true;
	sds *argv = sdssplitargs(line, &argc);
	if (!argv)
		return fail(r, r->line, "quotes do not match: expected name value …, with \"…\" or '…' closed and followed by a space");
	if (argc > 0)
		ok = read_words(r, argc, argv);
	sdsfreesplitres(argv, argc);
	return ok;
}

static bool read_file(struct reading *r)
{
	FILE *f = fopen(r->file, "re");
	char *line = NULL;
	size_t cap = 0;
	bool ok = true;

	if (!f)
		return fail(r, 0, "cannot read the configuration: %s", strerror(errno));
	while (ok && getline(&line, &cap, f) >= 0) {
		r->line++;
		ok = read_line(r, line);
	}
	if (ok && ferror(f))
		ok = fail(r, 0, "cannot read the configuration: %s", strerror(errno));
	free(line);
	fclose(f);
	return ok;
}

static unsigned set_on(const struct reading *r, const char *name)
{
	return r->lines[config_option_find(name) - config_options];
}

/* The first line of the file that the option names; never shown anywhere. */
static bool read_secret(struct reading *r, const char *option, const char *file, char **secret)
{
	unsigned line = set_on(r, option);
	char text[PASSWORD_MAX];
	struct stat st;

	if (!file)
		return true;
	FILE *f = fopen(file, "re");
	if (!f)
		return fail(r, line, "%s '%s' cannot be read: %s: expected a file that this user may read, with the password on its first line", option,
			    file, strerror(errno));
	if (fstat(fileno(f), &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & (S_IRWXO)))
		log_warning("%s '%s' is open to every user of this machine: chmod 600 it", option, file);
	char *got = fgets(text, sizeof(text), f);
	fclose(f);
	if (got)
		text[strcspn(text, "\r\n")] = '\0';
	if (!got || !*text)
		return fail(r, line, "%s '%s': expected the password on its first line, which is empty", option, file);
	*secret = strdup(text);
	explicit_bzero(text, sizeof(text));
	return true;
}

static bool check_side(struct reading *r, enum side side)
{
	struct side_config *s = &r->c->side[side];
	const char *user = side == SIDE_SOURCE ? "source-user" : "target-user";
	const char *auth = side == SIDE_SOURCE ? "source-auth-file" : "target-auth-file";

	if (s->user && !s->auth_file)
		return fail(r, set_on(r, user), "%s is set without a password: expected %s, too", user, auth);
	return read_secret(r, auth, s->auth_file, &s->password);
}

static bool check_tls(struct reading *r)
{
	static const char *const switches[SIDES] = { "source-tls", "target-tls" };
	struct config *c = r->c;
	char why[512];

	if (!read_secret(r, "tls-key-file-pass", c->tls_key_pass_file, &c->tls_key_pass))
		return false;
	if (c->tls_port && !config_tls_listener(c, why, sizeof(why)))
		return fail(r, set_on(r, "tls-port"), "%s", why);
	for (int s = 0; s < SIDES; s++) {
		if (c->side[s].use_tls && c->side[s].nnodes && address_is_unix(c->side[s].nodes[0].host))
			return fail(r, set_on(r, switches[s]), "%s is set for a Unix socket: expected no there", switches[s]);
		if (c->side[s].use_tls && !config_tls_side(c, (enum side)s, why, sizeof(why)))
			return fail(r, set_on(r, switches[s]), "%s", why);
	}
	return true;
}

static bool check_users(struct reading *r)
{
	struct config *c = r->c;
	char why[512];

	if (c->aclfile && c->requirepass_file)
		return fail(r, set_on(r, "requirepass-file"), "requirepass-file is set beside aclfile: expected the default user's password there");
	if (!read_secret(r, "requirepass-file", c->requirepass_file, &c->requirepass))
		return false;
	c->acl = c->aclfile ? acl_load(c->aclfile, why, sizeof(why)) : acl_of_password(c->requirepass);
	return c->acl || fail(r, set_on(r, "aclfile"), "aclfile %s", why);
}

static bool check(struct reading *r)
{
	struct config *c = r->c;

	if (c->side[SIDE_SOURCE].nnodes == 0)
		return fail(r, 0, "source-nodes is not set: expected host:port of one or more nodes of the Redis that is left");
	if (!c->port && !c->tls_port && !c->unixsocket)
		return fail(r, set_on(r, "port"), "nothing is listened on: expected port, tls-port or unixsocket");
	return check_side(r, SIDE_SOURCE) && check_side(r, SIDE_TARGET) && check_tls(r) && check_users(r);
}

static void set_defaults(struct config *c)
{
	char err[256];

	for (unsigned i = 0; i < config_option_count; i++) {
		char *word = (char *)(uintptr_t)config_options[i].fallback;
		if (word && !config_option_read(c, &config_options[i], 1, &word, err, sizeof(err))) {
			fprintf(stderr, "BUG: default of %s\n", err);
			abort();
		}
	}
}

bool config_load(struct config *c, const char *file, char *err, size_t errlen)
{
	struct reading r = { c, file, 0, calloc(config_option_count, sizeof(unsigned)), err, errlen };

	memset(c, 0, sizeof(*c));
	c->file = strdup(file);
	set_defaults(c);
	bool ok = read_file(&r) && check(&r);
	free(r.lines);
	if (!ok)
		config_release(c);
	return ok;
}

static void forget(char *secret)
{
	if (secret)
		explicit_bzero(secret, strlen(secret));
	free(secret);
}

void config_release(struct config *c)
{
	for (unsigned i = 0; i < config_option_count; i++)
		config_option_release(c, &config_options[i]);
	for (int s = 0; s < SIDES; s++) {
		forget(c->side[s].password);
		c->side[s].password = NULL;
	}
	forget(c->tls_key_pass);
	c->tls_key_pass = NULL;
	forget(c->requirepass);
	c->requirepass = NULL;
	acl_unref(c->acl);
	c->acl = NULL;
	config_tls_release(c);
	while (c->retired) {
		struct config_retired *r = c->retired;
		c->retired = r->next;
		forget(r->password);
		free(r);
	}
	free(c->file);
	c->file = NULL;
}

/* The new password replaces the old one, to which connections may still refer. */
static void take_password(struct config *c, struct config *fresh, enum side side)
{
	char **now = &c->side[side].password, **then = &fresh->side[side].password;

	if (*now == *then || (*now && *then && strcmp(*now, *then) == 0))
		return;
	if (*now) {
		struct config_retired *r = malloc(sizeof(*r));
		*r = (struct config_retired){ c->retired, *now };
		c->retired = r;
	}
	*now = *then;
	*then = NULL;
	log_notice("config: the %s's password was changed", side_name(side));
}

bool config_reload(struct config *c, char *err, size_t errlen)
{
	struct config *fresh = calloc(1, sizeof(*fresh));

	if (!config_load(fresh, c->file, err, errlen)) {
		free(fresh);
		return false;
	}
	for (unsigned i = 0; i < config_option_count; i++) {
		const struct option *o = &config_options[i];
		sds now = config_option_text(sdsempty(), c, o), then = config_option_text(sdsempty(), fresh, o);
		if (sdscmp(now, then) != 0) {
			if (o->reload != RELOAD_NO) {
				config_option_move(c, fresh, o);
				log_notice("config: %s is now '%s'", o->name, then);
			} else {
				log_warning("config: %s changed in %s, which takes effect at the next start only", o->name, c->file);
			}
		}
		sdsfree(now);
		sdsfree(then);
	}
	take_password(c, fresh, SIDE_SOURCE);
	take_password(c, fresh, SIDE_TARGET);
	config_tls_take(c, fresh);
	struct acl *users = c->acl; /* goes with the fresh one */
	c->acl = fresh->acl;
	fresh->acl = users;
	config_release(fresh);
	free(fresh);
	return true;
}

bool config_set(struct config *c, const char *name, const char *value, char *err, size_t errlen)
{
	const struct option *o = config_option_find(name);
	char *word = (char *)(uintptr_t)value;

	if (!o) {
		snprintf(err, errlen, "unknown option '%s'", name);
		return false;
	}
	if (o->reload != RELOAD_YES) {
		snprintf(err, errlen, "%s cannot be changed here: edit %s and %s", o->name, c->file,
			 o->reload == RELOAD_FILES ? "send SIGHUP" : "start again");
		return false;
	}
	return config_option_read(c, o, 1, &word, err, errlen);
}

char *config_get(const struct config *c, const char *name)
{
	const struct option *o = config_option_find(name);

	if (!o)
		return NULL;
	sds text = config_option_text(sdsempty(), c, o);
	char *copy = strdup(text);
	sdsfree(text);
	return copy;
}

const char *config_option_name(unsigned i)
{
	return i < config_option_count ? config_options[i].name : NULL;
}

void config_print_options(FILE *out)
{
	for (unsigned i = 0; i < config_option_count; i++) {
		const struct option *o = &config_options[i];
		const char *fallback = !o->fallback ? "none" : *o->fallback ? o->fallback : "\"\"";
		fprintf(out, "%-22s default %s%s\n    %s\n    expected: %s\n", o->name, fallback,
			o->reload ? ", SIGHUP changes it" : "", o->help, o->expected);
	}
}
