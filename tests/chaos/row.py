"""A row of the scoreboard: a scenario that is played again and again, each time from a seed of its own.

A row's play(ctx) does one unit: it plays the scenario on ctx.world with the chances of ctx.rng, raises Broken if a promise does not hold, and returns figures. Figures of
several units are put together by the end of their names: _max the highest, _list all of them, anything else the sum.
"""
import collections
import random


class Row:
    def __init__(self, name, title, must, full, quick, play, each=1, replicas=0, options=None, needs_world=True, adds=False):
        """full, quick: how many of what the row counts; each: how many of them one unit does. adds: the page adds up all runs, whatever their commit.
        options: of the World, or a function of seed and unit."""
        self.name, self.title, self.must, self.full, self.quick, self.play = name, title, must, full, quick, play
        self.each, self.replicas, self.options, self.needs_world, self.adds = each, replicas, options or {}, needs_world, adds

    def units(self, count):
        return -(-count // self.each)


class Context:
    """What one unit has: rng is the only source of chance."""

    def __init__(self, world, row, seed, unit, quick, amount):
        """amount: how many of what the row counts the unit is to do; row.each, unless fewer are wanted."""
        self.world, self.unit, self.quick, self.amount = world, unit, quick, amount
        self.seed = "%s/%s/%d" % (seed, row.name, unit)
        self.rng = random.Random(self.seed)


def merge(figures, more):
    """Adds one unit's figures to those of a row."""
    for name, value in more.items():
        if name.endswith("_list"):
            figures.setdefault(name, []).extend(value)
        elif name.endswith("_max"):
            figures[name] = max(value, figures.get(name, value))
        else:
            figures[name] = round(figures.get(name, 0) + value, 3)
    return figures


def distribution(values):
    """Median, 99th percentile, highest."""
    v = sorted(values)
    at = lambda q: v[min(len(v) - 1, int(q * len(v)))]  # noqa: E731
    return collections.OrderedDict(n=len(v), median=at(0.5), p99=at(0.99), max=v[-1]) if v else {}
