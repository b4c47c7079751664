"""The same stream to a server and to the proxy in front of servers of that kind: the bytes of the replies, in every phase, RESP2 and RESP3.

Every command that the server knows, in forms right and wrong, onto keys of every type, then random ones. REPLY_SEED=n gives others, REPLY_CALLS=n
makes a run longer (the random ones; 40000 others come first). What the proxy answers or merges itself is compared by shape (test_local.py has the fields), what it refuses is refused in the table's words.
"""
import collections
import os
import random

import pytest
from reply_bytes import Wire, equal_enough
from reply_calls import NAMES, Calls, fill, keys_of, rows_of

PHASES = ["proxy", "mirror", "backfill", "cutover"]
TAGS = [str(i) for i in range(8)]
BATCH = 150
CALLS = int(os.environ.get("REPLY_CALLS", 60000))
SLOW = {"backfill-keys-per-s": 1, "backfill-adaptive": False}
# They change what a connection is or gets, end it, or are about the whole server; other tests look at them.
STATE = {"auth", "hello", "quit", "reset", "select", "subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe", "sunsubscribe", "monitor",
         "client", "multi", "exec", "discard", "watch", "unwatch", "wait", "waitaof", "flushall", "flushdb", "swapdb", "move", "acl", "config", "debug",
         "shutdown", "replicaof", "slaveof", "failover", "sync", "psync", "replconf", "script|kill", "function|kill", "publish", "spublish"}
# Their output is said to be nondeterministic, and the state that they leave is not.
SETTLED = {"xclaim", "xautoclaim"}
# Depends on the process and on what it did before: memory of a value, the use of a key.
PROCESS = {"memory", "object|freq", "object|idletime", "lolwut", "slowlog", "latency", "commandlog", "lastsave", "role", "module"}
# Valkey 9.1 takes half of MSETEX's keys for all of them when it looks for their slots; the proxy refuses what it would let through.
MISREAD = {"msetex"}
NO_BLOCK = b"-ERR crossfade: the BLOCK option is not available yet\r\n"


class Two:
    """A server on one hand, the proxy on the other, one connection of each protocol to both."""

    def __init__(self, direct, proxy, cluster, seed):
        self.direct, self.proxy, self.cluster = direct, proxy, cluster
        self.rng = random.Random(seed)
        self.rows = rows_of(direct)
        self.differences, self.count = {}, 0
        self.recent = collections.defaultdict(lambda: collections.deque(maxlen=5))  # of each key: (words, reply, reply)
        self.wires = {p: (Wire(direct.port, p), Wire(proxy.port, p)) for p in (2, 3)}
        shas = []
        for script in [b"return redis.call('get', KEYS[1])", b"return redis.call('incr', KEYS[1])"]:
            shas.append(direct.call("SCRIPT", "LOAD", script))
            assert proxy.call("SCRIPT", "LOAD", script) == shas[-1]
        direct.call("SET", "payload", "a value")
        self.calls = Calls(self.rng, direct.call("DUMP", "payload"), shas)
        direct.call("DEL", "payload")

    def close(self):
        for pair in self.wires.values():
            for wire in pair:
                wire.close()

    # ---- what is sent

    def is_state(self, row):
        return row.name in STATE or row.name.split("|")[0] in STATE

    def is_undefined(self, words):
        """By name where scores differ: what comes depends on the levels that the server's skip list drew by lot."""
        return b"lex" in words[0].lower() or any(w.lower() == b"bylex" for w in words)

    def plain(self):
        return [r for r in self.rows if r.policy in ("forward", "split") and not self.is_state(r)]

    def is_alone(self, row):
        """Over all nodes: not ordered with what goes to one of them."""
        return self.cluster and row.policy == "fanout"

    def is_volatile(self, row, words):
        """The keys may hold something else on either side now."""
        if not row.write or "nondeterministic_output" not in row.tips or row.name in SETTLED:
            return False
        return row.name != "xadd" or b"*" in words

    # ---- sending

    def run(self, proto, items, phase):
        """items: (row, words, keys). Differences are noted, and their keys emptied on both sides."""
        stream = []
        for row, words, keys in items:
            if self.is_undefined(words):
                continue
            stream.append((row, words, keys))
            if keys and self.is_volatile(row, words):
                stream.append((None, [b"DEL"] + list(dict.fromkeys(keys)), ()))
        a, b = self.wires[proto]
        for wire in (a, b):
            wire.send(*[words for _, words, _ in stream])
        spoiled = set()
        for (row, words, keys), x, y in zip(stream, a.read(len(stream)), b.read(len(stream))):
            before = {k: list(self.recent[k]) for k in keys} if x != y else {}
            for k in keys or words[1:] if row is None else keys:
                self.recent[k].append((words, x, y))
            self.count += row is not None
            if spoiled.intersection(keys):  # whatever it answers: what it wrote came of that
                spoiled.update(keys)
            elif row is not None and not equal_enough(row, words, x, y):
                spoiled.update(keys)
                if self.is_allowed(row, words, x, y):
                    continue
                self.differences.setdefault((row.name, x[:12].split(b"\r")[0], y[:24].split(b"\r")[0]), (phase, proto, words, x[:300], y[:300], before))
        if spoiled:
            for side in (self.direct, self.proxy):
                side.client.pipeline([["DEL", k] for k in spoiled])

    def is_allowed(self, row, words, x, y):
        """A difference for a reason. What the call wrote is forgotten all the same."""
        if row.name.split("|")[0] in PROCESS or (row.far and (b"GT" in words or b"LT" in words)):  # …than an expiry of some milliseconds before
            return x[:1] == y[:1]
        if row.policy == "split" and x.startswith(b"-CROSSSLOT ") and y[:1] == b"-":  # of several slots, which the proxy would serve, and wrong, too
            return True
        return row.name in MISREAD and y.startswith(b"-CROSSSLOT ") or b"BLOCK" in words and y == NO_BLOCK or row.name == "copy" and b"DB" in words

    def renew(self):
        """The same keys on both sides. The proxy gets them through itself, in every phase."""
        for tag in TAGS:
            for side in (self.direct, self.proxy):
                side.client.pipeline([["DEL"] + keys_of(tag)] + fill(tag))

    def every_command(self, phase, share):
        """Each command: arities that are wrong, then calls onto keys of every type."""
        for row in self.plain():
            self.renew_one("1")
            items = [(row, list(row.words) + [b"x"] * n, ()) for n in range(0, abs(row.arity) + 2 - len(row.words) + 1)]
            if row.far or row.blocking:
                items = items[:abs(row.arity) - len(row.words)]
            for kind in NAMES:
                for _ in range(share):
                    words = self.calls.call(row, kind, "1")
                    items.append((row, words, list(self.calls.keys)))
            self.run(self.rng.choice((2, 3)), items, phase)

    def renew_one(self, tag):
        for side in (self.direct, self.proxy):
            side.client.pipeline([["DEL"] + keys_of(tag)] + fill(tag))

    def random_calls(self, phase, count):
        plain = [r for r in self.plain() if not r.blocking]
        while count > 0:
            items = []
            while len(items) < BATCH:
                row = self.rng.choice(plain)
                words = self.calls.call(row)
                if self.rng.random() < 0.08 and not row.blocking:
                    words = self.calls.spoiled(words, self.cluster)
                items.append((row, words, list(self.calls.keys)))
            self.run(self.rng.choice((2, 3)), items, phase)
            count -= len(items)
            if self.rng.random() < 0.2:
                self.renew()

    def report(self):
        lines = ["%d calls, %d differences" % (self.count, len(self.differences))]
        for (name, _, _), (phase, proto, words, x, y, before) in sorted(self.differences.items(), key=lambda d: d[0]):
            lines.append("%s (%s, RESP%d): %s\n    server  %r\n    proxy   %r" % (name, phase, proto, b" ".join(w[:60] for w in words[:20]), x, y))
            lines += ["        before, %r: %s -> %r, %r" % (k, b" ".join(w[:40] for w in e[0][:16]), e[1][:40], e[2][:40]) for k in before for e in before[k]]
        return "\n".join(lines)


def to_phase(proxy, phase):
    if phase == "mirror":
        proxy.ctl("start")
        proxy.ctl("pause")
    elif phase == "backfill":
        proxy.ctl("throttle", "--keys-per-s", 200)
        proxy.ctl("resume")
    elif phase == "cutover":
        proxy.ctl("throttle", "--off")
        proxy.wait("synced,dirty=0")
        proxy.ctl("cutover", "--yes", "--force")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("shape, kind", [("standalone", "redis-7.0"), ("cluster", "valkey-9.1")])
def test_replies_are_the_servers(servers, shape, kind):
    seed = int(os.environ.get("REPLY_SEED", 20261125))
    print("REPLY_SEED=%d" % seed)
    cluster = shape == "cluster"
    direct = servers.cluster(kind, shards=1).nodes[0] if cluster else servers.standalone(kind)
    source, target = (servers.cluster(kind, shards=n) if cluster else servers.standalone(kind) for n in (3, 2))
    proxy = servers.crossfade(source, target, config=SLOW)
    two = Two(direct, proxy, cluster, seed)
    for phase in PHASES:
        to_phase(proxy, phase)
        two.renew()
        two.every_command(phase, 2)
        two.random_calls(phase, CALLS // 2 // len(PHASES))
    two.close()
    print(two.report())
    assert not two.differences, "REPLY_SEED=%d\n%s" % (seed, two.report())
