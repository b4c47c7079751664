#include "proxy/acl.h"

#include <assert.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/acl_internal.h"
#include "resp/glob.h"

#define FILE_MAX (16u << 20)

struct acl {
	atomic_int refs;
	struct acl_user **users;
	unsigned n;
	const struct acl_user *fallback; /* the default user */
};

/* ---- users ---- */

void acl_hash(struct slice password, unsigned char *hash)
{
	unsigned len = ACL_HASH;

	if (!EVP_Digest(password.p, password.n, hash, &len, EVP_sha256(), NULL) || len != ACL_HASH)
		abort();
}

static struct acl_user *user_new(struct acl *a, struct slice name)
{
	struct acl_user *u = calloc(1, sizeof *u);

	a->users = realloc(a->users, (a->n + 1) * sizeof *a->users);
	if (!u || !a->users || !(u->selectors = malloc(sizeof *u->selectors)))
		abort();
	u->name = sdsnewlen(name.p, name.n);
	u->nselectors = 1;
	acl_selector_init(&u->selectors[0]);
	a->users[a->n++] = u;
	return u;
}

static void user_free(struct acl_user *u)
{
	for (unsigned i = 0; i < u->nselectors; i++)
		acl_selector_release(&u->selectors[i]);
	free(u->selectors);
	if (u->passwords)
		OPENSSL_cleanse(u->passwords, u->npasswords * sizeof *u->passwords);
	free(u->passwords);
	sdsfree(u->name);
	free(u);
}

static void must_rule(struct acl_user *u, const char *word)
{
	size_t at;
	const char *wrong = acl_rule(u, slice(word, strlen(word)), &at);

	assert(!wrong);
	(void)wrong;
}

static struct acl_user *add_full_default(struct acl *a)
{
	struct acl_user *u = user_new(a, SLICE_LIT("default"));

	must_rule(u, "on");
	must_rule(u, "nopass");
	must_rule(u, "~*");
	must_rule(u, "&*");
	must_rule(u, "+@all");
	return u;
}

/* ---- sets ---- */

static struct acl *acl_new(void)
{
	struct acl *a = calloc(1, sizeof *a);

	if (!a)
		abort();
	a->refs = 1;
	return a;
}

struct acl *acl_ref(struct acl *a)
{
	atomic_fetch_add_explicit(&a->refs, 1, memory_order_relaxed);
	return a;
}

void acl_unref(struct acl *a)
{
	if (!a || atomic_fetch_sub_explicit(&a->refs, 1, memory_order_acq_rel) > 1)
		return;
	for (unsigned i = 0; i < a->n; i++)
		user_free(a->users[i]);
	free(a->users);
	free(a);
}

static struct acl *finish(struct acl *a)
{
	a->fallback = acl_find(a, SLICE_LIT("default"));
	if (!a->fallback)
		a->fallback = add_full_default(a);
	for (unsigned i = 0; i < a->n; i++) {
		const struct acl_selector *own = &a->users[i]->selectors[0];
		a->users[i]->unrestricted = own->all_commands && own->all_keys && own->all_channels;
	}
	return a;
}

struct acl *acl_of_password(const char *password)
{
	struct acl *a = acl_new();

	if (password) {
		struct acl_user *u = add_full_default(a);
		unsigned char hash[ACL_HASH];
		u->nopass = false;
		acl_hash(slice(password, strlen(password)), hash);
		acl_user_add_password(u, hash);
	}
	return finish(a);
}

unsigned acl_count(const struct acl *a)
{
	return a->n;
}

const struct acl_user *acl_user_at(const struct acl *a, unsigned i)
{
	return a->users[i];
}

const struct acl_user *acl_find(const struct acl *a, struct slice name)
{
	for (unsigned i = 0; i < a->n; i++)
		if (slice_eq(name, slice(a->users[i]->name, sdslen(a->users[i]->name))))
			return a->users[i];
	return NULL;
}

const struct acl_user *acl_default(const struct acl *a)
{
	return a->fallback;
}

bool acl_authenticate(const struct acl_user *u, struct slice password)
{
	unsigned char hash[ACL_HASH];
	bool hit = false;

	acl_hash(password, hash);
	for (unsigned i = 0; i < u->npasswords; i++) /* all of them: how long it takes tells nothing */
		hit |= CRYPTO_memcmp(hash, u->passwords[i], ACL_HASH) == 0;
	return u->on && (u->nopass || hit);
}

/* ---- the file ---- */

/* The next word of the line at *at; of rules a pair of brackets is one: it ends with a word that ends with the closing one. */
static struct slice next_word(struct slice line, size_t *at, bool brackets)
{
	size_t i = *at, from;

	while (i < line.n && (line.p[i] == ' ' || line.p[i] == '\t'))
		i++;
	from = i;
	brackets &= i < line.n && line.p[i] == '(';
	while (i < line.n && ((line.p[i] != ' ' && line.p[i] != '\t') || (brackets && line.p[i - 1] != ')')))
		i++;
	*at = i;
	return slice(line.p + from, i - from);
}

struct place {
	const char *file;
	unsigned line;
	struct slice text; /* the line */
	char *err;
	size_t errlen;
};

static bool wrong(struct place *p, const char *at, const char *expected)
{
	snprintf(p->err, p->errlen, "%s:%u:%zu: expected %s", p->file, p->line, (size_t)(at - p->text.p) + 1, expected);
	return false;
}

static bool parse_line(struct acl *a, struct place *p)
{
	size_t at = 0, blame;
	struct slice word = next_word(p->text, &at, false), name;

	if (!word.n || word.p[0] == '#')
		return true;
	if (!slice_eq(word, SLICE_LIT("user")))
		return wrong(p, word.p, "a line of the form: user NAME rule …");
	name = next_word(p->text, &at, false);
	if (!name.n)
		return wrong(p, name.p, "the user's name");
	if (acl_find(a, name))
		return wrong(p, name.p, "each user once, and this one is there already");
	struct acl_user *u = user_new(a, name);
	while ((word = next_word(p->text, &at, true)).n) {
		const char *expected = acl_rule(u, word, &blame);
		if (expected)
			return wrong(p, word.p + blame, expected);
	}
	return true;
}

struct acl *acl_parse(const char *file, struct slice text, char *err, size_t errlen)
{
	struct acl *a = acl_new();
	struct place p = { file, 0, { NULL, 0 }, err, errlen };

	while (text.n) {
		const char *end = memchr(text.p, '\n', text.n);
		size_t n = end ? (size_t)(end - text.p) : text.n;
		p.line++;
		p.text = slice(text.p, n && text.p[n - 1] == '\r' ? n - 1 : n);
		if (!parse_line(a, &p)) {
			acl_unref(a);
			return NULL;
		}
		n += end != NULL;
		text = slice(text.p + n, text.n - n);
	}
	return finish(a);
}

struct acl *acl_load(const char *file, char *err, size_t errlen)
{
	FILE *f = fopen(file, "re");
	char *text = f ? malloc(FILE_MAX + 1) : NULL;
	size_t n = text ? fread(text, 1, FILE_MAX + 1, f) : 0;
	struct acl *a = NULL;

	if (!text || ferror(f))
		snprintf(err, errlen, "%s: cannot be read: %s: expected a file of users that this user may read", file, strerror(errno));
	else if (n > FILE_MAX)
		snprintf(err, errlen, "%s: expected at most %u bytes", file, FILE_MAX);
	else
		a = acl_parse(file, slice(text, n), err, errlen);
	if (text)
		OPENSSL_cleanse(text, n);
	free(text);
	if (f)
		fclose(f);
	return a;
}

/* ---- the check ---- */

static bool command_allowed(const struct acl_selector *sel, const struct command *cmd, uint32_t argc, const struct slice *argv)
{
	if (sel->all_commands || cmd->flags & CMD_NO_AUTH || sel->commands[cmd->id / 64] >> (cmd->id % 64) & 1)
		return true;
	for (unsigned i = 0; argc > 1 && i < sel->nfirst_args; i++)
		if (sel->first_args[i].cmd == cmd && slice_is(argv[1], sel->first_args[i].word))
			return true;
	return false;
}

/* One that neither reads nor changes the value (EXISTS) asks for no right but that some pattern holds the key. */
static bool key_allowed(const struct acl_selector *sel, struct slice key, uint32_t flags)
{
	unsigned need = (flags & KEY_ACCESS ? ACL_READ : 0) | (flags & (KEY_UPDATE | KEY_INSERT | KEY_DELETE) ? ACL_WRITE : 0);

	for (unsigned i = 0; i < sel->keys.n; i++) {
		const struct acl_pattern *p = &sel->keys.list[i];
		if ((p->rights & need) == need && glob_match(slice(p->text, sdslen(p->text)), key, false))
			return true;
	}
	return false;
}

/* A pattern to subscribe to has to be one of the user's patterns, literally. */
static bool channel_allowed(const struct acl_selector *sel, struct slice channel, bool literally)
{
	for (unsigned i = 0; i < sel->channels.n; i++) {
		struct slice p = slice(sel->channels.list[i].text, sdslen(sel->channels.list[i].text));
		if (literally ? slice_eq(p, channel) : glob_match(p, channel, false))
			return true;
	}
	return false;
}

static bool channels_allowed(const struct acl_selector *sel, const struct command *cmd, uint32_t argc, const struct slice *argv, uint32_t *at)
{
	uint32_t end = cmd->flags & CMD_CHANNEL ? 2 : cmd->flags & (CMD_CHANNELS | CMD_PATTERNS) ? argc : 0;

	for (uint32_t i = 1; i < end; i++)
		if (!channel_allowed(sel, argv[i], cmd->flags & CMD_PATTERNS)) {
			*at = i;
			return false;
		}
	return true;
}

static enum acl_verdict selector_check(const struct acl_selector *sel, const struct command *cmd, uint32_t argc, const struct slice *argv,
				       const struct key_ref *keys, int nkeys, uint32_t *at)
{
	*at = 0;
	if (!command_allowed(sel, cmd, argc, argv))
		return ACL_DENIED_COMMAND;
	for (int i = 0; !sel->all_keys && i < nkeys; i++)
		if (!(keys[i].flags & KEY_NOT_KEY) && !key_allowed(sel, argv[keys[i].index], keys[i].flags)) {
			*at = keys[i].index;
			return ACL_DENIED_KEY;
		}
	return sel->all_channels || channels_allowed(sel, cmd, argc, argv, at) ? ACL_ALLOWED : ACL_DENIED_CHANNEL;
}

/* Of several refusals the one that came furthest is told, as the servers do. */
enum acl_verdict acl_check(const struct acl_user *u, const struct command *cmd, uint32_t argc, const struct slice *argv, const struct key_ref *keys,
			   int nkeys, uint32_t *at)
{
	enum acl_verdict worst = ACL_ALLOWED;
	uint32_t here;

	*at = 0;
	for (unsigned i = 0; i < u->nselectors; i++) {
		enum acl_verdict v = selector_check(&u->selectors[i], cmd, argc, argv, keys, nkeys, &here);
		if (v == ACL_ALLOWED)
			return v;
		if (v > worst || (v == worst && here > *at)) {
			worst = v;
			*at = here;
		}
	}
	return worst;
}
