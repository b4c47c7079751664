/* Many seeds, spread over processes of their own: an assertion of the engine ends one of them, which counts as a failure of its seed. */
#include "sim.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define JOBS_MAX 16
#define SEED_LIMIT_S 20 /* a seed takes milliseconds: this one hangs */

void (*sim_failed)(uint64_t seed, const char *text);

void sim_seed(uint64_t seed, bool tracing, struct sim_report *sum)
{
	struct world *w = world_new(seed);

	w->trace = tracing;
	world_run(w);
	sum->seeds++;
	sum->flips += w->flips;
	sum->kills += w->kills;
	sum->repairs += w->count.repairs;
	sum->walks += w->count.walks;
	sum->failovers += w->count.failovers;
	sum->moves += w->count.moves;
	sum->losses += w->count.losses;
	world_free(w);
}

struct job { /* shared with its process */
	pid_t pid;
	uint64_t next, seed;
	struct sim_report sum;
	char text[800];
};

static struct job *here; /* in the process of a job */

static void note_failure(uint64_t seed, const char *text)
{
	(void)seed;
	snprintf(here->text, sizeof here->text, "%s", text);
	_exit(1);
}

static void start(struct job *j, unsigned stride, uint64_t end)
{
	pid_t pid;

	fflush(stdout);
	j->text[0] = '\0';
	pid = fork();
	if (pid) {
		j->pid = pid;
		return;
	}
	here = j;
	sim_failed = note_failure;
	if (!freopen("/dev/null", "w", stderr)) /* assertions speak */
		_exit(2);
	while (j->next < end) {
		j->seed = j->next;
		j->next += stride;
		alarm(SEED_LIMIT_S);
		sim_seed(j->seed, false, &j->sum);
	}
	_exit(0);
}

static void add(struct sim_report *sum, const struct sim_report *more)
{
	sum->seeds += more->seeds;
	sum->flips += more->flips;
	sum->kills += more->kills;
	sum->repairs += more->repairs;
	sum->walks += more->walks;
	sum->failovers += more->failovers;
	sum->moves += more->moves;
	sum->losses += more->losses;
}

static void count_failure(struct job *j, int status, bool quiet, const char *self, struct sim_report *sum)
{
	const char *faults = getenv("CROSSFADE_FAULT");

	if (!j->text[0] && WIFSIGNALED(status))
		snprintf(j->text, sizeof j->text, WTERMSIG(status) == SIGALRM ? "it hangs" : "signal %d: an assertion, or worse", WTERMSIG(status));
	sum->seeds++;
	if (!sum->failed || j->seed < sum->first_failed) {
		sum->first_failed = j->seed;
		snprintf(sum->text, sizeof sum->text, "%s", j->text);
	}
	sum->failed++;
	if (!quiet)
		printf("seed %llu: %s\n    replay: %s%s%s%s --theme %d --seed %llu --trace\n", (unsigned long long)j->seed, j->text, faults ? "CROSSFADE_FAULT=" : "",
		       faults ? faults : "", faults ? " " : "", self, sim_theme, (unsigned long long)j->seed);
}

static void end_all(struct job *jobs, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (jobs[i].pid) {
			kill(jobs[i].pid, SIGKILL);
			waitpid(jobs[i].pid, NULL, 0);
		}
}

void sim_seeds(uint64_t first, uint64_t count, unsigned njobs, bool stop, bool quiet, const char *self, struct sim_report *sum)
{
	struct job *jobs = mmap(NULL, JOBS_MAX * sizeof *jobs, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned running = 0, n = njobs < JOBS_MAX ? njobs : JOBS_MAX;
	bool stopped = false;
	int status;
	pid_t pid;

	if (jobs == MAP_FAILED)
		abort();
	for (; running < n; running++) {
		jobs[running].next = first + running;
		start(&jobs[running], n, first + count);
	}
	while (running && !stopped && (pid = wait(&status)) > 0) {
		struct job *j = jobs;
		while (j < jobs + n && j->pid != pid)
			j++;
		if (j == jobs + n)
			continue;
		j->pid = 0;
		if (status) {
			count_failure(j, status, quiet, self, sum);
			stopped = stop;
		}
		if (status && !stop && j->next < first + count)
			start(j, n, first + count);
		else
			running--;
	}
	end_all(jobs, n);
	for (unsigned i = 0; i < n; i++)
		add(sum, &jobs[i].sum);
	munmap(jobs, JOBS_MAX * sizeof *jobs);
}
