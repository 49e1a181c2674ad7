"""ProcessSet: the processes of a mesh, and calls on them.

::

    call(...)  --> outboxes      -->  supervisor thread  -- one socket a proc -->  process_main
    MeshFuture <-- result loader <--  supervisor thread  <-- responses, exits of processes
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from ..errors import ClosedError, MeshlogError, RankError
from ..protocol.ranks import format_ranks
from ..system.diagnostics import diagnose
from ..system.futures import finished
from ..system.waits import capped, deadline_after, monotonic
from .future import MeshFuture
from .identity import ProcIdentity
from .pending_call import PendingCall, refusal
from .pickling import dumps_call
from .proc import ProcHandle
from .process import InheritedFd, Process
from .process_main import Boot, run
from .rpc import CALL, START, STOP, head, name_of
from .start_methods import check_start_method
from .supervisor import Supervisor

BOOT_SEC: Final = 120.0
"""Seconds in which a proc must start. The time for its bootstrap is unlimited."""

_LARGE: Final = 64 * 1024
_TERMINATE_SEC: Final = 1.0
_KILL_SEC: Final = 5.0


class ProcessSet:
    """The processes of one mesh.

    Any thread may call any method; call `start` once. Not usable in a forked child. `on_exit` is called with rank, pid and exit
    code (negative: the signal; None: unknown) when a proc has ended for any reason, on a thread that must not block.
    """

    def __init__(
        self,
        identities: Sequence[ProcIdentity],
        *,
        name: str = "mesh",
        start_method: str | None = None,
        on_exit: Callable[[int, int, int | None], None] | None = None,
    ) -> None:
        self._start_method = check_start_method(start_method)
        self._name = name
        self._pid = os.getpid()
        self._procs = {identity.rank: ProcHandle(identity) for identity in identities}
        self._supervisor = Supervisor(tuple(self._procs.values()), name, on_exit)
        self._lock = self._supervisor.lock
        self._numbers = itertools.count(START + 1)
        self._launching = threading.Lock()
        self._starting = PendingCall(START, self.ranks, "its start")
        self._queued: list[tuple[PendingCall, bytes]] | None = []
        self._started = False
        self._stopping = False
        self._because: BaseException | None = None

    # -- properties ------------------------------------------------------------------------------------------------

    @property
    def ranks(self) -> tuple[int, ...]:
        """All ranks, including those of ended procs."""
        return tuple(self._procs)

    @property
    def alive(self) -> tuple[int, ...]:
        """The ranks whose procs have started and have not ended."""
        return tuple(rank for rank, proc in self._procs.items() if proc.pid is not None and proc.end is None)

    @property
    def pids(self) -> dict[int, int]:
        """Process ids by rank, including those of ended procs."""
        return {rank: proc.pid for rank, proc in self._procs.items() if proc.pid is not None}

    def post(self, action: Callable[[], object]) -> None:
        """Run `action`, which must not block, on the supervisor thread. Takes no lock: a finalizer may call it."""
        self._supervisor.post(action)

    def exitcode(self, rank: int) -> int | None:
        """Return the exit code of an ended proc (negative: the signal); None while it runs, or if it is unknown."""
        return self._procs[rank].exitcode

    @property
    def forks(self) -> bool:
        """Whether procs are forks of this process. The state of its other threads then matters."""
        return self._start_method == "fork"

    # -- start -----------------------------------------------------------------------------------------------------

    def launch(self, address: str | None) -> None:
        """Launch all procs: the first part of `start`, for a caller that must fork on another thread. Raises as `start` does.

        After an error, call `stop` to end the procs that were launched.
        """
        with self._launching:
            if self._stopping or self._started:
                raise ClosedError("the mesh cannot start: it has already been started or stopped.")
            self._started = True
            self._supervisor.start()
            for proc in self._procs.values():
                if self._stopping:
                    break
                proc.pending[START] = self._starting
                self._launch(proc, address)

    def start(self, address: str | None = None, bootstrap: Callable[[], object] | None = None, *, hold: bool = False) -> None:
        """Start all procs in parallel, and wait until they can be called.

        They join the client at `address` (None: no client) and run `bootstrap` before anything else. With `hold`, calls are
        queued until `release`. Raises `RankError` with the failed ranks if procs do not start or `bootstrap` raises; all procs
        are then stopped. Raises `ClosedError` if `stop` is called meanwhile.
        """
        payload = None if bootstrap is None else dumps_call(bootstrap, (), {})
        booting = PendingCall(next(self._numbers), self.ranks, "its bootstrap")
        try:
            if not self._started:
                self.launch(address)
            self._check_not_stopped()
            self._wait(self._starting, BOOT_SEC)
            if payload is not None:
                self._send(booting, payload, at_once=True)
                self._wait(booting, None)
        except MeshlogError as error:
            self._check_not_stopped()
            self.stop(_TERMINATE_SEC, because=error)
            raise
        except BaseException as error:
            self.stop(_TERMINATE_SEC, because=error)
            raise
        if not hold:
            self.release()

    def _launch(self, proc: ProcHandle, address: str | None) -> None:
        ours, theirs = socket.socketpair()
        proc.sock = ours
        name = f"{self._name}-{proc.rank}"
        boot = Boot(name, proc.identity, address, self._start_method != "fork")
        if self._start_method == "forkserver":
            # The environment and the standard streams of the server are those of its start.
            streams = {name: InheritedFd(fd) for name, fd in (("stdout", 1), ("stderr", 2)) if _is_open(fd)}
            boot = Boot(name, proc.identity, address, True, dict(os.environ), **streams)
        try:
            proc.child = Process(self._start_method, run, (InheritedFd(theirs.fileno()), boot), name)
        except OSError as error:
            reason = f"its process cannot be started: {type(error).__name__}: {error}"
            raise RankError(f"rank {proc.rank}: {reason}", {proc.rank: reason}) from error
        finally:
            theirs.close()
        self._supervisor.add(proc)
        if self._supervisor.idle.done():  # `stop` did not wait for this start
            proc.child.send_signal(signal.SIGKILL)

    def _wait(self, call: PendingCall, timeout: float | None) -> None:
        try:
            call.future().get(timeout)
        except TimeoutError:
            late = [rank for rank, proc in self._procs.items() if call.number in proc.pending]
            reasons = {rank: f"its process (pid {self._procs[rank].pid}) has not started after {timeout:g} s" for rank in late}
            raise RankError(
                f"{format_ranks(late)} did not start within {timeout:g} s. Is the machine overloaded, or does a module block "
                f"that Python imports at startup?",
                reasons,
            ) from None

    def _check_not_stopped(self) -> None:
        """Raise `ClosedError` if `stop` was called: it is the reason for all errors of the start."""
        if self._stopping:
            raise ClosedError("the mesh was stopped while it was starting.") from None

    def release(self) -> None:
        """Send the queued calls, and from now on each call immediately."""
        with self._lock:
            queued, self._queued = self._queued, None
            refused = [(call, self._place(call, payload)) for call, payload in queued or ()]
        for call, error in refused:
            if error is not None:
                call.refuse(error)
        self._supervisor.wake()

    # -- calls -----------------------------------------------------------------------------------------------------

    def call(
        self, ranks: Iterable[int], fn: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> MeshFuture[list[Any]]:
        """Run ``fn(*args, **kwargs)`` on ranks, after the earlier calls there. Never blocks.

        The results are in the order of `ranks`. If a rank raises, the error is a `RankError` with that exception as its cause;
        if a rank ends or has ended, a `RankDied`. The future is done when all ranks have responded, or half a second after the
        first failure: the other ranks continue, but their results are lost. Raises `TypeError` if the function or an argument
        cannot be pickled, and `ClosedError` if the procs have been stopped.
        """
        if self._pid != os.getpid():
            raise ClosedError("this mesh belongs to the parent of this forked process. Call it there.")
        call = PendingCall(next(self._numbers), tuple(ranks), f"the call of {name_of(fn)}")
        self._send(call, dumps_call(fn, args, kwargs or {}))
        return call.future()

    def _send(self, call: PendingCall, payload: bytes, *, at_once: bool = False) -> None:
        error = None
        with self._lock:
            if self._stopping and self._because is None:
                raise ClosedError(f"the mesh was stopped: {call.what} is no longer possible. Spawn another.")
            if self._queued is None or at_once:
                error = self._place(call, payload)
            else:
                self._queued.append((call, payload))
        if error is not None:
            call.refuse(error)
        self._supervisor.wake()

    def _place(self, call: PendingCall, payload: bytes) -> BaseException | None:
        """Put the call into the outboxes of its ranks, or return the error that prevents it. The caller holds the lock."""
        if self._because is not None:
            return self._because
        ends = [end for rank in call.ranks if (end := self._procs[rank].end) is not None]
        if ends:
            return refusal(ends, [rank for rank, proc in self._procs.items() if proc.end is None], call.what)
        frame = head(CALL, call.number, len(payload))
        # A large payload is not copied for each rank.
        parts = [frame + payload] if len(payload) < _LARGE else [frame, payload]
        for rank in call.ranks:
            self._procs[rank].pending[call.number] = call
            self._procs[rank].outbox.extend(map(memoryview, parts))
        return None

    # -- stop ------------------------------------------------------------------------------------------------------

    def stop(self, timeout: float = 10.0, *, because: BaseException | None = None) -> None:
        """Stop all procs: they finish earlier calls within `timeout` seconds, then are terminated, then killed.

        Takes at most `timeout` seconds and 6 more. A second call does nothing, nor does one in a forked child. `because` is the
        error of calls that have not been sent, or that come later.
        """
        if self._pid != os.getpid():
            return
        with self._lock:
            first, self._stopping = not self._stopping, True
            if first:
                self._because = because
            queued, self._queued = self._queued, None
        for call, _ in queued or ():
            call.refuse(because or ClosedError(f"the mesh was stopped before {call.what} began."))
        deadline = deadline_after(timeout)
        launched = self._launching.acquire(timeout=capped(timeout))  # `launch` stops early when it sees `_stopping`
        try:
            if not self._started:
                self._started = True
                self._supervisor.close()
                return
            if first:
                with self._lock:
                    self._send_stop()
        finally:
            if launched:
                self._launching.release()
        self._supervisor.finish()
        self._end(deadline)
        self._supervisor.join(1.0)

    def _send_stop(self) -> None:
        for proc in self._procs.values():
            if proc.pid is not None and proc.end is None:
                proc.outbox.append(memoryview(head(STOP, 0, 0)))

    def _end(self, deadline: float) -> None:
        """Wait for the procs to end; after the deadline, send SIGTERM, then SIGKILL."""
        idle = self._supervisor.idle
        if finished(idle, deadline - monotonic()):
            return
        for number, patience in ((signal.SIGTERM, _TERMINATE_SEC), (signal.SIGKILL, _KILL_SEC)):
            self._supervisor.signal_all(number)
            if finished(idle, patience):
                return
        left = self.alive
        for rank in left:
            # The supervisor has done so, unless the program closed the descriptors that wake it up.
            child = self._procs[rank].child
            if child is not None:
                child.send_signal(signal.SIGKILL)
        diagnose(f"still alive {_KILL_SEC:g} s after SIGKILL, and no longer waited for: {format_ranks(left)}")
        self._supervisor.give_up()
        finished(idle, _TERMINATE_SEC)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
