"""What users get wrong: each message says what, where, and what to do; each exit code is that of the documentation; no secret is ever shown."""
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import time

import pytest
from harness import Crossfade
from harness.crossfade import SANITIZERS, crossfade_bin
from harness.process import wait_until

SECRETS = ("right-secret", "wrong-secret")

NEW = ["--assume-authority", "source"]  # a first start, whose target cannot say that there was none before


@pytest.fixture(scope="module")
def source(servers):
    return servers.standalone("redis-7.0")


@pytest.fixture(scope="module")
def target(servers):
    return servers.standalone("valkey-9.1")


@pytest.fixture(scope="module")
def guarded(servers):
    return servers.standalone("valkey-9.1", conf={"requirepass": "right-secret"})


@pytest.fixture(autouse=True)
def empty(source, target):
    source.flushall()
    target.flushall()


@pytest.fixture
def stopped(_factory):
    """A proxy that was not started."""
    def make(*args, **options):
        return _factory._keep(Crossfade(*args, start=False, **options))
    return make


def secret(tmp_path, word):
    path = tmp_path / ("file-of-" + word)
    path.write_text(word + "\n")
    os.chmod(path, 0o600)
    return str(path)


def run(*args, prefix=()):
    env = dict(os.environ, **{k: v for k, v in SANITIZERS.items() if k not in os.environ})
    return subprocess.run([*prefix, crossfade_bin(), *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, env=env)


def no_secret(*texts):
    for text in texts:
        assert not any(s in re.sub("file-of-%s" % s, "", text) for s in SECRETS), text


def ends(proxy, code, *parts):
    """It ends by itself, with this code, and its last warning holds all of these."""
    assert proxy.wait_exit(25) == code, proxy.log_tail()
    said = [line for line in proxy.log().splitlines() if " warning " in line]
    assert said, proxy.log()
    for part in parts:
        assert re.search(part, said[-1]), "no '%s' in '%s'" % (part, said[-1])
    no_secret(proxy.log())


def refused(proxy, command, code, *parts):
    """proxyctl ends with this code, and says all of these."""
    result = proxy.ctl(*command, check=False)
    assert result.rc == code, result
    for part in parts:
        assert re.search(part, result.err), "no '%s' in '%s'" % (part, result.err)
    no_secret(result.err, result.out, proxy.log())
    return result


# ---- the configuration

LINES = [
    ("port 6379x", "port '6379x': expected a port from 1 to 65535"),
    ("port 0", "nothing is listened on: expected port, tls-port or unixsocket"),
    ("target-nodes", "target-nodes.*expected host:port"),
    ("target-nodes a:1 b", "target-nodes 'b': expected host:port"),
    ("target-nodes [::1:6379", r"target-nodes '\[::1:6379': expected"),
    ("target-not-empty perhaps", "target-not-empty 'perhaps': expected refuse or allow"),
    ("target-user someone", "target-user is set without a password: expected target-auth-file"),
    ("target-auth-file /nonexistent/file", "target-auth-file '/nonexistent/file' cannot be read: No such file.*expected a file"),
    ("source-auth-file /", "source-auth-file '/'.*password"),
    ("cutover-max-pause 5", "cutover-max-pause '5': expected milliseconds from 10 to 60000"),
    ("large-value 1", "large-value '1': expected a size"),
    ("workers many", "workers 'many': expected a number"),
    ("mirror-tracking 1", "mirror-tracking '1': expected yes or no"),
    ("source-address-map here", "source-address-map 'here': expected announced=reachable"),
    ("sourcenodes a:1", "unknown option 'sourcenodes': expected one of"),
    ("state-dir 'one", "quotes do not match"),
    ("loglevel notice verbose", "loglevel.*expected"),
]


@pytest.mark.parametrize("line,message", LINES, ids=[x[0] for x in LINES])
def test_a_wrong_line(tmp_path, line, message):
    path = tmp_path / "c.conf"
    path.write_text("source-nodes 127.0.0.1:1\n# a comment\n%s\n" % line)
    result = run("-c", str(path))
    assert result.returncode == 78 and result.stdout == "" and len(result.stderr.splitlines()) == 1, result
    assert re.search(r"^crossfade: %s:3: .*%s" % (re.escape(str(path)), message), result.stderr), result.stderr


@pytest.fixture
def public():
    """A folder that every user may enter, which tmp_path is not."""
    with tempfile.TemporaryDirectory(prefix="cf-public.") as name:
        os.chmod(name, 0o755)
        yield pathlib.Path(name)


def test_an_auth_file_that_may_not_be_read(public):
    """Root may read everything: so as another user."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    auth = secret(public, "right-secret")
    path = public / "c.conf"
    path.write_text("source-nodes 127.0.0.1:1\nsource-auth-file %s\n" % auth)
    os.chmod(path, 0o644)
    prefix = ["setpriv", "--reuid=65534", "--clear-groups"]
    if subprocess.run(prefix + ["test", "-x", crossfade_bin()]).returncode:
        pytest.skip("%s cannot be run by other users" % crossfade_bin())
    result = run("-c", str(path), "--check-config", prefix=prefix)
    assert result.returncode == 78, result
    assert re.search(r"c\.conf:2: source-auth-file '%s' cannot be read: Permission denied: expected a file that this user may read" % auth, result.stderr)
    no_secret(result.stderr)


# ---- the source at the first start: all at once, since each takes ten seconds

def outside_address():
    """An address of this machine that is not the loopback's, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))
            address = s.getsockname()[0]
        except OSError:
            return None
    return None if address.startswith("127.") else address


@pytest.fixture(scope="module")
def protected(servers):
    return servers.standalone("redis-7.0", conf={"protected-mode": "yes", "bind": "*"})


def test_a_source_that_does_not_serve(source, guarded, protected, stopped, tmp_path):
    wrong = secret(tmp_path, "wrong-secret")
    node = re.escape(guarded.addr)
    cases = [
        (None, {"source-nodes": "127.0.0.1:1"}, r"source 127\.0\.0\.1:1: .*refused; does it run\? is source-nodes right"),
        (None, {"source-nodes": "nowhere.invalid:6379"}, r"nowhere\.invalid:6379 does not resolve.*source-nodes"),
        (guarded, {}, r"source %s: .*NOAUTH.*; it wants a password: set source-auth-file" % node),
        (guarded, {"source-auth-file": wrong}, r"source %s: .*WRONGPASS.*; look at source-user and .*source-auth-file" % node),
        (guarded, {"source-auth-file": secret(tmp_path, "right-secret"), "source-user": "nobody"}, r"source %s: .*WRONGPASS.*source-user" % node),
    ]
    if outside_address():
        at = "%s:%d" % (outside_address(), protected.port)
        cases.append((None, {"source-nodes": at}, r"source %s: .*DENIED.*; it is in protected mode: give it a password" % re.escape(at)))
    proxies = [stopped(server, config=config) for server, config, _ in cases]
    began = time.monotonic()
    for proxy in proxies:
        proxy.spawn_daemon()
    for proxy, (_, _, message) in zip(proxies, cases):
        ends(proxy, 69, "the source was not reached within 10 s", message)
    assert time.monotonic() - began < 25


# ---- the target: it never keeps the proxy from serving, and is told at start

def test_a_target_that_does_not_serve(source, guarded, protected, crossfade, tmp_path):
    node = re.escape(guarded.addr)
    cases = [
        ({"target-nodes": "127.0.0.1:1"}, r"the target is not reachable: target 127\.0\.0\.1:1: .*refused; does it run\? is target-nodes right"),
        ({"target-nodes": guarded.addr}, r"target %s: .*NOAUTH.*; it wants a password: set target-auth-file" % node),
        ({"target-nodes": guarded.addr, "target-auth-file": secret(tmp_path, "wrong-secret")}, r"target %s: .*WRONGPASS.*; look at target-user" % node),
    ]
    if outside_address():
        at = "%s:%d" % (outside_address(), protected.port)
        cases.append(({"target-nodes": at}, r"target %s: .*DENIED.*; it is in protected mode: .*target-auth-file" % re.escape(at)))
    for config, message in cases:
        proxy = crossfade(source, config=config, args=NEW)
        assert proxy.call("SET", "k", "v") == b"OK"
        refused(proxy, ["start"], 69, message)
        assert proxy.status()["phase"] == "proxy" and proxy.call("GET", "k") == b"v"
        proxy.term()


def test_without_a_target(source, crossfade):
    refused(crossfade(source), ["start"], 1, "there is no target: set target-nodes")


def test_a_target_that_is_not_empty(source, target, crossfade):
    target.call("SET", "k", "v")
    proxy = crossfade(source, target)
    refused(proxy, ["start"], 1, "the target already holds 1 key.*empty it, or set target-not-empty allow")
    assert target.call("GET", "k") == b"v" and proxy.status()["phase"] == "proxy"
    target.flushall()
    proxy.ctl("start")


def test_clusters_with_uncovered_slots(source, target, cluster, crossfade):
    broken = cluster("valkey-9.1", shards=2)
    for node in broken.nodes:
        node.call("CLUSTER", "DELSLOTS", "5", "9000")
    wait_until("they know", lambda: all("cluster_state:fail" in n.call("CLUSTER", "INFO").decode() for n in broken.nodes))
    proxy = crossfade(source, broken, args=NEW)
    refused(proxy, ["start"], 1, "not every slot of the target has a node: repair that cluster first.*proxyctl check")
    lines = proxy.ctl("check", check=False)
    assert lines.rc == 1 and any(x["level"] == "ERR" and "2 slots of the target have no node, the first is 5" in x["text"] for x in lines.data), lines
    proxy.term()
    proxy = crossfade(broken, target)
    refused(proxy, ["start"], 1, "not every slot of the source has a node: repair that cluster first")
    assert "CLUSTERDOWN" in str(proxy.client.try_call("SET", "k", "v"))


# ---- this machine

def test_a_port_in_use(source, stopped):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        proxy = stopped(source, config={"port": port})
        proxy.spawn_daemon()
        ends(proxy, 71, "cannot bind 127.0.0.1 port %d: Address already in use; another process has it, set another port" % port)


def test_an_address_of_another_machine(source, stopped):
    proxy = stopped(source, config={"bind": "198.51.100.7"})
    proxy.spawn_daemon()
    ends(proxy, 71, "198.51.100.7")


def test_an_admin_socket_that_cannot_be(source, stopped, tmp_path):
    (tmp_path / "file").write_text("")
    for path, message in ((tmp_path / "file", "no socket: remove it, or set another name"), (tmp_path / ("x" * 120), "longer than .*set a shorter name"),
                          (tmp_path / "no" / "such" / "a.sock", "cannot be created")):
        proxy = stopped(source, config={"admin-socket": str(path)})
        proxy.spawn_daemon()
        ends(proxy, 71, "admin-socket", message)


# ---- the state directory

@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB, and how to fill it."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a small file system")
    at = tmp_path / "disk"
    at.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(at)], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")

    class Disk:
        path = str(at)

        def fill(self):
            fd = os.open(self.path + "/fill", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                while True:
                    os.write(fd, b"x" * 512)
            except OSError:
                pass
            os.close(fd)

        def empty(self):
            os.unlink(self.path + "/fill")
    yield Disk()
    subprocess.run(["umount", "-l", str(at)], check=True)


def test_a_full_disk_at_the_start(source, stopped, small_disk):
    small_disk.fill()
    proxy = stopped(source, config={"state-dir": small_disk.path + "/state"})
    proxy.spawn_daemon()
    ends(proxy, 73, re.escape(small_disk.path) + "/state cannot be (written|created): No space left on device; make room on that disk or set another state-dir")


def test_a_disk_that_fills_up(source, target, crossfade, small_disk):
    """What cannot be recorded is not begun; with room again it goes on. Clients notice nothing."""
    proxy = crossfade(source, target, config={"state-dir": small_disk.path + "/state", "journal-size": "64kb"})
    proxy.call("SET", "k", "v")
    small_disk.fill()
    refused(proxy, ["start"], 1, "could not be recorded: cannot write .*/phase.tmp: No space left on device; make room on that disk; nothing was begun")
    assert proxy.status()["phase"] == "proxy"
    small_disk.empty()
    proxy.ctl("start")
    proxy.wait("synced")
    proxy.ctl("verify")
    small_disk.fill()
    refused(proxy, ["cutover", "--yes"], 1, "could not be prepared: .*No space left on device; make room on that disk; nothing was held")
    assert proxy.status()["authority"] == "source" and proxy.call("GET", "k") == b"v"
    small_disk.empty()
    proxy.ctl("cutover", "--yes")
    assert proxy.status()["authority"] == "target"
    proxy.close()


def test_a_state_directory_of_other_servers(source, target, standalone, crossfade):
    other = standalone("valkey-9.1")
    proxy = crossfade(source, target)
    proxy.ctl("start")
    proxy.wait("synced")
    proxy.term()
    proxy.config["target-nodes"] = other.addr
    proxy.spawn_daemon()
    ends_or_says(proxy, 65, r"target.*not the servers of the migration that state-dir %s is about: give another state-dir, or the right target-nodes"
                 % re.escape(proxy.state_dir))
    proxy.config.update({"target-nodes": target.addr, "source-nodes": other.addr})
    proxy.spawn_daemon()
    ends_or_says(proxy, 65, "source.*not the servers of the migration.*the right source-nodes")
    proxy.config.update({"target-nodes": None, "source-nodes": source.addr})
    proxy.spawn_daemon()
    ends(proxy, 78, "target-nodes is not set, and the record in .* is in phase synced: expected the nodes of that migration")
    proxy.config["target-nodes"] = target.addr
    proxy.start()
    assert proxy.status()["phase"] in ("backfill", "synced")
    assert other.dbsize() == 0


def ends_or_says(proxy, code, message):
    """The side that answers first may be the right one: then it serves, and says that the other is not."""
    wait_until("it has said so", lambda: re.search(message, proxy.log()), 15, 0.05)
    try:
        assert proxy.wait_exit(3) == code
    except AssertionError:
        if proxy.running():
            proxy.signal(signal.SIGTERM)
            proxy.wait_exit(10)
            return
        raise
    no_secret(proxy.log())


def test_a_state_directory_that_is_no_directory(source, stopped, tmp_path):
    (tmp_path / "file").write_text("")
    proxy = stopped(source, config={"state-dir": str(tmp_path / "file")})
    proxy.spawn_daemon()
    ends(proxy, 73, "state-dir .*/file cannot be opened: Not a directory; that is a file: remove it or set another state-dir")
    proxy = stopped(source, config={"state-dir": str(tmp_path / "a" / "b")})
    proxy.spawn_daemon()
    ends(proxy, 73, "a/b cannot be created: No such file or directory; create it or set another state-dir")
