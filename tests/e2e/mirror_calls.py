"""Calls of effect_calls.py for keys of many slots, and more: many arguments, large and binary words, scripts, functions.

A tag makes one slot: every key of a call is {tag}name, so that commands over several keys run on a cluster (but see `scattered`). Tags are shared by all
connections, so their calls meet. Odd tags have binary keys. Only tags whose number is a multiple of four see scripts that touch
undeclared keys: those keys are foreign from then on, and get copies instead of commands.
"""
import effect_calls

BASES = effect_calls.ANY + effect_calls.NEAR + sum(effect_calls.TYPED.values(), [])
FIELD_EXPIRY = ("HEXPIRE", "HPEXPIRE", "HEXPIREAT", "HPEXPIREAT", "HPERSIST")
LIBRARY = b"""#!lua name=lib%d
redis.register_function('put%d', function(keys, args) return redis.call('rpush', keys[1], args[1], '%d') end)
redis.register_function('half%d', function(keys, args) redis.call('set', keys[1], args[1]) return redis.call('lpush', keys[1], 'x') end)
"""
BIG = [b"y" * 600, bytes(range(256)) * 9, b"z" * 5000, b"\0" * 20000]
SCRIPTS = [
    b"return redis.call('spop', KEYS[1])",
    b"redis.call('del', KEYS[1]) for i = 1, 30 do redis.call('rpush', KEYS[1], i) end return redis.call('lpop', KEYS[1], 3)",
    b"redis.call('set', KEYS[1], ARGV[1]) return redis.call('incr', KEYS[1])",
    b"redis.call('set', KEYS[1], ARGV[1]) redis.call('hset', KEYS[1], 'f', 1)",
    b"redis.call('incr', KEYS[1]) error('boom')",
    b"redis.call('del', KEYS[1]) redis.call('set', KEYS[2], ARGV[1]) return redis.call('rename', KEYS[2], KEYS[1])",
    b"redis.pcall('incr', KEYS[1]) redis.pcall('sadd', KEYS[1], ARGV[1]) redis.pcall('zadd', KEYS[1], 3, ARGV[1]) return 1",
    b"local t = redis.call('time') redis.call('set', KEYS[1], t[1] .. t[2], 'PX', 5000000) return 1",
    b"return redis.call('pexpire', KEYS[1], 3000000 + #ARGV[1])",
    b"return redis.call('get', KEYS[1])",
    b"return redis.error_reply('ERR own')",
]


class MirrorCalls(effect_calls.Calls):
    def __init__(self, rng, now_ms, tags, field_ttl=True, functions=False, near_share=0.04):
        super().__init__(rng, now_ms)
        self.tags, self.field_ttl, self.functions = tags, field_ttl, functions
        self.tag = tags[0]
        self.recent = {}
        self.near_share = near_share
        self.shas = []
        self.scattered = 0  # share of the calls whose keys are of several tags, for a server that is no cluster

    # ---- keys

    def named(self, base, tag=None):
        tag = self.tag if tag is None else tag
        return ("{t%d}%s" % (tag, base)).encode() + (b"\xff\r\n\0 " if tag % 2 else b"")

    def key(self, kind):
        if not self.near and self.rng.random() < 0.04:
            kind = self.rng.choice(list(effect_calls.TYPED))  # the wrong type
        return super().key(kind)

    def seen(self, key=None):
        recent = self.recent.get(self.named(key)) if key else None
        return self.rng.choice(recent) if recent and self.rng.random() < 0.95 else self.rng.choice(effect_calls.IDS)

    def note(self, words, reply):
        """Ids that the authority gave, and the reply to SCRIPT LOAD."""
        if words[0] == b"XADD" and isinstance(reply, bytes):
            self.recent[words[1]] = ([reply] + self.recent.get(words[1], []))[:8]
        elif words[:2] == [b"SCRIPT", b"LOAD"] and isinstance(reply, bytes):
            self.shas.append(reply)

    # ---- more calls

    def word(self):
        return self.rng.choice(BIG) if self.rng.random() < 0.01 else super().word()

    def member(self):
        return b"m%d" % self.rng.randrange(400)

    def many(self):
        n = self.rng.randint(20, 200)
        members = [self.member() for _ in range(n)]
        r = self.rng
        return r.choice([
            lambda: [self.one("RPUSH", "LPUSH", "LPUSHX"), self.key("list")] + members,
            lambda: [self.one("SADD", "SADD", "SREM"), self.key("set")] + members,
            lambda: ["ZADD", self.key("zset")] + [w for m in members for w in (b"%.17g" % r.uniform(-5, 5), m)],
            lambda: ["ZREM", self.key("zset")] + members,
            lambda: ["HSET", self.key("hash")] + [w for m in members for w in (m, b"v" + m)],
            lambda: ["HDEL", self.key("hash")] + members,
            lambda: ["PFADD", self.key("hll")] + members,
            lambda: ["XADD", self.key("stream"), "*"] + members[:20],
            lambda: ["BITFIELD", self.key("bit")] + [w for i in range(20) for w in ("INCRBY", "u7", "#%d" % i, "3")],
            lambda: ["SPOP", self.key("set"), str(n)],
            lambda: [self.one("LPOP", "RPOP"), self.key("list"), str(n)],
            lambda: [self.one("ZPOPMIN", "ZPOPMAX"), self.key("zset"), str(n)],
            lambda: ["XDEL", self.key("stream")] + [self.seen() for _ in range(20)],
        ])()

    def big(self):
        k, r = self.key("str"), self.rng
        return r.choice([
            lambda: ["SET", k, r.choice(BIG)] + self.maybe("GET") + self.some_expiry(),
            lambda: ["APPEND", k, r.choice(BIG)],
            lambda: ["SETRANGE", k, "9000", r.choice(BIG[:2])],
            lambda: ["SETBIT", self.key("bit"), "65000", "1"],
            lambda: ["HSET", self.key("hash"), "f1", r.choice(BIG)],
            lambda: ["RPUSH", self.key("list"), r.choice(BIG)],
            lambda: ["LINSERT", self.key("list"), "AFTER", "a", r.choice(BIG)],
        ])()

    def others(self):
        r = self.rng
        a, b, d = self.any_key(), self.any_key(), self.any_key()
        return r.choice([
            lambda: ["SORT", r.choice([self.key("list"), self.key("set"), self.key("zset"), a])] + self.maybe("LIMIT", "0", "3") + self.maybe("DESC")
            + ["ALPHA", "STORE", self.any_key()],
            lambda: ["SORT", self.key("set"), "BY", "nosort", "STORE", d],
            lambda: [self.one("SUNIONSTORE", "SINTERSTORE", "SDIFFSTORE"), d, self.key("set"), self.key("set"), self.key("set")],
            lambda: [self.one("ZUNIONSTORE", "ZINTERSTORE"), d, "3", self.key("zset"), self.key("set"), self.key("zset")]
            + self.maybe("WEIGHTS", "0.1", "3", "-1"),
            lambda: ["ZRANGESTORE", d, self.key("zset"), "-inf", "+inf", "BYSCORE"] + self.maybe("LIMIT", "1", "3"),
            lambda: ["ZRANGESTORE", d, self.key("zset"), "1", "-1"] + self.maybe("REV"),
            lambda: ["BITOP", self.one("AND", "OR", "XOR"), d, self.key("bit"), self.key("str"), self.key(self.one("num", "hll"))],
            lambda: ["PFMERGE", self.key("hll"), self.key("hll")],
            lambda: ["PFCOUNT", self.key("hll")],
            lambda: ["GEORADIUSBYMEMBER", self.key("geo"), "p", "3000", "km", self.one("STORE", "STOREDIST"), d],
            lambda: ["GEOSEARCHSTORE", d, self.key("geo"), "FROMMEMBER", "p", "BYBOX", "4000", "4000", "km"] + self.maybe("STOREDIST"),
            lambda: ["COPY", a, b] + self.maybe("REPLACE"),
            lambda: ["COPY", a, b, "DB", "0", "REPLACE"],
            lambda: [self.one("RENAME", "RENAMENX"), a, a],
            lambda: ["RENAME", a, b],
            lambda: ["LMOVE", self.key("list"), self.key("list"), self.one("LEFT", "RIGHT"), self.one("LEFT", "RIGHT")],
            lambda: ["SMOVE", self.key("set"), self.key("set"), self.word()],
            lambda: ["XSETID", self.key("stream"), "200000000000000-%d" % r.randrange(9)] + self.maybe("ENTRIESADDED", "9", "MAXDELETEDID", "2-2")
            if r.random() < 0.1 else ["XGROUP", "CREATECONSUMER", self.key("stream"), "g1", self.one("c1", "c4")],
            lambda: ["SPOP", self.key("set"), self.one("-2", "0", "1")],
            lambda: ["LTRIM", self.key("list"), "5", "1"],
            lambda: ["SET", self.key("str"), "v", "PXAT", self.one("1", "0", "-5", "9223372036854775807")],
        ])()

    def wide(self):
        """Keys of several slots: the proxy splits them."""
        keys = [self.named(self.any_key(), self.rng.choice(self.tags)) for _ in range(self.rng.randint(2, 8))]
        name = self.one("DEL", "UNLINK", "TOUCH", "EXISTS", "MSET", "MSET", "MGET")
        return [name] + ([w for k in keys for w in (k, self.word())] if name == "MSET" else keys)

    def scripts(self):
        k, o = self.any_key(), self.any_key()
        if self.tag % 4 == 0 and self.rng.random() < 0.4:
            undeclared = self.named(self.rng.choice(effect_calls.ANY))
            return self.one(
                ["EVAL", "redis.call('set', ARGV[1], ARGV[2]) return redis.call('append', KEYS[1], 'x')", "1", k, undeclared, self.word()],
                ["EVAL", "redis.call('del', ARGV[1]) redis.call('rpush', ARGV[1], ARGV[2]) return redis.call('lpush', KEYS[1], 1, {})",
                 "1", k, undeclared, self.word()],
                ["EVAL", "for i = 1, 5 do redis.call('incr', KEYS[1] .. i) end return redis.call('del', KEYS[1] .. 3)", "1", k])
        if self.functions and self.rng.random() < 0.3:
            n = self.rng.randrange(3)
            return self.one(["FUNCTION", "LOAD", "REPLACE", LIBRARY % (n, n, self.rng.randrange(100), n)], ["FUNCTION", "LOAD", LIBRARY % (n, n, 5, n)],
                            ["FUNCTION", "DELETE", "lib%d" % n], ["SCRIPT", "LOAD", self.rng.choice(SCRIPTS)], ["SCRIPT", "LOAD", self.rng.choice(SCRIPTS)])
        if self.shas and self.rng.random() < 0.3:
            return ["EVALSHA", self.rng.choice(self.shas), "2", k, o, self.word()]
        if self.rng.random() < 0.3:
            return ["FCALL", self.one("put%d", "half%d") % self.rng.randrange(3), "1", k, self.word()]
        return ["EVAL", self.rng.choice(SCRIPTS), "2", k, o, self.word()]

    # ---- together

    def births(self):
        """Commands that make every key of the tag at hand."""
        for i in range(3):
            yield ["RPUSH", "list%d" % i] + [b"a", b"b", b"c", b"10", b"b"] * self.one(1, 1, 30)
            yield ["SADD", "set%d" % i] + [b"a", b"b", b"10", b""] + [self.member() for _ in range(self.one(0, 0, 200))]
            yield ["ZADD", "zset%d" % i, "1", "a", "2.5", "b", "0.1", "10", "inf", "c"]
            yield ["HSET", "hash%d" % i, "f1", "1", "f2", "v", "n", "3"] + [w for _ in range(self.one(0, 0, 100)) for w in (self.member(), "x")]
            yield ["SET", "str%d" % i, self.word()] + self.maybe("PXAT", "1999999999000")
            yield ["SET", "num%d" % i, "7"]
            yield ["SETBIT", "bit%d" % i, "77", "1"]
            yield ["PFADD", "hll%d" % i, "a", "b", "c"]
            yield ["GEOADD", "geo%d" % i, "13.361389", "38.115556", "p", "15.087269", "37.502669", "c"]
            for n in range(1, 8):
                yield ["XADD", "stream%d" % i, "%d-%d" % (n, n), "f", self.word()]
            yield ["XGROUP", "CREATE", "stream%d" % i, "g1", "0"]
            yield ["XREADGROUP", "GROUP", "g1", "c1", "COUNT", "3", "STREAMS", "stream%d" % i, ">"]
            yield ["XREADGROUP", "GROUP", "g1", "c2", "COUNT", "1", "STREAMS", "stream%d" % i, ">"]
            yield ["PEXPIREAT", self.one("list0", "set1", "zset2", "hash0", "stream1"), "1999999999123"]

    def bound(self, words):
        """As bytes, with the keys of this tag."""
        words = [w.encode() if isinstance(w, str) else w for w in words]
        scatter = self.rng.random() < self.scattered and not (words[0] == b"EVAL" and words[2] == b"1")  # that one has keys that it does not declare
        return [self.named(w.decode(), self.rng.choice(self.tags) if scatter else None) if w in BASE_WORDS else w for w in words]

    def fill(self):
        for self.tag in self.tags:
            for words in self.births():
                yield self.bound(words)

    def allowed(self, words):
        name = words[0].upper()
        if not name.startswith(b"H"):
            return True
        # Redis 8 takes no field expiry from 2^46 ms on, Valkey 9 does: such a hash cannot be carried to Redis, and stays dirty.
        if any(w in words for w in (b"300000000000", b"300000000000000")):
            return False
        if self.field_ttl:
            return True
        if name.decode() in FIELD_EXPIRY:
            return False
        head = [w.upper() for w in words[2:5]]
        return name not in (b"HSETEX", b"HGETEX") or not any(w in head for w in (b"EX", b"PX", b"EXAT", b"PXAT"))

    def call(self):
        kinds = [self.strings, self.keyspace, self.lists, self.sets, self.zsets, self.hashes, self.bits, self.streams, self.streams,
                 self.others, self.others, self.many, self.big, self.scripts, self.wide]
        while True:
            words = next(self.pending, None) if self.pending else None
            if words is None:
                self.tag = self.rng.choice(self.tags)
                self.near = self.rng.random() < self.near_share
                self.pending = self.burst() if self.near else None
                words = next(self.pending) if self.near else self.rng.choice(kinds)()
            words = self.bound(words)
            if self.allowed(words):
                return words


BASE_WORDS = frozenset(b.encode() for b in BASES)
