/* Lines about what the source holds and the target must be able to hold: modules, payloads, types of values, functions. */
#include <ctype.h>
#include <stdlib.h>

#include "backfill/recipe.h"
#include "proxy/preflight_internal.h"
#include "resp/parse.h"

#define SCAN_COUNT "500"
#define SAMPLE_BATCH_MAX 4096 /* a SCAN may answer more than COUNT */

typedef unsigned long long ull;

/* ---- types of values: by sampling, and only where modules are loaded ---- */

static void take_keys(struct check_node *n, unsigned number, struct slice reply);

static uint64_t sample_limit(const struct check_node *n)
{
	uint64_t each = SAMPLE_KEYS_MAX / n->p->sides[n->side].nnodes;

	return each > 500 ? each : 500;
}

void sample_begin(struct check_node *n)
{
	ask(n, take_keys, 0, "SCAN", "0", "COUNT", SCAN_COUNT, NULL);
}

static void batch_clear(struct check_node *n)
{
	for (unsigned i = 0; i < n->nbatch; i++)
		sdsfree(n->batch[i]);
	free(n->batch);
	n->batch = NULL;
	n->nbatch = 0;
}

static void sample_on(struct check_node *n)
{
	n->sampled += n->nbatch;
	batch_clear(n);
	if (strcmp(n->cursor, "0") == 0)
		n->sampled_all = true;
	else if (n->sampled < sample_limit(n))
		ask(n, take_keys, 0, "SCAN", n->cursor, "COUNT", SCAN_COUNT, NULL);
}

/* A name that may be shown: keys may hold anything. */
static void printable(char *to, size_t cap, const char *key, size_t n)
{
	size_t i;

	for (i = 0; i < n && i < cap - 1; i++)
		to[i] = isprint((unsigned char)key[i]) ? key[i] : '?';
	to[i] = '\0';
}

static void take_type(struct check_node *n, unsigned number, struct slice reply)
{
	static const char *const plain[] = { "none", "string", "list", "set", "zset", "hash", "stream" };
	struct slice type = text_of(reply);
	bool known = !type.p;

	n->untyped += !type.p;
	for (unsigned i = 0; i < sizeof(plain) / sizeof(plain[0]) && !known; i++)
		known = slice_is(type, plain[i]);
	if (!known) {
		struct name *t = names_get(&n->p->sides[n->side].types, type);
		if (t->n++ == 0)
			printable(t->beside, sizeof(t->beside), n->batch[number], sdslen(n->batch[number]));
	}
	if (number + 1 == n->nbatch)
		sample_on(n);
}

static void take_keys(struct check_node *n, unsigned number, struct slice reply)
{
	struct items it, keys;
	struct slice cursor, list, key;

	(void)number;
	if (!items_begin(&it, reply) || !items_next(&it, &cursor) || !items_next(&it, &list) || !items_begin(&keys, list))
		return; /* SCAN is forbidden: the rights say so */
	snprintf(n->cursor, sizeof(n->cursor), "%.*s", (int)text_of(cursor).n, text_of(cursor).p);
	n->batch = calloc(SAMPLE_BATCH_MAX, sizeof(*n->batch));
	while (n->nbatch < SAMPLE_BATCH_MAX && items_next(&keys, &key))
		if (text_of(key).p)
			n->batch[n->nbatch++] = sdsnewlen(text_of(key).p, text_of(key).n);
	for (unsigned i = 0; i < n->nbatch; i++) {
		struct slice words[2] = { SLICE_LIT("TYPE"), slice(n->batch[i], sdslen(n->batch[i])) };
		ask_words(n, take_type, i, 2, words);
	}
	if (n->nbatch == 0)
		sample_on(n);
}

static void judge_types(struct preflight *p)
{
	const struct check_side *s = &p->sides[SIDE_SOURCE];
	uint64_t sampled = 0, untyped = 0;
	bool all = true;
	char label[64];

	for (unsigned i = 0; i < s->nnodes; i++) {
		sampled += s->nodes[i].sampled;
		untyped += s->nodes[i].untyped;
		all &= s->nodes[i].sampled_all;
	}
	side_label(&p->sides[SIDE_TARGET], SIDE_TARGET, label);
	for (unsigned i = 0; i < s->types.n; i++)
		say(p, LEVEL_ERR, "types", "remove them, or move them into another type; cutover --force leaves them behind",
		    "of %s%llu keys of the source %llu %s of type '%s', which cannot be carried to %s: '%s' is one", all ? "all " : "the first ",
		    (ull)sampled, (ull)s->types.at[i].n, s->types.at[i].n == 1 ? "is" : "are", s->types.at[i].name, label, s->types.at[i].beside);
	if (untyped > 0)
		say(p, LEVEL_WARN, "types", "give the source's account the rights that are missing, then check again",
		    "of %llu keys of the source the type was not told: values of modules' types may be among them", (ull)untyped);
	else if (s->types.n == 0 && sampled > 0)
		say(p, LEVEL_OK, "types", NULL, "no type of a module among %s%llu keys of the source", all ? "all " : "the first ", (ull)sampled);
	if (p->in.uncarried > 0)
		say(p, LEVEL_ERR, "uncarried", "proxyctl status names them and says why; remove them or change them, or leave them behind with cutover --force",
		    "%llu key%s could not be carried to the other side", (ull)p->in.uncarried, PLURAL(p->in.uncarried));
}

/* ---- modules ---- */

static void judge_modules(struct preflight *p)
{
	const struct check_side *s = &p->sides[SIDE_SOURCE], *t = &p->sides[SIDE_TARGET];
	struct names lacking = { 0 };
	bool known = true;
	char label[64];

	for (unsigned i = 0; i < s->nnodes; i++)
		known &= s->nodes[i].modules_known || s->nodes[i].lost;
	for (unsigned i = 0; i < s->modules.n; i++)
		if (!names_find(&t->modules, s->modules.at[i].name))
			names_get(&lacking, slice(s->modules.at[i].name, strlen(s->modules.at[i].name)));
	sds text = names_text(sdsempty(), &lacking);
	if (!known)
		say(p, LEVEL_WARN, "modules", "allow the source's account MODULE LIST (module|list), or look yourself",
		    "the source does not tell which modules it has loaded");
	else if (lacking.n)
		say(p, LEVEL_WARN, "modules", "be sure that the applications do not use them: neither their values nor their commands can be carried",
		    "%s lacks modules that the source has loaded: %s", side_label(t, SIDE_TARGET, label), text);
	else if (s->modules.n)
		say(p, LEVEL_WARN, "modules", "values of modules' own types are not carried, whatever the target has loaded: be sure that there are none",
		    "the source has modules loaded, which the target has, too");
	else
		say(p, LEVEL_OK, "modules", NULL, "the source has no modules loaded");
	sdsfree(text);
	names_release(&lacking);
}

/* ---- payloads ---- */

static bool has_field_expiry(enum product product, uint32_t version)
{
	return version >= (product == PRODUCT_VALKEY ? 0x090000u : 0x070400u);
}

static void judge_payloads(struct preflight *p)
{
	const struct topology *s = p->sides[SIDE_SOURCE].topology, *t = p->sides[SIDE_TARGET].topology;
	struct receiver from = { s->product, s->version }, to = { t->product, t->version };
	unsigned a = rdb_version(&from), b = rdb_version(&to);
	uint64_t hashes = 0;

	for (unsigned i = 0; i < p->sides[SIDE_SOURCE].nnodes; i++)
		hashes += p->sides[SIDE_SOURCE].nodes[i].info.field_expiry;
	say(p, LEVEL_OK, "payloads", NULL, "the source writes payloads of version %u, the target of %u: %s", a, b,
	    a == b ? "copied as they are" : "restamped both ways, and copied by type where a type is not known");
	if (hashes == 0)
		return;
	if (!has_field_expiry(t->product, t->version))
		say(p, LEVEL_ERR, "payloads", "take Valkey 9.0 or later as target, or persist these fields (HPERSIST)",
		    "the source has fields that expire in %llu hash%s, which the target does not know", (ull)hashes, hashes == 1 ? "" : "es");
	else if (s->product != t->product)
		say(p, LEVEL_OK, "payloads", NULL, "the source has fields that expire in %llu hash%s: copied field by field", (ull)hashes, hashes == 1 ? "" : "es");
}

/* ---- functions ---- */

static void judge_clashes(struct preflight *p)
{
	const struct check_side *s = &p->sides[SIDE_SOURCE], *t = &p->sides[SIDE_TARGET];
	struct names gone = { 0 }, other = { 0 };

	for (unsigned i = 0; i < t->libraries.n; i++) {
		const struct name *l = &t->libraries.at[i], *same = names_find(&s->libraries, l->name);
		if (!same)
			names_get(&gone, slice(l->name, strlen(l->name)));
		else if (same->n != l->n)
			names_get(&other, slice(l->name, strlen(l->name)));
	}
	sds a = names_text(sdsempty(), &gone), b = names_text(sdsempty(), &other);
	if (gone.n)
		say(p, LEVEL_WARN, "functions", "save them (FUNCTION DUMP) if they are needed: copying replaces all libraries of the target by the source's",
		    "the target has function libraries that the source lacks: %s", a);
	if (other.n)
		say(p, LEVEL_WARN, "functions", "be sure that the source's are the right ones: copying replaces the target's",
		    "function libraries of the same name differ between the sides: %s", b);
	sdsfree(a);
	sdsfree(b);
	names_release(&gone);
	names_release(&other);
}

static void judge_functions(struct preflight *p)
{
	const struct check_side *s = &p->sides[SIDE_SOURCE], *t = &p->sides[SIDE_TARGET];
	bool differ = false;

	for (unsigned i = 1; i < s->nnodes; i++)
		differ |= !s->nodes[i].lost && !s->nodes[0].lost && s->nodes[i].libraries_sum != s->nodes[0].libraries_sum;
	if (differ)
		say(p, LEVEL_WARN, "functions", "load the same libraries on every primary: those of one are copied to all of the target",
		    "the primaries of the source do not have the same function libraries");
	unsigned errors = p->errors;
	for (unsigned i = 0; i < s->libraries.n; i++)
		if (t->engines.n && !names_find(&t->engines, s->libraries.at[i].beside))
			say(p, LEVEL_ERR, "functions", "load that engine on the target, or delete the library on the source",
			    "the function library '%s' needs the engine %s, which the target lacks", s->libraries.at[i].name, s->libraries.at[i].beside);
	unsigned warnings = p->warnings;
	if (p->in.phase == PHASE_PROXY)
		judge_clashes(p);
	if (!differ && errors == p->errors && warnings == p->warnings)
		say(p, LEVEL_OK, "functions", NULL, "the source has %u function librar%s%s", s->libraries.n, s->libraries.n == 1 ? "y" : "ies", s->libraries.n ? ", whose engines the target has" : "");
}

void judge_data(struct preflight *p)
{
	if (!both_answer(p))
		return;
	judge_modules(p);
	judge_payloads(p);
	judge_types(p);
	judge_functions(p);
}
