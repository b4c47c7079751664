"""proxyctl by itself, against a small admin socket of our own: words sent, exit codes, output."""
import json
import os
import pty
import re
import socket
import subprocess
import threading
import time

import pytest

from harness.crossfade import proxyctl_bin
from harness.process import ROOT
from harness.resp import Parser, _Incomplete

STATUS = {
    "phase": "backfill", "authority": "source", "target_slots": [],
    "backfill": {"state": "running", "keys_total": 100000, "keys_copied": 61234, "keys_retried": 12, "bytes": 7864320,
                 "keys_per_s": 5400, "eta_s": 7, "held_by": "adaptive"},
    "mirror": {"effects": 84211, "queued": 12, "lag_ms": 3, "mismatches": 0},
    "dirty_keys": 2, "dirty_slots": 0, "failing": ["slot 7, from the source to the target: OOM"], "last_verify": None, "last_flip": None, "clients": 21,
    "nodes": [{"side": "source", "addr": "127.0.0.1:31001", "state": "up"}],
}
CLEAN = {"checked": 100, "missing": 0, "type": 0, "value": 0, "expiry": 0, "extra": 0, "repaired": 0, "age_s": 0}
FLIP = {"direction": "target", "pause_max_ms": 3.25, "pause_p99_ms": 1.5, "slots": 16384}


class FakeAdmin:
    """answers[name] is a reply (dict or list: JSON; "-…": error; else text), or a function of the words."""

    def __init__(self, path):
        self.path, self.answers, self.seen = path, {"STATUS": STATUS}, []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(8)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer):
        parser = Parser()
        with peer:
            while True:
                data = peer.recv(65536)
                if not data:
                    return
                parser.feed(data)
                try:
                    words = [w.decode() for w in parser.get()]
                except _Incomplete:
                    continue
                reply = self._reply(words)
                if reply is None:
                    return
                peer.sendall(reply)

    def _reply(self, words):
        assert words[0] == "PROXY"
        self.seen.append(words[1:])
        answer = self.answers.get(words[1], "OK")
        if callable(answer):
            answer = answer(words[1:])
        if answer is None:
            return None
        if isinstance(answer, str):
            return (answer if answer.startswith("-") else "+" + answer).encode() + b"\r\n"
        text = json.dumps(answer).encode()
        return b"$%d\r\n%b\r\n" % (len(text), text)

    def sent(self):
        return [w for w in self.seen if w[0] != "STATUS"]


@pytest.fixture
def admin(tmp_path):
    fake = FakeAdmin(str(tmp_path / "admin.sock"))
    yield fake
    fake.listener.close()


def ctl(*args, socket_path=None, env=None, stdin=subprocess.DEVNULL):
    argv = [proxyctl_bin()] + (["-s", socket_path] if socket_path else []) + [str(a) for a in args]
    environment = {k: v for k, v in os.environ.items() if k != "CROSSFADE_SOCKET"}
    environment.update(env or {})
    return subprocess.run(argv, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30,
                          env=environment, universal_newlines=True)


@pytest.mark.parametrize("args", [
    [], ["nonsense"], ["start", "now"], ["status", "--nonsense"], ["wait"], ["wait", "happiness"], ["wait", "synced,"],
    ["wait", "phase=lunar"], ["wait", "synced", "--timeout", "soon"], ["throttle"], ["throttle", "--keys-per-s", "many"],
    ["throttle", "--adaptive", "--off"], ["cutover", "--yes", "--percent", "101"], ["cutover", "--yes", "--slots", "9-3"],
    ["cutover", "--yes", "--slots", "0-16384"], ["cutover", "--yes", "--slots", "0-5", "--percent", "5"], ["verify", "--max-pause", "5"],
    ["start", "--yes"],
])
def test_usage_errors_exit_64_before_anything_is_sent(admin, args):
    assert ctl(*args, socket_path=admin.path).returncode == 64
    assert admin.seen == []


@pytest.mark.parametrize("command", ["cutover", "rollback", "finish", "abort"])
def test_what_asks_needs_yes_without_a_terminal(admin, command):
    result = ctl(command, socket_path=admin.path)
    assert result.returncode == 64 and "--yes" in result.stderr
    assert admin.seen == []


@pytest.mark.parametrize("args", [["status"], ["start"], ["verify"], ["cutover", "--yes"], ["wait", "synced", "--timeout", "1"]])
def test_no_socket_exits_69(tmp_path, args):
    result = ctl(*args, socket_path=str(tmp_path / "none.sock"))
    assert result.returncode == 69 and "none.sock" in result.stderr and result.stdout == ""


def test_a_connection_lost_before_the_answer_exits_69(admin):
    admin.answers["START"] = lambda words: None
    assert ctl("start", socket_path=admin.path).returncode == 69


def test_every_command_lists_its_exit_codes():
    for command in "check start status pause resume throttle verify cutover rollback finish abort wait".split():
        result = ctl(command, "--help")
        assert result.returncode == 0 and "Exit status" in result.stdout and "69" in result.stdout


@pytest.mark.parametrize("args, words", [
    (["start"], ["START"]), (["pause"], ["PAUSE"]), (["resume"], ["RESUME"]), (["finish", "--yes"], ["FINISH"]), (["abort", "--yes"], ["ABORT"]),
    (["throttle", "--keys-per-s", "500", "--bytes-per-s", "2mb", "--adaptive"], ["THROTTLE", "ADAPTIVE", "KEYS", "500", "BYTES", "2097152"]),
    (["throttle", "--off"], ["THROTTLE", "OFF"]),
])
def test_words_sent(admin, args, words):
    result = ctl(*args, socket_path=admin.path)
    assert result.returncode == 0, result.stderr
    assert admin.sent() == [words]


def test_flip_words_and_output(admin):
    admin.answers["CUTOVER"] = FLIP
    result = ctl("cutover", "--slots", "0-99", "--max-pause", "50", "--wait", "5", "--force", "--yes", "--json", socket_path=admin.path)
    assert result.returncode == 0 and json.loads(result.stdout) == FLIP
    assert admin.sent() == [["CUTOVER", "SLOTS", "0-99", "MAXPAUSE", "50", "WAIT", "5", "FORCE"]]
    assert "16,384 slots to the target" in ctl("cutover", "--yes", socket_path=admin.path).stdout


@pytest.mark.parametrize("code, status", [("REFUSED", 1), ("DIFFERENT", 2), ("USAGE", 64), ("UNREACHABLE", 69), ("TIMEDOUT", 75), ("ERR", 1)])
def test_error_codes_become_exit_codes(admin, code, status):
    admin.answers["ROLLBACK"] = "-%s not now" % code
    result = ctl("rollback", "--yes", "--json", socket_path=admin.path)
    assert result.returncode == status and "not now" in result.stderr
    assert json.loads(result.stdout) == {"error": code, "text": "not now"}


def test_dry_run_asks_nothing_and_tells_the_gates(admin):
    gates = [{"gate": "phase", "ok": True, "text": "synced"}, {"gate": "dirty", "ok": False, "text": "3 keys are dirty"}]
    admin.answers["CUTOVER"] = gates
    result = ctl("cutover", "--dry-run", socket_path=admin.path)
    assert result.returncode == 1 and "3 keys are dirty" in result.stdout
    assert json.loads(ctl("cutover", "--dry-run", "--json", socket_path=admin.path).stdout) == {"ok": False, "gates": gates}
    gates[1]["ok"] = True
    assert ctl("cutover", "--dry-run", socket_path=admin.path).returncode == 0
    assert admin.sent()[0] == ["CUTOVER", "DRYRUN"]


def test_check(admin):
    lines = [{"check": "clock", "level": "OK", "text": "the clocks agree", "todo": None},
             {"check": "replicas", "level": "WARN", "text": "no replica", "todo": "add one"}]
    admin.answers["CHECK"] = lines
    result = ctl("check", socket_path=admin.path)
    assert result.returncode == 0 and admin.sent() == [["CHECK"]]
    assert re.search(r"OK +clock +the clocks agree\n", result.stdout) and "→ add one" in result.stdout and "0 errors, 1 warning" in result.stdout
    lines.append({"check": "memory", "level": "ERR", "text": "too small", "todo": "more"})
    assert ctl("check", socket_path=admin.path).returncode == 1
    result = ctl("check", "--json", socket_path=admin.path)
    assert result.returncode == 1 and json.loads(result.stdout) == lines
    admin.answers["CHECK"] = "-UNREACHABLE crossfade is starting"
    assert ctl("check", socket_path=admin.path).returncode == 69


def test_verify_exits_2_when_anything_differs(admin):
    admin.answers["VERIFY"] = CLEAN
    result = ctl("verify", "--json", socket_path=admin.path)
    assert result.returncode == 0 and json.loads(result.stdout) == CLEAN
    admin.answers["VERIFY"] = dict(CLEAN, value=3)
    result = ctl("verify", "--repair", socket_path=admin.path)
    assert result.returncode == 2 and "3 with another value" in result.stdout
    assert admin.sent() == [["VERIFY"], ["VERIFY", "REPAIR"]]
    admin.answers.update(VERIFY="-DIFFERENT 3 keys differ", STATUS=dict(STATUS, last_verify=dict(CLEAN, value=3)))
    result = ctl("verify", "--json", socket_path=admin.path)
    assert result.returncode == 2 and json.loads(result.stdout)["value"] == 3


def test_verify_shows_progress_while_it_runs(admin):
    def slowly(words):
        time.sleep(5.5)
        return CLEAN
    admin.answers["VERIFY"] = slowly
    result = ctl("verify", "--json", socket_path=admin.path)
    assert result.returncode == 0 and json.loads(result.stdout) == CLEAN
    assert result.stderr.startswith("verify ")


def test_status(admin):
    result = ctl("status", "--json", env={"CROSSFADE_SOCKET": admin.path})
    assert result.returncode == 0 and json.loads(result.stdout) == STATUS
    text = ctl("status", socket_path=admin.path).stdout
    for part in ("backfill", "61,234 of about 100,000 keys", "adaptive", "lag 3 ms", "127.0.0.1:31001", "slot 7, from the source to the target: OOM"):
        assert part in text


def test_wait(admin):
    assert ctl("wait", "phase=backfill", "--timeout", "5", socket_path=admin.path).returncode == 0
    start = time.monotonic()
    result = ctl("wait", "synced", "--timeout", "0.5", socket_path=admin.path)
    assert result.returncode == 75 and 0.4 < time.monotonic() - start < 5
    assert ctl("wait", "phase=backfill,lag=0", "--timeout", "0", socket_path=admin.path).returncode == 75
    admin.answers["STATUS"] = dict(STATUS, phase="cutover", dirty_keys=0, mirror=dict(STATUS["mirror"], queued=0))
    assert ctl("wait", "synced,dirty=0,lag=0", "--timeout", "5", socket_path=admin.path).returncode == 0
    admin.answers["STATUS"] = dict(STATUS, dirty_keys=0, dirty_slots=1)
    assert ctl("wait", "dirty=0", "--timeout", "0.2", socket_path=admin.path).returncode == 75


def test_wait_ends_when_it_becomes_true(admin):
    threading.Timer(0.6, lambda: admin.answers.update(STATUS=dict(STATUS, phase="synced"))).start()
    assert ctl("wait", "synced", "--timeout", "10", socket_path=admin.path).returncode == 0


def on_terminal(admin, args, typed):
    """Runs proxyctl with a terminal as stdin; returns its exit code and what it said."""
    ours, theirs = pty.openpty()
    os.write(ours, typed)
    try:
        result = ctl(*args, socket_path=admin.path, stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    return result


def test_questions_on_a_terminal(admin):
    admin.answers["CUTOVER"] = FLIP
    result = on_terminal(admin, ["cutover"], b"n\n")
    assert result.returncode == 1 and "rollback" in result.stderr and admin.sent() == []
    assert on_terminal(admin, ["cutover"], b"y\n").returncode == 0
    assert admin.sent() == [["CUTOVER"]]


def test_watch_shows_a_bar_on_a_terminal_and_lines_elsewhere(admin):
    ours, theirs = pty.openpty()
    p = subprocess.Popen([proxyctl_bin(), "-s", admin.path, "status", "--watch"], stdout=theirs, stdin=theirs)
    time.sleep(0.5)
    p.terminate()
    p.wait()
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    os.close(theirs)
    assert "[###" in shown and "61%" in shown and "61,234" in shown
    p = subprocess.Popen([proxyctl_bin(), "-s", admin.path, "status", "--watch", "--interval", "0.1"], stdout=subprocess.PIPE)
    time.sleep(0.5)
    p.terminate()
    lines = p.communicate()[0].decode().splitlines()
    assert len(lines) >= 2 and "61,234/100,000" in lines[0] and "[" not in lines[0]


def test_the_man_page_names_every_command_and_option():
    with open(os.path.join(ROOT, "docs/man/proxyctl.1")) as f:
        page = f.read().replace("\\-", "-")
    for command in "check start status pause resume throttle verify cutover rollback finish abort wait".split():
        assert command in page
        for option in re.findall(r"--[a-z-]+", ctl(command, "--help").stdout):
            assert option in page, "%s of %s" % (option, command)
