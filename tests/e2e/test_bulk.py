"""Large requests are passed on as they come, while nothing is mirrored: few bytes of them are held, the client's order holds around them, a half one is never executed, and who is lost in the
middle, client or server, is told what became of it."""
import contextlib
import os
import re
import signal
import threading

import pytest
from harness.large import at_rest, counter, plain_proxies
from harness.process import wait_until
from harness.resp import Disconnected, RespError, encode

MB = 1 << 20
BIG = 8 * MB
HELD = 2 * MB
SIDES = ["standalone", "cluster"]
VALUE = (os.urandom(997) * (BIG // 997 + 1))[:BIG]


@pytest.fixture(scope="module")
def sources(servers, certs):
    return {"standalone": servers.standalone("redis-7.0", tls=certs), "cluster": servers.cluster("redis-7.0")}


@pytest.fixture(scope="module")
def proxies(servers, sources, certs):
    plain = plain_proxies(servers, sources, certs, workers=2)
    wait_for_rest(plain["cluster"])
    return plain


@pytest.fixture(params=SIDES)
def side(request, sources):
    return sources[request.param]


@pytest.fixture
def proxy(request, proxies):
    """In front of `side`."""
    return proxies[request.node.callspec.params["side"]]


def wait_for_rest(proxy):
    """The cluster's nodes are sure: a large request is passed on."""
    def passed():
        before = counter(proxy, "large")
        with proxy.connect(timeout=60) as c:
            assert c.call("SET", "rest", VALUE[:MB + 1]) == b"OK"
        return counter(proxy, "large") > before
    wait_until("large requests are passed on", passed, 30)


def refused(client, pattern):
    reply = client.read()
    assert isinstance(reply, RespError) and re.search(pattern, str(reply)), reply


def begin(client, *args, sent=None):
    """All of the request but its end."""
    whole = encode(list(args))
    client.send_raw(whole[:sent or len(whole) - 5])
    return whole[sent or len(whole) - 5:]


def passing(proxy, n):
    """So many have been passed on since it began, this one among them."""
    wait_until("it is on its way", lambda: counter(proxy, "large") >= n, 20)


@pytest.mark.parametrize("name,protocol", [("standalone", 2), ("cluster", 3), ("tls", 3)])
def test_requests_arrive_as_they_are_and_few_bytes_are_held(proxies, sources, name, protocol):
    proxy, side = proxies[name], sources.get(name, sources["standalone"])
    before = counter(proxy, "large")
    with proxy.connect(protocol=protocol, timeout=60) as c:
        c.call("DEL", "k", "{k}h", "{k}l", "{k}n")
        assert c.call("SET", "k", VALUE) == b"OK"
        assert 0 < counter(proxy, "large_held_most") <= HELD
        assert side.client_for("k").call("GET", "k") == VALUE
        for size in MB - 40, MB - 2, MB, MB + 1, MB + 65536:
            assert c.call("SET", "k", VALUE[:size]) == b"OK" and c.call("STRLEN", "k") == size
        assert c.pipeline([("INCR", "{k}n"), ("SET", "k", VALUE, "EX", 1000), ("INCR", "{k}n"), ("STRLEN", "k"), ("APPEND", "k", VALUE[:2 * MB]), ("PERSIST", "k"), ("PING",)]) == [
            1, b"OK", 2, BIG, BIG + 2 * MB, 1, b"PONG"]
        assert c.call("SET", "k", "small", "GET") == VALUE + VALUE[:2 * MB]
        assert c.call("HSET", "{k}h", "a", VALUE[:2 * MB], "b", VALUE[:3 * MB], "c", "x") == 3
        assert c.call("HGET", "{k}h", "b") == VALUE[:3 * MB] and c.call("HGET", "{k}h", "c") == b"x"
        assert c.call("RPUSH", "{k}l", *[VALUE[i * 8192:][:8192] for i in range(300)]) == 300
        assert c.call("LINDEX", "{k}l", 299) == VALUE[299 * 8192:][:8192]
        assert c.call("SET", "k", VALUE[:2 * MB], "NX") is None
        assert counter(proxy, "large") >= before + 9
        assert c.call("DEL", "k", "{k}h", "{k}l", "{k}n") == 4
    at_rest(proxy)


def test_what_has_to_be_whole_is(proxies):
    proxy = proxies["standalone"]
    before = counter(proxy, "large")
    with proxy.connect(timeout=60) as c:
        assert c.call("MSET", "a", VALUE[:2 * MB], "b", "1") == b"OK"
        assert c.pipeline([("MULTI",), ("SET", "a", VALUE[:2 * MB]), ("EXEC",)])[2] == [b"OK"]
        assert c.call("EVAL", "return #ARGV[1]", 1, "a", VALUE[:2 * MB]) == 2 * MB
        with pytest.raises(RespError, match="unknown command"):
            c.call("NONSENSE", "a", VALUE[:2 * MB])
        c.send_raw(encode(["CLIENT", "REPLY", "OFF"]) + encode(["SET", "a", VALUE[:2 * MB]]) + encode(["CLIENT", "REPLY", "ON"]))
        assert c.read() == b"OK" and c.call("STRLEN", "a") == 2 * MB
    assert counter(proxy, "large") == before


def test_errors_of_the_server(proxy, side):
    with proxy.connect(timeout=60) as c:
        c.pipeline([("DEL", "k"), ("RPUSH", "{k}list", "x")])
        before = counter(proxy, "large")
        with pytest.raises(RespError, match="WRONGTYPE"):
            c.call("APPEND", "{k}list", VALUE)
        with pytest.raises(RespError, match="syntax"):
            c.call("SET", "k", VALUE, "NONSENSE")
        assert counter(proxy, "large") == before + 2
        c.send_raw(encode(["SET", "k", VALUE[:2 * MB]])[:-2] + b"XX")
        refused(c, "Protocol error: invalid CRLF")
        with pytest.raises((Disconnected, ConnectionError)):
            c.read()
        assert proxy.call("EXISTS", "k") == 0 and proxy.call("DEL", "{k}list") == 1


def test_an_answer_before_the_end(proxies, sources):
    """The server refuses it by its size alone."""
    proxy, side = proxies["standalone"], sources["standalone"]
    side.call("CONFIG", "SET", "proto-max-bulk-len", 2 * MB)
    try:
        with proxy.connect(timeout=60) as c:
            with pytest.raises(RespError, match="invalid bulk length|not executed"):
                c.call("SET", "k", VALUE)
            assert c.call("PING") == b"PONG" and c.call("SET", "k", VALUE[:MB + MB // 2]) == b"OK" and c.call("DEL", "k") == 1
    finally:
        side.call("CONFIG", "SET", "proto-max-bulk-len", 512 * MB)
    at_rest(proxy)


def test_a_client_that_goes_in_the_middle(proxy, side):
    proxy.call("SET", "k", "old")
    for how in "close", "reset", "is killed":
        before = counter(proxy, "large")
        c = proxy.connect(timeout=60)
        number = c.call("CLIENT", "ID")
        begin(c, "SET", "k", VALUE[:4 * MB])
        passing(proxy, before + 1)
        if how == "is killed":
            assert proxy.call("CLIENT", "KILL", "ID", number) == 1
        else:
            getattr(c, how)()
        at_rest(proxy)
        assert proxy.call("GET", "k") == b"old"


def test_a_slow_client_keeps_nobody_waiting(proxy, side):
    before = counter(proxy, "large")
    with proxy.connect(timeout=60) as slow, proxy.connect(timeout=60) as other:
        rest = begin(slow, "SET", "k", VALUE[:4 * MB])
        passing(proxy, before + 1)
        assert other.call("SET", "k", "1") == b"OK" and other.call("GET", "k") == b"1"
        assert other.call("SET", "k", VALUE[:3 * MB]) == b"OK"
        slow.send_raw(rest + encode(["STRLEN", "k"]))
        assert slow.read() == b"OK" and slow.read() == 4 * MB
    at_rest(proxy)


@pytest.mark.tsan
def test_who_waits_for_what_is_pushed_comes_first(proxy, side):
    """As behind any write: the pusher's next command finds nothing."""
    wait_for_rest(proxy)
    before = counter(proxy, "large")
    for key in "q1", "q2", "q3", "q4":
        with proxy.connect(timeout=60) as waits, proxy.connect(timeout=60) as c:
            waits.send("BLPOP", key, 0)
            wait_until("it waits", lambda: b"blocked_clients:1\r" in proxy.call("INFO", "clients"), 20)
            assert c.pipeline([("RPUSH", key, VALUE[:2 * MB]), ("LLEN", key), ("LPOP", key)]) == [1, 0, None]
            assert waits.read() == [key.encode(), VALUE[:2 * MB]]
    assert counter(proxy, "large") >= before + 4


@pytest.mark.tsan
def test_several_at_once(proxy, side):
    def work(i):
        with proxy.connect(timeout=60) as c:
            for n in range(2):
                assert c.call("SET", "several%d" % i, VALUE[i:4 * MB + n]) == b"OK"
                assert c.call("STRLEN", "several%d" % i) == 4 * MB + n - i
            good.append(c.call("GET", "several%d" % i) == VALUE[i:4 * MB + 1])
            c.call("DEL", "several%d" % i)
    good = []
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert good == [True] * 4
    at_rest(proxy)


def kill_large(side):
    """The connections that have a half request, at the servers."""
    n = 0
    for node in side.primaries():
        for line in node.call("CLIENT", "LIST").decode().splitlines():
            if " name=crossfade" in line and re.search(r" multi-mem=|argv-mem=([0-9]+)", line) and "qbuf=0 " not in line:
                n += node.call("CLIENT", "KILL", "ID", re.search(r"id=(\d+)", line).group(1))
    return n


def test_a_server_that_is_lost_in_the_middle(proxy, side):
    proxy.call("SET", "k", "old")
    before = counter(proxy, "large")
    with proxy.connect(timeout=60) as c:
        rest = begin(c, "SET", "k", VALUE[:4 * MB])
        passing(proxy, before + 1)
        wait_until("its connection is killed", lambda: kill_large(side), 20)
        refused(c, "it was not executed")
        c.send_raw(rest + encode(["GET", "k"]))
        assert c.read() == b"old" and c.call("PING") == b"PONG"
    at_rest(proxy)


@pytest.mark.tsan
def test_lost_when_all_was_sent(servers):
    """Nobody knows; and what comes next is behind it."""
    source = servers.standalone("redis-7.0")
    proxy = servers.crossfade(source)
    with proxy.connect(timeout=60) as c:
        before = counter(proxy, "large")
        rest = begin(c, "SET", "k", VALUE[:4 * MB])
        passing(proxy, before + 1)
        source.call("CLIENT", "PAUSE", 60000, "WRITE")
        c.send_raw(rest)
        wait_until("the server has all of it", lambda: "cmd=set" in source.call("CLIENT", "LIST").decode(), 20)
        for line in source.call("CLIENT", "LIST").decode().splitlines():
            if "cmd=set" in line and " name=crossfade" in line:
                source.call("CLIENT", "KILL", "ID", re.search(r"id=(\d+)", line).group(1))
        refused(c, "UNKNOWN")
        source.call("CLIENT", "UNPAUSE")
        assert c.call("SET", "k", VALUE[:2 * MB]) == b"OK" and c.call("STRLEN", "k") == 2 * MB
        assert counter(proxy, "unknown_outcome") == 1


def test_a_slot_that_has_moved(proxies, sources):
    proxy, side = proxies["cluster"], sources["cluster"]
    wait_for_rest(proxy)
    with proxy.connect(timeout=60) as c:
        slot = proxy.call("CLUSTER", "KEYSLOT", "moved")
        side.move_slot(slot, next(n for n in side.primaries() if n != side.slot_map(fresh=True)[slot]))
        assert c.call("SET", "moved", VALUE) == b"OK"
        assert side.client_for("moved").call("STRLEN", "moved") == BIG


def test_a_migration_begins_in_the_middle(servers):
    """Who goes on comes to the end; who stalls is given up, and told."""
    source, target = servers.standalone("redis-7.0"), servers.standalone("valkey-9.1")
    proxy = servers.crossfade(source, target)
    with proxy.connect(timeout=60) as stalled:
        stalled.call("SET", "k", "old")
        before = counter(proxy, "large")
        rest = begin(stalled, "SET", "k", VALUE[:4 * MB])
        passing(proxy, before + 1)
        proxy.ctl("start")
        refused(stalled, "a migration begins.*not executed")
        stalled.send_raw(rest + encode(["SET", "k2", VALUE[:2 * MB]]))
        assert stalled.read() == b"OK" and counter(proxy, "large") == before + 1
        proxy.wait("synced,dirty=0")
        assert target.call("GET", "k") == b"old" and target.call("STRLEN", "k2") == 2 * MB


def ends_as_told(c, source, key):
    """A client that goes on while the process ends, or another takes over: what it hears is what has become of it. True: it was executed."""
    told = c.read()
    assert source.call("STRLEN", key) == (4 * MB if told == b"OK" else len("old")), told
    if told != b"OK":
        assert "not executed" in str(told)
    return told == b"OK"


def test_a_take_over_in_the_middle(servers, sources):
    source = sources["standalone"]
    proxy = servers.crossfade(source)
    with proxy.connect(timeout=60) as c, proxy.connect(timeout=60) as stalled, proxy.connect(timeout=60) as going:
        going.call("SET", "k", "old")
        begin(stalled, "SET", "k3", VALUE[:4 * MB])
        rest = begin(going, "SET", "k", VALUE[:4 * MB], sent=2 * MB)
        passing(proxy, 2)
        assert c.call("SET", "k4", VALUE) == b"OK"
        goes_on = threading.Thread(target=going.send_raw, args=(rest,))
        goes_on.start()
        assert any(proxy.take_over() == 0 for _ in range(5)), proxy.log_tail(60)
        goes_on.join()
        refused(stalled, "not executed")
        if ends_as_told(going, source, "k"):
            assert going.call("STRLEN", "k") == 4 * MB
        proxy.former_end()
        assert c.call("SET", "k4", VALUE) == b"OK" and c.call("DEL", "k4") == 1 and c.call("EXISTS", "k3") == 0


def test_the_end_of_the_process_in_the_middle(servers, sources):
    """It is not waited for longer than for others, and nothing half is executed: the end is clean."""
    source = sources["standalone"]
    proxy = servers.crossfade(source)
    with proxy.connect(timeout=60) as stalled, proxy.connect(timeout=60) as going, proxy.connect(timeout=60) as dropping:
        going.call("SET", "k", "old"), going.call("DEL", "k3")
        begin(dropping, "SET", "k3", VALUE[:4 * MB])
        passing(proxy, 1)
        wait_until("its connection is killed", lambda: kill_large(source), 20)
        refused(dropping, "not executed")
        begin(stalled, "SET", "k3", VALUE[:4 * MB])
        rest = begin(going, "SET", "k", VALUE[:4 * MB], sent=2 * MB)
        passing(proxy, 3)
        proxy.drop()
        proxy.signal(signal.SIGTERM)
        going.send_raw(rest)
        refused(stalled, "the process ends.*not executed")
        ends_as_told(going, source, "k")
        for c in stalled, going, dropping:
            with pytest.raises((Disconnected, ConnectionError)):
                c.read()
        assert proxy.wait_exit() == 0 and "given up" not in re.sub("command was given up", "", proxy.log())
        assert source.call("EXISTS", "k3") == 0


@pytest.mark.parametrize("error,refuses,serves", [
    ("OOM", ("CONFIG", "SET", "maxmemory", 1), ("CONFIG", "SET", "maxmemory", 0)), ("READONLY", ("REPLICAOF", "127.0.0.1", 1), ("REPLICAOF", "NO", "ONE"))])
def test_a_server_that_refuses_writes(proxies, sources, error, refuses, serves):
    """From before the beginning, and from the middle on; the connections go on."""
    proxy, source = proxies["standalone"], sources["standalone"]
    with proxy.connect(timeout=60) as c, proxy.connect(timeout=60) as middle:
        c.call("SET", "k", "old")
        before = counter(proxy, "large")
        rest = begin(middle, "SET", "k", VALUE[:4 * MB])
        passing(proxy, before + 1)
        source.call(*refuses)
        try:
            middle.send_raw(rest + encode(["GET", "k"]))
            refused(middle, "^" + error)
            assert middle.read() == b"old"
            c.send_raw(encode(["SET", "k", VALUE]) + encode(["GET", "k"]))
            refused(c, "^" + error)
            assert c.read() == b"old" and counter(proxy, "large") == before + 2
        finally:
            source.call(*serves)
        assert c.call("SET", "k", VALUE) == b"OK" and middle.call("DEL", "k") == 1
    at_rest(proxy)


def test_a_server_that_takes_no_more_connections(servers, sources):
    """The data connection is there: it takes what comes."""
    source = sources["standalone"]
    proxy = servers.crossfade(source, config={"workers": 1})
    with proxy.connect(timeout=60) as c:
        assert c.call("SET", "k", "old") == b"OK"
        most = source.call("CONFIG", "GET", "maxclients")[1]
        source.call("CONFIG", "SET", "maxclients", 1)
        try:
            assert c.pipeline([("SET", "k", VALUE[:2 * MB]), ("STRLEN", "k")] * 2) == [b"OK", 2 * MB] * 2
        finally:
            source.call("CONFIG", "SET", "maxclients", most)
        assert counter(proxy, "large") == 0 and c.call("DEL", "k") == 1


def test_client_pause_stops_it_where_it_is(proxies, sources):
    proxy, source = proxies["tls"], sources["standalone"]
    before = counter(proxy, "large")
    with proxy.connect(timeout=60) as c, proxy.connect(timeout=60) as other:
        c.call("SET", "k", "old")
        rest = begin(c, "SET", "k", VALUE[:4 * MB])
        passing(proxy, before + 1)
        wait_until("the server has all but its end", lambda: any(
            int(n) > 4 * MB - 100 for n in re.findall(r" name=crossfade.* qbuf=(\d+) ", source.call("CLIENT", "LIST").decode())), 20)
        assert other.call("CLIENT", "PAUSE", 100000, "WRITE") == b"OK"
        try:
            c.send_raw(rest + encode(["STRLEN", "k"]))
            for _ in range(30):
                assert source.call("GET", "k") == other.call("GET", "k") == b"old"
        finally:
            assert other.call("CLIENT", "UNPAUSE") == b"OK"
        assert c.read() == b"OK" and c.read() == 4 * MB


def is_refused_to_set(proxy):
    with proxy.connect() as c:
        return isinstance(c.try_call("SET", "k", "old"), RespError)


def test_users_that_are_read_again_in_the_middle(servers, sources, tmp_path):
    users = tmp_path / "users.acl"
    users.write_text("user default on nopass ~* &* +@all\n")
    proxy = servers.crossfade(sources["standalone"], config={"aclfile": users})
    with proxy.connect(timeout=60) as c:
        c.call("SET", "k", "old")
        rest = begin(c, "SET", "k", VALUE[:4 * MB])
        passing(proxy, 1)
        users.write_text("user default on nopass ~* &* +@all -set\n")
        proxy.reload()
        wait_until("they are read, by each worker", lambda: all(is_refused_to_set(proxy) for _ in range(20)), 20)
        c.send_raw(rest + encode(["SET", "k", VALUE[:2 * MB]]) + encode(["GET", "k"]))
        refused(c, "not executed")
        refused(c, "NOPERM")
        assert c.read() == b"old" and c.call("DEL", "k") == 1


def test_as_many_as_may_pass_at_a_time(servers, sources):
    """A connection that is only kept, of another node, takes nobody's place; who finds none is held whole."""
    side = sources["cluster"]
    proxy = servers.crossfade(side, config={"workers": 1})
    wait_for_rest(proxy)  # "rest" leaves an idle connection
    nodes = {side.node_for("n%d" % i): "n%d" % i for i in range(30)}
    nodes.pop(side.node_for("rest"))
    (_, full), (_, other) = nodes.items()
    value = VALUE[:MB + 4096]
    with contextlib.ExitStack() as stack:
        before = counter(proxy, "large")
        clients = [stack.enter_context(proxy.connect(timeout=60)) for _ in range(64)]
        c = stack.enter_context(proxy.connect(timeout=60))
        rests = []
        for n, stalled in enumerate(clients, 1):
            rests.append(begin(stalled, "SET", "{%s}%d" % (full, n), value))
            passing(proxy, before + n)
            if n == 63:
                assert c.call("SET", other, value) == b"OK" and counter(proxy, "large") == before + n + 1
                before += 1
        assert c.call("SET", other, value) == b"OK" and counter(proxy, "large") == before + 64
        for stalled, rest in zip(clients, rests):
            stalled.send_raw(rest)
        assert [stalled.read() for stalled in clients] == [b"OK"] * 64
        assert c.pipeline([("DEL", "{%s}%d" % (full, n)) for n in range(1, 65)]) == [1] * 64
    at_rest(proxy)
