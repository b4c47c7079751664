"""What tools/demo puts into the source before the migration begins."""
import binascii
import time

from harness.resp import RespError

from .keys import LIBRARY, bulk_key, bulk_value, large_field

LARGE_KEY = "large:live"   # written by client 0 all the time
CHUNK = 2000


def slot_of(key):
    """key_slot for a key without braces, quickly."""
    return binascii.crc_hqx(key, 0) & 16383


def slot_ports(side):
    """The port of the primary of every slot."""
    if hasattr(side, "slot_map"):
        return [node.port for node in side.slot_map(fresh=True)]
    return [side.port] * 16384


def _client_by_port(side):
    return {node.port: node.client for node in side.primaries()}


def fill_bulk(side, count):
    """`count` strings of 128 bytes, pipelined, replies counted instead of parsed."""
    ports, clients, batches = slot_ports(side), _client_by_port(side), {}
    for i in range(count):
        key = bulk_key(i)
        port = ports[slot_of(key)]
        batch = batches.setdefault(port, [])
        batch.append(b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$128\r\n%b\r\n" % (len(key), key, bulk_value(i)))
        if len(batch) == CHUNK:
            _send(clients[port], batches.pop(port))
    for port, batch in batches.items():
        _send(clients[port], batch)


def _send(client, batch):
    client.send_raw(b"".join(batch))
    want = b"+OK\r\n" * len(batch)
    got = b""
    while len(got) < len(want):
        got += client.sock.recv(262144)
    if got != want:
        raise RuntimeError("the source refused a SET: %r" % got[:200])


def _small_of_every_type(n):
    for i in range(n):
        yield "RPUSH", "typed:list:%d" % i, *("item-%d-%d" % (i, j) for j in range(i % 30 + 1))
        yield "SADD", "typed:set:%d" % i, *("m%d" % (i * j) for j in range(i % 30 + 1))
        yield "SADD", "typed:intset:%d" % i, *range(i, i + i % 40 + 1)
        yield "HSET", "typed:hash:%d" % i, *(x for j in range(i % 20 + 1) for x in ("f%d" % j, "v%d" % i))
        yield "ZADD", "typed:zset:%d" % i, *(x for j in range(i % 25 + 1) for x in (i + j / 4, "m%d" % j))
        yield "PFADD", "typed:hll:%d" % i, *("v%d" % j for j in range(i))
        yield "SETBIT", "typed:bits:%d" % i, i * 7, 1
        yield "GEOADD", "typed:geo:%d" % i, 13.4 + i / 100, 52.5, "place"
        yield "SET", "typed:int:%d" % i, i * 1000003
        yield "SET", b"typed:binary:\x00\xff\r\n%d" % i, bytes(range(256))


def _expiring(n):
    now = int(time.time() * 1000)
    for i in range(n):
        yield "SET", "typed:expiring:%d" % i, "v%d" % i, "PXAT", now + 3600000 + i * 977
        yield "SET", "typed:soon:%d" % i, "v%d" % i, "PXAT", now + 5000 + i * 60000 // n
        yield "HSET", "typed:expiring-hash:%d" % i, "a", i, "b", i
        yield "PEXPIREAT", "typed:expiring-hash:%d" % i, now + 7200000 + i


def _large():
    yield "SET", "typed:large:string", b"0123456789abcdef" * (4 << 16)   # 4 MiB
    for at in range(0, 20000, CHUNK):
        part = range(at, at + CHUNK)
        yield "HSET", "typed:large:hash", *(x for i in part for x in ("field-%d" % i, "value-%d" % i + "y" * 50))
        yield "RPUSH", "typed:large:list", *("item-%d" % i + "z" * 50 for i in part)
        yield "SADD", "typed:large:set", *("member-%d" % i + "u" * 50 for i in part)
        yield "ZADD", "typed:large:zset", *(x for i in part for x in (i / 8, "member-%d" % i + "v" * 40))
        yield "HSET", LARGE_KEY, *(x for i in part for x in (b"f%d" % i, large_field(i)))


def _stream():
    key = "typed:stream"
    for i in range(1, 2001):
        yield "XADD", key, "%d-1" % i, "n", i, "text", "entry-%d" % i
    yield "XGROUP", "CREATE", key, "readers", 0
    yield "XGROUP", "CREATE", key, "late", 1500
    yield "XREADGROUP", "GROUP", "readers", "ann", "COUNT", 300, "STREAMS", key, ">"
    yield "XREADGROUP", "GROUP", "readers", "bob", "COUNT", 200, "STREAMS", key, ">"
    yield "XREADGROUP", "GROUP", "late", "cy", "COUNT", 50, "STREAMS", key, ">"
    yield "XACK", key, "readers", *("%d-1" % i for i in range(1, 450, 2))
    yield "XDEL", key, "7-1", "450-1", "1999-1", "2000-1"


def fill_typed(side):
    """Every other type, expiries, large values, a stream with groups and pending entries, a function library."""
    for commands in (_small_of_every_type(200), _expiring(300), _large(), _stream()):
        for reply in side.pipeline(list(commands)):
            if isinstance(reply, RespError):
                raise RuntimeError("the source refused to be filled: %s" % reply)
    for node in side.primaries():
        node.call("FUNCTION", "LOAD", LIBRARY)
