"""What hostile clients do, each until its process is killed: attack(port)."""
import socket
import time

from harness.resp import encode

BIG = 1 << 20  # bytes of the value of the key "big"
QUIT = encode(["QUIT"])


def dial(port):
    return socket.create_connection(("127.0.0.1", port), 30)


def _drain(s):
    """Reads until the other side closes: it was told QUIT, or does so by itself."""
    try:
        while s.recv(1 << 20):
            pass
    except OSError:
        pass


def sends(data, pause_s):
    """A client that says this, is answered, or closed, and comes again."""
    def attack(port):
        while True:
            with dial(port) as s:
                try:
                    s.sendall(data)
                except OSError:
                    pass
                _drain(s)
            time.sleep(pause_s)
    return attack


def holds(data, n):
    """So many that say this and nothing more."""
    def attack(port):
        kept = [dial(port) for _ in range(n)]
        for s in kept:
            s.sendall(data)
        time.sleep(3600)
    return attack


def reads_nothing(port):
    """Asks for 60 MB and reads none of it; goes when it was cut off, or after a second."""
    while True:
        with dial(port) as s:
            try:
                s.sendall(encode(["GET", "big"]) * 60)
                time.sleep(1)
            except OSError:
                pass


def comes_and_goes(port):
    """Connects, says nothing, and is gone, again and again."""
    while True:
        for s in [dial(port) for _ in range(20)]:
            s.close()
        time.sleep(0.005)


def words(name, n=1000000, value=None):
    out = [name]
    for i in range(n):
        out.append("k%d" % i)
        if value is not None:
            out.append(value)
    return encode(out) + QUIT


ATTACKS = {
    "400 idle connections": holds(b"", 400),
    "connections that come and go": comes_and_goes,
    "200 half requests of 500 MB": holds(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$500000000\r\nabc", 200),
    "sizes that are too large": sends(b"*1\r\n$536870913\r\n", 0.005),
    "nested arrays": sends(b"*1\r\n" * 100000, 0.005),
    "TLS on a plain port": sends(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2, 0.005),
    "70,000 bytes without a line's end": sends(b"*" + b"1" * 70000, 0.005),
    "pipelines of 100,000 PINGs": sends(encode(["PING"]) * 100000 + QUIT, 0.1),
    "pipelines of 100,000 GETs": sends(encode(["GET", "small"]) * 100000 + QUIT, 0.1),
    "pipelines of 100,000 SETs": sends(encode(["SET", "other", "v"]) * 100000 + QUIT, 0.1),
    "10,000 commands in MULTI": sends(encode(["MULTI"]) + encode(["SET", "other", "v"]) * 10000 + encode(["EXEC"]) + QUIT, 0.1),
    "DEL of 1,000,000 keys": sends(words("DEL"), 0.5),
    "MGET of 1,000,000 keys": sends(words("MGET"), 0.5),
    "MSET of 400,000 keys": sends(words("MSET", 400000, "v"), 0.5),
    "SADD of 1,000,000 members": sends(words("SADD"), 0.5),
    "a command that is not known, of 1,000,000 words": sends(words("NOSUCH"), 0.5),
    "who does not read": reads_nothing,
}
