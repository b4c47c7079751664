"""SCRIPT KILL and FUNCTION KILL reach the server behind whose data connection the script runs."""
import pytest
from harness.process import wait_until

ENDLESS = "while true do end"
LIBRARY = "#!lua name=lib\nredis.register_function('endless', function() while true do end end)"
WROTE = """redis.call('SET', KEYS[1], 'v') local t = redis.call('TIME') local stop = t[1] * 1000 + t[2] / 1000 + 1500
repeat t = redis.call('TIME') until t[1] * 1000 + t[2] / 1000 > stop return 'done'"""


@pytest.fixture(scope="module", params=["redis-cluster", "valkey-alone"])
def side(request, servers):
    server = servers.cluster("redis-7.0") if request.param == "redis-cluster" else servers.standalone("valkey-9.1")
    for node in server.nodes:
        node.call("CONFIG", "SET", "busy-reply-threshold", 50)
        node.call("FUNCTION", "LOAD", LIBRARY)
    return server, servers.crossfade(server, config={"workers": 2})


def node_of(server):
    return server.node_for("{t}k") if hasattr(server, "node_for") else server


def test_nothing_to_kill(side):
    server, proxy = side
    with node_of(server).connect() as direct, proxy.connect() as through:
        for words in (("SCRIPT", "KILL"), ("FUNCTION", "KILL"), ("SCRIPT", "KILL", "x")):
            assert through.raw(*words) == direct.raw(*words), words
        through.pipeline([("MULTI",), ("PING",), ("SCRIPT", "KILL"), ("GET", "{t}k")])
        pong, error, value = through.call("EXEC")
        assert (pong, value) == (b"PONG", None) and error.code == "NOTBUSY"


@pytest.mark.parametrize("kill", ["SCRIPT", "FUNCTION"])
def test_kill(side, kill):
    server, proxy = side
    run = ("EVAL", ENDLESS, 1, "{t}k") if kill == "SCRIPT" else ("FCALL", "endless", 1, "{t}k")
    said = []
    for peer in (node_of(server), proxy):
        with peer.connect() as runs, peer.connect() as kills:
            runs.send(*run)
            wait_until("it is killed", lambda: kills.raw(kill, "KILL") == b"+OK\r\n", 20, 0.02)
            said.append(str(runs.read(20)))
            assert kills.raw("GET", "{t}k") == b"$-1\r\n"
    assert said[0] == said[1]


def test_what_has_written_is_not_killed(side):
    _, proxy = side
    with proxy.connect() as runs, proxy.connect() as kills:
        runs.send("EVAL", WROTE, 1, "{t}w")
        wait_until("it is busy", lambda: kills.raw("SCRIPT", "KILL").startswith(b"-UNKILLABLE"), 20, 0.02)
        assert runs.read(20) == b"done"
        assert kills.raw("SCRIPT", "KILL").startswith(b"-NOTBUSY")
        assert kills.call("GET", "{t}w") == b"v"
