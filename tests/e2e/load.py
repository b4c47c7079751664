"""A small load of threads that know what every reply must be, for the tests of this folder.

    with Load(proxy, clients=4) as load:
        …                       # commands flow
    load.check(source)          # everything is as the clients were told

Every client has keys of its own, so its model is exact. `errors` and `wrong` must stay empty; leaving the
block asserts it. tools/demolib has the big one; this one starts in milliseconds.
"""
import collections
import random
import threading
import time

from harness import Client, RespError

FAR_MS = 1999999999000


class Model:
    """The keys of one client, and commands with the replies that must come."""

    def __init__(self, name, keys=3, seed=1):
        self.name, self.rng = name, random.Random("%s/%d" % (name, seed))
        self.numbers = ["%s:n%d" % (name, i) for i in range(keys)]
        self.counters = collections.Counter()
        self.texts = collections.defaultdict(bytes)
        self.hashes = collections.defaultdict(dict)
        self.sets = collections.defaultdict(set)
        self.zsets = collections.defaultdict(dict)
        self.lists = collections.defaultdict(list)
        self.streams = collections.Counter()
        self.expiries = {}
        self.step = 0
        self.kinds = [getattr(self, "do_" + k) for k in
                      ("incr", "incr", "append", "hash", "set", "zset", "list", "queue", "stream", "expiry", "script", "read")]

    def key(self, kind):
        return ("%s:%s%d" % (self.name, kind, self.rng.randrange(3))).encode()

    def commands(self):
        """One or a few (command, reply)."""
        self.step += 1
        return self.rng.choice(self.kinds)()

    def do_incr(self):
        k = self.key("n")
        self.counters[k] += 3
        return [(("INCRBY", k, 3), self.counters[k])]

    def do_append(self):
        k = self.key("t")
        if len(self.texts[k]) > 2000:
            self.texts[k] = b"new"
            return [(("SET", k, "new"), b"OK")]
        self.texts[k] += b"%d," % self.step
        return [(("APPEND", k, b"%d," % self.step), len(self.texts[k]))]

    def do_hash(self):
        k, f = self.key("h"), b"f%d" % self.rng.randrange(20)
        h = self.hashes[k]
        if f in h and self.rng.random() < 0.3:
            del h[f]
            return [(("HDEL", k, f), 1)]
        new = f not in h
        h[f] = b"%d" % self.step
        return [(("HSET", k, f, self.step), int(new))]

    def do_set(self):
        k, m = self.key("s"), b"m%d" % self.rng.randrange(20)
        s = self.sets[k]
        if m in s:
            s.remove(m)
            return [(("SREM", k, m), 1)]
        s.add(m)
        return [(("SADD", k, m), 1)]

    def do_zset(self):
        k, m = self.key("z"), b"m%d" % self.rng.randrange(20)
        z = self.zsets[k]
        if m not in z:
            z[m] = float(self.step)
            return [(("ZADD", k, self.step, m), 1)]
        z[m] += 2
        return [(("ZINCRBY", k, 2, m), b"%d" % z[m])]

    def do_list(self):
        k = self.key("l")
        ls = self.lists[k]
        if len(ls) > 15:
            return [(("LPOP", k), ls.pop(0))]
        ls.append(b"%d" % self.step)
        return [(("RPUSH", k, self.step), len(ls))]

    def do_queue(self):
        k = self.key("q") + b"{q}"
        ls = self.lists[k]
        if ls and self.rng.random() < 0.4:
            value = ls.pop()
            other = self.lists[b"%s:r{q}" % self.name.encode()]
            other.insert(0, value)
            return [(("RPOPLPUSH", k, b"%s:r{q}" % self.name.encode()), value)]
        ls.append(b"%d" % self.step)
        return [(("RPUSH", k, self.step), len(ls))]

    def do_stream(self):
        k = self.key("x")
        self.streams[k] += 1
        return [(("XADD", k, "*", "f", self.step), None), (("XLEN", k), self.streams[k])]

    def do_expiry(self):
        k = self.key("e")
        self.texts[k] = b"%d" % self.step
        self.expiries[k] = FAR_MS + self.step
        return [(("SET", k, self.step, "EX", 5000), b"OK"), (("PEXPIREAT", k, self.expiries[k]), 1)]

    def do_script(self):
        k = self.key("c")
        self.counters[k] += 1
        return [(("EVAL", "return redis.call('incr', KEYS[1])", 1, k), self.counters[k])]

    def do_read(self):
        k = self.key("n")
        value = b"%d" % self.counters[k] if k in self.counters else None
        return [(("GET", k), value)]

    def expected(self):
        """(command, reply) that tell everything."""
        for k, n in self.counters.items():
            yield ("GET", k), b"%d" % n
        for k, t in self.texts.items():
            yield ("GET", k), t or None
        for k, h in self.hashes.items():
            yield ("HLEN", k), len(h)
            for f, v in h.items():
                yield ("HGET", k, f), v
        for k, s in self.sets.items():
            yield ("SCARD", k), len(s)
        for k, z in self.zsets.items():
            yield ("ZCARD", k), len(z)
            for m, score in z.items():
                yield ("ZSCORE", k, m), b"%d" % score
        for k, ls in self.lists.items():
            yield ("LRANGE", k, 0, -1), ls
        for k, n in self.streams.items():
            yield ("XLEN", k), n
        for k, at in self.expiries.items():
            yield ("PEXPIRETIME", k), at


class Load:
    def __init__(self, proxy, clients=4, pause_s=0.0005, batch=1, name="c"):
        self.proxy, self.pause_s, self.batch = proxy, pause_s, batch
        self.models = [Model("%s%d" % (name, i)) for i in range(clients)]
        self.errors, self.wrong = [], []
        self.commands = 0
        self.longest_s = 0.0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(m,), daemon=True) for m in self.models]

    def __enter__(self):
        for t in self._threads:
            t.start()
        return self

    def __exit__(self, kind, *exc):
        self.stop()
        if kind is None:
            self.assert_fine()

    def stop(self):
        self._stop.set()
        for t in self._threads:
            t.join(60)
            assert not t.is_alive(), "a client hangs"

    def assert_fine(self):
        assert self.errors == [] and self.wrong == [], (self.errors[:5], self.wrong[:5])
        assert self.commands > 0

    def run_on(self, seconds=0.3):
        """Lets it flow for a moment; commands must get through."""
        before = self.commands
        time.sleep(seconds)
        assert self.commands > before, "no command got through in %g s" % seconds
        self.assert_fine()

    def _run(self, model):
        try:
            with self.proxy.connect(timeout=30) as link:
                while not self._stop.is_set() and not self.errors:
                    self._step(link, model)
                    time.sleep(self.pause_s)
        except Exception as e:  # noqa: B902 (told by assert_fine)
            self.errors.append((model.name, repr(e)))

    def _step(self, link, model):
        todo = [x for _ in range(self.batch) for x in model.commands()]
        start = time.monotonic()
        replies = link.pipeline([c for c, _ in todo], timeout=30)
        self.longest_s = max(self.longest_s, time.monotonic() - start)
        self.commands += len(todo)
        for (command, want), got in zip(todo, replies):
            if isinstance(got, RespError):
                self.errors.append((command, str(got)))
            elif want is not None and got != want:
                self.wrong.append((command, want, got))

    def check(self, *sides):
        """Every side (a server, a cluster or the proxy) holds what the clients were told."""
        for side in sides:
            for model in self.models:
                asked = list(model.expected())
                replies = side.pipeline([c for c, _ in asked])
                bad = [(c, w, g) for (c, w), g in zip(asked, replies) if g != w]
                assert bad == [], "%d wrong, first %r" % (len(bad), bad[:3])


def fill(server, n, prefix="k", size=24, chunk=2000):
    """n strings, each its own value."""
    for at in range(0, n, chunk):
        server.pipeline([("SET", "%s:%d" % (prefix, i), ("v%d-" % i).ljust(size, ".")) for i in range(at, min(n, at + chunk))])


def fill_types(server, tag="", many=20):
    """Keys of every type, with and without an expiry."""
    commands = []
    for i in range(many):
        k = "%stype%d" % (tag, i)
        commands += [("SET", k + ":s", "value%d" % i), ("SET", k + ":se", "v", "PXAT", FAR_MS + i), ("SET", k + ":i", i),
                     ("RPUSH", k + ":l", *range(i + 1)), ("RPUSH", k + ":lb", *["x" * 50 + str(j) for j in range(200)]),
                     ("SADD", k + ":set", "a", "b", i), ("SADD", k + ":si", *range(10 + i)), ("SADD", k + ":sb", *["m%d" % j for j in range(600)]),
                     ("HSET", k + ":h", "f", i, "g", "x" * 100), ("HSET", k + ":hb", *[w for j in range(600) for w in ("f%d" % j, j)]),
                     ("PEXPIREAT", k + ":h", FAR_MS + 7), ("ZADD", k + ":z", 1.5, "a", "-inf", "b", i, "c"),
                     ("ZADD", k + ":zb", *[w for j in range(300) for w in (j / 7, "m%d" % j)]),
                     ("XADD", k + ":x", "5-1", "f", i), ("XADD", k + ":x", "6-1", "f", i, "g", "h"), ("XDEL", k + ":x", "5-1"),
                     ("XGROUP", "CREATE", k + ":x", "grp", "0"), ("XREADGROUP", "GROUP", "grp", "me", "STREAMS", k + ":x", ">"),
                     ("PFADD", k + ":pf", "a", "b"), ("SETBIT", k + ":bit", 1000, 1), ("GEOADD", k + ":geo", 13.4, 52.5, "berlin")]
    bad = [r for r in server.pipeline(commands) if isinstance(r, RespError)]
    assert not bad, bad[:3]
