"""The proxy under test, and proxyctl.

CROSSFADE_BIN and PROXYCTL_BIN name other binaries than those built in the tree; what a
sanitizer reports fails the test that ran the proxy.
"""
import json as json_module
import os
import re
import shlex
import signal
import subprocess

from . import ports
from .process import ROOT, Process, wait_until
from .resp import Client, ProtocolError

REPORT = re.compile(r"(ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|SUMMARY: \w*Sanitizer"
                    r"|runtime error:|Assertion .* failed|AddressSanitizer:DEADLYSIGNAL)")
SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:exitcode=99:strict_string_checks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "exitcode=66:second_deadlock_stack=1:history_size=4",
}


def crossfade_bin():
    return os.path.abspath(os.environ.get("CROSSFADE_BIN", os.path.join(ROOT, "proxy/crossfade")))


def proxyctl_bin():
    return os.path.abspath(os.environ.get("PROXYCTL_BIN", os.path.join(ROOT, "tools/proxyctl")))


def built_with_faults():
    """Whether the daemon contains mutants and crash points (--enable-faults)."""
    with open(crossfade_bin(), "rb") as f:
        return b"CROSSFADE_FAULT" in f.read()


def _need(path):
    if not os.access(path, os.X_OK):
        raise FileNotFoundError("no %s: run tools/setup, or set CROSSFADE_BIN and PROXYCTL_BIN" % path)
    return path


def _quote(value):
    """As sdssplitargs reads it."""
    text = str(value)
    if text and not re.search(r"[\s\"'\\]", text):
        return text
    return '"%s"' % text.replace("\\", "\\\\").replace('"', '\\"')


def config_text(config):
    """A dict as a config file: a list gives several words, None leaves the option out."""
    lines = []
    for name, value in config.items():
        if value is None:
            continue
        words = value if isinstance(value, (list, tuple)) else [value]
        words = ["yes" if w is True else "no" if w is False else w for w in words]
        lines.append(" ".join([name] + [_quote(w) for w in words]))
    return "\n".join(lines) + "\n"


class CtlResult:
    """What proxyctl said: rc, out, err (text), data (its JSON object, or None). result["x"] is data["x"]."""

    def __init__(self, argv, rc, out, err):
        self.argv, self.rc, self.out, self.err = argv, rc, out, err
        self.data = None

    def __getitem__(self, name):
        return self.data[name]

    def __repr__(self):
        return "%s -> %d\n%s%s" % (shlex.join(self.argv), self.rc, self.out, self.err)


class Crossfade(Process):
    """A running proxy. source and target are a Standalone or Cluster, or None.

    More options by config={"name": value}; environment by env={}. workers is 2 unless given.
    args are those of its command line, beside the configuration. client_options are those of every Client that it makes; with {"tls": context} its port is the TLS port.
    """

    def __init__(self, source, target=None, config=None, env=None, start=True, port=None, client_options=None, args=()):
        super().__init__("crossfade")
        self._port = None if port else ports.reserve()
        self.port = port or int(self._port)
        self.env = dict(env or {})
        self.args = list(args)
        self.client_options = dict(client_options or {})
        self.state_dir = os.path.join(self.dir, "state")
        self.socket = os.path.join(self.dir, "admin.sock")
        self.config_path = os.path.join(self.dir, "crossfade.conf")
        self.config = {
            "bind": "127.0.0.1", "port": self.port, "workers": 2, "loglevel": "verbose",
            "state-dir": self.state_dir, "admin-socket": self.socket,
            "source-nodes": source.addrs if source else None,
            "target-nodes": target.addrs if target else None,
            "backfill-adaptive": False,  # how long a test takes must not depend on how busy the machine is
        }
        if "tls" in self.client_options:
            self.config.update({"port": 0, "tls-port": self.port})
        self.config.update(config or {})
        self._client = None
        self._seen = 0  # how much of the log has been searched for reports
        self.former = []  # processes that another one has taken over from
        if start:
            self.start()

    # ---- running

    def spawn_daemon(self, *more):
        """Starts it and does not wait."""
        with open(self.config_path, "w") as f:
            f.write(config_text(self.config))
        env = dict(os.environ)
        for name, value in SANITIZERS.items():
            env.setdefault(name, value)
        env.update(self.env)
        self.spawn([_need(crossfade_bin()), "-c", self.config_path] + self.args + list(more), env=env)

    def take_over(self, timeout=60, config=None, env=None):
        """A second process takes over. Returns 0, or its exit code, and then the first one is still the proxy. With 0 the first one is in `former`."""
        old, self.proc = self.proc, None
        before = self.config, self.env
        self.config, self.env = dict(self.config, **(config or {})), dict(self.env if env is None else env)
        at = len(self.log())
        self.spawn_daemon("--take-over")
        try:
            wait_until("the take-over", lambda: self.proc.poll() is not None or "took over: " in self.log()[at:], timeout)
        except TimeoutError as e:
            raise AssertionError("%s\n%s" % (e, self.log_tail(60)))
        if self.proc.poll() is None:
            self.former.append(old)
            return 0
        code = self.proc.returncode
        self.proc = old
        self.config, self.env = before
        return code

    def former_end(self, timeout=30):
        """Those that were taken over from have ended in order."""
        while self.former:
            code = self.former.pop().wait(timeout)
            assert code == 0, "the former process ended with %d:\n%s" % (code, self.log_tail(60))
        self.check_log()

    def start(self, timeout=30):
        self.spawn_daemon()
        wait_until("crossfade answers PING on %d" % self.port, self._answers, timeout, 0.02)

    def _answers(self):
        if not self.running():
            raise AssertionError("crossfade ended with %d:\n%s" % (self.proc.returncode, self.log_tail()))
        try:
            with self.connect(timeout=5) as c:
                c.try_call("PING")
                return True
        except (OSError, ProtocolError):
            return False

    def run_to_end(self, timeout=30):
        """Starts it where it is expected to end by itself; returns its exit code."""
        self.spawn_daemon()
        return self.wait_exit(timeout)

    def wait_exit(self, timeout=30):
        try:
            code = self.proc.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError("crossfade still runs after %g s:\n%s" % (timeout, self.log_tail()))
        self.check_log()
        return code

    def kill(self):
        """kill -9."""
        self.drop()
        super().kill()

    def term(self, timeout=30, expect=0):
        """SIGTERM: it drains and ends with 0."""
        self.drop()
        self.signal(signal.SIGTERM)
        code = self.wait_exit(timeout)
        assert code == expect, "crossfade ended with %d, not %d:\n%s" % (code, expect, self.log_tail())

    def restart(self, kill=False):
        if kill:
            self.kill()
        else:
            self.term()
        self.start()

    def reload(self):
        """SIGHUP, with the config file written again from self.config."""
        with open(self.config_path, "w") as f:
            f.write(config_text(self.config))
        self.signal(signal.SIGHUP)

    def check_log(self):
        """Fails if a sanitizer or an assertion has spoken (each report once)."""
        log = self.log()
        found = REPORT.search(log, self._seen)
        self._seen = len(log)
        if found:
            raise AssertionError("crossfade reported:\n" + log[found.start():found.start() + 6000])

    def close(self):
        """Ends it as an operator would, and fails if that was not clean."""
        try:
            if self.running():
                self.thaw()
                self.term()
            self.check_log()
        finally:
            self.drop()
            super().close()
            for process in self.former:
                process.kill()
                process.wait()
            if self._port:
                self._port.release()

    # ---- talking to it

    def connect(self, **options):
        return Client(self.port, **dict(self.client_options, **options))

    @property
    def client(self):
        if self._client is None:
            self._client = self.connect(timeout=30)
        return self._client

    def drop(self):
        if self._client is not None:
            self._client.close()
            self._client = None

    def call(self, *args, **kw):
        return self.client.call(*args, **kw)

    def pipeline(self, commands, **kw):
        return self.client.pipeline(commands, **kw)

    def admin(self, *args):
        """A command on the admin socket, without proxyctl."""
        with Client(path=self.socket) as c:
            return c.call(*args)

    # ---- proxyctl

    def ctl(self, *args, json=True, check=True, timeout=120):
        """Runs proxyctl. check fails on an exit code other than 0; json adds --json."""
        argv = [_need(proxyctl_bin()), "-s", self.socket] + [str(a) for a in args] + (["--json"] if json else [])
        env = dict(os.environ)
        for name, value in SANITIZERS.items():
            env.setdefault(name, value)
        p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           timeout=timeout, env=env)
        result = CtlResult(argv, p.returncode, p.stdout.decode(errors="replace"), p.stderr.decode(errors="replace"))
        assert not REPORT.search(result.err), repr(result)
        if check:
            assert p.returncode == 0, repr(result)
        if json and result.out.strip():
            result.data = json_module.loads(result.out)
        return result

    def status(self):
        return self.ctl("status").data

    def wait(self, condition, timeout=60):
        """proxyctl wait: "synced", "phase=…", "dirty=0", "lag=0", or several with commas."""
        result = self.ctl("wait", condition, "--timeout", timeout, json=False, check=False, timeout=timeout + 30)
        assert result.rc == 0, "%r\nstatus: %s\nlog:\n%s" % (
            result, self.ctl("status", check=False).out, self.log_tail())
