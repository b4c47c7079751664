"""A primary dies, or its connections are reset, in the middle of a flip, on either side: the flip is done or undone, nothing acknowledged is lost but what its replica had not got.

Long: a world of twelve servers. FLIP_SEED repeats the choices, FLIP_UNITS sets how many."""
import os
import random
import sys
import time

import pytest
from harness.process import ROOT, wait_until

sys.path.insert(0, os.path.join(ROOT, "tests"))
from chaos.clients import Load  # noqa: E402
from chaos.rows_cluster import held_by, promote, replica_of  # noqa: E402
from chaos.rows_proxy import asks  # noqa: E402
from chaos.world import Broken, World  # noqa: E402

SEED = int(os.environ.get("FLIP_SEED", "1"))
UNITS = int(os.environ.get("FLIP_UNITS", "16"))


@pytest.fixture(scope="module")
def world():
    made = World(replicas=1)
    yield made
    made.close()


def die(side, load, primary, replica, rng):
    """Returns what is known of its promoted replica, and since when that answers."""
    if rng.random() < 0.5:
        primary.call("CLIENT", "KILL", "TYPE", "replica")
    primary.kill()
    primary.drop()
    bases, at_s = held_by(replica, side, load, primary), time.monotonic()
    promote(side, primary, replica, True)
    return bases, at_s


def flip_at_last(world, command):
    """What the dead one does when it is back makes a verify void that was clean."""
    for attempt in range(5):
        world.verify()
        try:
            world.flip(command)
            return
        except Broken:
            if attempt == 4 or world.proxy.status()["verify_due"] == "":
                raise


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("unit", range(UNITS))
def test_a_primary_dies_in_a_flip(world, unit):
    rng = random.Random("%d/%d" % (SEED, unit))
    command, side = ("cutover", "rollback")[unit % 2], (world.source, world.target)[unit // 2 % 2]
    proxy = world.fresh(keys=600)
    with Load(proxy, "%d/%d" % (SEED, unit), kinds=("list",), noisy=0.3) as load:
        world.synced()
        if command == "rollback":
            world.flip("cutover")
        load.more(60)
        primary = side.primaries()[rng.randrange(3)]
        replica = replica_of(side, primary)
        flip = asks(proxy, command, "--yes", "--force", "--wait", 1)
        time.sleep(0.02 + rng.random() * 0.08)  # proxyctl has to start: somewhere in what it asks for, or just before or behind it
        bases, at_s = die(side, load, primary, replica, rng)
        flip.join(60)
        load.more(60)
        primary.start()
        side.wait_ok(60)
        load.more(60)
        was = "target" if command == "rollback" else "source"
        name, now = "source" if side is world.source else "target", proxy.status()["authority"]
        assert now in ("source", "target")
        print("%s: a primary of the %s died, the %s answers now" % (command, name, now))
        # An authority may lose what its replica had not got. A follower that died before the flip, and answers now, may not: it was made equal before.
        world.judge(load, clean=False, failed_over=(bases, at_s) if name in (was, now) else None)
        wait_until("the dead one is a replica", lambda: primary.info("replication")["role"] == "slave", 30, 0.05)
        world.after_fault = True
        flip_at_last(world, "rollback" if now == "target" else "cutover")
        load.more(60)
        world.judge(load, clean=False, failed_over=(bases, at_s) if name in (was, now) else None)


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("unit", range(UNITS))
def test_connections_are_reset_in_a_flip(world, unit):
    """Of one node or of all, of either side. No history may show it but for writes of unknown outcome."""
    rng = random.Random("reset %d/%d" % (SEED, unit))
    command, side = ("cutover", "rollback")[unit % 2], (world.source, world.target)[unit // 2 % 2]
    proxy = world.fresh(keys=300)
    with Load(proxy, "reset %d/%d" % (SEED, unit)) as load:
        world.synced()
        if command == "rollback":
            world.flip("cutover")
        load.more(60)
        nodes = side.primaries() if unit % 3 else [rng.choice(side.primaries())]
        flip = asks(proxy, command, "--yes", "--force", "--wait", 1)
        time.sleep(0.02 + rng.random() * 0.06)
        for node in nodes:
            node.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        flip.join(60)
        load.more(60)
        print("%s: connections of %d nodes of the %s were reset, the %s answers now, %d writes of unknown outcome" %
              (command, len(nodes), "source" if side is world.source else "target", proxy.status()["authority"], load.unknown))
        world.judge(load)
        assert not load.lost_links
