"""Commands over several slots: a standalone source takes each as one, the target is a cluster. Each slot gets its part; what cannot be
split is copied; their order holds at flips, too. WIDE_SEED=n repeats the calls (not their interleaving).
"""
import os
import random
import threading

import pytest
from harness import RespError, diff


@pytest.fixture(scope="module")
def sides(servers):
    return servers.standalone("redis-7.0"), servers.cluster("valkey-9.1", shards=2)


def begin(crossfade, pair):
    proxy = crossfade(*pair)
    proxy.ctl("start")
    proxy.wait("synced,dirty=0")
    return proxy


def become_equal(proxy, pair):
    proxy.wait("dirty=0,lag=0")
    assert diff(pair[0].digest(), pair[1].digest()) == []


def test_parts_instead_of_copies(pair, crossfade):
    """What the reply proves goes as commands: nothing is copied, no reply differs."""
    proxy = begin(crossfade, pair)
    before = proxy.status()["mirror"]
    replies = proxy.pipeline([
        ("MSET", "a", 1, "b", 2, "c", 3, "d", 4, "a", 5), ("DEL", "a", "b", "none"), ("UNLINK", "c", "d"), ("MSETNX", "e", 1, "f", 2), ("MSETNX", "e", 3, "g", 2),
        ("RPUSH", "l1", "x", "y", "z"), ("LMOVE", "l1", "l2", "LEFT", "RIGHT"), ("LMOVE", "l1", "l2", "RIGHT", "LEFT"), ("RPOPLPUSH", "l1", "l3"), ("LMOVE", "l1", "l2", "LEFT", "LEFT"),
        ("SADD", "s1", "m", "n"), ("SADD", "s2", "m"), ("SMOVE", "s1", "s2", "m"), ("SMOVE", "s1", "s3", "n"), ("SMOVE", "s1", "s3", "q"),
        ("SUNIONSTORE", "s2", "no1", "no2"), ("LMPOP", 2, "no1", "l2", "LEFT"), ("ZADD", "z1", 1, "m"), ("ZMPOP", 2, "no1", "z1", "MAX"), ("RPUSH", "l2", "end")])
    assert not any(isinstance(r, RespError) for r in replies), replies
    become_equal(proxy, pair)
    after = proxy.status()["mirror"]
    assert after["snapshots"] == before["snapshots"] and after["mismatches"] == 0, after
    # these have to be copied: the new name, what is computed
    proxy.pipeline([("SADD", "s1", 1, 2), ("RENAME", "s1", "s9"), ("SADD", "s8", 2, 3), ("SINTERSTORE", "s7", "s8", "s9"), ("COPY", "s7", "s6"), ("SET", "v", "abc"), ("SET", "w", "x", "PX", 900000),
                    ("BITOP", "OR", "x", "v", "w"), ("RENAME", "w", "w2"), ("PFADD", "h1", 1), ("PFADD", "h2", 2), ("PFMERGE", "h3", "h1", "h2"), ("SORT", "s9", "STORE", "l9")])
    become_equal(proxy, pair)
    assert pair[1].dbsize() > 10
    assert proxy.status()["mirror"]["mismatches"] == 0


def test_transactions_over_slots(pair, crossfade):
    """Each command of a transaction goes by itself, in their order; its own parts, too."""
    proxy = begin(crossfade, pair)
    with proxy.connect() as client:
        client.call("SET", "te", 1, "PX", 900000)  # from now on expiries are compared
        before = proxy.status()["mirror"]
        replies = client.pipeline([
            ("MULTI",), ("SET", "ta", 1), ("INCR", "tb"), ("MSET", "tc", 3, "td", 4, "te", 5), ("DEL", "td", "none"), ("RPUSH", "tl", "x", "y"), ("LMOVE", "tl", "tm", "LEFT", "LEFT"),
            ("SADD", "ts", "m"), ("SMOVE", "ts", "tt", "m"), ("APPEND", "ta", "z"), ("XADD", "tx", "MAXLEN", "~", 100, "*", "f", 1), ("SET", "tf", 9, "PX", 900000),
            ("SADD", "tf", 1), ("INCRBYFLOAT", "tb", "0.5"), ("EXEC",)])
        assert len(replies[-1]) == 13 and isinstance(replies[-1][11], RespError), replies
        become_equal(proxy, pair)
        after = proxy.status()["mirror"]
        assert after["snapshots"] == before["snapshots"] and after["mismatches"] == 0, after
        # these have to be copied, and what is computed from them
        replies = client.pipeline([
            ("MULTI",), ("SADD", "s1", 1, 2), ("RENAME", "s1", "s9"), ("SINTERSTORE", "s7", "s9", "s9"), ("SADD", "s7", 5), ("EVAL", "return redis.call('set', KEYS[1], 5)", 1, "ta"),
            ("INCR", "ta"), ("COPY", "ta", "tz"), ("EXEC",), ("WATCH", "ta", "tb"), ("MULTI",), ("SET", "ta", 7), ("SET", "tb", 8), ("MGET", "tc", "te"), ("EXEC",)])
        assert replies[-7] == [2, b"OK", 2, 1, b"OK", 6, 1] and replies[-1] == [b"OK", b"OK", [b"3", b"5"]], replies
    become_equal(proxy, pair)
    assert pair[1].dbsize() > 10
    assert proxy.status()["mirror"]["mismatches"] == 0


def random_call(rng):
    k = ["k%d" % rng.randrange(24) for _ in range(4)]
    lists, sets = ["l%d" % rng.randrange(8) for _ in range(2)], ["s%d" % rng.randrange(8) for _ in range(3)]
    return rng.choice([
        ("MSET", k[0], rng.random(), k[1], rng.random(), k[2], 1), ("DEL", *k), ("UNLINK", k[0], sets[0], lists[0]), ("MSETNX", k[0], 1, k[1], 2), ("RENAME", k[0], k[1]),
        ("RENAMENX", lists[0], lists[1]), ("COPY", sets[0], sets[1], "REPLACE"), ("LMOVE", *lists, rng.choice(["LEFT", "RIGHT"]), rng.choice(["LEFT", "RIGHT"])),
        ("RPOPLPUSH", *lists), ("RPUSH", lists[0], rng.random()), ("RPUSH", lists[1], "a"), ("SMOVE", sets[0], sets[1], rng.randrange(4)), ("SADD", sets[0], rng.randrange(4)),
        ("SADD", sets[1], rng.randrange(4)), ("SUNIONSTORE", *sets), ("SINTERSTORE", *sets), ("SDIFFSTORE", *sets), ("LMPOP", 2, *lists, "LEFT"), ("INCR", k[0]),
        ("APPEND", k[1], "x"), ("PEXPIRE", rng.choice(k + lists + sets), rng.choice([1, 5, 40, 900000])), ("MGET", *k), ("EXISTS", *sets),
        ("EVAL", "redis.call('set', KEYS[1], ARGV[1]) return redis.call('append', KEYS[2], 'y')", 2, k[0], k[1], rng.random())])


def test_random_calls_over_slots(pair, crossfade):
    seed = int(os.environ.get("WIDE_SEED", random.randrange(1 << 30)))
    calls = int(os.environ.get("WIDE_CALLS", 1500))
    print("WIDE_SEED=%d" % seed)
    failed = []

    def work(rng):
        try:
            with proxy.connect(timeout=30) as client:
                for i in range(calls // 30):
                    client.pipeline([("MULTI",)] * (i % 3 == 0) + [random_call(rng) for _ in range(30)] + [("EXEC",)] * (i % 3 == 0))
        except Exception as e:
            failed.append(e)
    proxy = begin(crossfade, pair)
    threads = [threading.Thread(target=work, args=(random.Random(seed + i),)) for i in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed, failed
    become_equal(proxy, pair)
    print(proxy.status()["mirror"])
    assert proxy.ctl("verify", check=False).rc == 0, seed


def test_order_over_slots_at_flips(pair, crossfade):
    """Each client writes several keys at once, then one of them, then reads: always the value of its last write, whichever side answers and
    however the requests came through the fence."""
    proxy = begin(crossfade, pair)
    stop, failed, turns = threading.Event(), [], [0] * 4

    def work(i):
        keys = ["c%d:%d" % (i, n) for n in range(4)]
        try:
            with proxy.connect(timeout=30) as client:
                while not stop.is_set():
                    n, commands, wanted = turns[i] * 10, [], []
                    for step in range(n, n + 10):
                        one = keys[step % 4]
                        commands += [["MSET"] + [w for k in keys for w in (k, step)], ("SET", one, "own%d" % step), ["MGET"] + keys, ("GET", one)]
                        own = b"own%d" % step
                        wanted += [b"OK", b"OK", [own if k == one else b"%d" % step for k in keys], own]
                    assert client.pipeline(commands) == wanted
                    turns[i] += 1
        except Exception as e:
            failed.append(e)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    try:
        for _ in range(2):
            proxy.ctl("verify")
            proxy.ctl("cutover", "--yes")
            proxy.ctl("rollback", "--yes")
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert not failed, failed[:2]
    print("turns %s" % turns)
    become_equal(proxy, pair)
