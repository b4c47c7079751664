/* functions.c - function libraries, copied before keys: FUNCTION DUMP of the authority, FUNCTION RESTORE on every primary of the follower. The payload is an RDB fragment
 * of opcodes, with the footer of DUMP: only that is rewritten, there is no type byte to be known.
 *
 * All primaries of the authority are asked what they have. They agree, as a rule: then the follower gets just that (FLUSH). If they do not (a node joined without the
 * libraries, or one does not answer), a library that some lack may not be taken for one that was deleted: what any of them has is copied (REPLACE), and nothing is removed. */
#include "backfill/internal.h"

#include <stdlib.h>
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

/* ---- what nodes have ---- */

/* Libraries as sums over name and code, in ascending order, each once: payloads of two products may differ in what says nothing (auxiliary fields), and libraries come in
 * the order of a hash table. */
struct libraries {
	uint64_t *sums;
	unsigned n;
};

/* What the nodes of one side have. */
struct survey {
	struct libraries any; /* what one of them has, at least */
	bool have, differ, failed;
};

/* Of one library, a map. Name, engine and code say everything; what functions there are follows from the code. */
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
		if (slice_is(name.text, "library_name") || slice_is(name.text, "library_code")) {
			resp_item(p, p + value, &item);
			crc = crc64_jones(crc, item.text.p, item.text.n);
		}
		p += value;
	}
	return crc;
}

static int by_sum(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void libraries_sort(struct libraries *l)
{
	unsigned n = 0;

	if (l->n)
		qsort(l->sums, l->n, sizeof(l->sums[0]), by_sum);
	for (unsigned i = 0; i < l->n; i++)
		if (!n || l->sums[n - 1] != l->sums[i])
			l->sums[n++] = l->sums[i];
	l->n = n;
}

static bool libraries_equal(const struct libraries *a, const struct libraries *b)
{
	return a->n == b->n && (!a->n || memcmp(a->sums, b->sums, a->n * sizeof(a->sums[0])) == 0);
}

/* The reply to FUNCTION LIST WITHCODE; false: it is none. */
static bool libraries_read(struct slice reply, struct libraries *l)
{
	const char *p = reply.p, *end = reply.p + reply.n;
	struct resp_item item;
	size_t used = reply.p ? resp_item(p, end, &item) : 0;

	*l = (struct libraries){ NULL, 0 };
	if (!used || (item.type != '*' && item.type != '~'))
		return false;
	p += used;
	l->sums = must(calloc((size_t)item.n + 1, sizeof(l->sums[0])));
	for (int64_t n = item.n; n > 0; n--) {
		size_t value = resp_value_len(p, end);
		l->sums[l->n++] = library_sum(slice(p, value));
		p += value;
	}
	libraries_sort(l);
	return true;
}

static void survey_add(struct survey *s, struct slice reply)
{
	struct libraries l;

	if (!libraries_read(reply, &l)) {
		s->failed = true;
		return;
	}
	s->differ |= s->have && !libraries_equal(&l, &s->any);
	s->have = true;
	s->any.sums = must(realloc(s->any.sums, (s->any.n + l.n + 1) * sizeof(l.sums[0])));
	memcpy(s->any.sums + s->any.n, l.sums, l.n * sizeof(l.sums[0]));
	s->any.n += l.n;
	libraries_sort(&s->any);
	free(l.sums);
}

/* Asks all nodes of a side; how many. */
static unsigned ask_libraries(struct backfill *b, enum side side, bulk_fn *fn, void *arg)
{
	struct conns *to = &b->conns[side];
	unsigned n = 0;

	for (unsigned i = 0; i < to->n; i++) {
		if (!to->list[i])
			continue;
		n++;
		bulk_command(to->list[i]->bulk, BULK_ANY_DB, fn, arg, "FUNCTION", "LIST", "WITHCODE", NULL);
	}
	return n;
}

/* ---- copying ---- */

struct function_copy {
	struct backfill *b;
	enum side from;
	functions_fn *fn;
	unsigned awaited;
	struct survey survey;
	bool failed;
};

static void copy_warn(struct function_copy *f, const char *what)
{
	f->b->host->log(f->b->host->ctx, BF_LOG_WARNING, "functions could not be copied to the %s: %s", side_name(SIDE_OTHER(f->from)), what);
}

static void copy_answer(struct function_copy *f, struct slice reply, const char *why)
{
	char text[200];

	if (reply.p && reply_error(reply) == REPLY_FINE)
		return;
	f->failed = true;
	copy_warn(f, reply.p ? reply_text(reply, text, sizeof(text)) : why);
}

static void copy_step_ended(struct function_copy *f)
{
	if (--f->awaited)
		return;
	struct function_copy f2 = *f;
	free(f->survey.any.sums);
	free(f);
	f2.fn(f2.b, !f2.failed);
}

static void on_restored(void *arg, struct slice reply, const char *why)
{
	struct function_copy *f = arg;

	copy_answer(f, reply, why);
	copy_step_ended(f);
}

static void restore_everywhere(struct function_copy *f, struct slice payload)
{
	struct backfill *b = f->b;
	struct conns *to = &b->conns[SIDE_OTHER(f->from)];
	struct receiver r = receiver_of(b, SIDE_OTHER(f->from));
	sds stamped = function_restamp(payload, &r);
	struct slice how = f->survey.differ || f->survey.failed ? SLICE_LIT("REPLACE") : SLICE_LIT("FLUSH");
	struct slice words[4] = { SLICE_LIT("FUNCTION"), SLICE_LIT("RESTORE"), slice(stamped, sdslen(stamped)), how };

	sdsclear(b->scratch);
	b->scratch = resp_cat_request(b->scratch, 4, words);
	sdsfree(stamped);
	for (unsigned i = 0; i < to->n; i++) {
		if (!to->list[i])
			continue;
		f->awaited++;
		bulk_send(to->list[i]->bulk, BULK_ANY_DB, b->scratch, sdslen(b->scratch), 1, on_restored, f);
	}
}

static void on_dumped(void *arg, struct slice reply, const char *why)
{
	struct function_copy *f = arg;
	struct slice payload = reply.p ? function_payload(reply) : slice(NULL, 0);

	if (payload.p) {
		restore_everywhere(f, payload);
	} else {
		copy_answer(f, reply, why);
		f->failed = true;
	}
	copy_step_ended(f);
}

/* All have said what they have. */
static void copy_dump(struct function_copy *f)
{
	struct conns *from = &f->b->conns[f->from];
	bool all = f->survey.differ || f->survey.failed;

	if (f->survey.differ)
		f->b->host->log(f->b->host->ctx, BF_LOG_WARNING, "primaries of the %s have different functions: what any of them has is copied to the %s, and none is removed there",
				side_name(f->from), side_name(SIDE_OTHER(f->from)));
	f->failed = f->survey.failed;
	f->awaited = 1; /* its own, so that it does not end while it sends */
	for (unsigned i = 0; i < from->n && (all || f->awaited == 1); i++) {
		if (!from->list[i])
			continue;
		f->awaited++;
		bulk_command(from->list[i]->bulk, BULK_ANY_DB, on_dumped, f, "FUNCTION", "DUMP", NULL);
	}
	f->failed |= f->awaited == 1;
	copy_step_ended(f);
}

static void on_survey(void *arg, struct slice reply, const char *why)
{
	struct function_copy *f = arg;

	survey_add(&f->survey, reply);
	copy_answer(f, reply, why);
	if (--f->awaited == 0)
		copy_dump(f);
}

void functions_copy(struct backfill *b, enum side from, functions_fn *fn)
{
	struct function_copy *f = must(calloc(1, sizeof(*f)));

	*f = (struct function_copy){ .b = b, .from = from, .fn = fn };
	f->awaited = ask_libraries(b, from, on_survey, f);
	if (f->awaited)
		return;
	free(f);
	fn(b, false);
}

/* ---- comparing ---- */

struct functions_compare {
	functions_equal_fn *fn;
	void *arg;
	unsigned awaited;
	struct survey authority, follower;
};

static void compare_step_ended(struct functions_compare *f)
{
	if (--f->awaited)
		return;
	bool read = f->authority.have && !f->authority.failed && f->follower.have && !f->follower.failed;
	bool equal = !f->follower.differ && libraries_equal(&f->authority.any, &f->follower.any);
	functions_equal_fn *fn = f->fn;
	void *fn_arg = f->arg;

	free(f->authority.any.sums);
	free(f->follower.any.sums);
	free(f);
	fn(fn_arg, read ? equal : -1);
}

static void on_authority(void *arg, struct slice reply, const char *why)
{
	struct functions_compare *f = arg;

	(void)why;
	survey_add(&f->authority, reply);
	compare_step_ended(f);
}

static void on_follower(void *arg, struct slice reply, const char *why)
{
	struct functions_compare *f = arg;

	(void)why;
	survey_add(&f->follower, reply);
	compare_step_ended(f);
}

void functions_compare(struct backfill *b, enum side authority, functions_equal_fn *fn, void *arg)
{
	struct functions_compare *f = must(calloc(1, sizeof(*f)));

	*f = (struct functions_compare){ .fn = fn, .arg = arg, .awaited = 1 };
	f->awaited += ask_libraries(b, authority, on_authority, f);
	f->awaited += ask_libraries(b, SIDE_OTHER(authority), on_follower, f);
	compare_step_ended(f);
}
