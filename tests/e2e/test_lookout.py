"""Several workers: each watches the nodes where slots of its own are, for what others write there, and no other node."""
import itertools

import pytest
from harness import key_slot
from harness.process import wait_until
from test_bypass import become_equal

WORKERS = 2
STAY = {"cluster-allow-replica-migration": "no"}


@pytest.fixture
def sides(servers):
    return servers.cluster("redis-7.0", conf=STAY), servers.cluster("valkey-9.1", conf=STAY)


def owner(slot):
    return slot * WORKERS // 16384


def watchers(node):
    """The workers that listen there, by the end of their connections' names."""
    lines = node.call("CLIENT", "LIST").decode().splitlines()
    of = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
    return sorted(c["name"].rsplit("-", 1)[1] for c in of if "t" in c["flags"])


def expected(side):
    at = {}
    for slot, node in enumerate(side.slot_map(fresh=True)):
        at.setdefault(node, set()).add(owner(slot))
    return {node.name: sorted(str(w) for w in at.get(node, ())) for node in side.primaries()}


def seen(side):
    return {node.name: watchers(node) for node in side.primaries()}


def keys_of(slots, n):
    """n keys of each of these slots, by hash tags."""
    tags = {}
    for i in itertools.count():
        slot = key_slot("%d" % i)
        if slot in slots:
            tags.setdefault(slot, "{%d}" % i)
        if len(tags) == len(slots):
            return {slot: ["%s:%d" % (tag, k) for k in range(n)] for slot, tag in tags.items()}


def start(crossfade, source, target):
    proxy = crossfade(source, target, config={"workers": WORKERS, "topology-interval": 200})
    proxy.ctl("start")
    proxy.wait("synced,dirty=0,lag=0")
    return proxy


def test_each_node_tells_those_that_have_slots_there(sides, crossfade):
    source, target = sides
    source.pipeline([("SET", "k:%d" % i, i) for i in range(600)])
    proxy = start(crossfade, source, target)
    for side in sides:
        assert seen(side) == expected(side), "each node is to be watched by the workers of its slots, and by no other"
    assert [len(w) for w in seen(source).values()] == [1, 2, 1], "the middle one of three nodes has slots of both"
    source.pipeline([("SET", "k:%d" % i, "foreign") for i in range(0, 600, 2)] + [("DEL", "k:%d" % i) for i in range(1, 600, 4)])
    become_equal(source, target, proxy)
    proxy.ctl("verify")
    proxy.ctl("cutover", "--yes")
    target.pipeline([("SET", "k:%d" % i, "there") for i in range(0, 600, 3)])
    become_equal(target, source, proxy)
    for side in sides:
        assert seen(side) == expected(side)


def test_slots_that_come_to_a_node_that_was_not_watched(sides, crossfade):
    """What was written there before the slot's route named it is found, though nobody told of it: of the first slot, and of one that was on its way when the watch began."""
    source, target = sides
    first, last = source.slot_map(fresh=True)[0], source.slot_map()[16383]
    slots = [100, 200, 300]
    keys = keys_of(slots, 40)
    source.pipeline([("SET", k, "old") for s in slots for k in keys[s]])
    proxy = start(crossfade, source, target)
    assert watchers(last) == ["1"]
    ids = {n: n.call("CLUSTER", "MYID") for n in (first, last)}
    with last.connect() as there:
        for s in slots:
            last.call("CLUSTER", "SETSLOT", s, "IMPORTING", ids[first])
            first.call("CLUSTER", "SETSLOT", s, "MIGRATING", ids[last])
            first.call("MIGRATE", "127.0.0.1", last.port, "", 0, 5000, "KEYS", *keys[s])
            for words in [("SET", keys[s][0], "written there"), ("DEL", keys[s][1]), ("PEXPIRE", keys[s][2], 10**9), ("SET", keys[s][3] + "new", 1)]:
                there.pipeline([("ASKING",), words])
    for s in slots:
        for node in [last, first] + [n for n in source.primaries() if n not in (first, last)]:
            node.call("CLUSTER", "SETSLOT", s, "NODE", ids[last])
        wait_until("worker 0 watches the node to which slot %d came" % s, lambda: watchers(last) == ["0", "1"], 15)
    become_equal(source, target, proxy)
    last.client.pipeline([("SET", k, "later") for s in slots for k in keys[s]])
    become_equal(source, target, proxy)
    proxy.wait("synced,dirty=0,lag=0")
    proxy.ctl("verify")


def test_a_redirect_turns_the_watch_on(sides, crossfade):
    """A command that is sent to the new node for once (ASK), in the middle of a move: from then on what others write there is told, and what they wrote before is found."""
    source, target = sides
    first, last = source.slot_map(fresh=True)[0], source.slot_map()[16383]
    keys = keys_of([100], 10)[100]
    source.pipeline([("SET", k, "old") for k in keys])
    proxy = start(crossfade, source, target)
    ids = {n: n.call("CLUSTER", "MYID") for n in (first, last)}
    last.call("CLUSTER", "SETSLOT", 100, "IMPORTING", ids[first])
    first.call("CLUSTER", "SETSLOT", 100, "MIGRATING", ids[last])
    first.call("MIGRATE", "127.0.0.1", last.port, "", 0, 5000, "KEYS", *keys)
    with last.connect() as there:
        there.pipeline([("ASKING",), ("SET", keys[0], "before")])
        assert proxy.call("GET", keys[5]) == b"old"
        assert proxy.status()["dirty_slots"] >= 1, "nobody knows what others wrote there before"
        wait_until("worker 0 watches the importing node", lambda: watchers(last) == ["0", "1"], 15)
        there.pipeline([("ASKING",), ("SET", keys[1], "behind")])
    proxy.call("SET", keys[2], "ours")
    for node in [last, first] + [n for n in source.primaries() if n not in (first, last)]:
        node.call("CLUSTER", "SETSLOT", 100, "NODE", ids[last])
    become_equal(source, target, proxy)
    proxy.wait("synced,dirty=0,lag=0")
    proxy.ctl("verify")


def test_a_standalone_source_tells_its_one_owner(servers):
    source, target = servers.standalone("redis-7.0"), servers.standalone("valkey-9.1")
    proxy = servers.crossfade(source, target, config={"workers": WORKERS})
    proxy.ctl("start")
    proxy.wait("synced,dirty=0,lag=0")
    assert watchers(source) == watchers(target) == ["0"]
    source.call("SET", "k", "foreign")
    become_equal(source, target, proxy)
