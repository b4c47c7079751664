"""Large values: copied in bounded chunks, under writes, there and back; what it costs the servers and the proxy.

Figures are printed (-s shows them) and kept in docs/large-values.md."""
import collections
import threading
import time

import pytest
from harness import Client, RespError, diff
from harness.crossfade import SANITIZERS, built_with_faults
from harness.process import wait_until
from test_recipe import copytool

FAR_MS = 1999999999000
BATCH = 50000
STRING = "lg:string"

# The words of element i of a key, and the command that takes many of them; the server makes them itself.
FILL = {
    "lg:hash": ("HSET", "'field:'..i,'value:'..i"),
    "lg:set": ("SADD", "'member:'..i"),
    "lg:zset": ("ZADD", "i/8,'member:'..i"),
    "lg:list": ("RPUSH", "'element:'..i"),
    "lg:stream": ("XADD", None),
}
SCRIPT = """
local key, from, to = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local words = {}
for i = from, to do
    for _, w in ipairs({%s}) do words[#words + 1] = w end
    if #words >= 1000 or i == to then
        redis.call('%s', key, unpack(words))
        words = {}
    end
end"""
STREAM = "for i=tonumber(ARGV[1]),tonumber(ARGV[2]) do redis.call('XADD',KEYS[1],i..'-1','f','value:'..i) end"


def one(store, key):
    """A connection to the node that has the key."""
    node = store.client_for(key)
    return Client(node.port, timeout=600)


KEYS = list(FILL) + [STRING]


def fill(source, n, string_mb, keys):
    for key, (verb, words) in FILL.items():
        if key not in keys:
            continue
        with one(source, key) as c:
            for at in range(1, n + 1, BATCH):
                c.call("EVAL", SCRIPT % (words, verb) if words else STREAM, 1, key, at, min(n, at + BATCH - 1))
    if STRING in keys:
        with one(source, STRING) as c:
            for at in range(string_mb):
                c.call("SETRANGE", STRING, at << 20, (b"%08d" % at) * (1 << 17))
    source.call("PEXPIREAT", "lg:hash", FAR_MS)
    if "lg:stream" in keys:
        source.call("XGROUP", "CREATE", "lg:stream", "g", "0")
        for i in range(8):
            source.call("XREADGROUP", "GROUP", "g", "c%d" % i, "COUNT", 200, "STREAMS", "lg:stream", ">")


def fingerprint(store, key):
    """All of a value but the times of delivery of pending entries; by the server, which does not block for us alone."""
    with one(store, key) as c:
        kind = c.call("TYPE", key)
        what = [kind, c.call("PEXPIRETIME", key), c.call("DEBUG", "DIGEST-VALUE", key)]
        if kind == b"stream":
            what += [c.call("XLEN", key), c.call("XPENDING", key, "g"), c.call("XINFO", "STREAM", key)[6:8]]
        return what


def unequal(source, target):
    return [k for k in KEYS if fingerprint(source, k) != fingerprint(target, k)]


BY_US = ("DEBUG", "EVAL", "CONFIG", "SLOWLOG", "INFO", "SCAN", "KEYS", "CLUSTER")  # sent by the tests, or by the control thread
STRINGS = ("SET", "SETRANGE", "GETRANGE", "APPEND")


class Slow:
    """The longest commands of both sides, by SLOWLOG, in ms. It counts the time in which the server had no CPU, too: hence percentiles beside it."""

    def __init__(self, *stores):
        self.stores = stores
        for node in self.nodes():
            node.call("CONFIG", "SET", "slowlog-log-slower-than", 1000)
            node.call("CONFIG", "SET", "slowlog-max-len", 2000)
        self.reset()

    def nodes(self):
        return [n for s in self.stores for n in s.primaries()]

    def reset(self):
        for node in self.nodes():
            node.call("SLOWLOG", "RESET")
            node.call("CONFIG", "RESETSTAT")

    def longest(self):
        """{(kind of server, command): [longest, how many over 1 ms, over 10 ms, percentiles]} since the last time."""
        found = collections.defaultdict(lambda: [0, 0, 0, ""])
        for node in self.nodes():
            percentiles = node.info("latencystats")
            for entry in node.call("SLOWLOG", "GET", 2000, timeout=60):
                command = entry[3][0].decode().upper()
                if command in BY_US:
                    continue
                seen = found[node.kind, command]
                seen[0] = max(seen[0], entry[2] / 1000)
                seen[1] += 1
                seen[2] += entry[2] > 10000
                seen[3] = percentiles.get("latency_percentiles_usec_" + command.lower(), "")
        self.reset()
        return found


def report(title, longest):
    """Prints it; returns the worst p99 of a collection's command, in ms: the longest says more of who else wants the CPU."""
    print("%s:" % title)
    for (kind, command), (ms, n, long, percentiles) in sorted(longest.items(), key=lambda i: -i[1][0]):
        print("    %-11s %-12s %8.1f ms longest, %d over 1 ms, %d over 10 ms; in us %s" % (kind, command, ms, n, long, percentiles))
    return max([float(seen[3].split(",p99=")[1].split(",")[0]) / 1000 for (_, command), seen in longest.items()
                if command not in STRINGS and "p99=" in seen[3]], default=0)


class Writer:
    """Changes every large value through the proxy, a few times per ms, while it is copied."""

    def __init__(self, proxy, n, keys, pause=0.003):
        self.proxy, self.n, self.keys, self.pause = proxy, n, keys, pause
        self.stop, self.errors, self.rounds, self.longest = threading.Event(), [], 0, 0
        self.threads = [threading.Thread(target=self.run, args=(k,), daemon=True) for k in keys]

    def commands(self, key, i):
        old = (i * 7919) % self.n + 1
        return {
            "lg:hash": [("HSET", key, "field:%d" % old, "new:%d" % i), ("HSET", key, "more:%d" % i, i), ("HDEL", key, "field:%d" % (old + 1)),
                        ("HINCRBY", key, "count", 1)],
            "lg:set": [("SADD", key, "more:%d" % i), ("SREM", key, "member:%d" % old), ("SPOP", key)],
            "lg:zset": [("ZADD", key, i, "more:%d" % i), ("ZINCRBY", key, 1.5, "member:%d" % old), ("ZREM", key, "member:%d" % (old + 1))],
            "lg:list": [("RPUSH", key, "more:%d" % i, i), ("LPOP", key), ("LPUSH", key, "first:%d" % i, i), ("RPOP", key), ("LPOP", key, 2),
                        ("LSET", key, i % 1000, "set:%d" % i), ("LSET", key, -1 - i % 1000, i), ("LTRIM", key, 1, -1)],
            "lg:stream": [("XADD", key, "*", "f", i), ("XADD", key, "MAXLEN", "~", self.n, "*", "f", i), ("XADD", key, "*", "f", i),
                          ("XDEL", key, "%d-1" % old, "%d-1" % (2 * i)), ("XREADGROUP", "GROUP", "g", "w", "COUNT", 3, "STREAMS", key, ">"),
                          ("XACK", key, "g", "%d-1" % i)] + [("XTRIM", key, "MINID", "%d-1" % i)] * (i % 50 == 0),
            STRING: [("SETRANGE", key, old, "%d" % i), ("APPEND", key, i), ("SETBIT", key, old * 7, i % 2)],
        }[key]

    def run(self, key):
        try:
            i = 0
            with self.proxy.connect(timeout=120) as link:
                while not self.stop.is_set():
                    i += 1
                    began = time.monotonic()
                    self.errors += [str(r) for r in link.pipeline(self.commands(key, i)) if isinstance(r, RespError)]
                    self.longest = max(self.longest, time.monotonic() - began)
                    self.rounds += 1
                    time.sleep(self.pause)
        except Exception as e:  # noqa: B902
            self.errors.append(repr(e))

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *exc):
        self.stop.set()
        for t in self.threads:
            t.join(120)


# AddressSanitizer keeps 256 MB of freed memory by default, which would count as the proxy's.
FREED_IS_FREED = {"ASAN_OPTIONS": SANITIZERS["ASAN_OPTIONS"] + ":quarantine_size_mb=1:thread_local_quarantine_size_kb=64"}


def memory(proxy, what="VmHWM"):
    """MB that the proxy has, or had at most."""
    with open("/proc/%d/status" % proxy.pid) as f:
        return next(int(line.split()[1]) for line in f if line.startswith(what)) / 1024


def no_temporary_keys(store):
    return not [k for n in store.primaries() for k in n.call("KEYS", "crossfade:tmp:*")]


PAST = {"lg:hash": ("HSET", "lg:hash", "x", 1), "lg:set": ("SADD", "lg:set", "x"), "lg:zset": ("ZADD", "lg:zset", 1, "x"), "lg:list": ("LSET", "lg:list", 0, "x"),
        "lg:stream": ("XADD", "lg:stream", "*", "f", 1), STRING: ("SETRANGE", STRING, 7, "past the proxy")}
BACK = {"lg:hash": ("HSET", "lg:hash", "y", 1), "lg:set": ("SREM", "lg:set", "x"), "lg:zset": ("ZREM", "lg:zset", "x"), "lg:list": ("RPUSH", "lg:list", "y"),
        "lg:stream": ("XADD", "lg:stream", "*", "f", 2), STRING: ("SETRANGE", STRING, 5, "way back")}


def there_and_back(source, target, crossfade, n, string_mb, seconds, rss_mb, keys):
    fill(source, n, string_mb, keys)
    proxy = crossfade(source, target, config={"backfill-adaptive": False}, env=FREED_IS_FREED)
    before, slow = memory(proxy), Slow(source, target)
    began = time.monotonic()
    proxy.ctl("start")
    proxy.wait("synced,dirty=0,lag=0", timeout=seconds)
    took = time.monotonic() - began
    worst = report("copy of %s: %d elements a key, %d MB string: %.1f s" % (" ".join(keys), n, string_mb, took), slow.longest())
    assert unequal(source, target) == []
    # Again, by a change past the proxy: now an old value is there to be moved aside.
    slow.longest()
    for key in keys:
        source.call(*PAST[key])
    wait_until("all are copied again", lambda: proxy.status()["dirty_keys"] == 0 and unequal(source, target) == [], seconds, 0.5)
    worst = max(worst, report("over an old value", slow.longest()))
    wait_until("nothing temporary is left", lambda: no_temporary_keys(target), seconds)  # a copy may be under way that nobody needs any more
    # Back, where the receiver is older: by type.
    began = time.monotonic()
    proxy.ctl("verify", timeout=seconds)
    print("verify: %.1f s" % (time.monotonic() - began))
    worst = max(worst, report("verify", slow.longest()))
    proxy.ctl("cutover", "--yes", timeout=300)
    for key in keys:
        target.call(*BACK[key])
    # Asked for only when nothing is under way: the digest of ten million elements stops a server for seconds.
    wait_until("the source has it", lambda: proxy.status()["dirty_keys"] == 0 and unequal(source, target) == [], seconds, 0.5)
    worst = max(worst, report("back", slow.longest()))
    wait_until("nothing temporary is left", lambda: no_temporary_keys(source), seconds)
    print("proxy: %.1f MB at first, at most %.1f MB; worst p99 of a collection's command %.1f ms" % (before, memory(proxy), worst))
    assert memory(proxy) < before + rss_mb
    return worst


def test_there_and_back(cluster, crossfade):
    there_and_back(cluster("redis-7.0"), cluster("valkey-9.1"), crossfade, 300000, 24, 60, 64, KEYS)  # times count on a machine of its own: below


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("key", KEYS)
def test_there_and_back_ten_million(standalone, crossfade, key):
    """A key at a time: together they would take 15 GB."""
    worst = there_and_back(standalone("redis-7.0"), standalone("valkey-9.1"), crossfade, 10000000, 512, 900, 64, [key])
    assert key == STRING or worst < 10  # a string is freed as one piece, whoever frees it


def under_writes(source, target, crossfade, n, string_mb, seconds, rss_mb, keys):
    fill(source, n, string_mb, keys)
    proxy = crossfade(source, target, config={"backfill-adaptive": False}, env=FREED_IS_FREED)
    before, slow = memory(proxy), Slow(source, target)
    with Writer(proxy, n, keys) as writer:
        time.sleep(0.3)
        began = time.monotonic()
        proxy.ctl("start")
        wait_until("every large key is there while it is written to",
                   lambda: proxy.status()["backfill"]["state"] == "done" and proxy.status()["dirty_keys"] == 0 and
                   not [k for k in keys if not target.call("EXISTS", k)], seconds, 0.2)
        print("%s: %d elements, under writes: %.1f s, %d rounds, the longest pause of a writer %.2f s, proxy at most %.1f MB (%.1f at first)" %
              (" ".join(keys), n, time.monotonic() - began, writer.rounds, writer.longest, memory(proxy), before))
    worst = report("under writes", slow.longest())
    print("copied while writes were held: %d keys; worst p99 of a collection's command %.1f ms" %
          (proxy.log().count("is copied while its writes are held"), worst))
    assert writer.errors == [] and writer.rounds > 100
    proxy.wait("synced,dirty=0,lag=0", timeout=seconds)
    assert unequal(source, target) == []
    wait_until("nothing temporary is left", lambda: no_temporary_keys(target), seconds)  # a copy may be under way that nobody needs any more
    assert memory(proxy) < before + rss_mb
    return writer, proxy


def test_under_writes(cluster, crossfade):
    under_writes(cluster("redis-7.0"), cluster("valkey-9.1"), crossfade, 100000, 8, 150, 64, KEYS)


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("key", KEYS)
def test_under_writes_ten_million(standalone, crossfade, key):
    writer, proxy = under_writes(standalone("redis-7.0"), standalone("valkey-9.1"), crossfade, 10000000, 511, 900, 64, [key])  # APPEND has room
    assert writer.longest < 2
    assert "is copied while its writes are held" not in proxy.log()


@pytest.fixture(scope="module")
def alone(servers):
    return servers.standalone("redis-7.0"), servers.standalone("valkey-9.1")


@pytest.mark.parametrize("how", ["expired", pytest.param("deleted", marks=pytest.mark.long), "flushed"])
def test_gone_while_it_is_copied(alone, crossfade, how):
    """Half of it is in the temporary key when its time is over, or somebody removes it: it is nowhere afterwards, and the rest is copied."""
    source, target = alone
    for side in alone:
        side.flushall()
    fill(source, 20000, 1, ["lg:hash", "lg:list"])
    proxy = crossfade(source, target, config={"large-value": "64kb", "backfill-bytes-per-s": "100kb", "backfill-adaptive": False})
    proxy.ctl("start")
    wait_until("a part of one is there", lambda: target.call("KEYS", "crossfade:tmp:*"), 30, 0.01)
    source.call("SET", "small", "here")
    if how == "expired":
        for key in ("lg:hash", "lg:list"):
            proxy.call("PEXPIRE", key, 50)
        wait_until("they have expired", lambda: source.call("EXISTS", "lg:hash", "lg:list") == 0, 10, 0.01)
    elif how == "deleted":
        assert proxy.call("DEL", "lg:hash", "lg:list") == 2
    else:
        assert proxy.call("FLUSHALL") == b"OK"
    proxy.ctl("throttle", "--off")
    proxy.wait("synced,dirty=0,lag=0", timeout=60)
    wait_until("nothing temporary is left", lambda: no_temporary_keys(target), 30)
    assert diff(source, target) == [] and source.dbsize() == target.dbsize() == (how != "flushed")
    proxy.call("HSET", "lg:hash", "f", "of a new one")
    proxy.wait("dirty=0,lag=0")
    assert target.call("HGETALL", "lg:hash") == [b"f", b"of a new one"] and target.call("PEXPIRETIME", "lg:hash") == -1


GB_FIELDS, FIELD = 4096, 256 * 1024


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("key", ["gb:hash", "gb:list"])
def test_a_gigabyte(standalone, crossfade, key):
    """There, written to all the while, and back; in the proxy's usual memory."""
    source, target = standalone("redis-7.0"), standalone("valkey-9.1")
    with one(source, key) as c:
        c.call("EVAL", "for i = 1, tonumber(ARGV[1]) do local v = string.rep(string.char(97 + i % 26), tonumber(ARGV[2])) "
               "if KEYS[1] == 'gb:hash' then redis.call('HSET', KEYS[1], i, v) else redis.call('RPUSH', KEYS[1], v) end end", 1, key, GB_FIELDS, FIELD)
        assert c.call("MEMORY", "USAGE", key) > 1 << 30
    proxy = crossfade(source, target, config={"backfill-adaptive": False}, env=FREED_IS_FREED)
    before, began, rounds = memory(proxy), time.monotonic(), 0
    proxy.ctl("start")
    while proxy.status()["phase"] != "synced" or proxy.status()["dirty_keys"]:
        rounds += 1
        assert time.monotonic() - began < 600
        proxy.pipeline([("HSET", key, rounds % GB_FIELDS, "short %d" % rounds)] if key == "gb:hash" else [("LPUSH", key, "short %d" % rounds), ("RPUSH", key, rounds)])
    print("%s: %d MB, %.1f s, %d rounds of writes, the proxy at most %.1f MB (%.1f at first)" % (key, GB_FIELDS * FIELD >> 20, time.monotonic() - began, rounds, memory(proxy), before))
    assert rounds > 20 and memory(proxy) < before + 64
    proxy.wait("synced,dirty=0,lag=0", timeout=120)
    assert unequal_of(source, target, key) == []
    proxy.ctl("verify", timeout=300)
    proxy.ctl("cutover", "--yes", "--wait", 20)
    proxy.call(*(("HSET", key, 7, "on the target") if key == "gb:hash" else ("LSET", key, 7, "on the target")))
    proxy.ctl("rollback", "--yes", "--wait", 20)
    assert unequal_of(source, target, key) == []


def unequal_of(source, target, key):
    return [] if fingerprint(source, key) == fingerprint(target, key) else [key]


@pytest.mark.skipif("not built_with_faults()", reason="a build without --enable-faults")
def test_a_temporary_key_that_expired_loses_nothing(standalone, monkeypatch):
    """The swap finds nothing to swap in: the copy fails, the old value is there with its expiry."""
    source, target = standalone("redis-7.0"), standalone("valkey-9.1")
    source.call("RPUSH", "l", *range(5000))
    target.call("SET", "l", "old", "PXAT", FAR_MS)
    monkeypatch.setenv("CROSSFADE_FAULT", "large-tmp-expires")
    assert copytool("large", source, target, [b"l"])[b"l"].startswith("error applying")
    assert target.call("GET", "l") == b"old" and target.call("PEXPIRETIME", "l") == FAR_MS
    assert target.dbsize() == 1
    monkeypatch.delenv("CROSSFADE_FAULT")
    assert copytool("large", source, target, [b"l"])[b"l"].startswith("ok")
    assert target.call("LLEN", "l") == 5000 and target.call("PEXPIRETIME", "l") == -1
    assert target.dbsize() == 1
    target.flushall()  # and where there was nothing to be moved aside
    assert copytool("large", source, target, [b"l"])[b"l"].startswith("ok")
    assert target.call("LLEN", "l") == 5000
