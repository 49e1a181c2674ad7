"""Authenticates each new connection on a short-lived thread, and accepts or rejects it.

The client thread accepts connections, and never waits for a pending one. The number of pending connections is limited, in all
and per process, and each has a deadline. After a rejection, the listener pauses briefly. So a flood of connections without the
key takes neither the places of others nor the processor.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import queue
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

from ..errors import ClosedError, ProtocolError
from ..protocol.frames import CONTROL, MAX_FRAME
from ..protocol.messages import Hello, Welcome, decode
from ..system.descriptors import is_read_end
from ..system.descriptors_in_flight import DescriptorsInFlight
from ..system.diagnostics import diagnose
from ..system.waits import monotonic
from .channel import HANDSHAKE_SEC, Address, listen, peer_pid, peer_uid, prove, read_frame, set_kernel_timeout

MAX_PENDING: Final = 64
MAX_OF_ONE: Final = 16
"""Pending connections of one process, which needs only one."""

_MAX_OF_OTHER_NAMESPACE: Final = 32  # its processes cannot be distinguished
_MAX_PIPES: Final = 2
_BATCH: Final = 64
_PAUSE_SEC: Final = 0.05  # after a batch with rejected connections
_SILENT_SEC: Final = 2.0
"""At the limit, a connection that has not authenticated for this long gives its place to a new one."""


@dataclass
class NewConnection:
    """A connection that authenticated and sent its Hello message.

    `pid` comes from the kernel. For a process in another namespace it comes from the Hello message instead: `here` is then
    false, and no process of this namespace may be looked up by it.
    """

    sock: socket.socket
    hello: Hello
    pid: int
    here: bool = True
    pipes: dict[str, int] = field(default_factory=dict)


@dataclass
class _PendingConnection:
    """A connection in its handshake: the process, the times of its start and its deadline, whether it authenticated."""

    pid: int | None
    started: float
    deadline: float
    proved: bool = False


class Listener:
    """A Unix socket that listens in a private directory (mode 0700; the socket gets 0600).

    `admit` returns the reply to a new connection. `joined` registers the worker and then sends the reply, so that no worker
    takes itself for joined before. Both are called on the thread of the new connection.
    """

    def __init__(
        self, directory: str, admit: Callable[[NewConnection], Welcome], joined: Callable[[NewConnection, Welcome], None]
    ) -> None:
        self.address = Address(os.path.join(directory, "client.sock"), secrets.token_bytes(32))
        self._admit = admit
        self._joined = joined
        self.sockets = listen(self.address)
        self._lock = threading.Lock()
        self._pending: dict[socket.socket, _PendingConnection] = {}
        self.opens: float | None = None
        self._admitted: dict[socket.socket, list[int]] = {}
        self._in_flight = DescriptorsInFlight()
        self._threads: set[threading.Thread] = set()
        # Python 3.12 and later start no threads after the main module has ended, but children may still join the client then.
        self._waiting: queue.SimpleQueue[socket.socket | None] = queue.SimpleQueue()
        self._spare = threading.Thread(target=self._receive_waiting, name="meshlog-spare-door", daemon=True)
        self._spare.start()

    def accept(self) -> bool:
        """Accept the waiting connections. Client thread only.

        Returns False if none are to be accepted until `opens`: the limit is reached, some were rejected, or no descriptor is
        left. Meanwhile connections wait in the backlog of the kernel.
        """
        self.opens = None
        for listening in self.sockets:
            if not self._accept(listening):
                self.opens = monotonic() + _PAUSE_SEC
        return self.opens is None

    def _accept(self, listening: socket.socket) -> bool:
        all_accepted = True
        for _ in range(_BATCH):
            now = monotonic()
            if not self._has_room(now):
                return False
            try:
                sock, _ = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):  # no connection waits, or it is closed already
                return all_accepted
            except OSError:  # no descriptor is left
                return False
            pid = peer_pid(sock)
            if peer_uid(sock) not in (None, os.getuid()) or not self._may_connect(pid):
                sock.close()
                all_accepted = False
                continue
            with self._lock:
                self._pending[sock] = _PendingConnection(pid, now, now + HANDSHAKE_SEC)
            thread = threading.Thread(target=self._receive, args=(sock,), name="meshlog-door", daemon=True)
            self._threads.add(thread)
            try:
                thread.start()
            except RuntimeError:
                self._threads.discard(thread)
                self._waiting.put(sock)
        return all_accepted

    def _has_room(self, now: float) -> bool:
        """Return whether a connection may be accepted. At the limit, drop the one that has been silent longest, if possible."""
        with self._lock:
            if len(self._pending) < MAX_PENDING:
                return True
            silent = ((each.started, sock) for sock, each in self._pending.items() if not each.proved)
            started, sock = min(silent, default=(now, None), key=itemgetter(0))
            if sock is None or now - started < _SILENT_SEC:
                return False
            del self._pending[sock]
            _shut_down(sock)
            return True

    def _may_connect(self, pid: int | None) -> bool:
        """Return whether a process may have one more pending connection. This one may: it forwards those of other hosts."""
        if pid is None or pid == os.getpid():
            return True
        with self._lock:
            there = sum(each.pid == pid and not each.proved for each in self._pending.values())
        return there < (MAX_OF_ONE if pid else _MAX_OF_OTHER_NAMESPACE)

    def expire(self, now: float) -> None:
        """Shut down the pending connections whose deadline has passed. Client thread only."""
        with self._lock:
            for sock, pending in self._pending.items():
                if now >= pending.deadline:
                    pending.deadline = float("inf")  # its thread removes it
                    _shut_down(sock)

    @property
    def deadline(self) -> float | None:
        """The time at which `expire` or `accept` is to be called next, or None."""
        with self._lock:
            deadlines = [pending.deadline for pending in self._pending.values()]
        return min(deadlines if self.opens is None else [*deadlines, self.opens], default=None)

    def _receive_waiting(self) -> None:
        while (sock := self._waiting.get()) is not None:
            self._receive(sock)

    def _receive(self, sock: socket.socket) -> None:
        pipes: list[int] = []
        try:
            sock.setblocking(True)
            set_kernel_timeout(sock, HANDSHAKE_SEC)
            prove(sock, self.address.key, server=True)
            with self._lock:
                if (pending := self._pending.get(sock)) is None:
                    raise EOFError  # its place was given away meanwhile
                pending.proved = True
            connection = self._receive_hello(sock, pipes)
            welcome = self._admit(connection)
            with self._lock:
                self._admitted[sock] = pipes
                self._pending.pop(sock, None)
            set_kernel_timeout(sock, 0)
            self._joined(connection, welcome)
        except BaseException as failure:
            with self._in_flight.gate:
                self._reject(sock, pipes)
            if not isinstance(failure, (OSError, EOFError, ProtocolError, ClosedError)):
                raise
            # No report for workers that exited during the handshake, or that join after the client was stopped.
            if not isinstance(failure, (EOFError, ConnectionError, ClosedError)):
                diagnose(f"a connection was refused: {type(failure).__name__}: {failure}")
        finally:
            with self._lock:
                self._pending.pop(sock, None)
            self._threads.discard(threading.current_thread())

    def _reject(self, sock: socket.socket, pipes: list[int]) -> None:
        self._in_flight.close(pipes)
        sock.close()
        self._admitted.pop(sock, None)

    def _receive_hello(self, sock: socket.socket, pipes: list[int]) -> NewConnection:
        """Return the new connection; add the descriptors that were sent with the Hello message to `pipes`."""
        kind, payload = read_frame(sock, MAX_FRAME)
        if kind != CONTROL:
            raise ProtocolError(f"unexpected first frame: expected a Hello message (kind {CONTROL}), got kind {kind}")
        hello = decode(payload, Hello)
        kernel_pid = peer_pid(sock)
        connection = NewConnection(sock, hello, kernel_pid or hello.pid, here=kernel_pid != 0)
        names = hello.captured
        if len(set(names)) != len(names) or not set(names) <= {"stdout", "stderr"} or (names and hello.relay):
            raise ProtocolError(f"invalid captured streams: expected stdout and stderr, and none of a relay, got {names!r}")
        if names:
            if not sock.recv(1, socket.MSG_PEEK):
                raise EOFError
            pipes += self._in_flight.take(lambda: _receive_fds(sock, _MAX_PIPES))
            if len(pipes) != len(names) or not all(map(is_read_end, pipes)):
                raise ProtocolError("invalid captured streams: expected the read end of a pipe for each")
            for fd in pipes:
                os.set_blocking(fd, False)
            connection.pipes = dict(zip(names, pipes, strict=True))
        return connection

    def arrived(self, sock: socket.socket) -> None:
        """Record that a new connection has an owner now. Client thread only."""
        self._in_flight.arrive(self._admitted.pop(sock, ()))

    def settle(self) -> None:
        """Wait until the connections that are pending now are accepted or rejected."""
        for thread in tuple(self._threads):
            thread.join(HANDSHAKE_SEC)

    def close(self) -> None:
        """Stop listening, shut down the pending connections, and wait for each of their threads up to `HANDSHAKE_SEC`."""
        for listening in self.sockets:
            listening.close()
        self.expire(float("inf"))
        self._waiting.put(None)
        self.settle()
        self._spare.join(HANDSHAKE_SEC)

    def hang_up(self) -> None:
        """Close the accepted connections that got no owner, when the client thread takes no more. Client thread only."""
        for sock, pipes in tuple(self._admitted.items()):
            self._reject(sock, pipes)

    def forget(self) -> None:
        """In a forked child: close the copies of the sockets and of the connections without an owner."""
        for sock in (*self.sockets, *self._pending, *self._admitted):
            sock.close()
        self._in_flight.forget()


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other end has closed it
        sock.shutdown(socket.SHUT_RDWR)


def _receive_fds(sock: socket.socket, count: int) -> list[int]:
    fds = array.array("i")
    # A program started by another thread inherits none of the descriptors; without the flag, it may for a moment.
    room = socket.CMSG_SPACE(count * fds.itemsize)
    _, ancillary, flags, _ = sock.recvmsg(1, room, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
    for level, kind, rights in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
    if flags & socket.MSG_CTRUNC and len(fds) < count:
        for fd in fds:
            os.close(fd)
        raise OSError(errno.EMFILE, "this process has no file descriptor left for the output of another; raise ulimit -n")
    for fd in fds:
        os.set_inheritable(fd, False)
    return list(fds)
