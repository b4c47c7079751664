"""Databases other than 0: SELECT, and their keys mirrored, copied and compared."""
import time

import pytest
from harness import RespError, diff
from harness.process import wait_until

DBS = (0, 1, 9, 15)


@pytest.fixture(scope="module", params=["standalone", "cluster"])
def sides(request, servers):
    source = servers.standalone("redis-7.0")
    if request.param == "standalone":
        return source, servers.standalone("valkey-8.1")
    return source, servers.cluster("valkey-9.1", conf={"cluster-databases": 16})


def differences(source, target):
    return ["db %d: %s" % (db, line) for db in range(16) for line in diff(source.digest(db=db), target.digest(db=db))]


def equal_soon(source, target, timeout=20):
    deadline = time.monotonic() + timeout
    while True:
        lines = differences(source, target)
        if not lines:
            return
        assert time.monotonic() < deadline, lines[:10]
        time.sleep(0.05)


def fill_databases(source, dbs=DBS, keys=300):
    for db in dbs:
        with source.connect(db=db, timeout=30) as c:
            c.pipeline([("SET", "k%d" % i, "db%d-%d" % (db, i)) for i in range(keys)])
            c.pipeline([("SET", "{r}%d" % i, "r%d-%d" % (db, i)) for i in range(keys)])
            c.pipeline([("RPUSH", "list%d" % i, db, i) for i in range(20)])
            c.pipeline([("SET", "only%d" % db, db), ("HSET", "h", "db", db), ("SET", "t", db, "PXAT", 4000000000000 + db)])


def write(client, db, round_):
    """Writes that build on what is there, under names that every database has."""
    replies = client.pipeline([
        ("SELECT", db), ("INCR", "count"), ("APPEND", "k1", round_), ("RPUSH", "list1", round_), ("HSET", "h", "r", round_),
        ("SET", "new%d" % db, round_), ("DEL", "k%d" % (2 + round_)), ("RENAME", "{r}%d" % (100 + round_), "{r}renamed%d" % round_),
        ("SADD", "s", db, round_), ("SET", "e", round_, "PX", 1), ("SADD", "e", round_), ("COPY", "{r}1", "{r}copy", "REPLACE"),
        ("COPY", "h", "h", "DB", (db + 1) % 3, "REPLACE"), ("COPY", "k50", "k50", "DB", 14),
        ("SET", "moves%d" % round_, db), ("MOVE", "moves%d" % round_, 13), ("MOVE", "k%d" % (60 + round_), 13), ("MOVE", "missing", 13)])
    bad = [r for r in replies if isinstance(r, RespError) and "WRONGTYPE" not in str(r) and "no such key" not in str(r)]
    assert not bad, bad


# ---- SELECT

def test_select_belongs_to_the_connection(pair, crossfade):
    source, target = pair
    proxy = crossfade(source, target)
    with proxy.connect() as a, proxy.connect() as b:
        replies = a.pipeline([("SET", "k", 0), ("SELECT", 3), ("SET", "k", 3), ("GET", "k"), ("SELECT", 0), ("GET", "k"), ("SELECT", 3)])
        assert replies == [b"OK", b"OK", b"OK", b"3", b"OK", b"0", b"OK"]
        assert b.call("GET", "k") == b"0" and a.call("GET", "k") == b"3"
        assert b" db=3 " in a.call("CLIENT", "INFO") and b" db=0 " in b.call("CLIENT", "INFO")
        assert a.call("DBSIZE") == 1 and a.call("DEL", "k", "nothing") == 1 and a.call("DBSIZE") == 0 and b.call("DBSIZE") == 1
        assert a.call("RESET") == b"RESET" and a.call("GET", "k") == b"0"
    assert source.digest(db=3) == {}


def test_select_says_what_the_server_says(pair, crossfade):
    source, target = pair
    proxy = crossfade(source, target)
    with source.connect() as there, proxy.connect() as here:
        for db in ("15", "16", "-1", "x", "99999999999", "1.0", ""):
            assert here.try_call("SELECT", db) == there.try_call("SELECT", db), db


def test_no_more_databases_than_both_have(servers, crossfade, sides):
    source = sides[0]
    few = servers.standalone("valkey-9.1", conf={"databases": 4})
    proxy = crossfade(source, few)
    wait_until("the target's databases are known", lambda: isinstance(proxy.client.try_call("SELECT", 4), RespError) and proxy.client.try_call("SELECT", 3) == b"OK")
    proxy.call("SELECT", 0)
    assert proxy.call("SELECT", 3) == b"OK"
    assert str(proxy.client.try_call("SELECT", 15)) == "ERR DB index is out of range"


def test_moving_beyond_what_both_have(servers, crossfade, sides):
    source = sides[0]
    source.call("SET", "k", "v")
    proxy = crossfade(source, servers.standalone("valkey-9.1", conf={"databases": 4}))
    wait_until("the target's databases are known", lambda: isinstance(proxy.client.try_call("SELECT", 4), RespError))
    proxy.call("SELECT", 0)  # it may have been let into 4 before
    for call in (("MOVE", "k", 4), ("COPY", "k", "k2", "DB", 15), ("MOVE", "k", 99), ("MOVE", "k", -1)):
        assert str(proxy.client.try_call(*call)) == "ERR DB index is out of range", call
    assert proxy.call("COPY", "k", "k2", "DB", 3) == 1 and proxy.call("MOVE", "k", 3) == 1


# ---- mirror, backfill, verify, cutover

def test_there_and_back(pair, crossfade):
    source, target = pair
    fill_databases(source)
    proxy = crossfade(source, target, config={"backfill-keys-per-s": 2000})
    with proxy.connect(timeout=30) as c:
        proxy.ctl("start")
        for round_ in range(10):
            for db in DBS + (4,):
                write(c, db, round_)
        proxy.wait("synced,dirty=0,lag=0")
        equal_soon(source, target)
        for round_ in range(10, 15):
            for db in DBS + (4, 5):
                write(c, db, round_)
        proxy.wait("dirty=0,lag=0", timeout=20)
        equal_soon(source, target)
        checked = proxy.ctl("verify")["checked"]
        assert checked == sum(len(source.digest(db=db)) for db in range(16))
        c.call("SELECT", 9)
        proxy.ctl("cutover", "--yes")
        assert c.call("SET", "after", "cutover") == b"OK"
        with source.connect(db=9) as s:
            wait_until("the way back is mirrored", lambda: s.call("GET", "after") == b"cutover")
        for round_ in range(15, 20):
            for db in DBS:
                write(c, db, round_)
        proxy.ctl("rollback", "--yes")
        proxy.wait("dirty=0,lag=0", timeout=20)
        equal_soon(source, target)


def test_a_difference_in_another_database_is_found_and_repaired(pair, crossfade):
    source, target = pair
    fill_databases(source, keys=50)
    proxy = crossfade(source, target, config={"mirror-tracking": False})
    proxy.ctl("start")
    proxy.wait("synced")
    home = target if hasattr(target, "connect") else target.node_for("k3")
    with home.connect(db=9) as c:
        c.call("SET", "k3", "other")
    with source.connect(db=1) as c:
        c.call("SET", "k4", "other")
    found = proxy.ctl("verify", check=False)
    assert found.rc == 2 and found["value"] == 2
    proxy.ctl("verify", "--repair", check=False)
    equal_soon(source, target)


def test_bypassing_writers_in_any_database(pair, crossfade):
    source, target = pair
    fill_databases(source, keys=50)
    proxy = crossfade(source, target)
    proxy.ctl("start")
    proxy.wait("synced,dirty=0")
    for db in (1, 12):  # one that was not in use before
        with source.connect(db=db) as c:
            c.pipeline([("SET", "k3", "foreign"), ("DEL", "k4"), ("RPUSH", "list2", "foreign"), ("SET", "made", "here")])
    equal_soon(source, target)


def test_a_killed_proxy_goes_on(pair, crossfade):
    source, target = pair
    fill_databases(source)
    proxy = crossfade(source, target, config={"backfill-keys-per-s": 300, "backfill-adaptive": False})
    proxy.ctl("start")
    wait_until("something is copied", lambda: proxy.status()["backfill"]["keys_copied"] > 400, timeout=30)
    proxy.kill()
    proxy.config["backfill-keys-per-s"] = 0
    proxy.start()
    proxy.wait("synced,dirty=0,lag=0")
    equal_soon(source, target)
