"""speed of the backfill and of verify, their CPU and memory; RedisShake beside it if REDISSHAKE names it"""
import os
import subprocess
import tempfile
import time

from .. import measure
from ..report import Table
from ..stage import SOURCE_KIND, TARGET_KIND, BenchError, Stage, migrate, pids

SHAKE = os.environ.get("REDISSHAKE", "")
SHAKE_LIMIT_S = 1200
SHAKES = {"RedisShake, as shipped": 1, "RedisShake, count=1000": 1000}
COLUMNS = ["", "keys/s", "CPU s per million keys", "peak RSS MiB", "source µs/key", "target µs/key"]
COLUMN_KEYS = ["keys_s", "cpu_s_m", "peak_mib", "source_us", "target_us"]


def run(options, report):
    with Stage(options, report) as stage:
        source, target = stage.cluster(SOURCE_KIND), stage.cluster(TARGET_KIND)
        for keys in options.keys:
            source.flushall()
            filler = stage.crossfade(source, pinned=False)
            stage.fill(filler.port, keys)
            filler.close()
            stage.unpin(source, target)
            rows = {}
            for rep in range(options.reps):
                tools = [("crossfade", lambda: ours(stage, source, target, keys))]
                tools += [(n, lambda c=c: shake(source, target, keys, c)) for n, c in SHAKES.items() if SHAKE]
                for name, tool in tools[rep % len(tools):] + tools[:rep % len(tools)]:
                    target.flushall()
                    try:
                        for what, row in tool():
                            rows.setdefault(name + what, []).append(row)
                            report.run("backfill", target=name + what, keys=keys, **row)
                    except BenchError as e:
                        report.failed("backfill", "%s: %s" % (name, e))
            tell(report, keys, rows)


def tell(report, keys, rows):
    table = Table("Backfill of {:,} keys of 128 bytes, cluster to cluster, three primaries a side".format(keys), COLUMNS,
                  "No CPU is reserved for anybody: tool and six servers share %d." % len(measure.ALL_CPUS))
    middle = {name: {k: measure.median([r[k] for r in found]) for k in found[0]} for name, found in rows.items()}
    for name, m in middle.items():
        table.add(name, *[m[k] for k in COLUMN_KEYS])
    report.table(table)
    nothing = dict.fromkeys(COLUMN_KEYS)
    copy, verify = (middle.get(name, nothing) for name in ("crossfade", "crossfade, verify"))
    of = " ({:,} keys)".format(keys)
    report.goal("backfill keys/s" + of, copy["keys_s"], 200000, at_least=True)
    report.goal("backfill CPU s per million keys" + of, copy["cpu_s_m"], 2.5)
    report.goal("backfill peak RSS MiB" + of, copy["peak_mib"], 64)
    report.goal("verify keys/s" + of, verify["keys_s"], 150000, at_least=True)
    report.goal("verify peak RSS MiB" + of, verify["peak_mib"], 64)


class Meter:
    """Time and CPU from its making to row()."""

    def __init__(self, source, target):
        self.source, self.target = pids(source), pids(target)
        self.noise = measure.Noise()
        self.noise.__enter__()
        self.began = time.monotonic()
        self.before = [measure.cpu_of(self.source), measure.cpu_of(self.target)]

    def row(self, keys, own_cpu, peak_kib, seconds=None):
        seconds = seconds or time.monotonic() - self.began
        src, dst = measure.cpu_of(self.source) - self.before[0], measure.cpu_of(self.target) - self.before[1]
        self.noise.__exit__()
        return {"keys_s": keys / seconds, "cpu_s_m": own_cpu * 1e6 / keys, "peak_mib": peak_kib / 1024, "source_us": 1e6 * src / keys,
                "target_us": 1e6 * dst / keys, "seconds": seconds, "steal": self.noise.steal, "other_cores": self.noise.other(own_cpu + src + dst)}


def ours(stage, source, target, keys):
    proxy = stage.crossfade(source, target, pinned=False, config={"backfill-adaptive": "no", "workers": 0})
    try:
        meter, cpu = Meter(source, target), measure.cpu_s(proxy.pid)
        seconds = migrate(proxy)
        yield "", meter.row(keys, measure.cpu_s(proxy.pid) - cpu, measure.peak_kib(proxy.pid), seconds)
        have = target.dbsize()
        if have != keys:
            raise BenchError("the target holds %d keys, not %d" % (have, keys))
        measure.reset_peak(proxy.pid)
        meter, cpu = Meter(source, target), measure.cpu_s(proxy.pid)
        found = proxy.ctl("verify", timeout=1200)
        if found["checked"] < keys:
            raise BenchError("verify looked at %d keys only" % found["checked"])
        yield ", verify", meter.row(keys, measure.cpu_s(proxy.pid) - cpu, measure.peak_kib(proxy.pid))
    finally:
        proxy.close()


def shake_conf(source, target, count, folder):
    return ('[scan_reader]\ncluster = true\naddress = "%s"\nscan = true\nksn = false\ncount = %d\n'
            '[redis_writer]\ncluster = true\naddress = "%s"\n[advanced]\ndir = "%s/data"\nlog_file = "shake.log"\nlog_level = "warn"\n'
            'rdb_restore_command_behavior = "rewrite"\n') % (source.addrs[0], count, target.addrs[0], folder)


def shake(source, target, keys, count):
    with tempfile.TemporaryDirectory(prefix="cf-shake.") as folder:
        path = os.path.join(folder, "shake.toml")
        with open(path, "w", encoding="ascii") as f:
            f.write(shake_conf(source, target, count, folder))
        meter, peak, usage, deadline = Meter(source, target), 0, None, time.monotonic() + SHAKE_LIMIT_S
        with open(os.path.join(folder, "out"), "wb") as out:
            p = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", os.path.abspath(SHAKE), path], cwd=folder, stdin=subprocess.DEVNULL,
                                 stdout=out, stderr=out, preexec_fn=lambda: os.sched_setaffinity(0, measure.ALL_CPUS))
            while usage is None:
                pid, code, ru = os.wait4(p.pid, os.WNOHANG)
                if pid:
                    p.returncode, usage = os.waitstatus_to_exitcode(code), ru
                elif time.monotonic() > deadline:
                    p.kill()
                    p.wait()
                    raise BenchError("RedisShake was not done in %d s" % SHAKE_LIMIT_S)
                else:
                    try:
                        peak = max(peak, measure.peak_kib(p.pid))
                    except OSError:
                        pass
                    time.sleep(0.02)
        row = meter.row(keys, usage.ru_utime + usage.ru_stime, peak)
        have = target.dbsize()
        if p.returncode or have != keys:
            raise BenchError("RedisShake ended with %d, the target holds %d keys" % (p.returncode, have))
        yield "", row
