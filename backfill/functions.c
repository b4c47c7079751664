/* functions.c - function libraries, copied before keys: FUNCTION DUMP of one primary of the authority, FUNCTION RESTORE … FLUSH on every primary of the
 * follower, so that both hold the same libraries. The payload is an RDB fragment of opcodes, with the footer of DUMP: only that is
 * rewritten, there is no type byte to be known. */
#include "backfill/internal.h"

#include <string.h>

#include "resp/parse.h"
#include "resp/write.h"

#define FOOTER 10 /* two bytes of version, eight of CRC64 */

static sds function_restamp(struct slice payload, const struct receiver *to)
{
	sds s = must(sdsnewlen(payload.p, payload.n));
	unsigned version = rdb_version(to);
	uint64_t crc;

	s[payload.n - FOOTER] = (char)(version & 0xff);
	s[payload.n - FOOTER + 1] = (char)(version >> 8);
	crc = crc64_jones(0, s, payload.n - 8);
	for (int i = 0; i < 8; i++)
		s[payload.n - 8 + i] = (char)(crc >> (8 * i));
	return s;
}

/* The bulk of a FUNCTION DUMP, without p if the reply is none. */
static struct slice function_payload(struct slice reply)
{
	struct resp_item item;

	if (!resp_item(reply.p, reply.p + reply.n, &item) || item.type != '$' || item.text.n < FOOTER)
		return slice(NULL, 0);
	return item.text;
}

struct function_copy {
	struct backfill *b;
	enum side from;
	functions_fn *fn;
	unsigned awaited;
	bool failed;
};

static void copy_answer(struct function_copy *f, struct slice reply, const char *why)
{
	struct backfill *b = f->b;
	char text[200];

	if (reply.p && reply_error(reply) == REPLY_FINE)
		return;
	f->failed = true;
	b->host->log(b->host->ctx, BF_LOG_WARNING, "functions could not be copied to the %s: %s", side_name(SIDE_OTHER(f->from)),
		     reply.p ? reply_text(reply, text, sizeof(text)) : why);
}

static void copy_end(struct function_copy *f)
{
	struct function_copy f2 = *f;

	free(f);
	f2.fn(f2.b, !f2.failed);
}

static void on_restored(void *arg, struct slice reply, const char *why)
{
	struct function_copy *f = arg;

	copy_answer(f, reply, why);
	if (--f->awaited == 0)
		copy_end(f);
}

static void on_dumped(void *arg, struct slice reply, const char *why)
{
	struct function_copy *f = arg;
	struct backfill *b = f->b;
	struct conns *to = &b->conns[SIDE_OTHER(f->from)];
	struct receiver r = receiver_of(b, SIDE_OTHER(f->from));
	struct slice payload = reply.p ? function_payload(reply) : slice(NULL, 0);

	if (!payload.p) {
		copy_answer(f, reply, why);
		f->failed = true;
		copy_end(f);
		return;
	}
	sds stamped = function_restamp(payload, &r);
	struct slice words[4] = { SLICE_LIT("FUNCTION"), SLICE_LIT("RESTORE"), slice(stamped, sdslen(stamped)), SLICE_LIT("FLUSH") };
	sdsclear(b->scratch);
	b->scratch = resp_cat_request(b->scratch, 4, words);
	sdsfree(stamped);
	f->awaited = 1; /* its own, so that it does not end while it sends */
	for (unsigned i = 0; i < to->n; i++) {
		if (!to->list[i])
			continue;
		f->awaited++;
		bulk_send(to->list[i]->bulk, BULK_ANY_DB, b->scratch, sdslen(b->scratch), 1, on_restored, f);
	}
	if (--f->awaited == 0)
		copy_end(f);
}

void functions_copy(struct backfill *b, enum side from, functions_fn *fn)
{
	struct conn *c = conns_any(b, from);

	if (!c) {
		fn(b, false);
		return;
	}
	struct function_copy *f = must(calloc(1, sizeof(*f)));
	*f = (struct function_copy){ .b = b, .from = from, .fn = fn };
	bulk_command(c->bulk, BULK_ANY_DB, on_dumped, f, "FUNCTION", "DUMP", NULL);
}

/* ---- comparing ---- */

/* Payloads of two products may differ in what says nothing (auxiliary fields), and libraries come in the order of a hash table: FUNCTION LIST WITHCODE
 * settles it, as an order-independent sum over the libraries' name and code. */
struct functions_compare {
	struct backfill *b;
	functions_equal_fn *fn;
	void *arg;
	unsigned awaited;
	bool failed, have;
	uint64_t first;  /* what the first node that answered holds */
	bool different;
};

/* Value of `key` in the map at p (its header is passed), or an empty slice. */
static uint64_t library_sum(struct slice whole)
{
	const char *p = whole.p, *end = whole.p + whole.n;
	struct resp_item item, name = { 0 };
	uint64_t crc = 0;
	size_t used = resp_item(p, end, &item);
	int64_t pairs = used && item.type == '%' ? item.n / 2 : 0;

	p += used;
	for (; pairs > 0; pairs--) {
		used = resp_item(p, end, &name);
		p += used;
		size_t value = resp_value_len(p, end);
		if (!used || !value)
			return 0;
		/* Name, engine and code say everything; what functions there are follows from the code. */
		if (slice_is(name.text, "library_name") || slice_is(name.text, "library_code")) {
			resp_item(p, p + value, &item);
			crc = crc64_jones(crc, item.text.p, item.text.n);
		}
		p += value;
	}
	return crc;
}

static void on_libraries(void *arg, struct slice reply, const char *why)
{
	struct functions_compare *f = arg;
	const char *p = reply.p, *end = reply.p + reply.n;
	struct resp_item item;
	uint64_t sum = 0;

	(void)why;
	size_t used = reply.p ? resp_item(p, end, &item) : 0;
	if (!used || (item.type != '*' && item.type != '~')) {
		f->failed = true;
	} else {
		p += used;
		for (int64_t n = item.n; n > 0; n--) {
			size_t value = resp_value_len(p, end);
			sum += library_sum(slice(p, value)) | 1;
			p += value;
		}
		if (f->have && sum != f->first)
			f->different = true;
		f->first = f->have ? f->first : sum;
		f->have = true;
	}
	if (--f->awaited > 0)
		return;
	struct functions_compare f2 = *f;
	free(f);
	f2.fn(f2.arg, f2.failed ? -1 : !f2.different);
}

void functions_compare(struct backfill *b, enum side authority, functions_equal_fn *fn, void *arg)
{
	struct conn *a = conns_any(b, authority);
	struct conns *to = &b->conns[SIDE_OTHER(authority)];
	struct functions_compare *f = must(calloc(1, sizeof(*f)));

	*f = (struct functions_compare){ .b = b, .fn = fn, .arg = arg, .awaited = 1 };
	if (a) {
		f->awaited++;
		bulk_command(a->bulk, BULK_ANY_DB, on_libraries, f, "FUNCTION", "LIST", "WITHCODE", NULL);
	}
	for (unsigned i = 0; i < to->n; i++) {
		if (!to->list[i])
			continue;
		f->awaited++;
		bulk_command(to->list[i]->bulk, BULK_ANY_DB, on_libraries, f, "FUNCTION", "LIST", "WITHCODE", NULL);
	}
	if (!a || f->awaited < 3) {
		f->failed = true;
	}
	if (--f->awaited == 0) {
		free(f);
		fn(arg, -1);
	}
}
