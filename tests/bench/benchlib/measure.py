"""CPU and memory of processes, noise of the machine, medians."""
import os
import statistics
import time

ALL_CPUS = sorted(os.sched_getaffinity(0))
CALM_CORES = 0.05


def cpu_s(pid):
    """CPU seconds of a process with all its threads, also those that ended, in nanoseconds' steps
    (its clock by clock_getcpuclockid; /proc/PID/stat says the same in steps of 10 ms)."""
    return time.clock_gettime((~pid << 3) | 2)


def cpu_of(pids):
    return sum(cpu_s(pid) for pid in pids)


def _status_kib(pid, field):
    with open("/proc/%d/status" % pid, encoding="ascii", errors="replace") as f:
        for line in f:
            if line.startswith(field + ":"):
                return int(line.split()[1])
    return 0


def rss_kib(pid):
    return _status_kib(pid, "VmRSS")


def peak_kib(pid):
    """The largest RSS since reset_peak(), or since it began."""
    return _status_kib(pid, "VmHWM")


def reset_peak(pid):
    with open("/proc/%d/clear_refs" % pid, "w", encoding="ascii") as f:
        f.write("5")


def pin(pid, cpus):
    """Every thread of a process; threads that it starts later follow their maker."""
    for task in os.listdir("/proc/%d/task" % pid):
        os.sched_setaffinity(int(task), cpus)


class Noise:
    """What others did while we measured: with Noise() as n: …; n.steal (%), n.other(own CPU s) (cores)."""

    @staticmethod
    def _jiffies():
        with open("/proc/stat", encoding="ascii") as f:
            v = [int(x) for x in f.readline().split()[1:9]]
        return sum(v), v[3] + v[4], v[7]

    def __enter__(self):
        self._before, self._at = self._jiffies(), time.monotonic()
        return self

    def __exit__(self, *exc):
        everything, idle, steal = (b - a for a, b in zip(self._before, self._jiffies()))
        self.wall = max(1e-6, time.monotonic() - self._at)
        self.steal = 100.0 * steal / max(1, everything)
        self._busy = (everything - idle - steal) / os.sysconf("SC_CLK_TCK")

    def other(self, own_s):
        return max(0.0, (self._busy - own_s) / self.wall)


def taken(row):
    """Cores that others had of those that a run could have used: processes beside it, and guests of the same host."""
    return row["other_cores"] + row["steal"] / 100 * len(ALL_CPUS)


def calmest(once, tries):
    """The row, of `tries` at most, that was disturbed least; the first that was hardly disturbed."""
    rows = []
    while len(rows) < tries and (not rows or taken(rows[-1]) > CALM_CORES):
        rows.append(once())
    return min(rows, key=taken)


def median(values):
    values = [v for v in values if v is not None]
    return statistics.median(values) if values else None


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * p / 100))] if values else None


def slope(points):
    """(fixed part, cost per unit) of a straight line through (x, y), errors weighted by 1/y."""
    w = [(x, y, 1 / (y * y)) for x, y in points if y and y > 0]
    s = sum(k for _, _, k in w)
    if len(w) < 2:
        return None, None
    mx, my = sum(k * x for x, _, k in w) / s, sum(k * y for _, y, k in w) / s
    d = sum(k * (x - mx) ** 2 for x, _, k in w)
    b = sum(k * (x - mx) * (y - my) for x, y, k in w) / d if d else 0
    return my - b * mx, b


def fmt(v):
    if v is None:
        return "–"
    if isinstance(v, str):
        return v
    if isinstance(v, int):
        return "{:,}".format(v)
    a = abs(v)
    return "{:,.0f}".format(v) if a >= 1000 else "%.1f" % v if a >= 100 else "%.2f" % v if a >= 1 else "%.3f" % v
