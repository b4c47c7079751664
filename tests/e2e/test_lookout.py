"""Several workers: each watches the nodes where slots of its own are, for what others write there, and no other node."""
import itertools

import pytest
from harness import key_slot
from harness.crossfade import built_with_faults
from harness.process import wait_until
from test_bypass import become_equal

WORKERS = 2
STAY = {"cluster-allow-replica-migration": "no"}


@pytest.fixture
def sides(servers):
    return servers.cluster("redis-7.0", conf=STAY), servers.cluster("valkey-9.1", conf=STAY)


def owner(slot):
    return slot * WORKERS // 16384


def connections(node):
    lines = node.call("CLIENT", "LIST").decode().splitlines()
    return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]


def watchers(node):
    """The workers that listen there, by the end of their connections' names."""
    return sorted(c["name"].rsplit("-", 1)[1] for c in connections(node) if "t" in c["flags"])


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
    wait_until("each listens where slots of its own are, when the flip is over", lambda: [seen(side) for side in sides] == [expected(side) for side in sides], 15)


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


MUTANTS = [None, "lookout-claims", "lookout-came"]


@pytest.fixture(params=MUTANTS, ids=str)
def mutant(request):
    if request.param and not built_with_faults():
        pytest.skip("needs a build with --enable-faults")
    return request.param


def move(source, slot, old, new):
    for node in [new, old] + [n for n in source.primaries() if n not in (old, new)]:
        node.call("CLUSTER", "SETSLOT", slot, "NODE", new.call("CLUSTER", "MYID"))


def begin_move(slot, keys, old, new):
    new.call("CLUSTER", "SETSLOT", slot, "IMPORTING", old.call("CLUSTER", "MYID"))
    old.call("CLUSTER", "SETSLOT", slot, "MIGRATING", new.call("CLUSTER", "MYID"))
    if keys:
        old.call("MIGRATE", "127.0.0.1", new.port, "", 0, 5000, "KEYS", *keys)


def rarely(source, target, crossfade, **more):
    """A proxy that looks at the slots only if something makes it, synced and verified."""
    proxy = crossfade(source, target, config={"workers": WORKERS, "topology-interval": 600000}, **more)
    proxy.ctl("start")
    proxy.wait("synced,dirty=0,lag=0")
    proxy.ctl("verify")
    return proxy


def test_a_flip_right_behind_a_move_loses_nothing(sides, crossfade, mutant):
    """A slot has just moved to a node where nobody of its worker listens, and somebody wrote there: no picture of the slots has told of it yet, and all flips."""
    source, target = sides
    first, last = source.slot_map(fresh=True)[0], source.slot_map()[16383]
    keys = keys_of([100], 10)[100]
    source.pipeline([("SET", k, "old") for k in keys])
    proxy = rarely(source, target, crossfade, env={"CROSSFADE_FAULT": mutant} if mutant else {})
    assert watchers(last) == ["1"]
    begin_move(100, keys, first, last)
    move(source, 100, first, last)
    last.client.pipeline([("SET", keys[0], "foreign"), ("DEL", keys[1]), ("SET", keys[0] + "new", "foreign")])
    proxy.ctl("cutover", "--yes")
    got = [target.call("GET", k) for k in (keys[0], keys[1], keys[0] + "new", keys[2])]
    if mutant:
        assert got[2] is None, "a mutant that loses nothing: the test shows nothing"
        return
    assert got == [b"foreign", None, b"foreign", b"old"], "what was written past the proxy before the flip is lost"
    become_equal(target, source, proxy)


def test_a_flip_waits_for_a_move_that_was_not_watched_from_its_beginning(sides, crossfade):
    """No key was moved yet, so nothing is dirty; but somebody was sent to the new node (ASK) and made a key there."""
    source, target = sides
    first, last = source.slot_map(fresh=True)[0], source.slot_map()[16383]
    key = keys_of([100], 1)[100][0]
    proxy = rarely(source, target, crossfade)
    begin_move(100, [], first, last)
    with last.connect() as there:
        there.pipeline([("ASKING",), ("SET", key, "foreign")])
    refused = proxy.ctl("cutover", "--yes", "--wait", "1", check=False)
    assert refused.rc == 1 and "slot 100 of the source is being moved" in refused.err, repr(refused)
    assert watchers(last) == ["0", "1"], "it is watched now"
    move(source, 100, first, last)
    proxy.ctl("cutover", "--yes")
    assert target.call("GET", key) == b"foreign"
    proxy.ctl("rollback", "--yes")
    become_equal(source, target, proxy)


def test_force_does_not_wait_for_a_move(sides, crossfade):
    source, target = sides
    first, last = source.slot_map(fresh=True)[0], source.slot_map()[16383]
    proxy = rarely(source, target, crossfade)
    begin_move(100, [], first, last)
    assert proxy.ctl("cutover", "--yes", "--force", "--wait", "1").data["skipped"] == ["watched"]
    for key in keys_of([100], 5)[100]:
        proxy.call("SET", key, "ours")
        assert target.call("GET", key) == b"ours"
    move(source, 100, first, last)
    become_equal(target, source, proxy)


def test_a_flip_opens_connections_that_were_idle_and_lost(sides, crossfade):
    """Worker 0 has no slot on the last node, so nothing is sent there that would open it again."""
    source, target = sides
    last = source.slot_map(fresh=True)[16383]
    proxy = rarely(source, target, crossfade)
    idle = [c for c in connections(last) if c["name"].startswith("crossfade") and c["name"].endswith("-0")]
    assert len(idle) == 1 and "t" not in idle[0]["flags"], idle
    last.call("CLIENT", "KILL", "ID", idle[0]["id"])
    wait_until("it is gone", lambda: all(c["id"] != idle[0]["id"] for c in connections(last)), 15)
    if proxy.status()["last_verify"]["valid"] is False:
        proxy.ctl("verify")
    proxy.ctl("cutover", "--yes")
    proxy.ctl("rollback", "--yes", "--wait", "0")


def test_slots_on_the_move_are_watched_everywhere(sides, crossfade):
    """While a slot moves all listen at all nodes of its side, so that a client that waits for a key of it is woken; when it has come to rest, only where their slots are."""
    source, target = sides
    first, last = source.slot_map(fresh=True)[0], source.slot_map()[16383]
    keys = keys_of([100], 2)[100]
    source.call("SET", keys[0], "old")
    proxy = start(crossfade, source, target)
    begin_move(100, keys[:1], first, last)
    wait_until("both listen at the importing node", lambda: watchers(last) == ["0", "1"], 15)
    with proxy.connect() as client, last.connect() as there:
        client.send("BLPOP", keys[1], 30)
        wait_until("it waits", lambda: "blocked_clients:1" in proxy.call("INFO", "clients").decode(), 15)
        there.pipeline([("ASKING",), ("RPUSH", keys[1], "foreign")])
        assert client.read() == [keys[1].encode(), b"foreign"]
    move(source, 100, first, last)
    wait_until("each listens where slots of its own are", lambda: seen(source) == expected(source), 30)
    assert watchers(last) == ["0", "1"], "slot 100 is there"
    become_equal(source, target, proxy)


def test_a_standalone_source_tells_its_one_owner(servers):
    source, target = servers.standalone("redis-7.0"), servers.standalone("valkey-9.1")
    proxy = servers.crossfade(source, target, config={"workers": WORKERS})
    proxy.ctl("start")
    proxy.wait("synced,dirty=0,lag=0")
    assert watchers(source) == watchers(target) == ["0"]
    source.call("SET", "k", "foreign")
    become_equal(source, target, proxy)
