"""Publish and subscribe: the servers' bytes; nothing lost or doubled by flips, lost connections and moved slots."""
import threading

import pytest
from harness.process import wait_until
from harness.resp import Disconnected, Push, encode
from harness.servers import key_slot
from load import fill


@pytest.fixture(scope="module")
def clusters(servers):
    """Source, target, and a synced and verified migration between them."""
    source, target = servers.cluster("redis-7.0"), servers.cluster("valkey-9.1")
    for side in (source, target):
        for node in side.nodes:
            node.call("CONFIG", "SET", "notify-keyspace-events", "KEA")
    fill(source, 100)
    proxy = servers.crossfade(source, target)
    proxy.ctl("start")
    proxy.wait("synced")
    proxy.ctl("verify")
    return source, target, proxy


# ---- the servers' bytes

SESSION = [
    ("UNSUBSCRIBE",), ("UNSUBSCRIBE", "x"), ("PUNSUBSCRIBE",), ("SUNSUBSCRIBE",), ("SUBSCRIBE", "a", "a"), ("PING",), ("PING", "z"), ("GET", "a"),
    ("NOSUCH",), ("GET",), ("CLIENT", "ID", "x"), ("ECHO", "e"), ("PSUBSCRIBE", "p*"), ("SSUBSCRIBE", "s"), ("SUBSCRIBE", b"\r\n\0"),
    ("UNSUBSCRIBE", "a", "nosuch"), ("PUNSUBSCRIBE", "p*"), ("UNSUBSCRIBE",), ("PING",), ("SUNSUBSCRIBE", "s"), ("PING",), ("GET", "a"),
    ("SUBSCRIBE",), ("PSUBSCRIBE",), ("PUBLISH", "a"), ("PUBSUB",), ("PUBSUB", "NOSUCH"), ("PUBSUB", "CHANNELS", "a", "b"), ("PUBSUB", "NUMPAT", "x"),
    ("PUBSUB", "NUMSUB"), ("PUBSUB", "NUMSUB", "a", "b"), ("PUBSUB", "SHARDNUMSUB", "a"), ("PUBSUB", "CHANNELS"), ("PUBSUB", "NUMPAT"), ("SUBSCRIBE", "q"),
    ("PSUBSCRIBE", "q*"), ("RESET",), ("GET", "a"), ("PUBLISH", "never", "nobody"), ("SPUBLISH", "never", "nobody"),
]


def until_quiet(client, marker):
    """All bytes up to the answer of a PING with this marker, which works in every state."""
    client.send("PING", marker)
    return until(client, b"\r\n%b\r\n" % marker)


def until(client, end):
    """All bytes up to these."""
    data = b""
    while not data.endswith(end):
        client.sock.settimeout(30)
        part = client.sock.recv(65536)
        assert part, "closed after %r" % data
        data += part
    return data


@pytest.mark.parametrize("kind", ["redis-7.0", "valkey-8.0", "valkey-9.1"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_bytes(alone, kind, protocol):
    server, proxy = alone(kind)
    said = []
    for endpoint in (server, proxy):
        with endpoint.connect(protocol=protocol) as one, endpoint.connect(protocol=protocol) as all_at_once:
            slowly = []
            for i, command in enumerate(SESSION):
                one.send(*command)
                slowly.append((command, until_quiet(one, b"mark%d" % i)))
            all_at_once.send_raw(b"".join(encode(c) for c in SESSION))
            said.append((slowly, until_quiet(all_at_once, b"end")))
    for a, b in zip(said[0][0], said[1][0]):
        assert a == b
    assert said[0][1] == said[1][1]


@pytest.mark.parametrize("kind", ["redis-7.0", "valkey-9.1"])
def test_messages(alone, kind):
    """Several subscribers in both protocols get the bytes that a server sends, and publishers the number of clients."""
    server, proxy = alone(kind)
    said = []
    for endpoint in (server, proxy):
        subscribers = [endpoint.connect(protocol=p) for p in (2, 3, 2, 3, 2)]
        for i, s in enumerate(subscribers):
            s.send("SUBSCRIBE", "news", "other")
            if i % 2:
                s.send("PSUBSCRIBE", "n?w[a-z]", "nobody*")
            s.send("SSUBSCRIBE", "{s}hard")
            until_quiet(s, b"ready")
        with endpoint.connect() as publisher:
            numbers = [publisher.call("PUBLISH", "news", m) for m in ("", "short", b"\0\r\n" * 5, b"x" * 100000)]
            numbers += [publisher.call("PUBLISH", "nowhere", "x"), publisher.call("SPUBLISH", "{s}hard", "s"), publisher.call("PUBLISH", "other", "o")]
            numbers += [publisher.call("PUBSUB", "NUMSUB", "news", "nosuch"), publisher.call("PUBSUB", "NUMPAT"), sorted(publisher.call("PUBSUB", "CHANNELS")),
                        publisher.call("PUBSUB", "CHANNELS", "n*"), publisher.call("PUBSUB", "SHARDCHANNELS"), publisher.call("PUBSUB", "SHARDNUMSUB", "{s}hard")]
        said.append((numbers, [until(s, b"$5\r\nother\r\n$1\r\no\r\n") for s in subscribers]))  # the last that was published
        for s in subscribers:
            s.close()
        wait_until("nobody is subscribed", lambda: endpoint.call("PUBSUB", "NUMSUB", "news")[1] == 0)
    assert said[0] == said[1]
    assert said[0][0][0] == 7  # five clients, and two of them by a pattern, too


def test_others_and_lost_connections(alone):
    """Who publishes at the server itself is heard, and counts; a connection that breaks is made and subscribed again."""
    server, proxy = alone("redis-7.0")
    with proxy.connect(protocol=3) as one, proxy.connect() as two, server.connect(protocol=3) as direct:
        one.send("SUBSCRIBE", "c")
        assert one.read_any() == [b"subscribe", b"c", 1]
        assert two.call("SUBSCRIBE", "c") == [b"subscribe", b"c", 1]
        direct.send("SUBSCRIBE", "c")
        assert direct.read_any() == [b"subscribe", b"c", 1]
        assert proxy.call("PUBLISH", "c", "1") == 3
        assert server.call("PUBLISH", "c", "2") > 1
        for s in (one, two, direct):
            assert [s.read_any()[2], s.read_any()[2]] == [b"1", b"2"]
    with proxy.connect() as s:
        s.call("SUBSCRIBE", "d")
        assert server.call("CLIENT", "KILL", "TYPE", "pubsub") > 0
        wait_until("subscribed again", lambda: server.call("PUBSUB", "NUMSUB", "d")[1] > 0)
        assert proxy.call("PUBLISH", "d", "3") == 1
        assert s.read_any()[2] == b"3"


def test_order_of_replies(alone):
    """Confirmations stand where the command stood, behind what was asked before."""
    _, proxy = alone("redis-7.0")
    with proxy.connect(protocol=3) as c:
        c.send_raw(b"".join(encode(x) for x in [("SET", "k", "v"), ("GET", "k"), ("SUBSCRIBE", "fresh%d" % id(c)), ("GET", "k"), ("UNSUBSCRIBE",), ("ECHO", "e")]))
        got = [c.read_any() for _ in range(6)]
        assert [type(g) is Push for g in got] == [False, False, True, False, True, False]
        assert got[0] == b"OK" and got[1] == got[3] == b"v" and got[5] == b"e"


def test_slow_subscriber(servers, alone):
    """One that does not read is cut off, the others get everything."""
    server, _ = alone("redis-7.0")
    proxy = servers.crossfade(server, config={"client-output-max": "1mb", "workers": 1})
    with proxy.connect() as slow, proxy.connect(timeout=60) as quick, proxy.connect() as publisher:
        for s in (slow, quick):
            s.call("SUBSCRIBE", "flood")
        for i in range(400):
            publisher.call("PUBLISH", "flood", b"%06d" % i + b"x" * 60000)
            assert quick.read_any()[2][:6] == b"%06d" % i
        with pytest.raises((Disconnected, ConnectionResetError)):
            while True:
                slow.read_any()


def test_refused(alone, servers, tmp_path):
    """The proxy's account may not subscribe: the client is told so, and may go on."""
    server, _ = alone("redis-7.0")
    server.call("ACL", "SETUSER", "deaf", "on", ">pw", "~*", "+@all", "resetchannels")
    (tmp_path / "pw").write_text("pw")
    (tmp_path / "pw").chmod(0o600)
    proxy = servers.crossfade(server, config={"source-user": "deaf", "source-auth-file": str(tmp_path / "pw")})
    with proxy.connect() as c:
        for command in ("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"):
            assert c.try_call(command, "c", "c").code == "NOPERM"
            assert c.call("PING") == b"PONG"
        assert c.call("PUBSUB", "NUMSUB", "c") == [b"c", 0]


# ---- flips

class Subscriber(threading.Thread):
    """Reads messages until the end mark of every publisher came on every channel it hears."""

    def __init__(self, proxy, protocol, commands, ends):
        super().__init__()
        self.client = proxy.connect(protocol=protocol, timeout=60)
        self.left = ends
        self.got, self.error = [], None
        for command in commands:
            self.client.send(*command)
            self.client.read_any()
        self.start()

    def run(self):
        try:
            while self.left:
                message = self.client.read_any()
                channel, payload = message[-2:]
                self.got.append((channel, payload))
                self.left -= payload.endswith(b":end")
        except Exception as e:
            self.error = e


class Publisher(threading.Thread):
    """Numbered messages to all its channels in turn, until told to stop."""

    def __init__(self, proxy, name, channels):
        super().__init__()
        self.client = proxy.connect(timeout=60)
        self.name, self.channels, self.sent = name, channels, []
        self.stop, self.error = threading.Event(), None
        self.start()

    def publish(self, text):
        for command, channel in self.channels:
            message = b"%b:%b" % (self.name.encode(), text)
            assert self.client.call(command, channel, message) > 0
            self.sent.append((channel.encode(), message))

    def run(self):
        try:
            n = 0
            while not self.stop.is_set():
                self.publish(b"%d" % n)
                n += 1
            self.publish(b"end")
        except Exception as e:
            self.error = e


def test_through_flips(clusters):
    source, target, proxy = clusters
    plain = [("PUBLISH", "one"), ("PUBLISH", "two")]
    shard = [("SPUBLISH", "s{a}"), ("SPUBLISH", "s{bcd}")]
    publishers = 3
    hears = {
        "channels": ([("SUBSCRIBE", "one"), ("SUBSCRIBE", "two")], plain),
        "pattern": ([("PSUBSCRIBE", "*o*")], plain),
        "shard": ([("SSUBSCRIBE", "s{a}"), ("SSUBSCRIBE", "s{bcd}")], shard),
    }
    subscribers = [(Subscriber(proxy, protocol, commands, publishers * len(channels)), channels)
                   for commands, channels in hears.values() for protocol in (2, 3)]
    writers = [Publisher(proxy, "p%d" % i, plain + shard) for i in range(publishers)]
    for command in ("cutover", "rollback", "cutover"):
        marks = [len(w.sent) for w in writers]
        wait_until("messages flow", lambda: all(len(w.sent) > m + 40 or w.error for w, m in zip(writers, marks)), 30)
        proxy.ctl(command, "--yes")
    marks = [len(w.sent) for w in writers]
    wait_until("messages flow", lambda: all(len(w.sent) > m + 40 or w.error for w, m in zip(writers, marks)), 30)
    for w in writers:
        w.stop.set()
    for w in writers:
        w.join()
        assert not w.error, w.error
    for s, channels in subscribers:
        s.join()
        assert not s.error, s.error
        heard = {c.encode() for _, c in channels}
        for w in writers:
            wanted = [m for m in w.sent if m[0] in heard]
            got = [m for m in s.got if m[1].startswith(w.name.encode() + b":")]
            if channels is shard:  # of other slots, hence of other nodes: in order for each
                wanted, got = sorted(wanted, key=lambda m: m[0]), sorted(got, key=lambda m: m[0])
            assert got == wanted
        s.client.close()
    proxy.ctl("rollback", "--yes")


def test_keyspace_notifications(clusters):
    """Both sides make them: each comes once, from all nodes, before, during and after a flip."""
    source, target, proxy = clusters
    subscriber = proxy.connect(timeout=60)
    subscriber.call("PSUBSCRIBE", "__keyspace@0__:note:*")
    events = proxy.connect(timeout=60)
    events.call("SUBSCRIBE", "__keyevent@0__:append")
    stop, written = threading.Event(), []

    def write():
        with proxy.connect(timeout=60) as c:
            while not stop.is_set():
                c.call("APPEND", "note:%d" % len(written), "x")
                written.append(b"note:%d" % len(written))
            c.call("APPEND", "note:end", "x")
    writer = threading.Thread(target=write)
    writer.start()
    for command in ("cutover", "rollback", "cutover", "rollback"):
        mark = len(written)
        wait_until("keys are written", lambda: len(written) > mark + 50, 30)
        proxy.ctl(command, "--yes")
    stop.set()
    writer.join()
    wanted = sorted(written + [b"note:end"])
    names, keys = [], []
    while len(names) < len(wanted):
        _, _, channel, event = subscriber.read_any()
        if event == b"append":
            names.append(channel.split(b":", 1)[1])
    while len(keys) < len(wanted):
        keys.append(events.read_any()[2])
    assert sorted(names) == wanted and sorted(keys) == wanted
    for c in (subscriber, events):
        c.send("PING", "end")
        rest = [c.read_any()]
        while rest[-1] != [b"pong", b"end"]:
            rest.append(c.read_any())
        assert not [r for r in rest if r[-1] == b"append" or r[1] == b"__keyevent@0__:append"]
        c.close()


def test_sharded_channel_follows_its_slot(clusters, servers):
    """The server ends the subscription when the slot moves; the proxy goes after it."""
    source = clusters[0]
    proxy = servers.crossfade(source)
    slot = key_slot(b"moved")
    owner = source.node_for("moved")
    other = next(n for n in source.primaries() if n is not owner)
    with proxy.connect() as s:
        s.call("SSUBSCRIBE", "moved")
        assert proxy.call("SPUBLISH", "moved", "1") == 1
        source.move_slot(slot, other)
        wait_until("subscribed at the new node", lambda: other.call("PUBSUB", "SHARDNUMSUB", "moved")[1] > 0, 20)
        assert proxy.call("SPUBLISH", "moved", "2") == 1
        source.move_slot(slot, owner)
        wait_until("and back", lambda: owner.call("PUBSUB", "SHARDNUMSUB", "moved")[1] > 0, 20)
        assert proxy.call("SPUBLISH", "moved", "3") == 1
        assert [s.read_any() for _ in range(3)] == [[b"smessage", b"moved", m] for m in (b"1", b"2", b"3")]
