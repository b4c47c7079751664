"""Child processes that cannot outlive us, with a log file and a temporary folder."""
import atexit
import concurrent.futures
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import weakref

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
KEEP = bool(os.environ.get("CROSSFADE_KEEP"))  # leaves the temporary folders

# A child gets SIGKILL when the thread that forked it ends (PR_SET_PDEATHSIG), so all
# are forked by one thread, which lives as long as we do.
_spawner = concurrent.futures.ThreadPoolExecutor(1, "spawner")
OUTLIVE = False  # set by tools/demo --keep: what is started from then on may outlive us
live = weakref.WeakSet()  # every Process not yet closed, for logs of failed tests


def wait_until(what, condition, timeout=10.0, interval=0.01):
    """Waits until condition() is true; returns its value. TimeoutError names `what`."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise TimeoutError("not within %g s: %s" % (timeout, what))
        time.sleep(interval)


@contextlib.contextmanager
def frozen(nodes):
    """They hang until the end of the block; one that was killed meanwhile stays so."""
    for node in nodes:
        node.freeze()
    try:
        yield
    finally:
        for node in nodes:
            if node.running():
                node.thaw()


class Process:
    """A program with a temporary folder (self.dir) and a log (self.log_path)."""

    def __init__(self, name):
        self.name = name
        self.proc = None
        self.dir = tempfile.mkdtemp(prefix="cf-%s." % name)
        self.log_path = os.path.join(self.dir, "log")
        live.add(self)
        atexit.register(self.close)

    @property
    def pid(self):
        return self.proc.pid

    def spawn(self, argv, env=None):
        assert self.proc is None or self.proc.poll() is not None, "%s is running" % self.name
        if not OUTLIVE:
            argv = ["setpriv", "--pdeathsig", "KILL", "--"] + argv

        def popen():
            with open(self.log_path, "ab") as log:
                return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                        cwd=self.dir, env=env)
        self.proc = _spawner.submit(popen).result()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def running(self):
        return self.proc is not None and self.proc.poll() is None

    def signal(self, number):
        """Refuses when it has ended: its pid may be somebody else's by now."""
        assert self.running(), "%s is not running" % self.name
        os.kill(self.proc.pid, number)

    def kill(self):
        """kill -9, and wait until it is gone."""
        if self.running():
            self.signal(signal.SIGKILL)
        if self.proc is not None:
            self.proc.wait()

    def freeze(self):
        self.signal(signal.SIGSTOP)

    def thaw(self):
        self.signal(signal.SIGCONT)

    def log(self):
        try:
            with open(self.log_path, errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def log_tail(self, lines=40):
        return "\n".join(self.log().splitlines()[-lines:])

    def close(self):
        """Ends it and removes what it left."""
        atexit.unregister(self.close)
        live.discard(self)
        self.kill()
        if not KEEP:
            shutil.rmtree(self.dir, ignore_errors=True)
