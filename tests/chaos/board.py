"""Plays rows, keeps what came of them in a JSON file, and makes docs/reliability.md from it.

The file holds records: {"row", "seed", "commit", "date", "wanted", "done", "seconds", "figures", "failures": [{"unit", "text"}]}. A record is written after each unit, so that a run that was
interrupted is taken up again: same row, seed and commit, and not all done.
"""
import datetime
import json
import os
import subprocess
import sys
import time
import traceback

from harness.process import ROOT

from . import page
from .row import Context, merge
from .world import World


RESULTS = ("tests/chaos/scoreboard.json", "docs/reliability.md")


def commit():
    """The tree's, marked if anything but the results was changed: they change with each unit, and a run that was interrupted is to be found again."""
    git = ["git", "-c", "safe.directory=*"]
    out = subprocess.run(git + ["describe", "--always", "--exclude", "*"], cwd=ROOT, stdout=subprocess.PIPE)
    name = out.stdout.decode().strip() or "unknown"
    changed = subprocess.run(git + ["diff", "--quiet", "HEAD", "--", "."] + [":(exclude)" + f for f in RESULTS], cwd=ROOT).returncode
    return name + "-dirty" if changed else name


def added(records):
    """Several runs as one, with the last one's commit."""
    all_of_it = dict(records[-1], done=0, seconds=0, figures={}, failures=[])
    for r in records:
        all_of_it["done"] += r["done"]
        all_of_it["seconds"] = round(all_of_it["seconds"] + r["seconds"], 1)
        all_of_it["failures"] = all_of_it["failures"] + r["failures"]
        merge(all_of_it["figures"], r["figures"])
    return all_of_it


class Board:
    def __init__(self, path):
        self.path = path
        self.records = []
        if os.path.exists(path):
            with open(path) as f:
                self.records = json.load(f)

    def save(self):
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        with open(self.path + ".tmp", "w") as f:
            json.dump(self.records, f, indent=1, sort_keys=True)
            f.write("\n")
        os.replace(self.path + ".tmp", self.path)

    def record(self, row, seed, wanted, quick):
        """The one to go on with, or a new one."""
        now = commit()
        for r in self.records:
            if (r["row"], r["seed"], r["commit"], r["quick"]) == (row.name, seed, now, quick) and r["done"] < r["wanted"] and r["wanted"] == wanted:
                return r
        r = {"row": row.name, "seed": seed, "commit": now, "wanted": wanted, "done": 0, "quick": quick, "seconds": 0, "figures": {}, "failures": [],
             "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")}
        self.records.append(r)
        return r

    def latest(self, row):
        """The record that tells most: of the newest commit played, the longest; or all of them as one."""
        mine = [r for r in self.records if r["row"] == row.name and r["done"]]
        if row.adds and mine:
            return added(mine)
        return max((r for r in mine if r["commit"] == mine[-1]["commit"]), key=lambda r: r["done"]) if mine else None


class Stage:
    """Servers for rows; those of one row serve the next if it wants the same."""

    def __init__(self, fault=""):
        self.fault, self.world, self.wants = fault, None, None

    def world_for(self, row, seed, unit):
        options = row.options(seed, unit) if callable(row.options) else row.options
        wants = (row.replicas, tuple(sorted(options.items())))
        if self.world is None or self.wants != wants:
            self.close()
            self.world, self.wants = World(replicas=row.replicas, fault=self.fault, **options), wants
        return self.world

    def close(self):
        if self.world:
            world, self.world = self.world, None
            world.close()


def play(stage, row, seed, unit, quick, amount=None):
    """(figures, None), or ({}, what is wrong). After a failure the servers are made anew."""
    world = None
    try:
        world = stage.world_for(row, seed, unit) if row.needs_world else None
        return row.play(Context(world, row, seed, unit, quick, amount or row.each)), None
    except KeyboardInterrupt:
        raise
    except Exception as e:  # noqa: B902 (what went wrong is the result)
        text = "%s: %s" % (type(e).__name__, e)
        if not isinstance(e, AssertionError):
            text += "\n" + "".join(traceback.format_tb(e.__traceback__)[-4:])
        if world and world.proxy:
            text += "\n  the proxy's log ends:\n    " + "\n    ".join(world.proxy.log_tail(25).splitlines())
        try:
            stage.close()
        except Exception as again:  # noqa: B902 (it was not clean: that is what is told)
            text += "\n  and when it was ended: %s" % again
            stage.world = None
        return {}, text


def run_row(board, stage, row, seed, count, quick, say=print):
    """Plays what is missing of `count`; True if nothing failed."""
    r = board.record(row, seed, count, quick)
    while r["done"] < count:
        unit, amount, started = r["done"] // row.each, min(row.each, count - r["done"]), time.monotonic()
        figures, wrong = play(stage, row, seed, unit, quick, amount)
        r["seconds"] = round(r["seconds"] + time.monotonic() - started, 1)
        r["done"] += amount
        if wrong:
            r["failures"].append({"unit": unit, "text": wrong})
            say("%s: unit %d FAILED: %s\n  again: tools/chaos --row %s --seed %s --unit %d%s" %
                (row.name, unit, wrong, row.name, seed, unit, " --quick" if quick else ""))
        else:
            merge(r["figures"], figures)
        board.save()
    say("%-9s %5d played %5d failed %7.0f s   %s" % (row.name, r["done"], len(r["failures"]), r["seconds"], page.figures_text(r["figures"])))
    sys.stdout.flush()
    return not r["failures"]
