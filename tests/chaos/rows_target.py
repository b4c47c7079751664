"""The follower is gone or hangs; slots flip there and back; a rollback after writes on the target."""
import time

from harness.process import frozen, wait_until

from .clients import Load
from .row import Row
from .world import Broken, rss_mb

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


FLIPS = 10


def flips(ctx):
    """There and back, again and again, with a random load; the first after a backfill under writes."""
    world, rng = ctx.world, ctx.rng
    keys = 3000
    proxy = world.fresh(keys=keys, config={"workers": rng.choice([1, 2, 3]), "backfill-keys-per-s": 4000, "backfill-adaptive": False})
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
    Row("flips", "flip under load, there and back", "0 lost, per-key linearizable, distribution of pauses printed", 1000, 20, flips, each=FLIPS),
    Row("rollback", "rollback after writes on the target", "equal, expiries, groups and pending entries included", 200, 2, rollback, each=2),
]
