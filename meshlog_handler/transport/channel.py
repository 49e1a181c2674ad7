"""The connection between a worker and its client: address, key, challenge, and the worker's end of the socket.

The connection is a Unix socket. Both ends authenticate by a challenge similar to that of ``multiprocessing.connection``, and
then exchange frames, never pickles. `multiprocessing` is not imported: a worker may join in any thread and right after a fork,
where an import could block on one that another thread had begun.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Final, NamedTuple, TypeVar

from .. import settings
from ..errors import ConnectError, MeshlogError, ProtocolError, SettingError
from ..journal.layout import Range
from ..protocol.digests import blake2b, compare_digest
from ..protocol.frames import CONTROL, HEAD, MAX_CONTROL, data_head, frame
from ..protocol.messages import Hello, Message, Welcome, decode
from ..system.descriptors import Held, is_readable, takes_more
from ..system.waits import capped, deadline_after, monotonic, seconds_until

DIAL_SEC: Final = 30.0
"""Seconds in which a worker gets through to a client to which very many connect."""

HANDSHAKE_SEC = 10.0
"""Seconds a new connection has to complete the handshake."""

_SCHEME = "meshlog://"

_MAX_PATH: Final = 103  # bytes, on macOS; 107 on Linux
_DESCRIPTORS: Final = "/proc/self/fd"

_GREETING: Final = b"meshlog 1\n"
_CHALLENGE: Final = 32  # bytes
_DIGEST: Final = 32
_MAX_KEY: Final = 64
_MAX_READ: Final = 64 * 1024
_PAUSE_SEC: Final = 0.05  # before another try

T = TypeVar("T")
Steps = Generator[None, None, T]
"""A function in steps: it yields when it has to wait for more bytes of its socket, and then returns a value."""


class Address(NamedTuple):
    """Path of the socket on which a client listens, and the key that authenticates workers."""

    path: str
    key: bytes

    def __repr__(self) -> str:
        return f"<Address {self.path}>"  # without the key: the repr may get into logs and tracebacks

    def __str__(self) -> str:
        return f"{_SCHEME}{self.path}#{self.key.hex()}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse an address; raise `SettingError` if `text` is not valid."""
        if not isinstance(text, str):
            settings.check_address(text)
        path, _, key = text.removeprefix(_SCHEME).rpartition("#")  # the path may contain the character
        with contextlib.suppress(ValueError):  # not hexadecimal: rejected below
            if text.startswith(_SCHEME) and os.path.isabs(path) and len(bytes.fromhex(key)) >= 16:
                return cls(path, bytes.fromhex(key))
        # The message omits the text, which may contain a key.
        given = f"{settings.ADDRESS} is " if text == os.environ.get(settings.ADDRESS) else ""
        raise SettingError(
            f"{given}not a valid client address. Expected the value of LogClient.address, meshlog:///path/of/socket#key. "
            "Pass it on unchanged, or use LogClient.environ()."
        )


@contextlib.contextmanager
def fitting(path: str) -> Iterator[str]:
    """Yield `path`, or a shorter path of the same socket if `path` is too long for a socket address.

    If its directory cannot be entered, the shorter path does not exist. Raises `OSError` if there is no descriptor left.
    """
    if len(os.fsencode(path)) <= _MAX_PATH:
        yield path
        return
    directory, name = os.path.split(path)
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        fd = -1
    try:
        yield f"{_DESCRIPTORS}/{fd}/{name}"
    finally:
        if fd >= 0:
            os.close(fd)


def any_length() -> bool:
    """Return whether the path of a socket may have any length."""
    return os.path.isdir(_DESCRIPTORS)


def listen(address: Address) -> list[socket.socket]:
    """Return non-blocking sockets that listen at an address.

    On Linux there is a second, abstract socket outside the file system. It stays reachable after a cleaner of temporary files
    has removed the directory. Its name is derived from the key.
    """
    sockets = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)]
    try:
        with fitting(address.path) as path:
            sockets[0].bind(path)
        os.chmod(address.path, 0o600)  # until now, the mode of the directory keeps other users out
        if sys.platform == "linux":
            sockets.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sockets[1].bind(abstract(address))
        for sock in sockets:
            sock.listen(1024)
            sock.setblocking(False)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def dial(address: Address, sock: socket.socket) -> None:
    """Connect a socket to the client at `address`; raise `OSError` if no client listens there.

    If the backlog is full (hundreds of workers start at once), the connection is tried again. Afterwards the socket has a
    timeout in the kernel.
    """
    sock.setblocking(False)  # overrides socket.setdefaulttimeout of the program
    deadline, pause = monotonic() + DIAL_SEC, 0.001
    with fitting(address.path) as path:
        while not _connected(sock, address, path):
            if monotonic() > deadline:
                raise BlockingIOError(errno.EAGAIN, "the client does not accept connections: too many wait")
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
    sock.setblocking(True)
    set_kernel_timeout(sock, HANDSHAKE_SEC)


def reach(address: Address) -> socket.socket:
    """Return an authenticated connection to the client at `address`; raise as `dial` and `authenticate` do.

    In a crowd, the client closes connections that have not proved for a while that they have the key. This may happen to a
    worker that gets no processor time, so it tries again.
    """
    deadline = deadline_after(DIAL_SEC)
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            dial(address, sock)
            return authenticate(sock, address.key)
        except BaseException as failure:
            sock.close()
            if not isinstance(failure, GivenUpError) or monotonic() > deadline:
                raise
        time.sleep(_PAUSE_SEC)


class GivenUpError(ConnectionError):
    """The client closed a connection before this end had proved that it has the key."""


def _connected(sock: socket.socket, address: Address, path: str) -> bool:
    """Try both sockets of the client; return whether one had room.

    Without waiting in the kernel: there, processes that try again and again overtake the one that waits.
    """
    try:
        sock.connect(path)
        return True
    except BlockingIOError:
        failure: OSError | None = None
    except (FileNotFoundError, NotADirectoryError, PermissionError) as missing:
        # The directory was removed, or this process has given up the right to enter it.
        failure = missing
    if sys.platform == "linux":
        try:
            sock.connect(abstract(address))
            return True
        except BlockingIOError:
            return False
        except ConnectionRefusedError:
            if failure is None:
                raise
    if failure is not None:
        raise failure
    return False


def abstract(address: Address) -> str:
    """Return the name of the second socket on Linux."""
    return "\0meshlog-" + _digest(address.key, b"name", os.fsencode(address.path)).hex()


def authenticate(sock: socket.socket, key: bytes) -> socket.socket:
    """Prove to the client that this worker has the key, and vice versa: each answers a random challenge with a keyed digest.

    ::

        client                                   worker
        greeting, challenge          ------->
                                     <-------    challenge, digest of both challenges
        digest of both challenges    ------->    or as many zeros, if the worker does not have the key

    The socket must have a timeout in the kernel (see `set_kernel_timeout`). Returns the socket, ready for frames.

    Raises
    ------
    OSError, EOFError
        If the other end sends nothing or closes the connection; `GivenUpError` if it has sent its challenge before.
    ProtocolError
        If the two ends do not have the same key, or the other end uses another protocol.
    """
    ours = os.urandom(_CHALLENGE)
    if read_exactly(sock, len(_GREETING)) != _GREETING:
        raise ProtocolError("the other end uses another protocol. Use the same version of meshlog_handler in both.")
    theirs = read_exactly(sock, _CHALLENGE)
    try:
        sock.sendall(ours + _digest(key, b"worker", theirs + ours))
        answer = read_exactly(sock, _DIGEST)
    except (EOFError, ConnectionError) as closed:
        raise GivenUpError("the client closed the connection") from closed
    _check(answer, key, b"client", theirs + ours)
    return sock


def challenge(sock: socket.socket, key: bytes) -> Steps[None]:
    """Authenticate a new connection on the client's side, in steps; see `authenticate`.

    Each answer is read in a later step. So when the worker has joined, the client has read the end of a connection that the
    same process had closed before.
    """
    ours = os.urandom(_CHALLENGE)
    sock.sendall(_GREETING + ours)  # no bytes wait in a new socket, so these few fit
    yield
    theirs = yield from take_exactly(sock, _CHALLENGE)
    try:
        _check((yield from take_exactly(sock, _DIGEST)), key, b"worker", ours + theirs)
    except ProtocolError:
        sock.sendall(bytes(_DIGEST))  # else the worker would try again
        raise
    sock.sendall(_digest(key, b"client", ours + theirs))
    yield


def _digest(key: bytes, side: bytes, challenges: bytes) -> bytes:
    # With the name of the side, a digest that is sent back to its sender proves nothing.
    # Not from OpenSSL: its digests take locks, and a child forked meanwhile would wait for them forever.
    return blake2b(challenges, key=key[:_MAX_KEY], person=side, digest_size=_DIGEST).digest()


def _check(digest: bytes, key: bytes, side: bytes, challenges: bytes) -> None:
    if not compare_digest(digest, _digest(key, side, challenges)):
        raise ProtocolError("the other end does not know the key")


def set_kernel_timeout(sock: socket.socket, seconds: float) -> None:
    """Limit every blocking call on the socket, also on its bare descriptor. 0 removes the limit."""
    value = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


def peer_uid(sock: socket.socket) -> int | None:
    """Return the user id of the other end, as reported by the kernel; None if the system does not report it."""
    if hasattr(socket, "SO_PEERCRED"):
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return int(uid)
    return None


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """Read `size` bytes from a blocking socket; raise `EOFError` if the connection is closed before."""
    parts = bytearray()
    while len(parts) < size:
        data = sock.recv(size - len(parts))
        if not data:
            raise EOFError("the other end closed the connection")
        parts += data
    return bytes(parts)


def read_frame(sock: socket.socket, limit: int) -> tuple[int, bytes]:
    """Read one frame from a blocking socket."""
    size, kind = _frame_head(read_exactly(sock, HEAD.size), limit)
    return kind, read_exactly(sock, size - 1)


def _frame_head(head: bytes, limit: int) -> tuple[int, int]:
    size, kind = HEAD.unpack(head)
    if not 1 <= size <= limit:
        raise ProtocolError(f"a frame of {size} bytes; 1 to {limit} are allowed")
    return size, kind


def take_exactly(sock: socket.socket, size: int) -> Steps[bytes]:
    """Do as `read_exactly` in steps, with a non-blocking socket."""
    parts = bytearray()
    while len(parts) < size:
        try:
            data = sock.recv(min(size - len(parts), _MAX_READ))
        except BlockingIOError:
            yield
            continue
        if not data:
            raise EOFError("the other end closed the connection")
        parts += data
    return bytes(parts)


def take_frame(sock: socket.socket, limit: int) -> Steps[tuple[int, bytes]]:
    """Do as `read_frame` in steps, with a non-blocking socket."""
    size, kind = _frame_head((yield from take_exactly(sock, HEAD.size)), limit)
    return kind, (yield from take_exactly(sock, size - 1))


def peer_pid(sock: socket.socket) -> int | None:
    """Return the process id of the other end of a Unix socket; 0 for another namespace, None if it is not reported."""
    if hasattr(socket, "SO_PEERCRED"):
        pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return int(pid)
    return None


class Link:
    """A worker's end of the connection. Any thread may send; one thread receives. A forked child only calls `forget`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._held = Held(sock.fileno())
        self.within = sock.family == socket.AF_UNIX and peer_pid(sock) == os.getpid()  # the client runs in this process
        self._sending = threading.Lock()
        self.closed = False

    def send_data(self, piece: Range) -> None:
        """Send a batch. Blocks while the client does not read; raises `OSError` if the client is gone."""
        self._send(data_head(piece.generation, piece.start, len(piece.data)) + piece.data)

    def send(self, kind: int, payload: bytes) -> None:
        """Send one frame. Blocks and raises as `send_data` does."""
        self._send(frame(kind, payload))

    def send_message(self, message: Message) -> None:
        """Send a message."""
        self.send(CONTROL, message.encode())

    def send_last(self, message: Message, timeout: float) -> None:
        """Send the last message, or give up after `timeout` seconds, for instance if the client is stopped.

        The message may be sent in part, without an error, so nothing else may be sent after it.
        """
        deadline = deadline_after(timeout)
        if not self._sending.acquire(timeout=capped(timeout)):
            return
        try:
            data = frame(CONTROL, message.encode())
            with contextlib.suppress(OSError):  # the client, the program or another thread has closed the connection
                self._check_intact()
                while data and takes_more(self._sock.fileno(), seconds_until(deadline)):
                    data = data[self._sock.send(data, socket.MSG_DONTWAIT) :]
        finally:
            self._sending.release()

    @property
    def peer_pid(self) -> int | None:
        """Process id of the client on this machine; None if it is unknown."""
        return peer_pid(self._sock) or None if self._sock.family == socket.AF_UNIX else None

    @property
    def intact(self) -> bool:
        """Whether the descriptor still is this socket: the program may have closed it and reused its number."""
        return self._held.intact

    @property
    def hung_up(self) -> bool:
        """Whether the client has closed its end; false if the program has closed this end."""
        try:
            if not self.intact:
                return False
            return not self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _send(self, data: bytes) -> None:
        with self._sending:
            self._check_intact()
            self._sock.sendall(data)

    def _check_intact(self) -> None:
        if not self.intact:
            raise OSError(errno.EBADF, "the program has closed the connection to the client")

    def receive(self, timeout: float | None) -> bytes | None:
        """Return the next message, encoded, or None after `timeout` seconds, at most `LONGEST_SEC`.

        Raises `OSError` or `EOFError` if the client is gone, and `ProtocolError` for an invalid frame.
        """
        if not is_readable(self._sock.fileno(), timeout):
            return None
        self._check_intact()
        kind, payload = read_frame(self._sock, MAX_CONTROL)
        if kind != CONTROL:
            raise ProtocolError(f"unexpected frame from the client: expected kind {CONTROL}, got {kind}")
        return payload

    def close(self) -> None:
        """Shut the connection down; a `receive` that waits in another thread ends."""
        self.closed = True
        with contextlib.suppress(OSError):  # the client or the program has closed it
            self._check_intact()
            self._sock.shutdown(socket.SHUT_RDWR)

    def release(self) -> socket.socket:
        """Return the socket. It belongs to the caller from here on."""
        self.closed = True
        return self._sock

    def outlive_exec(self) -> None:
        """Keep the socket open across `exec`, so that its closing shows the end of the process if the kernel does not."""
        self._sock.set_inheritable(True)

    def forget(self) -> None:
        """Close the descriptor of this process: in a forked child, or after `close`."""
        self.closed = True
        if self.intact:
            self._sock.close()
        else:
            self._sock.detach()


def connect(address: Address, hello: Hello, fds: Sequence[int], tunnel: socket.socket | None = None) -> tuple[Link, Welcome]:
    """Join the client at `address`: authenticate, send the Hello message and the read ends of captured pipes.

    With a `tunnel`, a socket whose other end is forwarded to the client, no socket is opened. Each step takes at most
    `HANDSHAKE_SEC` seconds. Raises `ConnectError` if no client answers, or the client refuses.
    """
    sock = tunnel
    try:
        if sock is None:
            sock = reach(address)
        else:
            sock.setblocking(True)
            set_kernel_timeout(sock, HANDSHAKE_SEC)
            authenticate(sock, address.key)
        sock.sendall(frame(CONTROL, hello.encode()))
        if fds:
            sock.sendmsg([b"F"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        _, payload = read_frame(sock, MAX_CONTROL)
        welcome = decode(payload, Welcome)
        set_kernel_timeout(sock, 0)
    except (OSError, EOFError, MeshlogError) as failure:
        if sock is not None:
            sock.close()
        late = isinstance(failure, BlockingIOError)  # so the kernel tells that its limit is over
        cause = "no answer in time" if late else f"{type(failure).__name__}: {failure}"
        raise ConnectError(
            f"joining the client at {address.path} failed: {cause}. Check that the process that shows the logs is still "
            f"running, and that the address is passed on unchanged."
        ) from failure
    return Link(sock), welcome
