/* test_block.c - what pools of blocks and of chunks keep, and what trimming gives back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <string.h>

#include <cmocka.h>

#include "proxy/block.h"
#include "proxy/outq.h"

#define N 10

static void use(unsigned n, size_t cap)
{
	struct block *b[N];

	for (unsigned i = 0; i < n; i++)
		b[i] = block_new(cap);
	for (unsigned i = 0; i < n; i++)
		block_unref(b[i]);
}

/* What is used between two trims stays; the rest goes; after a while without use everything. */
static void test_blocks(void **state)
{
	size_t size = sizeof(struct block) + BLOCK_LARGE;

	(void)state;
	use(N, BLOCK_LARGE);
	assert_int_equal(block_pool_trim(), 0);
	use(3, BLOCK_LARGE);
	assert_int_equal(block_pool_trim(), (N - 3) * size);
	use(3, BLOCK_LARGE);
	assert_int_equal(block_pool_trim(), 0);
	assert_int_equal(block_pool_trim(), 3 * size);
	assert_int_equal(block_pool_trim(), 0);
	use(2, BLOCK_SIZE);
	use(1, 100); /* tiny: of no pool */
	block_pool_release();
	assert_int_equal(block_pool_trim(), 0);
}

/* From pool to pool, out of the pools, and on: the bytes stay. */
static void test_growing(void **state)
{
	struct block *b = block_copy("abcdefg", 7);

	(void)state;
	for (size_t cap = BLOCK_TINY; cap <= 64 * BLOCK_LARGE; cap *= 2) {
		b = block_grow(b, cap);
		assert_true(b->cap >= cap && b->used == 7 && block_is_sole(b));
		assert_memory_equal(b->data, "abcdefg", 7);
		memset(b->data + 7, 'x', b->cap - 7);
		while (b->cap >= 2 * cap)
			cap *= 2;
	}
	block_unref(b);
	block_pool_release();
}

static void test_joining(void **state)
{
	struct outq q = { .head = NULL }, behind = { .head = NULL };

	(void)state;
	outq_join(&q, &behind);
	assert_true(outq_empty(&q) && !q.head && !q.tail);
	outq_add(&behind, "a", 1, NULL);
	outq_join(&q, &behind);
	assert_true(q.bytes == 1 && outq_empty(&behind) && !behind.head);
	outq_add(&behind, "b", 1, NULL);
	outq_join(&q, &behind);
	outq_add(&q, "c", 1, NULL);
	outq_join(&q, &behind);
	assert_true(q.bytes == 3 && *q.head->p == 'a' && *q.head->next->p == 'b' && q.tail == q.head->next && q.tail->n == 2);
	outq_clear(&q);
	outq_pool_release();
	block_pool_release();
}

static void test_chunks(void **state)
{
	struct block *holder = block_new(BLOCK_LARGE);
	struct outq q = { .head = NULL };

	(void)state;
	for (int i = 0; i < N; i++)
		outq_add(&q, holder->data + 2 * i * OUTQ_COPY_MAX, OUTQ_COPY_MAX + 1, holder);
	outq_clear(&q);
	block_unref(holder);
	assert_int_equal(outq_pool_trim(), 0);
	assert_int_equal(outq_pool_trim(), N * sizeof(struct outq_chunk));
	assert_int_equal(outq_pool_trim(), 0);
	block_pool_release();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_blocks),
		cmocka_unit_test(test_growing),
		cmocka_unit_test(test_joining),
		cmocka_unit_test(test_chunks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
