"""CLIENT TRACKING through the proxy: who has read a key is told when it changes, whoever changed it; nothing is missed over a flip."""
import threading

import pytest
from harness.process import frozen, wait_until
from harness.resp import Push

KINDS = ["redis-7.0", "valkey-9.1"]
NULL = [b"invalidate", None]


def pushes_until(client, last, timeout=20):
    """What it is told, up to the key that changed last."""
    told = []
    while not told or told[-1] != last:
        told.append(list(client.pushes.popleft()) if client.pushes else list(client.read_any(timeout)))
        assert told[-1][0] in (b"invalidate", b"message", b"tracking-redir-broken"), told
    return told


# ---- the servers' words

WORDS = [
    [("TRACKING",), ("TRACKING", "x"), ("TRACKING", "on", "x"), ("TRACKING", "on", "prefix", "a"), ("TRACKING", "on", "bcast", "optin"), ("TRACKING", "on", "bcast", "optout"), ("TRACKING", "on", "optin", "optout"),
     ("TRACKING", "on", "redirect"), ("TRACKING", "on", "redirect", "x"), ("TRACKING", "on", "redirect", 999999), ("TRACKING", "off"), ("GETREDIR",)],
    [("CACHING", "yes"), ("CACHING",), ("TRACKING", "ON"), ("CACHING", "yes"), ("GETREDIR",), ("TRACKING", "on", "bcast"), ("TRACKING", "on", "optin"), ("TRACKING", "on", "optout"), ("CACHING", "yes"), ("CACHING", "no"),
     ("CACHING", "x"), ("TRACKING", "off"), ("CACHING", "yes")],
    [("TRACKING", "on", "optout"), ("CACHING", "yes"), ("CACHING", "no"), ("TRACKING", "on", "optout", "noloop"), ("TRACKING", "on", "optin")],
    [("TRACKING", "on", "bcast"), ("TRACKING", "on", "bcast", "prefix", "a"), ("TRACKING", "on"), ("TRACKING", "off"), ("TRACKING", "on", "bcast", "prefix", "b", "prefix", "a", "noloop"),
     ("TRACKING", "on", "bcast", "prefix", "ab"), ("TRACKING", "on", "bcast", "prefix", "c"), ("TRACKING", "on", "bcast", "prefix", "x", "prefix", "xy"), ("CACHING", "yes"), ("TRACKING", "OFF", "x")],
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", [2, 3])
def test_words(alone, kind, protocol):
    server, proxy = alone(kind)
    for calls in WORDS:
        with server.connect(protocol=protocol) as one, proxy.connect(protocol=protocol) as other:
            for words in calls:
                for command in (words, ("TRACKINGINFO",), ("GETREDIR",)):
                    assert other.raw("CLIENT", *command) == one.raw("CLIENT", *command), (words, command)
                flags = [dict(f.split("=", 1) for f in c.call("CLIENT", "INFO").decode().split()) for c in (one, other)]
                assert (flags[0]["flags"], flags[0]["redir"]) == (flags[1]["flags"], flags[1]["redir"]), words
            for c in (one, other):
                c.call("RESET")
                if protocol == 3:
                    c.call("HELLO", 3)
            assert other.raw("CLIENT", "TRACKINGINFO") == one.raw("CLIENT", "TRACKINGINFO")


# ---- what is told

SCENARIOS = {  # how it tracks; what it reads; what another client writes
    "default": ([], [("GET", "a"), ("MGET", "b", "c"), ("HGETALL", "h"), ("MULTI",), ("GET", "d"), ("SET", "x", 1), ("EXEC",), ("EXISTS", "none"), ("EVAL", "return redis.call('GET', KEYS[1])", 1, "e")],
                [("SET", "a", 2), ("SET", "a", 3), ("DEL", "b"), ("EXPIRE", "c", 100), ("HSET", "h", "f", 2), ("SET", "d", 2), ("SET", "never", 2), ("SET", "none", 1), ("SET", "e", 1)]),
    "optin": (["OPTIN"], [("GET", "a"), ("CLIENT", "CACHING", "yes"), ("GET", "b"), ("GET", "c"), ("CLIENT", "CACHING", "yes"), ("MULTI",), ("GET", "d"), ("HGETALL", "h"), ("EXEC",), ("GET", "e"),
                          ("CLIENT", "CACHING", "yes"), ("GET", "last")], [("SET", k, 2) for k in ("a", "b", "c", "d", "e")] + [("DEL", "h")]),
    "optout": (["OPTOUT"], [("GET", "a"), ("CLIENT", "CACHING", "no"), ("GET", "b"), ("GET", "c")], [("SET", k, 2) for k in ("a", "b", "c")]),
    "bcast": (["BCAST"], [("GET", "a")], [("SET", "a", 2), ("SET", "z", 1), ("MSET", "b", 1, "c", 2), ("DEL", "nothing"), ("RENAME", "a", "aa")]),
    "prefixes": (["BCAST", "PREFIX", "a", "PREFIX", "last", "PREFIX", "b:"], [], [("SET", "ab", 2), ("SET", "b", 1), ("MSET", "b:1", 1, "a:1", 2, "c", 3, "a:2", 4), ("LPUSH", "b:l", 1)]),
    "flush": (["BCAST"], [("GET", "a")], [("SET", "a", 2), ("FLUSHALL",), ("SET", "b", 1), ("FLUSHDB", "ASYNC"), ("MULTI",), ("SET", "c", 1), ("INCR", "c"), ("EXEC",)]),
    "noloop of another": (["NOLOOP"], [("GET", "a")], [("SET", "a", 2)]),
}
PREPARED = [("SET", k, 1) for k in "abcde"] + [("HSET", "h", "f", 1), ("SET", "last", 0)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_told(alone, kind, scenario):
    """By writes through the proxy, and by those past it, as the server tells it."""
    server, proxy = alone(kind)
    mode, reads, writes = SCENARIOS[scenario]
    told = []
    for reader, writer in ((server, server), (proxy, proxy), (proxy, server)):
        wait_until("nobody listens any more", lambda: b"-tracking " not in server.call("CLIENT", "LIST"))
        server.flushall()
        with reader.connect(protocol=3) as r, writer.connect() as w:
            for command in PREPARED:
                w.call(*command)
            assert r.call("CLIENT", "TRACKING", "ON", *mode) == b"OK"
            for command in reads:
                r.call(*command)
            r.call("GET", "last") if "OPTIN" not in mode else None
            for command in writes:
                w.call(*command)
            w.call("SET", "last", 1)
            told.append(pushes_until(r, [b"invalidate", [b"last"]]))
    assert told[1] == told[0] and told[2] == told[0]
    assert len(told[0]) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_redirected(alone, kind):
    """RESP2: to another client's subscription, wherever that is connected; then that client goes."""
    server, proxy = alone(kind)
    told = []
    for endpoint in (server, proxy):
        readers = [endpoint.connect(protocol=p) for p in (2, 3, 2, 2)]
        with endpoint.connect() as listener, endpoint.connect() as w:
            number = listener.call("CLIENT", "ID")
            listener.call("SUBSCRIBE", "__redis__:invalidate")
            for i, r in enumerate(readers):
                assert r.call("CLIENT", "TRACKING", "ON", "REDIRECT", number) == b"OK"
                assert r.call("CLIENT", "GETREDIR") == number
                r.call("GET", "k%d" % i)
            seen = []
            for i in range(len(readers)):
                w.call("SET", "k%d" % i, 1)
                seen.append(listener.read_any(20))
            server.call("FLUSHALL")
            seen += [listener.read_any(20) for _ in readers]
            readers[1].call("GET", "k")
            listener.close()
            wait_until("it has gone", lambda: b"id=%d " % number not in w.call("CLIENT", "LIST"))
            w.call("SET", "k", 1)
            assert readers[1].read_any(20) == [b"tracking-redir-broken", number]
            assert b"broken_redirect" in readers[1].call("CLIENT", "TRACKINGINFO")[b"flags"]
            told.append(seen)
        for r in readers:
            r.close()
    assert told[0] == told[1]


def test_flush_and_ends(alone):
    """A null for everybody; who has stopped tracking is told nothing, and nothing is listened to any more when nobody tracks."""
    server, proxy = alone("redis-7.0")
    clients = [proxy.connect(protocol=3) for _ in range(6)]
    for i, c in enumerate(clients):
        c.call("CLIENT", "TRACKING", "ON", *(["BCAST"] if i % 2 else []))
        c.call("GET", "k")
    clients[0].call("CLIENT", "TRACKING", "OFF")
    for flusher in (server.client, proxy.client, clients[1], clients[2]):  # who tracks is told of its own, too
        for c in clients[1:]:
            c.call("GET", "k")
        assert flusher.call("FLUSHALL") == b"OK"
        for c in clients[1:]:
            assert list(c.read_push(20)) == NULL
    assert clients[0].call("PING") == b"PONG" and not clients[0].pushes
    assert b"-tracking " in server.call("CLIENT", "LIST")
    assert b"tracking_clients:5" in proxy.call("INFO", "clients")
    for c in clients:
        c.close()
    wait_until("nobody tracks", lambda: b"tracking_clients:0" in proxy.call("INFO", "clients"))
    wait_until("nothing is listened to", lambda: b"-tracking " not in server.call("CLIENT", "LIST"))


MINE = [("SET", "{0}", 1), ("INCR", "{0}"), ("DEL", "{0}"), ("RPUSH", "{0}", "a", "b"), ("LPOP", "{0}"), ("RENAME", "{0}", "{0}x"), ("MSET", "{0}", 1, "{0}y", 2), ("EXPIRE", "{0}", 100)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode, caching", [([], None), (["OPTIN"], "yes"), (["OPTOUT"], None), (["BCAST"], None), (["BCAST", "PREFIX", "m", "PREFIX", "o", "PREFIX", "last", "PREFIX", "both"], None)])
def test_noloop(alone, kind, mode, caching):
    """Not of its own writes, by itself and in transactions, one behind the other and pipelined; of all others', also to a key that it has just written."""
    server, proxy = alone(kind)
    told = []
    for endpoint in (server, proxy):
        server.flushall()
        with endpoint.connect(protocol=3) as c, endpoint.connect() as w:
            def read(*keys):
                for k in keys:
                    c.call("CLIENT", "CACHING", caching) if caching else None
                    c.call("EXISTS", k)
            assert c.call("CLIENT", "TRACKING", "ON", "NOLOOP", *mode) == b"OK"
            for i in range(20):
                mine = ["m%d%s" % (i, s) for s in ("", "x", "y")]
                calls = [[str(word).format(mine[0]) for word in call] for call in MINE]
                read("o%d" % i, *mine)
                if i % 3 == 0:
                    for call in calls:
                        c.call(*call)
                        read(*mine)
                else:
                    c.pipeline(calls if i % 3 == 1 else [["MULTI"]] + calls + [["EXEC"]])
                w.call("SET", "o%d" % i, i)
                c.call("SETNX", "both", i)
                read("both")
                w.call("SET", "both", i)
            read("last")
            w.call("SET", "last", 1)
            pushes = pushes_until(c, [b"invalidate", [b"last"]])
            told.append([k for _, keys in pushes for k in keys])
    for keys in told:
        assert not [k for k in keys if k.startswith(b"m")]
        assert [k for k in keys if k.startswith(b"o")] == [b"o%d" % i for i in range(20)] and keys.count(b"both") >= 20


@pytest.mark.parametrize("mode", [[], ["BCAST"]])
def test_noloop_among_others(alone, mode):
    """Others write the same key at the same time: what the client goes on taking for the value, its own write or what it read, is the value."""
    _, proxy = alone("valkey-9.1")
    with proxy.connect(protocol=3) as c:
        c.call("CLIENT", "TRACKING", "ON", "NOLOOP", *mode)
        kept = 0
        for n in range(30):
            cache = {}

            def take():
                while c.pushes:
                    for key in c.pushes.popleft()[1]:
                        cache.pop(key, None)

            def write(i):
                with proxy.connect() as w:
                    for k in range(n % 15):
                        w.call("SET", "k", "%d-%d-%d" % (n, i, k))
            others = [threading.Thread(target=write, args=(i,)) for i in range(3)]
            for t in others:
                t.start()
            for k in range(10):
                c.call("SET", "k", k)
                take()
                cache[b"k"] = b"%d" % k
                if not mode:
                    value = c.call("GET", "k")
                    take()
                    cache[b"k"] = value
            for t in others:
                t.join()
            c.call("GET", "last")
            take()
            with proxy.connect() as w:
                w.call("SET", "last", n)
                for push in pushes_until(c, [b"invalidate", [b"last"]]):
                    c.pushes.append(push)
                take()
                value = w.call("GET", "k")
            assert cache.get(b"k", value) == value, n
            kept += b"k" in cache
        assert kept


@pytest.mark.parametrize("mode", [[], ["BCAST"]])
def test_noloop_in_one_cycle(alone, mode):
    """The server does its write and somebody else's in one go, and tells of both in one message: it is told."""
    server, proxy = alone("valkey-9.1")
    with proxy.connect(protocol=3) as c, proxy.connect() as w, proxy.connect() as eye:
        assert c.call("CLIENT", "TRACKING", "ON", "NOLOOP", *mode) == b"OK"
        for order in ((c, w), (w, c)) * 3:
            for client in order:
                client.call("GET", "k")
            with frozen([server]):
                for n, client in enumerate(order):
                    client.send("SET", "k", n)
                    wait_until("it is on its way", lambda: eye.call("CLIENT", "LIST").count(b" cmd=set ") == n + 1)
            for client in order:
                assert client.read(20) == b"OK"
            while not c.pushes:
                c.pushes.append(c.read_push(20))
            assert all(list(p) == [b"invalidate", [b"k"]] for p in c.pushes)
            c.pushes.clear()


def test_own_reads_and_writes_in_one_pipeline(alone):
    """What was read before a change is told as changed behind the reply that holds the old value."""
    _, proxy = alone("valkey-9.1")
    with proxy.connect(protocol=3) as c, proxy.connect() as w:
        c.call("CLIENT", "TRACKING", "ON")
        for i in range(50):
            w.call("SET", "k", i)
            c.send("GET", "k")
            w.send("SET", "k", "n%d" % i)
            value = c.read_any(20)
            while isinstance(value, Push):  # of an earlier round
                value = c.read_any(20)
            told = c.read_any(20) if value != b"n%d" % i else None
            assert told is None or list(told) == [b"invalidate", [b"k"]]
            assert w.read() == b"OK"


def test_flip(servers):
    source, target = servers.standalone("redis-7.0"), servers.cluster("valkey-9.1")
    proxy = servers.crossfade(source, target, config={"workers": 2, "cutover-max-pause": 20000})
    keys = ["k%d" % i for i in range(30)]
    for k in keys:
        source.call("SET", k, 0)
    proxy.ctl("start")
    proxy.wait("synced")
    proxy.ctl("verify")
    with proxy.connect(protocol=3) as c, proxy.connect(protocol=3) as b, proxy.connect() as w:
        c.call("CLIENT", "TRACKING", "ON")
        b.call("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "k1")
        for k in keys:
            c.call("GET", k)
        w.call("SET", "k1", 1)
        assert list(c.read_push(20)) == list(b.read_push(20)) == [b"invalidate", [b"k1"]]
        proxy.wait("dirty=0,lag=0")
        proxy.ctl("verify")
        proxy.ctl("cutover", "--yes", "--wait", 30)
        assert list(c.read_push(20)) == list(b.read_push(20)) == NULL
        for k in keys:
            c.call("GET", k)
        for i, k in enumerate(keys):
            if i % 2:
                w.call("SET", k, 2)
            else:
                target.node_for(k).call("SET", k, 2)
            assert list(c.read_push(20)) == [b"invalidate", [k.encode()]]
        told = []
        while len(told) < 11:
            told += b.read_push(20)[1]
        assert sorted(told) == sorted(k.encode() for k in keys if k.startswith("k1"))
        assert not c.pushes and not b.pushes
