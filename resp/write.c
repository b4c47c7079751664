/* write.c - RESP writers. Out of memory ends the process: an sds call returns NULL and the copy behind it faults. */
#include "resp/write.h"

#include <stdarg.h>

static const char digit_pairs[] =
	"00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748495051525354555657585960616263"
	"646566676869707172737475767778798081828384858687888990919293949596979899";

/* Decimal digits of n at out (at most 20), without an end. */
static size_t put_int(char *out, int64_t n)
{
	char tmp[20], *p = tmp + sizeof(tmp);
	uint64_t v = n < 0 ? 0 - (uint64_t)n : (uint64_t)n;

	for (; v >= 100; v /= 100)
		memcpy(p -= 2, digit_pairs + v % 100 * 2, 2);
	if (v >= 10)
		memcpy(p -= 2, digit_pairs + v * 2, 2);
	else
		*--p = (char)('0' + v);
	if (n < 0)
		*--p = '-';
	size_t len = (size_t)(tmp + sizeof(tmp) - p);
	memcpy(out, p, len);
	return len;
}

size_t resp_put_len(char *out, char type, int64_t n)
{
	char *p = out;

	*p++ = type;
	if (n >= 0 && n < 10)
		*p++ = (char)('0' + n);
	else
		p += put_int(p, n);
	*p++ = '\r';
	*p++ = '\n';
	return (size_t)(p - out);
}

/* Room for n bytes at the end of *s; sdsIncrLen must follow. */
static inline char *reserve(sds *s, size_t n)
{
	if (sdsavail(*s) < n)
		*s = sdsMakeRoomFor(*s, n);
	return *s + sdslen(*s);
}

static inline void commit(sds s, size_t n)
{
	size_t len = sdslen(s) + n;

	sdssetlen(s, len);
	s[len] = '\0';
}

static inline char *put_bulk(char *p, struct slice v)
{
	p += resp_put_len(p, '$', (int64_t)v.n);
	if (v.n > 0)
		memcpy(p, v.p, v.n);
	p += v.n;
	*p++ = '\r';
	*p++ = '\n';
	return p;
}

sds resp_cat_len(sds s, char type, int64_t n)
{
	char *p = reserve(&s, RESP_HEADER_MAX);

	commit(s, resp_put_len(p, type, n));
	return s;
}

sds resp_cat_bulk(sds s, struct slice v)
{
	char *p = reserve(&s, RESP_HEADER_MAX + v.n + 2);

	commit(s, (size_t)(put_bulk(p, v) - p));
	return s;
}

sds resp_cat_int_bulk(sds s, int64_t n)
{
	char digits[20];

	return resp_cat_bulk(s, slice(digits, put_int(digits, n)));
}

sds resp_cat_simple(sds s, const char *text)
{
	s = sdscatlen(s, "+", 1);
	s = sdscat(s, text);
	return sdscatlen(s, "\r\n", 2);
}

sds resp_cat_error(sds s, const char *text)
{
	s = sdscatlen(s, "-", 1);
	size_t start = sdslen(s);
	s = sdscat(s, text);
	for (char *p = s + start; *p; p++)
		if (*p == '\r' || *p == '\n')
			*p = ' ';
	return sdscatlen(s, "\r\n", 2);
}

sds resp_cat_null(sds s, int proto)
{
	return proto >= 3 ? sdscatlen(s, "_\r\n", 3) : sdscatlen(s, "$-1\r\n", 5);
}

sds resp_cat_null_array(sds s, int proto)
{
	return proto >= 3 ? sdscatlen(s, "_\r\n", 3) : sdscatlen(s, "*-1\r\n", 5);
}

/* One look at the size first, so that the memory is taken once. */
sds resp_cat_request(sds s, int argc, const struct slice *argv)
{
	size_t size = RESP_HEADER_MAX;

	for (int i = 0; i < argc; i++)
		size += RESP_HEADER_MAX + argv[i].n + 2;
	char *start = reserve(&s, size), *p = start;
	p += resp_put_len(p, '*', argc);
	for (int i = 0; i < argc; i++)
		p = put_bulk(p, argv[i]);
	commit(s, (size_t)(p - start));
	return s;
}

sds resp_cat_words(sds s, ...)
{
	const char *word;
	va_list ap;
	int argc = 0;

	va_start(ap, s);
	while (va_arg(ap, const char *))
		argc++;
	va_end(ap);
	s = resp_cat_len(s, '*', argc);
	va_start(ap, s);
	while ((word = va_arg(ap, const char *)))
		s = resp_cat_bulk(s, slice(word, strlen(word)));
	va_end(ap);
	return s;
}
