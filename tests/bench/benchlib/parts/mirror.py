"""what mirroring costs: CPU per write and per read against plain proxying, p99, also while a backfill runs"""
from ..measure import median
from ..report import Table
from ..stage import SOURCE_KIND, TARGET_KIND, Stage, Target, drained, figure, migrate, pids, ratios, status, wait_status

KEYS = 20000
RATE = 15000
LOADS = {"50 clients": dict(clients=50), "50 × pipeline 16": dict(clients=50, pipeline=16), "15,000/s": dict(clients=50, rate=RATE), "5,000/s": dict(clients=50, rate=RATE // 3)}
KINDS = {"writes": ("1:0", 1.5), "reads": ("0:1", 1.05)}


def run(options, report):
    with Stage(options, report) as stage:
        alone, source, target = stage.cluster(SOURCE_KIND), stage.cluster(SOURCE_KIND), stage.cluster(TARGET_KIND)
        plain = stage.crossfade(alone)
        proxy = stage.crossfade(source, target, config={"target-not-empty": "allow", "backfill-adaptive": True})
        for p in (plain, proxy):
            stage.fill(p.port, KEYS)
        migrate(proxy)
        targets = [Target("plain", plain.port, plain.pid, pids(alone)), Target("mirroring", proxy.port, proxy.pid, pids(source, target))]
        rows = {}
        before = status(proxy)["mirror"]
        for rep in range(options.reps):
            for name, load in LOADS.items():
                for kind, (mix, _) in KINDS.items():
                    for t in targets[::-1] if rep % 2 else targets:
                        rows.setdefault(("%s, %s" % (kind, name), t.name), []).append(one(stage, proxy, t, kind, name, dict(load, mix=mix)))
        after = status(proxy)["mirror"]
        found = while_copying(stage, options, proxy, *targets)
    table = Table("Mirroring: CPU µs per request, one worker, until the mirror has caught up",
                  ["", "plain", "mirroring", "ratio", "plain p99 ms", "mirroring p99 ms", "p99 ratio"],
                  "%s effects mirrored, %s keys sent as snapshots." % tuple(
                      "{:,}".format(after[k] - before[k]) for k in ("effects", "snapshots")))
    for kind, (_, limit) in KINDS.items():
        for name in LOADS:
            s = "%s, %s" % (kind, name)
            table.add(s, figure(rows, s, "plain", "cpu_us"), figure(rows, s, "mirroring", "cpu_us"), ratios(rows, s, "mirroring", "plain"),
                      figure(rows, s, "plain", "p99_ms"), figure(rows, s, "mirroring", "p99_ms"), ratios(rows, s, "mirroring", "plain", "p99_ms"))
            report.goal("mirroring, %s: CPU to plain" % s, ratios(rows, s, "mirroring", "plain"), limit)
            if "rate" in LOADS[name]:
                report.goal("mirroring, %s: p99 to plain" % s, ratios(rows, s, "mirroring", "plain", "p99_ms"), 1.1)
    report.table(table)
    tell_copying(report, found)


def one(stage, proxy, target, kind, name, load):
    settle = None
    if target.name == "mirroring":
        def settle():
            wait_status(proxy, "the mirror caught up", drained, 120)
    return stage.run("mirror", "%s, %s" % (kind, name), target, settle=settle, keys=KEYS, **load)


def while_copying(stage, options, proxy, plain, copying):
    """p99 of SET/GET at a fixed rate while a backfill runs at adaptive pace, beside a plain proxy."""
    found = []
    proxy.admin("PROXY", "ABORT")
    stage.fill(proxy.port, max(options.keys))
    for _ in range(options.reps):
        base = stage.run("mirror", "plain, to compare with a backfill", plain, clients=50, rate=RATE, keys=KEYS)
        proxy.admin("PROXY", "START")
        row = stage.run("mirror", "backfill at adaptive pace", copying, clients=50, rate=RATE, keys=KEYS)
        backfill = status(proxy)["backfill"]
        wait_status(proxy, "synced", lambda s: s["phase"] == "synced" and drained(s))
        proxy.admin("PROXY", "ABORT")
        found.append((base["p99_ms"], row["p99_ms"], backfill["state"] == "done", backfill["keys_copied"]))
    return found


def tell_copying(report, found):
    table = Table("p99 ms at 15,000/s while a backfill runs at adaptive pace", ["run", "plain", "copying", "ratio", "keys copied meanwhile", "ended early"],
                  "ended early: the backfill was over before the load; more --keys make it last.")
    for i, (base, p99, ended, keys) in enumerate(found):
        table.add(str(i + 1), base, p99, p99 / base, keys, "yes" if ended else "no")
    report.table(table)
    report.goal("p99 while a backfill runs, to plain", median([p99 / base for base, p99, _, _ in found]), 1.1)
