"""The endpoint in front of one side, without a migration: a client cannot tell it from a server, but for what is refused with an error."""
import hashlib
import random
import socket
import threading
import time

import pytest
from harness import RespError
from harness.process import wait_until
from harness.resp import Disconnected, encode

SIDES = {  # name: kind, cluster, workers
    "redis-cluster": ("redis-7.0", True, 2),
    "redis-alone": ("redis-7.0", False, 2),
    "valkey-cluster": ("valkey-9.1", True, 1),
    "valkey-alone": ("valkey-9.1", False, 1),
}
MANY = 100  # keys of commands over slots


class Side:
    """A server or cluster, and a proxy in front of it."""

    def __init__(self, servers, name):
        self.kind, self.clustered, workers = SIDES[name]
        self.name = name
        self.server = servers.cluster(self.kind) if self.clustered else servers.standalone(self.kind)
        self.proxy = servers.crossfade(self.server, config={"workers": workers, "maxclients": 400})

    def direct(self, key, protocol=2):
        node = self.server.node_for(key) if self.clustered else self.server
        return node.connect(protocol=protocol, timeout=30)


@pytest.fixture(scope="module")
def sides(servers):
    made = {}

    def get(name):
        if name not in made:
            made[name] = Side(servers, name)
        return made[name]
    return get


@pytest.fixture(params=list(SIDES))
def side(sides, request):
    found = sides(request.param)
    found.server.flushall()
    found.proxy.drop()
    return found


@pytest.fixture
def redis(sides):
    found = sides("redis-cluster")
    found.server.flushall()
    found.proxy.drop()
    return found


# ---- what a client sees is what the server says

BLOB = bytes(range(256)) * 3
STRINGS = [
    ("SET", "{t}s", "v"), ("GET", "{t}s"), ("SET", "{t}s", BLOB, "GET"), ("GET", "{t}s"), ("GET", "{t}none"), ("STRLEN", "{t}s"),
    ("SET", "{t}s", "v", "NX"), ("SET", "{t}s", "w", "XX", "KEEPTTL"), ("APPEND", "{t}s", "xyz"), ("GETRANGE", "{t}s", 0, 1),
    ("SETRANGE", "{t}s", 6, "!"), ("GET", "{t}s"), ("GETDEL", "{t}s"), ("GETSET", "{t}s", "1"), ("GETSET", "{t}s", "2"),
    ("INCR", "{t}n"), ("INCRBY", "{t}n", 41), ("DECR", "{t}n"), ("DECRBY", "{t}n", 3), ("INCRBYFLOAT", "{t}n", "0.5"),
    ("INCR", "{t}n"), ("MSET", "{t}a", 1, "{t}b", 2), ("MGET", "{t}a", "{t}b", "{t}none"), ("MSETNX", "{t}a", 1, "{t}c", 3),
    ("LCS", "{t}a", "{t}b"), ("LCS", "{t}a", "{t}b", "IDX"), ("SETEX", "{t}e", 1000, "v"), ("PSETEX", "{t}e", 1000000, "v"), ("TTL", "{t}e"),
    ("GETEX", "{t}e", "PERSIST"), ("TTL", "{t}e"), ("TTL", "{t}none"), ("SETNX", "{t}e", "x"), ("SUBSTR", "{t}e", 0, 0),
    ("SETBIT", "{t}bit", 7, 1), ("GETBIT", "{t}bit", 7), ("BITCOUNT", "{t}bit"), ("BITPOS", "{t}bit", 1), ("BITOP", "NOT", "{t}bit2", "{t}bit"),
    ("BITFIELD", "{t}bit", "SET", "u8", 0, 255, "GET", "u4", 0, "OVERFLOW", "FAIL", "INCRBY", "u2", 100, 3), ("BITFIELD_RO", "{t}bit", "GET", "u8", 0),
    ("PFADD", "{t}hll", "a", "b"), ("PFCOUNT", "{t}hll"), ("PFADD", "{t}hll2", "c"), ("PFMERGE", "{t}hll3", "{t}hll", "{t}hll2"), ("PFCOUNT", "{t}hll", "{t}hll2"),
]
LISTS = [
    ("RPUSH", "{t}l", "a", "b", "c", "a"), ("LPUSH", "{t}l", BLOB), ("LRANGE", "{t}l", 0, -1), ("LLEN", "{t}l"), ("LINDEX", "{t}l", 1), ("LINDEX", "{t}l", 99),
    ("LPOS", "{t}l", "a"), ("LPOS", "{t}l", "a", "COUNT", 0), ("LPOS", "{t}l", "zz"), ("LINSERT", "{t}l", "BEFORE", "b", "x"), ("LSET", "{t}l", 0, "first"), ("LREM", "{t}l", 0, "a"),
    ("LPOP", "{t}l"), ("LPOP", "{t}none"), ("LPOP", "{t}none", 2), ("LPOP", "{t}l", 0), ("RPOP", "{t}l", 2), ("RPUSHX", "{t}none", "a"), ("LPUSHX", "{t}l", "y"), ("LTRIM", "{t}l", 0, 0),
    ("LMOVE", "{t}l", "{t}l2", "LEFT", "RIGHT"), ("LMOVE", "{t}none", "{t}l2", "LEFT", "RIGHT"), ("RPOPLPUSH", "{t}l2", "{t}l"), ("LMPOP", 2, "{t}l2", "{t}l", "LEFT"),
    ("LMPOP", 1, "{t}none", "LEFT"), ("LPOP", "{t}l", -1), ("RPUSH", "{t}srt", 3, 1, 2), ("SORT", "{t}srt"), ("SORT", "{t}srt", "DESC", "LIMIT", 0, 2),
    ("SORT_RO", "{t}srt"), ("SORT", "{t}srt", "STORE", "{t}srt2"), ("LRANGE", "{t}srt2", 0, -1),
]
SETS = [
    ("SADD", "{t}s1", 1, 2, 3), ("SADD", "{t}s2", 2, 3, 4), ("SMEMBERS", "{t}s1"), ("SMEMBERS", "{t}none"), ("SISMEMBER", "{t}s1", 2), ("SMISMEMBER", "{t}s1", 2, 9), ("SCARD", "{t}s1"),
    ("SINTER", "{t}s1", "{t}s2"), ("SUNION", "{t}s1", "{t}s2"), ("SDIFF", "{t}s1", "{t}s2"), ("SINTERCARD", 2, "{t}s1", "{t}s2"), ("SINTERSTORE", "{t}d", "{t}s1", "{t}s2"),
    ("SUNIONSTORE", "{t}d", "{t}s1", "{t}s2"), ("SDIFFSTORE", "{t}d", "{t}s1", "{t}s2"), ("SMOVE", "{t}s1", "{t}s2", 1), ("SREM", "{t}s2", 4, 77), ("SADD", "{t}one", "m"),
    ("SRANDMEMBER", "{t}one"), ("SRANDMEMBER", "{t}one", -2), ("SRANDMEMBER", "{t}none"), ("SRANDMEMBER", "{t}none", 2), ("SPOP", "{t}one"), ("SPOP", "{t}one"), ("SPOP", "{t}one", 2),
    ("SSCAN", "{t}s1", 0), ("SADD", "{t}one", "m"), ("SPOP", "{t}one", 5),
]
HASHES = [
    ("HSET", "{t}h", "f", "v", "g", BLOB, "n", 5), ("HGET", "{t}h", "f"), ("HGET", "{t}h", "none"), ("HGETALL", "{t}h"), ("HGETALL", "{t}none"), ("HMGET", "{t}h", "f", "none"), ("HKEYS", "{t}h"),
    ("HVALS", "{t}h"), ("HLEN", "{t}h"), ("HEXISTS", "{t}h", "f"), ("HSTRLEN", "{t}h", "g"), ("HINCRBY", "{t}h", "n", 3), ("HINCRBYFLOAT", "{t}h", "n", "1.5"), ("HSETNX", "{t}h", "f", "x"),
    ("HMSET", "{t}h", "a", "b"), ("HDEL", "{t}h", "g", "none"), ("HSCAN", "{t}h", 0), ("HRANDFIELD", "{t}none"), ("HRANDFIELD", "{t}none", 3), ("HSET", "{t}h1", "f", "v"), ("HRANDFIELD", "{t}h1"),
    ("HRANDFIELD", "{t}h1", 3), ("HRANDFIELD", "{t}h1", 3, "WITHVALUES"), ("HRANDFIELD", "{t}h1", -2, "WITHVALUES"), ("HINCRBY", "{t}h", "f", 1),
]
ZSETS = [
    ("ZADD", "{t}z", 1, "a", "2.5", "b", "inf", "c", "-inf", "d"), ("ZADD", "{t}z", "INCR", "1.1", "a"), ("ZADD", "{t}z", "NX", "INCR", 5, "a"), ("ZADD", "{t}z", "CH", "GT", 7, "b"),
    ("ZSCORE", "{t}z", "a"), ("ZSCORE", "{t}z", "none"), ("ZMSCORE", "{t}z", "a", "none", "c"), ("ZRANGE", "{t}z", 0, -1), ("ZRANGE", "{t}z", 0, -1, "WITHSCORES"), ("ZREVRANGE", "{t}z", 0, 1, "WITHSCORES"),
    ("ZRANGEBYSCORE", "{t}z", 0, "+inf", "WITHSCORES", "LIMIT", 0, 2), ("ZREVRANGEBYSCORE", "{t}z", "+inf", 0), ("ZRANK", "{t}z", "a"), ("ZRANK", "{t}z", "none"), ("ZREVRANK", "{t}z", "b"),
    ("ZCARD", "{t}z"), ("ZCOUNT", "{t}z", 0, 10), ("ZINCRBY", "{t}z", "0.1", "a"), ("ZRANGESTORE", "{t}z2", "{t}z", 0, 1), ("ZUNION", 2, "{t}z", "{t}z2", "WITHSCORES"), ("ZINTER", 2, "{t}z", "{t}z2"),
    ("ZDIFF", 2, "{t}z", "{t}z2", "WITHSCORES"), ("ZDIFF", 2, "{t}z", "{t}z2"), ("ZINTERCARD", 2, "{t}z", "{t}z2"), ("ZUNIONSTORE", "{t}z3", 2, "{t}z", "{t}z2", "WEIGHTS", 2, 1), ("ZINTERSTORE", "{t}z4", 2, "{t}z", "{t}z2"),
    ("ZDIFFSTORE", "{t}z5", 2, "{t}z", "{t}z2"), ("ZLEXCOUNT", "{t}z2", "-", "+"), ("ZRANGEBYLEX", "{t}z2", "-", "+"), ("ZREVRANGEBYLEX", "{t}z2", "+", "-"), ("ZPOPMIN", "{t}z"), ("ZPOPMAX", "{t}z", 2), ("ZPOPMIN", "{t}none"),
    ("ZPOPMIN", "{t}none", 2), ("ZMPOP", 1, "{t}z3", "MIN", "COUNT", 2), ("ZMPOP", 1, "{t}none", "MAX"), ("ZREM", "{t}z3", "a"), ("ZREMRANGEBYRANK", "{t}z3", 0, 0), ("ZREMRANGEBYSCORE", "{t}z", "-inf", "+inf"),
    ("ZREMRANGEBYLEX", "{t}z2", "-", "+"), ("ZADD", "{t}zo", 1, "m"), ("ZRANDMEMBER", "{t}zo"), ("ZRANDMEMBER", "{t}zo", 2), ("ZRANDMEMBER", "{t}zo", -2, "WITHSCORES"), ("ZRANDMEMBER", "{t}none"), ("ZSCAN", "{t}zo", 0),
    ("GEOADD", "{t}geo", "13.361389", "38.115556", "Palermo", "15.087269", "37.502669", "Catania"), ("GEODIST", "{t}geo", "Palermo", "Catania", "km"), ("GEODIST", "{t}geo", "Palermo", "x"), ("GEOPOS", "{t}geo", "Palermo", "x"),
    ("GEOHASH", "{t}geo", "Palermo", "x"), ("GEOSEARCH", "{t}geo", "FROMLONLAT", 15, 37, "BYRADIUS", 200, "km", "ASC", "WITHCOORD", "WITHDIST", "WITHHASH"), ("GEORADIUS", "{t}geo", 15, 37, 200, "km", "WITHDIST", "ASC"),
    ("GEORADIUSBYMEMBER", "{t}geo", "Palermo", 200, "km", "ASC"), ("GEOSEARCHSTORE", "{t}geo2", "{t}geo", "FROMMEMBER", "Palermo", "BYBOX", 400, 400, "km"), ("GEOPOS", "{t}none", "x"),
]
STREAMS = [
    ("XADD", "{t}x", "1-1", "f", "v"), ("XADD", "{t}x", "2-1", "g", BLOB), ("XADD", "{t}x", "1-1", "f", "v"), ("XADD", "{t}x", "NOMKSTREAM", "3-1", "a", "b"), ("XADD", "{t}none", "NOMKSTREAM", "3-1", "a", "b"),
    ("XLEN", "{t}x"), ("XRANGE", "{t}x", "-", "+"), ("XREVRANGE", "{t}x", "+", "-", "COUNT", 1), ("XRANGE", "{t}none", "-", "+"), ("XREAD", "COUNT", 2, "STREAMS", "{t}x", "0"), ("XREAD", "STREAMS", "{t}x", "$"),
    ("XREAD", "STREAMS", "{t}x", "{t}none", "0", "0"), ("XGROUP", "CREATE", "{t}x", "g", "0"), ("XGROUP", "CREATE", "{t}x", "g", "0"), ("XGROUP", "CREATECONSUMER", "{t}x", "g", "c0"),
    ("XREADGROUP", "GROUP", "g", "c1", "COUNT", 2, "STREAMS", "{t}x", ">"), ("XREADGROUP", "GROUP", "g", "c1", "STREAMS", "{t}x", "0"), ("XDEL", "{t}x", "1-1"), ("XREADGROUP", "GROUP", "g", "c1", "STREAMS", "{t}x", "0"),
    ("XREADGROUP", "GROUP", "none", "c1", "STREAMS", "{t}x", ">"), ("XPENDING", "{t}x", "g"), ("XACK", "{t}x", "g", "2-1"), ("XCLAIM", "{t}x", "g", "c2", 0, "1-1", "JUSTID"), ("XAUTOCLAIM", "{t}x", "g", "c2", 0, "0"),
    ("XINFO", "GROUPS", "{t}x"), ("XINFO", "STREAM", "{t}x"), ("XINFO", "STREAM", "{t}none"), ("XTRIM", "{t}x", "MAXLEN", 1), ("XSETID", "{t}x", "9-9"), ("XGROUP", "DELCONSUMER", "{t}x", "g", "c2"), ("XGROUP", "DESTROY", "{t}x", "g"),
    ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "{t}none", ">"), ("XADD", "{t}x", "0-0", "f", "v"), ("XGROUP", "SETID", "{t}x", "g", "0"),
]
KEYS = [
    ("SET", "{t}k", "v"), ("TYPE", "{t}k"), ("TYPE", "{t}none"), ("EXISTS", "{t}k", "{t}k", "{t}none"), ("TOUCH", "{t}k", "{t}none"), ("EXPIRE", "{t}k", 5000), ("EXPIRE", "{t}k", 5000, "NX"), ("PERSIST", "{t}k"), ("PEXPIREAT", "{t}k", "1999999999999"),
    ("PEXPIRETIME", "{t}k"), ("EXPIRETIME", "{t}k"), ("EXPIREAT", "{t}k", "1999999999"), ("RENAME", "{t}k", "{t}k2"), ("RENAME", "{t}none", "{t}k"), ("RENAMENX", "{t}k2", "{t}k"), ("COPY", "{t}k", "{t}k3"), ("COPY", "{t}k", "{t}k3", "REPLACE"),
    ("OBJECT", "ENCODING", "{t}k"), ("OBJECT", "REFCOUNT", "{t}k"), ("OBJECT", "ENCODING", "{t}none"), ("MEMORY", "USAGE", "{t}none"), ("DUMP", "{t}k"), ("DUMP", "{t}none"), ("RESTORE", "{t}r", 0, "junk"),
    ("DEL", "{t}k", "{t}k3"), ("UNLINK", "{t}none"), ("EXPIRE", "{t}none", 100), ("PTTL", "{t}none"), ("TTL", "{t}none"),
]
SCRIPTS = [
    ("EVAL", "return {1, 'two', {3}, redis.call('SET', KEYS[1], ARGV[1])}", 1, "{t}k", "v"), ("EVAL", "return redis.call('GET', KEYS[1])", 1, "{t}k"), ("EVAL", "return 3.99", 0), ("EVAL", "return false", 0), ("EVAL", "return {}", 0),
    ("EVAL", "return redis.error_reply('MY error')", 1, "{t}k"), ("EVAL", "redis.setresp(3) return redis.call('HGETALL', KEYS[1])", 1, "{t}h"), ("EVAL", "return {double=3.25}", 1, "{t}k"),
    ("EVAL", "redis.setresp(3) return {map={a=1}}", 1, "{t}k"), ("EVAL", "redis.setresp(3) return true", 1, "{t}k"), ("EVAL", "return {big_number='1234567'}", 1, "{t}k"), ("EVAL", "return {verbatim_string={string='x', format='txt'}}", 1, "{t}k"),
    ("EVAL", "return redis.call('INCR', KEYS[1])", 1, "{t}k"), ("EVALSHA", "f" * 40, 1, "{t}k"), ("EVAL_RO", "return redis.call('SET', KEYS[1], 1)", 1, "{t}k"), ("EVAL", "syntax", 0), ("EVAL", "return 1", -1), ("EVAL", "return 1", 5, "{t}k"),
    ("EVAL", "return 1", "x"),
]
ERRORS = [
    ("SET", "{t}k", "v"), ("LPUSH", "{t}k", "x"), ("HGETALL", "{t}k"), ("SET", "{t}k"), ("GET",), ("GET", "{t}k", "x"), ("SET", "{t}k", "v", "NOPE"), ("SET", "{t}k", "v", "EX", "x"), ("SET", "{t}k", "v", "EX", 0), ("EXPIRE", "{t}k", "x"),
    ("NOSUCH",), ("NOSUCH", "{t}k", "b", ""), ("nosuch", b"\r\n", "x" * 500), ("x" * 300, "a"), ("", "a"), ("GET\r\nX", "a"), ("CLIENT", "NOSUCH"), ("OBJECT", "NOSUCH", "{t}k"), ("XGROUP", "CREATE"), ("OBJECT", "ENCODING"), ("MSET", "{t}a"), ("MSET", "{t}a", 1, "{t}b"),
    ("ZADD", "{t}z", "x", "m"), ("SETRANGE", "{t}k", -1, "x"), ("LSET", "{t}none", 0, "x"), ("INCRBY", "{t}k", "9" * 30), ("XADD", "{t}x", "1-1", "f"), ("BITOP", "XOR", "{t}d"), ("LMPOP", 0, "{t}l", "LEFT"), ("ZUNION", 2, "{t}k"),
    ("GET", BLOB * 200), ("object", "help"), ("XGROUP", "HELP"), ("ECHO",), ("PING", "a", "b"), ("ECHO", BLOB), ("PING", BLOB), ("PING",), ("SELECT", "x"), ("SELECT", 0), ("HELLO", 9), ("HELLO", "x"), ("CLIENT", "SETNAME", "a b"), ("CLIENT", "GETNAME"),
    ("CLIENT", "SETNAME", "me"), ("CLIENT", "GETNAME"), ("CLIENT", "SETNAME", ""), ("CLIENT", "GETNAME"), ("AUTH", "x"), ("AUTH", "u", "p"), ("HELLO", 2, "NOPE"),
]
CALLS = {"strings": STRINGS, "lists": LISTS, "sets": SETS, "hashes": HASHES, "zsets": ZSETS, "streams": STREAMS, "keys": KEYS,
         "scripts": SCRIPTS, "errors": ERRORS}


def raw_replies(client, commands):
    return [client.raw(*command) for command in commands]


def test_replies_are_the_servers(side):
    """Every data type, in both protocols: the bytes are those that the server itself sends."""
    different = []
    for protocol in (2, 3):
        for group, commands in CALLS.items():
            with side.direct("{t}k", protocol) as direct:
                expected = raw_replies(direct, commands)
            side.server.flushall()
            with side.proxy.connect(protocol=protocol) as c:
                got = raw_replies(c, commands)
            with side.proxy.connect(protocol=protocol) as c:
                side.server.flushall()
                side.server.call("SCRIPT", "FLUSH")
                piped = b"".join(encode(command) for command in commands)
                c.send_raw(piped)
                stream = read_bytes(c, sum(len(e) for e in got))
            assert stream == b"".join(got), "%s, RESP%d: pipelined it is different" % (group, protocol)
            side.server.flushall()
            different += ["RESP%d %r: %r, the server: %r" % (protocol, c[:6], g[:300], e[:300])
                          for c, g, e in zip(commands, got, expected) if g != e]
    assert not different, "\n".join(different)


def read_bytes(client, size):
    data = b""
    client.sock.settimeout(10)
    while len(data) < size:
        part = client.sock.recv(size - len(data))
        assert part, "closed after %d of %d bytes" % (len(data), size)
        data += part
    return data


def test_hello_and_reset(side):
    with side.direct("{t}", 3) as d, side.proxy.connect(protocol=3) as c:
        mine, theirs = dict(c.hello), dict(d.hello)
        assert isinstance(mine.pop(b"id"), int) and theirs.pop(b"id")
        theirs.pop(b"availability_zone", None)
        mine.pop(b"availability_zone", None)
        assert mine.pop(b"modules") == []
        theirs.pop(b"modules")  # Valkey 9.1 has Lua as one
        assert mine == theirs
        assert c.call("CLIENT", "ID") > 0
        assert c.call("HELLO", 3, "SETNAME", "x")[b"proto"] == 3
        assert c.call("CLIENT", "GETNAME") == b"x"
        assert c.call("RESET") == b"RESET"
        assert c.call("HGETALL", "none") == []  # RESP2 again
        assert c.call("CLIENT", "GETNAME") is None


def test_protocol_changes_in_a_pipeline(side):
    """Each reply is in the protocol that was in force when its command was sent."""
    side.proxy.call("HSET", "h", "f", "v")
    with side.proxy.connect() as c:
        for _ in range(20):
            c.send_raw(b"".join(encode(x) for x in (
                ("HGETALL", "h"), ("HELLO", 3), ("HGETALL", "h"), ("GET", "none"), ("HELLO", 2), ("HGETALL", "h"), ("HELLO", 3), ("RESET",), ("HGETALL", "h"))))
            got = [c.read() for _ in range(9)]
            assert got[0] == [b"f", b"v"] and isinstance(got[1], dict) and got[2] == {b"f": b"v"} and got[3] is None
            assert isinstance(got[4], list) and got[5] == [b"f", b"v"] and isinstance(got[6], dict) and got[7] == b"RESET" and got[8] == [b"f", b"v"]


# ---- over slots

@pytest.mark.tsan
def test_keys_of_many_slots(side):
    keys = ["k%d" % i for i in range(MANY)]
    values = [b"v%d" % i * (i % 7) for i in range(MANY)]
    for protocol in (2, 3):
        with side.proxy.connect(protocol=protocol) as c:
            assert c.call("MSET", *[x for kv in zip(keys, values) for x in kv]) == b"OK"
            assert c.call("MGET", *keys, "none", *keys[::-1]) == values + [None] + values[::-1]
            assert c.raw("MGET", "none", "k0", "k1") == (b"*3\r\n%s$0\r\n\r\n$2\r\nv1\r\n" % (b"$-1\r\n" if protocol == 2 else b"_\r\n"))
            assert c.call("EXISTS", *keys, "none", "k1") == MANY + 1
            assert c.call("TOUCH", *keys, "none") == MANY
            assert side.server.dbsize() == MANY
            assert c.call("DBSIZE") == MANY
            assert c.call("DEL", *keys[:40], "none") == 40
            assert c.call("UNLINK", *keys) == MANY - 40
            assert c.call("EXISTS", *keys) == 0
            # the last of a key that is named twice wins
            assert c.call("MSET", "a", 1, "b", 2, "a", 3) == b"OK"
            assert c.call("MGET", "a", "b") == [b"3", b"2"]
            c.call("SADD", "set", "m")
            assert c.call("MGET", "a", "set", "b") == [b"3", None, b"2"]
            with pytest.raises(RespError, match="^ERR wrong number of arguments for 'mset' command$"):
                c.call("MSET", "a", 1, "b")
            for name in ("MGET", "DEL", "UNLINK", "EXISTS", "TOUCH"):
                with pytest.raises(RespError, match="^ERR wrong number of arguments for '%s' command$" % name.lower()):
                    c.call(name)
            c.call("DEL", "a", "b", "set")


@pytest.mark.tsan
def test_so_many_keys_that_they_are_cut_in_slices(sides):
    """What stands before and behind keeps its order; who goes before its answer has written all the same."""
    side, many = sides("redis-cluster"), 20000
    side.server.flushall()
    keys = ["k%d" % i for i in range(many)]
    values = [b"v%d" % (i % 1000) for i in range(many)]
    pairs = [x for kv in zip(keys, values) for x in kv]
    with side.proxy.connect(timeout=60) as c, side.proxy.connect(timeout=60) as other:
        c.send("SET", "k7", "old")
        for command in (("MSET", *pairs), ("GET", "k7"), ("MGET", *keys, "none", "k3"), ("SET", "k7", "new"), ("MGET", "k7", *keys), ("DEL", *keys, "none"), ("EXISTS", *keys), ("PING",)):
            c.send(*command)
        assert other.call("PING") == b"PONG"
        assert [c.read() for _ in range(3)] == [b"OK", b"OK", values[7]]
        assert c.read() == values + [None, values[3]] and c.read() == b"OK" and c.read() == [b"new"] + values[:7] + [b"new"] + values[8:]
        assert [c.read() for _ in range(3)] == [many, 0, b"PONG"]
    with side.proxy.connect() as c:
        c.send("MSET", *pairs)
    wait_until("all of it was written", lambda: side.server.dbsize() == many, 30)


def test_cross_slot(side):
    """What cannot be split is refused by a cluster, and works on one server."""
    with side.proxy.connect() as c:
        c.call("MSET", "a", 1, "b", 2)
        for command, alone in ((("RENAME", "a", "c"), b"OK"), (("MSETNX", "d", 1, "e", 2), 1), (("SUNIONSTORE", "f", "g", "h"), 0),
                               (("EVAL", "return #KEYS", 2, "a", "b"), 2), (("BITOP", "AND", "i", "b", "d"), 1), (("LMOVE", "l", "m", "LEFT", "LEFT"), None)):
            reply = c.try_call(*command)
            if side.clustered:
                assert reply == RespError("CROSSSLOT Keys in request don't hash to the same slot"), command
            else:
                assert reply == alone, command


# ---- how requests come

def test_long_pipeline(side):
    n = 10000
    with side.proxy.connect(timeout=30) as c:
        commands = [("SET", "k%d" % (i % 1000), i) if i % 2 else ("GET", "k%d" % ((i + 1) % 1000 - 1 | 1)) for i in range(n)]
        data = b"".join(map(encode, commands))
        sender = threading.Thread(target=c.send_raw, args=(data,))
        sender.start()
        model = {}
        for command in commands:
            reply = c.read()
            if command[0] == "SET":
                assert reply == b"OK"
                model[command[1]] = b"%d" % command[2]
            else:
                assert reply == model.get(command[1]), command
        sender.join()


@pytest.mark.tsan
def test_pipelined_order(side):
    """The commands of one client to one key, and what stands between them."""
    with side.proxy.connect(timeout=30) as c:
        commands, expected, n = [], [], 0
        for i in range(3000):
            commands.append(("INCR", "k"))
            n += 1
            expected.append(n)
            if i % 7 == 0:
                commands.append(("MGET", "k", "other%d" % i))
                expected.append([b"%d" % n, None])
            if i % 11 == 0:
                commands.append(("PING", "%d" % i))
                expected.append(b"%d" % i)
            if i % 13 == 0:
                commands += [("NOSUCH",), ("DEL", "k", "x", "y"), ("APPEND", "log", "%d," % i)]
                expected += [None, 1, None]
                n = 0
        replies = c.pipeline(commands, chunk=4000)
        for command, reply, wanted in zip(commands, replies, expected):
            if command[0] == "NOSUCH":
                assert isinstance(reply, RespError)
            elif command[0] != "APPEND":
                assert reply == wanted, command
        assert c.call("GET", "log").decode() == "".join("%d," % i for i in range(3000) if i % 13 == 0)


def test_inline(redis):
    with redis.proxy.connect() as c:
        c.send_raw(b"\r\n  \r\nSET k \"a\\x41 \\n\"\r\nGET k\nPING\r\nMGET k none other\r\nset 'q' 'it\\'s'\r\nGET q\r\n")
        assert [c.read() for _ in range(6)] == [b"OK", b"aA \n", b"PONG", [b"aA \n", None, None], b"OK", b"it's"]
        c.send_raw(b"*0\r\n*-1\r\nPING\r\n")
        assert c.read() == b"PONG"


def test_byte_by_byte(redis):
    data = encode(("SET", "k", BLOB[:60])) + encode(("GET", "k")) + b"PING\r\n" + encode(("MGET", "k", "none", "x")) + encode(("NOSUCH", "a"))
    with redis.proxy.connect() as c:
        for i in range(len(data)):
            c.send_raw(data[i:i + 1])
            if i % 50 == 0:
                time.sleep(0.001)
        assert c.read() == b"OK" and c.read() == BLOB[:60] and c.read() == b"PONG"
        assert c.read() == [BLOB[:60], None, None]
        assert c.read().code == "ERR"
    rng = random.Random(7)
    commands = [("SET", "k%d" % (i % 50), b"%d " % i + bytes([i % 256]) * rng.choice((0, 3, 600, 5000, 70000))) for i in range(300)]
    data = b"".join(map(encode, commands)) + encode(("MGET", *["k%d" % i for i in range(50)]))
    with redis.proxy.connect(timeout=30) as c:
        at = 0
        while at < len(data):
            step = rng.choice((1, 2, 17, 1000, 4096, 16384, 65536, 300000))
            c.send_raw(data[at:at + step])
            at += step
        assert all(c.read() == b"OK" for _ in commands)
        assert c.read() == [command[2] for command in commands[-50:]]


def test_ends_after_half_close(redis):
    """A client that says that it will send no more still gets its replies (printf … | nc)."""
    for n in (1, 2000):
        with redis.proxy.connect() as c:
            c.send_raw(b"".join(encode(("SET", "k%d" % i, i)) for i in range(n)))
            c.sock.shutdown(socket.SHUT_WR)
            assert all(c.read() == b"OK" for _ in range(n))
            with pytest.raises(Disconnected):
                c.read()


def test_large_values(side):
    value = random.Random(1).randbytes(1 << 20) * 20
    digest = hashlib.sha1(value).hexdigest()
    with side.proxy.connect(timeout=60) as c:
        assert c.call("SET", "big", value) == b"OK"
        assert hashlib.sha1(side.server.call("GET", "big")).hexdigest() == digest
        assert hashlib.sha1(c.call("GET", "big")).hexdigest() == digest
        assert c.call("STRLEN", "big") == len(value)
        c.send_raw(encode(("GET", "big")) + encode(("PING",)) + encode(("MGET", "big", "none")))
        assert len(c.read()) == len(value) and c.read() == b"PONG"
        got = c.read()
        assert hashlib.sha1(got[0]).hexdigest() == digest and got[1] is None
        c.call("DEL", "big")


# ---- several clients

@pytest.mark.tsan
def test_many_clients(side):
    clients = [side.proxy.connect(timeout=30, protocol=2 + i % 2) for i in range(300)]
    try:
        for round_ in range(3):
            for i, c in enumerate(clients):
                c.send_raw(encode(("INCR", "n")) + encode(("SET", "k%d" % i, round_)) + encode(("GET", "k%d" % i)))
            counts = []
            for c in clients:
                counts.append(c.read())
                assert c.read() == b"OK" and c.read() == b"%d" % round_
            assert sorted(counts) == list(range(300 * round_ + 1, 300 * round_ + 301))
        # some go in the middle of a request, some while replies are under way
        for i, c in enumerate(clients):
            if i % 3 == 0:
                c.send_raw(encode(("GET", "k1")) * 20 + b"*2\r\n$3\r\nGET\r\n$100\r\nab")
                c.reset() if i % 2 else c.close()
        for i, c in enumerate(clients):
            if i % 3:
                assert c.call("GET", "k%d" % i) == b"2"
    finally:
        for c in clients:
            c.close()


def test_maxclients(redis, servers):
    proxy = servers.crossfade(redis.server, config={"maxclients": 5, "workers": 2})
    wait_until("the harness's first connection is gone", lambda: proxy.status()["clients"] == 0)
    clients = [proxy.connect() for _ in range(5)]
    assert all(c.call("PING") == b"PONG" for c in clients)
    with proxy.connect() as c:
        assert c.read() == RespError("ERR max number of clients reached")
        with pytest.raises(Disconnected):
            c.read()
    clients.pop().close()

    def served():
        with proxy.connect() as c:
            try:
                return c.try_call("PING") == b"PONG"
            except OSError:
                return False
    wait_until("another client is served", served, 5)
    assert all(c.call("PING") == b"PONG" for c in clients)
    for c in clients:
        c.close()


def test_slow_reader(redis):
    """It does not hold others up, and gets all of its replies when it reads."""
    value = b"x" * 1000000
    with redis.proxy.connect() as slow, redis.proxy.connect() as other:
        other.call("SET", "big", value)
        slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sender = threading.Thread(target=slow.send_raw, args=(encode(("GET", "big")) * 60 + encode(("PING",)),))
        sender.start()
        worst = 0
        for i in range(300):
            at = time.monotonic()
            assert other.call("INCR", "n") == i + 1
            worst = max(worst, time.monotonic() - at)
        assert worst < 1, "another client waited %.0f ms" % (worst * 1000)
        assert all(len(slow.read(timeout=20)) == len(value) for _ in range(60))
        assert slow.read() == b"PONG"
        sender.join()


def test_reader_that_never_reads_is_cut_off(redis, servers):
    proxy = servers.crossfade(redis.server, config={"client-output-max": "4mb"})
    proxy.call("SET", "big", b"x" * 900000)  # larger ones are not held (test_large_stream)
    with proxy.connect() as c:
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        c.send_raw(encode(("GET", "big")) * 60)
        wait_until("it is cut off", lambda: "does not read its replies" in proxy.log())
        with pytest.raises(OSError):
            for _ in range(61):
                c.read(timeout=5)
    assert proxy.call("PING") == b"PONG"


# ---- what is refused

REFUSED = [
    ("CLUSTER", "SETSLOT", 1, "STABLE"), ("DEBUG", "SLEEP", 0), ("SHUTDOWN",), ("SYNC",), ("PSYNC", "?", -1), ("REPLICAOF", "NO", "ONE"), ("REPLCONF", "x", "y"), ("MIGRATE", "h", 1, "k", 0, 1), ("SAVE",), ("BGSAVE",),
    ("ACL", "SETUSER", "x"),
    ("RESTORE-ASKING", "k", 0, "x"), ("FAILOVER",), ("SLAVEOF", "NO", "ONE"), ("PFSELFTEST",),
]


def test_refused(side):
    """Each with an error of the proxy's own that says so; the connection goes on, and the server never heard of it."""
    side.proxy.call("SET", "k", "v")
    for protocol in (2, 3):
        with side.proxy.connect(protocol=protocol) as c:
            for command in REFUSED:
                reply = c.try_call(*command)
                assert isinstance(reply, RespError) and str(reply).startswith("ERR crossfade: "), "%r: %r" % (command, reply)
                assert len(str(reply)) > 40, reply
                name = command[0].lower()
                assert name in str(reply), reply
                assert c.call("GET", "k") == b"v", command
            assert not c.pushes
            replies = c.pipeline(REFUSED)
            assert all(isinstance(r, RespError) for r in replies)
    assert side.server.dbsize() == 1


# ---- protocol errors

BROKEN = {
    b"*1\r\n:1\r\n": "ERR Protocol error: expected '$', got ':'",
    b"*x\r\n": "ERR Protocol error: invalid multibulk length",
    b"*2\r\n$3\r\nGET\r\n$-5\r\n": "ERR Protocol error: invalid bulk length",
    b"*1\r\n$99999999999\r\n": "ERR Protocol error: invalid bulk length",
    b"GET \"k\r\n": "ERR Protocol error: unbalanced quotes in request",
    b"x" * 70000: "ERR Protocol error: too big inline request",
    b"*1\r\n$" + b"1" * 70000: "ERR Protocol error: too big bulk count string",
}


def test_protocol_errors(redis):
    """They end the client that made them, after the replies to what came before, and nobody else."""
    with redis.proxy.connect() as other:
        for broken, text in BROKEN.items():
            with redis.proxy.connect() as c:
                c.send_raw(encode(("SET", "k", "v")) + encode(("GET", "k")) + broken)
                assert c.read() == b"OK" and c.read() == b"v"
                assert str(c.read()) == text
                with pytest.raises((Disconnected, ConnectionResetError)):
                    c.read()
            with redis.server.node_for("k").connect() as d:  # the server's own words
                d.send_raw(broken)
                assert str(d.read()) == text
            assert other.call("PING") == b"PONG"


def test_quit(redis):
    with redis.proxy.connect() as c:
        c.send_raw(encode(("SET", "k", "v")) * 50 + encode(("QUIT",)) + encode(("SET", "k", "after")))
        assert all(c.read() == b"OK" for _ in range(51))
        with pytest.raises((Disconnected, ConnectionResetError)):
            c.read()
    assert redis.proxy.call("GET", "k") == b"v"


# ---- scripts and functions

def test_scripts(side):
    """Loaded once they run for every key, whichever node has it."""
    keys = ["k%d" % i for i in range(30)]
    with side.proxy.connect() as c:
        sha = c.call("SCRIPT", "LOAD", "return redis.call('INCRBY', KEYS[1], ARGV[1])")
        assert all(c.call("EVALSHA", sha, 1, k, 7) == 7 for k in keys)
        assert c.call("SCRIPT", "EXISTS", sha, "f" * 40) == [1, 0]
        assert c.call("EVALSHA", sha.upper(), 1, "k0", 1) == 8
        with pytest.raises(RespError, match="^ERR .*(not an integer|Error running).*"):
            c.call("EVALSHA", sha, 1, "k0", "x")
        c.call("SCRIPT", "FLUSH")
        for k in keys[:6]:
            assert c.try_call("EVALSHA", sha, 1, k, 1).code == "NOSCRIPT"
        assert c.call("EVAL", "return {KEYS[1], ARGV[1]}", 1, "k9", BLOB) == [b"k9", BLOB]
        assert c.call("EVAL_RO", "return redis.call('GET', KEYS[1])", 1, "k9") == b"7"
        code = "#!lua name=lib\nredis.register_function('f', function(keys, args) return redis.call('SET', keys[1], args[1]) end)\n" \
               "redis.register_function{function_name='r', callback=function(keys, args) return redis.call('GET', keys[1]) end, flags={'no-writes'}}"
        assert c.call("FUNCTION", "LOAD", code) == b"lib"
        for i, k in enumerate(keys):
            assert c.call("FCALL", "f", 1, k, i) == b"OK"
            assert c.call("FCALL_RO", "r", 1, k) == b"%d" % i
        with pytest.raises(RespError, match="already exists"):
            c.call("FUNCTION", "LOAD", code)
        assert c.call("FUNCTION", "LOAD", "REPLACE", code) == b"lib"
        assert len(c.call("FUNCTION", "LIST")) == 1
        payload = c.call("FUNCTION", "DUMP")
        assert c.call("FUNCTION", "DELETE", "lib") == b"OK"
        assert isinstance(c.try_call("FCALL", "f", 1, "k0", 1), RespError)
        assert c.call("FUNCTION", "RESTORE", payload) == b"OK"
        assert c.call("FCALL_RO", "r", 1, "k5") == b"5"
        assert c.call("FUNCTION", "FLUSH") == b"OK"


# ---- about the server

def test_command_and_info(side):
    with side.proxy.connect() as c, side.direct("{t}") as d:
        assert c.call("COMMAND", "COUNT") > 150
        for name in ("GET", "MSET", "XADD", "EVAL"):
            mine, theirs = c.call("COMMAND", "INFO", name)[0], d.call("COMMAND", "INFO", name)[0]
            assert mine[:2] == theirs[:2] and mine[3:6] == theirs[3:6], name
        assert c.call("COMMAND", "INFO", "nosuch") == [None]
        assert c.call("COMMAND", "GETKEYS", "MSET", "a", 1, "b", 2) == [b"a", b"b"]
        assert len(c.call("COMMAND")) == c.call("COMMAND", "COUNT")
        info = c.call("INFO").decode()
        assert "redis_version:" in info and ("cluster_enabled:%d" % side.clustered) in info
        assert "id=%d " % c.call("CLIENT", "ID") in c.call("CLIENT", "INFO").decode()
        assert c.call("CLIENT", "SETINFO", "LIB-NAME", "x") == b"OK"
        seconds, us = c.call("TIME")
        assert abs(int(seconds) - time.time()) < 5 and int(us) < 1000000
