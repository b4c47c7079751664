"""instructions per request of the worker, counted by valgrind"""
import glob
import os
import re
import shutil
import signal

from harness import Crossfade
from harness.crossfade import config_text, crossfade_bin

from ..report import Table
from ..stage import SOURCE_KIND, BenchError, Stage

# One client: the turns of the loop, and so the count, do not depend on who comes first.
SCENARIOS = {
    "GET": dict(mix="0:1"),
    "SET": dict(mix="1:0"),
    "GET × pipeline 16": dict(mix="0:1", pipeline=16),
    "SET × pipeline 16": dict(mix="1:0", pipeline=16),
}
KEYS = 1000
TRIES = 3


class Counted(Crossfade):
    """crossfade under callgrind; the file of each thread is written when it ends."""

    def spawn_daemon(self):
        with open(self.config_path, "w", encoding="utf-8") as f:
            f.write(config_text(self.config))
        self.spawn(["valgrind", "--tool=callgrind", "--separate-threads=yes", "--callgrind-out-file=%s/cg" % self.dir,
                    crossfade_bin(), "-c", self.config_path])

    def totals(self):
        """Instructions of each thread, after the end."""
        found = {}
        for path in glob.glob(os.path.join(self.dir, "cg-*")):
            with open(path, encoding="utf-8", errors="replace") as f:
                counts = re.findall(r"^(?:summary|totals): (\d+)", f.read(), re.MULTILINE)
            found[path.rsplit("-", 1)[1]] = int(counts[0])
        return found


def run(options, report):
    if not shutil.which("valgrind"):
        raise BenchError("no valgrind (package valgrind)")
    table = Table("Instructions per request, 128-byte values, one client, standalone server", ["", "instructions/request", "again"],
                  "callgrind, the worker's thread; the difference of runs of %s and %s requests, so that start and connecting do not count. "
                  "Taken of the smallest of three counts; again: of the middle ones. System calls count as nothing." % tuple(
                      "{:,}".format(n) for n in (options.requests, 2 * options.requests)))
    with Stage(options, report) as stage:
        side = stage.standalone(SOURCE_KIND)
        stage.fill(side.port, KEYS)
        for name, load in list(SCENARIOS.items())[::2 if options.quick else 1]:
            found = per_request(stage, side, options.requests, load, 1 if options.quick else TRIES)
            report.run("callgrind", scenario=name, target="crossfade", instructions=found)
            table.add(name, *(["{:,.0f}".format(f) for f in found] + ["–"])[:2])
    report.table(table)


def per_request(stage, side, requests, load, tries):
    """Of the smallest counts, of the second smallest, and so on: a stall of the machine only ever adds turns."""
    few, many = [], []
    for _ in range(tries):
        for counts, n in ((few, requests), (many, 2 * requests)):
            totals = count(stage, side, n, load)
            counts.append(totals[max(totals)])  # threads are numbered as they begin, the worker last
    return [(b - a) / requests for a, b in zip(sorted(few), sorted(many))]


def count(stage, side, requests, load):
    proxy = stage.crossfade(side, cls=Counted, config={"topology-interval": 3600000})
    try:
        job = stage.start_load(proxy.port, clients=1, batches=True, keys=KEYS, requests=requests, **load)
        try:
            got = job.go()
        finally:
            job.close()
        if got["errors"] or got["requests"] != requests:
            raise BenchError("%d requests answered, %d errors" % (got["requests"], got["errors"]))
        proxy.signal(signal.SIGTERM)
        proxy.wait_exit(60)
        return proxy.totals()
    finally:
        proxy.close()
