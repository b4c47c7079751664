/* Users as text: what ACL LIST and ACL GETUSER show, and what an ACL file would say. */
#include "proxy/acl.h"

sds acl_cat_hash(sds s, const unsigned char *hash)
{
	for (unsigned i = 0; i < ACL_HASH; i++)
		s = sdscatprintf(s, "%02x", hash[i]);
	return s;
}

sds acl_cat_commands(sds s, const struct acl_selector *sel)
{
	for (unsigned i = 0; i < sel->nrules; i++)
		s = sdscatprintf(s, "%s%s", i ? " " : "", sel->rules[i]);
	return s;
}

static sds cat_patterns(sds s, const struct acl_patterns *p, const char *sign)
{
	for (unsigned i = 0; i < p->n; i++) {
		unsigned rights = p->list[i].rights;
		s = sdscat(s, i ? " " : "");
		s = sdscat(s, rights == ACL_READ ? "%R" : rights == ACL_WRITE ? "%W" : "");
		s = sdscatsds(sdscat(s, sign), p->list[i].text);
	}
	return s;
}

sds acl_cat_keys(sds s, const struct acl_selector *sel)
{
	return sel->all_keys ? sdscat(s, "~*") : cat_patterns(s, &sel->keys, "~");
}

sds acl_cat_channels(sds s, const struct acl_selector *sel)
{
	return sel->all_channels ? sdscat(s, "&*") : cat_patterns(s, &sel->channels, "&");
}

static sds cat_selector(sds s, const struct acl_selector *sel)
{
	s = acl_cat_keys(s, sel);
	if (sel->all_keys || sel->keys.n)
		s = sdscat(s, " ");
	if (!sel->all_channels)
		s = sdscat(s, "resetchannels ");
	s = acl_cat_channels(s, sel);
	if (sel->all_channels || sel->channels.n)
		s = sdscat(s, " ");
	return acl_cat_commands(s, sel);
}

sds acl_cat_user(sds s, const struct acl_user *u, bool sanitize)
{
	s = sdscatprintf(s, "user %s %s%s%s", u->name, u->on ? "on" : "off", u->nopass ? " nopass" : "", sanitize ? " sanitize-payload" : "");
	for (unsigned i = 0; i < u->npasswords; i++)
		s = acl_cat_hash(sdscat(s, " #"), u->passwords[i]);
	for (unsigned i = 0; i < u->nselectors; i++) {
		s = sdscat(s, i ? " (" : " ");
		s = cat_selector(s, &u->selectors[i]);
		s = sdscat(s, i ? ")" : "");
	}
	return s;
}
