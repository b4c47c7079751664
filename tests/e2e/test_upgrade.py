"""A new process takes over from the one that runs (docs/upgrade.md): under load no error, no refused connection, nothing lost, in every phase; what each client
was in the middle of goes on; and where it cannot be, the old process serves on as if nothing had been."""
import os
import subprocess
import threading
import time

import pytest
from harness import Client, RespError, diff
from harness.crossfade import built_with_faults, config_text, crossfade_bin
from harness.process import wait_until
from load import Load, fill, fill_types

NOT_TAKEN = 75


@pytest.fixture(scope="module")
def sides(servers):
    return servers.cluster("redis-7.0"), servers.cluster("valkey-9.1")


@pytest.fixture
def proxy(pair, crossfade):
    return crossfade(pair[0], pair[1], config={"workers": 2, "bypassing-writers": False})


def taken(proxy, **options):
    pid = proxy.pid
    assert proxy.take_over(**options) == 0, proxy.log_tail(60)
    assert proxy.pid != pid
    if not options.get("tls"):
        proxy.former_end()


def flows(load):
    before = load.commands
    wait_until("commands get through", lambda: load.commands > before + 50, 30)
    load.assert_fine()


class Knocker(threading.Thread):
    """Connects, asks and closes, all the time."""

    def __init__(self, proxy):
        super().__init__(daemon=True)
        self.proxy, self.ending, self.problems, self.n = proxy, threading.Event(), [], 0

    def run(self):
        while not self.ending.is_set():
            try:
                with self.proxy.connect(timeout=30) as c:
                    answer = c.try_call("INCR", "knocks")
                self.n += 1
                if answer != self.n:
                    self.problems.append("%r, not %d" % (answer, self.n))
                    self.n = answer if isinstance(answer, int) else self.n
            except Exception as e:
                self.problems.append(repr(e))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.ending.set()
        self.join()
        if exc[0] is None:
            assert not self.problems, self.problems[:5]
            assert self.n


def test_under_load_in_every_phase(pair, crossfade):
    source, target = pair
    fill(source, 600)
    fill_types(source, many=2)
    proxy = crossfade(source, target, config={"backfill-keys-per-s": 400, "backfill-adaptive": False})
    with Load(proxy, clients=3) as load, Knocker(proxy):
        taken(proxy)
        flows(load)
        proxy.ctl("start")
        wait_until("something is copied", lambda: proxy.status()["backfill"]["keys_copied"], 20)
        taken(proxy, config={"workers": 3})
        flows(load)
        proxy.ctl("throttle", "--keys-per-s", 0)
        proxy.wait("synced")
        taken(proxy)
        flows(load)
        proxy.ctl("verify")
        proxy.ctl("cutover", "--yes", "--wait", 60)
        flows(load)
        taken(proxy)
        flows(load)
        assert proxy.status()["authority"] == "target" and proxy.status()["phase"] == "cutover"
    proxy.wait("dirty=0,lag=0")
    assert diff(source, target) == []
    load.check(proxy, source, target)
    assert proxy.ctl("verify")["checked"] > 600


def test_what_clients_were_in_the_middle_of(pair, proxy):
    """Half a request, MULTI, WATCH, a subscription, a database, a name, RESP3, CLIENT REPLY: each goes on as if nothing had been."""
    source, _ = pair
    half, multi, watcher, channel, resp3, quiet, other = (proxy.connect(timeout=20) for _ in range(7))
    value = b"v" * 40000
    request = b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$40000\r\n" + value + b"\r\n"
    half.send_raw(request[:30000])
    assert multi.call("MULTI") == b"OK" and multi.call("INCR", "{q}n") == b"QUEUED" and multi.call("CLIENT", "GETNAME") == b"QUEUED"
    assert watcher.call("SET", "{w}k", 1) == b"OK" and watcher.call("WATCH", "{w}k") == b"OK"
    assert channel.call("SUBSCRIBE", "news")[0] == b"subscribe"
    channel.send("PSUBSCRIBE", "n?ws.*")
    assert channel.read()[0] == b"psubscribe"
    assert resp3.call("HELLO", 3, "SETNAME", "third")[b"proto"] == 3
    quiet.send("CLIENT", "REPLY", "OFF")
    quiet.send("SET", "quiet", 1)
    wait_until("the quiet one was served", lambda: proxy.call("GET", "quiet") == b"1")
    ids = [c.call("CLIENT", "ID") for c in (resp3, other)]
    taken(proxy)
    half.send_raw(request[30000:])
    assert half.read() == b"OK" and source.call("GET", "half") == value
    assert multi.call("INCR", "{q}n") == b"QUEUED"
    assert multi.call("EXEC") == [1, None, 2]
    watcher.call("MULTI")
    watcher.call("SET", "{w}k", 2)
    assert watcher.call("EXEC") is None and proxy.call("GET", "{w}k") == b"1"
    watcher.call("MULTI")
    watcher.call("SET", "{w}k", 3)
    assert watcher.call("EXEC") == [b"OK"]
    assert proxy.call("PUBLISH", "news", "told") == 1 and channel.read() == [b"message", b"news", b"told"]
    assert proxy.call("PUBLISH", "news.x", "more") == 1 and channel.read() == [b"pmessage", b"n?ws.*", b"news.x", b"more"]
    assert resp3.call("CLIENT", "GETNAME") == b"third" and isinstance(resp3.call("HGETALL", "none"), dict)
    assert [c.call("CLIENT", "ID") for c in (resp3, other)] == ids and proxy.call("CLIENT", "ID") not in ids
    quiet.send("SET", "quiet", 2)
    quiet.send("CLIENT", "REPLY", "ON")
    assert quiet.read() == b"OK" and proxy.call("GET", "quiet") == b"2"
    for c in (half, multi, watcher, channel, resp3, quiet, other):
        c.close()


def test_blocked_clients_are_served_in_their_order(proxy):
    waiting = []
    for i in range(6):
        c = proxy.connect(timeout=30)
        c.send("BLPOP", "line", 0)
        wait_until("it waits", lambda: len([x for x in proxy.call("CLIENT", "LIST").splitlines() if b"cmd=blpop" in x and b"flags=b" in x]) == i + 1)
        waiting.append(c)
    late, short = proxy.connect(timeout=30), proxy.connect(timeout=30)
    at = time.monotonic()
    short.send("BLPOP", "never", 3)
    late.send("WAIT", 9, 2500)
    taken(proxy)
    for i in range(6):
        proxy.call("RPUSH", "line", i)
    assert [c.read() for c in waiting] == [[b"line", b"%d" % i] for i in range(6)]
    assert late.read() == 0 and short.read() is None
    assert time.monotonic() - at > 2.9
    for c in waiting + [late, short]:
        c.close()


def test_no_message_is_lost(proxy):
    """Published through the proxy all the time, numbered."""
    ending, sent = threading.Event(), []

    def publish():
        with proxy.connect(timeout=30) as c:
            while not ending.is_set():
                sent.append(c.call("PUBLISH", "numbers", len(sent)))

    with proxy.connect(timeout=30) as channel:
        channel.call("SUBSCRIBE", "numbers")
        thread = threading.Thread(target=publish, daemon=True)
        thread.start()
        for _ in range(2):
            n = len(sent)
            wait_until("messages flow", lambda: len(sent) > n + 20)
            taken(proxy)
        n = len(sent)
        wait_until("messages flow", lambda: len(sent) > n + 20)
        ending.set()
        thread.join()
        assert set(sent) == {1}
        assert [channel.read()[2] for _ in sent] == [b"%d" % i for i in range(len(sent))]


def test_tracking_goes_on_behind_a_null_invalidation(proxy):
    with proxy.connect(protocol=3, timeout=20) as c:
        c.call("CLIENT", "TRACKING", "ON")
        c.call("SET", "tracked", 1)
        c.call("GET", "tracked")
        taken(proxy)
        assert c.read_push() == [b"invalidate", None]
        c.call("GET", "tracked")
        proxy.call("SET", "tracked", 2)
        assert c.read_push() == [b"invalidate", [b"tracked"]]


def test_tls_clients_are_carried_on(sides, certs, crossfade):
    source = sides[0]
    proxy = crossfade(source, client_options={"tls": certs.context()}, config={
        "tls-cert-file": certs.crt("server"), "tls-key-file": certs.key("server"), "tls-ca-cert-file": certs.ca, "tls-auth-clients": "no"})
    with proxy.connect(timeout=20) as c:
        c.call("CLIENT", "SETNAME", "old")
        c.send_raw(b"*2\r\n$4\r\nECHO\r\n$5\r\nhe")
        assert proxy.take_over() == 0
        c.send_raw(b"llo\r\n")
        assert c.read() == b"hello" and c.call("CLIENT", "GETNAME") == b"old"
        big = b"x" * 300000
        assert c.call("SET", "{u}big", big) == b"OK" and c.call("GET", "{u}big") == big
        with proxy.connect() as fresh:
            assert fresh.call("PING") == b"PONG"
        assert proxy.former[0].poll() is None
        assert proxy.take_over() == 0  # the third one gets it from the second, through the first
        assert c.call("CLIENT", "GETNAME") == b"old"
        proxy.former.pop().wait(20)
        assert proxy.former[0].poll() is None
        proxy.drop()
    proxy.former_end()


def test_refused_and_nothing_has_changed(pair, proxy):
    source = pair[0]
    c = proxy.connect(timeout=20)
    c.call("MULTI")
    for config, word in (({"port": proxy.port + 1}, "port differs"), ({"source-nodes": source.addrs[:1]}, "source-nodes differs")):
        assert proxy.take_over(config=config) == NOT_TAKEN
        assert word in proxy.log()
    # no room for its journals
    room = os.path.join(proxy.state_dir, "journal-room.1")
    os.mkdir(room)
    assert proxy.take_over() == NOT_TAKEN
    assert "journal-room.1" in proxy.log() and "cannot be made" in proxy.log()
    os.rmdir(room)
    assert not [name for name in os.listdir(proxy.state_dir) if "room" in name]
    # no record that can be read
    path = os.path.join(proxy.state_dir, "phase")
    with open(path, "rb") as f:
        record = f.read()
    with open(path, "wb") as f:
        f.write(record[:-2])
    assert proxy.take_over() == 65
    with open(path, "wb") as f:
        f.write(record)
    assert c.call("INCR", "{r}n") == b"QUEUED" and c.call("EXEC") == [1]
    c.close()
    # a second process that does not take over
    with open(proxy.config_path) as f:
        second = subprocess.run([crossfade_bin(), "-c", f.name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30)
    assert second.returncode == 73 and b"is in use by process" in second.stdout
    assert proxy.take_over() == 0
    proxy.former_end()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_another_user_is_refused(proxy):
    path = os.path.join(proxy.state_dir, "handover")
    for name, mode in ((proxy.dir, 0o755), (proxy.state_dir, 0o755), (path, 0o666)):
        os.chmod(name, mode)
    code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(1000))"
    done = subprocess.run(["setpriv", "--reuid", "65534", "/usr/bin/python3", "-c", code, path], stdout=subprocess.PIPE, timeout=30)
    assert b"another user" in done.stdout
    assert proxy.take_over() == 0
    proxy.former_end()


def test_nobody_to_take_over_from(sides, tmp_path):
    path = str(tmp_path / "conf")
    with open(path, "w") as f:
        f.write(config_text({"port": 1, "state-dir": str(tmp_path / "none"), "source-nodes": sides[0].addrs}))
    done = subprocess.run([crossfade_bin(), "--take-over", "-c", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30)
    assert done.returncode == NOT_TAKEN and b"without --take-over" in done.stdout
    assert not os.path.exists(str(tmp_path / "none"))


def rarely(who, point):
    return pytest.param(who, point, marks=pytest.mark.long)


@pytest.mark.parametrize("who, point", [("new", "handover-before-have"), ("old", "handover-go"), rarely("new", "handover-locked"), rarely("new", "handover-have"),
                                        rarely("old", "handover-still"), rarely("old", "handover-sent")])
def test_killed_in_the_middle(pair, crossfade, who, point):
    """Whoever dies, and wherever: at most one serves, and what was acknowledged is on both sides."""
    if not built_with_faults():
        pytest.skip("needs a build with --enable-faults")
    source, target = pair
    proxy = crossfade(source, target, env={"CROSSFADE_FAULT": point} if who == "old" else {})
    proxy.ctl("start")
    proxy.wait("synced")
    c = proxy.connect(timeout=30)
    for i in range(200):
        c.call("INCR", "n:%d" % (i % 20))
    old = proxy.proc
    proxy.take_over(env={"CROSSFADE_FAULT": point} if who == "new" else {})
    goes_on = "take-over by crossfade"
    wait_until("the old one knows", lambda: old.poll() is not None or "not done" in proxy.log()[proxy.log().rfind(goes_on):], 40)
    if old.poll() is None:  # it goes on with its clients; after have, where the new one's death was seen in time
        assert point in ("handover-before-have", "handover-have")
        assert c.call("INCR", "n:0") == 11
    elif point == "handover-go":  # the new one has its clients
        assert proxy.proc is not old and c.call("INCR", "n:0") == 11
    else:  # nobody is left: a start of its own recovers
        assert point != "handover-before-have" and proxy.proc is old
        proxy.drop()
        proxy.env = {}
        proxy.start()
        assert proxy.call("INCR", "n:0") == 11
    proxy.former = [p for p in proxy.former if p.poll() is None]
    c.close()
    proxy.wait("synced,dirty=0,lag=0")
    assert diff(source, target) == []
