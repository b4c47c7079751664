#include <errno.h>
#include <openssl/err.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "net/tls_internal.h"

#define SESSIONS_MAX 1024 /* nodes; sessions of more are not kept */

struct kept { /* the last session of a node */
	struct kept *next;
	SSL_SESSION *session;
	char node[];
};

struct tls_context {
	pthread_mutex_t lock; /* of all below */
	SSL_CTX *ctx;
	char *name;
	unsigned generation;
	struct kept *kept;
	unsigned nkept;
};

/* --- sessions to resume --- */

static void forget_sessions(struct tls_context *c)
{
	for (struct kept *k = c->kept, *next; k; k = next) {
		next = k->next;
		SSL_SESSION_free(k->session);
		free(k);
	}
	c->kept = NULL;
	c->nkept = 0;
}

static struct kept *kept_of(const struct tls_context *c, const char *node)
{
	struct kept *k = c->kept;

	while (k && strcmp(k->node, node) != 0)
		k = k->next;
	return k;
}

static struct kept *kept_new(struct tls_context *c, const char *node)
{
	struct kept *k = c->nkept < SESSIONS_MAX ? calloc(1, sizeof *k + strlen(node) + 1) : NULL;

	if (!k)
		return NULL;
	strcpy(k->node, node);
	k->next = c->kept;
	c->kept = k;
	c->nkept++;
	return k;
}

/* From OpenSSL, during a read: the server gave a ticket. 1: the reference is ours. */
static int on_session(SSL *ssl, SSL_SESSION *session)
{
	struct tls *t = SSL_get_app_data(ssl);
	struct tls_context *c = t->context;
	int taken = 0;

	pthread_mutex_lock(&c->lock);
	struct kept *k = t->generation == c->generation ? kept_of(c, t->node) : NULL;
	if (!k && t->generation == c->generation)
		k = kept_new(c, t->node);
	if (k) {
		SSL_SESSION_free(k->session);
		k->session = session;
		taken = 1;
	}
	pthread_mutex_unlock(&c->lock);
	return taken;
}

/* --- settings --- */

struct making {
	const struct tls_settings *s;
	SSL_CTX *ctx;
	char *err;
	size_t errlen;
};

static bool wrong(struct making *m, const char *option, const char *value, const char *expected) /* with OpenSSL's reason */
{
	char reason[128];

	snprintf(m->err, m->errlen, "%s%s '%s': %s: expected %s", m->s->prefix, option, value, tls_reason(reason, sizeof reason), expected);
	ERR_clear_error();
	return false;
}

static int on_passphrase(char *buf, int size, int for_writing, void *arg)
{
	const char *pass = arg;

	(void)for_writing;
	if (!pass || strlen(pass) >= (size_t)size)
		return 0; /* never asked for on a terminal */
	strcpy(buf, pass);
	return (int)strlen(pass);
}

static bool given(const char *text)
{
	return text && *text;
}

static bool set_certificate(struct making *m)
{
	const struct tls_settings *s = m->s;

	if (!s->cert_file && !s->key_file)
		return true;
	if (!s->cert_file || !s->key_file) {
		snprintf(m->err, m->errlen, "%s%s is set alone: expected %scert-file and %skey-file together", s->prefix,
			 s->cert_file ? "cert-file" : "key-file", s->prefix, s->prefix);
		return false;
	}
	SSL_CTX_set_default_passwd_cb(m->ctx, on_passphrase);
	SSL_CTX_set_default_passwd_cb_userdata(m->ctx, (void *)(uintptr_t)s->key_pass);
	if (SSL_CTX_use_certificate_chain_file(m->ctx, s->cert_file) != 1)
		return wrong(m, "cert-file", s->cert_file, "a PEM file with the certificate and its chain that this user may read");
	if (SSL_CTX_use_PrivateKey_file(m->ctx, s->key_file, SSL_FILETYPE_PEM) != 1)
		return wrong(m, "key-file", s->key_file, "a PEM file with the certificate's key that this user may read, encrypted only if its passphrase is given");
	SSL_CTX_set_default_passwd_cb_userdata(m->ctx, NULL); /* the caller's */
	return true;
}

static bool set_trust(struct making *m)
{
	const struct tls_settings *s = m->s;

	if (given(s->ca_file) && SSL_CTX_load_verify_file(m->ctx, s->ca_file) != 1)
		return wrong(m, "ca-cert-file", s->ca_file, "a PEM file with the certificates to trust");
	if (given(s->ca_dir) && SSL_CTX_load_verify_dir(m->ctx, s->ca_dir) != 1)
		return wrong(m, "ca-cert-dir", s->ca_dir, "a directory of certificates to trust, as openssl rehash makes it");
	if (given(s->ca_file) || given(s->ca_dir))
		return true;
	if (!s->listener)
		return SSL_CTX_set_default_verify_paths(m->ctx) == 1 || wrong(m, "ca-cert-file", "", "a PEM file with the certificates to trust");
	if (s->auth_clients == TLS_AUTH_NO)
		return true;
	snprintf(m->err, m->errlen, "%sauth-clients is on, and nobody is trusted: expected %sca-cert-file or %sca-cert-dir, or %sauth-clients no", s->prefix,
		 s->prefix, s->prefix, s->prefix);
	return false;
}

static void set_verify(struct making *m)
{
	static const int modes[] = {
		[TLS_AUTH_NO] = SSL_VERIFY_NONE,
		[TLS_AUTH_YES] = SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
		[TLS_AUTH_OPTIONAL] = SSL_VERIFY_PEER,
	};
	static const unsigned char who[] = "crossfade";

	SSL_CTX_set_verify(m->ctx, m->s->listener ? modes[m->s->auth_clients] : SSL_VERIFY_PEER, NULL);
	if (m->s->listener) { /* clients resume by tickets, which the context's key opens: any worker can */
		SSL_CTX_set_session_id_context(m->ctx, who, sizeof who - 1);
		return;
	}
	SSL_CTX_set_session_cache_mode(m->ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(m->ctx, on_session);
}

static bool set_protocols(struct making *m)
{
	const char *text = given(m->s->protocols) ? m->s->protocols : "TLSv1.2 TLSv1.3", *p = text;
	bool v12 = false, v13 = false;

	while (*(p += strspn(p, " \t,"))) {
		size_t n = strcspn(p, " \t,");
		bool is12 = n == 7 && strncasecmp(p, "TLSv1.2", n) == 0, is13 = n == 7 && strncasecmp(p, "TLSv1.3", n) == 0;
		if (!is12 && !is13) {
			v12 = v13 = false;
			break;
		}
		v12 |= is12;
		v13 |= is13;
		p += n;
	}
	if (!v12 && !v13) {
		snprintf(m->err, m->errlen, "tls-protocols '%s': expected TLSv1.2, TLSv1.3 or \"TLSv1.2 TLSv1.3\"", text);
		return false;
	}
	return SSL_CTX_set_min_proto_version(m->ctx, v12 ? TLS1_2_VERSION : TLS1_3_VERSION) &&
	       SSL_CTX_set_max_proto_version(m->ctx, v13 ? TLS1_3_VERSION : TLS1_2_VERSION);
}

static bool set_ciphers(struct making *m)
{
	struct making all = *m;
	struct tls_settings s = *m->s;

	s.prefix = "tls-"; /* the same for all that speaks TLS */
	all.s = &s;
	if (given(s.ciphers) && SSL_CTX_set_cipher_list(m->ctx, s.ciphers) != 1)
		return wrong(&all, "ciphers", s.ciphers, "a list of OpenSSL's names of ciphers of TLS 1.2");
	if (given(s.ciphersuites) && SSL_CTX_set_ciphersuites(m->ctx, s.ciphersuites) != 1)
		return wrong(&all, "ciphersuites", s.ciphersuites, "a list of OpenSSL's names of ciphersuites of TLS 1.3");
	return true;
}

static bool set_all(struct making *m)
{
	SSL_CTX_set_options(m->ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_IGNORE_UNEXPECTED_EOF);
	SSL_CTX_set_mode(m->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
	set_verify(m);
	return set_protocols(m) && set_ciphers(m) && set_certificate(m) && set_trust(m);
}

/* --- life --- */

struct tls_context *tls_context_new(const struct tls_settings *s, char *err, size_t errlen)
{
	struct tls_context *c = calloc(1, sizeof *c);
	struct making m = { s, SSL_CTX_new(s->listener ? TLS_server_method() : TLS_client_method()), err, errlen };

	if (!c || !m.ctx)
		abort();
	ERR_clear_error();
	pthread_mutex_init(&c->lock, NULL);
	c->ctx = m.ctx;
	c->name = given(s->name) ? strdup(s->name) : NULL;
	if (set_all(&m))
		return c;
	tls_context_free(c);
	return NULL;
}

void tls_context_free(struct tls_context *c)
{
	if (!c)
		return;
	forget_sessions(c);
	SSL_CTX_free(c->ctx);
	free(c->name);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

void tls_context_replace(struct tls_context *c, struct tls_context *fresh)
{
	pthread_mutex_lock(&c->lock);
	SSL_CTX *ctx = c->ctx;
	char *name = c->name;
	c->ctx = fresh->ctx;
	c->name = fresh->name;
	c->generation++;
	forget_sessions(c); /* what is trusted may have changed */
	pthread_mutex_unlock(&c->lock);
	fresh->ctx = ctx;
	fresh->name = name;
}

bool tls_context_days_left(struct tls_context *c, int *days)
{
	int seconds;

	pthread_mutex_lock(&c->lock);
	const X509 *own = SSL_CTX_get0_certificate(c->ctx);
	bool known = own && ASN1_TIME_diff(days, &seconds, NULL, X509_get0_notAfter(own));
	pthread_mutex_unlock(&c->lock);
	if (known && *days == 0 && seconds < 0)
		*days = -1;
	return known;
}

SSL *tls_context_ssl(struct tls_context *c, const char *node, unsigned *generation, char **name)
{
	pthread_mutex_lock(&c->lock);
	SSL *ssl = SSL_new(c->ctx);
	struct kept *k = node ? kept_of(c, node) : NULL;
	if (!ssl)
		abort();
	if (k)
		SSL_set_session(ssl, k->session); /* one that has run out is as none */
	*generation = c->generation;
	if (name)
		*name = c->name ? strdup(c->name) : NULL;
	pthread_mutex_unlock(&c->lock);
	return ssl;
}
