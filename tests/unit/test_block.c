/* test_block.c - what pools of blocks and of chunks keep, and what trimming gives back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

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
		cmocka_unit_test(test_chunks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
