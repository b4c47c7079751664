"""Two clusters, and a migration between them that may be brought into any phase and judged at any moment of rest."""
import os
import shutil
import tempfile
import time

from compare import compare
from harness import Cluster, Crossfade
from harness.certs import Certs
from harness.process import wait_until

USER, PASSWORD = "mover", "first"  # whom a proxy may log in as
CONF = {"cluster-allow-replica-migration": "no", "cluster-node-timeout": 5000, "user": "%s on >%s ~* &* +@all" % (USER, PASSWORD)}
FLIP_RETRIES = 5


class Broken(AssertionError):
    """A promise that does not hold: what the scoreboard counts."""


def require(problems, what):
    if problems:
        raise Broken("%s: %d\n    %s" % (what, len(problems), "\n    ".join(map(str, problems[:8]))))


def rss_mb(process):
    with open("/proc/%d/status" % process.pid) as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) / 1024


def open_files(process):
    return len(os.listdir("/proc/%d/fd" % process.pid))


class World:
    """source and target live as long as this does; proxies come and go with fresh(). tls: the proxy talks TLS with both sides, and so do their nodes among themselves."""

    def __init__(self, source="redis-7.0", target="valkey-9.1", replicas=0, fault="", tls=False):
        self.replicas, self.fault, self.proxy = replicas, fault, None
        self.after_fault = False  # a verify meets keys that are being repaired
        self.dir, self.certs = tempfile.mkdtemp(prefix="cf-chaos-"), None
        conf = dict(CONF)
        if tls:
            self.certs = Certs()
            self.certs.make("server")
            self.certs.make("expired", days=-1)
            conf["tls-replication"] = "yes"
        self.source = Cluster(source, 3, replicas, conf=conf, tls=self.certs)
        try:
            self.target = Cluster(target, 3, replicas, conf=conf, tls=self.certs)
        except BaseException:
            self.source.close()
            raise

    def close(self):
        try:
            if self.proxy:
                self.proxy.close()
        finally:
            self.source.close()
            self.target.close()
            shutil.rmtree(self.dir, ignore_errors=True)
            if self.certs:
                self.certs.close()

    def password_file(self, name):
        """Of the proxy, for one side."""
        return os.path.join(self.dir, name)

    def set_password(self, name, password):
        with open(self.password_file(name), "w") as f:
            f.write(password + "\n")
        os.chmod(self.password_file(name), 0o600)

    def _config(self, users):
        config = {}
        for name, side in (("source", self.source), ("target", self.target)):
            if self.certs:
                config.update({name + "-nodes": side.tls_addrs, name + "-tls": "yes", name + "-tls-ca-cert-file": self.certs.ca})
            if users:
                self.set_password(name, PASSWORD)
                config.update({name + "-user": USER, name + "-auth-file": self.password_file(name)})
        return config

    def fresh(self, keys=800, config=None, start=True, users=False):
        """Empty sides but for `keys` on the source, and a proxy that knows nothing. A mutant is switched on here. users: the proxy logs in, by password_file()."""
        self.after_fault = False
        if self.proxy:
            proxy, self.proxy = self.proxy, None
            proxy.close()
        for side in (self.source, self.target):
            for node in side.nodes:
                if not node.running():
                    node.start()
            side.wait_ok()
            side.flushall()
        self.source.pipeline([("SET", "k:%d" % i, "value %d" % i) for i in range(keys)])
        self.proxy = Crossfade(self.source, self.target, start=False, config=dict(self._config(users), **(config or {})), env={"CROSSFADE_FAULT": self.fault} if self.fault else {})
        if start:
            self.proxy.start()
        return self.proxy

    def arm(self, point):
        """The next start of the proxy dies at this point; None: at none."""
        self.proxy.env = {"CROSSFADE_FAULT": ",".join(filter(None, [self.fault, point]))} if point or self.fault else {}

    # ---- phases

    def synced(self, verify=True):
        self.proxy.ctl("start")
        self.proxy.wait("synced", timeout=90)
        if verify:
            self.verify()

    def verify(self):
        """Before a cutover, as an operator does: what differs twice, although nothing was owed, differs."""
        for last in (False, True):
            self.proxy.wait("dirty=0,lag=0", timeout=90)
            result = self.proxy.ctl("verify", check=False, timeout=300)
            if result.rc == 0:
                return
            if last or not self.after_fault:
                raise Broken("verify: %r" % result)

    def flip(self, command, *args):
        """Cutover or rollback; one that was undone (75), or found a gate closed for a moment (1), is asked for again."""
        for attempt in range(FLIP_RETRIES):
            result = self.proxy.ctl(command, "--yes", "--wait", 10, *args, check=False)
            if result.rc == 0:
                return result.data
            if result.rc not in (1, 75):
                break
        raise Broken("%s does not succeed: %r" % (command, result))

    @property
    def sides(self):
        """Authority and follower."""
        pair = (self.source, self.target)
        return pair if self.proxy.status()["authority"] == "source" else pair[::-1]

    # ---- judging

    def rest(self, timeout=90):
        """Until the proxy says that nothing is owed, by itself."""
        started = time.monotonic()
        phase = self.proxy.status()["phase"]
        condition = "dirty=0,lag=0" if phase in ("proxy", "cutover", "finished") else "synced,dirty=0,lag=0"
        result = self.proxy.ctl("wait", condition, "--timeout", timeout, json=False, check=False, timeout=timeout + 30)
        if result.rc != 0:
            raise Broken("not at rest within %d s: %r\n%s" % (timeout, result, self.proxy.ctl("status", check=False).out))
        return time.monotonic() - started

    def judge(self, load, clean=True, mirrored=True, timeout=90, failed_over=None):
        """Nobody writes, nobody helps: both sides are equal, and everything acknowledged is there. Returns figures."""
        load.quiet()
        seconds = self.rest(timeout)
        authority, follower = self.sides
        if mirrored:
            self.equal(authority, follower)
        require(load.check(authority, failed_over), "histories that cannot be")
        if clean:
            require(["%dx %s" % (n, e) for e, n in load.errors.items()], "errors that clients saw")
        load.go()
        return {"rest_s": round(seconds, 2)}

    def equal(self, authority, follower):
        """Keys about to expire may differ for a moment: what differs all the time does."""
        for side in (authority, follower):
            side.wait_ok(60)
        lines = []

        def same():
            lines[:] = compare(authority, follower, partial=False, final=False)
            return not lines
        try:
            wait_until("both sides are equal", same, 2.5, 0.1)
        except TimeoutError:
            require(lines, "keys that differ")
