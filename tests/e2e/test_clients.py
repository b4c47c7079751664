"""CLIENT LIST, INFO, KILL, REPLY …, and MONITOR: over all workers, in the words and the shape of the source's version."""
import re

import pytest
from harness import RespError
from harness.process import wait_until
from harness.resp import Disconnected, encode

KINDS = ["redis-7.0", "redis-8.0", "valkey-8.1", "valkey-9.1"]


def connect_many(proxy, n, protocol=2):
    """So many that every worker has some."""
    clients = []
    for _ in range(n):
        clients.append(proxy.connect(protocol=protocol))
        clients[-1].call("PING")  # it has been accepted: the next one's id is higher
    return clients


def rows(text):
    lines = text.decode().splitlines()
    return [dict(field.split("=", 1) for field in line.split(" ")) for line in lines]


@pytest.mark.parametrize("kind", KINDS)
def test_fields(alone, kind):
    """The fields of the source's version, in its order; what can be compared is the same."""
    server, proxy = alone(kind)
    said = []
    for endpoint in (server, proxy):
        with endpoint.connect(protocol=3) as c:
            c.call("CLIENT", "SETNAME", "fields")
            c.call("CLIENT", "NO-EVICT", "on")
            for command in ("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"):
                c.send(command, "x")
                c.read_any()
            info = c.call("CLIENT", "INFO")
            listed = c.call("CLIENT", "LIST", "ID", c.call("CLIENT", "ID"))
            assert info.format == listed.format == b"txt"
            for text, command in ((info, "client|info"), (listed, "client|list")):
                assert text.decode().endswith("\n")
                row, = rows(text)
                assert row["cmd"] == command and row["addr"] == "127.0.0.1:%d" % c.sock.getsockname()[1]
                assert row["laddr"] == "127.0.0.1:%d" % endpoint.port
                said.append((list(row), [row[f] for f in ("name", "flags", "db", "sub", "psub", "ssub", "multi", "user", "redir", "resp", "events")]))
    assert said[:2] == said[2:]


WORDS = [
    ("LIST", "TYPE", "x"), ("LIST", "TYPE"), ("LIST", "ID"), ("LIST", "ID", "x"), ("LIST", "ID", "0"), ("LIST", "ID", "999999"), ("LIST", "FOO", "1"), ("LIST", "NAME", "nosuch"), ("LIST", "ADDR", "1:1"),
    ("LIST", "TYPE", "master"), ("LIST", "TYPE", "replica"), ("KILL",), ("KILL", "1:2"), ("KILL", "ID", "x"), ("KILL", "ID", "0"), ("KILL", "ID", "999999"), ("KILL", "TYPE", "x"),
    ("KILL", "TYPE", "pubsub"), ("KILL", "USER", "nosuch"), ("KILL", "SKIPME", "maybe"), ("KILL", "ID"), ("KILL", "ADDR", "1:1", "SKIPME", "yes"), ("KILL", "LADDR", "1:1"), ("KILL", "MAXAGE", "100000"),
    ("KILL", "MAXAGE", "x"), ("KILL", "MAXAGE", "0"), ("KILL", "FOO", "1"), ("KILL", "NAME", "nosuch"), ("KILL", "ID", "999998", "ID", "999999"), ("KILL", "ID", "999998", "TYPE", "normal"),
    ("REPLY",), ("REPLY", "x"), ("REPLY", "on"), ("NO-EVICT", "x"), ("NO-EVICT", "ON"), ("NO-EVICT", "off"), ("GETREDIR",), ("TRACKINGINFO",), ("GETREDIR", "x"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", [2, 3])
def test_words(alone, kind, protocol):
    server, proxy = alone(kind)
    with server.connect(protocol=protocol) as one, proxy.connect(protocol=protocol) as other:
        for words in WORDS:
            assert other.raw("CLIENT", *words) == one.raw("CLIENT", *words), words


def test_capabilities(alone):
    """Told, shown and of no consequence: whoever would redirect, here nobody does."""
    said = []
    for endpoint in alone("valkey-9.1"):
        with endpoint.connect() as c:
            answers = [c.raw("CLIENT", "CAPA", *words) for words in (("nonsense",), (), ("x", "REDIRECT"))]
            c.call("RESET")
            said.append((answers, rows(c.call("CLIENT", "INFO"))[0]["capa"]))
    assert said[0] == said[1] and said[0][1] == "r"


def test_list_over_workers(alone):
    _, proxy = alone("redis-7.0")
    clients = connect_many(proxy, 12)
    for i, c in enumerate(clients):
        c.call("CLIENT", "SETNAME", "c%d" % i)
        if i % 3 == 0:
            c.call("SUBSCRIBE", "ch")
    with proxy.connect(protocol=3) as asker:
        found = [r for r in rows(asker.call("CLIENT", "LIST")) if r["name"].startswith("c")]
        assert [r["name"] for r in found] == ["c%d" % i for i in range(12)]
        assert sorted(int(r["id"]) for r in found) == [int(r["id"]) for r in found]
        subscribed = rows(asker.call("CLIENT", "LIST", "TYPE", "pubsub"))
        assert [r["name"] for r in subscribed] == ["c0", "c3", "c6", "c9"] and all(r["flags"] == "P" for r in subscribed)
        ids = [r["id"] for r in found][2:5]
        assert [r["id"] for r in rows(asker.call("CLIENT", "LIST", "ID", *reversed(ids), 999999))] == ids
        # in its place among other replies
        asker.send_raw(b"".join(encode(x) for x in [("ECHO", "a"), ("CLIENT", "LIST"), ("ECHO", "b")]))
        assert asker.read() == b"a" and b"name=c11" in asker.read() and asker.read() == b"b"
    for c in clients:
        c.close()


def is_gone(client):
    try:
        client.send("PING")
        client.read_any(10)
        return False
    except (Disconnected, ConnectionResetError, BrokenPipeError):
        return True


def test_kill_over_workers(alone):
    _, proxy = alone("valkey-9.1")
    clients = connect_many(proxy, 12)
    addrs = ["127.0.0.1:%d" % c.sock.getsockname()[1] for c in clients]
    ids = [c.call("CLIENT", "ID") for c in clients]
    with proxy.connect() as killer:
        me = killer.call("CLIENT", "ID")
        assert killer.call("CLIENT", "KILL", addrs[0]) == b"OK"
        assert killer.try_call("CLIENT", "KILL", addrs[0]) == RespError("ERR No such client")
        assert killer.call("CLIENT", "KILL", "ID", ids[1]) == 1
        assert killer.call("CLIENT", "KILL", "ID", ids[2], ids[3], 999999) == 2
        assert killer.call("CLIENT", "KILL", "ADDR", addrs[4], "TYPE", "normal") == 1
        assert killer.call("CLIENT", "KILL", "ADDR", addrs[5], "TYPE", "pubsub") == 0
        clients[6].call("SUBSCRIBE", "ch")
        assert killer.call("CLIENT", "KILL", "TYPE", "pubsub") == 1
        clients[7].call("CLIENT", "SETNAME", "seven")
        assert killer.call("CLIENT", "KILL", "NAME", "seven", "USER", "default") == 1
        assert killer.call("CLIENT", "KILL", "ID", me) == 0  # skipped unless it says so
        for i in (0, 1, 2, 3, 4, 6, 7):
            assert is_gone(clients[i]), i
        for i in (5, 8, 9, 10, 11):
            assert clients[i].call("PING") == b"PONG"
        assert killer.call("CLIENT", "KILL", "LADDR", "127.0.0.1:%d" % proxy.port, "SKIPME", "no") >= 6
        assert is_gone(killer)
    assert all(is_gone(c) for c in clients)
    with proxy.connect() as c:  # itself by its address: the answer comes before the end
        assert c.call("CLIENT", "KILL", "127.0.0.1:%d" % c.sock.getsockname()[1]) == b"OK"
        assert is_gone(c)


@pytest.mark.parametrize("protocol", [2, 3])
def test_reply(alone, protocol):
    """OFF and SKIP keep back replies, not effects; also of what is answered later and of errors."""
    server, proxy = alone("redis-7.0")
    calls = [("SET", "k", 1), ("CLIENT", "REPLY", "SKIP"), ("INCR", "k"), ("GET", "k"), ("CLIENT", "REPLY", "SKIP"), ("NOSUCH",), ("GET", "k"), ("CLIENT", "REPLY", "OFF"), ("INCR", "k"),
             ("PING",), ("GET",), ("CLIENT", "LIST"), ("CLIENT", "REPLY", "SKIP"), ("INCR", "k"), ("CLIENT", "REPLY", "ON"), ("GET", "k"), ("CLIENT", "REPLY", "SKIP"), ("CLIENT", "REPLY", "ON"), ("PING",)]
    said = []
    for endpoint in (server, proxy):
        with endpoint.connect(protocol=protocol) as c:
            c.send_raw(b"".join(encode(x) for x in calls) + encode(("ECHO", "end")))
            data = b""
            while not data.endswith(b"$3\r\nend\r\n"):
                data += c.sock.recv(65536)
            said.append(data)
    assert said[0] == said[1]


def stream(endpoint, protocol, calls):
    """All the bytes that the calls are answered with."""
    with endpoint.connect(protocol=protocol) as c:
        c.send_raw(b"".join(encode(x) for x in calls) + encode(("CLIENT", "REPLY", "ON")) + encode(("ECHO", "end")))
        data = b""
        while not data.endswith(b"+OK\r\n$3\r\nend\r\n"):
            data += c.sock.recv(65536)
        return re.sub(rb"id\r\n:\d+", b"id\r\n:0", data)


IN_MULTI = [
    [("CLIENT", "REPLY", "OFF"), ("GET", "k"), ("PING",)], [("GET", "k"), ("CLIENT", "REPLY", "OFF"), ("PING",), ("CLIENT", "REPLY", "ON"), ("GET", "k")],
    [("CLIENT", "REPLY", "SKIP"), ("GET", "k"), ("PING",)], [("CLIENT", "REPLY", "ON"), ("CLIENT", "REPLY", "x")], [("MONITOR",), ("GET", "k")], [("MONITOR",)],
    [("PING",), ("CLIENT", "KILL", "ID", 999999), ("CLIENT", "LIST", "ID", 999999), ("GET", "k"), ("CLIENT", "UNBLOCK", 999999), ("CLIENT", "GETNAME")],
    [("CLIENT", "LIST", "ID", 999999)], [("CLIENT", "KILL", "1:1"), ("CLIENT", "NO-EVICT", "on"), ("CLIENT", "GETREDIR")],
    [("HGETALL", "h"), ("CLIENT", "TRACKINGINFO"), ("HELLO", 3), ("HGETALL", "h"), ("CLIENT", "TRACKINGINFO"), ("HELLO", 2), ("HGETALL", "h")],
]


@pytest.mark.parametrize("kind", ["redis-7.0", "valkey-9.1"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_inside_multi(alone, kind, protocol):
    """Byte by byte: what CLIENT REPLY leaves out of EXEC's array, what other workers are asked for, what changes the protocol in the middle of it."""
    server, proxy = alone(kind)
    server.call("SET", "k", "v")
    server.call("HSET", "h", "f", "v")
    for inside in IN_MULTI if kind == "redis-7.0" else IN_MULTI[:-1]:  # Valkey 9 names its modules in HELLO
        block = [("MULTI",)] + inside + [("EXEC",), ("PING",), ("GET", "k")]
        for calls in (block, [("CLIENT", "REPLY", "OFF")] + block, [("CLIENT", "REPLY", "SKIP")] + block):
            assert stream(proxy, protocol, calls) == stream(server, protocol, calls), calls


def test_kill_inside_multi(alone):
    _, proxy = alone("redis-7.0")
    others = connect_many(proxy, 6)
    with proxy.connect() as c:
        ids = [o.call("CLIENT", "ID") for o in others]
        c.pipeline([("MULTI",), ("PING",)] + [("CLIENT", "KILL", "ID", i) for i in ids] + [("SET", "k", "v")])
        assert c.call("EXEC") == [b"PONG"] + [1] * 6 + [b"OK"]
        assert all(is_gone(o) for o in others)
        c.pipeline([("MULTI",), ("CLIENT", "KILL", "ID", c.call("CLIENT", "ID"), "SKIPME", "no"), ("PING",)])
        assert c.call("EXEC") == [1, b"PONG"]
        assert is_gone(c)


# ---- MONITOR

SHOWN = [("SET", "key", b"\x00\x07\"q\"\\ \xff\r\n\t"), ("get", "key"), ("PING",), ("ECHO", ""), ("CLIENT", "GETNAME"), ("MGET", "a", "b"), ("AUTH", "secret1"), ("AUTH", "default", "secret2"),
         ("HELLO", 3, "AUTH", "default", "secret3", "SETNAME", "me"), ("GET",), ("NOSUCH", "x"), ("CLIENT", "LIST"), ("PUBLISH", "a", "b"), ("EVAL", "return 1", 0), ("FLUSHALL",), ("FLUSHDB", "async"),
         ("MULTI",), ("SET", "key", "in"), ("CLIENT", "GETNAME"), ("NOSUCH",), ("GET", "key"), ("exec",), ("MULTI",), ("SET", "key", "in"), ("CLIENT", "GETNAME"), ("Get", "key"), ("exec",),
         ("MULTI",), ("GET", "key"), ("DISCARD",), ("EXEC",), ("WATCH", "key"), ("MULTI",), ("PING",), ("EXEC",), ("PING", "end")]


def masked(line):
    assert re.match(rb"\d{10}\.\d{6} \[0 127\.0\.0\.1:\d+\] ", line), line
    return re.sub(rb"^\S+ \[0 \S+\] ", b"", line)


@pytest.mark.parametrize("kind", ["redis-7.0", "valkey-9.1"])
def test_monitor(alone, kind):
    server, proxy = alone(kind)
    said = []
    for endpoint in (server, proxy):
        monitors = connect_many(endpoint, 4)
        for m in monitors:
            assert m.call("MONITOR") == b"OK"
        wait_until("all monitor", lambda: sum(r["flags"] == "O" for r in rows(endpoint.call("CLIENT", "LIST"))) >= 4)
        with endpoint.connect() as c:
            source = b"[0 127.0.0.1:%d]" % c.sock.getsockname()[1]
            for command in SHOWN:
                c.try_call(*command)
        feeds = []
        for m in monitors:
            lines = []
            while not lines or not lines[-1].endswith(b'"PING" "end"'):
                line = m.read_any()
                if source in line:
                    lines.append(line)
            feeds.append([masked(line) for line in lines])
        assert all(f == feeds[0] for f in feeds) and b"secret" not in b"".join(feeds[0])
        m = monitors[0]
        m.send_raw(encode(("MONITOR",)) + encode(("GET", "key")) + encode(("SET", "key", "v")))
        barred = [m.read_any() for _ in range(2)]
        m.send("RESET")
        reply = m.read_any()
        while reply != b"RESET":  # what the others gave meanwhile
            reply = m.read_any()
        said.append((feeds[0], [str(b) for b in barred]))
        assert m.call("GET", "key") is not None
        for m in monitors:
            m.close()
    assert said[0] == said[1]


def test_monitor_costs_nothing_when_it_has_ended(alone):
    _, proxy = alone("redis-7.0")
    with proxy.connect() as m:
        m.call("MONITOR")
        m.close()
    wait_until("it is gone", lambda: all("O" not in r["flags"] for r in rows(proxy.call("CLIENT", "LIST"))))
    assert proxy.call("PING") == b"PONG"
