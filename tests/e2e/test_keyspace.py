"""Commands over the whole keyspace: SCAN through nodes, flips, partial flips, restarts and reshards; KEYS, DBSIZE, RANDOMKEY; one slot's keys; what is asked of all nodes."""
import pytest
from harness import RespError
from harness.servers import key_slot

COUNT = 3000
KEYS = {b"key:%d" % i for i in range(COUNT)}


@pytest.fixture(scope="module")
def stage(servers):
    source, target = servers.cluster("redis-7.0", shards=3), servers.cluster("valkey-9.1", shards=2)
    proxy = servers.crossfade(source, target)
    proxy.pipeline([["SET", k, "v"] for k in sorted(KEYS)])
    proxy.call("RPUSH", "a list", "x")
    return source, target, proxy


def scan(client, *options, between=None, cursor=b"0"):
    """All keys of a scan; between(n) is called after the n-th call."""
    keys, n = [], 0
    while True:
        cursor, found = client.call("SCAN", cursor, *options)
        assert 0 <= int(cursor) < 1 << 63 and cursor == b"%d" % int(cursor)
        keys += found
        n += 1
        if cursor == b"0":
            return keys
        assert n < 10 * COUNT
        if between:
            between(n)


def everywhere(proxy, wanted):
    """What is asked of the whole keyspace, now."""
    for proto in (2, 3):
        with proxy.connect(protocol=proto) as c:
            keys = scan(c, "COUNT", 500)
            assert set(keys) == wanted and len(keys) == len(wanted)
            assert c.call("DBSIZE") == len(wanted)
            found = c.call("KEYS", "*")
            assert set(found) == wanted and len(found) == len(wanted)
            assert {c.call("RANDOMKEY") for _ in range(30)} <= wanted
            some = b"key:7"
            slot = key_slot(some)
            assert some in c.call("CLUSTER", "GETKEYSINSLOT", slot, 100)
            assert c.call("CLUSTER", "COUNTKEYSINSLOT", slot) == len([k for k in wanted if key_slot(k) == slot])


def test_scan(stage):
    _, _, proxy = stage
    everywhere(proxy, KEYS | {b"a list"})
    c = proxy.client
    assert scan(c, "TYPE", "list") == [b"a list"]
    assert set(scan(c, "MATCH", "key:1*", "COUNT", 300)) == {k for k in KEYS if k.startswith(b"key:1")}
    assert sorted(c.call("KEYS", "key:1?")) == [b"key:1%d" % i for i in range(10)]
    with proxy.connect() as other:  # a cursor is good on any connection
        cursor, first = c.call("SCAN", 0, "COUNT", 100)
        assert set(first) | set(scan(other, "COUNT", 100, cursor=cursor)) == KEYS | {b"a list"}
    for words in (["SCAN", "x"], ["SCAN", "1x"], ["SCAN", "9" * 30], ["SCAN", "0", "COUNT", "0"], ["SCAN", "0", "FOO"], ["SCAN", "0", "COUNT", "x"],
                  ["CLUSTER", "COUNTKEYSINSLOT", "x"], ["CLUSTER", "COUNTKEYSINSLOT", "99999"], ["CLUSTER", "GETKEYSINSLOT", "0", "-1"], ["KEYS"], ["SCAN"]):
        assert proxy.client.try_call(*words) == stage[0].nodes[0].client.try_call(*words), words


def test_cursors_of_another_time_begin_again(stage):
    _, _, proxy = stage
    for cursor in ("1", "12345678901234", "18446744073709551615", "-1", "+7"):
        assert set(scan(proxy.client, "COUNT", 1000, cursor=cursor)) == KEYS | {b"a list"}, cursor


def test_scan_over_a_resharding(stage):
    source, _, proxy = stage
    dest = source.primaries()[1]
    slots = sorted({key_slot(k) for k in KEYS if source.node_for(k) is source.primaries()[0]})[:3]

    def between(n):
        if n in (2, 6, 9):
            source.move_slot(slots.pop(), dest)
    assert set(scan(proxy.client, "COUNT", 100, between=between)) == KEYS | {b"a list"}
    assert not slots


def test_ask_all_nodes(stage):
    source, _, proxy = stage
    c = proxy.client
    assert c.call("CONFIG", "GET", "maxmemory-policy") == [b"maxmemory-policy", b"noeviction"]
    assert c.call("CONFIG", "SET", "slowlog-log-slower-than", "0") == b"OK"
    assert {n.call("CONFIG", "GET", "slowlog-log-slower-than")[1] for n in source.primaries()} == {b"0"}
    assert c.call("SLOWLOG", "LEN") >= 3 and len(c.call("SLOWLOG", "GET", 1)) == 3
    assert c.call("SLOWLOG", "RESET") == b"OK" and c.call("CONFIG", "SET", "slowlog-log-slower-than", "-1") == b"OK"
    assert isinstance(c.try_call("CONFIG", "SET", "nonsense", "1"), RespError)
    assert c.call("MEMORY", "USAGE", "key:1") > 0 and c.call("MEMORY", "PURGE") == b"OK"
    assert c.call("LATENCY", "LATEST") == [] and c.call("LATENCY", "RESET") == 0 and c.call("LASTSAVE") > 1500000000
    assert c.call("ROLE")[0] == b"master"
    assert c.call("COMMAND", "GETKEYSANDFLAGS", "SORT", "a", "STORE", "b") == [[b"a", [b"RO", b"access"]], [b"b", [b"OW", b"update"]]]


def test_scan_through_flips(stage):
    """Whole, back, and half of the slots: nothing that stayed is left out."""
    _, _, proxy = stage
    wanted = KEYS | {b"a list"}
    proxy.ctl("start")
    proxy.wait("synced,dirty=0")

    def flips(n):
        if n == 5:
            proxy.ctl("cutover", "--yes", "--force")
        elif n == 9:
            proxy.ctl("rollback", "--yes", "--force")
        elif n == 14:
            proxy.ctl("cutover", "--slots", "0-9000", "--yes", "--force")
    assert set(scan(proxy.client, "COUNT", 40, between=flips)) == wanted
    everywhere(proxy, wanted)
    proxy.call("SET", "new", "v")
    proxy.call("DEL", "key:0")
    everywhere(proxy, wanted - {b"key:0"} | {b"new"})
    proxy.call("SET", "key:0", "v")
    proxy.call("DEL", "new")


def test_scan_over_a_restarted_server(servers):
    source = servers.standalone("redis-7.0", conf={"save": "3600 1"})
    proxy = servers.crossfade(source)
    proxy.pipeline([["SET", k, "v"] for k in sorted(KEYS)])

    def between(n):
        if n == 7:
            source.call("SAVE")
            source.restart()
    assert set(scan(proxy.client, "COUNT", 60, between=between)) == KEYS
    assert proxy.client.try_call("CLUSTER", "GETKEYSINSLOT", 1, 1) == source.client.try_call("CLUSTER", "GETKEYSINSLOT", 1, 1)


def test_order_in_a_pipeline(servers):
    """What is asked of all nodes is about what its client sent before it, and about nothing that it sent behind it, whichever worker and node that goes to."""
    proxy = servers.crossfade(servers.cluster("redis-7.0", shards=3), config={"workers": 2})
    with proxy.connect() as c:
        words = []
        for i in range(300):
            words += [["SET", "in order:%d" % i, "v"], ["DBSIZE"]]
        replies = c.pipeline(words + [["KEYS", "in order:*"], ["DEL", "in order:0"], ["SCRIPT", "EXISTS", "x"], ["PING"]])
        assert replies[1:600:2] == [1 + i for i in range(300)]
        assert len(replies[600]) == 300 and replies[601:] == [1, [0], b"PONG"]
        assert c.pipeline([["DEL", "in order:%d" % i] for i in range(1, 300)] + [["DBSIZE"], ["SET", "in order:0", "v"], ["DEL", "in order:0"]])[-3] == 0
