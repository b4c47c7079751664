"""The command table against the servers: command_keys says what COMMAND GETKEYSANDFLAGS says, and the table is not stale.

The C code is compiled into a shared object of its own and called with ctypes, so that no program is needed for it.
"""
import ctypes
import os
import random
import subprocess

import pytest
from harness import KINDS, RespError
from harness.process import ROOT

CALLS = 25  # per command and kind of server
SEED = int(os.environ.get("CROSSFADE_SEED", "1"))
BITS = {"RO": 1, "RW": 2, "OW": 4, "RM": 8, "access": 16, "update": 32, "insert": 64, "delete": 128}
NEWEST = "valkey-9.1"  # whose flags the table has
NAMES = ["a", "b", "key:{c}", "", "x" * 40]
WORDS = ["STREAMS", "STORE", "storedist", "GET", "get", "BY", "LIMIT", "KEYS", "COUNT", "GROUP", "SET", "INCRBY", "OVERFLOW",
         "AUTH", "AUTH2", "COPY", "BLOCK", "NX", "EX", "IFEQ", "KEEPTTL", "LEFT", "u8", "*", ">", "$"]
NUMBERS = ["0", "1", "2", "3", "4", "-1", "01", "+1", "1x", "9999999999999999999999", "2147483648", "4294967297"]


class Slice(ctypes.Structure):
    _fields_ = [("p", ctypes.c_char_p), ("n", ctypes.c_size_t)]


class KeyRef(ctypes.Structure):
    _fields_ = [("index", ctypes.c_uint32), ("flags", ctypes.c_uint32)]


@pytest.fixture(scope="module")
def keys_of(tmp_path_factory):
    """A function: words of a request -> None (wrong arguments) or [(index, flags)]."""
    so = str(tmp_path_factory.mktemp("table") / "table.so")
    subprocess.run([os.environ.get("CC", "gcc"), "-std=gnu11", "-O1", "-shared", "-fPIC", "-I", ROOT, "-o", so,
                    os.path.join(ROOT, "resp", "table.c"), os.path.join(ROOT, "resp", "table_data.c")], check=True)
    lib = ctypes.CDLL(so)
    lib.command_find.restype = lib.command_find_sub.restype = ctypes.c_void_p
    lib.command_find.argtypes = [Slice]
    lib.command_find_sub.argtypes = [ctypes.c_void_p, Slice]
    lib.command_keys.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.POINTER(Slice), ctypes.POINTER(KeyRef),
                                 ctypes.c_int]

    def run(words):
        argv = (Slice * len(words))(*[Slice(w.encode(), len(w.encode())) for w in words])
        row = lib.command_find(argv[0])
        assert row, words
        if len(words) > 1:
            row = lib.command_find_sub(row, argv[1]) or row
        keys = (KeyRef * 256)()
        n = lib.command_keys(row, len(words), argv, keys, 256)
        return None if n < 0 else [(keys[i].index, keys[i].flags) for i in range(n)]
    return run


def names_of(reply, parent=None):
    """Of COMMAND's reply: (words of the name, arity, module?)."""
    for row in reply:
        words = [w.decode() for w in row[0].split(b"|")]
        yield words, row[1], any(str(f).strip("b'") == "module" for f in row[2])
        if len(row) > 9:
            yield from names_of(row[9], words)


def random_call(rng, words, arity):
    """Words of a call that the arity allows; mostly what could be meant, sometimes nonsense."""
    total = arity if arity > 0 else max(-arity, len(words) + 1) + rng.choice([0, 0, 1, 2, 3, 5])
    out = list(words)
    while len(out) < total:
        out.append(rng.choice(rng.choice([NAMES, NAMES, WORDS, NUMBERS, ["1", "2"]])))
    return out


def positions(words, keys):
    return [words[i] for i, _ in keys]


def server_keys(server, words):
    """[(key, flags)], or the error."""
    try:
        reply = server.call("COMMAND", "GETKEYSANDFLAGS", *words)
    except RespError as e:
        return str(e)
    out = []
    for key, flags in reply:
        out.append((key.decode(), sum(BITS.get(f.decode() if isinstance(f, bytes) else str(f), 0) for f in flags)))
    return out


def flags_comparable(kind, module):
    """Modules' old-style keys are all called RW; older servers say some flags differently."""
    return kind == NEWEST and not module


def ambiguous(words):
    """GEORADIUS with STORE twice, or where the unit belongs: servers disagree, and each answers an error or takes the last."""
    stores = [i for i, w in enumerate(words) if w.lower() in ("store", "storedist")]
    return words[0].startswith("georadius") and (len(stores) > 1 or 5 in stores)


def is_error_anyway(words):
    """PFMERGE: see keys_of_pfmerge. XREAD, XREADGROUP with unknown options before STREAMS: any node words that error."""
    return (words[0] == "pfmerge" and len(words) == 2) or words[0] in ("xread", "xreadgroup")


def check_call(kind, server, keys_of, words, module):
    theirs, ours = server_keys(server, words), keys_of(words)
    if isinstance(theirs, str):
        if "no key arguments" in theirs:
            assert not ours, (kind, words, theirs, ours)
        elif "Invalid number of arguments" not in theirs and not is_error_anyway(words):
            assert not ours, (kind, words, theirs, ours)
        return
    if ours is None:  # GETKEYS reads counts with atoi: then the command itself must be an error
        with pytest.raises(RespError):
            print(kind, words, theirs, server.call(*words))
        return
    assert positions(words, ours) == [k for k, _ in theirs], (kind, words, theirs, ours)
    if flags_comparable(kind, module):
        assert [f & 255 for _, f in ours] == [f for _, f in theirs], (kind, words, theirs, ours)


@pytest.mark.parametrize("kind", KINDS)
def test_keys(standalone, kind, keys_of):
    server = standalone(kind)
    rng = random.Random(SEED)
    print("CROSSFADE_SEED=%d" % SEED)
    for words, arity, module in sorted(names_of(server.call("COMMAND"))):  # the server gives them in an order of each process's own
        for _ in range(CALLS):
            call = random_call(rng, words, arity)
            if not ambiguous(call):
                check_call(kind, server, keys_of, call, module)


def test_table_is_current():
    subprocess.run([os.path.join(ROOT, "tools", "gen-table"), "--check"], check=True)
