"""Blocking commands: what a client gets is what the server itself sends, in the order in which clients came; they survive what happens to the servers behind."""
import re

import pytest
from harness import RespError
from harness.process import wait_until
from harness.resp import Disconnected, Parser, encode

SIDES = {"redis-cluster": ("redis-7.0", True), "valkey-alone": ("valkey-9.1", False)}


class Side:
    """A server or cluster, and a proxy in front of it."""

    def __init__(self, servers, name):
        self.kind, self.clustered = SIDES[name]
        self.server = servers.cluster(self.kind) if self.clustered else servers.standalone(self.kind)
        self.proxy = servers.crossfade(self.server, config={"workers": 2})

    def node(self, key="{t}"):
        return self.server.node_for(key) if self.clustered else self.server

    def both(self):
        """How to connect to the server itself, and through the proxy."""
        return [("the server", self.node()), ("the proxy", self.proxy)]


@pytest.fixture(scope="module", params=list(SIDES))
def all_sides(request, servers):
    return Side(servers, request.param)


@pytest.fixture
def side(all_sides):
    all_sides.server.flushall()
    all_sides.proxy.drop()
    return all_sides


@pytest.fixture(scope="module")
def alone(servers):
    return Side(servers, "valkey-alone")


def blocked(peer):
    return int(re.search(rb"blocked_clients:(\d+)", peer.call("INFO", "clients")).group(1))


def begin(client, *command):
    client.parser = Parser()
    client.send(*command)


def finish(client, timeout=20):
    """The bytes of the reply."""
    client.read_any(timeout)
    return bytes(client.parser.buf[:client.parser.pos])


def park(peer, client, *command):
    """Sends it and waits until it waits."""
    before = blocked(peer)
    begin(client, *command)
    wait_until("%r is blocked" % (command[:2],), lambda: blocked(peer) == before + 1, 20, 0.005)


# ---- bytes

WOKEN = [  # who waits; what wakes him
    (("BLPOP", "{t}a", 0), ("RPUSH", "{t}a", "x", "y")),
    (("BRPOP", "{t}a", "{t}b", 0), ("RPUSH", "{t}b", "x", "y")),
    (("BLMOVE", "{t}a", "{t}d", "LEFT", "RIGHT", 0), ("RPUSH", "{t}a", "x", "y")),
    (("BLMOVE", "{t}a", "{t}a", "LEFT", "RIGHT", 0), ("RPUSH", "{t}a", "x", "y")),
    (("BRPOPLPUSH", "{t}a", "{t}d", 0), ("LPUSH", "{t}a", "x", "y")),
    (("BLMPOP", 0, 2, "{t}a", "{t}b", "RIGHT", "COUNT", 2), ("RPUSH", "{t}b", "x", "y", "z")),
    (("BZPOPMIN", "{t}z", "{t}y", 0), ("ZADD", "{t}y", "1.5", "m", "inf", "n")),
    (("BZPOPMAX", "{t}z", 0), ("ZADD", "{t}z", "1.5", "m", "3", "n")),
    (("BZMPOP", 0, 1, "{t}z", "MIN", "COUNT", 5), ("ZADD", "{t}z", "1.5", "m", "3", "n")),
    (("XREAD", "BLOCK", 0, "STREAMS", "{t}x", "$"), ("XADD", "{t}x", "5-5", "f", "v")),
    (("XREAD", "COUNT", 1, "BLOCK", 0, "STREAMS", "{t}x", "{t}w", "9-9", "$"), ("XADD", "{t}w", "5-5", "f", "v")),
    (("XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "BLOCK", 0, "STREAMS", "{t}x", ">"), ("XADD", "{t}x", "5-5", "f", "v")),
    (("XREADGROUP", "GROUP", "g", "c", "BLOCK", 0, "NOACK", "STREAMS", "{t}x", ">"), ("XADD", "{t}x", "5-5", "f", "v")),
    (("BLPOP", "{t}a", 0), ("RENAME", "{t}list", "{t}a")),
    (("BLPOP", "{t}a", 0), ("COPY", "{t}list", "{t}a")),
    (("BLPOP", "{t}a", 0), ("SORT", "{t}list", "ALPHA", "STORE", "{t}a")),
    (("BLPOP", "{t}a", 0), ("LMOVE", "{t}list", "{t}a", "LEFT", "LEFT")),
    (("BLPOP", "{t}a", 0), ("EVAL", "return redis.call('RPUSH', KEYS[1], 'x')", 1, "{t}a")),
    (("BZPOPMIN", "{t}z", 0), ("ZUNIONSTORE", "{t}z", 1, "{t}zset")),
    (("BLMOVE", "{t}a", "{t}zset", "LEFT", "RIGHT", 0), ("RPUSH", "{t}a", "x")),  # the destination is of a wrong type
]
PREPARED = [("RPUSH", "{t}list", "l1", "l2"), ("ZADD", "{t}zset", 1, "m"), ("XADD", "{t}x", "1-1", "f", "v"), ("XGROUP", "CREATE", "{t}x", "g", "$")]
LEFT = [("LRANGE", "{t}a", 0, -1), ("LRANGE", "{t}b", 0, -1), ("LRANGE", "{t}d", 0, -1), ("ZRANGE", "{t}z", 0, -1), ("ZRANGE", "{t}y", 0, -1), ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "{t}x", 0)]


def woken(peer, server, protocol):
    seen = []
    with peer.connect(protocol=protocol) as waiting, peer.connect() as other:
        for waits, wakes in WOKEN:
            server.flushall()
            for command in PREPARED:
                other.call(*command)
            park(peer, waiting, *waits)
            seen.append((waits, wakes, other.raw(*wakes), finish(waiting), [other.raw(*c) for c in LEFT]))
    return seen


@pytest.mark.parametrize("protocol", [2, 3])
def test_woken(side, protocol):
    for direct, through in zip(*(woken(peer, side.server, protocol) for _, peer in side.both())):
        assert through == direct


CALLS = [  # that do not wait long: served at once, time-outs, errors
    ("RPUSH", "{t}l", "a", "b", "c", "d", "e"), ("BLPOP", "{t}none", "{t}l", 0), ("BRPOP", "{t}l", "{t}str", 0), ("BLMOVE", "{t}l", "{t}d", "LEFT", "LEFT", 0),
    ("BRPOPLPUSH", "{t}l", "{t}d", 0), ("BLMPOP", 0, 2, "{t}none", "{t}d", "LEFT", "COUNT", 9), ("BLMPOP", 0, 1, "{t}l", "LEFT"),
    ("ZADD", "{t}z", 1, "a", 2, "b", 3, "c", 4, "d"), ("BZPOPMIN", "{t}none", "{t}z", 0), ("BZPOPMAX", "{t}z", 0), ("BZMPOP", 0, 1, "{t}z", "MAX"),
    ("XADD", "{t}x", "1-1", "f", "v"), ("XGROUP", "CREATE", "{t}x", "g", 0), ("XREAD", "BLOCK", 0, "STREAMS", "{t}x", 0), ("XREADGROUP", "GROUP", "g", "c", "BLOCK", 0, "STREAMS", "{t}x", ">"),
    ("XREADGROUP", "GROUP", "g", "c", "BLOCK", 0, "STREAMS", "{t}x", 0), ("SET", "{t}str", "x"),
    ("BLPOP", "{t}none", "0.01"), ("BRPOP", "{t}none", "{t}nil", "0.01"), ("BLMOVE", "{t}none", "{t}str", "LEFT", "LEFT", "0.01"), ("BRPOPLPUSH", "{t}none", "{t}d", "0.01"),
    ("BLMPOP", "0.01", 1, "{t}none", "LEFT"), ("BZPOPMIN", "{t}none", "0.01"), ("BZPOPMAX", "{t}none", "0.01"), ("BZMPOP", "0.01", 1, "{t}none", "MIN"), ("XREAD", "BLOCK", 10, "STREAMS", "{t}x", "$"),
    ("XREAD", "BLOCK", 10, "STREAMS", "{t}none", 0), ("XREADGROUP", "GROUP", "g", "c", "BLOCK", 10, "STREAMS", "{t}x", ">"), ("BLPOP", "{t}none", "-0.01"), ("BLPOP", "{t}none", "0x0.01"),
    ("BLPOP", "{t}k", "abc"), ("BLPOP", "{t}k", -1), ("BLPOP", "{t}k", "inf"), ("BLPOP", "{t}k", "-inf"), ("BLPOP", "{t}k", "nan"), ("BLPOP", "{t}k", "1e400"), ("BLPOP", "{t}k", ""), ("BLPOP", "{t}k", " 1"),
    ("BLPOP", "{t}k", "9223372036854776"), ("BLPOP", "{t}str", "0.01"), ("BLPOP", "{t}none", "{t}str", "0.01"), ("BLPOP", "{t}str", "abc"), ("BRPOPLPUSH", "{t}str", "{t}k", "abc"), ("BLMOVE", "{t}str", "{t}k", "LEFT", "UP", "abc"),
    ("BLMOVE", "{t}k", "{t}str", "LEFT", "LEFT", "abc"), ("BLMPOP", "abc", 1, "{t}k", "LEFT"), ("BLMPOP", "0.01", 0, "{t}k", "LEFT"), ("BLMPOP", "0.01", 1, "{t}k", "UP"), ("BLMPOP", "0.01", 5, "{t}k", "LEFT"),
    ("BLMPOP", "0.01", 1, "{t}k", "LEFT", "COUNT", 0), ("BZMPOP", "0.01", 1, "{t}k", "MIN", "COUNT", "x"), ("BZPOPMIN", "{t}str", "0.01"), ("BZPOPMIN", "{t}k"), ("XREAD", "BLOCK", "abc", "STREAMS", "{t}k", 0),
    ("XREAD", "BLOCK", -1, "STREAMS", "{t}k", 0), ("XREAD", "COUNT", "x", "BLOCK", "abc", "STREAMS", "{t}k", 0), ("XREAD", "BLOCK", 0, "STREAMS", "{t}k"), ("XREAD", "BLOCK", 1, "FOO", "STREAMS", "{t}k", 0),
    ("XREAD", "BLOCK", 1, "STREAMS", "{t}str", 0), ("XREAD", "BLOCK", 1, "STREAMS", "{t}str", "$"), ("XREAD", "BLOCK", 0, "STREAMS", "{t}x", "bad"), ("XREAD", "BLOCK", "STREAMS", "{t}k", 0), ("XREAD", "STREAMS", "{t}x", "0"),
    ("XREADGROUP", "GROUP", "g", "c", "BLOCK", 0, "STREAMS", "{t}k", ">"), ("XREADGROUP", "GROUP", "g", "c", "BLOCK", 0, "STREAMS", "{t}x", "$"), ("XREADGROUP", "BLOCK", 1, "STREAMS", "{t}k", ">", "x"),
    ("CLIENT", "UNBLOCK", "x"), ("CLIENT", "UNBLOCK", 1, "FOO"), ("CLIENT", "UNBLOCK", 999999), ("CLIENT", "UNBLOCK", 999999, "ERROR"), ("CLIENT", "UNBLOCK", 999999, "TIMEOUT", "x"),
]


@pytest.mark.parametrize("protocol", [2, 3])
def test_served_at_once_timeouts_and_errors(side, protocol):
    seen = []
    for _, peer in side.both():
        side.server.flushall()
        with peer.connect(protocol=protocol) as client:
            seen.append([(command, client.raw(*command)) for command in CALLS])
    for direct, through in zip(*seen):
        assert through == direct


def test_keys_of_several_slots(side):
    command = ("BLPOP", "one", "two", "three", 0)
    if side.clustered:
        assert side.proxy.client.try_call(*command) == RespError("CROSSSLOT Keys in request don't hash to the same slot")
        return
    with side.proxy.connect() as waiting:
        park(side.proxy, waiting, *command)
        side.proxy.call("RPUSH", "three", "x")
        assert waiting.parser.buf == b"" and finish(waiting) == encode(["three", "x"])


# ---- who waits, and for how long

def test_first_come_first_served(side):
    """Twenty clients on both workers; some wait for a second key, too. A newcomer does not pop past them."""
    clients = [side.proxy.connect() for _ in range(20)]
    for i, client in enumerate(clients):
        keys = ["{t}q", "{t}other"] if i % 3 else ["{t}q"]
        park(side.proxy, client, "BLPOP", *keys, 0)
    with side.proxy.connect() as late:
        replies = late.pipeline([("RPUSH", "{t}q", *range(5))] + [("RPUSH", "{t}q", i) for i in range(5, 20)] + [("BLPOP", "{t}q", "0.05")])
        assert replies[-1] is None, replies
    for i, client in enumerate(clients):
        assert finish(client) == encode(["{t}q", i])
        client.close()
    assert blocked(side.proxy) == 0


def test_a_push_is_popped_before_what_comes_behind_it(side):
    """As on the server: the blocked client has it before the pusher's next command."""
    for _, peer in side.both():
        with peer.connect() as waiting, peer.connect() as other:
            park(peer, waiting, "BLPOP", "{t}q", 0)
            assert other.pipeline([("RPUSH", "{t}q", "x"), ("LLEN", "{t}q"), ("LPOP", "{t}q")]) == [1, 0, None]
            assert finish(waiting) == encode(["{t}q", "x"])


def test_requests_behind_it_wait(side):
    with side.proxy.connect() as client:
        before = blocked(side.proxy)
        client.send_raw(b"".join(encode(c) for c in [("GET", "{t}k"), ("BLPOP", "{t}q", 0), ("SET", "{t}k", "v"), ("PING",)]))
        wait_until("it waits", lambda: blocked(side.proxy) == before + 1, 20, 0.005)
        client.send_raw(encode(("GET", "{t}k")) + encode(("BLPOP", "{t}q", 0))[:9])
        assert client.read() is None
        assert side.proxy.call("GET", "{t}k") is None
        assert side.proxy.call("RPUSH", "{t}q", "a", "b") == 2
        client.send_raw(encode(("BLPOP", "{t}q", 0))[9:] + encode(("PING",)))
        assert [client.read() for _ in range(6)] == [[b"{t}q", b"a"], b"OK", b"PONG", b"v", [b"{t}q", b"b"], b"PONG"]


def test_who_leaves_takes_nothing(side):
    with side.proxy.connect() as second:
        first = side.proxy.connect()
        park(side.proxy, first, "BLPOP", "{t}q", 0)
        park(side.proxy, second, "BLPOP", "{t}q", 0)
        first.close()
        wait_until("the first has left", lambda: blocked(side.proxy) == 1, 20, 0.005)
        side.proxy.call("RPUSH", "{t}q", "x")
        assert finish(second) == encode(["{t}q", "x"])
        assert side.proxy.call("LLEN", "{t}q") == 0


UNBLOCKED = [("BLPOP", "{t}a", "{t}b", 0), ("BLMOVE", "{t}a", "{t}b", "LEFT", "LEFT", 0), ("BLMPOP", 0, 1, "{t}a", "LEFT"), ("BZPOPMAX", "{t}a", 0), ("XREAD", "BLOCK", 0, "STREAMS", "{t}x", "$")]


@pytest.mark.parametrize("protocol", [2, 3])
def test_client_unblock(side, protocol):
    seen = []
    for _, peer in side.both():
        replies = []
        for how in (), ("TIMEOUT",), ("ERROR",):
            for command in UNBLOCKED:
                with peer.connect(protocol=protocol) as waiting, peer.connect() as other:
                    number = waiting.call("CLIENT", "ID")
                    park(peer, waiting, *command)
                    replies.append((how, command, other.raw("CLIENT", "UNBLOCK", number, *how), finish(waiting), other.raw("CLIENT", "UNBLOCK", number)))
        seen.append(replies)
    for direct, through in zip(*seen):
        assert through == direct


def test_wrong_types_do_not_wake(side):
    """A key of a wrong type is waited for all the same, once nothing was there."""
    for _, peer in side.both():
        side.server.flushall()
        with peer.connect() as pop, peer.connect() as zset, peer.connect() as stream, peer.connect() as other:
            park(peer, pop, "BLPOP", "{t}k", 0)
            park(peer, zset, "BZPOPMIN", "{t}k", 0)
            park(peer, stream, "XREAD", "BLOCK", 0, "STREAMS", "{t}k", "0-0")
            other.call("SET", "{t}k", "v")
            other.call("DEL", "{t}k")
            other.call("XADD", "{t}k", "1-1", "f", "v")
            assert b"1-1" in finish(stream)
            other.call("DEL", "{t}k")
            other.call("ZADD", "{t}k", 1, "m")
            assert finish(zset) == b"*3\r\n$4\r\n{t}k\r\n$1\r\nm\r\n$1\r\n1\r\n"
            other.call("RPUSH", "{t}k", "x")
            assert finish(pop) == encode(["{t}k", "x"])


def test_group_goes_while_waited_for(side):
    goes = [lambda: side.proxy.call("XGROUP", "DESTROY", "{t}x", "g"), lambda: side.proxy.call("DEL", "{t}x"), side.server.flushall, lambda: side.proxy.call("FLUSHALL")]
    for gone in goes:
        side.server.flushall()
        side.proxy.call("XGROUP", "CREATE", "{t}x", "g", "$", "MKSTREAM")
        with side.proxy.connect() as waiting:
            park(side.proxy, waiting, "XREADGROUP", "GROUP", "g", "c", "BLOCK", 0, "STREAMS", "{t}x", ">")
            gone()
            assert waiting.read().code == "NOGROUP"


def test_readers_of_a_stream_all_get_it(side):
    clients = [side.proxy.connect() for _ in range(6)]
    groups = [side.proxy.connect() for _ in range(3)]
    side.proxy.call("XGROUP", "CREATE", "{t}x", "g", "$", "MKSTREAM")
    for client in clients:
        park(side.proxy, client, "XREAD", "BLOCK", 0, "STREAMS", "{t}x", "$")
    for i, client in enumerate(groups):
        park(side.proxy, client, "XREADGROUP", "GROUP", "g", "c%d" % i, "COUNT", 1, "BLOCK", 0, "STREAMS", "{t}x", ">")
    for i in range(1, 4):
        side.proxy.call("XADD", "{t}x", "%d-1" % i, "n", i)
    assert [client.read() for client in clients] == [[[b"{t}x", [[b"1-1", [b"n", b"1"]]]]]] * 6
    assert [client.read() for client in groups] == [[[b"{t}x", [[b"%d-1" % i, [b"n", b"%d" % i]]]]] for i in (1, 2, 3)]
    for client in clients + groups:
        client.close()


# ---- what happens behind

def test_a_bypassing_writer_wakes(side):
    """Without a mirror a side connection watches the keys that are waited for."""
    node = side.node()
    with side.proxy.connect() as a, side.proxy.connect() as b, side.proxy.connect() as x:
        park(side.proxy, a, "BLPOP", "{t}q", "{t}r", 0)
        park(side.proxy, b, "BLPOP", "{t}q", 0)
        park(side.proxy, x, "XREAD", "BLOCK", 0, "STREAMS", "{t}x", "$")
        node.call("SET", "{t}q", "of a wrong type")
        node.call("DEL", "{t}q")
        node.call("RPUSH", "{t}r", "1")
        assert finish(a) == encode(["{t}r", "1"])
        node.call("RPUSH", "{t}q", "2")
        assert finish(b) == encode(["{t}q", "2"])
        node.call("XADD", "{t}x", "1-1", "f", "v")
        assert b"1-1" in finish(x)


def test_databases(alone):
    """Each has keys of its own; the watch of others' writes names none."""
    for peer in alone.server, alone.proxy:
        alone.server.flushall()
        with peer.connect(db=3) as waiting, peer.connect() as other, alone.server.connect(db=3) as bypass:
            for wakes, element in ((("MOVE", "q", 3), "n"), (("COPY", "l", "q", "DB", 3), "m"), (None, "o")):
                park(peer, waiting, "BLPOP", "q", 0)
                assert other.call("RPUSH", "l", "m") and other.call("RPUSH", "q", "n")
                assert blocked(peer) == 1
                if wakes:
                    assert other.call(*wakes) == 1
                else:
                    bypass.call("RPUSH", "q", "o")
                assert finish(waiting) == encode(["q", element])
                other.pipeline([("DEL", "q"), ("DEL", "l")])
                bypass.call("DEL", "q")


def test_terminated_while_clients_wait(alone, crossfade):
    proxy = crossfade(alone.server)
    client = proxy.connect()
    park(proxy, client, "BLPOP", "nothing", 0)
    proxy.term()
    with pytest.raises(Disconnected):
        client.read()


# ---- WAIT

def test_wait(side):
    """Errors and a primary without replicas: as the server; pipelined, unblocked, its client gone."""
    calls = [("WAIT", 0, 0), ("WAIT", 1, 20), ("WAIT", -1, 0), ("WAIT", "x", 0), ("WAIT", 1, "x"), ("WAIT", 1, -1), ("WAIT", 0)]
    seen = []
    for _, peer in side.both():
        with peer.connect() as client:
            seen.append([client.raw(*call) for call in calls])
    assert seen[0] == seen[1]
    with side.proxy.connect() as client, side.proxy.connect() as other:
        assert client.pipeline([("SET", "{t}k", "v"), ("WAIT", 1, 30), ("GET", "{t}k")]) == [b"OK", 0, b"v"]
        number = client.call("CLIENT", "ID")
        client.send("WAIT", 3, 0)
        client.send("PING")
        wait_until("it waits", lambda: other.call("CLIENT", "UNBLOCK", number, "ERROR") == 1, 20, 0.01)
        assert client.read().code == "UNBLOCKED" and client.read() == b"PONG"
        client.send("WAIT", 3, 0)
        client.send("SET", "{t}k", "never")
    assert side.proxy.call("GET", "{t}k") == b"v"


def test_wait_inside_multi(side):
    """Nothing waits there: it tells what there is."""
    seen = []
    for _, peer in side.both():
        with peer.connect() as client:
            for call in (("MULTI",), ("SET", "{t}k", "v"), ("WAIT", 1, 0), ("WAIT", 0, 0), ("WAIT", "x", 0), ("GET", "{t}k"), ("WAIT", 1, -1)):
                client.call(*call)
            seen.append(client.raw("EXEC"))
            client.call("MULTI")
            client.call("WAIT", 1, 0)
            seen[-1] += client.raw("EXEC") + client.raw("PING")
    assert seen[0] == seen[1]


def test_wait_for_replicas(servers):
    """A source without any, a cluster with one: who waits over the flip gets it there."""
    source, target = servers.standalone("redis-7.0"), servers.cluster("valkey-9.1", shards=1, replicas=1)
    proxy = servers.crossfade(source, target, config={"cutover-max-pause": 20000})
    replica = target.replicas_of(target.node_for("k"))[0]
    with proxy.connect() as client, proxy.connect() as waiting, replica.connect() as direct:
        direct.call("READONLY")
        assert client.pipeline([("SET", "k", "v"), ("WAIT", 1, 30)]) == [b"OK", 0]
        proxy.ctl("start")
        proxy.wait("synced")
        proxy.ctl("verify")
        waiting.send("WAIT", 1, 0)
        wait_until("it waits", lambda: b" flags=b " in client.call("CLIENT", "LIST"))
        proxy.ctl("cutover", "--yes", "--wait", 30)
        assert waiting.read(20) == 1
        assert client.pipeline([("SET", "k", "w"), ("WAIT", 1, 20000)]) == [b"OK", 1]
        assert direct.call("GET", "k") == b"w"
        proxy.ctl("verify")
        proxy.ctl("rollback", "--yes", "--wait", 30)
        assert client.call("WAIT", 1, 30) == 0


# ---- WAITAOF

@pytest.fixture
def aof(alone):
    """Its server has an append-only file, which is written to disk at once, or when the test says so."""
    def fsync(how):
        alone.server.call("CONFIG", "SET", "appendfsync", how)

    alone.server.flushall()
    alone.server.call("CONFIG", "SET", "appendonly", "yes")
    fsync("always")
    wait_until("the file is there", lambda: b"aof_rewrite_in_progress:0" in alone.server.call("INFO", "persistence"), 20)
    yield fsync
    fsync("everysec")
    alone.server.call("CONFIG", "SET", "appendonly", "no")


BAD_WAITAOF = [("WAITAOF", 1, 0, 0), ("WAITAOF", 2, 0, 0), ("WAITAOF", "x", 0, 0), ("WAITAOF", 0, "x", 0), ("WAITAOF", 0, -1, 0), ("WAITAOF", 0, 0, "x"), ("WAITAOF", 0, 0, -1),
               ("WAITAOF", 0, 0)]


def test_waitaof_without_a_file(alone):
    seen = []
    for _, peer in alone.both():
        with peer.connect() as client:
            client.call("SET", "k", "v")
            seen.append([client.raw(*call) for call in BAD_WAITAOF + [("WAITAOF", 0, 1, 20)]])
            client.call("MULTI")
            for call in BAD_WAITAOF[:-1] + [("WAITAOF", 0, 0, 0)]:
                client.call(*call)
            seen[-1].append(client.raw("EXEC"))
    assert seen[0] == seen[1]


def test_waitaof(alone, aof):
    proxy = alone.proxy
    with proxy.connect() as client, proxy.connect() as other, proxy.connect() as third:
        assert client.pipeline([("SET", "k", "v"), ("WAITAOF", 1, 0, 0), ("GET", "k")]) == [b"OK", [1, 0], b"v"]
        assert client.pipeline([("MULTI",), ("SET", "k", "w"), ("WAITAOF", 1, 0, 0), ("EXEC",)])[-1] in ([b"OK", [0, 0]], [b"OK", [1, 0]])
        aof("no")
        assert client.pipeline([("SET", "k", "x"), ("WAITAOF", 1, 0, 30), ("GET", "k")]) == [b"OK", [0, 0], b"x"]
        number = client.call("CLIENT", "ID")
        client.send("WAITAOF", 1, 0, 0)
        client.send("PING")
        wait_until("it waits", lambda: other.call("CLIENT", "UNBLOCK", number, "ERROR") == 1, 20, 0.01)
        assert client.read().code == "UNBLOCKED" and client.read() == b"PONG"
        client.send("WAITAOF", 1, 0, 0)
        third.send("WAITAOF", 1, 1, 0)
        aof("everysec")
        other.call("SET", "k", "y")
        assert client.read(20) == [1, 0]
    assert sorted(alone.server.call("KEYS", "*")) == [b"k"]  # and of the third client, who is gone, nothing is left
    wait_until("nobody is blocked at the server", lambda: blocked(alone.server) == 0, 20)


def test_waitaof_over_a_flip(servers):
    """It waits at a source that writes nothing to disk, and has its answer from the target."""
    source, target = servers.standalone("redis-8.0"), servers.standalone("valkey-9.1")
    for side, how in ((source, "no"), (target, "always")):
        side.call("CONFIG", "SET", "appendonly", "yes")
        side.call("CONFIG", "SET", "appendfsync", how)
    proxy = servers.crossfade(source, target, config={"cutover-max-pause": 20000})
    with proxy.connect() as client, proxy.connect() as waiting:
        proxy.ctl("start")
        proxy.wait("synced")
        client.call("SET", "k", "v")
        waiting.send("WAITAOF", 1, 0, 0)
        wait_until("it waits", lambda: b" flags=b " in client.call("CLIENT", "LIST"))
        assert proxy.ctl("verify").rc == 0
        proxy.ctl("cutover", "--yes", "--wait", 30)
        assert waiting.read(20) == [1, 0]
        assert proxy.ctl("verify").rc == 0
