"""memory per idle client connection, before and after it has worked"""
import socket
import time

from .. import measure
from ..report import Table
from ..stage import SOURCE_KIND, BenchError, Stage, Target, need_peers

VALUE = b"x" * 1024
BATCH = 16


def run(options, report):
    table = Table("Memory per idle connection, KiB ({:,} connections)".format(options.conns),
                  ["", "RSS before, MiB", "connected", "after a GET", "after work", "of it after closing", "RSS then, MiB"],
                  "work: 16 SETs and GETs of 1 KiB at once, 100 connections at a time. Of it after closing: what stays when all connections are "
                  "closed, that is, a pool and no cost of a connection.")
    with Stage(options, report) as stage:
        cluster, single = stage.cluster(SOURCE_KIND), stage.standalone(SOURCE_KIND)
        makers = [("crossfade (cluster)", lambda: stage.crossfade(cluster)), ("crossfade (standalone)", lambda: stage.crossfade(single))]
        for name, path in need_peers().items():
            side = cluster if name == "predixy" else single
            makers.append((name, lambda name=name, path=path, side=side: stage.peer(name, path, side)))
        makers.append(("direct", lambda: stage.standalone(SOURCE_KIND)))
        for name, make in makers:
            process = make()  # each afresh: memory that earlier work freed would hide the cost
            try:
                row = measure_one(Target(name, process.port, process.pid), options.conns, 0.25 if options.quick else 1.0)
            except (OSError, BenchError) as e:
                report.failed("idle", "%s: %s" % (name, e))
                continue
            finally:
                process.close()
            per = {k: (row[k] - row["before"]) / options.conns for k in ("connected", "asked", "worked", "closed")}
            report.run("idle", target=name, conns=options.conns, **row)
            table.add(name, row["before"] / 1024, per["connected"], per["asked"], per["worked"], per["closed"], row["closed"] / 1024)
            if name.startswith("crossfade"):
                report.goal("%s: KiB per idle connection" % name, per["connected"], 0.5)
                report.goal("%s: KiB per idle connection that has worked" % name, per["worked"], 0.5)
    report.table(table)


def measure_one(target, conns, settle_s):
    def rss():
        time.sleep(settle_s)
        return measure.rss_kib(target.pid)
    row, links = {"before": rss()}, []
    get = [b"*2\r\n$3\r\nGET\r\n$11\r\nidle:%06d\r\n" % i for i in range(conns)]
    work = [b"*3\r\n$3\r\nSET\r\n$11\r\nidle:%06d\r\n$%d\r\n%s\r\n" % (i, len(VALUE), VALUE) for i in range(conns)]
    try:
        for _ in range(conns):
            links.append(socket.create_connection(("127.0.0.1", target.port), timeout=10))
        row["connected"] = rss()
        for link, asked in zip(links, get):
            link.sendall(asked)
            expect(link, 5)
        row["asked"] = rss()
        for first in range(0, conns, 100):  # a hundred of them at work at a time
            some = range(first, min(first + 100, conns))
            for i in some:
                links[i].sendall((work[i] + get[i]) * BATCH)
            for i in some:
                expect(links[i], BATCH * (5 + len(VALUE) + 9))
        row["worked"] = rss()
    finally:
        for link in links:
            link.close()
    row["closed"] = rss()
    return row


def expect(link, size):
    """Reads just so many bytes: the replies' sizes are known."""
    while size > 0:
        got = link.recv(min(size, 65536))
        if not got:
            raise BenchError("closed by the target")
        if got[:1] == b"-":
            raise BenchError(got.decode(errors="replace"))
        size -= len(got)
