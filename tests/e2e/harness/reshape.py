"""Clusters that change under load: nodes that join, slots that move many at a time, nodes that leave."""
from .process import wait_until
from .resp import RespError
from .servers import Node


def join(cluster, conf=None):
    """A new primary without slots, which every node knows."""
    node = Node(cluster.kind, cluster=True, conf=conf, label="%s-new" % cluster.kind)
    cluster.nodes.append(node)
    node.wait_ready()
    for other in cluster.nodes[:-1]:
        other.call("CLUSTER", "MEET", "127.0.0.1", node.tls_port or node.port, node.bus_port)
    wait_until("everybody knows it", lambda: all(cluster._knows_all(n) for n in cluster.nodes), 20)
    cluster.wait_ok()
    return node


def slots_of(cluster, node):
    return [slot for slot, owner in enumerate(cluster.slot_map(fresh=True)) if owner is node]


def ask(node, commands):
    said = node.client.pipeline(commands)
    wrong = [r for r in said if isinstance(r, RespError)]
    assert not wrong, wrong[:3]
    return said


def reshard(cluster, slots, src, dest):
    """All of them at once, by the steps of resharding tools."""
    ids = {n: n.call("CLUSTER", "MYID") for n in (src, dest)}
    ask(dest, [("CLUSTER", "SETSLOT", s, "IMPORTING", ids[src]) for s in slots])
    ask(src, [("CLUSTER", "SETSLOT", s, "MIGRATING", ids[dest]) for s in slots])
    left = list(slots)
    while left:
        found = list(zip(left, ask(src, [("CLUSTER", "GETKEYSINSLOT", s, 5) for s in left])))
        left = [s for s, keys in found if keys]
        ask(src, [("MIGRATE", "127.0.0.1", dest.tls_port or dest.port, "", 0, 5000, "KEYS", *keys) for _, keys in found if keys])
    for node in [dest, src] + [p for p in cluster.primaries() if p not in (src, dest)]:
        ask(node, [("CLUSTER", "SETSLOT", s, "NODE", ids[dest]) for s in slots])
    _wait_moved(cluster, slots, dest)


def migrate(cluster, slots, src, dest):
    """As Valkey 9 does by itself; the slots follow each other."""
    src.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slots[0], slots[-1], "NODE", dest.call("CLUSTER", "MYID"))
    _wait_moved(cluster, slots, dest)


def _wait_moved(cluster, slots, dest):
    def all_see():
        views = [n.call("CLUSTER", "SLOTS") for n in cluster.nodes if n.running()]
        return all(sum(min(row[1], slots[-1]) - max(row[0], slots[0]) + 1 for row in view if row[2][1] == dest.port and row[0] <= slots[-1] and row[1] >= slots[0]) >= len(slots)
                   for view in views)
    wait_until("%d slots are %s's" % (len(slots), dest.name), all_see, 60, 0.05)
    cluster.slot_map(fresh=True)


def leave(cluster, node):
    """An empty primary: forgotten by all, and ended."""
    gone = node.call("CLUSTER", "MYID")
    cluster.nodes.remove(node)
    for other in cluster.nodes:
        other.call("CLUSTER", "FORGET", gone)
    node.close()
    cluster.wait_ok()
