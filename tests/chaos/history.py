"""What clients were told about a key, and whether one store that does one thing at a time could have told it.

Three kinds of keys, each with an exact check that takes n log n:

log       a list (RPUSH) or a string (APPEND) of tokens that occur once. Reads return all of it. The final value is the order
          of the writes, so that every operation has a rank: a write its position, a read the length that it saw.
counter   INCR and GET: the rank of an INCR is its reply, of a GET the number.
register  SET of values that occur once, and GET: Gibbons and Korach's zones.

A history of ranks is linearizable exactly if no operation has a rank below that of one that ended before it began; what is proven is just that, for each key
alone (linearizability is a property of each object). Operations of one client on one key must have their order, too, although a pipeline sends them at once.

An operation is a write or a read (value is what it returned). `maybe`: nobody knows if it was done: it may be in the final value, once, at any place after it began. `refused`: the
proxy said that it was not done, so it may not be there.
"""
import bisect

OK, MAYBE, REFUSED = "ok", "maybe", "refused"
FOREVER = float("inf")


class Op:
    __slots__ = ("client", "kind", "token", "begin", "end", "outcome", "value")

    def __init__(self, client, kind, token, begin):
        self.client, self.kind, self.token, self.begin = client, kind, token, begin
        self.end, self.outcome, self.value = FOREVER, MAYBE, None

    def done(self, outcome, value, now):
        self.outcome, self.value, self.end = outcome, value, now if outcome == OK else FOREVER

    def __repr__(self):
        return "%s %s %s [%.4f, %.4f] %s -> %.80r" % (self.client, self.kind, self.token, self.begin, self.end, self.outcome, self.value)


def in_order(ranked):
    """Problems of (rank, op): real time, and the order of each client. Writes have even ranks, each once; reads odd ones."""
    problems = []
    ends = sorted((op.end, rank) for rank, op in ranked if op.end != FOREVER)
    times, highest, top = [], [], None
    for end, rank in ends:
        top = rank if top is None or rank > top else top
        times.append(end)
        highest.append(top)
    last = {}
    for rank, op in sorted(ranked, key=lambda x: x[1].begin):
        before = bisect.bisect_left(times, op.begin)
        if before and highest[before - 1] > rank:
            problems.append("stale: rank %d after rank %d had ended: %r" % (rank, highest[before - 1], op))
        if op.outcome == OK:
            if last.get(op.client, -1) > rank:
                problems.append("out of its client's order: rank %d after %d: %r" % (rank, last[op.client], op))
            last[op.client] = max(rank, last.get(op.client, -1))
    return problems


def check_log(ops, final):
    """ops on one log; final: the tokens that it holds at the end."""
    place = {token: i + 1 for i, token in enumerate(final)}
    problems = [] if len(place) == len(final) else ["a token stands there twice"]
    ranked, written = [], set()
    for op in ops:
        if op.kind == "read":
            if op.outcome == OK:
                if op.value != final[:len(op.value)]:
                    problems.append("a read is no beginning of the final value: %r" % op)
                ranked.append((2 * len(op.value) + 1, op))
            continue
        written.add(op.token)
        at = place.get(op.token)
        if op.outcome == OK and at != op.value:
            problems.append("%s: acknowledged as number %s, stands at %s: %r" % ("lost" if at is None else "moved", op.value, at, op))
        if op.outcome == REFUSED and at is not None:
            problems.append("refused, and done: %r" % op)
        if at is not None:
            ranked.append((2 * at, op))
    problems += ["a token that nobody wrote: %r" % t for t in final if t not in written]
    return problems + in_order(ranked)


def check_log_failover(ops, final, base, at_s):
    """The same where a replica was promoted that held `base`, and the former primary was dead by at_s: what that one acknowledged beyond base is lost to every client, anything else is not.
    Returns problems, and how many acknowledged writes were lost so."""
    place = {token: i + 1 for i, token in enumerate(final)}
    problems = [] if len(place) == len(final) else ["a token stands there twice"]
    if final[:len(base)] != base:
        problems.append("what the promoted replica held is no beginning of the final value: %d tokens" % len(base))
    before, after, lost = [], [], 0
    for op in ops:
        if op.kind == "read":
            if op.outcome == OK and op.end <= at_s:
                if op.value[:len(base)] != base[:len(op.value)]:
                    problems.append("a read contradicts what was replicated: %r" % op)
                before.append((2 * len(op.value) + 1, op))
            elif op.outcome == OK and op.begin >= at_s:
                if op.value != final[:len(op.value)]:
                    problems.append("a read is no beginning of the final value: %r" % op)
                after.append((2 * len(op.value) + 1, op))
            continue
        at = place.get(op.token)
        if op.outcome == REFUSED and at is not None:
            problems.append("refused, and done: %r" % op)
        if op.outcome == OK and at != op.value:
            if at is None and op.begin < at_s and op.value > len(base):
                lost += 1
            else:
                problems.append("%s: acknowledged as number %s, stands at %s: %r" % ("lost" if at is None else "moved", op.value, at, op))
        if op.outcome == OK and op.end <= at_s:
            before.append((2 * op.value, op))
        elif at is not None and op.begin >= at_s:
            after.append((2 * at, op))
    return problems + in_order(before) + in_order(after), lost


def check_counter(ops, final):
    problems, ranked, seen = [], [], set()
    maybe = sum(op.outcome == MAYBE for op in ops if op.kind == "write")
    for op in ops:
        if op.outcome != OK:
            continue
        if op.kind == "read":
            ranked.append((2 * op.value + 1, op))
            continue
        if op.value in seen:
            problems.append("counted twice to the same number: %r" % op)
        seen.add(op.value)
        ranked.append((2 * op.value, op))
    if not len(seen) <= final <= len(seen) + maybe:
        problems.append("counter: %d, acknowledged %d, unknown %d" % (final, len(seen), maybe))
    if seen and max(seen) > final:
        problems.append("counter: %d, but %d was acknowledged" % (final, max(seen)))
    return problems + in_order(ranked)


def check_register(ops, final, now):
    """final: the value at the end, or None; values are tokens that are written once."""
    writes = {op.token: op for op in ops if op.kind == "write"}
    zones = {}
    last = Op("judge", "read", None, now)
    last.done(OK, final, now)
    for op in list(ops) + [last]:
        if op.outcome == OK and op.kind == "read":
            value = op.value
        elif op.outcome == OK:
            value = op.token
        else:
            continue
        if value is not None and value not in writes:
            return ["a value that nobody wrote: %r" % op]
        low, high = zones.get(value, (FOREVER, 0))
        zones[value] = min(low, op.end), max(high, op.begin)
    problems = []
    for value, (low, high) in list(zones.items()):
        begin = writes[value].begin if value is not None else -FOREVER  # nothing was there before everything
        if value is None:
            low = -FOREVER
        elif writes[value].outcome == REFUSED:
            problems.append("refused, and read: %r" % value)
        if low < begin:
            problems.append("read before it was written: %r" % writes[value])
        zones[value] = low, max(high, begin)
    return problems + _zones(zones)


def _zones(zones):
    """Each value was there at some time between the first end and the last begin of what wrote or saw it."""
    problems = []
    forward = sorted((low, high, value) for value, (low, high) in zones.items() if low < high)
    for (_, high, a), (low, _, b) in zip(forward, forward[1:]):
        if low < high:
            problems.append("both there at the same time: %r and %r" % (a, b))
    starts = [f[0] for f in forward]
    for value, (low, high) in zones.items():
        if low < high:
            continue
        at = bisect.bisect_left(starts, high) - 1  # the zone [high, low] lies in one that began before
        if at >= 0 and forward[at][1] > low:
            problems.append("%r was written and gone while %r was there" % (value, forward[at][2]))
    return problems
