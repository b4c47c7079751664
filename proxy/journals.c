#include "proxy/journals.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "proxy/log.h"
#include "proxy/state.h"
#include "resp/write.h"

#define ENTRY_SIZE 64

struct journals {
	char dir[4096];
	unsigned generation, workers;
	struct journal **of;
	struct owed owed;
	char process[JOURNAL_PROCESS_MAX];
	/* JOURNAL_EVERYSEC */
	bool syncing, ending;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t end;
};

/* --- what the last process left --- */

static void on_key(void *ctx, struct slice key, uint16_t db, uint16_t slot)
{
	struct owed *o = ctx;
	struct owed_key *k = malloc(sizeof *k + key.n);

	if (!k)
		abort();
	*k = (struct owed_key){ .next = o->keys, .db = db, .slot = slot, .len = key.n };
	memcpy(k->key, key.p, key.n);
	o->keys = k;
	o->nkeys++;
}

static void on_slot(void *ctx, uint16_t slot)
{
	struct owed *o = ctx;

	slot_set_add(&o->slots, slot);
}

static void on_process(void *ctx, const char *name)
{
	struct owed *o = ctx;

	for (unsigned i = 0; i < o->nformers; i++)
		if (strcmp(o->formers[i], name) == 0)
			return;
	if (o->nformers == FORMERS_MAX) { /* so many starts in a row that were killed at once: the oldest is long gone */
		memmove(o->formers[0], o->formers[1], sizeof o->formers - sizeof o->formers[0]);
		o->nformers--;
	}
	snprintf(o->formers[o->nformers++], sizeof o->formers[0], "%s", name);
}

static void everything(struct owed *o, const char *name, const char *why)
{
	o->everything = true;
	snprintf(o->why, sizeof o->why, "%s: %s", name, why);
}

static bool is_journal(const char *name, unsigned *generation)
{
	unsigned worker;
	int n = 0;

	return sscanf(name, "journal-%u.%u%n", generation, &worker, &n) == 2 && name[n] == '\0';
}

/* Calls fn for each journal file of a generation up to the last one; returns how many there are. */
static unsigned each_file(struct journals *s, unsigned last, void (*fn)(struct journals *s, const char *name, const char *path, void *arg), void *arg)
{
	DIR *d = opendir(s->dir);
	struct dirent *f;
	char path[4400];
	unsigned n = 0, generation;

	while (d && (f = readdir(d))) {
		if (!is_journal(f->d_name, &generation) || generation > last)
			continue;
		n++;
		snprintf(path, sizeof path, "%s/%s", s->dir, f->d_name);
		fn(s, f->d_name, path, arg);
		if (generation > s->generation)
			s->generation = generation;
	}
	if (d)
		closedir(d);
	return n;
}

static void read_one(struct journals *s, const char *name, const char *path, void *arg)
{
	const bool *clean = arg;
	struct journal_reader r = { &s->owed, on_process, on_key, on_slot };
	char err[300];

	if (!*clean && journal_read(path, &r, err, sizeof err) != JOURNAL_TRUSTED)
		everything(&s->owed, name, err);
}

static void remove_one(struct journals *s, const char *name, const char *path, void *arg)
{
	(void)s;
	(void)arg;
	if (unlink(path) < 0 && errno != ENOENT)
		log_warning("%s cannot be removed: %s", name, strerror(errno));
}

/* --- syncing --- */

static void *sync_main(void *arg)
{
	struct journals *s = arg;
	struct timespec until;

	log_thread_name("journal");
	pthread_mutex_lock(&s->lock);
	while (!s->ending) {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec++;
		pthread_cond_timedwait(&s->end, &s->lock, &until);
		for (unsigned i = 0; i < s->workers; i++)
			if (journal_was_touched(s->of[i]) && !journal_sync(s->of[i]))
				log_limited(LOG_WARNING, "the journal cannot be synced: %s", strerror(errno));
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static void sync_begin(struct journals *s)
{
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->end, NULL);
	s->syncing = true;
	if (pthread_create(&s->thread, NULL, sync_main, s))
		abort();
}

static void sync_end(struct journals *s)
{
	pthread_mutex_lock(&s->lock);
	s->ending = true;
	pthread_cond_signal(&s->end);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->end);
}

/* --- life --- */

static void room_path(char *path, size_t n, const char *dir, unsigned worker)
{
	snprintf(path, n, "%s/journal-room.%u", dir, worker);
}

void journals_unreserve(const char *dir)
{
	char path[4400];
	unsigned i = 0;

	do
		room_path(path, sizeof path, dir, i++);
	while (unlink(path) == 0);
}

bool journals_reserve(const char *dir, unsigned workers, int64_t bytes_each, char *err, size_t errlen)
{
	char path[4400];

	for (unsigned i = 0; i < workers; i++) {
		room_path(path, sizeof path, dir, i);
		if (!journal_room(path, (uint32_t)(bytes_each / ENTRY_SIZE), err, errlen)) {
			journals_unreserve(dir);
			return false;
		}
	}
	return true;
}

static bool make_all(struct journals *s, uint32_t entries, bool synced, char *err, size_t errlen)
{
	char path[4400];

	for (unsigned i = 0; i < s->workers; i++) {
		snprintf(path, sizeof path, "%s/journal-%u.%u", s->dir, s->generation, i);
		if (!(s->of[i] = journal_new(path, entries, s->process, synced, err, errlen)))
			return false;
	}
	return true;
}

struct journals *journals_open(const char *dir, unsigned workers, int64_t bytes_each, enum journal_fsync fsync, bool clean, char *err, size_t errlen)
{
	struct journals *s = calloc(1, sizeof *s);
	char id[MIGRATION_ID_LEN + 1];

	if (!s || !(s->of = calloc(workers, sizeof(struct journal *))))
		abort();
	snprintf(s->dir, sizeof s->dir, "%s", dir);
	s->workers = workers;
	state_random_id(id);
	snprintf(s->process, sizeof s->process, "%.16s", id);
	if (each_file(s, UINT_MAX, read_one, &clean) == 0 && !clean)
		everything(&s->owed, dir, "there is no journal of the process that ended out of order");
	s->generation++;
	journals_unreserve(dir);
	if (!make_all(s, (uint32_t)(bytes_each / ENTRY_SIZE), fsync == JOURNAL_ALWAYS, err, errlen)) {
		journals_free(s);
		return NULL;
	}
	if (fsync == JOURNAL_EVERYSEC)
		sync_begin(s);
	return s;
}

const struct owed *journals_owed(const struct journals *s)
{
	return &s->owed;
}

const char *journals_process(const struct journals *s)
{
	return s->process;
}

static bool is_former(const struct journals *s, struct slice line)
{
	char name[sizeof " name=crossfade--worker-" + JOURNAL_PROCESS_MAX];

	for (unsigned i = 0; i < s->owed.nformers; i++) {
		int n = snprintf(name, sizeof name, " name=crossfade-%s-worker-", s->owed.formers[i]);
		if (memmem(line.p, line.n, name, (size_t)n))
			return true;
	}
	return false;
}

unsigned journals_kill_formers(const struct journals *s, struct slice list, sds *requests)
{
	unsigned n = 0;

	while (list.n) {
		const char *end = memchr(list.p, '\n', list.n);
		struct slice line = slice(list.p, end ? (size_t)(end - list.p) : list.n);
		char id[24];
		const char *at = memmem(line.p, line.n, "id=", 3); /* the first word; before it, on the first line, what kind of text it is */
		if (at && is_former(s, line) && sscanf(at, "id=%20[0-9]", id) == 1) {
			*requests = resp_cat_words(*requests, "CLIENT", "KILL", "ID", id, NULL);
			n++;
		}
		list = slice(line.p + line.n + (end != NULL), list.n - line.n - (end != NULL));
	}
	return n;
}

struct journal *journals_of(const struct journals *s, unsigned worker)
{
	return s ? s->of[worker] : NULL;
}

static void forget_owed(struct owed *o)
{
	for (struct owed_key *k = o->keys, *next; k; k = next) {
		next = k->next;
		free(k);
	}
	o->keys = NULL;
}

void journals_taken(struct journals *s)
{
	unsigned mine = s->generation;

	forget_owed(&s->owed);
	each_file(s, mine - 1, remove_one, NULL);
	s->generation = mine;
}

uint64_t journals_hold(const struct journals *s)
{
	uint64_t n = 0;

	for (unsigned i = 0; s && i < s->workers; i++)
		n += journal_owed(s->of[i]);
	return n;
}

void journals_free(struct journals *s)
{
	if (!s)
		return;
	if (s->syncing)
		sync_end(s);
	for (unsigned i = 0; i < s->workers; i++)
		journal_free(s->of[i]);
	forget_owed(&s->owed);
	free(s->of);
	free(s);
}
