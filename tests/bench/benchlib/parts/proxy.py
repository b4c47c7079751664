"""plain proxying beside the peers, a direct connection and the floor"""
from ..stage import SOURCE_KIND, Stage, Target, figure, need_peers, pids, ratios
from ..report import Table
from .. import memtier

RATE = 30000
KEYS = 100000
SCENARIOS = {
    "50 clients": dict(clients=50),
    "50 × pipeline 16": dict(clients=50, pipeline=16),
    "500 clients": dict(clients=500),
    "30,000/s": dict(clients=50, rate=RATE),
}
# scenario: (most CPU as a ratio to the best parsing peer, as a ratio to the floor)
GOALS = {"50 clients": (0.65, 1.3), "50 × pipeline 16": (0.50, 2.0), "500 clients": (0.70, None), "30,000/s": (0.70, None)}
PARSING = ["nutcracker", "predixy"]
OURS = ["crossfade (cluster)", "crossfade (standalone)"]


def targets(stage):
    cluster, single = stage.cluster(SOURCE_KIND), stage.standalone(SOURCE_KIND)
    found = []
    for name, side in zip(OURS, (cluster, single)):
        p = stage.crossfade(side)
        found.append(Target(name, p.port, p.pid, pids(side)))
    for name, path in need_peers().items():
        side = cluster if name == "predixy" else single
        p = stage.peer(name, path, side)
        found.append(Target(name, p.port, p.pid, pids(side)))
    for t in found[:2]:
        stage.fill(t.port, KEYS)
    floor = stage.floor()
    return found + [Target("direct", single.port, single.pid, pids(single)), Target("floor", floor.port, floor.pid, sets_only=True)]


def run(options, report):
    with Stage(options, report) as stage:
        found = targets(stage)
        if memtier.PROGRAM:
            memtier.take_over(stage, found, RATE, KEYS)
        rows = stage.interleave("proxy", found, SCENARIOS)
    names = [t.name for t in found]
    for scenario in SCENARIOS:
        table = Table("Plain proxying, %s: SET/GET 1:1, 128 bytes, one thread" % scenario,
                      ["", "CPU µs/request", "to best parsing peer", "to floor", "requests/s", "p50 ms", "p99 ms", "p99 to direct"],
                      "floor: SET only. direct: the CPU is the server's.")
        for name in names:
            get = lambda what: figure(rows, scenario, name, what)  # noqa: E731,B023
            table.add(name, get("cpu_us"), ratios(rows, scenario, name, PARSING), ratios(rows, scenario, name, "floor"),
                      get("rate"), get("p50_ms"), get("p99_ms"), ratios(rows, scenario, name, "direct", "p99_ms"))
        report.table(table)
        for ours in OURS:
            peer, floor = GOALS[scenario]
            report.goal("%s, %s: CPU to best parsing peer" % (ours, scenario), ratios(rows, scenario, ours, PARSING), peer)
            if floor:
                report.goal("%s, %s: CPU to floor" % (ours, scenario), ratios(rows, scenario, ours, "floor"), floor)
    for ours in OURS:
        report.goal("%s, 30,000/s: p99 to direct" % ours, ratios(rows, "30,000/s", ours, "direct", "p99_ms"), 1.1)
    report.goal("crossfade, 50 × pipeline 16: CPU to HAProxy", ratios(rows, "50 × pipeline 16", OURS[1], "haproxy"), 1.0)
