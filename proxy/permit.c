/* A client's user at work: who it is, what it may send, what becomes of it when the users are read again. Of one who may do everything dispatch asks nothing. */
#include <stdlib.h>
#include <time.h>

#include "proxy/client.h"
#include "proxy/local.h"
#include "proxy/log.h"

void client_become(struct client *c, const struct acl_user *u)
{
	c->user = u;
	c->unrestricted = u && u->unrestricted;
}

/* As a new connection: the default user, if that one needs no password. */
void client_become_default(struct client *c)
{
	const struct acl_user *u = acl_default(c->worker->acl);

	client_become(c, acl_is_open(u) ? u : NULL);
}

/* For ACL LOG. */
static void note_refusal(struct worker *w, struct client *c, const char *reason, struct slice object, struct slice user)
{
	bool multi = c->session && (c->session->txn || c->session->exec);
	sds client = client_cat_info(sdsempty(), w, c);
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	acl_log_add(w->fleet->acl_log, &(struct acl_refusal){ .reason = reason, .context = multi ? "multi" : "toplevel", .object = object, .user = user,
		.client = slice(client, sdslen(client)), .now_ms = ts.tv_sec * INT64_C(1000) + ts.tv_nsec / 1000000 });
	sdsfree(client);
}

/* One message for a wrong name, a wrong password and a user that is off. */
bool client_log_in(struct worker *w, struct client *c, struct slice name, struct slice password)
{
	const struct acl_user *u = acl_find(w->acl, name);

	if (u && acl_authenticate(u, password)) {
		client_become(c, u);
		return true;
	}
	log_limited(LOG_WARNING, "client %llu was not let in: wrong name or password, or its user is off", (unsigned long long)c->id);
	note_refusal(w, c, "auth", w->argv[0], name);
	client_error(w, c, "WRONGPASS invalid username-password pair or user is disabled.");
	return false;
}

enum acl_verdict permit_check(struct worker *w, const struct acl_user *u, const struct command *cmd, uint32_t argc, const struct slice *argv, uint32_t *at)
{
	int n;

	while ((n = command_keys(cmd, argc, argv, w->keys, (int)w->keys_cap)) > (int)w->keys_cap) {
		w->keys_cap = (size_t)n;
		w->keys = realloc(w->keys, w->keys_cap * sizeof *w->keys);
		if (!w->keys)
			abort();
	}
	return acl_check(u, cmd, argc, argv, w->keys, n, at);
}

/* In the words of the source's version, without the word that was refused. */
static void say_no(struct worker *w, struct client *c, const struct command *cmd, enum acl_verdict verdict, uint32_t at)
{
	struct identity id = local_identity(w);
	bool is_7_0 = id.number < 0x070200;
	const char *what = verdict == ACL_DENIED_KEY ? "key" : "channel";

	if (verdict == ACL_DENIED_COMMAND)
		note_refusal(w, c, "command", slice(cmd->name, strlen(cmd->name)), slice(c->user->name, sdslen(c->user->name)));
	else
		note_refusal(w, c, what, w->argv[at], slice(c->user->name, sdslen(c->user->name)));
	if (verdict == ACL_DENIED_COMMAND && is_7_0)
		client_error(w, c, "NOPERM this user has no permissions to run the '%s' command", cmd->name);
	else if (verdict == ACL_DENIED_COMMAND)
		client_error(w, c, "NOPERM User %s has no permissions to run the '%s' command", c->user->name, cmd->name);
	else if (is_7_0)
		client_error(w, c, "NOPERM this user has no permissions to access one of the %ss used as arguments", what);
	else
		client_error(w, c, "NOPERM No permissions to access a %s", what);
	log_limited(LOG_NOTICE, "client %llu: user %s has no permission for '%s'%s%s", (unsigned long long)c->id, c->user->name, cmd->name,
		    verdict == ACL_DENIED_COMMAND ? "" : " on a ", verdict == ACL_DENIED_COMMAND ? "" : what);
}

/* Who has not logged in learns nothing else, not even which commands there are: so from Valkey 9 on. */
bool admit(struct worker *w, struct client *c)
{
	struct identity id = local_identity(w);
	const struct command *cmd;

	if (c->user || !id.valkey || id.number < 0x090000 || ((cmd = command_find(w->argv[0])) && cmd->flags & CMD_NO_AUTH))
		return true;
	client_error(w, c, "NOAUTH Authentication required.");
	return false;
}

bool permit(struct worker *w, struct client *c, const struct command *cmd, uint32_t argc)
{
	uint32_t at;

	if (!c->user && cmd->flags & CMD_NO_AUTH)
		return true;
	if (!c->user) {
		client_error(w, c, "NOAUTH Authentication required.");
		return false;
	}
	enum acl_verdict verdict = permit_check(w, c->user, cmd, argc, w->argv, &at);
	if (verdict != ACL_ALLOWED)
		say_no(w, c, cmd, verdict, at);
	return verdict == ACL_ALLOWED;
}

static bool same_user(const struct acl_user *a, const struct acl_user *b)
{
	sds left = acl_cat_user(sdsempty(), a, false), right = acl_cat_user(sdsempty(), b, false);
	bool same = sdscmp(left, right) == 0;

	sdsfree(left);
	sdsfree(right);
	return same;
}

/* As the servers do when their file is loaded: who is the default user stays it; of the others those go whose user has changed or is not there any more. */
void clients_take_acl(struct worker *w, struct acl *fresh)
{
	struct acl *old = w->acl;

	w->acl = fresh;
	for (struct client *c = w->clients; c; c = c->next) {
		if (!c->user)
			continue;
		const struct acl_user *now = acl_find(fresh, slice(c->user->name, sdslen(c->user->name)));
		if (c->user == acl_default(old))
			client_become(c, acl_default(fresh));
		else if (now && same_user(now, c->user))
			client_become(c, now);
		else
			client_end(c);
	}
	acl_unref(old);
}
