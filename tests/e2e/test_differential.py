"""Random calls of every write command through the proxy, from several connections, in every phase; after each round both sides are equal
by value, expiry to the millisecond, groups and pending entries.

The servers are other ones every day (pairs.py). The seed is printed: DIFF_SEED=n repeats the calls (not their interleaving), DIFF_CALLS=n makes a
run longer.
"""
import os
import random
import threading
import time

import pytest
from compare import NEAR_MS, compare, functions, now_ms
from harness import RespError
from mirror_calls import BASES, MirrorCalls
from pairs import chosen, make, name_of

FIELD_TTL = ("redis-8.0", "valkey-9.1")
CONNECTIONS = 3
IN_MULTI = 2  # the connection that sends transactions
TAGS = 12  # that a round's calls go to
SLOW = {"backfill-keys-per-s": 1, "backfill-adaptive": False}
STAGES = ["source only", "backfill", "synced", "cutover", "rollback"]

CI_PAIRS, LONG_PAIRS = 3, 24


class Differential:
    def __init__(self, source, target, crossfade, total, rounds):
        self.source, self.target = source, target
        self.seed = int(os.environ.get("DIFF_SEED", random.randrange(1 << 32)))
        print("DIFF_SEED=%d" % self.seed)
        self.total = int(os.environ.get("DIFF_CALLS", total))
        self.counts = dict.fromkeys(STAGES, 0)
        self.errors = self.transactions = 0
        self.unsupported = set()
        self.commands = {}
        self.seconds = dict.fromkeys(STAGES, 0.0)
        field_expiry = source.kind in FIELD_TTL and target.kind in FIELD_TTL
        self.rounds = rounds = int(os.environ.get("DIFF_ROUNDS", rounds))
        # Each round before the copy is done has keys of its own, which the source alone has; the last group serves the rounds after it.
        self.groups = [list(range(i * TAGS, (i + 1) * TAGS)) for i in range(2 * rounds + 1)]
        tags = sum(self.groups, [])
        near = float(os.environ.get("DIFF_NEAR", 0.04))
        self.calls = [MirrorCalls(random.Random(self.seed + i), now_ms, tags, field_expiry, functions=i == 0, near_share=near) for i in range(CONNECTIONS)]
        filler = MirrorCalls(random.Random(self.seed - 1), now_ms, tags, field_expiry)
        self.source.pipeline(list(filler.fill()))
        self.proxy = crossfade(source, target, config=SLOW)
        self.history = []

    # ---- calls

    def transaction(self, calls, client, count):
        """As many calls in one MULTI, of one tag, whose keys a cluster has in one slot, or, where they may be scattered, of a few. (calls, replies)."""
        tags, calls.tags, calls.pending = calls.tags, calls.rng.sample(calls.tags, 3 if calls.scattered else 1), None
        commands = [calls.call() for _ in range(count)]
        calls.tags, calls.pending = tags, None
        replies = client.pipeline([["MULTI"]] + commands + [["EXEC"]])
        queued, result = replies[1:-1], replies[-1]
        if isinstance(result, RespError):  # one was refused when it was queued
            assert result.code == "EXECABORT" and any(isinstance(q, RespError) for q in queued), replies
            return commands, [q if isinstance(q, RespError) else result for q in queued]
        assert len(result) == count, replies
        self.transactions += 1
        return commands, result

    def run_one(self, index, client, count, batch):
        calls = self.calls[index]
        while count > 0:
            if index == IN_MULTI:
                commands, replies = self.transaction(calls, client, min(batch, count))
            else:
                commands = [calls.call() for _ in range(min(batch, count))]
                replies = client.pipeline(commands)
            count -= len(commands)
            for words, reply in zip(commands, replies):
                calls.note(words, reply)
                if isinstance(reply, RespError):
                    self.errors += 1
                    if "supported yet" in str(reply) or "crossfade" in str(reply).lower():
                        self.unsupported.add((words[0], str(reply)))
            self.history[index] += zip(commands, replies)

    def calls_from_all(self, stage, count):
        self.history = [[] for _ in self.calls]
        clients = [self.proxy.connect(timeout=30) for _ in self.calls]
        failed = []

        def work(i):
            try:
                self.run_one(i, clients[i], count // CONNECTIONS, [60, 25, 5][i % 3])
            except Exception as e:
                failed.append(e)
        threads = [threading.Thread(target=work, args=(i,)) for i in range(CONNECTIONS)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for c in clients:
            c.close()
        self.counts[stage] += count // CONNECTIONS * CONNECTIONS
        assert not failed, failed

    def renew(self, tags, fill):
        """The calls go to these tags; fill makes their keys anew, through the proxy."""
        for calls in self.calls:
            calls.tags, calls.recent, calls.pending = tags, {}, None
        if fill:
            filler = self.calls[0]
            self.proxy.pipeline([["DEL"] + [filler.named(b, t) for b in BASES] for t in tags])
            self.proxy.pipeline(list(filler.fill()))

    def round(self, stage, count, partial=False, reverse=False, final=False, group=-1):
        begun = time.monotonic()
        self.renew(self.groups[group], fill=not partial)
        authority, follower = (self.target, self.source) if reverse else (self.source, self.target)
        keys = list(authority.keys())
        payload = authority.call("DUMP", random.Random(self.seed).choice(keys)) if keys else None
        for calls in self.calls:
            calls.payload = payload or b"bad payload"
            # what clients of a cluster may not do they may not after a flip to a standalone server either
            calls.scattered = 0.15 if authority is self.source and len(authority.nodes) == 1 and len(follower.nodes) > 1 else 0
        self.calls_from_all(stage, count)
        self.proxy.wait("dirty=0,lag=0", timeout=30)
        if final:
            time.sleep(NEAR_MS / 1000)
        time.sleep(0.06)  # what lives for milliseconds is gone
        self.proxy.wait("dirty=0,lag=0", timeout=30)
        lines = compare(authority, follower, partial, final)
        views = functions(authority) + functions(follower)
        if any(v != views[0] for v in views):
            lines.append("functions: %r" % [sorted((k, hash(v)) for k, v in view.items()) for view in views])
        self.seconds[stage] += time.monotonic() - begun
        assert not lines, "DIFF_SEED=%d, %s, %d differences:\n%s" % (self.seed, stage, len(lines), "\n".join(self.explain(lines)))

    def explain(self, lines):
        """Each difference with the last calls of its key, of every connection (their order among each other is not known)."""
        for line in lines[:6]:
            yield line[:600]
            key = next((k for k in {w for h in self.history for c, _ in h for w in c[1:]} if line.startswith(repr(k) + ":")), None)
            for i, history in enumerate(self.history):
                for words, reply in [(c, r) for c, r in history if key in c][-12:]:
                    yield "   %d: %s -> %s" % (i, b" ".join(w[:60] for w in words[:14]), repr(reply)[:100])

    # ---- the phases

    def run(self):
        rounds = self.rounds
        count = self.total // (len(STAGES) * rounds)
        self.proxy.ctl("start")
        self.proxy.ctl("pause")
        for i in range(rounds):
            self.round("source only", count, partial=True, group=i)
        # so that some keys of every slot are copied behind the rounds
        self.proxy.ctl("throttle", "--keys-per-s", 300)
        self.proxy.ctl("resume")
        for i in range(rounds):
            self.round("backfill", count, partial=True, group=rounds + i)
        self.proxy.ctl("throttle", "--off")
        self.proxy.wait("synced,dirty=0")
        self.round("synced", 0)
        for i in range(rounds):
            self.round("synced", count, final=i == rounds - 1)
        self.verify()
        # what the other side has not got is among the calls, and proxyctl check says so
        self.proxy.ctl("cutover", "--yes", "--force")
        for i in range(rounds):
            self.round("cutover", count, reverse=True, final=i == rounds - 1)
        self.verify()
        self.proxy.ctl("rollback", "--yes", "--force")
        for i in range(rounds):
            self.round("rollback", count, final=i == rounds - 1)
        self.verify()
        self.report()

    def verify(self):
        result = self.proxy.ctl("verify", check=False)
        assert result.rc == 0, (self.seed, result)

    def report(self):
        mirror = self.proxy.status()["mirror"]
        print("DIFF_SEED=%d calls %s, errors %d, mirror %s, seconds %s" % (
            self.seed, self.counts, self.errors, mirror, {k: round(v, 1) for k, v in self.seconds.items()}))
        assert not self.unsupported, self.unsupported
        # The test is about effects: most must have gone as commands, and not all calls may have been errors.
        assert self.errors < 0.5 * sum(self.counts.values())
        assert self.transactions > sum(self.counts.values()) / CONNECTIONS / 5 / 4, self.transactions


# Small nodes, and other ones on the target, so that ~ trims do something, and something else there.
CONFS = [{"stream-node-max-entries": 4}, {"stream-node-max-entries": 7}]


@pytest.mark.timeout(150)
@pytest.mark.parametrize("pair", chosen(CI_PAIRS), ids=name_of)
def test_random_calls_in_every_phase(_factory, crossfade, pair):
    Differential(*make(_factory, pair, CONFS), crossfade, 8000, 3).run()


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("pair", chosen(LONG_PAIRS), ids=name_of)
def test_many_random_calls_in_every_phase(_factory, crossfade, pair):
    Differential(*make(_factory, pair, CONFS), crossfade, 100000, 10).run()
