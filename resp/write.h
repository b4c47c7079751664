/* write.h - RESP writers. They append to an sds and return it (it may have moved), as hiredis' sdscat* do.
 * No I/O, no globals. Requests are arrays of bulks; replies of every RESP3 type. */
#ifndef CROSSFADE_WRITE_H
#define CROSSFADE_WRITE_H

#include <hiredis/sds.h>
#include <stdint.h>

#include "resp/slice.h"

/* Longest header that resp_put_len writes: type, 20 digits, CRLF. */
#define RESP_HEADER_MAX 24

/* Writes "<type><n>\r\n" at out (at least RESP_HEADER_MAX bytes), returns its length. */
size_t resp_put_len(char *out, char type, int64_t n);

sds resp_cat_len(sds s, char type, int64_t n);     /* any header: '*', '%', '~', '>', ':' … */
sds resp_cat_bulk(sds s, struct slice v);          /* $n\r\n…\r\n */
sds resp_cat_int_bulk(sds s, int64_t n);           /* an integer as a bulk, as an argument */
sds resp_cat_simple(sds s, const char *text);      /* +text */
sds resp_cat_error(sds s, const char *text);       /* -text; CR and LF inside become spaces */
sds resp_cat_null(sds s, int proto);               /* _ or $-1 */
sds resp_cat_null_array(sds s, int proto);         /* _ or *-1 */
sds resp_cat_request(sds s, int argc, const struct slice *argv);
/* resp_cat_words(s, "SET", "key", NULL): C strings, NULL at the end. */
sds resp_cat_words(sds s, ...);

#endif
