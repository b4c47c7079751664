"""TLS at the endpoint and towards both sides, and Unix sockets: who is let in, what is checked, what a reload changes, and a migration with TLS everywhere."""
import os
import re
import socket
import ssl
import stat

import pytest
from harness import Client, Crossfade, diff
from harness.certs import Certs
from harness.process import wait_until
from load import Load, fill, fill_types


@pytest.fixture(scope="module")
def stranger():
    """Another CA, and what it has signed."""
    made = Certs(ca="stranger")
    made.make("client")
    yield made
    made.close()


@pytest.fixture(scope="module")
def source(servers, certs):
    return servers.standalone("redis-7.0", tls=certs, conf={"unixsocket": certs.path("source.sock")})


def listener(certs, **more):
    return dict({"tls-cert-file": certs.crt("server"), "tls-key-file": certs.key("server"), "tls-ca-cert-file": certs.ca,
                 "tls-auth-clients": "no"}, **more)


def towards(side, certs, **more):
    return dict({side + "-tls": "yes", side + "-tls-ca-cert-file": certs.ca}, **more)


@pytest.fixture
def proxy(source, certs, crossfade):
    return crossfade(source, client_options={"tls": certs.context()}, config=listener(certs))


def refused(proxy, **options):
    """No client gets through: with TLS 1.3 it learns that at its first read."""
    with pytest.raises((ssl.SSLError, ConnectionError)):
        with proxy.connect(**options) as c:
            c.call("PING")
    return True


# ---- the endpoint


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_versions_and_sizes(proxy, certs, version):
    """Records end anywhere: between requests, within one, within a value of many of them."""
    with proxy.connect(tls=certs.context(version=version), timeout=60) as c:
        assert c.sock.version() == "TLSv" + version
        big = os.urandom(3 << 20)
        assert c.call("SET", "big", big) == b"OK" and c.call("GET", "big") == big
        commands = [("SET", "k%d" % i, "v" * (i * 37 % 3000)) for i in range(1500)] + [("GET", "k%d" % i) for i in range(1500)]
        replies = c.pipeline(commands, chunk=3000)
        assert replies[:1500] == [b"OK"] * 1500
        assert replies[1500:] == [b"v" * (i * 37 % 3000) for i in range(1500)]
        c.send_raw(b"PING\r\n" * 5000)
        assert [c.read() for _ in range(5000)] == [b"PONG"] * 5000
        assert c.call("QUIT") == b"OK" and c.sock.recv(1) == b""  # closed in order: no error


def test_a_slow_reader_gets_everything(proxy):
    """The socket is full while replies wait: writing goes on where it stopped."""
    value = os.urandom(200000)
    with proxy.connect(timeout=60) as c:
        c.call("SET", "v", value)
        for _ in range(60):
            c.send("GET", "v")
        with proxy.connect() as other:  # served meanwhile
            assert other.call("PING") == b"PONG"
        assert all(c.read() == value for _ in range(60))


def test_session_resumption(source, certs, crossfade):
    proxy = crossfade(source, client_options={"tls": certs.context("client")}, config=listener(certs, **{"tls-auth-clients": "yes"}))
    for version in ("1.2", "1.3"):
        context = certs.context("client", version)
        with proxy.connect(tls=context) as c:
            assert c.call("PING") == b"PONG" and not c.sock.session_reused
            session = c.sock.session
        for _ in range(4):  # on whichever worker
            with proxy.connect(tls=context, session=session) as c:
                assert c.call("PING") == b"PONG" and c.sock.session_reused, version


def test_protocols(source, certs, crossfade):
    proxy = crossfade(source, client_options={"tls": certs.context()}, config=listener(certs, **{
        "tls-protocols": "TLSv1.2", "tls-ciphers": "ECDHE-ECDSA-AES256-GCM-SHA384"}))
    with proxy.connect() as c:
        assert c.sock.version() == "TLSv1.2" and c.sock.cipher()[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"
    assert refused(proxy, tls=certs.context(version="1.3"))


def test_mutual(source, certs, stranger, crossfade):
    proxy = crossfade(source, client_options={"tls": certs.context("client")}, config=listener(certs, **{"tls-auth-clients": "yes"}))
    with_strange_cert = stranger.context("client", ca=certs.ca)
    assert proxy.call("PING") == b"PONG"
    assert refused(proxy, tls=certs.context()) and refused(proxy, tls=with_strange_cert)
    proxy.config["tls-auth-clients"] = "optional"
    proxy.reload()
    wait_until("clients without a certificate are let in", lambda: not_refused(proxy, certs.context()))
    assert not_refused(proxy, certs.context("client")) and refused(proxy, tls=with_strange_cert)
    assert proxy.call("PING") == b"PONG"  # of before the reload


def not_refused(proxy, context):
    try:
        with proxy.connect(tls=context) as c:
            return c.call("PING") == b"PONG"
    except (ssl.SSLError, ConnectionError):
        return False


def plain(proxy):
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=30)


def test_garbage_and_half_handshakes(proxy):
    hello = ssl.MemoryBIO(), ssl.MemoryBIO()
    shy = ssl.create_default_context().wrap_bio(*hello, server_hostname="x")
    with pytest.raises(ssl.SSLWantReadError):
        shy.do_handshake()
    client_hello = hello[1].read()
    half, silent = plain(proxy), plain(proxy)
    half.sendall(client_hello[:50])
    for bytes_ in (b"*1\r\n$4\r\nPING\r\n", os.urandom(5000), b"\x16\x03\x01\xff\xff" + bytes(70000), client_hello + os.urandom(3000)):
        with plain(proxy) as s:
            try:
                s.sendall(bytes_)
                while s.recv(65536):
                    pass
            except ConnectionError:
                pass  # closed, in whatever way
    assert proxy.call("PING") == b"PONG"
    assert half.recv(100) == b"" and silent.recv(100) == b""  # the deadline of a handshake has ended them
    half.close(), silent.close()
    wait_until("they are gone", lambda: proxy.status()["clients"] <= 1)
    assert proxy.call("PING") == b"PONG"


def serial(proxy, certs):
    with proxy.connect(tls=certs.context()) as c:
        return c.sock.getpeercert()["serialNumber"]


def test_certificates_are_read_again(source, certs, crossfade):
    certs.make("changing")
    proxy = crossfade(source, client_options={"tls": certs.context()},
                      config=listener(certs, **{"tls-cert-file": certs.crt("changing"), "tls-key-file": certs.key("changing")}))
    before = serial(proxy, certs)
    with proxy.connect() as stays:
        certs.make("changing")
        proxy.reload()
        wait_until("the new certificate is shown", lambda: serial(proxy, certs) != before)
        after = serial(proxy, certs)
        with open(certs.crt("changing"), "w") as f:
            f.write("-----BEGIN CERTIFICATE-----\nnonsense\n")
        proxy.reload()
        wait_until("it is refused", lambda: "nothing was changed" in proxy.log())
        assert re.search(r"tls-cert-file '[^']*changing.crt': .*: expected a PEM file", proxy.log())
        assert serial(proxy, certs) == after
        assert stays.call("PING") == b"PONG"


def test_an_encrypted_key(source, certs, crossfade):
    certs.make("locked", passphrase="open sesame")
    with open(certs.path("pass"), "w") as f:
        f.write("open sesame\n")
    os.chmod(certs.path("pass"), 0o600)
    config = listener(certs, **{"tls-cert-file": certs.crt("locked"), "tls-key-file": certs.key("locked")})
    wrong = Crossfade(source, start=False, client_options={"tls": certs.context()}, config=config)
    assert wrong.run_to_end() == 78 and "tls-key-file" in wrong.log()  # and no prompt
    wrong.close()
    proxy = crossfade(source, client_options={"tls": certs.context()}, config=dict(config, **{"tls-key-file-pass": certs.path("pass")}))
    assert proxy.call("PING") == b"PONG" and "sesame" not in proxy.log()


# ---- towards the sides


def complains(source, config, text):
    """A proxy that cannot reach the source says why, naming side and node."""
    proxy = Crossfade(source, start=False, config=dict({"source-nodes": source.tls_addrs}, **config))
    try:
        proxy.spawn_daemon()
        wait_until("it says: %s" % text, lambda: re.search("source.*%s.*%s" % (re.escape(source.tls_addr), text), proxy.log()))
        proxy.term()
    finally:
        proxy.close()


def nodes(proxy, side):
    return {n["addr"] for n in proxy.status()["nodes"] if n["side"] == side}


def test_names_and_dates_of_servers(source, certs, stranger, crossfade):
    def show(name):
        source.call("CONFIG", "SET", "tls-cert-file", certs.crt(name), "tls-key-file", certs.key(name))

    certs.make("elsewhere", names="DNS:elsewhere.example")
    certs.make("expired", days=-1)
    config = towards("source", certs)
    complains(source, dict(config, **{"source-tls-ca-cert-file": stranger.ca}), "certificate is not accepted: .*certificate")
    show("expired")
    complains(source, config, "certificate is not accepted: certificate has expired")
    show("elsewhere")
    complains(source, config, "certificate is not accepted: IP address mismatch")
    proxy = crossfade(source, config=dict(config, **{"source-nodes": source.tls_addrs, "source-tls-name": "elsewhere.example"}))
    assert proxy.call("SET", "k", "v") == b"OK" and source.call("GET", "k") == b"v"
    # A server that is shown wrong later: its connections end, the next one is refused, and the right one is taken again.
    show("server")
    source.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    wait_until("it is not taken", lambda: "hostname mismatch" in proxy.log())
    show("elsewhere")
    wait_until("it is taken again", lambda: proxy.client.try_call("GET", "k") == b"v")
    show("server")


@pytest.mark.parametrize("side", ["target", pytest.param("source", marks=pytest.mark.long)])
def test_a_certificate_expires_while_it_runs(standalone, certs, crossfade, side):
    """Of the follower: clients notice nothing. Of the authority: they are told. Either is in the status, and both sides are equal when there is a new one."""
    certs.make("expired", days=-1)
    source, target = standalone("redis-7.0", tls=certs), standalone("valkey-9.1", tls=certs)
    node = source if side == "source" else target
    fill(source, 100)
    proxy = crossfade(source, target, config=dict(towards("source", certs), **towards("target", certs), **{"source-nodes": source.tls_addrs, "target-nodes": target.tls_addrs}))
    proxy.ctl("start")
    proxy.wait("synced,dirty=0")

    def show(name):
        node.call("CONFIG", "SET", "tls-cert-file", certs.crt(name), "tls-key-file", certs.key(name))
        node.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    show("expired")
    wait_until("the status says why", lambda: any("the %s is not reached" % side in line and "certificate has expired" in line for line in proxy.status()["failing"]), 30, 0.05)
    reply = proxy.client.try_call("SET", "k:0", "meanwhile", timeout=60)
    assert reply == b"OK" if side == "target" else "certificate has expired" in str(reply), reply
    show("server")
    wait_until("it is taken again", lambda: proxy.client.try_call("SET", "k:1", "afterwards") == b"OK", 30, 0.05)
    proxy.wait("synced,dirty=0,lag=0", timeout=30)
    assert diff(source, target) == []
    wait_until("nothing fails any more", lambda: proxy.status()["failing"] == [], 30)


def test_a_plain_server_where_tls_is_expected(source, certs):
    proxy = Crossfade(source, start=False, config=towards("source", certs))
    try:
        proxy.spawn_daemon()
        wait_until("it says so", lambda: re.search("source %s: .*no answer to TLS" % re.escape(source.addr), proxy.log()))
        proxy.term()
    finally:
        proxy.close()


def test_migration_with_tls_everywhere(servers, certs, crossfade):
    """Every connection is TLS, with certificates on both ends, through a reload and lost connections."""
    conf = {"tls-auth-clients": "yes"}
    source, target = servers.cluster("redis-7.0", shards=2, tls=certs, conf=conf), servers.standalone("valkey-9.1", tls=certs, conf=conf)
    fill(source, 1000)
    fill_types(source, many=2)
    config = listener(certs, **{"source-nodes": source.tls_addrs[:1], "target-nodes": target.tls_addrs, "tls-auth-clients": "yes"})
    for side in ("source", "target"):
        config.update(towards(side, certs, **{side + "-tls-cert-file": certs.crt("client"), side + "-tls-key-file": certs.key("client")}))
    proxy = crossfade(source, target, client_options={"tls": certs.context("client")}, config=config)
    assert nodes(proxy, "source") == set(source.tls_addrs)
    with Load(proxy, clients=3) as load:
        proxy.ctl("start")
        proxy.wait("synced")
        proxy.reload()
        wait_until("certificates are read again", lambda: "certificates were read again" in proxy.log())
        assert proxy.ctl("verify")["checked"] > 1000
        for command in ("cutover", "rollback", "cutover"):
            proxy.ctl(command, "--yes")
            load.run_on()
            proxy.ctl("verify")
    proxy.wait("dirty=0,lag=0", timeout=20)
    assert diff(source, target) == []
    load.check(proxy, source, target)


# ---- Unix sockets


def test_unix_sockets(source, certs, crossfade):
    path = certs.path("endpoint.sock")
    proxy = crossfade(source, config={"unixsocket": path, "unixsocketperm": "770", "source-nodes": "unix:" + certs.path("source.sock")})
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o770
    with Client(path=path) as c:
        assert c.call("SET", "u", "x" * 100000) == b"OK" and c.call("STRLEN", "u") == 100000
    assert source.call("STRLEN", "u") == 100000
    assert nodes(proxy, "source") == {"unix:" + certs.path("source.sock")}
    proxy.term()
    assert not os.path.exists(path)
