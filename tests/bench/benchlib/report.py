"""Tables and goals, as text, Markdown and JSON."""
import json
import platform
import sys
import time

from .measure import fmt, median, taken


class Table:
    def __init__(self, title, columns, note=""):
        self.title, self.columns, self.note = title, columns, note
        self.rows = []

    def add(self, *cells):
        assert len(cells) == len(self.columns), (self.title, cells)
        self.rows.append([fmt(c) for c in cells])

    def text(self):
        lines = [self.columns] + self.rows
        widths = [max(len(row[i]) for row in lines) for i in range(len(self.columns))]
        out = ["", self.title]
        for row in lines:
            out.append("  " + "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip())
        return "\n".join(out + (["  " + self.note] if self.note else []))

    def markdown(self):
        out = ["", "**%s**" % self.title, "", "| " + " | ".join(self.columns) + " |", "|---" + "|---:" * (len(self.columns) - 1) + "|"]
        out += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join(out + (["", self.note] if self.note else []))

    def data(self):
        return {"title": self.title, "columns": self.columns, "rows": self.rows, "note": self.note}


class Report:
    """Collects what the parts found; printed part by part, the goals at the end."""

    def __init__(self, options):
        self.options = options
        self.raw, self.tables, self.goals, self.failures = [], [], [], []
        self.began = time.time()
        self.seconds = {}

    def table(self, table):
        self.tables.append(table)
        self._print(table)

    def _print(self, table):
        print(table.markdown() if self.options.markdown else table.text(), flush=True)

    def goal(self, what, value, limit, at_least=False):
        """A figure of the list of goals beside its limit; None: it was not measured."""
        ok = None if value is None else value >= limit if at_least else value <= limit
        self.goals.append({"what": what, "value": value, "limit": limit, "at_least": at_least, "ok": ok})

    def run(self, part, **figures):
        """One raw run, for --json."""
        self.raw.append(dict(part=part, **figures))

    def progress(self, text):
        print("# %s" % text, file=sys.stderr, flush=True)

    def failed(self, part, error):
        self.failures.append({"part": part, "error": error})
        self.progress("FAILED %s: %s" % (part, error))

    def finish(self):
        goals = Table("Goals", ["goal", "measured", "limit", ""])
        for g in self.goals:
            sign = "≥ " if g["at_least"] else "≤ "
            goals.add(g["what"], g["value"], sign + fmt(g["limit"]), {True: "holds", False: "MISSED", None: "not measured"}[g["ok"]])
        if self.goals:
            self._print(goals)
        noise = [taken(r) for r in self.raw if r.get("other_cores") is not None]
        if noise:
            worst = "Other processes and other guests of the host took %.2f cores in the median run, %.2f in the worst; above 0.1 the figures are worth little."
            print("\n" + worst % (median(noise), max(noise)))
        for f in self.failures:
            print("\nFAILED %s: %s" % (f["part"], f["error"]))
        if self.options.json:
            self._write(goals)

    def _write(self, goals):
        data = {"argv": sys.argv[1:], "began": self.began, "kernel": platform.release(), "seconds_of_part": self.seconds,
                "tables": [t.data() for t in self.tables + [goals]], "goals": self.goals, "failures": self.failures, "runs": self.raw}
        with open(self.options.json, "w", encoding="utf-8") as f:
            json.dump(data, f, indent=1, ensure_ascii=False)
            f.write("\n")
