"""How nodes may be named: by hostname, by IPv6 address, by nothing, or by what cannot be reached from here."""
import itertools

import pytest
from harness import Client, key_slot, preload
from harness.crossfade import SANITIZERS
from harness.load import Load, move_slowly, redirects
from harness.process import wait_until

BOTH = {"bind": "127.0.0.1 ::1", "cluster-allow-replica-migration": "no"}
TAGS = ["{%d}" % i for i in range(12)]


@pytest.fixture(scope="module")
def cluster(servers):
    return servers.cluster("redis-7.0", conf=BOTH)


@pytest.fixture(scope="module")
def alone(servers):
    return servers.standalone("valkey-9.1", conf={"bind": "127.0.0.1 ::1"})


def announce(cluster, **settings):
    """Changes how the nodes name themselves, and waits until all tell it."""
    settings = {"cluster-" + k.replace("_", "-"): v for k, v in settings.items()}
    for node in cluster.nodes:
        for name in sorted(settings):
            node.call("CONFIG", "SET", name, settings[name])

    def host(row):
        return (row[2][0] or b"").decode()
    kind = settings["cluster-preferred-endpoint-type"]
    wanted = {"ip": settings.get("cluster-announce-ip") or "127.0.0.1", "hostname": settings.get("cluster-announce-hostname") or "?",
              "unknown-endpoint": ""}[kind]
    wait_until("the nodes announce %r" % wanted, lambda: all(host(row) == wanted for n in cluster.nodes for row in n.call("CLUSTER", "SLOTS")), 20)


ANNOUNCED = {
    "ip": dict(preferred_endpoint_type="ip", announce_hostname=""),
    "hostname": dict(preferred_endpoint_type="hostname", announce_hostname="localhost"),
    "no-hostname": dict(preferred_endpoint_type="hostname", announce_hostname=""),
    "unknown-endpoint": dict(preferred_endpoint_type="unknown-endpoint", announce_hostname=""),
    "mapped-host": dict(preferred_endpoint_type="hostname", announce_hostname="inside.invalid"),
    "mapped-ports": dict(preferred_endpoint_type="hostname", announce_hostname="inside.invalid"),
}


def use_all_nodes(proxy, cluster):
    """Every node is reached, MOVED and ASK are followed, and nothing is refused or lost."""
    for tag in TAGS:
        assert proxy.call("SET", "k" + tag, tag) == b"OK"
        assert cluster.call("GET", "k" + tag) == tag.encode()
    assert proxy.call("MGET", *["k" + t for t in TAGS]) == [t.encode() for t in TAGS]
    before = redirects(cluster)
    with Load(proxy, cluster, clients=2, tags=TAGS[:3]) as load:
        slot = key_slot(TAGS[0])
        home = cluster.slot_map(fresh=True)[slot]
        for dest in [n for n in cluster.primaries() if n is not home][:1] + [home]:
            move_slowly(cluster, slot, dest, load)
    after = redirects(cluster)
    assert after["ASK"] > before["ASK"] and after["MOVED"] > before["MOVED"]


@pytest.mark.parametrize("how", list(ANNOUNCED))
def test_cluster_announces(servers, cluster, how):
    cluster.flushall()
    announce(cluster, **ANNOUNCED[how])
    config = {"source-nodes": cluster.addrs[:1]}
    if how == "mapped-host":
        config["source-address-map"] = "inside.invalid=127.0.0.1"
    elif how == "mapped-ports":
        config["source-address-map"] = ["inside.invalid:%d=%s" % (n.port, n.addr) for n in cluster.nodes]
    proxy = servers.crossfade(cluster, config=config)
    use_all_nodes(proxy, cluster)
    host = "localhost" if how == "hostname" else "127.0.0.1"
    assert sorted(n["addr"] for n in proxy.status()["nodes"]) == sorted("%s:%d" % (host, n.port) for n in cluster.nodes)
    proxy.close()


def test_ipv6_cluster(servers, cluster):
    """Nodes that announce an IPv6 address; one of them is configured, and clients come by IPv6 too."""
    cluster.flushall()
    announce(cluster, preferred_endpoint_type="ip", announce_hostname="", announce_ip="::1")
    proxy = servers.crossfade(cluster, config={"source-nodes": "[::1]:%d" % cluster.nodes[0].port, "bind": ["127.0.0.1", "::1"]})
    use_all_nodes(proxy, cluster)
    assert sorted(n["addr"] for n in proxy.status()["nodes"]) == sorted("[::1]:%d" % n.port for n in cluster.nodes)
    with Client(proxy.port, host="::1") as c:
        assert c.call("GET", "k" + TAGS[3]) == TAGS[3].encode()
        assert "laddr=[::1]:%d" % proxy.port in c.call("CLIENT", "INFO").decode()
    proxy.close()
    announce(cluster, preferred_endpoint_type="ip", announce_hostname="", announce_ip="127.0.0.1")


@pytest.mark.parametrize("source,bind", itertools.product(("localhost:%d", "[::1]:%d", "127.0.0.1:%d"), ("127.0.0.1", "*")))
def test_standalone(servers, alone, source, bind):
    proxy = servers.crossfade(alone, config={"source-nodes": source % alone.port, "bind": bind})
    assert proxy.call("SET", "k", source) == b"OK"
    assert alone.call("GET", "k") == source.encode()
    assert [n["addr"] for n in proxy.status()["nodes"]] == [source % alone.port]
    if bind == "*":
        with Client(proxy.port, host="::1") as c:
            assert c.call("GET", "k") == source.encode()
    proxy.close()


def test_hostname_of_a_server_without_ipv6(servers):
    """localhost is ::1, too, where nobody listens."""
    server = servers.standalone("redis-7.0")
    proxy = servers.crossfade(server, config={"source-nodes": "localhost:%d" % server.port})
    assert proxy.call("SET", "k", "v") == b"OK"
    server.restart()
    assert proxy.call("GET", "k") is None


def test_a_node_of_several_is_gone(servers, cluster):
    """Of several configured nodes one is enough, whatever is wrong with the others."""
    names = ["nowhere.invalid:6379", "127.0.0.1:1", cluster.nodes[1].addr]
    proxy = servers.crossfade(cluster, config={"source-nodes": names})
    assert proxy.call("MSET", *[x for t in TAGS for x in (t, 1)]) == b"OK"
    assert len(proxy.status()["nodes"]) == 3


# ---- several addresses of one name


@pytest.fixture
def several(crossfade):
    """A proxy for which several.test is 127.0.0.9 and 127.0.0.1."""
    env = {"LD_PRELOAD": preload.library("names"), "ASAN_OPTIONS": SANITIZERS["ASAN_OPTIONS"] + ":verify_asan_link_order=0"}

    def make(source, target=None, **config):
        names = {side + "-nodes": ["several.test:%d" % node.port for node in nodes.nodes[:1]]
                 for side, nodes in (("source", source), ("target", target)) if nodes}
        return crossfade(source, target, env=env, config=dict(names, **config))
    return make


def test_the_second_address_answers(standalone, several):
    """For the workers, the copy and the looks at the servers, on both sides; and when the server moves to the other address they follow."""
    source, target = standalone("redis-7.0"), standalone("valkey-9.1")
    source.call("SET", "copied", "c")
    proxy = several(source, target)
    assert proxy.call("SET", "k", "v") == b"OK"
    proxy.ctl("start")
    proxy.wait("synced,dirty=0")
    assert proxy.ctl("verify").rc == 0
    assert target.call("GET", "copied") == b"c" and target.call("GET", "k") == b"v"
    assert {n["addr"] for n in proxy.status()["nodes"]} == {"several.test:%d" % n.port for n in (source, target)}
    target.conf["bind"] = "127.0.0.9"
    target.kill()
    target.drop()
    target.start(wait=False)
    wait_until("the target is found at its other address", lambda: all(n["state"] == "up" for n in proxy.status()["nodes"]), 30)
    proxy.call("SET", "k", "w")
    proxy.wait("dirty=0,lag=0")
    assert proxy.ctl("verify").rc == 0
    with Client(target.port, host="127.0.0.9") as c:
        assert c.call("GET", "k") == b"w" and c.call("GET", "copied") == b"c"


def test_nodes_of_a_cluster_have_several_addresses(cluster, several):
    cluster.flushall()
    announce(cluster, preferred_endpoint_type="hostname", announce_hostname="several.test")
    proxy = several(cluster)
    for tag in TAGS:
        assert proxy.call("SET", "k" + tag, tag) == b"OK"
    announce(cluster, preferred_endpoint_type="ip", announce_hostname="")
