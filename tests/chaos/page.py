"""docs/reliability.md from the records of board.py."""
from .row import distribution

UNITS = {"_ms": "ms", "_mb": "MB", "_s": "s"}
HEAD = """# Reliability: what was played, and what came of it

Made by `tools/chaos --page` from `tests/chaos/scoreboard.json`; not to be edited. Each row is a scenario of faults under load between a Redis 7.0 and a Valkey 9.1 cluster of three
primaries, played with other chances each time; `tests/chaos/README.md` says what is checked and how a failure is played again.
A commit marked `-dirty` is one on top of which something in the tree was changed and not yet committed.

"""


def figures_text(figures):
    parts = []
    for name, value in sorted(figures.items()):
        if name.endswith("_list"):
            d = distribution(value)
            parts.append("%s: %s" % (name[:-5].replace("_", " "), ", ".join("%s %g" % (k, v) for k, v in d.items())))
        else:
            parts.append("%s %g" % (name.replace("_max", " at most" if name.endswith("_max") else "").replace("_", " "), value))
    return "; ".join(parts)


def page(board, rows):
    out = [HEAD, "| scenario | must hold | wanted | played | failed | figures | commit, seed, date |\n|---|---|---|---|---|---|---|\n"]
    for row in rows:
        r = board.latest(row)
        if r is None:
            out.append("| %s | %s | %d | not yet | | | |\n" % (row.title, row.must, row.full))
            continue
        failed = str(len(r["failures"])) if not r["failures"] else "**%d**" % len(r["failures"])
        out.append("| %s | %s | %d | %d | %s | %s | `%s`, %s, %s |\n" % (row.title, row.must, row.full, r["done"], failed, figures_text(r["figures"]), r["commit"], r["seed"], r["date"]))
    failures = [(row, r, f) for row in rows for r in [board.latest(row)] if r for f in r["failures"]]
    if failures:
        out.append("\n## What failed\n\n")
        out += ["- `tools/chaos --row %s --seed %s --unit %d`: %s\n" % (row.name, r["seed"], f["unit"], f["text"].splitlines()[0]) for row, r, f in failures]
    return "".join(out)
