"""Keys whose values the other side cannot hold at all: the vector sets of Redis 8 on the way to Valkey. Named, counted once, remembered, and in
the way of a cutover until they are gone or the operator says otherwise."""
import os

import pytest
from harness.process import wait_until


@pytest.fixture(scope="module")
def sides(servers):
    return servers.standalone("redis-8.0"), servers.standalone("valkey-8.1")


def vadd(to, key, element="e"):
    return to.call("VADD", key, "VALUES", 2, "1.0", "2.0", element)


def named(proxy):
    """Names are told a moment after the number."""
    backfill = proxy.status()["backfill"]
    if backfill["uncarried"] != len(backfill["uncarried_keys"]) or not backfill["uncarried_all_named"]:
        return backfill["uncarried"], "are not all named yet"
    return sorted((k["db"], k["key"]) for k in backfill["uncarried_keys"])


def wait_named(proxy, *names):
    want, seen = sorted(n if isinstance(n, tuple) else (0, n) for n in names), []

    def are_named():
        seen[:] = [named(proxy)]
        return seen[0] == want
    try:
        wait_until("these keys are named: %s" % want, are_named, 20)
    except TimeoutError:
        pytest.fail("named are %s, not %s" % (seen[0], want))


def test_named_once_remembered_and_gone(pair, crossfade):
    source, target = pair
    for i in range(5):
        vadd(source, "vec:%d" % i)
        source.call("SET", "plain:%d" % i, i)
    vadd(source, b"vec\xff\n")
    with source.connect() as c:
        c.call("SELECT", 1)
        vadd(c, "vec:1")
    proxy = crossfade(source, target)
    proxy.ctl("start")
    proxy.wait("synced,dirty=0")
    fixed = [(0, "vec\\xff\\x0a"), (1, "vec:1")]
    wait_named(proxy, "vec:0", "vec:1", "vec:2", "vec:3", "vec:4", *fixed)
    backfill = proxy.status()["backfill"]
    assert backfill["keys_copied"] == backfill["keys_total"] == 5
    assert all(k["to"] == "target" and "vectorset" in k["why"] for k in backfill["uncarried_keys"])
    text = proxy.ctl("status", json=False).out
    shown = backfill["uncarried_keys"][:5] # in the order in which they were found, which is the scan's
    assert "uncarried   7 keys cannot be carried" in text and "--json names up to 100" in text
    assert all("'%s' of database %d to the target: values of module type 'vectorset'" % (k["key"], k["db"]) in text for k in shown), text
    assert "of database 0 cannot be carried to the target" in proxy.log()
    # written to again, and anew: still once each, nothing stays dirty, and the follower keeps no older value
    proxy.call("SET", "turned", "text")
    wait_until("it is mirrored", lambda: target.call("GET", "turned") == b"text")
    proxy.call("DEL", "turned")
    for i in range(20):
        vadd(proxy, "vec:0", "e%d" % i)
        vadd(proxy, "turned", "e%d" % i)
    proxy.wait("dirty=0,lag=0")
    wait_named(proxy, "turned", "vec:0", "vec:1", "vec:2", "vec:3", "vec:4", *fixed)
    assert target.call("EXISTS", "turned") == 0
    # killed and started again
    proxy.restart(kill=True)
    proxy.wait("synced,dirty=0")
    wait_named(proxy, "turned", "vec:0", "vec:1", "vec:2", "vec:3", "vec:4", *fixed)
    # gone: deleted, overwritten, expired, renamed; by clients and by a bypassing writer
    proxy.call("DEL", "vec:0")
    proxy.call("SET", "vec:1", "carried")
    proxy.call("PEXPIRE", "vec:2", 30)
    source.call("DEL", "vec:3")
    proxy.call("RENAME", "vec:4", "vec:5")
    wait_named(proxy, "turned", "vec:5", *fixed)
    # it is in the way of a cutover, until it is gone
    refused = proxy.ctl("cutover", "--yes", check=False, json=False)
    assert refused.rc == 1 and "cannot be carried" in refused.out + refused.err, refused
    proxy.call("DEL", "turned", "vec:5", b"vec\xff\n")
    with source.connect() as c:
        c.call("SELECT", 1)
        c.call("SET", "vec:1", "text")
    wait_named(proxy)
    proxy.wait("dirty=0")
    assert target.call("GET", "vec:1") == b"carried"
    assert proxy.ctl("verify").rc == 0
    proxy.ctl("cutover", "--yes")


def test_left_behind(pair, crossfade):
    source, target = pair
    proxy = crossfade(source, target)
    proxy.ctl("start")
    proxy.wait("synced,dirty=0")
    vadd(proxy, "vec")
    wait_named(proxy, "vec")
    proxy.wait("dirty=0")
    assert proxy.ctl("cutover", "--yes", check=False).rc == 1
    proxy.ctl("cutover", "--yes", "--force")
    assert proxy.status()["authority"] == "target" and proxy.call("EXISTS", "vec") == 0
    proxy.call("SET", "after", "x")
    proxy.restart()
    wait_named(proxy, "vec")
    proxy.ctl("rollback", "--yes")
    assert proxy.call("VCARD", "vec") == 1 and proxy.call("GET", "after") == b"x"
    wait_named(proxy, "vec")
    # a list that is damaged is not believed, and cannot be forgotten over it
    proxy.term()
    path = os.path.join(proxy.state_dir, "uncarried")
    data = bytearray(open(path, "rb").read())
    data[-12] ^= 1
    with open(path, "wb") as f:
        f.write(data)
    proxy.start()
    wait_until("what was named is unknown", lambda: proxy.status()["backfill"]["uncarried"] == 1)
    assert not proxy.status()["backfill"]["uncarried_all_named"] and "its checksum or its format is wrong" in proxy.log()
    proxy.ctl("verify", "--repair", check=False)
    wait_until("it is named again", lambda: [(k["db"], k["key"]) for k in proxy.status()["backfill"]["uncarried_keys"]] == [(0, "vec")])
    proxy.call("DEL", "vec")
    proxy.wait("dirty=0")
    assert proxy.ctl("verify").rc == 0
    wait_until("a clean verify shows that there is none", lambda: proxy.status()["backfill"]["uncarried"] == 0)
    proxy.ctl("abort", "--yes")
    assert not os.path.exists(path)
