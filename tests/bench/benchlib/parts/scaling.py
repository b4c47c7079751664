"""cost as values, clients, pipelining, slots and nodes grow"""
from ..measure import slope
from ..report import Table
from ..stage import SOURCE_KIND, Stage, Target, figure, pids

KEYS = 100000
MEMORY = 256 << 20  # of values that are kept at most


def run(options, report):
    with Stage(options, report) as stage:
        side = stage.cluster(SOURCE_KIND)
        p = stage.crossfade(side)
        target = Target("crossfade", p.port, p.pid, pids(side))
        stage.fill(p.port, KEYS)
        clients(stage, report, target, options.clients)
        pipelines(stage, report, target, options.pipelines)
        slots(stage, report, target)
        side.flushall()
        values(stage, report, target, options.values)
    nodes(options, report)


def show(report, title, first, rows, points, note, fit_from=0):
    """points: {scenario: x}. The slope is that of CPU over x, from fit_from on."""
    name = next(iter(rows))[1]
    table = Table(title, [first, "CPU µs/request", "requests/s", "p50 ms", "p99 ms", "servers µs/request", "RSS MiB"], note(
        *slope([(x, figure(rows, s, name, "cpu_us")) for s, x in points.items() if x >= fit_from])))
    for s in points:
        table.add(s, *[figure(rows, s, name, k) for k in ("cpu_us", "rate", "p50_ms", "p99_ms", "servers_us", "rss_mib")])
    report.table(table)


def line(fixed, per, of):
    if per is None:
        return ""
    return "CPU ≈ %.2f µs + %.3g µs per %s (straight line, relative errors)." % (fixed, per, of)


def clients(stage, report, target, counts):
    scenarios = {"{:,}".format(n): dict(clients=n, keys=KEYS) for n in counts}
    rows = stage.interleave("scaling", [target], scenarios)
    show(report, "Clients: SET/GET 1:1, 128 bytes, no pipelining", "clients", rows, dict(zip(scenarios, counts)),
         lambda a, b: line(a, b and b * 1000, "1,000 clients, from 100 clients on"), fit_from=100)


def pipelines(stage, report, target, depths):
    scenarios = {str(n): dict(clients=50, pipeline=n, keys=KEYS) for n in depths}
    rows = stage.interleave("scaling", [target], scenarios)
    show(report, "Pipelining: 50 clients", "depth", rows, {s: 1 / int(s) for s in scenarios},
         lambda a, b: line(a, b, "batch, spread over its requests"))


def slots(stage, report, target):
    scenarios = {}
    for n in (1, 100, 16384):
        tags = 0 if n == 16384 else n
        stage.fill(target.port, KEYS // 10, tags=tags)
        scenarios["{:,}".format(n)] = dict(clients=50, pipeline=16, keys=KEYS // 10, tags=tags)
    rows = stage.interleave("scaling", [target], scenarios)
    show(report, "Slots that the keys lie in: 50 clients × pipeline 16", "slots", rows, {s: int(s.replace(",", "")) for s in scenarios},
         lambda a, b: line(a, b and b * 1000, "1,000 slots"))


def values(stage, report, target, sizes):
    points = {}
    scenarios = {}
    for size in sizes:
        keys = max(3, min(KEYS // 10, MEMORY // size // len(sizes)))
        name = size_name(size)
        points[name] = size / 1024
        scenarios[name] = dict(clients=10, size=size, keys=keys)
    rows = {}
    for name, load in scenarios.items():  # one after the other: their keys have the same names
        stage.fill(target.port, load["keys"], size=load["size"])
        rows.update(stage.interleave("scaling", [target], {name: load}))
    show(report, "Values: SET/GET 1:1, 10 clients", "bytes", rows, points, lambda a, b: line(a, b, "KiB"))


def size_name(size):
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return "%d %s" % (size // unit, name)
    return "%d B" % size


def nodes(options, report):
    rows, points = {}, {}
    for n in options.nodes:
        with Stage(options, report) as stage:
            side = stage.cluster(SOURCE_KIND, shards=n)
            p = stage.crossfade(side)
            stage.fill(p.port, KEYS)
            for name, load in (("%d" % n, dict(clients=50)), ("%d, pipeline 16" % n, dict(clients=50, pipeline=16))):
                points[name] = n
                rows.update(stage.interleave("scaling", [Target("crossfade", p.port, p.pid, pids(side))], {name: dict(load, keys=KEYS)}))
    if rows:
        show(report, "Nodes: 50 clients", "primaries", rows, points, lambda a, b: "")
