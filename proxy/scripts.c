#include "proxy/scripts.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <uthash.h>

#include "resp/write.h"

#define SHA_TEXT 40

struct script {
	UT_hash_handle hh;
	char sha[SHA_TEXT];
	size_t n;
	char body[];
};

struct scripts {
	pthread_mutex_t lock;
	struct script *table;
	size_t bytes, max;
	_Atomic uint64_t epoch;
};

struct scripts *scripts_new(size_t max_bytes)
{
	struct scripts *s = calloc(1, sizeof *s);

	if (!s)
		abort();
	s->max = max_bytes;
	pthread_mutex_init(&s->lock, NULL);
	return s;
}

void scripts_forget(struct scripts *s)
{
	struct script *i, *next;

	pthread_mutex_lock(&s->lock);
	HASH_ITER(hh, s->table, i, next) {
		HASH_DEL(s->table, i);
		free(i);
	}
	s->bytes = 0;
	s->epoch++;
	pthread_mutex_unlock(&s->lock);
}

uint64_t scripts_epoch(struct scripts *s)
{
	return s->epoch;
}

void scripts_free(struct scripts *s)
{
	scripts_forget(s);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static bool sha_of(struct slice body, char text[SHA_TEXT])
{
	static const char hex[] = "0123456789abcdef";
	unsigned char sum[EVP_MAX_MD_SIZE];
	unsigned n;

	if (!EVP_Digest(body.p, body.n, sum, &n, EVP_sha1(), NULL) || n * 2 != SHA_TEXT)
		return false;
	for (unsigned i = 0; i < n; i++) {
		text[2 * i] = hex[sum[i] >> 4];
		text[2 * i + 1] = hex[sum[i] & 15];
	}
	return true;
}

bool scripts_remember(struct scripts *s, struct slice body)
{
	char sha[SHA_TEXT];
	struct script *i;
	bool is_new = false;

	if (!sha_of(body, sha))
		return false;
	pthread_mutex_lock(&s->lock);
	HASH_FIND(hh, s->table, sha, SHA_TEXT, i);
	if (!i && s->bytes + body.n + sizeof *i <= s->max && (i = malloc(sizeof *i + body.n))) {
		memcpy(i->sha, sha, SHA_TEXT);
		i->n = body.n;
		memcpy(i->body, body.p, body.n);
		s->bytes += body.n + sizeof *i;
		HASH_ADD(hh, s->table, sha, SHA_TEXT, i);
		is_new = true;
	}
	pthread_mutex_unlock(&s->lock);
	return is_new;
}

static sds cat_load(sds out, const struct script *i)
{
	struct slice words[3] = { SLICE_LIT("SCRIPT"), SLICE_LIT("LOAD"), slice(i->body, i->n) };

	return resp_cat_request(out, 3, words);
}

sds scripts_load_all(struct scripts *s, unsigned *n)
{
	sds out = NULL;
	struct script *i, *next;

	pthread_mutex_lock(&s->lock);
	*n = HASH_COUNT(s->table);
	if (*n)
		out = sdsempty();
	HASH_ITER(hh, s->table, i, next)
		out = cat_load(out, i);
	pthread_mutex_unlock(&s->lock);
	return out;
}

sds scripts_load_request(struct scripts *s, struct slice sha)
{
	char lower[SHA_TEXT];
	struct script *i;
	sds out = NULL;

	if (sha.n != SHA_TEXT)
		return NULL;
	for (size_t k = 0; k < SHA_TEXT; k++)
		lower[k] = sha.p[k] >= 'A' && sha.p[k] <= 'F' ? (char)(sha.p[k] + 32) : sha.p[k];
	pthread_mutex_lock(&s->lock);
	HASH_FIND(hh, s->table, lower, SHA_TEXT, i);
	if (i)
		out = cat_load(sdsempty(), i);
	pthread_mutex_unlock(&s->lock);
	return out;
}
