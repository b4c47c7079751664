"""What is refused: by a row of the command table that says why, in that row's words, on the page of all commands, and in `proxyctl check` once it was used."""
import os
import re

import pytest
from harness import RespError
from harness.process import ROOT
from reply_calls import own_table

ROW = re.compile(r'^\t\{ "([^"]+)", (-?\d+), ', re.M)
REFUSES = "ERR crossfade: '%s' is not available: %s"
# Served outside a transaction; whatever the sides are, and in front of a cluster.
IN_MULTI = [("FLUSHALL",), ("FLUSHDB",), ("SWAPDB", 0, 1), ("SCRIPT", "LOAD", "return 1"), ("SCRIPT", "FLUSH"), ("FUNCTION", "FLUSH"), ("FUNCTION", "DELETE", "x"), ("SCAN", 0)]
IN_MULTI_OF_A_CLUSTER = [("DBSIZE",), ("KEYS", "*"), ("RANDOMKEY",), ("CONFIG", "GET", "x"), ("SCRIPT", "EXISTS", "x"), ("CLUSTER", "COUNTKEYSINSLOT", 1)]


def refused_rows():
    """(name, its shortest call, why) of every row that is refused; containers are answered in the servers' words for unknown subcommands."""
    rows = own_table()
    with open(os.path.join(ROOT, "resp", "table_data.c")) as f:
        arity = {name: abs(int(n)) for name, n in ROW.findall(f.read())}
    assert set(rows) == set(arity)
    containers = {name.split("|")[0] for name in rows if "|" in name}
    refused = [name for name, row in rows.items() if row["policy"] in ("refuse", "later") and name not in containers]
    return [(name, name.split("|") + ["x"] * (arity[name] - len(name.split("|"))), rows[name]["why"]) for name in refused]


@pytest.fixture(scope="module")
def pair(servers):
    source = servers.cluster("redis-7.0", shards=2)
    return source, servers.crossfade(source, servers.standalone("valkey-9.1"))


def seen(proxy):
    """Of each command that check names: the lines."""
    lines = {}
    for line in proxy.ctl("check", check=False).data:
        named = re.match(r"command (\S+) was seen", line["text"])
        if named and "refuses" in line["text"]:
            assert line["level"] == "WARN" and line["check"] == "traffic" and line["todo"], line
            lines.setdefault(named[1], []).append(line["text"])
    return lines


def test_every_refused_command(pair):
    _, proxy = pair
    rows = refused_rows()
    assert len(rows) < 50 and all(len(why) > 10 for _, _, why in rows), len(rows)  # the list is short, and each says why
    assert seen(proxy) == {}
    with open(os.path.join(ROOT, "docs", "commands.md")) as f:
        page = f.read()
    for name, words, why in rows:
        with proxy.connect() as c:  # each by itself: the words of some would be a protocol error behind others
            assert str(c.try_call(*words)) == REFUSES % (name, why)
        assert "`%s`" % name.replace("|", " ").upper() in page and re.search(r"\*\*(refused|not yet)\*\*: " + re.escape(why), page), name
    assert seen(proxy) == {name: ["command %s was seen 1 time: crossfade refuses it: %s" % (name, why)] for name, _, why in rows}


def test_what_is_refused_inside_multi_only(pair):
    _, proxy = pair
    calls = IN_MULTI + IN_MULTI_OF_A_CLUSTER
    before = set(seen(proxy))
    for words in calls:
        with proxy.connect() as c:
            got = c.pipeline([("MULTI",), words, ("EXEC",)])
        assert str(got[1]).startswith("ERR crossfade: '") and "inside a transaction" in str(got[1]), (words, got)
        assert isinstance(got[2], RespError) and got[2].code == "EXECABORT"
    lines = seen(proxy)
    names = {"|".join(words[:2] if words[0] in ("SCRIPT", "FUNCTION", "CONFIG", "CLUSTER") else words[:1]).lower() for words in calls}
    assert set(lines) - before == names
    for name in names:
        assert len(lines[name]) == 1 and re.match(r"command \S+ was seen 1 time inside MULTI: crossfade refuses it there: .{10}", lines[name][0]), lines[name]
