"""The rendezvous: where strangers knock. Each is let in, or turned away, on a short-lived thread of its own.

The client's thread accepts; it never waits for a stranger. Threads are few, and a stranger has a deadline. Of one process
only some are at the door at a time, and where more come, the door is opened a number of times a second: a crowd without the
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
from ..system.fd_capture import diagnose
from ..system.waits import monotonic
from .channel import HANDSHAKE_SEC, Address, listen, peer_pid, peer_uid, prove, read_frame, set_kernel_timeout

MAX_PENDING: Final = 64
MAX_OF_ONE: Final = 16
"""Strangers of one process; it needs one connection."""

_MAX_OF_OTHER_NAMESPACE: Final = 32  # whose processes cannot be told apart
_MAX_PIPES: Final = 2
_BATCH: Final = 64
_SHUT_SEC: Final = 0.05  # after a batch with some that were turned away
_SILENT_SEC: Final = 2.0
"""When the door is full, a place is taken from a stranger who has not proved the key for so long."""


@dataclass
class NewConnection:
    """A proc that proved the key and said who it is.

    `pid` is the kernel's word. Where the proc is in another namespace there is none, and `pid` is only what the proc says:
    `here` is false then, and no process of this namespace is looked up by it.
    """

    sock: socket.socket
    hello: Hello
    pid: int
    here: bool = True
    pipes: dict[str, int] = field(default_factory=dict)


@dataclass
class _PendingConnection:
    """Who is at the door: the process, when it came, until when it may stay; whether it has proved the key."""

    pid: int | None
    came: float
    deadline: float
    proved: bool = False


class Listener:
    """A listening Unix socket in a private directory.

    Parameters
    ----------
    directory : str
        Mode 0700; the socket in it gets 0600.
    admit : Callable[[Newcomer], Welcome]
        Called on the newcomer's thread; returns what to answer.
    joined : Callable[[Newcomer, Welcome], None]
        Called on the newcomer's thread; sends the answer once it knows the proc: no proc believes it has joined before.
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
        # Python 3.12 and later start no thread once the main module has ended, but children that are joined then may join.
        self._waiting: queue.SimpleQueue[socket.socket | None] = queue.SimpleQueue()
        self._spare = threading.Thread(target=self._receive_waiting, name="meshlog-spare-door", daemon=True)
        self._spare.start()

    def accept(self) -> bool:
        """Let those who knock come to the door. Client's thread.

        Returns
        -------
        bool
            False if the door is to be shut until `opens`: it is full, some were turned away, or no descriptor is left.
            Meanwhile those who knock wait in the kernel's queue.
        """
        self.opens = None
        for listening in self.sockets:
            if not self._accept(listening):
                self.opens = monotonic() + _SHUT_SEC
        return self.opens is None

    def _accept(self, listening: socket.socket) -> bool:
        calm = True
        for _ in range(_BATCH):
            now = monotonic()
            if not self._has_room(now):
                return False
            try:
                sock, _ = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):  # nobody is there, or gone again
                return calm
            except OSError:  # no descriptor is left
                return False
            pid = peer_pid(sock)
            if peer_uid(sock) not in (None, os.getuid()) or not self._may_come(pid):
                sock.close()
                calm = False
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
        return calm

    def _has_room(self, now: float) -> bool:
        """Tell whether one more may come; hang up on the one who has been silent for longest, if that makes room."""
        with self._lock:
            if len(self._pending) < MAX_PENDING:
                return True
            silent = ((each.came, sock) for sock, each in self._pending.items() if not each.proved)
            came, sock = min(silent, default=(now, None), key=itemgetter(0))
            if sock is None or now - came < _SILENT_SEC:
                return False
            del self._pending[sock]
            _shut_down(sock)
            return True

    def _may_come(self, pid: int | None) -> bool:
        """Tell whether a process may have one more at the door. This one may: it carries the connections of other hosts."""
        if pid is None or pid == os.getpid():
            return True
        with self._lock:
            there = sum(each.pid == pid and not each.proved for each in self._pending.values())
        return there < (MAX_OF_ONE if pid else _MAX_OF_OTHER_NAMESPACE)

    def expire(self, now: float) -> None:
        """Hang up on strangers who take too long. Client's thread."""
        with self._lock:
            for sock, pending in self._pending.items():
                if now >= pending.deadline:
                    pending.deadline = float("inf")  # its thread takes it out
                    _shut_down(sock)

    @property
    def deadline(self) -> float | None:
        """When `expire` has something to do, or the door opens again; or None."""
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
                    raise EOFError  # its place was taken meanwhile
                pending.proved = True
            connection = self._introduce(sock, pipes)
            welcome = self._admit(connection)
            with self._lock:
                self._admitted[sock] = pipes
                self._pending.pop(sock, None)
            set_kernel_timeout(sock, 0)
            self._joined(connection, welcome)
        except BaseException as failure:
            with self._in_flight.gate:
                self._turn_away(sock, pipes)
            if not isinstance(failure, (OSError, EOFError, ProtocolError, ClosedError)):
                raise
            # Some have gone: they were killed, as a rule. And some come when the client was stopped.
            if not isinstance(failure, (EOFError, ConnectionError, ClosedError)):
                diagnose(f"a process was not let in: {type(failure).__name__}: {failure}")
        finally:
            with self._lock:
                self._pending.pop(sock, None)
            self._threads.discard(threading.current_thread())

    def _turn_away(self, sock: socket.socket, pipes: list[int]) -> None:
        self._in_flight.close(pipes)
        sock.close()
        self._admitted.pop(sock, None)

    def _introduce(self, sock: socket.socket, pipes: list[int]) -> NewConnection:
        """Return who it is; add the descriptors that it hands over to `pipes`."""
        kind, payload = read_frame(sock, MAX_FRAME)
        if kind != CONTROL:
            raise ProtocolError("a newcomer begins with other things than who it is")
        hello = decode(payload, Hello)
        told = peer_pid(sock)
        connection = NewConnection(sock, hello, told or hello.pid, here=told != 0)
        names = hello.captured
        if len(set(names)) != len(names) or not set(names) <= {"stdout", "stderr"} or (names and hello.relay):
            raise ProtocolError(f"no captured streams are called {names!r}")
        if names:
            if not sock.recv(1, socket.MSG_PEEK):
                raise EOFError
            pipes += self._in_flight.take(lambda: _receive_fds(sock, _MAX_PIPES))
            if len(pipes) != len(names) or not all(map(is_read_end, pipes)):
                raise ProtocolError("captured streams that are not the read ends of pipes")
            for fd in pipes:
                os.set_blocking(fd, False)
            connection.pipes = dict(zip(names, pipes, strict=True))
        return connection

    def arrived(self, sock: socket.socket) -> None:
        """Note that a newcomer has an owner. Client's thread."""
        self._in_flight.arrive(self._admitted.pop(sock, ()))

    def settle(self) -> None:
        """Wait for those who stand at the door now."""
        for thread in tuple(self._threads):
            thread.join(HANDSHAKE_SEC)

    def close(self) -> None:
        """Stop listening, hang up on strangers, and wait for their threads, but no longer than a stranger has."""
        for listening in self.sockets:
            listening.close()
        self.expire(float("inf"))
        self._waiting.put(None)
        self.settle()
        self._spare.join(HANDSHAKE_SEC)

    def hang_up(self) -> None:
        """Hang up on those whom the client's thread has not heard of, when it will not any more. Client's thread."""
        for sock, pipes in tuple(self._admitted.items()):
            self._turn_away(sock, pipes)

    def forget(self) -> None:
        """In a forked child: close this copy of the door, and of the connections of those who stand in it."""
        for sock in (*self.sockets, *self._pending, *self._admitted):
            sock.close()
        self._in_flight.forget()


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it hung up itself
        sock.shutdown(socket.SHUT_RDWR)


def _receive_fds(sock: socket.socket, count: int) -> list[int]:
    fds = array.array("i")
    # A program that another thread starts inherits none of them; where the kernel has no such flag, not for long.
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
