"""The longest turn of a program's loop, in CPU time of its thread (tests/e2e/harness/turns.c): what everybody else waited for, whatever the machine did meanwhile."""
import atexit
import os
import shutil
import struct
import tempfile

from harness import preload

PAIR = struct.Struct("=QQ")


class Turns:
    """with `library` preloaded into programs; of those, by PID."""

    def __init__(self):
        self._dir = tempfile.mkdtemp(prefix="cf-turns.")
        atexit.register(shutil.rmtree, self._dir, ignore_errors=True)
        self.library = preload.library("turns", DIR='"%s"' % self._dir)

    def reset(self, pid):
        with open(os.path.join(self._dir, str(pid)), "r+b") as f:
            pairs = list(PAIR.iter_unpack(f.read()))
            for i, (thread, _) in enumerate(pairs):
                if thread:
                    f.seek(i * PAIR.size + 8)
                    f.write(bytes(8))

    def longest_ms(self, pid, thread=""):
        """Of the threads whose name begins so."""
        with open(os.path.join(self._dir, str(pid)), "rb") as f:
            pairs = list(PAIR.iter_unpack(f.read()))
        return max([ns / 1e6 for tid, ns in pairs if tid and _name(pid, tid).startswith(thread)], default=0.0)


def _name(pid, thread):
    try:
        with open("/proc/%d/task/%d/comm" % (pid, thread), encoding="ascii", errors="replace") as f:
            return f.read().strip()
    except OSError:
        return ""
