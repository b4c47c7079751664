"""Keys that live for milliseconds under writes: none is immortal, none comes back, on neither side; and one millisecond on both for every way
of setting an expiry. EXPIRY_SEED=n repeats the calls (not their timing), EXPIRY_KEYS=n makes a run longer.
"""
import os
import random
import threading
import time

import pytest
from compare import compare, now_ms
from harness import RespError, diff
from harness.process import wait_until

SHAPES = {"cluster": ("redis-7.0", "valkey-9.1"), "standalone": ("redis-8.0", "valkey-9.1")}


@pytest.fixture(scope="module", params=list(SHAPES))
def sides(request, servers):
    return [getattr(servers, request.param)(kind) for kind in SHAPES[request.param]]


# How a key is born, and writes that do not take its expiry away.
KINDS = {
    "incr": (("SET", "5"), [("INCR",), ("INCRBY", 3), ("DECR",), ("INCRBYFLOAT", "0.5"), ("SET", "7", "KEEPTTL", "XX"), ("SETRANGE", 1, "4")]),
    "append": (("SET", "a"), [("APPEND", "b"), ("SETRANGE", 3, "c"), ("APPEND", "d")]),
    "bit": (("SETBIT", 3, 1), [("SETBIT", 9, 1), ("SETBIT", 9, 0), ("BITFIELD", "INCRBY", "u8", 8, 1)]),
    "set": (("SADD", "a", "b"), [("SADD", "c"), ("SADD", "d", "e"), ("SREM", "a"), ("SADD", "a"), ("SPOP",)]),
    "hash": (("HSET", "a", 1), [("HSET", "b", 2), ("HSETNX", "c", 3), ("HINCRBY", "a", 4), ("HINCRBYFLOAT", "a", "0.5"), ("HDEL", "b")]),
    "zset": (("ZADD", 1, "a"), [("ZADD", 2, "b"), ("ZINCRBY", 2, "a"), ("ZADD", "INCR", 3, "c"), ("ZPOPMIN",), ("GEOADD", 13.4, 52.5, "g")]),
    "list": (("RPUSH", "a", "b"), [("RPUSH", "c"), ("LPUSH", "d"), ("LPOP",), ("RPUSHX", "e"), ("LSET", 0, "f"), ("LINSERT", "BEFORE", "a", "x")]),
    "stream": (("XADD", "*", "f", 1), [("XADD", "*", "f", 2), ("XADD", "NOMKSTREAM", "MAXLEN", "~", 3, "*", "f", 3), ("XTRIM", "MAXLEN", 1),
                                       ("XGROUP", "CREATE", "g", 0)]),
    "hll": (("PFADD", "a"), [("PFADD", "b"), ("PFADD", "c", "d")]),
}


def on(key, words):
    """The key's place is behind the name, or behind the subcommand."""
    at = 2 if words[0] == "XGROUP" else 1
    return tuple(words[:at]) + (key,) + tuple(words[at:])


def lives(rng):
    """How a key gets its short life: one of the commands, with the time at hand."""
    ms = rng.randint(1, 50)
    return [("PEXPIRE", ms), ("PEXPIREAT", now_ms() + ms), ("PEXPIRE", ms, "NX"), ("PEXPIREAT", now_ms() + ms, "LT")][rng.randrange(4)]


def writer(proxy, rng, name, keys, failed):
    """Each key is born, given a life and written to until it is gone, and after: what is then born has no expiry, unless it gets a life, too."""
    try:
        with proxy.connect(timeout=30) as client:
            alive, serial = {}, 0
            while serial < keys or alive:
                commands = []
                while serial < keys and len(alive) < 120:
                    key, serial = "%s:%d" % (name, serial), serial + 1
                    alive[key] = rng.randint(1, 6), rng.choice(list(KINDS))
                    commands += [on(key, KINDS[alive[key][1]][0]), on(key, lives(rng))]
                for key in rng.sample(sorted(alive), min(40, len(alive))):
                    left, kind = alive.pop(key)
                    if left:
                        alive[key] = left - 1, kind
                        commands.append(on(key, rng.choice(KINDS[kind][1])))
                        if rng.random() < 0.4:
                            commands.append(on(key, lives(rng)))
                for words, reply in zip(commands, client.pipeline(commands)):
                    if isinstance(reply, RespError):
                        assert reply.code in ("ERR", "BUSYGROUP", "NOGROUP"), (words, reply)
    except Exception as e:
        failed.append(e)


def churn(proxy, rng, prefix, keys, clients=3):
    failed = []
    threads = [threading.Thread(target=writer, args=(proxy, random.Random(rng.random()), "%s%d" % (prefix, i), keys // clients, failed))
               for i in range(clients)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed, failed


def left(side):
    """What is on a side and has not expired: DBSIZE counts expired keys, too, until the server comes by."""
    return {k: (v[0], v[2]) for k, v in side.digest().items()}


def gone(pair, proxy, seed, what):
    """What was born by a write onto a dead key is on both sides. The others are gone, and after a last life of these all are."""
    told = "EXPIRY_SEED=%d %s" % (seed, what)
    proxy.wait("dirty=0,lag=0", timeout=30)
    time.sleep(0.1)
    proxy.wait("dirty=0,lag=0", timeout=30)
    lines = compare(*pair, partial=False, final=True)
    assert not lines, "%s: %d differences: %s" % (told, len(lines), lines[:8])
    rest = sorted({k for side in pair for k in left(side)})
    print("%s: %d born again" % (told, len(rest)))
    proxy.pipeline([("PEXPIRE", k, 1 + i % 50) for i, k in enumerate(rest)])
    proxy.wait("dirty=0,lag=0", timeout=30)
    time.sleep(0.1)
    proxy.wait("dirty=0,lag=0", timeout=30)
    for side, name in zip(pair, ("source", "target")):
        have = left(side)
        assert not have, "%s: %d keys left on the %s: %s" % (told, len(have), name, sorted(have.items())[:8])
    # the servers' own counts agree once expired keys are collected
    wait_until("both sides are empty", lambda: all(s.dbsize() == 0 for s in pair), 10, 0.1)


def test_no_key_outlives_its_milliseconds(pair, crossfade):
    source, target = pair
    seed = int(os.environ.get("EXPIRY_SEED", random.randrange(1 << 30)))
    keys = int(os.environ.get("EXPIRY_KEYS", 1500))
    print("EXPIRY_SEED=%d" % seed)
    rng = random.Random(seed)
    proxy = crossfade(source, target)
    proxy.ctl("start")
    proxy.wait("synced")
    for stage, order in (("before", None), ("after", "cutover"), ("back", "rollback")):
        if order:
            proxy.ctl("verify")
            proxy.ctl(order, "--yes")
        churn(proxy, rng, stage, keys)
        gone(pair, proxy, seed, stage)
    print("mirror %s" % proxy.status()["mirror"])
    assert proxy.ctl("verify", check=False).rc == 0


def test_no_key_outlives_its_milliseconds_while_it_is_copied(pair, crossfade):
    """Not synced: each such write makes its key dirty, and the copy meets it dying."""
    source, target = pair
    seed = int(os.environ.get("EXPIRY_SEED", random.randrange(1 << 30)))
    print("EXPIRY_SEED=%d" % seed)
    source.pipeline([("SET", "fill:%d" % i, i, "PX", 4000 + i % 2000) for i in range(3000)])
    proxy = crossfade(source, target, config={"backfill-keys-per-s": 700, "backfill-adaptive": False})
    proxy.ctl("start")
    churn(proxy, random.Random(seed), "copied", int(os.environ.get("EXPIRY_KEYS", 1500)))
    proxy.wait("synced,dirty=0,lag=0")
    wait_until("the filling has expired", lambda: not any(k.startswith(b"fill") for side in pair for k in left(side)), 10, 0.2)
    gone(pair, proxy, seed, "copied")


FAR = 1999999999
WAYS = [
    [("SET", "v", "EX", 5000)], [("SET", "v", "PX", 5000123)], [("SET", "v", "EXAT", FAR)], [("SET", "v", "PXAT", FAR * 1000 + 7)],
    [("SETEX", 5000, "v")], [("PSETEX", 5000123, "v")], [("SET", "v", "px", 777777, "NX", "GET")], [("SET", "v"), ("SET", "w", "EX", 4000, "XX", "GET")],
    [("SET", "v", "EX", 5000), ("SET", "w", "KEEPTTL")], [("SET", "v", "EX", 5000), ("SET", "w")], [("SET", "v"), ("EXPIRE", 5000)],
    [("SET", "v"), ("PEXPIRE", 5000001)], [("SET", "v"), ("EXPIREAT", FAR)], [("SET", "v"), ("PEXPIREAT", FAR * 1000 + 1)],
    [("SET", "v"), ("EXPIRE", 5000, "NX"), ("EXPIRE", 9000, "GT"), ("EXPIRE", 100, "GT"), ("EXPIRE", 800, "NX")],
    [("SET", "v", "EX", 5000), ("PEXPIRE", 4000000, "LT", "XX")], [("SET", "v"), ("EXPIRE", 7000, "XX")], [("SET", "v"), ("EXPIRE", "007000")],
    [("SET", "v"), ("EXPIRE", "+7000")], [("SET", "v"), ("EXPIRE", 100, "lt"), ("EXPIRE", 5000, "xx", "gt")],
    [("SET", "v"), ("GETEX", "EX", 5000)], [("SET", "v"), ("GETEX", "PX", 5000003)], [("SET", "v"), ("GETEX", "EXAT", FAR)],
    [("SET", "v"), ("GETEX", "PXAT", FAR * 1000)], [("SET", "v", "EX", 9000), ("GETEX", "PERSIST")], [("SET", "v", "EX", 9000), ("PERSIST",)],
    [("SET", "v", "EX", 9000), ("GETSET", "w")], [("SET", "5", "EX", 9000), ("INCR",), ("INCRBYFLOAT", "0.1")], [("SET", "v", "EX", 9000), ("APPEND", "w")],
    [("HSET", "f", 1), ("PEXPIRE", 6000000), ("HSET", "g", 2)], [("RPUSH", "a"), ("EXPIRE", 6000), ("RPUSH", "b"), ("PEXPIRE", 5000000)],
    [("SADD", "a"), ("EXPIRE", 6000), ("SADD", "b")], [("ZADD", 1, "a"), ("EXPIRE", 6000), ("ZINCRBY", 1, "a")],
    [("XADD", "*", "f", 1), ("EXPIRE", 6000), ("XADD", "*", "f", 2)], [("SETBIT", 7, 1), ("EXPIRE", 6000), ("SETBIT", 9, 1)],
    [("PFADD", "a"), ("EXPIRE", 6000), ("PFADD", "b")], [("SET", "v", "EX", 5000), ("EXPIRE", -1)], [("SET", "v"), ("PEXPIREAT", 1)],
    [("SET", "v", "PXAT", 1)], [("SET", "v"), ("SET", "w", "EXAT", 1)], [("SET", "v"), ("EXPIRE", 0)], [("SET", "v"), ("GETEX", "EXAT", 1)],
    [("SET", "v", "EX", 5000, "EX", 6000)], [("SET", "v", "EX", 5000), ("SET", "w", "NX", "EX", 100)], [("SET", "v"), ("PEXPIRE", 1), ("SET", "w", "PX", 8000000)],
]


def ways(round_):
    """(key, command): the round's keys of every way, in slots of their own."""
    for i, commands in enumerate(WAYS):
        for words in commands:
            yield on("way:%s:%d" % (round_, i), words)


def moved(proxy, round_):
    """Expiries that come with a key from elsewhere."""
    a, b = "{m%s}a" % round_, "{m%s}b" % round_
    script = "redis.call('set', KEYS[1], 1) return redis.call('%s', KEYS[1], ARGV[1])"
    proxy.pipeline([("SET", a + "1", "v", "PX", 5000321), ("RENAME", a + "1", b + "1"), ("SET", a + "2", "v", "EX", 5001), ("COPY", a + "2", b + "2"),
                    ("SET", a + "3", "v", "EX", 5002), ("RENAMENX", a + "3", b + "3"), ("RPUSH", a + "4", "x", "y"), ("SET", b + "4", "v", "EX", 9999),
                    ("SORT", a + "4", "ALPHA", "STORE", b + "4"), ("SET", a + "5", "v", "PX", 5004444), ("SADD", b + "5", "x"), ("EXPIRE", b + "5", 7777),
                    ("RENAME", a + "5", b + "5"), ("EVAL", script % "pexpire", 1, a + "6", 5000123), ("EVAL", script % "expire", 1, a + "7", 5000),
                    ("MSETEX", 2, a + "8", 1, a + "9", 2, "PX", 5000999), ("SADD", a + "s", 1, 2), ("EXPIRE", a + "s", 4444), ("SUNIONSTORE", a + "s", a + "s", a + "s")])
    payload = proxy.call("DUMP", b + "2")
    far = FAR * 1000 + 5
    proxy.pipeline([("RESTORE", a + "r1", 5000777, payload), ("RESTORE", a + "r2", far, payload, "ABSTTL"), ("RESTORE", a + "r3", 0, payload),
                    ("RESTORE", b + "1", 6000777, payload, "REPLACE"), ("RESTORE", a + "r4", 1, payload, "ABSTTL")])


FIELDS = [("HSET", "a", 1, "b", 2, "c", 3), ("HEXPIRE", 5000, "FIELDS", 1, "a"), ("HPEXPIRE", 5000123, "FIELDS", 1, "b"), ("HEXPIREAT", FAR, "FIELDS", 1, "c"),
          ("HPEXPIREAT", FAR * 1000 + 9, "NX", "FIELDS", 1, "a"), ("HGETEX", "PX", 6000001, "FIELDS", 1, "a"), ("HSETEX", "EX", 7000, "FIELDS", 1, "d", 4),
          ("HINCRBY", "a", 3), ("HINCRBYFLOAT", "b", "0.5"), ("HPERSIST", "FIELDS", 1, "c"), ("HEXPIRE", 9000, "GT", "FIELDS", 2, "a", "b"), ("HPEXPIRE", 0, "FIELDS", 1, "d")]


@pytest.mark.parametrize("when", ["source only", "synced", "cutover"])
def test_the_same_millisecond_for_every_way_of_setting_it(pair, crossfade, when):
    source, target = pair
    with_fields = source.nodes[0].kind == "redis-8.0"
    authority, follower = (target, source) if when == "cutover" else (source, target)
    # the first command of a way was given to the source long before
    source.pipeline([next(iter([on("way:old:%d" % i, c[0])])) for i, c in enumerate(WAYS) if len(c) > 1])
    proxy = crossfade(source, target, config={"backfill-keys-per-s": 1, "backfill-adaptive": False} if when == "source only" else {})
    proxy.ctl("start")
    if when == "source only":
        proxy.ctl("pause")
    else:
        proxy.wait("synced")
    if when == "cutover":
        proxy.ctl("verify")
        proxy.ctl("cutover", "--yes")
    proxy.pipeline([on("way:old:%d" % i, w) for i, c in enumerate(WAYS) for w in c[1:]])
    for round_ in range(6):
        proxy.pipeline(list(ways(round_)))
        moved(proxy, round_)
        if with_fields:
            proxy.pipeline([on("fields:%d" % round_, w) for w in FIELDS])
        time.sleep(0.02)
    proxy.wait("dirty=0,lag=0")
    have, wanted = follower.digest(), authority.digest()
    expiring = sum(v[2] > 0 for v in wanted.values())
    assert expiring > 150, expiring
    assert diff(wanted, have, ignore=lambda k: when == "source only" and k not in have and k.startswith(b"way:old")) == []
    if with_fields:
        assert any(isinstance(v, tuple) for v in wanted[b"fields:0"][1].values())
    if when != "source only":
        assert proxy.status()["mirror"]["mismatches"] == 0
        proxy.ctl("verify")


class Steady:
    """Keys that expire all the time, as sessions do: some 1,200 a second on a machine that has the time for it."""

    def __init__(self, proxy):
        self.proxy, self.failed, self.stop, self.made = proxy, [], threading.Event(), 0
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            rng = random.Random(7)
            with self.proxy.connect(timeout=30) as client:
                while not self.stop.wait(0.025):
                    commands = [("SET", "steady:%d" % (self.made + i), i, "PX", rng.randint(1, 400)) for i in range(30)]
                    assert client.pipeline(commands) == [b"OK"] * 30
                    self.made += 30
        except Exception as e:
            self.failed.append(e)

    def end(self):
        self.stop.set()
        self.thread.join()
        assert not self.failed, self.failed


def expired(side):
    return sum(int(n.info("stats")["expired_keys"]) for n in side.primaries())


def test_steady_expiries_do_not_keep_cutover_waiting(pair, crossfade):
    source, target = pair
    source.pipeline([("SET", "still:%d" % i, i) for i in range(500)])
    proxy = crossfade(source, target)
    proxy.ctl("start")
    steady = Steady(proxy)
    try:
        proxy.wait("synced")  # that is told while keys expire, too
        for order, authority in (("cutover", source), ("rollback", target)):
            before = expired(authority)
            wait_until("keys expire", lambda: expired(authority) > before + 200, 20, 0.05)
            proxy.ctl("verify")
            proxy.ctl(order, "--yes", "--wait", "30")
        assert source.dbsize() > 500 and target.dbsize() > 500
    finally:
        steady.end()
    wait_until("the last have expired", lambda: all(s.dbsize() == 500 for s in pair), 15, 0.1)
    proxy.wait("dirty=0,lag=0")
    assert diff(source.digest(), target.digest()) == []
    status = proxy.status()
    print("made %d, %s, last flip %s" % (steady.made, status["mirror"], status["last_flip"]))
    assert status["mirror"]["mismatches"] == 0
