"""proxyctl check, against real servers: what is well, what is doubtful, what stands in the way, and what to do about it."""
import os
import re
import shutil
import subprocess
import time

import pytest
from harness import Client, RespError
from harness.process import wait_until

NEW = ["--assume-authority", "source"]  # a first start, whose target cannot say that there was none before


@pytest.fixture(scope="module")
def source(servers):
    return servers.standalone("redis-7.0")


@pytest.fixture(scope="module")
def target(servers):
    return servers.standalone("valkey-9.1")


@pytest.fixture(autouse=True)
def empty(source, target):
    for server in (source, target):
        server.flushall()
        server.call("FUNCTION", "FLUSH")
        server.call("CONFIG", "RESETSTAT")
    yield


def check(proxy, errors=False):
    """The lines. Exit code 1 if and only if there is an ERR."""
    result = proxy.ctl("check", check=False)
    levels = [line["level"] for line in result.data]
    assert set(levels) <= {"OK", "WARN", "ERR"} and result.rc == (1 if "ERR" in levels else 0), result
    for line in result.data:
        assert set(line) == {"check", "level", "text", "todo"} and line["text"], line
        assert (line["todo"] is None) == (line["level"] == "OK"), line
    assert errors is None or ("ERR" in levels) == errors, result.data
    return result.data


def find(lines, level, name, text):
    found = [line for line in lines if line["check"] == name and line["level"] == level and re.search(text, line["text"])]
    assert found, "no %s %s with '%s' in\n%s" % (level, name, text, "\n".join(map(str, lines)))
    return found[0]


def secret(tmp_path, word):
    path = tmp_path / ("secret-" + word)
    path.write_text(word + "\n")
    os.chmod(path, 0o600)
    return str(path)


def test_all_is_well(source, target, crossfade):
    proxy = crossfade(source, target)
    proxy.call("SET", "k", "v")
    before = source.call("ACL", "LOG"), target.call("ACL", "LOG")
    lines = check(proxy)
    for name, text in (("reachable", "source: 1 of 1"), ("reachable", "target: 1 of 1"), ("version", r"source redis-7\.0\.15"), ("version", r"target valkey-9\.1"),
                       ("memory", "has room"), ("eviction", ""), ("clock", ""), ("modules", ""), ("payloads", "version 10"), ("functions", ""), ("empty", ""),
                       ("databases", ""), ("rights", "on the source"), ("rights", "on the target"), ("traffic", "both sides know")):
        find(lines, "OK", name, text)
    find(lines, "WARN", "replicas", "no replica")
    assert (source.call("ACL", "LOG"), target.call("ACL", "LOG")) == before
    assert source.keys and target.dbsize() == 0
    text = proxy.ctl("check", json=False)
    assert text.rc == 0 and "0 errors, 1 warning" in text.out and re.search(r"^OK +clock", text.out, re.M) and "→ add replicas" in text.out


def test_clusters(cluster, crossfade):
    left, right = cluster("redis-7.0"), cluster("valkey-9.1", shards=2)
    proxy = crossfade(left, right)
    lines = check(proxy)
    find(lines, "OK", "version", "source redis.*cluster of 3 primaries")
    find(lines, "OK", "slots", "every slot of the source")
    find(lines, "WARN", "traffic", "no command has come through")
    # a slot without a node; the others go on
    right.nodes[0].call("CLUSTER", "DELSLOTS", "7")
    right.nodes[1].call("CLUSTER", "DELSLOTS", "7")
    wait_until("it is noticed", lambda: [x for x in check(proxy, None) if x["check"] == "slots" and x["level"] == "ERR"], 10, 0.2)
    line = find(check(proxy, True), "ERR", "slots", "1 slots? of the target ha.*no node.*7|state is not ok")
    assert "repair" in line["todo"]
    # an account whose rights differ from node to node
    left.nodes[2].call("ACL", "SETUSER", "default", "-dump")
    line = find(check(proxy, True), "ERR", "rights", "on the source may not run dump")
    assert "+dump" in line["todo"]


@pytest.fixture(scope="module")
def modern(servers):
    return servers.standalone("redis-8.0")


@pytest.mark.tsan
def test_what_an_older_cluster_cannot_hold(modern, cluster, crossfade):
    """Vector sets, expiring fields, databases, functions, commands and commands over several slots."""
    right = cluster("valkey-8.0")
    modern.call("VADD", "vector", "VALUES", "2", "1.0", "2.0", "el")
    modern.call("HSET", "h", "a", "1")
    modern.call("HEXPIRE", "h", "100", "FIELDS", "1", "a")
    modern.call("FUNCTION", "LOAD", "#!lua name=both\nredis.register_function('f', function() return 1 end)")
    right.nodes[1].call("FUNCTION", "LOAD", "#!lua name=only\nredis.register_function('g', function() return 1 end)")
    right.nodes[0].call("FUNCTION", "LOAD", "#!lua name=both\nredis.register_function('f', function() return 2 end)")
    with modern.connect(db=3) as c:
        c.call("SET", "x", "y")
    proxy = crossfade(modern, right)
    for command in (("MSET", "a", "1", "b", "2"), ("RENAME", "a", "zz"), ("JSON.SET", "a"), ("SYNC",), ("HGETDEL", "h", "FIELDS", "1", "q"), (b"\x00\xff",)):
        proxy.client.try_call(*command)
    lines = check(proxy, True)
    line = find(lines, "ERR", "types", "of all 4 keys of the source 1 is of type 'vectorset'.*'vector' is one")
    assert "--force" in line["todo"]
    find(lines, "ERR", "payloads", "expire in 1 hash")
    find(lines, "WARN", "modules", "lacks modules .*vectorset")
    find(lines, "WARN", "functions", "source lacks: only")
    find(lines, "WARN", "functions", "same name differ.*: both")
    find(lines, "ERR", "databases", "1 key in databases 1 to 3, and the target lets us select 1 database$")
    find(lines, "ERR", "traffic", r"hgetdel was seen 1 time: not known to target valkey-8\.0")
    line = find(lines, "ERR", "traffic", "rename was seen 1 time with keys of several slots.*CROSSSLOT")
    assert "hash tag" in line["todo"]
    find(lines, "WARN", "traffic", "mset was seen 1 time with keys of several slots")
    find(lines, "WARN", "traffic", "sync was seen 1 time: crossfade refuses it")
    find(lines, "WARN", "traffic", "json.set was seen 1 time: crossfade does not know it")
    find(lines, "WARN", "traffic", "1 request with other words")
    find(lines, "WARN", "commandstats", r"target valkey-8\.0\S* does not know: .*vadd \(1\)")
    assert "x00" not in proxy.log() and "vector" not in proxy.log()


def test_memory_and_eviction(source, target, crossfade):
    source.call("DEBUG", "POPULATE", "3000", "fat", "4096")
    proxy = crossfade(source, target)
    try:
        target.call("CONFIG", "SET", "maxmemory", "5mb")
        target.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        lines = check(proxy, True)
        line = find(lines, "ERR", "memory", "room for .*maxmemory")
        assert "raise maxmemory" in line["todo"]
        find(lines, "WARN", "eviction", "target evicts .*allkeys-lru")
        used = int(source.info()["used_memory"])
        target.call("CONFIG", "SET", "maxmemory", int(target.info()["used_memory"]) + int(used * 1.1))
        target.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
        find(check(proxy), "WARN", "memory", "little is left")
        source.call("CONFIG", "SET", "maxmemory", "1gb")
        source.call("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
        find(check(proxy), "WARN", "eviction", "source evicts .*volatile-ttl")
    finally:
        for server in (source, target):
            server.call("CONFIG", "SET", "maxmemory", "0")
            server.call("CONFIG", "SET", "maxmemory-policy", "noeviction")


def test_not_empty(source, target, crossfade):
    target.call("SET", "k", "v")
    proxy = crossfade(source, target)
    line = find(check(proxy, True), "ERR", "empty", "already holds 1 key")
    assert "target-not-empty allow" in line["todo"]
    proxy.term()
    proxy.config["target-not-empty"] = "allow"
    proxy.start()
    find(check(proxy), "WARN", "empty", "already holds 1 key")


def test_no_target(source, crossfade):
    lines = check(crossfade(source))
    find(lines, "WARN", "reachable", "no target is configured")
    find(lines, "OK", "rights", "on the source")


def test_databases_of_the_source(source, target, crossfade):
    with source.connect(db=20 % 16) as c:
        c.call("SET", "x", "y")
    lines = [x for x in check(crossfade(source, target), None) if x["check"] == "databases"]
    assert len(lines) == 1 and lines[0]["level"] == "OK" and "1 key in databases 1 to 4" in lines[0]["text"], lines


# ---- accounts

def test_rights_by_dryrun_and_by_trying(source, target, crossfade, tmp_path):
    """What is missing is named with the command that gives it, whether ACL DRYRUN is allowed or not."""
    rights = ["on", ">s3cret", "~*", "&*", "+@all", "-dump", "-restore", "-client|tracking", "-function|dump", "-pexpiretime", "-hget"]
    for server in (source, target):
        server.call("ACL", "SETUSER", "weak", "reset", *rights)
    auth = secret(tmp_path, "s3cret")
    proxy = crossfade(source, target, config={"source-user": "weak", "source-auth-file": auth, "target-user": "weak", "target-auth-file": auth})
    proxy.client.try_call("HGET", "h", "f")
    for dryrun in (True, False):
        lines = check(proxy, True)
        for side in ("source", "target"):
            line = find(lines, "ERR", "rights", "'weak' on the %s may not run .*crossfade needs it" % side)
            for name in ("dump", "function|dump", "pexpiretime"):
                assert re.search(r"\b%s\b" % re.escape(name), line["text"]) and "+" + name in line["todo"], line
            assert "ACL SETUSER weak" in line["todo"]
            line = find(lines, "WARN", "rights", r"on the %s may not run client\|tracking: writers that bypass" % side)
        find(lines, "ERR", "rights", "on the source may not run restore: .*no way back")
        assert "restore" in find(lines, "ERR", "rights", "on the target may not run .*crossfade needs it")["text"]
        if dryrun:
            find(lines, "ERR", "rights", "on the target may not run hget: the applications use it")
            for server in (source, target):
                server.call("ACL", "SETUSER", "weak", "-acl")
        else:
            find(lines, "WARN", "rights", "on the source may not run ACL DRYRUN: [0-9]+ commands that write were not checked")
    assert "s3cret" not in proxy.log() and "s3cret" not in str(lines)


def test_rights_over_keys(source, target, crossfade, tmp_path):
    target.call("ACL", "SETUSER", "narrow", "reset", "on", ">s3cret", "~app:*", "&*", "+@all")
    proxy = crossfade(source, target, config={"target-user": "narrow", "target-auth-file": secret(tmp_path, "s3cret")}, args=NEW)
    line = find(check(proxy, True), "ERR", "rights", "'narrow' on the target may not use every key")
    assert "ACL SETUSER narrow ~*" in line["todo"]
    target.call("ACL", "SETUSER", "narrow", "-acl")
    find(check(proxy, True), "ERR", "rights", "'narrow' on the target may not use every key")


def test_a_renamed_command(target, standalone, crossfade):
    left = standalone("redis-7.0", conf={"rename-command": "DUMP hidden-dump"})
    line = find(check(crossfade(left, target), True), "ERR", "rights", "the source does not have dump")
    assert "rename-command" in line["todo"]


# ---- nodes that do not answer

def test_a_side_that_does_not_answer(source, standalone, crossfade, tmp_path):
    right = standalone("valkey-9.1", conf={"requirepass": "s3cret"})
    proxy = crossfade(source, right, args=NEW)
    line = find(check(proxy, True), "ERR", "reachable", r"target.*127\.0\.0\.1:%d.*NOAUTH" % right.port)
    assert "target-auth-file" in line["todo"]
    proxy.term()
    proxy.config["target-auth-file"] = secret(tmp_path, "wrong")
    proxy.start()
    line = find(check(proxy, True), "ERR", "reachable", r"target.*127\.0\.0\.1:%d.*WRONGPASS" % right.port)
    assert "target-auth-file" in line["todo"] and "wrong" not in line["text"].replace("WRONGPASS", "")
    proxy.config["target-auth-file"] = secret(tmp_path, "s3cret")
    proxy.reload()
    wait_until("it is reached", lambda: all(x["level"] != "ERR" for x in check(proxy, None)), 10, 0.1)
    right.kill()
    line = find(check(proxy, True), "ERR", "reachable", r"target 127\.0\.0\.1:%d: .*(refused|closed|reset|lost)" % right.port)
    assert "target-nodes" in line["todo"]


def test_a_silent_node_blocks_nobody(source, standalone, crossfade):
    right = standalone("valkey-9.1")
    proxy = crossfade(source, right)
    check(proxy)
    right.freeze()
    try:
        with Client(path=proxy.socket, timeout=30) as waiting, Client(path=proxy.socket) as other:
            began = time.monotonic()
            waiting.send("PROXY", "CHECK")
            while time.monotonic() - began < 1.0:
                at = time.monotonic()
                other.call("PROXY", "STATUS")
                assert proxy.call("SET", "k", "v") == b"OK"
                assert time.monotonic() - at < 0.5
            assert re.search(rb"ERR.*(no reply for|no answer)", waiting.read()) and time.monotonic() - began < 12
    finally:
        right.thaw()
    # one that is ended while a check is under way answers who waits
    right.freeze()
    with Client(path=proxy.socket, timeout=30) as waiting:
        waiting.send("PROXY", "CHECK")
        time.sleep(0.2)
        proxy.drop()
        proxy.term()
        try:
            assert isinstance(waiting.read(), RespError)
        except ConnectionError:
            pass
    right.thaw()


def test_usage_of_the_admin_command(source, crossfade):
    proxy = crossfade(source)
    with Client(path=proxy.socket) as c:
        with pytest.raises(RespError, match="USAGE"):
            c.call("PROXY", "CHECK", "now")
        assert b"PROXY CHECK" in b"\n".join(c.call("PROXY", "HELP"))


# ---- clocks

SKEW = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long skew(void) { const char *s = getenv("SKEW_S"); return s ? atol(s) : 0; }
int clock_gettime(clockid_t c, struct timespec *t) { long r = syscall(SYS_clock_gettime, c, t); if (r == 0 && c == CLOCK_REALTIME) t->tv_sec += skew(); return (int)r; }
int gettimeofday(struct timeval *t, void *z) { struct timespec s; (void)z; clock_gettime(CLOCK_REALTIME, &s); t->tv_sec = s.tv_sec; t->tv_usec = s.tv_nsec / 1000; return 0; }
time_t time(time_t *t) { struct timespec s; clock_gettime(CLOCK_REALTIME, &s); if (t) *t = s.tv_sec; return s.tv_sec; }
"""


@pytest.mark.parametrize("seconds,level", [(2, "WARN"), (-300, "ERR")])
def test_clocks(source, standalone, crossfade, tmp_path, monkeypatch, seconds, level):
    if not shutil.which("gcc"):
        pytest.skip("no gcc to make a skewed clock with")
    (tmp_path / "skew.c").write_text(SKEW)
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-w", "-o", str(tmp_path / "skew.so"), str(tmp_path / "skew.c")], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(tmp_path / "skew.so"))
    monkeypatch.setenv("SKEW_S", str(seconds))
    right = standalone("valkey-8.0")
    monkeypatch.delenv("LD_PRELOAD")
    if abs(right.call("TIME")[0] and int(right.call("TIME")[0]) - time.time() - seconds) > 1.5:
        pytest.skip("the server's clock does not follow")
    lines = check(crossfade(source, right), level == "ERR")
    line = find(lines, level, "clock", "clocks? ")
    assert "NTP" in line["todo"] and re.search("ahead|behind|differ", line["text"])
    find(lines, "WARN", "clock", "this machine")


# ---- the gate

@pytest.mark.tsan
def test_a_cutover_is_preceded_by_a_check(source, target, crossfade):
    source.call("SET", "before", "1")
    proxy = crossfade(source, target)
    proxy.ctl("start")
    proxy.wait("synced")
    proxy.ctl("verify")
    target.call("ACL", "SETUSER", "default", "-function|dump")
    try:
        dry = proxy.ctl("cutover", "--dry-run", check=False)
        assert dry.rc == 1 and [g["gate"] for g in dry["gates"] if not g["ok"]] == ["preflight"]
        refused = proxy.ctl("cutover", "--yes", check=False)
        assert refused.rc == 1 and "proxyctl check finds 1 error" in refused.err and "function|dump" in refused.err and "ACL SETUSER default" in refused.err
        assert proxy.status()["authority"] == "source"
        forced = proxy.ctl("cutover", "--yes", "--force")
        assert forced["skipped"] == ["preflight"] and proxy.status()["authority"] == "target"
        proxy.ctl("rollback", "--yes")  # asks for no check
        assert proxy.status()["authority"] == "source"
    finally:
        target.call("ACL", "SETUSER", "default", "+@all")
    proxy.ctl("verify")
    proxy.ctl("cutover", "--yes")
    lines = check(proxy)
    find(lines, "OK", "reachable", "source")
    proxy.ctl("finish", "--yes")
    find(check(proxy), "OK", "reachable", "the source was let go")
