"""What the proxy answers by itself, against a real server asked directly: the same bytes, or, where numbers must differ, the same shape. RESP2 and RESP3.

Where servers differ among themselves the source's kind counts: clients are told that they talk to it.
"""
import re
import time

import pytest
from harness import Client, KINDS
from harness.resp import Disconnected

PROTOCOLS = [2, 3]
NEWEST = "valkey-9.1"  # of which the table has the arity and flags

# Commands whose replies are the same bytes on any server that knows them. Each is asked on a connection that may have a state from those before it.
SAME = [
    ("PING",), ("PING", "a"), ("PING", "a", "b"), ("PING", ""), ("ECHO", "x"), ("ECHO",), ("ECHO", "a\r\nb"),
    ("SELECT", "0"), ("SELECT", "x"), ("SELECT", "99"), ("SELECT", "-1"), ("SELECT", "00"), ("SELECT", "99999999999"),
    ("SELECT", "9" * 30), ("SELECT",),
    ("AUTH", "x"), ("AUTH", ""), ("AUTH", "default", "x"), ("AUTH", "nobody", "x"), ("AUTH", "a", "b", "c"), ("AUTH",),
    ("HELLO", "x"), ("HELLO", "4"), ("HELLO", "1"), ("HELLO", "03"), ("HELLO", "-3"), ("HELLO", "2", "FOO"), ("HELLO", "3", "AUTH", "a"),
    ("HELLO", "3", "AUTH", "nobody", "b"), ("HELLO", "3", "SETNAME"), ("HELLO", "3", "SETNAME", "a b"), ("HELLO", "2", "F'o\"\r\no"),
    ("CLIENT", "GETNAME"), ("CLIENT", "SETNAME", "a b"), ("CLIENT", "SETNAME", "a\nb"), ("CLIENT", "SETNAME", "ü"), ("CLIENT", "GETNAME"),
    ("CLIENT", "SETNAME", "Bob"), ("CLIENT", "GETNAME"), ("CLIENT", "SETNAME", ""), ("CLIENT", "GETNAME"), ("CLIENT", "SETNAME"),
    ("CLIENT", "NONSENSE"), ("CLIENT",), ("READONLY",), ("READWRITE",), ("ASKING",), ("TIME", "x"), ("INFO", "nonsense"),
    ("COMMAND", "INFO", "nope", "get|x", "config|", "config|get|x", ""), ("COMMAND", "DOCS", "nope"), ("COMMAND", "NONSENSE"),
    ("COMMAND", "LIST", "x"), ("COMMAND", "LIST", "FILTERBY"), ("COMMAND", "LIST", "FILTERBY", "ACLCAT"),
    ("COMMAND", "LIST", "FILTERBY", "x", "x"), ("COMMAND", "LIST", "FILTERBY", "ACLCAT", "geo", "x"),
    ("COMMAND", "LIST", "FILTERBY", "ACLCAT", "nope"), ("COMMAND", "LIST", "FILTERBY", "MODULE", "nope"),
    ("COMMAND", "GETKEYS", "GET", "a"), ("COMMAND", "GETKEYS", "get", "a", "b"), ("COMMAND", "GETKEYS", "EVAL", "x", "0"),
    ("COMMAND", "GETKEYS", "EVAL", "x", "2", "a", "b", "c"), ("COMMAND", "GETKEYS", "EVAL", "x", "5", "a"), ("COMMAND", "GETKEYS", "EVAL", "x", "y"),
    ("COMMAND", "GETKEYS", "MSET", "a", "b", "c"), ("COMMAND", "GETKEYS", "MSET", "a", "b", "c", "d"), ("COMMAND", "GETKEYS", "CONFIG", "GET", "x"),
    ("COMMAND", "GETKEYS", "CONFIG", "NOPE"), ("COMMAND", "GETKEYS", "OBJECT", "ENCODING", "x"), ("COMMAND", "GETKEYS", "SPUBLISH", "x", "y"),
    ("COMMAND", "GETKEYS", "XREAD", "COUNT", "1"), ("COMMAND", "GETKEYS", "SORT", "a", "STORE", "b"), ("COMMAND", "GETKEYS", "ZUNION", "0", "a"),
    ("COMMAND", "GETKEYS", "NOPE", "a"), ("COMMAND", "GETKEYS", "PING", "a"), ("COMMAND", "GETKEYS", "config|get", "x"),
    ("COMMAND", "GETKEYS", "DEL", *["k%d" % i for i in range(300)]),
    ("CLUSTER",), ("CLUSTER", "NONSENSE"), ("CLUSTER", "KEYSLOT", "foo"), ("CLUSTER", "KEYSLOT", "a{foo}b"), ("CLUSTER", "KEYSLOT", ""), ("CLUSTER", "KEYSLOT"),
    ("CLUSTER", "LINKS"), ("CLUSTER", "SLOTS", "x"), ("CLUSTER", "NODES", "x"), ("CLUSTER", "REPLICAS", "abc"), ("CLUSTER", "SLAVES", "abc"),
    ("CLUSTER", "REPLICAS"), ("CLUSTER", "COUNT-FAILURE-REPORTS", "abc"),
    ("RESET", "x"), ("HELLO", "2", "AUTH", "nobody", "x", "SETNAME", "ok"),
]
# Of these the documentation's group (of hgetdel the version) follows from nothing in the command table.
GROUP_UNKNOWN = {b"cluster", b"clusterscan", b"command", b"dbsize", b"flushall", b"flushdb", b"hgetdel", b"sort", b"sort_ro", b"swapdb", b"wait", b"waitaof"}
# Known only from 7.2 on.
SETINFO = [("CLIENT", "SETINFO", "lib-name", "a b"), ("CLIENT", "SETINFO", "LIB-NAME", "ab"), ("CLIENT", "SETINFO", "lib-ver", "1\n2"),
           ("CLIENT", "SETINFO", "lib-ver", ""), ("CLIENT", "SETINFO", "foo", "1"), ("CLIENT", "SETINFO", "foo")]
# Redis 7.0 wants four words at least.
GETKEYS_SHORT = [("COMMAND", "GETKEYS", "GET"), ("COMMAND", "GETKEYS", "nope"), ("COMMAND", "GETKEYS", "PING"), ("COMMAND", "GETKEYS", "OBJECT")]


@pytest.fixture(scope="module", params=[(k, c) for k in KINDS for c in (False, True)], ids=lambda p: "%s-%s" % (p[0], "cluster" if p[1] else "standalone"))
def pair(request, servers):
    """(kind, is a cluster, the server's node, the proxy before it)."""
    kind, is_cluster = request.param
    source = servers.cluster(kind, shards=1) if is_cluster else servers.standalone(kind)
    return kind, is_cluster, source.nodes[0], servers.crossfade(source)


@pytest.fixture(params=PROTOCOLS, ids=["resp2", "resp3"])
def two(request, pair):
    """(server, proxy): a connection to each, of one protocol."""
    with Client(pair[2].port, protocol=request.param) as server, Client(pair[3].port, protocol=request.param) as proxy:
        if request.param == 2:
            assert server.call("HELLO", 2) and proxy.call("HELLO", 2)
        yield server, proxy


def shape(raw):
    """The types of a reply: "$", or ("*", [shapes]). Texts and numbers do not count, nor does how many elements of one shape there are."""
    pos = 0

    def value():
        nonlocal pos
        end = raw.index(b"\r\n", pos)
        kind, rest = raw[pos:pos + 1].decode(), raw[pos + 1:end]
        pos = end + 2
        if kind in "*~%>" and rest != b"-1":
            return kind, [value() for _ in range(int(rest) * (2 if kind == "%" else 1))]
        if kind in "$=" and rest != b"-1":
            pos += int(rest) + 2
        return kind + "-1" if rest == b"-1" else kind
    result = value()
    assert pos == len(raw)
    return result


def as_dict(reply):
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2]))


def check_same(two, commands):
    server, proxy = two
    wrong = []
    for command in commands:
        theirs, ours = server.raw(*command), proxy.raw(*command)
        if theirs != ours:
            wrong.append("%r\n  server %r\n  proxy  %r" % (command, theirs[:300], ours[:300]))
    assert not wrong, "\n".join(wrong)


def test_same_bytes(two):
    check_same(two, SAME)


def test_same_bytes_where_known(pair, two):
    if pair[0] != "redis-7.0":
        check_same(two, SETINFO + GETKEYS_SHORT)
    else:
        assert two[1].call("CLIENT", "SETINFO", "lib-name", "x") == b"OK"  # libraries need not be told no


def test_hello(two):
    server, proxy = two
    for words in (["HELLO"], ["HELLO", 2], ["HELLO", 3, "AUTH", "default", "x"], ["HELLO", 3], ["HELLO", 2, "SETNAME", "nm"]):
        theirs, ours = server.raw(*words), proxy.raw(*words)
        assert theirs[:1] == ours[:1] and theirs.split(b"modules")[0].count(b"\r\n") == ours.split(b"modules")[0].count(b"\r\n")
        theirs, ours = as_dict(server.call(*words)), as_dict(proxy.call(*words))
        assert list(theirs) == list(ours)
        assert isinstance(ours.pop(b"id"), int) and ours.pop(b"modules") == []  # modules are of one server
        del theirs[b"id"], theirs[b"modules"]
        assert theirs == ours
    assert server.call("CLIENT", "GETNAME") == proxy.call("CLIENT", "GETNAME") == b"nm"


def test_hello_keeps_state_on_error(two):
    _, proxy = two
    before = as_dict(proxy.call("HELLO"))[b"proto"]
    for words in (["HELLO", 5 - before, "SETNAME", "x", "NOPE"], ["HELLO", 5 - before, "AUTH", "nobody", "x", "SETNAME", "x"]):
        with pytest.raises(Exception):
            proxy.call(*words)
        assert as_dict(proxy.call("HELLO"))[b"proto"] == before
        assert proxy.call("CLIENT", "GETNAME") is None


def test_reset(two):
    server, proxy = two
    for c in two:
        assert c.call("CLIENT", "SETNAME", "x") == b"OK"
    assert server.raw("RESET") == proxy.raw("RESET")
    assert server.raw("CLIENT", "GETNAME") == proxy.raw("CLIENT", "GETNAME") == b"$-1\r\n"
    assert server.raw("COMMAND", "DOCS", "nope") == proxy.raw("COMMAND", "DOCS", "nope") == b"*0\r\n"


def test_quit(two):
    server, proxy = two
    for c in two:
        assert c.pipeline([("ECHO", "a"), ("QUIT",)]) == [b"a", b"OK"]
        with pytest.raises(Disconnected):
            c.read(5)


def test_select_of_other_databases(two):
    check_same(two, [("SELECT", "1"), ("SELECT", "15"), ("SELECT", "16"), ("SELECT", "0")])


def test_time(two):
    server, proxy = two
    assert shape(server.raw("TIME")) == shape(proxy.raw("TIME"))
    now = proxy.call("TIME")
    assert abs(int(now[0]) + int(now[1]) / 1e6 - time.time()) < 5


def test_client_id(pair, two):
    server, proxy = two
    assert shape(server.raw("CLIENT", "ID")) == shape(proxy.raw("CLIENT", "ID"))
    mine = proxy.call("CLIENT", "ID")
    assert proxy.call("CLIENT", "ID") == mine == as_dict(proxy.call("HELLO"))[b"id"]
    with pair[3].connect() as other:
        assert other.call("CLIENT", "ID") > mine


def client_fields(c):
    line = c.call("CLIENT", "INFO").decode()
    assert line.endswith("\n") and line.count("\n") == 1
    return dict(w.split("=", 1) for w in line.strip("\n").split(" "))


def test_client_info(pair, two):
    server, proxy = two
    for c in two:
        c.call("CLIENT", "SETNAME", "me")
    assert shape(server.raw("CLIENT", "INFO")) == shape(proxy.raw("CLIENT", "INFO"))
    theirs, ours = client_fields(server), client_fields(proxy)
    assert [f for f in theirs if f in ours] == list(ours)  # the servers' names and order
    assert set(theirs) - set(ours) <= {"capa", "io-thread", "tot-net-in", "tot-net-out", "tot-cmds", "ssub", "argv-mem"}
    for name in ("name", "flags", "db", "multi", "cmd", "user", "redir", "resp"):
        assert theirs[name] == ours[name], name
    assert ours["addr"] == "%s:%d" % proxy.sock.getsockname()
    assert ours["laddr"] == "%s:%d" % proxy.sock.getpeername()
    assert ours["id"] == str(proxy.call("CLIENT", "ID"))


# ---- INFO

def sections(text):
    result, at = {}, None
    for line in text.decode().split("\r\n"):
        if line.startswith("# "):
            at = result.setdefault(line[2:], {})
        elif line:
            name, value = line.split(":", 1)
            at[name] = value
    return result


def test_info(pair, two):
    kind, is_cluster, node, running = pair
    server, proxy = two
    assert shape(server.raw("INFO")) == shape(proxy.raw("INFO"))
    theirs, ours = sections(server.call("INFO")), sections(proxy.call("INFO"))
    assert [s for s in theirs if s in ours] == [s for s in ours if s != "Crossfade"]
    for section, fields in ours.items():
        if section != "Crossfade":
            assert set(fields) - set(theirs[section]) <= {"redis_mode"}, section  # Valkey says server_mode; clients look for the other
    merged = {k: v for fields in ours.values() for k, v in fields.items()}
    assert merged["redis_version"] == theirs["Server"]["redis_version"]
    assert merged["redis_mode"] == ("cluster" if is_cluster else "standalone")
    assert merged.get("valkey_version") == theirs["Server"].get("valkey_version")
    assert merged["cluster_enabled"] == theirs["Cluster"]["cluster_enabled"] == str(int(is_cluster))
    assert merged["loading"] == "0" and merged["role"] == "master"
    assert merged["tcp_port"] == str(running.port) and merged["process_id"] == str(running.proc.pid)
    assert int(merged["connected_clients"]) >= 1 and int(merged["uptime_in_seconds"]) < 3600
    assert re.fullmatch("[0-9a-f]{40}", merged["run_id"]) and re.fullmatch("[0-9a-f]{40}", merged["master_replid"])
    before = int(merged["total_commands_processed"]), int(merged["master_repl_offset"])
    proxy.call("SET", "k", "v")
    merged = {k: v for fields in sections(proxy.call("INFO")).values() for k, v in fields.items()}
    assert int(merged["total_commands_processed"]) > before[0] and int(merged["master_repl_offset"]) > before[1]
    assert merged["run_id"] == sections(proxy.call("INFO", "SERVER"))["Server"]["run_id"]


@pytest.mark.parametrize("words", [["server"], ["Server", "CLIENTS"], ["clients", "server", "nope"], ["cluster", "cluster"]])
def test_info_of_sections(two, words):
    server, proxy = two
    assert list(sections(server.call("INFO", *words))) == list(sections(proxy.call("INFO", *words)))


@pytest.mark.parametrize("word", ["all", "EVERYTHING", "default"])
def test_info_of_all(two, word):
    _, proxy = two
    assert list(sections(proxy.call("INFO", word))) == list(sections(proxy.call("INFO")))
    assert sections(proxy.call("INFO", "crossfade"))["Crossfade"].keys() == sections(proxy.call("INFO", word))["Crossfade"].keys()


# ---- CLUSTER

def test_cluster_shapes(pair, two):
    """The proxy is the one node of its cluster; a server of one shard answers in the same shape. No cluster: the same refusal."""
    kind, is_cluster, node, running = pair
    server, proxy = two
    asked = ["SLOTS", "SHARDS", "NODES", "INFO", "MYID"] + (["MYSHARDID"] if kind != "redis-7.0" else [])
    if not is_cluster:
        check_same(two, [("CLUSTER", word) for word in asked])
        return
    for word in asked:
        assert shape(server.raw("CLUSTER", word)) == shape(proxy.raw("CLUSTER", word)), word
    me, at = proxy.call("CLUSTER", "MYID"), [b"127.0.0.1", running.port]
    assert re.fullmatch(b"[0-9a-f]{40}", me)
    assert [row[:2] + [row[2][:3]] for row in proxy.call("CLUSTER", "SLOTS")] == [[0, 16383, at + [me]]]
    shard, = [as_dict(s) for s in proxy.call("CLUSTER", "SHARDS")]
    theirs, = [as_dict(s) for s in server.call("CLUSTER", "SHARDS")]
    assert shard[b"slots"] == [0, 16383] and list(shard) == list(theirs)
    one, = [as_dict(n) for n in shard[b"nodes"]]
    assert list(one) == list(as_dict(theirs[b"nodes"][0])) and [one[b"ip"], one[b"port"], one[b"id"]] == at + [me]
    words = proxy.call("CLUSTER", "NODES").decode().split(" ")
    assert words[0].encode() == me and words[1].startswith("127.0.0.1:%d@" % running.port) and words[2] == "myself,master"
    assert len(words) == len(server.call("CLUSTER", "NODES").decode().split(" "))
    info = dict(line.split(":") for line in proxy.call("CLUSTER", "INFO").decode().split())
    assert info["cluster_state"] == "ok" and info["cluster_slots_ok"] == "16384" and int(info["cluster_my_epoch"]) >= 0
    assert set(info) <= {line.split(":")[0] for line in server.call("CLUSTER", "INFO").decode().split()}
    assert proxy.call("CLUSTER", "REPLICAS", me) == [] and proxy.call("CLUSTER", "COUNT-FAILURE-REPORTS", me) == 0


def test_cluster_announced(servers):
    proxy = servers.crossfade(servers.cluster("redis-7.0", shards=1), config={
        "cluster-announce-ip": "192.0.2.7", "cluster-announce-port": 7000, "cluster-announce-hostname": "cache.example"})
    with proxy.connect(protocol=3) as c:
        me = c.call("CLUSTER", "MYID")
        assert c.call("CLUSTER", "SLOTS") == [[0, 16383, [b"cache.example", 7000, me, {b"ip": b"192.0.2.7"}]]]
        assert c.call("CLUSTER", "NODES").startswith(me + b" 192.0.2.7:7000@17000,cache.example myself,master")
        node = c.call("CLUSTER", "SHARDS")[0][b"nodes"][0]
        assert [node[k] for k in (b"endpoint", b"hostname", b"ip", b"port")] == [b"cache.example", b"cache.example", b"192.0.2.7", 7000]


# ---- COMMAND

def rows_of(reply, into=None):
    """name -> row, subcommands included."""
    into = {} if into is None else into
    for row in reply:
        into[row[0].decode().lower()] = row  # modules' commands are shown as modules spell them
        rows_of(row[9], into)
    return into


def key_specs(row):
    def plain(v):
        return {k.decode(): plain(x) for k, x in as_dict(v).items()} if isinstance(v, (dict, list)) and v and not isinstance(v, set) else v
    found = []
    for spec in row[8]:
        spec = as_dict(spec)
        found.append((frozenset(spec[b"flags"]), str(plain(spec[b"begin_search"])), str(plain(spec[b"find_keys"]))))
    return sorted(found, key=repr)


def frozen(v):
    return frozenset(v)


def strip_notes(raw):
    return re.sub(rb"\$5\r\nnotes\r\n\$\d+\r\n[^\r]*\r\n", b"", raw)


def test_command(pair, two):
    kind = pair[0]
    server, proxy = two
    theirs, ours = rows_of(server.call("COMMAND")), rows_of(proxy.call("COMMAND"))
    assert not set(ours) - set(theirs)
    assert len(ours) > len(theirs) * 0.8
    for must in ("get", "mset", "eval", "xread", "config|get", "client|setname", "hello"):
        assert must in ours
    for not_shown in ("shutdown", "replicaof", "psync", "cluster|meet"):
        assert not_shown not in ours
    assert proxy.call("COMMAND", "COUNT") == len(proxy.call("COMMAND")) == len([n for n in ours if "|" not in n])
    assert rows_of(proxy.call("COMMAND", "INFO")).keys() == ours.keys()
    for name, row in ours.items():
        if name not in theirs:
            continue
        assert frozen(row[6]) == frozen(theirs[name][6]) or kind != NEWEST, (name, row[6], theirs[name][6])
        if kind == NEWEST:
            assert row[1] == theirs[name][1] and row[3:6] == theirs[name][3:6], (name, row[:6], theirs[name][:6])
            assert frozen(row[2]) <= frozen(theirs[name][2]), name
            assert key_specs(row) == key_specs(theirs[name]), name


def test_command_info_shape(pair, two):
    """Row by row: the types at each place, and of key specifications the very bytes where the table was made from that server."""
    server, proxy = two
    theirs = rows_of(server.call("COMMAND"))
    for name, row in rows_of(proxy.call("COMMAND")).items():
        if name not in theirs:
            continue
        a, b = server.raw("COMMAND", "INFO", name), proxy.raw("COMMAND", "INFO", name)
        a, b = shape(strip_notes(a).replace(b"%4", b"%3").replace(b"*8\r\n$5\r\nflags", b"*6\r\n$5\r\nflags"))[1][0], shape(b)[1][0]
        assert a[0] == b[0] == "*" and len(a[1]) == len(b[1]) == 10, name
        for i in (0, 1, 3, 4, 5, 6):
            assert a[1][i] == b[1][i] or i == 6, (name, i)
        for i in (2, 6, 7, 8):
            assert a[1][i][0] == b[1][i][0], (name, i)
        if len(a[1][8][1]) == len(b[1][8][1]):
            assert [top(s) for s in a[1][8][1]] == [top(s) for s in b[1][8][1]], name
        if bool(a[1][9][1]) == bool(b[1][9][1]):
            assert a[1][9][0] == b[1][9][0], (name, "subcommands")


def top(spec):
    """A key specification without how many flags it has."""
    kind, parts = spec
    return kind, [p[0] if i == 1 else p for i, p in enumerate(parts)]


@pytest.mark.parametrize("words", [["get", "nope", "Mset", "xread"], ["config|get"], ["set"], ["geosearchstore"], ["object"]])
def test_command_info(two, words):
    server, proxy = two
    a, b = server.call("COMMAND", "INFO", *words), proxy.call("COMMAND", "INFO", *words)
    assert [r and r[0] for r in a] == [r and r[0] for r in b]
    for x, y in zip(a, b):
        assert x is None or x[3:6] == y[3:6]


def test_command_docs(two):
    server, proxy = two
    for words in (["get"], ["config|get", "nope"], ["client", "zadd"]):
        theirs, ours = server.raw("COMMAND", "DOCS", *words), proxy.raw("COMMAND", "DOCS", *words)
        assert shape(theirs)[0] == shape(ours)[0] and shape(theirs)[1][1][0] == shape(ours)[1][1][0]
        theirs, ours = as_dict(server.call("COMMAND", "DOCS", *words)), as_dict(proxy.call("COMMAND", "DOCS", *words))
        assert theirs.keys() == ours.keys()
        for name in theirs:
            a, b = as_dict(theirs[name]), as_dict(ours[name])
            assert set(b) <= set(a) and {b"summary", b"since", b"group"} <= set(b)
            assert (a[b"since"], a[b"group"]) == (b[b"since"], b[b"group"]), name
            if b"subcommands" in b:
                assert set(as_dict(b[b"subcommands"])) <= set(as_dict(a[b"subcommands"]))
    assert len(as_dict(proxy.call("COMMAND", "DOCS"))) == proxy.call("COMMAND", "COUNT")


def test_command_docs_groups(two):
    """Since and group of every command are as the server has them, but for a few."""
    server, proxy = two
    theirs, wrong = {n.lower(): as_dict(d) for n, d in as_dict(server.call("COMMAND", "DOCS")).items()}, set()
    for name, doc in as_dict(proxy.call("COMMAND", "DOCS")).items():
        a, b = theirs[name], as_dict(doc)
        if (a.get(b"since", b[b"since"]), a[b"group"]) != (b[b"since"], b[b"group"]):
            wrong.add(name)
    assert wrong <= GROUP_UNKNOWN


@pytest.mark.parametrize("words", [
    [], ["ACLCAT", "geo"], ["ACLCAT", "CONNECTION"], ["PATTERN", "H[gs]E*"], ["PATTERN", "xr*p"], ["PATTERN", "ge[t"], ["PATTERN", "ge[t-"],
    ["PATTERN", "*[a-"], ["PATTERN", "config|g*"], ["PATTERN", "\\"], ["PATTERN", "get\\"], ["PATTERN", "[^a-y]*"], ["PATTERN", "[z-x]d*"],
    ["PATTERN", "zdif?"], ["PATTERN", "geoha*h*"], ["PATTERN", ""], ["PATTERN", "*"], ["PATTERN", "**e*e**"], ["PATTERN", "[]get"], ["PATTERN", "g\\et"]])
def test_command_list(two, words):
    server, proxy = two
    words = ["FILTERBY"] + words if words else []
    assert shape(server.raw("COMMAND", "LIST", *words))[0] == shape(proxy.raw("COMMAND", "LIST", *words))[0]
    shown = {n.encode() for n in rows_of(proxy.call("COMMAND"))}
    ours = proxy.call("COMMAND", "LIST", *words)
    assert len(ours) == len(set(ours))
    assert set(ours) == {n.lower() for n in server.call("COMMAND", "LIST", *words)} & shown


# ---- in the order of the requests

@pytest.mark.parametrize("first,then", [(2, 3), (3, 2)])
def test_pipelined_protocol_change(pair, first, then):
    """Each reply is in the protocol that was in force when its request came, also when forwarded requests stand before it."""
    with Client(pair[2].port) as server, Client(pair[3].port) as proxy:
        replies = []
        for c in (server, proxy):
            c.call("HELLO", first)
            c.call("DEL", "missing")
            commands = [("GET", "missing"), ("CLIENT", "GETNAME"), ("COMMAND", "INFO", "nope"), ("HELLO", str(then), "SETNAME", "x"), ("GET", "missing"),
                        ("COMMAND", "INFO", "nope"), ("ECHO", "end")]
            for command in commands:
                c.send(*command)
            raw = b""
            while not raw.endswith(b"$3\r\nend\r\n"):
                data = c.sock.recv(65536)
                assert data, "closed after %r" % raw
                raw += data
            replies.append(re.sub(rb"modules\r\n.*?(?=_|\$-1)", b"", re.sub(rb"id\r\n:\d+", b"id", raw), flags=re.DOTALL))
        assert replies[0] == replies[1]


def test_inline_and_case(two):
    server, proxy = two
    for line in (b"ping\r\n", b"PiNg 'a b'\r\n", b"client getname\r\n", b"echo \"x\\n\"\r\n"):
        for c in two:
            c.send_raw(line)
        assert server.read() == proxy.read()
