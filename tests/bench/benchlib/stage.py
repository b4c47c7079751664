"""What a part measures on: servers, crossfade, peers, load; all of it ends with the part."""
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time

from harness import Client, Cluster, Crossfade, RespError, Standalone, ports
from harness.process import ROOT, Process, wait_until

from . import measure

BUILT = os.path.join(ROOT, "build", "bench")
PEERS = os.path.join(ROOT, ".servers", "peers")
SOURCE_KIND, TARGET_KIND = "redis-7.0", "valkey-9.1"
SERVER_CONF = {"hz": 10, "maxclients": 15000, "tcp-backlog": 511, "enable-debug-command": "no"}
CLUSTER_CONF = dict(SERVER_CONF, **{"cluster-node-timeout": 15000})
LOAD_LIMIT_S = 300
CALM_TRIES = 4  # of one run, until one was not disturbed


class BenchError(Exception):
    pass


# ---- programs

def compile_tool(name, *libs):
    """tests/bench/NAME.c as build/bench/NAME, if that is not newer."""
    source, out = os.path.join(ROOT, "tests", "bench", name + ".c"), os.path.join(BUILT, name)
    if not os.path.exists(out) or os.path.getmtime(out) < os.path.getmtime(source):
        os.makedirs(BUILT, exist_ok=True)
        fresh = "%s.%d" % (out, os.getpid())
        subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", fresh, source] + list(libs), check=True)
        os.replace(fresh, out)
    return out


def need_build():
    """The daemon and proxyctl as copies of our own, so that a build of the tree cannot disturb us."""
    wanted = [("CROSSFADE_BIN", "proxy/crossfade"), ("PROXYCTL_BIN", "tools/proxyctl")]
    if any(v not in os.environ and not os.access(os.path.join(ROOT, p), os.X_OK) for v, p in wanted):
        subprocess.run([os.path.join(ROOT, "tools", "setup")], check=True)
    folder = tempfile.mkdtemp(prefix="cf-bench.")
    for variable, path in wanted:
        copy = os.path.join(folder, os.path.basename(path))
        shutil.copy2(os.environ.get(variable, os.path.join(ROOT, path)), copy)
        os.environ[variable] = copy
    return folder


def need_peers():
    """{name: program} of the peers there are; those of Debian are fetched."""
    got = {}
    if not os.path.exists(os.path.join(PEERS, ".ok")):
        subprocess.run([os.path.join(ROOT, "tools", "get-peers")], check=False)
    for name in ("nutcracker", "haproxy"):
        path = os.path.join(PEERS, "bin", name)
        if os.access(path, os.X_OK):
            got[name] = path
    if os.environ.get("PREDIXY"):
        got["predixy"] = os.path.abspath(os.environ["PREDIXY"])
    return got


# ---- peers

def conf_nutcracker(port, addrs):
    return "bench:\n  listen: 127.0.0.1:%d\n  hash: fnv1a_64\n  distribution: ketama\n  redis: true\n  preconnect: true\n" \
           "  tcpkeepalive: false\n  servers:\n   - %s:1\n" % (port, addrs[0])


def conf_haproxy(port, addrs):
    return "global\n nbthread 1\n maxconn 9000\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n" \
           "listen bench\n bind 127.0.0.1:%d\n server s1 %s\n" % (port, addrs[0])


def conf_predixy(port, addrs):
    return "Name bench\nBind 127.0.0.1:%d\nWorkerThreads 1\nClientTimeout 0\nLogVerbSample 0\nLogDebugSample 0\nLogInfoSample 0\n" \
           "LogNoticeSample 1\nLogWarnSample 1\nLogErrorSample 1\nAuthority {\n Auth {\n Mode admin\n }\n}\nClusterServerPool {\n" \
           " MasterReadPriority 60\n StaticSlaveReadPriority 0\n DynamicSlaveReadPriority 0\n RefreshInterval 1\n ServerTimeout 0\n" \
           " ServerFailureLimit 10\n ServerRetryTimeout 1\n KeepAlive 0\n Servers {\n%s }\n}\n" % (
               port, "".join(" + %s\n" % a for a in addrs))


class Program(Process):
    """A peer or the floor: argv may hold {port}, {spare} (another reserved port) and {conf} (the file with `conf`)."""

    def __init__(self, name, argv, conf=None, addrs=()):
        super().__init__(name)
        self._ports = [ports.reserve(), ports.reserve()]
        self.port = int(self._ports[0])
        path = os.path.join(self.dir, "conf")
        if conf:
            with open(path, "w", encoding="ascii") as f:
                f.write(conf(self.port, addrs))
        words = {"port": self.port, "spare": int(self._ports[1]), "conf": path}
        self.spawn([a.format(**words) for a in argv])
        wait_until("%s answers" % name, self._answers, 15, 0.05)

    def _answers(self):
        if not self.running():
            raise BenchError("%s ended: %s" % (self.name, self.log_tail()))
        try:
            with Client(self.port, timeout=1) as c:
                return not isinstance(c.try_call("GET", "probe"), RespError)
        except OSError:
            return False

    def close(self):
        super().close()
        for port in self._ports:
            port.release()


PEER_ARGV = {
    "nutcracker": (["-c", "{conf}", "-o", "/dev/null", "-s", "{spare}", "-a", "127.0.0.1", "-m", "16384"], conf_nutcracker),
    "haproxy": (["-db", "-f", "{conf}"], conf_haproxy),
    "predixy": (["{conf}"], conf_predixy),
}


class Target:
    """Something that load is sent to: its port, the process measured, the servers behind it."""

    def __init__(self, name, port, pid, servers=(), sets_only=False):
        self.name, self.port, self.pid, self.sets_only = name, port, pid, sets_only
        self.servers = list(servers)


class Stage:
    """with Stage(options, report) as stage: … Processes begin on the CPUs of the rest; the one measured is pinned."""

    def __init__(self, options, report):
        self.o, self.report = options, report
        self._stack = contextlib.ExitStack()
        self.load_bin = compile_tool("load")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._stack.close()

    def _closed_later(self, thing):
        def close():
            try:
                thing.close()
            except Exception as e:  # noqa: B902 (a figure stands even if what it was taken of ends badly)
                self.report.failed("clean-up", str(e)[:2000])
        self._stack.callback(close)
        return thing

    # ---- processes

    def cluster(self, kind, shards=3, conf=None):
        return self._closed_later(Cluster(kind, shards=shards, conf=dict(CLUSTER_CONF, **(conf or {}))))

    def standalone(self, kind, **options):
        return self._closed_later(Standalone(kind, conf=SERVER_CONF, **options))

    def crossfade(self, source, target=None, pinned=True, config=None, cls=Crossfade, **options):
        settings = {"workers": 1, "loglevel": "warning", "maxclients": 12000}
        proxy = self._closed_later(cls(source, target, config=dict(settings, **(config or {})), **options))
        measure.pin(proxy.pid, self.o.proxy_cpus if pinned else measure.ALL_CPUS)
        return proxy

    def peer(self, name, path, side):
        argv, conf = PEER_ARGV[name]
        return self._pinned(Program(name, [path] + argv, conf, side.addrs))

    def floor(self):
        return self._pinned(Program("floor", [compile_tool("floor", "-lev"), "{port}"]))

    def _pinned(self, program):
        self._closed_later(program)
        measure.pin(program.pid, self.o.proxy_cpus)
        return program

    @staticmethod
    def unpin(*sides):
        """What is measured needs more than one CPU for the servers."""
        for pid in pids(*sides):
            measure.pin(pid, measure.ALL_CPUS)

    # ---- load

    def fill(self, port, keys, size=128, tags=0):
        """SETs every key once."""
        argv = [self.load_bin, "-p", port, "-F", "-k", keys, "-d", size, "-g", tags, "-c", 8, "-P", 32 if size < 10000 else 1]
        out = subprocess.run(_bound(argv), stdout=subprocess.PIPE, check=True, timeout=LOAD_LIMIT_S).stdout
        reply = json.loads(out)
        if reply["errors"]:
            raise BenchError("filling: %s" % reply["first_error"])
        return reply

    def start_load(self, port, clients=50, pipeline=1, rate=0, mix="1:1", size=128, keys=100000, tags=0, seconds=None, requests=0, batches=False):
        argv = [self.load_bin, "-p", port, "-c", clients, "-P", pipeline, "-r", rate, "-m", mix, "-d", size, "-k", keys, "-g", tags]
        argv += ["-n", requests] if requests else ["-t", seconds or self.o.seconds]
        return Load(_bound(argv + (["-B"] if batches else [])))

    def run(self, part, scenario, target, settle=None, **load):
        """One run, again while others disturb it: the figures of the calmest as a dict."""
        row = measure.calmest(lambda: self._run_once(scenario, target, settle, **load), 1 if self.o.quick else CALM_TRIES)
        self.report.run(part, **row)
        return row

    def _run_once(self, scenario, target, settle, **load):
        """settle() is waited for before CPU is read the second time."""
        if target.sets_only:
            load["mix"] = "1:0"
        job = self.start_load(target.port, **load)
        with measure.Noise() as noise:
            before, servers_before = measure.cpu_s(target.pid), measure.cpu_of(target.servers)
            got = job.go()
            if settle:
                settle()
            own, servers = measure.cpu_s(target.pid) - before, measure.cpu_of(target.servers) - servers_before
        job.close()
        n = max(1, got["requests"])
        if got["errors"]:
            raise BenchError("%s, %s: %d error replies, the first: %s" % (target.name, scenario, got["errors"], got["first_error"]))
        if target.pid in target.servers:
            servers -= own
        row = {"scenario": scenario, "target": target.name, "cpu_us": 1e6 * own / n, "servers_us": 1e6 * servers / n,
               "load_us": 1e6 * got["cpu_s"] / n, "rate": got["rate"], "p50_ms": got["p50_us"] / 1000, "p99_ms": got["p99_us"] / 1000,
               "p999_ms": got["p999_us"] / 1000, "max_ms": got["max_us"] / 1000, "requests": n, "rss_mib": measure.rss_kib(target.pid) / 1024,
               "steal": noise.steal, "other_cores": noise.other(own + servers + got["cpu_s"])}
        if load.get("rate") and got["rate"] < 0.97 * load["rate"]:
            self.report.progress("%s, %s: only %.0f of %d requests/s got through" % (target.name, scenario, got["rate"], load["rate"]))
        return row

    def interleave(self, part, targets, scenarios, reps=None):
        """Every repetition runs all scenarios, each for all targets, the order turned by one each time.
        scenarios: {name: load options}. Returns {(scenario, target name): [row of each repetition, or None]}."""
        rows = {}
        for rep in range(reps or self.o.reps):
            for scenario, load in scenarios.items():
                turn = rep % len(targets)
                for t in targets[turn:] + targets[:turn]:
                    try:
                        row = self.run(part, scenario, t, **load)
                    except BenchError as e:
                        self.report.failed(part, str(e))
                        row = None
                    rows.setdefault((scenario, t.name), []).append(row)
        return rows


def _bound(argv):
    """A command that dies with us."""
    return ["setpriv", "--pdeathsig", "KILL", "--"] + [str(a) for a in argv]


class Load:
    """The load generator, connected and waiting."""

    def __init__(self, argv):
        self.proc = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self.proc.stdout.readline() != b"ready\n":
            self.close()
            raise BenchError("the load generator could not begin")

    def begin(self):
        self.proc.stdin.write(b"go\n")
        self.proc.stdin.flush()

    def result(self):
        line = self.proc.stdout.readline()
        if not line:
            raise BenchError("the load generator ended with %s" % self.proc.wait())
        return json.loads(line)

    def go(self):
        self.begin()
        return self.result()

    def close(self):
        self.proc.stdin.close()
        self.proc.stdout.close()
        try:
            self.proc.wait(10)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()


# ---- what several parts want

def ratios(rows, scenario, name, base, figure="cpu_us"):
    """The median of the repetitions' ratios; base is a target's name, or a list of which the smallest counts."""
    bases = [base] if isinstance(base, str) else base
    found = []
    for rep, row in enumerate(rows.get((scenario, name), [])):
        others = [rows[scenario, b][rep] for b in bases if (scenario, b) in rows]
        values = [r[figure] for r in others if r and r[figure] > 0]
        if row and values:
            found.append(row[figure] / min(values))
    return measure.median(found)


def figure(rows, scenario, name, what):
    return measure.median([r[what] for r in rows.get((scenario, name), []) if r])


def pids(*sides):
    return [n.pid for side in sides for n in side.nodes]


def status(proxy):
    """STATUS by the admin socket: no process is started for it."""
    return json.loads(proxy.admin("PROXY", "STATUS"))


def wait_status(proxy, what, condition, timeout=300, interval=0.02):
    """Until condition(status); returns the status."""
    def look():
        s = status(proxy)
        return s if condition(s) else None
    return wait_until(what, look, timeout, interval)


def drained(s):
    return s["mirror"]["queued"] == 0 and s["dirty_keys"] == 0 and s["dirty_slots"] == 0


def migrate(proxy):
    """start, and wait until everything is copied; returns the seconds of it."""
    began = time.monotonic()
    proxy.admin("PROXY", "START")
    wait_status(proxy, "synced", lambda s: s["phase"] == "synced" and drained(s))
    return time.monotonic() - began
