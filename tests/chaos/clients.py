"""Clients that write while faults happen, and a log of what each was told.

    load = Load(proxy, seed, clients=4)
    with load:
        …
        load.quiet()            # every client has ended what it was at; nobody sends
        problems = load.check(authority)
        load.go()

Keys whose history is checked are those of history.py, with tokens that occur once. Beside them goes noise: commands of every kind of effect whose results are compared on both sides, but of
which the clients remember nothing. A connection that breaks is made anew, as applications do.
"""
import collections
import random
import threading
import time

from harness import Client, RespError
from harness.process import wait_until
from harness.resp import ProtocolError, encode

from .history import MAYBE, OK, REFUSED, Op, check_counter, check_log, check_log_failover, check_register

UNKNOWN = "UNKNOWN"
KEYS = 6
READERS = {"list": lambda k: ("LRANGE", k, 0, -1), "text": lambda k: ("GET", k), "counter": lambda k: ("GET", k), "register": lambda k: ("GET", k)}
WRITERS = {"list": lambda k, t: ("RPUSH", k, t), "text": lambda k, t: ("APPEND", k, t + b";"), "counter": lambda k, t: ("INCR", k), "register": lambda k, t: ("SET", k, t)}


def value_of(kind, reply):
    """A read's reply as history.py has it."""
    if kind == "text":
        return (reply or b"").split(b";")[:-1]
    if kind == "counter":
        return int(reply or 0)
    return reply


def noise(rng, n):
    """One command, or a few, of any kind of effect."""
    key = lambda kind: "%s:%d" % (kind, rng.randrange(12))  # noqa: E731
    e, x, s = key("e"), key("x"), key("s")
    return rng.choice([
        lambda: [("HSET", key("h"), "f%d" % rng.randrange(20), n)], lambda: [("HDEL", key("h"), "f%d" % rng.randrange(20))],
        lambda: [("SADD", s, n % 40)], lambda: [("SREM", s, n % 40)], lambda: [("SPOP", s)],
        lambda: [("ZINCRBY", key("z"), 1.5, n % 15)], lambda: [("ZPOPMIN", key("z"))], lambda: [("INCRBYFLOAT", key("f"), 0.1)],
        lambda: [("SET", e, n, "PX", rng.choice([40, 3000, 5000000]))], lambda: [("PEXPIRE", e, 4000000)], lambda: [("PERSIST", e)],
        lambda: [("SET", key("e"), n, "EX", 9000), ("APPEND", e, n)], lambda: [("DEL", key("h"), key("z"))],
        lambda: [("XADD", x, "MAXLEN", 60, "*", "f", n)], lambda: [("XGROUP", "CREATE", x, "g", "0", "MKSTREAM")],
        lambda: [("XREADGROUP", "GROUP", "g", "c%d" % (n % 3), "COUNT", 3, "STREAMS", x, ">")],
        lambda: [("XAUTOCLAIM", x, "g", "c0", 0, "-", "COUNT", 2)], lambda: [("XTRIM", x, "MAXLEN", 30)],
        lambda: [("RPUSH", "q:{q}", n), ("RPOPLPUSH", "q:{q}", "r:{q}"), ("LTRIM", "r:{q}", 0, 30)],
        lambda: [("EVAL", "redis.call('hincrby', KEYS[1], 'n', 1) return redis.call('pexpire', KEYS[1], 5000000)", 1, key("h"))],
        lambda: [("MULTI",), ("INCR", "m:{m}1"), ("RPUSH", "m:{m}2", n), ("LTRIM", "m:{m}2", -9, -1), ("EXEC",)],
        lambda: [("MSET", key("w"), n, key("w"), n + 1)], lambda: [("SETRANGE", key("t"), n % 50, n)], lambda: [("SETBIT", key("b"), n % 500, n % 2)],
        lambda: [("GETDEL", key("w"))], lambda: [("COPY", "{c}1", "{c}2", "REPLACE"), ("SET", "{c}1", n, "PX", 700000)]])()


# What noise may be answered without anything being wrong: it does not look what is there.
FAIR = ("BUSYGROUP", "NOGROUP", "WRONGTYPE")


class Load:
    """kinds: which keys are written. over: so many of the keys that World.fresh has put there are written to, too, as a backfill meets them. noisy: the share of noise."""

    def __init__(self, proxy, seed, clients=4, kinds=("list", "text", "counter", "register"), noisy=0.4, pause_s=0.002, batch=6, name="a", over=0):
        self.over = over
        self.proxy, self.seed, self.kinds, self.noisy, self.pause_s, self.batch, self.name = proxy, seed, list(kinds), noisy, pause_s, batch, name
        self.ops = collections.defaultdict(list)  # (kind, key) -> [Op], each client appends its own
        self.errors = collections.Counter()       # error replies, other than of noise that is fair
        self.unknown = self.lost_links = self.answered = self.lost = 0
        self.longest_s = 0.0
        self.crashed = []
        self._ending, self._quiet = threading.Event(), threading.Event()
        self._parked = set()
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(clients)]

    def __enter__(self):
        for t in self._threads:
            t.start()
        return self

    def __exit__(self, *exc):
        self._ending.set()
        for t in self._threads:
            t.join(90)

    # ---- a client

    def _run(self, i):
        rng = random.Random("%s/client %d" % (self.seed, i))
        try:
            while not self._ending.is_set():
                try:
                    with Client(self.proxy.port, timeout=60) as link:
                        while not self._ending.is_set():
                            self._rest(i)
                            self._step(link, rng, i)
                            time.sleep(self.pause_s * rng.random() * 2)
                except (OSError, ProtocolError):
                    self.lost_links += 1
                    self._rest(i)
                    self._ending.wait(0.02)
        except Exception as e:  # noqa: B902 (told by check)
            self.crashed.append("client %d: %r" % (i, e))

    def _rest(self, i):
        while self._quiet.is_set() and not self._ending.is_set():
            self._parked.add(i)
            time.sleep(0.003)
        self._parked.discard(i)

    def _plan(self, rng, i):
        """(command, kind of key, Op or None)."""
        plan = []
        for _ in range(rng.randrange(1, self.batch + 1)):
            if rng.random() < self.noisy:
                plan += [(c, None, None) for c in noise(rng, rng.randrange(1000000))]
                continue
            if self.over and rng.random() < 0.6:
                key = "k:%d" % rng.randrange(self.over)
                plan += [(("SET", key, rng.getrandbits(40)), None, None)] * rng.choice([1, 1, 1, 0]) + [(("APPEND", key, "+"), None, None)] * rng.choice([0, 0, 1])
                continue
            kind = rng.choice(self.kinds)
            key = "%s:%s:%d" % (self.name, kind, rng.randrange(KEYS))
            token = b"%d.%d.%x" % (i, len(plan), rng.getrandbits(48))
            write = rng.random() < 0.75
            op = Op(i, "write" if write else "read", token if write else None, 0)
            self.ops[kind, key].append(op)
            plan.append((WRITERS[kind](key, token) if write else READERS[kind](key), kind, op))
        return plan

    def _step(self, link, rng, i):
        plan = self._plan(rng, i)
        begin = time.monotonic()
        for _, _, op in plan:
            if op:
                op.begin = begin
        link.send_raw(b"".join(encode(c) for c, _, _ in plan))
        for command, kind, op in plan:
            reply = link.read(timeout=60)
            now = time.monotonic()
            self.longest_s = max(self.longest_s, now - begin)
            self.answered += 1
            if isinstance(reply, RespError):
                self._error(command, op, reply, now)
            elif op:
                op.done(OK, value_of(kind, reply) if op.kind == "read" else self._place(kind, op, reply), now)

    @staticmethod
    def _place(kind, op, reply):
        """A text's reply is a length in bytes, told from the final value (check)."""
        return ("bytes", reply) if kind == "text" else reply

    def _error(self, command, op, reply, now):
        unknown = reply.code == UNKNOWN or UNKNOWN in str(reply)
        if unknown:
            self.unknown += 1
        elif op or reply.code not in FAIR:
            self.errors[str(reply)] += 1
        if op:
            op.done(MAYBE if unknown else REFUSED, None, now)

    # ---- from outside

    def quiet(self, timeout=90):
        self._quiet.set()
        wait_until("the clients have ended what they were at", lambda: len(self._parked) == len(self._threads) or self.crashed, timeout, 0.005)

    def go(self):
        self._quiet.clear()

    def more(self, n=60, timeout=90):
        """Until n more commands were answered."""
        base = self.answered
        wait_until("the clients go on", lambda: self.answered >= base + n or self.crashed, timeout, 0.005)

    def acknowledged(self):
        return sum(op.outcome == OK and op.kind == "write" for ops in self.ops.values() for op in ops)

    def finals(self, side):
        keys = list(self.ops)
        replies = side.pipeline([READERS[kind](key) for kind, key in keys])
        return {k: value_of(k[0], r) for k, r in zip(keys, replies)}

    def check(self, side, failed_over=None):
        """What the histories and `side` contradict each other in. Only while it is quiet. failed_over: {key of a list: what the promoted replica held}, and since when."""
        problems, now = list(self.crashed), time.monotonic()
        bases, at_s = failed_over or ({}, 0)
        self.lost = 0
        for (kind, key), final in self.finals(side).items():
            ops = self.ops[kind, key]
            if key in bases:
                found, lost = check_log_failover(ops, final, bases[key], at_s)
                self.lost += lost
            elif kind == "counter":
                found = check_counter(ops, final)
            elif kind == "register":
                found = check_register(ops, final, now)
            else:
                found = check_log(self._placed(ops, final) if kind == "text" else ops, final)
            problems += ["%s: %s" % (key, p) for p in found]
        return problems

    @staticmethod
    def _placed(ops, final):
        """Lengths in bytes become positions; a length at which no token ends becomes none."""
        ends, at = {}, 0
        for i, token in enumerate(final):
            at += len(token) + 1
            ends[at] = i + 1
        for op in ops:
            if op.outcome == OK and isinstance(op.value, tuple):
                op.value = ends.get(op.value[1], op.value)
        return ops
