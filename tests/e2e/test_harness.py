"""The harness itself: five kinds of servers, comparing, and the client."""
import time

import pytest
from harness import KINDS, Client, RespError, diff, key_slot
from harness.crossfade import config_text
from harness.resp import Parser, Push, _Incomplete

FILL = [
    ("SET", "s", b"\0\r\n\xff", "PX", 3600000),
    ("RPUSH", "l", "a", "b", "a"),
    ("SADD", "set", *range(600)),
    ("HSET", "h", "f", "v", "g", "w"),
    ("ZADD", "z", "1.5", "a", "inf", "b", "0.69999999999999996", "c"),
    ("XADD", "x", "1-1", "f", "v"),
    ("XADD", "x", "2-1", "f", "w"),
    ("XGROUP", "CREATE", "x", "g", "0"),
    ("XREADGROUP", "GROUP", "g", "c1", "COUNT", "1", "STREAMS", "x", ">"),
]


def fill(server):
    for command in FILL:
        server.call(*command)
    server.call("PEXPIREAT", "s", "1999999999999")


@pytest.mark.parametrize("kind", KINDS)
def test_standalone(standalone, kind):
    server = standalone(kind)
    fill(server)
    digest = server.digest()
    assert digest[b"s"] == ("string", b"\0\r\n\xff", 1999999999999)
    assert digest[b"set"][1] == frozenset(b"%d" % i for i in range(600))
    assert digest[b"z"][1] == {b"a": 1.5, b"b": float("inf"), b"c": 0.7}
    assert digest[b"x"][1]["groups"][b"g"]["pending"][b"1-1"][0] == b"c1"
    assert server.dbsize() == 6 == len(digest)
    with server.connect(protocol=3) as c:
        assert c.hello[b"proto"] == 3
        assert c.call("HGETALL", "h") == {b"f": b"v", b"g": b"w"}
        assert c.raw("GET", "none") == b"_\r\n"
    server.restart()
    assert server.dbsize() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_cluster(cluster, kind):
    started = time.monotonic()
    c = cluster(kind)
    print("%s in %.2f s" % (kind, time.monotonic() - started))
    fill(c)
    for i in range(300):
        c.call("SET", "k%d" % i, i)
    assert c.dbsize() == 306 == len(list(c.keys()))
    assert c.pipeline([("GET", "k%d" % i) for i in range(300)]) == [b"%d" % i for i in range(300)]
    assert len(c.primaries()) == 3
    slot = key_slot("k7")
    dest = next(n for n in c.primaries() if n is not c.slot_map()[slot])
    stale = list(c.slot_map())
    c.move_slot(slot, dest)
    c._map = stale  # as one that has not heard of it: MOVED is followed
    assert c.call("GET", "k7") == b"7"
    assert c.node_for("k7") is dest
    c.flushall()
    assert c.digest() == {}


def test_replicas_and_failover(cluster):
    c = cluster("valkey-9.1", replicas=1)
    first = c.primaries()[0]
    new = c.failover(first)
    assert new in c.primaries() and first not in c.primaries()


def test_killed_primary_is_replaced(cluster):
    c = cluster("redis-7.0", replicas=1, conf={"cluster-node-timeout": 1000})
    victim = c.node_for("k")
    heir = c.replicas_of(victim)[0]
    c.call("SET", "k", "v")
    victim.call("WAIT", 1, 1000)
    victim.kill()
    others = [n for n in c.nodes if n is not victim]
    deadline = time.monotonic() + 20
    while not all(c._sees_primary(n, heir) for n in others):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    c._map = None
    assert c.call("GET", "k") == b"v"


def test_two_sides_compare(standalone, cluster):
    a, b = standalone("redis-7.0"), cluster("valkey-9.1")
    fill(a)
    fill(b)
    assert diff(a, b) == []
    b.call("PEXPIREAT", "s", "1999999999990")
    assert diff(a, b, ttl_tolerance_ms=10) == []
    b.call("HSET", "h", "f", "other")
    a.call("SREM", "set", 5)
    b.call("DEL", "l")
    b.call("SET", "extra", 1)
    b.call("XACK", "x", "g", "1-1")
    text = "\n".join(diff(a, b))
    for part in ("b's': expiry", "b'h': hash at b'f'", "b'set': set", "b'l': only left (list)",
                 "b'extra': only right (string)", "b'x': stream"):
        assert part in text, text
    assert len(text.splitlines()) == 6


@pytest.mark.parametrize("kind", ["redis-8.0", "valkey-9.1"])
def test_field_expiry_is_in_the_digest(standalone, kind):
    server = standalone(kind)
    server.call("HSET", "h", "f", "v", "g", "w")
    server.call("HPEXPIREAT", "h", "1999999999999", "FIELDS", 1, "f")
    assert server.digest()[b"h"][1] == {b"f": (b"v", 1999999999999), b"g": b"w"}


def test_pushes_errors_and_timeouts(standalone):
    server = standalone("redis-7.0")
    with server.connect(protocol=3) as c:
        c.call("CLIENT", "TRACKING", "ON", "BCAST")
        server.call("SET", "k", 1)
        push = c.read_push()
        assert isinstance(push, Push) and push == [b"invalidate", [b"k"]]
        with pytest.raises(TimeoutError):
            c.read_push(timeout=0.05)
        assert isinstance(c.try_call("INCR"), RespError)
        with pytest.raises(RespError, match="WRONGTYPE"):
            c.call("LPUSH", "k", 1)
        replies = c.pipeline([("GET", "k"), ("NOSUCH",), ("GET", "k")])
        assert replies[0] == replies[2] == b"1" and replies[1].code == "ERR"
    with pytest.raises(OSError):
        Client(1, timeout=1)


def test_unix_socket(standalone, tmp_path):
    path = str(tmp_path / "sock")
    server = standalone("valkey-8.1", conf={"unixsocket": path})
    with Client(path=path) as c:
        c.call("SET", "k", "v")
    assert server.call("GET", "k") == b"v"


def test_parser_takes_any_split():
    stream = (b"*3\r\n$1\r\na\r\n:-5\r\n*-1\r\n%1\r\n+k\r\n,1.5\r\n>2\r\n+x\r\n_\r\n~2\r\n#t\r\n#f\r\n"
              b"=5\r\ntxt:a\r\n!5\r\nERR x\r\n(123456789012345678901\r\n|1\r\n+a\r\n:1\r\n$-1\r\n")
    wanted = [[b"a", -5, None], {b"k": 1.5}, Push([b"x", None]), {True, False}, b"a", RespError("ERR x"),
              123456789012345678901, None]
    for size in (1, 2, 3, 7, len(stream)):
        parser, got = Parser(), []
        for at in range(0, len(stream), size):
            parser.feed(stream[at:at + size])
            while True:
                try:
                    got.append(parser.get())
                except _Incomplete:
                    break
        assert got == wanted


def test_config_text():
    assert config_text({"port": 1, "none": None, "source-nodes": ["a:1", "b:2"], "pass": 'a "b"\\', "flag": True}) == \
        'port 1\nsource-nodes a:1 b:2\npass "a \\"b\\"\\\\"\nflag yes\n'
