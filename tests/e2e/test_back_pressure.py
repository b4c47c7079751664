"""A client that sends faster than the authority takes is not read from, instead of being kept in memory: in bytes, not only in requests."""
import select

import pytest
from harness import diff
from harness.process import frozen
from harness.resp import encode

MB = 1 << 20
VALUE = 900 * 1000      # below what is passed on as it comes
TAKEN_MAX = 64 * MB     # what the kernel keeps of two connections, and of the proxy's bound for one client
GIVEN_UP = 256 * MB     # and where a test that failed ends


@pytest.fixture(scope="module")
def sides(servers):
    return servers.standalone("redis-7.0"), servers.standalone("valkey-9.1")


def pushed(client, data, copies):
    """Sends until nothing more is taken for a second, or all is sent; returns bytes."""
    sock, sent, total = client.sock, 0, len(data) * copies
    sock.setblocking(False)
    try:
        while sent < total and sent < GIVEN_UP and select.select([], [sock], [], 1)[1]:
            at = sent % len(data)
            try:
                sent += sock.send(data[at:at + 256 * 1024])
            except BlockingIOError:
                pass
    finally:
        sock.setblocking(True)
        sock.settimeout(client.timeout)
    return sent


@pytest.mark.parametrize("mirrored", [False, True], ids=["proxy", "synced"])
def test_a_hung_authority_holds_clients_back(sides, crossfade, mirrored):
    source, target = sides
    for side in sides:
        side.flushall()
    proxy = crossfade(source, target, config={"workers": 2, "upstream-timeout": 60000})
    if mirrored:
        proxy.ctl("start")
        proxy.wait("synced")
    data = encode(("APPEND", "k", "x" * VALUE))
    with proxy.connect(timeout=60) as c:
        c.call("PING")
        with frozen([source]):
            sent = pushed(c, data, 1000)
        assert sent < TAKEN_MAX, sent
        rest = -sent % len(data)
        c.send_raw(data[len(data) - rest:] if rest else b"")
        n = (sent + rest) // len(data)
        assert [c.read() for _ in range(n)] == [VALUE * (i + 1) for i in range(n)]
        # and it goes on as before
        assert c.pipeline([("APPEND", "k", "y" * VALUE)] * 20)[-1] == VALUE * (n + 20)
    if mirrored:
        proxy.wait("dirty=0,lag=0")
        assert diff(source, target) == []
