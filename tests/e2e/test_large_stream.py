"""Large values are passed on as they come, while nothing is mirrored: few bytes of them are held, whoever reads slowly keeps nobody else waiting, order holds around them, and who is lost in
the middle, client or server, takes nobody along."""
import os

import pytest
from harness import diff
from harness.large import at_rest, counter, plain_proxies
from harness.process import frozen, wait_until
from harness.resp import Disconnected, encode

MB = 1 << 20
BIG = 12 * MB     # the kernel takes about four of it from a client that does not read
HUGE = 48 * MB    # more than all kernel buffers from the server to the client take
HELD = 2 * MB      # of one value, beside half a MiB in its client's queue
SIDES = ["standalone", "cluster"]


def pattern(size, seed=0):
    """Bytes that tell where they belong."""
    block = os.urandom(997)
    return (block * (size // 997 + 1))[:size - 1] + bytes([seed])


@pytest.fixture(scope="module")
def values():
    return {"big": pattern(BIG), "other": pattern(3 * MB, 1)}


@pytest.fixture(scope="module")
def sources(servers, values, certs):
    """By name, with the values there."""
    made = {"standalone": servers.standalone("redis-7.0", tls=certs), "cluster": servers.cluster("redis-7.0")}
    for side in made.values():
        for key, value in values.items():
            side.client_for(key).call("SET", key, value)
    return made


@pytest.fixture(scope="module")
def proxies(servers, sources, certs):
    return plain_proxies(servers, sources, certs)


@pytest.fixture(params=SIDES)
def side(request, sources):
    return sources[request.param]


@pytest.fixture
def proxy(request, proxies):
    """In front of `side`."""
    return proxies[request.node.callspec.params["side"]]


def begin(client, *args):
    """Sends it and reads the beginning of its reply only."""
    client.send(*args)
    client.parser.feed(client.sock.recv(1000))


def fresh(proxy, n=10):
    """Clients that come now are answered."""
    for i in range(n):
        with proxy.connect() as c:
            assert c.call("SET", "fresh%d" % i, str(i)) == b"OK" and c.call("GET", "fresh%d" % i) == str(i).encode()


def data_connections(side):
    return [line for node in side.primaries() for line in node.call("CLIENT", "LIST").decode().splitlines() if " name=crossfade" in line]


# ---- replies


@pytest.mark.parametrize("name,protocol", [("standalone", 2), ("cluster", 3), ("tls", 3)])
def test_replies_are_the_same_and_few_bytes_are_held(proxies, sources, values, name, protocol):
    proxy, side = proxies[name], sources.get(name, sources["standalone"])
    before = counter(proxy, "large")
    with proxy.connect(protocol=protocol, timeout=60) as c:
        for key, value in values.items():
            assert c.call("GET", key) == value
        for size in MB - 2, MB - 1, MB, MB + 1, MB + 65536:
            assert c.call("GETRANGE", "big", 5, 4 + size) == values["big"][5:5 + size]
        assert c.call("EVAL", "return redis.call('GET', KEYS[1])", 1, "other") == values["other"]
        assert 0 < counter(proxy, "large_held_most") <= HELD
        assert c.pipeline([("SET", "{big}x", 1), ("GET", "big"), ("GET", "{big}x"), ("GET", "other"), ("INCR", "{big}x"), ("PING",), ("GET", "{big}x")]) == [
            b"OK", values["big"], b"1", values["other"], 2, b"PONG", b"2"]
        c.send_raw(encode(["CLIENT", "REPLY", "SKIP"]) + encode(["GET", "big"]))
        assert c.call("GET", "{big}x") == b"2"
    at_rest(proxy)
    assert counter(proxy, "large") >= before + 7
    assert side.client_for("big").call("GET", "{big}x") == b"2"


def test_what_needs_the_whole_reply_has_it(proxies, values):
    proxy = proxies["standalone"]
    before = counter(proxy, "large")
    with proxy.connect(timeout=60) as c:
        assert c.call("MGET", "other", "big", "none") == [values["other"], values["big"], None]
        assert c.pipeline([("MULTI",), ("GET", "other"), ("GET", "big"), ("EXEC",)])[3] == [values["other"], values["big"]]
    assert counter(proxy, "large") == before


def test_room_for_a_whole_reply_is_made_as_it_comes(proxies, sources, values):
    """More than a server's word for its length is good for: twice the room is full, and there is more."""
    source, size = sources["standalone"], 150 * MB
    source.call("SETRANGE", "vast", size - 1, "x")
    try:
        with proxies["standalone"].connect(timeout=60) as c:
            for keys, expected in ((("other", "vast"), [values["other"], size]), (("vast", "other"), [size, values["other"]])):
                found = [v if len(v) < size else len(v) for v in c.call("MGET", *keys) if len(v) < size or v.strip(b"\0") == b"x"]
                assert found == expected
            assert c.call("PING") == b"PONG"
    finally:
        source.call("DEL", "vast")


def test_a_slow_reader_keeps_nobody_waiting(proxy, side, values):
    with proxy.connect(timeout=60) as slow, proxy.connect(protocol=3, timeout=60) as other:
        begin(slow, "GET", "big")
        assert other.call("SET", "{big}y", "1") == b"OK" and other.call("GET", "{big}y") == b"1"
        fresh(proxy)
        with proxy.connect(timeout=60) as second:  # on the connection that is the data connection now
            begin(second, "GET", "big")
            fresh(proxy)
            assert counter(proxy, "large_held") <= 2 * HELD
            assert second.read() == values["big"]
        assert slow.read() == values["big"]
        assert slow.call("GET", "{big}y") == b"1"
    at_rest(proxy)
    wait_until("one spare connection is left", lambda: len(data_connections(side)) <= 4 * len(side.primaries()) * 2, 20)


@pytest.fixture
def unknown(side):
    """A key like "big" that nobody has asked for: what comes behind a request for one that was large of late does not go the same way."""
    key = "{big}" + os.urandom(8).hex()
    assert side.client_for("big").call("COPY", "big", key) == 1
    return key


def stuck(proxy, side, slow, behind, key):
    """`slow` has the beginning of its reply, and `behind` has sent a SET that went to the server before that reply began."""
    with frozen([side.node_for("big") if hasattr(side, "node_for") else side]):
        slow.send("GET", key)
        wait_until("it has been taken", lambda: "cmd=get" in line_of(proxy, slow), 10)
        behind.send("SET", "{big}z", "1")
        wait_until("it has been taken", lambda: "cmd=set" in line_of(proxy, behind), 10)
    slow.parser.feed(slow.sock.recv(1000))


def test_what_was_in_flight_behind_it_is_answered(proxy, side, values, unknown):
    """It has to wait, but not for ever, and it is not overtaken."""
    with proxy.connect(timeout=60) as slow, proxy.connect(timeout=60) as behind, proxy.connect(timeout=60) as later:
        stuck(proxy, side, slow, behind, unknown)
        later.send("GET", "{big}z")
        assert behind.read() == b"OK" and later.read() == b"1"
        assert slow.read() == values["big"]
    at_rest(proxy)
    fresh(proxy)


def test_nothing_waits_behind_one_that_was_large_before(proxy, side, values, unknown):
    """However slowly its client reads: if it had to be taken at once for their sake, all of it would be held."""
    with proxy.connect(timeout=60) as slow, proxy.connect(timeout=60) as behind, proxy.connect(timeout=60) as later:
        assert slow.call("GET", unknown) == values["big"]
        at_rest(proxy)
        stuck(proxy, side, slow, behind, unknown)
        later.send("GET", "{big}z")
        assert behind.read() == b"OK" and later.read() == b"1"
        fresh(proxy)
        assert counter(proxy, "large_held") <= HELD
        assert slow.read() == values["big"]
        assert slow.pipeline([("GET", unknown), ("SET", "{big}z", "2"), ("GET", "{big}z")]) == [values["big"], b"OK", b"2"]
        assert slow.call("DEL", unknown) == 1 and slow.call("GET", unknown) is None  # it is small now, and goes the same way once more
    at_rest(proxy)
    fresh(proxy)


def test_the_output_limit_holds(servers, sources):
    side = sources["standalone"]
    proxy = servers.crossfade(side, config={"client-output-max": 4 * MB})
    with proxy.connect(timeout=60) as slow, proxy.connect(timeout=60) as behind:
        stuck(proxy, side, slow, behind, "big")
        assert behind.read() == b"OK"
        with pytest.raises((Disconnected, ConnectionError)):
            slow.read()
    at_rest(proxy)


def line_of(proxy, client):
    name = "%s:%d" % client.sock.getsockname()
    return next((line for line in proxy.call("CLIENT", "LIST").decode().splitlines() if "addr=%s " % name in line), "")


def test_pushes_wait_for_its_end(proxies, values):
    proxy = proxies["standalone"]
    with proxy.connect(protocol=3, timeout=60) as c:
        c.send("SUBSCRIBE", "news")
        assert c.read_push()[0] == b"subscribe"
        begin(c, "GET", "big")
        for i in range(100):
            assert proxy.call("PUBLISH", "news", "message %d" % i) == 1
        c.send("PING")
        assert c.read() == values["big"] and not c.pushes
        assert [c.read_push()[2] for _ in range(100)] == [b"message %d" % i for i in range(100)]
        assert c.read() == b"PONG"


def test_a_client_that_goes_in_the_middle(proxy, side, values):
    for how in "close", "reset":
        c = proxy.connect(timeout=60)
        begin(c, "GET", "big")
        getattr(c, how)()
        at_rest(proxy)
        fresh(proxy, 3)
    with proxy.connect(timeout=60) as c:
        assert c.call("GET", "big") == values["big"]


def test_a_server_that_is_lost_in_the_middle(proxy, side, values):
    """Its connections, all at once: who has part of a reply is closed, everybody else goes on."""
    side.client_for("huge").call("SETRANGE", "huge", HUGE, "x")
    with proxy.connect(timeout=60) as c:
        begin(c, "GET", "huge")
        for node in side.primaries():
            node.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with pytest.raises((Disconnected, ConnectionError)):
            c.read()
    at_rest(proxy)
    side.client_for("huge").call("DEL", "huge")
    side.client_for("big").call("SET", "{big}x", "2")
    wait_until("it is connected again", lambda: proxy.call("GET", "{big}x") == b"2", 20)
    fresh(proxy)
    with proxy.connect(timeout=60) as c:
        assert c.call("GET", "big") == values["big"]


def test_a_take_over_in_the_middle(servers, sources, values):
    """What the client has not read yet goes along with it, as any reply."""
    proxy = servers.crossfade(sources["standalone"])
    with proxy.connect(timeout=60) as slow:
        begin(slow, "GET", "big")
        assert any(proxy.take_over() == 0 for _ in range(5)), proxy.log_tail(60)  # on a busy machine it may not come to rest in time: then it goes on
        proxy.former_end()
        assert slow.read() == values["big"] and slow.call("PING") == b"PONG"


def test_a_migration_begins_in_the_middle(servers, values):
    source, target = servers.standalone("redis-7.0"), servers.standalone("valkey-9.1")
    proxy = servers.crossfade(source, target)
    source.call("SET", "big", values["big"])
    with proxy.connect(timeout=60) as slow, proxy.connect(timeout=60) as other:
        begin(slow, "GET", "big")
        proxy.ctl("start")
        assert other.call("SET", "{big}a", "1") == b"OK" and other.call("SET", "b", "2") == b"OK"
        proxy.wait("synced,dirty=0")
        assert slow.read() == values["big"]
        before = counter(proxy, "large")
        assert slow.call("GET", "big") == values["big"] and counter(proxy, "large") == before
    assert not diff(source, target)
