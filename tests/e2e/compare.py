"""Two sides compared as closely as two products allow."""
import time

from harness import diff

TIME_TOLERANCE_MS = 400  # of delivery times, which the proxy's clock makes
NEAR_MS = 1300  # a key with less to live may be gone on one side when the other is read


def now_ms():
    return int(time.time() * 1000)


def comparable(digest):
    """Without what the sides may hold otherwise: the cached count of a HyperLogLog, entries-read of groups (docs/effects.md)."""
    for key, (kind, value, expiry) in digest.items():
        if kind == "string" and value.startswith(b"HYLL"):
            digest[key] = (kind, value[:8] + value[16:], expiry)
        elif kind == "stream":
            for group in value["groups"].values():
                group["entries-read"] = None
    return digest


def delivery_times(a, b):
    lines = []
    for key in a:
        if key not in b or a[key][0] != "stream" or b[key][0] != "stream":
            continue
        for name, group in a[key][1]["groups"].items():
            other = b[key][1]["groups"].get(name, {"pending": {}})["pending"]
            lines += ["%r: group %r: %r delivered at %d != %d" % (key, name, i, p[1], other[i][1])
                      for i, p in group["pending"].items() if i in other and abs(p[1] - other[i][1]) > TIME_TOLERANCE_MS]
    return lines


def compare(authority, follower, partial, final, moved=False):
    """What differs. partial: a key that the follower has not got yet is no difference. Unless final, keys about to expire are left out. moved: while values were copied slots
    moved, and temporary keys with them: the node that was written to can UNLINK them no more, and they end by themselves."""
    have = comparable(follower.digest())
    wanted = comparable(authority.digest())
    soon = now_ms() + NEAR_MS
    near = {k for d in (have, wanted) for k in d if 0 < d[k][2] < soon}

    def skip(key):
        if key in near and not final:
            return all(0 < d[key][2] < soon for d in (have, wanted) if key in d)
        if moved and key.startswith(b"crossfade:tmp:"):
            return all(d[key][2] > 0 for d in (have, wanted) if key in d)
        return partial and key not in have
    return diff(wanted, have, ignore=skip) + delivery_times(wanted, have)


def functions(side):
    views = []
    for node in side.primaries():
        lists = [dict(zip(lib[::2], lib[1::2])) for lib in node.call("FUNCTION", "LIST", "WITHCODE")]
        views.append({lib[b"library_name"]: lib[b"library_code"] for lib in lists})
    return views
