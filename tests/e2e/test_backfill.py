"""The backfill: everything is copied, nothing newer is overwritten, it obeys its limits and goes on where it was."""
import json
import random
import threading
import time

import pytest
from harness import Client, RespError, diff, key_slot
from harness.crossfade import built_with_faults
from harness.process import wait_until
from load import FAR_MS, Load, fill, fill_types

needs_faults = pytest.mark.skipif("not built_with_faults()", reason="a build without --enable-faults")


@pytest.fixture(scope="module")
def sides(servers):
    return servers.cluster("redis-7.0"), servers.cluster("valkey-9.1")


@pytest.fixture(scope="module")
def lone_sides(servers):
    return servers.standalone("redis-8.0"), servers.standalone("valkey-9.1")


@pytest.fixture
def lone(lone_sides):
    for side in lone_sides:
        side.flushall()
    return lone_sides


def copied(proxy):
    return proxy.status()["backfill"]["keys_copied"]


# ---- no key is overwritten by older data


class Overwriters:
    """Clients that overwrite, extend and delete keys of the backfill near the place where it copies just now.

    Each has a share of the keys of its own and remembers what each key holds."""

    def __init__(self, proxy, keys, clients=3, batch=20):
        self.proxy, self.batch, self.total = proxy, batch, len(keys)
        # Slots are copied in their order, on all nodes at once.
        order = sorted(keys, key=lambda k: key_slot(k) % 5461)
        self.shares = [order[i::clients] for i in range(clients)]
        self.holds = [{} for _ in range(clients)]
        self.errors, self.commands = [], 0
        self.at = 0.0  # how much is copied
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(i,), daemon=True) for i in range(clients)]
        self.threads.append(threading.Thread(target=self.watch, daemon=True))

    def watch(self):
        with Client(path=self.proxy.socket) as link:
            while not self.stop.wait(0.02):
                self.at = min(json.loads(link.call("PROXY", "STATUS"))["backfill"]["keys_copied"] / self.total, 1)

    def run(self, n):
        try:
            rng = random.Random(n)
            with Client(self.proxy.port, timeout=60) as link:
                while not self.stop.is_set():
                    self.step(link, rng, self.shares[n], self.holds[n], self.at)
        except Exception as e:  # noqa: B902
            self.errors.append(repr(e))

    def step(self, link, rng, keys, holds, at):
        commands = []
        for _ in range(self.batch):
            place = at + rng.gauss(0.02, 0.02)
            key = keys[int(min(max(place, 0), 0.9999) * len(keys))] if rng.random() < 0.9 else rng.choice(keys)
            what = rng.random()
            value = b"new%d" % rng.randrange(1 << 30)
            if what < 0.5:
                commands.append(("SET", key, value))
                holds[key] = value
            elif what < 0.75:
                commands.append(("DEL", key))
                holds[key] = None
            else:
                commands.append(("APPEND", key, "+"))
                holds[key] = (holds[key] if key in holds else old_value(key)) or b""
                holds[key] += b"+"
        replies = link.pipeline(commands)
        self.commands += len(commands)
        self.errors += [str(r) for r in replies if isinstance(r, RespError)]

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *exc):
        self.stop.set()
        for t in self.threads:
            t.join(60)

    def wrong(self, side):
        """Keys that a side does not hold as the clients left them."""
        bad = []
        for holds in self.holds:
            keys = list(holds)
            for k, got in zip(keys, side.pipeline([("GET", k) for k in keys])):
                if got != holds[k]:
                    bad.append((k, holds[k], got))
        return bad


def old_value(key):
    return b"v%s-".ljust(24, b".") % key.split(b":")[1]


def overwritten(source, target, crossfade, n, rate, fault=None, **config):
    """Copies n keys while clients overwrite them; returns what the target holds that is not the newest."""
    for at in range(0, n, 5000):
        source.pipeline([("SET", b"k:%d" % i, old_value(b"k:%d" % i)) for i in range(at, min(n, at + 5000))])
    config = dict({"backfill-keys-per-s": rate, "backfill-adaptive": False}, **config)
    proxy = crossfade(source, target, config=config, env={"CROSSFADE_FAULT": fault} if fault else {})
    with Overwriters(proxy, [b"k:%d" % i for i in range(n)]) as load:
        proxy.ctl("start")
        wait_until("the backfill ends", lambda: proxy.status()["backfill"]["state"] == "done", 60 + 3 * n / rate, 0.1)
    assert load.errors == [] and load.commands > 1000
    assert load.wrong(source) == []
    proxy.wait("synced,dirty=0,lag=0")
    return proxy, load.wrong(target), load.commands


def test_no_key_is_overwritten_by_older_data(pair, crossfade):
    source, target = pair
    proxy, wrong, _ = overwritten(source, target, crossfade, 30000, 7500)
    assert wrong == []
    assert diff(source, target) == []
    status = proxy.status()
    assert status["backfill"]["keys_retried"] > 0, "no copy ever met a write: the test tests nothing"
    assert status["mirror"]["mismatches"] == 0


@needs_faults
@pytest.mark.parametrize("fault", ["cas-off", "skip-if-exists"])
def test_without_compare_and_set_older_data_wins(pair, crossfade, fault):
    """The check above can fail: plain RESTORE REPLACE, and leaving alone what is there, both lose writes."""
    source, target = pair
    for _ in range(3):  # it is a matter of chance, though of good ones
        for side in pair:
            side.flushall()
        proxy, wrong, commands = overwritten(source, target, crossfade, 15000, 6000, fault=fault)
        print("%s: %d keys wrong after %d commands" % (fault, len(wrong), commands))
        if wrong:
            break
        proxy.term()
    assert wrong != []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_million_keys_under_load(pair, crossfade):
    source, target = pair
    proxy, wrong, _ = overwritten(source, target, crossfade, 1000000, 25000)
    assert wrong == [] and proxy.status()["backfill"]["keys_retried"] > 0
    proxy.ctl("verify", timeout=300)
    assert diff(source, target) == []


# ---- everything is carried


@pytest.mark.parametrize("kind", ["cluster", "standalone"])
def test_every_type_and_large_values(pair, lone, crossfade, kind):
    source, target = pair if kind == "cluster" else lone
    fill_types(source, many=10)
    fill(source, 500)
    source.call("SET", "large:s", "x" * 300000)
    source.call("RPUSH", "large:l", *["element %d" % i for i in range(20000)])
    source.call("HSET", "large:h", *[w for i in range(10000) for w in ("field%d" % i, "value %d" % i)])
    source.call("PEXPIREAT", "large:h", FAR_MS)
    source.call("SADD", "large:set", *["member%d" % i for i in range(10000)])
    source.call("ZADD", "large:z", *[w for i in range(10000) for w in (i / 7, "member%d" % i)])
    source.pipeline([("XADD", "large:x", "%d-1" % (i + 1), "f", "v" * 30) for i in range(3000)])
    source.call("XGROUP", "CREATE", "large:x", "g", "0")
    source.call("XREADGROUP", "GROUP", "g", "me", "COUNT", 200, "STREAMS", "large:x", ">")
    if kind == "standalone":
        source.call("HSET", "hf", "a", 1, "b", 2)
        source.call("HPEXPIREAT", "hf", FAR_MS, "FIELDS", 1, "a")
    proxy = crossfade(source, target, config={"large-value": "32kb"})
    proxy.ctl("start")
    proxy.wait("synced")
    assert diff(source, target) == []
    assert target.dbsize() == source.dbsize(), "a temporary key was left"
    status = proxy.status()["backfill"]
    assert status["keys_copied"] == status["keys_total"] == source.dbsize() and status["uncarried"] == 0 and status["bytes"] > 1000000
    proxy.ctl("verify")
    # and back, by type: the source is older
    proxy.ctl("cutover", "--yes")
    for key in ("large:h", "large:l", "large:set", "large:z", "large:x"):
        target.call("RENAME", key, "{%s}renamed" % key)
    target.call("HSET", "{large:h}renamed", "field5", "changed past the proxy")
    wait_until("the source has them, too", lambda: diff(source, target) == [], 15, 0.2)


def test_large_values_under_writes(pair, crossfade):
    """Chunks are read while the value changes: what arrives is whole, and it does arrive."""
    source, target = pair
    keys = {"h": ["HSET", lambda i: ("f%d" % i, i)], "z": ["ZADD", lambda i: (i, "m%d" % i)], "set": ["SADD", lambda i: ("m%d" % i,)],
            "l": ["RPUSH", lambda i: ("e%d" % i,)]}
    for key, (command, element) in keys.items():
        source.call(command, "big:" + key, *[w for i in range(8000) for w in element(i)])
    proxy = crossfade(source, target, config={"large-value": "16kb"})
    stop, errors, rounds = threading.Event(), [], [8000]

    def write():
        with proxy.connect(timeout=60) as link:
            while not stop.is_set():
                i = rounds[0] = rounds[0] + 1
                replies = link.pipeline([(c, "big:" + k) + e(i) for k, (c, e) in keys.items()] +
                                        [("HDEL", "big:h", "f%d" % (i - 8000)), ("SREM", "big:set", "m%d" % (i - 8000)), ("LPOP", "big:l")])
                errors.extend(str(r) for r in replies if isinstance(r, RespError))
                time.sleep(0.002)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    wait_until("writes go on", lambda: rounds[0] > 8001, 20)
    proxy.ctl("start")
    before = rounds[0]
    try:
        wait_until("the backfill ends", lambda: proxy.status()["backfill"]["state"] == "done", 20, 0.1)
        assert rounds[0] > before, "no chunk ever met a write"
    finally:
        stop.set()
        writer.join(60)
    proxy.wait("synced,dirty=0,lag=0")
    assert errors == []
    wait_until("no temporary key is left", lambda: target.dbsize() == 4, 5)
    assert diff(source, target) == []


def test_a_hot_key_does_not_starve(pair, crossfade):
    """One key is incremented without end: it is copied all the same, while that goes on."""
    source, target = pair
    fill(source, 2000)
    source.call("SET", "hot", 1000000)
    source.call("RPUSH", "hotlist", *range(200))
    proxy = crossfade(source, target)
    stop, count = threading.Event(), []

    def hammer(command, batch):
        n = 0
        with proxy.connect(timeout=60) as link:
            while not stop.is_set():
                assert not [r for r in link.pipeline([command] * batch) if isinstance(r, RespError)]
                n += batch
        count.append(n)

    threads = [threading.Thread(target=hammer, args=a, daemon=True) for a in ((("INCR", "hot"), 20), (("INCR", "hot"), 1), (("LMOVE", "hotlist", "hotlist", "LEFT", "RIGHT"), 5))]
    for t in threads:
        t.start()
    try:
        proxy.ctl("start")
        wait_until("the backfill ends under fire", lambda: proxy.status()["backfill"]["state"] == "done", 15, 0.05)
        wait_until("the hot key is on the target", lambda: target.call("EXISTS", "hot") and target.call("EXISTS", "hotlist"), 10)
        proxy.wait("synced", timeout=10)
        first = int(target.call("GET", "hot"))
        wait_until("it keeps up", lambda: int(target.call("GET", "hot")) > first + 100, 10)
    finally:
        stop.set()
        for t in threads:
            t.join(60)
    assert len(count) == 3
    proxy.wait("dirty=0,lag=0")
    assert diff(source, target) == []


# ---- pace


def rate(proxy, keys):
    """Keys per second while at least so many are copied: not more than that, however late this machine looks."""
    started = time.monotonic()
    first, now = copied(proxy), 0

    def more():
        nonlocal now
        now = copied(proxy)
        return now >= first + keys
    wait_until("%d more are copied" % keys, more, 60, 0.05)
    return (now - first) / (time.monotonic() - started)


def test_pause_resume_and_throttle(pair, crossfade):
    source, target = pair
    fill(source, 3000)
    proxy = crossfade(source, target, config={"backfill-keys-per-s": 300, "backfill-adaptive": False})
    proxy.ctl("start")
    wait_until("some are copied", lambda: copied(proxy) > 30, 10)
    assert rate(proxy, 300) < 400
    wait_until("it is told what holds it", lambda: proxy.status()["backfill"]["held_by"] == "keys-limit")
    proxy.ctl("pause")
    time.sleep(0.1)
    status = proxy.status()["backfill"]
    assert status["state"] == "paused"
    proxy.call("SET", "k:2999", "mirrored all the same")
    time.sleep(0.5)
    assert copied(proxy) == status["keys_copied"] and proxy.status()["backfill"]["held_by"] == "paused"
    assert target.call("GET", "k:2999") == b"mirrored all the same"
    proxy.ctl("throttle", "--keys-per-s", 1000)
    proxy.ctl("resume")
    assert rate(proxy, 700) < 1300
    proxy.ctl("throttle", "--bytes-per-s", 3000)
    time.sleep(0.3)
    first = copied(proxy)
    time.sleep(0.7)
    assert copied(proxy) - first < 300
    proxy.ctl("throttle", "--off")
    proxy.wait("synced", timeout=10)
    assert diff(source, target) == []


def test_adaptive_pace_gives_way_to_clients_only(pair, crossfade):
    source, target = pair
    fill(source, 6000)
    proxy = crossfade(source, target, config={"backfill-adaptive": True})
    over = threading.Event()

    def client():
        with Client(proxy.port, timeout=60) as c:
            while not over.is_set():
                c.pipeline([("GET", "k:%d" % i) for i in range(20)])
    thread = threading.Thread(target=client)
    thread.start()
    try:
        wait_until("the client works", lambda: proxy.status()["commands"] > 100)
        proxy.ctl("start")
        wait_until("it gives way", lambda: proxy.status()["backfill"]["held_by"] == "adaptive", 30, 0.05)
        before = copied(proxy)
        wait_until("it goes on all the same", lambda: copied(proxy) > before, 30, 0.05)
    finally:
        over.set()
        thread.join(60)
    proxy.wait("synced,dirty=0,lag=0")
    assert diff(source, target) == []


def test_bytes_per_second(lone, crossfade):
    """Never more bytes than the limit allows since the beginning, whatever was looked at when. What the keys weigh is known only when they
    were read: those that were on their way to be read at once come on top."""
    source, target = lone
    limit, size, keys = 2 << 20, 1000, 6000
    at_once = 1024 * size
    for i in range(0, keys, 1000):
        source.pipeline([["SET", "k:%d" % k, random.randbytes(size)] for k in range(i, i + 1000)])
    proxy = crossfade(source, target, config={"backfill-bytes-per-s": limit, "backfill-adaptive": False})
    held, looks = set(), 0
    started = time.monotonic()
    proxy.ctl("start")
    while True:
        backfill = proxy.status()["backfill"]
        # 15 % for names and framing, which count when the copy is written, not when the value is read
        assert backfill["bytes"] < 1.15 * (limit * (time.monotonic() - started + 0.1) + at_once), (backfill, time.monotonic() - started)
        held.add(backfill["held_by"])
        looks += 1
        if backfill["state"] == "done":
            break
        time.sleep(0.02)
    assert backfill["bytes"] > keys * size and backfill["keys_copied"] == keys
    assert "bytes-limit" in held or looks < 20, (held, looks)
    proxy.wait("synced,dirty=0")
    assert diff(source, target) == []


# ---- it goes on where it was


def dumps(side):
    """How many DUMPs its nodes have executed."""
    stats = [node.info("commandstats").get("cmdstat_dump", "calls=0,") for node in side.primaries()]
    return sum(int(s.split("calls=")[1].split(",")[0]) for s in stats)


@pytest.mark.parametrize("how", ["cluster", "standalone"])
def test_killed_in_the_middle_it_goes_on_from_its_checkpoint(pair, lone, crossfade, how):
    source, target = pair if how == "cluster" else lone
    n, rate = 12000, 4000
    fill(source, n)
    fill_types(source, many=2)
    # Where others may write past the proxy, all is compared again at the end, which reads what was copied.
    proxy = crossfade(source, target, config={"backfill-keys-per-s": rate, "backfill-adaptive": False, "bypassing-writers": False})
    proxy.ctl("start")
    with Load(proxy, clients=2) as load:
        wait_until("most is copied", lambda: copied(proxy) > 8500, 20)
    before = copied(proxy)
    proxy.kill()
    base = dumps(source)
    proxy.start()
    status = wait_until("it goes on", lambda: going_on(proxy), 10, 0.005)
    # A checkpoint is written every second: what it says is copied is not copied again.
    assert before - 1.5 * rate <= status["keys_copied"], (before, status)
    proxy.wait("synced", timeout=20)
    assert dumps(source) - base < n - before + 2 * rate, "keys are copied again"
    status = proxy.status()["backfill"]
    assert status["keys_copied"] >= n and status["state"] == "done"
    proxy.ctl("verify", "--repair", check=False)
    proxy.wait("dirty=0,lag=0")
    proxy.ctl("verify")
    assert diff(source, target) == []
    load.check(proxy, source, target)


def going_on(proxy):
    status = proxy.status()["backfill"]
    return status if status["state"] in ("running", "done") and status["keys_copied"] > 0 else None


def test_a_restart_after_the_end_copies_nothing(pair, crossfade):
    source, target = pair
    fill(source, 2000)
    proxy = crossfade(source, target, config={"bypassing-writers": False})  # else all is read again, to be compared
    proxy.ctl("start")
    proxy.wait("synced")
    proxy.ctl("verify")
    for flip in ("cutover", "rollback"):
        proxy.ctl(flip, "--yes")
        base = dumps(source), dumps(target)
        proxy.restart()
        proxy.wait("synced")
        wait_until("it has read its checkpoint", lambda: proxy.status()["backfill"]["state"] == "done", 5)
        assert (dumps(source), dumps(target)) == base


@pytest.mark.tsan
def test_quick_backfill(standalone, crossfade):
    source, target = standalone("redis-7.0"), standalone("valkey-9.1")
    fill(source, 2000)
    fill_types(source, many=1)
    proxy = crossfade(source, target, config={"backfill-keys-per-s": 500})  # not done before the pause comes
    with Load(proxy, clients=2) as load:
        proxy.ctl("start")
        proxy.ctl("pause")
        load.run_on(0.1)
        proxy.ctl("resume")
        proxy.wait("synced")
    proxy.wait("dirty=0,lag=0")
    assert diff(source, target) == []
