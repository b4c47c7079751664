"""memtier_benchmark for the fixed rate, if MEMTIER names it; otherwise load.c does that, too."""
import json
import os
import subprocess
import tempfile

from .stage import BenchError, Load, _bound

PROGRAM = os.environ.get("MEMTIER", "")


class MemtierLoad(Load):
    """Connects when it is told to go, so that its figures contain the connecting."""

    def __init__(self, port, clients, rate, size, keys, seconds):
        self.out = tempfile.NamedTemporaryFile(suffix=".json")
        self.argv = _bound([PROGRAM, "-s", "127.0.0.1", "-p", port, "-t", 1, "-c", clients, "--ratio", "1:1", "-d", size,
                            "--key-prefix", "key:", "--key-maximum", keys, "--key-pattern", "R:R", "--test-time", max(1, int(seconds)),
                            "--rate-limiting", max(1, rate // clients), "--hide-histogram", "--print-percentiles", "50,99,99.9",
                            "--json-out-file", self.out.name])
        self.proc = None

    def begin(self):
        self.proc = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def result(self):
        _, code, usage = os.wait4(self.proc.pid, 0)
        self.proc.returncode = os.waitstatus_to_exitcode(code)
        if code:
            raise BenchError("memtier_benchmark ended with %d" % self.proc.returncode)
        with open(self.out.name, encoding="utf-8") as f:
            total = json.load(f)["ALL STATS"]["Totals"]
        p = total["Percentile Latencies"]
        return {"requests": total["Count"], "rate": total["Ops/sec"], "errors": total.get("Connection Errors", 0), "first_error": "connection",
                "p50_us": 1000 * p["p50.00"], "p99_us": 1000 * p["p99.00"], "p999_us": 1000 * p["p99.90"],
                "max_us": 1000 * total.get("Max Latency", 0), "cpu_s": usage.ru_utime + usage.ru_stime}

    def close(self):
        if self.proc and self.proc.returncode is None:
            self.proc.kill()
            self.proc.wait()
        self.out.close()


def take_over(stage, targets, rate, keys):
    """From now on stage's loads at this rate are memtier's. Fills its keys through every target that keeps any."""
    for t in targets:
        if not t.sets_only:
            subprocess.run([PROGRAM, "-s", "127.0.0.1", "-p", str(t.port), "-t", "1", "-c", "10", "--pipeline", "20", "--ratio", "1:0", "-d", "128",
                            "--key-prefix", "key:", "--key-maximum", str(keys), "--key-pattern", "P:P", "-n", "allkeys", "--hide-histogram"],
                           check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)
    own = stage.start_load

    def start_load(port, **load):
        if load.get("rate") != rate or load.get("mix", "1:1") != "1:1":
            return own(port, **load)
        return MemtierLoad(port, load.get("clients", 50), rate, load.get("size", 128), keys, load.get("seconds") or stage.o.seconds)
    stage.start_load = start_load
