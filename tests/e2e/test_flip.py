"""Cutover, rollback, finish, abort: slots change authority under load, and nothing is lost."""
import pytest
from harness import RespError, diff
from harness.crossfade import built_with_faults
from harness.process import wait_until
from load import Load, fill, fill_types


@pytest.fixture(scope="module")
def sides(servers):
    return servers.cluster("redis-7.0"), servers.cluster("valkey-9.1")


def synced(source, target, crossfade, keys=300, **options):
    """A migration that is complete and verified."""
    fill(source, keys)
    fill_types(source, many=2)
    proxy = crossfade(source, target, **options)
    proxy.ctl("start")
    proxy.wait("synced")
    proxy.ctl("verify")
    return proxy


def settle(proxy):
    proxy.wait("dirty=0,lag=0", timeout=20)


def same(proxy, source, target):
    settle(proxy)
    assert diff(source, target) == []


def test_there_and_back_and_there_again(pair, crossfade):
    source, target = pair
    fill(source, 2000)
    fill_types(source, many=3)
    proxy = crossfade(source, target)
    with Load(proxy, clients=4) as load:
        proxy.ctl("start")
        proxy.wait("synced")
        load.run_on()
        assert proxy.ctl("verify")["checked"] > 2000
        flips = []
        for command in ("cutover", "rollback", "cutover"):
            flips.append(proxy.ctl(command, "--yes").data)
            load.run_on()
            status = proxy.status()
            assert status["authority"] == ("source" if command == "rollback" else "target")
            assert status["phase"] == ("synced" if command == "rollback" else "cutover")
            proxy.ctl("verify")
        assert [f["direction"] for f in flips] == ["target", "source", "target"]
        assert all(f["slots"] == 16384 and 0 <= f["pause_p99_ms"] <= f["pause_max_ms"] < 1000 for f in flips)
        assert proxy.status()["last_flip"]["direction"] == "target"
    same(proxy, source, target)
    load.check(proxy, source, target)
    proxy.ctl("finish", "--yes")
    assert proxy.status()["phase"] == "finished"
    proxy.call("SET", "after", "finish")
    assert target.call("GET", "after") == b"finish" and source.call("GET", "after") is None


def test_refused_without_backfill_or_verify(pair, crossfade):
    source, target = pair
    fill(source, 50)
    proxy = crossfade(source, target, config={"backfill-keys-per-s": 1})
    refused = proxy.ctl("cutover", "--yes", check=False, json=False)
    assert refused.rc == 1 and "start" in refused.err + refused.out
    proxy.ctl("start")
    for wanted, args in (("backfill", ["--yes", "--wait", 1]), ("backfill", ["--yes", "--wait", 1, "--force"])):
        refused = proxy.ctl("cutover", *args, check=False, json=False)
        assert refused.rc == 1 and wanted in refused.err + refused.out, refused
    assert proxy.ctl("rollback", "--yes", check=False).rc == 1
    assert proxy.ctl("finish", "--yes", check=False).rc == 1
    proxy.ctl("throttle", "--off")
    proxy.wait("synced")
    refused = proxy.ctl("cutover", "--yes", check=False, json=False)
    assert refused.rc == 1 and "verif" in refused.err + refused.out, refused
    assert proxy.ctl("rollback", "--yes", check=False).rc == 1
    assert proxy.status()["authority"] == "source"
    # a verify that found something does not open the gate either
    target.call("SET", "k:1", "tampered")
    proxy.wait("dirty=0,lag=0")
    with_gate = proxy.ctl("cutover", "--dry-run", check=False)
    assert with_gate.rc == 1 and any(not g["ok"] and g["gate"] == "verify" for g in gates(with_gate)), with_gate
    proxy.ctl("verify", "--repair", check=False)
    proxy.wait("dirty=0,lag=0")
    proxy.ctl("verify")
    dry = proxy.ctl("cutover", "--dry-run")
    assert all(g["ok"] for g in gates(dry)) and len(gates(dry)) >= 6
    assert proxy.status()["phase"] == "synced" and proxy.status()["last_flip"] is None


def gates(result):
    return result.data if isinstance(result.data, list) else result.data["gates"]


def test_what_asks_needs_yes(pair, crossfade):
    source, target = pair
    proxy = synced(source, target, crossfade, keys=50)
    for command in ("cutover", "rollback", "finish", "abort"):
        assert proxy.ctl(command, check=False, json=False).rc == 64
        assert proxy.status()["phase"] == "synced"
    assert proxy.ctl("cutover", "--dry-run").rc == 0  # asks nothing


def test_part_by_part(pair, crossfade):
    source, target = pair
    proxy = synced(source, target, crossfade)
    with Load(proxy, clients=3) as load:
        flip = proxy.ctl("cutover", "--yes", "--slots", "100-5999").data
        assert flip["slots"] == 5900
        load.run_on()
        status = proxy.status()
        assert status["authority"] == "mixed" and status["target_slots"] == [[100, 5999]] and status["phase"] == "cutover"
        assert proxy.ctl("finish", "--yes", check=False).rc == 1
        assert proxy.ctl("abort", "--yes", check=False).rc == 1
        flip = proxy.ctl("cutover", "--yes", "--percent", 50).data
        assert flip["slots"] == 8192 - 5900
        load.run_on()
        assert sum(b - a + 1 for a, b in proxy.status()["target_slots"]) == 8192
        proxy.ctl("verify")
        flip = proxy.ctl("rollback", "--yes", "--slots", "0-2999").data
        assert flip["slots"] == 3000 and flip["direction"] == "source"
        assert proxy.status()["phase"] == "cutover"
        load.run_on()
        proxy.ctl("cutover", "--yes", "--percent", 100)
        assert proxy.status()["authority"] == "target"
        load.run_on()
        proxy.ctl("rollback", "--yes")
        assert proxy.status()["target_slots"] == [] and proxy.status()["phase"] == "synced"
        load.run_on()
    same(proxy, source, target)
    load.check(proxy, source)


@pytest.mark.parametrize("command", ["cutover", "rollback"])
@pytest.mark.parametrize("how", ["writes wait", "frozen"])
def test_a_hung_follower_aborts_and_undoes(pair, crossfade, command, how):
    """One node of the side that is to answer acknowledges nothing: the deadline ends the flip, clients only see a pause."""
    source, target = pair
    proxy = synced(source, target, crossfade, keys=100, config={"cutover-max-lag": 60000})
    if command == "rollback":
        proxy.ctl("cutover", "--yes")
    authority, follower = ("source", target) if command == "cutover" else ("target", source)
    phase = proxy.status()["phase"]
    hung = follower.nodes[1]
    with Load(proxy, clients=3) as load:
        load.run_on()
        if how == "frozen":
            hung.freeze()
        else:
            hung.call("CLIENT", "PAUSE", 60000, "WRITE")  # it answers whoever only looks
        try:
            load.run_on()  # something is owed to it
            # force: what it does not acknowledge is dirty or lags, which would refuse it before
            result = proxy.ctl(command, "--yes", "--max-pause", 300, "--wait", 0, "--force", check=False, json=False)
            # frozen: refused as unreachable if that was noticed before anything was held
            assert result.rc == 75 or (result.rc == 69 and how == "frozen"), result
            load.run_on()
            assert proxy.status()["authority"] == authority and proxy.status()["phase"] == phase
        finally:
            hung.thaw()
            hung.call("CLIENT", "UNPAUSE")
        load.run_on()
    assert load.longest_s < 5
    same(proxy, source, target)
    load.check(proxy, source, target)
    proxy.ctl("verify")
    proxy.ctl(command, "--yes")
    same(proxy, source, target)


def test_writes_on_the_target_reach_the_source_and_survive_restarts(pair, crossfade):
    source, target = pair
    proxy = synced(source, target, crossfade)
    proxy.ctl("cutover", "--yes")
    proxy.call("SET", "only", "after the cutover", "EX", 1000)
    proxy.call("HSET", "type0:h", "f", "changed")
    proxy.call("DEL", "type1:z")
    settle(proxy)
    assert source.call("GET", "only") == target.call("GET", "only") == b"after the cutover"
    assert source.call("PEXPIRETIME", "only") == target.call("PEXPIRETIME", "only") > 0
    assert source.call("EXISTS", "type1:z") == 0
    for kill in (False, True):
        proxy.restart(kill=kill)
        status = proxy.status()
        assert status["authority"] == "target" and status["phase"] == "cutover"
        assert proxy.call("GET", "only").startswith(b"after the cutover")
        proxy.call("APPEND", "only", " and %d" % kill)
        proxy.wait("synced")
        settle(proxy)
        assert source.call("GET", "only") == target.call("GET", "only")
    # What bypassed the proxy on the source since is overwritten: the target is the authority.
    same(proxy, source, target)
    with Load(proxy, clients=2, name="back") as load:
        proxy.ctl("rollback", "--yes")
        load.run_on()
    assert proxy.status()["authority"] == "source"
    assert proxy.call("GET", "only") == b"after the cutover and 0 and 1"
    same(proxy, source, target)
    load.check(proxy, source, target)
    proxy.ctl("verify")


@pytest.mark.parametrize("point, authority", [("flip-after-marker", "source"), ("flip-before-record", "source"),
                                              ("record-after-commit", "target"), ("record-settling", "target")])
def test_killed_in_a_flip_there_is_one_authority(pair, crossfade, point, authority):
    """The record decides: not yet in force, the flip never was; in force, though not under its proper name yet, it is done."""
    if not built_with_faults():
        pytest.skip("needs a build with --enable-faults")
    source, target = pair
    proxy = synced(source, target, crossfade, keys=100, env={"CROSSFADE_FAULT": point})
    assert proxy.ctl("cutover", "--yes", check=False).rc != 0 or point == "record-settling"
    wait_until("the proxy is dead", lambda: not proxy.running(), 20)
    proxy.env = {}
    proxy.start()
    assert proxy.ctl("status")["authority"] == authority
    assert proxy.status()["marker"]["state"] in ("ours", "unknown")
    assert target.call("EXISTS", "crossfade:marker") == 1  # it says no more than that a flip was tried
    proxy.call("SET", "after", "the kill")
    proxy.ctl("verify", "--repair", check=False)
    settle(proxy)
    assert diff(source.digest(), target.digest()) == []
    assert (target if authority == "target" else source).call("GET", "after") == b"the kill"


def test_flips_after_the_new_authority_failed_over(cluster, crossfade):
    """The former primary is still connected, a replica now: it is not asked to WAIT for replicas of its own."""
    source, target = cluster("redis-7.0", shards=1), cluster("valkey-9.1", shards=1, replicas=1)
    proxy = synced(source, target, crossfade, keys=100)
    target.failover(target.primaries()[0], force=True)
    wait_until("the proxy has noticed", lambda: "took the place of another primary" in proxy.log(), 60)
    proxy.pipeline([("SET", "k:%d" % i, "after the failover") for i in range(100)])
    proxy.wait("dirty=0,lag=0", timeout=90)  # every slot is compared again
    wait_until("the cutover", lambda: proxy.ctl("cutover", "--yes", "--force", "--max-pause", 20000, check=False).rc == 0, 90, 0.1)
    proxy.call("SET", "k:0", "after the cutover")
    same(proxy, source, target)
    assert target.call("GET", "k:0") == b"after the cutover"


def shown(server):
    """Who it says it is."""
    with server.connect(protocol=3) as c:
        hello = c.call("HELLO", "3")
        return hello[b"server"], hello[b"version"]


def test_finish_lets_the_source_go(pair, crossfade):
    source, target = pair
    proxy = synced(source, target, crossfade, keys=50)
    assert proxy.ctl("finish", "--yes", check=False).rc == 1
    proxy.ctl("cutover", "--yes")
    with Load(proxy, clients=2) as load:
        load.run_on(0.2)
        settle(proxy)
        proxy.ctl("finish", "--yes")
        load.run_on(0.2)
        for command in ("rollback", "abort", "cutover", "start"):
            args = [] if command == "start" else ["--yes"]
            assert proxy.ctl(command, *args, check=False).rc == 1
    load.check(proxy, target)
    assert diff(source, target) != []  # nothing has been mirrored since
    assert shown(proxy) == shown(source.primaries()[0])
    proxy.restart()
    assert shown(proxy) == shown(target.primaries()[0])
    assert proxy.status()["phase"] == "finished" and proxy.status()["authority"] == "target"
    load.check(proxy)


def test_abort_gives_up_and_start_may_begin_again(pair, crossfade):
    source, target = pair
    fill(source, 500)
    proxy = crossfade(source, target, config={"target-not-empty": "allow"})
    assert proxy.ctl("abort", "--yes", check=False).rc == 1
    with Load(proxy, clients=2) as load:
        proxy.ctl("start")
        proxy.ctl("throttle", "--keys-per-s", 5)
        load.run_on(0.2)
        proxy.ctl("abort", "--yes")
        status = proxy.status()
        assert status["phase"] == "proxy" and status["backfill"]["state"] == "idle" and status["dirty_keys"] == 0
        load.run_on(0.2)
        settle(proxy)
        proxy.call("SET", "unmirrored", 1)
        assert target.call("GET", "unmirrored") is None
        proxy.ctl("throttle", "--off")
        proxy.ctl("start")
        proxy.wait("synced")
        proxy.ctl("verify", "--repair", check=False)
        settle(proxy)
        proxy.ctl("cutover", "--yes", "--force")
        assert proxy.ctl("abort", "--yes", check=False).rc == 1
        load.run_on(0.2)
    same(proxy, source, target)
    load.check(proxy, source, target)


def test_a_target_with_keys_is_refused(pair, crossfade):
    source, target = pair
    target.call("SET", "someone", "else's")
    proxy = crossfade(source, target)
    refused = proxy.ctl("start", check=False, json=False)
    assert refused.rc == 1 and "target already holds 1 key" in refused.err + refused.out
    target.call("DEL", "someone")
    proxy.ctl("start")


def test_standalone_sides_flip_whole(standalone, crossfade):
    source, target = standalone("redis-8.0"), standalone("valkey-9.1")
    proxy = synced(source, target, crossfade)
    assert proxy.ctl("cutover", "--yes", "--percent", 10, check=False).rc == 1
    with Load(proxy, clients=3) as load:
        for command in ("cutover", "rollback", "cutover"):
            proxy.ctl(command, "--yes")
            load.run_on()
    same(proxy, source, target)
    load.check(proxy, source, target)


@pytest.mark.tsan
def test_quick_there_and_back(standalone, cluster, crossfade):
    """Standalone to cluster, in a few seconds; also for the thread sanitizer."""
    source, target = standalone("redis-7.0"), cluster("valkey-9.1")
    fill(source, 300)
    fill_types(source, many=1)
    proxy = crossfade(source, target)
    with Load(proxy, clients=3) as load:
        proxy.ctl("start")
        proxy.wait("synced")
        proxy.ctl("verify")
        proxy.ctl("cutover", "--yes")
        load.run_on()
        proxy.ctl("rollback", "--yes")
        load.run_on()
    same(proxy, source, target)
    load.check(proxy, source, target)


def test_what_the_target_held_is_made_equal_before_synced_is_told(pair, crossfade):
    source, target = pair
    fill(source, 500)
    target.pipeline([("SET", "left:%d" % i, i) for i in range(300)] + [("HSET", "lefthash:%d" % i, "g", 2) for i in range(20)] + [("SET", "k:%d" % i, "old") for i in range(0, 100, 3)])
    proxy = crossfade(source, target, config={"target-not-empty": "allow"})
    proxy.ctl("start")
    proxy.pipeline([("HSET", "lefthash:%d" % i, "f", 1) for i in range(10)] + [("SADD", "left:%d" % i, 1) for i in range(10)])
    proxy.wait("synced", timeout=60)
    assert diff(source.digest(), target.digest()) == []
    assert source.dbsize() == target.dbsize() > 500
    proxy.ctl("verify")
