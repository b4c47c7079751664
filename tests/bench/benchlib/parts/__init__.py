"""The parts of tools/bench: each module has run(options, report); its docstring is its line in --help."""
from . import backfill, callgrind, flip, hostile, idle, large, mirror, proxy, scaling, workers

PARTS = {"proxy": proxy, "mirror": mirror, "backfill": backfill, "flip": flip, "idle": idle, "workers": workers,
         "scaling": scaling, "large": large, "hostile": hostile, "callgrind": callgrind}
