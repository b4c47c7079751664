"""Clients that write through a proxy and know every reply, while something happens to the servers.

    with Load(proxy, cluster) as load:
        move_slowly(cluster, key_slot("{m}"), dest, load)
"""
import threading
import time

from .process import wait_until
from .resp import RespError, encode


class Writer(threading.Thread):
    """Pipelines of commands whose every reply is known: counters, and a list of numbers in the order in which they were sent."""

    def __init__(self, proxy, number, tags, pair, batch):
        super().__init__(daemon=True)
        self.proxy, self.number, self.tags, self.pair, self.batch = proxy, number, tags, pair, batch
        self.rounds = 0
        self.problems = []
        self.ending = threading.Event()
        self.longest = 0

    def _key(self, name, tag):
        return "%s:%d:%s" % (name, self.number, tag)

    def _round(self, client):
        commands, check = [], []
        for i in range(self.batch):
            n = self.rounds * self.batch + i
            for tag in self.tags:
                commands.append(("INCR", self._key("n", tag)))
                check.append(n + 1)
                commands.append(("APPEND", self._key("log", tag), "%d," % n))
                check.append(None)
                commands.append(("INCR", "all:" + tag))
                check.append(None)
            if i % 5 == 0 and self.pair:
                tag = self.tags[0]
                commands.append(("MSET", self._key("a", tag), n, self._key("b", tag), n))
                check.append(b"OK")
                commands.append(("MGET", self._key("a", tag), self._key("b", tag)))
                check.append([b"%d" % n] * 2)
        at = time.monotonic()
        client.send_raw(b"".join(map(encode, commands)))
        for command, wanted in zip(commands, check):
            got = client.read(timeout=20)
            if isinstance(got, RespError):
                self.problems.append("%r: %s" % (command, got))
            elif wanted is not None and got != wanted:
                self.problems.append("%r: %r, not %r" % (command, got, wanted))
        self.longest = max(self.longest, time.monotonic() - at)

    def run(self):
        try:
            with self.proxy.connect(timeout=30) as client:
                while not self.ending.is_set() and not self.problems:
                    self._round(client)
                    self.rounds += 1
        except Exception as e:
            self.problems.append("after %d rounds: %r" % (self.rounds, e))

    def verify(self, server):
        for tag in self.tags:
            n = self.rounds * self.batch
            assert int(server.call("GET", self._key("n", tag))) == n
            assert server.call("GET", self._key("log", tag)).decode() == "".join("%d," % i for i in range(n)), "order, or something lost or doubled"


class Load:
    def __init__(self, proxy, server, clients=4, tags=("{m}",), pair=False, batch=20):
        self.server, self.tags = server, tags
        self.writers = [Writer(proxy, i, tags, pair, batch) for i in range(clients)]

    def __enter__(self):
        for w in self.writers:
            w.start()
        self.progress()
        return self

    def progress(self, rounds=2):
        """Until every client has done more."""
        before = [w.rounds for w in self.writers]
        wait_until("clients get on", lambda: any(w.problems for w in self.writers) or
                   all(w.rounds >= b + rounds for w, b in zip(self.writers, before)), 15)

    def __exit__(self, kind, *rest):
        for w in self.writers:
            w.ending.set()
        for w in self.writers:
            w.join(30)
        if kind is None:
            self.check()

    def check(self):
        problems = [p for w in self.writers for p in w.problems]
        assert not problems, "\n".join(problems[:10])
        for w in self.writers:
            w.verify(self.server)
        for tag in self.tags:
            assert int(self.server.call("GET", "all:" + tag)) == sum(w.rounds * w.batch for w in self.writers)


def redirects(cluster):
    """How many MOVED and ASK the nodes have answered."""
    count = {"MOVED": 0, "ASK": 0}
    for node in cluster.nodes:
        if node.running():
            for name, text in node.info("errorstats").items():
                if name[10:] in count:
                    count[name[10:]] += int(text.split("=")[1])
    return count


def move_slowly(cluster, slot, dest, load):
    """As resharding tools do, but so that each stage of it is met by the load."""
    src = cluster.slot_map(fresh=True)[slot]
    ids = {n: n.call("CLUSTER", "MYID") for n in (src, dest)}
    dest.call("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[src])
    src.call("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[dest])
    load.progress(1)
    while True:
        keys = src.call("CLUSTER", "GETKEYSINSLOT", slot, 7)
        if not keys:
            break
        src.call("MIGRATE", "127.0.0.1", dest.port, "", 0, 5000, "KEYS", *keys)
        time.sleep(0.003)
    load.progress(1)  # all keys are there, the slot is not
    for node in [dest, src] + [p for p in cluster.primaries() if p not in (src, dest)]:
        node.call("CLUSTER", "SETSLOT", slot, "NODE", ids[dest])
    cluster.slot_map(fresh=True)
    load.progress(1)
