#include "backfill/large.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "backfill/fault.h"
#include "backfill/large_parts.h"
#include "backfill/slot_tag.h"
#include "resp/write.h"

#define WANT_FIRST 32 /* elements of the first chunk, whose size nobody knows yet */

sds large_tmp_key(uint16_t slot, uint64_t serial)
{
	return sdscatprintf(sdsempty(), LARGE_TMP_PREFIX "{%s}:%llu", slot_tag(slot), (unsigned long long)serial);
}

/* ---- the end ---- */

/* Nothing is told of it any more. */
static void large_close(struct large *l)
{
	l->over = true;
	if (l->asking)
		l->read_left = 0;
}

static void large_release(struct large *l)
{
	assert(l->over && l->read_left == 0 && l->write_left == 0);
	large_stream_release(l);
	block_release(&l->block);
	sdsfree(l->block.out);
	sdsfree(l->request);
	sdsfree(l->held);
	sdsfree(l->changed);
	sdsfree(l->asked);
	sdsfree(l->expire.fields);
	sdsfree(l->key);
	sdsfree(l->tmp);
	free(l);
}

/* The temporary key goes, behind whatever is still on its way to it. */
static void large_drop(struct large *l)
{
	if (l->written)
		bulk_command(l->o.to, l->o.db, NULL, NULL, "UNLINK", l->tmp, NULL);
	l->written = false;
}

void large_fail(struct large *l, enum recipe_result result, const char *fmt, ...)
{
	char why[300];
	va_list ap;

	if (l->over)
		return;
	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	large_drop(l);
	large_close(l);
	l->fn(l->arg, result, NULL, 0, l->bytes, why);
}

void large_cancel(struct large *l)
{
	assert(!l->over && (l->read_left > 0 || l->write_left > 0 || l->settling));
	large_drop(l);
	large_close(l);
	if (l->read_left == 0 && l->write_left == 0)
		large_release(l);
}

/* The value is whole under the temporary key: the block that makes it the key's. A key that is gone is a block that deletes. */
static void large_done(struct large *l)
{
	struct block b;
	sds old = sdscat(sdsdup(l->tmp), ":old");
	struct slice tmp = slice(l->tmp, sdslen(l->tmp)), aside = slice(old, sdslen(old)), key = l->o.key;
	char ms[24];

	snprintf(ms, sizeof(ms), "%lld", (long long)l->expires_at_ms);
	if (fault("large-tmp-expires") && l->written)
		bulk_command(l->o.to, l->o.db, NULL, NULL, "UNLINK", l->tmp, NULL);
	block_init(&b, sdsempty(), key);
	if (!l->written) {
		block_words(&b, "UNLINK", NULL);
	} else {
		block_command(&b, "MULTI", 0, NULL);
		block_command(&b, l->expires_at_ms >= 0 ? "PEXPIREAT" : "PERSIST", l->expires_at_ms >= 0 ? 2 : 1,
			      (struct slice[]){ tmp, slice(ms, strlen(ms)) });
		block_command(&b, "RENAME", 2, (struct slice[]){ key, aside });
		block_command(&b, "RENAME", 2, (struct slice[]){ tmp, key });
		block_command(&b, "RENAMENX", 2, (struct slice[]){ aside, key });
		block_command(&b, "UNLINK", 1, &aside);
		block_command(&b, "EXEC", 0, NULL);
	}
	sdsfree(old);
	l->over = true;
	l->fn(l->arg, l->written ? RECIPE_OK : RECIPE_GONE, b.out, b.ncommands, l->bytes, NULL);
}

/* [expiry, key aside, tmp to key, aside back, UNLINK]. Moved back (:1) although tmp was there: it expired that very moment. */
bool large_swapped(struct slice exec)
{
	struct values w = values_over(exec);
	struct resp_item expiry, aside, renamed, back;

	return values_children(&w) == 5 && values_item(&w, &expiry) && values_item(&w, &aside) && values_item(&w, &renamed) &&
	       values_item(&w, &back) && renamed.type == '+' && !(back.type == ':' && back.n == 1);
}

/* ---- writing ---- */

struct block *large_block(struct large *l)
{
	if (l->block.ncommands == 0 && !l->written) {
		/* The first chunk and its TTL come together, so that a crash leaves nothing that stays for ever. */
		block_command(&l->block, "MULTI", 0, NULL);
		block_words(&l->block, "UNLINK", NULL);
	}
	return &l->block;
}

/* The text of an error, also of one inside EXEC's array. */
static bool reply_error(struct slice reply, struct slice *text)
{
	struct values w = values_over(reply);
	struct resp_item item;

	values_item(&w, &item);
	*text = item.text;
	if (item.type == '-' || item.type == '!')
		return true;
	if (item.type != '*')
		return false;
	while (w.p < w.end) {
		struct values child = values_over(values_whole(&w));
		if (!values_item(&child, &item))
			return false;
		*text = item.text;
		if (item.type == '-' || item.type == '!')
			return true;
	}
	return false;
}

static void large_advance(struct large *l);

static void on_written(void *arg, struct slice reply, const char *why)
{
	struct large *l = arg;
	struct slice text;

	if (!reply.p) {
		l->write_left = 0;
		l->written = false; /* nobody is there to take UNLINK; the TTL will */
		large_fail(l, RECIPE_ERROR, "%s", why);
	} else {
		l->write_left--;
		if (reply_error(reply, &text))
			large_fail(l, RECIPE_ERROR, "the receiver answered: %.*s", (int)(text.n < 200 ? text.n : 200), text.p);
	}
	large_advance(l);
}

static void large_write(struct large *l)
{
	bool first = !l->written;
	char ttl[16];

	snprintf(ttl, sizeof(ttl), "%d", LARGE_TMP_TTL_MS);
	block_words(&l->block, "PEXPIRE", ttl, NULL);
	if (first)
		block_command(&l->block, "EXEC", 0, NULL);
	l->write_left = l->block.ncommands;
	l->written = true;
	bulk_send(l->o.to, l->o.db, l->block.out, sdslen(l->block.out), l->block.ncommands, on_written, l);
	l->block.ncommands = 0;
	sdsclear(l->block.out);
}

/* ---- reading ---- */

void large_request(struct large *l, int argc, const struct slice *argv)
{
	l->request = resp_cat_request(l->request, argc, argv);
	l->nrequests++;
}

void large_request_words(struct large *l, const char *verb, ...)
{
	struct slice argv[8] = { slice(verb, strlen(verb)), l->o.key };
	int argc = 2;
	const char *word;
	va_list ap;

	va_start(ap, verb);
	while ((word = va_arg(ap, const char *))) {
		assert(argc < 8);
		argv[argc++] = slice(word, strlen(word));
	}
	va_end(ap);
	large_request(l, argc, argv);
}

static void take_reply(struct large *l, struct slice reply, const char *why)
{
	struct slice text;

	if (!reply.p) {
		l->read_left = 0;
		large_fail(l, RECIPE_ERROR, "%s", why);
		return;
	}
	l->read_left--;
	l->bytes += reply.n;
	if (!l->over && reply_error(reply, &text))
		large_fail(l, RECIPE_ERROR, "%.*s", (int)(text.n < 200 ? text.n : 200), text.p);
	else if (!l->over)
		l->take(l, reply);
}

static void on_read(void *arg, struct slice reply, const char *why)
{
	take_reply(arg, reply, why);
	large_advance(arg);
}

void large_ask(struct large *l, void (*take)(struct large *l, struct slice reply))
{
	unsigned n = l->nrequests;

	assert(l->read_left == 0 && n > 0);
	l->take = take;
	l->read_left = n;
	l->nrequests = 0;
	l->asking = l->o.ask && l->op && !l->settled;
	if (l->asking) {
		sds request = l->request;
		l->request = sdsempty();
		l->o.ask(l->arg, request, n);
		return;
	}
	bulk_send(l->o.from, l->o.db, l->request, sdslen(l->request), n, on_read, l);
	sdsclear(l->request);
}

void large_told(struct large *l, sds replies)
{
	struct values w = values_over(slice(replies, sdslen(replies)));

	assert(l->asking && l->read_left > 0);
	while (l->read_left > 0) {
		struct slice reply = values_whole(&w);
		take_reply(l, reply.n ? reply : slice(NULL, 0), "fewer replies came than were asked for");
	}
	l->asking = false;
	sdsfree(replies);
	large_advance(l);
}

bool large_is_ordered(const struct large *l)
{
	return l->op != NULL;
}

void large_adapt(struct large *l, uint64_t elements, size_t bytes)
{
	if (elements == 0)
		return;
	uint64_t want = BLOCK_BYTES / (bytes / elements + 1), grown = 2 * (uint64_t)l->want;
	want = want < grown ? want : grown; /* a few small elements say little of those that follow */
	l->want = want < 1 ? 1 : want > l->most ? l->most : (unsigned)want;
}

static bool changes_left(const struct large *l)
{
	return l->changed && l->changed_at < sdslen(l->changed);
}

static void take_expiry(struct large *l, struct slice reply)
{
	struct values w = values_over(reply);

	l->expiry_read = true;
	if (!values_int(&w, &l->expires_at_ms) || l->expires_at_ms == -2)
		large_fail(l, RECIPE_ERROR, "it went away while it was copied");
}

/* The next thing to be read, if there is any now. */
static void large_read(struct large *l)
{
	if (l->again && !l->fields_wait && changes_left(l)) {
		large_read_changed(l);
	} else if (!l->all_read) {
		l->read(l);
	} else if (l->settled && !l->expiry_read) {
		large_request_words(l, "PEXPIRETIME", NULL);
		large_ask(l, take_expiry);
	}
}

/* Commands, in the order in which they were executed. */
static bool do_again(struct large *l, sds commands)
{
	struct values w = values_over(slice(commands, sdslen(commands)));

	while (w.p < w.end) {
		struct slice whole = values_whole(&w);
		struct large_op op = { .words = values_over(whole) };

		op.n = values_children(&op.words) - 2;
		op.verb = values_text(&op.words);
		if (op.n < 0 || !op.verb.p || !values_text(&op.words).p || !l->op(l, &op))
			return false;
	}
	return sdslen(l->block.out) <= LARGE_CHANGED_MAX;
}

bool large_changed(struct large *l, sds elements)
{
	if (l->op) {
		/* Without `ask` it is not known what the chunks have seen: the token will tell. */
		bool ok = !elements || !l->o.ask || do_again(l, elements);
		sdsfree(elements);
		return ok;
	}
	if (!l->changed)
		l->changed = sdsempty();
	sdsrange(l->changed, (ssize_t)l->changed_at, -1);
	l->changed_at = 0;
	if (elements)
		l->changed = sdscatlen(l->changed, elements, sdslen(elements));
	sdsfree(elements);
	return sdslen(l->changed) <= LARGE_CHANGED_MAX;
}

void large_settled(struct large *l)
{
	assert(l->settling && l->read_left == 0 && l->write_left == 0);
	l->settling = false;
	l->settled = true;
	if (l->read_last) {
		l->all_read = false;
		l->read = l->read_last;
	}
	large_advance(l);
}

/* Whatever can go on goes on: one batch is written while the next is read. l may be gone afterwards. */
static void large_advance(struct large *l)
{
	if (!l->over && l->write_left == 0 && l->read_left == 0 && l->all_read && l->block.ncommands == 0 && !l->settling && !changes_left(l)) {
		if (!(l->again || (l->op && l->o.ask)) || !l->o.settle || l->expiry_read || (!l->written && !l->read_last)) {
			large_done(l);
		} else if (!l->settled) {
			l->settling = true;
			l->o.settle(l->arg);
			return;
		}
	}
	if (l->over) {
		if (l->read_left == 0 && l->write_left == 0)
			large_release(l);
		return;
	}
	if (l->read_left > 0)
		return;
	if (l->block.ncommands > 0) {
		if (l->write_left > 0)
			return;
		large_write(l);
	}
	large_read(l);
}

/* TYPE, then PEXPIRETIME. */
static void take_type(struct large *l, struct slice reply)
{
	struct values w = values_over(reply);
	struct slice type;

	if (l->read_left == 0) {
		if (!values_int(&w, &l->expires_at_ms))
			large_fail(l, RECIPE_ERROR, "PEXPIRETIME was not answered with an integer");
		else if (l->expires_at_ms == -2 || (l->expires_at_ms >= 0 && l->expires_at_ms < l->o.now_ms))
			l->all_read = true;
		return;
	}
	type = values_text(&w);
	if (type.p && slice_is(type, "none"))
		l->all_read = true;
	else if (!type.p || !large_choose(l, type))
		large_fail(l, RECIPE_CANNOT, "values of type '%.*s' cannot be carried", (int)(type.n < 64 ? type.n : 64), type.p ? type.p : "");
	if (l->op && l->changed) {
		/* Told before it was known how to take it: these were executed before the first chunk is read. */
		sdsclear(l->changed);
		l->changed_at = 0;
	}
}

static sds sds_of(struct slice s)
{
	return sdsnewlen(s.p, s.n);
}

struct large *large_start(const struct large_options *o, large_fn *fn, void *arg)
{
	struct large *l = calloc(1, sizeof(*l));

	if (!l)
		abort();
	l->o = *o;
	l->key = sds_of(o->key);
	l->o.key = slice(l->key, sdslen(l->key));
	l->tmp = large_tmp_key(o->slot, o->serial);
	l->fn = fn;
	l->arg = arg;
	l->expires_at_ms = -1;
	l->want = WANT_FIRST;
	l->length = -1;
	l->most = BLOCK_ELEMENTS;
	strcpy(l->cursor, "0");
	l->request = sdsempty();
	block_init(&l->block, sdsempty(), slice(l->tmp, sdslen(l->tmp)));
	l->expire.b = &l->block;
	large_request_words(l, "TYPE", NULL);
	large_request_words(l, "PEXPIRETIME", NULL);
	large_ask(l, take_type);
	return l;
}

uint64_t large_bytes_taken(struct large *l)
{
	uint64_t n = l->bytes - l->bytes_told;

	l->bytes_told = l->bytes;
	return n;
}
