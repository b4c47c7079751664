"""what others notice of hostile clients: their latency, and the longest turn of the loop"""
import multiprocessing
import time

from .. import measure
from ..attacks import ATTACKS, BIG
from ..report import Table
from ..stage import SOURCE_KIND, TARGET_KIND, Stage, migrate
from ..turns import Turns

RATE, CLIENTS, KEYS = 2000, 10, 1000
LIMIT = 2.0


def run(options, report):
    turns, found = Turns(), {}
    with Stage(options, report) as stage:
        source, target = (stage.standalone(kind, preloaded=turns.library) for kind in (SOURCE_KIND, TARGET_KIND))
        nodes = stage.cluster(SOURCE_KIND)
        env, config = {"LD_PRELOAD": turns.library}, {"client-output-max": 8 << 20}
        proxies = {"mirroring": stage.crossfade(source, target, env=env, config=config), "cluster": stage.crossfade(nodes, env=env, config=config)}
        migrate(proxies["mirroring"])
        for proxy in proxies.values():
            proxy.call("SET", "small", "v")
            proxy.call("SET", "big", b"x" * BIG)
            stage.fill(proxy.port, KEYS)
        whole = dict(proxies, direct=source)
        wanted = [a for a in ATTACKS if not options.attacks or any(word in a for word in options.attacks)]
        for name in wanted[::6 if options.quick and not options.attacks else 1]:
            for rep in range(options.reps):
                for kind in sorted(whole, reverse=rep % 2 == 1):
                    row = one(stage, whole[kind], ATTACKS[name], turns)
                    found.setdefault((name, kind), []).append(row)
                    report.run("hostile", attack=name, target=kind, **row)
    report.table(table_of(found, report))


def one(stage, process, attack, turns):
    """Others without it, then with it."""
    row = {}
    quiet = others(stage, process.port)
    attacker = multiprocessing.get_context("fork").Process(target=attack, args=(process.port,), daemon=True)
    attacker.start()
    try:
        time.sleep(0.3)  # it has begun; nothing depends on how far it is
        turns.reset(process.pid)
        beside = others(stage, process.port)
        row["turn_ms"] = turns.longest_ms(process.pid, "worker" if hasattr(process, "admin") else "")
    finally:
        attacker.kill()
        attacker.join()
    for p in ("p50_us", "p99_us"):
        row.update({p: beside[p], "quiet_" + p: quiet[p], p + "_ratio": beside[p] / quiet[p]})
    return row


def others(stage, port):
    job = stage.start_load(port, clients=CLIENTS, rate=RATE, keys=KEYS)
    try:
        return job.go()
    finally:
        job.close()


def table_of(found, report):
    kinds = ("mirroring", "cluster", "direct")
    table = Table("What %d clients that ask %s/s notice" % (CLIENTS, "{:,}".format(RATE)),
                  [""] + ["%s: %s" % (k, f) for k in kinds for f in ("p50", "p99", "turn ms")],
                  "p50, p99: with the attack, to that without it. Turn: the longest of the loop, CPU time. Mirroring: a standalone source and target, synced; "
                  "cluster: plain, before three primaries; direct: the source of the first, no proxy.")
    for name in dict.fromkeys(n for n, _ in found):
        middle = {k: {f: measure.median([r[f] for r in found[name, k]]) for f in ("p50_us_ratio", "p99_us_ratio", "turn_ms")} for k in kinds}
        table.add(name, *(middle[k][f] for k in kinds for f in ("p50_us_ratio", "p99_us_ratio", "turn_ms")))
        for k in kinds[:2]:
            report.goal("%s, %s: p99 of others, to the same at the server" % (name, k), middle[k]["p99_us_ratio"] / max(1.0, middle["direct"]["p99_us_ratio"]), LIMIT)
    return table
