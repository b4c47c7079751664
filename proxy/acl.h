/* acl.h - who may do what at the endpoint: users in the syntax of the servers' ACL files, and the answer for one command.
 *
 * A set of users is immutable once it is made and counted by reference, so that every worker may hold it; a reload makes a new one. No I/O but acl_load.
 * Passwords are kept as SHA-256 and compared in constant time; no message contains one.
 * What a script does is not seen here: it runs with the rights that the account of the side has. */
#ifndef CROSSFADE_ACL_H
#define CROSSFADE_ACL_H

#include <hiredis/sds.h>

#include "resp/table.h"

#define ACL_HASH 32  /* bytes of a password's SHA-256 */
#define ACL_WORDS 16 /* 64 commands each */

enum { ACL_READ = 1, ACL_WRITE = 2 };

struct acl_pattern {
	sds text;
	unsigned rights; /* ACL_READ, ACL_WRITE; of channels without meaning */
};

struct acl_patterns {
	struct acl_pattern *list;
	unsigned n;
};

struct acl_first_arg { /* +select|0: the command with this word behind it */
	const struct command *cmd;
	sds word;
};

struct acl_selector { /* a user's own rules, and those in each pair of brackets: one of them has to allow all of a command */
	uint64_t commands[ACL_WORDS]; /* by id */
	bool all_commands, all_keys, all_channels;
	struct acl_patterns keys, channels;
	struct acl_first_arg *first_args;
	unsigned nfirst_args;
	sds *rules;                   /* of commands, as ACL LIST shows them; the first is +@all or -@all */
	unsigned nrules;
};

struct acl_user {
	sds name;
	bool on, nopass;
	bool unrestricted;            /* every command, key and channel */
	unsigned char (*passwords)[ACL_HASH];
	unsigned npasswords, nselectors;
	struct acl_selector *selectors; /* the first is the user's own */
};

struct acl;

/* The file, or its text: NULL, and err of the form "file:line:column: …, expected …". */
struct acl *acl_load(const char *file, char *err, size_t errlen);
struct acl *acl_parse(const char *file, struct slice text, char *err, size_t errlen);
/* The default user alone, who may do everything; password NULL: without one. */
struct acl *acl_of_password(const char *password);
struct acl *acl_ref(struct acl *a);
void acl_unref(struct acl *a); /* NULL is allowed */

unsigned acl_count(const struct acl *a);
const struct acl_user *acl_user_at(const struct acl *a, unsigned i);
const struct acl_user *acl_find(const struct acl *a, struct slice name); /* NULL: no such user */
const struct acl_user *acl_default(const struct acl *a);
/* May this client be the user: is it on, and has it the password? */
bool acl_authenticate(const struct acl_user *u, struct slice password);
/* Is a new connection this user without being asked? */
static inline bool acl_is_open(const struct acl_user *u)
{
	return u->on && u->nopass;
}

enum acl_verdict { ACL_ALLOWED, ACL_DENIED_COMMAND, ACL_DENIED_KEY, ACL_DENIED_CHANNEL };

/* keys: as command_keys() gives them, nkeys < 0 where the arguments are wrong (the server will say so). *at: the word that was refused. */
enum acl_verdict acl_check(const struct acl_user *u, const struct command *cmd, uint32_t argc, const struct slice *argv, const struct key_ref *keys,
			   int nkeys, uint32_t *at);

/* acl_text.c: as ACL LIST and ACL GETUSER show them. */
sds acl_cat_user(sds s, const struct acl_user *u, bool sanitize);
sds acl_cat_commands(sds s, const struct acl_selector *sel);
sds acl_cat_keys(sds s, const struct acl_selector *sel);
sds acl_cat_channels(sds s, const struct acl_selector *sel);
sds acl_cat_hash(sds s, const unsigned char *hash);

#endif
