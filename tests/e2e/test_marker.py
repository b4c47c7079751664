"""The marker on the target: a proxy whose state directory was lost, or is older, or is another's, does not serve what is stale (race 15)."""
import json
import os
import shutil

import pytest
from harness import Crossfade, diff
from harness.crossfade import built_with_faults
from harness.process import wait_until

MARKER = "crossfade:marker"


@pytest.fixture(scope="module")
def sides(servers):
    return servers.standalone("redis-7.0"), servers.standalone("valkey-9.1")


@pytest.fixture
def stopped(_factory):
    def make(*args, **options):
        return _factory._keep(Crossfade(*args, start=False, **options))
    return make


def synced(source, target, crossfade, **options):
    source.pipeline([("SET", "k:%d" % i, i) for i in range(100)])
    proxy = crossfade(source, target, **options)
    proxy.ctl("start")
    proxy.wait("synced")
    proxy.ctl("verify")
    return proxy


def marker(target):
    text = target.call("GET", MARKER)
    return json.loads(text) if text is not None else None


def settled(proxy, source, target):
    proxy.wait("dirty=0,lag=0", timeout=30)
    assert diff(source, target) == []


def lose(proxy):
    proxy.kill()
    shutil.rmtree(proxy.state_dir)


def refused(proxy, *words):
    """It ends by itself, without having served anybody, and says what to do."""
    at = len(proxy.log())
    assert proxy.run_to_end() == 65
    said = proxy.log()[at:]
    assert "ready on port" not in said and "--assume-authority target" in said
    for word in words:
        assert word in said


def test_nobody_is_shown_the_marker(pair, crossfade):
    source, target = pair
    proxy = synced(source, target, crossfade)
    assert marker(target) is None
    for order in ("cutover", "rollback", "cutover"):
        proxy.ctl(order, "--yes")
        assert len(marker(target)["migration"]) == 32
        assert proxy.call("DBSIZE") == 100 and len(proxy.call("KEYS", "*")) == 100 and len(proxy.call("SCAN", 0, "COUNT", 1000)[1]) == 100
        for protocol in (2, 3):
            with proxy.connect(protocol=protocol) as c:
                words = [("MULTI",), ("DBSIZE",), ("SET", "k:0", 0), ("PING",), ("KEYS", "*"), ("KEYS", "cross*"), ("RANDOMKEY",), ("DBSIZE",), ("GET", "k:0"), ("EXEC",)]
                inside = c.pipeline(words)[-1]
                assert (inside[:3], len(inside[3]), inside[4], inside[6:]) == ([100, b"OK", b"PONG"], 100, [], [100, b"0"]) and inside[5] != MARKER.encode()
        assert proxy.ctl("verify")["extra"] == 0
    settled(proxy, source, target)
    assert source.call("EXISTS", MARKER) == 0
    assert proxy.status()["marker"]["state"] == "ours"
    assert proxy.call("FLUSHALL") == b"OK"
    wait_until("it is there again", lambda: marker(target), 20)
    assert proxy.call("DBSIZE") == 0 == proxy.ctl("verify")["checked"]
    wait_until("its epoch is that of the record", lambda: marker(target)["epoch"] == proxy.status()["epoch"], 20)
    proxy.ctl("finish", "--yes")
    wait_until("it is gone", lambda: marker(target) is None, 20)
    proxy.restart()
    assert proxy.status()["phase"] == "finished"


def test_a_lost_state_directory_after_the_cutover(pair, crossfade):
    source, target = pair
    proxy = synced(source, target, crossfade)
    proxy.ctl("cutover", "--yes")
    proxy.call("SET", "k:1", "after the cutover")
    lose(proxy)
    source.call("SET", "k:1", "stale")
    refused(proxy, marker(target)["migration"], "no record")
    assert source.call("GET", "k:1") == b"stale"
    proxy.args = ["--assume-authority", "target"]
    proxy.start()
    status = proxy.status()
    assert status["phase"] == "cutover" and status["authority"] == "target"
    assert "--assume-authority" in status["verify_due"]
    assert proxy.call("GET", "k:1") == b"after the cutover"
    settled(proxy, source, target)
    assert source.call("GET", "k:1") == b"after the cutover"
    for args in (["--assume-authority", "source"], []):  # the record goes before the word
        proxy.term()
        proxy.args = args
        proxy.start()
        assert proxy.status()["authority"] == "target"
    proxy.ctl("verify")
    proxy.ctl("rollback", "--yes")
    settled(proxy, source, target)


def test_lost_between_the_marker_and_the_record(pair, crossfade):
    """Nothing has flipped; nobody can know that, and the operator's word is asked for."""
    if not built_with_faults():
        pytest.skip("needs a build with --enable-faults")
    source, target = pair
    proxy = synced(source, target, crossfade, config={"target-not-empty": "allow"}, env={"CROSSFADE_FAULT": "flip-after-marker"})
    assert proxy.ctl("cutover", "--yes", check=False).rc != 0
    wait_until("the proxy is dead", lambda: not proxy.running(), 20)
    lose(proxy)
    proxy.env = {}
    refused(proxy)
    proxy.args = ["--assume-authority", "source"]
    proxy.start()
    assert proxy.status()["phase"] == "proxy" and proxy.call("GET", "k:5") == b"5"
    wait_until("that migration is given up", lambda: marker(target) is None, 20)
    proxy.args = []
    proxy.restart()
    proxy.ctl("start")
    proxy.wait("synced")
    proxy.ctl("verify")
    proxy.ctl("cutover", "--yes")
    proxy.ctl("rollback", "--yes")
    assert marker(target)
    proxy.ctl("abort", "--yes")
    wait_until("it is gone", lambda: marker(target) is None, 20)


def test_an_older_record(pair, crossfade):
    source, target = pair
    proxy = synced(source, target, crossfade)
    path, copy = os.path.join(proxy.state_dir, "phase"), os.path.join(proxy.dir, "copy")
    shutil.copy(path, copy)
    proxy.ctl("cutover", "--yes")
    wait_until("its epoch is that of the record", lambda: marker(target)["epoch"] == proxy.status()["epoch"], 20)
    proxy.term()
    shutil.copy(path, path + ".newer")
    shutil.copy(copy, path)
    refused(proxy, "older")
    shutil.copy(path + ".newer", path)
    proxy.start()
    assert proxy.status()["authority"] == "target"


def test_two_proxies_on_one_target(pair, crossfade, stopped):
    source, target = pair
    second = crossfade(source, target)
    third = crossfade(source, target, config={"target-not-empty": "allow"})
    proxy = synced(source, target, crossfade)
    third.ctl("start")
    third.wait("synced")
    proxy.ctl("cutover", "--yes", "--force")
    ours = marker(target)["migration"]
    for other, order in ((second, ["start"]), (third, ["cutover", "--yes", "--force"])):
        said = other.ctl(*order, check=False, json=False)
        assert said.rc == 1 and ours in said.err + said.out, said
    wait_until("they say so", lambda: {p.status()["marker"]["state"] for p in (second, third)} == {"foreign"}, 20)
    assert ours in second.status()["marker"]["text"]
    third.term()
    refused(third, ours)
    fourth = stopped(source, target)
    refused(fourth, ours)
    assert marker(target)["migration"] == ours and proxy.status()["marker"]["state"] == "ours"


def test_what_is_not_a_marker_of_this_version(pair, stopped):
    source, target = pair
    target.call("SET", MARKER, "{}")
    refused(stopped(source, target), "another version")
