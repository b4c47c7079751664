"""A server whose clock is wrong: clock.c, compiled and preloaded.

It links with nothing, so that it can be loaded beside any C library: the servers bring their own.
"""
import atexit
import functools
import os
import shutil
import subprocess
import tempfile


@functools.lru_cache(maxsize=None)
def library(offset_s):
    """The path of what to preload for a clock that is offset_s seconds ahead."""
    folder = tempfile.mkdtemp(prefix="cf-clock.")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = os.path.join(folder, "clock.so")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "clock.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-nostdlib", "-DOFFSET_S=(%d)" % offset_s, "-o", path, source], check=True)
    return path
