"""Nodes join and leave on both sides while a migration runs: clients see none of it, and both sides are equal."""
import pytest
from compare import compare
from harness import key_slot
from harness.load import Load
from harness.process import wait_until
from harness.reshape import join, leave, migrate, reshard, slots_of

STAY = {"cluster-allow-replica-migration": "no"}  # nodes keep their roles when slots move
FEW = 120  # slots of the first primaries
TAGS = [t for t in ("{t%d}" % i for i in range(2000)) if key_slot(t) < FEW][:4] + ["{a}", "{b}"]
LIBRARY = "#!lua name=mine\nredis.register_function('mine', function(keys, args) return redis.call('INCRBY', keys[1], args[1]) end)"
MARKER = "crossfade:marker"


def replace(side, node, how):
    """Another node takes its place."""
    fresh = join(side, STAY)
    how(side, slots_of(side, node), node, fresh)
    leave(side, node)
    return fresh


def equal(proxy, authority, follower):
    proxy.wait("dirty=0,lag=0", timeout=60)
    lines = []

    def same():
        lines[:] = compare(authority, follower, partial=False, final=False, moved=True)
        return not lines
    try:
        wait_until("both sides are equal", same, 5, 0.1)
    except TimeoutError:
        raise AssertionError("\n".join(lines[:20]))


@pytest.mark.long
def test_nodes_join_and_leave(servers):
    """The only configured node of each side is among those that go."""
    source, target = servers.cluster("redis-7.0", conf=STAY, few=FEW), servers.cluster("valkey-9.1", conf=STAY, few=FEW)
    proxy = servers.crossfade(source, target, config={"source-nodes": source.nodes[0].addr, "target-nodes": target.nodes[0].addr, "backfill-keys-per-s": 150, "backfill-adaptive": False})
    source.pipeline([("SET", "k:%d" % i, "value %d" % i) for i in range(1500)])
    proxy.call("FUNCTION", "LOAD", LIBRARY)
    sha = proxy.call("SCRIPT", "LOAD", "return redis.call('GET', KEYS[1])")
    with Load(proxy, source, clients=2, tags=TAGS, pair=True) as load:
        proxy.ctl("start")
        new_source = replace(source, source.nodes[0], reshard)
        new_target = replace(target, target.nodes[0], migrate)
        load.progress(1)
        assert proxy.status()["phase"] == "backfill"
        proxy.ctl("throttle", "--off")
        proxy.wait("synced", timeout=60)
        proxy.wait("dirty=0,lag=0", timeout=60)
        proxy.ctl("verify")
        proxy.ctl("cutover", "--yes", "--wait", 20)
        load.server = target
        # what clients have loaded is on the nodes that came later, too
        for node in (new_source, new_target):
            side = source if node is new_source else target
            key = next("f%d" % i for i in range(1000) if side.slot_map()[key_slot("f%d" % i)] is node)
            if node is new_target:
                assert proxy.call("FCALL", "mine", 1, key, 7) == 7
                assert proxy.call("EVALSHA", sha, 1, key) == b"7"
        # the marker's slot, and those of its node, move while the target answers
        slot = key_slot(MARKER)
        home = target.slot_map(fresh=True)[slot]
        assert home.call("GET", MARKER) is not None
        reshard(target, [slot], home, next(n for n in target.primaries() if n is not home))
        replace(target, next(n for n in target.nodes if n is not new_target), migrate)
        load.progress(1)
    equal(proxy, target, source)
    proxy.ctl("rollback", "--yes", "--wait", 20)
    equal(proxy, source, target)


@pytest.mark.long
def test_valkey_moves_slots_of_both_sides(servers):
    """CLUSTER MIGRATESLOTS on the authority and on the follower, while it is copied, when both are equal, and after a cutover."""
    source, target = servers.cluster("valkey-9.1", conf=STAY), servers.cluster("valkey-9.1", conf=STAY)
    proxy = servers.crossfade(source, target, config={"backfill-keys-per-s": 300, "backfill-adaptive": False})
    source.pipeline([("SET", "k:%d" % i, "value %d" % i) for i in range(1500)])
    tags = ["{a}", "{b}", "{c}", "{d}"]

    def move(side, tag):
        """With its neighbours: slots that clients write, and others with keys in them."""
        slot = key_slot(tag)
        home = side.slot_map(fresh=True)[slot]
        run = [s for s in range(max(0, slot - 40), min(16384, slot + 40)) if side.slot_map()[s] is home]
        migrate(side, run, home, next(n for n in side.primaries() if n is not home))
    with Load(proxy, source, clients=3, tags=tags, pair=True) as load:
        proxy.ctl("start")
        for side, tag in ((source, "{a}"), (target, "{b}"), (source, "{c}"), (target, "{c}")):
            move(side, tag)
            load.progress(1)
        assert proxy.status()["phase"] == "backfill"
        proxy.ctl("throttle", "--off")
        proxy.wait("synced", timeout=60)
        for side, tag in ((source, "{b}"), (target, "{a}")):
            move(side, tag)
        proxy.wait("dirty=0,lag=0", timeout=60)
        proxy.ctl("verify")
        proxy.ctl("cutover", "--yes", "--wait", 20)
        load.server = target
        for side, tag in ((target, "{d}"), (source, "{d}"), (target, "{a}")):
            move(side, tag)
            load.progress(1)
    equal(proxy, target, source)
    assert proxy.status()["unknown_outcome"] == 0
    before = proxy.status()["mirror"]  # what the moves touched is not taken for written by others
    for tag in tags:
        for i in range(25):
            proxy.call("INCR", "%s:after" % tag)
            proxy.call("APPEND", "log:0:%s" % tag, "x")
    proxy.wait("dirty=0,lag=0")
    assert proxy.status()["mirror"]["snapshots"] - before["snapshots"] < 20
