"""Primaries die and replicas are promoted; slots move between nodes; nodes hang."""
import threading
import time

from harness import Client, RespError, key_slot
from harness.process import wait_until
from harness.reshape import join, leave, reshard, slots_of
from harness.resp import ProtocolError

from .clients import KEYS, Load
from .row import Row
from .world import CONF, Broken

SLOW = {"backfill-keys-per-s": 1500, "backfill-adaptive": False}


class Direct(threading.Thread):
    """A client of the primary itself, in the same experiment: what it loses is what any client loses."""

    def __init__(self, node, key):
        super().__init__(daemon=True)
        self.node, self.key, self.acknowledged = node, key, []
        self.start()

    def run(self):
        try:
            with Client(self.node.port, timeout=20) as link:
                for n in range(1000000):
                    link.call("RPUSH", self.key, n)
                    self.acknowledged.append(b"%d" % n)
                    time.sleep(0.002)
        except (OSError, ProtocolError, RespError):
            pass  # the primary is dead


def bring(world, load, phase):
    if phase == "backfill":
        world.proxy.ctl("start")
        load.more(20)
        return
    world.synced(verify=phase == "cutover")
    if phase == "cutover":
        world.flip("cutover")
    load.more(60)


def replica_of(side, primary):
    wait_until("it is known to have a replica", lambda: side.replicas_of(primary), 30, 0.05)
    replica = side.replicas_of(primary)[0]
    wait_until("that is in sync", lambda: replica.info("replication").get("master_link_status") == "up", 30, 0.05)
    return replica


def held_by(replica, side, load, primary):
    """What the replica has of the lists of its primary's slots; nothing feeds it any more."""
    keys = [key for kind, key in load.ops if kind == "list" and side.slot_map()[key_slot(key)] is primary]
    with replica.connect(timeout=20) as c:
        c.call("READONLY")
        offset = None
        while offset != (offset := replica.info("replication")["slave_repl_offset"]):
            time.sleep(0.05)
        return dict(zip(keys, c.pipeline([("LRANGE", k, 0, -1) for k in keys])))


def promote(side, primary, replica, by_force):
    if by_force:
        replica.call("CLUSTER", "FAILOVER", "TAKEOVER")
    up = [n for n in side.nodes if n.running()]
    wait_until("%s is promoted" % replica.name, lambda: all(side._sees_primary(n, replica) for n in up), 40, 0.05)
    side.slot_map(fresh=True)


def failover(ctx):
    """A primary is killed (its replica cut off a moment before, or not), its replica promoted; the dead one comes back as a replica."""
    world, rng = ctx.world, ctx.rng
    phase = rng.choice(["backfill", "synced", "synced", "cutover"])
    name = rng.choice(["source", "source", "target"])
    side = getattr(world, name)
    proxy = world.fresh(keys=1500, config=SLOW if phase == "backfill" else None)
    with Load(proxy, ctx.seed, kinds=("list",), noisy=0.5) as load:
        load.more(60)
        bring(world, load, phase)
        authority = proxy.status()["authority"] == name
        primary = side.primaries()[rng.randrange(3)]
        replica = replica_of(side, primary)
        tag = next(t for t in ("direct{%d}" % i for i in range(1000)) if side.slot_map()[key_slot(t)] is primary)
        direct = Direct(primary, tag) if authority else None
        load.more(rng.randrange(20, 200))
        if rng.random() < 0.6:
            primary.call("CLIENT", "KILL", "TYPE", "replica")
            time.sleep(rng.random() * 0.3)
        primary.kill()
        primary.drop()
        bases = held_by(replica, side, load, primary)
        at_s = time.monotonic()
        promote(side, primary, replica, rng.random() < 0.7)
        load.more(60)
        primary.start()
        side.wait_ok(60)
        proxy.ctl("throttle", "--off")
        load.more(60)
        figures = world.judge(load, clean=False, failed_over=(bases, at_s) if authority else None)
        wait_until("the dead one is a replica", lambda: primary.info("replication")["role"] == "slave", 30, 0.05)
        replica_of(side, replica)
        if not authority and (load.errors or load.unknown):
            raise Broken("the follower failed over, and clients saw %d unknown, %s" % (load.unknown, dict(load.errors)))
        result = {"rest_s_max": figures["rest_s"], "acknowledged": load.acknowledged(), "unknown": load.unknown, "refused": sum(load.errors.values()), "lost_as_direct": load.lost,
                  "in_%s_of_%s" % (phase, "authority" if authority else "follower"): 1}
        if direct:
            direct.join(20)
            have = set(side.call("LRANGE", tag, 0, -1))
            result["direct_client_lost"] = sum(t not in have for t in direct.acknowledged)
        return result


class Mover(threading.Thread):
    """Moves slots of one side, one after another, as resharding tools do, or as Valkey 9 does by itself."""

    def __init__(self, side, slots, rng, by_itself):
        super().__init__(daemon=True)
        self.side, self.slots, self.rng, self.by_itself = side, slots, rng, by_itself
        self.wrong, self.moved = None, 0
        self.start()

    def run(self):
        try:
            for slot in self.slots:
                home = self.side.slot_map(fresh=True)[slot]
                dest = self.rng.choice([n for n in self.side.primaries() if n is not home])
                (self.migrate if self.by_itself else self.reshard)(slot, home, dest)
                self.moved += 1
        except Exception as e:  # noqa: B902 (told by the row)
            self.wrong = e

    def migrate(self, slot, home, dest):
        home.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", dest.call("CLUSTER", "MYID"))
        up = [n for n in self.side.nodes if n.running()]
        wait_until("slot %d has moved" % slot, lambda: all(self.owner(n, slot) == dest.port for n in up), 30, 0.02)

    @staticmethod
    def owner(node, slot):
        return next((row[2][1] for row in node.call("CLUSTER", "SLOTS") if row[0] <= slot <= row[1]), None)

    def reshard(self, slot, src, dest):
        ids = {n: n.call("CLUSTER", "MYID") for n in (src, dest)}
        dest.call("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[src])
        src.call("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[dest])
        time.sleep(self.rng.random() * 0.1)
        while keys := src.call("CLUSTER", "GETKEYSINSLOT", slot, 3):
            src.call("MIGRATE", "127.0.0.1", dest.tls_port or dest.port, "", 0, 5000, "KEYS", *keys)
            time.sleep(self.rng.random() * 0.01)
        time.sleep(self.rng.random() * 0.1)
        for node in [dest, src] + [p for p in self.side.primaries() if p not in (src, dest)]:
            node.call("CLUSTER", "SETSLOT", slot, "NODE", ids[dest])


def visit(side, load, rng):
    """A node joins, serves some slots of another for a while, and leaves."""
    host, guest = rng.choice(side.primaries()), join(side, CONF)
    slots = slots_of(side, host)
    at = rng.randrange(len(slots) - 20)
    slots = [s for s in slots[at:at + 20] if s - slots[at] < 20]
    reshard(side, slots, host, guest)
    load.more(60)
    reshard(side, slots, guest, host)
    leave(side, guest)


def moved(ctx):
    """Slots with keys that clients write move on both sides at once, while the backfill runs, then while both are equal; nodes come and go."""
    world, rng = ctx.world, ctx.rng
    proxy = world.fresh(keys=1500, config=SLOW)
    written = [key_slot("a:%s:%d" % (kind, i)) for kind in ("list", "text", "counter", "register") for i in range(KEYS)] + [key_slot(t) for t in ("{q}", "{m}", "{c}")]
    with Load(proxy, ctx.seed) as load:
        load.more(60)
        proxy.ctl("start")
        count = 0
        for _ in range(2):
            movers = [Mover(world.source, rng.sample(written, 4), rng, False), Mover(world.target, rng.sample(written, 4), rng, rng.random() < 0.5)]
            for m in movers:
                m.join(120)
                if m.is_alive() or m.wrong:
                    raise Broken("a slot could not be moved: %r" % (m.wrong,))
                count += m.moved
            visit(rng.choice([world.source, world.target]), load, rng)
            load.more(60)
            proxy.ctl("throttle", "--off")
            proxy.wait("synced", timeout=90)
        figures = world.judge(load)
        if load.lost_links or load.unknown:
            raise Broken("clients noticed: %d connections lost, %d writes of unknown outcome" % (load.lost_links, load.unknown))
        return {"nodes_came_and_went": 2, "slots_moved": count, "rest_s_max": figures["rest_s"], "acknowledged": load.acknowledged(), "longest_ms_max": round(load.longest_s * 1000)}


ROWS = [
    Row("failover", "primary killed, replica promoted, on either side", "no loss beyond that of a direct client in the same experiment; target equals the promoted replica", 50, 2, failover, replicas=1),
    Row("slots", "slots moved on source and target during backfill", "0 differences, 0 redirects seen by clients", 20, 1, moved),
]
