"""Commands of very many keys on a standalone source: mirrored part by part while others are served (proxy/engine_crowd.c), towards a standalone server and towards a cluster.

What happens between two turns of the loop is the matter of tests/unit/test_crowd.c and tests/sim. CROWD_SEED=n repeats the keys that others write to.
"""
import os
import random
import threading

import pytest
from harness import Client, diff
from harness.process import wait_until
from harness.resp import ProtocolError, encode

SEED = int(os.environ.get("CROWD_SEED", random.randrange(1 << 30)))
ROOM = {"upstream-timeout": 60000, "request-max": "64mb", "mirror-queue-max": "256mb"}  # for a million
FEW = {"standalone": 17000, "cluster": 3000}  # more than go as one command


@pytest.fixture(scope="module")
def source(servers):
    return servers.standalone("redis-7.0", conf={"save": ""})


@pytest.fixture(scope="module")
def targets(servers):
    return {"standalone": servers.standalone("valkey-9.1"), "cluster": servers.cluster("valkey-9.1", shards=2)}


@pytest.fixture(params=["standalone", "cluster"])
def sides(request, source, targets):
    return source, targets[request.param]


@pytest.fixture(params=["few", pytest.param("million", marks=pytest.mark.long)])
def n(request, sides, targets):
    return 1000000 if request.param == "million" else FEW["cluster" if sides[1] is targets["cluster"] else "standalone"]


def keys_of(n, first=0):
    return ["k%d" % i for i in range(first, n)]


def mset(keys, value):
    return ["MSET"] + [word for k in keys for word in (k, value)]


def fill(client, keys, value):
    """MSET of all, as far as it takes them (a million words at once)."""
    for i in range(0, len(keys), 500000):
        assert client.call(*mset(keys[i:i + 500000], value)) == b"OK"


def become_equal(proxy, pair):
    proxy.wait("dirty=0,lag=0", timeout=120)
    assert diff(pair[0].digest(), pair[1].digest()) == []


class Others:
    """Clients that write to single keys of such commands meanwhile, each to its own, and read what they wrote."""

    def __init__(self, proxy, n, name):
        self.proxy, self.n, self.name, self.stop = proxy, n, name, threading.Event()
        self.turns, self.wrong = [0] * 3, []
        self.threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(3)]

    def _run(self, i):
        rng = random.Random(SEED + i)
        try:
            with self.proxy.connect(timeout=120) as client:
                while not self.stop.is_set():
                    key, own = "k%d" % rng.randrange(self.n), "%s%d" % (self.name, i)
                    got = client.pipeline([("INCR", own), ("GET", own), ("SET", key, i), ("APPEND", key, "x"), ("RPUSH", "l" + own, "x")])
                    self.turns[i] += 1
                    if got[0] != self.turns[i] or got[1] != b"%d" % self.turns[i]:
                        self.wrong.append(got)
        except (OSError, ProtocolError) as e:
            self.wrong.append(e)

    def __enter__(self):
        print("CROWD_SEED=%d" % SEED)
        for t in self.threads:
            t.start()
        return self

    def more(self):
        before = list(self.turns)
        wait_until("the others go on", lambda: self.wrong or all(a > b for a, b in zip(self.turns, before)), 120)

    def __exit__(self, *exc):
        self.stop.set()
        for t in self.threads:
            t.join(120)
        assert not self.wrong, self.wrong[:3]


def test_beside_others(pair, crossfade, n):
    """While the backfill runs, then synced, there and back."""
    keys, half = keys_of(n), keys_of(n, n // 2)
    pair[0].pipeline(("SET", "old%d" % i, "v") for i in range(3000))
    proxy = crossfade(*pair, config={"backfill-keys-per-s": 100, **ROOM})
    proxy.ctl("start")
    with proxy.connect(timeout=120) as client, Others(proxy, n, "own") as others:
        others.more()
        fill(client, keys, "first")
        assert client.call("DEL", *half) > 0
        proxy.ctl("throttle", "--off")
        proxy.wait("synced,dirty=0", timeout=120)
        before = proxy.status()["mirror"]
        fill(client, keys, "second")
        others.more()
        assert client.call("UNLINK", *keys) == len(keys)
        assert client.call("DEL", *half, *["none%d" % i for i in range(100)]) <= len(half)
        others.more()
        proxy.wait("dirty=0,lag=0", timeout=120)
        after = proxy.status()["mirror"]
        assert after["mismatches"] == 0 and after["snapshots"] == before["snapshots"], after  # nothing had to be copied
    become_equal(proxy, pair)
    proxy.ctl("verify")
    with proxy.connect(timeout=120) as client, Others(proxy, n, "flipped") as others:
        proxy.ctl("cutover", "--yes")
        fill(client, keys, "third")
        assert client.call("DEL", *half) > 0
        others.more()
        proxy.ctl("verify")
        proxy.ctl("rollback", "--yes")
        fill(client, half, "fourth")
    become_equal(proxy, pair)


def test_what_is_copied(pair, crossfade, targets):
    """Commands that cannot be restated: what they wrote is copied, and nothing else."""
    n = FEW["cluster" if pair[1] is targets["cluster"] else "standalone"]
    keys = keys_of(n)
    proxy = crossfade(*pair)
    proxy.ctl("start")
    proxy.wait("synced,dirty=0")
    with proxy.connect(timeout=120) as client:
        assert client.call(*mset(keys, "v")) == b"OK"
        assert client.pipeline([("SADD", "s1", "a"), ("SADD", "s2", "b"), ("PFADD", "h1", 1), ("RPUSH", "l77", "x", "y"), ("ZADD", "z99", 1, "m")]) == [1, 1, 1, 2, 1]
        assert client.call("SUNIONSTORE", "s3", "s1", "s2", *["no%d" % i for i in range(n)]) == 2
        assert client.call("PFMERGE", "h2", "h1", *["no%d" % i for i in range(n)]) == b"OK"
        assert client.call("BITOP", "OR", "b1", "k1", "k2", *["no%d" % i for i in range(n)]) == 1
        proxy.wait("dirty=0,lag=0")
        before = proxy.status()["mirror"]
        assert client.call("MSETNX", *mset(["new%d" % i for i in range(n)], "v")[1:]) == 1
        assert client.call("MSETNX", *mset(keys, "w")[1:]) == 0
        assert client.call("LMPOP", n, *["l%d" % i for i in range(n)], "LEFT") == [b"l77", [b"x"]]
        assert client.call("ZMPOP", n, *["z%d" % i for i in range(n)], "MIN") == [b"z99", [[b"m", b"1"]]]
        proxy.wait("dirty=0,lag=0")
        assert proxy.status()["mirror"]["snapshots"] == before["snapshots"]  # these go as MSET, and as the pop of one key
        script = "for i = 1, #KEYS, 100 do redis.call('append', KEYS[i], 'y') end return #KEYS"
        assert client.call("EVAL", script, n, *keys) == n
    become_equal(proxy, pair)
    assert proxy.status()["mirror"]["mismatches"] == 0


def test_killed_in_the_middle(pair, crossfade, n):
    """Nobody writes past the proxy, so the journal alone says what is owed: its slots from before the command is sent until the follower has the last part."""
    keys = keys_of(n)
    proxy = crossfade(*pair, config={"bypassing-writers": False, **ROOM})
    proxy.ctl("start")
    proxy.wait("synced,dirty=0")
    for i, command in enumerate([mset(keys[:500000], "a"), ["DEL"] + keys]):
        with Client(proxy.port, timeout=120) as client, pair[0].connect(timeout=120) as server:
            size = server.call("DBSIZE")
            client.send_raw(encode(command))
            if i % 2:
                client.read()  # it was answered: most of its parts are still to be made
            else:
                wait_until("the source has done it", lambda: server.call("DBSIZE") != size, 60, 0.001)
            proxy.restart(kill=True)
        proxy.wait("synced,dirty=0,lag=0", timeout=120)
        assert diff(pair[0].digest(), pair[1].digest()) == []
