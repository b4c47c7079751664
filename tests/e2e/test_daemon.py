"""The process: its exit codes, signals, files and logs."""
import os
import re
import socket
import stat
import subprocess
import threading
import time

import pytest
from harness import Client, Crossfade, RespError, ports
from harness.crossfade import SANITIZERS, config_text, crossfade_bin
from harness.process import wait_until
from harness.resp import Disconnected, encode

SECRET = "s3cret-of-the-source"


@pytest.fixture(scope="module")
def redis(servers):
    return servers.standalone("redis-7.0")


@pytest.fixture(scope="module")
def guarded(servers):
    """With a password, and a user who may do everything."""
    server = servers.standalone("valkey-9.1", conf={"requirepass": SECRET})
    server.call("ACL", "SETUSER", "proxy", "on", ">other-secret", "~*", "&*", "+@all")
    return server


@pytest.fixture
def stopped(_factory):
    """A proxy that was not started."""
    def make(*args, **options):
        return _factory._keep(Crossfade(*args, start=False, **options))
    return make


def run(*args, cwd=None):
    env = dict(os.environ)
    env.update({k: v for k, v in SANITIZERS.items() if k not in os.environ})
    return subprocess.run([crossfade_bin(), *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, cwd=cwd, env=env)


def write(path, text, mode=0o600):
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, mode)
    return str(path)


# ---- configuration

WRONG = [  # the config's second line, and what the message must hold
    ("prot 7000", r"prot"),
    ("port 99999", r"port '99999': expected a port from 1 to 65535"),
    ("port", r"port"),
    ("port 7000 7001", r"port"),
    ("loglevel loud", r"loglevel 'loud': expected .*notice"),
    ("workers -1", r"workers '-1': expected"),
    ("request-max 16parsec", r"request-max '16parsec': expected"),
    ("source-nodes nohost", r"source-nodes 'nohost': expected"),
    ("mirror-ack maybe", r"mirror-ack 'maybe': expected source or both"),
    ("source-user me", r"source-user.*source-auth-file"),
    ('state-dir "unbalanced', r"quotes|unbalanced"),
    ("source-auth-file /nonexistent/secret", r"/nonexistent/secret"),
    ("source-nodes 127.0.0.1:2", r"source-nodes"),  # a second time
]


@pytest.mark.parametrize("line,message", WRONG, ids=[w[0] for w in WRONG])
def test_wrong_configuration(tmp_path, line, message):
    """Exit code 78, and file, line, and what was expected."""
    first = "#" if "nohost" in line else "source-nodes 127.0.0.1:1"
    path = write(tmp_path / "c.conf", "%s\n%s\nstate-dir %s/state\n" % (first, line, tmp_path))
    for how in ([], ["--check-config"]):
        r = run("-c", path, *how)
        assert r.returncode == 78, r
        assert re.search(r"%s:2: .*(%s)" % (re.escape(path), message), r.stderr), r.stderr
        assert r.stdout == "" and len(r.stderr.splitlines()) == 1, r
    assert not (tmp_path / "state").exists()


def test_command_line(tmp_path):
    assert run("-c", str(tmp_path / "none.conf")).returncode == 78
    assert "none.conf" in run("-c", str(tmp_path / "none.conf")).stderr
    assert run().returncode == 64
    assert run("--nonsense").returncode == 64
    assert run("-c", "c.conf", "--assume-authority", "both").returncode == 64
    r = run("-c", write(tmp_path / "empty.conf", "# nothing\n"))
    assert r.returncode == 78 and "source-nodes" in r.stderr
    r = run("--help-config")
    assert r.returncode == 0 and "source-nodes" in r.stdout
    assert run("--help").returncode == 0 and run("--version").stdout.startswith("crossfade ")


def test_check_config(tmp_path):
    """Only looks: no server, no state directory, no socket is needed or made."""
    path = write(tmp_path / "c.conf", "source-nodes 127.0.0.1:1\nstate-dir %s/state\nadmin-socket %s/a.sock\n" % (tmp_path, tmp_path))
    r = run("-c", path, "--check-config")
    assert (r.returncode, r.stdout.strip(), r.stderr) == (0, path + ": ok", "")
    assert os.listdir(tmp_path) == ["c.conf"]


# ---- state directory, sockets, ports

def test_state_directory_is_locked(redis, crossfade, stopped):
    first = crossfade(redis)
    assert stat.S_IMODE(os.stat(first.state_dir).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(first.socket).st_mode) == 0o600
    second = stopped(redis, config={"state-dir": first.state_dir})
    assert second.run_to_end() == 73
    assert "%s is in use by process %d" % (first.state_dir, first.pid) in second.log()
    assert first.call("PING") == b"PONG"
    assert first.admin("PING") is not None  # its socket is still there
    first.kill()  # the lock goes with the process
    assert os.path.exists(first.socket)
    second.start()
    assert second.call("PING") == b"PONG"


def test_state_directory_cannot_be_made(redis, stopped, tmp_path):
    proxy = stopped(redis, config={"state-dir": str(tmp_path / "no" / "such" / "parent")})
    assert proxy.run_to_end() == 73
    assert "no/such/parent" in proxy.log()
    proxy = stopped(redis, config={"state-dir": write(tmp_path / "file", "")})
    assert proxy.run_to_end() == 73
    assert str(tmp_path / "file") in proxy.log()


def test_stale_socket_is_replaced(redis, crossfade):
    proxy = crossfade(redis)
    proxy.kill()
    assert os.path.exists(proxy.socket)
    proxy.start()
    assert proxy.status()["phase"] == "proxy"
    proxy.term()
    assert not os.path.exists(proxy.socket)
    write(proxy.socket, "what is not a socket is not removed\n")
    assert proxy.run_to_end() not in (0, None)
    assert proxy.socket in proxy.log() and os.path.isfile(proxy.socket)


def test_port_is_taken(redis, crossfade, stopped):
    first = crossfade(redis)
    second = stopped(redis, config={"port": first.port})
    assert second.run_to_end() == 71
    assert "port %d" % first.port in second.log()
    assert first.call("PING") == b"PONG"


def test_corrupt_record(redis, crossfade):
    proxy = crossfade(redis)
    proxy.term()
    path = os.path.join(proxy.state_dir, "phase")
    with open(path) as f:
        record = f.read()
    for damaged in (record.replace("phase", "phrase", 1), record[:len(record) // 2], "", record.replace('"crossfade": 1', '"crossfade": 2')):
        assert damaged != record
        write(path, damaged)
        assert proxy.run_to_end() == 65
        assert path in proxy.log()
    assert "has format 2, and this version reads only 1: use the version that wrote it" in proxy.log()
    write(path, record)
    proxy.start()
    assert proxy.call("PING") == b"PONG"


# ---- the source

def test_first_start_without_source(guarded, redis, stopped, tmp_path):
    """It ends with 69 after 10 s, and says what is wrong; a password is never in the log. All at once, since it takes so long."""
    port = ports.reserve()
    try:
        nobody = stopped(None, config={"source-nodes": "127.0.0.1:%d" % int(port)})
        wrong = stopped(guarded, config={"source-auth-file": write(tmp_path / "secret", "not-the-password")})
        without = stopped(guarded)
        unnamed = stopped(None, config={"source-nodes": "nowhere.invalid:6379"})
        new = stopped(redis, config={"target-nodes": "127.0.0.1:%d" % int(port)})  # nor, without a record, without the target
        all_ = (nobody, wrong, without, unnamed, new)
        at = time.monotonic()
        for proxy in all_:
            proxy.spawn_daemon()
        wait_until("it has begun", lambda: "crossfade 0" in nobody.log())
        with pytest.raises(OSError):
            nobody.connect(timeout=1).call("PING")
        assert [proxy.wait_exit(20) for proxy in all_] == [69] * 5
        assert 8 < time.monotonic() - at < 15
    finally:
        port.release()
    assert "127.0.0.1:%d" % int(port) in nobody.log() and "is source-nodes right?" in nobody.log()
    assert "WRONGPASS" in wrong.log() and guarded.addr in wrong.log() and "not-the-password" not in wrong.log()
    assert "NOAUTH" in without.log()
    assert "--assume-authority source" in new.log() and "target was not reached" in new.log()
    assert "nowhere.invalid:6379 does not resolve" in unnamed.log()


def test_later_start_without_source(redis, crossfade, standalone):
    """It serves what it can, and everything once the source is there."""
    server = standalone("redis-7.0")
    proxy = crossfade(server, config={"upstream-timeout": 1000})
    assert proxy.call("SET", "k", "v") == b"OK"
    proxy.term()
    server.kill()
    proxy.spawn_daemon()
    wait_until("its admin socket answers", lambda: os.path.exists(proxy.socket) and proxy.ctl("status", check=False).rc == 0)
    server.drop()
    server.start()
    wait_until("it serves", proxy._answers, 20)
    assert proxy.call("SET", "k", "v") == b"OK"


def test_absent_target_does_not_matter(redis, stopped):
    """But for the first start, which cannot know that there was none before."""
    proxy = stopped(redis, config={"target-nodes": "127.0.0.1:1"})
    proxy.args = ["--assume-authority", "source"]
    proxy.start()
    assert proxy.call("SET", "k", "v") == b"OK"
    proxy.args = []
    proxy.restart()
    assert proxy.call("GET", "k") == b"v"
    assert proxy.ctl("start", check=False).rc != 0
    assert proxy.call("GET", "k") == b"v"


def test_password(guarded, crossfade, stopped, tmp_path):
    secret = write(tmp_path / "secret", SECRET + "\nwhat follows does not count\n")
    proxy = crossfade(guarded, config={"source-auth-file": secret})
    assert proxy.call("SET", "k", "v") == b"OK"
    other = write(tmp_path / "other", "other-secret\n")
    named = crossfade(guarded, config={"source-auth-file": other, "source-user": "proxy"})
    assert named.call("GET", "k") == b"v"
    users = {re.search(r" user=(\S+)", line).group(1) for line in guarded.call("CLIENT", "LIST").decode().splitlines()
             if "name=crossfade" in line}
    assert users == {"default", "proxy"}
    for p in (proxy, named):
        text = p.log() + p.ctl("status", json=False).out + repr(p.admin("PROXY", "CONFIG", "GET", "source-auth-file"))
        assert SECRET not in text and "other-secret" not in text
        with open("/proc/%d/cmdline" % p.pid) as f:
            assert "secret" not in f.read()


def test_password_changes(guarded, crossfade, tmp_path):
    """A new one is read at SIGHUP, and used by new connections; one that is there already stays."""
    guarded.call("ACL", "SETUSER", "rotated", "on", ">first", "~*", "&*", "+@all")
    secret = write(tmp_path / "secret", "first\n")
    proxy = crossfade(guarded, config={"source-auth-file": secret, "source-user": "rotated", "workers": 1})
    assert proxy.call("SET", "k", "v") == b"OK"
    guarded.call("ACL", "SETUSER", "rotated", "<first", ">second")
    assert proxy.call("GET", "k") == b"v"
    write(secret, "second\n")
    proxy.reload()
    wait_until("it has read it", lambda: re.search("reload|read again|configuration", proxy.log().split("ready on port")[1]))
    guarded.call("CLIENT", "KILL", "USER", "rotated")
    assert proxy.call("GET", "k") == b"v"


def test_password_changes_while_copying(standalone, guarded, crossfade, tmp_path):
    """On both sides, in the middle of a backfill: its own connections are made with the new one, too, and the copy goes on."""
    sides = [guarded, standalone("valkey-9.1")]
    for side in sides:
        side.flushall()
        side.call("ACL", "SETUSER", "copier", "on", ">first", "~*", "&*", "+@all")
    guarded.pipeline([["SET", "k%d" % i, i] for i in range(2000)])
    secrets = [write(tmp_path / name, "first\n") for name in ("source", "target")]
    proxy = crossfade(*sides, config={"source-auth-file": secrets[0], "source-user": "copier", "target-auth-file": secrets[1], "target-user": "copier",
                                      "backfill-keys-per-s": 200, "backfill-adaptive": False})
    proxy.ctl("start")
    wait_until("it copies", lambda: proxy.status()["backfill"]["keys_copied"] > 50)
    for side, secret in zip(sides, secrets):
        side.call("ACL", "SETUSER", "copier", "<first", ">second")
        write(secret, "second\n")
    proxy.reload()
    wait_until("it has read it", lambda: "reload: done" in proxy.log())
    for side in sides:
        side.call("CLIENT", "KILL", "USER", "copier")
    copied = proxy.status()["backfill"]["keys_copied"]
    assert copied < 2000
    wait_until("the copy goes on", lambda: proxy.status()["backfill"]["keys_copied"] > copied + 50, 20)
    proxy.ctl("throttle", "--off")
    proxy.wait("synced,dirty=0")
    assert sides[1].dbsize() == 2000 and proxy.ctl("verify").rc == 0
    for side in sides:
        side.call("ACL", "DELUSER", "copier")


# ---- signals

def test_term_answers_what_is_in_flight(crossfade, standalone):
    """Requests on their way are answered; new clients are not taken; idle ones are closed; then it ends with 0."""
    server = standalone("redis-7.0")
    proxy = crossfade(server)
    busy, idle = proxy.connect(timeout=20), proxy.connect()
    assert idle.call("SET", "k", "v") == b"OK"
    server.freeze()
    busy.send_raw(encode(("INCR", "n")) * 500 + encode(("GET", "k")))
    time.sleep(0.3)
    proxy.drop()
    proxy.signal(15)
    with pytest.raises((Disconnected, ConnectionResetError)):
        idle.read()
    with pytest.raises(OSError):
        Client(proxy.port, timeout=1).call("PING")
    assert proxy.running()
    server.thaw()
    assert [busy.read() for _ in range(501)] == list(range(1, 501)) + [b"v"]
    with pytest.raises((Disconnected, ConnectionResetError)):
        busy.read()
    assert proxy.wait_exit(10) == 0
    assert not os.path.exists(proxy.socket)


@pytest.mark.tsan
def test_term_under_load(redis, crossfade):
    """Every reply that a client got is whole, and every write that was answered was done."""
    proxy = crossfade(redis)
    redis.flushall()
    answered = [0] * 8

    def client(i):
        try:
            with proxy.connect() as c:
                while True:
                    c.send_raw(encode(("INCR", "n%d" % i)) * 10)
                    for _ in range(10):
                        assert c.read() == answered[i] + 1
                        answered[i] += 1
        except OSError:
            pass
    threads = [threading.Thread(target=client, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    wait_until("they are at it", lambda: min(answered) > 50)
    proxy.term()
    for t in threads:
        t.join()
    for i, n in enumerate(answered):
        assert n <= int(redis.call("GET", "n%d" % i)) <= n + 10


def test_second_term_ends_at_once(crossfade, standalone):
    server = standalone("redis-7.0")
    proxy = crossfade(server)
    with proxy.connect() as c:
        c.call("PING")
        server.freeze()
        c.send("GET", "k")
        time.sleep(0.2)
        proxy.drop()
        proxy.signal(15)
        time.sleep(0.3)
        assert proxy.running()
        proxy.signal(15)
        at = time.monotonic()
        assert proxy.wait_exit(5) != 0
        assert time.monotonic() - at < 2
    server.thaw()


def test_maxclients_holds_when_many_come_at_once(redis, crossfade):
    """Workers that accept at the same time do not let in one more each; and nobody is turned away while there is room."""
    proxy = crossfade(redis, config={"maxclients": 10, "workers": 4})
    for _ in range(20):
        wait_until("all have left", lambda: proxy.status()["clients"] == 0)
        socks = [socket.socket() for _ in range(40)]
        try:
            proxy.freeze()  # so that all of them wait when the workers begin
            for s in socks:
                s.settimeout(30)
                s.connect(("127.0.0.1", proxy.port))
            proxy.thaw()
            answers = []
            for s in socks:
                s.sendall(b"PING\r\n")
                answers.append(s.recv(100)[:5])
            assert sorted(answers) == [b"+PONG"] * 10 + [b"-ERR "] * 30
        finally:
            for s in socks:
                s.close()


def test_reload(redis, crossfade):
    proxy = crossfade(redis, config={"loglevel": "notice", "maxclients": 100})
    assert "is connected" not in proxy.log()
    proxy.config.update({"loglevel": "debug", "maxclients": 2, "workers": 1})
    proxy.reload()

    def level():
        return proxy.admin("PROXY", "CONFIG", "GET", "loglevel")
    wait_until("the level is debug", lambda: b"debug" in level())
    assert re.search(r"workers.*(next start|restart)", proxy.log()), proxy.log_tail()
    proxy.drop()
    wait_until("only two clients are taken", lambda: proxy.status()["clients"] == 0)
    with proxy.connect() as a, proxy.connect() as b, proxy.connect() as c:
        assert a.call("PING") == b.call("PING") == b"PONG"
        assert isinstance(c.read(), RespError)
    # a wrong file changes nothing
    with open(proxy.config_path, "a") as f:
        f.write("loglevel loud\n")
    proxy.signal(1)
    wait_until("the error is logged", lambda: re.search(r"crossfade\.conf:\d+: ", proxy.log()))
    assert b"debug" in level()
    assert proxy.running()


def test_log_is_reopened(redis, crossfade, tmp_path):
    path = str(tmp_path / "crossfade.log")
    proxy = crossfade(redis, config={"logfile": path})
    os.rename(path, path + ".1")
    proxy.signal(10)
    wait_until("a new file is there", lambda: os.path.exists(path))
    proxy.call("PING")
    proxy.term()
    with open(path) as f:
        assert f.read()


# ---- the log

def test_log_holds_no_values(redis, crossfade):
    """Neither keys nor values nor names of clients, at any level and whatever goes wrong."""
    proxy = crossfade(redis, config={"loglevel": "debug", "client-output-max": "1mb"})
    word = "XyZzY"
    with proxy.connect() as c:
        for command in (("SET", "k" + word, word), ("GET", "k" + word), ("LPUSH", "k" + word, word), ("NOSUCH", word), (word, word), ("CLIENT", "SETNAME", word),
                        ("AUTH", word), ("AUTH", word, word), ("HELLO", 3, "AUTH", word, word), ("EVAL", "return '%s'" % word, 0), ("EVAL", word, 0),
                        ("CONFIG", "SET", word, word), ("SET", word * 50, word * 100000), ("MSET", word, word, "x", word)):
            c.try_call(*command)
        c.send_raw(b"*1\r\n$" + word.encode() + b"\r\n")
    with proxy.connect() as c:
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        c.send_raw(encode(("GET", word * 50)) * 40)
        wait_until("it is cut off", lambda: "does not read" in proxy.log())
    redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    proxy.drop()
    assert proxy.call("GET", "k" + word) == word.encode()
    proxy.term()
    assert word not in proxy.log()
