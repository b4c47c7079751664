"""The load of tools/demo: one small process per client, each with its own keys and model.

    load = Load(clients, connect…)    forks them, idle
    load.run()  load.hold()           let go; stop, and wait until all stand still
    load.check()                      every client reads all it owns and compares
    load.end()                        the results

The parent speaks with the children by shared memory (mode, state, counters) and gets
the results through a pipe at the end.
"""
import collections
import multiprocessing
import os
import random
import signal
import time

from harness.process import wait_until
from harness.resp import Client, Disconnected, ProtocolError, RespError
from harness.servers import first_key, key_slot

from . import keys as things_of

RUN, HOLD, CHECK, END = 1, 2, 3, 4
BUCKET_S = 0.01          # resolution of the longest waits
STEPS_PER_S = 2000       # of all clients together
KEEP_EXAMPLES = 20
_fork = multiprocessing.get_context("fork")


class Spoiled(Exception):
    """A reply was not what the model says; the object is given up."""


class Direct:
    """Connections straight to the nodes of a cluster (or to one server), by slot."""

    def __init__(self, slot_ports, protocol=2):
        self.slot_ports, self.protocol, self.open = slot_ports, protocol, {}

    def client_for(self, args):
        key = first_key(args)
        port = self.slot_ports[key_slot(key)] if key is not None else self.slot_ports[0]
        if port not in self.open:
            self.open[port] = Client(port, protocol=self.protocol, timeout=30)
        return self.open[port]

    def try_call(self, *args):
        return self.client_for(args).try_call(*args)

    def pipeline(self, commands):
        return [self.try_call(*c) for c in commands]

    def close(self):
        for client in self.open.values():
            client.close()


class Session:
    """One client: asks, checks, counts."""

    def __init__(self, name, connect, protocol, counters):
        self.name, self.connect, self.protocol = name, connect, protocol
        self.rng = random.Random(name)
        self.link = None
        self.counters = counters      # shared: commands, errors, wrong
        self.waits = {}               # bucket of the end -> longest wait in seconds
        self.examples = []
        self.scripts = {}
        self.ids = 0

    def word(self, kinds=None):
        return b"w%d" % (self.rng.randrange(kinds or 1000000))

    # ---- asking

    def exchange(self, count, action):
        """Runs action on the link, measures it, and turns a broken connection into an error."""
        start = time.monotonic()
        try:
            if self.link is None:
                self.link = self.connect()
            return action(self.link)
        except (OSError, Disconnected, ProtocolError, TimeoutError) as e:
            self.error("connection", "%s: %s" % (type(e).__name__, e))
            if self.link is not None:
                self.link.close()
                self.link = None
            raise Spoiled
        finally:
            end = time.monotonic()
            bucket = int(end / BUCKET_S)
            if end - start > self.waits.get(bucket, 0):
                self.waits[bucket] = end - start
            self.counters[0] += count

    def ask(self, *args):
        reply = self.exchange(1, lambda link: link.try_call(*args))
        if isinstance(reply, RespError):
            self.error(" ".join(str(a) for a in args[:2]), str(reply))
            raise Spoiled
        return reply

    def script(self, text):
        if text not in self.scripts:
            self.scripts[text] = self.ask("SCRIPT", "LOAD", text)
        return self.scripts[text]

    # ---- checking

    def error(self, command, text):
        self.counters[1] += 1
        self.note("error", command, text)

    def note(self, kind, command, text):
        if len(self.examples) < KEEP_EXAMPLES:
            self.examples.append("%s: %s (client %s): %s" % (kind, command, self.name, text))

    def require(self, fine, want, got, *args):
        if not fine:
            self.counters[2] += 1
            self.note("wrong", " ".join(str(a) for a in args)[:120], "expected %.200r, got %.200r" % (want, got))
            raise Spoiled

    def expect(self, want, *args):
        got = self.ask(*args)
        self.require(type(got) is type(want) and got == want, want, got, *args)

    def expect_all(self, wanted, commands):
        replies = self.exchange(len(commands), lambda link: link.pipeline(commands))
        for want, got, args in zip(wanted, replies, commands):
            if isinstance(got, RespError):
                self.error(" ".join(str(a) for a in args[:2]), str(got))
                raise Spoiled
            self.require(got == want, want, got, *args)

    def expect_set(self, want, *args):
        got = self.ask(*args)
        self.require(isinstance(got, set if self.protocol == 3 else list) and set(got) == want and len(got) == len(want), want, got, *args)

    def expect_map(self, want, *args):
        got = self.ask(*args)
        if self.protocol != 3 and isinstance(got, list):
            got = dict(zip(got[::2], got[1::2]))
        self.require(got == want, want, got, *args)

    def expect_float(self, want, *args):
        got = self.ask(*args)
        kind = float if self.protocol == 3 else bytes
        self.require(got is None if want is None else isinstance(got, kind) and float(got) == want, want, got, *args)

    def expect_scores(self, want, *args):
        got = self.ask(*args)
        if self.protocol == 3:
            pairs = [tuple(p) for p in got]
        else:
            pairs = [(m, float(x)) for m, x in zip(got[::2], got[1::2])]
        self.require(pairs == want, want, got, *args)

    def expect_streams(self, want, *args):
        got = self.ask(*args)
        if self.protocol != 3 and got is not None:
            got = {name: entries for name, entries in got}
        self.require(got == want, want, got, *args)


class Worker:
    """The child's side."""

    def __init__(self, index, session, owned, shared, pace_s, check_connect):
        self.index, self.s, self.owned = index, session, owned
        self.shared, self.pace_s, self.check_connect = shared, pace_s, check_connect

    def replaced(self, thing):
        """A new object for one whose key is in doubt."""
        self.s.ids += 1
        if isinstance(thing, (things_of.Bulk, things_of.LargeHash)):
            return thing
        return type(thing)("%s.%d" % (thing.key.split(".")[0], self.s.ids))

    def step(self):
        at = self.s.rng.randrange(len(self.owned))
        try:
            self.owned[at].step(self.s)
        except Spoiled:
            spoiled = self.owned[at]
            new = self.replaced(spoiled)
            self.owned = [new if t is spoiled else t for t in self.owned]

    def check(self):
        if self.check_connect:
            if self.s.link is not None:
                self.s.link.close()
            self.s.link, self.s.connect = None, self.check_connect
        for thing in dict.fromkeys(self.owned):
            try:
                thing.check(self.s)
            except Spoiled:
                self.shared.lost[self.index] += 1

    def run(self):
        parent = os.getppid()
        due = time.monotonic() + self.s.rng.random() * self.pace_s
        while os.getppid() == parent:
            mode = self.shared.mode[self.index]
            if mode == RUN:
                now = time.monotonic()
                if due > now:
                    time.sleep(min(due - now, 0.1))
                    continue
                due = max(due + self.pace_s * (0.5 + self.s.rng.random()), now - 1)
                self.step()
            elif mode == END:
                return
            else:
                if mode == CHECK and self.shared.state[self.index] != CHECK:
                    self.check()
                self.shared.state[self.index] = mode
                time.sleep(0.005)
                due = time.monotonic()
                continue
            self.shared.state[self.index] = mode


Shared = collections.namedtuple("Shared", "mode state lost counters")


def _child(index, make, shared, pipe):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    worker = make(index, shared)
    worker.run()
    pipe.send((worker.s.examples, worker.s.waits))
    pipe.close()


class Load:
    """count clients of the proxy at proxy_port, and one writer straight on the source if slot_ports is given."""

    def __init__(self, count, proxy_port, bulk_count, large_key=None, slot_ports=None):
        self.count, self.proxy_port, self.bulk_count = count, proxy_port, bulk_count
        self.large_key, self.slot_ports = large_key, slot_ports
        total = count + (1 if slot_ports else 0)
        self.all = range(total)
        self.proxied = range(count)
        self.direct = range(count, total)
        self.shared = Shared(_fork.RawArray("i", total), _fork.RawArray("i", total), _fork.RawArray("l", total),
                             [_fork.RawArray("l", 3) for _ in self.all])
        self.pipes, self.processes = [], []
        self.results = None
        for i in self.all:
            self.shared.mode[i] = HOLD
            ours, theirs = _fork.Pipe(False)
            p = _fork.Process(target=_child, args=(i, self._make, self.shared, theirs), daemon=True)
            p.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(p)

    def _make(self, index, shared):
        """In the child: its session and keys."""
        protocol = 3 if index % 2 else 2
        port = self.proxy_port

        def to_proxy():
            return Client(port, protocol=protocol, timeout=30)
        if index in self.direct:
            session = Session("direct", lambda: Direct(self.slot_ports, protocol), protocol, shared.counters[index])
            return Worker(index, session, things_of.direct_things("direct"), shared, 1 / 200, to_proxy)
        name = "client%d" % index
        session = Session(name, to_proxy, protocol, shared.counters[index])
        owned = things_of.client_things(name, self.bulk_count, self.large_key if index == 0 else None)
        return Worker(index, session, owned, shared, self.count / STEPS_PER_S, None)

    # ---- steering

    def _set(self, mode, which):
        for i in which:
            self.shared.mode[i] = mode

    def _reach(self, mode, which, timeout):
        self._set(mode, which)

        def there():
            for i in which:
                if not self.processes[i].is_alive():
                    raise RuntimeError("client process %d ended" % i)
            return all(self.shared.state[i] == mode for i in which)
        wait_until("all clients stand still", there, timeout)

    def run(self, which=None):
        self._set(RUN, self.all if which is None else which)

    def hold(self, which=None):
        self._reach(HOLD, self.all if which is None else which, 40)

    def check(self):
        """Everything each client owns is read and compared; the direct writer's keys through the proxy."""
        self.hold()
        self._reach(CHECK, self.all, 120)

    def commands(self):
        return sum(c[0] for c in self.shared.counters)

    def errors(self):
        return sum(c[1] for c in self.shared.counters)

    def wrong(self):
        return sum(c[2] for c in self.shared.counters)

    def lost(self):
        """Objects that were not as their client left them."""
        return sum(self.shared.lost)

    def end(self):
        """Ends the children; the examples of what went wrong, and the longest waits of the proxy's clients by bucket."""
        if self.results is None:
            self._set(END, self.all)
            examples, waits = [], {}
            for i, (pipe, process) in enumerate(zip(self.pipes, self.processes)):
                if pipe.poll(40):
                    some, own_waits = pipe.recv()
                    examples += some
                    for bucket, wait in (own_waits.items() if i in self.proxied else ()):
                        waits[bucket] = max(wait, waits.get(bucket, 0))
                process.join(5)
            self.results = examples, waits
            self.kill()
        return self.results

    def kill(self):
        for process in self.processes:
            if process.is_alive():
                process.kill()
                process.join()


def longest_wait(waits, start, end):
    """Of the requests that were answered between two moments; 0 if there were none."""
    return max((w for b, w in waits.items() if start <= b * BUCKET_S <= end), default=0)
