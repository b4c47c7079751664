"""The judge of tests/chaos: histories that cannot be are told, others are not. And, long, the harness itself: every mutant found, and half an hour of anything."""
import os
import random
import subprocess
import sys

import pytest
from harness.process import ROOT

sys.path.insert(0, os.path.join(ROOT, "tests"))
from chaos.history import MAYBE, OK, REFUSED, Op, check_counter, check_log, check_log_failover, check_register  # noqa: E402


def op(kind, token, begin, end, outcome=OK, value=None, client=0):
    o = Op(client, kind, token, begin)
    o.done(outcome, value, end)
    return o


def write(token, begin, end, value=None, outcome=OK, client=0):
    return op("write", token, begin, end, outcome, value, client)


def read(value, begin, end, client=1):
    return op("read", None, begin, end, OK, value, client)


A, B, C = b"a", b"b", b"c"


@pytest.mark.parametrize("ops, final, told", [
    ([write(A, 0, 1, 1), write(B, 2, 3, 2), read([A], 1, 2), read([A, B], 3, 4)], [A, B], None),
    ([write(A, 0, 5, 2), write(B, 0, 5, 1, client=1), read([B], 1, 2, client=2)], [B, A], None),  # at the same time: any order
    ([write(A, 0, 1, 1), write(B, 2, 3, 2)], [A], "lost"),
    ([write(A, 0, 1, 1), write(B, 2, 3, 2)], [B, A], "moved"),
    ([write(A, 0, 1, 2), write(B, 2, 3, 1, client=1)], [B, A], "stale"),
    ([write(A, 0, 1, 1), read([], 2, 3)], [A], "stale"),
    ([write(A, 0, 9, 1), read([A], 1, 2), read([], 3, 4, client=2)], [A], "stale"),
    ([write(A, 0, 1, 1), read([B], 2, 3)], [A], "no beginning"),
    ([write(A, 0, 1, 1)], [A, A], "twice"),
    ([write(A, 0, 1, outcome=MAYBE)], [], None),
    ([write(A, 0, 1, outcome=MAYBE), write(B, 2, 3, 1, client=1)], [B, A], None),  # it may come late
    ([write(A, 4, 5, outcome=MAYBE), write(B, 2, 3, 2, client=1)], [A, B], "stale"),  # but not early
    ([write(A, 0, 1, outcome=REFUSED)], [A], "refused, and done"),
    ([write(A, 0, 5, 2), write(B, 0, 6, 1)], [B, A], "out of its client's order"),
    ([], [A], "nobody wrote")])
def test_logs(ops, final, told):
    problems = check_log(ops, final)
    assert (told in " ".join(problems)) if told else problems == [], problems


def test_counters():
    good = [write(None, 0, 1, 1), write(None, 1, 3, 3), write(None, 1, 3, 2, client=1), read(3, 3, 4)]
    assert check_counter(good, 3) == []
    assert check_counter(good, 2) and check_counter(good, 4)
    assert check_counter(good + [write(None, 5, 6, outcome=MAYBE)], 4) == []
    assert "same number" in check_counter([write(None, 0, 1, 1), write(None, 0, 1, 1, client=1)], 2)[0]
    assert "stale" in check_counter([write(None, 0, 1, 1), read(0, 2, 3)], 1)[0]


@pytest.mark.parametrize("ops, final, told", [
    ([read(None, 0, 1), write(A, 1, 2), read(A, 2, 3), write(B, 3, 4), read(B, 4, 5)], B, None),
    ([write(A, 0, 9), write(B, 0, 9, client=1), read(A, 1, 2), read(B, 3, 4)], B, None),
    ([write(A, 0, 9), write(B, 0, 9, client=1), read(A, 1, 2), read(B, 3, 4), read(A, 5, 6)], B, "same time"),
    ([write(A, 0, 1), read(None, 2, 3)], A, "same time"),
    ([write(A, 0, 1), write(B, 2, 3)], A, "while"),
    ([write(A, 0, 1), write(B, 2, 3, outcome=MAYBE)], A, None),
    ([write(A, 0, 1), write(B, 2, 3, outcome=MAYBE), read(B, 4, 5)], B, None),
    ([write(A, 0, 1), write(B, 2, 3, outcome=REFUSED), read(B, 4, 5)], B, "refused"),
    ([read(A, 0, 1), write(A, 2, 3)], A, "before it was written"),
    ([write(A, 0, 1), read(C, 2, 3)], A, "nobody wrote"),
    ([write(A, 0, 1)], None, "while")])
def test_registers(ops, final, told):
    problems = check_register(ops, final, 10)
    assert (told in " ".join(problems)) if told else problems == [], problems


def test_a_failover_may_lose_what_was_not_replicated_and_nothing_else():
    ops = [write(A, 0, 1, 1), write(B, 2, 3, 2), read([A, B], 3, 4), write(C, 11, 12, 2)]
    assert check_log_failover(ops, [A, C], [A], 10) == ([], 1)
    assert check_log_failover(ops, [C], [A], 10)[0]                               # the replica had it
    assert check_log_failover(ops, [A, B, C], [A], 10)[0]                         # it came back
    assert check_log_failover(ops + [write(b"d", 13, 14, 3)], [A, C], [A], 10)[0]  # acknowledged by the new primary
    assert check_log_failover(ops + [read([A, B], 13, 14)], [A, C], [A], 10)[0]    # read after it was lost


def one_at_a_time(rng, seconds):
    """What a correct store of one register tells clients that overlap: the check must never object."""
    events, value, at = [], None, 0.0
    for n in range(200):
        at += rng.random() * seconds
        begin, end = at - rng.random(), at + rng.random()
        if rng.random() < 0.5:
            value = b"%d" % n
            events.append(write(value, begin, end, client=n))
        else:
            events.append(read(value, begin, end, client=n))
    return events, value


@pytest.mark.parametrize("seed", range(5))
def test_registers_of_a_correct_store(seed):
    ops, value = one_at_a_time(random.Random(seed), 0.2)
    assert check_register(ops, value, 1000) == []


@pytest.mark.long
@pytest.mark.parametrize("words", [["--mutants"], ["--minutes", "30"]], ids=["mutants", "anything"])
def test_chaos_long(words):
    done = subprocess.run([os.path.join(ROOT, "tools/chaos")] + words)
    assert done.returncode == 0
