"""Bytes that nobody expects: every target of tests/fuzz, under ASan and UBSan."""
import os
import re
import subprocess
import time

from harness.process import ROOT

from .row import Row
from .world import Broken

OFTEN = {"request": 100, "reply": 100}  # what any client or server can send at once: so many times the runs of the others
RUNS, QUICK_RUNS = 100000, 1000         # a unit, of each of the others
LENGTHS = (48, 200, 1000)               # short inputs are quick and meet most of it; the rest of the time goes into longer ones
SHARES = (0.7, 0.25, 0.05)
# What a malloc costs under ASan is mostly that freed memory is kept out of use: here each run allocates the same few pieces, so a megabyte of it is thousands of runs.
SANITIZER = {"ASAN_OPTIONS": "quarantine_size_mb=1:thread_local_quarantine_size_kb=64:malloc_context_size=6"}


def targets():
    return sorted(n[5:-2] for n in os.listdir(os.path.join(ROOT, "tests/fuzz")) if re.fullmatch(r"fuzz_\w+\.c", n))


def fuzz(folder, name, runs, length, seed):
    """Runs it, every fourth seed with libFuzzer's dear way to choose what it changes; returns (how many runs there were, CPU seconds). What it finds interesting stays in the folder, for the next time."""
    corpus, seeds, words = os.path.join(folder, "corpus", name), os.path.join(ROOT, "tests/fuzz/corpus", name), os.path.join(ROOT, "tests/fuzz/fuzz_%s.dict" % name)
    os.makedirs(corpus, exist_ok=True)
    command = [os.path.join(folder, "tests/fuzz/fuzz_" + name), "-runs=%d" % runs, "-seed=%d" % seed, "-max_len=%d" % length, "-timeout=10", "-rss_limit_mb=2048", "-reload=0", "-entropic=%d" % (seed % 4 == 0),
               "-print_final_stats=1", "-verbosity=1", "-artifact_prefix=%s/%s-" % (folder, name)] + (["-dict=" + words] if os.path.exists(words) else [])
    before = os.times()
    done = subprocess.run(command + [corpus] + ([seeds] if os.path.isdir(seeds) else []), cwd=folder, env=dict(os.environ, **SANITIZER), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    after = os.times()
    text = done.stdout.decode(errors="replace")
    if done.returncode:
        raise Broken("%s, -seed=%d -max_len=%d: %s" % (name, seed, length, text[-2000:]))
    return int(re.search(r"number_of_executed_units: (\d+)", text)[1]), after.children_user + after.children_system - before.children_user - before.children_system


def fuzzed(ctx):
    """One hundredth of the whole. The corpus grows from unit to unit, so a unit is not the same twice: an input that fails is kept as a file."""
    subprocess.run([os.path.join(ROOT, "tools/variant"), "fuzz", "--enable-fuzz", "CC=clang", "CFLAGS=-O1 -g"], check=True, stdout=subprocess.DEVNULL)
    folder, figures = os.path.join(ROOT, "build/fuzz"), {}
    for name in targets():
        runs = (QUICK_RUNS if ctx.quick else RUNS) * OFTEN.get(name, 1)
        done = [fuzz(folder, name, int(runs * share), length, ctx.rng.randrange(1, 1 << 31)) for length, share in zip(LENGTHS, SHARES)]
        figures["runs_" + name] = sum(n for n, _ in done)
        figures["cpu_s_" + name] = round(sum(s for _, s in done), 1)
    return figures


ROWS = [
    Row("fuzzed", "parser, configuration, ACL, journal, phase record fuzzed, 10^9 runs of requests and of replies, 10^7 of each other (in hundredths)", "0 findings under ASan and UBSan", 100, 0, fuzzed,
        needs_world=False, adds=True),
]
