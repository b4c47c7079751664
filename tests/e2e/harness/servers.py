"""Fresh real servers: Standalone and Cluster, of any kind that tools/setup fetched.

Every server has ports and a folder of its own and ends with the test process. Clusters
are put together by hand instead of by `--cluster create`, which takes longer.
"""
import os
import time

from . import keyspace, ports, preload
from .keyspace import diff  # noqa: F401 (for users of this module)
from .process import ROOT, Process, wait_until
from .resp import Client, RespError

KINDS = ["redis-7.0", "redis-8.0", "valkey-8.0", "valkey-8.1", "valkey-9.1"]
SERVERS = os.environ.get("CROSSFADE_SERVERS", os.path.join(ROOT, ".servers"))
SLOTS = 16384


def program(kind, tool="server"):
    """The path of a server's program: tool is server, cli or benchmark."""
    path = os.path.join(SERVERS, kind, "bin", "%s-%s" % (kind.split("-")[0], tool))
    if not os.access(path, os.X_OK):
        raise FileNotFoundError("no %s: run tools/setup" % path)
    return path


def _crc16_table():
    table = []
    for n in range(256):
        crc = n << 8
        for _ in range(8):
            crc = (crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1
        table.append(crc & 0xffff)
    return table


_CRC16 = _crc16_table()


def key_slot(key):
    key = key if isinstance(key, bytes) else str(key).encode()
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1:end]
    crc = 0
    for byte in key:
        crc = ((crc << 8) & 0xffff) ^ _CRC16[(crc >> 8) ^ byte]
    return crc % SLOTS


# Where the first key of a command stands, if not first.
_KEY_AT = {b"EVAL": 3, b"EVALSHA": 3, b"EVAL_RO": 3, b"EVALSHA_RO": 3, b"FCALL": 3, b"FCALL_RO": 3,
           b"OBJECT": 2, b"XGROUP": 2, b"XINFO": 2, b"MEMORY": 2, b"DEBUG": 2, b"BITOP": 2}


def first_key(args):
    name = args[0].upper() if isinstance(args[0], bytes) else args[0].upper().encode()
    if name in (b"XREAD", b"XREADGROUP"):
        words = [a.upper() if isinstance(a, (bytes, str)) else a for a in args]
        return args[1 + next(i for i, w in enumerate(words) if w in (b"STREAMS", "STREAMS"))]
    at = _KEY_AT.get(name, 1)
    return args[at] if len(args) > at else None


class Node(Process):
    """One server process."""

    def __init__(self, kind, cluster=False, conf=None, label="", port=None, bus_port=None, tls=None, preloaded=None):
        super().__init__(label or kind)
        self.env = dict(os.environ, LD_PRELOAD=preloaded) if preloaded else None
        self.kind = kind
        self.cluster_enabled = cluster
        self._ports = [] if port else [ports.reserve() for _ in range(2 if cluster else 1)]
        self.port = port or int(self._ports[0])
        self.bus_port = (bus_port or int(self._ports[1])) if cluster else None
        self.conf = dict(conf or {})
        self.tls_port = None
        if tls:  # a harness.certs.Certs that has made "server": a TLS port beside the other, which the harness uses
            self._ports.append(ports.reserve())
            self.tls_port = int(self._ports[-1])
            self.conf = dict({"tls-port": self.tls_port, "tls-cert-file": tls.crt("server"), "tls-key-file": tls.key("server"),
                              "tls-ca-cert-file": tls.ca, "tls-auth-clients": "no"}, **self.conf)
            if cluster:
                self.conf["tls-cluster"] = "yes"
        self._client = None
        self.start(wait=False)

    @property
    def addr(self):
        return "127.0.0.1:%d" % self.port

    @property
    def tls_addr(self):
        return "127.0.0.1:%d" % self.tls_port

    def _settings(self):
        settings = {
            "bind": "127.0.0.1", "port": self.port, "dir": self.dir, "save": '""',
            "appendonly": "no", "protected-mode": "no", "daemonize": "no",
            "enable-debug-command": "yes", "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": 0, "repl-ping-replica-period": 1,
            "hz": 50,
        }
        if self.cluster_enabled:
            settings.update({"cluster-enabled": "yes", "cluster-port": self.bus_port,
                             "cluster-config-file": "nodes.conf", "cluster-node-timeout": 5000})
        settings.update(self.conf)
        return settings

    def start(self, wait=True):
        """Also after kill(): the same ports and folder."""
        path = os.path.join(self.dir, "server.conf")
        with open(path, "w") as f:
            for name, value in self._settings().items():
                f.write("%s %s\n" % (name, value))
        self.spawn([program(self.kind), path], env=self.env)
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout=20.0):
        wait_until("%s answers on %d" % (self.kind, self.port), self._answers, timeout)

    def _answers(self):
        assert self.running(), "%s ended:\n%s" % (self.kind, self.log_tail())
        try:
            with Client(self.port, timeout=5) as c:
                reply = c.try_call("PING")
                return reply == b"PONG" or (isinstance(reply, RespError) and
                                            reply.code in ("NOAUTH", "MASTERDOWN"))
        except OSError:
            return False

    def restart(self):
        self.kill()
        self.drop()
        self.start()

    def connect(self, **options):
        """A new connection, closed by whoever asked for it."""
        options.setdefault("password", self.conf.get("requirepass"))
        return Client(self.port, **options)

    @property
    def client(self):
        """The connection of the harness itself (RESP2)."""
        if self._client is None:
            self._client = self.connect(timeout=30)
        return self._client

    def drop(self):
        if self._client is not None:
            self._client.close()
            self._client = None

    def call(self, *args, **kw):
        """On the harness's connection, made anew if it broke before the command was sent."""
        if self._client is not None and not self._client_alive():
            self.drop()
        return self.client.call(*args, **kw)

    def _client_alive(self):
        try:
            return self._client.try_call("PING") is not None
        except (OSError, ConnectionError):
            return False

    def info(self, section="everything"):
        """INFO as a dict of strings."""
        text = self.call("INFO", section).decode()
        return dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)

    def close(self):
        self.drop()
        super().close()
        for port in self._ports:
            port.release()


class Standalone(Node):
    """One server, not a cluster. clock_s: its clock is so many seconds ahead of this machine's. preloaded: a library of harness.preload, instead."""

    def __init__(self, kind="redis-7.0", conf=None, port=None, tls=None, clock_s=0, preloaded=None):
        super().__init__(kind, conf=conf, port=port, tls=tls, preloaded=preload.library("clock", OFFSET_S=clock_s) if clock_s else preloaded)
        self.wait_ready()

    @property
    def nodes(self):
        return [self]

    @property
    def addrs(self):
        return [self.addr]

    @property
    def tls_addrs(self):
        return [self.tls_addr]

    def primaries(self):
        return [self]

    def client_for(self, key):
        return self.client

    def pipeline(self, commands, **kw):
        return self.client.pipeline(commands, **kw)

    def dbsize(self):
        return keyspace.dbsize_of_node(self)

    def flushall(self):
        self.call("FLUSHALL")

    def keys(self, match=None):
        return keyspace.scan(self.client, match)

    def digest(self, match=None, db=0):
        if db == 0:
            return keyspace.digest_of_node(self.client, match)
        with self.connect(timeout=30, db=db) as c:
            return keyspace.digest_of_node(c, match)


class Cluster:
    """A cluster of `shards` primaries with `replicas` replicas each, ready for use.

    self.nodes holds the primaries first, in the order of their slots, then the replicas
    round by round. After a failover primaries() tells who is one now. With first_port
    the ports follow each other from there, and the bus ports lie 500 below. With few the first
    primary has only the first so many slots: it is quickly emptied.
    """

    def __init__(self, kind="redis-7.0", shards=3, replicas=0, conf=None, first_port=None, tls=None, few=0):
        self.kind, self.shards, self.replicas, self.few = kind, shards, replicas, few
        self.nodes = []
        self._map = None
        try:
            for i in range(shards * (1 + replicas)):
                role = "p%d" % i if i < shards else "r%d" % i
                port = first_port and first_port + i
                self.nodes.append(Node(kind, cluster=True, conf=conf, label="%s-%s" % (kind, role),
                                       port=port, bus_port=port and port - 500, tls=tls))
            for node in self.nodes:
                node.wait_ready()
            self._form()
        except BaseException:
            self.close()
            raise

    @property
    def addrs(self):
        return [n.addr for n in self.nodes]

    @property
    def tls_addrs(self):
        return [n.tls_addr for n in self.nodes]

    # ---- making it

    def _form(self):
        for i, node in enumerate(self.nodes):
            node.call("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
        starts = [i * SLOTS // self.shards for i in range(self.shards)] + [SLOTS]
        if self.few:
            starts[1:-1] = [self.few + i * (SLOTS - self.few) // (self.shards - 1) for i in range(self.shards - 1)]
        for node, first, end in zip(self.nodes, starts, starts[1:]):
            node.call("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        # All to all, so that nobody has to hear of anybody by gossip.
        for i, node in enumerate(self.nodes):
            for other in self.nodes[i + 1:]:
                node.call("CLUSTER", "MEET", "127.0.0.1", other.tls_port or other.port, other.bus_port)
        wait_until("every node knows every other", lambda: all(self._knows_all(n) for n in self.nodes), 20)
        for i, node in enumerate(self.nodes[self.shards:]):
            self._replicate(node, self.nodes[i % self.shards])
        wait_until("every node of the cluster is ok", lambda: all(self._ok(n) for n in self.nodes), 30, 0.02)
        if self.replicas:
            wait_until("replicas are in sync", self._replicas_ready, 30, 0.02)

    def _knows_all(self, node):
        lines = node.call("CLUSTER", "NODES").decode().splitlines()
        return len(lines) == len(self.nodes) and not any("handshake" in line for line in lines)

    def _replicate(self, node, primary):
        wanted = primary.call("CLUSTER", "MYID")
        wait_until("%s takes its primary" % node.name,
                   lambda: node.client.try_call("CLUSTER", "REPLICATE", wanted) == b"OK", 10, 0.05)

    def _ok(self, node):
        info = node.call("CLUSTER", "INFO").decode()
        return "cluster_state:ok" in info and "cluster_slots_ok:%d" % SLOTS in info

    def _replicas_ready(self):
        for node in self.nodes[self.shards:]:
            if node.info("replication").get("master_link_status") != "up":
                return False
        views = [n.call("CLUSTER", "SLOTS") for n in self.nodes]
        return all(len(row) == 3 + self.replicas for view in views for row in view)

    def wait_ok(self, timeout=30):
        """Until every running node reports the cluster ok and all know all slots."""
        up = [n for n in self.nodes if n.running()]
        wait_until("the cluster is ok", lambda: all(self._ok(n) for n in up), timeout, 0.05)
        self._map = None

    # ---- who has what

    def _any(self):
        return next(n for n in self.nodes if n.running())

    def slot_map(self, fresh=False):
        """A list of SLOTS entries: the Node that is primary of the slot, or None."""
        if self._map is None or fresh:
            by_port = {n.port: n for n in self.nodes}
            slots = [None] * SLOTS
            for row in self._any().call("CLUSTER", "SLOTS"):
                slots[row[0]:row[1] + 1] = [by_port[row[2][1]]] * (row[1] - row[0] + 1)
            self._map = slots
        return self._map

    def primaries(self):
        """The nodes that have slots now, in the order of their first."""
        return list(dict.fromkeys(n for n in self.slot_map(fresh=True) if n is not None))

    def replicas_of(self, primary):
        wanted = primary.call("CLUSTER", "MYID").decode()
        by_port = {n.port: n for n in self.nodes}
        rows = [line.split() for line in self._any().call("CLUSTER", "NODES").decode().splitlines()]
        return [by_port[int(r[1].split("@")[0].rsplit(":", 1)[1])] for r in rows if r[3] == wanted]

    def node_for(self, key):
        return self.slot_map()[key_slot(key)]

    def client_for(self, key):
        return self.node_for(key).client

    # ---- commands

    def call(self, *args, key=None, **kw):
        """Sent to the node that has the key (the command's first, unless given)."""
        key = first_key(args) if key is None else key
        node = self._any() if key is None else self.node_for(key)
        for _ in range(20):
            try:
                return node.call(*args, **kw)
            except RespError as e:
                node = self._follow(e, args, kw)
                if not isinstance(node, Node):
                    return node[0]
        raise TimeoutError("no end of redirections for %r" % (args[:2],))

    def _follow(self, error, args, kw):
        """The node to try next, or a tuple with the reply (after ASK)."""
        by_port = {n.port: n for n in self.nodes}
        if error.code == "MOVED":
            self._map = None
            return by_port[int(str(error).rsplit(":", 1)[1])]
        if error.code == "ASK":
            node = by_port[int(str(error).rsplit(":", 1)[1])]
            reply = node.client.pipeline([("ASKING",), args])[1]
            if isinstance(reply, RespError):
                raise reply
            return (reply,)
        if error.code == "TRYAGAIN":
            time.sleep(0.05)
            return self.node_for(first_key(args))
        raise error

    def pipeline(self, commands, **kw):
        """Many commands, each to the node of its key; no redirections are followed."""
        commands = list(commands)
        groups = {}
        for i, command in enumerate(commands):
            groups.setdefault(self.node_for(first_key(command)), []).append(i)
        replies = [None] * len(commands)
        for node, indexes in groups.items():
            for i, reply in zip(indexes, node.client.pipeline([commands[i] for i in indexes], **kw)):
                replies[i] = reply
        return replies

    def dbsize(self):
        return sum(keyspace.dbsize_of_node(n) for n in self.primaries())

    def flushall(self):
        for node in self.primaries():
            node.call("FLUSHALL")

    def keys(self, match=None):
        for node in self.primaries():
            yield from keyspace.scan(node.client, match)

    def digest(self, match=None, db=0):
        result = {}
        for node in self.primaries():
            with node.connect(timeout=30, db=db) as c:
                result.update(keyspace.digest_of_node(c, match))
        return result

    # ---- changing it

    def move_slot(self, slot, dest):
        """Moves one slot with its keys, as resharding tools do."""
        src = self.slot_map(fresh=True)[slot]
        ids = {n: n.call("CLUSTER", "MYID") for n in (src, dest)}
        dest.call("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[src])
        src.call("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[dest])
        while True:
            keys = src.call("CLUSTER", "GETKEYSINSLOT", slot, 100)
            if not keys:
                break
            src.call("MIGRATE", "127.0.0.1", dest.port, "", 0, 5000, "KEYS", *keys)
        for node in [dest, src] + [p for p in self.primaries() if p not in (src, dest)]:
            node.call("CLUSTER", "SETSLOT", slot, "NODE", ids[dest])
        self._map = None

    def failover(self, primary, force=False, timeout=30):
        """Makes a replica of this primary the primary; returns it."""
        replica = self.replicas_of(primary)[0]
        replica.call("CLUSTER", "FAILOVER", *(["TAKEOVER"] if force else []))
        up = [n for n in self.nodes if n.running()]
        wait_until("failover to %s is known to all" % replica.name,
                   lambda: all(self._sees_primary(n, replica) for n in up), timeout, 0.02)
        self.wait_ok(timeout)
        return replica

    def _sees_primary(self, viewer, node):
        return any(row[2][1] == node.port for row in viewer.call("CLUSTER", "SLOTS"))

    def close(self):
        for node in self.nodes:
            node.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
