/* The configuration file: errors name file, line and what was expected; docs and sample name every option; secrets are never shown. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proxy/config.h"
#include "proxy/config_options.h"
#include "proxy/log.h"

static char dir[] = "/tmp/crossfade-test-config-XXXXXX";
static char file[64], secret_file[64];

static void write_file(const char *name, const char *text)
{
	FILE *f = fopen(name, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	chmod(name, 0600);
}

static char *read_whole(const char *name)
{
	const char *top = getenv("srcdir");
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", top ? top : ".", name);
	FILE *f = fopen(path, "r");
	if (!f)
		fail_msg("no %s (run from the top of the tree)", path);
	char *text = calloc(1, 1 << 20);
	size_t n = fread(text, 1, (1 << 20) - 1, f);
	assert_true(n > 0);
	fclose(f);
	return text;
}

static int setup(void **state)
{
	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(file, sizeof(file), "%s/c", dir);
	snprintf(secret_file, sizeof(secret_file), "%s/s", dir);
	log_set_level(LOG_WARNING);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(file);
	unlink(secret_file);
	return rmdir(dir);
}

#define MINIMAL "source-nodes 127.0.0.1:1\n"

static void expect_error(const char *text, const char *line, const char *part)
{
	struct config *c = calloc(1, sizeof(*c));
	char err[512] = "", prefix[96];

	write_file(file, text);
	assert_false(config_load(c, file, err, sizeof(err)));
	snprintf(prefix, sizeof(prefix), "%s:%s", file, line);
	if (strncmp(err, prefix, strlen(prefix)) != 0 || !strstr(err, part) || !strstr(err, "expected"))
		fail_msg("the message '%s' lacks '%s', '%s' or 'expected'", err, prefix, part);
	config_release(c);
	free(c);
}

static void test_errors(void **state)
{
	(void)state;
	expect_error("port 1\n\n# c\nprot 2\n" MINIMAL, "4: ", "prot");
	expect_error(MINIMAL "port 99999\n", "2: ", "from 1 to 65535");
	expect_error(MINIMAL "port 12x\n", "2: ", "'12x'");
	expect_error(MINIMAL "port\n", "2: ", "no value");
	expect_error(MINIMAL "port 1 2\n", "2: ", "port");
	expect_error(MINIMAL "port 1\nport 2\n", "3: ", "line 2");
	expect_error(MINIMAL "logfile \"x\n", "2: ", "quotes");
	expect_error(MINIMAL "loglevel loud\n", "2: ", "debug, verbose, notice or warning");
	expect_error(MINIMAL "mirror-ack none\n", "2: ", "source or both");
	expect_error(MINIMAL "mirror-tracking 1\n", "2: ", "yes or no");
	expect_error(MINIMAL "request-max 16xb\n", "2: ", "16mb");
	expect_error(MINIMAL "request-max -1\n", "2: ", "16mb");
	expect_error(MINIMAL "request-max 99999999999999999999mb\n", "2: ", "16mb");
	expect_error("source-nodes ::1:6379\n", "1: ", "[::1]:6379");
	expect_error("source-nodes unix:/a unix:/b\n", "1: ", "one unix:/path");
	expect_error("source-nodes unix:/a\nsource-tls yes\n", "2: ", "Unix socket");
	expect_error(MINIMAL "port 0\n", "2: ", "nothing is listened on");
	expect_error(MINIMAL "tls-port 1\n", "2: ", "tls-cert-file");
	expect_error(MINIMAL "tls-port 1\ntls-cert-file /nowhere.crt\n", "2: ", "tls-key-file");
	expect_error(MINIMAL "tls-port 1\ntls-cert-file /nowhere.crt\ntls-key-file /nowhere.key\n", "2: ", "'/nowhere.crt': No such file");
	expect_error(MINIMAL "tls-auth-clients perhaps\n", "2: ", "no, yes or optional");
	expect_error(MINIMAL "target-tls yes\ntarget-tls-ca-cert-file /nowhere.crt\n", "2: ", "'/nowhere.crt': No such file");
	expect_error(MINIMAL "target-tls yes\ntls-protocols TLSv1.1\n", "2: ", "TLSv1.2");
	expect_error(MINIMAL "target-tls yes\ntls-ciphers nonsense\n", "2: ", "tls-ciphers 'nonsense'");
	expect_error(MINIMAL "unixsocketperm 888\n", "2: ", "octal");
	expect_error(MINIMAL "aclfile /nowhere.acl\n", "2: ", "/nowhere.acl: cannot be read: No such file");
	expect_error(MINIMAL "aclfile /a\nrequirepass-file /b\n", "3: ", "beside aclfile");
	expect_error(MINIMAL "requirepass-file /nowhere\n", "2: ", "requirepass-file '/nowhere' cannot be read");
	expect_error("source-nodes host\n", "1: ", "host:port");
	expect_error("source-nodes host:0\n", "1: ", "host:port");
	expect_error(MINIMAL "target-address-map a\n", "2: ", "announced=reachable");
	expect_error(MINIMAL "state-dir \"\"\n", "2: ", "directory");
	expect_error(MINIMAL "source-user bob\n", "2: ", "source-auth-file");
	expect_error("port 1\n", " ", "source-nodes");
}

static void test_missing_files(void **state)
{
	struct config *c = calloc(1, sizeof(*c));
	char err[512];

	(void)state;
	assert_false(config_load(c, "/nonexistent/x", err, sizeof(err)));
	assert_non_null(strstr(err, "/nonexistent/x: cannot read"));
	write_file(file, MINIMAL "target-auth-file /nonexistent/s\n");
	assert_false(config_load(c, file, err, sizeof(err)));
	assert_non_null(strstr(err, ":2: target-auth-file '/nonexistent/s' cannot be read"));
	free(c);
}

static void test_values(void **state)
{
	struct config *c = calloc(1, sizeof(*c));
	char err[512];

	(void)state;
	write_file(file, "bind 10.0.0.1 ::1\n  PORT 7000\r\nsource-nodes a.example:1 [fd00::1]:2\n"
			 "source-address-map 10.1.1.1:7=1.2.3.4:8 x=y\nrequest-max 1m\nmirror-queue-max 2gb\n"
			 "mirror-ack both\nlogfile \"a b\"\ntarget-not-empty allow\n");
	assert_true(config_load(c, file, err, sizeof(err)));
	assert_int_equal(c->nbinds, 2);
	assert_string_equal(c->binds[1], "::1");
	assert_int_equal(c->port, 7000);
	assert_int_equal(c->side[SIDE_SOURCE].nnodes, 2);
	assert_string_equal(c->side[SIDE_SOURCE].nodes[1].host, "fd00::1");
	assert_int_equal(c->side[SIDE_SOURCE].nodes[1].port, 2);
	assert_int_equal(c->side[SIDE_SOURCE].map.n, 2);
	assert_string_equal(c->side[SIDE_SOURCE].map.pairs[0].to, "1.2.3.4:8");
	assert_int_equal(c->side[SIDE_TARGET].nnodes, 0);
	assert_int_equal(c->request_max, 1000000);
	assert_int_equal(c->mirror_queue_max, INT64_C(2) << 30);
	assert_true(c->mirror_ack_both && c->target_may_hold_keys && c->mirror_tracking);
	assert_string_equal(c->logfile, "a b");
	assert_int_equal(c->maxclients, 10000);
	assert_string_equal(c->state_dir, "/var/lib/crossfade");
	assert_string_equal(c->admin_socket, "/run/crossfade/admin.sock");
	config_release(c);
	free(c);
}

static void test_reload(void **state)
{
	struct config *c = calloc(1, sizeof(*c));
	char err[512];

	(void)state;
	write_file(secret_file, "first\n");
	char text[512];
	snprintf(text, sizeof(text), MINIMAL "source-auth-file %s\nport 1\n", secret_file);
	write_file(file, text);
	assert_true(config_load(c, file, err, sizeof(err)));
	const char *old = c->side[SIDE_SOURCE].password;
	assert_string_equal(old, "first");
	write_file(secret_file, "second\n");
	snprintf(text, sizeof(text), MINIMAL "source-auth-file %s\nport 2\nmaxclients 7\nloglevel debug\n", secret_file);
	write_file(file, text);
	log_set_level(LOG_WARNING + 1);
	assert_true(config_reload(c, err, sizeof(err)));
	assert_int_equal(c->port, 1); /* only at the next start */
	assert_int_equal(c->maxclients, 7);
	assert_int_equal(c->loglevel, LOG_DEBUG);
	assert_string_equal(c->side[SIDE_SOURCE].password, "second");
	assert_string_equal(old, "first"); /* connections may still point to it */
	write_file(file, "nonsense\n");
	assert_false(config_reload(c, err, sizeof(err)));
	assert_int_equal(c->maxclients, 7);
	assert_true(config_set(c, "maxclients", "9", err, sizeof(err)));
	assert_int_equal(c->maxclients, 9);
	assert_false(config_set(c, "maxclients", "x", err, sizeof(err)));
	assert_false(config_set(c, "port", "3", err, sizeof(err)));
	assert_false(config_set(c, "source-auth-file", "/etc/passwd", err, sizeof(err)));
	config_release(c);
	free(c);
}

static void test_secrets_are_not_shown(void **state)
{
	struct config *c = calloc(1, sizeof(*c));
	char err[512], text[256], *shown = NULL;
	size_t n;

	(void)state;
	write_file(secret_file, "hunter2-the-secret\n");
	snprintf(text, sizeof(text), MINIMAL "source-auth-file %s\n", secret_file);
	write_file(file, text);
	assert_true(config_load(c, file, err, sizeof(err)));
	for (unsigned i = 0; config_option_name(i); i++) {
		char *value = config_get(c, config_option_name(i));
		assert_non_null(value);
		assert_null(strstr(value, "hunter2"));
		free(value);
	}
	FILE *f = open_memstream(&shown, &n);
	config_print_options(f);
	fclose(f);
	assert_null(strstr(shown, "hunter2"));
	free(shown);
	config_release(c);
	free(c);
}

/* A row that shows the default and whether SIGHUP changes it. */
static void test_docs_name_every_option(void **state)
{
	char *docs = read_whole("docs/configuration.md"), row[256];

	(void)state;
	for (unsigned i = 0; i < config_option_count; i++) {
		const struct option *o = &config_options[i];
		snprintf(row, sizeof(row), "\n| `%s` | %s%s%s | %s | %s |", o->name, o->fallback ? "`" : "",
			 !o->fallback ? "none" : *o->fallback ? o->fallback : "\"\"", o->fallback ? "`" : "", o->expected,
			 o->reload ? "yes" : "no");
		if (!strstr(docs, row))
			fail_msg("docs/configuration.md lacks the row%s", row);
	}
	free(docs);
}

/* As "name value" if it has a default, else at least as "#   name value". */
static void test_sample_names_every_option(void **state)
{
	char *sample = read_whole("conf/crossfade.conf"), line[256];

	(void)state;
	for (unsigned i = 0; i < config_option_count; i++) {
		const struct option *o = &config_options[i];
		if (o->fallback)
			snprintf(line, sizeof(line), "\n%s %s\n", o->name, *o->fallback ? o->fallback : "\"\"");
		else
			snprintf(line, sizeof(line), "\n#   %s ", o->name);
		if (!strstr(sample, line))
			fail_msg("conf/crossfade.conf lacks the line '%s'", line);
	}
	free(sample);
}

static void test_sample_loads(void **state)
{
	const char *top = getenv("srcdir"), *names[] = { "conf/crossfade.conf", "conf/minimal.conf" };
	struct config *c = calloc(1, sizeof(*c));
	char err[512] = "", path[512];

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%s", top ? top : ".", names[i]);
		if (!config_load(c, path, err, sizeof(err)))
			fail_msg("%s", err);
		config_release(c);
	}
	free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_missing_files),
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_reload),
		cmocka_unit_test(test_secrets_are_not_shown),
		cmocka_unit_test(test_docs_name_every_option),
		cmocka_unit_test(test_sample_names_every_option),
		cmocka_unit_test(test_sample_loads),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
