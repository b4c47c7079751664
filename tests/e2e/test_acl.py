"""AUTH and users at the endpoint, compared byte by byte with a server that has loaded the same ACL file; users through a reload and a flip."""
import hashlib
import os
import re

import pytest
from harness import Client, RespError
from harness.process import wait_until

SHA = hashlib.sha256(b"bobs").hexdigest()
USERS = """user default on >dpw ~* &* +@all
user svc on >svcpw ~* &* +@all
user alice on >a1 >a2 ~a:* %R~r:* %W~w:* resetchannels &c:* -@all +@read +@write -getdel +@connection +config|get +select|0 +publish
user bob on #SHA ~* &* +@all -@dangerous -acl +acl|whoami
user carol off >x ~* +@all
user dave on nopass -@all +ping (~d:* +get) (%W~e:* +set +get)
""".replace("SHA", SHA)

CALLS = [
    ("GET", "a:1"), ("GET", "r:1"), ("GET", "w:1"), ("GET", "z"), ("SET", "a:1", "v"), ("SET", "r:1", "v"), ("SET", "w:1", "v"), ("SET", "w:1", "v", "GET"),
    ("MGET", "a:1", "r:1"), ("MGET", "a:1", "w:1"), ("MSET", "a:1", "1", "w:2", "2"), ("MSET", "a:1", "1", "r:2", "2"), ("GETDEL", "a:1"),
    ("EXISTS", "w:1"), ("EXISTS", "z"), ("COPY", "r:1", "w:3", "REPLACE"), ("COPY", "w:1", "r:1"), ("LMPOP", "1", "z", "LEFT"), ("DEL", "a:1", "z"),
    ("SORT", "a:l", "STORE", "r:l"), ("XREAD", "STREAMS", "r:s", "0"), ("XREAD", "STREAMS", "w:s", "0"), ("EVAL", "return 1", "0"), ("EVAL", "return 1", "1", "z"),
    ("CONFIG", "SET", "maxmemory", "0"), ("FLUSHALL",), ("PUBLISH", "z", "m"), ("CLIENT", "ID"), ("CLIENT", "GETNAME"), ("KEYS", "*"), ("SCAN", "0"),
    ("NONSENSE",), ("GET",), ("CONFIG", "NONSENSE"), ("ACL", "WHOAMI"), ("ACL", "LIST"), ("PING",), ("GET", "d:1"), ("GET", "e:1"), ("SET", "e:1", "v"),
    ("SET", "d:1", "v"), ("OBJECT", "ENCODING", "z"), ("TTL", "a:1"), ("TYPE", "w:1"), ("RENAME", "a:1", "a:2"), ("ZADD", "a:z", "1", "m"), ("TIME",),
]


@pytest.fixture(scope="module", params=["redis-7.0", "valkey-9.1"])
def pair(request, servers, tmp_path_factory):
    """A server with the users, and a proxy with the same in front of it, whose account is svc."""
    folder = tmp_path_factory.mktemp("acl")
    aclfile, secret = folder / "users.acl", folder / "svc"
    aclfile.write_text(USERS)
    secret.write_text("svcpw\n")
    secret.chmod(0o600)
    server = servers.standalone(request.param, conf={"aclfile": str(aclfile)})
    proxy = servers.crossfade(server, config={"aclfile": str(aclfile), "source-user": "svc", "source-auth-file": str(secret)})
    return server, proxy


def both(pair, *commands, first=()):
    """The replies of fresh connections to the server and to the proxy, as bytes, of the commands after the first ones."""
    out = []
    for port in (pair[0].port, pair[1].port):
        with Client(port, timeout=20) as c:
            for command in first:
                c.try_call(*command)
            out.append([c.raw(*command) for command in commands])
    return out


REFUSED = re.compile(rb"-(NOPERM|NOAUTH|WRONGPASS|NOPROTO|ERR unknown|ERR wrong number|ERR AUTH|ERR syntax)")


def same_refusals(direct, proxied, commands):
    for d, p, command in zip(direct, proxied, commands):
        if REFUSED.match(d):
            assert p == d, command
        else:
            assert not re.match(rb"-(NOPERM|NOAUTH|WRONGPASS)", p), (command, d, p)


@pytest.mark.parametrize("user", [("alice", "a2"), ("bob", "bobs"), ("dave", "whatever"), ("default", "dpw")])
def test_what_a_user_may(pair, user):
    calls = [c for c in CALLS if user[0] != "default" or c[0] not in ("FLUSHALL", "CONFIG")]
    direct, proxied = both(pair, *calls, first=[("AUTH",) + user])
    same_refusals(direct, proxied, calls)
    assert user[0] == "default" or sum(d.startswith(b"-NOPERM") for d in direct) > 3  # it was about something


def test_logging_in(pair):
    for commands in (
            [("GET", "x"), ("PING",), ("NONSENSE",), ("GET",), ("AUTH", "wrong"), ("AUTH", "dpw"), ("PING",)],
            [("AUTH", "default", "dpw"), ("PING",), ("RESET",), ("PING",)],
            [("AUTH", "alice", "a3"), ("AUTH", "nobody", "a1"), ("AUTH", "carol", "x"), ("AUTH", "a", "b", "c"), ("AUTH",), ("PING",)],
            [("AUTH", "alice", "a1"), ("ACL", "WHOAMI"), ("AUTH", "bob", "wrong"), ("AUTH", "bob", "bobs"), ("ACL", "WHOAMI")],
            [("HELLO",), ("HELLO", "3"), ("HELLO", "9"), ("HELLO", "3", "AUTH", "alice", "wrong"), ("CLIENT", "SETNAME", "x"), ("QUIT",)]):
        direct, proxied = both(pair, *commands)
        assert proxied == direct, commands
    with pair[1].connect() as c:
        hello = c.call("HELLO", "3", "AUTH", "alice", "a1", "SETNAME", "me")
        assert hello[b"proto"] == 3 and c.call("CLIENT", "GETNAME") == b"me" and b" user=alice " in c.call("CLIENT", "INFO")
    assert not re.search("a1|a2|dpw|svcpw|bobs", re.sub(r"/\S+", "", pair[1].log()))


def test_what_acl_says(pair):
    is_7_0 = pair[0].kind == "redis-7.0"
    names = ["default", "svc", "alice", "bob", "carol", "dave", "nobody"]
    commands = [("ACL", "WHOAMI"), ("ACL", "USERS")] + ([] if is_7_0 else [("ACL", "LIST")])  # 7.0 shows other rules of the same effect
    commands += [("ACL", "GETUSER", n) for n in names if not is_7_0 or n not in ("alice", "bob", "dave")]
    commands += [("ACL", "DRYRUN", n, *call) for n in ("alice", "bob", "dave", "nobody") for call in CALLS if call != ("GET",) or not is_7_0]
    for protocol in (("HELLO", "2", "AUTH", "default", "dpw"), ("HELLO", "3", "AUTH", "default", "dpw")):
        direct, proxied = both(pair, *commands, first=[protocol])
        for d, p, command in zip(direct, proxied, commands):
            assert p == d, command
    with pair[1].connect(password="dpw") as c:
        with pair[0].connect(password="dpw") as server:
            categories = server.call("ACL", "CAT")
            assert sorted(c.call("ACL", "CAT")) == sorted(categories)
            for category in ("read", "hash", "pubsub") if is_7_0 else categories:  # the newest server says what is of a category
                assert sorted(c.call("ACL", "CAT", category)) == sorted(server.call("ACL", "CAT", category)), category
        assert len(c.call("ACL", "GENPASS")) == 64 and len(c.call("ACL", "GENPASS", "5")) == 2
        assert c.call("ACL", "GENPASS") != c.call("ACL", "GENPASS")
        assert isinstance(c.try_call("ACL", "GENPASS", "0"), RespError)
        refused = c.try_call("ACL", "SETUSER", "eve", "on")
        assert isinstance(refused, RespError) and "aclfile" in str(refused)


# ---- reload and flip


REFUSALS = [
    ("GET", "z"), ("GET", "z"), ("SET", "r:1", "v"), ("GETDEL", "a:1"), ("PUBLISH", "z", "m"), ("CONFIG", "SET", "a", "b"), ("AUTH", "alice", "wrong"), ("auth", "wrong"),
    ("HELLO", "3", "AUTH", "nobody", "wrong"), ("NONSENSE",), ("MULTI",), ("GET", "z"), ("GETDEL", "a:1"), ("DISCARD",), ("GET", "z"), ("MGET", "a:1", "z2"), ("CLIENT", "SETNAME", "alice1"), ("GET", "z3"),
]


def log_entries(c, *words):
    entries = []
    for e in c.call("ACL", "LOG", *words):
        e = list(e.items()) if isinstance(e, dict) else list(zip(e[::2], e[1::2]))
        entry = {k.decode(): v for k, v in e}
        assert 0 <= float(entry.pop("age-seconds")) < 60
        info = dict(f.split("=", 1) for f in entry.pop("client-info").decode().split(" "))
        assert info["addr"].startswith("127.0.0.1:")
        for stamp in ("timestamp-created", "timestamp-last-updated"):
            assert stamp not in entry or entry.pop(stamp) > 1700000000000
        entries.append(([k.decode() for k, _ in e], entry, [(f, info[f]) for f in ("name", "cmd", "user", "multi", "flags", "db")], list(info)))
    first = min((e[1]["entry-id"] for e in entries if "entry-id" in e[1]), default=0)
    for e in entries:
        if "entry-id" in e[1]:
            e[1]["entry-id"] -= first
    return entries


@pytest.mark.parametrize("protocol", [2, 3])
def test_log(pair, protocol):
    """The entries as the server has them, their order, what is counted together; RESET and the limits."""
    seen = []
    for peer in pair:
        with peer.connect(protocol=protocol, username="default", password="dpw") as admin:
            assert admin.call("ACL", "LOG", "RESET") == b"OK" and admin.call("ACL", "LOG") == []
            with peer.connect(username="alice", password="a2") as c:
                for command in REFUSALS:
                    c.try_call(*command)
            with peer.connect() as c:
                c.try_call("GET", "unauthenticated")
            seen.append([log_entries(admin, *words) for words in ((), (3,), (0,), (-1,), (100,))])
            seen[-1].append([admin.raw("ACL", "LOG", *words) for words in (("x",), ("reset", "x"), ("99999999999999999999",), ("ReSeT",), ())])
    assert seen[0] == seen[1]
    assert len(seen[0][0]) > 8


def test_log_is_bounded(pair):
    _, proxy = pair
    with proxy.connect(username="default", password="dpw") as admin, proxy.connect(username="alice", password="a2") as c:
        admin.call("ACL", "LOG", "RESET")
        for i in range(140):
            c.try_call("GET", "z%d" % i)
        kept = log_entries(admin, 1000)
        assert len(kept) == 128 and kept[0][1]["object"] == b"z139"
        assert admin.call("ACL", "LOG", "RESET") == b"OK"


def write(path, text):
    path.write_text(text)
    os.chmod(path, 0o600)
    return str(path)


def ended(client):
    try:
        return client.try_call("PING", timeout=10) is None
    except (ConnectionError, OSError):
        return True


def test_reload(standalone, crossfade, tmp_path):
    base = "user default on >dpw ~* &* +@all\nuser keeps on >k ~* +@all\nuser goes on >g ~* +@all\nuser less on >l ~* +@all\n"
    users = tmp_path / "users"
    proxy = crossfade(standalone(), config={"aclfile": write(users, base)})
    clients = {name: proxy.connect(username=name, password=name[0]) for name in ("keeps", "goes", "less")}
    clients["default"] = proxy.connect(password="dpw")
    new = "user default on >other ~* &* +@all\nuser keeps on >k ~* +@all\nuser less on >l ~* +get\nuser new on nopass ~* +get\n"
    write(users, new)
    proxy.reload()
    wait_until("the new users are there", lambda: logs_in(proxy, "new", "x"))
    assert clients["keeps"].call("PING") == b"PONG" and clients["default"].call("PING") == b"PONG"
    assert ended(clients["goes"]) and ended(clients["less"])
    assert logs_in(proxy, "less", "l") and not logs_in(proxy, "goes", "g") and not logs_in(proxy, "default", "dpw")
    write(users, new + "user broken on nonsense\n")
    proxy.reload()
    wait_until("it is refused", lambda: re.search(r"users:5:16: expected a rule.*nothing was changed", proxy.log()))
    assert clients["keeps"].call("PING") == b"PONG" and logs_in(proxy, "new", "x")
    for c in clients.values():
        c.close()


def logs_in(proxy, name, password):
    with proxy.connect() as c:
        return c.try_call("AUTH", name, password) == b"OK"


def test_requirepass_and_users_through_a_flip(standalone, crossfade, tmp_path):
    """The refusals are the source's, before and after; connections stay who they are."""
    source, target = standalone("redis-7.0"), standalone("valkey-9.1")
    users = write(tmp_path / "users", "user default on >dpw ~* &* +@all\nuser alice on >a ~a:* +@all -keys\n")
    proxy = crossfade(source, target, config={"aclfile": users})
    with proxy.connect(username="alice", password="a") as alice, proxy.connect() as nobody:
        def look():
            return [alice.raw(*c) for c in (("SET", "a:1", "v"), ("GET", "b"), ("KEYS", "*"))] + [nobody.raw("GET", "a:1"), nobody.raw("AUTH", "x", "y")]
        before = look()
        proxy.ctl("start")
        proxy.wait("synced")
        proxy.ctl("verify")
        proxy.ctl("cutover", "--yes")
        assert look() == before and before[0] == b"+OK\r\n" and before[1].startswith(b"-NOPERM this user")
    assert target.call("GET", "a:1") == b"v"
    proxy.term()
    proxy.config.update({"aclfile": None, "requirepass-file": write(tmp_path / "pass", "only one\n")})
    proxy.start()
    with proxy.connect() as c:
        assert str(c.try_call("GET", "a:1")) == "NOAUTH Authentication required."
        assert c.call("AUTH", "only one") == b"OK" and c.call("GET", "a:1") == b"v"
