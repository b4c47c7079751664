"""The keys that tools/demo plays with: each object is one key (or a few) with a model.

step(s) sends a few commands over the session s and checks every reply against the
model, check(s) the whole value. What a reply should be follows from the model alone,
since every key has one writer. After an unexpected reply s raises Spoiled, and the
session puts a new object in the place of this one.
"""
import time

MARGIN = 0.25  # seconds by which clocks and scheduling may be off, for expiries


class Thing:
    def __init__(self, key):
        self.key = key


class Counter(Thing):
    def __init__(self, key):
        super().__init__(key)
        self.value = None

    def step(self, s):
        n = s.rng.randint(1, 9)
        what = s.rng.randrange(5)
        if what == 0:
            self.value = (self.value or 0) - n
            s.expect(self.value, "DECRBY", self.key, n)
        elif what == 1 and self.value is not None:
            s.expect(b"%d" % self.value, "GET", self.key)
        else:
            self.value = (self.value or 0) + n
            s.expect(self.value, "INCRBY", self.key, n)

    def check(self, s):
        s.expect(None if self.value is None else b"%d" % self.value, "GET", self.key)


class Queue(Thing):
    def __init__(self, key):
        super().__init__(key)
        self.items = []

    def step(self, s):
        what = s.rng.randrange(8)
        if what < 2 or not self.items:
            new = [s.word() for _ in range(s.rng.randint(1, 3))]
            self.items += new
            s.expect(len(self.items), "RPUSH", self.key, *new)
        elif what == 2:
            new = s.word()
            self.items.insert(0, new)
            s.expect(len(self.items), "LPUSH", self.key, new)
        elif what == 3:
            s.expect(self.items.pop(0), "LPOP", self.key)
        elif what == 4:
            s.expect(self.items.pop(), "RPOP", self.key)
        elif what == 5:
            n = s.rng.randint(1, 3)
            got, self.items = self.items[:n], self.items[n:]
            s.expect(got, "LPOP", self.key, n)
        elif what == 6:
            at = s.rng.randrange(len(self.items))
            self.items[at] = s.word()
            s.expect(b"OK", "LSET", self.key, at, self.items[at])
        else:
            s.expect(self.items[-3:], "LRANGE", self.key, -3, -1)
        if len(self.items) > 60:
            self.items = self.items[-20:]
            s.expect(b"OK", "LTRIM", self.key, -20, -1)

    def check(self, s):
        s.expect(self.items, "LRANGE", self.key, 0, -1)


class Set(Thing):
    def __init__(self, key):
        super().__init__(key)
        self.members = set()

    def step(self, s):
        what = s.rng.randrange(6)
        if what < 2 or not self.members:
            new = {s.word(40) for _ in range(2)}
            s.expect(len(new - self.members), "SADD", self.key, *new)
            self.members |= new
        elif what == 2:
            gone = s.word(40)
            s.expect(int(gone in self.members), "SREM", self.key, gone)
            self.members.discard(gone)
        elif what == 3:
            s.expect(len(self.members), "SCARD", self.key)
        elif what == 4:
            one = s.word(40)
            s.expect(int(one in self.members), "SISMEMBER", self.key, one)
        else:
            got = s.ask("SPOP", self.key)
            s.require(got in self.members, "a member", got, "SPOP", self.key)
            self.members.discard(got)

    def check(self, s):
        s.expect_set(self.members, "SMEMBERS", self.key)


class Hash(Thing):
    fields = 50

    def __init__(self, key):
        super().__init__(key)
        self.value = {}

    def step(self, s):
        what, field = s.rng.randrange(7), b"f%d" % s.rng.randrange(self.fields)
        if what < 2:
            value = s.word()
            s.expect(int(field not in self.value), "HSET", self.key, field, value)
            self.value[field] = value
        elif what == 2:
            count = b"n%d" % s.rng.randrange(4)
            total = int(self.value.get(count, b"0")) + 7
            self.value[count] = b"%d" % total
            s.expect(total, "HINCRBY", self.key, count, 7)
        elif what == 3:
            s.expect(int(field in self.value), "HDEL", self.key, field)
            self.value.pop(field, None)
        elif what == 4:
            share = float(self.value.get(b"share", b"0")) + 0.25
            self.value[b"share"] = b"%g" % share
            s.expect(self.value[b"share"], "HINCRBYFLOAT", self.key, "share", "0.25")
        elif what == 5:
            s.expect(len(self.value), "HLEN", self.key)
        else:
            other = b"f%d" % s.rng.randrange(self.fields)
            s.expect([self.value.get(field), self.value.get(other)], "HMGET", self.key, field, other)

    def check(self, s):
        s.expect_map(self.value, "HGETALL", self.key)


class LargeHash(Hash):
    """Filled before the load begins (fill.py): a large value that changes while it is copied."""
    fields = 20000

    def __init__(self, key):
        super().__init__(key)
        self.value = {b"f%d" % i: large_field(i) for i in range(self.fields)}


def large_field(i):
    return b"value-%d-" % i + b"x" * 60


class SortedSet(Thing):
    def __init__(self, key):
        super().__init__(key)
        self.scores = {}

    def order(self):
        return sorted(self.scores, key=lambda m: (self.scores[m], m))

    def step(self, s):
        what, member, score = s.rng.randrange(7), s.word(40), s.rng.randrange(400) / 4
        if what < 2 or not self.scores:
            s.expect(int(member not in self.scores), "ZADD", self.key, score, member)
            self.scores[member] = score
        elif what == 2:
            self.scores[member] = self.scores.get(member, 0) + 1.5
            s.expect_float(self.scores[member], "ZINCRBY", self.key, 1.5, member)
        elif what == 3:
            s.expect(int(member in self.scores), "ZREM", self.key, member)
            self.scores.pop(member, None)
        elif what == 4:
            s.expect_float(self.scores.get(member), "ZSCORE", self.key, member)
        elif what == 5:
            first = self.order()[0]
            s.expect_scores([(first, self.scores.pop(first))], "ZPOPMIN", self.key, 1)
        else:
            s.expect(self.order()[:3], "ZRANGE", self.key, 0, 2)

    def check(self, s):
        s.expect_scores([(m, self.scores[m]) for m in self.order()], "ZRANGE", self.key, 0, -1, "WITHSCORES")


class Stream(Thing):
    """With groups, unless they are written past the proxy, where nothing reports them."""
    groups = True

    def __init__(self, key):
        super().__init__(key)
        self.entries = []    # (id, [field, value])
        self.pending = {}    # id -> delivered entry
        self.unread = []     # entries that the group has not seen
        self.ready = False

    def step(self, s):
        if self.groups and not self.ready:
            s.expect(b"OK", "XGROUP", "CREATE", self.key, "workers", "$", "MKSTREAM")
            self.ready = True
        what = s.rng.randrange(7)
        if what < 3 or not self.entries:
            self.add(s)
        elif what == 3 and self.groups:
            self.read(s)
        elif what == 4 and self.pending:
            done = s.rng.choice(list(self.pending))
            del self.pending[done]
            s.expect(1, "XACK", self.key, "workers", done)
        elif what == 5:
            s.expect(len(self.entries), "XLEN", self.key)
        else:
            s.expect([[i, fv] for i, fv in self.entries[-2:]][::-1], "XREVRANGE", self.key, "+", "-", "COUNT", 2)
        if len(self.entries) > 80:
            self.trim(s)

    def add(self, s):
        pair = [b"w", s.word()]
        got = s.ask("XADD", self.key, "*", *pair)
        last = self.entries[-1][0] if self.entries else b"0-0"
        s.require(isinstance(got, bytes) and stream_id(got) > stream_id(last), "an id after %r" % last, got, "XADD", self.key)
        self.entries.append((got, pair))
        self.unread.append((got, pair))

    def read(self, s):
        got = self.unread[:2]
        want = [[i, fv] for i, fv in got]
        consumer = "worker-%d" % s.rng.randrange(2)
        s.expect_streams({self.key_bytes(): want} if want else None, "XREADGROUP", "GROUP", "workers", consumer, "COUNT", 2,
                         "STREAMS", self.key, ">")
        self.unread = self.unread[2:]
        self.pending.update(got)

    def trim(self, s):
        """Acknowledges all first, so that no entry is gone that is pending or unread."""
        if self.groups:
            while self.unread:
                self.read(s)
        if self.pending:
            s.expect(len(self.pending), "XACK", self.key, "workers", *self.pending)
            self.pending.clear()
        self.unread = self.unread[-20:]
        gone, self.entries = len(self.entries) - 20, self.entries[-20:]
        s.expect(gone, "XTRIM", self.key, "MAXLEN", 20)

    def key_bytes(self):
        return self.key.encode()

    def check(self, s):
        s.expect([[i, fv] for i, fv in self.entries], "XRANGE", self.key, "-", "+")
        if self.ready:
            summary = s.ask("XPENDING", self.key, "workers")
            s.require(isinstance(summary, list) and summary[0] == len(self.pending), "%d pending" % len(self.pending), summary,
                      "XPENDING", self.key)


class DirectStream(Stream):
    groups = False


def stream_id(text):
    return tuple(int(n) for n in text.split(b"-"))


class Expiring(Thing):
    """A string with a time to live. Around its end, MARGIN to either side, it may be there or not."""

    def __init__(self, key):
        super().__init__(key)
        self.value = None
        self.ends = None    # (earliest, latest) monotonic time, None: never

    def state(self, before, after):
        """Of a key asked for between two moments. True: must be there; False: must be gone; None: either."""
        if self.value is None:
            return False
        if self.ends is None or after < self.ends[0] - MARGIN:
            return True
        return False if before > self.ends[1] + MARGIN else None

    def step(self, s):
        what, now = s.rng.randrange(6), time.monotonic()
        if self.value is None or what == 0:
            self.write(s)
        elif what == 1 and self.state(now, now + 3):
            self.expire(s)
        elif what == 2:
            self.left(s)
        else:
            self.look(s)

    def set_ends(self, sent, seconds):
        self.ends = sent + seconds, time.monotonic() + seconds

    def write(self, s):
        seconds, value = s.rng.choice([1, 2, 5, 30]), s.word()
        form, sent = s.rng.randrange(3), time.monotonic()
        if form == 0:
            s.expect(b"OK", "SET", self.key, value, "PX", seconds * 1000)
        elif form == 1:
            s.expect(b"OK", "PSETEX", self.key, seconds * 1000, value)
        else:
            s.expect(b"OK", "SET", self.key, value, "EX", seconds)
        self.value = value
        self.set_ends(sent, seconds)

    def expire(self, s):
        if s.rng.randrange(3) == 0 and self.ends is not None:
            s.expect(1, "PERSIST", self.key)
            self.ends = None
            return
        seconds, sent = s.rng.choice([2, 6, 60]), time.monotonic()
        s.expect(1, "PEXPIRE", self.key, seconds * 1000)
        self.set_ends(sent, seconds)

    def left(self, s):
        before = time.monotonic()
        got = s.ask("PTTL", self.key)
        after = time.monotonic()
        state = self.state(before, after)
        if state is None:
            return
        if not state or self.ends is None:
            s.require(got == (-1 if state else -2), -1 if state else -2, got, "PTTL", self.key)
            return
        low, high = (self.ends[0] - after - MARGIN) * 1000, (self.ends[1] - before + MARGIN) * 1000
        s.require(isinstance(got, int) and low <= got <= high, "%.0f to %.0f" % (low, high), got, "PTTL", self.key)

    def look(self, s):
        before = time.monotonic()
        got = s.ask("GET", self.key)
        state = self.state(before, time.monotonic())
        if state is not None:
            s.require(got == (self.value if state else None), self.value if state else None, got, "GET", self.key)

    def check(self, s):
        self.look(s)
        self.left(s)


class Strings(Thing):
    """A dozen strings of different slots."""
    across = True    # MGET, MSET, DEL … over slots

    def __init__(self, key):
        super().__init__(key)
        self.keys = ["%s:%d" % (key, i) for i in range(12)]
        self.values = {}

    def step(self, s):
        some = s.rng.sample(self.keys, 4)
        if self.across and s.rng.randrange(3) == 0:
            self.many(s, some)
        else:
            self.one(s, some[0])

    def many(self, s, some):
        what = s.rng.randrange(5)
        if what < 2:
            new = {k: s.word() for k in some}
            s.expect(b"OK", "MSET", *(x for pair in new.items() for x in pair))
            self.values.update(new)
        elif what == 2:
            s.expect([self.values.get(k) for k in some], "MGET", *some)
        elif what == 3:
            s.expect(sum(k in self.values for k in some), s.rng.choice(["EXISTS", "TOUCH"]), *some)
        else:
            gone = some[:2]
            s.expect(sum(k in self.values for k in gone), s.rng.choice(["DEL", "UNLINK"]), *gone)
            for k in gone:
                self.values.pop(k, None)

    def one(self, s, k):
        old, new = self.values.get(k), s.word()
        what = s.rng.randrange(8)
        if what < 2:
            self.values[k] = new
            s.expect(b"OK", "SET", k, new)
        elif what == 2:
            self.append(s, k, (old or b"") + new, new)
        elif what == 3:
            self.values[k] = new
            s.expect(old, "GETSET", k, new)
        elif what == 4:
            s.expect(int(old is None), "SETNX", k, new)
            self.values.setdefault(k, new)
        elif what == 5:
            self.values.pop(k, None)
            s.expect(old, "GETDEL", k)
        elif what == 6 and old is not None:
            at = s.rng.randrange(8)
            padded = old.ljust(at, b"\0")
            self.values[k] = padded[:at] + b"ABC" + padded[at + 3:]
            s.expect(len(self.values[k]), "SETRANGE", k, at, "ABC")
        else:
            s.expect(old, "GET", k)

    def append(self, s, k, whole, new):
        self.values[k] = whole
        s.expect(len(whole), "APPEND", k, new)
        if len(whole) > 200:
            s.expect(whole[20:40], "GETRANGE", k, 20, 39)
            self.values.pop(k)
            s.expect(1, "DEL", k)

    def check(self, s):
        if self.across:
            s.expect([self.values.get(k) for k in self.keys], "MGET", *self.keys)
            return
        for k in self.keys:
            s.expect(self.values.get(k), "GET", k)


class DirectStrings(Strings):
    across = False


class Scripts(Thing):
    """EVAL, EVALSHA and FCALL over two keys of one slot."""
    ADD = ("local n = redis.call('INCRBY', KEYS[1], ARGV[1]) redis.call('RPUSH', KEYS[2], n) "
           "if redis.call('LLEN', KEYS[2]) > 20 then redis.call('LPOP', KEYS[2]) end return n")
    READ = "return {redis.call('GET', KEYS[1]), redis.call('LRANGE', KEYS[2], 0, -1)}"

    def __init__(self, key):
        super().__init__(key)
        self.keys = ["{%s}:total" % key, "{%s}:log" % key]
        self.total, self.log = 0, []

    def step(self, s):
        what, n = s.rng.randrange(4), s.rng.randint(1, 9)
        if what == 3 and self.log:
            s.expect([b"%d" % self.total, self.log], "EVAL", self.READ, 2, *self.keys)
            return
        self.total += n
        self.log = (self.log + [b"%d" % self.total])[-20:]
        if what == 0:
            s.expect(self.total, "EVAL", self.ADD, 2, *self.keys, n)
        elif what == 1:
            s.expect(self.total, "EVALSHA", s.script(self.ADD), 2, *self.keys, n)
        else:
            s.expect(self.total, "FCALL", "demo_add", 2, *self.keys, n)

    def check(self, s):
        if self.log:
            s.expect([b"%d" % self.total, self.log], "EVAL", self.READ, 2, *self.keys)


LIBRARY = "#!lua name=demo\nredis.register_function('demo_add', function(KEYS, ARGV) %s end)\n" % Scripts.ADD


class Pair(Thing):
    """Commands that read one key and write another of the same slot."""

    def __init__(self, key):
        super().__init__(key)
        self.a, self.b, self.c = ("{%s}:%s" % (key, x) for x in "abc")
        self.sets = {self.a: set(), self.b: set()}
        self.list, self.moved = [], []

    def step(self, s):
        what, word = s.rng.randrange(6), s.word(30)
        if what < 2:
            key = s.rng.choice([self.a, self.b])
            s.expect(int(word not in self.sets[key]), "SADD", key, word)
            self.sets[key].add(word)
        elif what == 2:
            s.expect(int(word in self.sets[self.a]), "SMOVE", self.a, self.b, word)
            if word in self.sets[self.a]:
                self.sets[self.a].discard(word)
                self.sets[self.b].add(word)
        elif what == 3:
            both = self.sets[self.a] | self.sets[self.b]
            s.expect(len(both), "SUNIONSTORE", self.c, self.a, self.b)
            s.expect_set(both, "SMEMBERS", self.c)
        elif what == 4:
            self.list.append(word)
            s.expect(len(self.list), "RPUSH", self.c + "l", word)
        elif self.list:
            self.moved = ([self.list[0]] + self.moved)
            s.expect(self.list.pop(0), "LMOVE", self.c + "l", self.c + "m", "LEFT", "LEFT")
            if len(self.moved) > 30:
                self.moved = self.moved[:10]
                s.expect(b"OK", "LTRIM", self.c + "m", 0, 9)

    def check(self, s):
        for key, members in self.sets.items():
            s.expect_set(members, "SMEMBERS", key)
        s.expect(self.list, "LRANGE", self.c + "l", 0, -1)
        s.expect(self.moved, "LRANGE", self.c + "m", 0, -1)


class Pipeline(Thing):
    """Many commands at once, of many slots."""

    def __init__(self, key):
        super().__init__(key)
        self.counts = {"%s:%d" % (key, i): 0 for i in range(8)}
        self.hash = {}

    def step(self, s):
        commands, wanted = [], []
        for _ in range(s.rng.randint(4, 12)):
            key = s.rng.choice(list(self.counts))
            self.counts[key] += 1
            commands.append(("INCR", key))
            wanted.append(self.counts[key])
            if s.rng.randrange(3) == 0:
                commands.append(("GET", key))
                wanted.append(b"%d" % self.counts[key])
        value = s.word()
        commands.append(("HSET", self.key + ":h", "last", value))
        wanted.append(int(not self.hash))
        self.hash = {b"last": value}
        s.expect_all(wanted, commands)

    def check(self, s):
        keys = list(self.counts)
        s.expect([b"%d" % self.counts[k] if self.counts[k] else None for k in keys], "MGET", *keys)
        s.expect_map(self.hash, "HGETALL", self.key + ":h")


class Bulk(Thing):
    """Keys that everybody reads and nobody writes."""

    def __init__(self, count):
        super().__init__("key:*")
        self.count = count

    def step(self, s):
        i = s.rng.randrange(self.count)
        s.expect(bulk_value(i), "GET", bulk_key(i))

    def check(self, s):
        self.step(s)


def bulk_key(i):
    return b"key:%d" % i


def bulk_value(i):
    return (b"%d|" % i * 64)[:128]


def client_things(name, bulk_count, large_key=None):
    """What one client of the proxy owns."""
    kinds = [(Counter, 6), (Queue, 3), (Set, 3), (Hash, 3), (SortedSet, 3), (Stream, 2), (Expiring, 6), (Strings, 2), (Scripts, 2),
             (Pair, 1), (Pipeline, 1)]
    things = [kind("%s:%s:%d" % (name, kind.__name__.lower(), i)) for kind, n in kinds for i in range(n)]
    if bulk_count:
        things += [Bulk(bulk_count)] * 4
    if large_key:
        things += [LargeHash(large_key)] * 2
    return things


def direct_things(name):
    """What the writer owns who bypasses the proxy: one key a command, no groups."""
    kinds = [(Counter, 8), (Queue, 4), (Set, 4), (Hash, 4), (SortedSet, 4), (DirectStream, 2), (Expiring, 8), (DirectStrings, 3)]
    return [kind("%s:%s:%d" % (name, kind.__name__.lower(), i)) for kind, n in kinds for i in range(n)]
