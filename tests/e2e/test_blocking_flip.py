"""Clients that wait, while the data changes sides, writers pass by, and servers go: nothing is lost, nothing comes twice."""
import collections
import threading

import pytest
from harness import diff
from harness.process import wait_until
from harness.resp import encode
from test_blocking import blocked, finish, park

WORKERS = 100
PUSHERS = 4


@pytest.fixture(scope="module")
def pair(servers):
    return servers.standalone("redis-7.0"), servers.cluster("valkey-9.1")


@pytest.fixture
def sides(pair):
    for side in pair:
        side.flushall()
    return pair


class Queue:
    """A hundred workers on one queue, some by each command; pushers that count what they pushed until they are told to stop."""

    POPS = [("BLPOP", "{q}jobs", 0), ("BRPOP", "{q}none", "{q}jobs", 0), ("BLMPOP", 0, 1, "{q}jobs", "LEFT", "COUNT", 3), ("BLMOVE", "{q}jobs", "{q}done", "LEFT", "RIGHT", 0)]

    def __init__(self, proxy):
        self.proxy, self.stop, self.failed = proxy, threading.Event(), []
        self.taken, self.moved, self.pushed = collections.Counter(), collections.Counter(), [0] * PUSHERS
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.guard, args=(self.work, i)) for i in range(WORKERS)]
        self.pushers = [threading.Thread(target=self.guard, args=(self.push, i)) for i in range(PUSHERS)]
        for thread in self.threads + self.pushers:
            thread.start()

    def guard(self, run, i):
        try:
            with self.proxy.connect(timeout=90) as client:
                run(client, i)
        except Exception as e:  # told to the test, which fails
            self.failed.append("%s %d: %r" % (run.__name__, i, e))
            self.stop.set()

    def work(self, client, i):
        pop = self.POPS[i % len(self.POPS)]
        while True:
            reply = client.call(*pop)
            jobs = [reply] if pop[0] == "BLMOVE" else reply[1] if pop[0] == "BLMPOP" else [reply[1]]
            with self.lock:
                self.taken.update(job for job in jobs if job != b"end")
                if pop[0] == "BLMOVE":
                    self.moved.update(jobs)
            if b"end" in jobs:  # there are as many as workers: what is too much here is another's
                surplus = ["end"] * (jobs.count(b"end") - 1)
                if surplus:
                    client.call("RPUSH", "{q}jobs", *surplus)
                return

    def push(self, client, i):
        while not self.stop.is_set():
            n = self.pushed[i]
            client.call("RPUSH", "{q}jobs", *["%d:%d" % (i, n + k) for k in range(n % 4 + 1)])
            self.pushed[i] += n % 4 + 1
            self.stop.wait(0.002)

    def run_on(self, jobs=200):
        wanted = sum(self.pushed) + jobs
        wait_until("jobs flow", lambda: sum(self.pushed) >= wanted or self.failed, 60, 0.01)
        assert not self.failed, self.failed[:3]

    def end(self):
        self.stop.set()
        for thread in self.pushers:
            thread.join(60)
        self.proxy.call("RPUSH", "{q}jobs", *["end"] * WORKERS)
        for thread in self.threads:
            thread.join(60)
        assert not self.failed, self.failed[:3]
        assert not any(thread.is_alive() for thread in self.threads), "%d workers still wait" % sum(t.is_alive() for t in self.threads)


def test_a_queue_through_three_flips(sides, crossfade):
    source, target = sides
    proxy = crossfade(source, target)
    queue = Queue(proxy)
    try:
        queue.run_on()
        proxy.ctl("start")
        proxy.wait("synced")
        for command in ("cutover", "rollback", "cutover"):
            queue.run_on()
            proxy.ctl("verify", check=False)
            proxy.ctl(command, "--yes", "--wait", 30)
            queue.run_on()
    finally:
        queue.end()
    pushed = {b"%d:%d" % (i, n) for i in range(PUSHERS) for n in range(queue.pushed[i])}
    assert set(queue.taken) == pushed, (len(pushed), len(set(queue.taken)), list(pushed - set(queue.taken))[:5])
    assert max(queue.taken.values()) == 1, "delivered twice: %r" % [job for job, n in queue.taken.items() if n > 1][:5]
    assert collections.Counter(proxy.call("LRANGE", "{q}done", 0, -1)) == queue.moved
    assert proxy.call("LLEN", "{q}jobs") == 0
    proxy.wait("dirty=0,lag=0")
    assert diff(source, target) == []


def test_who_waits_over_a_flip_is_served_on_the_new_side(sides, crossfade):
    source, target = sides
    proxy = crossfade(source, target, config={"workers": 1})
    proxy.ctl("start")
    proxy.wait("synced")
    proxy.ctl("verify")
    with proxy.connect() as a, proxy.connect() as b, proxy.connect() as x:
        park(proxy, a, "BLPOP", "one", "two", 0)  # of two slots of the cluster to come
        park(proxy, b, "BZPOPMIN", "z", 0)
        park(proxy, x, "XREAD", "BLOCK", 0, "STREAMS", "s", "$")
        # the mirror's watch tells of those who write past the proxy
        source.call("RPUSH", "two", "bypass")
        assert finish(a) == encode(["two", "bypass"])
        park(proxy, a, "BLPOP", "one", "two", 0)
        proxy.wait("dirty=0,lag=0")
        proxy.ctl("verify")
        proxy.ctl("cutover", "--yes", "--wait", 30)
        assert blocked(proxy) == 3
        proxy.call("RPUSH", "two", "after")
        assert finish(a) == encode(["two", "after"])
        target.node_for("z").call("ZADD", "z", 1, "m")
        assert finish(b) == b"*3\r\n$1\r\nz\r\n$1\r\nm\r\n$1\r\n1\r\n"
        proxy.call("XADD", "s", "7-7", "f", "v")
        assert b"7-7" in finish(x)
    proxy.wait("dirty=0,lag=0")
    assert diff(source, target) == []


@pytest.mark.parametrize("tracking", [True, False])
def test_a_bypassing_writer_wakes_while_mirroring(sides, crossfade, tracking):
    source, target = sides
    proxy = crossfade(source, target, config={"mirror-tracking": tracking})
    proxy.ctl("start")
    proxy.wait("synced")
    with proxy.connect() as a:
        for i in range(3):
            park(proxy, a, "BRPOP", "q", 0)
            source.call("RPUSH", "q", "x%d" % i)
            assert finish(a) == encode(["q", "x%d" % i])


def test_a_server_that_comes_back(standalone, crossfade):
    server = standalone("valkey-9.1")
    proxy = crossfade(server)
    with proxy.connect() as a, proxy.connect() as b:
        park(proxy, a, "BLPOP", "q", 0)
        park(proxy, b, "BLPOP", "q", 0)
        server.restart()
        assert blocked(proxy) == 2
        server.call("RPUSH", "q", "past")
        assert finish(a, 30) == encode(["q", "past"])
        wait_until("the proxy is connected", lambda: proxy.client.try_call("RPUSH", "q", "through") == 1, 30, 0.05)
        assert finish(b, 30) == encode(["q", "through"])
