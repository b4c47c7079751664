/* The configuration's certificates become TLS contexts, when it is read and when it is read again: what cannot be used is an error of the configuration. */
#include <string.h>

#include "net/tls.h"
#include "proxy/config_options.h"
#include "proxy/log.h"

#define DAYS_WARNED 14

static void look_at_expiry(struct tls_context *tls, const char *prefix, const char *file)
{
	int days;

	if (!tls_context_days_left(tls, &days) || days >= DAYS_WARNED)
		return;
	if (days < 0)
		log_warning("%scert-file '%s' has expired %d days ago", prefix, file, -days);
	else
		log_warning("%scert-file '%s' expires in %d days", prefix, file, days);
}

bool config_tls_listener(struct config *c, char *err, size_t errlen)
{
	struct tls_settings s = {
		.prefix = "tls-", .listener = true, .cert_file = c->tls_cert_file, .key_file = c->tls_key_file, .key_pass = c->tls_key_pass,
		.ca_file = c->tls_ca_cert_file, .ca_dir = c->tls_ca_cert_dir, .auth_clients = (enum tls_auth)c->tls_auth_clients,
		.protocols = c->tls_protocols, .ciphers = c->tls_ciphers, .ciphersuites = c->tls_ciphersuites,
	};

	if (!s.cert_file && !s.key_file) {
		snprintf(err, errlen, "tls-port is set without a certificate: expected tls-cert-file and tls-key-file, too");
		return false;
	}
	c->tls = tls_context_new(&s, err, errlen);
	if (c->tls)
		look_at_expiry(c->tls, s.prefix, s.cert_file);
	return c->tls != NULL;
}

bool config_tls_side(struct config *c, enum side side, char *err, size_t errlen)
{
	struct side_config *of = &c->side[side];
	struct tls_settings s = {
		.prefix = side == SIDE_SOURCE ? "source-tls-" : "target-tls-", .cert_file = of->tls_cert_file, .key_file = of->tls_key_file,
		.ca_file = of->tls_ca_cert_file, .name = of->tls_name, .protocols = c->tls_protocols, .ciphers = c->tls_ciphers,
		.ciphersuites = c->tls_ciphersuites,
	};

	of->tls = tls_context_new(&s, err, errlen);
	if (of->tls && s.cert_file)
		look_at_expiry(of->tls, s.prefix, s.cert_file);
	return of->tls != NULL;
}

static bool replace(struct tls_context *now, struct tls_context *fresh)
{
	if (now && fresh) /* whether TLS is spoken at all is no matter of a reload */
		tls_context_replace(now, fresh);
	return now && fresh;
}

void config_tls_take(struct config *c, struct config *fresh)
{
	bool any = replace(c->tls, fresh->tls);

	for (int s = 0; s < SIDES; s++)
		any |= replace(c->side[s].tls, fresh->side[s].tls);
	if (any)
		log_notice("config: the certificates were read again; connections made from now on use them");
}

void config_tls_release(struct config *c)
{
	tls_context_free(c->tls);
	c->tls = NULL;
	for (int s = 0; s < SIDES; s++) {
		tls_context_free(c->side[s].tls);
		c->side[s].tls = NULL;
	}
}
