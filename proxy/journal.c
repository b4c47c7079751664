#include "proxy/journal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proxy/lines.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define JOURNAL_VERSION 1u
#define HEADER_SIZE 8192
#define BOOT_ID_LEN 36

static const char magic[8] = "cf-owed";

struct header {
	char magic[8];
	uint32_t version, entries;
	uint32_t synced;         /* every entry is synced before its command is sent */
	uint32_t reserved;
	char boot[40];
	char process[JOURNAL_PROCESS_MAX];
	uint64_t check;          /* XXH3 of all above */
	_Atomic uint64_t slots[SLOTS / 64];
};
_Static_assert(sizeof(struct header) <= HEADER_SIZE, "the header fits its pages");

enum { FREE, USED };

struct entry {
	_Atomic uint32_t state;
	uint32_t check;          /* XXH3 of what follows, without the rest of the key's room */
	uint16_t slot, db;
	uint32_t len;
	char key[JOURNAL_KEY_MAX];
};
_Static_assert(sizeof(struct entry) == 64, "an entry is a cache line");

struct journal {
	struct header *head;
	struct entry *entries;
	size_t size;
	int fd;                  /* -1: in memory */
	uint32_t nfree;
	uint32_t *free;          /* a stack: what was used last is used next, so that few lines are touched */
	uint32_t *held;          /* by slot: entries that its bit stands for */
	bool dirty[SLOTS];
	uint64_t owed;
	_Atomic bool touched;
};

/* A reference: 0 none; SLOT_REF: the slot's bit; else the entry's number plus 1. */
#define SLOT_REF UINT32_MAX

static uint32_t check_of(const struct entry *e)
{
	return (uint32_t)XXH3_64bits(&e->slot, offsetof(struct entry, key) - offsetof(struct entry, slot) + e->len);
}

static uint64_t check_of_header(const struct header *h)
{
	return XXH3_64bits(h, offsetof(struct header, check));
}

static void boot_id(char id[40])
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

	memset(id, 0, 40);
	if (fd < 0)
		return;
	if (read(fd, id, BOOT_ID_LEN) != BOOT_ID_LEN)
		id[0] = '\0';
	close(fd);
}

/* --- life --- */

static size_t file_size(uint32_t entries)
{
	return HEADER_SIZE + (size_t)entries * sizeof(struct entry);
}

static struct journal *journal_over(void *memory, uint32_t entries, int fd)
{
	struct journal *j = calloc(1, sizeof *j);

	if (!j || !(j->free = malloc(entries * sizeof *j->free)) || !(j->held = calloc(SLOTS, sizeof *j->held)))
		abort();
	j->head = memory;
	j->entries = (struct entry *)((char *)memory + HEADER_SIZE);
	j->size = file_size(entries);
	j->fd = fd;
	for (uint32_t i = entries; i > 0; i--)
		j->free[j->nfree++] = i - 1;
	return j;
}

static void write_header(struct header *h, uint32_t entries, const char *process, bool synced)
{
	memcpy(h->magic, magic, sizeof magic);
	h->version = JOURNAL_VERSION;
	h->entries = entries;
	h->synced = synced;
	boot_id(h->boot);
	snprintf(h->process, sizeof h->process, "%s", process);
	h->check = check_of_header(h);
}

/* Every block is allocated now: a full disk is told here, not by a signal later. */
static int make_file(const char *path, size_t size)
{
	int fd, rc;

	if (unlink(path) < 0 && errno != ENOENT)
		return -1;
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -1;
	rc = posix_fallocate(fd, 0, (off_t)size);
	if (rc == 0)
		return fd;
	close(fd);
	unlink(path);
	errno = rc;
	return -1;
}

static void not_made(const char *path, size_t size, char *err, size_t errlen)
{
	snprintf(err, errlen, "the journal %s (%zu bytes) cannot be made: %s%s", path, size, strerror(errno),
		 errno == ENOSPC || errno == EDQUOT || errno == EFBIG ? ": make room on that disk, or lower journal-size" : "");
}

bool journal_room(const char *path, uint32_t entries, char *err, size_t errlen)
{
	int fd = make_file(path, file_size(entries));

	if (fd < 0)
		not_made(path, file_size(entries), err, errlen);
	else
		close(fd);
	return fd >= 0;
}

struct journal *journal_new(const char *path, uint32_t entries, const char *process, bool synced, char *err, size_t errlen)
{
	size_t size = file_size(entries);
	int fd = make_file(path, size);
	void *memory = fd < 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (memory == MAP_FAILED) {
		not_made(path, size, err, errlen);
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	write_header(memory, entries, process, synced);
	struct journal *j = journal_over(memory, entries, fd);
	if (journal_sync(j))
		return j;
	snprintf(err, errlen, "the journal %s cannot be synced: %s", path, strerror(errno));
	journal_free(j);
	return NULL;
}

struct journal *journal_new_in_memory(uint32_t entries)
{
	void *memory = calloc(1, file_size(entries));

	if (!memory)
		abort();
	write_header(memory, entries, "", false);
	return journal_over(memory, entries, -1);
}

void journal_free(struct journal *j)
{
	if (!j)
		return;
	if (j->fd < 0) {
		free(j->head);
	} else {
		munmap(j->head, j->size);
		close(j->fd);
	}
	free(j->free);
	free(j->held);
	free(j);
}

/* --- what is owed --- */

static void touch(struct journal *j)
{
	if (!atomic_load_explicit(&j->touched, memory_order_relaxed))
		atomic_store_explicit(&j->touched, true, memory_order_release);
}

static void set_bit(struct journal *j, uint16_t slot)
{
	uint64_t bit = UINT64_C(1) << (slot % 64);
	bool on = j->held[slot] || j->dirty[slot];

	if (on)
		atomic_fetch_or_explicit(&j->head->slots[slot / 64], bit, memory_order_release);
	else
		atomic_fetch_and_explicit(&j->head->slots[slot / 64], ~bit, memory_order_release);
	touch(j);
}

static journal_ref hold_slot(struct journal *j, uint16_t slot)
{
	if (j->held[slot]++ == 0)
		set_bit(j, slot);
	return SLOT_REF;
}

journal_ref journal_add(struct journal *j, struct slice key, uint16_t db, uint16_t slot)
{
	j->owed++;
	if (key.n > JOURNAL_KEY_MAX || j->nfree == 0)
		return hold_slot(j, slot);
	uint32_t i = j->free[--j->nfree];
	struct entry *e = &j->entries[i];
	assert(atomic_load_explicit(&e->state, memory_order_relaxed) == FREE);
	e->slot = slot;
	e->db = db;
	e->len = (uint32_t)key.n;
	memcpy(e->key, key.p, key.n);
	e->check = check_of(e);
	atomic_store_explicit(&e->state, USED, memory_order_release);
	touch(j);
	if (j->nfree)
		fetch_lines(&j->entries[j->free[j->nfree - 1]], 1); /* the next one's turn comes soon */
	return i + 1;
}

void journal_fetch(const struct journal *j, journal_ref ref)
{
	if (ref && ref != SLOT_REF)
		fetch_lines(&j->entries[ref - 1], 1);
}

void journal_remove(struct journal *j, journal_ref ref, uint16_t slot)
{
	if (!ref)
		return;
	assert(j->owed > 0);
	j->owed--;
	if (ref == SLOT_REF) {
		assert(j->held[slot] > 0);
		if (--j->held[slot] == 0)
			set_bit(j, slot);
		return;
	}
	struct entry *e = &j->entries[ref - 1];
	assert(atomic_load_explicit(&e->state, memory_order_relaxed) == USED && e->slot == slot);
	atomic_store_explicit(&e->state, FREE, memory_order_release);
	j->free[j->nfree++] = ref - 1;
	touch(j);
}

void journal_slot(struct journal *j, uint16_t slot, bool dirty)
{
	if (j->dirty[slot] == dirty)
		return;
	j->dirty[slot] = dirty;
	j->owed += dirty ? 1 : UINT64_MAX;
	set_bit(j, slot);
}

journal_ref journal_hold(struct journal *j, uint16_t slot)
{
	j->owed++;
	return hold_slot(j, slot);
}

void journal_let_go(struct journal *j, uint16_t slot)
{
	journal_remove(j, SLOT_REF, slot);
}

uint64_t journal_owed(const struct journal *j)
{
	return j->owed;
}

bool journal_was_touched(const struct journal *j)
{
	return atomic_load_explicit(&j->touched, memory_order_acquire);
}

bool journal_sync(struct journal *j)
{
	if (j->fd < 0)
		return true;
	atomic_store_explicit(&j->touched, false, memory_order_seq_cst); /* what is written from here on is the next sync's */
	return fdatasync(j->fd) == 0;
}

/* --- after a restart --- */

static enum journal_trust read_entries(const struct header *h, uint32_t entries, const struct journal_reader *r, char *err, size_t errlen)
{
	const struct entry *all = (const struct entry *)((const char *)h + HEADER_SIZE);

	for (uint32_t i = 0; i < entries; i++) {
		const struct entry *e = &all[i];
		uint32_t state = atomic_load_explicit(&e->state, memory_order_acquire);
		if (state == FREE)
			continue;
		if (state != USED || e->len > JOURNAL_KEY_MAX || e->slot >= SLOTS || e->check != check_of(e)) {
			snprintf(err, errlen, "entry %u is damaged", i);
			return JOURNAL_BAD;
		}
		r->key(r->ctx, slice(e->key, e->len), e->db, e->slot);
	}
	for (uint16_t slot = 0; slot < SLOTS; slot++)
		if (atomic_load_explicit(&h->slots[slot / 64], memory_order_relaxed) >> (slot % 64) & 1)
			r->slot(r->ctx, slot);
	return JOURNAL_TRUSTED;
}

enum journal_trust journal_read_image(const void *image, size_t size, const struct journal_reader *r, char *err, size_t errlen)
{
	const struct header *h = image;
	char boot[40];

	if (size < HEADER_SIZE) {
		snprintf(err, errlen, "it is too short");
	} else if (memcmp(h->magic, magic, sizeof magic) != 0 || h->check != check_of_header(h) || !memchr(h->process, 0, sizeof h->process)) {
		snprintf(err, errlen, "it is not a journal, or its header is damaged");
	} else if (h->version != JOURNAL_VERSION) {
		snprintf(err, errlen, "it has version %u, expected %u", h->version, JOURNAL_VERSION);
	} else if (size != file_size(h->entries)) {
		snprintf(err, errlen, "it has %zu bytes, expected %zu", size, file_size(h->entries));
	} else {
		if (r->process)
			r->process(r->ctx, h->process);
		boot_id(boot);
		if (!h->synced && strncmp(boot, h->boot, sizeof boot) != 0) {
			snprintf(err, errlen, "the machine was started anew since it was written, and journal-fsync was not 'always'");
			return JOURNAL_REBOOTED;
		}
		return read_entries(h, h->entries, r, err, errlen);
	}
	return JOURNAL_BAD;
}

enum journal_trust journal_read(const char *path, const struct journal_reader *r, char *err, size_t errlen)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *memory;

	memory = fd < 0 || fstat(fd, &st) < 0 ? MAP_FAILED : mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	int error = errno;
	if (fd >= 0)
		close(fd);
	if (memory == MAP_FAILED) {
		snprintf(err, errlen, "%s", strerror(error));
		return JOURNAL_BAD;
	}
	enum journal_trust trust = journal_read_image(memory, (size_t)st.st_size, r, err, errlen);
	munmap(memory, (size_t)st.st_size);
	return trust;
}

void journal_read_memory(const struct journal *j, const struct journal_reader *r)
{
	char err[64];

	enum journal_trust trust = read_entries(j->head, j->head->entries, r, err, sizeof err);
	assert(trust == JOURNAL_TRUSTED);
	(void)trust;
}
