"""Reads both sides directly, past the proxy, and compares what is there."""
import multiprocessing
import time

from harness import keyspace
from harness.resp import Client

from .keys import bulk_key, bulk_value

_fork = multiprocessing.get_context("fork")
ABOUT_TO_EXPIRE_MS = 1500


def _read(ports, match, pipe):
    """In a child: the digest of one side, over connections of its own."""
    result, libraries = {}, []
    for port in ports:
        with Client(port, timeout=60) as client:
            result.update(without_estimates(keyspace.digest_of_node(client, match)))
            libraries.append(sorted(repr(sorted(_library(x))) for x in client.call("FUNCTION", "LIST", "WITHCODE")))
    pipe.send((result, libraries, int(time.time() * 1000)))


def without_estimates(digest):
    """entries-read of groups is a counter for XINFO's lag that Redis 7.0 does not keep equal on its own replicas, either."""
    for kind, value, _ in digest.values():
        if kind == "stream":
            for group in value["groups"].values():
                group["entries-read"] = None
    return digest


def _library(flat):
    fields = dict(zip(flat[::2], flat[1::2]))
    return [fields[b"library_name"], fields[b"library_code"]]


def read_sides(*sides, match=None):
    """[(digest, libraries, when)] of the sides, read at the same time by processes of their own."""
    pipes, children = [], []
    for side in sides:
        ours, theirs = _fork.Pipe(False)
        ports = [node.port for node in side.primaries()]
        child = _fork.Process(target=_read, args=(ports, match, theirs), daemon=True)
        child.start()
        theirs.close()
        pipes.append(ours)
        children.append(child)
    results = [pipe.recv() for pipe in pipes]
    for child in children:
        child.join()
    return results


def _expired(when):
    """ignore(key) for diff(): keys that were about to expire while we read."""
    def fits(*digests):
        return lambda key: any(0 < d[key][2] < when + ABOUT_TO_EXPIRE_MS for d in digests if key in d)
    return fits


def compare(source, target, bulk_count, typed_before):
    """(number of keys of the target, lines that tell differences).

    typed_before is the digest of the typed:* keys before anything began: nobody writes
    them, so both must still hold them.
    """
    (a, a_functions, when_a), (b, b_functions, when_b) = read_sides(source, target)
    when = max(when_a, when_b)
    lines = keyspace.diff(a, b, ignore=_expired(when)(a, b))
    for i in range(bulk_count):
        got = b.get(bulk_key(i))
        if got is None or got[1] != bulk_value(i):
            lines.append("%r: %s on the target" % (bulk_key(i), "lost" if got is None else "changed"))
    typed_now = {k: v for k, v in b.items() if k.startswith(b"typed:")}
    lines += ["since the fill: " + x for x in keyspace.diff(typed_before, typed_now, ignore=_expired(when)(typed_before, typed_now))]
    functions = [f for f in a_functions + b_functions if f != a_functions[0]]
    if functions or not a_functions[0]:
        lines.append("function libraries differ, or are gone")
    return len(b), lines
