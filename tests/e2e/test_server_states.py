"""Servers that answer, but not as usual: one that loads, one that has become a replica, one with another password, one whose connection breaks in the middle of a reply.
As a follower they cost clients nothing; as the authority what it says is said, and both sides are equal afterwards."""
import os

import pytest
from harness import RespError, diff
from harness.process import frozen, wait_until
from harness.resp import encode
from load import fill, fill_types

USER = "mover"
SLOWLY = {"key-load-delay": 1500, "loading-process-events-interval-bytes": 1024}


def password(path, text):
    with open(path, "w") as f:
        f.write(text + "\n")
    os.chmod(path, 0o600)
    return str(path)


@pytest.fixture(scope="module")
def passwords(tmp_path_factory):
    folder = tmp_path_factory.mktemp("passwords")
    return {name: password(folder / name, "first") for name in ("source", "target")}


@pytest.fixture(scope="module")
def synced(servers, passwords):
    """source, target, a proxy that has copied everything: each test leaves them so."""
    conf = {"user": USER + " on >first ~* &* +@all"}
    source, target = servers.standalone("redis-7.0", conf=conf), servers.standalone("valkey-9.1", conf=conf)
    fill(source, 300)
    fill_types(source, many=2)
    config = {"workers": 1}
    for name, path in passwords.items():
        config.update({name + "-user": USER, name + "-auth-file": path})
    proxy = servers.crossfade(source, target, config=config)
    proxy.ctl("start")
    proxy.wait("synced")
    return source, target, proxy


def equal_by_itself(source, target, proxy):
    proxy.wait("synced,dirty=0,lag=0", timeout=60)
    assert diff(source, target) == []


def code(client, *command):
    reply = client.try_call(*command)
    return reply.code if isinstance(reply, RespError) else None


def load_again(node):
    """It is ended in order, and begins to load what it had."""
    node.drop()
    with pytest.raises(ConnectionError), node.connect(timeout=30) as c:
        c.call("SHUTDOWN", "SAVE")
    wait_until("it has ended", lambda: not node.running(), 30, 0.02)
    usual, node.conf = node.conf, dict(node.conf, **SLOWLY)
    node.start(wait=False)
    node.conf = usual


def listens(node):
    """It loads, or has done so."""
    try:
        with node.connect(timeout=5) as c:
            return code(c, "GET", "k:1") in ("LOADING", None)
    except OSError:
        return False


def test_a_follower_loads(synced):
    source, target, proxy = synced
    load_again(target)
    wait_until("it loads", lambda: listens(target), 30, 0.005)
    for i in range(50):
        assert proxy.call("SET", "k:%d" % i, "while it loads") == b"OK"
    target.wait_ready(60)
    os.remove(os.path.join(target.dir, "dump.rdb"))
    equal_by_itself(source, target, proxy)


def test_the_authority_loads(synced):
    """A client is told, or waits; nothing that was acknowledged is lost."""
    source, target, proxy = synced
    done = [i for i in range(50) if code(proxy.client, "SET", "k:%d" % i, "before") is None]
    load_again(source)
    said = set()

    def served():
        said.add(code(proxy.client, "GET", "k:2"))
        return None in said
    wait_until("it is served again", served, 60)
    assert said <= {None, "LOADING", "CLUSTERDOWN"}, said
    source.wait_ready(60)
    os.remove(os.path.join(source.dir, "dump.rdb"))
    assert len(done) == 50 and all(proxy.call("GET", "k:%d" % i) == b"before" for i in done)
    equal_by_itself(source, target, proxy)


def test_a_side_becomes_a_replica_for_a_while(synced):
    source, target, proxy = synced
    target.call("REPLICAOF", "127.0.0.1", 1)
    for i in range(50):
        assert proxy.call("SET", "k:%d" % i, "while it is a replica") == b"OK"
    wait_until("they are owed", lambda: proxy.status()["dirty_keys"] + proxy.status()["dirty_slots"] > 0)
    target.call("REPLICAOF", "NO", "ONE")
    equal_by_itself(source, target, proxy)
    source.call("REPLICAOF", "127.0.0.1", 1)
    assert code(proxy.client, "SET", "k:1", "refused") == "READONLY" and proxy.call("GET", "k:1") == b"while it is a replica"
    source.call("REPLICAOF", "NO", "ONE")
    wait_until("it takes writes again", lambda: code(proxy.client, "SET", "k:1", "taken") is None)
    equal_by_itself(source, target, proxy)


@pytest.mark.parametrize("name", ["source", "target"])
def test_a_password_changes(synced, passwords, name):
    """On the server first; what is connected stays, what is lost comes back when the proxy has been told."""
    source, target, proxy = synced
    node, before = source if name == "source" else target, len(proxy.log())
    try:
        node.call("ACL", "SETUSER", USER, "resetpass", ">second")
        assert proxy.call("SET", "k:1", "connected yet") == b"OK"
        node.call("CLIENT", "KILL", "USER", USER)
        wait_until("it is told", lambda: "WRONGPASS" in proxy.log()[before:])
        reply = proxy.client.try_call("SET", "k:2", "meanwhile")
        assert isinstance(reply, RespError) if name == "source" else reply == b"OK"
        password(passwords[name], "second")
        proxy.reload()
        wait_until("it is served again", lambda: code(proxy.client, "SET", "k:3", "afterwards") is None)
        equal_by_itself(source, target, proxy)
    finally:
        node.call("ACL", "SETUSER", USER, "resetpass", ">first")
        password(passwords[name], "first")
        proxy.reload()


def unread(port):
    """Bytes that have come to connections of this port, and that the server has not read."""
    with open("/proc/net/tcp") as f:
        rows = [line.split() for line in f][1:]
    return sum(int(r[4].split(":")[1], 16) for r in rows if int(r[1].split(":")[1], 16) == port and r[3] == "01")


def held_replies(node):
    """{id: bytes} of clients that have not taken their replies."""
    rows = [dict(w.split("=", 1) for w in line.split() if "=" in w) for line in node.call("CLIENT", "LIST").decode().splitlines()]
    return {r["id"]: int(r["omem"]) for r in rows if int(r["omem"]) > 1 << 20}


def test_a_connection_breaks_in_the_middle_of_a_reply(synced):
    """Reads are asked again and answered whole; the write whose reply was cut has an unknown outcome, and is told and repaired."""
    source, target, proxy = synced
    big = bytes(6 << 20)
    for i in range(3):
        assert proxy.call("SET", "big:%d" % i, big, timeout=60) == b"OK"
    proxy.wait("dirty=0,lag=0")
    with proxy.connect(timeout=60) as c:
        with frozen([source]):
            sent = encode(("GET", "big:0")) + encode(("GET", "big:1")) + encode(("SET", "big:2", "small", "GET"))
            c.send_raw(sent)
            wait_until("they are at the server", lambda: unread(source.port) >= len(sent))
            proxy.freeze()
        try:
            wait_until("a reply is under way", lambda: held_replies(source))
            for i in held_replies(source):
                source.call("CLIENT", "KILL", "ID", i)
        finally:
            proxy.thaw()
        assert c.read() == big and c.read() == big
        reply = c.read()
        assert isinstance(reply, RespError) and reply.code == "UNKNOWN", reply
        assert c.call("GET", "big:2") == b"small"
        c.call("DEL", "big:0", "big:1")
    equal_by_itself(source, target, proxy)
