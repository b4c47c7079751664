"""The report of tools/demo: counts, rates, pauses, and whether anything was lost."""
import statistics

from .load import longest_wait


class Flip:
    def __init__(self, direction, start, end, result):
        self.direction, self.start, self.end, self.result = direction, start, end, result
        self.clients_longest_ms = 0.0


class Report:
    def __init__(self, options):
        self.options = options
        self.keys_source = self.keys_target = 0
        self.backfill = {}
        self.backfill_s = 0.0
        self.flips = []
        self.steady = []            # (start, end) of load without a flip
        self.verifies = []          # (when, exit code, counts)
        self.differences = []       # lines of our own comparison
        self.examples = []
        self.commands = self.load_s = 0
        self.errors = self.wrong = self.lost = 0
        self.waits_without_ms = []
        self.seconds = 0.0
        self.failure = None

    def verify_differences(self):
        return sum(v.get(k, 0) for _, _, v in self.verifies for k in ("missing", "type", "value", "expiry", "extra", "functions"))

    def clean(self):
        return not (self.failure or self.errors or self.wrong or self.lost or self.differences or self.verify_differences()
                    or any(rc for _, rc, _ in self.verifies))

    def take_load(self, load):
        """At the end of the load: its counters and what it saw while slots flipped and while not."""
        self.errors, self.wrong, self.lost, self.commands = load.errors(), load.wrong(), load.lost(), load.commands()
        self.examples, waits = load.end()
        for flip in self.flips:
            flip.clients_longest_ms = 1000 * longest_wait(waits, flip.start, flip.end + 0.1)
        length = max([f.end - f.start + 0.1 for f in self.flips] + [0.5])
        for start, end in self.steady:
            while start + length <= end:
                self.waits_without_ms.append(1000 * longest_wait(waits, start, start + length))
                start += length

    def as_dict(self):
        return {
            "ok": self.clean(), "failure": self.failure, "source": self.options.source, "target": self.options.target,
            "clients": self.options.clients, "seconds": round(self.seconds, 1),
            "keys_filled": self.keys_source, "keys_target": self.keys_target,
            "backfill": dict(self.backfill, seconds=round(self.backfill_s, 2)),
            "commands": self.commands, "commands_per_s": round(self.commands / self.load_s) if self.load_s else 0,
            "flips": [dict(f.result, direction=f.direction, clients_longest_ms=round(f.clients_longest_ms, 2)) for f in self.flips],
            "hold_median_ms": self.hold_median_ms(), "clients_longest_with_flip_median_ms": median([f.clients_longest_ms for f in self.flips]),
            "clients_longest_without_flip_median_ms": median(self.waits_without_ms),
            "clients_longest_without_flip_max_ms": round(max(self.waits_without_ms, default=0), 2),
            "error_replies": self.errors, "wrong_replies": self.wrong, "lost": self.lost,
            "differences": len(self.differences) + self.verify_differences(),
            "verifies": [{"when": when, "exit": rc, "counts": counts} for when, rc, counts in self.verifies],
            "examples": self.examples + self.differences[:20],
        }

    def hold_median_ms(self):
        return median([f.result.get("pause_max_ms", 0) for f in self.flips])

    def lines(self):
        b = self.backfill
        yield "keys               %s filled in, %s on the target at the end" % (number(self.keys_source), number(self.keys_target))
        if self.backfill_s:
            yield "backfill           %s keys, %.1f MB in %.1f s (%s keys/s under load), %s read again" % (
                number(b.get("keys_copied", 0)), b.get("bytes", 0) / 1048576, self.backfill_s,
                number(int(b.get("keys_copied", 0) / self.backfill_s)), number(b.get("keys_retried", 0)))
        if self.load_s:
            yield "load               %d clients and a writer past the proxy, %s commands, %s/s" % (
                self.options.clients, number(self.commands), number(int(self.commands / self.load_s)))
        yield from self.flip_lines()
        yield "error replies      %d" % self.errors
        yield "wrong replies      %d" % self.wrong
        yield "lost               %d (of what the clients own, read again at the end)" % self.lost
        yield "differences        %d found by verify (%d runs), %d by reading both sides directly" % (
            self.verify_differences(), len(self.verifies), len(self.differences))
        for line in (self.examples + self.differences)[:20]:
            yield "   " + line

    def flip_lines(self):
        if not self.flips:
            return
        yield "flip               longest hold by the proxy    longest wait of a client"
        for i, f in enumerate(self.flips):
            yield "  %2d to the %-6s %10.1f ms                %10.1f ms" % (
                i + 1, f.direction, f.result.get("pause_max_ms", 0), f.clients_longest_ms)
        yield "  median of %-6d %10.1f ms                %10.1f ms" % (
            len(self.flips), self.hold_median_ms(), median([f.clients_longest_ms for f in self.flips]))
        if self.waits_without_ms:
            yield "  without a flip           -                   %10.1f ms (median of %d spans as long as a flip; longest %.1f)" % (
                median(self.waits_without_ms), len(self.waits_without_ms), max(self.waits_without_ms))


def median(values):
    return round(statistics.median(values), 2) if values else 0


def number(n):
    return "{:,}".format(n)
