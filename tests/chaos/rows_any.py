"""Anything after anything: a walk through the phases with faults at random moments of it (tools/chaos --minutes)."""
import collections
import contextlib
import os
import random
import time

from harness.process import frozen, wait_until
from harness.reshape import reshard, slots_of
from harness.resp import ProtocolError

from .clients import Load
from .row import Row
from .rows_cluster import Mover, promote, replica_of
from .rows_proxy import asks
from .world import PASSWORD, USER, Broken

KEYS = 1200
STEPS = (2, 5)  # faults a unit
UNITS_A_WORLD = 6  # making one takes a while
SLOWLY = {"key-load-delay": 1500, "loading-process-events-interval-bytes": 1024}  # us a key; it says LOADING meanwhile


class Walk:
    """One unit. `told` is the story, for who reads of a failure; a fault leaves everything running again."""

    def __init__(self, ctx, load, users):
        self.users, self.played = users, collections.Counter()
        self.ctx, self.world, self.rng, self.load, self.told = ctx, ctx.world, ctx.rng, load, []

    @property
    def proxy(self):
        return self.world.proxy

    def side(self):
        return self.rng.choice([self.world.source, self.world.target])

    def name(self, side):
        return "source" if side is self.world.source else "target"

    def say(self, text, *args):
        self.told.append(text % args)

    # ---- faults

    def kill_proxy(self):
        self.say("proxy killed in %s", self.proxy.status()["phase"])
        self.proxy.kill()
        self.proxy.start()

    def restart_proxy(self):
        self.say("proxy restarted")
        self.proxy.restart()

    def hang(self):
        side = self.side()
        nodes = side.primaries()
        nodes = nodes if self.rng.random() < 0.3 else [self.rng.choice(nodes)]
        seconds = self.rng.random() * 2
        self.say("%d nodes of the %s hang for %.2f s", len(nodes), self.name(side), seconds)
        with frozen(nodes):
            time.sleep(seconds)
            if self.rng.random() < 0.3:
                self.say("proxy killed meanwhile")
                self.proxy.kill()
        if not self.proxy.running():
            self.proxy.start()

    def cut(self):
        """Connections are reset in the middle of whatever they carry."""
        side = self.side()
        node = self.rng.choice(side.primaries())
        self.say("connections of %s killed", node.name)
        node.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def move(self):
        side = self.side()
        by_itself = side is self.world.target and self.rng.random() < 0.5
        slots = self.rng.sample(range(16384), 2)
        self.say("slots %s of the %s move%s", slots, self.name(side), " by MIGRATESLOTS" if by_itself else "")
        mover = Mover(side, slots, self.rng, by_itself)
        mover.join(120)
        if mover.is_alive() or mover.wrong:
            raise Broken("a slot could not be moved: %r" % (mover.wrong,))

    def failover(self):
        """In order: nobody loses anything, so nothing may be lost."""
        side = self.side()
        primary = self.rng.choice(side.primaries())
        replica = replica_of(side, primary)
        self.say("%s hands over to %s", primary.name, replica.name)
        replica.call("CLUSTER", "FAILOVER")
        with contextlib.suppress(TimeoutError):  # it may not have caught up in time, and then nothing happens
            promote(side, primary, replica, False)
        side.wait_ok(60)

    def flip(self):
        status = self.proxy.status()
        if status["phase"] not in ("synced", "cutover"):
            return self.say("no flip in %s", status["phase"])
        command = "cutover" if status["authority"] == "source" else "rollback"
        if command == "cutover":
            self.world.verify()
        self.say(command)
        self.world.flip(command)

    def killed_flip(self):
        status = self.proxy.status()
        if status["phase"] not in ("synced", "cutover"):
            return self.say("no flip in %s", status["phase"])
        command = "cutover" if status["authority"] == "source" else "rollback"
        self.say("%s, and the proxy killed in it", command)
        t = asks(self.proxy, command, "--yes", "--force", "--wait", 1)
        time.sleep(self.rng.random() * 0.1)
        self.proxy.kill()
        t.join(60)
        self.proxy.start()

    def hang_in_flip(self):
        """A node of either side hangs in the middle of a flip, which ends or is undone."""
        status = self.proxy.status()
        if status["phase"] not in ("synced", "cutover"):
            return self.say("no flip in %s", status["phase"])
        side, command = self.side(), "cutover" if status["authority"] == "source" else "rollback"
        node = self.rng.choice(side.primaries())
        self.say("%s, and %s hangs in it", command, node.name)
        t = asks(self.proxy, command, "--yes", "--force", "--wait", 1)
        time.sleep(self.rng.random() * 0.02)
        with frozen([node]):
            time.sleep(self.rng.random() * 1.5)
        t.join(60)

    def partial_flip(self):
        """Some slots first; then all of them, or all back."""
        if self.proxy.status()["phase"] != "synced":
            return self.say("no partial cutover in %s", self.proxy.status()["phase"])
        self.world.verify()
        first = self.rng.randrange(8000)
        self.say("cutover of slots %d-%d", first, first + 8000)
        try:
            self.world.flip("cutover", "--slots", "%d-%d" % (first, first + 8000))
        except Broken as e:
            if "flip all at once" in str(e):  # an expired key that is written to behind a script looks like a script's undeclared key (engine_strays.c)
                return self.say("refused")
            raise
        self.load.more(60)
        if self.rng.random() < 0.5:
            self.world.verify()
            self.say("cutover of the rest")
            self.world.flip("cutover")
        else:
            self.say("rollback")
            self.world.flip("rollback")

    def set_for_a_while(self, what, name, value, usual):
        side = self.side()
        nodes = [self.rng.choice(side.primaries())] if self.rng.random() < 0.5 else side.primaries()
        seconds = self.rng.random() * 2
        self.say("%d nodes of the %s %s for %.2f s", len(nodes), self.name(side), what, seconds)
        for node in nodes:
            node.call("CONFIG", "SET", name, value)
        time.sleep(seconds)
        for node in nodes:
            node.call("CONFIG", "SET", name, usual)

    def full(self):
        self.set_for_a_while("are full (OOM)", "maxmemory", "1mb", "0")

    def refuse_writes(self):
        self.set_for_a_while("refuse writes (NOREPLICAS)", "min-replicas-to-write", "9", "0")

    def down(self):
        """A slot that nobody serves: the nodes that know of it say CLUSTERDOWN."""
        side, slot = self.side(), self.rng.randrange(16384)
        node = side.slot_map(fresh=True)[slot]
        seconds = self.rng.random() * 0.5
        self.say("slot %d of the %s is nobody's for %.2f s", slot, self.name(side), seconds)
        node.call("CLUSTER", "DELSLOTS", slot)
        time.sleep(seconds)
        node.call("CLUSTER", "ADDSLOTS", slot)
        side.wait_ok(60)

    def storm(self):
        """Many slots at once."""
        side = self.side()
        src, dest = self.rng.sample(side.primaries(), 2)
        slots = slots_of(side, src)
        at = self.rng.randrange(max(1, len(slots) - 40))
        run = [s for s in slots[at:at + 40] if s - slots[at] < 40]
        self.say("%d slots of the %s move at once", len(run), self.name(side))
        reshard(side, run, src, dest)

    def load_data(self):
        """Its clients are cut off, then refused, then told LOADING; nothing is lost."""
        side = self.side()
        node = self.rng.choice(side.primaries())
        self.say("%s of the %s is shut down and loads its data", node.name, self.name(side))
        node.drop()
        with contextlib.suppress(OSError, ProtocolError), node.connect(timeout=30) as c:
            c.call("SHUTDOWN", "SAVE")
        wait_until("%s has ended" % node.name, lambda: not node.running(), 30, 0.02)
        usual, node.conf = node.conf, dict(node.conf, **SLOWLY)
        node.start(wait=False)
        node.conf = usual
        node.wait_ready(60)
        os.remove(os.path.join(node.dir, "dump.rdb"))  # of no later start
        side.wait_ok(60)

    def change_password(self):
        """The servers first, the proxy later; then all is as before."""
        if not self.users:
            return self.say("nobody logs in")
        side = self.side()
        seconds = self.rng.random() * 2
        self.say("the password of the %s is another for %.2f s before the proxy knows", self.name(side), seconds)
        for password in ("second", PASSWORD):
            for node in side.nodes:
                node.call("ACL", "SETUSER", USER, "resetpass", ">" + password)
                node.call("CLIENT", "KILL", "USER", USER)
            time.sleep(seconds)
            self.world.set_password(self.name(side), password)
            self.proxy.reload()

    def expire_certificates(self):
        if not self.world.certs:
            return self.say("no TLS")
        side, seconds = self.side(), self.rng.random() * 2
        nodes = [self.rng.choice(side.primaries())] if self.rng.random() < 0.5 else side.primaries()
        self.say("certificates of %d nodes of the %s have expired for %.2f s", len(nodes), self.name(side), seconds)
        for name in ("expired", "server"):
            for node in nodes:
                node.call("CONFIG", "SET", "tls-cert-file", self.world.certs.crt(name), "tls-key-file", self.world.certs.key(name))
                node.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            time.sleep(seconds)

    FAULTS = (kill_proxy, kill_proxy, restart_proxy, hang, hang, cut, cut, move, failover, flip, flip, flip, killed_flip,
              hang_in_flip, partial_flip, full, refuse_writes, down, storm, load_data, change_password, expire_certificates)

    def play(self):
        self.proxy.ctl("start")
        when = self.rng.random()
        if when < 0.6:
            self.proxy.ctl("throttle", "--off")
            self.proxy.wait("synced", timeout=90)
        for _ in range(self.rng.randint(*STEPS)):
            self.load.more(self.rng.randrange(5, 60))
            self.world.after_fault = True
            fault = self.rng.choice(self.FAULTS)
            self.played[fault.__name__] += 1
            fault(self)
        self.proxy.ctl("throttle", "--off")
        self.load.more(60)


def options(seed, unit):
    return {"tls": random.Random("%s/world %d" % (seed, unit // UNITS_A_WORLD)).random() < 0.5}


def anything(ctx):
    world, rng = ctx.world, ctx.rng
    users = rng.random() < 0.5
    proxy = world.fresh(keys=KEYS, users=users, config={"workers": rng.choice([1, 2, 3]), "bypassing-writers": rng.random() < 0.5, "backfill-keys-per-s": 1500, "backfill-adaptive": False,
                                           "upstream-timeout": rng.choice([1000, 15000]), "journal-size": rng.choice(["64kb", "1mb"])})
    with Load(proxy, ctx.seed, clients=3, over=KEYS) as load:
        walk = Walk(ctx, load, users)
        try:
            walk.play()
            figures = world.judge(load, clean=False, timeout=120)
        except Exception as e:
            raise Broken("%s\n  what was played: %s" % (e, "; ".join(walk.told))) from e
        return {"rest_s_max": figures["rest_s"], "acknowledged": load.acknowledged(), "unknown": load.unknown, "refused": sum(load.errors.values()), "with_tls": bool(world.certs), **walk.played}


ROW = Row("anything", "faults and flips in any order (tools/chaos --minutes)", "equal by itself, every history linearizable", 0, 2, anything, replicas=1, options=options)
