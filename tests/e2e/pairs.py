"""Which servers a run migrates between: a few of all combinations of version and shape, others every day, so that some days cover them all.

PAIRS_SEED=n (a day's number is the default, the header of a run shows it) repeats a run's choice; PAIRS_SEED=all takes every combination.
"""
import itertools
import os
import random
import time

SOURCES = ["redis-7.0", "redis-8.0"]
TARGETS = ["valkey-8.0", "valkey-8.1", "valkey-9.1"]
SHAPES = ["cluster", "standalone"]

# In the environment, so that all processes of a run agree.
SEED = os.environ.setdefault("PAIRS_SEED", str(int(time.time()) // 86400))


def all_pairs():
    """(shape, kind, shape, kind), in an order of which any few that follow each other are mixed."""
    pairs = list(itertools.product(SHAPES, SOURCES, SHAPES, TARGETS))
    random.Random(7).shuffle(pairs)
    return pairs


def chosen(n):
    """n of them as (shape, kind, shards, shape, kind, shards); the next day's are the next n."""
    pairs, seed = all_pairs(), 0
    if SEED != "all":
        seed = int(SEED)
        pairs = [pairs[(seed * n + i) % len(pairs)] for i in range(n)]
    rng = random.Random(seed)

    def shards(shape):
        return rng.choice([2, 3]) if shape == "cluster" else 1
    return [(s, sk, shards(s), t, tk, shards(t)) for s, sk, t, tk in pairs]


def name_of(pair):
    return "%s-%s-%d-to-%s-%s-%d" % pair


def make(servers, pair, confs=(None, None)):
    """The two sides."""
    return [servers.cluster(kind, shards=shards, conf=conf) if shape == "cluster" else servers.standalone(kind, conf=conf)
            for (shape, kind, shards), conf in zip((pair[:3], pair[3:]), confs)]
