"""MULTI, EXEC, DISCARD: the bytes that a server answers, the same data on both sides, in every phase."""
import threading

import pytest
from compare import compare
from harness import RespError
from harness.resp import encode
from harness.process import wait_until

SIDES = {  # kind of the source, shards (0: standalone), the target's kind and shards
    "alone": ("redis-7.0", 0, "valkey-9.1", 0),
    "cluster": ("redis-7.0", 1, "valkey-9.1", 2),
}
NEVER = "f" * 40
ADD = "return redis.call('INCRBY', KEYS[1], ARGV[1])"


class Pair:
    """The proxy in front of a source, and another server like that source, which is asked the same."""

    def __init__(self, servers, name):
        kind, shards, target, target_shards = SIDES[name]
        self.clustered = bool(shards)

        def make(kind, shards):
            return servers.cluster(kind, shards=shards) if shards else servers.standalone(kind)
        self.source, self.target, self.model = make(kind, shards), make(target, target_shards), make(kind, shards)
        self.proxy = servers.crossfade(self.source, self.target)

    def direct(self, protocol):
        return (self.model.node_for("{t}") if self.clustered else self.model).connect(protocol=protocol, timeout=30)

    def start(self):
        if self.proxy.status()["phase"] == "proxy":
            self.proxy.ctl("start")
        self.proxy.wait("synced,dirty=0,lag=0", timeout=60)

    def flush(self):
        for side in (self.source, self.target, self.model):
            side.flushall()


@pytest.fixture(scope="module")
def pairs(servers):
    made = {}

    def get(name):
        if name not in made:
            made[name] = Pair(servers, name)
        return made[name]
    return get


def raw(client, calls):
    """The bytes of the answers to these calls, sent at once: a PING's answer at the end tells that they are complete."""
    client.send_raw(b"".join(c if isinstance(c, bytes) else encode(c) for c in calls) + encode(("PING", "the-end")))
    got = b""
    while not got.endswith(b"$7\r\nthe-end\r\n"):
        data = client.sock.recv(65536)
        assert data, got
        got += data
    return got


def block(*calls):
    return [("MULTI",), *calls, ("EXEC",)]


# Each list is one conversation: its answers do not depend on chance, nor on what product answers.
TALKS = [
    block(("SET", "{t}a", 1), ("INCR", "{t}a"), ("GET", "{t}a"), ("GET", "{t}none")),
    block(),
    [("EXEC",), ("DISCARD",), ("MULTI", "x"), ("EXEC", "x"), ("DISCARD", "x")],
    [("MULTI",), ("SET", "{t}a", 2), ("DISCARD",), ("GET", "{t}a"), ("EXEC",)],
    block(("SET", "{t}a"), ("SET", "{t}a", 3)) + [("EXEC",), ("GET", "{t}a")],
    block(("NOSUCH", "{t}a", "x"), ("SET", "{t}a", 3)),
    block(("CLIENT", "NOSUCH")), block(("EXEC", "x"), ("SET", "{t}a", 4)), block(("DISCARD", "x"), ("SET", "{t}a", 5)),
    block(("SAVE",)), block(("SET", "{t}a", "EX", "x")),
    block(("SET", "{t}a", "x"), ("INCR", "{t}a"), ("LPUSH", "{t}a", 1), ("APPEND", "{t}a", "y")),
    block(("PING",), ("ECHO", "x"), ("SET", "{t}b", 1), ("PING", "y"), ("GET", "{t}b"), ("CLIENT", "GETNAME"), ("CLIENT", "SETNAME", "me"), ("CLIENT", "GETNAME")),
    block(("PING",), ("CLIENT", "SETNAME", "bad name"), ("SELECT", 0), ("SELECT", "x")), block(("ECHO", "one")),
    block(("LPOP", "{t}none"), ("LPOP", "{t}none", 2), ("LMPOP", 1, "{t}none", "LEFT"), ("BLPOP", "{t}none", 0), ("BRPOP", "{t}none", "{t}other", 0), ("BLMOVE", "{t}none", "{t}l", "LEFT", "LEFT", 0)),
    block(("RPUSH", "{t}l", 1, 2, 3, 4), ("BLPOP", "{t}l", 0), ("LPOP", "{t}l", 2), ("BLMPOP", 0, 1, "{t}l", "LEFT"), ("LRANGE", "{t}l", 0, -1)),
    block(("ZADD", "{t}z", 1, "a", 2.5, "b", 3, "c"), ("ZRANGE", "{t}z", 0, -1, "WITHSCORES"), ("ZPOPMIN", "{t}z"), ("ZPOPMAX", "{t}z", 1), ("ZSCORE", "{t}z", "b"), ("ZSCORE", "{t}z", "x"), ("ZINCRBY", "{t}z", 0.5, "b"), ("BZPOPMIN", "{t}z", 0)),
    block(("HSET", "{t}h", "f", 1), ("HGETALL", "{t}h"), ("HRANDFIELD", "{t}h", 1, "WITHVALUES"), ("HINCRBYFLOAT", "{t}h", "f", 1.5), ("HGETALL", "{t}none"), ("SMEMBERS", "{t}none")),
    block(("GEOADD", "{t}g", 13.361389, 38.115556, "P"), ("GEOPOS", "{t}g", "P", "x"), ("GEOSEARCH", "{t}g", "FROMMEMBER", "P", "BYRADIUS", 1, "km", "WITHDIST")),
    block(("XADD", "{t}x", "1-1", "f", "v"), ("XREAD", "STREAMS", "{t}x", 0), ("XREAD", "BLOCK", 0, "STREAMS", "{t}x", "9-9"), ("XRANGE", "{t}x", "-", "+"), ("XGROUP", "CREATE", "{t}x", "g", 0), ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "{t}x", ">")),
    block(("SET", "{t}e", 1, "EX", 1000), ("EXPIRE", "{t}e", 5000), ("EXPIRE", "{t}e", 1000, "GT"), ("SETEX", "{t}e", 0, 1), ("PERSIST", "{t}e"), ("TTL", "{t}e"), ("INCRBYFLOAT", "{t}e", 0.25), ("GETEX", "{t}e", "PX", 100000), ("GETDEL", "{t}e")),
    block(("MSET", "{t}m1", 1, "{t}m2", 2), ("MGET", "{t}m1", "{t}none", "{t}m2"), ("DEL", "{t}m1", "{t}m2"), ("MSET", "{t}m1")),
    block(("HSET", "{t}r", "a", 1), ("RENAME", "{t}r", "{t}r2"), ("COPY", "{t}r2", "{t}r3"), ("SADD", "{t}s1", 1, 2), ("SUNIONSTORE", "{t}s2", "{t}s1"), ("SPOP", "{t}s2", 5), ("SINTERSTORE", "{t}s3", "{t}s1")),
    [b"MULTI\r\n", b"set {t}i 'in line'\r\n", b"ping\r\n", b"EXEC\r\n"],
    block(*[("INCR", "{t}many")] * 300),
    block(("SET", "{t}big", b"x" * 100000), ("GET", "{t}big"), ("STRLEN", "{t}big")),
]
SUBSCRIBES = [
    block(("SUBSCRIBE", "sa", "sb"), ("PING",), ("GET", "{t}none")) + [("PING",), ("UNSUBSCRIBE", "sa", "sb"), ("PING",)],
    block(("PSUBSCRIBE", "p*"), ("UNSUBSCRIBE", "zz"), ("PUNSUBSCRIBE",), ("UNSUBSCRIBE",), ("SET", "{t}a", 1)), block(("SSUBSCRIBE", "{t}a"), ("GET", "{t}none")),
    block(("PUBLISH", "sub", 1), ("SUBSCRIBE", "sub"), ("CLIENT", "REPLY", "ON")) + [("GET", "{t}none"), ("UNSUBSCRIBE", "sub"), ("GET", "{t}none")],
    block(("SUBSCRIBE",)), [("SUBSCRIBE", "sa"), ("MULTI",), ("SUBSCRIBE", "sb"), ("GET", "{t}none"), ("EXEC",), ("UNSUBSCRIBE", "sb", "sa")],
]
WATCHES = [
    [("SET", "{t}w", 1), ("WATCH", "{t}w"), ("GET", "{t}w")] + block(("INCR", "{t}w"), ("GET", "{t}w")) + block(("INCR", "{t}w")),
    [("WATCH", "{t}w"), ("SET", "{t}w", 5)] + block(("SET", "{t}w", 6)) + [("GET", "{t}w")] + block(("SET", "{t}w", 7)),
    [("SET", "{t}w", 4), ("WATCH", "{t}w", "{t}v"), ("GET", "{t}v")] + block() + [("WATCH", "{t}v"), ("SET", "{t}v", 1)] + block() + block(),
    [("WATCH", "{t}w"), ("SET", "{t}w", 8), ("UNWATCH",)] + block(("GET", "{t}w")) + [("UNWATCH",), ("WATCH", "{t}w"), ("UNWATCH",)],
    [("WATCH", "{t}w"), ("MULTI",), ("SET", "{t}w", 9), ("DISCARD",), ("SET", "{t}w", 10)] + block(("GET", "{t}w")),
    [("WATCH", "{t}w"), ("SET", "{t}w", 11)] + block(("NOSUCH",)) + block(("GET", "{t}w")),
    [("WATCH", "{t}w"), ("SET", "{t}w", 11), ("EXEC", "x")] + block(("GET", "{t}w")),
    [("WATCH", "{t}w"), ("SET", "{t}w", "x")] + block(("PING",), ("UNWATCH",)) + [("WATCH", "{t}w")] + block(("PING",), ("INCR", "{t}w"), ("UNWATCH",), ("GET", "{t}w")),
    [("WATCH", "{t}w"), ("WATCH", "{t}v"), ("GET", "{t}w")] + block(("LPUSH", "{t}wl", 1), ("BLPOP", "{t}wl", 0), ("ZADD", "{t}wz", 1, "m"), ("ZPOPMIN", "{t}wz", 1)),
    [("WATCH", "{t}none"), ("DEL", "{t}none")] + block(("ECHO", "untouched")), [("WATCH",), ("UNWATCH", "x")],
    [("WATCH", "{t}e"), ("SET", "{t}e", 1, "EX", 100), ("TTL", "{t}e")] + block(("DEL", "{t}e")),
    [("MULTI",), ("WATCH", "{t}w"), ("SET", "{t}w", 1), ("EXEC",), ("GET", "{t}w")],
]
AS_THE_SOURCE = [  # errors that name the product, and what its version takes
    block(("ZRANK", "{t}z", "x", "y"), ("SET", "{t}a", 1)),
    block(("EVAL", ADD, 1, "{t}n", 2), ("EVAL", "return {1, 'x', {2.5}, false}", 0), ("EVALSHA", NEVER, 0), ("EVAL", "redis.setresp(3) return {map={a=1}}", 0), ("EVAL", "return redis.call('LPUSH', KEYS[1], 1)", 1, "{t}n")),
]
LAST = [[("WATCH", "{t}w"), ("SET", "{t}w", 1), ("RESET",)] + block(("GET", "{t}w")),
        [("MULTI",), ("SET", "{t}a", "never"), ("RESET",), ("EXEC",), ("GET", "{t}a")]]  # RESP2 from there on
ALONE = [
    [("MULTI",), ("MULTI",), ("SET", "a", 1), ("EXEC",)],
    block(("SET", "a", 1), ("SET", "b", 2), ("MSET", "c", 3, "d", 4), ("MGET", "a", "b", "c", "d"), ("RENAME", "a", "e"), ("DEL", "b", "c", "d", "e"), ("EXISTS", "a", "e")),
    block(("ASKING",), ("READONLY",)),
    [("WATCH", "a", "b"), ("WATCH", "c"), ("GET", "a")] + block(("SET", "d", 1), ("INCR", "a"), ("DEL", "a", "d")),
    [("WATCH", "a", "b"), ("SET", "b", 1)] + block(("SET", "d", 1), ("DEL", "a", "b")) + [("DEL", "a", "b", "d")],
]
CLUSTER = [
    block(("SET", "a", 1), ("SET", "b", 2)) + [("GET", "a")],
    block(("MSET", "a", 1, "b", 2)), block(("MGET", "a", "b"), ("SET", "a", 1)), block(("ASKING",), ("READONLY",)),
    block(("SELECT", 1)), [("WATCH", "a", "b"), ("WATCH", "a"), ("SET", "a", 1)] + block(("GET", "a")),
]


def talk(pair, phase):
    talks = TALKS + SUBSCRIBES + WATCHES + (CLUSTER if pair.clustered else ALONE) + ([] if phase == "cutover" else AS_THE_SOURCE) + LAST
    for protocol in (2, 3):
        with pair.proxy.connect(protocol=protocol, timeout=30) as mine, pair.direct(protocol) as theirs:
            for calls in talks:
                got, want = raw(mine, calls), raw(theirs, calls)
                assert got == want, (phase, protocol, calls)


def equal_sides(pair, reverse=False):
    pair.proxy.wait("dirty=0,lag=0", timeout=30)
    lines = compare(*((pair.target, pair.source) if reverse else (pair.source, pair.target)), partial=False, final=True)
    assert not lines, lines[:10]


@pytest.mark.parametrize("name", list(SIDES))
def test_bytes_in_every_phase(pairs, name):
    pair = pairs(name)
    pair.flush()
    talk(pair, "proxy")
    pair.start()
    talk(pair, "mirror")
    equal_sides(pair)
    mirrored = pair.proxy.status()["mirror"]
    assert mirrored["mismatches"] == 0, mirrored
    pair.proxy.ctl("cutover", "--yes", "--force", "--max-pause", 10000)
    talk(pair, "cutover")
    equal_sides(pair, reverse=True)
    pair.proxy.ctl("rollback", "--yes", "--force", "--max-pause", 10000)
    talk(pair, "rollback")
    equal_sides(pair)
    assert pair.proxy.status()["mirror"]["mismatches"] == 0


def test_what_failed_leaves_nothing_to_be_copied(pairs):
    """A script makes the transaction's keys be copied; that of a command that failed stands in a database that no server has."""
    pair = pairs("alone")
    pair.start()
    with pair.proxy.connect(timeout=30) as c:
        got = c.pipeline(block(("EVAL", ADD, 1, "{t}n", 2), ("COPY", "{t}n", "{t}m", "DB", 4000), ("LPUSH", "{t}n", 1)))[-1]
    assert isinstance(got[0], int) and isinstance(got[1], RespError) and isinstance(got[2], RespError), got
    equal_sides(pair)


def test_who_subscribed_inside_is_told(pairs):
    """From EXEC's array on."""
    proxy = pairs("alone").proxy
    for protocol in (2, 3):
        with proxy.connect(protocol=protocol, timeout=30) as s, proxy.connect(timeout=30) as other:
            assert b"subscribe" in raw(s, block(("SUBSCRIBE", "inside"), ("PSUBSCRIBE", "ins*")))
            assert other.call("PUBLISH", "inside", "m") == 2
            told = [list(s.read_any(20)) for _ in range(2)]
            assert sorted(told) == [[b"message", b"inside", b"m"], [b"pmessage", b"ins*", b"inside", b"m"]], told


# ---- WATCH

def watched(client, key, *calls):
    """Reads the key under WATCH; a function that sends the transaction and returns EXEC's answer."""
    client.call("WATCH", key)
    client.call("GET", key)

    def execute():
        return client.pipeline([("MULTI",), *calls, ("EXEC",)])[-1]
    return execute


@pytest.mark.parametrize("name", list(SIDES))
def test_who_bypasses_the_proxy_is_seen(pairs, name):
    """By the server, whatever the phase: writes, expiry, flushes; and never the transaction's own echo."""
    pair = pairs(name)
    pair.start()
    before = pair.proxy.status()["mirror"]
    node = pair.source.node_for("{b}k") if pair.clustered else pair.source
    with pair.proxy.connect(timeout=30) as c, node.connect(timeout=30) as d:
        for i in range(20):
            execute = watched(c, "{b}k", ("SET", "{b}k", i), ("SET", "{b}l", i), ("INCR", "{b}n"))
            assert execute() == [b"OK", b"OK", i + 1]
        pair.proxy.wait("dirty=0,lag=0", timeout=30)
        after = pair.proxy.status()["mirror"]
        assert after["foreign"] == before["foreign"] and after["snapshots"] == before["snapshots"], (before, after)
        for foreign in (("SET", "{b}k", "theirs"), ("DEL", "{b}k"), ("SADD", "{b}k", 1), ("PEXPIRE", "{b}k", 1000000), ("FLUSHALL",)):
            execute = watched(c, "{b}x", ("SET", "{b}k", "mine"))
            assert execute() == [b"OK"]
            if foreign[0] == "SADD":
                c.call("DEL", "{b}k")
                c.call("WATCH", "{b}k")
                d.call(*foreign)
                assert c.pipeline([("MULTI",), ("SET", "{b}k", "mine"), ("EXEC",)])[-1] is None
                continue
            execute = watched(c, "{b}k", ("SET", "{b}k", "mine"))
            d.call(*foreign)
            assert execute() is None, foreign
        assert c.call("EXISTS", "{b}k") == 0
    equal_sides(pair)


@pytest.mark.parametrize("name", list(SIDES))
def test_counters_through_flips(pairs, name):
    """Optimistic counters: every increment counts once, while others write past the proxy and while the sides change."""
    pair = pairs(name)
    keys, done, failed = ["{c%d}n" % i for i in range(3)], [0] * 6, []
    stop = threading.Event()
    pair.start()
    for k in keys:
        pair.proxy.call("SET", k, 0)

    def client(i):
        try:
            with pair.proxy.connect(protocol=2 + i % 2, timeout=30) as c:
                while not stop.is_set():
                    key = keys[(i + done[i]) % len(keys)]
                    c.call("WATCH", key)
                    value = int(c.call("GET", key))
                    if c.pipeline([("MULTI",), ("SET", key, value + 1), ("RPUSH", key + "l", value + 1), ("EXEC",)])[-1] is not None:
                        done[i] += 1
        except Exception as e:
            failed.append(e)
    threads = [threading.Thread(target=client, args=(i,)) for i in range(len(done))]
    for t in threads:
        t.start()

    def some_more(n=30):
        wanted = sum(done) + n
        wait_until("increments", lambda: failed or sum(done) >= wanted, 60, 0.02)
    bypassed = 0
    for _ in range(50):
        for k in keys:
            (pair.source.node_for(k) if pair.clustered else pair.source).call("INCR", k)
            bypassed += 1
    some_more()
    for _ in range(2):
        pair.proxy.ctl("cutover", "--yes", "--force", "--max-pause", 10000)
        some_more()
        pair.proxy.ctl("rollback", "--yes", "--force", "--max-pause", 10000)
        some_more()
    stop.set()
    for t in threads:
        t.join()
    assert not failed, failed
    assert sum(int(pair.proxy.call("GET", k)) for k in keys) == sum(done) + bypassed
    assert sum(pair.proxy.call("LLEN", k + "l") for k in keys) == sum(done)
    equal_sides(pair)


def test_a_flip_between_watch_and_exec(pairs):
    pair = pairs("alone")
    pair.start()
    with pair.proxy.connect(protocol=3, timeout=30) as c:
        for command in ("cutover", "rollback"):
            execute = watched(c, "f", ("SET", "f", command))
            pair.proxy.ctl(command, "--yes", "--force", "--max-pause", 10000)
            assert execute() is None
            assert watched(c, "f", ("SET", "f", command))() == [b"OK"]
