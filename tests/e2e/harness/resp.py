"""A small RESP2 and RESP3 client.

Strings come back as bytes, errors as RespError objects (call() raises them, the
others return them), pushes are kept in Client.pushes. It checks the protocol
strictly: bytes that are not RESP raise ProtocolError, since half of what we test is
what a proxy puts on the wire.
"""
import collections
import socket
import time


class RespError(Exception):
    """An error reply. Compares equal to another with the same text."""

    @property
    def code(self):
        return str(self).split(" ", 1)[0]

    def __eq__(self, other):
        return isinstance(other, RespError) and str(self) == str(other)

    def __hash__(self):
        return hash(str(self))


class ProtocolError(Exception):
    """The peer sent what is not RESP."""


class Disconnected(ConnectionError):
    """The peer closed the connection."""


class Push(list):
    """An out-of-band message (RESP3 type >)."""


class Verbatim(bytes):
    """A verbatim string; .format is e.g. b"txt"."""
    format = b"txt"


class _Incomplete(Exception):
    pass


def to_bytes(arg):
    if isinstance(arg, bytes):
        return arg
    if isinstance(arg, str):
        return arg.encode()
    if isinstance(arg, bool):
        raise TypeError("a bool is no argument")
    if isinstance(arg, int):
        return b"%d" % arg
    if isinstance(arg, float):
        return repr(arg).encode()
    return bytes(arg)


def encode(args):
    out = [b"*%d\r\n" % len(args)]
    for arg in args:
        arg = to_bytes(arg)
        out.append(b"$%d\r\n%b\r\n" % (len(arg), arg))
    return b"".join(out)


class Parser:
    """Bytes in, replies out; keeps what is not complete yet."""

    def __init__(self):
        self.buf = bytearray()
        self.pos = 0

    def feed(self, data):
        if self.pos > 65536 and self.pos * 2 > len(self.buf):
            del self.buf[:self.pos]
            self.pos = 0
        self.buf += data

    def get(self):
        """The next reply; _Incomplete, with nothing consumed, if it is not all here."""
        start = self.pos
        try:
            return self._value()
        except _Incomplete:
            self.pos = start
            raise

    def _line(self):
        end = self.buf.find(b"\r\n", self.pos)
        if end < 0:
            raise _Incomplete
        line = bytes(self.buf[self.pos:end])
        self.pos = end + 2
        return line

    def _blob(self, size):
        end = self.pos + size
        if len(self.buf) < end + 2:
            raise _Incomplete
        data = bytes(self.buf[self.pos:end])
        if self.buf[end:end + 2] != b"\r\n":
            raise ProtocolError("no CRLF after a string of %d bytes" % size)
        self.pos = end + 2
        return data

    def _value(self):
        line = self._line()
        kind, rest = line[:1], line[1:]
        try:
            return self._typed(kind, rest)
        except ValueError:
            raise ProtocolError("bad line %r" % line[:80])

    def _typed(self, kind, rest):
        if kind == b"+":
            return rest
        if kind == b"-":
            return RespError(rest.decode("utf-8", "backslashreplace"))
        if kind == b":" or kind == b"(":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._blob(int(rest))
        if kind == b"!":
            return RespError(self._blob(int(rest)).decode("utf-8", "backslashreplace"))
        if kind == b"=":
            data = self._blob(int(rest))
            text = Verbatim(data[4:])
            text.format = data[:3]
            return text
        if kind == b"*":
            return None if rest == b"-1" else [self._value() for _ in range(int(rest))]
        if kind == b"~":
            values = [self._value() for _ in range(int(rest))]
            return _hashable_set(values)
        if kind == b"%":
            return {_hashable(self._value()): self._value() for _ in range(int(rest))}
        if kind == b"|":
            for _ in range(int(rest)):
                self._value(), self._value()
            return self._value()
        if kind == b">":
            return Push(self._value() for _ in range(int(rest)))
        if kind == b"_":
            return None
        if kind == b"#":
            if rest not in (b"t", b"f"):
                raise ProtocolError("bad boolean %r" % rest[:80])
            return rest == b"t"
        if kind == b",":
            return float(rest)
        raise ProtocolError("unknown type %r" % (kind + rest)[:80])


def _hashable(value):
    if isinstance(value, list):
        return tuple(_hashable(v) for v in value)
    return value


def _hashable_set(values):
    """A set where its members allow it, else a list."""
    try:
        return set(values)
    except TypeError:
        return values


class Client:
    """One connection. Client(port=…), or Client(path="…") for a Unix socket; tls is an ssl.SSLContext."""

    def __init__(self, port=None, host="127.0.0.1", path=None, protocol=2, timeout=10.0,
                 username=None, password=None, db=0, tls=None, session=None):
        self.port, self.host, self.path = port, host, path
        self.timeout = timeout
        self.protocol = protocol
        self.pushes = collections.deque()
        self.parser = Parser()
        if path is not None:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(timeout)
            self.sock.connect(path)
        else:
            self.sock = socket.create_connection((host, port), timeout)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname=host, session=session)
        if protocol == 3:
            auth = ["AUTH", username or "default", password] if password is not None else []
            self.hello = self.call("HELLO", 3, *auth)
        elif password is not None:
            self.call("AUTH", *([username] if username else []), password)
        if db:
            self.call("SELECT", db)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        self.sock.close()

    def reset(self):
        """Closes with RST instead of FIN, as a client that dies does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    # ---- sending

    def send_raw(self, data):
        self.sock.sendall(data)

    def send(self, *args):
        """Sends a command and does not wait; read() takes its reply."""
        self.sock.sendall(encode(args))

    # ---- receiving

    def read_any(self, timeout=None):
        """The next thing the peer sends, pushes included."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            try:
                return self.parser.get()
            except _Incomplete:
                self._fill(deadline)

    def read(self, timeout=None):
        """The next reply; pushes that come before it go to .pushes."""
        while True:
            value = self.read_any(timeout)
            if not isinstance(value, Push):
                return value
            self.pushes.append(value)

    def read_push(self, timeout=None):
        """The next push: one that came already, or that comes within the timeout."""
        if self.pushes:
            return self.pushes.popleft()
        value = self.read_any(timeout)
        if not isinstance(value, Push):
            raise ProtocolError("expected a push, got %r" % (value,))
        return value

    def _fill(self, deadline):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no reply in time from %s" % (self.path or self.port))
        self.sock.settimeout(left)
        try:
            data = self.sock.recv(262144)
        except socket.timeout:
            raise TimeoutError("no reply in time from %s" % (self.path or self.port))
        if not data:
            raise Disconnected("closed by %s" % (self.path or self.port))
        self.parser.feed(data)
        self.sock.settimeout(self.timeout)

    # ---- both

    def try_call(self, *args, timeout=None):
        """The reply; an error reply is returned as a RespError."""
        self.send(*args)
        return self.read(timeout)

    def call(self, *args, timeout=None):
        """The reply; an error reply is raised."""
        reply = self.try_call(*args, timeout=timeout)
        if isinstance(reply, RespError):
            raise reply
        return reply

    def pipeline(self, commands, chunk=500, timeout=None):
        """The replies to many commands, errors among them as objects."""
        replies, pending, count = [], [], 0
        for command in commands:
            pending.append(encode(command))
            count += 1
            if count == chunk:
                replies += self._flush(pending, timeout)
                pending, count = [], 0
        return replies + self._flush(pending, timeout)

    def _flush(self, pending, timeout):
        if pending:
            self.sock.sendall(b"".join(pending))
        return [self.read(timeout) for _ in pending]

    def raw(self, *args, timeout=None):
        """The bytes of the reply to one command, unparsed; pushes are not expected."""
        if len(self.parser.buf) != self.parser.pos:
            raise ProtocolError("unread bytes before raw()")
        self.parser = Parser()  # afresh, so that nothing is compacted away meanwhile
        self.send(*args)
        self.read_any(timeout)
        return bytes(self.parser.buf[:self.parser.pos])
