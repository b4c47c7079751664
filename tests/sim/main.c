#include "sim.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "proxy/log.h"

static const char usage[] =
	"usage: sim [--seeds N] [--first SEED] [--jobs N]   many seeds; the last line is \"N passed, N failed\"\n"
	"       sim --seed SEED [--trace]                   one, in this process\n"
	"       sim --mutants [--only NAME] [--jobs N]      each rule taken out is found (builds with --enable-faults)\n"
	"--theme N plays one of the themes of world.c in every seed. CROSSFADE_FAULT names a mutant for the first two.\n";

struct options {
	uint64_t seeds, first, seed;
	unsigned jobs;
	bool mutants, tracing;
	const char *only;
};

static bool parse(int argc, char **argv, struct options *o)
{
	static const struct option names[] = {
		{ "seeds", required_argument, NULL, 'n' }, { "first", required_argument, NULL, 'f' }, { "seed", required_argument, NULL, 's' },
		{ "jobs", required_argument, NULL, 'j' },  { "mutants", no_argument, NULL, 'm' },     { "only", required_argument, NULL, 'o' },
		{ "trace", no_argument, NULL, 't' },       { "theme", required_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (c) {
		case 'n': o->seeds = strtoull(optarg, NULL, 10); break;
		case 'f': o->first = strtoull(optarg, NULL, 10); break;
		case 's': o->seed = strtoull(optarg, NULL, 10); break;
		case 'j': o->jobs = (unsigned)strtoul(optarg, NULL, 10); break;
		case 'm': o->mutants = true; break;
		case 'o': o->only = optarg; break;
		case 'h': sim_theme = atoi(optarg); break;
		case 't': o->tracing = true; break;
		default: return false;
		}
	}
	return optind == argc && o->jobs;
}

static int many(const struct options *o, const char *self)
{
	struct sim_report r = { 0 };
	struct timespec a, b;

	clock_gettime(CLOCK_MONOTONIC, &a);
	sim_seeds(o->first, o->seeds, o->jobs, false, false, self, &r);
	clock_gettime(CLOCK_MONOTONIC, &b);
	double s = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
	printf("%.0f seeds/s; %llu flips, %llu processes killed, %llu repairs, %llu dirty slots walked, %llu failovers, %llu slots moved, %llu connections lost\n",
	       (double)r.seeds / s, (unsigned long long)r.flips, (unsigned long long)r.kills, (unsigned long long)r.repairs, (unsigned long long)r.walks,
	       (unsigned long long)r.failovers, (unsigned long long)r.moves, (unsigned long long)r.losses);
	printf("%llu passed, %llu failed\n", (unsigned long long)(r.seeds - r.failed), (unsigned long long)r.failed);
	return r.failed ? 1 : 0;
}

int main(int argc, char **argv)
{
	struct options o = { .seeds = 2000, .first = 1, .jobs = 2 };
	struct sim_report r = { 0 };
	unsigned passed = 0, failed;

	log_set_level((enum log_level)(LOG_WARNING + 1));
	if (!parse(argc, argv, &o)) {
		fputs(usage, stderr);
		return 64;
	}
	if (o.seed) {
		sim_seed(o.seed, o.tracing, &r);
		printf("seed %llu: fine\n", (unsigned long long)o.seed);
		return 0;
	}
	if (!o.mutants)
		return many(&o, argv[0]);
#ifndef CROSSFADE_FAULTS
	fputs("sim: mutants need a build with --enable-faults\n", stderr);
	return 64;
#endif
	failed = sim_mutants(o.jobs, o.only, &passed, argv[0]);
	printf("%u passed, %u failed\n", passed, failed);
	return failed ? 1 : 0;
}
