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
#include "proxy/journals.h"
#include "proxy/listen.h"
#include "proxy/log.h"
#include "proxy/pump.h"
#include "proxy/state.h"
#include "proxy/take_over.h"

#define EXIT_USAGE 64
#define EXIT_OS 71
#define EXIT_CONFIG 78
#define FILES_BESIDE_CLIENTS 4096 /* data and bulk connections, logs, mailboxes */

const char *argp_program_version = "crossfade " PACKAGE_VERSION;

struct arguments {
	const char *file;
	bool check, help_config;
	int assume; /* enum side, or -1 */
	bool take_over;
};

#define KEY_ASSUME 256
#define KEY_TAKE_OVER 257

static const struct argp_option options[] = {
	{ "config", 'c', "FILE", 0, "the configuration (docs/configuration.md)", 0 },
	{ "check-config", 'k', NULL, 0, "only check the configuration", 0 },
	{ "help-config", 'H', NULL, 0, "list every option with its default", 0 },
	{ "assume-authority", KEY_ASSUME, "SIDE", 0,
	  "the phase record was lost, or is older than the migration: 'source' or 'target' has the newer data (docs/operations.md)", 0 },
	{ "take-over", KEY_TAKE_OVER, NULL, 0,
	  "take the listeners, the clients and the state directory over from the process that runs with this configuration: an upgrade without a refused connection (docs/upgrade.md)", 0 },
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
	case KEY_TAKE_OVER:
		a->take_over = true;
		return 0;
	case ARGP_KEY_END:
		if (a->take_over && a->assume >= 0)
			argp_error(state, "--take-over and --assume-authority exclude each other: the process that runs knows the authority");
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
	"unwritable, 75 nothing was taken over and the process that ran goes on, 78 configuration.",
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

/* What a run is made of. */
struct start {
	struct config *config;
	struct state *state;
	struct listen_fd fds[LISTENERS_MAX];
	unsigned n;
	int assume;
	struct take_over *from; /* NULL: a start of its own */
	struct pumps *pumps;
	bool owns_sockets;      /* their names go at the end */
};

/* The servers are looked for while the other process still serves. True: everything is ours now, and served. */
static bool take_over(struct start *s, struct ev_loop *loop, struct control *control, int *code)
{
	char err[1024];
	unsigned n;

	ev_run(loop, 0);
	*code = control_exit_code(control);
	if (!control_found(control))
		return false;
	*code = EXIT_NOT_TAKEN;
	if (!control_reserve(control, err, sizeof(err)) || !take_over_finish(s->from, s->state, err, sizeof(err), code)) {
		log_warning("%s%s", *code == EXIT_NOT_TAKEN ? "nothing was taken over: " : "", err);
		journals_unreserve(s->config->state_dir);
		return false;
	}
	s->owns_sockets = true;
	struct handed **clients = take_over_clients(s->from, &n);
	control_take(control, clients, n, take_over_state(s->from));
	take_over_free(s->from);
	s->from = NULL;
	return true;
}

static int serve(struct start *s, struct ev_loop *loop, struct control *control, struct admin **admin)
{
	char err[1024];
	int code;

	bool took = s->from != NULL;
	if (took && !take_over(s, loop, control, &code))
		return code;
	*admin = admin_new(loop, s->config->admin_socket, control, err, sizeof(err));
	if (!*admin)
		log_warning("%s", err);
	if (!*admin && !took) /* the clients of another process are not left alone for want of an operator */
		return EXIT_OS;
	ev_run(loop, 0);
	return control_exit_code(control);
}

static int run(struct start *s)
{
	struct ev_loop *loop = ev_default_loop(EVFLAG_AUTO);
	struct control_options o = { .loop = loop, .config = s->config, .state = s->state, .listen_fds = s->fds, .nlisten_fds = s->n, .assume = s->assume,
		.take_over = s->from != NULL, .pumps = s->pumps };
	struct admin *admin = NULL;
	ev_signal watchers[HANDLERS];

	struct control *control = control_new(&o);
	for (unsigned i = 0; i < HANDLERS; i++) {
		ev_signal_init(&watchers[i], handlers[i].fn, handlers[i].signal);
		watchers[i].data = control;
		ev_signal_start(loop, &watchers[i]);
	}
	int code = serve(s, loop, control, &admin);
	second_signal_ends(loop, watchers);
	s->owns_sockets &= !control_handed_over(control);
	control_free(control); /* answers what the admin socket still waits for */
	admin_free(admin);
	return code;
}

static bool open_listeners(struct start *s)
{
	s->owns_sockets = !s->from;
	if (!s->from)
		return listen_bind_all(s->config, s->fds, &s->n);
	take_over_listeners(s->from, s->fds, &s->n);
	return true;
}

/* With the state directory at hand. */
static int begin_with(struct start *s)
{
	const struct config *config = s->config;
	enum phase phase = state_has_record(s->state) ? state_loaded(s->state)->phase : PHASE_PROXY;

	if (phase != PHASE_PROXY && config->side[SIDE_TARGET].nnodes == 0) {
		log_warning("%s: target-nodes is not set, and the record in %s is in phase %s: expected the nodes of that migration", config->file,
			    config->state_dir, phase_names[phase]);
		return EXIT_CONFIG;
	}
	if (s->assume == SIDE_TARGET && config->side[SIDE_TARGET].nnodes == 0) {
		log_warning("%s: target-nodes is not set, and --assume-authority names the target", config->file);
		return EXIT_CONFIG;
	}
	if (!open_listeners(s))
		return EXIT_OS;
	raise_file_limit(config->maxclients);
	int code = run(s);
	if (config->unixsocket && s->owns_sockets)
		unlink(config->unixsocket);
	return code;
}

/* TLS clients of a process that has handed over: its state directory is the other's already. */
static void carry_on(struct pumps *pumps)
{
	if (pumps_count(pumps))
		log_notice("%u TLS clients are carried on to the process that took over, until they end", pumps_count(pumps));
	pumps_run(pumps);
	pumps_free(pumps);
}

static int begin(struct config *config, const struct arguments *a)
{
	struct start s = { .config = config, .assume = a->assume };
	char err[2048];
	int code = EXIT_NOT_TAKEN;

	log_set_level((enum log_level)config->loglevel);
	if (!log_open(config->logfile)) {
		log_warning("logfile %s cannot be opened: %s", config->logfile, strerror(errno));
		return EXIT_CONFIG;
	}
	log_notice("crossfade %s, process %d, %s", PACKAGE_VERSION, (int)getpid(), config->file);
	if (a->take_over && !(s.from = take_over_begin(config, err, sizeof(err)))) {
		log_warning("nothing was taken over: %s", err);
		return code;
	}
	s.state = (s.from ? state_borrow : state_open)(config->state_dir, err, sizeof(err), &code);
	s.pumps = pumps_new(ev_default_loop(EVFLAG_AUTO));
	if (s.state)
		code = begin_with(&s);
	else
		log_warning("%s", err);
	take_over_free(s.from);
	state_close(s.state);
	carry_on(s.pumps);
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
			code = begin(config, &a);
		config_release(config);
	}
	free(config);
	return code;
}
