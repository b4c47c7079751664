/* slot.c - CRC16 (XMODEM: polynomial 0x1021, start 0, not reflected), four bytes at a time: table k holds the checksum of a byte that k zero bytes follow. */
#include "resp/slot.h"

static uint16_t crc16_table[4][256]; /* written once, before main */

__attribute__((constructor)) static void crc16_init(void)
{
	for (unsigned byte = 0; byte < 256; byte++) {
		uint16_t crc = (uint16_t)(byte << 8);
		for (int bit = 0; bit < 32; bit++) {
			crc = (uint16_t)(crc << 1) ^ (crc & 0x8000 ? 0x1021 : 0);
			if (bit % 8 == 7)
				crc16_table[bit / 8][byte] = crc;
		}
	}
}

static uint16_t crc16(const unsigned char *p, size_t n)
{
	uint16_t crc = 0;

	for (; n >= 4; p += 4, n -= 4)
		crc = crc16_table[3][(crc >> 8) ^ p[0]] ^ crc16_table[2][(crc & 0xff) ^ p[1]] ^ crc16_table[1][p[2]] ^ crc16_table[0][p[3]];
	for (; n; p++, n--)
		crc = (uint16_t)(crc << 8) ^ crc16_table[0][(crc >> 8) ^ *p];
	return crc;
}

/* What is hashed: the text between the first '{' and the first '}' behind it, unless that is empty; else the whole key. */
static struct slice hashed_part(struct slice key)
{
	const char *open = memchr(key.p, '{', key.n);

	if (!open)
		return key;
	const char *tag = open + 1;
	const char *close = memchr(tag, '}', (size_t)(key.p + key.n - tag));
	return close && close != tag ? slice(tag, (size_t)(close - tag)) : key;
}

uint16_t slot_of(struct slice key)
{
	if (key.n == 0)
		return 0;
	key = hashed_part(key);
	return crc16((const unsigned char *)key.p, key.n) % SLOTS;
}
