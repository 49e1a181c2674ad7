"""The channel between a proc and its client: address, key, challenge, and the proc's end of the socket.

A Unix socket, authenticated in both directions by a challenge, as that of ``multiprocessing.connection``. After it, frames;
never a pickle. `multiprocessing` itself is not imported: a worker may join in any thread and right after a fork, where an
import can meet one that another thread has begun.
"""

from __future__ import annotations

import array
import contextlib
import errno
import hmac
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from .. import settings
from ..errors import ConnectError, MeshlogError, ProtocolError, SettingError
from ..journal.layout import Range
from ..protocol.frames import CONTROL, HEAD, MAX_CONTROL, data_head, frame
from ..protocol.messages import Hello, Message, Welcome, decode
from ..system.descriptors import identity
from ..system.waits import capped, deadline_after, monotonic, seconds_until

HANDSHAKE_SEC = 10.0
"""Seconds a stranger has from connecting to being known."""

_SCHEME = "meshlog://"

_MAX_PATH: Final = 103  # bytes, on macOS; 107 on Linux
_DESCRIPTORS: Final = "/proc/self/fd"

_GREETING: Final = b"meshlog 1\n"
_CHALLENGE: Final = 32  # bytes
_DIGEST: Final = 32
_MAX_KEY: Final = 64


class Address(NamedTuple):
    """Where a client listens, and the key that opens its door."""

    path: str
    key: bytes

    def __repr__(self) -> str:
        return f"<Address {self.path}>"  # what is shown by chance, in a log or a traceback, does not have the key

    def __str__(self) -> str:
        return f"{_SCHEME}{self.path}#{self.key.hex()}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address.

        Raises
        ------
        SettingError
            If `text` is none.
        """
        if not isinstance(text, str):
            settings.check_address(text)
        path, _, key = text.removeprefix(_SCHEME).partition("#")
        with contextlib.suppress(ValueError):  # what is no hex is no key: refused below
            if text.startswith(_SCHEME) and os.path.isabs(path) and len(bytes.fromhex(key)) >= 16:
                return cls(path, bytes.fromhex(key))
        # The text is not repeated: it may hold a key.
        raise SettingError(
            "the address is none of a client. Valid: what LogClient.address returns, meshlog:///path/of/socket#key; "
            "pass it on unchanged, or use LogClient.environ()."
        )


@contextlib.contextmanager
def fitting(path: str) -> Iterator[str]:
    """Return `path`, or another of the same socket that fits into a socket's address.

    Raises
    ------
    OSError
        If it is too long, and the system has no short name for its directory.
    """
    if len(os.fsencode(path)) <= _MAX_PATH:
        yield path
        return
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"{_DESCRIPTORS}/{fd}/{name}"
    finally:
        os.close(fd)


def any_length() -> bool:
    """Tell whether a socket's path may be as long as any."""
    return os.path.isdir(_DESCRIPTORS)


def listen(address: Address) -> list[socket.socket]:
    """Return sockets that listen at an address and do not block.

    Beside the one in the directory there is one without a place in the file system, where the system has such sockets: it
    is found when a cleaner of temporary files has removed the directory. Only who knows the key knows its name.
    """
    sockets = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)]
    try:
        with fitting(address.path) as path:
            sockets[0].bind(path)
        os.chmod(address.path, 0o600)  # until here, the directory's mode keeps others out
        if sys.platform == "linux":
            sockets.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sockets[1].bind(_abstract(address))
        for sock in sockets:
            sock.listen(1024)
            sock.setblocking(False)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def dial(address: Address, sock: socket.socket) -> None:
    """Connect a socket with the client at `address`; `OSError` if nobody listens there.

    A backlog that is full for the moment (hundreds of procs starting at once) is tried again. The socket has a timeout in the
    kernel afterwards.
    """
    sock.setblocking(True)  # whatever the program's socket.setdefaulttimeout says
    set_kernel_timeout(sock, HANDSHAKE_SEC)
    try:
        with fitting(address.path) as path:
            _connect(sock, path)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as failure:
        # The directory was removed; or the client, and so this process, gave up the rights to enter it.
        if sys.platform != "linux":
            raise
        try:
            _connect(sock, _abstract(address))
        except ConnectionRefusedError:
            raise failure from None


def _abstract(address: Address) -> str:
    return "\0meshlog-" + _digest(address.key, b"name", os.fsencode(address.path)).hex()


def _connect(sock: socket.socket, path: str) -> None:
    deadline = monotonic() + HANDSHAKE_SEC
    pause = 0.001
    while True:
        try:
            sock.connect(path)
            return
        except BlockingIOError:
            if monotonic() > deadline:
                raise
            time.sleep(pause)
            pause = min(pause * 2, 0.1)


def authenticate(sock: socket.socket, key: bytes) -> socket.socket:
    """Prove to a client that we know the key, and let it prove the same; return the socket, open for frames.

    Raises
    ------
    OSError, EOFError, ProtocolError
        As `prove`.
    """
    prove(sock, key, server=False)
    return sock


def prove(sock: socket.socket, key: bytes, *, server: bool) -> None:
    """Let both ends prove that they know the key: each answers the other's random challenge with a keyed digest.

    ::

        client                                   worker
        greeting, challenge          ------->
                                     <-------    challenge, digest of both challenges
        digest of both challenges    ------->

    The socket must have a timeout in the kernel (see `set_kernel_timeout`): a silent peer ends as an `OSError`.

    Raises
    ------
    OSError, EOFError
        If the peer is silent or hangs up; a client hangs up on a worker that does not know the key.
    ProtocolError
        If the peer does not know the key, or speaks another protocol.
    """
    ours = os.urandom(_CHALLENGE)
    if server:
        sock.sendall(_GREETING + ours)
        theirs = read_exactly(sock, _CHALLENGE)
        _check(read_exactly(sock, _DIGEST), key, b"worker", ours + theirs)
        sock.sendall(_digest(key, b"client", ours + theirs))
    else:
        if read_exactly(sock, len(_GREETING)) != _GREETING:
            raise ProtocolError("it speaks another protocol; do both processes use the same version of meshlog_handler?")
        theirs = read_exactly(sock, _CHALLENGE)
        sock.sendall(ours + _digest(key, b"worker", theirs + ours))
        _check(read_exactly(sock, _DIGEST), key, b"client", theirs + ours)


def _digest(key: bytes, side: bytes, challenges: bytes) -> bytes:
    # The name of the side: nobody can prove anything by sending back what it got.
    # Not by OpenSSL: its digests take locks, and a child that is forked meanwhile would wait for them for ever.
    return blake2b(challenges, key=key[:_MAX_KEY], person=side, digest_size=_DIGEST).digest()


def _check(digest: bytes, key: bytes, side: bytes, challenges: bytes) -> None:
    if not hmac.compare_digest(digest, _digest(key, side, challenges)):
        raise ProtocolError("the other end does not know the key")


def set_kernel_timeout(sock: socket.socket, seconds: float) -> None:
    """Bound every blocking call on the socket, also those made on its bare descriptor. 0 lifts the bound."""
    value = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


def peer_uid(sock: socket.socket) -> int | None:
    """Return the user id at the other end, as the kernel vouches for it; None where it cannot be asked."""
    if hasattr(socket, "SO_PEERCRED"):
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return int(uid)
    return None


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """Read `size` bytes from a blocking socket; `EOFError` if the peer goes before."""
    parts = bytearray()
    while len(parts) < size:
        data = sock.recv(size - len(parts))
        if not data:
            raise EOFError("the other end hung up")
        parts += data
    return bytes(parts)


def read_frame(sock: socket.socket, limit: int) -> tuple[int, bytes]:
    """Read one frame from a blocking socket."""
    size, kind = HEAD.unpack(read_exactly(sock, HEAD.size))
    if not 1 <= size <= limit:
        raise ProtocolError(f"a frame of {size} bytes; 1 to {limit} are allowed")
    return kind, read_exactly(sock, size - 1)


def peer_pid(sock: socket.socket) -> int | None:
    """Return the process at the other end of a Unix socket; 0 if it is in another namespace, None if the system never tells."""
    if hasattr(socket, "SO_PEERCRED"):
        pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return int(pid)
    return None


class Link:
    """A proc's end of the channel.

    `send*` may be called by any thread, `receive` by one. A forked child calls `forget`, and nothing else.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._known = identity(sock.fileno())
        self._sending = threading.Lock()
        self.closed = False

    def send_data(self, piece: Range) -> None:
        """Ship a stretch of the stream. Blocks while the client does not read; `OSError` when it is gone."""
        self._send(data_head(piece.generation, piece.start, len(piece.data)) + piece.data)

    def send(self, kind: int, payload: bytes) -> None:
        """Send one frame. Blocks and raises as `send_data` does."""
        self._send(frame(kind, payload))

    def send_message(self, message: Message) -> None:
        """Send a message."""
        self.send(CONTROL, message.encode())

    def send_last(self, message: Message, timeout: float) -> None:
        """Send a message, or give up after `timeout` seconds: a client that is stopped, and reads nothing, may have it so.

        Whether it was sent whole is not told. Nothing else can be sent after it.
        """
        deadline = deadline_after(timeout)
        if not self._sending.acquire(timeout=capped(timeout)):
            return
        try:
            data = frame(CONTROL, message.encode())
            poll = select.poll()
            with contextlib.suppress(OSError):  # the client went first, or the program has closed the connection
                self._check_intact()
                poll.register(self._sock, select.POLLOUT)
                while data and poll.poll(seconds_until(deadline) * 1000):
                    data = data[self._sock.send(data, socket.MSG_DONTWAIT) :]
        finally:
            self._sending.release()

    @property
    def peer_pid(self) -> int | None:
        """The process of the client, on this machine; None if that is not known."""
        return peer_pid(self._sock) or None if self._sock.family == socket.AF_UNIX else None

    @property
    def intact(self) -> bool:
        """Whether the descriptor is still ours: the program may have closed it, and opened its own in its place."""
        return identity(self._sock.fileno()) == self._known

    @property
    def hung_up(self) -> bool:
        """Whether the client has closed its end. Not known once the program has closed ours: then no."""
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
        """Return the next message, encoded, or None after `timeout` seconds or `LONGEST_SEC`.

        Raises
        ------
        OSError, EOFError
            When the client is gone.
        ProtocolError
            If it sends what no client does.
        """
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        if not poll.poll(capped(timeout) * 1000):
            return None
        self._check_intact()
        kind, payload = read_frame(self._sock, MAX_CONTROL)
        if kind != CONTROL:
            raise ProtocolError(f"a client does not send frames of kind {kind}")
        return payload

    def close(self) -> None:
        """Hang up; a thread that waits in `receive` sees the end."""
        self.closed = True
        with contextlib.suppress(OSError):  # the client was faster, or the program
            self._check_intact()
            self._sock.shutdown(socket.SHUT_RDWR)

    def outlive_exec(self) -> None:
        """Stay open when this process becomes another program: where the kernel does not tell of its end, this does."""
        self._sock.set_inheritable(True)

    def forget(self) -> None:
        """Close this process's copy of the socket; the parent's stays open. Also ends what `close` began."""
        self.closed = True
        if self.intact:
            self._sock.close()
        else:
            self._sock.detach()


def connect(address: Address, hello: Hello, fds: Sequence[int], tunnel: socket.socket | None = None) -> tuple[Link, Welcome]:
    """Join the client at `address`: prove the key, say who this is, hand over the read ends of captured pipes.

    With a `tunnel`, a socket whose other end somebody connects with the client, that is the way.

    Ends after `HANDSHAKE_SEC` seconds at the latest, once per step.

    Raises
    ------
    ConnectError
        If nobody answers there, or the client refuses.
    """
    sock = tunnel if tunnel is not None else socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if tunnel is None:
            dial(address, sock)
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
        sock.close()
        raise ConnectError(
            f"no client can be joined at {address.path} ({type(failure).__name__}: {failure}). Is the process that "
            f"shows the logs still running, and is the address passed on unchanged?"
        ) from failure
    return Link(sock), welcome
