"""The proxy dies: in any phase, at any moment, and at every step of a flip."""
import contextlib
import threading
import time

from harness.process import frozen

from .clients import Load
from .row import Row
from .world import Broken, require

PHASES = ("proxy", "backfill", "backfill", "synced", "synced", "cutover", "cutover", "flip", "rollback", "finished")
# Crash points of flip.c and state.c, in the order in which a flip passes them, and who is the authority after each: "old" or "new".
STEPS = (("record-before-rename", "old"), ("record-after-rename", "old"), ("flip-fencing", "old"), ("flip-settling", "old"), ("flip-before-record", "old"),
         ("record-before-commit", "old"), ("record-after-commit", "new"), ("flip-after-record", "new"), ("flip-releasing", "new"), ("flip-done", "new"),
         ("record-settling", "new"))


def asks(proxy, *args):
    """proxyctl in the background: the proxy will die of it, or with it."""
    t = threading.Thread(target=lambda: proxy.ctl(*args, check=False, timeout=60), daemon=True)
    t.start()
    return t


def bring(ctx, load, phase):
    """Into the phase in which it is to be killed; returns the thread of a command that runs meanwhile, or None."""
    world, proxy, rng = ctx.world, ctx.world.proxy, ctx.rng
    if phase == "proxy":
        return None
    if phase == "backfill":
        asks(proxy, "start")
        time.sleep(rng.random() * 0.5)  # anywhere between mirror and the end of the copying
        return None
    world.synced(verify=phase != "synced")
    if phase in ("cutover", "rollback", "finished"):
        world.flip("cutover")
        load.more(30)
    if phase == "finished":
        proxy.wait("dirty=0,lag=0")
        proxy.ctl("finish", "--yes")
    if phase in ("flip", "rollback"):
        t = asks(proxy, "cutover" if phase == "flip" else "rollback", "--yes")
        time.sleep(rng.random() * 0.08)
        return t
    return None


def kill_and_recover(ctx, load, phase):
    """Killed at a moment of its own, with a follower that hangs meanwhile or not; started again on the same state."""
    world, proxy, rng = ctx.world, ctx.world.proxy, ctx.rng
    with contextlib.ExitStack() as stack:
        if phase in ("synced", "cutover") and rng.random() < 0.7:
            stack.enter_context(frozen(world.sides[1].primaries()))
            load.more(40)
        time.sleep(rng.random() * 0.15)
        proxy.kill()
    proxy.start()
    load.more(40)


def killed(ctx):
    world, rng = ctx.world, ctx.rng
    phase = rng.choice(PHASES)
    config = {"bypassing-writers": rng.random() < 0.35, "workers": rng.choice([1, 2, 3]), "journal-fsync": rng.choice(["no", "no", "everysec"]),
              "backfill-keys-per-s": 2000, "backfill-adaptive": False}
    if not config["bypassing-writers"]:
        config["mirror-tracking"] = rng.random() < 0.5  # without it nothing but journal and replies tell
    keys = 800
    proxy = world.fresh(keys=keys, config=config)
    with Load(proxy, ctx.seed, over=keys) as load:
        load.more()
        running = bring(ctx, load, phase)
        for _ in range(rng.choice([1, 1, 2])):
            kill_and_recover(ctx, load, phase)
        if running:
            running.join(60)
        if phase == "backfill" and proxy.status()["phase"] == "proxy":  # killed before the start was recorded
            proxy.ctl("start")
        figures = world.judge(load, mirrored=phase not in ("proxy", "finished"))
        return dict(figures, rest_s_max=figures.pop("rest_s"), acknowledged=load.acknowledged(), unknown=load.unknown, **{"in_" + phase: 1})


def step_killed(ctx):
    """Every step, there and back, in an order in which a few units meet early and late ones."""
    world, rng = ctx.world, ctx.rng
    nth = ctx.unit * 7 % (2 * len(STEPS))
    point, who = STEPS[nth // 2]
    command = ("cutover", "rollback")[nth % 2]
    proxy = world.fresh(keys=200, config={"bypassing-writers": rng.random() < 0.5})
    with Load(proxy, ctx.seed) as load:
        world.synced()
        if command == "rollback":
            world.flip("cutover")
        old = proxy.status()["authority"]
        new = "source" if old == "target" else "target"
        world.arm(point)
        proxy.restart(kill=rng.random() < 0.3 and not point.startswith("record"))  # an unclean end writes a record at the start
        load.more(20)
        world.rest()
        until = time.monotonic() + 40
        while proxy.running() and time.monotonic() < until:  # one that takes too long is undone before it comes so far
            proxy.ctl(command, "--yes", "--wait", 20, "--force", check=False)  # force: a verify writes a record, too, and would die of it
        if proxy.running():
            raise Broken("%s of a %s is never reached" % (point, command))
        world.arm(None)
        proxy.start()
        if proxy.status()["authority"] != (new if who == "new" else old):
            raise Broken("killed at %s: the %s answers" % (point, proxy.status()["authority"]))
        load.more(60)
        figures = world.judge(load)
        only_authority(load, world)
        return {"rest_s_max": figures["rest_s"], "acknowledged": load.acknowledged()}


def only_authority(load, world):
    """What was told is what the recorded authority has; who is no authority executes no client's command (histories would show it as lost)."""
    status = world.proxy.status()
    require([] if status["authority"] in ("source", "target") else [status["authority"]], "not exactly one authority")
    load.quiet()
    require(load.check(world.proxy), "what clients are told now contradicts what they were told")
    load.go()


ROWS = [
    Row("killed", "proxy killed with SIGKILL, all phases", "0 differing keys after recovery, 0 acknowledged writes lost", 200, 4, killed),
    Row("steps", "killed at every step of a flip (%d steps, there and back)" % len(STEPS), "exactly one authority, nothing lost", 20 * 2 * len(STEPS), 4, step_killed),
]
