/* acl_internal.h - shared by acl.c (the set, the check) and acl_rules.c (what a rule's word does). */
#ifndef CROSSFADE_ACL_INTERNAL_H
#define CROSSFADE_ACL_INTERNAL_H

#include "proxy/acl.h"

void acl_selector_init(struct acl_selector *sel);
void acl_selector_release(struct acl_selector *sel);
void acl_user_add_password(struct acl_user *u, const unsigned char *hash);
/* One word of a user's line; brackets come whole. NULL: done; else what was expected, and *at is the offset of what is to blame. */
const char *acl_rule(struct acl_user *u, struct slice word, size_t *at);
void acl_hash(struct slice password, unsigned char *hash);

#endif
