"""Fixtures: factories of servers and proxies that are ended when the test ends.

    def test_x(cluster, standalone, crossfade):
        source, target = cluster("redis-7.0"), cluster("valkey-9.1")
        proxy = crossfade(source, target, config={"workers": 1})

`servers` does the same for a whole file (servers.cluster(…), servers.crossfade(…)):
no two files share a server.
"""
import contextlib

import pairs
import pytest
import reply_calls
from harness import Cluster, Crossfade, Standalone
from harness.certs import Certs
from harness.crossfade import crossfade_bin
from harness.process import live


class Factory:
    """Makes servers and proxies and closes them, proxies first."""

    def __init__(self):
        self._made = []

    def _keep(self, thing):
        self._made.append(thing)
        return thing

    def standalone(self, kind="redis-7.0", **options):
        return self._keep(Standalone(kind, **options))

    def cluster(self, kind="redis-7.0", shards=3, replicas=0, **options):
        return self._keep(Cluster(kind, shards, replicas, **options))

    def crossfade(self, source, target=None, **options):
        proxy = self._keep(Crossfade(source, target, start=False, **options))
        proxy.start()
        return proxy

    def close(self):
        with contextlib.ExitStack() as stack:  # closes all, and then raises what one raised
            for thing in self._made:
                stack.callback(thing.close)


@pytest.fixture(scope="module")
def servers():
    factory = Factory()
    yield factory
    factory.close()


@pytest.fixture(scope="module")
def certs():
    """Certificates of a server and of a client."""
    made = Certs()
    made.make("server")
    made.make("client")
    yield made
    made.close()


@pytest.fixture
def _factory():
    factory = Factory()
    yield factory
    factory.close()


@pytest.fixture
def standalone(_factory):
    return _factory.standalone


@pytest.fixture
def cluster(_factory):
    return _factory.cluster


@pytest.fixture
def crossfade(_factory):
    return _factory.crossfade


@pytest.fixture
def pair(sides):
    """The file's two sides, empty."""
    for side in sides:
        side.flushall()
    return sides


@pytest.fixture(scope="module")
def alone(servers):
    """A kind of server, and a proxy of three workers in front of it without a target; each kind once a file."""
    made = {}

    def get(kind):
        if kind not in made:
            server = servers.standalone(kind)
            made[kind] = server, servers.crossfade(server, config={"workers": 3})
        return made[kind]
    return get


def pytest_report_header():
    return "PAIRS_SEED=%s: %s; REPLY_SEED=%d" % (pairs.SEED, ", ".join(map(pairs.name_of, pairs.chosen(3))), reply_calls.SEED)


def pytest_collection_modifyitems(config, items):
    """`long` tests run only when the -m expression names them."""
    if "long" in (config.option.markexpr or ""):
        return
    kept = [i for i in items if not i.get_closest_marker("long")]
    config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker("long")])
    items[:] = kept


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if not report.failed:
        return
    for process in sorted(live, key=lambda p: p.name):
        tail = process.log_tail(60 if isinstance(process, Crossfade) else 8)
        if tail:
            report.sections.append(("log of %s, %s" % (process.name, process.dir), tail))


def pytest_terminal_summary(terminalreporter):
    failed = terminalreporter.stats.get("failed", []) + terminalreporter.stats.get("error", [])
    if not failed:
        return
    terminalreporter.section("what to do")
    for report in failed[:5]:
        terminalreporter.line("again:  PAIRS_SEED=%s REPLY_SEED=%d CROSSFADE_BIN=%s /usr/bin/python3 -m pytest 'tests/e2e/%s'"
                              % (pairs.SEED, reply_calls.SEED, crossfade_bin(), report.nodeid))
    terminalreporter.line("CROSSFADE_KEEP=1 leaves logs, configs and state in /tmp/cf-*; "
                          "add -x --pdb to look at the servers while they run")
