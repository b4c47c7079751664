"""FLUSHALL, FLUSHDB, SWAPDB: both sides are the same again behind them, whatever is written, copied or queued meanwhile."""
import threading
import time

import pytest
from harness import Client, RespError, diff
from harness.crossfade import built_with_faults
from harness.process import wait_until
from load import fill, fill_types


def on(*short):
    """On clusters and alone; what is not named is a long form."""
    both = [pytest.param(s, marks=[] if s in short else pytest.mark.long) for s in ("cluster", "standalone")]
    return pytest.mark.parametrize("sides", both, indirect=True, scope="module")


@pytest.fixture(scope="module")
def sides(request, servers):
    if request.param == "cluster":
        return servers.cluster("redis-7.0"), servers.cluster("valkey-9.1")
    return servers.standalone("redis-8.0"), servers.standalone("valkey-8.1")


class Writers:
    """Counters and lists that build on what is there, and somebody who flushes."""

    def __init__(self, proxy, flushes, clients=3, tolerant=False):
        self.proxy, self.flushes, self.tolerant = proxy, flushes, tolerant
        self.ending = threading.Event()
        self.errors, self.rounds = [], 0
        self.threads = [threading.Thread(target=self.run, args=(i,), daemon=True) for i in range(clients)]

    def may_be(self, error):
        return self.tolerant and error.code in ("CLUSTERDOWN", "UNKNOWN")

    def run(self, number):
        try:
            with self.proxy.connect(timeout=30) as c:
                while not self.ending.is_set():
                    k = self.rounds % 40
                    replies = c.pipeline([("INCR", "n%d" % k), ("APPEND", "k:%d" % k, number), ("RPUSH", "l%d" % k, number), ("SADD", "s%d" % k, number),
                                          ("HSET", "h%d" % k, number, k), ("SET", "e%d" % k, k, "PX", 30), ("DEL", "k:%d" % (k + 60)), ("GET", "n%d" % k)])
                    self.errors += [r for r in replies if isinstance(r, RespError) and not self.may_be(r)]
                    self.rounds += 1
        except Exception as e:  # noqa: B902 (told at the end)
            self.errors.append(repr(e))

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def flush_all_along(self):
        with self.proxy.connect(timeout=30) as c:
            for command in self.flushes:
                before = self.rounds
                assert c.call(*command) == b"OK", command
                wait_until("writers go on", lambda: self.errors or self.rounds > before + 20, 20)

    def __exit__(self, *exc):
        self.ending.set()
        for t in self.threads:
            t.join(30)
        assert self.errors == []


FLUSHES = [("FLUSHALL",), ("FLUSHDB",), ("FLUSHALL", "ASYNC"), ("FLUSHDB", "SYNC")]
SLOWLY = {"backfill-keys-per-s": 500, "backfill-adaptive": False}


def equal(proxy, source, target, dbs=(0,)):
    proxy.wait("dirty=0,lag=0", timeout=60)
    deadline = time.monotonic() + 20
    while True:  # what lives for milliseconds ends on both sides
        lines = [line for db in dbs for line in diff(source.digest(db=db), target.digest(db=db))]
        if not lines:
            return
        assert time.monotonic() < deadline, lines[:10]
        time.sleep(0.05)


def mirrored(crossfade, source, target, **options):
    proxy = crossfade(source, target, **options)
    proxy.ctl("start")
    proxy.wait("synced,dirty=0,lag=0")
    return proxy


@on("cluster", "standalone")
def test_order_of_one_client(pair, crossfade):
    source, target = pair
    proxy = crossfade(source, target, config={"workers": 3})
    fill(source, 100)
    keys = ["o%d" % i for i in range(30)]
    for command in FLUSHES:
        replies = proxy.pipeline([("SET", k, 1) for k in keys] + [command] + [("INCR", k) for k in keys] + [command, ("INCR", "o1")])
        assert replies == [b"OK"] * 31 + [1] * 30 + [b"OK", 1] and proxy.call("DBSIZE") == 1
    bad = proxy.client.try_call("FLUSHALL", "SOMETIMES")
    with source.primaries()[0].connect() as c:
        assert bad == c.try_call("FLUSHALL", "SOMETIMES")
    assert proxy.call("DBSIZE") == 1


@on("cluster")
def test_watched_waited_for_and_queued(pair, crossfade):
    source, target = pair
    proxy = mirrored(crossfade, source, target)
    with proxy.connect() as a, proxy.connect() as b, proxy.connect() as waiting:
        a.call("SET", "{t}k", 1)
        a.call("WATCH", "{t}k")
        waiting.send("BLPOP", "{t}list", 0)
        wait_until("it waits", lambda: b"blocked_clients:1" in b.call("INFO", "clients"), 10)
        assert b.call("FLUSHALL") == b"OK"
        assert a.pipeline([("MULTI",), ("SET", "{t}k", 2), ("EXEC",)])[2] is None
        assert b.call("RPUSH", "{t}list", "x") == 1 and waiting.read() == [b"{t}list", b"x"]
        if len(source.primaries()) > 1:  # its own error
            assert str(b.try_call("SWAPDB", 0, 1)) == str(source.primaries()[0].client.try_call("SWAPDB", 0, 1))
        for command in [("FLUSHALL",), ("FLUSHDB",), ("SWAPDB", 0, 1)]:
            replies = b.pipeline([("MULTI",), command, ("SET", "{t}k", 3), ("EXEC",)])
            assert str(replies[1]) == "ERR crossfade: '%s' is not available: inside a transaction it could not run alone on every server" % command[0].lower()
            assert replies[3].code == "EXECABORT"
        assert b.call("DBSIZE") == 0
    equal(proxy, source, target)


@on("cluster")
def test_while_mirroring_and_after_cutover(pair, crossfade):
    source, target = pair
    fill(source, 300)
    proxy = mirrored(crossfade, source, target)
    with Writers(proxy, FLUSHES) as w:
        w.flush_all_along()
    equal(proxy, source, target)
    proxy.ctl("verify")
    proxy.ctl("cutover", "--yes")
    with Writers(proxy, FLUSHES) as w:
        w.flush_all_along()
    equal(proxy, source, target)
    proxy.ctl("verify")
    proxy.ctl("rollback", "--yes")


@on("standalone")
def test_nobody_elses(pair, crossfade):
    """A flush of ours is told to every connection of ours, and taken for nobody else's: nothing is compared again."""
    source, target = pair
    fill(source, 50)
    proxy = mirrored(crossfade, source, target, config={"workers": 3})
    for command in FLUSHES * 2:
        assert proxy.pipeline([("SET", "x", 1), command]) == [b"OK", b"OK"]
    equal(proxy, source, target)
    assert "was seen" not in proxy.log() and "not flushed" not in proxy.log()
    assert source.dbsize() == target.dbsize() == 0
    source.primaries()[0].call("FLUSHALL")
    wait_until("somebody else's is seen", lambda: "a FLUSHALL or FLUSHDB was seen" in proxy.log(), 10)


def copying(pair, crossfade):
    source, target = pair
    fill_types(source, many=10)
    fill(source, 3000)
    proxy = crossfade(source, target, config=SLOWLY)
    proxy.ctl("start")
    return source, target, proxy


@on("standalone")
def test_while_copying(pair, crossfade):
    source, target, proxy = copying(pair, crossfade)
    with Writers(proxy, FLUSHES[:2]) as w:
        wait_until("it copies", lambda: proxy.status()["backfill"]["keys_copied"] > 100, 30)
        w.flush_all_along()
        fill(source, 300, prefix="again")  # past the proxy
        w.flush_all_along()
        fill(proxy, 300, prefix="last")
    proxy.ctl("throttle", "--off")
    proxy.wait("synced", timeout=60)
    equal(proxy, source, target)
    assert target.dbsize() >= 300
    proxy.ctl("verify")


@on("standalone")
def test_somebody_elses_while_copying(pair, crossfade):
    source, target, proxy = copying(pair, crossfade)
    with Writers(proxy, []):
        wait_until("it copies", lambda: proxy.status()["backfill"]["keys_copied"] > 200, 30)
        source.flushall()
        fill(source, 100, prefix="new")
    proxy.ctl("throttle", "--off")
    proxy.wait("synced", timeout=60)
    equal(proxy, source, target)
    assert "a FLUSHALL or FLUSHDB was seen" in proxy.log()


@on("cluster")
def test_the_follower_cannot(pair, crossfade):
    """What it did not do is done by the walk of all slots."""
    source, target = pair
    fill(source, 200)
    proxy = mirrored(crossfade, source, target)
    for node in target.primaries():
        node.call("ACL", "SETUSER", "default", "-flushall")
    try:
        assert proxy.call("FLUSHALL") == b"OK"
        proxy.call("SET", "after", 1)
        equal(proxy, source, target)
        assert target.dbsize() == 1
    finally:
        for node in target.primaries():
            node.call("ACL", "SETUSER", "default", "+flushall")


@pytest.mark.parametrize("sides, which", [("cluster", "the follower"), ("standalone", "the authority"), pytest.param("cluster", "the authority", marks=pytest.mark.long),
                                          pytest.param("standalone", "the follower", marks=pytest.mark.long)], indirect=["sides"], scope="module")
def test_a_node_hangs(pair, crossfade, which):
    """It holds nobody up for longer than a connection is waited for; when it is back both sides are equal."""
    source, target = pair
    fill(source, 200)
    proxy = mirrored(crossfade, source, target, config={"upstream-timeout": 1500})
    node = (source if which == "the authority" else target).primaries()[0]
    with Writers(proxy, [], tolerant=True) as w:
        node.freeze()
        try:
            with proxy.connect(timeout=60) as c:
                reply = c.try_call("FLUSHALL")
                assert which == "the authority" or reply == b"OK"
                assert reply == b"OK" or reply.code in ("CLUSTERDOWN", "UNKNOWN"), reply
                assert which == "the follower" or isinstance(reply, RespError)
        finally:
            node.thaw()
        before = w.rounds
        wait_until("writers go on", lambda: w.rounds > before + 20, 60)
    equal(proxy, source, target)


@pytest.mark.parametrize("sides, command", [("cluster", ("FLUSHALL",)), ("standalone", ("SWAPDB", 0, 1)), pytest.param("standalone", ("FLUSHALL",), marks=pytest.mark.long)],
                         indirect=["sides"], scope="module")
def test_killed_between_the_sides(pair, crossfade, command):
    """The journal owed everything before the first side was asked."""
    if not built_with_faults():
        pytest.skip("needs a build with --enable-faults")
    source, target = pair
    fill(source, 200)
    proxy = mirrored(crossfade, source, target, config={"bypassing-writers": False}, env={"CROSSFADE_FAULT": "alone-between-sides"})
    with Client(proxy.port) as c:
        c.send(*command)
        wait_until("the proxy is dead", lambda: not proxy.running(), 20)
    assert (source.dbsize(), target.dbsize()) == (0, 200)
    proxy.env = {}
    proxy.start()
    equal(proxy, source, target, dbs=(0, 1) if len(source.primaries()) == 1 else (0,))
    assert target.dbsize() == 0


@pytest.mark.parametrize("sides", ["standalone"], indirect=True, scope="module")
def test_one_database_of_several(pair, crossfade):
    source, target = pair
    proxy = mirrored(crossfade, source, target)
    for db in (0, 1, 9):
        with proxy.connect(db=db) as c:
            fill(c, 100)
    with proxy.connect(db=1) as c:
        assert c.pipeline([("SET", "k:5", "x"), ("FLUSHDB",), ("INCR", "k:5"), ("DBSIZE",)]) == [b"OK", b"OK", 1, 1]
    equal(proxy, source, target, dbs=(0, 1, 9))
    assert [len(target.digest(db=db)) for db in (0, 1, 9)] == [100, 1, 100]
    proxy.ctl("verify")


@pytest.mark.parametrize("sides", ["standalone"], indirect=True, scope="module")
def test_swapped_while_copying_and_mirroring(pair, crossfade):
    source, target = pair
    for db, n in ((0, 800), (1, 400), (2, 50)):
        with source.connect(db=db) as c:
            fill(c, n, prefix="db%d" % db)
    proxy = crossfade(source, target, config=SLOWLY)
    proxy.ctl("start")
    wait_until("it copies", lambda: proxy.status()["backfill"]["keys_copied"] > 300, 30)
    with Writers(proxy, [("SWAPDB", 0, 1), ("SWAPDB", 1, 2), ("SWAPDB", 0, 0)]) as w:
        w.flush_all_along()
        proxy.ctl("throttle", "--off")
        proxy.wait("synced", timeout=60)
        w.flush_all_along()
    equal(proxy, source, target, dbs=range(4))
    with proxy.connect(db=1) as other, proxy.connect() as c:
        other.call("SET", "watched", 1)
        c.call("WATCH", "watched")
        assert other.call("SWAPDB", 0, 1) == b"OK" and c.call("GET", "watched") == b"1"
        assert c.pipeline([("MULTI",), ("EXEC",)])[1] is None
        for bad in [("SWAPDB", 0, 99), ("SWAPDB", "x", 0), ("SWAPDB", 0)]:
            with source.connect() as direct:
                assert str(c.try_call(*bad)) == str(direct.try_call(*bad)), bad
    equal(proxy, source, target, dbs=range(4))
    proxy.ctl("verify")


@pytest.mark.parametrize("sides", ["standalone"], indirect=True, scope="module")
def test_a_cluster_cannot_swap(servers, pair, crossfade):
    with pair[0].connect(db=1) as c:
        c.call("SET", "one", 1)
    proxy = crossfade(pair[0], servers.cluster("valkey-9.1", shards=1, conf={"cluster-databases": 16}))
    assert proxy.call("SWAPDB", 0, 1) == b"OK"  # nothing is mirrored yet
    assert proxy.call("GET", "one") == b"1"
    proxy.ctl("start")
    proxy.wait("synced,dirty=0")
    assert str(proxy.client.try_call("SWAPDB", 0, 1)) == "ERR crossfade: 'swapdb' is not available: the target is a cluster, which cannot do it"
    assert proxy.call("GET", "one") == b"1"
    assert proxy.call("FLUSHALL") == b"OK" and proxy.call("DBSIZE") == 0
