"""Large values that never rest: every write there is, while they are copied in chunks; afterwards both sides are equal by value, with groups and
pending entries.

Large is what is over 64 kb here, so that values of some MB take many chunks."""
import threading
import time

import pytest
from harness import RespError
from harness.process import wait_until
from load import FAR_MS

ELEMENTS = 8000
PAD = "v" * 250
STRING_BYTES = 3 << 20
LARGE = {"large-value": "64kb", "backfill-adaptive": False}


@pytest.fixture(scope="module")
def sides(servers):
    return servers.standalone("redis-7.0"), servers.standalone("valkey-9.1")


def in_batches(store, head, words, step):
    store.pipeline([tuple(head) + tuple(words[at:at + step]) for at in range(0, len(words), step)])


def fill(store, keys, n=ELEMENTS):
    """Each of about 2 MB."""
    for key in keys:
        kind = key.split(":")[0]
        if kind == "list":
            in_batches(store, ("RPUSH", key), ["%d:%s" % (i % 1000, PAD) for i in range(n)], 500)
        elif kind == "set":
            in_batches(store, ("SADD", key), ["%d:%s" % (i, PAD) for i in range(n)], 500)
        elif kind == "zset":
            in_batches(store, ("ZADD", key), [w for i in range(n) for w in (i, "%d:%s" % (i, PAD))], 500)
        elif kind == "hash":
            in_batches(store, ("HSET", key), [w for i in range(n) for w in ("f%d" % i, PAD)], 500)
        elif kind == "stream":
            store.pipeline([("XADD", key, "%d-1" % (i + 1), "f", "%d:%s" % (i, PAD)) for i in range(n)])
            store.call("XGROUP", "CREATE", key, "g", "0")
            store.call("XGROUP", "CREATE", key, "h", "%d-1" % (n // 2))
            store.pipeline([("XREADGROUP", "GROUP", "g", "c%d" % i, "COUNT", 100, "STREAMS", key, ">") for i in range(10)])
        else:
            store.call("SET", key, "s" * STRING_BYTES)


def commands(key, i):
    """What a client sends in its round i. It adds as much as it takes: no key is ever empty, however long it goes on."""
    kind, pad = key.split(":")[0], "w" * 60
    at = i * 7919 % ELEMENTS
    if kind == "list":
        return [("LPUSH", key, "l%d" % i, pad), ("RPUSH", key, "r%d" % i, pad), ("LPOP", key), ("RPOP", key, 2), ("LSET", key, at // 2, "s%d" % i),
                ("LSET", key, -1 - at // 2, "t%d" % i), ("LTRIM", key, 1, -2), ("LMPOP", 2, "none", key, "RIGHT", "COUNT", 2),
                ("LMOVE", key, key, "LEFT", "RIGHT"), ("LMOVE", key, "queue", "RIGHT", "LEFT"), ("RPOPLPUSH", "queue", key),
                ("BLMOVE", key, "queue", "LEFT", "LEFT", 1), ("BLPOP", "queue", key, 1), ("LPUSH", key, i, i, i, i, i)]
    if kind == "stream":
        return [("XADD", key, "*", "f", i), ("XADD", key, "MAXLEN", "~", ELEMENTS, "*", "f", i, "g", pad), ("XDEL", key, "%d-1" % at, "%d-1" % (2 * i)),
                ("XREADGROUP", "GROUP", "g", "c%d" % (i % 7), "COUNT", 5, "STREAMS", key, ">"),
                ("XREADGROUP", "GROUP", "h", "d", "COUNT", 2, "BLOCK", 100, "STREAMS", key, ">"), ("XACK", key, "g", "%d-1" % i, "%d-1" % (i + 500)),
                ("XAUTOCLAIM", key, "g", "other", 0, "%d-1" % i, "COUNT", 3), ("XCLAIM", key, "h", "e", 0, "%d-1" % (ELEMENTS // 2 + i)),
                ("XTRIM", key, "MINID", "~", "%d-1" % i), ("XTRIM", key, "MINID", "%d-1" % (i // 2)), ("XADD", key, "*", "f", i), ("XADD", key, "*", "f", i)]
    if kind == "string":
        return [("APPEND", key, "a%d" % i), ("SETRANGE", key, at * 300, "r%d" % i), ("SETBIT", key, at * 2000, i % 2),
                ("BITFIELD", key, "SET", "u8", "#%d" % (at * 100), i % 256, "INCRBY", "u16", at, 3)]
    if kind == "hash":
        return [("HSET", key, "f%d" % at, i, "n%d" % i, pad), ("HDEL", key, "f%d" % (at + 1), "n%d" % (i - 3)), ("HINCRBY", key, "count", 1),
                ("HINCRBYFLOAT", key, "sum", "0.5"), ("HSETNX", key, "x%d" % i, 1)]
    if kind == "set":
        return [("SADD", key, pad, *["%s%d" % (c, i) for c in "nopqrs"]), ("SREM", key, "n%d" % (i - 3)), ("SPOP", key), ("SPOP", key, 2), ("SMOVE", key, "others", "n%d" % i)]
    return [("ZADD", key, *[w for c in "nopqrstu" for w in (i, "%s%d" % (c, i))]), ("ZINCRBY", key, "1.5", "n%d" % (i - 1)), ("ZREM", key, "n%d" % (i - 3)), ("ZADD", key, "XX", "GT", i + 1, "n%d" % i),
            ("ZPOPMIN", key), ("ZPOPMAX", key, 2), ("ZMPOP", 1, key, "MIN"), ("BZPOPMIN", key, 1)]


def by_place(key, i):
    """Writes whose outcome hangs on the whole of a value: the copy that is under way cannot follow them all."""
    return {"list": [("LREM", key, 1, "%d:%s" % (i % 1000, PAD)), ("LREM", key, -2, "w" * 60), ("LINSERT", key, "BEFORE", "w" * 60, "before %d" % i),
                     ("LINSERT", key, "AFTER", "t%d" % (i - 1), i)],
            "stream": [("XGROUP", "CREATECONSUMER", key, "g", "new%d" % (i % 5)), ("XGROUP", "DELCONSUMER", key, "g", "new%d" % ((i + 2) % 5)),
                       ("XGROUP", "SETID", key, "h", "%d-1" % i, "ENTRIESREAD", i)],
            "hash": [("EVAL", "return redis.call('HSET', KEYS[1], 'script', ARGV[1])", 1, key, i)],
            "zset": [("ZREMRANGEBYRANK", key, 0, 1)],
            "set": [("EXPIREAT", key, FAR_MS // 1000 + i), ("PERSIST", key)],
            "string": [("EXPIREAT", key, FAR_MS // 1000 + i), ("BITFIELD", key, "INCRBY", "u40", (i % 8 + 1) * (1 << 21) - 20, 1 << 30)]}[key.split(":")[0]]


def in_transaction(calls):
    return [("MULTI",)] + [c for c in calls if not c[0].startswith("B") or c[0] == "BITFIELD"] + [("EXEC",)]


class Clients:
    """One connection for each key: round after round of `make(key, i)`, until the end of the block."""

    def __init__(self, proxy, keys, make, pause_s=0.004):
        self.proxy, self.make, self.pause_s = proxy, make, pause_s
        self.over, self.errors, self.rounds = threading.Event(), [], dict.fromkeys(keys, 0)
        self.threads = [threading.Thread(target=self.run, args=(k,), daemon=True) for k in keys]

    def run(self, key):
        try:
            with self.proxy.connect(timeout=120) as link:
                while not self.over.is_set():
                    i = self.rounds[key] + 1
                    for call, reply in zip(calls := self.make(key, i), link.pipeline(calls)):
                        for one in reply if isinstance(reply, list) else [reply]:
                            if isinstance(one, RespError):
                                self.errors.append((call, str(one)))
                    self.rounds[key] = i
                    time.sleep(self.pause_s)
        except Exception as e:  # noqa: B902
            self.errors.append(repr(e))

    def __enter__(self):
        for t in self.threads:
            t.start()
        wait_until("each has written", lambda: all(self.rounds.values()) or self.errors, 30)
        return self

    def __exit__(self, *exc):
        self.over.set()
        for t in self.threads:
            t.join(120)
        assert not [t for t in self.threads if t.is_alive()]


def values(store):
    """Of every key its type, expiry and a digest of its value, by the server: ours takes its time for megabytes."""
    keys = sorted(store.call("KEYS", "*"))
    with store.connect(timeout=60) as c:
        answers = iter(c.pipeline([call for k in keys for call in (("TYPE", k), ("PEXPIRETIME", k), ("DEBUG", "DIGEST-VALUE", k))]))
    return {k: (next(answers), next(answers), next(answers)) for k in keys}


def groups(store):
    """Of every stream its numbers, and the groups with their pending entries."""
    def stream(key):
        info = store.call("XINFO", "STREAM", key)
        info = dict(zip(info[::2], info[1::2]))
        pending = [(g[1], store.call("XPENDING", key, g[1], "-", "+", 10000)) for g in store.call("XINFO", "GROUPS", key)]
        return [{n: info.get(n) for n in (b"length", b"last-generated-id", b"max-deleted-entry-id", b"entries-added", b"first-entry")}] + \
            [(name, [(p[0], p[1], p[3]) for p in entries]) for name, entries in pending] + \
            [g[:2] + g[4:8] for g in store.call("XINFO", "GROUPS", key)]

    return {k: stream(k) for k in store.call("KEYS", "*") if store.call("TYPE", k) == b"stream"}


def no_more_nor_less(proxy, source, target):
    proxy.wait("synced,dirty=0,lag=0", timeout=120)
    wait_until("nothing temporary is left", lambda: not target.call("KEYS", "crossfade:tmp:*"), 20)
    assert values(target) == values(source)
    assert groups(target) == groups(source)


KEYS = ["list:a", "stream:a", "string:a", "hash:a", "set:a", "zset:a"]


def wait_copied(target, clients):
    missing = []

    def are_copied():
        missing[:] = [k for k in KEYS if not target.call("EXISTS", k)]
        return not missing or clients.errors
    try:
        wait_until("all are copied under writes", are_copied, 120, 0.1)
    except TimeoutError:
        pytest.fail("not copied within 120 s under writes: %s, after rounds: %s" % (missing, clients.rounds))


def copied_under(proxy, source, target, make, **pace):
    """All keys arrive while clients make such writes, and are equal in the end."""
    with Clients(proxy, KEYS, make, **pace) as clients:
        proxy.ctl("start")
        proxy.wait("synced", timeout=120)
        wait_copied(target, clients)
    assert clients.errors == []
    no_more_nor_less(proxy, source, target)


def test_every_write_that_can_be_followed(pair, crossfade):
    """Half of them in transactions."""
    source, target = pair
    fill(source, KEYS)
    proxy = crossfade(source, target, config=LARGE)

    def make(key, i):
        return in_transaction(commands(key, i)) if i % 2 else commands(key, i)

    copied_under(proxy, source, target, make)


def test_writes_that_cannot_be_followed(pair, crossfade):
    source, target = pair
    fill(source, KEYS)
    proxy = crossfade(source, target, config=LARGE)

    def make(key, i):
        return commands(key, i) + by_place(key, i) if i % 3 else in_transaction(by_place(key, i) + commands(key, i))

    copied_under(proxy, source, target, make, pause_s=0.02)


def test_another_type_under_the_same_name(pair, crossfade):
    """Deleted, overwritten, renamed over and made anew as every other type, at any moment of a copy."""
    source, target = pair
    kinds = ["list", "stream", "string", "hash", "set", "zset"]
    keys = ["list:x", "stream:x", "string:x", "hash:x"]
    fill(source, keys, n=1500)
    fill(source, [k + ":template" for k in kinds], n=1500)
    proxy = crossfade(source, target, config=LARGE)

    def make(key, i):
        template = kinds[(i + keys.index(key)) % len(kinds)] + ":template"
        how = i % 4
        if how == 0:
            return [("DEL", key), ("COPY", template, key)]
        if how == 1:
            return [("COPY", template, key + ":new"), ("RENAME", key + ":new", key)]
        if how == 2:
            return [("MULTI",), ("UNLINK", key), ("COPY", template, key), ("PEXPIREAT", key, FAR_MS + i), ("EXEC",)]
        return [("SET", key, "small"), ("DEL", key), ("RPUSH", key, *range(500)), ("RPUSH", key, *["e" * 1000] * 200), ("LPOP", key)]

    with Clients(proxy, keys, make, pause_s=0.05) as clients:
        proxy.ctl("start")
        wait_until("it went on for a while", lambda: min(clients.rounds.values()) > 20 or clients.errors, 120)
    assert clients.errors == []
    no_more_nor_less(proxy, source, target)


def test_somebody_writes_past_the_proxy(pair, crossfade):
    """To the keys that the proxy's clients write, too. What hides behind one of ours in the same cycle of the server is found by verify."""
    source, target = pair
    fill(source, KEYS, n=4000)
    proxy = crossfade(source, target, config=LARGE)
    past = {"list:a": ("LPUSH", "list:a", "past"), "stream:a": ("XADD", "stream:a", "*", "past", 1), "string:a": ("SETRANGE", "string:a", 100000, "past"),
            "hash:a": ("HSET", "hash:a", "past", 1), "set:a": ("SADD", "set:a", "past"), "zset:a": ("ZADD", "zset:a", 1, "past")}
    with Clients(proxy, KEYS, commands, pause_s=0.01) as clients:
        proxy.ctl("start")
        for n in range(20):
            for call in past.values():
                source.call(*call)
            wait_until("the clients go on", lambda: min(clients.rounds.values()) > n or clients.errors, 60)
    assert clients.errors == []
    proxy.wait("synced,dirty=0,lag=0", timeout=120)
    proxy.ctl("verify", "--repair", check=False, timeout=120)
    no_more_nor_less(proxy, source, target)
