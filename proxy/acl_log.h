/* acl_log.h - ACL LOG: what the endpoint's users were refused, newest first, as the servers keep it: alike refusals within a minute are one entry that counts.
 *
 * Bounded by acllog-max-len entries, of each the object by ACL_LOG_OBJECT_MAX. One of the whole proxy; any thread (a lock, taken at refusals and by ACL LOG only). */
#ifndef CROSSFADE_ACL_LOG_H
#define CROSSFADE_ACL_LOG_H

#include <hiredis/sds.h>
#include <stdbool.h>
#include <stdint.h>

#include "resp/slice.h"

#define ACL_LOG_OBJECT_MAX (16 * 1024) /* bytes kept of a key or channel */

struct acl_log;

struct acl_refusal {
	const char *reason;   /* "auth", "command", "key", "channel" */
	const char *context;  /* "toplevel", "multi" */
	struct slice object, user;
	struct slice client;  /* as CLIENT LIST has it */
	int64_t now_ms;
};

struct acl_log *acl_log_new(unsigned max);
void acl_log_free(struct acl_log *l);
void acl_log_limit(struct acl_log *l, unsigned max);
void acl_log_add(struct acl_log *l, const struct acl_refusal *r); /* copies */
void acl_log_reset(struct acl_log *l);
/* Appends the reply to ACL LOG n; dated: with the fields that are known from 7.2 on. */
sds acl_log_cat(struct acl_log *l, sds s, int proto, int64_t n, bool dated, int64_t now_ms);

#endif
