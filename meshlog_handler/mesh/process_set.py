"""ProcSet: the processes of a mesh, and calls on them.

::

    call(...)  --> outboxes -->  watcher thread  -- one socket a proc -->  proc_main
    MeshFuture <-- settler  <--  watcher thread  <-- answers, ends of processes
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
from ..system.fd_capture import diagnose
from ..system.waits import capped, deadline_after, monotonic, wait_in_parts
from .future import MeshFuture
from .pending_call import PendingCall, refusal
from .pickling import dumps_call
from .proc import ProcHandle
from .process import InheritedFd, Process
from .process_main import Boot, run
from .rpc import CALL, START, STOP, head, name_of
from .start_methods import ProcIdentity, check_start_method
from .supervisor import Supervisor

BOOT_SEC: Final = 120.0
"""Seconds a proc has from its start until it can be called. Its bootstrap has all the time it wants."""

_LARGE: Final = 64 * 1024
_TERMINATE_SEC: Final = 1.0
_KILL_SEC: Final = 5.0


class ProcessSet:
    """The processes of one mesh.

    Any thread may call any method; `start` once. Nothing of it can be used in a forked child.

    Parameters
    ----------
    identities : sequence of Identity
        One for each proc.
    name : str
        Of the mesh, for the names of processes and threads.
    start_method : str or None
        fork, spawn or forkserver; None: forkserver.
    on_exit : Callable[[int, int, int or None], None] or None
        Called with rank, pid and exit code (negative: the signal; None: nobody knows) when a proc has ended, however it
        did. On a thread that must not wait.

    Raises
    ------
    SettingError
        If there is no such start method.
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
        self._held: list[tuple[PendingCall, bytes]] | None = []
        self._started = False
        self._stopping = False
        self._because: BaseException | None = None

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def ranks(self) -> tuple[int, ...]:
        """All ranks, also of procs that ended."""
        return tuple(self._procs)

    @property
    def alive(self) -> tuple[int, ...]:
        """The ranks whose procs were started and have not ended."""
        return tuple(rank for rank, proc in self._procs.items() if proc.pid is not None and proc.end is None)

    @property
    def pids(self) -> dict[int, int]:
        """Process ids by rank, also of procs that ended."""
        return {rank: proc.pid for rank, proc in self._procs.items() if proc.pid is not None}

    def post(self, action: Callable[[], object]) -> None:
        """Run `action`, which must not wait, on the watcher's thread. Takes no lock: a finalizer may call it."""
        self._supervisor.post(action)

    def exitcode(self, rank: int) -> int | None:
        """Return the exit code of a proc that ended (negative: the signal); None if it goes on, or nobody knows."""
        return self._procs[rank].exitcode

    @property
    def forks(self) -> bool:
        """Whether procs are copies of this process: a thread that starts them should know what the others are at."""
        return self._start_method == "fork"

    # -- start -----------------------------------------------------------------------------------------------------

    def launch(self, address: str | None) -> None:
        """Begin to start all procs, as the first part of `start`: on another thread, where that is to be the one that forks.

        Raises
        ------
        RankError, ClosedError
            As `start`; what was started is then to be stopped.
        """
        with self._launching:
            if self._stopping or self._started:
                raise ClosedError("a mesh is started once, before it is stopped.")
            self._started = True
            self._supervisor.start()
            for proc in self._procs.values():
                if self._stopping:
                    break
                proc.pending[START] = self._starting
                self._launch(proc, address)

    def start(self, address: str | None = None, bootstrap: Callable[[], object] | None = None, *, hold: bool = False) -> None:
        """Start all procs, in parallel, and wait until they can be called.

        Parameters
        ----------
        address : str or None
            Of the client they join; None: they join none.
        bootstrap : Callable or None
            Runs in each proc before anything else does.
        hold : bool
            Keep calls back until `release`.

        Raises
        ------
        RankError
            If procs do not come up, or `bootstrap` raises there; it names them. All are stopped then.
        ClosedError
            If `stop` was called meanwhile.
        """
        payload = None if bootstrap is None else dumps_call(bootstrap, (), {})
        booting = PendingCall(next(self._numbers), self.ranks, "its bootstrap")
        try:
            if not self._started:
                self.launch(address)
            self._check_wanted()
            self._wait(self._starting, BOOT_SEC)
            if payload is not None:
                self._send(booting, payload, at_once=True)
                self._wait(booting, None)
        except MeshlogError as error:
            self._check_wanted()
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
            # The server has environment and standard streams of the time when it was started.
            streams = {name: InheritedFd(fd) for name, fd in (("stdout", 1), ("stderr", 2)) if _is_open(fd)}
            boot = Boot(name, proc.identity, address, True, dict(os.environ), **streams)
        try:
            proc.child = Process(self._start_method, run, (InheritedFd(theirs.fileno()), boot), name)
        except OSError as error:
            reason = f"it cannot be started: {type(error).__name__}: {error}"
            raise RankError(f"rank {proc.rank}: {reason}", {proc.rank: reason}) from error
        finally:
            theirs.close()
        self._supervisor.add(proc)
        if self._supervisor.idle.is_set():  # the stop could not wait for this start
            proc.child.send_signal(signal.SIGKILL)

    def _wait(self, call: PendingCall, timeout: float | None) -> None:
        try:
            call.future().get(timeout)
        except TimeoutError:
            late = [rank for rank, proc in self._procs.items() if call.number in proc.pending]
            reasons = {rank: f"its process (pid {self._procs[rank].pid}) is not up after {timeout:g} s" for rank in late}
            raise RankError(
                f"{format_ranks(late)} did not come up within {timeout:g} s. Is this machine overloaded, or does something "
                f"wait that Python imports when it starts?",
                reasons,
            ) from None

    def _check_wanted(self) -> None:
        """Whatever the procs said when they were ended: that they were is why the start has failed."""
        if self._stopping:
            raise ClosedError("the mesh was stopped while it was starting.") from None

    def release(self) -> None:
        """Send the calls that were held back, and from now on every call at once."""
        with self._lock:
            held, self._held = self._held, None
            refused = [(call, self._place(call, payload)) for call, payload in held or ()]
        for call, error in refused:
            if error is not None:
                call.refuse(error)
        self._supervisor.wake()

    # -- calls -----------------------------------------------------------------------------------------------------

    def call(
        self, ranks: Iterable[int], fn: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> MeshFuture[list[Any]]:
        """Run ``fn(*args, **kwargs)`` on ranks, after what was called there before. Never waits.

        Returns
        -------
        MeshFuture
            Of the results, in the order of `ranks`. A rank that raises makes it a `RankError` whose cause is what was
            raised there; one that ends, or has ended, a `RankDied`. It fails when all ranks have answered, or half a
            second after the first that failed: the others go on, but their results are lost.

        Raises
        ------
        TypeError
            If the function or an argument cannot be pickled.
        ClosedError
            If the procs were stopped.
        """
        if self._pid != os.getpid():
            raise ClosedError("this mesh belongs to the process that this one was forked from, and is called from there.")
        call = PendingCall(next(self._numbers), tuple(ranks), f"the call of {name_of(fn)}")
        self._send(call, dumps_call(fn, args, kwargs or {}))
        return call.future()

    def _send(self, call: PendingCall, payload: bytes, *, at_once: bool = False) -> None:
        error = None
        with self._lock:
            if self._stopping and self._because is None:
                raise ClosedError(f"the mesh was stopped: {call.what} is not possible any more. Spawn another.")
            if self._held is None or at_once:
                error = self._place(call, payload)
            else:
                self._held.append((call, payload))
        if error is not None:
            call.refuse(error)
        self._supervisor.wake()

    def _place(self, call: PendingCall, payload: bytes) -> BaseException | None:
        """With the lock held: let the call go to its ranks; or return why it cannot."""
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
        """End all procs. They finish what was called before; who takes too long is terminated, and then killed.

        Never hangs: it takes `timeout` seconds and 6 more at most. Stopping twice is the same as once, and in a forked
        child it does nothing.

        Parameters
        ----------
        timeout : float
            Seconds for the procs to finish and leave by themselves.
        because : BaseException or None
            What calls fail with that have not been sent yet, or come later.
        """
        if self._pid != os.getpid():
            return
        with self._lock:
            first, self._stopping = not self._stopping, True
            if first:
                self._because = because
            held, self._held = self._held, None
        for call, _ in held or ():
            call.refuse(because or ClosedError(f"the mesh was stopped before {call.what} could begin."))
        deadline = deadline_after(timeout)
        launched = self._launching.acquire(timeout=capped(timeout))  # it sees that it is to stop
        try:
            if not self._started:
                self._started = True
                self._supervisor.dispose()
                return
            if first:
                with self._lock:
                    for proc in self._procs.values():
                        if proc.pid is not None and proc.end is None:
                            proc.outbox.append(memoryview(head(STOP, 0, 0)))
        finally:
            if launched:
                self._launching.release()
        self._supervisor.finish()
        self._end(deadline)
        self._supervisor.join(1.0)

    def _end(self, deadline: float) -> None:
        """Wait for the procs to end; with growing insistence after the deadline."""
        idle = self._supervisor.idle
        if wait_in_parts(idle.wait, deadline - monotonic()):
            return
        for number, patience in ((signal.SIGTERM, _TERMINATE_SEC), (signal.SIGKILL, _KILL_SEC)):
            self._supervisor.signal_all(number)
            if idle.wait(patience):
                return
        left = self.alive
        for rank in left:
            # The watcher did so, unless the program closed the descriptors by which it hears.
            child = self._procs[rank].child
            if child is not None:
                child.send_signal(signal.SIGKILL)
        diagnose(f"{format_ranks(left)} could not be ended, even by SIGKILL, in {_KILL_SEC:g} s; they are left alone now")
        self._supervisor.give_up()
        idle.wait(_TERMINATE_SEC)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
