"""CLIENT PAUSE holds what clients send, on every worker, and what is held goes on behind it, unchanged: also behind a flip."""
import pytest
from harness.process import wait_until
from harness.resp import Disconnected, encode


@pytest.fixture(scope="module")
def pair(servers):
    source, target = servers.standalone("redis-7.0"), servers.standalone("valkey-9.1")
    proxy = servers.crossfade(source, target, config={"workers": 2, "cutover-max-pause": 20000})
    proxy.ctl("start")
    proxy.wait("synced")
    return source, target, proxy


WORDS = [("PAUSE",), ("PAUSE", "x"), ("PAUSE", -1), ("PAUSE", 1.5), ("PAUSE", 1, "x"), ("PAUSE", "x", "x"), ("PAUSE", 1, "WRITE", "x"), ("UNPAUSE",), ("UNPAUSE", "x"), ("PAUSE", 0), ("PAUSE", 1, "all"),
         ("PAUSE", 1, "Write"), ("PAUSE", "99999999999999999999")]


def test_words(pair):
    source, _, proxy = pair
    with source.connect() as one, proxy.connect() as other:
        for words in WORDS:
            assert other.raw("CLIENT", *words) == one.raw("CLIENT", *words), words
        one.raw("CLIENT", "UNPAUSE"), other.raw("CLIENT", "UNPAUSE")


def arrived(other, client_id, command):
    """The proxy has looked at it."""
    return b" cmd=%s " % command in other.call("CLIENT", "LIST", "ID", client_id)


HELD = [  # what waits; what CLIENT LIST calls it; what has come before it
    ([("SET", "k", "new"), ("GET", "k")], b"set", 0), ([("GET", "k"), ("EVAL", "return redis.call('SET', 'k', 'new')", 0), ("ECHO", "x")], b"eval", 1),
    ([("MULTI",), ("GET", "k"), ("SET", "k", "new"), ("EXEC",)], b"set", 2), ([("ECHO", "a"), ("PUBLISH", "ch", "m")], b"publish", 1), ([("CLIENT", "REPLY", "SKIP"), ("SET", "k", "new"), ("GET", "k")], b"set", 0),
]


@pytest.mark.parametrize("n", range(len(HELD)))
def test_writes_wait(pair, n):
    source, _, proxy = pair
    calls, name, before = HELD[n]
    clients = [proxy.connect() for _ in range(4)]
    with proxy.connect() as other:
        source.call("SET", "k", "old")
        assert other.call("CLIENT", "PAUSE", 100000, "WRITE") == b"OK"
        try:
            for c in clients:
                number = c.call("CLIENT", "ID")
                c.send_raw(b"".join(encode(x) for x in calls))
                wait_until("it has come", lambda: arrived(other, number, name))
                for _ in range(before):
                    c.read_any()
            assert other.call("GET", "k") == b"old"
            if n == 2:
                assert other.raw("PING") == b"+PONG\r\n"
        finally:
            assert other.call("CLIENT", "UNPAUSE") == b"OK"
        for c in clients:
            c.send("ECHO", "end")
            while c.read_any() != b"end":
                pass
        if name != b"publish":
            assert other.call("GET", "k") == b"new"
    for c in clients:
        c.close()


def test_exec_waits_for_what_it_writes(pair):
    _, _, proxy = pair
    with proxy.connect() as c, proxy.connect() as reads, proxy.connect() as other:
        proxy.call("SET", "k", "old")
        c.pipeline([("MULTI",), ("SET", "k", "new")])
        reads.pipeline([("MULTI",), ("GET", "k")])
        other.call("CLIENT", "PAUSE", 100000, "WRITE")
        c.send("EXEC")
        assert reads.call("EXEC") == [b"old"]
        assert other.call("GET", "k") == b"old"
        other.call("CLIENT", "UNPAUSE")
        assert c.read() == [b"OK"]


@pytest.mark.parametrize("flush", ["FLUSHALL", "FLUSHDB"])
def test_a_flush_waits(pair, flush):
    """Its client, and nobody else; then it is done on both sides."""
    source, target, proxy = pair
    with proxy.connect() as c, proxy.connect() as other:
        other.call("SET", "k", "old")
        other.call("CLIENT", "PAUSE", 100000, "WRITE")
        number = c.call("CLIENT", "ID")
        c.send_raw(encode((flush,)) + encode(("GET", "k")))
        wait_until("it has come", lambda: arrived(other, number, flush.lower().encode()))
        assert other.call("GET", "k") == source.call("GET", "k") == b"old"
        assert other.call("CLIENT", "UNPAUSE") == b"OK"
        assert c.read(20) == b"OK" and c.read(20) is None
    proxy.wait("dirty=0,lag=0")
    assert source.dbsize() == target.dbsize() == 0


def test_all_wait_until_the_time_is_over(pair):
    _, _, proxy = pair
    clients = [proxy.connect() for _ in range(4)]
    with proxy.connect() as other:
        other.call("CLIENT", "PAUSE", 1, "WRITE")
        assert other.call("CLIENT", "PAUSE", 300) == b"OK"
        for c in clients:
            c.send("PING")
        assert other.call("CLIENT", "UNPAUSE") == b"OK"  # held itself, as on the servers
        assert [c.read() for c in clients] == [b"PONG"] * 4
    for c in clients:
        c.close()


def test_a_flip_goes_through_a_pause(pair):
    source, target, proxy = pair
    proxy.call("SET", "k", "old")
    proxy.wait("dirty=0,lag=0")
    proxy.ctl("verify")
    with proxy.connect() as c, proxy.connect() as other:
        number = c.call("CLIENT", "ID")
        other.call("CLIENT", "PAUSE", 100000, "WRITE")
        c.send("SET", "k", "new")
        wait_until("it has come", lambda: arrived(other, number, b"set"))
        proxy.ctl("cutover", "--yes", "--wait", 30)
        assert target.call("GET", "k") == source.call("GET", "k") == b"old"
        other.call("CLIENT", "UNPAUSE")
        assert c.read(20) == b"OK"
        assert target.call("GET", "k") == b"new"
        other.call("CLIENT", "PAUSE", 100000, "ALL")
        c.send("SET", "k", "last")  # ending ends the pause; it is served, or its connection is closed without an answer
        proxy.term()
        try:
            assert c.read(20) == b"OK"
        except Disconnected:
            pass
