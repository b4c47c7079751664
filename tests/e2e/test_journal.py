"""What the mirror owed survives kill -9: without anyone's help both sides are equal again, and no acknowledged write is lost."""
import contextlib
import os
import subprocess
import threading

import pytest
from compare import compare
from harness import Client, RespError
from harness.crossfade import built_with_faults, crossfade_bin
from harness.process import frozen, wait_until
from harness.resp import ProtocolError

CLIENTS = 4


class Acked:
    """Clients that count what was acknowledged, and go on by themselves when the proxy is back."""

    def __init__(self, proxy, name="acked"):
        self.proxy, self.name, self.stop = proxy, name, threading.Event()
        self.acked = [0] * CLIENTS   # INCRs that were answered
        self.asked = [0] * CLIENTS   # …and sent
        self.wrong = []
        self.threads = [threading.Thread(target=self.run, args=(i,), daemon=True) for i in range(CLIENTS)]

    def key(self, i):
        return "%s:%d" % (self.name, i)

    def commands(self, i, n):
        return [("INCR", self.key(i)), ("RPUSH", "list:%d" % i, n), ("HSET", "h:%d" % (n % 50), "f%d" % i, n), ("SADD", "s:%d" % (n % 20), n),
                ("ZINCRBY", "z:%d" % i, 1.5, n % 9), ("SETRANGE", "t:%d" % (n % 9), n % 30, n), ("LPOP", "list:%d" % i),
                ("SET", "e:%d:%d" % (i, n % 40), n, "PX", 60000000), ("DEL", "h:%d" % ((n + 25) % 50))]

    def once(self, link, i):
        self.asked[i] += 1
        for reply in link.pipeline(self.commands(i, self.asked[i]))[:1]:
            if isinstance(reply, RespError):
                if not str(reply).startswith(("UNKNOWN", "CLUSTERDOWN")):
                    self.wrong.append(str(reply))
            elif reply <= self.acked[i]:
                self.wrong.append("%s: %d after %d" % (self.key(i), reply, self.acked[i]))
            else:
                self.acked[i] = reply

    def run(self, i):
        while not self.stop.is_set():
            try:
                with Client(self.proxy.port, timeout=60) as link:
                    while not self.stop.is_set():
                        self.once(link, i)
            except (OSError, ProtocolError):
                self.stop.wait(0.02)

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def more(self, n=40):
        """Until every client has had n more answers."""
        base = list(self.acked)
        wait_until("the clients go on", lambda: all(a >= b + n for a, b in zip(self.acked, base)), 60, 0.02)

    def __exit__(self, *exc):
        self.stop.set()
        for t in self.threads:
            t.join(90)

    def check(self, *sides):
        assert not self.wrong, self.wrong[:5]
        for side in sides:
            for i in range(CLIENTS):
                assert self.acked[i] <= int(side.call("GET", self.key(i))) <= self.asked[i]


@pytest.fixture(scope="module")
def pair(servers):
    return servers.cluster("redis-7.0"), servers.cluster("valkey-9.1")


@pytest.fixture
def empty(pair):
    for side in pair:
        side.flushall()
    return pair


def fill(side, n=3000):
    for i in range(n):
        side.client_for("k:%d" % i).call("SET", "k:%d" % i, "value %d" % i)


def equal_by_itself(proxy, source, target, *phases):
    proxy.wait(",".join(phases + ("dirty=0", "lag=0")), timeout=90)
    swapped = proxy.status()["authority"] == "target"
    assert compare(*((target, source) if swapped else (source, target)), partial=False, final=True) == []


@pytest.mark.parametrize("bypassing", [True, False], ids=["compared", "journal-alone"])
def test_killed_in_every_phase(empty, crossfade, bypassing):
    source, target = empty
    fill(source)
    proxy = crossfade(source, target, config={"backfill-keys-per-s": 2000, "backfill-adaptive": False, "bypassing-writers": bypassing})
    with Acked(proxy) as load:
        load.more()
        proxy.ctl("start")
        wait_until("some is copied", lambda: proxy.status()["backfill"]["keys_copied"] > 1500, 30)
        for _ in range(2):
            proxy.restart(kill=True)
            load.more()
        proxy.ctl("throttle", "--off")
        proxy.wait("synced", timeout=90)
        proxy.restart(kill=True)
        load.more()
    equal_by_itself(proxy, source, target, "synced")
    load.check(source, target)
    assert "did not end in order" in proxy.status()["verify_due"]
    proxy.ctl("verify")
    assert proxy.status()["verify_due"] == ""
    with Acked(proxy, "flipped") as load:
        load.more()
        proxy.ctl("cutover", "--yes")
        load.more()
        proxy.restart(kill=True)
        load.more()
    equal_by_itself(proxy, source, target)
    load.check(source, target)
    assert proxy.status()["authority"] == "target"


@contextlib.contextmanager
def held_back(side):
    """No write is executed, and what a connection that ends had sent never is (a frozen server would execute it when it thaws)."""
    for node in side.primaries():
        node.call("CLIENT", "PAUSE", 60000, "WRITE")
    try:
        yield
    finally:
        for node in side.primaries():
            node.call("CLIENT", "UNPAUSE")


def strangers(side):
    """How many connections of a proxy a side has."""
    return sum(b"name=crossfade" in line for node in side.primaries() for line in node.call("CLIENT", "LIST").splitlines())


def test_without_the_journal_it_shows(empty, crossfade):
    """The mutant: effects that were under way are forgotten with the process."""
    if not built_with_faults():
        pytest.skip("needs a build with --enable-faults")
    source, target = empty
    proxy = crossfade(source, target, config={"bypassing-writers": False, "mirror-tracking": False}, env={"CROSSFADE_FAULT": "journal-off"})
    proxy.ctl("start")
    proxy.wait("synced")
    with held_back(target), Acked(proxy) as load:
        load.more()
        assert strangers(target) > 0
        proxy.kill()
        wait_until("the target knows that nobody is there any more", lambda: strangers(target) == 0)
    proxy.start()
    proxy.wait("synced,dirty=0,lag=0")
    assert compare(source, target, partial=False, final=True) != []


def test_what_was_owed_while_the_follower_hung(empty, crossfade):
    """The same without the mutant: what the killed process had sent may arrive late, and is made sure not to (race 7)."""
    source, target = empty
    proxy = crossfade(source, target, config={"bypassing-writers": False})
    proxy.ctl("start")
    proxy.wait("synced")
    with Acked(proxy) as load:
        with frozen(target.primaries()):
            load.more()
            proxy.kill()
        proxy.start()
        load.more()
    equal_by_itself(proxy, source, target, "synced")
    load.check(source, target)


@pytest.mark.long
def test_told_to_end_while_the_follower_hangs(empty, crossfade):
    """TERM: it gives up after a while, and does not say that it ended clean: what was owed is known to the next one."""
    source, target = empty
    proxy = crossfade(source, target, config={"bypassing-writers": False, "mirror-tracking": False})
    proxy.ctl("start")
    proxy.wait("synced")
    with Acked(proxy) as load:
        with held_back(target):
            load.more()
            proxy.term(timeout=60)
        proxy.start()
        load.more()
    equal_by_itself(proxy, source, target, "synced")
    load.check(source, target)


def test_a_lost_or_damaged_journal_is_told(empty, crossfade):
    source, target = empty
    fill(source, 200)
    proxy = crossfade(source, target, config={"bypassing-writers": False, "journal-size": "64kb", "journal-fsync": "always"})
    proxy.ctl("start")
    proxy.wait("synced")
    proxy.ctl("verify")
    for harm in ("lost", "damaged"):
        proxy.kill()
        files = [os.path.join(proxy.state_dir, f) for f in os.listdir(proxy.state_dir) if f.startswith("journal-")]
        assert len(files) == 2 and all(os.path.getsize(f) == 8192 + (64 << 10) for f in files)
        source.client_for("k:7").call("SET", "k:7", "nobody saw this")
        for f in files:
            if harm == "lost":
                os.unlink(f)
            else:
                with open(f, "r+b") as out:
                    out.write(b"damage")
        proxy.start()
        assert "journal" in proxy.status()["verify_due"]
        equal_by_itself(proxy, source, target, "synced")
        assert proxy.ctl("cutover", "--yes", "--wait", 1, check=False).rc == 1
        proxy.ctl("verify", "--repair")


@contextlib.contextmanager
def another_boot(proxy, folder):
    """The daemon begins in a world of its own, in which the machine was started anew."""
    boot, binary, was = folder / "boot_id", folder / "crossfade", os.environ.get("CROSSFADE_BIN")
    boot.write_text("00000000-1111-2222-3333-444444444444\n")
    binary.write_text("#!/bin/sh\nexec unshare -m sh -c 'mount --bind %s /proc/sys/kernel/random/boot_id && exec \"$@\"' sh %s \"$@\"\n" % (boot, crossfade_bin()))
    binary.chmod(0o755)
    os.environ["CROSSFADE_BIN"] = str(binary)
    try:
        yield
    finally:
        os.environ.pop("CROSSFADE_BIN")
        if was is not None:
            os.environ["CROSSFADE_BIN"] = was


@pytest.mark.parametrize("fsync", ["everysec", "always"])
def test_the_machine_was_started_anew(empty, crossfade, tmp_path, fsync):
    """What was owed may be lost with the page cache: no cutover before a verify with repair. Unless each write was synced."""
    if subprocess.run(["unshare", "-m", "mount", "--bind", "/dev/null", "/proc/sys/kernel/random/boot_id"], capture_output=True).returncode:
        pytest.skip("a file cannot be mounted over the boot id here")
    source, target = empty
    fill(source, 200)
    proxy = crossfade(source, target, config={"bypassing-writers": False, "journal-fsync": fsync})
    proxy.ctl("start")
    proxy.wait("synced,dirty=0")
    proxy.ctl("verify")
    proxy.kill()
    source.client_for("k:7").call("SET", "k:7", "nobody saw this")
    with another_boot(proxy, tmp_path):
        proxy.start()
    assert ("the machine was started anew" in proxy.status()["verify_due"]) == (fsync != "always")
    if fsync != "always":
        assert "verify" in proxy.ctl("cutover", "--yes", "--wait", 1, check=False).err
        equal_by_itself(proxy, source, target, "synced")
    assert proxy.ctl("verify", "--repair", check=False).rc == (0 if fsync != "always" else 2) # nobody saw one, and nobody had to look
    equal_by_itself(proxy, source, target, "synced")
    proxy.ctl("verify")
    assert proxy.status()["verify_due"] == ""
    proxy.ctl("cutover", "--yes")


def test_a_full_disk_is_told_at_the_start(empty, crossfade):
    source, target = empty
    proxy = crossfade(source, target)
    proxy.term()
    proxy.config["journal-size"] = "4gb"
    import resource
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limit[1]))
    try:
        assert proxy.run_to_end() == 73
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "journal" in proxy.log() and "lower journal-size" in proxy.log()
