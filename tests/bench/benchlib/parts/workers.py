"""CPU per request with one worker and with two"""
from ..report import Table
from ..stage import SOURCE_KIND, Stage, Target, figure, pids, ratios

SCENARIOS = {
    "50 clients": dict(clients=50),
    "50 × pipeline 16": dict(clients=50, pipeline=16),
    "500 clients": dict(clients=500),
    "20,000/s": dict(clients=50, rate=20000),
}
KEYS = 100000


def run(options, report):
    with Stage(options, report) as stage:
        side = stage.cluster(SOURCE_KIND)
        targets = []
        for n in (1, 2):
            p = stage.crossfade(side, pinned=False, config={"workers": n})
            targets.append(Target("%d worker%s" % (n, "s"[:n - 1]), p.port, p.pid, pids(side)))
        stage.fill(targets[0].port, KEYS)
        rows = stage.interleave("workers", targets, SCENARIOS)
    one, two = (t.name for t in targets)
    table = Table("Workers: CPU µs per request, the proxy on all CPUs", ["", one, two, "ratio", "load", "servers", one + ", requests/s", two + ", requests/s"],
                  "load, servers: their own CPU per request with two workers to that with one. They do the same for each request, whatever the proxy does, "
                  "unless they are asked in smaller batches: what it is more for the load is what sharing the CPUs costs anybody.")
    for s in SCENARIOS:
        table.add(s, figure(rows, s, one, "cpu_us"), figure(rows, s, two, "cpu_us"), ratios(rows, s, two, one),
                  ratios(rows, s, two, one, "load_us"), ratios(rows, s, two, one, "servers_us"), figure(rows, s, one, "rate"), figure(rows, s, two, "rate"))
        report.goal("two workers, %s: CPU to one" % s, ratios(rows, s, two, one), 1.15)
    report.table(table)
