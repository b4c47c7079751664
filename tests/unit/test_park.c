/* The queues of clients that wait, and the words of blocking commands: who is first at a key, whose time is over, what is asked of the server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <hiredis/sds.h>

#include "proxy/park.h"
#include "resp/write.h"

/* --- words --- */

struct words {
	struct slice argv[32];
	int argc;
	sds *text;
};

static struct words split(const char *line)
{
	struct words w = { .argc = 0 };

	w.text = sdssplitlen(line, (ssize_t)strlen(line), " ", 1, &w.argc);
	assert_true(w.argc <= 32);
	for (int i = 0; i < w.argc; i++)
		w.argv[i] = slice(w.text[i], sdslen(w.text[i]));
	return w;
}

static struct blocking read_line(const struct words *w, int64_t now_ms)
{
	return blocking_read(command_find(w->argv[0]), (uint32_t)w->argc, w->argv, now_ms);
}

/* The request for the keys [at, at + n) of the call, n 0: of all. */
static void check_try(const char *line, uint32_t at, uint32_t n, const char *wanted)
{
	struct words w = split(line), want = split(wanted);
	struct blocking b = read_line(&w, 1);
	sds got = blocking_cat_try(sdsempty(), &b, (uint32_t)w.argc, w.argv, b.first + at, n ? n : b.nkeys, NULL);
	sds expected = resp_cat_request(sdsempty(), want.argc, want.argv);

	assert_true(b.blocks);
	assert_null(b.error);
	assert_string_equal(got, expected);
	sdsfree(got);
	sdsfree(expected);
	sdsfreesplitres(w.text, w.argc);
	sdsfreesplitres(want.text, want.argc);
}

static void test_tries(void **state)
{
	(void)state;
	check_try("BLPOP a b 0", 0, 0, "lmpop 2 a b LEFT");
	check_try("BRPOP a b 1.5", 1, 1, "lmpop 1 b RIGHT");
	check_try("BZPOPMIN a 0", 0, 0, "zmpop 1 a MIN");
	check_try("BZPOPMAX a b 0", 0, 1, "zmpop 1 a MAX");
	check_try("BLMPOP 0 2 a b RIGHT COUNT 3", 0, 0, "lmpop 2 a b RIGHT COUNT 3");
	check_try("BLMPOP 0 2 a b RIGHT COUNT 3", 1, 1, "lmpop 1 b RIGHT COUNT 3");
	check_try("BZMPOP 0 1 a MAX", 0, 0, "zmpop 1 a MAX");
	check_try("BLMOVE a b LEFT RIGHT 0", 0, 0, "lmove a b LEFT RIGHT");
	check_try("BRPOPLPUSH a b 0", 0, 0, "rpoplpush a b");
	check_try("XREAD COUNT 2 BLOCK 0 STREAMS a b 1-1 2-2", 0, 0, "xread COUNT 2 STREAMS a b 1-1 2-2");
	check_try("XREAD BLOCK 5 COUNT 2 STREAMS a b 1-1 2-2", 1, 1, "xread COUNT 2 STREAMS b 2-2");
	check_try("XREADGROUP GROUP block streams BLOCK 0 NOACK STREAMS a >", 0, 0, "xreadgroup GROUP block streams NOACK STREAMS a >");
	check_try("XREADGROUP GROUP g c BLOCK 0 LATER 7 STREAMS a >", 0, 0, "xreadgroup GROUP g c LATER 7 STREAMS a >");
}

static void test_wrong_words_are_the_servers(void **state)
{
	(void)state;
	check_try("BLMPOP 0 x a LEFT", 0, 0, "lmpop x a LEFT");
	check_try("BLMPOP 0 3 a LEFT", 0, 0, "lmpop 3 a LEFT");
	check_try("XREAD BLOCK 0 STREAMS a", 0, 0, "xread COUNT 1 STREAMS a");
	check_try("XREAD BLOCK 0 FOO 1 2", 0, 0, "xread COUNT 1 FOO 1 2");
	check_try("XREAD COUNT 1 a BLOCK", 0, 0, "xread COUNT 1 a COUNT");
}

static void check_timeout(const char *line, int64_t now_ms, const char *error, int64_t ms)
{
	struct words w = split(line);
	struct blocking b = read_line(&w, now_ms);

	if (error)
		assert_string_equal(b.error, error);
	else
		assert_null(b.error);
	assert_int_equal(b.timeout_ms, ms);
	sdsfreesplitres(w.text, w.argc);
}

static void test_timeouts(void **state)
{
	(void)state;
	check_timeout("BLPOP a 0", 1, NULL, 0);
	check_timeout("BLPOP a 1.5", 1, NULL, 1500);
	check_timeout("BLPOP a 0.0001", 1, NULL, 1);
	check_timeout("BLPOP a -0.0001", 1, NULL, 0);
	check_timeout("BLPOP a -1", 1, "ERR timeout is negative", 0);
	check_timeout("BLPOP a -inf", 1, "ERR timeout is negative", 0);
	check_timeout("BLPOP a inf", 1, "ERR timeout is out of range", 0);
	check_timeout("BLPOP a inf", 0, "ERR timeout is negative", 0);
	check_timeout("BLPOP a nan", 1, "ERR timeout is not a float or out of range", 0);
	check_timeout("BLPOP a 1x", 1, "ERR timeout is not a float or out of range", 0);
	check_timeout("BLPOP a 9223372036854775", 1732000000000, "ERR timeout is out of range", 0);
	check_timeout("BLMOVE a b UP LEFT x", 1, NULL, 0);
	check_timeout("BLMOVE a b LEFT LEFT x", 1, "ERR timeout is not a float or out of range", 0);
	check_timeout("XREAD BLOCK 20 STREAMS a $", 1, NULL, 20);
	check_timeout("XREAD BLOCK 1.5 STREAMS a $", 1, "ERR timeout is not an integer or out of range", 0);
	check_timeout("XREAD COUNT x BLOCK 1.5 STREAMS a $", 1, NULL, 0);
	int64_t ms = 0;
	assert_string_equal(blocking_timeout_ms(SLICE_LIT("-1"), 1, &ms), "ERR timeout is negative");
	assert_null(blocking_timeout_ms(SLICE_LIT("5"), 1, &ms));
	assert_int_equal(ms, 5);
	struct words w = split("XREAD COUNT 1 STREAMS BLOCK 0");
	assert_false(read_line(&w, 1).blocks);
	sdsfreesplitres(w.text, w.argc);
}

static void check_reply(const char *name, const char *reply, const char *wanted)
{
	struct words w = split(name);
	struct blocking b = read_line(&w, 1);
	sds got = blocking_reply(&b, slice(reply, strlen(reply)));

	if (wanted)
		assert_string_equal(got, wanted);
	else
		assert_null(got);
	sdsfree(got);
	sdsfreesplitres(w.text, w.argc);
}

static void test_replies(void **state)
{
	(void)state;
	check_reply("BLPOP a 0", "*2\r\n$1\r\na\r\n*1\r\n$1\r\nx\r\n", "*2\r\n$1\r\na\r\n$1\r\nx\r\n");
	check_reply("BZPOPMIN a 0", "*2\r\n$1\r\na\r\n*1\r\n*2\r\n$1\r\nm\r\n,1.5\r\n", "*3\r\n$1\r\na\r\n$1\r\nm\r\n,1.5\r\n");
	check_reply("BLMPOP 0 1 a LEFT", "*2\r\n$1\r\na\r\n*1\r\n$1\r\nx\r\n", NULL);
	sds id = blocking_last_id(slice("*1\r\n*2\r\n$3\r\n5-5\r\n*0\r\n", 21));
	assert_string_equal(id, "5-5");
	sdsfree(id);
	id = blocking_last_id(slice("*0\r\n", 4));
	assert_string_equal(id, "0-0");
	sdsfree(id);
}

/* --- queues --- */

static struct waiter *add(struct park *p, struct req *r, uint64_t ticket, const char *line, int64_t deadline_us)
{
	struct words w = split(line);
	struct blocking b = read_line(&w, 1);
	uint16_t slots[32] = { 0 };

	*r = (struct req){ .ticket = ticket };
	struct waiter *waiter = park_add(p, r, &b, w.argv + b.first, slots, deadline_us);
	sdsfreesplitres(w.text, w.argc);
	return waiter;
}

static struct pkey *key_of(const struct park *p, enum park_kind kind, const char *name)
{
	return park_key(p, kind, keyhash_of(0, slice(name, strlen(name))));
}

static void test_order_at_a_key(void **state)
{
	struct park p = { .heap = NULL };
	struct req r[3];

	(void)state;
	struct waiter *a = add(&p, &r[0], 1, "BLPOP k l k 0", 0), *b = add(&p, &r[1], 2, "BLPOP l k 0", 0), *z = add(&p, &r[2], 3, "BZPOPMIN k 0", 0);
	struct pkey *k = key_of(&p, PARK_LIST, "k"), *l = key_of(&p, PARK_LIST, "l");
	assert_int_equal(a->nplaces, 2); /* the same key twice is one place */
	assert_ptr_equal(k->head->waiter, a);
	assert_ptr_equal(l->head->waiter, a);
	assert_ptr_equal(k->tail->waiter, b);
	assert_ptr_equal(key_of(&p, PARK_ZSET, "k")->head->waiter, z); /* each type has its own */
	assert_int_equal(p.in_slot[0], 3);
	assert_ptr_equal(park_find(&p, 2), b);
	assert_null(park_find(&p, 9));
	park_ready(&p, l);
	park_ready(&p, k);
	park_ready(&p, l); /* once */
	park_remove(&p, a);
	assert_ptr_equal(k->head->waiter, b);
	assert_ptr_equal(park_next_ready(&p), l);
	park_remove(&p, b); /* the last one: its keys go, ready or not */
	assert_null(park_next_ready(&p));
	assert_null(key_of(&p, PARK_LIST, "k"));
	assert_int_equal(p.in_slot[0], 1);
	park_release(&p);
	assert_true(park_is_empty(&p));
}

/* Against the plain way: look at all. */
static void test_deadlines(void **state)
{
	enum { N = 500 };
	struct park p = { .heap = NULL };
	struct req r[N];
	struct waiter *w[N];
	unsigned left = N;

	(void)state;
	srand(7);
	for (unsigned i = 0; i < N; i++)
		w[i] = add(&p, &r[i], i + 1, "BLPOP k 0", i % 5 ? 1 + rand() % 1000 : 0);
	for (int64_t now = 0; now <= 1001; now++) {
		unsigned i = (unsigned)rand() % N;
		if (w[i] && rand() % 2) {
			park_remove(&p, w[i]);
			w[i] = NULL;
			left--;
		}
		for (struct waiter *over; (over = park_expired(&p, now)); left--) {
			i = (unsigned)over->req->ticket - 1;
			assert_ptr_equal(over, w[i]);
			assert_true(over->deadline_us && over->deadline_us <= now);
			w[i] = NULL;
			park_remove(&p, over);
		}
		int64_t next = 0;
		for (i = 0; i < N; i++)
			if (w[i] && w[i]->deadline_us && (!next || w[i]->deadline_us < next))
				next = w[i]->deadline_us;
		assert_int_equal(park_due_us(&p), next);
	}
	for (unsigned i = 0; i < N; i++)
		left -= w[i] != NULL && w[i]->deadline_us == 0;
	assert_int_equal(left, 0);
	park_release(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tries), cmocka_unit_test(test_wrong_words_are_the_servers), cmocka_unit_test(test_timeouts),
		cmocka_unit_test(test_replies), cmocka_unit_test(test_order_at_a_key), cmocka_unit_test(test_deadlines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
