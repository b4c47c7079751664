"""Mirroring: whatever a write does on the source is on the target, too, before, while and after the key is copied."""
import random
import time

import effect_calls
import pytest
from harness import RespError, diff, key_slot
from harness.process import wait_until
from load import FAR_MS, Load, fill, fill_types


@pytest.fixture(scope="module", params=["cluster", "standalone"])
def sides(request, servers):
    if request.param == "cluster":
        return servers.cluster("redis-7.0"), servers.cluster("valkey-9.1")
    return servers.standalone("redis-8.0"), servers.standalone("valkey-9.1")


@pytest.fixture
def pair(sides):
    for side in sides:
        side.flushall()
        for node in side.primaries():
            node.call("FUNCTION", "FLUSH")
    return sides


SLOW = {"backfill-keys-per-s": 1, "backfill-adaptive": False}


def settle(proxy):
    proxy.wait("dirty=0,lag=0", timeout=20)


def equal_soon(source, target, timeout=10, **options):
    """Follower becomes equal within the time; shows the difference if not."""
    deadline = time.monotonic() + timeout
    while True:
        lines = diff(source, target, **options)
        if not lines:
            return
        assert time.monotonic() < deadline, lines[:10]
        time.sleep(0.05)


# ---- writes that build on what only the source has

BUILDS = [
    ("n", [("SET", "7")], ("INCR",)), ("nby", [("SET", "7")], ("INCRBY", 5)), ("decr", [("SET", "7")], ("DECR",)),
    ("app", [("SET", "hello ")], ("APPEND", "world")), ("range", [("SET", "hello world")], ("SETRANGE", 6, "there")),
    ("bit", [("SET", "\x0f")], ("SETBIT", 100, 1)), ("field", [("SET", "\x0f")], ("BITFIELD", "INCRBY", "u8", 0, 3)),
    ("float", [("SET", "0.1")], ("INCRBYFLOAT", "0.2")),
    ("hash", [("HSET", "a", 1, "b", 2)], ("HSET", "c", 3)), ("hincr", [("HSET", "a", 1, "b", 2)], ("HINCRBY", "a", 3)),
    ("hfloat", [("HSET", "a", "1.5", "b", 2)], ("HINCRBYFLOAT", "a", "0.1")), ("hdel", [("HSET", "a", 1, "b", 2)], ("HDEL", "a")),
    ("hsetnx", [("HSET", "a", 1)], ("HSETNX", "b", 2)),
    ("rpush", [("RPUSH", "a", "b")], ("RPUSH", "c")), ("lpush", [("RPUSH", "a", "b")], ("LPUSH", "c")), ("lpop", [("RPUSH", "a", "b")], ("LPOP",)),
    ("lset", [("RPUSH", "a", "b")], ("LSET", 0, "c")), ("lins", [("RPUSH", "a", "b")], ("LINSERT", "AFTER", "a", "c")),
    ("ltrim", [("RPUSH", *"abcdef")], ("LTRIM", 1, 3)), ("lrem", [("RPUSH", *"abcabc")], ("LREM", 1, "b")), ("lpushx", [("RPUSH", "a")], ("LPUSHX", "b")),
    ("sadd", [("SADD", "a", "b")], ("SADD", "c")), ("srem", [("SADD", "a", "b")], ("SREM", "a")), ("spop", [("SADD", *"abcdefgh")], ("SPOP",)),
    ("spopn", [("SADD", *"abcdefgh")], ("SPOP", 3)), ("spopall", [("SADD", *"abc")], ("SPOP", 3)),
    ("zadd", [("ZADD", 1, "a", 2, "b")], ("ZADD", 3, "c")), ("zincr", [("ZADD", 1, "a", 2, "b")], ("ZINCRBY", "0.1", "a")),
    ("zpop", [("ZADD", 1, "a", 2, "b")], ("ZPOPMIN",)), ("zrem", [("ZADD", 1, "a", 2, "b")], ("ZREM", "a")),
    ("zrange", [("ZADD", 1, "a", 2, "b", 3, "c")], ("ZREMRANGEBYSCORE", 2, 3)), ("geo", [("GEOADD", 13, 52, "b")], ("GEOADD", 2, 48, "p")),
    ("pf", [("PFADD", *"abc")], ("PFADD", "d", "e")),
    ("xadd", [("XADD", "5-1", "f", 1)], ("XADD", "6-1", "f", 2)), ("xauto", [("XADD", "5-1", "f", 1)], ("XADD", "*", "f", 2)),
    ("xtrim", [("XADD", "5-1", "f", 1), ("XADD", "6-1", "f", 1)], ("XTRIM", "MAXLEN", 1)),
    ("xdel", [("XADD", "5-1", "f", 1), ("XADD", "6-1", "f", 1)], ("XDEL", "5-1")),
    ("expire", [("SET", "v")], ("PEXPIRE", 10000000)), ("persist", [("SET", "v", "PXAT", FAR_MS)], ("PERSIST",)),
    ("keepttl", [("SET", "v", "PXAT", FAR_MS)], ("SET", "w", "KEEPTTL")), ("ttlapp", [("SET", "v", "PXAT", FAR_MS)], ("APPEND", "w")),
    ("getex", [("SET", "v")], ("GETEX", "EX", 10000)), ("getdel", [("SET", "v")], ("GETDEL",)), ("getset", [("SET", "v")], ("GETSET", "w")),
    ("del", [("HSET", "a", 1)], ("DEL",)), ("unlink", [("RPUSH", "a")], ("UNLINK",)), ("setnx", [("SET", "v")], ("SETNX", "w")),
]


def on(key, command):
    return (command[0], key) + tuple(command[1:])


@pytest.mark.parametrize("when", ["before", "while", "after"])
def test_a_write_on_a_key_that_only_the_source_has(pair, crossfade, when):
    source, target = pair
    rounds = range(4)
    for name, first, _ in BUILDS:
        for i in rounds:
            for c in first:
                source.call(*on("%s:%d" % (name, i), c))
    proxy = crossfade(source, target, config=SLOW if when == "before" else {"backfill-keys-per-s": 400} if when == "while" else {})
    proxy.ctl("start")
    if when == "before":
        proxy.ctl("pause")
    if when == "after":
        proxy.wait("synced")
    for i in rounds:
        replies = proxy.pipeline([on("%s:%d" % (name, i), c) for name, _, c in BUILDS])
        bad = [r for r in replies if isinstance(r, RespError)]
        assert bad == []
        time.sleep(0.1 if when == "while" else 0)
    proxy.wait("dirty=0,lag=0", timeout=20)
    if when == "before":
        # What was touched is whole on the target, though nothing was copied.
        touched = {"%s:%d" % (name, i) for name, _, _ in BUILDS for i in rounds}
        have = target.digest()
        wanted = source.digest()
        for key in have:
            assert key.decode() in touched or wanted[key] == have[key], key
        assert diff({k: v for k, v in wanted.items() if k in have}, have) == []
        assert proxy.status()["backfill"]["keys_copied"] < 30
        for key in ("n:0", "app:1", "hash:2", "rpush:3", "zadd:0", "range:1", "xadd:2", "xauto:3"):
            assert target.call("EXISTS", key) == 1, key
        proxy.ctl("throttle", "--off")
        proxy.ctl("resume")
    proxy.wait("synced")
    assert diff(source, target) == []
    assert proxy.status()["mirror"]["mismatches"] == 0


# ---- effects that are rewritten

REWRITTEN = [
    ("SET", "a", 1, "EX", 5000), ("SET", "b", 1, "PX", 5000000), ("SETEX", "c", 5000, "v"), ("PSETEX", "d", 5000000, "v"),
    ("EXPIRE", "a", 6000), ("EXPIRE", "a", 9000, "GT"), ("EXPIRE", "a", 10, "GT"), ("PEXPIRE", "b", 7000000), ("EXPIREAT", "c", 1999999999),
    ("GETEX", "d", "EX", 8000), ("GETEX", "c", "PERSIST"), ("SET", "e", "v", "EXAT", 1999999999), ("SET", "f", 1, "EX", 7000, "GET"), ("SET", "f", 2, "XX", "EX", 8000),
    ("SET", "f", 3, "NX"), ("GETDEL", "e"), ("SETNX", "g", 1), ("INCRBYFLOAT", "g", "0.3"), ("INCRBYFLOAT", "g", "3e-3"), ("EXPIRE", "g", 10000),
    ("INCRBYFLOAT", "g", 1), ("HSET", "h", "a", 1), ("HINCRBYFLOAT", "h", "a", "0.7"), ("EXPIRE", "h", -1), ("SET", "i", 1), ("EXPIRE", "i", 0),
    ("SADD", "s", *"abcdefghijklmnop"), ("SPOP", "s"), ("SPOP", "s", 4), ("SADD", "s2", "a", "b"), ("SPOP", "s2", 10),
    ("RPUSH", "l", *"abcdef"), ("LMPOP", 1, "l", "LEFT", "COUNT", 2), ("LPOP", "l", 1), ("LMPOP", 1, "l", "RIGHT"),
    ("ZADD", "z", 1, "a", 2, "b", 3, "c", 4, "d"), ("ZMPOP", 1, "z", "MIN", "COUNT", 2), ("ZPOPMAX", "z"), ("ZINCRBY", "z", "0.1", "x"), ("ZADD", "z", "INCR", "0.2", "x"),
    ("XADD", "x", "*", "f", 1), ("XADD", "x", "*", "f", 2), ("XADD", "x", "*", "f", 3), ("XADD", "x", "MAXLEN", "~", 1000, "*", "f", 4),
    ("XGROUP", "CREATE", "x", "g", "0"), ("XREADGROUP", "GROUP", "g", "me", "COUNT", 2, "STREAMS", "x", ">"),
    ("XREADGROUP", "GROUP", "g", "you", "NOACK", "COUNT", 1, "STREAMS", "x", ">"), ("XREADGROUP", "GROUP", "g", "you", "STREAMS", "x", ">"),
    ("XREADGROUP", "GROUP", "g", "me", "STREAMS", "x", "0"), ("XAUTOCLAIM", "x", "g", "she", 0, "0", "COUNT", 1), ("XADD", "x", "MAXLEN", "=", 2, "*", "f", 5),
    ("GEOADD", "geo", 13.4, 52.5, "b", 2.35, 48.85, "p"), ("RPUSH", "m{t}", "a", "b"), ("LMOVE", "m{t}", "n{t}", "LEFT", "RIGHT"), ("RPOPLPUSH", "m{t}", "n{t}"),
    ("SADD", "u{t}", 1, 2), ("SADD", "v{t}", 2, 3), ("SUNIONSTORE", "w{t}", "u{t}", "v{t}"), ("SINTERSTORE", "y{t}", "u{t}", "v{t}"), ("SMOVE", "u{t}", "v{t}", 1),
    ("ZUNIONSTORE", "zu{t}", 2, "u{t}", "v{t}"), ("COPY", "w{t}", "cp{t}"), ("RENAME", "cp{t}", "rn{t}"), ("RENAMENX", "rn{t}", "w{t}"), ("SORT", "n{t}", "ALPHA", "STORE", "st{t}"),
    ("PFADD", "p{t}", 1, 2), ("PFADD", "q{t}", 3), ("PFMERGE", "r{t}", "p{t}", "q{t}"), ("PFCOUNT", "r{t}"), ("BITOP", "XOR", "bx{t}", "r{t}", "b{t}"), ("BITOP", "NOT", "bo{t}", "b{t}"), ("SET", "b{t}", "abc"),
    ("MSET", "ms1", 1, "ms2", 2, "ms3", 3), ("DEL", "ms1", "ms2"), ("UNLINK", "ms3"), ("GETSET", "b", "new"),
]
NEWER = [("HSET", "hf", "a", 1, "b", 2, "c", 3), ("HEXPIRE", "hf", 5000, "FIELDS", 1, "a"), ("HPEXPIRE", "hf", 5000000, "FIELDS", 2, "b", "c"),
         ("HPERSIST", "hf", "FIELDS", 1, "c"), ("HEXPIRE", "hf", 0, "FIELDS", 1, "b"), ("HINCRBYFLOAT", "hf", "a", 1)]


def rewritten_for(source):
    return [c for r in range(3) for c in REWRITTEN + (NEWER if source.nodes[0].kind == "redis-8.0" else [])]


def run(proxy, commands):
    """One by one; errors of ours, not of the test's, fail it."""
    for c in commands:
        reply = proxy.client.try_call(*c)
        if isinstance(reply, RespError):
            assert reply.code == "ERR" or reply.code == "BUSYGROUP", (c, reply)
            assert "no such key" in str(reply) or reply.code == "BUSYGROUP", (c, reply)


@pytest.mark.parametrize("when", ["paused", "synced"])
def test_rewritten_effects_give_the_same_value_and_millisecond(pair, crossfade, when):
    source, target = pair
    fill_types(source, many=1)
    proxy = crossfade(source, target, config=SLOW if when == "paused" else {})
    proxy.ctl("start")
    if when == "synced":
        proxy.wait("synced")
    else:
        proxy.ctl("pause")
    run(proxy, rewritten_for(source))
    settle(proxy)
    have, wanted = target.digest(), source.digest()
    if when == "paused":
        wanted = {k: v for k, v in wanted.items() if not k.startswith(b"type")}
        have = {k: v for k, v in have.items() if not k.startswith(b"type")}
    assert diff(wanted, have) == []
    mirror = proxy.status()["mirror"]
    assert mirror["mismatches"] == 0 and mirror["queued"] == 0 and mirror["effects"] + mirror["snapshots"] > 100


def test_scripts(pair, crossfade):
    source, target = pair
    source.call("SET", "only{s}", "source")
    library = "#!lua name=lib\nredis.register_function('put', function(keys, args) return redis.call('rpush', keys[1], args[1]) end)"
    for side in pair:
        for node in side.primaries():
            node.call("FUNCTION", "LOAD", library)
    proxy = crossfade(source, target, config=SLOW)
    proxy.ctl("start")
    proxy.ctl("pause")
    assert proxy.call("EVAL", "redis.call('set', KEYS[1], ARGV[1]) return redis.call('append', KEYS[2], ARGV[1])", 2, "k{s}", "only{s}", "!") == 7
    proxy.call("EVAL", "redis.call('set', 'undeclared{s}', 1) return redis.call('incr', KEYS[1])", 1, "n{s}")
    failed = proxy.client.try_call("EVAL", "redis.call('set', KEYS[1], 'written') return redis.call('lpush', KEYS[1], 1)", 1, "half{s}")
    assert isinstance(failed, RespError) and "WRONGTYPE" in str(failed)
    failed = proxy.client.try_call("EVAL", "redis.call('incr', KEYS[1]) error('boom')", 1, "n{s}")
    assert isinstance(failed, RespError)
    sha = proxy.call("SCRIPT", "LOAD", "return redis.call('spop', KEYS[1])")
    proxy.call("SADD", "set{s}", *"abcdefgh")
    for _ in range(5):
        assert len(proxy.call("EVALSHA", sha, 1, "set{s}")) == 1
    for i in range(5):
        assert proxy.call("FCALL", "put", 1, "fl{s}", i) == i + 1
    assert proxy.call("EVAL_RO", "return redis.call('get', KEYS[1])", 1, "only{s}") == b"source!"
    proxy.call("EVAL", "for i = 1, 50 do redis.call('incr', 'many{s}' .. i) end", 0)
    equal_soon(source, target)
    settle(proxy)
    assert target.call("GET", "half{s}") == b"written" and target.call("GET", "undeclared{s}") == b"1" and target.call("GET", "n{s}") == b"2"
    assert target.call("GET", "only{s}") == b"source!"
    proxy.ctl("throttle", "--off")
    proxy.ctl("resume")
    proxy.wait("synced")
    proxy.ctl("verify")


def test_what_bypasses_the_proxy_is_noticed(pair, crossfade):
    source, target = pair
    fill(source, 60, prefix="{b}k")
    fill(source, 200)
    proxy = crossfade(source, target)
    proxy.ctl("start")
    proxy.wait("synced")
    source.call("SET", "k:1", "bypassing")
    source.call("DEL", "k:2")
    source.call("PEXPIREAT", "k:3", FAR_MS)
    source.call("RENAME", "{b}k:4", "{b}renamed")
    source.call("HSET", "newhash", "f", 1)
    source.call("SET", "soon", 1, "PX", 60)
    source.call("APPEND", "k:5", "tail")
    equal_soon(source, target)
    assert target.call("GET", "k:1") == b"bypassing" and target.call("EXISTS", "k:2") == 0
    assert proxy.status()["mirror"]["foreign"] >= 7
    # both at once, on the same keys
    for i in range(100):
        source.call("INCR", "both")
        proxy.call("INCR", "both")
        proxy.call("RPUSH", "bothlist", i)
        source.call("RPUSH", "bothlist", -i)
    equal_soon(source, target)
    assert target.call("GET", "both") == b"200"
    proxy.wait("synced,dirty=0")
    # somebody tampers with the follower
    target.call("SET", "k:7", "tampered")
    target.call("DEL", "k:8")
    target.call("SET", "extra", 1)
    equal_soon(source, target)
    source.flushall()
    proxy.call("SET", "after", "flush")
    equal_soon(source, target, timeout=15)
    assert target.dbsize() == 1
    proxy.wait("synced,dirty=0")
    proxy.ctl("verify")


@pytest.mark.parametrize("ack", ["source", "both"])
def test_a_target_that_dies_costs_clients_nothing(pair, crossfade, ack):
    source, target = pair
    fill(source, 300)
    fill_types(source, many=1)
    proxy = crossfade(source, target, config={"mirror-ack": ack})
    proxy.ctl("start")
    proxy.wait("synced")
    victim = target.primaries()[0]
    with Load(proxy, clients=3) as load:
        load.run_on(0.2)
        victim.kill()
        victim.drop()
        load.run_on(0.5)
        if len(target.nodes) == 1 and ack == "source":
            status = proxy.status()
            assert status["phase"] == "synced" and status["dirty_keys"] + status["dirty_slots"] > 0
            assert [n["state"] for n in status["nodes"] if n["side"] == "target"] != ["up"]
        victim.start()
        load.run_on(0.5)
    if len(target.nodes) > 1:
        target.wait_ok()
    proxy.wait("synced,dirty=0,lag=0", timeout=40)
    equal_soon(source, target)
    load.check(proxy, source, target)
    assert load.longest_s < 3
    proxy.ctl("verify")


def test_connections_come_back_though_nobody_sends_anything(pair, crossfade):
    """A node that is not watched has its slots dirty, so they are the reason to connect: without clients, and killed again while it does so."""
    source, target = pair
    proxy = crossfade(source, target)
    proxy.call("SET", "k", "v")
    proxy.ctl("start")
    proxy.wait("synced,dirty=0,lag=0")
    for side, times in ((source, 1), (target, 2), (source, 3), (target, 4)):
        for node in side.primaries():
            with node.connect() as c:
                for _ in range(times):
                    c.call("CLIENT", "KILL", "TYPE", "normal")
        proxy.wait("synced,dirty=0,lag=0", timeout=30)


def test_mirror_ack_both_waits_for_the_follower(pair, crossfade):
    """An acknowledged write is on the target at once: no queue between."""
    source, target = pair
    proxy = crossfade(source, target, config={"mirror-ack": "both"})
    proxy.ctl("start")
    proxy.wait("synced")
    for i in range(200):
        proxy.call("SET", "k:%d" % i, i)
        proxy.call("INCR", "n")
        assert target.call("GET", "k:%d" % i) == b"%d" % i and target.call("GET", "n") == b"%d" % (i + 1)
    assert diff(source, target) == []


def test_counters_of_the_status(pair, crossfade):
    source, target = pair
    proxy = crossfade(source, target)
    proxy.ctl("start")
    proxy.wait("synced")
    before = proxy.status()["mirror"]
    proxy.pipeline([("SET", "k:%d" % i, i) for i in range(500)])
    proxy.pipeline([("GET", "k:%d" % i) for i in range(500)])
    proxy.pipeline([("DEL", "absent:%d" % i) for i in range(500)])
    settle(proxy)
    after = proxy.status()
    assert after["mirror"]["effects"] - before["effects"] == 500  # neither reads nor what changed nothing
    assert after["mirror"]["queued"] == 0 and after["mirror"]["lag_ms"] == 0 and after["mirror"]["mismatches"] == 0
    assert after["dirty_keys"] == after["dirty_slots"] == 0
    assert after["clients"] >= 1 and after["authority"] == "source" and after["target_slots"] == []
    assert {n["side"] for n in after["nodes"]} == {"source", "target"} and {n["state"] for n in after["nodes"]} == {"up"}
    assert len(after["nodes"]) == len(source.nodes) + len(target.nodes)


def test_random_calls_of_every_kind(pair, standalone, crossfade):
    """What test_effects.py does to the rules, through the proxy: any call, keys that expire under it, errors. Most calls are over several slots: towards a
    cluster, too."""
    source, target = pair
    if len(source.nodes) > 1:
        source = standalone("redis-8.0")
    seed = random.randrange(1 << 30)
    print("seed %d" % seed)
    calls = effect_calls.Calls(random.Random(seed), lambda: int(time.time() * 1000))
    calls.payload = source.call("DUMP", "none") or b"bad"
    calls.recent = {}
    proxy = crossfade(source, target)
    proxy.ctl("start")
    with proxy.connect(timeout=30) as client:
        for _ in range(30):
            client.pipeline([calls.call() for _ in range(100)])
    proxy.wait("synced,dirty=0,lag=0")
    time.sleep(0.1)  # what lives for milliseconds is gone
    equal_soon(source, target)
    assert proxy.ctl("verify", check=False).rc == 0


@pytest.mark.tsan
def test_quick_mirror(standalone, crossfade):
    source, target = standalone("redis-7.0"), standalone("valkey-9.1")
    fill(source, 200)
    proxy = crossfade(source, target)
    with Load(proxy, clients=3) as load:
        proxy.ctl("start")
        load.run_on()
        for i in range(20):
            source.call("SET", "k:%d" % i, "bypassing")
        proxy.wait("synced")
        load.run_on()
    equal_soon(source, target)
    load.check(proxy, source, target)
