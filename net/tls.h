/* tls.h - TLS by OpenSSL: contexts (certificates, rules, sessions to resume), and connections made from them.
 *
 *   control: tls_context_new(settings) ─── SIGHUP: tls_context_replace(old, fresh) ───► tls_context_free
 *   socket's thread: tls_accept | tls_connect → tls_handshake … → transport_read/writev → tls_close
 *
 * A context may be replaced while threads make connections from it; a connection keeps the certificates that it was made with. Its lock is taken when a connection
 * is made and when a session to resume arrives, never per read or write. TLS 1.2 and 1.3; no renegotiation (so writing never waits for
 * reading, once the handshake is over), no compression.
 * A connection that is made (not accepted) checks the peer's certificate and its name; there is no way to turn that off. */
#ifndef CROSSFADE_TLS_H
#define CROSSFADE_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

struct tls_context;
struct tls;

enum tls_auth { TLS_AUTH_NO, TLS_AUTH_YES, TLS_AUTH_OPTIONAL };

struct tls_settings {
	const char *prefix;      /* of the options' names, for messages: "tls-", "source-tls-" */
	bool listener;           /* accepts connections; else makes them */
	const char *cert_file, *key_file; /* PEM; of one that makes connections both may be NULL */
	const char *key_pass;    /* of an encrypted key; NULL: none */
	const char *ca_file, *ca_dir; /* whom to trust; both NULL: whom the system trusts */
	enum tls_auth auth_clients;
	const char *protocols;   /* "TLSv1.2 TLSv1.3"; NULL or "": both */
	const char *ciphers, *ciphersuites; /* of TLS 1.2, of 1.3; NULL or "": OpenSSL's */
	const char *name;        /* the name that every peer must have; NULL: the host by which it is reached */
};

/* NULL: err says which option is wrong and what was expected. */
struct tls_context *tls_context_new(const struct tls_settings *s, char *err, size_t errlen);
void tls_context_free(struct tls_context *c); /* NULL is allowed; its connections may live on */
/* `c` gets what `fresh` has, which is of no use afterwards but to be freed; sessions to resume are forgotten. */
void tls_context_replace(struct tls_context *c, struct tls_context *fresh);
/* Days until the certificate of its own expires, negative: since. False: it has none. */
bool tls_context_days_left(struct tls_context *c, int *days);

struct tls *tls_accept(struct tls_context *c, int fd);
/* `node` is "host:port" as in topologies: the name that is asked for and checked, and what sessions are kept by. */
struct tls *tls_connect(struct tls_context *c, int fd, const char *node);
/* Orderly: the peer is told, as far as the socket takes that now. Does not close the descriptor. NULL is allowed. */
void tls_close(struct tls *t, bool orderly);

enum tls_progress { TLS_AGAIN, TLS_DONE, TLS_FAILED };
/* Of one that was accepted reading does this by itself. TLS_AGAIN: when the socket is readable, or tls_read_wants_write(), writable. */
enum tls_progress tls_handshake(struct tls *t);
bool tls_established(const struct tls *t);
bool tls_resumed(const struct tls *t);

ssize_t tls_read(struct tls *t, void *p, size_t n);
ssize_t tls_writev(struct tls *t, const struct iovec *iov, int n);
bool tls_pending(const struct tls *t);
bool tls_read_wants_write(const struct tls *t);
const char *tls_why(const struct tls *t); /* of the last EPROTO or TLS_FAILED */

#endif
