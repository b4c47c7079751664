"""Random calls for test_effects.py: every type, most options, edges and errors. calls(rng, now_ms) yields words for ever.

Keys are few, so that calls meet: of each type, and some that any type may have. Those of the pool NEAR get lives of
milliseconds, the others expire in the past or not before the run is over.
"""

ANY = ["any%d" % i for i in range(4)]
TYPED = {t: ["%s%d" % (t, i) for i in range(3)] for t in ("str", "num", "list", "set", "zset", "hash", "stream", "geo", "hll", "bit")}
NEAR = ["near%d" % i for i in range(3)]
WORDS = [b"a", b"b", b"c", b"10", b"0", b"-3", b"3.5", b"", b"\r\n\0\xff", b"x" * 70, b"1e2", b"GET", b"PXAT"]
FIELDS = [b"f1", b"f2", b"f3", b"\xff\0", b"n"]
POINTS = [("13.361389", "38.115556", "p"), ("15.087269", "37.502669", "c"), ("-70.5", "-33.25", "s"), ("179.9", "0.001", "e")]
IDS = ["1-1", "2-0", "3-3", "5", "7-7", "9-1"]


class Calls:
    def __init__(self, rng, now_ms):
        self.rng, self.now = rng, now_ms
        self.near = False

    # ---- words

    def one(self, *choices):
        return self.rng.choice(choices)

    def maybe(self, *words):
        return list(words) if self.rng.random() < 0.35 else []

    def key(self, kind):
        if self.near:
            return self.rng.choice(NEAR)
        return self.rng.choice(ANY if self.rng.random() < 0.12 else TYPED[kind])

    def word(self):
        return self.rng.choice(WORDS)

    def words(self, most=4):
        return [self.word() for _ in range(self.rng.randint(1, most))]

    def number(self):
        return self.rng.choice(["1", "2", "7", "-1", "-5", "0", "100", "x", "1.5", "9223372036854775807"])

    def relative_s(self):
        if self.near:
            return self.one("1", "0", "-1")
        return self.rng.choice(["1000", "5000", "7777"]) if self.rng.random() < 0.6 else self.one("100000", "0", "-1", "x", "1.5", "+5", " 5", "9223372036854775", "9223372036854775807",
                        "300000000000", "01000")

    def relative_ms(self):
        if self.near:
            return str(self.rng.randint(1, 50))
        return self.rng.choice(["1000000", "5000000"]) if self.rng.random() < 0.6 else self.one("123456789", "0", "-1", "x", "9223372036854775807", "300000000000000", "-99999999999999999999")

    def at_s(self):
        return str(self.now() // 1000 + (1 if self.near else self.rng.choice([2000, 9000, -5, -100000])))

    def at_ms(self):
        return str(self.now() + (self.rng.randint(1, 50) if self.near else self.rng.choice([2000000, 9000000, -5000, -100000000])))

    def expiry(self):
        return self.rng.choice([["EX", self.relative_s()], ["px", self.relative_ms()], ["EXAT", self.at_s()], ["PXAT", self.at_ms()]])

    def some_expiry(self):
        return self.expiry() if self.near or self.rng.random() < 0.5 else []

    # ---- strings and keys

    def strings(self):
        k, n = self.key("str"), self.key("num")
        return self.rng.choice([
            lambda: ["SET", k, self.word()] + self.maybe(self.one("NX", "XX", "nx")) + self.maybe("GET") + self.some_expiry(),
            lambda: ["SET", k, self.word()] + self.maybe("KEEPTTL") + self.maybe("GET") + self.maybe("XX"),
            lambda: ["SET", n, self.number()] + self.some_expiry(),
            lambda: ["SET", k, self.word(), "IFEQ", self.word()] + self.maybe("GET") + self.some_expiry(),
            lambda: ["SET", k, self.word(), "EX", "1000", "EX", "2000"],
            lambda: ["SET", k, self.word(), self.one("EX", "NOPE", "KEEPTTL")] + self.maybe("PX", "100000"),
            lambda: [self.one("SETEX", "setex"), k, self.relative_s(), self.word()],
            lambda: ["PSETEX", k, self.relative_ms(), self.word()],
            lambda: ["SETNX", k, self.word()],
            lambda: ["GETSET", k, self.word()],
            lambda: [self.one("GETDEL", "GET", "STRLEN"), k],
            lambda: ["DELIFEQ", k, self.word()],
            lambda: ["GETEX", k] + self.one([], ["PERSIST"], self.expiry(), self.expiry()),
            lambda: ["APPEND", k, self.word()],
            lambda: ["SETRANGE", k, self.one("0", "3", "40", "-1"), self.word()],
            lambda: ["MSET", k, self.word(), n, "5"],
            lambda: ["MSETNX", k, self.word(), n, "5"],
            lambda: ["MSETEX", "2", k, self.word(), n, "6"] + self.maybe(self.one("NX", "XX")) + self.one([], ["KEEPTTL"], self.expiry()),
            lambda: [self.one("INCR", "DECR"), n],
            lambda: [self.one("INCRBY", "DECRBY"), n, self.number()],
            lambda: ["INCRBYFLOAT", n, self.one("0.1", "1", "-2.5", "1e3", "3.3333333333333333", "x", "0")],
            lambda: ["LCS", k, n],
        ])()

    def keyspace(self):
        k = self.any_key()
        return self.rng.choice([
            lambda: ["EXPIRE", k, self.relative_s()] + self.maybe(self.one("NX", "XX", "GT", "LT", "BAD")),
            lambda: ["PEXPIRE", k, self.relative_ms()] + self.maybe(self.one("NX", "XX", "gt", "lt")) + self.maybe(self.one("GT", "XX")),
            lambda: ["EXPIREAT", k, self.at_s()] + self.maybe(self.one("NX", "XX", "GT", "LT")),
            lambda: ["PEXPIREAT", k, self.at_ms()] + self.maybe(self.one("NX", "XX", "GT", "LT")),
            lambda: ["PERSIST", k],
            lambda: ["PERSIST", k],
            lambda: [self.one("DEL", "UNLINK"), k] + self.maybe(self.any_key()),
            lambda: ["COPY", k, self.any_key()] + self.maybe("REPLACE"),
            lambda: [self.one("RENAME", "RENAMENX"), k, self.any_key()],
            lambda: ["RESTORE", k, self.one("0", "-1", "x", "1000000"), self.payload] + self.maybe("REPLACE"),
            lambda: ["RESTORE", k, self.at_ms(), self.payload, "ABSTTL"] + self.maybe("REPLACE") + self.maybe("IDLETIME", "5"),
            lambda: ["TOUCH", k],
            lambda: ["SORT", self.key("list")] + self.one([], ["ALPHA"], ["ALPHA", "STORE", self.key("list")], ["LIMIT", "0", "2"]),
            lambda: ["EVAL", "redis.call('set', KEYS[1], ARGV[1]) if ARGV[1] == 'a' then return redis.error_reply('ERR after') end "
                     "return redis.call('incr', KEYS[1])", "1", k, self.word()],
            lambda: ["EVALSHA", "f" * 40, "1", k],
        ])()

    payload = b""

    def any_key(self):
        if self.near:
            return self.rng.choice(NEAR)
        return self.key(self.rng.choice(list(TYPED)))

    # ---- collections

    def lists(self):
        k, o = self.key("list"), self.key("list")
        return self.rng.choice([
            lambda: [self.one("LPUSH", "RPUSH", "LPUSHX", "RPUSHX"), k] + self.words(6),
            lambda: [self.one("LPUSH", "RPUSH"), k] + self.words(6),
            lambda: [self.one("LPOP", "RPOP"), k] + self.maybe(self.one("0", "2", "9", "-1")),
            lambda: ["LMPOP", "2", k, o, self.one("LEFT", "RIGHT")] + self.maybe("COUNT", self.one("1", "3", "0")),
            lambda: ["LREM", k, self.one("0", "1", "-2"), self.word()],
            lambda: ["LSET", k, self.one("0", "-1", "5"), self.word()],
            lambda: ["LTRIM", k, self.one("0", "1"), self.one("5", "-1", "0")],
            lambda: ["LINSERT", k, self.one("BEFORE", "AFTER"), self.word(), self.word()],
            lambda: ["LMOVE", k, o, self.one("LEFT", "RIGHT"), self.one("LEFT", "RIGHT")],
            lambda: ["RPOPLPUSH", k, o],
        ])()

    def sets(self):
        k, o, d = self.key("set"), self.key("set"), self.key("set")
        return self.rng.choice([
            lambda: ["SADD", k] + self.words(8),
            lambda: ["SADD", k] + self.words(8),
            lambda: ["SREM", k] + self.words(3),
            lambda: ["SPOP", k] + self.maybe(self.one("0", "1", "2", "3", "50", "-1")),
            lambda: ["SMOVE", k, o, self.word()],
            lambda: [self.one("SUNIONSTORE", "SDIFFSTORE", "SINTERSTORE"), d, k, o],
        ])()

    def score(self):
        return self.one("1", "2.5", "-3", "0.1", "1e10", "inf", "-inf", "x", "3.0000000000000004")

    def zsets(self):
        k, o, d = self.key("zset"), self.key("zset"), self.key("zset")
        pairs = [w for m in self.words(4) for w in (self.score(), m)]
        return self.rng.choice([
            lambda: ["ZADD", k] + pairs,
            lambda: ["ZADD", k] + self.maybe(self.one("NX", "XX")) + self.maybe(self.one("GT", "LT")) + self.maybe("CH") + pairs,
            lambda: ["ZADD", k] + self.maybe("XX") + ["INCR", self.score(), self.word()],
            lambda: ["ZINCRBY", k, self.one("0.1", "0.7", "-1", "inf", "nan"), self.word()],
            lambda: ["ZREM", k] + self.words(2),
            lambda: [self.one("ZPOPMIN", "ZPOPMAX"), k] + self.maybe(self.one("0", "1", "2", "9")),
            lambda: ["ZMPOP", "2", k, o, self.one("MIN", "MAX")] + self.maybe("COUNT", self.one("1", "3")),
            lambda: ["ZREMRANGEBYRANK", k, "0", self.one("0", "1")],
            lambda: ["ZREMRANGEBYSCORE", k, "-inf", self.score()],
            lambda: ["ZREMRANGEBYLEX", k, "-", "[b"],
            lambda: ["ZRANGESTORE", d, k, "0", self.one("1", "-1")],
            lambda: [self.one("ZUNIONSTORE", "ZINTERSTORE"), d, "2", k, o] + self.maybe("WEIGHTS", "0.3", "2") + self.maybe("AGGREGATE", "MAX"),
            lambda: ["ZDIFFSTORE", d, "2", k, o],
        ])()

    def fields(self):
        f = [self.rng.choice(FIELDS) for _ in range(self.rng.randint(1, 3))]
        return ["FIELDS", str(len(f))] + f

    def pairs(self):
        f = [self.rng.choice(FIELDS) for _ in range(self.rng.randint(1, 3))]
        return ["FIELDS", str(len(f))] + [w for x in f for w in (x, self.word())]

    def field_expiry(self):
        return self.rng.choice([["EX", self.one("1000", "9000", "0", "-1", "9223372036854775")],
                                ["PX", self.one("1000000", "300000000000000", "0", "x")],
                                ["EXAT", self.at_s() if not self.near else "99999999999"], ["PXAT", self.at_ms() if not self.near else "9999999999999"]])

    def hashes(self):
        k, f = self.key("hash"), self.rng.choice(FIELDS)
        cond = self.maybe(self.one("NX", "XX", "GT", "LT"))
        return self.rng.choice([
            lambda: [self.one("HSET", "HMSET"), k] + self.pairs()[2:],
            lambda: [self.one("HSET", "HMSET"), k] + self.pairs()[2:],
            lambda: ["HSET", k, "n", self.one("1", "2.5", "-7")],
            lambda: [self.one("HINCRBY", "HINCRBYFLOAT"), k, "n", "3"],
            lambda: ["HEXPIRE", k, "1000", "FIELDS", "1", "n"],
            lambda: ["HSETNX", k, f, self.word()],
            lambda: ["HDEL", k, f] + self.maybe(self.rng.choice(FIELDS)),
            lambda: ["HINCRBY", k, "n", self.number()],
            lambda: ["HINCRBYFLOAT", k, "n", self.one("0.1", "1.5", "x", "-7")],
            lambda: ["HEXPIRE", k, self.one("1000", "0", "-1", "9223372036854775", "300000000000")] + cond + self.fields(),
            lambda: ["HPEXPIRE", k, self.one("1000000", "0", "300000000000000", "x")] + cond + self.fields(),
            lambda: ["HEXPIREAT", k, "99999999999" if self.near else self.at_s()] + cond + self.fields(),
            lambda: ["HPEXPIREAT", k, "9999999999999" if self.near else self.at_ms()] + cond + self.fields(),
            lambda: ["HPERSIST", k] + self.fields(),
            lambda: ["HSETEX", k] + self.maybe(self.one("FNX", "FXX")) + self.one([], ["KEEPTTL"], self.field_expiry()) + self.pairs(),
            lambda: ["HGETEX", k] + self.one([], ["PERSIST"], self.field_expiry()) + self.fields(),
            lambda: ["HGETDEL", k] + self.fields(),
        ])()

    def bits(self):
        k, o, h, g = self.key("bit"), self.key("bit"), self.key("hll"), self.key("geo")
        lon, lat, member = self.rng.choice(POINTS)
        return self.rng.choice([
            lambda: ["SETBIT", k, self.one("0", "7", "100", "-1"), self.one("0", "1", "2")],
            lambda: ["BITFIELD", k, "GET", "u4", "0"] + self.maybe("SET", "i8", "4", "99") + self.maybe("OVERFLOW", "FAIL", "INCRBY", "u2", "1", "1"),
            lambda: ["BITOP", self.one("AND", "OR", "XOR"), self.key("bit"), k, o],
            lambda: ["BITOP", "NOT", o, k],
            lambda: ["PFADD", h] + self.words(6),
            lambda: ["PFMERGE", h, self.key("hll"), self.key("hll")],
            lambda: ["GEOADD", g] + self.maybe(self.one("NX", "XX")) + [lon, lat, member],
            lambda: ["GEOADD", g] + self.maybe("CH") + [lon, lat, member],
            lambda: ["GEOSEARCHSTORE", self.key("geo"), g, "FROMLONLAT", "15", "37", "BYRADIUS", "2000", "km"] + self.maybe("STOREDIST"),
            lambda: ["GEORADIUS", g, "15", "37", "2000", "km"] + self.one([], ["STORE", self.key("geo")], ["STOREDIST", self.key("geo")]),
        ])()

    # ---- streams

    def trim(self):
        return self.rng.choice([["MAXLEN", self.one("0", "3", "8")], ["MAXLEN", "=", "5"], ["MAXLEN", "~", self.one("0", "3", "100")],
                                ["MINID", self.one("3", "0")], ["MINID", "~", self.one("5", "9-9")], ["MAXLEN", "~", "2", "LIMIT", "50"]])

    def streams(self):
        k, o = self.key("stream"), self.key("stream")
        g, c = self.one("g1", "g1", "g2"), self.one("c1", "c2", "c3")
        ids = [self.seen(k) for _ in range(self.rng.randint(1, 3))]
        return self.rng.choice([
            lambda: ["XADD", k] + self.maybe("NOMKSTREAM") + self.maybe(*self.trim()) + [self.one("*", "*", "*", "1-*", "5", "99999999999999-*")]
            + self.pairs()[2:],
            lambda: ["XADD", k, "*", "f", self.word()],
            lambda: ["XADD", k, "*", "f", self.word()],
            lambda: ["XTRIM", k] + self.trim(),
            lambda: ["XDEL", k] + ids,
            lambda: ["XGROUP", "CREATE", k, g, self.one("0", "$", "0")] + self.maybe("MKSTREAM") + self.maybe("ENTRIESREAD", "0"),
            lambda: ["XGROUP", "CREATE", k, g, "0", "MKSTREAM"],
            lambda: ["XGROUP", "SETID", k, g, self.one("0", "$", self.seen(k))],
            lambda: ["XGROUP", self.one("CREATECONSUMER", "DELCONSUMER"), k, g, c],
            lambda: ["XGROUP", "DESTROY", k, "g2"],
            lambda: ["XSETID", k, "100000000000000-0"] if self.rng.random() < 0.05 else ["XLEN", k],
            lambda: ["XREADGROUP", "GROUP", g, c] + self.maybe("COUNT", self.one("1", "3")) + self.maybe("NOACK")
            + ["STREAMS", k, self.one(">", ">", ">", "0", self.seen(k))],
            lambda: ["XREADGROUP", "GROUP", g, c] + self.maybe("COUNT", "2") + ["STREAMS", k, ">"],
            lambda: ["XREADGROUP", "GROUP", g, c, "COUNT", "2", "STREAMS", k, o, ">", self.one(">", "0")],
            lambda: ["XACK", k, g] + ids,
            lambda: ["XCLAIM", k, g, c, self.one("0", "0", "5", "100000")] + ids + self.maybe(self.one("JUSTID", "FORCE"))
            + self.maybe(*self.one(["IDLE", "5000"], ["RETRYCOUNT", "7"], ["TIME", "1700000000000"], ["LASTID", self.seen(k)])),
            lambda: ["XCLAIM", k, g, c, "0"] + ids + self.maybe("FORCE") + self.one([], ["TIME", "1700000000000"], ["JUSTID"], ["IDLE", "100000"]),
            lambda: ["XCLAIM", k, g, c, "100000"] + ids,
            lambda: ["XAUTOCLAIM", k, g, c, self.one("0", "0", "5", "100000"), "0"] + self.maybe("COUNT", "3") + self.maybe("JUSTID"),
        ])()

    recent = {}  # by stream, ids that the authority gave

    def seen(self, key=None):
        recent = self.recent.get(key.encode()) if key else None
        return self.rng.choice(recent) if recent and self.rng.random() < 0.95 else self.rng.choice(IDS)

    # ---- together

    def burst(self):
        """One key that lives for milliseconds under writes of one type."""
        kind, key = self.rng.choice([self.strings, self.lists, self.sets, self.zsets, self.hashes]), self.rng.choice(NEAR)
        births = {self.strings: ["SET", key, self.one("0", "0", "5", "")], self.lists: ["RPUSH", key, "a", "b", "c", "d"], self.sets: ["SADD", key, "a", "b", "c"],
                  self.zsets: ["ZADD", key, "1", "a", "2", "b"], self.hashes: ["HSET", key, "f1", "1", "f2", "2", "n", "3"]}
        yield births[kind]
        yield self.rng.choice([["PEXPIRE", key, str(self.rng.randint(2, 40))], ["PEXPIREAT", key, str(self.now() + self.rng.randint(2, 40))]])
        for _ in range(self.rng.randint(1, 4)):
            yield [key if w in NEAR else w for w in kind()]

    pending = None

    def call(self):
        kinds = [self.strings, self.keyspace, self.lists, self.sets, self.zsets, self.hashes, self.bits, self.streams, self.streams]
        words = next(self.pending, None) if self.pending else None
        if words is None:
            self.near = self.rng.random() < 0.05
            self.pending = self.burst() if self.near else None
            words = next(self.pending) if self.near else self.rng.choice(kinds)()
        return [w if isinstance(w, bytes) else w.encode() for w in words]
