#include "net/tls.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/tls_internal.h"
#include "net/transport.h"

#define RECORD_MAX 16384 /* bytes of one record: what one SSL_write sends */

static struct tls *tls_new(struct tls_context *c, int fd, const char *node, char **name)
{
	struct tls *t = calloc(1, sizeof *t);

	if (!t)
		abort();
	t->ssl = tls_context_ssl(c, node, &t->generation, name);
	if (!SSL_set_fd(t->ssl, fd))
		abort();
	SSL_set_app_data(t->ssl, t);
	return t;
}

struct tls *tls_accept(struct tls_context *c, int fd)
{
	struct tls *t = tls_new(c, fd, NULL, NULL);

	SSL_set_accept_state(t->ssl);
	return t;
}

/* "host:port", "[v6]:port" → host. */
static void host_of(const char *node, char *host, size_t n)
{
	const char *colon = strrchr(node, ':');
	size_t len = colon ? (size_t)(colon - node) : strlen(node);

	if (len >= 2 && node[0] == '[' && node[len - 1] == ']') {
		node++;
		len -= 2;
	}
	snprintf(host, n, "%.*s", (int)len, node);
}

static bool is_address(const char *host)
{
	unsigned char scratch[sizeof(struct in6_addr)];

	return inet_pton(AF_INET, host, scratch) == 1 || inet_pton(AF_INET6, host, scratch) == 1;
}

/* The peer must be who it is taken for: an address stands in its certificate as an address. */
static void expect_name(SSL *ssl, const char *name)
{
	if (is_address(name)) {
		if (!X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name))
			abort();
		return;
	}
	SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	if (!SSL_set1_host(ssl, name) || !SSL_set_tlsext_host_name(ssl, name))
		abort();
}

struct tls *tls_connect(struct tls_context *c, int fd, const char *node)
{
	char host[280], *name = NULL;
	struct tls *t = tls_new(c, fd, node, &name);

	t->context = c;
	snprintf(t->node, sizeof t->node, "%s", node);
	host_of(node, host, sizeof host);
	expect_name(t->ssl, name ? name : host);
	free(name);
	SSL_set_connect_state(t->ssl);
	return t;
}

void tls_close(struct tls *t, bool orderly)
{
	if (!t)
		return;
	ERR_clear_error();
	if (orderly && SSL_is_init_finished(t->ssl))
		SSL_shutdown(t->ssl); /* after a fatal error it does nothing */
	else
		SSL_set_quiet_shutdown(t->ssl, 1);
	SSL_free(t->ssl);
	ERR_clear_error();
	free(t);
}

/* --- what happened --- */

const char *tls_reason(char *buf, size_t n)
{
	unsigned long e = ERR_peek_error();
	const char *text = !e ? NULL : ERR_SYSTEM_ERROR(e) ? strerror(ERR_GET_REASON(e)) : ERR_reason_error_string(e);

	snprintf(buf, n, "%s", text ? text : "no reason was given");
	return buf;
}

static void explain(struct tls *t)
{
	char reason[128];
	long verdict = SSL_get_verify_result(t->ssl);

	if (ERR_GET_REASON(ERR_peek_error()) == SSL_R_CERTIFICATE_VERIFY_FAILED && verdict != X509_V_OK)
		snprintf(t->why, sizeof t->why, "TLS: its certificate is not accepted: %s", X509_verify_cert_error_string(verdict));
	else
		snprintf(t->why, sizeof t->why, "TLS: %s", tls_reason(reason, sizeof reason));
}

/* As recv() and send() would say it: 0 for an end, -1 with errno. */
static ssize_t outcome(struct tls *t, int got)
{
	switch (SSL_get_error(t->ssl, got)) {
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE:
		errno = EAGAIN;
		return -1;
	case SSL_ERROR_ZERO_RETURN:
		return 0;
	case SSL_ERROR_SYSCALL:
		if (errno && errno != EAGAIN)
			return -1;
		return 0;
	default:
		explain(t);
		errno = EPROTO;
		return -1;
	}
}

const char *tls_why(const struct tls *t)
{
	return t->why;
}

const char *transport_why(const struct tls *t, int error)
{
	return t && error == EPROTO && *t->why ? t->why : strerror(error);
}

bool tls_read_wants_write(const struct tls *t)
{
	return t->read_wants_write;
}

/* --- handshake, reading, writing --- */

enum tls_progress tls_handshake(struct tls *t)
{
	ERR_clear_error();
	errno = 0;
	int got = SSL_do_handshake(t->ssl);
	if (got == 1)
		return TLS_DONE;
	t->read_wants_write = SSL_want_write(t->ssl);
	ssize_t n = outcome(t, got);
	if (n < 0 && errno == EAGAIN)
		return TLS_AGAIN;
	if (n == 0)
		snprintf(t->why, sizeof t->why, "TLS: it closed the connection during the handshake");
	else if (errno != EPROTO)
		snprintf(t->why, sizeof t->why, "TLS: %s during the handshake", strerror(errno));
	return TLS_FAILED;
}

bool tls_established(const struct tls *t)
{
	return SSL_is_init_finished(t->ssl);
}

bool tls_resumed(const struct tls *t)
{
	return SSL_session_reused(t->ssl);
}

bool tls_pending(const struct tls *t)
{
	return SSL_pending(t->ssl) > 0;
}

ssize_t tls_read(struct tls *t, void *p, size_t n)
{
	assert(n > 0);
	ERR_clear_error();
	errno = 0;
	int got = SSL_read(t->ssl, p, n < INT_MAX ? (int)n : INT_MAX);
	t->read_wants_write = got <= 0 && SSL_want_write(t->ssl);
	return got > 0 ? got : outcome(t, got);
}

/* Small pieces share a record. What is tried again after EAGAIN must begin with the same bytes and be as long at least: pieces are only added
 * behind, so the first RECORD_MAX bytes of all of them do. */
static size_t gather(const struct iovec *iov, int n, char *record, const char **p)
{
	size_t len = 0;

	*p = iov->iov_base;
	if (n == 1 || iov->iov_len >= RECORD_MAX)
		return iov->iov_len < RECORD_MAX ? iov->iov_len : RECORD_MAX;
	for (int i = 0; i < n && len < RECORD_MAX; i++) {
		size_t take = iov[i].iov_len < RECORD_MAX - len ? iov[i].iov_len : RECORD_MAX - len;
		memcpy(record + len, iov[i].iov_base, take);
		len += take;
	}
	*p = record;
	return len;
}

ssize_t tls_writev(struct tls *t, const struct iovec *iov, int n)
{
	char record[RECORD_MAX];
	const char *p;
	size_t len = gather(iov, n, record, &p);

	assert(len > 0);
	ERR_clear_error();
	errno = 0;
	int put = SSL_write(t->ssl, p, (int)len);
	if (put > 0)
		return put;
	ssize_t end = outcome(t, put);
	if (end == 0) {
		errno = EPIPE;
		return -1;
	}
	return end;
}
