"""What is in a store, in a form that two stores can be compared by.

digest() gives {key: (type, value, pexpiretime)}: values do not depend on encoding or
order of hashes and sets, pexpiretime is -1 or milliseconds since 1970. A hash whose
fields expire has (value, pexpiretime) as values of those fields. Streams carry their
ids, entries, groups, consumers and pending entries.
"""
from .resp import RespError

OWN_KEYS = (b"crossfade:marker",)  # of the proxy: no part of the data

READERS = {
    b"string": lambda k: ("GET", k),
    b"list": lambda k: ("LRANGE", k, 0, -1),
    b"set": lambda k: ("SMEMBERS", k),
    b"hash": lambda k: ("HGETALL", k),
    b"zset": lambda k: ("ZRANGE", k, 0, -1, "WITHSCORES"),
    b"stream": lambda k: ("XINFO", "STREAM", k, "FULL", "COUNT", 0),
}


def _pairs(flat):
    return dict(zip(flat[::2], flat[1::2]))


def _stream(reply):
    info = _pairs(reply)
    groups = {}
    for flat in info.get(b"groups", []):
        g = _pairs(flat)
        groups[g[b"name"]] = {
            "last-delivered-id": g[b"last-delivered-id"],
            "entries-read": g.get(b"entries-read"),
            # id -> (consumer, delivery time, delivery count)
            "pending": {p[0]: tuple(p[1:4]) for p in g.get(b"pel", g.get(b"pending", []))},
            "consumers": {_pairs(c)[b"name"] for c in g[b"consumers"]},
        }
    return {
        "last-generated-id": info[b"last-generated-id"],
        "max-deleted-entry-id": info.get(b"max-deleted-entry-id"),
        "entries-added": info.get(b"entries-added"),
        "entries": [(e[0], tuple(e[1])) for e in info[b"entries"]],
        "groups": groups,
    }


def _value(kind, reply):
    if kind == b"set":
        return frozenset(reply)
    if kind == b"hash":
        return _pairs(reply)
    if kind == b"zset":
        return {m: float(s) for m, s in zip(reply[::2], reply[1::2])}
    if kind == b"stream":
        return _stream(reply)
    return reply


def scan(client, match=None, count=1000):
    """All keys of one node, each once."""
    cursor, seen = b"0", set()
    while True:
        extra = ["MATCH", match] if match is not None else []
        cursor, keys = client.call("SCAN", cursor, "COUNT", count, *extra)
        for key in keys:
            if key not in seen and key not in OWN_KEYS:
                seen.add(key)
                yield key
        if cursor == b"0":
            return


def dbsize_of_node(node):
    return node.call("DBSIZE") - sum(len(node.call("KEYS", key)) for key in OWN_KEYS)


def digest_of_node(client, match=None):
    """The digest of the keys of one node. Works on a RESP2 connection."""
    keys = list(scan(client, match))
    with_field_ttl = client.call("COMMAND", "INFO", "HPEXPIRETIME")[0] is not None
    result = {}
    for at in range(0, len(keys), 1000):
        _digest_chunk(client, keys[at:at + 1000], with_field_ttl, result)
    return result


def _digest_chunk(client, keys, with_field_ttl, result):
    heads = client.pipeline([c for k in keys for c in (("TYPE", k), ("PEXPIRETIME", k))])
    kinds = dict(zip(keys, heads[::2]))
    expiry = dict(zip(keys, heads[1::2]))
    keys = [k for k in keys if kinds[k] != b"none"]
    replies = client.pipeline(
        [READERS.get(kinds[k], lambda k: ("DUMP", k))(k) for k in keys], chunk=100)
    for key, reply in zip(keys, replies):
        if isinstance(reply, RespError) and "no such key" not in str(reply):
            raise reply
        if reply is None or reply == [] or isinstance(reply, RespError):
            continue  # gone meanwhile
        result[key] = (kinds[key].decode(), _value(kinds[key], reply), expiry[key])
    if with_field_ttl:
        _add_field_ttl(client, [k for k in keys if k in result and kinds[k] == b"hash"], result)


def _add_field_ttl(client, keys, result):
    fields = {k: list(result[k][1]) for k in keys}
    replies = client.pipeline(
        [("HPEXPIRETIME", k, "FIELDS", len(fields[k]), *fields[k]) for k in keys], chunk=100)
    for key, times in zip(keys, replies):
        if isinstance(times, RespError) or not times:
            continue
        value = result[key][1]
        for field, at in zip(fields[key], times):
            if at > 0:
                value[field] = (value[field], at)


def _comparable(kind, value, exact_streams):
    """The value without what a copy need not keep, unless exact_streams."""
    if kind != "stream" or exact_streams:
        return value
    groups = {}
    for name, g in value["groups"].items():
        groups[name] = {
            "last-delivered-id": g["last-delivered-id"], "entries-read": g["entries-read"],
            "pending": {i: (p[0], p[2]) for i, p in g["pending"].items()}}
    return dict(value, groups=groups)


def _short(value, limit=160):
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "… (%d)" % len(text)


def _where(a, b):
    """The part of two values that differs, if they are of a kind that has parts."""
    if isinstance(a, dict) and isinstance(b, dict):
        for k in sorted(set(a) | set(b), key=repr):
            if k not in a or k not in b or a[k] != b[k]:
                return "at %r: %s != %s" % (k, _short(a.get(k, "nothing")), _short(b.get(k, "nothing")))
    if isinstance(a, frozenset) and isinstance(b, frozenset):
        return "only left %s, only right %s" % (_short(sorted(a - b)), _short(sorted(b - a)))
    if isinstance(a, list) and isinstance(b, list):
        for i, (x, y) in enumerate(zip(a, b)):
            if x != y:
                return "at %d: %s != %s" % (i, _short(x), _short(y))
        return "%d != %d elements" % (len(a), len(b))
    return "%s != %s" % (_short(a), _short(b))


def diff(a, b, ttl_tolerance_ms=0, exact_streams=False, ignore=None):
    """What differs between two stores (or two digests), one line a key; [] if nothing.

    Delivery times of pending entries and consumers without any are compared only with
    exact_streams. ignore(key) true leaves a key out.
    """
    a = a if isinstance(a, dict) else a.digest()
    b = b if isinstance(b, dict) else b.digest()
    lines = []
    for key in sorted(set(a) | set(b)):
        if ignore and ignore(key):
            continue
        if key not in b:
            lines.append("%r: only left (%s)" % (key, a[key][0]))
        elif key not in a:
            lines.append("%r: only right (%s)" % (key, b[key][0]))
        elif a[key][0] != b[key][0]:
            lines.append("%r: type %s != %s" % (key, a[key][0], b[key][0]))
        else:
            kind = a[key][0]
            x, y = (_comparable(kind, d[key][1], exact_streams) for d in (a, b))
            if x != y:
                lines.append("%r: %s %s" % (key, kind, _where(x, y)))
            ta, tb = a[key][2], b[key][2]
            if ta != tb and (min(ta, tb) < 0 or abs(ta - tb) > ttl_tolerance_ms):
                lines.append("%r: expiry %d != %d" % (key, ta, tb))
    return lines
