"""Keys of every type between servers of every kind, by the parts of backfill/ alone (copy_tool): DUMP and restamp, by type, in chunks."""
import os
import subprocess
import time

import pytest
from compare import TIME_TOLERANCE_MS
from harness import KINDS
from harness.crossfade import crossfade_bin
from harness.process import ROOT

FIELD_EXPIRY = ("redis-8.0", "valkey-9.1")
MODES = ("dump", "type", "large")


def copy_tool_bin():
    """COPY_TOOL_BIN, or where make leaves it: beside the daemon under test."""
    built = os.path.join(os.path.dirname(os.path.dirname(crossfade_bin())), "tests/e2e/copy_tool")
    path = os.environ.get("COPY_TOOL_BIN") or (built if os.path.exists(built) else os.path.join(ROOT, "tests/e2e/copy_tool"))
    if not os.access(path, os.X_OK):
        pytest.skip("no %s: make builds it" % path)
    return path


def copytool(mode, source, target, keys, now_ms=None):
    """{key: what was answered}"""
    argv = [copy_tool_bin(), mode, str(source.port), str(target.port)] + ([str(now_ms)] if now_ms else [])
    keys = sorted(keys)
    run = subprocess.run(argv, input="".join(k.hex() + "\n" for k in keys), capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == len(keys), run.stdout + run.stderr
    return dict(zip(keys, lines))


@pytest.fixture(scope="module")
def every(servers):
    return {kind: servers.standalone(kind) for kind in KINDS}


def fill_plain(call, many):
    call("SET", "s:int", "1234567")
    call("SET", "s:short", "hello")
    call("SET", "s:empty", "")
    call("SET", "s:lzf", "abc" * 5000)
    call("SET", "s:big", os.urandom(700000))
    call("SET", "s:ttl", "x", "PX", 100000000)
    call("SET", b"s:\x00\xff\r\n", b"\x00\r\n\xff")
    call("PFADD", "s:hll", *["e%d" % i for i in range(2000)])
    call("PFCOUNT", "s:hll")
    call("RPUSH", "l:small", "a", "", "1", "-5")
    call("RPUSH", "l:node", "x" * 20000, "y")
    call("SADD", "set:int", 1, 2, -3)
    call("SADD", "set:small", "a", "b", "", "17")
    call("ZADD", "z:small", "0.7", "a", "-inf", "b", "inf", "c", "-0", "d", "1e-300", "e", "0.1", "f")
    call("GEOADD", "z:geo", "13.361389", "38.115556", "Palermo", "15.087269", "37.502669", "Catania")
    call("HSET", "h:small", "f", "v", "n", "12", "", "", "long", "z" * 3000)
    call("PEXPIRE", "h:small", 200000000)
    for at in range(0, many, 1000):
        items = ["%d:%s" % (i, "v" * (i % 50)) for i in range(at, at + 1000)]
        call("RPUSH", "l:many", *items)
        call("SADD", "set:many", *items)
        call("ZADD", "z:many", *[w for i, m in enumerate(items) for w in ((at + i) / 7, m)])
        call("HSET", "h:many", *[w for m in items for w in (m, "value " + m)])
    for i in range(12):
        call("RPUSH", "l:wide", "w" * 100000)
        call("HSET", "h:wide", "f%d" % i, "w" * 100000)


def fill_streams(call):
    for key, n in (("x:plain", 20), ("x:many", 3000)):
        for i in range(1, n + 1):
            call("XADD", key, "%d-%d" % (i, i % 3), "f", "v%d" % i, "g", "w" * 20)
    # Groups: unknown and known entries-read, consumers with and without pending entries, several deliveries.
    for key in ("x:plain", "x:many"):
        call("XGROUP", "CREATE", key, "g1", "0")
        call("XGROUP", "CREATE", key, "g2", "5-1")
        call("XGROUP", "CREATECONSUMER", key, "g1", "idle")
        call("XREADGROUP", "GROUP", "g1", "alice", "COUNT", 7, "STREAMS", key, ">")
        call("XREADGROUP", "GROUP", "g1", "bob", "COUNT", 2000, "STREAMS", key, ">")
        call("XREADGROUP", "GROUP", "g1", "alice", "COUNT", 3, "STREAMS", key, "0")
        call("XREADGROUP", "GROUP", "g2", "carol", "COUNT", 2, "STREAMS", key, ">")
        call("XACK", key, "g1", "2-2")
        call("XADD", key, "9000-1", "last", "one")
    # Pending entries whose message is gone: deleted in the middle and at the end, and trimmed away at the head.
    call("XDEL", "x:plain", "5-2", "12-0", "20-2")
    call("XTRIM", "x:plain", "MINID", "4")
    call("XDEL", "x:many", "700-1", "9000-1")
    call("XTRIM", "x:many", "MAXLEN", 2500)
    call("XADD", "x:trimmed", "1-1", "a", "b")
    call("XGROUP", "CREATE", "x:trimmed", "g", "0")
    call("XREADGROUP", "GROUP", "g", "c", "STREAMS", "x:trimmed", ">")
    call("XTRIM", "x:trimmed", "MAXLEN", 0)
    call("XADD", "x:emptied", "7-1", "a", "b")
    call("XDEL", "x:emptied", "7-1")
    call("XGROUP", "CREATE", "x:virgin", "g", "$", "MKSTREAM")
    call("XGROUP", "CREATE", "x:bare", "g", "$", "MKSTREAM")
    call("XGROUP", "DESTROY", "x:bare", "g")
    call("XADD", "x:back", "5-5", "a", "b")
    call("XADD", "x:back", "9-9", "a", "b")
    call("XGROUP", "CREATE", "x:back", "g", "0")
    call("XREADGROUP", "GROUP", "g", "c", "STREAMS", "x:back", ">")
    call("XDEL", "x:back", "9-9")
    call("PEXPIRE", "x:plain", 300000000)


def fill_field_expiry(call):
    for key, n in (("hfe:small", 5), ("hfe:many", 3000), ("hfe:wide", 3)):
        for at in range(0, n, 500):
            call("HSET", key, *[w for i in range(at, min(n, at + 500)) for w in ("f%d" % i, "v" * (2000 if n == 3 else i % 40))])
        soon = int(time.time() * 1000) + 400000000
        call("HPEXPIREAT", key, soon, "FIELDS", 2, "f0", "f1")
        call("HPEXPIREAT", key, soon + 5, "FIELDS", 1, "f2")
    call("HPEXPIREAT", "hfe:many", soon + 9, "FIELDS", 500, *["f%d" % i for i in range(100, 600)])


def fill(server, many=3000):
    server.flushall()
    fill_plain(server.call, many)
    fill_streams(server.call)
    if server.kind in FIELD_EXPIRY:
        fill_field_expiry(server.call)


def delivery_times(entry):
    """Takes the delivery times of a stream's pending entries out of its digest."""
    times = []
    for name, group in sorted(entry[1]["groups"].items()):
        for pid, (consumer, at, count) in sorted(group["pending"].items()):
            times.append(at)
            group["pending"][pid] = (consumer, count)
    return times


def check_equal(source, target, keys, times_off_ms=0):
    a, b = source.digest(), target.digest()
    assert sorted(b) == sorted(keys)
    for key in keys:
        if a[key][0] == b[key][0] == "stream":
            assert all(abs(x - y) <= times_off_ms for x, y in zip(delivery_times(a[key]), delivery_times(b[key]))), key
        assert a[key] == b[key], key
        # These digests differ between the lines: of field expiry, and of scores that are written as 0.69999999999999996 or 0.7.
        if not key.startswith(b"hfe:") and key not in (b"z:small", b"z:many"):
            assert source.call("DEBUG", "DIGEST-VALUE", key) == target.call("DEBUG", "DIGEST-VALUE", key), key
    verified = copytool("verify", source, target, keys)
    assert all(v.startswith("equal") for v in verified.values()), verified


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_type_to_every_server(every, kind, mode):
    source = every[kind]
    fill(source)
    for other in KINDS:
        if other == kind:
            continue
        target = every[other]
        target.flushall()
        target.call("SET", "l:small", "of another type")
        answers = copytool(mode, source, target, source.digest())
        keys = set()
        for key, answer in answers.items():
            if key.startswith(b"hfe:") and other not in FIELD_EXPIRY:
                assert answer.startswith("cannot") and "field expiry" in answer, (other, key, answer)
                continue
            assert answer.startswith("ok"), (other, key, answer)
            keys.add(key)
        check_equal(source, target, keys, times_off_ms=TIME_TOLERANCE_MS if mode == "large" else 0)  # chunks have them of XPENDING's idle times


def test_gone_and_expired_keys_go(every):
    source, target = every["redis-7.0"], every["valkey-9.1"]
    for mode in MODES:
        source.flushall()
        target.flushall()
        source.call("DEBUG", "SET-ACTIVE-EXPIRE", 0)
        now = int(time.time() * 1000)
        source.call("RPUSH", "soon", "a")
        source.call("PEXPIREAT", "soon", now + 100000)
        for key in ("soon", "absent"):
            target.call("SET", key, "old")
        # By a clock that is past its expiry, it is gone already.
        answers = copytool(mode, source, target, [b"soon", b"absent"], now + 100001)
        assert all(a.startswith("ok gone") for a in answers.values()), answers
        assert target.digest() == {}
    source.call("DEBUG", "SET-ACTIVE-EXPIRE", 1)


def test_vector_sets_are_named(every):
    source, target = every["redis-8.0"], every["valkey-9.1"]
    source.flushall()
    try:
        source.call("VADD", "vec", "VALUES", 2, "1.0", "2.0", "one")
    except Exception:
        pytest.skip("this build of Redis 8.0 has no vector sets")
    assert "vectorset" in copytool("dump", source, target, [b"vec"])[b"vec"]
    for mode in MODES:
        assert copytool(mode, source, target, [b"vec"])[b"vec"].startswith("cannot")


def test_verify_sees_differences(every):
    source, target = every["valkey-9.1"], every["redis-7.0"]
    fill(source, many=1000)
    target.flushall()
    keys = {k for k in source.digest() if not k.startswith(b"hfe:")}
    copytool("dump", source, target, keys)
    changes = [("APPEND", "s:lzf", "x"), ("SETRANGE", "s:hll", 5000, "\x7f"), ("LSET", "l:many", 500, "other"), ("SADD", "set:many", "new"),
               ("ZINCRBY", "z:small", "0.001", "a"), ("HSET", "h:many", "0:", "other"), ("PERSIST", "s:ttl"),
               ("XACK", "x:plain", "g1", "4-1"), ("XADD", "x:many", "9999-0", "a", "b"), ("XGROUP", "SETID", "x:back", "g", "1-1")]
    for change in changes:
        target.call(*change)
    answers = copytool("verify", source, target, keys)
    changed = {c[2 if c[0] == "XGROUP" else 1].encode() for c in changes}
    assert {k for k, v in answers.items() if v == "differs"} == changed
    # The cached cardinality of a HyperLogLog is no difference.
    target.call("PFADD", "hll", "a", "b")
    source.call("PFADD", "hll", "a", "b")
    source.call("PFCOUNT", "hll")
    assert copytool("verify", source, target, [b"hll"])[b"hll"] == "equal value"


def test_large_leaves_no_temporary_key_behind(every):
    source, target = every["redis-7.0"], every["valkey-8.0"]
    source.flushall()
    target.flushall()
    source.call("SADD", "big", *["member %d" % i for i in range(20000)])
    target.call("CONFIG", "SET", "maxmemory", "1mb")
    try:
        assert copytool("large", source, target, [b"big"])[b"big"].startswith("error")
    finally:
        target.call("CONFIG", "SET", "maxmemory", "0")
    assert target.digest() == {}
    assert copytool("large", source, target, [b"big"])[b"big"].startswith("ok")
    assert list(target.keys()) == [b"big"]
