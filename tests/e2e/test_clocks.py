"""Sides whose clocks differ by about a minute: told, expiries by the authority's clock and the same millisecond on both sides, nothing that
outlives it, and no difference that is only one of clocks."""
import re

import pytest
from harness import preload
from harness.process import wait_until

SHORT_S = 30  # less than the clocks differ
LONG_S = 3600


@pytest.fixture(scope="module")
def source(servers):
    return servers.standalone("redis-8.0")


@pytest.fixture(params=[61, -50], ids=["ahead", "behind"])
def skewed(request, standalone, source):
    source.flushall()
    return standalone("valkey-9.1", clock_s=request.param), request.param


def clock_ms(server):
    seconds, micros = server.call("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


def fill(server, name):
    server.call("SET", name + ":long", "v", "EX", LONG_S)
    server.call("SET", name + ":short", "v", "EX", SHORT_S)
    server.call("RPUSH", name + ":list", "a", "b")
    server.call("EXPIRE", name + ":list", LONG_S)
    server.call("HSET", name + ":hash", "kept", 1, "long", 2, "short", 3)
    server.call("HEXPIRE", name + ":hash", LONG_S, "FIELDS", 1, "long")
    server.call("HEXPIRE", name + ":hash", SHORT_S, "FIELDS", 1, "short")


def same_lives(authority, follower, names):
    """The follower has each key with the authority's millisecond, or has seen it end by its own clock."""
    for name in names:
        for key in (name + ":long", name + ":short", name + ":list"):
            there, here = authority.call("PEXPIRETIME", key), follower.call("PEXPIRETIME", key)
            if here == -2 or there == -2:
                ends = max(there, here)
                assert ends == -2 or ends < max(clock_ms(authority), clock_ms(follower)), (key, there, here)
            else:
                assert here == there > 0, (key, there, here)
        long = [server.call("HPEXPIRETIME", name + ":hash", "FIELDS", 1, "long") for server in (authority, follower)]
        assert long[0] == long[1] and long[0][0] > 0, long
        assert follower.call("HGET", name + ":hash", "kept") == authority.call("HGET", name + ":hash", "kept")


def lives_by(server, name, since_ms):
    for key, life_s in ((name + ":long", LONG_S), (name + ":short", SHORT_S)):
        expires = server.call("PEXPIRETIME", key)
        slack_ms = 1000  # what a server's clock says is known to half the time that asking takes
        assert since_ms + life_s * 1000 - slack_ms <= expires <= clock_ms(server) + life_s * 1000 + slack_ms, (key, expires)


def verified(proxy):
    result = proxy.ctl("verify", check=False)
    assert result.rc == 0, (result, proxy.status())


def test_clocks_that_differ(source, skewed, crossfade):
    target, ahead_s = skewed
    assert abs(clock_ms(target) - clock_ms(source) - ahead_s * 1000) < 5000
    proxy = crossfade(source, target)
    lines = [line for line in proxy.ctl("check", check=False).data if line["check"] == "clock"]
    if ahead_s > 60:
        assert any(line["level"] == "ERR" and re.search("target's clock is 6[01] s ahead", line["text"]) for line in lines), lines
    else:
        assert any(line["level"] == "WARN" and "clocks of source and target differ" in line["text"] for line in lines), lines
    fill(source, "copied")
    proxy.ctl("start")
    proxy.wait("synced,dirty=0")
    since = clock_ms(source)
    fill(proxy, "mirrored")
    lives_by(source, "mirrored", since)
    # writes on top of what has ended on one side leave nothing behind there that lasts
    for _ in range(3):
        proxy.call("APPEND", "mirrored:short", "x")
        proxy.call("HSET", "mirrored:hash", "kept", 5)
        proxy.call("SADD", "ends", "a")
        proxy.call("PEXPIRE", "ends", 40)
        proxy.call("SADD", "ends", "b")
    proxy.call("DEL", "ends")
    proxy.call("SET", "ended", "v", "PX", 50)
    wait_until("it has ended on both sides", lambda: source.call("EXISTS", "ended") == target.call("EXISTS", "ended") == 0)
    proxy.wait("dirty=0,lag=0")
    same_lives(source, target, ["copied", "mirrored"])
    assert target.call("EXISTS", "ends") == 0
    verified(proxy)
    # the other way round
    proxy.ctl("cutover", "--yes", *(["--force"] if ahead_s > 60 else []))
    since = clock_ms(target)
    fill(proxy, "after")
    lives_by(target, "after", since)
    proxy.wait("dirty=0,lag=0")
    same_lives(target, source, ["mirrored", "after"])
    verified(proxy)
    proxy.ctl("rollback", "--yes")
    same_lives(source, target, ["mirrored", "after"])


@pytest.mark.parametrize("jump_s", [90, -90], ids=["forth", "back"])
def test_a_clock_that_jumps(standalone, crossfade, tmp_path, jump_s):
    """The authority's: from the next look at the topology on, expiries are by what it says now; what was written before and meanwhile is the same on both sides, and nothing is held up."""
    jumped = tmp_path / "jumped"
    source = standalone("redis-8.0", preloaded=preload.library("clock", OFFSET_S=jump_s, WHEN='"%s"' % jumped))
    target = standalone("valkey-9.1")
    proxy = crossfade(source, target)
    fill(source, "copied")
    proxy.ctl("start")
    proxy.wait("synced,dirty=0")
    fill(proxy, "before")
    asked = 0

    def is_known():
        nonlocal asked
        asked += 1
        proxy.call("SET", "probe:%d" % asked, "v", "EX", LONG_S)
        return abs(source.call("PEXPIRETIME", "probe:%d" % asked) - clock_ms(source) - LONG_S * 1000) < 2000

    for there in (True, False):
        (jumped.touch if there else jumped.unlink)()
        wait_until("the clock is seen to have jumped", is_known, 30)
        name = "jumped:%d" % there
        since = clock_ms(source)
        fill(proxy, name)
        lives_by(source, name, since)
        proxy.wait("dirty=0,lag=0")
        for i in range(asked):
            assert source.call("PEXPIRETIME", "probe:%d" % (i + 1)) == target.call("PEXPIRETIME", "probe:%d" % (i + 1))
        same_lives(source, target, ["copied", "before", name])
    verified(proxy)
    proxy.ctl("cutover", "--yes")
    same_lives(target, source, ["copied", "before", "jumped:1", "jumped:0"])
