"""Authenticates new connections, and accepts or rejects them. Client thread only.

A connection goes through its handshake in steps, each when bytes have arrived: it costs a descriptor, no thread, and nothing
waits for it. The number of pending connections is limited, in all and per process, and each has a deadline. At the limit, the
process with the most gives one up for a process with fewer. After a rejection, the listener pauses briefly. So a flood of
connections without the key takes neither the places of others nor the processor.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from ..errors import ClosedError, ProtocolError, quoted
from ..protocol.frames import CONTROL
from ..protocol.messages import Hello, Welcome, decode
from ..protocol.relay_messages import Passed, RankGranted
from ..system.descriptors import is_read_end
from ..system.error_reports import Tell
from ..system.waits import monotonic
from .channel import HANDSHAKE_SEC, Address, Steps, challenge, listen, peer_pid, peer_uid, take_frame

MAX_PENDING: Final = 256
"""Connections that have not joined yet."""

MAX_OF_ONE: Final = 16
"""Pending connections of one process, which needs only one."""

MAX_HELLO: Final = 64 * 1024
"""Bytes of a Hello message."""

RANK_SEC = 5.0
"""Seconds that a new worker waits for a rank from the upstream client."""

_MAX_OF_OTHER_NAMESPACE: Final = 128  # its processes cannot be distinguished
_MAX_PIPES: Final = 2
_BATCH: Final = 64
_PAUSE_SEC: Final = 0.05  # after a batch with rejected connections
_SHARE: Final = 0.04
"""The part of a core that a crowd can use here. What it costs to read from its connections, and to close them, comes on top."""

_SILENT_SEC: Final = 2.0
"""At the limit, a connection that has not joined for this long gives its place to a new one."""


@dataclass
class NewConnection:
    """A connection that authenticated and sent its Hello message.

    `known` is what the upstream client has of a worker that resumes.

    `pid` comes from the kernel. For a process in another namespace it comes from the Hello message instead: `here` is then
    false, and no process of this namespace may be looked up by it.
    """

    sock: socket.socket
    hello: Hello
    pid: int
    here: bool = True
    pipes: dict[str, int] = field(default_factory=dict)
    known: Passed | None = None


@dataclass(eq=False)
class _Handshake:
    """A connection that has no owner yet: its process, the time of its start, its deadline, what it sent, what is left to do.

    `complete`: it has sent everything, and waits for its rank or its owner.
    """

    sock: socket.socket
    pid: int | None
    started: float
    deadline: float
    pipes: list[int] = field(default_factory=list)
    complete: bool = False
    steps: Steps[None] | None = None


class Listener:
    """A Unix socket that listens in a private directory (mode 0700; the socket gets 0600).

    Parameters
    ----------
    directory : str
        The private directory.
    key : bytes
        What authenticates a worker.
    identify : Callable[[NewConnection], bool]
        Corrects what a connection says about itself; returns whether its rank has to be claimed.
    claim : Callable
        Asks for a rank, or for what is known of a journal. Its last argument is called with the answer, later and on the
        client's thread; its result withdraws the claim.
    admit : Callable[[NewConnection], Welcome]
        Returns the reply to a new connection.
    joined : Callable[[NewConnection, Welcome], None]
        Registers the worker, calls `arrived`, and then sends the reply, so that no worker takes itself for joined before.
    tell : Tell
        Reports what peers cause.
    """

    def __init__(
        self,
        directory: str,
        *,
        key: bytes,
        identify: Callable[[NewConnection], bool],
        claim: Callable[[str, Callable[[RankGranted], None]], Callable[[], object]],
        admit: Callable[[NewConnection], Welcome],
        joined: Callable[[NewConnection, Welcome], None],
        tell: Tell,
    ) -> None:
        self.address = Address(os.path.join(directory, "client.sock"), key)
        self._identify = identify
        self._claim = claim
        self._admit = admit
        self._joined = joined
        self._tell = tell
        self.sockets = listen(self.address)
        self._register: Callable[[int, Callable[[], None]], None]
        self._unregister: Callable[[int], None]
        self._handshakes: dict[socket.socket, _Handshake] = {}
        self._counts: Counter[int | None] = Counter()  # of pending connections, by process
        self._settling: list[tuple[set[_Handshake], Callable[[], object]]] = []
        self.opens: float | None = None

    def attend(self, register: Callable[[int, Callable[[], None]], None], unregister: Callable[[int], None]) -> None:
        """Set how to be called when a descriptor is readable, and how to undo it. Call it before `accept`."""
        self._register, self._unregister = register, unregister

    @property
    def pending(self) -> int:
        """The number of connections that have not sent everything yet. Any thread."""
        return sum(tuple(self._counts.values()))

    def accept(self) -> bool:
        """Accept the waiting connections.

        Returns False if none are to be accepted until `opens`: the limit is reached, some were rejected, or no descriptor is
        left. Meanwhile connections wait in the backlog of the kernel.
        """
        self.opens = None
        before = time.thread_time()
        accepted = [self._accept(listening) for listening in self.sockets]
        if not all(accepted):
            spent = time.thread_time() - before
            self.opens = monotonic() + max(_PAUSE_SEC, spent / _SHARE)
        return self.opens is None

    def _accept(self, listening: socket.socket) -> bool:
        all_accepted = True
        for _ in range(_BATCH):
            now = monotonic()
            if not self._may_have_room(now):
                return False
            try:
                sock, _ = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):  # no connection waits, or it is closed already
                break
            except OSError:  # no descriptor is left
                return False
            pid = peer_pid(sock)
            if peer_uid(sock) in (None, os.getuid()) and self._make_room(pid, now):
                self._begin(sock, pid, now)
            else:
                sock.close()
                all_accepted = False
        return all_accepted and self.pending < MAX_PENDING

    def _may_have_room(self, now: float) -> bool:
        """Return whether a new connection could be accepted."""
        return self.pending < MAX_PENDING or self._most() > 1 or self._silent(now) is not None

    def _make_room(self, pid: int | None, now: float) -> bool:
        """Return whether a process may have one more pending connection. At the limit, drop one if that is fair."""
        there = self._counts[pid]
        # This process may have many: it forwards those of other hosts.
        exempt = _is_exempt(pid)
        if not exempt and there >= (MAX_OF_ONE if pid else _MAX_OF_OTHER_NAMESPACE):
            return False
        if self.pending < MAX_PENDING:
            return True
        dropped, most = self._silent(now), self._most()
        if most > there + 1 or (exempt and most > 1):
            dropped = next(each for each in self._incomplete() if not _is_exempt(each.pid) and self._counts[each.pid] == most)
        if dropped is None:
            return False
        if _has_bytes(dropped.sock):  # it is not silent: this thread has not read for a while
            self._continue(dropped)
            return self.pending < MAX_PENDING
        self._reject(dropped)
        return True

    def _incomplete(self) -> Iterator[_Handshake]:
        """Yield the pending connections, the oldest first."""
        return (each for each in self._handshakes.values() if not each.complete)

    def _most(self) -> int:
        """Return the number of pending connections of the process with the most."""
        return max((count for pid, count in self._counts.items() if not _is_exempt(pid)), default=0)

    def _silent(self, now: float) -> _Handshake | None:
        """Return the oldest pending connection if it has been pending for too long."""
        oldest = next(self._incomplete(), None)
        return oldest if oldest is not None and now - oldest.started >= _SILENT_SEC else None

    def _complete(self, handshake: _Handshake) -> None:
        """Note that a connection has sent everything, or is closed: it is not pending any more."""
        if not handshake.complete:
            handshake.complete = True
            self._counts[handshake.pid] -= 1
            if not self._counts[handshake.pid]:
                del self._counts[handshake.pid]
            self._unregister(handshake.sock.fileno())

    def expire(self, now: float) -> None:
        """Close the connections whose deadline has passed. Those that wait for their rank join without one."""
        for each in tuple(self._handshakes.values()):
            if now >= each.deadline:
                if each.complete:
                    self._continue(each)
                else:
                    self._reject(each)

    @property
    def deadline(self) -> float | None:
        """The time at which `expire` or `accept` is to be called next, or None."""
        deadlines = [each.deadline for each in self._handshakes.values()]
        return min(deadlines if self.opens is None else [*deadlines, self.opens], default=None)

    # -- the handshake ---------------------------------------------------------------------------------------------

    def _begin(self, sock: socket.socket, pid: int | None, now: float) -> None:
        sock.setblocking(False)
        begun = _Handshake(sock, pid, now, now + HANDSHAKE_SEC)
        begun.steps = self._steps(begun)
        try:
            self._register(sock.fileno(), partial(self._continue, begun))
        except BaseException:
            _close(begun)
            raise
        self._handshakes[sock] = begun
        self._counts[pid] += 1
        self._continue(begun)

    def _continue(self, handshake: _Handshake) -> None:
        """Do the next steps. A failure rejects the connection; it is reported unless the worker ended, or it is too late."""
        if self._handshakes.get(handshake.sock) is not handshake or handshake.steps is None:
            return
        try:
            next(handshake.steps)
        except StopIteration:
            return
        except BaseException as failure:
            if handshake.sock in self._handshakes:
                self._reject(handshake)
            if not isinstance(failure, (OSError, EOFError, ProtocolError, ClosedError)):
                raise
            # No report for workers that exited during the handshake, or that join after the client was stopped.
            if not isinstance(failure, (EOFError, ConnectionError, ClosedError)):
                refused = "a connection was refused"
                self._tell(refused, f"{refused}: {type(failure).__name__}: {failure}")

    def _steps(self, handshake: _Handshake) -> Steps[None]:
        yield from challenge(handshake.sock, self.address.key)
        connection = yield from self._receive_hello(handshake)
        self._complete(handshake)
        if self._identify(connection):
            granted = yield from self._claimed(handshake, connection.hello.resumes)
            if not connection.hello.resumes:
                connection.hello = connection.hello.replaced(rank=None if granted is None else granted.rank)
            elif granted is None:
                raise ClosedError("the upstream client does not answer.")  # the worker tries again
            elif granted.known is not None:
                connection.known = Passed.of(granted.known)
        handshake.deadline = float("inf")
        welcome = self._admit(connection)
        self._joined(connection, welcome)

    def _claimed(self, handshake: _Handshake, journal: str) -> Steps[RankGranted | None]:
        """Return the answer of the upstream client, or None if it has not answered in time."""
        granted: list[RankGranted] = []

        def grant(answer: RankGranted) -> None:
            granted.append(answer)
            self._continue(handshake)

        handshake.deadline = monotonic() + RANK_SEC
        withdraw = self._claim(journal, grant)
        while not granted and monotonic() < handshake.deadline:
            yield
        if not granted:
            withdraw()
        if not granted and not journal:
            no_rank = "the upstream client gave no rank for a new process"
            self._tell(no_rank, f"{no_rank}: it gets a rank above a million, which no other has")
        return granted[0] if granted else None

    def _receive_hello(self, handshake: _Handshake) -> Steps[NewConnection]:
        """Return the new connection; add the descriptors that were sent with the Hello message to those of the handshake."""
        sock, pipes = handshake.sock, handshake.pipes
        kind, payload = yield from take_frame(sock, MAX_HELLO)
        if kind != CONTROL:
            raise ProtocolError(f"unexpected first frame: expected a Hello message (kind {CONTROL}), got kind {kind}")
        hello = decode(payload, Hello)
        kernel_pid = peer_pid(sock)
        connection = NewConnection(sock, hello, kernel_pid or hello.pid, here=kernel_pid != 0)
        names = hello.captured
        if (
            len(set(names)) != len(names)
            or not set(names) <= {"stdout", "stderr"}
            or (names and (hello.relay or hello.observer))
        ):
            raise ProtocolError(
                f"invalid captured streams: expected stdout and stderr, and none of a relay or observer, got {quoted(names)}"
            )
        if names:
            while not pipes:
                try:
                    pipes += _receive_fds(sock, _MAX_PIPES)
                except BlockingIOError:
                    yield
                    continue
                if len(pipes) != len(names) or not all(map(is_read_end, pipes)):
                    raise ProtocolError("invalid captured streams: expected the read end of a pipe for each")
            for fd in pipes:
                os.set_blocking(fd, False)
            connection.pipes = dict(zip(names, pipes, strict=True))
        return connection

    def arrived(self, sock: socket.socket) -> None:
        """Record that a new connection has an owner now, who also owns its pipes."""
        self._handshakes.pop(sock, None)
        self._check_settled()

    def when_settled(self, then: Callable[[], object]) -> None:
        """Call `then` when the connections that are pending now are accepted or rejected."""
        self._settling.append((set(self._handshakes.values()), then))
        self._check_settled()

    def _check_settled(self) -> None:
        if not self._settling:
            return
        left = set(self._handshakes.values())
        done = [then for pending, then in self._settling if pending.isdisjoint(left)]
        self._settling = [(pending, then) for pending, then in self._settling if not pending.isdisjoint(left)]
        for then in done:
            then()

    def _reject(self, handshake: _Handshake) -> None:
        del self._handshakes[handshake.sock]
        try:
            self._complete(handshake)
        finally:
            _close(handshake)
        self._check_settled()

    # -- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop listening, and close the pending connections."""
        for listening in self.sockets:
            listening.close()
        for each in tuple(self._incomplete()):
            self._reject(each)

    def hang_up(self) -> None:
        """Close the accepted connections that got no owner, when the client takes no more."""
        for each in tuple(self._handshakes.values()):
            self._reject(each)

    def forget(self) -> None:
        """In a forked child: close the copies of the sockets and of the connections without an owner."""
        for sock in self.sockets:
            sock.close()
        for each in self._handshakes.values():
            _close(each)


def _is_exempt(pid: int | None) -> bool:
    """Return whether the connections of a process are not counted: it is this process, or the system does not report it."""
    return pid is None or pid == os.getpid()


def _has_bytes(sock: socket.socket) -> bool:
    """Return whether the other end has sent something that was not read, or has closed the connection."""
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _close(handshake: _Handshake) -> None:
    handshake.steps = None  # they refer to the handshake, and would keep it until the garbage collector runs
    handshake.sock.close()
    while handshake.pipes:
        os.close(handshake.pipes.pop())


def _receive_fds(sock: socket.socket, count: int) -> list[int]:
    fds = array.array("i")
    # A program started by another thread inherits none of the descriptors; without the flag, it may for a moment.
    room = socket.CMSG_SPACE(count * fds.itemsize)
    data, ancillary, flags, _ = sock.recvmsg(1, room, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
    if not data:
        raise EOFError("the other end closed the connection")
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
