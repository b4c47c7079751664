"""Replies that wait for those behind them, so that a pipeline is answered by few writes: each in its order, none kept back for long, and whoever goes meanwhile is let go.

They do so only while many send at a high rate; CROSSFADE_FAULT=linger has them always do it."""
import pytest
from harness import RespError, diff
from harness.crossfade import built_with_faults
from harness.process import wait_until

pytestmark = pytest.mark.skipif(not built_with_faults(), reason="needs a build with --enable-faults")


@pytest.fixture
def side(servers):
    source = servers.cluster("redis-7.0", shards=3)
    return source, servers.crossfade(source, config={"workers": 2}, env={"CROSSFADE_FAULT": "linger"})


def test_order(side):
    _, proxy = side
    clients = [proxy.connect(protocol=2 + i % 2) for i in range(6)]
    for n in (1, 2, 16, 300):
        for who, c in enumerate(clients):
            for i in range(n):
                c.send("SET", "k:%d:%d" % (who, i), "v%d" % i)
                c.send("GET", "k:%d:%d" % (who, i))
            c.send("PING")
            c.send("NONSENSE")
        for c in clients:
            assert [c.read() for _ in range(2 * n + 1)] == [x for i in range(n) for x in (b"OK", b"v%d" % i)] + [b"PONG"]
            assert isinstance(c.read(), RespError)
    for c in clients:
        c.close()


def test_no_answer_waits_for_one_that_is_long_in_coming(side):
    source, proxy = side
    with proxy.connect() as c:
        c.call("SET", "a", "1")
        for node in source.primaries():
            node.call("CLIENT", "PAUSE", 60000, "WRITE")
        c.send("GET", "a")
        c.send("SET", "b", "2")  # its server says nothing for a minute
        c.send("GET", "a")
        assert c.read(timeout=20) == b"1"
        for node in source.primaries():
            node.call("CLIENT", "UNPAUSE")
        assert [c.read(), c.read()] == [b"OK", b"1"]


def test_who_goes_meanwhile(side):
    _, proxy = side
    words = b"".join(b"*2\r\n$3\r\nGET\r\n$%d\r\nkey:%d\r\n" % (len(str(i)) + 4, i) for i in range(40))
    for i in range(200):
        with proxy.connect() as c:
            c.send_raw(words)
            if i % 2:
                c.read()
            if i % 4 == 3:
                proxy.client.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    wait_until("none is left but ours", lambda: len(proxy.client.call("CLIENT", "LIST").splitlines()) == 1, 20)
    for _ in range(5):
        proxy.connect().send_raw(words)
    proxy.term()


@pytest.mark.parametrize("ack", ["source", "both"])
def test_effects(servers, ack):
    """They wait, too: there, in part, back, and large values held still; both sides are equal in the end."""
    source, target = servers.cluster("redis-7.0", shards=3), servers.cluster("valkey-9.1", shards=3)
    proxy = servers.crossfade(source, target, config={"mirror-ack": ack, "large-value": "64kb", "workers": 2}, env={"CROSSFADE_FAULT": "linger"})
    proxy.pipeline([["SET", "s:%d" % i, "v" * (i % 50)] for i in range(500)] + [["RPUSH", "l:%d" % i, *["x" * 900] * 200] for i in range(5)])
    clients = [proxy.connect() for _ in range(5)]
    counted = 0

    def write():
        nonlocal counted
        counted += 1
        for who, c in enumerate(clients):
            for i in range(40):
                c.send("INCR", "n:%d" % i)
                c.send("SET", "s:%d" % (who * 40 + i), "w%d" % counted)
            c.send("LPUSH", "l:%d" % who, counted)
        for c in clients:
            assert not [r for r in (c.read() for _ in range(81)) if isinstance(r, RespError)]
    proxy.ctl("start")
    write()
    proxy.wait("synced")
    for order in (("cutover", "--slots", "0-8000"), ("cutover",), ("rollback", "--slots", "100-9000"), ("rollback",)):
        write()
        proxy.wait("dirty=0,lag=0")
        proxy.ctl(*order, "--yes", "--force")
        write()
    proxy.wait("dirty=0,lag=0")
    assert proxy.client.call("GET", "n:7") == b"%d" % (counted * len(clients))
    assert diff(source, target) == []
    for c in clients:
        c.close()
