/* tls_internal.h - shared by tls.c (connections) and tls_context.c (contexts). */
#ifndef CROSSFADE_TLS_INTERNAL_H
#define CROSSFADE_TLS_INTERNAL_H

#include <openssl/ssl.h>

#include "net/tls.h"

struct tls {
	SSL *ssl;
	struct tls_context *context; /* of one that was made; outlives it while sessions may arrive */
	unsigned generation;         /* of the context when it was made: a session of replaced certificates is not kept */
	bool read_wants_write;
	char why[256];
	char node[280];
};

/* A connection of the context as it is now; *name: what every peer is called, or NULL (malloc'd). For one that makes connections the session of the node is set. */
SSL *tls_context_ssl(struct tls_context *c, const char *node, unsigned *generation, char **name);
/* OpenSSL's reason for the first error of the queue, as far as it knows one. */
const char *tls_reason(char *buf, size_t n);

#endif
