/* db_set.h - a set of numbers of databases. Plain data. */
#ifndef CROSSFADE_DB_SET_H
#define CROSSFADE_DB_SET_H

#include <stdbool.h>
#include <stdint.h>

#define DBS_MAX 65536u /* a server may have more: those are not served */

struct db_set {
	unsigned words; /* bits from here on are all clear: sets are small, and looked through often */
	uint64_t bits[DBS_MAX / 64];
};

static inline bool db_set_has(const struct db_set *s, unsigned db)
{
	return db < DBS_MAX && s->bits[db / 64] >> (db % 64) & 1;
}

static inline void db_set_add(struct db_set *s, unsigned db)
{
	s->bits[db / 64] |= UINT64_C(1) << (db % 64);
	if (s->words <= db / 64)
		s->words = db / 64 + 1;
}

/* The first one from `from` on; DBS_MAX: none. */
static inline unsigned db_set_next(const struct db_set *s, unsigned from)
{
	for (unsigned db = from; db < s->words * 64; db++)
		if (db_set_has(s, db))
			return db;
	return DBS_MAX;
}

/* True: something was new. */
static inline bool db_set_join(struct db_set *to, const struct db_set *from)
{
	bool grew = false;

	for (unsigned i = 0; i < from->words; i++) {
		grew |= (from->bits[i] & ~to->bits[i]) != 0;
		to->bits[i] |= from->bits[i];
	}
	if (to->words < from->words)
		to->words = from->words;
	return grew;
}

static inline bool db_set_eq(const struct db_set *a, const struct db_set *b)
{
	unsigned words = a->words > b->words ? a->words : b->words;

	for (unsigned i = 0; i < words; i++)
		if (a->bits[i] != b->bits[i])
			return false;
	return true;
}

#endif
