"""What fails is tried again, is told in the status with its reason, and is in the way of nothing else: nodes that are full, gone, or know of no slot."""
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import RespError, diff, key_slot
from harness.process import wait_until

KEYS = 300


@pytest.fixture(scope="module")
def pair(servers):
    return servers.standalone("redis-7.0"), servers.cluster("valkey-9.1")


@pytest.fixture
def empty(pair):
    for side in pair:
        side.flushall()
    return pair


@pytest.fixture
def synced(empty, crossfade):
    source, target = empty
    source.pipeline([("SET", "k:%d" % i, i) for i in range(KEYS)])
    proxy = crossfade(source, target)
    proxy.ctl("start")
    proxy.wait("synced,dirty=0")
    return source, target, proxy


def told(proxy, *words):
    def all_of_them():
        lines = proxy.status()["failing"]
        return any(all(w in line for w in words) for line in lines)
    wait_until("the status says %s" % (words,), all_of_them, 30, 0.05)
    assert words[-1] in proxy.ctl("status", json=False).out


def write(proxy, value):
    assert set(proxy.pipeline([("SET", "k:%d" % i, value) for i in range(KEYS)])) == {b"OK"}


def others_have(target, node, value):
    """Every key of the other nodes."""
    others = [k for k in ("k:%d" % i for i in range(KEYS)) if target.slot_map()[key_slot(k)] is not node]
    wait_until("the others have it", lambda: set(target.pipeline([("GET", k) for k in others])) == {value}, 30, 0.05)


def equal_by_itself(source, target, proxy):
    proxy.wait("synced,dirty=0,lag=0", timeout=60)
    assert diff(source, target) == []
    wait_until("nothing fails any more", lambda: proxy.status()["failing"] == [], 30)


def test_a_node_of_the_follower_is_full(synced):
    source, target, proxy = synced
    node = target.primaries()[0]
    node.call("CONFIG", "SET", "maxmemory", "1mb")
    try:
        write(proxy, b"while it is full")
        told(proxy, "from the source to the target", "OOM")
        others_have(target, node, b"while it is full")
        assert proxy.call("DEL", "k:0", "k:1", "k:2") == 3
    finally:
        node.call("CONFIG", "SET", "maxmemory", "0")
    equal_by_itself(source, target, proxy)


def test_full_from_the_beginning(empty, crossfade):
    source, target = empty
    source.pipeline([("SET", "k:%d" % i, "v") for i in range(KEYS)])
    source.pipeline([("RPUSH", "large:%d" % i, *["x" * 100] * 2000) for i in range(6)])
    proxy = crossfade(source, target, config={"large-value": "64kb"})
    node = target.primaries()[0]
    node.call("CONFIG", "SET", "maxmemory", "1mb")
    try:
        proxy.ctl("start")
        told(proxy, "OOM")
        others_have(target, node, b"v")
        assert proxy.status()["phase"] == "backfill"
    finally:
        node.call("CONFIG", "SET", "maxmemory", "0")
    equal_by_itself(source, target, proxy)


def test_the_keys_of_a_side_must_not_be_listed(empty, crossfade):
    """By its own account, at first for the copy, then for a verify: either goes on when it may."""
    source, target = empty
    source.pipeline([("SET", "k:%d" % i, "v") for i in range(KEYS)])
    proxy = crossfade(source, target)
    source.call("ACL", "SETUSER", "default", "-scan")
    try:
        proxy.ctl("start")
        told(proxy, "cannot scan the source", "NOPERM")
        assert proxy.status()["phase"] == "backfill" and proxy.call("GET", "k:3") == b"v"
    finally:
        source.call("ACL", "SETUSER", "default", "+@all")
    equal_by_itself(source, target, proxy)
    node = target.primaries()[2]
    node.call("ACL", "SETUSER", "default", "-cluster|getkeysinslot", "-scan")
    with ThreadPoolExecutor(1) as pool:
        try:
            verify = pool.submit(proxy.ctl, "verify")
            told(proxy, "the target: ", "NOPERM")
            assert not verify.done()
        finally:
            node.call("ACL", "SETUSER", "default", "+@all")
        assert verify.result(60).rc == 0
    equal_by_itself(source, target, proxy)


@pytest.mark.long
def test_a_node_of_the_follower_is_gone(synced):
    source, target, proxy = synced
    node = target.primaries()[1]
    for n in target.nodes:
        n.call("CONFIG", "SET", "cluster-require-full-coverage", "no")
    try:
        node.kill()
        write(proxy, b"while it is gone")
        told(proxy, "the target is not reached as a whole", node.addr)
        others_have(target, node, b"while it is gone")
    finally:
        node.drop()
        node.start()
        for n in target.nodes:
            n.call("CONFIG", "SET", "cluster-require-full-coverage", "yes")
    target.wait_ok(60)
    equal_by_itself(source, target, proxy)


def test_a_slot_of_the_follower_is_nobodys(synced):
    source, target, proxy = synced
    slot = key_slot("k:7")
    node = target.slot_map(fresh=True)[slot]
    node.call("CLUSTER", "DELSLOTS", slot)
    try:
        write(proxy, b"while it is nobody's")
        told(proxy, "CLUSTERDOWN")
    finally:
        node.call("CLUSTER", "ADDSLOTS", slot)
    target.wait_ok(60)
    equal_by_itself(source, target, proxy)


def test_the_authority_is_full(synced):
    """Its clients are told what it says; what was refused is done nowhere."""
    source, target, proxy = synced
    source.call("CONFIG", "SET", "maxmemory", "1")
    try:
        replies = proxy.pipeline([("SET", "k:%d" % i, "refused") for i in range(20)] + [("MULTI",), ("SET", "k:30", "refused"), ("EXEC",)])
        assert [r.code for r in replies[:20] + replies[22:]] == ["OOM"] * 20 + ["EXECABORT"]
        assert proxy.call("GET", "k:3") == b"3" and proxy.call("DEL", "k:4") == 1
        assert isinstance(proxy.client.try_call("EVAL", "return redis.call('SET', KEYS[1], 'refused')", 1, "k:5"), RespError)
    finally:
        source.call("CONFIG", "SET", "maxmemory", "0")
    equal_by_itself(source, target, proxy)
    assert target.call("GET", "k:5") == b"5" and target.call("GET", "k:30") == b"30"
