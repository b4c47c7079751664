"""Slots that move, nodes that restart and replicas that are promoted, while clients write: what the proxy follows, and what it tells."""
import time

import pytest
from harness import RespError, key_slot
from harness.load import Load, move_slowly, redirects
from harness.process import wait_until
from harness.reshape import join
from harness.resp import encode

STAY = {"cluster-allow-replica-migration": "no"}  # nodes keep their roles when slots move
UNKNOWN = "whether the command was executed is unknown"


@pytest.fixture(scope="module")
def redis(servers):
    return servers.cluster("redis-7.0", replicas=1, conf=STAY)


@pytest.fixture(scope="module")
def proxy(servers, redis):
    return servers.crossfade(redis, config={"workers": 2, "upstream-timeout": 1000})


@pytest.fixture(autouse=True)
def clean(redis, proxy):
    redis.wait_ok()
    redis.flushall()
    proxy.drop()


# ---- slots move

@pytest.mark.tsan
@pytest.mark.parametrize("pair", [False, True], ids=["keys", "pairs"])
def test_slot_moves_with_its_keys(redis, proxy, pair):
    """Nothing is lost, doubled or out of order, and no client gets an error; with pairs, commands of two keys meet TRYAGAIN too."""
    slot = key_slot("{m}")
    for i in range(150):
        redis.call("SET", "{m}%d" % i, i)
    before = redirects(redis)
    home = redis.slot_map(fresh=True)[slot]
    others = [n for n in redis.primaries() if n is not home]
    with Load(proxy, redis, clients=2 if pair else 4, pair=pair) as load:
        for dest in others + [home]:
            move_slowly(redis, slot, dest, load)
    after = redirects(redis)
    assert after["MOVED"] > before["MOVED"] and after["ASK"] > before["ASK"]
    assert proxy.call("GET", "{m}149") == b"149"


def test_valkey_slots_move(servers):
    valkey = servers.cluster("valkey-9.1")
    proxy = servers.crossfade(valkey, config={"workers": 1})
    tags = ["{a}", "{b}", "{c}", "{d}"]
    with Load(proxy, valkey, clients=3, tags=tags) as load:
        for tag in tags:
            slot = key_slot(tag)
            valkey.move_slot(slot, next(n for n in valkey.primaries() if n is not valkey.slot_map(fresh=True)[slot]))
        load.progress()
        # 9.x moves slots by itself, too
        slot = key_slot("{a}")
        src = valkey.slot_map(fresh=True)[slot]
        dest = next(n for n in valkey.primaries() if n is not src)
        src.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", dest.call("CLUSTER", "MYID"))
        wait_until("the slot has moved", lambda: valkey.slot_map(fresh=True)[slot] is dest, 15)
        load.progress()
    proxy.close()
    valkey.close()


def test_slot_moves_to_a_new_node(redis, proxy):
    """One that the proxy has never heard of."""
    node = join(redis, conf=STAY)
    slot = key_slot("{m}")
    home = redis.slot_map(fresh=True)[slot]
    with Load(proxy, redis) as load:
        move_slowly(redis, slot, node, load)
        load.progress()
        assert node.addr in [n["addr"] for n in proxy.status()["nodes"]]
        move_slowly(redis, slot, home, load)


def test_order_when_a_slot_is_served_again(servers):
    """A node that begins to serve in the middle of a batch must not serve its end first."""
    cluster = servers.cluster("redis-7.0", conf={"cluster-require-full-coverage": "no"})
    proxy = servers.crossfade(cluster, config={"workers": 2})
    slot, node = key_slot("{m}"), cluster.node_for("{m}")
    with Load(proxy, cluster, batch=400) as load:
        for _ in range(15):
            node.call("CLUSTER", "DELSLOTS", slot)
            time.sleep(0.06)
            node.call("CLUSTER", "ADDSLOTS", slot)
            load.progress(1)
    proxy.close()
    cluster.close()


class HalfMoved:
    """A slot whose key {t}b is at its new node already, {t}a is not: commands of both are told TRYAGAIN."""

    def __init__(self, cluster, proxy):
        self.cluster, self.slot = cluster, key_slot("{t}")
        proxy.pipeline([("SET", "{t}a", "0"), ("SET", "{t}b", "0")])
        self.src = cluster.slot_map(fresh=True)[self.slot]
        self.dest = next(n for n in cluster.primaries() if n is not self.src)
        self.dest.call("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self.src.call("CLUSTER", "MYID"))
        self.src.call("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self.dest.call("CLUSTER", "MYID"))
        self.move("{t}b")
        assert proxy.call("GET", "{t}b") == b"0"  # it is told where the key is: it knows that slots move
        self.before = self.refused()

    def move(self, *keys):
        self.src.call("MIGRATE", "127.0.0.1", self.dest.port, "", 0, 5000, "KEYS", *keys)

    def refused(self):
        return sum(int(n.info("errorstats").get("errorstat_TRYAGAIN", "count=0").split("=")[1]) for n in (self.src, self.dest))

    def finish(self):
        """When somebody was told so."""
        wait_until("a command was refused", lambda: self.refused() > self.before, 10, 0.01)
        self.move("{t}a")
        for node in [self.dest, self.src] + [p for p in self.cluster.primaries() if p not in (self.src, self.dest)]:
            node.call("CLUSTER", "SETSLOT", self.slot, "NODE", self.dest.call("CLUSTER", "MYID"))


def appends(n, *keys):
    return ("EVAL", "local n for i = #KEYS, 1, -1 do n = redis.call('APPEND', KEYS[i], ARGV[1]) end return n", len(keys), *keys, n)


@pytest.mark.parametrize("several", [[("MSET", "{t}a", "1", "{t}b", "1")], [("MULTI",), ("SET", "{t}a", "1"), ("SET", "{t}b", "1"), ("EXEC",)]], ids=["mset", "exec"])
def test_order_behind_a_command_of_several_keys(redis, proxy, several):
    """It is refused and comes again; what its client sent behind it, to the same key, stays behind it."""
    half = HalfMoved(redis, proxy)
    others = ["{%d}" % i for i in range(7)]  # more of them than are followed one by one
    with proxy.connect(timeout=20) as c:
        behind = [("SET", "{t}a", "2"), ("MGET", "{t}a", "{t}b"), ("MSET", "{t}a", "3", "{u}", "3")] + [("MSET", t + "x", "1", t + "y", "1") for t in others]
        commands = several + behind + [("GET", "{t}a"), ("DEL", "{t}b", "{t}c"), ("MGET", "{t}a", "{t}b")]
        c.send_raw(b"".join(map(encode, commands)))
        half.finish()
        replies = [c.read() for _ in commands][len(several):]
        assert replies == [b"OK", [b"2", b"1"], b"OK"] + [b"OK"] * len(others) + [b"3", 1, [b"3", None]]
    assert proxy.call("MGET", "{t}a", "{t}b") == [b"3", None]


def test_order_of_two_clients(redis, proxy):
    """Each reply tells how long the value was then: the value itself must say the same."""
    half = HalfMoved(redis, proxy)
    with proxy.connect(timeout=20) as one, proxy.connect(timeout=20) as two:
        said = {}
        for client, tags in ((one, "ABCD"), (two, "WXYZ")):
            client.send_raw(b"".join(encode(appends(t, "{t}a", "{t}b") if i % 2 == (client is two) else ("APPEND", "{t}a", t)) for i, t in enumerate(tags)))
        half.finish()
        for client, tags in ((one, "ABCD"), (two, "WXYZ")):
            at = [client.read() for _ in tags]
            assert at == sorted(at), "order of one client"
            said.update(zip(at, tags))
    value = proxy.call("GET", "{t}a").decode()
    assert len(value) == 9 and all(value[n - 1] == t for n, t in said.items()), (value, said)


# ---- failover

def replica_of(cluster, primary):
    wait_until("it is known to have a replica", lambda: cluster.replicas_of(primary), 15)
    replica = cluster.replicas_of(primary)[0]
    wait_until("that is in sync", lambda: replica.info("replication").get("master_link_status") == "up", 15)
    return replica


def failover(cluster, primary):
    replica = replica_of(cluster, primary)
    for _ in range(3):
        try:
            return cluster.failover(primary, timeout=7)
        except TimeoutError:  # it could not catch up within 5 s, and said so only in its log
            pass
    raise TimeoutError("three failovers in vain:\n" + replica.log_tail())


def test_replica_promoted_in_order(redis, proxy):
    """CLUSTER FAILOVER: nothing is lost, so nothing may be told."""
    tag = "{m}"
    old = redis.slot_map(fresh=True)[key_slot(tag)]
    with Load(proxy, redis) as load:
        assert failover(redis, old) is not old
        load.progress(20)


def test_primary_hangs_and_a_replica_takes_over(redis, proxy):
    """Reads are asked again; a write that may have been executed is answered with an error that says so; both clients go on."""
    proxy.call("SET", "k{m}", "v")
    node = redis.slot_map(fresh=True)[key_slot("{m}")]
    replica = replica_of(redis, node)
    assert node.call("WAIT", 1, 5000) == 1
    with proxy.connect(timeout=20) as c, proxy.connect(timeout=20) as other:
        assert c.call("GET", "k{m}") == b"v"
        node.freeze()
        try:
            c.send_raw(encode(("GET", "k{m}")) + encode(("INCR", "n{m}")) + encode(("STRLEN", "k{m}")) + encode(("PING",)))
            other.send("GET", "k{m}")
            time.sleep(0.2)
            replica.call("CLUSTER", "FAILOVER", "TAKEOVER")
            replies = [c.read() for _ in range(4)]
            assert replies[0] == b"v" and replies[2:] == [1, b"PONG"]
            assert isinstance(replies[1], RespError) and UNKNOWN in str(replies[1]) and node.addr in str(replies[1])
            assert replies[1].code == "UNKNOWN"
            assert other.read() == b"v"
            assert c.call("SET", "after{m}", 1) == b"OK"
            assert replica.call("GET", "after{m}") == b"1"
        finally:
            node.thaw()
    wait_until("the former primary has become a replica", lambda: node.info("replication")["role"] == "slave", 15)


# ---- restart

def test_node_restarted(redis, proxy):
    """Its connections break: what was not sent waits for it, reads are asked again, writes in flight are told to be unknown."""
    node = redis.slot_map(fresh=True)[key_slot("{m}")]
    elsewhere = next("k{%d}" % i for i in range(100) if redis.slot_map()[key_slot("{%d}" % i)] is not node)
    with proxy.connect(timeout=20) as c, proxy.connect(timeout=20) as other:
        c.call("SET", "r{m}", "v")
        node.freeze()
        c.send_raw(encode(("APPEND", "log{m}", "x")) + encode(("GET", "r{m}")))
        time.sleep(0.1)
        node.kill()
        other.send("SET", "late{m}", "v")
        for i in range(20):  # other nodes are not concerned
            assert proxy.call("INCR", elsewhere) == i + 1
            if i == 10:
                node.drop()
                node.start()
        assert other.read() == b"OK"
        reply = c.read()
        assert isinstance(reply, RespError) and reply.code == "UNKNOWN" and UNKNOWN in str(reply)
        assert c.read() is None  # nobody kept it on disk
        assert c.call("GET", "late{m}") == b"v"
    redis.wait_ok()


def test_standalone_gone_and_back(servers):
    """What has waited long enough is answered; when the server is back all is as before, with no reconnect."""
    server = servers.standalone("redis-7.0")
    proxy = servers.crossfade(server, config={"workers": 2})
    with proxy.connect(timeout=20) as c:
        assert c.call("SET", "k", "v") == b"OK"
        server.kill()
        at = time.monotonic()
        c.send_raw(encode(("GET", "k")) + encode(("SET", "k", "w")) + encode(("PING",)))
        replies = [c.read() for _ in range(3)]
        assert 3 < time.monotonic() - at < 9
        for r in replies[:2]:
            assert isinstance(r, RespError) and server.addr in str(r) and UNKNOWN not in str(r), replies
        assert replies[2] == b"PONG"
        server.drop()
        server.start()
        assert c.call("SET", "k", "x") == b"OK"
        assert c.call("GET", "k") == b"x"
