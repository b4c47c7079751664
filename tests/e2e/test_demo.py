"""tools/demo, small: it must end clean, say so, and leave nothing behind."""
import json
import os
import socket
import subprocess

import pytest

from harness.process import ROOT

DEMO = os.path.join(ROOT, "tools", "demo")
PORTS = [31000] + [first + i for first in (31001, 32001) for i in range(6)]


def demo(*args, timeout=170):
    return subprocess.run([DEMO, "--no-setup"] + [str(a) for a in args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=timeout, universal_newlines=True)


def taken(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("args", [["--nonsense"], ["--source", "redis-1.0"], ["--flips", "2"], ["--clients", "0"], ["--keys", "many"]])
def test_usage_errors_exit_64(args):
    assert demo(*args).returncode == 64


@pytest.mark.parametrize("source, target", [("redis-7.0", "valkey-9.1"), ("redis-7.0-standalone", "valkey-9.1")])
def test_there_and_back_and_there_again(tmp_path, source, target):
    if any(taken(port) for port in PORTS):
        pytest.skip("another demo runs on this machine")
    path = str(tmp_path / "report.json")
    result = demo("--keys", 5000, "--clients", 6, "--seconds", 1, "--flips", 3, "--source", source, "--target", target, "--json", path)
    with open(path) as f:
        report = json.load(f)
    assert result.returncode == 0 and report["ok"], result.stdout[-6000:]
    assert (report["error_replies"], report["wrong_replies"], report["lost"], report["differences"]) == (0, 0, 0, 0)
    assert len(report["flips"]) == 3 and report["commands"] > 1000
    assert not any(taken(port) for port in PORTS)
