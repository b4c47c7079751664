"""The backfill worker without the proxy (backfill_tool plays it): copy, verify both ways, repair, faults, checkpoints, moving slots.

What it says is checked against the harness' own digests of both sides.
"""
import json
import os
import subprocess
import threading
import time

import pytest
from harness import diff, key_slot
from harness.crossfade import crossfade_bin
from harness.process import ROOT

KEYS = 20000
BIG = 60000
FUNCTIONS = "#!lua name=lib1\nredis.register_function('f1', function(keys, args) return 1 end)"


def tool_bin():
    """BACKFILL_TOOL_BIN, or where make leaves it: beside the daemon under test."""
    built = os.path.join(os.path.dirname(os.path.dirname(crossfade_bin())), "tests/e2e/backfill_tool")
    path = os.environ.get("BACKFILL_TOOL_BIN") or (built if os.path.exists(built) else os.path.join(ROOT, "tests/e2e/backfill_tool"))
    if not os.access(path, os.X_OK):
        pytest.skip("no %s: make builds it" % path)
    return path


def run(source, target, *steps, options=(), exit_code=0):
    """What each step printed."""
    argv = [tool_bin(), "--timeout", "100", *map(str, options), source.addrs[0], target.addrs[0], *steps]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == exit_code, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def differences(report):
    return {k: report[k] for k in ("missing", "type", "value", "expiry", "extra") if report[k]}


def load_functions(side):
    for node in side.primaries():
        node.call("FUNCTION", "FLUSH")
        node.call("FUNCTION", "LOAD", FUNCTIONS)


def fill(side):
    cmds = [("SET", "k:%d" % i, "v%d:" % i + "x" * 118) for i in range(KEYS)]
    expires = int(time.time() * 1000) + 3600000
    for i in range(100):
        n = range(i + 1)
        cmds += [
            ("RPUSH", "list:%d" % i) + tuple("e%d" % j for j in n),
            ("SADD", "set:%d" % i) + tuple("m%d" % j for j in n),
            ("ZADD", "zset:%d" % i) + tuple(x for j in n for x in (str(j * 0.1), "z%d" % j)),
            ("HSET", "hash:%d" % i) + tuple(x for j in n for x in ("f%d" % j, "v%d" % j)),
            ("SET", "exp:%d" % i, "v", "PXAT", expires + i),
            ("XADD", "stream:%d" % i, "1-%d" % (i + 1), "a", "b"), ("XADD", "stream:%d" % i, "2-1", "a", "b"),
            ("XGROUP", "CREATE", "stream:%d" % i, "g", "0"),
            ("XREADGROUP", "GROUP", "g", "c1", "COUNT", "1", "STREAMS", "stream:%d" % i, ">"),
        ]
    # Over 10,000 keys of one slot: listed by a pass over the node.
    cmds += [("SET", "{hot}:%d" % j, "h%d" % j) for j in range(10500)]
    cmds += [
        ("HSET", "big:hash") + tuple(x for j in range(BIG) for x in ("field%d" % j, "value%d" % j)),
        ("SADD", "big:set") + tuple("member%d" % j for j in range(BIG)),
        ("RPUSH", "big:list") + tuple("member%d" % j * 4 for j in range(BIG)),
        ("ZADD", "big:zset") + tuple(x for j in range(BIG) for x in (str(j * 0.1), "z%d" % j)),
        ("SET", "big:string", "y" * 3000000),
    ]
    cmds += [("XADD", "big:stream", "1-%d" % (j + 1), "f", "v" * 60) for j in range(20000)]
    cmds += [("XGROUP", "CREATE", "big:stream", "g", "0"),
             ("XREADGROUP", "GROUP", "g", "c1", "COUNT", "10", "STREAMS", "big:stream", ">")]
    for at in range(0, len(cmds), 10000):
        side.pipeline(cmds[at:at + 10000])
    load_functions(side)


@pytest.fixture(scope="module")
def clusters(servers):
    source, target = servers.cluster("redis-7.0"), servers.cluster("valkey-9.1")
    fill(source)
    return source, target


@pytest.fixture
def empty(clusters):
    source, target = clusters
    target.flushall()
    for node in target.primaries():
        node.call("FUNCTION", "FLUSH")
    return source, target


def call(side, *args):
    return side.client_for(args[1]).call(*args)


def test_copy_and_verify(empty):
    source, target = empty
    copy, verify = run(source, target, "copy", "verify")
    assert copy["slots_done"] == 16384 and copy["keys_copied"] == source.dbsize() == verify["checked"]
    assert differences(verify) == {}
    assert not diff(source.digest(), target.digest())


def tamper(target):
    """missing 6, type 2, value 13 (and the functions), expiry 6, extra 6"""
    for i in range(5):
        call(target, "DEL", "k:%d" % i)
        call(target, "SET", "extra:%d" % i, "x")
    for i in range(10, 13):
        call(target, "SET", "k:%d" % i, "other")
    for i in range(20, 22):
        call(target, "DEL", "k:%d" % i)
        call(target, "RPUSH", "k:%d" % i, "x")
    for i in range(4):
        call(target, "PEXPIRE", "exp:%d" % i, "9999999")
    call(target, "PERSIST", "exp:9")
    call(target, "PEXPIRE", "k:50", "10000000")
    # the slot of many keys
    call(target, "SET", "{hot}:extra", "x")
    call(target, "SET", "{hot}:77", "bad")
    call(target, "DEL", "{hot}:78")
    # large values: one element each
    call(target, "HSET", "big:hash", "field5", "tampered")
    call(target, "SREM", "big:set", "member7")
    call(target, "SADD", "big:set", "other")
    call(target, "LSET", "big:list", "500", "tampered")
    call(target, "SETRANGE", "big:string", "2000000", "TAMP")
    call(target, "ZADD", "big:zset", "17", "z3")
    call(target, "XACK", "big:stream", "g", "1-1")
    call(target, "XDEL", "stream:7", "2-1")
    call(target, "XACK", "stream:8", "g", "1-9")
    call(target, "ZADD", "zset:3", "9", "z1")


def test_verify_counts_each_kind_and_repairs(empty):
    source, target = empty
    run(source, target, "copy")
    tamper(target)
    for node in target.primaries():
        node.call("FUNCTION", "FLUSH")
    expected = {"missing": 6, "type": 2, "value": 14, "expiry": 6, "extra": 6}
    (verify,) = run(source, target, "verify", exit_code=2)
    assert differences(verify) == expected
    repair, again = run(source, target, "repair", "verify")
    assert differences(repair) == expected and repair["repaired"] == sum(expected.values())
    assert differences(again) == {}
    assert not diff(source.digest(), target.digest())


def test_keys_whose_stripe_is_always_busy(empty):
    """A key written all the time shares its stripe with keys of other slots: those are equal when their own slot's writes are held."""
    source, target = empty
    run(source, target, "copy")
    for side, fields in zip(empty, (("a", 1, "b", 2), ("b", 2, "a", 1))):
        call(side, "SET", "{busy}string", "v")
        call(side, "RPUSH", "{busy}list", *range(100))
        call(side, "HSET", "{busy}hash", *fields)  # another payload, the same value
    call(source, "SET", "{busy}differs", 1)
    call(target, "SET", "{busy}differs", 2)
    (verify,) = run(source, target, "verify", options=("--busy-slot", key_slot("{busy}")), exit_code=2)
    assert differences(verify) == {"value": 1}
    for side in empty:
        for name in ("string", "list", "hash", "differs"):
            call(side, "DEL", "{busy}" + name)


@pytest.mark.parametrize("options", [
    ("--stale", 2, "--busy", 5), ("--stale", 3), ("--ring-full", 1, "--refuse", 1),
], ids=["stale", "in-band", "refused"])
def test_copy_under_faults(empty, options):
    source, target = empty
    copy, verify = run(source, target, "copy", "verify", options=options)
    assert copy["slots_done"] == 16384 and differences(verify) == {}
    if options == ("--stale", 3):
        assert copy["inband"] >= KEYS and copy["holds"] >= 5  # small ones in-band, large ones with their writes held


def test_rescan_walks_both_ways(empty):
    source, target = empty
    run(source, target, "copy")
    tamper(target)
    rescan, verify = run(source, target, "rescan", "verify", options=("--ring-full", 20, "--busy", 2))
    assert rescan["cleans"] == 16384 and differences(verify) == {}
    assert not diff(source.digest(), target.digest())


def test_continues_from_its_checkpoint(empty, tmp_path):
    source, target = empty
    state = ("--state", tmp_path)
    run(source, target, "copy", options=state + ("--keys-per-s", 8000, "--die-after", 20000), exit_code=9)
    copy, verify = run(source, target, "copy", "verify", options=state)
    assert copy["applied"] < source.dbsize() - 5000, "it began again"
    assert copy["keys_copied"] == source.dbsize() and differences(verify) == {}
    (done,) = run(source, target, "copy", options=state)
    assert done["applied"] == 0 and done["slots_done"] == 16384
    with open(tmp_path / "backfill", "r+b") as f:
        f.seek(300)
        f.write(b"\xa5")
    (again,) = run(source, target, "copy", options=state)
    assert again["applied"] == source.dbsize(), "a checkpoint with a wrong checksum was used"
    (other,) = run(source, target, "copy", options=state + ("--id", "another"))
    assert other["applied"] == source.dbsize(), "a checkpoint of another migration was used"


@pytest.mark.parametrize("moving", ["source", "target"])
def test_slots_move_meanwhile(empty, moving):
    source, target = empty
    side = source if moving == "source" else target
    moved = list(range(0, 5400, 200))
    reports = []
    copying = threading.Thread(target=lambda: reports.extend(
        run(source, target, "copy", "verify", options=("--follow", "--keys-per-s", 6000))))
    copying.start()
    try:
        for slot in moved:
            side.move_slot(slot, side.nodes[1])
            time.sleep(0.05)
    finally:
        copying.join()
    assert len(reports) == 2 and reports[0]["slots_done"] == 16384 and differences(reports[1]) == {}
    assert not diff(source.digest(), target.digest())
    for slot in moved:
        side.move_slot(slot, side.nodes[0])


def test_standalone_sides(servers, clusters, tmp_path):
    cluster, _ = clusters
    source, target = servers.standalone("redis-7.0"), servers.standalone("valkey-9.1")
    fill(source)
    state = ("--state", tmp_path)
    run(source, target, "copy", options=state + ("--keys-per-s", 8000, "--die-after", 24000), exit_code=9)
    copy, verify = run(source, target, "copy", "verify", options=state)
    assert copy["applied"] < source.dbsize() - 3000, "it began again"
    assert differences(verify) == {}
    assert not diff(source.digest(), target.digest(), ignore=lambda k: k.startswith(b"crossfade:tmp:"))  # of the run that died: they end by themselves
    tamper(target)
    rescan, verify = run(source, target, "rescan", "verify")
    assert rescan["cleans"] == 16384 and differences(verify) == {}
    # A restart of the server voids the cursor.
    target.flushall()
    other = ("--state", tmp_path, "--id", "b")
    run(source, target, "copy", options=other + ("--keys-per-s", 8000, "--die-after", 24000), exit_code=9)
    source.call("SAVE")
    source.restart()
    (again,) = run(source, target, "copy", options=other)
    assert again["applied"] == source.dbsize()
    # By slot into a standalone server.
    target.flushall()
    copy, verify = run(cluster, target, "copy", "verify")
    assert copy["slots_done"] == 16384 and differences(verify) == {}


def test_way_back(empty):
    """Valkey 9.1 to Redis 7.0: payload versions and types that 7.0 does not know."""
    source, target = empty
    run(source, target, "copy")
    before = source.digest()
    for i in range(0, 100, 7):
        for kind in ("list", "set", "zset", "hash", "stream"):
            call(source, "DEL", "%s:%d" % (kind, i))
    call(source, "DEL", "big:stream")
    repair, verify = run(source, target, "repair", "verify", options=("--reverse",))
    assert repair["missing"] == 15 * 5 + 1 and differences(verify) == {}
    assert not diff(before, source.digest())
