"""Effects against real servers: random calls go, as proxy/effect.h restates them, to an authority of one kind; what it builds from
the replies goes to a follower of another kind; after every call the keys concerned are equal by value, expiry, groups and pending
entries. The calls are printed by their seed: EFFECTS_SEED=n repeats a run, EFFECTS_CALLS=n makes it longer.
"""
import os
import random
import subprocess
import time

import effect_calls
import pytest
from harness.crossfade import crossfade_bin
from harness.process import ROOT
from harness.resp import Client, Parser, RespError, _Incomplete, encode

PAIRS = [("redis-7.0", "valkey-9.1"), ("redis-8.0", "valkey-9.1"), ("valkey-9.1", "redis-8.0"), ("valkey-9.1", "redis-7.0"),
         ("redis-7.0", "valkey-8.0"), ("valkey-8.1", "redis-7.0"), ("redis-8.0", "valkey-8.1"), ("valkey-8.0", "redis-8.0")]
BITS = {"redis-7.0": 1, "redis-8.0": 2, "valkey-8.0": 4, "valkey-8.1": 8, "valkey-9.1": 16}
RDB = {"redis-7.0": 10, "redis-8.0": 12, "valkey-8.0": 11, "valkey-8.1": 11, "valkey-9.1": 80}
FIELD_TTL = ("redis-8.0", "valkey-9.1")
NOTHING, SAME, BLOCK, SNAPSHOT, BROADCAST = range(5)
ANY, OK, INT, EQUAL, DIGEST = range(5)
TIME_TOLERANCE_MS = 250


@pytest.fixture(scope="module")
def tool_path(tmp_path_factory):
    """The tool that the build left, else one compiled here."""
    built = os.path.join(os.path.dirname(os.path.dirname(crossfade_bin())), "tests/e2e/effect_tool")
    if os.path.exists(built):
        return built
    path = str(tmp_path_factory.mktemp("tool") / "effect_tool")
    names = sorted(os.path.join(ROOT, d, f) for d in ("resp", "proxy") for f in os.listdir(os.path.join(ROOT, d))
                   if f.endswith(".c") and (d == "resp" or f.startswith("effect")))
    subprocess.run(["cc", "-std=gnu11", "-O2", "-D_GNU_SOURCE", "-I" + ROOT, os.path.join(ROOT, "tests/e2e/effect_tool.c")] + names +
                   ["-lhiredis", "-lxxhash", "-o", path], check=True)
    return path


class Tool:
    def __init__(self, path):
        self.proc = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.parser = Parser()

    def call(self, *words):
        self.proc.stdin.write(encode(words))
        while True:
            try:
                return self.parser.get()
            except _Incomplete:
                data = os.read(self.proc.stdout.fileno(), 1 << 20)
                assert data, "effect_tool ended"
                self.parser.feed(data)

    def close(self):
        self.proc.stdin.close()
        assert self.proc.wait(10) == 0


def _crc64_table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x95ac9329ac4bc9b5 if n & 1 else 0)
        table.append(n)
    return table


CRC64 = _crc64_table()


def restamp(payload, version):
    body = payload[:-10] + version.to_bytes(2, "little")
    crc = 0
    for byte in body:
        crc = CRC64[(crc ^ byte) & 255] ^ (crc >> 8)
    return body + crc.to_bytes(8, "little")


def now_ms():
    return int(time.time() * 1000)


def parse(raw):
    parser = Parser()
    parser.feed(raw)
    return parser.get()


def pairs(value):
    return value if isinstance(value, dict) else dict(zip(value[::2], value[1::2]))


def stream_facts(info):
    """What must be equal; the times, which need only be near; and entries-read, which products estimate otherwise once entries went."""
    facts, times, counters = {}, {}, {}
    for name in (b"length", b"last-generated-id", b"max-deleted-entry-id", b"entries-added", b"recorded-first-entry-id"):
        facts[name] = info[name]
    for group in map(pairs, info[b"groups"]):
        name = group[b"name"]
        facts[name] = {b"last-delivered-id": group[b"last-delivered-id"]}
        facts[name]["pending"] = [(p[0], p[1], p[3]) for p in group[b"pending" if b"pending" in group else b"pel"]]
        counters[name] = group[b"entries-read"]
        times[name] = [p[2] for p in group[b"pending" if b"pending" in group else b"pel"]]
    return facts, (times, counters)


class Pair:
    """An authority and a follower that hold the same, and what one call does to both."""

    def __init__(self, tool, authority, follower, rng):
        self.rng = rng
        self.tool, self.a_kind, self.f_kind = tool, authority.kind, follower.kind
        self.a, self.f = (Client(s.port, protocol=3, timeout=20) for s in (authority, follower))
        self.counts = dict.fromkeys(["calls", "errors", "canonical", "nothing", "same", "block", "snapshot", "multi", "broadcast",
                                     "probed", "uncopied", "near shown", "unproven", "entries-read", "phantom"], 0)
        self.recent = {}
        self.both_have_field_ttl = self.a_kind in FIELD_TTL and self.f_kind in FIELD_TTL

    def count(self, what):
        self.counts[what] += 1

    # ---- the two sides compared

    def facts(self, c, key):
        # TYPE first: it removes what is expired, which DEBUG still sees.
        kind, expiry, digest = c.pipeline([("TYPE", key), ("PEXPIRETIME", key), ("DEBUG", "DIGEST-VALUE", key)])
        more, times = None, None
        if kind == b"stream":
            more = c.try_call("XINFO", "STREAM", key, "FULL", "COUNT", "0")
            more, times = stream_facts(pairs(more)) if not isinstance(more, RespError) else (None, None)
        elif kind == b"zset":
            # A digest is made of the score's text, which is 0.1 or 0.10000000000000001.
            more, digest = c.call("ZRANGE", key, "0", "-1", "WITHSCORES"), None
        elif kind == b"hash":
            # The two products' digests of a hash with expiring fields differ.
            more, digest = [c.call("HGETALL", key)], None
            if self.both_have_field_ttl:
                fields = sorted(effect_calls.FIELDS)
                more.append(c.call("HPEXPIRETIME", key, "FIELDS", len(fields), *fields))
        return (digest, expiry, kind, more), times

    def difference(self, key):
        (a, a_times), (f, f_times) = self.facts(self.a, key), self.facts(self.f, key)
        if a != f:
            return "%r: authority %r, follower %r" % (key, a, f)
        for group in a_times[0] if a_times else {}:
            if any(abs(x - y) > TIME_TOLERANCE_MS for x, y in zip(a_times[0][group], f_times[0][group])):
                return "%r: delivery times of %r: %r, %r" % (key, group, a_times[0][group], f_times[0][group])
        self.counts["entries-read"] += bool(a_times and a_times[1] != f_times[1])
        return None

    def copy(self, key):
        """A snapshot; what the follower's RDB version has no form for is removed on both sides."""
        payload, expiry = self.a.pipeline([("DUMP", key), ("PEXPIRETIME", key)])
        if payload is None:
            self.f.call("DEL", key)
            return
        reply = self.f.try_call("RESTORE", key, max(expiry, 0), restamp(payload, RDB[self.f_kind]), "REPLACE", "ABSTTL")
        if isinstance(reply, RespError):
            self.count("uncopied")
            self.a.call("DEL", key)
            self.f.call("DEL", key)

    # ---- one call

    def canonical(self, words):
        known, changed, request, probe = self.tool.call("canonical", now_ms(), BITS[self.a_kind], *words)
        assert known, "no row for %r" % words[0]
        return (parse(request) if changed else words), (parse(probe) if probe else None), bool(changed)

    def apply(self, words, reply, effect):
        """What the follower shows against the effect; None if nothing."""
        kind, block, ncommands, expect, n, digest, _, unproven, _, reply_digest, written = effect
        self.count(["nothing", "same", "block", "snapshot", "broadcast"][kind])
        if kind == SNAPSHOT:
            for key in set(written):
                self.copy(key)
        if kind not in (SAME, BLOCK):
            return None
        if ncommands > 1:
            self.count("multi")
        raw = self.f.raw(*words) if kind == SAME else self.block(block, ncommands)
        got = parse(raw)
        if isinstance(got, RespError) or (isinstance(got, list) and ncommands > 1 and any(isinstance(x, RespError) for x in got)):
            return "error %s" % got
        right = {ANY: lambda: True, OK: lambda: got == b"OK", INT: lambda: got == n,
                 EQUAL: lambda: self.tool.call("digest", raw) == reply_digest,
                 DIGEST: lambda: self.tool.call("digest", raw) == digest}[expect]()
        if not right:
            return "reply %r to %r (authority %r)" % (raw, block if kind == BLOCK else words, reply)
        if unproven:
            self.count("unproven")
            for key in set(written):
                if self.a.call("PEXPIRETIME", key) != self.f.call("PEXPIRETIME", key):
                    return "PEXPIRETIME"
        return None

    def block(self, block, ncommands):
        """The bytes of the last reply."""
        self.f.parser = Parser()
        self.f.send_raw(block)
        for _ in range(ncommands):
            start = self.f.parser.pos
            self.f.read_any()
        return bytes(self.f.parser.buf[start:self.f.parser.pos])

    def run(self, words, near):
        """One call on both sides. The text of a difference, or None."""
        self.count("calls")
        request, probe, changed = self.canonical(words)
        self.counts["canonical"] += changed
        reply = self.a.raw(*request)
        probe_reply = self.a.raw(*probe) if probe else b""
        self.counts["probed"] += probe is not None
        value = parse(reply)
        if isinstance(value, RespError):
            self.count("errors")
            if changed and not near:
                own = self.a.try_call(*words)
                if own != value:
                    return "error %r of %r differs from the command's own %r" % (value, request, own)
        if words[0].upper() == b"XADD" and isinstance(value, bytes):
            self.recent[words[1]] = ([value] + self.recent.get(words[1], []))[:8]
        if near:
            time.sleep(self.rng.choice([0, 0.001, 0.01, 0.03]))  # an expiry may come between
        effect = self.tool.call("effect", now_ms(), BITS[self.f_kind], reply, probe_reply, *request)
        assert not isinstance(effect, RespError), effect
        shown = self.apply(request, reply, effect)
        keys = sorted(set(w for w in words[1:] if w in ALL_KEYS))
        if shown and words[1] == b"CREATECONSUMER":
            # An XCLAIM that claims nothing creates its consumer from 7.2 on, not on 7.0: the reply shows it, and the copy mends it.
            self.count("phantom")
            self.copy(words[2])
            shown = None
        if shown and near:
            # An expiry came between the two sides: the engine would make the keys dirty and copy them.
            self.count("near shown")
            for key in keys:
                self.copy(key)
            shown = None
        for key in keys:
            found = self.difference(key)
            if found and near:
                time.sleep(0.06)
                found = self.difference(key)
            shown = shown or found
        return shown and "%s\n  request %r\n  reply %r\n  effect %r" % (shown, request, reply, effect)


ALL_KEYS = set(k.encode() for k in effect_calls.ANY + effect_calls.NEAR + sum(effect_calls.TYPED.values(), []))


def refill(pair, calls):
    """Now and then a payload to RESTORE, and nothing left of what grew."""
    keys = list(ALL_KEYS)
    payload = next((p for p in pair.a.pipeline([("DUMP", k) for k in calls.rng.sample(keys, 8)]) if p), b"bad payload")
    calls.payload = payload
    for client in (pair.a, pair.f):
        client.call("DEL", *sorted(keys))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("authority,follower", PAIRS, ids=["%s-to-%s" % p for p in PAIRS])
def test_random_calls(standalone, tool_path, authority, follower):
    seed = int(os.environ.get("EFFECTS_SEED", random.randrange(1 << 32)))
    total = int(os.environ.get("EFFECTS_CALLS", 3000))
    # Small nodes, and other ones on the follower, so that ~ trims do something, and something else there.
    a = standalone(authority, conf={"stream-node-max-entries": 4})
    f = standalone(follower, conf={"stream-node-max-entries": 7})
    tool = Tool(tool_path)
    pair = Pair(tool, a, f, random.Random(seed + 1))
    calls = effect_calls.Calls(random.Random(seed), now_ms)
    differences = []
    print("seed %d" % seed)
    for i in range(total):
        if i % 700 == 699:
            refill(pair, calls)
        calls.recent = pair.recent
        words = calls.call()
        if words[0].upper() == b"RESTORE" and calls.near:
            continue
        found = pair.run(words, calls.near)
        if found:
            differences.append("call %d %r: %s" % (i, words, found))
            for key in ALL_KEYS:
                pair.copy(key)
            if len(differences) >= 8:
                break
    print(", ".join("%s %d" % c for c in pair.counts.items()))
    assert not differences, "seed %d:\n%s" % (seed, "\n".join(differences))
    tool.close()
