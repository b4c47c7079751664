"""Rules taken out (backfill/fault.h): the scoreboard must notice each within a few units of the row that is about it."""
from . import board
from .rows import BY_NAME

MUTANTS = (
    ("journal-off", "killed", 40, "what is owed is forgotten with the process"),
    ("cas-off", "flips", 20, "copies are taken whatever their token"),
    ("replies-off", "expiries", 20, "the follower's replies are not compared"),
    ("fence-drain", "flips", 10, "a flip waits for nothing that is under way"),
)


def run(seed, only=None, say=print):
    """How many were found, how many not."""
    found = 0
    chosen = [m for m in MUTANTS if only in (None, m[0])]
    for name, row, units, what in chosen:
        stage = board.Stage(name)
        try:
            for unit in range(units):
                _, wrong = board.play(stage, BY_NAME[row], seed, unit, True)
                if wrong:
                    break
        finally:
            stage.close()
        found += bool(wrong)
        say("%-12s %s %s: %s\n             %s" % (name, "found by unit %d of" % unit if wrong else "NOT FOUND in %d units of" % units, row, what,
                                                " ".join((wrong or "").splitlines()[:2])[:200]))
    return found, len(chosen) - found
