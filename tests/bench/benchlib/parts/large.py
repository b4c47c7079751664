"""64 MiB values: the proxy's peak memory, and what others notice"""
from .. import measure
from ..report import Table
from ..stage import SOURCE_KIND, Stage

SIZE = 64 << 20
RATE = 5000
KEYS = 10000
ROOM_MIB = 8


def run(options, report):
    table = Table("64 MiB values while 50 clients ask %s/s" % "{:,}".format(RATE),
                  ["", "alone p99 ms", "beside SETs", "beside GETs", "ratio SETs", "ratio GETs", "RSS before MiB", "peak SET", "peak GET"],
                  "direct: the same past the proxy; its memory is the server's.")
    found = {}
    with Stage(options, report) as stage:
        side = stage.standalone(SOURCE_KIND)
        proxy = stage.crossfade(side)
        stage.fill(proxy.port, KEYS)
        stage.fill(side.port, 1, size=SIZE, tags=1)
        for rep in range(options.reps):
            both = [("crossfade", proxy), ("direct", side)]
            for name, process in both[::-1] if rep % 2 else both:
                row = beside(stage, process)
                found.setdefault(name, []).append(row)
                report.run("large", target=name, **row)
    middle = {name: {k: measure.median([r[k] for r in rows]) for k in rows[0]} for name, rows in found.items()}
    for name, m in middle.items():
        table.add(name, m["alone"], m["set"], m["get"], m["set"] / m["alone"], m["get"] / m["alone"], m["before_mib"], m["set_mib"], m["get_mib"])
    report.table(table)
    ours, direct = middle["crossfade"], middle["direct"]
    for kind in ("set", "get"):
        report.goal("64 MiB %s: peak RSS above that before, MiB" % kind.upper(), ours[kind + "_mib"] - ours["before_mib"], ROOM_MIB)
        report.goal("64 MiB %s: p99 of others, to direct" % kind.upper(), ours[kind] / direct[kind], 1.1)


def beside(stage, process):
    """p99 of the small requests alone, then beside one client with large ones; memory meanwhile."""
    row = {"alone": small(stage, process.port)["p99_us"] / 1000, "before_mib": measure.rss_kib(process.pid) / 1024}
    for kind, mix in (("set", "1:0"), ("get", "0:1")):
        big = stage.start_load(process.port, clients=1, size=SIZE, keys=1, tags=1, mix=mix)
        try:
            measure.reset_peak(process.pid)
            big.begin()
            row[kind] = small(stage, process.port)["p99_us"] / 1000
            row[kind + "_count"] = big.result()["requests"]
            row[kind + "_mib"] = measure.peak_kib(process.pid) / 1024
        finally:
            big.close()
    return row


def small(stage, port):
    job = stage.start_load(port, clients=50, rate=RATE, keys=KEYS)
    try:
        return job.go()
    finally:
        job.close()
