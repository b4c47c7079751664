/* crossfade - the daemon: arguments, configuration, listeners, signals; then the control thread's loop. */
#include <argp.h>
#include <errno.h>
#include <ev.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "proxy/admin.h"
#include "proxy/config.h"
#include "proxy/control.h"
#include "proxy/listen.h"
#include "proxy/log.h"
#include "proxy/state.h"

#define EXIT_USAGE 64
#define EXIT_OS 71
#define EXIT_CONFIG 78
#define FILES_BESIDE_CLIENTS 4096 /* data and bulk connections, logs, mailboxes */

const char *argp_program_version = "crossfade " PACKAGE_VERSION;

struct arguments {
	const char *file;
	bool check, help_config;
	int assume; /* enum side, or -1 */
};

#define KEY_ASSUME 256

static const struct argp_option options[] = {
	{ "config", 'c', "FILE", 0, "the configuration (docs/configuration.md)", 0 },
	{ "check-config", 'k', NULL, 0, "only check the configuration", 0 },
	{ "help-config", 'H', NULL, 0, "list every option with its default", 0 },
	{ "assume-authority", KEY_ASSUME, "SIDE", 0,
	  "the phase record was lost, or is older than the migration: 'source' or 'target' has the newer data (docs/operations.md)", 0 },
	{ 0 },
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case 'c':
		a->file = arg;
		return 0;
	case 'k':
		a->check = true;
		return 0;
	case 'H':
		a->help_config = true;
		return 0;
	case KEY_ASSUME:
		for (a->assume = SIDE_SOURCE; a->assume < SIDES && strcmp(arg, side_name((enum side)a->assume)) != 0;)
			a->assume++;
		if (a->assume == SIDES)
			argp_error(state, "--assume-authority '%s': expected source or target", arg);
		return 0;
	case ARGP_KEY_END:
		if (!a->file && !a->help_config)
			argp_error(state, "no configuration was given: crossfade -c FILE");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	options, parse_option, NULL,
	"Crossfade: one endpoint in front of Redis and Valkey, and a migration between them that clients do not notice.\v"
	"It runs in the foreground. HUP reads the configuration again, USR1 reopens the log, TERM ends it in order, a second TERM at once. "
	"Exit codes: 0 ended in order, 64 usage, 65 phase record unusable or lost, 69 source, or at the first start target, unreachable, 71 cannot listen, 73 state directory locked or "
	"unwritable, 78 configuration.",
	NULL, NULL, NULL
};

/* ---- files ---- */

static void raise_file_limit(int maxclients)
{
	struct rlimit r;
	rlim_t want = (rlim_t)maxclients + FILES_BESIDE_CLIENTS;

	if (getrlimit(RLIMIT_NOFILE, &r) < 0 || r.rlim_cur >= want)
		return;
	r.rlim_cur = want < r.rlim_max ? want : r.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &r) < 0 || r.rlim_cur < want)
		log_warning("only %llu files may be open, and maxclients %d needs %llu: raise the hard limit (ulimit -Hn, LimitNOFILE)",
			    (unsigned long long)r.rlim_cur, maxclients, (unsigned long long)want);
}

/* ---- signals ---- */

static void on_term(struct ev_loop *loop, ev_signal *w, int revents)
{
	(void)loop;
	(void)revents;
	control_stop(w->data);
}

static void on_hup(struct ev_loop *loop, ev_signal *w, int revents)
{
	(void)loop;
	(void)revents;
	control_reload(w->data);
}

static void on_usr1(struct ev_loop *loop, ev_signal *w, int revents)
{
	(void)loop;
	(void)revents;
	control_reopen(w->data);
}

static const struct {
	int signal;
	void (*fn)(struct ev_loop *, ev_signal *, int);
} handlers[] = { { SIGTERM, on_term }, { SIGINT, on_term }, { SIGHUP, on_hup }, { SIGUSR1, on_usr1 } };
#define HANDLERS (sizeof(handlers) / sizeof(handlers[0]))

static void end_at_once(int signal)
{
	(void)signal;
	_exit(1);
}

/* While threads are joined no loop runs: a second TERM or INT ends the process by itself. */
static void second_signal_ends(struct ev_loop *loop, ev_signal *watchers)
{
	struct sigaction action = { .sa_handler = end_at_once };

	for (unsigned i = 0; i < HANDLERS; i++)
		ev_signal_stop(loop, &watchers[i]);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	signal(SIGHUP, SIG_IGN);
	signal(SIGUSR1, SIG_IGN);
}

/* ---- main ---- */

static int run(struct config *config, struct state *state, const struct listen_fd *fds, unsigned n, int assume)
{
	struct ev_loop *loop = ev_default_loop(EVFLAG_AUTO);
	struct control_options o = { .loop = loop, .config = config, .state = state, .listen_fds = fds, .nlisten_fds = n, .assume = assume };
	ev_signal watchers[HANDLERS];
	char err[1024];

	struct control *control = control_new(&o);
	struct admin *admin = admin_new(loop, config->admin_socket, control, err, sizeof(err));
	int code = EXIT_OS;
	for (unsigned i = 0; i < HANDLERS; i++) {
		ev_signal_init(&watchers[i], handlers[i].fn, handlers[i].signal);
		watchers[i].data = control;
		ev_signal_start(loop, &watchers[i]);
	}
	if (!admin) {
		log_warning("%s", err);
	} else {
		ev_run(loop, 0);
		code = control_exit_code(control);
	}
	second_signal_ends(loop, watchers);
	control_free(control); /* answers what the admin socket still waits for */
	admin_free(admin);
	return code;
}

static int begin(struct config *config, int assume)
{
	char err[2048];
	struct listen_fd fds[LISTENERS_MAX];
	int code;
	unsigned n = 0;

	log_set_level((enum log_level)config->loglevel);
	if (!log_open(config->logfile)) {
		log_warning("logfile %s cannot be opened: %s", config->logfile, strerror(errno));
		return EXIT_CONFIG;
	}
	log_notice("crossfade %s, process %d, %s", PACKAGE_VERSION, (int)getpid(), config->file);
	struct state *state = state_open(config->state_dir, err, sizeof(err), &code);
	if (!state) {
		log_warning("%s", err);
		return code;
	}
	enum phase phase = state_has_record(state) ? state_loaded(state)->phase : PHASE_PROXY;
	if (phase != PHASE_PROXY && config->side[SIDE_TARGET].nnodes == 0) {
		log_warning("%s: target-nodes is not set, and the record in %s is in phase %s: expected the nodes of that migration", config->file,
			    config->state_dir, phase_names[phase]);
		code = EXIT_CONFIG;
	} else if (assume == SIDE_TARGET && config->side[SIDE_TARGET].nnodes == 0) {
		log_warning("%s: target-nodes is not set, and --assume-authority names the target", config->file);
		code = EXIT_CONFIG;
	} else if (!listen_bind_all(config, fds, &n)) {
		code = EXIT_OS;
	} else {
		raise_file_limit(config->maxclients);
		code = run(config, state, fds, n, assume);
		if (config->unixsocket)
			unlink(config->unixsocket);
	}
	state_close(state);
	return code;
}

int main(int argc, char **argv)
{
	struct arguments a = { .assume = -1 };
	struct config *config = calloc(1, sizeof(*config));
	char err[1024];
	int code = 0;

	argp_err_exit_status = EXIT_USAGE;
	argp_parse(&argp, argc, argv, 0, NULL, &a);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes is an error like a full disk */
	log_thread_name("control");
	if (a.help_config) {
		config_print_options(stdout);
	} else if (!config_load(config, a.file, err, sizeof(err))) {
		fprintf(stderr, "crossfade: %s\n", err);
		code = EXIT_CONFIG;
	} else {
		if (a.check)
			printf("%s: ok\n", a.file);
		else
			code = begin(config, a.assume);
		config_release(config);
	}
	free(config);
	return code;
}
