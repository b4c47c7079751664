"""What is preloaded into a process, so that it finds another world: clock.c (a clock that is wrong), names.c (a name of several addresses);
or is watched: turns.c (the longest turn of its loop).

Compiled when first asked for. It links with nothing, so that it can be loaded beside any C library: the servers bring their own.
"""
import atexit
import functools
import os
import shutil
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


@functools.lru_cache(maxsize=None)
def library(name, **defines):
    """The path of NAME.c compiled with -DNAME=value."""
    folder = tempfile.mkdtemp(prefix="cf-%s." % name)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = os.path.join(folder, name + ".so")
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-nostdlib", *("-D%s=(%s)" % d for d in defines.items()), "-o", path,
                    os.path.join(HERE, name + ".c")], check=True)
    return path
