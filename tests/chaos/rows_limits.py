"""Keys that live for milliseconds, clients that do not read, connections that come and go."""
import contextlib
import random
import resource
import socket
import threading
import time

from harness import Client, RespError
from harness.certs import Certs
from harness.process import frozen, wait_until
from harness.resp import ProtocolError, encode

from .clients import Load
from .row import Row
from .world import Broken, open_files, require, rss_mb

EXPIRING, QUICK_EXPIRING = 2500, 600  # keys a unit
BUILDERS = (lambda k, n: ("INCR", k), lambda k, n: ("SADD", k, n), lambda k, n: ("HSET", k, "f%d" % (n % 5), n))


def expiring(world, rng, name, keys, failed):
    """Each key gets 1 to 50 ms again and again, and is written to all the while: in the very millisecond in which it ends, and after, when a write makes another one that has no end."""
    try:
        with world.proxy.connect(timeout=30) as client:
            for first in range(0, keys, 25):
                batch = [("%s:%d" % (name, first + i), rng.choice(BUILDERS)) for i in range(25)]
                for _ in range(3):
                    commands = [c for key, build in batch for c in (build(key, rng.randrange(100)), ("PEXPIRE", key, rng.randrange(1, 51)))]
                    for _ in range(rng.randrange(4, 16)):
                        wrong = [r for r in client.pipeline(commands) if isinstance(r, RespError)]
                        assert not wrong, wrong[:3]
                        commands = [build(key, rng.randrange(100)) for key, build in rng.sample(batch, 20)]
    except Exception as e:  # noqa: B902 (told below)
        failed.append(e)


def lasting(world):
    """Keys of the unit that are there and have not expired, on any side."""
    found = {}
    for side in world.sides:
        for key, (_, _, expiry) in side.digest(match="x*").items():
            found.setdefault(key, []).append(expiry)
    return found


def expiries(ctx):
    world, rng = ctx.world, ctx.rng
    keys = QUICK_EXPIRING if ctx.quick else EXPIRING
    phase = rng.choice(["backfill", "synced", "synced", "cutover"])
    proxy = world.fresh(keys=300, config={"backfill-keys-per-s": 200 if phase == "backfill" else 0, "mirror-tracking": rng.random() < 0.5})
    proxy.ctl("start")
    if phase != "backfill":
        proxy.wait("synced", timeout=60)
    if phase == "cutover":
        world.verify()
        world.flip("cutover")
    failed = []
    threads = [threading.Thread(target=expiring, args=(world, random.Random("%s/%d" % (ctx.seed, i)), "x%d" % i, keys // 4, failed), daemon=True) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(300)
    require(failed, "writers")
    world.rest()
    world.equal(*world.sides)
    born = lasting(world)
    proxy.pipeline([("PEXPIRE", key, rng.randrange(1, 51)) for key in born])
    try:
        wait_until("everything has expired", lambda: not lasting(world), 3, 0.05)
    except TimeoutError:
        require(["%r: expires at %s" % (k, e) for k, e in lasting(world).items()], "immortal or resurrected keys")
    return {"keys": keys, "born_again": len(born), "in_" + phase: 1}


# ---- clients that do not read

OUTPUT_MB = 1


def ask_and_sleep(proxy, times):
    """A connection whose kernel keeps little, so that the proxy has to: half of them stay below the limit."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.settimeout(20)
    s.connect(("127.0.0.1", proxy.port))
    s.sendall(encode(("GET", "big")) * times)
    return s


def deaf(ctx):
    """They ask and never read, while the follower hangs: each is cut off at its limit, and the mirror's queue has one, too."""
    world, rng = ctx.world, ctx.rng
    clients = 100 if ctx.quick else 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    proxy = world.fresh(keys=100, config={"client-output-max": "%dmb" % OUTPUT_MB, "mirror-queue-max": "8mb", "workers": 2})
    world.synced(verify=False)
    proxy.call("SET", "big", "x" * 60000)
    with Load(proxy, ctx.seed, pause_s=0.01) as load:
        load.more(100)
        before = peak = rss_mb(proxy)
        with contextlib.ExitStack() as stack:
            stack.enter_context(frozen(world.target.primaries()))
            for _ in range(clients):
                stack.enter_context(contextlib.closing(ask_and_sleep(proxy, rng.randrange(5, 40))))
                load.more(2)  # at a pace that the servers bear
                peak = max(peak, rss_mb(proxy))
            until = time.monotonic() + (2 if ctx.quick else 20)
            while time.monotonic() < until:
                load.more(20)
                peak = max(peak, rss_mb(proxy))
        world.judge(load)
        limit = before + clients * OUTPUT_MB + 2 * 2 * 8 + 64
        if peak > limit:
            raise Broken("memory: %.0f MB with %d clients that do not read; the limits allow %.0f" % (peak, clients, limit))
        if load.lost_links or load.unknown:
            raise Broken("others noticed: %d connections lost, %d writes of unknown outcome" % (load.lost_links, load.unknown))
        return {"rss_before_mb_max": round(before), "rss_mb_max": round(peak), "limit_mb_max": round(limit), "longest_ms_max": round(load.longest_s * 1000)}


# ---- churn

MINUTE_S, QUICK_S = 60, 4


def comer(proxy, certs, tls_port, rng, until, counts, failed):
    """Connects, asks, and goes: in order, in the middle of a request, with RST, in the middle of a transaction, as a subscriber."""
    context = certs.context()
    try:
        while time.monotonic() < until:
            tls = rng.random() < 0.4
            c = Client(tls_port if tls else proxy.port, timeout=20, tls=context if tls else None, protocol=rng.choice([2, 3]))
            way = rng.randrange(6)
            c.call("INCR", "churn")
            if way == 1:
                c.send_raw(b"*3\r\n$3\r\nSET\r\n$1\r\n")
            elif way == 2:
                c.call("MULTI")
                c.call("GET", "k:1")
            elif way == 3:
                c.send("SUBSCRIBE", "news")
            elif way == 4:
                c.send("BLPOP", "nothing", 5)
            (c.reset if way == 5 and not tls else c.close)()
            counts[tls] += 1
    except (OSError, ProtocolError, RespError) as e:
        failed.append(repr(e))


def churn(ctx):
    """A minute of it (a unit); what the first seconds took is the measure."""
    world = ctx.world
    seconds = QUICK_S if ctx.quick else MINUTE_S
    certs = Certs()
    certs.make("server")
    try:
        with contextlib.closing(certs):
            return churned(ctx, world, certs, seconds)
    finally:
        world.proxy.drop()


def churned(ctx, world, certs, seconds):
    from harness import ports
    port = ports.reserve()
    proxy = world.fresh(keys=100, config={"tls-port": int(port), "tls-cert-file": certs.crt("server"), "tls-key-file": certs.key("server"),
                                          "tls-ca-cert-file": certs.ca, "tls-auth-clients": "no"})
    world.synced(verify=False)
    counts, failed = [0, 0], []

    def wave(s, n):
        until = time.monotonic() + s
        threads = [threading.Thread(target=comer, args=(proxy, certs, int(port), random.Random("%s/%d/%d" % (ctx.seed, n, i)), until, counts, failed), daemon=True) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(s + 60)

    def only(n):
        return open_files(proxy) <= n
    idle = open_files(proxy)
    wave(min(5, seconds / 2), 0)
    wait_until("the connections are closed (%d open before, %d now)" % (idle, open_files(proxy)), lambda: only(idle + 2), 10)
    files, rss = open_files(proxy), rss_mb(proxy)
    wave(seconds, 1)
    require(failed, "connections that failed")
    try:
        wait_until("closed", lambda: only(files), 10)
    except TimeoutError:
        raise Broken("file descriptors: %d before, %d after" % (files, open_files(proxy)))
    port.release()
    if rss_mb(proxy) > rss + 8:
        raise Broken("memory: %.1f MB before, %.1f after %d connections" % (rss, rss_mb(proxy), sum(counts)))
    return {"plain": counts[0], "tls": counts[1], "rss_growth_mb_max": round(rss_mb(proxy) - rss, 2)}


ROWS = [
    Row("expiries", "expiries of 1 to 50 ms with INCR, SADD, HSET", "no immortal, no resurrected key", 100000, 2500, expiries, each=EXPIRING),
    Row("deaf", "1,000 clients that do not read, stalled follower", "RSS under the configured limit", 10, 1, deaf),
    Row("churn", "churn of connections, TLS and plain, an hour (in minutes)", "no growth of file descriptors or memory", 60, 1, churn),
]
