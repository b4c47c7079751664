"""The follower is gone or hangs; slots flip there and back; a rollback after writes on the target."""
import random
import threading
import time

from harness import RespError
from harness.process import frozen, wait_until
from harness.resp import ProtocolError, encode

from .clients import Load
from .row import Row
from .world import Broken, require, rss_mb

GONE_S, GONE_QUICK_S = 60, 4
QUEUE_MB = 8


def gone(ctx):
    """The target's nodes are killed, or hang, while clients write; they come back, empty if they were killed."""
    world, rng = ctx.world, ctx.rng
    seconds = GONE_QUICK_S if ctx.quick else GONE_S
    proxy = world.fresh(keys=3000, config={"mirror-queue-max": "%dmb" % QUEUE_MB, "dirty-keys-max": rng.choice([1000, 100000]), "workers": 2})
    kill = ctx.unit % 2 == 0
    with Load(proxy, ctx.seed, pause_s=0.001) as load:
        world.synced(verify=False)
        load.more(400)
        before = peak = rss_mb(proxy)
        nodes = world.target.primaries()
        until = time.monotonic() + seconds
        if kill:
            for node in nodes:
                node.kill()
                node.drop()
            while time.monotonic() < until:
                load.more(20)
                peak = max(peak, rss_mb(proxy))
            for node in nodes:
                node.start(wait=False)
            for node in nodes:
                node.wait_ready()
        else:
            with frozen(nodes):
                while time.monotonic() < until:
                    load.more(20)
                    peak = max(peak, rss_mb(proxy))
        world.target.wait_ok(60)
        back = time.monotonic()
        load.more(100)
        load.quiet()
        figures = world.judge(load, timeout=60)
        rest_s = time.monotonic() - back
        if load.lost_links or load.unknown:
            raise Broken("clients noticed: %d connections lost, %d writes of unknown outcome" % (load.lost_links, load.unknown))
        room = before + 2 * 2 * QUEUE_MB + 64
        if peak > room or rss_mb(proxy) > room:
            raise Broken("memory: %.0f MB before, at most %.0f, %.0f after; the limits allow %.0f" % (before, peak, rss_mb(proxy), room))
        return {"rest_s_max": figures["rest_s"], "equal_after_s_max": round(rest_s, 1), "rss_before_mb_max": round(before), "rss_mb_max": round(peak),
                "longest_ms_max": round(load.longest_s * 1000), "acknowledged": load.acknowledged()}


# ---- an hour

HOUR_KEYS = 5000
GROWTH_MB, REST_MB = 8, 48  # from the second quarter of the outage to its last; what the allocator may keep of the queues' memory at the end
SAMPLES = 40


class Hammer(threading.Thread):
    """As many writes as one connection takes, over keys whose number and size have an end."""

    def __init__(self, proxy, seed):
        super().__init__(daemon=True)
        self.proxy, self.rng, self.ending, self.writes, self.wrong = proxy, random.Random(seed), threading.Event(), 0, []

    def command(self):
        n, v = self.rng.randrange(HOUR_KEYS), "v%d" % self.rng.randrange(10 ** 9)
        return self.rng.choice((("SET", "hour:s:%d" % n, v * 20), ("INCR", "hour:n:%d" % n), ("HSET", "hour:h:%d" % n, "f%s" % v[-1], v), ("APPEND", "hour:a:%d" % n, v), ("DEL", "hour:a:%d" % n),
                                ("SET", "hour:e:%d" % n, v, "PX", 2000), ("MSET", "hour:m:%d" % n, v, "hour:m:%d" % (n + 1), v), ("SADD", "hour:t:%d" % n, v[-2:])))

    def run(self):
        ready = [b"".join(encode(self.command()) for _ in range(50)) for _ in range(400)]
        try:
            with self.proxy.connect(timeout=30) as c:
                while not self.ending.is_set() and not self.wrong:
                    c.send_raw(self.rng.choice(ready))
                    self.wrong += [r for r in (c.read() for _ in range(50)) if isinstance(r, RespError)]
                    self.writes += 50
        except (OSError, ProtocolError) as e:
            self.wrong.append(e)


def hour(ctx):
    """So many minutes (a unit is all of them) without a target, under all the load that the machine gives; memory all the while."""
    world, rng = ctx.world, ctx.rng
    proxy = world.fresh(keys=3000, config={"mirror-queue-max": "%dmb" % QUEUE_MB, "dirty-keys-max": rng.choice([1000, 100000]), "workers": 2})
    hammers, series = [Hammer(proxy, "%s/%d" % (ctx.seed, i)) for i in range(2)], []
    with Load(proxy, ctx.seed, clients=2, pause_s=0.2) as load:
        world.synced(verify=False)
        for h in hammers:
            h.start()
        time.sleep(5)
        before, nodes = rss_mb(proxy), world.target.primaries()
        for node in nodes:
            node.kill()
            node.drop()
        for _ in range(SAMPLES):
            time.sleep(60 * ctx.amount / SAMPLES)
            series.append(rss_mb(proxy))
        for node in nodes:
            node.start(wait=False)
        for node in nodes:
            node.wait_ready()
        world.target.wait_ok(60)
        for h in hammers:
            h.ending.set()
            h.join(60)
            require(h.wrong, "errors that clients saw")
        figures = world.judge(load, timeout=300)
        after, quarter = rss_mb(proxy), SAMPLES // 4
        growth = max(series[-quarter:]) - max(series[quarter:2 * quarter])
        text = "before %.0f MB; %s; at rest %.0f MB" % (before, " ".join("%.0f" % x for x in series), after)
        if growth > GROWTH_MB or after > before + REST_MB or max(series) > before + 2 * 2 * QUEUE_MB + 64:
            raise Broken("memory: " + text)
        return {"rss_before_mb_max": round(before), "rss_mb_max": round(max(series)), "growth_mb_max": round(growth, 1), "rss_after_mb_max": round(after), "rest_s_max": figures["rest_s"],
                "writes": sum(h.writes for h in hammers), "acknowledged": load.acknowledged()}


FLIPS = 10


def flips(ctx):
    """There and back, again and again, with a random load; the first after a backfill under writes."""
    world, rng = ctx.world, ctx.rng
    keys = 12000
    proxy = world.fresh(keys=keys, config={"workers": rng.choice([1, 2, 3]), "backfill-keys-per-s": 12000, "backfill-adaptive": False})
    pauses = []
    with Load(proxy, ctx.seed, clients=rng.choice([3, 6]), pause_s=rng.choice([0.0005, 0.003]), batch=rng.choice([6, 30]), over=keys) as load:
        world.synced()
        for i in range(FLIPS):
            pauses.append(world.flip("rollback" if i % 2 else "cutover")["pause_max_ms"])
            load.more(rng.randrange(10, 60))
        if load.lost_links or load.unknown:
            raise Broken("clients noticed: %d connections lost, %d writes of unknown outcome" % (load.lost_links, load.unknown))
        world.judge(load)
        return {"pause_ms_list": pauses, "acknowledged": load.acknowledged(), "longest_ms_max": round(load.longest_s * 1000)}


def rollback(ctx):
    """Everything that was written on the target is on the source when it answers again."""
    world, rng = ctx.world, ctx.rng
    proxy = world.fresh(keys=400)
    with Load(proxy, ctx.seed, noisy=0.8) as load:
        world.synced()
        for _ in range(2):
            world.flip("cutover")
            load.more(rng.randrange(150, 400))
            if rng.random() < 0.3:
                proxy.restart(kill=rng.random() < 0.5)
                load.more(50)
            world.judge(load)
            world.flip("rollback")
            load.more(rng.randrange(20, 80))
            world.judge(load)
            wait_until("the verify of the next cutover", lambda: proxy.ctl("verify", check=False).rc == 0, 60, 0.1)
        return {"acknowledged": load.acknowledged()}


ROWS = [
    Row("gone", "target gone for 60 s under load", "0 client errors, memory bounded, equal again within 60 s", 20, 2, gone),
    Row("hour", "target gone for an hour under full load (in minutes)", "0 client errors, memory ends where it began", 60, 0, hour, each=60),
    Row("flips", "flip under load, there and back", "0 lost, per-key linearizable, distribution of pauses printed", 1000, 20, flips, each=FLIPS),
    Row("rollback", "rollback after writes on the target", "equal, expiries, groups and pending entries included", 200, 2, rollback, each=2),
]
