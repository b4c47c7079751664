"""The command line of tools/bench."""
import argparse
import os
import resource
import shutil
import signal
import sys
import time

from . import measure, stage
from .parts import PARTS
from .report import Report

EX_USAGE = 64
# name: (quick, full)
SIZES = {
    "seconds": (0.5, 8.0),      # of one run
    "reps": (1, 3),
    "keys": ([50000], [1000000, 10000000]),
    "flips": (6, 50),
    "conns": (500, 5000),
    "values": ([16, 4096, 1 << 20], [16, 128, 1024, 8192, 65536, 1 << 20, 16 << 20]),
    "clients": ([10, 1000], [10, 100, 1000, 10000]),
    "pipelines": ([1, 64], [1, 4, 16, 64, 256]),
    "nodes": ([3], [3, 30]),
    "requests": (1000, 3000),   # under callgrind, each way
}


def int_list(text):
    return [int(x) for x in text.split(",")]


def cpu_set(text):
    return set(int_list(text))


def parse(doc):
    epilog = "parts:\n" + "".join("  %-10s %s\n" % (name, module.__doc__.strip().split("\n")[0]) for name, module in PARTS.items())
    epilog += "\nenvironment:\n  PREDIXY, REDISSHAKE, MEMTIER  programs that join\n  CROSSFADE_BIN, PROXYCTL_BIN   instead of those in the tree\n"
    p = argparse.ArgumentParser(prog="tools/bench", description=doc, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("parts", nargs="*", metavar="PART", help="all of them, unless named")
    p.add_argument("--quick", action="store_true", help="small and short, under two minutes; shows that it works, not how fast it is")
    p.add_argument("--json", metavar="FILE", help="write tables, goals and every run there")
    p.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    p.add_argument("--seconds", type=float, metavar="S", help="of one run (8; quick: 0.5)")
    p.add_argument("--reps", type=int, metavar="N", help="repetitions, interleaved (3; quick: 1)")
    p.add_argument("--keys", type=int_list, metavar="N,…", help="keys that the backfill copies (1000000,10000000; quick: 50000)")
    p.add_argument("--flips", type=int, metavar="N", help="(50; quick: 6)")
    p.add_argument("--conns", type=int, metavar="N", help="idle connections (5000; quick: 500)")
    for name, what in (("values", "bytes of a value"), ("clients", "clients"), ("pipelines", "pipelines"), ("nodes", "primaries")):
        p.add_argument("--" + name, type=int_list, metavar="N,…", help="scaling: %s (%s)" % (what, ",".join(map(str, SIZES[name][1]))))
    p.add_argument("--requests", type=int, metavar="N", help="under callgrind (3000; quick: 1000)")
    p.add_argument("--attacks", type=lambda text: text.split(","), metavar="WORD,…", help="hostile: those whose names contain one (all)")
    p.add_argument("--proxy-cpus", type=cpu_set, metavar="N,…", help="what is measured runs there (the first CPU)")
    p.add_argument("--rest-cpus", type=cpu_set, metavar="N,…", help="servers and load run there (the second CPU)")
    o = p.parse_args()
    for name in o.parts:
        if name not in PARTS:
            print("bench: there is no part '%s' (see --help)" % name, file=sys.stderr)
            sys.exit(EX_USAGE)
    for name, (quick, full) in SIZES.items():
        if getattr(o, name) is None:
            setattr(o, name, quick if o.quick else full)
    o.proxy_cpus = o.proxy_cpus or {measure.ALL_CPUS[0]}
    o.rest_cpus = o.rest_cpus or set(measure.ALL_CPUS[1:2] or measure.ALL_CPUS)
    return o


def prepare(o):
    def end(*_):
        sys.exit(1)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, end)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, o.rest_cpus)  # what we start begins there


def main(doc):
    o = parse(doc)
    prepare(o)
    report = Report(o)
    folder = stage.need_build()
    try:
        for name in [n for n in PARTS if not o.parts or n in o.parts]:
            report.progress("%s: %s" % (name, PARTS[name].__doc__.strip().split("\n")[0]))
            began = time.monotonic()
            try:
                PARTS[name].run(o, report)
            except Exception as e:  # noqa: B902 (the other parts still count)
                report.failed(name, "%s: %s" % (type(e).__name__, str(e)[:3000]))
            report.seconds[name] = round(time.monotonic() - began, 1)
        report.progress("seconds: %s" % ", ".join("%s %g" % x for x in report.seconds.items()))
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.finish()
    return 1 if report.failures else 0
