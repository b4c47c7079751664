"""Free ports below 30000, race-free among test processes.

A port is ours while we hold a lock on its file. Ports of 32768 and up are ephemeral
ones, which any client's socket may hold; the demo uses 31001 to 32006.
"""
import fcntl
import os
import random
import socket

FIRST, LAST = 20000, 29999
_DIR = "/tmp/crossfade-ports.%d" % os.getuid()


class Port:
    """A reserved port; release() gives it back."""

    def __init__(self, number, fd):
        self.number = number
        self._fd = fd

    def __int__(self):
        return self.number

    def release(self):
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _is_free(number):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("", number))
        except OSError:
            return False
    return True


def reserve():
    os.makedirs(_DIR, mode=0o700, exist_ok=True)
    for _ in range(2000):
        number = random.SystemRandom().randint(FIRST, LAST)
        fd = os.open("%s/%d" % (_DIR, number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        if _is_free(number):
            return Port(number, fd)
        os.close(fd)
    raise RuntimeError("no free port between %d and %d" % (FIRST, LAST))
