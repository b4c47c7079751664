/* A short run of the simulation (tests/sim), so that it passes under the sanitizers, too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "proxy/log.h"
#include "tests/sim/sim.h"

#define SEEDS 40

static void failed(uint64_t seed, const char *text)
{
	fail_msg("seed %llu: %s; replay: tests/sim/sim --seed %llu --trace", (unsigned long long)seed, text, (unsigned long long)seed);
}

static void test_seeds(void **state)
{
	struct sim_report sum = { 0 };

	(void)state;
	sim_failed = failed;
	for (uint64_t seed = 1; seed <= SEEDS; seed++)
		sim_seed(seed, false, &sum);
	assert_true(sum.flips > 0 && sum.repairs > 0 && sum.kills > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_seeds) };

	log_set_level((enum log_level)(LOG_WARNING + 1));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
