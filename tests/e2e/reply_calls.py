"""Calls of every command, made from what a server says of its own grammar (COMMAND DOCS) and from the proxy's command table (tools/commands.tsv).

A call has a tag: all its keys are {tag}name, so that it runs on a cluster. Keys are named after the type they usually hold; some are not. Numbers that
may become an expiry are far away or past, so that nothing depends on when it runs.
"""
import os
import time

from harness.process import ROOT

TYPES = {"string": "string", "bitmap": "string", "hyperloglog": "hll", "list": "list", "set": "set", "hash": "hash", "sorted-set": "zset",
         "geo": "geo", "stream": "stream"}
NAMES = ["string", "number", "hll", "list", "set", "hash", "zset", "geo", "stream", "missing"]
# Of calls by name (LEX, BYLEX), and of no others: a set whose scores are equal, a string, nothing. Where scores differ, what comes by name depends on the
# levels that the server's skip list drew by lot.
LEXICAL = ["lex", "nolex", "none"]
SEED = int(os.environ.setdefault("REPLY_SEED", str(int(time.time()))))  # in the environment, so that all processes of a run agree
WORDS = [b"a", b"b", b"c", b"1", b"2", b"3", b"-1", b"f1", b"f2", b"m1", b"m2", b"foo", b"", b"3.5", b"\0\xff\r\n\"", b"with space", b"x" * 70]
LARGE = [b"y" * 600, bytes(range(256)) * 20, b"z" * 40000]
FAR = ["0", "-1", "100000", "2000000", "9223372036854775807", "-9223372036854775808", "x", "1.5", ""]
INTEGERS = ["0", "1", "2", "3", "5", "-1", "-2", "10", "100", "4000000000", "9223372036854775807", "-9223372036854775808", "x", "1.5", ""]
LIKELY = 9  # of these the first, the rest are wrong or at the edge
SCORES = ["0", "1", "1.5", "-2", "3", "(1", "+inf", "-inf", "nan", "1e300", "x"]
IDS = ["0", "-", "+", "$", "*", ">", "1-1", "2", "3-*", "5-5", "0-0", "7-1", "(1-1", "x-1"]
PATTERNS = ["*", "f*", "m?", "[a-c]", "{1}*", "", "\\*", "x*y"]
LEX = ["-", "+", "[a", "(b", "[m2", "x"]
SCRIPTS = [b"return 1", b"return redis.call('get', KEYS[1])", b"return {1, 'two', {3, false, 'x'}, 4.7, {ok='fine'}}", b"return redis.error_reply('MY own')",
           b"return redis.call('set', KEYS[1], ARGV[1])", b"return redis.call('lpush', KEYS[1], 'x')", b"error('boom')", b"this is no lua",
           b"redis.setresp(3) return {map={a=redis.call('exists', KEYS[1])}}", b"return redis.call('zrange', KEYS[1], 0, -1, 'withscores')",
           b"redis.setresp(3) return {double=3.5}", b"return redis.status_reply('OK')", b"return ARGV", b"return redis.call('nosuch')", b"return redis.call('incr', KEYS[1])"]
LIBRARY = b"#!lua name=%s\nredis.register_function('%s', function(k, a) return redis.call('set', k[1], a[1]) end)\n" \
          b"redis.register_function{function_name='%s_ro', callback=function(k, a) return {redis.call('get', k[1]), a} end, flags={'no-writes'}}\n"
LIBS = [b"lone", b"ltwo"]
# The argument's name tells what it is; the type alone (string, integer) says little.
BY_NAME = {
    "pattern": PATTERNS, "script": SCRIPTS, "cursor": ["0", "0", "0", "x", "-1"], "group": ["g", "g", "g", "h"], "consumer": ["c", "c", "d"],
    "newconsumer": ["c", "e"], "id": IDS, "start": None, "stop": None, "end": None, "min": None, "max": None, "score": SCORES, "increment": None,
    "threshold": ["0", "2", "3", "10", "1-1", "x"], "function": [b"lone", b"lone_ro", b"ltwo", b"nosuch"], "library-name": LIBS + [b"nosuch"],
    "min-idle-time": ["0", "0", "1000000000", "x"], "ms": ["0", "5000"], "unix-time-milliseconds": ["1500000000000"], "lastid": IDS,
    "encoding": ["u8", "i5", "u64", "i64", "u63", "x"], "longitude": ["13.361389", "15.087269", "0", "-200", "x"],
    "latitude": ["38.115556", "37.502669", "0", "99"], "radius": ["200", "0", "100000", "-1", "x"], "width": ["400"], "height": ["400"],
    "min-idle": ["0", "1000000000"], "entries-read": ["1", "-1", "x"], "entriesread": ["1", "-1"], "entries-added": ["100", "-1"], "max-deleted-id": ["1-1", "x"],
    "weight": ["1", "2.5", "x"], "message": WORDS, "channel": [b"ch"], "sha1": None, "function-code": None, "serialized-value": None,
    "numkeys": None, "start-id": IDS, "end-id": IDS, "last-id": IDS, "max-len": ["3"], "port": ["1"], "host": ["h"],
}
EXPIRY_NAMES = ("seconds", "milliseconds", "unix-time", "ttl", "frequency")


class Row:
    """One command: its name in words, arity, grammar and what the tables say of it."""

    def __init__(self, info, doc, own):
        self.name = info[0].decode()
        self.words = [w.encode() for w in self.name.split("|")]
        self.arity = info[1]
        self.flags = {f.decode() for f in info[2]}
        self.tips = {t.decode() for t in info[7]}
        self.group = doc.get(b"group", b"").decode()
        self.arguments = doc.get(b"arguments", [])
        self.own = own
        self.write = "write" in self.flags
        self.blocking = "blocking" in self.flags
        self.far = self._expires(self.arguments)

    def _expires(self, arguments):
        return any(any(n in a[b"name"].decode() for n in EXPIRY_NAMES) or a[b"type"] == b"unix-time" or self._expires(a.get(b"arguments", []))
                   for a in arguments)

    def __getattr__(self, name):  # policy, effect, flags …: the proxy's own columns
        try:
            return self.__dict__["own"][name]
        except KeyError:
            raise AttributeError(name)


def is_by_name(words):
    return b"lex" in words[0].lower() or any(w.lower() == b"bylex" for w in words)


def own_table():
    with open(os.path.join(ROOT, "tools", "commands.tsv")) as f:
        lines = [line.rstrip("\n").split("\t") for line in f if line.strip() and not line.startswith("#")]
    return {line[0]: dict(zip(["own_" + h if h == "flags" else h for h in lines[0][1:]], line[1:])) for line in lines[1:]}


def rows_of(server):
    """The rows of every command that this server knows, subcommands instead of their containers."""
    with server.connect(protocol=3, timeout=30) as c:
        infos, docs = c.call("COMMAND"), c.call("COMMAND", "DOCS")
    own, rows = own_table(), []
    for info in infos:
        doc = docs.get(info[0], {})
        subs = doc.get(b"subcommands", {})
        for sub in info[9]:
            rows.append(Row(sub, subs.get(sub[0], {}), own[sub[0].decode()]))
        if not info[9]:
            rows.append(Row(info, doc, own[info[0].decode()]))
    return sorted(rows, key=lambda r: r.name)


class Calls:
    def __init__(self, rng, payload=b"", shas=()):
        self.rng, self.payload, self.shas = rng, payload, list(shas)
        self.tag, self.kind, self.row, self.keys = "1", None, None, []

    # ---- words

    def one(self, *choices):
        return self.rng.choice(choices)

    def key(self):
        r = self.rng.random()
        kind = self.kind or TYPES.get(self.row.group)
        if not self.kind and (kind is None or r < 0.2):
            kind = self.rng.choice(NAMES)
        elif kind == "string" and not self.kind and r < 0.6:
            kind = "number"
        key = b"{%s}%s" % (self.tag.encode(), kind.encode()) + (b"" if self.kind or self.rng.random() < 0.7 else b"\xff\r\n2")
        self.keys.append(key)
        return key

    def word(self):
        return self.rng.choice(LARGE) if self.rng.random() < 0.01 else self.rng.choice(WORDS)

    def integer(self):
        choices = FAR if self.row.far else INTEGERS
        return self.rng.choice(choices if self.rng.random() < 0.1 else choices[:3 if self.row.far else LIKELY])

    def position(self):
        """start, stop, min, max: indexes, scores, lexical bounds or ids, as the group has them."""
        if self.row.group == "stream":
            return self.rng.choice(IDS)
        if self.row.group == "sorted-set" and self.rng.random() < 0.6:
            return self.rng.choice(LEX if "lex" in self.row.name or self.rng.random() < 0.3 else SCORES)
        return self.integer()

    def value(self, argument):
        name, kind = argument[b"name"].decode(), argument[b"type"]
        if kind == b"key":
            return self.key()
        if self.row.blocking and name in ("timeout", "milliseconds"):
            return "0.01" if kind == b"double" else "10"
        if kind == b"unix-time":
            return self.rng.choice(["4000000000000" if "milli" in name else "4000000000", "1", "x"] if self.rng.random() < 0.9 else FAR)
        if self.row.far and any(n in name for n in EXPIRY_NAMES):
            return self.integer()
        if BY_NAME.get(name):
            return self.rng.choice(BY_NAME[name])
        special = {"sha1": self.sha, "function-code": self.library, "serialized-value": self.serialized, "numkeys": lambda: str(self.one(1, 1, 1, 2, 0, -1))}
        if name in special:
            return special[name]()
        if name in ("start", "stop", "end", "min", "max"):
            return self.position()
        if name == "offset" and self.row.group == "bitmap":
            return self.one("0", "5", "#1", "100", "-1")
        if kind == b"integer":
            return self.integer()
        if kind == b"double":
            return self.rng.choice(SCORES[:5] if self.rng.random() < 0.9 else SCORES)
        return self.rng.choice(PATTERNS) if kind == b"pattern" else self.word()

    def sha(self):
        return self.rng.choice(self.shas) if self.shas and self.rng.random() < 0.8 else b"f" * 40

    def library(self):
        name = self.rng.choice(LIBS)
        return LIBRARY % (name, name, name) if self.rng.random() < 0.8 else b"#!lua name=x\nno lua"

    def serialized(self):
        return self.payload if self.rng.random() < 0.7 else b"\0\x01x"

    # ---- the grammar

    def argument(self, argument):
        flags, kind = argument.get(b"flags", ()), argument[b"type"]
        if b"optional" in flags and self.rng.random() < 0.65:
            return []
        out = []
        token = argument.get(b"token")
        for i in range(self.one(1, 1, 2, 3) if b"multiple" in flags else 1):
            if token is not None and (i == 0 or b"multiple_token" in flags) and (token or kind == b"pure-token"):
                out.append(token)
            out += self.once(argument, kind)
        return out

    def once(self, argument, kind):
        if kind == b"pure-token":
            return []
        if kind == b"oneof":
            return self.argument(dict(self.rng.choice(argument[b"arguments"]), flags=()))
        if kind == b"block":
            return self.sequence(argument[b"arguments"])
        return [self.value(argument)]

    def sequence(self, arguments):
        return [w for a in arguments for w in self.argument(a)]

    def call(self, row, kind=None, tag=None):
        """Right in form, most often. The words; self.keys are its keys."""
        self.row, self.kind, self.keys = row, kind, []
        self.tag = tag or str(self.rng.randrange(8))
        words = self.settled(list(row.words) + self.sequence(row.arguments))
        return self.by_name(words) if is_by_name(words) else words

    def by_name(self, words):
        """Its keys are those of calls by name."""
        others = {k: b"{%s}%s" % (self.tag.encode(), self.one(*LEXICAL, *["lex"] * 9).encode()) for k in self.keys}
        self.keys = [others[k] for k in self.keys]
        return [others.get(w, w) for w in words]

    def settled(self, words):
        """numkeys says how many keys follow, most often."""
        words = [w if isinstance(w, bytes) else w.encode() for w in words]
        if not any(a[b"name"] == b"numkeys" for a in self.flat(self.row.arguments)) or self.rng.random() < 0.1:
            return words
        at = [i for i, w in enumerate(words) if w in self.keys and i > len(self.row.words) and words[i - 1] not in self.keys]
        if at:
            first = at[-1]
            n = next(i for i in range(first, len(words) + 1) if i == len(words) or words[i] not in self.keys) - first
            words[first - 1] = b"%d" % n
        return words

    def flat(self, arguments):
        for a in arguments:
            yield a
            yield from self.flat(a.get(b"arguments", []))

    def spoiled(self, words, tagged=False):
        """The same, a little wrong. tagged: junk has the tag, too, since it may come where a key is expected."""
        words, r = list(words), self.rng
        at = r.randrange(len(self.row.words), len(words) + 1)
        junk = r.choice(FAR).encode() if self.row.far else self.word()
        junk = b"{%s}%s" % (self.tag.encode(), junk) if tagged else junk
        how = r.randrange(4)
        if how == 0 and at < len(words):
            del words[at]
        elif how == 1:
            words.insert(at, junk)
        elif how == 2 and at < len(words):
            words[at] = junk
        elif at < len(words) and words[at] not in self.keys:
            words[at] = words[at].swapcase()
        return words


def fill(tag):
    """Commands that give the keys of a tag their types."""
    def k(name):
        return b"{%s}%s" % (tag.encode(), name.encode())
    return [
        ["SET", k("string"), b"value of some length"], ["SET", k("number"), "17"], ["PFADD", k("hll"), "a", "b"],
        ["RPUSH", k("list"), "a", "b", "c", "a", "1"], ["SADD", k("set"), "m1", "m2", "a", "foo"], ["HSET", k("hash"), "f1", "v", "f2", "2", "a", "3.5"],
        ["ZADD", k("zset"), "1", "a", "1.5", "m1", "-2", "m2", "inf", "foo"], ["GEOADD", k("geo"), "13.361389", "38.115556", "a", "15.087269", "37.502669", "m1"],
        ["XADD", k("stream"), "1-1", "a", "b"], ["XADD", k("stream"), "2-1", "f1", "v", "f2", "w"], ["XADD", k("stream"), "7-1", "x", "y"],
        ["XGROUP", "CREATE", k("stream"), "g", "0"], ["ZADD", k("lex")] + [w for m in ("a", "b", "c", "m1", "m2", "foo", "x y") for w in ("0", m)],
        ["SET", k("nolex"), "no set"]]


def keys_of(tag):
    return [b"{%s}%s%s" % (tag.encode(), n.encode(), s) for n in NAMES + LEXICAL for s in (b"", b"\xff\r\n2")]
