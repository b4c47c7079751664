"""verify: finds what differs, both ways, by value; says so by its exit code; repairs; and is not fooled by live writes."""
import threading
import time

import pytest
from harness import diff
from harness.process import wait_until
from harness.resp import Client
from load import FAR_MS, Load, fill, fill_types

COUNTS = ("missing", "type", "value", "expiry", "extra")


@pytest.fixture(scope="module", params=[("cluster", "redis-7.0"), ("standalone", "redis-8.0")], ids=["cluster", "standalone"])
def sides(request, servers):
    make = getattr(servers, request.param[0])
    return make(request.param[1]), make("valkey-9.1")


@pytest.fixture
def synced(sides, crossfade):
    """source, target, a proxy that has copied everything and does not notice what is done to the target."""
    source, target = sides
    for side in sides:
        side.flushall()
        for node in side.primaries():
            node.call("FUNCTION", "FLUSH")
    fill(source, 1000)
    fill_types(source, many=4)

    def make(**config):
        proxy = crossfade(source, target, config=dict({"mirror-tracking": False}, **config))
        proxy.ctl("start")
        proxy.wait("synced")
        return source, target, proxy
    return make


def counts(result):
    return {name: result[name] for name in COUNTS}


def tamper(target):
    """Differences of every kind; returns how many of each."""
    target.call("DEL", "k:1")
    target.call("DEL", "type0:lb")
    target.call("UNLINK", "type1:x")
    target.call("DEL", "k:2")
    target.call("RPUSH", "k:2", "a list")
    target.call("DEL", "type2:set")
    target.call("SET", "type2:set", "no set")
    target.call("SET", "k:3", "another value")
    target.call("HSET", "type0:hb", "f7", "changed")
    target.call("HDEL", "type1:hb", "f8")
    target.call("SREM", "type0:sb", "m7")
    target.call("ZINCRBY", "type0:zb", "0.001", "m7")
    target.call("LSET", "type1:lb", 100, "changed")
    target.call("XACK", "type0:x", "grp", "6-1")
    target.call("XADD", "type2:x", "9-9", "f", "v")
    target.call("SETBIT", "type0:bit", 3, 1)
    target.call("PEXPIREAT", "k:4", FAR_MS)
    target.call("PERSIST", "type0:se")
    target.call("PEXPIREAT", "type1:se", FAR_MS + 60000)
    target.call("SET", "extra", 1)
    target.call("HSET", "extra:hash", "f", 1)
    return {"missing": 3, "type": 2, "value": 9, "expiry": 3, "extra": 2}


def test_clean(synced):
    source, target, proxy = synced()
    result = proxy.ctl("verify")
    assert counts(result) == dict.fromkeys(COUNTS, 0) and result["repaired"] == 0
    assert result["checked"] == source.dbsize()
    last = proxy.status()["last_verify"]
    assert last["checked"] == result["checked"] and 0 <= last["age_s"] < 10
    assert diff(source, target) == []


def test_every_kind_of_difference_is_counted_and_repaired(synced):
    source, target, proxy = synced()
    wanted = tamper(target)
    result = proxy.ctl("verify", check=False)
    assert result.rc == 2 and counts(result) == wanted
    assert diff(source, target) != []  # it only looks
    assert proxy.ctl("cutover", "--yes", check=False).rc == 1
    again = proxy.ctl("verify", "--repair", check=False)
    assert again.rc == 2 and counts(again) == wanted and again["repaired"] == sum(wanted.values())
    proxy.wait("dirty=0,lag=0")
    assert diff(source, target) == []
    clean = proxy.ctl("verify")
    assert counts(clean) == dict.fromkeys(COUNTS, 0)
    proxy.ctl("cutover", "--yes")


def test_seen_from_the_target_after_a_cutover(synced):
    """missing and extra are seen from the authority."""
    source, target, proxy = synced()
    proxy.ctl("verify")
    proxy.ctl("cutover", "--yes")
    source.call("DEL", "k:1")
    source.call("SET", "k:2", "tampered")
    source.call("SET", "extra", 1)
    result = proxy.ctl("verify", "--repair", check=False)
    assert result.rc == 2 and (result["missing"], result["value"], result["extra"]) == (1, 1, 1)
    proxy.wait("dirty=0,lag=0")
    assert diff(source, target) == [] and source.call("EXISTS", "extra") == 0
    assert proxy.ctl("verify").rc == 0


def test_other_encodings_and_orders_are_equal(synced):
    """Built in another way, another order: no difference."""
    source, target, proxy = synced()
    for side, order in ((source, 1), (target, -1)):
        side.call("SADD", "e:set", *range(100)[::order])
        side.call("HSET", "e:hash", *[w for i in range(50)[::order] for w in ("f%d" % i, i)])
        side.call("ZADD", "e:zset", *[w for i in range(50)[::order] for w in (i / 3, "m%d" % i)])
        side.call("RPUSH", "e:list", *range(100))
    # what once was big keeps its encoding
    target.call("HSET", "e:hash", "big", "x" * 5000)
    target.call("HDEL", "e:hash", "big")
    target.call("SADD", "e:set", "word")
    target.call("SREM", "e:set", "word")
    target.call("PFCOUNT", "type0:pf")
    target.call("SET", "e:int", 12345)
    source.call("SET", "e:int", "1234")
    source.call("APPEND", "e:int", "5")
    result = proxy.ctl("verify", check=False)
    assert result.rc == 0, result


def test_functions_are_compared(synced):
    source, target, proxy = synced()
    library = "#!lua name=lib\nredis.register_function('f', function(keys, args) return %d end)"
    for n, side in ((1, source), (2, target)):
        for node in side.primaries():
            node.call("FUNCTION", "LOAD", library % n)
    assert proxy.ctl("verify", check=False).rc == 2
    for node in target.primaries():
        node.call("FUNCTION", "LOAD", "REPLACE", library % 1)
    assert proxy.ctl("verify", check=False).rc == 0


def libraries(node):
    return {dict(zip(lib[::2], lib[1::2]))[b"library_name"] for lib in node.call("FUNCTION", "LIST")}


def test_a_primary_without_functions_removes_none(synced):
    """A node that joined without the libraries may be the first that is asked: what the others have is no deletion. When all agree again, a deletion is one."""
    source, target, proxy = synced()
    library = "#!lua name=%s\nredis.register_function('%s', function(keys, args) return 1 end)"
    first, *others = source.primaries()
    for node in [first] if not others else others:
        node.call("FUNCTION", "LOAD", library % ("lib", "f"))
    first.call("FUNCTION", "LOAD", library % ("own", "g"))
    for node in target.primaries():
        node.call("FUNCTION", "LOAD", library % ("old", "h"))
    assert proxy.ctl("verify", "--repair", check=False).rc == 2
    told = "primaries of the source have different functions" in proxy.log()
    assert told == bool(others)
    wanted = {b"lib", b"own"} | ({b"old"} if others else set())
    wait_until("they are copied", lambda: all(libraries(n) == wanted for n in target.primaries()))
    for node in source.primaries():
        for name in ("lib", "own"):
            node.client.try_call("FUNCTION", "LOAD", library % (name, "f" if name == "lib" else "g"))
    assert proxy.ctl("verify", "--repair", check=False).rc == (2 if others else 0)
    wait_until("all of them are equal", lambda: all(libraries(n) == {b"lib", b"own"} for n in target.primaries()))
    assert proxy.ctl("verify", check=False).rc == 0


def test_live_writes_are_no_differences(synced):
    """While every key changes all the time, with a mirror that is behind, and keys expire."""
    source, target, proxy = synced(**{"mirror-tracking": True})
    with Load(proxy, clients=4, pause_s=0, batch=5) as load:
        until = time.monotonic() + 2.5
        runs = 0
        while time.monotonic() < until or runs < 3:
            for i in range(20):
                proxy.call("SET", "brief:%d" % i, runs, "PX", 30)
            result = proxy.ctl("verify", check=False)
            assert result.rc == 0, result
            runs += 1
        target.call("SET", "tampered", 1)
    proxy.wait("dirty=0,lag=0")
    load.check(proxy, source, target)


def test_repair_under_live_writes(synced):
    source, target, proxy = synced()
    with Load(proxy, clients=3) as load:
        wanted = tamper(target)
        result = proxy.ctl("verify", "--repair", check=False)
        assert result.rc == 2 and counts(result) == wanted
        proxy.wait("synced")
        load.run_on(0.2)
    proxy.wait("dirty=0,lag=0")
    assert diff(source, target) == []
    load.check(proxy, source, target)


def port_of(side, key):
    return side.node_for(key).port if hasattr(side, "node_for") else side.nodes[0].port


def test_a_large_value_that_others_write_all_the_time(synced):
    """Holding the proxy's clients back does not make it stand still: verify ends all the same, and finds it equal when they stop."""
    source, _, proxy = synced(**{"mirror-tracking": True, "large-value": "16kb"})
    fields = [("f%d" % i, "v" * 100) for i in range(1000)]
    proxy.call("HSET", "hot", *[x for pair in fields for x in pair])
    stop = threading.Event()

    def bypass():
        with Client(port_of(source, "hot")) as direct:
            n = 0
            while not stop.is_set():
                n += 1
                direct.call("HSET", "hot", "f%d" % (n % 1000), n)
    thread = threading.Thread(target=bypass, daemon=True)
    thread.start()
    try:
        for _ in range(3):
            assert proxy.ctl("verify", check=False, timeout=120).rc in (0, 2)
    finally:
        stop.set()
        thread.join(30)
    proxy.wait("dirty=0,lag=0", timeout=30)
    assert proxy.ctl("verify", check=False, timeout=60).rc == 0


@pytest.mark.tsan
def test_quick_verify(standalone, crossfade):
    source, target = standalone("redis-7.0"), standalone("valkey-9.1")
    fill(source, 500)
    proxy = crossfade(source, target, config={"mirror-tracking": False})
    proxy.ctl("start")
    proxy.wait("synced")
    with Load(proxy, clients=2) as load:
        target.call("SET", "k:1", "tampered")
        assert proxy.ctl("verify", "--repair", check=False).rc == 2
        proxy.wait("dirty=0")
        assert proxy.ctl("verify").rc == 0
        load.run_on(0.1)
