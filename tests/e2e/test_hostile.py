"""Clients that send what no client should, or do not read: an error or a close for that one, as a server would say it, bounded memory, and the others are served.

The proxy mirrors meanwhile, and at the end both sides are the same. (Garbage on a TLS port: test_tls.)
"""
import re
import socket

import pytest
from harness import diff
from harness.crossfade import SANITIZERS
from harness.process import wait_until
from harness.resp import Disconnected, RespError, encode

MB = 1 << 20
END = b"$3\r\nend\r\n"
# What ends a connection, in a server's own words.
ENDED = [b"*1\r\n$-5\r\n", b"*1\r\n$536870913\r\n", b"*1\r\n$x\r\n", b"*1\r\nGET\r\n", b"*99999999999\r\n", b"*2147483648\r\n", b"*x\r\n",
         b"*2\r\n$3\r\nGET\r\n:1\r\n", b"*1\r\n*1\r\n$4\r\nPING\r\n", b"*1\r\n$99999999999999999999\r\n", b"\"unbalanced\r\n", b"*1\r\n" * 100000,
         b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET k v\r\n", b"GET k HTTP/1.1\r\nHost: x\r\n\r\nSET k v\r\n", encode(["host:", "x"])]
# What is nothing at all, and the connection goes on.
EMPTY = [b"\r\n", b"*0\r\n", b"*-1\r\n", b"   \r\n"]
# What who has not said AUTH may not send, and what it may.
STRANGER = [b"*11\r\n", b"*10\r\n" + b"$1\r\nx\r\n" * 10, b"*2\r\n$3\r\nGET\r\n$16385\r\n", b"*2\r\n$3\r\nGET\r\n$16384\r\n" + b"x" * 16384 + b"\r\n", b"*2\r\n$-1\r\n",
            encode(["AUTH", "secret"]) + encode(["GET"] * 11)]


@pytest.fixture(scope="module")
def pair(servers):
    return servers.standalone("redis-7.0"), servers.standalone("valkey-9.1")


@pytest.fixture(scope="module")
def proxy(servers, pair):
    # A sanitizer keeps what was freed for a while; here memory is measured.
    env = {"ASAN_OPTIONS": SANITIZERS["ASAN_OPTIONS"] + ":quarantine_size_mb=8"}
    made = servers.crossfade(*pair, config={"client-output-max": 8 * MB}, env=env)
    made.ctl("start")
    made.wait("synced,dirty=0")
    return made


@pytest.fixture(scope="module")
def guarded(servers, pair, tmp_path_factory):
    """(a server with a password, a proxy with one)."""
    server, password = servers.standalone("redis-7.0", conf={"requirepass": "secret"}), tmp_path_factory.mktemp("guarded") / "password"
    password.write_text("secret\n")
    password.chmod(0o600)
    return server, servers.crossfade(pair[0], config={"requirepass-file": password, "workers": 1}, client_options={"password": "secret"})


def pages(proxy, column):
    with open("/proc/%d/statm" % proxy.pid) as f:
        return int(f.read().split()[column]) * 4096


def reserved(proxy):
    return pages(proxy, 0)


def resident(proxy):
    return pages(proxy, 1)


def dial(proxy):
    return socket.create_connection(("127.0.0.1", proxy.port), 30)


def answers(data, server, tail=encode(["PING", "end"])):
    """(all that comes, whether the peer closed) for these bytes and a PING behind them."""
    got = b""
    with dial(server) as s:
        try:
            s.sendall(data + tail)
        except ConnectionError:
            pass  # what it said before it closed may still be read
        while not got.endswith(END):
            try:
                more = s.recv(65536)
            except ConnectionResetError:
                more = b""
            if not more:
                return got, True
            got += more
        return got, False


def same_answers(data, server, proxy, *tail):
    theirs, ours = answers(data, server, *tail), answers(data, proxy, *tail)
    assert ours[1] == theirs[1]
    assert ours[0] == theirs[0] or (ours[1] and b"" in (ours[0], theirs[0]))  # a reset may swallow the last words


@pytest.mark.parametrize("data", ENDED + EMPTY, ids=lambda d: repr(d[:20])[2:-1])
def test_as_the_server(pair, proxy, data):
    same_answers(data, pair[0], proxy)


@pytest.mark.parametrize("start", [b"*", b"x", b"*2\r\n$3\r\nGET\r\n$"])
def test_a_line_that_does_not_end(pair, proxy, start):
    data = start + b"1" * 70000
    assert answers(data, proxy, b"") == answers(data, pair[0], b"")


@pytest.mark.parametrize("data", STRANGER, ids=lambda d: repr(d[:26])[2:-1])
def test_as_the_server_to_a_stranger(guarded, data):
    same_answers(data, *guarded, encode(["QUIT"]))


@pytest.mark.parametrize("n", [50000, pytest.param(1000000, marks=pytest.mark.long)])
def test_many_arguments(proxy, n):
    with proxy.connect(timeout=100) as c:
        assert c.call("RPUSH", "list", *["x"] * n) == n and c.call("LLEN", "list") == n
        assert c.call("DEL", "list", *["k%d" % i for i in range(n)]) == 1


def test_more_arguments_than_are_taken(proxy):
    """Servers take 2^31 - 1, the proxy a million: refused as one too many for a server is."""
    assert answers(b"*1048577\r\n", proxy) == (b"-ERR Protocol error: invalid multibulk length\r\n", True)


def test_large_values_that_come_bit_by_bit(proxy):
    """Room grows with what has come."""
    value = bytes(range(256)) * 40000
    with proxy.connect(timeout=60) as c:
        data = encode(["SET", "large", value]) + encode(["GET", "large"])
        for i in range(0, len(data), 700001):
            c.send_raw(data[i:i + 700001])
        assert c.read() == b"OK" and c.read() == value
        assert c.call("DEL", "large") == 1


def test_a_pipeline_of_100000(proxy):
    with proxy.connect(timeout=60) as c:
        assert c.pipeline((("SET", "k%d" % (i % 100), i) for i in range(20000)), chunk=20000) == [b"OK"] * 20000
        assert c.pipeline((("PING",) if i % 2 else ("GET", "k1") for i in range(100000)), chunk=100000) == [b"19901", b"PONG"] * 50000


def test_deep_nesting(pair, proxy):
    """Replies as deep as a server makes them."""
    script = "local t = {1} for i = 1, 30 do t = {t} end return t"
    with pair[0].connect() as server, proxy.connect() as c:
        assert c.raw("EVAL", script, 0) == server.raw("EVAL", script, 0)


def test_half_requests_cost_what_they_sent(proxy):
    """Announced sizes are not believed: a hundred requests of 500 MB that never come do not even reserve the memory."""
    assert proxy.call("SET", "other", "1") == b"OK"
    before = reserved(proxy)
    halves = [dial(proxy) for _ in range(100)]
    for s in halves:
        s.sendall(b"PING\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$500000000\r\nabc")
    for s in halves:
        assert s.recv(7) == b"+PONG\r\n"  # so what is behind it was read, or is read next
    assert proxy.call("GET", "other") == b"1"
    grown = reserved(proxy) - before
    for s in halves:
        s.close()
    assert grown < 4096 * MB, grown
    assert proxy.call("GET", "other") == b"1" and proxy.call("EXISTS", "k") == 0


def cut_off(s):
    """Drains what a peer that closes has still sent; true once it has closed."""
    try:
        while True:
            if not s.recv(MB):
                return True
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_who_does_not_read_is_cut_off(proxy):
    """Over client-output-max; others are served meanwhile, memory stays bounded, and what came too late for it is nobody else's."""
    proxy.call("SET", "big", b"x" * MB)
    before = resident(proxy)
    with dial(proxy) as s, proxy.connect() as other:
        s.sendall(encode(["GET", "big"]) * 60)
        said = "over client-output-max; closed"
        wait_until("it is cut off", lambda: (other.call("GET", "other-one"), said in proxy.log())[1])
        assert resident(proxy) - before < 48 * MB
        s.setblocking(False)
        wait_until("its connection ends", lambda: cut_off(s), 30)
    assert proxy.call("GET", "big") == b"x" * MB and proxy.call("DEL", "big") == 1


def test_a_flood_of_idle_connections(proxy):
    before = resident(proxy)
    idle = [dial(proxy) for _ in range(400)]
    assert proxy.call("PING") == b"PONG"
    idle[-1].sendall(b"PING\r\n")
    assert idle[-1].recv(7) == b"+PONG\r\n"
    grown = resident(proxy) - before
    for s in idle:
        s.close()
    assert grown < 64 * MB, grown
    with proxy.connect() as c:
        assert c.call("PING") == b"PONG"


GARBAGE = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2, b"\0" * 100000 + b"\r\n", b"\xff\r\n" * 1000, bytes(range(256)) * 300]


@pytest.mark.parametrize("data", GARBAGE, ids=lambda d: repr(d[:12])[2:-1])
def test_garbage(proxy, data):
    with proxy.connect() as c:
        c.call("PING")
        with dial(proxy) as s:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            try:
                while s.recv(65536):
                    pass
            except ConnectionResetError:
                pass
        try:
            assert c.call("PING") == b"PONG"
        except Disconnected:
            raise AssertionError("another client was closed")


def test_a_transaction_without_end(pair, proxy):
    """10,000 commands in one, half of them refused ones: what a server says, byte by byte."""
    calls = encode(["MULTI"]) + (encode(["RPUSH", "t", "x" * 50]) + encode(["NOSUCH"])) * 5000 + encode(["EXEC"])
    theirs, ours = answers(calls, pair[0]), answers(calls, proxy)
    assert ours == theirs and b"EXECABORT" in ours[0]
    with proxy.connect(timeout=60) as c:
        assert c.pipeline([["MULTI"]] + [["RPUSH", "t", i] for i in range(10000)] + [["EXEC"]], chunk=20000)[-1] == list(range(1, 10001))


def test_both_sides_are_the_same(pair, proxy):
    proxy.wait("dirty=0,lag=0")
    assert diff(pair[0], pair[1]) == []
    assert not re.search("diverge|assert", proxy.log(), re.I)
    with pytest.raises(RespError, match="unknown command"):
        proxy.call("NOSUCH")
