#include <pthread.h>

#include "backfill/payload.h"
#include "backfill/recipe.h"

#define VERSION(major, minor) ((uint32_t)(major) << 16 | (uint32_t)(minor) << 8)
#define CRC64_JONES 0x95ac9329ac4bc9b5ull /* reflected */

static uint64_t crc_table[8][256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static void crc_build(void)
{
	for (unsigned i = 0; i < 256; i++) {
		uint64_t c = i;
		for (int bit = 0; bit < 8; bit++)
			c = c & 1 ? c >> 1 ^ CRC64_JONES : c >> 1;
		crc_table[0][i] = c;
	}
	for (unsigned i = 0; i < 256; i++)
		for (int k = 1; k < 8; k++)
			crc_table[k][i] = crc_table[k - 1][i] >> 8 ^ crc_table[0][crc_table[k - 1][i] & 0xff];
}

static uint64_t load_le64(const unsigned char *p)
{
	uint64_t v = 0;
	for (int i = 0; i < 8; i++)
		v |= (uint64_t)p[i] << (8 * i);
	return v;
}

/* Slicing by 8: one look-up in each of eight tables takes eight bytes further. */
uint64_t crc64_jones(uint64_t crc, const void *data, size_t n)
{
	const unsigned char *p = data;

	pthread_once(&crc_once, crc_build);
	for (; n >= 8; n -= 8, p += 8) {
		crc ^= load_le64(p);
		crc = crc_table[7][crc & 0xff] ^ crc_table[6][crc >> 8 & 0xff] ^ crc_table[5][crc >> 16 & 0xff] ^
		      crc_table[4][crc >> 24 & 0xff] ^ crc_table[3][crc >> 32 & 0xff] ^ crc_table[2][crc >> 40 & 0xff] ^
		      crc_table[1][crc >> 48 & 0xff] ^ crc_table[0][crc >> 56];
	}
	for (; n > 0; n--, p++)
		crc = crc_table[0][(crc ^ *p) & 0xff] ^ crc >> 8;
	return crc;
}

unsigned rdb_version(const struct receiver *r)
{
	if (r->product == PRODUCT_VALKEY)
		return r->version >= VERSION(9, 0) ? 80 : 11;
	if (r->version >= VERSION(7, 4))
		return 12; /* 8.6 writes 13 and takes 12 */
	if (r->version >= VERSION(7, 2))
		return 11;
	return r->version >= VERSION(7, 0) ? 10 : 9;
}

bool receiver_has_field_expiry(const struct receiver *r)
{
	return r->version >= (r->product == PRODUCT_VALKEY ? VERSION(9, 0) : VERSION(7, 4));
}

/* Does the receiver know the type byte, as the sender means it? From 22 on Redis and Valkey number by themselves. */
static bool type_known(const struct payload *p, const struct receiver *to)
{
	bool from_valkey = p->version >= RDB_VALKEY_FIRST, to_valkey = to->product == PRODUCT_VALKEY;

	if (p->type == 8 || p->type == RDB_MODULE || p->type == RDB_MODULE_2)
		return false; /* nobody promises that the module is loaded there */
	if (p->type < RDB_HASH_LISTPACK)
		return true;
	if (p->type < RDB_SET_LISTPACK)
		return to_valkey || to->version >= VERSION(7, 0);
	if (p->type <= RDB_STREAM_LISTPACKS_3)
		return to_valkey || to->version >= VERSION(7, 2);
	if (from_valkey != to_valkey)
		return false;
	switch (p->type) {
	case RDB_VALKEY_HASH_2:
		return from_valkey && to->version >= VERSION(9, 0);
	case RDB_VALKEY_PATH_HASH:
		return from_valkey && to->version >= VERSION(9, 2);
	case RDB_HASH_METADATA:
	case RDB_HASH_LISTPACK_EX:
		return !from_valkey && to->version >= VERSION(7, 4);
	default:
		return !from_valkey && p->type >= RDB_REDIS_8_6_FIRST && p->type <= RDB_REDIS_8_6_LAST && to->version >= VERSION(8, 6);
	}
}

/* Takes the receiver a payload of this footer as it is? Valkey 9 refuses the range that Redis went on to number alone. */
static bool version_accepted(unsigned version, const struct receiver *to)
{
	unsigned own = rdb_version(to);

	return version <= own && (own < RDB_VALKEY_FIRST || version <= 11 || version >= RDB_VALKEY_FIRST);
}

sds restamp(struct slice bytes, const struct receiver *to)
{
	struct payload p;

	if (!payload_split(bytes, &p) || !type_known(&p, to))
		return NULL;
	if (version_accepted(p.version, to))
		return sdsnewlen(bytes.p, bytes.n);
	size_t body = bytes.n - PAYLOAD_FOOTER;
	uint64_t crc = crc64_jones(0, bytes.p, body);
	if (crc64_jones(crc, bytes.p + body, 2) != p.crc)
		return NULL; /* a new checksum would hide damage */
	unsigned version = rdb_version(to);
	unsigned char footer[PAYLOAD_FOOTER] = { version & 0xff, version >> 8 };
	crc = crc64_jones(crc, footer, 2);
	for (int i = 0; i < 8; i++)
		footer[2 + i] = (unsigned char)(crc >> (8 * i));
	sds out = sdsnewlen(bytes.p, bytes.n);
	if (out)
		memcpy(out + body, footer, sizeof(footer));
	return out;
}
