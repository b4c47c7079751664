"""how long a flip holds requests at a given load, with its distribution"""
import json
import time

from ..measure import percentile
from ..report import Table
from ..stage import SOURCE_KIND, TARGET_KIND, Stage, drained, migrate, wait_status

RATE = 30000
KEYS = 20000
GAP_S = 0.15


def run(options, report):
    with Stage(options, report) as stage:
        source, target = stage.cluster(SOURCE_KIND), stage.cluster(TARGET_KIND)
        proxy = stage.crossfade(source, target, pinned=False)
        stage.unpin(source, target)
        stage.fill(proxy.port, KEYS)
        migrate(proxy)
        proxy.ctl("verify")
        calm = timed_load(stage, proxy, options.seconds, lambda: None)
        flips = []
        busy = timed_load(stage, proxy, options.flips * (GAP_S + 0.05) + 0.5, lambda: flips.extend(flip_often(report, proxy, options.flips)))
    for f in flips:
        report.run("flip", target="crossfade", **f)
    longest = [f["pause_max_ms"] for f in flips]
    table = Table("Pause of a flip of all slots at %s requests/s, 50 clients, SET/GET 1:1; ms" % "{:,}".format(RATE),
                  ["", "p50", "p90", "p99", "max", "requests held (median)", "undone or refused"],
                  "each flip: the longest that any request of it was held; within: the p99 of the requests held.")
    undone = options.flips - len(flips)
    table.add("{:,} flips".format(len(flips)), *[percentile(longest, p) for p in (50, 90, 99, 100)], percentile([f["held"] for f in flips], 50), undone)
    within = [f["pause_p99_ms"] for f in flips]
    table.add("within", *[percentile(within, p) for p in (50, 90, 99, 100)], "", "")
    report.table(table)
    table = Table("What the clients saw, ms", ["", "requests/s", "p50", "p99", "p99.9", "max", "errors"], "A latency counts from when its request was due.")
    for name, got in (("without flips", calm), ("with flips", busy)):
        table.add(name, got["rate"], *[got[k] / 1000 for k in ("p50_us", "p99_us", "p999_us", "max_us")], got["errors"])
        report.run("flip", target="clients, " + name, **got)
    report.table(table)
    report.goal("pause of a flip at 30,000/s, p99 of all flips, ms", percentile(longest, 99), 5)


def timed_load(stage, proxy, seconds, meanwhile):
    job = stage.start_load(proxy.port, clients=50, rate=RATE, keys=KEYS, seconds=seconds)
    try:
        job.begin()
        meanwhile()
        return job.result()
    finally:
        job.close()


def flip_often(report, proxy, count):
    """There and back; FORCE, because a cutover after a rollback would want a verify again."""
    for i in range(count):
        time.sleep(GAP_S)
        wait_status(proxy, "the mirror is close behind", drained_or_close, 30, 0.005)
        try:
            yield json.loads(proxy.admin("PROXY", "CUTOVER", "FORCE") if i % 2 == 0 else proxy.admin("PROXY", "ROLLBACK"))
        except Exception as e:  # noqa: B902 (undone: counted as missing)
            report.progress("flip %d: %s" % (i + 1, e))


def drained_or_close(s):
    return drained(s) or (s["mirror"]["lag_ms"] < 100 and s["dirty_keys"] == 0 and s["dirty_slots"] == 0)
